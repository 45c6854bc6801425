"""JSON as bytes: orjson, imported at its first use.

Importing orjson takes longer than Python takes to start. So the `mailbox` command calls spare_orjson(), and small_json
serves its first messages. A program that uses the library never does that: all its JSON is orjson's.

Call `codec.dumps` and `codec.loads` through the module: the first use rebinds both.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, Protocol, TypeAlias

LINE: Final = 1 << 10
"""orjson's OPT_APPEND_NEWLINE."""

INDENT: Final = 1 << 0
"""orjson's OPT_INDENT_2."""

UTC_Z: Final = 1 << 7
"""orjson's OPT_UTC_Z."""

if TYPE_CHECKING:
    Default: TypeAlias = Callable[[Any], Any] | None

    class _Dumps(Protocol):
        def __call__(self, value: Any, default: Default = None, option: int = 0, /) -> bytes: ...


_SPARED_CALLS: Final = 256  # together they take less than a tenth of the import


def spare_orjson(calls: int = _SPARED_CALLS) -> None:
    """Serve the first *calls* calls of this process without orjson, as far as they are small and plain.

    For the start of the command only. It changes nothing in a Python that lacks the C functions of `json`.
    """
    try:
        from . import small_json
    except ImportError:
        return

    left = iter(range(calls))

    def spared_dumps(value: Any, default: Default = None, option: int = 0) -> bytes:
        if not option & INDENT and next(left, None) is not None:
            try:
                return small_json.write(value) + (b"\n" if option & LINE else b"")
            except small_json.NotSmallError:
                pass
        return _first_dumps(value, default, option)

    def spared_loads(data: bytes | str) -> Any:
        if next(left, None) is not None:
            try:
                return small_json.read(data)
            except small_json.NotSmallError:
                pass
        return _first_loads(data)

    global dumps, loads
    dumps, loads = spared_dumps, spared_loads


def _first_dumps(value: Any, default: Default = None, option: int = 0) -> bytes:
    _use_orjson()
    return dumps(value, default, option)


def _first_loads(data: bytes | str) -> Any:
    _use_orjson()
    return loads(data)


def _use_orjson() -> None:
    import orjson

    assert (orjson.OPT_APPEND_NEWLINE, orjson.OPT_INDENT_2, orjson.OPT_UTC_Z) == (LINE, INDENT, UTC_Z)
    global dumps, loads
    dumps, loads = orjson.dumps, orjson.loads


dumps: _Dumps = _first_dumps
"""Return a value as JSON. *default* converts a value that JSON lacks. Raises TypeError."""

loads: Callable[[bytes | str], Any] = _first_loads
"""Return the value of a JSON document. Raises ValueError."""
