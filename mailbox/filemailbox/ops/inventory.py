"""Who is there, who listens, how far behind: the boxes of a root at a glance.

That somebody listens is asked from the kernel: the lock of a consumer's folder is held, or a bell hears.
"""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from ..format.address import Address
from ..format.filename import TIMESTAMP_LENGTH, lease_deadline
from ..format.order import is_mail
from ..format.timestamp import to_nanoseconds
from ..receive.status import ListenerInfo, listening
from ..store.ids import timestamp_now
from ..store.root import Root
from ..system.as_owner import opened
from ..system.locks import is_held
from ..wake import doorbell

_NAMES: Final = 1000  # in a run/ that are looked at: its owner can hang there what he likes


@dataclass(frozen=True, slots=True)
class Lease:
    """A claim that outlives its process."""

    folder: str
    deadline: str  # stamp
    held: int  # messages

    @property
    def over(self) -> bool:
        """Whether it has run out."""
        return self.deadline <= timestamp_now()


@dataclass(frozen=True, slots=True)
class BoxStatus:
    """One box: what lies where, and who listens. Numbers are None where we may not look."""

    name: Address
    uid: int
    gid: int
    new: int | None = None
    due: int | None = None  # in later/, its time has come
    later: int | None = None  # in later/, its time has not come
    held: int | None = None  # in the folders of consumers, leases included
    dead: int | None = None
    done: int | None = None
    oldest: float | None = None  # seconds for which the oldest message in new/ has been waiting
    consumers: int = 0  # folders in cur/ whose lock is held
    bells: int = 0  # that hear
    listeners: tuple[ListenerInfo, ...] = ()  # that say something of themselves
    leases: tuple[Lease, ...] = ()
    trouble: str | None = None  # why it could not be looked into, where that is no matter of rights

    @property
    def waiting(self) -> int | None:
        """How many messages could be taken now."""
        return None if self.new is None else self.new + (self.due or 0)

    @property
    def has_listener(self) -> bool:
        """Whether somebody takes mail from it at this moment, or waits for some."""
        return bool(self.listeners or self.bells or self.consumers)


def box_status(root: Root, name: Address) -> BoxStatus:
    """How a box stands. Raises BoxNotFoundError where there is none; where we may not or cannot look, numbers are "
    "None."""
    box = root.box(name)
    try:
        facts = os.stat(box)
        bells = sum(_hears(path) for path in _bells(f"{box}/run"))
    except (FileNotFoundError, NotADirectoryError):
        raise root.missing(name) from None
    except OSError as error:
        return BoxStatus(name, -1, -1, trouble=_why(error))
    try:
        with os.scandir(f"{box}/new") as entries:
            waiting = [entry.name for entry in entries if is_mail(entry.name)]
        due, later = _later(f"{box}/later")
        consumers, held, leases = _held(f"{box}/cur")
        dead, done = _count(f"{box}/dead"), _count(f"{box}/done")
    except (PermissionError, FileNotFoundError, NotADirectoryError):  # doctor says what is wrong there
        return BoxStatus(name, facts.st_uid, facts.st_gid, bells=bells)
    except (OSError, ValueError) as error:  # one box's own trouble: the others can still be looked at
        return BoxStatus(name, facts.st_uid, facts.st_gid, bells=bells, trouble=_why(error))
    talking: tuple[ListenerInfo, ...] = ()
    with contextlib.suppress(OSError):
        talking = tuple(listening(box))
    return BoxStatus(
        name,
        facts.st_uid,
        facts.st_gid,
        len(waiting),
        due,
        later,
        held,
        dead,
        done,
        _oldest(f"{box}/new", waiting),
        consumers,
        bells,
        talking,
        leases,
    )


def all_boxes(root: Root) -> Iterator[BoxStatus]:
    """How every box of a root stands."""
    for name in root.boxes():
        with contextlib.suppress(LookupError):  # removed in between
            yield box_status(root, name)


def _why(error: Exception) -> str:
    return ((error.strerror if isinstance(error, OSError) else None) or str(error)).lower()


def _oldest(new: str, waiting: list[str]) -> float | None:
    if not waiting:
        return None
    ours = [name for name in waiting if name[TIMESTAMP_LENGTH - 1 : TIMESTAMP_LENGTH + 1] == "Z-"]
    times = []
    with contextlib.suppress(ValueError):
        times += [to_nanoseconds(min(ours)[:TIMESTAMP_LENGTH])] if ours else []
    for name in waiting if len(ours) < len(waiting) else ():
        if name[TIMESTAMP_LENGTH - 1 : TIMESTAMP_LENGTH + 1] != "Z-":
            with contextlib.suppress(OSError):
                times.append(os.lstat(f"{new}/{name}").st_mtime_ns)
    return max(0.0, (time.time_ns() - min(times)) / 1e9) if times else None


def _later(path: str) -> tuple[int, int]:
    now = timestamp_now()
    with os.scandir(path) as entries:
        times = [entry.name for entry in entries if is_mail(entry.name)]
    due = sum(name <= now for name in times)
    return due, len(times) - due


def _held(cur: str) -> tuple[int, int, tuple[Lease, ...]]:
    consumers, held, leases = 0, 0, []
    with os.scandir(cur) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    for name in folders:
        deadline = lease_deadline(name)
        if deadline is None:
            continue
        with contextlib.suppress(FileNotFoundError), opened(f"{cur}/{name}") as folder:
            count = sum(map(is_mail, os.listdir(folder)))
            held += count
            consumers += is_held(".lock", folder)
            if deadline:
                leases.append(Lease(name, deadline, count))
    return consumers, held, tuple(leases)


def _count(path: str) -> int:
    with os.scandir(path) as entries:
        return sum(is_mail(entry.name) for entry in entries)


def _bells(run: str) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(run) as entries:
        for entry in islice(entries, _NAMES):
            if not entry.name.startswith(".") and stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                yield entry.path


def _hears(path: str) -> bool:
    try:
        return doorbell.has_listener(path)
    except OSError:
        return False
