"""The words of the relay's records, and of the notes it writes for senders."""

from collections.abc import Mapping

from ..errors import quoted
from ..format.address import is_address, is_group
from .accepted import TransferId
from .audit_format import Record
from .carrier import OutboxMessage


def message_record(event: str, key: TransferId, message: OutboxMessage, rule: str = "") -> Record:
    """Return the record of an event of one message and one recipient, as FORMAT.md describes it."""
    fields = message.fields
    return {
        "event": event,
        "from": key.sender,
        "to": key.to,
        "id": key.id,
        "type": fields.get("type"),
        "thread": fields.get("thread"),
        "in_reply_to": fields.get("in_reply_to"),
        "size": len(message.data),
        "rule": rule or None,
    }


def key_of(record: Record) -> TransferId:
    """Return the transfer that a record is about."""
    return TransferId(str(record.get("from")), str(record.get("id")), str(record.get("to")))


def bounce_note(refused: Mapping[str, str]) -> str:
    """Return the text of a `.why` file: one line for each recipient, with the reason."""
    return "\n".join(
        f"the relay did not carry it{f' to {displayed(to)}' if to else ''}: {why}" for to, why in refused.items()
    )


def displayed(to: str) -> str:
    """Return a recipient as it can be printed: in quotes unless it is an address or a group."""
    return to if is_address(to) or is_group(to) else quoted(to)
