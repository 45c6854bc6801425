"""How a consumer handles what goes wrong, and for how long it keeps what went right."""

from dataclasses import dataclass
from typing import Final

from .message import MAX_SIZE

MAX_ATTEMPTS: Final = 5
"""How often a message is tried before it becomes a dead letter."""

BACKOFF: Final = (1.0, 300.0)
"""Seconds before the second attempt, doubled for each further one; and the longest wait."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What one consumer goes by."""

    max_size: int = MAX_SIZE  # bytes
    max_attempts: int = MAX_ATTEMPTS
    backoff: tuple[float, float] = BACKOFF
    retention: float | None = None  # seconds for which handled mail is kept in done/; None: it is deleted
    ledger: str | None = None  # a folder outside the root; None: the box's own
