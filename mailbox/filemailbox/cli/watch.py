"""Watching: messages as they come, printed or handed to a command; and whether somebody does."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from ..box import Mailbox
from ..errors import Invalid
from ..rules import RESCAN
from . import message as messages
from .identity import As, Json, Root, path_of
from .options import Arg, Opt, count, one_of, span

if TYPE_CHECKING:
    from ..command import Command
    from ..listener import Listener

FORMS = ("text", "json")


def watch_(
    command: Annotated[list[str], Arg("[-- CMD ARG...]", "A command to run for each message.")] = (),  # type: ignore[assignment]
    *,
    exec: Annotated[str | None, Opt("--exec", metavar="STRING", help="The same, as a line for /bin/sh.")] = None,
    type: Annotated[
        list[str], Opt("--type", metavar="TYPE", help="Only messages of this type; can be given again.")
    ] = (),  # type: ignore[assignment]
    once: Annotated[bool, Opt("--once", help="Stop after one message.")] = False,
    n: Annotated[int | None, Opt("-n", "--count", metavar="N", read=count, help="Stop after N messages.")] = None,
    drain: Annotated[bool, Opt("--drain", help="Stop when there is no more mail.")] = False,
    jobs: Annotated[int, Opt("-j", "--jobs", metavar="N", read=count, help="Run N commands at a time. [1]")] = 1,
    retries: Annotated[int, Opt("--retries", metavar="N", read=count, help="Try a message N times more. [4]")] = 4,
    timeout: Annotated[
        float | None, Opt("--timeout", metavar="SPAN", read=span, help="End a command that takes longer: 30s, 5m …")
    ] = None,
    grace: Annotated[
        float, Opt("--grace", metavar="SPAN", read=span, help="How long a command may go on when told to stop. [5s]")
    ] = 5.0,
    reply: Annotated[bool, Opt("--reply", help="What the command prints is the reply.")] = False,
    rescan: Annotated[
        float, Opt("--rescan", metavar="SPAN", read=span, help="How often to look when nothing announces mail. [250ms]")
    ] = RESCAN,
    log: Annotated[
        str,
        Opt(
            "--log",
            metavar="FORM",
            read=one_of(*FORMS),
            values=FORMS,
            help="How to log on standard error: text or json. [text]",
        ),
    ] = "text",
    json: Json = False,
    sender: As = None,
    root: Root = None,
) -> None:
    """Watch for messages: print each as it comes, then ack it; or run a command for each.

    The command gets the body on its standard input, and MAILBOX_ID, _FROM, _TO, _TYPE, _SUBJECT, _THREAD,
    _IN_REPLY_TO, _ATTEMPT, _TRUST, _FILE and _ROOT in its environment. Its exit code settles the message:
    0 ack; 99 ack and stop watching; 75 or 111 later, not counted; 65 or 100 dead letter at once;
    126 or 127 the command is broken: put back, pause; another, a signal or a timeout: retry with backoff, then dead
    letter with the last lines that it wrote on standard error.

    SIGTERM and SIGINT stop it when the running commands have finished, or after --grace; a second one at once.

    Examples:
      mailbox watch --as bob
      mailbox watch --as bob --json | jq .body
      mailbox watch --as builder --type job --timeout 10m -- make -C /src
      mailbox watch --as clerk --reply --exec 'wc -w'
    """
    if command and exec is not None:
        raise Invalid("a command after -- and --exec exclude each other: give one")
    argv = ["/bin/sh", "-c", exec] if exec is not None else list(command)
    _log(log)
    from ..command import Command
    from ..handlers import Handlers
    from ..listener import signals
    from ..notify import Notify

    manager = Notify()
    box = Mailbox(sender, path_of(root), max_attempts=retries + 1, rescan=rescan)
    with box.listening() as listener, signals(listener.stop):
        runner = Command(argv, listener, box.root.path, box.name, timeout, grace, reply) if argv else None
        listener.on_look = _looking(listener, manager, runner)
        handlers = Handlers()
        handlers.add(tuple(type), runner or _printer(listener, json or not sys.stdout.isatty()), None)
        listener.consumer.begin()
        manager.say("READY=1", f"STATUS=watching the box {box.name}")
        listener.run(handlers, jobs if argv else 1, drain, limit=1 if once else n)
        manager.say("STOPPING=1")


def health_(
    *,
    max_age: Annotated[
        float, Opt("--max-age", metavar="SPAN", read=span, help="How long it may be silent, a command at work. [60s]")
    ] = 60.0,
    max_wait: Annotated[
        float | None, Opt("--max-wait", metavar="SPAN", read=span, help="How long mail may have been waiting.")
    ] = None,
    sender: As = None,
    root: Root = None,
) -> int:
    """Say whether somebody listens to a box and keeps up. Exit code 0 or 1: for HEALTHCHECK and exec probes.

    That a listener lives is asked from the kernel; that it keeps up, from what it last said and from what waits.

    Examples:
      mailbox health --as bob
      mailbox health --as bob --max-age 10m --max-wait 5m
    """
    from datetime import UTC, datetime

    from ..status import listening

    box = Mailbox(sender, path_of(root))
    alive = listening(box.root.box(box.name))
    if not alive:
        print(f"{box.name}: nobody listens")
        return 1
    silent = min(each.silent for each in alive)
    oldest = next((message.sent for message in box.peek("new")), None)
    waited = (datetime.now(UTC) - oldest).total_seconds() if oldest is not None else 0.0
    at = next((f", at {each.busy}" for each in alive if each.busy), "")
    facts = f"{len(alive)} listening, last heard of {shown(silent)} ago{at}"
    if silent > max_age:
        print(f"{box.name}: {facts}: stuck, or at work for longer than {shown(max_age)}")
        return 1
    if max_wait is not None and waited > max_wait:
        print(f"{box.name}: {facts}, but mail has been waiting for {shown(waited)}")
        return 1
    print(f"{box.name}: {facts}")
    return 0


def _printer(listener: "Listener", json: bool) -> Callable[[Any], None]:
    def show(message: Any) -> None:
        try:
            messages.show(message, json=json, body=False)
            sys.stdout.flush()
        except BrokenPipeError:  # `| head`: whoever reads us has had enough
            message.hand_back()
            listener.stop()
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return show


def _looking(listener: "Listener", manager: Any, runner: "Command | None") -> Callable[[], None]:
    """What is done whenever the listener looks up."""

    def look() -> None:
        listener.tell()
        manager.beat()
        if runner is not None and os.getpid() == 1:
            from ..command import reap

            reap(runner.running)

    return look


def shown(seconds: float) -> str:
    """A span of time in one unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{int(seconds)} s"


def _log(form: str) -> None:
    """Log to standard error, as text or as JSON."""
    import logging

    class Lines(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            from datetime import UTC, datetime

            import orjson

            from .show import safe

            when = datetime.fromtimestamp(record.created, UTC)
            if form == "json":
                told = {"time": when, "level": record.levelname.lower(), "message": record.getMessage()}
                return orjson.dumps(told, option=orjson.OPT_UTC_Z).decode()
            return f"mailbox: {safe(record.getMessage())}"

    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    logger = logging.getLogger("filemailbox")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
