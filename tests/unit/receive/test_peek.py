"""Looking at a box without touching it."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from filemailbox import BoxNotFoundError, Mailbox, MessageNotFoundError, NotClaimedError

WHEN = "20200101T000000.000000000Z-00000000000a"
LAST = "99991231T235959.999999999Z"


def tree(root: Path) -> dict[str, Any]:
    """All that is there, and all that would betray a touch."""
    return {
        str(path): (facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
        for path in sorted(root.rglob("*"))
        if (facts := path.lstat())
    }


def plant_terabyte(path: Path) -> None:
    with path.open("xb") as file:
        file.truncate(1 << 40)


@pytest.fixture
def full(root: Path, alice: Mailbox) -> Mailbox:
    """Bob's mailbox with a message in every state; each body is the name of its state."""
    bob = Mailbox("bob", root, durable=False, retention=3600)
    for state in ("done", "dead", "later", "cur", "new"):
        alice.send("bob", state)
    acked, rejected, retried, held = (bob.receive() for _ in range(4))
    assert acked and rejected and retried and held  # noqa: PT018  # mypy reads it
    acked.ack()
    rejected.reject("no use", "line 1\nline 2")
    retried.retry(delay=3600)
    return bob


def test_every_state_of_a_message_can_be_looked_at(full: Mailbox) -> None:
    """Each is found in the folder of its state, with its body."""
    seen = {message.state: message for message in full.peek("new", "later", "cur", "dead", "done")}

    assert {state: message.body for state, message in seen.items()} == {state: state for state in seen}
    assert list(seen) == ["new", "later", "cur", "dead", "done"]
    assert seen["dead"].problem == "no use"
    assert seen["later"].attempt == 2
    assert (seen["new"].problem, seen["later"].problem, seen["new"].due) == (None, None, None)
    full.close()


def test_what_waits_is_seen_unless_told_otherwise(full: Mailbox) -> None:
    """new/ and later/: what will still be delivered."""
    assert [message.state for message in full.peek()] == ["new", "later"]
    full.close()


def test_a_time_stands_beside_what_comes_back_and_what_was_handled(full: Mailbox) -> None:
    """When it is due, when it was handled."""
    later, done = full.peek("later", "done")

    assert later.due is not None
    assert done.due is not None
    assert 3500 < (later.due - datetime.now(UTC)).total_seconds() <= 3600
    assert -60 < (done.due - datetime.now(UTC)).total_seconds() <= 0
    full.close()


def test_looking_touches_nothing(root: Path, full: Mailbox) -> None:
    """No file moves and none is written; what is not mail stays as it is."""
    (root / "bob/new/x.json").symlink_to("/nowhere")
    os.mkfifo(root / "bob/new/y.json")
    before = tree(root)
    list(full.peek("new", "later", "cur", "dead", "done"))
    full.find(next(full.peek("dead")).id)

    assert tree(root) == before
    full.close()


def test_a_message_that_was_looked_at_cannot_be_settled(full: Mailbox) -> None:
    """NotClaimedError: receive() it first."""
    for message in full.peek("new", "cur", "dead"):
        for settle in (message.ack, message.retry, message.release, message.reply):
            with pytest.raises(NotClaimedError, match=message.id):
                settle()
        with pytest.raises(NotClaimedError):
            message.reject("no")
    full.close()


@pytest.mark.parametrize(
    ("name", "plant", "problem"),
    [
        pytest.param("x.json", lambda path: path.write_text("{"), "not JSON", id="cut off"),
        pytest.param("x.json", lambda path: path.write_bytes(b""), "it is empty", id="empty"),
        pytest.param("x.json", lambda path: path.write_bytes(b"\0" * 99), "zero bytes", id="zeros"),
        pytest.param(f"{WHEN},S=9.json", lambda path: path.write_text("{}"), "not complete", id="size"),
        pytest.param("x.json", plant_terabyte, "is the limit", id="huge"),
        pytest.param("x.json", lambda path: path.symlink_to("/etc/passwd"), "cannot be opened", id="link"),
        pytest.param("x.json", os.mkfifo, "it is a FIFO", id="FIFO"),
        pytest.param("x.json", os.mkdir, "it is a folder", id="folder"),
    ],
)
def test_what_is_not_mail_is_shown_with_its_problem(
    root: Path, bob: Mailbox, name: str, plant: Callable[[Path], Any], problem: str
) -> None:
    """Never an error, and every member can be asked: a list must show what is wrong with a box."""
    plant(root / "bob/new" / name)
    (seen,) = bob.peek("new")

    assert problem in (seen.problem or "")
    assert (seen.body, seen.sender, seen.name) == (None, None, name)
    assert seen.sent.tzinfo is UTC
    assert seen.id in repr(seen)


def test_a_foreign_file_is_seen_under_its_own_name(root: Path, bob: Mailbox) -> None:
    """It has no id yet; it was sent when it was written."""
    (root / "bob/new/job.json").write_text('{"from":"cron","n":1}')
    os.utime(root / "bob/new/job.json", (1_600_000_000, 1_600_000_000))
    (seen,) = bob.peek()

    assert (seen.id, seen.sender, seen.body, seen.problem) == ("job.json", "cron", {"n": 1}, None)
    assert seen.sent.timestamp() == 1_600_000_000


def test_mail_is_seen_in_the_order_of_its_ids(alice: Mailbox, bob: Mailbox) -> None:
    """As it will be taken."""
    ids = alice.send_many("bob", range(30))

    assert [message.id for message in bob.peek("new")] == ids


@pytest.mark.parametrize("state", ["later", "done"])
def test_a_time_at_the_end_of_time_can_be_seen(root: Path, bob: Mailbox, state: str) -> None:
    """A message that asks for the year 9999 does not break the list."""
    (root / f"bob/{state}/{LAST}~{WHEN},S=2.json").write_text("{}")
    (seen,) = bob.peek(state)

    assert seen.due == datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


def test_dotfiles_and_other_suffixes_are_not_seen(root: Path, bob: Mailbox) -> None:
    """Nobody's business, and no .why is a message."""
    for name in (".x.json", "x.tmp", "x.why", ".lock"):
        (root / "bob/new" / name).write_text("{}")
        (root / "bob/dead" / name).write_text("{}")

    assert list(bob.peek("new", "dead")) == []


def test_a_box_that_is_not_there_is_told(root: Path) -> None:
    """BoxNotFoundError at the first look, not before: nothing is opened for a look that is not made."""
    with Mailbox("carol", root) as carol:
        looking = carol.peek()
        with pytest.raises(BoxNotFoundError):
            next(looking)


def test_a_state_that_does_not_exist_is_told(bob: Mailbox) -> None:
    """A typing error is not an empty folder."""
    with pytest.raises(ValueError, match='"deaf" is not a state of mail: expected one of new, later, cur, dead, done'):
        next(bob.peek("deaf"))


def test_a_look_that_is_broken_off_lets_go(alice: Mailbox, bob: Mailbox) -> None:
    """No descriptor stays open."""
    alice.send_many("bob", range(5))
    before = len(os.listdir("/proc/self/fd"))
    looking = bob.peek("new")
    next(looking)
    del looking

    assert len(os.listdir("/proc/self/fd")) == before


def test_what_moves_while_we_look_is_skipped(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """Another consumer takes mail at the same time: no error."""
    first, second, third = alice.send_many("bob", range(3))
    looking = bob.peek("new")
    seen = [next(looking).id]
    next((root / "bob/new").glob(f"{second}*")).unlink()
    seen += [message.id for message in looking]

    assert seen == [first, third]


# Finding


@pytest.mark.parametrize("cut", [slice(None), slice(-12, None), slice(16, 30)], ids=["all", "end", "middle"])
def test_a_message_is_found_by_a_part_of_its_id(alice: Mailbox, bob: Mailbox, cut: slice) -> None:
    """In any state."""
    id = alice.send("bob", "x")

    assert bob.find(id[cut]).id == id
    assert bob.find(id[cut], "new").body == "x"


def test_a_foreign_file_is_found_by_its_name(root: Path, bob: Mailbox) -> None:
    """Before it has an id."""
    (root / "bob/new/job.json").write_text("{}")

    assert bob.find("job").name == bob.find("job.json").name == "job.json"


def test_no_message_and_several_are_told_apart(alice: Mailbox, bob: Mailbox) -> None:
    """MessageNotFoundError says which it is, and lists some."""
    ids = alice.send_many("bob", range(6))
    with pytest.raises(MessageNotFoundError, match='there is no message "nix"'):
        bob.find("nix")
    with pytest.raises(MessageNotFoundError, match="fits 6 messages") as caught:
        bob.find(ids[0][-12:])

    assert ids[0] in str(caught.value)
    assert str(caught.value).endswith("…")


def test_a_whole_id_wins_over_a_part(root: Path, bob: Mailbox) -> None:
    """Another file that has the id in its name does not make it ambiguous."""
    (root / f"bob/new/{WHEN},S=2.json").write_text("{}")
    (root / f"bob/new/copy of {WHEN}.json").write_text("{}")

    assert bob.find(WHEN).name == f"{WHEN},S=2.json"


def test_an_id_is_found_only_where_it_is_looked_for(alice: Mailbox, bob: Mailbox) -> None:
    """States narrow the search."""
    id = alice.send("bob")
    with pytest.raises(MessageNotFoundError):
        bob.find(id, "dead", "done")

    assert bob.find(id, "new", "dead").state == "new"
