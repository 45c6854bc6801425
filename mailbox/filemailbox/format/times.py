"""RFC 3339 times of the envelope, and durations."""

from __future__ import annotations

from ..errors import InvalidRequestError, quoted
from .pattern import Pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from datetime import datetime, timedelta

_TIME = Pattern(r"\d{4}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:[0-5]\d)")


def parse_time(text: str) -> datetime:
    """RFC 3339 as an aware datetime. Raises ValueError, OverflowError; a time without a zone is refused."""
    if _TIME.fullmatch(text) is None:  # fromisoformat takes more, and each Python takes something else
        raise ValueError(text)
    from datetime import UTC, datetime  # imported where it is needed: most messages ask for no time

    when = datetime.fromisoformat(text.upper())
    when.astimezone(UTC)  # on the first and on the last day there are times that UTC has not: OverflowError
    return when


def format_time(when: datetime) -> str:
    """An aware datetime as the envelope writes it: UTC, microseconds."""
    from datetime import UTC

    if when.tzinfo is None:
        raise InvalidRequestError(f"the time {quoted(when)} has no zone: give datetime.now(UTC), not datetime.now()")
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def resolve_time(delay: float | timedelta | datetime, clock: datetime) -> str:
    """A delay in seconds from the *clock*, a timedelta or an aware datetime, as the envelope writes a time."""
    from datetime import datetime, timedelta

    if isinstance(delay, datetime):
        return format_time(delay)
    span = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
    try:
        return format_time(clock + span)
    except OverflowError:
        raise InvalidRequestError(f"{delay!r} from now is after the year 9999") from None


def from_nanoseconds(ns: int) -> datetime:
    """Nanoseconds since 1970 as an aware datetime, which knows microseconds."""
    from datetime import UTC, datetime, timedelta

    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000)


def datetime_ns(when: datetime) -> int:
    """An aware datetime as nanoseconds since 1970, exactly."""
    since = when - from_nanoseconds(0)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000


def modified_time(facts: os.stat_result) -> str:
    """When a file was last written, as the envelope writes a time: what stands for a missing `sent`."""
    from datetime import UTC, datetime

    return format_time(datetime.fromtimestamp(min(max(facts.st_mtime, 0), 253402300799), UTC))


def in_seconds(span: float | timedelta | None) -> float | None:
    """A span of time in seconds."""
    return span if span is None or isinstance(span, int | float) else span.total_seconds()


def optional_time(text: object) -> datetime | None:
    return parse_time(text) if type(text) is str else None
