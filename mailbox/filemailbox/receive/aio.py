"""The forms for asyncio: what may wait for the disk runs in a thread, what waits for mail waits in the loop.

The only user of asyncio, imported by the first call that needs it.
"""

import asyncio
import collections
import contextlib
import contextvars
import functools
import os
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Self, TypeVar

from ..store.replies import PendingRequest
from ..wake.waker import Waiters, Waker
from .handlers import Handler, HandlerRegistry
from .listener import Listener, WorkerSlots
from .message import Message
from .receiver import Receiver

T = TypeVar("T")


run = asyncio.run


async def off_loop(call: Callable[..., T], *arguments: Any) -> T:
    """*call*, in a thread: a durable send waits for the disk."""
    return await asyncio.to_thread(call, *arguments)


async def receive(wake: Waker, receiver: Receiver, timeout: float | None, into: Any) -> Message[Any] | None:
    """See Mailbox.areceive()."""
    deadline, empty = _deadline(timeout), 0
    while True:
        heard = wake.arm()
        message = await _take(lambda: receiver.take(into))
        left = deadline - time.monotonic()
        if message is not None or left <= 0:
            return message
        empty += 1
        await _sleep(wake, min(left, receiver.next_due() or left), heard, empty)


async def messages(listener: Listener) -> AsyncGenerator[Message[Any], None]:
    """Listener.messages(), in the loop."""
    await off_loop(listener.begin)
    by_timer, empty = False, 0
    while not listener.stopping:
        heard = listener.wake.arm()
        empty += 1
        take = functools.partial(listener.take, heard)
        while not listener.stopping and (message := await _take(take)) is not None:
            listener.count(message, by_timer)
            listener.on_tick()
            empty = 0
            yield message
        if not listener.stopping:
            by_timer = not await _sleep(listener.wake, listener.look(), heard, empty)


async def request(
    wake: Waker,
    asking: PendingRequest,
    send: Callable[[], str],
    answer: Callable[[], Message[Any] | None],
    timeout: float | None,
    none_came: str,
) -> Message[Any]:
    """See Mailbox.arequest()."""
    deadline, empty = _deadline(timeout), 0
    # To enter, to look and to leave are a few calls on a small folder. They stay in the loop, so that a cancellation
    # falls between them: it never loses an answer that was just taken, nor leaves a folder behind.
    with asking:
        await asyncio.to_thread(send)
        while True:
            heard = wake.arm()
            message = answer()
            if message is not None:
                return message
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{none_came} within {timeout:g} s")
            empty += 1
            await _sleep(wake, left, heard, empty)


async def listen(listener: Listener, handlers: HandlerRegistry, workers: int, drain: bool) -> None:
    """See Mailbox.arun(). A thread claims, so that the loop never waits for the disk, and handlers run in the loop."""
    loop = asyncio.get_running_loop()
    slots = WorkerSlots(workers)
    running: set[asyncio.Task[None]] = set()
    cancelled: asyncio.CancelledError | None = None
    listener.receiver.only(handlers.types())

    def stand_by() -> tuple[_Coming, asyncio.Task[None]]:
        coming = _Coming(loop=loop)
        return coming, loop.create_task(_handle(listener, coming))

    ready = stand_by()

    def start(message: Message[Any], handler: Handler) -> None:
        nonlocal ready
        if cancelled is not None:
            return finish(message)
        coming, task = ready if not ready[0].done() else stand_by()  # somebody has cancelled whatever tasks there were
        try:
            return coming.bring((message, handler))
        finally:  # not sooner, for the message waits
            running.add(task)
            task.add_done_callback(functools.partial(finish, message))
            ready = stand_by()

    def finish(message: Message[Any], task: asyncio.Task[None] | None = None) -> None:
        slots.release()
        listener.give_back(message)  # where it was cancelled before it began
        if task is not None:
            running.discard(task)
            task.cancelled() or task.exception()  # sys.exit() has left the loop by itself

    def feed() -> None:
        with contextlib.closing(listener.claims(slots, workers, drain)) as claims:
            for message in claims:
                handler = listener.prepare(handlers, message)
                if handler is None:
                    finish(message)
                    continue
                bridge.carry(message, handler)
                if loop.is_closed():  # under us
                    listener.give_back(message)
                    return

    bridge = _Bridge(loop, start)
    feeding = _in_thread(feed, "mailbox")
    while running or not feeding.done():  # whatever happens: what is held is settled before the box is closed
        try:
            await (asyncio.wait(running) if feeding.done() else asyncio.shield(feeding))
        except asyncio.CancelledError as error:
            cancelled = error
            listener.stop()
            slots.release()
            for task in running:
                task.cancel()
    ready[1].cancel()
    for message, _ in bridge.close():
        finish(message)
    if cancelled is not None:
        raise cancelled
    _, trouble = feeding.result()
    if trouble is not None:
        raise trouble


class _Bridge:
    """From a thread into a loop: a call for each message. It wakes the loop sooner than call_soon_threadsafe() does."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[Message[Any], Handler], None]) -> None:
        self._loop, self._call = loop, call
        self._carried: collections.deque[tuple[Message[Any], Handler]] = collections.deque()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)  # how many were carried
        loop.add_reader(self._bell, self._arrive)

    def carry(self, message: Message[Any], handler: Handler) -> None:
        """Have them called with, in the loop. From the thread."""
        self._carried.append((message, handler))
        os.eventfd_write(self._bell, 1)

    def close(self) -> list[tuple[Message[Any], Handler]]:
        """Take it down. Returns what has not arrived."""
        self._loop.remove_reader(self._bell)
        os.close(self._bell)
        return list(self._carried)

    def _arrive(self) -> None:
        try:
            self._call(*self._carried.popleft())
        finally:
            os.eventfd_read(self._bell)  # not before: it gives the interpreter to the thread


class _Coming(asyncio.Future[tuple[Message[Any], Handler]]):
    """A message, and its handler, that a task stands by for.

    Any other future wakes its task in the next turn of the loop. Between two turns, the thread that claimed the message
    takes the interpreter from the loop, which must wait to have it back.
    """

    _waiting: tuple[Callable[..., object], contextvars.Context] | None = None

    def add_done_callback(
        self, callback: Callable[[Self], object], /, *, context: contextvars.Context | None = None
    ) -> None:
        super().add_done_callback(callback, context=context)
        if context is not None:
            self._waiting = callback, context

    def bring(self, what: tuple[Message[Any], Handler]) -> None:
        """Let the task have it, and run, now, to where it waits next. Not from within another task."""
        if self._waiting is None:  # it has not even begun
            self.set_result(what)
        else:
            wake, context = self._waiting
            self.remove_done_callback(wake)
            self.set_result(what)
            context.run(wake, self)


async def _handle(listener: Listener, coming: _Coming) -> None:
    message, handler = await coming
    value, error = await _call(handler, message)
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and not (task and task.cancelling()):
        error = RuntimeError("the handler waited for something that was cancelled")  # nobody has cancelled us
    if error is None:
        await _to_its_end(off_loop(listener.succeed, message, value))
    else:
        await _to_its_end(off_loop(listener.settle_after, message, error))
    if error is not None and not isinstance(error, Exception):
        raise error


async def _call(handler: Handler, message: Message[Any]) -> tuple[Any, BaseException | None]:
    """What the handler returned, or what it raised."""
    limit = None if handler.timeout is None else asyncio.timeout(handler.timeout)
    try:
        if handler.asynchronous and limit is None:
            return await handler.function(message), None
        async with limit or contextlib.nullcontext():
            if handler.asynchronous:
                return await handler.function(message), None
            return await _in_thread(lambda: handler.function(message), f"mailbox handler of {message.id}")
    except TimeoutError as error:
        late = limit is not None and limit.expired()
        return None, TimeoutError(f"the handler took longer than {handler.timeout:g} s") if late else error
    except BaseException as error:  # noqa: BLE001  # it is raised again when the message is settled
        return None, error


def _in_thread(call: Callable[[], T], name: str) -> asyncio.Future[tuple[T | None, BaseException | None]]:
    """What *call* returns or raises, in a thread of its own.

    Not of the loop's pool: that is small, so that a few listeners would fill it; and it waits at the end for what
    cannot be ended.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = context.run(call), None
        except BaseException as error:  # noqa: BLE001  # it is raised where it is waited for
            outcome = None, error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, future, outcome)

    threading.Thread(target=work, name=name, daemon=True).start()
    return future


async def _to_its_end(work: Awaitable[object]) -> None:
    """Wait for *work*, whoever cancels us meanwhile; then be cancelled."""
    doing = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not doing.done():
        try:
            await asyncio.shield(doing)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _take(taking_one: Callable[[], Message[Any] | None]) -> Message[Any] | None:
    """Take a message in a thread. Cancelled, what the thread has taken or will take is handed back."""
    nobody, deciding = threading.Event(), threading.Lock()
    taken: list[Message[Any]] = []  # not the task's result: that is there only some turns of the loop later

    def take() -> Message[Any] | None:
        message = taking_one()
        with deciding:
            if message is not None and nobody.is_set():
                message.release()
            elif message is not None:
                taken.append(message)
        return message

    taking = asyncio.ensure_future(asyncio.to_thread(take))
    taking.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may be left to hear of it
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        with deciding:
            nobody.set()
            for message in taken:
                message.release()
        raise


async def _sleep(wake: Waker, longest: float, heard: int, empty: int = 0) -> bool:
    """wake.wait(), in the loop: whether something woke us."""
    if wake.is_flooded(empty):
        await asyncio.sleep(wake.quiet)
    loop = asyncio.get_running_loop()
    rung: asyncio.Future[bool] = loop.create_future()
    # Not asyncio.wait_for: on Python 3.11 it swallows a cancellation that comes with the wake-up.
    alarm = loop.call_later(wake.span(longest), _resolve, rung, False)
    ring = functools.partial(_resolve, rung, True)
    began = time.monotonic()
    sleepers = wake.sleepers
    sleepers[ring] = loop.call_soon_threadsafe
    sources = wake.descriptors()
    for source in sources:
        loop.add_reader(source, _rouse, sleepers, loop.call_soon_threadsafe)
    try:
        return wake.heard != heard or await rung  # else somebody has heard it since we armed
    finally:
        wake.note_sleep(time.monotonic() - began)
        alarm.cancel()
        del sleepers[ring]
        for source in sources if not sleepers else ():
            loop.remove_reader(source)


def _resolve(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def _rouse(sleepers: Waiters, ours: Callable[..., object]) -> None:
    """Wake all who sleep in this loop; those in others are called from outside."""
    for ring, from_outside in list(sleepers.items()):
        if from_outside == ours:
            ring()
        else:
            from_outside(ring)


def _deadline(timeout: float | None) -> float:
    return float("inf") if timeout is None else time.monotonic() + timeout
