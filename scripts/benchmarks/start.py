"""Start: whole processes of the command, beside `python -c pass` of the same environment.

    send            one short message, flushed (the box is on a tmpfs: a flush costs nothing there): text, or other JSON
    list            a box in which three messages wait: texts, or other JSON; a box of a hundred; and an empty one
    wait            the same, where there is mail and where there is none (--timeout 0)
    import orjson   what many messages take at the least: a few are read and written without it

Everything is compiled before. The commands take turns with `python -c pass`; a figure is the median of all, a ratio
that of two medians of one repetition; what is shown is the median of the repetitions, their lowest and their highest.
"""

import compileall
import json
import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import filemailbox
from filemailbox import Mailbox

from . import disks
from .table import Figure, Report, Table

_WANTED: Final = 3.5  # times `python -c pass`
_MAILBOX: Final = str(Path(sys.executable).parent / "mailbox")
_JOB: Final = {"job": 7, "share": 0.25, "files": ["a.c", "b.c"], "done": None}
_BODIES: Final[dict[str, list[Any]]] = {
    "bob": [],
    "texts": ["one", "two", "three"],
    "json": [1, _JOB, [3]],
    "many": [_JOB] * 100,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 12  # of every command, in a repetition
    repetitions: int = 7


QUICK: Final = Plan(rounds=5, repetitions=3)


def measure(*, quick: bool = False, plan: Plan | None = None) -> Report:
    """Measure it all. *plan* overrules *quick*."""
    plan = plan or (QUICK if quick else Plan())
    compileall.compile_dir(os.path.dirname(filemailbox.__file__), quiet=2)
    with disks.tmpfs() as folder:
        commands = _commands(f"{folder}/mail")
        times = [_repetition(commands, plan.rounds, f"{folder}/mail") for _ in range(plan.repetitions)]
    figures = [_figure(what, times, plan.rounds) for what in commands if what != "pass"]
    return Report([Table("whole processes", "ms", "pass", figures)])


def _commands(root: str) -> dict[str, list[str]]:
    """Each by its name; the boxes that they need are made."""
    with closing(Mailbox.init("alice", root)) as alice:
        for name, bodies in _BODIES.items():
            Mailbox.init(name, root).close()
            for body in bodies:
                alice.send(name, body, type="number")
    return {
        "pass": [sys.executable, "-c", "pass"],
        "send": [_MAILBOX, "send", "alice", "the build is green", "--as", "alice", "--type", "news"],
        "send, other JSON": [
            _MAILBOX,
            "send",
            "alice",
            json.dumps(_JOB),
            "--json-body",
            "--as",
            "alice",
            "--type",
            "job",
        ],
        "list": [_MAILBOX, "list", "--as", "texts"],
        "list, other JSON": [_MAILBOX, "list", "--as", "json"],
        "list, a hundred": [_MAILBOX, "list", "--as", "many"],
        "list, empty": [_MAILBOX, "list", "--as", "bob"],
        "wait": [_MAILBOX, "wait", "--as", "texts", "--timeout", "0"],
        "wait, other JSON": [_MAILBOX, "wait", "--as", "json", "--timeout", "0"],
        "wait, empty": [_MAILBOX, "wait", "--as", "bob", "--timeout", "0"],
        "import orjson": [sys.executable, "-c", "import orjson"],
    }


def _repetition(commands: dict[str, list[str]], rounds: int, root: str) -> dict[str, float]:
    """The median of each, in milliseconds."""
    environment = {**os.environ, "MAILBOX_ROOT": root}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    times: dict[str, list[float]] = {what: [] for what in commands}
    for _ in range(rounds):
        for what, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
            times[what].append((time.perf_counter() - started) * 1000)
    return {what: median(each) for what, each in times.items()}


def _figure(what: str, times: list[dict[str, float]], rounds: int) -> Figure:
    ratios = [each[what] / each["pass"] for each in times]
    return Figure(
        what,
        rounds * len(times),
        median(each[what] for each in times),
        median(each["pass"] for each in times),
        median(ratios),
        (min(ratios), max(ratios)),
        None if what == "import orjson" else _WANTED,
        "at most",
    )
