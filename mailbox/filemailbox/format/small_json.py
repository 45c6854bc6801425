"""JSON of small, plain documents, without orjson: for the start of the command.

A second reader of JSON within one security boundary needs a reason. `mailbox send` takes 3.4 × the CPU time of
`python -c pass` with this module, 3.5 × with the standard library's `json`, and 4.7 × with orjson (measured in turns).
Hence the C functions behind `json`, called without importing it.

The reader accepts less than orjson and reads what it accepts as orjson does; tests compare the two on hostile input.
Everything else raises NotSmallError, and orjson decides.
"""

from __future__ import annotations

from _json import encode_basestring, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_MAX_BYTES: Final = 1 << 16
_MAX_VALUES: Final = 200  # orjson writes 254 levels and reads 1024: whatever stays below nests less deep
_MAX_DIGITS: Final = 18  # any such number fits 64 bits


class NotSmallError(Exception):
    """The document is large, unusual or malformed: orjson has to decide."""


def write(value: Any) -> bytes:
    """Return *value* as JSON, byte for byte as orjson writes it. Raises NotSmallError."""
    budget = iter(range(_MAX_VALUES))

    def text(value: Any) -> str:
        if next(budget, None) is None:
            raise NotSmallError
        kind = type(value)
        if kind is str:
            return encode_basestring(value)
        if kind is dict:
            if any(type(name) is not str for name in value):
                raise NotSmallError
            return f"{{{','.join([f'{encode_basestring(name)}:{text(item)}' for name, item in value.items()])}}}"
        if kind is list:
            return f"[{','.join([text(item) for item in value])}]"
        if value is None or kind is bool:
            return "null" if value is None else "true" if value else "false"
        if kind is int or kind is float:
            number = repr(value)
            if len(number) <= _MAX_DIGITS if kind is int else not number.strip("-.0123456789"):
                return number
        raise NotSmallError

    try:
        return text(value).encode()
    except UnicodeEncodeError:  # half a surrogate pair
        raise NotSmallError from None


def read(data: bytes | str) -> Any:
    """Return the value of the JSON document *data*, as orjson reads it. Raises NotSmallError."""
    try:
        data = data.encode() if isinstance(data, str) else data
        half_a_pair = b"\\ud" in data or b"\\uD" in data
        if half_a_pair or len(data) > _MAX_BYTES or data.count(b"[") + data.count(b"{") > _MAX_VALUES:
            raise NotSmallError
        text = data.decode()
        value, end = make_scanner(_Limits)(text, 0)  # type: ignore[arg-type]  # it only reads the attributes
    except (ValueError, StopIteration, RecursionError, SystemError):
        # SystemError: Python 3.11 refuses malformed JSON so if nothing has imported `json`.
        raise NotSmallError from None
    if text[end:] not in ("", "\n"):
        raise NotSmallError
    return value


class _Limits:
    """The attributes of a json.JSONDecoder that the scanner reads."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None

    @staticmethod
    def parse_int(digits: str) -> int:
        if len(digits) > _MAX_DIGITS:
            raise NotSmallError
        return int(digits)

    @staticmethod
    def parse_float(digits: str) -> float:
        number = float(digits)
        if number - number != 0:
            raise NotSmallError
        return number

    @staticmethod
    def parse_constant(_: str) -> None:
        raise NotSmallError
