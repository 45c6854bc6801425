"""MAILBOX_* variables and their defaults."""

from __future__ import annotations

import os

from .errors import (
    InvalidRequestError,
    quoted,
)

DEFAULT_ROOT = "/mail"

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


def switch(variable: str, said: bool | None) -> bool | None:
    """A switch: as *said*, else as the environment has it; None where neither does. Raises InvalidRequestError."""
    if said is not None:
        return said
    text = os.environ.get(variable, "").lower()
    if text in _SWITCH:
        return _SWITCH[text]
    raise InvalidRequestError(f"{variable} is {quoted(text)}, expected 1 or 0")


def own_name() -> str:
    name = os.environ.get("MAILBOX_AGENT")
    if not name:
        raise InvalidRequestError("whose mail? Give a name (on the command line: --as NAME), or set MAILBOX_AGENT")
    return name


def key_folders(
    keys: str | os.PathLike[str] | None, registry: str | os.PathLike[str] | None
) -> tuple[str | None, str | None]:
    """Where our own keys and the operator's lie, as far as anybody said, or is usual."""
    folder = os.fspath(keys) if keys is not None else os.environ.get("MAILBOX_KEY_DIR") or None
    if folder is None:
        usual = os.path.expanduser("~/.config/mailbox")
        folder = usual if os.path.isdir(usual) else None
    return folder, os.fspath(registry) if registry is not None else os.environ.get("MAILBOX_REGISTRY") or None


def root_path(path: str | os.PathLike[str] | None) -> str:
    return os.fspath(path) if path is not None else os.environ.get("MAILBOX_ROOT") or DEFAULT_ROOT
