"""Look now: the doorbell, watchfiles and the rescan.

The directory is the truth; a wake-up only means "look". Three sources say so: the bell, which our senders ring; the
watch on `new/`, for what is moved in by hand; and the rescan, always on, which finds what both miss. It is counted:
where notifications are dead (shared folders of virtual machines, network file systems) nothing else would tell.

Arm first, look, then wait: in any other order mail that comes in between lies until the rescan.
"""

import contextlib
import errno
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final, Literal

from . import log
from .doorbell import Bell

RESCAN: Final = 0.25
"""Seconds after which we look anyway: what no notification reaches waits no longer. It costs a thousandth of a core."""

STEP: Final = 12
"""Milliseconds between two looks of watchfiles at what the kernel has told it. Mail moved in by hand is found after one
to two of them, 18 on average; watching costs 0.3 % of a core at 12, 1.7 % at 1, less than 0.1 % at 50."""

_AGAIN: Final = 1.0  # seconds until a watch that broke is tried anew

Source = Literal["bell", "watch", "poke", "timer"]


class Wake:
    """What a consumer waits on. It hangs a bell at the first wait; where that cannot be, the rescan must do."""

    def __init__(self, box: str) -> None:
        self.box = box
        """The path of the box."""
        self._bell: Bell | None = None
        self._watch: _Watch | None = None
        self._poke = -1
        self._process = 0
        self._check_at = 0.0
        self.sleepers: set[Callable[[], object]] = set()
        """What is called when it rings: for those who wait in an event loop."""

    def arm(self) -> None:
        """Be ready to be woken, and forget the wake-ups so far. Call it before looking."""
        if time.monotonic() >= self._check_at or self._process != os.getpid():
            self._hang()
        if self._bell is not None:
            self._bell.hush()

    def watch(self, step: int = STEP) -> None:
        """Also be woken by what is moved in by hand. A thread does it, until close()."""
        if self._watch is None:
            self._watch = _Watch(f"{self.box}/new", step)

    def wait(self, longest: float) -> Source:
        """Sleep until there may be mail, at most *longest* seconds and never longer than the rescan; what woke us."""
        ear = select.poll()
        sources: dict[int, Source] = {self._poke_fd(): "poke"}
        if self._bell is not None:
            sources[self._bell.fileno()] = "bell"
        if self._watch is not None:
            sources[self._watch.fileno()] = "watch"
        for source in sources:
            ear.register(source, select.POLLIN)
        heard = {sources[source] for source, _ in ear.poll(self.span(longest) * 1000)}
        if "watch" in heard and self._watch is not None:
            self._watch.hush()
        if "poke" in heard:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._poke)
        return "bell" if "bell" in heard else "watch" if "watch" in heard else "poke" if "poke" in heard else "timer"

    def poke(self) -> None:
        """Wake who waits, from another thread or a signal handler."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self._poke_fd(), 1)
        self.rouse()

    def span(self, longest: float) -> float:
        """For how many seconds to sleep."""
        return max(0.0, min(longest, RESCAN))

    def descriptors(self) -> list[int]:
        """What becomes readable when there may be mail, for event loops: then call rouse()."""
        return [source.fileno() for source in (self._bell, self._watch) if source is not None]

    def rouse(self) -> None:
        """Wake all who wait in an event loop."""
        if self._watch is not None:
            self._watch.hush()
        for call in list(self.sleepers):
            call()

    @property
    def bell(self) -> str | None:
        """The path of our bell, where one hangs."""
        return self._bell.path if self._bell is not None else None

    @property
    def trouble(self) -> str | None:
        """What keeps the watch from working, if it is wanted and does not."""
        return self._watch.trouble if self._watch is not None else None

    def close(self) -> None:
        """Take the bell down and end the watch. No thread is left."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        if self._poke >= 0:
            os.close(self._poke)
            self._poke = -1
        self._check_at = 0.0

    def _hang(self) -> None:
        self._check_at = time.monotonic() + RESCAN
        if self._process not in (0, os.getpid()):  # the child of a fork: all that is the parent's
            self._watch = self._watch.anew() if self._watch is not None else None
            self._poke = -1
        if self._bell is not None and (self._process != os.getpid() or not self._bell.hangs()):
            self._bell.close()
            self._bell = None
        self._process = os.getpid()
        if self._bell is None:
            with contextlib.suppress(OSError):
                self._bell = Bell(f"{self.box}/run")

    def _poke_fd(self) -> int:
        if self._poke < 0:
            self._poke = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return self._poke


class _Watch:
    """watchfiles in a thread: it makes a descriptor readable when something happens in a folder."""

    def __init__(self, folder: str, step: int) -> None:
        self._folder, self._step = folder, step
        self._heard = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._end = threading.Event()
        self.trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"mailbox watch {folder}", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        return self._heard

    def hush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._heard)

    def anew(self) -> "_Watch":
        """In the child of a fork, where the thread is not."""
        os.close(self._heard)
        return _Watch(self._folder, self._step)

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        os.close(self._heard)

    def _run(self) -> None:
        import watchfiles  # takes 40 ms, in which the listener listens already
        from watchfiles import _rust_notify as rust

        log.quieten("watchfiles")  # it would tell of every arrival
        while not self._end.is_set():
            try:
                identity = self._identity()
                for changes in watchfiles.watch(
                    self._folder,
                    watch_filter=None,  # the default hides names such as x.swp~
                    debounce=self._step,  # the default of 1600 holds a steady stream back
                    step=self._step,
                    rust_timeout=1000,
                    yield_on_timeout=True,
                    recursive=False,
                    raise_interrupt=False,
                    stop_event=self._end,
                    ignore_permission_denied=False,  # would swallow every error
                ):
                    self.trouble = None
                    if changes:
                        os.eventfd_write(self._heard, 1)
                    elif self._identity() != identity:
                        break  # another folder lies at the path; the watch is on the old one, for ever silent
            except (OSError, RuntimeError, rust.WatchfilesRustInternalError) as error:
                self._report(error)
                self._end.wait(_AGAIN)

    def _identity(self) -> tuple[int, int]:
        facts = os.stat(self._folder)
        return facts.st_dev, facts.st_ino

    def _report(self, error: Exception) -> None:
        text = "the folder is gone" if getattr(error, "errno", None) == errno.ENOENT else str(error)
        if self.trouble is None:  # once, until it works again
            log.warning("watching %s does not work: %s. Mail is found by the rescan, every 250 ms", self._folder, text)
        self.trouble = text
