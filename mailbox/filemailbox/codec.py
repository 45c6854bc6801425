"""JSON, as bytes: orjson, imported when it is needed. That takes longer than Python's own start.

`dumps` and `loads` are orjson's own from then on. Only the first few messages of a process, and of those only what is
an object of nothing but strings, are written and read without it: with the C functions that Python's own `json` writes
and reads a string with. Whatever is not plainly that is left to orjson, and a test compares the two.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

LINE: Final = 1 << 10
"""orjson's OPT_APPEND_NEWLINE."""

INDENT: Final = 1 << 0
"""orjson's OPT_INDENT_2."""

UTC_Z: Final = 1 << 7
"""orjson's OPT_UTC_Z."""

_FEW: Final = 8
_spared = 0


def dumps(value: Any, default: Callable[[Any], Any] | None = None, option: int = 0) -> bytes:
    """*value* as JSON. *default* makes something that JSON has of what it has not. Raises TypeError."""
    global _spared
    if option == LINE and _spared < _FEW and type(value) is dict:
        line = only_strings(value)
        if line is not None:
            _spared += 1
            return line
    _import()
    return dumps(value, default, option)


def loads(data: bytes | str) -> Any:
    """What the JSON in *data* stands for. Raises ValueError."""
    global _spared
    if _spared < _FEW and type(data) is bytes:
        strings = read_strings(data)
        if strings is not None:
            _spared += 1
            return strings
    _import()
    return loads(data)


def only_strings(value: dict[str, Any]) -> bytes | None:
    """A line of JSON for an object of strings; None where that is not what it is."""
    try:
        from _json import encode_basestring as quote
    except ImportError:  # another Python than CPython
        return None
    try:
        return f"{{{','.join([f'{quote(name)}:{quote(text)}' for name, text in value.items()])}}}\n".encode()
    except (TypeError, UnicodeEncodeError):  # more than strings; or half a surrogate pair, which orjson refuses
        return None


def read_strings(data: bytes) -> dict[str, str] | None:
    """What a line of JSON stands for that is an object of strings, without blanks; None where it is not plainly so."""
    try:
        from _json import scanstring
    except ImportError:
        return None
    strings: dict[str, str] = {}
    try:
        text = data.decode()
        at, end = 1, len(text) - text.endswith("\n") - 1
        if text[0] != "{" or text[end] != "}" or "\\u" in text:  # \u: half a surrogate pair is orjson's to refuse
            return None
        while True:
            if text[at] != '"':
                return None
            name, at = scanstring(text, at + 1, True)
            if text[at : at + 2] != ':"':
                return None
            strings[name], at = scanstring(text, at + 2, True)
            if at == end:
                return strings
            if text[at] != ",":
                return None
            at += 1
    except (ValueError, IndexError):
        return None


def _import() -> None:
    import orjson

    assert (orjson.OPT_APPEND_NEWLINE, orjson.OPT_INDENT_2, orjson.OPT_UTC_Z) == (LINE, INDENT, UTC_Z)
    globals().update(dumps=orjson.dumps, loads=orjson.loads)
