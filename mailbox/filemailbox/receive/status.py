"""The status file of a listener, and the list of live listeners.

A listener writes `run/status-CONSUMER.json`, named after its folder in `cur/`. The file does not prove that it lives:
the lock of that folder does, so the kernel is asked. The contents show whether it keeps up. A listener that an error
ends leaves its file there, with the error.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from operator import attrgetter
from typing import Any, Final

import orjson

from ..errors import quoted
from ..format.filename import parse_filename
from ..format.order import is_mail
from ..format.timestamp import to_nanoseconds, to_timestamp
from ..store.ids import timestamp_now
from ..system.as_owner import opened
from ..system.files import READ, close, read
from ..system.locks import is_held
from ..wake import doorbell

_WRITE_INTERVAL: Final = 0.25  # seconds between two writes
_MAX_SIZE: Final = 65536  # bytes that are read
_BLOCK: Final = 512  # bytes: each write covers the last one
_MAX_ERROR: Final = 500  # characters of an error that are kept
_MAX_CLAIMS: Final = 256  # claimed messages whose time of claim is asked for
_MAX_DOORBELLS: Final = 1000  # entries of a run/ that are examined: its owner can put any number there
_MAX_FORMER: Final = 64  # files of dead listeners that are read

_PREFIX: Final = "status-"
_SUFFIX: Final = ".json"


def status_filename(consumer: str) -> str:
    """Return the name, in `run/`, of the status file of a consumer."""
    return f"{_PREFIX}{consumer}{_SUFFIX}"


def consumer_of(filename: str) -> str | None:
    """Return the consumer that a status file is named after; None if it is not a status file."""
    consumer = filename.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    return consumer if filename == status_filename(consumer) else None


class ListenerStatus:
    """The status file of one listener. Best effort: a full disk does not stop the listener."""

    def __init__(self, box: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._box = box
        self._clock = clock
        self._fd = -1
        self._path = ""
        self._since = timestamp_now()
        self._write_at = 0.0
        self._size = 0  # bytes of the longest write: a shorter one must cover it

    @property
    def is_fresh(self) -> bool:
        """True if it was written less than 250 ms ago."""
        return self._clock() < self._write_at

    def write(self, consumer: str | None, values: Mapping[str, Any]) -> None:
        """Write *values*. Does nothing until the consumer has a folder."""
        if consumer is None:
            return
        self._write_at = self._clock() + _WRITE_INTERVAL
        data = orjson.dumps({"since": self._since, "looked": timestamp_now(), **values})
        try:
            if self._fd < 0 or not os.fstat(self._fd).st_nlink or self._path != self._path_for(consumer):
                self.close()
                self._open(consumer)
            # In place and never shorter than before: a rename in run/ would make each sender list the doorbells again.
            self._size = max(self._size, -(-len(data) // _BLOCK) * _BLOCK)
            os.pwrite(self._fd, data.ljust(self._size), 0)
        except OSError:
            self.close()

    def leave(self, consumer: str | None, values: Mapping[str, Any], error: str) -> None:
        """Write *values* and the *error* that ends the listener, and leave the file for `status` and `doctor`."""
        self.write(consumer, {**values, "stopped": error[:_MAX_ERROR]})
        if self._fd >= 0:
            close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Remove the file."""
        if self._fd >= 0:
            st = os.fstat(self._fd)
            close(self._fd)
            self._fd = -1
            run, filename = os.path.split(self._path)
            with contextlib.suppress(OSError), opened(run) as dir_fd:
                if os.stat(filename, dir_fd=dir_fd, follow_symlinks=False).st_ino == st.st_ino:  # the file it wrote
                    os.unlink(filename, dir_fd=dir_fd)

    def _path_for(self, consumer: str) -> str:
        return f"{self._box}/run/{status_filename(consumer)}"

    def _open(self, consumer: str) -> None:
        self._path = self._path_for(consumer)
        flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        fd = os.open(self._path, flags, 0o644)
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode) or st.st_nlink != 1:
            os.close(fd)
            raise OSError(errno.EEXIST, "another file has that name")
        os.ftruncate(fd, 0)
        self._fd = fd
        self._forget_dead(consumer)

    def _forget_dead(self, consumer: str) -> None:
        """Remove the files of dead listeners: their errors are history once a listener is there."""
        with opened(f"{self._box}/run") as run:
            for other in _reports(self._box)[:_MAX_FORMER]:
                if other != consumer and not is_held(f"{self._box}/cur/{other}/.lock"):
                    with contextlib.suppress(OSError):
                        os.unlink(status_filename(other), dir_fd=run)


@dataclass(slots=True)
class Tally:
    """Counts of the messages that a consumer settled. One for each receiver."""

    handled: int = 0
    """Messages that were acked."""
    failed: int = 0
    """Attempts that ended in a retry or a dead letter."""
    retries_in_a_row: int = 0
    """Failed attempts since the last message that was acked or rejected."""
    last_error: str | None = None
    """Reason of the last failed attempt."""
    last_error_at: str | None = None
    """Its timestamp."""
    without_key: int = 0
    """Sealed messages that were deferred, because the box has no key."""

    def acked(self) -> None:
        """Count a message that was handled."""
        self.handled += 1
        self.retries_in_a_row = 0

    def retried(self, reason: str) -> None:
        """Count an attempt that failed."""
        self.retries_in_a_row += 1
        self._fail(reason)

    def rejected(self, reason: str) -> None:
        """Count a message that can never be handled: the handler works."""
        self.retries_in_a_row = 0
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        self.failed += 1
        self.last_error, self.last_error_at = reason[:_MAX_ERROR], timestamp_now()

    def as_dict(self) -> dict[str, Any]:
        """Return it as members of the status file."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerInfo:
    """A listener, as its status file and its claims describe it. Timestamps are as in file names."""

    consumer: str
    """Name of its folder in `cur/`."""
    since: str
    """Timestamp of its start."""
    looked: str
    """Timestamp of its last report."""
    interval: float = 0.25
    """Seconds between two of its reports, while no handler is at work in its thread."""
    bell: str | None = None
    """Path of its doorbell."""
    watch: str | None = None
    """Error that keeps its watch from working."""
    types: tuple[str, ...] | None = None
    """Types that it takes; None if it takes all."""
    announced: int = 0
    """Messages that a doorbell or a notification announced."""
    missed: int = 0
    """Messages that only a poll found."""
    handled: int = 0
    """Messages that it has acked."""
    failed: int = 0
    """Attempts that ended in a retry or a dead letter."""
    retries_in_a_row: int = 0
    """Failed attempts since the last message that was acked or rejected."""
    last_error: str | None = None
    """Reason of the last failed attempt."""
    last_error_at: str | None = None
    """Its timestamp."""
    paused: str | None = None
    """Error for which it claims nothing now: the command is broken, or the disk fails."""
    paused_since: str | None = None
    """Timestamp of the first such error."""
    paused_hint: str | None = None
    """Its hint."""
    without_key: int = 0
    """Sealed messages that it deferred, because the box has no key."""
    stopped: str | None = None
    """Error that ended it. Only a listener that is gone has one."""
    busy: str | None = None
    """Id of the message that it has claimed for the longest time."""
    busy_since: str | None = None
    """Timestamp of that claim."""

    @property
    def silent(self) -> float:
        """Seconds since its last report. A listener with a handler at work does not report."""
        return seconds_since(self.looked)

    @property
    def busy_for(self) -> float:
        """Seconds since it claimed the message that it is busy with; 0 if it is idle."""
        return seconds_since(self.busy_since) if self.busy_since is not None else 0.0


def live_doorbells(run: str) -> int:
    """Return the number of doorbells in the folder *run* that have a listener. Raises no error."""
    return sum(_has_listener(path) for path in _doorbells(run))


def unheard(box: str | os.PathLike[str], type: str | None) -> str | None:
    """Return the reason why no process takes a message of this *type* from the box now; None if one may.

    Any user may ask: doorbells and status files are visible to all, the locks of consumers to their owner alone.
    """
    name = os.path.basename(os.fspath(box))
    try:
        listeners = listening(box)
        consumers = any(is_held(f"{box}/cur/{each}/.lock") for each in os.listdir(f"{box}/cur"))
    except OSError:  # another user's
        listeners, consumers = [], False
    if not (listeners or consumers or live_doorbells(f"{box}/run")):
        return f"no process listens to {quoted(name)} now"
    taken: set[str] = set()
    for each in listeners:
        if each.types is None:
            return None
        taken.update(each.types)
    if listeners and (type or "") not in taken:
        return f"no listener of {quoted(name)} takes {'the type ' + quoted(type) if type else 'mail without a type'}"
    return None


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


def seconds_since(timestamp: str) -> float:
    """Return the seconds since *timestamp*; less than 0 if it is ahead of the clock."""
    return (time.time_ns() - to_nanoseconds(timestamp)) / 1e9


def listening(box: str | os.PathLike[str]) -> list[ListenerInfo]:
    """Return the live listeners of a box. Raises OSError if the box cannot be read."""
    alive = []
    for consumer in _reports(box):
        if is_held(f"{box}/cur/{consumer}/.lock"):
            values = _read(f"{box}/run/{status_filename(consumer)}")
            if values is not None:
                alive.append(from_json(consumer, values, _longest_claim(f"{box}/cur/{consumer}")))
    return alive


def last_stopped(box: str | os.PathLike[str]) -> ListenerInfo | None:
    """Return the listener that an error ended last, from the file that it left. Raises OSError as listening() does."""
    gone = []
    for consumer in _reports(box)[:_MAX_FORMER]:
        if not is_held(f"{box}/cur/{consumer}/.lock"):
            values = _read(f"{box}/run/{status_filename(consumer)}")
            if values is not None:
                gone.append(from_json(consumer, values))
    return max((each for each in gone if each.stopped is not None), key=attrgetter("looked"), default=None)


def _reports(box: str | os.PathLike[str]) -> list[str]:
    """Return the consumers that have a status file."""
    os.stat(box)
    try:
        consumers = map(consumer_of, sorted(os.listdir(f"{box}/run")))
    except FileNotFoundError:  # wiped: no listener can report
        return []
    return [consumer for consumer in consumers if consumer is not None]


def from_json(
    consumer: str, values: Mapping[str, Any], claim: tuple[str, str] | tuple[None, None] = (None, None)
) -> ListenerInfo:
    """Return the contents of a status file, missing and irregular values filled in. *claim*: its id, and its time."""

    def count(name: str) -> int:
        value = values.get(name)
        return value if isinstance(value, int) else 0

    def text(name: str) -> str | None:
        value = values.get(name)
        return value if isinstance(value, str) else None

    def moment(name: str) -> str | None:
        value = text(name)
        with contextlib.suppress(ValueError, ArithmeticError):
            to_nanoseconds(value or "")
            return value
        return None

    interval, types = values.get("interval"), values.get("types")
    return ListenerInfo(
        consumer=consumer,
        since=str(values["since"]),
        looked=str(values["looked"]),
        interval=float(interval) if isinstance(interval, int | float) else 0.25,
        bell=text("bell"),
        watch=text("watch"),
        types=tuple(map(str, types)) if isinstance(types, list) else None,
        announced=count("announced"),
        missed=count("missed"),
        handled=count("handled"),
        failed=count("failed"),
        retries_in_a_row=count("retries_in_a_row"),
        last_error=text("last_error"),
        last_error_at=moment("last_error_at"),
        paused=text("paused"),
        paused_since=moment("paused_since"),
        paused_hint=text("paused_hint"),
        without_key=count("without_key"),
        stopped=text("stopped"),
        busy=claim[0],
        busy_since=claim[1],
    )


def _longest_claim(folder: str) -> tuple[str, str] | tuple[None, None]:
    """Return the id of the message that is longest in a consumer's folder, and the timestamp of its claim.

    A claim is a rename, which sets the time of the last change of the inode: no consumer writes it down.
    """
    claims = []
    with contextlib.suppress(OSError), opened(folder) as dir_fd:
        for name in sorted(filter(is_mail, os.listdir(dir_fd)))[:_MAX_CLAIMS]:
            with contextlib.suppress(OSError):  # settled meanwhile
                claims.append((os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_ctime_ns, name))
    if not claims:
        return None, None
    when, name = min(claims)
    parts = parse_filename(name)
    return (parts.id if parts else name), to_timestamp(when)


def _read(path: str) -> dict[str, Any] | None:
    try:
        fd = os.open(path, READ)
        try:
            data = read(fd, _MAX_SIZE) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)
        values = orjson.loads(data)
        to_nanoseconds(values["since"])
        to_nanoseconds(values["looked"])
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError):
        return None
    return values if isinstance(values, dict) else None
