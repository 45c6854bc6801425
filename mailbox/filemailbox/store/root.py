"""The root: the volume that holds the boxes. And a box: a place in it, for one agent."""

from __future__ import annotations

import contextlib
import os
import stat

from ..errors import (
    BoxNotFoundError,
    RootNotFoundError,
    StorageError,
    quoted,
    storage_error,
)
from ..format import codec
from ..format.address import Address, is_address
from ..system.files import READ, read
from .layout import FORMAT, MARKER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_MARK: Final = b'{"format": %d}\n' % FORMAT

RESERVED: Final = ("documents", "removed")
"""Names that no box can have: `.NAME` is used for something else."""


class Root:
    """A mail volume that is there and in a format that we know."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Root) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"Root({self.path!r})"

    def box(self, address: Address) -> Box:
        """Return the box of that address, which may not exist."""
        return Box(self, address)

    @property
    def removed_dir(self) -> str:
        """The path of the folder of removed boxes, which may not exist."""
        return f"{self.path}/.removed"

    def boxes(self) -> list[Address]:
        """Return the addresses that have a box here, sorted."""
        try:
            with os.scandir(self.path) as entries:
                found = [entry.name for entry in entries if is_address(entry.name) and _is_folder(entry)]
        except OSError as error:
            raise storage_error(error, f"listing the boxes in {quoted(self.path)}") from error
        return [Address(name) for name in sorted(found)]

    def has(self, name: Address) -> bool:
        """Return True if there is a box of that name. Raises StorageError if that cannot be known."""
        try:
            return stat.S_ISDIR(os.stat(f"{self.path}/{name}/new").st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except PermissionError:
            return True  # it is there, and closed to us
        except OSError as error:
            raise storage_error(error, f"looking for the box {quoted(name)}") from error

    def missing(self, name: str, sender: str | None = None) -> RootNotFoundError | BoxNotFoundError:
        """Return the error for a box that turned out not to be there: its volume may have gone away as well.

        *sender* is given if the error is for an agent that writes to that box.
        """
        try:
            find_root(self.path)
        except RootNotFoundError as error:
            return error
        with contextlib.suppress(StorageError):
            return BoxNotFoundError(name, self.path, self.boxes(), sender=sender)
        return BoxNotFoundError(name, self.path, sender=sender)


class Box:
    """The inbox of one agent in a root, which may not exist. A path-like object: str() and f-strings give its path."""

    __slots__ = ("address", "path", "root")

    def __init__(self, root: Root, address: Address) -> None:
        self.root, self.address = root, address
        self.path = f"{root.path}/{address}"

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"Box({self.path!r})"

    def exists(self) -> bool:
        """Return True if there is such a box. Raises StorageError if that cannot be known."""
        return self.root.has(self.address)

    def missing(self) -> RootNotFoundError | BoxNotFoundError:
        """Return the error for a box that turned out not to be there: its volume may have gone away as well."""
        return self.root.missing(self.address)


def find_root(path: str | os.PathLike[str]) -> Root:
    """Return the root at *path*. Raises RootNotFoundError if there is none, or one of an unknown format."""
    where = os.path.abspath(path)
    try:
        marker = os.open(f"{where}/{MARKER}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            text = os.read(marker, 4096)
        finally:
            os.close(marker)
        said = {"format": FORMAT} if text == _MARK else codec.loads(text)  # what we write is known without reading
    except FileNotFoundError:
        why = f"it holds no {MARKER} file" if os.path.isdir(where) else "there is no such folder"
        raise RootNotFoundError(where, why) from None
    except OSError as error:
        raise storage_error(error, f"reading {quoted(f'{where}/{MARKER}')}") from error
    except ValueError:
        raise RootNotFoundError(where, f"its {MARKER} file is not JSON") from None
    version = said.get("format") if isinstance(said, dict) else None
    if type(version) is bool or version != FORMAT:  # True == 1
        raise RootNotFoundError(where, f"its format is {quoted(version)} and this program knows {FORMAT}")
    return Root(where)


def read_marker(root: Root) -> dict[str, Any]:
    """Return the members of the root's marker beside its format: `groups`, and `relay`, the uid of the relay."""
    try:
        marker = os.open(f"{root.path}/{MARKER}", READ)  # never through a link: its content is shown to others
        try:
            said = codec.loads(read(marker, 65536)) if stat.S_ISREG(os.fstat(marker).st_mode) else {}
        finally:
            os.close(marker)
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def set_marker(root: Root, member: str, value: Any) -> None:
    """Set a member of the root's marker. Raises StorageError."""
    said = {"format": FORMAT, **read_marker(root)}
    if said.get(member) != value:
        try:
            _write(root.path, MARKER, codec.dumps({**said, member: value}, None, codec.LINE).decode())
        except OSError as error:
            raise storage_error(error, f"writing {quoted(f'{root.path}/{MARKER}')}") from error


def init_root(path: str | os.PathLike[str]) -> Root:
    """Return the root at *path*; make it if there is none. The folder above it must exist."""
    where = os.path.abspath(path)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(where)
        if not _is_there(f"{where}/{MARKER}"):
            _write(where, MARKER, _MARK.decode())
    except FileNotFoundError as error:
        raise RootNotFoundError(where, f"there is no folder {quoted(os.path.dirname(where))} to make it in") from error
    except OSError as error:
        raise storage_error(error, f"making the root {quoted(where)}") from error
    return find_root(where)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # for example a link to itself: it hides no box
        return False


def _is_there(path: str) -> bool:
    """Return True if there is such a file. Raises OSError if that cannot be known, as os.path.exists() does not."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _write(path: str, name: str, text: str) -> None:
    draft = f"{name}.{os.urandom(6).hex()}"
    from ..system.as_owner import opened  # who only sends writes nothing here

    with opened(path, follow=True) as folder:
        file = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=folder)
        with open(file, "w") as writer:
            os.fchmod(writer.fileno(), 0o644)
            writer.write(text)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
