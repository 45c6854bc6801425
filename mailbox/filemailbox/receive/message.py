"""Message: what a receiver gets, and the handle that settles it."""

from __future__ import annotations

from _collections_abc import Mapping

from ..errors import NotClaimedError, Reject, Retry, quoted
from ..format.filename import TIMESTAMP_LENGTH
from ..format.times import from_nanoseconds, in_seconds, optional_time, parse_time
from ..format.timestamp import to_nanoseconds
from ..trust.levels import PROVEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta
    from types import TracebackType
    from typing import Any, Generic, NoReturn, Protocol, Self, TypeAlias, TypeVar

if TYPE_CHECKING:
    T = TypeVar("T")
    _Kind: TypeAlias = type[BaseException]  # Message has a `type` of its own
else:  # typing takes longer to import than a message to send; Message[Job] still says what it is of
    Protocol, T, Generic = object, "T", {"T": object}


class Hold(Protocol):
    """What a message asks of the box that holds it for us. Each settles it once and for all."""

    def ack(self, message: Message[Any]) -> None: ...
    def retry(self, message: Message[Any], delay: float | None, reason: str, detail: str) -> None: ...
    def reject(self, message: Message[Any], reason: str, detail: str) -> None: ...
    def reply(self, message: Message[Any], body: Any, options: dict[str, Any]) -> str: ...
    def release(self, message: Message[Any], delay: float) -> None: ...
    async def off_loop(self, call: Callable[..., Any], *arguments: Any) -> Any: ...


class Message(Generic[T]):
    """One message: its data, and, where it was received and not only looked at, a handle that settles it.

    Settle it with ack(), retry() or reject(), or use it in a `with` block: a clean exit acks, Retry and Reject are
    honoured, any other exception puts it back with a backoff and goes on. The first call counts; a second does nothing.
    """

    __slots__ = ("_hold", "_members", "attempt", "body", "id", "name", "raw", "settled", "trust")

    state: str = "cur"
    """The folder it was found in: `cur` where it is held, or `new`, `later`, `dead`, `done`."""

    due: datetime | None = None
    """For mail in `later/`: when it comes back. For mail in `done/`: when it was handled."""

    problem: str | None = None
    """For mail that was looked at: why it is a dead letter, or would become one."""

    def __init__(
        self,
        id: str,
        members: dict[str, Any],
        raw: bytes,
        name: str,
        attempt: int = 1,
        trust: str = "none",
        hold: Hold | None = None,
    ) -> None:
        self.id = id
        """What the message is known by: everywhere, and for ever."""
        self.body: T = members["body"]
        """The body: any JSON, or an instance of the type that `into=` named."""
        self.raw = raw
        """The bytes of the file."""
        self.name = name
        """The name of its file in the folder `state`."""
        self.attempt = attempt
        """1, and one more for each time that it was taken and not settled."""
        self.trust = trust
        """What proves the sender: `none` (the message says so itself), `uid`, `relay`, `signed` or `sealed`."""
        self.settled = False
        """Whether it was acked, put back, rejected or handed back."""
        self._members = members
        self._hold = hold

    if not TYPE_CHECKING:
        __class_getitem__ = classmethod(type(list[int]))

    def __repr__(self) -> str:
        sender, kind = quoted(self.sender or "?"), quoted(self.type or "")
        return f"<Message {self.id} from {sender} ({self.trust}) type {kind} {self.state}>"

    @property
    def sender(self) -> str | None:
        """Who sent it: by its own word, unless `trust` says more."""
        return self._members.get("from")

    @property
    def to(self) -> str | None:
        """Whom it was addressed to. It may have been dropped into another box than that."""
        return self._members.get("to")

    @property
    def type(self) -> str | None:
        """What kind of message it is: handlers are chosen by it."""
        return self._members.get("type")

    @property
    def subject(self) -> str | None:
        """A line for people."""
        return self._members.get("subject")

    @property
    def thread(self) -> str | None:
        """The conversation it belongs to."""
        return self._members.get("thread")

    @property
    def in_reply_to(self) -> str | None:
        """The id of the message that it answers."""
        return self._members.get("in_reply_to")

    @property
    def idempotency_key(self) -> str | None:
        """What makes sending it again harmless: of two messages from one sender with one key, one is handled."""
        return self._members.get("idempotency_key")

    @property
    def hops(self) -> int:
        """How many answers in a row it is the last of."""
        hops: int = self._members.get("hops") or 0
        return hops

    @property
    def headers(self) -> dict[str, str]:
        """Strings for programs, such as a `traceparent`."""
        headers: dict[str, str] = self._members.get("headers") or {}
        return headers

    @property
    def sent(self) -> datetime:
        """When it was sent: its envelope's word, or, where that is missing or no time, the time in its id."""
        try:
            return parse_time(self._members["sent"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return from_nanoseconds(to_nanoseconds(self.id[:TIMESTAMP_LENGTH]))

    @property
    def expires(self) -> datetime | None:
        """When it becomes worthless: from then on it is a dead letter."""
        return optional_time(self._members.get("expires"))

    @property
    def deliver_after(self) -> datetime | None:
        """Until when it is kept back."""
        return optional_time(self._members.get("deliver_after"))

    @property
    def fields(self) -> Mapping[str, Any]:
        """The envelope as it was written, unknown members included."""
        return self._members

    @property
    def reply_id(self) -> str:
        """What an answer names in its `in_reply_to`: the id that the sender knows this message by."""
        given = self._members.get("id")
        return given if type(given) is str else self.id

    def ack(self) -> None:
        """It is handled: it goes, or into `done/` where retention is on.

        Not flushed: after a power cut an acked message may come back, under the same id.
        """
        if not self.settled:
            (self._hold or self._not_held()).ack(self)

    def retry(
        self, delay: float | timedelta | None = None, reason: str = "put back to be retried", detail: str = ""
    ) -> None:
        """Take it back and deliver it again in *delay* seconds, by default with exponential backoff.

        The attempt is counted; at the box's limit it becomes a dead letter with *reason* and *detail*.
        """
        if not self.settled:
            self._held().retry(self, in_seconds(delay), reason, detail)

    def reject(self, reason: str, detail: str = "") -> None:
        """It can never be handled: it becomes a dead letter, with *reason* and *detail* in a `.why` file beside it."""
        if not self.settled:
            self._held().reject(self, reason, detail)

    def reply(self, body: Any = None, **options: Any) -> str:
        """Send *body* back to the sender, in the same thread. Returns the id of the answer.

        *options* are those of Mailbox.send(). This does not settle the message.

        Raises InvalidRequestError where nobody can be answered, TooManyHopsError where two agents answer each other
        for ever.
        """
        return self._held().reply(self, body, options)

    def release(self, delay: float | timedelta = 0) -> None:
        """Give it back unhandled, the attempt not counted: it is delivered again in *delay* seconds."""
        if not self.settled:
            self._held().release(self, in_seconds(delay) or 0)

    async def aack(self) -> None:
        """ack(), off the event loop."""
        if not self.settled:
            await self._held().off_loop(self.ack)

    async def aretry(self, delay: float | timedelta | None = None, reason: str = "put back to be retried") -> None:
        """retry(), off the event loop."""
        if not self.settled:
            await self._held().off_loop(self.retry, delay, reason)

    async def areject(self, reason: str, detail: str = "") -> None:
        """reject(), off the event loop."""
        if not self.settled:
            await self._held().off_loop(self.reject, reason, detail)

    async def areply(self, body: Any = None, **options: Any) -> str:
        """reply(), off the event loop."""
        hold = self._held()
        answer: str = await hold.off_loop(lambda: hold.reply(self, body, options))
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: _Kind | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        return self.settle_after(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: _Kind | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if self.settled:
            return isinstance(error, Retry | Reject)
        swallowed: bool = await self._held().off_loop(self.settle_after, error)
        return swallowed

    def settle_after(self, error: BaseException | None) -> bool:
        """Settle it as a handler that ended so. Returns whether *error* was only a word to us (Retry, Reject)."""
        if error is None:
            self.ack()
        elif isinstance(error, Reject):
            self.reject(error.reason)
        elif isinstance(error, Retry):
            self.retry(error.delay, error.reason)
        elif isinstance(error, Exception):
            import traceback

            self.retry(reason=one_line_error(error), detail="".join(traceback.format_exception(error)))
        else:  # KeyboardInterrupt, SystemExit, CancelledError: not the message's fault
            self.release()
        return isinstance(error, Retry | Reject)

    def _held(self) -> Hold:
        return self._hold if self._hold is not None else self._not_held()

    def _not_held(self) -> NoReturn:
        raise NotClaimedError(f"the message {self.id} was looked at, not taken: receive() it to settle or answer it")


def one_line_error(error: BaseException) -> str:
    """What an exception said, on one line."""
    try:
        words = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001  # its own __str__ fails
        words = "it cannot be printed"
    return f"{type(error).__name__}: {words}"[:500] if words else type(error).__name__


def dedup_key(message: Message[Any]) -> str | None:
    """What it is known by where it may be handled only once: its key; its id where others could send it once more."""
    if message.idempotency_key is not None or message.trust not in PROVEN:
        return message.idempotency_key
    return message.reply_id
