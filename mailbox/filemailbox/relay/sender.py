"""One agent as a sender, as the relay sees it: its outbox, and how far the relay is with it.

A look lists the outbox; what it finds is queued, in the order of the names. What cannot be carried now is parked: left
where it lies, until something is due. Nothing here decides anything.
"""

import contextlib
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from .. import log
from ..format.order import is_mail
from ..system.inotify import MultiWatch
from .limits import Quota, TokenBucket
from .outbox import Outbox
from .policy import Agent

_SHARE: Final = 20  # a look at an outbox costs at most such a part of the time


@dataclass(frozen=True, slots=True)
class Deferred:
    """A message that is left in its outbox for a while."""

    due: float
    to: frozenset[str] = frozenset()  # whom it waits for
    stuck: bool = False  # decided and recorded, but not to be removed


class Sender:
    """One agent as a sender: its outbox, and how far we are with it."""

    def __init__(self, agent: Agent, watches: MultiWatch | None) -> None:
        self.agent, self._watches = agent, watches
        self.outbox = Outbox(agent)
        self.queue: deque[str] = deque()
        self._queued: set[str] = set()
        self.parked: dict[str, Deferred] = {}
        self._soonest: float | None = float("inf")  # when the first of them is due, as far as that is known
        self._waiting: Counter[str] = Counter()  # how much is parked, by recipient
        self.wanted = True  # to be looked at
        self.look_at = 0.0  # not before
        self.throttled = 0.0  # until then it has used up its rate
        self.trouble: str | None = None
        self.watch = -1
        self.bucket = TokenBucket(agent.limits.rate, agent.limits.burst)
        self.quota, self.quota_bytes = Quota(agent.limits.quota), Quota(agent.limits.quota_bytes)

    def look(self, now: float) -> None:
        """List the outbox. What is wrong with it is told once, until it is right again."""
        self.wanted = False
        try:
            if self.outbox.open():
                self._begin_watch()
            listed = self.outbox.list(self.agent.limits.outbox)
        except OSError as error:
            self.outbox.close()
            self.forget()
            self.wanted = False  # until something happens, or all are looked at
            self._tell(f"its outbox cannot be looked into: {errno_text(error)}")
            return
        self._tell(None)
        for gone in self.parked.keys() - set(listed):
            self.unpark(gone)
        self.queue = deque(name for name in listed if name not in self.parked or self.parked[name].due <= now)
        self._queued = set(self.queue)
        took = time.monotonic() - now
        self.look_at = now + _SHARE * took if took > 0.001 else 0.0

    def announce(self, names: list[str]) -> None:
        """Something has come, so that nobody need list the outbox, in which much may be parked."""
        if self.outbox.folder < 0 or len(self.queue) + len(names) > self.agent.limits.outbox:
            self.wanted = True
            return
        for name in names:
            waits = name in self.parked and (self.parked[name].to or self.parked[name].stuck)
            if is_mail(name) and name not in self._queued and not waits:
                self.queue.append(name)
                self._queued.add(name)

    def next(self) -> str:
        """Take the first of the queue."""
        name = self.queue.popleft()
        self._queued.discard(name)
        return name

    def put_back(self, name: str) -> None:
        """It is the first again."""
        self.queue.appendleft(name)
        self._queued.add(name)

    def forget(self) -> None:
        """Empty the queue: what is in it is found again by looking."""
        self.queue.clear()
        self._queued.clear()
        self.wanted = True

    def next_look(self) -> float:
        """When it is to be looked at, if nothing happens in it."""
        if self.queue:
            return self.throttled
        if self._soonest is None:
            self._soonest = min((parked.due for parked in self.parked.values()), default=float("inf"))
        return max(0.0 if self.wanted else self._soonest, self.look_at)

    def park(self, name: str, due: float, to: frozenset[str] = frozenset(), stuck: bool = False) -> None:
        """Leave it until *due*."""
        self.unpark(name)
        self.parked[name] = Deferred(due, to, stuck)
        self._waiting.update(to)
        if self._soonest is not None:
            self._soonest = min(self._soonest, due)

    def unpark(self, name: str) -> None:
        """It is settled, or gone."""
        parked = self.parked.pop(name, None)
        if parked is not None:
            self._waiting.subtract(parked.to)
            if parked.due == self._soonest:
                self._soonest = None  # found out when it is asked for

    def is_stuck(self, name: str) -> bool:
        """Whether it was decided already, and could not be removed."""
        return name in self.parked and self.parked[name].stuck

    def waiting_for(self, to: str) -> int:
        """How many messages wait here for a recipient."""
        return self._waiting[to]

    def close(self) -> None:
        """Let go of the outbox."""
        if self.watch >= 0 and self._watches is not None:
            self._watches.drop(self.watch)
            self.watch = -1
        self.outbox.close()

    def _begin_watch(self) -> None:
        if self._watches is not None:
            if self.watch >= 0:
                self._watches.drop(self.watch)
                self.watch = -1
            with contextlib.suppress(OSError):  # no more watches: found by looking
                self.watch = self._watches.add(self.outbox.folder)

    def _tell(self, trouble: str | None) -> None:
        if trouble != self.trouble:
            if trouble is not None:
                log.warning("%s: %s", self.agent.name, trouble)
            elif self.trouble is not None:
                log.warning("%s: its outbox can be looked into again", self.agent.name)
            self.trouble = trouble


def errno_text(error: OSError) -> str:
    """What the kernel said, in lower case."""
    return (error.strerror or str(error)).lower()
