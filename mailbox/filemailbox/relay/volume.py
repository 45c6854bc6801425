"""An agent's volume, opened folder by folder and never trusted."""

import contextlib
import errno
import os
from typing import Final

from .policy import Agent

PLACE: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def is_our_trouble(error: OSError) -> bool:
    """Whether it is nobody's fault but ours: too many open files, no memory."""
    return error.errno in _OURS


def open_box(agent: Agent) -> int:
    """The folder of the agent's box. Its volume is named by the operator, and may be a link; nothing in it may."""
    volume = os.open(agent.volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        box = os.open(agent.name, PLACE, dir_fd=volume)
    finally:
        os.close(volume)
    owner = os.fstat(box).st_uid
    if agent.uid is not None and owner != agent.uid:
        os.close(box)
        raise PermissionError(errno.EPERM, f"it belongs to the uid {owner}, not to {agent.uid}")
    return box


def write_reason(dead: int, name: str, why: str) -> None:
    """Write a `.why`. Best effort, and over nothing that lies there."""
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=dead)
    with contextlib.suppress(OSError):
        file = os.open(name, NEW_FILE, 0o644, dir_fd=dead)  # its folder keeps others out; the agent must read it
        try:
            os.fchmod(file, 0o644)
            os.write(file, f"{why}\n".encode("utf-8", "backslashreplace"))
        finally:
            os.close(file)
