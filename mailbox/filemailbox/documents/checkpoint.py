"""The checkpoint: the part of the history that a reader has verified, in a small file that only its uid can write.

A checkpoint is a number and the digest of that version. A reader that has one need not read the history from its
beginning, and it notices when what it has seen is gone or is another. It believes two: its own, and that of the
document's owner, who could change the folders anyway.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Final

from ..format import codec
from .folders import NEW_FILE, Folders, read_small, write_all
from .version import MAX_NUMBER

EVERY: Final = 8
"""A reader writes a checkpoint if the last one is this many versions behind."""

_DIGEST = re.compile("[0-9a-f]{64}")


def believed(folders: Folders) -> dict[int, str]:
    """Return the checkpoints that this process believes: digests by number."""
    found = (of(folders, uid) for uid in {os.geteuid(), folders.owner})
    return dict(each for each in found if each is not None)


def of(folders: Folders, uid: int) -> tuple[int, str] | None:
    """Return the checkpoint that this uid has written: a number and a digest."""
    if folders.checkpoints < 0:
        return None
    kept = read_small(f"{uid}.json", folders.checkpoints, uid) or {}
    number, digest = kept.get("version"), kept.get("digest")
    if type(number) is int and 0 < number <= MAX_NUMBER and isinstance(digest, str) and _DIGEST.fullmatch(digest):
        return number, digest
    return None


def write(folders: Folders, number: int, digest: str, uid: int | None = None) -> bool:
    """Write down, for this uid or for *uid*, that the history is verified up to *number*. Return whether that worked.

    Not flushed: a checkpoint that a power cut takes is not missed. The version it names must be flushed.
    """
    if folders.checkpoints < 0:
        return False
    whose = os.geteuid() if uid is None else uid
    temporary = f".{os.urandom(6).hex()}"
    line = codec.dumps({"version": number, "digest": digest}, None, codec.LINE)
    try:
        file = os.open(temporary, NEW_FILE, 0o600, dir_fd=folders.checkpoints)
        try:
            write_all(file, line)
            if whose != os.geteuid():
                os.fchown(file, whose, -1)
            os.fchmod(file, folders.file_mode)
        finally:
            os.close(file)
        os.rename(temporary, f"{whose}.json", src_dir_fd=folders.checkpoints, dst_dir_fd=folders.checkpoints)
    except OSError:  # a reader without the right to write, a full disk: it is only a help
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folders.checkpoints)
        return False
    return True


def forget(folders: Folders) -> None:
    """Delete our own checkpoint, which is no longer true."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{os.geteuid()}.json", dir_fd=folders.checkpoints)
