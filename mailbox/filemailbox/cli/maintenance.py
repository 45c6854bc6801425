"""Care: what is wrong, and what is left over: doctor, gc."""

from typing import TYPE_CHECKING

from ..format.address import Address, parse_address
from ..store.root import Root as MailRoot
from ..store.root import find_root
from .common import Root, path_of
from .options import Annotated, Arg, Opt, duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..ops.cleanup import Garbage
    from ..ops.doctor import Finding

SomeNames = Annotated[list[Address], Arg("[NAME...]", "Boxes; none: all of them.", read=parse_address)]


def doctor_(
    name: SomeNames = (),  # type: ignore[assignment]
    *,
    fix: Annotated[bool, Opt("--fix", help="Mend what is safe to mend. Mail is never touched.")] = False,
    json: Annotated[bool, Opt("--json", help="One line of JSON for each finding.")] = False,
    root: Root = None,
) -> int:
    """Find what is wrong with the root and its boxes, and say what to do. Exit code 1 where something is wrong.

    It looks at owners, modes and mounts, at leftovers and leases, at mail that nobody listens for and notifications
    that reach nobody, and says what protects agents from each other here.

    Examples:
      mailbox doctor
      mailbox doctor bob --fix
      mailbox doctor --json | jq -r 'select(.level == "wrong") | .what'
    """
    from functools import partial

    from ..ops import doctor
    from . import output

    found, wrong, seen = find_root(path_of(root)), 0, 0
    with output.Progress("looking") as progress:
        for each in doctor.examine(found, list(name) or None, progress.step):
            mended = _mend(each) if fix else ""
            wrong += each.level == "wrong" and mended != "mended"
            seen += each.level != "note"
            progress.aside(partial(_print, each, mended, json))
    if output.is_tty() and not json and not seen:
        print("all is well")
    return 1 if wrong else 0


def gc_(
    name: SomeNames = (),  # type: ignore[assignment]
    *,
    older_than: Annotated[
        float | None,
        Opt(
            "--older-than",
            metavar="DURATION",
            read=duration,
            help="Also handled mail and removed documents that are older: 7d …",
        ),
    ] = None,
    dry_run: Annotated[bool, Opt("--dry-run", help="Only say what would be done.")] = False,
    root: Root = None,
) -> int:
    """Take away what is left over: old drafts, notes without a letter, what dead processes left, bloated folders.

    Prints what was done, a line each. Waiting mail and dead letters are never touched.

    Examples:
      mailbox gc --dry-run
      mailbox gc bob --older-than 7d
    """
    from functools import partial

    from ..errors import MailboxError
    from . import exit_codes, output

    found, code = find_root(path_of(root)), 0
    with output.Progress("sweeping") as progress:
        for box in [*(list(name) or found.boxes()), *(() if name else (None,))]:
            progress.step(f"sweeping {box or found.path}")
            try:
                for left, why in _sweep(found, box, older_than, dry_run):
                    progress.step()
                    if why is None:
                        progress.aside(
                            partial(print, "\t".join(map(output.one_line, (box or ".", left.what, left.path))))
                        )
                    else:  # the rest can still be swept
                        progress.aside(partial(output.error, why))
                        code = code or exit_codes.code(why) or 1
            except (MailboxError, OSError) as error:  # the other boxes can still be swept
                progress.aside(partial(output.error, error))
                code = code or exit_codes.code(error) or 1
    return code


def _sweep(
    root: MailRoot, box: Address | None, older_than: float | None, dry_run: bool
) -> "Iterator[tuple[Garbage, BaseException | None]]":
    """What is left over in a box, or beside all of them, taken away unless *dry_run*; and why it could not be."""
    from ..errors import MailboxError
    from ..ops.cleanup import find_garbage, root_garbage, sweep

    if box is not None and not dry_run:
        yield from sweep(root, box, older_than)
        return
    for left in find_garbage(root, box, older_than) if box is not None else root_garbage(root, older_than):
        why: BaseException | None = None
        try:
            if not dry_run:
                left.clear()
        except (MailboxError, OSError) as error:
            why = error
        yield left, why


def _mend(each: "Finding") -> str:
    """Mend it where that is safe; what came of it."""
    from ..errors import MailboxError

    if each.fix is None:
        return ""
    try:
        each.fix()
    except (MailboxError, OSError) as error:
        return f"could not be mended: {error}"
    return "mended"


def _print(each: "Finding", mended: str, json: bool) -> None:
    from . import output

    if json:
        facts = {"level": each.level, "where": each.where, "what": each.what, "advice": each.advice}
        output.write(output.json({**facts, "fixable": each.fix is not None, "mended": mended or None}))
        return
    if not output.is_tty():
        print("\t".join(map(output.one_line, (each.level, each.where, each.what, mended or each.advice))))
        return
    sign = {"wrong": "✗", "warning": "!", "note": "·"}[each.level]
    what = f"{sign} {output.one_line(each.where)}: {output.one_line(each.what)}"
    print(output.bold(what) if each.level == "wrong" else what)
    advice = mended or each.advice + (" (--fix mends it)" if each.fix is not None and each.level != "note" else "")
    if advice.strip():
        print(output.dim(f"    {output.one_line(advice)}"))
