"""JSON, as bytes: orjson, imported when it is needed. That takes longer than Python's own start.

`dumps` and `loads` are orjson's own from their second use on. Only a message that is nothing but strings, and is among
the first few of its process, is written without it: by the C function with which Python's own `json` writes strings. A
test compares the two.
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


def _import() -> None:
    import orjson

    assert (orjson.OPT_APPEND_NEWLINE, orjson.OPT_INDENT_2, orjson.OPT_UTC_Z) == (LINE, INDENT, UTC_Z)
    globals().update(dumps=orjson.dumps, loads=orjson.loads)
