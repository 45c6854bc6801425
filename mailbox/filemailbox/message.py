"""The envelope and Message: bytes in, bytes out. No disk, no clock, no network.

A message is one JSON object on one line, readable with `cat`:

    {"id": "...", "from": "alice", "to": "bob", "sent": "2026-11-24T01:45:30.123456Z", "type": "job", "body": <JSON>}

Only an object is required. With `body`, the members of the envelope are known by name and any other is kept. Without
`body`, the string members `from, to, type, subject, thread, in_reply_to` are the envelope's and all the rest is the
body, so that a script can drop `{"from":"a","msg":"hello"}`. Only sealed mail has no body before it is opened.
"""

from __future__ import annotations

from _collections_abc import Mapping

from . import codec, names
from .errors import Invalid, InvalidBody, Malformed, NotHeld, Reject, Retry, quoted
from .pattern import Pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import re
    from collections.abc import Callable
    from datetime import datetime, timedelta
    from types import TracebackType
    from typing import Any, Final, Generic, NoReturn, Protocol, Self, TypeAlias, TypeVar

    T = TypeVar("T")
    _Kind: TypeAlias = type[BaseException]  # Message has a `type` of its own
else:  # typing takes longer to import than a message to send; Message[Job] still says what it is of
    Protocol, T, Generic = object, "T", {"T": object}

MAX_SIZE: Final = 1024 * 1024
"""The largest message, in bytes, that is written or read unless a box says otherwise."""

MAX_DEPTH: Final = 64
"""How deep arrays and objects may be nested."""

MAX_HOPS: Final = 16
"""How many answers to answers there may be in a row."""

MAX_KEY: Final = 1024
"""How many bytes a `key` may have, in UTF-8: recipients remember thousands of them."""


class _Key:
    """What a `key` is: text, but not of any length."""


FLAT: Final = ("from", "to", "type", "subject", "thread", "in_reply_to")
_MEMBERS: Final[dict[str, type]] = {
    **dict.fromkeys((*FLAT, "id", "sent", "expires", "deliver_after"), str),
    "key": _Key,
    "hops": int,
    "headers": dict,
}
_TEXTS: Final = frozenset(member for member, kind in _MEMBERS.items() if kind is str)
_RARE: Final = frozenset(("key", "hops", "headers", "expires", "deliver_after"))
_EXPECTED: Final[dict[type, str]] = {
    str: "a string",
    _Key: f"a string of at most {MAX_KEY} bytes",
    int: "a whole number from 0 to 1000",
    dict: "an object of strings",
}

# What would move the cursor, hide or reorder text where somebody looks with `cat`. In valid JSON such characters can
# only stand inside strings, so escaping them changes the bytes and not the meaning. orjson escapes the rest of C0.
_INVISIBLE = Pattern(
    "[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)

_TIME = Pattern(r"\d{4}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:[0-5]\d)")
_HOPS: Final = range(1001)

# Possessive, for a string may be a megabyte long. Only for what is known to be JSON: there every string ends.
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def encode(id: str, sender: str, to: str, body: Any, members: Mapping[str, Any], version: int | None = None) -> bytes:
    """The bytes of a message file: one line of JSON, the time of sending taken from the id.

    *version* is said only in mail that is sealed or signed. *members* are further ones of the envelope; those that are
    None are left out. Dataclasses, dates, UUIDs and enums in *body* are written as JSON has it, pydantic models and
    msgspec structs as they describe themselves.

    Raises Invalid for a member of the wrong type, InvalidBody for what JSON cannot hold: bytes, NaN,
    infinities, integers of more than 64 bits, keys that are not strings.
    """
    envelope: dict[str, Any] = {"id": id, "from": sender, "to": to, "sent": names.sent(id)}
    if version is not None:
        envelope = {"v": version, **envelope}
    for member, value in members.items():
        if value is not None:
            envelope[member] = value if value.__class__ is str is _MEMBERS.get(member) else _mended(member, value)
    envelope["body"] = body
    try:
        data = codec.dumps(envelope, _plain, codec.LINE)
    except TypeError as error:
        raise InvalidBody(_why_not_json(error)) from error
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _nests(data) and _too_deep(data):
        raise InvalidBody(f"the body is nested too deep: with the envelope, {MAX_DEPTH} levels are the limit")
    if b"null" in data:
        _refuse_nan(body)  # orjson writes NaN as null without a word
    return data if data.isascii() and 0x7F not in data else visible(data)  # most are: a call less


def decode(data: bytes) -> dict[str, Any]:
    """The members of a message; `body` is always among them.

    Raises Malformed, saying why, for what is not UTF-8, not one JSON object, nested deeper than MAX_DEPTH, or has an
    envelope member of the wrong type. Numbers are read as most readers of JSON do: integers of more than 64 bits
    become the nearest double; NaN, infinities and what overflows a double are refused. Of two equal keys the last one
    counts.
    """
    try:
        document = codec.loads(data)
    except ValueError as error:
        raise Malformed(f"not JSON: {_where(data, error)}") from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _too_deep(data):
        raise Malformed(f"arrays and objects are nested deeper than {MAX_DEPTH}")
    if type(document) is not dict:
        raise Malformed(f"not a JSON object but {_kind(document)}")
    if "body" not in document and document.get("sealed").__class__ is dict:
        document["body"] = None  # it is sealed, too
    if "body" in document:
        for member, value in document.items():
            if value.__class__ is not str and member in _TEXTS and value is not None:
                raise Malformed(f"its {quoted(member)} is {_kind(value)}, expected {_EXPECTED[str]}")
        if not _RARE.isdisjoint(document):
            _check(document)
        members: dict[str, Any] = document
    else:
        members = {member: document.pop(member) for member in FLAT if type(document.get(member)) is str}
        members["body"] = document
    return members


def _check(document: dict[str, Any]) -> None:
    """The members that few messages have, and that are more than just text."""
    for member, expected in (("key", str), ("hops", int), ("headers", dict)):
        value = document.get(member)
        if value.__class__ is not expected and value is not None:
            raise Malformed(f"its {quoted(member)} is {_kind(value)}, expected {_EXPECTED[expected]}")
    if document.get("key") is not None and (size := _bytes(document["key"])) > MAX_KEY:
        raise Malformed(f'its "key" has {size} bytes, and {MAX_KEY} is the limit')
    if document.get("hops") is not None and document["hops"] not in _HOPS:
        raise Malformed('its "hops" is not a whole number from 0 to 1000')
    if document.get("headers") and not all(value.__class__ is str for value in document["headers"].values()):
        raise Malformed('its "headers" is not an object of strings')
    for member in ("expires", "deliver_after"):
        if document.get(member) is not None:
            _check_time(member, document[member])


def visible(data: bytes) -> bytes:
    """JSON with what moves the cursor, hides or reorders text escaped: the same JSON, safe to look at."""
    if data.isascii() and 0x7F not in data:
        return data
    return _INVISIBLE.sub(_escaped, data.decode()).encode()


class Hold(Protocol):
    """What a message asks of the box that holds it for us. Each settles it once and for all."""

    def ack(self, message: Message[Any]) -> None: ...
    def retry(self, message: Message[Any], after: float | None, reason: str, detail: str) -> None: ...
    def reject(self, message: Message[Any], reason: str, detail: str) -> None: ...
    def reply(self, message: Message[Any], body: Any, options: dict[str, Any]) -> str: ...
    def hand_back(self, message: Message[Any], after: float) -> None: ...
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
    def key(self) -> str | None:
        """What makes sending it again harmless: of two messages from one sender with one key, one is handled."""
        return self._members.get("key")

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
            return moment(names.nanoseconds(self.id[: names.STAMP]))

    @property
    def expires(self) -> datetime | None:
        """When it becomes worthless: from then on it is a dead letter."""
        return _optional_time(self._members.get("expires"))

    @property
    def deliver_after(self) -> datetime | None:
        """Until when it is kept back."""
        return _optional_time(self._members.get("deliver_after"))

    @property
    def members(self) -> Mapping[str, Any]:
        """The envelope as it was written, unknown members included."""
        return self._members

    @property
    def answers_to(self) -> str:
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
        self, after: float | timedelta | None = None, reason: str = "put back to be retried", detail: str = ""
    ) -> None:
        """Take it back and deliver it again in *after* seconds, by default with exponential backoff.

        The attempt is counted; at the box's limit it becomes a dead letter with *reason* and *detail*.
        """
        if not self.settled:
            self._held().retry(self, seconds(after), reason, detail)

    def reject(self, reason: str, detail: str = "") -> None:
        """It can never be handled: it becomes a dead letter, with *reason* and *detail* in a `.why` file beside it."""
        if not self.settled:
            self._held().reject(self, reason, detail)

    def reply(self, body: Any = None, **options: Any) -> str:
        """Send *body* back to the sender, in the same thread. Returns the id of the answer.

        *options* are those of Mailbox.send(). This does not settle the message.

        Raises Invalid where nobody can be answered, TooManyHops where two agents answer each other for ever.
        """
        return self._held().reply(self, body, options)

    def hand_back(self, after: float | timedelta = 0) -> None:
        """Give it back unhandled, the attempt not counted: it is delivered again in *after* seconds."""
        if not self.settled:
            self._held().hand_back(self, seconds(after) or 0)

    async def aack(self) -> None:
        """ack(), off the event loop."""
        if not self.settled:
            await self._held().off_loop(self.ack)

    async def aretry(self, after: float | timedelta | None = None, reason: str = "put back to be retried") -> None:
        """retry(), off the event loop."""
        if not self.settled:
            await self._held().off_loop(self.retry, after, reason)

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
        return self.conclude(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: _Kind | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if self.settled:
            return isinstance(error, Retry | Reject)
        swallowed: bool = await self._held().off_loop(self.conclude, error)
        return swallowed

    def conclude(self, error: BaseException | None) -> bool:
        """Settle it as a handler that ended so. Returns whether *error* was only a word to us (Retry, Reject)."""
        if error is None:
            self.ack()
        elif isinstance(error, Reject):
            self.reject(error.reason)
        elif isinstance(error, Retry):
            self.retry(error.after, error.reason)
        elif isinstance(error, Exception):
            import traceback

            self.retry(reason=last_words(error), detail="".join(traceback.format_exception(error)))
        else:  # KeyboardInterrupt, SystemExit, CancelledError: not the message's fault
            self.hand_back()
        return isinstance(error, Retry | Reject)

    def _held(self) -> Hold:
        return self._hold if self._hold is not None else self._not_held()

    def _not_held(self) -> NoReturn:
        raise NotHeld(f"the message {self.id} was looked at, not taken: receive() it to settle or answer it")


def parse_time(text: str) -> datetime:
    """RFC 3339 as an aware datetime. Raises ValueError, OverflowError; a time without a zone is refused."""
    if _TIME.fullmatch(text) is None:  # fromisoformat takes more, and each Python takes something else
        raise ValueError(text)
    from datetime import UTC, datetime  # imported where it is needed: most messages ask for no time

    when = datetime.fromisoformat(text.upper())
    when.astimezone(UTC)  # on the first and on the last day there are times that UTC has not: OverflowError
    return when


def format_time(when: datetime) -> str:
    """An aware datetime as the envelope writes it: UTC, microseconds."""
    from datetime import UTC

    if when.tzinfo is None:
        raise Invalid(f"the time {quoted(when)} has no zone: give datetime.now(UTC), not datetime.now()")
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def later(after: float | timedelta | datetime, clock: datetime) -> str:
    """A delay in seconds from the *clock*, a timedelta or an aware datetime, as the envelope writes a time."""
    from datetime import datetime, timedelta

    if isinstance(after, datetime):
        return format_time(after)
    span = after if isinstance(after, timedelta) else timedelta(seconds=after)
    try:
        return format_time(clock + span)
    except OverflowError:
        raise Invalid(f"{after!r} from now is after the year 9999") from None


def moment(ns: int) -> datetime:
    """Nanoseconds since 1970 as an aware datetime, which knows microseconds."""
    from datetime import UTC, datetime, timedelta

    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000)


def time_ns(when: datetime) -> int:
    """An aware datetime as nanoseconds since 1970, exactly."""
    since = when - moment(0)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000


def written(facts: os.stat_result) -> str:
    """When a file was last written, as the envelope writes a time: what stands for a missing `sent`."""
    from datetime import UTC, datetime

    return format_time(datetime.fromtimestamp(min(max(facts.st_mtime, 0), 253402300799), UTC))


def seconds(span: float | timedelta | None) -> float | None:
    """A span of time in seconds."""
    return span if span is None or isinstance(span, int | float) else span.total_seconds()


def _optional_time(text: object) -> datetime | None:
    return parse_time(text) if type(text) is str else None


def _check_time(member: str, text: str) -> None:
    try:
        parse_time(text)
    except (ValueError, OverflowError):
        raise Malformed(
            f"its {quoted(member)} is {quoted(text)}, expected a time with a zone such as 2026-11-24T01:45:30Z"
        ) from None


def _bytes(text: str) -> int:
    """How many bytes it has in UTF-8."""
    return len(text.encode(errors="surrogatepass"))


def _mended(member: str, value: object) -> Any:
    """A member of an envelope that is not just of the type that it has there."""
    expected = _MEMBERS.get(member)
    if expected is None:
        raise TypeError(f"there is no option {member}=: expected one of {', '.join(_MEMBERS)}")
    if expected is str and isinstance(value, str):
        return value
    if expected is _Key and isinstance(value, str):
        if (size := _bytes(value)) > MAX_KEY:
            raise Invalid(f"key= has {size} bytes, and {MAX_KEY} is the limit: give a digest of what is longer")
        return value
    if expected is int and isinstance(value, int) and not isinstance(value, bool) and value in _HOPS:
        return value
    if expected is dict and isinstance(value, Mapping) and all(isinstance(t, str) for i in value.items() for t in i):
        return dict(value)
    raise Invalid(f"{member}= is {quoted(value)}, expected {_EXPECTED[expected]}")


def _plain(value: Any) -> Any:
    # Models describe themselves; neither library is imported for it.
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "__struct_fields__"):
        return {field: getattr(value, field) for field in value.__struct_fields__}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError


def _why_not_json(error: TypeError) -> str:
    said = str(error)
    advice = {
        "Type is not JSON serializable: bytes": "bytes are not JSON: send text, or base64 in a string",
        "Integer exceeds 64-bit range": "an integer has more than 64 bits: send it as a string",
        "Dict key must be str": "a key of an object is not a string",
        "Recursion limit reached": "it is nested too deep, or contains itself",
    }
    return f"the body cannot be written as JSON: {advice.get(said, said)}"


def _refuse_nan(value: Any) -> None:
    from enum import Enum

    if isinstance(value, float):
        if value - value != 0:  # NaN and the infinities
            raise InvalidBody(f"the body cannot be written as JSON: it holds {value}; send a string or null")
    elif value is None or isinstance(value, str | int):
        pass
    elif isinstance(value, Mapping):
        for each in value.values():
            _refuse_nan(each)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            _refuse_nan(each)
    elif isinstance(value, Enum):
        _refuse_nan(value.value)
    elif hasattr(value, "__dataclass_fields__"):
        for field in value.__dataclass_fields__:
            _refuse_nan(getattr(value, field, None))
    else:
        try:
            plain = _plain(value)
        except TypeError:  # a date, a UUID: orjson knows them, and they hold no numbers
            return
        _refuse_nan(plain)


def _escaped(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))


def _too_deep(data: bytes) -> bool:
    """Whether *data*, which is JSON, nests deeper than MAX_DEPTH."""
    import re

    return _nests(re.sub(_STRING, b"", data))


def _nests(data: bytes) -> bool:
    """The same, where no string holds a bracket. Each round takes away the innermost pairs."""
    brackets = data.translate(_SQUARE, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _where(data: bytes, error: ValueError) -> str:
    if not data.strip(b" \t\r\n\0"):
        return "it is empty" if not data else "it holds nothing but blanks or zero bytes"
    return str(error).replace("str is not valid UTF-8: surrogates not allowed", "it is not valid UTF-8")


def _kind(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "an array"}
    return "null" if value is None else kinds.get(type(value), "an object")


def last_words(error: BaseException) -> str:
    """What an exception said, on one line."""
    try:
        words = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001  # its own __str__ fails
        words = "it cannot be printed"
    return f"{type(error).__name__}: {words}"[:500] if words else type(error).__name__
