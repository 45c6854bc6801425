"""Agents with private volumes and a relay between them, for tests."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filemailbox import Mailbox
from filemailbox.format.address import Address
from filemailbox.relay import audit_format
from filemailbox.relay.audit_format import Record, Signer
from filemailbox.relay.audit_log import Audit
from filemailbox.relay.policy import Policy
from filemailbox.relay.policy_file import parse_policy
from filemailbox.relay.relay import Relay
from filemailbox.store.box import create_box
from filemailbox.store.root import init_root
from filemailbox.trust import seal

SIGNER = Signer(*seal.signer(seal.SecretBytes(range(32))))
OPEN = '[[allow]]\nfrom = "*"\nto = "*"\n'


class Post:
    """Volumes, their agents, and a relay that is turned by hand."""

    def __init__(self, place: Path, *agents: str, rules: str = OPEN, limits: str = "", extra: str = "") -> None:
        self.place, self.agents = place, agents or ("alice", "bob", "carol")
        self.rules, self.limits, self.extra = rules, limits, extra
        self.boxes: dict[str, Mailbox] = {}
        for name in self.agents:
            self.make(name)
        self.relay = self.begin()

    def make(self, name: str) -> None:
        """An agent's volume, with its box and its outbox."""
        volume = init_root(self.place / name)
        create_box(volume, Address(name), outbox=True)

    def text(self) -> str:
        """What relay.toml says."""
        agents = "".join(f'[agents.{name}]\nvolume = "{self.place / name}"\n{self.extra}' for name in self.agents)
        return f"[limits]\n{self.limits}\n{agents}{self.rules}"

    def policy(self) -> Policy:
        return parse_policy(self.text())

    @property
    def audit(self) -> Path:
        return self.place / "audit"

    def new_relay(self) -> Relay:
        log = Audit(str(self.audit), SIGNER, "relay")
        return Relay(self.policy(), log, seal.verify, self.policy)

    def begin(self) -> Relay:
        """A relay, begun."""
        self.relay = self.new_relay()
        self.relay.begin()
        return self.relay

    def again(self) -> Relay:
        """Another relay after this one."""
        self.relay.end()
        return self.begin()

    def turn(self) -> None:
        """Let it carry what it can; everything that is parked is looked at again."""
        for station in self.relay.stations.values():
            station.wanted, station.look_at = True, 0.0
            for name, parked in list(station.parked.items()):
                station.park(name, 0.0, parked.to, parked.stuck)
        for trouble in self.relay.troubles.values():
            trouble.until = 0.0
        self.relay.turn()

    def box(self, name: str) -> Mailbox:
        """The mailbox of an agent, in its own volume."""
        if name not in self.boxes:
            self.boxes[name] = Mailbox(name, self.place / name, durable=False)
        return self.boxes[name]

    def folder(self, name: str, folder: str) -> Path:
        return self.place / name / name / folder

    def drop(self, name: str, file: str, data: bytes | str) -> Path:
        """Put a file into an outbox."""
        path = self.folder(name, "outbox") / file
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def got(self, name: str) -> list[Any]:
        """The bodies that wait for an agent; they are taken."""
        box, bodies = self.box(name), []
        while (message := box.receive()) is not None:
            bodies.append(message.body)
            message.ack()
        return bodies

    def left(self, name: str, folder: str = "outbox") -> list[str]:
        return sorted(os.listdir(self.folder(name, folder)))

    def back(self, name: str) -> list[str]:
        """Why mail came back to an agent."""
        return [note.read_text().rstrip("\n") for note in sorted(self.folder(name, "dead").glob("*.why"))]

    def records(self, *events: str) -> list[Record]:
        return [each for each in audit_format.records(str(self.audit)) if not events or each["event"] in events]

    def events(self) -> list[str]:
        """What was decided, beside beginning and ending."""
        aside = ("begin", "start", "stop", "segment", "rotate")
        return [each["event"] for each in self.records() if each["event"] not in aside]

    def is_sound(self) -> bool:
        """Whether the audit log is."""
        audit_format.verify(str(self.audit), SIGNER.public, seal.verify)
        return True

    def close(self) -> None:
        self.relay.end()
        for box in self.boxes.values():
            box.close()


Opener = Callable[..., Post]
