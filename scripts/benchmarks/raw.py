"""The bare loops that ours are compared with: the same file operations in Python, and nothing else.

Names as long as ours, the bytes of a message of ours, folders held open: no format, no order, no lock, no bell. A
rename puts a file into place and an unlink takes it: the rename by which we claim it first is already on our side.
"""

import ctypes
import os
from typing import Final

_NEW: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

GROUP: Final = 64
"""How many messages are flushed at once."""


class Raw:
    """Two folders, and a file for each message."""

    def __init__(self, folder: str, data: bytes, flush: bool) -> None:
        for name in ("tmp", "new"):
            os.makedirs(f"{folder}/{name}")
        self._tmp, self._new = os.open(f"{folder}/tmp", _FOLDER), os.open(f"{folder}/new", _FOLDER)
        self._data, self._flush, self._count = data, flush, 0
        self._syncfs = ctypes.CDLL(None, use_errno=True).syncfs

    def put(self, n: int) -> None:
        tmp, new, data, flush = self._tmp, self._new, self._data, self._flush
        for number in range(self._count, self._count + n):
            name = f"20261124T014530.{number:09d}Z-3f9c0a12b4d5,S=217.json"
            file = os.open(name, _NEW, 0o640, dir_fd=tmp)
            os.write(file, data)
            os.rename(name, name, src_dir_fd=tmp, dst_dir_fd=new)
            if flush:
                os.fsync(file)
            os.close(file)
        self._count += n

    def put_many(self, n: int) -> None:
        """put(), GROUP messages flushed by one syncfs."""
        tmp, new, data = self._tmp, self._new, self._data
        for start in range(self._count, self._count + n, GROUP):
            for number in range(start, start + GROUP):
                name = f"20261124T014530.{number:09d}Z-3f9c0a12b4d5,S=217.json"
                file = os.open(name, _NEW, 0o640, dir_fd=tmp)
                os.write(file, data)
                os.rename(name, name, src_dir_fd=tmp, dst_dir_fd=new)
                os.close(file)
            if self._flush:
                self._syncfs(new)
        self._count += n

    def drain(self, n: int) -> None:
        new = self._new
        names = sorted(os.listdir(new))
        assert len(names) == n, len(names)
        for name in names:
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=new)
            os.read(file, 65536)
            os.close(file)
            os.unlink(name, dir_fd=new)

    def cycle(self, n: int) -> None:
        for _ in range(n):
            self.put(1)
            self.drain(1)

    def close(self) -> None:
        os.close(self._tmp)
        os.close(self._new)
