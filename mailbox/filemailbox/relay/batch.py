"""The messages of one batch at their recipients: staged, flushed together, then committed.

    stage     write into the recipients' tmp/, under a name made of sender and id
    flush     all of them: one syncfs(2) for each file system
    …         the relay writes its records: from then on the messages count as delivered
    commit    rename into new/, ring

A crash before the records leaves staged files, which the next attempt uses or overwrites. After a crash behind them the
next relay renames the files that are still staged.
"""

import os
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from ..format.address import Address
from ..store.deliver import syncfs
from .accepted import Accepted
from .carrier import Carrier, Destination, OutboxMessage
from .policy import Agent
from .volume import is_relay_error

_SYNCFS_THRESHOLD: Final = 8  # files on one file system from which on one syncfs is cheaper than an fsync for each


class DeliveryBatch:
    """Messages that are delivered together. Use it in a `with` block."""

    def __init__(self, carrier: Carrier, agents: Mapping[Address, Agent]) -> None:
        self._carrier, self._agents = carrier, agents
        self._destinations: dict[str, Destination] = {}
        # By file system: recipient, filename, and the open file or -1.
        self._unflushed: dict[int, list[tuple[tuple[str, str], int]]] = {}
        self._staged: Counter[str] = Counter()
        self._to_ring: set[str] = set()

    def __len__(self) -> int:
        return self._staged.total()

    def staged_for(self, to: str) -> int:
        """Return how many messages this batch staged for a recipient."""
        return self._staged[to]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for staged in self._unflushed.values():
            for _, fd in staged:
                if fd >= 0:
                    os.close(fd)
        for destination in self._destinations.values():
            destination.close()

    def destination(self, to: str) -> Destination:
        """Return the box of *to*, open. Raises OSError, also if there is no such agent."""
        if to not in self._destinations:
            agent = self._agents.get(Address(to))
            if agent is None:
                raise FileNotFoundError(2, "there is no such agent any more")
            self._destinations[to] = self._carrier.destination(agent)
        return self._destinations[to]

    def stage(self, to: str, message: OutboxMessage) -> None:
        """Stage a message for *to*. Raises OSError."""
        fd = self.destination(to).stage(message.delivered_name, message.data)
        if fd >= 0:
            on_disk = self._unflushed.setdefault(os.fstat(fd).st_dev, [])
            if len(on_disk) >= _SYNCFS_THRESHOLD:  # syncfs needs only one, and descriptors are limited
                os.close(fd)
                fd = -1
            on_disk.append(((to, message.delivered_name), fd))
        self._staged[to] += 1

    def flush(self) -> dict[tuple[str, str], OSError]:
        """Flush all staged messages. Return the errors, by recipient and filename."""
        failed: dict[tuple[str, str], OSError] = {}
        for staged in self._unflushed.values():
            try:
                if len(staged) >= _SYNCFS_THRESHOLD:
                    if not syncfs(staged[0][1]):
                        os.sync()  # this C library has no syncfs
                    continue
            except OSError as error:
                failed.update((key, error) for key, _ in staged)
                continue
            for key, fd in staged:
                try:
                    os.fsync(fd)
                except OSError as error:
                    failed[key] = error
        return failed

    def commit(self, to: str, accepted: Accepted) -> bool:
        """Make a staged message visible to *to*. Return False if that was done before.

        Raises OSError if it cannot be done now.
        """
        destination = self.destination(to)
        try:
            destination.commit(accepted.filename, accepted.in_reply_to)
        except FileNotFoundError:
            if destination.is_staged(accepted.filename):  # then new/ is missing
                raise
            return False
        self._to_ring.add(to)
        return True

    def ring(self) -> None:
        """Ring at every recipient of a committed message."""
        for to in self._to_ring:
            self._destinations[to].ring()
        self._to_ring.clear()

    def discard(self, to: str, accepted: Accepted) -> None:
        """Delete the staged message of *to*, if that is possible."""
        try:
            self.destination(to).discard(accepted.filename)
        except OSError as error:
            if is_relay_error(error):
                raise
