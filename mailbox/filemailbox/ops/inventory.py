"""Inventory: the boxes of a root at a glance: their listeners, the waiting mail, and its age.

The kernel knows if a consumer is alive (the lock of its folder is held) and if a doorbell has a listener.
Nothing is changed, and nothing needs to be written: a monitor with the right to read is enough.
"""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

from ..errors import errno_text
from ..format.address import Address
from ..format.filename import TIMESTAMP_LENGTH, lease_deadline
from ..format.order import is_mail
from ..format.timestamp import to_nanoseconds
from ..receive.status import ListenerInfo, listening
from ..store.ids import timestamp_now
from ..store.root import Box, Root
from ..system.as_owner import opened
from ..system.locks import is_held
from ..wake import doorbell

_MAX_DOORBELLS: Final = 1000  # entries of a run/ that are examined: its owner can put any number there


@dataclass(frozen=True, slots=True)
class Lease:
    """A claim that outlives its process."""

    folder: str  # its name in cur/
    deadline: str  # timestamp
    claimed: int  # messages

    @property
    def expired(self) -> bool:
        """True if the deadline has passed."""
        return self.deadline <= timestamp_now()


@dataclass(frozen=True, slots=True)
class BoxStatus:
    """One box: the number of messages in each state, and who listens. A number is None if it cannot be seen."""

    name: Address
    uid: int
    gid: int
    new: int | None = None
    due: int | None = None  # in later/, its time has come
    deferred: int | None = None  # in later/, its time has not come
    claimed: int | None = None  # in the folders of consumers, leases included
    dead: int | None = None
    done: int | None = None
    oldest: float | None = None  # seconds for which the oldest message in new/ has been waiting
    consumers: int = 0  # folders in cur/ whose lock is held
    doorbells: int = 0  # that have a listener
    listeners: tuple[ListenerInfo, ...] = ()  # that write a status file
    leases: tuple[Lease, ...] = ()
    problem: str | None = None  # why the box cannot be examined, unless permissions are the reason

    @property
    def waiting(self) -> int | None:
        """The number of messages that could be received now."""
        return None if self.new is None else self.new + (self.due or 0)

    @property
    def has_listener(self) -> bool:
        """True if a live process takes mail from the box, or waits for some."""
        return bool(self.listeners or self.doorbells or self.consumers)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it: all fields, `waiting` and `has_listener`."""
        return {**asdict(self), "waiting": self.waiting, "has_listener": self.has_listener}


def box_status(box: Box) -> BoxStatus:
    """Return the status of one box. Raises BoxNotFoundError. Numbers that cannot be seen are None."""
    name = box.address
    try:
        st = os.stat(box)
        doorbells = sum(_has_listener(path) for path in _doorbells(f"{box}/run"))
    except (FileNotFoundError, NotADirectoryError):
        raise box.missing() from None
    except OSError as error:
        return BoxStatus(name, -1, -1, problem=errno_text(error))
    try:
        with os.scandir(f"{box}/new") as entries:
            waiting = [entry.name for entry in entries if is_mail(entry.name)]
        due, deferred = _later(f"{box}/later")
        consumers, claimed, leases = _claimed(f"{box}/cur")
        dead, done = _count(f"{box}/dead"), _count(f"{box}/done")
    except (PermissionError, FileNotFoundError, NotADirectoryError):  # doctor reports what is wrong
        return BoxStatus(name, st.st_uid, st.st_gid, doorbells=doorbells)
    except (OSError, ValueError) as error:  # the trouble of one box must not hide the others
        return BoxStatus(name, st.st_uid, st.st_gid, doorbells=doorbells, problem=errno_text(error))
    listeners: tuple[ListenerInfo, ...] = ()
    with contextlib.suppress(OSError):
        listeners = tuple(listening(box))
    return BoxStatus(
        name,
        st.st_uid,
        st.st_gid,
        len(waiting),
        due,
        deferred,
        claimed,
        dead,
        done,
        _oldest(f"{box}/new", waiting),
        consumers,
        doorbells,
        listeners,
        leases,
    )


def all_boxes(root: Root) -> Iterator[BoxStatus]:
    """Yield the status of each box of a root, by name."""
    for name in root.boxes():
        with contextlib.suppress(LookupError):  # removed in between
            yield box_status(root.box(name))


def _oldest(new: str, waiting: list[str]) -> float | None:
    """Return the age of the oldest message in seconds: by the time in its name, else by its mtime."""
    if not waiting:
        return None
    ours = [name for name in waiting if _has_timestamp(name)]
    times = []
    with contextlib.suppress(ValueError):
        times += [to_nanoseconds(min(ours)[:TIMESTAMP_LENGTH])] if ours else []
    for name in waiting if len(ours) < len(waiting) else ():
        if not _has_timestamp(name):
            with contextlib.suppress(OSError):
                times.append(os.lstat(f"{new}/{name}").st_mtime_ns)
    return max(0.0, (time.time_ns() - min(times)) / 1e9) if times else None


def _has_timestamp(filename: str) -> bool:
    return filename[TIMESTAMP_LENGTH - 1 : TIMESTAMP_LENGTH + 1] == "Z-"


def _later(path: str) -> tuple[int, int]:
    """Count the messages in `later/`: due, and deferred."""
    now = timestamp_now()
    with os.scandir(path) as entries:
        filenames = [entry.name for entry in entries if is_mail(entry.name)]
    due = sum(filename <= now for filename in filenames)
    return due, len(filenames) - due


def _claimed(cur: str) -> tuple[int, int, tuple[Lease, ...]]:
    """Return the number of live consumers, the number of claimed messages, and the leases."""
    consumers, claimed, leases = 0, 0, []
    with os.scandir(cur) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    for name in folders:
        deadline = lease_deadline(name)
        if deadline is None:
            continue
        with contextlib.suppress(FileNotFoundError), opened(f"{cur}/{name}") as dir_fd:
            count = sum(map(is_mail, os.listdir(dir_fd)))
            claimed += count
            consumers += is_held(".lock", dir_fd)
            if deadline:
                leases.append(Lease(name, deadline, count))
    return consumers, claimed, tuple(leases)


def _count(path: str) -> int:
    with os.scandir(path) as entries:
        return sum(is_mail(entry.name) for entry in entries)


def _doorbells(run: str) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(run) as entries:
        for entry in islice(entries, _MAX_DOORBELLS):
            if not entry.name.startswith(".") and stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                yield entry.path


def _has_listener(path: str) -> bool:
    try:
        return doorbell.has_listener(path)
    except OSError:
        return False
