"""Functions in processes of their own, that can be killed."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any


class Apart:
    """A function that runs in a fork of this process until it returns or is killed."""

    def __init__(self, function: Callable[..., object], *arguments: Any) -> None:
        sys.stdout.flush()
        self.pid = os.fork()
        self._running = True
        if self.pid == 0:
            code = 1
            try:
                for each in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(each, signal.SIG_DFL)
                function(*arguments)
                code = 0
            except BaseException:  # noqa: BLE001  # told, and told by the exit code
                traceback.print_exc()
            finally:
                os._exit(code)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def over(self) -> bool:
        """Whether it has ended by itself. Raises where it failed."""
        if self._running:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._running = False
                if status:
                    raise RuntimeError(f"a process failed ({status:#x}): it has said why")
        return not self._running

    def wait(self) -> int:
        """Wait until it ends; its exit code, negative for a signal."""
        self._running = False
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextlib.contextmanager
def running(*all_: Apart) -> Iterator[None]:
    """They are killed at the end, whatever comes."""
    try:
        yield
    finally:
        for each in all_:
            each.kill()
