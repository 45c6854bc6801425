"""Addresses, and message names that sort by time.

A message's file is called

    20261124T014530.123456789Z-3f9c0a12b4d5,S=217.json
    └─ when: UTC, nanoseconds ─┘ └─ writer ─┘ └─ fields
    └──────────────── id ───────────────────┘

*When* rises strictly within a writer, also when the clock stands still or goes back. *Writer* is 48 random bits, new
in every thread and after every fork: never a pid or a host name, for these repeat across containers. Fields are a
letter each, as in Maildir: `S=` the size in bytes, `A=` the delivery attempt from the second on, `N=` what is left of
a foreign name, `R=` how often a person has requeued it, `F=` the sender, where a relay says it, `W=` how long a retry
may have to wait, where that is long. Text order is time order.

In `later/` and `done/` a second stamp and a `~` stand before the name: when it is due, or when it was handled.
"""

from __future__ import annotations

import os
import time
from _thread import _local as local  # what threading has; which takes longer to import than a message to send

from .errors import InvalidAddress
from .pattern import Pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NewType

    Address = NewType("Address", str)
else:  # typing takes longer to import than a message to send
    Address = str
"""The name of a box, checked."""

STAMP: Final = len("20261124T014530.123456789Z")
ID: Final = STAMP + len("-3f9c0a12b4d5")

ALL: Final = "all"
TEAM: Final = "team:"

_FIRST: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_ADDRESS: Final = _FIRST + "._-"
CLOCK = r"(?:19[7-9]\d|[2-9]\d{3})(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3])[0-5]\d[0-5]\d\.\d{9}Z"
_ID = Pattern(rf"{CLOCK}-[0-9a-f]{{12}}")
_NAME = Pattern(rf"({CLOCK}-[0-9a-f]{{12}})((?:,[A-Z]=[A-Za-z0-9._-]*)*)\.json")
_TIMED = Pattern(rf"({CLOCK})~(.+)")
_UNSAFE = Pattern(r"[^A-Za-z0-9._-]")
_CONSUMER = Pattern(rf"[0-9a-f]{{12}}(?:,U=({CLOCK}))?")
_STEM: Final = 64
_LATEST: Final = 253402300799_999999999  # the end of the year 9999


def address(text: object) -> Address:
    """*text* as the address of a box. Raises InvalidAddress, which says what was expected."""
    if isinstance(text, str) and is_address(text):
        return Address(text)
    raise InvalidAddress(text)


def is_address(text: str) -> bool:
    """Whether a box can have this name."""
    return 0 < len(text) <= 64 and text[0] in _FIRST and not text.strip(_ADDRESS) and text != ALL


def recipient(text: str) -> str:
    """*text* as that to which mail can be sent: an address, `all`, or `team:GROUP`. Raises InvalidAddress."""
    return text if is_group(text) else address(text)


def is_group(text: str) -> bool:
    """Whether it stands for several: `all`, or `team:` and the name of a group."""
    return text == ALL or (text.startswith(TEAM) and is_address(text[len(TEAM) :]))


class Name:
    """A message's file name, taken apart. By hand: a dataclass takes longer to make than a message to send."""

    __slots__ = ("attempt", "id", "origin", "requeued", "size", "stem", "wait")

    def __init__(
        self,
        id: str,
        size: int | None = None,
        attempt: int = 1,
        stem: str | None = None,
        requeued: int = 0,
        origin: str | None = None,
        wait: int = 0,
    ) -> None:
        self.id = id
        self.size = size  # S=
        self.attempt = attempt  # A=, from the second on; believed only where no sender can write
        self.stem = stem  # N=
        self.requeued = requeued  # R=
        self.origin = origin  # F=, believed only where the file is the relay's
        self.wait = wait  # W=, seconds; believed as A= is

    def but(self, **changes: Any) -> Name:
        """The same name, with some parts changed."""
        return Name(**{part: getattr(self, part) for part in self.__slots__} | changes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Name) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __repr__(self) -> str:
        return f"<Name {self}>"

    def __str__(self) -> str:
        text = self.id
        if self.size is not None:
            text += f",S={self.size}"
        if self.attempt > 1:
            text += f",A={self.attempt}"
        if self.stem is not None:
            text += f",N={self.stem}"
        if self.requeued:
            text += f",R={self.requeued}"
        if self.origin is not None:
            text += f",F={self.origin}"
        if self.wait:
            text += f",W={self.wait}"
        return text + ".json"


def parse(text: str) -> Name | None:
    """The parts of *text*, or None where it is not a name of our making. Unknown fields are dropped."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    size, attempt, stem, requeued, origin, wait = None, 1, None, 0, None, 0
    for field in match[2].split(",")[1:]:
        letter, value = field[0], field[2:]
        if letter == "N":
            stem = value
        elif letter == "F":
            origin = value if is_address(value) else None
        elif letter in "SAR" and not (value.isdigit() and len(value) <= 18):
            return None
        elif letter == "S":
            size = int(value)
        elif letter == "A":
            attempt = max(1, int(value))
        elif letter == "R":
            requeued = int(value)
        elif letter == "W":
            wait = int(value) if value.isdigit() and len(value) <= 18 else 0
    return Name(match[1], size, attempt, stem, requeued, origin, wait)


def another(text: str) -> str:
    """*text*, with or without a due time, under a fresh id: the old name is kept as `N=`; other fields are, too."""
    due, name = untimed(text) or ("", text)
    parts = parse(name) or Name("")
    fresh = str(parts.but(id=new_id(), stem=stem(name)))
    return timed(due, fresh) if due else fresh


def is_id(text: str) -> bool:
    """Whether *text* is a message id of our making."""
    return bool(_ID.fullmatch(text))


def timed(stamp: str, name: str) -> str:
    """*name* as it is called in `later/` (due then) and in `done/` (handled then)."""
    return f"{stamp}~{name}"


def untimed(text: str) -> tuple[str, str] | None:
    """The stamp and the name in a name from `later/` or `done/`, or None where there is no stamp."""
    match = _TIMED.fullmatch(text)
    return (match[1], match[2]) if match else None


def deadline_of(consumer: str) -> str | None:
    """Until when a folder of this name in `cur/` is leased: a stamp, "" for no lease; None for no consumer's name."""
    match = _CONSUMER.fullmatch(consumer)
    return (match[1] or "") if match else None


def stem(foreign: str) -> str:
    """What is kept of a *foreign* name, as the value of `N=`."""
    return _UNSAFE.sub("_", foreign.removesuffix(".json"))[:_STEM]


def stamp(ns: int) -> str:
    """Nanoseconds since 1970 as a stamp. Times outside the years 1970 to 9999 become the nearest that fits."""
    digits = str(min(max(ns, 0), _LATEST)).zfill(10)
    return f"{_clock(digits[:-9])}{digits[-9:]}Z"


def now() -> str:
    """The clock as a stamp."""
    digits = str(time.time_ns()).zfill(10)  # cut, not counted: a number that is formatted takes three times as long
    second = digits[:-9]
    return f"{_clocks.get(second) or _clock(second)}{digits[-9:]}Z"


def nanoseconds(stamp: str) -> int:
    """The inverse of stamp(): nanoseconds since 1970."""
    from calendar import timegm  # brings datetime along, and a sender asks for no times

    clock = (int(stamp[:4]), int(stamp[4:6]), int(stamp[6:8]), int(stamp[9:11]), int(stamp[11:13]), int(stamp[13:15]))
    return timegm(clock) * 1_000_000_000 + int(stamp[16:25])


def sent(id: str) -> str:
    """The time that an id carries, as the envelope writes it: RFC 3339, UTC, microseconds."""
    second = id[:15]
    return f"{_seconds.get(second) or _second(second)}{id[15:22]}Z"


_clocks: dict[str, str] = {}
_seconds: dict[str, str] = {}


def _clock(second: str) -> str:
    text = _clocks.get(second)
    if text is None:
        if len(_clocks) >= 8:
            _clocks.clear()
        text = _clocks[second] = time.strftime("%Y%m%dT%H%M%S.", time.gmtime(int(second)))
    return text


def _second(text: str) -> str:
    if len(_seconds) >= 8:
        _seconds.clear()
    written = _seconds[text] = f"{text[:4]}-{text[4:6]}-{text[6:11]}:{text[11:13]}:{text[13:]}"
    return written


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
    return f"{_clocks.get(second) or _clock(second)}{digits[-9:]}{writer.tail}"


def _forget_writers() -> None:
    global _mine
    _mine = _Mine()


os.register_at_fork(after_in_child=_forget_writers)
