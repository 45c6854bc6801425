"""Mailbox: the face that users see; and its forms for asyncio."""

import asyncio
import gc
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from filemailbox import (
    BodyTypeError,
    BoxNotFoundError,
    DiskFullError,
    InvalidAddressError,
    InvalidBodyError,
    InvalidRequestError,
    Mailbox,
    Message,
    MessageNotFoundError,
    Reject,
    Retry,
    RootNotFoundError,
)
from filemailbox.receive.receiver import Receiver
from filemailbox.store.ids import new_id
from support.waiting import Until


@dataclass
class Job:
    path: str


def files(root: Path, folder: str, box: str = "bob") -> list[str]:
    return sorted(path.name for path in (root / box / folder).rglob("*.json"))


def take(box: Mailbox, timeout: float = 0) -> Message[Any]:
    message = box.receive(timeout=timeout)
    assert message is not None
    return message


# Opening


def test_a_mailbox_is_named_by_its_arguments_or_by_the_environment(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MAILBOX_AGENT and MAILBOX_ROOT say who and where, and an argument overrules them."""
    monkeypatch.setenv("MAILBOX_AGENT", "bob")
    monkeypatch.setenv("MAILBOX_ROOT", str(root))
    with Mailbox() as one, Mailbox("alice") as two:
        said = (one.name, one.root.path, two.name)
    monkeypatch.setenv("MAILBOX_ROOT", str(tmp_path / "nowhere"))
    with Mailbox(root=root) as three:
        said_also = three.name

    assert said == ("bob", str(root), "alice")
    assert said_also == "bob"


def test_a_mailbox_without_a_name_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No guess from the host or the user: they are the same in many containers."""
    monkeypatch.delenv("MAILBOX_AGENT", raising=False)

    with pytest.raises(InvalidRequestError, match="no agent is named"):
        Mailbox(root=root)


@pytest.mark.parametrize("name", ["", "Bob", "a/b", "..", ".bob", "team:", "team:a/b", "a" * 65, "bob\n"])
def test_what_cannot_be_an_address_is_refused(root: Path, alice: Mailbox, name: str) -> None:
    """As one's own name and as a recipient, before any path is made of it."""
    with pytest.raises(InvalidAddressError):
        Mailbox(name or "?", root)
    with pytest.raises(InvalidAddressError):
        alice.send(name)
    with pytest.raises(InvalidAddressError):
        alice.send_many(name, [])


def test_a_folder_that_is_no_root_is_refused(tmp_path: Path) -> None:
    """RootNotFoundError at once, not at the first send."""
    with pytest.raises(RootNotFoundError):
        Mailbox("bob", tmp_path)


def test_init_makes_the_root_and_the_box_and_opens_both_again(tmp_path: Path) -> None:
    """Made before: just open it, with what is in it."""
    with Mailbox.init("bob", tmp_path / "mail", durable=False) as bob:
        bob.send("bob", "to myself")
    with Mailbox.init("bob", tmp_path / "mail") as bob:
        message = take(bob)

    assert message.body == "to myself"


def test_a_mailbox_can_be_used_again_after_close(alice: Mailbox, bob: Mailbox) -> None:
    """close() lets go of everything, and the next call takes it up."""
    alice.send("bob", 1)
    alice.close()
    bob.close()
    bob.close()
    alice.send("bob", 2)

    assert (take(bob).body, take(bob).body) == (1, 2)


def test_a_closed_mailbox_holds_no_descriptor_and_no_bell(root: Path) -> None:
    """Sent, received, waited, asked: all is let go of."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with Mailbox("alice", root) as alice, Mailbox("bob", root) as bob:
        bob.receive(timeout=0.01)
        alice.send("bob")
        bob.receive(timeout=5)
        with pytest.raises(TimeoutError):
            alice.request("bob", timeout=0.01)

    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(root / "bob/run") == os.listdir(root / "alice/run") == []


# Sending


def test_all_that_is_sent_arrives(alice: Mailbox, bob: Mailbox) -> None:
    """Each member of the envelope, as it was given."""
    expires = datetime(2999, 1, 1, tzinfo=UTC)
    id = alice.send(
        "bob", {"path": "x.c"}, type="job", subject="Please", thread="t", in_reply_to="i",
        ttl=expires, delay=-1, idempotency_key="k", headers={"traceparent": "00-1"}, hops=3,
    )  # fmt: skip
    message = take(bob)

    assert (message.id, message.sender, message.to, message.body) == (id, "alice", "bob", {"path": "x.c"})
    assert (message.type, message.subject, message.thread, message.in_reply_to) == ("job", "Please", "t", "i")
    assert (message.expires, message.idempotency_key, message.headers, message.hops) == (
        expires,
        "k",
        {"traceparent": "00-1"},
        3,
    )
    assert abs(message.sent - datetime.now(UTC)) < timedelta(minutes=1)
    assert (message.attempt, message.trust, message.settled) == (1, "none", False)


@pytest.mark.parametrize("body", [None, 0, "", [], {}, "é\u2028\x7f", [[1.5, True]], {"body": 1}], ids=repr)
def test_any_json_is_a_body(alice: Mailbox, bob: Mailbox, body: Any) -> None:
    """Also None, and also what looks like an envelope."""
    alice.send("bob", body)

    assert take(bob).body == body


@pytest.mark.parametrize(
    "body", [b"x", float("nan"), {1: 2}, 1 << 70, object()], ids=["bytes", "NaN", "key", "number", "object"]
)
def test_what_json_cannot_hold_is_refused_and_not_sent(root: Path, alice: Mailbox, body: Any) -> None:
    """InvalidBodyError, nothing is written."""
    with pytest.raises(InvalidBodyError):
        alice.send("bob", body)

    assert files(root, "new") == files(root, "tmp") == []


def test_a_message_that_is_too_large_is_refused_and_not_sent(root: Path) -> None:
    """The limit counts the bytes of the file; the error says what to do instead."""
    with Mailbox("alice", root, max_size=1000) as alice, pytest.raises(InvalidBodyError, match="limit is 1000"):
        alice.send("bob", "x" * 1000)

    assert files(root, "new") == []


@pytest.mark.parametrize("id", ["", "x", "../x", "20261124T014530.123456789Z-3f9c0a12b4d5,S=1"])
def test_an_id_that_is_not_of_our_making_is_refused(alice: Mailbox, id: str) -> None:
    """It becomes the name of a file."""
    with pytest.raises(InvalidRequestError, match="id= is"):
        alice.send("bob", id=id)


def test_many_messages_have_ids_of_their_own(alice: Mailbox) -> None:
    """id= is for one message that is sent again."""
    with pytest.raises(InvalidRequestError, match="makes its own ids"):
        alice.send_many("bob", [1, 2], id=new_id())


def test_many_messages_share_their_options(alice: Mailbox, bob: Mailbox) -> None:
    """One type, one thread for all."""
    ids = alice.send_many("bob", range(3), type="row", thread="t", ttl=60)
    messages = [take(bob) for _ in range(3)]

    assert [message.id for message in messages] == ids
    assert {(message.type, message.thread) for message in messages} == {("row", "t")}
    assert all(message.expires for message in messages)


# Receiving


def test_an_empty_box_gives_none_at_once_and_after_a_while(bob: Mailbox) -> None:
    """timeout=0 does not wait; a timeout that ends is no error."""
    assert bob.receive() is None
    assert bob.receive(timeout=0.01) is None
    assert bob.receive(timeout=-1) is None


def test_a_waiting_receive_hears_the_bell(root: Path, alice: Mailbox, until: Until) -> None:
    """It is woken by the send, not by the rescan, which we make too slow to matter."""
    with Mailbox("bob", root) as bob:
        bob._waker.span = lambda longest: 30.0  # type: ignore[method-assign]
        taken: list[Any] = []
        waiting = threading.Thread(target=lambda: taken.append(bob.receive(timeout=30)))
        waiting.start()
        until(lambda: [name for name in os.listdir(root / "bob/run") if not name.startswith(".")])
        alice.send("bob", "ding")
        waiting.join(20)
        heard = not waiting.is_alive()

    assert heard
    assert taken[0].body == "ding"


def test_mail_that_nobody_rang_for_is_found_by_the_rescan(root: Path, bob: Mailbox, until: Until) -> None:
    """A person's `mv`, a script: within a rescan."""
    taken: list[Any] = []
    waiting = threading.Thread(target=lambda: taken.append(bob.receive(timeout=20)))
    waiting.start()
    until(lambda: [name for name in os.listdir(root / "bob/run") if not name.startswith(".")])
    (root / "bob/tmp/x.json").write_text('{"a":1}')
    (root / "bob/tmp/x.json").rename(root / "bob/new/x.json")
    waiting.join()

    assert taken[0].body == {"a": 1}


def test_a_box_without_a_place_for_bells_is_heard_by_the_rescan(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """Bells are advice: everything works without."""
    (root / "bob/run").rmdir()
    sending = threading.Timer(0.05, alice.send, ("bob", "x"))
    sending.start()
    message = bob.receive(timeout=20)
    sending.join()

    assert message is not None


def test_receiving_from_a_box_that_is_not_there_is_an_error(root: Path) -> None:
    """BoxNotFoundError: one may send without a box of one's own, and not receive."""
    with Mailbox("carol", root) as carol:
        carol.send("bob")
        with pytest.raises(BoxNotFoundError, match='there is no box "carol"'):
            carol.receive()


def test_requeueing_what_is_not_dead_is_an_error(alice: Mailbox, bob: Mailbox) -> None:
    """MessageNotFoundError; the message stays as it is."""
    id = alice.send("bob")
    with pytest.raises(MessageNotFoundError):
        bob.requeue(id)

    assert take(bob).id == id


def test_a_mailbox_shows_who_and_where(root: Path, bob: Mailbox) -> None:
    """In a traceback or a log."""
    assert repr(bob) == f"Mailbox('bob', '{root}')"


# asyncio


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that flushes only when the event is set."""
    gate, real = threading.Event(), os.fsync

    def fsync(file: int) -> None:
        gate.wait(20)
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    yield gate
    gate.set()


async def event(condition: Callable[[], object]) -> None:
    """Wait in the loop for an event."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "what we waited for did not come"
        await asyncio.sleep(0.002)


def test_the_loop_runs_on_while_a_send_waits_for_the_disk(root: Path, slow_disk: threading.Event) -> None:
    """asend() flushes in a thread: another task ticks meanwhile, and opens the gate."""

    async def main() -> tuple[bool, str]:
        async with Mailbox("alice", root) as alice:
            sending = asyncio.ensure_future(alice.asend("bob", "x"))
            await event(lambda: files(root, "new"))
            for _ in range(10):
                await asyncio.sleep(0)
            stuck = not sending.done()
            slow_disk.set()
            return stuck, await sending

    stuck, id = asyncio.run(main())

    assert stuck
    assert files(root, "new")[0].startswith(id)


@pytest.mark.parametrize("call", ["asend_many", "areply", "aack"])
def test_the_loop_runs_on_while_others_wait_for_the_disk(root: Path, slow_disk: threading.Event, call: str) -> None:
    """Every form with an a before it that may flush: many messages, an answer, the key at an ack."""

    async def main() -> bool:
        async with Mailbox("alice", root) as alice, Mailbox("bob", root) as bob:
            slow_disk.set()
            await alice.asend("bob", idempotency_key="k")
            message = await bob.areceive(timeout=20)
            assert message is not None
            slow_disk.clear()
            calls: dict[str, Callable[[], Awaitable[Any]]] = {
                "asend_many": lambda: alice.asend_many("bob", range(3)),
                "areply": lambda: message.areply("x"),
                "aack": message.aack,
            }
            waiting = asyncio.ensure_future(calls[call]())
            for _ in range(50):
                await asyncio.sleep(0.001)
            stuck = not waiting.done()
            slow_disk.set()
            await waiting
            return stuck

    assert asyncio.run(main())


def test_areceive_waits_in_the_loop_and_hears_the_bell(root: Path) -> None:
    """One thread is enough: the task that sends runs in the same loop."""

    async def main() -> Any:
        async with Mailbox("alice", root, durable=False) as alice, Mailbox("bob", root) as bob:
            bob._waker.span = lambda longest: 30.0  # type: ignore[method-assign]
            receiving = asyncio.ensure_future(bob.areceive(timeout=30))
            await event(lambda: bob._waker.waiters)
            await alice.asend("bob", "ding")
            message = await asyncio.wait_for(receiving, 20)
            assert message is not None
            return message.body

    assert asyncio.run(main()) == "ding"


def test_areceive_ends_without_mail(root: Path) -> None:
    """None, as receive()."""

    async def main() -> tuple[Any, Any]:
        async with Mailbox("bob", root) as bob:
            return await bob.areceive(), await bob.areceive(timeout=0.01)

    assert asyncio.run(main()) == (None, None)


def test_areceive_decodes_and_tells_what_is_wrong(root: Path) -> None:
    """into= as with receive(); BoxNotFoundError as with receive()."""

    async def main() -> Any:
        async with Mailbox("bob", root, durable=False) as bob, Mailbox("carol", root) as carol:
            bob.send("bob", {"path": 1})
            bob.send("bob", {"path": "x.c"})
            message = await bob.areceive(into=Job)
            with pytest.raises(BoxNotFoundError):
                await carol.areceive()
            assert message is not None
            return message.body

    assert asyncio.run(main()) == Job("x.c")


def test_many_tasks_wait_on_one_mailbox(root: Path) -> None:
    """Each message goes to one of them."""

    async def main() -> list[Any]:
        async with Mailbox("alice", root, durable=False) as alice, Mailbox("bob", root) as bob:
            waiting = [asyncio.ensure_future(bob.areceive(timeout=20)) for _ in range(4)]
            await event(lambda: len(bob._waker.waiters) == 4)
            await alice.asend_many("bob", range(4))
            messages = await asyncio.gather(*waiting)
            return sorted(message.body for message in messages if message is not None)

    assert asyncio.run(main()) == [0, 1, 2, 3]


def test_a_cancelled_areceive_that_waits_takes_nothing(root: Path) -> None:
    """What comes afterwards is there for the next."""

    async def main() -> Any:
        async with Mailbox("bob", root, durable=False) as bob:
            waiting = asyncio.ensure_future(bob.areceive(timeout=None))
            await event(lambda: bob._waker.waiters)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            bob.send("bob", "x")
            return await bob.areceive()

    message = asyncio.run(main())

    assert (message.body, message.attempt) == ("x", 1)


@pytest.mark.parametrize("turns", range(9))
def test_a_cancelled_areceive_neither_loses_nor_keeps_a_message(root: Path, turns: int) -> None:
    """Wherever the cancellation falls, before, while or after the thread takes it: it is handed back, uncounted."""

    async def main() -> tuple[Any, Any]:
        with ThreadPoolExecutor(1) as one_thread:
            asyncio.get_running_loop().set_default_executor(one_thread)
            async with Mailbox("bob", root, durable=False) as bob:
                bob.send("bob", "x")
                receiving = asyncio.ensure_future(bob.areceive())
                for turn in range(turns):
                    if turn == 2:
                        one_thread.submit(str).result()  # now the thread is done, and the loop does not know it yet
                    await asyncio.sleep(0)
                receiving.cancel()
                first = (await asyncio.gather(receiving, return_exceptions=True))[0]
                one_thread.submit(str).result()
                return first, await bob.areceive()

    first, again = asyncio.run(main())

    if isinstance(first, asyncio.CancelledError):
        assert (again.body, again.attempt) == ("x", 1)
    else:
        assert (first.body, again) == ("x", None)


def test_a_cancelled_areceive_stays_cancelled_when_the_taking_failed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a thread that nobody waits for any more is nobody's, and no noise either."""
    gate, failed = threading.Event(), threading.Event()

    def fail(self: Receiver, into: Any = None) -> Any:
        gate.wait(20)
        failed.set()
        raise OSError("broken")

    monkeypatch.setattr(Receiver, "take", fail)
    noise: list[Any] = []

    async def main() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context))
        async with Mailbox("bob", root) as bob:
            receiving = asyncio.ensure_future(bob.areceive())
            await asyncio.sleep(0.01)
            receiving.cancel()
            outcome = (await asyncio.gather(receiving, return_exceptions=True))[0]
            gate.set()
            await event(failed.is_set)
            for _ in range(10):
                await asyncio.sleep(0.001)
            return outcome

    outcome = asyncio.run(main())
    gc.collect()

    assert isinstance(outcome, asyncio.CancelledError)
    assert noise == []


def test_a_hail_of_cancellations_loses_nothing(root: Path) -> None:
    """Tasks are cancelled at random while a backlog is taken: each message is handled once, none is held at the end."""

    async def main() -> list[int]:
        handled: list[int] = []
        async with Mailbox("bob", root, durable=False) as bob:
            bob.send_many("bob", range(60))

            async def worker() -> None:
                while True:
                    message = await bob.areceive(timeout=0.2)
                    if message is None:
                        return
                    handled.append(message.body)
                    message.ack()

            while len(handled) < 60:
                workers = [asyncio.ensure_future(worker()) for _ in range(3)]
                await asyncio.sleep(0.002)
                for each in workers:
                    each.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return handled

    handled = asyncio.run(main())

    assert sorted(handled) == list(range(60))
    assert [files(root, folder) for folder in ("new", "cur", "later", "dead")] == [[]] * 4


@pytest.mark.parametrize(
    ("error", "state"),
    [
        pytest.param(None, None, id="clean"),
        pytest.param(Retry(delay=3600), "later", id="Retry"),
        pytest.param(Reject("no"), "dead", id="Reject"),
        pytest.param(KeyError("k"), "later", id="error"),
        pytest.param(asyncio.CancelledError(), "later", id="cancelled"),
    ],
)
def test_an_async_with_block_settles_as_its_handler_ended(
    root: Path, error: BaseException | None, state: str | None
) -> None:
    """As the other kind; a cancellation is not the message's fault."""

    async def main() -> Any:
        async with Mailbox("bob", root, durable=False) as bob:
            await bob.asend("bob")
            message = await bob.areceive()
            assert message is not None
            try:
                async with message:
                    if error is not None:
                        raise error
            except BaseException as escaped:  # noqa: BLE001  # all of them are the matter here
                return escaped
            return None

    escaped = asyncio.run(main())
    with Mailbox("bob", root) as bob:
        left = [(seen.state, seen.attempt) for seen in bob.peek("new", "cur", "later", "dead")]

    assert escaped is (error if isinstance(error, KeyError | asyncio.CancelledError) else None)
    counted = isinstance(error, Retry | KeyError)
    assert left == ([(state, 2 if counted else 1)] if state else [])


@pytest.mark.parametrize("end", ["aack", "aretry", "areject"])
def test_the_async_forms_settle_once(root: Path, end: str) -> None:
    """aack(), aretry(), areject(): the first word counts."""

    async def main() -> list[str]:
        async with Mailbox("bob", root, durable=False) as bob:
            await bob.asend("bob")
            message = await bob.areceive()
            assert message is not None
            ends: dict[str, Callable[[], Awaitable[None]]] = {
                "aack": message.aack,
                "aretry": message.aretry,
                "areject": lambda: message.areject("no"),
            }
            await ends[end]()
            await message.aack()
            await message.aretry()
            await message.areject("no")
            return [seen.state for seen in bob.peek("new", "cur", "later", "dead")]

    assert asyncio.run(main()) == {"aack": [], "aretry": ["later"], "areject": ["dead"]}[end]


def test_arequest_returns_the_answer(root: Path) -> None:
    """Asked and answered in one loop; nothing is left."""

    async def main() -> Any:
        async with Mailbox("alice", root) as alice, Mailbox("bob", root) as bob:
            asking = asyncio.ensure_future(alice.arequest("bob", 7, timeout=20))
            request = await bob.areceive(timeout=20)
            assert request is not None
            async with request:
                await request.areply([request.body])
            return await asking

    answer = asyncio.run(main())

    assert (answer.body, answer.sender, answer.settled) == ([7], "bob", True)
    assert os.listdir(root / "alice/replies") == []


def test_arequest_times_out_and_tells_a_mismatch(root: Path) -> None:
    """As request()."""

    async def main() -> None:
        async with Mailbox("alice", root, durable=False) as alice, Mailbox("bob", root, durable=False) as bob:
            with pytest.raises(TimeoutError, match="no answer"):
                await alice.arequest("bob", timeout=0.01)
            request = await bob.areceive()
            assert request is not None
            await request.aack()
            asking = asyncio.ensure_future(alice.arequest("bob", timeout=20, into=list[int]))
            request = await bob.areceive(timeout=20)
            assert request is not None
            await request.areply("x")
            with pytest.raises(BodyTypeError):
                await asking

    asyncio.run(main())

    assert os.listdir(root / "alice/replies") == []
    assert len(files(root, "new", "alice")) == 1


def test_a_cancelled_arequest_leaves_nothing_and_loses_no_answer(root: Path) -> None:
    """Its folder is gone, its lock is free, and the answer that comes now is ordinary mail."""

    async def main() -> Any:
        async with Mailbox("alice", root, durable=False) as alice, Mailbox("bob", root, durable=False) as bob:
            asking = asyncio.ensure_future(alice.arequest("bob", timeout=None))
            request = await bob.areceive(timeout=20)
            assert request is not None
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert os.listdir(root / "alice/replies") == []
            await request.areply("late")
            return await alice.areceive(timeout=20)

    answer = asyncio.run(main())

    assert answer.body == "late"
    assert [name for name in os.listdir(root / "alice/cur") if name.startswith(".")] == []


@pytest.mark.parametrize("turns", range(0, 30, 2))
def test_an_answer_is_not_lost_to_a_cancellation(root: Path, turns: int) -> None:
    """It was returned, or it is in the box: wherever the cancellation falls."""

    async def main() -> list[Any]:
        async with Mailbox("alice", root, durable=False) as alice, Mailbox("bob", root, durable=False) as bob:
            asking = asyncio.ensure_future(alice.arequest("bob", timeout=None))
            request = await bob.areceive(timeout=20)
            assert request is not None
            request.reply("answer")
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            outcome = (await asyncio.gather(asking, return_exceptions=True))[0]
            mail = await alice.areceive(timeout=0)
            return [seen.body for seen in (outcome, mail) if isinstance(seen, Message)]

    assert asyncio.run(main()) == ["answer"]


def test_a_cancelled_asend_has_sent_or_not_and_nothing_in_between(root: Path, slow_disk: threading.Event) -> None:
    """The thread cannot be stopped: the message arrives whole, and the loop goes on."""

    async def main() -> None:
        async with Mailbox("alice", root) as alice:
            sending = asyncio.ensure_future(alice.asend("bob", "x"))
            await event(lambda: files(root, "new"))
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            slow_disk.set()

    asyncio.run(main())
    with Mailbox("bob", root) as bob:
        body = take(bob).body

    assert body == "x"
    assert files(root, "tmp") == []


def test_errors_of_a_send_reach_the_loop(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from send()."""

    def full(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        async with Mailbox("alice", root) as alice:
            with pytest.raises(BoxNotFoundError):
                await alice.asend("carol")
            with monkeypatch.context() as broken:
                broken.setattr(os, "write", full)
                with pytest.raises(DiskFullError):
                    await alice.asend("bob")

    asyncio.run(main())

    assert files(root, "new") == []


def test_several_are_received_at_once(alice: Mailbox, bob: Mailbox) -> None:
    """In order, as many as there are up to the number; each is settled by itself."""
    alice.send_many("bob", [1, 2, 3])
    first = bob.receive_many(2, into=int)
    rest = bob.receive_many(5)
    for message in (*first, *rest):
        message.ack()

    assert [[message.body for message in each] for each in (first, rest)] == [[1, 2], [3]]
    assert bob.receive_many(5) == []


def test_a_loop_over_messages_of_some_types_ends_by_its_time_out(alice: Mailbox, bob: Mailbox) -> None:
    """Bodies are checked; what does not fit is a dead letter, other types are left waiting."""
    alice.send("bob", 1, type="number")
    alice.send("bob", "one", type="number")
    alice.send("bob", "text", type="text")
    alice.send("bob", 2, type="number")
    seen = []
    for message in bob.messages(into=int, types=["number"], timeout=0.3):
        with message:
            seen.append(message.body)

    assert seen == [1, 2]
    assert [message.body for message in bob.peek("dead")] == ["one"]
    assert [message.body for message in bob.peek()] == ["text"]


def test_a_setting_that_does_not_exist_is_refused(root: Path) -> None:
    """By init() as by Mailbox(), and no box is made."""
    for make in (Mailbox, Mailbox.init):
        with pytest.raises(TypeError, match="max_atempts"):
            make("dora", root, max_atempts=3)  # type: ignore[call-arg]

    assert not (root / "dora").exists()


def test_time_outs_follow_one_rule(alice: Mailbox, bob: Mailbox) -> None:
    """0 does not wait; what may be missing is None, False or empty; what was asked for and did not come raises."""
    assert bob.receive(0) is None
    assert bob.wait(0) is False
    assert bob.receive_many(2, 0) == []
    assert list(bob.messages(timeout=0)) == []
    with pytest.raises(TimeoutError):
        alice.request("bob", timeout=0)


def test_a_message_can_wait_for_the_box_that_it_goes_to(alice: Mailbox, root: Path) -> None:
    """Services start in any order; without the option an unknown box is an error."""
    with pytest.raises(BoxNotFoundError):
        alice.send("late", 1)
    later = threading.Timer(0.2, lambda: Mailbox.init("late", root).close())
    later.start()
    try:
        id = alice.send("late", 1, wait_for_box=60)
    finally:
        later.join()

    assert [message.id for message in Mailbox("late", root).peek()] == [id]


def test_a_box_that_never_comes_is_an_error_in_the_end(alice: Mailbox) -> None:
    """And what cannot wait says so, before anything is sent."""
    with pytest.raises(BoxNotFoundError):
        alice.send("late", 1, wait_for_box=0.1)
    with pytest.raises(InvalidRequestError, match="wait_for_box"):
        alice.send_many("bob", [1], wait_for_box=1)
