"""The verbs watch and health: messages as they come, printed or handed to a command; and if a listener keeps up."""

import os
import select
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..client import Mailbox
from ..errors import InvalidRequestError
from ..format.wording import duration_text
from ..settings import POLL_INTERVAL, WATCHERS
from . import show_message as messages
from .common import As, BoxName, Json, MinTrust, Root, named, path_of
from .options import Annotated, Arg, Opt, count, duration, one_of

if TYPE_CHECKING:
    from ..ops.inventory import BoxStatus
    from ..ops.stalls import Cause
    from ..receive.listener import Listener
    from ..system.sd_notify import SdNotify

LOG_FORMATS = ("text", "json")


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
    retries: Annotated[
        bool, Opt("--retries", help="With --drain: wait for messages that failed and come back later.")
    ] = False,
    jobs: Annotated[int, Opt("-j", "--jobs", metavar="N", read=count, help="Run N commands at a time. [1]")] = 1,
    max_attempts: Annotated[
        int | None,
        Opt("--max-attempts", metavar="N", read=count, help="A dead letter after N attempts. [the box's, else 10]"),
    ] = None,
    timeout: Annotated[
        float | None,
        Opt("--timeout", metavar="DURATION", read=duration, help="End a command that takes longer: 30s, 5m …"),
    ] = None,
    grace: Annotated[
        float,
        Opt(
            "--grace",
            metavar="DURATION",
            read=duration,
            help="Time for a command to end after it was asked to stop. [5s]",
        ),
    ] = 5.0,
    reply: Annotated[bool, Opt("--reply", help="What the command prints is the reply.")] = False,
    poll_interval: Annotated[
        float,
        Opt(
            "--poll-interval",
            metavar="DURATION",
            read=duration,
            help="How often to look when nothing announces mail. [250ms]",
        ),
    ] = POLL_INTERVAL,
    watcher: Annotated[
        str | None,
        Opt(
            "--watcher",
            metavar="NAME",
            read=one_of(*WATCHERS),
            values=WATCHERS,
            help="What finds files moved in by hand: watchfiles, inotify (sooner, Linux) or poll. "
            "[$MAILBOX_WATCHER, else watchfiles]",
        ),
    ] = None,
    min_trust: MinTrust = None,
    log_format: Annotated[
        str,
        Opt(
            "--log-format",
            metavar="FORMAT",
            read=one_of(*LOG_FORMATS),
            values=LOG_FORMATS,
            help="How to log on standard error: text or json. [text]",
        ),
    ] = "text",
    json: Json = False,
    sender: As = None,
    root: Root = None,
) -> int:
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
        raise InvalidRequestError("a command after -- and --exec exclude each other: give one")
    argv = ["/bin/sh", "-c", exec] if exec is not None else list(command)
    log_to_stderr(log_format)
    from ..receive.command_handler import CommandHandler
    from ..receive.handlers import HandlerRegistry
    from ..system.sd_notify import SdNotify
    from ..system.stop_signals import signals
    from . import output

    manager, printing = SdNotify(), not argv
    settings: dict[str, Any] = {
        "max_attempts": max_attempts,
        "poll_interval": poll_interval,
        "watcher": watcher,
        "min_trust": min_trust,
    }
    box = Mailbox(sender, path_of(root), **settings)
    with box.listening() as listener, signals(listener.stop):
        patient = not (drain or once)
        runner = CommandHandler(argv, listener, box.root.path, box.name, timeout, grace, reply, patient)
        printer = _Printer(listener, json or not sys.stdout.isatty())
        listener.on_tick += [_heartbeat(listener, manager), printer.look if printing else runner.reap]
        handlers = HandlerRegistry()
        handlers.add(tuple(type), printer if printing else runner, None)
        listener.open(drain)
        manager.say("READY=1", f"STATUS=watching the box {box.name}")
        if patient and n is None and sys.stderr.isatty():
            output.info(f"{box.name}: listening in {box.root.path}, Ctrl-C ends it")
        listener.run(handlers, 1 if printing else jobs, drain, limit=1 if once else n, retries=retries)
        manager.stopping()
    if printer.failure is not None:
        raise printer.failure
    return 1 if runner.broken and not patient else 0


def health_(
    name: BoxName = None,
    *,
    max_age: Annotated[
        float, Opt("--max-age", metavar="DURATION", read=duration, help="Longest silence of an idle listener. [60s]")
    ] = 60.0,
    max_busy: Annotated[
        float, Opt("--max-busy", metavar="DURATION", read=duration, help="Longest work at one message. [10m]")
    ] = 600.0,
    max_wait: Annotated[
        float | None, Opt("--max-wait", metavar="DURATION", read=duration, help="How long mail may have been waiting.")
    ] = None,
    json: Annotated[bool, Opt("--json", help="Print a line of JSON.")] = False,
    sender: As = None,
    root: Root = None,
) -> int:
    """Check if mail flows in a box. Exit code 0 or 1: for HEALTHCHECK and exec probes.

    It fails if there is no listener, or if each is stopped, paused by a broken command or a failing disk, too long at
    one message, or failing again and again; if no listener takes the waiting mail, or the volume is full. The first
    line is the reason.

    Examples:
      mailbox health --as bob
      mailbox health --as bob --max-busy 1h --max-wait 5m
    """
    from ..ops import stalls
    from ..ops.inventory import box_status
    from . import output

    box = Mailbox(named(name, sender), path_of(root))
    status = box_status(box.root.box(box.name))
    found = [*stalls.causes(status, silent=max_age, busy=max_busy), *stalls.volume_causes(box.root.path)]
    reason = _sickness(status, found, max_wait)
    if json:
        causes = [cause.as_dict() for cause in found]
        output.write(output.json({"name": box.name, "healthy": not reason, "reason": reason or None, "causes": causes}))
    else:
        print(f"{box.name}: {reason or _facts(status)}")
    return 1 if reason else 0


def _sickness(status: "BoxStatus", causes: "list[Cause]", max_wait: float | None) -> str:
    """Return the reason why no mail flows; "" if it does."""
    blocking = next((cause.problem for cause in causes if cause.blocks), "")
    if not (status.listeners or status.consumers):
        return blocking or "no listener"
    waited = status.oldest or 0.0
    if not blocking and max_wait is not None and waited > max_wait:
        blocking = f"mail has been waiting for {duration_text(waited)}"
    return f"{blocking} ({_facts(status)})" if blocking else ""


def _facts(status: "BoxStatus") -> str:
    alive = status.listeners
    facts = f"{max(len(alive), status.consumers)} listening"
    if alive:
        facts += f", reported {duration_text(max(0.0, min(each.silent for each in alive)))} ago"
    busy = next((each for each in alive if each.busy), None)
    return facts + (f", busy with {busy.busy} for {duration_text(busy.busy_for)}" if busy else "")


class _Printer:
    """Prints messages. Whoever reads them may leave at any time: what it has not been given is handed back."""

    def __init__(self, listener: "Listener", json: bool) -> None:
        self._listener, self._json = listener, json
        self.failure: OSError | None = None
        """Why printing had to end, where the reader did not just leave."""

    def __call__(self, message: Any) -> None:
        try:
            if not self._left():
                messages.show(message, json=self._json, body=False)
                sys.stdout.flush()
                return
        except OSError as error:  # a full disk is not the message's fault either
            self.failure = None if isinstance(error, BrokenPipeError) else error
        message.release()
        self._listener.stop()
        with open(os.devnull, "wb") as nowhere:  # what is still buffered
            os.dup2(nowhere.fileno(), 1)

    def look(self) -> None:
        """End with the reader, as in `mailbox watch | head`, also when no mail comes."""
        if self._left():
            self._listener.stop()

    def _left(self) -> bool:
        ear = select.poll()
        ear.register(1, 0)
        return any(what & select.POLLERR for _, what in ear.poll(0))


def _heartbeat(listener: "Listener", manager: "SdNotify") -> Callable[[], None]:
    """Return the function that reports the listener to the service manager."""

    def beat() -> None:
        manager.beat()
        if listener.stopping:
            manager.stopping()

    return beat


def log_to_stderr(form: str) -> None:
    """Log to standard error, as text or as JSON."""
    import logging

    class Lines(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            from datetime import UTC, datetime

            import orjson

            from .output import escape

            when = datetime.fromtimestamp(record.created, UTC)
            if form == "json":
                fields = {name: value for name, value in getattr(record, "mailbox", {}).items() if value is not None}
                text = record.getMessage()
                if "traceback" in fields:
                    text = text.partition("\n")[0]
                facts = {"time": when, "level": record.levelname.lower(), **fields, "message": text}
                return orjson.dumps(facts, default=str, option=orjson.OPT_UTC_Z).decode()
            return f"mailbox: {escape(record.getMessage())}"

    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    logger = logging.getLogger("filemailbox")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
