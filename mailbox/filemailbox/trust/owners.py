"""The owners of the boxes of a root, read once a second for all verifiers of a process."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, TypeAlias

from ..errors import StorageError, storage_error
from ..store.root import read_marker

if TYPE_CHECKING:
    from ..store.root import Root

Clock: TypeAlias = Callable[[], float]
"""Returns seconds that only rise, as time.monotonic does."""

_FRESH_SECONDS: Final = 1.0
_MAX_ROOTS: Final = 64  # whose owners are remembered
_RESOURCE_ERRORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)


class BoxOwners:
    """The uids and gids of the boxes of one root.

    A uid proves its agent only if it owns one box alone, and if no agent can put another box in its place.
    """

    __slots__ = ("boxes", "groups", "names", "relay", "until")

    def __init__(self, root: Root, clock: Clock = time.monotonic) -> None:
        """Read them. Raises StorageError if this process lacks resources: a message must not pay for that."""
        self.until = clock() + _FRESH_SECONDS
        self.boxes: frozenset[str] = frozenset()
        self.names: dict[int, str] = {}
        """uid → the one agent that has it"""
        self.groups: dict[int, int] = {}
        """gid → the number of boxes that have it"""
        self.relay = -1
        """The uid of the relay, or -1."""
        try:
            top = os.stat(root.path)
            boxes = {name: st for name in root.boxes() if (st := stat_box(root.box(name).path)) is not None}
        except OSError as error:
            raise_resource_error(error)
            return  # nothing is proven
        uids = _count(st.st_uid for st in boxes.values())
        self.boxes = frozenset(boxes)
        if top.st_mode & 0o022 or (top.st_uid != 0 and top.st_uid in uids and len(boxes) > 1):
            return  # an agent could replace another one's box; a volume with one box belongs to its owner
        overflow = overflow_uid()
        self.groups = _count(st.st_gid for st in boxes.values())
        self.names = {
            st.st_uid: name
            for name, st in boxes.items()
            if uids[st.st_uid] == 1 and st.st_uid != overflow and stat.S_ISDIR(st.st_mode)
        }
        relay = read_marker(root).get("relay")
        if type(relay) is int and relay not in uids and relay != overflow:  # an agent of its uid could forge
            self.relay = relay


_known: dict[str, BoxOwners] = {}
_lock = threading.Lock()


def owners_of(root: Root, clock: Clock = time.monotonic) -> BoxOwners:
    """Return the owners of a root, at most a second old. Raises StorageError."""
    with _lock:
        known = _known.get(root.path)
        if known is None or clock() >= known.until:
            if len(_known) >= _MAX_ROOTS:
                _known.clear()
            known = _known[root.path] = BoxOwners(root, clock)
        return known


def _renew_lock() -> None:
    """Replace the lock in the child of a fork: another thread of the parent may have held it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def overflow_uid() -> int:
    """Return the uid that replaces all uids without one in our user namespace; -1 if each has its own."""
    try:
        with open("/proc/self/uid_map", "rb") as uids:
            if uids.read(256).split() == [b"0", b"0", b"4294967295"]:
                return -1
        with open("/proc/sys/kernel/overflowuid", "rb") as uid:
            return int(uid.read(32))
    except (OSError, ValueError):
        return 65534


def stat_box(path: str) -> os.stat_result | None:
    """Return the status of a box or of its folder, or None if it is gone. Raises OSError."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def raise_resource_error(error: OSError) -> None:
    """Raise StorageError if *error* is a lack of resources: it must not pass for a missing proof."""
    if error.errno in _RESOURCE_ERRORS:
        raise (
            error if isinstance(error, StorageError) else storage_error(error, "reading the owners of the boxes")
        ) from error


def _count(numbers: Iterable[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for number in numbers:
        counts[number] = counts.get(number, 0) + 1
    return counts
