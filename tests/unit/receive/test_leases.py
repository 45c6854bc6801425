"""Claims that outlive their process."""

import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from filemailbox import (
    BoxNotFoundError,
    InvalidRequestError,
    Mailbox,
    MessageNotFoundError,
    NotClaimedError,
    NotMailError,
)
from filemailbox.format.timestamp import to_timestamp
from filemailbox.store import claim_new
from filemailbox.system.files import bare_rename

LESSEE = """
import sys
from filemailbox import Mailbox
box = Mailbox("bob", sys.argv[1], lease=float(sys.argv[2]))
print(box.receive(timeout=20).id)
sys.stdin.readline()
"""


def consumers(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "bob" / "cur").iterdir() if not path.name.startswith("."))


def lease(root: Path, bob: Mailbox, *bodies: object, span: float = 600) -> list[str]:
    """Messages that a mailbox, gone by now, has taken for *span* seconds."""
    ids = [bob.send("bob", body) for body in bodies]
    with Mailbox("bob", root, lease=span) as box:
        for _ in ids:
            assert box.receive() is not None
    return ids


def test_the_deadline_is_in_the_name_before_anything_is_claimed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash in between leaves no claim that looks like a consumer's."""
    renames: list[tuple[str, str]] = []
    rename, bare = os.rename, bare_rename()

    def noted(source: str, target: str, **more: Any) -> None:
        rename(source, target, **more)
        renames.append((source, target))

    def claim(source: int, name: bytes, *rest: Any) -> int:
        renames.append((name.decode(), ""))
        return bare(source, name, *rest)

    monkeypatch.setattr(claim_new, "bare_rename", lambda: claim)
    with Mailbox("bob", root, lease=60) as box:
        id = box.send("bob", "hi")
        monkeypatch.setattr(os, "rename", noted)
        box.receive()
    leased = next(number for number, (_, target) in enumerate(renames) if ",U=" in target)
    claimed = next(number for number, (source, _) in enumerate(renames) if source.startswith(id))

    assert leased < claimed


def test_a_lease_outlives_kill_9(root: Path, bob: Mailbox, start: Callable[..., Any]) -> None:
    """Nobody else gets it; its id is enough to settle it."""
    bob.send("bob", "work")
    lessee = start(LESSEE, root, 600)
    id = lessee.line()
    os.kill(lessee.pid, signal.SIGKILL)
    lessee.end()

    assert bob.receive() is None
    with bob.leased(id) as message:
        assert (message.body, message.attempt) == ("work", 1)
        message.ack()
    assert list(bob.peek("new", "later", "cur")) == []


def test_what_a_living_process_holds_is_not_settled_from_outside(
    root: Path, bob: Mailbox, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a lease or not: it may be handling it at this moment."""
    monkeypatch.setattr("filemailbox.receive.leases._LOCK_TIMEOUT", 0.01)
    bob.send("bob", "work")
    lessee = start(LESSEE, root, 600)
    id = lessee.line()

    with pytest.raises(NotClaimedError, match="still runs"), bob.leased(id):
        pass
    lessee.say()
    assert lessee.end() == 0
    with bob.leased(id) as message:
        message.ack()


def test_a_lease_that_ran_out_is_anybodys(root: Path, bob: Mailbox, until: Callable[..., None]) -> None:
    """It comes back, the attempt counted; settling it from outside is refused."""
    [id] = lease(root, bob, "work", span=0.01)
    until(lambda: _refused(bob, id) == "over")
    message = bob.receive(timeout=20)

    assert message is not None
    assert (message.id, message.attempt) == (id, 2)


def _refused(bob: Mailbox, id: str) -> str:
    try:
        with bob.leased(id):
            return "held"
    except NotClaimedError as error:
        return "over" if "lease ended" in str(error) else str(error)


def test_a_lease_is_settled_message_by_message(root: Path, bob: Mailbox) -> None:
    """Each in its own way; the last one gives the folder back to all."""
    ids = lease(root, bob, 1, 2, 3, 4)
    with bob.leased(ids[0]) as message:
        message.ack()
    with bob.leased(ids[1]) as message:
        message.retry(0)
    with bob.leased(ids[2]) as message:
        message.reject("no")
    assert [name for name in consumers(root) if ",U=" in name] != []
    with bob.leased(ids[3]) as message:
        message.release()

    assert not any(",U=" in name for name in consumers(root))
    assert [message.problem for message in bob.peek("dead")] == ["no"]
    assert sorted((m.body, m.attempt) for m in (bob.receive(timeout=20), bob.receive(timeout=20)) if m) == [
        (2, 2),
        (4, 1),
    ]


def test_what_is_not_settled_stays_leased(root: Path, bob: Mailbox) -> None:
    """Also where the `with` block fails."""
    [id] = lease(root, bob, "work")
    with pytest.raises(ZeroDivisionError), bob.leased(id):
        raise ZeroDivisionError

    assert bob.receive() is None
    with bob.leased(id) as message:
        message.ack()


def test_two_that_settle_neighbours_wait_for_each_other(root: Path, bob: Mailbox) -> None:
    """`xargs -P 8 mailbox ack` finds each lease free in time."""
    ids = lease(root, bob, *range(8))
    failures: list[Exception] = []

    def settle(id: str) -> None:
        try:
            with Mailbox("bob", root).leased(id) as message:
                message.ack()
        except Exception as error:  # noqa: BLE001  # told below
            failures.append(error)

    threads = [threading.Thread(target=settle, args=(id,)) for id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert list(bob.peek("cur")) == []


def test_a_key_is_noted_when_a_leased_message_is_acked(root: Path, bob: Mailbox) -> None:
    """Sent again it is not handled again."""
    bob.send("bob", "once", idempotency_key="k")
    with Mailbox("bob", root, lease=60) as box:
        message = box.receive()
    assert message is not None
    with bob.leased(message.id) as held:
        held.ack()
    bob.send("bob", "once", idempotency_key="k")

    assert bob.receive() is None


def test_a_waiting_lessee_begins_its_lease_when_mail_comes(root: Path, bob: Mailbox) -> None:
    """The wait does not eat it up: the deadline counts from the claim."""
    with Mailbox("bob", root, lease=60) as box:
        assert box.receive() is None
        before = box.leased_until
        bob.send("bob", "work")
        assert box.receive() is not None
        after = box.leased_until

    assert before is not None
    assert after is not None
    assert after > before


def test_leases_leave_no_more_folders_than_were_needed_at_once(root: Path, bob: Mailbox) -> None:
    """A folder that is free is taken again; one stays for others, so that a full volume can be drained."""
    for number in range(5):
        [id] = lease(root, bob, number)
        assert any("," not in name for name in consumers(root))
        with bob.leased(id) as message:
            message.ack()

    assert len(consumers(root)) == 2


def test_ids_that_fit_none_or_several_are_refused(root: Path, bob: Mailbox) -> None:
    """And what lies elsewhere says where."""
    ids = lease(root, bob, 1, 2)
    dead = bob.send("bob", 3)
    message = bob.receive()
    assert message is not None
    message.reject("no")

    with pytest.raises(MessageNotFoundError, match="there is no message"), bob.leased("xyzzy"):
        pass
    with pytest.raises(MessageNotFoundError, match="fits 2 claimed messages"), bob.leased(ids[0][-12:]):
        pass
    with pytest.raises(NotClaimedError, match="it is a dead letter"), bob.leased(dead):
        pass
    with pytest.raises(BoxNotFoundError), Mailbox("carol", root).leased("x"):
        pass


def test_hostile_names_in_cur_hold_nothing(root: Path, bob: Mailbox) -> None:
    """Files, links and folders that are no consumer's are passed by."""
    [id] = lease(root, bob, 1)
    cur = root / "bob" / "cur"
    (cur / "x").write_text("")
    (cur / "y").mkdir()
    (cur / f"{'0' * 12},U=soon").mkdir()

    with bob.leased(id) as message:
        message.ack()


def test_what_was_leased_and_never_looked_at_is_not_shown(root: Path, bob: Mailbox, tmp_path: Path) -> None:
    """Its taker died between the claim and the look: it may be a link to a secret. Nothing is read, nothing is lost."""
    id = Mailbox("alice", root).send("bob", "hello")
    with Mailbox("bob", root, durable=False, lease=60) as taker:
        taken = taker.receive()
        assert taken is not None
        path = root / "bob/cur" / str(taker._receiver.folder) / taken.name
        os.rename(path, tmp_path / "secret")
        os.link(tmp_path / "secret", path)
    with pytest.raises(NotMailError, match="2 links"), bob.leased(id):
        pass

    assert path.exists()


def test_a_lease_can_be_extended(root: Path, alice: Mailbox) -> None:
    """By its own process and by another; it never gets shorter, and holds for what comes later."""
    id = alice.send("bob", "long work")
    with Mailbox("bob", root, lease=60) as bob:
        message = bob.receive()
        assert message is not None
        first = message.extend(3600)
        shorter = message.extend(60)
        held = bob.leased_until
    with Mailbox("bob", root) as other, other.leased(id) as message:
        second = message.extend(timedelta(hours=2))
    (folder,) = (path.name for path in (root / "bob/cur").iterdir() if ",U=" in path.name)

    assert first == shorter == held
    assert second > first + timedelta(minutes=59)
    assert to_timestamp(int(second.timestamp()) * 10**9)[:15] == folder.partition(",U=")[2][:15]


def test_only_a_leased_claim_can_be_extended(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """A plain claim lasts as long as its process; a settled one is gone."""
    alice.send("bob", 1)
    alice.send("bob", 2)
    plain = bob.receive()
    assert plain is not None
    with pytest.raises(InvalidRequestError):
        plain.extend(60)
    plain.ack()
    with Mailbox("bob", root, lease=60) as leaser:
        message = leaser.receive()
        assert message is not None
        message.ack()
        with pytest.raises(NotClaimedError):
            message.extend(60)


def test_extend_on_the_command_line(mailbox: Callable[..., Any], alice: Mailbox, root: Path) -> None:
    """It prints the new deadline."""
    id = alice.send("bob", "long work")
    mailbox("receive", "--no-ack", "--lease", "1m")
    extended = mailbox("extend", id, "--for", "2h")
    (folder,) = (path.name for path in (root / "bob/cur").iterdir() if ",U=" in path.name)

    assert extended.code == 0
    assert extended.lines[0][11:19] == ":".join(folder.partition("T")[2][at : at + 2] for at in (0, 2, 4))
    assert mailbox("extend", "nothing").code == 1
