"""An index of the messages that the relay accepted, so that none is carried twice. The audit log restores it.

A record that a message was accepted counts as its delivery. If the message is still staged at its recipient, it was
not delivered yet. The index keeps two generations, each as long as a segment of the log. Anything older was removed
from its outbox, and that removal was flushed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from .audit_format import Record

QUOTA_RULE: Final = "quota"
"""The rule in the record of a message refused because of a quota. Such a refusal does not use the quota."""


class TransferId(NamedTuple):
    """One message on its way to one recipient."""

    sender: str
    id: str
    to: str

    def answered_by(self, in_reply_to: str) -> "TransferId":
        """Return the transfer that a reply answers, if this is a reply to the message *in_reply_to*."""
        return TransferId(self.to, in_reply_to, self.sender)


class Accepted(NamedTuple):
    """A message that was accepted for one recipient."""

    digest: str
    at: float  # seconds since 1970
    filename: str
    in_reply_to: str | None


class Usage(NamedTuple):
    """An agent's use of its quotas, as the log records it."""

    sender: str
    at: float  # seconds since 1970
    messages: int
    size: int  # bytes


class AcceptedIndex:
    """Messages that were accepted, that are still to be delivered, and that were deferred."""

    def __init__(self, max_deferred: int) -> None:
        """Remember the first deferral of at most *max_deferred* messages; for older ones the time limit restarts."""
        self._max_deferred = max_deferred
        self._young: dict[TransferId, Accepted] = {}
        self._old: dict[TransferId, Accepted] = {}
        self._young_replies: Counter[TransferId] = Counter()  # by the message they answer
        self._old_replies: Counter[TransferId] = Counter()
        self.pending: dict[TransferId, Accepted] = {}
        """Accepted, and not known to be delivered."""
        self.deferred_since: dict[TransferId, float] = {}
        """The first deferral of messages that wait, in seconds since 1970."""
        self.usage: list[Usage] = []
        """The use of quotas that the log recorded before this relay started."""

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def find(self, key: TransferId) -> Accepted | None:
        """Return the accepted message with this key."""
        return self._young.get(key) or self._old.get(key)

    def accept(self, key: TransferId, accepted: Accepted) -> None:
        """Add a message that is about to be delivered."""
        if accepted.in_reply_to is not None and self.find(key) is None:
            self._young_replies[key.answered_by(accepted.in_reply_to)] += 1
        self._young[key] = self.pending[key] = accepted
        self.deferred_since.pop(key, None)

    def replies(self, key: TransferId) -> int:
        """Return how many replies to this message were accepted from its recipient."""
        return self._young_replies[key] + self._old_replies[key]

    def mark_delivered(self, key: TransferId) -> None:
        """Note that a message was delivered."""
        self.pending.pop(key, None)

    def defer(self, key: TransferId, at: float) -> None:
        """Note that a message has to wait. Only the first deferral counts."""
        self.deferred_since.setdefault(key, at)
        if len(self.deferred_since) > self._max_deferred:  # a sender may take back waiting mail again and again
            del self.deferred_since[next(iter(self.deferred_since))]

    def forget_bounced(self, key: TransferId) -> None:
        """Forget a message that went back to its sender, who may send it again."""
        for index in (self._young, self._old, self.pending, self.deferred_since):
            index.pop(key, None)

    def start_generation(self) -> None:
        """Forget the older generation: a new segment of the log begins."""
        self._old, self._young = self._young, {}
        # A reply is forgotten with the message it answers, or later.
        self._old_replies, self._young_replies = self._young_replies, Counter()

    def restore(self, record: Record) -> None:
        """Apply one record of the audit log. Call it with the records in their order."""
        event = record.get("event")
        if event in ("segment", "begin"):
            self.start_generation()
            return
        if event not in ("accept", "refuse", "defer", "bounce"):
            return
        key = TransferId(str(record.get("from")), str(record.get("id")), str(record.get("to")))
        at = datetime.fromisoformat(str(record["time"])).timestamp()
        if event == "refuse":
            count = int(record.get("count", 1))
            if record.get("rule") != QUOTA_RULE:  # the sizes of thinned records are not known: take this one's
                self.usage.append(Usage(key.sender, at, count, count * int(record.get("size", 0))))
        elif event == "accept":
            self.usage.append(Usage(key.sender, at, 1, int(record.get("size", 0))))
            filename, in_reply_to = str(record.get("file")), record.get("in_reply_to")
            self.accept(key, Accepted(str(record.get("digest")), at, filename, in_reply_to))
        elif event == "defer":
            self.defer(key, at)
        else:
            self.forget_bounced(key)

    def pending_by_recipient(self) -> Iterable[tuple[str, list[tuple[TransferId, Accepted]]]]:
        """Return a copy of `pending`, grouped by recipient."""
        groups: defaultdict[str, list[tuple[TransferId, Accepted]]] = defaultdict(list)
        for key, accepted in self.pending.items():
            groups[key.to].append((key, accepted))
        return groups.items()
