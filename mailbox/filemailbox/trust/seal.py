"""Sealed and signed mail: bytes in, bytes out. No disk, no clock. The only user of nacl.

Only the recipient can read a sealed message, and the signature inside proves the sender.

    inner  the exact bytes of a complete ordinary message
    sig    Ed25519(sender's signing key, PAE("mailbox.v1.sealed", recipient's encryption key, inner))
    plain  sig (64) | LE32(length of inner) | inner | zeros up to a bucket
    file   {"v":1,"id":…,"from":…,"to":…,"sent":…,"sealed":{"alg":"mbx1","kid":…,"skid":…,"data":…}}
           data: base64 of crypto_box_seal(plain, recipient's encryption key)

A signed message stays readable: the last member `sig` is over the exact bytes before it.

    file   {"v":1,"id":…,"from":…,"to":…,"sent":…, …,"body":…,"sig":"mbs1:SKID:BASE64"}
           Ed25519(sender's signing key, PAE("mailbox.v1.signed", all bytes before `,"sig":`))

Why so: with the signature outside the seal, an attacker could replace it by his own. With crypto_box instead, a thief
of the recipient's key could write to the recipient in any name. Without the recipient's key under the signature, the
recipient could seal the message to a third party, who would take it for ours.
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
from ..format.envelope import escape_invisible, fields_of, parse
from ..format.filename import is_id

VERSION: Final = 1
SEAL_SCHEME: Final = "mbx1"
SIGNATURE_SCHEME: Final = "mbs1"
KEY: Final = 32
"""Bytes in a public key, in a signing seed and in the secret half of an encryption key."""

PIN_HINT: Final = "`mailbox keys pin NAME FILE` pins it"

_SIG: Final = 64
_HEAD: Final = _SIG + 4
_BUCKET: Final = 256
_HINTS: Final = {"v": int, "id": str, "from": str, "to": str, "sent": str}
_TAIL = re.compile(rb',"sig":"mbs1:([0-9a-f]{32}):([A-Za-z0-9+/]{86}==)"\}\n')
_TAIL_SIZE: Final = len(',"sig":"mbs1::"}\n') + 32 + 88


class SecretBytes(bytes):
    """Bytes that appear in no log, no repr and no traceback, not even one that prints the variables of frames."""

    def __repr__(self) -> str:
        return f"<{len(self)} secret bytes>"

    __str__ = __repr__

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise TypeError("private keys cannot be pickled: give the other process the path of its own")


class EncryptionKeyPair(NamedTuple):
    """A key to seal mail to, and its secret half."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"<EncryptionKeyPair {kid(self.public)}>"


Sign = Callable[[bytes], bytes]
"""Returns the signature, 64 bytes, of any bytes: see signer()."""

PinnedKey = Callable[[str], bytes | None]
"""Returns the pinned signing key of an address, or None."""


def kid(public: bytes) -> str:
    """Return the id of a public key in messages: the first half of its SHA-256, in hex. A hint, never a proof."""
    return hashlib.sha256(public).hexdigest()[:32]


def seal(inner: bytes, hints: Mapping[str, Any], signing_key: bytes, sign: Sign, encryption_key: bytes) -> bytes:
    """Return a line of JSON that only the holder of the secret half of *encryption_key* can read.

    *inner* is a complete message, *hints* are its fields `v, id, from, to, sent`; *signing_key* is the public half of
    the key that *sign* signs with. Raises ValueError for a weak *encryption_key*: mail sealed to it is public.
    """
    plain = sign(_pae(b"mailbox.v1.sealed", encryption_key, inner)) + len(inner).to_bytes(4, "little") + inner
    try:
        data = bindings.crypto_box_seal(plain.ljust(_padded(len(plain)), b"\0"), encryption_key)
    except CryptoError as error:
        raise ValueError("it is not a key that mail can be sealed to") from error
    text = binascii.b2a_base64(data, newline=False).decode()
    sealed = {"alg": SEAL_SCHEME, "kid": kid(encryption_key), "skid": kid(signing_key), "data": text}
    return codec.dumps({**hints, "sealed": sealed}, None, codec.LINE)


def unseal(
    data: bytes, to: str, encryption_keys: Mapping[str, EncryptionKeyPair], pinned_key: PinnedKey
) -> tuple[bytes, dict[str, Any]]:
    """Open the sealed message *data*; return the inner message, its bytes and its fields.

    The recipient *to* and the sender of the inner message are proven. *encryption_keys* are the recipient's, by kid.
    Raises NotMailError for malformed messages, UnverifiedSenderError for a claim that fails.
    """
    outer = decode_strict(data)
    sealed = outer.get("sealed")
    if outer.keys() != {*_HINTS, "sealed"}:
        raise UnverifiedSenderError("a sealed message has the fields v, id, from, to, sent, sealed, and no other")
    if type(sealed) is not dict or sealed.keys() != {"alg", "kid", "skid", "data"}:
        raise UnverifiedSenderError('its "sealed" is not an object with the fields alg, kid, skid, data')
    if not all(type(value) is str for value in sealed.values()):
        raise UnverifiedSenderError('a field of its "sealed" is not a string')
    if sealed["alg"] != SEAL_SCHEME:
        raise UnverifiedSenderError(f"its sealing scheme is {quoted(sealed['alg'])}, expected {SEAL_SCHEME}")
    _check_hints(outer, to)
    pair = encryption_keys.get(sealed["kid"])
    if pair is None:
        raise UnverifiedSenderError(f"it is sealed to the key {quoted(sealed['kid'])}, which this box does not have")
    signature, inner = _unpacked(_opened(_base64(sealed["data"]), pair))
    signing_key = _pinned(outer["from"], sealed["skid"], pinned_key)
    if not verify(signing_key, _pae(b"mailbox.v1.sealed", pair.public, inner), signature):
        raise UnverifiedSenderError(f"its signature is not that of {quoted(outer['from'])}")
    fields = decode_strict(inner)
    for hint in _HINTS:
        if type(fields.get(hint)) is not type(outer[hint]) or fields[hint] != outer[hint]:
            raise UnverifiedSenderError(
                f'its "{hint}" is {quoted(outer[hint])} outside and {quoted(fields.get(hint))} inside'
            )
    _check_form(fields)
    return inner, fields


def signed(line: bytes, signing_key: bytes, sign: Sign) -> bytes:
    """Return *line*, a complete message, with the signature of *signing_key* as its last member."""
    body = line.removesuffix(b"\n").removesuffix(b"}")
    signature = binascii.b2a_base64(sign(_pae(b"mailbox.v1.signed", body)), newline=False)
    return body + b',"sig":"%s:%s:%s"}\n' % (SIGNATURE_SCHEME.encode(), kid(signing_key).encode(), signature)


def verified(data: bytes, to: str, pinned_key: PinnedKey) -> dict[str, Any]:
    """Return the fields of the signed message *data*; its recipient *to* and its sender are proven.

    Raises NotMailError for malformed messages, UnverifiedSenderError for a claim that fails.
    """
    tail = _TAIL.fullmatch(data, max(0, len(data) - _TAIL_SIZE))
    if tail is None:
        raise UnverifiedSenderError(
            'its last member is not "sig" in the form "mbs1:SKID:BASE64", with nothing after it'
        )
    before = data[: -len(tail[0])]
    signature = _base64(tail[2].decode())
    fields = decode_strict(before + b"}")
    _check_hints(fields, to)
    signing_key = _pinned(fields["from"], tail[1].decode(), pinned_key)
    if not verify(signing_key, _pae(b"mailbox.v1.signed", before), signature):
        raise UnverifiedSenderError(f"its signature is not that of {quoted(fields['from'])}")
    _check_form(fields)
    return fields


def decode_strict(data: bytes) -> dict[str, Any]:
    """Return the object in *data*, a message without two members of one name: readers differ in which one counts.

    Raises NotMailError.
    """
    document = parse(data)
    fields_of(dict(document))  # their types
    rewritten = escape_invisible(codec.dumps(document, None, codec.LINE))
    if rewritten != data.removesuffix(b"\n") + b"\n":  # by another kind of writer, or with a name twice
        try:
            json.loads(data, object_pairs_hook=_no_doubles, parse_int=str, parse_float=str)
        except ValueError as error:
            raise NotMailError(str(error)) from None
    return document


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two members of one object are called {quoted(double)}")
    return document


def signer(seed: bytes) -> tuple[bytes, Sign]:
    """Return the public half of the signing key with this *seed*, and a function that signs with it."""
    public, secret = bindings.crypto_sign_seed_keypair(seed)
    hidden = SecretBytes(secret)
    return public, lambda data: bindings.crypto_sign(data, hidden)[:_SIG]


def verify(signing_key: bytes, data: bytes, signature: bytes) -> bool:
    """Return True if *signature* is that of *signing_key*, the public half, under *data*."""
    try:
        bindings.crypto_sign_open(signature + data, signing_key)
    except (CryptoError, ValueError, TypeError):
        return False
    return len(signature) == _SIG


def public_encryption_key(secret: bytes) -> bytes:
    """Return the public half of an encryption key."""
    return bindings.crypto_scalarmult_base(secret)


def is_signing_key(public: bytes) -> bool:
    """Return False for the points whose signatures everybody can make, and for anything but a key."""
    return len(public) == KEY and bindings.crypto_core_ed25519_is_valid_point(public)


def is_encryption_key(public: bytes) -> bool:
    """Return False for the points that let everybody read mail sealed to them, and for anything but a key."""
    if len(public) != KEY:
        return False
    try:
        bindings.crypto_scalarmult(b"\x40" + bytes(KEY - 1), public)
    except CryptoError:
        return False
    return True


def _pae(*parts: bytes) -> bytes:
    """Join parts to bytes that can be split in one way only."""
    return len(parts).to_bytes(8, "little") + b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def _padded(size: int) -> int:
    """Return the padded size: it reveals the length only roughly, and adds less than a quarter."""
    bucket = _BUCKET
    while 8 * bucket < size:
        bucket *= 2
    return -(-size // bucket) * bucket


def _check_hints(fields: Mapping[str, Any], to: str) -> None:
    for hint, kind in _HINTS.items():
        if type(fields.get(hint)) is not kind:
            raise UnverifiedSenderError(f'its "{hint}" is missing or of another type')
    if fields["v"] != VERSION:
        raise UnverifiedSenderError(f"its version is {quoted(fields['v'])}, expected {VERSION}")
    if not is_id(fields["id"]):
        raise UnverifiedSenderError(f"its id is {quoted(fields['id'])}, expected the form that send() writes")
    if fields["to"] != to:
        raise UnverifiedSenderError(f"it is for {quoted(fields['to'])}, and this is the box {quoted(to)}")


def _check_form(fields: Mapping[str, Any]) -> None:
    if "body" not in fields or not {"sealed", "sig"}.isdisjoint(fields):
        raise UnverifiedSenderError('a proven message has a "body", and no "sealed" or "sig" of its own')


def _pinned(sender: str, skid: str, pinned_key: PinnedKey) -> bytes:
    signing_key = pinned_key(sender) if is_address(sender) else None
    if signing_key is None:
        raise UnverifiedSenderError(f"no key of {quoted(sender)} is pinned", hint=PIN_HINT)
    if kid(signing_key) != skid:
        raise UnverifiedSenderError(f"it is signed with another key than the one that is pinned for {quoted(sender)}")
    return signing_key


def _base64(text: str) -> bytes:
    """Decode base64, accepting one text for the same bytes: the one that our writer writes."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise UnverifiedSenderError("its base64 is malformed") from None
    if binascii.b2a_base64(data, newline=False).decode() != text:
        raise UnverifiedSenderError("its base64 is not in the canonical form")
    return data


def _opened(data: bytes, pair: EncryptionKeyPair) -> bytes:
    try:
        return bindings.crypto_box_seal_open(data, pair.public, pair.secret)
    except (CryptoError, ValueError, TypeError):
        raise UnverifiedSenderError("it does not open: it was damaged, or sealed to another key") from None


def _unpacked(plain: bytes) -> tuple[bytes, bytes]:
    """Return the signature and the inner message."""
    end = _HEAD + int.from_bytes(plain[_SIG:_HEAD], "little")
    if len(plain) < _HEAD or end > len(plain):
        raise UnverifiedSenderError("the sealed content is shorter than its length field")
    if len(plain) != _padded(end) or plain[end:].strip(b"\0"):
        raise UnverifiedSenderError("it is not padded with zeros to its bucket")
    return plain[:_SIG], plain[_HEAD:end]
