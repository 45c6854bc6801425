"""Which verb lives where: so that a command imports only its own."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final

VERBS: Final = {
    "init": "boxes",
    "remove": "boxes",
    "send": "send",
    "request": "send",
    "list": "inspect",
    "read": "inspect",
    "log": "history",
    "thread": "history",
    "wait": "inspect",
    "receive": "receive",
    "ack": "receive",
    "retry": "receive",
    "reject": "receive",
    "extend": "receive",
    "reply": "receive",
    "watch": "watch",
    "health": "watch",
    "dead list": "dead",
    "dead show": "dead",
    "dead requeue": "dead",
    "dead purge": "dead",
    "doc list": "documents",
    "doc get": "documents",
    "doc put": "documents",
    "doc edit": "documents",
    "doc merge": "documents",
    "doc patch": "documents",
    "doc log": "documents",
    "doc diff": "documents",
    "doc watch": "documents",
    "doc remove": "documents",
    "install": "install",
    "mcp": "mcp",
    "reserve": "reservations",
    "release": "reservations",
    "reservations": "reservations",
    "keys generate": "keys",
    "keys show": "keys",
    "keys pin": "keys",
    "keys unpin": "keys",
    "keys list": "keys",
    "agents": "agents",
    "status": "agents",
    "relay": "relay",
    "relay init": "relay",
    "relay check": "relay",
    "relay explain": "relay",
    "relay health": "relay",
    "relay audit verify": "relay",
    "relay audit show": "relay",
    "doctor": "maintenance",
    "gc": "maintenance",
    "bench": "bench",
    "completion": "completion",
    "hook": "hook",
}

GROUPS: Final = {
    "dead": "Dead letters: what could not be handled, the reason beside each.",
    "doc": "Shared documents: state that several agents read and change, without losing a change.",
    "keys": "Keys and pins: who we are, and by which key we know the others.",
}


def split(words: Sequence[str]) -> tuple[str, Sequence[str]] | None:
    """The verb that *words* begin with, and what follows it; None where there is none of that name."""
    for length in (3, 2, 1):
        verb = " ".join(words[:length])
        if verb in VERBS and len(words) >= length:
            return verb, words[length:]
    return None


def following(verb: str) -> list[str]:
    """The words that may follow *verb* in a longer verb."""
    length = len(verb.split())
    longer = [each for each in VERBS if each.startswith(f"{verb} ")] if verb else list(VERBS)
    return list(dict.fromkeys(each.split()[length] for each in longer))


def find(verb: str) -> Callable[..., int | None]:
    """The function of a verb, its module imported."""
    module = __import__(f"{__package__}.{VERBS[verb]}", fromlist=["the module itself"])  # importlib is 0.5 ms more
    function: Callable[..., Any] = getattr(module, f"{verb.replace(' ', '_')}_")
    return function
