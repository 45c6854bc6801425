"""Two messages under one name: a sender chooses its id, its size and its due time, so it can make them meet.

None is ever replaced: the second copy of a message is dropped, and another message gets a fresh id. The same holds
where there is no renameat2(2).
"""

import ctypes
import errno
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from filemailbox.format.address import parse_address
from filemailbox.format.envelope import encode
from filemailbox.format.times import format_time
from filemailbox.format.timestamp import to_timestamp
from filemailbox.relay.carrier import NotMail
from filemailbox.relay.outbox import Outbox
from filemailbox.relay.policy import Agent
from filemailbox.store import dead_letters, ids
from filemailbox.store.spool import Spool
from filemailbox.system import files
from support.mail import bodies

ALICE, MALLORY = 2001, 2003
YEAR = 365 * 86400
NAME = "20261124T014530.123456789Z-3f9c0a12b4d5"


@pytest.fixture(params=["renameat2", "without"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it also where the file system knows no RENAME_NOREPLACE."""

    def refuse(*_: object) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1

    if request.param == "without":
        monkeypatch.setattr(files, "_load", lambda **_: refuse, raising=False)
        monkeypatch.setattr(files, "_call", None, raising=False)


def drop(root: Path, text: str, uid: int | None = None, id: str = NAME, **members: Any) -> Path:
    """A message in bob's new/, as a sender of that uid puts it there."""
    draft = root / "bob/tmp" / os.urandom(6).hex()
    draft.write_bytes(encode(id, "alice", "bob", text, members))
    path = root / f"bob/new/{id},S={draft.stat().st_size}.json"
    if uid is not None:
        os.chown(draft, uid, -1)
    draft.chmod(0o640)
    draft.rename(path)
    return path


def texts(root: Path, *states: str) -> list[str]:
    """The bodies of the messages that lie in these folders of bob's."""
    found = [path for state in states for path in (root / "bob" / state).rglob("*.json")]
    return sorted(path.read_text().partition('"body":"')[2].partition('"')[0] for path in found)


def clocked(monkeypatch: pytest.MonkeyPatch, ahead: float = 0.0, still: bool = False) -> None:
    """Set the clock of this process ahead, or stop it."""
    now, real = time.time_ns(), time.time_ns
    monkeypatch.setattr(ids, "_mine", ids._Mine())  # a writer of its own, which no other test goes on with
    if still:
        monkeypatch.setattr(ids, "timestamp_now", lambda: to_timestamp(now))
    monkeypatch.setattr(time, "time_ns", lambda: now if still else real() + int(ahead * 1e9))


HOUR: dict[str, Any] = {"deliver_after": format_time(datetime.now(UTC) + timedelta(hours=1))}


@pytest.mark.parametrize("text", ["pay 9 to mallory", "pay 1 to bob"], ids=["another text", "the same text"])
def test_what_was_put_off_is_not_replaced_by_another_uid(as_root: None, root: Path, bob: Mailbox, text: str) -> None:
    """The same id, size and due time are easily computed from a copy of a group message: alice's message stays."""
    drop(root, "pay 1 to bob", ALICE, **HOUR)
    assert bob.receive() is None
    (kept,) = (root / "bob/later").iterdir()
    drop(root, text.ljust(12)[:12], MALLORY, **HOUR)
    assert bob.receive() is None

    assert kept.stat().st_uid == ALICE
    assert '"pay 1 to bob"' in kept.read_text()
    assert sorted(path.stat().st_uid for path in (root / "bob/later").iterdir()) == [ALICE, MALLORY]
    (other,) = set((root / "bob/later").iterdir()) - {kept}
    assert f",N={NAME}_S_" in other.name


def test_the_same_message_twice_is_put_off_once(root: Path, bob: Mailbox) -> None:
    """Sent again, after a flush that failed: of one owner, byte for byte the same."""
    for _ in range(2):
        drop(root, "x", **HOUR)
        assert bob.receive() is None

    assert texts(root, "new", "cur", "later", "dead") == ["x"]


def test_what_is_in_hand_is_not_replaced(root: Path, bob: Mailbox) -> None:
    """As with workers=2: both are there, and both can be settled."""
    drop(root, "one")
    first = bob.receive()
    drop(root, "two")
    second = bob.receive()

    assert first is not None
    assert second is not None
    assert texts(root, "cur") == ["one", "two"]
    assert (first.id, first.body, second.body) == (NAME, "one", "two")
    assert second.id != NAME
    first.retry(delay=0)
    second.ack()
    assert bodies(bob) == ["one"]


def test_what_is_leased_is_not_replaced(root: Path, bob: Mailbox) -> None:
    """By another process, which knows nothing of the first one's claims."""
    with Mailbox("bob", root, lease=600) as box:
        for text in ("one", "two"):
            drop(root, text)
            assert box.receive() is not None

    assert texts(root, "cur") == ["one", "two"]


def test_the_same_message_is_in_hand_once(root: Path, bob: Mailbox) -> None:
    """The second copy is dropped: it is no message of its own."""
    drop(root, "x")
    message = bob.receive()
    drop(root, "x")

    assert bob.receive() is None
    assert message is not None
    message.ack()
    assert texts(root, "new", "cur", "later", "dead") == []


def test_what_comes_due_replaces_nothing_in_hand(root: Path, bob: Mailbox) -> None:
    """From later/ into our folder."""
    drop(root, "one")
    first = bob.receive()
    path = drop(root, "two")
    path.rename(root / "bob/later" / f"{to_timestamp(1)}~{path.name}")
    bob._receiver._spool.maintain_at = 0.0
    second = bob.receive()

    assert first is not None
    assert second is not None
    assert texts(root, "cur") == ["one", "two"]


def test_what_was_handled_is_not_replaced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In done/, at the same nanosecond."""
    with Mailbox("bob", root, retention=3600) as bob:
        for text in ("one", "two"):
            drop(root, text)
            message = bob.receive()
            assert message is not None
            with monkeypatch.context() as patch:
                patch.setattr(ids, "timestamp_now", lambda: to_timestamp(10**18))
                message.ack()

    assert texts(root, "done") == ["one", "two"]


def test_a_dead_letter_is_not_replaced(root: Path, bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where another consumer buries one of that name between our look and our rename."""
    monkeypatch.setattr(dead_letters.DeadLetters, "_free_name", lambda _, name: name)
    for text in ("one", "two"):
        drop(root, text)
        message = bob.receive()
        assert message is not None
        message.reject("no")

    assert texts(root, "dead") == ["one", "two"]


def test_what_is_requeued_replaces_nothing(root: Path, bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same nanosecond, from a grave of another field."""
    path = drop(root, "one")
    path.rename(root / "bob/dead" / path.name)
    other = drop(root, "two")
    other.rename(root / "bob/dead" / other.name.replace(".json", ",A=2.json"))
    clocked(monkeypatch, still=True)
    taker = bob._receiver._spool
    for dead in sorted(path.name for path in (root / "bob/dead").glob("*.json")):
        taker.requeue(dead)

    assert texts(root, "later") == ["one", "two"]


def test_what_the_dead_held_replaces_nothing(root: Path, taker: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folders of two consumers, recovered at the same nanosecond."""
    for number, text in enumerate(("one", "two")):
        folder = root / f"bob/cur/{number:012x}"
        folder.mkdir()
        (folder / ".lock").touch()
        path = drop(root, text)
        path.rename(folder / path.name)
    clocked(monkeypatch, still=True)
    taker.begin()

    assert texts(root, "later", "cur") == ["one", "two"]


def test_what_a_client_reserved_and_left_is_no_dead_letter(root: Path, bob: Mailbox) -> None:
    """It died between the two steps that stand for renameat2(2): the message itself comes back from its folder."""
    (root / "bob/later" / f"{to_timestamp(1)}~{NAME},S=10.json").touch()

    assert bob.receive() is None
    assert texts(root, "new", "cur", "later", "dead") == []


@pytest.mark.parametrize("how", ["retried", "recovered", "closed", "our trouble"])
def test_a_clock_that_was_ahead_keeps_no_mail(
    root: Path, alice: Mailbox, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """By a year, for a while: what came back then is due within the longest backoff of the right clock."""
    alice.send("bob", "x")
    with monkeypatch.context() as patch:
        clocked(patch, ahead=YEAR)
        box = Mailbox("bob", root)
        message = box.receive()
        assert message is not None
        if how == "retried":
            message.retry()
        elif how == "our trouble":
            box._receiver._spool._settler.release_unread(message.name)
        if how == "recovered":
            held = next((root / "bob/cur").rglob("*.json"))
            dead = root / "bob/cur/0123456789ab"
            dead.mkdir()
            (dead / ".lock").touch()
            held.rename(dead / held.name)
            box._receiver._spool.maintain_at = 0.0
            again = box.receive()  # what it recovered is due at once
            assert again is not None
            again.retry()
        box.close()
    with Mailbox("bob", root) as bob:
        again = bob.receive()

    assert again is not None
    assert again.body == "x"


def test_a_longer_wait_that_was_asked_for_is_kept(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """By a handler, by the message, or for what was handed back: it is no clock's fault."""
    for settle in ("retry", "release", "deferred"):
        alice.send("bob", settle, delay=7200 if settle == "deferred" else None)
        message = bob.receive()
        if message is not None:
            getattr(message, settle)(delay=7200)
    later = sorted(path.name for path in (root / "bob/later").iterdir())
    with Mailbox("bob", root) as other:
        assert other.receive() is None

    assert sorted(path.name for path in (root / "bob/later").iterdir()) == later
    assert len(later) == 3
    assert sum(",W=7200" in name for name in later) == 2


@pytest.mark.parametrize("text", ["two", "one"], ids=["another", "the same"])
def test_a_new_that_was_exchanged_is_brought_back_over_nothing(root: Path, text: str) -> None:
    """One of that name may have come meanwhile."""
    old = root / "bob/.new-0123456789ab"
    old.mkdir()
    path = drop(root, "one")
    path.rename(old / path.name)
    drop(root, text)
    with Mailbox("bob", root) as bob:
        got = bodies(bob)

    assert sorted(got) == ["one", "two"][: 1 + (text == "two")]


def test_what_a_relay_sends_back_replaces_nothing(root: Path) -> None:
    """A sender that uses an id twice keeps both; sent again, the same is there once."""
    (root / "bob/outbox").mkdir(mode=0o700, exist_ok=True)
    outbox = Outbox(Agent(parse_address("bob"), str(root)))
    outbox.open()
    for text in ("one", "two", "one"):
        path = drop(root, text)
        path.rename(root / "bob/outbox" / path.name)
        outbox.bounce(path.name, "refused")
    outbox.close()

    assert texts(root, "dead") == ["one", "two"]
    assert all(path.stem.endswith(",B=1") for path in (root / "bob/dead").iterdir())


def test_a_name_that_the_relay_mends_replaces_nothing(root: Path) -> None:
    """A file without its size in its name, beside one of the same id that has it."""
    (root / "bob/outbox").mkdir(mode=0o700, exist_ok=True)
    for text in ("one", "two"):
        path = drop(root, text)
        path.rename(root / "bob/outbox" / (path.name if text == "one" else f"{NAME}.json"))
    outbox = Outbox(Agent(parse_address("bob"), str(root)))
    outbox.open()
    with pytest.raises(NotMail, match="has its id"):
        outbox.read(f"{NAME}.json")
    outbox.close()

    assert texts(root, "outbox") == ["one", "two"]
