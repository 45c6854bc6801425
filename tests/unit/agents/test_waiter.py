"""waiter: it wakes an idle session, claims nothing, and ends with its client."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filemailbox import Mailbox
from filemailbox.agents.notes import session_hex
from support.agents import Client
from support.waiting import PATIENCE, wait_until

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(root: Path) -> Iterator[Start]:
    """start(**members): a waiter of the session, with these members in its event."""
    running: list[subprocess.Popen[bytes]] = []

    def start_waiter(environment: dict[str, str] | None = None, **members: object) -> subprocess.Popen[bytes]:
        client = Client(root, **{"CLAUDE_CODE_ENTRYPOINT": "cli", **(environment or {})})
        running.append(client.start("Stop", "--rewake", **members))
        return running[-1]

    yield start_waiter
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate(timeout=PATIENCE)


def is_waiting(root: Path) -> bool:
    """Whether a waiter has a doorbell."""
    return any(path.is_socket() for path in (root / "bob/run").iterdir() if not path.name.startswith("."))


def test_mail_wakes_an_idle_session(root: Path, start: Start, alice: Mailbox, bob: Mailbox) -> None:
    """Exit code 2, a cue and no mail; nothing is taken."""
    process = start()
    wait_until(lambda: is_waiting(root))
    alice.send("bob", "secret words")
    _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 2
    assert err == b"Mail waits for bob.\n"
    message = bob.receive()
    assert message is not None
    assert (message.body, message.attempt) == ("secret words", 1)


def test_a_session_at_work_is_not_woken(root: Path, start: Start, alice: Mailbox, client: Client) -> None:
    """Its hooks show the mail. It is woken when it is idle again and mail is left."""
    client.hook("UserPromptSubmit")
    process = start()
    wait_until(lambda: is_waiting(root))
    alice.send("bob", "one")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2.5)

    presence = root / "bob/run" / f"session-{session_hex('one')}.json"
    presence.write_text(json.dumps({**json.loads(presence.read_text()), "doing": "idle"}))
    assert process.wait(PATIENCE) == 2


def test_one_waiter_for_a_session(root: Path, start: Start) -> None:
    """Claude Code starts one at each stop: the second ends at once, and wakes nothing."""
    start()
    wait_until(lambda: is_waiting(root))

    assert start().wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("environment", "members"),
    [
        ({"CLAUDE_CODE_ENTRYPOINT": "sdk-cli"}, {}),
        ({}, {"agent_id": "a1"}),
        ({}, {"session_id": ""}),
        ({"MAILBOX_AGENT": "nobody"}, {}),
        ({}, {"client_pid": 1}),
    ],
    ids=["print mode", "subagent", "no session", "no box", "no client"],
)
def test_it_ends_where_it_must_not_wait(
    environment: dict[str, str], members: dict[str, object], start: Start, alice: Mailbox
) -> None:
    """`claude -p` would wait for it. It ends with 0, also if there is mail."""
    alice.send("bob", "one")

    assert start(environment, **members).wait(PATIENCE) == 0


def test_it_ends_with_its_client(root: Path, start: Start) -> None:
    """However that ends: the kernel reports it."""
    client = subprocess.Popen(["sleep", "1000"])
    process = start(client_pid=client.pid)
    wait_until(lambda: is_waiting(root))
    client.kill()
    client.wait(PATIENCE)

    assert process.wait(PATIENCE) == 0


def test_the_stop_hook_of_codex_starts_a_waiter_that_asks_for_a_prompt(
    root: Path, tmp_path: Path, alice: Mailbox
) -> None:
    """By `codex queue`, with the thread of the session."""
    asked = tmp_path / "asked"
    (tmp_path / "codex").write_text(f'#!/bin/sh\nprintf "%s|" "$@" > {asked}.part; mv {asked}.part {asked}\n')
    (tmp_path / "codex").chmod(0o755)
    codex = Client(root, "codex", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert codex.hook("Stop") is None
    wait_until(lambda: is_waiting(root))
    alice.send("bob", "one")
    wait_until(asked.exists)

    assert asked.read_text() == "queue|--thread|one|--message|Mail waits for bob.|"
