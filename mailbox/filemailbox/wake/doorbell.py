"""The doorbell of a box: a ring means "look now", before the next poll.

A ring is advice. The message is in `new/` already, so if no listener is there, if a queue is full or a socket is
missing, a ringer does nothing. The byte that it sends has no meaning: it may be lost, forged or doubled.

A doorbell is a Unix datagram socket in `run/`, one for each listener, bound under a hidden name and renamed into place.
It is reached through the file system, so it crosses the network, PID, mount and user namespaces of one kernel.

This module is the listener's side; ringer.py is the sender's. A ringer may be hostile: a ring may carry descriptors,
and closing those can take its receiver as long as the ringer likes (a TCP socket with SO_LINGER). So a listener refuses
them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import weakref
from _thread import allocate_lock, start_new_thread

from .ringer import datagram

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket
    from typing import Final

MAX_SOCKET_PATH: Final = 107
"""Bytes in the path of a Unix socket (unix(7): sun_path)."""

STALE_AFTER: Final = 60.0
"""Seconds after which a doorbell that no listener holds is deleted."""

SO_PASSRIGHTS: Final = 83
"""Socket option, from Linux 6.16 on. Python has no name for it."""


class Bell:
    """The doorbell of a listener: a socket to wait on."""

    def __init__(self, run: str, *, refuse: bool = True) -> None:
        """Bind a doorbell in the folder *run*. Raises OSError.

        The kernel refuses rings that carry descriptors: their ringer gets EPERM. Kernels before Linux 6.16 cannot do
        that, and with *refuse* False it is not asked for: then a thread of its own reads such rings.
        """
        self._socket = datagram()
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


def has_listener(path: str) -> bool:
    """Return True if a listener holds the doorbell at *path*. The kernel knows that without a ring."""
    with datagram() as probe:
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
