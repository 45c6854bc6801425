"""Hostile entries of a box: nothing blocks, nothing raises, good mail beside them comes, and each ends as it must."""

import contextlib
import itertools
import logging
import os
import queue
import random
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from filemailbox import Mailbox, MailboxError
from filemailbox.format.address import parse_address
from filemailbox.ops import doctor
from filemailbox.receive.message import Message
from filemailbox.store import intake, replies, spool
from filemailbox.store.box import create_box
from filemailbox.store.ids import new_id
from filemailbox.store.root import find_root, init_root
from filemailbox.system import files
from support.hostile import KINDS, LIMIT, SECRET, Ground, Kind, ending, harmless
from support.uids import Actor, act, staying

WATCHDOG = 60.0
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
    monkeypatch.setattr(intake, "INCOMPLETE_GRACE", 0.1)


class Listening:
    """A real listener, in a thread: it tells what it was handed, and how it ended."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.box = Mailbox("bob", root, durable=False, poll_interval=0.02, **settings)
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

    def wait_for(self, body: str, patience: float = WATCHDOG) -> None:
        """Wait until this good mail has come; what else came is kept."""
        sent = time.monotonic()
        while True:
            try:
                message = self.heard.get(timeout=patience)
            except queue.Empty:
                took = time.monotonic() - sent
                raise AssertionError(f"the message {body!r} has not come in {took:.1f} s") from None
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
    found = [finding.problem for finding in doctor.examine(find_root(root))]
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


def test_half_a_million_files_of_junk_stop_no_mail(
    memory: Path, soon: None, record_property: Callable[[str, object], None]
) -> None:
    """Names that are nobody's, half-written files, wrong sizes, links. Fewer, but in CI. It says how long mail took."""
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
            sent = time.monotonic()
            alice.send("bob", body)
            listening.wait_for(body, 6 * WATCHDOG)
            took = time.monotonic() - sent
            record_property(body, took)
            print(f"behind {JUNK} files of junk the {body} message took {took * 1e3:.1f} ms")
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


IN_THE_WAY: dict[str, Callable[[Path, Path], object]] = {
    "a symbolic link": lambda path, outside: path.symlink_to(outside),
    "a FIFO": lambda path, outside: os.mkfifo(path),
    "a file": lambda path, outside: path.touch(),
}


@pytest.mark.parametrize("place", ["new", "replies", "cur", "later", "dead", "done", "tmp", "run", "ledger"])
@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_lies_in_the_place_of_a_folder_is_told_and_not_followed(
    root: Path, outside: Path, alice: Mailbox, mailbox: Callable[..., Any], place: str, what: str
) -> None:
    """Whoever shares our uid can do that. Nothing hangs, nothing outside is touched; put back, mail comes again."""
    alice.send("bob", "waiting")
    folder, aside = root / "bob" / place, root / "bob/aside"
    (outside / "x.json").write_text('{"from":"outside"}')
    (outside / "20200101T000000.000000000Z~20200101T000000.000000000Z-00000000000a,S=18.json").write_text(MAIL)
    before = {path: path.stat().st_mtime_ns for path in outside.iterdir()}
    os.rename(folder, aside)
    IN_THE_WAY[what](folder, outside)
    with watchdog(), Mailbox("bob", root, durable=False) as bob:
        if place in ("tmp", "run", "ledger"):  # they are not needed for that
            with bob.receive() or pytest.fail("it does not come") as message:
                assert message.body == "waiting"
                message.release()
        else:
            with pytest.raises(MailboxError, match=f'{place}" is {what}, not a folder'):
                bob.receive()
    said = []
    for words in (["list", "--all"], ["doctor"], ["doctor", "--fix"], ["agents"], ["status"], ["gc"], ["receive"]):
        with watchdog():
            said.append(mailbox(*words))
    folder.unlink()
    os.rename(aside, folder)
    after = {path: path.stat().st_mtime_ns for path in outside.iterdir()}
    with Mailbox("bob", root, durable=False) as bob:
        again = bob.receive()

    assert f"its {place} is not a folder" in said[1].out
    assert "outside" not in str(said[0]) + str(said[-1])
    assert after == before
    assert "waiting" in said[-1].out or (again is not None and again.body == "waiting")


@pytest.mark.parametrize("what", ["a symbolic link", "a FIFO"])
def test_a_listener_whose_folder_is_replaced_goes_on_when_it_is_back(
    root: Path, outside: Path, alice: Mailbox, what: str, caplog: pytest.LogCaptureFixture, until: Callable[..., None]
) -> None:
    """Meanwhile it says so, and takes nothing from where a link leads."""
    (outside / "x.json").write_text('{"from":"outside"}')
    new, aside = root / "bob/new", root / "bob/aside"
    with Listening(root) as listening:
        alice.send("bob", "before")
        listening.wait_for("before")
        os.rename(new, aside)
        IN_THE_WAY[what](new, outside)
        until(lambda: f'new" is {what}, not a folder' in caplog.text)
        new.unlink()
        os.rename(aside, new)
        alice.send("bob", "behind")
        listening.wait_for("behind")

    assert listening.strange == []
    assert (outside / "x.json").exists()


def test_a_fifo_in_the_place_of_a_file_makes_nobody_wait(
    root: Path, alice: Mailbox, mailbox: Callable[..., Any]
) -> None:
    """What a listener says of itself, and the marker of the root: both are opened by programs of others."""
    with watchdog(), Mailbox("bob", root, durable=False) as bob:
        bob.receive()
        status = root / f"bob/run/status-{bob._receiver.folder}.json"
        os.mkfifo(status)
        with bob.listening() as listener:
            listener.open()
            listener.before_wait()
            said = [mailbox("agents"), mailbox("status"), mailbox("doctor")]
        status.unlink(missing_ok=True)
    (root / ".mailbox").unlink()
    os.mkfifo(root / ".mailbox")
    with watchdog():
        lost = mailbox("list")

    assert {each.code for each in said} <= {0, 1}
    assert lost.code == 69
    assert "its .mailbox file is not JSON" in lost.err


# What root does to boxes of others


def test_root_gives_nothing_away_through_a_link(as_root: None, shared: Path, mailbox: Callable[..., Any]) -> None:
    """The owner of a box puts a link in the place of a folder; no command of root's follows it."""
    volume, target = init_root(shared / "mail"), shared / "target"
    create_box(volume.box(parse_address("bob")), (2001, 2001))
    target.mkdir(mode=0o700)
    (shared / "mail/bob/tmp").rmdir()
    (shared / "mail/bob/tmp").symlink_to(target)
    os.chown(shared / "mail/bob/tmp", 2001, 100, follow_symlinks=False)  # a group of its own that the box has not
    (shared / "mail/bob/done").chmod(0o777)  # something to mend
    (shared / "mail/evil").symlink_to(target)
    said = [mailbox("doctor", "--fix", "--root", shared / "mail")]
    said += [mailbox("init", "--root", shared / "mail", "--owner", "2001:2001", name) for name in ("bob", "evil")]
    facts = target.stat()

    assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o7777) == (0, 0, 0o700)
    assert list(target.iterdir()) == []
    assert said[0].code == 1
    assert said[2].code == 77
    assert "is a symbolic link, not a folder" in said[2].err


@pytest.mark.parametrize("there", ["bob", ".bob"])
def test_a_box_that_somebody_has_made_before_is_not_given_away(
    as_root: None, shared: Path, mailbox: Callable[..., Any], there: str
) -> None:
    """Where anybody may make boxes: he would still hold its folders open, and read what comes."""
    volume = init_root(shared / "mail")
    os.chmod(volume.path, 0o1777)
    for folder in (".", "new", "cur", "cur/0123456789ab"):
        (shared / "mail" / there / folder).mkdir(exist_ok=True)
        os.chown(shared / "mail" / there / folder, 2003, 2003)
    said = mailbox("init", "--root", shared / "mail", "--owner", "2001:2001", "bob")

    assert said.code == 77
    assert "belongs to the uid 2003, not to 2001: that uid has made it" in said.err
    assert (shared / "mail" / there).stat().st_uid == 2003


# Requests, which anybody can pretend


def test_what_is_planted_in_a_request_replaces_no_mail(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """A request's folder is swept into new/; somebody has put a file there that is called like mail that waits."""
    (root / "bob/new/job.json").write_text('{"from":"alice"}')
    request = root / "bob/replies" / new_id()
    request.mkdir()
    (request / "job.json").write_text('{"from":"mallory"}')
    taken = []
    for _ in range(2):
        with bob, bob.receive() or pytest.fail("it is gone") as message:
            taken.append(message.sender)

    assert taken == ["alice", "mallory"]


def test_a_request_that_is_filled_for_ever_is_left_to_the_sweep(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for an answer leaves, however fast others put more into its folder."""
    box, request = str(root / "bob"), new_id()
    real, count = files.list_dir, iter(range(10**6))

    def filling(folder: int) -> list[str]:
        listed = real(folder)
        os.close(os.open(f"more-{next(count)}.json", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        return listed

    os.mkdir(f"{box}/replies/{request}")
    Path(f"{box}/replies/{request}/first.json").touch()
    monkeypatch.setattr(replies, "list_dir", filling)
    with watchdog():
        replies.abandon(box, request)

    assert os.path.exists(f"{box}/replies/{request}")


def test_many_requests_that_cannot_be_left_stop_nothing(root: Path, alice: Mailbox, soon: None) -> None:
    """Each sweep takes some of them, from anywhere; one that can be left is, in the end."""
    for n in range(600):
        full = root / f"bob/replies/20200101T000000.{n:09d}Z-0123456789ab"
        (full / "x").mkdir(parents=True)
        full.chmod(0)
    honest = root / "bob/replies" / new_id()
    honest.mkdir()
    (honest / "late.json").write_text('{"body":"late"}')
    with Listening(root) as listening:
        alice.send("bob", "before")
        listening.wait_for("before")
        if "late" not in listening.strange:
            listening.wait_for("late")


# A uid each: a listener without rights, a planter with none to its box


RECIPIENT, SENDER, ATTACKER = Actor("recipient", 2001), Actor("sender", 2002), Actor("attacker", 2003)


def planted_by_root(kind: Kind) -> bool:
    """What the attacker cannot plant itself. A hard link to a file of others: only where the kernel does not mind."""
    return kind.root or kind.name.startswith("hard link")


def test_one_listener_lives_through_all_of_them(as_root: None, shared: Path, until: Callable[..., None]) -> None:
    """Its uid is that of nobody who planted them. Each ends as it must; good mail comes; SIGTERM ends it in order."""
    volume, outside = shared / "mail", shared / "outside"
    create_box(init_root(volume).box(parse_address("bob")), (2001, 2001))
    outside.mkdir(mode=0o755)
    (outside / "secret").write_text(MAIL)
    os.chmod(outside / "secret", 0o600)
    os.chown(outside / "secret", 2001, 2001)

    def good(body: str) -> None:
        with Mailbox("carol", volume) as carol:
            carol.send("bob", body)

    def plant(tell: Callable[[Any], object], by_root: bool) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        with ExitStack() as alive:
            tell(plant_all(alive, by_root))
            signal.sigwait({signal.SIGTERM})

    def plant_all(alive: ExitStack, by_root: bool) -> list[tuple[str, list[str]]]:
        ground = Ground(volume / "bob/new", outside, alive, tag="root-" if by_root else "")
        for kind in KINDS:
            if planted_by_root(kind) == by_root:
                before = len(ground.planted)
                kind.plant(ground)
                names_of[kind.name] = ground.planted[before:]
        return list(names_of.items())

    def listen(tell: Callable[[Any], object]) -> None:
        vars(intake)["INCOMPLETE_GRACE"] = 0.1
        with Mailbox("bob", volume, durable=False, poll_interval=0.02) as bob:

            @bob.on()
            def handle(message: Message[Any]) -> None:
                tell(message.body if len(message.raw) < 1000 else "long")

            bob.run()
        tell("ended in order")

    names_of: dict[str, list[str]] = {}
    act(SENDER, lambda: good("before"))
    with (
        staying(Actor("root", 0), lambda tell: plant(tell, True)) as root,
        staying(ATTACKER, lambda tell: plant(tell, False)) as attacker,
    ):
        planted = dict(root.hear(WATCHDOG) + attacker.hear(WATCHDOG))
        act(SENDER, lambda: good("behind"))
        with staying(RECIPIENT, listen) as listener:
            heard: list[Any] = []
            mail = sum(len(planted[kind.name]) for kind in KINDS if kind.end == "mail")
            while len(heard) < mail + 2:
                heard.append(listener.hear(WATCHDOG))
            box = volume / "bob"
            for kind in KINDS:
                until(lambda kind=kind: {ending(box, name)[0] for name in planted[kind.name]} == {kind.end})
            act(SENDER, lambda: good("last"))
            assert listener.hear(WATCHDOG) == "last"
            os.kill(listener.pid, signal.SIGTERM)
            assert listener.hear(WATCHDOG) == "ended in order"
        said = {kind: [ending(box, name)[1] for name in planted[kind.name]] for kind in KINDS}

    assert {"before", "behind"} <= {body for body in heard if type(body) is str}
    assert SECRET not in str(heard)
    assert [kind.name for kind in KINDS if not all(re.search(kind.reason, why) for why in said[kind] if why)] == []
    assert len(planted) == len(KINDS) >= 60


# A race: what lies under a name changes between a look and a read

READS: Final = int(os.environ.get("MAILBOX_READS", "20000"))
"""Reads of each of our readers, however long they take. `scripts/prove swap` does two million."""

SHAPES: dict[str, Callable[[str, str], object]] = {
    "file": lambda path, secret: Path(path).write_bytes(b"x" * len(MAIL)),
    "mail": lambda path, secret: Path(path).write_bytes(b'{"body":"%s"}' % (b"x" * (len(MAIL) - 11))),
    "symbolic link": lambda path, secret: os.symlink(secret, path),
    "hard link": lambda path, secret: os.link(secret, path),
    "FIFO": lambda path, secret: os.mkfifo(path),
}


def swap(folder: str, secret: str, tell: Callable[[Any], object]) -> None:
    """Put one shape after the other under a few names, each in one step, as fast as it goes; for ever."""
    scratch = f"{os.path.dirname(secret)}/scratch"
    chance = random.Random(7)
    under = [f"{folder}/20200101T000000.00000000{n}Z-0123456789ab,S={len(MAIL)}.json" for n in range(3)]
    tell("ready")
    while True:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scratch)
        SHAPES[chance.choice(list(SHAPES))](scratch, secret)
        with contextlib.suppress(OSError):  # the folder of a request may be gone
            os.rename(scratch, chance.choice(under))


def read_by_claims(root: Path) -> Iterator[bytes]:
    """As a listener does; half of it is put off, and read anew from later/."""
    taker = spool.Spool(find_root(root).box(parse_address("bob")))
    for turn in itertools.count():
        claim = taker.claim()
        if claim is None:
            yield b""
            continue
        yield claim[1]
        if claim[3] and turn % 2:
            taker.defer(claim[0], 0)
        else:
            taker.dead_letter(claim[0], "done")  # what is buried, a person looks at
        for dead in os.listdir(root / "bob/dead"):
            os.unlink(root / "bob/dead" / dead)


def read_by_looks(root: Path) -> Iterator[bytes]:
    """As `mailbox list` does."""
    with Mailbox("bob", root) as bob:
        while True:
            yield b""
            for message in bob.peek():
                yield message.raw


def read_answers(root: Path) -> Iterator[bytes]:
    """As request() does: the attacker was asked."""
    with replies.PendingRequest(str(root / "bob"), REQUEST) as reply:
        while True:
            yield b""
            for answer in reply.answers(LIMIT):
                yield answer[1]


def read_naively(root: Path) -> Iterator[bytes]:
    """Look whether it is a plain file, then open it: what one writes without thinking."""
    new = root / "bob/new"
    while True:
        yield b""
        for path in new.iterdir():
            with contextlib.suppress(OSError):
                if not path.is_symlink() and path.is_file() and path.stat().st_nlink == 1:
                    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without that it hangs at the first FIFO
                    with open(file, "rb") as opened:
                        yield opened.read() or b""


REQUEST = "20200101T000000.000000000Z-0123456789ab"


@pytest.fixture
def race(memory: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[str], None]]:
    """race(folder): let an attacker of our own uid loose on it: the worst case."""
    caplog.set_level(logging.CRITICAL, "filemailbox")  # it would tell of every link
    secret = memory.parent / "secret"
    secret.write_text(MAIL)
    with ExitStack() as running:

        def begin(folder: str) -> None:
            path, me = str(memory / "bob" / folder), Actor("attacker", os.geteuid())
            attacker = running.enter_context(staying(me, lambda tell: swap(path, str(secret), tell)))
            assert attacker.hear(WATCHDOG) == "ready"

        yield begin


@pytest.mark.parametrize(
    ("reader", "folder"),
    [
        pytest.param(read_by_claims, "new", id="claim"),
        pytest.param(read_by_looks, "new", id="peek"),
        pytest.param(read_answers, f"replies/{REQUEST}", id="request"),
    ],
)
def test_what_is_swapped_while_it_is_read_leaks_nothing(
    memory: Path,
    race: Callable[[str], None],
    reader: Callable[[Path], Iterator[bytes]],
    folder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """20 000 reads against an attacker who does nothing else: mail comes, the secret never. More: `prove swap`."""
    opened, real = [0], os.open

    def counting(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(f",S={len(MAIL)}.json"):
            opened[0] += 1
        return real(path, *arguments, **options)

    reads = reader(memory)
    next(reads)
    race(folder)
    monkeypatch.setattr(os, "open", counting)
    got: Counter[bytes] = Counter()
    while opened[0] < READS:
        got[next(reads)] += 1

    assert [data for data in got if SECRET.encode() in data] == []
    assert sum(count for data, count in got.items() if data) > READS // 100  # it was no race against nothing


def test_a_link_that_is_replaced_before_it_is_counted_is_not_read(
    root: Path, ground: Ground, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the secret has one link: its own. What counts is what lies in our folder; the mail that came is not lost."""
    hidden, real = ground.outside / "mail", os.fstat
    hidden.write_text(MAIL.replace(SECRET, "x" * len(SECRET)))
    path = ground.ours(f",S={len(MAIL)}")
    os.link(ground.secret, path)

    def late(file: int) -> os.stat_result:
        if hidden.exists() and os.path.samestat(real(file), ground.secret.stat()):
            os.rename(hidden, path)
        return real(file)

    monkeypatch.setattr(os, "fstat", late)
    with bob.receive() or bob.receive() or pytest.fail("it does not come") as message:  # the next look finds it
        assert message.body == "x" * len(SECRET)
    assert not hidden.exists()


@pytest.mark.parametrize("how", ["peek", "request"])
def test_a_link_that_comes_and_goes_between_two_looks_is_not_shown(
    root: Path, ground: Ground, bob: Mailbox, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The worst that an attacker can do to a reader who does not claim: it is there when its name is looked up, gone
    when its links are counted, each time, and no clock tells. That it was ever taken away is what gives it away."""
    secret, real_fstat, real_stat = ground.secret, os.fstat, os.stat
    os.mkdir(root / "bob/replies" / REQUEST)
    folder = root / "bob" / ("new" if how == "peek" else f"replies/{REQUEST}")
    path = folder / f"{new_id()},S={len(MAIL)}.json"
    os.link(secret, path)
    facts = [real_stat(secret)]

    def taken_away(file: int) -> os.stat_result:
        if os.path.samestat(real_fstat(file), facts[0]) and path.exists():
            path.unlink()
            facts[0] = real_fstat(file)
            os.link(secret, path)
            return facts[0]
        return real_fstat(file)

    def looked_up(name: Any, *arguments: Any, **options: Any) -> os.stat_result:
        return facts[0] if name == path.name else real_stat(name, *arguments, **options)

    reply = replies.PendingRequest(str(root / "bob"), REQUEST)
    reply._folder = os.open(folder, files.FOLDER)
    monkeypatch.setattr(os, "fstat", taken_away)
    monkeypatch.setattr(os, "stat", looked_up)
    if how == "peek":
        shown = [message.raw for message in bob.peek("new")]
    else:
        shown = [answer[1] for answer in reply.answers(LIMIT)]
    monkeypatch.undo()
    os.close(reply._folder)
    reply._folder = -1

    assert facts[0].st_nlink == 1  # it was counted when it had no other name
    assert SECRET not in str(shown)


def test_without_proc_a_look_shows_no_body(alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing can tell whether the file has another name; a claim can, and does."""
    alice.send("bob", "hello")
    real = os.readlink

    def missing(path: Any, **options: Any) -> str:
        if str(path).startswith("/proc/"):
            raise FileNotFoundError(path)
        return str(real(path, **options))

    monkeypatch.setattr(os, "readlink", missing)
    (seen,) = bob.peek()

    assert (seen.body, seen.raw) == (None, b"")
    assert "/proc is missing" in (seen.problem or "")
    with bob.receive() or pytest.fail("it does not come") as message:
        assert message.body == "hello"


def test_a_naive_reader_leaks_in_the_same_race(memory: Path, race: Callable[[str], None]) -> None:
    """Which proves that the race bites: it checks all that one can check by name, and is handed the secret."""
    race("new")
    until = time.monotonic() + 60
    reads = read_naively(memory)

    assert any(SECRET.encode() in data for data in itertools.takewhile(lambda _: time.monotonic() < until, reads))
