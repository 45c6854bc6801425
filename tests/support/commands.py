"""The `mailbox` command, run in this process."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from filemailbox.cli.run import main


@dataclass(frozen=True)
class Said:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The output, read as JSON Lines."""
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def mailbox(root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """mailbox(*words): run the command as bob, or as `sender=`; *stdin* is its input."""
    monkeypatch.setenv("MAILBOX_ROOT", str(root))

    def run(*words: object, stdin: str | bytes = b"", sender: str = "bob") -> Said:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setenv("MAILBOX_AGENT", sender)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        capfd.readouterr()
        code = main([str(word) for word in words])
        sys.stdout.flush()
        return Said(code, *capfd.readouterr())

    return run
