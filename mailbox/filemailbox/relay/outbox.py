"""The outbox of an agent on a volume of this host: `carrier.Source`, read strictly.

    VOLUME/NAME/                its container can replace anything in it at any moment
      outbox/                   what the agent sends: read strictly, then removed or moved to dead/
      dead/                     what is bounced to the agent
      tmp/, new/, replies/      what the agent gets; see inbox

The relay opens folders one by one from the volume down, never through a link, and uses names only within an open
folder. Bytes that were read once cross from one volume to another. A rename stays within one box.
"""

import contextlib
import errno
import hashlib
import os
import stat
from itertools import islice
from typing import Final

from ..errors import NotMailError
from ..format.envelope import decode
from ..format.filename import Filename, parse_filename, stem_of
from ..format.order import is_mail
from ..format.timestamp import to_timestamp
from ..settings import MAX_SIZE
from ..store.ids import new_id, with_fresh_id
from ..system.files import FOLDER, READ, lies, move, same
from ..system.strict_read import Refusal, is_only_link, refuse, strict_read
from .carrier import Incomplete, NotMail, OutboxMessage
from .clock import Clock, SystemClock
from .policy import Agent
from .volume import PATH_FOLDER, open_box, write_reason

INCOMPLETE_GRACE: Final = 5.0
"""Seconds since its last change after which a file that is not complete is not mail. As in a box."""

_PATH_ONLY: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Outbox:
    """The outgoing mail of one agent."""

    def __init__(self, agent: Agent, clock: Clock | None = None) -> None:
        self.agent, self._clock = agent, clock or SystemClock()
        self._path = f"{agent.volume}/{agent.name}/outbox"
        self._box_fd = self.watch_fd = -1
        self._inode_id = (0, 0)

    def open(self) -> bool:
        """Open the folder that exists now. Return True if it is another one than before.

        Raises OSError if it does not exist or is not a folder.
        """
        if self.watch_fd >= 0:
            with contextlib.suppress(OSError):
                there = os.lstat(self._path)  # the path may lead anywhere: it only shows that nothing changed
                if (there.st_dev, there.st_ino) == self._inode_id:
                    return False
            self.close()
        self._box_fd = open_box(self.agent)
        try:
            self.watch_fd = os.open("outbox", FOLDER, dir_fd=self._box_fd)
        except OSError:
            self.close()
            raise
        st = os.fstat(self.watch_fd)
        self._inode_id = st.st_dev, st.st_ino
        return True

    def close(self) -> None:
        """Close the folders."""
        for fd in (self._box_fd, self.watch_fd):
            if fd >= 0:
                os.close(fd)
        self._box_fd = self.watch_fd = -1

    def waiting(self, limit: int) -> list[str]:
        """Return the filenames of mail, sorted; if the folder has more than *limit* entries, only some of them."""
        os.lseek(self.watch_fd, 0, os.SEEK_SET)
        with os.scandir(self.watch_fd) as entries:
            return sorted(entry.name for entry in islice(entries, limit) if is_mail(entry.name))

    def read(self, name: str, max_size: int = MAX_SIZE) -> OutboxMessage:
        """Return the message *name*. A file with an external name is renamed first, always to the same new name.

        Raises NotMail; Incomplete; FileNotFoundError if it is gone; OSError for errors of the relay's own.
        """
        st, data = self._read_strictly(name, max_size)
        parts = parse_filename(name)
        if parts is not None and parts.size == len(data):
            return self._message(name, parts.id, parts.stem, data)
        problem = f"it has {len(data)} bytes and its name has S={parts.size}" if parts and parts.size else None
        if problem is None:
            try:
                decode(data)
            except NotMailError as error:
                problem = error.reason
        if problem is not None:
            raise self._not_mail_yet(st, problem)
        if parts is None:
            mark = hashlib.sha256(os.fsencode(name) + b"\0" + data).hexdigest()[:12]
            parts = Filename(f"{to_timestamp(st.st_mtime_ns)}-{mark}", stem=stem_of(name))
        # Nothing can be moved over a file of this name while it is carried, and the file removed is the file read.
        own_name = str(Filename(parts.id, len(data), stem=parts.stem))
        if own_name != name:
            try:
                move(name, self.watch_fd, own_name, self.watch_fd)
            except FileExistsError:  # two copies of a message in one outbox
                if not same(name, self.watch_fd, own_name, self.watch_fd):
                    raise NotMail("another message in the outbox has its id and its size") from None
                self.remove(name)
        return self.read(own_name, max_size)

    def remove(self, name: str) -> None:
        """Unlink a message that was carried. No error if it is gone."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.watch_fd)

    def bounce(self, name: str, why: str) -> None:
        """Move a message to the agent's own `dead/`, with the reason beside it.

        No error if the sender took it back. Raises OSError if the box cannot take it.
        """
        parts = parse_filename(name)
        id = parts.id if parts is not None else new_id()
        dead_fd = os.open("dead", PATH_FOLDER, dir_fd=self._box_fd)
        try:
            size = os.stat(name, dir_fd=self.watch_fd, follow_symlinks=False).st_size
            stem = parts.stem if parts is not None else stem_of(name)
            dead_name = str(Filename(id, size, stem=stem)).removesuffix(".json") + ",B=1"
            if lies(f"{dead_name}.json", dead_fd):
                if same(name, self.watch_fd, f"{dead_name}.json", dead_fd):
                    return self.remove(name)  # sent again, and refused again
                dead_name = with_fresh_id(f"{dead_name}.json").removesuffix(".json") + ",B=1"
            write_reason(dead_fd, f"{dead_name}.why", why)
            move(name, self.watch_fd, f"{dead_name}.json", dead_fd)
        except FileNotFoundError:
            pass
        finally:
            os.close(dead_fd)

    def discard(self, name: str, why: str) -> None:
        """Remove an entry without content, and leave a note in `dead/`. Raises OSError if it cannot be removed."""
        st = os.stat(name, dir_fd=self.watch_fd, follow_symlinks=False)
        if stat.S_ISDIR(st.st_mode):
            os.rmdir(name, dir_fd=self.watch_fd)
        else:
            os.unlink(name, dir_fd=self.watch_fd)
        with contextlib.suppress(OSError):
            dead_fd = os.open("dead", PATH_FOLDER, dir_fd=self._box_fd)
            try:
                note = f"{new_id()},N={stem_of(name)}.why"
                write_reason(dead_fd, note, f"{why}: it was removed from the outbox")
            finally:
                os.close(dead_fd)

    def flush(self) -> None:
        """Flush the folder, so that removed files stay removed after a power cut. Raises OSError."""
        if self.watch_fd >= 0:
            os.fsync(self.watch_fd)

    def _message(self, name: str, id: str, stem: str | None, data: bytes) -> OutboxMessage:
        message = OutboxMessage(self.agent.name, name, id, stem, data)
        inner_id = message.fields.get("id")
        if stem is None and inner_id is not None and inner_id != id:
            raise NotMail(f'its "id" is {inner_id!r:.80} and its name has {id}')
        return message

    def _read_strictly(self, name: str, max_size: int) -> tuple[os.stat_result, bytes]:
        # By O_PATH first: to open a device for reading can have effects, and a FIFO is not mail.
        path_fd = os.open(name, _PATH_ONLY, dir_fd=self.watch_fd)
        try:
            st = os.fstat(path_fd)
            refusal = refuse(st, max_size)
            if refusal is not None and not refusal.is_file:
                raise NotMail(refusal.reason, empty=True)
            if self.agent.uid is not None and st.st_uid != self.agent.uid:
                raise NotMail(f"it belongs to the uid {st.st_uid}, and {self.agent.name} is {self.agent.uid}")
            if st.st_nlink == 0:
                raise FileNotFoundError(errno.ENOENT, "it was taken back")
            if refusal is not None:
                raise self._not_mail(st, refusal)
            try:
                fd = os.open(f"/proc/self/fd/{path_fd}", READ & ~os.O_NOFOLLOW)
            except OSError as error:
                if error.errno == errno.EAGAIN:  # its owner holds a lease on it
                    raise Incomplete from None
                if error.errno in (errno.EACCES, errno.EPERM):
                    raise NotMail("its mode does not let the relay read it") from None
                raise
        finally:
            os.close(path_fd)
        try:
            data, st, refusal = strict_read(fd, max_size)
            if refusal is not None:
                raise self._not_mail(st, refusal)
            if self.agent.uid is None and not is_only_link(name, self.watch_fd, fd):  # a uid proves whose file it is
                raise Incomplete
        finally:
            os.close(fd)
        return st, data

    def _not_mail(self, st: os.stat_result, refusal: Refusal) -> Exception:
        return NotMail(refusal.reason) if refusal.is_final else self._not_mail_yet(st, refusal.reason)

    def _not_mail_yet(self, st: os.stat_result, problem: str) -> Exception:
        """Return Incomplete for a file that changed lately, else NotMail. An agent cannot set a ctime."""
        old = self._clock.time() - st.st_ctime >= INCOMPLETE_GRACE
        return NotMail(problem) if old else Incomplete()
