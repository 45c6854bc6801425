"""Settings of a consumer, and their defaults."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

MAX_SIZE: Final = 1024 * 1024
"""Largest message, in bytes, that is written or read."""

MAX_ATTEMPTS: Final = 10
"""Attempts at a message before it becomes a dead letter: with the delays below, six to nine minutes."""

RETRY_DELAY: Final = 1.0
"""Seconds before the second attempt. Doubled for each further one."""

MAX_RETRY_DELAY: Final = 300.0
"""Longest time between two attempts, in seconds."""

POLL_INTERVAL: Final = 0.25
"""Seconds between two polls for what no wake-up announces: mail where notifications do not work, deferred mail, dead
consumers, a replaced box. An idle listener takes 0.2 % of a core at 0.25, 0.8 % at 0.05, 0.05 % at 1."""

WATCHERS: Final = ("watchfiles", "inotify", "poll")
"""Ways to find mail that nothing rings for: see wake/watcher.py. The first is the default."""


class Settings:
    """Settings of one consumer. Not a dataclass: a command that sends would take half as long again to start."""

    __slots__ = (
        "dead_retention",
        "expired_retention",
        "has_keys",
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
        expired_retention: float | None = None,
        dead_retention: float | None = None,
        has_keys: bool = False,
    ) -> None:
        self.max_size = max_size  # bytes
        self.max_attempts = max_attempts
        self.retry_delay = retry_delay  # seconds
        self.max_retry_delay = max_retry_delay  # seconds
        self.retention = retention  # seconds that handled mail is kept in done/; None: it is deleted
        self.poll_interval = poll_interval  # seconds
        self.ledger_dir = ledger_dir  # a folder outside the root; None: the box's own
        self.expired_retention = expired_retention  # seconds that expired mail is kept in dead/; None: until purged
        self.dead_retention = dead_retention  # the same for all dead letters
        self.has_keys = has_keys  # True if a consumer of the box had a key of its own
