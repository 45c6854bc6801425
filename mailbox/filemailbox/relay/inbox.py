"""The box of a recipient, as the relay writes to it."""

import contextlib
import os
import stat
from itertools import islice
from typing import Final

from ..format.filename import is_id
from ..system.files import READ, read
from ..wake.doorbell import Ringer
from .policy import Agent
from .volume import NEW_FILE, PLACE, open_box

_MANY: Final = 20_000  # things in tmp/: where there are more, each is asked for by its name


class Inbox:
    """Where an agent's mail is put. Opened for a batch, closed after it: folders are replaced for good reasons, too."""

    def __init__(self, agent: Agent) -> None:
        """Raises OSError where the box is not there, or something else in its place."""
        self.agent = agent
        self._open: list[int] = [open_box(agent)]
        try:
            self._tmp = self._enter("tmp")
            self._new = self._enter("new")
        except OSError:
            self.close()
            raise

    def _enter(self, folder: str) -> int:
        self._open.append(os.open(folder, PLACE, dir_fd=self._open[0]))
        return self._open[-1]

    def close(self) -> None:
        """Let go of all folders."""
        while self._open:
            os.close(self._open.pop())

    def stage(self, name: str, data: bytes) -> int:
        """Write *data* to `tmp/NAME`, where nobody reads it. Returns the open file, to be flushed and closed.

        What lies there already from a try that was cut off is used if it is the same. Raises OSError.
        """
        try:
            file = os.open(name, NEW_FILE, 0o640, dir_fd=self._tmp)
        except FileExistsError:
            if (left := self._left(name, data)) >= 0:
                return left
            os.unlink(name, dir_fd=self._tmp)
            file = os.open(name, NEW_FILE, 0o640, dir_fd=self._tmp)
        try:
            written = os.write(file, data)
            while written < len(data):  # a full disk says so only on the write after the short one
                written += os.write(file, data[written:])
            os.fchmod(file, 0o640)
            if self.agent.gid is not None and os.fstat(file).st_gid != self.agent.gid:
                with contextlib.suppress(OSError):  # then its box is not set up as it should be
                    os.fchown(file, -1, self.agent.gid)
        except BaseException:
            os.close(file)
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._tmp)
            raise
        return file

    def _left(self, name: str, data: bytes) -> int:
        """The file `tmp/NAME` open, if it is ours and holds *data*; else -1."""
        try:
            file = os.open(name, READ, dir_fd=self._tmp)
        except OSError:
            return -1
        facts = os.fstat(file)
        ours = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and facts.st_uid == os.geteuid()
        if ours and facts.st_size == len(data) and read(file, len(data)) == data:
            return file
        os.close(file)
        return -1

    def is_staged(self, name: str) -> bool:
        """Whether `tmp/NAME` is there, and ours."""
        try:
            facts = os.stat(name, dir_fd=self._tmp, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid()

    def staged(self) -> set[str] | None:
        """What lies in `tmp/`; None where we may not know, or there is too much to know."""
        with contextlib.suppress(OSError):
            folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._tmp)
            try:
                with os.scandir(folder) as entries:
                    names = {entry.name for entry in islice(entries, _MANY + 1)}
            finally:
                os.close(folder)
            if len(names) <= _MANY:
                return names
        return None

    def deliver(self, name: str, answers: str | None) -> None:
        """Rename `tmp/NAME` to where it is waited for, or to `new/`. Raises OSError."""
        if answers is not None and is_id(answers):
            with contextlib.suppress(OSError):
                replies = os.open("replies", PLACE, dir_fd=self._open[0])
                try:
                    waiting = os.open(answers, PLACE, dir_fd=replies)
                finally:
                    os.close(replies)
                try:
                    # Anybody in that volume can make one: only that of the box's owner is waited at.
                    if os.fstat(waiting).st_uid == os.fstat(self._open[0]).st_uid:
                        os.rename(name, name, src_dir_fd=self._tmp, dst_dir_fd=waiting)
                        return
                finally:
                    os.close(waiting)
        os.rename(name, name, src_dir_fd=self._tmp, dst_dir_fd=self._new)

    def discard_staged(self, name: str) -> None:
        """Delete `tmp/NAME`, which will not be delivered."""
        with contextlib.suppress(OSError):
            if self.is_staged(name):
                os.unlink(name, dir_fd=self._tmp)

    def waiting(self, limit: int) -> int:
        """How many things lie in `new/`, at most one more than *limit*; 0 where we may not know."""
        try:
            folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._new)
        except OSError:
            return 0
        try:
            with os.scandir(folder) as entries:
                return sum(1 for _ in islice(entries, limit + 1))
        finally:
            os.close(folder)

    def ring(self) -> None:
        """Ring the bells of its listeners. Never raises."""
        ringer = Ringer(f"/proc/self/fd/{self._open[0]}")  # not by the path: a link may lie there by now
        ringer.ring(".")
        ringer.close()
