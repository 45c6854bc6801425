"""The box of a recipient on a volume of this host: `carrier.Destination`, done with renames."""

import contextlib
import os
import stat
from collections.abc import Set
from itertools import islice
from typing import Final

from ..format.filename import is_id
from ..system.files import READ, read
from ..wake.ringer import Ringer
from .policy import Agent
from .volume import NEW_FILE, PATH_FOLDER, open_box

_MAX_LISTED: Final = 20_000  # names in tmp/; in a larger folder each message is looked up by its name


class Inbox:
    """An agent's box, as the relay writes to it.

    The relay opens it for a batch and closes it afterwards, because operators and agents may replace its folders.
    """

    def __init__(self, agent: Agent) -> None:
        """Open the box. Raises OSError if it does not exist or is not a folder."""
        self.agent = agent
        self._fds: list[int] = [open_box(agent)]
        try:
            self._tmp_fd = self._enter("tmp")
            self._new_fd = self._enter("new")
        except OSError:
            self.close()
            raise

    def _enter(self, folder: str) -> int:
        self._fds.append(os.open(folder, PATH_FOLDER, dir_fd=self._fds[0]))
        return self._fds[-1]

    def close(self) -> None:
        """Close all folders."""
        while self._fds:
            os.close(self._fds.pop())

    def stage(self, name: str, data: bytes) -> int:
        """Write *data* to `tmp/NAME`. Return the open file, to be flushed and closed by the caller.

        A file left by an interrupted attempt is used again if its content is the same. Raises OSError.
        """
        try:
            fd = os.open(name, NEW_FILE, 0o640, dir_fd=self._tmp_fd)
        except FileExistsError:
            if (left := self._open_left(name, data)) >= 0:
                return left
            os.unlink(name, dir_fd=self._tmp_fd)
            fd = os.open(name, NEW_FILE, 0o640, dir_fd=self._tmp_fd)
        try:
            written = os.write(fd, data)
            while written < len(data):  # a full disk reports it on the write after the short one
                written += os.write(fd, data[written:])
            os.fchmod(fd, 0o640)
            if self.agent.gid is not None and os.fstat(fd).st_gid != self.agent.gid:
                with contextlib.suppress(OSError):  # it fails if the box is not set up as it should be
                    os.fchown(fd, -1, self.agent.gid)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._tmp_fd)
            raise
        return fd

    def _open_left(self, name: str, data: bytes) -> int:
        """Open `tmp/NAME` if it is the relay's own file and contains *data*; else return -1."""
        try:
            fd = os.open(name, READ, dir_fd=self._tmp_fd)
        except OSError:
            return -1
        st = os.fstat(fd)
        own = stat.S_ISREG(st.st_mode) and st.st_nlink == 1 and st.st_uid == os.geteuid()
        if own and st.st_size == len(data) and read(fd, len(data)) == data:
            return fd
        os.close(fd)
        return -1

    def is_staged(self, name: str) -> bool:
        """Return whether `tmp/NAME` exists and is a file of the relay's."""
        try:
            st = os.stat(name, dir_fd=self._tmp_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return stat.S_ISREG(st.st_mode) and st.st_uid == os.geteuid()

    def staged(self) -> Set[str] | None:
        """Return the names in `tmp/`; None if it cannot be listed or has too many."""
        with contextlib.suppress(OSError):
            dir_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._tmp_fd)
            try:
                with os.scandir(dir_fd) as entries:
                    names = {entry.name for entry in islice(entries, _MAX_LISTED + 1)}
            finally:
                os.close(dir_fd)
            if len(names) <= _MAX_LISTED:
                return names
        return None

    def commit(self, name: str, in_reply_to: str | None) -> None:
        """Rename `tmp/NAME` into the folder of the request that waits for it, or into `new/`. Raises OSError."""
        if in_reply_to is not None and is_id(in_reply_to):
            with contextlib.suppress(OSError):
                replies_fd = os.open("replies", PATH_FOLDER, dir_fd=self._fds[0])
                try:
                    request_fd = os.open(in_reply_to, PATH_FOLDER, dir_fd=replies_fd)
                finally:
                    os.close(replies_fd)
                try:
                    # Anyone with access to the volume can make such a folder. Only the owner of the box waits at one.
                    if os.fstat(request_fd).st_uid == os.fstat(self._fds[0]).st_uid:
                        os.rename(name, name, src_dir_fd=self._tmp_fd, dst_dir_fd=request_fd)
                        return
                finally:
                    os.close(request_fd)
        os.rename(name, name, src_dir_fd=self._tmp_fd, dst_dir_fd=self._new_fd)

    def discard(self, name: str) -> None:
        """Delete `tmp/NAME`, which will not be delivered."""
        with contextlib.suppress(OSError):
            if self.is_staged(name):
                os.unlink(name, dir_fd=self._tmp_fd)

    def backlog(self, limit: int) -> int:
        """Return the number of entries in `new/`, counted up to *limit* + 1; 0 if the folder cannot be listed."""
        try:
            dir_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._new_fd)
        except OSError:
            return 0
        try:
            with os.scandir(dir_fd) as entries:
                return sum(1 for _ in islice(entries, limit + 1))
        finally:
            os.close(dir_fd)

    def ring(self) -> None:
        """Ring the doorbells of its listeners. Never raises."""
        ringer = Ringer(f"/proc/self/fd/{self._fds[0]}")  # not by its path, which may be a link by now
        ringer.ring(".")
        ringer.close()
