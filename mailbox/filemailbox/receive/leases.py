"""Claims that outlive their process.

A lease is a folder in `cur/` whose name carries a deadline, `HEX,U=TIMESTAMP`, before a message is claimed into it.
Until the deadline no consumer recovers its messages, whether its lock is held or not, and any process of the box's
owner may settle them, one process at a time, under that lock. After the deadline it is like the folder of a consumer
that died: its messages are delivered again, the attempt counted.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

from ..errors import MessageNotFoundError, NotClaimedError, NotMailError, quoted, storage_error, translated_errors
from ..format.filename import ID_LENGTH, lease_deadline, parse_filename
from ..format.order import is_mail
from ..format.times import from_nanoseconds, modified_time
from ..format.timestamp import sent_time, to_nanoseconds, to_timestamp
from ..settings import Settings
from ..store.consumer_folder import ConsumerFolder, Tenancy
from ..store.ids import timestamp_now
from ..store.root import Box
from ..store.spool import Spool
from ..store.state import State
from ..system.files import FOLDER, READ, close, list_dir
from ..system.locks import Lock
from ..system.strict_read import strict_read
from ..trust.verifier import Verifier
from . import peek
from .message import Message
from .receiver import Receiver

_LOCK_TIMEOUT: Final = 2.0
"""Seconds to wait for the lock of a lease: another process may be settling another message in it."""

_SHOWN_IDS: Final = 4  # ids that an error names when an id part fits several messages

_PLAIN_LENGTH: Final = 12
"""Characters of the name of a consumer's folder before its deadline."""


class _Lease(Tenancy):
    """A folder that outlives its consumer while there is mail in it."""

    def extend(self, folder: ConsumerFolder, duration: float) -> str:
        """Move the deadline in the name of the folder, never backwards: it is that of all messages in it."""
        deadline = max(to_timestamp(time.time_ns() + int(duration * 1e9)), lease_deadline(folder.name) or "")
        folder.change_name(f"{folder.name[:_PLAIN_LENGTH]},U={deadline}")
        return deadline

    def leave(self, folder: ConsumerFolder) -> None:
        """Keep the claims, and the deadline in the name of the folder; drop the deadline if it is empty."""
        if not any(map(is_mail, list_dir(folder.fd))):
            folder.change_name(folder.name[:_PLAIN_LENGTH])


class NewLease(_Lease):
    """Leases each claim for *duration* seconds, counted from the latest. After that any consumer may claim again."""

    def __init__(self, settings: Settings, duration: float) -> None:
        self._settings, self._duration = settings, duration

    def acquire(self, folder: ConsumerFolder) -> None:
        """Take a folder, with a deadline in its name, and see that there is one without for other consumers."""
        folder.take_free_or_make()
        self._extend(folder)
        if not any(lease_deadline(name) == "" for name in list_dir(folder.dirs["cur"])):
            with contextlib.suppress(OSError):  # on a full volume others wait until we are done
                self._make_spare(folder)

    def before_claim(self, folder: ConsumerFolder) -> bool:
        """Write the new deadline before the message is in the folder. Returns False if the folder is gone."""
        try:
            self._extend(folder)
        except FileNotFoundError:
            return False
        return True

    def _extend(self, folder: ConsumerFolder) -> None:
        deadline = to_timestamp(time.time_ns() + int(self._duration * 1e9))
        folder.change_name(f"{folder.name[:_PLAIN_LENGTH]},U={deadline}")

    def _make_spare(self, folder: ConsumerFolder) -> None:
        """Make a folder for others while there is room: then a volume that fills up can still be drained."""
        spare = Spool(folder.box, self._settings)
        spare.begin()
        spare.close()


class ExistingLease(_Lease):
    """Takes over the lease *name* of another process, which may be gone, to settle its messages."""

    def __init__(self, name: str) -> None:
        self._name = name

    def acquire(self, folder: ConsumerFolder) -> None:
        """Lock the lease. Raises FileNotFoundError if it is gone, NotClaimedError if it is not ours to settle."""
        lock = Lock(f"{folder.box}/cur/{self._name}/.lock")
        if not lock.take(_LOCK_TIMEOUT):
            raise NotClaimedError(
                f"the process that took it from the box {quoted(folder.address)} still runs: only that settles it"
            )
        if (lease_deadline(self._name) or "") <= timestamp_now():
            lock.release()
            raise _ended(self._name)
        try:
            folder.adopt(self._name, lock)
        except FileNotFoundError:
            lock.release()
            raise


@contextlib.contextmanager
def leased(
    box: Box, id_part: str, settings: Settings, send: Callable[..., str], verifier: Verifier
) -> Iterator[Message[Any]]:
    """The one leased message whose id contains *id_part*, to be settled in the block. Unsettled, it stays leased.

    Raises MessageNotFoundError for none and for several, and NotClaimedError if it is not claimed, or claimed by a
    process that still runs.
    """
    while True:
        with translated_errors(f"looking into the box {quoted(box.address)}"):
            folder, filename = _find(box, id_part, settings, verifier)
        spool = Spool(box, settings, ExistingLease(folder))
        with contextlib.closing(spool):
            try:
                with translated_errors(f"settling {filename}"):
                    spool.open_folder()
                    receiver = Receiver(box, settings, send, verifier, spool)
                    message = _message(spool, filename, receiver, verifier, settings.max_size)
            except LookupError:
                if not box.exists():
                    raise
                continue  # it was settled, or its lease extended, in between
            yield message
            return


def leased_until(folder: str) -> datetime | None:
    """Return the deadline of a consumer's folder, from its name in `cur/`; None if it is not leased."""
    deadline = lease_deadline(folder)
    return from_nanoseconds(to_nanoseconds(deadline)) if deadline else None


def _find(box: Box, id_part: str, settings: Settings, verifier: Verifier) -> tuple[str, str]:
    """Return the folder of the lease that holds the message, and the name of its file."""
    found = [(folder, filename) for folder, filename in _claims(box) if id_part in filename]
    found = [claim for claim in found if claim[1][:ID_LENGTH] == id_part] or found
    if not found:
        raise _not_claimed(box, id_part, settings, verifier)
    if len(found) > 1:
        ids = ", ".join(filename[:ID_LENGTH] for _, filename in found[:_SHOWN_IDS])
        raise MessageNotFoundError(
            f"{quoted(id_part)} fits {len(found)} claimed messages in the box {quoted(box.address)}: "
            + ids
            + (" …" if len(found) > _SHOWN_IDS else ""),
            hint="give more of the id",
        )
    folder, filename = found[0]
    deadline = lease_deadline(folder)
    if not deadline:
        raise NotClaimedError(
            f"the message {filename[:ID_LENGTH]} is claimed without a lease",
            hint="the process that claimed it settles it; if that ends, the message is delivered again",
        )
    if deadline <= timestamp_now():
        raise _ended(folder)
    return folder, filename


def _claims(box: Box) -> Iterator[tuple[str, str]]:
    """Yield each claimed message: the consumer's folder, the name of the file."""
    try:
        cur = os.open(f"{box}/cur", FOLDER)
    except FileNotFoundError as error:
        raise box.missing() from error
    except OSError as error:
        raise storage_error(error, f"looking into the box {quoted(box.address)}") from error
    try:
        for folder in list_dir(cur):
            if lease_deadline(folder) is None:
                continue
            with contextlib.suppress(FileNotFoundError):
                dir_fd = os.open(folder, FOLDER, dir_fd=cur)
                try:
                    yield from ((folder, filename) for filename in list_dir(dir_fd) if is_mail(filename))
                finally:
                    close(dir_fd)
    finally:
        close(cur)


def _not_claimed(box: Box, id_part: str, settings: Settings, verifier: Verifier) -> NotClaimedError:
    """Return the error that names the place of the message instead. Raises MessageNotFoundError if it is nowhere."""
    states = [state for state in State if state is not State.CLAIMED]
    found = peek.find(box, id_part, states, settings.max_size, verifier)
    place, hint = {
        State.NEW: ("it waits", "`mailbox receive --no-ack` claims it"),
        State.DEFERRED: (
            "it is deferred, or its lease has ended",
            "`mailbox receive --no-ack` claims it when it is due",
        ),
        State.DEAD: ("it is a dead letter", "`mailbox dead requeue` delivers it again"),
        State.DONE: ("it was handled", None),
    }[State(found.state)]
    return NotClaimedError(f"the message {found.id} is not claimed: {place}", hint=hint)


def _ended(folder: str) -> NotClaimedError:
    deadline = lease_deadline(folder) or ""
    return NotClaimedError(
        f"its lease ended at {sent_time(deadline + '-' + 12 * '0')}: it is delivered again, and may be handled twice",
        hint="claim with a longer lease: `mailbox receive --no-ack --lease 1h`",
    )


def _message(spool: Spool, filename: str, receiver: Receiver, verifier: Verifier, max_size: int) -> Message[Any]:
    """Return the leased message in that file. Raises LookupError if it was settled meanwhile, NotMailError."""
    parts = parse_filename(filename)
    assert parts is not None, filename  # the spool gives no other names
    try:
        fd = os.open(filename, READ, dir_fd=spool.fd)
    except FileNotFoundError as error:
        raise LookupError(filename) from error
    try:
        data, st, refusal = strict_read(fd, max_size, parts.size)
    finally:
        close(fd)
    if refusal is not None:  # the consumer that claimed it died before it could read it
        raise NotMailError(f"{refusal.reason}. It is settled when its lease has ended")
    fields, trust = verifier.verify(data, st, filename)
    fields.setdefault("sent", modified_time(st))
    return Message(parts.id, fields, data, filename, parts.attempt, trust, receiver, receiver)
