"""JSON of small documents without orjson: the same, to the byte, or left to orjson."""

import enum
import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from filemailbox.format import small_json

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**16), 10**17) | st.text(),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=4), each, max_size=4),
    max_leaves=20,
)
"""What need not be left to orjson."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False) | st.text(),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=4), each, max_size=4),
    max_leaves=20,
)
"""What JSON can hold."""

LEFT = "left to orjson"


def left_or(done: Callable[[Any], object], what: object) -> object:
    try:
        return done(what)
    except small_json.NotSmallError:
        return LEFT


class Color(str, enum.Enum):  # noqa: UP042  # one whose value is not the string that it is
    RED = "red"


class Point(NamedTuple):
    x: int


@given(PLAIN)
def test_what_is_plain_is_written_as_orjson_writes_it(value: object) -> None:
    """To the byte: nobody can tell which of the two it was."""
    assert small_json.write(value) == orjson.dumps(value)


@given(JSON)
@example(1e15)
@example(1e16)
@example(0.0001)
@example(0.00001)
@example(-0.0)
def test_whatever_is_written_without_orjson_it_would_have_written_so(value: object) -> None:
    """Python writes some floats in another way, and orjson refuses large integers."""
    written = left_or(small_json.write, value)

    assert written == LEFT or written == orjson.dumps(value)


@pytest.mark.parametrize("value", [0.5, 0.0, -273.15, 100.0, 1e15, 1e-4, 123456789.125], ids=str)
def test_floats_without_an_exponent_are_plain(value: float) -> None:
    """The shares, seconds and degrees of everyday."""
    assert small_json.write([value]) == orjson.dumps([value])


@pytest.mark.parametrize(
    "value",
    [
        1 << 64,
        float("nan"),
        float("inf"),
        1e300,
        "\ud800",
        {"\udfff": "a"},
        {1: "a"},
        {None: "a"},
        {Color.RED: "a"},
        Color.RED,
        OrderedDict(a=1),
        Point(1),
        (1, 2),
        {"a"},
        b"bytes",
        object(),
        [[]] * 300,
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_all_else_is_left_to_orjson(value: object) -> None:
    """Also what it refuses: one place says why."""
    assert left_or(small_json.write, value) == LEFT
    assert left_or(small_json.write, {"a": [value]}) == LEFT


def test_what_nests_deep_or_holds_itself_is_left_to_orjson() -> None:
    """It has limits of its own, and says so."""
    deep: list[Any] = []
    for _ in range(250):
        deep = [deep]
    endless: list[Any] = []
    endless.append(endless)

    assert left_or(small_json.write, deep) == left_or(small_json.write, endless) == LEFT
    assert left_or(small_json.read, b"[" * 1025 + b"]" * 1025) == left_or(small_json.read, b'{"a":' * 100_000) == LEFT


@given(PLAIN, st.booleans(), st.booleans())
def test_what_is_plain_is_read_as_orjson_reads_it(value: object, ours: bool, indented: bool) -> None:
    """Whoever wrote it, and with blanks or without."""
    data = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if indented else 0))
    if not ours:
        data = json.dumps(value, indent=2 if indented else None).encode()
        assume(b"\\ud" not in data)

    assert repr(small_json.read(data)) == repr(orjson.loads(data))


@given(JSON, st.booleans(), st.booleans())
def test_any_json_is_read_as_orjson_reads_it_or_left_to_it(value: object, python: bool, indented: bool) -> None:
    """repr() tells 1 from 1.0, 0.0 from -0.0, and one order of keys from another."""
    data = json.dumps(value, indent=2 if indented else None, ensure_ascii=python).encode()
    read = left_or(small_json.read, data)

    assert read == LEFT or repr(read) == repr(orjson.loads(data))


PIECES = [
    *'{}[]":,\\ \n\t\r0123456789-+.eE',
    *('{"', '"}', '","', '":"', '":', ',"', "[[", "]]", "{}", "[]", '""', '"a"', '"a":', '{"a":1', "\x0b", "\x85"),
    *("\\n", "\\/", "\\b", "\\x", "\\u", "\\u0041", "\\u0000", "\\U0041", "\\ud800", "\\uDC00", "\\ud83d\\ude00"),
    *("\x00", "\x1f", "\x7f", "é", "😀", "\ufeff", "\u2028", "null", "true", "false", "True", "nul", "NaN", "nan"),
    *("Infinity", "-Infinity", "inf", "1e400", "1e-400", "-0", "-0.0", "00", "1.", ".5", "0x1", "1_0", "٣", "e5"),
    *("9223372036854775808", "18446744073709551615", "18446744073709551616", "1" * 400, "0." + "3" * 400),
]
"""What JSON is made of, and what it could be mistaken for."""


def broken(text: str, at: int, piece: str, instead: int) -> str:
    at %= len(text) + 1
    return text[:at] + piece + text[at + instead :]


BROKEN = st.builds(
    broken, JSON.map(json.dumps), st.integers(0, 1 << 16), st.sampled_from(["", *PIECES]), st.integers(0, 2)
)
"""JSON with something put in, replaced or left out."""

MALFORMED = [
    b'{"a":"b","a":"c"}',
    b'{"a":1,"b":2,"a":3}',
    b'{"a":"b",}',
    b'{"a":"b"}\n\n',
    b'{"a":"b"} ',
    b' {"a":"b"}',
    b'\xef\xbb\xbf{"a":"b"}',
    b'{"a":"\xed\xa0\x80"}',
    b'{"a":"\xf4\x90\x80\x80"}',
    b'{"a":"\xc0\xaf"}',
    b'{"a":"\\ud800"}',
    b'{"a":"\\uDFFF"}',
    b'{"a":"}"',
    b'"a":"b"}',
    b"{1:2}",
    b"[1 2]",
    b"[1,,2]",
    b"[-]",
    b"[01]",
    b"[NaN]",
    b"[1e400]",
    b"{}{}",
    b"{}\x00",
    b"{}\x0c",
    b"",
    b"\n",
    b"[1",
    b"[1,",
    b"{",
    b'{"a',
    b'{"a"',
    b'{"a":',
    b'{"a":1',
    b'{"a":"b}',
    b'["\\x"]',
    b'["\\u12"]',
    b'["\x1f"]',
]
"""Or nearly so."""


@given(
    st.lists(st.sampled_from(PIECES)).map("".join).map(str.encode)
    | st.lists(st.sampled_from(PIECES), max_size=3).map("".join).map(lambda text: f'{{"a":[{text}]}}'.encode())
    | BROKEN.map(str.encode)
    | st.binary()
    | st.binary(max_size=4).map(lambda some: b'["a' + some + b'"]')
)
def test_whatever_is_read_without_orjson_it_would_have_read_so(data: bytes) -> None:
    """Hostile files come this way: it reads no more than orjson does, and nothing otherwise."""
    read = left_or(small_json.read, data)

    assert read == LEFT or repr(read) == repr(orjson.loads(data))


@pytest.mark.parametrize("data", MALFORMED, ids=ascii)
def test_what_is_not_quite_json_is_left_to_orjson_or_read_as_it_reads_it(data: bytes) -> None:
    """The same, for what somebody thought of."""
    read = left_or(small_json.read, data)

    assert read == LEFT or repr(read) == repr(orjson.loads(data))


def test_it_leaves_the_same_to_orjson_if_nothing_has_imported_json() -> None:
    """The C functions fail in another way in such a process."""
    program = (
        "import sys; from filemailbox.format import small_json\n"
        "assert 'json' not in sys.modules\n"  # later Pythons import it for the first error
        f"for data in {MALFORMED!r}:\n"
        "    try:\n"
        "        read = small_json.read(data)\n"
        "    except small_json.NotSmallError:\n"
        "        read = 'left to orjson'\n"
        "    print(ascii(read))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == [ascii(left_or(small_json.read, data)) for data in MALFORMED]
