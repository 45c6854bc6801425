"""What lies in new/ and is not plain mail: foreign names, what is not whole, what is no file."""

import errno
import logging
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox, StorageError
from filemailbox.format.filename import is_id
from filemailbox.store import intake
from filemailbox.store.box import create_box
from filemailbox.store.root import init_root
from filemailbox.store.spool import Spool
from filemailbox.system.files import READ
from support.boxes import BOB
from support.mail import bodies, reasons

BEFORE, AFTER = "20200101T000000.000000000Z-00000000000a", "20990101T000000.000000000Z-00000000000a"


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all files had been still for long enough."""
    monkeypatch.setattr(intake, "INCOMPLETE_GRACE", -3600.0)


def whys(root: Path) -> str:
    return "".join(path.read_text() for path in (root / "bob/dead").glob("*.why"))


# Names


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("x.json", id="short"),
        pytest.param("-rf.json", id="leading dash"),
        pytest.param("a\nb.json", id="newline"),
        pytest.param("a b\t\x1b[2J.json", id="control"),
        pytest.param("é→.json", id="not ascii"),
        pytest.param(b"\xff\xfe.json", id="not utf-8"),
        pytest.param("n" * 250 + ".json", id="255 bytes"),
        pytest.param("%s%d{0}.json", id="formats"),
        pytest.param("a,S=1.json", id="like a field"),
        pytest.param("x~y.json", id="like a time"),
        pytest.param(BEFORE + ".json", id="ours without a size"),
        pytest.param(BEFORE.upper() + ",S=8.json", id="ours in capitals"),
        pytest.param(BEFORE[:-1] + ",S=8.json", id="ours, a digit short"),
        pytest.param(BEFORE + ",S=eight.json", id="ours, size no number"),
        pytest.param(BEFORE + ",S=8,x.json", id="ours, field no field"),
        pytest.param("20209999T999999.000000000Z-00000000000a,S=8.json", id="ours, no such date"),
        pytest.param("00000000T000000.000000000Z-00000000000a,S=8.json", id="ours, year 0"),
        pytest.param("20200231T000000.000000000Z-00000000000a,S=8.json", id="ours, 31st of February"),
        pytest.param(AFTER + ",S=8.json", id="ours, from the future"),
        pytest.param("z" * 25 + "Z-00000000000a.json", id="ours by its seam only"),
        pytest.param(BEFORE + ",S=8,A=7,R=3,N=q.json", id="ours, fields made up"),
    ],
)
@pytest.mark.parametrize("end", ["ack", "retry", "hand back", "close", "reject"])
def test_a_file_of_any_name_is_mail_and_can_be_settled(root: Path, new: Path, name: str | bytes, end: str) -> None:
    """At its first claim it gets a name of ours, as its first attempt; and it can end in every way."""
    with open(os.path.join(os.fsencode(new), os.fsencode(name)), "xb") as file:
        file.write(b'{"a":1}\n')
    with Mailbox("bob", root, retry_delay=0.0, max_retry_delay=0.0) as bob:
        message = bob.receive()
        assert message is not None
        first = (message.body, message.attempt, is_id(message.id), message.sent.year > 2000)
        ends: dict[str, Callable[[], object]] = {
            "ack": message.ack,
            "retry": message.retry,
            "hand back": message.release,
            "close": bob.close,
            "reject": lambda: message.reject("no"),
        }
        ends[end]()
        if end == "reject":
            bob.requeue(message.id)
        again = bob.receive()

    assert first == ({"a": 1}, 1, True, True)
    if end == "ack":
        assert again is None
    else:
        assert again is not None
        assert (again.id, again.body, again.attempt) == (message.id, {"a": 1}, 2 if end == "retry" else 1)
    assert os.listdir(new) == []


def test_two_files_of_one_foreign_name_are_two_messages(new: Path, bob: Mailbox) -> None:
    """A script that always writes job.json: also while the first is held, and when both are dead letters."""
    held = []
    for n in range(2):
        (new / "job.json").write_text(f'{{"n":{n}}}')
        held.append(bob.receive())
    for message in held:
        assert message is not None
        message.reject("no")
    dead = list(bob.peek("dead"))

    assert [message.body for message in dead] == [{"n": 0}, {"n": 1}]
    assert len({message.id for message in dead}) == 2


@pytest.mark.parametrize("name", [".x.json", "x.json.tmp", "x.txt", "x", "x.JSON", "x.json\n", "z" * 25 + "Z-a.txt"])
def test_dotfiles_and_other_suffixes_are_nobodys_business(new: Path, bob: Mailbox, still: None, name: str) -> None:
    """Neither mail nor dead letter: they stay where they are."""
    (new / name).write_text('{"a":1}')

    assert bodies(bob) == []
    assert os.listdir(new) == [name]
    assert list(bob.peek("dead")) == []


def test_what_a_foreign_name_was_is_kept_in_part(new: Path, bob: Mailbox) -> None:
    """N= holds it, made harmless: a person can tell where a message came from."""
    (new / "my job (2).json").write_text("{}")
    message = bob.receive()

    assert message is not None
    assert ",N=my_job__2_.json" in message.name


def test_a_foreign_file_was_sent_when_it_was_written(new: Path, bob: Mailbox) -> None:
    """Its mtime stands for the missing "sent", however short its name is."""
    (new / "x.json").write_text("{}")
    os.utime(new / "x.json", (1_600_000_000, 1_600_000_000))
    message = bob.receive()

    assert message is not None
    assert message.sent.timestamp() == 1_600_000_000


def test_foreign_files_come_by_mtime_among_ours_by_name(new: Path, alice: Mailbox, bob: Mailbox) -> None:
    """One clock on one host: what was written first comes first."""
    for n, when in enumerate((3, 1, 2)):
        (new / f"{n}.json").write_text(f'{{"n":{when}}}')
        os.utime(new / f"{n}.json", (when, when))
    alice.send("bob", "last")

    assert bodies(bob) == [{"n": 1}, {"n": 2}, {"n": 3}, "last"]


def test_an_attempt_in_a_name_in_new_is_not_believed(new: Path, bob: Mailbox) -> None:
    """A sender could make its mail look as if it had failed often: only folders that are ours count attempts."""
    (new / f"{BEFORE},S=2,A=99,R=1.json").write_text("{}")
    message = bob.receive()

    assert message is not None
    assert (message.attempt, message.name) == (1, f"{BEFORE},S=2.json")


# What is not whole


def test_a_file_that_is_written_in_place_is_left_until_it_is_whole(new: Path, bob: Mailbox) -> None:
    """echo > new/x.json, in pieces: no half message, no dead letter."""
    seen = []
    with open(new / "x.json", "w", buffering=1) as file:
        for piece in ("", '{"a"', ": 1", "}"):
            file.write(piece)
            file.flush()
            seen.append(bodies(bob))

    assert seen == [[], [], [], [{"a": 1}]]
    assert reasons(bob) == []


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("x.json", b"", "it is empty", id="empty"),
        pytest.param("x.json", b"\0" * 500, "nothing but blanks or zero bytes", id="zero bytes"),
        pytest.param("x.json", b' \n\t"', "not JSON", id="blanks"),
        pytest.param("x.json", b'{"a":', "not JSON", id="cut off"),
        pytest.param("x.json", b'{"a":1}{"a":1}', "not JSON", id="two"),
        pytest.param("x.json", b"[1]", "not a JSON object but an array", id="array"),
        pytest.param("x.json", b"null", "not a JSON object but null", id="null"),
        pytest.param("x.json", b'{"a":NaN}', "not JSON", id="NaN"),
        pytest.param("x.json", b'{"a":1e999}', "not JSON", id="overflow"),
        pytest.param("x.json", b"\xff\xfe{\0}\0", "not JSON", id="UTF-16"),
        pytest.param("x.json", b'{"a":"\xff"}', "not JSON", id="not UTF-8"),
        pytest.param("x.json", b'{"":' * 50_000 + b"1" + b"}" * 50_000, "nest|not JSON", id="deep"),
        pytest.param("x.json", b"[" * 1_000_000, "nest|not JSON", id="bomb"),
        pytest.param("x.json", b'{"body":1,"hops":"3"}', '"hops" is a string', id="envelope"),
        pytest.param("x.json", b'{"body":1,"expires":"soon"}', '"expires" is "soon"', id="time"),
        pytest.param(f"{BEFORE},S=2.json", b"{}\n", "its name has S=2: it is not complete", id="longer"),
        pytest.param(f"{BEFORE},S=99.json", b"{}", "its name has S=99: it is not complete", id="shorter"),
    ],
)
def test_what_does_not_become_mail_is_a_dead_letter_once_it_is_still(
    root: Path,
    new: Path,
    alice: Mailbox,
    bob: Mailbox,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
    reason: str,
) -> None:
    """Somebody may still be writing it; after a while of stillness it is given up, untouched, with the reason."""
    (new / name).write_bytes(content)
    alice.send("bob", "good")
    early = (bodies(bob), reasons(bob))
    monkeypatch.setattr(intake, "INCOMPLETE_GRACE", -3600.0)
    alice.send("bob", "good")
    late = bodies(bob)

    assert early == (["good"], [])
    assert late == ["good"]
    assert len(reasons(bob)) == 1
    assert re.search(reason, reasons(bob)[0])
    assert os.listdir(new) == []
    assert next((root / "bob/dead").glob("*.json")).read_bytes() == content
    assert f'its name was "{name}"' in whys(root)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 9, b"{x}", b'{"id":"x","body":1}'], ids=["empty", "zeros", "no JSON", "id"]
)
def test_what_is_whole_and_no_mail_is_a_dead_letter_at_once(
    root: Path, new: Path, bob: Mailbox, content: bytes
) -> None:
    """Its name says the size it has: nobody writes it any more, so nothing is waited for."""
    (new / f"{BEFORE},S={len(content)}.json").write_bytes(content)

    assert bodies(bob) == []
    assert len(reasons(bob)) == 1
    assert next((root / "bob/dead").glob("*.json")).read_bytes() == content


def test_stillness_is_judged_by_the_last_change(new: Path, bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five seconds by the ctime, which no sender can set; mtime may say what it will."""
    (new / "x.json").write_text("{")
    os.utime(new / "x.json", (0, 0))
    assert bodies(bob) == []
    assert reasons(bob) == []
    changed = (new / "x.json").stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: changed + int(intake.INCOMPLETE_GRACE * 1e9) - 1)
    assert bodies(bob) == []
    early = reasons(bob)
    monkeypatch.setattr(time, "time_ns", lambda: changed + int(intake.INCOMPLETE_GRACE * 1e9))
    bodies(bob)

    assert early == []
    assert len(reasons(bob)) == 1


def test_stillness_needs_no_clock_that_is_right(new: Path, bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clock was set back, what we saw ourselves counts: unchanged for as long since we first looked."""
    (new / "x.json").write_text("{")
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    bodies(bob)
    early = reasons(bob)
    started = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: started + intake.INCOMPLETE_GRACE + 1)
    bodies(bob)

    assert early == []
    assert len(reasons(bob)) == 1


def test_a_file_with_two_links_is_not_mail_until_it_has_one(new: Path, tmp_path: Path, bob: Mailbox) -> None:
    """Somebody else has it by another name and can change it; link+unlink is a way to deliver, so it is waited for."""
    (tmp_path / "draft").write_text('{"a":1}')
    os.link(tmp_path / "draft", new / "x.json")
    early = bodies(bob)
    (tmp_path / "draft").unlink()
    late = bodies(bob)

    assert early == []
    assert late == [{"a": 1}]


def test_a_file_that_keeps_its_two_links_is_a_dead_letter(new: Path, tmp_path: Path, bob: Mailbox, still: None) -> None:
    """Never read: it may be a link to a secret of the recipient."""
    (tmp_path / "secret").write_text('{"secret":1}')
    os.link(tmp_path / "secret", new / f"{BEFORE},S=12.json")

    assert bodies(bob) == []
    assert "it has 2 links" in reasons(bob)[0]


def test_a_file_that_changes_while_it_is_read_is_a_dead_letter(
    new: Path, alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch, still: None
) -> None:
    """Its sender still has it open: what was read is not what its name says."""
    real = os.read
    id = alice.send("bob", "first")
    alice.send("bob", "good")

    def read(file: int, size: int) -> bytes:
        return real(file, size)[: -1 if id in os.readlink(f"/proc/self/fd/{file}") else None]

    monkeypatch.setattr(os, "read", read)

    assert bodies(bob) == ["good"]
    assert reasons(bob) == ["it changed while it was read"]


def test_what_was_read_is_what_is_handled(new: Path, bob: Mailbox) -> None:
    """The sender keeps write access to a claimed file; nothing is read a second time."""
    file = os.open(new / f"{BEFORE},S=7.json", os.O_CREAT | os.O_WRONLY, 0o640)
    os.write(file, b'{"a":1}')
    message = bob.receive()
    os.pwrite(file, b'{"a":2}', 0)
    os.close(file)

    assert message is not None
    assert (message.body, message.raw) == ({"a": 1}, b'{"a":1}')


# What is no file


def plant_full_folder(path: Path, tmp_path: Path) -> None:
    path.mkdir()
    (path / "x").write_text("")


def plant_socket(path: Path, tmp_path: Path) -> None:
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(path.parent)  # the path may be longer than a socket's address
        bound.bind(path.name)
        os.chdir(here)


def plant_secret_link(path: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"secret":1}')
    path.symlink_to(tmp_path / "secret")


ODD: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "dead link": (lambda path, tmp: path.symlink_to(tmp / "nowhere"), 'symbolic link, not a file to ".*nowhere"'),
    "link to a secret": (plant_secret_link, "symbolic link"),
    "link to itself": (lambda path, tmp: path.symlink_to(path), "symbolic link"),
    "link to a folder": (lambda path, tmp: path.symlink_to(tmp), "symbolic link"),
    "link to a terminal": (lambda path, tmp: path.symlink_to("/dev/tty"), "symbolic link"),
    "FIFO": (lambda path, tmp: os.mkfifo(path), "a FIFO"),
    "socket": (plant_socket, "a socket"),
    "empty folder": (lambda path, tmp: path.mkdir(), "a folder"),
}


@pytest.mark.parametrize("name", ["x.json", f"{BEFORE},S=217.json"], ids=["foreign", "ours"])
@pytest.mark.parametrize("odd", ODD)
def test_what_can_never_be_mail_is_removed_with_a_note(
    root: Path, new: Path, tmp_path: Path, alice: Mailbox, bob: Mailbox, odd: str, name: str
) -> None:
    """It is never opened for what it is, nothing waits for it, and the mail before and behind it is delivered."""
    plant, what = ODD[odd]
    alice.send("bob", 1)
    plant(new / name, tmp_path)
    alice.send("bob", 2)

    assert bodies(bob) == [1, 2]
    assert os.listdir(new) == []
    assert re.search(what, whys(root))
    assert "it was removed" in whys(root)
    assert not (tmp_path / "secret").exists() or (tmp_path / "secret").read_text() == '{"secret":1}'


def test_a_folder_that_is_not_empty_is_left_alone_and_said_once(
    root: Path, new: Path, tmp_path: Path, alice: Mailbox, bob: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    """It has something to keep, and is no mail."""
    plant_full_folder(new / "x.json", tmp_path)
    with caplog.at_level(logging.WARNING, "filemailbox"):
        for n in range(3):
            alice.send("bob", n)
            assert bodies(bob) == [n]

    assert os.listdir(new) == ["x.json"]
    assert len(caplog.messages) == 1
    assert '"x.json" in the new/ of bob is left alone: it is a folder' in caplog.messages[0]
    assert whys(root) == ""


@pytest.mark.parametrize(
    "size", [pytest.param(1001, id="one byte too many"), pytest.param(1 << 40, id="a sparse terabyte")]
)
def test_a_file_above_the_limit_is_a_dead_letter_unread(root: Path, new: Path, size: int, alice: Mailbox) -> None:
    """Its size is asked before it is read."""
    with open(new / f"{BEFORE},S={size}.json", "wb") as one, open(new / "x.json", "wb") as two:
        one.truncate(size)
        two.truncate(size)
    alice.send("bob", "good")
    with Mailbox("bob", root, max_size=1000) as bob:
        taken = bodies(bob)
        dead = reasons(bob)

    assert taken == ["good"]
    assert dead == [f"it has {size} bytes, and 1000 is the limit"] * 2


def test_a_file_at_the_limit_is_mail(root: Path, new: Path) -> None:
    """The limit is the last size that is allowed."""
    (new / "x.json").write_text('{"a":"' + "x" * 92 + '"}')
    with Mailbox("bob", root, max_size=100) as bob:
        taken = bodies(bob)

    assert len(taken) == 1


CONSUMER = """
import json, os, sys
import asyncio, logging, filelock
from filemailbox import Mailbox
from filemailbox.receive import aio, receiver as consumer, peek
from filemailbox.store import ledger, replies, spool
from filemailbox import log
box = Mailbox("bob", sys.argv[1], max_attempts=2)
os.setgroups([]); os.setgid(2001); os.setuid(2001)
for line in sys.stdin:
    taken = []
    while (message := box.receive()) is not None:
        taken.append(message.body)
        message.ack()
    print(json.dumps([taken, [message.problem for message in box.peek("dead")]]), flush=True)
"""


@pytest.fixture
def dropbox(as_root: None, shared: Path) -> Path:
    """The new/ of a box that belongs to uid 2001, on a volume that all can reach."""
    found = init_root(shared / "mail")
    create_box(found.box(BOB), (2001, 2001))
    return shared / "mail/bob/new"


@pytest.mark.parametrize(
    ("mode", "plant", "expected"),
    [
        pytest.param(0o000, lambda path: path.write_text("{}"), [], id="no mode"),
        pytest.param(0o600, lambda path: path.write_text("{}"), [], id="umask 077"),
        pytest.param(0o000, os.mkfifo, [], id="FIFO"),
        pytest.param(0o700, os.mkdir, [], id="folder"),
        pytest.param(0o700, lambda path: plant_full_folder(path, path), ["x.json"], id="full folder"),
        pytest.param(0o000, lambda path: plant_socket(path, path), [], id="socket"),
    ],
)
def test_what_another_user_made_unreadable_stops_nothing(
    dropbox: Path, start: Callable[..., Any], mode: int, plant: Callable[[Path], Any], expected: list[str]
) -> None:
    """A dead letter, or removed, or left alone; never an error, again and again."""
    plant(dropbox / "x.json")
    os.chmod(dropbox / "x.json", mode)
    os.chown(dropbox / "x.json", 2002, 2002)
    reader = start(CONSUMER, dropbox.parents[1])
    heard = []
    with Mailbox("stranger", dropbox.parents[1], durable=False) as stranger:
        for n in range(2):
            stranger.send("bob", n)
            reader.say()
            heard.append(reader.line())
    left = os.listdir(dropbox)
    dead = os.listdir(dropbox.parent / "dead")

    assert [line.split("],")[0] for line in heard] == ["[[0", "[[1"]
    assert left == expected
    assert len(dead) == (2 if "mode keeps it" in heard[0] else 1 - len(left))


def test_a_dead_letter_that_cannot_be_read_does_not_stop_the_box_when_requeued(
    dropbox: Path, start: Callable[..., Any]
) -> None:
    """It becomes a dead letter again, with the reason."""
    (dropbox / "x.json").write_text("{}")
    os.chmod(dropbox / "x.json", 0)
    os.chown(dropbox / "x.json", 2002, 2002)
    script = CONSUMER.replace("    taken = []", "    taken = []\n    [box.requeue(m.id) for m in box.peek('dead')]")
    reader = start(script, dropbox.parents[1])
    reader.say()
    first = reader.line()
    reader.say()
    second = reader.line()

    assert "its mode keeps it from its recipient" in first
    assert "it cannot be opened: permission denied" in second


def test_mail_of_other_users_is_taken_by_threads_at_once(dropbox: Path, start: Callable[..., Any]) -> None:
    """O_NOATIME is for the owner of a file only: the first refusal must not condemn what another thread just met."""
    with Mailbox("stranger", dropbox.parents[1], durable=False) as stranger:
        stranger.send_many("bob", range(300))
    script = CONSUMER.replace(
        "    while",
        "    import threading\n"
        "    def take():\n"
        "        while (m := box.receive()) is not None: taken.append(m.body); m.ack()\n"
        "    threads = [threading.Thread(target=take) for _ in range(4)]\n"
        "    [t.start() for t in threads]; [t.join() for t in threads]; taken.sort()\n"
        "    while",
    )
    reader = start(script, dropbox.parents[1])
    reader.say()

    assert reader.line() == f"[{list(range(300))}, []]"


def test_a_refusal_that_another_thread_met_first_condemns_no_mail(
    alice: Mailbox, taker: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our refused open and our look at why, the other thread has given O_NOATIME up already."""
    alice.send("bob")
    real = os.open

    def refuse(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_NOATIME:
            taker._new._flags = READ
            raise PermissionError(errno.EPERM, "not the owner")
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)

    assert taker.claim() is not None


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.ENOMEM, errno.ESTALE], ids=errno.errorcode.get)
def test_our_own_trouble_condemns_no_mail(
    alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """No descriptors, a failing disk: Storage is raised, and the mail is there when it is over."""
    alice.send("bob", "good")
    assert bodies(bob) == ["good"]
    alice.send("bob", "good")
    real = os.open

    def failing(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(".json"):
            raise OSError(code, os.strerror(code))
        return real(path, *arguments, **options)

    with monkeypatch.context() as broken:
        broken.setattr(os, "open", failing)
        with pytest.raises(StorageError) as caught:
            bob.receive()

    assert caught.value.errno == code
    assert bodies(bob) == ["good"]
    assert reasons(bob) == []


def test_a_lease_on_a_file_is_waited_for_without_waiting(new: Path, alice: Mailbox, bob: Mailbox) -> None:
    """fcntl(F_SETLEASE) of the sender would hang an open that may block; here the mail behind it comes at once."""
    import fcntl

    (new / "x.json").write_text('{"a":1}')
    with open(new / "x.json", "r+") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            pytest.skip("no leases on this file system")
        import signal

        before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # the kernel tells the holder
        try:
            alice.send("bob", "good")
            beside = bodies(bob)
        finally:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            signal.signal(signal.SIGIO, before)

    assert beside == ["good"]
    assert bodies(bob) == [{"a": 1}]
