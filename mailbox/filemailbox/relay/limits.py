"""Rates and quotas. Time is passed in."""

from .policy import Rate


class TokenBucket:
    """A rate, kept: as much at once as the burst allows, then as fast as the rate is. Time is passed in."""

    __slots__ = ("_burst", "_left", "_rate", "_since")

    def __init__(self, rate: Rate | None, burst: int) -> None:
        self._rate = rate.count / rate.span if rate is not None else float("inf")
        self._burst = max(1, burst)
        self._left = float(self._burst)
        self._since = float("-inf")

    def take(self, now: float) -> bool:
        """Whether one more may go at the time *now*, in seconds; then it is counted."""
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
        """In how many seconds take() may say yes again."""
        if self._rate == float("inf"):
            return 0.0
        return max(0.0, (1 - self._left) / self._rate - (now - self._since))


class Quota:
    """So much in each hour, day …, as the clock has them: what is over it is refused."""

    __slots__ = ("_limit", "_used", "_window")

    def __init__(self, limit: Rate | None) -> None:
        self._limit = limit
        self._window, self._used = -1, 0

    def room(self, now: float, amount: int) -> bool:
        """Whether *amount* more fits in at the time *now*, in seconds since 1970."""
        return self._limit is None or self._in(now) + amount <= self._limit.count

    def use(self, now: float, amount: int) -> None:
        """Count *amount*."""
        if self._limit is not None:
            self._used = self._in(now) + amount

    def _in(self, now: float) -> int:
        assert self._limit is not None
        window = int(now // self._limit.span)
        if window > self._window:
            self._window, self._used = window, 0
        return self._used
