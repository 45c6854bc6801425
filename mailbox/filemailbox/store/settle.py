"""The end of a claim: acknowledged, deferred, released or a dead letter. One rename or unlink each."""

import contextlib
import os
import time

from .. import log
from ..errors import NotClaimedError, StorageError, storage_error
from ..format.filename import Filename, parse_filename, timed_filename
from ..format.timestamp import to_timestamp
from .claim_deferred import MAX_RETRY_NS, DeferredMail
from .consumer_folder import ConsumerFolder, file_away
from .dead_letters import DeadLetters
from .ids import timestamp_now


class Settler:
    """Settles what one consumer has claimed. A claim that is gone is logged: it may be handled twice."""

    __slots__ = ("_dead_letters", "_deferred", "_folder", "_retention", "_unreleased")

    def __init__(
        self, folder: ConsumerFolder, deferred: DeferredMail, dead_letters: DeadLetters, retention: float | None
    ) -> None:
        self._folder, self._deferred, self._dead_letters = folder, deferred, dead_letters
        self._retention = retention
        self._unreleased: dict[str, bool] = {}  # what could not be released yet, and if it was never read

    def ack(self, filename: str) -> None:
        """Delete a handled message, or move it to `done/`. Raises NotClaimedError, StorageError."""
        folder = self._folder
        try:
            if self._retention is None:
                os.unlink(filename, dir_fd=folder.fd)
            else:
                done = timed_filename(timestamp_now(), filename)
                file_away(filename, folder.claimed_fd(), done, folder.dirs["done"])
        except FileNotFoundError:
            _warn_lost_claim(filename)
        except OSError as error:
            folder.claimed_fd()
            raise storage_error(error, f"acking {filename}") from error

    def is_claimed(self, filename: str) -> bool:
        """Report whether a message is still in our folder. Raises NotClaimedError if there is none any more."""
        try:
            os.stat(filename, dir_fd=self._folder.claimed_fd(), follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(error, f"looking for {filename}") from error
        return True

    def release_unread(self, filename: str) -> None:
        """Release a file that was not read, as never claimed. If it cannot, it is tried later."""
        self._release(filename, never_read=True)

    def release(self, filename: str) -> None:
        """Let a message that was read before come back at once, the attempt not counted. It is tried again later."""
        self._release(filename, never_read=False)

    def _release(self, filename: str, *, never_read: bool) -> None:
        self._unreleased[filename] = never_read
        with contextlib.suppress(StorageError, NotClaimedError):
            self.defer(filename, 0 if never_read else time.time_ns(), never_read=never_read)
            self._unreleased.pop(filename, None)

    def release_again(self) -> None:
        """Try again to release what could not be released before."""
        for filename, never_read in list(self._unreleased.items()):
            self._release(filename, never_read=never_read)

    def defer(
        self, filename: str, due: int, renamed: Filename | None = None, *, never_read: bool = False
    ) -> None:  # fmt: skip
        """Let a message come back at *due* (nanoseconds since 1970). Its new name *renamed* counts its attempts.

        Raises NotClaimedError, StorageError.
        """
        back, wait = str(renamed) if renamed else filename, due - time.time_ns()
        if wait > MAX_RETRY_NS and (parts := renamed or parse_filename(filename)) and (renamed or parts.attempt > 1):
            back = str(parts.replace(wait=-(-wait // 1_000_000_000)))  # else it is taken for the work of a wrong clock
        target = timed_filename(to_timestamp(due), back)
        unread = self._deferred.never_read
        try:
            if never_read:
                unread.add(target)  # before another thread can find it
            kept = file_away(filename, self._folder.claimed_fd(), target, self._folder.dirs["later"])
        except FileNotFoundError:
            _warn_lost_claim(filename)
            return
        except OSError as error:
            raise storage_error(error, f"deferring {filename}") from error
        if kept is None:
            return
        if never_read:
            unread.add(kept)
        self._deferred.push(due, kept)

    def dead_letter(self, filename: str, reason: str, detail: str = "") -> None:
        """Make a message a dead letter: the file untouched, *reason* and *detail* in a `.why` file beside it.

        Raises NotClaimedError, StorageError.
        """
        try:
            self._dead_letters.add(filename, self._folder.claimed_fd(), reason, detail)
        except FileNotFoundError:
            _warn_lost_claim(filename)
        except OSError as error:
            raise storage_error(error, f"making {filename} a dead letter") from error


def _warn_lost_claim(filename: str) -> None:
    log.warning("%s was not claimed by us any more when it was settled: it may be handled twice", filename)
