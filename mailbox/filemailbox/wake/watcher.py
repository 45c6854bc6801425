"""Watches on new/: watchfiles in a thread."""

import os
import threading
from typing import TYPE_CHECKING, Final

from .. import log

if TYPE_CHECKING:
    pass

STEP: Final = 15
"""Milliseconds between two looks of watchfiles at what the kernel has told it, where it does the watching. Mail moved
in by hand is found after one to two of them."""

RETRY_AFTER: Final = 1.0  # seconds until a watch that broke is tried anew


class WatchfilesWatch:
    """watchfiles in a thread, where there is no inotify: a descriptor that is readable when something has happened."""

    over = False  # it finds the folder again by itself

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._heard = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._end = threading.Event()
        self.trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"mailbox watch {folder}", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        return self._heard

    def clear(self) -> bool:
        try:
            os.eventfd_read(self._heard)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        os.close(self._heard)

    def disown(self) -> None:
        os.close(self._heard)  # the thread stayed with the parent

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
                self._end.wait(RETRY_AFTER)

    def _identity(self) -> tuple[int, int]:
        facts = os.stat(self._folder)
        return facts.st_dev, facts.st_ino
