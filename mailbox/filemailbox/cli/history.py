"""History: the mail that a box keeps, received and sent, and single conversations."""

from typing import TYPE_CHECKING, Any

from ..client import Mailbox
from ..format.address import parse_address
from .common import As, Id, Json, Root, path_of
from .options import Annotated, Opt, count, duration

if TYPE_CHECKING:
    import re


def _pattern(text: str) -> "re.Pattern[str]":
    import re

    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f'"{text}" is not a regular expression: {error}') from None


def log_(
    *,
    partner: Annotated[
        str | None, Opt("--with", metavar="NAME", read=parse_address, help="Only mail from NAME or to NAME.")
    ] = None,
    thread: Annotated[str | None, Opt("--thread", metavar="ID", help="Only mail of this thread.")] = None,
    since: Annotated[
        float | None,
        Opt("--since", metavar="DURATION", read=duration, help="Only what was sent since then: 1h, 7d …"),
    ] = None,
    grep: Annotated[
        Any, Opt("--grep", metavar="RE", read=_pattern, help="Only mail whose subject or body matches.")
    ] = None,
    n: Annotated[int | None, Opt("-n", "--count", metavar="N", read=count, help="Only the last N.")] = None,
    json: Json = False,
    sender: As = None,
    root: Root = None,
) -> None:
    """List received and sent mail in one order, oldest first. Nothing is claimed, nothing changes.

    Handled mail and copies of sent mail are there only if the box keeps them: `mailbox init --retention 7d NAME`.

    Examples:
      mailbox log --as bob --since 1h
      mailbox log --with alice --grep 'build (failed|broke)'
      mailbox log --json | jq -r '[.sent, .from, .to, .body] | @tsv'
    """
    from collections import deque

    from . import output

    box = Mailbox(sender, path_of(root))
    found = (each for each in box.history(partner, thread, since) if grep is None or _matches(each, grep))
    messages = found if n is None else iter(deque(found, n))
    if json:
        for message in messages:
            output.write(output.record(message))
        return
    output.table(
        ("SENT", "ID", "FROM", "TO", "STATE", "TYPE", "SUBJECT OR BODY"),
        map(_row, messages),
        f"{box.name}: no mail that fits",
    )


def thread_(id: Id, *, json: Json = False, sender: As = None, root: Root = None) -> None:
    """Show a conversation: the messages of both sides, oldest first. Nothing is claimed, nothing changes.

    ID is any part of the id of one of its messages, or the thread.

    Examples:
      mailbox thread 123456789 --as bob
      mailbox thread 123456789 --json | jq -r .body
    """
    from . import output

    for number, message in enumerate(Mailbox(sender, path_of(root)).thread(id)):
        if json:
            output.write(output.record(message))
            continue
        if number:
            print()
        about = f" · {output.one_line(message.subject, 80)}" if message.subject else ""
        proof = f" ({message.trust})" if message.trust != "none" else ""
        state = "" if message.state in ("done", "sent") else f" [{output.state_of(message)[0]}]"
        people = f"{output.one_line(message.sender or '?')} → {output.one_line(message.to or '?')}"
        print(output.bold(f"{people}{proof}, {output.when(message.sent)}, {message.id}{state}{about}"))
        if message.problem is not None:
            print(output.one_line(message.problem))
        if message.body is not None:
            print(output.body(message.body).rstrip("\n"))


def _matches(message: Any, pattern: "re.Pattern[str]") -> bool:
    from ..format import codec

    body = message.body if isinstance(message.body, str) else codec.dumps(message.body).decode()
    return any(pattern.search(text) for text in (message.subject or "", body))


def _row(message: Any) -> tuple[str, ...]:
    from . import output

    person = output.is_tty()
    id = message.id[16:25] if person and message.id[26:27] == "-" else message.id
    about = message.problem or message.subject or message.body
    return (
        output.when(message.sent),
        output.one_line(id, 20 if person else 0),
        output.one_line(message.sender or "", 16 if person else 0),
        output.one_line(message.to or "", 16 if person else 0),
        output.state_of(message)[0],
        output.one_line(message.type or "", 12 if person else 0),
        output.one_line("" if about is None else about, 400),
    )
