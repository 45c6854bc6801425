"""Look now: the doorbell, the watch and the rescan.

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
from typing import TYPE_CHECKING, Final, Literal

from . import log
from .doorbell import Bell
from .rules import RESCAN

if TYPE_CHECKING:
    from .inotify import Inotify

STEP: Final = 15
"""Milliseconds between two looks of watchfiles at what the kernel has told it, where it does the watching. Mail moved
in by hand is found after one to two of them."""

_AGAIN: Final = 1.0  # seconds until a watch that broke is tried anew

Source = Literal["bell", "watch", "poke", "timer"]


class Wake:
    """What a consumer waits on. It hangs a bell at the first wait; where that cannot be, the rescan must do."""

    def __init__(self, box: str, rescan: float = RESCAN) -> None:
        self.box = box
        """The path of the box."""
        self._rescan = rescan
        self._bell: Bell | None = None
        self._watch: Inotify | _Steps | None = None
        self._watching = False
        self._trouble: str | None = None
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
        if self._watch is not None and not self._watch.hush():
            self._watch = self._watch.close()  # the folder is gone, or another one lies at its path
            self._check_at = 0.0

    def watch(self) -> None:
        """Also be woken by what is moved in by hand, until close()."""
        self._watching = True
        self._hang()

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
        return max(0.0, min(longest, self._rescan))

    def descriptors(self) -> list[int]:
        """What becomes readable when there may be mail, for event loops: then call rouse()."""
        return [source.fileno() for source in (self._bell, self._watch) if source is not None]

    def rouse(self) -> None:
        """Wake all who wait in an event loop."""
        for call in list(self.sleepers):
            call()

    @property
    def bell(self) -> str | None:
        """The path of our bell, where one hangs."""
        return self._bell.path if self._bell is not None else None

    @property
    def trouble(self) -> str | None:
        """What keeps the watch from working, if it is wanted and does not."""
        return self._trouble or (self._watch.trouble if isinstance(self._watch, _Steps) else None)

    def close(self) -> None:
        """Take the bell down and end the watch. No thread is left."""
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

    def _hang(self) -> None:
        """See to it that the bell hangs and the watch is on the folder that is there now."""
        self._check_at = time.monotonic() + self._rescan
        if self._process not in (0, os.getpid()):  # the child of a fork: all that is the parent's
            self._watch = None
            self._poke = -1
        if self._bell is not None and (self._process != os.getpid() or not self._bell.hangs()):
            self._bell.close()
            self._bell = None
        self._process = os.getpid()
        if self._bell is None:
            with contextlib.suppress(OSError):
                self._bell = Bell(f"{self.box}/run")
        if self._watching and self._watch is None:
            self._begin_watch()

    def _begin_watch(self) -> None:
        folder = f"{self.box}/new"
        try:
            from .inotify import Inotify

            self._watch = Inotify(folder)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                self._watch = _Steps(folder)
            elif self._trouble is None:  # once, until it works again
                log.warning("watching %s does not work (%s): mail is found by the rescan, every 250 ms", folder, error)
            self._trouble = str(error) if self._watch is None else None
        else:
            self._trouble = None

    def _poke_fd(self) -> int:
        if self._poke < 0:
            self._poke = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return self._poke


class _Steps:
    """watchfiles in a thread, where there is no inotify: a descriptor that is readable when something has happened."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._heard = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._end = threading.Event()
        self.trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"mailbox watch {folder}", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        return self._heard

    def hush(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._heard)
        return True

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
                    debounce=STEP,  # the default of 1600 holds a steady stream back
                    step=STEP,
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
                if self.trouble is None:  # once, until it works again
                    log.warning("watching %s does not work: %s. The rescan finds mail meanwhile", self._folder, error)
                self.trouble = str(error)
                self._end.wait(_AGAIN)

    def _identity(self) -> tuple[int, int]:
        facts = os.stat(self._folder)
        return facts.st_dev, facts.st_ino
