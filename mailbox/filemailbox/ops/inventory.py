"""Inventory: the boxes of a root at a glance: their listeners, the waiting mail, and its age.

The kernel knows if a consumer is alive (the lock of its folder is held) and if a doorbell has a listener.
Nothing is changed, and nothing needs to be written: a monitor with the right to read is enough.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ..errors import errno_text
from ..format.address import Address
from ..format.filename import lease_deadline, parse_filename, split_timed
from ..format.order import is_mail
from ..format.times import format_time, from_nanoseconds
from ..format.timestamp import to_nanoseconds
from ..receive.status import ListenerInfo, last_stopped, listening, live_doorbells
from ..store.box_settings import read_box_settings
from ..store.ids import timestamp_now
from ..store.root import Box, Root
from ..system.as_owner import opened
from ..system.locks import is_held
from .waiting import ahead, oldest, waiting_mail

_TIMES: Final = ("since", "looked", "last_error_at", "paused_since", "busy_since")  # of a listener


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
    new: int | None = None  # in new/, without those whose delivery is deferred
    due: int | None = None  # in later/, its time has come
    deferred: int | None = None  # its time has not come, in later/ or still in new/
    next_due: str | None = None  # timestamp at which the next of these is due
    retrying: int | None = None  # of those in later/, for another attempt
    claimed: int | None = None  # in the folders of consumers, leases included
    dead: int | None = None
    done: int | None = None
    oldest: float | None = None  # seconds for which the oldest message in new/ has been waiting
    ahead: float = 0.0  # seconds by which the newest name in new/ is ahead of our clock
    types: Mapping[str, int] = field(default_factory=dict)  # in new/, by type: "" has none
    sealed: int = 0  # in new/: their type is not visible
    consumers: int = 0  # folders in cur/ whose lock is held
    doorbells: int = 0  # that have a listener
    listeners: tuple[ListenerInfo, ...] = ()  # that write a status file
    stopped: ListenerInfo | None = None  # the listener that an error ended last, if none listens now
    leases: tuple[Lease, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the box; see store/box_settings
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
        """Return it as JSON has it: all fields, `waiting` and `has_listener`. Times are RFC 3339."""
        values = {**asdict(self), "waiting": self.waiting, "has_listener": self.has_listener}
        listeners = [*values["listeners"], *([values["stopped"]] if values["stopped"] else [])]
        for each, names in (
            (values, ("next_due",)),
            *((listener, _TIMES) for listener in listeners),
            *((lease, ("deadline",)) for lease in values["leases"]),
        ):
            for name in names:
                if each[name] is not None:
                    each[name] = format_time(from_nanoseconds(to_nanoseconds(each[name])))
        return values


def box_status(box: Box) -> BoxStatus:
    """Return the status of one box. Raises BoxNotFoundError. Numbers that cannot be seen are None."""
    name = box.address
    try:
        st = os.stat(box)
        doorbells = live_doorbells(f"{box}/run")
    except (FileNotFoundError, NotADirectoryError):
        raise box.missing() from None
    except OSError as error:
        return BoxStatus(name, -1, -1, problem=errno_text(error))
    try:
        new = waiting_mail(f"{box}/new")
        due, deferred, next_due, retrying = _later(f"{box}/later")
        consumers, claimed, leases = _claimed(f"{box}/cur")
        dead, done = _count(f"{box}/dead"), _count(f"{box}/done")
        settings = read_box_settings(box)
    except (PermissionError, FileNotFoundError, NotADirectoryError):  # doctor reports what is wrong
        return BoxStatus(name, st.st_uid, st.st_gid, doorbells=doorbells)
    except (OSError, ValueError) as error:  # the trouble of one box must not hide the others
        return BoxStatus(name, st.st_uid, st.st_gid, doorbells=doorbells, problem=errno_text(error))
    listeners: tuple[ListenerInfo, ...] = ()
    stopped = None
    with contextlib.suppress(OSError):
        listeners = tuple(listening(box))
        stopped = last_stopped(box) if not listeners else None
    return BoxStatus(
        name,
        st.st_uid,
        st.st_gid,
        new=len(new.names),
        due=due,
        deferred=deferred + new.deferred,
        next_due=min(filter(None, (next_due, new.next_due)), default=None),
        retrying=retrying,
        claimed=claimed,
        dead=dead,
        done=done,
        oldest=oldest(f"{box}/new", new.names),
        ahead=ahead(new.names),
        types=dict(new.types),
        sealed=new.sealed,
        consumers=consumers,
        doorbells=doorbells,
        listeners=listeners,
        stopped=stopped,
        leases=leases,
        settings=settings,
    )


def all_boxes(root: Root) -> Iterator[BoxStatus]:
    """Yield the status of each box of a root, by name."""
    for name in root.boxes():
        with contextlib.suppress(LookupError):  # removed in between
            yield box_status(root.box(name))


def _later(path: str) -> tuple[int, int, str | None, int]:
    """Count the messages in `later/`: due, and deferred, and the next time of these, and those for a retry."""
    now = timestamp_now()
    with os.scandir(path) as entries:
        filenames = [entry.name for entry in entries if is_mail(entry.name)]
    deferred = [filename for filename in filenames if filename > now]
    parts = [parse_filename(timed[1]) for filename in filenames if (timed := split_timed(filename))]
    timed = split_timed(min(deferred, default=""))
    retrying = sum(each is not None and each.attempt > 1 for each in parts)
    return len(filenames) - len(deferred), len(deferred), timed[0] if timed else None, retrying


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
