"""No mail is lost or left lying, whatever becomes of the listener, its box, its bell and its watch."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from filemailbox.receive.status import listening
from filemailbox.settings import WATCHERS
from filemailbox.wake.waker import MISSES
from support.paths import SOURCE
from support.waiting import Until

SECONDS = float(os.environ.get("FILEMAILBOX_CHAOS", "5"))
"""For how long chaos reigns."""


# Each sender writes down what it has delivered: a line, once the message is in. What was refused is not counted.

PYTHON = """
import sys
from filemailbox import Mailbox, MailboxError
root, log = sys.argv[1], open(sys.argv[2], "a", buffering=1)
number = refused = 0
with Mailbox("alice", root, durable=False) as box:
    print("begun", flush=True)
    while not sys.stdin.read(0) and not __import__("select").select([sys.stdin], [], [], 0.004)[0]:
        number += 1
        try:
            box.send("bob", f"python {number}")
        except MailboxError as error:
            refused += 1
        else:
            print(f"python {number}", file=log)
print(refused, flush=True)
"""

# `mv -T`, so that a folder that is not there is an error and no new name for the file. What was moved into a box while
# that was taken away went with it: then it is counted in what was kept aside.
MOVED = """
cd "$1"; n=0
until [ -e over ]; do
  n=$((n + 1))
  printf '{"body": "moved %d"}' "$n" > "draft$n"
  if mv -T "draft$n" "mail/bob/new/moved$n.json"; then echo "moved $n" >> moved.log; fi
  sleep 0.01
done 2> /dev/null
"""

ECHOED = """
cd "$1"; n=0
until [ -e over ]; do
  n=$((n + 1))
  if echo "{\\"body\\": \\"echoed $n\\"}" > "mail/bob/new/echoed$n.json"; then echo "echoed $n" >> echoed.log; fi
  sleep 0.01
done 2> /dev/null
"""

# A line in the log, then the ack: what a killed listener has logged and not acked comes again.
LISTENER = """
import os, sys
from filemailbox import Mailbox, BoxNotFoundError
box = Mailbox("bob", sys.argv[1], durable=False, max_attempts=1000, watcher=sys.argv[4])
log = os.open(sys.argv[2], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

@box.on()
def handle(message):
    os.write(log, f"{message.body}\\n".encode())

print("begun", flush=True)
try:
    box.run(workers=int(sys.argv[3]))
except BoxNotFoundError:  # at the start that is the caller's to know: whoever keeps it running begins it again
    sys.exit(67)
"""


def mail(box: Path) -> list[Path]:
    """What waits or is held in a box, or lies dead in it."""
    return [path for state in ("new", "cur", "later", "dead") for path in (box / state).rglob("*.json")]


def lines(log: Path) -> list[str]:
    """Whole lines: one that a kill cut off is not there."""
    return log.read_text().split("\n")[:-1] if log.exists() else []


def wipe_run(root: Path) -> None:
    with contextlib.suppress(OSError):
        for entry in (root / "bob/run").iterdir():
            entry.unlink(missing_ok=True)


class Chaos:
    """What befalls a listener."""

    def __init__(self, root: Path, log: Path, start: Callable[..., Any]) -> None:
        self.root, self.log, self._start = root, log, start
        self.chance, self.aside, self.befell = random.Random(11), 0, Counter[str]()
        self.begun = 0
        """Listeners so far: each has another watcher than the one before."""
        self.listener = self._begin()

    def _begin(self) -> Any:
        watcher, workers = WATCHERS[self.begun % len(WATCHERS)], self.chance.choice((1, 3))
        self.begun += 1
        listener = self._start(LISTENER, self.root, self.log, workers, watcher)
        listener.line()
        return listener

    def kill(self) -> None:
        self.listener.kill()
        self.listener.close()
        self.listener = self._begin()

    def terminate(self) -> None:
        self.listener.process.send_signal(signal.SIGTERM)
        assert self.listener.end() in (0, 67, -signal.SIGTERM)  # the latter two, if it has only just begun
        self.listener.close()
        self.listener = self._begin()

    def replace(self) -> None:
        """Take the box away, with all that is in it, and make a new one after a while. The mail is put back."""
        self.aside += 1
        kept = self.root / f".kept{self.aside}"
        (self.root / "bob").rename(kept)
        time.sleep(self.chance.choice((0, 0.05)))
        Mailbox.init("bob", self.root).close()

    def wipe(self) -> None:
        wipe_run(self.root)

    def remove_run(self) -> None:
        shutil.rmtree(self.root / "bob/run", ignore_errors=True)
        (self.root / "bob/run").mkdir(exist_ok=True)

    def stop(self) -> None:
        """It is frozen for a while, as a paused container is: its queues fill."""
        self.listener.process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        self.listener.process.send_signal(signal.SIGCONT)

    def supervise(self) -> None:
        """Begin it again, should it have ended by itself."""
        if self.listener.process.poll() is not None:
            self.kill()

    def strike(self) -> None:
        self.supervise()
        blow = self.chance.choice((self.kill, self.terminate, self.replace, self.wipe, self.remove_run, self.stop))
        self.befell[blow.__name__] += 1
        blow()


@pytest.fixture
def shell() -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """shell(script, argument): a shell that runs it, until the test is over."""
    with contextlib.ExitStack() as stack:

        def run(script: str, argument: Path) -> "subprocess.Popen[bytes]":
            running = stack.enter_context(subprocess.Popen(["sh", "-c", script, "sh", argument]))
            stack.callback(running.kill)
            return running

        yield run


def test_nothing_is_lost_and_nothing_left_lying(
    fast: Path, start: Callable[..., Any], shell: Callable[..., Any], until: Until
) -> None:
    """Three senders, and a listener to whom all kinds of things happen: what was delivered is handled."""
    root, log = fast / "mail", fast / "handled.log"
    for name in ("alice", "bob"):
        Mailbox.init(name, root).close()
    chaos = Chaos(root, log, start)
    sender = start(PYTHON, root, fast / "python.log")
    sender.line()
    shells = [shell(script, fast) for script in (MOVED, ECHOED)]
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        chaos.strike()
        time.sleep(chaos.chance.random() / 20)
    (fast / "over").touch()
    sender.say("over")
    sender.end()
    for each in shells:
        each.wait()
    for number in range(1, chaos.aside + 1):  # what went with the box comes back by hand, as a person would do it
        for path in mail(root / f".kept{number}"):
            if path.parent.name in ("new", "later"):
                path.rename(root / "bob" / path.parent.name / path.name)
            else:
                path.rename(root / "bob/new" / f"{number}-{path.name.split(',')[0]}.json")

    def handled_all() -> bool:
        chaos.supervise()
        return not [path for path in mail(root / "bob") if path.parent.name != "dead"]

    until(handled_all)
    chaos.terminate()
    chaos.listener.kill()
    handled = Counter(lines(log))
    sent = [line for name in ("python", "moved", "echoed") for line in lines(fast / f"{name}.log")]

    assert len(chaos.befell) == 6
    assert len(sent) > 100
    assert set(sent) - set(handled) == set()
    assert {
        line for line, times in handled.items() if times > 1 + chaos.befell["kill"] + chaos.befell["replace"]
    } == set()
    assert mail(root / "bob") == []


@pytest.mark.parametrize("dead", ["bell", "watch", "both"])
def test_with_dead_notifications_the_rescan_finds_all(fast: Path, until: Until, dead: str) -> None:
    """Where they never come, mail is missed, handled all the same, and counted for all to see."""
    root = fast / "mail"
    for name in ("alice", "bob"):
        Mailbox.init(name, root).close()
    got: list[Any] = []
    alice = Mailbox("alice", root, durable=False)
    bob = Mailbox("bob", root, durable=False, poll_interval=0.05, watcher="inotify")
    bob.on()(lambda message: got.append(message.body))
    original = bob._waker._sleep
    if dead != "bell":  # the watch is on a folder that nothing comes into
        (root / "bob/later/none").mkdir()
        bob._waker._watched = "later/none"

    def without_bell(seconds: float, generation: int, *, deaf: bool) -> Any:
        bell, bob._waker._bell = bob._waker._bell, None
        try:
            return original(seconds, generation, deaf=deaf)
        finally:
            bob._waker._bell = bell

    if dead != "watch":
        bob._waker._sleep = without_bell  # type: ignore[method-assign]
    thread = threading.Thread(target=bob.run, daemon=True)
    thread.start()
    until(lambda: listening(str(root / "bob")))

    def old(number: int) -> None:
        """Moved in by hand, written long ago."""
        draft = root / f"bob/tmp/{number}"
        draft.write_text(f'{{"body": {number}}}')
        os.utime(draft, (1, 1))
        draft.rename(root / f"bob/new/{number}.json")

    for number in range(5):
        old(number)
        until(lambda: len(got) == number + 1)  # noqa: B023  # it is waited for before the next
    until(lambda: listening(str(root / "bob"))[0].handled == 5)
    (one,) = listening(str(root / "bob"))
    while thread.is_alive():
        bob.stop()
        thread.join(0.01)
    alice.close()
    bob.close()

    assert sorted(got) == list(range(5))
    assert one.missed == (0 if dead == "bell" else MISSES)  # then it is taken for dead
    assert one.watch == (None if dead == "bell" else "no notices come")
    assert (one.announced == 5) == (dead == "bell")


NAMESPACED = """
import sys
from filemailbox import Mailbox
box = Mailbox("bob", sys.argv[1], durable=False, poll_interval=20)

@box.on()
def handle(message):
    print(message.body, flush=True)

print("begun", flush=True)
box.run()
"""


@pytest.mark.parametrize("how", ["ring", "watchfiles", "inotify"])
def test_wake_ups_cross_namespaces(root: Path, alice: Mailbox, how: str) -> None:
    """A listener in PID, network, mount, IPC and user namespaces of its own: the rescan is too far away to help."""
    wrap = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--net", "--mount", "--ipc"]
    if subprocess.run([*wrap, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("needs user namespaces")
    command = [*wrap, sys.executable, "-c", NAMESPACED, str(root)]
    env = {**os.environ, "PYTHONPATH": SOURCE, "MAILBOX_WATCHER": "poll" if how == "ring" else how}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) as listener:
        assert listener.stdout
        said = [listener.stdout.readline()]
        for number in range(3):
            if how == "ring":
                alice.send("bob", f"mail {number}")
            else:
                (root / "bob/tmp/x").write_text(f'{{"body": "mail {number}"}}')
                (root / "bob/tmp/x").rename(root / f"bob/new/{number}.json")
            said.append(listener.stdout.readline())
        listener.kill()

    assert said == ["begun\n", "mail 0\n", "mail 1\n", "mail 2\n"]


# Another user may not be able to read the interpreter's files: all that is imported later is imported before.
AS_USER = """
import os, sys
from filemailbox import Mailbox; from filemailbox.system import inotify; from watchfiles import _rust_notify
warm = Mailbox.init("warm", f"{sys.argv[1]}/../warm")
warm.on()(print)
warm.send("warm", "warm", type="warm")
with warm.listening() as listener:
    message = next(listener.messages())
    listener.tick()
    message.ack()
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
"""


def test_wake_ups_cross_users(shared: Path, as_root: None, start: Callable[..., Any]) -> None:
    """Each agent has a uid of its own: the kernel lets it drop mail and ring, and nothing else."""
    root = shared / "mail"
    for name, uid in (("alice", 12001), ("bob", 12002)):
        subprocess.run(
            [sys.executable, "-m", "filemailbox", "init", name, "--owner", f"{uid}:{uid}", "--root", root],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": SOURCE},
        )
    bob = start(AS_USER + NAMESPACED, root, 12002)
    said = [bob.line()]
    sender = (
        AS_USER
        + """
with Mailbox("alice", sys.argv[1], durable=False) as box:
    for number in range(3):
        box.send("bob", f"mail {number}")
        sys.stdin.readline()
"""
    )
    alice = start(sender, root, 12001)
    for _ in range(3):
        said.append(bob.line())
        alice.say()

    assert said == ["begun", "mail 0", "mail 1", "mail 2"]
    assert alice.end() == 0
