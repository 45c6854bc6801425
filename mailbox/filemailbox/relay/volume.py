"""An agent's volume, opened folder by folder and never trusted."""

import contextlib
import errno
import os
from typing import Final

from .policy import Agent

PATH_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_RELAY_ERRNOS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def is_relay_error(error: OSError) -> bool:
    """Return whether the relay itself ran out of something (descriptors, memory). No agent is to blame then."""
    return error.errno in _RELAY_ERRNOS


def errno_text(error: OSError) -> str:
    """Return the kernel's description of an error, in lower case."""
    return (error.strerror or str(error)).lower()


def open_box(agent: Agent) -> int:
    """Open the folder of the agent's box.

    The operator named the volume, which may be a link. Below it no link is followed.
    Raises OSError: PermissionError if the box belongs to another uid than that of the policy.
    """
    volume_fd = os.open(agent.volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        box_fd = os.open(agent.name, PATH_FOLDER, dir_fd=volume_fd)
    finally:
        os.close(volume_fd)
    owner = os.fstat(box_fd).st_uid
    if agent.uid is not None and owner != agent.uid:
        os.close(box_fd)
        raise PermissionError(errno.EPERM, f"it belongs to the uid {owner}, not to {agent.uid}")
    return box_fd


def write_reason(dead_fd: int, name: str, why: str) -> None:
    """Write a `.why` file in place of whatever has its name. Best effort."""
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=dead_fd)
    with contextlib.suppress(OSError):
        fd = os.open(name, NEW_FILE, 0o644, dir_fd=dead_fd)  # its folder keeps others out; the agent must read it
        try:
            os.fchmod(fd, 0o644)
            os.write(fd, f"{why}\n".encode("utf-8", "backslashreplace"))
        finally:
            os.close(fd)
