"""Hostile entries of a box: nothing blocks, nothing raises, good mail beside them comes, and each ends as it must."""

import contextlib
import logging
import os
import queue
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from filemailbox import Mailbox, doctor, spool
from filemailbox import root as roots
from filemailbox.message import Message
from hostile import KINDS, SECRET, Ground, Kind, ending, harmless

WATCHDOG = 10.0
"""Seconds in which whatever does not wait for anything is done, on the slowest machine."""

MAIL = f'{{"body":"{SECRET}"}}'


def able(kind: Kind) -> Any:
    """The kind, for those who can plant it."""
    marks = pytest.mark.skipif(kind.root and os.geteuid() != 0, reason="only root can plant it")
    return pytest.param(kind, id=kind.name, marks=marks)


each_kind = pytest.mark.parametrize("kind", [able(kind) for kind in KINDS])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What is beside the volume, and nobody's business: a secret."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text(MAIL)
    return folder


@pytest.fixture
def ground(root: Path, outside: Path) -> Iterator[Ground]:
    """Bob's new/."""
    with ExitStack() as alive:
        yield Ground(root / "bob/new", outside, alive)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been still for a tenth of a second is given up, not after five."""
    monkeypatch.setattr(spool, "STILL", 0.1)


class Listening:
    """A real listener, in a thread: it tells what it was handed, and how it ended."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.box = Mailbox("bob", root, durable=False, rescan=0.02, **settings)
        self.heard: queue.Queue[Message[Any]] = queue.Queue()
        self.failed: BaseException | None = None
        self.strange: list[Any] = []
        self.box.on()(self.heard.put)
        self.thread = threading.Thread(target=self._run, daemon=True)  # one that hangs must not keep us

    def _run(self) -> None:
        try:
            self.box.run()
        except BaseException as error:  # noqa: BLE001  # that is what is tried
            self.failed = error

    def wait_for(self, body: str) -> None:
        """Wait until this good mail has come; what else came is kept."""
        while True:
            message = self.heard.get(timeout=WATCHDOG)
            if message.body == body:
                return
            self.strange.append(message.body)

    def __enter__(self) -> "Listening":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.box.stop()
        self.thread.join(WATCHDOG)

        assert not self.thread.is_alive(), "the listener hangs"
        assert self.failed is None, f"the listener raised {self.failed!r}"


@contextlib.contextmanager
def watchdog() -> Iterator[None]:
    """Whatever blocks is interrupted, and fails."""

    def bark(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"it has hung for {WATCHDOG:g} s")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, WATCHDOG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def as_we_see(kind: Kind) -> str:
    """How it ends for us: root reads what its sender has hidden."""
    return "mail" if kind.private and os.geteuid() == 0 else kind.end


def said_of(root: Path, log: list[str]) -> str:
    """All that is told of what is left alone: by the log, by `mailbox doctor`, by `mailbox list`."""
    found = [finding.what for finding in doctor.examine(roots.find(root))]
    with Mailbox("bob", root) as bob:
        found += [message.problem for message in bob.peek("new") if message.problem]
    return "\n".join([*log, *found])


@each_kind
def test_it_stops_no_listener_and_ends_as_it_must(
    root: Path,
    ground: Ground,
    alice: Mailbox,
    kind: Kind,
    soon: None,
    until: Callable[[Callable[[], object]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The mail before it and the mail behind it is delivered, once; nothing else is, unless it is mail after all."""
    caplog.set_level(logging.WARNING, "filemailbox")
    end = as_we_see(kind)
    alice.send("bob", "before")
    kind.plant(ground)
    alice.send("bob", "behind")
    with Listening(root) as listening:
        listening.wait_for("before")
        listening.wait_for("behind")
        if end != "left":
            until(lambda: all(ending(root / "bob", name)[0] == end for name in ground.planted))
        if end == "mail":
            until(lambda: len(listening.strange) + listening.heard.qsize() == len(ground.planted))
        alice.send("bob", "last")
        listening.wait_for("last")
        if end == "left":
            until(lambda: re.search(kind.reason, said_of(root, caplog.messages)))
        ends = {ending(root / "bob", name) for name in ground.planted}

    assert {how for how, _ in ends} == {end}
    assert len(listening.strange) == (len(ground.planted) if end == "mail" else 0)
    assert all(re.search(kind.reason, why) for _, why in ends if end == kind.end != "left")
    assert SECRET not in str(listening.strange)
    assert (ground.outside / "secret").read_text() == MAIL


@each_kind
def test_it_can_be_looked_at_by_every_command(
    root: Path, ground: Ground, alice: Mailbox, mailbox: Callable[..., Any], kind: Kind
) -> None:
    """Lists, doctors and readers neither fail nor wait; what they print moves no cursor, and holds no secret."""
    alice.send("bob", "before")
    kind.plant(ground)
    alice.send("bob", "behind")
    with watchdog(), Mailbox("bob", root) as bob:
        seen = {message.name: message for message in bob.peek("new", "later", "cur", "dead", "done")}
        waits = bob.wait(0)
    ours = [name for name in ground.planted if name.endswith(".json") and not name.startswith(".")]
    commands = [["list"], ["list", "--json"], ["doctor"], ["agents"], ["status"], ["gc", "--dry-run"]]
    commands += [["wait", "--timeout", "0"], *(["read", *how, "--", name] for name in ours for how in ([], ["--json"]))]
    said = []
    for words in commands:
        with watchdog():
            said.append(mailbox(*words))
    for name in ours:
        with watchdog():
            assert SECRET not in mailbox("read", "--raw", "--", name).out

    assert waits
    assert {"before", "behind"} <= {message.body for message in seen.values() if type(message.body) is str}
    assert set(ours) <= set(seen)
    assert all(seen[name].problem for name in ours) or as_we_see(kind) != "removed"
    assert SECRET not in str([(message.raw, message.body) for message in seen.values()])
    assert {each.code for each in said} <= {0, 1, 65}, [each for each in said if each.code not in (0, 1, 65)]
    assert [text for each in said for text in (each.out, each.err) if not harmless(text)] == []


JUNK = 500_000 if os.environ.get("CI") or os.environ.get("MAILBOX_FULL") else 20_000


@pytest.fixture
def memory() -> Iterator[Path]:
    """A root in memory, where there is one: what is tried is not the disk."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="filemailbox-", dir=where) as folder:
        for name in ("alice", "bob"):
            Mailbox.init(name, f"{folder}/mail").close()
        yield Path(folder) / "mail"


def test_half_a_million_files_of_junk_stop_no_mail(memory: Path, soon: None) -> None:
    """Names that are nobody's, half-written files, wrong sizes, links. Fewer, but in CI."""
    new = f"{memory}/bob/new"
    for n in range(JUNK // 10):
        for junk in range(6):
            os.mknod(f"{new}/junk-{n}-{junk}")
        os.mknod(f"{new}/.junk-{n}.json")
        os.mknod(f"{new}/junk-{n}.json")
        os.mknod(f"{new}/20200101T000000.{n:09d}Z-0123456789ab,S=9.json")
        os.symlink("x", f"{new}/link-{n}.json")
    with Mailbox("alice", memory, durable=False) as alice, Listening(memory) as listening:
        for body in ("first", "second", "third"):
            alice.send("bob", body)
            listening.wait_for(body)
        assert listening.strange == []


# The other folders, which whoever shares our uid can reach, and senders in part

PLACES = {
    "tmp": ("bob/tmp", ""),
    "replies": ("bob/replies", ""),
    "a request": ("bob/replies/20200101T000000.000000000Z-0123456789ab", ""),
    "run": ("bob/run", ""),
    "cur": ("bob/cur", ""),
    "a consumer": ("bob/cur/0123456789ab", ""),
    "later": ("bob/later", "20200101T000000.000000000Z~"),
    "dead": ("bob/dead", ""),
    "done": ("bob/done", "20200101T000000.000000000Z~"),
    "ledger": ("bob/ledger", ""),
    "the box": ("bob", ""),
    "the volume": (".", ""),
}


@pytest.mark.parametrize("place", PLACES)
def test_in_no_other_folder_do_they_stop_anything(
    root: Path, outside: Path, alice: Mailbox, mailbox: Callable[..., Any], soon: None, place: str
) -> None:
    """All of them at once: mail comes, commands answer, dead letters can be taken up again, and no secret is shown."""
    path, prefix = PLACES[place]
    (root / path).mkdir(exist_ok=True)
    with ExitStack() as alive:
        ground = Ground(root / path, outside, alive, prefix)
        for kind in KINDS:
            if (not kind.root or os.geteuid() == 0) and not (prefix and "255 bytes" in kind.name):
                kind.plant(ground)
        said = [mailbox("list", "--all"), mailbox("list", "--all", "--json")]
        with Listening(root) as listening:
            for body in ("before", "behind"):
                alice.send("bob", body)
                listening.wait_for(body)
            said += [mailbox(*words) for words in (["doctor"], ["agents"], ["status"], ["gc", "--dry-run"])]
        with watchdog(), Mailbox("bob", root, durable=False) as bob:
            while (message := bob.receive()) is not None:
                listening.strange.append(message.body)
                message.ack()
        for words in (["dead", "list"], ["dead", "requeue", "--all"], ["gc"], ["doctor", "--fix"], ["dead", "list"]):
            with watchdog():
                said.append(mailbox(*words))
        with watchdog():
            alice.send("bob", "last")
            assert mailbox("receive", "--wait", "9s", "--body").out

    assert {each.code for each in said} <= {0, 1, 65, 74, 77}, [each for each in said if each.code not in (0, 1, 65)]
    assert [text for each in said for text in (each.out, each.err) if not harmless(text)] == []
    assert SECRET not in str(listening.strange)
    assert (outside / "secret").read_text() == MAIL
