"""Requests that block: a folder of one's own for the answer.

The requester makes `replies/REQUEST-ID/`, a drop box like `new/`, and locks a file of that name while it waits. An
answer is renamed into the folder, or into `new/` if the folder is gone or belongs to another uid than the box. The
waiter leaves by rmdir: if the folder is not empty there is an answer, and it is taken. A folder whose lock can be had
was abandoned: the answers in it become ordinary mail.
"""

import contextlib
import errno
import itertools
import os
import stat
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self, TypeAlias

from .. import log
from ..errors import quoted, translated_errors
from ..format.filename import is_id, parse_filename, timed_filename
from ..format.order import is_mail
from ..system.as_owner import opened
from ..system.files import FOLDER, NOREPLACE, READ, close, list_dir, move, rename
from ..system.locks import Lock
from ..system.strict_read import is_only_link, strict_read
from .ids import timestamp_now
from .permissions import chown_to_box_owner

Answer: TypeAlias = tuple[str, bytes, os.stat_result]
"""A file that came for a request: its name, its bytes, read once, and its stat."""

_TRIES: Final = 100  # times that a folder is emptied: others may keep filling it
_SHARE: Final = 256  # folders that one sweep checks: any uid can make a million
_LONGEST: Final = 1.0  # seconds that a sweep, or one who leaves, takes at most: any uid can fill a folder
_STILL: Final = 5_000_000_000  # nanoseconds for which a file under a foreign name may still be written
_TOLD: Final = 8  # refused answers of one request that are logged
_PLACE: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEVER: Final = (errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EACCES, errno.EPERM)  # what opens so is no mail
_turns = itertools.count()


class PendingRequest:
    """The folder in which one request waits for its answer. Use it in a `with` block around the send."""

    def __init__(self, box: str, request: str, asked: frozenset[str] | None = None) -> None:
        """*asked* are those whose answers count; None if they are not known here."""
        self._box, self.request, self.asked = box, request, asked
        self._lock = Lock(_lock_path(box, request))
        self._folder = -1
        self._skipped: dict[str, tuple[int, int]] = {}  # what is no answer and cannot be moved away: inode, ctime
        self._refused = 0

    def __enter__(self) -> Self:
        path = f"{self._box}/replies/{self.request}"
        try:
            with translated_errors("making a folder for the answer"):
                self._lock.take(1)  # first the lock: a folder without one is abandoned
                chown_to_box_owner(_lock_path(self._box, self.request), self._box)
                try:
                    os.mkdir(path, 0o700)
                except FileExistsError:  # of one that was killed, or put there by another uid that knows the id
                    self._clear()
                    os.mkdir(path, 0o700)
                # By descriptor: where root asks for the owner of the box, that one may put a link there in between.
                self._folder = os.open(path, FOLDER)
                if os.fstat(self._folder).st_uid != os.geteuid():
                    raise FileExistsError(errno.EEXIST, "another folder is in its place", path)
                os.fchmod(self._folder, 0o3733)
                chown_to_box_owner(self._folder, self._box)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what is left is for the next consumer to sweep
            abandon(self._box, self.request)
        self._leave()

    def answers(self, max_size: int) -> Iterator[Answer]:
        """The name and the bytes of each answer that has come. What is not whole is left: see abandon()."""
        with translated_errors("looking for an answer"):
            for name in sorted(filter(is_mail, list_dir(self._folder))):
                if name in self._skipped and self._skipped[name] == self._mark(name):
                    continue
                try:
                    file = os.open(name, READ, dir_fd=self._folder)
                except OSError as error:
                    if error.errno in _NEVER:
                        self._put_away(name)
                    continue
                try:
                    parts = parse_filename(name)
                    data, facts, refusal = strict_read(file, max_size, parts.size if parts is not None else None)
                    if refusal is None:
                        if is_only_link(name, self._folder, file):
                            yield name, data, facts
                    elif time.time_ns() - facts.st_ctime_ns > _STILL:
                        self._put_away(name)
                finally:
                    close(file)

    def refuse(self, answer: Answer, why: str) -> None:
        """Make a file that is not the answer ordinary mail: the consumers of the box decide what becomes of it.

        A file under an external name may still be written: it is read again for a while.
        """
        name, _, facts = answer
        parts = parse_filename(name)
        if (parts is None or parts.size is None) and time.time_ns() - facts.st_ctime_ns < _STILL:
            return
        self._refused += 1
        if self._refused <= _TOLD:
            more = "; further ones are not logged" if self._refused == _TOLD else ""
            log.warning("%s is no answer to %s, but ordinary mail: %s%s", quoted(name), self.request, why, more)
        self._put_away(name)

    def _put_away(self, name: str) -> None:
        try:
            _move(name, self._folder, f"{self._box}/new/{name}")
        except FileNotFoundError:
            pass
        except OSError:
            self._skipped[name] = self._mark(name)

    def _mark(self, name: str) -> tuple[int, int]:
        try:
            facts = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return -1, -1
        return facts.st_ino, facts.st_ctime_ns

    def _clear(self) -> None:
        """Remove the file in the place of our folder: we have the lock, so no request waits there."""
        folder = os.open(f"{self._box}/replies", FOLDER)
        try:
            _take_away(self._box, self.request, folder, time.monotonic() + _LONGEST)
        finally:
            close(folder)

    def accept(self, name: str, *, keep: bool = False) -> None:
        """Settle the answer: delete it, or with *keep* move it to `done/`, where nothing is replaced."""
        with translated_errors("taking an answer"):
            if keep and parse_filename(name) is not None:
                with (
                    contextlib.suppress(FileExistsError),
                    opened(self._box) as box_fd,
                    opened("done", box_fd, os.fstat(box_fd).st_uid) as done_fd,
                ):
                    move(name, self._folder, timed_filename(timestamp_now(), name), done_fd)
                    return
            os.unlink(name, dir_fd=self._folder)

    def _leave(self) -> None:
        if self._folder >= 0:
            close(self._folder)
            self._folder = -1
        with contextlib.suppress(OSError):
            os.unlink(_lock_path(self._box, self.request))
        self._lock.release()


def waits(box: str, answers: str, home: int | None = None) -> int | None:
    """Open, by O_PATH, the folder in which *answers* is waited for; return None if no request waits. Raises OSError.

    *home* is the box, if it is open: then its path is not used. Only a folder of the box's owner counts: any uid can
    make one, and would get the answers. With another owner they go to `new/`.
    """
    if not is_id(answers):
        return None
    try:
        folder = os.open(f"{box}/replies/{answers}" if home is None else f"replies/{answers}", _PLACE, dir_fd=home)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    try:
        uid, owner = os.fstat(folder).st_uid, os.stat(box if home is None else home).st_uid
    except OSError:
        close(folder)
        raise
    if uid == owner:
        return folder
    close(folder)
    log.warning("the folder for answers to %s belongs to the uid %s, not to %s: they go to new/", answers, uid, owner)
    return None


def sweep(box: str, folder: int) -> None:
    """Deliver as ordinary mail the answers to requests whose asker is gone. *folder* is `replies/`, open.

    Best effort: any uid can put files there. A file that cannot be removed now is tried again in the next round.
    """
    owner, until = os.fstat(folder).st_uid, time.monotonic() + _LONGEST
    for request in _some(list(filter(is_id, list_dir(folder)))):
        if time.monotonic() > until:
            return
        with contextlib.suppress(OSError):
            facts = os.stat(request, dir_fd=folder, follow_symlinks=False)
            if facts.st_uid != owner or not stat.S_ISDIR(facts.st_mode):  # no request waits there: it has no lock
                _take_away(box, request, folder, until)
                continue
            lock = Lock(_lock_path(box, request))
            if not lock.take():
                continue
            try:
                abandon(box, request, until)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(_lock_path(box, request))
                lock.release()


def _take_away(box: str, request: str, folder: int, until: float) -> None:
    """Remove an entry of *folder*, `replies/`, that has the name of a request for which no process waits.

    A folder that another uid has made and filled cannot be removed by us. It gets a name that begins with a dot, which
    is no request's: so it is in no one's way, and is not tried again and again.
    """
    with contextlib.suppress(OSError):
        abandon(box, request, until)
    facts = os.stat(request, dir_fd=folder, follow_symlinks=False)
    if facts.st_uid != os.fstat(folder).st_uid:
        aside = f".{request}-{os.urandom(4).hex()}"
        os.rename(request, aside, src_dir_fd=folder, dst_dir_fd=folder)
        log.warning("a folder of the uid %s in replies/ cannot be removed: it is now %s", facts.st_uid, quoted(aside))


def _some(requests: list[str]) -> list[str]:
    """As many as one sweep may take: each has its turn."""
    if len(requests) <= _SHARE:
        return requests
    first = next(_turns) * _SHARE % len(requests)
    return (requests[first:] + requests[:first])[:_SHARE]


def abandon(box: str, request: str, until: float | None = None) -> None:
    """Remove the folder of a request. Answers in it go to `new/`: no consumer has taken them yet.

    It ends at the monotonic time *until*: the rest is for a later sweep.
    """
    path = f"{box}/replies/{request}"
    until = time.monotonic() + _LONGEST if until is None else until
    for _ in range(_TRIES):  # answers may still be coming
        try:
            return os.rmdir(path)
        except FileNotFoundError:
            return None
        except NotADirectoryError:  # a file or a link that was planted
            return os.unlink(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if not _empty(path, f"{box}/new", until):
            return None
    return None


def _empty(path: str, new: str, until: float) -> bool:
    """Move the content of the folder *path* to *new*. Return True if something moved and time is left."""
    moved = False
    folder = os.open(path, FOLDER)  # never through a link: others must not choose what is moved
    try:
        for name in list_dir(folder):
            if time.monotonic() > until:
                return False
            with contextlib.suppress(OSError):  # a folder that an answerer has planted cannot be moved
                _move(name, folder, f"{new}/{name}")
                moved = True
    finally:
        close(folder)
    return moved


def _move(name: str, folder: int, target: str) -> None:
    """Rename, but never over mail that waits: raises FileExistsError, and it is moved by a later sweep."""
    try:
        rename(name, target, NOREPLACE, folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        if os.path.lexists(target):  # file systems that cannot do both in one step
            raise FileExistsError(errno.EEXIST, "there is one of that name", target) from None
        os.rename(name, target, src_dir_fd=folder)


def _lock_path(box: str, request: str) -> str:
    return f"{box}/cur/.{request}.lock"
