"""Mailbox: the face that users see."""

from __future__ import annotations

import os
import time
from contextlib import aclosing, contextmanager

from .environment import key_folders, own_name, root_path, switch
from .errors import (
    BodyTypeError,
    InvalidBodyError,
    InvalidRequestError,
    MailboxError,
    NotMailError,
    PartialDeliveryError,
    quoted,
)
from .format.address import is_group, parse_address
from .format.envelope import encode
from .format.times import in_seconds
from .options import SPECIAL, resolve_options
from .receive.message import Message
from .settings import MAX_ATTEMPTS, MAX_RETRY_DELAY, MAX_SIZE, POLL_INTERVAL, RETRY_DELAY, Settings
from .store.box import create_box
from .store.deliver import deliver, deliver_many
from .store.ids import new_id
from .store.root import find_root, init_root
from .trust.levels import NONE, PROVEN, SEALED, SIGNED, parse_min_trust, protection_for
from .wake.doorbell import Ringer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from datetime import datetime, timedelta
    from types import TracebackType
    from typing import Any, Self, TypeVar, Unpack, overload

    from .format.address import Address
    from .receive.handlers import HandlerRegistry
    from .receive.listener import Listener
    from .receive.receiver import Receiver
    from .store.replies import PendingRequest
    from .trust.keyring import Keyring
    from .trust.verifier import Verifier
    from .wake.waker import Waker
if TYPE_CHECKING:
    from .options import Options

if TYPE_CHECKING:
    T = TypeVar("T")
    F = TypeVar("F", bound=Callable[..., Any])


class Mailbox:
    """One agent's mail: send to any box, receive from one's own.

    Safe to share between threads; in the child of a fork it starts anew. Use it in a `with` block, or close() it: what
    is held goes back at once. A process that just ends gives it back as well, as one more attempt.
    """

    _lazy_receiver: Receiver | None = None
    _lazy_verifier: Verifier | None = None
    _keys: Keyring | None = None
    _lazy_waker: Waker | None = None

    def __init__(
        self,
        name: str | None = None,
        root: str | os.PathLike[str] | None = None,
        *,
        durable: bool = True,
        max_size: int = MAX_SIZE,
        max_attempts: int = MAX_ATTEMPTS,
        retry_delay: float = RETRY_DELAY,
        max_retry_delay: float = MAX_RETRY_DELAY,
        retention: float | timedelta | None = None,
        poll_interval: float = POLL_INTERVAL,
        lease: float | timedelta | None = None,
        ledger_dir: str | os.PathLike[str] | None = None,
        key_dir: str | os.PathLike[str] | None = None,
        registry: str | os.PathLike[str] | None = None,
        min_trust: str | None = None,
        seal: bool | None = None,
        sign: bool | None = None,
    ) -> None:
        """Open the mail of the agent *name* (default: $MAILBOX_AGENT) in *root* (default: $MAILBOX_ROOT, else /mail).

        durable       flush every message to the disk before send() returns; without it a power cut loses the last ones
        max_size      bytes that a message may have, sent or received
        max_attempts  how often a message is tried before it becomes a dead letter
        retry_delay   seconds before the second attempt, doubled for each further one
        max_retry_delay  seconds at most between two attempts
        retention     keep handled mail in `done/` for so long (seconds or timedelta); default: delete it
        poll_interval seconds between two looks when nothing announces mail; less costs an idle listener more
        lease         what is received stays ours for so long (seconds or timedelta) when this process is gone; any
                      process of ours settles it with leased(), or it comes back. Default: it comes back at once
        ledger_dir    a folder for the keys already handled; needed outside the root where all agents share a uid
        key_dir       the private folder with our own `NAME.key` and with pins (default: $MAILBOX_KEY_DIR, else
                      ~/.config/mailbox where there is one)
        registry      a folder of public keys that the operator mounts read-only (default: $MAILBOX_REGISTRY)
        min_trust     the least proof of a sender that is taken: `none`, `uid`, `relay`, `signed` or `sealed` (default:
                      $MAILBOX_MIN_TRUST, else `none`); with the last two, what is sent is signed or sealed as well
        seal          seal all that is sent, where send() does not say (default: $MAILBOX_SEAL, 1 or 0, else no)
        sign          the same for signing (default: $MAILBOX_SIGN, else whenever a key of ours is at hand: who has
                      pinned it takes nothing else from us)

        Raises RootNotFoundError, InvalidAddressError, InvalidRequestError. The box itself need not exist to send
        from it.
        """
        self.root = find_root(root_path(root))
        self.name = parse_address(name if name is not None else own_name())
        self.durable, self.max_size = durable, max_size
        self._rules = Settings(
            max_size,
            max_attempts,
            retry_delay,
            max_retry_delay,
            in_seconds(retention),
            poll_interval,
            os.fspath(ledger_dir) if ledger_dir else None,
        )
        self._lease = in_seconds(lease)
        self._folders = key_folders(key_dir, registry)
        self._min_trust = parse_min_trust(min_trust or os.environ.get("MAILBOX_MIN_TRUST") or NONE, any(self._folders))
        seal, sign = switch("MAILBOX_SEAL", seal), switch("MAILBOX_SIGN", sign)
        self._how: str | None = None
        if seal or (seal is None and protection_for(self._min_trust) == SEALED):
            self._how = SEALED
        elif sign or (sign is None and self._min_trust in PROVEN):
            self._how = SIGNED
        self._unsaid = self._how is None and sign is None and self._folders[0] is not None
        self._path = self.root.box(self.name)
        self._ringer = Ringer(self.root.path)
        self._addresses: dict[str, Address] = {}
        self._listeners: set[Listener] = set()
        self._registry: HandlerRegistry | None = None

    @classmethod
    def init(cls, name: str, root: str | os.PathLike[str] | None = None, **settings: Any) -> Self:
        """Make the box *name*, and the root where there is none, and open it. Made before: just open it."""
        found = init_root(root_path(root))
        create_box(found, parse_address(name))
        return cls(name, found.path, **settings)

    @property
    def _receiver(self) -> Receiver:
        if self._lazy_receiver is None:
            from .receive.receiver import Receiver  # a process that only sends needs none of that

            taker = None
            if self._lease is not None:
                from .receive.leases import NewLease
                from .store.spool import Spool

                taker = Spool(self.root, self.name, self._rules, NewLease(self._rules, self._lease))
            mine = Receiver(self.root, self.name, self._rules, self.send, self._verifier, taker)
            vars(self).setdefault("_lazy_receiver", mine)  # in one step: another thread may be here, too
            assert self._lazy_receiver is not None
        return self._lazy_receiver

    @property
    def _verifier(self) -> Verifier:
        if self._lazy_verifier is None:
            from .trust.verifier import Verifier

            keyring = self.keyring if any(self._folders) else None
            vars(self).setdefault("_lazy_verifier", Verifier(self.root, self.name, keyring, self._min_trust))
            assert self._lazy_verifier is not None
        return self._lazy_verifier

    @property
    def keyring(self) -> Keyring:
        """Our own keys, and those of others that we know: to show, pin and unpin."""
        if self._keys is None:
            from .trust.keyring import Keyring  # brings nacl along, which takes longer to import than a message to send

            vars(self).setdefault("_keys", Keyring(self.name, self.root, *self._folders))
            assert self._keys is not None
        return self._keys

    @property
    def _wake(self) -> Waker:
        if self._lazy_waker is None:
            from .wake.waker import Waker

            vars(self).setdefault("_lazy_waker", Waker(self._path, self._rules.poll_interval))
            assert self._lazy_waker is not None
            self._lazy_waker.cost = lambda: self._lazy_receiver.cost() if self._lazy_receiver is not None else 0.0
        return self._lazy_waker

    @property
    def _handlers(self) -> HandlerRegistry:
        if self._registry is None:
            from .receive.handlers import HandlerRegistry

            self._registry = HandlerRegistry()
        return self._registry

    # Sending

    def send(self, to: str, body: Any = None, **options: Unpack[Options]) -> str:
        """Put a message into the box *to*. Returns its id; once it does, the message survives kill -9 and a power cut.

        Where there is no box *to*, and a relay carries our mail, it goes to our outbox. *to* may also be `all`, or
        `team:GROUP`: then it goes to each of them, under one id, and PartialDeliveryError is raised where it did not
        go to everyone.

        body         any JSON, a dataclass, a pydantic model …
        type         what kind of message it is; receivers choose handlers by it
        subject      a line for people
        thread       the conversation it belongs to
        in_reply_to  the id of the message that it answers
        ttl          after so many seconds (or at that time) it is worthless, and becomes a dead letter
        delay        deliver it in so many seconds (or at that time), not now
        idempotency_key of all messages from one sender with one key, one is handled: sending again is harmless; at most
                     1024 bytes
        headers      strings for programs, such as a traceparent
        hops         how many answers in a row it is the last of; reply() counts them
        id           only to send again what an DurabilityUnknownError error speaks of
        seal         so that only the recipient can read it, and knows that it is from us
        sign         readable by all, and the recipient knows that it is from us: the default where a key of ours is at
                     hand. sign=False: neither

        Raises BoxNotFoundError for an unknown recipient, InvalidBodyError, DiskFullError, PermissionDeniedError,
        KeyNotFoundError where sealing lacks a key, ours
        or theirs: nothing was delivered. Raises DurabilityUnknownError
        where it was, and the disk did not confirm it: send it again with `id=error.id`.
        """
        address = self._addresses.get(to)
        if address is None:
            if is_group(to):
                return self._send_to_all(to, body, options)
            address = self._address(to)
        how = self._usually() if self._unsaid else self._how
        id, how = (new_id(), how) if SPECIAL.isdisjoint(options) else resolve_options(options, how)
        data = encode(id, self.name, address, body, options, 1 if how else None)
        if how or len(data) > self.max_size:
            data = self._secured(id, address, data, how)
        answers = options.get("in_reply_to")
        deliver(self.root, address, id, data, durable=self.durable, answers=answers, sender=self.name)
        self._ringer.ring(address, look=answers is not None)
        return id

    def send_group(self, to: str, body: Any = None, **options: Unpack[Options]) -> dict[str, str | MailboxError]:
        """send() to a group, one result for each recipient: the id, which is the same for all, or what went wrong.

        Where a relay must say who belongs to the group, the one result is that of *to* itself.
        """
        from .store import groups

        id, how = resolve_options(options, self._usually())
        results: dict[str, str | MailboxError] = {}
        for name in groups.members(self.root, to, self.name) if is_group(to) else [to]:
            try:
                data = self._encode(id, name, body, options, how)
                answers = options.get("in_reply_to")
                deliver(self.root, name, id, data, durable=self.durable, answers=answers, sender=self.name)
                results[name] = id
            except MailboxError as error:
                results[name] = error
            self._ringer.ring(name, look=options.get("in_reply_to") is not None)
        return results

    def _send_to_all(self, to: str, body: Any, options: Options) -> str:
        results = self.send_group(to, body, **options)  # ** copies them: they are used up there
        failed = {name: result for name, result in results.items() if isinstance(result, MailboxError)}
        if failed:
            if len(failed) == len(results) == 1:
                raise next(iter(failed.values()))
            raise PartialDeliveryError(to, [name for name in results if name not in failed], failed)
        return next(str(id) for id in results.values())

    def send_many(self, to: str, bodies: Iterable[Any], **options: Unpack[Options]) -> list[str]:
        """Put a message for each of *bodies* into the box *to*, and flush them together. Returns their ids, in order.

        *options* are those of send(), the same for all. *bodies* may be a generator. When one of them fails, those
        before it are delivered, and the exception says which: its attribute `sent` holds their ids.
        """
        if options.get("id") is not None:
            raise InvalidRequestError("send_many() makes its own ids: send one message again with send(id=…)")
        if is_group(to):
            return self._send_many_to_all(to, bodies, options)
        address = self._address(to)
        _, how = resolve_options(options, self._usually())
        ids = ((new_id(), body) for body in bodies)
        messages = ((id, self._encode(id, address, body, options, how)) for id, body in ids)
        try:
            return deliver_many(self.root, address, messages, durable=self.durable, sender=self.name)
        finally:
            self._ringer.ring(address)

    def _send_many_to_all(self, to: str, bodies: Iterable[Any], options: Options) -> list[str]:
        sent: list[str] = []
        try:
            sent.extend(self._send_to_all(to, body, options) for body in bodies)
        except BaseException as error:
            error.sent = sent  # type: ignore[attr-defined]  # as deliver_many() does
            raise
        return sent

    def _usually(self) -> str | None:
        """How what is sent is proven, where neither the call nor a setting says: signed, if there is a key of ours."""
        if not self._unsaid:
            return self._how
        try:
            os.lstat(f"{self._folders[0]}/{self.name}.key")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:  # there may be one: the keyring says what keeps us from it
            return SIGNED
        return SIGNED

    def _encode(self, id: str, to: str, body: Any, options: Mapping[str, Any], how: str | None) -> bytes:
        return self._secured(id, to, encode(id, self.name, to, body, options, 1 if how else None), how)

    def _secured(self, id: str, to: str, data: bytes, how: str | None) -> bytes:
        """Sealed or signed, where that is wanted, and not too large."""
        if how:
            data = self.keyring.seal(to, id, data) if how == SEALED else self.keyring.sign(data)
        if len(data) > self.max_size:
            raise InvalidBodyError(
                f"the message has {len(data)} bytes, and {self.max_size} is the limit: "
                "put what is large in a file and send its path"
            )
        return data

    def _address(self, to: str) -> Address:
        address = self._addresses[to] = parse_address(to)
        return address

    # Receiving

    if TYPE_CHECKING:  # typing takes longer to import than a message to send

        @overload
        def receive(self, timeout: float | None = 0) -> Message[Any] | None: ...
        @overload
        def receive(self, timeout: float | None = 0, *, into: type[T]) -> Message[T] | None: ...

    def receive(self, timeout: float | None = 0, *, into: Any = None) -> Message[Any] | None:
        """Take the next message, waiting *timeout* seconds for one (0: do not wait; None: for ever). None: none came.

        It is yours until you settle it: ack(), retry(), reject(), or a `with` block. *into* is the type of body that
        you can handle: a dataclass, a pydantic model, `list[int]` …; a message with another body becomes a dead letter.

        Raises BoxNotFoundError where the box does not exist.
        """
        if timeout == 0:
            return self._receiver.take(into)
        deadline = None if timeout is None else time.monotonic() + timeout
        empty = 0
        while True:
            heard = self._wake.arm()
            message = self._receiver.take(into)
            left = _left(deadline)
            if message is not None or left <= 0:
                return message
            empty += 1
            self._wake.wait(min(left, self._receiver.next_due() or left), heard, empty)

    if TYPE_CHECKING:  # typing takes longer to import than a message to send

        @overload
        async def areceive(self, timeout: float | None = 0) -> Message[Any] | None: ...
        @overload
        async def areceive(self, timeout: float | None = 0, *, into: type[T]) -> Message[T] | None: ...

    async def areceive(self, timeout: float | None = 0, *, into: Any = None) -> Message[Any] | None:
        """receive(), for asyncio. Cancelled, it gives back what it may have taken."""
        from .receive import aio  # asyncio costs more to import than a message to send

        return await aio.receive(self._wake, self._receiver, timeout, into)

    def request(
        self, to: str, body: Any = None, *, timeout: float | None = 30, into: Any = None, **options: Unpack[Options]
    ) -> Message[Any]:
        """Send a message and wait *timeout* seconds for the answer, which is returned, settled.

        Whoever gets the request answers it with Message.reply() or `mailbox reply`. An answer that comes too late
        becomes ordinary mail in the own box; so does what is not from *to* (of a group: from a member), or not proven
        where mail of that sender can be. *options* are those of send().

        Raises TimeoutError where none came, BodyTypeError where its body is not *into*: then it is ordinary mail, too.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        id = options.pop("id", None) or new_id()
        options["id"] = id
        empty = 0
        with self._asking(id, to) as asking:
            self.send(to, body, **options)
            while True:
                heard = self._wake.arm()
                answer = self._answer(asking, into)
                if answer is not None:
                    return answer
                left = _left(deadline)
                if left <= 0:
                    raise TimeoutError(f"no answer from {quoted(to)} to {id} within {timeout:g} s")
                empty += 1
                self._wake.wait(left, heard, empty)

    async def arequest(
        self, to: str, body: Any = None, *, timeout: float | None = 30, into: Any = None, **options: Unpack[Options]
    ) -> Message[Any]:
        """request(), for asyncio."""
        from .receive import aio

        id = options.pop("id", None) or new_id()
        options["id"] = id
        asking = self._asking(id, to)
        return await aio.request(
            self._wake,
            asking,
            lambda: self.send(to, body, **options),
            lambda: self._answer(asking, into),
            timeout,
            f"no answer from {quoted(to)} to {id}",
        )

    def _asking(self, id: str, to: str) -> PendingRequest:
        if not self.root.has(self.name):
            raise self.root.missing(self.name)  # there is no box that an answer could come to
        from .store.replies import PendingRequest

        asked: list[str] = [to]
        if is_group(to):
            from .store import groups

            asked = groups.members(self.root, to, self.name)
        return PendingRequest(self._path, id, None if asked == [to] and is_group(to) else frozenset(asked))

    def _answer(self, asking: PendingRequest, into: Any) -> Message[Any] | None:
        for file in asking.answers(self.max_size):
            try:
                message = self._receiver.answer(file, asking.request, asking.asked, into)
            except BodyTypeError:
                raise
            except NotMailError as error:
                asking.refuse(file, error.reason)
                continue
            asking.accept(file[0])
            return message
        return None

    async def asend(self, to: str, body: Any = None, **options: Unpack[Options]) -> str:
        """send(), off the event loop: a durable send waits for the disk."""
        from .receive import aio

        return await aio.off_loop(lambda: self.send(to, body, **options))

    async def asend_many(self, to: str, bodies: Iterable[Any], **options: Unpack[Options]) -> list[str]:
        """send_many(), off the event loop."""
        from .receive import aio

        return await aio.off_loop(lambda: self.send_many(to, bodies, **options))

    # Listening

    def on(self, *types: str, timeout: float | None = None) -> Callable[[F], F]:
        """Let the decorated function handle messages of these *types*; without one, all that no other handles.

        It takes the message; annotated `Message[Job]`, its body is validated before, and what is no Job becomes a dead
        letter. What it returns, unless None, is the reply. When it returns, the message is acked; Retry and Reject are
        honoured; another exception retries with backoff, and ends as a dead letter with the traceback. *timeout* is in
        seconds: then the message is put back. An async handler is cancelled then; one that is not runs on in a thread,
        for Python cannot end it. Messages of types that nobody handles are left waiting.
        """

        def register(function: F) -> F:
            self._handlers.add(types, function, timeout)
            return function

        return register

    def run(self, *, workers: int = 1, drain: bool = False) -> None:
        """Call the handlers for messages as they come, until SIGTERM, SIGINT or stop().

        What is held is finished then; a second signal ends the process at once. With one worker, messages are handled
        in this thread, one after the other, in order; with more, in so many threads. *drain* returns when there is no
        more mail.

        Handlers that are coroutines run in an event loop of their own. Raises BoxNotFoundError where the box does
        not exist.
        """
        self._need_handlers()
        if self._handlers.asynchronous:
            from .receive import aio

            aio.run(self.arun(workers=workers, drain=drain))
            return
        from .receive.listener import signals

        with self.listening() as listener, signals(listener.stop):
            listener.run(self._handlers, workers, drain)

    async def arun(self, *, workers: int = 1, drain: bool = False) -> None:
        """run(), in a running event loop: handlers that are not coroutines run in threads.

        Cancelling it cancels the handlers and hands back what they held.
        """
        from .receive import aio
        from .receive.listener import signals

        self._need_handlers()
        with self.listening() as listener, signals(listener.stop):
            await aio.listen(listener, self._handlers, workers, drain)

    def __iter__(self) -> Iterator[Message[Any]]:
        """Messages as they come, each yours to settle: `for message in box: with message: …`. Ends with stop()."""
        with self.listening() as listener:
            yield from listener.messages()

    async def __aiter__(self) -> AsyncIterator[Message[Any]]:
        """Messages as they come, each yours to settle: `async for message in box: async with message: …`."""
        from .receive import aio

        with self.listening() as listener:
            async with aclosing(aio.messages(listener)) as messages:
                async for message in messages:
                    yield message

    def stop(self) -> None:
        """End run(), arun() and the loops over this mailbox, when what they hold is finished. From any thread.

        Where none has begun yet, nothing happens.
        """
        for listener in list(self._listeners):
            listener.stop()

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """The loop that run() runs, for programs that want to hold it in their own hands. At the end all is let go."""
        from .receive.listener import Listener

        listener = Listener(self._receiver, self._wake)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            listener.close()
            self._listeners.discard(listener)
            if not self._listeners:
                self._receiver.only(None)
                self.close()

    def _need_handlers(self) -> None:
        if not self._handlers:
            raise InvalidRequestError("there is no handler: decorate a function with @box.on() before run()")

    def leased(self, part: str) -> AbstractContextManager[Message[Any]]:
        """The one message under a lease, of any process, whose id holds *part*: settle it within a `with` block.

        Not settled there, it stays leased. Raises MessageNotFoundError for none or several, NotClaimedError where it
        is not under a lease.
        """
        from .receive import leases

        return leases.leased(self.root, self.name, part, self._rules, self.send, self._verifier)

    @property
    def leased_until(self) -> datetime | None:
        """Until when what this mailbox holds stays ours when this process is gone; None where that is not leased."""
        from .receive.leases import leased_until

        return leased_until(self._receiver.folder or "")

    # Looking

    def peek(self, *states: str) -> Iterator[Message[Any]]:
        """The messages in these *states*, not taken and not touched: look, and leave them where they are.

        States are the folders of a box: `new` and `later` (the default: what waits), `cur` (held), `dead`, `done`.
        What is not mail has a `problem`. Settling one of them raises NotClaimedError.
        """
        from .receive import peek

        return peek.peek(self.root, self.name, states or ("new", "later"), self.max_size, self._verifier)

    def find(self, part: str, *states: str) -> Message[Any]:
        """The one message whose id holds *part*, in any of these *states* (default: all), not taken and not touched.

        Raises MessageNotFoundError where there is none, or several.
        """
        from .receive import peek

        return peek.find(self.root, self.name, part, states or peek.STATES, self.max_size, self._verifier)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is a message to receive(), and leave it there. False: none came in *timeout* seconds."""
        from .receive.ready import ready

        if ready(self.root, self.name, self._rules, self._verifier):
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        empty = 0
        while _left(deadline) > 0:
            heard = self._wake.arm()
            if ready(self.root, self.name, self._rules, self._verifier):
                return True
            empty += 1
            self._wake.wait(_left(deadline), heard, empty)
        return False

    def dead_reason(self, dead: Message[Any]) -> str:
        """All that is known of why it is a dead letter: the reason, and often a traceback or what a command said."""
        from .receive import peek

        return peek.why(self.root, self.name, dead.name) or dead.problem or "nobody wrote down why"

    def requeue(self, dead: str | Message[Any]) -> str:
        """Deliver a dead letter (or a part of its id) once more, its attempts counted anew and its expiry forgotten.

        You may have mended the file in `dead/` before. Returns its id. Raises MessageNotFoundError.
        """
        message = self.find(dead, "dead") if isinstance(dead, str) else dead
        back = self._receiver.requeue(message.name)
        self._ringer.ring(self.name)
        return back

    def purge(self, dead: str | Message[Any]) -> str:
        """Delete a dead letter (or a part of its id) and the note beside it. Returns its id. Raises "
        "MessageNotFoundError."""
        message = self.find(dead, "dead") if isinstance(dead, str) else dead
        self._receiver.purge(message.name)
        return message.id

    # Leaving

    def close(self) -> None:
        """Give back what is held, the attempt not counted, and let go of everything. It can be used again after."""
        if self._lazy_receiver is not None:
            self._lazy_receiver.close()
        if self._lazy_waker is not None:
            self._lazy_waker.close()
        self._ringer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from .receive import aio

        await aio.off_loop(self.close)

    def __repr__(self) -> str:
        return f"Mailbox({self.name!r}, {self.root.path!r})"


def _left(deadline: float | None) -> float:
    return float("inf") if deadline is None else deadline - time.monotonic()
