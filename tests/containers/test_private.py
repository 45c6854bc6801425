"""compose.yaml's profile `relay`: three agents that share nothing, and who carries mail between them."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from containers.engine import Container, Engine, until

AGENTS = {"planner": "3001:3001", "coder": "3002:3002", "tester": "3003:3003"}
Project = Callable[[str], Container]
each_agent = pytest.mark.parametrize("name", AGENTS)


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """The three and their relay, up: project("coder") is a container."""
    engine = Engine()
    options, name = ("--profile", "relay"), f"{engine.run}-relay"
    engine.compose(*options, "up", "--detach", "--no-build", *AGENTS, project=name)

    def service(service: str) -> Container:
        return Container(engine, engine.compose(*options, "ps", "--quiet", service, project=name).out.split()[0])

    yield service
    engine.compose(*options, "down", "--volumes", project=name)


def test_agents_that_share_nothing_converse(project: Project) -> None:
    """A question and its answer, a group, mail from one worker to the other; the recipient sees the relay's word."""
    project("coder").prints("planner tells me: build version 1 (relay)")
    project("planner").prints("coder answers: done: build version 1 (relay)")
    project("coder").prints("planner tells me: version 1 is built (relay)")
    project("tester").prints("planner tells me: version 1 is built")
    project("tester").prints("coder tells me: build version 1")


def test_what_no_rule_allows_comes_back_with_the_reason(project: Project) -> None:
    """The tester may answer the planner, and not write to it: the policy is default deny."""
    project("tester").prints("the relay did not carry it")

    assert "ask you something" not in project("planner").do("sh", "-c", "cat /mail/planner/*/*; :").out


def test_the_relay_does_not_start_the_others(project: Project) -> None:
    """Who asks for the three gets them, without those of the shared volume."""
    engine = project("relay").engine
    label = f"label=com.docker.compose.project={engine.run}-relay"
    names = engine.docker("ps", "--all", "--filter", label, "--format", "{{.Names}}").lines

    assert sorted(each.removeprefix(f"{engine.run}-relay").strip("_-")[:-2] for each in names) == [
        "coder",
        "offices",
        "planner",
        "relay",
        "tester",
    ]


@each_agent
def test_an_agent_has_its_own_volume_alone(project: Project, name: str) -> None:
    """Its box is all that there is of mail in its container, and it is its agent's."""
    box = project(name).do("stat", "-c", "%n %u:%g", "/mail", f"/mail/{name}", f"/mail/{name}/outbox").lines
    mounted = [line.split()[1] for line in project(name).do("cat", "/proc/mounts").lines]

    assert box == [
        "/mail 0:0",
        *(f"{each} {AGENTS[name]}" for each in (f"/mail/{name}", f"/mail/{name}/outbox")),
    ]
    assert project(name).do("ls", "/mail").lines == [name]
    assert [each for each in mounted if "mail" in each and "/bin/" not in each] == ["/mail"]


def test_the_relay_has_one_right_and_no_network(project: Project) -> None:
    """DAC_OVERRIDE, to go into volumes that are their agents'; its own root file system is read-only."""
    relay = project("relay")
    lines = dict(line.split(":\t", 1) for line in relay.do("cat", "/proc/self/status").lines if ":\t" in line)
    interfaces = [line.split(":")[0].strip() for line in relay.do("cat", "/proc/net/dev").lines[2:]]

    assert {int(lines[each], 16) for each in ("CapPrm", "CapEff", "CapBnd")} == {1 << 1}
    assert interfaces == ["lo"]
    assert relay.do("touch", "/probe", check=False).code != 0


def test_health_and_the_record_are_seen_from_outside(project: Project) -> None:
    """The engine asks `mailbox relay health`; the audit log has each decision, and is whole by both verifiers."""
    relay = project("relay")
    project("tester").prints("version 1 is built")
    until(lambda: relay.facts(".State.Health.Status") == "healthy")
    records = [json.loads(line) for line in relay.do("mailbox", "relay", "audit", "show", "--json").lines]
    said = {(each.get("event"), each.get("from"), each.get("to"), each.get("rule")) for each in records}

    assert {
        ("accept", "planner", "coder", "work"),
        ("accept", "coder", "planner", "answers"),
        ("accept", "coder", "tester", "builds"),
    } <= said
    assert any(each[:3] == ("refuse", "tester", "planner") for each in said)
    assert not any("body" in each for each in records)
    verified = relay.do("mailbox", "relay", "audit", "verify")
    assert verified.out.startswith("relay: "), verified


def test_a_restart_of_the_relay_loses_and_doubles_nothing(project: Project) -> None:
    """Killed, with mail in the outboxes: it is carried when the relay is back, once."""
    relay, planner = project("relay"), project("planner")
    relay.engine.docker("kill", relay.id)
    for n in range(20):
        planner.do("mailbox", "send", "coder", f"kept {n}.", "--type", "notice")
    relay.engine.docker("start", relay.id)
    for n in range(20):
        project("coder").prints(f"planner tells me: kept {n}. (relay)")

    assert [project("coder").log().count(f"kept {n}. ") for n in range(20)] == [1] * 20


def test_a_changed_policy_is_read_at_sighup(project: Project) -> None:
    """`docker compose kill -s HUP relay`, as scripts/relay.toml says."""
    relay = project("relay")
    before = sum(each["event"] == "policy" for each in _records(relay))
    relay.engine.docker("kill", "--signal", "HUP", relay.id)

    until(lambda: sum(each["event"] == "policy" for each in _records(relay)) > before)


def _records(relay: Container) -> list[dict[str, Any]]:
    return [json.loads(line) for line in relay.do("mailbox", "relay", "audit", "show", "--json").lines]
