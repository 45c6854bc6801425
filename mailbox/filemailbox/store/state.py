"""The states of a message. Every state is a folder of the box; every step is one rename.

A module of its own: a process that only sends needs no enum, which takes longer to import than the rest of this table.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The state of a message: the name of its folder. In the order in which they are listed."""

    NEW = "new"
    DEFERRED = "later"
    CLAIMED = "cur"
    DEAD = "dead"
    DONE = "done"

    @property
    def has_timed_names(self) -> bool:
        """True if a file name begins with a time: when the message is due, or was handled."""
        return self in (State.DEFERRED, State.DONE)

    @property
    def is_waiting(self) -> bool:
        """True if a consumer will claim it: `mailbox list` shows these states by default."""
        return self in (State.NEW, State.DEFERRED)
