"""The audit log, written: flushed before anything is delivered, signed at every step. Its form is in audit_format.

Three orders of writes keep it consistent. append() flushes records before it returns, so nothing is delivered without
one. A checkpoint is written after its records are flushed, so after a power cut it is never ahead of them. The
checkpoint of a segment exists before the segment, so a segment without one was tampered with.
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
from .audit_format import Checkpoint, CheckSignature, Record, Signer, TamperedLogError

_FLUSH_RECORDS: Final = 1000  # records after which the checkpoint is flushed, too
_FLUSH_SECONDS: Final = 60.0  # seconds after which it is
_MAX_TEXT: Final = 200  # characters of a text in a record: senders choose types and threads, of up to a megabyte
_OPEN_FLAGS: Final = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class AuditLog:
    """The log of one relay, open for writing. One process at a time."""

    def __init__(self, folder: str, signer: Signer, origin: str = "relay", segment: int = 16 << 20) -> None:
        """*segment* is the size in bytes from which on the log continues in another file."""
        self.folder, self._signer, self._segment = folder, signer, segment
        self._secret = SecretBytes(hashlib.sha256(signer.sign(b"mailbox audit digest")).digest())
        self._lock: Lock | None = None
        self._origin = origin
        self._seen: Checkpoint | None = None
        self._fd = self._checkpoint_fd = -1
        self.segment_number = 0
        """The segment that is written to."""
        self._size = 0
        self._full = False
        self._flushed, self._flush_at = 0, 0.0
        self.at = audit_format.empty_log(origin)
        """The extent of the log."""

    @property
    def is_open(self) -> bool:
        """True if records can be appended, as far as is known."""
        return self._fd >= 0

    def open(self, check_signature: CheckSignature, restore: Callable[[Record], object]) -> None:
        """Open the log, or create it. Call *restore* with each record of the last two segments, in order.

        Complete records that a crash left unsigned at the end are signed. An incomplete one is cut off.
        Raises TamperedLogError if signed records are missing; StorageError if the log cannot be read or written, or
        another relay has locked it.
        """
        was_locked = self._lock is not None
        try:
            os.makedirs(self.folder, 0o750, exist_ok=True)
            self._take_lock()
            self._open(check_signature, restore)
        except BaseException as error:
            self._close_files()
            if not was_locked:
                self.close()
            if isinstance(error, StorageError) or not isinstance(error, OSError):
                raise
            raise storage_error(error, f"opening the audit log in {quoted(self.folder)}") from error

    def append(self, records: Sequence[Record]) -> None:
        """Write and flush *records*: once this returns they survive a power cut, and are signed.

        Raises StorageError if that is not possible. Then none of them counts.
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
        """Raise StorageError if the open file is not the one that others see. The log must be opened again then."""
        path = audit_format.segment_path(self.folder, self.segment_number)
        if self._fd < 0:
            raise StorageError(f"the audit log in {quoted(self.folder)} is not open")
        try:
            st, seen = os.fstat(self._fd), os.stat(path)
            same = (st.st_dev, st.st_ino, st.st_size) == (seen.st_dev, seen.st_ino, self._size)
        except FileNotFoundError:
            same = False
        if not same:
            self._close_files()  # the lock is kept: no other relay may start meanwhile
            raise StorageError(f"{quoted(path)} was changed or replaced by another program")

    def digest(self, data: bytes) -> str:
        """Return a keyed digest of a message. Without the key, a plain hash of a short message could be guessed."""
        return hmac.new(self._secret, data, "sha256").hexdigest()[:32]

    def close(self) -> None:
        """Flush the last checkpoint, close the files and release the lock."""
        if self._checkpoint_fd >= 0:
            with contextlib.suppress(OSError):
                self._sign(flush=True)
        self._close_files()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _close_files(self) -> None:
        for fd in (self._fd, self._checkpoint_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._checkpoint_fd = -1

    def _take_lock(self) -> None:
        if self._lock is None:
            lock = Lock(f"{self.folder}/.lock")
            if not lock.take():
                raise StorageError(f"another relay is at work on the audit log in {quoted(self.folder)}")
            self._lock = lock

    def _open(self, check_signature: CheckSignature, restore: Callable[[Record], object]) -> None:
        numbers = audit_format.segment_numbers(self.folder)
        if not numbers:
            if self._seen is not None:
                raise StorageError(
                    f"the audit log in {quoted(self.folder)} is gone",
                    hint="put it back, or restart the relay to begin a new one",
                )
            self._begin_segment(1)
            self._write([{"event": "begin", "origin": self._origin}])
            self._publish_key()
        else:
            last = max(numbers)
            self._read_latest(last, last - 1 in numbers, check_signature, restore)
            if self._full:
                self._begin_segment(last + 1)
                self._write([{"event": "segment", "number": last + 1}])
        if self._seen is not None and self.at.n < self._seen.n:
            raise TamperedLogError([f"record {self._seen.n} was written, and is gone"], self.folder)
        self._seen = self.at

    def _read_latest(
        self, last: int, two: bool, check_signature: CheckSignature, restore: Callable[[Record], object]
    ) -> None:
        """Read the last segment and, if there are *two*, the one before. Open the last one and repair its end."""
        at: Checkpoint | None = audit_format.empty_log(self._origin) if last == 1 + two else None
        size, signed = 0, audit_format.empty_log(self._origin)
        for number in (last - 1, last) if two else (last,):
            signed = self._read_checkpoint(number, check_signature)
            size, found, self._full = 0, at == signed, False
            for line in audit_format.read_lines(self.folder, number):
                at = at or audit_format.state_before(line, self._origin) or signed
                following = at.advance(line)
                if isinstance(following, str):
                    break  # cut off by a crash or a power cut; if it was signed, the check below fails
                found = found or signed in (at, following)
                at, size, self._full = following, size + len(line), audit_format.ROTATE_MARK in line
                restore(json.loads(line))
            if at is not None and not found:
                raise TamperedLogError([f"record {signed.n} was signed, and is not there as it was"], self.folder)
            at = at or signed
        assert at is not None
        self.at = at
        self._continue_segment(last, size, signed)

    def _read_checkpoint(self, number: int, check_signature: CheckSignature) -> Checkpoint:
        found = audit_format.read_checkpoint(self.folder, number, self._signer.public_key, check_signature)
        if isinstance(found, str):
            raise TamperedLogError([found], self.folder)
        if found.origin != self._origin:
            raise TamperedLogError(
                [f"it is that of {quoted(found.origin)}, not of {quoted(self._origin)}"], self.folder
            )
        return found

    def _continue_segment(self, number: int, size: int, signed: Checkpoint) -> None:
        """Open a segment of which *size* bytes are complete records, cut off the rest, and sign its end."""
        self._fd = self._open_records(number)
        self._checkpoint_fd = os.open(
            audit_format.checkpoint_path(self.folder, number), _OPEN_FLAGS | os.O_WRONLY, 0o640
        )
        self.segment_number, self._size = number, size
        incomplete = os.fstat(self._fd).st_size - size
        if incomplete:
            os.ftruncate(self._fd, size)
            log.warning(
                "the audit log ended within a record: %d bytes were cut off, nothing was delivered for them", incomplete
            )
        if self.at != signed:
            log.warning("the audit log was not closed: %d records at its end are signed now", self.at.n - signed.n)
            os.fsync(self._fd)
            self._sign()

    def _begin_segment(self, number: int) -> None:
        """Create a segment: first its checkpoint, which proves that it is empty."""
        self._close_files()
        temporary = f"{self.folder}/.{number:08d}.checkpoint"  # an empty checkpoint is never visible
        self._checkpoint_fd = os.open(temporary, _OPEN_FLAGS | os.O_WRONLY, 0o640)
        self.segment_number = number
        self._sign(flush=True)
        os.rename(temporary, audit_format.checkpoint_path(self.folder, number))
        self._fd = self._open_records(number)
        self._size, self._full = os.fstat(self._fd).st_size, False
        dir_fd = os.open(self.folder, FOLDER)
        try:
            os.fsync(dir_fd)
        finally:
            os.close(dir_fd)

    def _open_records(self, number: int) -> int:
        path = audit_format.segment_path(self.folder, number)
        return os.open(path, _OPEN_FLAGS | os.O_RDWR | os.O_APPEND, 0o640)

    def _rotate(self) -> None:
        """Continue in another segment. A rotation that failed half-way is continued."""
        if not self._full:
            self._write([{"event": "rotate", "next": self.segment_number + 1}])
            self._full = True
        self._sign(flush=True)
        self._begin_segment(self.segment_number + 1)
        self._write([{"event": "segment", "number": self.segment_number}])
        log.info("the audit log continues in %s", audit_format.segment_path(self.folder, self.segment_number))

    def _write(self, records: Sequence[Record]) -> None:
        at, lines = self.at, []
        for record in records:
            line = serialize_record(at, record)
            at = Checkpoint(at.origin, at.n + 1, audit_format.hash_of(line))
            lines.append(line)
        data = b"".join(lines)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fdatasync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):  # a full disk still lets a file be cut off
                os.ftruncate(self._fd, self._size)
            raise
        self.at, self._seen = at, at
        self._size += len(data)
        try:
            self._sign()
        except OSError as error:  # the records count all the same: after a crash they would be signed
            log.error("the audit log could not be signed: %s", error)

    def _sign(self, flush: bool = False) -> None:
        """Update the checkpoint. It is flushed seldom: after a power cut it is an older one, never a newer one."""
        checkpoint = self.at.serialize(self._signer, self.segment_number)
        os.pwrite(self._checkpoint_fd, checkpoint.ljust(audit_format.CHECKPOINT_SIZE, b"\n"), 0)
        if flush or self.at.n - self._flushed >= _FLUSH_RECORDS or time.monotonic() >= self._flush_at:
            os.fsync(self._checkpoint_fd)
            self._flushed, self._flush_at = self.at.n, time.monotonic() + _FLUSH_SECONDS

    def _publish_key(self) -> None:
        key = audit_format.format_public_key(self._signer.public_key)
        with contextlib.suppress(FileExistsError), open(f"{self.folder}/key.pub", "x") as file:
            file.write(f"untrusted comment: of a mailbox relay\n{key}\n")


def serialize_record(at: Checkpoint, record: Record) -> bytes:
    """Return the line of a record that follows *at*. Long texts are cut, members without a value left out."""
    fields = {"n": at.n + 1, "prev": at.head, "time": sent_time(timestamp_now())}
    fields.update((key, _cut(value) if key != "raw" else value) for key, value in record.items() if value is not None)
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def _cut(value: object) -> object:
    return value[:_MAX_TEXT] + "…" if isinstance(value, str) and len(value) > _MAX_TEXT else value
