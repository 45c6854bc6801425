"""What a relay has carried: so that nothing is carried twice, also after a crash. It is read back from the audit log.

A record that mail was accepted stands for its delivery. Whether it was delivered already is seen in the recipient's
`tmp/`: as long as it is staged there it was not. Two generations are kept, each as long as a segment of the log: what
is older has been removed from its outbox, and that was flushed.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

from .audit_format import Record

TransferId: TypeAlias = tuple[str, str, str]
"""The sender, the id, and the recipient."""


_MANY: Final = 200_000  # messages of which it is known since when they wait; the oldest are forgotten, and wait anew

QUOTA: Final = "quota"
"""The rule in the record of what was refused because the quota was used up: it uses nothing of the quota."""


class Accepted(NamedTuple):
    """One message that was accepted for one recipient."""

    digest: str
    at: float  # seconds since 1970
    file: str
    answers: str | None


class AcceptedIndex:
    """What was accepted, what is still to be delivered, and what has to wait since when."""

    def __init__(self) -> None:
        self._young: dict[TransferId, Accepted] = {}
        self._old: dict[TransferId, Accepted] = {}
        self._answers: tuple[Counter[TransferId], Counter[TransferId]] = (
            Counter(),
            Counter(),
        )  # young, old; by what they answer
        self.pending: dict[TransferId, Accepted] = {}
        """Accepted, and not known to be delivered."""
        self.waiting: dict[TransferId, float] = {}
        """Put off for the first time, in seconds since 1970."""
        self.spent: list[tuple[str, float, int, int]] = []
        """What a relay before us carried or refused, for the quotas: from whom, when, how many, and how many bytes."""

    def find(self, key: TransferId) -> Accepted | None:
        """What was carried under this key."""
        return self._young.get(key) or self._old.get(key)

    def accept(self, key: TransferId, carried: Accepted) -> None:
        """It was accepted, and is about to be delivered."""
        if (asked := _asked(key, carried)) is not None and self.find(key) is None:
            self._answers[0][asked] += 1
        self._young[key] = self.pending[key] = carried
        self.waiting.pop(key, None)

    def answers(self, key: TransferId) -> int:
        """How many answers to what was carried under this key were accepted from its recipient."""
        return self._answers[0][key] + self._answers[1][key]

    def delivered(self, key: TransferId) -> None:
        """It is where it belongs."""
        self.pending.pop(key, None)

    def defer(self, key: TransferId, at: float) -> None:
        """It has to wait, since now if not for longer."""
        self.waiting.setdefault(key, at)
        if len(self.waiting) > _MANY:  # a sender may take back what waits, again and again
            del self.waiting[next(iter(self.waiting))]

    def give_up(self, key: TransferId) -> None:
        """It went back to its sender, who may send it again."""
        for kept in (self._young, self._old, self.pending, self.waiting):
            kept.pop(key, None)

    def age(self) -> None:
        """A new segment begins: forget the older generation."""
        self._old, self._young = self._young, {}
        self._answers = Counter(), self._answers[0]  # at the same time as what they answer, or later

    def remember(self, record: Record) -> None:
        """What the audit log says of a relay before us."""
        event = record.get("event")
        if event in ("segment", "begin"):
            self.age()
            return
        if event not in ("accept", "refuse", "defer", "bounce"):
            return
        key = (str(record.get("from")), str(record.get("id")), str(record.get("to")))
        at = datetime.fromisoformat(str(record["time"])).timestamp()
        if event == "refuse":
            count = int(record.get("count", 1))
            if record.get("rule") != QUOTA:  # the sizes of those left out are not known: they count as this one
                self.spent.append((key[0], at, count, count * int(record.get("size", 0))))
        elif event == "accept":
            answers = record.get("in_reply_to")
            self.spent.append((key[0], at, 1, int(record.get("size", 0))))
            self.accept(key, Accepted(str(record.get("digest")), at, str(record.get("file")), answers))
        elif event == "defer":
            self.defer(key, at)
        else:
            self.give_up(key)

    def unsettled(self) -> Iterator[tuple[str, list[tuple[TransferId, Accepted]]]]:
        """What is pending, by recipient."""
        by_recipient: dict[str, list[tuple[TransferId, Accepted]]] = {}
        for key, carried in self.pending.items():
            by_recipient.setdefault(key[2], []).append((key, carried))
        yield from by_recipient.items()


def _asked(key: TransferId, carried: Accepted) -> TransferId | None:
    """The key of what this answers, were it carried; None where it answers nothing."""
    sender, _, to = key
    return (to, carried.answers, sender) if carried.answers is not None else None
