"""The options of Mailbox.send() and the settings of a mailbox, for type checkers and for get_type_hints()."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from os import PathLike
from typing import TypedDict


class Options(TypedDict, total=False):
    """Options of a message, beside its body. See Mailbox.send()."""

    type: str | None
    subject: str | None
    thread: str | None
    in_reply_to: str | None
    ttl: float | timedelta | datetime | None
    delay: float | timedelta | datetime | None
    idempotency_key: str | None
    headers: Mapping[str, str] | None
    hops: int
    id: str | None
    seal: bool | None
    sign: bool | None
    wait_for_box: float | timedelta | None


class MailboxSettings(TypedDict, total=False):
    """Settings of Mailbox() and Mailbox.init(); the last two are for init() alone. See there."""

    durable: bool
    max_size: int
    max_attempts: int | None
    retry_delay: float | timedelta | None
    max_retry_delay: float | timedelta | None
    retention: float | timedelta | None
    poll_interval: float
    lease: float | timedelta | None
    ledger_dir: str | PathLike[str] | None
    key_dir: str | PathLike[str] | None
    registry: str | PathLike[str] | None
    min_trust: str | None
    seal: bool | None
    sign: bool | None
    expired_retention: float | timedelta | None
    dead_retention: float | timedelta | None
