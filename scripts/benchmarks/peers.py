"""What people use instead, beside us: how fast, with a backlog, and after kill -9.

    put      put one message after the other
    drain    take and settle all that was put
    cycle    put one, take it, settle it
    backlog  the first take of a fresh reader where many wait, and one more take after it
    kill -9  three writers and three readers, one of whom is killed every now and then and begins anew: exact counts of
             what was lost, came twice, or came out of order from one writer to one reader

Slices of ours and of each peer alternate. A ratio is ours / theirs of two medians, in messages a second; for a backlog,
theirs / ours of two times. Ahead is above 1. On the tmpfs a flush costs nothing, so all are compared; on the ext4 only
those who flush each message. The peers are installed when they are first wanted.
"""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from . import disks, rivals
from .box import BODY
from .table import Figure, Grid, Report, Table

_HOME: Final = Path(__file__).resolve().parents[2]
_WRITERS = _READERS = 3
_PAUSE: Final = (0.02, 0.06)  # seconds between two kills
_LONGEST: Final = 120.0  # seconds after which nobody is begun anew
_STILL: Final = 1.0  # seconds without a message after which a reader's work is taken to be over


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    n: int = 500  # messages in a slice
    n_flushed: int = 50
    slices: int = 5
    backlog: int = 100_000
    stress: int = 12_000  # messages in all


QUICK: Final = Plan(n=100, n_flushed=20, slices=3, backlog=2000, stress=600)


def measure(*, quick: bool = False, plan: Plan | None = None, names: tuple[str, ...] | None = None) -> Report:
    """Measure it all. *plan* overrules *quick*; *names* are the peers, by default all."""
    plan = plan or (QUICK if quick else Plan())
    peers = [name for name in names or tuple(rivals.ALL) if name != rivals.OURS]
    _install(peers)
    report = Report()
    try:
        with disks.tmpfs() as folder:
            report.tables += _speed(f"{folder}/speed", "tmpfs", peers, plan.n, plan.slices, durable=False)
            report.tables += _backlog(f"{folder}/backlog", peers, plan.backlog)
            report.grids.append(_stress(f"{folder}/stress", peers, plan.stress))
    except disks.LeftOut as why:
        report.notes.append(f"tmpfs is left out: {why}.")
    flushing = [name for name in peers if rivals.ALL[name][1] == rivals.FLUSHED]
    try:
        with disks.ext4() as folder:
            report.tables += _speed(f"{folder}/speed", "ext4", flushing, plan.n_flushed, plan.slices, durable=True)
    except disks.LeftOut as why:
        report.notes.append(f"ext4 is left out: {why}.")
    report.notes.append("Beside the bare loops: `scripts/bench box`.")
    return report


def _install(peers: list[str]) -> None:
    """The peers are no part of what we need."""
    if any(importlib.util.find_spec(rivals.PACKAGES[name]) is None for name in peers if name in rivals.PACKAGES):
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--group", "peers"]
        subprocess.run(pip, cwd=_HOME, check=True, stdout=sys.stderr)
        importlib.invalidate_caches()


# Speed


def _speed(folder: str, disk: str, peers: list[str], n: int, slices: int, *, durable: bool) -> list[Table]:
    rates: dict[str, dict[str, list[float]]] = {}
    os.makedirs(folder)
    every = {
        name: rivals.ALL[name][0](f"{folder}/{number}", durable) for number, name in _numbered([rivals.OURS, *peers])
    }
    for number in range(slices + 1):
        for name, queue in random.sample(sorted(every.items()), len(every)):
            _progress(f"{disk}: {name}, slice {number} of {slices}")
            for what, rate in (("put", _put(queue, n)), ("drain", _drain(queue, n)), ("cycle", _cycle(queue, n))):
                if number > 0:  # the first is to warm up
                    rates.setdefault(what, {}).setdefault(name, []).append(rate)
    for queue in every.values():
        queue.close()
    flushed = "each message flushed" if durable else "nothing flushed that need not be"
    return [
        Table(f"{disk}, {flushed}: {what}", "msg/s", "theirs", [_beside(name, n, by) for name in peers])
        for what, by in rates.items()
    ]


def _beside(name: str, n: int, rates: dict[str, list[float]]) -> Figure:
    ours, theirs = rates[rivals.OURS], rates[name]
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    value = median(ours) / median(theirs)
    return Figure(name, n * len(theirs), median(ours), median(theirs), value, (min(ratios), max(ratios)), 1.0)


def _put(queue: rivals.Queue, n: int) -> float:
    return _rate(n, lambda: queue.put(BODY))


def _drain(queue: rivals.Queue, n: int) -> float:
    return _rate(n, lambda: _take(queue))


def _cycle(queue: rivals.Queue, n: int) -> float:
    def cycle() -> None:
        queue.put(BODY)
        _take(queue)

    return _rate(n, cycle)


def _take(queue: rivals.Queue) -> None:
    if queue.take() is None:
        raise AssertionError(f"{type(queue).__name__} gives nothing back of what was put into it")
    queue.done()


def _rate(n: int, act: Callable[[], None]) -> float:
    began = time.perf_counter()
    for _ in range(n):
        act()
    return n / (time.perf_counter() - began)


# Backlog


def _backlog(folder: str, peers: list[str], n: int) -> list[Table]:
    os.makedirs(folder)
    first: dict[str, float] = {}
    then: dict[str, float] = {}
    for number, name in _numbered([rivals.OURS, *peers]):
        place = f"{folder}/{number}"
        with closing(rivals.ALL[name][0](f"{place}-first", False)) as queue:
            queue.take()  # what is imported only then takes no part
        with closing(rivals.ALL[name][0](place, False)) as queue:
            for each in range(n):
                if each % 1000 == 0:
                    _progress(f"backlog: {name}, {each} of {n}")
                queue.put(BODY)
        with closing(rivals.ALL[name][0](place, False)) as queue:
            began = time.perf_counter()
            _take(queue)
            first[name] = (time.perf_counter() - began) * 1e3
            times = []
            for _ in range(5):
                queue.put(BODY)  # what a reader may have kept in mind is not all any more
                began = time.perf_counter()
                _take(queue)
                times.append((time.perf_counter() - began) * 1e3)
            then[name] = median(times)
    title = f"tmpfs, {n} waiting"
    return [
        Table(f"{title}: {what}", "ms", "theirs", [_faster(name, by, looks) for name in peers])
        for what, by, looks in (("the first take of a fresh reader", first, 1), ("a take after it", then, 5))
    ]


def _faster(name: str, by: dict[str, float], looks: int) -> Figure:
    return Figure(name, looks, by[rivals.OURS], by[name], by[name] / by[rivals.OURS], None, 1.0)


# kill -9


def _stress(folder: str, peers: list[str], n: int) -> Grid:
    rows: list[tuple[str, ...]] = []
    for number, name in _numbered([rivals.OURS, *peers]):
        opened = rivals.ALL[name][0]
        _progress(f"several processes: {name}")
        quiet = _together(f"{folder}/{number}-quiet", opened, n, kill=False)
        _progress(f"kill -9: {name}")
        storm = _together(f"{folder}/{number}-storm", opened, n, kill=True)
        rows.append((name, *quiet.counts, f"{quiet.seconds:.1f}", str(storm.kills), *storm.counts[:2]))
    head = ("", "lost", "twice", "out of order", "seconds", "kills", "then lost", "twice")
    return Grid(f"tmpfs, {n} messages, {_WRITERS} writers and {_READERS} readers, then with kill -9", head, rows)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the messages."""

    counts: tuple[str, str, str]  # lost, came twice, out of order from one writer to one reader
    kills: int
    seconds: float


def _together(folder: str, opened: Callable[[str, bool], rivals.Queue], n: int, *, kill: bool) -> Outcome:
    """Writers and readers at once; with *kill*, one of them is killed every now and then, and begins anew."""
    logs, place, share = f"{folder}/logs", f"{folder}/queue", n // _WRITERS
    os.makedirs(logs)
    opened(place, False).close()
    jobs = [partial(_write, opened, place, each, share, logs) for each in range(_WRITERS)]
    jobs += [partial(_read, opened, place, f"{logs}/reader-{each}", logs) for each in range(_READERS)]
    began, kills = time.monotonic(), 0
    running = {_begin(job): job for job in jobs}
    while running:
        gone, status = os.waitpid(-1, 0 if not kill else os.WNOHANG)
        if gone:
            job = running.pop(gone)
            if status != 0 and time.monotonic() - began < _LONGEST:
                running[_begin(job)] = job
        elif sum(os.path.exists(f"{logs}/done-{each}") for each in range(_WRITERS)) < _WRITERS:
            time.sleep(random.uniform(*_PAUSE))
            os.kill(random.choice(list(running)), signal.SIGKILL)
            kills += 1
        else:
            kill = False  # what is left is read in peace
    seconds = time.monotonic() - began
    _wait(_begin(partial(_recover_claims, opened, place)))
    _wait(_begin(partial(_read, opened, place, f"{logs}/reader-last", logs)))
    return Outcome(_counted(logs), kills, seconds)


def _begin(job: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a test runner has threads; the child has one
        pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what a queue complains of when it was killed
        try:
            job()
        except BaseException:  # noqa: BLE001  # it begins anew
            os._exit(1)
        os._exit(0)
    return pid


def _wait(pid: int) -> None:
    os.waitpid(pid, 0)


def _recover_claims(opened: Callable[[str, bool], rivals.Queue], place: str) -> None:
    with closing(opened(place, False)) as queue:
        queue.recover()


def _write(opened: Callable[[str, bool], rivals.Queue], place: str, writer: int, share: int, logs: str) -> None:
    """What a put was killed in is not put again: nobody can know whether it was sent."""
    log = f"{logs}/writer-{writer}"
    tried = [int(line.split()[1]) for line in _lines(log) if line.startswith("try")]
    queue = opened(place, False)
    with open(log, "a", buffering=1) as said:
        for number in range(max(tried, default=-1) + 1, share):
            said.write(f"try {number}\n")
            queue.put({"writer": writer, "number": number, **BODY})
            said.write(f"sent {number}\n")
    Path(f"{logs}/done-{writer}").touch()


def _read(opened: Callable[[str, bool], rivals.Queue], place: str, log: str, logs: str) -> None:
    queue = opened(place, False)
    still = time.monotonic()
    with open(log, "a", buffering=1) as said:
        said.write("begin\n")
        while True:
            body = queue.take()
            if body is not None:
                said.write(f"{body['writer']} {body['number']}\n")
                queue.done()
                still = time.monotonic()
                continue
            over = all(os.path.exists(f"{logs}/done-{each}") for each in range(_WRITERS))
            if over and time.monotonic() - still > _STILL:
                return
            time.sleep(0.002)


def _counted(logs: str) -> tuple[str, str, str]:
    sent = {
        (w, int(line.split()[1])) for w in range(_WRITERS) for line in _lines(f"{logs}/writer-{w}") if line[0] == "s"
    }
    got: Counter[tuple[int, int]] = Counter()
    wrong = 0
    for name in os.listdir(logs):
        if name.startswith("reader-"):
            last: dict[int, int] = {}
            for line in _lines(f"{logs}/{name}"):
                if line == "begin":
                    last = {}
                    continue
                writer, number = map(int, line.split())
                got[writer, number] += 1
                wrong += number < last.get(writer, -1)
                last[writer] = max(number, last.get(writer, -1))
    return str(len(sent - got.keys())), str(sum(1 for times in got.values() if times > 1)), str(wrong)


def _lines(path: str) -> list[str]:
    """Whole lines: the last one may have been cut off by a kill."""
    try:
        with open(path) as file:
            return file.read().split("\n")[:-1]
    except FileNotFoundError:
        return []


def _numbered(names: list[str]) -> list[tuple[int, str]]:
    return list(enumerate(names))


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text} …", end="", file=sys.stderr, flush=True)
