"""The envelope of a message: bytes in, bytes out. No disk, no clock, no network.

A message is one JSON object on one line, readable with `cat`:

    {"id": "...", "from": "alice", "to": "bob", "sent": "2026-11-24T01:45:30.123456Z", "type": "job", "body": <JSON>}

Only an object is required. With `body`, the envelope's fields are known by name, and unknown ones are kept. Without
`body`, the strings `from, to, type, subject, thread, in_reply_to` are the envelope's and the rest is the body, so that
a script can write `{"from":"a","msg":"hello"}`. Only sealed mail has no body before it is opened.
"""

from __future__ import annotations

from _collections_abc import Mapping  # without the package `collections`, which takes longer to import

from ..errors import InvalidBodyError, InvalidRequestError, NotMailError, quoted
from . import codec
from .pattern import Pattern
from .times import parse_time
from .timestamp import sent_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from typing import Any, Final

MAX_DEPTH: Final = 64
"""Deepest nesting of arrays and objects."""

MAX_HOPS: Final = 16
"""Most answers to answers in a row."""

MAX_KEY: Final = 1024
"""Largest `idempotency_key`, in bytes of UTF-8: recipients remember thousands of them."""


class _Key:
    """The type of an `idempotency_key`: a string of limited length."""


FLAT: Final = ("from", "to", "type", "subject", "thread", "in_reply_to")
FIELD_TYPES: Final[dict[str, type]] = {
    **dict.fromkeys((*FLAT, "id", "sent", "expires", "deliver_after", "receipts", "receipt"), str),
    "idempotency_key": _Key,
    "hops": int,
    "headers": dict,
}
_TEXTS: Final = frozenset(member for member, kind in FIELD_TYPES.items() if kind is str)
_RARE: Final = frozenset(("idempotency_key", "hops", "headers", "expires", "deliver_after"))
_EXPECTED: Final[dict[type, str]] = {
    str: "a string",
    _Key: f"a string of at most {MAX_KEY} bytes",
    int: "a whole number from 0 to 1000",
    dict: "an object of strings",
}

# These characters move the cursor, hide or reorder text in a terminal. In valid JSON they occur inside strings only, so
# escaping them changes the bytes and not the meaning. orjson escapes the rest of C0.
_INVISIBLE: Final = Pattern(
    "[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_HOPS: Final = range(1001)

# Possessive, for a string may be a megabyte long. Only for valid JSON: there every string ends.
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def encode(id: str, sender: str, to: str, body: Any, fields: Mapping[str, Any], version: int | None = None) -> bytes:
    """Return the bytes of a message file: one line of JSON; the time of sending comes from the id.

    Only sealed and signed mail has a *version*. *fields* are further ones of the envelope; None leaves one out.
    Dataclasses, dates, UUIDs and enums in *body* become plain JSON; pydantic models and msgspec structs, their own, by
    their aliases and tags. Bytes are base64 in a field of a dataclass or struct, and refused elsewhere.

    Raises InvalidRequestError for a field of the wrong type, InvalidBodyError for a value that JSON lacks: bytes,
    NaN, infinities, integers of more than 64 bits, keys that are not strings.
    """
    envelope: dict[str, Any] = {"id": id, "from": sender, "to": to, "sent": sent_time(id)}
    if version is not None:
        envelope = {"v": version, **envelope}
    for name, value in fields.items():
        if value is not None:
            envelope[name] = value if type(value) is str and name in _TEXTS else _coerce(name, value)
    envelope["body"] = body
    try:
        data = codec.dumps(envelope, _plain, codec.LINE)
    except TypeError as error:
        data = _typed_as_json(envelope, error)
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _nests(data) and _too_deep(data):
        raise InvalidBodyError(f"the body is nested too deep: with the envelope, {MAX_DEPTH} levels are the limit")
    if b"null" in data:
        _refuse_nan(body)  # orjson writes NaN as null
    return escape_invisible(data)


def decode(data: bytes) -> dict[str, Any]:
    """Return the fields of a message; `body` is always among them.

    Raises NotMailError for bytes that are not UTF-8 or not one JSON object, nesting deeper than MAX_DEPTH, and a
    field of the wrong type. Numbers are read as most readers of JSON do: integers of more than 64 bits become the
    nearest double; NaN, infinities and numbers that overflow a double are refused. Of two equal names the last counts.
    """
    return fields_of(parse(data))


def parse(data: bytes) -> dict[str, Any]:
    """Return the JSON object in *data*. Raises NotMailError, as decode() does."""
    try:
        document = codec.loads(data)
    except ValueError as error:
        raise NotMailError(f"not JSON: {_where(data, error)}") from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _too_deep(data):
        raise NotMailError(f"arrays and objects are nested deeper than {MAX_DEPTH}")
    if type(document) is not dict:
        raise NotMailError(f"not a JSON object but {_kind(document)}")
    return document


def fields_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the envelope in *document*, which is used up. Raises NotMailError, as decode() does."""
    if "body" not in document and document.get("sealed").__class__ is dict:
        document["body"] = None  # it is sealed as well
    if "body" in document:
        for name, value in document.items():
            if type(value) is not str and name in _TEXTS and value is not None:
                raise NotMailError(f"its {quoted(name)} is {_kind(value)}, expected {_EXPECTED[str]}")
        if not _RARE.isdisjoint(document):
            _check(document)
        fields: dict[str, Any] = document
    else:
        fields = {name: document.pop(name) for name in FLAT if type(document.get(name)) is str}
        fields["body"] = document
    return fields


def _check(document: dict[str, Any]) -> None:
    """Check the fields that few messages have, and that are more than text. Raises NotMailError."""
    for name, expected in (("idempotency_key", str), ("hops", int), ("headers", dict)):
        value = document.get(name)
        if value.__class__ is not expected and value is not None:
            raise NotMailError(f"its {quoted(name)} is {_kind(value)}, expected {_EXPECTED[expected]}")
    if document.get("idempotency_key") is not None and (size := _bytes(document["idempotency_key"])) > MAX_KEY:
        raise NotMailError(f'its "idempotency_key" has {size} bytes, and {MAX_KEY} is the limit')
    if document.get("hops") is not None and document["hops"] not in _HOPS:
        raise NotMailError('its "hops" is not a whole number from 0 to 1000')
    if document.get("headers") and not all(value.__class__ is str for value in document["headers"].values()):
        raise NotMailError('its "headers" is not an object of strings')
    for name in ("expires", "deliver_after"):
        if document.get(name) is not None:
            _check_time(name, document[name])


def escape_invisible(data: bytes) -> bytes:
    """Return the same JSON, safe to print: characters that move the cursor, hide or reorder text are escaped."""
    if data.isascii() and 0x7F not in data:
        return data
    return _INVISIBLE.sub(_escaped, data.decode()).encode()


def _check_time(name: str, text: str) -> None:
    try:
        parse_time(text)
    except (ValueError, OverflowError):
        raise NotMailError(
            f"its {quoted(name)} is {quoted(text)}, expected a time with a zone such as 2026-11-24T01:45:30Z"
        ) from None


def _bytes(text: str) -> int:
    """Return its length in bytes of UTF-8."""
    return len(text.encode(errors="surrogatepass"))


def _coerce(name: str, value: object) -> Any:
    """Return the value of an envelope field as its type demands. Raises InvalidRequestError, TypeError."""
    expected = FIELD_TYPES.get(name)
    if expected is None:
        raise TypeError(f"there is no option {name}=: expected one of {', '.join(FIELD_TYPES)}")
    if expected is str and isinstance(value, str):
        return value
    if expected is _Key and isinstance(value, str):
        if (size := _bytes(value)) > MAX_KEY:
            raise InvalidRequestError(
                f"idempotency_key= has {size} bytes, and {MAX_KEY} is the limit", hint="send a digest of a longer key"
            )
        return value
    if expected is int and isinstance(value, int) and not isinstance(value, bool) and value in _HOPS:
        return value
    if expected is dict and isinstance(value, Mapping) and all(isinstance(t, str) for i in value.items() for t in i):
        return dict(value)
    raise InvalidRequestError(f"{name}= is {quoted(value)}, expected {_EXPECTED[expected]}")


def _typed_as_json(envelope: dict[str, Any], error: TypeError) -> bytes:
    """Encode a body that orjson refused, if it is an object with fields: then bytes in it are base64, as its reader
    expects, and keys that are numbers are strings. Raises InvalidBodyError for any other."""
    body = envelope["body"]
    if hasattr(body, "__dataclass_fields__") or hasattr(body, "__struct_fields__"):
        import msgspec

        try:
            plain = msgspec.to_builtins(body, str_keys=True, enc_hook=_plain)
            return codec.dumps({**envelope, "body": plain}, _plain, codec.LINE)
        except TypeError as other:
            error = other
    raise InvalidBodyError(_why_not_json(error)) from error


def _plain(value: Any) -> Any:
    # Models describe themselves, by the names that their readers know: a field may have an alias, a class a tag.
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    if hasattr(value, "__struct_fields__"):
        import msgspec

        return msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, tuple):  # a named one
        return list(value)
    raise TypeError


def _why_not_json(error: TypeError) -> str:
    reason = str(error)
    advice = {
        "Type is not JSON serializable: bytes": "bytes are not JSON: send text, or base64 in a string",
        "Integer exceeds 64-bit range": "an integer has more than 64 bits: send it as a string",
        "Dict key must be str": "a key of an object is not a string",
        "Recursion limit reached": "it is nested too deep, or contains itself",
    }
    return f"the body cannot be written as JSON: {advice.get(reason, reason)}"


def _refuse_nan(value: Any) -> None:
    from enum import Enum

    if isinstance(value, float):
        if value - value != 0:  # NaN and the infinities
            raise InvalidBodyError(f"the body cannot be written as JSON: it holds {value}; send a string or null")
    elif value is None or isinstance(value, str | int):
        pass
    elif isinstance(value, Mapping):
        for item in value.values():
            _refuse_nan(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _refuse_nan(item)
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
    """Return True if *data*, which is valid JSON, nests deeper than MAX_DEPTH."""
    import re

    return _nests(re.sub(_STRING, b"", data))


def _nests(data: bytes) -> bool:
    """Do the same for JSON whose strings hold no bracket. Each round removes the innermost pairs."""
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
