"""The process of `mailbox hook`: the client's JSON on standard input, its JSON or nothing on standard output.

It never fails its client. If there is no root, no box, no JSON, no room on the disk, or a bug, the exit code is 0,
standard output is empty, and `run/hook.log` has a line. It ends after five seconds: the mail that it had claimed goes
back then. Standard input is always read to its end. Only the waiter (`--rewake`) exits with 2, which wakes the client.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time

from ..format import codec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Final, NoReturn

    from ..store.root import Box
    from .events import Event
    from .notes import Notes

TIME_LIMIT: Final = 5.0
"""Seconds after which a hook gives up. Clients allow ten or more."""

MAX_INPUT: Final = 8 * 1024 * 1024
"""Bytes of standard input that are kept. Larger input is read to its end and not understood."""

LOG_LIMIT: Final = 64 * 1024
"""Bytes of `run/hook.log`."""

WAKE: Final = 2
"""The exit code by which a waiter wakes an idle Claude Code."""

_NO_LINK: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class _TimeUpError(BaseException):
    """The time limit has passed. Not an Exception: code that survives errors must not survive this."""


def main(client: str, event: str | None = None, *, rewake: bool = False) -> int:
    """Run the hook of one event. Returns the exit code: 0, or 2 for a waiter that wakes its client."""
    box: Box | None = None
    try:
        given = _read_input()
        box = _own_box()
        if box is None:
            return 0
        if rewake:
            from . import waiter

            return waiter.run(box, client, given)
        _run(box, client, event, given)
    except BaseException as error:  # noqa: BLE001  # the client must go on, whatever happened
        _stop_clock()
        if box is not None:
            log(box, f"{event or 'hook'}: {type(error).__name__}: {error}")
    finally:
        _stop_clock()
    return 0


def _run(box: Box, client: str, name: str | None, given: Any) -> None:
    from .events import parse_event

    event = parse_event(client, given, name, os.environ.get("MAILBOX_SESSION") or str(os.getppid()))
    if event is None:
        return
    from . import notes

    _start_clock()
    goes_on = False
    with notes.opened(box, notes.session_hex(event.session_id)) as kept:
        if not _is_idle(box, kept, event):
            goes_on = _handle(box, kept, event)
    _stop_clock()
    if event.name == "Stop" and not goes_on and client == "codex":
        from . import waiter

        waiter.start(client, event.session_id)


def _handle(box: Box, kept: Notes, event: Event) -> bool:
    """Show and settle mail. Returns True if the turn goes on with it."""
    from .notes import sweep
    from .session import Limits, Session

    limits = Limits.from_environment(os.environ)
    if event.kind == "start":
        with contextlib.suppress(OSError):
            sweep(kept.run, time.time() - 2 * limits.lease)
    with Session(box, kept, limits) as session:
        outcome = session.handle(event)
        _print(event, outcome.text, goes_on=outcome.goes_on, left=outcome.left)
    return outcome.goes_on


def _is_idle(box: Box, kept: Notes, event: Event) -> bool:
    """Handle an event without mail, the usual case, which imports little. Returns False if there is more to do."""
    from . import notes
    from .events import END, START, STOP
    from .waiting import has_mail

    if event.kind == START or kept.holds or kept.prolonged or (event.kind != END and has_mail(box)):
        return False
    kept.show_presence(event.client, {STOP: notes.IDLE, END: notes.ENDED}.get(event.kind, notes.WORKING))
    return True


def _print(event: Event, text: str, *, goes_on: bool, left: int) -> None:
    """Write the answer, all of it or with an error: then the mail in it goes back. Raises OSError."""
    import json

    from .events import answer

    found = answer(event, text, goes_on=goes_on, left=left)
    if found is None:
        return
    data = memoryview(json.dumps(found, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
    while data:
        data = data[os.write(1, data) :]


def _read_input() -> Any:
    """Return the JSON on standard input; None if it is not JSON. Read to its end: a client may wait for that."""
    data, size = [], 0
    while True:
        try:
            more = os.read(0, 1 << 16)
        except OSError:
            break
        if not more:
            break
        size += len(more)
        if size <= MAX_INPUT:
            data.append(more)
    if size > MAX_INPUT:
        return None
    try:
        return codec.loads(b"".join(data) or b"null")
    except (ValueError, RecursionError):
        return _lenient(b"".join(data))


def _lenient(data: bytes) -> Any:
    """Return JSON that only a lenient reader takes, such as half a surrogate pair in a prompt; None for no JSON."""
    import json

    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _own_box() -> Box | None:
    """Return the box of $MAILBOX_AGENT; None if none is named, the name is no address, or there is no such box."""
    from ..environment import root_path
    from ..format.address import is_address
    from ..store.root import Root

    name = os.environ.get("MAILBOX_AGENT")
    if not name or not is_address(name):
        return None
    from ..format.address import Address

    box = Root(os.path.abspath(root_path(None))).box(Address(name))
    return box if os.path.isdir(f"{box}/run") else None


def _start_clock() -> None:
    signal.signal(signal.SIGALRM, _time_up)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)


def _stop_clock() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)


def _time_up(_number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))  # putting mail back has as long again
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
    raise _TimeUpError(f"after {TIME_LIMIT:g} s")


def log(box: Box, text: str) -> None:
    """Add a line to `run/hook.log`, best effort. Of a log over its limit the first half goes."""
    from .notes import open_run

    line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {' '.join(text.split())[:500]}\n".encode(
        "utf-8", "backslashreplace"
    )
    with contextlib.suppress(OSError):
        run = open_run(box)
        try:
            file = os.open("hook.log", os.O_RDWR | os.O_APPEND | os.O_CREAT | _NO_LINK, 0o600, dir_fd=run)
            try:
                facts = os.fstat(file)
                if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_nlink != 1:
                    return
                if facts.st_size + len(line) > LOG_LIMIT:
                    kept = os.pread(file, LOG_LIMIT // 2, max(0, facts.st_size - LOG_LIMIT // 2))
                    os.ftruncate(file, 0)
                    os.write(file, kept[kept.find(b"\n") + 1 :])
                os.write(file, line)
            finally:
                os.close(file)
        finally:
            os.close(run)
