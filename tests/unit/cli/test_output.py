"""Text for people: what a terminal is shown, and what it is spared."""

import io
import os
import pty
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemailbox import Mailbox
from filemailbox.cli import output

HOSTILE = "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202eevil\u200b \x08\x08 \r overwritten \u2066x"
FORBIDDEN = [
    *(chr(code) for code in range(32) if chr(code) not in "\t\n"),
    *(chr(code) for code in range(0x7F, 0xA0)),
    *"\u200b\u200e\u202a\u202e\u2066\u2069\ufeff\u2028",
]


class Terminal:
    """A terminal of some size, on which a command runs."""

    def __init__(
        self, root: Path, *words: str, columns: int = 80, environment: Mapping[str, str] | None = None
    ) -> None:
        self.master, slave = pty.openpty()
        ioctl(slave, TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "filemailbox", *words],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            env={
                "PYTHONPATH": os.pathsep.join(sys.path),
                "MAILBOX_ROOT": str(root),
                "MAILBOX_AGENT": "bob",
                "TERM": "xterm",
                **(environment or {}),
            },
        )
        os.close(slave)

    def text(self) -> str:
        """All that it showed, once it has ended."""
        data = b""
        while select.select([self.master], [], [], 20)[0]:
            try:
                piece = os.read(self.master, 65536)
            except OSError:  # Linux says so when the other side is gone
                break
            if not piece:
                break
            data += piece
        os.close(self.master)
        self.process.wait(20)
        return data.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    """Without our own grey and bold."""
    return text.replace("\x1b[2m", "").replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_a_list_on_a_terminal_is_as_wide_as_it(root: Path, bob: Mailbox) -> None:
    """Aligned, with a head, times relative, ids short, the last column cut."""
    bob.send("bob", "x" * 300, type="a-type")
    bob.send("bob", {"n": 1})
    lines = plain(Terminal(root, "list", columns=60).text()).splitlines()

    assert lines[0].split()[0] == "ID"
    assert len(lines) == 3
    assert max(map(len, lines)) == 60
    assert lines[1].endswith("…")
    assert "s ago" in lines[1]
    assert lines[1].split()[0] == next(bob.peek()).id[16:25]


def test_an_empty_list_is_empty(root: Path, bob: Mailbox) -> None:
    """No head above nothing, and a sentence for people alone."""
    assert plain(Terminal(root, "list").text()).startswith("bob: no mail")
    assert plain(Terminal(root, "receive").text()) == "bob: no mail\n"
    assert plain(Terminal(root, "dead", "list").text()) == "bob: no dead letters\n"


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--all"],
        ["list", "--all", "--json"],
        ["read", "x"],
        ["read", "x", "--body"],
        ["read", "x", "--raw"],
        ["receive"],
        ["receive", "--json"],
    ],
    ids=" ".join,
)
def test_nothing_hostile_reaches_the_terminal(root: Path, bob: Mailbox, words: list[str]) -> None:
    """Escapes, control and reordering characters, in every part of a message and in its name, are shown as text."""
    document = dict.fromkeys(("from", "to", "type", "subject", "thread", "body"), HOSTILE)
    (root / "bob" / "new" / "x\x1b[31m\u202e.json").write_bytes(orjson.dumps({**document, HOSTILE: 1}))
    said = plain(Terminal(root, *words, columns=200).text())

    assert [sign for sign in FORBIDDEN if sign in said] == []
    assert "red" in said
    assert "title" in said


def test_a_long_body_is_cut_for_a_person_and_says_so(root: Path, bob: Mailbox) -> None:
    """A megabyte would push away who sent it. What was asked for alone is shown whole."""
    bob.send("bob", "x" * 50_000)
    said, whole = (Terminal(root, "read", "Z", *words).text().replace("\r\n", "\n") for words in ([], ["--body"]))

    assert "x" * 10_000 + "\n" in said
    assert "40000 characters more: --body prints them all" in said
    assert whole == "x" * 50_000 + "\n"


def test_hostile_errors_are_shown_as_text(root: Path, bob: Mailbox) -> None:
    """What was typed comes back in the complaint."""
    said = Terminal(root, "read", HOSTILE).text() + Terminal(root, "send", HOSTILE, "x").text()

    assert [sign for sign in FORBIDDEN if sign in said] == []


def test_a_reason_written_by_others_is_shown_as_text(root: Path, bob: Mailbox) -> None:
    """The notes beside dead letters quote what commands said."""
    bob.send("bob", 1)
    message = bob.receive()
    assert message is not None
    message.reject(HOSTILE.replace("\r", ""), HOSTILE)
    said = plain(Terminal(root, "dead", "show", message.id).text() + Terminal(root, "dead", "list").text())

    assert [sign for sign in FORBIDDEN if sign in said] == []


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}], ids=str)
def test_colours_are_left_out_where_they_are_not_wanted(root: Path, bob: Mailbox, environment: dict[str, str]) -> None:
    """NO_COLOR, and terminals that know none."""
    bob.send("bob", 1)

    assert "\x1b" in Terminal(root, "list").text()
    assert "\x1b" not in Terminal(root, "list", environment=environment).text()


def test_doctor_on_a_terminal_says_that_all_is_well(root: Path) -> None:
    """And marks what is not."""
    assert Terminal(root, "doctor").text().startswith("no problems found\n")

    (root / "bob" / "new").chmod(0o700)
    ill = plain(Terminal(root, "doctor").text())
    assert "✗ bob: its new/ has the mode 0700" in ill
    assert "(--fix fixes it)" in ill


def test_ctrl_c_is_no_traceback(root: Path, until: Callable[..., None]) -> None:
    """Exit code 130, as of a shell."""
    terminal = Terminal(root, "wait")
    until(lambda: list((root / "bob" / "run").iterdir()))  # its bell hangs: it waits
    os.kill(terminal.process.pid, signal.SIGINT)

    assert terminal.text() == ""
    assert terminal.process.returncode == 130


@given(st.text())
def test_what_is_safe_has_nothing_that_moves_or_hides(text: str) -> None:
    """Whatever it was. Text without such characters stays as it is."""
    said = output.escape(text)

    assert not any(sign in said for sign in FORBIDDEN)
    assert said == text or any(sign in text for sign in FORBIDDEN) or not text.isprintable()


@given(st.text(), st.integers(1, 30))
def test_what_is_cut_fits(text: str, room: int) -> None:
    """Wide characters take two columns."""
    assert output.width(output.truncate(output.one_line(text), room)) <= room


@pytest.mark.parametrize(
    ("text", "columns"),
    [("abc", 3), ("日本", 4), ("é", 1), ("e\u0301", 1), ("", 0)],
    ids=["ascii", "wide", "one", "two", "none"],
)
def test_a_text_has_a_width(text: str, columns: int) -> None:
    """In columns, not in characters."""
    assert output.width(text) == columns


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.4, "0 s ago"),
        (59, "59 s ago"),
        (119, "119 s ago"),
        (120, "2 min ago"),
        (7200, "2 h ago"),
        (200000, "2 d ago"),
        (-3700, "in 61 min"),
    ],
)
def test_times_are_told_in_one_unit(seconds: float, told: str) -> None:
    """For people; programs get exact ones."""
    assert output.ago(datetime.now(UTC) - timedelta(seconds=seconds)) == told


class Screen(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown_at_once(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Such a screen, on which progress is shown without delay. Not a fixture: pytest sets sys.stderr after those."""
    there = Screen()
    monkeypatch.setattr(sys, "stderr", there)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(output, "_PATIENCE", 0)
    monkeypatch.setattr(output, "_FRAME", 0.001)
    return there


def test_progress_is_shown_while_a_single_call_takes_long(
    until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done, how much of it, and nothing hostile; at the end the line is empty."""
    screen = shown_at_once(monkeypatch)
    with output.Progress("sweeping", 3) as progress:
        progress.step("sweeping \x1b[31mbob")
        until(lambda: "\r\x1b[Ksweeping \\u{1b}[31mbob … 1 of 3" in screen.getvalue())

    assert screen.getvalue().endswith("\r\x1b[K")
    assert "\x1b[31m" not in screen.getvalue()


def test_output_stands_on_lines_of_its_own(until: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both go to one terminal."""
    screen = shown_at_once(monkeypatch)
    with output.Progress("sweeping") as progress:
        until(screen.getvalue)
        progress.aside(lambda: screen.write("<output>\n"))
    before, _, _ = screen.getvalue().partition("<output>\n")

    assert before.endswith("\r\x1b[K")


def test_progress_is_not_shown_before_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything cleared then."""
    screen = shown_at_once(monkeypatch)
    monkeypatch.setattr(output, "_PATIENCE", 3600)
    with output.Progress("sweeping") as progress:
        progress.step()
        progress.aside(lambda: None)

    assert screen.getvalue() == ""


def test_progress_is_never_shown_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs are read, too."""
    screen = shown_at_once(monkeypatch)
    monkeypatch.setattr(screen, "isatty", lambda: False)
    with output.Progress("sweeping") as progress:
        progress.step()
        progress.aside(lambda: None)

    assert screen.getvalue() == ""


def test_progress_on_a_dumb_terminal_is_a_line_now_and_then(
    until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is overwritten there."""
    screen = shown_at_once(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(output, "_DUMB", 0.001)
    with output.Progress("sweeping"):
        until(lambda: screen.getvalue().startswith("sweeping … 0\nsweeping … 0\n"))

    assert "\x1b" not in screen.getvalue()


def test_the_width_is_that_of_the_terminal_or_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 where nobody knows."""
    monkeypatch.setenv("COLUMNS", "33")
    assert output.columns() == 33

    monkeypatch.setenv("COLUMNS", "wide")
    assert output.columns() == 80


def test_json_that_is_looked_at_is_the_same_json() -> None:
    """Only written otherwise."""
    line = output.json({"a": HOSTILE})

    assert [sign for sign in FORBIDDEN if sign in line.decode() and sign != "\n"] == []
    assert orjson.loads(line) == {"a": HOSTILE}
