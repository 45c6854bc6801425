"""What is left over in a box, and taking it away.

Whether something is left over is never judged by age alone where a lock can tell; drafts and notes, which have no lock,
are given 36 hours, as in Maildir.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from . import log, names
from .doorbell import hears
from .errors import Telling, quoted, storage
from .files import EXCHANGE, FOLDER, rename
from .junk import KEPT, mail_in, old, remove
from .ledger import DRAFT
from .locks import Lock, is_held
from .mounts import mount_of
from .names import Address
from .order import is_mail
from .place import move_all
from .root import MARKER, REPLACED, Root, count_mail, discard, own
from .rules import Rules
from .spool import ABANDONED, Taker

_BLOATED: Final = 1 << 20  # bytes of a folder from which on shrinking is worth it
_ENTRY: Final = 256  # bytes of a folder that an entry is granted
_IN_FLIGHT: Final = 0.1  # seconds that a rename of a sender may take from the name of the folder to the folder
_INSISTENT: Final = 10.0  # seconds after which the old folder is left to one who keeps putting mail into it


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something to take away: what it is, and how."""

    what: str
    path: str
    how: Callable[[], object]

    def clear(self) -> None:
        """Take it away. Raises Storage and its kin where that cannot be."""
        with Telling(f"taking away {quoted(self.path)}"), contextlib.suppress(FileNotFoundError):  # it went by itself
            self.how()


def leftovers(root: Root, address: Address, older_than: float | None = None) -> Iterator[Leftover]:
    """What is left over in a box, handled mail included that was kept for more than *older_than* seconds.

    Nothing is touched before its `clear` is called. Raises NoBox, Forbidden.
    """
    box = root.box(address)
    if not os.path.isdir(box):
        raise root.missing(address)
    try:
        yield from _replaced(box)
        yield from _junk(box)
        yield from _drafts(box)
        yield from _half_made(box)
        yield from _leases(root, address, box)
        yield from _requests(box)
        yield from _bells(box)
        yield from _notes(box)
        yield from _done(box, older_than)
        yield from _consumers(box)
        yield from _bloated(box)
    except FileNotFoundError as error:
        raise root.missing(address) from error
    except OSError as error:
        raise storage(error, f"sweeping the box {quoted(address)}") from error


def _drafts(box: str) -> Iterator[Leftover]:
    for path, facts in _entries(f"{box}/tmp"):
        if time.time() - facts.st_mtime > ABANDONED:
            yield Leftover("a draft that nobody touched for 36 hours", path, partial(_unlink, path))


def of_root(root: Root) -> Iterator[Leftover]:
    """What is left over in the root, beside its boxes. Kept boxes that hold mail are no leftovers.

    Nothing is touched before its `clear` is called. Raises Forbidden and its kin.
    """
    try:
        for path, facts in _entries(root.path):
            name = os.path.basename(path)
            if name.startswith(f"{MARKER}.") and time.time() - facts.st_mtime > ABANDONED:
                yield Leftover("the mark of a root, half written", path, partial(_unlink, path))
        for path, _ in _entries(root.attic) if os.access(root.attic, os.R_OK | os.W_OK | os.X_OK) else ():
            if not count_mail(path):
                yield Leftover("a removed box without mail", path, partial(discard, root, path))
        if os.access(root.attic, os.R_OK) and not os.listdir(root.attic):
            yield Leftover("the folder of removed boxes, which is empty", root.attic, partial(os.rmdir, root.attic))
    except OSError as error:
        raise storage(error, f"sweeping the root {quoted(root.path)}") from error


def _replaced(box: str) -> Iterator[Leftover]:
    """Folders that were `new/`, or were about to be, when whoever exchanged them was killed."""
    for path, facts in _entries(box):
        if os.path.basename(path).startswith(REPLACED):
            if mail := len(mail_in(path)):
                move = partial(move_all, path, f"{box}/new")
                yield Leftover(f"{_messages(mail)} in a folder that was new/: to come back", path, move)
            elif time.time() - facts.st_mtime > ABANDONED:
                yield Leftover("a folder that was new/", path, partial(_remove_junk, path, whole=True))


def _junk(box: str) -> Iterator[Leftover]:
    """What has lain in `new/` for 36 hours and is no mail; folders that were `new/` and hold nothing else."""
    kept = [f"{box}/{name}" for name in sorted(os.listdir(box)) if name.startswith(KEPT)]
    for path in (f"{box}/new", *kept):
        whole = path != f"{box}/new"
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            folder = os.open(path, FOLDER)
            try:
                if found := len(old(folder)):
                    what = f"{found} thing{'s' if found > 1 else ''} in new/ that nobody took for 36 hours"
                    yield Leftover(what, path, partial(_remove_junk, path, whole=whole))
                elif whole and not os.listdir(folder):
                    yield Leftover("a folder that was new/", path, partial(os.rmdir, path))
            finally:
                os.close(folder)


def _remove_junk(path: str, *, whole: bool) -> None:
    """Take away what is old there; the folder, too, where it is empty then."""
    folder = os.open(path, FOLDER)
    try:
        remove(folder, old(folder))
    finally:
        os.close(folder)
    if whole and not mail_in(path):
        os.rmdir(path)


def _half_made(box: str) -> Iterator[Leftover]:
    """What was being made or taken away when its process was killed: nobody looks for it under such a name."""
    for path, facts in (*_entries(f"{box}/cur"), *_entries(f"{box}/ledger")):
        name = os.path.basename(path)
        if time.time() - facts.st_mtime <= ABANDONED:
            continue
        if name.startswith(".") and names.deadline_of(name[1:]) is not None:
            yield Leftover("the folder of a consumer, half made", path, partial(_remove_half_made, path))
        elif name.endswith(DRAFT):
            yield Leftover("a page of the ledger, half written", path, partial(_unlink, path))


def _leases(root: Root, address: Address, box: str) -> Iterator[Leftover]:
    """What consumers held that are gone; a consumer that comes finds it by itself, this only does it now."""
    for folder in sorted(os.listdir(f"{box}/cur")):
        deadline, path = names.deadline_of(folder), f"{box}/cur/{folder}"
        if deadline is None or deadline > names.now() or is_held(f"{path}/.lock"):
            continue
        with contextlib.suppress(FileNotFoundError):
            mail = sum(map(is_mail, os.listdir(path)))
            if mail:
                whose = f"a lease that ran out at {deadline}" if deadline else "a consumer that is gone"
                yield Leftover(f"{_messages(mail)} of {whose}: to come back", path, partial(_recover, root, address))


def _requests(box: str) -> Iterator[Leftover]:
    """Locks of requests whose asker is gone. Their folders are the consumers' to sweep: answers may lie there."""
    for name in sorted(os.listdir(f"{box}/cur")):
        request = name.removeprefix(".").removesuffix(".lock")
        path = f"{box}/cur/{name}"
        if name == f".{request}.lock" and names.is_id(request) and not os.path.exists(f"{box}/replies/{request}"):
            lock = Lock(path)
            if lock.take():
                lock.release()
                yield Leftover("the lock of a request that nobody waits for", path, partial(_unlock, path))


def _bells(box: str) -> Iterator[Leftover]:
    for path, facts in _entries(f"{box}/run"):
        name = os.path.basename(path)
        if stat.S_ISSOCK(facts.st_mode) and time.time() - facts.st_mtime > 60 and not hears(path):
            yield Leftover("a bell that nobody hears", path, partial(_unlink, path))
        consumer = name.removeprefix("status-").removesuffix(".json")
        if name == f"status-{consumer}.json" and not is_held(f"{box}/cur/{consumer}/.lock"):
            yield Leftover("what a listener that is gone said of itself", path, partial(_unlink, path))


def _notes(box: str) -> Iterator[Leftover]:
    for path, facts in _entries(f"{box}/dead"):
        letter = path.removesuffix(".why") + ".json"
        if path.endswith(".why") and not os.path.lexists(letter) and time.time() - facts.st_mtime > ABANDONED:
            yield Leftover("a note without a dead letter", path, partial(_unlink, path))


def _done(box: str, older_than: float | None) -> Iterator[Leftover]:
    if older_than is None:
        return
    limit = names.stamp(time.time_ns() - int(older_than * 1e9))
    for name in sorted(os.listdir(f"{box}/done")):
        parts = names.untimed(name)
        if parts and parts[0] < limit:
            path = f"{box}/done/{name}"
            yield Leftover("a message handled long enough ago", path, partial(_unlink, path))


def _consumers(box: str) -> Iterator[Leftover]:
    """Free folders of consumers but one: the last is needed to drain a volume that is full."""
    free, taken = [], 0
    for name in sorted(os.listdir(f"{box}/cur")):
        deadline, path = names.deadline_of(name), f"{box}/cur/{name}"
        if deadline is None or deadline > names.now():
            continue
        if is_held(f"{path}/.lock"):
            taken += not deadline
        elif not any(map(is_mail, os.listdir(path))):
            free.append(path)
    plain = [path for path in free if not names.deadline_of(os.path.basename(path))]
    keep = plain[0] if plain else None  # one that is taken may be a lease by the time that it is needed
    for path in free:
        if path != keep and (keep or taken):
            yield Leftover("the folder of a consumer that is gone", path, partial(_remove_consumer, path))


def _bloated(box: str) -> Iterator[Leftover]:
    """Folders that were full once: ext4 never makes them smaller, and every look reads all of it."""
    path = f"{box}/new"
    size = os.stat(path).st_size
    if size >= _BLOATED and _file_system(path).startswith("ext") and len(os.listdir(path)) * _ENTRY < size // 4:
        yield Leftover(f"{size // 1024} KiB of folder for a few messages", path, partial(shrink, box))


def shrink(box: str) -> None:
    """Put a fresh folder in the place of `new/`, in one step: there is never a moment without one.

    What was in the old one is moved over, also what senders who had its name already still put there. One who holds it
    open can go on with that for ever: then it stays, and what lies there comes back as after a crash in between, by the
    consumers' hourly look or the next gc. Raises OSError where the kernel cannot.
    """
    new, fresh = f"{box}/new", f"{box}/{REPLACED}{os.urandom(6).hex()}"
    facts = os.stat(new)
    os.mkdir(fresh, 0o700)
    try:
        own(fresh, stat.S_IMODE(facts.st_mode), (facts.st_uid, facts.st_gid))
        rename(fresh, new, EXCHANGE)
    except OSError:
        os.rmdir(fresh)
        raise
    move_all(fresh, new)  # from here on it is the old one
    time.sleep(_IN_FLIGHT)
    until = time.monotonic() + _INSISTENT
    while time.monotonic() < until:
        move_all(fresh, new)
        try:
            os.rmdir(fresh)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not mail_in(fresh):
                return  # only junk is left: see Aside
        else:
            return
    log.warning("%s was new/ before, and somebody still puts mail into it: that comes back late", quoted(fresh))


def _recover(root: Root, address: Address) -> None:
    taker = Taker(root, address, Rules())
    try:
        taker.begin()
    finally:
        taker.close()


def _remove_consumer(path: str) -> None:
    """Under its lock, and under another name first: whoever has opened the lock meanwhile finds no folder any more."""
    lock = Lock(f"{path}/.lock")
    if not lock.take():
        return
    try:
        if any(map(is_mail, os.listdir(path))):
            return
        gone = f"{os.path.dirname(path)}/.{os.path.basename(path)}"
        os.rename(path, gone)
        _unlink(f"{gone}/.lock")
        os.rmdir(gone)
    finally:
        lock.release()


def _remove_half_made(path: str) -> None:
    _unlink(f"{path}/.lock")
    os.rmdir(path)


def _unlock(path: str) -> None:
    lock = Lock(path)
    if lock.take():
        _unlink(path)
        lock.release()


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _entries(path: str) -> Iterator[tuple[str, os.stat_result]]:
    folder = os.open(path, FOLDER)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    yield f"{path}/{entry.name}", entry.stat(follow_symlinks=False)
    finally:
        os.close(folder)


def _file_system(path: str) -> str:
    mount = mount_of(path)
    return mount.kind if mount else ""


def _messages(count: int) -> str:
    return f"{count} message{'s' if count != 1 else ''}"
