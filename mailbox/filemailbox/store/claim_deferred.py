"""Deferred mail: retries, scheduled mail and recovered claims in `later/`, each under its due time.

The heap is what this consumer knows of the folder. Maintenance lists it again, and finds then what another consumer has
deferred.
"""

import errno
import heapq
import os
import time
from typing import Final

from .. import log
from ..format.filename import parse_filename, split_timed
from ..format.timestamp import to_nanoseconds, to_timestamp
from ..settings import MAX_RETRY_DELAY
from ..system.files import READ, close, list_dir
from ..system.strict_read import strict_read
from .claim import Claim, ContentFilter, Failures
from .consumer_folder import UNMOVABLE_ERRNOS, ConsumerFolder, file_away
from .dead_letters import DeadLetters
from .intake import is_denied

MAX_RETRY_NS: Final = int(MAX_RETRY_DELAY * 1e9)
"""Nanoseconds that a retry waits at most, unless its name allows more (`W=`)."""

_NOT_A_FILE_ERRNOS: Final = (errno.ELOOP, errno.ENXIO, errno.ENODEV)
_FILE_LEASE_RETRY_NS: Final = 1_000_000_000
"""Nanoseconds until a file on which its writer has a lease of the kernel is tried again."""


class DeferredMail:
    """The mail in `later/`, as one consumer knows it."""

    __slots__ = ("_dead_letters", "_failures", "_filter", "_folder", "_max_size", "heap", "never_read")

    def __init__(
        self,
        folder: ConsumerFolder,
        dead_letters: DeadLetters,
        failures: Failures,
        content: ContentFilter,
        max_size: int,
    ) -> None:
        self._folder, self._dead_letters, self._failures, self._filter = folder, dead_letters, failures, content
        self._max_size = max_size
        self.heap: list[tuple[int, str]] = []
        """Due times in nanoseconds since 1970, and names; the earliest first."""
        self.never_read: set[str] = set()
        """The names of files that were deferred before any consumer had read them."""

    def push(self, due: int, filename: str) -> None:
        """Note that a file was deferred."""
        with self._folder.guard:
            heapq.heappush(self.heap, (due, filename))

    def is_due(self) -> bool:
        """Report whether the earliest is due."""
        return bool(self.heap) and self.heap[0][0] <= time.time_ns()

    def next_due(self) -> float | None:
        """Return the seconds until the earliest is due; None if nothing is known to be deferred."""
        with self._folder.guard:
            return (self.heap[0][0] - time.time_ns()) / 1e9 if self.heap else None

    def next_retry(self) -> float | None:
        """Return the seconds until the earliest that was claimed before is due; None if none is known."""
        with self._folder.guard:
            due = min((due for due, filename in self.heap if ",A=" in filename), default=None)
        return None if due is None else (due - time.time_ns()) / 1e9

    def scan(self) -> None:
        """List `later/`."""
        waiting = list_dir(self._folder.dirs["later"])
        if self.never_read:
            self.never_read.intersection_update(waiting)
        skipped = self._filter.skipped
        if skipped or self._failures.tries:
            present = {*waiting, *list_dir(self._folder.dirs["new"])}
            skipped.intersection_update(present)
            self._failures.keep_only(present)
            waiting = [name for name in waiting if name not in skipped and not self._failures.is_backing_off(name)]
        now = time.time_ns()
        latest = to_timestamp(now + MAX_RETRY_NS)
        self.heap = [
            (now if parts[0] > latest and is_too_late(*parts, now) else to_nanoseconds(parts[0]), filename)
            for filename in waiting
            if (parts := split_timed(filename))
        ]
        heapq.heapify(self.heap)

    def claim_next(self) -> Claim | None:
        """Claim the earliest. Returns None if it came to nothing. Raises OSError if the disk fails."""
        filename = heapq.heappop(self.heap)[1]
        parts = split_timed(filename)
        name = parse_filename(parts[1]) if parts else None
        if parts is None or name is None:
            return None
        due, plain_name = parts
        later_fd = self._folder.dirs["later"]
        try:
            fd = os.open(filename, READ, dir_fd=later_fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._on_open_error(filename, due, plain_name, error)
            return None
        try:
            data, st, refusal = strict_read(fd, self._max_size, name.size)
            if refusal is None and self._filter.refuses(filename, data):
                return None
            claimed = file_away(filename, later_fd, plain_name, self._folder.fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in UNMOVABLE_ERRNOS:
                self._keep_turn(filename, due, error)
                raise
            self._folder.dirs.warn_left_alone(filename, "it cannot be moved", error, "later")
            return None
        finally:
            close(fd)
        if claimed is None:
            return None  # the same message is claimed already
        if st.st_size == 0 and name.size != 0 and st.st_uid in (0, os.geteuid()):
            os.unlink(claimed, dir_fd=self._folder.fd)
            log.warning("%s was empty, as a client leaves it that dies while it defers mail: it was removed", filename)
            return None
        if refusal is not None or name.size is None:
            reason = refusal.reason if refusal is not None else "its name does not contain its size"
            self._dead_letters.add(claimed, self._folder.claimed_fd(), reason, "")
            return None
        never_read = filename in self.never_read
        self.never_read.discard(filename)
        return claimed, data, st, never_read

    def _on_open_error(self, filename: str, due: str, plain_name: str, error: OSError) -> None:
        if error.errno == errno.EAGAIN:  # its writer has a file lease on it
            heapq.heappush(self.heap, (time.time_ns() + _FILE_LEASE_RETRY_NS, filename))
            return
        later_fd = self._folder.dirs["later"]
        try:
            never_opens = error.errno in _NOT_A_FILE_ERRNOS or is_denied(filename, later_fd, error)
        except FileNotFoundError:
            return  # gone meanwhile
        if not never_opens:
            self._keep_turn(filename, due, error)
            raise error
        if (claimed := file_away(filename, later_fd, plain_name, self._folder.fd)) is not None:
            reason = f"it cannot be opened: {(error.strerror or str(error)).lower()}"
            self._dead_letters.add(claimed, self._folder.claimed_fd(), reason, "")

    def _keep_turn(self, filename: str, due: str, error: OSError) -> None:
        if self._failures.is_first_again(filename, error):
            heapq.heappush(self.heap, (to_nanoseconds(due), filename))


def is_too_late(due: str, filename: str, now: int) -> bool:
    """Report whether a retry waits longer than any may: its due time was set by a clock that was ahead."""
    name = parse_filename(filename)
    if name is None or (name.attempt == 1 and not name.wait):  # due then by its own wish
        return False
    return to_nanoseconds(due) > now + max(MAX_RETRY_NS, name.wait * 1_000_000_000)
