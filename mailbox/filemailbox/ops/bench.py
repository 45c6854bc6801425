"""The speed of this volume, the cost of a flush, and the source that wakes a listener: measured in half a minute.

It makes two boxes for that and removes them. The receiver is a process of its own, as in real life.
"""

import contextlib
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from ..client import Mailbox
from ..errors import MailboxError
from ..format.address import Address, parse_address
from ..format.envelope import encode
from ..settings import POLL_INTERVAL
from ..store.box import create_box
from ..store.deliver import deliver
from ..store.ids import new_id
from ..store.root import Root
from ..system.mounts import mount_of

BODY: Final = {"path": "src/main.c", "line": 217, "text": "expected ';' before '}' token" * 10}
_PARTS: Final = 6  # the time is divided between so many measurements
_GAP: Final = 0.004  # seconds between two wake-ups: each is a cold one
_CROWD: Final = 64
_PATIENCE: Final = 10.0  # seconds after which a message will not come any more
_SOURCE: Final = str(Path(__file__).parents[2])


@dataclass(frozen=True, slots=True)
class Measurement:
    """One thing measured."""

    what: str
    median: float  # milliseconds
    p99: float  # milliseconds
    rate: float | None = None  # a second
    works: bool | None = None  # for what wakes: whether it does


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All that was found out about one volume."""

    path: str
    kind: str | None  # of file system
    free: int  # bytes
    figures: list[Measurement]
    advice: list[str]

    def __getitem__(self, what: str) -> Measurement:
        return next(figure for figure in self.figures if figure.what == what)


def measure(root: Root, seconds: float = 30.0, on_part: Callable[[str], object] = str) -> BenchReport:
    """Measure the volume of *root* for about so many *seconds*. *on_part* gets the name of each part at its start.

    Raises PermissionDeniedError if we may not make a box there, DiskFullError and their kin. Nothing is left behind.
    """
    part = seconds / _PARTS
    with _box(root) as name, Mailbox("bench", root.path) as safe, Mailbox("bench", root.path, durable=False) as quick:
        on_part("send")
        unflushed = _each("send, not flushed", part, lambda: quick.send(name, BODY))
        flushed = _each("send, durable", part, lambda: safe.send(name, BODY))
        many = _many(safe, name, part)
        on_part("receive")
        with Mailbox(name, root.path) as reader:
            drained = _drain(reader, part)
        on_part("what wakes a listener")
        bell = _wake(root, name, "doorbell", part, lambda: quick.send(name, BODY))
        moved = _wake(root, name, "notification", part, lambda: _move_in(root, name))
    figures = [flushed, unflushed, many, drained, bell, moved]
    mount, room = mount_of(root.path), os.statvfs(root.path)
    result = BenchReport(root.path, mount.kind if mount else None, room.f_bavail * room.f_frsize, figures, [])
    result.advice.extend(_advice(result))
    return result


@contextlib.contextmanager
def _box(root: Root) -> Iterator[Address]:
    """Make a box under a random name, and remove it afterwards, with all that is in it."""
    name = parse_address(f"bench-{os.urandom(6).hex()}")
    create_box(root.box(name))
    try:
        yield name
    finally:
        hidden = f"{root.path}/.{name}"
        with contextlib.suppress(OSError):
            os.rename(root.box(name), hidden)  # off the map at once
        shutil.rmtree(hidden, ignore_errors=True)


def _each(what: str, seconds: float, act: Callable[[], object]) -> Measurement:
    """Measure the time of one call, over and over."""
    act()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end or len(times) < 2:
        act()
        times.append(time.perf_counter() - began)
    return _figure(what, times, len(times) / sum(times))


def _many(box: Mailbox, to: Address, seconds: float) -> Measurement:
    figure = _each(f"send_many of {_CROWD}", seconds, lambda: box.send_many(to, [BODY] * _CROWD))
    return Measurement(figure.what, figure.median, figure.p99, (figure.rate or 0) * _CROWD)


def _drain(box: Mailbox, seconds: float) -> Measurement:
    """Receive and ack what the sends have left, as far as the time goes."""

    def take() -> None:
        message = box.receive()
        if message is None:
            raise StopIteration
        message.ack()

    times: list[float] = []
    end = time.perf_counter() + seconds
    with contextlib.suppress(StopIteration):
        while (began := time.perf_counter()) < end or len(times) < 2:
            take()
            times.append(time.perf_counter() - began)
        for message in iter(box.receive, None):  # the wake-ups begin with an empty box
            message.ack()
    return _figure("receive and ack", times, len(times) / sum(times))


def _wake(root: Root, name: Address, what: str, seconds: float, send: Callable[[], str]) -> Measurement:
    """From before a send until another process, which was asleep, has the message in its hands."""
    script = f"from filemailbox.ops.bench import listen; listen({root.path!r}, {name!r}, {what == 'notification'})"
    environment = {**os.environ, "PYTHONPATH": f"{_SOURCE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert child.stdout is not None
    times: list[float] = []
    try:
        _told(child, "ready")
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 2:
            time.sleep(_GAP)
            began = time.monotonic_ns()
            times.append((_told(child, send()) - began) / 1e9)
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
    return _figure(f"wake-up by {what}", times[1:] or times, works=median(times) < POLL_INTERVAL / 4)


def listen(root: str, name: str, watch: bool) -> None:
    """The receiver: prints the time at which each message came. Without *watch* only the bell and the poll wake it."""
    box = Mailbox(name, root)
    with box.listening() as listener:
        if watch:
            listener.open()
        else:
            box.receive(timeout=0.001)  # it has hung its bell
        _say("ready")
        for message in listener.messages() if watch else iter(lambda: box.receive(timeout=None), None):
            _say(message.id)
            message.ack()


def _say(word: str) -> None:
    os.write(1, b"%d %s\n" % (time.monotonic_ns(), word.encode()))


def _told(child: subprocess.Popen[bytes], word: str) -> int:
    """Return the time at which the receiver printed *word*. Lines for messages of an earlier receiver are skipped."""
    assert child.stdout is not None
    while True:
        ready, _, _ = select.select([child.stdout], [], [], _PATIENCE)
        line = os.read(child.stdout.fileno(), 4096) if ready else b""
        if not line:
            raise MailboxError(f"the receiver printed nothing for {_PATIENCE:g} s: its errors are above")
        for said in line.decode().splitlines():
            moment, _, spoken = said.partition(" ")
            if spoken == word:
                return int(moment)


def _move_in(root: Root, name: Address) -> str:
    """Move a message in as a script does: without a ring."""
    id = new_id()
    deliver(root, name, id, encode(id, "bench", name, BODY, {}), durable=False)
    return id


def _figure(what: str, times: list[float], rate: float | None = None, works: bool | None = None) -> Measurement:
    p99 = quantiles(times, n=100)[-1] if len(times) > 1 else times[0]
    return Measurement(what, median(times) * 1e3, p99 * 1e3, rate, works)


def _advice(result: BenchReport) -> Iterator[str]:
    flush = result["send, durable"].median - result["send, not flushed"].median
    if result.kind in ("tmpfs", "ramfs"):
        yield "this volume is memory: a restart of the machine deletes its mail, and a flush does nothing"
    elif flush > 10:
        yield (
            f"a flush takes {flush:.0f} ms here: send_many and `send --lines` share one between many messages; "
            "--no-durable and durable=False do without, and a power cut loses the last ones"
        )
    elif flush < 0.02:
        yield "a flush takes no time here: perhaps the disk or virtual machine only claims to flush"
    if not result["wake-up by doorbell"].works:
        yield (
            "the doorbell does not ring here: sockets do not work on this file system, or not between these kernels; "
            f"mail is found by looking, every {POLL_INTERVAL * 1e3:g} ms"
        )
    if not result["wake-up by notification"].works:
        yield (
            "notifications are dead here: mail that is moved in by hand is found by looking, every "
            f"{POLL_INTERVAL * 1e3:g} ms; `watch --poll-interval 50ms` finds it sooner, for 0.8 % of a core"
        )
