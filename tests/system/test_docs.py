"""The documents are run: every block of code on every page does what it says, every name and link is there."""

import ast
import builtins
import configparser
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import filemailbox
from filemailbox import Mailbox, MailboxError, Message, Reject, Retry, errors
from filemailbox.cli.exit_codes import MEANINGS
from filemailbox.cli.options import Opt, parameters
from filemailbox.cli.verbs import GROUPS, VERBS, find
from filemailbox.format.address import Address
from filemailbox.relay.policy_file import parse_policy
from support import pages, prose
from support.pages import COMMANDS, DOCS, FORMAT, PAGES, README, Block
from support.paths import REPO
from support.terminal import PATIENCE, Terminal

ID = re.compile(r"\d{8}T\d{6}\.\d{9}Z-[0-9a-f]{12}")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
VARIABLE = re.compile(r"\bMAILBOX_[A-Z_]+\b")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(?:Z|\+00:00)")

# Blocks that are not run here, and why. Their syntax is checked all the same.
NOT_RUN = {
    ("README.md", "pip install ."): "it installs; scripts/test-install does that",
    ("guides/agents/mcp.md", "pip install"): "it installs; scripts/setup does that",
    ("README.md", "scripts/demo"): "CI runs both by themselves",
    ("tutorial.md", "docker build"): "it needs a container engine; scripts/test-containers has one",
    ("tutorial.md", "docker volume create"): "it needs a container engine; scripts/test-containers has one",
    ("tutorial.md", "docker run -d"): "it needs a container engine; scripts/test-containers has one",
    ("guides/containers.md", "docker build"): "it needs a container engine; scripts/test-containers has one",
    ("guides/containers.md", "docker volume create"): "it needs a container engine; scripts/test-containers has one",
    ("operate/deploy.md", "install -d"): "it needs systemd, and changes the host",
    ("operate/deploy.md", "* * * * *"): "it is a line of a crontab, and runs until it is removed",
}
CRONTAB = re.compile(r"^(?:\S+ ){5}", re.MULTILINE)  # what stands before the command

# Paths in the pages that would be outside of the test's own folder.
ELSEWHERE = {"guides/relay.md": ("/srv/mail", "/var/lib/mailbox-relay")}

# Options in the pages that every verb has, or other programs have.
OTHERS = {
    *("--help", "--version", "--build-arg", "--entrypoint", "--init", "--network", "--numeric-ids", "--numeric-owner"),
    *("--privileged", "--profile", "--rm", "--rounds", "--short", "--user", "--userns", "--work"),
}


@pytest.fixture
def reader(tmp_path: Path) -> Iterator["Reader"]:
    """Somebody who reads a page from top to bottom and does all of it, in a folder of their own."""
    (tmp_path / "scripts").symlink_to(REPO / "scripts")
    reader = Reader(tmp_path)
    yield reader
    reader.close()


class Reader:
    """Writes the files of a page, and runs its programs and commands, each terminal a shell of its own."""

    def __init__(self, folder: Path) -> None:
        self.patience = PATIENCE
        self._folder = folder
        self._terminals: dict[str, Terminal] = {}
        self._running: dict[str, tuple[Block, str, str]] = {}  # by terminal: a command that goes on until Ctrl-C
        self._programs = 0

    def follow(self, page: Path) -> None:
        for block in pages.blocks(page):
            check_syntax(block)
            if reason(block) is None:
                self._do(block, ELSEWHERE.get(pages.name(page), ()))
        for terminal in list(self._running):
            self._interrupt(terminal)

    def close(self) -> None:
        for terminal in self._terminals.values():
            terminal.close()

    def _do(self, block: Block, elsewhere: tuple[str, ...]) -> None:
        text = block.text
        for path in elsewhere:
            text = text.replace(path, f"{self._folder}{path}")
        if block.language == "console":
            self._type(block, text)
        elif block.title:
            file = self._folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        elif block.language == "python":
            self._run(block, text)
        elif block.language == "sh":
            terminal = self._terminal("")
            terminal.start(f"{text}\necho $?")
            assert terminal.finish().endswith("0\n"), str(block)

    def _run(self, block: Block, program: str) -> None:
        """A program has a root of its own, and prints what its comments say: `# → this`."""
        self._programs += 1
        own = self._folder / f"program-{self._programs}"
        own.mkdir()
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=own,
            env={**environment(), "MAILBOX_ROOT": str(own / "mail")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        wanted = "".join(f"{line}\n" for line in re.findall(r"# → (.*)$", program, re.MULTILINE))

        logged = [line for line in ran.stderr.splitlines() if not line.startswith("mailbox: ")]
        assert logged == [], str(block)  # run() logs its start, and what becomes of the messages
        assert pattern(wanted).fullmatch(plain(ran.stdout)), f"it printed:\n{ran.stdout}\n{block}"

    def _type(self, block: Block, text: str) -> None:
        if block.title in self._running:
            self._interrupt(block.title)
        terminal = self._terminal(block.title)
        for command, wanted in transcript(text):
            terminal.start(command)
            if wanted.endswith("^C\n"):
                self._running[block.title] = (block, command, wanted.removesuffix("^C\n"))
            else:
                said = terminal.finish()
                assert pattern(wanted).fullmatch(plain(said)), f"$ {command}\nprinted:\n{said}\n{block}"

    def _interrupt(self, name: str) -> None:
        block, command, wanted = self._running.pop(name)
        self._terminals[name].shows(lambda text: pattern(wanted).fullmatch(plain(text)))
        said = self._terminals[name].interrupt()
        assert pattern(wanted).fullmatch(plain(said)), f"$ {command}\nprinted, until Ctrl-C:\n{said}\n{block}"

    def _terminal(self, name: str) -> Terminal:
        if name not in self._terminals:
            self._terminals[name] = Terminal(self._folder, environment(), self.patience)
        return self._terminals[name]


@pytest.mark.parametrize("page", [page for page in PAGES if page != FORMAT and pages.blocks(page)], ids=pages.name)
def test_a_page_does_what_it_says(page: Path, reader: Reader) -> None:
    """Files are written, programs run, and each command prints what the page shows; … stands for anything."""
    if missing := [tool for tool in ("jq",) if f"| {tool} " in page.read_text() and shutil.which(tool) is None]:
        pytest.skip(f"this page uses {missing[0]}, which is not here")

    reader.follow(page)


def test_the_programs_pass_a_type_checker(tmp_path: Path) -> None:
    """A reader who copies one into a project of theirs gets no error from mypy."""
    programs = [block for page in PAGES for block in pages.blocks(page) if block.language == "python"]
    for number, program in enumerate(programs):
        (tmp_path / f"program_{number}.py").write_text(f"# {pages.name(program.page)}\n{program.text}")
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--check-untyped-defs", "--cache-dir=.cache", "."],
        cwd=tmp_path,
        env={**environment(), "MYPYPATH": str(Path(filemailbox.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )

    assert len(programs) > 10
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "block",
    [
        pytest.param("```console\n$ echo one\ntwo\n```", id="another output"),
        pytest.param("```console\n$ echo one; echo two\none\n```", id="more output"),
        pytest.param('```console title="1"\n$ echo one; sleep 100\ntwo\n^C\n```', id="another output until Ctrl-C"),
        pytest.param(
            '```console title="1"\n$ echo one\none\n^C\n$ echo two\ntwo\n```', id="it does not go on until Ctrl-C"
        ),
        pytest.param("```console\n$ echo 'one\n```", id="no shell"),
        pytest.param("```python\nprint(1)  # → 2\n```", id="another print"),
        pytest.param("```python\nimport nosuch\n```", id="a program that fails"),
        pytest.param("```sh\nfalse\n```", id="a script that fails"),
        pytest.param("```toml\n[[allow]]\n```", id="no policy"),
        pytest.param("```yaml\na: [\n```", id="no YAML"),
        pytest.param("```ini\n[Unit]\n```", id="no service"),
        pytest.param("```perl\nprint 1\n```", id="a language that is not run"),
    ],
)
def test_a_page_that_is_wrong_is_found(block: str, reader: Reader, tmp_path: Path) -> None:
    """What the reader is there for."""
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{block}\n")
    reader.patience = 2.0

    with pytest.raises((AssertionError, ValueError, SyntaxError, yaml.YAMLError)):
        reader.follow(page)


def test_what_is_not_run_is_on_a_page() -> None:
    """The table has no row that is left over."""
    used = {each for each in NOT_RUN for page in PAGES for block in pages.blocks(page) if reason(block, each)}

    assert used == set(NOT_RUN)


def test_the_first_page_is_short() -> None:
    """README.md has 200 lines at most, and begins with how to install."""
    text = README.read_text()

    assert len(text.splitlines()) <= 200
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[0] == "Install"


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each file is there, and each anchor is a heading of it."""
    for link in pages.links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads to no file"
        assert target.is_relative_to(REPO)
        if anchor:
            assert anchor in pages.anchors(target), f"{link} leads to no heading: {sorted(pages.anchors(target))}"


def test_every_page_is_reached() -> None:
    """From the first one, over links; what the site's menu adds is not needed."""
    reached, todo = {README}, [README]
    while todo:
        page = todo.pop()
        found = {(page.parent / link.partition("#")[0]).resolve() for link in pages.links(page) if "://" not in link}
        todo += [each for each in found - reached if each.suffix == ".md"]
        reached |= found

    assert {pages.name(page) for page in PAGES if page not in reached} == set()


@pytest.mark.parametrize("page", [page for page in PAGES if page != COMMANDS], ids=pages.name)
def test_the_prose_is_plain(page: Path) -> None:
    """By the list of tests/support/prose.py."""
    text = re.sub(r'"[^"\n]*"', '"…"', re.sub(r"`[^`\n]*`", "`…`", pages.prose(page)))

    assert list(prose.faults(text)) == []


def test_bad_prose_is_found() -> None:
    """The list is of use: each of these is a fault, and the sentence that replaces it is none."""
    bad = [
        "The sender is told.",
        "It is read anew.",
        "Whoever reads it, takes it.",
        "What is no mail stays.",
        "x can not",
    ]
    good = [
        "The error is logged.",
        "It is read again.",
        "The reader takes it.",
        "A file that is not mail stays.",
        "What now?",
    ]

    assert [bool(list(prose.faults(each))) for each in bad] == [True] * len(bad)
    assert [list(prose.faults(each)) for each in good] == [[]] * len(good)


# Names


def documented() -> Iterator[tuple[str, str]]:
    """Every piece of code within a sentence, with its page. The changelog names what has gone."""
    for page in PAGES:
        if page.name != "changelog.md":
            yield from ((pages.name(page), text) for text in pages.code(page))


OWNERS: dict[str, Any] = {
    **dict.fromkeys(("box", "Mailbox"), Mailbox),
    **dict.fromkeys(("answer", "dead", "message", "Message"), Message),
}
MEMBERS: dict[Any, set[str]] = {
    Mailbox: {*dir(Mailbox), "root", "name"},
    Message: {*dir(Message), *Message.__slots__, *Message.__annotations__},
}


def test_methods_and_attributes_are_there() -> None:
    """`box.request()`, `message.trust`, `Mailbox.send()`: an object has what a page or its programs say it has."""
    for page, text in documented():
        for owner, attribute in re.findall(rf"\b({'|'.join(OWNERS)})\.(\w+)(?!\.?\w)", text):
            assert attribute in MEMBERS[OWNERS[owner]], f"{page}: `{text}`"
    for block in (block for page in PAGES for block in pages.blocks(page) if block.language == "python"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in OWNERS:
                assert node.attr in MEMBERS[OWNERS[node.value.id]], f"{node.value.id}.{node.attr} in {block}"


def test_keyword_arguments_are_there() -> None:
    """`min_trust=` is a parameter of one of the calls that users make."""
    calls: list[Any] = [Mailbox.__init__, Mailbox.receive, Mailbox.request, Mailbox.run, Mailbox.on, Retry.__init__]
    calls += [Reject.__init__, Message.retry, Message.reject, Message.release]
    known = {name for call in calls for name in inspect.signature(call).parameters}
    known |= set(re.findall(r"^ {8}(\w+)  +\S", inspect.getsource(Mailbox.send), re.MULTILINE))  # as it documents them
    for page, text in documented():
        call = re.fullmatch(r"(?:@?\w+\.)?(?:[A-Z]\w+|[a-z_]+)\((.*)\)|(\w+=\S*)", text)
        for name in re.findall(r"\b([a-z_]+)=", "".join(filter(None, call.groups())) if call else ""):
            assert name in known, f"{page}: `{text}`"


def test_errors_are_there() -> None:
    """The page of errors has all of ours, each under its parents; no page names one that there is not."""
    ours = {
        name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, MailboxError)
    }
    for page, text in documented():
        for name in re.findall(r"\b([A-Z]\w+Error)\b", text):
            assert name in ours or hasattr(builtins, name), f"{page}: `{text}`"
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", (DOCS / "reference/errors.md").read_text(), re.MULTILINE)
    table = {name: set(re.findall(r"`(\w+)`", parents)) for name, parents in rows}

    assert ours.keys() <= table.keys()
    for name, kind in ours.items():
        assert table[name] == {parent.__name__ for parent in kind.__bases__} - {"MailboxError"} or {"MailboxError"}


def test_verbs_and_options_are_there() -> None:
    """`mailbox dead list --as bob` is a verb with options of its own; an option alone is one of some verb."""
    options = {verb: _options(verb) for verb in VERBS}
    shell = [
        (REPO / "scripts" / name).read_text().partition("\nset -eu")[0] for name in ("mailbox-send", "mailbox-recv")
    ]
    every = OTHERS.union(*options.values(), OPTION.findall("".join(shell)))
    for page, text in documented():
        assert set(OPTION.findall(text)) <= every, f"{page}: `{text}`"
        if re.match(r"mailbox [a-z]", text) and page != pages.name(FORMAT):  # its words begin the audit log
            words = text.partition(" -- ")[0].split()[1:]
            verb = next((" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in VERBS), None)
            assert verb or words[0] in GROUPS, f"{page}: `{text}`"
            if verb:
                assert set(filter(OPTION.fullmatch, words)) <= options[verb] | OTHERS, f"{page}: `{text}`"


def _options(verb: str) -> set[str]:
    return {name for each in parameters(find(verb)) if isinstance(each.what, Opt) for name in each.what.names}


def test_files_are_there() -> None:
    """`tests/vectors/`, `scripts/bench peers`: a path of the source, with or without words after it."""
    for page, text in documented():
        for path in re.findall(r"(?:^|\s)((?:tests|scripts|mailbox)/[\w./-]+)", text):
            assert (REPO / path).exists(), f"{page}: `{text}`"
        if tool := re.fullmatch(r"(?:scripts/)?(bench|prove) (\w+)", text):
            assert f'    "{tool[2]}": ' in (REPO / "scripts" / tool[1]).read_text(), f"{page}: `{text}`"


def test_the_keys_of_a_policy_are_all_on_the_page() -> None:
    """A policy that is made of the examples in the table is taken; each key that a policy knows has a row."""
    row = re.compile(r"^\| `(\[+[^`]+\]+)` \| `(\w+)` \|.*\| `([^|]+)` \|$", re.MULTILINE)
    sections: dict[str, list[str]] = {}
    for section, key, example in row.findall((DOCS / "guides/relay.md").read_text()):
        sections.setdefault(section.replace("NAME", "planner"), []).append(f"{key} = {example}")
    other = '[groups]\ncoders = ["coder"]\n[agents.coder]\nvolume = "/srv/mail/coder"\n'
    taken = parse_policy(other + "\n".join("\n".join([section, *keys]) for section, keys in sections.items()))
    known = {
        *type(taken.settings).__dataclass_fields__,
        *type(taken.agents[Address("planner")].limits).__dataclass_fields__,
    }

    assert known <= {key.split(" = ")[0] for keys in sections.values() for key in keys}


def test_variables_are_there() -> None:
    """No page names a MAILBOX_… that nothing reads or sets; the page of them has all that the package reads."""
    package = "".join(path.read_text() for path in (REPO / "mailbox/filemailbox").rglob("*.py"))
    tools = "".join(path.read_text() for path in (REPO / "scripts").iterdir() if path.is_file())
    named = {name for page in PAGES if page.name != "changelog.md" for name in VARIABLE.findall(page.read_text())}
    table = VARIABLE.findall((DOCS / "reference/environment.md").read_text())

    assert {name for name in named if name not in package + tools} == set()
    assert set(re.findall(r'environ(?:\.get\(|\[)"(MAILBOX_\w+)"', package)) <= set(table)


def test_exit_codes_are_those_of_the_help() -> None:
    """The page and the help have the same codes, in the same order."""
    ours = (DOCS / "reference/exit-codes.md").read_text().partition("## Handler")[0]

    assert [int(code) for code in re.findall(r"^\| (\d+) \|", ours, re.MULTILINE)] == [code for code, _ in MEANINGS]


# How a page is read


def environment() -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "NO_COLOR": "1",
    }


def reason(block: Block, row: tuple[str, str] | None = None) -> str | None:
    """Why a block is not run; None where it is."""
    rows = NOT_RUN if row is None else {row: NOT_RUN[row]}
    for (page, begins), why in rows.items():
        if pages.name(block.page) == page and block.text.startswith((begins, f"$ {begins}")):
            return why
    return None


def transcript(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a console, each with the output that is shown."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines(keepends=True)
        length = 1 + next((n for n, line in enumerate(lines[1:]) if not line.startswith("> ")), len(lines) - 1)
        yield "".join([lines[0], *(line[2:] for line in lines[1:length])]).rstrip("\n"), "".join(lines[length:])


def plain(text: str) -> str:
    """Text as a reader sees it: what progress has drawn is erased, ids and times are all alike."""
    text = re.sub(r"[^\n]*\r\x1b\[K", "", text)
    return TIME.sub("TIME", ID.sub("ID", text.expandtabs()))  # ls prints tabs on a terminal


def pattern(text: str) -> re.Pattern[str]:
    """What is shown, as a pattern: … within a line stands for anything, alone on a line for any number of lines."""
    lines = (re.escape(plain(line)).replace("…", ".*") for line in text.splitlines())
    return re.compile("".join("(?:.*\n)*" if line == ".*" else f"{line}\n" for line in lines))


def check_syntax(block: Block) -> None:
    """Whether a block is of its language at all. Raises where it is not."""
    if block.language == "python":
        compile(block.text, pages.name(block.page), "exec")
    elif block.language in ("sh", "console"):
        text = (
            "\n".join(command for command, _ in transcript(block.text)) if block.language == "console" else block.text
        )
        for shell in ("bash",) if block.language == "console" else ("sh", "bash"):
            ran = subprocess.run(
                [shell, "-n"],
                input=CRONTAB.sub("", text) if text.startswith("*") else text,
                text=True,
                capture_output=True,
                check=False,
            )
            assert ran.returncode == 0, f"{ran.stderr}\n{block}"
    elif block.language == "toml":
        tomllib.loads(block.text)
        assert list(parse_policy(block.text).routes())
    elif block.language == "yaml":
        _check_yaml(block)
    elif block.language == "ini":
        unit = configparser.RawConfigParser(strict=False, delimiters=("=",))
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(block.text)
        assert unit.has_option("Service", "ExecStart"), str(block)
    elif block.language == "json":
        assert [json.loads(line) for line in block.text.splitlines()], str(block)
    else:
        assert block.language == "text", f"nothing is known about such blocks:\n{block}"


def _check_yaml(block: Block) -> None:
    document = yaml.safe_load(block.text)
    assert isinstance(document, dict), str(block)
    compose = next(([each, "config", "--quiet"] for each in ("docker-compose",) if shutil.which(each)), None)
    if "services" in document and compose is not None:
        ran = subprocess.run(
            [compose[0], "-f", "-", *compose[1:]],
            input=block.text,
            text=True,
            capture_output=True,
            check=False,
            env={**os.environ, "HOME": "/nonexistent"},
        )
        assert ran.returncode == 0, f"{ran.stderr}\n{block}"
    if "kind" in document:
        assert {"apiVersion", "metadata", "spec"} <= set(document), str(block)
