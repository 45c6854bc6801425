"""Adds the rest of the source to the site: README.md, FORMAT.md, and the files that pages link to.

Links are written for readers of the source, on a forge or a disk. Here they are turned into links of the site.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

HOME = Path(__file__).resolve().parents[2]
PAGES = "mailbox/docs"
MOVED = {"README.md": "index.md", "mailbox/FORMAT.md": "reference/format.md"}
LINK = re.compile(r"(?<!\!)(\[[^\]]*\])\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_config(config):
    """Put pages that the menu does not name at the end of their section."""
    docs = Path(config.docs_dir)
    for section in config.nav:
        for entries in section.values():
            if isinstance(entries, list):
                named = {path for entry in entries for path in entry.values()}
                folder = docs / posixpath.dirname(next(iter(named)))
                found = {str(path.relative_to(docs)) for path in folder.rglob("*.md")}
                entries.extend(sorted(found - named))
    return config


def on_files(files, config):
    """Add the pages from elsewhere, and the files that pages link to."""
    for source, page in MOVED.items():
        files.append(File.generated(config, page, abs_src_path=str(HOME / source)))
    files.append(File.generated(config, "site.css", abs_src_path=str(HOME / "scripts/site/site.css")))
    linked = {
        target for page in files.documentation_pages() for target in _linked(page) if target.startswith("source/")
    }
    for target in sorted(linked):
        source = HOME / target.removeprefix("source/").removesuffix(".txt")
        if source.is_file():
            files.append(File.generated(config, target, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown, page, **_):
    """Turn links within the source into links within the site."""
    source = _source(page.file)

    def relink(found):
        target = _target(source, found[2])
        return f"{found[1]}({posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or '.')}{found[3] or ''})"

    return LINK.sub(relink, markdown)


def _source(file):
    """Return the path of a page in the source."""
    return next((source for source, page in MOVED.items() if page == file.src_uri), f"{PAGES}/{file.src_uri}")


def _linked(file):
    return [_target(_source(file), link) for _, link, _ in LINK.findall(Path(file.abs_src_path).read_text())]


def _target(source, link):
    """Return the page or file of the site that a link in *source* means."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if path in MOVED:
        return MOVED[path]
    return posixpath.relpath(path, PAGES) if path.startswith(f"{PAGES}/") else f"source/{path}.txt"
