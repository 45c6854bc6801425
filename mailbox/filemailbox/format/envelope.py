"""The envelope and Message: bytes in, bytes out. No disk, no clock, no network.

A message is one JSON object on one line, readable with `cat`:

    {"id": "...", "from": "alice", "to": "bob", "sent": "2026-11-24T01:45:30.123456Z", "type": "job", "body": <JSON>}

Only an object is required. With `body`, the members of the envelope are known by name and any other is kept. Without
`body`, the string members `from, to, type, subject, thread, in_reply_to` are the envelope's and all the rest is the
body, so that a script can drop `{"from":"a","msg":"hello"}`. Only sealed mail has no body before it is opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ..errors import InvalidBodyError, InvalidRequestError, NotMailError, quoted
from . import codec
from .times import parse_time
from .timestamp import sent_time

MAX_DEPTH: Final = 64
"""How deep arrays and objects may be nested."""

MAX_HOPS: Final = 16
"""How many answers to answers there may be in a row."""

MAX_KEY: Final = 1024
"""How many bytes an `idempotency_key` may have, in UTF-8: recipients remember thousands of them."""


class _Key:
    """What a `key` is: text, but not of any length."""


FLAT: Final = ("from", "to", "type", "subject", "thread", "in_reply_to")
_MEMBERS: Final[dict[str, type]] = {
    **dict.fromkeys((*FLAT, "id", "sent", "expires", "deliver_after"), str),
    "idempotency_key": _Key,
    "hops": int,
    "headers": dict,
}
_TEXTS: Final = frozenset(member for member, kind in _MEMBERS.items() if kind is str)
_RARE: Final = frozenset(("idempotency_key", "hops", "headers", "expires", "deliver_after"))
_EXPECTED: Final[dict[type, str]] = {
    str: "a string",
    _Key: f"a string of at most {MAX_KEY} bytes",
    int: "a whole number from 0 to 1000",
    dict: "an object of strings",
}

# What would move the cursor, hide or reorder text where somebody looks with `cat`. In valid JSON such characters can
# only stand inside strings, so escaping them changes the bytes and not the meaning. orjson escapes the rest of C0.
_INVISIBLE: Final = (
    "[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
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

    Raises InvalidRequestError for a member of the wrong type, InvalidBodyError for what JSON cannot hold: bytes, NaN,
    infinities, integers of more than 64 bits, keys that are not strings.
    """
    envelope: dict[str, Any] = {"id": id, "from": sender, "to": to, "sent": sent_time(id)}
    if version is not None:
        envelope = {"v": version, **envelope}
    for member, value in members.items():
        if value is not None:
            envelope[member] = value if value.__class__ is str is _MEMBERS.get(member) else _coerce(member, value)
    envelope["body"] = body
    try:
        data = codec.dumps(envelope, _plain, codec.LINE)
    except TypeError as error:
        raise InvalidBodyError(_why_not_json(error)) from error
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _nests(data) and _too_deep(data):
        raise InvalidBodyError(f"the body is nested too deep: with the envelope, {MAX_DEPTH} levels are the limit")
    if b"null" in data:
        _refuse_nan(body)  # orjson writes NaN as null without a word
    return data if data.isascii() and 0x7F not in data else escape_invisible(data)  # most are: a call less


def decode(data: bytes) -> dict[str, Any]:
    """The members of a message; `body` is always among them.

    Raises NotMailError, saying why, for what is not UTF-8, not one JSON object, nested deeper than MAX_DEPTH, or has an
    envelope member of the wrong type. Numbers are read as most readers of JSON do: integers of more than 64 bits
    become the nearest double; NaN, infinities and what overflows a double are refused. Of two equal keys the last one
    counts.
    """
    try:
        document = codec.loads(data)
    except ValueError as error:
        raise NotMailError(f"not JSON: {_where(data, error)}") from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _too_deep(data):
        raise NotMailError(f"arrays and objects are nested deeper than {MAX_DEPTH}")
    if type(document) is not dict:
        raise NotMailError(f"not a JSON object but {_kind(document)}")
    if "body" not in document and document.get("sealed").__class__ is dict:
        document["body"] = None  # it is sealed, too
    if "body" in document:
        for member, value in document.items():
            if value.__class__ is not str and member in _TEXTS and value is not None:
                raise NotMailError(f"its {quoted(member)} is {_kind(value)}, expected {_EXPECTED[str]}")
        if not _RARE.isdisjoint(document):
            _check(document)
        members: dict[str, Any] = document
    else:
        members = {member: document.pop(member) for member in FLAT if type(document.get(member)) is str}
        members["body"] = document
    return members


def _check(document: dict[str, Any]) -> None:
    """The members that few messages have, and that are more than just text."""
    for member, expected in (("idempotency_key", str), ("hops", int), ("headers", dict)):
        value = document.get(member)
        if value.__class__ is not expected and value is not None:
            raise NotMailError(f"its {quoted(member)} is {_kind(value)}, expected {_EXPECTED[expected]}")
    if document.get("idempotency_key") is not None and (size := _bytes(document["idempotency_key"])) > MAX_KEY:
        raise NotMailError(f'its "idempotency_key" has {size} bytes, and {MAX_KEY} is the limit')
    if document.get("hops") is not None and document["hops"] not in _HOPS:
        raise NotMailError('its "hops" is not a whole number from 0 to 1000')
    if document.get("headers") and not all(value.__class__ is str for value in document["headers"].values()):
        raise NotMailError('its "headers" is not an object of strings')
    for member in ("expires", "deliver_after"):
        if document.get(member) is not None:
            _check_time(member, document[member])


def escape_invisible(data: bytes) -> bytes:
    """JSON with what moves the cursor, hides or reorders text escaped: the same JSON, safe to look at."""
    if data.isascii() and 0x7F not in data:
        return data
    return re.sub(_INVISIBLE, _escaped, data.decode()).encode()


def _check_time(member: str, text: str) -> None:
    try:
        parse_time(text)
    except (ValueError, OverflowError):
        raise NotMailError(
            f"its {quoted(member)} is {quoted(text)}, expected a time with a zone such as 2026-11-24T01:45:30Z"
        ) from None


def _bytes(text: str) -> int:
    """How many bytes it has in UTF-8."""
    return len(text.encode(errors="surrogatepass"))


def _coerce(member: str, value: object) -> Any:
    """A member of an envelope that is not just of the type that it has there."""
    expected = _MEMBERS.get(member)
    if expected is None:
        raise TypeError(f"there is no option {member}=: expected one of {', '.join(_MEMBERS)}")
    if expected is str and isinstance(value, str):
        return value
    if expected is _Key and isinstance(value, str):
        if (size := _bytes(value)) > MAX_KEY:
            raise InvalidRequestError(
                f"idempotency_key= has {size} bytes, and {MAX_KEY} is the limit: give a digest of what is longer"
            )
        return value
    if expected is int and isinstance(value, int) and not isinstance(value, bool) and value in _HOPS:
        return value
    if expected is dict and isinstance(value, Mapping) and all(isinstance(t, str) for i in value.items() for t in i):
        return dict(value)
    raise InvalidRequestError(f"{member}= is {quoted(value)}, expected {_EXPECTED[expected]}")


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
            raise InvalidBodyError(f"the body cannot be written as JSON: it holds {value}; send a string or null")
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
