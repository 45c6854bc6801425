"""Sealed and signed mail: bytes in, bytes out. No disk, no clock. The only user of nacl.

A sealed message can be read by its recipient alone, and its sender is proven: signed inside, sealed outside.

    inner  the exact bytes of a complete ordinary message
    sig    Ed25519(sender's signing key, PAE("mailbox.v1.sealed", recipient's encryption key, inner))
    plain  sig (64) | LE32(length of inner) | inner | zeros up to a bucket
    file   {"v":1,"id":…,"from":…,"to":…,"sent":…,"sealed":{"alg":"mbx1","kid":…,"skid":…,"data":…}}
           data: base64 of crypto_box_seal(plain, recipient's encryption key)

A signed message stays readable: the last member `sig` is over the exact bytes before it.

    file   {"v":1,"id":…,"from":…,"to":…,"sent":…, …,"body":…,"sig":"mbs1:SKID:BASE64"}
           Ed25519(sender's signing key, PAE("mailbox.v1.signed", all bytes before `,"sig":`))

Sealed first and signed outside, a stranger could put his own signature in place of ours. With crypto_box instead, who
steals the recipient's key can write to him in anybody's name. Without the recipient's key under the signature, he could
seal what he got to somebody else, and it would still be from us.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, NoReturn

from nacl import bindings
from nacl.exceptions import CryptoError

from ..errors import NotMailError, UnverifiedSenderError, quoted
from ..format import codec
from ..format.address import is_address
from ..format.envelope import decode, escape_invisible
from ..format.filename import is_id

VERSION: Final = 1
SEAL_SCHEME: Final = "mbx1"
SIGNATURE_SCHEME: Final = "mbs1"
KEY: Final = 32
"""Bytes in a public key, in the seed of an identity and in the secret half of a box key."""

_SIG: Final = 64
_HEAD: Final = _SIG + 4
_BUCKET: Final = 256
_HINTS: Final = {"v": int, "id": str, "from": str, "to": str, "sent": str}
_TAIL = re.compile(rb',"sig":"mbs1:([0-9a-f]{32}):([A-Za-z0-9+/]{86}==)"\}\n')
_TAIL_SIZE: Final = len(',"sig":"mbs1::"}\n') + 32 + 88


class SecretBytes(bytes):
    """Bytes that are in no log, no repr and no traceback, not even in one that shows what each frame holds."""

    def __repr__(self) -> str:
        return f"<{len(self)} secret bytes>"

    __str__ = __repr__

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise TypeError("private keys are not pickled: give the other process the path of its own")


class EncryptionKeyPair(NamedTuple):
    """A key that mail can be sealed to, and its secret half."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"<EncryptionKeyPair {kid(self.public)}>"


Sign = Callable[[bytes], bytes]
"""What signs for an identity: see signer()."""


def kid(public: bytes) -> str:
    """What a public key is called in a message: the first half of its SHA-256, in hex. A hint, never a proof."""
    return hashlib.sha256(public).hexdigest()[:32]


def seal(inner: bytes, hints: Mapping[str, Any], public: bytes, sign: Sign, box: bytes) -> bytes:
    """The line of JSON that only the holder of *box* can read.

    *inner* is a complete message, *hints* are its members `v, id, from, to, sent`, *public* is the identity that *sign*
    signs for. Raises ValueError for a *box* that is no key: to some of those anybody could read along.
    """
    plain = sign(_pae(b"mailbox.v1.sealed", box, inner)) + len(inner).to_bytes(4, "little") + inner
    try:
        data = bindings.crypto_box_seal(plain.ljust(_padded(len(plain)), b"\0"), box)
    except CryptoError as error:
        raise ValueError("it is not a key that mail can be sealed to") from error
    text = binascii.b2a_base64(data, newline=False).decode()
    sealed = {"alg": SEAL_SCHEME, "kid": kid(box), "skid": kid(public), "data": text}
    return codec.dumps({**hints, "sealed": sealed}, None, codec.LINE)


def unseal(
    data: bytes, to: str, boxes: Mapping[str, EncryptionKeyPair], identity: Callable[[str], bytes | None]
) -> tuple[bytes, dict[str, Any]]:
    """The inner message of the sealed message *data*, proven to be for *to* and from whom it says: bytes and members.

    *boxes* are the recipient's, by their kid; *identity* gives the pinned identity of an address, or None.
    Raises NotMailError for what is no message; UnverifiedSenderError, saying why, for one that is not all that it
    claims.
    """
    outer = decode_strict(data)
    sealed = outer.get("sealed")
    if outer.keys() != {*_HINTS, "sealed"}:
        raise UnverifiedSenderError("a sealed message has the members v, id, from, to, sent, sealed, and no other")
    if type(sealed) is not dict or sealed.keys() != {"alg", "kid", "skid", "data"}:
        raise UnverifiedSenderError('its "sealed" is not an object with the members alg, kid, skid, data')
    if not all(type(value) is str for value in sealed.values()):
        raise UnverifiedSenderError('a member of its "sealed" is not a string')
    if sealed["alg"] != SEAL_SCHEME:
        raise UnverifiedSenderError(
            f"it is sealed in the way {quoted(sealed['alg'])}, and only {SEAL_SCHEME} is known here"
        )
    _check_hints(outer, to)
    box = boxes.get(sealed["kid"])
    if box is None:
        raise UnverifiedSenderError(f"it is sealed to the key {quoted(sealed['kid'])}, and that is none of ours")
    signature, inner = _unpacked(_opened(_base64(sealed["data"]), box))
    public = _pinned(outer["from"], sealed["skid"], identity)
    if not verify(public, _pae(b"mailbox.v1.sealed", box.public, inner), signature):
        raise UnverifiedSenderError(f"its signature is not that of {quoted(outer['from'])}")
    members = decode_strict(inner)
    for hint in _HINTS:
        if type(members.get(hint)) is not type(outer[hint]) or members[hint] != outer[hint]:
            raise UnverifiedSenderError(
                f'its "{hint}" is {quoted(outer[hint])} outside and {quoted(members.get(hint))} inside'
            )
    _check_form(members)
    return inner, members


def signed(line: bytes, public: bytes, sign: Sign) -> bytes:
    """*line*, a complete message, with the signature of the identity *public* as its last member."""
    body = line.removesuffix(b"\n").removesuffix(b"}")
    signature = binascii.b2a_base64(sign(_pae(b"mailbox.v1.signed", body)), newline=False)
    return body + b',"sig":"%s:%s:%s"}\n' % (SIGNATURE_SCHEME.encode(), kid(public).encode(), signature)


def verified(data: bytes, to: str, identity: Callable[[str], bytes | None]) -> dict[str, Any]:
    """The members of the signed message *data*, proven to be for *to* and from whom it says.

    Raises NotMailError for what is no message; UnverifiedSenderError, saying why, for one that is not all that it
    claims.
    """
    tail = _TAIL.fullmatch(data, max(0, len(data) - _TAIL_SIZE))
    if tail is None:
        raise UnverifiedSenderError(
            'its last member is not "sig" in the form "mbs1:SKID:BASE64", with nothing after it'
        )
    before = data[: -len(tail[0])]
    signature = _base64(tail[2].decode())
    said = decode_strict(before + b"}")
    _check_hints(said, to)
    public = _pinned(said["from"], tail[1].decode(), identity)
    if not verify(public, _pae(b"mailbox.v1.signed", before), signature):
        raise UnverifiedSenderError(f"its signature is not that of {quoted(said['from'])}")
    _check_form(said)
    return said


def decode_strict(data: bytes) -> dict[str, Any]:
    """The object in *data*, which is a message, and has no two members of one name: readers differ in which counts."""
    decode(data)
    document: dict[str, Any] = codec.loads(data)
    ours = escape_invisible(codec.dumps(document, None, codec.LINE))  # a writer like ours writes no name twice
    if ours != data.removesuffix(b"\n") + b"\n":
        try:
            json.loads(data, object_pairs_hook=_no_doubles, parse_int=str, parse_float=str)
        except ValueError as error:
            raise NotMailError(str(error)) from None
    return document


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two members of one object are called {quoted(double)}")
    return members


def signer(seed: bytes) -> tuple[bytes, Sign]:
    """The public half of the identity with this *seed*, and what signs for it: 64 bytes for any bytes."""
    public, secret = bindings.crypto_sign_seed_keypair(seed)
    hidden = SecretBytes(secret)
    return public, lambda data: bindings.crypto_sign(data, hidden)[:_SIG]


def verify(public: bytes, data: bytes, signature: bytes) -> bool:
    """Whether *signature* is that of the identity *public* under *data*."""
    try:
        bindings.crypto_sign_open(signature + data, public)
    except (CryptoError, ValueError, TypeError):
        return False
    return len(signature) == _SIG


def public_encryption_key(secret: bytes) -> bytes:
    """The public half of a box key."""
    return bindings.crypto_scalarmult_base(secret)


def is_signing_key(public: bytes) -> bool:
    """Whether this can be somebody's identity: not one of the points whose signatures anybody can make."""
    return len(public) == KEY and bindings.crypto_core_ed25519_is_valid_point(public)


def is_encryption_key(public: bytes) -> bool:
    """Whether mail can be sealed to this: not one of the points to which anybody could read along."""
    if len(public) != KEY:
        return False
    try:
        bindings.crypto_scalarmult(b"\x40" + bytes(KEY - 1), public)
    except CryptoError:
        return False
    return True


def _pae(*parts: bytes) -> bytes:
    """Parts as one string of bytes that can be taken apart in one way only."""
    return len(parts).to_bytes(8, "little") + b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def _padded(size: int) -> int:
    """The size that it is padded to: what is sealed shows its length only roughly. It costs less than a quarter."""
    bucket = _BUCKET
    while 8 * bucket < size:
        bucket *= 2
    return -(-size // bucket) * bucket


def _check_hints(members: Mapping[str, Any], to: str) -> None:
    for hint, kind in _HINTS.items():
        if type(members.get(hint)) is not kind:
            raise UnverifiedSenderError(f'its "{hint}" is missing or of another type')
    if members["v"] != VERSION:
        raise UnverifiedSenderError(f"it is of version {quoted(members['v'])}, and only {VERSION} is known here")
    if not is_id(members["id"]):
        raise UnverifiedSenderError(f"its id is {quoted(members['id'])}, and a proof needs one of the form of ours")
    if members["to"] != to:
        raise UnverifiedSenderError(f"it is for {quoted(members['to'])}, and this is the box {quoted(to)}")


def _check_form(members: Mapping[str, Any]) -> None:
    if "body" not in members or not {"sealed", "sig"}.isdisjoint(members):
        raise UnverifiedSenderError('what is proven has a "body", and no "sealed" or "sig" of its own')


def _pinned(sender: str, skid: str, identity: Callable[[str], bytes | None]) -> bytes:
    public = identity(sender) if is_address(sender) else None
    if public is None:
        raise UnverifiedSenderError(f"no key of {quoted(sender)} is pinned: `mailbox keys pin NAME FILE` does that")
    if kid(public) != skid:
        raise UnverifiedSenderError(f"it is signed with another key than the one that is pinned for {quoted(sender)}")
    return public


def _base64(text: str) -> bytes:
    """Only what our own writer would have written: one text for the same bytes."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise UnverifiedSenderError("what is in base64 is not") from None
    if binascii.b2a_base64(data, newline=False).decode() != text:
        raise UnverifiedSenderError("its base64 is not written in the one right way")
    return data


def _opened(data: bytes, box: EncryptionKeyPair) -> bytes:
    try:
        return bindings.crypto_box_seal_open(data, box.public, box.secret)
    except (CryptoError, ValueError, TypeError):
        raise UnverifiedSenderError("it does not open: it was damaged, or sealed to another key") from None


def _unpacked(plain: bytes) -> tuple[bytes, bytes]:
    """The signature and the inner message."""
    end = _HEAD + int.from_bytes(plain[_SIG:_HEAD], "little")
    if len(plain) < _HEAD or end > len(plain):
        raise UnverifiedSenderError("what is sealed is shorter than it says")
    if len(plain) != _padded(end) or plain[end:].strip(b"\0"):
        raise UnverifiedSenderError("it is not padded with zeros to its bucket")
    return plain[:_SIG], plain[_HEAD:end]
