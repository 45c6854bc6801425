"""The options of send(), resolved once."""

from __future__ import annotations

from .errors import (
    InvalidRequestError,
    quoted,
)
from .format.filename import is_id
from .format.times import resolve_time
from .store.ids import new_id
from .trust.levels import SEALED, SIGNED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta
    from typing import Any, TypedDict


if TYPE_CHECKING:

    class Options(TypedDict, total=False):
        """What a message can carry beside its body. See Mailbox.send()."""

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


OPTIONS = (
    "type",
    "subject",
    "thread",
    "in_reply_to",
    "ttl",
    "delay",
    "idempotency_key",
    "headers",
    "hops",
    "id",
    "seal",
    "sign",
)
SPECIAL = frozenset(("id", "ttl", "delay", "expires", "deliver_after", "from", "sent", "body", "v", "seal", "sign"))


def resolve_options(options: Any, how: str | None) -> tuple[str, str | None]:
    """Make *options* members of an envelope: spans of time become times. Returns the id, and how it is proven.

    *how* is what counts where *options* do not say.
    """
    if unknown := ", ".join(sorted(options.keys() - set(OPTIONS))):
        raise TypeError(f"there is no option {unknown}: expected {', '.join(OPTIONS)}")
    for option, member in (("ttl", "expires"), ("delay", "deliver_after")):
        span = options.pop(option, None)
        if span is not None:
            from datetime import UTC, datetime

            options[member] = resolve_time(span, datetime.now(UTC))
    id = options.pop("id", None)
    if id is not None and not is_id(id):
        raise InvalidRequestError(
            f"id= is {quoted(id)}, expected one that send() or an DurabilityUnknownError error gave"
        )
    seal, sign = options.pop("seal", None), options.pop("sign", None)
    if seal is not None or sign is not None:
        how = SEALED if seal else SIGNED if sign else None
    return new_id() if id is None else str(id), how
