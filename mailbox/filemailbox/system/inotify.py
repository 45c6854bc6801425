"""inotify(7), asked directly: a descriptor that is readable when something has come into a folder.

watchfiles asks the same kernel, and hands its notices out once in every step: see wake/watcher.py. Asked directly, the
kernel wakes the reader at once, nothing runs while nothing comes, and there is no thread (`scripts/bench wake` measures
both). Linux alone has it.
"""

import contextlib
import ctypes
import os
import struct
from typing import Any, Final

_MOVED_TO: Final = 0x80
_CLOSE_WRITE: Final = 0x08  # a plain `echo … > new/x.json`
_CREATE: Final = 0x100  # a hard link
_ATTRIB: Final = 0x04  # what some virtual machines turn every change into
_DELETE_SELF: Final = 0x400
_MOVE_SELF: Final = 0x800
_UNMOUNT: Final = 0x2000
_OVERFLOW: Final = 0x4000
_IGNORED: Final = 0x8000
_ONLYDIR: Final = 0x1000000
_WANTED: Final = _MOVED_TO | _CLOSE_WRITE | _CREATE | _ATTRIB | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_OVER: Final = _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _IGNORED
_HEAD: Final = struct.Struct("iIII")  # watch, mask, cookie, length of the name


class Inotify:
    """A watch on one folder. It reports that something happened there, not what: a scan finds that out."""

    def __init__(self, folder: str) -> None:
        """Raises OSError: no such folder, no more instances or watches (EMFILE, ENOSPC), no inotify here (ENOSYS)."""
        libc = _libc()
        self.over = False
        """True if the folder is gone or was moved away: this watch gets no more notices."""
        self.heard = 0
        """Number of times that clear() cleared something."""
        self._file = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            _checked(libc.inotify_add_watch(self._file, os.fsencode(folder), _WANTED))
        except OSError:
            os.close(self._file)
            raise

    def fileno(self) -> int:
        """For select and its kin."""
        return self._file

    def clear(self) -> bool:
        """Forget what has happened so far. Returns whether anything had."""
        try:
            events = os.read(self._file, 65536)
        except BlockingIOError:
            return False
        self.heard += 1
        at = 0
        while at < len(events):
            _, mask, _, length = _HEAD.unpack_from(events, at)
            self.over = self.over or bool(mask & _OVER)
            at += _HEAD.size + length
        return True

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self._file)

    disown = close  # in the child of a fork: the parent goes on with its own


class MultiWatch:
    """Watches on many folders with one descriptor: the kernel grants a user few of these."""

    def __init__(self) -> None:
        """Raises OSError, as Inotify does."""
        self._file = _checked(_libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        """For select and its kin."""
        return self._file

    def add(self, folder: int) -> int:
        """Watch an open folder. Returns the number of the watch. Raises OSError."""
        path = os.fsencode(f"/proc/self/fd/{folder}")
        return _checked(_libc().inotify_add_watch(self._file, path, _WANTED))

    def drop(self, watch: int) -> None:
        """Watch it no more."""
        _libc().inotify_rm_watch(self._file, watch)

    def heard(self) -> dict[int, list[str] | None]:
        """The watches that something has happened in since the last time, with the names of what it happened to.

        None in the place of names means: look for yourself. The watch -1 is among them where some were missed.
        """
        heard: dict[int, list[str] | None] = {}
        with contextlib.suppress(BlockingIOError):
            for _ in range(8):  # a flood must not keep us here
                events, at = os.read(self._file, 65536), 0
                while at < len(events):
                    watch, mask, _, length = _HEAD.unpack_from(events, at)
                    at += _HEAD.size
                    name = events[at : at + length].rstrip(b"\0")
                    at += length
                    names = heard.setdefault(-1 if mask & _OVERFLOW else watch, [])
                    if not name or mask & _OVER:
                        heard[watch] = None
                    elif names is not None:
                        names.append(os.fsdecode(name))
                if len(events) < 32768:
                    break
        return heard

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self._file)


def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        raise OSError(38, "there is no inotify here")  # ENOSYS
    return libc


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
