"""History: what a box keeps of a conversation, both sides, in order."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import BoxNotFoundError, Mailbox, MessageNotFoundError


@pytest.fixture
def kept(root: Path) -> Path:
    """The root, with boxes that keep what was said."""
    for name in ("alice", "bob"):
        Mailbox.init(name, root, retention=3600).close()
    return root


def handle(box: Mailbox, answer: Any = None) -> str:
    """Receive one message, answer it if there is an answer, ack it. Returns the id of the answer."""
    message = box.receive()
    assert message is not None
    id = message.reply(answer) if answer is not None else ""
    message.ack()
    return id


def said(box: Mailbox, **only: Any) -> list[tuple[str | None, Any, str]]:
    return [(each.sender, each.body, str(each.state)) for each in box.history(**only)]


def test_both_sides_find_what_was_said(kept: Path) -> None:
    """In the order of sending, whatever became of it."""
    with Mailbox("alice", kept) as alice, Mailbox("bob", kept) as bob:
        alice.send("bob", "one")
        handle(bob, "two")
        handle(alice)
        bob.send("alice", "three")
        alice.send("bob", "four")

        assert said(alice) == [
            ("alice", "one", "sent"), ("bob", "two", "done"), ("bob", "three", "new"), ("alice", "four", "sent"),
        ]  # fmt: skip
        assert said(bob) == [
            ("alice", "one", "done"), ("bob", "two", "sent"), ("bob", "three", "sent"), ("alice", "four", "new"),
        ]  # fmt: skip


def test_the_answer_to_a_request_is_kept(kept: Path) -> None:
    """It goes from the folder of the request to the handled mail; a box without a retention deletes it."""
    Mailbox.init("carol", kept).close()
    with Mailbox("bob", kept) as bob:
        bob.on(lambda message: message.body * 2)
        working = threading.Thread(target=bob.run)
        working.start()
        try:
            for name in ("alice", "carol"):
                with Mailbox(name, kept) as asker:
                    assert asker.request("bob", 21, timeout=60).body == 42
        finally:
            bob.stop()
            working.join()

    assert said(Mailbox("alice", kept)) == [("alice", 21, "sent"), ("bob", 42, "done")]
    assert said(Mailbox("carol", kept)) == []


def test_without_a_retention_nothing_is_kept(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """Also no folder."""
    alice.send("bob", "one")
    handle(bob)

    assert said(alice) == said(bob) == []
    assert not (root / "alice/sent").exists()


def test_claimed_deferred_and_dead_mail_is_history_too(kept: Path) -> None:
    """Each message once."""
    with Mailbox("alice", kept) as alice, Mailbox("bob", kept) as bob:
        for body in ("dead", "later", "claimed"):
            alice.send("bob", body)
        for settle in ("reject", "retry", ""):
            message = bob.receive()
            assert message is not None
            if settle == "reject":
                message.reject("no")
            elif settle:
                message.retry(delay=3600)

        assert [(body, state) for _, body, state in said(bob)] == [
            ("dead", "dead"), ("later", "later"), ("claimed", "cur"),
        ]  # fmt: skip


def test_it_can_be_narrowed(kept: Path) -> None:
    """By the other agent, the thread, and the time."""
    Mailbox.init("carol", kept).close()
    with Mailbox("alice", kept) as alice, Mailbox("bob", kept) as bob:
        first = alice.send("bob", "old")
        alice.send("carol", "to her")
        handle(bob, "answer")
        time.sleep(0.02)
        since = time.time()
        alice.send("bob", "new")

        assert [body for _, body, _ in said(alice, partner="carol")] == ["to her"]
        assert [body for _, body, _ in said(alice, thread=first)] == ["old", "answer"]
        assert [body for _, body, _ in said(alice, since=time.time() - since + 0.005)] == ["new"]


def test_a_thread_is_the_whole_conversation(kept: Path) -> None:
    """From any message of it; replies belong to it, also without a thread; nothing else does."""
    with Mailbox("alice", kept) as alice, Mailbox("bob", kept) as bob:
        first = alice.send("bob", "question")
        second = handle(bob, "counter-question")
        alice.send("bob", "beside it")
        third = handle(alice, "answer")
        bare = bob.send("alice", "late thought", in_reply_to=first)
        handle(bob)

        for id in (first, second, third, bare, first[16:25]):
            assert [each.body for each in alice.thread(id)] == [
                "question", "counter-question", "answer", "late thought",
            ]  # fmt: skip
        with pytest.raises(MessageNotFoundError, match="xyz"):
            alice.thread("xyz")
        with pytest.raises(MessageNotFoundError, match="different threads"):
            alice.thread("T")


def test_many_and_groups_are_kept_once(kept: Path) -> None:
    """A message to a group is one, to the group."""
    with Mailbox("alice", kept) as alice:
        alice.send_many("bob", ["a", "b"])
        alice.send("all", "to all")

        assert [(each.to, each.body) for each in alice.history()] == [("bob", "a"), ("bob", "b"), ("all", "to all")]


def test_the_content_of_sealed_mail_is_not_kept_by_its_sender(kept: Path, tmp_path: Path) -> None:
    """It is for its recipient alone."""
    boxes = {name: Mailbox(name, kept, key_dir=tmp_path / name) for name in ("alice", "bob")}
    from filemailbox.trust.key_files import PrivateKeys

    public = {}
    for name, box in boxes.items():
        (tmp_path / name).mkdir(mode=0o700)
        public[name] = PrivateKeys.generate(f"{tmp_path}/{name}/{name}.key", box.name, box.root).public
    boxes["alice"].keyring.pin(public["bob"])
    boxes["bob"].keyring.pin(public["alice"])
    boxes["alice"].send("bob", "open sesame", seal=True)
    (sent,) = boxes["alice"].history()
    (got,) = boxes["bob"].history()

    assert (sent.to, sent.body, sent.state) == ("bob", None, "sent")
    assert b"sesame" not in sent.raw
    assert (got.body, got.trust) == ("open sesame", "sealed")


def test_copies_go_when_they_were_kept_long_enough(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the consumer of the box, with the handled mail."""
    with Mailbox("alice", kept) as alice:
        alice.send("bob", "one")
    two_hours_later = time.time_ns() + 7_200_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: two_hours_later)
    with Mailbox("alice", kept) as alice:
        alice.receive()

        assert said(alice) == []


def test_what_is_no_mail_hides_nothing(kept: Path) -> None:
    """A damaged copy has a problem; links are not followed."""
    with Mailbox("alice", kept) as alice:
        alice.send("bob", "one")
        (copy,) = (kept / "alice/sent").iterdir()
        copy.write_text("{")
        os.symlink("/etc/hostname", kept / "alice/sent/20261124T014530.123456789Z-000000000001,S=5.json")
        alice.send("bob", "two")
        problems = [(each.body, each.problem is None) for each in alice.history()]

    assert problems == [(None, False), ("two", True)]


def test_a_full_or_missing_folder_stops_no_mail(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The message is delivered, and the log has it."""
    with Mailbox("alice", kept) as alice:
        alice.send("bob", "one")
        for path in (kept / "alice/sent").iterdir():
            path.unlink()
        (kept / "alice/sent").rmdir()
        alice.send("bob", "two")

    assert "no copy of" in caplog.text
    assert len(list((kept / "bob/new").iterdir())) == 2


def test_an_unknown_box_is_an_error(root: Path) -> None:
    """As for peek()."""
    Mailbox.init("alice", root).close()
    with pytest.raises(BoxNotFoundError):
        list(Mailbox("nobody", root).history())


def test_the_commands(mailbox: Callable[..., Any], kept: Path) -> None:
    """log and thread, for people and for programs."""
    id = mailbox("send", "bob", "is the build green?", "--subject", "build", sender="alice").lines[0]
    mailbox("watch", "--as", "bob", "--once", "--reply", "--", "echo", "yes")
    log = mailbox("log", "--as", "alice", "--json").records
    thread = mailbox("thread", id[-6:], "--as", "alice")

    assert [(each["from"], each["body"], each["state"]) for each in log] == [
        ("alice", "is the build green?", "sent"),
        ("bob", "yes", "waiting"),
    ]
    assert len(mailbox("log", "--as", "alice", "--grep", "y.s$").lines) == 1
    assert len(mailbox("log", "--as", "alice", "-n", "1", "--with", "bob").lines) == 1
    assert "yes" in thread.lines
    assert mailbox("log", "--grep", "(").code == 2
