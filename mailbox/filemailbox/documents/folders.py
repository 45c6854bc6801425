"""The folders of a document: made, opened, found, removed.

    ROOT/.documents/plan/
      versions/      0000000001.json …    the history: a version never changes
      drafts/        being written        never read; what was moved out of the way is kept here for a while
      checkpoints/   UID.json             how far that uid has verified the history
      run/           doorbells of watchers
      .settings.json {"format":1,"keep":1000}

Without a group the maker's uid writes, and others read. With a group its members add versions: the folders are setgid,
so that each version belongs to the group, and sticky, so that no member can remove or replace what another has written.

Every folder is opened by its own name under the folder above it, and never through a symbolic link. From then on all
is done relative to these descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import (
    ConflictError,
    DocumentBrokenError,
    DocumentNotFoundError,
    InvalidRequestError,
    PermissionDeniedError,
    StorageError,
    quoted,
    storage_error,
)
from ..format import codec
from ..store import deliver
from ..system import files
from . import name as naming
from .version import filename

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..store.root import Root

DOCUMENTS: Final = ".documents"
SETTINGS: Final = ".settings.json"
KEEP: Final = 1000
"""Versions that are kept, unless the settings of the document have another number."""

LEAST_KEPT: Final = 2
HALF_MADE: Final = ".new-"
"""Prefix of the name of a document that is being made."""

REMOVED: Final = ".removed-"
"""Prefix of the name of a document that was removed."""

_OPEN: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_SETTINGS_SIZE: Final = 4096


@dataclass(frozen=True, slots=True)
class Access:
    """The rights to a new document."""

    group: int | None = None
    """The gid whose members may write; None: only the maker's uid."""
    private: bool = False
    """True if only those who may write may read."""

    def modes(self) -> dict[str, int]:
        """Return the mode of each folder."""
        if self.group is None:
            open_to_all = 0o700 if self.private else 0o755
            return {"versions": open_to_all, "drafts": 0o700, "checkpoints": open_to_all, "run": open_to_all}
        shared = 0o3770 if self.private else 0o3775
        return {"versions": shared, "drafts": 0o3730, "checkpoints": shared, "run": shared}


class Folders:
    """The folders of one document, open. close() lets go of them."""

    __slots__ = ("_identity", "checkpoints", "drafts", "group", "home", "mode", "name", "owner", "path", "versions")

    def __init__(self, root: Root, name: str) -> None:
        """Open them. Raises DocumentNotFoundError, PermissionDeniedError and their kin."""
        self.name, self.path = name, f"{root.path}/{DOCUMENTS}/{name}"
        self.home = self.versions = self.drafts = self.checkpoints = -1
        try:
            self.home = _open_path(root, name.split("/"))
            self.versions = os.open("versions", _OPEN, dir_fd=self.home)
            st = os.fstat(self.versions)
            self.drafts = self._open_other("drafts")
            self.checkpoints = self._open_other("checkpoints")
        except OSError as error:
            self.close()
            if error.errno in _GONE:
                raise DocumentNotFoundError(name, root.path) from None
            raise storage_error(error, f"opening the document {quoted(name)}") from error
        self.owner, self.group, self.mode = st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)
        self._identity = st.st_dev, st.st_ino

    def still_there(self) -> bool:
        """Return whether the document at the path is the one that is open: it can have been removed."""
        try:
            st = os.stat(f"{self.path}/versions", follow_symlinks=False)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise storage_error(error, f"looking for the document {quoted(self.name)}") from error
        return (st.st_dev, st.st_ino) == self._identity

    @property
    def shared(self) -> bool:
        """True if a group may write."""
        return bool(self.mode & 0o020)

    @property
    def file_mode(self) -> int:
        """The mode of a version."""
        return 0o644 if self.mode & 0o004 else 0o640

    def settings(self) -> dict[str, int]:
        """Return `keep`, and `keep_for` in seconds if it is set. What cannot be read counts as not set."""
        found = read_small(SETTINGS, self.home) or {}
        keep, keep_for = found.get("keep"), found.get("keep_for")
        settings = {"keep": max(keep, LEAST_KEPT) if type(keep) is int else KEEP}
        return settings | ({"keep_for": keep_for} if type(keep_for) is int and keep_for > 0 else {})

    def list_versions(self) -> list[str]:
        """Return the names in versions/, in no order. Raises OSError."""
        return _listing("versions", self.home)

    def close(self) -> None:
        """Let go of the descriptors."""
        for each in (self.home, self.versions, self.drafts, self.checkpoints):
            if each >= 0:
                files.close(each)
        self.home = self.versions = self.drafts = self.checkpoints = -1

    def _open_other(self, folder: str) -> int:
        try:
            return os.open(folder, _OPEN, dir_fd=self.home)
        except (FileNotFoundError, NotADirectoryError):
            return -1  # a copy of the versions alone can be read; doctor reports the rest


def read_small(name: str, folder: int, owner: int | None = None) -> dict[str, object] | None:
    """Return the JSON object in a small file, or None if there is none that can be believed.

    With *owner*, the file must belong to that uid, and no other may be able to change it.
    """
    try:
        file = os.open(name, files.READ, dir_fd=folder)
    except OSError:
        return None
    try:
        st = os.fstat(file)
        if not stat.S_ISREG(st.st_mode) or st.st_size > _SETTINGS_SIZE:
            return None
        if owner is not None and (st.st_uid != owner or st.st_nlink != 1 or st.st_mode & 0o022):
            return None
        found = codec.loads(files.read(file, _SETTINGS_SIZE))
    except (OSError, ValueError):
        return None
    finally:
        files.close(file)
    return found if isinstance(found, dict) else None


def create(
    root: Root,
    name: str,
    first: bytes,
    access: Access,
    keep: int | None = None,
    keep_for: float | None = None,
) -> None:
    """Make the document *name* with *first*, the line of its first version. It survives a power cut.

    It is built under a hidden name, and renamed when complete. Raises ConflictError if it is there already,
    StorageError and its kin.
    """
    if keep is not None and keep < LEAST_KEPT:
        raise InvalidRequestError(f"keep= is {keep}, expected at least {LEAST_KEPT} versions")
    settings = {"format": 1, "keep": keep or KEEP} | ({"keep_for": int(keep_for)} if keep_for else {})
    *above, last = name.split("/")
    parent = building = -1
    hidden = f"{HALF_MADE}{os.urandom(6).hex()}"
    try:
        try:
            parent = _make_path(root, above)
            os.mkdir(hidden, 0o700, dir_fd=parent)
            building = os.open(hidden, _LIST, dir_fd=parent)
            _build(building, first, access, settings)
            _put_in_place(parent, hidden, building, last, name)
        except BaseException:
            if building >= 0:
                discard(parent, hidden)
            raise
        _flush(root, building, parent)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise storage_error(error, f"making the document {quoted(name)}") from error
    finally:
        for each in (building, parent):
            if each >= 0:
                files.close(each)


def remove(root: Root, name: str) -> str:
    """Remove a document by one rename, and return the path where it is kept.

    Raises DocumentNotFoundError, ConflictError if other documents lie in it, StorageError and its kin.
    """
    *above, last = name.split("/")
    parent = home = -1
    try:
        parent = _open_path(root, above)
        home = os.open(last, _LIST, dir_fd=parent)
        os.stat("versions", dir_fd=home, follow_symlinks=False)
        inside = [each for each in files.list_dir(home) if naming.is_document_name(each)]
        if inside:
            raise ConflictError(
                f"{quoted(name)} holds other documents, such as {quoted(f'{name}/{min(inside)}')}",
                hint="remove these first",
            )
        kept = f"{REMOVED}{last}-{os.urandom(6).hex()}"
        os.rename(last, kept, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError as error:
        if error.errno in _GONE:
            raise DocumentNotFoundError(name, root.path) from None
        raise storage_error(error, f"removing the document {quoted(name)}") from error
    finally:
        for each in (home, parent):
            if each >= 0:
                files.close(each)
    path = "/".join((root.path, DOCUMENTS, *above, kept))
    with contextlib.suppress(OSError):  # folders above it that hold nothing any more; a shared one stays
        for length in range(len(above), 0, -1):
            parent = _open_path(root, above[: length - 1])
            try:
                os.rmdir(above[length - 1], dir_fd=parent)
            finally:
                files.close(parent)
    return path


def documents(root: Root) -> Iterator[str]:
    """Return the names of all documents, sorted. What may not be listed is left out."""
    yield from _documents(f"{root.path}/{DOCUMENTS}", "", 1)


def documents_in(root: Root, above: str) -> Iterator[str]:
    """Return the names of the documents in the folder *above*, sorted. What may not be listed is left out."""
    depth = above.count("/") + 2
    yield from _documents(f"{root.path}/{DOCUMENTS}/{above}", f"{above}/", depth)


def open_to_all(root: Root, name: str) -> None:
    """Make the folder *name*, in which each uid can make documents, but not remove or replace those of others.

    Only root makes it, so that no agent owns it. One that is there is left unchanged. Raises StorageError.
    """
    folder = -1
    try:
        parent = _make_path(root, [])
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            folder = os.open(name, _LIST, dir_fd=parent)
            if os.fstat(folder).st_uid == os.geteuid():
                os.fchmod(folder, 0o1777)
        except FileExistsError:
            pass
        finally:
            files.close(parent)
    except OSError as error:
        raise storage_error(error, f"making the folder {quoted(name)} of documents") from error
    finally:
        if folder >= 0:
            files.close(folder)


def _documents(path: str, above: str, depth: int) -> Iterator[str]:
    try:
        with os.scandir(path) as entries:
            found = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    for each in found:
        if each in naming.FOLDERS or not naming.is_document_name(each):
            continue
        name = f"{above}{each}"
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(os.stat(f"{path}/{each}/versions", follow_symlinks=False).st_mode):
                yield name
        if depth < naming.MAX_PARTS:
            yield from _documents(f"{path}/{each}", f"{name}/", depth + 1)


def discard(parent: int, name: str) -> None:
    """Delete a document's folder that is hidden, as far as that can be done. Links are not followed."""
    import shutil

    with contextlib.suppress(OSError):
        shutil.rmtree(name, ignore_errors=True, dir_fd=parent)


def write_all(file: int, data: bytes) -> None:
    """Write *data* to an open file. A full disk shows only on the write after a short one."""
    written = os.write(file, data)
    while written < len(data):
        written += os.write(file, data[written:])


def _listing(folder: str, above: int) -> list[str]:
    opened = os.open(folder, _LIST, dir_fd=above)
    try:
        return os.listdir(opened)
    finally:
        files.close(opened)


def _open_path(root: Root, parts: list[str]) -> int:
    """Open the folder with these names, one below the other, none of them a link. Raises OSError."""
    folder = os.open(f"{root.path}/{DOCUMENTS}", _OPEN)
    for part in parts:
        try:
            below = os.open(part, _OPEN, dir_fd=folder)
        finally:
            files.close(folder)
        folder = below
    return folder


def _make_path(root: Root, parts: list[str]) -> int:
    """As _open_path(), and make what is missing."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(f"{root.path}/{DOCUMENTS}", 0o755)
    folder = os.open(f"{root.path}/{DOCUMENTS}", _OPEN)
    for part in parts:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=folder)
            below = os.open(part, _OPEN, dir_fd=folder)
        finally:
            files.close(folder)
        folder = below
    return folder


def _build(building: int, first: bytes, access: Access, settings: dict[str, int]) -> None:
    for folder, mode in access.modes().items():
        os.mkdir(folder, 0o700, dir_fd=building)
        opened = os.open(folder, _LIST, dir_fd=building)
        try:
            if folder == "versions":
                _write(filename(1), opened, first, 0o640 if access.private else 0o644, access.group)
                os.fsync(opened)
            _set(opened, folder, mode, access.group)
        finally:
            files.close(opened)
    _write(SETTINGS, building, codec.dumps(settings, None, codec.LINE), 0o644, None)
    os.fchmod(building, 0o755)
    os.fsync(building)


def _write(name: str, folder: int, data: bytes, mode: int, group: int | None) -> None:
    file = os.open(name, NEW_FILE, 0o600, dir_fd=folder)
    try:
        write_all(file, data)
        if group is not None:
            os.fchown(file, -1, group)
        os.fchmod(file, mode)
        os.fsync(file)
    finally:
        os.close(file)


def _set(folder: int, name: str, mode: int, group: int | None) -> None:
    """Give an open folder this mode and group. Raises PermissionDeniedError if they do not take."""
    if group is not None:
        os.fchown(folder, -1, group)
    os.fchmod(folder, mode)
    st = os.fstat(folder)
    if stat.S_IMODE(st.st_mode) != mode or (group is not None and st.st_gid != group):
        raise PermissionDeniedError(
            f"{name}/ has the mode {stat.S_IMODE(st.st_mode):04o} and the group {st.st_gid}, wanted {mode:04o}"
            + (f" and {group}" if group is not None else "")
            + ": this file system or user cannot set them",
            errno.EPERM,
        )


def _put_in_place(parent: int, hidden: str, building: int, last: str, name: str) -> None:
    """Rename a document that is complete to its name. Raises ConflictError if there is one."""
    try:
        os.rename(hidden, last, src_dir_fd=parent, dst_dir_fd=parent)  # refused if that folder holds anything
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
    home = os.open(last, _OPEN, dir_fd=parent)  # a folder in which other documents lie: this one moves in
    try:
        try:
            os.stat("versions", dir_fd=home, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            raise ConflictError(f"there is a document {quoted(name)} already")
        st = os.fstat(home)
        if st.st_uid != os.geteuid() or st.st_mode & 0o022:
            raise PermissionDeniedError(
                f"making the document {quoted(name)}: the folder of that name belongs to uid {st.st_uid} and has the "
                f"mode {stat.S_IMODE(st.st_mode):04o}, so others could put another document in its place",
                errno.EACCES,
            )
        for each in (SETTINGS, *reversed(naming.FOLDERS)):  # versions/ is the last: with it the document is there
            with contextlib.suppress(FileExistsError):
                os.rename(each, each, src_dir_fd=building, dst_dir_fd=home)
    finally:
        files.close(home)
    discard(parent, hidden)


def _flush(root: Root, building: int, parent: int) -> None:
    """Flush each folder whose entries are new: the parent, those above it, and the root."""
    try:
        opened = os.open(".", _LIST, dir_fd=parent)
        try:
            os.fsync(opened)
        finally:
            files.close(opened)
        for path in (f"{root.path}/{DOCUMENTS}", root.path):
            opened = os.open(path, _LIST & ~os.O_NOFOLLOW)
            try:
                os.fsync(opened)
            finally:
                files.close(opened)
    except PermissionError:  # it can be written to and not be read: one flush for all
        if not deliver.syncfs(building):
            os.sync()


def broken(name: str, why: str) -> DocumentBrokenError:
    """Return the error for a history that cannot be gone on with."""
    return DocumentBrokenError(f"the document {quoted(name)} is broken: {why}", hint="`mailbox doctor` shows more")
