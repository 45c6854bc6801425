"""New mail: which file of `new/` comes next, and how it is claimed.

A listing is put in order (format/order.py) and becomes the batch. A file with a plain name of ours is claimed first and
read then, in our own folder, where no sender reaches it: one rename, one open, one read. If it is not what its name
promises, it goes back unread. Everything else is read before it is claimed: see Intake. That costs a drain 36 to 40 %
when it is done for every message, so the fast path exists; it is all in claim_next().

Where `new/` is full of files that are not mail, NewMail leaves them behind: see junk.py.
"""

import errno
import os
import re
import time
from typing import Final

from .. import log
from ..format.filename import TIMESTAMP_PATTERN, Filename, stem_of
from ..format.order import Order, is_external, is_mail
from ..system.files import NOREPLACE, READ, bare_rename, close, list_dir, move, rename_noreplace, same
from ..system.strict_read import is_same_file, strict_read
from .claim import SYSTEMIC_ERRNOS, Claim, ContentFilter, Failures
from .consumer_folder import ConsumerFolder
from .ids import new_id, timestamp_now, with_fresh_id
from .intake import CLEANUP_BUDGET, PART, Intake
from .junk import MANY, Aside, is_crowded, leave_behind
from .settle import Settler

_PLAIN = re.compile(rf"{TIMESTAMP_PATTERN}-[0-9a-f]{{12}},S=(\d{{1,9}})\.json", re.ASCII).fullmatch
_UNTIMED_LISTING: Final = 256
"""Names in a listing up to which junk cannot cost anything worth measuring."""

_HUGE: Final = 10 * MANY
"""Names of junk in a listing from which on `new/` is replaced without delay."""

_MAX_UNSETTLED: Final = 8
"""Folders that were `new/` and may still hold mail: with so many of them, `new/` is not replaced again."""


class _Crowding:
    """The part of `new/` that is not mail, and what is done about it.

    Apart from NewMail: with more than thirty attributes, Python reads each of its own more slowly, for each message.
    """

    __slots__ = ("asides", "before", "behind", "exchange_at", "in_vain", "is_short", "listed", "room_at", "took")

    def __init__(self) -> None:
        self.asides: list[Aside] = []
        self.listed: list[str] = []  # the listing before, if much of it was no mail
        self.behind: set[str] = set()  # the irregular files of the batch that were not opened
        self.before: set[str] = set()  # the same, of the listing before that
        self.in_vain = 0  # names of the batch that came to nothing
        self.room_at = 0.0  # when something may be done about junk again
        self.exchange_at = 0.0  # when it may be left behind again
        self.took = 0.0  # seconds, by the last listing, if it was long
        self.is_short = True  # the listing before: there is room for more


class NewMail:
    """The mail in `new/`, as one consumer claims it."""

    __slots__ = ("_bare_rename", "_crowding", "_failures", "_filter", "_flags", "_folder", "_held_back", "_intake",
                 "_order", "_settler", "_suspects", "batch")  # fmt: skip

    def __init__(
        self, folder: ConsumerFolder, intake: Intake, settler: Settler, failures: Failures, content: ContentFilter
    ) -> None:
        self._folder, self._intake, self._settler = folder, intake, settler
        self._failures, self._filter = failures, content
        self._bare_rename = bare_rename()
        self._flags = READ | os.O_NOATIME  # only the owner of a file may: dropped at the first refusal
        self._order = Order()
        self._held_back = False
        self._suspects: set[str] = set()  # files under a plain name of ours that are not plain mail
        self._crowding = _Crowding()
        self.batch: list[str] = []
        """The names to claim, the next one last. Other threads pop from it."""

    def close(self) -> None:
        """Close the folders that were left behind."""
        for aside in self._crowding.asides:
            aside.close()

    def new_was_replaced(self) -> None:
        """Forget what is known of the files of a folder that is not `new/` any more."""
        self._intake.clear()

    # Listing

    def scan(self, scans: int) -> bool:
        """List `new/`, after *scans* listings of the same claim. Returns True if it is worth going on.

        A second listing is only worth it if the first one held mail back.
        """
        if scans and not self._held_back:
            return False
        intake, crowding = self._intake, self._crowding
        if crowding.listed or crowding.asides:
            self._make_room()
        started = time.monotonic()
        clock = timestamp_now()  # before the listing
        waiting = listed = list_dir(self._folder.new_fd)
        if not waiting:
            intake.begin_scan(waiting)
            intake.incomplete.clear()
            self._suspects.clear()
            self._held_back = False
            crowding.took, crowding.listed, crowding.is_short = 0.0, [], True
            return False
        if intake.spent or intake.incomplete or intake.warned or intake.left_alone or len(listed) > _UNTIMED_LISTING:
            waiting = intake.begin_scan(waiting)
        if self._filter.skipped:
            waiting = [filename for filename in waiting if filename not in self._filter.skipped]
        if self._suspects:
            self._suspects.intersection_update(waiting)
        batch, self._held_back = self._order.select(waiting, clock, intake.mtime_stamp)
        if self._failures.tries:
            batch = [filename for filename in batch if not self._failures.is_backing_off(filename)]
        batch.reverse()
        if len(listed) > _UNTIMED_LISTING:
            crowding.is_short = len(listed) < MANY
            crowding.took = time.monotonic() - started
            crowding.listed = listed if len(listed) - len(batch) > MANY or crowding.in_vain > MANY else []
        elif crowding.took:
            crowding.took, crowding.listed, crowding.is_short = 0.0, [], True
        if crowding.in_vain or crowding.before:
            crowding.in_vain, crowding.before, crowding.behind = 0, crowding.behind, set()
        if not batch and len(crowding.listed) > _HUGE:
            self._make_room()  # now: after a listing that took so long, the next one is not made at once
            self._held_back = self._held_back or not crowding.listed  # mail that came meanwhile has moved over
        self.batch = batch  # only now: other threads pop from it
        return bool(batch) or self._held_back

    def cost(self) -> float:
        """Return the seconds that the last scan took, if much of `new/` is not mail."""
        return self._crowding.took + self._intake.spent

    def _make_room(self) -> None:
        """Leave junk behind in a folder that is no longer `new/`, and go on moving what may be mail out of those."""
        started = time.monotonic()
        crowding = self._crowding
        is_huge = len(crowding.listed) > _HUGE  # to replace new/ is cheaper than to list it once more
        if started < crowding.room_at and not is_huge:
            return
        if started >= crowding.room_at:
            for aside in crowding.asides[:]:
                if aside.empty(self._folder.new_fd, started + CLEANUP_BUDGET, has_room=crowding.is_short):
                    crowding.asides.remove(aside)
            crowding.room_at = time.monotonic() + PART * (time.monotonic() - started)
        unsettled = sum(not aside.settled for aside in crowding.asides)
        is_time = started >= crowding.exchange_at or is_huge
        if not crowding.listed or not is_time or unsettled >= _MAX_UNSETTLED:
            return
        if is_crowded(self._folder.new_fd):
            irregular = {*self._intake.irregular, *crowding.behind, *filter(is_external, crowding.listed)}
            # Plain mail that was held back moves at once.
            aside_or_none = leave_behind(self._folder.box.path, self._folder.new_fd, irregular)
            if aside_or_none is not None:
                crowding.asides.append(aside_or_none)
                crowding.listed, crowding.took = [], 0.0
                self._folder.reopen_new()
                self.new_was_replaced()
                log.warning("there was too much junk in the new/ of %s: it was left behind", self._folder.address)
        now = time.monotonic()
        crowding.exchange_at = now + max(1.0, PART * (now - started))

    # Claiming

    def claim_next(self) -> Claim | None:
        """Claim the next of the batch. Returns None if it came to nothing; raises IndexError if the batch is empty.

        Raises OSError, StorageError if the disk fails; the file stays the next one then.
        """
        filename = self.batch.pop()
        plain = _PLAIN(filename)
        if plain is None or self._suspects or self._filter.accept is not None:
            return self._claim_irregular(filename, is_plain=plain is not None)
        # The fast path: claim a plain name first, and read the file in our own folder.
        folder, name = self._folder, filename.encode()
        if self._bare_rename(folder.new_fd, name, folder.fd, name, NOREPLACE) != 0:
            return self._claim_checked(filename)  # another consumer was faster, or we hold one of that name
        try:
            fd = os.open(filename, self._flags, dir_fd=folder.fd)
            try:
                data, st, refusal = strict_read(fd, self._intake.max_size, int(plain[1]))
            finally:
                os.close(fd)
            if refusal is None:
                return filename, data, st, True
        except OSError as error:
            if error.errno == errno.EPERM:  # the file is another user's
                self._flags = READ
        return self._claim_checked(filename, claimed=True)

    def _claim_irregular(self, filename: str, *, is_plain: bool) -> Claim | None:
        crowding = self._crowding
        if not is_plain and not is_mail(filename):
            crowding.in_vain += 1
            return None
        if self._intake.is_out_of_time:
            if not crowding.behind:
                self._put_irregular_behind([*self.batch, filename])
                return None
            if filename in crowding.behind:
                return None
        return self._claim_checked(filename)

    def _put_irregular_behind(self, rest: list[str]) -> None:
        """Open no irregular file of the *rest* of the batch before the mail behind it: the next scans do that."""
        before, looks_complete = self._crowding.before, self._intake.looks_complete
        batch, behind = [], set()
        for filename in rest:
            plain = _PLAIN(filename)
            if plain is not None and filename not in before and looks_complete(filename, int(plain[1])):
                batch.append(filename)
            else:
                behind.add(filename)
        self._crowding.in_vain += len(behind)
        self._crowding.behind = behind
        self.batch = batch

    def _claim_checked(self, filename: str, *, claimed: bool = False) -> Claim | None:
        """Read a file first, and claim it then; one that was *claimed* already goes back unread before that.

        If the disk fails it stays the first of the batch: what is behind it may be later.
        """
        started = time.monotonic()
        try:
            claim = self._read_and_claim(filename) if not claimed or self._unclaim(filename) else None
            if claim is None:
                self._crowding.in_vain += 1
                self._intake.spent += time.monotonic() - started
            return claim
        except OSError as error:
            if self._failures.is_first_again(filename, error):
                self.batch.append(filename)
            raise

    def _unclaim(self, filename: str) -> bool:
        """Put a file that is not plain mail back, unread. Returns True if it is in `new/` again.

        While it is there, every file is read before it is claimed.
        """
        self._suspects.add(filename)
        try:
            rename_noreplace(filename, self._folder.fd, self._folder.new_fd)
        except OSError as error:
            self._settler.release_unread(filename)
            if error.errno in (*SYSTEMIC_ERRNOS, errno.EIO, errno.EROFS, errno.ESTALE):
                raise
            return False  # its new/ is gone, or another file has its name now
        return True

    def _read_and_claim(self, filename: str) -> Claim | None:
        """Read one file in `new/`, and claim it if it is mail: under a name of ours, without made-up fields."""
        flags = self._flags
        try:
            fd = os.open(filename, flags, dir_fd=self._folder.new_fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EPERM and flags != READ:  # the file is another user's
                self._flags = READ
                return self._read_and_claim(filename)
            self._intake.on_open_error(filename, error)
            return None
        try:
            found = self._intake.inspect(filename, fd)
            if found is None or self._filter.refuses(filename, found[0]):
                return None
            return self._rename_checked(filename, *found)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._intake.on_rename_error(filename, error, os.fstat(fd))
            return None
        finally:
            close(fd)

    def _rename_checked(self, filename: str, data: bytes, name: Filename | None, st: os.stat_result) -> Claim | None:
        """Claim a file that was read. A foreign name gets a fresh id."""
        ours = Filename(new_id(), len(data), stem=stem_of(filename))
        if name is not None:
            ours = Filename(name.id, len(data))
            if name.origin is not None:  # the verifier checks if it is the relay's file
                ours = ours.replace(stem=name.stem, origin=name.origin)
        claimed, new_fd, fd, other = str(ours), self._folder.dirs["new"], self._folder.fd, ""
        try:
            move(filename, new_fd, claimed, fd)
        except FileExistsError:  # we hold one of that name, perhaps another sender's
            other, claimed = claimed, with_fresh_id(claimed)
            move(filename, new_fd, claimed, fd)
        self._intake.incomplete.pop(filename, None)
        try:
            unchanged = is_same_file(claimed, fd, st)
        except OSError:
            self._settler.release_unread(claimed)
            raise
        if not unchanged:  # it was replaced in between: it is read again in a folder that only we reach
            self._settler.release_unread(claimed)
            return None
        if other and same(claimed, fd, other, fd):
            os.unlink(claimed, dir_fd=fd)
            log.info("%s is claimed already: the second copy of the same message was dropped", other)
            return None
        return claimed, data, st, True
