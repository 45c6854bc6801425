"""Receipts: the sender that waits learns that its message was taken, handled or rejected.

The sender asks for them by the member `receipts` of the envelope: words out of `taken`, `handled` and `rejected`. A
receipt is a message of its own, with the member `receipt` and, for `rejected`, the reason as its body. It goes into the
folder in which the sender waits, as a reply to a request does, and nowhere else: if the folder is gone, no receipt is
delivered. A receipt that a dead requester has left is dropped by the consumer that finds it.
"""

from __future__ import annotations

from ..errors import InvalidRequestError, MailboxError, RefusedError, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from .message import Message

TAKEN: Final = "taken"
HANDLED: Final = "handled"
REJECTED: Final = "rejected"
STAGES: Final = (TAKEN, HANDLED, REJECTED)
MAX_REASON: Final = 500
"""Characters of the reason that a receipt carries."""


def receipts_for(until: str) -> str:
    """Return the member `receipts` of a message whose sender waits *until* that stage. Raises InvalidRequestError."""
    if until not in STAGES:
        raise InvalidRequestError(f"until= is {quoted(until)}, expected {', '.join(STAGES[:-1])} or {STAGES[-1]}")
    return f"{TAKEN if until == TAKEN else HANDLED} {REJECTED}"


def is_wanted(message: Message[Any], stage: str) -> bool:
    """Return True if the sender of *message* has asked for a receipt of this *stage*."""
    return stage in (message.fields.get("receipts") or "").split()


def stage_of(receipt: Message[Any]) -> str | None:
    """Return the stage that a receipt confirms; None if the message is not a receipt."""
    return receipt.fields.get("receipt")


def refusal(receipt: Message[Any], id: str) -> RefusedError:
    """Return the error for the message *id*, which *receipt* reports as rejected."""
    reason = receipt.body if isinstance(receipt.body, str) else "no reason was given"
    return RefusedError(str(receipt.sender), id, reason)


def outcome(receipt: Message[Any], id: str, until: str) -> None:
    """Return if *receipt* reports the stage that its receiver waits for. Raises RefusedError, MailboxError."""
    stage = stage_of(receipt)
    if stage == REJECTED and until != REJECTED:
        raise refusal(receipt, id)
    if stage != REJECTED and until == REJECTED:
        raise MailboxError(f"{quoted(receipt.sender)} handled the message {id}, and did not reject it")
