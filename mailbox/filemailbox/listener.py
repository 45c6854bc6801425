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
from types import FrameType
from typing import Any, Final

from . import log
from .consumer import Consumer
from .errors import Invalid, InvalidBody, MailboxError, Malformed, NotThere, Storage
from .handlers import Handler, Handlers
from .message import Message
from .status import Status
from .wake import Wake

_QUIET: Final = 0.003  # seconds between two looks that find nothing, when something keeps ringing
_PATIENT: Final = 3  # such looks in a row that are nothing strange: the watch and the bell may both tell of one message
_TROUBLE: Final = 1.0  # seconds until the next try when the disk or the box fails us
_UNANNOUNCED: Final = 100_000_000  # nanoseconds that mail lies before finding it by the timer counts as a miss


class Listener:
    """The loop of one consumer. Iterate over it for messages, or let run() call handlers."""

    def __init__(self, consumer: Consumer, wake: Wake) -> None:
        self.consumer, self._wake = consumer, wake
        self._stopping = threading.Event()
        self._trouble: str | None = None
        self.announced = 0
        """How many messages came by a bell or a notification."""
        self.missed = 0
        """How many lay for more than 100 ms until the rescan found them: notifications that never came."""
        self.handled = 0
        """How many messages handlers have settled, whatever came of it."""
        self.on_look: Callable[[], None] = self.tell
        """Called before each wait: every 250 ms at least, unless a handler is at work."""
        self._status = Status(wake.box)

    def stop(self) -> None:
        """Let the loop end, as soon as what it holds is finished. From any thread or signal handler."""
        self._stopping.set()
        self._wake.poke()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def messages(self, drain: bool = False) -> Generator[Message[Any], None, None]:
        """Messages as they come, each for its receiver to settle, until stop(); to *drain*, until there is none."""
        self.consumer.begin()  # NoBox and NoRoot at the start are the caller's to know
        if not drain:
            self._wake.watch()
        by_timer, looked, empty = False, 0.0, 0
        while not self.stopping:
            self._wake.arm()
            found = False
            while not self.stopping and (message := self._take()) is not None:
                self._count(message, by_timer)
                found = True
                yield message
            if drain:
                return
            empty = 0 if found or by_timer or time.monotonic() - looked > _QUIET else empty + 1
            if empty > _PATIENT:
                self._stopping.wait(_QUIET)  # a flood of rings costs a look every few milliseconds, not a core
            looked = time.monotonic()
            self.on_look()
            longest = self.consumer.next_due()
            by_timer = self._wake.wait(float("inf") if longest is None else longest) == "timer"

    def run(self, handlers: Handlers, workers: int, drain: bool = False, limit: int | None = None) -> None:
        """Call handlers for *limit* messages, or until stop(). With one worker: in this thread, one after the other."""
        self.consumer.only(handlers.types())
        with self._pool(workers) as (slots, submit), contextlib.closing(self.messages(drain)) as messages:
            for _ in itertools.count() if limit is None else range(limit):
                slots.acquire()
                if self.stopping or (message := next(messages, None)) is None:
                    slots.release()
                    return
                submit(self._handle, handlers, message)

    @contextlib.contextmanager
    def _pool(self, workers: int) -> Iterator[tuple[threading.Semaphore, Callable[..., object]]]:
        slots = threading.Semaphore(workers)

        def work(call: Callable[..., None], *arguments: Any) -> None:
            try:
                call(*arguments)
            finally:
                slots.release()

        if workers == 1:
            yield slots, work
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="mailbox") as pool:
            yield slots, lambda *call: pool.submit(work, *call)

    def tell(self, busy: Message[Any] | None = None) -> None:
        """Say in `run/` how we are, at most four times a second."""
        self._status.write(
            self.consumer.folder,
            {
                "bell": self._wake.bell,
                "watch": self._wake.trouble,
                "announced": self.announced,
                "missed": self.missed,
                "handled": self.handled,
                "busy": busy.id if busy is not None else None,
            },
        )

    def _handle(self, handlers: Handlers, message: Message[Any]) -> None:
        handler = handlers.find(message.type)
        if handler is None:  # its type was wanted when it was taken
            message.hand_back()
            return
        self.tell(message)
        try:
            value = self._call(handler, handler.prepare(message))
        except BaseException as error:
            self.conclude(message, error)
            if not isinstance(error, Exception):
                raise
        else:
            self.succeed(message, value)

    def _call(self, handler: Handler, message: Message[Any]) -> Any:
        if handler.timeout is None:
            return handler.function(message)
        return _within(handler.timeout, handler.function, message)

    def succeed(self, message: Message[Any], value: Any) -> None:
        """Settle a message whose handler returned *value*: answer, then ack. Never raises."""
        self.handled += 1
        try:
            _answer(message, value)
            message.ack()
        except Exception as error:  # noqa: BLE001  # a full disk, a reply that is no JSON: told, and tried again
            self.conclude(message, error)

    def conclude(self, message: Message[Any], error: BaseException) -> None:
        """Settle a message whose handler raised. Never raises: what cannot be settled now is handed back at the end."""
        try:
            if isinstance(error, Malformed):
                message.reject(error.reason)
            elif not message.conclude(error) and isinstance(error, Exception):
                log.warning("the handler of %s failed: %s: %s", message.id, type(error).__name__, error)
        except (MailboxError, OSError) as trouble:
            log.error("%s could not be settled, and comes back: %s", message.id, trouble)

    def _take(self) -> Message[Any] | None:
        try:
            message = self.consumer.take()
        except (NotThere, Storage) as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                log.error("taking mail does not work, trying again every second: %s", error)
            self._stopping.wait(_TROUBLE if isinstance(error, Storage) else _TROUBLE / 4)
            return None
        if self._trouble is not None:
            log.warning("taking mail works again")
            self._trouble = None
        return message

    def _count(self, message: Message[Any], by_timer: bool) -> None:
        if message.attempt > 1 or message.deliver_after is not None:
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
    except InvalidBody:
        raise
    except (Invalid, NotThere) as error:
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
