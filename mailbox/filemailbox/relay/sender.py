"""One agent as a sender: its outbox as a queue, its rate and its quotas.

A scan lists the outbox and queues the names in text order. Mail that cannot be carried now is deferred: it stays in the
outbox until it is due. This module decides nothing.
"""

import contextlib
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from .. import log
from ..format.order import is_mail
from ..system.inotify import MultiWatch
from .carrier import Source
from .clock import Clock
from .limits import Quota, TokenBucket
from .policy import Agent
from .volume import errno_text

_SCAN_SHARE: Final = 20  # scans of one outbox take at most this fraction (one in …) of the time
_FREE_SCAN: Final = 0.001  # seconds; a shorter scan costs nothing


@dataclass(frozen=True, slots=True)
class Deferred:
    """A message that stays in its outbox until `due` (monotonic time)."""

    due: float
    to: frozenset[str] = frozenset()  # recipients it waits for
    stuck: bool = False  # it was decided and recorded, but cannot be removed


class Sender:
    """One agent as a sender."""

    def __init__(self, agent: Agent, source: Source, watches: MultiWatch | None, clock: Clock) -> None:
        self.agent, self.source = agent, source
        self._watches, self._clock = watches, clock
        self.queue: deque[str] = deque()
        self._queued: set[str] = set()
        self.deferred: dict[str, Deferred] = {}
        self._next_due: float | None = float("inf")  # of `deferred`; None if it has to be computed
        self._deferred_for: Counter[str] = Counter()  # messages, by recipient
        self.scan_wanted = True
        self._scan_not_before = 0.0
        self.throttled_until = 0.0  # its rate is used up until then
        self.problem: str | None = None
        """Why its outbox cannot be read."""
        self.watch = -1
        """The number of the watch on its outbox."""
        self.bucket = TokenBucket(agent.limits.rate, agent.limits.burst)
        self.quota, self.quota_bytes = Quota(agent.limits.quota), Quota(agent.limits.quota_bytes)

    def scan(self) -> None:
        """List the outbox and queue what is due. Log a problem once, until it is solved."""
        began = self._clock.monotonic()
        self.scan_wanted = False
        try:
            if self.source.open():
                self._start_watch()
            listed = self.source.waiting(self.agent.limits.outbox)
        except OSError as error:
            self.source.close()
            self.clear_queue()
            self.scan_wanted = False  # until something happens in it, or all outboxes are scanned
            self._report(f"its outbox cannot be read: {errno_text(error)}")
            return
        self._report(None)
        for gone in self.deferred.keys() - set(listed):
            self.settle(gone)
        self.queue = deque(name for name in listed if name not in self.deferred or self.deferred[name].due <= began)
        self._queued = set(self.queue)
        took = self._clock.monotonic() - began
        self._scan_not_before = began + _SCAN_SHARE * took if took > _FREE_SCAN else 0.0

    def announce(self, names: list[str]) -> None:
        """Queue new mail by name, so that an outbox with much deferred mail need not be listed."""
        if self.source.watch_fd < 0 or len(self.queue) + len(names) > self.agent.limits.outbox:
            self.scan_wanted = True
            return
        for name in names:
            waits = name in self.deferred and (self.deferred[name].to or self.deferred[name].stuck)
            if is_mail(name) and name not in self._queued and not waits:
                self.queue.append(name)
                self._queued.add(name)

    def next(self) -> str:
        """Remove and return the first name of the queue."""
        name = self.queue.popleft()
        self._queued.discard(name)
        return name

    def requeue_first(self, name: str) -> None:
        """Put a name back at the head of the queue."""
        self.queue.appendleft(name)
        self._queued.add(name)

    def clear_queue(self) -> None:
        """Empty the queue. The next scan fills it again."""
        self.queue.clear()
        self._queued.clear()
        self.scan_wanted = True

    def next_scan(self) -> float:
        """Return when the outbox is due if nothing happens in it (monotonic time)."""
        if self.queue:
            return self.throttled_until
        if self._next_due is None:
            self._next_due = min((deferred.due for deferred in self.deferred.values()), default=float("inf"))
        return max(0.0 if self.scan_wanted else self._next_due, self._scan_not_before)

    def defer(self, name: str, due: float, to: frozenset[str] = frozenset(), stuck: bool = False) -> None:
        """Leave a message in the outbox until *due*."""
        self.settle(name)
        self.deferred[name] = Deferred(due, to, stuck)
        self._deferred_for.update(to)
        if self._next_due is not None:
            self._next_due = min(self._next_due, due)

    def settle(self, name: str) -> None:
        """Forget a deferred message: it was removed, or is gone."""
        deferred = self.deferred.pop(name, None)
        if deferred is not None:
            self._deferred_for.subtract(deferred.to)
            if deferred.due == self._next_due:
                self._next_due = None

    def is_stuck(self, name: str) -> bool:
        """Return whether a message was decided already and could not be removed."""
        return name in self.deferred and self.deferred[name].stuck

    def deferred_for(self, to: str) -> int:
        """Return how many deferred messages wait for a recipient."""
        return self._deferred_for[to]

    def use_quota(self, at: float, messages: int, size: int) -> None:
        """Count messages and bytes, carried or refused, at a time in seconds since 1970."""
        self.quota.use(at, messages)
        self.quota_bytes.use(at, size)

    def close(self) -> None:
        """Close the outbox and its watch."""
        self._end_watch()
        self.source.close()

    def _start_watch(self) -> None:
        self._end_watch()
        if self._watches is not None and self.source.watch_fd >= 0:
            with contextlib.suppress(OSError):  # too many watches: polling finds its mail
                self.watch = self._watches.add(self.source.watch_fd)

    def _end_watch(self) -> None:
        if self._watches is not None and self.watch >= 0:
            self._watches.drop(self.watch)
            self.watch = -1

    def _report(self, problem: str | None) -> None:
        if problem != self.problem:
            if problem is not None:
                log.warning("%s: %s", self.agent.name, problem)
            else:
                log.warning("%s: its outbox can be read again", self.agent.name)
            self.problem = problem
