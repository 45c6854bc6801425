"""A command as a handler: it gets the body on standard input, the envelope in its environment, and settles by its exit.

| exit status | then |
| --- | --- |
| 0 | ack; with --reply, its output is the reply |
| 99 | ack, and stop watching |
| 75, 111 | release for 10 s, attempt not counted |
| 65, 100 | dead letter at once |
| 126, 127 | the command itself is broken: release the message, pause |
| another, a signal, or a timeout | retry with backoff, then dead letter |

The codes are those of qmail-command(8) and sysexits(3). The body is never in the environment or in an argument:
both are public on many systems, and limited in size.
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
_MAX_VARIABLE: Final = 1024  # bytes of an envelope field in the environment
_STDERR_TAIL: Final = 4096  # bytes of the end of its standard error that a dead letter keeps
_RELEASE_DELAY: Final = 10.0  # seconds until a message is delivered again after exit 75 or 111
_KILL_AFTER: Final = 1.0  # seconds between SIGTERM and SIGKILL
_TICK: Final = 0.1  # seconds between two checks for a stop
_FIRST_PAUSE: Final = 1.0  # seconds, after the first run of a broken command; doubled each time
_MAX_PAUSE: Final = 60.0  # seconds

_FIELDS: Final = ("sender", "to", "type", "subject", "thread", "in_reply_to", "trust")


@dataclass(slots=True)
class CommandHandler:
    """Runs *argv* for each message. Thread-safe."""

    argv: Sequence[str]
    listener: Listener
    root: str
    agent: str
    timeout: float | None = None
    """Seconds that a run may take."""
    grace: float = 5.0
    """Seconds that a run may go on after stop()."""
    reply: bool = False
    """Send its output as the reply."""
    patient: bool = True
    """Pause while the command is broken, and try again. Else stop the listener."""
    broken: str = ""
    """The last reason for which the command was broken; "" if it never was."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    pause: float = 0.0
    """Seconds of the last pause for a broken command; 0 after a run that was not broken."""
    _running: set[int] = field(default_factory=set)
    _guard: threading.Lock = field(default_factory=threading.Lock)  # while it is held, _running names all children

    def __call__(self, message: Message[Any]) -> str | None:
        """Run it and settle *message* by its exit status, or raise an exception that settles it. Returns the reply."""
        run = self._start(message)
        if run is None:
            return None
        try:
            with run:
                ended = run.wait(self._deadline, self._tick)
        finally:
            with self._guard:
                self._running.discard(run.pid)
        if run.code not in (126, 127):
            self.pause = 0.0
            self.listener.resume()
        return self._settle(message, run, ended)

    def reap(self) -> None:
        """As process 1, reap orphans that ended. Leaves the exit status of the command itself to wait()."""
        if os.getpid() != 1:
            return
        with self._guard, contextlib.suppress(ChildProcessError):
            while True:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # peek
                if ended is None or ended.si_pid in self._running:
                    return  # orphans behind it are found at the next call
                os.waitpid(ended.si_pid, 0)

    def _start(self, message: Message[Any]) -> "_ChildProcess | None":
        try:
            with _stdin(message.body) as stdin, self._guard:
                run = _ChildProcess(self.argv, stdin, self._environment(message), self.reply)
                self._running.add(run.pid)
                return run
        except (OSError, ValueError) as error:  # no such command, no permission, no more processes
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self._broken(message, f"{self.argv[0]}: {reason.lower()}")
            return None

    def _deadline(self, started: float, stopping: float | None) -> tuple[float, str]:
        """Return the time at which the command is ended, and the reason: "timeout" or "stopped"."""
        ends = [(started + self.timeout, "timeout")] if self.timeout is not None else []
        ends += [(stopping + self.grace, "stopped")] if stopping is not None else []
        return min(ends, default=(float("inf"), ""))

    def _tick(self) -> bool:
        self.listener.tick()
        return self.listener.stopping

    def _settle(self, message: Message[Any], run: "_ChildProcess", ended: str) -> str | None:
        code, detail = run.code, run.stderr_tail
        if ended == "stopped":
            message.release()
        elif ended == "timeout":
            message.retry(reason=f"the command took longer than {self.timeout:g} s", detail=detail)
        elif code in (0, 99):
            if code == 99:
                self.listener.stop()
            return run.reply if self.reply else None
        elif code in (75, 111):
            message.release(_RELEASE_DELAY)
        elif code in (65, 100):
            message.reject(f"the command exited with {code}: it can never handle this", detail)
        elif code in (126, 127):
            self._broken(message, f"{self.argv[0]} exited with {code}")
        else:
            ending = f"exited with {code}" if code > 0 else f"was ended by {_signal_name(-code)}"
            message.retry(reason=f"the command {ending}", detail=detail)
        return None

    def _broken(self, message: Message[Any], reason: str) -> None:
        """Release the message, log the error, and pause or stop: a typo in the command must not use up attempts."""
        self.pause = pause = min(max(2 * self.pause, _FIRST_PAUSE), _MAX_PAUSE)
        message.release(pause)
        self.broken = reason
        self.listener.pause(f"the command is broken: {reason}")
        if not self.patient:
            log.error("the command is broken: %s. The message is released", reason)
            self.listener.stop()
            return
        log.error("the command is broken: %s. The message is released; trying again in %.0f s", reason, pause)
        deadline = self.clock() + pause
        while self.clock() < deadline and not self._tick():
            self.sleep(_TICK)

    def _environment(self, message: Message[Any]) -> dict[str, str]:
        fields = {
            "MAILBOX_FROM" if name == "sender" else f"MAILBOX_{name.upper()}": getattr(message, name)
            for name in _FIELDS
        }
        trace = message.headers.get("traceparent")
        given = {**fields, "TRACEPARENT": trace} if trace else fields
        clean = {name: _clean(text) for name, text in given.items() if text}
        own = {
            "MAILBOX_ID": message.id,
            "MAILBOX_ATTEMPT": str(message.attempt),
            "MAILBOX_HOPS": str(message.hops),
            "MAILBOX_FILE": f"{self.root}/{self.agent}/cur/{self.listener.receiver.folder}/{message.name}",
            "MAILBOX_ROOT": self.root,
            "MAILBOX_AGENT": self.agent,
        }
        reserved = (*own, *fields)
        return {**{name: value for name, value in os.environ.items() if name not in reserved}, **clean, **own}


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
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            self._signal(signal.SIGKILL)
            self._process.communicate()
            raise
        assert self._process.stderr is not None
        self._stderr = self._process.stderr.fileno()
        self._output = {pipe.fileno(): bytearray() for pipe in self._pipes()}
        self.started = time.monotonic()
        self.code = 0
        """Its exit status, once it has ended; minus the signal that ended it."""

    def wait(self, deadline: Callable[[float, float | None], tuple[float, str]], tick: Callable[[], bool]) -> str:
        """Wait until it ends. Returns "" if it ended by itself, else the reason from *deadline*."""
        poller = select.poll()
        for source in (self._pidfd, *self._output):
            poller.register(source, select.POLLIN)
        stopping: float | None = None
        ended, kill_at = "", float("inf")
        while True:
            readable = {source for source, _ in poller.poll(_TICK * 1000)}
            for source in readable & self._output.keys():
                if not self._read(source):
                    poller.unregister(source)
            if self._pidfd in readable:
                self._read_rest()
                if ended:  # its children are ended as well; they may go on if it ended by itself
                    self._signal(signal.SIGKILL)
                return ended
            now = time.monotonic()
            if tick() and stopping is None:
                stopping = now
            limit, reason = deadline(self.started, stopping)
            if now >= limit and not ended:
                ended, kill_at = reason, now + _KILL_AFTER
                self._signal(signal.SIGTERM)
            elif now >= kill_at:
                self._signal(signal.SIGKILL)

    @property
    def stderr_tail(self) -> str:
        """The end of its standard error."""
        return self._output[self._stderr].decode("utf-8", "replace")

    @property
    def reply(self) -> str:
        """Its output. Raises InvalidBodyError if that is not UTF-8 or too long."""
        data = b"".join(bytes(output) for source, output in self._output.items() if source != self._stderr)
        if len(data) > MAX_SIZE:
            raise InvalidBodyError(f"the command printed more than {MAX_SIZE} bytes: too much for a reply")
        try:
            return data.decode().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise InvalidBodyError("the output of the command is not UTF-8: it cannot be a reply") from error

    def __enter__(self) -> "_ChildProcess":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._signal(signal.SIGKILL)
        self.code = self._process.wait()
        for pipe in self._pipes():
            pipe.close()
        os.close(self._pidfd)

    def _pipes(self) -> list[IO[bytes]]:
        return [pipe for pipe in (self._process.stdout, self._process.stderr) if pipe is not None]

    def _read(self, source: int) -> bool:
        """Read the next bytes. Returns False at the end."""
        data = os.read(source, 65536)
        output = self._output[source]
        output += data
        if source == self._stderr:
            with contextlib.suppress(OSError, ValueError):
                os.write(sys.stderr.fileno(), data)
            del output[:-_STDERR_TAIL]
        elif len(output) > MAX_SIZE:
            del output[MAX_SIZE + 1 :]
        return bool(data)

    def _read_rest(self) -> None:
        """Read the rest of the pipes without blocking: a child of the command may keep them open."""
        for source in self._output:
            os.set_blocking(source, False)
            with contextlib.suppress(BlockingIOError):
                while self._read(source):
                    pass

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)  # the pid is not reused until __exit__() has waited for it


def _clean(text: str) -> str:
    """Return *text* without control characters, and cut: programs expect neither in the environment."""
    return _CONTROL.sub(" ", text).encode()[:_MAX_VARIABLE].decode("utf-8", "ignore")


def _stdin(body: Any) -> IO[bytes]:
    """Return the body as a file in memory: text as it is, other JSON on one line. Never blocks, needs no disk."""
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
