"""Look now: the doorbell, the watch and the rescan.

The directory is the truth; a wake-up only means "look". Three sources say so: the bell, which our senders ring; the
watch on `new/`, for what is moved in by hand; and the rescan, always on, which finds what both miss. It is counted:
where notifications are dead (shared folders of virtual machines, network file systems) nothing else would tell.

Arm first, look, then wait: in any other order mail that comes in between lies until the rescan. Several threads and
event loops may wait on one mailbox: what one of them hears wakes the others, who may have been meant.
"""

import contextlib
import errno
import os
import select
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from .. import log
from ..settings import POLL_INTERVAL
from .doorbell import Bell
from .watcher import WatchfilesWatch

if TYPE_CHECKING:
    from ..system.inotify import Inotify

_PART: Final = 20  # of the time: so much of it looks may take that find nothing

QUIET: Final = 0.003
"""Seconds between two looks that find nothing, when something keeps ringing."""

_PATIENT: Final = 3  # such looks in a row that are nothing strange: the watch and the bell may both tell of one message

Source = Literal["bell", "watch", "poke", "timer", "flood"]
"""What woke us; of all that rings for nothing, nobody asks what it was."""

Waiters: TypeAlias = dict[Callable[[], object], Callable[[Callable[[], object]], object]]
"""What wakes those who wait in event loops, and how it is called from outside of their loop."""


class Waker:
    """What a consumer waits on. It hangs a bell at the first wait; where that cannot be, the rescan must do."""

    def __init__(self, box: str, poll_interval: float = POLL_INTERVAL, *, refuse: bool = True) -> None:
        self.box = box
        """The path of the box."""
        self._refuse = refuse
        self._rescan = poll_interval
        self._bell: Bell | None = None
        self._watch: Inotify | WatchfilesWatch | None = None
        self._watching = False
        self._trouble: str | None = None
        self._folder: tuple[int, int] | None = None
        self._poke = -1
        self._process = 0
        self._check_at = 0.0
        self._guard = threading.RLock()  # one that a signal handler can take, too
        self.heard = 0
        """How often something was heard. See arm()."""
        self.cost: Callable[[], float] = float
        """How many seconds a look has taken: those that nothing has announced take a twentieth of the time at most."""
        self._asleep: list[None] = []  # one for each who is; a list, for that grows and shrinks without the guard
        self._brief = 0
        self.sleepers: Waiters = {}

    def arm(self) -> int:
        """Be ready to be woken, and forget the wake-ups so far. Call it before looking, and tell wait() the answer."""
        if time.monotonic() >= self._check_at or self._process != os.getpid():
            self._ensure_bound()
        heard = self._bell is not None and self._bell.clear()
        watch = self._watch
        if watch is not None:
            heard = watch.clear() or heard
            if watch.over:  # the folder is gone, or another one lies at its path
                self._ensure_bound()
        if heard:
            self._wake_waiters()
        return self.heard

    def watch(self) -> None:
        """Also be woken by what is moved in by hand, until close()."""
        self._watching = True
        self._ensure_bound()

    def wait(self, longest: float, heard: int, empty: int = 0) -> Source:
        """Sleep until there may be mail, at most *longest* seconds and never longer than the rescan; what woke us.

        *heard* is what arm() said before the look, *empty* how many looks in a row have found nothing: a flood of rings
        costs a look every few milliseconds, not a core.
        """
        flood = self.is_flooded(empty)
        if flood:
            self.rest(self.quiet, heard)
        began = time.monotonic()
        source = self._sleep(self.span(longest), heard, deaf=False)
        self._brief = self._brief + 1 if time.monotonic() - began < QUIET else 0  # slept(), a call less
        return "flood" if flood and source != "timer" else source

    def is_flooded(self, empty: int) -> bool:
        """Whether something keeps ringing for nothing."""
        return self._brief > _PATIENT and empty > _PATIENT

    def note_sleep(self, seconds: float) -> None:
        """So long it took until something was heard."""
        self._brief = self._brief + 1 if seconds < QUIET else 0

    def rest(self, seconds: float, heard: int) -> None:
        """Sleep, whatever rings, until poke()."""
        self._sleep(seconds, heard, deaf=True)

    def wake_all(self) -> None:
        """Wake all who wait, from another thread or a signal handler."""
        with contextlib.suppress(OSError):
            self._wake_waiters()

    def _sleep(self, seconds: float, heard: int, *, deaf: bool) -> Source:
        sources: dict[int, Source] = {}
        with self._guard:
            if self._bell is not None and not deaf:
                sources[self._bell.fileno()] = "bell"
            if self._watch is not None and not deaf:
                sources[self._watch.fileno()] = "watch"
            if self._poke >= 0:
                sources[self._poke] = "poke"
            self._asleep.append(None)
        ear = select.poll()
        for source in sources:
            ear.register(source, select.POLLIN)
        try:
            if self.heard != heard:  # by somebody else, since we armed
                return "bell"
            woken = ear.poll(seconds * 1000)  # in the order of registration
        finally:
            self._asleep.pop()
        if not woken:
            return "timer"
        if sources[woken[-1][0]] == "poke":
            with contextlib.suppress(OSError):
                os.eventfd_read(self._poke)
        return sources[woken[0][0]]

    def _wake_waiters(self) -> None:
        """Something was heard, and what it was is gone: others may have been asleep on it."""
        with self._guard:
            self.heard += 1
            asleep = len(self._asleep)
        if asleep and self._poke >= 0:
            os.eventfd_write(self._poke, asleep)  # a semaphore: each of them takes one
        for call, from_outside in list(self.sleepers.items()):
            with contextlib.suppress(RuntimeError):  # its loop is closed
                from_outside(call)

    def span(self, longest: float) -> float:
        """For how many seconds to sleep."""
        return max(0.0, min(longest, max(self._rescan, _PART * self.cost())))

    @property
    def quiet(self) -> float:
        """For how many seconds to rest while something keeps ringing for nothing."""
        return max(QUIET, _PART * self.cost())

    def descriptors(self) -> list[int]:
        """What becomes readable when there may be mail, for event loops."""
        with self._guard:
            return [source.fileno() for source in (self._bell, self._watch) if source is not None]

    @property
    def bell(self) -> str | None:
        """The path of our bell, where one hangs."""
        return self._bell.path if self._bell is not None else None

    @property
    def trouble(self) -> str | None:
        """What keeps the watch from working, if it is wanted and does not."""
        return self._trouble or (self._watch.trouble if isinstance(self._watch, WatchfilesWatch) else None)

    def close(self) -> None:
        """Take the bell down and end the watch. No thread is left."""
        with self._guard:
            if self._watch is not None:
                self._watch = self._watch.close()
            if self._bell is not None:
                self._bell.close()
                self._bell = None
            if self._poke >= 0:
                os.close(self._poke)
                self._poke = -1
            self._watching = False
            self._check_at = 0.0

    def _ensure_bound(self) -> None:
        """See to it that the bell hangs and the watch is on the folder that is there now."""
        if self._process not in (0, os.getpid()):
            self._disown()
        with self._guard:  # several threads may come at once
            self._process = os.getpid()
            self._check_at = time.monotonic() + self._rescan
            if self._poke < 0:
                with contextlib.suppress(OSError):  # no more descriptors: then who pokes is heard at the rescan
                    self._poke = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
            if self._bell is not None and not self._bell.is_bound():
                self._bell.close()
                self._bell = None
            if self._bell is None:
                with contextlib.suppress(OSError):
                    self._bell = Bell(f"{self.box}/run", refuse=self._refuse)
            if self._watch is not None and (self._watch.over or self._folder != self._new()):
                self._watch = self._watch.close()  # of a box that was moved away, nothing tells the watch
            if self._watching and self._watch is None:
                self._begin_watch()

    def _disown(self) -> None:
        """In the child of a fork: all that is the parent's."""
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        if self._watch is not None:
            self._watch.disown()
            self._watch = None
        if self._poke >= 0:
            os.close(self._poke)
            self._poke = -1
        self._guard, self._asleep = threading.RLock(), []
        self.sleepers.clear()

    def _new(self) -> tuple[int, int] | None:
        try:
            facts = os.stat(f"{self.box}/new")
        except OSError:
            return None
        return facts.st_dev, facts.st_ino

    def _begin_watch(self) -> None:
        folder = f"{self.box}/new"
        self._folder = self._new()  # before the watch: should another one come in between, that is noticed
        try:
            from ..system.inotify import Inotify

            self._watch = Inotify(folder)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                self._watch = WatchfilesWatch(folder)
            elif self._trouble is None:  # once, until it works again
                often = f"{self._rescan * 1000:g} ms"
                log.warning("watching %s does not work (%s): mail is found by looking every %s", folder, error, often)
            self._trouble = str(error) if self._watch is None else None
        else:
            self._trouble = None
