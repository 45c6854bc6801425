"""Hooks of agents' clients, run as the client runs them: a process, its JSON on stdin, its answer on stdout."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.paths import SOURCE
from support.waiting import PATIENCE


class Client:
    """A client of the agent bob: one session, with the events that it sends."""

    def __init__(self, root: Path, client: str = "claude", session: str = "one", **environment: str) -> None:
        self.root, self.client, self.session = root, client, session
        self.environment = {
            **os.environ,
            "PYTHONPATH": SOURCE,
            "MAILBOX_ROOT": str(root),
            "MAILBOX_AGENT": "bob",
            **environment,
        }

    def start(self, event: str, *options: str, **members: Any) -> subprocess.Popen[bytes]:
        """Start the hook of an event, with the event on its stdin."""
        given = {"session_id": self.session, "hook_event_name": event, **members}
        return self.run(json.dumps(given).encode(), *options)

    def run(self, data: bytes, *options: str) -> subprocess.Popen[bytes]:
        """Start the hook with these bytes on its stdin."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "filemailbox", "hook", self.client, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        )
        assert process.stdin is not None
        process.stdin.write(data)
        process.stdin.close()
        process.stdin = None
        return process

    def hook(self, event: str, *options: str, **members: Any) -> dict[str, Any] | None:
        """Run the hook of an event. Returns its answer; None if it printed nothing."""
        process = self.start(event, *options, **members)
        out, err = process.communicate(timeout=PATIENCE)

        assert (process.returncode, err) == (0, b"")
        return json.loads(out) if out else None

    def text(self, event: str, **members: Any) -> str:
        """Run the hook of an event. Returns the text that the model is shown; empty for none."""
        answer = self.hook(event, **members) or {}
        return str(answer.get("reason") or answer.get("hookSpecificOutput", {}).get("additionalContext") or "")

    @property
    def log(self) -> str:
        """The log of its hooks."""
        path = self.root / "bob/run/hook.log"
        return path.read_text() if path.exists() else ""

    def notes(self) -> list[Path]:
        """The notes of all sessions."""
        return sorted((self.root / "bob/run").glob(".session-*"))

    def presences(self) -> list[dict[str, Any]]:
        """The presence of all sessions."""
        return [json.loads(path.read_text()) for path in sorted((self.root / "bob/run").glob("session-*.json"))]


def shown(text: str) -> list[str]:
    """The bodies in letters of one line each, in their order."""
    return re.findall(r"^\[mail .*\n\| (.*)\n\[end of mail", text, re.MULTILINE)


@pytest.fixture
def client(root: Path) -> Client:
    """A session of Claude Code for bob."""
    return Client(root)
