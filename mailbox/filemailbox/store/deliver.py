"""Delivery into a box: write, rename, flush. The senders' half of the folders.

    tmp/    being written     no consumer reads it
    new/    delivered         waiting for a consumer
    outbox/ left to a relay   in the sender's own box, if the recipient has no box here

A sender of another uid may neither list nor open these folders, only create and rename in them. So it uses paths, and
finds a box that was replaced without further ado. A crash leaves a draft in `tmp/`, which the box sweeps.

Root could follow a path anywhere, and the owner of a box may put a link in the place of any of its folders. So if
root sends to a box of another uid, it opens the folders, never through a link, and uses these descriptors.

More than 400 lines: in a module of its own, the flush that threads share would cost each `mailbox send` its import.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from _thread import allocate_lock, get_ident

from ..errors import DurabilityUnknownError, PermissionDeniedError, StorageError, quoted, storage_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final, TypeAlias

    from ..format.address import Address
    from .root import Root

    Held: TypeAlias = "tuple[int, int, int] | tuple[None, None, None]"

_NEW: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_PLACE: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BY_PATH: Final = (None, None, None)
_FEW: Final = 4  # threads that flush each for itself: the kernel joins the flushes of a few as well as we can
_CROWD: Final = 8  # messages from which on one flush of the file system is cheaper than one for each


class NotAwaited(Exception):  # not an error: nothing is lost
    """No process waits for a receipt: it was not delivered."""


def deliver(
    root: Root,
    to: str,
    id: str,
    data: bytes,
    *,
    durable: bool = True,
    answers: str | None = None,
    sender: Address | None = None,
    is_receipt: bool = False,
) -> None:
    """Put a message into the box *to*, whole or not at all; if there is none, into the outbox of *sender*.

    Once this returns, a *durable* message survives kill -9 and a power cut. *answers* is the id of the request
    that it answers: if its sender waits for the answer in a folder, the message goes there. Delivering an id again
    replaces the message that waits under it. A receipt goes to the process that waits for it, or is dropped: then
    NotAwaited is raised.

    Raises BoxNotFoundError, RootNotFoundError, DiskFullError, PermissionDeniedError and their kin if nothing was
    delivered, and DurabilityUnknownError if it was and the disk did not confirm it.
    """
    file = _move_in(root, to, id, data, answers, sender, is_receipt)
    try:
        if durable:
            _shared_flush.flush(file, id)
    finally:
        _close(file, id, durable)


def deliver_many(
    root: Root,
    to: str,
    messages: Iterable[tuple[str, bytes]],
    *,
    durable: bool = True,
    sender: Address | None = None,
) -> list[str]:
    """Put many messages into the box *to* and flush them together, as deliver() does. Returns their ids, in order.

    Up to seven are flushed one by one, more by one syncfs(2). A failure on the way leaves those before it delivered and
    flushed: its exception carries their ids as `sent`. So does DurabilityUnknownError, where the disk did not
    confirm all of them.
    """
    sent: list[str] = []
    files: list[int] = []
    try:
        try:
            for id, data in messages:
                files.append(_move_in(root, to, id, data, None, sender))
                sent.append(id)
                if not durable or len(files) == _CROWD:
                    _close(files.pop(), id, durable)  # syncfs needs only one of them
        finally:
            try:
                if durable:
                    _flush_all(files, sent)
            finally:
                for file, id in zip(files, sent, strict=False):
                    _close(file, id, durable)
    except BaseException as error:
        error.sent = sent  # type: ignore[attr-defined]  # for the caller, whatever kind it is
        raise
    return sent


def _move_in(
    root: Root,
    to: str,
    id: str,
    data: bytes,
    answers: str | None,
    sender: Address | None,
    is_receipt: bool = False,
) -> int:
    """Write, rename: from then on it is delivered. Returns the open file, for the flush."""
    box, name = f"{root.path}/{to}", f"{id},S={len(data)}.json"
    folder = "new"
    held: Held = _BY_PATH
    try:
        try:
            if os.geteuid() == 0 and os.lstat(box).st_uid != 0:  # else no path leads anywhere else
                held = _hold(box, folder, id)
            if held is _BY_PATH:  # most messages: without the other arguments
                draft = f"{box}/tmp/{name}"
                file = os.open(draft, _NEW, 0o640)
            else:
                draft = name
                file = os.open(draft, _NEW, 0o640, dir_fd=held[1])
        except OSError as error:
            if is_receipt and isinstance(error, FileNotFoundError | NotADirectoryError):
                raise NotAwaited from None
            if isinstance(error, FileNotFoundError | NotADirectoryError) and _has_outbox(root, sender, box):
                box, folder, answers = f"{root.path}/{sender}", "outbox", None  # the relay finds out who waits
                _let_go(held)
                held = _BY_PATH
                if os.geteuid() == 0 and os.lstat(box).st_uid != 0:
                    held = _hold(box, folder, id)
            elif not isinstance(error, FileExistsError):
                raise
            file, draft = _draft(box, name, held[1])
        try:
            written = os.write(file, data)
            while written < len(data):  # a full disk is reported only by the write after the short one
                written += os.write(file, data[written:])
            os.fchmod(file, 0o640)  # a strict umask would keep it from its recipient
            if answers is None or not _answer(draft, box, name, answers, held):
                if is_receipt:
                    raise NotAwaited
                if held is _BY_PATH:
                    os.rename(draft, f"{box}/{folder}/{name}")  # this is the delivery
                else:
                    os.rename(draft, name, src_dir_fd=held[1], dst_dir_fd=held[2])
        except BaseException:
            _close(file, id, durable=True)
            with contextlib.suppress(OSError):
                os.unlink(draft, dir_fd=held[1])
            raise
    except StorageError:
        raise
    except OSError as error:
        raise _refused(root, to, id, error, sender) from error
    finally:
        if held is not _BY_PATH:
            _let_go(held)
    return file


def _hold(box: str, folder: str, id: str) -> Held:
    """Open the box of another uid, its `tmp/` and *folder*, for root.

    Raises PermissionDeniedError where one of them is a link or another uid's; OSError.
    """
    held: list[int] = []
    try:
        held.append(_place(box, None, None, box, id))
        owner = os.fstat(held[0]).st_uid
        for each in ("tmp", folder):
            held.append(_place(each, held[0], owner, f"{box}/{each}", id))
    except BaseException:
        _let_go(held)
        raise
    return held[0], held[1], held[2]


def _place(name: str, home: int | None, owner: int | None, path: str, id: str) -> int:
    """A folder of a box, which belongs to the uid *owner*, or the box itself, open. Raises as _hold() does."""
    try:
        place = os.open(name, _PLACE, dir_fd=home)
    except NotADirectoryError as error:
        from ..system.files import describe_type

        mode = os.stat(name, dir_fd=home, follow_symlinks=False).st_mode
        if home is None and not stat.S_ISLNK(mode):
            raise  # there is no box
        raise PermissionDeniedError(
            f"{quoted(path)} is {describe_type(mode)}, not a folder: root does not deliver there",
            error.errno,
            id,
            hint="the owner of the box can replace it by a folder; `mailbox doctor` shows more",
        ) from error
    found = os.fstat(place).st_uid
    if owner is not None and found != owner:
        os.close(place)
        raise PermissionDeniedError(
            f"{quoted(path)} belongs to the uid {found}, and the box to {owner}: root does not deliver there",
            errno.EPERM,
            id,
            hint="`mailbox doctor --fix`, as root, gives the folders of a box to its owner",
        )
    return place


def _let_go(held: Iterable[int | None]) -> None:
    for each in held:
        if each is not None:
            with contextlib.suppress(OSError):
                os.close(each)


def _has_outbox(root: Root, sender: Address | None, box: str) -> bool:
    """Return True if a relay carries the mail for *box*, which is not here."""
    return sender is not None and os.path.isdir(f"{root.path}/{sender}/outbox") and not os.path.isdir(box)


def _draft(box: str, name: str, tmp: int | None) -> tuple[int, str]:
    """A new file in `tmp/`, open, and its path: beside what a try that was killed may have left of this id."""
    draft = f"{name}.{os.urandom(6).hex()}"
    if tmp is None:
        draft = f"{box}/tmp/{draft}"
    return os.open(draft, _NEW, 0o640, dir_fd=tmp), draft


def _answer(draft: str, box: str, name: str, answers: str, held: Held) -> bool:
    """Move it to where the request *answers* is waited for; whether it is."""
    from ..system.files import close  # most messages answer nothing
    from . import replies

    waiting = replies.waits(box, answers, held[0])
    if waiting is None:
        return False
    try:
        os.rename(draft, name, src_dir_fd=held[1], dst_dir_fd=waiting)
    except FileNotFoundError:  # it was taken away meanwhile
        return False
    finally:
        close(waiting)  # the answer was delivered, whatever the disk reports now
    return True


def _refused(root: Root, to: str, id: str, error: OSError, sender: str | None) -> Exception:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return root.missing(to, sender)
    return storage_error(error, f"delivering to the box {quoted(to)}", id)


def _flush(file: int, id: str) -> None:
    # One flush, after the rename: it takes the new name along. Flushing first, as is usual, left acknowledged
    # messages nameless in simulated power cuts on ext4, XFS and btrfs, and needs a second flush, of a folder that a
    # sender may not even open.
    try:
        os.fsync(file)
    except OSError as error:
        raise _unflushed(error, id) from error


def _unflushed(error: OSError, id: str) -> DurabilityUnknownError:
    return DurabilityUnknownError(
        f"the message {id} was delivered, but the disk did not confirm it ({error.strerror}): "
        f"send it again with id={id!r}",
        error.errno,
        id,
    )


def _close(file: int, id: str, durable: bool) -> None:
    try:
        os.close(file)
    except OSError as error:
        if not durable:  # else it was flushed: an error now means nothing
            raise _unflushed(error, id) from error


def _flush_all(files: list[int], sent: list[str]) -> None:
    if len(sent) < _CROWD or not syncfs(files[-1]):
        if len(sent) >= _CROWD:
            os.sync()  # no syncfs in this C library
        failures = []
        for file, id in zip(files, sent, strict=False):
            try:
                _flush(file, id)
            except DurabilityUnknownError as error:  # the others can still be brought to safety
                failures.append(error)
        if failures:
            raise failures[0]


def syncfs(file: int) -> bool:
    """Flush the file system that the open *file* is on; whether this C library can. Raises DurabilityUnknownError."""
    import ctypes  # costs more to import than all else here, and only crowds need it

    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        return False
    if call(file) != 0:
        code = ctypes.get_errno()
        raise DurabilityUnknownError(
            f"the messages were delivered, but the disk did not confirm it ({os.strerror(code)})", code
        )
    return True


class _Waiting:
    """A message that was renamed, and whose thread waits for a flush."""

    __slots__ = ("file", "id", "is_flushed", "others", "turn")

    def __init__(self, file: int, id: str) -> None:
        self.file, self.id, self.is_flushed = file, id, False
        self.others: list[_Waiting] | None = None  # for the thread that flushes for them, too
        self.turn = allocate_lock()
        self.turn.acquire()


class _SharedFlush:
    """One flush for the messages of several threads (group commit).

    A few threads flush each its own message. Beyond them, while one thread flushes, others wait. When it has ended, one
    of them flushes for all that wait by then, with one syncfs(2), if they are enough for that; else each flushes its
    own. All of them were renamed before that flush began.
    """

    def __init__(self) -> None:
        self._busy = allocate_lock()  # held by the thread that flushes, or that was chosen to
        self._waiting: list[_Waiting] = []  # changed by append, pop and remove alone, which need no lock
        self._inside: set[int] = set()

    def flush(self, file: int, id: str) -> None:
        """Flush a file that was renamed. Raises DurabilityUnknownError."""
        thread = get_ident()
        if thread in self._inside:  # a signal handler has interrupted a flush, and must not wait for it
            return _flush(file, id)
        self._inside.add(thread)
        try:
            if len(self._inside) <= _FEW:
                return _flush(file, id)
            if not self._busy.acquire(False):
                return self._wait(_Waiting(file, id))
            try:
                return _flush(file, id)
            finally:
                self._busy.release()
                self._choose()
        finally:
            self._inside.discard(thread)

    def _wait(self, mine: _Waiting) -> None:
        self._waiting.append(mine)
        self._choose()  # the flush may have ended before the append
        try:
            mine.turn.acquire()
        except BaseException:  # of a signal handler
            try:
                self._waiting.remove(mine)
            except ValueError:  # too late: a flush for others depends on this thread, or needs the open file
                mine.turn.acquire()
                self._take_turn(mine)
            raise
        self._take_turn(mine)

    def _choose(self) -> None:
        """Choose one of those that wait to flush for all of them, unless a flush goes on."""
        while self._waiting and self._busy.acquire(False):
            batch: list[_Waiting] = []
            with contextlib.suppress(IndexError):
                while True:
                    batch.append(self._waiting.pop(0))
            if batch:
                batch[0].others = batch[1:]
                return batch[0].turn.release()
            self._busy.release()
        return None

    def _take_turn(self, mine: _Waiting) -> None:
        if mine.others is not None:
            try:
                if len(mine.others) + 1 >= _CROWD:
                    _flush_crowd([mine, *mine.others])
            finally:
                self._busy.release()
                for each in mine.others:
                    each.turn.release()
                self._choose()
        if not mine.is_flushed:
            _flush(mine.file, mine.id)


def _flush_crowd(batch: list[_Waiting]) -> None:
    """Flush each file system with a crowd of messages once. Where that fails, each flushes its own and sees why."""
    disks: dict[int, list[_Waiting]] = {}
    for each in batch:
        disks.setdefault(os.fstat(each.file).st_dev, []).append(each)
    for crowd in disks.values():
        with contextlib.suppress(DurabilityUnknownError):
            if len(crowd) >= _CROWD and syncfs(crowd[0].file):
                for each in crowd:
                    each.is_flushed = True


def _renew_after_fork() -> None:
    global _shared_flush
    _shared_flush = _SharedFlush()  # the threads that hold the other stayed with the parent


_shared_flush = _SharedFlush()
os.register_at_fork(after_in_child=_renew_after_fork)
