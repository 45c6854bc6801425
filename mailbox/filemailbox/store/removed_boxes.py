"""Remove a box: by one rename, and kept aside if it holds mail."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from functools import partial

from ..errors import (
    BoxInUseError,
    PermissionDeniedError,
    StorageError,
    quoted,
    storage_error,
    translated_errors,
)
from ..format.address import Address
from ..system import as_owner
from ..system.as_owner import opened
from ..system.locks import is_held
from .box import listed
from .ids import new_id
from .layout import MAIL_FOLDERS, NEW_SWAP_PREFIX
from .root import Box, Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def remove_box(box: Box, force: bool = False) -> str | None:
    """Remove *box*. Raises BoxInUseError if it has mail or a listener, unless *force*.

    With *force* a box that holds mail is kept as `.removed/NAME-STAMP`, the path of which is returned. One rename
    takes it off the map, so that every message is in what was kept or was refused to its sender.
    """
    root, name = box.root, box.address
    if not os.path.isdir(box):
        raise box.missing()
    with translated_errors(f"removing the box {quoted(name)}"):
        if not force:
            _refuse_busy(box)
        aside = f"{name}-{new_id()}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(root.removed_dir, 0o700)
        with opened(root.path, follow=True) as here, removed_dir(root) as kept:
            os.rename(name, aside, src_dir_fd=here, dst_dir_fd=kept)
            try:
                held = count_mail(f"{root.removed_dir}/{aside}")
                if held and not force:  # it came in between
                    raise _busy(name, held)
            except Exception:
                if not force:  # perhaps there is mail in it
                    os.rename(aside, name, src_dir_fd=kept, dst_dir_fd=here)
                raise
    if held:
        return f"{root.removed_dir}/{aside}"
    with contextlib.suppress(StorageError, OSError):  # gc tries again
        discard_removed(root, aside)
    return None


@contextlib.contextmanager
def removed_dir(root: Root) -> Iterator[int]:
    """Open the folder of removed boxes.

    Raises PermissionDeniedError if another uid has made it: that uid could take the boxes away.
    """
    with opened(root.path, follow=True) as here, opened(".removed", here) as kept:
        owner = os.fstat(kept).st_uid
        if owner not in (os.geteuid(), os.fstat(here).st_uid):
            raise PermissionDeniedError(
                f"{quoted(root.removed_dir)} belongs to the uid {owner}, not to {os.geteuid()}: that uid made it",
                errno.EEXIST,
                hint="move it away first",
            )
        yield kept


def remove_empty_folder(root: Root) -> None:
    """Take the folder of removed boxes away, if it is empty. Raises OSError."""
    with opened(root.path, follow=True) as here:
        os.rmdir(".removed", dir_fd=here)


def discard_removed(root: Root, name: str) -> None:
    """Delete *name* of the removed boxes, in which there is no mail, and the folder of these with the last one.

    Each thing in it is deleted by its owner: no more than those could delete themselves. Raises StorageError if
    something is left.
    """
    with translated_errors(f"deleting {quoted(f'{root.removed_dir}/{name}')}"), removed_dir(root) as kept:
        with opened(name, kept) as box:
            as_owner.call(box, partial(_empty, box))
            if as_owner.is_foreign(box):
                for folder in listed(box):
                    with contextlib.suppress(OSError), opened(folder, box) as place:
                        _empty_strangers(place)
                as_owner.call(box, partial(_empty, box))
        os.rmdir(name, dir_fd=kept)
    with contextlib.suppress(OSError):
        remove_empty_folder(root)


def _empty(folder: int) -> None:
    import shutil

    for name in listed(folder):
        shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
        for delete in (os.rmdir, os.unlink):  # an empty folder that we may not open, or no folder
            with contextlib.suppress(OSError):
                delete(name, dir_fd=folder)


def _empty_strangers(place: int) -> None:
    """Empty the folders that other uids have made in a drop box, each with the rights of its owner."""
    theirs: dict[int, list[str]] = {}
    for name in listed(place):
        with contextlib.suppress(OSError):
            facts = os.stat(name, dir_fd=place, follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                theirs.setdefault(facts.st_uid, []).append(name)
    for uid, made in theirs.items():
        with opened(made[0], place, uid) as first:
            if as_owner.is_foreign(first):
                as_owner.call(first, partial(_empty_each, place, uid, made))


def _empty_each(place: int, uid: int, made: list[str]) -> None:
    for name in made:
        with contextlib.suppress(OSError), opened(name, place, uid) as folder:
            _empty(folder)


def _refuse_busy(box: Box) -> None:
    name = box.address
    if mail := count_mail(box.path):
        raise _busy(name, mail)
    if any(is_held(f"{box}/cur/{each}/.lock") for each in os.listdir(f"{box}/cur") if not each.startswith(".")):
        raise BoxInUseError(f"a listener is at the box {quoted(name)}", hint="stop it first, or force the removal")


def _busy(name: Address, mail: int) -> BoxInUseError:
    return BoxInUseError(
        f"the box {quoted(name)} holds {mail} message{'s' if mail > 1 else ''}",
        hint="handle them first; or force it, and the box is kept aside",
    )


def count_mail(box: str) -> int:
    """Return the number of messages in the box at this path, dead letters included, handled mail not."""
    count = 0
    for folder in (*MAIL_FOLDERS, *(name for name in os.listdir(box) if name.startswith(NEW_SWAP_PREFIX))):
        if os.path.islink(f"{box}/{folder}"):
            continue  # no folder of a box: what it leads to may be huge
        for path, folders, files in os.walk(f"{box}/{folder}", onerror=_not_seen):
            if folder == "replies":  # what others have made there is no request, and holds no mail of this box
                folders[:] = [name for name in folders if _is_of_owner(f"{path}/{name}", box)]
            count += sum(name.endswith(".json") for name in files)
    return count


def _is_of_owner(path: str, box: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.lstat(path).st_uid == os.lstat(box).st_uid
    return False


def _not_seen(error: OSError) -> None:
    # os.walk passes over what it cannot list; but mail that we cannot see is mail.
    if not isinstance(error, FileNotFoundError):
        raise storage_error(error, f"looking for mail in {quoted(error.filename)}") from error
