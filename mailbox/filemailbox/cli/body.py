"""The body of a message to send: a word of the command line, or standard input."""

import sys

from ..errors import InvalidBodyError, InvalidRequestError, quoted
from ..settings import MAX_SIZE
from .options import Annotated, Arg, Opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

Body = Annotated[str | None, Arg("[BODY]", "The body; none, or -, reads standard input. Everything after -- is BODY.")]
JsonBody = Annotated[bool, Opt("--json-body", help="The body is JSON, not text.")]
BodyText = Annotated[str | None, Opt("--body", metavar="TEXT", help="The body, whatever it begins with.")]
BodyFile = Annotated[str | None, Opt("--body-file", metavar="FILE", help="Read the body from FILE.")]
AllowEmpty = Annotated[bool, Opt("--allow-empty", help="Send the body although its source is empty.")]


def given(
    body: str | None, json: bool, text: str | None = None, file: str | None = None, allow_empty: bool = False
) -> "Any":
    """Return the body: *body*, *text*, or the content of *file*, else of standard input, without its last newline.

    Raises InvalidBodyError if the source is empty and *allow_empty* is not set, or the body is not UTF-8, or not JSON.
    Raises InvalidRequestError for more than one body.
    """
    if text is None and file is None and body is not None and body != "-":
        return read(body, json)
    if (body is not None) + (text is not None) + (file is not None) > 1:
        raise InvalidRequestError("there is more than one body: expected BODY, --body or --body-file, one of them")
    if text is not None:
        return read(text, json)
    data = _standard_input() if file is None else _content(file)
    if len(data) > MAX_SIZE:
        raise InvalidBodyError(
            f"the body has more than {MAX_SIZE} bytes, and the limit is that of a message",
            hint="put large data in a file and send its path",
        )
    if not data and not allow_empty:
        source = "standard input" if file is None else quoted(file)
        raise InvalidBodyError(
            f"{source} is empty, expected the body: nothing was sent", hint="--allow-empty sends an empty body"
        )
    return read(_decoded(data).removesuffix("\n"), json)


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


def _content(file: str) -> bytes:
    try:
        with open(file, "rb") as source:
            return source.read(MAX_SIZE + 1)
    except OSError as error:
        raise InvalidBodyError(
            f"the body cannot be read from {quoted(file)}: {(error.strerror or '').lower()}"
        ) from error


def _standard_input() -> bytes:
    source = _stdin()
    if source.isatty():
        print("reading the body from the terminal: end it with Ctrl-D", file=sys.stderr)
    data: bytes = source.read(MAX_SIZE + 1)
    return data


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
