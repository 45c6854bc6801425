"""The mounts of this process, from /proc/self/mountinfo."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

BLIND: Final = frozenset(
    [
        *("9p", "afs", "ceph", "cifs", "fuse", "fuseblk", "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2"),
        *("prl_fs", "smb3", "vboxsf", "virtiofs"),
    ]
)
"""File systems on which others may write without notice to this kernel: no notification, no lock that all respect."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: where, of what, how."""

    path: str
    device: tuple[int, int]  # major, minor
    kind: str  # ext4, tmpfs, nfs4 …
    options: frozenset[str]
    source: str

    @property
    def blind(self) -> bool:
        """True if other kernels may write here: notifications and locks end at this one."""
        return self.kind in BLIND or self.kind.startswith("fuse.")

    @property
    def read_only(self) -> bool:
        """True if nothing can be written here."""
        return "ro" in self.options


def mounts(table: str = "/proc/self/mountinfo") -> Iterator[Mount]:
    """All mounts, in the order in which they were made. None where the table cannot be read."""
    try:
        with open(table, "rb") as file:
            lines = file.read().decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        if mount := parse(line):
            yield mount


def parse(line: str) -> Mount | None:
    """One line of mountinfo, see proc_pid_mountinfo(5)."""
    words = line.split(" ")
    if "-" not in words or len(words) < 10:
        return None
    major, _, minor = words[2].partition(":")
    kind, source, wide = [*words[words.index("-") + 1 :], "", "", ""][:3]
    if not (major.isdigit() and minor.isdigit()):
        return None
    options = frozenset([*words[5].split(","), *(["ro"] if "ro" in wide.split(",") else [])])
    return Mount(_plain(words[4]), (int(major), int(minor)), kind, options, _plain(source))


def mount_of(path: str, table: str = "/proc/self/mountinfo") -> Mount | None:
    """Return the mount that holds *path*; None if that cannot be known."""
    where = os.path.realpath(path)
    found = None
    for mount in mounts(table):
        covers = where == mount.path or where.startswith(mount.path.rstrip("/") + "/")
        if covers and (found is None or len(mount.path) >= len(found.path)):
            found = mount  # the last one made at a place covers those before
    return found


def _plain(text: str) -> str:
    """Blanks and backslashes are written as octal numbers."""
    for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, sign)
    return text
