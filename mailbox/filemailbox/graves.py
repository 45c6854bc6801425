"""Dead letters: the file untouched in `dead/`, and beside it, in a `.why`, the reason, for a person to read.

The reason is written first and is best effort; the dead letter is not. None is ever written over by another.
"""

import contextlib
import os
import time

from . import log, names
from .acting import opened
from .errors import quoted
from .names import Name
from .place import Folders
from .root import adopt


class Graves:
    """The dead letters of one box."""

    __slots__ = ("_folders",)

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def bury(self, name: str, folder: int, reason: str, detail: str) -> None:
        """Bury what was claimed, and lies in our *folder*. Raises OSError where it cannot be moved."""
        grave = self._grave(name)
        self.explain(grave, reason, detail)
        os.rename(name, grave, src_dir_fd=folder, dst_dir_fd=self._folders["dead"])
        log.warning("dead letter %s in the box %s: %s", grave, self._folders.address, reason)

    def bury_new(self, text: str, reason: str, size: int) -> None:
        """Bury what was never claimed. A foreign name gets an id, so that two files of one name never meet.

        Raises OSError where it cannot be moved; that another consumer was faster is no error.
        """
        name = names.parse(text)
        grave = self._grave(str(Name(name.id, size) if name else Name(names.new_id(), size, stem=names.stem(text))))
        self.explain(grave, reason, f"its name was {quoted(text)}")
        try:
            os.rename(text, grave, src_dir_fd=self._folders["new"], dst_dir_fd=self._folders["dead"])
            log.warning("dead letter %s in the box %s: %s", grave, self._folders.address, reason)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(_why(grave), dir_fd=self._folders["dead"])
            if not isinstance(error, FileNotFoundError):  # else another consumer was faster
                raise

    def requeue(self, text: str) -> tuple[str, tuple[int, str] | None]:
        """Deliver it once more, the attempts counted anew: its id, and when and as what it comes back from `later/`.

        Not from there where a relay had sent it back. Raises OSError.
        """
        box, dead = self._folders.box, self._folders["dead"]
        size = os.stat(text, dir_fd=dead, follow_symlinks=False).st_size  # a person may have mended it
        name = names.parse(text) or Name(names.new_id(), stem=names.stem(text))
        now, due = time.time_ns(), None
        if ",B=" in text and os.path.isdir(f"{box}/outbox"):  # a relay sent it back: it goes out again
            with opened(box) as home, opened("outbox", home, os.fstat(home).st_uid) as outbox:
                os.rename(text, str(Name(name.id, size, stem=name.stem)), src_dir_fd=dead, dst_dir_fd=outbox)
        else:
            back = names.timed(names.stamp(now), str(name.but(size=size, attempt=1, requeued=name.requeued + 1)))
            os.rename(text, back, src_dir_fd=dead, dst_dir_fd=self._folders["later"])
            due = now, back
        with contextlib.suppress(OSError):
            os.unlink(_why(text), dir_fd=dead)
        return name.id, due

    def purge(self, text: str) -> None:
        """Delete it and its `.why`. Raises OSError."""
        os.unlink(text, dir_fd=self._folders["dead"])
        with contextlib.suppress(OSError):
            os.unlink(_why(text), dir_fd=self._folders["dead"])

    def explain(self, grave: str, reason: str, detail: str) -> None:
        """Write the `.why`. Best effort: a full disk must not stop the settling."""
        text = f"{reason}\n" + (f"\n{detail.rstrip()}\n" if detail else "")
        path = f"{self._folders.box}/dead/{_why(grave)}"
        try:
            file = os.open(
                _why(grave),
                os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
                dir_fd=self._folders["dead"],
            )
            try:
                os.write(file, text.encode("utf-8", "backslashreplace"))
                adopt(file, self._folders.box)
            finally:
                os.close(file)
        except OSError as error:
            log.warning("cannot write %s: %s", path, error.strerror)

    def _grave(self, name: str) -> str:
        """*name*, or, where a dead letter lies under it already, one with a fresh id."""
        try:
            os.stat(name, dir_fd=self._folders["dead"], follow_symlinks=False)
        except FileNotFoundError:
            return name
        parts = names.parse(name)
        return str(Name(names.new_id(), parts.size if parts else None, stem=names.stem(name)))


def _why(name: str) -> str:
    return name.removesuffix(".json") + ".why"
