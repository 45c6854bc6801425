"""From argv to an exit code."""

from __future__ import annotations

import contextlib
import os
import sys

from ..errors import InvalidRequestError, quoted
from ..format import codec
from ..system.stop_signals import exit_as_process_1
from .fast_parser import parse, with_marked_body
from .options import parameters
from .verbs import GROUPS, VERBS, find, following, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final


_COMMON: Final = {
    "--root": True,
    "--as": True,
    "--json": False,
}  # options that may precede the verb, with a value or not


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code; an error is printed on standard error, as a sentence and a hint."""
    words = _in_order(list(sys.argv[1:] if argv is None else argv))
    json = "--json" in (words[: words.index("--")] if "--" in words else words)
    if json or f"{__package__}.output" in sys.modules:
        from . import output

        output.json_errors.enabled = json
    if "orjson" not in sys.modules:
        codec.spare_orjson()
    if words[:1] == ["hook"] and not _asks_for_help(words):
        return _hook(words)
    exit_as_process_1()
    try:
        _prepare()
        code = _run(words)
        sys.stdout.flush()  # here a full disk can still be reported
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head`: whoever read us has had enough
        _silence()
        return 0
    except Exception as error:
        from . import exit_codes, output

        known = exit_codes.code(error)
        if known is None:
            raise
        output.error(error)
        _silence()
        return known
    return code


def _run(words: Sequence[str]) -> int:
    if words in (["--version"], ["version"]):
        from .. import __version__

        print(__version__)
        return 0
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    found = split(words)
    if found is None and words and not words[0].startswith("-") and words[0] not in following(""):
        return _unknown(words)
    if found is not None:
        verb = find(found[0])
        found = (found[0], _without_json(verb, found[1]))
        values = parse(verb, found[1])
        if values is None and (marked := with_marked_body(verb, found[1])) is not None:
            values = parse(verb, marked)
        if values is not None:
            if values.get("command") and "--" not in found[1]:
                return _no_command(found[0], values["command"])
            return verb(**values) or 0
    if not words or _asks_for_help(words) or (words[0] in GROUPS and len(words) == 1):
        from . import help_pages

        asked = (bool(words) and words[0] not in GROUPS) or len(words) > 1
        print(
            help_pages.text(found[0] if found else words[0] if words else ""),
            end="",
            file=None if asked else sys.stderr,
        )
        return 0 if asked else 2
    if not words[0].startswith("-") and (found is None or (following(found[0]) and not found[1][0].startswith("-"))):
        return _unknown(words)
    from .typer_app import read

    return read([*found[0].split(), *found[1]] if found is not None else words)


def _hook(words: Sequence[str]) -> int:
    """Run a hook, which never fails its client: a mistake on the command line is printed, and the exit code is 0."""
    try:
        values = parse(find("hook"), words[1:])
        if values is not None:
            return find("hook")(**values) or 0
        from .typer_app import read

        read(words)
    except BaseException as error:  # noqa: BLE001  # exit code 2 would keep a client from its work
        with contextlib.suppress(OSError, AttributeError):
            os.write(2, f"mailbox: error: {error!r}\n".encode("utf-8", "backslashreplace"))
    return 0


def _without_json(verb: Callable[..., int | None], words: Sequence[str]) -> Sequence[str]:
    """Return *words* without --json if the verb has no such option: it prints no data, or a number, or JSON anyway."""
    end = words.index("--") if "--" in words else len(words)
    if "--json" not in words[:end] or any(each.name == "json" for each in parameters(verb)):
        return words
    return [*(word for word in words[:end] if word != "--json"), *words[end:]]


def _in_order(words: list[str]) -> list[str]:
    """Return *words* with the options of every verb, if they come first, behind the verb."""
    at = 0
    while at < len(words) and (name := words[at].partition("=")[0]) in _COMMON:
        at += 2 if _COMMON[name] and "=" not in words[at] else 1
    found = split(words[at:]) if at else None
    if not at or found is None:
        return words[at:] or words
    rest = words[at:]
    return [*rest[: len(rest) - len(found[1])], *words[:at], *found[1]]


def _unknown(words: Sequence[str]) -> int:
    """Report that there is no such verb, and the verb that may have been meant."""
    from difflib import get_close_matches

    from . import exit_codes, output
    from .synonyms import meant_by

    length = 1
    while length < len(words) and following(" ".join(words[:length])):
        length += 1
    before = " ".join(words[: length - 1])
    known = [verb for verb in VERBS if not before or verb.startswith(f"{before} ")]
    verb = " ".join(words[:length])
    near = get_close_matches(verb, known, 3, 0.5 if before else 0.75)
    meant = meant_by(verb, VERBS)
    if meant is not None:
        hint = f"`mailbox {meant}` does that; `mailbox help {meant.split(' --')[0]}` shows how"
    elif near:
        hint = f"did you mean {' or '.join(near)}?"
    elif before:
        hint = f"expected {', '.join(known)}"
    else:
        hint = "`mailbox help` lists the verbs"
    output.error(InvalidRequestError(f"there is no verb {quoted(verb)}", hint=hint))
    return exit_codes.USAGE


def _no_command(verb: str, words: Sequence[str]) -> int:
    """Refuse *words* that are a command only by their place: `watch bob` looks like the box of bob."""
    from . import exit_codes, output

    output.error(
        InvalidRequestError(
            f"{quoted(words[0])} is one word too many for `mailbox {verb}`, expected a command behind --",
            hint=f"`mailbox {verb} … -- {words[0]}` runs it as a command; --as NAME selects the box",
        )
    )
    return exit_codes.USAGE


def _asks_for_help(words: Sequence[str]) -> bool:
    before = words[: words.index("--")] if "--" in words else words
    return "--help" in before or "-h" in before


def _prepare() -> None:
    if sys.stdout is None:  # `>&-`: what is printed would be lost, and acked
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for as long as we live
        raise OSError("standard output is closed: give it somewhere to go, if only /dev/null")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and getattr(stream, "encoding", "utf-8").lower() != "utf-8":
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal that knows less


def _silence() -> None:
    """Throw away what could not be written: else Python tries again at its end, and complains."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
