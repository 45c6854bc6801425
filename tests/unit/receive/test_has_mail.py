"""Whether there is mail to take: the same judgement as receiving it."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import BoxNotFoundError, Mailbox


def drop(root: Path, text: str, name: str = "x.json") -> None:
    (root / "bob" / "new" / name).write_text(text)


@pytest.mark.parametrize(
    ("make", "there"),
    [
        pytest.param(lambda root, bob: None, False, id="nothing"),
        pytest.param(lambda root, bob: bob.send("bob", 1), True, id="a message"),
        pytest.param(lambda root, bob: drop(root, '{"msg": "hello"}'), True, id="a foreign file"),
        pytest.param(lambda root, bob: drop(root, '{"msg": "hel'), False, id="half a file"),
        pytest.param(lambda root, bob: drop(root, "{}", ".x.json"), False, id="a dotfile"),
        pytest.param(lambda root, bob: drop(root, "{}", "x.txt"), False, id="another suffix"),
        pytest.param(lambda root, bob: os.mkfifo(root / "bob" / "new" / "x.json"), False, id="a FIFO"),
        pytest.param(lambda root, bob: bob.send("bob", 1, ttl=-1), False, id="expired"),
        pytest.param(lambda root, bob: bob.send("bob", 1, ttl=60), True, id="not yet expired"),
        pytest.param(lambda root, bob: bob.send("bob", 1, delay=60), False, id="put off"),
        pytest.param(lambda root, bob: bob.send("bob", 1, delay=-1), True, id="put off until now"),
        pytest.param(lambda root, bob: bob.send("bob", 1, idempotency_key="known"), False, id="handled already"),
        pytest.param(lambda root, bob: bob.send("bob", 1, idempotency_key="new"), True, id="a key not seen yet"),
        pytest.param(lambda root, bob: drop(root, '{"body": 1, "hops": 17}'), False, id="too many hops"),
    ],
)
def test_it_is_ready_where_receive_gives_a_message(
    root: Path, bob: Mailbox, make: Callable[[Path, Mailbox], object], there: bool
) -> None:
    """Both are asked: what wait() says, receive() does."""
    bob.send("bob", 0, idempotency_key="known")
    first = bob.receive()
    assert first is not None
    first.ack()
    make(root, bob)

    assert bob.wait(0) is there
    assert (bob.receive() is not None) is there


def test_what_has_come_due_is_ready(bob: Mailbox) -> None:
    """Retries and deferred mail, when their time has come."""
    bob.send("bob", 1)
    message = bob.receive()
    assert message is not None
    message.retry(3600)
    assert bob.wait(0) is False

    bob.send("bob", 2)
    second = bob.receive()
    assert second is not None
    second.retry(0)
    assert bob.wait(20) is True


def test_what_a_dead_consumer_held_is_ready(root: Path, bob: Mailbox, start: Callable[..., Any]) -> None:
    """And what a living one holds is not."""
    bob.send("bob", 1)
    holder = start(
        "import sys; from filemailbox import Mailbox; box = Mailbox('bob', sys.argv[1]); m = box.receive(); print(m.id)"
        "; sys.stdin.readline()",
        root,
    )
    holder.line()

    assert bob.wait(0) is False
    holder.kill()
    assert bob.wait(0) is True
    assert bob.receive(timeout=20) is not None


def test_looking_touches_nothing(root: Path, bob: Mailbox) -> None:
    """Not even what would become a dead letter."""
    bob.send("bob", 1, ttl=-1)
    bob.send("bob", 2)
    before = sorted(str(path) for path in (root / "bob").rglob("*.json"))

    assert bob.wait(0) is True
    assert sorted(str(path) for path in (root / "bob").rglob("*.json")) == before


def test_waiting_ends_when_mail_comes(alice: Mailbox, bob: Mailbox) -> None:
    """It does not matter whether it came before or after the wait began."""
    sending = threading.Timer(0.05, lambda: alice.send("bob", 1))
    sending.start()

    assert bob.wait(20) is True
    sending.join()


def test_no_box_is_an_error(root: Path) -> None:
    """Waiting for mail that cannot come is no patience."""
    with pytest.raises(BoxNotFoundError):
        Mailbox("carol", root).wait(0)
