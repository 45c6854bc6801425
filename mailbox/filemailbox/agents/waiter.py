"""The waiter of a session: it waits for mail while the client is idle, claims nothing, and wakes the client.

Claude Code starts one at each stop (`asyncRewake`): exit code 2 wakes it, and its prompt hook shows the mail. Codex has
no such hook, so its stop hook starts a waiter of ours, which asks `codex queue` for a prompt. There is one waiter for
each session: a second one ends at once. It ends with its client.

A waiter wakes only an idle session: while it works, its hooks show the mail. After the bound on prolonged turns it
rests for a minute, so that a flood of mail does not keep a model at work without a pause.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time

from ..system.files import close
from . import notes
from .session import Limits
from .waiting import has_mail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from ..store.root import Box

POLL_INTERVAL: Final = 1.0
"""Seconds between two polls for what no doorbell announces."""

REST: Final = 60.0
"""Seconds that a session rests after mail has prolonged a turn as often as it may."""

STALE: Final = 600.0
"""Seconds after which a session that reported that it works is taken for idle: its user may have interrupted it."""

_SHELLS: Final = ("sh", "bash", "dash", "ash", "zsh", "fish", "busybox", "mailbox-hook", "env")
_DEEPEST: Final = 8  # shells between a client and its hook
_WAKE: Final = 2


def run(box: Box, client: str, given: Any) -> int:
    """Wait for mail. Returns 2 if there is some and the session is idle, and 0 if there is nothing to do any more.

    *given* is the JSON of the client's stop event; a waiter of ours gets `client_pid` in it.
    """
    members = given if isinstance(given, dict) else {}
    session_id = members.get("session_id")
    if not isinstance(session_id, str) or not session_id or members.get("agent_id"):
        return 0
    if client == "claude" and os.environ.get("CLAUDE_CODE_ENTRYPOINT", "cli") != "cli":
        return 0  # `claude -p` waits for such a hook to end
    pid = members.get("client_pid")
    end = _open_pid(pid if type(pid) is int else client_pid())
    if end < 0:
        return 0
    try:
        folder = notes.open_run(box)
        try:
            hex = notes.session_hex(session_id)
            with notes.locked(folder, f".rewake-{hex}", wait=False) as alone:
                if not alone or not _mail_came(box, folder, hex, end):
                    return 0
        finally:
            close(folder)
    finally:
        close(end)
    if client == "codex":
        _queue(session_id, cue(box))
        return 0
    os.write(2, f"{cue(box)}\n".encode())
    return _WAKE


def cue(box: Box) -> str:
    """Return the sentence that wakes a session. It holds no mail: the prompt hook shows that."""
    return f"Mail waits for {box.address}."


def start(client: str, session_id: str) -> None:
    """Start a waiter that outlives this hook and ends with the client. Best effort."""
    given = json.dumps({"session_id": session_id, "client_pid": client_pid()}).encode()
    heard, tell = os.pipe()
    try:
        with contextlib.suppress(OSError):
            os.write(tell, given)
            subprocess.Popen(
                [sys.executable, "-P", "-m", "filemailbox", "hook", client, "--rewake"],
                stdin=heard,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
    finally:
        close(heard)
        close(tell)


def client_pid() -> int:
    """Return the process id of the client: the nearest ancestor that is not a shell."""
    pid = os.getppid()
    for _ in range(_DEEPEST):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                head, _, rest = file.read(4096).rpartition(b")")
            name, parent = head.partition(b"(")[2].decode(errors="replace"), int(rest.split()[1])
        except (OSError, ValueError, IndexError):
            return pid
        if name not in _SHELLS or parent <= 1:
            return pid
        pid = parent
    return pid


def _open_pid(pid: int) -> int:
    """Return a descriptor that is readable when the process ends; -1 if it has ended."""
    if pid <= 1:
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1


def _mail_came(box: Box, folder: int, hex: str, end: int) -> bool:
    """Wait until there is mail for an idle session. Returns False if the client has ended."""
    from ..client import Mailbox
    from ..wake.waker import Waker

    turns = Limits.from_environment(os.environ).turns
    waker = Waker(box.path, POLL_INTERVAL)
    try:
        with Mailbox(box.address, box.root.path) as mailbox:
            while True:
                waker.arm()
                if has_mail(box) and _is_idle(folder, hex, turns, time.time()) and mailbox.wait(0):
                    return True
                poller = select.poll()
                for descriptor in (end, *waker.descriptors()):
                    poller.register(descriptor, select.POLLIN)
                ready = {found for found, _ in poller.poll(POLL_INTERVAL * 1000)}
                if end in ready:
                    return False
                if ready:
                    time.sleep(_CALM)  # a flood of rings takes no core
    finally:
        waker.close()


_CALM: Final = 0.02  # seconds


def _is_idle(folder: int, hex: str, turns: int, now: float) -> bool:
    """Return True if no hook of this session is about to show the mail."""
    doing, since = notes.presence(folder, hex)
    if doing == notes.WORKING and now - since < STALE:
        return False
    prolonged = notes.Notes(folder, hex).prolonged
    return prolonged < turns or now - since >= REST


def _queue(session_id: str, text: str) -> None:
    """Ask a Codex for a prompt in that thread. Raises OSError, SubprocessError."""
    subprocess.run(
        ["codex", "queue", "--thread", session_id, "--message", text],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=30,
        check=True,
    )
