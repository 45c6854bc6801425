"""Irregular files in `new/`: foreign names, incomplete, unreadable or hostile.

Such a file may be mail, or become it: then it is left until it is. A file that never will be is a dead letter, with the
reason; if it holds nothing to keep, it is removed, with a note. No such file raises, waits, or stops the mail behind
it; and an error of our own (no more descriptors, a failing disk) makes no dead letter.
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
from ..system.files import describe_type
from ..system.strict_read import strict_read
from .consumer_folder import UNMOVABLE_ERRNOS, DirFds
from .dead_letters import NOTES, DeadLetters
from .ids import new_id

INCOMPLETE_GRACE: Final = 5.0
"""Seconds for which an incomplete file must be unchanged before it is a dead letter."""

CLEANUP_BUDGET: Final = 0.02
"""Seconds of a scan that may go into irregular files: mail comes first. After a scan that took them all, the next ones
take none, so that it is a twentieth of the time."""

PART: Final = 20
"""One part in so many of the time may go into files that are not mail."""

_MEMORY_SLACK: Final = 1000
"""Names that may be remembered beyond twice the listing. With more incomplete files than this, each scan asks for a
part of them."""

_MTIMES_PER_SCAN: Final = 10_000
"""Foreign names that one scan puts in order by their time."""

_LEFT_ALONE_PER_SCAN: Final = 64
"""Files left alone that one scan asks for a change."""

_CTIME_TICK_NS: Final = 100_000_000
"""Nanoseconds: a file changed so lately may change again under the same ctime."""

_OUR_ERRNOS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT)
"""Errors of this process or of the disk: the file is not to blame."""


class Intake:
    """The irregular files in the `new/` of a box, as one consumer has come to know them."""

    __slots__ = (
        "_dead_letters",
        "_dirs",
        "_mtime_stamps",
        "_mtimes_asked",
        "_rests_until",
        "_turn",
        "incomplete",
        "left_alone",
        "max_size",
        "spent",
        "warned",
    )

    def __init__(self, dirs: DirFds, dead_letters: DeadLetters, max_size: int) -> None:
        self._dirs, self._dead_letters, self.max_size = dirs, dead_letters, max_size
        self.warned = dirs.warned
        self.incomplete: dict[str, tuple[int, float, bool]] = {}
        """Name → its ctime, when we first saw that, True if we have read it since it could change unseen."""
        self.left_alone: dict[str, tuple[int, int]] = {}
        """Name of mail that is left alone → its inode and its ctime, when that was decided."""
        self.spent = 0.0
        """Seconds of this scan that went into irregular files."""
        self._mtime_stamps: dict[str, str] = {}  # foreign name → the timestamp of its mtime
        self._turn = self._mtimes_asked = 0
        self._rests_until = 0.0

    @property
    def irregular(self) -> set[str]:
        """The names of the files that were read, or could not be, and are not mail now."""
        return {*self.incomplete, *self.left_alone}

    def begin_scan(self, waiting: list[str]) -> list[str]:
        """Begin a scan of the names that are *waiting*. Returns those worth a try; forgets those that are gone."""
        if self.spent > CLEANUP_BUDGET:
            self._rests_until = time.monotonic() + PART * self.spent
        self.spent = 0.0
        self._mtimes_asked = 0
        self._turn += 1
        remembered = len(self.incomplete) + len(self.warned) + len(self.left_alone) + len(self._mtime_stamps)
        if remembered > 2 * len(waiting) + _MEMORY_SLACK:
            present = set(waiting)
            for memory in (self.incomplete, self.left_alone, self._mtime_stamps):
                for filename in memory.keys() - present:  # other threads may be adding to it
                    memory.pop(filename, None)
            self.warned &= present
        if not self.left_alone:
            return waiting
        turns = len(self.left_alone) // _LEFT_ALONE_PER_SCAN + 1
        return [
            filename
            for filename in waiting
            if filename not in self.left_alone or (self._is_its_turn(filename, turns) and self._has_changed(filename))
        ]

    def clear(self) -> None:
        """Forget all files: another folder is `new/` now."""
        for memory in (self.incomplete, self.left_alone, self._mtime_stamps, self.warned):
            memory.clear()

    def _is_its_turn(self, filename: str, turns: int) -> bool:
        """Report whether this scan asks for the file: each has its turn in one of so many scans."""
        return hash(filename) % turns == self._turn % turns

    def _has_changed(self, filename: str) -> bool:
        """Report whether a file that was left alone is another one now. It is not left alone then."""
        try:
            st = os.stat(filename, dir_fd=self._dirs["new"], follow_symlinks=False)
        except FileNotFoundError:
            return False
        if self.left_alone.get(filename) == (st.st_ino, st.st_ctime_ns):
            return False
        self.left_alone.pop(filename, None)
        self.warned.discard(filename)
        return True

    def _leave_alone(self, filename: str, problem: str, error: OSError, st: os.stat_result | None) -> None:
        """Leave a file alone until it has changed from the state in *st*."""
        if st is not None:
            self.left_alone[filename] = st.st_ino, st.st_ctime_ns
            self.incomplete.pop(filename, None)
        self._dirs.warn_left_alone(filename, problem, error)

    @property
    def is_out_of_time(self) -> bool:
        """True if enough of this scan went into irregular files: the rest has its turn in one of the next."""
        return self.spent > CLEANUP_BUDGET or time.monotonic() < self._rests_until

    def looks_complete(self, filename: str, size: int) -> bool:
        """Report whether a file looks like mail of that size from outside. It is not opened.

        If the disk fails, this is no fault of the file: the claim meets the error, and reports it.
        """
        try:
            st = os.stat(filename, dir_fd=self._dirs["new"], follow_symlinks=False)
        except OSError as error:
            return not isinstance(error, FileNotFoundError)
        return st.st_size == size and st.st_nlink == 1 and stat.S_ISREG(st.st_mode)

    def mtime_stamp(self, filename: str) -> str | None:
        """Return the timestamp of a file's mtime; None if it is gone, or not worth another try yet."""
        if self._mtimes_asked >= _MTIMES_PER_SCAN:
            return self._mtime_stamps.get(filename)  # the others have their turn in one of the next scans
        many = max(len(self.incomplete), len(self._mtime_stamps))
        if many > _MEMORY_SLACK:  # then one scan asks for a part of the incomplete files, and for new ones
            if filename in self.incomplete:
                if not self._is_its_turn(filename, many // _MEMORY_SLACK + 1):
                    return None
            elif (known := self._mtime_stamps.get(filename)) is not None:
                return known
        self._mtimes_asked += 1
        try:
            st = os.stat(filename, dir_fd=self._dirs["new"], follow_symlinks=False)
        except FileNotFoundError:
            return None
        if len(self.incomplete) > _MEMORY_SLACK and self._is_still_incomplete(filename, st):
            return None
        self._mtime_stamps[filename] = timestamp = to_timestamp(st.st_mtime_ns)
        return timestamp

    def _is_still_incomplete(self, filename: str, st: os.stat_result) -> bool:
        """Report whether a file was incomplete at the last scan, has not changed since, and that not for long."""
        seen, changed = self.incomplete.get(filename), st.st_ctime_ns
        if seen is None or seen[0] != changed or not seen[2]:
            return False
        return (time.time_ns() - changed) / 1e9 < INCOMPLETE_GRACE and time.monotonic() - seen[1] < INCOMPLETE_GRACE

    def inspect(self, filename: str, fd: int) -> tuple[bytes, Filename | None, os.stat_result] | None:
        """Read an open file. Returns its content, its parsed name (None if foreign) and its stat, if it is mail.

        If not, it is a dead letter, removed, or left until it is complete; None is returned. Raises OSError.
        """
        if not is_mail(filename):
            return None
        name = parse_filename(filename)
        size = name.size if name is not None else None
        data, st, refusal = strict_read(fd, self.max_size, size)
        if refusal is None:
            problem = _why_not_mail(data) if size is None else None  # without S= it is complete once it parses
            if problem is None:
                return data, name, st
            is_final = False
        else:
            problem, is_final = refusal.reason, refusal.is_final
            if not refusal.is_file:
                self._remove_with_note(filename, problem, st)
                return None
        if is_final or self._is_unchanged(filename, st):  # else its sender may still be writing it
            self._dead_letter(filename, problem, st)
        return None

    def _is_unchanged(self, filename: str, st: os.stat_result) -> bool:
        """Report whether a file has not changed for a while: by its ctime, or, if clocks were set, by our own."""
        changed, now = st.st_ctime_ns, time.monotonic()
        if (time.time_ns() - changed) / 1e9 >= INCOMPLETE_GRACE:
            return True
        seen, sure = self.incomplete.get(filename), time.time_ns() - changed > _CTIME_TICK_NS
        if seen is None or seen[0] != changed:
            self.incomplete[filename] = (changed, now, sure)
            return False
        if sure and not seen[2]:
            self.incomplete[filename] = (changed, seen[1], True)
        return now - seen[1] >= INCOMPLETE_GRACE

    def on_open_error(self, filename: str, error: OSError) -> None:
        """Deal with a file that could not be opened. Raises *error* if that is not the file's fault."""
        if error.errno in _OUR_ERRNOS:
            raise error
        if not is_mail(filename):
            return
        if error.errno == errno.ELOOP:
            self._remove_with_note(filename, "it is a symbolic link, not a file", None)
        elif error.errno in (errno.ENXIO, errno.ENODEV):
            self._remove_with_note(filename, "it is a socket or a device, not a file", None)
        elif error.errno in (errno.EACCES, errno.EPERM):
            try:
                if not is_denied(filename, self._dirs["new"], error):
                    raise error
                self._on_unreadable(filename)
            except FileNotFoundError:
                return  # gone meanwhile
            except OSError as trouble:
                self.on_rename_error(filename, trouble)
        elif error.errno != errno.EAGAIN:  # EAGAIN: its owner has a file lease on it; the next scan finds it again
            raise error

    def _on_unreadable(self, filename: str) -> None:
        st = os.stat(filename, dir_fd=self._dirs["new"], follow_symlinks=False)
        if stat.S_ISREG(st.st_mode):
            self._dead_letter(filename, "its mode keeps it from its recipient: it must be 0640 or 0644", st)
        else:
            self._remove_with_note(filename, f"it is {describe_type(st.st_mode)}, not a file", st)

    def on_rename_error(self, filename: str, error: OSError, opened: os.stat_result | None = None) -> None:
        """Leave a file alone that cannot be moved, though the folder is ours. Raises *error* if that is not the case.

        *opened* is the stat of the file that was opened under that name.
        """
        if error.errno == errno.EACCES:
            st = os.stat(filename, dir_fd=self._dirs["new"], follow_symlinks=False)
            if stat.S_ISDIR(st.st_mode):
                return  # it was a file when it was opened: the next scan finds a folder
        if error.errno not in UNMOVABLE_ERRNOS or os.geteuid() not in (0, os.fstat(self._dirs["new"]).st_uid):
            raise error
        self._leave_alone(filename, "it cannot be moved", error, opened)

    def _dead_letter(self, filename: str, reason: str, st: os.stat_result) -> None:
        self._dead_letters.add_unclaimed(filename, reason, st.st_size)
        self.incomplete.pop(filename, None)

    def _remove_with_note(self, filename: str, problem: str, st: os.stat_result | None) -> None:
        """Remove what can never be mail and holds nothing to keep. What cannot be removed is left alone."""
        new_fd = self._dirs["new"]
        try:
            target = f" to {quoted(os.readlink(filename, dir_fd=new_fd))}" if st is None and "link" in problem else ""
            if st is not None and stat.S_ISDIR(st.st_mode):
                os.rmdir(filename, dir_fd=new_fd)
            else:
                os.unlink(filename, dir_fd=new_fd)
        except FileNotFoundError:
            return
        except OSError as error:
            self._leave_alone(filename, f"{problem}, and it cannot be removed", error, st)
            return
        note = str(Filename(new_id(), stem=stem_of(filename)))
        reason = f"{problem}{target}: it was removed"
        if self._dead_letters.explain(note, reason, f"its name was {quoted(filename)}", NOTES):
            log.warning("%s in the new/ of %s was removed: %s", quoted(filename), self._dirs.address, problem)


def is_denied(filename: str, dir_fd: int, error: OSError) -> bool:
    """Report whether the mode of a file keeps it from us. If not, that it does not open is our own trouble.

    Raises FileNotFoundError if it is gone.
    """
    if error.errno not in (errno.EACCES, errno.EPERM):
        return False
    st = os.stat(filename, dir_fd=dir_fd, follow_symlinks=False)
    if st.st_uid == os.geteuid():
        return not st.st_mode & stat.S_IRUSR
    in_group = st.st_gid == os.getegid() or st.st_gid in os.getgroups()
    return not st.st_mode & (stat.S_IRGRP if in_group else stat.S_IROTH)


def _why_not_mail(data: bytes) -> str | None:
    try:
        decode(data)
    except NotMailError as error:
        return error.reason
    return None
