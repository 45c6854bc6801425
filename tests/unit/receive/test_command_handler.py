"""A command as a handler. What it does in a process of its own is in test_cli_watch.py."""

import gc
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from filemailbox.receive.command_handler import CommandHandler
from filemailbox.receive.handlers import HandlerRegistry
from filemailbox.receive.listener import Listener

Run = Callable[..., CommandHandler]


@pytest.fixture
def listener(root: Path) -> Iterator[Listener]:
    """Bob's. Its command runs for what waits, and no longer."""
    with (
        Mailbox("bob", root, durable=False, max_attempts=2, retry_delay=0.001, max_retry_delay=0.002) as bob,
        bob.listening() as one,
    ):
        yield one


@pytest.fixture
def run(listener: Listener, root: Path) -> Run:
    """run(argv, …): let this command handle what waits."""

    def drain(*argv: str, jobs: int = 1, **settings: Any) -> CommandHandler:
        command = CommandHandler(argv, listener, str(root), "bob", **settings)
        handlers = HandlerRegistry()
        handlers.add((), command, None)
        listener.stopping = False  # a broken command may have stopped it
        listener.run(handlers, jobs, drain=True)
        return command

    return drain


def descriptors() -> list[str]:
    gc.collect()
    paths = (f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd"))
    return sorted(os.readlink(path) for path in paths if os.path.lexists(path))  # one of them was the listing


def left(root: Path, state: str) -> list[str]:
    return [path.name for path in (root / "bob" / state).rglob("*.json")]


def test_nothing_is_left_open(alice: Mailbox, run: Run, root: Path) -> None:
    """No descriptor, however it ended: neither ours nor one of its pipes."""
    for number in range(3):
        alice.send("bob", number)
    run("echo", reply=True)
    alice.close()
    before = descriptors()
    for script in ("exit 0", "exit 1", "exit 65", "kill -KILL $$", "echo x; sleep 5", "exec no-such-command"):
        alice.send("bob", script)
        run("/bin/sh", "-c", script, reply=True, timeout=0.1, patient=False)
        run("/no/such/command", patient=False)
    alice.close()

    assert descriptors() == before


def test_a_fact_is_cut_at_a_whole_character(alice: Mailbox, run: Run, tmp_path: Path) -> None:
    """1 KiB is a limit of bytes, and what is left is still UTF-8."""
    alice.send("bob", 1, subject="x" + "€" * 1000, type="\x1b[31m\x85\r\n")
    run(
        "/bin/sh",
        "-c",
        f'printf %s "$MAILBOX_SUBJECT" > {tmp_path}/subject; printf %s "$MAILBOX_TYPE" > {tmp_path}/type',
    )

    assert (tmp_path / "subject").read_bytes().decode() == "x" + "€" * 341
    assert (tmp_path / "type").read_text() == " [31m   "


def test_each_exit_code_is_that_of_its_own_message(alice: Mailbox, run: Run, root: Path) -> None:
    """Many at a time, all of them short."""
    for number in range(60):
        alice.send("bob", 65 if number % 3 else 0)
    run("/bin/sh", "-c", 'read code; exit "$code"', jobs=6)

    assert (len(left(root, "dead")), len(left(root, "later")), len(left(root, "new"))) == (40, 0, 0)


def test_the_pauses_for_a_broken_command_grow(alice: Mailbox, listener: Listener, root: Path, caplog: Any) -> None:
    """Doubled each time up to a minute, and begun anew after a run that was none. Each is told."""
    now = [0.0]
    command = CommandHandler(
        ["/bin/sh", "-c", "exit 127"],
        listener,
        str(root),
        "bob",
        clock=lambda: now[0],
        sleep=lambda seconds: now.__setitem__(0, now[0] + seconds),
    )
    began, pauses = 0.0, []
    for number in range(9):
        command.argv = ["true"] if number == 7 else ["/bin/sh", "-c", "exit 127"]
        alice.send("bob", number)
        message = listener.receiver.take()
        assert message is not None
        command(message)
        pauses.append(round(now[0] - began))
        began = now[0]

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 0, 1]
    assert caplog.text.count("the command is broken") == 8


def test_to_stop_ends_a_pause(alice: Mailbox, listener: Listener, root: Path) -> None:
    """Nobody waits a minute for it."""
    command = CommandHandler(["/no/such/command"], listener, str(root), "bob")
    command.pause = 3600
    alice.send("bob", 1)
    message = listener.receiver.take()
    assert message is not None
    thread = threading.Thread(target=command, args=(message,))
    thread.start()
    listener.stop()
    thread.join(20)

    assert not thread.is_alive()


@pytest.mark.parametrize("what", ["memfd_create", "pidfd_open"])
def test_without_descriptors_or_processes_the_message_is_put_back(
    alice: Mailbox, run: Run, root: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Our own trouble burns no attempt, and no process is left."""

    def refuse(*arguments: Any) -> int:
        raise OSError(24, "Too many open files")

    alice.send("bob", 1)
    with monkeypatch.context() as refusing:
        refusing.setattr(os, what, refuse)
        command = run("/bin/sh", "-c", "sleep 60", patient=False)
    with Mailbox("bob", root) as bob:
        waiting = [(message.state, message.attempt) for message in bob.peek()]

    assert waiting == [("later", 1)]
    assert "too many open files" in command.broken
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_the_name_of_the_signal_is_told(alice: Mailbox, run: Run, root: Path, caplog: Any) -> None:
    """In the reason of the retry, as people call it."""
    caplog.set_level("INFO", logger="filemailbox")
    alice.send("bob", 1)
    run("/bin/sh", "-c", "kill -USR1 $$")

    assert "the command was ended by SIGUSR1" in caplog.text


def test_only_process_1_reaps(run: Run, alice: Mailbox) -> None:
    """In another program children of others are not ours to take leave of."""
    alice.send("bob", 1)
    command = run("true")
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        command.reap()

        assert child.wait() == 0


def test_as_process_1_it_takes_leave_of_orphans_alone(
    run: Run, alice: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its own commands it does not: their status is still asked for."""
    alice.send("bob", 1)
    command = run("true")
    ours, orphan = subprocess.Popen(["/bin/sh", "-c", "exit 7"]), os.fork()
    if orphan == 0:
        os._exit(0)
    command._running.add(ours.pid)
    for pid in (ours.pid, orphan):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    command.reap()
    kept = ours.wait()
    command._running.clear()
    command.reap()
    monkeypatch.undo()

    assert kept == 7
    with pytest.raises(ChildProcessError):
        os.waitpid(orphan, os.WNOHANG)


def test_a_command_is_a_process_group(alice: Mailbox, run: Run, tmp_path: Path) -> None:
    """So that Ctrl-C on our terminal is ours to hear, and its end is that of its children."""
    alice.send("bob", 1)
    run("/bin/sh", "-c", f"echo $$ $(ps -o pgid= -p $$) > {tmp_path}/ids")
    pid, group = map(int, (tmp_path / "ids").read_text().split())

    assert pid == group != os.getpgrp()
    with pytest.raises(ProcessLookupError):
        os.killpg(group, signal.SIGCONT)
