"""A bell on a box: look now, not at the next round.

Ringing is advice. The message is already in `new/`, so an empty house, a full queue and a missing socket get the same
answer: nothing. A byte on the bell means nothing either; it carries no message, so it may be lost, forged or doubled.

A bell is a Unix datagram socket in `run/`, one for each listener, bound under a hidden name and renamed into place:
reached through the file system, it crosses network, PID, mount and user namespaces of one kernel.

Strangers ring, and strangers hang bells. So a ring brings no descriptor: to close one may take its receiver as long as
the ringer likes (a TCP socket with SO_LINGER). And a folder of bells, however full, costs a ringer little.
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

_LONGEST: Final = 107  # bytes in the path of a Unix socket (unix(7): sun_path)
_STALE: Final = 60.0  # seconds after which a bell that nobody holds is taken away
_FRESH: Final = 50_000_000  # nanoseconds: a folder changed this lately may change again under the same mtime
_BLINK: Final = 0.001  # seconds for which it is believed that nobody listens: a burst asks once
_AMONG: Final = 0.25  # seconds for which those who listen are believed to be all: who has come meanwhile looks by then
_TRUST: Final = 1.0  # seconds for which a kept folder is taken to be the one at its path
_BOXES: Final = 64  # how many boxes' bells are kept open
_BELLS: Final = 32  # of one box that are rung and kept open: who listens beyond looks four times a second anyway
_TRIED: Final = 64  # sockets of one box that are tried: those of dead listeners lie among them for a minute
_NAMES: Final = 256  # names in one run/ that are looked at: a bell and a status file for each listener, leftovers
_KEPT: Final = 128  # bells kept open in all: a process has 1 024 descriptors, and needs them for other things
_PASSRIGHTS: Final = 83  # SO_PASSRIGHTS, from Linux 6.16 on; Python has no name for it


class Bell:
    """Our own bell: a socket to wait on. close() takes it away."""

    def __init__(self, run: str, *, refuse: bool = True) -> None:
        """Hang a bell in the folder *run*. Raises OSError where that cannot be.

        The kernel refuses descriptors on it, and whoever rings with one gets EPERM. Kernels before Linux 6.16 cannot,
        nor is it asked without *refuse*: then another thread lets go of what came.
        """
        self._socket = _datagram()
        self._socket.setblocking(False)
        self._ear: _Ear | None = None
        self._run = run
        self.path = f"{run}/{os.urandom(6).hex()}"
        hidden = f"{run}/.{self.path[-12:]}"
        try:
            if not (refuse and _refuses_descriptors(self._socket)):
                self._ear = _Ear(self._socket)
            _reach(self._socket.bind, hidden)
            os.chmod(hidden, 0o722)  # before it can be found: bind() obeys the umask
            os.rename(hidden, self.path)
            self._inode = os.lstat(self.path).st_ino
        except OSError:
            (self._ear or self._socket).close()
            with contextlib.suppress(OSError):
                os.unlink(hidden)
            raise
        held = self._ear or self._socket
        self._take_down = weakref.finalize(self, _take_down, held, self.path, self._inode, os.getpid())
        _sweep(run)

    def fileno(self) -> int:
        """For select and its kin: readable when it has rung."""
        return (self._ear or self._socket).fileno()

    def clear(self) -> bool:
        """Forget the rings so far, and say whether there were any. Call it before looking, never after."""
        rang = False
        take = self._socket.recv if self._ear is None else self._ear.recv
        with contextlib.suppress(OSError):
            for _ in range(64):  # a flood must not keep us here
                take(1)
                rang = True
        return rang

    def is_bound(self) -> bool:
        """Whether it can still be found: somebody may have wiped the folder."""
        try:
            return os.lstat(self.path).st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """Take it down. Happens by itself when the process ends or nobody refers to it any more."""
        self._take_down()


class _Ear:
    """A bell on a kernel that lets descriptors through: whoever takes such a ring has to close what came with it.

    That is done by a thread, and meanwhile the bell is deaf: mail is found at the next look. fileno() is an epoll, not
    the socket, so that a ring which only that thread may take wakes nobody.
    """

    def __init__(self, bell: socket) -> None:
        from select import EPOLLIN, epoll

        self._bell, self._events, self._in = bell, epoll(), EPOLLIN
        self._guard, self._letting_go, self._closed = allocate_lock(), False, False
        self._process = os.getpid()
        self._events.register(bell, EPOLLIN)

    def fileno(self) -> int:
        """For select and its kin."""
        return self._events.fileno()

    def recv(self, size: int) -> bytes:
        """Take one ring. Raises BlockingIOError where there is none that we may take."""
        with self._guard:  # between a look and a take nobody else may take
            if self._letting_go:
                raise BlockingIOError(errno.EAGAIN, "a thread is at it")
            if not _is_laden(self._bell):
                return self._bell.recv(size)
            self._letting_go = True
            self._events.unregister(self._bell)
            try:
                start_new_thread(self._let_go, ())
            except RuntimeError:  # no more threads: at the next look
                self._hear_again()
            return b""

    def close(self) -> None:
        """Let go of the socket; in a thread, where descriptors lie in its queue."""
        if self._process != os.getpid():  # after a fork: what rings is the parent's, and a lock may have been held
            self._events.close()
            return _close_aside(self._bell)
        with self._guard:
            self._closed = True
            self._events.close()
            with contextlib.suppress(OSError):
                self._bell.shutdown(0)  # SHUT_RD: nothing comes any more
            if not self._letting_go:
                self._empty()
        return None

    def _empty(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while not _is_laden(self._bell):
                self._bell.recv(1)
            return _close_aside(self._bell)
        self._bell.close()
        return None

    def _let_go(self) -> None:
        """Take rings until one comes that brings nothing."""
        with contextlib.suppress(OSError):
            while _is_laden(self._bell):
                self._bell.recv(1)  # may take hours
        with self._guard:
            self._hear_again()
            if self._closed:
                self._empty()

    def _hear_again(self) -> None:
        self._letting_go = False
        if not self._closed:
            self._events.register(self._bell, self._in)


class _Known:
    """The bells of one box, kept open."""

    __slots__ = ("bells", "changed", "folder", "fresh", "until")

    def __init__(self, folder: int, changed: int, fresh: float, until: float, bells: list[socket]) -> None:
        self.folder = folder  # run/, open
        self.changed = changed  # its mtime when it was listed
        self.fresh = fresh  # until when not even the mtime is asked, unless one of them is gone
        self.until = until  # until when it is taken to be the folder at its path
        self.bells = bells  # sockets connected to them: the kernel looks for each of them once, not at every ring


class Ringer:
    """Rings the bells of others. It keeps them at hand, so that a ring costs one send, and now and then a stat."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._known: dict[str, _Known] = {}
        self._kept = 0  # bells, in all
        self._guard = allocate_lock()
        _ringers.add(self)

    def ring(self, box: str, *, look: bool = False) -> None:
        """Ring every bell of the box, without waiting. Never raises.

        A bell that was hung beside others less than 250 ms ago may stay silent: whoever hung it looks by then. *look*
        is for answers: who waits for one has often just come, and has nothing but his bell.
        """
        known, now = self._known.get(box), time.monotonic()
        if known is not None and not known.bells and now < known.fresh:
            return  # nobody listened a moment ago
        with self._guard:
            try:
                known = self._known.get(box)
                if known is None or look or now >= known.fresh:
                    _all_ring(self._look(box, now))
                elif not _all_ring(known.bells):  # one is gone: another has perhaps come for it
                    self._forget(box)
                    _all_ring(self._look(box, now))
            except OSError:
                return

    def close(self) -> None:
        """Let go of sockets and descriptors."""
        with self._guard:
            for run in list(self._known):
                self._forget(run)

    def __del__(self) -> None:
        self.close()

    def _look(self, box: str, now: float) -> list[socket]:
        """The bells of *box*, listed anew where the folder has changed, or may not be the same any more."""
        known = self._known.get(box)
        if known is None or now >= known.until or os.fstat(known.folder).st_mtime_ns != known.changed:
            self._forget(box)
            folder = os.open(f"{self._root}/{box}/run", FOLDER)
            changed = os.fstat(folder).st_mtime_ns
            known = self._known[box] = _Known(folder, changed, now, now + _TRUST, _open_bells(folder))
            if time.time_ns() - changed < _FRESH:
                known.changed = -1  # it may change again under the same mtime: look again the next time
            self._kept += len(known.bells)
            while len(self._known) > _BOXES or self._kept > _KEPT:  # never this one, which is the last
                self._forget(next(iter(self._known)))
        known.fresh = now + (_AMONG if known.bells and known.changed >= 0 else _BLINK)
        return known.bells

    def _forget(self, box: str) -> None:
        known = self._known.pop(box, None)
        if known is not None:
            with contextlib.suppress(OSError):
                os.close(known.folder)
            self._kept -= len(known.bells)
            for bell in known.bells:
                bell.close()


def has_listener(path: str) -> bool:
    """Whether somebody listens on the bell at *path*. Asked from the kernel, without ringing."""
    with _datagram() as probe:
        try:
            _reach(probe.connect, path)
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTSOCK)
        return True


def _take_down(listening: socket | _Ear, path: str, inode: int, process: int) -> None:
    listening.close()
    with contextlib.suppress(OSError):
        if process == os.getpid() and os.lstat(path).st_ino == inode:  # in the child of a fork it is the parent's
            os.unlink(path)


def _datagram() -> socket:
    from socket import AF_UNIX, SOCK_DGRAM, socket  # a sender whom nobody listens to needs no sockets

    return socket(AF_UNIX, SOCK_DGRAM)


def _refuses_descriptors(bell: socket) -> bool:
    """Tell the kernel to let no descriptor through to *bell*. Returns whether it does that."""
    from socket import SOL_SOCKET

    try:
        if bell.getsockopt(SOL_SOCKET, _PASSRIGHTS) != 1:  # some processors have another option under that number
            return False
        bell.setsockopt(SOL_SOCKET, _PASSRIGHTS, 0)
        return bell.getsockopt(SOL_SOCKET, _PASSRIGHTS) == 0
    except OSError:
        return False


def _is_laden(bell: socket) -> bool:
    """Whether the next ring brings descriptors. It stays where it is. Raises BlockingIOError where there is none."""
    from socket import MSG_CTRUNC, MSG_PEEK

    return bool(bell.recvmsg(1, 0, MSG_PEEK)[2] & MSG_CTRUNC)


def _close_aside(bell: socket) -> None:
    """Close *bell* in a thread, for what lies in its queue is closed with it."""
    with contextlib.suppress(RuntimeError):  # at the end of the program: the kernel closes it, and waits for nothing
        start_new_thread(os.close, (bell.detach(),))


def _open_bells(folder: int) -> list[socket]:
    """The bells in an open run/, connected: of a folder that is full, a few. Its owner hangs there what he likes."""
    # O_PATH | O_NOFOLLOW: a symlink in there must not make us ring somebody else's socket.
    bells: list[socket] = []
    tried = 0
    os.lseek(folder, 0, os.SEEK_SET)  # btrfs shows a kept descriptor nothing newer than its last rewind
    with os.scandir(folder) as entries:  # reads on only as far as we go
        for _, entry in zip(range(_NAMES), entries, strict=False):
            name = entry.name
            if name.startswith(".") or entry.is_file(follow_symlinks=False):  # a status file: known without asking
                continue
            tried += 1
            with contextlib.suppress(OSError):
                bell = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                try:
                    if stat.S_ISSOCK(os.fstat(bell).st_mode):
                        bells.append(_connected(f"/proc/self/fd/{bell}"))
                finally:
                    os.close(bell)
            if tried >= _TRIED or len(bells) >= _BELLS:
                break
    return bells


def _all_ring(bells: list[socket]) -> bool:
    """Ring these; whether there is somebody behind each of them."""
    held = True
    for bell in bells:
        try:
            bell.send(b"!")
        except BlockingIOError:
            continue  # its queue is full, so it is ringing already
        except OSError:
            held = False
    return held


def _connected(path: str) -> socket:
    """Raises OSError where nobody holds it any more."""
    connected = _datagram()
    connected.setblocking(False)
    try:
        connected.connect(path)
    except OSError:
        connected.close()
        raise
    return connected


def _reach(call: Callable[[str], None], path: str) -> None:
    """bind or connect to *path*, also where it is longer than a socket's address may be."""
    if len(os.fsencode(path)) <= _LONGEST:
        call(path)
        return
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    finally:
        os.close(folder)


def _sweep(run: str) -> None:
    """Take away the bells of listeners that are gone."""
    with contextlib.suppress(OSError):
        for name in os.listdir(run):
            facts = os.lstat(f"{run}/{name}")
            if (
                stat.S_ISSOCK(facts.st_mode)
                and time.time() - facts.st_mtime > _STALE
                and not has_listener(f"{run}/{name}")
            ):
                os.unlink(f"{run}/{name}")


_ringers: weakref.WeakSet[Ringer] = weakref.WeakSet()


def _free_ringers() -> None:
    for ringer in list(_ringers):
        ringer._guard = allocate_lock()  # another thread may have held it when we were forked


os.register_at_fork(after_in_child=_free_ringers)
