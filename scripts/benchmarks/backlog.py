"""What waiting mail costs: the first look, each message after it, memory, and how often the folder is listed.

Each look is a fresh process, in turn one that lists and sorts and one that receives. After its first message the latter
goes on with one from the big box and one from a box of ten, in turn.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

from filemailbox import Mailbox
from filemailbox.format.timestamp import to_timestamp

from . import disks
from .table import Figure, Table

_FEW: Final = 10
_ROUNDS: Final = 40  # of nine messages from each box

_WANTED_FIRST: Final = 1.5  # times a bare listing
_WANTED_EACH: Final = 2.0  # times what it costs behind ten
_WANTED_MEMORY: Final = 250.0  # MB
_WANTED_LISTINGS: Final = 1.0


def measure(folder: str, backlogs: tuple[int, ...], looks: int, notes: list[str]) -> list[Table]:
    """The tables. What there is no room for is left out, and noted."""
    tables = [
        Table("tmpfs, a backlog: the first receive of a process", "ms", "listing + sort", []),
        Table("tmpfs, a backlog: one receive + ack after that", "µs", "behind 10", []),
        Table("tmpfs, a backlog: how far memory grows", "MB", "", []),
        Table("tmpfs, a backlog: how often new/ is listed for all these messages", "times", "", []),
    ]
    for waiting in backlogs:
        if disks.room(folder) < waiting + 20_000:
            notes.append(f"a backlog of {waiting} is left out: there is no room for so many files.")
            continue
        place = f"{folder}/backlog"
        try:
            pairs = list(_looks(place, waiting, looks))
        finally:
            shutil.rmtree(place, ignore_errors=True)
        for table, figure in zip(tables, _figures(waiting, pairs), strict=False):
            table.figures.append(figure)
    return tables


def _looks(place: str, waiting: int, looks: int) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    """What a bare process and one of ours found, behind so many messages, again and again."""
    with Mailbox.init("many", place), Mailbox.init("few", place):
        numbers = itertools.count()
    _fill(f"{place}/many/new", waiting, numbers)
    for _ in range(looks):
        pair = _process("bare", place, waiting), _process("ours", place, waiting)
        yield pair
        _fill(f"{place}/many/new", int(pair[1]["taken"]), numbers)


def _figures(waiting: int, pairs: list[tuple[dict[str, float], dict[str, float]]]) -> Iterator[Figure]:
    """A figure for each table. Behind the few there is only the first: the others are compared with those few."""
    what, bare, ours = f"{waiting:,} waiting".replace(",", " "), [b for b, _ in pairs], [o for _, o in pairs]
    wanted = _WANTED_FIRST if waiting > _FEW else None
    yield _ratio(what, len(pairs), [o["first"] * 1e3 for o in ours], [b["first"] * 1e3 for b in bare], wanted)
    if waiting > _FEW:
        n = int(sum(o["taken"] - 1 for o in ours))
        yield _ratio(what, n, [o["many"] * 1e6 for o in ours], [o["few"] * 1e6 for o in ours], _WANTED_EACH)
        grown = median(o["memory"] for o in ours) / 1e6
        yield Figure(what, len(pairs), grown, wanted=_WANTED_MEMORY, bound="at most")
        listings = max(o["listings"] for o in ours)
        yield Figure(what, n + len(pairs), listings, wanted=_WANTED_LISTINGS, bound="at most")


def _ratio(what: str, n: int, ours: list[float], reference: list[float], wanted: float | None) -> Figure:
    ratios = [o / r for o, r in zip(ours, reference, strict=True)]
    spread = (min(ratios), max(ratios))
    return Figure(what, n, median(ours), median(reference), median(ratios), spread, wanted, "at most")


def _fill(new: str, count: int, numbers: Iterator[int]) -> None:
    """Messages the cheap way: valid files under valid names, one writer's."""
    folder = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number in itertools.islice(numbers, count):
            id = f"{to_timestamp(1_760_000_000_000_000_000 + number * 1_000_000)}-3f9c0a12b4d5"
            data = f'{{"id":"{id}","from":"alice","to":"many","body":{{"number":{number},"note":"{"x" * 100}"}}}}\n'
            file = os.open(f"{id},S={len(data)}.json", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640, dir_fd=folder)
            os.write(file, data.encode())
            os.close(file)
    finally:
        os.close(folder)


def _process(*arguments: Any) -> dict[str, float]:
    """Run this file as a program of its own, and read what it found."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", __name__, *map(str, arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


# In that process


def _bare(place: str) -> dict[str, float]:
    started = time.perf_counter()
    folder = os.open(f"{place}/many/new", os.O_RDONLY | os.O_DIRECTORY)
    sorted(os.listdir(folder))
    os.close(folder)
    return {"first": time.perf_counter() - started}


def _ours(place: str, waiting: int) -> dict[str, float]:
    with Mailbox("many", place, durable=False) as many, Mailbox("few", place, durable=False) as few:
        few.send("few")
        _take(few)  # whatever a process does only once is done
        listings = _Listings(f"{place}/many/new")
        before = _memory("VmRSS")
        first = _take(many)
        found = {"first": first, "memory": _memory("VmHWM") - before, "taken": 1.0}
        if waiting > _FEW:
            behind_few, behind_many = [], []
            for _ in range(_ROUNDS):
                for _ in range(_FEW):
                    few.send("few", {"number": 0, "note": "x" * 100})
                _take(few)  # this one looks
                for _ in range(_FEW - 1):
                    behind_few.append(_take(few))
                    behind_many.append(_take(many))
            found |= {"few": median(behind_few), "many": median(behind_many), "taken": 1.0 + len(behind_many)}
        return found | {"listings": float(listings.count)}


def _take(box: Mailbox) -> float:
    started = time.perf_counter()
    message = box.receive()
    assert message is not None
    message.ack()
    return time.perf_counter() - started


def _memory(which: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(which))


class _Listings:
    """Counts how often one folder is listed, by descriptor or by path."""

    def __init__(self, folder: str) -> None:
        self.count = 0
        self._inode = os.stat(folder).st_ino
        self._listdir, self._scandir = os.listdir, os.scandir
        os.listdir, os.scandir = self._list, self._scan  # type: ignore[assignment]  # simpler than all their overloads

    def _list(self, folder: Any = ".") -> Any:
        self.count += os.stat(folder).st_ino == self._inode
        return self._listdir(folder)

    def _scan(self, folder: Any = ".") -> Any:
        self.count += os.stat(folder).st_ino == self._inode
        return self._scandir(folder)


if __name__ == "__main__":
    print(json.dumps(_bare(sys.argv[2]) if sys.argv[1] == "bare" else _ours(sys.argv[2], int(sys.argv[3]))))
