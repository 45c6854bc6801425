"""The forms for asyncio: what may wait for the disk runs in a thread, what waits for mail waits in the loop.

The only user of asyncio, imported by the first call that needs it.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from .consumer import Consumer
from .message import Message
from .replies import Reply
from .wake import Wake

T = TypeVar("T")


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
    bell = wake.fileno()
    if bell is not None:
        loop.add_reader(bell, wake.rouse)
    try:
        await rung.wait()
    finally:
        alarm.cancel()
        sleepers.discard(rung.set)
        if bell is not None and not sleepers:
            loop.remove_reader(bell)


def _deadline(timeout: float | None) -> float:
    return float("inf") if timeout is None else time.monotonic() + timeout
