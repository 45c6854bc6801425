"""Timestamps in file names: UTC with nanoseconds; text order is time order."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_LATEST: Final = 253402300799_999999999  # the end of the year 9999
_CACHED_SECONDS: Final = 8


def to_timestamp(ns: int) -> str:
    """Return nanoseconds since 1970 as a timestamp. A time outside 1970 to 9999 becomes the nearest that fits."""
    digits = str(min(max(ns, 0), _LATEST)).zfill(10)
    return f"{clock_text(digits[:-9])}{digits[-9:]}Z"


def to_nanoseconds(timestamp: str) -> int:
    """Return a timestamp as nanoseconds since 1970: the inverse of to_timestamp()."""
    from calendar import timegm  # imports datetime, which a sender does not need

    year, month, day = int(timestamp[:4]), int(timestamp[4:6]), int(timestamp[6:8])
    clock = (year, month, day, int(timestamp[9:11]), int(timestamp[11:13]), int(timestamp[13:15]))
    return timegm(clock) * 1_000_000_000 + int(timestamp[16:25])


def sent_time(id: str) -> str:
    """Return the time in a message id as the envelope writes it: RFC 3339, UTC, microseconds."""
    second = id[:15]
    return f"{_rfc3339_seconds.get(second) or _rfc3339(second)}{id[15:22]}Z"


# Formatting one second takes three times as long as finding it here, and most messages share theirs with others.
known_clocks: dict[str, str] = {}
_rfc3339_seconds: dict[str, str] = {}


def clock_text(second: str) -> str:
    """Return seconds since 1970, given in digits, as a timestamp down to its point; it is kept in known_clocks."""
    text = known_clocks.get(second)
    if text is None:
        if len(known_clocks) >= _CACHED_SECONDS:
            known_clocks.clear()
        text = known_clocks[second] = time.strftime("%Y%m%dT%H%M%S.", time.gmtime(int(second)))
    return text


def _rfc3339(second: str) -> str:
    if len(_rfc3339_seconds) >= _CACHED_SECONDS:
        _rfc3339_seconds.clear()
    text = f"{second[:4]}-{second[4:6]}-{second[6:11]}:{second[11:13]}:{second[13:]}"
    _rfc3339_seconds[second] = text
    return text
