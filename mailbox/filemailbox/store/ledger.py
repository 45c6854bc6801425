"""The ledger: keys of handled messages, so that sending again does no harm.

One file for each (trust, sender) in a box's `ledger/`, shared by its consumers: a line of JSON for each key, written
and flushed before the message is acked. It is bounded: from twice LIMIT entries on only the newest LIMIT are kept, and
the newest time among the forgotten ones becomes the *floor*. A keyed message sent before the floor may have been
handled or not: the ledger no longer knows.

Two copies that are claimed at the same moment may both run: the ledger is written at ack.
"""

import contextlib
import errno
import os
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ..format.address import Address, is_address
from ..system.locks import Lock
from .ids import timestamp_now
from .permissions import chown_to_box_owner
from .root import Root

LIMIT: Final = 10_000
"""Keys that are remembered for one sender, at least."""

DRAFT: Final = ".new"
"""Suffix of the name of a page that is being written."""

UNKNOWN_SENDERS: Final = "_"
"""The sender under which all those are kept whom no key proves and whose name is no agent's here: they share a file."""

_KEYED: Final = ("signed", "sealed")  # what a key proves: the page is one sender's alone


@dataclass(slots=True)
class _Page:
    """The content of one file, as far as it was read."""

    inode: int = 0
    head: bytes = b""  # its first line
    read: int = 0
    floor: str = ""
    keys: dict[str, str] = field(default_factory=dict)  # key → when its message was sent


class Ledger:
    """The keys that one box has handled."""

    def __init__(self, folder: str, box: str, limit: int = LIMIT) -> None:
        self._folder, self._box, self._limit = folder, box, limit
        self._pages: dict[str, _Page] = {}

    def handled(self, trust: str, sender: str, key: str) -> bool:
        """Return True if a message with this key was handled. Raises OSError if the ledger cannot be read."""
        return key in self._page(trust, sender).keys

    def floor(self, trust: str, sender: str) -> str:
        """Return the floor: the timestamp up to which keys were forgotten; empty if none was.

        A floor in the future is ignored if any sender could have set it: it would condemn all mail until then.
        """
        floor = self._page(trust, sender).floor
        return floor if _believed(trust, floor) == floor else ""

    def record(self, trust: str, sender: str, key: str, sent: str) -> None:
        """Note that *key*, of a message sent at the stamp *sent*, is handled. It survives a power cut from then on.

        Raises OSError where it cannot be written.
        """
        sent = _believed(trust, sent)
        lock = Lock(f"{self._folder}/.lock")
        if not lock.take(10):
            raise TimeoutError(f"the lock of {self._folder} is held for more than 10 s")
        try:
            self._append(trust, sender, {"key": key, "sent": sent})
            page = self._page(trust, sender)
            if len(page.keys) >= 2 * self._limit:
                self._rewrite(trust, sender, page)
        finally:
            lock.release()

    def _page(self, trust: str, sender: str) -> _Page:
        """Return the page as it is now. Reads what was appended since, or all of a rewritten file."""
        name = _file(trust, sender)
        page = self._pages.setdefault(name, _Page())
        try:
            with open(f"{self._folder}/{name}", "rb") as file:
                facts, head = os.fstat(file.fileno()), file.readline()
                if (facts.st_ino, head) != (page.inode, page.head) or facts.st_size < page.read:
                    page = self._pages[name] = _Page(facts.st_ino, head)  # inodes come back: the floor does not
                file.seek(page.read)
                fresh = file.read()
        except FileNotFoundError:
            return page
        whole = fresh.rfind(b"\n") + 1  # what follows was cut off by a crash, or is being written
        for line in fresh[:whole].splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = orjson.loads(line)
                if "floor" in entry:
                    page.floor = max(page.floor, str(entry["floor"]))
                else:
                    page.keys[str(entry["key"])] = str(entry["sent"])
        page.read += whole
        return page

    def _append(self, trust: str, sender: str, entry: dict[str, Any]) -> None:
        path = f"{self._folder}/{_file(trust, sender)}"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            size = os.fstat(file).st_size
            torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            line = b"\n" * torn + orjson.dumps(entry) + b"\n"
            if os.write(file, line) != len(line):
                raise OSError(errno.ENOSPC, "the line was cut off: the disk is full")
            os.fsync(file)
            if size == 0:
                chown_to_box_owner(file, self._box)
        finally:
            os.close(file)

    def _rewrite(self, trust: str, sender: str, page: _Page) -> None:
        """Forget the oldest entries. One rename: a crash leaves the old file or the new."""
        known = [(key, _believed(trust, sent)) for key, sent in page.keys.items()]
        newest = sorted(known, key=lambda entry: entry[1])
        gone, kept = newest[: -self._limit], newest[-self._limit :]
        floor = max([self.floor(trust, sender), *(sent for _, sent in gone)])
        path = f"{self._folder}/{_file(trust, sender)}"
        lines = [{"floor": floor}, *({"key": key, "sent": sent} for key, sent in kept)]
        with open(self._draft(path + DRAFT), "wb") as draft:
            os.fchmod(draft.fileno(), 0o600)
            draft.write(b"".join(orjson.dumps(line) + b"\n" for line in lines))
            draft.flush()
            os.fsync(draft.fileno())
            chown_to_box_owner(draft.fileno(), self._box)
        os.rename(path + DRAFT, path)

    def _draft(self, path: str) -> int:
        """Create the draft of a page, under the lock. One that a crash has left is deleted, whatever it is."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def ledger_owner(root: Root, sender: str | None, proven: bool = False) -> str:
    """Return the name of the page of *sender*.

    Names without a box here share one page, so that they cannot fill the disk; a *proven* sender has its own.
    """
    known = sender is not None and is_address(sender) and (proven or root.has(Address(sender)))
    return sender if known and sender is not None else UNKNOWN_SENDERS


def _believed(trust: str, sent: str) -> str:
    """When it was sent, as far as that is believed: a stamp is its sender's choice.

    What no key proves may share a page with others, so there nothing was sent later than now. Under a key all stamps
    are one sender's, and a floor must not be lowered: a replay would pass.
    """
    return sent if trust in _KEYED else min(sent, timestamp_now())


def _file(trust: str, sender: str) -> str:
    return f"{trust}-{sender if is_address(sender) else UNKNOWN_SENDERS}.jsonl"
