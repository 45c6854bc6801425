"""Write tests/vectors/sealed.json and tests/vectors/signed.json: `python tests/support/make_sealed_vectors.py "
"[FOLDER]`.

A second reading of the format, so that a slip in the first one shows: nothing of the package is imported, only the
primitives of libsodium. Keys, ephemeral keys and all else are fixed, so that each run writes the same bytes. A vector
that must be refused has one fault, and all that comes before it in the order of checks is right.
"""

import base64
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from nacl import bindings

Vector = dict[str, Any]
Members = dict[str, Any]

ID: Final = "20261124T014530.123456789Z-3f9c0a12b4d5"
SENT: Final = "2026-11-24T01:45:30.123456Z"
HINTS: Final[Members] = {"v": 1, "id": ID, "from": "alice", "to": "bob", "sent": SENT}
GONE: Final[Any] = object()
"""In a change: the member is left out."""

L: Final = 2**252 + 27742317777372353535851937790883648493
P: Final = 2**255 - 19


def fixed(what: str) -> bytes:
    """32 bytes that look like chance."""
    return hashlib.sha256(f"mailbox vectors: {what}".encode()).digest()


AGENTS: Final = ("alice", "bob", "carol", "mallory")
SEEDS: Final = {name: fixed(f"identity of {name}") for name in AGENTS}
IDENTITIES: Final = {name: bindings.crypto_sign_seed_keypair(seed)[0] for name, seed in SEEDS.items()}
SECRETS: Final = {name: fixed(f"box of {name}") for name in (*AGENTS, "bob, the second")}
BOXES: Final = {name: bindings.crypto_scalarmult_base(secret) for name, secret in SECRETS.items()}
EPHEMERAL: Final = fixed("ephemeral")


def little(number: int) -> bytes:
    return number.to_bytes(32, "little")


TORSION: Final = {
    "order 1": little(1),
    "order 2": little(P - 1),
    "order 4": little(0),
    "order 4, negative": little(1 << 255),
    "order 8": bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    "order 8, negative": bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
    "order 8, the other": bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    "order 8, the other, negative": bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
    "order 1, minus zero": little(1 | 1 << 255),
    "order 1, not reduced": little(P + 1),
    "order 2, minus zero": little((P - 1) | 1 << 255),
    "order 4, not reduced": little(P),
    "order 4, not reduced, negative": little(P | 1 << 255),
}
"""Points of Ed25519 that are in no prime group: a signature that anybody can make fits them."""

LOW: Final = {
    "0": little(0),
    "1": little(1),
    "of order 8": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "of order 8, the other": bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    "p - 1": little(P - 1),
    "p": little(P),
    "p + 1": little(P + 1),
    "0 with the highest bit": little(1 << 255),
}
"""Points of X25519 with which every secret makes the same key: nothing."""


# The format, once more


def pae(*parts: bytes, order: Any = "little") -> bytes:
    text = len(parts).to_bytes(8, order)
    for part in parts:
        text += len(part).to_bytes(8, order) + part
    return text


def total(size: int) -> int:
    """The size of what is sealed, where signature, length and inner message have *size* bytes."""
    step = next(256 << i for i in range(40) if size <= 8 * (256 << i))
    return (size + step - 1) // step * step


def half_hash(key: bytes) -> str:
    return hashlib.sha256(key).digest()[:16].hex()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def signature_of(data: bytes, signer: str = "alice") -> bytes:
    _, secret = bindings.crypto_sign_seed_keypair(SEEDS[signer])
    return bindings.crypto_sign(data, secret)[:64]


def bound(inner: bytes, signer: str = "alice", box: str = "bob") -> bytes:
    """The signature under a sealed message."""
    return signature_of(pae(b"mailbox.v1.sealed", BOXES[box], inner), signer)


def framed(signature: bytes, inner: bytes) -> bytes:
    text = signature + len(inner).to_bytes(4, "little") + inner
    return text + bytes(total(len(text)) - len(text))


def boxed(plain: bytes, box: str = "bob") -> bytes:
    """crypto_box_seal() with an ephemeral key that is known beforehand."""
    public = bindings.crypto_scalarmult_base(EPHEMERAL)
    nonce = hashlib.blake2b(public + BOXES[box], digest_size=24).digest()
    return public + bindings.crypto_box(plain, nonce, BOXES[box], EPHEMERAL)


def boxed_for_all(plain: bytes, ephemeral: bytes) -> bytes:
    """The same with an ephemeral key of low order: whoever knows the format knows the key."""
    nonce = hashlib.blake2b(ephemeral + BOXES["bob"], digest_size=24).digest()
    return ephemeral + bindings.crypto_secretbox(plain, nonce, hsalsa20_of_nothing())


def hsalsa20_of_nothing() -> bytes:
    """HSalsa20 of the key 0 and the input 0."""
    constants = [int.from_bytes(b"expand 32-byte k"[i : i + 4], "little") for i in range(0, 16, 4)]
    x = [0] * 16
    x[0], x[5], x[10], x[15] = constants

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for target, one, two, by in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
            summed = (x[one] + x[two]) & 0xFFFFFFFF
            x[target] ^= (summed << by | summed >> (32 - by)) & 0xFFFFFFFF

    for _ in range(10):
        for i in range(4):
            quarter(*((5 * i + 4 * k) % 16 for k in range(4)))
        for i in range(4):
            quarter(*(4 * i + (i + k) % 4 for k in range(4)))
    return b"".join(x[i].to_bytes(4, "little") for i in (0, 5, 10, 15, 6, 7, 8, 9))


def line(members: Any) -> bytes:
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def changed(members: Members, changes: Mapping[str, Any]) -> Members:
    both = {**members, **changes}
    return {name: value for name, value in both.items() if value is not GONE}


def message(body: Any = "hi", **changes: Any) -> bytes:
    """An inner message, or one to be signed; `from_` stands for `from`."""
    changes = {name.rstrip("_"): value for name, value in changes.items()}
    return line(changed({**HINTS, "body": body}, changes))


def outer(
    content: bytes | str, hints: Mapping[str, Any] = {}, /, box: str = "bob", signer: str = "alice", **sealed: Any
) -> bytes:
    """The file; *hints* and *sealed* change what stands in it."""
    text = content if isinstance(content, str) else b64(content)
    inside = {"alg": "mbx1", "kid": half_hash(BOXES[box]), "skid": half_hash(IDENTITIES[signer]), "data": text}
    return line(changed({**HINTS, "sealed": changed(inside, sealed)}, hints))


def letter(inner: bytes, hints: Mapping[str, Any] = {}, /, **sealed: Any) -> bytes:
    """*inner* as it should be sealed for bob by alice."""
    return outer(boxed(framed(bound(inner), inner)), hints, **sealed)


def signed(before: bytes, signature: bytes | None = None, skid: str | None = None) -> bytes:
    """What is signed, *before* being all of a message but its last brace."""
    made = signature_of(pae(b"mailbox.v1.signed", before)) if signature is None else signature
    return before + b',"sig":"mbs1:%s:%s"}\n' % ((skid or half_hash(IDENTITIES["alice"])).encode(), b64(made).encode())


def start(**changes: Any) -> bytes:
    """A message without its last brace."""
    return message(**changes)[:-2]


# Vectors


def to(who: str, *boxes: str, **pins: str) -> Members:
    """To whom a message comes, which secrets it has, and whose key it knows by which name."""
    return {"to": who, "boxes": list(boxes or (who,)), "pins": pins or {"alice": "alice", "carol": "carol"}}


BOB: Final = to("bob")


def good(about: str, file: bytes, inner: bytes, who: Members = BOB) -> Vector:
    return {"about": about, **who, **content(file), "members": json.loads(inner, parse_int=number)}


def bad(about: str, file: bytes, refused: str, who: Members = BOB) -> Vector:
    return {"about": about, **who, **content(file), "refused": refused}


def content(file: bytes) -> Members:
    try:
        text = file.decode()
        assert text.isprintable() or text[:-1].isprintable()
    except (UnicodeDecodeError, AssertionError):
        return {"base64": b64(file)}
    return {"text": text}


def number(digits: str) -> int | float:
    value = int(digits)
    return value if -(2**63) <= value < 2**64 else float(value)


def sized(size: int) -> bytes:
    """An inner message that makes *size* bytes with its signature and its length."""
    fill = size - 68 - len(message(""))
    return message("x" * fill)


REPLY: Final[Members] = {"thread": "t", "in_reply_to": "20261124T014529.000000000Z-aaaaaaaaaaaa", "hops": 3}
ALL: Final[Members] = {
    "type": "job",
    "subject": "s",
    "expires": "2027-01-01T00:00:00Z",
    "deliver_after": "2026-12-01T00:00:00+01:00",
    "idempotency_key": "k",
    "headers": {"traceparent": "00"},
    **REPLY,
}
WORDS: Final = "Grüße, 世界 🦊 مرحبا: \u202e and é"
DEEP: Final = b'{"v":1,"id":"%s","from":"alice","to":"bob","sent":"%s","body":%s1%s}\n'
FORGED_IN: Final = (ID.encode(), SENT.encode())


def deep(levels: int) -> bytes:
    """A message nested so deep."""
    return DEEP % (*FORGED_IN, b"[" * (levels - 1), b"]" * (levels - 1))


def with_body(text: bytes) -> bytes:
    """A message whose body is this text, JSON or not."""
    return message("BODY").replace(b'"BODY"', text)


OTHER_WRITERS: Final = {
    "members in another order": b'{"body":[1,2],"sent":"%s","to":"bob","from":"alice","id":"%s","v":1}\n'
    % (SENT.encode(), ID.encode()),
    "blanks and lines": json.dumps({**HINTS, "body": {"n": 1}}, indent=2).encode() + b"\r\n\t ",
    "escapes where none are needed": message("hi")
    .replace(b'"body"', b'"\\u0062od\\u0079"')
    .replace(b'"alice"', b'"\\u0061l\\u0069ce"'),
    "no newline at the end": message("hi")[:-1],
    "pairs of surrogates": with_body(b'"\\ud83e\\udD8A \\/"'),
}
"""The same, written in other ways."""

NOT_MAIL: Final = {
    "a member twice": message("hi").replace(b'"v":1,', b'"v":1,"v":1,'),
    "two bodies": message("hi").replace(b'"body"', b'"body":"ho","body"'),
    "two bodies, one escaped": message("hi").replace(b'"body"', b'"\\u0062ody":"ho","body"'),
    "a member twice in the body": with_body(b'{"a":1,"a":2}'),
    "a member twice deep in the body": with_body(b'[[{"b":[{"a":1,"a":1}]}]]'),
    "UTF-16": message("hi").decode().encode("utf-16-le"),
    "a byte order mark": b"\xef\xbb\xbf" + message("hi"),
    "NaN": with_body(b"NaN"),
    "Infinity": with_body(b"-Infinity"),
    "1e400": with_body(b"1e400"),
    "an integer that no double can hold": with_body(b"1" + b"0" * 400),
    "an array": b"[" + message("hi")[:-1] + b"]\n",
    "a string": b'"hi"\n',
    "null": b"null\n",
    "blanks": b"  \n",
    "nested 65 deep": deep(65),
    "half a surrogate pair": with_body(b'"\\ud800"'),
    "two halves in the wrong order": with_body(b'"\\udc00\\ud800"'),
    "not UTF-8": with_body(b'"\xff"'),
    "UTF-8 longer than needed": with_body(b'"\xc0\xaf"'),
    "a surrogate in UTF-8": with_body(b'"\xed\xa0\x80"'),
    "a zero byte after it": message("hi") + b"\0",
    "two objects": message("hi") * 2,
    "a comma too many": message("hi")[:-2] + b",}\n",
    "a comment": message("hi")[:-2] + b"/**/}\n",
    "a newline in a string": with_body(b'"a\nb"'),
    "a leading zero": with_body(b"01"),
    "a number that ends in a point": with_body(b"1."),
    "an unknown escape": with_body(b'"\\x41"'),
    "single quotes": with_body(b"'hi'"),
    "type is a number": message("hi", type=1),
    "hops is true": message("hi", hops=True),
    "hops above 1000": message("hi", hops=1001),
    "expires is no time": message("hi", expires="tomorrow"),
    "headers hold a number": message("hi", headers={"a": 1}),
}
"""What is no message, alone, sealed or signed."""

NO_IDS: Final = {
    "short": "1",
    "empty": "",
    "in upper case": ID[:-12] + ID[-12:].upper(),
    "with eleven digits": ID[:-1],
    "in the month 13": ID.replace("20261124", "20261324"),
    "with a field": ID + ",S=217",
    "with a newline": ID + "\n",
    "with Arabic digits": ID.replace("2026", "٢٠٢٦"),
}

NOT_ONE: Final[Members] = {
    "true": True,
    "1.0": 1.0,
    "2": 2,
    "0": 0,
    "the string 1": "1",
    "null": None,
    "1e400 or so": 10**30,
}


def sealed_vectors() -> Iterator[Vector]:
    yield from sealed_good()
    yield from forwarded()
    yield from signed_otherwise()
    yield from outer_changed()
    yield from inner_differs()
    yield from keys_wrong()
    yield from form_wrong()
    yield from base64_wrong()
    yield from cut_or_flipped()
    yield from framing_wrong()
    yield from inner_wrong()
    yield from weak_keys()


def sealed_good() -> Iterator[Vector]:
    for about, inner in {
        "minimal": message(None),
        "a body of false": message(False),
        "text of many scripts": message(WORDS),
        "all members": message({"n": 1}, **ALL),
        "a reply": message("thanks", **REPLY),
        "unknown members": message("hi", priority=3, x={"y": [None]}),
        "numbers of 64 bits": with_body(b"[-9223372036854775808,18446744073709551615]"),
        "numbers of more than 64 bits, and doubles": with_body(b"[18446744073709551616,1e300,-0.5,1E-7,1.0]"),
        "nested 64 deep": deep(64),
        "null is absent": message("hi", type=None),
        "what looks like a seal in the body": message({"sealed": {"alg": "mbx1"}, "sig": "mbs1"}),
    }.items():
        yield good(about, letter(inner), inner)
    for about, inner in OTHER_WRITERS.items():
        yield good(f"inside: {about}", letter(inner), inner)
    for size in (256, 257, 512, 513, 2047, 2048, 2049, 2560, 2561, 4096, 4097, 8192, 8193):
        yield good(f"{size} bytes before padding, {total(size)} after", letter(sized(size)), sized(size))
    inner = message("hi")
    file = outer(boxed(framed(bound(inner, box="bob, the second"), inner), "bob, the second"), box="bob, the second")
    yield good("two box keys, sealed to the second", file, inner, to("bob", "bob", "bob, the second"))
    yield good("two box keys, sealed to the first", letter(inner), inner, to("bob", "bob", "bob, the second"))
    document = json.loads(letter(inner))
    spread = json.dumps(dict(reversed(document.items())), indent=1).replace('"mbx1"', '"\\u006dbx1"').encode()
    yield good("outside: other order, blanks, escapes", spread + b"\n\n", inner)
    yield good("outside: no newline at the end", letter(inner)[:-1], inner)
    own = message("hi", to="alice")
    file = outer(boxed(framed(bound(own, box="alice"), own), "alice"), {"to": "alice"}, box="alice")
    yield good("to oneself", file, own, to("alice", alice="alice"))


def forwarded() -> Iterator[Vector]:
    """Who got a message hands it on as if it were meant for somebody else."""
    inner = message("you are fired", to="carol")
    handed = boxed(framed(bound(inner, box="carol"), inner))
    file = outer(handed, {"to": "carol"})
    yield bad("forwarded by its recipient, honestly addressed", file, "to")
    yield bad("forwarded by its recipient, addressed anew outside", outer(handed), "signature")
    inner = message("you are fired")
    handed = boxed(framed(bound(inner, box="mallory"), inner))
    yield bad("signed for another box key, and addressed to us", outer(handed), "signature")
    yield bad(
        "signed for our other box key", letter_for_other_key(inner), "signature", to("bob", "bob", "bob, the second")
    )
    yield bad("to another box, with its keys", letter(inner), "to", to("carol", "bob"))
    yield bad("to another box of the same keys", letter(message("hi", to="bob2"), {"to": "bob2"}), "to")
    yield bad("addressed to nobody", letter(message("hi", to=""), {"to": ""}), "to")


def letter_for_other_key(inner: bytes) -> bytes:
    return outer(boxed(framed(bound(inner, box="bob"), inner), "bob, the second"), box="bob, the second")


def signed_otherwise() -> Iterator[Vector]:
    inner, box = message("hi"), BOXES["bob"]
    kid = half_hash(box).encode()
    for about, data in {
        "in the context of signed mail": pae(b"mailbox.v1.signed", box, inner),
        "in the context of version 2": pae(b"mailbox.v2.sealed", box, inner),
        "in an empty context": pae(b"", box, inner),
        "without a context": pae(box, inner),
        "without the recipient": pae(b"mailbox.v1.sealed", inner),
        "with the recipient's kid for its key": pae(b"mailbox.v1.sealed", kid, inner),
        "with the recipient's name for its key": pae(b"mailbox.v1.sealed", b"bob", inner),
        "with the parts in another order": pae(b"mailbox.v1.sealed", inner, box),
        "with a fourth part": pae(b"mailbox.v1.sealed", box, inner, b""),
        "with lengths of the other order of bytes": pae(b"mailbox.v1.sealed", box, inner, order="big"),
        "without lengths": b"mailbox.v1.sealed" + box + inner,
        "over the inner message alone": inner,
        "over a digest": hashlib.sha512(pae(b"mailbox.v1.sealed", box, inner)).digest(),
        "over another inner message": pae(b"mailbox.v1.sealed", box, message("ho")),
        "over the inner message without its newline": pae(b"mailbox.v1.sealed", box, inner[:-1]),
        "over the inner message with its padding": pae(b"mailbox.v1.sealed", box, inner + bytes(32)),
    }.items():
        yield bad(f"signed {about}", outer(boxed(framed(signature_of(data), inner))), "signature")
    right = bound(inner)
    high = int.from_bytes(right[32:], "little")
    for about, signature in {
        "is all zeros": bytes(64),
        "has its halves exchanged": right[32:] + right[:32],
        "has a flipped bit in R": flipped(right, 0),
        "has a flipped bit in S": flipped(right, 32 * 8),
        "has an S that is not reduced: + L": right[:32] + little(high + L),
        "has an S that is not reduced: + 9 L": right[:32] + little(high + 9 * L),
        "is of another pinned agent": bound(inner, "carol"),
        "is of one whom nobody knows": bound(inner, "mallory"),
        "is the recipient's own": bound(inner, "bob"),
    }.items():
        yield bad(f"the signature {about}", outer(boxed(framed(signature, inner))), "signature")


def flipped(data: bytes, bit: int) -> bytes:
    byte, at = divmod(bit, 8)
    return data[:byte] + bytes([data[byte] ^ 1 << at]) + data[byte + 1 :]


def outer_changed() -> Iterator[Vector]:
    inner = message("hi")
    for member in HINTS:
        yield bad(f"outside: no {member}", letter(inner, {member: GONE}), "members")
    more: Members = {"body": None, "type": "job", "idempotency_key": "k", "sig": "mbs1", "thread": "t", "": 0, "V": 1}
    for member, value in more.items():
        yield bad(f'outside: a member "{member}"', letter(inner, {member: value}), "members")
    for about, value in NOT_ONE.items():
        kind = "version" if type(value) is int and value < 2**64 else "type"
        yield bad(f"outside: v is {about}", letter(inner, {"v": value}), kind)
    for member in ("id", "from", "to", "sent"):
        yield bad(f"outside: {member} is null", letter(inner, {member: None}), "type")
        yield bad(f"outside: {member} is a number", letter(inner, {member: 1}), "message")
    for member, first in {"v": b'"v":1', "from": b'"from":"alice"', "sealed": b'"sealed":{}'}.items():
        yield bad(f"outside: {member} twice", letter(inner).replace(b'{"v":1', b"{" + first + b',"v":1', 1), "message")
    yield bad("outside: a member twice in sealed", letter(inner).replace(b'"alg"', b'"kid":"","alg"'), "message")
    yield bad("outside: an escaped member twice", letter(inner).replace(b'"v":1', b'"\\u0076":1,"v":1'), "message")
    file = letter(inner)
    for about, data in {
        "empty": b"",
        "zero bytes": bytes(300),
        "UTF-16": file.decode().encode("utf-16-le"),
        "a byte order mark": b"\xef\xbb\xbf" + file,
        "an array": b"[" + file + b"]",
        "two objects": file + file,
        "a zero byte after it": file + b"\0",
        "cut off at the end": file[:-2],
        "cut off in the middle": file[:400],
        "half a surrogate pair": letter(inner, skid="\\ud800").replace(b"\\\\", b"\\"),
    }.items():
        yield bad(f"outside: {about}", data, "message")


def inner_differs() -> Iterator[Vector]:
    """Each of the hints, with what is signed."""
    inner = message("hi")
    later = ID.replace("20261124", "20261125")
    for about, hints in {
        "another id": {"id": later},
        "another sent": {"sent": "2026-11-24T01:45:30.123457Z"},
        "the same time, written otherwise": {"sent": "2026-11-24T01:45:30.123456+00:00"},
        "no time in sent": {"sent": ""},
    }.items():
        yield bad(f"outside: {about}", letter(inner, hints), "differs")
    twice = to("bob", alice="alice", carol="alice")
    yield bad("outside: from another whose key is the same", letter(inner, {"from": "carol"}), "differs", twice)
    inside: dict[str, Members] = {
        "another to": {"to": "carol"},
        "another from": {"from_": "carol"},
        "a to in upper case": {"to": "BOB"},
        "v is true": {"v": True},
        "v is 1.0": {"v": 1.0},
        "v is 2": {"v": 2},
        "no v": {"v": GONE},
        "no id": {"id": GONE},
        "no from": {"from_": GONE},
        "no to": {"to": GONE},
        "no sent": {"sent": GONE},
        "id is null": {"id": None},
        "to is null": {"to": None},
    }
    for about, changes in inside.items():
        yield bad(f"inside: {about}", letter(message("hi", **changes)), "differs")
    yield bad("inside: the string 1 for v", letter(message("hi", v="1")), "differs")
    for about, id in NO_IDS.items():
        yield bad(f"an id {about}, inside and outside", letter(message("hi", id=id), {"id": id}), "id")


def keys_wrong() -> Iterator[Vector]:
    inner = message("hi")
    plain = framed(bound(inner), inner)
    ours, hers = half_hash(BOXES["bob"]), half_hash(BOXES["carol"])
    for about, kid in {
        "of another": hers,
        "in upper case": ours.upper(),
        "too short": ours[:16],
        "too long": hashlib.sha256(BOXES["bob"]).hexdigest(),
        "empty": "",
        "of our identity": half_hash(IDENTITIES["bob"]),
        "of the key 0": half_hash(bytes(32)),
    }.items():
        yield bad(f"a kid {about}", letter(inner, kid=kid), "kid")
    yield bad("sealed to a key that was ours", letter(inner), "kid", to("bob", "bob, the second"))
    yield bad("no box key at all", letter(inner), "kid", {**BOB, "boxes": []})
    yield bad("our kid, sealed to another key", outer(boxed(plain, "carol")), "open")
    exchanged = outer(boxed(plain, "bob, the second"))
    yield bad("our kid, sealed to our other key", exchanged, "open", to("bob", "bob", "bob, the second"))
    theirs = half_hash(IDENTITIES["alice"])
    for about, skid in {
        "of another pinned agent": half_hash(IDENTITIES["carol"]),
        "of one whom nobody knows": half_hash(IDENTITIES["mallory"]),
        "of their box key": half_hash(BOXES["alice"]),
        "in upper case": theirs.upper(),
        "too short": theirs[:31],
        "empty": "",
    }.items():
        yield bad(f"a skid {about}", letter(inner, skid=skid), "skid")
    yield bad("from one who is not pinned", letter(inner), "pin", to("bob", carol="carol"))
    both = outer(boxed(framed(bound(inner, "carol"), inner)), signer="carol")
    yield bad("signed and named by another pinned agent", both, "skid")
    for about, name in {"all": "all", "no name": "", "upper case": "Alice", "a path": "../alice"}.items():
        file = letter(message("hi", from_=name), {"from": name})
        yield bad(f"from {about}", file, "pin", {**BOB, "pins": {"alice": "alice", name: "alice"}})


def form_wrong() -> Iterator[Vector]:
    inner = message("hi")
    for about, alg in {
        "unknown": "mbx2",
        "of signed mail": "mbs1",
        "in upper case": "MBX1",
        "empty": "",
        "with a blank": "mbx1 ",
        "none": "none",
    }.items():
        yield bad(f"an alg {about}", letter(inner, alg=alg), "alg")
    for member in ("alg", "kid", "skid", "data"):
        yield bad(f"sealed: no {member}", letter(inner, **{member: GONE}), "sealed")
        yield bad(f"sealed: {member} is null", letter(inner, **{member: None}), "sealed")
    yield bad("sealed: alg is a number", letter(inner, alg=1), "sealed")
    yield bad("sealed: data is an array", letter(inner, data=[]), "sealed")
    for member, value in {"epk": "", "to": "bob", "ALG": "mbx1"}.items():
        yield bad(f"sealed: a member {member}", letter(inner, **{member: value}), "sealed")
    other: Members = {"null": None, "a string": "mbx1", "an array": [], "true": True, "an empty object": {}}
    for about, value in other.items():
        yield bad(f"sealed is {about}", letter(inner, {"sealed": value}), "sealed")
    yield bad("no sealed", letter(inner, {"sealed": GONE}), "members")


def base64_wrong() -> Iterator[Vector]:
    inner = message("hi")
    data = boxed(framed(bound(inner), inner))
    text = b64(data)
    assert text.endswith("==")
    assert {"+", "/"} <= set(text)
    for about, wrong in {
        "a blank before it": " " + text,
        "a blank in it": text[:100] + " " + text[100:],
        "a blank after it": text + " ",
        "a newline in it": text[:76] + "\n" + text[76:],
        "a newline after it": text + "\n",
        "the alphabet for addresses": text.replace("+", "-").replace("/", "_"),
        "no padding": text.rstrip("="),
        "one = too few": text[:-1],
        "one = too many": text + "=",
        "= in the middle": text[:100] + "=" + text[100:],
        "four = more": text + "====",
        "stray bits": text[:-3] + after(text[-3]) + "==",
        "more after the padding": text + "AAAA",
        "one more character": text[:-2] + "A==",
        "a character of another alphabet": text[:100] + "ä" + text[101:],
        "digits of another alphabet": text[:100] + "٢" + text[101:],
        "a zero byte": text + "\0",
        "a percent sign": text.replace("+", "%2B"),
    }.items():
        yield bad(f"base64: {about}", outer(wrong), "base64")


def after(character: str) -> str:
    """The next one in base64: its last bits are those that padding leaves unused."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return alphabet[alphabet.index(character) + 1]


def cut_or_flipped() -> Iterator[Vector]:
    inner = message("hi")
    data = boxed(framed(bound(inner), inner))
    for size in (0, 1, 31, 32, 47, 48, 49, 63, 64, 67, 68, 256, len(data) - 1):
        yield bad(f"data: cut to {size} bytes of {len(data)}", outer(data[:size]), "open")
    yield bad("data: a byte more", outer(data + b"\0"), "open")
    yield bad("data: a byte less in front", outer(data[1:]), "open")
    yield bad("data: without the ephemeral key", outer(data[32:]), "open")
    yield bad("data: not sealed at all", outer(framed(bound(inner), inner)), "open")
    for about, bit in {
        "the first of the ephemeral key": 0,
        "the highest of the ephemeral key, which X25519 ignores": 255,
        "the first of the tag": 256,
        "the last of the tag": 383,
        "the first of the ciphertext": 384,
        "one of the ciphertext's length": 384 + 64 * 8,
        "one in the middle": 8 * 180,
        "the last": 8 * len(data) - 1,
    }.items():
        yield bad(f"data: a bit is flipped, {about}", outer(flipped(data, bit)), "open")


def framing_wrong() -> Iterator[Vector]:
    def sealing(about: str, plain: bytes) -> Vector:
        return bad(f"frame: {about}", outer(boxed(plain)), "frame")

    inner = message("hi")
    plain = framed(bound(inner), inner)
    size = 68 + len(inner)
    for cut in (0, 1, 63, 64, 67, 68, size - 1):
        yield sealing(f"only {cut} bytes", plain[:cut])
    yield sealing("not padded", plain[:size])
    yield sealing("padded by one byte too few", plain[:-1])
    yield sealing("padded by one byte too much", plain + b"\0")
    yield sealing("padded by a bucket too much", plain + bytes(256))
    yield sealing("the last byte of the padding is 1", plain[:-1] + b"\1")
    yield sealing("the first byte of the padding is 128", plain[:size] + b"\x80" + plain[size + 1 :])
    yield sealing("the padding is blanks", plain.replace(b"\0\0", b"  "))
    large = sized(2049)
    unpadded = framed(bound(large), large)[:2049]
    yield sealing("2049 bytes padded to the small bucket", unpadded + bytes(2304 - 2049))
    yield sealing("2049 bytes padded to a power of two", unpadded + bytes(4096 - 2049))
    full = sized(512)
    yield sealing("a full bucket, and a bucket of nothing", framed(bound(full), full) + bytes(256))
    for about, length in {
        "one more than there is": len(plain) - 67,
        "the largest": 2**32 - 1,
        "0, and a message after it": 0,
        "one too small": len(inner) - 1,
        "one too large": len(inner) + 1,
    }.items():
        yield sealing_length(f"frame: its length is {about}", plain, length, inner)
    swapped = plain[:64] + len(inner).to_bytes(4, "big") + plain[68:]
    yield sealing("its length is of the other order of bytes", swapped)


def sealing_length(about: str, plain: bytes, length: int, inner: bytes) -> Vector:
    """Where the padding still fits, what is wrong is the signature: a byte of padding became a byte of the message."""
    file = outer(boxed(plain[:64] + length.to_bytes(4, "little") + plain[68:]))
    return bad(about, file, "signature" if length == len(inner) + 1 else "frame")


def inner_wrong() -> Iterator[Vector]:
    yield bad("inside: empty", letter(b""), "message")
    for about, inner in NOT_MAIL.items():
        yield bad(f"inside: {about}", letter(inner), "message")
    plain = message("hi")
    yield bad("inside: no body", letter(line(HINTS)), "form")
    yield bad("inside: the flat form", letter(line({**HINTS, "msg": "hi"})), "form")
    yield bad("inside: sealed once more", letter(letter(plain)), "form")
    yield bad("inside: sealed, with a body", letter(message("hi", sealed={})), "form")
    yield bad("inside: sealed is null", letter(message("hi", sealed=None)), "form")
    yield bad("inside: signed as well", letter(signed(start())), "form")
    yield bad("inside: a sig", letter(message("hi", sig="")), "form")


def weak_keys() -> Iterator[Vector]:
    inner = message("hi")
    for about, point in LOW.items():
        file = outer(boxed_for_all(framed(bound(inner), inner), point))
        yield bad(f"the ephemeral key is {about}, so that everybody can read it", file, "open")
    for about, point in TORSION.items():
        yield bad(f"signed by nobody: the pinned key is a point of {about}", forged(point), "signature", weak(about))


def weak(about: str) -> Members:
    return to("bob", alice=f"a point of {about}")


def forged(point: bytes) -> bytes:
    """A message with the signature R = 1, S = 0, which fits where the hash is a multiple of the point's order."""
    signature = little(1) + bytes(32)
    for inner in (message(i) for i in range(10_000)):
        signed_bytes = pae(b"mailbox.v1.sealed", BOXES["bob"], inner)
        if fits(signature, point, signed_bytes):
            return outer(boxed(framed(signature, inner)), skid=half_hash(point))
    raise AssertionError


def fits(signature: bytes, point: bytes, data: bytes) -> bool:
    return int.from_bytes(hashlib.sha512(signature[:32] + point + data).digest(), "little") % L % 8 == 0


def signed_vectors() -> Iterator[Vector]:
    yield from signed_good()
    yield from sig_wrong()
    yield from said_wrong()


def signed_good() -> Iterator[Vector]:
    for about, inner in {
        "minimal": message(None),
        "text of many scripts": message(WORDS),
        "all members": message({"n": 1}, **ALL),
        "a reply": message("thanks", **REPLY),
        "unknown members": message("hi", priority=3),
        "numbers": with_body(b"[-9223372036854775808,18446744073709551615,18446744073709551616,1.0,1E5]"),
        "what looks like a signature in the body": with_body(json.dumps(signed(start()).decode()).encode()),
        "a sig in the body": message({"sig": "mbs1"}),
        "four thousand bytes": message("y" * 4000),
        "nested 64 deep": deep(64),
    }.items():
        yield good(about, signed(inner[:-2]), inner)
    for about, inner in OTHER_WRITERS.items():
        if about != "no newline at the end":
            yield good(about, signed(inner.rstrip()[:-1]), inner)


def sig_wrong() -> Iterator[Vector]:
    file, skid = signed(start()), half_hash(IDENTITIES["alice"])
    tag = file[len(start()) :]
    front = b"{" + tag[1:-2] + b"," + start()[1:] + b"}\n"
    for about, data in {
        "no sig": message("hi"),
        "a blank before the sig": file.replace(b',"sig"', b', "sig"'),
        "a blank in the sig": file.replace(b'"sig":', b'"sig": '),
        "a blank before the last brace": file.replace(b'"}\n', b'" }\n'),
        "written by another program": json.dumps(json.loads(file)).encode() + b"\n",
        "a member after the sig": file[:-2] + b',"x":1}\n',
        "the sig comes first": front,
        "no newline": file[:-1],
        "two newlines": file + b"\n",
        "CR LF": file[:-1] + b"\r\n",
        "a zero byte after it": file + b"\0",
        "a second object after it": file + file.replace(b"mbs1", b"mbs2"),
        "sig is null": start() + b',"sig":null}\n',
        "sig is a number": start() + b',"sig":1}\n',
        "sig is an array": start() + b',"sig":["' + tag[8:-3] + b'"]}\n',
        "sig is empty": start() + b',"sig":""}\n',
        "the name of sig is escaped": file.replace(b'"sig"', b'"\\u0073ig"'),
        "the name of sig is in upper case": file.replace(b'"sig"', b'"Sig"'),
        "of another alg": file.replace(b"mbs1", b"mbs2"),
        "of the alg of sealed mail": file.replace(b"mbs1", b"mbx1"),
        "its alg is in upper case": file.replace(b"mbs1", b"MBS1"),
        "no alg": file.replace(b"mbs1:", b""),
        "no skid": file.replace(f"{skid}:".encode(), b""),
        "its skid is in upper case": file.replace(skid.encode(), skid.upper().encode()),
        "its skid is short": file.replace(skid.encode(), skid[:31].encode()),
        "a third colon": file.replace(b"mbs1:", b"mbs1::"),
        "the signature lacks a byte": signed(start(), signature_of(pae(b"mailbox.v1.signed", start()))[:63]),
        "the signature has a byte more": signed(start(), signature_of(pae(b"mailbox.v1.signed", start())) + b"\0"),
        "the signature is empty": signed(start(), b""),
        "base64 without padding": file.replace(b'=="}', b'"}'),
        "base64 with the alphabet for addresses": signed(start(id=plus())).replace(b"+", b"-").replace(b"/", b"_"),
        "a newline in base64": file[:-10] + b"\\n" + file[-10:],
        "empty": b"",
        "cut off before the newline's brace": file[:-3],
        "only the sig": b"{" + tag,
    }.items():
        yield bad(about, data, "type" if about == "only the sig" else "tail")
    stray = file[:-6] + after(chr(file[-6])).encode() + file[-5:]
    yield bad("stray bits in base64", stray, "base64")


def plus() -> str:
    """An id with which the signature has a + and a /."""
    ids = (f"{ID[:-4]}{i:04x}" for i in range(1 << 16))
    return next(id for id in ids if {"+", "/"} <= set(signed(start(id=id)).decode()[-92:]))


def said_wrong() -> Iterator[Vector]:
    file, before = signed(start()), start()
    double = file.replace(b"hi", b"ho")
    for about, data, refused in (
        ("another body", double, "signature"),
        ("another id", file.replace(b"123456789Z", b"123456788Z"), "signature"),
        ("another sent", file.replace(b"45:30.123456Z", b"45:31.123456Z"), "signature"),
        ("another to", file.replace(b'"bob"', b'"carol"'), "to"),
        ("another from", file.replace(b'"alice"', b'"carol"'), "skid"),
        ("a blank more", file.replace(b'"body":', b'"body": '), "signature"),
        ("a blank in front", b" " + file, "signature"),
        ("a member more before the sig", file.replace(b',"sig"', b',"type":"job","sig"'), "signature"),
        ("a member less", file.replace(f'"sent":"{SENT}",'.encode(), b""), "type"),
        (
            "two members exchanged",
            file.replace(b'"from":"alice","to":"bob"', b'"to":"bob","from":"alice"'),
            "signature",
        ),
        ("escaped otherwise", file.replace(b'"hi"', b'"\\u0068i"'), "signature"),
        ("a number written otherwise", signed(start(n=1.0)).replace(b"1.0", b"1.00"), "signature"),
        ("two sigs, the first is right", signed(file[:-2], signature_of(b"")), "signature"),
        ("two sigs, both are right", signed(file[:-2]), "form"),
    ):
        yield bad(about, data, refused)
    pinned = to("bob", alice="alice", carol="alice")
    yield bad("another from, whose key is the same", file.replace(b'"alice"', b'"carol"'), "signature", pinned)
    yield bad("redirected: it lies in another box", file, "to", to("carol"))
    yield bad("from one who is not pinned", file, "pin", to("bob", carol="carol"))
    right = signature_of(pae(b"mailbox.v1.signed", before))
    high = int.from_bytes(right[32:], "little")
    for about, signature in {
        "in the context of sealed mail": signature_of(pae(b"mailbox.v1.sealed", before)),
        "with the recipient's key": signature_of(pae(b"mailbox.v1.signed", BOXES["bob"], before)),
        "without a context": signature_of(pae(before)),
        "without lengths": signature_of(b"mailbox.v1.signed" + before),
        "over the bytes alone": signature_of(before),
        "over the bytes with the brace": signature_of(pae(b"mailbox.v1.signed", before + b"}")),
        "over the bytes with the comma": signature_of(pae(b"mailbox.v1.signed", before + b",")),
        "over the whole message": signature_of(pae(b"mailbox.v1.signed", message())),
        "over another message": signature_of(pae(b"mailbox.v1.signed", start(body="ho"))),
        "with another pinned key": signature_of(pae(b"mailbox.v1.signed", before), "carol"),
        "with a key that nobody knows": signature_of(pae(b"mailbox.v1.signed", before), "mallory"),
        "with zeros": bytes(64),
        "with a bit flipped in R": flipped(right, 3),
        "with a bit flipped in S": flipped(right, 500),
        "with an S that is not reduced: + L": right[:32] + little(high + L),
    }.items():
        yield bad(f"signed {about}", signed(before, signature), "signature")
    carol = signature_of(pae(b"mailbox.v1.signed", before), "carol")
    yield bad("signed and named by another pinned agent", signed(before, carol, half_hash(IDENTITIES["carol"])), "skid")
    yield bad("the skid of another", signed(before, skid=half_hash(IDENTITIES["carol"])), "skid")
    for about, inner in NOT_MAIL.items():
        # These end in a brace that the sig can stand before; the others have no end of that kind.
        if inner.endswith(b"}\n") and about not in ("two objects", "a comma too many", "a comment"):
            yield bad(about, signed(inner[:-2]), "message")
    yield bad("UTF-16 before the sig", signed(start().decode().encode("utf-16-le")), "message")
    missing: dict[str, Members] = {
        "no v": {"v": GONE},
        "v is true": {"v": True},
        "v is 1.0": {"v": 1.0},
        "v is the string 1": {"v": "1"},
        "no id": {"id": GONE},
        "no from": {"from_": GONE},
        "from is null": {"from_": None},
        "no to": {"to": GONE},
        "to is null": {"to": None},
        "no sent": {"sent": GONE},
    }
    for about, changes in missing.items():
        yield bad(about, signed(start(**changes)), "type")
    yield bad("v is 2", signed(start(v=2)), "version")
    yield bad("v is 0", signed(start(v=0)), "version")
    for about, id in NO_IDS.items():
        yield bad(f"an id {about}", signed(start(id=id)), "id")
    yield bad("no body", signed(line(HINTS)[:-2]), "form")
    yield bad("the flat form", signed(line({**HINTS, "msg": "hi"})[:-2]), "form")
    yield bad("a sealed beside it", signed(start(sealed="mbx1")), "form")
    yield bad("a sealed message that is signed", signed(letter(message("hi"))[:-2]), "form")
    for about in ("order 1", "order 8", "order 1, not reduced", "order 2, minus zero"):
        point = TORSION[about]
        signature = little(1) + bytes(32)
        bytes_ = next(b for b in map(counted, range(10_000)) if fits(signature, point, pae(b"mailbox.v1.signed", b)))
        file = signed(bytes_, signature, half_hash(point))
        yield bad(f"signed by nobody: the pinned key is a point of {about}", file, "signature", weak(about))


def counted(number: int) -> bytes:
    return start(body=number)


def points() -> dict[str, list[Vector]]:
    """Which public keys may be pinned at all."""
    mixed = bindings.crypto_core_ed25519_add(IDENTITIES["alice"], TORSION["order 8"])
    unreduced = [little(P + 2), little((P + 9) | 1 << 255)]
    identities = [
        *(point(f"of {name}", key, True) for name, key in IDENTITIES.items()),
        *(point(f"a point of {about}", key, False) for about, key in TORSION.items()),
        point("an honest one with a point of order 8 added", mixed, False),
        point("not on the curve", little(2), False),
        point("the largest number", b"\xff" * 32, False),
        point("too short", IDENTITIES["alice"][:31], False),
        point("too long", IDENTITIES["alice"] + b"\0", False),
        point("empty", b"", False),
    ]
    boxes = [
        *(point(f"of {name}", key, True) for name, key in BOXES.items()),
        *(point(about, key, False) for about, key in LOW.items()),
        point("not reduced, but of high order", unreduced[0], True),
        point("not reduced, with the highest bit", unreduced[1], True),
        point("too short", BOXES["bob"][:31], False),
        point("too long", BOXES["bob"] + b"\0", False),
        point("empty", b"", False),
    ]
    return {"identities": identities, "boxes": boxes}


def point(about: str, key: bytes, ok: bool) -> Vector:
    return {"about": about, "key": b64(key), "ok": ok}


def keys() -> Members:
    identities = {
        name: {"seed": b64(SEEDS[name]), "public": b64(key), "skid": half_hash(key)} for name, key in IDENTITIES.items()
    }
    weak_ones = {f"a point of {about}": {"public": b64(p), "skid": half_hash(p)} for about, p in TORSION.items()}
    boxes = {
        name: {"secret": b64(secret), "public": b64(BOXES[name]), "kid": half_hash(BOXES[name])}
        for name, secret in SECRETS.items()
    }
    return {"identities": {**identities, **weak_ones}, "boxes": boxes}


REFUSED: Final = (
    "`refused` is the first check that fails: message (the file, or what is inside, is no message as a strict reader "
    "has it), members (those of the file), sealed (its members and their types), alg, type (of v, id, from, to, sent), "
    "version, id, to, kid, base64, open, frame (length and padding), pin (no key of that sender), skid, signature, "
    "differs (outside and inside), form (no body, or a seal or signature inside), tail (no sig at the end). "
    "Which word a client says is its own affair; that it refuses is not. "
)
WHO: Final = (
    "`to` is the box in which the file lies, `boxes` are its secret keys, `pins` are the identities that it knows, by "
    "sender: names of `keys`, which are in base64. "
)


def written(about: str, rest: Mapping[str, Any], part: str, vectors: list[Vector]) -> str:
    """The file: one line for each vector."""
    names = [vector["about"] for vector in vectors]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    parts = [f'  "about": {text(about)}']
    for name, value in rest.items():
        if isinstance(value, list):
            parts.append(f'  "{name}": [\n' + ",\n".join(f"    {text(each)}" for each in value) + "\n  ]")
        else:
            rows = [
                f'    "{kind}": {{\n' + ",\n".join(f"      {text(n)}: {text(v)}" for n, v in each.items()) + "\n    }"
                for kind, each in value.items()
            ]
            parts.append(f'  "{name}": {{\n' + ",\n".join(rows) + "\n  }")
    parts.append(f'  "{part}": [\n' + ",\n".join(f"    {text(vector)}" for vector in vectors) + "\n  ]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def text(value: Any) -> str:
    return json.dumps(value)


def files() -> dict[str, str]:
    sealed_about = "Sealed files, and the `members` of what is inside, or `refused`. " + WHO + REFUSED
    points_about = "`identities` and `boxes` are public keys that may be pinned, or may not."
    signed_about = "Signed files, and their `members` without the sig, or `refused`. " + WHO + REFUSED
    return {
        "sealed.json": written(
            sealed_about + points_about, {"keys": keys(), **points()}, "sealed", list(sealed_vectors())
        ),
        "signed.json": written(signed_about.strip(), {"keys": keys()}, "signed", list(signed_vectors())),
    }


def main(folder: Path) -> None:
    for name, content in files().items():
        (folder / name).write_text(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "vectors")
