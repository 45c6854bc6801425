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


def with_marked_body(verb: Callable[..., Any], words: Sequence[str]) -> list[str] | None:
    """Return *words* with the body behind `--`, if a body that begins with "-" is among them; else None.

    After the words before the body, a word that begins with "-" and is no option of the verb is the body.
    """
    known = list(parameters(verb))
    arguments = [each.name for each in known if isinstance(each.what, Arg)]
    if "body" not in arguments or "--" in words:
        return None
    takes_value = {
        name: bool(each.what.metavar) for each in known if isinstance(each.what, Opt) for name in each.what.names
    }
    before, at = arguments.index("body"), 0
    while at < len(words):
        word = words[at]
        name = word.partition("=")[0] if word.startswith("--") else word
        if not word.startswith("-") or word == "-":
            before -= 1
        elif name in ("-h", "--help"):
            return None
        elif name in takes_value:
            at += takes_value[name] and "=" not in word
        else:
            return [*words[:at], *words[at + 1 :], "--", word] if before == 0 else None
        at += 1
    return None


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
