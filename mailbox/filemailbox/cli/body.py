"""The body of a message to send: a word of the command line, or standard input."""

import sys

from ..errors import InvalidBodyError, quoted
from ..settings import MAX_SIZE
from .options import Annotated, Arg, Opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

Body = Annotated[str | None, Arg("[BODY]", "The body; none, or -, reads standard input.")]
JsonBody = Annotated[bool, Opt("--json-body", help="BODY is JSON, not text.")]


def given(body: str | None, json: bool) -> "Any":
    """The body that is meant. Raises InvalidBodyError."""
    return read(_standard_input() if body is None or body == "-" else body, json)


def lines(json: bool) -> "Iterator[Iterator[Any]]":
    """A body for each line of standard input, in the groups in which they come: `tail -f` is not kept waiting."""
    source, rest = _stdin(), b""
    while piece := source.read1(1 << 16):
        *whole, rest = (rest + piece).split(b"\n")
        if whole:
            yield (read(_decoded(line), json) for line in whole)
        elif len(rest) > MAX_SIZE:
            raise InvalidBodyError(f"a line has more than {MAX_SIZE} bytes: that is the limit of a message")
    if rest:
        yield (read(_decoded(line), json) for line in (rest,))


def read(text: str, json: bool) -> "Any":
    """*text* as a body."""
    if not json:
        return text
    from ..format import codec

    try:
        return codec.loads(text)
    except ValueError as error:
        raise InvalidBodyError(f"the body {quoted(text[:60])} is not JSON: {error}") from None


def _standard_input() -> str:
    source = _stdin()
    if source.isatty():
        print("reading the body from the terminal: end it with Ctrl-D", file=sys.stderr)
    return _decoded(source.read(MAX_SIZE + 1)).removesuffix("\n")


def _stdin() -> "Any":
    if sys.stdin is None:
        raise InvalidBodyError("there is no body: standard input is closed, and none was given")
    return sys.stdin.buffer


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidBodyError(
            f"the body is not UTF-8 ({error.reason} at byte {error.start}): encode it, as base64"
        ) from None
