"""Claims that outlive their process.

A lease is a folder in `cur/` whose name carries a deadline, `HEX,U=STAMP`, before anything is claimed into it. Until
then everybody leaves it alone, whether its lock is held or not, and any process of the box's owner may settle what lies
there, one at a time, under that lock. After that it is like the folder of a consumer that died: what lies there comes
back, the attempt counted.
"""

import contextlib
import os
import stat
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
from ..store.ids import timestamp_now
from ..store.root import Root
from ..store.spool import Claim, Spool
from ..system.files import FOLDER, READ, close, list_dir, read
from ..system.locks import Lock
from ..trust.verifier import Verifier
from . import peek
from .message import Message
from .receiver import Receiver

_PATIENCE: Final = 2.0  # seconds: another process may be settling its neighbour
_PLAIN: Final = 12  # characters of a consumer's name before its deadline


class _Leased(Spool):
    """A taker whose folder outlives it as long as something lies there."""

    def _hand_over(self) -> None:
        if not any(map(is_mail, list_dir(self._mine))):
            self._rename(self._folder[:_PLAIN])

    def _rename(self, name: str) -> None:
        cur = self._folders["cur"]
        os.rename(self._folder, name, src_dir_fd=cur, dst_dir_fd=cur)
        self._folder = name


class LeasingSpool(_Leased):
    """Claims for *span* seconds each, counted from the latest: then they are anybody's, if this process is gone."""

    def __init__(self, root: Root, address: Address, rules: Settings, span: float) -> None:
        super().__init__(root, address, rules)
        self._span = span

    def claim(self, *, hasty: bool = False) -> Claim | None:
        """The next message, its deadline in the name of our folder before it is there."""
        with self._guard:
            leased = False
            if self._mine >= 0:
                # The box was replaced: claim() finds out, in its round.
                with (
                    contextlib.suppress(FileNotFoundError),
                    translated_errors(f"leasing from the box {quoted(self.address)}"),
                ):
                    self._extend()
                    leased = True
            return super().claim(hasty=hasty and leased)

    def _find_folder(self) -> None:
        super()._find_folder()
        self._extend()
        if not any(lease_deadline(name) == "" for name in list_dir(self._folders["cur"])):
            with contextlib.suppress(OSError):  # on a full volume others wait until we are done
                self._leave_one()

    def _extend(self) -> None:
        self._rename(f"{self._folder[:_PLAIN]},U={to_timestamp(time.time_ns() + int(self._span * 1e9))}")

    def _leave_one(self) -> None:
        """Make a folder for others, while there is room: so that a volume that fills up can still be drained."""
        spare = Spool(self.root, self.address, self._rules)
        spare.begin()
        spare.close()


class LeaseHolder(_Leased):
    """Settles what lies in the lease *folder* of another process, which may be gone."""

    def __init__(self, root: Root, address: Address, rules: Settings, folder: str) -> None:
        super().__init__(root, address, rules)
        self._lease = folder

    def hold(self) -> None:
        """Take the lease into our hands until close(). Raises FileNotFoundError where it is not there any more."""
        with self._guard:
            self._open(self._identify())

    def _find_folder(self) -> None:
        lock = Lock(f"{self._box}/cur/{self._lease}/.lock")
        if not lock.take(_PATIENCE):
            raise NotClaimedError(
                f"the process that took it from the box {quoted(self.address)} still runs: only that settles it"
            )
        if (lease_deadline(self._lease) or "") <= timestamp_now():
            lock.release()
            raise _over(self._lease)
        try:
            self._adopt_folder(self._lease, lock)
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
        settler = LeaseHolder(root, address, rules, folder)
        with contextlib.closing(settler):
            try:
                with translated_errors(f"holding {name}"):
                    settler.hold()
                    hold = Receiver(root, address, rules, send, verifier, settler)
                    message = _message(settler, name, hold, verifier, rules.max_size)
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
    there = peek.find(root, address, part, ("new", "later", "dead", "done"), rules.max_size, verifier)
    where = {
        "new": "it waits: `mailbox receive --no-ack` takes it",
        "later": "it was put off, or its lease ran out: `mailbox receive --no-ack` takes it when it comes back",
        "dead": "it is a dead letter: `mailbox dead requeue` delivers it once more",
        "done": "it was handled",
    }
    return NotClaimedError(f"the message {there.id} is not held: {where[there.state]}")


def _over(folder: str) -> NotClaimedError:
    deadline = lease_deadline(folder) or ""
    return NotClaimedError(
        f"its lease ran out at {sent_time(deadline + '-' + 12 * '0')}: it is anybody's again, "
        "and may be handled twice. `mailbox receive --no-ack --lease` with a longer span takes it for longer"
    )


def _message(settler: LeaseHolder, name: str, hold: Receiver, verifier: Verifier, max_size: int) -> Message[Any]:
    folder = settler.descriptor
    try:
        file = os.open(name, READ, dir_fd=folder)
    except FileNotFoundError as error:
        raise LookupError(name) from error
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or facts.st_size > max_size:
            # Whoever took it died before it could look.
            raise NotMailError("it is too large, no file, or has another name: it is judged when its lease has run out")
        data = read(file, facts.st_size)
    finally:
        close(file)
    parts = parse_filename(name)
    members, trust = verifier.verify(data, facts, name)
    assert parts is not None, name  # the spool gives no other names
    members.setdefault("sent", modified_time(facts))
    return Message(parts.id, members, data, name, parts.attempt, trust, hold)
