"""A bell on a box: look now, not at the next round.

Ringing is advice. The message is already in `new/`, so an empty house, a full queue and a missing socket get the same
answer: nothing. A byte on the bell means nothing either; it carries no message, so it may be lost, forged or doubled.

A bell is a Unix datagram socket in `run/`, one for each listener, bound under a hidden name and renamed into place:
reached through the file system, it crosses network, PID, mount and user namespaces of one kernel.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import weakref
from _thread import allocate_lock

from .files import FOLDER, listing

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


class Bell:
    """Our own bell: a socket to wait on. close() takes it away."""

    def __init__(self, run: str) -> None:
        """Hang a bell in the folder *run*. Raises OSError where that cannot be."""
        self._socket = _datagram()
        self._socket.setblocking(False)
        self._run = run
        self.path = f"{run}/{os.urandom(6).hex()}"
        hidden = f"{run}/.{self.path[-12:]}"
        try:
            _reach(self._socket.bind, hidden)
            os.chmod(hidden, 0o722)  # before it can be found: bind() obeys the umask
            os.rename(hidden, self.path)
            self._inode = os.lstat(self.path).st_ino
        except OSError:
            self._socket.close()
            with contextlib.suppress(OSError):
                os.unlink(hidden)
            raise
        self._take_down = weakref.finalize(self, _take_down, self._socket, self.path, self._inode, os.getpid())
        _sweep(run)

    def fileno(self) -> int:
        """For select and its kin: readable when it has rung."""
        return self._socket.fileno()

    def hush(self) -> bool:
        """Forget the rings so far, and say whether there were any. Call it before looking, never after."""
        rang = False
        with contextlib.suppress(OSError):
            for _ in range(64):  # a flood must not keep us here
                self._socket.recv(1)
                rang = True
        return rang

    def hangs(self) -> bool:
        """Whether it can still be found: somebody may have wiped the folder."""
        try:
            return os.lstat(self.path).st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """Take it down. Happens by itself when the process ends or nobody refers to it any more."""
        self._take_down()


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
            if len(self._known) > _BOXES:
                self._forget(next(iter(self._known)))
        known.fresh = now + (_AMONG if known.bells and known.changed >= 0 else _BLINK)
        return known.bells

    def _forget(self, box: str) -> None:
        known = self._known.pop(box, None)
        if known is not None:
            with contextlib.suppress(OSError):
                os.close(known.folder)
            for bell in known.bells:
                bell.close()


def hears(path: str) -> bool:
    """Whether somebody listens on the bell at *path*. Asked from the kernel, without ringing."""
    with _datagram() as probe:
        try:
            _reach(probe.connect, path)
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTSOCK)
        return True


def _take_down(listening: socket, path: str, inode: int, process: int) -> None:
    listening.close()
    with contextlib.suppress(OSError):
        if process == os.getpid() and os.lstat(path).st_ino == inode:  # in the child of a fork it is the parent's
            os.unlink(path)


def _datagram() -> socket:
    from socket import AF_UNIX, SOCK_DGRAM, socket  # a sender whom nobody listens to needs no sockets

    return socket(AF_UNIX, SOCK_DGRAM)


def _open_bells(folder: int) -> list[socket]:
    # O_PATH | O_NOFOLLOW: a symlink in there must not make us ring somebody else's socket.
    bells = []
    for name in listing(folder):
        if name.startswith("."):
            continue
        with contextlib.suppress(OSError):
            bell = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                if stat.S_ISSOCK(os.fstat(bell).st_mode):
                    bells.append(_connected(f"/proc/self/fd/{bell}"))
            finally:
                os.close(bell)
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
            if stat.S_ISSOCK(facts.st_mode) and time.time() - facts.st_mtime > _STALE and not hears(f"{run}/{name}"):
                os.unlink(f"{run}/{name}")


_ringers: weakref.WeakSet[Ringer] = weakref.WeakSet()


def _free_ringers() -> None:
    for ringer in list(_ringers):
        ringer._guard = allocate_lock()  # another thread may have held it when we were forked


os.register_at_fork(after_in_child=_free_ringers)
