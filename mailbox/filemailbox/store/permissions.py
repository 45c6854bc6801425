"""Modes and owners, set by descriptor."""

from __future__ import annotations

import errno
import os
import stat

from ..errors import (
    PermissionDeniedError,
    quoted,
)
from ..system.as_owner import at
from ..system.files import describe_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass


def chown_to_box_owner(path: str | int, box: str) -> None:
    """Give what root just made in a box, a path or an open file, to the box's owner. Other uids do nothing.

    A path may lead to something else by now: its owner is changed only if it is root's and empty.
    """
    if os.geteuid() != 0:
        return
    owner = owner_of(box)
    if owner == (0, 0):
        return
    made = isinstance(path, int)
    file = path if isinstance(path, int) else os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = os.fstat(file)
        if stat.S_ISDIR(facts.st_mode):
            harmless = not os.listdir(at(file))
        else:
            harmless = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and (made or facts.st_size == 0)
        if facts.st_uid == 0 and harmless:
            os.chown(at(file), *owner)
    finally:
        if not made:
            os.close(file)


def set_mode_and_owner(
    path: str, mode: int, owner: tuple[int, int], *, anybodys: bool = False, shown: str = ""
) -> None:
    """Give *path*, which is ours, or with *anybodys* may be another's, this mode and this owner.

    Raises PermissionDeniedError where they do not take; it is called *shown* there.
    """
    name = quoted(shown or path)
    # By descriptor, and never through a link: root must not give away what the owner of a box has put in the way.
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = os.fstat(file)
        if not stat.S_ISDIR(facts.st_mode) and not (stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1):
            raise PermissionDeniedError(
                f"{name} is {describe_type(facts.st_mode)}, not a folder: another process has put it there"
            )
        if facts.st_uid not in (os.geteuid(), owner[0]) and not anybodys:
            raise PermissionDeniedError(f"{name} belongs to the uid {facts.st_uid}: that uid has put it there")
        there = f"/proc/self/fd/{file}"
        # chmod before chown: with the capability CHOWN alone the other order loses the setgid bit without a word.
        if facts.st_uid == os.geteuid():
            if facts.st_gid != owner[1] and owner[0] == facts.st_uid:
                os.chown(there, -1, owner[1])  # a setgid parent gave it another group than ours
            os.chmod(there, mode)
        facts = os.fstat(file)
        if (facts.st_uid, facts.st_gid) != owner:
            os.chown(there, *owner)
        facts = os.fstat(file)
    finally:
        os.close(file)
    if stat.S_IMODE(facts.st_mode) != mode or (facts.st_uid, facts.st_gid) != owner:
        raise PermissionDeniedError(
            f"{name} has the mode {stat.S_IMODE(facts.st_mode):04o} and the owner "
            f"{facts.st_uid}:{facts.st_gid}, wanted {mode:04o} and {owner[0]}:{owner[1]}: this file system or user "
            "cannot set them"
        )


def refuse_foreign_owner(path: str, owner: tuple[int, int], *, given: bool) -> None:
    """Raise PermissionDeniedError for a box that another uid has made: it may hold the folders open."""
    try:
        facts = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(facts.st_mode):
        raise PermissionDeniedError(
            f"{quoted(path)} is {describe_type(facts.st_mode)}, not a folder: take it away first", errno.EEXIST
        )
    if facts.st_uid not in (owner[0], os.geteuid()) and (given or os.path.basename(path).startswith(".")):
        raise PermissionDeniedError(
            f"{quoted(path)} is there and belongs to the uid {facts.st_uid}, not to {owner[0]}: that uid has made "
            "it. Take it away first",
            errno.EEXIST,
        )


def owner_of(path: str) -> tuple[int, int]:
    facts = os.stat(path)
    return facts.st_uid, facts.st_gid
