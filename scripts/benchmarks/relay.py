"""The relay: how fast, how late, how fair, how lazy; and what kill -9 and tampering do to it.

    backlog     what lies in an outbox, carried with its records by one relay, beside the same number of messages put
                into a box of the same volume by plain durable send()s
    latency     from the return of a durable send() to receive() by the recipient, in the relay's presence, beside two
                flushes: a file written and flushed, a line appended to another and flushed
    full        the same latency for two agents, while a third one's volume is full and mail for it keeps coming,
                beside the same without
    idle        what a relay costs with a hundred outboxes in which nothing happens
    kill -9     messages between three agents while the relay is killed again and again, each time at work: what is
                lost, what is there twice, what was accepted and not delivered
    tampering   each line of an audit log changed, deleted, doubled, swapped and cut off: what each verifier finds

Ours and the reference take turns. A figure is the median of its slices (or, for a latency, the 95th percentile of its
samples in a repetition); a ratio that of one repetition; what is shown is the median of the repetitions, their lowest
and their highest.
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from filemailbox import Mailbox
from filemailbox.format.address import Address
from filemailbox.relay import audit_format
from filemailbox.relay.audit_format import Signer
from filemailbox.relay.audit_log import AuditLog
from filemailbox.relay.policy_file import parse_policy
from filemailbox.relay.relay import Relay
from filemailbox.store.box import create_box
from filemailbox.store.root import init_root
from filemailbox.trust import seal
from filemailbox.trust.key_files import PrivateKeys

from . import disks
from .box import BODY
from .table import Bound, Figure, Report, Table

_PATIENCE: Final = 60.0  # seconds for a message to come through
_VERIFIER: Final = Path(__file__).resolve().parent.parent / "audit-verify"
_STANDING: Final = 300  # messages that wait when a relay begins that is going to be killed
_OPEN: Final = '[[allow]]\nfrom = "*"\nto = "*"\n'


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    backlog: int = 1000  # messages in a slice
    samples: int = 300  # of a latency, in a repetition
    repetitions: int = 5
    outboxes: int = 100
    idle: float = 20.0  # seconds
    messages: int = 4000  # carried while the relay is killed
    kills: int = 150
    lines: int = 1000  # of the log that is tampered with, five times each
    disk: str = "ext4"


QUICK: Final = Plan(backlog=300, samples=60, repetitions=2, idle=3.0, messages=200, kills=8, lines=8)


class RelayWorld:
    """Agents with volumes of their own, and a policy that lets everybody write to everybody."""

    def __init__(self, place: str, agents: tuple[str, ...], poll_interval: str = "1s") -> None:
        self.place, self.agents = place, agents
        self.config = f"{place}/relay.toml"
        os.makedirs(place, exist_ok=True)
        text = f'[relay]\nstate = "{place}/state"\nkey = "{place}/key"\npoll_interval = "{poll_interval}"\n'
        text += '[limits]\nrate = "none"\n'
        for name in agents:
            os.makedirs(f"{place}/{name}", exist_ok=True)
            create_box(init_root(f"{place}/{name}").box(Address(name)), outbox=True)
            text += f'[agents.{name}]\nvolume = "{place}/{name}"\n'
        Path(self.config).write_text(text + _OPEN)
        self.identity = PrivateKeys.generate(f"{place}/key", Address("relay"))
        self.signer = Signer(self.identity.public.signing_key, self.identity.sign)

    def box(self, name: str, *, durable: bool = True) -> Mailbox:
        return Mailbox(name, f"{self.place}/{name}", durable=durable)

    def relay(self) -> Relay:
        """One in this process."""
        return Relay(parse_policy(Path(self.config).read_text()), AuditLog(self.audit, self.signer), seal.verify)

    @property
    def audit(self) -> str:
        return f"{self.place}/state/audit"

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """One in a process of its own, at work."""
        process = self.start()
        try:
            yield process
        finally:
            process.terminate()
            process.wait()

    def start(self, *, wait: bool = True) -> subprocess.Popen[bytes]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.place}/state/status.json")
        command = [sys.executable, "-m", "filemailbox", "relay", "--config", self.config]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        if wait:
            _until(lambda: os.path.exists(f"{self.place}/state/status.json") or process.poll() is not None)
        return process

    def left(self) -> int:
        """How much lies in the outboxes."""
        return sum(len(os.listdir(f"{self.place}/{name}/{name}/outbox")) for name in self.agents)


def measure(*, quick: bool = False, plan: Plan | None = None) -> Report:
    """Measure it all. *plan* overrules *quick*."""
    plan = plan or (QUICK if quick else Plan())
    report = Report()
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(disks.ext4() if plan.disk == "ext4" else disks.tmpfs())
        except disks.LeftOut as why:
            report.notes.append(f"ext4 is left out: {why}; a flush costs nothing on a tmpfs, so ratios mean little.")
            folder = stack.enter_context(disks.tmpfs())
        steps: list[Callable[[str, Plan], Table]] = [_backlog, _latency, _idle, _kills, _tampering]
        for step in steps:
            _progress(step.__name__.strip("_"))
            place = f"{folder}/{step.__name__.strip('_')}"
            report.tables.append(step(place, plan))
            shutil.rmtree(place, ignore_errors=True)
    report.notes.append(f"n of a ratio is the samples or messages of each side, in {plan.repetitions} repetitions.")
    return report


def _backlog(place: str, plan: Plan) -> Table:
    """Carried from one volume into another, beside plain durable sends within one."""
    world = RelayWorld(place, ("alice", "bob"))
    local = Mailbox.init("local", f"{place}/plain")
    relay = world.relay()
    relay.start()
    rates: list[tuple[float, float]] = []
    with local, world.box("alice", durable=False) as alice:
        for number in range(plan.repetitions * 2):
            if number % 2:
                ours, plain = _carry(relay, alice, plan.backlog), _send(local, plan.backlog)
            else:
                plain, ours = _send(local, plan.backlog), _carry(relay, alice, plan.backlog)
            rates.append((plan.backlog / ours, plan.backlog / plain))
            for box in ("bob/bob", "plain/local"):
                shutil.rmtree(f"{place}/{box}/new")
                os.mkdir(f"{place}/{box}/new")
    relay.close()
    ratios = [ours / plain for ours, plain in rates]
    figure = Figure(
        "backlog, carried",
        plan.backlog * len(rates),
        median(ours for ours, _ in rates),
        median(plain for _, plain in rates),
        median(ratios),
        (min(ratios), max(ratios)),
        0.5,
    )
    return Table("throughput", "msg/s", "plain durable send", [figure])


def _carry(relay: Relay, alice: Mailbox, n: int) -> float:
    alice.send_many("bob", [BODY] * n)
    os.sync()  # what the sender has left to be written is not the relay's
    before, began = relay.delivered, time.perf_counter()
    while relay.delivered < before + n:
        relay.scan_all()
        relay.turn()
    return time.perf_counter() - began


def _send(box: Mailbox, n: int) -> float:
    os.sync()
    began = time.perf_counter()
    for _ in range(n):
        box.send("local", BODY)
    return time.perf_counter() - began


def _latency(place: str, plan: Plan) -> Table:
    """Of single messages; and of those between two, while a third one is full."""
    world = RelayWorld(place, ("alice", "bob", "full"))
    added: list[tuple[float, float, float]] = []
    beside: list[tuple[float, float, float]] = []
    with contextlib.ExitStack() as stack:
        _fill(f"{place}/full", stack)
        alice, bob = stack.enter_context(world.box("alice")), stack.enter_context(world.box("bob"))
        file = os.open(f"{place}/log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        stack.callback(os.close, file)
        stack.enter_context(world.running())
        for number in range(plan.repetitions):
            ours, flushes = [], []
            for sample in range(plan.samples):
                flushes.append(_two_flushes(place, file, sample))
                ours.append(_through(alice, bob))
                time.sleep(random.uniform(0.001, 0.005))
            added.append((_p95(ours), _p95(flushes), median(ours) / median(flushes)))
            quiet = ours
            crowded = []
            for _ in range(plan.samples):
                alice.send("full", BODY)
                crowded.append(_through(alice, bob))
                time.sleep(random.uniform(0.001, 0.005))
            beside.append((_p95(crowded), _p95(quiet), number))
    rows = [("p95, send to receive", added, 3.0), ("p95, while a third agent is full", beside, 2.0)]
    figures = [_ratio(what, plan.samples, pairs, wanted) for what, pairs, wanted in rows]
    return Table("latency (reference: two flushes; the same, nobody full)", "ms", "reference", figures)


def _ratio(what: str, n: int, pairs: list[tuple[float, float, float]], wanted: float) -> Figure:
    ratios = [ours / reference for ours, reference, _ in pairs]
    ours, reference = median(each[0] for each in pairs), median(each[1] for each in pairs)
    spread = (min(ratios), max(ratios))
    return Figure(what, n * len(pairs), ours * 1000, reference * 1000, median(ratios), spread, wanted, "at most")


def _through(alice: Mailbox, bob: Mailbox) -> float:
    """Seconds from the return of send() to the message."""
    alice.send("bob", BODY)
    began = time.perf_counter()
    message = bob.receive(timeout=_PATIENCE)
    took = time.perf_counter() - began
    assert message is not None
    message.ack()
    return took


def _two_flushes(place: str, log: int, number: int) -> float:
    began = time.perf_counter()
    file = os.open(f"{place}/flushed-{number}", os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(file, b"x" * 300)
    os.fsync(file)
    os.close(file)
    os.write(log, b"y" * 400 + b"\n")
    os.fdatasync(log)
    took = time.perf_counter() - began
    os.unlink(f"{place}/flushed-{number}")
    return took


def _fill(volume: str, stack: contextlib.ExitStack) -> None:
    """Leave no room in a volume: one of its own, where that can be had."""
    kept = f"{volume}.kept"
    os.rename(volume, kept)
    os.mkdir(volume)
    try:
        stack.enter_context(disks.mounted("-t", "tmpfs", "-o", "size=256k", "tmpfs", volume))
    except disks.LeftOut:
        os.rmdir(volume)
        os.rename(kept, volume)
        shutil.rmtree(f"{volume}/full/new")  # then one that takes no mail for another reason
        return
    shutil.copytree(kept, volume, dirs_exist_ok=True)
    with contextlib.suppress(OSError), open(f"{volume}/ballast", "wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))


def _idle(place: str, plan: Plan) -> Table:
    world = RelayWorld(place, tuple(f"a{number}" for number in range(plan.outboxes)))
    with world.running() as relay:
        time.sleep(1)
        before = _ticks(relay.pid)
        time.sleep(plan.idle)
        used = (_ticks(relay.pid) - before) / os.sysconf("SC_CLK_TCK")
        memory = _resident(relay.pid)
    share = 100 * used / plan.idle
    figures = [Figure(f"idle, {plan.outboxes} outboxes", 1, share, wanted=0.5, bound="at most")]
    figures.append(Figure("resident, MB", 1, memory))
    return Table("idle", "% of a core", "", figures)


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def _resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def _kills(place: str, plan: Plan) -> Table:
    """Messages flow in all directions while relays live for a moment each."""
    world = RelayWorld(place, ("alice", "bob", "carol"))
    boxes = {name: world.box(name, durable=False) for name in world.agents}
    sent: dict[str, Counter[str]] = {name: Counter() for name in world.agents}
    got: dict[str, Counter[str]] = {name: Counter() for name in world.agents}
    chance, wrong, killed, total = random.Random(), 0, 0, 0

    def receive() -> None:
        nonlocal wrong
        for name, box in boxes.items():
            while (message := box.receive()) is not None:
                got[name][message.id] += 1
                wrong += message.body != BODY
                message.ack()

    while killed < plan.kills or total < plan.messages:
        for _ in range(world.left(), _STANDING):
            sender, to = chance.sample(world.agents, 2)
            sent[to][boxes[sender].send(to, BODY)] += 1
            total += 1
        process = world.start(wait=False)
        _grown(world.audit)  # it has begun
        if chance.random() < 0.7:
            _grown(world.audit)  # and has written its first records: the next milliseconds are those that matter
        time.sleep(chance.random() * 0.02)
        process.kill()
        process.wait()
        killed += world.left() > 0  # else it was done already
        receive()
    with world.running():
        _until(lambda: world.left() == 0)
    receive()
    for box in boxes.values():
        box.close()
    lost = sum((sent[name] - got[name]).total() for name in world.agents)
    twice = sum((got[name] - sent[name]).total() for name in world.agents)
    accepted = Counter(
        (each["to"], each["id"]) for each in audit_format.read_records(world.audit) if each["event"] == "accept"
    )
    delivered = Counter({(name, id): count for name in world.agents for id, count in got[name].items()})
    astray = ((accepted - delivered) + (delivered - accepted)).total()
    audit_format.verify_log(world.audit, world.signer.public_key, seal.verify)
    none: Bound = "at most"
    figures = [
        Figure(f"lost, {killed} kills at work", total, lost, wanted=0, bound=none),
        Figure("there twice", total, twice, wanted=0, bound=none),
        Figure("other than they were sent", total, wrong, wanted=0, bound=none),
        Figure("accepted and not delivered, or the other way round", total, astray, wanted=0, bound=none),
    ]
    return Table("kill -9 (the audit log is verified afterwards)", "messages", "", figures)


def _grown(audit: str) -> None:
    """Wait until something is written to the audit log."""
    before = _written(audit)
    _until(lambda: _written(audit) != before)


def _written(audit: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        return sum(
            os.path.getsize(audit_format.segment_path(audit, number)) for number in audit_format.segment_numbers(audit)
        )
    return 0


def _change(lines: list[bytes], at: int) -> None:
    byte = random.randrange(len(lines[at]) - 1)
    lines[at] = lines[at][:byte] + bytes([lines[at][byte] ^ (1 << random.randrange(7))]) + lines[at][byte + 1 :]


def _delete(lines: list[bytes], at: int) -> None:
    del lines[at]


def _double(lines: list[bytes], at: int) -> None:
    lines.insert(at, lines[at])


def _swap(lines: list[bytes], at: int) -> None:
    other = at - 1 if at else 1
    lines[at], lines[other] = lines[other], lines[at]


def _truncate(lines: list[bytes], at: int) -> None:
    del lines[at:]


_TAMPERINGS: Final = (_change, _delete, _double, _swap, _truncate)


def _tampering(place: str, plan: Plan) -> Table:
    del place  # thousands of copies: no disk is needed for them
    with disks.tmpfs() as folder:
        log = AuditLog(f"{folder}/log", signer := Signer(*seal.signer(seal.SecretBytes(os.urandom(seal.KEY)))), "relay")
        log.open(seal.verify, lambda _: None)
        log.append([{"event": "accept", "from": "alice", "to": "bob", "id": str(n)} for n in range(plan.lines - 1)])
        log.close()
        lines = list(audit_format.read_lines(f"{folder}/log", 1))
        cases = [(tamper, at) for tamper in _TAMPERINGS for at in range(len(lines))]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(lambda case: _found(folder, lines, signer, *case), cases))
    figures = [
        Figure(f"found by {who}", len(cases), sum(each[number] for each in found), wanted=len(cases))
        for number, who in enumerate(("ours", "scripts/audit-verify"))
    ]
    return Table("tampering", "cases", "", figures)


def _found(
    folder: str, lines: list[bytes], signer: Signer, tamper: Callable[[list[bytes], int], None], at: int
) -> tuple[bool, bool]:
    copy = f"{folder}/{tamper.__name__}-{at}"
    shutil.copytree(f"{folder}/log", copy)
    changed = list(lines)
    tamper(changed, at)
    Path(audit_format.segment_path(copy, 1)).write_bytes(b"".join(changed))
    try:
        audit_format.verify_log(copy, signer.public_key, seal.verify)
        ours = False
    except audit_format.TamperedLogError:
        ours = True
    command = ["sh", str(_VERIFIER), copy, audit_format.format_public_key(signer.public_key)]
    script = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "TMPDIR": folder})
    shutil.rmtree(copy)
    return ours, script.returncode == 1


def _p95(samples: list[float]) -> float:
    return quantiles(samples, n=20)[-1]


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not come")
        time.sleep(0.001)


def _progress(what: str) -> None:
    print(f"relay: {what} …", file=sys.stderr, flush=True)
