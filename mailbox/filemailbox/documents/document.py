"""Document: one shared document, the face that users see.

More than 400 lines: half of them are the signatures and docstrings of the public methods.
"""

from __future__ import annotations

import contextlib
import os
import random
import stat
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ..errors import (
    ConflictError,
    DocumentNotFoundError,
    InvalidBodyError,
    InvalidRequestError,
    MailboxError,
    NotMailError,
    quoted,
)
from ..format import codec, times
from ..receive import typed_bodies
from ..settings import POLL_INTERVAL, WATCHERS
from ..wake.ringer import Ringer
from ..wake.waker import Waker
from . import change, folders
from .author import Authors, least
from .folders import Access
from .history import History, Stored
from .name import document_name
from .version import MAX_SIZE, Version, decode, encode, first_base

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from ..format.address import Address
    from ..store.root import Root
    from ..trust.keyring import Keyring

T = TypeVar("T")

ATTEMPTS: Final = 100
"""Attempts of update() and its kin, each with the version that is current then."""

_PAUSES: Final = (0.0005, 0.05)  # seconds: the first pause after a conflict, and the longest; each is drawn by lot


class Document(Generic[T]):
    """One shared document: get, put, update, history, watch. See Mailbox.document().

    Safe to share between threads. It need not exist before it is put.
    """

    def __init__(
        self,
        root: Root,
        name: str,
        by: Address,
        *,
        into: Any = None,
        keyring: Keyring | None = None,
        sign: bool | None = None,
        min_trust: str | None = None,
        send: Callable[..., Any] | None = None,
        poll_interval: float = POLL_INTERVAL,
        watcher: str = WATCHERS[0],
    ) -> None:
        self.name = document_name(name)
        self.root, self.by = root, by
        self._into, self._keyring, self._sign, self._send = into, keyring, sign, send
        self._authors = Authors(root, keyring, least(min_trust))
        self._history = History(root, self.name)
        self._held, self._process = threading.RLock(), os.getpid()
        self._poll_interval, self._watcher = poll_interval, watcher
        self._waiting: Waker | None = None
        self._watches = 0
        self._ringer = Ringer(f"{root.path}/{folders.DOCUMENTS}", bells_ttl=0)  # each watcher counts

    @property
    def _guard(self) -> threading.RLock:
        """The lock. The child of a fork gets a new one: another thread may have held the old one."""
        if self._process != os.getpid():
            self._held, self._process, self._watches = threading.RLock(), os.getpid(), 0
            self._waiting = None  # its descriptors are the parent's
        return self._held

    # Reading

    def get(self, version: int | None = None) -> Version[T]:
        """Return the current version, or the one with that number.

        Raises DocumentNotFoundError if there is no document, or no such version (any more). Raises
        DocumentBrokenError if the history is not what it was, BodyTypeError if the body is not `into`,
        UnverifiedSenderError if its author is pinned and did not sign it.
        """
        with self._guard:
            stored = self._history.head()
            if version is not None and version != stored.number:
                older = self._history.at(version)
                if older is None:
                    raise DocumentNotFoundError(
                        self.name,
                        self.root.path,
                        f"{quoted(self.name)} has no version {version}: the current one is {stored.number}",
                        hint=f"`mailbox doc log {self.name}` shows those that are kept",
                    )
                stored = older
            return self._version(stored)

    def history(self) -> Iterator[Version[T]]:
        """Return the versions that are kept, the current one first. Each is proven by the one after it."""
        stepping = self._history_of_its_own()
        try:
            for stored in stepping.backwards():
                yield self._version(stored)
        finally:
            stepping.close()

    # Changing

    def put(
        self,
        value: Any,
        *,
        if_version: int | None = None,
        note: str | None = None,
        sign: bool | None = None,
        notify: Iterable[str] = (),
    ) -> Version[T]:
        """Make *value* the body of the next version, and return that. It survives kill -9 and a power cut.

        if_version  only if this is the version that is current; 0: only if there is no document, which is made. Without
                    it, what others have written meanwhile is overwritten: use it, or update(), for whatever you have
                    read before
        note        a line for people: what was changed
        sign        sign it (default: if there is a key of our own)
        notify      agents that get mail of the type `document` about it

        Raises ConflictError, whose `current` is the version that is current, DocumentNotFoundError if there is none
        to change; nothing was written then. Raises DurabilityUnknownError if it was, and the disk did not confirm it.
        """
        if if_version == 0:
            return self.create(value, note=note, sign=sign, notify=notify)
        with self._guard:
            # The link decides, so a version that was read a moment ago need not be read again.
            head = (if_version and self._history.known(if_version)) or self._history.head()
            while True:
                if if_version is not None and head.number != if_version:
                    raise self._conflict(head, if_version)
                line, members, body = self._line(head.number + 1, head.digest, value, note, sign)
                added = self._history.add(line, members, head)
                if added is not None:
                    break
                before, head = head, self._history.head()
                if head.number == before.number and self._history.make_way():  # what has the number is no version
                    head = self._history.head()
            made = self._made(added, body)
        self._tell(made, notify)
        return made

    def create(
        self,
        value: Any,
        *,
        note: str | None = None,
        sign: bool | None = None,
        notify: Iterable[str] = (),
        group: int | None = None,
        private: bool = False,
        keep: int | None = None,
        keep_for: float | None = None,
    ) -> Version[T]:
        """Make the document, with *value* as the body of its first version.

        group     the gid whose members may write; default: only our own uid may
        private   only those who may write may read
        keep      how many versions are kept [1000]
        keep_for  for how many seconds at most; the current version is always kept

        Raises ConflictError if it is there already.
        """
        with self._guard:
            line, _, body = self._line(1, first_base(self.name), value, note, sign)
            try:
                folders.create(self.root, self.name, line, Access(group, private), keep, keep_for)
            except ConflictError:
                head = self._history.head()
                raise ConflictError(
                    f"{quoted(self.name)} is there already, at version {head.number} by {head.members['by']}: nothing "
                    "was written",
                    self._version_as_it_is(head),
                ) from None
            made = self._made(self._history.head(), body)
        self._tell(made, notify)
        return made

    def update(
        self,
        function: Callable[[T], Any],
        *,
        attempts: int = ATTEMPTS,
        note: str | None = None,
        sign: bool | None = None,
        notify: Iterable[str] = (),
    ) -> Version[T]:
        """Put what *function* makes of the current body; call it again if another writer was faster.

        So *function* must do nothing but compute. Raises ConflictError if *attempts* were not enough.
        """
        pause = _PAUSES[0]
        for attempt in range(attempts):
            current = self.get()
            try:
                return self.put(function(current.body), if_version=current.version, note=note, sign=sign, notify=notify)
            except ConflictError:
                if attempt + 1 >= attempts:
                    raise
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, _PAUSES[1])
        raise InvalidRequestError(f"attempts= is {attempts}, expected at least 1")

    def merge(self, patch: Any, *, test: dict[str, Any] | None = None, **options: Any) -> Version[T]:
        """update() by a JSON Merge Patch (RFC 7396): null removes a member, an object goes deeper.

        *test* maps JSON Pointers to the values that must be there; None means no value. Raises ConflictError if a
        value differs.
        """

        def merged(body: Any) -> Any:
            change.check_tests(body, test or {})
            return change.merge_patch(body, patch)

        return self._guarded(merged, options)

    def patch(self, operations: list[dict[str, Any]], **options: Any) -> Version[T]:
        """update() by a JSON Patch (RFC 6902). Raises ConflictError if an operation `test` fails.

        It needs the library jsonpatch: `pip install 'filemailbox[patch]'`.
        """
        return self._guarded(lambda body: change.json_patch(body, operations), options)

    def remove(self) -> str:
        """Remove the document. Returns the path at which it is kept, until `mailbox gc --older-than`."""
        with self._guard:
            kept = folders.remove(self.root, self.name)
            self._history.close()
        self._ringer.ring(kept.removeprefix(f"{self.root.path}/{folders.DOCUMENTS}/"))
        return kept

    # Waiting

    def watch(self, since: int | None = None, timeout: float | None = None) -> Iterator[Version[T]]:
        """Return the current version, and then each time it has changed the one that is current.

        Versions in between may be left out: history() has them. With *since*, begin with a version after that one. With
        *timeout*, end when nothing has come for so many seconds.
        """
        with self._watching() as wake:
            deadline, empty, last = _deadline(timeout), 0, ""
            while True:
                heard = wake.arm()
                current = self.get()
                if since is None or current.version > since or (last and current.digest != last):
                    since, last, empty = current.version, current.digest, 0
                    yield current
                    deadline = _deadline(timeout)
                    continue
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                empty += 1
                wake.wait(left, heard, empty)

    async def awatch(self, since: int | None = None, timeout: float | None = None) -> AsyncIterator[Version[T]]:
        """watch(), for asyncio."""
        from ..receive import aio

        with self._watching() as wake:
            deadline, empty, last = _deadline(timeout), 0, ""
            while True:
                heard = wake.arm()
                current = await aio.off_loop(self.get)
                if since is None or current.version > since or (last and current.digest != last):
                    since, last, empty = current.version, current.digest, 0
                    yield current
                    deadline = _deadline(timeout)
                    continue
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                empty += 1
                await aio._sleep(wake, left, heard, empty)

    async def aget(self, version: int | None = None) -> Version[T]:
        """get(), off the event loop."""
        from ..receive import aio

        return await aio.off_loop(self.get, version)

    async def aput(self, value: Any, **options: Any) -> Version[T]:
        """put(), off the event loop: it waits for the disk."""
        from ..receive import aio

        return await aio.off_loop(lambda: self.put(value, **options))

    async def acreate(self, value: Any, **options: Any) -> Version[T]:
        """create(), off the event loop."""
        from ..receive import aio

        return await aio.off_loop(lambda: self.create(value, **options))

    async def aupdate(self, function: Callable[[T], Any], **options: Any) -> Version[T]:
        """update(), off the event loop: *function* runs in a thread."""
        from ..receive import aio

        return await aio.off_loop(lambda: self.update(function, **options))

    async def amerge(self, patch: Any, **options: Any) -> Version[T]:
        """merge(), off the event loop."""
        from ..receive import aio

        return await aio.off_loop(lambda: self.merge(patch, **options))

    async def apatch(self, operations: list[dict[str, Any]], **options: Any) -> Version[T]:
        """patch(), off the event loop."""
        from ..receive import aio

        return await aio.off_loop(lambda: self.patch(operations, **options))

    async def ahistory(self) -> list[Version[T]]:
        """All of history(), off the event loop."""
        from ..receive import aio

        return await aio.off_loop(lambda: list(self.history()))

    def close(self) -> None:
        """Let go of descriptors and of the doorbell. It can be used again after."""
        with self._guard:
            self._history.close()
            self._ringer.close()
            if self._waiting is not None:
                self._waiting.close()
                self._waiting = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Document({self.name!r}, {self.root.path!r})"

    # Within

    def _version(self, stored: Stored) -> Version[T]:
        """Return what is stored, its author proven as far as it can be, its body checked."""
        trust = self._authors.trust(stored)
        version = self._version_as_it_is(stored, trust)
        try:
            body = typed_bodies.convert(version.body, self._into)
        except NotMailError as error:
            raise type(error)(f"version {stored.number} of {quoted(self.name)}: {error}") from error
        return version if body is version.body else _with_body(version, body)

    def _made(self, stored: Stored, body: T) -> Version[T]:
        """Return what we have just written: nothing of it is doubted."""
        try:
            trust = self._authors.trust(stored)
        except MailboxError:  # less than min_trust, or it cannot be known now: it was written all the same
            trust = "none"
        return self._version_of(stored, body, trust)

    def _version_as_it_is(self, stored: Stored, trust: str = "none") -> Version[Any]:
        return self._version_of(stored, codec.loads(stored.data)["body"], trust)

    def _version_of(self, stored: Stored, body: Any, trust: str) -> Version[Any]:
        members = stored.members
        return Version(
            self.name,
            stored.number,
            members["by"],
            stored.at,
            members["base"],
            members.get("note"),
            body,
            stored.digest,
            trust,
            stored.data,
        )

    def _line(
        self, number: int, base: str, value: Any, note: str | None, sign: bool | None
    ) -> tuple[bytes, dict[str, Any], T]:
        """Return the line of a version, its members without the body, and the body as a reader will get it.

        What no reader would take is refused here, before anything is written. Raises InvalidBodyError, BodyTypeError.
        """
        from datetime import UTC, datetime

        line = encode(number, self.by, times.format_time(datetime.now(UTC)), base, value, note)
        wanted = self._sign if sign is None else sign
        if wanted is None:
            wanted = self._keyring is not None and self._keyring.has_own
        if wanted:
            if self._keyring is None:
                raise InvalidRequestError(
                    "sign= needs keys, and none are known", hint="key_dir= or MAILBOX_KEY_DIR names their folder"
                )
            from . import signature

            line = signature.signed(line, self._keyring.own())
            if len(line) > MAX_SIZE:
                raise InvalidBodyError(
                    f"the version has {len(line)} bytes with its signature, and {MAX_SIZE} is the limit"
                )
        members = decode(line, number, base)
        return line, members, typed_bodies.convert(members.pop("body"), self._into)

    def _conflict(self, head: Stored, wanted: int) -> ConflictError:
        current = self._version_as_it_is(head)
        return ConflictError(
            f"{quoted(self.name)} is at version {head.number} by {current.by}, and {wanted} was expected: nothing was "
            "written",
            current,
        )

    def _guarded(self, function: Callable[[Any], Any], options: dict[str, Any]) -> Version[T]:
        """update() by a function that takes plain JSON, whatever `into` is."""
        seen: list[Version[Any]] = []
        plain: Document[Any] = self._plain()

        def made(body: Any) -> Any:
            seen[:] = [plain.get()]
            return function(body)

        try:
            done = plain.update(made, **options)
        except change.PatchTestError as error:
            raise ConflictError(
                f"{quoted(self.name)} is at version {seen[0].version} by {seen[0].by}: {error}. Nothing was written",
                seen[0],
            ) from error
        return done if plain is self else _with_body(done, typed_bodies.convert(done.body, self._into))

    def _plain(self) -> Document[Any]:
        if self._into is None:
            return self
        other: Document[Any] = Document(
            self.root, self.name, self.by, keyring=self._keyring, sign=self._sign, send=self._send
        )
        other._authors = self._authors
        return other

    def _history_of_its_own(self) -> History:
        return History(self.root, self.name)

    def _tell(self, made: Version[T], notify: Iterable[str]) -> None:
        self._ringer.ring(self.name)
        for to in notify:
            if self._send is None:
                raise InvalidRequestError("notify= needs a mailbox", hint="make the document by Mailbox.document()")
            facts = {"document": self.name, "version": made.version, "by": made.by, "note": made.note}
            try:
                self._send(to, facts, type="document", subject=f"{self.name} is at version {made.version}")
            except MailboxError as error:
                error.add_note(f"version {made.version} of {self.name} was written all the same")
                raise

    @contextlib.contextmanager
    def _watching(self) -> Iterator[Waker]:
        with self._guard:
            if self._waiting is None:
                self._waiting = self._wake()
            self._watches += 1
            wake = self._waiting
        try:
            yield wake
        finally:
            with self._guard:
                self._watches -= 1
                if not self._watches:
                    wake.close()
                    self._waiting = None

    def _wake(self) -> Waker:
        opened = self._history.folders
        path = f"{self.root.path}/{folders.DOCUMENTS}/{self.name}"
        st = os.stat("run", dir_fd=opened.home, follow_symlinks=False)
        if not stat.S_ISDIR(st.st_mode):
            raise folders.broken(self.name, "its run/ is not a folder")
        wake = Waker(path, self._poll_interval, "versions", watcher=self._watcher)
        wake.watch()
        return wake


def _with_body(version: Version[Any], body: Any) -> Version[Any]:
    from dataclasses import replace

    return replace(version, body=body)


def _deadline(timeout: float | None) -> float:
    return float("inf") if timeout is None else time.monotonic() + timeout
