"""The ringer: the sender's side of doorbells. See doorbell.py.

It keeps the doorbells of its recipients open, so that most rings cost one send(2). The owner of a box may put thousands
of sockets into its `run/`, so a ringer bounds what it reads and keeps.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import weakref
from _thread import allocate_lock

from ..system.files import FOLDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket
    from typing import Final

MAX_BELLS_RUNG: Final = 32
"""Doorbells of one box that are rung and kept open. Listeners beyond them poll anyway."""

MAX_SOCKETS_TRIED: Final = 64
"""Sockets of one box that are tried: those of dead listeners remain among them for a minute."""

MAX_NAMES_READ: Final = 256
"""Names that are read from one run/: a doorbell and a status file for each listener, and leftovers."""

MAX_BELLS_KEPT: Final = 128
"""Doorbells kept open in all: a process has 1024 descriptors, and needs them for other things."""

MAX_BOXES_KEPT: Final = 64
"""Boxes whose doorbells are kept open."""

_NO_LISTENER_TTL: Final = 0.001  # seconds that "no listener" is believed: without it a burst of sends is 26 % slower
BELLS_TTL: Final = 0.25
"""Seconds that known doorbells are believed to be all. With an fstat at every ring a send takes 7 % longer."""

_FOLDER_TTL: Final = 1.0  # seconds that an open run/ is believed to be the one at its path
_MTIME_TICK_NS: Final = 50_000_000  # a folder changed this lately may change again under the same mtime


class _BellCache:
    """The doorbells of one box, kept open."""

    __slots__ = ("bells", "fresh_until", "mtime_ns", "run_fd", "valid_until")

    def __init__(self, run_fd: int, mtime_ns: int, valid_until: float, bells: list[socket]) -> None:
        self.run_fd = run_fd
        self.mtime_ns = mtime_ns  # of run/, when it was listed; -1: list it again at the next ring
        self.valid_until = valid_until  # then run/ is opened again: the box may have been replaced
        self.fresh_until = 0.0  # until then these are believed to be all, while none of them is closed
        self.bells = bells  # connected sockets: the kernel resolves each path once, not at every ring


class Ringer:
    """Rings the doorbells of other boxes. It keeps them open, so that most rings cost one send."""

    def __init__(
        self,
        root: str,
        *,
        bells_ttl: float = BELLS_TTL,
        folder_ttl: float = _FOLDER_TTL,
        mtime_tick_ns: int = _MTIME_TICK_NS,
        max_boxes: int = MAX_BOXES_KEPT,
    ) -> None:
        self._root = root
        self._bells_ttl, self._folder_ttl = bells_ttl, folder_ttl
        self._mtime_tick_ns, self._max_boxes = mtime_tick_ns, max_boxes
        self._caches: dict[str, _BellCache] = {}
        self._kept = 0  # doorbells, in all
        self._lock = allocate_lock()
        _ringers.add(self)

    def ring(self, box: str) -> None:
        """Ring every doorbell of the box, without waiting. Never raises.

        One that was bound beside others less than 250 ms ago may stay silent, unless look_again() was called.
        """
        cache, now = self._caches.get(box), time.monotonic()
        if cache is not None and not cache.bells and now < cache.fresh_until:
            return
        with self._lock:
            try:
                cache = self._caches.get(box)
                if cache is None or now >= cache.fresh_until:
                    cache = self._current_bells(box, now)
                if not _ring_all(cache.bells):  # one is closed: another may have replaced it
                    self._forget(box)
                    _ring_all(self._current_bells(box, now).bells)
            except OSError:
                return

    def look_again(self, box: str) -> None:
        """Let the next ring find every doorbell: who waits for an answer has often just bound the only one it has."""
        cache = self._caches.get(box)
        if cache is not None and cache.bells:
            cache.fresh_until = 0.0

    def close(self) -> None:
        """Close all sockets and descriptors. It can be used again."""
        with self._lock:
            for box in list(self._caches):
                self._forget(box)

    def __del__(self) -> None:
        self.close()

    def _current_bells(self, box: str, now: float) -> _BellCache:
        """Return the doorbells of *box*, listed again if `run/` has changed or may have been replaced."""
        cache = self._caches.get(box)
        if cache is None or now >= cache.valid_until or os.fstat(cache.run_fd).st_mtime_ns != cache.mtime_ns:
            self._forget(box)
            run_fd = os.open(f"{self._root}/{box}/run", FOLDER)
            mtime_ns = os.fstat(run_fd).st_mtime_ns
            cache = self._caches[box] = _BellCache(run_fd, mtime_ns, now + self._folder_ttl, _open_bells(run_fd))
            if time.time_ns() - mtime_ns < self._mtime_tick_ns:
                cache.mtime_ns = -1
            self._kept += len(cache.bells)
            while len(self._caches) > self._max_boxes or self._kept > MAX_BELLS_KEPT:  # never this one, the last
                self._forget(next(iter(self._caches)))
        if not cache.bells:
            cache.fresh_until = now + _NO_LISTENER_TTL
        elif cache.mtime_ns >= 0:
            cache.fresh_until = now + self._bells_ttl
        return cache

    def _forget(self, box: str) -> None:
        cache = self._caches.pop(box, None)
        if cache is not None:
            with contextlib.suppress(OSError):
                os.close(cache.run_fd)
            self._kept -= len(cache.bells)
            for bell in cache.bells:
                bell.close()


def _open_bells(run_fd: int) -> list[socket]:
    """Return the doorbells in an open run/, connected. Bounded: its owner can fill the folder."""
    # O_PATH | O_NOFOLLOW: a symbolic link must not direct the ring to the socket of another program.
    bells: list[socket] = []
    tried = 0
    os.lseek(run_fd, 0, os.SEEK_SET)  # btrfs shows an open descriptor nothing newer than its last rewind
    with os.scandir(run_fd) as entries:  # reads no further than the loop goes
        for _, entry in zip(range(MAX_NAMES_READ), entries, strict=False):
            name = entry.name
            if name.startswith(".") or entry.is_file(follow_symlinks=False):  # a status file: known without a stat
                continue
            tried += 1
            with contextlib.suppress(OSError):
                path_fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=run_fd)
                try:
                    if stat.S_ISSOCK(os.fstat(path_fd).st_mode):
                        bells.append(_connect(f"/proc/self/fd/{path_fd}"))
                finally:
                    os.close(path_fd)
            if tried >= MAX_SOCKETS_TRIED or len(bells) >= MAX_BELLS_RUNG:
                break
    return bells


def _ring_all(bells: list[socket]) -> bool:
    """Ring them. Returns False if one of them is closed."""
    all_open = True
    for bell in bells:
        try:
            bell.send(b"!")
        except BlockingIOError:
            continue  # its queue is full, so it is ringing already
        except OSError:
            all_open = False
    return all_open


def _connect(path: str) -> socket:
    """Connect to a doorbell. Raises OSError if no listener holds it."""
    connected = datagram()
    connected.setblocking(False)
    try:
        connected.connect(path)
    except OSError:
        connected.close()
        raise
    return connected


def datagram() -> socket:
    """Return a new datagram socket of the Unix family."""
    from socket import AF_UNIX, SOCK_DGRAM, socket  # imported here: without a listener, a sender needs no socket

    return socket(AF_UNIX, SOCK_DGRAM)


_ringers: weakref.WeakSet[Ringer] = weakref.WeakSet()


def _free_locks_after_fork() -> None:
    for ringer in list(_ringers):
        ringer._lock = allocate_lock()  # another thread of the parent may hold it


os.register_at_fork(after_in_child=_free_locks_after_fork)
