"""The seam: where the relay gets mail, and where it puts it.

The loop, the policy and the audit log know nothing of folders. They use these protocols, which `local` implements for
the volumes of this host. Another carrier, one between hosts for example, implements them beside it.

    Source         waiting, read; then remove, bounce or discard
    Destination    backlog, stage; then commit or discard, ring

Whatever the carrier: `stage` leaves nothing that a recipient can see. The relay flushes what was staged, writes its
records, and only then commits. A crash before the record leaves staged mail that the next attempt uses or overwrites.
After a crash behind the record, `is_staged` separates mail that is still to be committed from mail that was.
"""

from collections.abc import Mapping, Set
from typing import Any, Protocol

from ..errors import NotMailError
from ..format.address import Address
from ..format.envelope import decode
from ..format.filename import Filename
from .policy import Agent


class NotMail(Exception):
    """A file in an outbox is not mail: `why`. It is bounced or, if it is `empty`, discarded."""

    def __init__(self, why: str, empty: bool = False) -> None:
        self.why, self.empty = why, empty
        super().__init__(why)


class Incomplete(Exception):
    """A file may still be being written, or its owner holds a lease on it: read it again later."""


class OutboxMessage:
    """One message of an outbox, read once.

    `data` are its bytes, `fields` its decoded envelope, `name` its name in the outbox. Raises NotMail.
    """

    __slots__ = ("data", "fields", "id", "name", "sender", "stem")

    def __init__(self, sender: Address, name: str, id: str, stem: str | None, data: bytes) -> None:
        self.sender, self.name, self.id, self.stem, self.data = sender, name, id, stem, data
        try:
            self.fields: Mapping[str, Any] = decode(data)
        except NotMailError as error:
            raise NotMail(error.reason) from None

    @property
    def delivered_name(self) -> str:
        """Its filename in the box of a recipient: `F=` names the agent whose volume it came from."""
        return str(Filename(self.id, len(self.data), stem=self.stem, origin=self.sender))


class Source(Protocol):
    """The outgoing mail of one agent."""

    watch_fd: int
    """A folder in which new mail appears, for inotify; -1 if there is none."""

    def open(self) -> bool:
        """Open it, or check that it is still the same. Return True if it was opened. Raises OSError."""

    def close(self) -> None:
        """Close it. It can be opened again."""

    def waiting(self, limit: int) -> list[str]:
        """Return the names of waiting mail in text order, out of at most *limit* entries."""

    def read(self, name: str, max_size: int) -> OutboxMessage:
        """Return the message *name*.

        Raises NotMail; Incomplete; FileNotFoundError if the sender took it back; other OSErrors.
        """

    def remove(self, name: str) -> None:
        """Remove a message that was carried. No error if it is gone."""

    def bounce(self, name: str, why: str) -> None:
        """Return a message to its sender as a dead letter, with the reason. Raises OSError."""

    def discard(self, name: str, why: str) -> None:
        """Remove an entry without content, and leave a note for the sender. Raises OSError."""

    def flush(self) -> None:
        """Make removals durable, as far as possible. Raises OSError."""


class Destination(Protocol):
    """The box of one recipient, opened for one batch."""

    def close(self) -> None:
        """Close it."""

    def stage(self, name: str, data: bytes) -> int:
        """Write a message where its recipient does not see it.

        Return an open descriptor, which the caller flushes and closes; -1 if the message is durable already.
        Raises OSError.
        """

    def commit(self, name: str, in_reply_to: str | None) -> None:
        """Make a staged message visible, in one step. Raises OSError: FileNotFoundError if it is not staged."""

    def discard(self, name: str) -> None:
        """Remove a staged message, as far as possible."""

    def is_staged(self, name: str) -> bool:
        """Return whether a message is staged, and not yet committed. Raises OSError."""

    def staged(self) -> Set[str] | None:
        """Return the names of all staged messages, or None if they cannot be listed or are too many."""

    def backlog(self, limit: int) -> int:
        """Return how much mail waits for the recipient, counted up to *limit* + 1; 0 if it cannot be counted."""

    def ring(self) -> None:
        """Wake the recipient's listeners. Never raises."""


class Carrier(Protocol):
    """A way between agents: it opens their sources and destinations."""

    def source(self, agent: Agent) -> Source:
        """Return the outgoing mail of *agent*, not yet open."""

    def destination(self, agent: Agent) -> Destination:
        """Open the box of *agent*. Raises OSError."""

    def check(self, agents: Mapping[Address, Agent]) -> list[str]:
        """Return a description of each pair of agents that this carrier cannot distinguish."""
