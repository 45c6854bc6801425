"""Out of a box: one consumer claims messages, one at a time, and settles them.

    new/               delivered         waiting for a consumer       claim_new.py, intake.py, junk.py
    cur/CONSUMER/      claimed           by the consumer that holds   consumer_folder.py
                                         the lock of this folder
    later/             deferred          comes back at its due time   claim_deferred.py
    dead/              dead letters      the reason beside each       dead_letters.py
    done/              handled           only with a retention        settle.py

Every state is a folder and every step is one rename, so a crash leaves a message where it was or where it was going,
never in between. A message that was once claimed never goes back to `new/`, where its sender could touch it. These
modules are the only movers of messages that were delivered.
"""

import contextlib
import os
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Final

from .. import log
from ..errors import NotClaimedError, StorageError, quoted, storage_error, translated_errors
from ..format.filename import Filename, split_timed
from ..format.timestamp import to_timestamp
from ..settings import Settings
from ..system import as_owner
from ..system.as_owner import at, opened
from ..system.files import list_dir
from . import replies
from .claim import Claim, ContentFilter, Failures
from .claim_deferred import DeferredMail
from .claim_new import NewMail
from .consumer_folder import Change, ConsumerFolder, Tenancy
from .dead_letters import DeadLetters
from .intake import CLEANUP_BUDGET, Intake
from .root import Box
from .sent import sweep_sent
from .settle import Settler

TMP_MAX_AGE: Final = 36 * 3600
"""Seconds after which a temporary file in `tmp/` is deleted: Maildir's number, the one judgement by age."""

_SWEEP_INTERVAL: Final = 3600.0
"""Seconds between two sweeps of `tmp/` and `done/`."""

_MAINTENANCE_SHARE: Final = 20
"""Maintenance takes one part in so many of the time, however large the box is."""

_OVERDUE: Final = 1.0
"""Seconds for which maintenance waits while `new/` has mail."""

_spools: "weakref.WeakSet[Spool]" = weakref.WeakSet()


class Spool:
    """One consumer of a box. Safe to share between threads; in the child of a fork it holds nothing.

    It opens the box at the first claim, or by begin().
    """

    def __init__(self, box: Box, settings: Settings | None = None, tenancy: Tenancy | None = None) -> None:
        self._settings = settings or Settings()
        self._folder = ConsumerFolder(box, tenancy)
        self._before_claim = self._folder.before_claim if tenancy is not None else None
        self._filter = ContentFilter()
        self._start()
        _spools.add(self)

    def _start(self) -> None:
        """Begin with no memory of the box."""
        max_size, dirs = self._settings.max_size, self._folder.dirs
        failures = Failures()
        self._filter.skipped.clear()
        self._dead_letters = DeadLetters(dirs)
        self._deferred = DeferredMail(self._folder, self._dead_letters, failures, self._filter, max_size)
        self._settler = Settler(self._folder, self._deferred, self._dead_letters, self._settings.retention)
        self.ack = self._settler.ack  # for each message: without a call in between
        intake = Intake(dirs, self._dead_letters, max_size)
        self._new = NewMail(self._folder, intake, self._settler, failures, self._filter)
        self.maintain_at = 0.0
        """The monotonic time of the next maintenance. While `new/` has mail it may wait a second longer."""
        self._sweep_at = 0.0

    @property
    def folder(self) -> str | None:
        """The name of our folder in `cur/`; None while there is none."""
        return self._folder.name or None

    @property
    def fd(self) -> int:
        """The descriptor of our folder. Raises NotClaimedError if there is none any more."""
        return self._folder.claimed_fd()

    @property
    def accept(self) -> Callable[[bytes], bool] | None:
        """The test of the content that is claimed; None claims all. The rest is left in place, for others."""
        return self._filter.accept

    @accept.setter
    def accept(self, accept: Callable[[bytes], bool] | None) -> None:
        self._filter.accept = accept

    def close(self) -> None:
        """Release what is claimed, the attempt not counted, and give up the folder in `cur/`."""
        with self._folder.guard:
            self._new.close()
            self._folder.close()
            self._start()

    def forget_after_fork(self) -> None:
        """Leave everything to the parent: this is the child of a fork."""
        self._new.close()
        self._folder.forget_after_fork()
        self._start()

    def abandon(self) -> None:
        """Release the lock and forget the rest, as if the process had died: for tests."""
        self._folder.unlock()
        self.forget_after_fork()

    # Claiming

    def claim(self) -> Claim | None:
        """Claim the next message: move it into our folder and read it. Returns None if nothing can be claimed now.

        A file that is not mail becomes a dead letter or is left alone, is logged, and never stops the mail behind it.
        Raises BoxNotFoundError or RootNotFoundError if the box is gone, StorageError if the disk fails.
        """
        try:
            if self._before_claim is not None:
                self._prepare_claim()
            now = time.monotonic()
            if not self._deferred.heap and now < self.maintain_at + _OVERDUE and self._folder.fd >= 0:  # most calls
                new = self._new
                if not new.batch:
                    with self._folder.guard:
                        if not new.batch and not new.scan(0) and now < self.maintain_at:
                            return None
                if new.batch:
                    claim = new.claim_next()
                    if claim is not None:
                        return claim
            with self._folder.guard:
                return self._claim_any()
        except IndexError:  # another thread took the last one of the batch
            return self.claim()
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise storage_error(error, f"taking mail from the box {quoted(self._folder.address)}") from error

    def _claim_any(self) -> Claim | None:
        """Claim what is due, else new mail. Maintenance runs before an answer None, and when it is overdue."""
        is_maintained = False
        if self._folder.fd < 0 or time.monotonic() >= self.maintain_at + _OVERDUE:
            self._maintain()
            is_maintained = True
        scans = 0
        while True:
            if self._deferred.is_due():
                claim = self._deferred.claim_next()
            elif self._new.batch:
                claim = self._new.claim_next()
            elif scans < 2 and self._new.scan(scans):
                scans += 1
                continue
            elif not is_maintained and time.monotonic() >= self.maintain_at:
                self._maintain()
                is_maintained, scans = True, 0
                continue
            else:
                return None
            if claim is not None:
                return claim

    def _prepare_claim(self) -> None:
        with self._folder.guard, translated_errors(f"leasing from the box {quoted(self._folder.address)}"):
            assert self._before_claim is not None
            if self._folder.fd >= 0 and not self._before_claim():
                self.maintain_at = -_OVERDUE  # the box was replaced

    def begin(self) -> None:
        """Open the box, take a folder in `cur/`, recover what dead consumers had claimed. Raises as claim() does."""
        try:
            with self._folder.guard:
                self._maintain()
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise storage_error(error, f"opening the box {quoted(self._folder.address)}") from error

    def open_folder(self) -> None:
        """Take our folder in `cur/` and nothing else. Raises as claim() does, and the tenancy's errors.

        For settling the messages that are in the folder already.
        """
        with self._folder.guard:
            self._folder.refresh()

    def next_due(self) -> float | None:
        """Return the seconds until the next deferred message comes back; None if none is known."""
        return self._deferred.next_due()

    def next_retry(self) -> float | None:
        """Return the seconds until the next message that failed before comes back; None if none is known."""
        return self._deferred.next_retry()

    def cost(self) -> float:
        """Return the seconds that the last scan took, if much of `new/` is not mail."""
        return self._new.cost()

    def extend(self, duration: float) -> str:
        """Keep the claims of our folder for at least *duration* seconds from now. Returns the deadline, a timestamp.

        Raises InvalidRequestError if they are not leased, NotClaimedError if the folder is gone.
        """
        with self._folder.guard, translated_errors(f"extending the lease of {quoted(self._folder.address)}"):
            try:
                return self._folder.extend(duration)
            except FileNotFoundError as error:
                raise NotClaimedError("the lease is gone: its box was replaced, or it ended") from error

    # Settling

    def is_claimed(self, filename: str) -> bool:
        """See Settler.is_claimed()."""
        return self._settler.is_claimed(filename)

    def defer(self, filename: str, due: int, renamed: Filename | None = None) -> None:
        """See Settler.defer()."""
        self._settler.defer(filename, due, renamed)

    def release(self, claim: Claim) -> None:
        """Let a claim come back at once, by no fault of its own. If that fails, it is tried again later."""
        filename, _, _, never_read = claim
        if never_read:
            self._settler.release_unread(filename)
        else:
            self._settler.release(filename)

    def dead_letter(self, filename: str, reason: str, detail: str = "") -> None:
        """See Settler.dead_letter()."""
        self._settler.dead_letter(filename, reason, detail)

    def requeue(self, filename: str) -> str:
        """Deliver a dead letter once more, its attempts counted from one. Returns its id.

        Raises FileNotFoundError if it is gone.
        """
        with self._folder.guard, translated_errors(f"requeueing {quoted(filename)}"):
            self._refresh()
            id, due = self._dead_letters.requeue(filename)
            if due is not None:
                self._deferred.push(*due)
            return id

    def purge(self, filename: str) -> None:
        """Delete a dead letter and its `.why`. Raises FileNotFoundError if it is gone."""
        with self._folder.guard, translated_errors(f"purging {quoted(filename)}"):
            self._refresh()
            self._dead_letters.purge(filename)

    # Maintenance: what no doorbell announces

    def _refresh(self) -> None:
        try:
            change = self._folder.refresh()
        except BaseException:
            if self._folder.fd < 0:
                self._new.close()
                self._start()
            raise
        if change is Change.OPENED:
            self._new.close()
            self._start()
        elif change is Change.NEW:
            self._new.new_was_replaced()
            self._sweep_at = 0.0  # whoever replaced it may have been killed on the way

    def _maintain(self) -> None:
        """Find out if the box is the same, recover dead consumers' claims, list deferred mail, sweep now and then."""
        started = time.monotonic()
        self._refresh()
        self._settler.release_again()
        self._folder.recover_dead_consumers()
        self._sweep_replies()
        self._deferred.scan()
        if started >= self._sweep_at:
            self._folder.recover_replaced_new()
            self._sweep_tmp()
            self._sweep_done()
            self._sweep_dead()
            self._sweep_at = started + _SWEEP_INTERVAL
        took = time.monotonic() - started
        self.maintain_at = started + max(self._settings.poll_interval, _MAINTENANCE_SHARE * took)

    def _sweep_replies(self) -> None:
        dir_fd = self._folder.dirs["replies"]
        if os.geteuid() != 0 or os.fstat(dir_fd).st_uid == 0:
            replies.sweep(self._folder.box.path, dir_fd)
        elif list_dir(dir_fd):
            with contextlib.suppress(OSError), opened(self._folder.box.path) as box_fd:
                as_owner.call(box_fd, partial(_sweep_replies, box_fd))

    def _sweep_tmp(self) -> None:
        """Delete temporary files whose writer is long gone, as many as the budget allows."""
        with contextlib.suppress(OSError), opened(self._folder.box.path) as box_fd:
            as_owner.call(box_fd, partial(_sweep_tmp, box_fd))

    def _sweep_done(self) -> None:
        """Delete handled mail, and copies of sent mail, that were kept long enough."""
        if self._settings.retention is None:
            return
        limit = to_timestamp(time.time_ns() - int(self._settings.retention * 1e9))
        done_fd = self._folder.dirs["done"]
        for filename in list_dir(done_fd):
            parts = split_timed(filename)
            if parts and parts[0] < limit:
                with contextlib.suppress(OSError):
                    os.unlink(filename, dir_fd=done_fd)
        with contextlib.suppress(OSError), opened(self._folder.box.path) as box_fd:
            as_owner.call(box_fd, partial(sweep_sent, box_fd, limit))

    def _sweep_dead(self) -> None:
        """Delete the dead letters that the settings of the box keep no longer."""
        expired, dead = self._settings.expired_retention, self._settings.dead_retention
        if expired is not None or dead is not None:
            deleted = self._dead_letters.sweep(expired, dead, CLEANUP_BUDGET)
            if deleted:
                log.info("%d dead letters of the box %s were kept long enough", deleted, self._folder.address)


def _sweep_replies(box_fd: int) -> None:
    """As the owner of an open box: replies.sweep() finds some files by their paths."""
    with opened("replies", box_fd, os.fstat(box_fd).st_uid) as dir_fd:
        replies.sweep(at(box_fd), dir_fd)


def _sweep_tmp(box_fd: int) -> None:
    """As the owner of an open box."""
    deadline = time.monotonic() + CLEANUP_BUDGET
    with opened("tmp", box_fd, os.fstat(box_fd).st_uid) as tmp_fd, os.scandir(tmp_fd) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > TMP_MAX_AGE:
                    os.unlink(entry.name, dir_fd=tmp_fd)
                    log.warning("the temporary file %s was deleted: unchanged for 36 hours", quoted(entry.name))
            if time.monotonic() > deadline:
                return


def _forget_all_after_fork() -> None:
    for spool in list(_spools):
        spool.forget_after_fork()


os.register_at_fork(after_in_child=_forget_all_after_fork)
