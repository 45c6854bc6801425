"""The relay: private volumes, a policy, a record of every decision; crashes at any step."""

import errno
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox, StorageError
from filemailbox.format.address import Address
from filemailbox.relay import accepted, audit_format, audit_log, batch
from filemailbox.relay import relay as relays
from filemailbox.relay.audit_format import Tampered
from filemailbox.relay.inbox import Inbox
from filemailbox.relay.outbox import Outbox
from filemailbox.relay.policy import Rate
from filemailbox.relay.policy_file import InvalidPolicy, parse_policy
from filemailbox.relay.relay import Relay
from filemailbox.store.box import create_box
from filemailbox.store.ids import new_id
from filemailbox.store.root import init_root, set_marker
from filemailbox.trust import seal
from support.paths import SOURCE, TESTS
from support.relayed import OPEN, SIGNER, Post


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Callable[..., Post]]:
    """post(*agents, rules=…): agents with volumes of their own, and a relay."""
    opened: list[Post] = []

    def open_(*agents: str, **options: Any) -> Post:
        place = tmp_path / f"post{len(opened)}"
        place.mkdir()
        opened.append(Post(place, *agents, **options))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()


Open = Callable[..., Post]


def test_mail_is_carried_from_volume_to_volume(post: Open) -> None:
    """`send` in one container, `receive` in another: neither sees the other's volume, and neither does anything new."""
    office = post()
    id = office.box("alice").send("bob", {"n": 1}, type="job")
    office.turn()
    message = office.box("bob").receive()

    assert message is not None
    assert (message.id, message.sender, message.to, message.type, message.body) == (id, "alice", "bob", "job", {"n": 1})
    assert office.left("alice") == office.left("bob", "tmp") == []
    assert office.events() == ["accept"]
    assert office.is_sound()


def test_the_bytes_are_carried_as_they_are(post: Open) -> None:
    """Never written anew: a signature over them must survive. The file is another one, not a link."""
    office = post()
    data = b' {"to" :"bob","body":{"b":1,\t"a":[1.0,1e2]}, "sig": "mbs1:x" }\n\n'
    source = office.drop("alice", "odd name.json", data)
    inode = source.stat().st_ino
    office.turn()
    (name,) = office.left("bob", "new")
    arrived = office.folder("bob", "new") / name

    assert arrived.read_bytes() == data
    assert arrived.stat().st_ino != inode
    assert arrived.stat().st_nlink == 1
    assert arrived.stat().st_mode & 0o7777 == 0o640


def test_the_name_says_whose_volume_it_came_from(post: Open) -> None:
    """`F=` is the relay's word; what the sender wrote into the name is not taken over."""
    office = post()
    id = new_id()
    text = json.dumps({"id": id, "to": "bob", "body": 1})
    office.drop("alice", f"{id},S={len(text)},A=9,F=carol,R=3.json", text)
    office.turn()

    assert office.left("bob", "new") == [f"{id},S={len(text)},F=alice.json"]
    (record,) = office.records("accept")
    assert record["file"] == f"{id},S={len(text)},F=alice.json"


def test_two_senders_of_one_id_do_not_meet(post: Open) -> None:
    """Ids are the senders' to choose: one must not be able to keep another's mail away."""
    office = post()
    id = new_id()
    for name in ("alice", "carol"):
        text = json.dumps({"id": id, "to": "bob", "body": name})
        office.drop(name, f"{id},S={len(text)}.json", text)
    office.turn()

    assert len(office.left("bob", "new")) == 2
    assert office.events() == ["accept", "accept"]


RULES = """
    [[allow]]
    name = "jobs"
    from = "alice"
    to = "bob"
    type = "job"
    [[allow]]
    name = "answers"
    from = "bob"
    to = "alice"
    reply_only = true
    [groups]
    reviewers = ["bob", "carol", "alice"]
"""


@pytest.mark.parametrize(
    ("message", "why"),
    [
        pytest.param(
            {"to": "bob", "type": "talk", "body": 1}, 'nothing allows alice to send mail of type "talk"', id="type"
        ),
        pytest.param({"to": "carol", "type": "job", "body": 1}, "nothing allows alice", id="recipient"),
        pytest.param({"to": "nobody", "body": 1}, 'there is no agent "nobody"', id="unknown-recipient"),
        pytest.param({"body": 1}, 'it has no "to"', id="no-recipient"),
        pytest.param(
            {"from": "carol", "to": "bob", "type": "job", "body": 1}, "from the volume of alice", id="spoofed"
        ),
        pytest.param({"to": "team:none", "body": 1}, 'there is no group "none"', id="no-such-group"),
        pytest.param(
            {"to": "bob", "type": "job", "expires": "2020-01-01T00:00:00Z", "body": 1}, "it expired", id="expired"
        ),
    ],
)
def test_what_is_refused_comes_back_with_the_reason(post: Open, message: dict[str, Any], why: str) -> None:
    """As a dead letter in the sender's own box; the recipient hears nothing of it."""
    office = post(rules=RULES)
    office.drop("alice", "x.json", json.dumps(message))
    office.turn()
    (letter,) = office.box("alice").peek("dead")

    assert why in str(letter.problem)
    assert letter.body == 1
    assert office.left("alice") == []
    assert office.left("bob", "new") == office.left("carol", "new") == []
    (record,) = office.records("refuse")
    assert why in record["why"]


def test_a_reply_is_allowed_where_only_replies_are(post: Open) -> None:
    """To mail that was carried; not to anything else, and not for ever."""
    office = post(rules=RULES)
    office.box("alice").send("bob", "?", type="job")
    office.turn()
    question = office.box("bob").receive()
    assert question is not None
    question.reply("!")
    office.box("bob").send("alice", "by the way", in_reply_to=new_id())
    office.turn()

    assert office.got("alice") == ["!"]
    assert office.back("bob") == [
        "the relay did not carry it to alice: answers allows only answers, and it answers nothing that was carried"
    ]


def test_a_reply_is_allowed_also_by_the_next_relay(post: Open) -> None:
    """What was carried is read back from the audit log."""
    office = post(rules=RULES)
    id = office.box("alice").send("bob", "?", type="job")
    office.turn()
    office.again()
    office.box("bob").send("alice", "!", in_reply_to=id)
    office.turn()

    assert office.got("alice") == ["!"]


def test_an_answer_goes_to_where_it_is_waited_for(post: Open) -> None:
    """`request` through the relay, there and back."""
    office = post()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(office.box("alice").request("bob", 6, timeout=20).body))
    asking.start()
    bob = office.box("bob")
    while (question := bob.receive()) is None:
        office.turn()
        time.sleep(0.005)
    with question:
        question.reply(question.body * 7)
    while asking.is_alive():
        office.turn()
        asking.join(0.01)

    assert answers == [42]
    assert office.got("alice") == []


def test_mail_to_a_group_is_expanded(post: Open) -> None:
    """One file in the outbox, a record and a result for each member, never to oneself."""
    office = post(rules=RULES)
    office.box("alice").send("team:reviewers", 1, type="job")
    office.turn()

    assert office.got("bob") == [1]
    assert office.got("carol") == []
    assert [(each["to"], each["event"]) for each in office.records("accept", "refuse")] == [
        ("carol", "refuse"),
        ("bob", "accept"),
    ]
    assert office.back("alice") == [
        'the relay did not carry it to carol: nothing allows alice to send mail of type "job" to carol'
    ]


def test_mail_to_all_goes_to_all_who_may_be_reached(post: Open) -> None:
    """Nobody is told off for whom the policy leaves out."""
    office = post(rules=RULES)
    office.box("alice").send("all", 1, type="job")
    office.turn()

    assert (office.got("bob"), office.got("carol"), office.back("alice")) == ([1], [], [])


def test_an_id_is_carried_once(post: Open) -> None:
    """Sent again because a flush failed: it was delivered already. The same id for something else is refused."""
    office = post()
    id = office.box("alice").send("bob", "once")
    office.turn()
    office.box("alice").send("bob", "once", id=id)
    office.turn()
    office.again()
    office.box("alice").send("bob", "once", id=id)
    office.turn()
    office.box("alice").send("bob", "twice", id=id)
    office.turn()

    assert office.got("bob") == ["once"]
    assert office.events() == ["accept", "refuse"]
    assert office.back("alice") == ["the relay did not carry it to bob: its id was used for another message"]


def test_two_files_of_one_id_in_one_batch_are_one_message(post: Open) -> None:
    """The second waits until the first has been carried, and is then seen to be the same."""
    office = post()
    id = new_id()
    text = json.dumps({"id": id, "to": "bob", "body": 1})
    office.drop("alice", f"{id},S={len(text)}.json", text)
    office.drop("alice", f"{id},S={len(text)},N=x.json", text)
    office.turn()
    office.turn()

    assert office.got("bob") == [1]
    assert office.events() == ["accept"]
    assert office.left("alice") == []


def test_what_came_back_can_be_sent_again(post: Open) -> None:
    """A person who has had the policy changed requeues it: it goes out again, not into the own box."""
    office = post(rules="")
    id = office.box("alice").send("bob", 1)
    office.turn()
    assert office.got("bob") == []
    office.rules = OPEN
    office.relay.reload()
    (letter,) = office.box("alice").peek("dead")
    assert office.box("alice").requeue(letter) == id
    office.turn()

    assert office.got("bob") == [1]
    assert office.got("alice") == []
    assert office.left("alice", "dead") == []


def test_a_rate_makes_mail_wait(post: Open) -> None:
    """It is not refused: the outbox keeps it, and others' mail goes on."""
    office = post(limits='rate = "1/h"\nburst = 3\n')
    office.box("alice").send_many("bob", range(10))
    office.box("carol").send("bob", "c")
    office.turn()
    office.turn()

    assert sorted(map(str, office.got("bob"))) == ["0", "1", "2", "c"]
    assert len(office.left("alice")) == 7


def test_a_quota_sends_back_what_is_over_it(post: Open) -> None:
    """Also after the relay was started anew: what was sent is in the log."""
    office = post(limits='quota = "3/d"\n')
    office.box("alice").send_many("bob", range(2))
    office.turn()
    office.again()
    office.box("alice").send_many("bob", range(2, 5))
    office.turn()

    assert office.got("bob") == [0, 1, 2]
    assert (
        office.back("alice") == ["the relay did not carry it to bob: alice has used up its quota of 3/d messages"] * 2
    )


def test_a_quota_of_bytes(post: Open) -> None:
    """The same, by size."""
    office = post(limits='quota_bytes = "1KiB/h"\n')
    office.box("alice").send_many("bob", ["x" * 500, "y" * 500, "z"])
    office.turn()

    assert office.got("bob") == ["x" * 500, "z"]


def test_mail_that_is_too_large_comes_back(post: Open) -> None:
    """It is not even read."""
    office = post(limits='max_bytes = "1KiB"\n')
    office.box("alice").send("bob", "x" * 2000)
    office.turn()

    assert office.got("bob") == []
    assert "and 1024 is the limit" in office.back("alice")[0]


def test_mail_must_be_sealed_where_that_is_required(post: Open) -> None:
    """The form is looked at; the proof is for the recipient to check."""
    office = post(rules='[[allow]]\nfrom = "*"\nto = "*"\nmin_protection = "sealed"\n')
    office.drop("alice", "plain.json", '{"to":"bob","body":1}')
    office.drop("alice", "sealed.json", '{"v":1,"to":"bob","sealed":{"alg":"mbx1","data":"AA=="},"body":null}')
    office.turn()

    assert len(office.left("bob", "new")) == 1
    assert "only sealed mail, and it is plain" in office.back("alice")[0]


def test_order_within_a_sender_is_kept(post: Open) -> None:
    """Over several batches."""
    office = post()
    office.box("alice").send_many("bob", range(300))
    office.turn()

    assert office.got("bob") == list(range(300))
    assert office.is_sound()


@pytest.mark.parametrize(
    ("messages", "flushes"),
    [
        pytest.param(1, {"fsync": 1, "syncfs": 0, "fdatasync": 1}, id="one-message-two-flushes"),
        pytest.param(7, {"fsync": 7, "syncfs": 0, "fdatasync": 1}, id="a-few"),
        pytest.param(256, {"fsync": 0, "syncfs": 2, "fdatasync": 2}, id="a-backlog-two-for-each-batch"),
    ],
)
def test_a_backlog_is_flushed_together(
    post: Open, messages: int, flushes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is staged, then what is recorded: no more flushes than that."""
    office = post()
    office.box("alice").send_many("bob", range(messages))
    counted = dict.fromkeys(flushes, 0)

    def counting(call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted_call(*arguments: Any) -> Any:
            counted[call] += 1
            return real(*arguments)

        return counted_call

    for place, call in ((os, "fsync"), (os, "fdatasync"), (batch, "syncfs")):
        monkeypatch.setattr(place, call, counting(call, getattr(place, call)))
    office.turn()

    assert counted == flushes
    assert office.got("bob") == list(range(messages))


# A recipient in trouble


def test_a_full_box_puts_off_mail_and_gets_it_when_it_has_room(post: Open) -> None:
    """The first time is recorded; everything is delivered in the end, once."""
    office = post(limits="waiting = 2\n")
    office.box("alice").send_many("bob", range(5))
    office.box("alice").send("carol", "c")
    office.turn()
    first = office.events()
    office.turn()

    assert sorted(first) == ["accept"] * 3 + ["defer"] * 3
    assert sorted(office.events()) == sorted(first)
    assert office.got("carol") == ["c"]
    assert office.got("bob") == [0, 1]
    office.turn()
    assert office.got("bob") == [2, 3]
    office.turn()
    assert office.got("bob") == [4]
    assert office.left("alice") == []


def test_what_waits_too_long_comes_back(post: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted from the first time, also over a restart."""
    office = post()
    office.folder("bob", "new").rename(office.place / "gone")
    office.box("alice").send("bob", 1)
    office.turn()
    assert office.left("alice") != []
    office.again()
    office.turn()
    assert office.left("alice") != []
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 90_000)
    office.turn()

    assert office.left("alice") == []
    assert office.events() == ["defer", "bounce"]
    assert "given up: the box of bob takes no mail (no such file or directory)" in office.back("alice")[0]


def test_what_was_given_up_can_be_sent_again(post: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The box is there again; under the same id it is new mail."""
    office = post()
    gone = office.place / "gone"
    office.folder("bob", "new").rename(gone)
    office.box("alice").send("bob", 1)
    office.turn()
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + 90_000)
        office.turn()
    gone.rename(office.folder("bob", "new"))
    (letter,) = office.box("alice").peek("dead")
    office.box("alice").requeue(letter)
    office.turn()

    assert office.got("bob") == [1]
    assert office.events() == ["defer", "bounce", "accept"]


def test_only_so_much_of_one_sender_waits_for_one_recipient(post: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more comes back at once: it must not fill the outbox, in which mail for others lies as well."""
    monkeypatch.setattr(relays, "_PATIENCE", 3)
    office = post(limits="waiting = 1\n")
    for bodies in (range(4), range(4, 6)):
        office.box("alice").send_many("bob", bodies)
        office.turn()

    assert len(office.left("alice")) == 3
    assert len(office.back("alice")) == 2
    assert "and 3 messages wait for it already" in office.back("alice")[0]


def test_what_waits_for_one_recipient_costs_the_others_nothing(post: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """New mail is announced by its name: an outbox in which much is parked is not listed for it."""
    office = post(limits="waiting = 1\n")
    office.box("alice").send_many("bob", range(100))
    office.turn()
    listed: list[str] = []
    real = Outbox.list

    def counting(self: Outbox, limit: int) -> list[str]:
        listed.append(self.agent.name)
        return real(self, limit)

    monkeypatch.setattr(Outbox, "list", counting)
    office.box("alice").send("carol", "quick")
    office.relay.turn()

    assert office.got("carol") == ["quick"]
    assert len(office.left("alice")) == 99
    assert listed == []


def test_what_is_accepted_and_cannot_be_renamed_is_renamed_later(post: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record is written: it is never recorded again, and delivered once."""
    office = post()
    office.box("alice").send("bob", 1)
    real = Inbox.deliver

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Inbox, "deliver", full)
    office.turn()
    assert (office.left("bob", "new"), len(office.left("bob", "tmp"))) == ([], 1)
    office.turn()
    monkeypatch.setattr(Inbox, "deliver", real)
    office.turn()

    assert office.got("bob") == [1]
    assert office.events() == ["accept"]
    assert office.left("alice") == office.left("bob", "tmp") == []


def test_what_is_accepted_and_can_never_be_renamed_comes_back(post: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was staged goes."""
    office = post()
    office.box("alice").send("bob", 1)

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Inbox, "deliver", broken)
    office.turn()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 90_000)
    office.turn()

    assert office.events() == ["accept", "bounce"]
    assert office.left("alice") == office.left("bob", "tmp") == []
    assert len(office.back("alice")) == 1


@pytest.mark.parametrize("call", ["fsync", "syncfs"])
def test_what_cannot_be_flushed_is_not_recorded(post: Open, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is put off, and carried when the disk is well again."""
    office = post()
    office.box("alice").send_many("bob", range(3 if call == "fsync" else 20))
    with monkeypatch.context() as patch:
        patch.setattr(
            os if call == "fsync" else batch,
            call,
            lambda file: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")),
        )
        office.turn()
    assert set(office.events()) == {"defer"}
    assert office.left("bob", "new") == []
    office.turn()

    assert office.got("bob") == list(range(3 if call == "fsync" else 20))
    assert office.left("alice") == []


# The audit log in trouble


def test_without_a_record_nothing_is_delivered(post: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's disk is full: mail waits in the outbox, and goes when it can be recorded again."""
    office = post()
    office.box("alice").send_many("bob", range(3))
    real = os.write

    def full(file: int, data: bytes) -> int:
        if b'"event":' in bytes(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        office.turn()
        office.turn()
    assert office.left("bob", "new") == []
    assert len(office.left("alice")) == 3
    assert office.relay.trouble is not None
    assert "is full" in office.relay.trouble.why
    office.relay.trouble.until = 0
    office.turn()

    assert office.got("bob") == [0, 1, 2]
    assert office.events() == ["resume", "accept", "accept", "accept"]
    assert office.is_sound()


def test_a_log_that_is_taken_away_stops_everything_until_it_is_back(post: Open) -> None:
    """What nobody can read is no record."""
    office = post()
    away = office.place / "away"
    office.audit.rename(away)
    office.box("alice").send("bob", 1)
    office.turn()
    assert office.left("bob", "new") == []
    assert office.relay.trouble is not None
    away.rename(office.audit) if not office.audit.exists() else os.rename(away, f"{office.audit}.new")
    if (office.place / "audit.new").exists():  # only an empty folder was made anew
        office.audit.joinpath(".lock").unlink(missing_ok=True)
        office.audit.rmdir()
        os.rename(f"{office.audit}.new", office.audit)
    office.relay.trouble.until = 0
    office.turn()

    assert office.got("bob") == [1]
    assert office.is_sound()


def test_a_relay_does_not_begin_without_its_log(post: Open) -> None:
    """Tampered with, or another relay's: it says so and ends."""
    office = post()
    with pytest.raises(StorageError, match="another relay"):
        office.new_relay().run()
    office.box("alice").send_many("bob", range(3))
    office.turn()
    office.relay.end()
    os.truncate(office.audit / "00000001.jsonl", 100)

    with pytest.raises(Tampered):
        office.new_relay().run()


def test_the_bodies_are_in_the_log_only_where_that_is_said(post: Open) -> None:
    """By default it holds no content, and no hash of it that could be guessed."""
    plain, full = post(), post(rules=f"[relay]\nbodies = true\n{OPEN}")
    for office in (plain, full):
        office.box("alice").send("bob", "secret")
        office.turn()
    kept, not_kept = full.records("accept")[0], plain.records("accept")[0]

    assert "secret" in kept["raw"]
    assert "raw" not in not_kept
    assert "secret" not in plain.audit.joinpath("00000001.jsonl").read_text()


# Reloading


def test_a_policy_is_reloaded(post: Open) -> None:
    """With new agents, and without some; what waits is decided by the new one."""
    office = post("alice", "bob", rules="")
    office.make("carol")
    office.agents, office.rules = ("alice", "carol"), OPEN
    office.relay.reload()
    office.box("alice").send("carol", 1)
    office.box("alice").send("bob", 2)
    office.turn()

    assert office.got("carol") == [1]
    assert office.back("alice") == ['the relay did not carry it to bob: there is no agent "bob"']
    assert [each["event"] for each in office.records("policy")] == ["policy"]
    assert office.relay.policy.digest == office.policy().digest


def test_a_bad_policy_is_not_taken(post: Open) -> None:
    """The old one stays, and the log says so."""
    office = post()
    office.rules = "nonsense"
    office.relay.reload()
    office.box("alice").send("bob", 1)
    office.turn()

    assert office.got("bob") == [1]
    (record,) = office.records("policy-refused")
    assert "it is not TOML" in record["why"]


# Crashes


class Crash(BaseException):
    """kill -9."""


STEPS = ("open", "write", "fchmod", "fsync", "fdatasync", "pwrite", "rename", "unlink", "stat")


@pytest.mark.parametrize("call", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    post: Open, call: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of the kernel once, before it or after it: the next relay finishes what was recorded, and begins the
    rest anew. One record for each message."""
    real = getattr(os, call)
    done = False
    for nth in range(1, 500, 3 if call in ("open", "stat") else 1):
        office = post()
        office.box("alice").send("bob", 1)
        office.box("alice").send("all", 2)
        office.drop("alice", "x.json", '{"to":"carol","body":3}')
        left = [nth]

        def crash(*arguments: Any, left: list[int] = left, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and not after:
                raise Crash
            result = real(*arguments, **options)
            if left[0] == 0:
                raise Crash
            return result

        with monkeypatch.context() as patch:
            patch.setattr(os, call, crash)
            try:
                office.turn()
                done = left[0] > 0
            except Crash:
                pass
        abandon(office.relay)
        office.begin()
        office.turn()

        assert office.got("bob") == [1, 2]
        assert sorted(office.got("carol")) == [2, 3]
        assert office.events() == ["accept"] * 4
        assert office.left("alice") == office.left("bob", "tmp") == office.left("carol", "tmp") == []
        assert office.is_sound()
        office.close()
        if done:
            return
    pytest.fail("there are more steps than were tried")


def abandon(relay: Relay) -> None:
    """As if the process were gone: nothing is written any more, and the lock is free."""
    for file in (relay.audit._file, relay.audit._mark):
        if file >= 0:
            os.close(file)
    relay.audit._file = relay.audit._mark = -1
    relay.audit.close()
    relay.end()


RELAY = """
import signal, sys
from support.relayed import SIGNER
from filemailbox.relay.audit_log import Audit
from filemailbox.relay.policy_file import parse_policy
from filemailbox.relay.relay import Relay
from filemailbox.trust import seal
place = sys.argv[1]
read = parse_policy(open(f"{place}/relay.toml").read())
relay = Relay(read, Audit(f"{place}/audit", SIGNER, "relay", 20000), seal.verify)
signal.signal(signal.SIGTERM, lambda *_: relay.stop())
relay.begin()
print("ready", flush=True)
try:
    while not relay.stopping:
        relay.turn()
        relay._wait()
finally:
    relay.end()
"""


def test_kill_9_at_any_moment_loses_and_doubles_nothing(
    post: Open, start: Callable[..., Any], until: Callable[..., None]
) -> None:
    """Killed again and again while mail flows between three agents: every message is there once, with one record.

    `scripts/bench relay` does the same with thousands of messages and a hundred and fifty kills.
    """
    office = post()
    office.relay.end()
    (office.place / "relay.toml").write_text(office.text())
    chance = random.Random(7)
    sent: dict[str, list[str]] = {name: [] for name in office.agents}
    environment = {"PYTHONPATH": f"{SOURCE}:{TESTS}"}
    got: dict[str, list[tuple[str, str]]] = {name: [] for name in office.agents}

    def receive() -> None:
        for name in office.agents:
            while (message := office.box(name).receive()) is not None:
                got[name].append((message.id, message.body))
                message.ack()

    for _ in range(12):
        program = start(RELAY, office.place, **environment)
        assert program.line() == "ready"
        for _ in range(chance.randrange(5, 25)):
            sender, to = chance.sample(office.agents, 2)
            sent[to].append(office.box(sender).send(to, sender))
        if chance.random() < 0.5:
            until(lambda: any(office.left(name, "new") for name in office.agents))
        receive()
        program.kill()
    program = start(RELAY, office.place, **environment)
    assert program.line() == "ready"
    until(lambda: not any(office.left(name) for name in office.agents))
    program.process.terminate()
    assert program.end() == 0
    receive()

    assert {name: sorted(id for id, _ in mail) for name, mail in got.items()} == {
        name: sorted(ids) for name, ids in sent.items()
    }
    accepted = [(each["to"], each["id"]) for each in office.records("accept")]
    assert sorted(accepted) == sorted((to, id) for to, ids in sent.items() for id in ids)
    assert not any(office.left(name, "tmp") for name in office.agents)
    assert office.is_sound()


def test_what_was_carried_is_forgotten_in_the_end(post: Open, tmp_path: Path) -> None:
    """Two segments of the log are remembered, and no more: a relay that runs for a year does not grow."""
    office = post()
    office.relay.end()
    log = audit_log.Audit(str(office.audit), SIGNER, "relay", 3000)
    office.relay = Relay(office.policy(), log, seal.verify)
    office.relay.begin()
    for number in range(60):
        office.box("alice").send("bob", number)
        office.turn()
    memory = office.relay._memory

    assert len(audit_format.segments(str(office.audit))) > 4
    assert len(memory._old) + len(memory._young) < 30
    assert memory.pending == {}
    assert office.got("bob") == list(range(60))


def test_a_relay_runs_until_it_is_told_to_stop(post: Open, until: Callable[..., None]) -> None:
    """It is woken by what happens in the outboxes, not by the clock."""
    office = post(rules=f'[relay]\npoll_interval = "1h"\n{OPEN}')
    office.relay.end()
    office.relay = office.new_relay()
    running = threading.Thread(target=office.relay.run)
    running.start()
    until(lambda: office.relay.stations)
    bob = office.box("bob")
    for number in range(3):
        office.box("alice").send("bob", number)
        message = bob.receive(timeout=20)
        assert message is not None
        message.ack()
    office.relay.stop()
    running.join(20)

    assert not running.is_alive()
    assert office.records()[-1]["event"] == "stop"
    assert office.left("alice") == []


def test_a_crowd_of_recipients_needs_few_open_files(post: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message to a hundred agents, many times over: no more files are open than folders."""
    crowd = [f"a{number}" for number in range(30)]
    office = post("alice", *crowd)
    office.turn()  # opens the outboxes
    office.box("alice").send_many("all", range(20))
    before = len(os.listdir("/proc/self/fd"))
    most = [0]
    real = batch.DeliveryBatch.stage

    def count(self: Any, *arguments: Any) -> None:
        real(self, *arguments)
        most[0] = max(most[0], len(os.listdir("/proc/self/fd")))

    monkeypatch.setattr(batch.DeliveryBatch, "stage", count)
    office.turn()

    assert most[0] - before < 30 * 3 + 20
    assert all(office.got(name) == list(range(20)) for name in crowd)


def test_an_agent_without_a_volume_is_no_trouble_to_others(post: Open) -> None:
    """It may come later."""
    office = post()
    os.rename(office.place / "carol", office.place / "later")
    office.box("alice").send("bob", 1)
    office.box("alice").send("carol", 2)
    office.turn()
    assert office.got("bob") == [1]
    os.rename(office.place / "later", office.place / "carol")
    office.turn()

    assert office.got("carol") == [2]


def test_two_paths_to_one_volume_are_one_volume(post: Open) -> None:
    """A link is not seen in the policy: the relay does not begin, or does not take it."""
    office = post()
    (office.place / "dora").symlink_to(office.place / "alice")
    office.agents = ("alice", "bob", "dora")
    office.relay.reload()
    office.box("alice").send("bob", 1)
    office.turn()
    assert office.got("bob") == [1]
    assert "alice and dora have one volume" in office.records("policy-refused")[0]["why"]
    office.relay.end()

    with pytest.raises(InvalidPolicy, match="alice and dora have one volume"):
        office.new_relay().run()


def test_volumes_may_be_shared_by_agents_with_uids_of_their_own(tmp_path: Path, as_root: None) -> None:
    """Then the outbox is theirs by its mode, and the file by its owner."""
    volume = init_root(tmp_path / "team")
    for name, uid in (("alice", 2001), ("bob", 2002)):
        create_box(volume, Address(name), (uid, uid), outbox=True)
    text = f"""
        [agents.alice]
        volume = "{volume.path}"
        uid = 2001
        [agents.bob]
        volume = "{volume.path}"
        uid = 2002
        {OPEN}
    """
    right, forged = (tmp_path / "team/alice/outbox" / name for name in ("right.json", "forged.json"))
    for path, uid in ((right, 2001), (forged, 2002)):
        path.write_text('{"to":"bob","body":1}')
        os.chown(path, uid, uid)
    office = Relay(parse_policy(text), audit_log.Audit(str(tmp_path / "audit"), SIGNER), seal.verify)
    office.begin()
    office.turn()
    office.end()
    (arrived,) = (tmp_path / "team/bob/new").iterdir()

    assert (arrived.stat().st_uid, arrived.stat().st_gid) == (os.geteuid(), 2002)
    (note,) = (tmp_path / "team/alice/dead").glob("*.why")
    assert "it belongs to the uid 2002, and alice is 2001" in note.read_text()


def test_the_recipient_sees_that_the_relay_vouches(tmp_path: Path, as_root: None) -> None:
    """The owner of the file is the relay, which the root names; `F=` is the sender, also of mail to a group."""
    text = OPEN + '[groups]\nteam = ["bob"]\n'
    for name, uid in (("alice", 2001), ("bob", 2002)):
        volume = init_root(tmp_path / name)
        set_marker(volume, "relay", os.geteuid())
        create_box(volume, Address(name), (uid, uid), outbox=True)
        text += f'[agents.{name}]\nvolume = "{volume.path}"\nuid = {uid}\n'
    for number, to in enumerate(("bob", "team:team", "all")):
        path = tmp_path / f"alice/alice/outbox/{number}.json"
        path.write_text(json.dumps({"to": to, "body": number}))
        os.chown(path, 2001, 2001)
    office = Relay(parse_policy(text), audit_log.Audit(str(tmp_path / "audit"), SIGNER), seal.verify)
    office.begin()
    office.turn()
    office.end()
    forged = tmp_path / "bob/bob/new" / f"{new_id()},S=21,F=alice.json"
    forged.write_text('{"to":"bob","body":3}')
    os.chown(forged, 2002, 2002)
    with Mailbox("bob", tmp_path / "bob") as bob:
        got = [bob.receive() for _ in range(4)]

    assert [(each.body, each.sender, each.trust) for each in got if each is not None] == [
        (0, "alice", "relay"),
        (1, "alice", "relay"),
        (2, "alice", "relay"),
        (3, None, "none"),
    ]


def test_mail_that_is_refused_uses_the_quota(post: Open) -> None:
    """To refuse is work, too. It counts also after the relay was started anew."""
    office = post(rules='[[allow]]\nfrom = "alice"\nto = "bob"\n', limits='quota = "4/d"\n')
    office.box("alice").send_many("carol", range(2))
    office.turn()
    office.again()
    office.drop("alice", "junk.json", "{")
    os.utime(office.folder("alice", "outbox") / "junk.json", (0, 0))
    office.box("alice").send_many("bob", range(3))
    office.turn()

    assert office.got("bob") == [0, 1]
    assert (
        office.back("alice").count("the relay did not carry it to bob: alice has used up its quota of 4/d messages")
        == 1
    )


def test_refusals_are_thinned_out_in_the_record_and_counted(post: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent can be refused as often as it likes, and the log is never deleted. None is left uncounted."""
    office = post(rules='[[allow]]\nfrom = "bob"\nto = "*"\n', limits='rate = "none"\n')
    office.box("alice").send_many("bob", range(300))
    office.turn()
    before = office.records("refuse")
    office.box("carol").send("bob", "only one")
    office.turn()
    office.again()
    after = office.records("refuse")

    assert len(before) == 100
    assert all("count" not in record for record in before)
    assert [(record["from"], record.get("count", 1)) for record in after[100:]] == [("carol", 1), ("alice", 200)]
    assert len(office.back("alice")) == 300
    assert office.is_sound()


def test_what_was_left_out_is_told_of_as_soon_as_it_may(post: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a minute, with the next that is refused, or without."""
    monkeypatch.setitem(relays._SINGLY, "refuse", 1)
    monkeypatch.setitem(relays._THIN, "refuse", Rate(1, 60.0))
    clock = [1000.0]
    office = post(rules='[[allow]]\nfrom = "bob"\nto = "*"\n')
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    office.box("alice").send_many("bob", range(3))
    office.turn()
    clock[0] += 61
    office.turn()
    office.box("alice").send_many("bob", range(2))
    office.turn()
    clock[0] += 61
    office.box("alice").send("bob", "!")
    office.turn()

    assert [record.get("count", 1) for record in office.records("refuse")] == [1, 2, 3]


def test_what_cannot_be_delivered_is_thinned_out_as_well(post: Open) -> None:
    """Of what was put off, each that is given up has a record: the next relay must know."""
    known = {"event": "bounce", "from": "alice", "id": "1", "to": "bob"}
    thinner = relays.Thinner()
    kept = thinner.thin([{**known, "id": str(n)} for n in range(150)], lambda record: record["id"] == "149")
    left = thinner.due(all=True)

    assert [record["id"] for record in kept] == [*map(str, range(100)), "149"]
    assert left == [{**known, "id": "148", "count": 49}]


def test_only_so_many_answers_to_one_message_are_carried(post: Open) -> None:
    """`reply_only` is no open door: the policy says how many. They are counted also by the next relay."""
    office = post(rules=RULES.replace("reply_only = true", "reply_only = true\nanswers = 3"))
    id = office.box("alice").send("bob", "?", type="job")
    office.turn()
    office.box("bob").send_many("alice", range(2), in_reply_to=id)
    office.turn()
    office.again()
    office.box("bob").send_many("alice", range(2, 6), in_reply_to=id)
    office.turn()

    assert office.got("alice") == [0, 1, 2]
    assert (
        office.back("bob")
        == ["the relay did not carry it to alice: answers allows 3 answers to one message, and that has them"] * 3
    )


def test_without_a_word_on_it_sixteen_answers_are_carried(post: Open) -> None:
    office = post(rules=RULES)
    id = office.box("alice").send("bob", "?", type="job")
    office.turn()
    office.box("bob").send_many("alice", range(40), in_reply_to=id)
    office.turn()

    assert office.got("alice") == list(range(16))


def test_a_recipient_with_a_run_full_of_names_takes_little_of_the_relays_time(
    post: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in files that are opened: the ring for one recipient is everybody's wait."""
    office = post()
    run = office.folder("bob", "run")
    for n in range(5000):
        (run / f"link{n}").symlink_to("nowhere")
    office.box("alice").send("bob", 1)
    opened: list[object] = []
    real = os.open

    def counting(path: Any, *arguments: Any, **settings: Any) -> int:
        opened.append(path)
        return real(path, *arguments, **settings)

    monkeypatch.setattr(os, "open", counting)
    office.turn()
    monkeypatch.undo()

    assert office.got("bob") == [1]
    assert len(opened) < 150


def test_a_sender_that_takes_back_what_waits_does_not_fill_the_memory(
    post: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again: since when it waits, and who has refused it, is kept of so many."""
    monkeypatch.setattr(accepted, "_MANY", 5)
    monkeypatch.setattr(relays, "_MANY", 5)
    office = post(rules='[groups]\nothers = ["bob", "carol"]\n[[allow]]\nfrom = "alice"\nto = "bob"\n')
    office.folder("bob", "new").rename(office.folder("bob", "old"))
    for n in range(12):
        path = office.drop("alice", f"{new_id()}.json", json.dumps({"to": "team:others", "body": n}))
        office.turn()
        for left in office.folder("alice", "outbox").iterdir():
            left.unlink()
        assert not path.exists()

    assert len(office.relay._memory.waiting) == 5
    assert len(office.relay._refusals) == 5


def test_a_box_that_is_kept_nearly_full_is_not_counted_at_every_message(
    post: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner takes one out for each that comes, and all others wait while ten thousand are counted."""
    counted: list[int] = []

    def slow(inbox: Inbox, limit: int) -> int:
        counted.append(limit)
        time.sleep(0.5)  # so it is not counted again for ten seconds
        return limit - 1

    monkeypatch.setattr(Inbox, "waiting", slow)
    office = post()
    for n in range(4):
        office.box("alice").send("bob", n)
        office.turn()

    assert len(counted) == 1
    assert office.got("bob") == [0]
    assert len(office.left("alice")) == 3
