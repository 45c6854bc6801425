"""The same verbs as a Typer app: it reads arguments that `fast_parser` refuses, and reports the mistake.

The only user of typer. It is made from the annotations that `fast_parser` reads, and imported only for mistakes:
importing Typer takes longer than sending a message. Help is always the text of `help_pages`.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from . import help_pages, output
from .options import Arg, Opt, Parameter, parameters
from .verbs import GROUPS, VERBS, find, following, split

_SETTINGS: Final = {"help_option_names": ["--help", "-h"]}


def read(words: Sequence[str]) -> int:
    """Read *words* as Typer does, and complain or run the verb. Returns the exit code."""
    found = split(words)
    try:
        if found is not None:
            code = _one(found[0])(list(found[1]), prog_name=f"mailbox {found[0]}", standalone_mode=False)
        else:
            code = build()(list(words), prog_name="mailbox", standalone_mode=False)
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:
        return 130
    except Exception as error:
        shown = getattr(error, "show", None)  # a usage error of Click, which Typer may carry inside or beside itself
        if shown is None:
            raise
        if output.json_errors.enabled:
            output.error(str(error.format_message()))  # type: ignore[attr-defined]
        else:
            shown()
        return int(getattr(error, "exit_code", 2))
    return code if isinstance(code, int) else 0


def build() -> typer.Typer:
    """The app, all verbs in it."""
    app = _group("")

    @app.callback()
    def common(
        version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version)] = False,
    ) -> None:
        pass

    for verb in VERBS:
        if " " not in verb:
            _add(app, verb, verb)
    for name in GROUPS:
        group = _group(name)
        app.add_typer(group, name=name)
        for word in following(name):
            _add(group, f"{name} {word}", word)
    return app


def _one(verb: str) -> typer.Typer:
    """An app of one verb."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    _add(app, verb, verb)
    return app


def _add(app: typer.Typer, verb: str, name: str) -> None:
    app.command(name, cls=_with_help(TyperCommand, verb), context_settings=_SETTINGS)(_typed(find(verb)))


def _group(name: str) -> typer.Typer:
    return typer.Typer(
        cls=_with_help(TyperGroup, name),
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=_SETTINGS,
    )


def _with_help(base: Any, verb: str) -> Any:
    """A class of commands whose help is our own text."""

    def get_help(*_: object) -> str:
        return help_pages.text(verb).rstrip("\n")

    def get_usage(*_: object) -> str:
        return help_pages.text(verb).split("\n", 1)[0]

    return type("Command", (base,), {"get_help": get_help, "get_usage": get_usage})


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(__version__)
        raise typer.Exit


def _typed(verb: Callable[..., Any], call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return *call*, else *verb*, with annotations of *verb* that Typer understands.

    All arguments are read before the mistakes are reported, together.
    """
    problems: list[str] = []

    def run(**values: Any) -> Any:
        if problems:
            raise typer.BadParameter("\n       ".join(problems))
        return (call or verb)(
            **{name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        )

    signature = inspect.Signature([_parameter(each, problems) for each in parameters(verb)])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    run.__name__ = verb.__name__
    return run


def _parameter(each: Parameter, problems: list[str]) -> inspect.Parameter:
    what, kind = each.what, inspect.Parameter.KEYWORD_ONLY
    default = inspect.Parameter.empty if each.required else ([] if each.repeats else each.default)
    place: Any
    if isinstance(what, Opt) and not what.metavar:
        described: Any = Annotated[bool, typer.Option(*what.names)]
        return inspect.Parameter(each.name, kind, default=default, annotation=described)
    if isinstance(what, Arg):
        place = typer.Argument(metavar=what.metavar, parser=_reader(what, what.metavar, problems))
    else:
        place = typer.Option(*what.names, metavar=what.metavar, parser=_reader(what, what.names[0], problems))
    described = Annotated[list[Any] if each.repeats else Any, place]
    return inspect.Parameter(each.name, kind, default=default, annotation=described)


def _reader(what: Arg | Opt, name: str, problems: list[str]) -> Callable[[str], Any]:
    def read(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        try:
            return what.read(text)
        except ValueError as error:
            problems.append(f"{name}: {error}")
            return text  # whatever it is: nothing runs

    read.__name__ = what.metavar
    return read
