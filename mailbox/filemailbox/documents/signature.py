"""A version that proves its author: bytes in, bytes out.

The last member `sig` is an Ed25519 signature of the author's identity, over all bytes before it. `base` is among them:
so a signature is good for one place in one history of one document.
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING, Final

from ..errors import UnverifiedSenderError, quoted
from ..trust import seal

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..trust.key_files import PrivateKeys

_CONTEXT: Final = b"mailbox.v1.document"
_TAIL = re.compile(rb',"sig":"mbs1:([0-9a-f]{32}):([A-Za-z0-9+/]{86}==)"\}\n')
SIZE: Final = len(',"sig":"mbs1::"}\n') + 32 + 88 - len("}\n")
"""Bytes that a signature adds to a version."""


def signed(line: bytes, own: PrivateKeys) -> bytes:
    """Return *line*, a version, with the signature of *own* as its last member."""
    before = line.removesuffix(b"}\n")
    signature = binascii.b2a_base64(own.sign(_signed_part(before)), newline=False)
    return before + b',"sig":"mbs1:%s:%s"}\n' % (seal.kid(own.public.signing_key).encode(), signature)


def verify(data: bytes, by: str, identity: Callable[[str], bytes | None]) -> None:
    """Check that the author *by* has signed the version *data*. *identity* gives the pinned identity of an agent.

    Raises UnverifiedSenderError with the reason if it has not.
    """
    tail = _TAIL.fullmatch(data, max(0, len(data) - SIZE - len("}\n")))
    if tail is None:
        raise UnverifiedSenderError(
            f"it is not signed, and a key of {quoted(by)} is pinned: any writer can have written it"
        )
    before = data[: -len(tail[0])]
    public = identity(by)
    if public is None:
        raise UnverifiedSenderError(f"no key of {quoted(by)} is pinned", hint=f"`mailbox keys pin {by} FILE` pins it")
    if seal.kid(public) != tail[1].decode():
        raise UnverifiedSenderError(f"it is signed with another key than the one that is pinned for {quoted(by)}")
    try:
        signature = binascii.a2b_base64(tail[2], strict_mode=True)
    except ValueError:
        signature = b""
    if binascii.b2a_base64(signature, newline=False) != tail[2] or not seal.verify(
        public, _signed_part(before), signature
    ):
        raise UnverifiedSenderError(f"its signature is not that of {quoted(by)}")


def _signed_part(before: bytes) -> bytes:
    """PAE(mailbox.v1.document, all bytes before the signature), as FORMAT.md has it."""
    parts = (_CONTEXT, before)
    return len(parts).to_bytes(8, "little") + b"".join(len(part).to_bytes(8, "little") + part for part in parts)
