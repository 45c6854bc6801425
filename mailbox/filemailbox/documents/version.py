"""One version of a document: bytes in, bytes out. No disk, no clock.

A version is one JSON object on one line. Its head is written in one way only, so that a shell can read it:

    {"version":42,"by":"alice","at":"2026-11-24T01:45:30.123456Z","base":"<64 hex digits>","note":"...","body":<JSON>}

`base` is the SHA-256 of the whole file of the version before. That of the first version is the SHA-256 of
`mailbox document v1 NAME` and a newline. So a version belongs to one document and to one history, and each version
proves all that came before it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from .. import settings
from ..errors import InvalidBodyError, InvalidRequestError, NotMailError, quoted
from ..format import codec, envelope, times
from ..format.address import is_address

T = TypeVar("T")

MAX_NUMBER: Final = 9_999_999_999
"""The highest number of a version: ten digits."""

MAX_SIZE: Final = settings.MAX_SIZE
"""The largest version, in bytes. The same for all: a version that one reader refuses would end the history for it."""

_HEAD = re.compile(
    rb'\{"version":([1-9][0-9]{0,9}),"by":"([a-z0-9][a-z0-9._-]{0,63})",'
    rb'"at":"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)","base":"([0-9a-f]{64})",'
)
_ID: Final = "20200101T000000.000000000Z-000000000000"
_BEFORE_BODY: Final = len(envelope.encode(_ID, "a", "a", None, {})) - len("null}\n")


@dataclass(frozen=True, slots=True)
class Version(Generic[T]):
    """One version of a document."""

    document: str
    version: int
    by: str
    """Its author, as it claims; `trust` is the proof."""
    at: datetime
    """When it was written, by its author's clock."""
    base: str
    """The digest of the version before."""
    note: str | None
    body: T
    """The content: any JSON, or an instance of the type that `into=` named."""
    digest: str
    """The SHA-256 of its file, in hex."""
    trust: str = "none"
    """The proof of the author: `none`, `uid` or `signed`."""
    raw: bytes = field(default=b"", repr=False)
    """The bytes of its file."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, the body as it was written."""
        return {
            "document": self.document,
            "version": self.version,
            "by": self.by,
            "at": times.format_time(self.at),
            "trust": self.trust,
            "note": self.note,
            "base": self.base,
            "digest": self.digest,
            "body": codec.loads(self.raw)["body"] if self.raw else self.body,
        }


def digest(data: bytes) -> str:
    """Return the SHA-256 of a version's file: the `base` of the next one."""
    return hashlib.sha256(data).hexdigest()


def first_base(document: str) -> str:
    """Return the `base` of the first version."""
    return digest(f"mailbox document v1 {document}\n".encode())


def filename(number: int) -> str:
    """Return the name of the file of a version."""
    return f"{number:010d}.json"


def number_of(name: str) -> int | None:
    """Return the number in the name of a version's file, or None."""
    if len(name) == 15 and name.endswith(".json") and name[:10].isascii() and name[:10].isdigit():
        return int(name[:10]) or None
    return None


def encode(number: int, by: str, at: str, base: str, body: Any, note: str | None = None) -> bytes:
    """Return the line of a version. *at* is a time as the envelope writes it.

    Raises InvalidBodyError for what JSON cannot hold and for what is too large, InvalidRequestError for a bad note.
    """
    if note is not None and not isinstance(note, str):
        raise InvalidRequestError(f"note= is {quoted(note)}, expected a string")
    if number > MAX_NUMBER:
        raise InvalidBodyError(f"a document has at most {MAX_NUMBER} versions")
    wrapped = envelope.encode(_ID, "a", "a", [body], {})  # all that is checked for mail is checked here
    content = wrapped[_BEFORE_BODY + len("[") : -len("]}\n")]
    head = b'{"version":%d,"by":"%s","at":"%s","base":"%s",' % (number, by.encode(), at.encode(), base.encode())
    if note is not None:
        try:
            head += b'"note":' + envelope.escape_invisible(codec.dumps(note)) + b","
        except (TypeError, UnicodeEncodeError) as error:
            raise InvalidRequestError(f"note= is {quoted(note)}, which is not Unicode") from error
    line = head + b'"body":' + content + b"}\n"
    if len(line) > MAX_SIZE:
        raise InvalidBodyError(
            f"the version has {len(line)} bytes, and {MAX_SIZE} is the limit",
            hint="put large data in a file, or in several documents",
        )
    return line


def decode(data: bytes, number: int, base: str) -> dict[str, Any]:
    """Return the members of the version *number*, which follows the version with the digest *base*.

    Raises NotMailError with the reason if it is not.
    """
    head = _HEAD.match(data)
    if head is None:
        raise NotMailError('it does not begin with {"version":NUMBER,"by":"NAME","at":"TIME","base":"DIGEST",')
    if int(head[1]) != number:
        raise NotMailError(f"it claims to be version {int(head[1])}")
    if head[4].decode() != base:
        raise NotMailError(f"its base is {head[4].decode()[:12]}…, and the version before it is {base[:12]}…")
    if not data.endswith(b"}\n") or data.count(b"\n") != 1:
        raise NotMailError("it is not one line that ends in a newline")
    members = strictly(data)
    if "body" not in members or "sealed" in members:
        raise NotMailError('it has no "body", or a "sealed"')
    if not is_address(members["by"]):
        raise NotMailError(f'its "by" is {quoted(members["by"])}, which is not the name of a box')
    if members.get("note").__class__ not in (str, type(None)):
        raise NotMailError('its "note" is not a string')
    try:
        times.parse_time(members["at"])
    except (ValueError, OverflowError):
        raise NotMailError(f'its "at" is {quoted(members["at"])}, which is not a time') from None
    return members


def strictly(data: bytes) -> dict[str, Any]:
    """Return the object in *data*, which no two readers can read in two ways. Raises NotMailError."""
    members: dict[str, Any] = envelope.decode(b'{"body":%s}' % data)["body"]  # as strict as for the body of a message
    if (
        envelope.escape_invisible(codec.dumps(members, None, codec.LINE)) != data
    ):  # what our writer writes has no double names
        try:
            json.loads(data, object_pairs_hook=_refuse_doubles, parse_int=str, parse_float=str)
        except ValueError as error:
            raise NotMailError(str(error)) from None
    return members


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        every = [name for name, _ in pairs]
        double = next(name for name in every if every.count(name) > 1)
        raise ValueError(f"two members of one object are called {quoted(double)}")
    return members
