"""Cleanup: find the garbage in a box, and remove it.

Where a lock exists, the lock decides. Age decides only for temporary files and notes, which have no lock: they are kept
for 36 hours, as in Maildir.

Root works with the rights of the box's owner. All work is done on descriptors: each folder of a box is opened once,
without following links, and must belong to the owner. The garbage and the way to remove it are data, because a process
of the owner's may have found it.

More than 400 lines, because each kind of garbage has a finder and a remover, and both must agree.
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
from ..format.filename import is_id, lease_deadline, split_timed
from ..format.order import is_mail
from ..format.timestamp import to_timestamp
from ..format.wording import counted
from ..receive.status import consumer_of
from ..store.answerable import HANDLED
from ..store.box_settings import SETTINGS
from ..store.consumer_folder import move_all, recover
from ..store.ids import timestamp_now
from ..store.junk import KEPT, mail_in, remove
from ..store.junk import old as old_junk
from ..store.layout import MARKER, NEW_SWAP_PREFIX, is_session_file
from ..store.ledger import DRAFT
from ..store.permissions import set_mode_and_owner
from ..store.removed_boxes import count_mail, discard_removed, remove_empty_folder, removed_dir
from ..store.root import Box, Root
from ..store.spool import TMP_MAX_AGE
from ..system import as_owner
from ..system.as_owner import at, opened
from ..system.files import EXCHANGE, list_dir, rename
from ..system.locks import is_held, taken
from ..system.mounts import mount_of
from ..wake.doorbell import has_listener

_BLOATED: Final = 1 << 20  # bytes of a folder: smaller ones are not shrunk
_ENTRY: Final = 256  # bytes of a folder for one entry, generously
_IN_FLIGHT: Final = 0.1  # seconds from the moment at which a rename has looked up the old folder until it is done
_MAX_DRAIN: Final = 10.0  # seconds for which a folder is emptied into which a sender keeps putting mail

Step: TypeAlias = tuple[str, str, str, str]
"""A description; the folder of the box that holds the garbage, empty for the box itself; its name; a key of
`_REMOVERS`."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something that can be removed."""

    description: str
    path: str
    action: Callable[[], object]

    def remove(self) -> None:
        """Remove it. Does nothing if it has gone meanwhile. Raises StorageError and its kin."""
        with translated_errors(f"removing {quoted(self.path)}"), contextlib.suppress(FileNotFoundError):
            self.action()

    def as_dict(self) -> dict[str, str]:
        """Return it as JSON has it."""
        return {"description": self.description, "path": self.path}


def find_garbage(box: Box, older_than: float | None = None) -> Iterator[Garbage]:
    """Yield the garbage of a box, including handled mail kept for more than *older_than* seconds.

    Nothing is changed until its `remove` is called. Raises BoxNotFoundError, PermissionDeniedError.
    """
    for garbage, _ in _collected(box, older_than, remove=False):
        yield garbage


def remove_garbage(box: Box, older_than: float | None = None) -> Iterator[tuple[Garbage, Exception | None]]:
    """Remove the garbage of a box. Yields each piece, and the error if it could not be removed.

    Raises BoxNotFoundError, PermissionDeniedError.
    """
    return _collected(box, older_than, remove=True)


def _collected(box: Box, older_than: float | None, *, remove: bool) -> Iterator[tuple[Garbage, Exception | None]]:
    path = box.path
    try:
        with opened(path) as folder_fd:
            job = partial(_steps, folder_fd, path, older_than, remove)
            for (description, folder, name, remover), why in as_owner.stream(folder_fd, job):
                step = (description, folder, name, remover)
                error = as_owner.raised(why) if why is not None else None
                yield Garbage(description, _path(path, step), partial(_remove, path, step)), error
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        if isinstance(error, FileNotFoundError) and not os.path.lexists(path):
            raise box.missing() from error
        raise storage_error(error, f"cleaning up the box {quoted(box.address)}") from error


def _steps(box: int, path: str, older_than: float | None, remove: bool) -> Iterator[tuple[Step, dict[str, Any] | None]]:
    """As the owner: yield the garbage, and remove each at once if *remove*. A failure stops no other."""
    for step in _found(box, path, older_than):
        why = None
        if remove:
            try:
                _remove_step(box, step)
            except FileNotFoundError:
                pass  # it has gone meanwhile
            except (MailboxError, OSError) as error:
                doing = f"removing {quoted(_path(path, step))}"
                why = as_owner.flat(error if isinstance(error, MailboxError) else storage_error(error, doing))
        yield step, why


def _found(box: int, path: str, older_than: float | None) -> Iterator[Step]:
    owner = os.fstat(box).st_uid
    yield from _replaced(box)
    yield from _junk(box)
    yield from _half_written(box)
    with opened("tmp", box, owner) as tmp:
        yield from _temporary_files(tmp)
    with opened("cur", box, owner) as cur, opened("ledger", box, owner) as ledger:
        yield from _half_made(cur, ledger)
        yield from _leases(cur)
        yield from _requests(box, cur)
        with opened("run", box, owner) as run:
            yield from _doorbells(run, cur)
        with opened("dead", box, owner) as dead:
            yield from _notes(dead)
        with opened("done", box, owner) as done:
            yield from _done(done, older_than)
        yield from _consumers(cur)
    yield from _bloated(box, path)


def _path(box: str, step: Step) -> str:
    return "/".join(filter(None, (box, step[1], step[2])))


def _remove(path: str, step: Step) -> None:
    with opened(path) as box:
        as_owner.call(box, partial(_remove_step, box, step))


def _remove_step(box: int, step: Step) -> None:
    """As the owner: do one step. Every folder is opened again, because it may have been replaced meanwhile."""
    _, folder, name, remover = step
    if folder:
        with opened(folder, box, os.fstat(box).st_uid) as dir_fd:
            _REMOVERS[remover](box, dir_fd, name)
    else:
        _REMOVERS[remover](box, box, name)


def _temporary_files(tmp: int) -> Iterator[Step]:
    for name, st in _entries(tmp):
        if time.time() - st.st_mtime > TMP_MAX_AGE:
            remover = "rmdir" if stat.S_ISDIR(st.st_mode) else "unlink"  # a folder that another uid has filled stays
            yield "a temporary file unchanged for 36 hours", "tmp", name, remover


def root_garbage(root: Root, older_than: float | None = None) -> Iterator[Garbage]:
    """Yield the garbage in the root, beside its boxes. Removed boxes that hold mail are not garbage, and documents
    removed more than *older_than* seconds ago are.

    Nothing is changed until its `remove` is called. Raises PermissionDeniedError and its kin.
    """
    try:
        with opened(root.path, follow=True) as folder:
            for name, st in _entries(folder):
                if name.startswith(f"{MARKER}.") and time.time() - st.st_mtime > TMP_MAX_AGE:
                    path = f"{root.path}/{name}"
                    yield Garbage("a half-written marker of the root", path, partial(_remove_marker, root, name))
        if os.access(root.removed_dir, os.R_OK | os.W_OK | os.X_OK):
            with removed_dir(root) as kept:
                for name, _ in _entries(kept):
                    if not count_mail(at(kept, name)):
                        path = f"{root.removed_dir}/{name}"
                        yield Garbage("a removed box without mail", path, partial(discard_removed, root, name))
                if not list_dir(kept):
                    empty = partial(remove_empty_folder, root)
                    yield Garbage("the empty folder of removed boxes", root.removed_dir, empty)
        from ..documents.upkeep import garbage  # a root without documents needs none of that

        yield from (Garbage(found.what, found.path, found.how) for found in garbage(root, older_than))
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error(error, f"cleaning up the root {quoted(root.path)}") from error


def _remove_marker(root: Root, name: str) -> None:
    with opened(root.path, follow=True) as folder:
        os.unlink(name, dir_fd=folder)


def _replaced(box: int) -> Iterator[Step]:
    """Folders that were `new/`, or were to become `new/`, when the process that exchanged them was killed."""
    for name, st in _entries(box):
        if name.startswith(NEW_SWAP_PREFIX) and stat.S_ISDIR(st.st_mode):
            with opened(name, box, os.fstat(box).st_uid) as replaced:
                mail = len(mail_in(replaced))
            if mail:
                yield f"{counted(mail, 'message')} in a folder that was new/: will be moved back", "", name, "move"
            elif time.time() - st.st_mtime > TMP_MAX_AGE:
                yield "a folder that was new/", "", name, "remove junk"


def _junk(box: int) -> Iterator[Step]:
    """Files that have been in `new/` for 36 hours and are not mail; folders that were `new/` and hold nothing else."""
    kept = sorted(name for name in list_dir(box) if name.startswith(KEPT))
    for name in ("new", *kept):
        gone = contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError, PermissionDeniedError)
        with gone, opened(name, box, os.fstat(box).st_uid) as folder:
            if found := len(old_junk(folder)):
                yield (
                    f"{counted(found, 'file')} in new/ that are not mail and unchanged for 36 hours",
                    "",
                    name,
                    "remove junk",
                )
            elif name != "new" and not list_dir(folder):
                yield "a folder that was new/", "", name, "rmdir"


def _half_written(box: int) -> Iterator[Step]:
    """Files beside the folders of a box that a killed process was writing."""
    for name, st in _entries(box):
        if name.startswith((f".{SETTINGS}.", f".{HANDLED}.")) and time.time() - st.st_mtime > TMP_MAX_AGE:
            yield "a half-written file of settings, or of what was handled", "", name, "unlink"


def _half_made(cur: int, ledger: int) -> Iterator[Step]:
    """Folders and ledger pages that a killed process was creating or removing: no process uses them."""
    for place, folder in (("cur", cur), ("ledger", ledger)):
        for name, st in _entries(folder):
            if time.time() - st.st_mtime <= TMP_MAX_AGE:
                continue
            if name.startswith(".") and lease_deadline(name[1:]) is not None:
                yield "a half-made folder of a consumer", place, name, "half made"
            elif name.endswith(DRAFT):
                yield "a half-written page of the ledger", place, name, "unlink"


def _leases(cur: int) -> Iterator[Step]:
    """Claims of dead consumers. The next consumer releases them by itself; cleanup does it now."""
    for name in sorted(list_dir(cur)):
        deadline = lease_deadline(name)
        if deadline is None or deadline > timestamp_now():
            continue
        with contextlib.suppress(FileNotFoundError), opened(name, cur, os.fstat(cur).st_uid) as folder:
            mail = 0 if is_held(".lock", folder) else sum(map(is_mail, list_dir(folder)))
            if mail:
                whose = f"a lease that expired at {deadline}" if deadline else "a dead consumer"
                yield f"{counted(mail, 'message')} of {whose}: will be released", "cur", name, "recover"


def _requests(box: int, cur: int) -> Iterator[Step]:
    """Locks of requests whose requester is dead. Consumers remove the folders, because replies may be in them."""
    with opened("replies", box, os.fstat(box).st_uid) as replies:
        for name in sorted(list_dir(cur)):
            request = name.removeprefix(".").removesuffix(".lock")
            if name != f".{request}.lock" or not is_id(request) or _exists(request, replies):
                continue
            if not is_held(name, cur):
                yield "the lock of an abandoned request", "cur", name, "unlock"


def _doorbells(run: int, cur: int) -> Iterator[Step]:
    for name, st in _entries(run):
        if stat.S_ISSOCK(st.st_mode) and time.time() - st.st_mtime > 60 and not has_listener(at(run, name)):
            yield "a doorbell without a listener", "run", name, "unlink"
        consumer = consumer_of(name)
        if consumer is not None and not is_held(f"{consumer}/.lock", cur):
            remover = "rmdir" if stat.S_ISDIR(st.st_mode) else "unlink"
            yield "the status file of a dead listener", "run", name, remover
        is_old = stat.S_ISREG(st.st_mode) and time.time() - st.st_mtime > TMP_MAX_AGE
        if is_old and is_session_file(name) and not is_held(name, run):
            yield "a file of an AI agent's session that did nothing for long", "run", name, "unlink"


def _notes(dead: int) -> Iterator[Step]:
    for name, st in _entries(dead):
        dead_letter = name.removesuffix(".why") + ".json"
        if name.endswith(".why") and not _exists(dead_letter, dead) and time.time() - st.st_mtime > TMP_MAX_AGE:
            yield "a note without a dead letter", "dead", name, "unlink"


def _done(done: int, older_than: float | None) -> Iterator[Step]:
    if older_than is None:
        return
    limit = to_timestamp(time.time_ns() - int(older_than * 1e9))
    for name in sorted(list_dir(done)):
        parts = split_timed(name)
        if parts and parts[0] < limit:
            yield "a handled message older than asked for", "done", name, "unlink"


def _consumers(cur: int) -> Iterator[Step]:
    """Free folders of consumers, except one: the last is needed to drain a full volume."""
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
    keep = plain[0] if plain else None  # not a lease: a consumer may be using it again by the time it is needed
    for name in free:
        if name != keep and (keep or held):
            yield "the folder of a dead consumer", "cur", name, "consumer"


def _bloated(box: int, path: str) -> Iterator[Step]:
    """Folders that once held many files: ext4 never makes them smaller, and every scan reads all of it."""
    with opened("new", box, os.fstat(box).st_uid) as new:
        size = os.fstat(new).st_size
        full = size >= _BLOATED and _file_system(f"{path}/new").startswith("ext")
        if full and len(list_dir(new)) * _ENTRY < size // 4:
            yield f"{size // 1024} KiB of folder for a few messages", "", "new", "shrink"


def shrink(path: str) -> None:
    """Replace `new/` of the box at *path* by a fresh folder, in one step: at no moment is there none.

    Mail in the old folder is moved over, including mail of senders who had already looked up its name. A sender that
    holds the old folder open can go on indefinitely: then the folder stays, and its mail is moved back as after a
    crash, by the hourly maintenance of a consumer or by the next gc. Raises OSError if the kernel cannot exchange them.
    """
    with opened(path) as box:
        as_owner.call(box, partial(_shrink, box, box, "new"))


def _shrink(box: int, _: int, name: str) -> None:
    fresh, owner = f"{NEW_SWAP_PREFIX}{os.urandom(6).hex()}", os.fstat(box).st_uid
    with contextlib.ExitStack() as folders:
        old = folders.enter_context(opened(name, box, owner))
        st = os.fstat(old)
        os.mkdir(fresh, 0o700, dir_fd=box)
        try:
            set_mode_and_owner(at(box, fresh), stat.S_IMODE(st.st_mode), (st.st_uid, st.st_gid))
            new = folders.enter_context(opened(fresh, box, owner))
            rename(at(box, fresh), at(box, name), EXCHANGE)
        except OSError:
            os.rmdir(fresh, dir_fd=box)
            raise
        move_all(old, new)
        time.sleep(_IN_FLIGHT)
        deadline = time.monotonic() + _MAX_DRAIN
        while time.monotonic() < deadline:
            move_all(old, new)
            try:
                os.rmdir(fresh, dir_fd=box)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if not mail_in(old):
                    return  # only junk is left, which _junk() removes in time
            else:
                return
    log.warning("a sender still puts mail into %s, which was new/: that mail arrives late", quoted(fresh))


def _move(box: int, _: int, name: str) -> None:
    owner = os.fstat(box).st_uid
    with opened(name, box, owner) as old, opened("new", box, owner) as new:
        move_all(old, new)


def _recover_claims(box: int, cur: int, name: str) -> None:
    """Under the lock of the folder. If a new consumer has locked it, that consumer does the same by itself."""
    owner = os.fstat(box).st_uid
    with opened(name, cur, owner) as folder, opened("later", box, owner) as later, taken(".lock", folder) as free:
        if free:
            recover(folder, later, os.path.basename(os.readlink(at(box))))


def _remove_consumer(_: int, cur: int, name: str) -> None:
    """Under its lock, and renamed first: a consumer that has opened the lock meanwhile no longer finds the folder."""
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
    """Remove old junk from a folder, and the folder itself if it was `new/` and is now empty."""
    with opened(name, box, os.fstat(box).st_uid) as folder:
        remove(folder, old_junk(folder))
        if name != "new" and not mail_in(folder):
            os.rmdir(name, dir_fd=box)


_REMOVERS: Final[dict[str, Callable[[int, int, str], None]]] = {
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


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _file_system(path: str) -> str:
    mount = mount_of(path)
    return mount.kind if mount else ""
