"""Boxes and their care on the command line: init, remove, agents, status, doctor, gc."""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from filemailbox.ops import inventory
from filemailbox.store.ids import new_id
from filemailbox.system.locks import Lock


def test_boxes_are_made_and_the_root_with_them(
    mailbox: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there stays."""
    first = mailbox("init", "carol", "dave", "--root", tmp_path / "other")
    again = mailbox("init", "carol", "--root", tmp_path / "other")

    assert (first.code, first.out) == (0, "")
    assert first.err.splitlines() == [f"making the root {tmp_path / 'other'}", "carol: made", "dave: made"]
    assert again.err == "carol: was there\n"


def test_an_empty_box_is_removed(mailbox: Callable[..., Any], root: Path) -> None:
    """Nothing is left of it."""
    said = mailbox("remove", "bob")

    assert (said.code, said.out, said.err) == (0, "", "bob: removed\n")
    assert sorted(path.name for path in root.iterdir()) == [".mailbox", "alice"]


def test_a_box_with_mail_is_removed_only_by_force_and_kept_aside(
    mailbox: Callable[..., Any], root: Path, alice: Mailbox
) -> None:
    """Its new place is printed, the mail in it; the other boxes that were named go all the same."""
    alice.send("bob", "hi")
    refused = mailbox("remove", "bob", "alice")
    forced = mailbox("remove", "bob", "--force")

    assert refused.code == 1
    assert 'the box "bob" holds 1 message' in refused.err
    assert "alice: removed" in refused.err
    assert forced.code == 0
    assert len(list(Path(forced.out.strip()).glob("new/*.json"))) == 1
    assert not (root / "bob").exists()


def test_no_box_to_remove_is_exit_code_67(mailbox: Callable[..., Any]) -> None:
    """It names those there are."""
    said = mailbox("remove", "carol")

    assert said.code == 67
    assert "there are alice, bob" in said.err


def test_agents_are_listed_with_how_they_stand(mailbox: Callable[..., Any], root: Path, alice: Mailbox) -> None:
    """A line each: who listens, what waits. In a pipe as tabs, ages in seconds."""
    alice.send("bob", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        bell.bind(str(root / "alice" / "run" / "bell"))
        rows = [line.split("\t") for line in mailbox("agents").lines]
        records = {record["name"]: record for record in mailbox("agents", "--json").records}

    assert [row[:3] for row in rows] == [["alice", "yes", "0"], ["bob", "no", "1"]]
    assert rows[1][3].isdigit()
    assert (records["alice"]["has_listener"], records["bob"]["has_listener"]) == (True, False)
    assert records["bob"]["waiting"] == 1


def test_status_tells_of_a_box_in_words(mailbox: Callable[..., Any], alice: Mailbox, bob: Mailbox) -> None:
    """Of the one of MAILBOX_AGENT, of those that are named, or of all."""
    for body in range(4):
        alice.send("bob", body)
    dead, retried = bob.receive(), bob.receive()
    assert dead is not None
    assert retried is not None
    dead.reject("no")
    retried.retry(3600)
    mailbox("receive", "--no-ack", "--lease", "1h")

    said = mailbox("status").out
    assert said.startswith("bob\n")
    assert "  waiting: 1, the oldest for 0 s\n  deferred: 1, 1 of them for another attempt; the next is due in " in said
    assert "\n  claimed: 1, 1 of them under a lease\n" in said
    assert "expires 2" in said
    assert "dead letters: 1" in said
    assert mailbox("status", "alice", "bob").out.count("waiting:") == 2
    assert mailbox("status", sender="").out.count("waiting:") == 2
    assert mailbox("status", "--json").records[0]["dead"] == 1
    assert mailbox("status", "carol").code == 67


def test_status_tells_how_a_listener_does(
    mailbox: Callable[..., Any], root: Path, start: Callable[..., Any], until: Callable[..., None]
) -> None:
    """Idle or at work, what it handled, what reached it how."""
    start("import sys; from filemailbox.cli.run import main; sys.exit(main())", "watch", "--as", "bob", "--root", root)
    until(lambda: "reported" in mailbox("status", "bob").out)
    said = mailbox("status", "bob").out

    assert ": idle, reported 0 s ago, handled 0" in said
    assert mailbox("agents").lines[1].startswith("bob\tyes")


def test_doctor_finds_nothing_where_all_is_well(mailbox: Callable[..., Any]) -> None:
    """A note on the world, exit code 0."""
    said = mailbox("doctor")

    assert said.code == 0
    assert [line.split("\t")[0] for line in said.lines] == ["note"]


def test_doctor_says_what_is_wrong_and_mends_it(mailbox: Callable[..., Any], root: Path) -> None:
    """Exit code 1 as long as something is wrong."""
    (root / "bob" / "new").chmod(0o700)
    ill = mailbox("doctor")
    [record] = [record for record in mailbox("doctor", "bob", "--json").records if record["severity"] == "error"]
    mended = mailbox("doctor", "--fix")

    assert ill.code == 1
    assert "error\tbob\tits new/ has the mode 0700, expected 3733: others cannot deliver\t" in ill.out
    assert (record["where"], record["fixable"], record["outcome"]) == ("bob", True, None)
    assert mended.code == 0
    assert "\tfixed\n" in mended.out
    assert mailbox("doctor").code == 0


def test_doctor_without_a_root_says_where_it_looked(mailbox: Callable[..., Any], tmp_path: Path) -> None:
    """A volume that is not mounted is the commonest trouble."""
    said = mailbox("doctor", "--root", tmp_path)

    assert said.code == 69
    assert "is the volume mounted?" in said.err


def test_gc_prints_what_it_takes_away(mailbox: Callable[..., Any], root: Path) -> None:
    """With --dry-run it only says so."""
    draft = root / "bob" / "tmp" / "draft"
    draft.write_text("x")
    long_ago = time.time() - 40 * 3600
    os.utime(draft, (long_ago, long_ago))
    would, did, nothing = mailbox("gc", "--dry-run"), mailbox("gc"), mailbox("gc")

    assert would.out == did.out == f"bob\ta temporary file unchanged for 36 hours\t{draft}\n"
    assert (nothing.code, nothing.out) == (0, "")
    assert not draft.exists()


def test_gc_takes_handled_mail_by_its_age(mailbox: Callable[..., Any], root: Path) -> None:
    """Only where that is asked for."""
    name = f"20200101T000000.000000000Z~{new_id()},S=2.json"
    (root / "bob" / "done" / name).write_text("{}")

    assert mailbox("gc", "alice", "--older-than", "1d").out == ""
    assert "a handled message older than asked for" in mailbox("gc", "bob", "--older-than", "1d").out
    assert list((root / "bob" / "done").iterdir()) == []


def test_gc_goes_on_with_the_next_box(mailbox: Callable[..., Any], root: Path) -> None:
    """One that cannot be swept is told."""
    (root / "alice" / "tmp").rmdir()
    (root / "bob" / "cur" / f".{new_id()}.lock").write_text("")
    said = mailbox("gc")

    assert said.code != 0
    assert said.err.startswith("mailbox: ")
    assert said.out.startswith("bob\t")


def test_gc_of_all_boxes_sweeps_the_root_as_well(mailbox: Callable[..., Any], root: Path) -> None:
    """Named boxes alone are swept where some are named."""
    mark = root / ".mailbox.0123456789ab"
    mark.touch()
    os.utime(mark, (1, 1))
    one = mailbox("gc", "bob")
    all_ = mailbox("gc")

    assert (one.code, one.out) == (0, "")
    assert (all_.code, all_.out) == (0, f".\ta half-written marker of the root\t{mark}\n")
    assert not mark.exists()


# One box's trouble is its own


@pytest.fixture
def ill(root: Path) -> Iterator[Callable[[str], None]]:
    """ill(how): alice's box, the first that is looked at, is made one that cannot be looked into."""
    folder = root / "alice/cur/0123456789ab"
    folder.mkdir()
    status = root / "alice/run/status-0123456789ab.json"

    def plant(how: str) -> None:
        lock = folder / ".lock"
        if how == "a lock that is a link":
            lock.symlink_to("/etc/hostname")
            status.write_text("{}")
        elif how == "a lock that leads to itself":
            lock.symlink_to(".lock")
            status.write_text("{}")
        elif how == "a lock that is a folder":
            lock.mkdir()
            status.write_text("{}")
        else:
            lock.touch()
            holder = Lock(str(lock))
            assert holder.take()
            held.append(holder)
            if how == "a status that is a link":
                status.symlink_to("/dev/zero")
            elif how == "a status that is a FIFO":
                os.mkfifo(status)
            elif how == "a status that is huge":
                with status.open("wb") as file:
                    file.truncate(1 << 40)
            elif how == "a status of nonsense":
                status.write_text('{"since": {"a": []}, "looked": 7, "handled": 1e999}')
            else:
                (root / "alice/run").rename(root / "alice/was-run")
                (root / "alice/run").symlink_to("run")

    held: list[Lock] = []
    yield plant
    for holder in held:
        holder.release()


@pytest.mark.parametrize(
    "how",
    [
        "a lock that is a link",
        "a lock that leads to itself",
        "a lock that is a folder",
        "a status that is a link",
        "a status that is a FIFO",
        "a status that is huge",
        "a status of nonsense",
        "a run/ that leads to itself",
    ],
)
def test_a_box_that_cannot_be_looked_into_hides_no_other(
    mailbox: Callable[..., Any], alice: Mailbox, ill: Callable[[str], None], how: str
) -> None:
    """It has a row of its own; the operator sees all the others."""
    alice.send("bob", "hi")
    ill(how)
    agents = {record["name"]: record for record in mailbox("agents", "--json").records}
    status, doctor, gc = mailbox("status", sender=""), mailbox("doctor", "--fix"), mailbox("gc")

    assert (agents["bob"]["waiting"], sorted(agents)) == (1, ["alice", "bob"])
    assert status.code == 0
    assert "bob\n  warning: 1 message waiting" in status.out
    assert doctor.code in (0, 1)
    assert "\tbob\t1 message waiting" in doctor.out
    assert gc.code in (0, 74)


def test_trouble_with_the_disk_is_told_in_the_row_of_its_box(
    mailbox: Callable[..., Any], alice: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is: EIO in one box."""
    alice.send("bob", "hi")
    real = inventory._later

    def fails(path: str) -> tuple[int, int, str | None, int]:
        if "/alice/" in path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(inventory, "_later", fails)
    rows, status, doctor = mailbox("agents").lines, mailbox("status", sender=""), mailbox("doctor")

    assert [row.split("\t")[:3] for row in rows] == [["alice", "?", "?"], ["bob", "no", "1"]]
    assert "alice\n  it cannot be examined: input/output error\nbob\n  warning: 1 message waiting" in status.out
    assert "error\talice\tit cannot be examined: input/output error" in doctor.out
    assert "\tbob\t1 message waiting" in doctor.out


def test_what_strangers_make_beside_the_boxes_ends_no_command(mailbox: Callable[..., Any], root: Path) -> None:
    """In a root where anybody may make boxes: a link to itself, and a file where removed boxes are kept."""
    (root / "aaa").symlink_to("aaa")
    (root / ".removed").write_text("none")
    said = {command: mailbox(command, sender="") for command in ("agents", "status", "doctor", "gc")}

    assert [said["agents"].code, said["status"].code, said["doctor"].code] == [0, 0, 0]
    assert [row.split("\t")[0] for row in said["agents"].lines] == ["alice", "bob"]
    assert said["gc"].code == 0


READ_ONLY = """
import os, subprocess, sys
import ctypes
ok = ctypes.CDLL(None).unshare(0x20000) == 0
folder = sys.argv[1]
for words in (["--make-rprivate", "/"], ["--bind", folder, folder], ["-o", "remount,ro,bind", folder]):
    ok = ok and subprocess.run(["mount", *words], capture_output=True).returncode == 0
if not ok:
    print("no mount")
    sys.exit()
from filemailbox.cli.run import main
for words in (["health", "--as", "bob"], ["agents"], ["status"], ["doctor"], ["gc", "--dry-run"]):
    sys.stdout.flush()
    print(words[0], main([*words, "--root", folder]), flush=True)
print("over")
"""


def test_an_observer_needs_no_right_to_write(
    as_root: None, mailbox: Callable[..., Any], root: Path, start: Callable[..., Any], until: Callable[..., None]
) -> None:
    """On a volume that is mounted read-only it sees who listens, and what else there is to see."""
    start("import sys; from filemailbox.cli.run import main; sys.exit(main())", "watch", "--as", "bob", "--root", root)
    until(lambda: "reported" in mailbox("status", "bob").out)
    observer = start(READ_ONLY, root)
    said: list[str] = []
    while not said or said[-1] not in ("no mount", "over"):
        said.append(observer.line())
    if said == ["no mount"]:
        pytest.skip("mounting needs root and the right to mount")

    assert said[0].startswith("bob: 1 listening")
    assert {"health 0", "agents 0", "status 0", "doctor 1", "gc 0"} <= set(said)
    assert any(line.startswith("bob\tyes") for line in said)
    assert any("mounted read-only" in line for line in said)
