"""The quick reader of argv: it reads valid arguments and refuses the rest.

It knows `--name value`, `--name=value`, `-n value`, flags, `--` and words, in any order. For anything else it
returns None: then Typer, which uses the same annotations, reads the arguments again and reports the mistake. A test
compares the two.
"""

from __future__ import annotations

from .options import Arg, Opt, Parameter, parameters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any


def parse(verb: Callable[..., Any], words: Sequence[str]) -> dict[str, Any] | None:
    """The arguments for *verb* that these *words* stand for; None where they are not plainly right."""
    known = list(parameters(verb))
    options = {name: each for each in known if isinstance(each.what, Opt) for name in each.what.names}
    values: dict[str, Any] = {}
    loose: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            loose.extend(rest)
        elif not word.startswith("-") or word == "-":
            loose.append(word)
        elif not _option(word, rest, options, values):
            return None
    if not _places([each for each in known if isinstance(each.what, Arg)], loose, values):
        return None
    for each in known:
        if each.name not in values:
            if each.required:
                return None
            values[each.name] = [] if each.repeats else each.default
    return values


def _option(word: str, rest: Iterator[str], options: dict[str, Parameter], values: dict[str, Any]) -> bool:
    name, equals, text = word.partition("=") if word.startswith("--") else (word, "", "")
    option = options.get(name)
    if option is None:
        return False
    assert isinstance(option.what, Opt)
    if not option.what.metavar:
        values[option.name] = True
        return not equals
    try:
        value = option.what.read(text if equals else next(rest))
    except (StopIteration, ValueError):
        return False
    if option.repeats:
        values.setdefault(option.name, []).append(value)
    else:
        values[option.name] = value
    return True


def _places(arguments: list[Parameter], loose: list[str], values: dict[str, Any]) -> bool:
    try:
        for each in arguments:
            read = each.what.read
            if each.repeats:
                values[each.name], loose = [read(word) for word in loose], []
                if each.required and not values[each.name]:
                    return False
            elif loose:
                values[each.name] = read(loose.pop(0))
    except ValueError:
        return False
    return not loose
