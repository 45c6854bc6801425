"""Junk: files in `new/` that never are mail, by their names or because they are no regular files. Any uid can make it.

A scan of `new/` costs as much as there are names in it. So if there is much junk, the owner replaces `new/` by a fresh
folder, in one step, and moves over only the files that are mail or may become it:

    new/        fresh: what is sent from now on
    .new-HEX    the folder that was `new/`, as long as there may be mail in it
    .junk-HEX   the same folder without mail: the junk stays in it until `mailbox gc` deletes it
"""

import contextlib
import errno
import os
import shutil
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from ..errors import PermissionDeniedError
from ..format.order import is_external, is_mail
from ..system.files import EXCHANGE, FOLDER, NOREPLACE, close, describe_type, rename
from .layout import NEW_SWAP_PREFIX
from .permissions import set_mode_and_owner

MANY: Final = 1000
"""Names of junk in `new/` from which on it is left behind: to list fewer takes less than a millisecond."""

AGE: Final = 36 * 3600
"""Seconds for which junk is left alone: the age at which drafts are given up."""

KEPT: Final = ".junk-"
"""Prefix of the name of a folder that was `new/` and holds only junk."""

_LINKS: Final = 2  # that a file which is being delivered may have
_IN_FLIGHT: Final = 0.5  # seconds that a rename of a sender may take from the name of the folder to the folder
_HELD: Final = 60.0  # seconds for which a relay may hold it open


def may_be_mail(entry: "os.DirEntry[str]") -> bool:
    """Return True for a file under a name of mail. The listing holds both facts: nothing is opened."""
    return is_mail(entry.name) and entry.is_file(follow_symlinks=False)


def mail_in(folder: int | str) -> list[str]:
    """The names in a folder under which mail may lie, sorted: the order in which ours were sent."""
    if isinstance(folder, int):
        os.lseek(folder, 0, os.SEEK_SET)
    with os.scandir(folder) as entries:
        # Perhaps half a million of them: most are sorted out by one look at the name.
        return sorted([entry.name for entry in entries if entry.name.endswith(".json") and may_be_mail(entry)])


def is_crowded(folder: int) -> bool:
    """Return True if an open folder has so much junk that it is worth leaving behind."""
    count = 0
    os.lseek(folder, 0, os.SEEK_SET)
    with os.scandir(folder) as entries:
        for entry in entries:
            count += not may_be_mail(entry) or _is_tied(entry.name, folder)
            if count > MANY:
                return True
    return False


def _is_tied(name: str, folder: int) -> bool:
    """Return True if a file has more links than a delivery by link(2) and unlink(2) gives it."""
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_nlink > _LINKS


class Aside:
    """A folder that was `new/`, as long as there may be mail in it."""

    __slots__ = ("_external", "_mtime", "_old", "_path", "_plain", "_shut", "_since")

    def __init__(self, old: int, path: str, waiting: Iterable[str]) -> None:
        """*old* is open, and ours to close, *path* its path; *waiting* is moved at leisure: it was no mail then."""
        self._old, self._path, self._since, self._shut, self._mtime = old, path, time.monotonic(), False, 0
        self._external: list[str] = []
        self._plain: list[str] = []
        self._sort(waiting)

    @property
    def settled(self) -> bool:
        """True if no other uid can put files into the folder any more, and all that may be mail has moved."""
        return self._shut and not self._is_waiting and self._mtime == os.fstat(self._old).st_mtime_ns

    def empty(self, new: int, until: float, *, has_room: bool = True) -> bool:
        """Move files that may be mail to *new*, until the monotonic time *until*. Return True if all have moved.

        Unless *new* *has_room*, only plain mail is moved: the rest would make it as slow as it was.
        """
        since = time.monotonic() - self._since
        if not self._shut and since > _IN_FLIGHT:
            self._shut = True
            with contextlib.suppress(OSError):  # whoever holds it open can put nothing into it any more, but root
                os.fchmod(self._old, 0o700)
        changed = os.fstat(self._old).st_mtime_ns
        if self._shut and not self._is_waiting and changed != self._mtime:
            self._sort(mail_in(self._old))
            self._mtime = changed
        while time.monotonic() <= until and (names := self._plain or (self._external if has_room else None)):
            name = names.pop()
            if not _is_tied(name, self._old):
                carry(name, self._old, new)  # that changes the mtime: the next call looks once more
        if not self.settled or since < _HELD:
            return False
        keep(self._path)
        self.close()
        return True

    @property
    def _is_waiting(self) -> bool:
        return bool(self._plain or self._external)

    def _sort(self, names: Iterable[str]) -> None:
        """Make *names* the ones to move, the first of them last."""
        for name in sorted(names, reverse=True):
            (self._external if is_external(name) else self._plain).append(name)

    def close(self) -> None:
        """Close the folder. Mail that is still in it comes back as after a crash: see ConsumerFolder."""
        if self._old >= 0:
            close(self._old)
            self._old = -1


def keep(path: str) -> None:
    """Mark a folder that was `new/`, by a new name, as one that holds only junk."""
    folder, name = os.path.split(path)
    with contextlib.suppress(OSError):
        os.rename(path, f"{folder}/{KEPT}{name.removeprefix(NEW_SWAP_PREFIX)}")


def keep_old(box: int, name: str, folder: int) -> None:
    """keep() for *name* in an open box, open as *folder*: whoever has left junk behind there was killed before."""
    facts = os.fstat(folder)
    if stat.S_IMODE(facts.st_mode) == 0o700 and time.time() - facts.st_ctime > _HELD and not mail_in(folder):
        with contextlib.suppress(OSError):
            os.rename(name, f"{KEPT}{name.removeprefix(NEW_SWAP_PREFIX)}", src_dir_fd=box, dst_dir_fd=box)


def leave_behind(box: str, new: int, seen: Iterable[str]) -> Aside | None:
    """Put a fresh folder in the place of `new/` of our own *box*. *new* is the old one, open. None where that fails.

    *seen* is what the last look has seen there and found to be no mail now. What has come since then is moved over at
    once, in order. Where we die on the way, all comes back as when gc does.
    """
    facts = os.fstat(new)
    there = os.stat(f"{box}/new", follow_symlinks=False)
    if (there.st_dev, there.st_ino) != (facts.st_dev, facts.st_ino) or facts.st_uid != os.geteuid():
        return None  # another consumer has done it; or it is not ours, and nothing is done by path for others
    fresh = f"{box}/{NEW_SWAP_PREFIX}{os.urandom(6).hex()}"
    try:
        os.mkdir(fresh, 0o700)
    except OSError:
        return None
    try:
        set_mode_and_owner(fresh, stat.S_IMODE(facts.st_mode), (facts.st_uid, facts.st_gid))
        rename(fresh, f"{box}/new", EXCHANGE)
    except (OSError, PermissionDeniedError, ImportError):
        with contextlib.suppress(OSError):
            os.rmdir(fresh)
        return None
    old = os.dup(new)
    try:
        waiting = mail_in(old)
        known = set(seen)
        there_now = os.open(f"{box}/new", FOLDER)
        try:
            for name in waiting:
                if name not in known:
                    carry(name, old, there_now)
        finally:
            close(there_now)
    except OSError:
        close(old)
        raise
    return Aside(old, fresh, (name for name in waiting if name in known))


def carry(name: str, old: int, new: int) -> bool:
    """Move one file from a folder that was `new/` to the one that is, and replace nothing. Returns whether it went.

    Where its name is taken it gets a foreign one, and becomes a message of its own.
    """
    for target in (name, f"{os.urandom(6).hex()}-{name}"[-255:]):
        try:
            rename(name, f"/proc/self/fd/{new}/{target}", NOREPLACE, old)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS):
                return _carry_without(name, old, new)
            return False  # another process was faster; or it cannot be moved, and stays behind
        return True
    return False


def _carry_without(name: str, old: int, new: int) -> bool:
    """carry(), where there is no renameat2."""
    target = name
    with contextlib.suppress(OSError):
        os.stat(name, dir_fd=new, follow_symlinks=False)
        target = f"{os.urandom(6).hex()}-{name}"[-255:]
    try:
        os.rename(name, target, src_dir_fd=old, dst_dir_fd=new)
    except OSError:
        return False
    return True


# For people, and for gc


def lying(folder: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the name and the stat of each file of junk in an open folder."""
    os.lseek(folder, 0, os.SEEK_SET)
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                facts = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
                if is_junk(entry.name, facts, folder):
                    yield entry.name, facts


def is_junk(name: str, facts: os.stat_result, folder: int) -> bool:
    """Return True if a file is not mail and no consumer removes it: see *Reading strictly* in FORMAT.md."""
    if not is_mail(name):
        return True
    if stat.S_ISDIR(facts.st_mode):
        return _holds(name, folder)
    return not stat.S_ISREG(facts.st_mode) if _is_left(folder) else False


def _is_left(folder: int) -> bool:
    """Return True if an open folder was `new/` and no consumer takes mail from it any more."""
    return stat.S_IMODE(os.fstat(folder).st_mode) == 0o700


def owners(found: Iterable[os.stat_result]) -> str:
    """Return the owners as text: `uid 2002's`, or each uid with its count."""
    counts = Counter(facts.st_uid for facts in found)
    if len(counts) == 1:
        return f"uid {next(iter(counts))}'s"
    return ", ".join(f"uid {uid}'s: {count}" for uid, count in counts.most_common(4)) + (
        " …" if len(counts) > 4 else ""
    )


def old(folder: int, age: float = AGE) -> list[str]:
    """Return the names of the junk in an open folder that is older than *age* seconds.

    The age is counted from the ctime, which no process can set. In a folder that was `new/` it is counted from the
    ctime of the folder: no other uid has entered it since.
    """
    limit = time.time() - age
    mine = os.fstat(folder)
    if stat.S_IMODE(mine.st_mode) == 0o700:
        return [name for name, _ in lying(folder)] if mine.st_ctime < limit else []
    return [name for name, facts in lying(folder) if facts.st_ctime < limit]


def remove(folder: int, found: Iterable[str]) -> None:
    """Take junk away: by descriptors, never through a link, and with our own rights alone.

    What cannot go stays: a folder with something in it that is another uid's is that uid's to empty. Raises OSError of
    the last that could not go.
    """
    trouble: OSError | None = None
    for name in found:
        try:
            facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                shutil.rmtree(name, dir_fd=folder)
            elif not (is_mail(name) and stat.S_ISREG(facts.st_mode)):
                os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            trouble = OSError(
                error.errno, f"{os.strerror(error.errno or 0)}: {describe_type(facts.st_mode)} of uid {facts.st_uid}"
            )
    if trouble is not None:
        raise trouble


def _holds(name: str, folder: int) -> bool:
    """Return True if a folder is not empty, or cannot be listed."""
    try:
        opened = os.open(name, FOLDER, dir_fd=folder)
    except OSError:
        return True
    try:
        with os.scandir(opened) as entries:
            return next(entries, None) is not None
    finally:
        close(opened)
