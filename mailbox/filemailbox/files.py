"""Hostile files, read strictly: the one way in which a file in a box is opened, read and listed.

Open once, by name, under the descriptor of the folder: never through a link, never waiting for the other end of a FIFO
or for the holder of a lease. Everything else is asked of that descriptor, and nothing of the name a second time.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
NOREPLACE: Final = 1
"""For rename(): fail (FileExistsError) where something lies under the new name."""

EXCHANGE: Final = 2
"""For rename(): both change places, in one step."""

_NO_RENAMEAT2: Final = (errno.ENOSYS, errno.EINVAL, errno.ENOENT)  # the last: or there is no /proc

_TOO_LONG: Final = "x" * 256  # for a name, so that nobody has one: looked up, it is never remembered as missing

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def listing(folder: int) -> list[str]:
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
    """Let go of a descriptor that was only read from: what the kernel may say to that is about nothing of ours."""
    try:  # noqa: SIM105  # for each message
        os.close(file)
    except OSError:
        pass


def alone(name: str, folder: int, facts: os.stat_result, *, ours: bool) -> bool:
    """Whether the file that was opened lies under *name* in *folder*, and under no other name anywhere.

    Its links counted on the descriptor do not say that: a hard link to somebody's secret can be opened, and be replaced
    before it is counted; then one link is left, that of the secret. Nor is stat(2) of a name one step: only in a folder
    that is *ours* alone, and where we have moved it, it proves something. For others see sole().
    Raises FileNotFoundError.
    """
    there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return ours and there.st_ino == facts.st_ino and there.st_nlink == 1


def sole(name: str, folder: int, file: int) -> bool:
    """Whether the open *file*, opened under *name* in *folder*, has no other name: in a folder where others rename.

    No two looks at a name are one step, and a ctime is too coarse. But a name that was taken away never comes back: the
    descriptor remembers the entry by which it was opened, and the kernel says of it whether that is still there. So:
    count the links; let whoever is changing the folder finish; then ask for the entry. Where it still is in this
    folder, it was when they were counted, and the one link is this. Without /proc nobody can say that: then False.
    """
    if os.fstat(file).st_nlink != 1:
        return False
    try:  # noqa: SIM105  # for each message
        os.stat(_TOO_LONG, dir_fd=folder)  # a look-up that is in no cache waits for the lock of the folder
    except OSError:
        pass
    try:
        return os.readlink(f"/proc/self/fd/{file}") == f"{os.readlink(f'/proc/self/fd/{folder}')}/{name}"
    except OSError:
        return False


def kind(mode: int) -> str:
    """What a thing of this mode is called in a sentence."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFREG: "a file",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFLNK: "a symbolic link",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def put_back(name: str, source: int, target: int) -> None:
    """Rename *name* from one open folder into another, where no file lies under it. Raises OSError: FileExistsError.

    In one step, but where there is no renameat2: then what comes under that name in the same microseconds is replaced.
    """
    try:
        rename(name, f"/proc/self/fd/{target}/{name}", NOREPLACE, source)
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_RENAMEAT2:
            raise
        try:
            os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None


def rename(source: str, target: str, flags: int, folder: int | None = None) -> None:
    """renameat2(2), which Python does not have. *source* is a path, or a name in *folder*. Raises OSError."""
    import ctypes  # costs more to import than all else here, and is rarely needed

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, "this C library has no renameat2")
    here = -100  # AT_FDCWD
    if call(here if folder is None else folder, os.fsencode(source), here, os.fsencode(target), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), source)
