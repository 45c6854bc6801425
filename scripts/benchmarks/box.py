"""Put, drain and cycle of a box, beside the bare loops of raw.py; and what a backlog costs (backlog.py).

    put     send one message after the other
    drain   take and ack all that was put
    cycle   put one, look afresh, take it, ack it

One process; slices of ours and of the bare loop alternate, and so does which of the two comes first. A figure is the
median of its slices; a ratio is that of two such medians, of one repetition; what is shown is the median of the
repetitions, their lowest and their highest. Only ratios mean much on a machine that others use, too.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Final, Protocol

from filemailbox import Mailbox

from . import backlog, disks
from .raw import GROUP, Raw
from .table import Report, Table, compare

BODY: Final = {"job": 4711, "path": "src/parser/tokens.c", "flags": ["-O2", "-Wall", "-Wextra"], "note": "x" * 132}
"""217 bytes of JSON."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    n: int = 2000  # messages in a slice
    n_flushed: int = 64  # messages in a slice where each waits for a disk
    slices: int = 12  # in a repetition
    repetitions: int = 5
    backlogs: tuple[int, ...] = (10, 10_000, 100_000, 1_000_000)
    looks: int = 5  # times that a backlog is listed
    disks: tuple[str, ...] = ("tmpfs", "ext4")


QUICK: Final = Plan(n=200, n_flushed=64, repetitions=2, backlogs=(10, 10_000, 100_000), looks=2)

_DISKS: Final[dict[str, Callable[[], AbstractContextManager[str]]]] = {"tmpfs": disks.tmpfs, "ext4": disks.ext4}

# What a ratio must reach, by disk, flush and operation. Where nothing stands, the figure is only for information.
_WANTED: Final = {
    ("tmpfs", False, "put"): 0.65,
    ("tmpfs", False, "drain"): 0.45,
    ("tmpfs", False, "cycle"): 0.5,
    ("ext4", True, "put"): 0.9,
}


def measure(*, quick: bool = False, plan: Plan | None = None) -> Report:
    """Measure it all. *plan* overrules *quick*."""
    plan = plan or (QUICK if quick else Plan())
    report = Report()
    for disk in plan.disks:
        try:
            with _DISKS[disk]() as folder:
                for flush in (False, True):
                    report.tables.append(_throughput(disk, folder, flush, plan))
                if disk == "tmpfs":
                    _progress("backlog")
                    report.tables += backlog.measure(folder, plan.backlogs, plan.looks, report.notes)
        except disks.LeftOut as why:
            report.notes.append(f"{disk} is left out: {why}.")
    report.notes.append(
        f"n is the messages of each side (receive + ack: single times; first look: looks), in {plan.repetitions} "
        f"repetitions of {plan.slices} alternating slices."
    )
    return report


class Loop(Protocol):
    """One side of a comparison: each method puts or takes *n* messages."""

    def put(self, n: int) -> None: ...
    def put_many(self, n: int) -> None: ...
    def drain(self, n: int) -> None: ...
    def cycle(self, n: int) -> None: ...
    def close(self) -> None: ...


class Ours:
    """Alice writes to Bob."""

    def __init__(self, folder: str, durable: bool) -> None:
        self._bob = Mailbox.init("bob", folder)
        self._alice = Mailbox("alice", folder, durable=durable)

    def put(self, n: int) -> None:
        send = self._alice.send
        for _ in range(n):
            send("bob", BODY, type="job")

    def put_many(self, n: int) -> None:
        for _ in range(0, n, GROUP):
            self._alice.send_many("bob", [BODY] * GROUP, type="job")

    def drain(self, n: int) -> None:
        receive = self._bob.receive
        for _ in range(n):
            message = receive()
            assert message is not None
            message.ack()

    def cycle(self, n: int) -> None:
        for _ in range(n):
            self.put(1)
            self.drain(1)

    def sample(self) -> bytes:
        """The bytes of one message."""
        self.put(1)
        message = self._bob.receive()
        assert message is not None
        message.ack()
        return message.raw

    def close(self) -> None:
        self._alice.close()
        self._bob.close()


def _throughput(disk: str, folder: str, flush: bool, plan: Plan) -> Table:
    title = f"{disk}, {'each message flushed' if flush else 'not flushed'}"
    n = plan.n_flushed if flush and disk != "tmpfs" else plan.n
    pairs: dict[str, list[list[tuple[float, float]]]] = {}
    place = f"{folder}/{'flushed' if flush else 'plain'}"
    with closing(Ours(place, flush)) as ours, closing(Raw(f"{place}-raw", ours.sample(), flush)) as raw:
        for repetition in range(plan.repetitions):
            _progress(f"{title}, repetition {repetition + 1} of {plan.repetitions}")
            for number in range(plan.slices):
                for what, rates in _slice((ours, raw), n, flush, number % 2 == 1):
                    every = pairs.setdefault(what, [])
                    if number == 0:
                        every.append([])
                    every[-1].append(rates)
    figures = [compare(what, n, every, _WANTED.get((disk, flush, what))) for what, every in pairs.items()]
    return Table(title, "msg/s", "raw", figures)


def _slice(sides: tuple[Loop, Loop], n: int, flush: bool, turned: bool) -> Iterator[tuple[str, tuple[float, float]]]:
    """Each operation once on both sides, in messages a second: what it is, then ours and the other."""
    yield "put", _rates([side.put for side in sides], n, turned)
    yield "drain", _rates([side.drain for side in sides], n, turned)
    yield "cycle", _rates([side.cycle for side in sides], n, turned)
    if flush:
        groups = -(-n // GROUP) * GROUP
        yield f"put, {GROUP} a flush", _rates([side.put_many for side in sides], groups, turned)
        for side in sides:
            side.drain(groups)


def _rates(calls: list[Callable[[int], None]], n: int, turned: bool) -> tuple[float, float]:
    rates = []
    for call in reversed(calls) if turned else calls:
        started = time.perf_counter()
        call(n)
        rates.append(n / (time.perf_counter() - started))
    ours, raw = reversed(rates) if turned else rates
    return ours, raw


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text} …", end="", file=sys.stderr, flush=True)
