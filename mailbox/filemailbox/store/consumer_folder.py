"""A consumer's folder in `cur/`, and the other folders of the box, held open.

The folder belongs to a consumer because it holds the folder's lock, as long as its process lives. A consumer that can
take the lock of another folder knows that its owner is gone, and recovers the claims in it. All folders are held open,
so a replaced folder cannot divert a message; if the box, or its `new/` alone, was replaced, refresh() finds out.

A Tenancy decides how a consumer gets its folder and what becomes of its claims when it closes. The one here keeps both
for the life of the process; receive/leases.py has those that outlive it.
"""

import contextlib
import enum
import errno
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Final, NoReturn

from .. import log
from ..errors import InvalidRequestError, NotClaimedError, StorageError, quoted, storage_error
from ..format.address import Address
from ..format.filename import lease_deadline, parse_filename, timed_filename
from ..format.timestamp import to_timestamp
from ..system import as_owner
from ..system.as_owner import opened
from ..system.files import FOLDER, close, describe_type, list_dir, move, same
from ..system.locks import Lock
from .box import make_consumer
from .ids import timestamp_now, with_fresh_id
from .junk import keep_old, mail_in
from .layout import NEW_SWAP_PREFIX
from .root import Box
from .state import State

UNMOVABLE_ERRNOS: Final = (errno.EPERM, errno.EBUSY, errno.ENAMETOOLONG)
"""The kernel's answers for a file that cannot be moved, though the folder is ours: a mount point, or chattr +i."""

_ALWAYS_DUE: Final = to_timestamp(0)
"""A due time that has passed, whatever the clock was or will be."""

_MAX_WARNINGS: Final = 100
"""Files left alone that the log names, for each open box."""

_held_by_parent: list[Lock | None] = []
"""Locks that a child of a fork must keep: dropping one would unlock it for the parent as well."""


class DirFds(dict[str, int]):
    """The folders of a box by their names, held open; empty while the box is not open."""

    def __init__(self, box: str, address: Address) -> None:
        super().__init__()
        self.box, self.address = box, address
        self.warned: set[str] = set()
        """The files left alone that were logged."""

    def __missing__(self, name: str) -> NoReturn:
        raise NotClaimedError("the mailbox was closed, by another thread or in the child of a fork")

    def open(self) -> None:
        """Open them. Raises OSError, StorageError."""
        for name in (*State, "replies"):
            self[name] = open_folder(f"{self.box}/{name}")

    def close(self) -> None:
        """Close them, and forget the warnings."""
        for dir_fd in self.values():
            close(dir_fd)
        self.clear()
        self.warned.clear()

    def warn_left_alone(self, filename: str, problem: str, error: OSError, folder: str = "new") -> None:
        """Log that a file stays in its *folder*: once for each file, and only for the first hundred."""
        if filename in self.warned:
            return
        self.warned.add(filename)
        if len(self.warned) <= _MAX_WARNINGS:
            log.warning(
                "%s in the %s/ of %s is left alone: %s (%s)",
                quoted(filename),
                folder,
                self.address,
                problem,
                error.strerror,
            )
        elif len(self.warned) == _MAX_WARNINGS + 1:
            log.warning("more is left alone in the box %s: `mailbox doctor` counts it", self.address)


class Change(enum.Enum):
    """The result of ConsumerFolder.refresh()."""

    NONE = "the box is open, and the same as before"
    NEW = "the folder new/ was replaced"
    OPENED = "the box was opened, perhaps another one than before"


class Tenancy:
    """A consumer's claim to its folder: held for the life of the process, released when it closes."""

    def acquire(self, folder: "ConsumerFolder") -> None:
        """Take a folder in `cur/`."""
        folder.take_free_or_make()

    def before_claim(self, folder: "ConsumerFolder") -> bool:
        """Prepare an open folder for one more claim. Returns False if it is gone. Raises OSError.

        Called only for a tenancy that was passed to the spool.
        """
        return folder.fd >= 0

    def extend(self, folder: "ConsumerFolder", duration: float) -> str:  # noqa: ARG002  # this one has no lease
        """Keep the claims for *duration* seconds from now. Returns the deadline. Raises InvalidRequestError."""
        raise InvalidRequestError(
            "the message is not under a lease: it is claimed for as long as its process lives",
            hint="a lease is asked for by Mailbox(lease=…), or `mailbox receive --no-ack`",
        )

    def leave(self, folder: "ConsumerFolder") -> None:
        """Release what is still claimed: it comes back, the attempt not counted."""
        recover_claims(folder.fd, folder.dirs, count_attempt=False)


class ConsumerFolder:
    """One consumer's folder in a box, taken by refresh() and released by close()."""

    __slots__ = ("_box_inode", "_lock", "_new_inode", "_tenancy", "address", "box", "dirs", "fd", "guard", "name",
                 "new_fd")  # fmt: skip

    def __init__(self, box: Box, tenancy: Tenancy | None = None) -> None:
        self.box, self.address = box, box.address
        self.dirs = DirFds(box.path, box.address)
        self.guard = threading.RLock()
        """Held by the thread that opens, closes or lists."""
        self._tenancy = tenancy or Tenancy()
        self._forget()

    def _forget(self) -> None:
        self._box_inode = self._new_inode = (-1, -1)
        self._lock: Lock | None = None
        self.new_fd = self.fd = -1
        """`new/`, and our folder in `cur/`; -1 while they are not open."""
        self.name = ""
        """The name of our folder in `cur/`; empty while there is none."""

    def claimed_fd(self) -> int:
        """Return the descriptor of our folder. Raises NotClaimedError if there is none any more."""
        if self.fd < 0:
            raise NotClaimedError(
                "the message is not claimed any more: its mailbox was closed, or this is the child of a fork"
            )
        return self.fd

    def close(self) -> None:
        """Let the tenancy settle what is claimed, then unlock the folder and close everything."""
        with self.guard:
            if self._lock is not None:
                with contextlib.suppress(OSError):
                    self._tenancy.leave(self)
                self._lock.release()
            self._close_fds()

    def forget_after_fork(self) -> None:
        """Leave the folder, its lock and its claims to the parent: this is the child of a fork."""
        _held_by_parent.append(self._lock)
        self.guard = threading.RLock()  # another thread of the parent may have held it
        self._close_fds()

    def unlock(self) -> None:
        """Release the lock and nothing else, as the kernel does when a process dies: for tests of that."""
        if self._lock is not None:
            self._lock.release()

    def _close_fds(self) -> None:
        self.dirs.close()
        if self.fd >= 0:
            close(self.fd)
        self._forget()

    # The box

    def refresh(self) -> Change:
        """Open the box, or find out if it, or our folder in it, is another one than the one that is open.

        After an error everything is closed. Raises BoxNotFoundError, RootNotFoundError, StorageError.
        """
        box_inode, new_inode = self._stat_box()
        has_folder = self.fd >= 0 and os.fstat(self.fd).st_nlink > 0
        if has_folder and box_inode == self._box_inode:
            if new_inode == self._new_inode:
                return Change.NONE
            self._reopen_new(new_inode)
            return Change.NEW
        if self._box_inode != (-1, -1):
            log.warning("the box %s, or our folder in it, was replaced: it is opened again", self.address)
            self.close()
        try:
            self.dirs.open()
            self.new_fd = self.dirs["new"]
            self._tenancy.acquire(self)
        except OSError as error:
            self.close()
            if isinstance(error, StorageError):
                raise
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise self.box.missing() from error
            raise storage_error(error, f"opening the box {quoted(self.address)}") from error
        self._box_inode, self._new_inode = box_inode, new_inode
        return Change.OPENED

    def extend(self, duration: float) -> str:
        """See Tenancy.extend()."""
        return self._tenancy.extend(self, duration)

    def before_claim(self) -> bool:
        """See Tenancy.before_claim()."""
        return self._tenancy.before_claim(self)

    def _stat_box(self) -> tuple[tuple[int, int], tuple[int, int]]:
        try:
            box, new = os.stat(self.box), os.stat(f"{self.box}/new")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.box.missing() from error
        except OSError as error:
            raise storage_error(error, f"opening the box {quoted(self.address)}") from error
        return (box.st_dev, box.st_ino), (new.st_dev, new.st_ino)

    def reopen_new(self) -> None:
        """Open the folder that is `new/` now, after we have replaced it. Raises OSError, StorageError."""
        self._reopen_new(self._stat_box()[1])

    def _reopen_new(self, new_inode: tuple[int, int]) -> None:
        """Open the folder that is `new/` now, as gc or a consumer makes one: our claims stay ours."""
        fresh = open_folder(f"{self.box}/new")
        os.dup2(fresh, self.new_fd, inheritable=False)  # in one step: other threads are using it
        close(fresh)
        self._new_inode = new_inode

    def recover_replaced_new(self) -> None:
        """Move mail back from a `new/` that was replaced and never emptied: whoever did it was killed on the way."""
        with contextlib.suppress(OSError), opened(self.box.path) as box_fd:
            if any(name.startswith(NEW_SWAP_PREFIX) for name in list_dir(box_fd)):
                as_owner.call(box_fd, partial(_recover_replaced_new, box_fd))

    # The folders of consumers

    def take_free_or_make(self) -> None:
        """Take a free folder in `cur/`, and recover the claims in it; make one only if none is free."""
        for name in self._free_folders():
            if (lock := self._try_lock(name)) is None:
                continue
            try:
                self.adopt(name, lock)
            except FileNotFoundError:  # swept away, or leased, between the listing and the lock
                lock.release()
                continue
            recover_claims(self.fd, self.dirs, count_attempt=True)
            return
        self._make()

    def _make(self) -> None:
        name, cur_fd = os.urandom(6).hex(), self.dirs["cur"]
        with opened(self.box.path) as box_fd:
            as_owner.call(box_fd, partial(_make_consumer_folder, box_fd, f".{name}"))
        lock = Lock(f"{self.box}/cur/.{name}/.lock")
        if not lock.take():
            raise OSError(errno.EDEADLK, "another process holds the lock of a folder that was just made")
        os.rename(f".{name}", name, src_dir_fd=cur_fd, dst_dir_fd=cur_fd)  # never visible without its lock
        self.adopt(name, lock)

    def adopt(self, name: str, lock: Lock) -> None:
        """Make the folder *name*, whose *lock* was taken, ours. Raises FileNotFoundError."""
        self.fd = os.open(name, FOLDER, dir_fd=self.dirs["cur"])
        self._lock, self.name = lock, name

    def change_name(self, name: str) -> None:
        """Rename our folder. Raises OSError."""
        cur_fd = self.dirs["cur"]
        os.rename(self.name, name, src_dir_fd=cur_fd, dst_dir_fd=cur_fd)
        self.name = name

    def recover_dead_consumers(self) -> None:
        """Move the claims of consumers whose lock can be taken to `later/`: they are dead, however they died."""
        for name in self._free_folders():
            if name == self.name:
                continue
            if (lock := self._try_lock(name)) is None:
                continue
            try:
                fd = os.open(name, FOLDER, dir_fd=self.dirs["cur"])
                try:
                    recover_claims(fd, self.dirs, count_attempt=True)
                finally:
                    close(fd)
            except FileNotFoundError:
                pass
            finally:
                lock.release()

    def _free_folders(self) -> Iterator[str]:
        """The folders in `cur/` that may be taken if their lock can be had: a lease only after its deadline."""
        now = timestamp_now()
        for name in list_dir(self.dirs["cur"]):
            deadline = lease_deadline(name)
            if deadline is not None and deadline <= now:
                yield name

    def _try_lock(self, name: str) -> Lock | None:
        lock = Lock(f"{self.box}/cur/{name}/.lock")
        try:
            return lock if lock.take() else None
        except FileNotFoundError:
            return None


def recover_claims(fd: int, dirs: DirFds, *, count_attempt: bool) -> None:
    """Move all mail in the open folder *fd* of a consumer to `later/`, due now. Raises OSError."""
    now = to_timestamp(time.time_ns())
    for filename in sorted(list_dir(fd)):
        name = parse_filename(filename)
        if name is None:
            continue
        back = name.replace(attempt=name.attempt + count_attempt, wait=0)
        due = now if back.attempt > 1 else _ALWAYS_DUE  # the due time of a retry shows if the clock was wrong
        try:
            file_away(filename, fd, timed_filename(due, str(back)), dirs["later"])
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in UNMOVABLE_ERRNOS:
                raise
            dirs.warn_left_alone(filename, "it cannot be moved", error, "cur")
            continue
        if count_attempt:
            log.warning(
                "the consumer that had claimed %s is gone: it comes back as attempt %d",
                name.id,
                back.attempt,
                event="recovered",
                box=dirs.address,
                id=name.id,
                attempt=back.attempt,
            )


def file_away(filename: str, dir_fd: int, target: str, target_fd: int) -> str | None:
    """Move a file from a private folder to *target* in another, and replace nothing. Returns its name there.

    A sender chooses names, sizes and due times, so two messages can meet. A second copy of the same message is deleted,
    and None returned; another message gets a fresh id. Raises OSError.
    """
    try:
        move(filename, dir_fd, target, target_fd)
    except FileExistsError:
        if same(filename, dir_fd, target, target_fd):
            os.unlink(filename, dir_fd=dir_fd)
            log.info("%s exists already: the second copy of the same message was dropped", quoted(target))
            return None
        kept = with_fresh_id(target)
        move(filename, dir_fd, kept, target_fd)
        log.warning("%s is the name of another message: %s is kept as %s", quoted(target), quoted(filename), kept)
        return kept
    return target


def recover(fd: int, later_fd: int, address: str) -> None:
    """Move the claims of a dead consumer to `later/`, both folders open: for cleanup, which has no folder of its own.

    Raises OSError.
    """
    dirs = DirFds("", Address(address))
    dirs["later"] = later_fd
    recover_claims(fd, dirs, count_attempt=True)


def _make_consumer_folder(box_fd: int, name: str) -> None:
    with opened("cur", box_fd, os.fstat(box_fd).st_uid) as cur_fd:
        make_consumer(cur_fd, name)


def _recover_replaced_new(box_fd: int) -> None:
    """As the owner of an open box: never through a link, and not from a folder of another uid."""
    owner = os.fstat(box_fd).st_uid
    with opened("new", box_fd, owner) as new_fd:
        for name in list_dir(box_fd):
            if name.startswith(NEW_SWAP_PREFIX):
                with contextlib.suppress(OSError), opened(name, box_fd, owner) as old_fd:
                    move_all(old_fd, new_fd)
                    keep_old(box_fd, name, old_fd)


def move_all(source_fd: int, target_fd: int) -> None:
    """Move the mail in an open folder that was `new/` before to the one that is now.

    Consumers and others may be doing the same.
    """
    for filename in mail_in(source_fd):  # in the order in which it is to be claimed; junk stays behind
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            try:
                move(filename, source_fd, filename, target_fd)
            except FileExistsError:
                if parse_filename(filename) is not None and same(filename, source_fd, filename, target_fd):
                    os.unlink(filename, dir_fd=source_fd)  # the same message, sent again
                else:  # two of one name: neither replaces the other
                    random = os.urandom(6).hex()
                    kept = with_fresh_id(filename) if ",F=" in filename else f"{random}-{filename}"[-255:]
                    move(filename, source_fd, kept, target_fd)


def open_folder(path: str) -> int:
    """Open the folder at *path*. Raises StorageError if there is something else."""
    try:
        return os.open(path, FOLDER)
    except NotADirectoryError as error:
        what = describe_type(os.lstat(path).st_mode)
        raise StorageError(
            f"{quoted(path)} is {what}, not a folder: another process has put it there", error.errno
        ) from error
