"""Which verb lives where: so that a command imports only its own."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

VERBS: Final = {
    "init": "boxes",
    "remove": "boxes",
    "send": "mail",
    "list": "mail",
    "read": "mail",
    "receive": "mail",
    "watch": "watch",
    "health": "watch",
}


def find(verb: str) -> Callable[..., int | None]:
    """The function of a verb, its module imported."""
    function: Callable[..., Any] = getattr(import_module(f".{VERBS[verb]}", __package__), f"{verb}_")
    return function
