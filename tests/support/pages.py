"""The pages of the documentation: which there are, their blocks of code, their links and their headings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.paths import REPO

DOCS = REPO / "mailbox" / "docs"
README = REPO / "README.md"
FORMAT = REPO / "mailbox" / "FORMAT.md"
COMMANDS = DOCS / "reference" / "commands.md"
PAGES = [README, FORMAT, *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r'^( *)```(\w+)(?: title="([^"]+)")?\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the title that a file or a terminal has, and its text."""

    page: Path
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}: {self.language} {self.title}".rstrip() + f"\n{self.text}"


def name(page: Path) -> str:
    """The path of a page as people write it: from the documentation's folder, or from the project's."""
    folder = next((each for each in (DOCS, REPO) if page.is_relative_to(each)), page.parent)
    return str(page.relative_to(folder))


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(page, *found[1:]) for found in _FENCE.findall(page.read_text())]


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return _FENCE.sub("", page.read_text())


def code(page: Path) -> Iterator[str]:
    """The words of a page that are set as code within a sentence."""
    yield from re.findall(r"`([^`\n]+)`", prose(page))


def links(page: Path) -> list[str]:
    """The targets of a page's links."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as a forge and the site make them."""
    headings = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(prose(page)))
    return {heading.strip().replace(" ", "-") for heading in headings}
