"""Locks that die with their holder.

An flock is released by the kernel when its process ends, however it ends, in every PID namespace. So whoever can take
the lock of a folder knows that its owner is gone: no pid, no age, no heartbeat is ever judged. It holds on one kernel;
across machines or virtual machines that share a folder it does not.

Asking takes a shared lock for a moment, through a descriptor that can only read: also on a read-only mount, also by one
who may only read. flock(2) has no other way to ask. Two who ask do not see each other; a taker that meets one tries
again.

This is the only user of filelock, which also lets go in the child of a fork.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_ASK: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NOT_HELD: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV)
"""Errors of the kernel if there is no such file, or a link or a socket in its place: no process holds that."""

_HELD: Final = (errno.EAGAIN, errno.EACCES)
_ASKED: Final = 0.25  # seconds that a taker gives to those who ask, who hold it for microseconds
_PAUSE: Final = 0.0002  # seconds between two tries of it


class Lock:
    """A lock file, taken or not. Held until release(), or until this process ends."""

    __slots__ = ("_lock",)

    def __init__(self, path: str) -> None:
        # Imported here because it brings asyncio along: a sender needs no lock.
        from filelock import FileLock

        self._lock: FileLock = FileLock(path, mode=0o600, thread_local=False, fallback_to_soft=False)

    def take(self, wait: float = 0) -> bool:
        """Try for *wait* seconds to take it; whether it is ours now.

        Raises OSError where it cannot be known: no such folder, a read-only disk, no more descriptors.
        """
        os.stat(os.path.dirname(self._lock.lock_file))  # filelock would make it, and a removed box would be half back
        if self._acquire(wait):
            return True
        until = time.monotonic() + _ASKED
        while not is_held(self._lock.lock_file) and time.monotonic() < until:  # one who asked was in the way
            if self._acquire(0):
                return True
            time.sleep(_PAUSE)
        return False

    def _acquire(self, wait: float) -> bool:
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=wait, poll_interval=0.005)
        except Timeout:
            return False
        return True

    @property
    def held(self) -> bool:
        """True if the lock is ours; False in the child of a fork."""
        return self._lock.is_locked

    def release(self) -> None:
        """Let go. The file stays: deleting a lock file lets two in."""
        try:
            self._lock.release(force=True)
        except OSError:  # it is still ours, and would be until this process ends: once more
            self._lock.release(force=True)


def is_held(path: str, folder: int | None = None) -> bool:
    """Return True if a living process holds the lock at *path*, or of that name in *folder*; False if there is none.

    A link in its place is never followed. Raises OSError if it cannot be known.
    """
    try:
        file = os.open(path, _ASK, dir_fd=folder)
    except OSError as error:
        if error.errno in _NOT_HELD:
            return False
        raise
    try:
        return not _lock(file, fcntl.LOCK_SH)
    finally:
        _let_go(file)


@contextlib.contextmanager
def taken(name: str, folder: int) -> Iterator[bool]:
    """Try for the lock *name* in an open folder, for a short block of work in one thread; whether it is ours.

    For a sweep that knows a box by its descriptors: a Lock is found by its path, which may lead elsewhere by now.
    Raises OSError where it cannot be known.
    """
    file = os.open(name, os.O_RDWR | os.O_CREAT | _ASK, 0o600, dir_fd=folder)
    try:
        until = time.monotonic() + _ASKED
        mine = _lock(file, fcntl.LOCK_EX)
        while not mine and not is_held(name, folder) and time.monotonic() < until:
            time.sleep(_PAUSE)
            mine = _lock(file, fcntl.LOCK_EX)
        yield mine
    finally:
        _let_go(file)


def _lock(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def _let_go(file: int) -> None:
    """Unlock and close: to close alone would leave it locked where another thread has forked meanwhile."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)
