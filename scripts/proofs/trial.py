"""One trial: a deed is run and struck, and what came of it is judged from outside."""

import contextlib
import importlib
import logging
import os
import pkgutil
import shutil
from collections.abc import Callable

import filemailbox
from filemailbox import MailboxError
from filemailbox.ops import cleanup
from filemailbox.store.root import find_root

from . import stepper, volume
from .deeds import Deed

Make = Callable[[str], Deed]


def warm() -> None:
    """Load all that a deed could load, so that each trial's fork has it; and keep the mailbox's own words to itself."""
    for module in pkgutil.walk_packages(filemailbox.__path__, "filemailbox."):
        if not module.name.endswith(("__main__", "pytest_plugin")):
            importlib.import_module(module.name)
    logging.getLogger("filemailbox").setLevel(logging.CRITICAL + 1)


def run(make: Make, place: str, at: int = 0, fault: stepper.Fault | None = None) -> tuple[stepper.Outcome, list[str]]:
    """Run the deed in the folder *place*; what came of it, and what is wrong with that."""
    path = f"{place}/mail"
    deed = make(path)
    try:
        outcome = stepper.step(deed, at, fault, path if fault else None)
    except stepper.Stuck as error:
        return stepper.Outcome(), [str(error)]
    try:
        return outcome, [*_said(outcome), *judge(deed, outcome)]
    except (MailboxError, OSError, AssertionError) as error:
        return outcome, [f"the next start failed: {type(error).__name__}: {error}"]


def _said(outcome: stepper.Outcome) -> list[str]:
    """What is wrong with how the process itself behaved."""
    wrong = []
    for line in outcome.said:
        word, _, rest = line.partition(" ")
        if word == "error" and rest.startswith("foreign"):
            wrong.append(f"an error that is none of ours: {rest.removeprefix('foreign ')}")
        elif word in ("after", "broken"):
            wrong.append(f"{'tried again, it failed' if word == 'after' else 'the trial itself failed'}: {rest}")
        elif word == "open" and ".json" in rest:
            wrong.append(f"a message was left open: {rest}")
    return wrong


def judge(deed: Deed, outcome: stepper.Outcome) -> list[str]:
    """What does not hold, right now, after the next start, and when nobody is at work any more."""
    wrong = list(volume.broken(deed.path, deed.planted)) if os.path.isdir(deed.path) else []
    deed.next_start()
    came = _come(deed, wrong)
    wrong += volume.broken(deed.path, deed.planted)
    fates = dict.fromkeys(came, "came") | _lying(deed.path)
    allowed = deed.fates(outcome)
    for token in sorted(fates.keys() | allowed.keys()):
        fate = fates.get(token, "gone")
        if fate not in allowed.get(token, "gone").split():
            wrong.append(f"the message {token!r}: {fate}, and right were: {allowed.get(token, 'gone')}")
    _give_back(deed)
    volume.age(deed.path)
    root = find_root(deed.path)
    for each in (*(cleanup.find_garbage(root.box(box)) for box in root.boxes()), cleanup.root_garbage(root)):
        for left in each:
            left.remove()
    wrong += [f"left over for good: {each}" for each in volume.left_over(deed.path, deed.aside)]
    return wrong


def _come(deed: Deed, wrong: list[str]) -> dict[str, str]:
    """What the next consumers get, token by token, and under which id."""
    came: dict[str, str] = {}
    for name in find_root(deed.path).boxes():
        with deed.consumer(name) as box:
            while (message := box.receive()) is not None:
                token = volume.token_of({"body": message.body})
                if token in came:
                    wrong.append(f"the message {token!r} came twice to one consumer")
                if token is not None:
                    came[token] = message.id
                message.ack()
    return came


def _lying(root: str) -> dict[str, str]:
    """The fates of all that still lies there."""
    fates = {}
    for each in volume.letters(root):
        if each.token is not None:
            fates[each.token] = {"cur": "held"}.get(each.state, each.state)
    with contextlib.suppress(FileNotFoundError):
        for kept in os.listdir(f"{root}/.removed"):
            os.rename(f"{root}/.removed/{kept}", f"{root}/.removed/{kept.replace('.', '_').lower()}")
        for each in volume.letters(f"{root}/.removed"):
            if each.token is not None:
                fates[each.token] = "aside"
    return fates


def _give_back(deed: Deed) -> None:
    """Settle what is leased, so that nothing is at work any more."""
    for each in volume.letters(deed.path, "cur"):
        with deed.consumer(each.box) as box, box.leased(each.id or "") as message:
            message.ack()


def clear(place: str) -> None:
    for name in ("mail", "mail.keys"):
        shutil.rmtree(f"{place}/{name}", ignore_errors=True)
