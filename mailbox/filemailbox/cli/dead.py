"""Dead letters: look at them, deliver them once more, delete them."""

from collections.abc import Callable, Iterator
from typing import Any

from ..client import Mailbox
from .common import As, BoxName, Id, Json, JsonOut, Root, named, path_of
from .options import Annotated, Arg, Opt, duration

SomeIds = Annotated[list[str], Arg("[ID...]", "Any part of an id that fits one dead letter alone.")]
All = Annotated[bool, Opt("--all", "-a", help="All of them.")]
Older = Annotated[
    float | None, Opt("--older-than", metavar="DURATION", read=duration, help="All that were sent longer ago: 7d …")
]
Reason = Annotated[str | None, Opt("--reason", metavar="TEXT", help="All whose reason contains this text: expired …")]


def dead_list_(name: BoxName = None, *, json: Json = False, sender: As = None, root: Root = None) -> None:
    """List dead letters, and why each is one.

    Examples:
      mailbox dead list bob
      mailbox dead list --json | jq -r '[.id, .reason] | @tsv'
    """
    from . import output

    box = Mailbox(named(name, sender), path_of(root))
    messages = box.peek("dead")
    if json:
        for message in messages:
            output.write(output.record(message))
        return
    output.table(
        ("ID", "FROM", "TRUST", "TYPE", "SENT", "ATTEMPT", "WHY"),
        map(_row, messages),
        f"{box.name}: no dead letters",
        "TRUST",
    )


def dead_show_(id: Id, *, json: Json = False, sender: As = None, root: Root = None) -> None:
    """Show a dead letter: the reason and its details, then the message. The file itself is in the box, in dead/.

    Examples:
      mailbox dead show 123456789 --as bob
    """
    from . import output
    from . import show_message as messages

    box = Mailbox(sender, path_of(root))
    message = box.find(id, "dead")
    why = box.dead_reason(message)
    if json:
        messages.show(message, json=True, body=False, why=why)
        return
    print(output.escape(why.rstrip("\n")) if output.is_tty() else why.rstrip("\n"))
    print(output.dim("─" * min(40, output.columns())))
    messages.show(message, json=False, body=False)


def dead_requeue_(
    ids: SomeIds = (),  # type: ignore[assignment]
    *,
    all: All = False,
    json: JsonOut = False,
    sender: As = None,
    root: Root = None,
) -> int:
    """Deliver dead letters once more, with new attempts and without expiry. Prints their ids.

    You may mend a file in dead/ before.

    Examples:
      mailbox dead requeue 123456789 --as bob
      mailbox dead requeue --all --as bob
    """
    with Mailbox(sender, path_of(root)) as box:
        return _each(box, ids, all, None, "requeueing", box.requeue, json=json)


def dead_purge_(
    ids: SomeIds = (),  # type: ignore[assignment]
    *,
    all: All = False,
    older_than: Older = None,
    reason: Reason = None,
    json: JsonOut = False,
    sender: As = None,
    root: Root = None,
) -> int:
    """Delete dead letters, and the notes beside them, for good. Prints their ids.

    `mailbox init --expired-retention 7d NAME` deletes expired mail by itself.

    Examples:
      mailbox dead purge 123456789 --as bob
      mailbox dead purge --older-than 30d --as bob
      mailbox dead purge --reason expired --older-than 7d --as bob
    """
    with Mailbox(sender, path_of(root)) as box:
        return _each(box, ids, all, older_than, "deleting", box.purge, reason, json=json)


def _each(
    box: Mailbox,
    ids: list[str],
    all: bool,
    older: float | None,
    doing: str,
    act: Callable[[Any], str],
    reason: str | None = None,
    *,
    json: bool,
) -> int:
    from functools import partial

    from ..errors import InvalidRequestError, MailboxError
    from . import exit_codes, output

    if bool(ids) == (all or older is not None or reason is not None):
        raise InvalidRequestError(
            "which ones? Give their ids, or --all", hint=None if ids else "`mailbox dead list` shows them"
        )
    code = 0
    with output.Progress(f"{doing} dead letters") as progress:
        for each in ids or _some(box, older, reason):
            try:
                id = act(each)
            except (MailboxError, FileNotFoundError) as error:  # one that has gone in between stops none of the others
                progress.aside(partial(output.error, error))
                code = code or exit_codes.of_error(error)
                continue
            progress.step()
            write = partial(output.write, output.json({"id": id})) if json else partial(print, output.one_line(id))
            progress.aside(write)
    return code


def _some(box: Mailbox, older: float | None, reason: str | None) -> Iterator[Any]:
    from datetime import UTC, datetime, timedelta

    limit = datetime.now(UTC) - timedelta(seconds=older) if older is not None else None
    return (
        message
        for message in box.peek("dead")
        if (limit is None or message.sent < limit) and (reason is None or reason in (message.problem or ""))
    )


def _row(message: Any) -> tuple[str, ...]:
    from . import output

    id = message.id[16:25] if output.is_tty() and message.id[26:27] == "-" else message.id
    person = output.is_tty()
    facts = (
        output.one_line(id, 20 if person else 0),
        output.one_line(message.sender or "", 16 if person else 0),
        message.trust,
        output.one_line(message.type or "", 12 if person else 0),
    )
    why = message.problem or "no reason was recorded"
    return (*facts, output.when(message.sent), str(message.attempt), output.one_line(why, 400))
