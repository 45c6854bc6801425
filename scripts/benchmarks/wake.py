"""From a send to the callback: how long it takes, and what listening costs while nothing comes.

    bare        a process blocked on a datagram socket: lists, reads, parses, unlinks. What all is compared with
    send        ours: send() here, the callback of run(), or of arun(), in the other process
    mv          ours: a script's file renamed into new/, and nobody rings
    stream      the message itself down a Unix stream socket: what a system without files could reach
    watchfiles  as bare, woken by watchfiles with the step of our idle listener
    polling     as bare, looking every 10 ms

Each receiver is a process of its own (receivers.py), and all listen at once. The sender picks one at random, waits for
its callback, and pauses for some milliseconds: every wake-up is a cold one. A time is that from just before the call
that sends to the first line of the callback, on the clock that all processes share. A repetition is a part of the
samples; a ratio is that of two medians, or 99th percentiles, of one repetition; what is shown is the median of the
repetitions, their lowest and their highest.

Of each watcher: what it takes while nothing comes, and how long it takes to find files that are moved in by hand, one
after a time of rest (`from idle`) and each as soon as the one before it was found (`in a conversation`).
"""

import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Final, Protocol, TypeAlias

from filemailbox import Mailbox
from filemailbox.format.envelope import encode
from filemailbox.settings import POLL_INTERVAL, WATCHERS
from filemailbox.store.ids import new_id
from filemailbox.wake.watcher import LIVELY_FOR

from . import disks
from .box import BODY
from .raw import Raw
from .receivers import SAID
from .table import Figure, Report, Table

_GAP: Final = (0.001, 0.005)  # seconds between two samples
_WARM: Final = 5  # messages to each that do not count
_PATIENCE: Final = 30.0  # seconds for a message to come through

_WANTED: Final = {"send, callback": 2.0, "send, async callback": 2.4}  # times bare
_WANTED_FROM_IDLE: Final = 50.0  # ms
_WANTED_CONVERSING: Final = 5.0  # ms
_WANTED_IDLE: Final = 0.5  # % of a core


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    samples: int = 2000  # of each system
    repetitions: int = 5
    idle: float = 10.0  # seconds
    rounds: int = 40  # messages from idle to each of the listeners whose settings are compared
    turns: int = 200  # messages of a conversation with each of them


QUICK: Final = Plan(samples=150, repetitions=2, idle=2.0, rounds=4, turns=20)


def measure(*, quick: bool = False, plan: Plan | None = None) -> Report:
    """Measure it all. *plan* overrules *quick*."""
    plan = plan or (QUICK if quick else Plan())
    report = Report()
    try:
        with disks.tmpfs() as folder:
            with ExitStack() as listening:
                report.tables += _latency(_begin(_SYSTEMS, f"{folder}/systems", listening), plan)
            with ExitStack() as listening:
                report.tables += _settings(_begin(_SETTINGS, f"{folder}/settings", listening), plan)
    except disks.LeftOut as why:
        report.notes.append(f"tmpfs is left out: {why}.")
    report.notes.append(
        f"n is the messages to each, in {plan.repetitions} repetitions, {_GAP[0] * 1e3:g} to {_GAP[1] * 1e3:g} ms "
        f"apart; idle: {plan.idle:g} s in which nothing came."
    )
    report.notes.append(
        "Mailbox(poll_interval=…) trades what an idle listener costs for the time until unannounced mail is found."
    )
    return report


def _latency(systems: dict[str, "System"], plan: Plan) -> list[Table]:
    """How long it takes from the send to the callback, of all messages and of the slow ones."""
    for system in systems.values():
        for _ in range(_WARM):
            system.send()
            system.said()
    times: dict[str, list[float]] = {what: [] for what in systems}
    order = list(systems) * plan.samples
    random.shuffle(order)
    for number, what in enumerate(order):
        if number % 100 == 0:
            _progress(f"message {number} of {len(order)}")
        sent = systems[what].send()
        began, _ = systems[what].said()
        times[what].append((began - sent) / 1e3)
        time.sleep(random.uniform(*_GAP))
    title = "tmpfs, from the send to the callback"
    return [
        _compared(f"{title}: median", times, median, plan.repetitions, _WANTED),
        _compared(f"{title}: 99th percentile", times, _slowest, plan.repetitions, {}),
    ]


def _compared(
    title: str, times: dict[str, list[float]], of: Callable[[list[float]], float], parts: int, wanted: dict[str, float]
) -> Table:
    bare, figures = times["bare"], []
    for what, ours in times.items():
        if what != "bare":
            size = len(ours) // parts
            slices = [slice(part * size, (part + 1) * size) for part in range(parts)]
            ratios = [of(ours[each]) / of(bare[each]) for each in slices]
            spread = (min(ratios), max(ratios))
            figures.append(
                Figure(what, len(ours), of(ours), of(bare), median(ratios), spread, wanted.get(what), "at most")
            )
    return Table(title, "µs", "bare", figures)


def _slowest(times: list[float]) -> float:
    """The 99th percentile."""
    return quantiles(times, n=100, method="inclusive")[-1] if len(times) > 1 else times[0]


def _settings(listeners: dict[str, "System"], plan: Plan) -> list[Table]:
    """What it costs to listen, and how soon mail is found that nobody rings for."""
    _to_all(listeners)  # what is done only once
    time.sleep(LIVELY_FOR)
    _progress("idle")
    before = {what: listener.used() for what, listener in listeners.items()}
    time.sleep(plan.idle)
    after = {what: listener.used() for what, listener in listeners.items()}
    idle = []
    for what in listeners:
        wanted = _WANTED_IDLE if what == _DEFAULTS else None
        share = 100 * (after[what] - before[what]) / plan.idle
        idle.append(Figure(what, 1, share, wanted=wanted, bound="at most"))
    found: dict[str, list[float]] = {what: [] for what in listeners}
    for number in range(plan.rounds):
        _progress(f"round {number + 1} of {plan.rounds}")
        time.sleep(LIVELY_FOR + random.uniform(0, 1))  # at any moment between two looks of theirs
        for what, (sent, began, _) in _to_all(listeners).items():
            found[what].append((began - sent) / 1e6)
    conversing: dict[str, list[float]] = {what: [] for what in listeners}
    for what, listener in listeners.items():
        _progress(f"a conversation: {what}")
        for _ in range(plan.turns):
            sent = listener.send()
            began, _ = listener.said()
            conversing[what].append((began - sent) / 1e6)
            time.sleep(random.uniform(*_GAP))
    return [
        Table("tmpfs, an idle listener", "% of a core", "", idle),
        _found("from idle", found, _WANTED_FROM_IDLE),
        _found("in a conversation", conversing, _WANTED_CONVERSING),
    ]


def _found(when: str, times: dict[str, list[float]], wanted: float) -> Table:
    """How soon mail is found that nobody rings for."""
    return Table(
        f"tmpfs, the same listeners, from mv to the callback, {when}: median",
        "ms",
        "",
        [
            Figure(what, len(each), median(each), wanted=wanted if what == _DEFAULTS else None, bound="at most")
            for what, each in times.items()
        ],
    )


def _to_all(listeners: dict[str, "System"]) -> dict[str, tuple[int, int, int]]:
    """A message to each: when it was sent, when its callback began, and the CPU time of the receiver; all in ns."""
    sent = {what: listeners[what].send() for what in random.sample(list(listeners), len(listeners))}
    return {what: (sent[what], *listener.said()) for what, listener in listeners.items()}


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text} …", end="", file=sys.stderr, flush=True)


# Those who send, in this process


class Sender(Protocol):
    """Only send() is measured."""

    def prepare(self) -> None: ...
    def send(self) -> None: ...
    def close(self) -> None: ...


class Files:
    """A file for each message: create, write, rename."""

    def __init__(self, folder: str) -> None:
        self._raw = Raw(folder, _DATA, flush=False)

    def prepare(self) -> None:
        pass

    def send(self) -> None:
        self._raw.put(1)

    def close(self) -> None:
        self._raw.close()


class Bare(Files):
    """And one byte to a socket."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._socket, self._bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), f"{folder}/bell"

    def send(self) -> None:
        self._raw.put(1)
        self._socket.sendto(b"!", socket.MSG_DONTWAIT, self._bell)

    def close(self) -> None:
        super().close()
        self._socket.close()


class Ours:
    """Alice writes to Bob."""

    def __init__(self, folder: str) -> None:
        Mailbox.init("bob", folder).close()
        self._alice = Mailbox("alice", folder, durable=False)

    def prepare(self) -> None:
        pass

    def send(self) -> None:
        self._alice.send("bob", BODY, type="job")

    def close(self) -> None:
        self._alice.close()


class Moved:
    """A script's file, under a name of its own."""

    def __init__(self, folder: str) -> None:
        Mailbox.init("bob", folder).close()
        self._draft, self._final = f"{folder}/bob/tmp/from-a-script.json", f"{folder}/bob/new/from-a-script.json"

    def prepare(self) -> None:
        with open(self._draft, "xb") as file:
            file.write(_DATA)

    def send(self) -> None:
        os.rename(self._draft, self._final)

    def close(self) -> None:
        pass


class Stream:
    """A stream that stays connected."""

    def __init__(self, folder: str) -> None:
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(f"{folder}/stream")
        self._listening.listen(1)
        self._stream: socket.socket | None = None

    def prepare(self) -> None:
        if self._stream is None:
            self._stream, _ = self._listening.accept()

    def send(self) -> None:
        assert self._stream is not None
        self._stream.sendall(_DATA)

    def close(self) -> None:
        self._listening.close()
        if self._stream is not None:
            self._stream.close()


class System:
    """A sender, and the process that receives what it sends."""

    def __init__(self, sender: Callable[[str], Sender], folder: str, *how: str) -> None:
        os.makedirs(folder)
        self._sender = sender(folder)
        self._pipe, into = os.pipe()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", f"{__package__}.receivers", folder, str(into), *how]
        self._process = subprocess.Popen(command, env=environment, pass_fds=[into])
        os.close(into)

    def send(self) -> int:
        """Send a message. Returns the clock just before, in ns."""
        self._sender.prepare()
        now = time.monotonic_ns()
        self._sender.send()
        return now

    def said(self) -> tuple[int, int]:
        """What the receiver says next, once it does: see receivers.SAID."""
        if not select.select([self._pipe], [], [], _PATIENCE)[0]:
            raise RuntimeError(f"nothing was heard for {_PATIENCE:g} s by {self._process.args!r}")
        data = os.read(self._pipe, SAID.size)
        if not data:
            raise RuntimeError(f"it has ended: {self._process.args!r}")
        clock, used = SAID.unpack(data)
        return clock, used

    def used(self) -> float:
        """The CPU time of the receiver so far, in seconds."""
        return time.clock_gettime((~self._process.pid << 3) | 2)  # clock_getcpuclockid(3): all its threads

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._sender.close()
        os.close(self._pipe)


_Systems: TypeAlias = dict[str, tuple[Callable[[str], Sender], tuple[str, ...]]]

_DATA: Final = encode(new_id(), "alice", "bob", BODY, {"type": "job"})

_SYSTEMS: Final[_Systems] = {
    "bare": (Bare, ("bare",)),
    "send, callback": (Ours, ("ours",)),
    "send, async callback": (Ours, ("ours-async",)),
    "mv, callback": (Moved, ("ours",)),
    "stream": (Stream, ("stream",)),
    "watchfiles": (Files, ("watchfiles",)),
    "polling": (Files, ("polling",)),
}

_DEFAULTS: Final = f"{WATCHERS[0]}, poll {POLL_INTERVAL * 1e3:g} ms (the defaults)"
_SETTINGS: Final[_Systems] = {
    _DEFAULTS: (Moved, ("ours",)),
    f"inotify, poll {POLL_INTERVAL * 1e3:g} ms": (Moved, ("ours", "inotify")),
    **{
        f"poll {poll_interval * 1e3:g} ms": (Moved, ("ours", "poll", str(poll_interval)))
        for poll_interval in (0.05, POLL_INTERVAL, 1.0)
    },
}


def _begin(systems: _Systems, folder: str, until: ExitStack) -> dict[str, System]:
    """Start them all, and wait until they listen."""
    started = {
        what: until.enter_context(closing(System(sender, f"{folder}/{number}", *how)))
        for number, (what, (sender, how)) in enumerate(systems.items())
    }
    for system in started.values():
        system.said()
    return started
