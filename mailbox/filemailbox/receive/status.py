"""What a listener says of itself, and who listens.

A listener writes `run/status-CONSUMER.json`, named after its folder in `cur/`. That it lives is not taken from there
but asked from the kernel: the lock of that folder is held. What it wrote last tells whether it keeps up.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Mapping
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

_OFTEN: Final = 0.25  # seconds between two writes
_LARGEST: Final = 65536  # bytes that are read
_BLOCK: Final = 512  # bytes: a write overwrites the last one whole


class ListenerStatus:
    """The file of one listener. Best effort: a full disk is no reason to stop listening."""

    def __init__(self, box: str) -> None:
        self._box = box
        self._file = -1
        self._path = ""
        self._since = timestamp_now()
        self._again = 0.0
        self._size = 0  # bytes of the longest that was written: what is shorter must cover it

    @property
    def fresh(self) -> bool:
        """Whether something was said a moment ago."""
        return time.monotonic() < self._again

    def write(self, consumer: str | None, facts: Mapping[str, Any]) -> None:
        """Say *facts*. Until the consumer has a folder there is nothing to say."""
        if consumer is None:
            return
        self._again = time.monotonic() + _OFTEN
        text = orjson.dumps({"since": self._since, "looked": timestamp_now(), **facts})
        try:
            if self._file < 0 or not os.fstat(self._file).st_nlink or not self._path.endswith(f"-{consumer}.json"):
                self.close()
                self._open(consumer)
            # In place, and never shorter than before: a rename would make every sender list the bells anew.
            self._size = max(self._size, -(-len(text) // _BLOCK) * _BLOCK)
            os.pwrite(self._file, text.ljust(self._size), 0)
        except OSError:
            self.close()

    def close(self) -> None:
        """Take it away: nobody listens here any more."""
        if self._file >= 0:
            facts = os.fstat(self._file)
            close(self._file)
            self._file = -1
            run, name = os.path.split(self._path)
            with contextlib.suppress(OSError), opened(run) as folder:
                if os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino == facts.st_ino:  # what we wrote
                    os.unlink(name, dir_fd=folder)

    def _open(self, consumer: str) -> None:
        self._path = f"{self._box}/run/status-{consumer}.json"
        how = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        file = os.open(self._path, how, 0o644)
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            os.close(file)
            raise OSError(errno.EEXIST, "something else lies there")
        os.ftruncate(file, 0)
        self._file = file


@dataclass(frozen=True, slots=True)
class ListenerInfo:
    """A listener that lives."""

    consumer: str  # the name of its folder in cur/
    since: str  # stamp: when it began
    looked: str  # stamp: when it looked for mail last
    bell: str | None  # the path of its doorbell
    watch: str | None  # what keeps its watch from working
    announced: int  # messages that a bell or a notification announced
    missed: int  # messages that only the rescan found
    handled: int
    busy: str | None  # the oldest message that it holds

    @property
    def silent(self) -> float:
        """Seconds since it last said something. A handler at work is silent, too."""
        return (time.time_ns() - to_nanoseconds(self.looked)) / 1e9


def listening(box: str) -> list[ListenerInfo]:
    """The listeners of a box that live. Raises OSError where the box cannot be looked into."""
    alive = []
    os.stat(box)
    try:
        said = sorted(os.listdir(f"{box}/run"))
    except FileNotFoundError:  # wiped: nobody can say that it listens
        return []
    for name in said:
        consumer = name.removeprefix("status-").removesuffix(".json")
        if name == f"status-{consumer}.json" and is_held(f"{box}/cur/{consumer}/.lock"):
            facts = _read(f"{box}/run/{name}")
            if facts is not None:
                alive.append(from_json(consumer, facts, _held(f"{box}/cur/{consumer}")))
    return alive


def from_json(consumer: str, facts: Mapping[str, Any], busy: str | None = None) -> ListenerInfo:
    """What a listener wrote, missing parts filled in."""

    def count(name: str) -> int:
        value = facts.get(name)
        return value if isinstance(value, int) else 0

    def text(name: str) -> str | None:
        value = facts.get(name)
        return value if isinstance(value, str) else None

    return ListenerInfo(
        consumer,
        str(facts["since"]),
        str(facts["looked"]),
        text("bell"),
        text("watch"),
        count("announced"),
        count("missed"),
        count("handled"),
        busy,
    )


def _held(folder: str) -> str | None:
    """The id of the oldest message in a consumer's folder. The directory is the truth: nobody need write it down."""
    with contextlib.suppress(OSError):
        oldest = min(filter(is_mail, os.listdir(folder)), default=None)
        parts = parse_filename(oldest) if oldest is not None else None
        return parts.id if parts else oldest
    return None


def _read(path: str) -> dict[str, Any] | None:
    try:
        file = os.open(path, READ)
        try:
            data = read(file, _LARGEST) if stat.S_ISREG(os.fstat(file).st_mode) else b""
        finally:
            os.close(file)
        facts = orjson.loads(data)
        to_nanoseconds(facts["since"])
        to_nanoseconds(facts["looked"])
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError):
        return None
    return facts if isinstance(facts, dict) else None
