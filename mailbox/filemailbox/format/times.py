"""RFC 3339 times of the envelope, and durations. Only a function that needs datetime imports it."""

from __future__ import annotations

from ..errors import InvalidRequestError, quoted
from .pattern import Pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from datetime import datetime, timedelta
    from typing import Final

_RFC3339: Final = Pattern(r"\d{4}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:[0-5]\d)")
_LAST_SECOND: Final = 253402300799  # of the year 9999


def parse_time(text: str) -> datetime:
    """Return an RFC 3339 time as an aware datetime. Raises ValueError and OverflowError; a zone is required."""
    if _RFC3339.fullmatch(text) is None:  # fromisoformat accepts more, and each Python something else
        raise ValueError(text)
    from datetime import UTC, datetime

    when = datetime.fromisoformat(text.upper())
    when.astimezone(UTC)  # the first and the last day hold times that UTC lacks: OverflowError
    return when


def optional_time(text: object) -> datetime | None:
    """Return an RFC 3339 time as an aware datetime, and None for anything but a string. Raises as parse_time()."""
    return parse_time(text) if type(text) is str else None


def format_time(when: datetime) -> str:
    """Return an aware datetime as the envelope writes it: UTC, microseconds. Raises InvalidRequestError."""
    from datetime import UTC

    if when.tzinfo is None:
        raise InvalidRequestError(
            f"the time {quoted(when)} has no zone", hint="give datetime.now(UTC), not datetime.now()"
        )
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def resolve_time(delay: float | timedelta | datetime, now: datetime) -> str:
    """Return a time as the envelope writes it: an aware datetime, or seconds or a timedelta from *now*.

    Raises InvalidRequestError for a time without a zone or after the year 9999.
    """
    from datetime import datetime, timedelta

    if isinstance(delay, datetime):
        return format_time(delay)
    duration = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
    try:
        return format_time(now + duration)
    except OverflowError:
        raise InvalidRequestError(f"{delay!r} from now is after the year 9999") from None


def from_nanoseconds(ns: int) -> datetime:
    """Return nanoseconds since 1970 as an aware datetime, rounded down to microseconds."""
    from datetime import UTC, datetime, timedelta

    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000)


def datetime_ns(when: datetime) -> int:
    """Return an aware datetime as nanoseconds since 1970, exactly."""
    since = when - from_nanoseconds(0)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000


def modified_time(st: os.stat_result) -> str:
    """Return the time of the last write to a file as the envelope writes a time: it replaces a missing `sent`."""
    from datetime import UTC, datetime

    return format_time(datetime.fromtimestamp(min(max(st.st_mtime, 0), _LAST_SECOND), UTC))


def in_seconds(duration: float | timedelta | None) -> float | None:
    """Return a duration in seconds."""
    return duration if duration is None or isinstance(duration, int | float) else duration.total_seconds()
