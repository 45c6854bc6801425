"""The envelope and Message: encode, strict decode; a handle that settles once."""

import dataclasses
import enum
import json
import unicodedata
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from filemailbox import InvalidBodyError, InvalidRequestError, Message, NotMailError
from filemailbox.format.envelope import MAX_DEPTH, MAX_HOPS, decode, encode
from filemailbox.format.times import datetime_ns, format_time, parse_time, resolve_time
from filemailbox.store.ids import new_id

ID = "20261124T014530.123456789Z-3f9c0a12b4d5"

text = st.text(st.characters(exclude_categories=["Cs"]))
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(plain | text, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=20)


def written(body: Any = None, **members: Any) -> bytes:
    return encode(ID, "alice", "bob", body, members)


def read(data: bytes) -> tuple[dict[str, Any], str]:
    """The members of a message, or why it is none."""
    try:
        return decode(data), ""
    except NotMailError as error:
        return {}, error.reason


def nested(levels: int) -> Any:
    body: Any = []
    for _ in range(levels - 1):
        body = [body]
    return body


# Writing


@given(json_values)
def test_a_body_that_was_written_is_read_as_it_was(body: Any) -> None:
    """encode() and decode() are a pair, for any JSON."""
    data = written(body)
    members = decode(data)

    assert members == {"id": ID, "from": "alice", "to": "bob", "sent": "2026-11-24T01:45:30.123456Z", "body": body}
    assert json.loads(data)["body"] == body


@given(json_values)
@example("\x1b[2J\r\n\x7f\x9b2J\u202e\u2066\u200b\ufeff\U000e0041\u2028")
def test_a_message_is_one_line_that_is_safe_to_cat(body: Any) -> None:
    """No control character and no sign that hides or turns text reaches a terminal: escapes are as good in JSON."""
    shown = written(body).decode()
    harmful = [
        c for c in shown[:-1] if unicodedata.category(c) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(c) in BIDI
    ]

    assert harmful == []
    assert shown.endswith("}\n")


BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@pytest.mark.parametrize(
    "sign",
    [*map(chr, range(0x20)), *"\x7f\x85\x9b\xad\u061c\u200b\u200f\u2028\u202e\u2066\ufeff\ufffb\U000e0001\U000e007f"],
    ids=lambda sign: f"U+{ord(sign):04X}",
)
def test_what_a_terminal_obeys_or_hides_is_escaped_and_comes_back(sign: str) -> None:
    """In bodies, in keys and in the envelope alike."""
    data = written({sign: [sign]}, subject=sign)
    members = decode(data)

    assert sign not in data.decode().removesuffix("\n")
    assert members["body"] == {sign: [sign]}
    assert members["subject"] == sign


def test_what_people_write_stays_readable() -> None:
    """Only what does harm is escaped: letters, signs and emoji are seen with `cat` as they are."""
    data = written("Grüße, 你好, שלום, 🚀")

    assert "Grüße, 你好, שלום, 🚀" in data.decode()


def test_the_members_of_the_envelope_stand_in_their_order_and_the_body_last() -> None:
    """Whoever looks with `cat` finds what matters at the start of the line. What is None is left out."""
    data = written({"n": 1}, type="job", subject=None, hops=2, headers={"traceparent": "00"}, idempotency_key="k")

    assert data == (
        b'{"id":"20261124T014530.123456789Z-3f9c0a12b4d5","from":"alice","to":"bob","sent":"2026-11-24T01:45:30.123456Z",'
        b'"type":"job","hops":2,"headers":{"traceparent":"00"},"idempotency_key":"k","body":{"n":1}}\n'
    )


class Colour(enum.Enum):
    RED = "red"
    NOT = float("nan")


@dataclasses.dataclass
class Point:
    x: float
    y: Any = None


class Struct(msgspec.Struct):
    x: Any


class Model(pydantic.BaseModel):
    x: float
    at: date | None = None


@pytest.mark.parametrize(
    ("body", "json"),
    [
        pytest.param(Point(1.5), {"x": 1.5, "y": None}, id="dataclass"),
        pytest.param(Struct([1]), {"x": [1]}, id="msgspec struct"),
        pytest.param(Model(x=1, at=date(2026, 11, 24)), {"x": 1.0, "at": "2026-11-24"}, id="pydantic model"),
        pytest.param([Model(x=1)], [{"x": 1.0, "at": None}], id="models in a list"),
        pytest.param(Colour.RED, "red", id="enum"),
        pytest.param((1, (2,)), [1, [2]], id="tuple"),
        pytest.param({"b", "a"}, ["a", "b"], id="set, sorted"),
        pytest.param(frozenset([2, 1]), [1, 2], id="frozenset, sorted"),
        pytest.param(MappingProxyType({"a": 1}), {"a": 1}, id="mapping that is no dict"),
        pytest.param([None, uuid.UUID(int=1)], [None, "00000000-0000-0000-0000-000000000001"], id="uuid beside null"),
        pytest.param(uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001", id="uuid"),
        pytest.param(datetime(2026, 11, 24, tzinfo=UTC), "2026-11-24T00:00:00+00:00", id="datetime"),
        pytest.param(2**64 - 1, 2**64 - 1, id="the largest integer"),
        pytest.param(-(2**63), -(2**63), id="the smallest integer"),
        pytest.param(nested(63), nested(63), id="63 levels: 64 with the envelope"),
        pytest.param(["[" * 100], ["[" * 100], id="brackets in a string"),
        pytest.param([["[", '"['], {}] * 40, [["[", '"['], {}] * 40, id="many brackets, not deep"),
    ],
)
def test_what_python_has_is_written_as_json_has_it(body: Any, json: Any) -> None:
    """Dataclasses, models, sets, dates, enums: the receiver sees plain JSON."""
    assert decode(written(body))["body"] == json


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"bytes", "bytes are not JSON", id="bytes"),
        pytest.param(float("nan"), "it holds nan", id="NaN"),
        pytest.param({"a": [None, float("inf")]}, "it holds inf", id="infinity"),
        pytest.param([(float("-inf"),)], "it holds -inf", id="minus infinity in a tuple"),
        pytest.param(Point(float("nan")), "it holds nan", id="NaN in a dataclass"),
        pytest.param(Struct(float("nan")), "it holds nan", id="NaN in a struct"),
        pytest.param([Model(x=float("nan"))], "it holds nan", id="NaN in a model"),
        pytest.param({float("nan")}, "it holds nan", id="NaN in a set"),
        pytest.param({"a": Colour.NOT}, "it holds nan", id="NaN in an enum"),
        pytest.param(2**64, "more than 64 bits", id="65 bits"),
        pytest.param(-(2**63) - 1, "more than 64 bits", id="65 bits, negative"),
        pytest.param({1: 2}, "a key of an object is not a string", id="key no string"),
        pytest.param(object(), "object", id="any object"),
        pytest.param("\ud800", "surrogates", id="lone surrogate"),
        pytest.param(nested(64), "nested too deep", id="64 levels: 65 with the envelope"),
        pytest.param(nested(300), "nested too deep", id="300 levels"),
        pytest.param([nested(64), "]" * 64], "nested too deep", id="deep, beside brackets in a string"),
    ],
)
def test_what_json_cannot_hold_is_refused_when_sending(body: Any, says: str) -> None:
    """The sender learns it, not the receiver: NaN is not made null, a large integer is not rounded."""
    with pytest.raises(InvalidBodyError, match=says):
        written(body)


def test_a_body_that_holds_itself_is_refused() -> None:
    """It would never end."""
    body: list[Any] = []
    body.append(body)

    with pytest.raises(InvalidBodyError, match="contains itself"):
        written(body)


@pytest.mark.parametrize(
    ("member", "value", "says"),
    [
        pytest.param("subject", 7, "a string", id="number for a string"),
        pytest.param("subject", {"a": "b"}, "a string", id="object for a string"),
        pytest.param("idempotency_key", b"k", "a string", id="bytes for a string"),
        pytest.param("hops", "1", "a whole number", id="string for a number"),
        pytest.param("hops", True, "a whole number", id="bool for a number"),
        pytest.param("hops", 1.0, "a whole number", id="float for a whole number"),
        pytest.param("hops", -1, "a whole number", id="negative number"),
        pytest.param("hops", 1001, "a whole number", id="number too large"),
        pytest.param("headers", [("a", "b")], "an object of strings", id="list for an object"),
        pytest.param("headers", {"a": 1}, "an object of strings", id="number in headers"),
        pytest.param("headers", {1: "a"}, "an object of strings", id="key no string in headers"),
        pytest.param("headers", "a", "an object of strings", id="string for an object"),
    ],
)
def test_a_member_of_the_wrong_type_is_refused_when_sending(member: str, value: Any, says: str) -> None:
    """What decode() would make a dead letter is not written."""
    with pytest.raises(InvalidRequestError, match=f"{member}= is .*, expected {says}"):
        written(**{member: value})


@pytest.mark.parametrize("longest", ["k" * 1024, "é" * 512])
def test_a_key_that_is_too_long_to_be_remembered_is_refused_when_sending(longest: str) -> None:
    """Ten thousand of one sender are kept: they must not fill the disk."""
    with pytest.raises(InvalidRequestError, match="idempotency_key= has 1025 bytes, and 1024 is the limit"):
        written(idempotency_key=f"{longest}k")

    assert decode(written(idempotency_key=longest))["idempotency_key"] == longest


def test_a_member_that_there_is_not_is_a_mistake_of_the_program() -> None:
    """TypeError, as for any wrong keyword, and it says which there are."""
    with pytest.raises(TypeError, match="there is no option subjekt=: expected one of from, to, type, subject"):
        written(subjekt="x")


# Reading


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"[" * 100_000)
@example(b'{"a":' * 5_000)
@example(b"[" * 65 + b'"' + b'\\"' * 100_000)
@example(b'["' + b"\\\n" * 100_000)
def test_of_any_bytes_decode_says_what_they_are(data: bytes) -> None:
    """A message, or NotMailError with a reason that is safe to print: nothing else, and never slowly."""
    members, reason = read(data)

    assert "body" in members or reason.isprintable()


@given(json_values, st.data())
def test_a_message_that_was_damaged_is_read_or_malformed(body: Any, data: st.DataObject) -> None:
    """Each byte of it may be changed, lost or doubled."""
    whole = written(body, type="job", hops=1, headers={"a": "b"}, expires="2026-11-24T01:45:30Z")
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    damaged = whole[:start] + data.draw(st.binary(max_size=4) | st.just(whole[start:end] * 2)) + whole[end:]
    members, reason = read(damaged)
    message: Message[Any] = Message(ID, members or {"body": None}, damaged, "")

    assert "body" in members or reason.isprintable()
    assert isinstance(message.hops, int)
    assert isinstance(message.sent, datetime)
    assert all(isinstance(header, str) for header in message.headers.values())
    assert message.expires is None or message.expires.tzinfo is not None


@given(
    st.dictionaries(
        st.sampled_from(["from", "to", "type", "hops", "headers", "expires", "id", "sent", "body", "x"]), json_values
    )
)
def test_an_envelope_of_any_json_is_read_or_malformed(members: dict[str, Any]) -> None:
    """Whatever is where a string, a number or a time is expected."""
    decoded, reason = read(json.dumps(members).encode())

    assert decoded == members or reason.isprintable() or "body" not in members
    assert "body" in decoded or reason


@pytest.mark.parametrize(
    ("flat", "envelope", "body"),
    [
        pytest.param({"from": "a", "msg": "hello"}, {"from": "a"}, {"msg": "hello"}, id="sender and text"),
        pytest.param({}, {}, {}, id="empty"),
        pytest.param({"from": 1, "type": None}, {}, {"from": 1, "type": None}, id="not strings: the body's"),
        pytest.param(
            {"id": "1", "idempotency_key": "k"},
            {},
            {"id": "1", "idempotency_key": "k"},
            id="only six members are the envelope's",
        ),
        pytest.param({"to": "b", "hops": "x"}, {"to": "b"}, {"hops": "x"}, id="others may be of any type"),
    ],
)
def test_without_a_body_the_rest_is_the_body(flat: Any, envelope: Any, body: Any) -> None:
    """A script drops {"from":"a","msg":"hello"}, and that is mail."""
    assert decode(json.dumps(flat).encode()) == {**envelope, "body": body}


def test_a_body_of_null_is_a_body() -> None:
    """It is there, so the members beside it are the envelope's, and unknown ones are kept."""
    assert decode(b'{"body":null,"x":1}') == {"body": None, "x": 1}


@pytest.mark.parametrize(("depth", "ok"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False), (1024, False), (100_000, False)])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"])
def test_nesting_has_a_limit(left: str, right: str, depth: int, ok: bool) -> None:
    """64 levels, the message itself counted."""
    data = f'{{"body":{left * (depth - 1)}1{right * (depth - 1)}}}'.encode()
    members, reason = read(data)

    assert ("body" in members) == ok
    assert ok or "deep" in reason or "depth" in reason


# Times


@pytest.mark.parametrize(
    ("text", "when"),
    [
        pytest.param("2026-11-24T01:45:30Z", (2026, 11, 24, 1, 45, 30), id="UTC"),
        pytest.param("2026-11-24t01:45:30z", (2026, 11, 24, 1, 45, 30), id="small letters"),
        pytest.param("2026-11-24 01:45:30.5Z", (2026, 11, 24, 1, 45, 30, 500_000), id="blank, fraction"),
        pytest.param("2026-11-24T01:45:30.123456789Z", (2026, 11, 24, 1, 45, 30, 123_456), id="nanoseconds"),
        pytest.param("2026-11-23T20:45:30-05:00", (2026, 11, 24, 1, 45, 30), id="west"),
        pytest.param("2026-11-24T07:15:30+05:30", (2026, 11, 24, 1, 45, 30), id="east"),
    ],
)
def test_times_are_read_as_rfc_3339_has_them(text: str, when: tuple[int, int, int, int, int, int]) -> None:
    """With any zone, and a fraction of any length."""
    assert parse_time(text) == datetime(*when, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("tomorrow", id="word"),
        pytest.param("2026-11-24", id="date"),
        pytest.param("2026-11-24T01:45:30", id="no zone"),
        pytest.param("2026-11-24T01:45Z", id="no seconds"),
        pytest.param("2026-11-24T01:45:30,5Z", id="comma"),
        pytest.param("2026-11-24T01:45:30+0000", id="zone without colon"),
        pytest.param("2026-11-24T01:45:30 Z", id="blank before the zone"),
        pytest.param("2026-11-24T24:00:00Z", id="hour 24"),
        pytest.param("2026-11-24T01:45:60Z", id="leap second"),
        pytest.param("2026-02-30T01:45:30Z", id="no such day"),
        pytest.param("2026-W48-2T01:45:30Z", id="week date"),
        pytest.param("20261124T014530Z", id="basic form"),
        pytest.param("0000-11-24T01:45:30Z", id="year 0"),
        pytest.param("2026-11-24T01:45:30Z\n", id="newline at the end"),
        pytest.param("٢026-11-24T01:45:30Z", id="digit of another script"),
    ],
)
def test_what_is_no_time_makes_a_message_malformed(text: str) -> None:
    """No guessing: mail that expires in another century would be worse. All clients and Pythons refuse the same."""
    with pytest.raises(NotMailError, match=r'its "expires" is .*, expected a time with a zone'):
        decode(json.dumps({"body": 1, "expires": text}).encode())


aware = st.datetimes(
    datetime(1900, 1, 1),  # noqa: DTZ001  # the zone is drawn
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-11, minutes=-30))]),
)


@given(aware.filter(lambda when: when.year < 9999))
def test_times_that_were_written_are_read_as_they_were(when: datetime) -> None:
    """format_time() and parse_time() are a pair, to the microsecond."""
    assert parse_time(format_time(when)) == when


@given(aware)
def test_times_become_nanoseconds_exactly(when: datetime) -> None:
    """No floating point on the way."""
    assert datetime_ns(when) == (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def test_a_time_without_a_zone_is_refused_when_sending() -> None:
    """It would mean another time in another container."""
    with pytest.raises(InvalidRequestError, match="has no zone"):
        format_time(datetime(2026, 11, 24))  # noqa: DTZ001  # that is the point


@pytest.mark.parametrize(
    ("after", "text"),
    [
        pytest.param(1.5, "2026-11-24T01:45:31.500000Z", id="seconds"),
        pytest.param(timedelta(minutes=1), "2026-11-24T01:46:30.000000Z", id="timedelta"),
        pytest.param(datetime(2027, 1, 1, tzinfo=UTC), "2027-01-01T00:00:00.000000Z", id="time"),
    ],
)
def test_a_span_becomes_a_time(after: Any, text: str) -> None:
    """`ttl=` and `after=` take seconds, a timedelta or a time."""
    assert resolve_time(after, datetime(2026, 11, 24, 1, 45, 30, tzinfo=UTC)) == text


def test_a_span_that_ends_after_all_time_is_refused() -> None:
    """The format has years of four digits."""
    with pytest.raises(InvalidRequestError, match="after the year 9999"):
        resolve_time(1e12, datetime(2026, 11, 24, tzinfo=UTC))


class Word(str):
    """A text of a class of its own, as enums and configuration libraries have it."""


def test_a_text_of_another_class_is_text() -> None:
    """What is a str may be an option."""
    assert decode(written(1, type=Word("job")))["type"] == "job"


def test_the_limit_of_hops_can_be_written_and_read() -> None:
    """What is refused is refused by the receiver's rules, not by the format."""
    assert decode(written(hops=MAX_HOPS + 1))["hops"] == MAX_HOPS + 1


def test_the_id_of_an_envelope_is_an_id() -> None:
    """What encode() is given comes from new_id()."""
    id = new_id()

    assert decode(encode(id, "a", "b", None, {}))["id"] == id
