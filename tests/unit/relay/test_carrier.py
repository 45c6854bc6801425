"""The seam: a carrier without any folder, beside that of this host. The loop needs no change for it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from filemailbox.format.address import Address
from filemailbox.relay.audit_format import read_records
from filemailbox.relay.audit_log import AuditLog
from filemailbox.relay.carrier import Carrier, Destination, NotMail, OutboxMessage, Source
from filemailbox.relay.local import LocalCarrier
from filemailbox.relay.policy import Agent
from filemailbox.relay.policy_file import InvalidPolicyError, parse_policy
from filemailbox.relay.relay import Relay
from filemailbox.trust import seal
from support.relayed import ALL_RETRIES, OPEN, SIGNER, HandClock


class Memory:
    """One agent's mail, in dictionaries: a source and a destination."""

    def __init__(self, name: Address) -> None:
        self.name, self.watch_fd = name, -1
        self.outgoing: dict[str, bytes] = {}
        self.tmp: dict[str, bytes] = {}
        self.new: dict[str, bytes] = {}
        self.bounced: dict[str, str] = {}
        self.rings, self.down = 0, False

    def open(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def waiting(self, limit: int) -> list[str]:
        return sorted(self.outgoing)[:limit]

    def read(self, name: str, max_size: int) -> OutboxMessage:
        if name not in self.outgoing:
            raise FileNotFoundError(name)
        if len(self.outgoing[name]) > max_size:
            raise NotMail("it is too large")
        return OutboxMessage(self.name, name, name.removesuffix(".json"), None, self.outgoing[name])

    def remove(self, name: str) -> None:
        self.outgoing.pop(name, None)

    def bounce(self, name: str, why: str) -> None:
        self.bounced[name] = why
        self.remove(name)

    def stage(self, name: str, data: bytes) -> int:
        if self.down:
            raise ConnectionError(111, "Connection refused")
        self.tmp[name] = data
        return -1

    def commit(self, name: str, in_reply_to: str | None) -> None:
        if name not in self.tmp:
            raise FileNotFoundError(name)
        self.new[name] = self.tmp.pop(name)

    def discard(self, name: str, why: str = "") -> None:
        self.tmp.pop(name, None)

    def is_staged(self, name: str) -> bool:
        return name in self.tmp

    def staged(self) -> set[str] | None:
        return set(self.tmp)

    def backlog(self, limit: int) -> int:
        return len(self.new)

    def ring(self) -> None:
        self.rings += 1


class MemoryCarrier:
    """A carrier between agents of this process."""

    def __init__(self) -> None:
        self.boxes = {name: Memory(Address(name)) for name in ("alice", "bob")}

    def source(self, agent: Agent) -> Source:
        return self.boxes[agent.name]

    def destination(self, agent: Agent) -> Destination:
        return self.boxes[agent.name]

    def check(self, agents: Mapping[Address, Agent]) -> list[str]:
        return []


ID = "20261124T014530.123456789Z-3f9c0a12b4d5"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def start_relay(tmp_path: Path, clock: HandClock) -> Callable[[Carrier], Relay]:
    policy = parse_policy(f'[agents.alice]\nvolume = "/nowhere/a"\n[agents.bob]\nvolume = "/nowhere/b"\n{OPEN}')

    def start(carrier: Carrier) -> Relay:
        log = AuditLog(str(tmp_path / "audit"), SIGNER)
        relay = Relay(policy, log, seal.verify, carrier=carrier, clock=clock)
        relay.start()
        return relay

    return start


def test_another_carrier_needs_no_change_of_the_loop(start_relay: Callable[[Carrier], Relay], tmp_path: Path) -> None:
    """Delivered, bounced and recorded, without a folder."""
    carrier = MemoryCarrier()
    alice, bob = carrier.boxes["alice"], carrier.boxes["bob"]
    data = json.dumps({"to": "bob", "body": 1}).encode()
    alice.outgoing = {f"{ID}.json": data, "x.json": b'{"to":"nobody"}'}
    relay = start_relay(carrier)
    relay.turn()
    relay.close()

    assert list(bob.new.values()) == [data]
    assert (bob.tmp, bob.rings, alice.outgoing) == ({}, 1, {})
    assert list(alice.bounced) == ["x.json"]
    events = [record["event"] for record in read_records(str(tmp_path / "audit"))]
    assert sorted(events) == ["accept", "begin", "refuse", "start", "stop"]


def test_a_carrier_that_is_down_defers_its_mail(start_relay: Callable[[Carrier], Relay], clock: HandClock) -> None:
    """It is carried once the carrier works again, and the status shows why it waits."""
    carrier = MemoryCarrier()
    carrier.boxes["alice"].outgoing = {f"{ID}.json": b'{"to":"bob","body":1}'}
    carrier.boxes["bob"].down = True
    relay = start_relay(carrier)
    relay.turn()
    waiting = relay.status()
    carrier.boxes["bob"].down = False
    clock.advance(ALL_RETRIES)
    relay.turn()
    done = relay.status()
    relay.close()

    assert (waiting.delivered, waiting.deferred) == (0, 1)
    assert "connection refused" in waiting.recipients["bob"]
    assert (done.delivered, done.deferred, done.recipients) == (1, 0, {})


def test_mail_left_staged_is_committed_by_the_next_relay(start_relay: Callable[[Carrier], Relay]) -> None:
    """Its record is in the log: it is delivered without being read again."""
    carrier = MemoryCarrier()
    alice, bob = carrier.boxes["alice"], carrier.boxes["bob"]
    alice.outgoing = {f"{ID}.json": b'{"to":"bob","body":1}'}
    relay = start_relay(carrier)
    relay.turn()
    relay.close()
    bob.tmp, bob.new = bob.new, {}
    start_relay(carrier).close()

    assert (len(bob.tmp), len(bob.new), bob.rings) == (0, 1, 2)


def test_a_carrier_that_cannot_tell_agents_apart_stops_the_relay(
    start_relay: Callable[[Carrier], Relay], tmp_path: Path
) -> None:
    """Two paths may lead to one volume."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    agents = {Address(name): Agent(Address(name), str(tmp_path / name)) for name in ("a", "b")}
    problems = LocalCarrier().check(agents)
    carrier = MemoryCarrier()
    carrier.check = lambda agents: problems  # type: ignore[method-assign]

    assert len(problems) == 1
    with pytest.raises(InvalidPolicyError, match="a and b have one volume"):
        start_relay(carrier)
