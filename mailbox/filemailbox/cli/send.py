"""Write to others: send, request."""

import os
import sys
from contextlib import contextmanager, suppress

from ..client import Mailbox
from ..errors import InvalidRequestError, StorageError, quoted
from ..format.address import is_group, parse_address, parse_recipient
from . import body as bodies
from .body import AllowEmpty, Body, BodyFile, BodyText, JsonBody
from .common import As, JsonOut, Root, path_of
from .options import Annotated, Arg, Opt, duration, one_of, pair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ..receive.message import Message

GRACE = 2.0  # seconds until "no process listens" is printed
STAGES = ("taken", "handled", "rejected")
To = Annotated[str, Arg("TO", "The box it goes to.", read=parse_address)]
WaitForBox = Annotated[
    float | None,
    Opt("--wait-for-box", metavar="DURATION", read=duration, help="If there is no box TO yet, wait so long for it."),
]
Whom = Annotated[str, Arg("TO", "The box it goes to; or `all`, or `team:GROUP`.", read=parse_recipient)]
Type = Annotated[str | None, Opt("--type", metavar="TYPE", help="What kind of message it is.")]
Subject = Annotated[str | None, Opt("--subject", "-s", metavar="TEXT", help="A line for people.")]
Thread = Annotated[str | None, Opt("--thread", metavar="THREAD", help="The conversation it belongs to.")]
Ttl = Annotated[
    float | None, Opt("--ttl", metavar="DURATION", read=duration, help="After that it is worthless: 30s, 5m, 2d …")
]
IdempotencyKey = Annotated[
    str | None, Opt("--idempotency-key", metavar="KEY", help="Of all with this key, one is handled.")
]
Headers = Annotated[
    list[tuple[str, str]],
    Opt("--header", "-H", metavar="NAME=VALUE", read=pair, help="A string for programs; can be given again."),
]
Urgent = Annotated[
    bool,
    Opt("--urgent", help="AI agents are shown it first, also in the middle of a turn: the header priority=urgent."),
]
Seal = Annotated[bool, Opt("--seal", help="Only TO can read it, and knows who sent it. [$MAILBOX_SEAL, 1 or 0]")]
Sign = Annotated[
    bool,
    Opt("--sign", help="All can read it, and TO knows who sent it. [$MAILBOX_SIGN, else where our key is at hand]"),
]
NoDurable = Annotated[bool, Opt("--no-durable", help="Do not wait for the disk: a power cut may lose it.")]


def send_(
    to: Whom,
    body: Body = None,
    *,
    json_body: JsonBody = False,
    body_text: BodyText = None,
    body_file: BodyFile = None,
    allow_empty: AllowEmpty = False,
    lines: Annotated[bool, Opt("--lines", help="A message for each line of standard input.")] = False,
    type: Type = None,
    subject: Subject = None,
    thread: Thread = None,
    in_reply_to: Annotated[str | None, Opt("--in-reply-to", metavar="ID", help="The message that it answers.")] = None,
    ttl: Ttl = None,
    delay: Annotated[
        float | None, Opt("--delay", metavar="DURATION", read=duration, help="Deliver it then, not now.")
    ] = None,
    idempotency_key: IdempotencyKey = None,
    header: Headers = (),  # type: ignore[assignment]
    urgent: Urgent = False,
    seal: Seal = False,
    sign: Sign = False,
    wait_for: Annotated[
        str | None,
        Opt(
            "--wait-for",
            metavar="STAGE",
            read=one_of(*STAGES),
            values=STAGES,
            help="Wait until TO has taken, handled or rejected it. Rejected instead: exit code 1.",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        Opt("--timeout", metavar="DURATION", read=duration, help="With --wait-for: the longest wait. [30s]"),
    ] = None,
    no_durable: NoDurable = False,
    wait_for_box: WaitForBox = None,
    json: JsonOut = False,
    sender: As = None,
    root: Root = None,
) -> int:
    """Send a message. Prints its id; then it survives kill -9 and a power cut.

    A message to a group goes to each of its members but oneself, under one id. Then a line is printed for each: the id
    and the name.

    Examples:
      mailbox send bob "the build is green"
      mailbox send bob --subject "a patch" -- "$(git diff)"
      make 2>&1 | mailbox send bob --type log --subject "build of main"
      mailbox send bob --json-body '{"path": "x.c"}' --type job --ttl 10m
      find . -name '*.c' | mailbox send bob --lines --type path
      mailbox send bob --urgent "stop: main is broken"
      mailbox send bob --seal < secret
      mailbox send builder "make it" --wait-for handled --timeout 10m
      mailbox send team:reviewers "please look at main"
    """
    box = Mailbox(sender, path_of(root), durable=not no_durable)
    options: dict[str, Any] = {
        "type": type,
        "subject": subject,
        "thread": thread,
        "in_reply_to": in_reply_to,
        "ttl": ttl,
        "delay": delay,
        "idempotency_key": idempotency_key,
        "headers": _headers(header, urgent),
        "seal": seal or None,
        "sign": sign or None,
        "wait_for_box": wait_for_box,
    }
    if in_reply_to:
        _continue_thread(box, in_reply_to, options)
    show = _print_json if json else _print_id
    if lines:
        if (body, body_text, body_file) not in ((None, None, None), ("-", None, None)):
            raise InvalidRequestError("--lines reads the bodies from standard input: give no other body")
        _send_lines(box, to, json_body, options, show)
        _warn_homeless(box)
        return 0
    if timeout is not None and wait_for is None:
        raise InvalidRequestError("--timeout is for --wait-for: without it `send` does not wait")
    content = bodies.given(body, json_body, body_text, body_file, allow_empty)
    code = _send(box, to, content, wait_for, timeout, options, show)
    _warn_homeless(box)
    return code


def _send(
    box: Mailbox,
    to: str,
    content: "Any",
    wait_for: str | None,
    timeout: float | None,
    options: "dict[str, Any]",
    show: "Callable[[str, str], None]",
) -> int:
    if wait_for is not None:

        def sent(message: str) -> None:
            show(message, to)
            sys.stdout.flush()

        with box, _unheard(box, to, options["type"]):
            limit = 30.0 if timeout is None else timeout
            box.send_and_wait(to, content, until=wait_for, timeout=limit, on_sent=sent, **options)
        return 0
    if is_group(to):
        return _send_each(box, to, content, options, show)
    show(box.send(to, content, **options), to)
    return 0


def _known(box: Mailbox, id: str) -> "Message[Any]":
    """Return the message in our box, or what is known of it if it was handled in the last hour. Raises MailboxError."""
    from ..errors import MessageNotFoundError

    try:
        return box.find(id)
    except MessageNotFoundError:
        return box.find_handled(id)


def _continue_thread(box: Mailbox, answered: str, options: "dict[str, Any]") -> None:
    """Count the hops, and keep the thread, of the message that is answered, as `reply` does.

    They come from the environment of a command of `watch`, else from the message, if our box still has it; else the
    answer is taken for the first. Raises TooManyHopsError.
    """
    from ..errors import MailboxError, TooManyHopsError
    from ..format.envelope import MAX_HOPS

    hops, thread = 0, ""
    if os.environ.get("MAILBOX_ID") == answered:
        counted = os.environ.get("MAILBOX_HOPS", "")
        hops = int(counted) if counted.isascii() and counted.isdigit() else 0
        thread = os.environ.get("MAILBOX_THREAD", "")
    else:
        with suppress(MailboxError):  # no box of ours, no such message in it
            message = _known(box, answered)
            hops, thread = message.hops, message.thread or message.reply_id
    if hops >= MAX_HOPS:
        raise TooManyHopsError(hops + 1, MAX_HOPS)
    options["hops"] = hops + 1
    if options["thread"] is None:
        options["thread"] = thread or answered


def request_(
    to: To,
    body: Body = None,
    *,
    timeout: Annotated[
        float, Opt("--timeout", metavar="DURATION", read=duration, help="How long to wait for the answer. [30s]")
    ] = 30.0,
    json_body: JsonBody = False,
    body_text: BodyText = None,
    body_file: BodyFile = None,
    allow_empty: AllowEmpty = False,
    json: Annotated[bool, Opt("--json", help="Print the whole answer as a line of JSON, not only its body.")] = False,
    type: Type = None,
    subject: Subject = None,
    thread: Thread = None,
    ttl: Ttl = None,
    idempotency_key: IdempotencyKey = None,
    header: Headers = (),  # type: ignore[assignment]
    urgent: Urgent = False,
    seal: Seal = False,
    sign: Sign = False,
    no_durable: NoDurable = False,
    wait_for_box: WaitForBox = None,
    sender: As = None,
    root: Root = None,
) -> None:
    """Send a message and wait for the answer, whose body is printed. None in time: exit code 124.

    The recipient answers with `mailbox reply` or `mailbox watch --reply`. If it rejects the message, the reason is
    printed at once, with exit code 1. If no process listens there, that is printed, too. An answer that comes
    too late becomes ordinary mail.

    Examples:
      mailbox request clerk "how many words?" --timeout 10s
      sum=$(mailbox request adder --json-body '[1, 2, 3]') && echo "$sum"
    """
    from . import show_message as messages

    with Mailbox(sender, path_of(root), durable=not no_durable) as box:
        content = bodies.given(body, json_body, body_text, body_file, allow_empty)
        with _unheard(box, to, type):
            answer = box.request(
                to,
                content,
                timeout=timeout,
                type=type,
                subject=subject,
                thread=thread,
                ttl=timeout if ttl is None else ttl,
                idempotency_key=idempotency_key,
                headers=_headers(header, urgent),
                seal=seal or None,
                sign=sign or None,
                wait_for_box=wait_for_box,
            )
        messages.show(answer, json=json, body=True)


@contextmanager
def _unheard(box: Mailbox, to: str, type: str | None) -> "Iterator[None]":
    """Print, during a wait, the reason why no process takes the message, if there is one after two seconds.

    A listener that is starting has that time.
    """
    from threading import Timer

    from . import output

    def look() -> None:
        if why := box.unheard(to, type):
            output.info(f"mailbox: {why}: the message waits in its box, and this command for its time")

    timer = Timer(GRACE, look)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _warn_homeless(box: Mailbox) -> None:
    """Print, if the sender has no box of its own, that answers cannot reach it."""
    there = True
    with suppress(StorageError):  # the message is sent, whatever the disk reports now
        there = box.root.has(box.name)
    if not there:
        from . import output  # half of the time that a command takes to start

        known = box.root.missing(box.name)
        near = getattr(known, "near", ())
        advice = f"did you mean --as {near[0]}?" if near else f"`mailbox init {box.name}` makes a box for it"
        output.info(
            f"mailbox: the sender {quoted(box.name)} has no box here, and answers cannot reach it\nhint: {advice}"
        )


def _print_id(id: str, _to: str) -> None:
    print(id)


def _print_json(id: str, to: str) -> None:
    from . import output

    output.write(output.json({"id": id, "to": to}))


def _send_each(
    box: Mailbox, to: str, body: "Any", options: "dict[str, Any]", show: "Callable[[str, str], None]"
) -> int:
    """A line for each recipient; the code of the first failure."""
    from . import exit_codes, output

    code = 0
    for name, result in box.send_group(to, body, **options).items():
        if isinstance(result, str):
            show(result, name) if show is _print_json else print(f"{result}\t{name}")
        else:
            output.error(f"{name}: {result}")
            code = code or exit_codes.of_error(result)
    return code


def _headers(given: list[tuple[str, str]], urgent: bool) -> dict[str, str] | None:
    return {**dict(given), **({"priority": "urgent"} if urgent else {})} or None


def _send_lines(
    box: Mailbox, to: str, json_body: bool, options: "dict[str, Any]", show: "Callable[[str, str], None]"
) -> None:
    """A message for each line as it comes, the ids printed also of those that were sent before one failed."""
    try:
        for group in bodies.lines(json_body):
            for id in box.send_many(to, group, **options):
                show(id, to)
            sys.stdout.flush()
    except Exception as error:
        for id in getattr(error, "sent", ()):
            show(id, to)
        raise
