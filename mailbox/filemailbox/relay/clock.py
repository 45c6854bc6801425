"""The relay's two clocks, as one argument: a test passes in a clock that it moves by hand."""

import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic time for waits and rates; the time of day for quotas, expiry and time limits."""

    def monotonic(self) -> float:
        """Return seconds since some moment; never set back."""

    def time(self) -> float:
        """Return seconds since 1970."""


class SystemClock:
    """The clocks of this host."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)
