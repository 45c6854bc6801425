"""Maintenance of a root and its boxes: doctor, gc."""

from typing import TYPE_CHECKING

from ..errors import MailboxError
from ..format.address import Address, parse_address
from ..store.root import Root as MailRoot
from ..store.root import find_root
from . import exit_codes, output
from .common import As, Root, path_of, some_names
from .options import Annotated, Arg, Opt, duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..ops.cleanup import Garbage
    from ..ops.doctor import Finding

SomeNames = Annotated[list[Address], Arg("[NAME...]", "Boxes. [all]", read=parse_address)]
_SIGNS = {"error": "✗", "warning": "!", "note": "·"}


def doctor_(
    name: SomeNames = (),  # type: ignore[assignment]
    *,
    fix: Annotated[bool, Opt("--fix", help="Fix what is safe to fix. Mail is never touched.")] = False,
    json: Annotated[bool, Opt("--json", help="Print one line of JSON for each finding.")] = False,
    sender: As = None,
    root: Root = None,
) -> int:
    """Find problems of the root and its boxes, each with a hint, the worst first. Exit code 1 if there is an error.

    It checks owners, modes and mounts, garbage and leases, mail without a listener and notifications that do not work.
    It also reports the isolation model: which agents can reach each other's mail.

    Examples:
      mailbox doctor
      mailbox doctor bob --fix
      mailbox doctor --json | jq -r 'select(.severity == "error") | .problem'
    """
    from functools import partial

    from ..ops import doctor

    name, found, errors = some_names(name, sender), find_root(path_of(root)), 0
    with output.Progress("examining") as progress:
        findings = sorted(doctor.examine(found, list(name) or None, progress.step), key=doctor.rank)
        if output.is_tty() and not json and all(finding.severity == "note" for finding in findings):
            progress.aside(partial(print, "no problems found"))
        for finding in findings:
            outcome = _fix(finding) if fix else ""
            errors += finding.severity == "error" and outcome != "fixed"
            progress.aside(partial(_print, finding, outcome, json))
    return exit_codes.FAILED if errors else exit_codes.DONE


def gc_(
    name: SomeNames = (),  # type: ignore[assignment]
    *,
    older_than: Annotated[
        float | None,
        Opt(
            "--older-than",
            metavar="DURATION",
            read=duration,
            help="Also remove handled mail and documents removed longer ago.",
        ),
    ] = None,
    dry_run: Annotated[bool, Opt("--dry-run", help="Only print what would be removed.")] = False,
    json: Annotated[bool, Opt("--json", help="Print one line of JSON for each piece of garbage.")] = False,
    sender: As = None,
    root: Root = None,
) -> int:
    """Remove garbage: old temporary files, notes without a dead letter, remains of dead processes.

    Prints what was removed, one line each. Waiting mail and dead letters are never touched. Folders that once held many
    files are made small again.

    Examples:
      mailbox gc --dry-run
      mailbox gc bob --older-than 7d
    """
    from functools import partial

    name, found, code = some_names(name, sender), find_root(path_of(root)), exit_codes.DONE
    with output.Progress("cleaning up") as progress:
        for box in [*(list(name) or found.boxes()), *(() if name else (None,))]:
            progress.step(f"cleaning up {box or found.path}")
            try:
                for garbage, error in _collect(found, box, older_than, dry_run):
                    progress.step()
                    if error is None:
                        fields = (box or ".", garbage.description, garbage.path)
                        progress.aside(partial(_print_garbage, fields, json))
                    else:  # the rest can still be removed
                        progress.aside(partial(output.error, error))
                        code = code or exit_codes.of_error(error)
            except (MailboxError, OSError) as error:  # the other boxes can still be cleaned up
                progress.aside(partial(output.error, error))
                code = code or exit_codes.of_error(error)
    return code


def _collect(
    root: MailRoot, name: Address | None, older_than: float | None, dry_run: bool
) -> "Iterator[tuple[Garbage, Exception | None]]":
    """Remove the garbage of a box, or (without one) of the root, unless *dry_run*. Yields it, and why it stayed."""
    from ..ops.cleanup import find_garbage, remove_garbage, root_garbage

    if name is not None and not dry_run:
        yield from remove_garbage(root.box(name), older_than)
        return
    for garbage in find_garbage(root.box(name), older_than) if name is not None else root_garbage(root, older_than):
        failure: Exception | None = None
        try:
            if not dry_run:
                garbage.remove()
        except (MailboxError, OSError) as error:
            failure = error
        yield garbage, failure


def _print_garbage(fields: tuple[str, ...], json: bool) -> None:
    if json:
        output.write(output.json(dict(zip(("box", "garbage", "path"), fields, strict=True))))
    else:
        print("\t".join(map(output.one_line, fields)))


def _fix(finding: "Finding") -> str:
    """Fix it if that is safe. Returns the outcome in words."""
    if finding.fix is None:
        return ""
    try:
        finding.fix()
    except (MailboxError, OSError) as error:
        return f"could not be fixed: {error}"
    return "fixed"


def _print(finding: "Finding", outcome: str, json: bool) -> None:
    if json:
        output.write(output.json({**finding.as_dict(), "outcome": outcome or None}))
        return
    if not output.is_tty():
        fields = (finding.severity, finding.where, finding.problem, outcome or finding.hint)
        print("\t".join(map(output.one_line, fields)))
        return
    line = f"{_SIGNS[finding.severity]} {output.one_line(finding.where)}: {output.one_line(finding.problem)}"
    print(output.bold(line) if finding.severity == "error" else line)
    fixable = finding.fix is not None and finding.severity != "note"
    hint = outcome or finding.hint + (" (--fix fixes it)" if fixable else "")
    if hint.strip():
        print(output.dim(f"    {output.one_line(hint.strip())}"))
