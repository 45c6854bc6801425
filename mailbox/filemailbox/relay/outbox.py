"""An agent's volume, as the relay sees it: it is the agent's, and nothing in it is trusted.

    VOLUME/NAME/                a container may put anything in the place of anything, at any moment
      outbox/                   what the agent sends: read strictly, removed, or moved to dead/
      dead/                     what comes back to it
      tmp/, new/, replies/      what it gets: created in tmp/, renamed within the box, and never read

Folders are opened one by one from the volume down, never through a link, and everything is done by name within one that
is open. What crosses from one volume to another are bytes that were read once. A rename stays within a box.
"""

import contextlib
import errno
import hashlib
import os
import stat
import time
from itertools import islice
from typing import Final

from ..errors import NotMailError
from ..format.envelope import decode
from ..format.filename import Filename, parse_filename, stem_of
from ..format.order import is_mail
from ..format.timestamp import to_timestamp
from ..settings import MAX_SIZE
from ..store.ids import new_id, with_fresh_id
from ..system.files import FOLDER, READ, describe_type, lies, move, read, same, sole
from .policy import Agent
from .volume import PLACE, open_box, write_reason

INCOMPLETE_GRACE: Final = 5.0
"""Seconds for which a file that is not whole must not have changed before it is given up. As in a box."""
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class NotMail(Exception):
    """What lies in an outbox is no mail: why. It goes back to its sender, or, where it holds nothing, just goes."""

    def __init__(self, why: str, empty: bool = False) -> None:
        self.why, self.empty = why, empty
        super().__init__(why)


class Incomplete(Exception):
    """It is perhaps still being written, or held: look again."""


class OutboxMessage:
    """One message in an outbox, read."""

    __slots__ = ("data", "id", "members", "name", "sender", "stem")

    def __init__(self, sender: str, name: str, id: str, stem: str | None, data: bytes) -> None:
        self.sender, self.name, self.id, self.stem, self.data = sender, name, id, stem, data
        self.members = decode(data)

    @property
    def carried_name(self) -> str:
        """What it is called in the box of a recipient: `F=` says whose volume it came from."""
        return str(Filename(self.id, len(self.data), stem=self.stem, origin=self.sender))


class Outbox:
    """Where an agent's mail is fetched."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._path = f"{agent.volume}/{agent.name}/outbox"
        self._box = self.folder = -1
        self._identity = (0, 0)

    def open(self) -> bool:
        """See to it that the folder that is there now is open. Returns whether it is another one than before.

        Raises OSError where there is none, or something else in its place.
        """
        if self.folder >= 0:
            with contextlib.suppress(OSError):
                there = os.lstat(self._path)  # may lead anywhere: only that it is the same is believed
                if (there.st_dev, there.st_ino) == self._identity:
                    return False
            self.close()
        self._box = open_box(self.agent)
        try:
            self.folder = os.open("outbox", FOLDER, dir_fd=self._box)
        except OSError:
            self.close()
            raise
        facts = os.fstat(self.folder)
        self._identity = facts.st_dev, facts.st_ino
        return True

    def close(self) -> None:
        """Let go of it."""
        for folder in (self._box, self.folder):
            if folder >= 0:
                os.close(folder)
        self._box = self.folder = -1

    def list(self, limit: int) -> list[str]:
        """The names of mail in it, in the order of text; of a folder with more than *limit* things, just some."""
        os.lseek(self.folder, 0, os.SEEK_SET)
        with os.scandir(self.folder) as entries:
            return sorted(entry.name for entry in islice(entries, limit) if is_mail(entry.name))

    def read(self, name: str, max_size: int = MAX_SIZE) -> OutboxMessage:
        """The message *name*. A foreign name is made one of ours first, the same for the same file.

        Raises Junk, Unfinished; FileNotFoundError where it has gone, OSError for troubles of our own.
        """
        facts, data = self._content(name, max_size)
        parts = parse_filename(name)
        if parts is not None and parts.size == len(data):
            return self._letter(name, parts.id, parts.stem, data)
        problem = f"it has {len(data)} bytes and its name says S={parts.size}" if parts and parts.size else None
        if problem is None:
            try:
                decode(data)
            except NotMailError as error:
                problem = error.reason
        if problem is not None:
            raise self._judge(facts, problem)
        if parts is None:
            mark = hashlib.sha256(os.fsencode(name) + b"\0" + data).hexdigest()[:12]
            parts = Filename(f"{to_timestamp(facts.st_mtime_ns)}-{mark}", stem=stem_of(name))
        # So that nothing can be moved over it while it is carried, and what is removed is what was read.
        ours = str(Filename(parts.id, len(data), stem=parts.stem))
        if ours != name:
            try:
                move(name, self.folder, ours, self.folder)
            except FileExistsError:  # two of its own mail in one outbox
                if not same(name, self.folder, ours, self.folder):
                    raise NotMail("another message in the outbox has its id and its size") from None
                self.remove(name)
        return self.read(ours, max_size)

    def remove(self, name: str) -> None:
        """It was carried. Gone already is as well."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.folder)

    def bounce(self, name: str, why: str) -> None:
        """Make it a dead letter of the agent's own, *why* beside it. Raises OSError where its box cannot take it."""
        parts = parse_filename(name)
        id = parts.id if parts is not None else new_id()
        dead = os.open("dead", PLACE, dir_fd=self._box)
        try:
            size = os.stat(name, dir_fd=self.folder, follow_symlinks=False).st_size
            stem = parts.stem if parts is not None else stem_of(name)
            grave = str(Filename(id, size, stem=stem)).removesuffix(".json") + ",B=1"
            if lies(f"{grave}.json", dead):
                if same(name, self.folder, f"{grave}.json", dead):
                    return self.remove(name)  # sent again, and refused again
                grave = with_fresh_id(f"{grave}.json").removesuffix(".json") + ",B=1"
            write_reason(dead, f"{grave}.why", why)
            move(name, self.folder, f"{grave}.json", dead)
        except FileNotFoundError:
            pass  # taken back by its sender
        finally:
            os.close(dead)

    def discard(self, name: str, why: str) -> None:
        """Take away what holds nothing, and leave a note. Raises OSError where it cannot be removed."""
        facts = os.stat(name, dir_fd=self.folder, follow_symlinks=False)
        if stat.S_ISDIR(facts.st_mode):
            os.rmdir(name, dir_fd=self.folder)
        else:
            os.unlink(name, dir_fd=self.folder)
        with contextlib.suppress(OSError):
            dead = os.open("dead", PLACE, dir_fd=self._box)
            try:
                note = f"{new_id()},N={stem_of(name)}.why"
                write_reason(dead, note, f"{why}: it was removed from the outbox")
            finally:
                os.close(dead)

    def _letter(self, name: str, id: str, stem: str | None, data: bytes) -> OutboxMessage:
        try:
            letter = OutboxMessage(self.agent.name, name, id, stem, data)
        except NotMailError as error:
            raise NotMail(error.reason) from None
        said = letter.members.get("id")
        if stem is None and said is not None and said != id:
            raise NotMail(f'its "id" is {said!r:.80} and its name says {id}')
        return letter

    def _content(self, name: str, max_size: int) -> tuple[os.stat_result, bytes]:
        # First only looked at: to open a device for reading can have effects, and a FIFO is no mail.
        place = os.open(name, _LOOK, dir_fd=self.folder)
        try:
            facts = os.fstat(place)
            if not stat.S_ISREG(facts.st_mode):
                raise NotMail(f"it is {describe_type(facts.st_mode)}, not a file", empty=True)
            if self.agent.uid is not None and facts.st_uid != self.agent.uid:
                raise NotMail(f"it belongs to the uid {facts.st_uid}, and {self.agent.name} is {self.agent.uid}")
            if facts.st_size > max_size:
                raise NotMail(f"it has {facts.st_size} bytes, and {max_size} is the limit")
            if facts.st_nlink != 1:
                if facts.st_nlink == 0:
                    raise FileNotFoundError(errno.ENOENT, "it was taken back")
                raise self._judge(facts, f"it has {facts.st_nlink} links: somebody else can still change it")
            try:
                file = os.open(f"/proc/self/fd/{place}", READ & ~os.O_NOFOLLOW)
            except OSError as error:
                if error.errno == errno.EAGAIN:  # its owner has a lease on it
                    raise Incomplete from None
                if error.errno in (errno.EACCES, errno.EPERM):
                    raise NotMail("its mode keeps it from the relay") from None
                raise
        finally:
            os.close(place)
        try:
            data = read(file, min(facts.st_size, max_size))
            if self.agent.uid is None and not sole(name, self.folder, file):  # else it is the agent's own anyway
                raise Incomplete
        finally:
            os.close(file)
        if len(data) > facts.st_size:
            raise self._judge(facts, "it changed while it was read")
        return facts, data

    def _judge(self, facts: os.stat_result, problem: str) -> Exception:
        """It is not whole: perhaps not yet. A ctime cannot be set by the agent."""
        return NotMail(problem) if time.time() - facts.st_ctime >= INCOMPLETE_GRACE else Incomplete()
