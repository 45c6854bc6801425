"""What lies in new/ and never is mail costs nothing, stops nothing, and goes after 36 hours. Decided by counts."""

import os
import stat
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from filemailbox.format.timestamp import to_timestamp
from filemailbox.ops import doctor
from filemailbox.ops.cleanup import find_garbage
from filemailbox.store import claim_new, intake, junk
from filemailbox.store.box import create_box
from filemailbox.store.root import find_root, init_root
from filemailbox.store.spool import Spool
from filemailbox.wake.waker import Waker
from support.boxes import BOB
from support.mail import bodies
from support.uids import Actor, act


class Calls:
    """Counts the calls that ask for something in one folder, and the names that its listings gave."""

    def __init__(self, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count: Counter[str] = Counter()
        self._new, self._patch = new, monkeypatch
        for name in ("stat", "open", "rmdir", "unlink", "readlink"):
            self._wrap(name)
        real = os.listdir

        def listdir(folder: Any = ".") -> Any:
            found = real(folder)
            if isinstance(folder, int) and self._is_new(folder):
                self.count["listdir"] += 1
                self.count["names"] += len(found)
            return found

        monkeypatch.setattr(os, "listdir", listdir)

    def _is_new(self, folder: int) -> bool:
        return os.fstat(folder).st_ino == os.lstat(self._new).st_ino

    def _wrap(self, name: str) -> None:
        real = getattr(os, name)

        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if options.get("dir_fd") is not None and str(path).endswith(".json"):
                self.count[name] += 1
            return real(path, *arguments, **options)

        self._patch.setattr(os, name, call)

    def asked(self) -> int:
        """How often something was asked of a file, since the last time."""
        asked = sum(self.count[name] for name in ("stat", "open", "rmdir", "unlink", "readlink"))
        self.count.clear()
        return asked


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a look could take as long as it likes."""
    monkeypatch.setattr(intake, "CLEANUP_BUDGET", 60.0)


def full_folders(new: Path, count: int) -> None:
    for n in range(count):
        (new / f"{n}.json").mkdir()
        (new / f"{n}.json/x").touch()


def hidden(new: Path, count: int) -> None:
    (new / ".junk").touch()
    for n in range(count - 1):
        os.link(new / ".junk", new / f".junk-{n}")


def kept(root: Path) -> list[Path]:
    return [path for path in (root / "bob").iterdir() if path.name.startswith((".new-", ".junk-"))]


# What is left alone is remembered


def test_what_is_left_alone_is_not_looked_at_in_every_look(
    new: Path, alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch, unhurried: None
) -> None:
    """Full folders under names of mail: a look asks for 64 of them, and opens none."""
    full_folders(new, 700)
    alice.send("bob", 0)
    assert bodies(bob) == [0]
    calls = Calls(new, monkeypatch)
    for n in range(10):
        alice.send("bob", n)
        assert bodies(bob) == [n]
    looks, opened = calls.count["listdir"], calls.count["open"]

    assert looks >= 10
    assert opened <= 30  # the mail, and its drafts
    assert calls.asked() <= looks * 100 + 100


def test_what_was_left_alone_and_has_changed_is_looked_at_again(
    root: Path, new: Path, bob: Mailbox, unhurried: None
) -> None:
    """A folder that was emptied is taken away; a file that was put in the place of one is mail."""
    full_folders(new, 2)
    assert bodies(bob) == []
    (new / "0.json/x").unlink()
    (new / "1.json/x").unlink()
    (new / "1.json").rmdir()
    (root / "bob/tmp/draft").write_text('{"n":1}')
    os.rename(root / "bob/tmp/draft", new / "1.json")

    assert bodies(bob) == [{"n": 1}]
    assert os.listdir(new) == []


def test_a_name_that_is_nobodys_is_never_opened(
    new: Path, alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it looks like one of ours at the seam, by which names are sorted."""
    for n in range(50):
        (new / f"2020010{n % 10}T000000.{n:09d}Z-00000000000a,S=2.txt").write_text("{}")
        (new / f".020010{n % 10}T000000.{n:09d}Z-00000000000a,S=2.json").write_text("{}")
    opened: list[str] = []
    real = os.open

    def watched(path: Any, *arguments: Any, **options: Any) -> int:
        if options.get("dir_fd") is not None:
            opened.append(str(path))
        return real(path, *arguments, **options)

    alice.send("bob", 1)
    bob.receive()  # finds its place
    monkeypatch.setattr(os, "open", watched)
    alice.send("bob", 2)
    message = bob.receive()

    assert message is not None
    assert [name for name in opened if name.endswith(".txt") or name.startswith(".0")] == []


# Much of it is left behind


@pytest.mark.parametrize("plant", [hidden, full_folders])
def test_much_junk_is_left_behind(
    root: Path,
    new: Path,
    alice: Mailbox,
    bob: Mailbox,
    monkeypatch: pytest.MonkeyPatch,
    unhurried: None,
    plant: Callable[[Path, int], None],
) -> None:
    """After a few looks a listing of new/ shows the mail, and nothing else; modes and owner are as they were."""
    before = new.stat()
    plant(new, 3000)
    for n in range(3):
        alice.send("bob", n)
        assert bodies(bob) == [n]
    calls = Calls(new, monkeypatch)
    for n in range(20):
        alice.send("bob", n)
        assert bodies(bob) == [n]
    after = new.stat()

    assert calls.count["names"] <= 20 * 10
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert [len(os.listdir(path)) for path in kept(root)] == [3000]


def test_junk_that_keeps_coming_is_left_behind_again(root: Path, new: Path, bob: Mailbox, unhurried: None) -> None:
    """More junk comes before the first folder that was new/ is settled: that does not keep it in new/."""
    for _ in range(3):
        hidden(new, 3000)
        for _ in range(3):
            assert bodies(bob) == []
            crowding = bob._receiver._spool._new._crowding
            crowding.room_at = crowding.exchange_at = 0.0

    assert os.listdir(new) == []
    assert [len(os.listdir(path)) for path in kept(root)] == [3000] * 3


def test_what_may_become_mail_is_not_left_behind(
    root: Path, new: Path, alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-written files, held back mail and mail that comes in between move over; and nothing is left for ever."""
    monkeypatch.setattr(junk, "_IN_FLIGHT", 0.0)
    monkeypatch.setattr(junk, "_HELD", 0.0)
    hidden(new, 2000)
    taken = []
    with open(new / "slow.json", "w", buffering=1) as file:
        file.write('{"n":')
        ahead = to_timestamp(time.time_ns() + 3600 * 10**9)
        for n in range(3):
            taken += bodies(bob)
            (new / f"{ahead}-00000000000{n},S=2.json").write_text("{}")
            bob._receiver._spool._new._crowding.room_at = 0.0
        file.write("1}")
    for _ in range(10):
        bob._receiver._spool._new._crowding.room_at = 0.0
        taken += bodies(bob)

    assert sorted(map(str, taken)) == ["{'n': 1}", "{}", "{}", "{}"]
    assert os.listdir(new) == []
    assert [path.name[:6] for path in kept(root)] == [".junk-"]
    assert stat.S_IMODE(kept(root)[0].stat().st_mode) == 0o700


def test_mail_of_a_writer_stays_in_order_across_the_exchange(new: Path, alice: Mailbox, bob: Mailbox) -> None:
    """What came since the last look moves over at once, before anything that is sent into the fresh folder."""
    hidden(new, 1500)
    assert bodies(bob) == []  # one look; the next leaves it behind
    sent = list(range(50))
    for n in sent[:25]:
        alice.send("bob", n)
    taken = []
    for n in sent[25:]:
        message = bob.receive()
        assert message is not None
        taken.append(message.body)
        message.ack()
        alice.send("bob", n)

    assert taken + bodies(bob) == sent


def test_a_file_of_many_names_is_left_behind_with_them(root: Path, new: Path, alice: Mailbox, bob: Mailbox) -> None:
    """Hard links to one file, under names of mail: whoever touches it keeps all of them from being still."""
    (new / "0.json").write_text("{")
    for n in range(1500):
        os.link(new / "0.json", new / f"{n + 1}.json")
    for n in range(4):
        bob._receiver._spool._new._crowding.room_at = 0.0
        alice.send("bob", n)
        assert bodies(bob) == [n]

    assert len(os.listdir(new)) == 0
    assert [len(os.listdir(path)) for path in kept(root)] == [1501]


def test_a_file_replaces_nothing_when_it_moves_over(root: Path, new: Path) -> None:
    """Two files of one name are two messages."""
    (new / "x.json").write_text('{"n":1}')
    (root / "old").mkdir()
    (root / "old/x.json").write_text('{"n":2}')
    old, there = os.open(root / "old", os.O_RDONLY), os.open(new, os.O_RDONLY)
    try:
        assert junk.carry("x.json", old, there)
    finally:
        os.close(old)
        os.close(there)

    assert sorted(path.read_text() for path in new.iterdir()) == ['{"n":1}', '{"n":2}']
    assert (new / "x.json").read_text() == '{"n":1}'


def test_what_cannot_be_left_behind_is_looked_at_less_often(
    root: Path, new: Path, alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel cannot exchange folders: a look by the clock takes a twentieth of the time. A ring is heard."""
    monkeypatch.setattr(claim_new, "leave_behind", lambda *_: None)
    hidden(new, 2000)
    alice.send("bob", 1)
    assert bodies(bob) == [1]
    cost = bob._receiver.cost()
    waits = Waker(str(root / "bob"), 0.001, scan_cost=lambda: cost)

    assert cost > 0
    assert waits.span(60) == pytest.approx(max(0.001, 20 * cost))
    assert waits.quiet >= 20 * cost
    assert waits.span(0.0) == 0.0
    assert len(os.listdir(new)) == 2000


# The share of a look


def test_no_odd_file_is_opened_before_the_mail_behind_it(
    new: Path, alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a look has spent its share on them, the rest waits for the next."""
    monkeypatch.setattr(intake, "CLEANUP_BUDGET", 0.0)
    alice.send("bob", 0)
    assert bodies(bob) == [0]
    for n in range(50):
        (new / f"{n}.json").symlink_to("nowhere")
        os.utime(new / f"{n}.json", (0, 0), follow_symlinks=False)
        (new / f"20200101T000000.{n:09d}Z-00000000000a,S=9.json").touch()
    calls = Calls(new, monkeypatch)
    alice.send("bob", "good")
    message = bob.receive()
    opened = calls.count["open"]
    left = len(os.listdir(new))

    assert message is not None
    assert message.body == "good"
    assert opened <= 4
    assert left >= 98


def test_notes_are_so_many_and_then_they_are_counted(root: Path, new: Path, bob: Mailbox, unhurried: None) -> None:
    """A planted link costs its recipient a block of the disk: not more than a thousand of them do."""
    for n in range(1300):
        (new / f"{n}.json").symlink_to("nowhere")
    assert bodies(bob) == []
    notes = [path.name for path in (root / "bob/dead").iterdir()]

    assert os.listdir(new) == []
    assert len(notes) == 1001
    assert (root / "bob/dead/rest.why").read_text().startswith("300 more ")
    assert "symbolic link" in (root / "bob/dead/rest.why").read_text()


# For people, and gc


def swept(root: Path) -> list[str]:
    found = []
    for left in find_garbage(find_root(root).box(BOB)):
        found.append(left.description)
        left.remove()
    return found


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let 37 hours pass."""
    real = time.time
    return lambda: monkeypatch.setattr(time, "time", lambda: real() + 37 * 3600)


def test_doctor_names_junk_and_gc_takes_it_away(root: Path, new: Path, later: Callable[[], None]) -> None:
    """How much, and whose; what is mail stays, however old."""
    hidden(new, 20)
    full_folders(new, 3)
    (new / "mail.json").write_text("{}")
    os.chown(new / ".junk", 2002 if os.geteuid() == 0 else -1, -1)
    told = [finding.problem for finding in doctor.examine(find_root(root)) if "not mail" in finding.problem]
    early = swept(root)
    later()
    late = swept(root)

    assert len(told) == 1
    assert "23 files in new/" in told[0]
    assert f"uid {2002 if os.geteuid() == 0 else os.geteuid()}'s" in told[0]
    assert early == []
    assert late == ["23 files in new/ that are not mail and unchanged for 36 hours"]
    assert os.listdir(new) == ["mail.json"]


def test_what_was_left_behind_is_told_and_goes_as_a_whole(
    root: Path, new: Path, alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch, later: Callable[[], None]
) -> None:
    """Its folder, too: nobody else could enter that since."""
    hidden(new, 1500)
    for n in range(3):
        alice.send("bob", n)
        assert bodies(bob) == [n]
    os.chmod(kept(root)[0], 0o700)
    told = [finding.problem for finding in doctor.examine(find_root(root)) if "not mail" in finding.problem]
    junk.keep(str(kept(root)[0]))
    early = swept(root)
    later()
    late = swept(root)

    assert "1500 files in .new-" in told[0]
    assert early == []
    assert late == ["1500 files in new/ that are not mail and unchanged for 36 hours"]
    assert kept(root) == []


def test_others_cannot_keep_junk_of_theirs_in_the_way(as_root: None, shared: Path) -> None:
    """Folders and links of another uid: the owner can neither move nor empty them, and leaves them behind."""
    found = init_root(shared / "mail")
    create_box(found.box(BOB), (2001, 2001))
    new = shared / "mail/bob/new"

    def attack() -> None:
        full_folders(new, 1500)
        (new / "good.json").write_text('{"n":1}')
        os.chmod(new / "good.json", 0o644)

    def take() -> list[Any]:
        vars(intake)["CLEANUP_BUDGET"] = 60.0
        with Mailbox("bob", shared / "mail", durable=False) as bob:
            return [bodies(bob) for _ in range(3)]

    act(Actor("attacker", 2002), attack)
    taken = act(Actor("owner", 2001), take)
    old = kept(shared / "mail")

    assert taken == [[{"n": 1}], [], []]
    assert os.listdir(new) == []
    assert [len(os.listdir(path)) for path in old] == [1500]
    assert stat.S_IMODE(new.stat().st_mode) == 0o3733
    assert (new.stat().st_uid, new.stat().st_gid) == (2001, 2001)


def test_nothing_is_exchanged_in_the_box_of_another(as_root: None, shared: Path) -> None:
    """Root that reads the mail of bob does nothing by path in a folder that bob can change."""
    create_box(init_root(shared / "mail").box(BOB), (2001, 2001))
    new = shared / "mail/bob/new"
    hidden(new, 1500)
    with Mailbox("bob", shared / "mail", durable=False) as bob:
        assert [bodies(bob) for _ in range(3)] == [[], [], []]

    assert len(os.listdir(new)) == 1500
    assert kept(shared / "mail") == []


def test_a_taker_that_is_killed_after_the_exchange_loses_nothing(root: Path, new: Path, alice: Mailbox) -> None:
    """The next one finds what may be mail in the folder that was new/."""
    hidden(new, 1500)
    (new / "x.json").write_text('{"n":1}')
    folder = os.open(new, os.O_RDONLY)
    aside = junk.leave_behind(str(root / "bob"), folder, ["x.json"])
    os.close(folder)
    assert aside is not None
    aside.close()
    alice.send("bob", 2)
    with Mailbox("bob", root, durable=False) as bob:
        taken = bodies(bob)

    assert sorted(map(str, taken)) == ["2", "{'n': 1}"]
    assert len(os.listdir(new)) == 0


def test_a_taker_lets_go_of_what_was_left_behind(new: Path, root: Path) -> None:
    """No descriptor stays open."""
    hidden(new, 1500)
    before = len(os.listdir("/proc/self/fd"))
    taker = Spool(find_root(root).box(BOB))
    for _ in range(3):
        taker.claim()
    held = len(os.listdir("/proc/self/fd"))
    taker.close()

    assert len(kept(root)) == 1
    assert held > before
    assert len(os.listdir("/proc/self/fd")) == before
