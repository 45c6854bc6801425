"""Out of a box: how a consumer claims messages, and how it settles them.

    new/               delivered         waiting for a consumer
    cur/CONSUMER/      claimed           one consumer is at work on it, and holds the lock of this folder
    later/             put off           comes back when its time has come
    dead/              given up          kept for a person, the reason beside it
    done/              handled           only where retention is on

Every state is a folder and every step is one rename, so a crash leaves a message where it was or where it was going,
never in between. What was once read never goes back to `new/`, where its sender could touch it. This module and what
it stands on (place, graves, odd) are the only movers of messages that were delivered.
"""

import contextlib
import errno
import heapq
import os
import re
import stat
import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from .. import log
from ..errors import NotClaimedError, StorageError, quoted, storage_error, translated_errors
from ..format.address import Address
from ..format.filename import TIMESTAMP_PATTERN, Filename, parse_filename, split_timed, stem_of, timed_filename
from ..format.order import Order, is_external, is_mail
from ..format.timestamp import to_nanoseconds, to_timestamp
from ..settings import MAX_RETRY_DELAY, Settings
from ..system import as_owner
from ..system.as_owner import at, opened
from ..system.files import (
    NOREPLACE,
    READ,
    bare_rename,
    close,
    describe_type,
    is_single_link,
    list_dir,
    move,
    read,
    rename_noreplace,
    same,
)
from . import replies
from .consumer_folder import UNMOVABLE_ERRNOS, ConsumerFolder, file_away
from .dead_letters import DeadLetters
from .ids import new_id, timestamp_now, with_fresh_id
from .intake import CLEANUP_BUDGET, PART, Intake, is_denied
from .junk import MANY, Aside, is_crowded, leave_behind
from .root import Root

LONGEST: Final = int(MAX_RETRY_DELAY * 1e9)
"""Nanoseconds that a retry waits at most, where its name does not allow more (`W=`)."""

TMP_MAX_AGE: Final = 36 * 3600
"""Seconds after which a draft in `tmp/` is given up: Maildir's number, the one judgement by age."""

_PLAIN = re.compile(rf"{TIMESTAMP_PATTERN}-[0-9a-f]{{12}},S=(\d{{1,9}})\.json", re.ASCII).fullmatch
_KIND: Final = stat.S_IFMT(0o777777)
_FILE: Final = stat.S_IFREG
_NO_FILE: Final = (errno.ELOOP, errno.ENXIO, errno.ENODEV)
_FOR_ALL: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EINTR)  # no one file's
_TRIES: Final = 8  # how often in a row a file that fails is tried before what is behind it
_LEFT_ALONE: Final = 60.0  # seconds for which it is left alone then
_SHORT: Final = 256  # names in a listing up to which it costs nothing to speak of
_LEASED: Final = 1_000_000_000  # nanoseconds until a file that its writer has a lease on is tried again

Claim: TypeAlias = tuple[str, bytes, os.stat_result, bool]
"""A message that is ours now: the name of its file in our folder; its bytes, read once; what the kernel says of the
file; and whether it was never read before. A tuple, because it is made for every message."""


class _Room:
    """How much of `new/` is not to be had, and what is done about that.

    Apart from the Taker: with more than thirty attributes, Python reads each of its own more slowly, at each message.
    """

    __slots__ = ("asides", "before", "behind", "exchange_at", "in_vain", "room_at", "seen", "short", "took")

    def __init__(self) -> None:
        self.asides: list[Aside] = []
        self.seen: list[str] = []  # in the listing before, where much of it was not to be had
        self.behind: set[str] = set()  # what of it may be odd, and was not looked at
        self.before: set[str] = set()  # the same, of the listing before that
        self.in_vain = 0  # names of the batch that came to nothing
        self.room_at = 0.0  # when something may be done about junk again
        self.exchange_at = 0.0  # when it may be left behind again
        self.took = 0.0  # seconds, by the last listing, where it was long
        self.short = True  # the listing before: there is room for more


class Spool(ConsumerFolder):
    """One consumer of a box: claims messages, one at a time, and settles them.

    Safe to share between threads. In the child of a fork it holds nothing: see Place.
    """

    def __init__(self, root: Root, address: Address, rules: Settings | None = None) -> None:
        self._rules = rules or Settings()
        self._max_size, self._retention = self._rules.max_size, self._rules.retention
        self.accept: Callable[[bytes], bool] | None = None
        """Which content is taken at all, where not all is: the rest is left where it lies, for others."""
        self._bare_rename = bare_rename()
        super().__init__(root, address)

    def _forget(self) -> None:
        super()._forget()
        self._dead_letters = DeadLetters(self._folders)
        self._intake = Intake(self._folders, self._dead_letters, self._max_size)
        self._read = READ | os.O_NOATIME  # only the owner of a file may: given up at the first refusal
        self._order = Order()
        self._batch: list[str] = []
        self._held_back = False
        self._later: list[tuple[int, str]] = []
        self._failing: dict[str, tuple[int, float]] = {}  # how often in a row, and until when it is left alone
        self._suspects: set[str] = set()  # what lies in new/ under a name of ours, and is no plain mail
        self._dropped: dict[str, bool] = {}
        self._unread: set[str] = set()  # what was put into later/ before it was judged
        self._skipped: set[str] = set()
        self._room = _Room()
        self._round_at = 0.0
        self._sweep_at = 0.0

    def _let_go(self) -> None:
        for aside in self._room.asides:
            aside.close()
        super()._let_go()

    # Claiming

    def claim(self, *, hasty: bool = False) -> Claim | None:
        """The next message, moved into our folder; None where nothing is to be had now.

        *hasty* is for a message that was just announced: it does not wait for a round that is due. The next call makes
        that up.

        Raises BoxNotFoundError or RootNotFoundError where the box is gone, StorageError where the disk fails us.
        What is not mail becomes a dead
        letter or is left alone, is logged, and never stops the mail behind it.
        """
        try:
            if not self._later and (self._mine >= 0 if hasty else time.monotonic() < self._round_at):  # most calls
                if not self._batch:
                    with self._guard:
                        if not self._batch and not self._scan_new(0):
                            return None
                if self._batch:
                    claim = self._claim_fast()
                    if claim is not None:
                        return claim
            with self._guard:
                return self._claim_any(hasty)
        except IndexError:  # another thread took the last one of the batch
            return self.claim(hasty=hasty)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise storage_error(error, f"taking mail from the box {quoted(self.address)}") from error

    def _claim_any(self, hasty: bool) -> Claim | None:
        if not (hasty and self._mine >= 0) and time.monotonic() >= self._round_at:
            self._run_maintenance()
        listed = 0
        while True:
            if self._later and self._later[0][0] <= time.time_ns():
                claim = self._claim_due(heapq.heappop(self._later)[1])
            elif self._batch:
                claim = self._claim_fast()
            elif listed < 2 and self._scan_new(listed):
                listed += 1
                continue
            else:
                return None
            if claim is not None:
                return claim

    def _is_first_again(self, text: str, error: OSError) -> bool:
        """Whether it is tried again before what is behind it: but what fails again and again stops nothing."""
        if error.errno in _FOR_ALL:
            return True
        times = self._failing.get(text, (0, 0.0))[0] + 1
        self._failing[text] = times, time.monotonic() + _LEFT_ALONE if times >= _TRIES else 0.0
        if times == _TRIES:
            log.error("%s fails again and again: what is behind it is taken first (%s)", quoted(text), error)
        return times < _TRIES

    def _is_backing_off(self, text: str) -> bool:
        return self._failing.get(text, (0, 0.0))[1] > time.monotonic()

    def begin(self) -> None:
        """Open the box, find a folder in `cur/` for us, take over what the dead have left. Raises as claim() does."""
        try:
            with self._guard:
                self._run_maintenance()
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise storage_error(error, f"opening the box {quoted(self.address)}") from error

    def next_due(self) -> float | None:
        """In how many seconds the next message that was put off comes back, as far as we know."""
        with self._guard:
            return (self._later[0][0] - time.time_ns()) / 1e9 if self._later else None

    def _scan_new(self, listed: int) -> bool:
        """List `new/`; whether that is worth going on with. Once a call, twice where mail was held back."""
        if listed and not self._held_back:
            return False
        odd = self._intake
        if self._room.seen or self._room.asides:
            self._make_room()
        started = time.monotonic()
        clock = timestamp_now()  # before the listing
        waiting = seen = list_dir(self._new)
        if not waiting:
            odd.look(waiting)
            odd.unfinished.clear()
            self._suspects.clear()
            self._held_back = False
            self._room.took, self._room.seen, self._room.short = 0.0, [], True
            return False
        if odd.unfinished or odd.told or odd.left or odd.spent or len(seen) > _SHORT:
            waiting = odd.look(waiting)
        if self._skipped:
            waiting = self._without_skipped(waiting)
        if self._suspects:
            self._suspects.intersection_update(waiting)
        batch, self._held_back = self._order.select(waiting, clock, odd.when)
        if self._failing:
            batch = [name for name in batch if not self._is_backing_off(name)]
        batch.reverse()
        room = self._room
        if len(seen) > _SHORT:
            room.short = len(seen) < MANY
            room.took = time.monotonic() - started
            room.seen = seen if len(seen) - len(batch) > MANY or room.in_vain > MANY else []
        elif room.took:
            room.took, room.seen, room.short = 0.0, [], True
        if room.in_vain or room.before:
            room.in_vain, room.before, room.behind = 0, room.behind, set()
        self._batch = batch  # only now: other threads pop from it
        return bool(batch) or self._held_back

    def cost(self) -> float:
        """How many seconds the last look took, where much lies there that is not to be had."""
        return self._room.took + self._intake.spent

    def _make_room(self) -> None:
        """Leave junk behind, in a folder that is `new/` no more; and go on with moving over what may be mail there."""
        started = time.monotonic()
        if started < self._room.room_at:
            return
        for aside in self._room.asides[:] if self._room.short else ():
            if aside.empty(self._new, started + CLEANUP_BUDGET):
                self._room.asides.remove(aside)
        settled = all(aside.settled for aside in self._room.asides)
        self._room.room_at = time.monotonic() + PART * (time.monotonic() - started)
        if not self._room.seen or started < self._room.exchange_at or not settled:
            return
        if is_crowded(self._new):
            odd = {
                *self._intake.unfinished,
                *self._intake.left,
                *self._room.behind,
                *filter(is_external, self._room.seen),
            }
            left = leave_behind(self._box, self._new, odd)  # what is ours and was held back goes over at once
            if left is not None:
                self._room.asides.append(left)
                sweep_at = self._sweep_at
                self._reopen_new(self._identify())
                self._sweep_at = sweep_at  # the old one is ours to empty
                log.warning("there was too much junk in the new/ of %s: it was left behind", self.address)
        now = time.monotonic()
        self._room.exchange_at = now + max(1.0, PART * (now - started))

    def _without_skipped(self, listed: list[str]) -> list[str]:
        """Without those that we have looked at and do not want."""
        return [name for name in listed if name not in self._skipped]

    def _filter_out(self, text: str, data: bytes) -> bool:
        """Whether it is left to others."""
        if self.accept is None or self.accept(data):
            return False
        self._skipped.add(text)
        return True

    def _claim_fast(self) -> Claim | None:
        """Claim the first of the batch: rename it, then look at what we hold. What may be odd is looked at first."""
        text = self._batch.pop()
        plain = _PLAIN(text)
        if plain is None or self._suspects or self.accept is not None:
            if plain is None and not is_mail(text):
                self._room.in_vain += 1
                return None
            if self._intake.is_over:
                if not self._room.behind:
                    self._put_behind([*self._batch, text])
                    return None
                if text in self._room.behind:
                    return None
            return self._claim_checked(text)
        name = text.encode()
        if self._bare_rename(self._new, name, self._mine, name, NOREPLACE) != 0:  # as another consumer was faster, or
            return self._claim_checked(text)  # one of that name is in our hands
        try:
            file = os.open(text, self._read, dir_fd=self._mine)
            try:
                facts = os.fstat(file)
                size = facts.st_size
                if (
                    size == int(plain[1])
                    and size <= self._max_size
                    and facts.st_nlink == 1  # where nobody else reaches it: there it has no other name
                    and facts.st_mode & _KIND == _FILE
                ):
                    data = os.read(file, size + 1)
                    if len(data) < size:
                        data += read(file, size - len(data))
                    if len(data) == size:
                        return text, data, facts, True
            finally:
                os.close(file)
        except OSError as error:
            if error.errno == errno.EPERM:  # the file is another user's
                self._read = READ
        return self._claim_checked(text, in_vain=True)

    def _put_behind(self, rest: list[str]) -> None:
        """Of the *rest* of the batch open nothing that may be odd before the mail behind it: the next looks do that."""
        before, is_whole = self._room.before, self._intake.is_whole
        batch, behind = [], set()
        for text in rest:
            plain = _PLAIN(text)
            if plain is not None and text not in before and is_whole(text, int(plain[1])):
                batch.append(text)
            else:
                behind.add(text)
        self._room.in_vain += len(behind)
        self._room.behind = behind
        self._batch = batch

    def _claim_checked(self, text: str, in_vain: bool = False) -> Claim | None:
        """Claim what may be odd, or was claimed *in vain*: see _look_first().

        Where the disk fails us it stays the first of the batch: what is behind it may be later.
        """
        started = time.monotonic()
        try:
            claim = self._look_first(text) if not in_vain or self._unclaim(text) else None
            if claim is None:
                self._room.in_vain += 1
                self._intake.spent += time.monotonic() - started
            return claim
        except OSError as error:
            if self._is_first_again(text, error):
                self._batch.append(text)
            raise

    def _unclaim(self, text: str) -> bool:
        """Put back, unread, what is no plain mail: to be looked at where it lay. Returns whether it lies there.

        As long as it does, everything is looked at before it is claimed.
        """
        self._suspects.add(text)
        try:
            rename_noreplace(text, self._mine, self._new)
        except OSError as error:
            self.drop(text, unread=True)
            if error.errno in (*_FOR_ALL, errno.EIO, errno.EROFS, errno.ESTALE):
                raise
            return False  # its new/ is gone, or another file came under its name
        return True

    def _look_first(self, text: str) -> Claim | None:
        """Claim one file from `new/`, if it is mail: under a name of ours, without the fields that a sender made up."""
        how = self._read
        try:
            file = os.open(text, how, dir_fd=self._new)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EPERM and how != READ:  # the file is another user's
                self._read = READ
                return self._look_first(text)
            self._intake.unopened(text, error)
            return None
        try:
            facts = os.fstat(file)
            found = self._intake.mail(text, file, facts)
            if found is None or self._filter_out(text, found[1]):
                return None
            return self._rename_checked(text, *found, facts)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._intake.unmoved(text, error, facts)
            return None
        finally:
            close(file)

    def _rename_checked(self, text: str, name: Filename | None, data: bytes, facts: os.stat_result) -> Claim | None:
        """Claim what was looked at. A foreign name gets a fresh id."""
        ours = Filename(new_id(), len(data), stem=stem_of(text))
        if name is not None:
            ours = Filename(name.id, len(data))
            if name.origin is not None:  # the judge sees whether a relay says so
                ours = ours.replace(stem=name.stem, origin=name.origin)
        held, new, first = str(ours), self._folders["new"], ""
        try:
            move(text, new, held, self._mine)
        except FileExistsError:  # one of that name is in our hands, perhaps another sender's
            first, held = held, with_fresh_id(held)
            move(text, new, held, self._mine)
        self._intake.unfinished.pop(text, None)
        try:
            whole = is_single_link(held, self._mine, facts, ours=True)
        except OSError:
            self.drop(held, unread=True)
            raise
        if not whole:  # it was replaced in between: what we hold is read anew, where nobody else reaches it
            self.drop(held, unread=True)
            return None
        if first and same(held, self._mine, first, self._mine):
            os.unlink(held, dir_fd=self._mine)
            log.info("%s is in our hands already: the second copy of the same message was dropped", first)
            return None
        return held, data, facts, True

    def _claim_due(self, text: str) -> Claim | None:
        """Claim one file from `later/`."""
        parts = split_timed(text)
        name = parse_filename(parts[1]) if parts else None
        if parts is None or name is None:
            return None
        later = self._folders["later"]
        try:
            file = os.open(text, READ, dir_fd=later)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EAGAIN:  # its writer has a lease on it
                heapq.heappush(self._later, (time.time_ns() + _LEASED, text))
                return None
            try:
                lost = error.errno in _NO_FILE or is_denied(text, later, error)
            except FileNotFoundError:
                return None  # gone meanwhile
            if not lost:
                self._retry_due(text, error)
                raise
            if (held := file_away(text, later, parts[1], self._mine)) is not None:
                self._dead_letter(held, f"it cannot be opened: {(error.strerror or str(error)).lower()}", "")
            return None
        try:
            facts = os.fstat(file)
            whole = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1
            data = read(file, min(facts.st_size, self._max_size)) if whole else b""
            if whole and self._filter_out(text, data):
                return None
            held = file_away(text, later, parts[1], self._mine)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in UNMOVABLE_ERRNOS:
                self._retry_due(text, error)
                raise
            self._folders.leave(text, "it cannot be moved", error, "later")
            return None
        finally:
            close(file)
        if held is None:
            return None  # the same message is in our hands already
        if facts.st_size == 0 and name.size != 0 and facts.st_uid in (0, os.geteuid()):
            os.unlink(held, dir_fd=self._mine)
            log.warning("%s was empty, as a client leaves it that dies while it puts mail off: it was removed", text)
            return None
        if facts.st_size > self._max_size:
            self._dead_letter(held, f"it has {facts.st_size} bytes, and {self._max_size} is the limit", "")
            return None
        if not whole:  # put in its place before it was claimed first
            odd = f"{facts.st_nlink} links" if stat.S_ISREG(facts.st_mode) else f"become {describe_type(facts.st_mode)}"
            self._dead_letter(held, f"it has {odd}: somebody else has changed it", "")
            return None
        if name.size != facts.st_size or len(data) != facts.st_size:
            self._dead_letter(
                held, f"it has {facts.st_size} bytes and its name says S={name.size}: it is not whole", ""
            )
            return None
        unread = text in self._unread
        self._unread.discard(text)
        return held, data, facts, unread

    def _retry_due(self, text: str, error: OSError) -> None:
        if self._is_first_again(text, error):
            parts = split_timed(text)
            assert parts is not None, text
            heapq.heappush(self._later, (to_nanoseconds(parts[0]), text))

    # Settling

    def ack(self, name: str) -> None:
        """It is handled. Where it is not ours any more, that is logged: it may be handled twice."""
        try:
            if self._retention is None:
                os.unlink(name, dir_fd=self._mine)
            else:
                done = timed_filename(timestamp_now(), name)
                file_away(name, self._held(), done, self._folders["done"])
        except FileNotFoundError:
            self._warn_lost_claim(name)
        except OSError as error:
            self._held()
            raise storage_error(error, f"acking {name}") from error

    def holds(self, name: str) -> bool:
        """Whether it is still in our folder. Raises NotClaimedError where there is none any more."""
        try:
            os.stat(name, dir_fd=self._held(), follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(error, f"looking for {name}") from error
        return True

    def drop(self, name: str, *, unread: bool) -> None:
        """It cannot be handled now, by our own fault: it comes back at once, or as soon as that can be.

        What is still *unread* comes back as what was never claimed.
        """
        self._dropped[name] = unread
        with contextlib.suppress(StorageError, NotClaimedError):
            self.defer(name, 0 if unread else time.time_ns(), unread=unread)
            self._dropped.pop(name, None)

    def defer(self, name: str, due: int, renamed: Filename | None = None, *, unread: bool = False) -> None:
        """It comes back at *due* (nanoseconds since 1970), under the name *renamed*: attempts are counted there."""
        back, wait = str(renamed) if renamed else name, due - time.time_ns()
        if wait > LONGEST and (parts := renamed or parse_filename(name)) and (renamed or parts.attempt > 1):
            back = str(parts.replace(wait=-(-wait // 1_000_000_000)))  # else it is taken for the work of a wrong clock
        text = timed_filename(to_timestamp(due), back)
        try:
            if unread:
                self._unread.add(text)  # before another thread can find it
            kept = file_away(name, self._held(), text, self._folders["later"])
            if kept is None:
                return
            if unread:
                self._unread.add(kept)
            text = kept
        except FileNotFoundError:
            self._warn_lost_claim(name)
            return
        except OSError as error:
            raise storage_error(error, f"putting off {name}") from error
        with self._guard:
            heapq.heappush(self._later, (due, text))

    def dead_letter(self, name: str, reason: str, detail: str = "") -> None:
        """It becomes a dead letter: the file untouched, *reason* and *detail* in a `.why` file beside it."""
        try:
            self._dead_letter(name, reason, detail)
        except FileNotFoundError:
            self._warn_lost_claim(name)
        except OSError as error:
            raise storage_error(error, f"burying {name}") from error

    def requeue(self, text: str) -> str:
        """Deliver the dead letter *text* once more, the attempts counted anew. Returns its id.

        Raises FileNotFoundError where it is not there any more.
        """
        with self._guard, translated_errors(f"requeueing {quoted(text)}"):
            self._ready()
            id, due = self._dead_letters.requeue(text)
            if due is not None:
                heapq.heappush(self._later, due)
            return id

    def purge(self, text: str) -> None:
        """Delete the dead letter *text* and its `.why`. Raises FileNotFoundError where it is not there any more."""
        with self._guard, translated_errors(f"purging {quoted(text)}"):
            self._ready()
            self._dead_letters.purge(text)

    def _warn_lost_claim(self, name: str) -> None:
        log.warning("%s was not ours any more when it was settled: it may be handled twice", name)

    def _dead_letter(self, name: str, reason: str, detail: str) -> None:
        self._dead_letters.add(name, self._held(), reason, detail)

    # The round: what no wake-up announces

    def _run_maintenance(self) -> None:
        """Find our folder, what dead consumers held, what has come due, and whether the box is still the same."""
        started = time.monotonic()
        self._ready()
        for name, unread in list(self._dropped.items()):
            self.drop(name, unread=unread)
        self._recover_dead_consumers()
        self._sweep_replies()
        self._list_later()
        if started >= self._sweep_at:
            self._recover_replaced_new()
            self._sweep_drafts()
            self._sweep_done()
            self._sweep_at = started + 3600
        took = time.monotonic() - started
        # A huge box costs at most a twentieth of the time.
        self._round_at = started + max(self._rules.poll_interval, 20 * took)

    def _reopen_new(self, identity: tuple[tuple[int, int], ...]) -> None:
        super()._reopen_new(identity)
        self._intake.other_folder()
        self._sweep_at = 0.0  # whoever exchanged it may have been killed on the way

    def _list_later(self) -> None:
        waiting = list_dir(self._folders["later"])
        if self._unread:
            self._unread.intersection_update(waiting)
        if self._skipped or self._failing:
            here = {*waiting, *list_dir(self._folders["new"])}
            self._skipped.intersection_update(here)
            self._failing = {name: tries for name, tries in self._failing.items() if name in here}
            waiting = [name for name in self._without_skipped(waiting) if not self._is_backing_off(name)]
        now = time.time_ns()
        latest = to_timestamp(now + LONGEST)
        self._later = [
            (now if parts[0] > latest and is_too_late(*parts, now) else to_nanoseconds(parts[0]), text)
            for text in waiting
            if (parts := split_timed(text))
        ]
        heapq.heapify(self._later)

    def _sweep_replies(self) -> None:
        folder = self._folders["replies"]
        if os.geteuid() != 0 or os.fstat(folder).st_uid == 0:
            replies.sweep(self._box, folder)
        elif list_dir(folder):
            with contextlib.suppress(OSError), opened(self._box) as box:
                as_owner.call(box, partial(_sweep_replies, box))

    def _sweep_drafts(self) -> None:
        """Give up drafts whose writer has long gone, as many as a second allows."""
        with contextlib.suppress(OSError), opened(self._box) as box:
            as_owner.call(box, partial(_give_up_drafts, box))

    def _sweep_done(self) -> None:
        """Delete handled mail that was kept long enough."""
        if self._retention is None:
            return
        limit = to_timestamp(time.time_ns() - int(self._retention * 1e9))
        for text in list_dir(self._folders["done"]):
            parts = split_timed(text)
            if parts and parts[0] < limit:
                with contextlib.suppress(OSError):
                    os.unlink(text, dir_fd=self._folders["done"])


def is_too_late(due: str, text: str, now: int) -> bool:
    """Whether a retry waits longer than any does: its due time was set by a clock that was ahead."""
    name = parse_filename(text)
    if name is None or (name.attempt == 1 and not name.wait):  # due then by its own wish
        return False
    return to_nanoseconds(due) > now + max(LONGEST, name.wait * 1_000_000_000)


def _sweep_replies(box: int) -> None:
    """As the owner of an open box: what answers lie in, and what it is moved to, are found by their paths."""
    with opened("replies", box, os.fstat(box).st_uid) as folder:
        replies.sweep(at(box), folder)


def _give_up_drafts(box: int) -> None:
    """As the owner of an open box."""
    until = time.monotonic() + CLEANUP_BUDGET
    with opened("tmp", box, os.fstat(box).st_uid) as tmp, os.scandir(tmp) as drafts:
        for draft in drafts:
            with contextlib.suppress(OSError):
                if time.time() - draft.stat(follow_symlinks=False).st_mtime > TMP_MAX_AGE:
                    os.unlink(draft.name, dir_fd=tmp)
                    log.warning("the draft %s was given up: nobody touched it for 36 hours", quoted(draft.name))
            if time.monotonic() > until:
                return
