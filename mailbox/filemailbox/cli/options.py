"""Arguments and options of a verb, as annotations of a plain function.

def send(to: Annotated[str, Arg("TO", "the box it goes to")], *, type: Annotated[str | None, Opt("--type", …)] = None)
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Annotated as Annotated
    from typing import Any
else:

    class Annotated:
        """`typing.Annotated`, as far as it is needed here: typing takes longer to import than a message to send."""

        def __class_getitem__(cls, parts):
            made = cls()
            made.kind, made.what = parts
            return made


_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Arg:
    """A positional argument. *read* makes a value of its text, or raises ValueError."""

    __slots__ = ("help", "metavar", "read", "values")

    def __init__(
        self, metavar: str, help: str, *, read: Callable[[str], Any] = str, values: tuple[str, ...] = ()
    ) -> None:
        self.metavar, self.help, self.read, self.values = metavar, help, read, values


class Opt:
    """An option; without a metavar it is a flag. *read* makes a value of its text, or raises ValueError."""

    __slots__ = ("help", "metavar", "names", "read", "values")

    def __init__(
        self,
        *names: str,
        help: str,
        metavar: str = "",
        read: Callable[[str], Any] = str,
        values: tuple[str, ...] = (),
    ) -> None:
        self.names, self.help, self.metavar, self.read, self.values = names, help, metavar, read, values


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
        repeats = getattr(annotation.kind, "__origin__", None) is list
        yield Parameter(name, annotation.what, name not in defaults, defaults.get(name), repeats)


def duration(text: str) -> float:
    """A duration such as `250ms`, `30s`, `1h30m`, `2d`, or a number of seconds, in seconds."""
    try:
        return _seconds(text) if text.isascii() else _not_a_duration(text)
    except ValueError:
        return _not_a_duration(text)


def _seconds(text: str) -> float:
    """By hand: importing `re` takes longer than reading a few letters."""
    number, total = "", 0.0
    while text:
        digits = len(text) - len(text.lstrip("0123456789."))
        number, text = text[:digits], text[digits:]
        unit = text[: len(text) - len(text.lstrip("abcdefghijklmnopqrstuvwxyz"))]
        text = text[len(unit) :]
        if number.startswith(".") or number.endswith("."):
            raise ValueError
        if not unit and (text or total):
            raise ValueError
        try:
            total += float(number) * (_UNITS[unit] if unit else 1)
        except KeyError:
            raise ValueError from None
    if not number or total > 1e9:
        raise ValueError
    return total


def _not_a_duration(text: str) -> float:
    raise ValueError(f'"{text}" is not a duration: expected one such as 250ms, 30s, 5m, 1h30m or 2d')


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise ValueError(f'"{text}" is not a number of messages: expected 1, 2, …')
    return int(text)


def number(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ValueError(f'"{text}" is not a number: expected 0, 1, 2, …')
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
    if not (colon and text.isascii() and uid.isdigit() and gid.isdigit() and len(uid) <= 10 and len(gid) <= 10):
        raise ValueError(f'"{text}" is not an owner: expected UID:GID in numbers, such as 2001:2001')
    return int(uid), int(gid)


def uid(text: str) -> int:
    """A user, as a number."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise ValueError(f'"{text}" is not a user: expected a number, such as 990')
    return int(text)


def one_of(*words: str) -> Callable[[str], str]:
    """One of these *words*."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f'"{text}" is not known: expected {", ".join(words[:-1])} or {words[-1]}')
        return text

    return read
