"""Take mail and settle it: receive, ack, retry, reject, reply."""

import os

from ..client import Mailbox
from ..errors import MailboxError, MessageNotFoundError, NotClaimedError, quoted
from . import body as bodies
from .body import AllowEmpty, Body, BodyFile, BodyText, JsonBody
from .common import As, BoxName, Id, Ids, Json, JsonOut, MinTrust, Root, path_of
from .options import Annotated, Opt, count, duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..receive.message import Message

UNKNOWN = (
    "`receive` acks what it prints, which can be answered for an hour, `receive --no-ack` until you settle it; "
    "`mailbox send NAME --in-reply-to ID` answers any other message"
)


def receive_(
    name: BoxName = None,
    *,
    n: Annotated[int, Opt("-n", "--count", metavar="N", read=count, help="How many at the most. [1]")] = 1,
    wait: Annotated[
        float | None, Opt("--wait", metavar="DURATION", read=duration, help="Wait so long for the first: 30s, 5m …")
    ] = None,
    no_ack: Annotated[
        bool, Opt("--no-ack", help="Do not ack: ack, retry, reject or reply by ID settles it, until the lease ends.")
    ] = False,
    lease: Annotated[
        float | None,
        Opt("--lease", metavar="DURATION", read=duration, help="With --no-ack: how long it is ours. [10m]"),
    ] = None,
    type: Annotated[list[str], Opt("--type", metavar="TYPE", help="Only this type; can be given again.")] = (),  # type: ignore[assignment]
    of: Annotated[
        list[str], Opt("--from", metavar="NAME", help="Only mail that names NAME as its sender; can be given again.")
    ] = (),  # type: ignore[assignment]
    thread: Annotated[
        str | None, Opt("--thread", metavar="ID", help="Only the conversation that began with ID.")
    ] = None,
    min_trust: MinTrust = None,
    body: Annotated[bool, Opt("--body", help="Only the body.")] = False,
    json: Json = False,
    sender: As = None,
    root: Root = None,
) -> int:
    """Take messages: print each, then ack it. Into a pipe they are printed as JSON, a line each.

    Prints nothing if there is none; with --wait that is exit code 124. Answer with `mailbox reply ID`: an acked message
    is kept for an hour for that. With --no-ack a message stays claimed when the command has ended: `mailbox ack`,
    `retry`, `reject` or `reply` settles it by its id. If none does until the lease ends, it is delivered again.

    Examples:
      mailbox receive --as bob --wait 1m
      mailbox receive -n 100 --json | jq .body
      mailbox receive --from alice --type question
      job=$(mailbox receive --body --wait 5m) && make "$job"
      id=$(mailbox receive --no-ack --lease 1h | jq -r .id) && work && mailbox ack "$id"
    """
    from ..errors import InvalidRequestError
    from . import output
    from . import show_message as messages

    if lease is not None and not no_ack:
        raise InvalidRequestError("--lease is for --no-ack: without it a message is acked once it is printed")
    if lease == 0:
        raise InvalidRequestError("a lease of 0 ends before it begins: expected a span such as 10m")
    json = json or not (body or output.is_tty())
    own = sender or os.environ.get("MAILBOX_AGENT")
    if name is not None and own is not None and name != own:
        raise InvalidRequestError(
            f"`receive {name}` is not clear: we are {quoted(own)}",
            hint=f"`--from {name}` takes our mail from it, `--as {name}` takes its own mail",
        )
    box = Mailbox(name or sender, path_of(root), lease=(lease or 600.0) if no_ack else None, min_trust=min_trust)
    with box, box.answering_later() as acked:
        box.select(types=type, senders=of, thread=thread)
        for number in range(n):
            message = box.receive(timeout=(wait or 0) if number == 0 else 0)
            if message is None:
                if number == 0:
                    output.empty(f"{box.name}: no mail")
                return 124 if number == 0 and wait is not None else 0
            if not no_ack:
                with message:  # what cannot be printed is not acked
                    messages.show(message, json=json, body=body)
                acked.append(message)
                continue
            try:
                messages.show(message, json=json, body=body, **({"lease": box.leased_until} if json else {}))
            except BaseException:
                message.release()
                raise
            if body or output.is_tty():
                until = output.when(box.leased_until) if box.leased_until else ""
                output.info(f"mailbox: claimed {message.id} until {until}: `mailbox ack {message.id}` settles it")
    return 0


def ack_(id: Ids, *, json: JsonOut = False, sender: As = None, root: Root = None) -> int:
    """Say of messages that `receive --no-ack` took: they are handled.

    Examples:
      mailbox ack 123456789 --as bob
      mailbox receive -n 10 --no-ack --as bob | jq -r .id | xargs mailbox ack --as bob
    """
    return _each(id, sender, root, lambda message: message.ack(), "ack" if json else "")


def retry_(
    id: Ids,
    *,
    delay: Annotated[
        float | None, Opt("--delay", metavar="DURATION", read=duration, help="When it comes back: 30s, 5m … [backoff]")
    ] = None,
    reason: Annotated[str, Opt("--reason", metavar="TEXT", help="Why: it is kept if this was the last attempt.")] = (
        "put back to be retried"
    ),
    json: JsonOut = False,
    sender: As = None,
    root: Root = None,
) -> int:
    """Put back messages that `receive --no-ack` took. The attempt is counted; the last one makes a dead letter.

    Examples:
      mailbox retry 123456789 --as bob
      mailbox retry 123456789 --delay 5m --reason "the disk is full"
    """
    return _each(id, sender, root, lambda message: message.retry(delay, reason), "retry" if json else "")


def reject_(
    id: Ids,
    *,
    reason: Annotated[str, Opt("--reason", metavar="TEXT", help="The reason; it is kept beside the dead letter.")] = (
        "rejected by hand"
    ),
    json: JsonOut = False,
    sender: As = None,
    root: Root = None,
) -> int:
    """Say of messages that `receive --no-ack` took: they can never be handled. They become dead letters.

    Examples:
      mailbox reject 123456789 --as bob --reason "no such path"
    """
    return _each(id, sender, root, lambda message: message.reject(reason), "reject" if json else "")


def extend_(
    id: Ids,
    *,
    duration_: Annotated[
        float, Opt("--for", metavar="DURATION", read=duration, help="How long it is ours from now on. [10m]")
    ] = 600.0,
    sender: As = None,
    root: Root = None,
) -> int:
    """Extend the lease of messages that `receive --no-ack` claimed. Prints the new deadline, one line for each.

    A lease is that of all messages that one command claimed. It never gets shorter.

    Examples:
      mailbox extend 123456789 --for 1h --as bob
    """
    from . import output

    return _each(id, sender, root, lambda message: print(output.exact(message.extend(duration_))), "")


def reply_(
    id: Id,
    body: Body = None,
    *,
    json_body: JsonBody = False,
    body_text: BodyText = None,
    body_file: BodyFile = None,
    allow_empty: AllowEmpty = False,
    type: Annotated[str | None, Opt("--type", metavar="TYPE", help="What kind of message the answer is.")] = None,
    subject: Annotated[str | None, Opt("--subject", "-s", metavar="TEXT", help="A line for people.")] = None,
    keep: Annotated[bool, Opt("--keep", help="Do not ack the message: it stays held.")] = False,
    no_durable: Annotated[bool, Opt("--no-durable", help="Do not wait for the disk: a power cut may lose it.")] = False,
    json: JsonOut = False,
    sender: As = None,
    root: Root = None,
) -> None:
    """Answer a message that `receive` took. Prints the id of the answer.

    A message under a lease (`receive --no-ack`) is acked as well. `receive` acks a message when it prints it, and keeps
    it for an hour: until then this command answers it all the same.

    Examples:
      mailbox reply 123456789 "done" --as bob
      wc -w < essay | mailbox reply 123456789
    """
    from . import output

    with Mailbox(sender, path_of(root), durable=not no_durable) as box:
        content = bodies.given(body, json_body, body_text, body_file, allow_empty)
        try:
            with box.leased(id) as message:
                answer = message.reply(content, keep=keep, type=type, subject=subject)
        except (MessageNotFoundError, NotClaimedError) as error:
            if isinstance(error, MessageNotFoundError) and not str(error).startswith("there is no"):
                raise  # several are claimed
            message = _acked(box, id, error)
            answer = box.answer(message, content, type=type, subject=subject)
            output.info(f"mailbox: answered {message.id}, which was acked before")
        if json:
            output.write(output.json({"id": answer, "to": message.sender}))
        else:
            print(answer)


def _acked(box: Mailbox, id: str, unclaimed: MailboxError) -> "Message[Any]":
    """Return the handled message with that part of an id. Raises MessageNotFoundError, or *unclaimed* for none."""
    try:
        return box.find_handled(id)
    except MessageNotFoundError as error:
        if not str(error).startswith("there is no"):
            raise  # several
        if isinstance(unclaimed, MessageNotFoundError):
            unclaimed.hint = unclaimed.hint or UNKNOWN
            raise unclaimed from None
        raise NotClaimedError(
            f"the message {quoted(id)} is not claimed, and was not handled in the last hour",
            hint=UNKNOWN,
        ) from None


def _each(ids: list[str], sender: str | None, root: str | None, settle: "Callable[[Any], object]", settled: str) -> int:
    """Settle each message. An error with one is printed, and does not stop the others.

    If *settled*, the word for it, is given, a line of JSON is printed for each.
    """
    from . import exit_codes, output

    code = 0
    with Mailbox(sender, path_of(root)) as box:
        for id in ids:
            try:
                with box.leased(id) as message:
                    settle(message)
                    if settled:
                        output.write(output.json({"id": message.id, "settled": settled}))
            except MailboxError as error:
                output.error(error)
                code = code or exit_codes.of_error(error)
    return code
