"""JSON, as bytes: orjson, imported when it is needed. That takes longer than Python's own start.

`dumps` and `loads` are orjson's own from then on. The first few messages of a process that has not imported it, as long
as they are small and plain, are written and read without it: with the C functions behind Python's own `json`, whose
import takes long, too.
What these might make something else of than orjson is left to orjson, and so is what it refuses. Tests compare the two.
"""

from __future__ import annotations

import sys

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

NOT_PLAIN: Final = (ValueError, TypeError, StopIteration, RuntimeError, ImportError, AttributeError, SystemError)
"""What read() and write() raise where they leave it to orjson. SystemError: so the scanner of Python 3.11 refuses what
is no JSON where nobody has imported `json`."""

_FEW: Final = 256  # times: all together they take less than a tenth of the import
_SMALL: Final = 1 << 16  # bytes in one
_PARTS: Final = 200  # values in one, or those that hold others: orjson writes 254 levels, and reads 1024
_spared = 0


def dumps(value: Any, default: Callable[[Any], Any] | None = None, option: int = 0) -> bytes:
    """*value* as JSON. *default* makes something that JSON has of what it has not. Raises TypeError."""
    global _spared
    if _spared < _FEW and not option & INDENT and "orjson" not in sys.modules:
        _spared += 1
        try:
            return write(value) + (b"\n" if option & LINE else b"")
        except NOT_PLAIN:
            pass
    _import()
    return dumps(value, default, option)


def loads(data: bytes | str) -> Any:
    """What the JSON in *data* stands for. Raises ValueError."""
    global _spared
    if _spared < _FEW and "orjson" not in sys.modules:
        _spared += 1
        try:
            return read(data.encode() if isinstance(data, str) else data)
        except NOT_PLAIN:
            pass
    _import()
    return loads(data)


def write(value: Any) -> bytes:
    """Plain JSON, without orjson."""
    from _json import encode_basestring as quote

    parts = iter(range(_PARTS))

    def text(value: Any) -> str:
        next(parts)
        kind = type(value)
        if kind is str:
            return quote(value)
        if kind is dict:
            if any(type(name) is not str for name in value):
                raise TypeError
            return f"{{{','.join([f'{quote(name)}:{text(each)}' for name, each in value.items()])}}}"
        if kind is list:
            return f"[{','.join([text(each) for each in value])}]"
        if value is None or kind is bool:
            return "null" if value is None else "true" if value else "false"
        number = repr(value)
        if (kind is int and len(number) <= 18) or (kind is float and not number.strip("-.0123456789")):
            return number
        raise TypeError

    return text(value).encode()


def read(data: bytes) -> Any:
    """Plain JSON, without orjson."""
    from _json import make_scanner

    half_a_pair = b"\\ud" in data or b"\\uD" in data
    if half_a_pair or len(data) > _SMALL or data.count(b"[") + data.count(b"{") > _PARTS:
        raise ValueError
    text = data.decode()
    value, end = make_scanner(_Scanner)(text, 0)  # type: ignore[arg-type]  # it only reads the attributes
    if text[end:] not in ("", "\n"):
        raise ValueError
    return value


class _Scanner:
    """What Python's scanner asks of a json.JSONDecoder."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None

    @staticmethod
    def parse_int(digits: str) -> int:
        if len(digits) > 18:
            raise ValueError
        return int(digits)

    @staticmethod
    def parse_float(digits: str) -> float:
        number = float(digits)
        if number - number != 0:
            raise ValueError
        return number

    @staticmethod
    def parse_constant(_: str) -> None:
        raise ValueError


def _import() -> None:
    import orjson

    assert (orjson.OPT_APPEND_NEWLINE, orjson.OPT_INDENT_2, orjson.OPT_UTC_Z) == (LINE, INDENT, UTC_Z)
    globals().update(dumps=orjson.dumps, loads=orjson.loads)
