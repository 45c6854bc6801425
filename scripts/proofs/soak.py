"""Ten agents at work, for minutes or hours, while everything happens to them; a checker reads what they wrote down.

Each agent has a listener and a sender. The senders are Python, the command, `scripts/mailbox-send` and `printf` with
`mv`; half of the agents have keys and seal or sign what they send to each other; two boxes have two listeners. One
agent forges: mail in another's name, and sealed mail put there a second time.

What happens: kill -9 of listeners and senders; SIGSTOP of a listener, so of one who holds a lock and perhaps a message,
for up to two seconds; a volume that fills up; a volume mounted read-only; clocks that step by up to an hour, forth and
back, in running processes (libfaketime: a machine's own clock is not ours to set). The mail lies on a tmpfs of its own.

At the end all is healed, the listeners take what is left, and history.py judges: nothing lost, nothing from nowhere,
nothing forged, each consumer's first attempts in each writer's order, and nothing acked twice.
"""

import contextlib
import glob
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import filemailbox
from filemailbox import Mailbox
from filemailbox.format.address import parse_address
from filemailbox.trust.key_files import PrivateKeys

from . import agents, disks, history, volume
from .record import Record, Result

NAMES: Final = [f"a{n}" for n in range(10)]
KEYED: Final = NAMES[:5]
HOW: Final = dict(zip(NAMES, ("python",) * 6 + ("command", "shell", "mv", "forge"), strict=True))
TWICE: Final = ("a0", "a5")  # boxes with two listeners
_SIZE: Final = 48 << 20
_PATIENCE: Final = 180.0


def prove(record: Record, place: str, span: float = 300.0, seed: int | None = None) -> None:
    """Soak for *span* seconds."""
    record.do("soak", [(f"{span:g} s", lambda: soak(place, span, seed if seed is not None else time.time_ns()))])


@dataclass
class Process:
    """One agent's listener or sender, and what it is started with."""

    role: str
    name: str
    words: list[str]
    running: "subprocess.Popen[bytes]"
    clock: str
    stopped: bool = False


@dataclass
class World:
    """All that is at work."""

    place: str
    root: str
    pause: float
    chance: random.Random
    processes: list[Process] = field(default_factory=list)
    befell: Counter[str] = field(default_factory=Counter)
    started: int = 0
    fakes: str | None = None

    def start(self, role: str, name: str) -> Process:
        """Start the listener or the sender of *name*: each has a log of its own, and a clock of its own."""
        self.started += 1
        log, clock = f"{self.place}/logs/{self.started:05}-{role}-{name}", f"{self.place}/clocks/{self.started}"
        with open(clock, "w") as file:
            file.write("+0")
        keys = f"{self.place}/keys/{name}" if name in KEYED else ""
        words = [sys.executable, str(agents.__file__), role, self.root, log, name, keys]
        if role == "send":
            words += [" ".join(each for each in NAMES if each != name), f"{self.place}/stop", HOW[name]]
        environment = {
            **os.environ,
            "PYTHONPATH": os.path.dirname(os.path.dirname(filemailbox.__file__)),
            "MAILBOX_ROOT": self.root,
            "MAILBOX_AGENT": name,
            "MAILBOX_KEY_DIR": keys,
            "SOAK_KEYED": " ".join(KEYED),
            "SOAK_PAUSE": str(self.pause),
        }
        if self.fakes:
            environment |= {
                "LD_PRELOAD": self.fakes,
                "FAKETIME_TIMESTAMP_FILE": clock,
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }
        errors = open(f"{log}.err", "ab")  # noqa: SIM115  # the process keeps it
        running = subprocess.Popen(words, env=environment, stdout=errors, stderr=errors, start_new_session=True)
        errors.close()
        return Process(role, name, words, running, clock)

    def begin(self) -> None:
        self.processes += [self.start("consume", name) for name in (*NAMES, *TWICE)]
        self.processes += [self.start("send", name) for name in NAMES]

    # What happens to them

    def strike(self) -> None:
        """Let one thing happen, by chance."""
        blows = [self.kill, self.kill, self.kill, self.pause_one, self.pause_one, self.fill, self.protect]
        blows += [self.step_clock, self.step_clock] if self.fakes else []
        blow = self.chance.choice(blows)
        blow()
        self.befell[blow.__name__] += 1

    def kill(self) -> None:
        victim = self.chance.choice(self.processes)
        _end(victim)
        self.processes.remove(victim)
        self.processes.append(self.start(victim.role, victim.name))

    def pause_one(self) -> None:
        victim = self.chance.choice([each for each in self.processes if each.role == "consume"])
        victim.running.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.1, 2))
        victim.running.send_signal(signal.SIGCONT)

    def fill(self) -> None:
        """No space is left on the volume, for a moment."""
        path = f"{self.root}/.filler"
        with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass
        time.sleep(self.chance.uniform(0.1, 1))
        os.unlink(path)

    def protect(self) -> None:
        """The volume is read-only, for a moment; the kernel refuses while a file is open for writing."""
        mount = os.path.dirname(self.root)
        for _ in range(200):
            if _remount(mount, "ro"):
                break
            time.sleep(0.005)
        time.sleep(self.chance.uniform(0.1, 0.5))
        while not _remount(mount, "rw"):
            time.sleep(0.01)

    def step_clock(self) -> None:
        """The clock of one process steps, forth or back."""
        victim = self.chance.choice(self.processes)
        step = self.chance.choice((-3600, -60, -1, 0, 1, 60, 3600))
        with open(f"{victim.clock}.new", "w") as file:
            file.write(f"{step:+d}")
        os.rename(f"{victim.clock}.new", victim.clock)

    def revive(self) -> None:
        """What ended by itself is a find; what it said stands in its log of errors."""
        for each in [each for each in self.processes if each.running.poll() is not None]:
            self.befell["ended_by_itself"] += 1
            self.processes.remove(each)
            self.processes.append(self.start(each.role, each.name))

    # The end

    def finish(self, result: Result) -> None:
        """Let the senders finish, and the listeners take all there is."""
        with open(f"{self.place}/stop", "w"):
            pass
        deadline = time.monotonic() + _PATIENCE
        for each in self.processes:
            if each.role == "send":
                each.running.wait(timeout=60)
        while (left := len(volume.letters(self.root, "new", "cur", "later"))) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            result.broken.append(f"{left} messages were still waiting after {_PATIENCE:g} s of peace")

    def end(self) -> None:
        for each in self.processes:
            _end(each)


def soak(place: str, span: float, seed: int) -> Result:
    """The whole of it."""
    result, chance = Result(), random.Random(seed)
    result.notes.append(f"seed {seed}")
    for folder in ("logs", "clocks", "keys"):
        os.makedirs(f"{place}/{folder}")
    try:
        with disks.memory(f"{place}/volume", _SIZE) as mounted:
            world = World(place, f"{mounted}/mail", 0.05, chance, fakes=_libfaketime())
            if world.fakes is None:
                result.notes.append("clocks did not step: there is no libfaketime here (Debian: apt-get install it)")
            _prepare(world)
            try:
                world.begin()
                end = time.monotonic() + span
                while time.monotonic() < end:
                    time.sleep(chance.uniform(0.05, 0.5))
                    world.revive()
                    world.strike()
                world.finish(result)
            finally:
                world.end()
            _judge(world, result)
    finally:
        for folder in ("logs", "clocks", "keys"):
            shutil.rmtree(f"{place}/{folder}", ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{place}/stop")
        _tidy()
    return result


def _prepare(world: World) -> None:
    """Boxes, keys, and each keyed agent's pins of the others."""
    public = {}
    for name in NAMES:
        Mailbox.init(name, world.root).close()
        if name in KEYED:
            folder = f"{world.place}/keys/{name}"
            os.makedirs(folder, 0o700)
            public[name] = PrivateKeys.generate(f"{folder}/{name}.key", parse_address(name)).public
    for name in KEYED:
        with Mailbox(name, world.root, key_dir=f"{world.place}/keys/{name}") as box:
            for other in KEYED:
                if other != name:
                    box.keyring.pin(public[other])


def _judge(world: World, result: Result) -> None:
    logs = [history.read(path) for path in sorted(glob.glob(f"{world.place}/logs/*[0-9a-z]")) if "." not in path[-5:]]
    lying = {each.token: each.state for each in volume.letters(world.root) if each.token}
    waiting = [token for token, state in lying.items() if state in ("new", "cur", "later")]
    verdict = history.check(logs, waiting, [token for token, state in lying.items() if state == "dead"])
    result.add(**verdict.counts, **{f"times_{name}": count for name, count in sorted(world.befell.items())})
    result.broken += verdict.broken
    result.broken += volume.broken(world.root, copies=True)
    for path in glob.glob(f"{world.place}/logs/*.err"):
        with open(path) as file:
            said = file.read()
        if "Traceback" in said:
            result.broken.append(f"{os.path.basename(path)} said: {said[-600:]}")


def _end(process: Process) -> None:
    """kill -9 of it and of the commands that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.running.pid, signal.SIGKILL)
    process.running.wait()


def _remount(mount: str, how: str) -> bool:
    command = ["mount", "-o", f"remount,{how}", mount]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _tidy() -> None:
    """Take away what libfaketime keeps in memory for a process, where that was killed."""
    for path in glob.glob("/dev/shm/faketime_shm_*") + glob.glob("/dev/shm/sem.faketime_sem_*"):
        if not os.path.exists(f"/proc/{path.rpartition('_')[2]}"):
            with contextlib.suppress(OSError):
                os.unlink(path)


def _libfaketime() -> str | None:
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1") + glob.glob("/usr/lib/faketime/libfaketimeMT.so.1")
    return found[0] if found else None
