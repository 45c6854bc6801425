"""A thousand boxes; then a million messages, through one box, while its consumers are killed.

The boxes: four processes send to all of them by chance, four others take what is in them; each message comes once, to
the box that it was sent to, and looking after all boxes (gc) finds nothing left over.

The million: three writers, three consumers. A consumer is killed every other second and another one begins. Each writes
down what it got before it acks it, so what a killed one had in hand comes twice, under the same id, and nothing else
does; each gets the first attempts of each writer in order.
"""

import array
import os
import random
import time
from collections import Counter
from collections.abc import Iterator

from filemailbox import Mailbox
from filemailbox.format.filename import TIMESTAMP_LENGTH
from filemailbox.format.timestamp import to_nanoseconds
from filemailbox.ops import cleanup
from filemailbox.store.root import find_root

from . import apart
from .record import LeftOut, Record, Result

_PATIENCE = 3600.0
_ENTRY = 4  # numbers of 8 bytes: writer, number, attempt, the last 8 bytes of the id


def prove(record: Record, place: str, short: bool = False) -> None:
    """A thousand boxes and a million messages; *short*: a hundred, and thirty thousand."""
    boxes, messages = (100, 30_000) if short else (1_000, 1_000_000)
    record.do(
        "crowd",
        [
            (f"{boxes} boxes", lambda: many_boxes(f"{place}/boxes", boxes)),
            (f"{messages} messages", lambda: many_messages(f"{place}/messages", messages)),
        ],
    )


def many_boxes(place: str, count: int, each: int = 20) -> Result:
    """Send *each* times as many messages as there are boxes, and take them."""
    os.makedirs(place)
    root, result = f"{place}/mail", Result()
    addresses = [f"agent-{n}" for n in range(count)]
    for name in addresses:
        Mailbox.init(name, root).close()
    workers = 4
    sends = [apart.Apart(_scatter, root, addresses, worker, count * each // workers) for worker in range(workers)]
    with apart.running(*sends):
        if sum(each.wait() != 0 for each in sends):
            result.broken.append("a sender failed")
    takes = [apart.Apart(_gather, root, addresses[worker::workers], f"{place}/{worker}") for worker in range(workers)]
    with apart.running(*takes):
        if sum(each.wait() != 0 for each in takes):
            result.broken.append("a consumer failed")
    came: Counter[str] = Counter()
    for worker in range(workers):
        with open(f"{place}/{worker}") as file:
            came.update(line.strip() for line in file)
    wanted = {f"{worker} {n}" for worker in range(workers) for n in range(count * each // workers)}
    result.broken += [f"lost: {each}" for each in sorted(wanted - came.keys())]
    result.broken += [f"came {times} times: {each}" for each, times in came.items() if times > 1]
    found = find_root(root)
    for name in found.boxes():
        result.broken += [f"left over in {name}: {left.description}" for left in cleanup.find_garbage(found.box(name))]
    result.add(boxes=count, messages=len(came))
    return result


def _scatter(root: str, addresses: list[str], worker: int, count: int) -> None:
    chance = random.Random(worker)
    with Mailbox("nobody", root, durable=False) as box:
        for n in range(count):
            to = chance.choice(addresses)
            box.send(to, [to, f"{worker} {n}"])


def _gather(root: str, addresses: list[str], log: str) -> None:
    with open(log, "w") as file:
        for name in addresses:
            with Mailbox(name, root) as box:
                while (message := box.receive()) is not None:
                    to, token = message.body
                    assert to == name, f"{token} was sent to {to} and came to {name}"
                    file.write(f"{token}\n")
                    message.ack()


def many_messages(place: str, count: int, writers: int = 3, consumers: int = 3) -> Result:
    """Let *count* messages go through one box, and kill consumers on the way."""
    os.makedirs(place)
    if os.statvfs(place).f_bavail * os.statvfs(place).f_frsize < count * 5_000:
        raise LeftOut(f"{place} has no room for {count} messages")
    root, result, chance = f"{place}/mail", Result(), random.Random(1)
    Mailbox.init("bob", root).close()
    per = count // writers
    sending = [apart.Apart(_pour, root, writer, per) for writer in range(writers)]
    logs: list[str] = []

    def begin() -> apart.Apart:
        logs.append(f"{place}/log-{len(logs)}")
        return apart.Apart(_drain, root, logs[-1])

    taking = [begin() for _ in range(consumers)]
    deadline, kills = time.monotonic() + _PATIENCE, 0
    try:
        while not all(map(apart.Apart.over, sending)) or _left(root):
            if time.monotonic() > deadline:
                result.broken.append(f"it was not done after {_PATIENCE:g} s")
                break
            time.sleep(2)
            if not all(map(apart.Apart.over, sending)):
                victim = chance.randrange(consumers)
                taking[victim].kill()
                taking[victim], kills = begin(), kills + 1
    finally:
        for each in (*sending, *taking):
            each.kill()
    result.broken += _count(logs, writers, per, kills)
    result.add(messages=writers * per, kills_of_consumers=kills)
    return result


def _pour(root: str, writer: int, count: int) -> None:
    with Mailbox("alice", root, durable=False) as box:
        for first in range(0, count, 500):
            box.send_many("bob", ([writer, n] for n in range(first, min(first + 500, count))))


def _drain(root: str, log: str) -> None:
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    box = Mailbox("bob", root, durable=False, max_attempts=1000)
    while True:
        message = box.receive(timeout=None)
        assert message is not None
        writer, n = message.body
        stamp = to_nanoseconds(message.id[:TIMESTAMP_LENGTH])
        os.write(out, array.array("q", (writer, n, message.attempt, stamp)).tobytes())
        message.ack()


def _left(root: str) -> bool:
    """Whether any mail is left; asked in the order in which it moves."""
    for state in ("new", "cur", "later"):
        for _, _, files in os.walk(f"{root}/bob/{state}"):
            if any(name.endswith(".json") for name in files):
                return True
    return False


def _count(logs: list[str], writers: int, per: int, kills: int) -> Iterator[str]:
    times = [array.array("B", bytes(per)) for _ in range(writers)]
    stamps: dict[tuple[int, int], int] = {}
    again = 0
    for log in logs:
        with open(log, "rb") as file:
            data = file.read()
        entries = array.array("q", data[: len(data) // (8 * _ENTRY) * 8 * _ENTRY])
        last = [-1] * writers
        for at in range(0, len(entries), _ENTRY):
            writer, n, attempt, stamp = entries[at : at + _ENTRY]
            times[writer][n] += 1
            if attempt == 1:
                if n <= last[writer]:
                    yield f"order: {n} of the writer {writer} came after {last[writer]}"
                last[writer] = n
            elif times[writer][n] > 1 or attempt > 1:
                stamps.setdefault((writer, n), stamp)
                if stamps[writer, n] != stamp:
                    yield f"two ids: {n} of the writer {writer}"
    for writer in range(writers):
        for n in range(per):
            if times[writer][n] == 0:
                yield f"lost: {n} of the writer {writer}"
            again += max(0, times[writer][n] - 1)
    if again > kills:
        yield f"{again} came again, and only {kills} consumers were killed, each with one message in hand"
