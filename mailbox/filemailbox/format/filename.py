"""File names of messages, which sort by time.

    20261124T014530.123456789Z-3f9c0a12b4d5,S=217.json
    └─ when: UTC, nanoseconds ─┘ └─ writer ─┘ └─ fields
    └──────────────── id ───────────────────┘

*When* rises strictly within a writer, also if the clock stops or goes back. *Writer* is 48 random bits, new in every
thread and after every fork: never a pid or a host name, for these repeat across containers. Text order is time order.

A field is a letter and a value, as in Maildir; a reader drops those it does not know:

    S=  the size in bytes
    A=  the delivery attempt, from the second on
    N=  the part of an external name that was kept
    R=  how often an operator has requeued the message
    F=  the sender, written by a relay
    W=  the longest wait of a retry in seconds, if it is long

In `later/` and `done/` a second timestamp and a `~` precede the name: when it is due, or when it was handled.
"""

from __future__ import annotations

from .address import is_address
from .pattern import Pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

TIMESTAMP_LENGTH: Final = len("20261124T014530.123456789Z")
ID_LENGTH: Final = TIMESTAMP_LENGTH + len("-3f9c0a12b4d5")
TIMESTAMP_PATTERN: Final = (
    r"(?:19[7-9]\d|[2-9]\d{3})(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3])[0-5]\d[0-5]\d\.\d{9}Z"
)
MAX_STEM: Final = 64
"""Longest part of an external name that is kept, in characters."""

_NAME: Final = Pattern(rf"({TIMESTAMP_PATTERN}-[0-9a-f]{{12}})((?:,[A-Z]=[A-Za-z0-9._-]*)*)\.json")
_TIMED: Final = Pattern(rf"({TIMESTAMP_PATTERN})~(.+)")
_ID: Final = Pattern(rf"{TIMESTAMP_PATTERN}-[0-9a-f]{{12}}")
_CONSUMER: Final = Pattern(rf"[0-9a-f]{{12}}(?:,U=({TIMESTAMP_PATTERN}))?")
_UNSAFE: Final = Pattern(r"[^A-Za-z0-9._-]")
_MAX_DIGITS: Final = 18


class Filename:
    """A message's file name, taken apart: str() puts it together again.

    A class by hand: importing what makes a dataclass or a named tuple takes longer than a send.
    """

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
        self.size = size
        """S="""
        self.attempt = attempt
        """A=, trusted only in folders that senders cannot write."""
        self.stem = stem
        """N="""
        self.requeued = requeued
        """R="""
        self.origin = origin
        """F=, trusted only in a file that belongs to the relay."""
        self.wait = wait
        """W=, trusted as A= is."""

    def replace(self, **fields: Any) -> Filename:
        """Return the same name with other values of some *fields*."""
        return Filename(**{name: getattr(self, name) for name in self.__slots__} | fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filename) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __repr__(self) -> str:
        return f"<Filename {self}>"

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


def parse_filename(filename: str) -> Filename | None:
    """Return the parts of a file name, or None if it is an external name. Unknown fields are dropped."""
    match = _NAME.fullmatch(filename)
    if match is None:
        return None
    size, attempt, stem, requeued, origin, wait = None, 1, None, 0, None, 0
    for field in match[2].split(",")[1:]:
        letter, value = field[0], field[2:]
        if letter == "N":
            stem = value
        elif letter == "F":
            origin = value if is_address(value) else None
        elif letter in "SAR" and not _is_number(value):
            return None
        elif letter == "S":
            size = int(value)
        elif letter == "A":
            attempt = max(1, int(value))
        elif letter == "R":
            requeued = int(value)
        elif letter == "W":
            wait = int(value) if _is_number(value) else 0
    return Filename(match[1], size, attempt, stem, requeued, origin, wait)


def _is_number(digits: str) -> bool:
    return digits.isdigit() and len(digits) <= _MAX_DIGITS


def is_id(text: str) -> bool:
    """Return True if *text* has the form of a message id."""
    return _ID.fullmatch(text) is not None


def timed_filename(timestamp: str, filename: str) -> str:
    """Return the name of a file in `later/` (due at that time) or `done/` (handled then)."""
    return f"{timestamp}~{filename}"


def split_timed(filename: str) -> tuple[str, str] | None:
    """Return the timestamp and the rest of a name from `later/` or `done/`, or None without a timestamp."""
    match = _TIMED.fullmatch(filename)
    return (match[1], match[2]) if match else None


def lease_deadline(consumer: str) -> str | None:
    """Return the timestamp until which a consumer's folder in `cur/` is leased.

    "" for a consumer without a lease, None if no consumer has such a name.
    """
    match = _CONSUMER.fullmatch(consumer)
    return (match[1] or "") if match else None


def stem_of(external: str) -> str:
    """Return what is kept of an external file name, as the value of `N=`."""
    return _UNSAFE.sub("_", external.removesuffix(".json"))[:MAX_STEM]
