"""Hooks of AI agents: whole processes of `mailbox-hook` and `mailbox hook`, beside `python -c pass`.

    guard           `mailbox-hook` after a tool call without mail, and /bin/true beside it
    no mail         `mailbox hook` at a prompt without mail: the presence of the session is written
    show, ack       a prompt with one message, with five; the stop that acks one

Figures are CPU times of the process and its children: other work on the machine takes no part. The commands take turns
with `python -c pass`; what is prepared in between is not measured. Everything is compiled before.
"""

import compileall
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import filemailbox
from filemailbox import Mailbox

from . import disks
from .table import Figure, Report, Table

_MAILBOX: Final = str(Path(sys.executable).parent / "mailbox")
_GUARD: Final = str(Path(__file__).resolve().parents[1] / "mailbox-hook")
_WANTED: Final = {
    "/bin/true": None,
    "guard, no mail": 0.3,
    "no mail": 4.0,
    "show one": 4.0,
    "ack one": 4.0,
    "show five": 5.2,
}
"""Times `python -c pass`, at most. Most of a hook with mail are its imports."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 7  # of every command, in a repetition
    repetitions: int = 5


QUICK: Final = Plan(rounds=3, repetitions=2)


def measure(*, quick: bool = False, plan: Plan | None = None) -> Report:
    """Measure it all. *plan* overrules *quick*."""
    plan = plan or (QUICK if quick else Plan())
    compileall.compile_dir(os.path.dirname(filemailbox.__file__), quiet=2)
    with disks.tmpfs() as folder:
        agent = _Agent(f"{folder}/mail")
        times = [_repetition(agent, plan.rounds) for _ in range(plan.repetitions)]
    figures = [_figure(what, times, plan.rounds) for what in _WANTED]
    return Report([Table("whole processes, CPU time", "ms", "pass", figures)])


class _Agent:
    """The agent bob, in one session of Claude Code, and alice, who writes to him."""

    def __init__(self, root: str) -> None:
        Mailbox.init("bob", root).close()
        self._alice = Mailbox.init("alice", root)
        self.environment = {**os.environ, "MAILBOX_ROOT": root, "MAILBOX_AGENT": "bob"}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def send(self, count: int) -> None:
        self._alice.send_many("bob", ["how many lines has x.c?"] * count)

    def run(self, command: list[str], event: str = "") -> float:
        """Run a command, and return its CPU time in milliseconds."""
        given = json.dumps({"session_id": "one", "hook_event_name": event}).encode()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, input=given, env=self.environment, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000

    def hook(self, event: str) -> float:
        return self.run([_MAILBOX, "hook", "claude"], event)


def _repetition(agent: _Agent, rounds: int) -> dict[str, float]:
    """The median of each, in milliseconds."""
    times: dict[str, list[float]] = {what: [] for what in ("pass", *_WANTED)}
    for _ in range(rounds):
        for what, figure in _one_round(agent).items():
            times[what].append(figure)
    return {what: median(each) for what, each in times.items()}


def _one_round(agent: _Agent) -> dict[str, float]:
    steps: dict[str, Callable[[], float]] = {
        "pass": lambda: agent.run([sys.executable, "-c", "pass"]),
        "/bin/true": lambda: agent.run(["/bin/true"]),
        "guard, no mail": lambda: agent.run([_GUARD, "claude", "PostToolUse"]),
        "no mail": lambda: agent.hook("UserPromptSubmit"),
    }
    figures = {what: step() for what, step in steps.items()}
    agent.send(1)
    figures["show one"] = agent.hook("UserPromptSubmit")
    figures["ack one"] = agent.hook("Stop")
    agent.send(5)
    figures["show five"] = agent.hook("UserPromptSubmit")
    agent.hook("Stop")
    return figures


def _figure(what: str, times: list[dict[str, float]], rounds: int) -> Figure:
    ratios = [each[what] / each["pass"] for each in times]
    return Figure(
        what,
        rounds * len(times),
        median(each[what] for each in times),
        median(each["pass"] for each in times),
        median(ratios),
        (min(ratios), max(ratios)),
        _WANTED[what],
        "at most",
    )
