"""Out of a box: the renames of its consumers, and the only mover of messages that were delivered.

    new/               delivered         waiting for a consumer
    cur/CONSUMER/      claimed           one consumer is at work on it, and holds the lock of this folder
    later/             put off           comes back when its time has come
    dead/              given up          kept for a person, the reason beside it
    done/              handled           only where retention is on

Every state is a folder and every step is one rename, so a crash leaves a message where it was or where it was going,
never in between. What was once claimed never goes back to `new/`, where its sender could touch it. All folders are held
open: nobody can put another one in the way.
"""

import contextlib
import errno
import heapq
import os
import re
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from . import log, names, replies
from .errors import Malformed, NotHeld, Storage, Telling, quoted, storage
from .files import FOLDER, NOREPLACE, READ, alone, close, kind, listing, read, rename
from .locks import Lock
from .message import decode
from .names import Address, Name
from .order import Order, is_mail
from .root import REPLACED, Root, adopt
from .rules import Rules

STILL: Final = 5.0
"""Seconds for which a file that is not whole must not have changed before it is a dead letter."""

ABANDONED: Final = 36 * 3600
"""Seconds after which a draft in `tmp/` is given up: Maildir's number, the one judgement by age."""

_MANY: Final = 1000  # odd files from which on they are looked at less often
_SHARE: Final = 1.0  # seconds of a look that may go into taking odd files away: mail comes first
_TICK: Final = 100_000_000  # nanoseconds: a file changed this lately may change again under the same ctime
_PLAIN = re.compile(rf"{names.CLOCK}-[0-9a-f]{{12}},S=(\d{{1,9}})\.json", re.ASCII).fullmatch
_STUCK: Final = (errno.EPERM, errno.EBUSY, errno.ENAMETOOLONG)
_NO_FILE: Final = (errno.ELOOP, errno.ENXIO, errno.ENODEV)
_FOR_ALL: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EINTR)  # no one file's
_TRIES: Final = 8  # how often in a row a file that fails is tried before what is behind it
_LEFT_ALONE: Final = 60.0  # seconds for which it is left alone then
_OUR_TROUBLE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT)


Claim: TypeAlias = tuple[str, bytes, os.stat_result, bool]
"""A message that is ours now: the name of its file in our folder; its bytes, read once; what the kernel says of the
file; and whether it came straight from `new/`, never claimed before. A tuple, because it is made for every message."""


class Taker:
    """One consumer of a box: claims messages, one at a time, and settles them.

    Safe to share between threads. Its folder in `cur/` is locked while it lives; in the child of a fork it holds
    nothing, and finds itself another folder when used.
    """

    def __init__(self, root: Root, address: Address, rules: Rules | None = None) -> None:
        self.root, self.address = root, address
        self._box = root.box(address)
        self._rules = rules or Rules()
        self._max_size, self._retention = self._rules.max_size, self._rules.retention
        self.wants: Callable[[bytes], bool] | None = None
        """Which content is taken at all, where not all is: the rest is left where it lies, for others."""
        self._forget()
        _takers.add(self)

    def _forget(self) -> None:
        """As if nothing had been opened yet."""
        self._guard = threading.RLock()
        self._folders: dict[str, int] = {}
        self._identity: tuple[tuple[int, int], ...] = ()
        self._lock: Lock | None = None
        self._new = self._mine = -1
        self._read = READ | os.O_NOATIME  # only the owner of a file may: given up at the first refusal
        self._folder = ""
        self._order = Order()
        self._batch: list[str] = []
        self._held_back = False
        self._later: list[tuple[int, str]] = []
        # name → its ctime, when we first saw that, whether we have looked since it could change unseen
        self._unfinished: dict[str, tuple[int, float, bool]] = {}
        self._odd_until = 0.0
        self._told: set[str] = set()
        self._failing: dict[str, tuple[int, float]] = {}  # how often in a row, and until when it is left alone
        self._dropped: set[str] = set()
        self._passed: set[str] = set()
        self._round_at = 0.0
        self._sweep_at = 0.0

    # Claiming

    def claim(self) -> Claim | None:
        """The next message, moved into our folder; None where nothing is to be had now.

        Raises NoBox or NoRoot where the box is gone, Storage where the disk fails us. What is not mail becomes a dead
        letter or is left alone, is logged, and never stops the mail behind it.
        """
        try:
            if not self._later and time.monotonic() < self._round_at:  # what most calls do
                if not self._batch:
                    with self._guard:
                        if not self._batch and not self._list_new(0):
                            return None
                if self._batch:
                    claim = self._claim_first()
                    if claim is not None:
                        return claim
            with self._guard:
                return self._claim_any()
        except IndexError:  # another thread took the last one of the batch
            return self.claim()
        except OSError as error:
            if isinstance(error, Storage):
                raise
            raise storage(error, f"taking mail from the box {quoted(self.address)}") from error

    def _claim_any(self) -> Claim | None:
        if time.monotonic() >= self._round_at:
            self._go_round()
        listed = 0
        while True:
            if self._later and self._later[0][0] <= time.time_ns():
                claim = self._claim_due(heapq.heappop(self._later)[1])
            elif self._batch:
                claim = self._claim_first()
            elif listed < 2 and self._list_new(listed):
                listed += 1
                continue
            else:
                return None
            if claim is not None:
                return claim

    def _claim_first(self) -> Claim | None:
        """Claim the first of the batch. Where the disk fails us it stays the first: what is behind it may be later."""
        text = self._batch.pop()
        try:
            return self._claim_new(text)
        except OSError as error:
            if self._is_first_again(text, error):
                self._batch.append(text)
            raise

    def _is_first_again(self, text: str, error: OSError) -> bool:
        """Whether it is tried again before what is behind it: but what fails again and again stops nothing."""
        if error.errno in _FOR_ALL:
            return True
        times = self._failing.get(text, (0, 0.0))[0] + 1
        self._failing[text] = times, time.monotonic() + _LEFT_ALONE if times >= _TRIES else 0.0
        if times == _TRIES:
            log.error("%s fails again and again: what is behind it is taken first (%s)", quoted(text), error)
        return times < _TRIES

    def _is_left_alone(self, text: str) -> bool:
        return self._failing.get(text, (0, 0.0))[1] > time.monotonic()

    def begin(self) -> None:
        """Open the box, find a folder in `cur/` for us, take over what the dead have left. Raises as claim() does."""
        try:
            with self._guard:
                self._go_round()
        except OSError as error:
            if isinstance(error, Storage):
                raise
            raise storage(error, f"opening the box {quoted(self.address)}") from error

    @property
    def folder(self) -> str | None:
        """The name of our folder in `cur/`, once we have one."""
        return self._folder or None

    @property
    def descriptor(self) -> int:
        """That folder, open. Raises NotHeld where there is none any more."""
        return self._held()

    def next_due(self) -> float | None:
        """In how many seconds the next message that was put off comes back, as far as we know."""
        with self._guard:
            return (self._later[0][0] - time.time_ns()) / 1e9 if self._later else None

    def _list_new(self, listed: int) -> bool:
        """List `new/`; whether that is worth going on with. Once a call, twice where mail was held back."""
        if listed and not self._held_back:
            return False
        self._odd_until = time.monotonic() + _SHARE
        clock = names.now()  # before the listing
        waiting = listing(self._new)
        if not waiting:
            self._unfinished.clear()
            self._held_back = False
            return False
        if self._passed:
            waiting = self._unpassed(waiting)
        if len(self._unfinished) + len(self._told) > 2 * len(waiting) + _MANY:  # what we remember of what has gone
            here = set(waiting)
            self._unfinished = {name: seen for name, seen in self._unfinished.items() if name in here}
            self._told &= here
        batch, self._held_back = self._order.sift(waiting, clock, self._changed)
        if self._failing:
            batch = [name for name in batch if not self._is_left_alone(name)]
        batch.reverse()
        self._batch = batch  # only now: other threads pop from it
        return bool(batch) or self._held_back

    def _unpassed(self, listed: list[str]) -> list[str]:
        """Without those that we have looked at and do not want."""
        return [name for name in listed if name not in self._passed]

    def _pass_by(self, text: str, data: bytes) -> bool:
        """Whether it is left to others."""
        if self.wants is None or self.wants(data):
            return False
        self._passed.add(text)
        return True

    def _changed(self, name: str) -> str | None:
        try:
            facts = os.stat(name, dir_fd=self._folders["new"], follow_symlinks=False)
        except FileNotFoundError:
            return None
        if len(self._unfinished) > _MANY and self._as_it_was(name, facts):
            return None
        return names.stamp(facts.st_mtime_ns)

    def _as_it_was(self, text: str, facts: os.stat_result) -> bool:
        """Whether it was not whole when we looked last, has not changed since, and not been still for long enough."""
        seen, changed = self._unfinished.get(text), facts.st_ctime_ns
        if seen is None or seen[0] != changed or not seen[2]:
            return False
        return (time.time_ns() - changed) / 1e9 < STILL and time.monotonic() - seen[1] < STILL

    def _claim_new(self, text: str) -> Claim | None:
        """Claim one file from `new/`. The common case is straight down; all else is _claim_odd()."""
        plain, how, ours = _PLAIN(text), self._read, False
        try:
            file = os.open(text, how, dir_fd=self._new)
        except FileNotFoundError:
            return None  # another consumer was faster
        except OSError as error:
            if error.errno == errno.EPERM and how != READ:  # the file is another user's
                self._read = READ
                return self._claim_new(text)
            self._unopened(text, error)
            return None
        try:
            facts = os.fstat(file)
            size = facts.st_size
            if (
                plain is None
                or size != int(plain[1])
                or size > self._max_size
                or facts.st_nlink != 1
                or facts.st_mode & 0o170000 != stat.S_IFREG
                or self.wants is not None
            ):
                return self._claim_odd(text, file, facts)
            os.rename(text, text, src_dir_fd=self._new, dst_dir_fd=self._mine)
            ours = True
            data = os.read(file, size + 1)
            if len(data) < size:
                data += read(file, size - len(data))
            if not alone(text, self._mine, facts, ours=True):
                self._exchanged(text)
                return None
        except FileNotFoundError:
            return None
        except OSError as error:
            if ours:
                self.drop(text)
                raise
            self._unmoved(text, error)
            return None
        finally:
            close(file)
        if len(data) != size:
            self._bury(text, "it changed while it was read", "")
            return None
        return text, data, facts, True

    def _claim_odd(self, text: str, file: int, facts: os.stat_result) -> Claim | None:
        """Claim a file whose name is not of our making, or that is not as its name says."""
        if not is_mail(text):
            return None
        if not stat.S_ISREG(facts.st_mode):
            self._dispose(text, f"it is {kind(facts.st_mode)}, not a file", facts)
            return None
        name = names.parse(text)
        if facts.st_size > self._max_size:
            self._bury_new(text, f"it has {facts.st_size} bytes, and {self._max_size} is the limit", facts)
            return None
        problem: str | None
        if facts.st_nlink != 1:
            problem = f"it has {facts.st_nlink} links: somebody else can still change it"
        elif name is not None and name.size is not None and name.size != facts.st_size:
            problem = f"it has {facts.st_size} bytes and its name says S={name.size}: it is not whole"
        else:
            data = read(file, facts.st_size)
            if name is None or name.size is None:  # complete once it parses
                problem = _problem(data)
                if problem is None and self._pass_by(text, data):
                    return None
                if problem is None:
                    return self._take_in(text, name, data, facts)
            elif len(data) == name.size:
                if self._pass_by(text, data):
                    return None
                return self._take_in(text, name, data, facts)
            else:
                problem = "it changed while it was read"
        if self._still(text, facts):  # else perhaps somebody is still writing it
            self._bury_new(text, problem, facts)
        return None

    def _take_in(self, text: str, name: Name | None, data: bytes, facts: os.stat_result) -> Claim | None:
        """Claim a file under a name of ours: a fresh id for a foreign name, no fields that a sender made up."""
        ours = Name(names.new_id(), len(data), stem=names.stem(text))
        if name is not None:
            ours = Name(name.id, len(data))
            if name.origin is not None:  # the judge sees whether a relay says so
                ours = ours.but(stem=name.stem, origin=name.origin)
        os.rename(text, str(ours), src_dir_fd=self._folders["new"], dst_dir_fd=self._mine)
        self._unfinished.pop(text, None)
        try:
            whole = alone(str(ours), self._mine, facts, ours=True)
        except OSError:
            self.drop(str(ours))
            raise
        if not whole:
            self._exchanged(str(ours))
            return None
        return str(ours), data, facts, True

    def _exchanged(self, name: str) -> None:
        """What we hold is not what we read: it was replaced in between. It is read anew, where nobody reaches it."""
        self.put_off(name, time.time_ns())

    def _claim_due(self, text: str) -> Claim | None:
        """Claim one file from `later/`."""
        parts = names.untimed(text)
        name = names.parse(parts[1]) if parts else None
        if parts is None or name is None:
            return None
        later = self._folders["later"]
        try:
            file = os.open(text, READ, dir_fd=later)
        except FileNotFoundError:
            return None
        except OSError as error:
            try:
                lost = error.errno in _NO_FILE or self._is_denied(text, later, error)
            except FileNotFoundError:
                return None  # gone meanwhile
            if not lost:
                self._retry_due(text, error)
                raise
            os.rename(text, parts[1], src_dir_fd=later, dst_dir_fd=self._mine)
            self._bury(parts[1], f"it cannot be opened: {(error.strerror or str(error)).lower()}", "")
            return None
        try:
            facts = os.fstat(file)
            whole = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1
            data = read(file, min(facts.st_size, self._max_size)) if whole else b""
            if whole and self._pass_by(text, data):
                return None
            os.rename(text, parts[1], src_dir_fd=later, dst_dir_fd=self._mine)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in _STUCK:
                self._retry_due(text, error)
                raise
            self._leave(text, "it cannot be moved", error, "later")
            return None
        finally:
            close(file)
        if facts.st_size > self._max_size:
            self._bury(parts[1], f"it has {facts.st_size} bytes, and {self._max_size} is the limit", "")
            return None
        if not whole:  # put in its place before it was claimed first
            odd = f"{facts.st_nlink} links" if stat.S_ISREG(facts.st_mode) else f"become {kind(facts.st_mode)}"
            self._bury(parts[1], f"it has {odd}: somebody else has changed it", "")
            return None
        if name.size != facts.st_size or len(data) != facts.st_size:
            self._bury(parts[1], f"it has {facts.st_size} bytes and its name says S={name.size}: it is not whole", "")
            return None
        return parts[1], data, facts, False

    def _retry_due(self, text: str, error: OSError) -> None:
        if self._is_first_again(text, error):
            parts = names.untimed(text)
            assert parts is not None, text
            heapq.heappush(self._later, (names.nanoseconds(parts[0]), text))

    def _is_denied(self, text: str, folder: int, error: OSError) -> bool:
        """Whether it is the mode of a file that keeps it from us. Else, that we may not open it is our own trouble.

        Raises FileNotFoundError where it is gone.
        """
        if error.errno not in (errno.EACCES, errno.EPERM):
            return False
        facts = os.stat(text, dir_fd=folder, follow_symlinks=False)
        if facts.st_uid == os.geteuid():
            return not facts.st_mode & stat.S_IRUSR
        ours = facts.st_gid == os.getegid() or facts.st_gid in os.getgroups()
        return not facts.st_mode & (stat.S_IRGRP if ours else stat.S_IROTH)

    def _still(self, text: str, facts: os.stat_result) -> bool:
        """Whether the file has not changed for a while: by its ctime, or, where clocks were set, by what we saw."""
        changed, now = facts.st_ctime_ns, time.monotonic()
        if (time.time_ns() - changed) / 1e9 >= STILL:
            return True
        seen, sure = self._unfinished.get(text), time.time_ns() - changed > _TICK
        if seen is None or seen[0] != changed:
            self._unfinished[text] = (changed, now, sure)
            return False
        if sure and not seen[2]:
            self._unfinished[text] = (changed, seen[1], True)
        return now - seen[1] >= STILL

    def _unopened(self, text: str, error: OSError) -> None:
        if error.errno in _OUR_TROUBLE:  # our own trouble never condemns mail
            raise error
        if not is_mail(text):
            return
        if error.errno == errno.ELOOP:
            self._dispose(text, "it is a symbolic link, not a file", None)
        elif error.errno in (errno.ENXIO, errno.ENODEV):
            self._dispose(text, "it is a socket or a device, not a file", None)
        elif error.errno in (errno.EACCES, errno.EPERM):
            try:
                if not self._is_denied(text, self._new, error):
                    raise error
                self._unreadable(text)
            except FileNotFoundError:
                return  # gone meanwhile
            except OSError as trouble:
                self._unmoved(text, trouble)
        elif error.errno != errno.EAGAIN:  # EAGAIN: its owner has a lease on it; the next listing finds it again
            raise error

    def _unreadable(self, text: str) -> None:
        facts = os.stat(text, dir_fd=self._folders["new"], follow_symlinks=False)
        if stat.S_ISREG(facts.st_mode):
            self._bury_new(text, "its mode keeps it from its recipient: it must be 0640 or 0644", facts)
        else:
            self._dispose(text, f"it is {kind(facts.st_mode)}, not a file", facts)

    def _unmoved(self, text: str, error: OSError) -> None:
        """Leave a file alone that cannot be moved, though the folder is ours: a mount point, or chattr +i."""
        if error.errno == errno.EACCES and stat.S_ISDIR(os.stat(text, dir_fd=self._new, follow_symlinks=False).st_mode):
            return  # it was a file when we looked, and is no longer: the next look finds a folder
        if error.errno not in _STUCK or os.geteuid() not in (0, os.fstat(self._new).st_uid):
            raise error
        self._leave(text, "it cannot be moved", error)

    def _leave(self, text: str, what: str, error: OSError, where: str = "new") -> None:
        """It stays where it is, and is no mail. Said once."""
        if text not in self._told:
            self._told.add(text)
            log.warning(
                "%s in the %s/ of %s is left alone: %s (%s)", quoted(text), where, self.address, what, error.strerror
            )

    # Settling

    def ack(self, name: str) -> None:
        """It is handled. Where it is not ours any more, that is logged: it may be handled twice."""
        try:
            if self._retention is None:
                os.unlink(name, dir_fd=self._mine)
            else:
                done = names.timed(names.now(), name)
                os.rename(name, done, src_dir_fd=self._held(), dst_dir_fd=self._folders["done"])
        except FileNotFoundError:
            self._lost(name)
        except OSError as error:
            self._held()
            raise storage(error, f"acking {name}") from error

    def holds(self, name: str) -> bool:
        """Whether it is still in our folder. Raises NotHeld where there is none any more."""
        try:
            os.stat(name, dir_fd=self._held(), follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage(error, f"looking for {name}") from error
        return True

    def drop(self, name: str) -> None:
        """It cannot be handled now, by our own fault: it comes back at once, or as soon as that can be."""
        self._dropped.add(name)
        with contextlib.suppress(Storage, NotHeld):
            self.put_off(name, time.time_ns())
            self._dropped.discard(name)

    def put_off(self, name: str, due: int, renamed: Name | None = None) -> None:
        """It comes back at *due* (nanoseconds since 1970), under the name *renamed*: attempts are counted there."""
        text = names.timed(names.stamp(due), str(renamed) if renamed else name)
        try:
            os.rename(name, text, src_dir_fd=self._held(), dst_dir_fd=self._folders["later"])
        except FileNotFoundError:
            self._lost(name)
            return
        except OSError as error:
            raise storage(error, f"putting off {name}") from error
        with self._guard:
            heapq.heappush(self._later, (due, text))

    def bury(self, name: str, reason: str, detail: str = "") -> None:
        """It becomes a dead letter: the file untouched, *reason* and *detail* in a `.why` file beside it."""
        try:
            self._bury(name, reason, detail)
        except FileNotFoundError:
            self._lost(name)
        except OSError as error:
            raise storage(error, f"burying {name}") from error

    def requeue(self, text: str) -> str:
        """Deliver the dead letter *text* once more, the attempts counted anew. Returns its id.

        Raises FileNotFoundError where it is not there any more.
        """
        with self._guard, Telling(f"requeueing {quoted(text)}"):
            self._ready()
            dead = self._folders["dead"]
            size = os.stat(text, dir_fd=dead, follow_symlinks=False).st_size  # a person may have mended it
            name = names.parse(text) or Name(names.new_id(), stem=names.stem(text))
            now = time.time_ns()
            if ",B=" in text and os.path.isdir(f"{self._box}/outbox"):  # a relay sent it back: it goes out again
                os.rename(text, f"{self._box}/outbox/{Name(name.id, size, stem=name.stem)}", src_dir_fd=dead)
            else:
                back = names.timed(names.stamp(now), str(name.but(size=size, attempt=1, requeued=name.requeued + 1)))
                os.rename(text, back, src_dir_fd=dead, dst_dir_fd=self._folders["later"])
                heapq.heappush(self._later, (now, back))
            with contextlib.suppress(OSError):
                os.unlink(_why(text), dir_fd=dead)
            return name.id

    def purge(self, text: str) -> None:
        """Delete the dead letter *text* and its `.why`. Raises FileNotFoundError where it is not there any more."""
        with self._guard, Telling(f"purging {quoted(text)}"):
            self._ready()
            os.unlink(text, dir_fd=self._folders["dead"])
            with contextlib.suppress(OSError):
                os.unlink(_why(text), dir_fd=self._folders["dead"])

    def close(self) -> None:
        """Hand back what is held, the attempt not counted, and let go of the folder."""
        with self._guard:
            if self._lock is not None:
                with contextlib.suppress(OSError):
                    self._hand_over()
                self._lock.release()
            for folder in (*self._folders.values(), self._mine):
                if folder >= 0:
                    with contextlib.suppress(OSError):
                        close(folder)
            self._forget()

    def _hand_over(self) -> None:
        """What becomes of what we hold when we leave."""
        self._recover(self._mine, counted=False)

    def _held(self) -> int:
        if self._mine < 0:
            raise NotHeld("the message is not held any more: its mailbox was closed, or this is the child of a fork")
        return self._mine

    def _lost(self, name: str) -> None:
        log.warning("%s was not ours any more when it was settled: it may be handled twice", name)

    def _bury(self, name: str, reason: str, detail: str) -> None:
        mine = self._held()
        grave = self._grave(name)
        self._explain(grave, reason, detail)
        os.rename(name, grave, src_dir_fd=mine, dst_dir_fd=self._folders["dead"])
        log.warning("dead letter %s in the box %s: %s", grave, self.address, reason)

    def _bury_new(self, text: str, reason: str, facts: os.stat_result | None) -> None:
        """Bury what was never claimed. A foreign name gets an id, so that two files of one name never meet."""
        if time.monotonic() > self._odd_until:
            return  # the next look finds it again
        name = names.parse(text)
        size = facts.st_size if facts else None
        grave = self._grave(str(Name(name.id, size) if name else Name(names.new_id(), size, stem=names.stem(text))))
        self._explain(grave, reason, f"its name was {quoted(text)}")
        try:
            os.rename(text, grave, src_dir_fd=self._folders["new"], dst_dir_fd=self._folders["dead"])
            log.warning("dead letter %s in the box %s: %s", grave, self.address, reason)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(_why(grave), dir_fd=self._folders["dead"])
            if not isinstance(error, FileNotFoundError):  # else another consumer was faster
                raise
        self._unfinished.pop(text, None)

    def _grave(self, name: str) -> str:
        """*name*, or, where a dead letter lies under it already, one with a fresh id."""
        try:
            os.stat(name, dir_fd=self._folders["dead"], follow_symlinks=False)
        except FileNotFoundError:
            return name
        parts = names.parse(name)
        return str(Name(names.new_id(), parts.size if parts else None, stem=names.stem(name)))

    def _explain(self, grave: str, reason: str, detail: str) -> None:
        """Write the `.why`. Best effort: a full disk must not stop the settling."""
        text = f"{reason}\n" + (f"\n{detail.rstrip()}\n" if detail else "")
        path = f"{self._box}/dead/{_why(grave)}"
        try:
            file = os.open(
                _why(grave),
                os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
                dir_fd=self._folders["dead"],
            )
            try:
                os.write(file, text.encode("utf-8", "backslashreplace"))
            finally:
                os.close(file)
            adopt(path, self._box)
        except OSError as error:
            log.warning("cannot write %s: %s", path, error.strerror)

    def _dispose(self, text: str, what: str, facts: os.stat_result | None) -> None:
        """Take away what can never be mail and has nothing to keep; leave a note. What cannot go is left, said once."""
        new = self._folders["new"]
        if time.monotonic() > self._odd_until:
            return  # the next look finds it again
        try:
            target = f" to {quoted(os.readlink(text, dir_fd=new))}" if facts is None and "link" in what else ""
            if facts is not None and stat.S_ISDIR(facts.st_mode):
                os.rmdir(text, dir_fd=new)
            else:
                os.unlink(text, dir_fd=new)
        except FileNotFoundError:
            return
        except OSError as error:
            self._leave(text, f"{what}, and it cannot be removed", error)
            return
        note = str(Name(names.new_id(), stem=names.stem(text)))
        self._explain(note, f"{what}{target}: it was removed", f"its name was {quoted(text)}")
        log.warning("%s in the new/ of %s was removed: %s", quoted(text), self.address, what)

    # The round: what no wake-up announces

    def _go_round(self) -> None:
        """Find our folder, what dead consumers held, what has come due, and whether the box is still the same."""
        started = time.monotonic()
        self._ready()
        for name in list(self._dropped):
            self.drop(name)
        self._take_over()
        self._list_later()
        if started >= self._sweep_at:
            self._rescue()
            self._sweep_drafts()
            self._sweep_done()
            self._sweep_at = started + 3600
        took = time.monotonic() - started
        # A huge box costs at most a twentieth of the time.
        self._round_at = started + max(self._rules.rescan, 20 * took)

    def _ready(self) -> None:
        identity = self._identify()
        if identity != self._identity or os.fstat(self._mine).st_nlink == 0:
            if self._identity[:1] == identity[:1] and os.fstat(self._mine).st_nlink > 0:
                self._exchange_new(identity)
                return
            if self._identity:
                log.warning("the box %s, or our folder in it, was replaced: starting anew", self.address)
                self.close()
            self._open(identity)

    def _identify(self) -> tuple[tuple[int, int], ...]:
        try:
            box, new = os.stat(self._box), os.stat(f"{self._box}/new")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.root.missing(self.address) from error
        except OSError as error:
            raise storage(error, f"opening the box {quoted(self.address)}") from error
        return (box.st_dev, box.st_ino), (new.st_dev, new.st_ino)

    def _open(self, identity: tuple[tuple[int, int], ...]) -> None:
        try:
            for folder in ("new", "replies", "later", "dead", "done", "cur"):
                self._folders[folder] = self._folder_at(f"{self._box}/{folder}")
            self._new = self._folders["new"]
            self._find_folder()
        except OSError as error:
            self.close()
            if isinstance(error, Storage):
                raise
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise self.root.missing(self.address) from error
            raise storage(error, f"opening the box {quoted(self.address)}") from error
        self._identity = identity

    @staticmethod
    def _folder_at(path: str) -> int:
        try:
            return os.open(path, FOLDER)
        except NotADirectoryError as error:
            what = kind(os.lstat(path).st_mode)
            raise Storage(f"{quoted(path)} is {what}, not a folder: somebody has put it there", error.errno) from error

    def _exchange_new(self, identity: tuple[tuple[int, int], ...]) -> None:
        """`new/` alone is another folder, as gc makes it when it has grown too large: what we hold stays ours."""
        fresh = self._folder_at(f"{self._box}/new")
        os.dup2(fresh, self._new, inheritable=False)  # in one step: other threads are using it
        close(fresh)
        self._identity = identity
        self._sweep_at = 0.0  # whoever exchanged it may have been killed on the way

    def disown(self) -> None:
        """In the child of a fork: the folder, its lock and what lies there are the parent's."""
        _parents.append(self._lock)  # to drop it would unlock it, for the parent as well
        for folder in (*self._folders.values(), self._mine):
            if folder >= 0:
                with contextlib.suppress(OSError):
                    close(folder)
        self._forget()

    def _find_folder(self) -> None:
        """Take a free folder in `cur/` for ours; make one only where there is none."""
        for name in self._consumers():
            lock = self._try(name)
            if lock is None:
                continue
            try:
                self._adopt_folder(name, lock)
            except FileNotFoundError:  # swept away, or leased, between the listing and the lock
                lock.release()
                continue
            self._recover(self._mine, counted=True)
            return
        self._make_folder()

    def _make_folder(self) -> None:
        name = os.urandom(6).hex()
        hidden = f"{self._box}/cur/.{name}"
        os.mkdir(hidden, 0o700)
        adopt(hidden, self._box)
        lock = Lock(f"{hidden}/.lock")
        if not lock.take():
            raise OSError(errno.EDEADLK, "a lock nobody can know of is held")
        adopt(f"{hidden}/.lock", self._box)
        os.rename(hidden, f"{self._box}/cur/{name}")  # never visible without its lock
        self._adopt_folder(name, lock)

    def _adopt_folder(self, name: str, lock: Lock) -> None:
        self._mine = os.open(name, FOLDER, dir_fd=self._folders["cur"])
        self._lock, self._folder = lock, name

    def _take_over(self) -> None:
        """Move what consumers held whose lock can be taken: they are dead, however they died."""
        for name in self._consumers():
            if name == self._folder:
                continue
            lock = self._try(name)
            if lock is None:
                continue
            try:
                folder = os.open(name, FOLDER, dir_fd=self._folders["cur"])
                try:
                    self._recover(folder, counted=True)
                finally:
                    close(folder)
            except FileNotFoundError:
                pass
            finally:
                lock.release()
        replies.sweep(self._box, self._folders["replies"])

    def _consumers(self) -> Iterator[str]:
        """The folders in `cur/` that may be taken over if their lock can be had: leases only when they are over."""
        now = names.now()
        for name in listing(self._folders["cur"]):
            deadline = names.deadline_of(name)
            if deadline is not None and deadline <= now:
                yield name

    def _try(self, name: str) -> Lock | None:
        lock = Lock(f"{self._box}/cur/{name}/.lock")
        try:
            return lock if lock.take() else None
        except FileNotFoundError:
            return None

    def _recover(self, folder: int, *, counted: bool) -> None:
        """Move all that lies in a consumer's folder to `later/`, due now."""
        now = time.time_ns()
        for text in sorted(listing(folder)):
            name = names.parse(text)
            if name is None:
                continue
            back = name.but(attempt=name.attempt + counted)
            due = names.timed(names.stamp(now), str(back))
            try:
                os.rename(text, due, src_dir_fd=folder, dst_dir_fd=self._folders["later"])
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in _STUCK:
                    raise
                self._leave(text, "it cannot be moved", error, "cur")
                continue
            heapq.heappush(self._later, (now, due))
            if counted:
                log.warning(
                    "%s was held by a consumer that is gone: it comes back as attempt %d", name.id, back.attempt
                )

    def _list_later(self) -> None:
        waiting = listing(self._folders["later"])
        if self._passed or self._failing:
            here = [*waiting, *listing(self._folders["new"])]
            self._passed.intersection_update(here)
            self._failing = {name: tries for name, tries in self._failing.items() if name in here}
            waiting = [name for name in self._unpassed(waiting) if not self._is_left_alone(name)]
        self._later = [(names.nanoseconds(parts[0]), text) for text in waiting if (parts := names.untimed(text))]
        heapq.heapify(self._later)

    def _rescue(self) -> None:
        """Take back what lies in a `new/` that was exchanged, and never emptied: gc was killed on the way."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self._box):
                if name.startswith(REPLACED):
                    move_all(f"{self._box}/{name}", f"{self._box}/new")

    def _sweep_drafts(self) -> None:
        """Give up drafts whose writer has long gone, as many as a second allows."""
        until = time.monotonic() + _SHARE
        with contextlib.suppress(OSError), os.scandir(f"{self._box}/tmp") as drafts:
            for draft in drafts:
                with contextlib.suppress(OSError):
                    if time.time() - draft.stat(follow_symlinks=False).st_mtime > ABANDONED:
                        os.unlink(draft.path)
                        log.warning("the draft %s was given up: nobody touched it for 36 hours", quoted(draft.name))
                if time.monotonic() > until:
                    return

    def _sweep_done(self) -> None:
        """Delete handled mail that was kept long enough."""
        if self._retention is None:
            return
        limit = names.stamp(time.time_ns() - int(self._retention * 1e9))
        for text in listing(self._folders["done"]):
            parts = names.untimed(text)
            if parts and parts[0] < limit:
                with contextlib.suppress(OSError):
                    os.unlink(text, dir_fd=self._folders["done"])


def move_all(old: str, new: str) -> None:
    """Move what lies in the folder *old*, which was `new/` before, to *new*. Consumers and others may be at it, too."""
    for name in sorted(os.listdir(old)):  # in the order in which they are to be claimed
        target = f"{new}/{name}"
        with contextlib.suppress(FileNotFoundError):  # somebody was faster
            try:
                rename(f"{old}/{name}", target, NOREPLACE)
            except FileExistsError:
                if names.parse(name) is None:  # two files of one foreign name
                    target = f"{new}/{os.urandom(6).hex()}-{name}"[-255:]
                os.rename(f"{old}/{name}", target)  # one of ours is the same message, sent again


def _problem(data: bytes) -> str | None:
    try:
        decode(data)
    except Malformed as error:
        return error.reason
    return None


def _why(name: str) -> str:
    return name.removesuffix(".json") + ".why"


_takers: weakref.WeakSet[Taker] = weakref.WeakSet()
_parents: list[Lock | None] = []


def _disown_all() -> None:
    for taker in list(_takers):
        taker.disown()


os.register_at_fork(after_in_child=_disown_all)
