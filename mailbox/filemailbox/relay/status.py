"""The relay's status file, `status.json` in its state folder: written by the relay, read by `mailbox relay health`."""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from ..format import codec
from ..format.timestamp import to_nanoseconds
from .clock import Clock, SystemClock

_INTERVAL: Final = 1.0  # seconds between two writes
_MAX_SIZE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """One report of a relay."""

    time: str  # a timestamp, as in filenames
    policy: str  # the digest of the policy in force
    agents: int
    delivered: int  # messages since it started
    deferred: int  # messages that wait in outboxes
    outage: str | None  # why nothing at all is carried
    recipients: Mapping[str, str]  # why a recipient gets no mail
    outboxes: Mapping[str, str]  # why an outbox cannot be read
    records: int  # in the audit log

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    def age(self, now: float) -> float:
        """Return the seconds since the report, at the time *now* in seconds since 1970."""
        return max(0.0, now - to_nanoseconds(self.time) / 1e9)


def status_path(state: str) -> str:
    """Return the path of the file in the relay's state folder."""
    return f"{state}/status.json"


def read_status(state: str) -> RelayStatus:
    """Return the last report. Raises OSError if there is none, ValueError if it cannot be understood."""
    with open(status_path(state), "rb") as file:
        data = codec.loads(file.read(_MAX_SIZE))
    try:
        status = RelayStatus(**data)
        status.age(0.0)
        dict(status.recipients), dict(status.outboxes)
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError(str(error)) from None
    return status


class StatusFile:
    """The file, written at most once a second. Best effort: a full disk stops nothing."""

    def __init__(self, state: str, clock: Clock | None = None) -> None:
        self._path = status_path(state)
        self._clock = clock or SystemClock()
        self._not_before = 0.0

    def update(self, status: Callable[[], RelayStatus]) -> None:
        """Write a report if one is due."""
        now = self._clock.monotonic()
        if now < self._not_before:
            return
        self._not_before = now + _INTERVAL
        with contextlib.suppress(OSError):
            with open(f"{self._path}.new", "wb") as file:
                file.write(codec.dumps(status().as_dict(), None, codec.LINE))
            os.replace(f"{self._path}.new", self._path)

    def remove(self) -> None:
        """Remove it: the relay stops."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
