"""A consumer's place in a box: found, locked, taken over, replaced."""

import os
import time
from pathlib import Path

import pytest

from filemailbox import BoxNotFoundError, Mailbox, NotClaimedError
from filemailbox.format.filename import split_timed
from filemailbox.format.timestamp import to_timestamp
from filemailbox.store.box import create_box
from filemailbox.store.root import find_root
from filemailbox.store.spool import Spool
from support.boxes import BOB
from support.waiting import Until

BEFORE = "20200101T000000.000000000Z-00000000000a"


def test_the_first_consumer_needs_no_new_folder(root: Path, taker: Spool) -> None:
    """A box is made with one: so that a box on a full volume can be drained."""
    before = os.listdir(root / "bob/cur")
    taker.claim()

    assert os.listdir(root / "bob/cur") == before


def test_a_folder_is_made_only_where_none_is_free(root: Path, taker: Spool) -> None:
    """Consumers that come and go use the same folders again."""
    taker.claim()
    for _ in range(3):
        other = Spool(find_root(root).box(BOB))
        other.claim()
        other.close()

    assert len(os.listdir(root / "bob/cur")) == 2


def test_a_dead_consumer_s_folder_is_taken_over_and_the_attempt_counted(root: Path, bob: Mailbox) -> None:
    """Whoever can take its lock knows that it is gone."""
    folder = root / "bob/cur/aaaaaaaaaaaa"
    folder.mkdir()
    (folder / f"{BEFORE},S=2.json").write_text("{}")
    message = bob.receive()

    assert message is not None
    assert (message.id, message.attempt) == (BEFORE, 2)


def test_who_takes_mail_while_another_thread_closes_the_mailbox_is_told(
    alice: Mailbox, taker: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no KeyError; and what was claimed comes back."""
    alice.send("bob", 1)
    claim = taker.claim()
    assert claim is not None
    taker.defer(claim[0], 0)
    real = split_timed

    def late(text: str) -> tuple[str, str] | None:
        if taker.folder is not None:
            taker.close()
        return real(text)

    with monkeypatch.context() as patch:
        patch.setattr("filemailbox.store.claim_deferred.split_timed", late)
        with pytest.raises(NotClaimedError, match="was closed"):
            taker.claim()

    assert taker.claim() is not None


def test_a_lease_is_left_alone_until_its_time(root: Path, bob: Mailbox, until: Until) -> None:
    """Nobody holds its lock: the deadline in the folder's name stands for it. After that it is anybody's."""
    over, running = to_timestamp(time.time_ns() - 1), to_timestamp(time.time_ns() + 3600 * 10**9)
    for digit, deadline in (("a", over), ("b", running)):
        folder = root / f"bob/cur/{digit * 12},U={deadline}"
        folder.mkdir()
        (folder / f"{BEFORE[:-1]}{digit},S=2.json").write_text("{}")
    taken = [message.id[-1] for message in iter(bob.receive, None)]

    assert taken == ["a"]


@pytest.mark.parametrize("name", ["x", "AAAAAAAAAAAA", ".aaaaaaaaaaaa", "aaaaaaaaaaaa,U=soon", "aaaaaaaaaaaa,X=1"])
def test_a_folder_in_cur_of_another_name_is_nobody_s_to_take(root: Path, bob: Mailbox, name: str) -> None:
    """Only what has the name of a consumer is one."""
    (root / "bob/cur" / name).mkdir()
    (root / "bob/cur" / name / f"{BEFORE},S=2.json").write_text("{}")

    assert bob.receive() is None


def test_a_box_that_was_replaced_under_a_living_consumer_is_found_again(
    root: Path, alice: Mailbox, bob: Mailbox, until: Until
) -> None:
    """BoxNotFoundError while it is gone; then the new one, without a restart. What was held stays with the old box."""
    alice.send("bob", "old")
    held = bob.receive()
    assert held is not None
    os.rename(root / "bob", root / "aside")

    def gone() -> bool:
        try:
            bob.receive()
        except BoxNotFoundError:
            return True
        return False

    until(gone)
    create_box(find_root(root).box(BOB))
    alice.send("bob", "new")
    taken = bob.receive(timeout=20)

    assert taken is not None
    assert taken.body == "new"
    held.ack()  # not ours any more: no error


def test_a_consumer_whose_folder_was_wiped_finds_itself_another(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """Somebody cleaned cur/: mail must not wait for ever for a folder that is not there."""
    assert bob.receive() is None
    for folder in (root / "bob/cur").iterdir():
        (folder / ".lock").unlink()
        folder.rmdir()
    alice.send("bob", "x")
    message = bob.receive(timeout=20)

    assert message is not None
    message.ack()
    assert os.listdir(root / "bob/new") == []
