"""Dead letters: the file untouched in `dead/`, and beside it, in a `.why`, the reason, for a person to read.

The reason is written first and is best effort; the dead letter is not. None is ever written over by another. A note
costs the owner of the box a block of its disk, and anybody can be the cause of one: so there are so many, and then one
file that counts the rest.
"""

import contextlib
import os
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
"""How many notes may lie in `dead/` before what was never mail gets none of its own."""

LETTERS: Final = 10_000
"""The same, for messages that were claimed."""

REST: Final = "rest.why"
"""The note that counts those without one."""

_RECOUNT: Final = 60.0  # seconds after which it is asked again how many there are


class DeadLetters:
    """The dead letters of one box."""

    __slots__ = ("_counted_at", "_folders", "_notes")

    def __init__(self, folders: DirFds) -> None:
        self._folders = folders
        self._notes = 0
        self._counted_at = 0.0

    def add(self, name: str, folder: int, reason: str, detail: str) -> None:
        """Bury what was claimed, and lies in our *folder*. Raises OSError where it cannot be moved.

        A second copy of the same dead letter is dropped; the reason of the first stays.
        """
        dead, grave = self._folders["dead"], self._grave(name)
        if grave != name and same(name, folder, name, dead):
            os.unlink(name, dir_fd=folder)
            log.info("%s is a dead letter already: the second copy of the same message was dropped", name)
            return
        self.explain(grave, reason, detail)
        try:
            move(name, folder, grave, dead)
        except FileExistsError:  # another consumer has just buried one of that name
            grave = with_fresh_id(grave)
            self.explain(grave, reason, detail)
            move(name, folder, grave, dead)
        log.warning("dead letter %s in the box %s: %s", grave, self._folders.address, reason)

    def add_unclaimed(self, text: str, reason: str, size: int) -> None:
        """Bury what was never claimed. A foreign name gets an id, so that two files of one name never meet.

        Raises OSError where it cannot be moved; that another consumer was faster is no error.
        """
        name = parse_filename(text)
        grave = self._grave(str(Filename(name.id, size) if name else Filename(new_id(), size, stem=stem_of(text))))
        noted = self.explain(grave, reason, f"its name was {quoted(text)}", NOTES)
        try:
            move(text, self._folders["new"], grave, self._folders["dead"])
            if noted:
                log.warning("dead letter %s in the box %s: %s", grave, self._folders.address, reason)
        except FileExistsError:
            return  # another consumer has just buried one of that name: the next look finds this one again
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(_why(grave), dir_fd=self._folders["dead"])
            if not isinstance(error, FileNotFoundError):  # else another consumer was faster
                raise

    def requeue(self, text: str) -> tuple[str, tuple[int, str] | None]:
        """Deliver it once more, the attempts counted anew: its id, and when and as what it comes back from `later/`.

        Not from there where a relay had sent it back. Raises OSError.
        """
        box, dead = self._folders.box, self._folders["dead"]
        size = os.stat(text, dir_fd=dead, follow_symlinks=False).st_size  # a person may have mended it
        name = parse_filename(text) or Filename(new_id(), stem=stem_of(text))
        now, due = time.time_ns(), None
        if ",B=" in text and os.path.isdir(f"{box}/outbox"):  # a relay sent it back: it goes out again
            with opened(box) as home, opened("outbox", home, os.fstat(home).st_uid) as outbox:
                kept = file_away(text, dead, str(Filename(name.id, size, stem=name.stem)), outbox)
        else:
            again = name.replace(size=size, attempt=1, requeued=name.requeued + 1, wait=0)
            kept = file_away(text, dead, timed_filename(to_timestamp(now), str(again)), self._folders["later"])
            due = (now, kept) if kept is not None else None
        with contextlib.suppress(OSError):
            os.unlink(_why(text), dir_fd=dead)
        return (parse_filename(kept.rpartition("~")[2]) or name).id if kept is not None else name.id, due

    def purge(self, text: str) -> None:
        """Delete it and its `.why`. Raises OSError."""
        os.unlink(text, dir_fd=self._folders["dead"])
        with contextlib.suppress(OSError):
            os.unlink(_why(text), dir_fd=self._folders["dead"])

    def explain(self, grave: str, reason: str, detail: str, most: int = LETTERS) -> bool:
        """Write the `.why`, where there are not *most* already. Best effort: a full disk must not stop the settling.

        Returns whether it has one of its own, or should have.
        """
        if not self._has_room(most):
            self._count_rest(reason)
            return False
        self._notes += 1
        text = f"{reason}\n" + (f"\n{detail.rstrip()}\n" if detail else "")
        path = f"{self._folders.box}/dead/{_why(grave)}"
        try:
            file = os.open(
                _why(grave),
                os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
                dir_fd=self._folders["dead"],
            )
            try:
                os.write(file, text.encode("utf-8", "backslashreplace"))
                chown_to_box_owner(file, self._folders.box)
            finally:
                os.close(file)
        except OSError as error:
            log.warning("cannot write %s: %s", path, error.strerror)
        return True

    def _has_room(self, most: int) -> bool:
        """Whether there are fewer notes than *most*. They are counted at first, and when there were enough."""
        now = time.monotonic()
        if not self._counted_at or (self._notes >= most and now >= self._counted_at + _RECOUNT):
            with contextlib.suppress(OSError):
                self._notes = sum(name.endswith(".why") for name in list_dir(self._folders["dead"]))
            self._counted_at = now + 20 * (time.monotonic() - now)
        return self._notes < most

    def _count_rest(self, reason: str) -> None:
        """Count what gets no note of its own. Best effort, and not exact where several consumers do it at once."""
        dead = self._folders["dead"]
        try:
            file = os.open(REST, READ | os.O_RDWR | os.O_CREAT, 0o600, dir_fd=dead)
        except OSError as error:
            log.warning("cannot write %s/dead/%s: %s", self._folders.box, REST, error.strerror)
            return
        try:
            said = os.read(file, 20).split(b" ", 1)[0]
            count = int(said) + 1 if said.isdigit() else 1
            text = (
                f"{count} more were removed or are dead letters without a note of their own\n\nthe latest: {reason}\n"
            )
            os.ftruncate(file, os.pwrite(file, text.encode("utf-8", "backslashreplace"), 0))
            if count == 1:
                chown_to_box_owner(file, self._folders.box)
        except OSError as error:
            log.warning("cannot write %s/dead/%s: %s", self._folders.box, REST, error.strerror)
        finally:
            close(file)
        if count & (count - 1) == 0:  # told less and less often
            log.warning("%d more in the box %s got no note of their own: %s", count, self._folders.address, reason)

    def _grave(self, name: str) -> str:
        """*name*, or, where a dead letter lies under it already, one with a fresh id."""
        try:
            os.stat(name, dir_fd=self._folders["dead"], follow_symlinks=False)
        except FileNotFoundError:
            return name
        return with_fresh_id(name)


def _why(name: str) -> str:
    return name.removesuffix(".json") + ".why"
