"""The forms for asyncio: listening. Receiving and requesting are in test_box.py."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from filemailbox import BoxNotFoundError, Mailbox, Message, Reject, Retry
from filemailbox.receive import aio
from support.disk import left, why

T = TypeVar("T")

LONG = 30.0  # seconds


@pytest.fixture
def patient(root: Path) -> Iterator[Mailbox]:
    """Bob's mailbox, whose rescan comes too late to help."""
    with Mailbox(
        "bob", root, durable=False, poll_interval=LONG, retry_delay=0.001, max_retry_delay=0.002, max_attempts=3
    ) as box:
        yield box


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run(), with a limit."""

    async def limited() -> T:
        async with asyncio.timeout(LONG / 2):
            return await main

    return asyncio.run(limited(), debug=True)  # debug: calls from the wrong thread raise


async def eventually(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # it happens in other threads
        await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def running(box: Mailbox, **settings: Any) -> Any:
    """box.arun() beside us; stopped at the end."""
    task = asyncio.ensure_future(box.arun(**settings))
    try:
        yield task
    finally:
        while not task.done():
            box.stop()
            await asyncio.wait([task], timeout=0.02)
        if not task.cancelled():
            task.result()


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mailbox")]


@dataclass
class Job:
    path: str


# Handlers


def test_handlers_run_in_the_loop_and_plain_ones_in_threads(alice: Mailbox, patient: Mailbox, root: Path) -> None:
    """Each gets its types; what it returns is the reply."""
    where = {}

    @patient.on("async")
    async def waiting(message: Message[Job]) -> str:
        await asyncio.sleep(0)
        where["async"] = threading.current_thread()
        return message.body.path

    @patient.on()
    def plain(message: Message[Any]) -> str:
        where["plain"] = threading.current_thread()
        return "plain"

    async def main() -> list[Any]:
        alice.send("bob", Job("x.c"), type="async")
        alice.send("bob", 1)
        await patient.arun(drain=True)
        return [answer and answer.body for answer in (await alice.areceive(), await alice.areceive())]

    answers = run(main())

    assert sorted(map(str, answers)) == ["plain", "x.c"]
    assert where["async"] is threading.main_thread()
    assert where["plain"] is not threading.main_thread()
    assert left(root, "new", "later", "dead") == []


def test_run_with_coroutines_brings_its_own_loop(alice: Mailbox, patient: Mailbox) -> None:
    """A program need not know of asyncio to have async handlers."""
    got = []

    @patient.on()
    async def handle(message: Message[Any]) -> None:
        got.append(message.body)

    alice.send("bob", 1)
    patient.run(drain=True)

    assert got == [1]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def stop_iteration() -> None:
    next(iter(()))


def timed_out() -> None:
    raise TimeoutError("no answer")


def unprintable() -> None:
    raise Unprintable


def cancelled() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "plain"])
@pytest.mark.parametrize("fail", [stop_iteration, timed_out, unprintable, cancelled])
@pytest.mark.parametrize("timeout", [None, LONG], ids=["", "timeout"])
def test_no_exception_of_a_handler_ends_the_listener(
    alice: Mailbox, root: Path, fail: Callable[[], None], asynchronous: bool, timeout: float | None
) -> None:
    """Nor a CancelledError that nobody has sent us: handed back, that message would come for ever."""
    with Mailbox("bob", root, durable=False, max_attempts=1) as bob:
        got = []

        async def waiting(message: Message[Any]) -> None:
            await asyncio.sleep(0)
            fail()

        bob.on("bad", timeout=timeout)(waiting if asynchronous else lambda message: fail())
        bob.on()(lambda message: got.append(message.body))
        alice.send("bob", 1, type="bad")
        alice.send("bob", 2)
        run(bob.arun(drain=True))

    assert got == [2]
    assert "(attempt 1 of 1)" in why(root)
    assert "took longer" not in why(root)


def test_retry_reject_and_other_bodies_end_as_in_run(alice: Mailbox, patient: Mailbox, root: Path) -> None:
    """The contract is the same."""
    attempts = []

    @patient.on()
    async def handle(message: Message[Job]) -> None:
        attempts.append(message.attempt)
        if message.attempt == 1:
            raise Retry(delay=0)
        raise Reject("never")

    async def main() -> None:
        while left(root):
            await patient.arun(drain=True)

    alice.send("bob", {"path": "x"})
    alice.send("bob", {"path": 1})
    run(main())
    notes = sorted(note.read_text().splitlines()[0] for note in (root / "bob/dead").glob("*.why"))

    assert attempts == [1, 2]
    assert notes == ["its body is not Job: Expected `str`, got `int` - at `$.path`", "never"]


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "plain"])
def test_a_handler_that_takes_too_long_is_cancelled_or_left_behind(
    alice: Mailbox, patient: Mailbox, root: Path, asynchronous: bool
) -> None:
    """Either way the message is tried again, and the loop can end although a thread is stuck."""
    cancellations, stuck = [], threading.Event()

    async def sleep(message: Message[Any]) -> None:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            cancellations.append(message.attempt)
            raise

    def wait(message: Message[Any]) -> None:
        cancellations.append(message.attempt)
        stuck.wait(LONG)

    async def main() -> None:
        while left(root):
            await patient.arun(drain=True)

    patient.on(timeout=0.01)(sleep if asynchronous else wait)
    alice.send("bob", 1)
    run(main())
    stuck.set()

    assert cancellations == [1, 2, 3]
    assert why(root).startswith("TimeoutError: the handler took longer than 0.01 s")


def test_handlers_may_ask_others(alice: Mailbox, patient: Mailbox) -> None:
    """A request in a handler waits on the bell that the listener waits on, too: neither takes a ring from the other."""

    @patient.on()
    async def relay(message: Message[int]) -> int:
        answer = await patient.arequest("alice", message.body, timeout=LONG)
        number: int = answer.body
        return number

    alice.on()(lambda message: message.body * 2)

    async def main() -> list[int]:
        async with running(patient, workers=4), running(alice, workers=2):
            with Mailbox("carol", patient.root.path, durable=False, poll_interval=LONG) as carol:
                return [
                    answer.body
                    for _ in range(8)
                    for answer in await asyncio.gather(
                        *(carol.arequest("bob", number, timeout=LONG) for number in range(4))
                    )
                ]

    Mailbox.init("carol", patient.root.path).close()

    assert run(main()) == [0, 2, 4, 6] * 8


seen: contextvars.ContextVar[list[object]] = contextvars.ContextVar("seen")


def test_each_message_has_a_task_and_a_context_of_its_own(alice: Mailbox, patient: Mailbox) -> None:
    """What is set in one handler is not seen by the next; what was set around arun() is seen by all."""
    outer: list[object] = ["outer"]
    found: list[object] = []
    tasks = []

    @patient.on()
    async def handle(message: Message[Any]) -> None:
        found.append(seen.get())
        seen.set([message.body])
        tasks.append(asyncio.current_task())
        async with asyncio.timeout(LONG):
            await asyncio.sleep(0)
        assert seen.get() == [message.body]
        assert asyncio.current_task() is tasks[-1]

    async def main() -> None:
        seen.set(outer)
        await patient.arun(drain=True)
        assert seen.get() is outer

    for number in range(4):
        alice.send("bob", number)
    run(main())

    assert found == [outer] * 4
    assert len(set(tasks)) == 4


def test_when_arun_has_ended_no_task_is_left(alice: Mailbox, patient: Mailbox) -> None:
    """Nor the one that stood by for the next message: a loop that is closed after it has nothing to complain of."""
    patient.on()(lambda message: None)
    alice.send("bob", 1)
    with asyncio.Runner(debug=True) as runner:
        loop = runner.get_loop()
        loop.run_until_complete(patient.arun(drain=True))
        left = asyncio.all_tasks(loop)

    assert left == set()


def test_bodies_are_checked_off_the_loop(alice: Mailbox, patient: Mailbox) -> None:
    """A validator may take long, and a body that is refused is a dead letter: a file to move."""
    threads = []

    @dataclass
    class Checked:
        number: int

        def __post_init__(self) -> None:
            threads.append(threading.current_thread())

    @patient.on()
    async def handle(message: Message[Checked]) -> None:
        threads.append(threading.current_thread())

    handle.__annotations__["message"] = Message[Checked]
    alice.send("bob", {"number": 1})
    run(patient.arun(drain=True))

    assert len(threads) == 2
    assert threads[0] is not threads[1] is threading.main_thread()


def test_what_is_carried_into_the_loop_arrives_once_and_in_order() -> None:
    """Also what is carried while something arrives; what did not arrive until the end is handed back."""
    got: list[Any] = []

    async def main() -> list[Any]:
        arrived = asyncio.Event()

        def arrive(message: Any, _: Any) -> None:
            got.append(message)
            if message == 0:
                bridge.carry("meanwhile", None)  # type: ignore[arg-type]
            if len(got) == 101:
                arrived.set()
            if message == "fails":
                raise ValueError

        def carry() -> None:
            for number in range(100):
                bridge.carry(number, None)  # type: ignore[arg-type]

        bridge = aio._LoopBridge(asyncio.get_running_loop(), arrive)
        await asyncio.to_thread(carry)
        await arrived.wait()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        bridge.carry("fails", None)  # type: ignore[arg-type]
        bridge.carry("arrives", None)  # type: ignore[arg-type]
        await eventually(lambda: got[-1] == "arrives")
        bridge.carry("left", None)  # type: ignore[arg-type]
        return bridge.close()

    left = run(main())

    assert [each for each in got if isinstance(each, int)] == list(range(100))
    assert got[-2:] == ["fails", "arrives"]
    assert left == [("left", None)]


# Concurrency


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "plain"])
def test_so_many_workers_run_at_a_time(alice: Mailbox, patient: Mailbox, root: Path, asynchronous: bool) -> None:
    """Also more than the loop's own pool has threads; and no more are claimed."""
    workers, together, most = 40, threading.Barrier(40, timeout=LONG), [0, 0]
    entered: list[int] = []

    async def meet(message: Message[Any]) -> None:
        entered.append(message.body)
        most[0] = max(most[0], len(left(root, "cur")))
        await eventually(lambda: len(entered) >= workers)

    def block(message: Message[Any]) -> None:
        together.wait()
        entered.append(message.body)

    patient.on()(meet if asynchronous else block)
    for number in range(workers):
        alice.send("bob", number)
    run(patient.arun(workers=workers, drain=True))

    assert sorted(entered) == list(range(workers))
    assert most[0] <= workers


def test_many_listeners_share_a_loop(root: Path, alice: Mailbox) -> None:
    """Each has a thread that claims: none of them sits in the loop's pool, which is small."""
    got: list[str] = []

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for number in range(40):
                box = stack.enter_context(Mailbox.init(f"box{number}", root, durable=False, poll_interval=LONG))
                box.on()(lambda message: got.append(message.to))
                await stack.enter_async_context(running(box))
            for number in range(40):
                alice.send(f"box{number}", 1)
            await eventually(lambda: len(got) == 40)

    run(main())

    assert sorted(got) == sorted(f"box{number}" for number in range(40))


def test_drain_waits_for_what_handlers_send(alice: Mailbox, patient: Mailbox) -> None:
    """Empty means: nobody at work could still send something."""
    got = []

    @patient.on()
    async def count(message: Message[int]) -> None:
        if message.body:
            await asyncio.sleep(0.001)
            await patient.asend("bob", message.body - 1)
        got.append(message.body)

    alice.send("bob", 20)
    run(patient.arun(workers=3, drain=True))

    assert sorted(got) == list(range(21))


# Stopping


def stop_it(box: Mailbox, task: "asyncio.Task[None]") -> Awaitable[None]:
    box.stop()
    return task


def stop_from_thread(box: Mailbox, task: "asyncio.Task[None]") -> Awaitable[None]:
    threading.Thread(target=box.stop).start()
    return task


@pytest.mark.parametrize("stop", [stop_it, stop_from_thread])
def test_stop_finishes_what_is_held(alice: Mailbox, patient: Mailbox, root: Path, stop: Any) -> None:
    """And leaves the rest; no thread stays."""
    entered, go = [], asyncio.Event()

    @patient.on()
    async def work(message: Message[Any]) -> str:
        entered.append(message.body)
        await go.wait()
        return "done"

    async def main() -> None:
        task = asyncio.ensure_future(patient.arun(workers=2))
        await eventually(lambda: len(entered) == 2)
        ended = stop(patient, task)
        await asyncio.sleep(0)
        go.set()
        await ended
        await eventually(lambda: not ours())

    for number in range(4):
        alice.send("bob", number)
    run(main())

    assert len(list(alice.peek())) == 2
    assert sorted(message.body for message in patient.peek()) == [2, 3]
    assert left(root, "cur") == []


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "plain"])
def test_cancelled_it_hands_back_what_handlers_held(
    alice: Mailbox, patient: Mailbox, root: Path, asynchronous: bool
) -> None:
    """The attempt is not counted: it was not the message's fault."""
    entered: list[int] = []
    stuck = threading.Event()

    async def work(message: Message[Any]) -> None:
        entered.append(message.body)
        await asyncio.sleep(LONG)

    def block(message: Message[Any]) -> None:
        entered.append(message.body)
        stuck.wait(LONG)

    async def main() -> None:
        task = asyncio.ensure_future(patient.arun(workers=2))
        await eventually(lambda: len(entered) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    patient.on()(work if asynchronous else block)
    for number in range(3):
        alice.send("bob", number)
    run(main())
    stuck.set()
    back = {message.body: message.attempt for message in patient.peek()}

    assert back == {0: 1, 1: 1, 2: 1}
    assert left(root, "cur", "dead") == []


@pytest.mark.parametrize("turns", range(12))
def test_cancelled_at_any_moment_nothing_is_lost_or_held(
    alice: Mailbox, patient: Mailbox, root: Path, turns: int
) -> None:
    """Also between the claim in the thread and the start in the loop."""
    handled = []

    @patient.on()
    async def work(message: Message[Any]) -> None:
        await asyncio.sleep(0)
        handled.append(message.body)

    async def main() -> None:
        task = asyncio.ensure_future(patient.arun(workers=3))
        await eventually(lambda: turns == 0 or handled)
        for _ in range(turns):
            await asyncio.sleep(0.0005 * (turns % 3))
        task.cancel()
        await asyncio.wait([task])

    for number in range(30):
        alice.send("bob", number)
    run(main())
    waiting = [message.body for message in patient.peek()]

    assert left(root, "cur", "dead") == []
    assert set(handled) | set(waiting) == set(range(30))
    assert len(waiting) == len(set(waiting))
    assert all(message.attempt == 1 for message in patient.peek())


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "plain"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_leaving_from_within_a_handler_hands_back_and_leaves(
    alice: Mailbox, patient: Mailbox, root: Path, kind: type[BaseException], asynchronous: bool
) -> None:
    """sys.exit() in a handler ends the program, not the message."""

    async def leave(message: Message[Any]) -> None:
        raise kind

    def leave_plainly(message: Message[Any]) -> None:
        raise kind

    patient.on("other")(leave)  # so that there is a loop
    patient.on()(leave if asynchronous else leave_plainly)
    alice.send("bob", 1)
    with pytest.raises(kind):
        patient.run()

    assert [(message.body, message.attempt) for message in patient.peek()] == [(1, 1)]
    assert left(root, "cur", "dead") == []


def test_a_box_that_is_not_there_is_the_callers_to_know(root: Path) -> None:
    """As in run()."""

    async def main() -> None:
        with Mailbox("carol", root) as carol:
            carol.on()(print)
            with pytest.raises(BoxNotFoundError):
                await carol.arun()
            with pytest.raises(BoxNotFoundError):
                await anext(aiter(carol))

    run(main())


# Loops


def test_an_async_for_loop_gives_messages_until_stop(alice: Mailbox, patient: Mailbox) -> None:
    """Woken by the bell; each is the loop's to settle, and what it leaves is handed back."""
    got = []

    async def main() -> None:
        async for message in patient:
            got.append(message.body)
            if message.body != 1:
                await message.aack()
            if message.body < 3:
                await asyncio.to_thread(alice.send, "bob", message.body + 1)
            else:
                patient.stop()

    alice.send("bob", 0)
    run(main())

    assert got == [0, 1, 2, 3]
    assert [message.body for message in patient.peek()] == [1]


@pytest.mark.parametrize("where", ["loop", "thread"])
def test_stop_ends_async_for_loops_that_wait(patient: Mailbox, where: str) -> None:
    """All of them, at once: their rescan is far away."""
    ended = []

    async def loop(number: int) -> None:
        async for message in patient:
            await message.aack()
        ended.append(number)

    async def main() -> None:
        loops = [asyncio.ensure_future(loop(number)) for number in range(3)]
        await eventually(lambda: len(patient._waker.waiters) == 3)
        if where == "loop":
            patient.stop()
        else:
            await asyncio.to_thread(patient.stop)
        await asyncio.gather(*loops)

    run(main())

    assert sorted(ended) == [0, 1, 2]


def test_an_async_for_loop_can_be_left_and_begun_again(alice: Mailbox, patient: Mailbox, root: Path) -> None:
    """break hands back what was not settled."""
    seen = []

    async def main() -> None:
        for _ in range(3):
            async with contextlib.aclosing(aiter(patient)) as messages:  # type: ignore[type-var]
                async for message in messages:
                    seen.append((message.body, message.attempt))
                    break

    alice.send("bob", 1)
    run(main())

    assert seen == [(1, 1)] * 3
    assert left(root, "cur") == []


def test_one_who_loops_says_that_it_listens(alice: Mailbox, patient: Mailbox) -> None:
    """As run() does: in run/, for status and health."""
    from filemailbox.receive.status import listening

    async def main() -> list[Any]:
        alice.send("bob", 1)
        async for message in patient:
            await message.aack()
            patient.stop()
            return listening(patient.root.box(patient.name))
        raise AssertionError

    (one,) = run(main())

    assert one.announced == 1
    assert listening(patient.root.box(patient.name)) == []
