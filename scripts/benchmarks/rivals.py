"""What people use instead, each behind the same few verbs, as its documents say that it is used.

put() returns when the queue has said that the message is safe; take() gives the next one, or None; done() is what says
that it is handled. recover() is what an operator can do about mail that dead processes held.
"""

import json
import mailbox
import os
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Protocol

from filemailbox import Mailbox, Message

FLUSHED: Final = "each message flushed"
NOT_FLUSHED: Final = "not flushed"


class Queue(Protocol):
    """One queue, opened by one process."""

    def put(self, body: dict[str, Any]) -> None: ...
    def take(self) -> dict[str, Any] | None: ...
    def done(self) -> None: ...
    def recover(self) -> None: ...
    def close(self) -> None: ...


class Ours:
    """This mailbox."""

    def __init__(self, folder: str, durable: bool) -> None:
        self._box = Mailbox.init("bob", folder, durable=durable)
        self._message: Message[Any] | None = None

    def put(self, body: dict[str, Any]) -> None:
        self._box.send("bob", body, type="job")

    def take(self) -> dict[str, Any] | None:
        self._message = self._box.receive()
        return None if self._message is None else dict(self._message.body)

    def done(self) -> None:
        assert self._message is not None
        self._message.ack()

    def recover(self) -> None:
        """It recovers by itself."""

    def close(self) -> None:
        self._box.close()


class Maildir:
    """The standard library's: every message is flushed before it is renamed. Nobody claims; reading is removing."""

    def __init__(self, folder: str, durable: bool) -> None:
        del durable  # it always flushes
        self._maildir = mailbox.Maildir(folder, factory=None, create=True)
        self._keys: list[str] = []
        self._key = ""

    def put(self, body: dict[str, Any]) -> None:
        self._maildir.add(b"\n" + json.dumps(body).encode())

    def take(self) -> dict[str, Any] | None:
        while True:
            if not self._keys:
                self._keys = sorted(self._maildir.iterkeys(), reverse=True)
            if not self._keys:
                return None
            self._key = self._keys.pop()
            try:
                return dict(json.loads(self._maildir.get_bytes(self._key)))
            except KeyError:  # another process was faster
                continue

    def done(self) -> None:
        self._maildir.discard(self._key)

    def recover(self) -> None:
        """There is nothing to do: what was not removed is still there."""

    def close(self) -> None:
        self._maildir.close()


class Dirq:
    """dirq's QueueSimple: a directory queue, a lock for each message."""

    def __init__(self, folder: str, durable: bool) -> None:
        del durable  # it never flushes
        self._queue: Any = import_module("dirq.QueueSimple").QueueSimple(folder)
        self._name = ""

    def put(self, body: dict[str, Any]) -> None:
        self._queue.add(json.dumps(body))

    def take(self) -> dict[str, Any] | None:
        name = self._queue.next() if self._name else self._queue.first()
        if not name:
            name = self._queue.first()
        while name:
            if self._queue.lock(name):
                self._name = name
                return dict(json.loads(self._queue.get(name)))
            name = self._queue.next()
        self._name = ""
        return None

    def done(self) -> None:
        self._queue.remove(self._name)

    def recover(self) -> None:
        time.sleep(2)
        self._queue.purge(maxlock=1)

    def close(self) -> None:
        """Nothing is open."""


class PersistQueue:
    """persist-queue's file queue: for one process."""

    def __init__(self, folder: str, durable: bool) -> None:
        del durable  # it flushes a chunk of a hundred at a time
        self._queue: Any = import_module("persistqueue").Queue(folder, tempdir=folder)

    def put(self, body: dict[str, Any]) -> None:
        self._queue.put(body)

    def take(self) -> dict[str, Any] | None:
        try:
            return dict(self._queue.get(block=False))
        except import_module("persistqueue").Empty:
            return None

    def done(self) -> None:
        self._queue.task_done()

    def recover(self) -> None:
        """What was taken and not done comes back when it is opened again."""

    def close(self) -> None:
        """Nothing is open."""


class PersistAckQueue:
    """persist-queue's SQLiteAckQueue."""

    def __init__(self, folder: str, durable: bool) -> None:
        del durable  # it always flushes
        self._queue: Any = import_module("persistqueue").SQLiteAckQueue(folder, multithreading=True)
        self._item: Any = None

    def put(self, body: dict[str, Any]) -> None:
        self._queue.put(body)

    def take(self) -> dict[str, Any] | None:
        try:
            self._item = self._queue.get(block=False)
        except import_module("persistqueue").Empty:
            return None
        return dict(self._item)

    def done(self) -> None:
        self._queue.ack(self._item)

    def recover(self) -> None:
        self._queue.resume_unack_tasks()

    def close(self) -> None:
        self._queue.close()


class LiteQueue:
    """litequeue: SQLite, WAL."""

    def __init__(self, folder: str, durable: bool) -> None:
        del durable  # the WAL is flushed at checkpoints only
        os.makedirs(folder, exist_ok=True)
        self._queue: Any = import_module("litequeue").LiteQueue(f"{folder}/queue.db")
        self._id: Any = None

    def put(self, body: dict[str, Any]) -> None:
        self._queue.put(json.dumps(body))

    def take(self) -> dict[str, Any] | None:
        message = self._queue.pop()
        if message is None:
            return None
        self._id = message.message_id
        return dict(json.loads(message.data))

    def done(self) -> None:
        self._queue.done(self._id)

    def recover(self) -> None:
        time.sleep(2)
        for message in list(self._queue.list_locked(threshold_seconds=1)):
            self._queue.retry(message.message_id)

    def close(self) -> None:
        self._queue.close()


class DiskCache:
    """diskcache's Deque: SQLite; taking is removing."""

    def __init__(self, folder: str, durable: bool) -> None:
        del durable  # the WAL is flushed at checkpoints only
        self._deque: Any = import_module("diskcache").Deque(directory=folder)

    def put(self, body: dict[str, Any]) -> None:
        self._deque.append(body)

    def take(self) -> dict[str, Any] | None:
        try:
            return dict(self._deque.popleft())
        except IndexError:
            return None

    def done(self) -> None:
        """It was removed when it was taken."""

    def recover(self) -> None:
        """There is nothing to recover from."""

    def close(self) -> None:
        self._deque.cache.close()


class Kombu:
    """kombu's filesystem transport, through its SimpleQueue."""

    def __init__(self, folder: str, durable: bool) -> None:
        del durable  # it never flushes
        for each in ("data", "control"):
            os.makedirs(f"{folder}/{each}", exist_ok=True)
        options = {f"data_folder_{way}": f"{folder}/data" for way in ("in", "out")}
        self._connection: Any = import_module("kombu").Connection(
            "filesystem://", transport_options={**options, "control_folder": f"{folder}/control"}
        )
        self._queue: Any = self._connection.SimpleQueue(folder.replace("/", "-"))  # its names are global in a process
        self._message: Any = None

    def put(self, body: dict[str, Any]) -> None:
        self._queue.put(body)

    def take(self) -> dict[str, Any] | None:
        try:
            self._message = self._queue.get_nowait()
        except self._queue.Empty:
            return None
        return dict(self._message.payload)

    def done(self) -> None:
        self._message.ack()

    def recover(self) -> None:
        """There is nothing to recover from: taking is removing."""

    def close(self) -> None:
        self._queue.close()
        self._connection.close()


OURS: Final = "ours"

ALL: Final[dict[str, tuple[Callable[[str, bool], Queue], str]]] = {
    OURS: (Ours, FLUSHED),
    "Maildir (standard library)": (Maildir, FLUSHED),
    "dirq": (Dirq, NOT_FLUSHED),
    "persist-queue, files": (PersistQueue, NOT_FLUSHED),
    "persist-queue, SQLiteAck": (PersistAckQueue, FLUSHED),
    "litequeue": (LiteQueue, NOT_FLUSHED),
    "diskcache": (DiskCache, NOT_FLUSHED),
    "kombu, filesystem": (Kombu, NOT_FLUSHED),
}
"""How each is opened, and what it does about power cuts."""

PACKAGES: Final = {
    "dirq": "dirq",
    "persist-queue, files": "persistqueue",
    "persist-queue, SQLiteAck": "persistqueue",
    "litequeue": "litequeue",
    "diskcache": "diskcache",
    "kombu, filesystem": "kombu",
}
"""What has to be installed for it."""
