"""SIGKILL at each system call of each deed: what is promised holds at once, and the next start mends the rest.

The process is killed when the call is about to be made, so that each state between two calls is met, also the one
after the last. Right after it, nothing partial is to be seen and no message in two places. Then the next consumers take
all there is: each message has a fate that is right at that moment, and what send() had returned is there, under the id
that it returned. Then gc, with everything three days old: nothing of ours is left lying.

What waits for that age: drafts in tmp/, notes without a dead letter, and folders half made, for no lock tells whose
they are. All else is mended by the next start.
"""

from collections.abc import Callable, Iterator
from functools import partial

from . import stepper, trial
from .deeds import DEEDS
from .record import LeftOut, Record, Result


def prove(record: Record, place: str, rounds: int = 3, deeds: list[str] | None = None, every: int = 1) -> None:
    """Kill at each call, or at *every* n-th, in *rounds* rounds."""
    trial.warm()
    try:
        record.do("kills", list(_units(place, rounds, deeds or list(DEEDS), every)))
    finally:
        trial.clear(place)


def _units(place: str, rounds: int, deeds: list[str], every: int) -> Iterator[tuple[str, Callable[[], Result]]]:
    for turn in range(1, rounds + 1):
        for name in deeds:
            yield f"{name}, round {turn}", partial(each_call, DEEDS[name], place, turn, every)


def each_call(make: trial.Make, place: str, turn: int = 1, every: int = 1) -> Result:
    """Kill at each call of one deed, until it is done before it is struck."""
    if why := stepper.possible():
        raise LeftOut(why)
    result = Result()
    _, wrong = trial.run(make, place)  # nobody is killed: that all is right then, and all is loaded
    result.broken += [f"without a kill: {each}" for each in wrong]
    at = (turn - 1) % every + 1
    while not result.broken:
        outcome, wrong = trial.run(make, place, at)
        if outcome.struck is None:
            result.broken += [f"not struck at {at}: {each}" for each in wrong]
            break
        result.add(kills=1)
        result.broken += [f"killed before call {at}, {outcome.struck}: {each}" for each in wrong]
        at += every
    return result
