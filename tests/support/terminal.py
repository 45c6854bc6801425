"""A terminal as a reader has it: bash on a pseudo-terminal, one command after the other."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PATIENCE = 60.0  # seconds after which a command hangs
_END = b"\x1e"  # the record separator: printed after each command, and by no program
_LOOP = """trap : INT
while IFS= read -r -d '' -u {commands} _command; do
  (exit "${{_status:-0}}")
  eval "$_command"
  _status=$?
  printf '\\036'
done"""


class Terminal:
    """Runs commands in one shell. A command that goes on until Ctrl-C is started, and ended with interrupt()."""

    def __init__(self, folder: Path, environment: Mapping[str, str], patience: float = PATIENCE) -> None:
        self._patience = patience
        self._screen, slave = pty.openpty()
        settings = termios.tcgetattr(slave)
        settings[1] &= ~termios.OPOST  # output as it was written, without carriage returns
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
        commands, self._commands = os.pipe()
        self._shell = subprocess.Popen(
            ["bash", "--norc", "-c", _LOOP.format(commands=commands)],
            cwd=folder,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            pass_fds=(commands,),
            start_new_session=True,
        )
        os.close(slave)
        os.close(commands)
        self._seen = b""

    def start(self, command: str) -> None:
        """Begin a command."""
        os.write(self._commands, command.encode() + b"\0")

    def finish(self) -> str:
        """Wait for the end of the command. Return what it printed."""
        deadline = time.monotonic() + self._patience
        while _END not in self._seen:
            assert self._read(deadline), f"the command goes on, and has printed:\n{self._seen.decode()}"
        said, self._seen = self._seen.split(_END, 1)
        return said.decode()

    def shows(self, wanted: Callable[[str], object]) -> bool:
        """Wait until the text that the command has printed so far is as *wanted*."""
        deadline = time.monotonic() + self._patience
        while not wanted(self._seen.decode(errors="replace")):
            if _END in self._seen or not self._read(deadline):
                return False
        return True

    def interrupt(self) -> str:
        """Press Ctrl-C. Return all that the command printed."""
        os.killpg(self._shell.pid, signal.SIGINT)
        return self.finish()

    def close(self) -> None:
        """End the shell, and all that runs in it."""
        os.close(self._commands)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()
        os.close(self._screen)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._screen], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            more = os.read(self._screen, 65536)
        except OSError:  # EIO: the shell has gone
            return False
        self._seen += more
        return bool(more)
