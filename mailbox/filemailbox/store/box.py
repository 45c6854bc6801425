"""A box: create and repair."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from functools import partial

from ..errors import (
    InvalidRequestError,
    PermissionDeniedError,
    StorageError,
    quoted,
    storage_error,
)
from ..system import as_owner
from ..system.as_owner import at, opened
from .layout import FOLDERS, OUTBOX, OUTBOX_MODE
from .permissions import owner_of, refuse_foreign_owner, set_mode_and_owner
from .root import RESERVED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .root import Box


def create_box(box: Box, owner: tuple[int, int] | None = None, outbox: bool = False) -> bool:
    """Make *box*, for *owner* (uid, gid; default: who runs this). Returns False if it was there already.

    With *outbox* it has one, from which a relay carries mail to addresses that have no box here.
    It is built as `.NAME` and renamed when complete: a crash leaves nothing that looks like a box. A box that is there
    gets the folders it lacks. Only root can give a box away. Raises StorageError if the modes did not take.
    """
    root, name = box.root, box.address
    if name in RESERVED:
        raise InvalidRequestError(f"no agent can be called {quoted(name)}: .{name} holds something else in every root")
    there, building = box.path, f"{root.path}/.{name}"
    old = os.path.isdir(there)
    try:
        refuse_foreign_owner(there if old else building, owner or (os.geteuid(), os.getegid()), given=owner is not None)
        if old:
            _make_folders(there, owner or owner_of(there), mend=False, outbox=outbox)
        else:
            with contextlib.suppress(FileExistsError):
                os.mkdir(building, 0o700)
            _make_folders(building, owner or (os.geteuid(), os.getegid()), mend=True, outbox=outbox)
            with opened(root.path, follow=True) as folder:
                os.rename(f".{name}", name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        if not old and os.path.isdir(f"{there}/new"):
            return False  # another process was making it, and was faster
        if isinstance(error, StorageError):
            raise
        raise storage_error(error, f"making the box {quoted(name)} in {quoted(root.path)}") from error
    return not old


def listed(folder: int) -> list[str]:
    """The names in an open folder."""
    os.lseek(folder, 0, os.SEEK_SET)
    return os.listdir(folder)


def repair_box(box: Box) -> None:
    """Make the folders that a box lacks, and give all of them the modes and the owner they must have."""
    try:
        refuse_foreign_owner(box.path, owner_of(box.path), given=False)
        _make_folders(box.path, owner_of(box.path), mend=True)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error(error, f"mending the box {quoted(box.address)}") from error


def _make_folders(box: str, owner: tuple[int, int], *, mend: bool, outbox: bool = False) -> None:
    """Make the folders that *box* lacks. With *mend* those that are there may have been left half made."""
    wanted = {**FOLDERS, OUTBOX: OUTBOX_MODE} if outbox else FOLDERS
    with opened(box) as folder:
        if not as_owner.is_foreign(folder):
            _fill(folder, box, owner, wanted, mend=mend)
            return
        facts = os.fstat(folder)
        if facts.st_uid != owner[0]:
            raise PermissionDeniedError(
                f"{quoted(box)} belongs to the uid {facts.st_uid}, not to {owner[0]}", errno.EEXIST
            )
        if facts.st_gid != owner[1]:
            os.fchown(folder, -1, owner[1])
        if mend:
            for name in wanted:
                _give_back(folder, box, name, owner)
        elif _is_complete(folder, wanted):
            return
        as_owner.call(folder, partial(_fill, folder, box, owner, wanted, mend=mend))


def _fill(box: int, path: str, owner: tuple[int, int], wanted: dict[str, int], *, mend: bool) -> None:
    ours = os.fstat(box).st_uid == os.geteuid()
    if ours and owner[0] != os.geteuid():
        os.fchmod(box, 0o700)  # only root gets in before its owner is changed
    for name, mode in wanted.items():
        try:
            os.mkdir(name, 0o700, dir_fd=box)
        except FileExistsError:
            if not mend:
                continue
        set_mode_and_owner(at(box, name), mode, owner, anybodys=ours, shown=f"{path}/{name}")
    with opened("cur", box) as cur:
        if not any(name for name in listed(cur) if not name.startswith(".")):
            # The first consumer's folder, so that a box on a full volume can still be drained.
            first = os.urandom(6).hex()
            make_consumer(cur, f".{first}")
            with opened(f".{first}", cur, os.geteuid()) as folder:
                set_mode_and_owner(at(folder, ".lock"), 0o600, owner)
                set_mode_and_owner(at(folder, "."), 0o700, owner)
            os.rename(f".{first}", first, src_dir_fd=cur, dst_dir_fd=cur)
    facts = os.fstat(box)
    if (facts.st_uid, facts.st_gid) != owner or stat.S_IMODE(facts.st_mode) != 0o755:
        set_mode_and_owner(at(box, "."), 0o755, owner, anybodys=ours, shown=path)


def make_consumer(cur: int, name: str) -> None:
    """Make the folder of a consumer in an open `cur/`, with its lock."""
    os.mkdir(name, 0o700, dir_fd=cur)
    with opened(name, cur, os.geteuid()) as folder:
        os.close(os.open(".lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder))


def _give_back(box: int, path: str, name: str, owner: tuple[int, int]) -> None:
    """Give a folder that root left in the box of another uid to its owner.

    One of another uid is refused, and so is one that others can write to: its owner may have moved it here, and would
    get what others have in it.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), opened(name, box) as folder:
        facts = os.fstat(folder)
        if facts.st_uid == owner[0]:
            return
        if facts.st_uid != 0 or facts.st_mode & 0o022:
            raise PermissionDeniedError(
                f"{quoted(f'{path}/{name}')} belongs to the uid {facts.st_uid}, not to {owner[0]}, and its mode is "
                f"{stat.S_IMODE(facts.st_mode):04o}: another uid may have put it there",
                errno.EEXIST,
                hint="move it away first, or change its owner by hand",
            )
        os.fchown(folder, *owner)


def _is_complete(box: int, wanted: dict[str, int]) -> bool:
    """Return True if nothing is missing in the box."""
    if stat.S_IMODE(os.fstat(box).st_mode) != 0o755 or not set(wanted) <= set(listed(box)):
        return False
    with opened("cur", box) as cur:
        return any(not name.startswith(".") for name in listed(cur))
