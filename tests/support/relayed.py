"""Agents with volumes of their own and a relay between them, whose clock the test moves."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from filemailbox.format.address import Address
from filemailbox.relay import audit_format
from filemailbox.relay.audit_format import Record, Signer
from filemailbox.relay.audit_log import AuditLog
from filemailbox.relay.limits import RelayLimits
from filemailbox.relay.policy import Policy
from filemailbox.relay.policy_file import parse_policy
from filemailbox.relay.relay import Relay
from filemailbox.store.box import create_box
from filemailbox.store.root import init_root
from filemailbox.trust import seal

SIGNER = Signer(*seal.signer(seal.SecretBytes(range(32))))
OPEN = '[[allow]]\nfrom = "*"\nto = "*"\n'
ALL_RETRIES = 61.0
"""Seconds after which everything that waits for another attempt is due."""


@dataclass
class HandClock:
    """A clock that stands still until it is moved."""

    ticks: float = 1000.0
    skew: float = 0.0

    def monotonic(self) -> float:
        return self.ticks

    def time(self) -> float:
        return time.time() + self.skew  # files and records have the host's times

    def advance(self, seconds: float) -> None:
        """Let waits and rates be *seconds* later."""
        self.ticks += seconds

    def advance_day(self, seconds: float) -> None:
        """Let the time of day be *seconds* later."""
        self.skew += seconds


class RelayWorld:
    """Volumes, their agents, and a relay that the test turns."""

    def __init__(
        self,
        place: Path,
        *agents: str,
        rules: str = OPEN,
        limits: str = "",
        extra: str = "",
        relay_limits: RelayLimits | None = None,
        segment: int = 16 << 20,
    ) -> None:
        """*limits* are those of the policy, *relay_limits* those of the relay; *extra* is for each agent."""
        self.place, self.agents = place, agents or ("alice", "bob", "carol")
        self.rules, self.limits, self.extra = rules, limits, extra
        self.relay_limits, self.segment = relay_limits or RelayLimits(), segment
        self.clock = HandClock()
        self.boxes: dict[str, Mailbox] = {}
        for name in self.agents:
            self.make(name)
        self.relay = self.start()

    def make(self, name: str) -> None:
        """Create an agent's volume, with its box and its outbox."""
        volume = init_root(self.place / name)
        create_box(volume.box(Address(name)), outbox=True)

    def text(self) -> str:
        """The text of relay.toml."""
        agents = "".join(f'[agents.{name}]\nvolume = "{self.place / name}"\n{self.extra}' for name in self.agents)
        return f"[limits]\n{self.limits}\n{agents}{self.rules}"

    def policy(self) -> Policy:
        return parse_policy(self.text())

    @property
    def audit(self) -> Path:
        return self.place / "audit"

    def new_relay(self) -> Relay:
        """A relay on this world's clock, not started."""
        log = AuditLog(str(self.audit), SIGNER, "relay", self.segment)
        return Relay(self.policy(), log, seal.verify, self.policy, clock=self.clock, limits=self.relay_limits)

    def start(self) -> Relay:
        """Start a relay."""
        self.relay = self.new_relay()
        self.relay.start()
        return self.relay

    def restart(self) -> Relay:
        """Stop the relay and start another one."""
        self.relay.close()
        return self.start()

    def kill(self) -> None:
        """End the relay as kill -9 does: nothing more is written, and the lock is free."""
        audit = self.relay.audit
        for fd in (audit._fd, audit._checkpoint_fd):
            if fd >= 0:
                os.close(fd)
        audit._fd = audit._checkpoint_fd = -1
        self.relay.close()

    def turn(self) -> None:
        """Let time pass until everything deferred is due, and let the relay carry what it can."""
        self.clock.advance(ALL_RETRIES)
        self.relay.turn()

    def box(self, name: str) -> Mailbox:
        """The mailbox of an agent, in its own volume."""
        if name not in self.boxes:
            self.boxes[name] = Mailbox(name, self.place / name, durable=False)
        return self.boxes[name]

    def folder(self, name: str, folder: str) -> Path:
        return self.place / name / name / folder

    def drop(self, name: str, filename: str, data: bytes | str) -> Path:
        """Put a file into an outbox."""
        path = self.folder(name, "outbox") / filename
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def got(self, name: str) -> list[Any]:
        """Receive all mail of an agent, and return the bodies."""
        box, bodies = self.box(name), []
        while (message := box.receive()) is not None:
            bodies.append(message.body)
            message.ack()
        return bodies

    def left(self, name: str, folder: str = "outbox") -> list[str]:
        return sorted(os.listdir(self.folder(name, folder)))

    def back(self, name: str) -> list[str]:
        """The reasons of the mail that was bounced to an agent."""
        return [note.read_text().rstrip("\n") for note in sorted(self.folder(name, "dead").glob("*.why"))]

    def records(self, *events: str) -> list[Record]:
        return [
            record for record in audit_format.read_records(str(self.audit)) if not events or record["event"] in events
        ]

    def events(self) -> list[str]:
        """The events of decisions, without those of the log and the relay."""
        aside = ("begin", "start", "stop", "segment", "rotate")
        return [record["event"] for record in self.records() if record["event"] not in aside]

    def is_sound(self) -> bool:
        """Verify the audit log."""
        audit_format.verify_log(str(self.audit), SIGNER.public_key, seal.verify)
        return True

    def close(self) -> None:
        self.relay.close()
        for box in self.boxes.values():
            box.close()


OpenWorld = Callable[..., RelayWorld]


@pytest.fixture
def open_world(tmp_path: Path) -> Iterator[OpenWorld]:
    """open_world(*agents, rules=…): agents with volumes of their own, and a relay."""
    opened: list[RelayWorld] = []

    def open_(*agents: str, **options: Any) -> RelayWorld:
        place = tmp_path / f"world{len(opened)}"
        place.mkdir()
        opened.append(RelayWorld(place, *agents, **options))
        return opened[-1]

    yield open_
    for world in opened:
        world.close()
