"""One message, shown."""

from __future__ import annotations

import sys

from ..format import codec
from . import output as looks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from ..receive.message import Message

_LONG: Final = 10_000  # characters of a body that a person is shown, unless it is all that was asked for


def show(message: Message[Any], *, json: bool, body: bool, **more: Any) -> None:
    """Print a message: for people, as a line of JSON with *more* facts, or its body alone."""
    if json:
        looks.write(looks.record(message, **more))
        return
    if not body:
        for text in _facts(message):
            print(looks.dim(text))
    text = looks.body(message.body) if looks.is_tty() else _plain(message.body)
    if not looks.is_tty() and not body:  # a pipe may end at a terminal; --body is data
        text = looks.escape(text)
    rest = len(text) - _LONG if looks.is_tty() and not body else 0
    print(text[:_LONG] if rest > 0 else text)
    if rest > 0:
        print(looks.dim(f"… {rest} characters more: --body prints them all"))
    sys.stdout.flush()


def _facts(message: Message[Any]) -> list[str]:
    facts = [f"from {looks.one_line(message.sender or 'nobody', 64)}", f"trust {message.trust}"]
    facts += [f"type {looks.one_line(message.type, 64)}"] if message.type else []
    facts += [f"attempt {message.attempt}"] if message.attempt > 1 else []
    told = [", ".join([*facts, looks.when(message.sent), looks.one_line(message.id)])]
    for name, value in (("subject", message.subject), ("thread", message.thread), ("problem", message.problem)):
        told += [f"{name}: {looks.one_line(value)}"] if value else []
    return told


def _plain(body: Any) -> str:
    return body if isinstance(body, str) else codec.dumps(body).decode()
