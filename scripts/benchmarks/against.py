"""This version beside another one: `scripts/bench against DIR`, DIR being a checkout of the other.

    put, drain, cycle   a message sent; received and acked; both, one after the other
    callback            a waiting message, handed to a handler and acked by run()
    wake                from a send to the callback of a listener in another process
    start               `mailbox send` as a whole process

Both versions run in processes of their own, on the same tmpfs, with this environment's Python and libraries. They take
turns, slice by slice, and each round changes who is first. A ratio is that of one round; the median of all rounds is
shown, with the middle half of them. All but wake is CPU time, so that other programs on the machine change little.
"""

import compileall
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from . import disks
from .table import Figure, Report, Table

WANTED: Final = 1.03
"""No figure may be worse than the other version's by more than 3 %."""

_HERE: Final = Path(__file__).resolve().parents[2]
_WORKER: Final = Path(__file__).with_name("one_version.py")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: messages in a slice, and rounds."""

    messages: int = 300
    wakes: int = 40
    starts: int = 3
    rounds: int = 40


QUICK: Final = Plan(messages=100, wakes=15, starts=1, rounds=9)


class Version:
    """One version, in a process of its own."""

    def __init__(self, home: Path, folder: str) -> None:
        os.mkdir(folder)
        compileall.compile_dir(home / "mailbox", quiet=2)
        environment = {**os.environ, "PYTHONPATH": str(home / "mailbox")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._process = subprocess.Popen(
            [sys.executable, str(_WORKER), folder],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def measure(self, what: str, n: int) -> float:
        """Seconds for one of *n*."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {n}\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a version ended: {self._process.args!r}")
        return line.strip()


def measure(other: str, *, quick: bool = False, plan: Plan | None = None) -> Report:
    """Measure this checkout and the one in the folder *other*. *plan* overrules *quick*."""
    plan = plan or (QUICK if quick else Plan())
    home = Path(other).resolve()
    if not (home / "mailbox" / "filemailbox").is_dir():
        raise SystemExit(f'bench: "{other}" is no checkout of this project: it has no mailbox/filemailbox')
    slices = dict.fromkeys(("put", "drain", "cycle", "callback"), plan.messages)
    slices |= {"wake": plan.wakes, "start": plan.starts}
    times: dict[str, list[tuple[float, float]]] = {what: [] for what in slices}
    with disks.tmpfs() as folder, ExitStack() as until:
        versions = Version(_HERE, f"{folder}/this"), Version(home, f"{folder}/other")
        for version in versions:
            until.callback(version.close)
        for number in range(plan.rounds + 1):
            for what, n in slices.items():
                order = versions if number % 2 else versions[::-1]
                taken = {version: version.measure(what, n) for version in order}
                if number:  # the first round warms up
                    times[what].append((taken[versions[0]], taken[versions[1]]))
    cpu = [_figure(what, pairs, slices[what]) for what, pairs in times.items() if what not in ("wake", "start")]
    wake, start = (_figure(what, times[what], slices[what]) for what in ("wake", "start"))
    return Report(
        [
            Table("CPU time of a message", "us", "other", cpu),
            Table("from a send to the callback: wall clock", "us", "other", [wake]),
            Table("CPU time of `mailbox send`, the whole process", "us", "other", [start]),
        ],
        notes=[f"n is the messages (start: processes) of each side, in {plan.rounds} rounds; spread: the middle half."],
    )


def _figure(what: str, pairs: list[tuple[float, float]], n: int) -> Figure:
    ratios = [this / other for this, other in pairs]
    low, middle, high = quantiles(ratios, n=4)
    this, other = (median(each) * 1e6 for each in zip(*pairs, strict=True))
    return Figure(what, n * len(pairs), this, other, middle, (low, high), WANTED, "at most")
