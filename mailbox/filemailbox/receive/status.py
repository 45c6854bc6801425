"""The status file of a listener, and the list of live listeners.

A listener writes `run/status-CONSUMER.json`, named after its folder in `cur/`. The file does not prove that it lives:
the lock of that folder does, so the kernel is asked. The contents show whether it keeps up.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ..format.filename import parse_filename
from ..format.order import is_mail
from ..format.timestamp import to_nanoseconds
from ..store.ids import timestamp_now
from ..system.as_owner import opened
from ..system.files import READ, close, read
from ..system.locks import is_held

_WRITE_INTERVAL: Final = 0.25  # seconds between two writes
_MAX_SIZE: Final = 65536  # bytes that are read
_BLOCK: Final = 512  # bytes: each write covers the last one

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


@dataclass(frozen=True, slots=True)
class ListenerInfo:
    """A live listener."""

    consumer: str
    """Name of its folder in `cur/`."""
    since: str
    """Timestamp of its start."""
    looked: str
    """Timestamp of its last report."""
    bell: str | None
    """Path of its doorbell."""
    watch: str | None
    """Error that keeps its watch from working."""
    announced: int
    """Messages that a doorbell or a notification announced."""
    missed: int
    """Messages that only a poll found."""
    handled: int
    """Messages whose handler has ended."""
    busy: str | None
    """Id of the oldest message that it has claimed."""

    @property
    def silent(self) -> float:
        """Seconds since its last report. A listener with a handler at work does not report."""
        return (time.time_ns() - to_nanoseconds(self.looked)) / 1e9


def listening(box: str | os.PathLike[str]) -> list[ListenerInfo]:
    """Return the live listeners of a box. Raises OSError if the box cannot be read."""
    alive = []
    os.stat(box)
    try:
        filenames = sorted(os.listdir(f"{box}/run"))
    except FileNotFoundError:  # wiped: no listener can report
        return []
    for filename in filenames:
        consumer = consumer_of(filename)
        if consumer is not None and is_held(f"{box}/cur/{consumer}/.lock"):
            values = _read(f"{box}/run/{filename}")
            if values is not None:
                alive.append(from_json(consumer, values, _oldest_claim(f"{box}/cur/{consumer}")))
    return alive


def from_json(consumer: str, values: Mapping[str, Any], busy: str | None = None) -> ListenerInfo:
    """Return the contents of a status file, missing values filled in."""

    def count(name: str) -> int:
        value = values.get(name)
        return value if isinstance(value, int) else 0

    def text(name: str) -> str | None:
        value = values.get(name)
        return value if isinstance(value, str) else None

    return ListenerInfo(
        consumer,
        str(values["since"]),
        str(values["looked"]),
        text("bell"),
        text("watch"),
        count("announced"),
        count("missed"),
        count("handled"),
        busy,
    )


def _oldest_claim(folder: str) -> str | None:
    """Return the id of the oldest message in a consumer's folder."""
    with contextlib.suppress(OSError):
        oldest = min(filter(is_mail, os.listdir(folder)), default=None)
        parts = parse_filename(oldest) if oldest is not None else None
        return parts.id if parts else oldest
    return None


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
