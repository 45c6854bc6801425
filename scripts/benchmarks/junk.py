"""A listener beside much that is no mail in its new/: how soon mail is handled, and what it costs while nothing comes.

    none      nothing but the mail
    hidden    hard links to one file, under names that begin with a dot
    folders   folders with something in them, under names of mail

The listener is a process of its own, and listens while the junk is put there. The first messages are those that the
junk still delays; the others come five seconds after them. The figures of `none` are what the others are compared with.
"""

import os
import time
from collections.abc import Callable
from contextlib import closing
from statistics import median
from typing import Final

from . import disks
from .table import Figure, Report, Table
from .wake import Ours, System

_FIRST: Final = 3  # messages that the junk may still delay
_SETTLED: Final = 5.0  # seconds after which all is done that takes a twentieth of the time
_WANTED_EACH: Final = 10.0  # ms
_WANTED_IDLE: Final = 2.0  # % of a core


def hidden(new: str, count: int) -> None:
    """Names that are nobody's mail."""
    file = f"{new}/../../junk"  # new/ may be another folder at any moment
    os.mknod(file)
    for number in range(count):
        os.link(file, f"{new}/.junk-{number}")


def folders(new: str, count: int) -> None:
    """Full folders under names of mail."""
    for number in range(count):
        folder = f"{new}/../tmp/junk-{number}"
        os.makedirs(f"{folder}/x")
        os.rename(folder, f"{new}/junk-{number}.json")


_KINDS: Final[dict[str, tuple[Callable[[str, int], None], int]]] = {
    "none": (hidden, 0),
    "hidden": (hidden, 200_000),
    "folders": (folders, 30_000),
}


def measure(*, quick: bool = False) -> Report:
    """Measure it all; *quick* with a twentieth of the junk."""
    report = Report()
    tables = {
        "first": Table(f"tmpfs, from the send to the callback: the slowest of the first {_FIRST}", "ms", "", []),
        "each": Table("tmpfs, from the send to the callback: the median of those after it", "ms", "", []),
        "idle": Table("tmpfs, idle after that", "% of a core", "", []),
    }
    messages, idle = (30, 2.0) if quick else (200, 10.0)
    try:
        for what, (plant, count) in _KINDS.items():
            with disks.tmpfs() as folder:
                if disks.room(folder) < 2 * count + 20_000:
                    report.notes.append(f"{what} is left out: there is no room for so many files.")
                    continue
                times, used = _run(folder, plant, count // (20 if quick else 1), messages, idle)
            judged = count > 0
            tables["first"].figures.append(Figure(what, _FIRST, max(times[:_FIRST])))
            tables["each"].figures.append(
                Figure(
                    what,
                    len(times) - _FIRST,
                    median(times[_FIRST:]),
                    wanted=_WANTED_EACH if judged else None,
                    bound="at most",
                )
            )
            tables["idle"].figures.append(
                Figure(what, 1, used, wanted=_WANTED_IDLE if judged else None, bound="at most")
            )
    except disks.LeftOut as why:
        report.notes.append(f"tmpfs is left out: {why}.")
    report.tables += tables.values()
    return report


def _run(
    folder: str, plant: Callable[[str, int], None], count: int, messages: int, idle: float
) -> tuple[list[float], float]:
    """The times of all messages in ms, and what an idle listener used of a core in %."""
    times = []
    with closing(System(Ours, f"{folder}/box", "ours")) as system:
        system.said()  # it listens
        system.send()
        system.said()
        if count:
            plant(f"{folder}/box/bob/new", count)
        for number in range(messages):
            if number == _FIRST:
                time.sleep(_SETTLED)
            sent = system.send()
            began, used = system.said()
            times.append((began - sent) / 1e6)
            time.sleep(0.005)
        time.sleep(idle)
        system.send()
        ended, used_then = system.said()
    return times, 100 * (used_then - used) / (ended - began)
