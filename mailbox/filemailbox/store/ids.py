"""Message ids: strictly rising within a writer, unique across writers."""

from __future__ import annotations

import os
import time
from _thread import _local as local  # what threading has; which takes longer to import than a message to send

from ..format.filename import Filename, parse_filename, split_timed, stem_of, timed_filename
from ..format.timestamp import clock_text, known_clocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass


def with_fresh_id(text: str) -> str:
    """*text*, with or without a due time, under a fresh id: the old name is kept as `N=`; other fields are, too."""
    due, name = split_timed(text) or ("", text)
    parts = parse_filename(name) or Filename("")
    fresh = str(parts.replace(id=new_id(), stem=stem_of(name)))
    return timed_filename(due, fresh) if due else fresh


def timestamp_now() -> str:
    """The clock as a stamp."""
    digits = str(time.time_ns()).zfill(10)  # cut, not counted: a number that is formatted takes three times as long
    second = digits[:-9]
    return f"{known_clocks.get(second) or clock_text(second)}{digits[-9:]}Z"


class _Writer:
    """A source of ids, for one thread of one process."""

    __slots__ = ("last", "tail")

    def __init__(self) -> None:
        self.tail = f"Z-{os.urandom(6).hex()}"
        self.last = 0


class _Mine(local):
    def __init__(self) -> None:
        self.writer = _Writer()


_mine = _Mine()


def new_id() -> str:
    """A new id from this thread's writer, later than all that it has given out.

    A fork gives the child a writer of its own.
    """
    writer = _mine.writer
    now = time.time_ns()
    if now <= writer.last:
        now = writer.last + 1
    writer.last = now
    digits = str(now).zfill(10)
    second = digits[:-9]
    return f"{known_clocks.get(second) or clock_text(second)}{digits[-9:]}{writer.tail}"


def _forget_writers() -> None:
    global _mine
    _mine = _Mine()


os.register_at_fork(after_in_child=_forget_writers)
