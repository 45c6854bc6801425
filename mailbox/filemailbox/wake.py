"""Look now: the doorbell and the rescan.

The directory is the truth; a wake-up only means "look". Arm first, look, then wait: in any other order mail that comes
in between lies until the rescan.
"""

import contextlib
import os
import time
from collections.abc import Callable
from typing import Final

from .doorbell import Bell

RESCAN: Final = 0.25
"""Seconds after which we look anyway. It finds mail that was moved in by hand, and costs a thousandth of a core."""


class Wake:
    """What a consumer waits on. It hangs a bell at the first wait; where that cannot be, the rescan must do."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._bell: Bell | None = None
        self._process = 0
        self._check_at = 0.0
        self.sleepers: set[Callable[[], object]] = set()
        """What is called when it rings: for those who wait in an event loop."""

    def arm(self) -> None:
        """Be ready to be woken, and forget the wake-ups so far. Call it before looking."""
        if time.monotonic() >= self._check_at or self._process != os.getpid():
            self._hang()
        if self._bell is not None:
            self._bell.hush()

    def wait(self, longest: float) -> None:
        """Sleep until somebody rings, for *longest* seconds at most, and never longer than the rescan."""
        if self._bell is None:
            time.sleep(self.span(longest))
            return
        import select

        ear = select.poll()
        ear.register(self._bell, select.POLLIN)
        ear.poll(self.span(longest) * 1000)

    def span(self, longest: float) -> float:
        """For how many seconds to sleep."""
        return max(0.0, min(longest, RESCAN))

    def fileno(self) -> int | None:
        """What becomes readable when it rings, where there is a bell."""
        return self._bell.fileno() if self._bell is not None else None

    def rouse(self) -> None:
        """Wake all who wait in an event loop."""
        for call in list(self.sleepers):
            call()

    def close(self) -> None:
        """Take the bell down."""
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        self._check_at = 0.0

    def _hang(self) -> None:
        self._check_at = time.monotonic() + RESCAN
        if self._bell is not None and (self._process != os.getpid() or not self._bell.hangs()):
            self._bell.close()
            self._bell = None
        if self._bell is None:
            self._process = os.getpid()
            with contextlib.suppress(OSError):
                self._bell = Bell(self._run)
