"""Mailbox: the public class.

It has four faces: sending, receiving, listening (callbacks), and looking into one's own box. The parts that only one of
them needs are imported and built at their first use, so that a process that only sends starts quickly.

More than 400 lines: half of them are the signatures and docstrings of the public methods.
"""

from __future__ import annotations

import contextlib
import os
import time
from contextlib import aclosing, contextmanager

from .environment import key_folders, own_name, root_path, switch, watcher_name
from .errors import (
    BodyTypeError,
    BoxNotFoundError,
    InvalidBodyError,
    InvalidRequestError,
    MailboxError,
    MessageNotFoundError,
    NotMailError,
    PartialDeliveryError,
    quoted,
)
from .format.address import is_group, parse_address
from .format.envelope import encode
from .format.times import in_seconds
from .options import resolve_options
from .receive.message import Message
from .settings import MAX_SIZE, POLL_INTERVAL, Settings
from .store.deliver import deliver, deliver_many
from .store.ids import new_id
from .store.root import find_root, init_root
from .trust.levels import NONE, PROVEN, SEALED, SIGNED, parse_min_trust, protection_for
from .wake.ringer import Ringer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from datetime import datetime, timedelta
    from types import TracebackType
    from typing import Any, Generic, Self, TypeVar, Unpack, overload

    from .annotations import F, MailboxSettings, Options, T
    from .documents.document import Document
    from .format.address import Address
    from .receive.handlers import HandlerRegistry
    from .receive.listener import Listener
    from .receive.receiver import Receiver
    from .store.replies import PendingRequest
    from .trust.keyring import Keyring
    from .trust.verifier import Verifier
    from .wake.waker import Waker

    P = TypeVar("P")
else:  # see annotations
    P, Generic = "P", {"P": object}


_BOX_POLL = 0.05  # seconds between two tries to send to a box that is not there yet


class _Lazy(Generic[P]):
    """A part of a mailbox, built at its first use."""

    def __init__(self, build: Callable[[Mailbox], P]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, box: Mailbox, owner: type) -> P:
        # In one step: another thread may build it, too. From then on the attribute hides this object.
        part: P = vars(box).setdefault(self._name, self._build(box))
        return part


def _build_settings(box: Mailbox) -> Settings:
    """Settings of this consumer: its own, else those of the box, else the defaults."""
    from .store.box_settings import read_box_settings

    of_box = read_box_settings(box._box)
    of_box["has_keys"] = of_box.pop("keys", False)
    own = {name: value for name, value in box._own_settings.items() if value is not None}
    return Settings(**{**of_box, **own})


def _build_keeps_sent(box: Mailbox) -> bool:
    """True if our box keeps copies of what we send: it has a folder `sent/` of ours. Found out at the first send."""
    try:
        return os.lstat(f"{box._box}/sent").st_uid == os.geteuid()
    except OSError:
        return False


def _build_receiver(box: Mailbox) -> Receiver:
    from .receive.receiver import Receiver

    spool = None
    if box._lease is not None:
        from .receive.leases import NewLease
        from .store.spool import Spool

        spool = Spool(box._box, box._settings, NewLease(box._settings, box._lease))
    return Receiver(box._box, box._settings, box.send, box._verifier, spool)


def _build_verifier(box: Mailbox) -> Verifier:
    from .trust.verifier import Verifier

    keyring = box.keyring if any(box._key_folders) else None
    _note_key(box, keyring)
    return Verifier(box._box, keyring, box._min_trust, needs_key=box._settings.has_keys)


def _note_key(box: Mailbox, keyring: Keyring | None) -> None:
    """Record in the settings of the box that it has a key: a consumer without one is misconfigured from then on."""
    from .store.box_settings import write_box_settings

    if keyring is not None and not box._settings.has_keys:
        with contextlib.suppress(MailboxError):  # a box of another owner, a full disk, a folder that is not there
            if keyring.has_own:
                write_box_settings(box._box, {"keys": True})


def _build_keyring(box: Mailbox) -> Keyring:
    """Our own keys, and the keys of other agents that we know: to show, pin and unpin."""
    from .trust.keyring import Keyring  # brings nacl along

    return Keyring(box.name, box.root, *box._key_folders)


def _build_waker(box: Mailbox) -> Waker:
    from .wake.waker import Waker

    def scan_cost() -> float:
        receiver: Receiver | None = vars(box).get("_receiver")
        return receiver.cost() if receiver is not None else 0.0

    return Waker(box._box.path, box._poll_interval, watcher=box._watcher, scan_cost=scan_cost)


def _plain(value: Any) -> Any:
    """Return a setting as JSON has it: a timedelta in seconds."""
    return value if value is None or isinstance(value, int) else in_seconds(value)


def _build_handlers(_box: Mailbox) -> HandlerRegistry:
    from .receive.handlers import HandlerRegistry

    return HandlerRegistry()


class Mailbox:
    """The mail of one agent: send to any box, receive from its own.

    Thread-safe. In the child of a fork it starts over. Use it in a `with` block, or close() it: then claimed messages
    go back at once, their attempt not counted. If the process just ends, they go back with the attempt counted.
    """

    _settings = _Lazy(_build_settings)
    _keeps_sent = _Lazy(_build_keeps_sent)
    _receiver = _Lazy(_build_receiver)
    _verifier = _Lazy(_build_verifier)
    keyring = _Lazy(_build_keyring)
    _waker = _Lazy(_build_waker)
    _handlers = _Lazy(_build_handlers)

    def __init__(
        self,
        name: str | None = None,
        root: str | os.PathLike[str] | None = None,
        *,
        durable: bool = True,
        max_size: int = MAX_SIZE,
        max_attempts: int | None = None,
        retry_delay: float | timedelta | None = None,
        max_retry_delay: float | timedelta | None = None,
        retention: float | timedelta | None = None,
        poll_interval: float = POLL_INTERVAL,
        watcher: str | None = None,
        lease: float | timedelta | None = None,
        ledger_dir: str | os.PathLike[str] | None = None,
        key_dir: str | os.PathLike[str] | None = None,
        registry: str | os.PathLike[str] | None = None,
        min_trust: str | None = None,
        seal: bool | None = None,
        sign: bool | None = None,
    ) -> None:
        """Open the mail of the agent *name* (default: $MAILBOX_AGENT) in *root* (default: $MAILBOX_ROOT, else /mail).

        durable          flush each message to the disk before send() returns; without it, a power cut may lose the
                         latest messages
        max_size         largest message, in bytes, that is sent or received
        max_attempts     attempts at a message before it becomes a dead letter (default: the box's setting, else 10)
        retry_delay      seconds before the second attempt, doubled for each further one (the box's, else 1)
        max_retry_delay  longest time between two attempts, in seconds (the box's, else 300)
        retention        keep handled mail in `done/` for that long, seconds or timedelta (the box's, else it is
                         deleted)
        poll_interval    seconds between two polls for mail that nothing announces; a shorter time costs an idle
                         listener more
        watcher          what finds mail that nothing rings for, such as files moved in by hand: `watchfiles`,
                         `inotify` (sooner, on Linux alone) or `poll` (for file systems without notices); default:
                         $MAILBOX_WATCHER, else `watchfiles`
        lease            keep claims for that long (seconds or timedelta) after this process has ended: any process of
                         the same owner settles them with leased(). Default: they go back at once
        ledger_dir       folder for the keys of handled mail; outside the root, if all agents share a uid
        key_dir          private folder with our own `NAME.key` and with pins (default: $MAILBOX_KEY_DIR, else
                         ~/.config/mailbox if that exists)
        registry         folder of public keys that the operator mounts read-only (default: $MAILBOX_REGISTRY)
        min_trust        lowest level of trust that is received: `none`, `uid`, `relay`, `signed` or `sealed` (default:
                         $MAILBOX_MIN_TRUST, else `none`); the last two sign or seal outgoing mail as well
        seal             seal outgoing mail, unless send() has its own seal= (default: $MAILBOX_SEAL, 1 or 0, else no)
        sign             sign outgoing mail, unless send() has its own sign= (default: $MAILBOX_SIGN, else if we have a
                         key: agents that pinned it accept nothing unsigned from us)

        Raises RootNotFoundError, InvalidAddressError, InvalidRequestError. To send, the box *name* need not exist.
        """
        self.root = find_root(root_path(root))
        self.name = parse_address(name if name is not None else own_name())
        self.durable, self.max_size = durable, max_size
        self._poll_interval, self._watcher = poll_interval, watcher_name(watcher)
        self._own_settings = {
            "max_size": max_size,
            "max_attempts": max_attempts,
            "retry_delay": in_seconds(retry_delay),
            "max_retry_delay": in_seconds(max_retry_delay),
            "retention": in_seconds(retention),
            "poll_interval": poll_interval,
            "ledger_dir": os.fspath(ledger_dir) if ledger_dir else None,
        }
        self._lease = in_seconds(lease)
        self._key_folders = key_folders(key_dir, registry)
        self._min_trust = parse_min_trust(
            min_trust or os.environ.get("MAILBOX_MIN_TRUST") or NONE, any(self._key_folders)
        )
        seal, sign = switch("MAILBOX_SEAL", seal), switch("MAILBOX_SIGN", sign)
        self._protection: str | None = None
        if seal or (seal is None and protection_for(self._min_trust) == SEALED):
            self._protection = SEALED
        elif sign or (sign is None and self._min_trust in PROVEN):
            self._protection = SIGNED
        self._sign_if_key = self._protection is None and sign is None and self._key_folders[0] is not None
        self._box = self.root.box(self.name)
        self._ringer = Ringer(self.root.path)
        self._addresses: dict[str, Address] = {}
        self._listeners: set[Listener] = set()

    @classmethod
    def init(cls, name: str, root: str | os.PathLike[str] | None = None, **settings: Unpack[MailboxSettings]) -> Self:
        """Create the box *name*, and the root, unless they exist; then open the mailbox. *settings* as in Mailbox().

        Of these, `max_attempts`, `retry_delay`, `max_retry_delay` and `retention` become settings of the box, for all
        its consumers, and so do two that only a box has: `expired_retention` (seconds or timedelta; how long mail that
        expired stays a dead letter) and `dead_retention` (all dead letters). The default keeps both until purged.
        """
        from .store.box import create_box
        from .store.box_settings import COUNTS, SPANS, write_box_settings

        found = init_root(root_path(root))
        there = found.box(parse_address(name))
        given: dict[str, Any] = dict(settings)
        of_box = {each: given.pop(each) for each in (*COUNTS, *SPANS) if each in given}
        if unknown := given.keys() - set(cls.__init__.__kwdefaults__ or ()):
            raise TypeError(f"there is no setting {', '.join(sorted(unknown))}: Mailbox() and init() list them")
        create_box(there)
        if of_box:
            write_box_settings(there, {each: _plain(value) for each, value in of_box.items()})
        return cls(name, found.path, **given)

    # Sending

    def send(self, to: str, body: Any = None, **options: Unpack[Options]) -> str:
        """Put a message into the box *to*. Returns its id. From then on the message survives kill -9 and a power cut.

        If there is no box *to*, and a relay carries our mail, the message goes to our outbox. *to* may also be `all` or
        `team:GROUP`: then it goes to each member under one id, and PartialDeliveryError is raised if some failed.

        body             any JSON, a dataclass, a pydantic model …
        type             kind of message; receivers choose handlers by it
        subject          one line for people
        thread           id of the conversation it belongs to
        in_reply_to      id of the message that it answers
        ttl              seconds (or timedelta, or a time) after which it becomes a dead letter instead
        delay            seconds (or timedelta, or a time) until it is delivered
        idempotency_key  of all messages from one sender with one key, one is handled, so that sending again does no
                         harm; at most 1024 bytes
        headers          strings for programs, such as a traceparent
        hops             length of the chain of replies that ends with it; reply() counts it
        id               only to send a message again after DurabilityUnknownError
        seal             encrypt it for the recipient and prove the sender
        sign             prove the sender, readable by anyone; the default if we have a key. sign=False: neither
        wait_for_box     seconds (or timedelta) to wait for the box *to* if it is not there yet; the default is an error

        Raises BoxNotFoundError for an unknown recipient, InvalidBodyError, DiskFullError, PermissionDeniedError, and
        KeyNotFoundError if sealing lacks a key: then nothing was delivered. Raises DurabilityUnknownError if it was
        delivered and the disk did not confirm it: send it again with `id=error.id`.
        """
        if options and options.get("wait_for_box") is not None:
            return self._send_when_there(to, body, options)
        address = self._addresses.get(to)
        if address is None:
            if is_group(to):
                return self._send_to_all(to, body, options)
            address = self._address(to)
        protection = self._default_protection() if self._sign_if_key else self._protection
        id, protection = resolve_options(options, protection) if options else (new_id(), protection)
        data = encode(id, self.name, address, body, options, 1 if protection else None)
        if protection or len(data) > self.max_size:  # as _encode() does, without a call for most messages
            data = self._protect(id, address, data, protection)
        reply_to = options.get("in_reply_to")
        if reply_to is None:
            deliver(self.root, address, id, data, durable=self.durable, sender=self.name)
        else:
            receipt = "receipt" in options  # its sender waits for it: it need not survive a power cut
            durable = self.durable and not receipt
            deliver(
                self.root, address, id, data, durable=durable, answers=reply_to, sender=self.name, is_receipt=receipt
            )
            self._ringer.look_again(address)
        self._ringer.ring(address)
        if self._keeps_sent:
            self._keep_sent(id, data, protection)
        return id

    def _send_when_there(self, to: str, body: Any, options: Options) -> str:
        """Send it as soon as there is a box *to*. Raises as send() does."""
        deadline = time.monotonic() + (in_seconds(options.pop("wait_for_box")) or 0)
        while True:
            try:
                return self.send(to, body, **options)
            except BoxNotFoundError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_BOX_POLL)

    def send_group(self, to: str, body: Any = None, **options: Unpack[Options]) -> dict[str, str | MailboxError]:
        """Send to each member of a group. Returns, by member, the id, which is the same for all, or the error.

        If a relay knows the members, the one result is that of *to* itself. *options* are those of send().
        """
        from .store import groups

        id, protection = resolve_options(options, self._default_protection())
        results: dict[str, str | MailboxError] = {}
        reply_to = options.get("in_reply_to")
        if self._keeps_sent:
            self._keep_sent(id, encode(id, self.name, to, body, options), protection)
        for name in groups.members(to, self._box) if is_group(to) else [to]:
            try:
                data = self._encode(id, name, body, options, protection)
                deliver(self.root, name, id, data, durable=self.durable, answers=reply_to, sender=self.name)
                results[name] = id
            except MailboxError as error:
                results[name] = error
            if reply_to is not None:
                self._ringer.look_again(name)
            self._ringer.ring(name)
        return results

    def _send_to_all(self, to: str, body: Any, options: Options) -> str:
        results = self.send_group(to, body, **options)  # ** copies the options, which are changed there
        failed = {name: result for name, result in results.items() if isinstance(result, MailboxError)}
        if failed:
            if len(failed) == len(results) == 1:
                raise next(iter(failed.values()))
            raise PartialDeliveryError(to, [name for name in results if name not in failed], failed)
        return next(str(id) for id in results.values())

    def send_many(self, to: str, bodies: Iterable[Any], **options: Unpack[Options]) -> list[str]:
        """Put a message for each of *bodies* into the box *to*, and flush them together. Returns their ids, in order.

        *options* are those of send(), the same for all. *bodies* may be a generator. If one of them fails, those before
        it are delivered, and the exception holds their ids in its attribute `sent`.
        """
        if options.get("id") is not None:
            raise InvalidRequestError(
                "send_many() makes its own ids, and got id=", hint="send one message again with send(id=…)"
            )
        if is_group(to):
            return self._send_many_to_all(to, bodies, options)
        address = self._address(to)
        _, protection = resolve_options(options, self._default_protection())
        ids = ((new_id(), body) for body in bodies)
        messages: Iterator[tuple[str, bytes]] = (
            (id, self._encode(id, address, body, options, protection)) for id, body in ids
        )
        if self._keeps_sent:
            messages = self._keeping_sent(messages, protection)
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

    def _keep_sent(self, id: str, data: bytes, protection: str | None) -> None:
        """Keep a copy of a message that was sent: of sealed mail only the outside."""
        from .format import codec
        from .format.envelope import decode
        from .store.sent import keep_sent

        if protection == SEALED:
            seen = decode(data)
            facts: dict[str, Any] = {
                "v": 1,
                **{name: seen[name] for name in ("id", "from", "to", "sent") if name in seen},
            }
            data = codec.dumps({**facts, "body": None}, None, codec.LINE)
        keep_sent(self._box, id, data)

    def _keeping_sent(
        self, messages: Iterable[tuple[str, bytes]], protection: str | None
    ) -> Iterator[tuple[str, bytes]]:
        """Pass messages on to their delivery, and keep a copy of each once the next is asked for."""
        for id, data in messages:
            yield id, data
            self._keep_sent(id, data, protection)

    def _default_protection(self) -> str | None:
        """Return the protection of mail if neither the call nor a setting names one: signed, if we have a key."""
        if not self._sign_if_key:
            return self._protection
        try:
            os.lstat(f"{self._key_folders[0]}/{self.name}.key")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:  # there may be one: the keyring reports the error
            return SIGNED
        return SIGNED

    def _encode(self, id: str, to: str, body: Any, options: Mapping[str, Any], protection: str | None) -> bytes:
        """Return the bytes of a message, sealed or signed if *protection* asks for it. Raises InvalidBodyError."""
        return self._protect(id, to, encode(id, self.name, to, body, options, 1 if protection else None), protection)

    def _protect(self, id: str, to: str, data: bytes, protection: str | None) -> bytes:
        """Seal or sign the bytes of a message, if *protection* asks for it. Raises InvalidBodyError if too many."""
        if protection:
            data = self.keyring.seal(to, id, data) if protection == SEALED else self.keyring.sign(data)
        if len(data) > self.max_size:
            raise InvalidBodyError(
                f"the message has {len(data)} bytes, and the limit is {self.max_size}",
                hint="put large data in a file and send its path",
            )
        return data

    def _address(self, to: str) -> Address:
        address = self._addresses[to] = parse_address(to)
        return address

    # Receiving

    if TYPE_CHECKING:

        @overload
        def receive(self, timeout: float | None = 0) -> Message[Any] | None: ...
        @overload
        def receive(self, timeout: float | None = 0, *, into: type[T]) -> Message[T] | None: ...
        @overload
        def receive(self, timeout: float | None = 0, *, into: Any) -> Message[Any] | None: ...

    def receive(self, timeout: float | None = 0, *, into: Any = None) -> Message[Any] | None:
        """Claim the next message, waiting *timeout* seconds for it (0: not at all; None: no limit). None: none came.

        The message stays claimed until you settle it: ack(), retry(), reject(), or a `with` block. *into* is the type
        of its body: a dataclass, a pydantic model, `list[int]` …; a message with another body becomes a dead letter.

        Raises BoxNotFoundError.
        """
        if timeout == 0:
            return self._receiver.take(into)
        deadline = None if timeout is None else time.monotonic() + timeout
        empty = 0
        while True:
            generation = self._waker.arm()
            message = self._receiver.take(into)
            left = _left(deadline)
            if message is not None or left <= 0:
                return message
            empty += 1
            self._waker.wait(min(left, self._receiver.next_due() or left), generation, empty)

    def receive_many(self, n: int, timeout: float | None = 0, *, into: Any = None) -> list[Message[Any]]:
        """Claim up to *n* messages, waiting *timeout* seconds for the first. Returns them in order; [] if none came.

        Each is settled by itself. Otherwise as receive().
        """
        found: list[Message[Any]] = []
        while len(found) < n and (message := self.receive(0 if found else timeout, into=into)) is not None:
            found.append(message)
        return found

    if TYPE_CHECKING:

        @overload
        async def areceive(self, timeout: float | None = 0) -> Message[Any] | None: ...
        @overload
        async def areceive(self, timeout: float | None = 0, *, into: type[T]) -> Message[T] | None: ...
        @overload
        async def areceive(self, timeout: float | None = 0, *, into: Any) -> Message[Any] | None: ...

    async def areceive(self, timeout: float | None = 0, *, into: Any = None) -> Message[Any] | None:
        """receive(), for asyncio. If it is cancelled, a message that it has claimed is released."""
        from .receive import aio

        return await aio.receive(self._waker, self._receiver, timeout, into)

    if TYPE_CHECKING:

        @overload
        def request(
            self, to: str, body: Any = None, *, timeout: float | None = 30, **options: Unpack[Options]
        ) -> Message[Any]: ...
        @overload
        def request(
            self, to: str, body: Any = None, *, timeout: float | None = 30, into: type[T], **options: Unpack[Options]
        ) -> Message[T]: ...
        @overload
        def request(
            self, to: str, body: Any = None, *, timeout: float | None = 30, into: Any, **options: Unpack[Options]
        ) -> Message[Any]: ...

    def request(
        self, to: str, body: Any = None, *, timeout: float | None = 30, into: Any = None, **options: Unpack[Options]
    ) -> Message[Any]:
        """Send a message and wait *timeout* seconds for the reply. Returns the reply, settled.

        The recipient answers with Message.reply() or `mailbox reply`. A reply that comes too late becomes ordinary mail
        in our box. So does a reply that is not from *to* (of a group: from a member), or that is not verified although
        mail of that sender can be. *options* are those of send(), *into* is the type of the reply's body.

        Raises RefusedError at once if the recipient rejects the message, TimeoutError if no reply came, and
        BodyTypeError if its body is not of the type *into*: then it becomes ordinary mail, too.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        id = options.pop("id", None) or new_id()
        options["id"] = id
        empty, kind = 0, options.get("type")
        with self._pending_request(id, to) as pending:
            self._send_expecting(to, body, options, "rejected")
            while True:
                generation = self._waker.arm()
                reply = self._take_reply(pending, into)
                if reply is not None:
                    return reply
                left = _left(deadline)
                if left <= 0:
                    raise TimeoutError(
                        f"no answer from {quoted(to)} to {id} within {timeout:g} s{self._unheard(to, kind)}"
                    )
                empty += 1
                self._waker.wait(left, generation, empty)

    async def arequest(
        self, to: str, body: Any = None, *, timeout: float | None = 30, into: Any = None, **options: Unpack[Options]
    ) -> Message[Any]:
        """request(), for asyncio."""
        from .receive import aio

        id = options.pop("id", None) or new_id()
        options["id"] = id
        pending, kind = self._pending_request(id, to), options.get("type")
        return await aio.request(
            self._waker,
            pending,
            lambda: self._send_expecting(to, body, options, "rejected"),
            lambda: self._take_reply(pending, into),
            timeout,
            lambda: self._no_answer(to, id, timeout, kind),
        )

    def send_and_wait(
        self,
        to: str,
        body: Any = None,
        *,
        until: str = "handled",
        timeout: float | None = 30,
        on_sent: Callable[[str], object] | None = None,
        **options: Unpack[Options],
    ) -> str:
        """Send a message and wait *timeout* seconds for its receipt. Returns its id.

        *until* is the stage to wait for: `taken` (a consumer has claimed it), `handled` (acked) or `rejected`.
        *on_sent* is called with the id once the message is sent. *options* are those of send(). A reply that comes
        meanwhile becomes ordinary mail in our box. A relay carries no receipts.

        Raises RefusedError if the recipient rejects the message (unless we wait for that), TimeoutError if no receipt
        came, and MailboxError if the message was handled and we wait for its rejection.
        """
        from .receive.receipts import outcome, receipts_for

        if is_group(to):
            raise InvalidRequestError(f"{quoted(to)} is a group, expected one recipient to wait for")
        deadline = None if timeout is None else time.monotonic() + timeout
        options["id"] = id = options.pop("id", None) or new_id()
        empty, kind, receipts = 0, options.get("type"), receipts_for(until)
        with self._pending_request(id, to) as pending:
            self._send_expecting(to, body, options, receipts)
            if on_sent is not None:
                on_sent(id)
            while True:
                generation = self._waker.arm()
                if (receipt := self._take_receipt(pending)) is not None:
                    outcome(receipt, id, until)
                    return id
                left = _left(deadline)
                if left <= 0:
                    raise TimeoutError(self._no_receipt(to, id, until, timeout, kind))
                empty += 1
                self._waker.wait(left, generation, empty)

    async def asend_and_wait(
        self,
        to: str,
        body: Any = None,
        *,
        until: str = "handled",
        timeout: float | None = 30,
        **options: Unpack[Options],
    ) -> str:
        """send_and_wait(), for asyncio."""
        from .receive import aio
        from .receive.receipts import outcome, receipts_for

        options["id"] = id = options.pop("id", None) or new_id()
        pending, kind, receipts = self._pending_request(id, to), options.get("type"), receipts_for(until)
        receipt = await aio.request(
            self._waker,
            pending,
            lambda: self._send_expecting(to, body, options, receipts),
            lambda: self._take_receipt(pending),
            timeout,
            lambda: self._no_receipt(to, id, until, timeout, kind),
        )
        outcome(receipt, id, until)
        return id

    def _send_expecting(self, to: str, body: Any, options: Any, receipts: str) -> str:
        """Send a message that asks for *receipts*. The members of a group are not asked: each may have its own."""
        more: dict[str, Any] = {} if is_group(to) else {"receipts": receipts}
        return self.send(to, body, **options, **more)

    def _no_answer(self, to: str, id: str, timeout: float | None, kind: str | None) -> str:
        return f"no answer from {quoted(to)} to {id} within {timeout:g} s{self._unheard(to, kind)}"

    def _no_receipt(self, to: str, id: str, until: str, timeout: float | None, kind: str | None) -> str:
        return f"{quoted(to)} has not {until} the message {id} within {timeout:g} s{self._unheard(to, kind)}"

    def _unheard(self, to: str, kind: str | None) -> str:
        """Return the end of a sentence: why *to* may not have taken a message of the type *kind*; "" if unknown."""
        why = self.unheard(to, kind)
        return f": {why}" if why else ""

    def unheard(self, to: str, type: str | None = None) -> str | None:
        """Return the reason why no process takes a message of this *type* from the box *to* now; None if one may.

        Only what can be seen from here counts: a consumer of another user that has no doorbell stays unseen. Raises
        nothing.
        """
        if is_group(to) or not self.root.box(parse_address(to)).exists():
            return None
        from .receive.status import unheard

        return unheard(self.root.box(parse_address(to)), type)

    def _pending_request(self, id: str, to: str) -> PendingRequest:
        if not self._box.exists():
            raise self._box.missing()  # a reply needs a box to come to
        from .store.replies import PendingRequest

        asked: list[str] = [to]
        if is_group(to):
            from .store import groups

            asked = groups.members(to, self._box)
        return PendingRequest(self._box.path, id, None if asked == [to] and is_group(to) else frozenset(asked))

    def _take_reply(self, pending: PendingRequest, into: Any) -> Message[Any] | None:
        for file in pending.answers(self.max_size):
            try:
                message = self._receiver.accept_reply(file, pending.request, pending.asked, into)
            except BodyTypeError:
                raise
            except NotMailError as error:
                pending.refuse(file, error.reason)
                continue
            pending.accept(file[0], keep=self._settings.retention is not None and "receipt" not in message.fields)
            if "receipt" in message.fields:
                from .receive.receipts import REJECTED, refusal, stage_of

                if stage_of(message) != REJECTED:
                    continue
                raise refusal(message, pending.request)
            return message
        return None

    def _take_receipt(self, pending: PendingRequest) -> Message[Any] | None:
        for file in pending.answers(self.max_size):
            if not self._receiver.is_receipt(file):
                continue  # a reply: ordinary mail, once we wait no longer
            try:
                receipt = self._receiver.accept_reply(file, pending.request, pending.asked, None)
            except NotMailError as error:
                pending.refuse(file, error.reason)
                continue
            pending.accept(file[0])
            return receipt
        return None

    async def asend(self, to: str, body: Any = None, **options: Unpack[Options]) -> str:
        """send(), off the event loop: a durable send waits for the disk. Up to 32 at once share their flushes."""
        from .receive import aio

        return await aio.send_off_loop(lambda: self.send(to, body, **options))

    async def asend_many(self, to: str, bodies: Iterable[Any], **options: Unpack[Options]) -> list[str]:
        """send_many(), off the event loop."""
        from .receive import aio

        return await aio.off_loop(lambda: self.send_many(to, bodies, **options))

    def select(self, *, types: Iterable[str] = (), senders: Iterable[str] = (), thread: str | None = None) -> None:
        """Let receive() take only messages of these *types*, from these *senders* (as they name themselves), of this
        *thread* (any part of its id). The others are left waiting. Without arguments it takes all again.
        """
        self._receiver.set_filter(frozenset(types), frozenset(senders), thread)

    @property
    def retention(self) -> float | None:
        """Seconds for which handled mail is kept in `done/`; None if it is deleted."""
        return self._settings.retention

    # Listening

    if TYPE_CHECKING:

        @overload
        def on(self, handler: Callable[[Any], Any], /) -> Callable[[Any], Any]: ...
        @overload
        def on(self, *types: str, timeout: float | None = None) -> Callable[[F], F]: ...

    def on(self, *types: Any, timeout: float | None = None) -> Any:
        """Register the decorated function as handler for messages of these *types*; without one, for all other types.

        `@box.on` without parentheses is `@box.on()`. The function takes the message; annotated with another type, such
        as `def build(job: Job)`, the body. Annotated `Message[Job]` or `Job`, the body is validated before, and a body
        that is not a Job makes a dead letter. The return value, unless None, is the reply. If the function returns, the
        message is acked. Retry and Reject are honoured. Any other exception retries with backoff, and makes a dead
        letter with the traceback after the last attempt.

        After *timeout* seconds the message is retried. Then an async handler is cancelled; another one goes on in its
        thread, because Python cannot end it. Messages of types without a handler are left waiting.
        """

        def register(function: F) -> F:
            self._handlers.add(types, function, timeout)
            return function

        if len(types) == 1 and callable(types[0]):
            function, types = types[0], ()
            return register(function)
        return register

    def run(self, *, workers: int = 1, drain: bool = False, retries: bool = False) -> None:
        """Call the handlers for messages as they come, until SIGTERM, SIGINT or stop().

        Then the messages at work are finished. A second signal ends the process at once. With one worker, messages are
        handled in this thread, in order; with more, in that many threads. With *drain* it returns when no mail is left
        that can be received now; with *retries* as well, it waits for the messages that failed and come back later.

        Handlers that are coroutine functions run in an event loop of their own. Raises BoxNotFoundError.
        """
        self._need_handlers()
        if self._handlers.asynchronous:
            from .receive import aio

            aio.run(self.arun(workers=workers, drain=drain, retries=retries))
            return
        from .system.stop_signals import signals

        with self.listening() as listener, signals(listener.stop):
            self._announce(workers)
            listener.run(self._handlers, workers, drain, retries=retries)

    async def arun(self, *, workers: int = 1, drain: bool = False, retries: bool = False) -> None:
        """run(), in a running event loop. Handlers that are not coroutine functions run in threads.

        If it is cancelled, it cancels the handlers and releases their messages.
        """
        from .receive import aio
        from .system.stop_signals import signals

        self._need_handlers()
        with self.listening() as listener, signals(listener.stop):
            self._announce(workers)
            await aio.listen(listener, self._handlers, workers, drain, retries)

    def _announce(self, workers: int) -> None:
        """Log the start: to standard error, if the program has configured no logging."""
        from . import log

        log.speak()
        types = self._handlers.types()
        log.info(
            "listening to the box %s in %s, %d worker%s%s",
            self.name,
            self.root.path,
            workers,
            "s" if workers > 1 else "",
            f", types {', '.join(sorted(map(str, types)))}" if types is not None else "",
            event="started",
            box=self.name,
        )

    if TYPE_CHECKING:

        @overload
        def messages(self, *, types: Iterable[str] = (), timeout: float | None = None) -> Iterator[Message[Any]]: ...
        @overload
        def messages(
            self, *, into: type[T], types: Iterable[str] = (), timeout: float | None = None
        ) -> Iterator[Message[T]]: ...
        @overload
        def messages(
            self, *, into: Any, types: Iterable[str] = (), timeout: float | None = None
        ) -> Iterator[Message[Any]]: ...

    def messages(
        self, *, into: Any = None, types: Iterable[str] = (), timeout: float | None = None
    ) -> Iterator[Message[Any]]:
        """Yield messages as they come, each to be settled by you, until stop(), or *timeout* seconds without one.

        *into* is the type of their bodies: a message with another body becomes a dead letter. *types* are the types
        that are claimed, the others are left waiting. Raises BoxNotFoundError.
        """
        from .receive.typed_bodies import convert

        with self.listening() as listener:
            if wanted := frozenset(types):
                listener.set_types(wanted)
            for message in listener.messages(patience=timeout):
                try:
                    message.body = convert(message.body, into)
                except NotMailError as error:
                    message.reject(error.reason)
                    continue
                yield message

    def __iter__(self) -> Iterator[Message[Any]]:
        """Messages as they come, each to be settled by you: `for message in box: with message: …`. stop() ends it."""
        with self.listening() as listener:
            yield from listener.messages()

    async def __aiter__(self) -> AsyncIterator[Message[Any]]:
        """Messages as they come, each to be settled by you: `async for message in box: async with message: …`."""
        from .receive import aio

        with self.listening() as listener:
            async with aclosing(aio.messages(listener)) as messages:
                async for message in messages:
                    yield message

    def stop(self) -> None:
        """End run(), arun() and loops over this mailbox when the messages at work are finished. From any thread.

        If none has begun yet, it does nothing.
        """
        for listener in list(self._listeners):
            listener.stop()

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """The loop behind run(), for programs that drive it themselves. At the end the mailbox is closed."""
        from .receive.listener import Listener

        listener = Listener(self._receiver, self._waker)
        self._listeners.add(listener)
        failure: BaseException | None = None
        try:
            yield listener
        except BaseException as error:
            failure = error
            raise
        finally:
            listener.close(failure)
            self._listeners.discard(listener)
            if not self._listeners:
                self._receiver.set_type_filter(None)
                self.close()

    def _need_handlers(self) -> None:
        if not self._handlers:
            raise InvalidRequestError("there is no handler", hint="decorate a function with @box.on() before run()")

    def leased(self, id_part: str) -> AbstractContextManager[Message[Any]]:
        """The one message under a lease, of any process, whose id contains *id_part*. Settle it in a `with` block.

        If it is not settled there, it stays leased. Raises MessageNotFoundError for none and for several, and
        NotClaimedError if it is not under a lease.
        """
        from .receive import leases

        return leases.leased(self._box, id_part, self._settings, self.send, self._verifier)

    @property
    def leased_until(self) -> datetime | None:
        """Time until which our claims outlive this process; None if they are not leased."""
        from .receive.leases import leased_until

        return leased_until(self._receiver.folder or "")

    # Shared documents

    if TYPE_CHECKING:

        @overload
        def document(self, name: str, *, min_trust: str | None = None) -> Document[Any]: ...
        @overload
        def document(self, name: str, *, into: type[T], min_trust: str | None = None) -> Document[T]: ...

    def document(self, name: str, *, into: Any = None, min_trust: str | None = None) -> Document[Any]:
        """Return the shared document *name*, to get, put, update and watch. It need not exist yet.

        *into* is the type of its body, as for receive(). *min_trust* is the least proof of an author that a reader
        accepts: `none`, `uid` or `signed` (default: as for mail).
        """
        from .documents.document import Document  # most mailboxes have none

        return Document(
            self.root,
            name,
            self.name,
            into=into,
            keyring=self.keyring if any(self._key_folders) else None,
            sign=True if self._protection else None,
            min_trust=min_trust or self._min_trust,
            send=self.send,
            poll_interval=self._poll_interval,
            watcher=self._watcher,
        )

    # Looking into the box

    def peek(self, *states: str) -> Iterator[Message[Any]]:
        """Yield the messages in these *states*, without claiming or changing them.

        States are the folders of a box: `new` and `later` (the default: waiting and deferred), `cur` (claimed), `dead`,
        `done`. A file that is not mail has a `problem`. Settling one of them raises NotClaimedError.
        """
        from .receive import peek

        return peek.peek(self._box, states or ("new", "later"), self.max_size, self._verifier)

    def history(
        self, partner: str | None = None, thread: str | None = None, since: datetime | timedelta | float | None = None
    ) -> Iterator[Message[Any]]:
        """Yield the messages that the box keeps, received and sent, oldest first. They cannot be settled.

        *partner* is the agent that sent or got them, *thread* their thread, *since* the time of the oldest, or how long
        ago that is (seconds or timedelta). Handled mail, and copies of sent mail, whose state is `sent`, are there if
        the box has a retention. Of sealed mail that was sent, the content is not kept.

        Raises BoxNotFoundError, PermissionDeniedError.
        """
        from .receive.history import History, past

        return History(self._box, self.max_size, self._verifier).messages(partner, thread, past(since))

    def thread(self, id_part: str) -> list[Message[Any]]:
        """Return the conversation of a message, both sides, oldest first. See history().

        Raises MessageNotFoundError if no message, or messages of several threads, have *id_part* in their id.
        """
        from .receive.history import History

        return History(self._box, self.max_size, self._verifier).thread(id_part)

    def find(self, id_part: str, *states: str) -> Message[Any]:
        """Return the one message whose id contains *id_part*, in any of these *states* (default: all). Not claimed.

        Raises MessageNotFoundError for none and for several.
        """
        from .receive import peek

        return peek.find(self._box, id_part, states or peek.STATES, self.max_size, self._verifier)

    @contextmanager
    def answering_later(self) -> Iterator[list[Message[Any]]]:
        """Messages that are appended to the list, and acked, can be answered for an hour: find_handled() finds them.

        Only their envelopes are kept, and at most the latest 64, in `handled.json` of the box.
        """
        handled: list[Message[Any]] = []
        try:
            yield handled
        finally:
            if handled:
                from .store.answerable import remember

                remember(self._box, [(each.id, each.trust, each.fields) for each in handled])

    def find_handled(self, id_part: str) -> Message[Any]:
        """Return the one handled message whose id contains *id_part*, to be answered by answer().

        It was acked in the last hour by `mailbox receive`, and has no body; or the box keeps handled mail. Raises
        MessageNotFoundError for none and for several.
        """
        from .receive.peek import PeekedMessage
        from .store.answerable import recall

        found = recall(self._box, id_part)
        if len(found) > 1:
            raise MessageNotFoundError(
                f"{quoted(id_part)} fits {len(found)} handled messages in the box {quoted(self.name)}: "
                f"{', '.join(id for id, _, _ in found[:4])}",
                hint="give more of the id",
            )
        if not found:
            return self.find(id_part, "done")
        (id, trust, fields) = found[0]
        message = PeekedMessage(id, fields, b"", f"{id}.json", 1, trust)
        message.state, message.problem, message.due = "done", None, None
        return message

    def answer(self, message: Message[Any], body: Any = None, **options: Unpack[Options]) -> str:
        """Send *body* to the sender of a message that need not be claimed, such as find() returns. Returns the id.

        As Message.reply(), which is for claimed messages. It settles nothing.
        """
        return self._receiver.reply(message, body, dict(options))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until receive() would return a message, and do not claim it. False: none came in *timeout* seconds."""
        from .receive.peek import has_mail

        if has_mail(self._box, self._settings, self._verifier):
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        empty = 0
        while _left(deadline) > 0:
            generation = self._waker.arm()
            if has_mail(self._box, self._settings, self._verifier):
                return True
            empty += 1
            self._waker.wait(_left(deadline), generation, empty)
        return False

    def dead_reason(self, dead: Message[Any]) -> str:
        """Return all that is recorded about a dead letter: the reason, and often a traceback or a command's output."""
        from .receive import peek

        return peek.dead_reason(self._box, dead.name) or dead.problem or "no reason was recorded"

    def requeue(self, dead: str | Message[Any]) -> str:
        """Deliver a dead letter (or the one with that part of an id) again. Its attempts start over, and its expiry no
        longer counts.

        You may have changed the file in `dead/` before. Returns its id. Raises MessageNotFoundError.
        """
        message = self.find(dead, "dead") if isinstance(dead, str) else dead
        id = self._receiver.requeue(message.name)
        self._ringer.ring(self.name)
        return id

    def purge(self, dead: str | Message[Any]) -> str:
        """Delete a dead letter (or the one with that part of an id) and the note beside it. Returns its id.

        Raises MessageNotFoundError.
        """
        message = self.find(dead, "dead") if isinstance(dead, str) else dead
        self._receiver.purge(message.name)
        return message.id

    # Leaving

    def close(self) -> None:
        """Release claimed messages, the attempt not counted, and close all descriptors. It can be used again."""
        for part in ("_receiver", "_waker"):
            if part in vars(self):
                vars(self)[part].close()
        self._ringer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from .receive import aio

        await aio.off_loop(self.close)

    def __repr__(self) -> str:
        return f"Mailbox({self.name!r}, {self.root.path!r})"


def _left(deadline: float | None) -> float:
    return float("inf") if deadline is None else deadline - time.monotonic()
