"""The relay: private volumes, a policy, a record of every decision; crashes at any step."""

import errno
import json
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox, StorageError
from filemailbox.format.address import Address
from filemailbox.relay import audit_format, batch
from filemailbox.relay.audit_format import TamperedLogError
from filemailbox.relay.audit_log import AuditLog
from filemailbox.relay.inbox import Inbox
from filemailbox.relay.limits import RelayLimits
from filemailbox.relay.outbox import Outbox
from filemailbox.relay.policy_file import InvalidPolicyError, parse_policy
from filemailbox.relay.relay import Relay
from filemailbox.store.box import create_box
from filemailbox.store.ids import new_id
from filemailbox.store.root import init_root, set_marker
from filemailbox.trust import seal
from support.paths import SOURCE, TESTS
from support.relayed import OPEN, SIGNER, OpenWorld


def test_mail_is_carried_from_volume_to_volume(open_world: OpenWorld) -> None:
    """`send` in one container, `receive` in another: neither sees the other's volume, and neither does anything new."""
    world = open_world()
    id = world.box("alice").send("bob", {"n": 1}, type="job")
    world.turn()
    message = world.box("bob").receive()

    assert message is not None
    assert (message.id, message.sender, message.to, message.type, message.body) == (id, "alice", "bob", "job", {"n": 1})
    assert world.left("alice") == world.left("bob", "tmp") == []
    assert world.events() == ["accept"]
    assert world.is_sound()


def test_the_bytes_are_carried_as_they_are(open_world: OpenWorld) -> None:
    """Never written anew: a signature over them must survive. The file is another one, not a link."""
    world = open_world()
    data = b' {"to" :"bob","body":{"b":1,\t"a":[1.0,1e2]}, "sig": "mbs1:x" }\n\n'
    source = world.drop("alice", "odd name.json", data)
    inode = source.stat().st_ino
    world.turn()
    (name,) = world.left("bob", "new")
    arrived = world.folder("bob", "new") / name

    assert arrived.read_bytes() == data
    assert arrived.stat().st_ino != inode
    assert arrived.stat().st_nlink == 1
    assert arrived.stat().st_mode & 0o7777 == 0o640


def test_the_name_says_whose_volume_it_came_from(open_world: OpenWorld) -> None:
    """`F=` is the relay's word; what the sender wrote into the name is not taken over."""
    world = open_world()
    id = new_id()
    text = json.dumps({"id": id, "to": "bob", "body": 1})
    world.drop("alice", f"{id},S={len(text)},A=9,F=carol,R=3.json", text)
    world.turn()

    assert world.left("bob", "new") == [f"{id},S={len(text)},F=alice.json"]
    (record,) = world.records("accept")
    assert record["file"] == f"{id},S={len(text)},F=alice.json"


def test_two_senders_of_one_id_do_not_meet(open_world: OpenWorld) -> None:
    """Ids are the senders' to choose: one must not be able to keep another's mail away."""
    world = open_world()
    id = new_id()
    for name in ("alice", "carol"):
        text = json.dumps({"id": id, "to": "bob", "body": name})
        world.drop(name, f"{id},S={len(text)}.json", text)
    world.turn()

    assert len(world.left("bob", "new")) == 2
    assert world.events() == ["accept", "accept"]


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
            {"to": "bob", "type": "talk", "body": 1}, 'no rule allows alice to send mail of type "talk"', id="type"
        ),
        pytest.param({"to": "carol", "type": "job", "body": 1}, "no rule allows alice", id="recipient"),
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
def test_what_is_refused_comes_back_with_the_reason(open_world: OpenWorld, message: dict[str, Any], why: str) -> None:
    """As a dead letter in the sender's own box; the recipient hears nothing of it."""
    world = open_world(rules=RULES)
    world.drop("alice", "x.json", json.dumps(message))
    world.turn()
    (letter,) = world.box("alice").peek("dead")

    assert why in str(letter.problem)
    assert letter.body == 1
    assert world.left("alice") == []
    assert world.left("bob", "new") == world.left("carol", "new") == []
    (record,) = world.records("refuse")
    assert why in record["why"]


def test_a_reply_is_allowed_where_only_replies_are(open_world: OpenWorld) -> None:
    """To mail that was carried; not to anything else, and not for ever."""
    world = open_world(rules=RULES)
    world.box("alice").send("bob", "?", type="job")
    world.turn()
    question = world.box("bob").receive()
    assert question is not None
    question.reply("!")
    world.box("bob").send("alice", "by the way", in_reply_to=new_id())
    world.turn()

    assert world.got("alice") == ["!"]
    assert world.back("bob") == [
        "the relay did not carry it to alice: answers allows only replies, and it is not a reply to carried mail"
    ]


def test_a_reply_is_allowed_also_by_the_next_relay(open_world: OpenWorld) -> None:
    """What was carried is read back from the audit log."""
    world = open_world(rules=RULES)
    id = world.box("alice").send("bob", "?", type="job")
    world.turn()
    world.restart()
    world.box("bob").send("alice", "!", in_reply_to=id)
    world.turn()

    assert world.got("alice") == ["!"]


def test_an_answer_goes_to_where_it_is_waited_for(open_world: OpenWorld) -> None:
    """`request` through the relay, there and back."""
    world = open_world()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(world.box("alice").request("bob", 6, timeout=20).body))
    asking.start()
    bob = world.box("bob")
    while (question := bob.receive()) is None:
        world.turn()
    with question:
        question.reply(question.body * 7)
    while asking.is_alive():
        world.turn()
        asking.join(0.01)

    assert answers == [42]
    assert world.got("alice") == []


def test_mail_to_a_group_is_expanded(open_world: OpenWorld) -> None:
    """One file in the outbox, a record and a result for each member, never to oneself."""
    world = open_world(rules=RULES)
    world.box("alice").send("team:reviewers", 1, type="job")
    world.turn()

    assert world.got("bob") == [1]
    assert world.got("carol") == []
    assert [(each["to"], each["event"]) for each in world.records("accept", "refuse")] == [
        ("carol", "refuse"),
        ("bob", "accept"),
    ]
    assert world.back("alice") == [
        'the relay did not carry it to carol: no rule allows alice to send mail of type "job" to carol'
    ]


def test_mail_to_all_goes_to_all_who_may_be_reached(open_world: OpenWorld) -> None:
    """Nobody is told off for whom the policy leaves out."""
    world = open_world(rules=RULES)
    world.box("alice").send("all", 1, type="job")
    world.turn()

    assert (world.got("bob"), world.got("carol"), world.back("alice")) == ([1], [], [])


def test_an_id_is_carried_once(open_world: OpenWorld) -> None:
    """Sent again because a flush failed: it was delivered already. The same id for something else is refused."""
    world = open_world()
    id = world.box("alice").send("bob", "once")
    world.turn()
    world.box("alice").send("bob", "once", id=id)
    world.turn()
    world.restart()
    world.box("alice").send("bob", "once", id=id)
    world.turn()
    world.box("alice").send("bob", "twice", id=id)
    world.turn()

    assert world.got("bob") == ["once"]
    assert world.events() == ["accept", "refuse"]
    assert world.back("alice") == ["the relay did not carry it to bob: its id was used for another message"]


def test_two_files_of_one_id_in_one_batch_are_one_message(open_world: OpenWorld) -> None:
    """The second waits until the first has been carried, and is then seen to be the same."""
    world = open_world()
    id = new_id()
    text = json.dumps({"id": id, "to": "bob", "body": 1})
    world.drop("alice", f"{id},S={len(text)}.json", text)
    world.drop("alice", f"{id},S={len(text)},N=x.json", text)
    world.turn()
    world.turn()

    assert world.got("bob") == [1]
    assert world.events() == ["accept"]
    assert world.left("alice") == []


def test_what_came_back_can_be_sent_again(open_world: OpenWorld) -> None:
    """A person who has had the policy changed requeues it: it goes out again, not into the own box."""
    world = open_world(rules="")
    id = world.box("alice").send("bob", 1)
    world.turn()
    assert world.got("bob") == []
    world.rules = OPEN
    world.relay.reload()
    (letter,) = world.box("alice").peek("dead")
    assert world.box("alice").requeue(letter) == id
    world.turn()

    assert world.got("bob") == [1]
    assert world.got("alice") == []
    assert world.left("alice", "dead") == []


def test_a_rate_makes_mail_wait(open_world: OpenWorld) -> None:
    """It is not refused: the outbox keeps it, and others' mail goes on."""
    world = open_world(limits='rate = "1/h"\nburst = 3\n')
    world.box("alice").send_many("bob", range(10))
    world.box("carol").send("bob", "c")
    world.turn()
    world.turn()

    assert sorted(map(str, world.got("bob"))) == ["0", "1", "2", "c"]
    assert len(world.left("alice")) == 7


def test_a_quota_sends_back_what_is_over_it(open_world: OpenWorld) -> None:
    """Also after the relay was started anew: what was sent is in the log."""
    world = open_world(limits='quota = "3/d"\n')
    world.box("alice").send_many("bob", range(2))
    world.turn()
    world.restart()
    world.box("alice").send_many("bob", range(2, 5))
    world.turn()

    assert world.got("bob") == [0, 1, 2]
    assert world.back("alice") == ["the relay did not carry it to bob: alice has used up its quota of 3/d messages"] * 2


def test_a_quota_of_bytes(open_world: OpenWorld) -> None:
    """The same, by size."""
    world = open_world(limits='quota_bytes = "1KiB/h"\n')
    world.box("alice").send_many("bob", ["x" * 500, "y" * 500, "z"])
    world.turn()

    assert world.got("bob") == ["x" * 500, "z"]


def test_mail_that_is_too_large_comes_back(open_world: OpenWorld) -> None:
    """It is not even read."""
    world = open_world(limits='max_bytes = "1KiB"\n')
    world.box("alice").send("bob", "x" * 2000)
    world.turn()

    assert world.got("bob") == []
    assert "and 1024 is the limit" in world.back("alice")[0]


def test_mail_must_be_sealed_where_that_is_required(open_world: OpenWorld) -> None:
    """The form is looked at; the proof is for the recipient to check."""
    world = open_world(rules='[[allow]]\nfrom = "*"\nto = "*"\nmin_protection = "sealed"\n')
    world.drop("alice", "plain.json", '{"to":"bob","body":1}')
    world.drop("alice", "sealed.json", '{"v":1,"to":"bob","sealed":{"alg":"mbx1","data":"AA=="},"body":null}')
    world.turn()

    assert len(world.left("bob", "new")) == 1
    assert "only sealed mail, and it is plain" in world.back("alice")[0]


def test_order_within_a_sender_is_kept(open_world: OpenWorld) -> None:
    """Over several batches."""
    world = open_world()
    world.box("alice").send_many("bob", range(300))
    world.turn()

    assert world.got("bob") == list(range(300))
    assert world.is_sound()


@pytest.mark.parametrize(
    ("messages", "flushes"),
    [
        pytest.param(1, {"fsync": 1, "syncfs": 0, "fdatasync": 1}, id="one-message-two-flushes"),
        pytest.param(7, {"fsync": 7, "syncfs": 0, "fdatasync": 1}, id="a-few"),
        pytest.param(256, {"fsync": 0, "syncfs": 2, "fdatasync": 2}, id="a-backlog-two-for-each-batch"),
    ],
)
def test_a_backlog_is_flushed_together(
    open_world: OpenWorld, messages: int, flushes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is staged, then what is recorded: no more flushes than that."""
    world = open_world()
    world.box("alice").send_many("bob", range(messages))
    counted = dict.fromkeys(flushes, 0)

    def counting(call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted_call(*arguments: Any) -> Any:
            counted[call] += 1
            return real(*arguments)

        return counted_call

    for place, call in ((os, "fsync"), (os, "fdatasync"), (batch, "syncfs")):
        monkeypatch.setattr(place, call, counting(call, getattr(place, call)))
    world.turn()

    assert counted == flushes
    assert world.got("bob") == list(range(messages))


# A recipient in trouble


def test_a_full_box_puts_off_mail_and_gets_it_when_it_has_room(open_world: OpenWorld) -> None:
    """The first time is recorded; everything is delivered in the end, once."""
    world = open_world(limits="waiting = 2\n")
    world.box("alice").send_many("bob", range(5))
    world.box("alice").send("carol", "c")
    world.turn()
    first = world.events()
    world.turn()

    assert sorted(first) == ["accept"] * 3 + ["defer"] * 3
    assert sorted(world.events()) == sorted(first)
    assert world.got("carol") == ["c"]
    assert world.got("bob") == [0, 1]
    world.turn()
    assert world.got("bob") == [2, 3]
    world.turn()
    assert world.got("bob") == [4]
    assert world.left("alice") == []


def test_what_waits_too_long_comes_back(open_world: OpenWorld) -> None:
    """Counted from the first time, also over a restart."""
    world = open_world()
    world.folder("bob", "new").rename(world.place / "gone")
    world.box("alice").send("bob", 1)
    world.turn()
    assert world.left("alice") != []
    world.restart()
    world.turn()
    assert world.left("alice") != []
    world.clock.advance_day(90_000)
    world.turn()

    assert world.left("alice") == []
    assert world.events() == ["defer", "bounce"]
    assert "undeliverable: the box of bob takes no mail (no such file or directory)" in world.back("alice")[0]


def test_what_was_given_up_can_be_sent_again(open_world: OpenWorld) -> None:
    """The box is there again; under the same id it is new mail."""
    world = open_world()
    gone = world.place / "gone"
    world.folder("bob", "new").rename(gone)
    world.box("alice").send("bob", 1)
    world.turn()
    world.clock.advance_day(90_000)
    world.turn()
    gone.rename(world.folder("bob", "new"))
    (letter,) = world.box("alice").peek("dead")
    world.box("alice").requeue(letter)
    world.turn()

    assert world.got("bob") == [1]
    assert world.events() == ["defer", "bounce", "accept"]


def test_only_so_much_of_one_sender_waits_for_one_recipient(open_world: OpenWorld) -> None:
    """What is more comes back at once: it must not fill the outbox, in which mail for others lies as well."""
    world = open_world(limits="waiting = 1\n", relay_limits=RelayLimits(deferred_per_recipient=3))
    for bodies in (range(4), range(4, 6)):
        world.box("alice").send_many("bob", bodies)
        world.turn()

    assert len(world.left("alice")) == 3
    assert len(world.back("alice")) == 2
    assert "and 3 messages wait for it already" in world.back("alice")[0]


def test_what_waits_for_one_recipient_costs_the_others_nothing(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New mail is announced by its name: an outbox in which much is parked is not listed for it."""
    world = open_world(limits="waiting = 1\n")
    world.box("alice").send_many("bob", range(100))
    world.turn()
    listed: list[str] = []
    real = Outbox.waiting

    def counting(self: Outbox, limit: int) -> list[str]:
        listed.append(self.agent.name)
        return real(self, limit)

    monkeypatch.setattr(Outbox, "waiting", counting)
    world.box("alice").send("carol", "quick")
    world.relay.turn()

    assert world.got("carol") == ["quick"]
    assert len(world.left("alice")) == 99
    assert listed == []


def test_what_is_accepted_and_cannot_be_renamed_is_renamed_later(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is written: it is never recorded again, and delivered once."""
    world = open_world()
    world.box("alice").send("bob", 1)
    real = Inbox.commit

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Inbox, "commit", full)
    world.turn()
    assert (world.left("bob", "new"), len(world.left("bob", "tmp"))) == ([], 1)
    world.turn()
    monkeypatch.setattr(Inbox, "commit", real)
    world.turn()

    assert world.got("bob") == [1]
    assert world.events() == ["accept"]
    assert world.left("alice") == world.left("bob", "tmp") == []


def test_what_is_accepted_and_can_never_be_renamed_comes_back(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was staged goes."""
    world = open_world()
    world.box("alice").send("bob", 1)

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Inbox, "commit", broken)
    world.turn()
    world.clock.advance_day(90_000)
    world.turn()

    assert world.events() == ["accept", "bounce"]
    assert world.left("alice") == world.left("bob", "tmp") == []
    assert len(world.back("alice")) == 1


@pytest.mark.parametrize("call", ["fsync", "syncfs"])
def test_what_cannot_be_flushed_is_not_recorded(
    open_world: OpenWorld, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is put off, and carried when the disk is well again."""
    world = open_world()
    world.box("alice").send_many("bob", range(3 if call == "fsync" else 20))
    with monkeypatch.context() as patch:
        patch.setattr(
            os if call == "fsync" else batch,
            call,
            lambda file: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")),
        )
        world.turn()
    assert set(world.events()) == {"defer"}
    assert world.left("bob", "new") == []
    world.turn()

    assert world.got("bob") == list(range(3 if call == "fsync" else 20))
    assert world.left("alice") == []


# The audit log in trouble


def test_without_a_record_nothing_is_delivered(open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's disk is full: mail waits in the outbox, and goes when it can be recorded again."""
    world = open_world()
    world.box("alice").send_many("bob", range(3))
    real = os.write

    def full(file: int, data: bytes) -> int:
        if b'"event":' in bytes(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        world.turn()
        world.turn()
    assert world.left("bob", "new") == []
    assert len(world.left("alice")) == 3
    assert world.relay.outage is not None
    assert "is full" in world.relay.outage.why
    world.turn()

    assert world.got("bob") == [0, 1, 2]
    assert world.events() == ["resume", "accept", "accept", "accept"]
    assert world.is_sound()


def test_a_log_that_is_taken_away_stops_everything_until_it_is_back(open_world: OpenWorld) -> None:
    """What nobody can read is no record."""
    world = open_world()
    away = world.place / "away"
    world.audit.rename(away)
    world.box("alice").send("bob", 1)
    world.turn()
    assert world.left("bob", "new") == []
    assert world.relay.outage is not None
    away.rename(world.audit) if not world.audit.exists() else os.rename(away, f"{world.audit}.new")
    if (world.place / "audit.new").exists():  # only an empty folder was made anew
        world.audit.joinpath(".lock").unlink(missing_ok=True)
        world.audit.rmdir()
        os.rename(f"{world.audit}.new", world.audit)
    world.turn()

    assert world.got("bob") == [1]
    assert world.is_sound()


def test_a_relay_does_not_begin_without_its_log(open_world: OpenWorld) -> None:
    """TamperedLogError with, or another relay's: it says so and ends."""
    world = open_world()
    with pytest.raises(StorageError, match="another relay"):
        world.new_relay().run()
    world.box("alice").send_many("bob", range(3))
    world.turn()
    world.relay.close()
    os.truncate(world.audit / "00000001.jsonl", 100)

    with pytest.raises(TamperedLogError):
        world.new_relay().run()


def test_the_bodies_are_in_the_log_only_where_that_is_said(open_world: OpenWorld) -> None:
    """By default it holds no content, and no hash of it that could be guessed."""
    plain, full = open_world(), open_world(rules=f"[relay]\nbodies = true\n{OPEN}")
    for world in (plain, full):
        world.box("alice").send("bob", "secret")
        world.turn()
    kept, not_kept = full.records("accept")[0], plain.records("accept")[0]

    assert "secret" in kept["raw"]
    assert "raw" not in not_kept
    assert "secret" not in plain.audit.joinpath("00000001.jsonl").read_text()


# Reloading


def test_a_policy_is_reloaded(open_world: OpenWorld) -> None:
    """With new agents, and without some; what waits is decided by the new one."""
    world = open_world("alice", "bob", rules="")
    world.make("carol")
    world.agents, world.rules = ("alice", "carol"), OPEN
    world.relay.reload()
    world.box("alice").send("carol", 1)
    world.box("alice").send("bob", 2)
    world.turn()

    assert world.got("carol") == [1]
    assert world.back("alice") == ['the relay did not carry it to bob: there is no agent "bob"']
    assert [each["event"] for each in world.records("policy")] == ["policy"]
    assert world.relay.policy.digest == world.policy().digest


def test_a_bad_policy_is_not_taken(open_world: OpenWorld) -> None:
    """The old one stays, and the log says so."""
    world = open_world()
    world.rules = "nonsense"
    world.relay.reload()
    world.box("alice").send("bob", 1)
    world.turn()

    assert world.got("bob") == [1]
    (record,) = world.records("policy-refused")
    assert "it is not TOML" in record["why"]


# Crashes


class Crash(BaseException):
    """kill -9."""


STEPS = ("open", "write", "fchmod", "fsync", "fdatasync", "pwrite", "rename", "unlink", "stat")


@pytest.mark.parametrize("call", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    open_world: OpenWorld, call: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of the kernel once, before it or after it: the next relay finishes what was recorded, and begins the
    rest anew. One record for each message."""
    real = getattr(os, call)
    done = False
    for nth in range(1, 500, 3 if call in ("open", "stat") else 1):
        world = open_world()
        world.box("alice").send("bob", 1)
        world.box("alice").send("all", 2)
        world.drop("alice", "x.json", '{"to":"carol","body":3}')
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
                world.turn()
                done = left[0] > 0
            except Crash:
                pass
        world.kill()
        world.start()
        world.turn()

        assert world.got("bob") == [1, 2]
        assert sorted(world.got("carol")) == [2, 3]
        assert world.events() == ["accept"] * 4
        assert world.left("alice") == world.left("bob", "tmp") == world.left("carol", "tmp") == []
        assert world.is_sound()
        world.close()
        if done:
            return
    pytest.fail("there are more steps than were tried")


RELAY = """
import signal, sys
from support.relayed import SIGNER
from filemailbox.relay.audit_log import AuditLog
from filemailbox.relay.policy_file import parse_policy
from filemailbox.relay.relay import Relay
from filemailbox.trust import seal
place = sys.argv[1]
read = parse_policy(open(f"{place}/relay.toml").read())
relay = Relay(read, AuditLog(f"{place}/audit", SIGNER, "relay", 20000), seal.verify)
signal.signal(signal.SIGTERM, lambda *_: relay.stop())
ready = []
def on_tick():
    if not ready:
        ready.append(print("ready", flush=True))
relay.run(on_tick)
"""


def test_kill_9_at_any_moment_loses_and_doubles_nothing(
    open_world: OpenWorld, start: Callable[..., Any], until: Callable[..., None]
) -> None:
    """Killed again and again while mail flows between three agents: every message is there once, with one record.

    `scripts/bench relay` does the same with thousands of messages and a hundred and fifty kills.
    """
    world = open_world()
    world.relay.close()
    (world.place / "relay.toml").write_text(world.text())
    chance = random.Random(7)
    sent: dict[str, list[str]] = {name: [] for name in world.agents}
    environment = {"PYTHONPATH": f"{SOURCE}:{TESTS}"}
    got: dict[str, list[tuple[str, str]]] = {name: [] for name in world.agents}

    def receive() -> None:
        for name in world.agents:
            while (message := world.box(name).receive()) is not None:
                got[name].append((message.id, message.body))
                message.ack()

    for _ in range(12):
        program = start(RELAY, world.place, **environment)
        assert program.line() == "ready"
        for _ in range(chance.randrange(5, 25)):
            sender, to = chance.sample(world.agents, 2)
            sent[to].append(world.box(sender).send(to, sender))
        if chance.random() < 0.5:
            until(lambda: any(world.left(name, "new") for name in world.agents))
        receive()
        program.kill()
    program = start(RELAY, world.place, **environment)
    assert program.line() == "ready"
    until(lambda: not any(world.left(name) for name in world.agents))
    program.process.terminate()
    assert program.end() == 0
    receive()

    assert {name: sorted(id for id, _ in mail) for name, mail in got.items()} == {
        name: sorted(ids) for name, ids in sent.items()
    }
    accepted = [(each["to"], each["id"]) for each in world.records("accept")]
    assert sorted(accepted) == sorted((to, id) for to, ids in sent.items() for id in ids)
    assert not any(world.left(name, "tmp") for name in world.agents)
    assert world.is_sound()


def test_what_was_carried_is_forgotten_in_the_end(open_world: OpenWorld, tmp_path: Path) -> None:
    """Two segments of the log are remembered, and no more: a relay that runs for a year does not grow."""
    world = open_world(segment=3000)
    for number in range(60):
        world.box("alice").send("bob", number)
        world.turn()
    index = world.relay.state.accepted

    assert len(audit_format.segment_numbers(str(world.audit))) > 4
    assert len(index) < 30
    assert index.pending == {}
    assert world.got("bob") == list(range(60))


def test_a_relay_runs_until_it_is_told_to_stop(open_world: OpenWorld, until: Callable[..., None]) -> None:
    """It is woken by what happens in the outboxes, not by the clock."""
    world = open_world(rules=f'[relay]\npoll_interval = "1h"\n{OPEN}')
    world.relay.close()
    world.relay = Relay(world.policy(), AuditLog(str(world.audit), SIGNER), seal.verify)
    running = threading.Thread(target=world.relay.run)
    running.start()
    until(lambda: world.relay.senders)
    bob = world.box("bob")
    for number in range(3):
        world.box("alice").send("bob", number)
        message = bob.receive(timeout=20)
        assert message is not None
        message.ack()
    world.relay.stop()
    running.join(20)

    assert not running.is_alive()
    assert world.records()[-1]["event"] == "stop"
    assert world.left("alice") == []


def test_a_crowd_of_recipients_needs_few_open_files(open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message to a hundred agents, many times over: no more files are open than folders."""
    crowd = [f"a{number}" for number in range(30)]
    world = open_world("alice", *crowd)
    world.turn()  # opens the outboxes
    world.box("alice").send_many("all", range(20))
    before = len(os.listdir("/proc/self/fd"))
    most = [0]
    real = batch.DeliveryBatch.stage

    def count(self: Any, *arguments: Any) -> None:
        real(self, *arguments)
        most[0] = max(most[0], len(os.listdir("/proc/self/fd")))

    monkeypatch.setattr(batch.DeliveryBatch, "stage", count)
    world.turn()

    assert most[0] - before < 30 * 3 + 20
    assert all(world.got(name) == list(range(20)) for name in crowd)


def test_an_agent_without_a_volume_is_no_trouble_to_others(open_world: OpenWorld) -> None:
    """It may come later."""
    world = open_world()
    os.rename(world.place / "carol", world.place / "later")
    world.box("alice").send("bob", 1)
    world.box("alice").send("carol", 2)
    world.turn()
    assert world.got("bob") == [1]
    os.rename(world.place / "later", world.place / "carol")
    world.turn()

    assert world.got("carol") == [2]


def test_two_paths_to_one_volume_are_one_volume(open_world: OpenWorld) -> None:
    """A link is not seen in the policy: the relay does not begin, or does not take it."""
    world = open_world()
    (world.place / "dora").symlink_to(world.place / "alice")
    world.agents = ("alice", "bob", "dora")
    world.relay.reload()
    world.box("alice").send("bob", 1)
    world.turn()
    assert world.got("bob") == [1]
    assert "alice and dora have one volume" in world.records("policy-refused")[0]["why"]
    world.relay.close()

    with pytest.raises(InvalidPolicyError, match="alice and dora have one volume"):
        world.new_relay().run()


def test_volumes_may_be_shared_by_agents_with_uids_of_their_own(tmp_path: Path, as_root: None) -> None:
    """Then the outbox is theirs by its mode, and the file by its owner."""
    volume = init_root(tmp_path / "team")
    for name, uid in (("alice", 2001), ("bob", 2002)):
        create_box(volume.box(Address(name)), (uid, uid), outbox=True)
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
    world = Relay(parse_policy(text), AuditLog(str(tmp_path / "audit"), SIGNER), seal.verify)
    world.start()
    world.turn()
    world.close()
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
        create_box(volume.box(Address(name)), (uid, uid), outbox=True)
        text += f'[agents.{name}]\nvolume = "{volume.path}"\nuid = {uid}\n'
    for number, to in enumerate(("bob", "team:team", "all")):
        path = tmp_path / f"alice/alice/outbox/{number}.json"
        path.write_text(json.dumps({"to": to, "body": number}))
        os.chown(path, 2001, 2001)
    world = Relay(parse_policy(text), AuditLog(str(tmp_path / "audit"), SIGNER), seal.verify)
    world.start()
    world.turn()
    world.close()
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


def test_mail_that_is_refused_uses_the_quota(open_world: OpenWorld) -> None:
    """To refuse is work, too. It counts also after the relay was started anew."""
    world = open_world(rules='[[allow]]\nfrom = "alice"\nto = "bob"\n', limits='quota = "4/d"\n')
    world.box("alice").send_many("carol", range(2))
    world.turn()
    world.restart()
    world.drop("alice", "junk.json", "{")
    os.utime(world.folder("alice", "outbox") / "junk.json", (0, 0))
    world.box("alice").send_many("bob", range(3))
    world.turn()

    assert world.got("bob") == [0, 1]
    assert (
        world.back("alice").count("the relay did not carry it to bob: alice has used up its quota of 4/d messages") == 1
    )


def test_refusals_are_thinned_out_in_the_record_and_counted(open_world: OpenWorld) -> None:
    """An agent can be refused as often as it likes, and the log is never deleted. None is left uncounted."""
    world = open_world(rules='[[allow]]\nfrom = "bob"\nto = "*"\n', limits='rate = "none"\n')
    world.box("alice").send_many("bob", range(300))
    world.turn()
    before = world.records("refuse")
    world.box("carol").send("bob", "only one")
    world.turn()
    world.restart()
    after = world.records("refuse")

    assert len(before) == 100
    assert all("count" not in record for record in before)
    assert [(record["from"], record.get("count", 1)) for record in after[100:]] == [("carol", 1), ("alice", 200)]
    assert len(world.back("alice")) == 300
    assert world.is_sound()


def test_left_out_refusals_are_recorded_as_soon_as_the_rate_allows(open_world: OpenWorld) -> None:
    """Once a minute, with the next refusal, or without."""
    limits = RelayLimits(record_bursts={"refuse": 1, "bounce": 1, "defer": 1})
    world = open_world(rules='[[allow]]\nfrom = "bob"\nto = "*"\n', relay_limits=limits)
    world.box("alice").send_many("bob", range(3))
    world.relay.turn()
    world.clock.advance(61)
    world.relay.turn()
    world.box("alice").send_many("bob", range(2))
    world.relay.turn()
    world.clock.advance(61)
    world.box("alice").send("bob", "!")
    world.relay.turn()

    assert [record.get("count", 1) for record in world.records("refuse")] == [1, 2, 3]


def test_only_so_many_answers_to_one_message_are_carried(open_world: OpenWorld) -> None:
    """`reply_only` is no open door: the policy says how many. They are counted also by the next relay."""
    world = open_world(rules=RULES.replace("reply_only = true", "reply_only = true\nanswers = 3"))
    id = world.box("alice").send("bob", "?", type="job")
    world.turn()
    world.box("bob").send_many("alice", range(2), in_reply_to=id)
    world.turn()
    world.restart()
    world.box("bob").send_many("alice", range(2, 6), in_reply_to=id)
    world.turn()

    assert world.got("alice") == [0, 1, 2]
    assert (
        world.back("bob")
        == ["the relay did not carry it to alice: answers allows 3 replies to one message, and it has had them"] * 3
    )


def test_without_a_word_on_it_sixteen_answers_are_carried(open_world: OpenWorld) -> None:
    world = open_world(rules=RULES)
    id = world.box("alice").send("bob", "?", type="job")
    world.turn()
    world.box("bob").send_many("alice", range(40), in_reply_to=id)
    world.turn()

    assert world.got("alice") == list(range(16))


def test_a_recipient_with_a_run_full_of_names_takes_little_of_the_relays_time(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in files that are opened: the ring for one recipient is everybody's wait."""
    world = open_world()
    run = world.folder("bob", "run")
    for n in range(5000):
        (run / f"link{n}").symlink_to("nowhere")
    world.box("alice").send("bob", 1)
    opened: list[object] = []
    real = os.open

    def counting(path: Any, *arguments: Any, **settings: Any) -> int:
        opened.append(path)
        return real(path, *arguments, **settings)

    monkeypatch.setattr(os, "open", counting)
    world.turn()
    monkeypatch.undo()

    assert world.got("bob") == [1]
    assert len(opened) < 150


def test_a_sender_that_takes_back_what_waits_does_not_fill_the_memory(open_world: OpenWorld) -> None:
    """Again and again: since when it waits, and who has refused it, is kept of so many."""
    limits = RelayLimits(deferred_times=5, kept_refusals=5)
    rules = '[groups]\nothers = ["bob", "carol"]\n[[allow]]\nfrom = "alice"\nto = "bob"\n'
    world = open_world(rules=rules, relay_limits=limits)
    world.folder("bob", "new").rename(world.folder("bob", "old"))
    for n in range(12):
        path = world.drop("alice", f"{new_id()}.json", json.dumps({"to": "team:others", "body": n}))
        world.turn()
        for left in world.folder("alice", "outbox").iterdir():
            left.unlink()
        assert not path.exists()

    assert len(world.relay.state.accepted.deferred_since) == 5
    assert len(world.relay.state.kept_refusals) == 5


def test_a_box_that_is_kept_nearly_full_is_not_counted_at_every_message(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner takes one out for each that comes, and all others wait while ten thousand are counted."""
    counted: list[int] = []
    world = open_world()

    def slow(inbox: Inbox, limit: int) -> int:
        counted.append(limit)
        world.clock.advance(0.5)  # so it is not counted again for ten seconds
        return limit - 1

    monkeypatch.setattr(Inbox, "backlog", slow)
    for n in range(4):
        world.box("alice").send("bob", n)
        world.relay.turn()
        world.clock.advance(1.0)

    assert len(counted) == 1
    assert world.got("bob") == [0]
    assert len(world.left("alice")) == 3
