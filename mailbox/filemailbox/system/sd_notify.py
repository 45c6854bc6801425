"""Telling a service manager how we are: sd_notify(3), where NOTIFY_SOCKET is set. A few datagrams, no library."""

import contextlib
import os
import socket
import time


class SdNotify:
    """The service manager, if there is one."""

    def __init__(self) -> None:
        self._path = os.environ.get("NOTIFY_SOCKET", "")
        span = os.environ.get("WATCHDOG_USEC", "")
        meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._every = int(span[:20]) / 2e6 if meant and span.isascii() and span.isdigit() else 0.0  # twice as often
        self._again = 0.0
        self._ending = False

    def say(self, *words: str) -> None:
        """Send *words* such as `READY=1`. Never raises: there may be no listener."""
        if not self._path:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto("\n".join(words).encode(), socket.MSG_DONTWAIT, address)

    def stopping(self) -> None:
        """Report, once, that this service was asked to stop and finishes its work."""
        if not self._ending:
            self._ending = True
            self.say("STOPPING=1")

    def beat(self) -> None:
        """Report that this service is alive, for WatchdogSec=. Call it often: it sends as often as needed."""
        if self._every and time.monotonic() >= self._again:
            self._again = time.monotonic() + self._every
            self.say("WATCHDOG=1")
