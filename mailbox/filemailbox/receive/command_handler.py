"""A command as a handler: it gets the body on its standard input, facts in its environment, and answers by its exit.

| exit | then |
| --- | --- |
| 0 | ack; with --reply, what it printed is the reply |
| 99 | ack, and stop watching |
| 75, 111 | retry later, not counted |
| 65, 100 | dead letter at once |
| 126, 127 | the command itself is broken: the message is put back, watching pauses |
| another, a signal, or a timeout | retry with backoff, then dead letter |

The codes are those of qmail-command(8) and sysexits(3). The body is never in the environment nor in an argument: both
are public on many systems, and limited in size.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final

import orjson

from .. import log
from ..errors import InvalidBodyError
from ..settings import MAX_SIZE
from .listener import Listener
from .message import Message

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_LONGEST: Final = 1024  # bytes of a fact in the environment
_TAIL: Final = 4096  # bytes of what it last said on stderr that are kept for a dead letter
_LATER: Final = 10.0  # seconds after which an uncounted retry comes back
_KILL: Final = 1.0  # seconds between SIGTERM and SIGKILL
_TICK: Final = 0.1  # seconds between two looks at whether we are to stop
_PAUSES: Final = (1.0, 60.0)  # seconds: the first pause for a broken command, the longest

_FACTS: Final = ("sender", "to", "type", "subject", "thread", "in_reply_to", "trust")


@dataclass(slots=True)
class CommandHandler:
    """Runs *argv* for each message. Safe to call from several threads."""

    argv: Sequence[str]
    listener: Listener
    root: str
    agent: str
    timeout: float | None = None  # seconds
    grace: float = 5.0  # seconds that a command may go on when we are to stop
    reply: bool = False
    patient: bool = True  # whether to wait until a broken command is mended; else to stop
    broken: str = ""  # what was wrong with it
    _running: set[int] = field(default_factory=set)
    _pause: float = 0.0
    _guard: threading.Lock = field(default_factory=threading.Lock)  # while it is held, no child of ours is unknown

    def __call__(self, message: Message[Any]) -> str | None:
        """Run it and settle *message* by its exit; or raise what settles it. Returns the reply."""
        run = self._start(message)
        if run is None:
            return None
        try:
            with run:
                ended = run.wait(self._deadline, self._tick)
        finally:
            with self._guard:
                self._running.discard(run.pid)
        self._pause = 0.0 if run.code not in (126, 127) else self._pause
        return self._verifier(message, run, ended)

    def reap(self) -> None:
        """As process 1, take leave of orphans that ended, and leave our own children's exit status to us."""
        if os.getpid() != 1:
            return
        with self._guard, contextlib.suppress(ChildProcessError):
            while True:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # a look that leaves it there
                if ended is None or ended.si_pid in self._running:
                    return  # behind one of ours there may be orphans: the next look finds them
                os.waitpid(ended.si_pid, 0)

    def _start(self, message: Message[Any]) -> "_ChildProcess | None":
        try:
            with _stdin(message.body) as stdin, self._guard:
                run = _ChildProcess(self.argv, stdin, self._environment(message), self.reply)
                self._running.add(run.pid)
                return run
        except (OSError, ValueError) as error:  # no such command, or it may not be run; no more processes
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self._broken(message, f"{self.argv[0]}: {why.lower()}")
            return None

    def _deadline(self, started: float, stopping: float | None) -> tuple[float, str]:
        """Until when the command may run, and what it is then that ends it."""
        ends = [(started + self.timeout, "timeout")] if self.timeout is not None else []
        ends += [(stopping + self.grace, "stopped")] if stopping is not None else []
        return min(ends, default=(float("inf"), ""))

    def _tick(self) -> bool:
        self.listener.on_tick()
        return self.listener.stopping

    def _verifier(self, message: Message[Any], run: "_ChildProcess", ended: str) -> str | None:
        code, said = run.code, run.tail
        if ended == "stopped":
            message.release()
        elif ended == "timeout":
            message.retry(reason=f"the command took longer than {self.timeout:g} s", detail=said)
        elif code in (0, 99):
            if code == 99:
                self.listener.stop()
            return run.reply if self.reply else None
        elif code in (75, 111):
            message.release(_LATER)
        elif code in (65, 100):
            message.reject(f"the command exited with {code}: it can never handle this", said)
        elif code in (126, 127):
            self._broken(message, f"{self.argv[0]} exited with {code}")
        else:
            how = f"exited with {code}" if code > 0 else f"was ended by {_signal_name(-code)}"
            message.retry(reason=f"the command {how}", detail=said)
        return None

    def _broken(self, message: Message[Any], what: str) -> None:
        """A typo in the command must not burn the mail: put it back, say so, and wait or stop."""
        self._pause = pause = min(max(2 * self._pause, _PAUSES[0]), _PAUSES[1])
        message.release(pause)
        self.broken = what
        if not self.patient:
            log.error("the command is broken: %s. The message is put back", what)
            self.listener.stop()
            return
        log.error("the command is broken: %s. The message is put back; trying again in %.0f s", what, pause)
        until = time.monotonic() + pause
        while time.monotonic() < until and not self._tick():
            time.sleep(_TICK)

    def _environment(self, message: Message[Any]) -> dict[str, str]:
        facts = {
            "MAILBOX_FROM" if name == "sender" else f"MAILBOX_{name.upper()}": getattr(message, name) for name in _FACTS
        }
        trace = message.headers.get("traceparent")
        given = {**facts, "TRACEPARENT": trace} if trace else facts
        clean = {name: _clean(text) for name, text in given.items() if text}
        own = {
            "MAILBOX_ID": message.id,
            "MAILBOX_ATTEMPT": str(message.attempt),
            "MAILBOX_FILE": f"{self.root}/{self.agent}/cur/{self.listener.receiver.folder}/{message.name}",
            "MAILBOX_ROOT": self.root,
            "MAILBOX_AGENT": self.agent,
        }
        ours = (*own, *facts)
        return {**{name: value for name, value in os.environ.items() if name not in ours}, **clean, **own}


class _ChildProcess:
    """One run of the command, in a process group of its own."""

    def __init__(self, argv: Sequence[str], stdin: IO[bytes], environment: dict[str, str], reply: bool) -> None:
        self._process = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=subprocess.PIPE if reply else None,
            stderr=subprocess.PIPE,
            env=environment,
            process_group=0,
        )
        self.pid = self._process.pid
        try:
            self._died = os.pidfd_open(self.pid)
        except OSError:
            self._signal(signal.SIGKILL)
            self._process.communicate()
            raise
        assert self._process.stderr is not None
        self._stderr = self._process.stderr.fileno()
        self._said = {pipe.fileno(): bytearray() for pipe in self._pipes()}
        self.started = time.monotonic()
        self.code = 0
        """Its exit code, once it has ended; negative where a signal ended it."""

    def wait(self, deadline: Callable[[float, float | None], tuple[float, str]], tick: Callable[[], bool]) -> str:
        """Wait until it ends. Returns "" where it ended by itself, else why it was ended."""
        ear = select.poll()
        for source in (self._died, *self._said):
            ear.register(source, select.POLLIN)
        stopping: float | None = None
        ended, kill_at = "", float("inf")
        while True:
            heard = {source for source, _ in ear.poll(_TICK * 1000)}
            for source in heard & self._said.keys():
                if not self._hear(source):
                    ear.unregister(source)
            if self._died in heard:
                self._hear_out()
                if ended:  # what it has left running is ended as well; where it ended by itself, that is its own
                    self._signal(signal.SIGKILL)
                return ended
            now = time.monotonic()
            if tick() and stopping is None:
                stopping = now
            limit, why = deadline(self.started, stopping)
            if now >= limit and not ended:
                ended, kill_at = why, now + _KILL
                self._signal(signal.SIGTERM)
            elif now >= kill_at:
                self._signal(signal.SIGKILL)

    @property
    def tail(self) -> str:
        """What it last said on standard error."""
        return self._said[self._stderr].decode("utf-8", "replace")

    @property
    def reply(self) -> str:
        """What it printed. Raises InvalidBodyError where that is no text, or too much."""
        data = b"".join(bytes(said) for source, said in self._said.items() if source != self._stderr)
        if len(data) > MAX_SIZE:
            raise InvalidBodyError(f"the command printed more than {MAX_SIZE} bytes: too much for a reply")
        try:
            return data.decode().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise InvalidBodyError("the command printed what is not UTF-8: no reply can be made of it") from error

    def __enter__(self) -> "_ChildProcess":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._signal(signal.SIGKILL)
        self.code = self._process.wait()
        for pipe in self._pipes():
            pipe.close()
        os.close(self._died)

    def _pipes(self) -> list[IO[bytes]]:
        return [pipe for pipe in (self._process.stdout, self._process.stderr) if pipe is not None]

    def _hear(self, source: int) -> bool:
        """Read what is there; whether there may be more."""
        data = os.read(source, 65536)
        said = self._said[source]
        said += data
        if source == self._stderr:
            with contextlib.suppress(OSError, ValueError):
                os.write(sys.stderr.fileno(), data)
            del said[:-_TAIL]
        elif len(said) > MAX_SIZE:
            del said[MAX_SIZE + 1 :]
        return bool(data)

    def _hear_out(self) -> None:
        """Read what is left in the pipes; a child of the command may hold them open for ever."""
        for source in self._said:
            os.set_blocking(source, False)
            with contextlib.suppress(BlockingIOError):
                while self._hear(source):
                    pass

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)  # it is ours until __exit__() takes leave of it


def _clean(text: str) -> str:
    """Safe in an environment, where control characters and great lengths surprise programs."""
    return _CONTROL.sub(" ", text).encode()[:_LONGEST].decode("utf-8", "ignore")


def _stdin(body: Any) -> IO[bytes]:
    """The body as a file to read: text as it is, other JSON on one line. In memory: any size, no deadlock, no disk."""
    data = body.encode() if isinstance(body, str) else orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)
    file = open(os.memfd_create("body", os.MFD_CLOEXEC), "w+b", buffering=0)  # noqa: SIM115  # the caller closes it
    while data:
        data = data[file.write(data) :]
    file.seek(0)
    return file


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
