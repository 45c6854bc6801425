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

from . import names
from .doorbell import Ringer
from .errors import Malformed
from .files import FOLDER, READ, kind, lies, move, read, same, sole
from .message import MAX_SIZE, decode
from .order import is_mail
from .policy import Agent

STILL: Final = 5.0
"""Seconds for which a file that is not whole must not have changed before it is given up. As in a box."""

_MANY: Final = 20_000  # things in tmp/: where there are more, each is asked for by its name
_PLACE: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Junk(Exception):
    """What lies in an outbox is no mail: why. It goes back to its sender, or, where it holds nothing, just goes."""

    def __init__(self, why: str, empty: bool = False) -> None:
        self.why, self.empty = why, empty
        super().__init__(why)


class Unfinished(Exception):
    """It is perhaps still being written, or held: look again."""


class Letter:
    """One message in an outbox, read."""

    __slots__ = ("data", "id", "members", "name", "sender", "stem")

    def __init__(self, sender: str, name: str, id: str, stem: str | None, data: bytes) -> None:
        self.sender, self.name, self.id, self.stem, self.data = sender, name, id, stem, data
        self.members = decode(data)

    @property
    def carried_name(self) -> str:
        """What it is called in the box of a recipient: `F=` says whose volume it came from."""
        return str(names.Name(self.id, len(self.data), stem=self.stem, origin=self.sender))


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
        self._box = _open_box(self.agent)
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

    def read(self, name: str, max_size: int = MAX_SIZE) -> Letter:
        """The message *name*. A foreign name is made one of ours first, the same for the same file.

        Raises Junk, Unfinished; FileNotFoundError where it has gone, OSError for troubles of our own.
        """
        facts, data = self._content(name, max_size)
        parts = names.parse(name)
        if parts is not None and parts.size == len(data):
            return self._letter(name, parts.id, parts.stem, data)
        problem = f"it has {len(data)} bytes and its name says S={parts.size}" if parts and parts.size else None
        if problem is None:
            try:
                decode(data)
            except Malformed as error:
                problem = error.reason
        if problem is not None:
            raise self._judge(facts, problem)
        if parts is None:
            mark = hashlib.sha256(os.fsencode(name) + b"\0" + data).hexdigest()[:12]
            parts = names.Name(f"{names.stamp(facts.st_mtime_ns)}-{mark}", stem=names.stem(name))
        # So that nothing can be moved over it while it is carried, and what is removed is what was read.
        ours = str(names.Name(parts.id, len(data), stem=parts.stem))
        if ours != name:
            try:
                move(name, self.folder, ours, self.folder)
            except FileExistsError:  # two of its own mail in one outbox
                if not same(name, self.folder, ours, self.folder):
                    raise Junk("another message in the outbox has its id and its size") from None
                self.remove(name)
        return self.read(ours, max_size)

    def remove(self, name: str) -> None:
        """It was carried. Gone already is as well."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.folder)

    def send_back(self, name: str, why: str) -> None:
        """Make it a dead letter of the agent's own, *why* beside it. Raises OSError where its box cannot take it."""
        parts = names.parse(name)
        id = parts.id if parts is not None else names.new_id()
        dead = os.open("dead", _PLACE, dir_fd=self._box)
        try:
            size = os.stat(name, dir_fd=self.folder, follow_symlinks=False).st_size
            stem = parts.stem if parts is not None else names.stem(name)
            grave = str(names.Name(id, size, stem=stem)).removesuffix(".json") + ",B=1"
            if lies(f"{grave}.json", dead):
                if same(name, self.folder, f"{grave}.json", dead):
                    return self.remove(name)  # sent again, and refused again
                grave = names.another(f"{grave}.json").removesuffix(".json") + ",B=1"
            _explain(dead, f"{grave}.why", why)
            move(name, self.folder, f"{grave}.json", dead)
        except FileNotFoundError:
            pass  # taken back by its sender
        finally:
            os.close(dead)

    def throw_away(self, name: str, why: str) -> None:
        """Take away what holds nothing, and leave a note. Raises OSError where it cannot be removed."""
        facts = os.stat(name, dir_fd=self.folder, follow_symlinks=False)
        if stat.S_ISDIR(facts.st_mode):
            os.rmdir(name, dir_fd=self.folder)
        else:
            os.unlink(name, dir_fd=self.folder)
        with contextlib.suppress(OSError):
            dead = os.open("dead", _PLACE, dir_fd=self._box)
            try:
                note = f"{names.new_id()},N={names.stem(name)}.why"
                _explain(dead, note, f"{why}: it was removed from the outbox")
            finally:
                os.close(dead)

    def _letter(self, name: str, id: str, stem: str | None, data: bytes) -> Letter:
        try:
            letter = Letter(self.agent.name, name, id, stem, data)
        except Malformed as error:
            raise Junk(error.reason) from None
        said = letter.members.get("id")
        if stem is None and said is not None and said != id:
            raise Junk(f'its "id" is {said!r:.80} and its name says {id}')
        return letter

    def _content(self, name: str, max_size: int) -> tuple[os.stat_result, bytes]:
        # First only looked at: to open a device for reading can have effects, and a FIFO is no mail.
        place = os.open(name, _LOOK, dir_fd=self.folder)
        try:
            facts = os.fstat(place)
            if not stat.S_ISREG(facts.st_mode):
                raise Junk(f"it is {kind(facts.st_mode)}, not a file", empty=True)
            if self.agent.uid is not None and facts.st_uid != self.agent.uid:
                raise Junk(f"it belongs to the uid {facts.st_uid}, and {self.agent.name} is {self.agent.uid}")
            if facts.st_size > max_size:
                raise Junk(f"it has {facts.st_size} bytes, and {max_size} is the limit")
            if facts.st_nlink != 1:
                if facts.st_nlink == 0:
                    raise FileNotFoundError(errno.ENOENT, "it was taken back")
                raise self._judge(facts, f"it has {facts.st_nlink} links: somebody else can still change it")
            try:
                file = os.open(f"/proc/self/fd/{place}", READ & ~os.O_NOFOLLOW)
            except OSError as error:
                if error.errno == errno.EAGAIN:  # its owner has a lease on it
                    raise Unfinished from None
                if error.errno in (errno.EACCES, errno.EPERM):
                    raise Junk("its mode keeps it from the relay") from None
                raise
        finally:
            os.close(place)
        try:
            data = read(file, min(facts.st_size, max_size))
            if self.agent.uid is None and not sole(name, self.folder, file):  # else it is the agent's own anyway
                raise Unfinished
        finally:
            os.close(file)
        if len(data) > facts.st_size:
            raise self._judge(facts, "it changed while it was read")
        return facts, data

    def _judge(self, facts: os.stat_result, problem: str) -> Exception:
        """It is not whole: perhaps not yet. A ctime cannot be set by the agent."""
        return Junk(problem) if time.time() - facts.st_ctime >= STILL else Unfinished()


class Inbox:
    """Where an agent's mail is put. Opened for a batch, closed after it: folders are replaced for good reasons, too."""

    def __init__(self, agent: Agent) -> None:
        """Raises OSError where the box is not there, or something else in its place."""
        self.agent = agent
        self._open: list[int] = [_open_box(agent)]
        try:
            self._tmp = self._enter("tmp")
            self._new = self._enter("new")
        except OSError:
            self.close()
            raise

    def _enter(self, folder: str) -> int:
        self._open.append(os.open(folder, _PLACE, dir_fd=self._open[0]))
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
            file = os.open(name, _NEW, 0o640, dir_fd=self._tmp)
        except FileExistsError:
            if (left := self._left(name, data)) >= 0:
                return left
            os.unlink(name, dir_fd=self._tmp)
            file = os.open(name, _NEW, 0o640, dir_fd=self._tmp)
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
        if answers is not None and names.is_id(answers):
            with contextlib.suppress(OSError):
                replies = os.open("replies", _PLACE, dir_fd=self._open[0])
                try:
                    waiting = os.open(answers, _PLACE, dir_fd=replies)
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

    def take_back(self, name: str) -> None:
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


def is_our_trouble(error: OSError) -> bool:
    """Whether it is nobody's fault but ours: too many open files, no memory."""
    return error.errno in _OURS


def _open_box(agent: Agent) -> int:
    """The folder of the agent's box. Its volume is named by the operator, and may be a link; nothing in it may."""
    volume = os.open(agent.volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        box = os.open(agent.name, _PLACE, dir_fd=volume)
    finally:
        os.close(volume)
    owner = os.fstat(box).st_uid
    if agent.uid is not None and owner != agent.uid:
        os.close(box)
        raise PermissionError(errno.EPERM, f"it belongs to the uid {owner}, not to {agent.uid}")
    return box


def _explain(dead: int, name: str, why: str) -> None:
    """Write a `.why`. Best effort, and over nothing that lies there."""
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=dead)
    with contextlib.suppress(OSError):
        file = os.open(name, _NEW, 0o644, dir_fd=dead)  # its folder keeps others out; the agent must read it
        try:
            os.fchmod(file, 0o644)
            os.write(file, f"{why}\n".encode("utf-8", "backslashreplace"))
        finally:
            os.close(file)
