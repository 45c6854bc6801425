"""Timestamps in names: UTC with nanoseconds, in text order."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_LATEST: Final = 253402300799_999999999  # the end of the year 9999


def to_timestamp(ns: int) -> str:
    """Nanoseconds since 1970 as a stamp. Times outside the years 1970 to 9999 become the nearest that fits."""
    digits = str(min(max(ns, 0), _LATEST)).zfill(10)
    return f"{clock_text(digits[:-9])}{digits[-9:]}Z"


def to_nanoseconds(stamp: str) -> int:
    """The inverse of stamp(): nanoseconds since 1970."""
    from calendar import timegm  # brings datetime along, and a sender asks for no times

    clock = (int(stamp[:4]), int(stamp[4:6]), int(stamp[6:8]), int(stamp[9:11]), int(stamp[11:13]), int(stamp[13:15]))
    return timegm(clock) * 1_000_000_000 + int(stamp[16:25])


def sent_time(id: str) -> str:
    """The time that an id carries, as the envelope writes it: RFC 3339, UTC, microseconds."""
    second = id[:15]
    return f"{_seconds.get(second) or _second(second)}{id[15:22]}Z"


known_clocks: dict[str, str] = {}
_seconds: dict[str, str] = {}


def clock_text(second: str) -> str:
    text = known_clocks.get(second)
    if text is None:
        if len(known_clocks) >= 8:
            known_clocks.clear()
        text = known_clocks[second] = time.strftime("%Y%m%dT%H%M%S.", time.gmtime(int(second)))
    return text


def _second(text: str) -> str:
    if len(_seconds) >= 8:
        _seconds.clear()
    written = _seconds[text] = f"{text[:4]}-{text[4:6]}-{text[6:11]}:{text[11:13]}:{text[13:]}"
    return written
