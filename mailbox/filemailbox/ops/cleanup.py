"""What is left over in a box, and taking it away.

Whether something is left over is never judged by age alone where a lock can tell; drafts and notes, which have no lock,
are given 36 hours, as in Maildir.

Root does this with the rights of the box's owner, and everybody by descriptors: the folders of a box are opened once,
never through a link, and are the owner's. What is found, and how it is taken away, is data: it may come from a process
of the owner's.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from .. import log
from ..errors import MailboxError, PermissionDeniedError, StorageError, quoted, storage_error, translated_errors
from ..format.address import Address
from ..format.filename import is_id, lease_deadline, split_timed
from ..format.order import is_mail
from ..format.timestamp import to_timestamp
from ..receive.status import consumer_of
from ..store.consumer_folder import move_all, recover
from ..store.ids import timestamp_now
from ..store.junk import KEPT, mail_in, remove
from ..store.junk import old as old_junk
from ..store.layout import MARKER, NEW_SWAP_PREFIX
from ..store.ledger import DRAFT
from ..store.permissions import set_mode_and_owner
from ..store.removed_boxes import close_attic, count_mail, discard_removed, removed_dir
from ..store.root import Root
from ..store.spool import TMP_MAX_AGE
from ..system import as_owner
from ..system.as_owner import at, opened
from ..system.files import EXCHANGE, list_dir, rename
from ..system.locks import is_held, taken
from ..system.mounts import mount_of
from ..wake.doorbell import has_listener

_BLOATED: Final = 1 << 20  # bytes of a folder from which on shrinking is worth it
_ENTRY: Final = 256  # bytes of a folder that an entry is granted
_IN_FLIGHT: Final = 0.1  # seconds that a rename of a sender may take from the name of the folder to the folder
_INSISTENT: Final = 10.0  # seconds after which the old folder is left to one who keeps putting mail into it

Step: TypeAlias = tuple[str, str, str, str]
"""What it is; the folder of the box in which it lies, empty for the box itself; its name; which of `_HOW` takes it
away."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something to take away: what it is, and how."""

    what: str
    path: str
    how: Callable[[], object]

    def clear(self) -> None:
        """Take it away. Raises StorageError and its kin where that cannot be."""
        with (
            translated_errors(f"taking away {quoted(self.path)}"),
            contextlib.suppress(FileNotFoundError),
        ):  # it went by itself
            self.how()


def find_garbage(root: Root, address: Address, older_than: float | None = None) -> Iterator[Garbage]:
    """What is left over in a box, handled mail included that was kept for more than *older_than* seconds.

    Nothing is touched before its `clear` is called. Raises BoxNotFoundError, PermissionDeniedError.
    """
    for left, _ in _swept(root, address, older_than, clear=False):
        yield left


def sweep(root: Root, address: Address, older_than: float | None = None) -> Iterator[tuple[Garbage, Exception | None]]:
    """Take away what is left over in a box: each, and why it could not be, if so. Raises BoxNotFoundError, "
    "PermissionDeniedError."""
    return _swept(root, address, older_than, clear=True)


def _swept(
    root: Root, address: Address, older_than: float | None, *, clear: bool
) -> Iterator[tuple[Garbage, Exception | None]]:
    path = root.box(address)
    try:
        with opened(path) as box:
            job = partial(_steps, box, path, older_than, clear)
            for (what, folder, name, how), why in as_owner.stream(box, job):
                step = (what, folder, name, how)
                error = as_owner.raised(why) if why is not None else None
                yield Garbage(what, _path(path, step), partial(_clear, path, step)), error
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        if isinstance(error, FileNotFoundError) and not os.path.lexists(path):
            raise root.missing(address) from error
        raise storage_error(error, f"sweeping the box {quoted(address)}") from error


def _steps(box: int, path: str, older_than: float | None, clear: bool) -> Iterator[tuple[Step, dict[str, Any] | None]]:
    """As the owner: what is left over, each taken away at once with *clear*. One that resists stops no other."""
    for step in _found(box, path, older_than):
        why = None
        if clear:
            try:
                _take_away(box, step)
            except FileNotFoundError:
                pass  # it went by itself
            except (MailboxError, OSError) as error:
                doing = f"taking away {quoted(_path(path, step))}"
                why = as_owner.flat(error if isinstance(error, MailboxError) else storage_error(error, doing))
        yield step, why


def _found(box: int, path: str, older_than: float | None) -> Iterator[Step]:
    owner = os.fstat(box).st_uid
    yield from _replaced(box)
    yield from _junk(box)
    with opened("tmp", box, owner) as tmp:
        yield from _drafts(tmp)
    with opened("cur", box, owner) as cur, opened("ledger", box, owner) as ledger:
        yield from _half_made(cur, ledger)
        yield from _leases(cur)
        yield from _requests(box, cur)
        with opened("run", box, owner) as run:
            yield from _bells(run, cur)
        with opened("dead", box, owner) as dead:
            yield from _notes(dead)
        with opened("done", box, owner) as done:
            yield from _done(done, older_than)
        yield from _consumers(cur)
    yield from _bloated(box, path)


def _path(box: str, step: Step) -> str:
    return "/".join(filter(None, (box, step[1], step[2])))


def _clear(path: str, step: Step) -> None:
    with opened(path) as box:
        as_owner.call(box, partial(_take_away, box, step))


def _take_away(box: int, step: Step) -> None:
    """As the owner: do one step. Everything is opened anew, and may have become something else."""
    _, place, name, how = step
    if place:
        with opened(place, box, os.fstat(box).st_uid) as folder:
            _HOW[how](box, folder, name)
    else:
        _HOW[how](box, box, name)


def _drafts(tmp: int) -> Iterator[Step]:
    for name, facts in _entries(tmp):
        if time.time() - facts.st_mtime > TMP_MAX_AGE:
            how = "rmdir" if stat.S_ISDIR(facts.st_mode) else "unlink"  # one that a stranger has filled stays
            yield "a draft that nobody touched for 36 hours", "tmp", name, how


def root_garbage(root: Root, older_than: float | None = None) -> Iterator[Garbage]:
    """What is left over in the root, beside its boxes. Kept boxes that hold mail are no leftovers.

    Documents that were removed more than *older_than* seconds ago are.

    Nothing is touched before its `clear` is called. Raises PermissionDeniedError and its kin.
    """
    try:
        with opened(root.path, follow=True) as folder:
            for name, facts in _entries(folder):
                if name.startswith(f"{MARKER}.") and time.time() - facts.st_mtime > TMP_MAX_AGE:
                    path = f"{root.path}/{name}"
                    yield Garbage("the mark of a root, half written", path, partial(_clear_root, root, name))
        if os.access(root.removed_dir, os.R_OK | os.W_OK | os.X_OK):
            with removed_dir(root) as kept:
                for name, _ in _entries(kept):
                    if not count_mail(at(kept, name)):
                        path = f"{root.removed_dir}/{name}"
                        yield Garbage("a removed box without mail", path, partial(discard_removed, root, name))
                if not list_dir(kept):
                    empty = partial(close_attic, root)
                    yield Garbage("the folder of removed boxes, which is empty", root.removed_dir, empty)
        from ..documents.upkeep import garbage  # a root without documents needs none of that

        yield from (Garbage(each.what, each.path, each.how) for each in garbage(root, older_than))
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error(error, f"sweeping the root {quoted(root.path)}") from error


def _clear_root(root: Root, name: str) -> None:
    with opened(root.path, follow=True) as folder:
        os.unlink(name, dir_fd=folder)


def _replaced(box: int) -> Iterator[Step]:
    """Folders that were `new/`, or were about to be, when whoever exchanged them was killed."""
    for name, facts in _entries(box):
        if name.startswith(NEW_SWAP_PREFIX) and stat.S_ISDIR(facts.st_mode):
            with opened(name, box, os.fstat(box).st_uid) as replaced:
                mail = len(mail_in(replaced))
            if mail:
                yield f"{_messages(mail)} in a folder that was new/: to come back", "", name, "move"
            elif time.time() - facts.st_mtime > TMP_MAX_AGE:
                yield "a folder that was new/", "", name, "remove junk"


def _junk(box: int) -> Iterator[Step]:
    """What has lain in `new/` for 36 hours and is no mail; folders that were `new/` and hold nothing else."""
    kept = sorted(name for name in list_dir(box) if name.startswith(KEPT))
    for name in ("new", *kept):
        gone = contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError, PermissionDeniedError)
        with gone, opened(name, box, os.fstat(box).st_uid) as folder:
            if found := len(old_junk(folder)):
                what = f"{found} thing{'s' if found > 1 else ''} in new/ that nobody took for 36 hours"
                yield what, "", name, "remove junk"
            elif name != "new" and not list_dir(folder):
                yield "a folder that was new/", "", name, "rmdir"


def _half_made(cur: int, ledger: int) -> Iterator[Step]:
    """What was being made or taken away when its process was killed: nobody looks for it under such a name."""
    for place, folder in (("cur", cur), ("ledger", ledger)):
        for name, facts in _entries(folder):
            if time.time() - facts.st_mtime <= TMP_MAX_AGE:
                continue
            if name.startswith(".") and lease_deadline(name[1:]) is not None:
                yield "the folder of a consumer, half made", place, name, "half made"
            elif name.endswith(DRAFT):
                yield "a page of the ledger, half written", place, name, "unlink"


def _leases(cur: int) -> Iterator[Step]:
    """What consumers held that are gone; a consumer that comes finds it by itself, this only does it now."""
    for name in sorted(list_dir(cur)):
        deadline = lease_deadline(name)
        if deadline is None or deadline > timestamp_now():
            continue
        with contextlib.suppress(FileNotFoundError), opened(name, cur, os.fstat(cur).st_uid) as folder:
            mail = 0 if is_held(".lock", folder) else sum(map(is_mail, list_dir(folder)))
            if mail:
                whose = f"a lease that ran out at {deadline}" if deadline else "a consumer that is gone"
                yield f"{_messages(mail)} of {whose}: to come back", "cur", name, "recover"


def _requests(box: int, cur: int) -> Iterator[Step]:
    """Locks of requests whose asker is gone. Their folders are the consumers' to sweep: answers may lie there."""
    with opened("replies", box, os.fstat(box).st_uid) as replies:
        for name in sorted(list_dir(cur)):
            request = name.removeprefix(".").removesuffix(".lock")
            if name != f".{request}.lock" or not is_id(request) or _is_there(request, replies):
                continue
            if not is_held(name, cur):
                yield "the lock of a request that nobody waits for", "cur", name, "unlock"


def _bells(run: int, cur: int) -> Iterator[Step]:
    for name, facts in _entries(run):
        if stat.S_ISSOCK(facts.st_mode) and time.time() - facts.st_mtime > 60 and not has_listener(at(run, name)):
            yield "a bell that nobody hears", "run", name, "unlink"
        consumer = consumer_of(name)
        if consumer is not None and not is_held(f"{consumer}/.lock", cur):
            how = "rmdir" if stat.S_ISDIR(facts.st_mode) else "unlink"
            yield "what a listener that is gone said of itself", "run", name, how


def _notes(dead: int) -> Iterator[Step]:
    for name, facts in _entries(dead):
        letter = name.removesuffix(".why") + ".json"
        if name.endswith(".why") and not _is_there(letter, dead) and time.time() - facts.st_mtime > TMP_MAX_AGE:
            yield "a note without a dead letter", "dead", name, "unlink"


def _done(done: int, older_than: float | None) -> Iterator[Step]:
    if older_than is None:
        return
    limit = to_timestamp(time.time_ns() - int(older_than * 1e9))
    for name in sorted(list_dir(done)):
        parts = split_timed(name)
        if parts and parts[0] < limit:
            yield "a message handled long enough ago", "done", name, "unlink"


def _consumers(cur: int) -> Iterator[Step]:
    """Free folders of consumers but one: the last is needed to drain a volume that is full."""
    free, held = [], 0
    for name in sorted(list_dir(cur)):
        deadline = lease_deadline(name)
        if deadline is None or deadline > timestamp_now():
            continue
        with contextlib.suppress(FileNotFoundError), opened(name, cur, os.fstat(cur).st_uid) as folder:
            if is_held(".lock", folder):
                held += not deadline
            elif not any(map(is_mail, list_dir(folder))):
                free.append(name)
    plain = [name for name in free if not lease_deadline(name)]
    keep = plain[0] if plain else None  # one that is taken may be a lease by the time that it is needed
    for name in free:
        if name != keep and (keep or held):
            yield "the folder of a consumer that is gone", "cur", name, "consumer"


def _bloated(box: int, path: str) -> Iterator[Step]:
    """Folders that were full once: ext4 never makes them smaller, and every look reads all of it."""
    with opened("new", box, os.fstat(box).st_uid) as new:
        size = os.fstat(new).st_size
        full = size >= _BLOATED and _file_system(f"{path}/new").startswith("ext")
        if full and len(list_dir(new)) * _ENTRY < size // 4:
            yield f"{size // 1024} KiB of folder for a few messages", "", "new", "shrink"


def shrink(path: str) -> None:
    """Put a fresh folder in the place of `new/` of the box at *path*, in one step: there is never a moment without one.

    What was in the old one is moved over, also what senders who had its name already still put there. One who holds it
    open can go on with that for ever: then it stays, and what lies there comes back as after a crash in between, by the
    consumers' hourly look or the next gc. Raises OSError where the kernel cannot.
    """
    with opened(path) as box:
        as_owner.call(box, partial(_shrink, box, box, "new"))


def _shrink(box: int, _: int, name: str) -> None:
    fresh, owner = f"{NEW_SWAP_PREFIX}{os.urandom(6).hex()}", os.fstat(box).st_uid
    with contextlib.ExitStack() as folders:
        old = folders.enter_context(opened(name, box, owner))
        facts = os.fstat(old)
        os.mkdir(fresh, 0o700, dir_fd=box)
        try:
            set_mode_and_owner(at(box, fresh), stat.S_IMODE(facts.st_mode), (facts.st_uid, facts.st_gid))
            new = folders.enter_context(opened(fresh, box, owner))
            rename(at(box, fresh), at(box, name), EXCHANGE)
        except OSError:
            os.rmdir(fresh, dir_fd=box)
            raise
        move_all(old, new)
        time.sleep(_IN_FLIGHT)
        until = time.monotonic() + _INSISTENT
        while time.monotonic() < until:
            move_all(old, new)
            try:
                os.rmdir(fresh, dir_fd=box)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if not mail_in(old):
                    return  # only junk is left: see Aside
            else:
                return
    log.warning("%s was new/ before, and somebody still puts mail into it: that comes back late", quoted(fresh))


def _move(box: int, _: int, name: str) -> None:
    owner = os.fstat(box).st_uid
    with opened(name, box, owner) as old, opened("new", box, owner) as new:
        move_all(old, new)


def _recover_claims(box: int, cur: int, name: str) -> None:
    """Under the lock of the folder: a consumer that has come meanwhile does it itself."""
    owner = os.fstat(box).st_uid
    with opened(name, cur, owner) as folder, opened("later", box, owner) as later, taken(".lock", folder) as free:
        if free:
            recover(folder, later, os.path.basename(os.readlink(at(box))))


def _remove_consumer(_: int, cur: int, name: str) -> None:
    """Under its lock, and under another name first: whoever has opened the lock meanwhile finds no folder any more."""
    with opened(name, cur, os.fstat(cur).st_uid) as folder, taken(".lock", folder) as free:
        if free and not any(map(is_mail, list_dir(folder))):
            gone = f".{name}"
            os.rename(name, gone, src_dir_fd=cur, dst_dir_fd=cur)
            os.unlink(".lock", dir_fd=folder)
            os.rmdir(gone, dir_fd=cur)


def _remove_half_made(_: int, place: int, name: str) -> None:
    with opened(name, place, os.fstat(place).st_uid) as folder, contextlib.suppress(FileNotFoundError):
        os.unlink(".lock", dir_fd=folder)
    os.rmdir(name, dir_fd=place)


def _unlock(_: int, cur: int, name: str) -> None:
    with taken(name, cur) as free:
        if free:
            os.unlink(name, dir_fd=cur)


def _unlink(_: int, folder: int, name: str) -> None:
    os.unlink(name, dir_fd=folder)


def _rmdir(_: int, folder: int, name: str) -> None:
    os.rmdir(name, dir_fd=folder)


def _remove_junk(box: int, _: int, name: str) -> None:
    """Take away what is old there; the folder, too, where it was `new/` and is empty then."""
    with opened(name, box, os.fstat(box).st_uid) as folder:
        remove(folder, old_junk(folder))
        if name != "new" and not mail_in(folder):
            os.rmdir(name, dir_fd=box)


_HOW: Final[dict[str, Callable[[int, int, str], None]]] = {
    "unlink": _unlink,
    "rmdir": _rmdir,
    "move": _move,
    "half made": _remove_half_made,
    "recover": _recover_claims,
    "unlock": _unlock,
    "consumer": _remove_consumer,
    "shrink": _shrink,
    "remove junk": _remove_junk,
}


def _entries(folder: int) -> Iterator[tuple[str, os.stat_result]]:
    for name in list_dir(folder):
        with contextlib.suppress(FileNotFoundError):
            yield name, os.stat(name, dir_fd=folder, follow_symlinks=False)


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _file_system(path: str) -> str:
    mount = mount_of(path)
    return mount.kind if mount else ""


def _messages(count: int) -> str:
    return f"{count} message{'s' if count != 1 else ''}"
