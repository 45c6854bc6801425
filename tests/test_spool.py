"""Out of a box: claim, settle, recover; and what lies in new/ that is not mail."""

import errno
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox, NoBox, NotHeld, Storage, names, odd, spool
from filemailbox import root as roots
from filemailbox.files import READ
from filemailbox.locks import Lock
from filemailbox.names import Address
from filemailbox.spool import Taker

Until = Callable[[Callable[[], object]], None]
BOB = Address("bob")
BEFORE, AFTER = "20200101T000000.000000000Z-00000000000a", "20990101T000000.000000000Z-00000000000a"


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all files had been still for long enough."""
    monkeypatch.setattr(odd, "STILL", -3600.0)


def bodies(box: Mailbox) -> list[Any]:
    """Take all there is, ack it."""
    taken = []
    while (message := box.receive()) is not None:
        taken.append(message.body)
        message.ack()
    return taken


def reasons(box: Mailbox) -> list[str]:
    return [message.problem or "" for message in box.peek("dead")]


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
    with Mailbox("bob", root, backoff=(0.0, 0.0)) as bob:
        message = bob.receive()
        assert message is not None
        first = (message.body, message.attempt, names.is_id(message.id), message.sent.year > 2000)
        ends: dict[str, Callable[[], object]] = {
            "ack": message.ack,
            "retry": message.retry,
            "hand back": message.hand_back,
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
        pytest.param(f"{BEFORE},S=2.json", b"{}\n", "its name says S=2: it is not whole", id="longer"),
        pytest.param(f"{BEFORE},S=99.json", b"{}", "its name says S=99: it is not whole", id="shorter"),
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
    monkeypatch.setattr(odd, "STILL", -3600.0)
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
    monkeypatch.setattr(time, "time_ns", lambda: changed + int(odd.STILL * 1e9) - 1)
    assert bodies(bob) == []
    early = reasons(bob)
    monkeypatch.setattr(time, "time_ns", lambda: changed + int(odd.STILL * 1e9))
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
    monkeypatch.setattr(time, "monotonic", lambda: started + odd.STILL + 1)
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
    new: Path, alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender still has it open: what was read is not what its name says."""
    real = os.read
    alice.send("bob", "first")
    alice.send("bob", "good")
    cut = iter((True,))

    def read(file: int, size: int) -> bytes:
        return real(file, size)[:-1] if next(cut, False) else real(file, size)

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
from filemailbox import Mailbox, aio, consumer, ledger, log, peek, replies, spool
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
    found = roots.init(shared / "mail")
    roots.create(found, BOB, (2001, 2001))
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
    alice: Mailbox, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our refused open and our look at why, the other thread has given O_NOATIME up already."""
    alice.send("bob")
    real = os.open

    def refuse(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_NOATIME:
            taker._read = READ
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
        with pytest.raises(Storage) as caught:
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


# Claiming and settling


def test_nothing_is_claimed_ahead_of_its_handler(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """One rename, one message: what nobody asked for is there for other consumers."""
    alice.send_many("bob", range(5))
    held = bob.receive()

    assert held is not None
    assert len(os.listdir(root / "bob/new")) == 4


def test_a_claim_is_one_rename_into_a_locked_folder(root: Path, alice: Mailbox, taker: Taker) -> None:
    """The bytes are those of the file, and the file is where only its holder acts on it."""
    id = alice.send("bob", "x")
    claim = taker.claim()
    (folder,) = [path for path in (root / "bob/cur").iterdir() if any(path.glob("*.json"))]

    assert claim is not None
    assert claim[0].startswith(id)
    assert (folder / claim[0]).read_bytes() == claim[1]
    assert not Lock(f"{folder}/.lock").take()


def test_the_first_consumer_needs_no_new_folder(root: Path, taker: Taker) -> None:
    """A box is made with one: so that a box on a full volume can be drained."""
    before = os.listdir(root / "bob/cur")
    taker.claim()

    assert os.listdir(root / "bob/cur") == before


def test_a_folder_is_made_only_where_none_is_free(root: Path, taker: Taker) -> None:
    """Consumers that come and go use the same folders again."""
    taker.claim()
    for _ in range(3):
        other = Taker(roots.find(root), BOB)
        other.claim()
        other.close()

    assert len(os.listdir(root / "bob/cur")) == 2


@pytest.mark.parametrize(
    "settle",
    [
        pytest.param(lambda taker, name: taker.ack(name), id="ack"),
        pytest.param(lambda taker, name: taker.put_off(name, 0), id="put off"),
        pytest.param(lambda taker, name: taker.bury(name, "no"), id="bury"),
    ],
)
def test_settling_what_is_gone_is_logged_and_no_error(
    root: Path, alice: Mailbox, taker: Taker, caplog: pytest.LogCaptureFixture, settle: Callable[[Taker, str], None]
) -> None:
    """Somebody took it away under us: it may be handled twice, and a person can read so."""
    alice.send("bob")
    claim = taker.claim()
    assert claim is not None
    next((root / "bob/cur").glob(f"*/{claim[0]}")).unlink()
    with caplog.at_level(logging.WARNING, "filemailbox"):
        settle(taker, claim[0])

    assert "was not ours any more" in caplog.text


@pytest.mark.parametrize(
    "settle",
    [
        pytest.param(lambda taker, name: taker.ack(name), id="ack"),
        pytest.param(lambda taker, name: taker.put_off(name, 0), id="put off"),
        pytest.param(lambda taker, name: taker.bury(name, "no"), id="bury"),
    ],
)
def test_settling_after_close_is_refused(alice: Mailbox, taker: Taker, settle: Callable[[Taker, str], None]) -> None:
    """It was handed back: somebody else may have it by now."""
    alice.send("bob")
    claim = taker.claim()
    assert claim is not None
    taker.close()

    with pytest.raises(NotHeld):
        settle(taker, claim[0])


def test_two_dead_letters_of_one_id_do_not_meet(root: Path, new: Path, bob: Mailbox) -> None:
    """The second gets an id of its own: a dead letter is never overwritten."""
    for body in (b'{"a":1}', b'{"a":2}'):
        (new / f"{BEFORE},S=7.json").write_bytes(body)
        message = bob.receive()
        assert message is not None
        message.reject("no")

    assert {path.read_bytes() for path in (root / "bob/dead").glob("*.json")} == {b'{"a":1}', b'{"a":2}'}


def test_a_requeued_dead_letter_takes_its_reason_along(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """No .why stays behind."""
    alice.send("bob")
    message = bob.receive()
    assert message is not None
    message.reject("no")
    bob.requeue(message.id)

    assert os.listdir(root / "bob/dead") == []


def test_a_dead_letter_above_the_limit_says_so_when_requeued(root: Path, alice: Mailbox) -> None:
    """Not "it is not whole"."""
    alice.send("bob", "x" * 2000)
    with Mailbox("bob", root, max_size=1000) as bob:
        bodies(bob)
        bob.requeue(next(bob.peek("dead")).id)
        bodies(bob)
        (reason,) = reasons(bob)

    assert reason.endswith("bytes, and 1000 is the limit")


def test_the_reason_is_best_effort_and_the_dead_letter_is_not(
    root: Path, alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk takes no .why, and still a rename."""
    alice.send("bob", "x")
    message = bob.receive()
    assert message is not None
    real = os.open

    def full(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(".why"):
            raise OSError(errno.ENOSPC, "full")
        return real(path, *arguments, **options)

    with monkeypatch.context() as broken:
        broken.setattr(os, "open", full)
        message.reject("no")

    assert [path.suffix for path in (root / "bob/dead").iterdir()] == [".json"]


def test_drafts_are_given_up_after_36_hours(root: Path, bob: Mailbox) -> None:
    """The one judgement by age: Maildir's number."""
    for name, age in (("old", spool.ABANDONED + 10), ("young", spool.ABANDONED - 60)):
        (root / "bob/tmp" / name).write_text("")
        os.utime(root / "bob/tmp" / name, (time.time() - age, time.time() - age))
    bob.receive()

    assert os.listdir(root / "bob/tmp") == ["young"]


# Consumers that die, leases, boxes that are replaced


def test_a_dead_consumer_s_folder_is_taken_over_and_the_attempt_counted(root: Path, bob: Mailbox) -> None:
    """Whoever can take its lock knows that it is gone."""
    folder = root / "bob/cur/aaaaaaaaaaaa"
    folder.mkdir()
    (folder / f"{BEFORE},S=2.json").write_text("{}")
    message = bob.receive()

    assert message is not None
    assert (message.id, message.attempt) == (BEFORE, 2)


def test_a_lease_is_left_alone_until_its_time(root: Path, bob: Mailbox, until: Until) -> None:
    """Nobody holds its lock: the deadline in the folder's name stands for it. After that it is anybody's."""
    over, running = names.stamp(time.time_ns() - 1), names.stamp(time.time_ns() + 3600 * 10**9)
    for digit, deadline in (("a", over), ("b", running)):
        folder = root / f"bob/cur/{digit * 12},U={deadline}"
        folder.mkdir()
        (folder / f"{BEFORE[:-1]}{digit},S=2.json").write_text("{}")
    taken = [message.id[-1] for message in iter(bob.receive, None)]

    assert taken == ["a"]


@pytest.mark.parametrize("name", ["x", "AAAAAAAAAAAA", ".aaaaaaaaaaaa", "aaaaaaaaaaaa,U=soon", "aaaaaaaaaaaa,X=1"])
def test_a_folder_in_cur_of_another_name_is_nobody_s_to_take(root: Path, bob: Mailbox, name: str) -> None:
    """Only what has the name of a consumer is one."""
    (root / "bob/cur" / name).mkdir()
    (root / "bob/cur" / name / f"{BEFORE},S=2.json").write_text("{}")

    assert bob.receive() is None


def test_a_box_that_was_replaced_under_a_living_consumer_is_found_again(
    root: Path, alice: Mailbox, bob: Mailbox, until: Until
) -> None:
    """NoBox while it is gone; then the new one, without a restart. What was held stays with the old box."""
    alice.send("bob", "old")
    held = bob.receive()
    assert held is not None
    os.rename(root / "bob", root / "aside")

    def gone() -> bool:
        try:
            bob.receive()
        except NoBox:
            return True
        return False

    until(gone)
    roots.create(roots.find(root), BOB)
    alice.send("bob", "new")
    taken = bob.receive(timeout=20)

    assert taken is not None
    assert taken.body == "new"
    held.ack()  # not ours any more: no error


def test_a_consumer_whose_folder_was_wiped_finds_itself_another(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """Somebody cleaned cur/: mail must not wait for ever for a folder that is not there."""
    assert bob.receive() is None
    for folder in (root / "bob/cur").iterdir():
        (folder / ".lock").unlink()
        folder.rmdir()
    alice.send("bob", "x")
    message = bob.receive(timeout=20)

    assert message is not None
    message.ack()
    assert os.listdir(root / "bob/new") == []


# Order


@pytest.mark.parametrize(
    "clock",
    [
        pytest.param(lambda n: 1_700_000_000_000_000_000 - n * 10**9, id="backwards"),
        pytest.param(lambda n: 1_700_000_000_000_000_000, id="stands still"),
        pytest.param(lambda n: 1_700_000_000_000_000_000 + n % 3, id="jumps"),
        pytest.param(lambda n: 4_000_000_000_000_000_000 + n, id="far ahead"),
    ],
)
def test_mail_of_a_writer_is_in_order_whatever_its_clock_does(
    alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch, clock: Callable[[int], int]
) -> None:
    """A writer never repeats a stamp and never goes back; and nothing waits for a clock to catch up."""
    calls = iter(range(10**6))

    def send() -> None:
        for n in range(50):
            alice.send("bob", n)

    writer = threading.Thread(target=send)  # a writer of its own
    with monkeypatch.context() as set_wrong:
        set_wrong.setattr(time, "time_ns", lambda: clock(next(calls)))
        writer.start()
        writer.join()

    assert bodies(bob) == list(range(50))


def test_an_hour_between_two_writers_keeps_both_in_order(
    alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is ahead loses nothing and holds up nobody."""
    real = time.time_ns

    def send(ahead: int) -> None:
        with monkeypatch.context() as wrong:
            wrong.setattr(time, "time_ns", lambda: real() + ahead)
            for n in range(20):
                alice.send("bob", [ahead, n])

    for ahead in (3600 * 10**9, 0):
        writer = threading.Thread(target=send, args=(ahead,))
        writer.start()
        writer.join()
    taken = bodies(bob)

    assert [n for ahead, n in taken if ahead] == list(range(20))
    assert [n for ahead, n in taken if not ahead] == list(range(20))


def test_threads_of_one_mailbox_take_each_message_once(alice: Mailbox, bob: Mailbox) -> None:
    """All of a backlog, none twice. In what order is up to the threads: those in hand at once may pass each other."""
    alice.send_many("bob", range(600))
    taken: list[list[int]] = [[], [], []]

    def take(mine: list[int]) -> None:
        while (message := bob.receive()) is not None:
            mine.append(message.body)
            message.ack()

    threads = [threading.Thread(target=take, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(sum(taken, bodies(bob))) == list(range(600))


def test_a_name_that_is_listed_is_never_taken_back_to_front(
    alice: Mailbox, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one thread lists, others pop from the same batch: it must never be there in the wrong order."""
    alice.send_many("bob", range(3))
    batches: list[list[str]] = []
    real = Taker.__setattr__

    def watched(self: Taker, name: str, value: Any) -> None:
        if name == "_batch":
            batches.append(list(value))
        real(self, name, value)

    monkeypatch.setattr(Taker, "__setattr__", watched)
    taker.claim()
    full = [batch for batch in batches if len(batch) == 3]

    assert full
    assert all(batch == sorted(batch, reverse=True) for batch in full)


# When the disk fails us: scripts/prove lets each call fail in turn; these are the rules that it has taught us.


def fails(monkeypatch: pytest.MonkeyPatch, call: str, name: str, code: int, times: int = 1) -> list[int]:
    """os.*call* of a file that is called *name* fails so often. Returns what is left of that."""
    real, left = getattr(os, call), [times]

    def failing(path: Any, *arguments: Any, **options: Any) -> Any:
        if left[0] and name in (os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)):
            left[0] -= 1
            raise OSError(code, os.strerror(code))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, call, failing)
    return left


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize("state", ["new", "later"])
def test_a_message_that_fails_once_keeps_its_place(
    bob: Mailbox, monkeypatch: pytest.MonkeyPatch, code: int, state: str
) -> None:
    """It is our own trouble: the message is no dead letter, and those behind it do not overtake it."""
    ids = [bob.send("bob", number) for number in range(3)]
    if state == "later":
        messages = [bob.receive() for _ in ids]
        for message in filter(None, messages):
            message.retry(after=0)
    fails(monkeypatch, "open", ids[0], code)
    with pytest.raises(Storage):
        bob.receive()

    assert bodies(bob) == [0, 1, 2]
    assert reasons(bob) == []


def test_a_message_that_fails_again_and_again_stops_nothing(
    bob: Mailbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad block under one file: what is behind it is taken, and it when it can be read again."""
    ids = [bob.send("bob", number) for number in range(3)]
    left = fails(monkeypatch, "open", ids[0], errno.EIO, 1000)
    for _ in range(spool._TRIES):
        with pytest.raises(Storage):
            bob.receive()

    assert bodies(bob) == [1, 2]
    assert "fails again and again" in caplog.text

    left[0], started = 0, time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: started + 2 * spool._LEFT_ALONE)

    assert bodies(bob) == [0]
    assert reasons(bob) == []


def test_a_due_message_that_fails_again_and_again_stops_nothing(bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in later/."""
    ids = [bob.send("bob", number) for number in range(2)]
    for message in [bob.receive() for _ in ids]:
        assert message is not None
        message.retry(after=0)
    fails(monkeypatch, "open", ids[0], errno.EIO, 1000)
    for _ in range(spool._TRIES):
        with pytest.raises(Storage):
            bob.receive()

    assert bodies(bob) == [1]


def test_what_is_short_of_descriptors_waits(bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """That says nothing of a file, however often it happens: nothing is overtaken."""
    ids = [bob.send("bob", number) for number in range(2)]
    fails(monkeypatch, "open", ids[0], errno.EMFILE, 3 * spool._TRIES)
    for _ in range(3 * spool._TRIES):
        with pytest.raises(Storage):
            bob.receive()

    assert bodies(bob) == [0, 1]


@pytest.mark.parametrize("stuck", [False, True], ids=["it can be put back", "it cannot be put back at once"])
def test_what_was_claimed_and_cannot_be_read_comes_back(
    bob: Mailbox, monkeypatch: pytest.MonkeyPatch, stuck: bool
) -> None:
    """Else it would lie in our folder for as long as we live."""
    ids = [bob.send("bob", number) for number in range(2)]
    fails(monkeypatch, "read", ids[0], errno.EIO)
    real, block = os.rename, [stuck]

    def rename(old: str, new: str, **folders: int) -> None:
        if block[0] and "~" in new:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        real(old, new, **folders)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(Storage):
        bob.receive()
    block[0] = False
    assert bob._taking is not None
    bob._taking._taker._round_at = 0.0

    assert bodies(bob) == [0, 1]
    assert reasons(bob) == []


def test_a_short_read_is_read_on(bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems give less than was asked for: that is no change of the file."""
    bob.send("bob", "x" * 1000)
    real = os.read
    monkeypatch.setattr(os, "read", lambda file, size: real(file, max(1, size // 3)))

    assert bodies(bob) == ["x" * 1000]
    assert reasons(bob) == []
