"""Shared documents beside the bare file operations: an update, a reader, and what a long history costs.

    update   Document.update() of a counter, beside open, write, link, fsync, unlink and close of the same bytes
    get      Document.get() by one who has read before, and by one who comes, with 1 version and with 1 000
    command  `mailbox doc get` as a process, with 1 version and with 1 000
    lost     eight writers of one counter without if_version: how many updates they lose (what update() is for)

One process; slices of ours and of the bare loop alternate.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from filemailbox import Mailbox
from filemailbox.documents.document import Document

from . import disks
from .table import Figure, Grid, Report, Table, compare

_NEW: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_UPDATE: Final = 0.33  # of the rate of the bare loop, at least, where a flush waits for a disk
_LONG: Final = 1.5  # times what a reader of one version takes, at most
_DISKS: Final[dict[str, Callable[[], AbstractContextManager[str]]]] = {"tmpfs": disks.tmpfs, "ext4": disks.ext4}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    n: int = 500  # updates in a slice
    n_flushed: int = 64  # the same where each waits for a disk
    slices: int = 12
    repetitions: int = 5
    reads: int = 2000
    commands: int = 12
    versions: int = 1000


QUICK: Final = Plan(n=200, n_flushed=32, slices=6, repetitions=2, reads=500, commands=4)


def measure(*, quick: bool = False, plan: Plan | None = None) -> Report:
    """Measure it all. *plan* overrules *quick*."""
    plan = plan or (QUICK if quick else Plan())
    report = Report()
    for disk, make in _DISKS.items():
        try:
            with make() as folder:
                report.tables.append(_updates(disk, folder, plan))
                if disk == "tmpfs":
                    report.tables.append(_readers(folder, plan))
                    report.tables.append(_commands(folder, plan))
                    report.grids.append(_lost(folder))
        except disks.LeftOut as why:
            report.notes.append(f"{disk} is left out: {why}.")
    return report


class Raw:
    """The same bytes under the next number: open, write, link, fsync, unlink, close."""

    def __init__(self, folder: str, data: bytes) -> None:
        for name in ("drafts", "versions"):
            os.makedirs(f"{folder}/{name}")
        self._drafts, self._versions = os.open(f"{folder}/drafts", _FOLDER), os.open(f"{folder}/versions", _FOLDER)
        self._data, self._count = data, 0

    def update(self, n: int) -> None:
        drafts, versions, data = self._drafts, self._versions, self._data
        for number in range(self._count, self._count + n):
            file = os.open("236c48f0e859742a325f37bc", _NEW, 0o644, dir_fd=drafts)
            os.write(file, data)
            os.link("236c48f0e859742a325f37bc", f"{number:010d}.json", src_dir_fd=drafts, dst_dir_fd=versions)
            os.fsync(file)
            os.unlink("236c48f0e859742a325f37bc", dir_fd=drafts)
            os.close(file)
        self._count += n

    def close(self) -> None:
        os.close(self._drafts)
        os.close(self._versions)


def _updates(disk: str, folder: str, plan: Plan) -> Table:
    n = plan.n_flushed if disk != "tmpfs" else plan.n
    wanted = _UPDATE if disk != "tmpfs" else None  # there a flush takes no time, and a system call in C is no measure
    pairs: list[list[tuple[float, float]]] = []
    with Mailbox.init("alice", f"{folder}/updates") as box:
        document: Document[dict[str, int]] = box.document("counter")
        raw = Raw(f"{folder}/raw", document.create({"n": 0}).raw)
        for _ in range(plan.repetitions):
            pairs.append([])
            for number in range(plan.slices):
                calls = [lambda: _update(document, n), lambda: raw.update(n)]
                rates = [0.0, 0.0]
                for which in (1, 0) if number % 2 else (0, 1):
                    began = time.perf_counter()
                    calls[which]()
                    rates[which] = n / (time.perf_counter() - began)
                pairs[-1].append((rates[0], rates[1]))
        raw.close()
    return Table(f"{disk}, each update flushed", "updates/s", "raw", [compare("update", n, pairs, wanted)])


def _update(document: Document[dict[str, int]], n: int) -> None:
    for _ in range(n):
        document.update(lambda body: {"n": body["n"] + 1})


def _readers(folder: str, plan: Plan) -> Table:
    one, many = _documents(folder, plan)
    figures = []
    for what, read in (("get, again", _again), ("get, the first time", _first)):
        n = plan.reads // plan.slices
        pairs = [(read(many, n), read(one, n)) for _ in range(plan.slices)]
        ours, reference = (median(each) for each in zip(*pairs, strict=True))
        ratios = [long / short for long, short in pairs]
        figures.append(
            Figure(what, plan.reads, ours, reference, median(ratios), (min(ratios), max(ratios)), _LONG, "at most")
        )
    return Table(f"tmpfs, a reader of {plan.versions} versions", "us", "of 1 version", figures)


def _documents(folder: str, plan: Plan) -> tuple[Document[Any], Document[Any]]:
    box = Mailbox.init("alice", f"{folder}/readers")
    one, many = box.document("one"), box.document("many")
    if not os.path.isdir(f"{folder}/readers/.documents"):
        one.create({"n": 0})
        many.create({"n": 0}, keep=2 * plan.versions)
        for number in range(1, plan.versions):
            many.put({"n": number})
    return one, many


def _again(document: Document[Any], n: int) -> float:
    document.get()
    began = time.perf_counter()
    for _ in range(n):
        document.get()
    return (time.perf_counter() - began) / n * 1e6


def _first(document: Document[Any], n: int) -> float:
    n = max(1, n // 4)
    began = time.perf_counter()
    for _ in range(n):
        document.close()
        document.get()
    return (time.perf_counter() - began) / n * 1e6


def _commands(folder: str, plan: Plan) -> Table:
    _documents(folder, plan)
    command = [str(Path(sys.executable).parent / "mailbox"), "doc", "get", "--root", f"{folder}/readers"]
    times: dict[str, list[float]] = {"one": [], "many": []}
    for _ in range(plan.commands):
        for name, each in times.items():
            began = time.perf_counter()
            subprocess.run([*command, name], check=True, stdout=subprocess.DEVNULL)
            each.append((time.perf_counter() - began) * 1e3)
    ratios = [many / one for one, many in zip(times["one"], times["many"], strict=True)]
    ours, reference = median(times["many"]), median(times["one"])
    figure = Figure(
        "mailbox doc get", plan.commands, ours, reference, median(ratios), (min(ratios), max(ratios)), _LONG, "at most"
    )
    return Table(f"tmpfs, a process that reads {plan.versions} versions", "ms", "of 1 version", [figure])


def _lost(folder: str, writers: int = 8, each: int = 50) -> Grid:
    rows: list[tuple[str, ...]] = []
    ways: dict[str, Callable[[Document[dict[str, int]]], object]] = {
        "update()": lambda document: document.update(lambda body: {"n": body["n"] + 1}, attempts=100_000),
        "put() without if_version": lambda document: document.put({"n": document.get().body["n"] + 1}),
    }
    for number, (what, change) in enumerate(ways.items()):
        with Mailbox.init("alice", f"{folder}/lost") as box:
            document: Document[dict[str, int]] = box.document(f"d{number}")
            document.create({"n": 0})

            def work(change: Callable[[Document[dict[str, int]]], object] = change, number: int = number) -> None:
                with Mailbox("alice", f"{folder}/lost") as mine:
                    own: Document[dict[str, int]] = mine.document(f"d{number}")
                    for _ in range(each):
                        change(own)

            threads = [threading.Thread(target=work) for _ in range(writers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rows.append((what, str(writers * each), str(writers * each - document.get().body["n"])))
    return Grid(f"{writers} writers of one counter", ("", "updates", "lost"), rows)
