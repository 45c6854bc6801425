"""Folders to measure in: on a tmpfs, and on an ext4 with a journal. What is mounted and made goes away again."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Final

_IMAGE: Final = 384 * 1024 * 1024  # bytes


class LeftOut(Exception):
    """There is no such disk to be had here; str() says why."""


@contextlib.contextmanager
def tmpfs() -> Iterator[str]:
    """A folder on a tmpfs: in /dev/shm, or, for root where that is none, on one of our own."""
    if _kind("/dev/shm") == "tmpfs" and os.access("/dev/shm", os.W_OK) and room("/dev/shm") >= 20_000:
        with tempfile.TemporaryDirectory(prefix="mailbox-bench-", dir="/dev/shm") as folder:
            yield folder
        return
    _need_root("/dev/shm is no tmpfs with room in it, and to mount one takes root")
    with tempfile.TemporaryDirectory(prefix="mailbox-bench-") as folder, mounted("-t", "tmpfs", "tmpfs", folder):
        yield folder


@contextlib.contextmanager
def ext4() -> Iterator[str]:
    """A folder on a fresh ext4 with a journal, in an image file on a loop device. Takes root."""
    _need_root("a loop mount takes root")
    for tool in ("mkfs.ext4", "losetup", "mount", "umount"):
        if shutil.which(tool) is None:
            raise LeftOut(f"there is no {tool} here")
    with tempfile.TemporaryDirectory(prefix="mailbox-bench-") as place:
        image, folder = f"{place}/image", f"{place}/ext4"
        os.mkdir(folder)
        with open(image, "wb") as file:  # written out: what a flush costs must not depend on blocks found meanwhile
            for _ in range(_IMAGE // 2**20):
                file.write(bytes(2**20))
            os.fsync(file.fileno())
        _run("mkfs.ext4", "-q", "-F", "-O", "has_journal", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
        with mounted("-t", "ext4", "-o", "loop", image, folder):
            yield folder


def room(folder: str) -> int:
    """How many small files there is room for in *folder*: in its space, its inodes and, on a tmpfs, in memory."""
    facts = os.statvfs(folder)
    space = facts.f_bavail * facts.f_frsize
    if _kind(folder) == "tmpfs":
        with open("/proc/meminfo") as file:
            space = min(space, *(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")))
    return min(space // 8192, facts.f_favail)  # 4 KiB for the block, and as much again for inode, name and the rest


def _kind(path: str) -> str:
    """The type of the file system that *path* is on."""
    path, best = os.path.realpath(path), ("", "")
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            _, where, kind, *_ = line.split()
            if (path == where or path.startswith(where.rstrip("/") + "/")) and len(where) >= len(best[0]):
                best = (where, kind)
    return best[1]


@contextlib.contextmanager
def mounted(*how: str) -> Iterator[None]:
    _run("mount", *how)
    try:
        yield
    finally:
        if subprocess.run(["umount", how[-1]], stderr=subprocess.DEVNULL, check=False).returncode != 0:
            _run("umount", "--lazy", how[-1])  # something of ours is still open there: we are on our way out


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LeftOut(f"{command[0]} failed: {(done.stderr or done.stdout).strip()}")


def _need_root(why: str) -> None:
    if os.geteuid() != 0:
        raise LeftOut(why)
