"""Requests that block: a folder of one's own for the answer.

The requester makes `replies/REQUEST-ID/`, a drop box like `new/`, and locks a file of that name while it waits. An
answer is renamed into the folder, or, where that is gone, into `new/`. The waiter leaves by rmdir: if the folder is not
empty there is an answer, and it is taken. A folder whose lock can be had was abandoned: what lies there becomes
ordinary mail.
"""

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self, TypeAlias

from . import names
from .errors import Telling
from .files import FOLDER, NOREPLACE, READ, close, listing, read, rename, sole
from .locks import Lock
from .order import is_mail
from .root import adopt

Answer: TypeAlias = tuple[str, bytes, os.stat_result]
"""A file that came for a request: its name; its bytes, read once; what the kernel says of it."""

_TRIES: Final = 100  # times that a folder is emptied: somebody may fill it for ever
_SHARE: Final = 256  # folders that are looked at in one sweep: anybody can make a million
_turns = itertools.count()


class Reply:
    """The folder in which one request waits for its answer. Use it in a `with` block around the send."""

    def __init__(self, box: str, request: str) -> None:
        """Raises OSError where the box is not there or not ours."""
        self._box, self.request = box, request
        self._lock = Lock(_lock_path(box, request))
        self._folder = -1

    def __enter__(self) -> Self:
        path = f"{self._box}/replies/{self.request}"
        try:
            with Telling("making a folder for the answer"):
                self._lock.take(1)  # first the lock: a folder without one is abandoned
                adopt(_lock_path(self._box, self.request), self._box)
                os.mkdir(path, 0o700)
                os.chmod(path, 0o3733)
                adopt(path, self._box)
                self._folder = os.open(path, FOLDER)
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
        with Telling("looking for an answer"):
            for name in sorted(filter(is_mail, listing(self._folder))):
                try:
                    file = os.open(name, READ, dir_fd=self._folder)
                except OSError:
                    continue
                try:
                    facts = os.fstat(file)
                    parts = names.parse(name)
                    regular = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and facts.st_size <= max_size
                    if regular and (parts is None or parts.size in (None, facts.st_size)):
                        data = read(file, facts.st_size)
                        if sole(name, self._folder, file):
                            yield name, data, facts
                except FileNotFoundError:
                    continue
                finally:
                    close(file)

    def accept(self, name: str) -> None:
        """This is the answer: it is handled."""
        with Telling("taking an answer"):
            os.unlink(name, dir_fd=self._folder)

    def _leave(self) -> None:
        if self._folder >= 0:
            close(self._folder)
            self._folder = -1
        with contextlib.suppress(OSError):
            os.unlink(_lock_path(self._box, self.request))
        self._lock.release()


def waits(box: str, answers: str) -> str | None:
    """The folder in which *answers* is waited for, if it is a request at all; it may be gone."""
    return f"{box}/replies/{answers}" if names.is_id(answers) else None


def sweep(box: str, folder: int) -> None:
    """Deliver as ordinary mail the answers to requests whose asker is gone. *folder* is `replies/`, open.

    Best effort: anybody can put things there, and what cannot be taken away now is tried again at the next round.
    """
    for request in _some(list(filter(names.is_id, listing(folder)))):
        with contextlib.suppress(OSError):
            lock = Lock(_lock_path(box, request))
            if not lock.take():
                continue
            try:
                abandon(box, request)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(_lock_path(box, request))
                lock.release()


def _some(requests: list[str]) -> list[str]:
    """As many as one sweep may take: each has its turn."""
    if len(requests) <= _SHARE:
        return requests
    first = next(_turns) * _SHARE % len(requests)
    return (requests[first:] + requests[:first])[:_SHARE]


def abandon(box: str, request: str) -> None:
    """Take the folder of a request away. Answers that lie in it go to `new/`: nobody has taken them yet."""
    path = f"{box}/replies/{request}"
    for _ in range(_TRIES):  # answers may still be coming
        try:
            return os.rmdir(path)
        except FileNotFoundError:
            return None
        except NotADirectoryError:  # a file or a link that somebody has planted
            return os.unlink(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if not _empty(path, f"{box}/new"):
            return None
    return None


def _empty(path: str, new: str) -> bool:
    """Move what lies in the folder *path* to *new*; whether anything could be moved."""
    moved = False
    folder = os.open(path, FOLDER)  # never through a link: what lies behind it is not for others to move
    try:
        for name in listing(folder):
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
