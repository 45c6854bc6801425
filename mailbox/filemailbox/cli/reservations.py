"""Reservations of files: reserve, release, reservations."""

from typing import TYPE_CHECKING

from ..agents.globs import parse_glob
from ..client import Mailbox
from . import output
from .common import As, Root, path_of
from .options import Annotated, Arg, Opt, duration

if TYPE_CHECKING:
    from ..agents.reservations import Reservation

Json = Annotated[bool, Opt("--json", help="One line of JSON for each reservation.")]


def reserve_(
    pattern: Annotated[
        list[str], Arg("PATTERN...", "Files, such as src/** or docs/*.md; with --check, paths of files.")
    ],
    *,
    duration: Annotated[
        float, Opt("--for", metavar="DURATION", read=duration, help="It ends after so long, at most 7d. [1h]")
    ] = 3600.0,
    why: Annotated[str, Opt("--why", "-m", metavar="TEXT", help="The reason, which the others see.")] = "",
    check: Annotated[bool, Opt("--check", help="Reserve nothing; report files that others have reserved.")] = False,
    json: Json = False,
    as_: As = None,
    root: Root = None,
) -> int:
    """Reserve files by patterns, so that other agents know who works on them, and until when.

    A reservation is advice: it ends with its time, survives this process, and hinders no program that does not ask.
    Write patterns as paths from the top of the project. All are reserved, or none, with exit code 73 and the
    reservations of the others that overlap. To reserve a pattern again prolongs it.

    Examples:
      mailbox reserve 'src/**' --for 1h --why "refactoring"
      git diff --cached --name-only -z | xargs -0 mailbox reserve --check
    """
    from . import exit_codes

    if check:
        from ..agents.reservations import blocking

        with Mailbox(as_ or _reader(), path_of(root)) as box:
            found = blocking(box, pattern)
        for each in found:
            _print(each, json)
        return exit_codes.CONFLICT if found else exit_codes.DONE
    from ..agents.reservations import reserve

    with Mailbox(as_, path_of(root)) as box:
        for each in reserve(box, [parse_glob(each) for each in pattern], duration, why):
            _print(each, json)
    return exit_codes.DONE


def release_(
    pattern: Annotated[list[str], Arg("[PATTERN...]", "Patterns as they were reserved.")] = (),  # type: ignore[assignment]
    *,
    all: Annotated[bool, Opt("--all", help="All that this agent has reserved.")] = False,
    as_: As = None,
    root: Root = None,
) -> int:
    """End reservations before their time. Prints the patterns that were released.

    Examples:
      mailbox release 'src/**'
      mailbox release --all
    """
    from ..agents.reservations import release
    from . import exit_codes

    if bool(pattern) == all:
        output.error("expected the patterns to release, or --all")
        return exit_codes.USAGE
    with Mailbox(as_, path_of(root)) as box:
        for each in release(box, None if all else pattern):
            print(output.one_line(each))
    return exit_codes.DONE


def reservations_(*, json: Json = False, as_: As = None, root: Root = None) -> None:
    """List the files that agents have reserved: the agent, the pattern, the end, the reason, the proof of the agent.

    Examples:
      mailbox reservations
      mailbox reservations --json | jq -r 'select(.agent == "coder") | .pattern'
    """
    from ..agents.reservations import reservations

    with Mailbox(as_ or _reader(), path_of(root)) as box:
        found = reservations(box)
    if json:
        for each in found:
            output.write(output.json(each.as_dict()))
        return
    output.table(("AGENT", "PATTERN", "UNTIL", "PROOF", "WHY"), map(_row, found))


def _reader() -> str:
    """Return the name of who looks: that of no agent need be given."""
    import os

    return os.environ.get("MAILBOX_AGENT") or "reader"


def _row(each: "Reservation") -> tuple[str, ...]:
    return (each.agent, output.one_line(each.pattern), output.when(each.until), each.trust, output.one_line(each.why))


def _print(each: "Reservation", json: bool) -> None:
    if json:
        output.write(output.json(each.as_dict()))
    else:
        print("\t".join(_row(each)))
