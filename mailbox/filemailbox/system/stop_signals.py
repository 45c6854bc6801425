"""SIGTERM and SIGINT: end in an orderly way, also as process 1 of a container."""

from __future__ import annotations

import contextlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import NoReturn

_SIGTERM = 15


@contextlib.contextmanager
def signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call *stop*, and a second one end the process. Does nothing outside the main thread."""
    import signal  # takes longer to import than all else here
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if seen:
            os._exit(128 + number)  # the kernel releases the lock, so the claims go back
        seen.append(number)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that was not set from Python
                signal.signal(number, handler)


def exit_as_process_1() -> None:
    """Let SIGTERM end this process if it is process 1, by SystemExit(143): the kernel ignores the default there.

    A command that waits in a container without an init would run on until it is killed, with what it holds.
    """
    if os.getpid() == 1:
        import signal

        signal.signal(_SIGTERM, _exit)


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
