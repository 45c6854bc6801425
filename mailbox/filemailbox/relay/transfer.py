"""The way of one message: decided, staged, recorded, delivered, settled.

    decide    the policy and the quotas, for each recipient
    stage     at each recipient that may have it; all of a batch are flushed together
    record    in the audit log, flushed: without a record nothing is delivered
    deliver   commit what was staged, ring
    settle    remove the original, or bounce it with the reasons, or leave it in the outbox for later

If a box takes no mail, mail for it is deferred, and mail for others goes on.
"""

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import log
from ..errors import StorageError, quoted
from ..format.address import Address
from ..format.times import parse_time
from ..trust.levels import Protection
from .accepted import QUOTA_RULE, Accepted, AcceptedIndex, TransferId
from .audit_format import Record
from .audit_log import AuditLog
from .batch import DeliveryBatch
from .carrier import Carrier, NotMail, OutboxMessage
from .clock import Clock
from .limits import Capacity, RecordThinner, RelayLimits
from .outages import Outage, Outages
from .policy import Policy, PolicyQuery
from .records import bounce_note, displayed, key_of, message_record
from .sender import Sender
from .volume import errno_text, is_relay_error


@dataclass(slots=True)
class RelayState:
    """All that outlives a batch."""

    policy: Policy
    audit: AuditLog
    carrier: Carrier
    clock: Clock
    limits: RelayLimits
    accepted: AcceptedIndex
    outages: Outages
    capacity: Capacity
    thinner: RecordThinner
    kept_refusals: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    """Refusals of messages that still wait for other recipients: by sender and id, then by recipient."""
    delivered: int = 0
    """Messages delivered so far."""


@dataclass(slots=True)
class Transfer:
    """One message of a batch, and its fate at each recipient."""

    sender: Sender
    name: str
    message: OutboxMessage | None = None
    not_mail: NotMail | None = None
    refused: dict[str, str] = field(default_factory=dict)  # recipient: reason
    waits: dict[str, float] = field(default_factory=dict)  # recipient: until when
    staged: dict[TransferId, tuple[Accepted, Record]] = field(default_factory=dict)


def deliver(
    state: RelayState, batch: DeliveryBatch, key: TransferId, accepted: Accepted, *, fresh: bool = False
) -> float | None:
    """Commit a staged message whose record is written. Return None if it is delivered, else when to try again.

    It stays pending until it is delivered. A *fresh* one, staged in this batch, is tried also during an outage: its box
    may have become full in between, and the message is already in it.
    """
    outage = state.outages.get(key.to)
    over = outage is None or outage.until <= state.clock.monotonic()
    if outage is None or over or fresh:
        try:
            state.delivered += batch.commit(key.to, accepted)
        except OSError as error:
            outage = state.outages.mark_down(key.to, error)
        else:
            state.accepted.mark_delivered(key)
            if over:
                state.outages.mark_up(key.to)
            return None
    state.accepted.defer(key, state.clock.time())
    return outage.until


def deliver_pending(state: RelayState) -> None:
    """Deliver what an earlier relay recorded as accepted and left staged."""
    for to, pending in state.accepted.pending_by_recipient():
        with DeliveryBatch(state.carrier, state.policy.agents) as batch:
            staged = None
            with contextlib.suppress(OSError):
                staged = batch.destination(to).staged()
            for key, accepted in pending:
                if staged is not None and accepted.filename not in staged:
                    state.accepted.mark_delivered(key)
                elif state.outages.get(to) is None:  # else the rest is tried when its originals are read
                    deliver(state, batch, key, accepted)
            batch.ring()


def is_overdue(state: RelayState, key: TransferId) -> bool:
    """Return whether a deferred message has waited for `bounce_after`."""
    since = state.accepted.deferred_since.get(key)
    return since is not None and state.clock.time() - since >= state.policy.settings.bounce_after


def carry(state: RelayState, transfers: list[Transfer]) -> None:
    """Carry one batch. Raises StorageError if no record can be written: then nothing was delivered or removed."""
    state.audit.check()
    state.thinner.silenced.clear()
    with DeliveryBatch(state.carrier, state.policy.agents) as batch:
        work = _BatchTransfer(state, batch)
        work.decide(transfers)
        work.flush(transfers)
        work.record()
        work.deliver(transfers)
    for transfer in transfers:
        _settle(state, transfer)


class _BatchTransfer:
    """The work on one batch: what its messages staged and recorded."""

    def __init__(self, state: RelayState, batch: DeliveryBatch) -> None:
        self._state, self._batch = state, batch
        self._records: list[Record] = []
        self._staged: set[TransferId] = set()
        self._replies: Counter[TransferId] = Counter()  # staged replies, by the message they answer

    def decide(self, transfers: list[Transfer]) -> None:
        """Decide and stage. Messages for which the batch has no room go back to the heads of their queues."""
        for number, transfer in enumerate(transfers):
            if len(self._batch) >= self._state.limits.batch:  # some messages had many recipients
                for left in reversed(transfers[number:]):
                    left.sender.requeue_first(left.name)
                del transfers[number:]
                return
            if transfer.message is None:
                self._refuse_not_mail(transfer)
            else:
                self._decide(transfer, transfer.message)

    def flush(self, transfers: list[Transfer]) -> None:
        """Flush what was staged. Defer what cannot be flushed; the rest gets its record."""
        failed = self._batch.flush()
        for transfer in transfers:
            for key, (accepted, record) in list(transfer.staged.items()):
                if (error := failed.get((key.to, accepted.filename))) is not None:
                    del transfer.staged[key]
                    self._defer(transfer, key, self._state.outages.mark_down(key.to, error))
                else:
                    self._records.append(record)

    def record(self) -> None:
        """Write the records of this batch, thinned, and remember them. Raises StorageError."""
        state, now = self._state, self._state.clock.time()
        if written := state.thinner.thin(self._records, state.clock.monotonic(), self._is_needed):
            state.audit.append(written)
        for record in self._records:
            if record["event"] == "bounce":
                state.accepted.forget_bounced(key_of(record))
            elif record["event"] == "defer":
                state.accepted.defer(key_of(record), now)

    def deliver(self, transfers: list[Transfer]) -> None:
        """Commit what was staged, and ring."""
        for transfer in transfers:
            for key, (accepted, _) in transfer.staged.items():
                self._state.accepted.accept(key, accepted)
                self._commit(transfer, key, accepted, fresh=True)
        self._batch.ring()

    def _refuse_not_mail(self, transfer: Transfer) -> None:
        assert transfer.not_mail is not None
        why = transfer.refused[""] = transfer.not_mail.why
        if not transfer.sender.is_stuck(transfer.name):
            sender = transfer.sender.agent.name
            self._records.append({"event": "refuse", "from": sender, "file": transfer.name, "why": why})
            self._use_quota(transfer.sender, 0)

    def _decide(self, transfer: Transfer, message: OutboxMessage) -> None:
        """Decide for each recipient that has no decision yet."""
        sender = transfer.sender.agent.name
        transfer.refused = self._state.kept_refusals.pop((sender, message.id), {})
        objection = _objection(message, sender, self._state.clock.time())
        recipients, nobody = self._recipients(message, sender)
        if objection is None and not recipients:
            objection = nobody
        if objection is not None:
            recipients = [str(message.fields.get("to") or "")]
        for to in recipients:
            if to not in transfer.refused:
                self._decide_for(transfer, message, TransferId(sender, message.id, to), objection)

    def _recipients(self, message: OutboxMessage, sender: Address) -> tuple[list[str], str | None]:
        to = message.fields.get("to")
        if not to:
            return [], 'it has no "to"'
        return self._state.policy.expand(to, sender, message.fields.get("type"))

    def _decide_for(self, transfer: Transfer, message: OutboxMessage, key: TransferId, objection: str | None) -> None:
        """Decide for one recipient. *objection* is what is wrong with the message for any recipient."""
        digest = self._state.audit.digest(message.data)
        known = self._state.accepted.find(key)
        if known is not None and known.digest == digest:
            self._finish(transfer, message, key, known)
            return
        if objection is None and known is not None:
            objection = "its id was used for another message"
        why, rule = (objection, "") if objection is not None else self._refusal(transfer.sender, message, key)
        record = message_record("accept", key, message, rule)
        if why is not None:
            transfer.refused[key.to] = why
            if not transfer.sender.is_stuck(transfer.name):
                self._records.append({**record, "event": "refuse", "why": why})
                if rule != QUOTA_RULE:
                    self._use_quota(transfer.sender, len(message.data))
        elif key in self._staged:  # two files with one id: decide on the second after the first was carried
            transfer.waits[key.to] = 0.0
        else:
            record |= {"digest": digest, "file": message.delivered_name}
            self._stage(transfer, message, key, record)

    def _finish(self, transfer: Transfer, message: OutboxMessage, key: TransferId, accepted: Accepted) -> None:
        """Deliver a message that was accepted before, unless that was done; bounce it if it waited too long."""
        if key not in self._state.accepted.pending:
            return
        self._commit(transfer, key, accepted)
        if key.to in transfer.waits and is_overdue(self._state, key):
            outage = self._state.outages.get(key.to)
            del transfer.waits[key.to]
            self._batch.discard(key.to, accepted)
            self._bounce(transfer, message, key, outage.why if outage is not None else "it was not delivered")

    def _refusal(self, sender: Sender, message: OutboxMessage, key: TransferId) -> tuple[str | None, str]:
        """Return why the policy or a quota refuses it, or None; and the deciding rule."""
        decision = self._state.policy.decide(self._query(message, key))
        if not decision.allowed:
            return decision.why, decision.rule
        limits, now = sender.agent.limits, self._state.clock.time()
        if not sender.quota.has_room(now, 1):
            return f"{key.sender} has used up its quota of {limits.quota} messages", QUOTA_RULE
        if not sender.quota_bytes.has_room(now, len(message.data)):
            return f"{key.sender} has used up its quota of {limits.quota_bytes} bytes", QUOTA_RULE
        return None, decision.rule

    def _query(self, message: OutboxMessage, key: TransferId) -> PolicyQuery:
        fields, age, earlier = message.fields, None, 0
        if (in_reply_to := fields.get("in_reply_to")) is not None:
            answered_key = key.answered_by(in_reply_to)
            if (answered := self._state.accepted.find(answered_key)) is not None:
                age = max(0.0, self._state.clock.time() - answered.at)
            earlier = self._state.accepted.replies(answered_key) + self._replies[answered_key]
        size, protection = len(message.data), _protection(fields)
        return PolicyQuery(Address(key.sender), key.to, fields.get("type"), size, protection, age, earlier)

    def _stage(self, transfer: Transfer, message: OutboxMessage, key: TransferId, record: Record) -> None:
        """Stage it, or defer it if the box takes no mail. Raises StorageError for errors of the relay's own."""
        state, to = self._state, key.to
        if not state.outages.is_blocked(to):
            try:
                self._check_capacity(to)
                self._batch.stage(to, message)
            except OSError as error:
                if is_relay_error(error):
                    raise StorageError(f"writing to {to}: {errno_text(error)}", error.errno) from error
                state.outages.mark_down(to, error)
            else:
                if state.policy.settings.bodies:
                    record = {**record, "raw": message.data.decode("utf-8", "replace")}
                in_reply_to, now = message.fields.get("in_reply_to"), state.clock.time()
                accepted = Accepted(str(record["digest"]), now, message.delivered_name, in_reply_to)
                transfer.staged[key] = accepted, record
                self._staged.add(key)
                if in_reply_to is not None:
                    self._replies[key.answered_by(in_reply_to)] += 1
                state.capacity.use(to)
                self._use_quota(transfer.sender, len(message.data))
                return
        outage = state.outages.get(to)
        assert outage is not None
        self._defer(transfer, key, outage)

    def _check_capacity(self, to: str) -> None:
        """Raise OSError if too much mail waits in the box of *to*."""
        limit = self._state.policy.agents[Address(to)].limits.waiting
        self._state.capacity.check(
            to, limit, lambda: self._batch.destination(to).backlog(limit) + self._batch.staged_for(to)
        )

    def _defer(self, transfer: Transfer, key: TransferId, outage: Outage) -> None:
        """Leave it in the outbox; or bounce it, if it has waited too long or too much waits there already."""
        assert transfer.message is not None
        accepted, limit = self._state.accepted, self._state.limits.deferred_per_recipient
        waits_already = key in accepted.deferred_since
        if not waits_already and transfer.sender.deferred_for(key.to) >= limit:
            self._bounce(transfer, transfer.message, key, f"{outage.why}, and {limit} messages wait for it already")
        elif is_overdue(self._state, key):
            self._bounce(transfer, transfer.message, key, outage.why)
        else:
            transfer.waits[key.to] = outage.until
            if not waits_already:
                self._records.append({**message_record("defer", key, transfer.message), "why": outage.why})

    def _bounce(self, transfer: Transfer, message: OutboxMessage, key: TransferId, why: str) -> None:
        transfer.refused[key.to] = f"undeliverable: {why}"
        self._records.append({**message_record("bounce", key, message), "why": why})

    def _commit(self, transfer: Transfer, key: TransferId, accepted: Accepted, *, fresh: bool = False) -> None:
        again = deliver(self._state, self._batch, key, accepted, fresh=fresh)
        if again is not None:
            transfer.waits[key.to] = again

    def _is_needed(self, record: Record) -> bool:
        """Return whether the next relay needs this record: something accepted or deferred bounced."""
        key, accepted = key_of(record), self._state.accepted
        return record["event"] == "bounce" and (key in accepted.deferred_since or accepted.find(key) is not None)

    def _use_quota(self, sender: Sender, size: int) -> None:
        """Count one message, carried or refused: both are work."""
        sender.use_quota(self._state.clock.time(), 1, size)


def _settle(state: RelayState, transfer: Transfer) -> None:
    """Remove the original, bounce it, or leave it for later."""
    sender, name = transfer.sender, transfer.name
    if transfer.waits:
        sender.defer(name, min(transfer.waits.values()), frozenset(transfer.waits))
        if transfer.refused and transfer.message is not None:
            state.kept_refusals[sender.agent.name, transfer.message.id] = transfer.refused
            if len(state.kept_refusals) > state.limits.kept_refusals:  # a sender may take back waiting mail
                del state.kept_refusals[next(iter(state.kept_refusals))]
        return
    try:
        if transfer.not_mail is not None and transfer.not_mail.empty:
            sender.source.discard(name, transfer.not_mail.why)
        elif transfer.refused:
            sender.source.bounce(name, bounce_note(transfer.refused))
        else:
            sender.source.remove(name)
        sender.settle(name)
    except OSError as error:
        if not sender.is_stuck(name):
            log.warning("%s: %s stays in the outbox: %s", sender.agent.name, quoted(name), errno_text(error))
        sender.defer(name, state.clock.monotonic() + state.limits.stuck_retry, stuck=True)
        return
    if sender.agent.name not in state.thinner.silenced:
        for to, why in transfer.refused.items():
            recipient = f" for {displayed(to)}" if to else ""
            log.warning("%s: %s%s was bounced: %s", sender.agent.name, quoted(name), recipient, why)


def _objection(message: OutboxMessage, sender: str, now: float) -> str | None:
    """Return what is wrong with a message for any recipient."""
    claimed = message.fields.get("from")
    if claimed is not None and claimed != sender:
        return f"it claims to be from {quoted(claimed)}, and it came from the volume of {sender}"
    expires = message.fields.get("expires")
    if isinstance(expires, str):
        with contextlib.suppress(ValueError, OverflowError):
            if parse_time(expires).timestamp() <= now:
                return f"it expired at {expires}"
    return None


def _protection(fields: Mapping[str, Any]) -> Protection:
    """Return plain, signed or sealed. The recipient, who has the key, checks the signature."""
    if isinstance(fields.get("sealed"), dict):
        return "sealed"
    return "signed" if isinstance(fields.get("sig"), str) else "plain"
