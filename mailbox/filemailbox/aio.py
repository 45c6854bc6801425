"""The forms for asyncio: what may wait for the disk runs in a thread, what waits for mail waits in the loop.

The only user of asyncio, imported by the first call that needs it.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from .consumer import Consumer
from .handlers import Handlers
from .listener import Listener
from .message import Message
from .replies import Reply
from .wake import Wake

T = TypeVar("T")


run = asyncio.run


async def off_loop(call: Callable[..., T], *arguments: Any) -> T:
    """*call*, in a thread: a durable send waits for the disk."""
    return await asyncio.to_thread(call, *arguments)


async def receive(wake: Wake, consumer: Consumer, timeout: float | None, into: Any) -> Message[Any] | None:
    """See Mailbox.areceive()."""
    deadline = _deadline(timeout)
    while True:
        wake.arm()
        message = await _take(consumer, into)
        left = deadline - time.monotonic()
        if message is not None or left <= 0:
            return message
        await _sleep(wake, min(left, consumer.next_due() or left))


async def request(
    wake: Wake,
    asking: Reply,
    send: Callable[[], str],
    answer: Callable[[], Message[Any] | None],
    timeout: float | None,
    none_came: str,
) -> Message[Any]:
    """See Mailbox.arequest()."""
    deadline = _deadline(timeout)
    # To enter, to look and to leave are a few calls on a small folder. They stay in the loop, so that a cancellation
    # falls between them: it never loses an answer that was just taken, nor leaves a folder behind.
    with asking:
        await asyncio.to_thread(send)
        while True:
            wake.arm()
            message = answer()
            if message is not None:
                return message
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{none_came} within {timeout:g} s")
            await _sleep(wake, left)


async def listen(listener: Listener, handlers: Handlers, workers: int, drain: bool) -> None:
    """See Mailbox.arun(). A thread claims, so that the loop never waits for the disk, and handlers run in the loop."""
    loop = asyncio.get_running_loop()
    slots = threading.Semaphore(workers)
    running: set[asyncio.Task[None]] = set()
    consumer = listener.consumer
    consumer.only(handlers.types())

    def start(message: Message[Any]) -> None:
        task = loop.create_task(_handle(listener, handlers, message))
        running.add(task)
        task.add_done_callback(finish)

    def finish(task: asyncio.Task[None]) -> None:
        running.discard(task)
        slots.release()

    def feed() -> None:
        with contextlib.closing(listener.messages(drain)) as messages:
            while slots.acquire():
                message = None if listener.stopping else next(messages, None)
                if message is None:
                    return
                try:
                    loop.call_soon_threadsafe(start, message)
                except RuntimeError:  # the loop was closed under us
                    message.hand_back()
                    return

    feeding = asyncio.ensure_future(asyncio.to_thread(feed))
    try:
        await asyncio.shield(feeding)
        while running:
            await asyncio.wait(running)
    except asyncio.CancelledError:
        listener.stop()
        for task in running:
            task.cancel()
        slots.release()
        await asyncio.wait([feeding, *running])
        raise


async def _handle(listener: Listener, handlers: Handlers, message: Message[Any]) -> None:
    handler = handlers.find(message.type)
    if handler is None:
        await off_loop(message.hand_back)
        return
    try:
        handler.prepare(message)
        async with asyncio.timeout(handler.timeout):
            if handler.asynchronous:
                value = await handler.function(message)
            else:
                value = await asyncio.to_thread(handler.function, message)
    except BaseException as error:
        late = isinstance(error, TimeoutError) and handler.timeout is not None
        reason = TimeoutError(f"the handler took longer than {handler.timeout:g} s") if late else error
        await asyncio.shield(off_loop(listener.conclude, message, reason))
        if not isinstance(error, Exception):
            raise
    else:
        await asyncio.shield(off_loop(listener.succeed, message, value))


async def _take(consumer: Consumer, into: Any) -> Message[Any] | None:
    """Take a message in a thread. Cancelled, what the thread has taken or will take is handed back."""
    nobody, deciding = threading.Event(), threading.Lock()
    taken: list[Message[Any]] = []  # not the task's result: that is there only some turns of the loop later

    def take() -> Message[Any] | None:
        message = consumer.take(into)
        with deciding:
            if message is not None and nobody.is_set():
                message.hand_back()
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
                message.hand_back()
        raise


async def _sleep(wake: Wake, longest: float) -> None:
    """wake.wait(), in the loop."""
    loop = asyncio.get_running_loop()
    rung = asyncio.Event()
    # Not asyncio.wait_for: on Python 3.11 it swallows a cancellation that comes with the wake-up.
    alarm = loop.call_later(wake.span(longest), rung.set)
    sleepers = wake.sleepers
    sleepers.add(rung.set)
    sources = wake.descriptors()
    for source in sources:
        loop.add_reader(source, wake.rouse)
    try:
        await rung.wait()
    finally:
        alarm.cancel()
        sleepers.discard(rung.set)
        for source in sources if not sleepers else ():
            loop.remove_reader(source)


def _deadline(timeout: float | None) -> float:
    return float("inf") if timeout is None else time.monotonic() + timeout
