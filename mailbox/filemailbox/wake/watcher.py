"""The watch on `new/` by watchfiles, in a thread, with a step that follows the traffic.

    watchfiles   the default: a library that many use, in a thread
    inotify      the kernel asked directly (system/inotify.py): 0.4 ms always, no thread, Linux alone
    poll         no watch: for file systems without notices

watchfiles collects notices and hands them out once in every step, so that mail is found after one to two of them. Short
steps cost an idle listener too much: so they are IDLE_STEP long, and LIVELY_STEP for some seconds after mail was found
that no ring had announced. Mail that rings is claimed before the next step, and leaves the step as it is.
"""

import os
import threading
import time
from typing import TYPE_CHECKING, Final

from .. import log
from ..system.wake_fd import WakeFd

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

IDLE_STEP: Final = 25
"""Milliseconds between two checks for notices while nothing comes: 0.25 % of a core."""

LIVELY_STEP: Final = 2
"""The same in a conversation: a median of 3 ms."""

LIVELY_FOR: Final = 3.0
"""Seconds for which LIVELY_STEP is kept after mail was found."""

RETRY_AFTER: Final = 1.0
"""Seconds until a watch that broke is tried again."""

_IMPORT_AFTER: Final = 0.05  # seconds: to import watchfiles takes 40 ms, which a listener that ends at once is spared
_DELETED: Final = 3  # watchfiles.Change.deleted


class WatchfilesWatch:
    """watchfiles in a thread, with a descriptor that becomes readable if something that came is still there."""

    over = False
    """False: the waker compares the folder with the one at its path at every poll."""

    def __init__(
        self,
        folder: str,
        *,
        idle_step: int = IDLE_STEP,
        lively_step: int = LIVELY_STEP,
        lively_for: float = LIVELY_FOR,
        retry_after: float = RETRY_AFTER,
    ) -> None:
        """Raises OSError if the process has no descriptor left. The steps are in milliseconds."""
        self._folder, self._retry_after = folder, retry_after
        self._idle_step, self._lively_step, self._lively_for = idle_step, lively_step, lively_for
        self._fd = WakeFd()
        self._closing = threading.Event()
        self.trouble: str | None = None
        """Error that keeps it from working; None while it works."""
        self.heard = 0
        """Number of times that something came, also what was claimed before its notice."""
        self._thread = threading.Thread(target=self._run, name=f"mailbox watch {folder}", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Descriptor for select and its kin: readable after an event."""
        return self._fd.fileno()

    def clear(self) -> bool:
        """Clear the events so far. Returns True if there were any."""
        return self._fd.take()

    def close(self) -> None:
        """End the thread, within a step."""
        self._closing.set()
        self._thread.join()
        self._fd.close()

    def disown(self) -> None:
        """Close it in the child of a fork: the thread stayed with the parent."""
        self._fd.close()

    def _run(self) -> None:
        if self._closing.wait(_IMPORT_AFTER):
            return
        from watchfiles import _rust_notify as rust

        while not self._closing.is_set():
            try:
                with rust.RustNotify([self._folder], False, False, 0, False, False) as notify:
                    self._fd.set()  # mail may have come before the watch
                    self._report_until_closed(notify)
            except (OSError, RuntimeError, rust.WatchfilesRustInternalError) as error:
                self._fd.set()  # its notices are lost
                if self.trouble is None:  # log it once, until it works again
                    log.warning("watching %s does not work: %s. Polling finds mail meanwhile", self._folder, error)
                self.trouble = str(error) or repr(error)
                self._closing.wait(self._retry_after)

    def _report_until_closed(self, notify: "RustNotify") -> None:
        """Wake the waiter for what comes. Raises what watchfiles raises."""
        lively_until = 0.0
        while not self._closing.is_set():
            left = lively_until - time.monotonic()
            step = self._lively_step if left > 0 else self._idle_step
            # The debounce of 1600 ms that is usual would hold a steady stream back.
            changes = notify.watch(0, step, max(1, int(left * 1000)) if left > 0 else 0, self._closing)
            if isinstance(changes, str):  # "timeout" or "stop"
                continue
            self.trouble = None
            came = [path for kind, path in changes if kind != _DELETED]  # a claim is no news
            self.heard += bool(came)
            if any(map(os.path.lexists, came)):  # nor is what was claimed since
                self._fd.set()
                lively_until = time.monotonic() + self._lively_for
