"""The audit log: written, crashed, tampered with. Two verifiers that share no code must agree."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import StorageError
from filemailbox.relay import audit_format, audit_log
from filemailbox.relay.audit_format import Checkpoint, Signer, TamperedLogError
from filemailbox.relay.audit_log import AuditLog
from filemailbox.trust import seal
from support.paths import SCRIPTS

PUBLIC, _sign = seal.signer(seal.SecretBytes(range(32)))
SIGNER = Signer(PUBLIC, _sign)
OTHER = Signer(*seal.signer(seal.SecretBytes(32)))
SCRIPT = SCRIPTS / "audit-verify"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


def write(folder: Path, *groups: int, segment: int = 1 << 20, signer: Signer = SIGNER) -> Checkpoint:
    """A log with groups of so many records, each flushed together; how far it goes."""
    log = AuditLog(str(folder), signer, "hub", segment)
    log.open(seal.verify, lambda record: None)
    for number, size in enumerate(groups):
        log.append([{"event": "accept", "from": "alice", "to": "bob", "id": f"{number}-{n}"} for n in range(size)])
    log.close()
    return log.at


def told(folder: Path) -> list[dict[str, Any]]:
    """What a relay that begins is told."""
    records: list[dict[str, Any]] = []
    log = AuditLog(str(folder), SIGNER, "hub")
    log.open(seal.verify, records.append)
    log.close()
    return records


def ours(folder: Path, partial: bool = False) -> Checkpoint:
    return audit_format.verify_log(str(folder), PUBLIC, seal.verify, partial)


def theirs(
    folder: Path, *options: str, key: str = audit_format.format_public_key(PUBLIC)
) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(SCRIPT), *options, str(folder), key]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def both_find(folder: Path, *options: str) -> bool:
    """Whether both verifiers find something wrong; they must not differ."""
    try:
        ours(folder, bool(options))
        found = False
    except TamperedLogError:
        found = True
    script = theirs(folder, *options)

    assert (script.returncode == 1) is found, (found, script)
    return found


def test_what_was_appended_is_there_and_in_order(folder: Path) -> None:
    """Records are numbered and chained over all segments; both verifiers give the same head."""
    at = write(folder, 3, 1, 15, 25, segment=2000)
    ids = [record["id"] for record in audit_format.read_records(str(folder)) if record["event"] == "accept"]

    assert ids == ["0-0", "0-1", "0-2", "1-0", *(f"2-{n}" for n in range(15)), *(f"3-{n}" for n in range(25))]
    assert ours(folder) == at
    assert len(audit_format.segment_numbers(str(folder))) > 1
    script = theirs(folder)
    assert (script.returncode, script.stderr) == (0, "")
    assert script.stdout == (
        f"hub: {at.n} records in {len(audit_format.segment_numbers(str(folder)))} files, the last one is {at.head}\n"
    )


def test_who_begins_again_goes_on_and_is_told_what_there_was(folder: Path) -> None:
    """Restarts leave no gap; the last two segments are told."""
    write(folder, 2)
    first = told(folder)
    at = write(folder, 2)

    assert [record["event"] for record in first] == ["begin", "accept", "accept"]
    assert [record["n"] for record in told(folder)] == [1, 2, 3, 4, 5]
    assert ours(folder) == at
    assert not both_find(folder)


def test_of_a_long_log_the_last_two_segments_are_told(folder: Path) -> None:
    """Begin takes the same time however old the log is."""
    write(folder, *[5] * 30, segment=1500)
    numbers = sorted(audit_format.segment_numbers(str(folder)))[-2:]
    lines = sum(len(list(audit_format.read_lines(str(folder), number))) for number in numbers)

    assert len(told(folder)) == lines


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine") / "audit"
    write(folder, *[3] * 10, segment=2000)
    return folder


@pytest.fixture
def copy(pristine: Path, folder: Path) -> Path:
    shutil.copytree(pristine, folder)
    return folder


def change(lines: list[bytes], at: int) -> None:
    lines[at] = lines[at].replace(b'"bob"', b'"eve"') if b'"bob"' in lines[at] else lines[at].replace(b"T", b"U", 1)


def flip(lines: list[bytes], at: int) -> None:
    middle = len(lines[at]) * at // len(lines)
    lines[at] = lines[at][:middle] + bytes([lines[at][middle] ^ 1]) + lines[at][middle + 1 :]


def delete(lines: list[bytes], at: int) -> None:
    del lines[at]


def insert(lines: list[bytes], at: int) -> None:
    lines.insert(at, lines[at].replace(b'"accept"', b'"accept" '))


def double(lines: list[bytes], at: int) -> None:
    lines.insert(at, lines[at])


def swap(lines: list[bytes], at: int) -> None:
    other = at - 1 if at else 1
    lines[at], lines[other] = lines[other], lines[at]


def truncate(lines: list[bytes], at: int) -> None:
    del lines[at:]


def tear(lines: list[bytes], at: int) -> None:
    lines[at:] = [lines[at][:-1]]


def rechain(lines: list[bytes], at: int) -> None:
    """Change a record and mend the chain after it: only the signature tells."""
    lines[at] = lines[at].replace(b'"time":"2', b'"time":"3')
    for following in range(at + 1, len(lines)):
        prev = audit_format.hash_of(lines[following - 1]).encode()
        lines[following] = (
            lines[following].split(b'"prev":"')[0]
            + b'"prev":"'
            + prev
            + lines[following][lines[following].index(b'","time"') :]
        )


TAMPERINGS = [change, flip, delete, insert, double, swap, truncate, tear, rechain]


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_any_tampering_is_found_by_both_verifiers(
    pristine: Path, folder: Path, tamper: Callable[[list[bytes], int], None]
) -> None:
    """At every line of every segment by ours, at some of them by the script, which takes a process for each look."""
    for number in sorted(audit_format.segment_numbers(str(pristine))):
        before = list(audit_format.read_lines(str(pristine), number))
        for at in range(len(before)):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(pristine, folder)
            lines = list(before)
            tamper(lines, at)
            Path(audit_format.segment_path(str(folder), number)).write_bytes(b"".join(lines))
            if at % 12 == 0:
                assert both_find(folder), (number, at)
            else:
                with pytest.raises(TamperedLogError):
                    ours(folder)


def remove(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def put(name: str, data: Callable[[Path], bytes]) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / name).write_bytes(data(folder))

    return put


def resigned(folder: Path) -> bytes:
    """The right checkpoint, signed with another key."""
    signed = audit_format.read_checkpoint(str(folder), 3, PUBLIC, seal.verify)
    assert isinstance(signed, Checkpoint)
    return signed.serialize(OTHER, 3)


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(remove("00000003.checkpoint"), id="the-last-checkpoint-is-missing"),
        pytest.param(remove("00000001.checkpoint"), id="a-checkpoint-is-missing"),
        pytest.param(remove("00000002.jsonl"), id="a-segment-is-missing"),
        pytest.param(remove("00000002.jsonl", "00000002.checkpoint"), id="nothing-is-left-of-a-segment"),
        pytest.param(remove("00000003.jsonl", "00000003.checkpoint"), id="nothing-is-left-of-the-last-segment"),
        pytest.param(remove("00000003.jsonl"), id="the-last-segment-is-missing"),
        pytest.param(remove("00000001.jsonl"), id="the-first-segment-is-missing"),
        pytest.param(remove("00000001.jsonl", "00000001.checkpoint"), id="nothing-is-left-of-the-first"),
        pytest.param(put("00000003.checkpoint", resigned), id="signed-with-another-key"),
        pytest.param(put("00000003.checkpoint", lambda _: b""), id="an-empty-checkpoint"),
        pytest.param(put("00000003.checkpoint", lambda _: b"\n" * 512), id="a-blank-checkpoint"),
        pytest.param(
            put("00000003.checkpoint", lambda folder: (folder / "00000002.checkpoint").read_bytes()),
            id="the-checkpoint-of-another-segment",
        ),
        pytest.param(put("00000004.jsonl", lambda _: b""), id="an-empty-segment-without-a-checkpoint"),
        pytest.param(
            put("00000005.checkpoint", lambda folder: (folder / "00000003.checkpoint").read_bytes()),
            id="a-checkpoint-beyond-the-end",
        ),
    ],
)
def test_what_is_missing_or_signed_by_another_is_found(copy: Path, tamper: Callable[[Path], None]) -> None:
    """A missing checkpoint is a failure, not a pass; so is a whole file that is gone."""
    assert sorted(audit_format.segment_numbers(str(copy))) == [1, 2, 3]
    assert not both_find(copy)

    tamper(copy)

    assert both_find(copy)


@pytest.mark.parametrize("line", range(8))
def test_every_line_of_a_checkpoint_counts(copy: Path, line: int) -> None:
    """But for the comment that minisign does not trust either."""
    path = copy / "00000003.checkpoint"
    lines = path.read_bytes().split(b"\n")
    lines[line] = lines[line][:-1] + (b"0" if lines[line][-1:] != b"0" else b"1") if lines[line] else b"x"
    path.write_bytes(b"\n".join(lines))

    assert both_find(copy) is (line != 4)


def test_old_segments_may_be_put_away_if_that_is_said(copy: Path) -> None:
    """Their last checkpoint stays, so that what follows has something to follow."""
    (copy / "00000001.jsonl").unlink()

    assert both_find(copy)
    assert not both_find(copy, "-p")
    (copy / "00000002.jsonl").unlink()
    assert both_find(copy, "-p")
    (copy / "00000001.checkpoint").unlink()
    assert not both_find(copy, "-p")
    (copy / "00000002.checkpoint").unlink()
    assert both_find(copy, "-p")


def test_there_must_be_a_log_and_the_right_key(folder: Path) -> None:
    """Nothing is not in order; and another key's log is another log."""
    folder.mkdir()
    assert both_find(folder)
    write(folder, 1)

    with pytest.raises(TamperedLogError, match="the signature of 00000001"):
        audit_format.verify_log(str(folder), OTHER.public_key, seal.verify)
    assert theirs(folder, key=audit_format.format_public_key(OTHER.public_key)).returncode == 1
    assert theirs(folder, key="nonsense").returncode == 1
    assert theirs(folder, key=str(folder / "key.pub")).returncode == 0
    assert audit_format.parse_public_key((folder / "key.pub").read_text()) == PUBLIC
    assert subprocess.run(["sh", SCRIPT], check=False, capture_output=True).returncode == 2


def test_a_torn_end_is_cut_off(folder: Path) -> None:
    """A crash within a write leaves half a line: nothing was delivered for it."""
    write(folder, 3)
    path = folder / "00000001.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"n":5,"prev":"')

    assert both_find(folder)
    assert len(told(folder)) == 4
    assert path.read_bytes() == whole
    assert not both_find(folder)


def test_whole_records_that_a_crash_left_unsigned_are_signed(folder: Path) -> None:
    """kill -9 between the flush and the signature: what was written counts."""
    write(folder, 1)
    mark = (folder / "00000001.checkpoint").read_bytes()
    at = write(folder, 2)
    (folder / "00000001.checkpoint").write_bytes(mark)

    assert both_find(folder)
    assert len(told(folder)) == 4
    assert ours(folder) == at
    assert not both_find(folder)


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(lambda folder: (folder / "00000001.checkpoint").unlink(), id="no-checkpoint"),
        pytest.param(lambda folder: os.truncate(folder / "00000001.jsonl", 300), id="truncated"),
        pytest.param(lambda folder: os.truncate(folder / "00000001.jsonl", 0), id="emptied"),
        pytest.param(lambda folder: (folder / "00000001.jsonl").unlink(), id="deleted"),
        pytest.param(lambda folder: os.truncate(folder / "00000001.checkpoint", 0), id="no-signature"),
    ],
)
def test_a_relay_does_not_begin_on_a_log_that_was_tampered_with(folder: Path, tamper: Callable[[Path], None]) -> None:
    """Else it would sign what is left, and nobody would ever know."""
    write(folder, 5)
    tamper(folder)

    with pytest.raises(TamperedLogError):
        told(folder)
    with pytest.raises(TamperedLogError):
        ours(folder)


def test_another_key_or_another_name_is_another_log(folder: Path) -> None:
    """They need a folder of their own."""
    write(folder, 1)

    with pytest.raises(TamperedLogError, match="signature"):
        AuditLog(str(folder), OTHER, "hub").open(seal.verify, lambda record: None)
    with pytest.raises(TamperedLogError, match='"hub", not of "spoke"'):
        AuditLog(str(folder), SIGNER, "spoke").open(seal.verify, lambda record: None)


def test_two_relays_do_not_share_a_log(folder: Path) -> None:
    """The second one is told so."""
    log = AuditLog(str(folder), SIGNER)
    log.open(seal.verify, lambda record: None)

    with pytest.raises(StorageError, match="another relay is at work"):
        AuditLog(str(folder), SIGNER).open(seal.verify, lambda record: None)
    log.close()
    AuditLog(str(folder), SIGNER).open(seal.verify, lambda record: None)


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_what_could_not_be_written_does_not_count(folder: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is as before, and goes on when the disk has room again."""
    log = AuditLog(str(folder), SIGNER, "hub")
    log.open(seal.verify, lambda record: None)
    real = getattr(os, call)

    def full(file: int, *data: bytes) -> None:
        if data:
            real(file, data[0][: len(data[0]) // 2])  # a full disk takes a part
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError):
        log.append([{"event": "lost"}])
    monkeypatch.undo()
    log.append([{"event": "kept"}])
    log.close()

    assert [record["event"] for record in audit_format.read_records(str(folder))] == ["begin", "kept"]
    assert not both_find(folder)


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda path: path.unlink(), id="deleted"),
        pytest.param(lambda path: path.rename(f"{path}.old"), id="moved"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes() + b"x"), id="written-to"),
        pytest.param(lambda path: os.truncate(path, 10), id="truncated"),
    ],
)
def test_a_log_that_was_taken_away_takes_no_more_records(folder: Path, harm: Callable[[Path], None]) -> None:
    """What nobody can read is not a record."""
    log = AuditLog(str(folder), SIGNER)
    log.open(seal.verify, lambda record: None)
    harm(folder / "00000001.jsonl")

    with pytest.raises(StorageError, match="changed or replaced"):
        log.append([{"event": "more"}])
    assert not log.is_open


def test_a_log_that_is_gone_is_not_begun_anew_behind_our_back(folder: Path) -> None:
    """The relay that has seen records wants them back; one that is started afresh has not."""
    log = AuditLog(str(folder), SIGNER)
    log.open(seal.verify, lambda record: None)
    log.close()
    shutil.rmtree(folder)

    with pytest.raises(StorageError, match="is gone"):
        log.open(seal.verify, lambda record: None)


@pytest.mark.parametrize("call", ["write", "fdatasync", "pwrite", "fsync", "open"])
def test_wherever_it_fails_nothing_that_was_confirmed_is_lost(
    folder: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of the kernel fails once, in a log that rotates: what append() has confirmed is there afterwards, both
    verifiers are content, and the next relay goes on."""
    real = getattr(os, call)
    for nth in range(1, 60):
        shutil.rmtree(folder, ignore_errors=True)
        write(folder, 1, segment=700)
        left = [nth]

        def failing(*arguments: Any, left: list[int] = left, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.EIO, "it fails")
            return real(*arguments, **options)

        log = AuditLog(str(folder), SIGNER, "hub", 700)
        confirmed = []
        monkeypatch.setattr(os, call, failing)
        for number in range(12):
            try:
                if not log.is_open:
                    log.open(seal.verify, lambda record: None)
                log.append([{"event": "accept", "id": str(number)}])
                confirmed.append(str(number))
            except StorageError:
                continue
        monkeypatch.undo()
        log.close()
        told(folder)

        assert len(confirmed) >= 10
        assert [
            record["id"] for record in audit_format.read_records(str(folder)) if record.get("id") in confirmed
        ] == confirmed
        ours(folder)
        if nth % 20 == 1:
            assert not both_find(folder)
        if left[0] > 0:
            break


def test_what_senders_write_can_not_break_a_line(folder: Path) -> None:
    """Types and threads are the sender's words: escaped, and cut where they are long."""
    log = AuditLog(str(folder), SIGNER, "hub")
    log.open(seal.verify, lambda record: None)
    log.append([{"event": "accept", "type": 'a"\n\x1b[2J\u202e', "thread": "x" * 10_000, "why": None}])
    log.close()
    line = (folder / "00000001.jsonl").read_bytes().splitlines()[1]
    record = json.loads(line)

    assert line.isascii()
    assert b"\x1b" not in line
    assert record["type"] == 'a"\n\x1b[2J\u202e'
    assert record["thread"] == "x" * 200 + "…"
    assert "why" not in record
    assert not both_find(folder)


def test_the_digest_of_a_message_can_not_be_guessed(folder: Path) -> None:
    """It is the same for the same bytes, and another under another key."""
    one, two = AuditLog(str(folder), SIGNER), AuditLog(str(folder), OTHER)

    assert one.digest(b"yes") == one.digest(b"yes") != one.digest(b"no")
    assert one.digest(b"yes") != two.digest(b"yes")


def test_records_are_shown_as_far_as_they_can_be_read(folder: Path) -> None:
    """A log that is damaged can still be looked at."""
    write(folder, 3)
    path = folder / "00000001.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"junk\n[1]\n" + lines[2])

    assert [record["n"] for record in audit_format.read_records(str(folder))] == [1, 3]


def test_a_line_is_a_megabyte_at_most_in_no_case() -> None:
    """The longest record that senders can cause is short."""
    words = "\U0001f600" * 100_000
    line = audit_log.serialize_record(
        audit_format.empty_log("hub"), dict.fromkeys(("type", "thread", "why", "in_reply_to"), words)
    )

    assert len(line) < 20_000
