"""A claimed message, and the two memories that all sources of claims share."""

import errno
import os
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from .. import log
from ..errors import quoted

SYSTEMIC_ERRNOS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EINTR)
"""Errors that no single file is the cause of."""

MAX_TRIES: Final = 8
"""Tries in a row of a failing file before the files behind it have their turn."""

BACKOFF_SECONDS: Final = 60.0
"""Seconds for which a file that failed so often is left alone."""


Claim: TypeAlias = tuple[str, bytes, os.stat_result, bool]
"""A message in our folder in `cur/`: its file name, its content (read once), its stat, and True if no consumer has read
it before: it came from `new/`. A plain tuple: one with names takes 0.3 us longer to build, for each message."""


class Failures:
    """The files that could not be claimed because of an error of the disk."""

    __slots__ = ("tries",)

    def __init__(self) -> None:
        self.tries: dict[str, tuple[int, float]] = {}
        """Name → how often it failed in a row, and until when it is left alone."""

    def is_first_again(self, filename: str, error: OSError) -> bool:
        """Note a failure. Returns True if the file keeps its turn: one that fails again and again delays nothing."""
        if error.errno in SYSTEMIC_ERRNOS:
            return True
        tries = self.tries.get(filename, (0, 0.0))[0] + 1
        self.tries[filename] = tries, time.monotonic() + BACKOFF_SECONDS if tries >= MAX_TRIES else 0.0
        if tries == MAX_TRIES:
            log.error("%s fails again and again: what is behind it is taken first (%s)", quoted(filename), error)
        return tries < MAX_TRIES

    def is_backing_off(self, filename: str) -> bool:
        """Report whether the file is left alone for now."""
        return self.tries.get(filename, (0, 0.0))[1] > time.monotonic()

    def keep_only(self, filenames: set[str]) -> None:
        """Forget the files that are gone."""
        self.tries = {filename: tries for filename, tries in self.tries.items() if filename in filenames}


class ContentFilter:
    """Claims only messages with some content, and leaves the others in place, for other consumers."""

    __slots__ = ("accept", "skipped")

    def __init__(self) -> None:
        self.accept: Callable[[bytes], bool] | None = None
        """Returns True for the content to claim; None claims all."""
        self.skipped: set[str] = set()
        """The files that were read and left."""

    def refuses(self, filename: str, data: bytes) -> bool:
        """Report whether the message is left in place. It is not read again then."""
        if self.accept is None or self.accept(data):
            return False
        self.skipped.add(filename)
        return True
