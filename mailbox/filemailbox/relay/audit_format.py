"""What an audit log looks like, and whether it is as it was written. Nothing is written here.

    AUDIT/                      a folder of the relay's own
      00000001.jsonl            the records; the last one of a file that is full says that there is a next
      00000001.checkpoint       how far they go, signed; kept up with every record
      00000002.jsonl            …
      key.pub                   the public key, for whoever has no better copy

A record begins with its number and the SHA-256 of the line before it, so a line can not be changed, left out, moved or
put in without another one telling. That the last lines are there is told by the checkpoint, and by nothing else: a
checkpoint that is missing is a failure. Signatures are minisign's, so that other tools can check them, as
`scripts/audit-verify` does. Whoever has the key can write all of it anew: keep the heads of checkpoints elsewhere, too.
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

Verify: TypeAlias = Callable[[bytes, bytes, bytes], bool]
"""verify(public, data, signature)."""

ROOM: Final = 512
"""Bytes of a checkpoint's file: one sector, so that a power cut leaves the old one or the new."""

ROTATED: Final = b'"event":"rotate"'
"""What the last record of a file has that is full."""

_LINE = re.compile(rb'\{"n":([1-9]\d{0,17}),"prev":"([0-9a-f]{64})",.*\}\n')
_SEGMENT = re.compile(r"(\d{8})\.(?:jsonl|checkpoint)", re.ASCII)
_LOOKS: Final = 5  # how often what does not agree is looked at


class Tampered(MailboxError):
    """The audit log is not what was written: `problems` says where."""

    def __init__(self, problems: list[str], folder: str) -> None:
        self.problems = problems
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"the audit log in {quoted(folder)} is not as it was written: {problems[0]}{more}")


@dataclass(frozen=True, slots=True)
class Signer:
    """What signs checkpoints: an Ed25519 key."""

    public: bytes
    sign: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a log goes: `n` records, and the hash of the last one."""

    origin: str
    n: int
    head: str

    def body(self) -> bytes:
        """What is signed."""
        return f"mailbox-audit/{self.origin}\n{self.n}\n{self.head}\n".encode()

    def follow(self, line: bytes) -> "Checkpoint | str":
        """How far it goes with one more *line*; or why that does not follow."""
        match = _LINE.fullmatch(line)
        if match is None:
            return f"what follows record {self.n} is no record"
        if int(match[1]) != self.n + 1:
            return f"record {int(match[1])} stands where record {self.n + 1} should"
        if match[2].decode() != self.head:
            return f"record {self.n + 1} does not follow what is before it"
        return Checkpoint(self.origin, self.n + 1, hash_of(line))

    def note(self, signer: Signer, number: int) -> bytes:
        """The file of it: body and signature, which minisign has in two files; an empty line is between."""
        signature, comment = signer.sign(self.body()), f"{number:08d}.jsonl".encode()
        return b"%s\nuntrusted comment: mailbox relay\n%s\ntrusted comment: %s\n%s\n" % (
            self.body(),
            base64.b64encode(b"Ed" + _key_id(signer.public) + signature),
            comment,
            base64.b64encode(signer.sign(signature + comment)),
        )


def empty_log(origin: str) -> Checkpoint:
    """A log in which nothing is yet."""
    return Checkpoint(origin, 0, hash_of(f"mailbox audit v1 {origin}\n".encode()))


def state_before(line: bytes, origin: str) -> Checkpoint | None:
    """How far a log went before *line*, by its own word."""
    match = _LINE.fullmatch(line)
    return Checkpoint(origin, int(match[1]) - 1, match[2].decode()) if match else None


def checkpoint(folder: str, number: int, public: bytes, verify: Verify) -> Checkpoint | str:
    """The checkpoint of a segment, or what is wrong with it. Raises OSError where it cannot be read."""
    name = f"{number:08d}.checkpoint"
    try:
        with open(checkpoint_path(folder, number), "rb") as file:
            lines = file.read(4 * ROOM).rstrip(b"\n").split(b"\n")
    except FileNotFoundError:
        return f"{name} is missing: nothing says how far {number:08d}.jsonl goes"
    try:
        origin, n, head, empty, _, signature, comment, both = lines
        at = Checkpoint(origin.decode().removeprefix("mailbox-audit/"), int(n), head.decode())
        raw, also = base64.b64decode(signature, validate=True), base64.b64decode(both, validate=True)
    except ValueError:
        return f"{name} is no checkpoint"
    trusted = comment.removeprefix(b"trusted comment: ")
    right = (
        not empty
        and at.body() == b"\n".join(lines[:3]) + b"\n"
        and raw[:10] == b"Ed" + _key_id(public)
        and verify(public, at.body(), raw[10:])
        and verify(public, raw[10:] + trusted, also)
        and trusted == f"{number:08d}.jsonl".encode()
    )
    return at if right else f"the signature of {name} is not that of the relay's key"


def verify(folder: str, public: bytes, verify: Verify, partial: bool = False) -> Checkpoint:
    """Try the whole log. Returns how far it goes. Raises Tampered, with all that is wrong; StorageError.

    With *partial* the first files may have been put away, as long as the checkpoint of the last of them is still there.
    A relay that is at work writes a record before it signs it: so what does not agree is looked at again.
    """
    for _ in range(_LOOKS):
        try:
            before, problems = _state(folder), list[str]()
            at = _verify(folder, public, verify, partial, problems)
            if not problems:
                return at
            time.sleep(0.02)
            if _state(folder) == before:
                break
        except OSError as error:
            raise storage_error(error, f"reading the audit log in {quoted(folder)}") from error
    raise Tampered(problems, folder)


def _state(folder: str) -> list[tuple[str, int, int]]:
    """What tells whether somebody is writing there."""
    with os.scandir(folder) as entries:
        seen = [(entry.name, entry.stat()) for entry in entries if _SEGMENT.fullmatch(entry.name)]
    return sorted((name, facts.st_size, facts.st_mtime_ns) for name, facts in seen)


def _verify(folder: str, public: bytes, verify: Verify, partial: bool, problems: list[str]) -> Checkpoint:
    numbers = sorted(segments(folder))
    if not numbers:
        problems.append("there is none")
        return empty_log("")
    first = checkpoint(folder, numbers[0], public, verify)
    at = empty_log(first.origin if isinstance(first, Checkpoint) else "")
    if (
        partial
        and len(numbers) > 1
        and isinstance(first, Checkpoint)
        and not os.path.lexists(segment_path(folder, numbers[0]))
    ):
        at = first
        numbers.pop(0)
    elif numbers[0] != 1:
        problems.append(f"what comes before {numbers[0]:08d}.jsonl is missing")
    for place, number in enumerate(numbers):
        if place and number != numbers[place - 1] + 1:
            problems.append(f"what comes between {numbers[place - 1]:08d}.jsonl and {number:08d}.jsonl is missing")
        at = _verify_segment(folder, number, public, verify, at, number == numbers[-1], problems)
    return at


def _verify_segment(
    folder: str, number: int, public: bytes, verify: Verify, at: Checkpoint, last: bool, problems: list[str]
) -> Checkpoint:
    """Try one segment, and note what is wrong with it. Returns how far it goes."""
    name, full = f"{number:08d}.jsonl", False
    signed = checkpoint(folder, number, public, verify)
    if isinstance(signed, str):
        problems.append(signed)
    elif signed.origin != at.origin:
        problems.append(f"{number:08d}.checkpoint is of another log, {quoted(signed.origin)}")
    for line in lines_of(folder, number):
        following = at.follow(line)
        if isinstance(following, str):
            problems.append(f"in {name}, {following}")
            return at
        at, full = following, ROTATED in line
    if isinstance(signed, Checkpoint) and at != signed:
        if at.n < signed.n:
            problems.append(f"{name} ends with record {at.n}, and {signed.n} were signed")
        elif at.n > signed.n:
            problems.append(f"{name} ends with record {at.n}, and {signed.n} is the last that was signed")
        else:
            problems.append(f"record {at.n} at the end of {name} was changed")
    if full and last:
        problems.append(f"{name} is full, and what follows it is missing")
    if not full and not last:
        problems.append(f"{name} is not full, and yet another follows it")
    return at


def records(folder: str) -> Iterator[Record]:
    """All records that can be read, the oldest first. Nothing is verified. Raises StorageError."""
    try:
        for number in sorted(segments(folder)):
            for line in lines_of(folder, number):
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    if isinstance(record, dict):
                        yield record
    except OSError as error:
        raise storage_error(error, f"reading the audit log in {quoted(folder)}") from error


def lines_of(folder: str, number: int) -> Iterator[bytes]:
    """The lines of one segment, their ends included; none where there is no such file."""
    with contextlib.suppress(FileNotFoundError), open(segment_path(folder, number), "rb") as file:
        yield from file


def segments(folder: str) -> set[int]:
    """The numbers of the segments of which there is anything."""
    return {int(match[1]) for name in os.listdir(folder) if (match := _SEGMENT.fullmatch(name))}


def segment_path(folder: str, number: int) -> str:
    """The records of a segment."""
    return f"{folder}/{number:08d}.jsonl"


def checkpoint_path(folder: str, number: int) -> str:
    """The checkpoint of a segment."""
    return f"{folder}/{number:08d}.checkpoint"


def hash_of(line: bytes) -> str:
    """What the next record says of this line."""
    return hashlib.sha256(line).hexdigest()


def public_key(public: bytes) -> str:
    """A public key as minisign writes it."""
    return base64.b64encode(b"Ed" + _key_id(public) + public).decode()


def read_public_key(text: str) -> bytes:
    """The inverse of public_key(); *text* may be a whole file of minisign's. Raises ValueError."""
    lines = [line for line in text.splitlines() if line and not line.startswith("untrusted comment:")]
    raw = base64.b64decode(lines[0], validate=True) if len(lines) == 1 else b""
    if len(raw) != 42 or raw[:10] != b"Ed" + _key_id(raw[10:]):
        raise ValueError("expected the public key of a relay, as its key.pub has it")
    return raw[10:]


def _key_id(public: bytes) -> bytes:
    return hashlib.sha256(public).digest()[:8]
