"""The notes of a session: the mail that it was shown and has not settled. And its presence, for other agents.

A session is `sha256(session_id)[:12]`, HEX below. Three files in `run/` of its box belong to it:

    .session-HEX      0600  the notes, by rename, under the lock; removed when there is nothing to note
    .hook-HEX         0600  the lock: hooks of parallel tool calls take turns. The kernel drops it with its holder
    session-HEX.json  0644  the presence: client, doing, since, holds. For people, and no part of the format

A note is written before its message is shown, so a crash shows a message twice at the worst. Notes that cannot be read
are as none: then the lease brings the message back. A hook deletes the files of other sessions that did nothing for
longer than a lease lasts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time

from ..format import codec
from ..store.layout import is_session_file
from ..system.files import FOLDER, READ, close, list_dir, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

    from ..store.root import Box

MAX_NOTES: Final = 256 * 1024
"""Bytes of a notes file that are read. Larger ones are as none."""

_MAX_REMINDED: Final = 50
_LOCK_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PRESENCE_PREFIX: Final = "session-"
_MAX_SESSIONS: Final = 1000
"""Sessions of one box that are listed or swept: its owner can put any number of files into `run/`."""

WORKING: Final = "working"
IDLE: Final = "idle"
ENDED: Final = "ended"


def session_hex(session_id: str) -> str:
    """Return the twelve hex digits by which the files of a session are named."""
    from hashlib import sha256

    return sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]


class Notes:
    """The mail that one session was shown and has not settled. Made by opened(), which holds the lock."""

    def __init__(self, run: int, hex: str) -> None:
        self.run, self.hex = run, hex
        kept = _load(run, f".session-{hex}", MAX_NOTES)
        self._is_there = kept is not None
        kept = kept or {}
        self.holds: dict[str, int] = _texts(kept.get("holds"), int)
        """For each id that was shown and not settled, the number of the turn that had it first."""
        self.asked: dict[str, str] = _texts(kept.get("asked"), str)
        """For each id whose sender waited when it was shown, that sender."""
        self.reminded: list[str] = [each for each in _items(kept.get("reminded")) if isinstance(each, str)]
        """Ids of which the model was reminded once that they are not answered."""
        self.prolonged: int = _number(kept.get("blocks"))
        """Times that mail prolonged this turn."""
        self.turn: int = _number(kept.get("turn"))
        """Prompts so far."""
        fence = kept.get("fence")
        self.fence: str = fence if isinstance(fence, str) else ""
        """The fence of what was shown at the last stop."""
        self.until: float = _seconds(kept.get("until"))
        """The time (seconds since 1970) at which the first lease of these messages ends."""

    def save(self, extend_at: float) -> None:
        """Write the notes, or remove the file if there is nothing to note. Raises OSError.

        The time of change of the file is *extend_at*, when the leases have to be extended: the guard compares it with
        the present time, and starts no Python before.
        """
        name = f".session-{self.hex}"
        if not (self.holds or self.prolonged):
            if self._is_there:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self.run)
            self._is_there = False
            return
        kept = {
            "holds": self.holds,
            "asked": self.asked,
            "reminded": self.reminded[-_MAX_REMINDED:],
            "blocks": self.prolonged,
            "turn": self.turn,
            "fence": self.fence,
            "until": self.until,
        }
        _put(self.run, name, kept, 0o600, extend_at)
        self._is_there = True

    def settled(self, id: str) -> None:
        """Forget a message."""
        self.holds.pop(id, None)
        self.asked.pop(id, None)

    def show_presence(self, client: str, doing: str) -> None:
        """Write what this session is doing, best effort. A session that has ended leaves no file."""
        name = f"{_PRESENCE_PREFIX}{self.hex}.json"
        with contextlib.suppress(OSError):
            if doing == ENDED:
                os.unlink(name, dir_fd=self.run)
                return
            before = _load(self.run, name, 4096) or {}
            if before.get("doing") == doing and before.get("holds") == len(self.holds):
                os.utime(name, dir_fd=self.run, follow_symlinks=False)
                return
            since = before.get("since") if before.get("doing") == doing else time.time()
            _put(self.run, name, {"client": client, "doing": doing, "since": since, "holds": len(self.holds)}, 0o644)


@contextlib.contextmanager
def opened(box: Box, hex: str) -> Iterator[Notes]:
    """The notes of a session, alone: hooks that run at the same time wait for each other here, without a limit.

    Raises OSError, PermissionError if `run/` is not ours.
    """
    run = open_run(box)
    try:
        with locked(run, f".hook-{hex}", wait=True):
            yield Notes(run, hex)
    finally:
        close(run)


def open_run(box: Box) -> int:
    """Open `run/` of a box of ours, never through a link. Raises OSError, PermissionError if it is another uid's."""
    run = os.open(f"{box}/run", FOLDER)
    if os.fstat(run).st_uid != os.geteuid():
        close(run)
        raise PermissionError(f"run/ of the box {box.address} belongs to another uid")
    return run


@contextlib.contextmanager
def locked(run: int, name: str, *, wait: bool) -> Iterator[bool]:
    """Hold the lock *name* in the open folder *run* for a block. Yields False if another process has it.

    Held by a descriptor, which the children of an exec do not get. Raises OSError.
    """
    while True:
        file = os.open(name, _LOCK_FILE, 0o600, dir_fd=run)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            if not _is_at(name, run, file):  # swept away in between: two could be in
                continue
            os.utime(file)
            yield True
            return
        finally:
            close(file)


def _is_at(name: str, run: int, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(name, dir_fd=run, follow_symlinks=False), os.fstat(file))
    except FileNotFoundError:
        return False


def sessions(box: Box) -> Iterator[dict[str, Any]]:
    """Yield the presence of each session of a box, with its `session`: for people.

    `doing` is what the session reported last. `is_proven` is True if the kernel proves that it lives: its waiter holds
    a lock. Any uid may call it. What cannot be read is left out.
    """
    from ..system.locks import is_held

    try:
        run = os.open(f"{box}/run", FOLDER)
    except OSError:
        return
    try:
        names = sorted(name for name in list_dir(run) if name.startswith(_PRESENCE_PREFIX) and name.endswith(".json"))
        for name in names[:_MAX_SESSIONS]:
            kept = _load(run, name, 4096, owner=os.fstat(run).st_uid)
            if kept is None or kept.get("doing") not in (WORKING, IDLE):
                continue
            hex = name[len(_PRESENCE_PREFIX) : -len(".json")]
            is_proven = False
            with contextlib.suppress(OSError):
                is_proven = is_held(f".rewake-{hex}", run)
            client, since = kept.get("client"), kept.get("since")
            yield {
                "session": hex,
                "client": client if isinstance(client, str) else "",
                "doing": kept["doing"],
                "since": _seconds(since),
                "holds": _number(kept.get("holds")),
                "is_proven": is_proven,
            }
    finally:
        close(run)


def presence(run: int, hex: str) -> tuple[str, float]:
    """Return what a session reported last, and when (seconds since 1970); "" and 0 if it reported nothing."""
    name = f"{_PRESENCE_PREFIX}{hex}.json"
    kept = _load(run, name, 4096) or {}
    doing = kept.get("doing")
    if not isinstance(doing, str):
        return "", 0.0
    try:
        return doing, os.stat(name, dir_fd=run, follow_symlinks=False).st_mtime
    except OSError:
        return "", 0.0


def sweep(run: int, before: float) -> None:
    """Delete the files of sessions that did nothing since the time *before* (seconds since 1970). Best effort."""
    for name in list_dir(run)[:_MAX_SESSIONS]:
        if is_session_file(name):
            with contextlib.suppress(OSError):
                facts = os.stat(name, dir_fd=run, follow_symlinks=False)
                if stat.S_ISREG(facts.st_mode) and facts.st_mtime < before and not _is_locked(name, run):
                    os.unlink(name, dir_fd=run)


def _is_locked(name: str, run: int) -> bool:
    from ..system.locks import is_held

    return name.startswith((".hook-", ".rewake-")) and is_held(name, run)


def _load(run: int, name: str, limit: int, owner: int | None = None) -> dict[str, Any] | None:
    """Return the JSON object in a file of ours; None if there is none, or it is not what we write."""
    try:
        file = os.open(name, READ, dir_fd=run)
    except OSError:
        return None
    try:
        facts = os.fstat(file)
        wanted = os.geteuid() if owner is None else owner
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != wanted or not 0 < facts.st_size <= limit:
            return None
        value = codec.loads(read(file, facts.st_size))
    except (OSError, ValueError, RecursionError):
        return None
    finally:
        close(file)
    return value if isinstance(value, dict) else None


def _put(run: int, name: str, value: dict[str, Any], mode: int, changed: float | None = None) -> None:
    draft = f".{os.urandom(6).hex()}.part"
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=run)
    try:
        try:
            os.fchmod(file, mode)
            data = memoryview(codec.dumps(value))
            while data:
                data = data[os.write(file, data) :]
            if changed is not None:
                os.utime(file, (changed, changed))
        finally:
            os.close(file)
        os.rename(draft, name, src_dir_fd=run, dst_dir_fd=run)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft, dir_fd=run)
        raise


def _texts(value: Any, kind: type) -> dict[str, Any]:
    items = value.items() if isinstance(value, dict) else ()
    return {name: each for name, each in items if type(each) is kind}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1 << 40 else 0.0


def _number(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 1 << 53 else 0
