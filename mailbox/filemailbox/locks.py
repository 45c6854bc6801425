"""Locks that die with their holder.

An flock is released by the kernel when its process ends, however it ends, in every PID namespace. So whoever can take
the lock of a folder knows that its owner is gone: no pid, no age, no heartbeat is ever judged. It holds on one kernel;
across machines or virtual machines that share a folder it does not.

This is the only user of filelock, which also lets go in the child of a fork.
"""

import os


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
        from filelock import Timeout

        os.stat(os.path.dirname(self._lock.lock_file))  # filelock would make it, and a removed box would be half back
        try:
            self._lock.acquire(timeout=wait, poll_interval=0.005)
        except Timeout:
            return False
        return True

    @property
    def held(self) -> bool:
        """Whether it is ours. Not in the child of a fork."""
        return self._lock.is_locked

    def release(self) -> None:
        """Let go. The file stays: deleting a lock file lets two in."""
        try:
            self._lock.release(force=True)
        except OSError:  # it is still ours, and would be until this process ends: once more
            self._lock.release(force=True)


def is_held(path: str) -> bool:
    """Whether a living process holds the lock at *path*: asked by taking it for a moment. False where there is none.

    Raises OSError where that cannot be known.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    lock = Lock(path)
    if lock.take():
        lock.release()
        return False
    return True
