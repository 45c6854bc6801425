"""From a claim to a message, a dead letter or deferred mail; and from a settled message back to the spool.

The spool moves files and does not read them. The receiver reads the envelope and does what it asks for: expiry,
deferral, idempotence, the limits of hops and attempts, the type of the body. The verifier proves the sender.

It has a little more than 400 lines, because each step of a message ends in another one: a claim in a dead letter, a
dead letter in a receipt, a receipt in a reply.
"""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from .. import log
from ..errors import (
    InvalidRequestError,
    KeyNotFoundError,
    MailboxError,
    NotClaimedError,
    NotMailError,
    TooManyHopsError,
    TrustError,
    quoted,
    translated_errors,
)
from ..format.address import Address
from ..format.envelope import MAX_HOPS
from ..format.filename import ID_LENGTH, TIMESTAMP_LENGTH, parse_filename
from ..format.times import datetime_ns, from_nanoseconds, modified_time
from ..format.timestamp import to_nanoseconds
from ..format.wording import duration_text
from ..settings import Settings
from ..store.claim import Claim
from ..store.dead_letters import EXPIRED
from ..store.deliver import NotAwaited
from ..store.ids import new_id
from ..store.ledger import Ledger, ledger_owner
from ..store.replies import Answer
from ..store.root import Box
from ..store.spool import Spool
from ..trust.levels import NONE, PROVEN, SEALED, SIGNED, protection_for, rank
from ..trust.verifier import Verifier
from .message import Message, dedup_key
from .receipts import HANDLED, MAX_REASON, REJECTED, TAKEN, is_wanted
from .status import Tally
from .typed_bodies import convert

_LONGEST_WAIT_FOR_KEY: Final = 3600.0  # seconds

_FIELDS_TO_APPLY: Final = frozenset(("expires", "deliver_after", "hops", "idempotency_key", "receipts", "receipt"))


class Receiver:
    """Receives the messages of a box, settles them (`Settler`) and answers them (`Replier`). Thread-safe."""

    def __init__(
        self,
        box: Box,
        settings: Settings,
        send: Callable[..., str],
        verifier: Verifier,
        spool: Spool | None = None,
    ) -> None:
        self._box, self._settings, self._send = box, settings, send
        self._verifier = verifier
        self._spool = spool or Spool(box, settings)
        self.tally = Tally()
        """Counts of the messages that it settled."""
        self._ledger = Ledger(settings.ledger_dir or f"{box}/ledger", box.path)
        self.close = self._spool.close
        self.next_due = self._spool.next_due
        self.next_retry = self._spool.next_retry
        self.cost = self._spool.cost
        self.requeue = self._spool.requeue
        self.purge = self._spool.purge

    def set_type_filter(self, types: frozenset[str | None] | None) -> None:
        """Receive only messages of these *types* and leave the others where they are. None receives all.

        A file that is not mail is claimed nevertheless, and becomes a dead letter.
        """

        def accept(data: bytes) -> bool:
            try:
                return self._verifier.type_of(data) in accepted
            except (NotMailError, KeyNotFoundError):
                return True

        accepted = types or frozenset()
        self._spool.accept = accept if types is not None else None

    def set_content_filter(self, accept: Callable[[bytes], bool] | None) -> None:
        """Receive only messages for whose bytes *accept* returns True and leave the others. None receives all."""
        self._spool.accept = accept

    def set_filter(self, types: frozenset[str], senders: frozenset[str], thread: str | None) -> None:
        """Receive only messages of these *types*, *senders* and *thread*; an empty set and None let all pass."""

        def accept(data: bytes) -> bool:
            try:
                fields = self._verifier.unverified(data)
            except NotMailError:
                return True
            return (
                (not types or fields.get("type") in types)
                and (not senders or fields.get("from") in senders)
                and (thread is None or thread in (fields.get("thread") or "") or thread in (fields.get("id") or ""))
            )

        self._spool.accept = accept if types or senders or thread is not None else None

    def open(self) -> None:
        """Open the box. Raises BoxNotFoundError, RootNotFoundError, or StorageError if it cannot be opened."""
        self._spool.begin()

    @property
    def address(self) -> Address:
        """The name of the box."""
        return self._box.address

    @property
    def folder(self) -> str | None:
        """Name of this consumer's folder in `cur/`; None until it has one."""
        return self._spool.folder

    def take(self, into: Any = None) -> Message[Any] | None:
        """Return the next message to handle, or None. Dead letters, duplicates and deferred mail are settled here."""
        while (claim := self._spool.claim()) is not None:
            try:
                message = self._to_message(claim, into)
            except NotMailError as error:
                self._spool.dead_letter(claim[0], error.reason)
                continue
            except KeyNotFoundError:
                if self._settings.has_keys:  # so it is our configuration that is wrong
                    self._spool.release(claim)
                    raise
                self._wait_for_key(claim)  # else any sender could stop us by a sealed file
                continue
            except BaseException:
                self._spool.release(claim)  # an error of this program must not count against the mail
                raise
            if message is not None:
                message.from_new = claim[3]
                if "receipts" in message.fields:
                    self._send_receipt(message, TAKEN)
                return message
        return None

    def _wait_for_key(self, claim: Claim) -> None:
        """Defer sealed mail of a box that never had a key: for ten seconds first, then for as long as it is old."""
        name = claim[0]
        sent = to_nanoseconds(name[:TIMESTAMP_LENGTH])
        wait = min(_LONGEST_WAIT_FOR_KEY, max(10.0, (time.time_ns() - sent) / 1e9))
        log.warning(
            "%s is sealed, and the box %s has no key: it is left for %s. MAILBOX_KEY_DIR names the folder of the key",
            name[:ID_LENGTH],
            self._box.address,
            duration_text(wait),
        )
        self._spool.defer(name, time.time_ns() + int(wait * 1e9), parse_filename(name))
        self.tally.without_key += 1

    def _to_message(self, claim: Claim, into: Any) -> Message[Any] | None:
        """Return the claimed message; None if its envelope settled it. Raises NotMailError for a dead letter."""
        name, data, st, first = claim
        id, attempt, requeued = name[:ID_LENGTH], 1, 0
        fields, trust = self._verifier.verify(data, st, name)
        if not first or ",N=" in name or fields.get("id", id) != id:
            parts = parse_filename(name)
            assert parts is not None, name  # the spool gives no other names
            attempt, requeued = parts.attempt, parts.requeued
            if parts.stem is not None:
                fields.setdefault("sent", modified_time(st))
            elif fields.get("id") not in (id, None):
                raise NotMailError(f'its "id" is {quoted(fields["id"])}, but its file name has {id}')
        message: Message[Any] = Message(id, fields, data, name, attempt, trust, self, self)
        try:
            if attempt > self._settings.max_attempts:
                raise NotMailError(f"it was claimed {attempt - 1} times and never settled: each consumer died")
            has_more = trust in PROVEN or not _FIELDS_TO_APPLY.isdisjoint(fields)
            if has_more and not self._apply_envelope(message, first, requeued):
                return None
            if into is not None:
                message.body = convert(message.body, into)
        except NotMailError as error:
            if "receipts" in fields:
                self._send_receipt(message, REJECTED, error.reason)
            raise
        return message

    def _apply_envelope(self, message: Message[Any], first: bool, requeued: int) -> bool:
        """Do what the envelope asks for. Returns True if the message is to be handled now."""
        if "receipt" in message.fields:  # its sender waited no longer
            log.info("%s is a receipt that came too late", message.id)
            self._spool.ack(message.name)
            return False
        if message.hops > MAX_HOPS:
            raise NotMailError(f"it is reply number {message.hops} in a row, and the limit is {MAX_HOPS}")
        if not requeued:  # an operator who requeues it wants it now
            if message.expires is not None and message.expires <= datetime.now(UTC):
                raise NotMailError(f"{EXPIRED}{message.fields['expires']}")
            due = datetime_ns(message.deliver_after) if message.deliver_after is not None else 0
            if due > time.time_ns():
                self._spool.defer(message.name, due)
                return False
        key = dedup_key(message)
        return key is None or not self._is_duplicate(message, key, first)

    def _is_duplicate(self, message: Message[Any], key: str, first: bool) -> bool:
        """Return True if the ledger has its key. The message is acked then."""
        owner = self._ledger_owner(message)
        if self._is_recorded(message, owner, key):
            log.info(
                "%s from %s was handled already: %r is in the ledger",
                message.id,
                message.sender,
                key,
                **self._facts("duplicate", message),
            )
            self._spool.ack(message.name)
            return True
        if first and _sent_timestamp(message) <= self._horizon(message, owner):
            raise NotMailError("it is older than the ledger reaches back: it may have been handled already")
        return False

    def _ledger_owner(self, message: Message[Any]) -> str:
        return ledger_owner(self._box.root, message.sender, message.trust in PROVEN)

    def _horizon(self, message: Message[Any], owner: str) -> str:
        with translated_errors(f"reading the ledger of the box {quoted(self._box.address)}"):
            return self._ledger.floor(message.trust, owner)

    def _is_recorded(self, message: Message[Any], owner: str, key: str) -> bool:
        with translated_errors(f"reading the ledger of the box {quoted(self._box.address)}"):
            return self._ledger.handled(message.trust, owner, key)

    def _record_handled(self, message: Message[Any]) -> None:
        """Record in the ledger that a message with a deduplication key is handled."""
        if (key := dedup_key(message)) is not None:
            try:
                self._ledger.record(message.trust, self._ledger_owner(message), key, _sent_timestamp(message))
            except OSError as error:  # a full disk never stops settling
                log.error(
                    "%s could not be recorded as handled: sent again, it would be handled again (%s)", message.id, error
                )

    def is_receipt(self, file: Answer) -> bool:
        """Return True if that file is a receipt. False for one that is not mail."""
        filename, data, st = file
        try:
            return "receipt" in self._verifier.verify(data, st, filename)[0]
        except (NotMailError, TrustError):
            return False

    def accept_reply(self, file: Answer, request: str, asked: frozenset[str] | None, into: Any) -> Message[Any]:
        """Return the reply to *request* in that file, and record it as handled.

        *asked* are the agents that may answer. None means any agent that is verified. Raises NotMailError if the
        file is not an acceptable reply, and BodyTypeError if its body is not of the type *into*. A receipt is returned
        as it is.
        """
        filename, data, st = file
        fields, trust = self._verifier.verify(data, st, filename)
        parts = parse_filename(filename)
        id = parts.id if parts else new_id()  # an external file name has none
        message: Message[Any] = Message(id, fields, data, filename, 1, trust, self, self)
        self._refuse_unasked(message, asked)
        if "receipt" in fields:
            if message.in_reply_to != request:
                raise NotMailError("it is the receipt of another message")
            message.settled = True
            return message
        if trust in PROVEN:
            if message.in_reply_to != request:
                raise NotMailError("it is verified, but answers another message")
            if self._is_recorded(message, self._ledger_owner(message), dedup_key(message) or id):
                raise NotMailError("it was handled already: it is in the ledger")
        if into is not None:
            message.body = convert(message.body, into)
        self._record_handled(message)
        message.settled = True
        return message

    def _refuse_unasked(self, message: Message[Any], asked: frozenset[str] | None) -> None:
        """Raise NotMailError if it is not from an agent that was asked, as far as that is known: an id is no secret."""
        sender, trust = message.sender, message.trust
        if sender is None:
            raise NotMailError('it has no "from"')
        if asked is None:
            if trust == NONE and self._verifier.least(sender) != NONE:
                raise NotMailError(f"nothing proves that it is from {quoted(sender)}")
        elif sender not in asked:
            raise NotMailError(f"it is from {quoted(sender)}, who was not asked")
        elif rank(trust) < rank(least := self._verifier.least(sender)):
            raise NotMailError(
                f"mail from {quoted(sender)} needs the trust level {quoted(least)} here, and this has {quoted(trust)}"
            )

    # Settler

    def ack(self, message: Message[Any]) -> None:
        """See Message.ack()."""
        if dedup_key(message) is not None and self._spool.is_claimed(message.name):
            self._record_handled(message)
        self._spool.ack(message.name)
        message.settled = True
        self.tally.acked()
        if "receipts" in message.fields:
            self._send_receipt(message, HANDLED)

    def retry(self, message: Message[Any], delay: float | None, reason: str, detail: str) -> None:
        """See Message.retry()."""
        self.tally.retried(reason)
        if message.attempt >= self._settings.max_attempts:
            attempts = f"attempt {message.attempt} of {self._settings.max_attempts}"
            self._dead_letter(message, f"{reason} ({attempts})", detail)
            return
        wait = self._backoff(message.attempt) if delay is None else max(0.0, delay)
        parts = parse_filename(message.name)
        assert parts is not None, message.name
        again = parts.replace(attempt=message.attempt + 1, wait=0)
        self._spool.defer(message.name, time.time_ns() + int(wait * 1e9), again)
        message.settled = True
        log.info(
            "%s is deferred by %.1f s, as attempt %d: %s",
            message.id,
            wait,
            again.attempt,
            reason,
            **self._facts("retry", message),
        )

    def reject(self, message: Message[Any], reason: str, detail: str) -> None:
        """See Message.reject()."""
        self.tally.rejected(reason)
        self._dead_letter(message, reason, detail)

    def _dead_letter(self, message: Message[Any], reason: str, detail: str) -> None:
        self._spool.dead_letter(message.name, reason, detail)
        message.settled = True
        if "receipts" in message.fields:
            self._send_receipt(message, REJECTED, reason)

    def release(self, message: Message[Any], delay: float) -> None:
        """See Message.release()."""
        self._spool.defer(message.name, time.time_ns() + int(delay * 1e9), parse_filename(message.name))
        message.settled = True

    def extend(self, message: Message[Any], duration: float) -> datetime:
        """See Message.extend()."""
        if message.settled or not self._spool.is_claimed(message.name):
            raise NotClaimedError(f"the message {message.id} is not claimed any more")
        deadline = self._spool.extend(duration)
        return from_nanoseconds(to_nanoseconds(deadline))

    # Replier

    def reply(self, message: Message[Any], body: Any, options: dict[str, Any]) -> str:
        """See Message.reply(). The reply is sealed or signed if the message is."""
        if message.sender is None:
            raise InvalidRequestError(f'the message {message.id} cannot be answered: it has no "from"')
        hops = message.hops + 1
        if hops > MAX_HOPS:
            raise TooManyHopsError(hops, MAX_HOPS)
        options.setdefault("thread", message.thread or message.reply_id)
        if options.get("seal") is None and options.get("sign") is None:
            options |= self._protection(message)
        return self._send(message.sender, body, in_reply_to=message.reply_id, hops=hops, **options)

    def _protection(self, message: Message[Any]) -> dict[str, Any]:
        """Return the options that protect a reply as *message* is protected."""
        protection = protection_for(message.trust)
        return {
            "seal": True if protection == SEALED else None,
            "sign": True if protection == SIGNED and self._verifier.has_key else None,
        }

    def _send_receipt(self, message: Message[Any], stage: str, reason: str | None = None) -> None:
        """Send the receipt of this *stage* if the sender has asked for it and still waits. Never raises."""
        if message.sender is None or not is_wanted(message, stage):
            return
        body = reason[:MAX_REASON] if reason is not None else None
        try:
            self._send(message.sender, body, in_reply_to=message.reply_id, receipt=stage, **self._protection(message))
        except NotAwaited:
            log.info("%s waits no longer for the receipt of %s", quoted(message.sender), message.id)
        except (MailboxError, OSError) as error:
            log.warning("the receipt of %s was not sent: %s", message.id, error)

    def _facts(self, event: str, message: Message[Any]) -> dict[str, object]:
        """Return the fields of a record of the log."""
        return {
            "event": event,
            "box": self._box.address,
            "id": message.id,
            "attempt": message.attempt,
            "consumer": self._spool.folder,
        }

    def _backoff(self, attempt: int) -> float:
        """Return the seconds before the next attempt: doubled each time, less up to half of it by chance.

        Chance keeps messages that failed together from coming back together.
        """
        chance = int.from_bytes(os.urandom(2)) / 65536
        longest = min(self._settings.max_retry_delay, self._settings.retry_delay * 2.0 ** (attempt - 1))
        return longest * (1 - chance / 2)


def _sent_timestamp(message: Message[Any]) -> str:
    """Return the time of sending, from its id; of verified mail, from the id inside."""
    return (message.reply_id if message.trust in PROVEN else message.id)[:TIMESTAMP_LENGTH]
