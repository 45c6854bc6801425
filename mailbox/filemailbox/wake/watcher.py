"""The watch on `new/` where the kernel has no inotify: watchfiles in a thread."""

import os
import threading
from typing import Final

from .. import log

STEP: Final = 15
"""Milliseconds between two checks of watchfiles for events. Mail moved in by hand is found after one to two of them."""

RETRY_AFTER: Final = 1.0
"""Seconds until a watch that broke is tried again."""


class WatchfilesWatch:
    """watchfiles in a thread, with a descriptor that becomes readable at each event."""

    over = False
    """False: it finds a replaced folder by itself."""

    def __init__(self, folder: str, *, retry_after: float = RETRY_AFTER) -> None:
        self._folder, self._retry_after = folder, retry_after
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = threading.Event()
        self.trouble: str | None = None
        """Error that keeps it from working; None while it works."""
        self._thread = threading.Thread(target=self._run, name=f"mailbox watch {folder}", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Descriptor for select and its kin: readable after an event."""
        return self._eventfd

    def clear(self) -> bool:
        """Clear the events so far. Returns True if there were any."""
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join()
        os.close(self._eventfd)

    def disown(self) -> None:
        """Close it in the child of a fork: the thread stayed with the parent."""
        os.close(self._eventfd)

    def _run(self) -> None:
        import watchfiles  # takes 40 ms, during which the listener listens already
        from watchfiles import _rust_notify as rust

        log.quieten("watchfiles")  # it would log each arrival
        while not self._closing.is_set():
            try:
                inode = self._inode()
                for changes in watchfiles.watch(
                    self._folder,
                    watch_filter=None,  # the default hides names such as x.swp~
                    debounce=STEP,  # the default of 1600 holds a steady stream back
                    step=STEP,
                    rust_timeout=1000,
                    yield_on_timeout=True,
                    recursive=False,
                    raise_interrupt=False,
                    stop_event=self._closing,
                    ignore_permission_denied=False,  # would swallow every error
                ):
                    self.trouble = None
                    if changes:
                        os.eventfd_write(self._eventfd, 1)
                    elif self._inode() != inode:
                        break  # the folder was replaced, and the watch on the old one stays silent
            except (OSError, RuntimeError, rust.WatchfilesRustInternalError) as error:
                if self.trouble is None:  # log it once, until it works again
                    log.warning("watching %s does not work: %s. Polling finds mail meanwhile", self._folder, error)
                self.trouble = str(error)
                self._closing.wait(self._retry_after)

    def _inode(self) -> tuple[int, int]:
        st = os.stat(self._folder)
        return st.st_dev, st.st_ino
