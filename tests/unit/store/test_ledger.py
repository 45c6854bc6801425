"""What was already handled."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filemailbox import Mailbox
from filemailbox.format.timestamp import to_timestamp
from filemailbox.store.ids import new_id, timestamp_now
from filemailbox.store.ledger import Ledger
from filemailbox.system.locks import Lock


def stamp(second: int) -> str:
    return to_timestamp(second * 1_000_000_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "ledger"
    path.mkdir(0o700)
    return path


@pytest.fixture
def book(folder: Path) -> Callable[..., Ledger]:
    """book(limit): the ledger, opened by one more consumer."""
    return lambda limit=100: Ledger(str(folder), str(folder.parent), limit)


def fill(ledger: Ledger, seconds: range) -> None:
    for second in seconds:
        ledger.record("none", "alice", f"k{second}", stamp(second))


def noting(calls: list[str], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """*call*, noting its *name* in *calls*."""

    def noted(*given: Any) -> Any:
        calls.append(name)
        return call(*given)

    return noted


def known(ledger: Ledger, seconds: range) -> list[int]:
    return [second for second in seconds if ledger.handled("none", "alice", f"k{second}")]


def test_what_was_recorded_is_handled(book: Callable[..., Ledger]) -> None:
    """And it is still when the ledger is opened anew."""
    ledger = book()
    before = ledger.handled("none", "alice", "k")
    ledger.record("none", "alice", "k", stamp(1))

    assert before is False
    assert ledger.handled("none", "alice", "k")
    assert book().handled("none", "alice", "k")
    assert book().floor("none", "alice") == ""


@pytest.mark.parametrize(
    ("trust", "sender", "key"),
    [("uid", "alice", "k"), ("none", "carol", "k"), ("none", "alice", "K")],
    ids=["other trust", "other sender", "other key"],
)
def test_a_key_counts_for_its_sender_and_what_proves_it(
    book: Callable[..., Ledger], trust: str, sender: str, key: str
) -> None:
    """Nobody can use up the keys of another."""
    book().record("none", "alice", "k", stamp(1))

    assert not book().handled(trust, sender, key)


def test_consumers_see_what_the_others_record(book: Callable[..., Ledger]) -> None:
    """At once: they share the files, not the memory."""
    one, other = book(), book()
    for second in range(4):
        fill((one, other)[second % 2], range(second, second + 1))

        assert known(one, range(10)) == known(other, range(10)) == list(range(second + 1))


def test_a_line_that_a_crash_cut_off_spoils_no_other(book: Callable[..., Ledger], folder: Path) -> None:
    """It is not read, and the next one begins on a line of its own."""
    ledger = book()
    fill(ledger, range(1))
    with open(folder / "none-alice.jsonl", "ab") as file:
        file.write(b'{"key":"k1","se')
    torn = known(ledger, range(3))
    fill(ledger, range(2, 3))

    assert torn == [0]
    assert known(ledger, range(3)) == [0, 2]
    assert known(book(), range(3)) == [0, 2]


def test_a_line_that_is_being_written_is_read_when_it_is_whole(book: Callable[..., Ledger], folder: Path) -> None:
    """A reader takes no lock."""
    ledger = book()
    line = orjson.dumps({"key": "k0", "sent": stamp(0)}) + b"\n"
    with open(folder / "none-alice.jsonl", "ab", buffering=0) as file:
        file.write(line[:9])
        half = known(ledger, range(1))
        file.write(line[9:])

    assert half == []
    assert known(ledger, range(1)) == [0]


@pytest.mark.parametrize(
    "line",
    [b"", b"null", b"7", b"[]", b"{}", b'{"key":"k9"}', b'{"floor":', b"\xff\xfe", b"\0" * 4096],
    ids=["empty", "null", "number", "array", "no members", "no time", "cut off", "not utf-8", "zeros"],
)
def test_a_line_that_is_none_is_passed_over(book: Callable[..., Ledger], folder: Path, line: bytes) -> None:
    """A damaged disk costs one entry, not the box."""
    fill(book(), range(1))
    with open(folder / "none-alice.jsonl", "ab") as file:
        file.write(line + b"\n")
    fill(book(), range(1, 2))

    assert known(book(), range(10)) == [0, 1]


def test_it_is_bounded_and_says_what_it_forgot(book: Callable[..., Ledger], folder: Path) -> None:
    """From twice the limit on only the newest are kept; the floor is the newest time of the others."""
    ledger = book(3)
    fill(ledger, range(5))
    before = known(book(3), range(10)), ledger.floor("none", "alice")
    fill(ledger, range(5, 6))

    assert before == ([0, 1, 2, 3, 4], "")
    assert known(ledger, range(10)) == known(book(3), range(10)) == [3, 4, 5]
    assert ledger.floor("none", "alice") == book(3).floor("none", "alice") == stamp(2)
    assert os.listdir(folder).count("none-alice.jsonl") == len([name for name in os.listdir(folder) if "alice" in name])


def test_what_is_kept_is_what_was_sent_last(book: Callable[..., Ledger]) -> None:
    """Not what was recorded last: mail may come back hours later."""
    ledger = book(2)
    fill(ledger, range(9, 5, -1))

    assert known(ledger, range(10)) == [8, 9]
    assert ledger.floor("none", "alice") == stamp(7)


def test_a_reader_notices_each_rewriting(book: Callable[..., Ledger]) -> None:
    """Also when the new file has the inode of the one that it read last: file systems give them out again."""
    writer, reader = book(2), book(2)
    seen = []
    for start in range(0, 60, 4):
        fill(writer, range(start, start + 4))  # rewritten twice between two looks
        seen.append(set(known(writer, range(60))) <= set(known(reader, range(60))))

    assert all(seen)
    assert reader.floor("none", "alice") == writer.floor("none", "alice")


def test_a_crash_while_it_is_rewritten_loses_nothing(
    book: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new key is in the old file before the new file takes its place."""
    fill(book(2), range(3))

    def crash(*paths: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        fill(book(2), range(3, 4))

    assert known(book(2), range(4)) == [0, 1, 2, 3]


def test_a_full_disk_is_told_and_nothing_is_taken_for_handled(
    book: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that is cut short is an error, and so is none at all; afterwards it works again."""
    ledger, real = book(), os.write
    fill(ledger, range(1))
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:9]))
    with pytest.raises(OSError, match="full") as caught:
        fill(ledger, range(1, 2))
    monkeypatch.setattr(os, "write", real)
    after = known(ledger, range(3))
    fill(ledger, range(2, 3))

    assert caught.value.errno == errno.ENOSPC
    assert after == [0]
    assert known(ledger, range(3)) == [0, 2]


def test_a_ledger_that_is_locked_for_too_long_is_an_error(
    book: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process must not stop all the others for ever."""
    monkeypatch.setattr(Lock, "take", lambda lock, wait: False)

    with pytest.raises(TimeoutError, match="is held for more than"):
        fill(book(), range(1))


def test_what_is_recorded_is_flushed_before_record_returns(
    book: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ack comes after it: else a power cut could bring the message back, and its key not."""
    calls: list[str] = []
    monkeypatch.setattr(os, "write", noting(calls, "write", os.write))
    monkeypatch.setattr(os, "fsync", noting(calls, "fsync", os.fsync))
    fill(book(), range(1))

    assert calls[-2:] == ["write", "fsync"]


def test_those_who_are_no_agents_share_one_file(book: Callable[..., Ledger], folder: Path) -> None:
    """A sender's name comes from a hostile file: it must not become a path, nor fill the disk with files."""
    ledger = book()
    for sender in ("../../etc/x", "Alice", "", "all", "\0"):
        ledger.record("none", sender, "k", stamp(1))

    assert sorted(os.listdir(folder)) == [".lock", "none-_.jsonl"]
    assert ledger.handled("none", "anybody else!", "k")


def test_its_files_are_private(book: Callable[..., Ledger], folder: Path) -> None:
    """Keys can be secrets; the rewritten file is as private as the first."""
    fill(book(2), range(3))
    modes = [stat.S_IMODE((folder / "none-alice.jsonl").stat().st_mode)]
    fill(book(2), range(3, 5))
    modes.append(stat.S_IMODE((folder / "none-alice.jsonl").stat().st_mode))

    assert modes == [0o600, 0o600]


def test_consumers_can_record_at_the_same_time(
    book: Callable[..., Ledger], folder: Path, start: Callable[..., Any]
) -> None:
    """No line is lost or mixed with another, also while the file is rewritten."""
    script = """
import sys
from filemailbox.format.timestamp import to_timestamp
from filemailbox.store.ledger import Ledger
folder, first = sys.argv[1], int(sys.argv[2])
ledger = Ledger(folder, folder, 30)
for second in range(first, first + 20):
    ledger.record("none", "alice", f"k{second}", to_timestamp(second * 1_000_000_000))
"""
    programs = [start(script, folder, first) for first in (0, 20, 40)]
    ended = [program.end() for program in programs]
    ledger = book(30)

    assert ended == [0, 0, 0]
    assert known(ledger, range(60)) == list(range(60))[-30:]
    assert ledger.floor("none", "alice") == stamp(29)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 50), max_size=25), st.integers(1, 4))
def test_the_newest_are_never_forgotten_and_what_is_forgotten_is_below_the_floor(
    seconds: list[int], limit: int
) -> None:
    """In whatever order they come, however often: that is what a receiver may rely on."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(folder, folder, limit)
        for second in seconds:
            fill(ledger, range(second, second + 1))
        again = Ledger(folder, folder, limit)
        handled, floor = set(known(again, range(51))), again.floor("none", "alice")

    assert set(sorted(set(seconds))[-limit:]) <= handled <= set(seconds)
    assert all(stamp(second) <= floor for second in set(seconds) - handled)
    assert len(handled) < 2 * limit


def test_what_root_records_belongs_to_the_owner_of_the_box(as_root: None, folder: Path) -> None:
    """Else the owner could not read its own ledger any more."""
    os.chown(folder.parent, 2001, 2001)
    fill(Ledger(str(folder), str(folder.parent), 1), range(3))
    facts = (folder / "none-alice.jsonl").stat()

    assert (facts.st_uid, facts.st_gid) == (2001, 2001)


@pytest.mark.parametrize("trust", ["none", "uid"])
def test_stamps_that_are_to_come_raise_no_floor(book: Callable[..., Ledger], trust: str) -> None:
    """A stranger chooses them: mail that others send from now on is not older than what is remembered."""
    ledger = book(10)
    for number in range(20):
        ledger.record(trust, "_", f"k{number}", f"99991231T235959.{number:09}Z")

    assert ledger.floor(trust, "_") <= timestamp_now()
    assert [number for number in range(20) if ledger.handled(trust, "_", f"k{number}")] == list(range(10, 20))


def test_under_a_key_the_floor_is_that_of_its_stamps(book: Callable[..., Ledger]) -> None:
    """Else what was forgotten could be replayed; and nobody but the holder of the key can raise it."""
    ledger = book(10)
    for number in range(20):
        ledger.record("signed", "alice", f"k{number}", f"99991231T235959.{number:09}Z")

    assert ledger.floor("signed", "alice") == f"99991231T235959.{9:09}Z"


def test_a_page_that_was_poisoned_before_is_of_use_again(book: Callable[..., Ledger], folder: Path) -> None:
    """A floor that is to come is none, and the next rewriting puts it right."""
    (folder / "none-_.jsonl").write_text('{"floor":"99991231T235959.000000000Z"}\n')
    ledger = book(10)
    assert ledger.floor("none", "_") == ""

    for second in range(20):
        ledger.record("none", "_", f"k{second}", stamp(second))
    assert ledger.floor("none", "_") == stamp(9)


def test_one_stranger_s_stamps_kill_no_other_s_mail(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 000 keyed messages of the year 9999, and then one of somebody else."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with Mailbox("bob", root, durable=False) as bob:
        for number in range(20_000):
            data = b'{"from":"mallory","key":"%d","body":1}' % number
            name = f"99991231T235959.{number:09}Z-0123456789ab,S={len(data)}.json"
            (root / "bob/new" / name).write_bytes(data)
            if number % 1000 == 999:
                for _ in range(1000):
                    message = bob.receive()
                    assert message is not None
                    message.ack()
        other = b'{"from":"carol","key":"k","body":"mail"}'
        (root / f"bob/new/{new_id()},S={len(other)}.json").write_bytes(other)
        message = bob.receive()

        assert message is not None
        assert message.body == "mail"
        assert [letter.problem for letter in bob.peek("dead")] == []
