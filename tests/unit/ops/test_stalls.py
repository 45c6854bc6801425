"""The causes for which mail stands still: each is set up, and status, agents, health and doctor tell it apart."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from filemailbox import Mailbox
from filemailbox.format.address import parse_address
from filemailbox.format.filename import TIMESTAMP_LENGTH
from filemailbox.format.timestamp import to_nanoseconds, to_timestamp
from filemailbox.ops import stalls
from filemailbox.ops.inventory import BoxStatus, box_status
from filemailbox.ops.stalls import Cause, causes, volume_causes
from filemailbox.receive.status import from_json
from filemailbox.store.ids import timestamp_now
from filemailbox.store.root import find_root
from support.waiting import Until

WATCH = "import sys; from filemailbox.cli.run import main; sys.exit(main())"

Start = Callable[..., Any]
Run = Callable[..., Any]


@pytest.fixture
def watch(root: Path, start: Start, until: Until) -> Callable[..., Any]:
    """watch(word, …): run `mailbox watch --as bob`, and wait for its first report."""

    def begin(*words: object) -> Any:
        program = start(WATCH, "watch", "--as", "bob", "--root", root, *words)
        until(lambda: status(root).listeners)
        return program

    return begin


def status(root: Path) -> BoxStatus:
    return box_status(find_root(root).box(parse_address("bob")))


def kinds(root: Path, **limits: float) -> list[str]:
    return [cause.kind for cause in causes(status(root), **limits)]


def cause(root: Path, kind: str, **limits: float) -> Cause:
    return next(each for each in causes(status(root), **limits) if each.kind == kind)


def first_finding(mailbox: Run) -> dict[str, Any]:
    return dict(mailbox("doctor", "bob", "--json").records[0])


def stalled(mailbox: Run) -> str:
    """The last column of `mailbox agents`."""
    row = next(line for line in mailbox("agents").lines if line.startswith("bob\t"))
    return str(row.split("\t")[-1])


def edit_report(root: Path, **values: Any) -> None:
    """Change members of the one status file."""
    [path] = (root / "bob/run").glob("status-*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_command_that_is_not_there_pauses_the_listener(
    mailbox: Run, root: Path, alice: Mailbox, watch: Run, until: Until
) -> None:
    """Its name, the reason and the time since; the message is not lost, and not counted as handled."""
    alice.send("bob", 1)
    watch("--", "no-such-command")
    until(lambda: kinds(root) == ["paused"] or kinds(root)[:1] == ["paused"])
    health, told, finding = mailbox("health"), mailbox("status").out, first_finding(mailbox)

    assert health.code == 1
    assert "no-such-command: no such file" in health.out
    assert "has been paused for" in told
    assert "handled 0" in told
    assert finding["severity"] == "error"
    assert "no-such-command" in finding["problem"]
    assert stalled(mailbox) == "paused"
    assert mailbox("agents").lines[1].split("\t")[1] == "paused"


def test_a_command_that_hangs_is_busy_since_its_claim(
    mailbox: Run, root: Path, alice: Mailbox, watch: Run, until: Until
) -> None:
    """The id, and for how long; too long fails the probe."""
    id = alice.send("bob", 1)
    watch("--exec", "exec sleep 600")
    until(lambda: status(root).listeners[0].busy)
    until(lambda: status(root).listeners[0].busy_for > 0.05)
    patient, impatient = mailbox("health", "--max-busy", "1h"), mailbox("health", "--max-busy", "10ms")

    assert (patient.code, impatient.code) == (0, 1)
    assert f"has been at {id} for" in impatient.out
    assert f"busy with {id} for" in mailbox("status").out
    assert cause(root, "busy", busy=0.01).blocks
    assert mailbox("status", "--json").records[0]["listeners"][0]["busy_since"].endswith("Z")
    assert mailbox("agents").lines[1].split("\t")[1] == "busy"


def test_a_handler_that_hangs_is_busy_too(mailbox: Run, root: Path, alice: Mailbox, start: Start, until: Until) -> None:
    """It reports nothing meanwhile, and is not taken for stopped."""
    program = start(
        "import sys, time\nfrom filemailbox import Mailbox\nbox = Mailbox('bob', sys.argv[1])\n"
        "@box.on()\ndef hang(message):\n    print('hangs')\n    time.sleep(600)\nbox.run()\n",
        root,
    )
    until(lambda: status(root).listeners)
    alice.send("bob", 1)
    program.line()
    edit_report(root, looked=to_timestamp(to_nanoseconds(timestamp_now()) - 3600 * 10**9))

    assert kinds(root) == []
    assert kinds(root, busy=0.0) == ["busy"]
    assert mailbox("health", "--max-busy", "1h").code == 0


def test_mail_of_a_type_that_no_listener_takes(mailbox: Run, root: Path, alice: Mailbox, watch: Run) -> None:
    """Both types are named: what waits, and what is taken."""
    alice.send("bob", 1, type="foo")
    watch("--type", "bar")
    health, finding = mailbox("health"), first_finding(mailbox)

    assert kinds(root) == ["type"]
    assert health.code == 1
    assert '1 message of the type "foo" waiting' in health.out
    assert 'they take "bar"' in finding["problem"]
    assert ", takes bar," in mailbox("status").out
    assert stalled(mailbox) == "type"
    alice.send("bob", 2)
    assert "1 message without a type" in mailbox("status").out


def test_one_type_of_many_does_not_block_the_others() -> None:
    """Mail flows, if not all of it."""
    now = timestamp_now()
    listener = from_json("0123456789ab", {"since": now, "looked": now, "types": ["bar"]})
    types = {"foo": 1, "bar": 1}
    box = BoxStatus(parse_address("bob"), 0, 0, new=2, types=types, oldest=0.0, consumers=1, listeners=(listener,))

    assert [(each.kind, each.blocks) for each in causes(box)] == [("type", False)]


def test_a_stopped_listener_lives_and_does_not_report(mailbox: Run, root: Path, watch: Run, until: Until) -> None:
    """SIGSTOP; and SIGCONT is all that it needs."""
    program = watch()
    os.kill(program.pid, signal.SIGSTOP)
    until(lambda: mailbox("health", "--max-age", "1s").code == 1)
    edit_report(root, looked=to_timestamp(to_nanoseconds(timestamp_now()) - 60 * 10**9))
    told, finding = mailbox("status").out, first_finding(mailbox)

    assert "lives, and has not reported for" in told
    assert finding["severity"] == "error"
    assert "SIGSTOP" in finding["hint"]
    assert stalled(mailbox) == "stopped"
    os.kill(program.pid, signal.SIGCONT)
    until(lambda: mailbox("health").code == 0)


def test_a_listener_that_is_behind(mailbox: Run, root: Path, alice: Mailbox, watch: Run, until: Until) -> None:
    """It works, and more comes than it can do."""
    alice.send("bob", 0)
    watch("--exec", "exec sleep 600")
    until(lambda: status(root).listeners[0].busy)
    for body in range(3):
        alice.send("bob", body)

    assert kinds(root) == []
    assert "3 messages waiting" in cause(root, "behind", behind=0.0).problem
    assert not cause(root, "behind", behind=0.0).blocks
    assert mailbox("health").code == 0
    assert mailbox("health", "--max-wait", "1ms").code == 1


def test_mail_and_no_listener(mailbox: Run, root: Path, alice: Mailbox) -> None:
    """How much, since when, and the command that takes it."""
    alice.send("bob", 1)
    finding = first_finding(mailbox)

    assert mailbox("health").code == 1
    assert "there is no listener" in mailbox("health").out
    assert "1 message waiting" in finding["problem"]
    assert "mailbox watch --as bob" in finding["hint"]
    assert stalled(mailbox) == "no-listener"


def test_the_error_that_ended_the_last_listener_is_kept(mailbox: Run, root: Path, bob: Mailbox, alice: Mailbox) -> None:
    """Until another one is there."""
    alice.send("bob", 1)

    def fail() -> None:
        with bob.listening() as listener:
            next(listener.messages()).release()
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        fail()
    assert "the last one ended 0 s ago: OSError: the disk is gone" in mailbox("status").out
    assert "the disk is gone" in mailbox("health").out
    bob.on()(lambda message: None)
    bob.run(drain=True)
    assert status(root).stopped is None


def test_only_deferred_mail_is_not_waiting(mailbox: Run, root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """Also before a consumer has put it into later/; with the time of the next."""
    alice.send("bob", "in an hour", delay=3600)
    before = status(root)
    bob.receive()
    after = status(root)

    for now in (before, after):
        assert (now.waiting, now.deferred, now.oldest) == (0, 1, None)
        assert [each.kind for each in causes(now)] == ["deferred"]
    assert before.next_due is not None
    assert after.next_due is not None
    assert before.next_due[:TIMESTAMP_LENGTH] == after.next_due[:TIMESTAMP_LENGTH]
    assert "waiting: 0\n  deferred: 1; the next is due in " in mailbox("status").out
    assert mailbox("status", "--json").records[0]["next_due"].startswith("20")
    assert "warning" not in mailbox("doctor", "bob").out


def test_a_storm_of_retries(mailbox: Run, root: Path, alice: Mailbox, watch: Run, until: Until) -> None:
    """Attempt after attempt fails: how many, and why."""
    for body in range(stalls.STORM):
        alice.send("bob", body)
    watch("--exec", "echo broken >&2; exit 3")
    until(lambda: status(root).listeners and status(root).listeners[0].retries_in_a_row >= stalls.STORM)
    health, finding = mailbox("health"), first_finding(mailbox)

    assert health.code == 1
    assert "the command exited with 3" in health.out
    assert "attempts of the listener" in finding["problem"]
    assert finding["severity"] == "error"
    assert stalled(mailbox) == "retries"
    assert "for another attempt" in mailbox("status").out
    assert "last error" in mailbox("status").out


def test_a_success_ends_the_storm(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """And a handler that refuses a message works."""
    for body in range(stalls.STORM + 1):
        alice.send("bob", body)
    tally = bob._receiver.tally
    for _ in range(stalls.STORM - 1):
        message = bob.receive()
        assert message is not None
        message.retry(3600, "no")
    before = tally.retries_in_a_row
    message = bob.receive()
    assert message is not None
    message.reject("nonsense")

    assert before == stalls.STORM - 1
    assert (tally.retries_in_a_row, tally.failed, tally.last_error) == (0, stalls.STORM, "nonsense")
    message = bob.receive()
    assert message is not None
    message.ack()
    assert tally.handled == 1


@pytest.mark.parametrize("had_a_key", [True, False], ids=["had a key", "never had a key"])
def test_sealed_mail_and_no_key(
    mailbox: Run, root: Path, tmp_path: Path, start: Start, until: Until, had_a_key: bool
) -> None:
    """Whoever takes it without its key ends; the mail stays, and the tools name the cause."""
    keys = {name: tmp_path / name for name in ("alice", "bob")}
    for name, folder in keys.items():
        (tmp_path / f"{name}.pub").write_text(mailbox("keys", "generate", "--key-dir", folder, sender=name).out)
    assert mailbox("keys", "pin", "bob", tmp_path / "bob.pub", "--key-dir", keys["alice"], sender="alice").code == 0
    with Mailbox("alice", root, key_dir=keys["alice"]) as alice:
        alice.send("bob", "secret", seal=True)
    if not had_a_key:
        (root / "bob/settings.json").unlink(missing_ok=True)
    finding = first_finding(mailbox)
    program = start(WATCH, "watch", "--as", "bob", "--root", root)
    until(lambda: "keys" in kinds(root))
    if had_a_key:
        assert program.end() == 4
        assert "KeyNotFoundError" in mailbox("status").out

    assert "sealed" in mailbox("status").out
    assert "1 of them sealed" in finding["problem"]
    assert "MAILBOX_KEY_DIR" in finding["hint"]
    assert mailbox("health").code == had_a_key


def test_dead_notifications(root: Path, watch: Run) -> None:
    """Mail is found by polling only, or there is no watch at all."""
    program = watch()
    os.kill(program.pid, signal.SIGSTOP)
    edit_report(root, announced=1, missed=9)
    deaf = cause(root, "notifications")
    edit_report(root, announced=0, missed=0, watch="no inotify")
    blind = cause(root, "notifications")

    assert "of 10 messages, 9 were found only by polling" in deaf.problem
    assert "no inotify" in blind.problem
    assert not deaf.blocks


@pytest.mark.parametrize(
    ("room", "found"),
    [
        ({"f_bavail": 4}, [("disk", "warning", False)]),
        ({"f_bavail": 0}, [("disk", "error", True)]),
        ({"f_favail": 4}, [("inodes", "warning", False)]),
        ({"f_favail": 0}, [("inodes", "error", True)]),
        ({}, []),
    ],
)
def test_a_volume_that_is_nearly_full(
    mailbox: Run, root: Path, watch: Run, monkeypatch: pytest.MonkeyPatch, room: dict[str, int], found: list[Any]
) -> None:
    """A warning below a twentieth; without any room no mail can flow."""
    watch()
    full = SimpleNamespace(**{"f_blocks": 100, "f_bavail": 50, "f_frsize": 4096, "f_files": 100, "f_favail": 50} | room)
    monkeypatch.setattr(os, "statvfs", lambda path: full)

    assert [(each.kind, each.severity, each.blocks) for each in volume_causes(str(root))] == found
    assert mailbox("health").code == any(blocks for _, _, blocks in found)
    assert ("the volume" in mailbox("status", sender="").out) is bool(found)
    assert ("the volume" in mailbox("agents").err) is bool(found)


def test_a_clock_that_is_ahead(mailbox: Run, root: Path, alice: Mailbox, watch: Run) -> None:
    """A sender's, by the name of a message; a listener's, by its report."""
    program = watch("--type", "other")
    alice.send("bob", 1)
    [path] = (root / "bob/new").glob("*.json")
    later = to_timestamp(to_nanoseconds(timestamp_now()) + 3600 * 10**9)
    path.rename(path.with_name(later + path.name[TIMESTAMP_LENGTH:]))
    os.kill(program.pid, signal.SIGSTOP)
    edit_report(root, looked=later)
    told = [each.problem for each in causes(status(root)) if each.kind == "clock"]

    assert len(told) == 2
    assert "waiting message is" in told[0]
    assert "the clock of the listener" in told[1]
    assert "ahead of the clock here" in mailbox("doctor", "bob").out


def test_dead_letters_are_a_finding(mailbox: Run, alice: Mailbox, bob: Mailbox) -> None:
    """Not a note at the end."""
    alice.send("bob", 1)
    message = bob.receive()
    assert message is not None
    message.reject("no")

    assert first_finding(mailbox)["severity"] == "warning"
    assert first_finding(mailbox)["problem"] == "1 dead letter"
