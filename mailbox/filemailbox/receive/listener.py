"""Wake, claim, call back, settle: until told to stop.

An exception in a handler settles its message and nothing else; a disk that fails, a box that is taken away and a watch
that breaks are reported once, and the listener goes on when they are over. Stopping finishes what is held, hands back
the rest, and leaves no thread behind.
"""

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from types import FrameType
from typing import Any, Final, TypeVar

from .. import log
from ..errors import InvalidBodyError, InvalidRequestError, MailboxError, NotFoundError, NotMailError
from ..wake.waker import Waker
from .handlers import Handler, HandlerRegistry
from .message import Message, one_line_error
from .receiver import Receiver
from .status import ListenerStatus

_TROUBLE: Final = 1.0  # seconds until the next try when the disk fails us
_AWAY: Final = 0.1  # the same, when the box is not there: it is perhaps being made anew
_UNANNOUNCED: Final = 100_000_000  # nanoseconds that mail lies before finding it by the timer counts as a miss

T = TypeVar("T")


class WorkerSlots:
    """How many messages may still be claimed: a semaphore whose waiters let go of the interpreter at once.

    threading.Semaphore is written in Python. The thread that claims would run through that, and hold the interpreter,
    while the event loop that it has just woken waits to have it.
    """

    def __init__(self, free: int) -> None:
        self._free: SimpleQueue[bool] = SimpleQueue()
        self.release(free)
        self.acquire = self._free.get
        """Take one, and wait until there is one. Returns True."""

    def release(self, n: int = 1) -> None:
        """Give back *n*."""
        for _ in range(n):
            self._free.put(True)


class Listener:
    """The loop of one consumer. Iterate over it for messages, or let run() call handlers."""

    def __init__(self, receiver: Receiver, wake: Waker) -> None:
        self.receiver, self.wake = receiver, wake
        self.stopping = False
        """Whether it was told to stop."""
        self._trouble: str | None = None
        self._fatal: BaseException | None = None
        self.announced = 0
        """How many messages came by a bell or a notification."""
        self.missed = 0
        """How many lay for more than 100 ms until the rescan found them: notifications that never came."""
        self.handled = 0
        """How many messages handlers have settled, whatever came of it."""
        self.on_tick: Callable[[], None] = self.tell
        """Called before each wait, and before each message that was not waited for: every 250 ms at least, unless a
        handler is at work."""
        self._status = ListenerStatus(wake.box)

    def stop(self) -> None:
        """Let the loop end, as soon as what it holds is finished. From any thread or signal handler."""
        self.stopping = True  # not an Event: a signal handler that interrupts its own thread within one would hang
        self.wake.wake_all()

    def close(self) -> None:
        """Take away what it said of itself: nobody listens any more."""
        self._status.close()

    def begin(self, drain: bool = False) -> None:
        """Find our place in the box, and watch it. Raises BoxNotFoundError, RootNotFoundError: at the start they "
        "are the caller's to know."""
        self.receiver.begin()
        if not drain:
            self.wake.watch()

    def messages(self, drain: bool = False) -> Generator[Message[Any], None, None]:
        """Messages as they come, each for its receiver to settle, until stop(); to *drain*, until there is none."""
        self.begin(drain)
        by_timer, empty, heard = False, 0, self.wake.arm()
        while not self.stopping:
            empty += 1
            while not self.stopping and (message := self.take(heard)) is not None:
                self.count(message, by_timer)
                self.on_tick()
                empty = 0
                yield message
            if drain or self.stopping:
                return
            source = self.wake.wait(self.look(), heard, empty)
            by_timer = source == "timer"
            # One look more, before arming: it is what the message waits for, and what rings until we arm again tells
            # of nothing new. A flood gets none.
            early = source not in ("timer", "flood") and not self.stopping
            if early and (message := self.take(heard)) is not None:
                empty = 0
                yield message
                self.count(message, by_timer)  # not sooner, for the message waits
            heard = self.wake.arm()

    def claims(self, slots: WorkerSlots, workers: int, drain: bool) -> Generator[Message[Any], None, None]:
        """messages(), each with one of the *slots* taken, so that nothing is claimed which nobody has time for."""
        again = True
        while again:
            again = False
            with contextlib.closing(self.messages(drain)) as messages:
                while slots.acquire():
                    message = None if self.stopping else next(messages, None)
                    if message is None:
                        slots.release()
                        break
                    again = drain and workers > 1
                    yield message
            if again:  # what is at work may make more mail
                for _ in range(workers):
                    slots.acquire()
                slots.release(workers)

    def look(self) -> float:
        """What is done before each wait. Returns how many seconds that may take at the most."""
        self.on_tick()
        due = self.receiver.next_due()
        return float("inf") if due is None else due

    def run(self, handlers: HandlerRegistry, workers: int, drain: bool = False, limit: int | None = None) -> None:
        """Call handlers for *limit* messages, or until stop(). With one worker: in this thread, one after the other."""
        self.receiver.only(handlers.types())
        if workers == 1:
            with contextlib.closing(self.messages(drain)) as messages:
                for message in itertools.islice(messages, limit):
                    self._handle(handlers, message)
            return
        with (
            self._pool(workers) as (slots, submit),
            contextlib.closing(self.claims(slots, workers, drain)) as claims,
        ):
            for message in itertools.islice(claims, limit):
                submit(handlers, message)
        if self._fatal is not None:
            raise self._fatal

    @contextlib.contextmanager
    def _pool(self, workers: int) -> Iterator[tuple[WorkerSlots, Callable[..., object]]]:
        slots = WorkerSlots(workers)

        def work(handlers: HandlerRegistry, message: Message[Any]) -> None:
            try:
                self._handle(handlers, message)
            except BaseException as error:  # noqa: BLE001  # sys.exit() in a handler: run() raises it, at its end
                self._fatal = error
                self.stop()
            finally:
                slots.release()

        with ThreadPoolExecutor(workers, thread_name_prefix="mailbox") as pool:
            yield slots, lambda *work_on: pool.submit(work, *work_on)

    def tell(self) -> None:
        """Say in `run/` how we are, at most four times a second."""
        if self._status.fresh:
            return
        self._status.write(
            self.receiver.folder,
            {
                "bell": self.wake.bell,
                "watch": self.wake.trouble,
                "announced": self.announced,
                "missed": self.missed,
                "handled": self.handled,
            },
        )

    def _handle(self, handlers: HandlerRegistry, message: Message[Any]) -> None:
        handler = self.prepare(handlers, message)
        if handler is None:
            return
        try:
            function, timeout = handler.function, handler.timeout
            value = function(message) if timeout is None else _within(timeout, function, message)
        except BaseException as error:
            self.settle_after(message, error)
            if not isinstance(error, Exception):
                raise
        else:
            self.succeed(message, value)

    def prepare(self, handlers: HandlerRegistry, message: Message[Any]) -> Handler | None:
        """The handler for *message*, whose body is made what it wants; None where that settled it. Never raises."""
        handler = handlers.find(message.type)
        try:
            if handler is None:  # its type was wanted when it was taken
                message.release()
                return None
            if handler.into is not None:
                handler.prepare(message)
        except NotMailError as error:
            reason = error.reason
            self._settle(message, lambda: message.reject(reason))
            return None
        except Exception as error:  # noqa: BLE001  # a validator that fails
            self.settle_after(message, error)
            return None
        return handler

    def succeed(self, message: Message[Any], value: Any) -> None:
        """Settle a message whose handler returned *value*: answer, then ack. Never raises."""
        self.handled += 1
        try:
            _answer(message, value)
            message.ack()
        except Exception as error:  # noqa: BLE001  # a full disk, a reply that is no JSON: told, and tried again
            self.settle_after(message, error)

    def settle_after(self, message: Message[Any], error: BaseException) -> None:
        """Settle a message whose handler raised. Never raises: what cannot be settled now is handed back at the end."""
        swallowed = self._settle(message, lambda: message.settle_after(error))
        if swallowed is False and isinstance(error, Exception):
            log.warning("the handler of %s failed: %s", message.id, one_line_error(error))

    def give_back(self, message: Message[Any]) -> None:
        """Hand it back, unless it is settled. Never raises."""
        self._settle(message, message.release)

    def _settle(self, message: Message[Any], settle: Callable[[], T]) -> T | None:
        try:
            return settle()
        except Exception as trouble:  # noqa: BLE001  # nothing that a handler does ends the listener
            log.error("%s could not be settled, and comes back: %s", message.id, one_line_error(trouble))
            return None

    def take(self, heard: int) -> Message[Any] | None:
        """The next message; None where there is none now, or the disk or the box fails us: then after a while."""
        try:
            message = self.receiver.take()
        except (MailboxError, OSError) as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                log.error("taking mail does not work, trying again: %s", error)
            self.wake.rest(_TROUBLE if isinstance(error, OSError) else _AWAY, heard)
            return None
        if self._trouble is not None:
            log.warning("taking mail works again")
            self._trouble = None
        return message

    def count(self, message: Message[Any], by_timer: bool) -> None:
        """Was it announced?"""
        if not self.receiver.from_new:
            return  # nobody announces what was put off
        if not by_timer:
            self.announced += 1
        elif time.time_ns() - int(message.sent.timestamp() * 1e9) > _UNANNOUNCED:
            self.missed += 1


def _answer(message: Message[Any], value: Any) -> None:
    """Send what a handler returned as the reply. Who cannot be answered is no reason to handle the message again."""
    if value is None:
        return
    try:
        message.reply(value)
    except InvalidBodyError:
        raise
    except (InvalidRequestError, NotFoundError) as error:
        log.warning("the answer to %s was not sent: %s", message.id, error)


@contextlib.contextmanager
def signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call *stop*; a second one ends the process at once. Only the main thread can have that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if seen:
            os._exit(128 + number)  # what is held goes back when the kernel lets go of the lock
        seen.append(number)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that was not set from Python
                signal.signal(number, handler)


def _within(timeout: float, function: Callable[[Message[Any]], Any], message: Message[Any]) -> Any:
    """Call *function* in a thread and wait *timeout* seconds. Raises TimeoutError; the thread cannot be ended."""
    result: list[Any] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            result.append(function(message))
        except BaseException as error:  # noqa: BLE001  # it is raised again, where it is waited for
            failed.append(error)

    thread = threading.Thread(target=work, name=f"mailbox handler of {message.id}", daemon=True)
    thread.start()
    thread.join(timeout)
    if failed:
        raise failed[0]
    if not result:
        raise TimeoutError(f"the handler took longer than {timeout:g} s")
    return result[0]
