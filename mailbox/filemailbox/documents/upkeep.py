"""Upkeep: what is left over in documents, what is wrong with them, and how they are. For gc, doctor and status.

Root runs this over folders that agents own. So every folder is opened by its own name under the one above it, never
through a link, and what is deleted is deleted by name in such a folder.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..errors import MailboxError, quoted
from ..wake.doorbell import has_listener
from . import checkpoint
from . import folders as layout
from .folders import DOCUMENTS, HALF_MADE, REMOVED, Folders
from .history import History, Stored, is_trimmable
from .name import FOLDERS, MAX_PARTS, is_document_name
from .version import filename, number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..store.root import Root

ABANDONED: Final = 36 * 3600.0  # seconds after which a draft is abandoned, as in tmp/ of a box
_BELL: Final = 60.0  # seconds
_CROWDED: Final = 10  # times as many files as are to be kept: worth a warning


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something to take away: what it is, where, and how."""

    what: str
    path: str
    how: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or worth a look."""

    level: str
    where: str
    what: str
    advice: str = ""
    fix: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class DocumentStatus:
    """One document at a glance. `problem` is the reason if the rest is not known."""

    name: str
    version: int | None = None
    by: str | None = None
    at: str | None = None
    size: int | None = None
    note: str | None = None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {each: getattr(self, each) for each in self.__slots__}


def inventory(root: Root) -> Iterator[DocumentStatus]:
    """Return all documents, sorted by name."""
    for name in layout.documents(root):
        history = History(root, name, only_looking=True)
        try:
            head = history.head()
        except MailboxError as error:
            yield DocumentStatus(name, problem=str(error))
            continue
        finally:
            history.close()
        says = head.members
        yield DocumentStatus(name, head.number, says["by"], says["at"], len(head.data), says.get("note"))


def garbage(root: Root, older_than: float | None = None) -> Iterator[Garbage]:
    """Return what is left over, documents included that were removed more than *older_than* seconds ago.

    Nothing is touched before its `how` is called. Call it before you ask for the next one: then its folder is closed.
    """
    path = f"{root.path}/{DOCUMENTS}"
    try:
        top = os.open(path, layout._LIST)
    except OSError:
        return
    try:
        yield from _garbage_in(top, path, older_than, 1)
    finally:
        os.close(top)
    for name in layout.documents(root):
        with contextlib.suppress(MailboxError, OSError):
            yield from _garbage_of(root, name)


def _garbage_in(folder: int, path: str, older_than: float | None, depth: int) -> Iterator[Garbage]:
    """Documents half made, or removed."""
    for name, st in _entries(folder):
        if not stat.S_ISDIR(st.st_mode):
            continue
        here = f"{path}/{name}"
        age = time.time() - max(st.st_mtime, st.st_ctime)
        if name.startswith(HALF_MADE) and time.time() - st.st_mtime > ABANDONED:
            yield Garbage("a document that was never finished", here, partial(layout.discard, folder, name))
        elif name.startswith(REMOVED) and older_than is not None and age > older_than:
            yield Garbage("a document removed long enough ago", here, partial(layout.discard, folder, name))
        elif is_document_name(name) and name not in FOLDERS and depth < MAX_PARTS:
            with contextlib.suppress(OSError):
                below = os.open(name, layout._LIST, dir_fd=folder)
                try:
                    yield from _garbage_in(below, here, older_than, depth + 1)
                finally:
                    os.close(below)


def _garbage_of(root: Root, name: str) -> Iterator[Garbage]:
    history = History(root, name, only_looking=True)
    try:
        folders = history.folders
        if os.geteuid() not in (0, folders.owner):
            return
        for folder, what in (("drafts", "a draft of a document"), ("checkpoints", "a checkpoint, half written")):
            for each, opened, st in _files_in(folders, folder):
                hidden = folder == "drafts" or each.startswith(".")
                if hidden and time.time() - max(st.st_mtime, st.st_ctime) > ABANDONED:
                    path = f"{folders.path}/{folder}/{each}"
                    yield Garbage(f"{what} that is older than 36 hours", path, partial(_unlink, each, opened))
        for each, opened, st in _files_in(folders, "run"):
            path = f"{folders.path}/run/{each}"
            if stat.S_ISSOCK(st.st_mode) and time.time() - st.st_mtime > _BELL and not has_listener(path):
                yield Garbage("a doorbell without a listener", path, partial(_unlink, each, opened))
        head = history.head()
        if history.obstacle is not None:
            path = f"{folders.path}/versions/{filename(history.obstacle.number)}"
            yield Garbage("a file in the place of the next version, to move away", path, history.make_way)
        yield from _old_versions(folders, head)
    finally:
        history.close()


def _old_versions(folders: Folders, head: Stored) -> Iterator[Garbage]:
    """Versions beyond those that are kept. Before the first goes, a checkpoint records where the history goes on."""
    settings = folders.settings()
    numbers = sorted(number for each in folders.list_versions() if (number := number_of(each)) is not None)
    old = [each for each in numbers if each < head.number and is_trimmable(folders, each, head.number, settings)]
    mark = checkpoint.of(folders, folders.owner)
    if (head.number >= (mark[0] if mark else 0) + checkpoint.EVERY) or (old and (mark is None or mark[0] <= old[-1])):
        path = f"{folders.path}/checkpoints/{folders.owner}.json"
        how = partial(checkpoint.write, folders, head.number, head.digest, folders.owner)
        yield Garbage(f"a checkpoint that is old: it moves to version {head.number}", path, how)
        mark = checkpoint.of(folders, folders.owner)
    for number in old:
        if mark is not None and mark[0] > number:  # else no reader would find the history again
            path = f"{folders.path}/versions/{filename(number)}"
            take_away = partial(_unlink, filename(number), folders.versions)
            yield Garbage("a version that is not kept any more", path, take_away)


def findings(root: Root) -> Iterator[Finding]:
    """Return what is wrong with the documents of a root. Nothing is changed; `fix` of a finding does that."""
    try:
        st = os.lstat(f"{root.path}/{DOCUMENTS}")
    except FileNotFoundError:
        return
    mode = stat.S_IMODE(st.st_mode)
    if not stat.S_ISDIR(st.st_mode):
        yield Finding("wrong", DOCUMENTS, "it is not a folder", "move it out of the way")
        return
    if mode & 0o022 and not mode & stat.S_ISVTX:
        yield Finding(
            "wrong",
            DOCUMENTS,
            f"it has the mode {mode:04o}: others can move whole documents away and put others in their place",
            "chmod 0755, or 1777 if any agent may make documents",
        )
    for name in layout.documents(root):
        history = History(root, name, only_looking=True)
        try:
            yield from _findings_of(history, f"{DOCUMENTS}/{name}")
        except MailboxError as error:
            yield Finding("wrong", f"{DOCUMENTS}/{name}", str(error), _advice(error))
        except OSError as error:
            yield Finding(
                "note", f"{DOCUMENTS}/{name}", f"it cannot be examined: {error.strerror}", "run doctor as root"
            )
        finally:
            history.close()


def _advice(error: MailboxError) -> str:
    from ..errors import DocumentBrokenError

    if isinstance(error, DocumentBrokenError):
        return (
            "what other agents have written is still in versions/: read the newest good version there, and put it "
            "into a new document. If a backup was restored, delete the files in checkpoints/"
        )
    return ""


def _findings_of(history: History, where: str) -> Iterator[Finding]:
    folders = history.folders
    yield from _modes(folders, where)
    head = history.head()
    if (obstacle := history.obstacle) is not None:
        st = os.stat(filename(obstacle.number), dir_fd=folders.versions, follow_symlinks=False)
        may = os.geteuid() in (0, folders.owner, st.st_uid)
        yield Finding(
            "wrong",
            where,
            f"it cannot be written: the number of version {obstacle.number} is taken by a file of uid {st.st_uid} that "
            f"is no version: {obstacle.why}",
            "it is moved to drafts/" if may else "its owner, the document's owner or root moves it away",
            _mover(history.root, history.name) if may else None,
        )
    numbers = [number for each in folders.list_versions() if (number := number_of(each)) is not None]
    beyond = sorted(number for number in numbers if number > head.number + (obstacle is not None))
    if beyond:
        yield Finding(
            "warning",
            where,
            f"{len(beyond)} files have numbers beyond the current version, {head.number}: {beyond[0]}"
            + (f" to {beyond[-1]}" if len(beyond) > 1 else ""),
            "they change nothing. If they were versions once, one of those before them was deleted: keep a copy",
        )
    if len(numbers) > _CROWDED * folders.settings()["keep"]:
        yield Finding(
            "warning",
            where,
            f"{len(numbers)} versions lie there, and {folders.settings()['keep']} are kept",
            "`mailbox gc` deletes those that are too old",
        )


def _modes(folders: Folders, where: str) -> Iterator[Finding]:
    """Folders that are missing, or have modes and owners that do not do what they are for."""
    mode = folders.mode
    if (above := os.fstat(folders.home)).st_uid != folders.owner or above.st_mode & 0o022:
        yield Finding(
            "wrong",
            where,
            f"its folder belongs to uid {above.st_uid} and has the mode {stat.S_IMODE(above.st_mode):04o}: others than "
            f"the owner of its versions, uid {folders.owner}, can put other versions in their place",
            f"chown {folders.owner} {folders.path}; chmod 0755 {folders.path}",
        )
    if mode & 0o002 and not mode & stat.S_ISVTX:
        yield Finding(
            "wrong",
            where,
            f"its versions/ has the mode {mode:04o}: every uid can delete what others have written",
            "expected 0755, or 3775 with a group",
            _setter(folders, mode & ~0o002),
        )
    elif mode & 0o020 and mode & 0o3000 != 0o3000:
        yield Finding(
            "wrong",
            where,
            f"its versions/ has the mode {mode:04o}: members can delete what others have written, or cannot read it",
            f"expected {mode | 0o3000:04o}",
            _setter(folders, mode | 0o3000),
        )
    for each in FOLDERS:
        try:
            st = os.stat(each, dir_fd=folders.home, follow_symlinks=False)
        except FileNotFoundError:
            yield Finding("wrong", where, f"it has no {each}/", "make it, with the mode in FORMAT.md")
            continue
        if not stat.S_ISDIR(st.st_mode):
            yield Finding("wrong", where, f"its {each} is not a folder", "move it out of the way")
        elif st.st_uid != folders.owner:
            yield Finding(
                "wrong",
                where,
                f"its {each}/ belongs to uid {st.st_uid}, and versions/ to {folders.owner}",
                f"chown {folders.owner} {folders.path}/{each}",
            )


def _setter(folders: Folders, mode: int) -> Callable[[], object] | None:
    if os.geteuid() not in (0, folders.owner):
        return None
    root, name = folders.path.split(f"/{DOCUMENTS}/", 1)
    seen = folders.owner, folders.mode

    def fix() -> None:
        from ..store.root import Root

        opened = Folders(Root(root), name)
        try:
            if (opened.owner, opened.mode) != seen:
                return  # another folder than the one that was examined
            os.chmod(f"/proc/self/fd/{opened.versions}", mode)
        finally:
            opened.close()

    return fix


def _mover(root: Root, name: str) -> Callable[[], object]:
    def fix() -> None:
        history = History(root, name)
        try:
            history.head()
            history.make_way()
        finally:
            history.close()

    return fix


def _files_in(folders: Folders, folder: str) -> Iterator[tuple[str, int, os.stat_result]]:
    """Yield each file in a folder of a document, but no folders: its name, the open folder, its stat."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, layout._LIST, dir_fd=folders.home)
        try:
            for name, st in _entries(opened):
                if not stat.S_ISDIR(st.st_mode):
                    yield name, opened, st
        finally:
            os.close(opened)


def _entries(folder: int) -> Iterator[tuple[str, os.stat_result]]:
    for name in sorted(os.listdir(folder)):
        with contextlib.suppress(FileNotFoundError):
            yield name, os.stat(name, dir_fd=folder, follow_symlinks=False)


def _unlink(name: str, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # a folder in their place stops no sweep
        os.unlink(name, dir_fd=folder)


def summary(root: Root) -> str | None:
    """Return the documents of a root in a sentence; None if there are none."""
    every = list(inventory(root))
    if not every:
        return None
    wrong = [each.name for each in every if each.problem]
    return f"documents: {len(every)}" + (
        f", {len(wrong)} of them broken or closed: {quoted(wrong[0])} …" if wrong else ""
    )
