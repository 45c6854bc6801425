"""JSON by orjson, and the few lines that are written without it."""

import subprocess
import sys

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from filemailbox import codec


@given(st.dictionaries(st.text(), st.text()))
def test_strings_are_written_as_orjson_writes_them(document: dict[str, str]) -> None:
    """To the byte: nobody can tell which of the two it was."""
    assert codec.only_strings(document) == orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


@pytest.mark.parametrize(
    "document",
    [{"a": 1}, {"a": None}, {"a": ["b"]}, {"a": {"b": "c"}}, {"a": "\ud800"}, {"\udfff": "a"}],
    ids=["number", "null", "array", "object", "half a pair", "half a pair as key"],
)
def test_all_else_is_left_to_orjson(document: dict[str, object]) -> None:
    """Also what it refuses: one place says why."""
    assert codec.only_strings(document) is None


@given(st.dictionaries(st.text(), st.text()) | st.dictionaries(st.text(), st.text() | st.none() | st.integers(-9, 9)))
def test_strings_are_read_as_orjson_reads_them(document: dict[str, object]) -> None:
    """All that is plainly an object of strings; anything else is left to orjson."""
    line = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    strings = bool(document) and all(isinstance(value, str) for value in document.values())

    assert codec.read_strings(line) in (document, None)
    assert codec.read_strings(line) == document or not strings or rb"\u" in line


PIECES = [
    *'{}[]":,\\ \n\t0ae',
    '{"',
    '"}',
    '","',
    '":"',
    "\\n",
    "\\u0041",
    "\\ud800",
    "\\x",
    "\x00",
    "é",
    "null",
    "\ufeff",
]


@given(st.lists(st.sampled_from(PIECES)).map("".join).map(str.encode) | st.binary())
@example(b'{"a":"b","a":"c"}')
@example(b'{"a":"b",}')
@example(b'{"a":"b"}\n\n')
@example(b'{"a":"b"} ')
@example(b'{"a":"\xed\xa0\x80"}')
@example(b'{"a":"\\ud800"}')
@example(b'{"a":"}"')
@example(b'"a":"b"}')
@example(b"{}")
@example(b"")
def test_whatever_is_read_without_orjson_it_would_have_read_so(data: bytes) -> None:
    """Hostile files come this way: it reads no more than orjson does, and nothing otherwise."""
    read = codec.read_strings(data)

    assert read is None or read == orjson.loads(data)


def test_what_comes_after_the_first_few_is_orjsons() -> None:
    """A program that sends much pays once, and then nothing."""
    program = (
        "import sys; from filemailbox import codec\n"
        "lines = []\n"
        "for number in range(20):\n"
        "    lines.append((codec.dumps({'a': 'b'}, None, codec.LINE), 'orjson' in sys.modules))\n"
        "print(len({line for line, _ in lines}), [loaded for _, loaded in lines].index(True), codec.dumps.__module__)\n"
        "print(codec.loads(b'[1]'), codec.loads.__module__)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert said.splitlines() == ["1 8 orjson", "[1] orjson"]


def test_the_numbers_of_options_are_orjsons() -> None:
    """They are written down because orjson is not imported to ask it."""
    assert (codec.LINE, codec.INDENT, codec.UTC_Z) == (
        orjson.OPT_APPEND_NEWLINE,
        orjson.OPT_INDENT_2,
        orjson.OPT_UTC_Z,
    )
