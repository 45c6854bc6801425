"""The programs of the soak: they send, they take, and they write down each thing before and after they do it.

Run as `python agents.py ROLE ROOT LOG NAME …`, so that each is a process of its own, with its own environment: its
clock can be another one (libfaketime), and it can be killed. See history.py for what stands in a log.
"""

import itertools
import json
import logging
import os
import random
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from filemailbox import (
    DiskFullError,
    DurabilityUnknownError,
    Mailbox,
    MailboxError,
    Message,
    NotClaimedError,
    PermissionDeniedError,
)
from filemailbox.store.ids import new_id
from filemailbox.store.ledger import Ledger
from filemailbox.trust.levels import PROVEN

_PAUSE: Final = 0.02  # seconds after trouble
SHELL: Final = str(Path(__file__).resolve().parent.parent / "mailbox-send")


class Log:
    """Appended to, a line in one write: a kill leaves whole lines."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def __call__(self, do: str, **facts: Any) -> None:
        line = {"do": do, "at": time.monotonic_ns(), **facts}  # one clock for all processes, that never steps
        os.write(self._file, json.dumps(line).encode() + b"\n")


class _Unnoted(logging.Handler):
    """Writes down which messages could not be noted in the ledger: the mailbox says so in its own log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.ERROR)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if "could not be recorded as handled" in record.getMessage():
            self._log("unnoted", id=record.getMessage().split()[0])


class _Asked:
    """When this process last asked a ledger whether a message was handled."""

    at = 0

    @classmethod
    def note(cls) -> None:
        """Have it noted from now on."""
        real = Ledger.handled

        def handled(ledger: Ledger, trust: str, sender: str, key: str) -> bool:
            cls.at = time.monotonic_ns()
            return real(ledger, trust, sender, key)

        Ledger.handled = handled  # type: ignore[method-assign, assignment]


def consume(root: str, log: Log, name: str, keys: str) -> None:
    """Take what comes, handle it for a moment, ack it. Whatever the disk says, go on."""
    chance = random.Random()
    logging.getLogger("filemailbox").addHandler(_Unnoted(log))
    box = Mailbox(name, root, durable=False, max_attempts=1_000_000, key_dir=keys or None)
    _Asked.note()
    while True:
        try:
            message = box.receive(timeout=None)
        except MailboxError as error:
            log("trouble", why=str(error))
            time.sleep(_PAUSE)
            continue
        assert message is not None
        body = message.body if isinstance(message.body, dict) else {}
        facts: dict[str, Any] = {"token": body.get("token"), "id": message.reply_id, "from": message.sender}
        foreign = ",N=" in message.name
        if message.trust in PROVEN:
            facts["looked"] = _Asked.at
        log("got", box=name, attempt=message.attempt, trust=message.trust, foreign=foreign, **facts)
        if chance.random() < 0.05:
            time.sleep(0.01)
        _ack(message, log, {**facts, "name": message.id})


def _ack(message: Message[Any], log: Log, facts: dict[str, Any]) -> None:
    while True:
        try:
            message.ack()
        except NotClaimedError as error:
            return log("trouble", why=str(error))
        except MailboxError as error:
            log("trouble", why=str(error))
            time.sleep(_PAUSE)
        else:
            return log("acked", **facts)


def send(root: str, log: Log, name: str, keys: str, others: list[str], stop: str, how: str) -> None:
    """Send to all the others by chance, until the file *stop* is there."""
    chance, tokens = random.Random(), (f"{name}-{os.getpid()}-{time.monotonic_ns():x}-{n}" for n in itertools.count())
    ways = {"python": in_python, "command": by_command, "shell": in_shell, "mv": by_hand}
    box = Mailbox(name, root, durable=how == "python" and chance.random() < 0.5, key_dir=keys or None)
    while not os.path.exists(stop):
        to, token = chance.choice(others), next(tokens)
        if how != "forge":
            log("send", token=token, to=to, how=how, **{"from": name})
        try:
            if how == "forge":
                forge(root, log, token)
            else:
                ways[how](Task(box, root, log, to, token, bool(keys) and to in os.environ["SOAK_KEYED"].split()))
        except (DiskFullError, PermissionDeniedError) as error:
            log("refused", token=token, why=str(error))
            time.sleep(_PAUSE)
        except MailboxError as error:
            log("unknown", token=token, why=str(error))
            time.sleep(_PAUSE)
        time.sleep(float(os.environ["SOAK_PAUSE"]) * chance.random())


class Task(NamedTuple):
    """One message to send."""

    box: Mailbox
    root: str
    log: Log
    to: str
    token: str
    keyed: bool  # whether both have keys


def in_python(task: Task) -> None:
    """send(), sealed or signed where both have keys; again under the same id where the disk did not confirm it."""
    box, _, log, to, token, keyed = task
    how = {"seal": True} if keyed and len(token) % 2 else {"sign": True} if keyed else {}
    id = new_id()
    while True:
        try:
            log("sent", token=token, id=box.send(to, {"token": token, "fill": "x" * 100}, id=id, **how))  # type: ignore[arg-type]
        except DurabilityUnknownError:
            log("send", token=token, to=to, how="again", **{"from": box.name})
        else:
            return


def by_command(task: Task) -> None:
    """`mailbox send`."""
    words = [sys.executable, "-m", "filemailbox", "send", task.to, json.dumps({"token": task.token}), "--json-body"]
    _command([*words, "--seal"] if task.keyed else words, task)


def in_shell(task: Task) -> None:
    """scripts/mailbox-send, without Python."""
    _command([SHELL, task.to, "--json-body", json.dumps({"token": task.token}), "--no-durable"], task)


def by_hand(task: Task) -> None:
    """printf and mv."""
    box, body = f"{task.root}/{task.to}", {"token": task.token}
    text = json.dumps({"from": task.box.name, "to": task.to, "body": body})
    script = 'printf %s "$1" > "$2/tmp/$3" && mv "$2/tmp/$3" "$2/new/$3.json"'
    _command(["sh", "-c", script, "sh", text, box, task.token], task)


def forge(root: str, log: Log, token: str) -> None:
    """Mail in another's name, unsigned; and proven mail that was seen, put there once more and into other boxes.

    Not into the box of him whose name it bears: nobody's own key is pinned there, and what is not proven is told so.
    """
    victims = os.environ["SOAK_KEYED"].split()
    to = random.choice(victims)
    if random.random() < 0.5:
        log("forge", token=token)
        name = random.choice([each for each in victims if each != to])
        _put(root, to, token, json.dumps({"from": name, "to": to, "body": {"token": token}}).encode())
        return
    seen = [path for path in _listed(f"{root}/{to}/new") if path.endswith(".json")]
    if seen:
        try:
            data = Path(random.choice(seen)).read_bytes()
        except FileNotFoundError:
            return
        if b'"sealed"' in data or b'"sig"' in data:
            for target in {to, *victims} - {json.loads(data).get("from")}:
                _put(root, target, f"{token}-{target}", data)


def _put(root: str, to: str, name: str, data: bytes) -> None:
    try:
        Path(f"{root}/{to}/tmp/{name}").write_bytes(data)
        os.rename(f"{root}/{to}/tmp/{name}", f"{root}/{to}/new/{name}.json")
    except OSError:
        return


def _listed(folder: str) -> list[str]:
    try:
        return [f"{folder}/{name}" for name in os.listdir(folder)]
    except OSError:
        return []


def _command(words: list[str], task: Task) -> None:
    """A command that sends: 75 and 77 say that nothing was delivered, other failures say nothing."""
    log, token = task.log, task.token
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        log("sent", token=token, id=done.stdout.strip() or "foreign")
    elif done.returncode in (75, 77):
        log("refused", token=token, why=done.stderr)
    else:
        log("unknown", token=token, why=f"exit {done.returncode}: {done.stderr[-200:]}")


def _sleep(seconds: float) -> None:
    """time.sleep() under libfaketime is refused: it takes the other clock for the one that sleeps are measured by."""
    select.select([], [], [], seconds)


def main(words: list[str]) -> None:
    time.sleep = _sleep  # type: ignore[assignment]
    role, root, log, name, keys, *rest = words
    if role == "consume":
        consume(root, Log(log), name, keys)
    else:
        others, stop, how = rest
        send(root, Log(log), name, keys, others.split(), stop, how)


if __name__ == "__main__":
    main(sys.argv[1:])
