"""The whole life of messages against a model; and the standard library's Maildir as a second reader."""

import contextlib
import mailbox
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from filemailbox import Mailbox, Message, NotClaimedError
from filemailbox.store import ids

MAX_ATTEMPTS: Final = 3
HOUR: Final = 3600 * 10**9


@dataclass
class Mail:
    """What the model knows of one message."""

    n: int
    kind: str = "plain"  # plain, keyed, expired, deferred, foreign, broken
    state: str = "new"  # new, cur, orphan (in cur, its holder dead), later, dead, gone
    id: str | None = None
    key: str | None = None
    due: int = 0
    attempt: int = 1
    requeued: bool = False
    acked: bool = False


@dataclass
class Consumer:
    """One open mailbox, and the last first attempt that it was given."""

    box: Mailbox
    last: int = -1
    holds: set[int] = field(default_factory=set)


class Life(RuleBasedStateMachine):
    """A box with two consumers. Time passes when we say so.

    What a consumer does on its way to a message (it buries, defers, acks what was handled) it may have done or not:
    so each message has a set of places where it may be, and the model learns in which of them it is.
    """

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="filemailbox-", dir=memory))
        self.ahead, real = 0, time.time_ns

        def now() -> int:
            return real() + self.ahead

        self.patches = contextlib.ExitStack()
        self.patches.enter_context(mock.patch.object(time, "time_ns", now))
        self.patches.enter_context(mock.patch.object(ids, "_mine", ids._Mine()))
        self.alice = Mailbox.init("alice", self.folder / "mail", durable=False)
        Mailbox.init("bob", self.folder / "mail").close()
        self.bob = self.folder / "mail/bob"
        self.mail: list[Mail] = []
        self.handled: set[str] = set()
        self.consumers: list[Consumer | None] = [self.open(), None]

    def open(self) -> Consumer:
        return Consumer(
            Mailbox(
                "bob", self.folder / "mail", durable=False, max_attempts=MAX_ATTEMPTS, retry_delay=0, max_retry_delay=0
            )
        )

    def add(self, kind: str, **known: Any) -> Mail:
        self.mail.append(Mail(len(self.mail), kind, **known))
        return self.mail[-1]

    # Sending

    @rule()
    def send(self) -> None:
        mail = self.add("plain")
        mail.id = self.alice.send("bob", {"n": mail.n})

    @rule(key=st.sampled_from("ab"))
    def send_keyed(self, key: str) -> None:
        mail = self.add("keyed", key=key)
        mail.id = self.alice.send("bob", {"n": mail.n}, idempotency_key=key)

    @rule()
    def send_expired(self) -> None:
        mail = self.add("expired")
        mail.id = self.alice.send("bob", {"n": mail.n}, ttl=-1)

    @rule()
    def send_deferred(self) -> None:
        mail = self.add("deferred", due=time.time_ns() - self.ahead + HOUR)
        mail.id = self.alice.send("bob", {"n": mail.n}, delay=3600)

    @rule(name=st.sampled_from(["job", "a b", "-x", "é", "n" * 200]), whole=st.booleans())
    def drop(self, name: str, whole: bool) -> None:
        path = self.bob / f"new/{name}.json"
        if not path.exists():
            mail = self.add("foreign" if whole else "broken")
            path.write_text(f'{{"n": {mail.n}' + "}" * whole)

    # Taking

    @rule(target=held, which=st.sampled_from((0, 1)))
    def receive(self, which: int) -> Any:
        consumer = self.consumers[which]
        if consumer is None:
            return multiple()
        self.look_anew(consumer)
        message = consumer.box.receive()
        if message is None:
            self.learn()
            assert not [mail for mail in self.mail if self.deliverable(mail)]
            return multiple()
        mail = self.mail[message.body["n"]]
        assert self.deliverable(mail), mail
        assert message.attempt == mail.attempt + (mail.state == "orphan")
        assert message.id == (mail.id or message.id)
        if mail.state == "new" and mail.kind in ("plain", "keyed"):
            assert mail.n > consumer.last  # first attempts of one writer, in order
            consumer.last = mail.n
        mail.id, mail.attempt, mail.state = message.id, message.attempt, "cur"
        consumer.holds.add(mail.n)
        return (consumer, message, mail)

    def look_anew(self, consumer: Consumer) -> None:
        """As if a rescan had passed."""
        if "_receiver" in vars(consumer.box):
            consumer.box._receiver._spool.maintain_at = 0.0

    def deliverable(self, mail: Mail) -> bool:
        """Whether a consumer that looks now can be given it."""
        if mail.kind == "broken" or (mail.key in self.handled) or (mail.kind == "expired" and not mail.requeued):
            return False
        if mail.state == "later":
            return mail.due <= time.time_ns() and mail.attempt <= MAX_ATTEMPTS
        if mail.state == "orphan":
            return mail.attempt < MAX_ATTEMPTS
        return mail.state == "new" and mail.due <= time.time_ns()

    # Settling

    @rule(taken=consumes(held), how=st.sampled_from(["ack", "retry", "retry later", "reject", "hand back", "fail"]))
    def settle(self, taken: tuple[Consumer, Message[Any], Mail], how: str) -> None:
        consumer, message, mail = taken
        if mail.n not in consumer.holds:  # its mailbox was closed, or died
            with pytest.raises(NotClaimedError):
                message.ack()
            return
        consumer.holds.remove(mail.n)
        if how == "ack":
            message.ack()
            mail.state, mail.acked = "gone", True
            self.handled.update([mail.key] if mail.key else [])
        elif how == "reject":
            message.reject("no")
            mail.state = "dead"
        elif how == "hand back":
            message.release()
            mail.state, mail.due = "later", time.time_ns()
        else:
            if how == "fail":
                with pytest.raises(ZeroDivisionError), message:
                    raise ZeroDivisionError
            else:
                message.retry(delay=3600 if how == "retry later" else 0)
            if mail.attempt == MAX_ATTEMPTS:
                mail.state = "dead"
            else:
                mail.state, mail.attempt = "later", mail.attempt + 1
                mail.due = time.time_ns() + (HOUR if how == "retry later" else 0)
        before = self.disk()
        message.ack()  # settling twice does nothing
        message.reject("no")
        assert self.disk() == before

    @precondition(lambda self: any(mail.state == "dead" for mail in self.mail))
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        consumer = next(filter(None, self.consumers), None)
        mail = data.draw(st.sampled_from([mail for mail in self.mail if mail.state == "dead"]))
        if consumer is not None:
            (seen,) = (seen for seen in consumer.box.peek("dead") if number(seen.raw) == mail.n)
            assert consumer.box.requeue(seen.id) == seen.id
            mail.id, mail.state, mail.attempt, mail.due, mail.requeued = seen.id, "later", 1, time.time_ns(), True

    # Consumers come and go, and time passes

    @rule(which=st.sampled_from((0, 1)))
    def close_or_open(self, which: int) -> None:
        consumer = self.consumers[which]
        if consumer is None:
            self.consumers[which] = self.open()
            return
        consumer.box.close()
        for n in consumer.holds:
            self.mail[n].state, self.mail[n].due = "later", time.time_ns()
        consumer.holds.clear()
        self.consumers[which] = None

    @rule(which=st.sampled_from((0, 1)))
    def die(self, which: int) -> None:
        """As after kill -9: the kernel frees the lock, and what was held lies there."""
        consumer = self.consumers[which]
        if consumer is None or "_receiver" not in vars(consumer.box):
            return
        consumer.box._receiver._spool.abandon()
        for n in consumer.holds:
            self.mail[n].state = "orphan"
        consumer.holds.clear()
        self.consumers[which] = None

    @rule()
    def an_hour_passes(self) -> None:
        self.ahead += HOUR + 10**9

    # What always holds

    @invariant()
    def the_model_is_the_disk(self) -> None:
        self.learn()

    @invariant()
    def looking_shows_what_is_there(self) -> None:
        seen = [(message.state, message.raw) for message in self.alice_looks()]

        assert sorted(seen) == sorted(self.files())

    def alice_looks(self) -> list[Message[Any]]:
        with Mailbox("bob", self.folder / "mail") as looking:
            messages = list(looking.peek("new", "later", "cur", "dead"))
            for message in messages:
                if not message.raw:  # it could not be read as mail
                    paths = (self.bob / message.state).rglob("*.json")
                    message.raw = next(path for path in paths if path.name.endswith(message.name)).read_bytes()
            return messages

    def files(self) -> list[tuple[str, bytes]]:
        return [
            (state, path.read_bytes())
            for state in ("new", "later", "cur", "dead")
            for path in (self.bob / state).rglob("*.json")
        ]

    def disk(self) -> dict[int, str]:
        """Where each message is; in two places it is never."""
        places: dict[int, str] = {}
        for state, text in self.files():
            found = number(text)
            assert found is not None
            assert found not in places
            places[found] = state
        return places

    def learn(self) -> None:
        """Each message is where it may be; the model takes over where."""
        places = self.disk()
        for mail in self.mail:
            place = places.pop(mail.n, "gone")
            if place == {"orphan": "cur"}.get(mail.state, mail.state):
                continue
            assert place in self.fates(mail), (mail, place)
            if mail.state == "orphan":  # found by another consumer: the attempt is counted
                mail.attempt, mail.due = mail.attempt + 1, time.time_ns()
            mail.state = place
        assert not places
        dead = {path.stem for path in (self.bob / "dead").glob("*.json")}
        assert {path.stem for path in (self.bob / "dead").glob("*.why")} == dead

    def fates(self, mail: Mail) -> set[str]:
        """Where a consumer may have put it on its way to another message."""
        fates = set()
        if mail.state == "orphan":
            fates.add("later")
        if mail.state in ("new", "later", "orphan"):
            if mail.key in self.handled:
                fates.add("gone")
            if (mail.kind == "expired" and not mail.requeued) or (
                mail.kind == "broken" and (self.ahead or mail.requeued)
            ):
                fates.add("dead")
        if mail.state == "new" and mail.due > time.time_ns():
            fates.add("later")
        if mail.attempt + (mail.state == "orphan") > MAX_ATTEMPTS:
            fates.add("dead")
        return fates

    def teardown(self) -> None:
        """At the end all is handled or dead, and nothing was lost."""
        try:
            for consumer in filter(None, self.consumers):
                consumer.box.close()
            self.ahead += 100 * HOUR
            with Mailbox("bob", self.folder / "mail", durable=False) as last:
                while (message := last.receive()) is not None:
                    message.ack()
                    self.mail[message.body["n"]].acked = True
                    key = self.mail[message.body["n"]].key
                    self.handled.update([key] if key else [])
            places = self.disk()
            lost = [mail for mail in self.mail if not mail.acked and mail.n not in places]
            assert set(places.values()) <= {"dead"}
            assert all(mail.key in self.handled for mail in lost), lost
        finally:
            self.alice.close()
            self.patches.close()
            shutil.rmtree(self.folder)


def number(text: bytes) -> int | None:
    """Which message this is, whole or not."""
    found = re.search(rb'"n": ?(\d+)', text)
    return int(found[1]) if found else None


TestLife = Life.TestCase
TestLife.__doc__ = "No id in two states, nothing lost, the model is the disk, whatever happens in whatever order."
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, database=None)


# A second reader


def test_the_standard_library_s_maildir_sees_the_same_mail(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """A box has new/, cur/ and tmp/: whoever reads Maildir sees what waits, with the same bytes, and no more."""
    alice.send_many("bob", [{"n": n, "text": "é→\u2028"} for n in range(20)], type="job", subject="line")
    (root / "bob/new/by hand.json").write_text('{"from":"cron","msg":"hello"}\n')
    held = bob.receive()
    maildir: mailbox.Maildir = mailbox.Maildir(root / "bob", factory=None, create=False)
    theirs = {key: maildir.get_bytes(key) for key in maildir.keys()}  # noqa: SIM118  # no dictionary
    ours = {message.name: message.raw for message in bob.peek("new")}

    assert held is not None
    assert len(ours) == 20
    assert theirs == ours
    assert {maildir.get_message(key).get_subdir() for key in theirs} == {"new"}


def test_what_a_maildir_reader_removes_is_gone_for_us(alice: Mailbox, bob: Mailbox, root: Path) -> None:
    """Between our listing and our claim, another program may take mail: the rest is delivered."""
    ids = alice.send_many("bob", range(5))
    first = bob.receive()
    maildir: mailbox.Maildir = mailbox.Maildir(root / "bob", factory=None, create=False)
    maildir.remove(sorted(maildir.keys())[1])
    rest = [message.id for message in iter(bob.receive, None)]

    assert first is not None
    assert [first.id, *rest] == [ids[0], ids[1], ids[3], ids[4]]
