"""The options of send(), resolved once."""

from __future__ import annotations

from .errors import InvalidRequestError, quoted
from .format.filename import is_id
from .format.times import resolve_time
from .store.ids import new_id
from .trust.levels import SEALED, SIGNED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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
_RECEIPTS = ("receipts", "receipt")  # send_and_wait(), request() and the receiver set them
_TO_RESOLVE = frozenset(("id", "ttl", "delay", "seal", "sign", "wait_for_box"))
_NOT_AN_OPTION = frozenset(("expires", "deliver_after", "from", "sent", "body", "v"))
_SPECIAL = _TO_RESOLVE | _NOT_AN_OPTION


def resolve_options(options: Any, protection: str | None) -> tuple[str, str | None]:
    """Turn *options* into fields of the envelope, in place. Returns the id, and the protection: sealed, signed or None.

    *protection* holds if the options name none. Raises TypeError for an option that does not exist, and
    InvalidRequestError for a value that cannot be.
    """
    if _SPECIAL.isdisjoint(options):  # most messages; the envelope refuses other unknown fields
        return new_id(), protection
    if unknown := ", ".join(sorted(options.keys() - {*OPTIONS, *_RECEIPTS, "wait_for_box"})):
        raise TypeError(f"there is no option {unknown}: expected {', '.join(OPTIONS)}")
    if options.pop("wait_for_box", None) is not None:  # send() has taken it
        raise InvalidRequestError("wait_for_box= is for send() and request() to one box")
    for option, field in (("ttl", "expires"), ("delay", "deliver_after")):
        span = options.pop(option, None)
        if span is not None:
            from datetime import UTC, datetime

            options[field] = resolve_time(span, datetime.now(UTC))
    id = options.pop("id", None)
    if id is not None and not is_id(id):
        raise InvalidRequestError(
            f"id= is {quoted(id)}, expected an id that send() returned or a DurabilityUnknownError holds"
        )
    seal, sign = options.pop("seal", None), options.pop("sign", None)
    if seal is not None or sign is not None:
        protection = SEALED if seal else SIGNED if sign else None
    return new_id() if id is None else str(id), protection
