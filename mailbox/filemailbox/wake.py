"""Look now: the doorbell and the rescan.

The directory is the truth; a wake-up only means "look". Arm first, hush, look, then wait: in any other order mail that
comes in between lies until the rescan.
"""

import asyncio
import contextlib
import os
import select
import time
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
        self._sleepers: set[asyncio.Event] = set()

    def arm(self) -> None:
        """Be ready to be woken, and forget the wake-ups so far. Call it before looking."""
        if time.monotonic() >= self._check_at or self._process != os.getpid():
            self._hang()
        if self._bell is not None:
            self._bell.hush()

    def wait(self, longest: float) -> None:
        """Sleep until somebody rings, for *longest* seconds at most, and never longer than the rescan."""
        span = max(0.0, min(longest, RESCAN))
        if self._bell is None:
            time.sleep(span)
            return
        ear = select.poll()
        ear.register(self._bell, select.POLLIN)
        ear.poll(span * 1000)

    async def await_(self, longest: float) -> None:
        """wait(), for asyncio."""
        loop = asyncio.get_running_loop()
        rung = asyncio.Event()
        self._sleepers.add(rung)
        if self._bell is not None:
            loop.add_reader(self._bell.fileno(), self._rouse)
        # Not asyncio.wait_for: on Python 3.11 it swallows a cancellation that comes with the wake-up.
        alarm = loop.call_later(max(0.0, min(longest, RESCAN)), rung.set)
        try:
            await rung.wait()
        finally:
            alarm.cancel()
            self._sleepers.discard(rung)
            if self._bell is not None and not self._sleepers:
                loop.remove_reader(self._bell.fileno())

    def close(self) -> None:
        """Take the bell down."""
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        self._check_at = 0.0

    def _rouse(self) -> None:
        for sleeper in self._sleepers:
            sleeper.set()

    def _hang(self) -> None:
        self._check_at = time.monotonic() + RESCAN
        if self._bell is not None and (self._process != os.getpid() or not self._bell.hangs()):
            self._bell.close()
            self._bell = None
        if self._bell is None:
            self._process = os.getpid()
            with contextlib.suppress(OSError):
                self._bell = Bell(self._run)
