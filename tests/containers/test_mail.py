"""Mail between containers that share nothing but a volume."""

import json
from collections.abc import Callable
from datetime import datetime
from statistics import median

import pytest

from containers.engine import OWNERS, Container, Engine, until

Tell = Callable[[str], None]
ALICE, BOB, MALLORY = OWNERS["alice"], OWNERS["bob"], OWNERS["mallory"]
SLEEP = ["sleep", "100000"]


def test_mail_crosses_between_containers_in_both_directions(engine: Engine) -> None:
    """A question and its answer, by two containers with two uids and no network."""
    volume = engine.volume()
    engine.start(volume, ["mailbox", "watch", "--as", "bob", "--reply", "--", "tr", "a-z", "A-Z"], BOB)

    answer = engine.call(volume, ["mailbox", "request", "bob", "who are you?", "--as", "alice"], ALICE)

    assert answer.out == "WHO ARE YOU?\n"


def test_a_container_that_has_only_sh_sends_and_receives(engine: Engine) -> None:
    """busybox: printf and mv in one direction, cat and rm in the other."""
    volume = engine.volume()
    drop = """cd /mail/bob && printf '{"from":"alice","body":"by hand"}' > tmp/x && mv tmp/x new/x.json"""
    engine.call(volume, ["sh", "-c", f"umask 027; {drop}"], ALICE, image=engine.busybox)
    got = engine.call(volume, ["mailbox", "receive", "--as", "bob", "--body"], BOB)
    engine.call(volume, ["mailbox", "send", "alice", "and back", "--as", "bob"], BOB)
    back = engine.call(volume, ["sh", "-c", "cat /mail/alice/new/*.json"], ALICE, image=engine.busybox)

    assert got.out == "by hand\n"
    assert json.loads(back.out)["body"] == "and back"


HEAR = """
import time
from filemailbox import Mailbox
bob = Mailbox("bob", poll_interval=50)  # only the doorbell can wake it: receive() does not watch the folder
print("listening", flush=True)
while True:
    with bob.receive(timeout=None) as message:
        print(message.type, time.monotonic_ns() - message.body, flush=True)
"""
RING = """
import sys, time
from filemailbox import Mailbox
alice = Mailbox(sys.argv[1], durable=False)
for _ in range(100):
    alice.send("bob", time.monotonic_ns(), type=sys.argv[2])
    time.sleep(0.003)
"""


def test_the_doorbell_wakes_across_containers(engine: Engine, tell: Tell) -> None:
    """From just before a send in one container to the receiver in another, beside a sender in the receiver's own."""
    volume = engine.volume("size=16m")
    bob = engine.start(volume, ["python3", "-c", HEAR], BOB)
    alice = engine.start(volume, SLEEP, ALICE)
    bob.prints("listening")
    for turn in range(1, 6):  # in turns, so that both see the same machine
        alice.do("python3", "-c", RING, "alice", "across")
        bob.do("python3", "-c", RING, "bob", "within")
        bob.prints("within", turn * 100)
    heard = [line.split() for line in bob.log().splitlines()[1:]]
    across, within = ([int(ns) / 1e6 for kind, ns in heard if kind == which] for which in ("across", "within"))

    assert (len(across), len(within)) == (500, 500)
    ratio = median(across) / median(within)
    tell(f"{ratio:.2f} × of within one ({median(across):.2f} and {median(within):.2f} ms, medians of 500)")


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param("ls /mail/bob/new", id="list what waits"),
        pytest.param("ls /mail/bob/cur", id="list what is held"),
        pytest.param("cat /mail/bob/new/$name", id="read"),
        pytest.param("stat -c %s /mail/bob/cur/*", id="look at who holds it"),
        pytest.param("rm -f /mail/bob/new/$name", id="delete"),
        pytest.param("mv /mail/bob/new/$name /mail/bob/tmp/mine", id="move away"),
        pytest.param("echo forged > /mail/bob/new/$name", id="overwrite"),
        pytest.param("echo forged > /mail/bob/tmp/mine; mv -f /mail/bob/tmp/mine /mail/bob/new/$name", id="replace"),
        pytest.param("ln /mail/bob/new/$name /mail/bob/tmp/mine", id="link"),
        pytest.param("chmod 777 /mail/bob/new", id="open the box"),
        pytest.param("mv /mail/bob/new /mail/bob/old", id="put another folder in its place"),
        pytest.param("mv /mail/bob /mail/old", id="put another box in its place"),
        pytest.param("rm -f /mail/.mailbox", id="break the volume"),
    ],
)
def test_another_container_can_not(engine: Engine, attempt: str) -> None:
    """Neither list, read, delete nor overwrite: it knows the file's name, and the mail comes through as it was sent."""
    volume = engine.volume()
    engine.call(volume, ["mailbox", "send", "bob", "for bob alone", "--as", "alice"], ALICE)
    name = engine.call(volume, ["ls", "/mail/bob/new"], BOB).out.strip()

    tried = engine.call(volume, ["sh", "-c", attempt], MALLORY, "--env", f"name={name}", check=False)
    got = engine.call(volume, ["mailbox", "receive", "--as", "bob", "--body"], BOB)

    assert tried.code != 0
    assert "for bob" not in tried.out
    assert got.out == "for bob alone\n"


def test_a_killed_consumer_leaves_its_mail_to_the_other_replica(engine: Engine, tell: Tell) -> None:
    """`docker kill` with a message in hand: the other one takes it over, within a look, as the second attempt."""
    volume = engine.volume()
    handler = 'echo "attempt $MAILBOX_ATTEMPT at $MAILBOX_ID" >&2; sleep 100000'
    replicas = [engine.start(volume, ["mailbox", "watch", "--as", "bob", "--", "sh", "-c", handler], BOB) for _ in "ab"]
    until(lambda: engine.call(volume, ["mailbox", "health", "--as", "bob"], BOB, check=False).out.startswith("bob: 2 "))

    id = engine.call(volume, ["mailbox", "send", "bob", "hold this", "--as", "alice"], ALICE).out.strip()
    until(lambda: any(f"attempt 1 at {id}" in each.log() for each in replicas))
    held, other = sorted(replicas, key=lambda each: id not in each.log())
    engine.docker("kill", held.id)

    other.prints(f"attempt 2 at {id}")
    assert f"attempt 1 at {id}" not in other.log()
    taken = next(line for line in _stamped(other) if id in line).split()[0]
    killed = held.facts(".State.FinishedAt")
    tell(f"taken over {1000 * _seconds(killed, taken):.0f} ms after the death (a look is every 250 ms)")


PYTHON = """
import sys, time
from filemailbox import Mailbox
box = Mailbox("bob")
@box.on()
def slow(message):
    print("begun", flush=True)
    time.sleep(2)
    print("ended", flush=True)
box.run()
"""


@pytest.mark.parametrize(
    ("options", "command"),
    [
        pytest.param([], ["mailbox", "watch", "--", "sh", "-c", "echo begun >&2; sleep 2; echo ended >&2"], id="watch"),
        pytest.param(
            ["--init"],
            ["mailbox", "watch", "--", "sh", "-c", "echo begun >&2; sleep 2; echo ended >&2"],
            id="watch under init",
        ),
        pytest.param([], ["python3", "-c", PYTHON], id="Python"),
    ],
)
def test_docker_stop_is_graceful(engine: Engine, options: list[str], command: list[str]) -> None:
    """Also as process 1: what is in hand is finished, what waits goes on waiting, the exit status is 0."""
    volume = engine.volume()
    engine.call(volume, ["mailbox", "send", "bob", "--lines", "--as", "alice"], ALICE, stdin="one\ntwo\n")
    bob = engine.start(volume, command, BOB, "--env", "MAILBOX_AGENT=bob", *options)
    bob.prints("begun")

    assert bob.stop() == 0
    assert [line for line in bob.log().splitlines() if not line.startswith("mailbox: listening")] == ["begun", "ended"]
    waiting = engine.call(volume, ["mailbox", "receive", "--as", "bob", "--body", "-n", "9"], BOB)
    assert waiting.out == "two\n"


@pytest.mark.parametrize(
    "limit", [pytest.param("size=400k", id="no space"), pytest.param("size=8m,nr_inodes=120", id="no inodes")]
)
def test_a_full_volume_is_told_loses_nothing_and_can_be_drained(engine: Engine, limit: str, tell: Tell) -> None:
    """The sender is told by exit 75; each message that was accepted comes once; then there is room again."""
    volume = engine.volume(limit)
    script = 'n=0; while mailbox send bob "message $n" --as alice; do n=$((n + 1)); done'
    flood = engine.call(volume, ["sh", "-c", f"{script}; mailbox send bob refused --as alice"], ALICE, check=False)
    drained = engine.call(volume, ["mailbox", "watch", "--as", "bob", "--drain", "--json"], BOB)
    engine.call(volume, ["mailbox", "send", "bob", "room again", "--as", "alice"], ALICE)
    again = engine.call(volume, ["mailbox", "receive", "--as", "bob", "--body"], BOB)

    got = [json.loads(line) for line in drained.lines]
    assert flood.code == 75
    assert "the volume is full; nothing was delivered" in flood.err
    assert [message["id"] for message in got] == flood.lines
    assert [message["body"] for message in got] == [f"message {number}" for number in range(len(got))]
    assert again.out == "room again\n"
    assert len(got) > 10
    tell(f"{len(got)} messages, then: {flood.err.splitlines()[0]}")


def _stamped(container: Container) -> list[str]:
    said = container.engine.docker("logs", "--timestamps", container.id)
    return [*said.lines, *said.err.splitlines()]


def _seconds(began: str, ended: str) -> float:
    return (datetime.fromisoformat(ended[:26]) - datetime.fromisoformat(began[:26])).total_seconds()
