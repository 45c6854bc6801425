"""A descriptor that is readable after a call of set(): eventfd(2), or a pipe on systems without it."""

import os
from typing import Final

_HAS_EVENTFD: Final = hasattr(os, "eventfd")


class WakeFd:
    """Something to wait on with select and its kin, set by any thread.

    With *count* each set() satisfies one take(): for n sleepers, or n items of a queue. Without it, one take() clears
    all set() before it.
    """

    def __init__(self, *, count: bool = False, has_eventfd: bool = _HAS_EVENTFD) -> None:
        """Raises OSError if the process has no descriptor left."""
        self._count, self._has_eventfd = count, has_eventfd
        if has_eventfd:
            kind = os.EFD_SEMAPHORE if count else 0
            self._read = self._write = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | kind)
        else:
            self._read, self._write = os.pipe()  # not inherited
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """For select and its kin: readable after set()."""
        return self._read

    def set(self, n: int = 1) -> None:
        """Make it readable, with *count* for *n* calls of take(). Never waits. Raises OSError if it is closed."""
        try:
            if self._has_eventfd:
                os.eventfd_write(self._write, n)
            else:
                os.write(self._write, b"!" * n)
        except BlockingIOError:
            return  # a full pipe is readable already

    def take(self) -> bool:
        """Take one set(), or without *count* all. Returns False if there was none. Never waits."""
        try:
            if self._has_eventfd:
                os.eventfd_read(self._read)
            else:
                os.read(self._read, 1 if self._count else 65536)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close it."""
        os.close(self._read)
        if self._write != self._read:
            os.close(self._write)
