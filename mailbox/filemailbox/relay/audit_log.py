"""The audit log, written: flushed before anything is delivered, signed at every step. See chain for what it looks like.

Three orders of writes hold it together. A record is flushed before append() returns, so nothing is delivered without
one. A checkpoint is written after its records are flushed, so after a power cut it is never ahead of them. A segment's
checkpoint is there before the segment, so that a segment without one was tampered with.
"""

import contextlib
import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from .. import log
from ..errors import StorageError, quoted, storage_error
from ..format.timestamp import sent_time
from ..store.ids import timestamp_now
from ..system.files import FOLDER
from ..system.locks import Lock
from ..trust.seal import SecretBytes
from . import audit_format
from .audit_format import Checkpoint, Record, Signer, Tampered, Verify

_OFTEN: Final = 1000  # records after which a checkpoint is flushed, too
_LONG: Final = 60.0  # seconds after which it is
_WORDS: Final = 200  # characters of a text in a record: types and threads are the sender's, and may be a megabyte long
_HOW: Final = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Audit:
    """The log of one relay, open for writing. One process at a time."""

    def __init__(self, folder: str, signer: Signer, origin: str = "relay", segment: int = 16 << 20) -> None:
        self.folder, self._signer, self._segment = folder, signer, segment
        self._secret = SecretBytes(hashlib.sha256(signer.sign(b"mailbox audit digest")).digest())
        self._lock: Lock | None = None
        self._origin = origin
        self._seen: Checkpoint | None = None
        self._file = self._mark = -1
        self.number = 0
        """Which segment is written to."""
        self._size = 0
        self._full = False
        self._flushed, self._flush_at = 0, 0.0
        self.at = audit_format.empty_log(origin)
        """How far it goes."""

    @property
    def open(self) -> bool:
        """Whether it can be written to, as far as we know."""
        return self._file >= 0

    def begin(self, verify: Verify, remember: Callable[[Record], object]) -> None:
        """Open the log, or begin one where there is none. *remember* is told what was recorded lately, in order.

        What a crash left unsigned at the end is signed if it is whole, and cut off where it is torn. Raises Tampered
        where what was signed is not there any more; StorageError where it cannot be read or written, or another
        relay has
        it.
        """
        ours = self._lock is not None  # it was open before
        try:
            os.makedirs(self.folder, 0o750, exist_ok=True)
            self._take_lock()
            self._open(verify, remember)
        except BaseException as error:
            self._drop()
            if not ours:
                self.close()
            if isinstance(error, StorageError) or not isinstance(error, OSError):
                raise
            raise storage_error(error, f"opening the audit log in {quoted(self.folder)}") from error

    def append(self, records: Sequence[Record]) -> None:
        """Write *records* and flush them: once this returns they survive a power cut, and are signed.

        Raises StorageError where that cannot be; then none of them counts.
        """
        try:
            self.check()
            if self._full or self._size >= self._segment:
                self._rotate()
            self._write(records)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise storage_error(error, f"writing the audit log in {quoted(self.folder)}") from error

    def check(self) -> None:
        """Raises StorageError where the file that we write is not the one that others see; then begin() anew."""
        path = audit_format.segment_path(self.folder, self.number)
        if self._file < 0:
            raise StorageError(f"the audit log in {quoted(self.folder)} is not open")
        try:
            ours, seen = os.fstat(self._file), os.stat(path)
            same = (ours.st_dev, ours.st_ino, ours.st_size) == (seen.st_dev, seen.st_ino, self._size)
        except FileNotFoundError:
            same = False
        if not same:
            self._drop()  # the lock is kept: we are still the one relay
            raise StorageError(f"{quoted(path)} was changed or replaced by somebody else")

    def digest(self, data: bytes) -> str:
        """What stands for the content of a message: only who has the key can tell which content it is of.

        A plain hash of a short message could be guessed.
        """
        return hmac.new(self._secret, data, "sha256").hexdigest()[:32]

    def close(self) -> None:
        """Flush the last checkpoint and let go."""
        if self._mark >= 0:
            with contextlib.suppress(OSError):
                self._sign(flush=True)
        self._drop()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _drop(self) -> None:
        for file in (self._file, self._mark):
            if file >= 0:
                os.close(file)
        self._file = self._mark = -1

    def _take_lock(self) -> None:
        if self._lock is None:
            lock = Lock(f"{self.folder}/.lock")
            if not lock.take():
                raise StorageError(f"another relay is at work on the audit log in {quoted(self.folder)}")
            self._lock = lock

    def _open(self, verify: Verify, remember: Callable[[Record], object]) -> None:
        numbers = audit_format.segments(self.folder)
        if not numbers:
            if self._seen is not None:
                raise StorageError(
                    f"the audit log in {quoted(self.folder)} is gone: put it back, or restart for a new one"
                )
            self._begin_segment(1)
            self._write([{"event": "begin", "origin": self._origin}])
            self._publish()
        else:
            last = max(numbers)
            self._read_latest(last, last - 1 in numbers, verify, remember)
            if self._full:
                self._begin_segment(last + 1)
                self._write([{"event": "segment", "number": last + 1}])
        if self._seen is not None and self.at.n < self._seen.n:
            raise Tampered([f"record {self._seen.n} was written, and is gone"], self.folder)
        self._seen = self.at

    def _read_latest(self, last: int, two: bool, verify: Verify, remember: Callable[[Record], object]) -> None:
        """Read the last segment and the one before; open the last one, its end put in order."""
        at: Checkpoint | None = audit_format.empty_log(self._origin) if last == 1 + two else None
        whole, mark = 0, audit_format.empty_log(self._origin)
        for number in (last - 1, last) if two else (last,):
            mark = self._mark_of(number, verify)
            whole, found, self._full = 0, at == mark, False
            for line in audit_format.lines_of(self.folder, number):
                at = at or audit_format.state_before(line, self._origin) or mark
                following = at.follow(line)
                if isinstance(following, str):
                    break  # torn, or what a power cut left of it; was it signed, that is found below
                found = found or mark in (at, following)
                at, whole, self._full = following, whole + len(line), audit_format.ROTATED in line
                remember(json.loads(line))
            if at is not None and not found:
                raise Tampered([f"record {mark.n} was signed, and is not there as it was"], self.folder)
            at = at or mark
        assert at is not None
        self.at = at
        self._resume(last, whole, mark)

    def _mark_of(self, number: int, verify: Verify) -> Checkpoint:
        found = audit_format.checkpoint(self.folder, number, self._signer.public, verify)
        if isinstance(found, str):
            raise Tampered([found], self.folder)
        if found.origin != self._origin:
            raise Tampered([f"it is that of {quoted(found.origin)}, not of {quoted(self._origin)}"], self.folder)
        return found

    def _resume(self, number: int, whole: int, signed: Checkpoint) -> None:
        """Open a segment, and put its end in order."""
        self._file = os.open(audit_format.segment_path(self.folder, number), _HOW | os.O_RDWR | os.O_APPEND, 0o640)
        self._mark = os.open(audit_format.checkpoint_path(self.folder, number), _HOW | os.O_WRONLY, 0o640)
        self.number, self._size = number, whole
        torn = os.fstat(self._file).st_size - whole
        if torn:
            os.ftruncate(self._file, whole)
            log.warning(
                "the audit log ended within a record: %d bytes were cut off, nothing was delivered for them", torn
            )
        if self.at != signed:
            log.warning("the audit log was not closed: %d records at its end are signed now", self.at.n - signed.n)
            os.fsync(self._file)
            self._sign()

    def _begin_segment(self, number: int) -> None:
        """First its checkpoint, which says that nothing is in it yet: a segment without one was tampered with."""
        self._drop()
        draft = f"{self.folder}/.{number:08d}.checkpoint"  # never seen empty
        self._mark = os.open(draft, _HOW | os.O_WRONLY, 0o640)
        self.number = number
        self._sign(flush=True)
        os.rename(draft, audit_format.checkpoint_path(self.folder, number))
        self._file = os.open(audit_format.segment_path(self.folder, number), _HOW | os.O_RDWR | os.O_APPEND, 0o640)
        self._size, self._full = os.fstat(self._file).st_size, False
        folder = os.open(self.folder, FOLDER)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _rotate(self) -> None:
        if not self._full:  # else a rotation that failed goes on
            self._write([{"event": "rotate", "next": self.number + 1}])
            self._full = True
        self._sign(flush=True)
        self._begin_segment(self.number + 1)
        self._write([{"event": "segment", "number": self.number}])
        log.info("the audit log goes on in %s", audit_format.segment_path(self.folder, self.number))

    def _write(self, records: Sequence[Record]) -> None:
        at, lines = self.at, []
        for record in records:
            line = _line(at, record)
            at = Checkpoint(at.origin, at.n + 1, audit_format.hash_of(line))
            lines.append(line)
        data = b"".join(lines)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError:
            with contextlib.suppress(OSError):  # a full disk still takes back what is too much
                os.ftruncate(self._file, self._size)
            raise
        self.at, self._seen = at, at
        self._size += len(data)
        try:
            self._sign()
        except OSError as error:  # the records count all the same: they are there, and would be believed after a crash
            log.error("the audit log could not be signed: %s", error)

    def _sign(self, flush: bool = False) -> None:
        """Keep the checkpoint up. Flushed only now and then: after a power cut it is an older one, never a newer."""
        os.pwrite(self._mark, self.at.note(self._signer, self.number).ljust(audit_format.ROOM, b"\n"), 0)
        if flush or self.at.n - self._flushed >= _OFTEN or time.monotonic() >= self._flush_at:
            os.fsync(self._mark)
            self._flushed, self._flush_at = self.at.n, time.monotonic() + _LONG

    def _publish(self) -> None:
        with contextlib.suppress(FileExistsError), open(f"{self.folder}/key.pub", "x") as file:
            file.write(f"untrusted comment: of a mailbox relay\n{audit_format.public_key(self._signer.public)}\n")


def _line(at: Checkpoint, record: Record) -> bytes:
    told = {"n": at.n + 1, "prev": at.head, "time": sent_time(timestamp_now())}
    told.update((key, _short(value) if key != "raw" else value) for key, value in record.items() if value is not None)
    return json.dumps(told, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def _short(value: object) -> object:
    return value[:_WORDS] + "…" if isinstance(value, str) and len(value) > _WORDS else value
