"""The carrying step: bytes from one volume into another, many at a time, each whole or not at all.

    stage     write into the recipients' tmp/, under a name made of sender and id
    flush     all of them: one syncfs(2) for each file system
    …         the relay writes its record: from then on they are delivered, whatever happens
    deliver   rename into new/, ring

Crash before the record, and nothing has happened: what is staged is used, or overwritten, by the next try. Crash after
it, and what is still staged is renamed by the next relay, once. Whoever carries to elsewhere than to volumes of this
host has to do these steps, too.
"""

import os
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from ..format.address import Address
from ..store.deliver import syncfs
from .accepted import Accepted
from .inbox import Inbox
from .outbox import OutboxMessage
from .policy import Agent
from .volume import is_our_trouble

_CROWD = 8  # messages from which on one flush of the file system is cheaper than one for each


class DeliveryBatch:
    """Messages that are carried together. Use it in a `with` block."""

    def __init__(self, agents: Mapping[Address, Agent]) -> None:
        self._agents = agents
        self._inboxes: dict[str, Inbox] = {}
        self._disks: dict[int, list[tuple[tuple[str, str], int]]] = {}  # what was staged, with the open file, if kept
        self._staged: Counter[str] = Counter()
        self._rung: set[str] = set()

    def __len__(self) -> int:
        return self._staged.total()

    def staged_for(self, to: str) -> int:
        """How much was staged for a recipient."""
        return self._staged[to]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for staged in self._disks.values():
            for _, file in staged:
                if file >= 0:
                    os.close(file)
        for inbox in self._inboxes.values():
            inbox.close()

    def inbox(self, to: str) -> Inbox:
        """The box of *to*, open. Raises OSError where it cannot be opened."""
        if to not in self._inboxes:
            self._inboxes[to] = Inbox(self._agents[Address(to)])
        return self._inboxes[to]

    def stage(self, to: str, letter: OutboxMessage) -> None:
        """Write *letter* into the `tmp/` of *to*. Raises OSError."""
        file = self.inbox(to).stage(letter.carried_name, letter.data)
        on_disk = self._disks.setdefault(os.fstat(file).st_dev, [])
        if len(on_disk) >= _CROWD:  # syncfs needs only one of them, and we may not have so many open
            os.close(file)
            file = -1
        on_disk.append(((to, letter.carried_name), file))
        self._staged[to] += 1

    def flush(self) -> dict[tuple[str, str], OSError]:
        """Flush all that was staged. Returns what could not be, by recipient and name, and why."""
        failed: dict[tuple[str, str], OSError] = {}
        for staged in self._disks.values():
            try:
                if len(staged) >= _CROWD:
                    if not syncfs(staged[0][1]):
                        os.sync()  # no syncfs in this C library
                    continue
            except OSError as error:
                failed.update((key, error) for key, _ in staged)
                continue
            for key, file in staged:
                try:
                    os.fsync(file)
                except OSError as error:
                    failed[key] = error
        return failed

    def deliver(self, to: str, carried: Accepted) -> bool:
        """Rename what is staged for *to* to where it is read. Returns False where it was delivered before.

        Raises OSError where that cannot be done now.
        """
        inbox = self.inbox(to)
        try:
            inbox.deliver(carried.file, carried.answers)
        except FileNotFoundError:
            if inbox.is_staged(carried.file):  # then it is new/ that is gone
                raise
            return False
        self._rung.add(to)
        return True

    def ring(self) -> None:
        """Ring for all that was delivered."""
        for to in self._rung:
            self._inboxes[to].ring()
        self._rung.clear()

    def discard_staged(self, to: str, carried: Accepted) -> None:
        """Delete what is staged for *to*, as far as that can be done."""
        try:
            self.inbox(to).discard_staged(carried.file)
        except OSError as error:
            if is_our_trouble(error):
                raise
