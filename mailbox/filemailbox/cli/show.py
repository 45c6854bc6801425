"""Text for people: tables, times, and names and bodies that are safe to print."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from ..message import Message

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def complain(error: BaseException | str) -> None:
    """Say on standard error what went wrong."""
    print(f"mailbox: {safe(str(error))}", file=sys.stderr)


def safe(text: str) -> str:
    """*text* without what would move the cursor, hide or reorder it: such characters are shown escaped."""
    return _UNSAFE.sub(lambda match: f"\\u{{{ord(match[0]):x}}}", text)


def line(value: Any, width: int = 0) -> str:
    """A body, or any text, on one line; cut to *width* where that is given."""
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    text = safe(" ".join(text.split()))
    return text if not width or len(text) <= width else text[: max(0, width - 1)] + "…"


def body(value: Any) -> str:
    """A body to read: text as it is, other JSON indented."""
    return safe(value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def ago(when: datetime) -> str:
    """How long ago, or in how long, in one unit."""
    seconds = (datetime.now(UTC) - when).total_seconds()
    size = abs(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if size >= length or unit == "s":
            number = f"{int(size // length)} {unit}"
            return f"{number} ago" if seconds >= 0 else f"in {number}"
    raise AssertionError


def record(message: Message[Any]) -> bytes:
    """A message as one line of JSON: its envelope, and what this box knows of it."""
    members = {member: value for member, value in message.members.items() if member != "body"}
    members |= {"id": message.id, "trust": message.trust, "state": message.state, "attempt": message.attempt}
    if message.due is not None:
        members["due"] = message.due
    if message.problem is not None:
        members["problem"] = message.problem
    members["body"] = message.body
    return orjson.dumps(members, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns as wide as the terminal, the last one cut; into a pipe, tabs and no head."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    lines = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in lines) for column in range(len(head))]
    room = columns() - sum(widths[:-1]) - 2 * (len(head) - 1)
    for number, row in enumerate(lines):
        row[-1] = line(row[-1], max(room, 10))
        text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(dim(text) if number == 0 else text)


def columns() -> int:
    """The width of the terminal."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def dim(text: str) -> str:
    """*text* in grey, where colours are wanted."""
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[2m{text}\x1b[0m" if wanted else text
