"""The relay as scripts/mailbox-relay.service runs it: a user with one capability, and agents with uids."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from filemailbox import Mailbox
from filemailbox.cli.run import main
from support.paths import SOURCE
from support.uids import Actor, act
from support.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("as_root")

RELAY: Final = 990
AGENTS: Final = {"alice": Actor("alice", 3001), "bob": Actor("bob", 3002)}
CONFINED: Final = (
    *("setpriv", f"--reuid={RELAY}", f"--regid={RELAY}", "--clear-groups", "--no-new-privs"),
    *(f"--{which}=-all,+dac_override" for which in ("inh-caps", "ambient-caps", "bounding-set")),
)
RULES: Final = '[[allow]]\nname = "jobs"\nfrom = "alice"\nto = "bob"\n'


@pytest.fixture
def place(shared: Path) -> Iterator[Path]:
    """What the policy in it speaks of is made, by root, and the relay is at work there."""
    config = shared / "relay.toml"
    agents = "".join(f'[agents.{who}]\nvolume = "{shared}/{who}"\nuid = {it.uid}\n' for who, it in AGENTS.items())
    config.write_text(f'[relay]\nstate = "{shared}/state"\nkey = "{shared}/state/key"\n{agents}{RULES}')
    assert main(["relay", "init", "--config", str(config), "--uid", str(RELAY)]) == 0
    with (shared / "log").open("wb") as log:
        command = [*CONFINED, sys.executable, "-m", "filemailbox", "relay", "--config", str(config)]
        relay = subprocess.Popen(command, stderr=log, env={**os.environ, "PYTHONPATH": SOURCE})
    yield shared
    relay.terminate()
    assert relay.wait(PATIENCE) == 0, (shared / "log").read_text()


def test_a_relay_that_is_not_root_carries_mail(place: Path) -> None:
    """It goes into volumes that are others', and what it leaves there their owners can read, settle and remove."""
    id = act(AGENTS["alice"], lambda: Mailbox("alice", place / "alice").send("bob", "a job"))

    assert act(AGENTS["bob"], lambda: taken(place, "bob")) == [id, "a job", "relay", RELAY]
    assert os.listdir(place / "alice/alice/outbox") == os.listdir(place / "bob/bob/tmp") == []


def test_a_relay_that_is_not_root_sends_back(place: Path, until: Callable[..., None]) -> None:
    """What no rule allows is a dead letter of its sender's, who can read why."""
    act(AGENTS["bob"], lambda: Mailbox("bob", place / "bob").send("alice", "not allowed"))
    dead = place / "bob/bob/dead"
    until(lambda: list(dead.glob("*.why")))

    said = act(AGENTS["bob"], lambda: [file.read_text() for file in dead.glob("*.why")])
    assert "did not carry it" in said[0]


def taken(place: Path, name: str) -> list[Any]:
    box = Mailbox(name, place / name)
    message = box.receive(timeout=PATIENCE)
    assert message is not None
    (held,) = (place / name / name / "cur").rglob("*.json")
    owner = held.stat().st_uid
    message.ack()
    return [message.id, message.body, message.trust, owner]
