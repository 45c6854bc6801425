"""Telling a service manager how we are: sd_notify(3), where NOTIFY_SOCKET is set. A few datagrams, no library."""

import contextlib
import os
import socket
import time


class Notify:
    """The service manager, or nobody."""

    def __init__(self) -> None:
        self._path = os.environ.get("NOTIFY_SOCKET", "")
        span = os.environ.get("WATCHDOG_USEC", "")
        self._every = int(span) / 2e6 if span.isascii() and span.isdigit() else 0.0  # twice as often as asked for
        self._again = 0.0

    def say(self, *words: str) -> None:
        """Send *words* such as `READY=1`. Never raises: nobody may be listening."""
        if not self._path:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto("\n".join(words).encode(), socket.MSG_DONTWAIT, address)

    def beat(self) -> None:
        """We are alive: for WatchdogSec=. Call it often, it says so as often as needed."""
        if self._every and time.monotonic() >= self._again:
            self._again = time.monotonic() + self._every
            self.say("WATCHDOG=1")
