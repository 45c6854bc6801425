"""Wording: durations, counts and ids as people read them, the same in every command, finding and log line."""

from __future__ import annotations

from .filename import is_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60))
_SHORT_ID: Final = slice(16, 25)  # the nanoseconds: what differs between the ids of one box


def duration_text(seconds: float) -> str:
    """Return a duration in one unit, rounded down: `90 s`, `2 min`, `47 h`, `3 d`."""
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, which takes an s unless the number is 1: `1 message`, `2 messages`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def short_id(id: str) -> str:
    """Return the part of an id that people type: its nanoseconds. An external file name is returned unchanged."""
    return id[_SHORT_ID] if is_id(id) else id
