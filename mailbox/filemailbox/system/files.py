"""Hostile files, read strictly: the one way in which a file in a box is opened, read and listed.

Open once, by name, under the descriptor of the folder: never through a link, never waiting for the other end of a FIFO
or for the holder of a lease. Everything else is asked of that descriptor, and nothing of the name a second time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
NOREPLACE: Final = 1
"""For rename(): fail (FileExistsError) if the new name is taken."""

EXCHANGE: Final = 2
"""For rename(): both change places, in one step."""

_NO_RENAMEAT2: Final = (errno.ENOSYS, errno.EINVAL)
_HERE: Final = -100  # AT_FDCWD
_COMPARED: Final = 1 << 20  # bytes

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def list_dir(folder: int) -> list[str]:
    """The names in an open folder, in no order."""
    os.lseek(folder, 0, os.SEEK_SET)  # btrfs shows a kept descriptor nothing newer than its last rewind
    return os.listdir(folder)


def read(file: int, size: int) -> bytes:
    """The content of an open file: at most *size* + 1 bytes, so that growth is noticed and cannot flood us."""
    data = os.read(file, size + 1)
    while len(data) < size and (more := os.read(file, size + 1 - len(data))):
        data += more
    return data


def close(file: int) -> None:
    """Close a descriptor that was only read from. An error of the kernel does not matter then."""
    try:  # noqa: SIM105  # for each message
        os.close(file)
    except OSError:
        pass


def describe_type(mode: int) -> str:
    """Return the name of a kind of file, by its mode, for a sentence."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFREG: "a file",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFLNK: "a symbolic link",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def move(name: str, source: int, to: str, target: int) -> None:
    """Rename *name* from one open folder to *to* in another, over nothing. Raises OSError: FileExistsError.

    In one step, but where there is no renameat2: there an empty file of ours takes the name first, and is replaced.
    """
    code = _renameat2(source, name, target, to, NOREPLACE)
    if code in _NO_RENAMEAT2:
        _reserve(name, source, to, target)
    elif code:
        raise OSError(code, os.strerror(code), name)


def rename_noreplace(name: str, source: int, target: int) -> None:
    """Rename *name* from one open folder into another and replace nothing. Raises OSError, such as FileExistsError."""
    move(name, source, name, target)


def same(one: str, folder: int, other: str, there: int) -> bool:
    """Return True if two files in folders of ours are the same message: of one owner, and byte for byte.

    Files that cannot be read, or are larger than messages, are not the same.
    """
    files: list[int] = []
    try:
        for name, where in ((one, folder), (other, there)):
            files.append(os.open(name, READ, dir_fd=where))
        mine, yours = map(os.fstat, files)
        return (
            (mine.st_uid, mine.st_size) == (yours.st_uid, yours.st_size)
            and mine.st_size <= _COMPARED
            and all(stat.S_ISREG(each.st_mode) and each.st_nlink == 1 for each in (mine, yours))
            and read(files[0], mine.st_size) == read(files[1], mine.st_size)
        )
    except OSError:
        return False
    finally:
        for file in files:
            close(file)


def rename(source: str, target: str, flags: int, folder: int | None = None) -> None:
    """renameat2(2), which Python does not have. *source* is a path, or a name in *folder*. Raises OSError."""
    code = _renameat2(_HERE if folder is None else folder, source, _HERE, target, flags)
    if code:
        raise OSError(code, os.strerror(code), source)


def bare_rename() -> Callable[[int, bytes, int, bytes, int], int]:
    """renameat2(2) as it is: 0, or -1 for any failure. For the one place where a microsecond counts.

    It costs 0.2 us more than os.rename(), where that with the errno of _renameat2() costs 1.3 us more.
    """
    global _bare_call
    if _bare_call is None:  # ctypes builds a class for each load
        try:
            _bare_call = _load(use_errno=False)
        except (ImportError, OSError):
            return lambda *_: -1
    return _bare_call


def _renameat2(source: int, name: str, target: int, to: str, flags: int) -> int:
    """The errno of renameat2(2), 0 if it was done."""
    global _call
    try:
        import ctypes  # costs more to import than all else here, and a sender does without

        _call = _call or _load(use_errno=True)
    except ImportError:
        return errno.ENOSYS
    except OSError as error:
        return error.errno or errno.ENOSYS
    if _call(source, os.fsencode(name), target, os.fsencode(to), flags) == 0:
        return 0
    return ctypes.get_errno()


def _load(*, use_errno: bool) -> Callable[[int, bytes, int, bytes, int], int]:
    import ctypes

    call: Any = getattr(ctypes.CDLL(None, use_errno=use_errno), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, "this C library has no renameat2")
    return call  # type: ignore[no-any-return]


def _reserve(name: str, source: int, to: str, target: int) -> None:
    """Rename and replace nothing, if the kernel, the C library or the file system cannot do that in one step.

    Not by link(2) and unlink(2): the kernel refuses a link to the file of another uid that we may not write, and a
    crash in between would leave a message with two links, which no consumer takes. A crash here leaves an empty file.
    """
    if not stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):  # a folder replaces no file
        try:
            os.close(os.open(to, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=target))
        except OSError as error:  # a full disk must not stop the settling: then nothing lay there a moment ago
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or lies(to, target):
                raise
    try:
        os.rename(name, to, src_dir_fd=source, dst_dir_fd=target)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(to, dir_fd=target)
        raise


def lies(name: str, folder: int) -> bool:
    """Return True if there is a file under *name* in an open folder."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


_call: Callable[[int, bytes, int, bytes, int], int] | None = None
_bare_call: Callable[[int, bytes, int, bytes, int], int] | None = None
