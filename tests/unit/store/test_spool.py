"""Out of a box: claim and settle, in which order, and when the disk fails us."""

import errno
import functools
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox, NotClaimedError, StorageError
from filemailbox.format.filename import ID_LENGTH
from filemailbox.store import claim, claim_new, consumer_folder
from filemailbox.store.claim_new import NewMail
from filemailbox.store.intake import Intake
from filemailbox.store.spool import TMP_MAX_AGE, Spool
from filemailbox.system import files
from filemailbox.system.locks import Lock
from support.mail import bodies, reasons

# Claiming and settling


def test_nothing_is_claimed_ahead_of_its_handler(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """One rename, one message: what nobody asked for is there for other consumers."""
    alice.send_many("bob", range(5))
    held = bob.receive()

    assert held is not None
    assert len(os.listdir(root / "bob/new")) == 4


def test_a_claim_is_one_rename_into_a_locked_folder(root: Path, alice: Mailbox, taker: Spool) -> None:
    """The bytes are those of the file, and the file is where only its holder acts on it."""
    id = alice.send("bob", "x")
    claim = taker.claim()
    (folder,) = [path for path in (root / "bob/cur").iterdir() if any(path.glob("*.json"))]

    assert claim is not None
    assert claim[0].startswith(id)
    assert (folder / claim[0]).read_bytes() == claim[1]
    assert not Lock(f"{folder}/.lock").take()


def test_new_mail_is_claimed_before_maintenance_that_is_due(root: Path, alice: Mailbox, taker: Spool) -> None:
    """The round, which finds what the dead have left, is for the next claim."""
    taker.begin()
    left = alice.send("bob", "left")
    (waiting,) = (root / "bob/new").iterdir()
    dead = root / "bob/cur/0123456789ab"
    dead.mkdir()
    waiting.rename(dead / waiting.name)
    announced = alice.send("bob", "announced")
    taker.maintain_at = time.monotonic()
    claims = [taker.claim(), taker.claim()]

    assert [claim and claim[0][:ID_LENGTH] for claim in claims] == [announced, left]


def test_the_first_claim_takes_a_folder_first(alice: Mailbox, taker: Spool) -> None:
    """There is nothing to claim into before that."""
    id = alice.send("bob")
    claim = taker.claim()

    assert claim is not None
    assert claim[0].startswith(id)


@pytest.mark.parametrize(
    "settle",
    [
        pytest.param(lambda taker, name: taker.ack(name), id="ack"),
        pytest.param(lambda taker, name: taker.defer(name, 0), id="put off"),
        pytest.param(lambda taker, name: taker.dead_letter(name, "no"), id="dead-letter"),
    ],
)
def test_settling_what_is_gone_is_logged_and_no_error(
    root: Path, alice: Mailbox, taker: Spool, caplog: pytest.LogCaptureFixture, settle: Callable[[Spool, str], None]
) -> None:
    """Somebody took it away under us: it may be handled twice, and a person can read so."""
    alice.send("bob")
    claim = taker.claim()
    assert claim is not None
    next((root / "bob/cur").glob(f"*/{claim[0]}")).unlink()
    with caplog.at_level(logging.WARNING, "filemailbox"):
        settle(taker, claim[0])

    assert "may be handled twice" in caplog.text


@pytest.mark.parametrize(
    "settle",
    [
        pytest.param(lambda taker, name: taker.ack(name), id="ack"),
        pytest.param(lambda taker, name: taker.defer(name, 0), id="put off"),
        pytest.param(lambda taker, name: taker.dead_letter(name, "no"), id="dead-letter"),
    ],
)
def test_settling_after_close_is_refused(alice: Mailbox, taker: Spool, settle: Callable[[Spool, str], None]) -> None:
    """It was handed back: somebody else may have it by now."""
    alice.send("bob")
    claim = taker.claim()
    assert claim is not None
    taker.close()

    with pytest.raises(NotClaimedError):
        settle(taker, claim[0])


def test_drafts_are_given_up_after_36_hours(root: Path, bob: Mailbox) -> None:
    """The one judgement by age: Maildir's number."""
    for name, age in (("old", TMP_MAX_AGE + 10), ("young", TMP_MAX_AGE - 60)):
        (root / "bob/tmp" / name).write_text("")
        os.utime(root / "bob/tmp" / name, (time.time() - age, time.time() - age))
    bob.receive()

    assert os.listdir(root / "bob/tmp") == ["young"]


# Order


@pytest.mark.parametrize(
    "clock",
    [
        pytest.param(lambda n: 1_700_000_000_000_000_000 - n * 10**9, id="backwards"),
        pytest.param(lambda n: 1_700_000_000_000_000_000, id="stands still"),
        pytest.param(lambda n: 1_700_000_000_000_000_000 + n % 3, id="jumps"),
        pytest.param(lambda n: 4_000_000_000_000_000_000 + n, id="far ahead"),
    ],
)
def test_mail_of_a_writer_is_in_order_whatever_its_clock_does(
    alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch, clock: Callable[[int], int]
) -> None:
    """A writer never repeats a stamp and never goes back; and nothing waits for a clock to catch up."""
    calls = iter(range(10**6))

    def send() -> None:
        for n in range(50):
            alice.send("bob", n)

    writer = threading.Thread(target=send)  # a writer of its own
    with monkeypatch.context() as set_wrong:
        set_wrong.setattr(time, "time_ns", lambda: clock(next(calls)))
        writer.start()
        writer.join()

    assert bodies(bob) == list(range(50))


def test_an_hour_between_two_writers_keeps_both_in_order(
    alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is ahead loses nothing and holds up nobody."""
    real = time.time_ns

    def send(ahead: int) -> None:
        with monkeypatch.context() as wrong:
            wrong.setattr(time, "time_ns", lambda: real() + ahead)
            for n in range(20):
                alice.send("bob", [ahead, n])

    for ahead in (3600 * 10**9, 0):
        writer = threading.Thread(target=send, args=(ahead,))
        writer.start()
        writer.join()
    taken = bodies(bob)

    assert [n for ahead, n in taken if ahead] == list(range(20))
    assert [n for ahead, n in taken if not ahead] == list(range(20))


def test_threads_of_one_mailbox_take_each_message_once(alice: Mailbox, bob: Mailbox) -> None:
    """All of a backlog, none twice. In what order is up to the threads: those in hand at once may pass each other."""
    alice.send_many("bob", range(600))
    taken: list[list[int]] = [[], [], []]

    def take(mine: list[int]) -> None:
        while (message := bob.receive()) is not None:
            mine.append(message.body)
            message.ack()

    threads = [threading.Thread(target=take, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(sum(taken, bodies(bob))) == list(range(600))


def test_a_name_that_is_listed_is_never_taken_back_to_front(
    alice: Mailbox, taker: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one thread lists, others pop from the same batch: it must never be there in the wrong order."""
    alice.send_many("bob", range(3))
    batches: list[list[str]] = []
    real = NewMail.__setattr__

    def watched(self: NewMail, name: str, value: Any) -> None:
        if name == "batch":
            batches.append(list(value))
        real(self, name, value)

    monkeypatch.setattr(NewMail, "__setattr__", watched)
    taker.claim()
    full = [batch for batch in batches if len(batch) == 3]

    assert full
    assert all(batch == sorted(batch, reverse=True) for batch in full)


# When the disk fails us: scripts/prove lets each call fail in turn; these are the rules that it has taught us.


def fails(monkeypatch: pytest.MonkeyPatch, call: str, name: str, code: int, times: int = 1) -> list[int]:
    """os.*call* of a file that is called *name* fails so often. Returns what is left of that."""
    real, left = getattr(os, call), [times]

    def failing(path: Any, *arguments: Any, **options: Any) -> Any:
        if left[0] and name in (os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)):
            left[0] -= 1
            raise OSError(code, os.strerror(code))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, call, failing)
    return left


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize("state", ["new", "later"])
def test_a_message_that_fails_once_keeps_its_place(
    bob: Mailbox, monkeypatch: pytest.MonkeyPatch, code: int, state: str
) -> None:
    """It is our own trouble: the message is no dead letter, and those behind it do not overtake it."""
    ids = [bob.send("bob", number) for number in range(3)]
    if state == "later":
        messages = [bob.receive() for _ in ids]
        for message in filter(None, messages):
            message.retry(delay=0)
    twice = 2 if state == "new" else 1  # what was claimed in vain is looked at where it lay
    fails(monkeypatch, "open", ids[0], code, twice)
    with pytest.raises(StorageError):
        bob.receive()

    assert bodies(bob) == [0, 1, 2]
    assert reasons(bob) == []


def test_a_message_that_fails_again_and_again_stops_nothing(
    bob: Mailbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad block under one file: what is behind it is taken, and it when it can be read again."""
    ids = [bob.send("bob", number) for number in range(3)]
    left = fails(monkeypatch, "open", ids[0], errno.EIO, 1000)
    for _ in range(claim.MAX_TRIES):
        with pytest.raises(StorageError):
            bob.receive()

    assert bodies(bob) == [1, 2]
    assert "fails again and again" in caplog.text

    left[0], started = 0, time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: started + 2 * claim.BACKOFF_SECONDS)

    assert bodies(bob) == [0]
    assert reasons(bob) == []


def test_a_due_message_that_fails_again_and_again_stops_nothing(bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in later/."""
    ids = [bob.send("bob", number) for number in range(2)]
    for message in [bob.receive() for _ in ids]:
        assert message is not None
        message.retry(delay=0)
    fails(monkeypatch, "open", ids[0], errno.EIO, 1000)
    for _ in range(claim.MAX_TRIES):
        with pytest.raises(StorageError):
            bob.receive()

    assert bodies(bob) == [1]


def test_what_is_short_of_descriptors_waits(bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """That says nothing of a file, however often it happens: nothing is overtaken."""
    ids = [bob.send("bob", number) for number in range(2)]
    fails(monkeypatch, "open", ids[0], errno.EMFILE, 1 + 3 * claim.MAX_TRIES)  # the first time it is tried twice
    for _ in range(3 * claim.MAX_TRIES):
        with pytest.raises(StorageError):
            bob.receive()

    assert bodies(bob) == [0, 1]


@pytest.mark.parametrize("stuck", [0, 1, 2], ids=["it can be put back", "not to new/", "not at once"])
def test_what_was_claimed_and_cannot_be_read_comes_back(
    bob: Mailbox, monkeypatch: pytest.MonkeyPatch, stuck: int
) -> None:
    """Else it would lie in our folder for as long as we live."""
    ids = [bob.send("bob", number) for number in range(2)]
    fails(monkeypatch, "read", ids[0], errno.EIO, 1 if stuck else 2)
    block = [stuck]

    def stuck_at(real: Callable[..., None], *arguments: Any) -> None:
        if block[0] and (real is files.rename_noreplace or "~" in arguments[2]):
            block[0] -= 1
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        real(*arguments)

    monkeypatch.setattr(claim_new, "rename_noreplace", functools.partial(stuck_at, files.rename_noreplace))
    monkeypatch.setattr(consumer_folder, "move", functools.partial(stuck_at, files.move))
    with pytest.raises(StorageError):
        bob.receive()
    assert block == [0]
    bob._receiver._spool.maintain_at = 0.0

    assert bodies(bob) == [0, 1]
    assert reasons(bob) == []


def test_what_another_consumer_takes_while_we_look_at_it_is_none_of_ours(
    root: Path, taker: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A foreign file, which is read before it is claimed."""
    path, mail = root / "bob/new/x.json", Intake.inspect

    def late(*arguments: Any) -> Any:
        found = mail(*arguments)
        path.unlink()
        return found

    path.write_text("{}")
    monkeypatch.setattr(Intake, "inspect", late)

    assert taker.claim() is None
    assert caplog.text == ""


def test_what_was_read_before_and_meets_our_trouble_comes_back_as_it_was(
    bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had been judged: it is not taken for mail that was never claimed, and the attempt is not counted."""
    id = bob.send("bob", "x")
    message = bob.receive()
    assert message is not None
    message.retry(delay=0)

    def fail(*_: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(bob._receiver._verifier, "verify", fail)
        with pytest.raises(OSError, match="Input/output error"):
            bob.receive()
    again = bob.receive()

    assert again is not None
    assert (again.id, again.attempt, again.from_new) == (id, 2, False)


def test_a_short_read_is_read_on(bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems give less than was asked for: that is no change of the file."""
    bob.send("bob", "x" * 1000)
    real = os.read
    monkeypatch.setattr(os, "read", lambda file, size: real(file, max(1, size // 3)))

    assert bodies(bob) == ["x" * 1000]
    assert reasons(bob) == []
