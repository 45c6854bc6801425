"""seal.py: the vectors of sealed and signed mail, and what holds for any message."""

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nacl import bindings

from filemailbox import NotMailError, UnverifiedSenderError
from filemailbox.format import codec
from filemailbox.format.envelope import decode, encode
from filemailbox.trust import seal
from filemailbox.trust.seal import EncryptionKeyPair
from support import make_sealed_vectors
from support.paths import VECTORS

SEALED = json.loads((VECTORS / "sealed.json").read_text())
SIGNED = json.loads((VECTORS / "signed.json").read_text())

REASONS = {
    "message": "",  # Malformed, and not UnverifiedSenderError: messages.json has the reasons
    "members": "and no other$",
    "sealed": r'^(its|a field of its) "sealed" is not',
    "alg": "expected mbx1$",
    "type": r'^its "\w+" is missing or of another type',
    "version": "^its version is ",
    "id": "^its id is ",
    "to": '^it is for ".*", and this is the box ',
    "kid": "which this box does not have$",
    "base64": "base64",
    "open": "^it does not open",
    "frame": "shorter than its length field|not padded with zeros to its bucket",
    "pin": "^no key of .* is pinned",
    "skid": "^it is signed with another key than the one that is pinned",
    "signature": "^its signature is not that of",
    "differs": r'^its "\w+" is .* outside and .* inside$',
    "form": '^a proven message has a "body"',
    "tail": '^its last member is not "sig"',
}

ID = "20261124T014530.123456789Z-3f9c0a12b4d5"
HINTS = {"v": 1, "id": ID, "from": "alice", "to": "bob", "sent": "2026-11-24T01:45:30.123456Z"}
ALICE, SIGN = seal.signer(bytes(range(32)))
BOX = EncryptionKeyPair(seal.public_encryption_key(bytes(range(32, 64))), bytes(range(32, 64)))
BOXES = {seal.kid(BOX.public): BOX}

bodies = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda each: st.lists(each) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), each),
)


def raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def each(file: Any, part: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", [pytest.param(vector, id=vector["about"]) for vector in file[part]])


def content(vector: Any) -> bytes:
    return vector["text"].encode() if "text" in vector else raw(vector["base64"])


def exactly(value: Any) -> str:
    """For comparing: 1, 1.0 and true are not the same."""
    return json.dumps(value, sort_keys=True)


def pins(file: Any, vector: Any) -> Any:
    known = {name: raw(file["keys"]["identities"][key]["public"]) for name, key in vector["pins"].items()}
    return known.get


def boxes(file: Any, vector: Any) -> dict[str, EncryptionKeyPair]:
    keys = [file["keys"]["boxes"][name] for name in vector["boxes"]]
    return {key["kid"]: EncryptionKeyPair(raw(key["public"]), raw(key["secret"])) for key in keys}


def judged(vector: Any, outcome: Any) -> None:
    """*outcome*() is what the vector says."""
    if "refused" in vector:
        with pytest.raises(NotMailError) as caught:
            outcome()

        assert type(caught.value) is (NotMailError if vector["refused"] == "message" else UnverifiedSenderError)
        assert re.search(REASONS[vector["refused"]], caught.value.reason)
    else:
        assert exactly(outcome()) == exactly(vector["members"])


@each(SEALED, "sealed")
def test_a_sealed_file_opens_to_this_or_not_at_all(vector: Any) -> None:
    """sealed.json, `sealed`."""
    judged(
        vector,
        lambda: seal.unseal(content(vector), vector["to"], boxes(SEALED, vector), pins(SEALED, vector))[1],
    )


@each(SIGNED, "signed")
def test_a_signed_file_is_verified_as_this_or_not_at_all(vector: Any) -> None:
    """signed.json, `signed`."""
    judged(vector, lambda: seal.verified(content(vector), vector["to"], pins(SIGNED, vector)))


@each(SEALED, "identities")
def test_this_may_or_may_not_be_somebody_s_identity(vector: Any) -> None:
    """sealed.json, `identities`."""
    assert seal.is_signing_key(raw(vector["key"])) is vector["ok"]


@each(SEALED, "boxes")
def test_mail_may_or_may_not_be_sealed_to_this(vector: Any) -> None:
    """sealed.json, `boxes`: and where it may not, sealing itself refuses as well."""
    key = raw(vector["key"])

    assert seal.is_encryption_key(key) is vector["ok"]
    if not vector["ok"] and len(key) == seal.KEY:
        with pytest.raises(ValueError, match="not a key that mail can be sealed to"):
            seal.seal(b"{}", HINTS, ALICE, SIGN, key)


def test_the_vectors_are_what_their_maker_writes() -> None:
    """They are made without our own code, always the same, and most of them must fail."""
    written = make_sealed_vectors.files()
    vectors = [*SEALED["sealed"], *SIGNED["signed"]]
    refused = [vector for vector in vectors if "refused" in vector]

    assert written == {name: (VECTORS / name).read_text() for name in written}
    assert len(vectors) >= 130
    assert len(refused) >= 0.8 * len(vectors)
    assert {vector["refused"] for vector in refused} == set(REASONS)


def test_the_keys_of_the_vectors_are_called_by_their_hashes() -> None:
    """kid and skid."""
    for part, name in (("identities", "skid"), ("boxes", "kid")):
        for key in SEALED["keys"][part].values():
            assert seal.kid(raw(key["public"])) == key[name]


@given(bodies)
def test_what_is_sealed_opens_to_the_same_bytes(body: object) -> None:
    """Any body; and the file says outside only what it must."""
    inner = encode(ID, "alice", "bob", body, {}, 1)
    file = seal.seal(inner, HINTS, ALICE, SIGN, BOX.public)

    opened, members = seal.unseal(file, "bob", BOXES, {"alice": ALICE}.get)
    assert opened == inner
    assert exactly(members) == exactly(decode(inner))
    assert json.loads(file).keys() == {*HINTS, "sealed"}


@given(bodies)
def test_what_is_signed_is_verified_as_the_same_members(body: object) -> None:
    """Any body; and every reader of JSON reads it."""
    line = encode(ID, "alice", "bob", body, {}, 1)
    file = seal.signed(line, ALICE, SIGN)

    assert exactly(seal.verified(file, "bob", {"alice": ALICE}.get)) == exactly(decode(line))
    assert list(json.loads(file)) == [*json.loads(line), "sig"]


def test_sealing_twice_gives_two_files() -> None:
    """Nobody sees that the same was said again."""
    inner = encode(ID, "alice", "bob", "hi", {}, 1)
    first, again = (json.loads(seal.seal(inner, HINTS, ALICE, SIGN, BOX.public)) for _ in range(2))

    assert first["sealed"]["data"] != again["sealed"]["data"]


# A file of each kind, sealed anew for each run: the ephemeral key differs.
INNER = encode(ID, "alice", "bob", {"n": 1}, {"type": "job"}, 1)
FILES = {
    "sealed": seal.seal(INNER, HINTS, ALICE, SIGN, BOX.public),
    "signed": seal.signed(INNER, ALICE, SIGN),
}


def read(kind: str, file: bytes) -> dict[str, Any] | None:
    """The members, or None where it is refused; anything else that is raised is a fault."""
    try:
        if kind == "sealed":
            return seal.unseal(file, "bob", BOXES, {"alice": ALICE}.get)[1]
        return seal.verified(file, "bob", {"alice": ALICE}.get)
    except NotMailError:
        return None


@pytest.mark.parametrize("kind", FILES)
def test_a_flipped_bit_is_seen(kind: str) -> None:
    """Every single one of the file: it is refused, or still says the same, as where T in base64 … is not."""
    file = FILES[kind]
    right = exactly(read(kind, file))
    taken = []
    for at in range(len(file)):
        for bit in range(8):
            members = read(kind, file[:at] + bytes([file[at] ^ 1 << bit]) + file[at + 1 :])
            if members is not None:
                assert exactly(members) == right
                taken.append((at, bit))

    # What may change is the newline at the end of a sealed file, which is not signed: into a blank or another one.
    assert {at for at, _ in taken} <= ({len(file) - 1} if kind == "sealed" else set())


@given(st.sampled_from(sorted(FILES)), st.data())
@settings(max_examples=300)
def test_what_was_changed_anywhere_is_refused_or_says_the_same(kind: str, data: st.DataObject) -> None:
    """A span of the file replaced by other bytes, cut out, or doubled."""
    file = FILES[kind]
    start = data.draw(st.integers(0, len(file)))
    end = data.draw(st.integers(start, min(len(file), start + 40)))
    put = data.draw(
        st.binary(max_size=40) | st.just(file[start:end] * 2) | st.sampled_from([b"", b" ", b"\n", b"\\u0061"])
    )

    members = read(kind, file[:start] + put + file[end:])
    assert members is None or exactly(members) == exactly(decode(INNER))


@given(st.integers(2, 1 << 20))
@example(2048 - 68)
@example(2049 - 68)
@example((1 << 20) - 68)
def test_the_padding_hides_the_length_and_costs_little(size: int) -> None:
    """A multiple of the bucket: fewer than 256 bytes more, or, for what has more than 2 KiB, less than a quarter."""
    bucket = 256
    while 8 * bucket < 68 + size:
        bucket *= 2
    public = seal.public_encryption_key(b"\x01" * 32)
    data = json.loads(seal.seal(b"x" * size, HINTS, ALICE, SIGN, public))["sealed"]["data"]
    total = len(raw(data)) - bindings.crypto_box_SEALBYTES

    assert total % bucket == 0
    assert 0 <= total - (68 + size) < bucket
    assert total < (68 + size) + max(256, (68 + size) / 4)


@given(st.binary(max_size=200))
def test_bytes_that_were_never_sealed_do_not_open(data: bytes) -> None:
    """And nothing but what says so is raised."""
    assert read("sealed", data) is None
    assert read("signed", data) is None


@pytest.mark.parametrize(
    ("text", "double"),
    [
        pytest.param(b'{"a":1,"a":1}', "a", id="the-same-twice"),
        pytest.param(b'{"a":1,"b":{"c":[{"d":1,"d":2}]}}', "d", id="deep"),
        pytest.param(b'{"a":1,"\\u0061":1}', "a", id="escaped"),
        pytest.param('{"ä":1,"\\u00e4":1}'.encode(), "\\\\xe4", id="other-letters"),
        pytest.param(b'{"":1,"":2}', "", id="empty"),
        pytest.param(b'{"n":1' + b"0" * 30 + b',"n":2}', "n", id="a-number-of-many-digits"),
    ],
)
def test_two_members_of_one_name_are_refused(text: bytes, double: str) -> None:
    """Readers differ in which of them counts, so that two would read two messages under one signature."""
    with pytest.raises(NotMailError, match=f'^two members of one object are called "{double}"'):
        seal.decode_strict(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b'{"a":1,"b":[{"a":1},{"a":2}]}', id="in-different-objects"),
        pytest.param(b'{"a" : 1.50 ,\n"A": 2}', id="written-otherwise"),
        pytest.param(b'{"a":"\\u0061","b":"\\u200b"}\r\n', id="escapes"),
        pytest.param(b'{"a":18446744073709551616,"b":1' + b"0" * 300 + b"}", id="numbers"),
        pytest.param('{"a":"\u200b"}'.encode(), id="invisible"),
    ],
)
def test_what_has_no_doubles_is_read(text: bytes) -> None:
    """However it was written."""
    assert exactly(seal.decode_strict(text)) == exactly(codec.loads(text))


def test_a_key_is_no_signature_and_the_other_way_round() -> None:
    """Wrong lengths are no error of ours: they are not the signature."""
    signature = SIGN(b"data")

    assert seal.verify(ALICE, b"data", signature)
    assert not seal.verify(ALICE, b"data", signature[:63])
    assert not seal.verify(ALICE, b"data", signature + b"d")
    assert not seal.verify(ALICE, b"ata", signature + b"d")
    assert not seal.verify(ALICE[:31], b"data", signature)
    assert not seal.verify(ALICE, b"data", b"")
    assert not seal.verify(b"", b"data", signature)


def test_the_public_keys_of_others_are_never_taken_from_the_message() -> None:
    """Only the pins are asked, and only for the sender that it names; not at all where it does not open."""
    asked: list[str] = []

    def identity(name: str) -> bytes | None:
        asked.append(name)
        return None

    with pytest.raises(UnverifiedSenderError, match="no key of"):
        seal.unseal(FILES["sealed"], "bob", BOXES, identity)
    with pytest.raises(UnverifiedSenderError, match="which this box does not have"):
        seal.unseal(FILES["sealed"], "bob", {}, identity)

    assert asked == ["alice"]
