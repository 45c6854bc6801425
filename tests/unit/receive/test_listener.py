"""Wake, claim, call back, settle: until told to stop."""

import contextlib
import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from filemailbox import BoxNotFoundError, InvalidRequestError, KeyNotFoundError, Mailbox, Message, Reject, Retry, log
from filemailbox.receive import listener as listeners
from filemailbox.wake.waker import QUIET, Waker
from support.disk import left, why
from support.waiting import Until

Run = Callable[..., "Running"]

LONG = 30.0  # seconds


class Running:
    """box.run() in a thread."""

    def __init__(self, box: Mailbox, **settings: Any) -> None:
        self.box, self.error = box, None  # type: tuple[Mailbox, BaseException | None]
        self.settings = settings
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.box.run(**self.settings)
        except BaseException as error:  # noqa: BLE001  # it is asked for below
            self.error = error

    def end(self) -> BaseException | None:
        """Stop it, and wait until it has. What it raised."""
        while self.thread.is_alive():
            self.box.stop()
            self.thread.join(0.01)
        return self.error


@pytest.fixture
def run() -> Iterator[Run]:
    """run(box): box.run() in a thread, until the test is over."""
    running: list[Running] = []

    def begin(box: Mailbox, **settings: Any) -> Running:
        running.append(Running(box, **settings))
        return running[-1]

    yield begin
    for each in running:
        each.end()


@pytest.fixture
def patient(root: Path) -> Iterator[Mailbox]:
    """Bob's mailbox, whose rescan comes too late to help."""
    with Mailbox("bob", root, durable=False, poll_interval=LONG, retry_delay=0.001, max_retry_delay=0.002) as box:
        yield box


@pytest.fixture
def quick(root: Path) -> Iterator[Mailbox]:
    """Bob's mailbox, which tries again at once."""
    with Mailbox("bob", root, durable=False, retry_delay=0.001, max_retry_delay=0.002, max_attempts=3) as box:
        yield box


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "mailbox" in thread.name]


# Handlers


def test_a_message_reaches_the_handler_of_its_type(alice: Mailbox, quick: Mailbox) -> None:
    """box.on() takes the rest; what was handled is gone."""
    got = []
    quick.on("job", "task")(lambda message: got.append(("job", message.body)))
    quick.on()(lambda message: got.append(("rest", message.body)))
    for number, kind in enumerate(("job", "news", "task", None)):
        alice.send("bob", number, type=kind)
    quick.run(drain=True)

    assert got == [("job", 0), ("rest", 1), ("job", 2), ("rest", 3)]
    assert quick.receive() is None


@dataclass
class Job:
    path: str


class Model(BaseModel):
    path: str


def test_the_annotation_decodes_the_body(alice: Mailbox, quick: Mailbox) -> None:
    """A dataclass, a pydantic model, a plain type."""
    got: list[Any] = []

    @quick.on("job")
    def job(message: Message[Job]) -> None:
        got.append(message.body)

    @quick.on("model")
    def model(message: Message[Model]) -> None:
        got.append(message.body)

    @quick.on("list")
    def numbers(message: Message[list[int]]) -> None:
        got.append(message.body)

    for kind, body in (("job", {"path": "x"}), ("model", {"path": "y"}), ("list", [1, 2])):
        alice.send("bob", body, type=kind)
    quick.run(drain=True)

    assert got == [Job("x"), Model(path="y"), [1, 2]]


def test_a_body_of_another_type_becomes_a_dead_letter(alice: Mailbox, quick: Mailbox, root: Path) -> None:
    """At once, with the reason: trying again would not help. The handler is not called."""
    called = []

    @quick.on()
    def job(message: Message[Job]) -> None:
        called.append(message)

    alice.send("bob", {"path": 7})
    quick.run(drain=True)

    assert (called, left(root)) == ([], [])
    assert "its body is not Job: Expected `str`, got `int`" in why(root)


def test_a_mismatch_of_what_a_handler_asked_for_is_not_the_messages_fault(
    alice: Mailbox, quick: Mailbox, root: Path
) -> None:
    """A handler that gets a wrong answer from a third is an exception like any other: it is tried again."""
    attempts = []

    @quick.on()
    def relay(message: Message[Any]) -> None:
        attempts.append(message.attempt)
        with pytest.raises(StopIteration):
            next(iter(()))
        from filemailbox import BodyTypeError

        raise BodyTypeError("the answer is no Job")

    alice.send("bob", 1)
    until_settled(quick, root)

    assert attempts == [1, 2, 3]


def until_settled(box: Mailbox, root: Path) -> None:
    """Run until nothing is left to try."""
    while left(root):
        box.run(drain=True)


@pytest.mark.parametrize("value", [{"built": "x"}, "", 0, False, [], Job("y")], ids=str)
def test_what_a_handler_returns_is_the_reply(alice: Mailbox, quick: Mailbox, value: Any) -> None:
    """Anything but None, in the thread of the message."""
    quick.on()(lambda message: value)
    id = alice.send("bob", "question")
    quick.run(drain=True)
    answer = alice.receive()
    assert answer is not None
    answer.ack()

    assert answer.body == (value if value.__class__ is not Job else {"path": "y"})
    assert (answer.in_reply_to, answer.thread, answer.sender) == (id, id, "bob")


def test_none_is_no_reply(alice: Mailbox, quick: Mailbox) -> None:
    """A handler that returns nothing says nothing."""
    quick.on()(lambda message: None)
    alice.send("bob", "news")
    quick.run(drain=True)

    assert (alice.receive(), quick.receive()) == (None, None)


def test_a_request_is_answered_by_what_the_handler_returns(alice: Mailbox, patient: Mailbox, run: Run) -> None:
    """Both are woken by bells alone."""
    patient.on()(lambda message: sum(message.body))
    run(patient)

    assert [alice.request("bob", [1, number], timeout=LONG).body for number in range(20)] == list(range(1, 21))


def test_who_cannot_be_answered_is_no_reason_to_handle_again(
    alice: Mailbox, quick: Mailbox, root: Path, caplog: Any
) -> None:
    """A sender without a box, without a name, or with one that is none: logged, and the message is acked."""
    called = []

    @quick.on()
    def thank(message: Message[Any]) -> str:
        called.append(message.sender)
        return "thanks"

    with Mailbox("nobody", root) as ghost:
        ghost.send("bob", 1)
    for name, sender in (("a", '"from": "No Such Name!"'), ("b", '"to": "bob"')):
        (root / f"bob/new/{name}.json").write_text("{" + sender + ', "msg": 1}')
    quick.run(drain=True)

    assert sorted(map(str, called)) == ["No Such Name!", "None", "nobody"]
    assert left(root, "new", "cur", "later", "dead") == []
    assert caplog.text.count("was not sent") == 3


def test_a_reply_that_is_no_json_is_an_error_of_the_handler(alice: Mailbox, quick: Mailbox, root: Path) -> None:
    """Tried again, and at last a dead letter that says so: the asker's question is not acked unanswered."""
    quick.on()(lambda message: object())
    alice.send("bob", 1)
    until_settled(quick, root)

    assert "cannot be written as JSON" in why(root)
    assert alice.receive() is None


def test_two_who_answer_each_other_for_ever_come_to_an_end(alice: Mailbox, quick: Mailbox, root: Path) -> None:
    """Thank you. No, thank you."""
    counts = {"alice": 0, "bob": 0}

    def thank(message: Message[Any]) -> str:
        counts[str(message.to)] += 1
        return "thank you"

    alice.on()(thank)
    quick.on()(thank)
    alice.send("bob", "hello")
    while left(root, "new") or any(True for _ in alice.peek()):
        quick.run(drain=True)
        alice.run(drain=True)

    assert counts == {"bob": 9, "alice": 8}


def test_retry_and_reject_are_honoured(alice: Mailbox, quick: Mailbox, root: Path, caplog: Any) -> None:
    """They are words, not errors: nothing is logged as one."""
    attempts = []

    @quick.on("later")
    def later(message: Message[Any]) -> None:
        attempts.append(message.attempt)
        if message.attempt == 1:
            raise Retry(delay=0)

    @quick.on("never")
    def never(message: Message[Any]) -> None:
        raise Reject("there is no such thing")

    alice.send("bob", 1, type="later")
    alice.send("bob", 1, type="never")
    until_settled(quick, root)

    assert attempts == [1, 2]
    assert why(root).splitlines() == ["there is no such thing"]
    assert "failed" not in caplog.text


def test_an_exception_is_tried_again_and_ends_as_a_dead_letter_with_its_traceback(
    alice: Mailbox, quick: Mailbox, root: Path, caplog: Any
) -> None:
    """The attempt is counted; the reason says which it was, and the traceback where."""
    attempts = []

    @quick.on()
    def fail(message: Message[Any]) -> None:
        attempts.append(message.attempt)
        raise ValueError("no such path")

    alice.send("bob", 1)
    until_settled(quick, root)

    assert attempts == [1, 2, 3]
    assert why(root).splitlines()[0] == "ValueError: no such path (attempt 3 of 3)"
    assert 'raise ValueError("no such path")' in why(root)
    assert caplog.text.count(": ValueError: no such path\nTraceback") == 3


def test_the_wait_between_attempts_grows(alice: Mailbox, root: Path) -> None:
    """Doubled each time, up to half of it taken off by chance, and never beyond the longest."""
    with Mailbox("bob", root, durable=False, retry_delay=100, max_retry_delay=300, max_attempts=9) as bob:
        bob.on()(lambda message: 1 / 0)
        alice.send("bob", 1)
        waits = []
        for _ in range(4):
            bob.run(drain=True)
            (name,) = left(root, "later")
            (message,) = bob.peek("later")
            assert message.due is not None
            waits.append(message.due.timestamp() - time.time())
            (root / "bob/later" / name).rename(root / "bob/later" / f"2020{name[4:]}")

    assert [50 - 9 <= wait <= 100 for wait in waits[:1]] == [True]
    assert 100 - 9 <= waits[1] <= 200
    assert all(150 - 9 <= wait <= 300 for wait in waits[2:])


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


def stop_iteration() -> None:
    next(iter(()))


def unprintable() -> None:
    raise Unprintable


def group() -> None:
    raise ExceptionGroup("two", [ValueError(1), TypeError("two")])


def surrogate() -> None:
    raise ValueError("\udcff")


def recursion() -> None:
    recursion()


@pytest.mark.parametrize("fail", [stop_iteration, unprintable, group, surrogate, recursion])
@pytest.mark.parametrize("workers", [1, 2])
def test_no_exception_of_a_handler_ends_the_listener(
    alice: Mailbox, root: Path, fail: Callable[[], None], workers: int
) -> None:
    """Whatever it is: its message becomes a dead letter, and the next is handled."""
    with Mailbox("bob", root, durable=False, max_attempts=1) as bob:
        got = []
        bob.on("bad")(lambda message: fail())
        bob.on()(lambda message: got.append(message.body))
        alice.send("bob", "bad", type="bad")
        alice.send("bob", "good")
        bob.run(drain=True, workers=workers)

    assert got == ["good"]
    assert len(left(root, "dead")) == 1
    assert "(attempt 1 of 1)" in why(root)


def test_a_handler_may_settle_the_message_itself(alice: Mailbox, quick: Mailbox, root: Path) -> None:
    """Then nothing more happens to it."""

    @quick.on()
    def decide(message: Message[Any]) -> None:
        message.reject("by hand")
        raise ValueError("and then this")

    alice.send("bob", 1)
    quick.run(drain=True)

    assert why(root) == "by hand\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_handler_that_takes_too_long_is_left_behind(
    alice: Mailbox, quick: Mailbox, root: Path, workers: int, until: Until
) -> None:
    """The message is tried again, and at last a dead letter. The thread cannot be ended: it runs out by itself."""
    stuck, attempts = threading.Event(), []

    @quick.on(timeout=0.01)
    def slow(message: Message[Any]) -> str:
        attempts.append(message.attempt)
        stuck.wait(LONG)
        return "too late"

    alice.send("bob", 1)
    until_settled(quick, root)
    running = threads()
    stuck.set()
    until(lambda: not threads())

    assert attempts == [1, 2, 3]
    assert len(running) == 3
    assert "the handler took longer than 0.01 s" in why(root)
    assert alice.receive() is None


def test_a_handler_within_its_time_returns_and_raises_as_any(alice: Mailbox, quick: Mailbox, root: Path) -> None:
    """Its own TimeoutError is an error like any other."""

    @quick.on("good", timeout=LONG)
    def good(message: Message[Any]) -> str:
        return "done"

    @quick.on("bad", timeout=LONG)
    def bad(message: Message[Any]) -> None:
        raise TimeoutError("no answer from carol")

    alice.send("bob", 1, type="good")
    alice.send("bob", 1, type="bad")
    until_settled(quick, root)
    answer = alice.receive()
    assert answer is not None
    answer.ack()

    assert answer.body == "done"
    assert why(root).startswith("TimeoutError: no answer from carol")


# What nobody handles


def test_types_that_nobody_handles_are_left_for_others(alice: Mailbox, quick: Mailbox, root: Path) -> None:
    """In new/ and in later/: another consumer takes them, and so does the same mailbox afterwards."""
    got: list[Any] = []
    quick.on("job")(lambda message: got.append(message.body))
    alice.send("bob", "put off", type="news")
    with Mailbox("bob", root, durable=False) as other:
        assert other.receive()  # it goes back when the box is closed
    for number in range(3):
        alice.send("bob", number, type="job")
        alice.send("bob", f"news {number}", type="news")
    alice.send("bob", "no type")
    quick.run(drain=True)
    waiting = len(left(root, "new")), len(left(root, "later"))
    rest = []
    with Mailbox("bob", root, durable=False) as other:
        while (message := other.receive()) is not None:
            rest.append(message.body)
            message.ack()

    assert got == [0, 1, 2]
    assert waiting == (4, 1)
    assert rest == ["put off", "news 0", "news 1", "news 2", "no type"]


def test_after_run_all_types_are_taken_again(alice: Mailbox, quick: Mailbox) -> None:
    """What a listener wants binds only the listener."""
    quick.on("job")(lambda message: None)
    alice.send("bob", 1, type="news")
    quick.run(drain=True)
    message = quick.receive()
    assert message is not None
    message.ack()

    assert message.type == "news"


def test_what_is_no_mail_becomes_a_dead_letter_whoever_listens(quick: Mailbox, root: Path) -> None:
    """It has no type, so nobody would ever take it."""
    quick.on("job")(lambda message: None)
    (root / "bob/new/20200101T000000.000000000Z-00000000000a,S=9.json").write_text("not json!")
    quick.run(drain=True)

    assert (len(left(root, "dead")), left(root)) == (1, [])


def test_without_handlers_there_is_nothing_to_run(quick: Mailbox) -> None:
    """A program that forgot to register them hears of it."""
    with pytest.raises(InvalidRequestError, match="no handler"):
        quick.run()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_box_that_is_not_there_is_the_callers_to_know(root: Path, workers: int) -> None:
    """At the start. Later it may come back, and is waited for."""
    with Mailbox("carol", root) as carol:
        carol.on()(print)
        with pytest.raises(BoxNotFoundError, match="carol"):
            carol.run(workers=workers)
        with pytest.raises(BoxNotFoundError, match="carol"):
            next(iter(carol))

    assert threads() == []


# Stopping


def test_stop_ends_it_from_another_thread(alice: Mailbox, patient: Mailbox, run: Run, until: Until) -> None:
    """At once: nobody waits for the rescan."""
    got: list[Any] = []
    patient.on()(lambda message: got.append(message.body))
    running = run(patient)
    alice.send("bob", 1)
    until(lambda: got)
    patient.stop()
    running.thread.join(LONG / 2)

    assert not running.thread.is_alive()
    assert running.error is None


def test_stop_ends_it_from_its_own_handler(alice: Mailbox, patient: Mailbox, root: Path) -> None:
    """When that has returned; the rest is left waiting."""
    got: list[Any] = []

    @patient.on()
    def stop(message: Message[Any]) -> None:
        got.append(message.body)
        patient.stop()

    for number in range(3):
        alice.send("bob", number)
    patient.run()

    assert got == [0]
    assert len(left(root, "new")) == 2
    assert left(root, "cur", "later") == []


@pytest.mark.parametrize("moment", ["open", "arm", "wait"])
def test_a_stop_at_any_moment_before_the_wait_is_not_lost(
    patient: Mailbox, monkeypatch: pytest.MonkeyPatch, run: Run, moment: str
) -> None:
    """It may come when run() has begun and does not sleep yet."""
    original = getattr(Waker if moment != "open" else listeners.Listener, moment)

    def stop_before(self: Any, *arguments: Any) -> Any:
        monkeypatch.undo()
        patient.stop()
        return original(self, *arguments)

    monkeypatch.setattr(Waker if moment != "open" else listeners.Listener, moment, stop_before)
    patient.on()(print)
    running = run(patient)
    running.thread.join(LONG / 2)

    assert not running.thread.is_alive()


def test_stop_ends_all_who_listen_on_a_mailbox(patient: Mailbox, until: Until) -> None:
    """Several threads may."""
    ended: list[int] = []

    def loop(number: int) -> None:
        for message in patient:
            message.ack()
        ended.append(number)

    looping = [threading.Thread(target=loop, args=(number,)) for number in range(4)]
    for thread in looping:
        thread.start()
    until(lambda: len(patient._waker._asleep) == 4)
    patient.stop()
    for thread in looping:
        thread.join(LONG / 2)

    assert sorted(ended) == [0, 1, 2, 3]


def test_stop_without_a_listener_does_nothing(alice: Mailbox, quick: Mailbox) -> None:
    """Neither now nor to the next run()."""
    got: list[Any] = []
    quick.on()(lambda message: got.append(message.body))
    quick.stop()
    alice.send("bob", 1)
    quick.run(drain=True)

    assert got == [1]


def test_run_can_be_called_again(alice: Mailbox, patient: Mailbox, run: Run, until: Until, root: Path) -> None:
    """And the second is as good as the first."""
    got: list[Any] = []
    patient.on()(lambda message: got.append(message.body))
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        running = run(patient)
        alice.send("bob", number)
        until(lambda: len(got) == number + 1)  # noqa: B023  # it is waited for before the next
        running.end()
    alice.close()

    assert got == [0, 1, 2]
    assert len(os.listdir("/proc/self/fd")) == before
    assert list((root / "bob/run").iterdir()) == []


@pytest.mark.parametrize("workers", [1, 4])
def test_nothing_is_left_behind(
    alice: Mailbox, quick: Mailbox, run: Run, root: Path, workers: int, until: Until
) -> None:
    """No thread, no descriptor, no socket or status in run/, no claim."""
    before = threading.active_count()
    quick.on()(lambda message: None)
    running = run(quick, workers=workers)
    for number in range(20):
        alice.send("bob", number)
    until(lambda: not left(root))
    running.end()

    assert threading.active_count() == before
    assert list((root / "bob/run").iterdir()) == []
    assert left(root) == []


def test_drain_ends_when_there_is_no_more(alice: Mailbox, quick: Mailbox) -> None:
    """Also what handlers send to their own box meanwhile is handled."""
    got: list[Any] = []

    @quick.on()
    def count(message: Message[int]) -> None:
        got.append(message.body)
        if message.body:
            quick.send("bob", message.body - 1)

    alice.send("bob", 5)
    quick.run(drain=True)

    assert got == [5, 4, 3, 2, 1, 0]


def test_drain_with_workers_waits_for_what_they_send(alice: Mailbox, quick: Mailbox) -> None:
    """A handler at work may make more mail: it is not empty before that has ended."""
    got: list[Any] = []

    @quick.on()
    def count(message: Message[int]) -> None:
        if message.body:
            quick.send("bob", message.body - 1)
        got.append(message.body)

    alice.send("bob", 50)
    quick.run(drain=True, workers=3)

    assert sorted(got) == list(range(51))


# Workers


def test_so_many_workers_run_at_a_time(alice: Mailbox, quick: Mailbox, root: Path) -> None:
    """All of them meet, and no more than that are claimed: nothing waits behind them that others could take."""
    together, claimed = threading.Barrier(4, timeout=LONG), []

    @quick.on()
    def meet(message: Message[Any]) -> None:
        together.wait()
        claimed.append(len(left(root, "cur")))

    for number in range(8):
        alice.send("bob", number)
    quick.run(workers=4, drain=True)

    assert len(claimed) == 8
    assert max(claimed) <= 5  # four at work, and one that waits for the first of them


def test_with_one_worker_handlers_run_in_the_calling_thread_in_order(alice: Mailbox, quick: Mailbox) -> None:
    """So they may be no friend of threads."""
    got: list[Any] = []
    quick.on()(lambda message: got.append((message.body, threading.current_thread())))
    for number in range(10):
        alice.send("bob", number)
    quick.run(drain=True)

    assert got == [(number, threading.current_thread()) for number in range(10)]


def test_stop_finishes_what_the_workers_hold(alice: Mailbox, patient: Mailbox, run: Run, until: Until) -> None:
    """It is finished, acked and answered; the rest waits."""
    entered, go = [], threading.Event()

    @patient.on()
    def work(message: Message[Any]) -> Any:
        entered.append(message.body)
        go.wait(LONG)
        return message.body

    ids = [alice.send("bob", number) for number in range(6)]
    running = run(patient, workers=3)
    until(lambda: len(entered) == 3)
    patient.stop()
    go.set()
    running.thread.join(LONG / 2)
    answers = []
    while (answer := alice.receive()) is not None:
        answer.ack()
        answers.append(answer.in_reply_to)

    assert sorted(map(str, answers)) == ids[:3]
    assert sorted(message.body for message in patient.peek()) == [3, 4, 5]


# What is no Exception


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_leaving_from_within_a_handler_hands_back_and_leaves(
    alice: Mailbox, quick: Mailbox, root: Path, kind: type[BaseException], workers: int
) -> None:
    """Ctrl-C, sys.exit(): run() raises it; the message was not handled and its attempt is not counted."""

    @quick.on()
    def leave(message: Message[Any]) -> None:
        raise kind

    alice.send("bob", 1)
    with pytest.raises(kind):
        quick.run(workers=workers)
    with Mailbox("bob", root) as other:
        message = other.receive()
        assert message is not None
        message.ack()

    assert (message.body, message.attempt) == (1, 1)
    assert threads() == []


PROGRAM = """
import os, sys, threading, time
from filemailbox import Mailbox
box = Mailbox("bob", sys.argv[1], durable=False, poll_interval=20)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

@box.on("quick")
def quick(message):
    say("handled", message.body)

@box.on("slow")
def slow(message):
    say("working")
    assert os.read(0, 6) == b"go on\\n"
    say("finished")

@box.on("stuck")
def stuck(message):
    say("stuck")
    while True:
        time.sleep(1)

say("ready")
box.run(workers=int(sys.argv[2]))
say("left", [thread.name for thread in threading.enumerate()])
"""

ASYNC_PROGRAM = PROGRAM.replace("def quick", "async def quick").replace("def stuck", "async def stuck")


@pytest.mark.parametrize("script", [PROGRAM, ASYNC_PROGRAM], ids=["threads", "asyncio"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_signal_finishes_what_is_held_and_leaves(
    alice: Mailbox, root: Path, start: Callable[..., Any], script: str, number: int, workers: int
) -> None:
    """Exit status 0, no thread, no claim: the rest waits for the next."""
    program = start(script, root, workers)
    said = [program.line()]
    alice.send("bob", 1, type="quick")
    said.append(program.line())
    for _ in range(workers + 2):
        alice.send("bob", 2, type="slow")
    said += [program.line() for _ in range(workers)]
    os.kill(program.pid, number)
    for _ in range(workers):
        program.say("go on")
    said += [program.line() for _ in range(workers)]

    assert said == ["ready", "handled 1", *["working"] * workers, *["finished"] * workers]
    assert program.line() == "left ['MainThread']"
    assert program.end() == 0
    assert (len(left(root, "new", "later")), left(root, "cur")) == (2, [])


@pytest.mark.parametrize("script", [PROGRAM, ASYNC_PROGRAM], ids=["threads", "asyncio"])
def test_a_signal_ends_one_that_only_waits(
    alice: Mailbox, start: Callable[..., Any], root: Path, script: str, until: Until
) -> None:
    """Its rescan is far away."""
    program = start(script, root, 2)
    program.line()
    alice.send("bob", 1, type="quick")
    program.line()
    os.kill(program.pid, signal.SIGTERM)

    assert program.line() == "left ['MainThread']"
    assert program.end() == 0


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "script", [PROGRAM, PROGRAM.replace('on("stuck"', 'on("stuck", timeout=60')], ids=["", "timeout"]
)
def test_a_second_signal_ends_it_at_once(
    alice: Mailbox, root: Path, start: Callable[..., Any], script: str, workers: int, until: Until
) -> None:
    """A handler that is stuck cannot hold it. What it held comes back, the attempt counted: it died with it."""
    program = start(script, root, workers)
    program.line()
    alice.send("bob", 1, type="stuck")
    program.line()
    os.kill(program.pid, signal.SIGTERM)

    def ended() -> bool:
        program.process.send_signal(signal.SIGINT)  # the first may not have come yet
        return program.process.poll() is not None

    until(ended)
    status = program.end()
    with Mailbox("bob", root) as bob:
        message = bob.receive()
        assert message is not None
        message.ack()

    assert status in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert message.attempt == 2


def test_signal_handlers_are_put_back(quick: Mailbox) -> None:
    """run() borrows them."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    during = []
    quick.on()(lambda message: during.append(signal.getsignal(signal.SIGTERM)))
    quick.send("bob", 1)
    quick.run(drain=True)

    assert during[0] not in before
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# Loops


def test_a_for_loop_gives_messages_until_stop(alice: Mailbox, patient: Mailbox) -> None:
    """Each is the loop's to settle. What it leaves unsettled is handed back at its end."""
    got = []
    for number in range(4):
        alice.send("bob", number)
    for message in patient:
        got.append(message.body)
        if message.body != 1:
            message.ack()
        if message.body == 2:
            patient.stop()

    assert got == [0, 1, 2]
    assert sorted(message.body for message in patient.peek()) == [1, 3]


def test_a_for_loop_can_be_left_and_begun_again(alice: Mailbox, patient: Mailbox) -> None:
    """break hands back what was not settled, the attempt not counted."""
    seen = []
    alice.send("bob", 1)
    for _ in range(3):
        for message in patient:
            seen.append((message.body, message.attempt))
            break

    assert seen == [(1, 1)] * 3
    assert len(list(patient.peek())) == 1


def test_a_for_loop_waits_for_what_comes(alice: Mailbox, patient: Mailbox, until: Until) -> None:
    """Woken by the bell."""
    got: list[Any] = []

    def loop() -> None:
        for message in patient:
            with message:
                got.append(message.body)

    thread = threading.Thread(target=loop)
    thread.start()
    for number in range(5):
        alice.send("bob", number)
        until(lambda: len(got) == number + 1)  # noqa: B023  # it is waited for before the next
    patient.stop()
    thread.join(LONG / 2)

    assert not thread.is_alive()


# A disk, a box, a program that fails


def test_a_box_that_goes_away_is_waited_for(
    alice: Mailbox, quick: Mailbox, root: Path, run: Run, until: Until, caplog: Any
) -> None:
    """It is told once, and told when it is back."""
    got: list[Any] = []
    quick.on()(lambda message: got.append(message.body))
    running = run(quick)
    alice.send("bob", 1)
    until(lambda: got == [1])
    shutil.rmtree(root / "bob")
    until(lambda: "mail cannot be claimed" in caplog.text)
    Mailbox.init("bob", root).close()
    alice.send("bob", 2)
    until(lambda: got == [1, 2])
    until(lambda: "can be claimed again" in caplog.text)

    assert caplog.text.count("mail cannot be claimed") == 1
    assert running.end() is None


def test_a_disk_that_fails_is_told_once_and_tried_again(
    alice: Mailbox, quick: Mailbox, run: Run, until: Until, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when what it says is no error of ours."""
    got: list[Any] = []
    quick.on()(lambda message: got.append(message.body))
    take, fails = quick._receiver.take, [3]

    def fail(*arguments: Any, **options: Any) -> Any:
        if fails[0]:
            fails[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return take(*arguments, **options)

    monkeypatch.setattr(listeners, "STORAGE_RETRY_DELAY", 0.01)
    monkeypatch.setattr(quick._receiver, "take", fail)
    run(quick)
    alice.send("bob", 1)
    until(lambda: got == [1])

    assert caplog.text.count("mail cannot be claimed") == 1


STARVING = """
import os, resource, sys, threading
from filemailbox import Mailbox
box = Mailbox("bob", sys.argv[1], durable=False)
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
files = []

def feed():
    sys.stdin.readline()
    while files:
        os.close(files.pop())

@box.on()
def handle(message):
    print("got", message.body)
    if message.body == "starve":
        threading.Thread(target=feed, daemon=True).start()
        try:
            while True:
                files.append(os.dup(0))
        except OSError as error:
            print(error.strerror)

print("ready")
box.run()
"""


def test_a_program_out_of_descriptors_condemns_no_mail(
    alice: Mailbox, root: Path, start: Callable[..., Any], until: Until
) -> None:
    """Our own trouble: mail waits until it is over."""
    program = start(STARVING, root)
    said = [program.line()]
    alice.send("bob", "starve")
    said += [program.line(), program.line()]
    alice.send("bob", "later")
    before = left(root, "new")
    program.say()
    said.append(program.line())

    assert said == ["ready", "got starve", os.strerror(errno.EMFILE), "got later"]
    assert len(before) == 1
    assert left(root, "dead") == []


def test_what_cannot_be_settled_is_handed_back_at_the_end(
    alice: Mailbox, quick: Mailbox, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """A disk that refuses is no reason to end, and the message is not lost."""

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    got = []

    @quick.on()
    def handle(message: Message[Any]) -> None:
        got.append(message.body)
        if message.body == 1:
            monkeypatch.setattr(quick._receiver, "ack", refuse)
            monkeypatch.setattr(quick._receiver, "retry", refuse)
        else:
            monkeypatch.undo()

    alice.send("bob", 1)
    alice.send("bob", 2)
    quick.run(drain=True)

    assert got == [1, 2]
    assert "could not be settled" in caplog.text
    assert [message.body for message in quick.peek()] == [1]


FORKING = """
import os, sys
from filemailbox import Mailbox
box = Mailbox("bob", sys.argv[1], durable=False)
got = []

@box.on()
def handle(message):
    got.append(message.body)
    if message.body == "fork":
        box.send("bob", "for whom")
        if (child := os.fork()) == 0:
            box.run(drain=True)
            os._exit(0 if got == ["fork", "for whom"] else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

box.send("bob", "fork")
box.run(drain=True)
print(got)
"""


def test_a_mailbox_is_used_in_the_child_of_a_fork(root: Path, start: Callable[..., Any]) -> None:
    """It begins anew there: it takes what waits, and what the parent holds stays with the parent."""
    program = start(FORKING, root)

    assert (program.line(), program.line(), program.end()) == ("0", "['fork']", 0)
    assert left(root, "new", "cur", "later", "dead") == []


def test_mail_of_a_killed_consumer_comes_to_the_others(
    alice: Mailbox, quick: Mailbox, root: Path, start: Callable[..., Any], run: Run, until: Until
) -> None:
    """Within a rescan: nothing announces a death."""
    program = start(PROGRAM, root, 1)
    program.line()
    alice.send("bob", "orphan", type="stuck")
    program.line()
    got: list[Any] = []
    quick.on()(lambda message: got.append((message.body, message.attempt)))
    run(quick)
    program.kill()
    until(lambda: got)

    assert got == [("orphan", 2)]


def test_deferred_mail_comes_when_it_is_due(alice: Mailbox, patient: Mailbox, run: Run, until: Until) -> None:
    """The wait ends then, not at the rescan."""
    got: list[Any] = []
    patient.on()(lambda message: got.append(message.body))
    run(patient)
    alice.send("bob", "later", delay=0.2)
    until(lambda: got)

    assert got == ["later"]


# What it counts


def test_announced_and_missed_are_counted(
    alice: Mailbox, quick: Mailbox, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mail that only the rescan finds, although it has lain for a while, is a notification that never came."""

    def lie() -> None:
        """A file that was there long before."""
        draft = root / "bob/tmp/old"
        draft.write_text("{}")
        os.utime(draft, (1, 1))
        draft.rename(root / f"bob/new/{time.monotonic_ns()}.json")

    steps: list[tuple[str, Callable[[], object]]] = [
        ("bell", lambda: alice.send("bob", 1)),
        ("watch", lie),
        ("poke", lambda: None),
        ("timer", lie),
        ("timer", lie),
    ]

    def sleep(seconds: float, heard: int, *, deaf: bool) -> str:
        counts.append((listener.announced, listener.missed))
        source, arrive = steps.pop(0)
        arrive()
        return source

    monkeypatch.setattr(quick._waker, "_sleep", sleep)
    monkeypatch.setattr(quick._waker, "note_polled", lambda late: late)  # as with a watch that announces nothing
    counts: list[tuple[int, int]] = []
    with quick.listening() as listener, contextlib.closing(listener.messages()) as messages:
        for message in itertools.islice(messages, 4):
            message.ack()

    assert counts == [(0, 0), (1, 0), (2, 0), (2, 0), (2, 1)]
    assert (listener.announced, listener.missed) == (2, 2)


def test_what_was_put_off_was_not_missed(alice: Mailbox, root: Path) -> None:
    """Nobody announces that it has come due: neither deferred mail, nor what was handed back or tried again."""
    back = 0
    with Mailbox("bob", root, durable=False, poll_interval=0.05) as bob, bob.listening() as listener:
        messages = listener.messages()
        alice.send("bob", "deferred", delay=0.3)
        alice.send("bob", "back")
        for message in messages:
            if message.body == "back" and message.attempt == 1 and not back:
                back += 1
                message.release(0.3)
            elif message.body == "back" and back == 1:
                back += 1
                message.retry(0.3)
            else:
                message.ack()
                if not left(root):
                    listener.stop()

    assert (listener.announced, listener.missed) == (1, 0)


@pytest.mark.parametrize("flood", ["bell", "watch"])
def test_a_flood_does_not_hold_up_mail_and_costs_few_looks(
    alice: Mailbox, patient: Mailbox, run: Run, until: Until, root: Path, flood: str
) -> None:
    """Looks are counted, not time. Whoever may write into a box may make it ring."""
    got: list[Any] = []
    looks, over = [0], threading.Event()
    patient.on()(lambda message: got.append(message.body))
    arm = patient._waker.arm

    def counted() -> int:
        looks[0] += 1
        return arm()

    patient._waker.arm = counted  # type: ignore[method-assign]
    run(patient)
    alice.send("bob", -1)
    until(lambda: got)

    def ring() -> None:
        while not over.is_set():
            alice._ringer.ring("bob") if flood == "bell" else os.utime(root / "bob/new")

    thread = threading.Thread(target=ring)
    began, looks[0] = time.monotonic(), 0
    thread.start()
    for number in range(20):
        alice.send("bob", number)
        until(lambda: len(got) == number + 2)  # noqa: B023  # it is waited for before the next
    until(lambda: time.monotonic() - began > 0.3)
    seen, took = looks[0], time.monotonic() - began
    over.set()
    thread.join()

    assert seen <= 5 * (took / QUIET + 20) + 10


def test_the_random_end_of_handlers_leaves_nothing_behind(alice: Mailbox, quick: Mailbox, root: Path) -> None:
    """Whatever mixture of ends: each message is handled, a dead letter, or both never."""
    chance = random.Random(5)
    ended: dict[Any, int] = {}

    @quick.on()
    def handle(message: Message[Any]) -> Any:
        ended[message.body] = message.attempt
        raise_or_return = chance.randrange(5)
        if raise_or_return == 0:
            raise ValueError
        if raise_or_return == 1:
            raise Retry(delay=0.001)
        if raise_or_return == 2:
            raise Reject("no")
        return "yes" if raise_or_return == 3 else None

    for number in range(60):
        alice.send("bob", number)
    while left(root):
        quick.run(drain=True, workers=4)
    answers = 0
    while (answer := alice.receive()) is not None:
        answer.ack()
        answers += 1

    assert sorted(ended) == list(range(60))
    assert 0 < len(left(root, "dead")) < 60 - answers < 60
    with contextlib.suppress(FileNotFoundError):
        assert left(root, "tmp") == []


def test_the_log_is_silent_when_all_goes_well(alice: Mailbox, quick: Mailbox, caplog: Any) -> None:
    """Nothing is said of a message that was handled."""
    caplog.set_level("DEBUG", logger="filemailbox")
    quick.on()(lambda message: "reply")
    alice.send("bob", 1)
    quick.run(drain=True)
    log.info("after")

    assert [record.getMessage() for record in caplog.records if record.name == "filemailbox"][1:] == ["after"]


SILENT = """
import sys
from filemailbox import Mailbox
box = Mailbox("bob", sys.argv[1], max_attempts=1)
@box.on
def fail(message):
    raise ValueError("no such path")
box.run(drain=True)
"""


def test_run_without_logging_reports_its_start_and_each_failure(alice: Mailbox, root: Path) -> None:
    """On standard error, with the traceback at once."""
    Mailbox.init("bob", root).close()
    id = alice.send("bob", 1)
    ran = subprocess.run([sys.executable, "-c", SILENT, str(root)], capture_output=True, text=True, check=True)
    first, failed, *_ = ran.stderr.splitlines()

    assert all(fact in first for fact in ("box bob", str(root), "1 worker"))
    assert id in failed
    assert 'raise ValueError("no such path")' not in first
    assert "ValueError: no such path" in ran.stderr.partition("Traceback")[2]


def test_run_leaves_logging_alone_that_the_program_has_configured(alice: Mailbox, root: Path) -> None:
    """A handler of its own, on the root or on our logger, is the only one."""
    Mailbox.init("bob", root).close()
    alice.send("bob", 1)
    configured = "import logging\nlogging.basicConfig(level=logging.CRITICAL)\n" + SILENT
    ran = subprocess.run([sys.executable, "-c", configured, str(root)], capture_output=True, text=True, check=True)

    assert ran.stderr == ""


def test_a_record_of_the_log_has_its_facts_as_fields(alice: Mailbox, quick: Mailbox, root: Path, caplog: Any) -> None:
    """For logs in JSON: the event, the box, the id, the attempt, the consumer."""
    caplog.set_level("INFO", logger="filemailbox")
    quick.on()(lambda message: 1 / 0)
    id = alice.send("bob", 1)
    until_settled(quick, root)
    found = [record.mailbox for record in caplog.records if record.mailbox.get("event")]

    assert [(each["event"], each["box"]) for each in found][:3] == [
        ("started", "bob"), ("failed", "bob"), ("retry", "bob"),
    ]  # fmt: skip
    assert (found[1]["id"], found[1]["attempt"]) == (id, 1)
    assert found[1]["consumer"]
    assert (found[-1]["event"], found[-1]["id"]) == ("dead", id)


def test_a_listener_without_the_key_of_its_box_ends(alice: Mailbox, root: Path) -> None:
    """Its configuration is wrong: waiting would not help, and the mail is left."""
    Mailbox.init("bob", root).close()
    (root / "bob/settings.json").write_text('{"keys":true}')
    (root / "bob/new/x.json").write_text('{"v":1,"sealed":{"alg":"mbx1"}}')
    with Mailbox("bob", root) as bob:
        bob.on()(lambda message: None)
        with pytest.raises(KeyNotFoundError):
            bob.run()
        states = [message.state for message in bob.peek("new", "later", "cur", "dead")]

    assert states == ["later"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_drain_can_wait_for_retries(alice: Mailbox, quick: Mailbox, workers: int) -> None:
    """Not for mail that is scheduled for later."""
    alice.send("bob", "fails twice")
    alice.send("bob", "tomorrow", delay=86400)
    attempts = []

    @quick.on
    def handle(message: Message[Any]) -> None:
        attempts.append(message.attempt)
        if message.attempt < 3:
            raise Retry(delay=0.05)

    quick.run(drain=True, retries=True, workers=workers)

    assert attempts == [1, 2, 3]
    assert [message.body for message in quick.peek()] == ["tomorrow"]


def test_a_drain_leaves_retries_to_the_next_one(alice: Mailbox, quick: Mailbox) -> None:
    """By default."""
    alice.send("bob", "fails")

    @quick.on
    def handle(message: Message[Any]) -> None:
        raise Retry(delay=3600)

    quick.run(drain=True)

    assert [message.attempt for message in quick.peek()] == [2]
