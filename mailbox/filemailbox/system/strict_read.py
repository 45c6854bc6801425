"""The one strict read: every file that another uid may have put into a box is opened and read here.

A caller opens the file once, by name, under the descriptor of its folder, with the flags files.READ: never through a
symbolic link, never waiting for the other end of a FIFO or for the holder of a file lease. Everything else is asked of
that descriptor. strict_read() accepts a regular file with one link, within the limit, of the size that its name
promises.

One link on the descriptor does not prove that the file has no other name: in a folder where others rename, ask
is_only_link() as well; in a private folder, is_same_file().
"""

from __future__ import annotations

import os
import stat

from .files import describe_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TypeAlias

    StrictRead: TypeAlias = "tuple[bytes, os.stat_result, Refusal | None]"

_TYPE_MASK: Final = stat.S_IFMT(0o777777)
_REGULAR: Final = stat.S_IFREG

_NAME_TOO_LONG: Final = "x" * 256
"""No file can have this name, so no cache remembers it as missing: each lookup asks the file system."""


class Refusal:
    """The reason why a file is not read."""

    __slots__ = ("is_file", "is_final", "reason")

    def __init__(self, reason: str, *, is_file: bool = True, is_final: bool = False) -> None:
        self.reason = reason
        self.is_file = is_file
        self.is_final = is_final
        """False if waiting may help: the file may still be written, or lose its second link."""


def strict_read(fd: int, limit: int, size: int | None = None) -> StrictRead:
    """Read the open file *fd*: its content, its stat, and the reason if it is refused (then the content is empty).

    *limit* is the largest size in bytes that is read, *size* the size that its name promises. Raises OSError if the
    disk fails. A file that grows meanwhile is refused, and cannot flood the reader.
    """
    st = os.fstat(fd)
    actual = st.st_size
    if (
        (size is None or actual == size)
        and actual <= limit
        and st.st_nlink == 1
        and st.st_mode & _TYPE_MASK == _REGULAR
    ):
        data = os.read(fd, actual + 1)
        if len(data) == actual:
            return data, st, None
        while len(data) < actual and (more := os.read(fd, actual + 1 - len(data))):
            data += more
        if len(data) == actual:
            return data, st, None
    return b"", st, refuse(st, limit, size) or Refusal("it changed while it was read")


def refuse(st: os.stat_result, limit: int, size: int | None = None) -> Refusal | None:
    """Return the reason not to read a file with this stat; None if there is none. See strict_read()."""
    if not stat.S_ISREG(st.st_mode):
        return Refusal(f"it is {describe_type(st.st_mode)}, not a file", is_file=False, is_final=True)
    if st.st_size > limit:
        return Refusal(f"it has {st.st_size} bytes, and {limit} is the limit", is_final=True)
    if st.st_nlink != 1:
        return Refusal(f"it has {st.st_nlink} links: another process can still change it")
    if size is not None and st.st_size != size:
        return Refusal(f"it has {st.st_size} bytes and its name has S={size}: it is not complete")
    return None


def is_same_file(filename: str, dir_fd: int, st: os.stat_result) -> bool:
    """Report whether *filename*, in a private folder, is the file with this stat, and its only name.

    For a file that was opened in a shared folder and then moved here: a hard link to a secret can be opened, and
    replaced before its links are counted. Raises FileNotFoundError.
    """
    found = os.stat(filename, dir_fd=dir_fd, follow_symlinks=False)
    return found.st_ino == st.st_ino and found.st_nlink == 1


def is_only_link(filename: str, dir_fd: int, fd: int) -> bool:
    """Report whether the file *fd*, opened as *filename* in a folder where others rename, has no other name.

    Two lookups of a name are never one step, and a ctime is too coarse. But a directory entry that was removed never
    comes back: the descriptor remembers the entry by which it was opened, and /proc reports whether that still exists.
    So: count the links; wait for whoever is changing the folder; then ask for the entry. If it is still in this folder,
    it was there when the links were counted, and the one link is this. Without /proc the answer is False.
    """
    if os.fstat(fd).st_nlink != 1:
        return False
    try:  # noqa: SIM105  # for each message
        os.stat(_NAME_TOO_LONG, dir_fd=dir_fd)  # a lookup that no cache answers waits for the lock of the folder
    except OSError:
        pass
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == f"{os.readlink(f'/proc/self/fd/{dir_fd}')}/{filename}"
    except OSError:
        return False
