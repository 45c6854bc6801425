"""What is left over in a box, and taking it away."""

import itertools
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import BoxInUseError, BoxNotFoundError, Mailbox
from filemailbox.format.address import Address, parse_address
from filemailbox.ops.cleanup import find_garbage, remove_garbage, root_garbage, shrink
from filemailbox.store.box import create_box
from filemailbox.store.consumer_folder import move_all
from filemailbox.store.ids import new_id
from filemailbox.store.removed_boxes import remove_box

LONG_AGO = time.time() - 40 * 3600


def swept(bob: Mailbox, older_than: float | None = None) -> list[str]:
    """Take everything away that is left over; what it was."""
    found = []
    for left in find_garbage(bob.root.box(parse_address("bob")), older_than):
        left.remove()
        found.append(left.description)
    return found


def consumers(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "bob" / "cur").iterdir())


def test_a_fresh_box_has_nothing_left_over(root: Path, bob: Mailbox) -> None:
    """Nor has one in use."""
    bob.send("bob", 1)
    assert bob.receive() is not None

    assert swept(bob) == []


def test_old_drafts_go_and_young_ones_stay(root: Path, bob: Mailbox) -> None:
    """36 hours, as in Maildir: their writer may still be writing."""
    old, young = root / "bob" / "tmp" / "old", root / "bob" / "tmp" / "young"
    for path in (old, young):
        path.write_text("x")
    os.utime(old, (LONG_AGO, LONG_AGO))

    assert swept(bob) == ["a temporary file unchanged for 36 hours"]
    assert (old.exists(), young.exists()) == (False, True)


def test_old_notes_without_a_letter_go(root: Path, bob: Mailbox) -> None:
    """One beside its letter stays, and so does one that was just written: its letter may be on the way."""
    bob.send("bob", 1)
    message = bob.receive()
    assert message is not None
    message.reject("no")
    dead = root / "bob" / "dead"
    for name in ("old.why", "young.why"):
        (dead / name).write_text("x")
    for path in dead.glob("*.why"):
        if path.name != "young.why":
            os.utime(path, (LONG_AGO, LONG_AGO))

    assert swept(bob) == ["a note without a dead letter"]
    assert len(list(dead.iterdir())) == 3


def test_handled_mail_goes_when_that_is_asked_for(root: Path) -> None:
    """By the time at which it was handled."""
    with Mailbox("bob", root, retention=3600, durable=False) as bob:
        for body in range(2):
            bob.send("bob", body)
            message = bob.receive()
            assert message is not None
            message.ack()
        one = min((root / "bob" / "done").iterdir())
        one.rename(one.with_name("20200101T000000.000000000Z~" + one.name.partition("~")[2]))

        assert swept(bob) == []
        assert swept(bob, 86400) == ["a handled message older than asked for"]
        assert len(list((root / "bob" / "done").iterdir())) == 1


def test_folders_of_consumers_that_are_gone_go_but_one(root: Path, start: Callable[..., Any]) -> None:
    """The last one is needed to drain a volume that is full; one that is taken stays anyway."""
    boxes = [Mailbox("bob", root, durable=False) for _ in range(4)]
    for box in boxes:
        box.receive()
    assert len(consumers(root)) == 4
    for box in boxes[1:]:
        box.close()

    assert swept(boxes[0]) == ["the folder of a dead consumer"] * 2
    assert len(consumers(root)) == 2
    boxes[0].close()
    assert len(swept(boxes[0])) == 1
    assert len(consumers(root)) == 1


def test_what_a_dead_consumer_held_comes_back(root: Path, bob: Mailbox, start: Callable[..., Any]) -> None:
    """At once, as it would at the next consumer's look."""
    bob.send("bob", 1)
    holder = start(
        "import sys; from filemailbox import Mailbox; box = Mailbox('bob', sys.argv[1]); print(box.receive().id)"
        "; sys.stdin.readline()",
        root,
    )
    holder.line()
    assert swept(bob) == []
    holder.kill()

    assert swept(bob)[0] == "1 message of a dead consumer: will be released"
    assert [message.state for message in bob.peek()] == ["later"]


def test_leases_that_ran_out_are_swept_and_others_are_not(root: Path, bob: Mailbox, until: Callable[..., None]) -> None:
    """Until its deadline a lease is nobody's business."""
    for span in (600.0, 0.01):
        bob.send("bob", span)
        with Mailbox("bob", root, lease=span) as box:
            assert box.receive() is not None
    until(
        lambda: any(
            "1 message of a lease that expired" in each.description for each in find_garbage(bob.root.box(bob.name))
        )
    )
    swept(bob)

    assert [message.body for message in bob.peek("later")] == [0.01]
    assert [message.body for message in bob.peek("cur")] == [600.0]


def test_locks_of_requests_that_nobody_waits_for_go(root: Path, bob: Mailbox) -> None:
    """What a killed requester has left; one that waits keeps its own."""
    (root / "bob" / "cur" / f".{new_id()}.lock").write_text("")

    assert swept(bob) == ["the lock of an abandoned request"]
    assert not any(name.endswith(".lock") for name in consumers(root))


def test_bells_and_words_of_listeners_that_are_gone_go(root: Path, bob: Mailbox) -> None:
    """A bell that hears stays."""
    run = root / "bob" / "run"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(run / "dead"))
    alive = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    alive.bind(str(run / "alive"))
    (run / "status-0123456789ab.json").write_text("{}")
    for path in run.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))

    assert sorted(swept(bob)) == ["a doorbell without a listener", "the status file of a dead listener"]
    assert [path.name for path in run.iterdir()] == ["alive"]
    alive.close()


def test_a_folder_is_shrunk_without_losing_what_is_in_it(root: Path, bob: Mailbox) -> None:
    """Mode and owner stay; mail is there before, after, and for consumers that hold the old folder."""
    ids = [bob.send("bob", number) for number in range(5)]
    first = bob.receive()
    new = root / "bob" / "new"
    before = new.stat()
    shrink(str(root / "bob"))
    after = new.stat()
    ids.append(bob.send("bob", 5))
    rest = [bob.receive(timeout=20) for _ in range(5)]

    assert first is not None
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino
    assert [first.id, *(message.id for message in rest if message)] == ids
    assert [path.name for path in (root / "bob").iterdir() if path.name.startswith(".")] == []


def test_a_bloated_folder_is_found_on_ext4_only(bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a folder never gets smaller by itself; and only one with little in it is worth it."""
    monkeypatch.setattr("filemailbox.ops.cleanup._BLOATED", 1)
    monkeypatch.setattr("filemailbox.ops.cleanup._ENTRY", 0)
    monkeypatch.setattr("filemailbox.ops.cleanup._file_system", lambda path: "ext4")
    assert [what for what in swept(bob) if "KiB of folder for a few messages" in what] != []

    monkeypatch.setattr("filemailbox.ops.cleanup._file_system", lambda path: "xfs")
    assert swept(bob) == []

    monkeypatch.setattr("filemailbox.ops.cleanup._file_system", lambda path: "ext4")
    monkeypatch.setattr("filemailbox.ops.cleanup._ENTRY", 1 << 30)
    bob.send("bob", 1)
    assert swept(bob) == []


def test_senders_never_meet_a_box_without_new(root: Path, bob: Mailbox, start: Callable[..., Any]) -> None:
    """While one sends without pause, the folder is put in place again and again: nothing fails, nothing is lost."""
    sender = start(
        "import sys; from filemailbox import Mailbox; box = Mailbox('alice', sys.argv[1], durable=False)\n"
        "print('ready')\n"
        "for number in range(2000): box.send('bob', number)\n"
        "print('done')",
        root,
    )
    sender.line()
    for _ in range(5):
        shrink(str(root / "bob"))

    assert sender.line() == "done"
    assert sum(1 for _ in (root / "bob" / "new").iterdir()) == 2000


def test_who_holds_the_old_folder_open_cannot_keep_gc(
    root: Path, bob: Mailbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each time that it was emptied there is mail in it again. What remains there comes back."""
    put = itertools.count()

    def insist(old: int, new: int) -> None:
        move_all(old, new)
        Path(f"/proc/self/fd/{old}/{next(put)}.json").write_text("{}")

    monkeypatch.setattr("filemailbox.ops.cleanup._MAX_DRAIN", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr("filemailbox.ops.cleanup.move_all", insist)
        shrink(str(root / "bob"))

    assert "still puts mail into" in caplog.text
    assert swept(bob) == ["1 message in a folder that was new/: will be moved back"]
    assert len(list((root / "bob" / "new").iterdir())) == next(put)


def test_two_files_of_one_foreign_name_both_stay(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sender puts under a name into the new folder while one of that name is moved over."""
    from filemailbox.ops import cleanup
    from filemailbox.system import files

    rename, box = files.rename, root / "bob"
    (box / "new" / "x.json").write_text('{"n": 1}')

    def between(source: str, target: str, flags: int) -> None:
        rename(source, target, flags)
        if flags == 2:
            (box / "new" / "x.json").write_text('{"n": 2}')

    monkeypatch.setattr(cleanup, "rename", between)
    shrink(str(box))

    assert sorted(path.read_text() for path in (box / "new").iterdir()) == ['{"n": 1}', '{"n": 2}']


def test_no_box_is_an_error(bob: Mailbox) -> None:
    """Before anything is looked at."""
    with pytest.raises(BoxNotFoundError):
        list(find_garbage(bob.root.box(parse_address("carol"))))


@pytest.mark.parametrize("who", ["a consumer that begins", "one that is at work", "gc"])
def test_mail_in_an_exchange_that_was_cut_off_comes_back(root: Path, bob: Mailbox, who: str) -> None:
    """gc was killed when it had put a fresh new/ in place, and what lay in the old one was not moved over yet."""
    if who == "one that is at work":
        assert bob.receive() is None
    ids = [bob.send("bob", number) for number in range(2)]
    now = time.time()  # the kernel writes times in ticks: a file may seem older than what was sent before it
    (root / "bob/new/job.json").write_text('{"n": 1}')
    os.utime(root / "bob/new/job.json", (now, now + 1))
    box = root / "bob"
    (box / "fresh").mkdir()
    (box / "new").rename(box / ".new-0123456789ab")
    (box / "fresh").rename(box / "new")
    (box / "new/job.json").write_text('{"n": 2}')
    os.utime(box / "new/job.json", (now, now + 2))
    if who != "one that is at work":  # sent again: the same, in both
        bob.send("bob", 1, id=ids[1])
    if who == "gc":
        with pytest.raises(BoxInUseError):
            remove_box(bob.root.box(parse_address("bob")))
        swept(bob)
    messages = [bob.receive(timeout=20) for _ in range(4)]

    assert [message.id for message in messages if message][:2] == ids
    assert [message.body for message in messages if message] == [0, 1, {"n": 1}, {"n": 2}]
    assert [path.name for path in box.iterdir() if path.name.startswith(".")] == [".new-0123456789ab"]

    os.utime(box / ".new-0123456789ab", (LONG_AGO, LONG_AGO))

    assert "a folder that was new/" in swept(bob)
    assert [path.name for path in box.iterdir() if path.name.startswith(".")] == []


def test_what_was_half_made_goes_after_36_hours(root: Path, bob: Mailbox) -> None:
    """A consumer's folder that never became visible, or was on its way out; a page of the ledger; no young ones."""
    cur, ledger = root / "bob" / "cur", root / "bob" / "ledger"
    for name in (".0123456789ab", ".0123456789ac", ".0123456789ad,U=20261124T014530.123456789Z"):
        (cur / name).mkdir()
        (cur / name / ".lock").touch()
        if name != ".0123456789ac":
            os.utime(cur / name, (LONG_AGO, LONG_AGO))
    (ledger / "none-alice.jsonl.new").touch()
    os.utime(ledger / "none-alice.jsonl.new", (LONG_AGO, LONG_AGO))

    assert swept(bob) == ["a half-made folder of a consumer"] * 2 + ["a half-written page of the ledger"]
    assert [name for name in consumers(root) if name.startswith(".")] == [".0123456789ac"]


def test_the_root_is_swept_of_what_was_cut_off(root: Path, bob: Mailbox) -> None:
    """A mark half written, a box half removed; a box that was kept with its mail stays."""
    bob.send("bob", 1)
    remove_box(bob.root.box(parse_address("bob")), force=True)
    create_box(bob.root.box(parse_address("bob")))
    bob.send("bob", 2)
    kept = root / ".removed"
    (kept / "alice-x" / "cur").mkdir(parents=True)
    mark = root / ".mailbox.0123456789ab"
    mark.touch()
    os.utime(mark, (LONG_AGO, LONG_AGO))
    found = []
    for left in root_garbage(bob.root):
        left.remove()
        found.append(left.description)

    assert found == ["a half-written marker of the root", "a removed box without mail"]
    assert len(list(kept.iterdir())) == 1
    assert sorted(path.name for path in root.iterdir()) == [".mailbox", ".removed", "alice", "bob"]


def test_an_empty_folder_of_removed_boxes_goes(root: Path, bob: Mailbox) -> None:
    """The removal was killed before its last step, or right after its first."""
    (root / ".removed").mkdir()
    for left in root_garbage(bob.root):
        left.remove()

    assert not (root / ".removed").exists()


@pytest.mark.parametrize("name", [".settings.json.0123456789ab", ".handled.json.0123456789ab"])
def test_a_file_that_a_killed_process_was_writing_is_garbage(root: Path, bob: Mailbox, name: str) -> None:
    """After 36 hours; the files themselves are not."""
    for each in (name, name.removeprefix(".").rpartition(".")[0]):
        (root / "bob" / each).write_text("{}")
        os.utime(root / "bob" / each, (0, 0))
    (root / "bob" / f"{name}0").write_text("{}")
    for garbage, error in remove_garbage(bob.root.box(Address("bob"))):
        assert error is None
        assert garbage.path == str(root / "bob" / name)

    assert sorted(path.name for path in (root / "bob").iterdir() if path.is_file()) == sorted(
        [f"{name}0", name.removeprefix(".").rpartition(".")[0]]
    )
