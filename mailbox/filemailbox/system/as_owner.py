"""Actions in a box with the rights of its owner.

Root may do anything to anything, and the owner of a box may put a link, or another folder, in the place of whatever is
in it, at any moment. So root never acts in a box of another uid. A child of a fork becomes the owner,
uid, gid and no other group, and acts: it can do no more than the owner could do anyway. The box is an open descriptor
that was checked, never a path.

Data comes back through a pipe, as JSON, and never code: nothing in it can make root do anything. The owner
can stop or kill a process of its own uid. Both end this one piece of work with an error, and nothing else.

Where we are not root, or the box is ours, there is nothing to give up: then no process is forked.
"""

from __future__ import annotations

import contextlib
import errno
import os

from .. import errors
from ..errors import MailboxError, PermissionDeniedError, StorageError, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Final, TypeVar

    T = TypeVar("T")

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OFTEN: Final = 250  # milliseconds between two looks whether the child was stopped
_BATCH: Final = 65536
_NEEDED: Final = ("ctypes", "json", "logging", "select", "shutil", "signal", "socket")
"""Modules that a job may import once it has begun. The owner may not be able to read them, so root imports them."""


@contextlib.contextmanager
def opened(path: str, folder: int | None = None, owner: int | None = None, *, follow: bool = False) -> Iterator[int]:
    """The folder at *path*, or of that name in *folder*, open for a block: never through a link.

    But the operator may have named a root by a link: *follow*.
    Raises PermissionDeniedError where it is not the uid *owner*'s, NotADirectoryError or ELOOP where it is no folder.
    """
    file = os.open(path, _FOLDER & ~os.O_NOFOLLOW if follow else _FOLDER, dir_fd=folder)
    try:
        found = os.fstat(file).st_uid
        if owner is not None and found != owner:
            raise PermissionDeniedError(
                f"{quoted(path)} belongs to the uid {found}, and the box to {owner}: another uid has put it there",
                errno.EPERM,
            )
        yield file
    finally:
        os.close(file)


def at(folder: int, name: str = "") -> str:
    """A path to what an open folder holds, which leads nowhere else: for calls that take no descriptor."""
    return f"/proc/self/fd/{folder}/{name}" if name else f"/proc/self/fd/{folder}"


def is_foreign(box: int) -> bool:
    """Return True if we are root and the open folder belongs to another uid."""
    return os.geteuid() == 0 and os.fstat(box).st_uid != 0


def call(box: int, job: Callable[[], T]) -> T:
    """Run *job* as the owner of the open folder *box*. Return its result, which is JSON. Raises its errors."""
    [result] = stream(box, lambda: [job()])
    return result


def stream(box: int, job: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Run *job* as the owner of the open folder *box*. Yield its items, which are JSON. Raises the errors of the job.

    *job* may run in another process, ahead of the items that were taken here.
    """
    if not is_foreign(box):
        yield from job()
        return
    facts = os.fstat(box)
    heard, tell = os.pipe()
    try:
        child = _fork()
        if child == 0:
            os.close(heard)  # else it would not find out that we have gone
            _serve(facts.st_uid, facts.st_gid, tell, job)
    except BaseException:
        os.close(heard)
        raise
    finally:
        os.close(tell)
    try:
        yield from _heard(child, heard, facts.st_uid)
    finally:
        os.close(heard)
        import signal

        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # it has ended, or no more of it is wanted
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _fork() -> int:
    import importlib
    import warnings

    for name in _NEEDED:
        importlib.import_module(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads may run: the child needs none of them
        return os.fork()


def _serve(uid: int, gid: int, tell: int, job: Callable[[], Iterable[Any]]) -> None:
    """In the child: become the owner, run the job, send its items, and end. Never returns."""
    status = 1
    try:
        import signal

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        _become(uid, gid)
        for item in job():
            _say(tell, {"item": item})
        _say(tell, {"end": True})
        status = 0
    except BaseException as error:  # noqa: BLE001  # nothing of this may go on in the child
        with contextlib.suppress(BaseException):
            _say(tell, {"error": flat(error)})
    finally:
        os._exit(status)


def _become(uid: int, gid: int) -> None:
    """From here on, and for good, this process has the rights of *uid* and *gid*, and no others."""
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise PermissionDeniedError(
            f"the box belongs to {uid}:{gid}, and root cannot become that here "
            f"({(error.strerror or str(error)).lower()}): run this as {uid}:{gid}, or with the capabilities SETUID and "
            "SETGID",
            errno.EPERM,
        ) from None
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid) or _capable():
        raise PermissionDeniedError(f"root became {uid}:{gid} and has kept rights that these have not", errno.EPERM)


def _capable() -> bool:
    """Return True if capabilities are left: with unusual securebits they outlive the change of the uid."""
    with open("/proc/self/status", "rb") as status:
        return any(line.startswith(b"CapEff:") and int(line.split()[1], 16) for line in status)


def _say(tell: int, said: dict[str, Any]) -> None:
    import json

    view = memoryview(json.dumps(said).encode() + b"\n")
    while view:
        view = view[os.write(tell, view) :]


def _heard(child: int, heard: int, uid: int) -> Iterator[Any]:
    """Yield the items that the child sends, until its end mark."""
    import json
    import select

    pipe, rest = select.poll(), b""
    pipe.register(heard, select.POLLIN)
    while True:
        while not pipe.poll(_OFTEN):
            with contextlib.suppress(ChildProcessError):
                _, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
                if status and os.WIFSTOPPED(status):
                    raise _ended(uid, "stopped")
        more = os.read(heard, _BATCH)
        if not more:
            raise _ended(uid, "killed")
        *lines, rest = (rest + more).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "item" in said:
                yield said["item"]
            elif "error" in said:
                raise raised(said["error"])
            else:
                return


def _ended(uid: int, how: str) -> StorageError:
    return StorageError(f"the process that acted for the owner of the box, the uid {uid}, was {how}: try again")


def flat(error: BaseException) -> dict[str, Any]:
    """An error as data."""
    if isinstance(error, MailboxError):
        facts = {name: value for name, value in error.__dict__.items() if isinstance(value, (str, int, list))}
        code = error.errno if isinstance(error, OSError) else None
        return {"kind": type(error).__name__, "args": [str(arg) for arg in error.args], "facts": facts, "errno": code}
    if isinstance(error, OSError):
        name = error.filename if isinstance(error.filename, str) else None
        return {"kind": "OSError", "errno": error.errno, "args": [error.strerror or str(error), name]}
    return {"kind": "", "args": [f"{type(error).__name__}: {error}"]}


def raised(said: dict[str, Any]) -> Exception:
    """The error that the child had."""
    kind, args, code = said["kind"], said["args"], said.get("errno")
    if kind == "OSError":
        return OSError(code or 0, *args) if args[1] is not None else OSError(code or 0, args[0])
    found = getattr(errors, kind, None) if kind else None
    if isinstance(found, type) and issubclass(found, StorageError):
        return found(str(said["facts"].get("text", args[-1] if args else "")), code)
    if isinstance(found, type) and issubclass(found, MailboxError):
        error = found.__new__(found)
        Exception.__init__(error, *args)
        error.__dict__.update(said["facts"])
        return error
    return MailboxError(f"acting for the owner of a box failed: {args[0]}")
