"""The form of an audit log, and its verification. This module writes nothing.

    AUDIT/                      a folder of the relay's own
      00000001.jsonl            a segment: the records; the last record of a full one names the next
      00000001.checkpoint       how far the segment goes, signed; updated with every record
      00000002.jsonl            …
      key.pub                   the public key, for verifiers without a better copy

A record begins with its number and the SHA-256 of the line before it. So a line that was changed, removed, moved or
inserted no longer fits its neighbours. Only the checkpoint proves that the last lines are there: a missing checkpoint
is a failure. Signatures are minisign's, so that other tools can check them, as `scripts/audit-verify` does. The owner
of the key could rewrite the whole log: keep the heads of checkpoints elsewhere, too.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from ..errors import MailboxError, quoted, storage_error

Record: TypeAlias = dict[str, Any]

CheckSignature: TypeAlias = Callable[[bytes, bytes, bytes], bool]
"""check_signature(public_key, data, signature): whether an Ed25519 signature is right."""

CHECKPOINT_SIZE: Final = 512
"""Bytes of a checkpoint file: one sector, so that a power cut leaves the old one or the new one."""

ROTATE_MARK: Final = b'"event":"rotate"'
"""Part of the last record of a full segment."""

_LINE = re.compile(rb'\{"n":([1-9]\d{0,17}),"prev":"([0-9a-f]{64})",.*\}\n')
_SEGMENT = re.compile(r"(\d{8})\.(?:jsonl|checkpoint)", re.ASCII)
_MAX_ATTEMPTS: Final = 5  # readings of a log that changes while it is verified


class TamperedLogError(MailboxError):
    """An audit log is not as it was written: `problems` has a description of each place."""

    def __init__(self, problems: list[str], folder: str) -> None:
        self.problems = problems
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"the audit log in {quoted(folder)} is not as it was written: {problems[0]}{more}")


@dataclass(frozen=True, slots=True)
class Signer:
    """An Ed25519 key that signs checkpoints."""

    public_key: bytes
    sign: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The extent of a log: `n` records, and `head`, the hash of the last one."""

    origin: str
    n: int
    head: str

    def signed_bytes(self) -> bytes:
        """Return the bytes that are signed."""
        return f"mailbox-audit/{self.origin}\n{self.n}\n{self.head}\n".encode()

    def advance(self, line: bytes) -> "Checkpoint | str":
        """Return the checkpoint after one more *line*, or the reason why the line does not follow."""
        match = _LINE.fullmatch(line)
        if match is None:
            return f"the line after record {self.n} is not a record"
        if int(match[1]) != self.n + 1:
            return f"record {int(match[1])} is in the place of record {self.n + 1}"
        if match[2].decode() != self.head:
            return f"record {self.n + 1} does not follow the one before it"
        return Checkpoint(self.origin, self.n + 1, hash_of(line))

    def serialize(self, signer: Signer, number: int) -> bytes:
        """Return the checkpoint file of a segment: signed bytes, an empty line, and a signature as minisign has it."""
        signature, comment = signer.sign(self.signed_bytes()), f"{number:08d}.jsonl".encode()
        return b"%s\nuntrusted comment: mailbox relay\n%s\ntrusted comment: %s\n%s\n" % (
            self.signed_bytes(),
            base64.b64encode(b"Ed" + _key_id(signer.public_key) + signature),
            comment,
            base64.b64encode(signer.sign(signature + comment)),
        )


def empty_log(origin: str) -> Checkpoint:
    """Return the checkpoint of a log without records."""
    return Checkpoint(origin, 0, hash_of(f"mailbox audit v1 {origin}\n".encode()))


def state_before(line: bytes, origin: str) -> Checkpoint | None:
    """Return the checkpoint before *line*, as the line itself has it."""
    match = _LINE.fullmatch(line)
    return Checkpoint(origin, int(match[1]) - 1, match[2].decode()) if match else None


def read_checkpoint(folder: str, number: int, public_key: bytes, check_signature: CheckSignature) -> Checkpoint | str:
    """Return the checkpoint of a segment, or a description of what is wrong with it.

    Raises OSError if it cannot be read.
    """
    name = f"{number:08d}.checkpoint"
    try:
        with open(checkpoint_path(folder, number), "rb") as file:
            lines = file.read(4 * CHECKPOINT_SIZE).rstrip(b"\n").split(b"\n")
    except FileNotFoundError:
        return f"{name} is missing: nothing proves how far {number:08d}.jsonl goes"
    try:
        origin, n, head, empty, _, signature, comment, global_signature = lines
        at = Checkpoint(origin.decode().removeprefix("mailbox-audit/"), int(n), head.decode())
        raw, raw_global = base64.b64decode(signature, validate=True), base64.b64decode(global_signature, validate=True)
    except ValueError:
        return f"{name} is not a checkpoint"
    trusted = comment.removeprefix(b"trusted comment: ")
    right = (
        not empty
        and at.signed_bytes() == b"\n".join(lines[:3]) + b"\n"
        and raw[:10] == b"Ed" + _key_id(public_key)
        and check_signature(public_key, at.signed_bytes(), raw[10:])
        and check_signature(public_key, raw[10:] + trusted, raw_global)
        and trusted == f"{number:08d}.jsonl".encode()
    )
    return at if right else f"the signature of {name} is not that of the relay's key"


def verify_log(
    folder: str, public_key: bytes, check_signature: CheckSignature, allow_pruned: bool = False
) -> Checkpoint:
    """Verify a whole log. Return its extent. Raises TamperedLogError with all problems; StorageError.

    With *allow_pruned* the first segments may be missing, as long as the checkpoint of the last of them is there.
    A running relay writes records before it signs them, so a log that changes meanwhile is read again.
    """
    for _ in range(_MAX_ATTEMPTS):
        try:
            before, problems = _sizes(folder), list[str]()
            at = _verify_segments(folder, public_key, check_signature, allow_pruned, problems)
            if not problems:
                return at
            time.sleep(0.02)
            if _sizes(folder) == before:
                break
        except OSError as error:
            raise storage_error(error, f"reading the audit log in {quoted(folder)}") from error
    raise TamperedLogError(problems, folder)


def _sizes(folder: str) -> list[tuple[str, int, int]]:
    """Return the size and the mtime of each file of the log: they show whether a relay is writing."""
    with os.scandir(folder) as entries:
        seen = [(entry.name, entry.stat()) for entry in entries if _SEGMENT.fullmatch(entry.name)]
    return sorted((name, st.st_size, st.st_mtime_ns) for name, st in seen)


def _verify_segments(
    folder: str, public_key: bytes, check_signature: CheckSignature, allow_pruned: bool, problems: list[str]
) -> Checkpoint:
    numbers = sorted(segment_numbers(folder))
    if not numbers:
        problems.append("there is no segment")
        return empty_log("")
    first = read_checkpoint(folder, numbers[0], public_key, check_signature)
    at = empty_log(first.origin if isinstance(first, Checkpoint) else "")
    if (
        allow_pruned
        and len(numbers) > 1
        and isinstance(first, Checkpoint)
        and not os.path.lexists(segment_path(folder, numbers[0]))
    ):
        at = first
        numbers.pop(0)
    elif numbers[0] != 1:
        problems.append(f"the segments before {numbers[0]:08d}.jsonl are missing")
    for place, number in enumerate(numbers):
        if place and number != numbers[place - 1] + 1:
            problems.append(f"between {numbers[place - 1]:08d}.jsonl and {number:08d}.jsonl a segment is missing")
        at = _verify_segment(folder, number, public_key, check_signature, at, number == numbers[-1], problems)
    return at


def _verify_segment(
    folder: str,
    number: int,
    public_key: bytes,
    check_signature: CheckSignature,
    at: Checkpoint,
    last: bool,
    problems: list[str],
) -> Checkpoint:
    """Verify one segment, and append its problems. Return its extent."""
    name, full = f"{number:08d}.jsonl", False
    signed = read_checkpoint(folder, number, public_key, check_signature)
    if isinstance(signed, str):
        problems.append(signed)
    elif signed.origin != at.origin:
        problems.append(f"{number:08d}.checkpoint is of another log, {quoted(signed.origin)}")
    for line in read_lines(folder, number):
        following = at.advance(line)
        if isinstance(following, str):
            problems.append(f"in {name}, {following}")
            return at
        at, full = following, ROTATE_MARK in line
    if isinstance(signed, Checkpoint) and at != signed:
        if at.n < signed.n:
            problems.append(f"{name} ends with record {at.n}, and {signed.n} were signed")
        elif at.n > signed.n:
            problems.append(f"{name} ends with record {at.n}, and {signed.n} is the last that was signed")
        else:
            problems.append(f"record {at.n} at the end of {name} was changed")
    if full and last:
        problems.append(f"{name} is full, and the segment after it is missing")
    if not full and not last:
        problems.append(f"{name} is not full, and yet another segment follows it")
    return at


def read_records(folder: str) -> Iterator[Record]:
    """Yield all records that can be read, the oldest first, without verification. Raises StorageError."""
    try:
        for number in sorted(segment_numbers(folder)):
            for line in read_lines(folder, number):
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    if isinstance(record, dict):
                        yield record
    except OSError as error:
        raise storage_error(error, f"reading the audit log in {quoted(folder)}") from error


def read_lines(folder: str, number: int) -> Iterator[bytes]:
    """Yield the lines of one segment with their ends; none if there is no such file."""
    with contextlib.suppress(FileNotFoundError), open(segment_path(folder, number), "rb") as file:
        yield from file


def segment_numbers(folder: str) -> set[int]:
    """Return the numbers of the segments of which a file exists."""
    return {int(match[1]) for name in os.listdir(folder) if (match := _SEGMENT.fullmatch(name))}


def segment_path(folder: str, number: int) -> str:
    """Return the path of a segment's records."""
    return f"{folder}/{number:08d}.jsonl"


def checkpoint_path(folder: str, number: int) -> str:
    """Return the path of a segment's checkpoint."""
    return f"{folder}/{number:08d}.checkpoint"


def hash_of(line: bytes) -> str:
    """Return the hash by which the next record refers to this line."""
    return hashlib.sha256(line).hexdigest()


def format_public_key(public_key: bytes) -> str:
    """Return a public key as minisign writes it."""
    return base64.b64encode(b"Ed" + _key_id(public_key) + public_key).decode()


def parse_public_key(text: str) -> bytes:
    """Return the key in *text*: the output of format_public_key(), or a file of minisign's. Raises ValueError."""
    lines = [line for line in text.splitlines() if line and not line.startswith("untrusted comment:")]
    raw = base64.b64decode(lines[0], validate=True) if len(lines) == 1 else b""
    if len(raw) != 42 or raw[:10] != b"Ed" + _key_id(raw[10:]):
        raise ValueError("expected the public key of a relay, as its key.pub has it")
    return raw[10:]


def _key_id(public_key: bytes) -> bytes:
    return hashlib.sha256(public_key).digest()[:8]
