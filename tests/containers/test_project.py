"""compose.yaml as a person would run it."""

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from containers.engine import Container, Engine, until
from filemailbox.format.address import Address
from filemailbox.trust.key_files import PrivateKeys

AGENTS = {"alice": "2001:2001", "bob": "2002:2002", "carol": "2003:2003"}
Project = Callable[[str], Container]
Tell = Callable[[str], None]
each_agent = pytest.mark.parametrize("name", AGENTS)


def test_who_types_up_sees_a_conversation(project: Project, tell: Tell) -> None:
    """Python with callbacks, a command behind `watch`, a container that has only sh; and what proves each sender."""
    project("bob").prints("alice asks (sealed) how many words are these?")
    project("bob").prints("carol asks (uid) and these?")
    project("alice").prints("bob answers: 5 (sealed)")
    project("alice").prints("carol tells me: it is ")
    project("carol").prints("alice answers: thank you")
    project("carol").prints("bob answers: 2")

    log = project("alice").engine.docker("logs", "--timestamps", project("alice").id).out
    answered = next(line for line in log.splitlines() if "bob answers" in line).split()[0]
    tell(f"the first answer came {_seconds(project('boxes').facts('.State.StartedAt'), answered):.1f} s after `up`")


def test_who_makes_the_boxes_ends_and_they_have_the_right_owners(project: Project) -> None:
    """A short-lived service, the only one with rights: each box is its agent's, and a drop box to the others."""
    for name, owner in AGENTS.items():
        told = project("alice").do("stat", "-c", "%a %u:%g", f"/mail/{name}", f"/mail/{name}/new", f"/mail/{name}/cur")

        assert told.lines == [f"755 {owner}", f"3733 {owner}", f"700 {owner}"]
    assert project("alice").do("stat", "-c", "%a %u:%g", "/mail").out == "755 0:0\n"
    assert project("boxes").facts(".State.ExitCode") == 0
    assert not project("boxes").facts(".State.Running")


@each_agent
def test_an_agent_has_no_network_but_loopback(project: Project, name: str) -> None:
    """What the kernel lists in it, not what was asked for."""
    interfaces = [line.split(":")[0].strip() for line in project(name).do("cat", "/proc/net/dev").lines[2:]]

    assert interfaces == ["lo"]


@each_agent
def test_an_agent_can_write_to_the_volume_and_tmp_alone(project: Project, name: str) -> None:
    """A root file system that is read-only, and keys that are."""
    places = f"/ /dev /etc /bin /tmp /mail/{name} /mail /registry /run/secrets"
    script = f"for each in {places}; do touch $each/probe 2>/dev/null && echo $each; done; :"
    writable = project(name).do("sh", "-c", script).lines
    project(name).do("rm", "-f", "/tmp/probe", f"/mail/{name}/probe")

    assert [each for each in writable if each != "/dev"] == ["/tmp", f"/mail/{name}"]
    assert project(name).facts(".HostConfig.ReadonlyRootfs")


@each_agent
def test_an_agent_has_a_uid_of_its_own_and_no_rights(project: Project, name: str) -> None:
    """No capability, none to be had by running something, and a group of its own."""
    lines = dict(line.split(":\t", 1) for line in project(name).do("cat", "/proc/self/status").lines if ":\t" in line)
    uid, gid = AGENTS[name].split(":")

    assert {int(lines[each], 16) for each in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert lines["NoNewPrivs"] == "1"
    assert set(lines["Uid"].split()) == {uid}
    assert set(lines["Gid"].split()) == {gid}


@each_agent
def test_an_agent_has_limits(project: Project, name: str) -> None:
    """On processes and on memory, as its control group has them; the file's place depends on the kernel."""
    read = "cat /sys/fs/cgroup/{0}.max /sys/fs/cgroup/{1} 2>/dev/null || :"
    script = read.format("pids", "pids/pids.max") + "; " + read.format("memory", "memory/memory.limit_in_bytes")

    assert project(name).do("sh", "-c", script).lines == ["64", str(128 << 20)]


def test_health_is_seen_from_outside(project: Project) -> None:
    """The engine asks `mailbox health`, which asks the kernel whether somebody listens."""
    until(lambda: {project(name).facts(".State.Health.Status") for name in ("alice", "bob")} == {"healthy"})

    deaf = project("bob").do("mailbox", "health", "--as", "carol", check=False)
    assert (deaf.code, deaf.out) == (1, "carol: no listener\n")


def test_a_restart_of_everything_keeps_waiting_mail(project: Project) -> None:
    """All containers removed and made anew: what waited is handled, under its id."""
    engine = project("bob").engine
    engine.compose("stop", "bob")
    id = project("alice").do("mailbox", "send", "bob", "I waited", "--seal").out.strip()
    engine.compose("down")
    waiting = engine.call(f"{engine.run}_mail", ["ls", "/mail/bob/new"], AGENTS["bob"]).out
    engine.compose("up", "--detach", "--no-build")

    assert id in waiting
    project("bob").prints("alice asks (sealed) I waited")


def test_nobody_else_writes_in_the_name_of_who_has_a_key(project: Project) -> None:
    """Mail of carol's that says it is from alice becomes a dead letter: whose key is whose, bob knows."""
    id = project("carol").do("mailbox-send", "bob", "give me the keys", "--as", "alice").out.strip()
    until(lambda: id in project("bob").do("mailbox", "list", "--state", "dead", "--json").out)

    assert "give me the keys" not in project("bob").log()


def test_a_private_key_is_in_one_container_alone(project: Project) -> None:
    """Each finds its own under /run/secrets, and no other's anywhere; a container without keys finds none."""
    find = "find / -path /proc -prune -o -name '*.key' -print 2>/dev/null; :"
    found = {name: project(name).do("sh", "-c", find).lines for name in AGENTS}

    assert found == {"alice": ["/run/secrets/alice.key"], "bob": ["/run/secrets/bob.key"], "carol": []}


def test_a_stop_of_everything_is_graceful(project: Project) -> None:
    """Who listens ends with 0, in time: nobody has to be killed."""
    engine = project("bob").engine
    project("alice").prints("bob answers: 5 (sealed)")
    project("carol").prints("bob answers: 2")
    engine.compose("stop")
    ends = {name: project(name).facts(".State.ExitCode") for name in AGENTS}
    engine.compose("start")

    assert set(ends.values()) == {0}, ends


def test_on_memory_the_volume_is_bounded(engine: Engine) -> None:
    """scripts/compose.tmpfs.yaml: the same conversation, on a tmpfs with limits."""
    files = ("compose.yaml", "scripts/compose.tmpfs.yaml")
    try:
        engine.compose("up", "--detach", "--no-build", files=files, project=f"{engine.run}-memory")
        alice = Container(engine, engine.compose("ps", "--quiet", "alice", project=f"{engine.run}-memory").out.strip())
        alice.prints("bob answers: 5 (sealed)")
        size, files_left = (alice.do("df", *how, "/mail").lines[1].split()[1] for how in (["-k"], ["-i"]))
    finally:
        engine.compose("down", "--volumes", files=files, project=f"{engine.run}-memory")

    assert (size, files_left) == (str(64 << 10), "20000")


def test_keys_of_your_own_come_as_secrets(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """scripts/compose.secrets.yaml: as its first lines say, files that are their agent's."""
    registry = tmp_path / "registry"
    registry.mkdir()
    for name in ("alice", "bob"):
        own = PrivateKeys.generate(f"{tmp_path}/{name}.key", Address(name))
        (registry / f"{name}.pub").write_bytes(own.public.line())
        os.chown(tmp_path / f"{name}.key", *map(int, AGENTS[name].split(":")))
    monkeypatch.setenv("MAILBOX_SECRETS", str(tmp_path))
    files, project = ("compose.yaml", "scripts/compose.secrets.yaml"), f"{engine.run}-secrets"
    try:
        engine.compose("up", "--detach", "--no-build", files=files, project=project)
        alice = Container(engine, engine.compose("ps", "--quiet", "alice", project=project).out.strip())
        alice.prints("bob answers: 5 (sealed)")
        key = alice.do("mailbox", "keys", "show").out
    finally:
        engine.compose("down", "--volumes", files=files, project=project)

    assert key == (registry / "alice.pub").read_text()


def _seconds(began: str, ended: str) -> float:
    return (datetime.fromisoformat(ended[:26]) - datetime.fromisoformat(began[:26])).total_seconds()
