"""mailbox-hook: the guard in sh, which starts Python only where there is something to do."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from filemailbox import Mailbox
from support.paths import SCRIPTS
from support.waiting import PATIENCE

GUARD = SCRIPTS / "mailbox-hook"


@pytest.fixture(params=[name for name in ("dash", "bash", "busybox") if shutil.which(name)])
def shell(request: pytest.FixtureRequest) -> list[str]:
    """A shell that runs the guard."""
    return ["busybox", "sh"] if request.param == "busybox" else [str(request.param)]


def started(root: Path, tmp_path: Path, shell: list[str], *words: str, agent: str = "bob") -> bool:
    """Run the guard beside a `mailbox` that only reports that it was started, with which words."""
    folder = tmp_path / "bin"
    if not folder.exists():
        folder.mkdir()
        shutil.copy(GUARD, folder / "mailbox-hook")
        (folder / "mailbox").write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
        (folder / "mailbox").chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "MAILBOX_ROOT": str(root), "MAILBOX_AGENT": agent}
    command = [*shell, str(folder / "mailbox-hook"), *words]
    done = subprocess.run(command, capture_output=True, env=environment, text=True, timeout=PATIENCE, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("", "".join(f"{word}|" for word in ("hook", *words)))
    return bool(done.stdout)


def test_a_tool_without_mail_starts_nothing(root: Path, tmp_path: Path, shell: list[str]) -> None:
    """The usual case: at each tool call of an agent."""
    assert not started(root, tmp_path, shell, "claude", "PostToolUse")
    assert not started(root, tmp_path, shell, "claude")


@pytest.mark.parametrize(
    "event", ["SessionStart", "UserPromptSubmit", "Stop", "SessionEnd", "BeforeAgent", "AfterAgent"]
)
def test_events_of_a_turn_always_start_it(root: Path, tmp_path: Path, event: str) -> None:
    """They report the presence of the session."""
    assert started(root, tmp_path, ["sh"], "claude", event)


def test_mail_starts_it(root: Path, tmp_path: Path, shell: list[str], alice: Mailbox) -> None:
    """New mail."""
    alice.send("bob", "one")

    assert started(root, tmp_path, shell, "gemini", "AfterTool")


def test_deferred_mail_starts_it_when_it_is_due(
    root: Path, tmp_path: Path, shell: list[str], alice: Mailbox, bob: Mailbox
) -> None:
    """And not before."""
    alice.send("bob", "one", delay=3600)
    assert bob.receive() is None
    assert not started(root, tmp_path, shell, "claude", "PostToolUse")

    alice.send("bob", "two")
    message = bob.receive()
    assert message is not None
    message.release()
    assert started(root, tmp_path, shell, "claude", "PostToolUse")


def test_held_mail_starts_it_when_its_lease_must_be_extended(root: Path, tmp_path: Path, shell: list[str]) -> None:
    """The time of the notes is when: an old session that was killed costs the others nothing until then."""
    notes = root / "bob/run/.session-0123456789ab"
    notes.write_text("{}")
    os.utime(notes, (time.time() + 1000,) * 2)
    assert not started(root, tmp_path, shell, "claude", "PostToolUse")
    assert started(root, tmp_path, shell, "claude"), "without the event it cannot know"

    os.utime(notes, (time.time() - 1000,) * 2)
    assert started(root, tmp_path, shell, "claude", "PostToolUse")


@pytest.mark.parametrize("agent", ["", "nobody"])
def test_without_a_box_it_does_nothing(root: Path, tmp_path: Path, agent: str) -> None:
    """Nothing is made up."""
    assert not started(root, tmp_path, ["sh"], "claude", "Stop", agent=agent)


def test_without_the_command_it_does_not_fail(root: Path, tmp_path: Path) -> None:
    """A client must go on, also where the package was removed."""
    (tmp_path / "alone").mkdir()
    shutil.copy(GUARD, tmp_path / "alone/mailbox-hook")
    environment = {"PATH": "/nonexistent", "MAILBOX_ROOT": str(root), "MAILBOX_AGENT": "bob"}
    command = ["/bin/sh", str(tmp_path / "alone/mailbox-hook"), "claude", "Stop"]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=PATIENCE, check=False)

    assert (done.returncode, done.stdout) == (0, b"")
    assert b"mailbox-hook" in done.stderr
