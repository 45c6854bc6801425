"""Text for people: tables, times, and names and bodies that are safe to print."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from ..format import codec
from ..format.envelope import escape_invisible
from ..format.wording import duration_text

if TYPE_CHECKING:
    from datetime import datetime

    from ..receive.message import Message

_UNSAFE: Final = (
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
_PATIENCE: Final = 0.5  # seconds after which a person wants to see that something happens
_FRAME: Final = 0.1  # seconds between two pictures of how far it is
_DUMB: Final = 5.0  # the same, where each picture is a line more


class _JsonErrors:
    """Switch: errors are printed as a line of JSON each, because the command was called with --json."""

    enabled = False


json_errors: Final = _JsonErrors()


def error(error: BaseException | str) -> None:
    """Print an error on standard error: the sentence and its hint; with --json, as a line of JSON."""
    if json_errors.enabled:
        from .exit_codes import of_error

        exception = error if isinstance(error, BaseException) else None
        record = {
            "error": str(error),
            "hint": getattr(error, "hint", None),
            "type": type(error).__name__ if exception is not None else "UsageError",
            "code": of_error(exception) if exception is not None else 2,
        }
        print(json(record).decode(), end="", file=sys.stderr)
        return
    print(f"mailbox: {escape(str(error))}", file=sys.stderr)
    if hint := getattr(error, "hint", None):
        print(f"hint: {escape(hint)}", file=sys.stderr)


def info(text: str) -> None:
    """Say on standard error what was done."""
    print(escape(text), file=sys.stderr)


def escape(text: str) -> str:
    """*text* without what would move the cursor, hide or reorder it: such characters are shown escaped."""
    if text.isascii() and text.isprintable():
        return text
    return re.sub(_UNSAFE, lambda match: f"\\u{{{ord(match[0]):x}}}", text)


def one_line(value: Any, room: int = 0) -> str:
    """A body, or any text, on one line; cut to *room* columns where that is given."""
    text = value if isinstance(value, str) else codec.dumps(value).decode()
    if room:
        text = text[: 8 * room]  # a body may be a megabyte long
    text = escape(" ".join(text.split()))
    return truncate(text, room) if room else text


def body(value: Any) -> str:
    """A body to read: text as it is, other JSON indented."""
    return escape(value if isinstance(value, str) else codec.dumps(value, None, codec.INDENT).decode())


def ago(when: datetime) -> str:
    """Return the time since *when*, or until *when*, in one unit."""
    from datetime import UTC, datetime

    seconds = (datetime.now(UTC) - when).total_seconds()
    return f"{duration_text(seconds)} ago" if seconds >= 0 else f"in {duration_text(-seconds)}"


def exact(when: datetime) -> str:
    """A time for programs: RFC 3339, UTC, microseconds."""
    from datetime import UTC

    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def when(moment: datetime) -> str:
    """A time: relative for people, exact for programs."""
    return ago(moment) if is_tty() else exact(moment)


def state_of(message: Message[Any]) -> tuple[str, datetime | None]:
    """Return the word for the state of a message, and the time at which it is due if it is deferred.

    The time counts, not the folder: `new/` may hold mail that is not due yet, and `later/` mail that is.
    """
    from datetime import UTC, datetime

    from ..store.state import State

    now = datetime.now(UTC)
    if message.state == State.NEW and message.deliver_after is not None and message.deliver_after > now:
        return State.DEFERRED.word, message.deliver_after
    if message.state == State.DEFERRED:
        return (State.DEFERRED.word, message.due) if message.due and message.due > now else (State.NEW.word, None)
    return next((each.word for each in State if each.value == message.state), message.state), message.due


def record(message: Message[Any], **more: Any) -> bytes:
    """Return a message as one line of JSON, *more* before its body."""
    values = message.as_dict()
    body = values.pop("body")
    word, due = state_of(message)
    values.pop("due", None)
    times = {"due": exact(due)} if due is not None else {}
    return json({**values, "state": word, **times, **more, "body": body})


def json(value: Any) -> bytes:
    """Return one line of JSON that is safe to print on a terminal."""
    return escape_invisible(codec.dumps(value, None, codec.LINE | codec.UTC_Z))


def write(data: bytes) -> None:
    """*data* on standard output, as it is, at once."""
    sys.stdout.flush()
    view = memoryview(data)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], nothing: str = "", hidden: str = "") -> None:
    """Aligned columns as wide as the terminal, the last one cut; into a pipe, tabs and no head.

    For people, a table without rows is the sentence *nothing*, on standard error, and the column *hidden* is left out
    if it is the same word in all rows as its default, `none`.
    """
    if not is_tty():
        for row in rows:
            print("\t".join(row))
        return
    lines = [list(head), *map(list, rows)]
    if len(lines) == 1:
        empty(nothing)
        return
    if hidden in head and all(line[head.index(hidden)] == "none" for line in lines[1:]):
        for line in lines:
            del line[head.index(hidden)]
    widths = [max(width(row[column]) for row in lines) for column in range(len(lines[0]))]
    room = columns() - sum(widths[:-1]) - 2 * (len(lines[0]) - 1)
    for number, row in enumerate(lines):
        row[-1] = truncate(row[-1], max(room, 8))
        text = "  ".join(cell + " " * (size - width(cell)) for cell, size in zip(row, widths, strict=True)).rstrip()
        text = truncate(text, columns())
        print(dim(text) if number == 0 else text)


def empty(nothing: str) -> None:
    """Print the sentence *nothing* on standard error, for people: a program sees an empty output."""
    if nothing and is_tty():
        info(nothing)


def width(text: str) -> int:
    """Return the number of columns that *text* takes on a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(sign) else 2 if east_asian_width(sign) in "WF" else 1 for sign in text)


def truncate(text: str, room: int) -> str:
    """Return *text* in at most *room* columns; … replaces the rest."""
    if width(text) <= room:
        return text
    kept = text[: max(0, room - 1)]
    while width(kept) > max(0, room - 1):
        kept = kept[:-1]
    return kept + "…"


def columns() -> int:
    """The width of the terminal."""
    said = os.environ.get("COLUMNS", "")
    if said.isascii() and said.isdigit() and int(said) > 0:
        return int(said)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def is_tty() -> bool:
    """Return True if standard output is a terminal."""
    return sys.stdout.isatty()


def dim(text: str) -> str:
    """*text* in grey, where colours are wanted."""
    return _painted(text, "2")


def bold(text: str) -> str:
    """*text* stressed, where colours are wanted."""
    return _painted(text, "1")


def _painted(text: str, how: str) -> str:
    wanted = is_tty() and not os.environ.get("NO_COLOR") and (os.environ.get("TERM") or "dumb") != "dumb"
    return f"\x1b[{how}m{text}\x1b[0m" if wanted else text


class Progress:
    """The progress of long work, on standard error: on a terminal only, and only after half a second."""

    def __init__(self, doing: str, total: int | None = None) -> None:
        self._doing, self._total, self._done = escape(doing), total, 0
        self._shown = False
        self._over: Any = None
        if sys.stderr is not None and sys.stderr.isatty():
            import threading  # a single call may be what is slow: another thread must paint

            self._over, self._guard = threading.Event(), threading.Lock()
            threading.Thread(target=self._run, daemon=True).start()

    def step(self, doing: str | None = None) -> None:
        """One more is done; *doing* is what comes now."""
        self._done += 1
        self._doing = escape(doing) if doing else self._doing

    def aside(self, write: Callable[[], object]) -> None:
        """Let *write* print something, to the same terminal perhaps."""
        if self._over is None:
            write()
            return
        with self._guard:
            self._clear()
            write()
            sys.stdout.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._over is not None:
            with self._guard:
                self._over.set()
                self._clear()

    def _run(self) -> None:
        dumb = (os.environ.get("TERM") or "dumb") == "dumb"
        pause = _PATIENCE
        while not self._over.wait(pause):
            pause = _DUMB if dumb else _FRAME
            with self._guard:
                if not self._over.is_set():
                    self._paint(dumb)

    def _paint(self, dumb: bool) -> None:
        of = f" of {self._total}" if self._total else ""
        text = f"{self._doing} … {self._done}{of}"
        if dumb:  # nothing can be overwritten there
            print(text, file=sys.stderr)
            return
        self._shown = True
        print(f"\r\x1b[K{truncate(text, columns() - 1)}", end="", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._shown:
            self._shown = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
