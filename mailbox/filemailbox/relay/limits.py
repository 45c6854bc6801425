"""Rates, quotas and capacities. Time is an argument everywhere.

`RelayLimits` are the relay's own numbers. What an agent may use is in the policy (`policy.Limits`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .audit_format import Record
from .policy import Rate


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds until the next attempt: at first, and at most. The wait doubles in between."""

    first: float
    longest: float

    def after(self, wait: float | None) -> float:
        """Return the wait that follows *wait*; None means no wait so far."""
        return self.first if wait is None else min(self.longest, wait * 2)


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Numbers that bound the relay's work and memory."""

    batch: int = 128  # messages flushed and recorded together; a few more if one goes to many
    recipient_backoff: Backoff = Backoff(1.0, 60.0)  # for a recipient whose box takes no mail
    audit_backoff: Backoff = Backoff(1.0, 30.0)  # for an audit log that cannot be written
    incomplete_retry: float = 1.0  # seconds until a file that may be incomplete is read again
    stuck_retry: float = 30.0  # seconds until a file that can neither be carried nor removed is tried again
    deferred_per_recipient: int = 1000  # of one sender; further mail bounces at once
    kept_refusals: int = 10_000  # messages whose refusals are kept while other recipients wait
    deferred_times: int = 200_000  # messages whose first deferral is remembered
    record_rates: Mapping[str, Rate] = field(
        default_factory=lambda: {"refuse": Rate(1, 60.0), "bounce": Rate(1, 60.0), "defer": Rate(1, 1.0)}
    )  # records of mail that was not carried, for one sender, by event
    record_bursts: Mapping[str, int] = field(
        default_factory=lambda: {"refuse": 100, "bounce": 100, "defer": 1000}
    )  # such records at once, before they are thinned


class TokenBucket:
    """A rate limit: a burst at once, then the rate."""

    __slots__ = ("_burst", "_left", "_rate", "_since")

    def __init__(self, rate: Rate | None, burst: int) -> None:
        self._rate = rate.count / rate.span if rate is not None else float("inf")
        self._burst = max(1, burst)
        self._left = float(self._burst)
        self._since = float("-inf")

    def take(self, now: float) -> bool:
        """Take one token at the time *now*, in seconds. Return False if there is none."""
        if self._rate == float("inf"):
            return True
        if now > self._since:
            self._left = min(self._burst, self._left + (now - self._since) * self._rate)
            self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def wait(self, now: float) -> float:
        """Return the seconds until take() can succeed again."""
        if self._rate == float("inf"):
            return 0.0
        return max(0.0, (1 - self._left) / self._rate - (now - self._since))


class Quota:
    """An amount for each hour, day … of the clock."""

    __slots__ = ("_limit", "_used", "_window")

    def __init__(self, limit: Rate | None) -> None:
        self._limit = limit
        self._window, self._used = -1, 0

    def has_room(self, now: float, amount: int) -> bool:
        """Return whether *amount* more fits at the time *now*, in seconds since 1970."""
        return self._limit is None or self._used_at(now) + amount <= self._limit.count

    def use(self, now: float, amount: int) -> None:
        """Count *amount* as used."""
        if self._limit is not None:
            self._used = self._used_at(now) + amount

    def _used_at(self, now: float) -> int:
        assert self._limit is not None
        window = int(now // self._limit.span)
        if window > self._window:
            self._window, self._used = window, 0
        return self._used


class Capacity:
    """The room in each recipient's box, without counting its mail for every message."""

    COSTLY = 1000
    """Messages in a box from which on counting them takes long."""

    SHARE = 20
    """Counting one such box takes at most this fraction (one in …) of the time. Its owner can keep it nearly full."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._room: dict[str, int] = {}
        self._count_again: dict[str, float] = {}

    def check(self, to: str, limit: int, count: Callable[[], int]) -> None:
        """Raise OSError if *limit* messages wait for *to*. *count* counts them; it is called seldom."""
        if self._room.get(to, 0) > 0:
            return
        now = self._now()
        if now < self._count_again.get(to, 0.0):
            raise OSError(0, f"{limit} messages waited in its box a moment ago, and that is the limit")
        waiting = count()
        self._room[to] = limit - waiting
        if waiting > self.COSTLY:
            self._count_again[to] = now + self.SHARE * (self._now() - now)
        if waiting >= limit:
            raise OSError(0, f"{limit} messages wait in its box, and that is the limit")

    def use(self, to: str) -> None:
        """Note that one more message goes to *to*."""
        self._room[to] = self._room.get(to, 0) - 1

    def clear(self) -> None:
        """Forget all counts: limits may have changed."""
        self._room.clear()
        self._count_again.clear()


class RecordThinner:
    """Bounds the records of mail that was not carried: an agent can be refused as fast as it sends.

    Records that are left out are counted. A later record of the same sender and event has the count.
    """

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._buckets: dict[tuple[str, str], TokenBucket] = {}
        self._left_out: dict[tuple[str, str], tuple[int, Record]] = {}
        self.silenced: set[str] = set()
        """Agents of which a record was left out since this was last cleared."""

    def thin(self, records: list[Record], now: float, is_needed: Callable[[Record], bool]) -> list[Record]:
        """Return the *records* to write: all that are needed, and as many others as the rates allow."""
        kept: list[Record] = []
        for record in records:
            event = str(record["event"])
            if event not in self._limits.record_rates or is_needed(record):
                kept.append(record)
                continue
            sender = str(record.get("from"))
            count = self._left_out.get((sender, event), (0, record))[0] + 1
            if self._bucket(sender, event).take(now):
                self._left_out.pop((sender, event), None)
                kept.append(_with_count(record, count))
            else:
                self._left_out[sender, event] = count, record
                self.silenced.add(sender)
        return kept

    def due(self, now: float) -> list[Record]:
        """Return a record for each sender and event that had some left out and may have one by now."""
        return self._take([key for key in self._left_out if self._bucket(*key).take(now)])

    def rest(self) -> list[Record]:
        """Return a record for everything left out: the relay stops."""
        return self._take(list(self._left_out))

    def _take(self, keys: list[tuple[str, str]]) -> list[Record]:
        return [_with_count(record, count) for count, record in map(self._left_out.pop, keys)]

    def _bucket(self, sender: str, event: str) -> TokenBucket:
        rates, bursts = self._limits.record_rates, self._limits.record_bursts
        return self._buckets.setdefault((sender, event), TokenBucket(rates[event], bursts[event]))


def _with_count(record: Record, count: int) -> Record:
    return {**record, "count": count} if count > 1 else record
