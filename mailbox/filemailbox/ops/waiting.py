"""The mail in `new/` of one box: what waits and what is deferred, of which types, and how much is sealed.

Only the content of a message shows that its delivery is deferred, so messages are read: the first ones, up to a limit
that keeps a glance at a full box quick. Messages beyond it count as waiting.
"""

import contextlib
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import NotMailError
from ..format.envelope import decode
from ..format.filename import TIMESTAMP_LENGTH, parse_filename
from ..format.order import is_mail
from ..format.times import datetime_ns, parse_time
from ..format.timestamp import to_nanoseconds, to_timestamp
from ..settings import MAX_SIZE
from ..system.as_owner import opened
from ..system.files import READ, close
from ..system.strict_read import strict_read

MAX_READ: Final = 1000
"""Messages that are read."""

_MAX_BYTES: Final = 16 << 20  # bytes that are read, of all messages together


@dataclass(slots=True)
class WaitingMail:
    """The mail in `new/`."""

    names: list[str] = field(default_factory=list)
    """File names of the messages that could be received now."""
    deferred: int = 0
    """Messages whose `deliver_after` has not come."""
    next_due: str | None = None
    """Timestamp of the earliest of these."""
    types: Counter[str] = field(default_factory=Counter)
    """Messages that could be received now, by type: "" has none. Sealed and irregular ones are not counted."""
    sealed: int = 0
    """Sealed messages that could be received now."""


def waiting_mail(new: str, max_read: int = MAX_READ) -> WaitingMail:
    """Return the mail in the folder *new*, nothing changed. Reads *max_read* messages. Raises OSError."""
    found = WaitingMail()
    due = []
    now = time.time_ns()
    with opened(new) as dir_fd:
        names = sorted(filter(is_mail, os.listdir(dir_fd)))
        room = _MAX_BYTES
        for number, name in enumerate(names):
            fields = None
            if number < max_read and room > 0:
                fields, size = _fields(dir_fd, name, min(MAX_SIZE, room))
                room -= size
            when = _deliver_after(fields) if fields is not None else 0
            if when > now:
                due.append(when)
                continue
            found.names.append(name)
            if fields is not None and "sealed" in fields:
                found.sealed += 1
            elif fields is not None:
                kind = fields.get("type")
                found.types[kind if isinstance(kind, str) else ""] += 1
    found.deferred = len(due)
    found.next_due = to_timestamp(min(due)) if due else None
    return found


def oldest(new: str, names: list[str]) -> float | None:
    """Return the age in seconds of the oldest of these messages: by the time in its name, else by its mtime."""
    if not names:
        return None
    ours = [name for name in names if _has_timestamp(name)]
    times = []
    with contextlib.suppress(ValueError):
        times += [to_nanoseconds(min(ours)[:TIMESTAMP_LENGTH])] if ours else []
    for name in names if len(ours) < len(names) else ():
        if not _has_timestamp(name):
            with contextlib.suppress(OSError):
                times.append(os.lstat(f"{new}/{name}").st_mtime_ns)
    return max(0.0, (time.time_ns() - min(times)) / 1e9) if times else None


def ahead(names: list[str]) -> float:
    """Return the seconds by which the newest of these names is ahead of the clock here; 0 if none is."""
    newest = max(filter(_has_timestamp, names), default=None)
    if newest is not None:
        with contextlib.suppress(ValueError):
            return max(0.0, (to_nanoseconds(newest[:TIMESTAMP_LENGTH]) - time.time_ns()) / 1e9)
    return 0.0


def _has_timestamp(filename: str) -> bool:
    return filename[TIMESTAMP_LENGTH - 1 : TIMESTAMP_LENGTH + 1] == "Z-"


def _fields(dir_fd: int, name: str, limit: int) -> tuple[dict[str, Any] | None, int]:
    """Return the envelope in a file, and the bytes that were read; None if it is not complete or not mail."""
    parts = parse_filename(name)
    try:
        fd = os.open(name, READ, dir_fd=dir_fd)
    except OSError:
        return None, 0
    try:
        data, _, refusal = strict_read(fd, limit, parts.size if parts is not None else None)
        return (decode(data) if refusal is None else None), len(data)
    except (OSError, NotMailError):
        return None, 0
    finally:
        close(fd)


def _deliver_after(fields: dict[str, Any]) -> int:
    with contextlib.suppress(TypeError, ValueError, OverflowError, KeyError):
        return datetime_ns(parse_time(fields["deliver_after"]))
    return 0
