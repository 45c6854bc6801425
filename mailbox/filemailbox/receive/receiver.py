"""What a claim becomes: a message to handle, a dead letter, or mail for later; and how a message ends.

The spool moves files and knows nothing of what is in them. Here the envelope is read, and what it asks for is done:
expiry, deferral, idempotence, the limit of hops and of attempts, the type of the body. What proves its sender is the
judge's to say.
"""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from .. import log
from ..errors import InvalidRequestError, NotMailError, TooManyHopsError, quoted, translated_errors
from ..format.address import Address
from ..format.envelope import MAX_HOPS
from ..format.filename import ID_LENGTH, TIMESTAMP_LENGTH, parse_filename
from ..format.times import datetime_ns, modified_time
from ..receive.message import dedup_key
from ..settings import Settings
from ..store.claim import Claim
from ..store.ids import new_id
from ..store.ledger import Ledger, ledger_owner
from ..store.replies import Answer
from ..store.root import Root
from ..store.spool import Spool
from ..trust.levels import NONE, PROVEN, SEALED, SIGNED, protection_for, rank
from ..trust.verifier import Verifier
from .message import Message
from .typed_bodies import convert

_ASKING: Final = frozenset(("expires", "deliver_after", "hops", "idempotency_key"))


class Receiver:
    """Takes messages out of a box and settles them. Safe to share between threads."""

    def __init__(
        self,
        root: Root,
        address: Address,
        rules: Settings,
        send: Callable[..., str],
        verifier: Verifier,
        taker: Spool | None = None,
    ) -> None:
        self._verifier = verifier
        self._root, self._address, self._rules, self._send = root, address, rules, send
        self._spool = taker or Spool(root, address, rules)
        self._ledger = Ledger(rules.ledger_dir or f"{root.box(address)}/ledger", root.box(address))
        self.from_new = False
        """Whether the last one taken was not judged before: it came from `new/`, and should have been announced."""
        self.close = self._spool.close
        self.next_due = self._spool.next_due
        self.cost = self._spool.cost
        self.requeue = self._spool.requeue
        self.purge = self._spool.purge

    def only(self, types: frozenset[str | None] | None) -> None:
        """Take only messages of these types, and leave the rest where it lies; None takes all.

        What is no mail at all is taken nevertheless: it becomes a dead letter.
        """

        def accept(data: bytes) -> bool:
            try:
                return self._verifier.type_of(data) in kinds
            except NotMailError:
                return True

        kinds = types or frozenset()
        self._spool.accept = accept if types is not None else None

    def begin(self) -> None:
        """Find our place in the box. Raises BoxNotFoundError or RootNotFoundError where it is not there, "
        "StorageError where it does not open."""
        self._spool.begin()

    @property
    def folder(self) -> str | None:
        """The name of the folder in `cur/` that is ours, once there is one."""
        return self._spool.folder

    def take(self, into: Any = None) -> Message[Any] | None:
        """The next message to handle, or None. Everything that is not one is dealt with on the way."""
        while (claim := self._spool.claim()) is not None:
            try:
                message = self._admit(claim, into)
            except NotMailError as error:
                self._spool.dead_letter(claim[0], error.reason)
                continue
            except BaseException:
                self._spool.release(claim)  # our own trouble: it is not the message's fault
                raise
            if message is not None:
                self.from_new = claim[3]
                return message
        return None

    def _admit(self, claim: Claim, into: Any) -> Message[Any] | None:
        name, data, facts, first = claim
        id, attempt, requeued = name[:ID_LENGTH], 1, 0
        members, trust = self._verifier.verify(data, facts, name)
        if not first or ",N=" in name or members.get("id", id) != id:
            parts = parse_filename(name)
            assert parts is not None, name  # the spool gives no other names
            attempt, requeued = parts.attempt, parts.requeued
            if parts.stem is not None:
                members.setdefault("sent", modified_time(facts))
            elif members.get("id") not in (id, None):
                raise NotMailError(f'its "id" is {quoted(members["id"])} and its name says {id}')
            if attempt > self._rules.max_attempts:
                raise NotMailError(f"it was taken {attempt - 1} times and never settled: whoever took it died")
        message: Message[Any] = Message(id, members, data, name, attempt, trust, self)
        if (trust in PROVEN or not _ASKING.isdisjoint(members)) and not self._grant(message, first, requeued):
            return None
        if into is not None:
            message.body = convert(message.body, into)
        return message

    def _grant(self, message: Message[Any], first: bool, requeued: int) -> bool:
        """Do what the envelope asks for. Returns whether there is still something to handle, and now."""
        if message.hops > MAX_HOPS:
            raise NotMailError(f"it is answer number {message.hops} in a row, and {MAX_HOPS} is the limit")
        if not requeued:  # a person who requeues it wants it now
            if message.expires is not None and message.expires <= datetime.now(UTC):
                raise NotMailError(f"it expired at {message.fields['expires']}")
            due = datetime_ns(message.deliver_after) if message.deliver_after is not None else 0
            if due > time.time_ns():
                self._spool.defer(message.name, due)
                return False
        key = dedup_key(message)
        return key is None or not self._known(message, key, first)

    def _known(self, message: Message[Any], key: str, first: bool) -> bool:
        """Whether the ledger has its key already; then it is acked here and now."""
        sender = self._page(message)
        if self._handled(message, sender, key):
            log.info("%s from %s was handled already: %r is in the ledger", message.id, message.sender, key)
            self._spool.ack(message.name)
            return True
        if first and _stamp(message) <= self._floor(message, sender):
            raise NotMailError("it is older than what the ledger remembers: whether its key was handled is not known")
        return False

    def _page(self, message: Message[Any]) -> str:
        return ledger_owner(self._root, message.sender, message.trust in PROVEN)

    def _floor(self, message: Message[Any], sender: str) -> str:
        with translated_errors(f"reading the ledger of the box {quoted(self._address)}"):
            return self._ledger.floor(message.trust, sender)

    def _handled(self, message: Message[Any], sender: str, key: str) -> bool:
        with translated_errors(f"reading the ledger of the box {quoted(self._address)}"):
            return self._ledger.handled(message.trust, sender, key)

    def _note(self, message: Message[Any]) -> None:
        """Note in the ledger that it is handled, where it may not be handled twice."""
        if (key := dedup_key(message)) is not None:
            try:
                self._ledger.record(message.trust, self._page(message), key, _stamp(message))
            except OSError as error:  # a full disk never stops the settling
                log.error(
                    "%s could not be noted as handled: sent again, it would be handled again (%s)", message.id, error
                )

    def answer(self, file: Answer, request: str, asked: frozenset[str] | None, into: Any) -> Message[Any]:
        """The answer to *request* in that file, noted as handled.

        *asked* are those who were asked, and may answer; None is anybody whose word is proven. Raises NotMailError
        where
        it is no mail, or none that is believed; BodyTypeError where its body is not *into*.
        """
        text, data, facts = file
        members, trust = self._verifier.verify(data, facts, text)
        parts = parse_filename(text)
        id = parts.id if parts else new_id()  # a foreign name is none
        message: Message[Any] = Message(id, members, data, text, 1, trust, self)
        self._refuse_stranger(message, asked)
        if trust in PROVEN:
            if message.in_reply_to != request:
                raise NotMailError("it is proven, but answers something else")
            if self._handled(message, self._page(message), dedup_key(message) or id):
                raise NotMailError("it was handled already: it is in the ledger")
        if into is not None:
            message.body = convert(message.body, into)
        self._note(message)
        message.settled = True
        return message

    def _refuse_stranger(self, message: Message[Any], asked: frozenset[str] | None) -> None:
        """Raise NotMailError where it is not from whom was asked, as far as that can be known: an id is no secret."""
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
                f"mail of {quoted(sender)} is proven by {quoted(least)} here, and this by {quoted(trust)}"
            )

    # What a message asks of us: see message.Hold

    def ack(self, message: Message[Any]) -> None:
        if dedup_key(message) is not None and self._spool.is_claimed(message.name):
            self._note(message)
        self._spool.ack(message.name)
        message.settled = True

    def retry(self, message: Message[Any], delay: float | None, reason: str, detail: str) -> None:
        if message.attempt >= self._rules.max_attempts:
            of = f"attempt {message.attempt} of {self._rules.max_attempts}"
            self.reject(message, f"{reason} ({of})", detail)
            return
        wait = self._backoff(message.attempt) if delay is None else max(0.0, delay)
        parts = parse_filename(message.name)
        assert parts is not None, message.name
        again = parts.replace(attempt=message.attempt + 1, wait=0)
        self._spool.defer(message.name, time.time_ns() + int(wait * 1e9), again)
        message.settled = True
        log.info("%s comes back in %.1f s as attempt %d: %s", message.id, wait, again.attempt, reason)

    def reject(self, message: Message[Any], reason: str, detail: str) -> None:
        self._spool.dead_letter(message.name, reason, detail)
        message.settled = True

    def release(self, message: Message[Any], delay: float) -> None:
        self._spool.defer(message.name, time.time_ns() + int(delay * 1e9), parse_filename(message.name))
        message.settled = True

    def reply(self, message: Message[Any], body: Any, options: dict[str, Any]) -> str:
        if message.sender is None:
            raise InvalidRequestError(f'the message {message.id} cannot be answered: it has no "from"')
        hops = message.hops + 1
        if hops > MAX_HOPS:
            raise TooManyHopsError(hops, MAX_HOPS)
        options.setdefault("thread", message.thread or message.reply_id)
        if options.get("seal") is None and options.get("sign") is None:  # in kind
            options["seal"] = True if protection_for(message.trust) == SEALED else None
            options["sign"] = True if protection_for(message.trust) == SIGNED and self._verifier.has_key else None
        return self._send(message.sender, body, in_reply_to=message.reply_id, hops=hops, **options)

    async def off_loop(self, call: Callable[..., Any], *arguments: Any) -> Any:
        from asyncio import to_thread

        return await to_thread(call, *arguments)

    def _backoff(self, attempt: int) -> float:
        """Twice as long each time, and up to half of it taken off by chance: those who failed together part."""
        chance = int.from_bytes(os.urandom(2)) / 65536
        return min(self._rules.max_retry_delay, self._rules.retry_delay * 2.0 ** (attempt - 1)) * (1 - chance / 2)


def _stamp(message: Message[Any]) -> str:
    """When it was sent, by its id; by the proven one, where there is such."""
    return (message.reply_id if message.trust in PROVEN else message.id)[:TIMESTAMP_LENGTH]
