"""Random input for all that reads what strangers can write. `scripts/prove fuzz` tries many more examples."""

import base64
import contextlib
import json
import os
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from filemailbox import InvalidRequestError, Mailbox, Message, NotMailError, UnverifiedSenderError
from filemailbox.cli.run import main
from filemailbox.format.address import is_address, parse_address
from filemailbox.format.envelope import decode, encode
from filemailbox.format.filename import (
    Filename,
    is_id,
    lease_deadline,
    parse_filename,
    split_timed,
    stem_of,
    timed_filename,
)
from filemailbox.format.order import Order, is_mail
from filemailbox.format.timestamp import to_nanoseconds, to_timestamp
from filemailbox.settings import MAX_SIZE
from filemailbox.system.files import READ, read
from filemailbox.trust import seal

pytestmark = pytest.mark.usefixtures("quiet")
EXAMPLES = int(os.environ.get("FILEMAILBOX_EXAMPLES", "100"))
fuzzed = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None, database=None)

ID = "20261124T014530.123456789Z-3f9c0a12b4d5"
OUTER = {"v": 1, "id": ID, "from": "alice", "to": "bob", "sent": "2026-11-24T01:45:30.123456Z"}
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner))
KNOWN = "id from to sent type subject thread in_reply_to expires deliver_after key hops headers body v sealed sig x"
members = st.dictionaries(st.sampled_from(KNOWN.split()), trees)
# Near to what is right: pieces of names, put together by chance.
pieces = st.sampled_from(
    [
        *(ID, ID[:26], "Z-", ",S=", ",A=", ",N=", ",R=", ",F=", ",U=", ",", "~", ".json", ".", "..", "/", "\0", "\n"),
        *("é", "a" * 200, "-", "=", "0" * 20, "٣", "9999", "all", " ", "17"),
    ]
)
nearly_names = st.lists(pieces | st.text(max_size=3), max_size=8).map("".join)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's columns and colours take part."""
    monkeypatch.setenv("NO_COLOR", "1")


@fuzzed
@given(nearly_names)
def test_a_name_is_ours_or_not_and_says_the_same_again(text: str) -> None:
    """What is parsed is written as a name that is parsed to the same; nothing else is raised."""
    name = parse_filename(text)
    if name is not None:
        assert is_id(name.id)
        assert parse_filename(str(name)) == name
        assert is_mail(str(name))
    timed = split_timed(text)
    if timed is not None:
        assert timed_filename(*timed) == text
        assert to_timestamp(to_nanoseconds(timed[0])) == timed[0] or not _is_date(timed[0])
    lease_deadline(text)
    assert len(os.fsencode(str(Filename(ID, 1, stem=stem_of(text))))) <= 255


def _is_date(stamp: str) -> bool:
    return to_nanoseconds(stamp) >= 0 and int(stamp[6:8]) <= 28


@fuzzed
@given(st.text(st.sampled_from(string.ascii_lowercase + string.digits + "._-/ \0\né"), max_size=70))
def test_an_address_is_a_name_of_one_folder(text: str) -> None:
    """Or it is refused; is_address() and address() are of one mind."""
    if is_address(text):
        assert parse_address(text) == text
        assert os.path.basename(text) == text not in (".", "..")
        assert not text.startswith(".")
    else:
        with pytest.raises(InvalidRequestError):
            parse_address(text)


@fuzzed
@given(st.lists(st.lists(nearly_names, max_size=6), max_size=4), st.data())
def test_each_listed_message_is_taken_or_held_back_once(listings: list[list[str]], data: st.DataObject) -> None:
    """Never twice from one listing; what is held back is there the next time, if it is listed again."""
    order = Order()
    for each in listings:
        listed = sorted(set(each))
        clock = data.draw(st.sampled_from(["20200101T000000.000000000Z", "20991231T000000.000000000Z"]))
        times = dict.fromkeys(listed, clock)
        ready, held = order.select(listed, clock, times.get)
        assert len(ready) == len(set(ready))
        assert set(ready) <= set(listed)
        again, held_again = order.select(listed, clock, times.get)
        assert set(again) >= set(ready)
        assert not held_again
        assert held or set(again) == set(ready)


@fuzzed
@given(st.binary(max_size=300) | trees.map(lambda tree: json.dumps(tree).encode(errors="surrogatepass")))
def test_bytes_are_a_message_or_malformed(data: bytes) -> None:
    """Nothing else is raised, and what is a message has only members of the right types."""
    try:
        found = decode(data)
    except NotMailError:
        return
    message: Message[Any] = Message(ID, found, data, f"{ID}.json")
    for each in (message.sender, message.type, message.subject, message.thread, message.idempotency_key):
        assert each is None or isinstance(each, str)
    assert (message.sent, message.hops, message.headers, message.expires, message.reply_id) is not None


@fuzzed
@given(members)
def test_an_envelope_of_any_members_is_read_or_refused(document: dict[str, Any]) -> None:
    """Also where they have the names that we know and values that we do not expect."""
    with contextlib.suppress(NotMailError):
        decode(json.dumps(document).encode(errors="surrogatepass"))


@fuzzed
@given(trees, st.text(max_size=30), st.dictionaries(st.text(max_size=8), st.text(max_size=8)))
def test_what_is_encoded_is_decoded_to_the_same(body: Any, subject: str, headers: dict[str, str]) -> None:
    """Or it is refused before it is sent: what we write we can read."""
    try:
        data = encode(ID, "alice", parse_address("bob"), body, {"subject": subject, "headers": headers})
    except InvalidRequestError:
        return
    found = decode(data)

    assert data.count(b"\n") == 1
    assert found["body"] == json.loads(json.dumps(body))
    assert found.get("subject", "") == subject


@fuzzed
@given(st.binary(max_size=5000), st.integers(0, 6000))
def test_a_file_is_never_read_further_than_one_byte_more(data: bytes, size: int) -> None:
    """So growth is noticed, and cannot flood us."""
    file = os.memfd_create("fuzz")
    try:
        os.write(file, data)
        os.lseek(file, 0, os.SEEK_SET)
        got = read(file, size)
    finally:
        os.close(file)

    assert got == data[: len(got)]
    assert min(size, len(data)) <= len(got) <= size + 1


# Sealed and signed

SEED = bytes(range(32))
SECRET = seal.public_encryption_key(bytes(range(1, 33)))
BOX = seal.EncryptionKeyPair(SECRET, bytes(range(1, 33)))
IDENTITY, SIGN = seal.signer(SEED)
BOXES = {seal.kid(BOX.public): BOX}


def identity(name: str) -> bytes | None:
    return IDENTITY if name == "alice" else None


def inner(body: Any = "secret") -> bytes:
    return encode(ID, "alice", parse_address("bob"), body, {}, 1)


SEALED = seal.seal(inner(), OUTER, IDENTITY, SIGN, BOX.public)
SIGNED = seal.signed(inner(), IDENTITY, SIGN)


@fuzzed
@given(st.data())
def test_sealed_mail_of_which_anything_was_changed_is_refused_or_says_the_same(data: st.DataObject) -> None:
    """A byte changed, cut out or put in, anywhere: what was sealed comes out as it went in, or nothing does."""
    changed = _changed(data, SEALED)
    try:
        opened, _ = seal.unseal(changed, "bob", BOXES, identity)
    except NotMailError:
        return
    assert opened == inner()
    assert json.loads(changed) == json.loads(SEALED)  # nothing but blanks between the members of the outside


@fuzzed
@given(st.data())
def test_signed_mail_of_which_anything_was_changed_is_refused(data: st.DataObject) -> None:
    """The same for a signature over what all can read."""
    changed = _changed(data, SIGNED)
    assume(changed != SIGNED)
    with pytest.raises(NotMailError):
        seal.verified(changed, "bob", identity)


def _changed(data: st.DataObject, good: bytes) -> bytes:
    at, end = sorted(data.draw(st.tuples(st.integers(0, len(good)), st.integers(0, len(good)))))
    how = data.draw(st.sampled_from(["flip", "cut", "put in", "twice", "cut off"]))
    if how == "flip" and at < len(good):
        return good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    if how == "cut":
        return good[:at] + good[end:]
    if how == "twice":
        return good[:end] + good[at:end] + good[end:]
    if how == "cut off":
        return good[:at]
    return good[:at] + data.draw(st.binary(min_size=1, max_size=8)) + good[at:]


@fuzzed
@given(trees, st.dictionaries(st.sampled_from(["alg", "kid", "skid", "data", "more"]), trees))
def test_an_outer_shape_that_is_not_ours_is_refused(value: Any, sealed: dict[str, Any]) -> None:
    """Whatever stands where the sealed part should be."""
    for part in (value, sealed, {**json.loads(SEALED)["sealed"], **sealed}):
        document = {**OUTER, "sealed": part}
        text = json.dumps(document).encode(errors="surrogatepass")
        if part != json.loads(SEALED)["sealed"]:
            with pytest.raises(NotMailError):
                seal.unseal(text, "bob", BOXES, identity)


@fuzzed
@given(st.binary(max_size=400))
def test_any_bytes_sealed_to_us_by_a_stranger_are_refused(plain: bytes) -> None:
    """Anybody can seal: without the signature of a pinned sender it is nothing."""
    from nacl import bindings

    data = base64.b64encode(bindings.crypto_box_seal(plain, BOX.public)).decode()
    part = {"alg": "mbx1", "kid": seal.kid(BOX.public), "skid": seal.kid(IDENTITY), "data": data}
    text = json.dumps({**OUTER, "sealed": part}, separators=(",", ":")).encode() + b"\n"
    with pytest.raises(UnverifiedSenderError):
        seal.unseal(text, "bob", BOXES, identity)


# The box, and the command

files = st.tuples(nearly_names, st.binary(max_size=60) | members.map(lambda each: json.dumps(each).encode()))


@settings(fuzzed, max_examples=max(10, EXAMPLES // 10))
@given(st.lists(files, max_size=4))
def test_whatever_lies_in_new_good_mail_comes(
    tmp_path_factory: pytest.TempPathFactory, planted: list[tuple[str, bytes]]
) -> None:
    """No name and no content stops the mail behind it, or is raised out of receive()."""
    root = tmp_path_factory.mktemp("mail") / "mail"
    with Mailbox.init("bob", root, durable=False) as bob:
        for name, content in planted:
            with contextlib.suppress(OSError, ValueError):
                (root / "bob/new" / (name if name.endswith(".json") else name + ".json")).write_bytes(content)
        bob.send("bob", {"good": True})
        bodies = []
        while (message := bob.receive()) is not None:
            bodies.append(message.body)
            message.ack()
        list(bob.peek("new", "later", "cur", "dead"))

    assert {"good": True} in bodies


VERBS = "send list read receive ack retry reject dead show status agents doctor gc bob alice"
OPTIONS = (
    "--json --json-body --body --as --root -n 0 -1 1e9 --wait 0s "
    "--ttl 5m -- --type --idempotency-key -H a=b = --delay --seal --help -"
)
words = st.sampled_from([*VERBS.split(), *OPTIONS.split(), "\udcff", "\0", "é", ""])


@settings(fuzzed, max_examples=max(10, EXAMPLES // 5))
@given(line=st.lists(words | st.text(max_size=5), max_size=6), stdin=st.binary(max_size=30))
def test_a_command_line_of_any_words_ends_with_an_exit_code(
    root: Path, mailbox: Callable[..., Any], line: list[str], stdin: bytes
) -> None:
    """Never with a traceback; and it says on stderr what is wrong where it fails, but for what only waits."""
    assume(not {"watch", "relay", "completion"} & set(line))
    said = mailbox(*line, stdin=stdin)

    assert said.code in (0, 1, 2, 4, 65, 67, 69, 74, 75, 77, 124)
    assert "Traceback" not in said.err
    assert said.err or said.code in (0, 1, 124)


def test_the_limits_that_are_tried_are_those_that_hold() -> None:
    """Else the fuzzing would be of nothing."""
    assert MAX_SIZE == 1 << 20
    assert READ & os.O_NOFOLLOW
    assert main is not None
    seal.unseal(SEALED, "bob", BOXES, identity)
    seal.verified(SIGNED, "bob", identity)
