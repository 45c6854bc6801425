"""The asyncio forms: calls that may wait for the disk run in a thread, waiting for mail happens in the loop.

Imported by the first call that needs it, because asyncio takes longer to import than a message to send.
"""

import asyncio
import collections
import contextlib
import contextvars
import functools
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from ..store.replies import PendingRequest
from ..system.wake_fd import WakeFd
from ..wake.waker import Waiters, Waker
from .handlers import Handler, HandlerRegistry
from .listener import Listener, WorkerSlots
from .message import Message
from .receiver import Receiver

T = TypeVar("T")

_MAX_SENDERS: Final = 32
_senders: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, ThreadPoolExecutor] = weakref.WeakKeyDictionary()

run = asyncio.run


async def off_loop(call: Callable[..., T], *arguments: Any) -> T:
    """Run *call* in a thread, and return its result."""
    return await asyncio.to_thread(call, *arguments)


async def send_off_loop(send: Callable[[], T]) -> T:
    """Run *send* in a thread of the loop's senders, and return its result.

    They are more than the threads of asyncio.to_thread(), six on two processors: a flush is shared by those that wait.
    """
    loop = asyncio.get_running_loop()
    senders = _senders.get(loop)
    if senders is None:
        senders = _senders[loop] = ThreadPoolExecutor(_MAX_SENDERS, thread_name_prefix="mailbox send")
    return await loop.run_in_executor(senders, contextvars.copy_context().run, send)


async def receive(waker: Waker, receiver: Receiver, timeout: float | None, into: Any) -> Message[Any] | None:
    """See Mailbox.areceive()."""
    deadline, empty = _deadline(timeout), 0
    while True:
        generation = waker.arm()
        message = await _take(lambda: receiver.take(into))
        left = deadline - time.monotonic()
        if message is not None or left <= 0:
            return message
        empty += 1
        await _sleep(waker, min(left, receiver.next_due() or left), generation, empty)


async def messages(listener: Listener) -> AsyncGenerator[Message[Any], None]:
    """Listener.messages(), in the loop."""
    await off_loop(listener.open)
    by_timer, empty = False, 0
    while not listener.stopping:
        generation = listener.waker.arm()
        empty += 1
        take = functools.partial(listener.take, generation)
        while not listener.stopping and (message := await _take(take)) is not None:
            listener.count(message, by_timer)
            listener.tick()
            empty = 0
            yield message
        if not listener.stopping:
            by_timer = not await _sleep(listener.waker, listener.before_wait(), generation, empty)


async def request(
    waker: Waker,
    pending: PendingRequest,
    send: Callable[[], str],
    take_reply: Callable[[], Message[Any] | None],
    timeout: float | None,
    no_reply: Callable[[], str],
) -> Message[Any]:
    """See Mailbox.arequest()."""
    deadline, empty = _deadline(timeout), 0
    # Entering, polling and leaving are a few calls on a small folder. They run in the loop, where a cancellation falls
    # between them: it never loses a reply that was just taken, and leaves no folder behind.
    with pending:
        await asyncio.to_thread(send)
        while True:
            generation = waker.arm()
            message = take_reply()
            if message is not None:
                return message
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(no_reply())
            empty += 1
            await _sleep(waker, left, generation, empty)


async def listen(
    listener: Listener, handlers: HandlerRegistry, workers: int, drain: bool, retries: bool = False
) -> None:
    """See Mailbox.arun(). A thread claims, so that the loop never waits for the disk. Handlers run in the loop."""
    loop = asyncio.get_running_loop()
    slots = WorkerSlots(workers)
    running: set[asyncio.Task[None]] = set()
    cancelled: asyncio.CancelledError | None = None
    listener.set_types(handlers.types())

    def start(message: Message[Any], handler: Handler) -> None:
        if cancelled is not None:
            return finish(message)
        task = loop.create_task(_handle(listener, message, handler))
        running.add(task)
        task.add_done_callback(functools.partial(finish, message))
        return None

    def finish(message: Message[Any], task: asyncio.Task[None] | None = None) -> None:
        slots.release()
        listener.release_quietly(message)  # if it was cancelled before it began
        if task is not None:
            running.discard(task)
            task.cancelled() or task.exception()  # sys.exit() has left the loop by itself

    def claim_all() -> None:
        with contextlib.closing(listener.claims(slots, workers, drain, retries)) as claims:
            for message in claims:
                handler = listener.select_handler(handlers, message)
                if handler is None:
                    finish(message)
                    continue
                bridge.carry(message, handler)
                if loop.is_closed():  # while this thread was claiming
                    listener.release_quietly(message)
                    return

    bridge = _LoopBridge(loop, start)
    claiming = _in_thread(claim_all, "mailbox")
    while running or not claiming.done():  # every claim is settled before the box is closed
        try:
            await (asyncio.wait(running) if claiming.done() else asyncio.shield(claiming))
        except asyncio.CancelledError as error:
            cancelled = error
            listener.stop()
            slots.release()
            for task in running:
                task.cancel()
    for message, _ in bridge.close():
        finish(message)
    if cancelled is not None:
        raise cancelled
    _, claim_error = claiming.result()
    if claim_error is not None:
        raise claim_error


class _LoopBridge:
    """Carries messages from a thread into a loop, and calls a function there for each.

    A WakeFd wakes the loop: 0.07 ms of a callback of 0.75 ms sooner than call_soon_threadsafe(), which sends on a
    socket pair.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[Message[Any], Handler], None]) -> None:
        self._loop, self._call = loop, call
        self._carried: collections.deque[tuple[Message[Any], Handler]] = collections.deque()
        self._wake_fd = WakeFd(count=True)  # of carried messages
        loop.add_reader(self._wake_fd.fileno(), self._arrive)

    def carry(self, message: Message[Any], handler: Handler) -> None:
        """Have the loop call the function with them. Call it from the thread."""
        self._carried.append((message, handler))
        self._wake_fd.set()

    def close(self) -> list[tuple[Message[Any], Handler]]:
        """Close it. Returns the messages that have not arrived."""
        self._loop.remove_reader(self._wake_fd.fileno())
        self._wake_fd.close()
        return list(self._carried)

    def _arrive(self) -> None:
        try:
            self._call(*self._carried.popleft())
        finally:
            self._wake_fd.take()  # afterwards: it hands the interpreter lock to the thread


async def _handle(listener: Listener, message: Message[Any], handler: Handler) -> None:
    value, error = await _call(handler, message)
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and not (task and task.cancelling()):
        error = RuntimeError("the handler waited for something that was cancelled")  # not this task
    if error is None:
        await _shielded(off_loop(listener.on_success, message, value))
    else:
        await _shielded(off_loop(listener.settle_after, message, error))
    if error is not None and not isinstance(error, Exception):
        raise error


async def _call(handler: Handler, message: Message[Any]) -> tuple[Any, BaseException | None]:
    """Call the handler. Returns its value and the exception that it raised, one of them None."""
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
    except BaseException as error:  # noqa: BLE001  # raised again once the message is settled
        return None, error


def _in_thread(call: Callable[[], T], name: str) -> asyncio.Future[tuple[T | None, BaseException | None]]:
    """Run *call* in a new thread. The future has its result and the exception that it raised, one of them None.

    The thread is not one of the loop's pool: a few listeners would fill that, and the loop waits for it at the end.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = context.run(call), None
        except BaseException as error:  # noqa: BLE001  # raised where the future is awaited
            outcome = None, error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing awaits the future
            loop.call_soon_threadsafe(_resolve, future, outcome)

    threading.Thread(target=work, name=name, daemon=True).start()
    return future


async def _shielded(work: Awaitable[object]) -> None:
    """Wait for *work* to end, and only then raise a cancellation that came meanwhile."""
    doing = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not doing.done():
        try:
            await asyncio.shield(doing)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _take(claim: Callable[[], Message[Any] | None]) -> Message[Any] | None:
    """Claim a message in a thread. If this is cancelled, a message that the thread claims is released."""
    cancelled, deciding = threading.Event(), threading.Lock()
    taken: list[Message[Any]] = []  # the result of the task comes some turns of the loop later

    def take() -> Message[Any] | None:
        message = claim()
        with deciding:
            if message is not None and cancelled.is_set():
                message.release()
            elif message is not None:
                taken.append(message)
        return message

    taking = asyncio.ensure_future(asyncio.to_thread(take))
    taking.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may not be awaited any more
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        with deciding:
            cancelled.set()
            for message in taken:
                message.release()
        raise


async def _sleep(waker: Waker, longest: float, generation: int, empty: int = 0) -> bool:
    """Wait as Waker.wait() does, in the loop. Returns True if a wake-up came, False after the time."""
    if waker.is_flooded(empty):
        await asyncio.sleep(waker.quiet)
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[bool] = loop.create_future()
    # Not asyncio.wait_for: on Python 3.11 it swallows a cancellation that comes with the wake-up.
    timer = loop.call_later(waker.span(longest), _resolve, woken, False)
    wake = functools.partial(_resolve, woken, True)
    began = time.monotonic()
    waiters = waker.waiters
    waiters[wake] = loop.call_soon_threadsafe
    sources = waker.descriptors()
    for source in sources:
        loop.add_reader(source, _wake_here, waiters, loop.call_soon_threadsafe)
    try:
        return waker.generation != generation or await woken  # unless another waiter has woken since arm()
    finally:
        waker.note_sleep(time.monotonic() - began)
        timer.cancel()
        del waiters[wake]
        for source in sources if not waiters else ():
            loop.remove_reader(source)


def _resolve(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def _wake_here(waiters: Waiters, this_loop: Callable[..., object]) -> None:
    """Wake all that wait in this loop directly, and those in other loops through their call_soon_threadsafe()."""
    for wake, schedule in list(waiters.items()):
        if schedule == this_loop:
            wake()
        else:
            schedule(wake)


def _deadline(timeout: float | None) -> float:
    return float("inf") if timeout is None else time.monotonic() + timeout
