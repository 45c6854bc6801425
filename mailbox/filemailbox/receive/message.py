"""Message: what a receiver gets, and the handle that settles it.

Two protocols stand for the receiver, which is defined further down the map: a `Settler` ends a message, a `Replier`
answers it. A message that was only peeked at has neither.
"""

from __future__ import annotations

from _collections_abc import Mapping

from ..errors import NotClaimedError, Reject, Retry, quoted
from ..format.filename import TIMESTAMP_LENGTH
from ..format.times import format_time, from_nanoseconds, in_seconds, optional_time, parse_time
from ..format.timestamp import to_nanoseconds
from ..trust.levels import PROVEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta
    from types import TracebackType
    from typing import Any, Generic, NoReturn, Protocol, Self, TypeAlias, TypeVar, Unpack

    from ..option_types import Options

if TYPE_CHECKING:
    T = TypeVar("T")
    _ErrorType: TypeAlias = type[BaseException]  # Message has a `type` of its own
else:  # typing takes half as long to import as Python takes to start; `annotations` fills the names in on demand
    Protocol, T, Generic = object, "T", {"T": object}

MAX_ERROR_LENGTH = 500
"""Longest line, in characters, that an exception becomes in a log or beside a dead letter."""


class Settler(Protocol):
    """Ends messages. The first call for a message counts."""

    def ack(self, message: Message[Any]) -> None: ...
    def retry(self, message: Message[Any], delay: float | None, reason: str, detail: str) -> None: ...
    def reject(self, message: Message[Any], reason: str, detail: str) -> None: ...
    def release(self, message: Message[Any], delay: float) -> None: ...
    def extend(self, message: Message[Any], duration: float) -> datetime: ...


class Replier(Protocol):
    """Answers messages. A reply does not settle the message."""

    def reply(self, message: Message[Any], body: Any, options: dict[str, Any]) -> str: ...


class Message(Generic[T]):
    """One message: its data and, if it was received and not only peeked at, the handle that settles it.

    Settle it with ack(), retry() or reject(), or use it in a `with` block: a clean exit acks, Retry and Reject are
    honoured, and any other exception retries with backoff and propagates. The first call counts. A second does nothing.
    """

    __slots__ = (
        "_fields",
        "_replier",
        "_settler",
        "attempt",
        "body",
        "from_new",
        "id",
        "name",
        "raw",
        "settled",
        "trust",
    )

    state: str = "cur"
    """Folder that holds it: `cur` if it is claimed, or `new`, `later`, `dead`, `done`."""

    due: datetime | None = None
    """For mail in `later/`, the time it becomes due. For mail in `done/`, the time it was handled."""

    problem: str | None = None
    """For mail that was peeked at, the reason it is a dead letter or would become one."""

    def __init__(
        self,
        id: str,
        fields: dict[str, Any],
        raw: bytes,
        name: str,
        attempt: int = 1,
        trust: str = "none",
        settler: Settler | None = None,
        replier: Replier | None = None,
    ) -> None:
        self.id = id
        """Identifier of the message, the same everywhere and at every attempt."""
        self.body: T = fields["body"]
        """The body: any JSON, or an instance of the type given as `into=`."""
        self.raw = raw
        """The bytes of the file."""
        self.name = name
        """Name of its file in the folder `state`."""
        self.attempt = attempt
        """1, plus one for each time it was claimed and not settled."""
        self.trust = trust
        """Proof of the sender: `none` (the message names it, unverified), `uid`, `relay`, `signed` or `sealed`."""
        self.settled = False
        """True once it is acked, retried, rejected or released."""
        self.from_new = False
        """True if this claim came from `new/`, so that a wake-up should have announced it."""
        self._fields = fields
        self._settler = settler
        self._replier = replier

    if not TYPE_CHECKING:
        __class_getitem__ = classmethod(type(list[int]))

    def __repr__(self) -> str:
        sender, kind = quoted(self.sender or "?"), quoted(self.type or "")
        return f"<Message {self.id} from {sender} ({self.trust}) type {kind} {self.state}>"

    @property
    def sender(self) -> str | None:
        """The sender, as the message names it. `trust` is the proof of that."""
        return self._fields.get("from")

    @property
    def to(self) -> str | None:
        """The address on the envelope. The file may have been put into another box."""
        return self._fields.get("to")

    @property
    def type(self) -> str | None:
        """Kind of message. Handlers are chosen by it."""
        return self._fields.get("type")

    @property
    def subject(self) -> str | None:
        """One line for people."""
        return self._fields.get("subject")

    @property
    def thread(self) -> str | None:
        """Identifier of the conversation it belongs to."""
        return self._fields.get("thread")

    @property
    def in_reply_to(self) -> str | None:
        """Identifier of the message that it answers."""
        return self._fields.get("in_reply_to")

    @property
    def idempotency_key(self) -> str | None:
        """Key that makes sending it twice harmless: of all messages from one sender with one key, one is handled."""
        return self._fields.get("idempotency_key")

    @property
    def hops(self) -> int:
        """Length of the chain of replies that ends with it. 0 if it answers nothing."""
        hops: int = self._fields.get("hops") or 0
        return hops

    @property
    def headers(self) -> dict[str, str]:
        """Strings for programs, such as a `traceparent`."""
        headers: dict[str, str] = self._fields.get("headers") or {}
        return headers

    @property
    def sent(self) -> datetime:
        """Time of sending: from the envelope or, if that has no valid time, from the id."""
        try:
            return parse_time(self._fields["sent"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return from_nanoseconds(to_nanoseconds(self.id[:TIMESTAMP_LENGTH]))

    @property
    def expires(self) -> datetime | None:
        """Time after which it becomes a dead letter instead of being handled."""
        return optional_time(self._fields.get("expires"))

    @property
    def deliver_after(self) -> datetime | None:
        """Time until which delivery is deferred."""
        return optional_time(self._fields.get("deliver_after"))

    @property
    def fields(self) -> Mapping[str, Any]:
        """The envelope as it was written, unknown fields included."""
        return self._fields

    @property
    def reply_id(self) -> str:
        """Id for the `in_reply_to` of a reply: the one that the sender knows this message by."""
        given = self._fields.get("id")
        return given if type(given) is str else self.id

    def as_dict(self) -> dict[str, Any]:
        """Return the message as one JSON object: the envelope, and what this box knows of it. The body comes last.

        Added to the envelope are `id`, `trust`, `state` and `attempt`; `due` for deferred and handled mail; `reason`
        for a dead letter, and `problem` for mail that would become one. Times are RFC 3339 in UTC.
        """
        values = {field: value for field, value in self._fields.items() if field != "body"}
        if "sent" not in values:
            values["sent"] = format_time(self.sent)
        values["id"] = self.id.encode("utf-8", "backslashreplace").decode()  # an external file name may hold any bytes
        values |= {"trust": self.trust, "state": str(self.state), "attempt": self.attempt}
        if self.due is not None:
            values["due"] = format_time(self.due)
        if self.problem is not None:
            values["reason" if self.state == "dead" else "problem"] = self.problem
        return {**values, "body": self.body}

    def ack(self) -> None:
        """Mark it handled: its file is deleted, or moved to `done/` if the mailbox has a retention.

        Not flushed: after a power cut an acked message may come back, under the same id.
        """
        if not self.settled:
            (self._settler or self._not_claimed()).ack(self)

    def retry(
        self, delay: float | timedelta | None = None, reason: str = "put back to be retried", detail: str = ""
    ) -> None:
        """Deliver it again in *delay* seconds, by default with exponential backoff. The attempt is counted.

        At the mailbox's limit of attempts it becomes a dead letter with *reason* and *detail*.
        """
        if not self.settled:
            (self._settler or self._not_claimed()).retry(self, in_seconds(delay), reason, detail)

    def reject(self, reason: str, detail: str = "") -> None:
        """Make it a dead letter at once, with *reason* and *detail* in a `.why` file beside it."""
        if not self.settled:
            (self._settler or self._not_claimed()).reject(self, reason, detail)

    def reply(self, body: Any = None, *, keep: bool = False, **options: Unpack[Options]) -> str:
        """Send *body* back to the sender, in the same thread, then ack the message. Returns the id of the reply.

        With *keep* it is not acked: more replies may follow, and a handler that fails later has it again. A crash in
        between delivers the message again, so that it may be answered twice. *options* are those of Mailbox.send().

        Raises InvalidRequestError if the message names no sender, and TooManyHopsError if the chain of replies is too
        long: two agents that thank each other must end.
        """
        id = (self._replier or self._not_claimed()).reply(self, body, dict(options))
        if not keep:
            self.ack()
        return id

    def extend(self, duration: float | timedelta) -> datetime:
        """Keep the message claimed for at least *duration* (seconds or timedelta) from now. Returns until when.

        For a message under a lease, of `Mailbox(lease=…)` or `Mailbox.leased()`: its lease never gets shorter. Raises
        NotClaimedError if the claim is lost, InvalidRequestError if there is no lease.
        """
        settler = self._settler or self._not_claimed()
        return settler.extend(self, in_seconds(duration) or 0)

    def release(self, delay: float | timedelta = 0) -> None:
        """Put it back unhandled. The attempt is not counted. It is delivered again in *delay* seconds."""
        if not self.settled:
            (self._settler or self._not_claimed()).release(self, in_seconds(delay) or 0)

    async def aack(self) -> None:
        """ack(), off the event loop."""
        await self._off_loop(self.ack)

    async def aretry(self, delay: float | timedelta | None = None, reason: str = "put back to be retried") -> None:
        """retry(), off the event loop."""
        await self._off_loop(self.retry, delay, reason)

    async def areject(self, reason: str, detail: str = "") -> None:
        """reject(), off the event loop."""
        await self._off_loop(self.reject, reason, detail)

    async def areply(self, body: Any = None, *, keep: bool = False, **options: Unpack[Options]) -> str:
        """reply(), off the event loop."""
        from asyncio import to_thread

        return await to_thread(lambda: self.reply(body, keep=keep, **options))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: _ErrorType | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return self.settle_after(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: _ErrorType | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self.settled:
            return isinstance(error, Retry | Reject)
        from asyncio import to_thread

        return await to_thread(self.settle_after, error)

    def settle_after(self, error: BaseException | None) -> bool:
        """Settle it as the end of a handler asks: *error* is what it raised. Returns True for Retry and Reject."""
        if error is None:
            self.ack()
        elif isinstance(error, Reject):
            self.reject(error.reason)
        elif isinstance(error, Retry):
            self.retry(error.delay, error.reason)
        elif isinstance(error, Exception):
            self.retry(reason=one_line_error(error), detail=traceback_text(error))
        else:  # KeyboardInterrupt, SystemExit, CancelledError: not the message's fault
            self.release()
        return isinstance(error, Retry | Reject)

    async def _off_loop(self, settle: Callable[..., None], *arguments: Any) -> None:
        if not self.settled:
            from asyncio import to_thread

            await to_thread(settle, *arguments)

    def _not_claimed(self) -> NoReturn:
        raise NotClaimedError(
            f"the message {self.id} was peeked at, not received", hint="receive() it to settle or answer it"
        )


def one_line_error(error: BaseException) -> str:
    """Return the type and text of an exception, on one line."""
    try:
        words = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001  # its own __str__ fails
        words = "it cannot be printed"
    return f"{type(error).__name__}: {words}"[:MAX_ERROR_LENGTH] if words else type(error).__name__


def traceback_text(error: BaseException) -> str:
    """Return the traceback of an exception, without a newline at its end; in it only what can be printed."""
    import traceback

    text = "".join(traceback.format_exception(error))
    return text.encode("utf-8", "backslashreplace").decode().rstrip("\n")


def dedup_key(message: Message[Any]) -> str | None:
    """Return the deduplication key: the idempotency key, or the id of signed or sealed mail."""
    key: str | None = message._fields.get("idempotency_key")
    return message.reply_id if key is None and message.trust in PROVEN else key
