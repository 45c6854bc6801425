"""The history of a document: the end of the run of versions, the next version, the older ones.

    drafts/HEX            written
    versions/N+1.json     linked: link(2) fails if the number is taken. This is the change
    (flushed)             one fsync of the file: content, both names
    drafts/HEX            unlinked: from now on the version has one link

The current version is the end of the unbroken run: from a version that is known to belong to the history, go on to the
next number as long as there is a file, and it is a version whose base is the digest of the one before. No listing is
read. So a file with a far number is never opened, and neither are a hundred thousand of them.

A version with two links may not be flushed yet: its writer unlinks the draft after the flush. A writer that builds on
such a version waits until it has one link. Else its change could survive a power cut that what it rests on does not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from ..errors import (
    DocumentNotFoundError,
    DurabilityUnknownError,
    NotMailError,
    PermissionDeniedError,
    quoted,
    storage_error,
)
from ..format import times
from ..store import deliver
from ..system import files
from . import checkpoint
from .folders import NEW_FILE, Folders, broken, write_all
from .version import MAX_NUMBER, MAX_SIZE, decode, digest, filename, first_base, number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from ..store.root import Root

UNCHANGED: Final = 5.0
"""Seconds after which a file that is no version, and does not change, is moved out of the way."""

_POLL: Final = 0.05  # seconds between two reads of such a file
_PATIENCE: Final = 0.5  # seconds in which a writer that lives has flushed its version
_PAUSES: Final = (0.0002, 0.005)  # seconds between two checks of that: the first, the longest
_TRIMMED: Final = 256  # versions that one change deletes at most
_TRIM_EVERY: Final = 16  # versions
_NO_FILE: Final = (errno.ELOOP, errno.ENXIO, errno.ENODEV)
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Stored:
    """A version as it is on the disk, verified to belong to the history."""

    number: int
    data: bytes
    digest: str
    members: dict[str, Any]
    """Its members without the body: a caller that changes its body must not change what is remembered here."""
    at: datetime
    st: os.stat_result


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A file under the next number that is no version: no writer can go on before it is out of the way."""

    number: int
    why: str


def _stored(data: bytes, st: os.stat_result, number: int, base: str) -> Stored:
    """Return a version that follows the one with the digest *base*. Raises NotMailError."""
    members = decode(data, number, base)
    del members["body"]
    return Stored(number, data, digest(data), members, times.parse_time(members["at"]), st)


class History:
    """The history of one document, as far as this process knows it. Not safe to share between threads."""

    def __init__(
        self, root: Root, name: str, clock: Callable[[], float] = time.monotonic, *, only_looking: bool = False
    ) -> None:
        """With *only_looking* nothing is written to the disk by head(), not even a checkpoint."""
        self.root, self.name = root, name
        self._only_looking = only_looking
        self._clock = clock
        self._folders: Folders | None = None
        self._known: Stored | None = None
        self._checkpoint = self._tried = 0  # the version of the last checkpoint, and of the last try to write one
        self._oldest: int | None = None
        self.obstacle: Obstacle | None = None
        """The file under the number after the current version, if it is no version."""

    @property
    def folders(self) -> Folders:
        """The folders, open; opened again if the document was removed and made again."""
        if self._folders is not None and not self._folders.still_there():
            self.close()
        if self._folders is None:
            self._folders = Folders(self.root, self.name)
        return self._folders

    def close(self) -> None:
        """Let go of descriptors, and forget what was read."""
        if self._folders is not None:
            self._folders.close()
        self._folders = self._known = self._oldest = self.obstacle = None
        self._checkpoint = self._tried = 0

    def __del__(self) -> None:
        self.close()

    def head(self) -> Stored:
        """Return the current version.

        Raises DocumentNotFoundError; DocumentBrokenError if what was seen before is gone or is another; StorageError.
        """
        folders = self.folders
        known = self._known
        if known is not None and (found := self._same(known)) is not None:
            seen = {known.number: known.digest}
            start = found
        else:
            seen = checkpoint.believed(folders)
            self._checkpoint = max(seen, default=0)
            if known is not None:
                seen[known.number] = known.digest
            start = self._start(seen)
        head, flushed = self._walk(start, {number: digest for number, digest in seen.items() if number > start.number})
        self._known = head
        if flushed is not None and flushed.number >= max(self._checkpoint, self._tried) + checkpoint.EVERY:
            self._write_checkpoint(flushed)
        return head

    def known(self, number: int) -> Stored | None:
        """Return the version *number* if it was the current one when this process last looked."""
        known = self._known
        return known if known is not None and known.number == number else None

    def add(self, line: bytes, members: dict[str, Any], base: Stored) -> Stored | None:
        """Add *line* as the version after *base*. Return it, or None if that number is taken: read the head again.

        *members* are what decode() makes of it, without the body.

        Once it returns a version, that survives kill -9 and a power cut. Raises DurabilityUnknownError if it was added
        and the disk did not confirm it; StorageError and its kin if nothing was added.
        """
        folders = self.folders
        if self.known(base.number) is None:
            return None  # the document was removed and made again
        if folders.drafts < 0:
            raise broken(self.name, "it has no drafts/")
        number, draft = base.number + 1, os.urandom(12).hex()
        try:
            file = os.open(draft, NEW_FILE, 0o600, dir_fd=folders.drafts)
        except OSError as error:
            raise self._refused(error) from error
        try:
            try:
                write_all(file, line)
                os.fchmod(file, folders.file_mode)
                st = os.fstat(file)
                if not self._link(folders, draft, number, file):
                    self._unlink(folders.drafts, draft)
                    return None
            except OSError as error:
                self._unlink(folders.drafts, draft)
                if isinstance(error, PermissionDeniedError):
                    raise
                raise self._refused(error) from error
            try:
                os.fsync(file)
                self._settle_base(folders, base)
            except OSError as error:
                raise DurabilityUnknownError(
                    f"version {number} of {quoted(self.name)} was written, but the disk did not confirm it "
                    f"({error.strerror}): a power cut may lose it",
                    error.errno,
                    str(number),
                    hint="read the document before you write it again",
                ) from error
            self._unlink(folders.drafts, draft)
            with contextlib.suppress(OSError):
                st = os.fstat(file)
        finally:
            files.close(file)
        if not folders.still_there():
            raise DocumentNotFoundError(self.name, self.root.path)  # it was removed while we wrote
        self._known = Stored(number, line, digest(line), members, times.parse_time(members["at"]), st)
        self.obstacle = None
        if number >= max(self._checkpoint, self._tried) + checkpoint.EVERY:
            self._write_checkpoint(self._known)
        if number % _TRIM_EVERY == 0 and folders.owner == os.geteuid():
            self._trim(folders, self._known)
        return self._known

    def at(self, number: int) -> Stored | None:
        """Return the version *number*, proven by all that came after it; None if it is not kept (any more)."""
        for each in self.backwards():
            if each.number <= number:
                return each if each.number == number else None
        return None

    def backwards(self) -> Iterator[Stored]:
        """Return the versions from the current one back to the oldest that is kept.

        Each is proven by the base of the one after it. Raises DocumentBrokenError if one is another than that.
        """
        current = self.head()
        while True:
            yield current
            number, base = current.number - 1, current.members["base"]
            if number == 0:
                return
            try:
                found = self._read(number)
            except NotMailError as error:
                raise broken(self.name, f"version {number} was changed: {error}") from None
            if found is None:
                return
            data, st = found
            if digest(data) != base:
                raise broken(
                    self.name,
                    f"version {number} was changed by its owner, uid {st.st_uid}, after version "
                    f"{number + 1} was written",
                )
            try:
                current = _stored(data, st, number, first_base(self.name) if number == 1 else _base_in(data))
            except NotMailError as error:
                raise broken(self.name, f"version {number} is none: {error}") from None

    def make_way(self) -> bool:
        """Move a file under the next number that is no version to drafts/. Return True if the head may have moved.

        Waits until the file has not changed for five seconds: a writer may be at work on it, in its own way. Raises
        DocumentBrokenError if this process may not move it.
        """
        obstacle = self.obstacle
        if obstacle is None:
            return False
        folders, name = self.folders, filename(obstacle.number)
        before, since = None, self._clock()
        while True:
            try:
                st = os.stat(name, dir_fd=folders.versions, follow_symlinks=False)
            except FileNotFoundError:
                return True
            except OSError as error:
                raise self._refused(error) from error
            if (identity := (st.st_ino, st.st_size, st.st_ctime_ns)) != before:
                before, since = identity, self._clock()
            if time.time() - st.st_ctime >= UNCHANGED or self._clock() - since >= UNCHANGED:
                break
            time.sleep(_POLL)
            self.head()
            if self.obstacle != obstacle:
                return True  # it has become a version, or another file
        aside = f"moved-{obstacle.number:010d}-{os.urandom(6).hex()}"
        try:
            try:
                os.rename(name, aside, src_dir_fd=folders.versions, dst_dir_fd=folders.drafts)
            except PermissionError:  # a folder of another uid can only be renamed where it is
                os.rename(name, aside, src_dir_fd=folders.versions, dst_dir_fd=folders.versions)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise broken(
                self.name,
                f"version {obstacle.number} is taken by a file of uid {st.st_uid} that is no version ({obstacle.why}), "
                f"and we may not move it ({(error.strerror or '').lower()}): its owner, the document's owner or root "
                "can",
            ) from error
        self._undo_if_valid(folders, aside, obstacle.number)
        return True

    def _undo_if_valid(self, folders: Folders, aside: str, number: int) -> None:
        """Link a file back that has become a version in the moment in which it was moved."""
        known = self._known
        if known is None or known.number != number - 1:
            return
        with contextlib.suppress(NotMailError, OSError):
            found = _read_version(aside, folders.drafts, folders)
            if found is not None:
                decode(found[0], number, known.digest)
                os.link(
                    aside,
                    filename(number),
                    src_dir_fd=folders.drafts,
                    dst_dir_fd=folders.versions,
                    follow_symlinks=False,
                )

    def _same(self, known: Stored) -> Stored | None:
        """Return *known* as it is on the disk now; None if it is gone or has changed."""
        assert self._folders is not None
        try:
            st = os.stat(filename(known.number), dir_fd=self._folders.versions, follow_symlinks=False)
            if (st.st_ino, st.st_ctime_ns, st.st_size) == (known.st.st_ino, known.st.st_ctime_ns, known.st.st_size):
                return known
            found = self._read(known.number)  # its draft was unlinked, or it was changed
        except FileNotFoundError:
            return None
        except NotMailError:
            return None
        except OSError as error:
            raise self._refused(error) from error
        if found is None or found[0] != known.data:
            return None
        return replace(known, st=found[1])

    def _start(self, seen: dict[int, str]) -> Stored:
        """Return the latest version that is known to belong to the history."""
        for number in sorted(seen, reverse=True):
            try:
                found = self._read(number)
                if found is not None and digest(found[0]) == seen[number]:
                    return _stored(*found, number, _base_in(found[0]))
            except NotMailError:
                continue
        try:
            found = self._read(1)
            if found is not None:
                return _stored(*found, 1, first_base(self.name))
            why = "its first version is gone"
        except NotMailError as error:
            why = f"its first version is none: {error}"
        raise broken(
            self.name,
            why
            + (
                ", and no checkpoint shows where its history goes on"
                if not seen
                else f", and so is version {max(seen)}, which was there before"
            ),
        )

    def _walk(self, start: Stored, seen: dict[int, str]) -> tuple[Stored, Stored | None]:
        """Return the end of the run from *start*, and the last version in it that is flushed."""
        head, flushed = start, start if start.st.st_nlink == 1 else None
        while (following := self._next(head)) is not None:
            head = following
            if head.st.st_nlink == 1:
                flushed = head
            if seen.get(head.number, head.digest) != head.digest:
                raise broken(self.name, f"version {head.number} is another than the one that was there before")
        if seen and max(seen) > head.number:
            lost = max(seen)
            raise broken(self.name, f"its history ends at {head.number}, and version {lost} was there before")
        return head, flushed

    def _next(self, head: Stored) -> Stored | None:
        self.obstacle = None
        number = head.number + 1
        if number > MAX_NUMBER:
            return None
        try:
            found = self._read(number)
            if found is None:
                return None
            return _stored(*found, number, head.digest)
        except NotMailError as error:
            self.obstacle = Obstacle(number, str(error))
            return None

    def _read(self, number: int) -> tuple[bytes, os.stat_result] | None:
        assert self._folders is not None
        try:
            return _read_version(filename(number), self._folders.versions, self._folders)
        except OSError as error:
            raise storage_error(error, f"reading version {number} of the document {quoted(self.name)}") from error

    def _link(self, folders: Folders, draft: str, number: int, file: int) -> bool:
        """Link the draft under its number; whether that was free. Raises OSError."""
        name = filename(number)
        try:
            os.link(draft, name, src_dir_fd=folders.drafts, dst_dir_fd=folders.versions, follow_symlinks=False)
        except OSError as error:
            # Another process can have linked our draft for us, and an error can come after the deed: the file decides.
            with contextlib.suppress(OSError):
                st = os.stat(name, dir_fd=folders.versions, follow_symlinks=False)
                if os.path.samestat(st, os.fstat(file)):
                    return True
            if isinstance(error, FileExistsError):
                return False
            if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM):
                raise PermissionDeniedError(
                    f"writing the document {quoted(self.name)}: link(2) is refused ({(error.strerror or '').lower()})",
                    error.errno,
                    hint="documents need a file system with hard links",
                ) from error
            raise
        return True

    def _settle_base(self, folders: Folders, base: Stored) -> None:
        """Wait until the version before ours is flushed; flush all if its writer does not. Raises OSError.

        To fsync the file of another writer while that does the same is no way: on btrfs under Linux 6.18 changes that
        rested on it were lost in simulated power cuts, one in 40 000.
        """
        if base.st.st_nlink == 1:
            return
        pause, until = _PAUSES[0], self._clock() + _PATIENCE
        while self._clock() < until:
            try:
                if os.stat(filename(base.number), dir_fd=folders.versions, follow_symlinks=False).st_nlink == 1:
                    return
            except FileNotFoundError:  # trimmed
                return
            time.sleep(pause)
            pause = min(2 * pause, _PAUSES[1])
        file = os.open(filename(base.number), files.READ, dir_fd=folders.versions)  # its writer was killed
        try:
            if not deliver.syncfs(file):
                os.sync()
        finally:
            files.close(file)

    def _trim(self, folders: Folders, head: Stored) -> None:
        """Delete the oldest versions beyond those that are to be kept. Best effort; never the current one."""
        with contextlib.suppress(OSError):
            settings = folders.settings()
            if head.number <= settings["keep"] and "keep_for" not in settings:
                return
            if self._oldest is None:
                numbers = [number for each in folders.list_versions() if (number := number_of(each)) is not None]
                self._oldest = min((number for number in numbers if number < head.number), default=head.number)
            for number in range(self._oldest, min(head.number, self._oldest + _TRIMMED)):
                if not is_trimmable(folders, number, head.number, settings):
                    return
                if self._checkpoint <= number:
                    self._write_checkpoint(head)
                    if self._checkpoint <= number:
                        return  # without it no reader would find the history again
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    os.unlink(filename(number), dir_fd=folders.versions)
                self._oldest = number + 1

    def _write_checkpoint(self, stored: Stored) -> None:
        assert self._folders is not None
        self._tried = stored.number  # who may not write one does not try at every version
        if self._only_looking:
            return
        if checkpoint.write(self._folders, stored.number, stored.digest):
            self._checkpoint = stored.number

    def _refused(self, error: OSError) -> Exception:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return DocumentNotFoundError(self.name, self.root.path)
        return storage_error(error, f"writing the document {quoted(self.name)}")

    @staticmethod
    def _unlink(folder: int, name: str) -> None:
        with contextlib.suppress(OSError):  # gc takes it away
            os.unlink(name, dir_fd=folder)


def is_trimmable(folders: Folders, number: int, current: int, settings: dict[str, int]) -> bool:
    """Return whether a version that is not the current one need not be kept: there are too many, or it is too old."""
    if number <= current - settings["keep"]:
        return True
    if number >= current or "keep_for" not in settings:
        return False
    try:
        st = os.stat(filename(number), dir_fd=folders.versions, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return st.st_mtime < time.time() - settings["keep_for"]


def _read_version(name: str, folder: int, folders: Folders) -> tuple[bytes, os.stat_result] | None:
    """Return the bytes and the stat of a file; None if there is none.

    Raises NotMailError for a file that can be no version, OSError for trouble of our own.
    """
    try:
        file = os.open(name, files.READ, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in _FORBIDDEN:
            with contextlib.suppress(OSError):  # else it is the folder that is closed to us, and no fault of the file
                st = os.stat(name, dir_fd=folder, follow_symlinks=False)
                raise NotMailError(f"its mode {stat.S_IMODE(st.st_mode):04o} does not let us read it") from None
        if error.errno == errno.EAGAIN:
            raise NotMailError("its owner holds a lease on it") from None
        if error.errno in _NO_FILE:
            raise NotMailError(f"it cannot be opened: {(error.strerror or '').lower()}") from None
        raise
    try:
        st = os.fstat(file)
        if not stat.S_ISREG(st.st_mode):
            raise NotMailError(f"it is {files.describe_type(st.st_mode)}, not a file")
        if st.st_size > MAX_SIZE:
            raise NotMailError(f"it has {st.st_size} bytes, and {MAX_SIZE} is the limit")
        readable = st.st_mode & 0o004 or (st.st_mode & 0o040 and st.st_gid == folders.group)
        if folders.shared and not readable:
            raise NotMailError(
                f"it has the mode {stat.S_IMODE(st.st_mode):04o}: the group of the document cannot read it"
            )
        data = files.read(file, st.st_size)
    finally:
        files.close(file)
    if len(data) != st.st_size:
        raise NotMailError("it is being written")
    return data, st


def _base_in(data: bytes) -> str:
    """Return the base that a version gives, wherever its history is proven otherwise."""
    at = data.find(b'"base":"')
    return data[at + 8 : at + 72].decode("ascii", "replace")
