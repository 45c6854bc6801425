"""Help: one text, kept as golden files; the page of commands is made of it.

MAILBOX_WRITE_HELP=1 scripts/test tests/unit/cli/test_help_pages.py writes them all anew.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox.cli import help_pages
from filemailbox.cli.options import Opt, parameters
from filemailbox.cli.verbs import GROUPS, VERBS, find
from support.pages import COMMANDS
from support.paths import TESTS

GOLDEN = TESTS / "help"
WRITE = bool(os.environ.get("MAILBOX_WRITE_HELP"))


def same(path: Path, text: str) -> bool:
    """Whether *path* says *text*; it does afterwards where that was asked for."""
    if WRITE:
        path.write_text(text)
    return path.read_text() == text


@pytest.mark.parametrize("verb", ["", *GROUPS, *VERBS], ids=lambda verb: verb or "mailbox")
def test_help_is_what_it_was(verb: str) -> None:
    """A golden file for each verb: a change of the interface is seen in a diff."""
    assert same(GOLDEN / f"{verb.replace(' ', '-') or 'mailbox'}.txt", help_pages.text(verb))


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_every_option_and_ends_with_examples(verb: str) -> None:
    """Whoever reads only the end has seen how it is used. No line is wider than a terminal."""
    text = help_pages.text(verb)
    names = [name for each in parameters(find(verb)) if isinstance(each.what, Opt) for name in each.what.names]

    assert all(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) for name in names)
    assert f"\nExamples:\n  mailbox {verb}" in text or f"mailbox {verb}" in text.partition("\nExamples:\n")[2]
    assert all(len(line) <= 88 for line in text.splitlines())
    assert "\n\n\n" not in text


def test_no_golden_file_is_left_of_a_verb_that_has_gone() -> None:
    """The folder holds the help of what there is."""
    known = {f"{verb.replace(' ', '-') or 'mailbox'}.txt" for verb in ("", *GROUPS, *VERBS)}

    assert {path.name for path in GOLDEN.iterdir()} == known


def test_the_reference_page_is_made_of_the_help() -> None:
    """reference/commands.md in the documentation."""
    assert same(COMMANDS, help_pages.page())


@pytest.mark.parametrize(
    "words", [["send", "--help"], ["send", "-h"], ["send", "bob", "--ttl", "x", "--help"], ["dead", "show", "-h"]]
)
def test_help_is_asked_for_anywhere(mailbox: Callable[..., Any], words: list[str]) -> None:
    """It goes to standard output: one may page it."""
    said = mailbox(*words)

    assert (said.code, said.err) == (0, "")
    assert said.out == help_pages.text("dead show" if words[0] == "dead" else "send")


def test_after_two_dashes_it_is_a_word_like_others(mailbox: Callable[..., Any]) -> None:
    """`mailbox send bob -- --help` sends it."""
    assert mailbox("send", "alice", "--", "--help").code == 0
    assert mailbox("receive", "--body", sender="alice").out == "--help\n"


@pytest.mark.parametrize(("words", "shown"), [([], ""), (["dead"], "dead")], ids=["mailbox", "dead"])
def test_without_a_verb_help_is_for_people(mailbox: Callable[..., Any], words: list[str], shown: str) -> None:
    """A script that forgot the verb is told by the exit code, and its data stay clean."""
    said = mailbox(*words)

    assert (said.code, said.out) == (2, "")
    assert said.err == help_pages.text(shown)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param(["recieve"], "did you mean receive", id="a typo"),
        pytest.param(["dead", "lst"], "did you mean dead list", id="a typo in the second word"),
        pytest.param(["xyzzy"], "`mailbox help` lists the verbs", id="nothing near"),
        pytest.param(["hook-me"], "`mailbox help` lists the verbs", id="nothing far-fetched"),
        pytest.param(["inbox"], "`mailbox list` does that", id="inbox"),
        pytest.param(["ls"], "`mailbox list` does that", id="ls"),
        pytest.param(["peek"], "`mailbox list` does that", id="peek"),
        pytest.param(["recv"], "`mailbox receive` does that", id="recv"),
        pytest.param(["poll"], "`mailbox receive` does that", id="poll"),
        pytest.param(["check"], "`mailbox receive` does that", id="check"),
        pytest.param(["history"], "does that", id="history"),
        pytest.param(["dlq"], "`mailbox dead list` does that", id="dlq"),
        pytest.param(["who"], "`mailbox agents` does that", id="who"),
        pytest.param(["delete"], "`mailbox ack` does that", id="delete"),
    ],
)
def test_a_verb_that_does_not_exist_is_told_what_may_be_meant(
    mailbox: Callable[..., Any], words: list[str], told: str
) -> None:
    """Usage errors are exit code 2."""
    said = mailbox(*words)

    assert (said.code, said.out) == (2, "")
    assert told in said.err


@pytest.mark.parametrize(
    ("words", "verb"),
    [(["help"], ""), (["help", "send"], "send"), (["help", "dead"], "dead"), (["help", "dead", "show"], "dead show")],
)
def test_help_is_a_verb_too(mailbox: Callable[..., Any], words: list[str], verb: str) -> None:
    """The first thing that a model tries."""
    said = mailbox(*words)

    assert (said.code, said.out, said.err) == (0, help_pages.text(verb), "")
    assert mailbox("help", "sned").code == 2


def test_version_is_a_verb_too(mailbox: Callable[..., Any]) -> None:
    """And prints what --version prints."""
    assert mailbox("version").out == mailbox("--version").out


def test_every_verb_stands_in_the_overview_once() -> None:
    """In a section of its use."""
    rows = [line.split("  ")[1] for line in help_pages.text().splitlines() if line.startswith("  ")]

    for first in {verb.split()[0] for verb in VERBS}:
        assert sum(row == first or row.startswith(f"{first} ") for row in rows if not row.startswith("mailbox")) >= 1


def test_typer_shows_the_same_help() -> None:
    """Where Typer itself is asked, its help is our text."""
    from typer.main import get_command

    from filemailbox.cli import typer_app

    command = get_command(typer_app.build())
    context = command.make_context("mailbox", ["send"], resilient_parsing=True)

    assert command.get_help(context) == help_pages.text("").rstrip("\n")


def test_the_version_is_told_without_a_root() -> None:
    """`python -m filemailbox` is the command, too."""
    import filemailbox

    command = [sys.executable, "-m", "filemailbox", "--version"]

    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == f"{filemailbox.__version__}\n"
