"""What lies in `new/` and is not plain mail: foreign, unfinished, unreadable or hostile.

It may be mail all the same, or become it: then it is left until it is. What never will be is a dead letter, with the
reason; or, where there is nothing to keep, removed, with a note. Nothing of it raises, waits, or stops the mail behind
it; and our own trouble (no more descriptors, a failing disk) condemns nothing.
"""

import errno
import os
import stat
import time
from typing import Final

from .. import log
from ..errors import NotMailError, quoted
from ..format.envelope import decode
from ..format.filename import Filename, parse_filename, stem_of
from ..format.order import is_mail
from ..format.timestamp import to_timestamp
from ..system.files import describe_type, read
from .consumer_folder import UNMOVABLE_ERRNOS, DirFds
from .dead_letters import NOTES, DeadLetters
from .ids import new_id

INCOMPLETE_GRACE: Final = 5.0
"""Seconds for which a file that is not whole must not have changed before it is a dead letter."""

CLEANUP_BUDGET: Final = 0.02
"""Seconds of a look that may go into odd files: mail comes first. After a look that took them all, the next ones take
none, so that it is a twentieth of the time."""

PART: Final = 20
"""So small a part of the time may go into what is no mail."""

_MANY: Final = 1000  # odd files from which on they are looked at less often
_DATED: Final = 10_000  # files of a foreign name that one look puts in order by their time
_FEW: Final = 64  # files left alone of which one look asks whether they have changed
_TICK: Final = 100_000_000  # nanoseconds: a file changed this lately may change again under the same ctime
_OUR_TROUBLE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT)


class Intake:
    """What is odd in the `new/` of a box, as one consumer has come to know it."""

    __slots__ = (
        "_dated",
        "_dead_letters",
        "_folders",
        "_max_size",
        "_rests_until",
        "_stamps",
        "_turn",
        "left",
        "spent",
        "told",
        "unfinished",
    )

    def __init__(self, folders: DirFds, graves: DeadLetters, max_size: int) -> None:
        self._folders, self._dead_letters, self._max_size = folders, graves, max_size
        self.told = folders.told
        self.unfinished: dict[str, tuple[int, float, bool]] = {}
        """Name → its ctime, when we first saw that, whether we have looked since it could change unseen."""
        self.left: dict[str, tuple[int, int]] = {}
        """What is left alone under a name of mail → its inode and its ctime, when that was decided."""
        self.spent = 0.0
        """Seconds of this look that went into odd files."""
        self._stamps: dict[str, str] = {}  # foreign name → the stamp of its mtime
        self._turn = self._dated = 0
        self._rests_until = 0.0

    def look(self, waiting: list[str]) -> list[str]:
        """Begin a look: what of the names that are *waiting* is worth one. What has gone is forgotten."""
        if self.spent > CLEANUP_BUDGET:
            self._rests_until = time.monotonic() + PART * self.spent
        self.spent = 0.0
        self._dated = 0
        self._turn += 1
        if len(self.unfinished) + len(self.told) + len(self.left) + len(self._stamps) > 2 * len(waiting) + _MANY:
            here = set(waiting)
            for memory in (self.unfinished, self.left, self._stamps):
                for name in memory.keys() - here:  # other threads may be adding to it
                    memory.pop(name, None)
            self.told &= here
        if not self.left:
            return waiting
        turns = len(self.left) // _FEW + 1
        return [name for name in waiting if name not in self.left or (self._is_due(name, turns) and self._is_new(name))]

    def other_folder(self) -> None:
        """Another folder is `new/` now: what was left alone lay in the one before."""
        for memory in (self.unfinished, self.left, self._stamps, self.told):
            memory.clear()

    def _is_due(self, text: str, turns: int) -> bool:
        """Whether it is this look's turn to ask for it: each has one in so many looks."""
        return hash(text) % turns == self._turn % turns

    def _is_new(self, text: str) -> bool:
        """Whether it is not what was left alone any more. Then that is forgotten."""
        try:
            facts = os.stat(text, dir_fd=self._folders["new"], follow_symlinks=False)
        except FileNotFoundError:
            return False
        if self.left.get(text) == (facts.st_ino, facts.st_ctime_ns):
            return False
        self.left.pop(text, None)
        self.told.discard(text)
        return True

    def _leave(self, text: str, what: str, error: OSError, facts: os.stat_result | None) -> None:
        """Leave it alone until it has changed from what *facts* say."""
        if facts is not None:
            self.left[text] = facts.st_ino, facts.st_ctime_ns
            self.unfinished.pop(text, None)
        self._folders.leave(text, what, error)

    @property
    def is_over(self) -> bool:
        """Whether enough of this look went into odd files: the rest has its turn in one of the next."""
        return self.spent > CLEANUP_BUDGET or time.monotonic() < self._rests_until

    def is_whole(self, text: str, size: int) -> bool:
        """Whether a file looks like mail of that size from outside: nothing is opened."""
        try:
            facts = os.stat(text, dir_fd=self._folders["new"], follow_symlinks=False)
        except OSError:
            return False
        return facts.st_size == size and facts.st_nlink == 1 and stat.S_ISREG(facts.st_mode)

    def when(self, text: str) -> str | None:
        """The stamp of its mtime. None where it is gone, or not worth another look yet."""
        if self._dated >= _DATED:
            return self._stamps.get(text)  # the others have their turn in one of the next looks
        many = max(len(self.unfinished), len(self._stamps))
        if many > _MANY:  # then one look asks for so many of what is not whole, and for what is new
            if text in self.unfinished:
                if not self._is_due(text, many // _MANY + 1):
                    return None
            elif (known := self._stamps.get(text)) is not None:
                return known
        self._dated += 1
        try:
            facts = os.stat(text, dir_fd=self._folders["new"], follow_symlinks=False)
        except FileNotFoundError:
            return None
        if len(self.unfinished) > _MANY and self._as_it_was(text, facts):
            return None
        self._stamps[text] = stamp = to_timestamp(facts.st_mtime_ns)
        return stamp

    def _as_it_was(self, text: str, facts: os.stat_result) -> bool:
        """Whether it was not whole when we looked last, has not changed since, and not been still for long enough."""
        seen, changed = self.unfinished.get(text), facts.st_ctime_ns
        if seen is None or seen[0] != changed or not seen[2]:
            return False
        return (time.time_ns() - changed) / 1e9 < INCOMPLETE_GRACE and time.monotonic() - seen[1] < INCOMPLETE_GRACE

    def mail(self, text: str, file: int, facts: os.stat_result) -> tuple[Filename | None, bytes] | None:
        """What its name says, and its content, where it is mail all the same. Else None, and it is dealt with."""
        if not is_mail(text):
            return None
        if not stat.S_ISREG(facts.st_mode):
            self._dispose(text, f"it is {describe_type(facts.st_mode)}, not a file", facts)
            return None
        name = parse_filename(text)
        if facts.st_size > self._max_size:
            self._bury(text, f"it has {facts.st_size} bytes, and {self._max_size} is the limit", facts)
            return None
        problem: str | None
        if facts.st_nlink != 1:
            problem = f"it has {facts.st_nlink} links: somebody else can still change it"
        elif name is not None and name.size is not None and name.size != facts.st_size:
            problem = f"it has {facts.st_size} bytes and its name says S={name.size}: it is not whole"
        else:
            data = read(file, facts.st_size)
            if name is None or name.size is None:  # complete once it parses
                problem = _problem(data)
            else:
                problem = "it changed while it was read" if len(data) != name.size else None
            if problem is None:
                return name, data
        if self._still(text, facts):  # else perhaps somebody is still writing it
            self._bury(text, problem, facts)
        return None

    def _still(self, text: str, facts: os.stat_result) -> bool:
        """Whether the file has not changed for a while: by its ctime, or, where clocks were set, by what we saw."""
        changed, now = facts.st_ctime_ns, time.monotonic()
        if (time.time_ns() - changed) / 1e9 >= INCOMPLETE_GRACE:
            return True
        seen, sure = self.unfinished.get(text), time.time_ns() - changed > _TICK
        if seen is None or seen[0] != changed:
            self.unfinished[text] = (changed, now, sure)
            return False
        if sure and not seen[2]:
            self.unfinished[text] = (changed, seen[1], True)
        return now - seen[1] >= INCOMPLETE_GRACE

    def unopened(self, text: str, error: OSError) -> None:
        """Deal with what could not be opened. Raises *error* where that is our own trouble."""
        if error.errno in _OUR_TROUBLE:  # our own trouble never condemns mail
            raise error
        if not is_mail(text):
            return
        if error.errno == errno.ELOOP:
            self._dispose(text, "it is a symbolic link, not a file", None)
        elif error.errno in (errno.ENXIO, errno.ENODEV):
            self._dispose(text, "it is a socket or a device, not a file", None)
        elif error.errno in (errno.EACCES, errno.EPERM):
            try:
                if not is_denied(text, self._folders["new"], error):
                    raise error
                self._unreadable(text)
            except FileNotFoundError:
                return  # gone meanwhile
            except OSError as trouble:
                self.unmoved(text, trouble)
        elif error.errno != errno.EAGAIN:  # EAGAIN: its owner has a lease on it; the next listing finds it again
            raise error

    def _unreadable(self, text: str) -> None:
        facts = os.stat(text, dir_fd=self._folders["new"], follow_symlinks=False)
        if stat.S_ISREG(facts.st_mode):
            self._bury(text, "its mode keeps it from its recipient: it must be 0640 or 0644", facts)
        else:
            self._dispose(text, f"it is {describe_type(facts.st_mode)}, not a file", facts)

    def unmoved(self, text: str, error: OSError, seen: os.stat_result | None = None) -> None:
        """Leave a file alone that cannot be moved, though the folder is ours. Raises *error* where it is not that.

        *seen* is what was opened under that name.
        """
        if error.errno == errno.EACCES:
            facts = os.stat(text, dir_fd=self._folders["new"], follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                return  # it was a file when we looked, and is no longer: the next look finds a folder
        if error.errno not in UNMOVABLE_ERRNOS or os.geteuid() not in (0, os.fstat(self._folders["new"]).st_uid):
            raise error
        self._leave(text, "it cannot be moved", error, seen)

    def _bury(self, text: str, reason: str, facts: os.stat_result) -> None:
        self._dead_letters.add_unclaimed(text, reason, facts.st_size)
        self.unfinished.pop(text, None)

    def _dispose(self, text: str, what: str, facts: os.stat_result | None) -> None:
        """Take away what can never be mail and has nothing to keep; leave a note. What cannot go is left, said once."""
        new = self._folders["new"]
        try:
            target = f" to {quoted(os.readlink(text, dir_fd=new))}" if facts is None and "link" in what else ""
            if facts is not None and stat.S_ISDIR(facts.st_mode):
                os.rmdir(text, dir_fd=new)
            else:
                os.unlink(text, dir_fd=new)
        except FileNotFoundError:
            return
        except OSError as error:
            self._leave(text, f"{what}, and it cannot be removed", error, facts)
            return
        note = str(Filename(new_id(), stem=stem_of(text)))
        if self._dead_letters.explain(note, f"{what}{target}: it was removed", f"its name was {quoted(text)}", NOTES):
            log.warning("%s in the new/ of %s was removed: %s", quoted(text), self._folders.address, what)


def is_denied(text: str, folder: int, error: OSError) -> bool:
    """Whether it is the mode of a file that keeps it from us. Else, that we may not open it is our own trouble.

    Raises FileNotFoundError where it is gone.
    """
    if error.errno not in (errno.EACCES, errno.EPERM):
        return False
    facts = os.stat(text, dir_fd=folder, follow_symlinks=False)
    if facts.st_uid == os.geteuid():
        return not facts.st_mode & stat.S_IRUSR
    ours = facts.st_gid == os.getegid() or facts.st_gid in os.getgroups()
    return not facts.st_mode & (stat.S_IRGRP if ours else stat.S_IROTH)


def _problem(data: bytes) -> str | None:
    try:
        decode(data)
    except NotMailError as error:
        return error.reason
    return None
