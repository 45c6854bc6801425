"""What a claim becomes, and how a message ends; and many consumers on one box."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from filemailbox import InvalidRequestError, Mailbox, Message, NotClaimedError, Reject, Retry, TooManyHopsError
from filemailbox.format.envelope import MAX_HOPS
from filemailbox.format.filename import TIMESTAMP_LENGTH, is_id
from filemailbox.format.timestamp import to_nanoseconds, to_timestamp
from support.waiting import Until

ID = "20200101T000000.000000000Z-00000000000a"


@dataclass
class Job:
    path: str
    times: int = 1


class Order(BaseModel):
    count: int = Field(ge=1)


def take(box: Mailbox, into: Any = None) -> Message[Any]:
    message = box.receive(into=into)
    assert message is not None
    return message


def files(root: Path, folder: str) -> list[str]:
    return sorted(path.name for path in (root / "bob" / folder).rglob("*.json"))


def dead(box: Mailbox) -> dict[str, str | None]:
    return {message.id: message.problem for message in box.peek("dead")}


def why(root: Path, id: str) -> str:
    return next((root / "bob/dead").glob(f"{id}*.why")).read_text()


def put(root: Path, text: str, name: str = "x.json") -> None:
    """Drop a file as a script does."""
    (root / "bob/new" / name).write_text(text)


# How a message ends


def test_an_acked_message_is_gone(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """From everywhere; it does not come back to another consumer either."""
    alice.send("bob")
    take(bob).ack()
    with Mailbox("bob", root) as other:
        again = other.receive()

    assert again is None
    assert [files(root, folder) for folder in ("new", "cur", "later", "dead", "done")] == [[]] * 5


def test_a_retried_message_comes_back_when_it_is_due(
    alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before; as attempt 2, under the same id; the attempt is counted in the file's name."""
    id = alice.send("bob", "x")
    take(bob).retry(delay=60)
    early = bob.receive()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 60 * 10**9)
    again = take(bob)

    assert early is None
    assert (again.id, again.body, again.attempt) == (id, "x", 2)
    assert ",A=2" in again.name


@pytest.mark.parametrize("after", [0, 0.0, timedelta(0), -5], ids=str)
def test_a_retry_without_delay_comes_back_at_once(alice: Mailbox, bob: Mailbox, after: Any) -> None:
    """Also where the time is past already."""
    alice.send("bob")
    take(bob).retry(delay=after)

    assert take(bob).attempt == 2


def test_a_retry_as_far_as_time_goes_is_kept(alice: Mailbox, bob: Mailbox) -> None:
    """Longer than the calendar: the last moment that a name can hold."""
    alice.send("bob")
    take(bob).retry(delay=1e12)

    assert bob.receive() is None
    assert [message.due.year for message in bob.peek("later") if message.due] == [9999]


def test_too_many_attempts_make_a_dead_letter_with_the_last_reason(root: Path, alice: Mailbox) -> None:
    """The traceback of the last failure lies beside it; the file is untouched."""
    id = alice.send("bob", "x")
    with Mailbox("bob", root, max_attempts=3, retry_delay=0.0, max_retry_delay=0.0) as bob:
        for n in range(3):
            with pytest.raises(ZeroDivisionError), take(bob) as message:
                raise ZeroDivisionError(f"failure {n + 1}")
        nothing = bob.receive()
        said = dead(bob)

    assert message.attempt == 3
    assert nothing is None
    assert said == {id: "ZeroDivisionError: failure 3 (attempt 3 of 3)"}
    assert 'raise ZeroDivisionError(f"failure {n + 1}")' in why(root, id)


def test_a_message_whose_takers_all_died_is_a_dead_letter(root: Path, bob: Mailbox) -> None:
    """It may be what kills them: taken ten times, settled never."""
    folder = root / "bob/cur/aaaaaaaaaaaa"
    folder.mkdir()
    (folder / f"{ID},S=2,A=10.json").write_text("{}")

    assert bob.receive() is None
    assert list(dead(bob)) == [ID]
    assert "10 times" in (dead(bob)[ID] or "")


def test_the_wait_before_an_attempt_grows_and_is_capped(root: Path, alice: Mailbox) -> None:
    """Doubled each time, up to half taken off by chance, never longer than the cap."""
    alice.send("bob")
    waits = []
    with Mailbox("bob", root, max_attempts=9, retry_delay=2.0, max_retry_delay=20.0) as bob:
        for _ in range(6):
            take(bob).retry()
            (path,) = (root / "bob/later").iterdir()
            waits.append((to_nanoseconds(path.name[:TIMESTAMP_LENGTH]) - time.time_ns()) / 1e9)
            path.rename(path.with_name(f"{to_timestamp(0)}~{path.name.split('~')[1]}"))
            bob.close()  # it looks into later/ anew
    longest = [min(20.0, 2.0 * 2**n) for n in range(6)]

    assert all(most / 2 - 1 < wait <= most for wait, most in zip(waits, longest, strict=True))


def test_a_rejected_message_is_a_dead_letter_untouched_with_the_reason(
    root: Path, alice: Mailbox, bob: Mailbox
) -> None:
    """NAME.json and, beside it, NAME.why: the reason, then the detail."""
    id = alice.send("bob", "x")
    raw = next((root / "bob/new").iterdir()).read_bytes()
    take(bob).reject("cannot be built", "line 1\nline 2\n")

    assert dead(bob) == {id: "cannot be built"}
    assert (root / "bob/dead" / files(root, "dead")[0]).read_bytes() == raw
    assert why(root, id) == "cannot be built\n\nline 1\nline 2\n"


def test_a_message_handed_back_comes_again_uncounted(alice: Mailbox, bob: Mailbox) -> None:
    """At once, as the attempt that it was."""
    id = alice.send("bob")
    take(bob).retry(delay=0)
    second = take(bob)
    second.release()
    again = take(bob)

    assert (again.id, again.attempt, second.attempt) == (id, 2, 2)


@pytest.mark.parametrize("first", ["ack", "retry", "reject", "release"])
@pytest.mark.parametrize("second", ["ack", "retry", "reject", "release"])
def test_settling_twice_does_nothing(
    root: Path, alice: Mailbox, bob: Mailbox, caplog: pytest.LogCaptureFixture, first: str, second: str
) -> None:
    """The first word counts: also where the message came back and is in other hands by then."""
    alice.send("bob")
    message = take(bob)
    settle: dict[str, Callable[[], None]] = {
        "ack": message.ack,
        "retry": lambda: message.retry(delay=0),
        "reject": lambda: message.reject("no"),
        "release": message.release,
    }
    settle[first]()
    before = sorted((root / "bob").rglob("*.json"))
    caplog.clear()
    with caplog.at_level(logging.INFO, "filemailbox"):
        settle[second]()

    assert message.settled
    assert sorted((root / "bob").rglob("*.json")) == before
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("error", "swallowed", "state", "reason"),
    [
        pytest.param(None, True, None, None, id="clean"),
        pytest.param(Retry(delay=3600), True, "later", None, id="Retry"),
        pytest.param(Reject("never"), True, "dead", "never", id="Reject"),
        pytest.param(KeyError("k"), False, "later", None, id="error"),
        pytest.param(KeyboardInterrupt(), False, "later", None, id="KeyboardInterrupt"),
        pytest.param(SystemExit(1), False, "later", None, id="SystemExit"),
    ],
)
def test_a_with_block_settles_as_its_handler_ended(
    alice: Mailbox, bob: Mailbox, error: BaseException | None, swallowed: bool, state: str | None, reason: str | None
) -> None:
    """A clean exit acks, Retry and Reject are words to us, any other error goes on; an interrupt is not counted."""
    alice.send("bob")
    message, caught = take(bob), None
    try:
        with message:
            if error is not None:
                raise error
    except BaseException as escaped:  # noqa: BLE001  # all of them are the matter here
        caught = escaped
    left = list(bob.peek("new", "cur", "later", "dead"))

    assert caught is (None if swallowed else error)
    assert [seen.state for seen in left] == ([state] if state else [])
    assert [seen.problem for seen in left] == ([reason] if state else [])
    counted = isinstance(error, Exception) and state == "later"
    assert [seen.attempt for seen in left] == ([2 if counted else 1] if state else [])


def test_a_with_block_that_settled_by_itself_is_left_alone(alice: Mailbox, bob: Mailbox) -> None:
    """The first word counts."""
    alice.send("bob")
    with take(bob) as message:
        message.reject("no")

    assert len(dead(bob)) == 1


def test_settling_after_the_mailbox_was_closed_is_refused(alice: Mailbox, bob: Mailbox) -> None:
    """It went back: NotClaimedError, and the next consumer has it uncounted."""
    alice.send("bob")
    message = take(bob)
    bob.close()
    with pytest.raises(NotClaimedError, match="closed"):
        message.retry()
    with pytest.raises(NotClaimedError):
        message.ack()

    assert take(bob).attempt == 1


# What the envelope asks for


def test_a_message_for_later_is_kept_back(alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """after=: it is put off, uncounted, and comes when it is due; what was sent behind it comes before."""
    id = alice.send("bob", "later", delay=60)
    alice.send("bob", "now")
    first, nothing = take(bob), bob.receive()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 61 * 10**9)
    second = take(bob)

    assert (first.body, nothing) == ("now", None)
    assert (second.id, second.body, second.attempt) == (id, "later", 1)


@pytest.mark.parametrize(
    "after", [0, -5, timedelta(seconds=-1), datetime(2020, 1, 1, tzinfo=UTC)], ids=["now", "past", "span", "time"]
)
def test_a_message_for_a_time_that_is_past_comes_at_once(alice: Mailbox, bob: Mailbox, after: Any) -> None:
    """Nothing to wait for."""
    alice.send("bob", delay=after)

    assert bob.receive() is not None


def test_a_waiting_receive_wakes_for_what_comes_due(alice: Mailbox, bob: Mailbox) -> None:
    """Nobody rings for it; the consumer knows when."""
    alice.send("bob", "x", delay=0.15)
    message = bob.receive(timeout=20)

    assert message is not None
    assert message.deliver_after is not None
    assert message.deliver_after <= datetime.now(UTC)


@pytest.mark.parametrize("ttl", [0, -1, timedelta(0), datetime(2020, 1, 1, tzinfo=UTC)], ids=str)
def test_expired_mail_is_a_dead_letter_not_nothing(alice: Mailbox, bob: Mailbox, ttl: Any) -> None:
    """A person can see what came too late, and requeue it."""
    id = alice.send("bob", "x", ttl=ttl)
    nothing = bob.receive()
    said = dead(bob)
    bob.requeue(id)

    assert nothing is None
    assert (said[id] or "").startswith("it expired at ")
    assert take(bob).body == "x"


def test_mail_that_has_not_expired_is_delivered(alice: Mailbox, bob: Mailbox) -> None:
    """ttl= is a limit, not a delay."""
    alice.send("bob", "x", ttl=3600)
    message = take(bob)

    assert message.expires is not None
    assert 0 < (message.expires - datetime.now(UTC)).total_seconds() <= 3600


def test_mail_that_expires_while_it_is_retried_is_a_dead_letter(alice: Mailbox, bob: Mailbox, until: Until) -> None:
    """The time counts at each delivery."""
    id = alice.send("bob", ttl=0.2)
    take(bob).retry(delay=0)

    def expired() -> bool:
        message = bob.receive()
        if message is not None:
            message.release()
        return id in dead(bob)

    until(expired)
    assert dead(bob)[id] is not None


def test_of_the_messages_with_one_key_one_is_handled(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """Also by another consumer, also after a restart; the others are acked unseen."""
    for _ in range(3):
        alice.send("bob", "x", idempotency_key="k")
    take(bob).ack()
    second = bob.receive()
    bob.close()
    alice.send("bob", "x", idempotency_key="k")
    with Mailbox("bob", root) as other:
        third = other.receive()

    assert (second, third) == (None, None)
    assert [files(root, folder) for folder in ("new", "cur", "later", "dead")] == [[]] * 4


def test_a_key_is_a_sender_s_own(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """Another sender with the same key means another thing."""
    alice.send("bob", 1, idempotency_key="k")
    bob.send("bob", 2, idempotency_key="k")
    bodies = []
    while (message := bob.receive()) is not None:
        bodies.append(message.body)
        message.ack()

    assert bodies == [1, 2]


@pytest.mark.parametrize("end", ["retry", "reject", "hand back", "close"])
def test_a_key_counts_only_when_its_message_was_handled(alice: Mailbox, bob: Mailbox, end: str) -> None:
    """What failed may be sent again."""
    alice.send("bob", 1, idempotency_key="k")
    message = take(bob)
    ends: dict[str, Callable[[], object]] = {
        "retry": lambda: message.retry(delay=3600),
        "reject": lambda: message.reject("no"),
        "hand back": message.release,
        "close": bob.close,
    }
    ends[end]()
    alice.send("bob", 2, idempotency_key="k")

    assert take(bob).body == (1 if end in ("hand back", "close") else 2)


def test_two_copies_in_hand_at_once_may_both_run(alice: Mailbox, bob: Mailbox) -> None:
    """The limit of the promise: the key is noted at ack."""
    alice.send("bob", 1, idempotency_key="k")
    alice.send("bob", 2, idempotency_key="k")
    first, second = take(bob), take(bob)
    first.ack()
    second.ack()

    assert (first.body, second.body) == (1, 2)


def test_a_key_that_cannot_be_noted_does_not_stop_the_ack(
    root: Path, alice: Mailbox, bob: Mailbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk never stops the settling; that it may be handled twice is said."""
    alice.send("bob", idempotency_key="k")
    message = take(bob)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("filemailbox.store.ledger.Ledger.record", full)
    with caplog.at_level(logging.ERROR, "filemailbox"):
        message.ack()

    assert message.settled
    assert files(root, "cur") == []
    assert "could not be recorded as handled" in caplog.text


def test_the_keys_can_be_kept_outside_the_root(root: Path, tmp_path: Path, alice: Mailbox) -> None:
    """Where all agents share a uid, the box's own folder is anybody's."""
    (tmp_path / "ledger").mkdir()
    for _ in range(2):
        alice.send("bob", idempotency_key="k")
    with Mailbox("bob", root, ledger_dir=tmp_path / "ledger") as bob:
        take(bob).ack()
        second = bob.receive()

    assert second is None
    assert os.listdir(tmp_path / "ledger") != []
    assert os.listdir(root / "bob/ledger") == []


def test_an_answer_is_one_hop_on_and_in_the_thread(alice: Mailbox, bob: Mailbox) -> None:
    """The first message's id is the thread where none was given."""
    id = alice.send("bob")
    take(bob).reply("a")
    answer = take(alice)
    answer.reply("b")
    back = take(bob)

    assert (answer.hops, answer.thread, answer.in_reply_to) == (1, id, id)
    assert (back.hops, back.thread, back.in_reply_to) == (2, id, answer.id)


def test_answers_to_answers_end(alice: Mailbox, bob: Mailbox) -> None:
    """Two agents that thank each other: TooManyHopsError, and the message is still theirs to settle."""
    alice.send("bob")
    here, there = bob, alice
    for _ in range(MAX_HOPS):
        with take(here) as message:
            message.reply("thanks")
        here, there = there, here
    last = take(here)
    with pytest.raises(TooManyHopsError) as caught:
        last.reply("thanks")

    assert (caught.value.hops, caught.value.limit) == (MAX_HOPS + 1, MAX_HOPS)
    assert not last.settled


def test_mail_that_hopped_too_far_is_a_dead_letter(root: Path, bob: Mailbox) -> None:
    """Also where its sender did not count as we do."""
    put(root, f'{{"body":1,"hops":{MAX_HOPS + 1}}}')
    put(root, f'{{"body":2,"hops":{MAX_HOPS}}}', "y.json")

    assert take(bob).body == 2
    assert bob.receive() is None
    (reason,) = dead(bob).values()
    assert f"number {MAX_HOPS + 1} in a row" in (reason or "")


def test_a_message_from_nobody_cannot_be_answered(root: Path, bob: Mailbox) -> None:
    """It has no "from"."""
    put(root, '{"msg":"hello"}')
    with pytest.raises(InvalidRequestError, match="cannot be answered"):
        take(bob).reply()


def test_an_answer_to_foreign_mail_names_the_id_that_its_sender_knows(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """Not the id that we gave its file."""
    put(root, '{"from":"alice","id":"job-7","body":1}')
    message = take(bob)
    message.reply("done")

    assert is_id(message.id)
    assert take(alice).in_reply_to == "job-7"


def test_an_id_that_contradicts_the_name_is_a_dead_letter(root: Path, bob: Mailbox) -> None:
    """Where the name is ours, one id is a lie."""
    put(root, '{"id":"another","body":1}', f"{ID}.json")

    assert bob.receive() is None
    assert list(dead(bob)) == [ID]
    assert '"another"' in (dead(bob)[ID] or "")


# Handled mail, dead mail


def test_handled_mail_is_kept_where_retention_is_on_and_swept_when_it_is_old(
    root: Path, alice: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """done/ holds it with the time; a consumer that starts after the retention deletes it."""
    id = alice.send("bob", "x")
    with Mailbox("bob", root, retention=timedelta(hours=1)) as bob:
        take(bob).ack()
        (kept,) = bob.peek("done")
    with Mailbox("bob", root, retention=3600) as bob:
        bob.receive()
        young = files(root, "done")
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3601 * 10**9)
    with Mailbox("bob", root) as bob:  # no retention of its own: it leaves what others keep
        bob.receive()
        others = files(root, "done")
    with Mailbox("bob", root, retention=3600) as bob:
        bob.receive()

    assert (kept.id, kept.body) == (id, "x")
    assert young == others
    assert [name.split("~")[1] for name in young] == [kept.name]
    assert files(root, "done") == []


def test_a_requeued_dead_letter_is_delivered_again_from_the_first_attempt(
    root: Path, alice: Mailbox, bob: Mailbox
) -> None:
    """Under the same id, to any consumer, its attempts counted anew."""
    id = alice.send("bob", "x")
    take(bob).retry(delay=0)
    take(bob).reject("no")
    assert bob.requeue(id) == id
    again = take(bob)

    assert (again.id, again.body, again.attempt) == (id, "x", 1)
    assert ",R=1" in again.name
    again.reject("no")
    bob.requeue(id[-12:])
    assert ",R=2" in take(bob).name


def test_a_mended_dead_letter_can_be_requeued(root: Path, bob: Mailbox) -> None:
    """A person edits the file in dead/: its new size is the right one."""
    put(root, '{"body":1,"hops":"three"}', f"{ID},S=25.json")
    assert bob.receive() is None
    (root / "bob/dead" / f"{ID},S=25.json").write_text('{"body":1,"hops":3}')
    bob.requeue(ID)

    assert take(bob).hops == 3


def test_a_file_that_a_person_moved_into_dead_can_be_requeued(root: Path, bob: Mailbox) -> None:
    """Whatever its name: it gets an id of ours."""
    (root / "bob/dead/old job.json").write_text('{"n":1}')
    id = bob.requeue("old job")
    message = take(bob)

    assert (message.id, message.body) == (id, {"n": 1})


# Typed bodies


@pytest.mark.parametrize(
    ("into", "body", "expected"),
    [
        pytest.param(Job, {"path": "x.c"}, Job("x.c"), id="dataclass"),
        pytest.param(Job, {"path": "x.c", "times": 2}, Job("x.c", 2), id="dataclass, all"),
        pytest.param(Order, {"count": 3}, Order(count=3), id="pydantic"),
        pytest.param(list[int], [1, 2], [1, 2], id="list"),
        pytest.param(int | None, None, None, id="None"),
        pytest.param(dict[str, float], {"a": 1.5}, {"a": 1.5}, id="dict"),
        pytest.param(Any, {"a": 1}, {"a": 1}, id="anything"),
    ],
)
def test_a_body_comes_as_the_type_that_was_asked_for(
    alice: Mailbox, bob: Mailbox, into: Any, body: Any, expected: Any
) -> None:
    """What was sent, checked; an instance can be sent as it is."""
    alice.send("bob", body)
    alice.send("bob", expected)

    assert take(bob, into).body == expected
    assert take(bob, into).body == expected


@pytest.mark.parametrize(
    ("into", "body", "said"),
    [
        pytest.param(Job, {"times": 2}, r"its body is not Job: .*missing required field `path`", id="dataclass"),
        pytest.param(Job, {"path": 1}, r"Expected `str`, got `int` - at `\$\.path`", id="dataclass, type"),
        pytest.param(Order, {"count": 0}, r"not Order: .*greater than or equal to 1 - at `\$\.count`", id="pydantic"),
        pytest.param(list[int], ["1"], r"Expected `int`, got `str` - at `\$\[0\]`", id="list"),
        pytest.param(int, None, r"Expected `int`, got `null`", id="None"),
    ],
)
def test_a_body_of_another_type_is_a_dead_letter_with_the_validator_s_words(
    alice: Mailbox, bob: Mailbox, into: Any, body: Any, said: str
) -> None:
    """And the mail behind it is delivered."""
    import re

    id = alice.send("bob", body)
    alice.send("bob", body)

    assert bob.receive(into=into) is None
    assert re.search(said, dead(bob)[id] or "")
    assert len(dead(bob)) == 2


def test_a_mistake_of_the_program_does_not_condemn_the_message(
    alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A type that nobody can check, say: the error goes on, the message waits, its attempt is not counted."""

    def convert(body: Any, into: Any) -> Any:
        raise TypeError("bodies of that type cannot be checked")

    alice.send("bob", 1)
    with monkeypatch.context() as mistaken:
        mistaken.setattr("filemailbox.receive.receiver.convert", convert)
        with pytest.raises(TypeError):
            bob.receive(into=Job)

    assert take(bob).attempt == 1


# Many consumers


def test_two_mailboxes_on_one_box_share_its_mail(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """In one process as well: each message once, each consumer in order."""
    alice.send_many("bob", range(100))
    taken: list[list[int]] = [[], []]
    with Mailbox("bob", root) as other:
        boxes = (bob, other)
        for n in range(101):
            message = boxes[n % 2].receive()
            if message is not None:
                taken[n % 2].append(message.body)
                message.ack()

    assert sorted(taken[0] + taken[1]) == list(range(100))
    assert all(mine == sorted(mine) for mine in taken)
    assert all(taken)


def test_threads_that_share_a_new_mailbox_are_one_consumer(root: Path, alice: Mailbox) -> None:
    """Also where all of them are the first to use it."""
    alice.send_many("bob", range(200))
    for _ in range(5):
        with Mailbox("bob", root) as bob:
            ready = threading.Barrier(8)
            taken: list[Any] = []

            def take_one(bob: Mailbox = bob, ready: threading.Barrier = ready, taken: list[Any] = taken) -> None:
                ready.wait()
                taken.append(bob.receive())

            threads = [threading.Thread(target=take_one) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            held = [folder for folder in (root / "bob/cur").iterdir() if any(folder.glob("*.json"))]
        assert len({message.id for message in taken}) == 8
        assert len(held) == 1


HOLDER = """
import sys; from filemailbox import Mailbox
box = Mailbox("bob", sys.argv[1], durable=False)
message = box.receive(timeout=20); print(message.id, message.attempt, flush=True)
sys.stdin.readline()
if sys.argv[2] == "close": box.close(); print("closed", flush=True); sys.stdin.readline()
"""


def test_a_killed_holder_s_message_comes_to_another(
    root: Path, alice: Mailbox, bob: Mailbox, start: Callable[..., Any]
) -> None:
    """kill -9: the kernel frees its lock, and within a rescan another gets it, as attempt 2 under the same id."""
    id = alice.send("bob", "x")
    holder = start(HOLDER, root, "die")
    assert holder.line() == f"{id} 1"
    assert bob.receive() is None
    holder.kill()
    message = bob.receive(timeout=20)

    assert message is not None
    assert (message.id, message.body, message.attempt) == (id, "x", 2)


def test_a_stopped_holder_keeps_its_message(
    root: Path, alice: Mailbox, bob: Mailbox, start: Callable[..., Any]
) -> None:
    """It is not dead, however long it sleeps: no age is judged."""
    alice.send("bob", "x")
    holder = start(HOLDER, root, "die")
    holder.line()
    os.kill(holder.pid, signal.SIGSTOP)

    assert bob.receive(timeout=0.6) is None


def test_a_closed_holder_s_message_comes_to_another_uncounted(
    root: Path, alice: Mailbox, bob: Mailbox, start: Callable[..., Any]
) -> None:
    """It was not its fault."""
    id = alice.send("bob", "x")
    holder = start(HOLDER, root, "close")
    holder.line()
    holder.say()
    assert holder.line() == "closed"
    message = bob.receive(timeout=20)

    assert message is not None
    assert (message.id, message.attempt) == (id, 1)


def test_a_process_that_just_ends_gives_back_what_it_held(
    root: Path, alice: Mailbox, bob: Mailbox, start: Callable[..., Any]
) -> None:
    """As one more attempt: nobody told us that it was not at fault."""
    id = alice.send("bob", "x")
    holder = start(HOLDER, root, "die")
    holder.line()
    holder.say()
    assert holder.end() == 0
    message = bob.receive(timeout=20)

    assert message is not None
    assert (message.id, message.attempt) == (id, 2)


def test_a_command_that_a_holder_started_does_not_hold_for_it(
    root: Path, alice: Mailbox, bob: Mailbox, start: Callable[..., Any]
) -> None:
    """Descriptors are closed on exec: a lock does not outlive its process in a grandchild."""
    alice.send("bob", "x")
    holder = start(
        HOLDER.replace(
            "sys.stdin.readline()",
            "import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); sys.stdin.readline()",
            1,
        ),
        root,
        "die",
    )
    holder.line()
    command = int(holder.line())
    try:
        holder.kill()
        message = bob.receive(timeout=20)
    finally:
        os.kill(command, signal.SIGKILL)

    assert message is not None


# Forks

FORKER = """
import os, sys; from filemailbox import Mailbox, NotClaimedError
box = Mailbox("bob", sys.argv[1], durable=False)
message = box.receive(timeout=20)
child = os.fork()
"""


def test_a_child_is_a_writer_of_its_own(root: Path, bob: Mailbox, start: Callable[..., Any]) -> None:
    """Two processes that fork alike must not make the same ids."""
    forker = start(
        FORKER.replace("message = box.receive(timeout=20)", "box.send('bob')")
        + "box.send('bob', 'child' if child == 0 else 'parent')\n"
        "if child: os.waitpid(child, 0)",
        root,
    )
    assert forker.end() == 0
    messages = list(bob.peek())

    assert len(messages) == 3
    assert len({message.id[-12:] for message in messages}) == 2


def test_a_child_cannot_settle_its_parent_s_message(root: Path, alice: Mailbox, start: Callable[..., Any]) -> None:
    """NotClaimedError in the child; the parent still can."""
    alice.send("bob")
    forker = start(
        FORKER + "if child == 0:\n"
        "    for settle in (message.ack, message.retry, lambda: message.reject('no'), message.release):\n"
        "        try: settle()\n"
        "        except NotClaimedError: continue\n"
        "        os._exit(1)\n"
        "    os._exit(0)\n"
        "status = os.waitpid(child, 0)[1]; message.ack(); print(status, message.settled, flush=True)",
        root,
    )

    assert forker.line() == "0 True"
    assert files(root, "cur") == []


@pytest.mark.parametrize(
    "child",
    [
        pytest.param("os._exit(0)", id="exits"),
        pytest.param("sys.exit(0)", id="ends"),
        pytest.param("box.close(); os._exit(0)", id="closes"),
        pytest.param("box.receive(); os._exit(0)", id="receives"),
        pytest.param("box.receive(); box.close(); os._exit(0)", id="receives, closes"),
        pytest.param("del message, box; import gc; gc.collect(); os._exit(0)", id="forgets"),
    ],
)
def test_a_parent_s_lock_survives_its_child(
    root: Path, alice: Mailbox, bob: Mailbox, start: Callable[..., Any], child: str
) -> None:
    """Whatever the child does with what it inherited, the parent holds on to its message."""
    alice.send("bob", "x")
    forker = start(
        FORKER + f"if child == 0: {child}\nprint(os.waitpid(child, 0)[1], flush=True); sys.stdin.readline()\n"
        "message.ack()",
        root,
    )
    assert forker.line() == "0"
    meanwhile = bob.receive(timeout=0.3)
    held = files(root, "cur")
    forker.say()

    assert meanwhile is None
    assert len(held) == 1
    assert forker.end() == 0
    assert files(root, "cur") == files(root, "later") == []


def test_a_child_does_not_hold_for_its_dead_parent(
    root: Path, alice: Mailbox, bob: Mailbox, start: Callable[..., Any]
) -> None:
    """It has closed what it inherited: the parent's message comes to another although the child lives on."""
    id = alice.send("bob", "x")
    forker = start(
        FORKER + "if child == 0: sys.stdin.readline(); os._exit(0)\nprint(child, flush=True); os.waitpid(child, 0)",
        root,
    )
    child = int(forker.line())
    forker.kill()
    message = bob.receive(timeout=20)
    os.kill(child, 0)  # it lives
    os.kill(child, signal.SIGKILL)

    assert message is not None
    assert (message.id, message.attempt) == (id, 2)


def test_a_child_can_be_a_consumer_of_its_own(root: Path, alice: Mailbox, start: Callable[..., Any]) -> None:
    """In another folder of cur/, beside its parent."""
    ids = alice.send_many("bob", range(2))
    forker = start(
        FORKER + "if child == 0:\n"
        "    with box.receive(timeout=20) as mine: print(mine.id, flush=True)\n"
        "    box.close(); os._exit(0)\n"
        "os.waitpid(child, 0); message.ack(); print(message.id, flush=True)",
        root,
    )

    assert [forker.line(), forker.line()] == [ids[1], ids[0]]
    assert forker.end() == 0
    assert files(root, "cur") == files(root, "later") == files(root, "new") == []


def test_a_child_s_close_leaves_its_parent_s_bell(root: Path, start: Callable[..., Any]) -> None:
    """The bell is the parent's: it is found in run/ before and after."""
    forker = start(
        FORKER.replace("timeout=20", "timeout=0.01") + "if child == 0: box.close(); os._exit(0)\n"
        "os.waitpid(child, 0); print(*os.listdir(sys.argv[1] + '/bob/run'), flush=True)\n"
        "print(box._waker._bell.is_bound())",
        root,
    )

    assert len(forker.line().split()) == 1
    assert forker.line() == "True"
