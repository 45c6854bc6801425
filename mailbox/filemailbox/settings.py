"""How a consumer handles what goes wrong, and for how long it keeps what went right."""

from __future__ import annotations

from typing import Final

MAX_SIZE: Final = 1024 * 1024
"""The largest message, in bytes, that is written or read unless a box says otherwise."""

MAX_ATTEMPTS: Final = 5
"""How often a message is tried before it becomes a dead letter."""

RETRY_DELAY: Final = 1.0
"""Seconds before the second attempt. Doubled for each further one."""

MAX_RETRY_DELAY: Final = 300.0
"""Longest time between two attempts, in seconds."""

POLL_INTERVAL: Final = 0.25
"""Seconds between two looks at what no wake-up announces: mail where notifications are dead, due mail, dead consumers,
a replaced box. An idle listener takes 0.2 % of a core at 0.25, 0.8 % at 0.05, 0.05 % at 1."""


class Settings:
    """What one consumer goes by."""

    __slots__ = (
        "ledger_dir",
        "max_attempts",
        "max_retry_delay",
        "max_size",
        "poll_interval",
        "retention",
        "retry_delay",
    )

    def __init__(
        self,
        max_size: int = MAX_SIZE,
        max_attempts: int = MAX_ATTEMPTS,
        retry_delay: float = RETRY_DELAY,
        max_retry_delay: float = MAX_RETRY_DELAY,
        retention: float | None = None,
        poll_interval: float = POLL_INTERVAL,
        ledger_dir: str | None = None,
    ) -> None:
        self.max_size = max_size  # bytes
        self.max_attempts = max_attempts
        self.retry_delay = retry_delay  # seconds
        self.max_retry_delay = max_retry_delay  # seconds
        self.retention = retention  # seconds for which handled mail is kept in done/; None: it is deleted
        self.poll_interval = poll_interval  # seconds
        self.ledger_dir = ledger_dir  # a folder outside the root; None: the box's own
