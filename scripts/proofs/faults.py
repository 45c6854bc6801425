"""The n-th system call on the mail volume fails, for n = 1, 2, … until a run passes untouched.

ENOSPC, EDQUOT, EIO, EMFILE, EINTR, EACCES, ESTALE: the call is not made and answers so; close(2) is made, as the kernel
closes whatever it answers. `short`: a read or a write gets half of what it asked for, and what it says is true.

Each time the deed is done all the same, or ends with an error of our tree; nothing else comes out. Then the same
process tries again, and it works. No message is lost, doubled under another id, or condemned by our own trouble; no
file of a message is left open.
"""

from collections.abc import Callable, Iterator
from functools import partial

from . import stepper, trial
from .deeds import DEEDS
from .record import LeftOut, Record, Result


def prove(record: Record, place: str, deeds: list[str] | None = None, faults: list[str] | None = None) -> None:
    """Let each fault befall each call of each deed."""
    trial.warm()
    try:
        record.do("faults", list(_units(place, deeds or list(DEEDS), faults or list(stepper.FAULTS))))
    finally:
        trial.clear(place)


def _units(place: str, deeds: list[str], faults: list[str]) -> Iterator[tuple[str, Callable[[], Result]]]:
    for name in deeds:
        for fault in faults:
            yield f"{name}, {fault}", partial(each_call, DEEDS[name], place, stepper.FAULTS[fault])


def each_call(make: trial.Make, place: str, fault: stepper.Fault) -> Result:
    """Let *fault* befall the first call, the second …, until there is none left."""
    if why := stepper.possible():
        raise LeftOut(why)
    result, at = Result(), 0
    while True:
        at += 1
        outcome, wrong = trial.run(make, place, at, fault)
        result.broken += [f"{fault} at call {at}, {outcome.struck}: {each}" for each in wrong]
        if outcome.struck is None:
            return result
        result.add(faults=1, errors=outcome.error is not None, recovered=outcome.error is None)
