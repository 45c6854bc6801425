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


class Damaged(Exception):
    """The file system itself did not survive; str() says how that shows."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A file system: how it is made, how large, and how its power is taken."""

    name: str
    make: tuple[str, ...]
    type: str
    megabytes: int
    way: str
    package: str
    known: str | None = None  # what was seen on it, where the rule is known not to hold there


_FAST: Final = (
    "with fast commits, which mkfs.ext4 does not turn on by itself, cuts under Linux 6.18 have damaged whole disks: "
    "the promise is not made for them"
)
_EXT4: Final = ("mkfs.ext4", "-qF")
KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("ext4", _EXT4, "ext4", 96, "shutdown", "e2fsprogs"),
        Kind("ext4, image", _EXT4, "ext4", 96, "image", "e2fsprogs"),
        Kind("XFS", ("mkfs.xfs", "-qf"), "xfs", 320, "shutdown", "xfsprogs"),
        Kind("btrfs", ("mkfs.btrfs", "-qf"), "btrfs", 256, "image", "btrfs-progs"),
        Kind("ext4, fast commit", (*_EXT4, "-O", "fast_commit"), "ext4", 96, "shutdown", "e2fsprogs", _FAST),
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
        """Mount what is left. Nobody may use it any more. Raises Damaged."""
        _umount(self.path)
        if self.kind.way == "image":
            os.rename(f"{self.image}.cut", self.image)
        try:
            _mount("-t", self.kind.type, "-o", "loop", self.image, self.path)
        except LeftOut as error:
            raise Damaged(f"it does not mount any more: {error}") from error


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
            where = stack.enter_context(_mounted(("mkfs.xfs", "-qf"), "xfs", 1024, place, "below"))
        path = stack.enter_context(_mounted(kind.make, kind.type, kind.megabytes, where, "disk"))
        yield Disk(kind, f"{where}/disk.image", path)


@contextlib.contextmanager
def _mounted(make: tuple[str, ...], kind: str, megabytes: int, place: str, name: str) -> Iterator[str]:
    image, path = f"{place}/{name}.image", f"{place}/{name}"
    os.makedirs(path)
    with open(image, "wb") as file:
        file.truncate(megabytes << 20)
    try:
        _run(*make, image)
        _mount("-t", kind, "-o", "loop", image, path)
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
    done = subprocess.run(["umount", path], capture_output=True, text=True, check=False)
    if done.returncode != 0 and "not mounted" not in done.stderr:
        _run("umount", "--lazy", path)  # somebody who was killed still holds it for a moment


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LeftOut(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")
