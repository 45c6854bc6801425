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

from . import names, peek
from .consumer import Consumer
from .errors import Malformed, NoMessage, NotHeld, Telling, quoted, storage
from .files import FOLDER, READ, close, listing, read
from .locks import Lock
from .message import Message, moment, written
from .names import Address
from .order import is_mail
from .root import Root
from .rules import Rules
from .spool import Claim, Taker
from .trust import Judge

_PATIENCE: Final = 2.0  # seconds: another process may be settling its neighbour
_PLAIN: Final = 12  # characters of a consumer's name before its deadline


class _Leased(Taker):
    """A taker whose folder outlives it as long as something lies there."""

    def _hand_over(self) -> None:
        if not any(map(is_mail, listing(self._mine))):
            self._rename(self._folder[:_PLAIN])

    def _rename(self, name: str) -> None:
        cur = self._folders["cur"]
        os.rename(self._folder, name, src_dir_fd=cur, dst_dir_fd=cur)
        self._folder = name


class Lessee(_Leased):
    """Claims for *span* seconds each, counted from the latest: then they are anybody's, if this process is gone."""

    def __init__(self, root: Root, address: Address, rules: Rules, span: float) -> None:
        super().__init__(root, address, rules)
        self._span = span

    def claim(self, *, hasty: bool = False) -> Claim | None:
        """The next message, its deadline in the name of our folder before it is there."""
        with self._guard:
            leased = False
            if self._mine >= 0:
                # The box was replaced: claim() finds out, in its round.
                with contextlib.suppress(FileNotFoundError), Telling(f"leasing from the box {quoted(self.address)}"):
                    self._extend()
                    leased = True
            return super().claim(hasty=hasty and leased)

    def _find_folder(self) -> None:
        super()._find_folder()
        self._extend()
        if not any(names.deadline_of(name) == "" for name in listing(self._folders["cur"])):
            with contextlib.suppress(OSError):  # on a full volume others wait until we are done
                self._leave_one()

    def _extend(self) -> None:
        self._rename(f"{self._folder[:_PLAIN]},U={names.stamp(time.time_ns() + int(self._span * 1e9))}")

    def _leave_one(self) -> None:
        """Make a folder for others, while there is room: so that a volume that fills up can still be drained."""
        spare = Taker(self.root, self.address, self._rules)
        spare.begin()
        spare.close()


class Settler(_Leased):
    """Settles what lies in the lease *folder* of another process, which may be gone."""

    def __init__(self, root: Root, address: Address, rules: Rules, folder: str) -> None:
        super().__init__(root, address, rules)
        self._lease = folder

    def hold(self) -> None:
        """Take the lease into our hands until close(). Raises FileNotFoundError where it is not there any more."""
        with self._guard:
            self._open(self._identify())

    def _find_folder(self) -> None:
        lock = Lock(f"{self._box}/cur/{self._lease}/.lock")
        if not lock.take(_PATIENCE):
            raise NotHeld(
                f"the process that took it from the box {quoted(self.address)} still runs: only that settles it"
            )
        if (names.deadline_of(self._lease) or "") <= names.now():
            lock.release()
            raise _over(self._lease)
        try:
            self._adopt_folder(self._lease, lock)
        except FileNotFoundError:
            lock.release()
            raise


@contextlib.contextmanager
def held(
    root: Root, address: Address, part: str, rules: Rules, send: Callable[..., str], judge: Judge
) -> Iterator[Message[Any]]:
    """The one leased message whose id holds *part*, to be settled here. Unsettled, it stays leased.

    Raises NoMessage for none and for several, NotHeld where it is not held, or by somebody who is still at work.
    """
    while True:
        with Telling(f"looking into the box {quoted(address)}"):
            folder, name = _find(root, address, part, rules, judge)
        settler = Settler(root, address, rules, folder)
        with contextlib.closing(settler):
            try:
                with Telling(f"holding {name}"):
                    settler.hold()
                    hold = Consumer(root, address, rules, send, judge, settler)
                    message = _message(settler, name, hold, judge, rules.max_size)
            except LookupError:
                if not root.has(address):
                    raise
                continue  # settled or extended in between: look again
            yield message
            return


def until(folder: str) -> datetime | None:
    """Until when the folder of this name in `cur/` is leased."""
    deadline = names.deadline_of(folder)
    return moment(names.nanoseconds(deadline)) if deadline else None


def _find(root: Root, address: Address, part: str, rules: Rules, judge: Judge) -> tuple[str, str]:
    """The lease in which it lies, and the name of its file."""
    found = [(folder, name) for folder, name in _all_held(root, address) if part in name]
    exact = [each for each in found if each[1][: names.ID] == part]
    found = exact or found
    if not found:
        raise _not_held(root, address, part, rules, judge)
    if len(found) > 1:
        ids = ", ".join(name[: names.ID] for _, name in found[:4]) + (" …" if len(found) > 4 else "")
        raise NoMessage(f"{quoted(part)} fits {len(found)} messages that are held in the box {quoted(address)}: {ids}")
    folder, name = found[0]
    deadline = names.deadline_of(folder)
    if not deadline:
        raise NotHeld(
            f"the message {name[: names.ID]} was taken without a lease: whoever took it settles it, "
            "or it comes back when that process ends"
        )
    if deadline <= names.now():
        raise _over(folder)
    return folder, name


def _all_held(root: Root, address: Address) -> Iterator[tuple[str, str]]:
    try:
        cur = os.open(f"{root.box(address)}/cur", FOLDER)
    except FileNotFoundError as error:
        raise root.missing(address) from error
    except OSError as error:
        raise storage(error, f"looking into the box {quoted(address)}") from error
    try:
        for folder in listing(cur):
            if names.deadline_of(folder) is None:
                continue
            with contextlib.suppress(FileNotFoundError):
                opened = os.open(folder, FOLDER, dir_fd=cur)
                try:
                    yield from ((folder, name) for name in listing(opened) if is_mail(name))
                finally:
                    close(opened)
    finally:
        close(cur)


def _not_held(root: Root, address: Address, part: str, rules: Rules, judge: Judge) -> NotHeld:
    """Why it cannot be settled: it is somewhere else. Raises NoMessage where it is nowhere."""
    there = peek.find(root, address, part, ("new", "later", "dead", "done"), rules.max_size, judge)
    where = {
        "new": "it waits: `mailbox receive --manual` takes it",
        "later": "it was put off, or its lease ran out: `mailbox receive --manual` takes it when it comes back",
        "dead": "it is a dead letter: `mailbox dead requeue` delivers it once more",
        "done": "it was handled",
    }
    return NotHeld(f"the message {there.id} is not held: {where[there.state]}")


def _over(folder: str) -> NotHeld:
    deadline = names.deadline_of(folder) or ""
    return NotHeld(
        f"its lease ran out at {names.sent(deadline + '-' + 12 * '0')}: it is anybody's again, "
        "and may be handled twice. `mailbox receive --manual --lease` with a longer span takes it for longer"
    )


def _message(settler: Settler, name: str, hold: Consumer, judge: Judge, max_size: int) -> Message[Any]:
    folder = settler.descriptor
    try:
        file = os.open(name, READ, dir_fd=folder)
    except FileNotFoundError as error:
        raise LookupError(name) from error
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or facts.st_size > max_size:
            # Whoever took it died before it could look.
            raise Malformed("it is too large, no file, or has another name: it is judged when its lease has run out")
        data = read(file, facts.st_size)
    finally:
        close(file)
    parts = names.parse(name)
    members, trust = judge.judge(data, facts, name)
    assert parts is not None, name  # the spool gives no other names
    members.setdefault("sent", written(facts))
    return Message(parts.id, members, data, name, parts.attempt, trust, hold)
