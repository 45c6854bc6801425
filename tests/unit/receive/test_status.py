"""What a listener says of itself, and who listens."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import BoxNotFoundError, Mailbox, Message
from filemailbox.receive.status import ListenerInfo, ListenerStatus, listening
from filemailbox.store.ids import timestamp_now
from support.waiting import Until

LISTEN = """
import sys
from filemailbox import Mailbox
box = Mailbox("bob", sys.argv[1], durable=False)

@box.on()
def handle(message):
    print(message.id)
    sys.stdin.readline()

print("ready")
box.run()
"""


def said(root: Path) -> list[Path]:
    return sorted((root / "bob/run").glob("status-*.json"))


@pytest.fixture
def told(root: Path) -> Callable[..., list[ListenerInfo]]:
    """told(facts): write them as a consumer of bob's that lives, and read what is seen."""

    def tell(**facts: Any) -> list[ListenerInfo]:
        with Mailbox("bob", root, durable=False) as bob:
            bob.receive()
            status = ListenerStatus(str(root / "bob"))
            status.write(bob._receiver.folder, facts)
            seen = listening(str(root / "bob"))
            status.close()
        return seen

    return tell


def test_who_listens_is_seen_and_who_does_not_is_not(root: Path, start: Callable[..., Any], until: Until) -> None:
    """That it lives is asked from the kernel: a listener that was killed left its file, and is gone at once."""
    before = listening(str(root / "bob"))
    program = start(LISTEN, root)
    program.line()
    until(lambda: listening(str(root / "bob")))
    (one,) = listening(str(root / "bob"))
    program.kill()

    assert before == []
    assert (one.watch, one.busy, one.missed, one.handled) == (None, None, 0, 0)
    assert Path(str(one.bell)).is_socket()
    assert one.since <= one.looked
    assert one.silent >= 0
    assert len(said(root)) == 1
    assert listening(str(root / "bob")) == []


def test_one_who_ends_takes_its_word_back(root: Path, bob: Mailbox, alice: Mailbox) -> None:
    """Another consumer may take its folder, and is no listener for that."""
    seen: list[Any] = []
    bob.on()(lambda message: seen.extend(listening(str(root / "bob"))))
    alice.send("bob", 1)
    bob.run(drain=True)
    bob.receive()

    assert len(seen) == 1
    assert listening(str(root / "bob")) == []
    assert said(root) == []


def test_what_a_handler_is_at_work_on_is_told(
    root: Path, alice: Mailbox, start: Callable[..., Any], until: Until
) -> None:
    """So that one sees at what a stuck one is stuck: it is what lies in its folder."""
    program = start(LISTEN, root)
    program.line()
    until(lambda: listening(str(root / "bob")))
    id = alice.send("bob", 1)
    program.line()
    busy = listening(str(root / "bob"))[0].busy
    program.say()
    until(lambda: listening(str(root / "bob"))[0].handled == 1)

    assert busy == id
    assert listening(str(root / "bob"))[0].busy is None


def test_a_wiped_run_is_written_anew(root: Path, start: Callable[..., Any], until: Until) -> None:
    """And while run/ is missing, nobody can say that it listens."""
    program = start(LISTEN, root)
    program.line()
    until(lambda: said(root))
    (before,) = said(root)
    before.unlink()
    until(lambda: said(root))
    shutil.rmtree(root / "bob/run")
    missing = listening(str(root / "bob"))
    (root / "bob/run").mkdir()
    until(lambda: listening(str(root / "bob")))

    assert missing == []
    assert said(root) == [before]


def test_a_box_that_is_not_there_has_no_listeners_to_ask_for(root: Path) -> None:
    """That is an error: a typo must not look like silence."""
    with pytest.raises(FileNotFoundError):
        listening(str(root / "nobody"))
    assert BoxNotFoundError("nobody", str(root)).known == []


def test_a_shorter_word_covers_a_longer_one(root: Path, told: Callable[..., list[ListenerInfo]]) -> None:
    """It is written in place: what is left of the last one must not make it unreadable."""
    with Mailbox("bob", root) as bob:
        bob.receive()
        status = ListenerStatus(str(root / "bob"))
        folder = bob._receiver.folder
        status.write(folder, {"watch": "a long complaint " * 100})
        status.write(folder, {"watch": None})
        (one,) = listening(str(root / "bob"))
        status.close()

    assert one.watch is None


def test_it_is_written_four_times_a_second_at_most(root: Path, bob: Mailbox) -> None:
    """Each message would otherwise cost a write."""
    clock = [100.0]
    bob.receive()
    status = ListenerStatus(str(root / "bob"), clock=lambda: clock[0])
    fresh = [status.is_fresh]
    status.write(bob._receiver.folder, {})
    fresh.append(status.is_fresh)
    clock[0] += 0.25
    fresh.append(status.is_fresh)
    status.close()

    assert fresh == [False, True, False]


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b'{"since": 1}', b'"\xff"', b'{"since": {}, "looked": []}', b'{"since": "x", "looked": "y"}'],
    ids=["empty", "half", "a list", "lacking", "not UTF-8", "odd", "no times"],
)
def test_what_is_not_a_status_is_nobodys(root: Path, bob: Mailbox, text: bytes) -> None:
    """It is written by those who own the box; yet reading never fails."""
    bob.receive()
    path = root / f"bob/run/status-{bob._receiver.folder}.json"
    path.write_bytes(text)

    assert listening(str(root / "bob")) == []


def test_what_is_missing_in_a_status_is_filled_in(told: Callable[..., list[ListenerInfo]]) -> None:
    """An older or newer version may have written it."""
    (one,) = told(missed="many", new=1)

    assert (one.missed, one.announced, one.handled, one.bell, one.busy) == (0, 0, 0, None, None)


def test_a_full_disk_is_no_reason_to_stop(
    root: Path, bob: Mailbox, alice: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Best effort: mail is handled all the same."""
    got: list[Any] = []
    bob.on()(lambda message: got.append(message.body))
    alice.send("bob", 1)

    def full(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    bob.run(drain=True)

    assert got == [1]


def test_it_can_be_read_with_cat(root: Path, bob: Mailbox, alice: Mailbox) -> None:
    """One JSON object."""
    seen: list[Any] = []

    @bob.on()
    def look(message: Message[Any]) -> None:
        seen.append(json.loads(said(root)[0].read_text()))

    alice.send("bob", 1)
    bob.run(drain=True)

    assert seen[0]["announced"] == 1
    assert seen[0]["since"] <= seen[0]["looked"] <= timestamp_now()
