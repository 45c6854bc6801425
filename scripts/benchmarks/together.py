"""Durable sends at once: threads and coroutines of one process share a flush, beside one message after the other.

In one process on an ext4 with a journal, in alternating slices: so many threads, or coroutines with asend(), send
until all messages are sent; then one thread sends as many. A repetition is a part of the slices.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from filemailbox import Mailbox

from . import disks
from .box import BODY
from .table import Report, Table, compare

AT_ONCE: Final = (1, 4, 16)
_WANTED: Final = {"16 threads": 5.0, "16 coroutines": 5.0, "1 thread": 0.97}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    n: int = 480  # messages of each side in a slice
    slices: int = 6
    repetitions: int = 5


QUICK: Final = Plan(n=96, slices=2, repetitions=2)


def measure(*, quick: bool = False, plan: Plan | None = None) -> Report:
    """Measure it all. *plan* overrules *quick*."""
    plan = plan or (QUICK if quick else Plan())
    report = Report()
    try:
        with disks.ext4() as folder:
            Mailbox.init("bob", folder).close()
            with closing(Mailbox("alice", folder)) as alice, closing(Mailbox("bob", folder)) as bob:
                report.tables.append(_together(alice, bob, plan))
    except disks.LeftOut as why:
        report.notes.append(f"ext4 is left out: {why}.")
    report.notes.append(
        "The ratio grows with the time that a flush takes: on a disk that flushes in "
        "0.2 ms, the interpreter is the limit."
    )
    return report


def _together(alice: Mailbox, bob: Mailbox, plan: Plan) -> Table:
    sides: dict[str, Callable[[int], None]] = {}
    for number in AT_ONCE:
        sides[f"{number} thread{'s' if number > 1 else ''}"] = lambda n, k=number: _threads(alice, k, n)  # type: ignore[misc]
        sides[f"{number} coroutine{'s' if number > 1 else ''}"] = lambda n, k=number: _coroutines(alice, k, n)  # type: ignore[misc]
    pairs: dict[str, list[list[tuple[float, float]]]] = {what: [] for what in sides}
    for _ in range(plan.repetitions):
        for number in range(plan.slices):
            for what, side in sides.items():
                rates = [_rate(call, plan.n, bob) for call in _in_turn(side, lambda n: _threads(alice, 0, n), number)]
                if number == 0:
                    pairs[what].append([])
                pairs[what][-1].append((rates[number % 2], rates[1 - number % 2]))
    figures = [compare(what, plan.n, every, _WANTED.get(what)) for what, every in pairs.items()]
    return Table("ext4 with a journal, each message flushed", "msg/s", "one by one", figures)


def _in_turn(
    one: Callable[[int], None], other: Callable[[int], None], number: int
) -> tuple[Callable[[int], None], Callable[[int], None]]:
    return (other, one) if number % 2 else (one, other)


def _rate(call: Callable[[int], None], n: int, bob: Mailbox) -> float:
    started = time.perf_counter()
    call(n)
    rate = n / (time.perf_counter() - started)
    while (message := bob.receive()) is not None:
        message.ack()
    return rate


def _threads(alice: Mailbox, number: int, n: int) -> None:
    def send(n: int) -> None:
        for _ in range(n):
            alice.send("bob", BODY)

    if number == 0:  # in this thread
        return send(n)
    threads = [threading.Thread(target=send, args=(n // number,)) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return None


def _coroutines(alice: Mailbox, number: int, n: int) -> None:
    async def send() -> None:
        for _ in range(n // number):
            await alice.asend("bob", BODY)

    async def all_at_once() -> None:
        await asyncio.gather(*(send() for _ in range(number)))

    asyncio.run(all_at_once())
