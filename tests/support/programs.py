"""Python programs in processes of their own."""

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from support.paths import SOURCE
from support.waiting import PATIENCE


class Program:
    """A Python program in a process of its own. It reports its progress on stdout, line by line."""

    def __init__(self, script: str, *arguments: object, **environment: str) -> None:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": SOURCE, "PYTHONUNBUFFERED": "1", **environment}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.pid = self.process.pid

    def line(self) -> str:
        """Wait for the next line that it prints."""
        assert self.process.stdout is not None
        text = b""
        while not text.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
            assert ready, "the program printed nothing"
            byte = os.read(self.process.stdout.fileno(), 1)
            assert byte, f"the program ended with {self.process.wait()} before it printed a line"
            text += byte
        return text.decode().rstrip("\n")

    def say(self, text: str = "") -> None:
        """Write a line to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Wait until it ends. Returns its exit status."""
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process is gone."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """start(script, *arguments): run a Python program; it is killed when the test ends."""
    programs: list[Program] = []

    def begin(script: str, *arguments: object, **environment: str) -> Program:
        programs.append(Program(script, *arguments, **environment))
        return programs[-1]

    yield begin
    for program in programs:
        program.close()
