"""How a consumer handles what goes wrong, and for how long it keeps what went right."""

from dataclasses import dataclass
from typing import Final

from .message import MAX_SIZE

MAX_ATTEMPTS: Final = 5
"""How often a message is tried before it becomes a dead letter."""

BACKOFF: Final = (1.0, 300.0)
"""Seconds before the second attempt, doubled for each further one; and the longest wait."""


RESCAN: Final = 0.25
"""Seconds between two looks at what no wake-up announces: mail where notifications are dead, due mail, dead consumers,
a replaced box. An idle listener takes 0.2 % of a core at 0.25, 0.8 % at 0.05, 0.05 % at 1."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What one consumer goes by."""

    max_size: int = MAX_SIZE  # bytes
    max_attempts: int = MAX_ATTEMPTS
    backoff: tuple[float, float] = BACKOFF
    retention: float | None = None  # seconds for which handled mail is kept in done/; None: it is deleted
    rescan: float = RESCAN  # seconds
    ledger: str | None = None  # a folder outside the root; None: the box's own
