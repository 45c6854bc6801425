"""Dead letters: buried with the reason, requeued."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from support.mail import bodies, reasons

BEFORE = "20200101T000000.000000000Z-00000000000a"


def test_two_dead_letters_of_one_id_do_not_meet(root: Path, new: Path, bob: Mailbox) -> None:
    """The second gets an id of its own: a dead letter is never overwritten."""
    for body in (b'{"a":1}', b'{"a":2}'):
        (new / f"{BEFORE},S=7.json").write_bytes(body)
        message = bob.receive()
        assert message is not None
        message.reject("no")

    assert {path.read_bytes() for path in (root / "bob/dead").glob("*.json")} == {b'{"a":1}', b'{"a":2}'}


def test_a_requeued_dead_letter_takes_its_reason_along(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """No .why stays behind."""
    alice.send("bob")
    message = bob.receive()
    assert message is not None
    message.reject("no")
    bob.requeue(message.id)

    assert os.listdir(root / "bob/dead") == []


def test_a_dead_letter_above_the_limit_says_so_when_requeued(root: Path, alice: Mailbox) -> None:
    """Not "it is not complete"."""
    alice.send("bob", "x" * 2000)
    with Mailbox("bob", root, max_size=1000) as bob:
        bodies(bob)
        bob.requeue(next(bob.peek("dead")).id)
        bodies(bob)
        (reason,) = reasons(bob)

    assert reason.endswith("bytes, and 1000 is the limit")


def test_the_reason_is_best_effort_and_the_dead_letter_is_not(
    root: Path, alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk takes no .why, and still a rename."""
    alice.send("bob", "x")
    message = bob.receive()
    assert message is not None
    real = os.open

    def full(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(".why"):
            raise OSError(errno.ENOSPC, "full")
        return real(path, *arguments, **options)

    with monkeypatch.context() as broken:
        broken.setattr(os, "open", full)
        message.reject("no")

    assert [path.suffix for path in (root / "bob/dead").iterdir()] == [".json"]
