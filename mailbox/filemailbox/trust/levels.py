"""Trust levels: the proofs of a sender, from the weakest to the strongest.

A new level is a row of TRUST_LEVELS, at its rank, and a check in verifier.py that grants it. The command's options and
help, and the defaults of a mailbox, derive from that table. FORMAT.md, "Trust", defines the proof of each level.
"""

from __future__ import annotations

from ..errors import InvalidRequestError, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Literal, TypeAlias

    Protection: TypeAlias = Literal["plain", "signed", "sealed"]
    """Protection of a message in writing: sealing includes a signature."""
else:
    Protection = str

PLAIN: Final = "plain"
NONE: Final = "none"
UID: Final = "uid"
RELAY: Final = "relay"
SIGNED: Final = "signed"
SEALED: Final = "sealed"


class Level:
    """The facts of one trust level."""

    __slots__ = ("answer", "by_key", "help", "name")

    def __init__(self, name: str, by_key: bool, answer: Protection, help: str) -> None:
        self.name = name
        self.by_key = by_key
        """A key proves the sender. Such mail stays proven if a third party copies it, so replays must be recognized."""
        self.answer = answer
        """Protection of the mail that a mailbox which demands this level writes, unless an option overrides it."""
        self.help = help


TRUST_LEVELS: Final = (
    Level(NONE, False, PLAIN, "no proof: any writer could have named this sender"),
    Level(UID, False, PLAIN, "the file belongs to the uid of the sender's box"),
    Level(RELAY, False, PLAIN, "a relay wrote the file and vouches for the sender"),
    Level(SIGNED, True, SIGNED, "signed with the sender's pinned key"),
    Level(SEALED, True, SEALED, "signed with the sender's pinned key, and encrypted to this box"),
)
NAMES: Final = tuple(level.name for level in TRUST_LEVELS)
PROVEN: Final = frozenset(level.name for level in TRUST_LEVELS if level.by_key)
"""The levels that a key proves."""

PROTECTIONS: Final[tuple[Protection, ...]] = (PLAIN, *(level.answer for level in TRUST_LEVELS if level.by_key))
"""From the weakest to the strongest."""

_RANKS: Final = {name: rank for rank, name in enumerate(NAMES)}


def rank(trust: str) -> int:
    """Return the rank of a level: a stronger proof has a higher one."""
    return _RANKS[trust]


def protection_for(trust: str) -> Protection:
    """Return how to write mail that answers, or demands, this level."""
    return TRUST_LEVELS[_RANKS[trust]].answer


def parse_min_trust(min_trust: str, has_keys: bool) -> str:
    """Return *min_trust*, checked.

    Raises InvalidRequestError for an unknown level, and for one that a key must prove if there are no keys.
    """
    if min_trust not in _RANKS:
        raise InvalidRequestError(f"min_trust= is {quoted(min_trust)}, expected one of {', '.join(NAMES)}")
    if min_trust in PROVEN and not has_keys:
        raise InvalidRequestError(
            f"min_trust= is {quoted(min_trust)}, and no keys are known: all mail would be refused",
            hint="name them: key_dir= or MAILBOX_KEY_DIR, registry= or MAILBOX_REGISTRY",
        )
    return min_trust
