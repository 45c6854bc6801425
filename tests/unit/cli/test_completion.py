"""Completion: scripts that are loaded once and answer by themselves."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox.cli import completion


def complete(root: Path, *words: str) -> list[str]:
    """What bash offers after *words*, of which the last may be empty or half written. No mailbox can be started."""
    script = f"""
{completion.bash()}
COMP_WORDS=(mailbox "$@")
COMP_CWORD=$#
_mailbox
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        [shutil.which("bash") or "/bin/bash", "--norc", "-c", script, "bash", *words],
        cwd=root,
        env={"MAILBOX_ROOT": str(root), "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        pytest.param(["rec"], ["receive"], id="a verb"),
        pytest.param(["dead", ""], ["list", "show", "requeue", "purge"], id="a second word"),
        pytest.param(["dead", "p"], ["purge"], id="half a second word"),
        pytest.param(["send", ""], ["alice", "bob"], id="an agent"),
        pytest.param(["send", "b"], ["bob"], id="half an agent"),
        pytest.param(["receive", "--as", "a"], ["alice"], id="whose mail"),
        pytest.param(["send", "bob", "--th"], ["--thread"], id="an option"),
        pytest.param(["dead", "purge", "--old"], ["--older-than"], id="an option of a second word"),
        pytest.param(["list", "--state", "d"], ["deferred", "dead", "done"], id="a word of a list"),
        pytest.param(["completion", ""], ["bash", "zsh", "fish"], id="a shell"),
        pytest.param(["send", "bob", "--ttl", ""], [], id="a value that nobody knows"),
        pytest.param(["nonsense", ""], [], id="after no verb"),
        pytest.param(["relay", "ch"], ["check"], id="a second word of what is a verb by itself"),
        pytest.param(["relay", "--c"], ["--config"], id="an option of what is a verb by itself"),
        pytest.param(["relay", "audit", ""], ["verify", "show"], id="a third word"),
        pytest.param(["relay", "audit", "show", "--thr"], ["--thread"], id="an option of a third word"),
    ],
)
def test_bash_completes(root: Path, words: list[str], offered: list[str]) -> None:
    """Verbs, options, agents: from the script and the folders alone."""
    assert complete(root, *words) == offered


def test_bash_completes_every_verb(root: Path) -> None:
    """And --help."""
    offered = complete(root, "")

    assert {"init", "send", "receive", "watch", "dead", "doctor", "completion", "--help"} <= set(offered)


def test_bash_takes_the_root_that_was_typed(root: Path, tmp_path: Path) -> None:
    """--root goes before MAILBOX_ROOT."""
    (tmp_path / "other" / "erin" / "new").mkdir(parents=True)

    assert complete(root, "send", "--root", str(tmp_path / "other"), "") == ["erin"]


def test_names_that_are_no_agents_are_not_run(root: Path) -> None:
    """A folder with a hostile name is a word at the most, and starts nothing."""
    (root / "$(: > pwned)" / "new").mkdir(parents=True)

    assert complete(root, "send", "") == ["alice", "bob"]
    assert not (root / "pwned").exists()


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_script_is_printed_for_each_shell(mailbox: Callable[..., Any], shell: str) -> None:
    """All verbs and options stand in it."""
    said = mailbox("completion", shell)

    assert (said.code, said.err) == (0, "")
    for word in ("receive", "requeue", "in-reply-to", "older-than"):
        assert word in said.out


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_shell_itself_accepts_its_script(mailbox: Callable[..., Any], shell: str, tmp_path: Path) -> None:
    """Where there is one."""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"there is no {shell} here: its script is only looked at")
    path = tmp_path / "script"
    path.write_text(mailbox("completion", shell).out)

    assert subprocess.run([found, "-n", path], check=False, capture_output=True, env=os.environ).returncode == 0


def test_another_shell_is_refused_with_those_there_are(mailbox: Callable[..., Any]) -> None:
    """Exit code 2."""
    said = mailbox("completion", "tcsh")

    assert said.code == 2
    assert "expected bash, zsh or fish" in said.err
