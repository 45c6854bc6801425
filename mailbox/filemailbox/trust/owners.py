"""The owners of the boxes of a root, shared by all verifiers of a process."""

from __future__ import annotations

import _thread  # not threading, which costs a process that only sends more to import
import errno
import os
import stat
import time

from ..errors import StorageError, storage_error
from ..store.root import read_marker as members_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final, TypeAlias

    from ..store.root import Root

    Clock: TypeAlias = Callable[[], float]
    """Seconds that only rise, such as time.monotonic."""

_FRESH: Final = 1.0  # seconds for which the owners of the boxes are believed to be the same
_ROOTS: Final = 64  # roots whose owners are remembered
_OUR_TROUBLE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)


class BoxOwners:
    """Whose uid is whose in one root: each that is one box's alone, where nobody else can put a box in its place."""

    __slots__ = ("boxes", "groups", "names", "relay", "until")

    def __init__(self, root: Root, clock: Clock = time.monotonic) -> None:
        """Raises StorageError where that cannot be known now, by our own trouble: it must condemn no mail."""
        self.until = clock() + _FRESH
        self.boxes: frozenset[str] = frozenset()
        self.names: dict[int, str] = {}
        """The uid → the agent whose alone it is."""
        self.groups: dict[int, int] = {}
        """A gid → how many boxes have it."""
        self.relay = -1
        """The uid of the relay."""
        try:
            top = os.stat(root.path)
            boxes = {name: facts for name in root.boxes() if (facts := stat_box(root.box(name))) is not None}
        except OSError as error:
            raise_our_trouble(error)
            return  # nothing is proven
        uids = _counted(facts.st_uid for facts in boxes.values())
        self.boxes = frozenset(boxes)
        if top.st_mode & 0o022 or (top.st_uid != 0 and top.st_uid in uids and len(boxes) > 1):
            return  # an agent could take another one's place; where there is one box, the volume is its owner's
        strangers = unmapped()
        self.groups = _counted(facts.st_gid for facts in boxes.values())
        self.names = {
            facts.st_uid: name
            for name, facts in boxes.items()
            if uids[facts.st_uid] == 1 and facts.st_uid != strangers and stat.S_ISDIR(facts.st_mode)
        }
        relay = members_of(root).get("relay")
        if type(relay) is int and relay not in uids and relay != strangers:  # an agent of its uid could be everybody
            self.relay = relay


_known: dict[str, BoxOwners] = {}
_looking = _thread.allocate_lock()


def owners_of(root: Root, clock: Clock = time.monotonic) -> BoxOwners:
    """The owners of a root, looked at once a second for all boxes that this process has there. Raises StorageError."""
    with _looking:
        known = _known.get(root.path)
        if known is None or clock() >= known.until:
            if len(_known) >= _ROOTS:
                _known.clear()
            known = _known[root.path] = BoxOwners(root, clock)
        return known


def _forget() -> None:
    """In the child of a fork: another thread may have been looking."""
    global _looking
    _looking = _thread.allocate_lock()


os.register_at_fork(after_in_child=_forget)


def unmapped() -> int:
    """The uid that stands for all those that have none in our user namespace; -1 where each has its own."""
    try:
        with open("/proc/self/uid_map", "rb") as uids:
            if uids.read(256).split() == [b"0", b"0", b"4294967295"]:
                return -1
        with open("/proc/sys/kernel/overflowuid", "rb") as uid:
            return int(uid.read(32))
    except (OSError, ValueError):
        return 65534


def stat_box(path: str) -> os.stat_result | None:
    """What the kernel says of it; None where it is gone. Raises OSError."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def raise_our_trouble(error: OSError) -> None:
    """Raise what is our own trouble: that we cannot look now must not pass for a proof that is missing."""
    if error.errno in _OUR_TROUBLE:
        raise (
            error if isinstance(error, StorageError) else storage_error(error, "looking whose boxes there are")
        ) from error


def _counted(numbers: Iterable[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for number in numbers:
        counts[number] = counts.get(number, 0) + 1
    return counts
