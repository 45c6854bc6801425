"""The doorbell of a box: a ring means "look now", before the next poll.

A ring is advice. The message is in `new/` already, so if no listener is there, if a queue is full or a socket is
missing, a ringer does nothing. The byte that it sends has no meaning: it may be lost, forged or doubled.

A doorbell is a Unix datagram socket in `run/`, one for each listener, bound under a hidden name and renamed into place.
It is reached through the file system, so it crosses the network, PID, mount and user namespaces of one kernel.

Both sides may be hostile. A ring may carry descriptors, and closing those can take its receiver as long as the ringer
likes (a TCP socket with SO_LINGER), so a listener refuses them. The owner of a box may put thousands of sockets into
its `run/`, so a ringer bounds what it reads and keeps.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import weakref
from _thread import allocate_lock, start_new_thread

from ..system.files import FOLDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket
    from typing import Final

MAX_SOCKET_PATH: Final = 107
"""Bytes in the path of a Unix socket (unix(7): sun_path)."""

STALE_AFTER: Final = 60.0
"""Seconds after which a doorbell that no listener holds is deleted."""

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

SO_PASSRIGHTS: Final = 83
"""Socket option, from Linux 6.16 on. Python has no name for it."""

_NO_LISTENER_TTL: Final = 0.001  # seconds that "no listener" is believed: without it a burst of sends is 26 % slower
BELLS_TTL: Final = 0.25
"""Seconds that known doorbells are believed to be all. With an fstat at every ring a send takes 7 % longer."""

_FOLDER_TTL: Final = 1.0  # seconds that an open run/ is believed to be the one at its path
_MTIME_TICK_NS: Final = 50_000_000  # a folder changed this lately may change again under the same mtime


class Bell:
    """The doorbell of a listener: a socket to wait on."""

    def __init__(self, run: str, *, refuse: bool = True) -> None:
        """Bind a doorbell in the folder *run*. Raises OSError.

        The kernel refuses rings that carry descriptors: their ringer gets EPERM. Kernels before Linux 6.16 cannot do
        that, and with *refuse* False it is not asked for: then a thread of its own reads such rings.
        """
        self._socket = _datagram()
        self._socket.setblocking(False)
        self._drain: _DescriptorDrain | None = None
        self._run = run
        self.path = f"{run}/{os.urandom(6).hex()}"
        hidden = f"{run}/.{self.path[-12:]}"
        try:
            if not (refuse and _refuses_descriptors(self._socket)):
                self._drain = _DescriptorDrain(self._socket)
            _at_path(self._socket.bind, hidden)
            os.chmod(hidden, 0o722)  # before it can be found: bind() obeys the umask
            os.rename(hidden, self.path)
            self._inode = os.lstat(self.path).st_ino
        except OSError:
            (self._drain or self._socket).close()
            with contextlib.suppress(OSError):
                os.unlink(hidden)
            raise
        held = self._drain or self._socket
        self._unbind = weakref.finalize(self, _unbind, held, self.path, self._inode, os.getpid())
        _delete_stale(run)

    def fileno(self) -> int:
        """Descriptor for select and its kin: readable when it has rung."""
        return (self._drain or self._socket).fileno()

    def clear(self) -> bool:
        """Clear the rings so far. Returns True if there were any. Call it before a scan, never after."""
        rang = False
        recv = self._socket.recv if self._drain is None else self._drain.recv
        with contextlib.suppress(OSError):
            for _ in range(64):  # bounded, so that a flood does not keep the listener here
                recv(1)
                rang = True
        return rang

    def is_bound(self) -> bool:
        """Return True if ringers can find it. They cannot if `run/` was wiped."""
        try:
            return os.lstat(self.path).st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """Close and delete it. The end of the process does that too, and the end of the last reference to it."""
        self._unbind()


class _DescriptorDrain:
    """A doorbell on a kernel that lets descriptors through: reading such a ring closes what it carries.

    A thread reads those rings. Meanwhile the doorbell is deaf, and polling finds mail. fileno() is an epoll, not the
    socket, so that a ring that only the thread may read wakes no one.
    """

    def __init__(self, bell: socket) -> None:
        from select import EPOLLIN, epoll

        self._bell, self._epoll, self._readable = bell, epoll(), EPOLLIN
        self._lock, self._draining, self._closed = allocate_lock(), False, False
        self._process = os.getpid()
        self._epoll.register(bell, EPOLLIN)

    def fileno(self) -> int:
        """Descriptor for select and its kin."""
        return self._epoll.fileno()

    def recv(self, size: int) -> bytes:
        """Read one ring. Raises BlockingIOError if there is none that this thread may read."""
        with self._lock:  # no other thread may read between the peek and the read
            if self._draining:
                raise BlockingIOError(errno.EAGAIN, "a thread reads it")
            if not _carries_descriptors(self._bell):
                return self._bell.recv(size)
            self._draining = True
            self._epoll.unregister(self._bell)
            try:
                start_new_thread(self._read_rings, ())
            except RuntimeError:  # no more threads: the next recv() tries again
                self._resume()
            return b""

    def close(self) -> None:
        """Close the socket; in a thread, if there are descriptors in its queue."""
        if self._process != os.getpid():  # after a fork: the rings are the parent's, and the lock may be taken
            self._epoll.close()
            return _close_in_thread(self._bell)
        with self._lock:
            self._closed = True
            self._epoll.close()
            with contextlib.suppress(OSError):
                self._bell.shutdown(0)  # SHUT_RD: no more rings
            if not self._draining:
                self._empty_and_close()
        return None

    def _empty_and_close(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while not _carries_descriptors(self._bell):
                self._bell.recv(1)
            return _close_in_thread(self._bell)
        self._bell.close()
        return None

    def _read_rings(self) -> None:
        """Read rings until one comes that carries nothing."""
        with contextlib.suppress(OSError):
            while _carries_descriptors(self._bell):
                self._bell.recv(1)  # may take hours
        with self._lock:
            self._resume()
            if self._closed:
                self._empty_and_close()

    def _resume(self) -> None:
        self._draining = False
        if not self._closed:
            self._epoll.register(self._bell, self._readable)


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


def has_listener(path: str) -> bool:
    """Return True if a listener holds the doorbell at *path*. The kernel knows that without a ring."""
    with _datagram() as probe:
        try:
            _at_path(probe.connect, path)
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTSOCK)
        return True


def _unbind(held: socket | _DescriptorDrain, path: str, inode: int, process: int) -> None:
    held.close()
    with contextlib.suppress(OSError):
        if process == os.getpid() and os.lstat(path).st_ino == inode:  # in the child of a fork it is the parent's
            os.unlink(path)


def _datagram() -> socket:
    from socket import AF_UNIX, SOCK_DGRAM, socket  # imported here: without a listener, a sender needs no socket

    return socket(AF_UNIX, SOCK_DGRAM)


def _refuses_descriptors(bell: socket) -> bool:
    """Have the kernel refuse descriptors on *bell*. Returns True if it does."""
    from socket import SOL_SOCKET

    try:
        if bell.getsockopt(SOL_SOCKET, SO_PASSRIGHTS) != 1:  # some processors have another option under that number
            return False
        bell.setsockopt(SOL_SOCKET, SO_PASSRIGHTS, 0)
        return bell.getsockopt(SOL_SOCKET, SO_PASSRIGHTS) == 0
    except OSError:
        return False


def _carries_descriptors(bell: socket) -> bool:
    """Return True if the next ring carries descriptors. It is left in the queue. Raises BlockingIOError if none is."""
    from socket import MSG_CTRUNC, MSG_PEEK

    return bool(bell.recvmsg(1, 0, MSG_PEEK)[2] & MSG_CTRUNC)


def _close_in_thread(bell: socket) -> None:
    """Close *bell* in a thread: that closes the descriptors in its queue, too."""
    with contextlib.suppress(RuntimeError):  # at the end of the program: the kernel closes it, without waiting
        start_new_thread(os.close, (bell.detach(),))


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
    connected = _datagram()
    connected.setblocking(False)
    try:
        connected.connect(path)
    except OSError:
        connected.close()
        raise
    return connected


def _at_path(call: Callable[[str], None], path: str) -> None:
    """Bind or connect to *path*, even if it is longer than the address of a socket may be."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        call(path)
        return
    dir_fd = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(f"/proc/self/fd/{dir_fd}/{os.path.basename(path)}")
    finally:
        os.close(dir_fd)


def _delete_stale(run: str) -> None:
    """Delete the doorbells of listeners that are gone."""
    with contextlib.suppress(OSError):
        for name in os.listdir(run):
            st = os.lstat(f"{run}/{name}")
            is_old = stat.S_ISSOCK(st.st_mode) and time.time() - st.st_mtime > STALE_AFTER
            if is_old and not has_listener(f"{run}/{name}"):
                os.unlink(f"{run}/{name}")


_ringers: weakref.WeakSet[Ringer] = weakref.WeakSet()


def _free_locks_after_fork() -> None:
    for ringer in list(_ringers):
        ringer._lock = allocate_lock()  # another thread of the parent may hold it


os.register_at_fork(after_in_child=_free_locks_after_fork)
