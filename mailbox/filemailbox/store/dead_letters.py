"""Dead letters: the file untouched in `dead/`, and beside it a `.why` file with the reason, for the operator.

The reason is written first and is best effort; the dead letter is not. No dead letter ever replaces another. A note
costs the owner of the box a block of its disk, and any sender can cause one. So there is a limit; beyond it, one file
counts the rest.
"""

import contextlib
import os
import re
import time
from typing import Final

from .. import log
from ..errors import quoted
from ..format.filename import Filename, parse_filename, stem_of, timed_filename
from ..format.timestamp import to_timestamp
from ..system.as_owner import opened
from ..system.files import READ, close, list_dir, move, same
from .consumer_folder import DirFds, file_away
from .ids import new_id, with_fresh_id
from .permissions import chown_to_box_owner

NOTES: Final = 1000
"""Notes in `dead/` from which on a file that was never mail gets none of its own."""

LETTERS: Final = 10_000
"""The same, for messages that were claimed."""

EXPIRED: Final = "it expired at "
"""The beginning of the reason of mail whose time to live was over."""

_EXPIRED: Final = re.compile(EXPIRED.encode() + rb"[0-9T:.+Z-]+\n")

REST: Final = "rest.why"
"""The note that counts the files without one."""

_RECOUNT_SECONDS: Final = 60.0
"""Seconds between two counts of the notes, once there are enough."""


class DeadLetters:
    """The dead letters of one box."""

    __slots__ = ("_counted_at", "_dirs", "_notes")

    def __init__(self, dirs: DirFds) -> None:
        self._dirs = dirs
        self._notes = 0
        self._counted_at = 0.0

    def add(self, filename: str, dir_fd: int, reason: str, detail: str) -> None:
        """Make a claimed file, in our folder *dir_fd*, a dead letter. Raises OSError if it cannot be moved.

        A second copy of the same dead letter is dropped; the reason of the first stays.
        """
        dead_fd, target = self._dirs["dead"], self._free_name(filename)
        if target != filename and same(filename, dir_fd, filename, dead_fd):
            os.unlink(filename, dir_fd=dir_fd)
            log.info("%s is a dead letter already: the second copy of the same message was dropped", filename)
            return
        self.explain(target, reason, detail)
        try:
            move(filename, dir_fd, target, dead_fd)
        except FileExistsError:  # another consumer has just added one of that name
            target = with_fresh_id(target)
            self.explain(target, reason, detail)
            move(filename, dir_fd, target, dead_fd)
        _log(target, self._dirs.address, reason)

    def add_unclaimed(self, filename: str, reason: str, size: int) -> None:
        """Make a file in `new/` a dead letter. A foreign name gets an id, so that two files of one name never meet.

        Raises OSError if it cannot be moved; if another consumer was faster, nothing happens.
        """
        name = parse_filename(filename)
        ours = Filename(name.id, size) if name else Filename(new_id(), size, stem=stem_of(filename))
        target = self._free_name(str(ours))
        noted = self.explain(target, reason, f"its name was {quoted(filename)}", NOTES)
        try:
            move(filename, self._dirs["new"], target, self._dirs["dead"])
            if noted:
                _log(target, self._dirs.address, reason)
        except FileExistsError:
            return  # another consumer has just added one of that name: the next scan finds this one again
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(_note_name(target), dir_fd=self._dirs["dead"])
            if not isinstance(error, FileNotFoundError):  # else another consumer was faster
                raise

    def requeue(self, filename: str) -> tuple[str, tuple[int, str] | None]:
        """Deliver a dead letter once more, its attempts counted from one.

        Returns its id, and the due time and the name that it has in `later/`; None instead of these if a relay had
        bounced it, for then it goes back to the outbox. Raises OSError.
        """
        box, dead_fd = self._dirs.box, self._dirs["dead"]
        size = os.stat(filename, dir_fd=dead_fd, follow_symlinks=False).st_size  # the operator may have repaired it
        name = parse_filename(filename) or Filename(new_id(), stem=stem_of(filename))
        now, due = time.time_ns(), None
        if ",B=" in filename and os.path.isdir(f"{box}/outbox"):  # a relay bounced it: it goes out again
            with opened(box) as box_fd, opened("outbox", box_fd, os.fstat(box_fd).st_uid) as outbox_fd:
                kept = file_away(filename, dead_fd, str(Filename(name.id, size, stem=name.stem)), outbox_fd)
        else:
            again = name.replace(size=size, attempt=1, requeued=name.requeued + 1, wait=0)
            kept = file_away(filename, dead_fd, timed_filename(to_timestamp(now), str(again)), self._dirs["later"])
            due = (now, kept) if kept is not None else None
        with contextlib.suppress(OSError):
            os.unlink(_note_name(filename), dir_fd=dead_fd)
        return (parse_filename(kept.rpartition("~")[2]) or name).id if kept is not None else name.id, due

    def purge(self, filename: str) -> None:
        """Delete a dead letter and its `.why`. Raises OSError."""
        os.unlink(filename, dir_fd=self._dirs["dead"])
        with contextlib.suppress(OSError):
            os.unlink(_note_name(filename), dir_fd=self._dirs["dead"])

    def sweep(self, keep_expired: float | None, keep: float | None, budget: float) -> int:
        """Delete dead letters older than *keep* seconds, and those that expired older than *keep_expired*.

        None keeps them. The age counts from the `.why`, or from the last change of a letter without one. Takes at most
        *budget* seconds; returns the number of letters deleted. Raises OSError if the folder cannot be listed.
        """
        dead_fd, now, deadline = self._dirs["dead"], time.time(), time.monotonic() + budget
        names = list_dir(dead_fd)
        notes = {name for name in names if name.endswith(".why")}
        deleted = 0
        for name in names:
            if not name.endswith(".json"):
                continue
            if time.monotonic() > deadline:
                break
            note = _note_name(name)
            with contextlib.suppress(OSError):
                st = os.stat(note if note in notes else name, dir_fd=dead_fd, follow_symlinks=False)
                age = now - max(st.st_mtime, st.st_ctime)
                if keep is not None and age > keep:
                    pass
                elif keep_expired is None or age <= keep_expired or note not in notes or not is_expired(note, dead_fd):
                    continue
                self.purge(name)
                deleted += 1
        return deleted

    def explain(self, filename: str, reason: str, detail: str, limit: int = LETTERS) -> bool:
        """Write the `.why` of a dead letter, unless there are *limit* notes. Best effort: a full disk stops nothing.

        Returns True if it has a note of its own, or should have one.
        """
        if not self._has_room(limit):
            self._count_rest(reason)
            return False
        self._notes += 1
        note, dead_fd = _note_name(filename), self._dirs["dead"]
        content = f"{reason}\n" + (f"\n{detail.rstrip()}\n" if detail else "")
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(note, flags, 0o600, dir_fd=dead_fd)
            try:
                os.write(fd, content.encode("utf-8", "backslashreplace"))
                chown_to_box_owner(fd, self._dirs.box)
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("cannot write %s/dead/%s: %s", self._dirs.box, note, error.strerror)
        return True

    def _has_room(self, limit: int) -> bool:
        """Report whether there are fewer notes than *limit*. They are counted at first, and when there were enough."""
        now = time.monotonic()
        if not self._counted_at or (self._notes >= limit and now >= self._counted_at + _RECOUNT_SECONDS):
            with contextlib.suppress(OSError):
                self._notes = sum(name.endswith(".why") for name in list_dir(self._dirs["dead"]))
            self._counted_at = now + 20 * (time.monotonic() - now)
        return self._notes < limit

    def _count_rest(self, reason: str) -> None:
        """Count a file without a note of its own. Best effort, and not exact if several consumers do it at once."""
        try:
            fd = os.open(REST, READ | os.O_RDWR | os.O_CREAT, 0o600, dir_fd=self._dirs["dead"])
        except OSError as error:
            log.warning("cannot write %s/dead/%s: %s", self._dirs.box, REST, error.strerror)
            return
        count = 1
        try:
            first_word = os.read(fd, 20).split(b" ", 1)[0]
            count = int(first_word) + 1 if first_word.isdigit() else 1
            content = (
                f"{count} more were removed or are dead letters without a note of their own\n\nthe latest: {reason}\n"
            )
            os.ftruncate(fd, os.pwrite(fd, content.encode("utf-8", "backslashreplace"), 0))
            if count == 1:
                chown_to_box_owner(fd, self._dirs.box)
        except OSError as error:
            log.warning("cannot write %s/dead/%s: %s", self._dirs.box, REST, error.strerror)
        finally:
            close(fd)
        if count & (count - 1) == 0:  # logged less and less often
            log.warning("%d more in the box %s got no note of their own: %s", count, self._dirs.address, reason)

    def _free_name(self, filename: str) -> str:
        """Return *filename*; if a dead letter has that name already, the same with a fresh id."""
        try:
            os.stat(filename, dir_fd=self._dirs["dead"], follow_symlinks=False)
        except FileNotFoundError:
            return filename
        return with_fresh_id(filename)


def _log(filename: str, address: str, reason: str) -> None:
    name = parse_filename(filename)
    facts = {"id": name.id, "attempt": name.attempt} if name is not None else {"id": filename}
    log.warning(
        "dead letter %s in the box %s: %s", filename, address, reason, event="dead", box=address, reason=reason, **facts
    )


def is_expired(note: str, dead_fd: int) -> bool:
    """Return True if the note in an open `dead/` is of mail that expired, and not a handler's words. Raises OSError."""
    fd = os.open(note, READ, dir_fd=dead_fd)
    try:
        return _EXPIRED.match(os.read(fd, 256)) is not None
    finally:
        close(fd)


def _note_name(filename: str) -> str:
    return filename.removesuffix(".json") + ".why"
