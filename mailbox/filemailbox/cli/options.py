"""What a verb takes: arguments and options, said once, as annotations of a plain function.

def send(to: Annotated[str, Arg("TO", "the box it goes to")], *, type: Annotated[str | None, Opt("--type", …)] = None)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)?")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, None: 1}


class Arg:
    """A word that stands by its place."""

    __slots__ = ("help", "metavar")

    def __init__(self, metavar: str, help: str) -> None:
        self.metavar, self.help = metavar, help


class Opt:
    """An option; without a metavar it is a flag. *read* makes a value of its text, or raises ValueError."""

    __slots__ = ("help", "metavar", "names", "read")

    def __init__(self, *names: str, help: str, metavar: str = "", read: Callable[[str], Any] = str) -> None:
        self.names, self.help, self.metavar, self.read = names, help, metavar, read


class Parameter:
    """One parameter of a verb: its name, what it is on the command line, and how it may be left out."""

    __slots__ = ("default", "name", "repeats", "required", "what")

    def __init__(self, name: str, what: Arg | Opt, required: bool, default: Any, repeats: bool) -> None:
        self.name, self.what, self.required, self.default, self.repeats = name, what, required, default, repeats


def parameters(verb: Callable[..., Any]) -> Iterator[Parameter]:
    """The parameters of a verb, in order. Read without `inspect`, which takes long to import."""
    code = verb.__code__
    positional = code.co_varnames[: code.co_argcount]
    defaults = dict(zip(reversed(positional), reversed(verb.__defaults__ or ()), strict=False))
    defaults.update(verb.__kwdefaults__ or {})
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        annotation = verb.__annotations__[name]
        (what,) = annotation.__metadata__
        repeats = getattr(annotation.__origin__, "__origin__", None) is list
        yield Parameter(name, what, name not in defaults, defaults.get(name), repeats)


def span(text: str) -> float:
    """A span of time such as `250ms`, `30s`, `1h30m`, `2d`, or a number of seconds, in seconds."""
    total, at = 0.0, 0
    while at < len(text):
        match = _SPAN.match(text, at)
        if match is None or (match[2] is None and (at or match.end() < len(text))):
            break
        total += float(match[1]) * _UNITS[match[2]]
        at = match.end()
    if not text or at < len(text):
        raise ValueError(f'"{text}" is not a span of time: expected one such as 250ms, 30s, 5m, 1h30m or 2d')
    return total


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f'"{text}" is not a number of messages: expected 1, 2, …')
    return int(text)


def pair(text: str) -> tuple[str, str]:
    """KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f'"{text}" is not a header: expected NAME=VALUE')
    return key, value


def owner(text: str) -> tuple[int, int]:
    """UID:GID."""
    uid, colon, gid = text.partition(":")
    if not (colon and uid.isascii() and uid.isdigit() and gid.isascii() and gid.isdigit()):
        raise ValueError(f'"{text}" is not an owner: expected UID:GID in numbers, such as 2001:2001')
    return int(uid), int(gid)
