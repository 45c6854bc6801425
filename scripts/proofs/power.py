"""The power is cut at random moments while messages are sent: each send that had returned is there, and whole.

Four programs are at work: one sends message by message, one by three and by twelve (send_many flushes them in two
ways), one from sixteen threads at once (which share their flushes), one claims what comes, so that messages are renamed
again after their flush. They write down, on another disk,
what send() returned. Then the power goes, the disk is mounted again, its journal replayed, and each message that was
written down is looked for: under its id, in new/ or where a claim put it, with each byte of what was sent. Then a
consumer takes all there is, and meets no error, whatever half messages the cut has left.

The control sends with durable=False in the same way, and must lose some: else the cut cuts nothing.
"""

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from filemailbox import Mailbox, MailboxError

from . import apart, disks, volume
from .record import Record, Result

_THREADS: Final = 16


def prove(record: Record, place: str, rounds: int = 20, only: list[str] | None = None, longest: float = 1.0) -> None:
    """Cut the power *rounds* times on each disk, after at most *longest* seconds; less often for the control."""
    units = []
    for name in only or list(disks.KINDS):
        units.append((name, partial(cuts, disks.KINDS[name], place, rounds, longest)))
        units.append((f"{name}, control", partial(cuts, disks.KINDS[name], place, max(2, rounds // 4), longest, False)))
    record.do("power", units)


def cuts(kind: disks.Kind, place: str, rounds: int, longest: float, durable: bool = True) -> Result:
    """The power goes *rounds* times on one disk."""
    result, chance = Result(), random.Random(f"{kind.name} {durable}")
    while result.counts.get("cuts", 0) < rounds:
        with disks.disk(kind, place) as disk:  # another one where it was damaged
            try:
                while result.counts.get("cuts", 0) < rounds:
                    _one(disk, place, result, chance.uniform(0.05, longest), durable)
            except disks.Damaged as error:
                result.add(cuts=1, damaged_disks=1)
                result.broken.append(str(error))
    if kind.known is not None:
        result.notes.append(kind.known)  # what is broken is told as broken all the same
    if not durable and not result.counts.get("lost_by_the_control"):
        result.broken.append("the control lost nothing, though it never flushed: this cut proves nothing")
    return result


def _one(disk: disks.Disk, place: str, result: Result, after: float, durable: bool) -> None:
    root, logs = f"{disk.path}/mail", [f"{place}/{name}.log" for name in ("one", "many", "threads")]
    shutil.rmtree(root, ignore_errors=True)
    for name in ("alice", "bob"):
        Mailbox.init(name, root).close()
    os.sync()
    for log in logs:
        with open(log, "wb"):
            pass
    agents = [apart.Apart(_send, root, logs[0], durable), apart.Apart(_send_many, root, logs[1], durable)]
    agents += [apart.Apart(_send_at_once, root, logs[2], durable)]
    agents += [apart.Apart(_claim, root)] if durable else []
    with apart.running(*agents):
        deadline = time.monotonic() + 30
        while not all(map(os.path.getsize, logs)) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(after)
        sent = _read(logs)  # what had returned before: on a machine without power nothing returns after it
        disk.cut()
    disk.again()
    try:
        lost = _missing(root, sent)
    except OSError as error:
        raise disks.Damaged(f"it is damaged: {error}") from error
    result.add(cuts=1)
    if durable:
        result.add(durable_sends=len(sent))
        result.broken += [f"{id} had been sent, and is {how}" for id, how in lost.items()]
    else:
        result.add(sends_of_the_control=len(sent), lost_by_the_control=len(lost))
    result.broken += _drain(root, {id for id, _ in sent} - lost.keys())


def _send(root: str, log: str, durable: bool) -> None:
    out, chance = os.open(log, os.O_WRONLY | os.O_APPEND), random.Random()
    with Mailbox("alice", root, durable=durable) as box:
        while True:
            body: dict[str, object] = {"fill": "x" * chance.choice((10, 500, 5_000, 50_000))}
            _note(out, _sent(lambda: [box.send("bob", body)]), [body])  # noqa: B023  # called at once


def _send_many(root: str, log: str, durable: bool) -> None:
    out, chance = os.open(log, os.O_WRONLY | os.O_APPEND), random.Random()
    with Mailbox("alice", root, durable=durable) as box:
        while True:
            bodies = [{"fill": "y" * chance.randrange(2_000), "n": n} for n in range(chance.choice((3, 12)))]
            _note(out, _sent(lambda: box.send_many("bob", bodies)), bodies)  # noqa: B023


def _send_at_once(root: str, log: str, durable: bool) -> None:
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    with Mailbox("alice", root, durable=durable) as box, ThreadPoolExecutor(_THREADS) as pool:

        def send(thread: int) -> None:
            chance = random.Random()
            while True:
                body: dict[str, object] = {"fill": "z" * chance.randrange(5_000), "thread": thread}
                _note(out, _sent(lambda: [box.send("bob", body)]), [body])  # noqa: B023

        list(pool.map(send, range(_THREADS)))


def _sent(send: Callable[[], list[str]]) -> list[str]:
    try:
        return send()
    except MailboxError:
        os._exit(0)  # the power is gone


def _note(out: int, ids: list[str], bodies: list[dict[str, object]]) -> None:
    lines = [f"{id} {_digest(body)}\n" for id, body in zip(ids, bodies, strict=True)]
    os.write(out, "".join(lines).encode())


def _digest(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _claim(root: str) -> None:
    """Claim, and put off or hold; but settle nothing, so that all must still be there."""
    box = Mailbox("bob", root)
    try:
        while True:
            message = box.receive(timeout=1)
            if message is not None and message.id.endswith(("0", "1", "2", "3")):
                message.retry(delay=3600)
    except MailboxError:
        os._exit(0)


def _read(logs: list[str]) -> list[tuple[str, str]]:
    sent = []
    for log in logs:
        with open(log) as file:
            lines = [line for line in file if line.endswith("\n")]
        sent += [(id, digest) for id, digest in map(str.split, lines)]
    return sent


def _missing(root: str, sent: list[tuple[str, str]]) -> dict[str, str]:
    """Which of the messages that were sent are not there, or not whole."""
    there = {each.id: each for each in volume.letters(root)}
    lost = {}
    for id, digest in sent:
        letter = there.get(id)
        if letter is None:
            lost[id] = "nowhere"
        elif letter.members is None or _digest(letter.members.get("body")) != digest:
            with open(letter.path, "rb") as file:
                data = file.read()
            zeros = data.count(0)
            lost[id] = f"not whole, in {letter.state}/: {len(data)} bytes, {zeros} of them zeros: {letter.path}"
    return lost


def _drain(root: str, whole: set[str]) -> Iterator[str]:
    """The next start: all that is whole comes, and nothing else stops it."""
    came = set()
    try:
        with Mailbox("bob", root, durable=False) as box:
            while (message := box.receive()) is not None:
                came.add(message.id)
                message.ack()
    except (MailboxError, OSError) as error:
        yield f"after the cut a consumer failed: {type(error).__name__}: {error}"
    deferred = {each.id for each in volume.letters(root, "later")}
    for id in sorted(whole - came - deferred):
        yield f"{id} is whole, and did not come"
