"""The waker: sleep until there may be mail. Woken by the doorbell, the watch and the poll.

The directory is the truth; a wake-up only means "look now". Three sources bring one: the doorbell, which senders ring;
the watch on `new/`, for files that are moved in by hand; and the poll, always on, which finds what both miss. The
listener counts what only the poll found, because nothing else shows that notifications do not work (shared folders of
virtual machines, network file systems).

Arm first, scan, then wait: in any other order, mail that arrives in between waits for the poll. Several threads and
event loops may wait on one mailbox. A wake-up that one of them reads wakes the others too: it may have been for them.
"""

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from .. import log
from ..settings import POLL_INTERVAL, WATCHERS
from ..system.wake_fd import WakeFd
from .doorbell import Bell
from .watcher import LIVELY_FOR, WatchfilesWatch

if TYPE_CHECKING:
    from ..system.inotify import Inotify

_IDLE_FACTOR: Final = 20  # sleep at least this many times as long as an empty scan took

QUIET: Final = 0.003
"""Seconds between two empty scans while spurious wake-ups keep coming."""

_TOLERATED: Final = 3  # short sleeps, or empty scans, in a row that are normal: bell and watch may announce one message

LIVELY_POLL: Final = 0.01
"""Seconds between two polls, for LIVELY_FOR after mail was found, if nothing but polling finds it."""

MISSES: Final = 3
"""Messages in a row that the watch did not announce, after which it is taken for dead, and polling takes its place."""

DEAD_FOR: Final = 60.0
"""Seconds until a watch that was taken for dead is tried again."""

Source = Literal["bell", "watch", "wake", "timer", "flood"]
"""Reason that wait() returned. After a flood of wake-ups the source is not determined."""

Waiters: TypeAlias = dict[Callable[[], object], Callable[[Callable[[], object]], object]]
"""For each wait in an event loop: the function that wakes it, and the loop's call_soon_threadsafe()."""


class Waker:
    """Lets a consumer wait for mail. It binds a doorbell at the first arm(); if that fails, the poll has to do."""

    def __init__(
        self,
        box: str,
        poll_interval: float = POLL_INTERVAL,
        watched: str = "new",
        *,
        watcher: str = WATCHERS[0],
        scan_cost: Callable[[], float] = float,
        refuse: bool = True,
    ) -> None:
        """*watched* is the folder of the box, or of a document, whose changes wake the waiter.

        *scan_cost* returns the seconds that an empty scan takes: idle polling takes a twentieth of the time at most.
        *refuse*: see Bell.
        """
        self.box = box
        """Path of the box, or of a document."""
        self._watched, self._watcher = watched, watcher
        self._poll_interval = poll_interval
        self._scan_cost = scan_cost
        self._refuse = refuse
        self._bell: Bell | None = None
        self._watch: Inotify | WatchfilesWatch | None = None
        self._watching = False
        self._trouble: str | None = None
        self._watched_inode: tuple[int, int] | None = None
        self._misses = self._heard = 0
        self._logged_dead = False
        self._dead_until = 0.0
        self._lively_until = 0.0
        self._wake_fd: WakeFd | None = None
        self._process = 0
        self._check_at = 0.0
        self._lock = threading.RLock()  # reentrant, so that a signal handler can take it
        self.generation = 0
        """Number of wake-ups so far. See arm()."""
        self._asleep: list[None] = []  # one item for each sleeping thread: a list changes atomically, without the lock
        self._short_sleeps = 0
        self.waiters: Waiters = {}

    def arm(self) -> int:
        """Clear the wake-ups so far. Call it before a scan, and give its result, the generation, to wait()."""
        if time.monotonic() >= self._check_at or self._process != os.getpid():
            self._ensure_bound()
        woken = self._bell is not None and self._bell.clear()
        watch = self._watch
        if watch is not None:
            if watch.clear():
                woken, self._misses = True, 0
            if watch.over:  # the folder was removed or replaced
                self._ensure_bound()
        if woken:
            self._wake_waiters()
        return self.generation

    def watch(self) -> None:
        """Be woken by files that are moved in by hand too, until close(). With the watcher `poll`, by polling alone."""
        self._watching = self._watcher != "poll"
        self._ensure_bound()

    def wait(self, longest: float, generation: int, empty: int = 0) -> Source:
        """Sleep until there may be mail, at most *longest* seconds and never longer than the poll interval.

        *generation* is the result of arm() before the last scan, *empty* the number of scans in a row that found
        nothing. During a flood of spurious wake-ups it returns every few milliseconds, so that a flood does not take
        a core. Returns the source of the wake-up.
        """
        flood = self.is_flooded(empty)
        if flood:
            self.sleep_through(self.quiet, generation)
        began = time.monotonic()
        source = self._sleep(self.span(longest), generation, deaf=False)
        self.note_sleep(time.monotonic() - began)
        return "flood" if flood and source != "timer" else source

    def is_flooded(self, empty: int) -> bool:
        """Return True if spurious wake-ups keep coming. *empty* is as in wait()."""
        return self._short_sleeps > _TOLERATED and empty > _TOLERATED

    def note_sleep(self, seconds: float) -> None:
        """Note how long a sleep lasted."""
        self._short_sleeps = self._short_sleeps + 1 if seconds < QUIET else 0

    def sleep_through(self, seconds: float, generation: int) -> None:
        """Sleep through wake-ups, until wake_all() or the time is over."""
        self._sleep(seconds, generation, deaf=True)

    def wake_all(self) -> None:
        """Wake all waiters, from another thread or a signal handler."""
        with contextlib.suppress(OSError):
            self._wake_waiters()

    def _sleep(self, seconds: float, generation: int, *, deaf: bool) -> Source:
        sources: dict[int, Source] = {}
        with self._lock:
            if self._bell is not None and not deaf:
                sources[self._bell.fileno()] = "bell"
            if self._watch is not None and not deaf:
                sources[self._watch.fileno()] = "watch"
            if self._wake_fd is not None:
                sources[self._wake_fd.fileno()] = "wake"
            self._asleep.append(None)
        poller = select.poll()
        for fd in sources:
            poller.register(fd, select.POLLIN)
        try:
            if self.generation != generation:  # another waiter has read a wake-up since arm()
                return "bell"
            readable = poller.poll(seconds * 1000)  # in the order of registration
        finally:
            self._asleep.pop()
        if not readable:
            return "timer"
        if sources[readable[-1][0]] == "wake":
            with contextlib.suppress(OSError, AttributeError):  # close() came in between
                self._wake_fd.take()  # type: ignore[union-attr]
        return sources[readable[0][0]]

    def _wake_waiters(self) -> None:
        """Wake all others: the wake-up that was just read is gone, and may have been for them."""
        with self._lock:
            self.generation += 1
            asleep = len(self._asleep)
            wake_fd = self._wake_fd
        if asleep and wake_fd is not None:
            wake_fd.set(asleep)  # each of them takes one
        for wake, schedule in list(self.waiters.items()):
            with contextlib.suppress(RuntimeError):  # its loop is closed
                schedule(wake)

    def span(self, longest: float) -> float:
        """Return the seconds to sleep: less in a conversation, if there is no watch."""
        lively = self._watch is None and time.monotonic() < self._lively_until
        interval = min(LIVELY_POLL, self._poll_interval) if lively else self._poll_interval
        return max(0.0, min(longest, max(interval, _IDLE_FACTOR * self._scan_cost())))

    @property
    def interval(self) -> float:
        """Seconds between two polls while nothing comes."""
        return max(self._poll_interval, _IDLE_FACTOR * self._scan_cost())

    @property
    def quiet(self) -> float:
        """Seconds to sleep through during a flood of spurious wake-ups."""
        return max(QUIET, _IDLE_FACTOR * self._scan_cost())

    def descriptors(self) -> list[int]:
        """Return the descriptors that become readable when there may be mail, for event loops."""
        with self._lock:
            return [source.fileno() for source in (self._bell, self._watch) if source is not None]

    @property
    def bell(self) -> str | None:
        """Path of the doorbell; None if there is none."""
        return self._bell.path if self._bell is not None else None

    @property
    def trouble(self) -> str | None:
        """Error that keeps the watch from working; None if it works or is not wanted."""
        return self._trouble or (self._watch.trouble if isinstance(self._watch, WatchfilesWatch) else None)

    def close(self) -> None:
        """Remove the doorbell and end the watch. No thread is left."""
        with self._lock:
            if self._watch is not None:
                self._watch = self._watch.close()
            if self._bell is not None:
                self._bell.close()
                self._bell = None
            if self._wake_fd is not None:
                self._wake_fd.close()
                self._wake_fd = None
            self._watching = False
            self._check_at = 0.0

    def _ensure_bound(self) -> None:
        """Make sure that the doorbell is bound, and that the watch is on the `new/` that is there now."""
        if self._process not in (0, os.getpid()):
            self._forget_after_fork()
        with self._lock:  # several threads may come at once
            self._process = os.getpid()
            self._check_at = time.monotonic() + self._poll_interval
            if self._wake_fd is None:
                with contextlib.suppress(OSError):  # no descriptor left: wake_all() takes effect at the next poll
                    self._wake_fd = WakeFd(count=True)
            if self._bell is not None and not self._bell.is_bound():
                self._bell.close()
                self._bell = None
            if self._bell is None:
                with contextlib.suppress(OSError):
                    self._bell = Bell(f"{self.box}/run", refuse=self._refuse)
            if self._watch is not None and (self._watch.over or self._watched_inode != self._new_inode()):
                self._watch = self._watch.close()  # a watch is not notified when the box is moved away
            if self._watching and self._watch is None and self._check_at > self._dead_until:
                self._start_watch()

    def _forget_after_fork(self) -> None:
        """In the child of a fork, let go of what belongs to the parent."""
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        if self._watch is not None:
            self._watch.disown()
            self._watch = None
        if self._wake_fd is not None:
            self._wake_fd.close()
            self._wake_fd = None
        self._lock, self._asleep = threading.RLock(), []
        self.waiters.clear()

    def _new_inode(self) -> tuple[int, int] | None:
        try:
            st = os.stat(f"{self.box}/{self._watched}")
        except OSError:
            return None
        return st.st_dev, st.st_ino

    def _start_watch(self) -> None:
        folder = f"{self.box}/{self._watched}"
        self._watched_inode = self._new_inode()  # before the watch: a folder that is replaced in between is noticed
        try:
            if self._watcher == "inotify":
                from ..system.inotify import Inotify

                self._watch = Inotify(folder)
            else:
                self._watch = WatchfilesWatch(folder)
        except OSError as error:
            if self._trouble is None:  # log it once, until it works again
                interval = f"{self._poll_interval * 1000:g} ms"
                log.warning("watching %s does not work (%s): polling every %s instead", folder, error, interval)
            self._trouble = str(error)
        else:
            self._trouble = None

    def note_polled(self, late: bool) -> bool:
        """Note a message that only polling found. *late*: a watch should have announced it by then.

        Returns True if its notice seems to be missing. After MISSES of them in a row the watch is taken for dead.
        """
        self._lively_until = time.monotonic() + LIVELY_FOR
        watch = self._watch
        if watch is None or not late:
            return False
        is_alive = watch.heard != self._heard  # the notice of the one before came after the poll
        self._heard = watch.heard
        self._misses = 0 if is_alive else self._misses + 1
        if self._misses >= MISSES:
            self._take_for_dead()
        return not is_alive

    def _take_for_dead(self) -> None:
        """Let polling take the place of the watch: notices do not cross virtual machines and networks."""
        with self._lock:
            if self._watch is not None:
                self._watch = self._watch.close()
            self._misses, self._dead_until = 0, time.monotonic() + DEAD_FOR
            self._trouble = "no notices come"
        if not self._logged_dead:  # not at every try
            self._logged_dead = True
            log.warning("%s gets no notices of new files: polling instead", f"{self.box}/{self._watched}")
