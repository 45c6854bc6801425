"""Claims that outlive their process.

A lease is a folder in `cur/` whose name carries a deadline, `HEX,U=STAMP`, before anything is claimed into it. Until
then everybody leaves it alone, whether its lock is held or not, and any process of the box's owner may settle what lies
there, one at a time, under that lock. After that it is like the folder of a consumer that died: what lies there comes
back, the attempt counted.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

from ..errors import MessageNotFoundError, NotClaimedError, NotMailError, quoted, storage_error, translated_errors
from ..format.address import Address
from ..format.filename import ID_LENGTH, lease_deadline, parse_filename
from ..format.order import is_mail
from ..format.times import from_nanoseconds, modified_time
from ..format.timestamp import sent_time, to_nanoseconds, to_timestamp
from ..settings import Settings
from ..store.consumer_folder import ConsumerFolder, Tenancy
from ..store.ids import timestamp_now
from ..store.layout import State
from ..store.root import Root
from ..store.spool import Spool
from ..system.files import FOLDER, READ, close, list_dir
from ..system.locks import Lock
from ..system.strict_read import strict_read
from ..trust.verifier import Verifier
from . import peek
from .message import Message
from .receiver import Receiver

_LOCK_TIMEOUT: Final = 2.0
"""Seconds to wait for the lock of a lease: another process may be settling another message in it."""

_PLAIN_LENGTH: Final = 12
"""Characters of the name of a consumer's folder before its deadline."""


class _Lease(Tenancy):
    """A folder that outlives its consumer while there is mail in it."""

    def leave(self, folder: ConsumerFolder) -> None:
        """Keep the claims, and the deadline in the name of the folder; drop the deadline if it is empty."""
        if not any(map(is_mail, list_dir(folder.fd))):
            folder.change_name(folder.name[:_PLAIN_LENGTH])


class NewLease(_Lease):
    """Leases each claim for *duration* seconds, counted from the latest. After that the claims are anybody's."""

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
        spare = Spool(folder.root, folder.address, self._settings)
        spare.begin()
        spare.close()


class ExistingLease(_Lease):
    """Takes over the lease *name* of another process, which may be gone, to settle what lies in it."""

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
            raise _over(self._name)
        try:
            folder.adopt(self._name, lock)
        except FileNotFoundError:
            lock.release()
            raise


@contextlib.contextmanager
def leased(
    root: Root, address: Address, part: str, rules: Settings, send: Callable[..., str], verifier: Verifier
) -> Iterator[Message[Any]]:
    """The one leased message whose id holds *part*, to be settled here. Unsettled, it stays leased.

    Raises MessageNotFoundError for none and for several, NotClaimedError where it is not held, or by somebody who is
    still at work.
    """
    while True:
        with translated_errors(f"looking into the box {quoted(address)}"):
            folder, name = _find(root, address, part, rules, verifier)
        spool = Spool(root, address, rules, ExistingLease(folder))
        with contextlib.closing(spool):
            try:
                with translated_errors(f"holding {name}"):
                    spool.open_folder()
                    receiver = Receiver(root, address, rules, send, verifier, spool)
                    message = _message(spool, name, receiver, verifier, rules.max_size)
            except LookupError:
                if not root.has(address):
                    raise
                continue  # settled or extended in between: look again
            yield message
            return


def leased_until(folder: str) -> datetime | None:
    """Until when the folder of this name in `cur/` is leased."""
    deadline = lease_deadline(folder)
    return from_nanoseconds(to_nanoseconds(deadline)) if deadline else None


def _find(root: Root, address: Address, part: str, rules: Settings, verifier: Verifier) -> tuple[str, str]:
    """The lease in which it lies, and the name of its file."""
    found = [(folder, name) for folder, name in _all_held(root, address) if part in name]
    exact = [each for each in found if each[1][:ID_LENGTH] == part]
    found = exact or found
    if not found:
        raise _not_held(root, address, part, rules, verifier)
    if len(found) > 1:
        ids = ", ".join(name[:ID_LENGTH] for _, name in found[:4]) + (" …" if len(found) > 4 else "")
        raise MessageNotFoundError(
            f"{quoted(part)} fits {len(found)} messages that are held in the box {quoted(address)}: {ids}"
        )
    folder, name = found[0]
    deadline = lease_deadline(folder)
    if not deadline:
        raise NotClaimedError(
            f"the message {name[:ID_LENGTH]} was taken without a lease: whoever took it settles it, "
            "or it comes back when that process ends"
        )
    if deadline <= timestamp_now():
        raise _over(folder)
    return folder, name


def _all_held(root: Root, address: Address) -> Iterator[tuple[str, str]]:
    try:
        cur = os.open(f"{root.box(address)}/cur", FOLDER)
    except FileNotFoundError as error:
        raise root.missing(address) from error
    except OSError as error:
        raise storage_error(error, f"looking into the box {quoted(address)}") from error
    try:
        for folder in list_dir(cur):
            if lease_deadline(folder) is None:
                continue
            with contextlib.suppress(FileNotFoundError):
                opened = os.open(folder, FOLDER, dir_fd=cur)
                try:
                    yield from ((folder, name) for name in list_dir(opened) if is_mail(name))
                finally:
                    close(opened)
    finally:
        close(cur)


def _not_held(root: Root, address: Address, part: str, rules: Settings, verifier: Verifier) -> NotClaimedError:
    """Why it cannot be settled: it is somewhere else. Raises MessageNotFoundError where it is nowhere."""
    there = peek.find(
        root, address, part, [state for state in State if state is not State.CLAIMED], rules.max_size, verifier
    )
    where = {
        State.NEW: "it waits: `mailbox receive --no-ack` takes it",
        State.DEFERRED: "it was put off, or its lease ran out: `mailbox receive --no-ack` takes it when it comes back",
        State.DEAD: "it is a dead letter: `mailbox dead requeue` delivers it once more",
        State.DONE: "it was handled",
    }
    return NotClaimedError(f"the message {there.id} is not held: {where[State(there.state)]}")


def _over(folder: str) -> NotClaimedError:
    deadline = lease_deadline(folder) or ""
    return NotClaimedError(
        f"its lease ran out at {sent_time(deadline + '-' + 12 * '0')}: it is anybody's again, "
        "and may be handled twice. `mailbox receive --no-ack --lease` with a longer span takes it for longer"
    )


def _message(spool: Spool, name: str, receiver: Receiver, verifier: Verifier, max_size: int) -> Message[Any]:
    """The leased message in that file. Raises LookupError if it was settled meanwhile, NotMailError."""
    parts = parse_filename(name)
    assert parts is not None, name  # the spool gives no other names
    try:
        fd = os.open(name, READ, dir_fd=spool.fd)
    except FileNotFoundError as error:
        raise LookupError(name) from error
    try:
        data, st, refusal = strict_read(fd, max_size, parts.size)
    finally:
        close(fd)
    if refusal is not None:  # the consumer that claimed it died before it could read it
        raise NotMailError(f"{refusal.reason}. It is settled when its lease has ended")
    members, trust = verifier.verify(data, st, name)
    members.setdefault("sent", modified_time(st))
    return Message(parts.id, members, data, name, parts.attempt, trust, receiver, receiver)
