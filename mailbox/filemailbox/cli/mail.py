"""Mail: send it, look at it, take it."""

import os
import sys
from typing import Annotated, Any

from ..box import Mailbox
from ..errors import InvalidBody, quoted
from ..message import MAX_SIZE
from .boxes import Root, path_of
from .options import Arg, Opt, count, pair, span

As = Annotated[str | None, Opt("--as", metavar="NAME", help="Whose mail. [$MAILBOX_AGENT]")]
Json = Annotated[bool, Opt("--json", help="One line of JSON for each message.")]


def send_(
    to: Annotated[str, Arg("TO", "The box it goes to.")],
    body: Annotated[str | None, Arg("BODY", "The body; none, or -, reads standard input.")] = None,
    *,
    json: Annotated[bool, Opt("--json", help="BODY is JSON, not text.")] = False,
    lines: Annotated[bool, Opt("--lines", help="A message for each line of standard input.")] = False,
    type: Annotated[str | None, Opt("--type", metavar="TYPE", help="What kind of message it is.")] = None,
    subject: Annotated[str | None, Opt("--subject", "-s", metavar="TEXT", help="A line for people.")] = None,
    thread: Annotated[str | None, Opt("--thread", metavar="THREAD", help="The conversation it belongs to.")] = None,
    in_reply_to: Annotated[str | None, Opt("--in-reply-to", metavar="ID", help="The message that it answers.")] = None,
    ttl: Annotated[
        float | None, Opt("--ttl", metavar="SPAN", read=span, help="After that it is worthless: 30s, 5m, 2d …")
    ] = None,
    after: Annotated[float | None, Opt("--after", metavar="SPAN", read=span, help="Deliver it then, not now.")] = None,
    key: Annotated[str | None, Opt("--key", metavar="KEY", help="Of all with this key, one is handled.")] = None,
    header: Annotated[
        list[tuple[str, str]],
        Opt("--header", "-H", metavar="NAME=VALUE", read=pair, help="A string for programs; can be given again."),
    ] = (),  # type: ignore[assignment]
    no_sync: Annotated[bool, Opt("--no-sync", help="Do not wait for the disk: a power cut may lose it.")] = False,
    sender: As = None,
    root: Root = None,
) -> None:
    """Send a message. Prints its id; then it survives kill -9 and a power cut.

    Examples:
      mailbox send bob "the build is green"
      make 2>&1 | mailbox send bob --type log --subject "build of main"
      mailbox send bob --json '{"path": "x.c"}' --type job --ttl 10m
      find . -name '*.c' | mailbox send bob --lines --type path
    """
    box = Mailbox(sender, path_of(root), durable=not no_sync)
    options: dict[str, Any] = {
        "type": type,
        "subject": subject,
        "thread": thread,
        "in_reply_to": in_reply_to,
        "ttl": ttl,
        "after": after,
        "key": key,
        "headers": dict(header) or None,
    }
    if lines:
        bodies = (_body(line.rstrip("\n"), json) for line in _text_lines())
        for id in box.send_many(to, bodies, **options):
            print(id)
        return
    text = _standard_input() if body is None or body == "-" else body
    print(box.send(to, _body(text, json), **options))


def list_(
    *,
    all: Annotated[bool, Opt("--all", "-a", help="Also what is held, dead, or kept after it was handled.")] = False,
    json: Json = False,
    sender: As = None,
    root: Root = None,
) -> None:
    """List waiting mail. Nothing is taken, nothing changes.

    Any part of an id that fits one message alone names it: `mailbox read 123456789`.

    Examples:
      mailbox list --as bob
      mailbox list --all --json | jq -r 'select(.state == "dead") | .problem'
    """
    from . import show

    box = Mailbox(sender, path_of(root))
    messages = box.peek(*(("new", "later", "cur", "dead", "done") if all else ("new", "later")))
    if json:
        for message in messages:
            _write(show.record(message))
        return
    head = ("ID", "FROM", "TRUST", "TYPE", "SENT", "STATE", "SUBJECT OR BODY")
    show.table(head, (_row(message) for message in messages))


def read_(
    id: Annotated[str, Arg("ID", "Any part of an id that fits one message alone.")],
    *,
    body: Annotated[bool, Opt("--body", help="Only the body.")] = False,
    raw: Annotated[bool, Opt("--raw", help="The bytes of the file, as they are.")] = False,
    json: Json = False,
    sender: As = None,
    root: Root = None,
) -> None:
    """Show one message. It is not taken, nothing changes.

    Examples:
      mailbox read 123456789 --as bob
      mailbox read 123456789 --body
    """
    message = Mailbox(sender, path_of(root)).find(id)
    if raw:
        _write(message.raw)
    else:
        print_message(message, json, body)


def receive_(
    *,
    n: Annotated[int, Opt("-n", "--count", metavar="N", read=count, help="How many at the most. [1]")] = 1,
    wait: Annotated[
        float | None, Opt("--wait", metavar="SPAN", read=span, help="Wait so long for the first: 30s, 5m …")
    ] = None,
    body: Annotated[bool, Opt("--body", help="Only the body.")] = False,
    json: Json = False,
    sender: As = None,
    root: Root = None,
) -> int:
    """Take messages: print each, then ack it. Into a pipe they are printed as JSON, a line each.

    Prints nothing where there is none; with --wait that is exit code 124.

    Examples:
      mailbox receive --as bob --wait 1m
      mailbox receive -n 100 --json | jq .body
      job=$(mailbox receive --body --wait 5m) && make "$job"
    """
    with Mailbox(sender, path_of(root)) as box:
        for number in range(n):
            message = box.receive(timeout=(wait or 0) if number == 0 else 0)
            if message is None:
                return 124 if number == 0 and wait is not None else 0
            with message:  # what cannot be printed is not acked
                print_message(message, json or not (body or sys.stdout.isatty()), body)
    return 0


def print_message(message: Any, json: bool, body: bool) -> None:
    """Show a message: for people, as a line of JSON, or its body alone."""
    from . import show

    if json:
        _write(show.record(message))
        return
    if not body:
        facts = [f"from {show.line(message.sender or 'nobody')}", f"trust {message.trust}"]
        facts += [f"type {show.line(message.type)}"] if message.type else []
        facts += [show.ago(message.sent), message.id]
        print(show.dim(", ".join(facts)))
        for name, value in (("subject", message.subject), ("problem", message.problem)):
            if value:
                print(show.dim(f"{name}: {show.line(value)}"))
    print(show.body(message.body) if sys.stdout.isatty() else _plain(message.body), flush=True)


def _row(message: Any) -> tuple[str, ...]:
    from . import show

    state = (
        f"{message.state}, due {show.ago(message.due)}" if message.state == "later" and message.due else message.state
    )
    about = message.problem or message.subject or message.body
    id = message.id[16:25] if sys.stdout.isatty() and message.id[26:27] == "-" else message.id
    facts = (show.line(id, 40), show.line(message.sender or "", 20), message.trust, show.line(message.type or "", 16))
    sent = show.ago(message.sent) if sys.stdout.isatty() else message.sent.isoformat()
    return (*facts, sent, state, show.line(about, 0 if sys.stdout.isatty() else 200))


def _plain(body: Any) -> str:
    import orjson

    return body if isinstance(body, str) else orjson.dumps(body).decode()


def _body(text: str, json: bool) -> Any:
    if not json:
        return text
    import orjson

    try:
        return orjson.loads(text)
    except ValueError as error:
        raise InvalidBody(f"the body {quoted(text[:60])} is not JSON: {error}") from None


def _standard_input() -> str:
    if sys.stdin is not None and sys.stdin.isatty():
        print("reading the body from the terminal: end it with Ctrl-D", file=sys.stderr)
    data = sys.stdin.buffer.read(MAX_SIZE + 1)
    return _decoded(data).removesuffix("\n")


def _text_lines() -> Any:
    for line in sys.stdin.buffer:
        yield _decoded(line)


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidBody(
            f"the body is not UTF-8 ({error.reason} at byte {error.start}): encode it, as base64"
        ) from None


def _write(data: bytes) -> None:
    sys.stdout.flush()
    view = memoryview(data)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]
