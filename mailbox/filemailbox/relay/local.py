"""The carrier for volumes of this host."""

import contextlib
import os
from collections.abc import Mapping

from ..format.address import Address
from .clock import Clock, SystemClock
from .inbox import Inbox
from .outbox import Outbox
from .policy import Agent


class LocalCarrier:
    """Opens outboxes and inboxes in the volumes that the policy names."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def source(self, agent: Agent) -> Outbox:
        """Return the outbox of *agent*, not yet open."""
        return Outbox(agent, self._clock)

    def destination(self, agent: Agent) -> Inbox:
        """Open the box of *agent*. Raises OSError."""
        return Inbox(agent)

    def check(self, agents: Mapping[Address, Agent]) -> list[str]:
        """Return a problem for each two agents that share a volume without uids of their own.

        The policy compares paths. Only the disk shows that two paths lead to one folder.
        """
        problems: list[str] = []
        seen: dict[tuple[int, int], Agent] = {}
        for agent in agents.values():
            with contextlib.suppress(OSError):
                st = os.stat(agent.volume)
                other = seen.setdefault((st.st_dev, st.st_ino), agent)
                if other is not agent and (agent.uid is None or agent.uid == other.uid):
                    pair = f"{other.name} and {agent.name}"
                    problems.append(f"{pair} have one volume and no uids of their own: nothing distinguishes them")
        return problems
