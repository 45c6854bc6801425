"""Producers and consumers in processes of their own, and kill -9 at random: what is promised holds."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox

MESSAGES = int(os.environ.get("FILEMAILBOX_STRESS", "12000"))
PRODUCERS, CONSUMERS = 3, 3
PATIENCE = 60 + MESSAGES / 100  # seconds

PRODUCER = """
import sys; from filemailbox import Mailbox
root, writer, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Mailbox("alice", root, durable=False) as box:
    for n in range(count):
        box.send("bob", [writer, n])
"""

# A line in the log, then the ack: what a killed consumer has logged and not acked comes again.
CONSUMER = """
import os, sys; from filemailbox import Mailbox
box = Mailbox("bob", sys.argv[1], durable=False, max_attempts=1000)
log = os.open(sys.argv[2], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
while True:
    message = box.receive(timeout=None)
    writer, n = message.body
    os.write(log, f"{message.id} {writer} {n} {message.attempt}\\n".encode())
    message.ack()
"""


def entries(log: Path) -> list[tuple[str, str, int, int]]:
    """What one consumer has logged: id, writer, number, attempt. A line that a kill cut off is not there."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [(id, writer, int(n), int(attempt)) for id, writer, n, attempt in map(str.split, lines)]


def waiting(root: Path) -> int:
    return sum(name.endswith(".json") for state in ("new", "cur", "later") for name in found(root / "bob" / state))


def found(folder: Path) -> list[str]:
    return [name for _, _, names in os.walk(folder) for name in names]


@pytest.mark.parametrize("kills", [False, True], ids=["all live", "kill -9"])
def test_nothing_is_lost_and_only_what_a_killed_consumer_held_comes_twice(
    fast: Path, start: Callable[..., Any], kills: bool
) -> None:
    """Each consumer sees the first attempts of a writer rise; what comes twice comes under the same id."""
    root, count, chance = fast / "mail", MESSAGES // PRODUCERS, random.Random(7)
    Mailbox.init("alice", root).close()
    Mailbox.init("bob", root).close()
    logs: list[Path] = []

    def consume() -> Any:
        logs.append(fast / f"consumer-{len(logs)}.log")
        return start(CONSUMER, root, logs[-1])

    consumers = [(consume(), logs[-1]) for _ in range(CONSUMERS)]
    producers = [start(PRODUCER, root, writer, count) for writer in range(PRODUCERS)]
    dead: list[Path] = []
    deadline = time.monotonic() + PATIENCE
    while any(producer.process.poll() is None for producer in producers) or waiting(root):
        assert time.monotonic() < deadline, f"{waiting(root)} messages are left"
        if kills and entries(logs[-1]):  # the youngest is at work, so all are
            victim = chance.randrange(CONSUMERS)
            consumer, its_log = consumers[victim]
            consumer.close()
            dead.append(its_log)
            consumers[victim] = consume(), logs[-1]
        time.sleep(0.01)
    assert (len(dead) > 0) == kills
    for consumer, its_log in consumers:
        consumer.close()
        dead.append(its_log)
    while waiting(root):  # a walk is not one step: what one took over from a dead one meanwhile was not seen
        consumer, its_log = consume(), logs[-1]
        while waiting(root):
            assert time.monotonic() < deadline, f"{waiting(root)} messages are left"
            time.sleep(0.01)
        consumer.close()
        dead.append(its_log)
    handled = {log: entries(log) for log in logs}
    last_words = {tuple(log[-1]) for path, log in handled.items() if log and path in dead}
    times = Counter(entry[:3] for log in handled.values() for entry in log)
    twice = [entry for log in handled.values() for entry in log if times[entry[:3]] > 1]

    assert sorted((writer, n) for _, writer, n in times) == [
        (str(w), n) for w in range(PRODUCERS) for n in range(count)
    ]
    assert sum(times.values()) - len(times) <= len(dead)
    assert len({(id, attempt) for id, _, _, attempt in twice}) == len(twice)
    for id in {id for id, *_ in twice}:
        *before, _ = sorted(entry[3] for entry in twice if entry[0] == id)
        assert {(id, attempt) for attempt in before} <= {(words[0], words[3]) for words in last_words}
    for log in handled.values():
        for writer in map(str, range(PRODUCERS)):
            first = [n for _, who, n, attempt in log if who == writer and attempt == 1]
            assert first == sorted(set(first))
    assert found(root / "bob/dead") == found(root / "bob/tmp") == []
