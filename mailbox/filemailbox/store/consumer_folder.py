"""A consumer's place in a box: the folders of the box, held open, and one in `cur/` that is its own.

That folder is ours because we hold its lock, as long as we live. Whoever can take the lock of another one knows that
its consumer is gone, and takes over what lies there. All folders are held open: nobody can put another one in the way;
where the box was replaced, or its `new/` alone, we find out.
"""

import contextlib
import errno
import os
import threading
import time
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Final, NoReturn

from .. import log
from ..errors import NotClaimedError, StorageError, quoted, storage_error
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
from .root import Root

UNMOVABLE_ERRNOS: Final = (errno.EPERM, errno.EBUSY, errno.ENAMETOOLONG)
"""What the kernel says of a file that cannot be moved, though the folder is ours: a mount point, or chattr +i."""

_ALWAYS: Final = to_timestamp(0)
"""Due, whatever the clock has been or will be."""
_TOLD: Final = 100  # things left alone that are named in the log


class DirFds(dict[str, int]):
    """The folders of a box by their names, held open; none while it is not open."""

    def __init__(self, box: str, address: Address) -> None:
        super().__init__()
        self.box, self.address = box, address
        self.told: set[str] = set()
        """What is left alone, and was said to be."""

    def __missing__(self, name: str) -> NoReturn:
        raise NotClaimedError("the mailbox was closed, by another thread or in the child of a fork")

    def open(self) -> None:
        for name in ("new", "replies", "later", "dead", "done", "cur"):
            self[name] = folder_at(f"{self.box}/{name}")

    def close(self) -> None:
        for folder in self.values():
            close(folder)
        self.clear()
        self.told.clear()

    def leave(self, text: str, what: str, error: OSError, where: str = "new") -> None:
        """It stays where it is, and is no mail. Said once, and of the first hundred only."""
        if text in self.told:
            return
        self.told.add(text)
        if len(self.told) <= _TOLD:
            log.warning(
                "%s in the %s/ of %s is left alone: %s (%s)", quoted(text), where, self.address, what, error.strerror
            )
        elif len(self.told) == _TOLD + 1:
            log.warning("more is left alone in the box %s: `mailbox doctor` counts it", self.address)


class ConsumerFolder:
    """One consumer's place in a box, found when it is first needed.

    Its folder in `cur/` is locked while it lives; in the child of a fork it holds nothing, and finds itself another
    folder when used.
    """

    def __init__(self, root: Root, address: Address) -> None:
        self.root, self.address = root, address
        self._box = root.box(address)
        self._folders = DirFds(self._box, address)
        self._forget()
        _places.add(self)

    def _forget(self) -> None:
        """As if nothing had been opened yet."""
        self._guard = threading.RLock()
        self._identity: tuple[tuple[int, int], ...] = ()
        self._lock: Lock | None = None
        self._new = self._mine = -1
        self._folder = ""

    @property
    def folder(self) -> str | None:
        """The name of our folder in `cur/`, once we have one."""
        return self._folder or None

    @property
    def descriptor(self) -> int:
        """That folder, open. Raises NotClaimedError where there is none any more."""
        return self._held()

    def _held(self) -> int:
        if self._mine < 0:
            raise NotClaimedError(
                "the message is not held any more: its mailbox was closed, or this is the child of a fork"
            )
        return self._mine

    def close(self) -> None:
        """Hand back what is held, the attempt not counted, and let go of the folder."""
        with self._guard:
            if self._lock is not None:
                with contextlib.suppress(OSError):
                    self._hand_over()
                self._lock.release()
            self._let_go()

    def _hand_over(self) -> None:
        """What becomes of what we hold when we leave."""
        self._recover_claims(self._mine, counted=False)

    def disown(self) -> None:
        """In the child of a fork: the folder, its lock and what lies there are the parent's."""
        _parents.append(self._lock)  # to drop it would unlock it, for the parent as well
        self._let_go()

    def _let_go(self) -> None:
        self._folders.close()
        if self._mine >= 0:
            close(self._mine)
        self._forget()

    # The box

    def _ready(self) -> None:
        """Open the box, or find out that it, or our folder in it, is not what we had opened any more."""
        identity = self._identify()
        if identity != self._identity or os.fstat(self._mine).st_nlink == 0:
            if self._identity[:1] == identity[:1] and os.fstat(self._mine).st_nlink > 0:
                self._reopen_new(identity)
                return
            if self._identity:
                log.warning("the box %s, or our folder in it, was replaced: starting anew", self.address)
                self.close()
            self._open(identity)

    def _identify(self) -> tuple[tuple[int, int], ...]:
        try:
            box, new = os.stat(self._box), os.stat(f"{self._box}/new")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.root.missing(self.address) from error
        except OSError as error:
            raise storage_error(error, f"opening the box {quoted(self.address)}") from error
        return (box.st_dev, box.st_ino), (new.st_dev, new.st_ino)

    def _open(self, identity: tuple[tuple[int, int], ...]) -> None:
        try:
            self._folders.open()
            self._new = self._folders["new"]
            self._find_folder()
        except OSError as error:
            self.close()
            if isinstance(error, StorageError):
                raise
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise self.root.missing(self.address) from error
            raise storage_error(error, f"opening the box {quoted(self.address)}") from error
        self._identity = identity

    def _reopen_new(self, identity: tuple[tuple[int, int], ...]) -> None:
        """`new/` alone is another folder, as gc makes it when it has grown too large: what we hold stays ours."""
        fresh = folder_at(f"{self._box}/new")
        os.dup2(fresh, self._new, inheritable=False)  # in one step: other threads are using it
        close(fresh)
        self._identity = identity

    def _recover_replaced_new(self) -> None:
        """Take back what lies in a `new/` that was exchanged, and never emptied: gc was killed on the way."""
        with contextlib.suppress(OSError), opened(self._box) as box:
            if any(name.startswith(NEW_SWAP_PREFIX) for name in list_dir(box)):
                as_owner.call(box, partial(_recover_replaced_new, box))

    # The folders of consumers

    def _find_folder(self) -> None:
        """Take a free folder in `cur/` for ours; make one only where there is none."""
        for name in self._consumers():
            lock = self._try(name)
            if lock is None:
                continue
            try:
                self._adopt_folder(name, lock)
            except FileNotFoundError:  # swept away, or leased, between the listing and the lock
                lock.release()
                continue
            self._recover_claims(self._mine, counted=True)
            return
        self._make_folder()

    def _make_folder(self) -> None:
        name, cur = os.urandom(6).hex(), self._folders["cur"]
        with opened(self._box) as box:
            as_owner.call(box, partial(_furnish, box, f".{name}"))
        lock = Lock(f"{self._box}/cur/.{name}/.lock")
        if not lock.take():
            raise OSError(errno.EDEADLK, "a lock nobody can know of is held")
        os.rename(f".{name}", name, src_dir_fd=cur, dst_dir_fd=cur)  # never visible without its lock
        self._adopt_folder(name, lock)

    def _adopt_folder(self, name: str, lock: Lock) -> None:
        self._mine = os.open(name, FOLDER, dir_fd=self._folders["cur"])
        self._lock, self._folder = lock, name

    def _recover_dead_consumers(self) -> None:
        """Move what consumers held whose lock can be taken: they are dead, however they died."""
        for name in self._consumers():
            if name == self._folder:
                continue
            lock = self._try(name)
            if lock is None:
                continue
            try:
                folder = os.open(name, FOLDER, dir_fd=self._folders["cur"])
                try:
                    self._recover_claims(folder, counted=True)
                finally:
                    close(folder)
            except FileNotFoundError:
                pass
            finally:
                lock.release()

    def _consumers(self) -> Iterator[str]:
        """The folders in `cur/` that may be taken over if their lock can be had: leases only when they are over."""
        now = timestamp_now()
        for name in list_dir(self._folders["cur"]):
            deadline = lease_deadline(name)
            if deadline is not None and deadline <= now:
                yield name

    def _try(self, name: str) -> Lock | None:
        lock = Lock(f"{self._box}/cur/{name}/.lock")
        try:
            return lock if lock.take() else None
        except FileNotFoundError:
            return None

    def _recover_claims(self, folder: int, *, counted: bool) -> None:
        """Move all that lies in a consumer's folder to `later/`, due now."""
        now = to_timestamp(time.time_ns())
        for text in sorted(list_dir(folder)):
            name = parse_filename(text)
            if name is None:
                continue
            back = name.replace(attempt=name.attempt + counted, wait=0)
            due = now if back.attempt > 1 else _ALWAYS  # of a retry it is seen where the clock was wrong
            try:
                file_away(text, folder, timed_filename(due, str(back)), self._folders["later"])
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in UNMOVABLE_ERRNOS:
                    raise
                self._folders.leave(text, "it cannot be moved", error, "cur")
                continue
            if counted:
                log.warning(
                    "%s was held by a consumer that is gone: it comes back as attempt %d", name.id, back.attempt
                )


def file_away(text: str, folder: int, to: str, target: int) -> str | None:
    """Move *text* from a folder of ours to *to* in another, over nothing. Returns the name that it has got.

    A sender chooses names, sizes and due times, so two messages can meet. The same one is dropped here, and None is
    returned; another one gets a fresh id. Raises OSError.
    """
    try:
        move(text, folder, to, target)
    except FileExistsError:
        if same(text, folder, to, target):
            os.unlink(text, dir_fd=folder)
            log.info("%s is there already: the second copy of the same message was dropped", quoted(to))
            return None
        kept = with_fresh_id(to)
        move(text, folder, kept, target)
        log.warning("%s is the name of another message: %s is kept as %s", quoted(to), quoted(text), kept)
        return kept
    return to


def recover(folder: int, later: int, address: str) -> None:
    """Move what a dead consumer held to `later/`, both open: for a sweep, which has no place of its own."""
    place = ConsumerFolder(Root("/"), Address(address))
    place._folders["later"] = later
    try:
        place._recover_claims(folder, counted=True)
    finally:
        place._folders.clear()  # it is the caller's to close


def _furnish(box: int, name: str) -> None:
    with opened("cur", box, os.fstat(box).st_uid) as cur:
        make_consumer(cur, name)


def _recover_replaced_new(box: int) -> None:
    """As the owner of an open box: a link is nothing of ours, nor is a folder of another uid."""
    owner = os.fstat(box).st_uid
    with opened("new", box, owner) as new:
        for name in list_dir(box):
            if name.startswith(NEW_SWAP_PREFIX):
                with contextlib.suppress(OSError), opened(name, box, owner) as old:
                    move_all(old, new)
                    keep_old(box, name, old)


def move_all(source: int, target: int) -> None:
    """Move the mail in the open folder *source*, which was `new/` before, to *target*, which is.

    Consumers and others may be at it, too.
    """
    for name in mail_in(source):  # in the order in which they are to be claimed; junk stays behind
        with contextlib.suppress(FileNotFoundError):  # somebody was faster
            try:
                move(name, source, name, target)
            except FileExistsError:
                if parse_filename(name) is not None and same(name, source, name, target):
                    os.unlink(name, dir_fd=source)  # the same message, sent again
                else:  # two of one name: neither replaces the other
                    kept = f"{os.urandom(6).hex()}-{name}"[-255:] if ",F=" not in name else with_fresh_id(name)
                    move(name, source, kept, target)


def folder_at(path: str) -> int:
    """The folder at *path*, open. Raises StorageError where something else lies there."""
    try:
        return os.open(path, FOLDER)
    except NotADirectoryError as error:
        what = describe_type(os.lstat(path).st_mode)
        raise StorageError(f"{quoted(path)} is {what}, not a folder: somebody has put it there", error.errno) from error


_places: weakref.WeakSet[ConsumerFolder] = weakref.WeakSet()
_parents: list[Lock | None] = []


def _forget_all_after_fork() -> None:
    for place in list(_places):
        place.disown()


os.register_at_fork(after_in_child=_forget_all_after_fork)
