"""The loop of a consumer: wait, claim, call the handler, settle; until stop().

An exception in a handler settles its message and nothing else. A disk that fails, a box that is moved away and a watch
that breaks are logged once; the listener continues when they are over. At the end it finishes the messages at work,
releases the others, and leaves no thread behind.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from .. import log
from ..errors import (
    InvalidBodyError,
    InvalidRequestError,
    KeyNotFoundError,
    MailboxError,
    NotFoundError,
    NotMailError,
    Reject,
    Retry,
)
from ..store.ids import timestamp_now
from ..wake.waker import Waker
from .handlers import Handler, HandlerRegistry
from .message import Message, one_line_error, traceback_text
from .receiver import Receiver
from .status import ListenerStatus

STORAGE_RETRY_DELAY: Final = 1.0
"""Seconds until the next claim after a disk error."""

MISSING_BOX_RETRY_DELAY: Final = 0.1
"""Seconds until the next claim if the box is missing: it may be about to be created again."""

MISSED_AFTER: Final = 100_000_000
"""Nanoseconds that mail waits before a poll that finds it counts a missed notification."""

T = TypeVar("T")


class WorkerSlots:
    """The free workers, as a semaphore. Only a message that has a free worker is claimed.

    Not a threading.Semaphore: that is written in Python, and the thread that claims would hold the interpreter lock in
    it while the event loop that it has just woken waits for that lock.
    """

    def __init__(self, free: int) -> None:
        self._free: SimpleQueue[bool] = SimpleQueue()
        self.release(free)
        self.acquire = self._free.get
        """Wait for a free worker and occupy it. Returns True."""

    def release(self, n: int = 1) -> None:
        """Mark *n* workers free."""
        for _ in range(n):
            self._free.put(True)


class Listener:
    """The loop of one consumer. Iterate over messages() yourself, or let run() call handlers."""

    def __init__(self, receiver: Receiver, waker: Waker) -> None:
        self.receiver, self.waker = receiver, waker
        self.stopping = False
        """True after stop()."""
        self._trouble: str | None = None
        self._fatal: BaseException | None = None
        self.announced = 0
        """Number of messages that the doorbell or a notification announced."""
        self.missed = 0
        """Number of messages that waited more than 100 ms until a poll found them: their notifications never came."""
        self.paused: str | None = None
        """Error for which nothing is claimed now; None if all is well."""
        self._paused_since, self._paused_hint = "", ""
        self._types: list[str] | None = None
        self.on_tick: list[Callable[[], object]] = [self.write_status]
        """Functions that tick() calls. Append to it."""
        self._status = ListenerStatus(waker.box)

    def tick(self) -> None:
        """Call the functions in `on_tick`. Happens before each wait and each message: at least at every poll, unless
        a handler is at work in this thread."""
        for function in self.on_tick:
            function()

    def stop(self) -> None:
        """End the loop when the messages at work are finished. Call it from any thread or signal handler."""
        self.stopping = True  # not an Event: a signal handler that interrupts its own thread inside one would deadlock
        self.waker.wake_all()

    def close(self, error: BaseException | None = None) -> None:
        """Remove the status file. If an *error* ends the listener, leave it there with the error."""
        if isinstance(error, MailboxError | OSError):
            self._status.leave(self.receiver.folder, self._report(), one_line_error(error))
        else:
            self._status.close()

    def pause(self, reason: str, hint: str | None = None) -> None:
        """Report that nothing is claimed now, and why not."""
        if self.paused is None:
            self._paused_since = timestamp_now()
        self.paused, self._paused_hint = reason, hint or ""

    def resume(self) -> None:
        """Report that messages are claimed again."""
        self.paused = None

    @property
    def handled(self) -> int:
        """Number of messages that were acked."""
        return self.receiver.tally.handled

    def open(self, drain: bool = False) -> None:
        """Open the box and watch it. Raises BoxNotFoundError, RootNotFoundError: later on they are only logged."""
        self.receiver.open()
        if not drain:
            self.waker.watch()

    def messages(
        self, drain: bool = False, retries: bool = False, patience: float | None = None
    ) -> Generator[Message[Any], None, None]:
        """Yield messages for the caller to settle, until stop(), or *patience* seconds without one.

        With *drain*, until none is left that can be claimed now; with *retries*, none that failed and comes back, too.

        Claiming once more before arming again saves the waiting message the cost of arming, 8 to 11 % of a callback.
        Until then the doorbell is readable and a ring adds nothing. After a flood of rings it arms at once.
        """
        self.open(drain)
        by_timer, empty, generation = False, 0, self.waker.arm()
        deadline = _deadline(patience)
        while not self.stopping:
            empty += 1
            while not self.stopping and (message := self.take(generation)) is not None:
                self.count(message, by_timer)
                self.tick()
                empty = 0
                yield message
                deadline = _deadline(patience)
            longest = self.before_wait() if not drain else (self.receiver.next_retry() if retries else None)
            if longest is None or self.stopping or time.monotonic() >= deadline:
                return
            source = self.waker.wait(min(longest, deadline - time.monotonic()), generation, empty)
            by_timer = source == "timer"
            announced = source not in ("timer", "flood") and not self.stopping
            if announced and (message := self.take(generation)) is not None:
                empty = 0
                yield message
                deadline = _deadline(patience)
                self.count(message, by_timer)  # after the handler: the message is what waits
            generation = self.waker.arm()

    def claims(
        self, slots: WorkerSlots, workers: int, drain: bool, retries: bool = False
    ) -> Generator[Message[Any], None, None]:
        """Yield messages(), each once a worker is free in *slots*: no message is claimed before its worker is."""
        again = True
        while again:
            again = False
            with contextlib.closing(self.messages(drain, retries)) as messages:
                while slots.acquire():
                    message = None if self.stopping else next(messages, None)
                    if message is None:
                        slots.release()
                        break
                    again = drain and workers > 1
                    yield message
            if again:  # the messages at work may bring more mail
                for _ in range(workers):
                    slots.acquire()
                slots.release(workers)

    def before_wait(self) -> float:
        """Tick, and return the longest time to wait, in seconds."""
        self.tick()
        due = self.receiver.next_due()
        return float("inf") if due is None else due

    def run(
        self,
        handlers: HandlerRegistry,
        workers: int,
        drain: bool = False,
        limit: int | None = None,
        *,
        retries: bool = False,
    ) -> None:
        """Call handlers for *limit* messages, or until stop(). One worker is this thread."""
        self.set_types(handlers.types())
        if workers == 1:
            with contextlib.closing(self.messages(drain, retries)) as messages:
                for message in itertools.islice(messages, limit):
                    self._handle(handlers, message)
            return
        with (
            self._pool(workers) as (slots, submit),
            contextlib.closing(self.claims(slots, workers, drain, retries)) as claims,
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

    def write_status(self) -> None:
        """Write the status file in `run/`, at most four times a second."""
        if self._status.is_fresh:
            return
        self._status.write(self.receiver.folder, self._report())

    def _report(self) -> dict[str, Any]:
        """Return the members of the status file that describe this listener."""
        return {
            "interval": self.waker.interval,
            "bell": self.waker.bell,
            "watch": self.waker.trouble,
            "types": self._types,
            "announced": self.announced,
            "missed": self.missed,
            **self.receiver.tally.as_dict(),
            "paused": self.paused,
            "paused_since": self._paused_since if self.paused is not None else None,
            "paused_hint": self._paused_hint if self.paused is not None else None,
        }

    def set_types(self, types: frozenset[str | None] | None) -> None:
        """Claim only messages of these *types*; None claims all."""
        self.receiver.set_type_filter(types)
        self._types = sorted(kind or "" for kind in types) if types is not None else None

    def _handle(self, handlers: HandlerRegistry, message: Message[Any]) -> None:
        handler = self.select_handler(handlers, message)
        if handler is None:
            return
        try:
            function, timeout = handler.function, handler.timeout
            value = function(message) if timeout is None else call_with_timeout(timeout, function, message)
        except BaseException as error:
            self.settle_after(message, error)
            if not isinstance(error, Exception):
                raise
        else:
            self.on_success(message, value)

    def select_handler(self, handlers: HandlerRegistry, message: Message[Any]) -> Handler | None:
        """Return the handler for *message*, whose body is converted for it; None if that settled it. Never raises."""
        handler = handlers.find(message.type)
        try:
            if handler is None:  # the type filter accepted it when it was claimed
                message.release()
                return None
            if handler.body_type is not None:
                handler.convert_body(message)
        except NotMailError as error:
            reason = error.reason
            self._settle(message, lambda: message.reject(reason))
            return None
        except Exception as error:  # noqa: BLE001  # a validator that fails
            self.settle_after(message, error)
            return None
        return handler

    def on_success(self, message: Message[Any], value: Any) -> None:
        """Settle a message whose handler returned *value*: reply, then ack. Never raises."""
        try:
            _reply(message, value)
            message.ack()
        except Exception as error:  # noqa: BLE001  # a full disk, a reply that is not JSON: retried
            self.settle_after(message, error)

    def settle_after(self, message: Message[Any], error: BaseException) -> None:
        """Settle a message whose handler raised. Never raises: what cannot be settled now is released at the end."""
        if isinstance(error, Exception) and not isinstance(error, Retry | Reject):
            details = traceback_text(error)
            log.warning(
                "the handler of %s failed, attempt %d: %s\n%s",
                message.id,
                message.attempt,
                one_line_error(error),
                details,
                traceback=details,
                event="failed",
                box=self.receiver.address,
                id=message.id,
                attempt=message.attempt,
                consumer=self.receiver.folder,
            )
        self._settle(message, lambda: message.settle_after(error))

    def release_quietly(self, message: Message[Any]) -> None:
        """Release it, unless it is settled. Never raises."""
        self._settle(message, message.release)

    def _settle(self, message: Message[Any], settle: Callable[[], T]) -> T | None:
        try:
            return settle()
        except Exception as trouble:  # noqa: BLE001  # nothing that a handler does ends the listener
            log.error("%s could not be settled; it will be delivered again: %s", message.id, one_line_error(trouble))
            return None

    def take(self, generation: int) -> Message[Any] | None:
        """Claim the next message; None if there is none now, or, after a pause, if the disk or the box fails."""
        try:
            message = self.receiver.take()
        except KeyNotFoundError:
            raise  # no waiting helps: our configuration is wrong
        except (MailboxError, OSError) as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                self.pause(f"mail cannot be claimed: {error}", getattr(error, "hint", None))
                log.error("mail cannot be claimed, will retry: %s", error, event="paused", box=self.receiver.address)
            delay = STORAGE_RETRY_DELAY if isinstance(error, OSError) else MISSING_BOX_RETRY_DELAY
            self.waker.sleep_through(delay, generation)
            return None
        if self._trouble is not None:
            log.warning("mail can be claimed again", event="resumed", box=self.receiver.address)
            self._trouble = None
            self.resume()
        return message

    def count(self, message: Message[Any], by_timer: bool) -> None:
        """Count it as announced or missed. Deferred and recovered mail is never announced, and not counted."""
        if not message.from_new:
            return
        if not by_timer:
            self.announced += 1
            return
        late = time.time_ns() - int(message.sent.timestamp() * 1e9) > MISSED_AFTER
        self.missed += self.waker.note_polled(late)


def _deadline(patience: float | None) -> float:
    return float("inf") if patience is None else time.monotonic() + patience


def _reply(message: Message[Any], value: Any) -> None:
    """Send the value that a handler returned. A sender that cannot be answered is logged: the message is handled."""
    if value is None:
        return
    try:
        message.reply(value, keep=True)
    except InvalidBodyError:
        raise
    except (InvalidRequestError, NotFoundError) as error:
        log.warning("the reply to %s was not sent: %s", message.id, error)


def call_with_timeout(timeout: float, function: Callable[[Message[Any]], Any], message: Message[Any]) -> Any:
    """Call *function* in a thread and wait *timeout* seconds. Raises TimeoutError. Python cannot end the thread."""
    result: list[Any] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            result.append(function(message))
        except BaseException as error:  # noqa: BLE001  # it is raised again in the waiting thread
            failed.append(error)

    thread = threading.Thread(target=work, name=f"mailbox handler of {message.id}", daemon=True)
    thread.start()
    thread.join(timeout)
    if failed:
        raise failed[0]
    if not result:
        raise TimeoutError(f"the handler took longer than {timeout:g} s")
    return result[0]
