"""Hostile files, read strictly: the one way in which a file in a box is opened, read and listed.

Open once, by name, under the descriptor of the folder: never through a link, never waiting for the other end of a FIFO
or for the holder of a lease. Everything else is asked of that descriptor, and nothing of the name a second time.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
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


def kind(mode: int) -> str:
    """What a thing of this mode is called in a sentence."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFLNK: "a symbolic link",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")
