"""The same verbs as a Typer app: help, errors, completion. The only user of typer.

It is made from the annotations that `parse` reads, and imported only where `parse` refuses.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer

from .. import __version__
from .options import Arg, Opt, Parameter, parameters
from .verbs import VERBS, find

ABOUT: Final = """Mail between programs and agents: one folder per inbox, one JSON file per message, no server.

Looking (list, read) and taking (receive) are different verbs: looking never changes anything."""

ENVIRONMENT: Final = """MAILBOX_ROOT is the mail volume (else /mail), MAILBOX_AGENT whose mail it is.

Exit codes: 0 done, 1 failed, 2 usage, 65 malformed or too large, 67 no such box, 69 no root there, 74 I/O error,
75 disk full, 77 permission, 124 nothing came in time."""


def read(words: Sequence[str]) -> int:
    """Read *words* as Typer does: print help, complain, or run the verb. Returns the exit code."""
    try:
        code = build()(list(words), prog_name="mailbox", standalone_mode=False)
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:
        return 130
    except Exception as error:
        shown = getattr(error, "show", None)  # a usage error of Click, which Typer may carry inside or beside itself
        if shown is None:
            raise
        shown()
        return int(getattr(error, "exit_code", 2))
    return code if isinstance(code, int) else 0


def build() -> typer.Typer:
    """The app, all verbs in it."""
    app = typer.Typer(
        help=ABOUT,
        epilog=ENVIRONMENT,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def print_version(wanted: bool) -> None:
        if wanted:
            print(__version__)
            raise typer.Exit

    @app.callback()
    def common(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=print_version)
        ] = False,
    ) -> None:
        pass

    for verb in VERBS:
        function = find(verb)
        about, _, examples = (inspect.getdoc(function) or "").partition("\nExamples:\n")
        epilog = "\b\nExamples:\n" + examples if examples else None
        app.command(verb, help=about, epilog=epilog)(_typed(function))
    return app


def _typed(verb: Callable[..., Any]) -> Callable[..., Any]:
    """*verb* with annotations that Typer understands."""

    def run(**values: Any) -> Any:
        return verb(**{name: list(value) if isinstance(value, tuple) else value for name, value in values.items()})

    signature = inspect.Signature([_parameter(each) for each in parameters(verb)])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    run.__name__ = verb.__name__
    return run


def _parameter(each: Parameter) -> inspect.Parameter:
    what, kind = each.what, inspect.Parameter.KEYWORD_ONLY
    default = inspect.Parameter.empty if each.required else ([] if each.repeats else each.default)
    if isinstance(what, Arg):
        text: Any = list[str] if each.repeats else (str if each.required else str | None)
        described: Any = Annotated[text, typer.Argument(metavar=what.metavar, help=what.help, show_default=False)]
    elif not what.metavar:
        described = Annotated[bool, typer.Option(*what.names, help=what.help, show_default=False)]
    else:
        option = typer.Option(
            *what.names, metavar=what.metavar, help=what.help, show_default=False, parser=_reader(what)
        )
        described = Annotated[list[Any] if each.repeats else Any, option]
    return inspect.Parameter(each.name, kind, default=default, annotation=described)


def _reader(option: Opt) -> Callable[[str], Any]:
    def read(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        try:
            return option.read(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    read.__name__ = option.metavar
    return read
