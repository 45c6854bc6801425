"""Shared documents: no update is lost, none is made twice, and what put() returned is there.

counter   Eight writers add one to a counter, each some hundred or thousand times: by update(), by a JSON Merge Patch
          with a test, by a JSON Patch with a test, and by hand (write, ln), as FORMAT.md says. Now and then one of
          them is killed with SIGKILL and begins again. Then the history is read from outside: each version adds one to
          the one before it, each update that was said to be made is in it once, and the counter is their number.
control   The same with put() and no if_version: a read, a change, a write. It must lose updates.
kills     SIGKILL at each system call of a change, of the making and of the removing of a document.
faults    Each system call fails in turn. What comes out is an error of ours; the next try works.
power     The power is cut at random moments while three programs change documents. Each put() that had returned is in
          the history, and the history is whole. The control does not flush, and must lose some.
full      A volume without room: nothing is lost, all can be read, and when there is room again it goes on.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Final

from filemailbox import ConflictError, DiskFullError, DocumentBrokenError, Mailbox, MailboxError
from filemailbox.documents import history as histories
from filemailbox.documents.document import Document
from filemailbox.documents.version import digest, filename, first_base, number_of
from filemailbox.ops import cleanup
from filemailbox.store import root as roots

from . import apart, disks, stepper, trial
from .record import LeftOut, Record, Result

WRITERS: Final = 8
WAYS: Final = ("update", "merge", "patch", "by hand")
_KILL_EVERY: Final = 0.25  # seconds
_PATIENCE: Final = 600.0


def prove(record: Record, place: str, short: bool = False, rounds: int | None = None) -> None:
    """Do all of it; the short form in fewer rounds."""
    trial.warm()
    each = 100 if short else 2000
    units: list[tuple[str, Callable[[], Result]]] = [
        *((f"counter, {way}", partial(counter, place, way, each)) for way in WAYS),
        ("counter, all ways at once", partial(counter, place, None, each)),
        ("counter, control", partial(control, place, min(each, 200))),
        *((f"kills, {name}", partial(kills, place, deed, 3 if short else 1)) for name, deed in DEEDS.items()),
    ]
    chosen = ("EIO", "ENOSPC", "EACCES", "short") if short else tuple(stepper.FAULTS)
    units += [
        (f"faults, {name}, {fault}", partial(faults, place, deed, stepper.FAULTS[fault]))
        for name, deed in DEEDS.items()
        for fault in chosen
    ]
    for name, kind in disks.KINDS.items():
        if kind.known is None:
            units.append((f"power, {name}", partial(cuts, kind, place, rounds or (2 if short else 20))))
    for name in ("ext4", "btrfs"):
        units.append((f"power, {name}, control", partial(cuts, disks.KINDS[name], place, 2, False)))
    units.append(("full", partial(full, place)))
    try:
        record.do("documents", units)
    finally:
        shutil.rmtree(f"{place}/mail", ignore_errors=True)


# Counter


def counter(place: str, way: str | None, each: int) -> Result:
    """Eight writers, *each* so many updates, in one way or in all of them."""
    root, logs = _ready(place), [f"{place}/log.{number}" for number in range(WRITERS)]
    result, chance = Result(), random.Random(way)
    ways = [way or WAYS[number % len(WAYS)] for number in range(WRITERS)]
    for log in logs:
        open(log, "wb").close()
    running = {number: apart.Apart(_count, root, logs[number], ways[number], each) for number in range(WRITERS)}
    began = [0] * WRITERS  # how much each log held when its writer began
    deadline, kill_at, killed = time.monotonic() + _PATIENCE, time.monotonic() + _KILL_EVERY, 0
    try:
        while running:
            if time.monotonic() > deadline:
                result.broken.append(f"{len(running)} writers are not done after {_PATIENCE:.0f} s")
                break
            time.sleep(0.005)
            for number, writer in list(running.items()):
                try:
                    if writer.over():
                        del running[number]
                except RuntimeError as error:
                    result.broken.append(f"a writer failed: {error}")
                    del running[number]
            # A writer that has done nothing yet lives on. It may be waiting for a version whose writer was killed, and
            # that takes longer than the time between two kills: it would never get on.
            victims = [number for number in running if os.path.getsize(logs[number]) > began[number]]
            if victims and time.monotonic() >= kill_at:
                number = chance.choice(victims)
                running[number].kill()
                killed += 1
                kill_at, began[number] = time.monotonic() + _KILL_EVERY, os.path.getsize(logs[number])
                running[number] = apart.Apart(_count, root, logs[number], ways[number], each)
    finally:
        for writer in running.values():
            writer.kill()
    said = [token for log in logs for token in _lines(log)]
    made = [version["body"]["by"] for version in _history(root, result)[1:]]
    result.add(updates=len(made), kills=killed)
    result.broken += [f"the update {token} was made {made.count(token)} times" for token in _doubles(made)]
    lost = set(said) - set(made)
    result.broken += [f"the update {token} was said to be made, and is lost" for token in sorted(lost)]
    if not result.broken and len(said) < WRITERS * each:
        result.broken.append(f"only {len(said)} of {WRITERS * each} updates were made")
    return result


def control(place: str, each: int) -> Result:
    """Read, change, write, and no if_version: updates must be lost."""
    root, logs = _ready(place), [f"{place}/log.{number}" for number in range(WRITERS)]
    result = Result()
    for log in logs:
        open(log, "wb").close()
    with apart.running(*(writers := [apart.Apart(_count, root, log, "control", each) for log in logs])):
        for writer in writers:
            writer.wait()
    with Mailbox("w", root) as box:
        counted = box.document("counter").get().body["n"]
    said = sum(len(_lines(log)) for log in logs)
    result.add(updates_without_if_version=said, lost_without_if_version=said - counted)
    if counted >= said:
        result.broken.append("the control lost nothing, though it never looks: this proves nothing")
    return result


def _ready(place: str) -> str:
    root = f"{place}/mail"
    shutil.rmtree(root, ignore_errors=True)
    with Mailbox.init("w", root) as box:
        box.document("counter").create({"n": 0, "by": ""}, keep=1_000_000)
    return root


def _count(root: str, log: str, way: str, each: int) -> None:
    """One writer: go on until so many updates were said to be made. Each has a token that is used once."""
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    with Mailbox("w", root) as box:
        document: Document[dict[str, Any]] = box.document("counter")
        for _ in range(len(_lines(log)), each):
            token = os.urandom(8).hex()
            _WAYS[way](document, token)
            os.write(out, f"{token}\n".encode())


def _by_update(document: Document[dict[str, Any]], token: str) -> None:
    document.update(lambda body: {"n": body["n"] + 1, "by": token}, attempts=100_000)


def _by_merge(document: Document[dict[str, Any]], token: str) -> None:
    while True:
        n = document.get().body["n"]
        try:
            document.merge({"n": n + 1, "by": token}, test={"/n": n}, attempts=100_000)
        except ConflictError:
            continue
        return


def _by_patch(document: Document[dict[str, Any]], token: str) -> None:
    while True:
        n = document.get().body["n"]
        operations = [
            {"op": "test", "path": "/n", "value": n},
            {"op": "replace", "path": "/n", "value": n + 1},
            {"op": "replace", "path": "/by", "value": token},
        ]
        try:
            document.patch(operations, attempts=100_000)
        except ConflictError:
            continue
        return


def _by_hand(document: Document[dict[str, Any]], token: str) -> None:
    """As FORMAT.md says, with nothing of ours: names that follow, a draft, a link."""
    home = f"{document.root.path}/.documents/{document.name}"
    number = _hand.get(home, 1)
    while True:
        while os.path.exists(f"{home}/versions/{number + 1:010d}.json"):
            number += 1
        with open(f"{home}/versions/{number:010d}.json", "rb") as file:
            data = file.read()
        base = hashlib.sha256(data).hexdigest()
        n = json.loads(data)["body"]["n"] + 1
        line = f'{{"version":{number + 1},"by":"hand","at":"2026-11-24T01:45:30.123456Z","base":"{base}",'
        draft = f"{home}/drafts/{os.urandom(12).hex()}"
        with open(draft, "w") as out:
            out.write(f'{line}"body":{{"n":{n},"by":"{token}"}}}}\n')
            out.flush()
            try:
                os.link(draft, f"{home}/versions/{number + 1:010d}.json")
                os.fsync(out.fileno())
            except FileExistsError:
                continue
            finally:
                os.unlink(draft)
        _hand[home] = number + 1
        return


def _without_looking(document: Document[dict[str, Any]], token: str) -> None:
    document.put({"n": document.get().body["n"] + 1, "by": token})


_hand: dict[str, int] = {}
_WAYS: Final[dict[str, Callable[[Document[dict[str, Any]], str], None]]] = {
    "update": _by_update,
    "merge": _by_merge,
    "patch": _by_patch,
    "by hand": _by_hand,
    "control": _without_looking,
}


def _history(root: str, result: Result, name: str = "counter", counts: bool = True) -> list[dict[str, Any]]:
    """All versions, read from outside; what is wrong with them is broken."""
    folder = f"{root}/.documents/{name}/versions"
    numbers = sorted(number for each in os.listdir(folder) if (number := number_of(each)))
    found: list[dict[str, Any]] = []
    base = first_base(name)
    for expected, number in enumerate(numbers, 1):
        with open(f"{folder}/{filename(number)}", "rb") as file:
            data = file.read()
        try:
            version = json.loads(data)
        except ValueError:
            version = {}
        if number != expected or version.get("version") != number or version.get("base") != base:
            result.broken.append(f"version {number} does not follow the one before it")
            break
        if counts and version["body"]["n"] != number - 1:
            result.broken.append(f"version {number} has the count {version['body']['n']}")
        found.append(version)
        base = digest(data)
    return found


def _lines(log: str) -> list[str]:
    with open(log) as file:
        return [line.rstrip("\n") for line in file if line.endswith("\n")]


def _doubles(tokens: list[str]) -> list[str]:
    seen: set[str] = set()
    return sorted({token for token in tokens if token in seen or seen.add(token)})  # type: ignore[func-returns-value]


# Kills and faults


class Deed:
    """One thing that is done to documents, on a fresh volume."""

    say: Callable[[str], None]
    may_be_gone: ClassVar[bool] = False  # whether there need be a document after it

    def __init__(self, path: str) -> None:
        self.path = path

    def ready(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.box = Mailbox.init("alice", self.path)
        self.document: Document[Any] = self.box.document("team/plan")
        self.prepare()

    def prepare(self) -> None:
        self.document.create({"n": 0})
        for number in range(1, 4):
            self.document.put({"n": number})

    def act(self) -> None:
        raise NotImplementedError

    def again(self) -> None:
        self.act()

    def judge(self, outcome: stepper.Outcome) -> Iterator[str]:
        """What is wrong afterwards."""
        with Mailbox("bob", self.path) as box:
            document: Document[Any] = box.document("team/plan")
            try:
                seen = document.get()
            except MailboxError as error:
                if not self.may_be_gone:
                    yield f"nobody can read it: {error}"
                return
            history = [each.body["n"] for each in document.history()]
            if history != sorted(history, reverse=True) or len(set(history)) != len(history):
                yield f"the history is {history}"
            yield from self.right(outcome, seen.body["n"])
            after = document.update(lambda body: {"n": body["n"] + 1})
            if after.version != seen.version + 1:
                yield f"after version {seen.version} came {after.version}"

    def right(self, outcome: stepper.Outcome, n: int) -> Iterator[str]:
        """What is wrong with the current body."""
        said = 4 if outcome.done else 3
        most = 3 + 2 * ("again" in outcome.said) + (not outcome.killed or not outcome.done)
        if not said <= n <= max(said, most):
            yield f"the count is {n}, expected {said} to {most}"


class Put(Deed):
    """A new version; the one before is ours."""

    def act(self) -> None:
        self.document.update(lambda body: {"n": body["n"] + 1})


class PutCold(Deed):
    """By a process that has seen nothing yet, on a version that may not be flushed."""

    def prepare(self) -> None:
        super().prepare()
        self.document.close()
        home = f"{self.path}/.documents/team/plan"
        os.link(f"{home}/versions/{filename(4)}", f"{home}/drafts/killed")

    def act(self) -> None:
        Mailbox("alice", self.path).document("team/plan").update(lambda body: {"n": body["n"] + 1})


class PutOverAnObstacle(Deed):
    """The next number is taken by what is no version."""

    def prepare(self) -> None:
        super().prepare()
        with open(f"{self.path}/.documents/team/plan/versions/{filename(5)}", "w") as file:
            file.write("no version\n")

    act = Put.act


class PutAndTrim(Deed):
    """Old versions go, behind a checkpoint."""

    def prepare(self) -> None:
        self.document.create({"n": 0}, keep=2)
        for number in range(1, 15):
            self.document.put({"n": number})

    act = Put.act

    def right(self, outcome: stepper.Outcome, n: int) -> Iterator[str]:
        if not 14 + outcome.done <= n <= 17:
            yield f"the count is {n}"


class Create(Deed):
    """A document is made, and a folder for it."""

    may_be_gone = True

    def prepare(self) -> None:
        pass

    def act(self) -> None:
        try:
            self.document.create({"n": 0})
        except ConflictError:  # the try before did it
            if not self.document.get().body == {"n": 0}:
                raise

    def right(self, _: stepper.Outcome, n: int) -> Iterator[str]:
        if n != 0:
            yield f"the count is {n}"

    def judge(self, outcome: stepper.Outcome) -> Iterator[str]:
        if outcome.done and not os.path.isdir(f"{self.path}/.documents/team/plan/versions"):
            yield "it was made, and is not there"
        yield from super().judge(outcome)


class Remove(Deed):
    """A document is removed."""

    may_be_gone = True

    def act(self) -> None:
        with contextlib.suppress(LookupError):  # the try before did it
            self.document.remove()

    def right(self, outcome: stepper.Outcome, _: int) -> Iterator[str]:
        if outcome.done or "again" in outcome.said:
            yield "it was removed, and is there"

    def judge(self, outcome: stepper.Outcome) -> Iterator[str]:
        kept = [each for each, _, files in os.walk(f"{self.path}/.documents") if filename(4) in files]
        if len(kept) != 1:
            yield f"its newest version lies in {len(kept)} places"
        yield from super().judge(outcome)


DEEDS: Final[dict[str, Callable[[str], Deed]]] = {
    "put": Put,
    "put-cold": PutCold,
    "put-over-an-obstacle": PutOverAnObstacle,
    "put-and-trim": PutAndTrim,
    "create": Create,
    "remove": Remove,
}


def kills(place: str, make: Callable[[str], Deed], every: int = 1) -> Result:
    """Kill at each call of one deed, until it is done before it is struck."""
    return _strike(place, make, None, every)


def faults(place: str, make: Callable[[str], Deed], fault: stepper.Fault) -> Result:
    """Let *fault* befall the first call on the volume, the second …, until there is none left."""
    return _strike(place, make, fault, 1)


def _strike(place: str, make: Callable[[str], Deed], fault: stepper.Fault | None, every: int) -> Result:
    if why := stepper.possible():
        raise LeftOut(why)
    result, at, path = Result(), 1, f"{place}/mail"
    while True:
        deed = make(path)
        with _hasty():
            outcome = stepper.step(deed, at, fault, path if fault else None)
            wrong = [*_said(outcome), *deed.judge(outcome), *_left_over(path)]
        what = f"{fault} at" if fault else "killed before"
        result.broken += [f"{what} call {at}, {outcome.struck}: {each}" for each in wrong]
        if outcome.struck is None:
            return result
        if fault is None:
            result.add(kills=1)
        else:
            result.add(faults=1)
        at += every


@contextlib.contextmanager
def _hasty() -> Iterator[None]:
    """Nobody waits for a writer that was killed, nor for a file that may change."""
    before = histories.UNCHANGED, histories._PATIENCE
    histories.UNCHANGED, histories._PATIENCE = 0.0, 0.01  # type: ignore[misc]
    try:
        yield
    finally:
        histories.UNCHANGED, histories._PATIENCE = before  # type: ignore[misc]


def _said(outcome: stepper.Outcome) -> Iterator[str]:
    for line in outcome.said:
        word, _, rest = line.partition(" ")
        if word == "error" and rest.startswith("foreign"):
            yield f"an error that is none of ours: {rest}"
        elif word in ("after", "broken"):
            yield f"{'tried again, it failed' if word == 'after' else 'the trial itself failed'}: {rest}"
        elif word == "open" and re.search(r"/(versions|drafts)/", rest):
            yield f"a file was left open: {rest}"


def _left_over(path: str) -> Iterator[str]:
    """What gc leaves lying, three days later."""
    then = time.time() - 3 * 86400
    for folder, folders, files in os.walk(f"{path}/.documents"):
        for name in (*folders, *files):
            os.utime(f"{folder}/{name}", (then, then), follow_symlinks=False)
    from filemailbox.documents import upkeep

    before, upkeep.ABANDONED = upkeep.ABANDONED, -1.0  # type: ignore[misc]  # the ctime cannot be set
    try:
        for left in cleanup.root_garbage(roots.find_root(path), -1.0):
            left.remove()
    finally:
        upkeep.ABANDONED = before  # type: ignore[misc]
    for folder, folders, files in os.walk(f"{path}/.documents"):
        for name in (*folders, *files):
            if name.startswith((".new-", ".removed-")) or folder.endswith(("/drafts", "/run")):
                yield f"left over for good: {folder}/{name}"


# Power


def cuts(kind: disks.Kind, place: str, rounds: int, durable: bool = True) -> Result:
    """The power goes *rounds* times on one disk while documents are changed."""
    result, chance = Result(), random.Random(f"documents {kind.name} {durable}")
    with disks.disk(kind, place) as disk:
        for _ in range(rounds):
            _cut(disk, place, result, chance.uniform(0.05, 0.4), durable)
    if not durable and not result.counts.get("lost_by_the_control"):
        result.broken.append("the control lost nothing, though it never flushed: this cut proves nothing")
    return result


def _cut(disk: disks.Disk, place: str, result: Result, after: float, durable: bool) -> None:
    root, logs = f"{disk.path}/mail", [f"{place}/{name}.log" for name in ("one", "two", "three")]
    shutil.rmtree(root, ignore_errors=True)
    with Mailbox.init("w", root) as box:
        os.sync()
        box.document("counter").create({"n": 0, "by": ""}, keep=1_000_000)
    for log in logs:
        open(log, "wb").close()
    change = _change if durable else _change_without_flush
    with apart.running(*(apart.Apart(change, root, log) for log in logs)):
        deadline = time.monotonic() + 30
        while not all(map(os.path.getsize, logs)) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(after)
        said = [token for log in logs for token in _lines(log)]  # what had returned before
        disk.cut()
    disk.again()
    there = {version["body"].get("by") for version in _reachable(root)}
    made = {token for token in said if not token.startswith("document ")}
    lost = made - there
    result.add(cuts=1)
    if durable:
        result.add(durable_changes=len(said))
        result.broken += [f"{token} had been put, and is lost" for token in sorted(lost)[:5]]
        for token in said:
            if token.startswith("document "):
                with Mailbox("w", root) as box:
                    try:
                        box.document(token.split()[1]).get()
                    except MailboxError as error:
                        result.broken.append(f"a document had been made, and: {error}")
        with Mailbox("w", root) as box:  # the next start goes on, whatever half versions the cut has left
            try:
                with _hasty():
                    box.document("counter").update(lambda body: {"n": body["n"] + 1, "by": "after"})
            except MailboxError as error:
                result.broken.append(f"after the cut nobody can write: {error}")
    else:
        result.add(changes_of_the_control=len(said), lost_by_the_control=len(lost))


def _reachable(root: str) -> Iterator[dict[str, Any]]:
    """The run of versions from the first one, as any reader finds it; after a cut junk may lie behind it."""
    number, base = 1, first_base("counter")
    while True:
        try:
            with open(f"{root}/.documents/counter/versions/{filename(number)}", "rb") as file:
                data = file.read()
            version = json.loads(data)
            if version["base"] != base:
                return
        except (OSError, ValueError, KeyError):
            return
        yield version
        number, base = number + 1, digest(data)


def _change(root: str, log: str) -> None:
    out, chance = os.open(log, os.O_WRONLY | os.O_APPEND), random.Random()
    with Mailbox("w", root) as box:
        document: Document[dict[str, Any]] = box.document("counter")
        try:
            while True:
                token = os.urandom(8).hex()
                if chance.random() < 0.02:
                    box.document(f"d{token}/x").create({"fill": "x" * 100})
                    os.write(out, f"document d{token}/x\n".encode())
                    continue
                fill = "x" * chance.choice((10, 500, 5_000, 50_000))
                document.update(lambda body: {"n": body["n"] + 1, "by": token, "fill": fill}, attempts=10_000)  # noqa: B023
                os.write(out, f"{token}\n".encode())
        except MailboxError:
            os._exit(0)  # the power is gone


def _no_flush(fd: Any) -> None:
    """What a writer does that only says that it has flushed."""
    del fd


def _change_without_flush(root: str, log: str) -> None:
    os.fsync = _no_flush  # in this process alone
    _change(root, log)


# A full volume


def full(place: str) -> Result:
    """Fill a volume by changes until it is full; read all; make room; go on."""
    result = Result()
    with disks.memory(f"{place}/full", 1 << 20) as path, Mailbox.init("alice", f"{path}/mail") as box:
        document: Document[Any] = box.document("plan")
        document.create({"n": 0}, keep=1_000_000)
        with open(f"{path}/ballast", "wb") as ballast:
            ballast.write(b"x" * (256 << 10))
        written = 0
        try:
            while written < 100_000:
                document.put({"n": written + 1, "fill": "x" * 2000})
                written += 1
        except DiskFullError:
            pass
        result.add(changes=written)
        for _ in range(3):
            try:
                document.put({"n": -1, "fill": "x" * 50_000})
                result.broken.append("a change went onto a volume without room")
            except MailboxError as error:
                if not isinstance(error, DiskFullError):
                    result.broken.append(f"a full volume was told as {type(error).__name__}: {error}")
        with Mailbox("bob", f"{path}/mail") as other:
            if (n := other.document("plan").get().body["n"]) != written:
                result.broken.append(f"{written} changes were made, and the count is {n}")
            if (kept := len(list(other.document("plan").history()))) != written + 1:
                result.broken.append(f"{written + 1} versions were made, and {kept} are there")
        if drafts := os.listdir(f"{path}/mail/.documents/plan/drafts"):
            result.broken.append(f"drafts were left: {drafts}")
        os.unlink(f"{path}/ballast")
        try:
            document.put({"n": written + 1})
        except (MailboxError, DocumentBrokenError) as error:
            result.broken.append(f"with room again it does not go on: {error}")
    return result
