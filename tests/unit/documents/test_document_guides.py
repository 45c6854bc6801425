"""The demo of the board. Every block of the guides is run by tests/system/test_docs.py."""

import os
import subprocess

from support.paths import REPO


def test_three_agents_never_take_one_task_twice() -> None:
    """The demo; it fails where one was."""
    done = subprocess.run(
        [REPO / "scripts/demo-board"],
        env={**os.environ, "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 tasks were taken, 30 of them different; the board is at version 61" in done.stdout
