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

from .address import is_address
from .pattern import Pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

TIMESTAMP_LENGTH: Final = len("20261124T014530.123456789Z")
ID_LENGTH: Final = TIMESTAMP_LENGTH + len("-3f9c0a12b4d5")
TIMESTAMP_PATTERN = (
    r"(?:19[7-9]\d|[2-9]\d{3})(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3])[0-5]\d[0-5]\d\.\d{9}Z"
)
_ID = Pattern(rf"{TIMESTAMP_PATTERN}-[0-9a-f]{{12}}")
_NAME = Pattern(rf"({TIMESTAMP_PATTERN}-[0-9a-f]{{12}})((?:,[A-Z]=[A-Za-z0-9._-]*)*)\.json")
_TIMED = Pattern(rf"({TIMESTAMP_PATTERN})~(.+)")
_UNSAFE = Pattern(r"[^A-Za-z0-9._-]")
_CONSUMER = Pattern(rf"[0-9a-f]{{12}}(?:,U=({TIMESTAMP_PATTERN}))?")
_STEM: Final = 64


class Filename:
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

    def but(self, **changes: Any) -> Filename:
        """The same name, with some parts changed."""
        return Filename(**{part: getattr(self, part) for part in self.__slots__} | changes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filename) and str(self) == str(other)

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


def parse_filename(text: str) -> Filename | None:
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
    return Filename(match[1], size, attempt, stem, requeued, origin, wait)


def is_id(text: str) -> bool:
    """Whether *text* is a message id of our making."""
    return bool(_ID.fullmatch(text))


def timed_filename(stamp: str, name: str) -> str:
    """*name* as it is called in `later/` (due then) and in `done/` (handled then)."""
    return f"{stamp}~{name}"


def split_timed(text: str) -> tuple[str, str] | None:
    """The stamp and the name in a name from `later/` or `done/`, or None where there is no stamp."""
    match = _TIMED.fullmatch(text)
    return (match[1], match[2]) if match else None


def lease_deadline(consumer: str) -> str | None:
    """Until when a folder of this name in `cur/` is leased: a stamp, "" for no lease; None for no consumer's name."""
    match = _CONSUMER.fullmatch(consumer)
    return (match[1] or "") if match else None


def stem_of(foreign: str) -> str:
    """What is kept of a *foreign* name, as the value of `N=`."""
    return _UNSAFE.sub("_", foreign.removesuffix(".json"))[:_STEM]
