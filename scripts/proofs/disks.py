"""File systems of our own, in images on loop devices, from which the power can be taken. Takes root.

Two ways to take it. `shutdown`: the file system itself is told to stop at once and to write nothing more, not even its
log (the ioctl that its own developers test crashes with: ext4, XFS); what was in memory alone is gone. `image`: the
image file is cloned in one step (FICLONE, on an XFS that holds it), while writing goes on, and the clone is mounted: it
has every write that the device had finished at that moment. btrfs has no such ioctl in a usual kernel.

Both keep each finished write and never reorder unflushed ones, so they show what a file system promises, not what a
drive with a lying cache does.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .record import LeftOut

_SHUTDOWN: Final = 0x8004587D  # _IOR('X', 125, __u32): EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN
_NO_LOG_FLUSH: Final = (2).to_bytes(4, "little")
_FICLONE: Final = 0x40049409
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Kind:
    """A file system: how it is made, how large, and how its power is taken."""

    name: str
    make: tuple[str, ...]
    mount: tuple[str, ...]
    size: int
    way: str
    package: str


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("ext4", ("mkfs.ext4", "-qF"), ("-t", "ext4"), 96 * _MIB, "shutdown", "e2fsprogs"),
        Kind(
            "ext4, fast commit",
            ("mkfs.ext4", "-qF", "-O", "fast_commit"),
            ("-t", "ext4"),
            96 * _MIB,
            "shutdown",
            "e2fsprogs",
        ),
        Kind("XFS", ("mkfs.xfs", "-qf"), ("-t", "xfs"), 320 * _MIB, "shutdown", "xfsprogs"),
        Kind("btrfs", ("mkfs.btrfs", "-qf"), ("-t", "btrfs"), 256 * _MIB, "image", "btrfs-progs"),
        Kind("ext4, image", ("mkfs.ext4", "-qF"), ("-t", "ext4"), 96 * _MIB, "image", "e2fsprogs"),
    )
}


class Disk:
    """A file system that is mounted at `path`, in a folder of its own."""

    def __init__(self, kind: Kind, image: str, path: str) -> None:
        self.kind, self.image, self.path = kind, image, path

    def cut(self) -> None:
        """Take the power, now."""
        if self.kind.way == "shutdown":
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.ioctl(folder, _SHUTDOWN, _NO_LOG_FLUSH)
            finally:
                os.close(folder)
        else:
            with open(self.image, "rb") as now, open(f"{self.image}.cut", "wb") as then:
                fcntl.ioctl(then, _FICLONE, now.fileno())

    def again(self) -> None:
        """Mount what is left. Nobody may use it any more."""
        _umount(self.path)
        if self.kind.way == "image":
            os.rename(f"{self.image}.cut", self.image)
        _mount(*self.kind.mount, "-o", "loop", self.image, self.path)


@contextlib.contextmanager
def disk(kind: Kind, place: str) -> Iterator[Disk]:
    """A fresh file system, mounted in the folder *place*. All of it goes again."""
    if os.geteuid() != 0:
        raise LeftOut("a loop mount takes root")
    if shutil.which(kind.make[0]) is None:
        raise LeftOut(f"there is no {kind.make[0]} here (Debian: apt-get install {kind.package})")
    with contextlib.ExitStack() as stack:
        where = place
        if kind.way == "image":
            if shutil.which("mkfs.xfs") is None:
                raise LeftOut(
                    "there is no mkfs.xfs here, for the disk that can clone (Debian: apt-get install xfsprogs)"
                )
            where = stack.enter_context(_mounted(("mkfs.xfs", "-qf"), ("-t", "xfs"), 1024 * _MIB, place, "below"))
        path = stack.enter_context(_mounted(kind.make, kind.mount, kind.size, where, "disk"))
        yield Disk(kind, f"{where}/disk.image", path)


@contextlib.contextmanager
def _mounted(make: tuple[str, ...], how: tuple[str, ...], size: int, place: str, name: str) -> Iterator[str]:
    image, path = f"{place}/{name}.image", f"{place}/{name}"
    os.makedirs(path)
    with open(image, "wb") as file:
        file.truncate(size)
    try:
        _run(*make, image)
        _mount(*how, "-o", "loop", image, path)
        try:
            yield path
        finally:
            _umount(path)
    finally:
        os.rmdir(path)
        os.unlink(image)


@contextlib.contextmanager
def memory(path: str, size: int) -> Iterator[str]:
    """A tmpfs of that size, mounted at *path*: one that can be filled up, and mounted read-only."""
    if os.geteuid() != 0:
        raise LeftOut("a mount takes root")
    os.makedirs(path, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "mailbox-prove", path)
    try:
        yield path
    finally:
        _umount(path)


def _mount(*how: str) -> None:
    _run("mount", *how)


def _umount(path: str) -> None:
    if subprocess.run(["umount", path], capture_output=True, check=False).returncode != 0:
        _run("umount", "--lazy", path)  # somebody who was killed still holds it for a moment


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LeftOut(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")
