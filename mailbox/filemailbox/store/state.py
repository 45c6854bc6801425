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
    def word(self) -> str:
        """The word for it in text and in the JSON of commands: waiting, deferred, claimed, dead or done."""
        return _WORDS.get(self, self.value)

    @property
    def has_timed_names(self) -> bool:
        """True if a file name begins with a time: when the message is due, or was handled."""
        return self in (State.DEFERRED, State.DONE)

    @property
    def is_waiting(self) -> bool:
        """True if a consumer will claim it: `mailbox list` shows these states by default."""
        return self in (State.NEW, State.DEFERRED)


_WORDS = {State.NEW: "waiting", State.DEFERRED: "deferred", State.CLAIMED: "claimed"}


def parse_state(text: str) -> State:
    """Return the state of that word, or of that folder. Raises ValueError."""
    for state in State:
        if text in (state.word, state.value):
            return state
    raise ValueError(f'"{text}" is not a state: expected {", ".join(state.word for state in State)}')
