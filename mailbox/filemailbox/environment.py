"""The MAILBOX_* variables and their defaults."""

from __future__ import annotations

import os

from .errors import InvalidRequestError, quoted
from .settings import WATCHERS

DEFAULT_ROOT = "/mail"
DEFAULT_KEY_DIR = "~/.config/mailbox"

_SWITCH = {
    "": None,
    "1": True,
    "yes": True,
    "true": True,
    "on": True,
    "0": False,
    "no": False,
    "false": False,
    "off": False,
}


def switch(variable: str, value: bool | None) -> bool | None:
    """Return *value*, or the variable's if that is None; None if neither is set. Raises InvalidRequestError."""
    if value is not None:
        return value
    text = os.environ.get(variable, "").lower()
    if text in _SWITCH:
        return _SWITCH[text]
    raise InvalidRequestError(f"{variable} is {quoted(text)}, expected 1 or 0")


def own_name() -> str:
    """Return $MAILBOX_AGENT. Raises InvalidRequestError if it is not set."""
    name = os.environ.get("MAILBOX_AGENT")
    if not name:
        raise InvalidRequestError(
            "no agent is named", hint="give a name (on the command line: --as NAME), or set MAILBOX_AGENT"
        )
    return name


def key_folders(
    key_dir: str | os.PathLike[str] | None, registry: str | os.PathLike[str] | None
) -> tuple[str | None, str | None]:
    """Return the folder of our private keys and the operator's registry of public keys; None for one that is not set.

    *key_dir* defaults to $MAILBOX_KEY_DIR, then to ~/.config/mailbox if that exists; *registry* to $MAILBOX_REGISTRY.
    """
    folder = os.fspath(key_dir) if key_dir is not None else os.environ.get("MAILBOX_KEY_DIR") or None
    if folder is None:
        default = os.path.expanduser(DEFAULT_KEY_DIR)
        folder = default if os.path.isdir(default) else None
    return folder, os.fspath(registry) if registry is not None else os.environ.get("MAILBOX_REGISTRY") or None


def root_path(path: str | os.PathLike[str] | None) -> str:
    """Return *path*, or $MAILBOX_ROOT, or /mail."""
    return os.fspath(path) if path is not None else os.environ.get("MAILBOX_ROOT") or DEFAULT_ROOT


def watcher_name(name: str | None) -> str:
    """Return *name*, or $MAILBOX_WATCHER, or watchfiles. Raises InvalidRequestError if there is no such watcher."""
    name = name or os.environ.get("MAILBOX_WATCHER") or WATCHERS[0]
    if name not in WATCHERS:
        raise InvalidRequestError(f"the watcher is {quoted(name)}, expected {', '.join(WATCHERS)}")
    return name
