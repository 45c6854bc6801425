"""Look at mail, and leave it where it is: list, read, wait."""

from ..client import Mailbox
from ..store.state import State, parse_state
from .common import As, BoxName, Id, Json, Root, named, path_of
from .options import Annotated, Opt, count, duration, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STATES = tuple(state.word for state in State)


def list_(
    name: BoxName = None,
    *,
    all: Annotated[bool, Opt("--all", "-a", help="Also what is held, dead, or kept after it was handled.")] = False,
    state: Annotated[
        list[str],
        Opt("--state", metavar="STATE", read=parse_state, values=STATES, help="Only this state; can be given again."),
    ] = (),  # type: ignore[assignment]
    type: Annotated[list[str], Opt("--type", metavar="TYPE", help="Only this type; can be given again.")] = (),  # type: ignore[assignment]
    of: Annotated[str | None, Opt("--from", metavar="NAME", help="Only mail that names NAME as its sender.")] = None,
    thread: Annotated[
        str | None, Opt("--thread", metavar="ID", help="Only the conversation that began with ID.")
    ] = None,
    n: Annotated[int | None, Opt("-n", "--count", metavar="N", read=count, help="How many at the most.")] = None,
    json: Json = False,
    sender: As = None,
    root: Root = None,
) -> None:
    """List waiting mail. Nothing is taken, nothing changes.

    States are waiting, deferred, claimed, dead and done.

    Any part of an id that fits one message alone names it: `mailbox read 123456789`.

    Examples:
      mailbox list bob
      mailbox list --all --json | jq -r 'select(.state == "dead") | .reason'
      mailbox list --state dead | cut -f 1 | xargs -n 1 mailbox read
    """
    from itertools import islice

    from . import output

    box = Mailbox(named(name, sender), path_of(root))
    states = state or ([each for each in State if all or each.is_waiting])
    wanted = (
        each
        for each in box.peek(*states)
        if (not type or each.type in type)
        and of in (None, each.sender)
        and (thread is None or any(thread in id for id in (each.thread or "", each.id)))
    )
    messages = islice(wanted, n)
    if json:
        for message in messages:
            output.write(output.record(message))
        return
    head = ("ID", "FROM", "TRUST", "TYPE", "SENT", "STATE", "SUBJECT OR BODY")
    nothing = f"{box.name}: no mail" + ("" if all or state else " waits; --all lists what was taken, too")
    output.table(head, map(row, messages), nothing, "TRUST")


def read_(
    id: Id,
    *,
    body: Annotated[bool, Opt("--body", help="Only the body.")] = False,
    raw: Annotated[bool, Opt("--raw", help="The bytes of the file, as they are.")] = False,
    fenced: Annotated[
        bool,
        Opt("--fenced", help="For AI agents: a piece of the body, fenced, with nothing in it that passes for more."),
    ] = False,
    offset: Annotated[
        int, Opt("--offset", metavar="N", read=number, help="The characters before the piece, with --fenced. [0]")
    ] = 0,
    json: Json = False,
    sender: As = None,
    root: Root = None,
) -> None:
    """Show one message. It is not taken, nothing changes.

    Examples:
      mailbox read 123456789 --as bob
      mailbox read 123456789 --body
      mailbox read 123456789 --fenced --offset 2000
    """
    from . import output
    from . import show_message as messages

    message = Mailbox(sender, path_of(root)).find(id)
    if fenced:
        from datetime import UTC, datetime

        from ..agents import letter

        limit = letter.EVENT_LIMIT
        print(letter.letter(message, letter.new_fence(), datetime.now(UTC), offset=offset, limit=limit))
    elif raw:
        output.write(output.escape(message.raw.decode("utf-8", "replace")).encode() if output.is_tty() else message.raw)
    else:
        messages.show(message, json=json, body=body)


def wait_(
    name: BoxName = None,
    *,
    timeout: Annotated[
        float | None, Opt("--timeout", metavar="DURATION", read=duration, help="Longest wait: 30s, 5m … [no limit]")
    ] = None,
    json: Annotated[bool, Opt("--json", help="Print a line of JSON: if there is mail.")] = False,
    sender: As = None,
    root: Root = None,
) -> int:
    """Wait until there is mail to receive. Nothing is taken, nothing is printed; none in time: exit code 124.

    Examples:
      mailbox wait --as bob && mailbox receive --as bob
      mailbox wait --timeout 0 || echo "no mail"
    """
    with Mailbox(named(name, sender), path_of(root)) as box:
        mail = box.wait(timeout)
        if json:
            from . import output

            output.write(output.json({"name": box.name, "mail": mail}))
        return 0 if mail else 124


def row(message: "Any") -> tuple[str, ...]:
    """A message as a row of a table."""
    from . import output

    person = output.is_tty()
    state, due = output.state_of(message)
    if state == State.DEFERRED.word and due is not None:
        state += f", due {output.when(due)}"
    about = message.subject or message.body
    if message.problem:
        about = message.problem if about is None else f"{output.one_line(about, 60)} ({message.problem})"
    id = message.id[16:25] if person and message.id[26:27] == "-" else message.id
    facts = (
        output.one_line(id, 20 if person else 0),
        output.one_line(message.sender or "", 16 if person else 0),
        message.trust,
        output.one_line(message.type or "", 12 if person else 0),
    )
    return (*facts, output.when(message.sent), state, output.one_line(about, output.columns() if person else 200))
