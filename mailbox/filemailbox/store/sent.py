"""Copies of what an agent sent, in `sent/` of its own box: only if the box keeps its handled mail.

A copy is made after the delivery, is not flushed, and its failure stops nothing. Of sealed mail only the outside is
kept: its content is for the recipient alone.
"""

from __future__ import annotations

import os

from .. import log
from ..format.filename import TIMESTAMP_LENGTH, Filename
from ..system.as_owner import opened
from ..system.files import list_dir
from .layout import SENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .root import Box


def sweep_sent(box_fd: int, limit: str) -> None:
    """As the owner of an open box: delete the copies of what was sent before the timestamp *limit*. Raises OSError."""
    with opened(SENT, box_fd, os.fstat(box_fd).st_uid) as sent_fd:
        for filename in list_dir(sent_fd):
            if filename[:TIMESTAMP_LENGTH] < limit:
                os.unlink(filename, dir_fd=sent_fd)


def keep_sent(box: Box, id: str, line: bytes) -> None:
    """Keep the message *line* in `sent/`. Best effort."""
    name = str(Filename(id, len(line)))
    try:
        fd = os.open(f"{box}/{SENT}/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)
    except FileExistsError:
        return  # sent again under its id
    except OSError as error:
        log.warning("no copy of %s is kept in %s/%s: %s", id, box, SENT, error.strerror)
