"""Acting for a box with the rights of its owner: what the owner, or a stranger, plants there gets nothing from root.

Each planter here has an unprivileged uid of its own, or is the owner of one box; the operator is root.
"""

import ast
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import filemailbox
from filemailbox import BoxNotFoundError, Mailbox, MailboxError, PermissionDeniedError, StorageError
from filemailbox.format.address import Address
from filemailbox.format.filename import ID_LENGTH, parse_filename
from filemailbox.ops.cleanup import find_garbage, remove_garbage
from filemailbox.store.box import create_box, repair_box
from filemailbox.store.consumer_folder import ConsumerFolder
from filemailbox.store.ledger import Ledger
from filemailbox.store.permissions import chown_to_box_owner, refuse_foreign_owner
from filemailbox.store.removed_boxes import remove_box
from filemailbox.store.replies import PendingRequest
from filemailbox.store.root import Root, init_root, set_marker
from filemailbox.store.spool import Spool
from support.uids import Actor, act, staying

PACKAGE = Path(filemailbox.__file__).parent
LONG_AGO = time.time() - 40 * 3600
OLD = "20200101T000000.000000000Z"
ALICE, BOB, CAROL, MALLORY = (Actor(name, uid) for name, uid in zip("abcm", (2000, 2001, 2002, 2003), strict=True))
LETTER = f"{OLD}-0123456789ab,S=2.json"


@pytest.fixture
def volume(as_root: None, shared: Path) -> Root:
    """A root with a box for each of three uids, and beside it a folder of root's alone, on the same file system."""
    volume = init_root(shared / "mail")
    for name, who in (("alice", ALICE), ("bob", BOB), ("carol", CAROL)):
        create_box(volume.box(Address(name)), (who.uid, who.uid))
    (shared / "secret").mkdir(mode=0o700)
    return volume


@pytest.fixture
def box(volume: Root) -> Path:
    """Bob's."""
    return Path(volume.path, "bob")


@pytest.fixture
def secret(volume: Root, shared: Path) -> Path:
    """A folder that only root can reach."""
    return shared / "secret"


def as_bob(job: Callable[[], object]) -> None:
    act(BOB, lambda: repr(job()))


def swap_for_link(folder: Path, target: Path, aside: Path) -> None:
    folder.rename(aside)
    folder.symlink_to(target)


def sweep_all(volume: Root) -> bool:
    """What the operator's gc does, whatever becomes of each."""
    with contextlib.suppress(MailboxError, OSError):
        for left in find_garbage(volume.box(Address("bob"))):
            with contextlib.suppress(MailboxError, OSError):
                left.remove()
    return True


# Links in the place of a folder


@pytest.mark.parametrize("who", ["gc", "doctor", "a consumer"])
@pytest.mark.parametrize("target", ["the mail of another", "a folder of root's"])
def test_a_link_that_is_called_like_a_replaced_new_moves_nothing(
    volume: Root, box: Path, secret: Path, mailbox: Callable[..., Any], who: str, target: str
) -> None:
    """Root never follows `bob/.new-x`: neither carol's waiting mail nor any other file comes into bob's box."""
    victim = Path(volume.path, "carol/new") if target == "the mail of another" else secret
    (victim / LETTER).write_text("{}")
    as_bob(lambda: os.symlink(victim, box / ".new-x"))
    if who == "gc":
        mailbox("gc", "--root", volume.path)
    elif who == "doctor":
        mailbox("doctor", "--fix", "--root", volume.path)
    else:
        with Mailbox("bob", volume.path, durable=False) as consumer:
            consumer.receive()

    assert os.listdir(victim) == [LETTER]
    assert os.listdir(box / "new") == []


def test_an_agent_that_sweeps_all_boxes_gives_nothing_away_either(volume: Root, box: Path) -> None:
    """Alice runs gc for the whole root: what bob has planted does not lead into her own box."""
    mine = Path(volume.path, "alice/later", f"{OLD}~{LETTER}")
    mine.write_text("{}")
    os.chown(mine, ALICE.uid, ALICE.uid)

    def plant() -> None:
        os.symlink(mine.parent, box / ".new-x")
        for folder in box.iterdir():
            if folder.is_dir() and not folder.is_symlink():
                folder.chmod(0o777)

    as_bob(plant)
    act(ALICE, lambda: sweep_all(volume))

    assert mine.exists()


def test_a_replaced_new_of_another_uid_is_left_alone(volume: Root, box: Path) -> None:
    """It is no folder of bob's: who made it could take from it, and put into it, what it likes."""
    foreign = box / ".new-x"
    foreign.mkdir()
    (foreign / LETTER).write_text("{}")
    os.chown(foreign, CAROL.uid, CAROL.uid)
    sweep_all(volume)
    with Mailbox("bob", volume.path, durable=False) as consumer:
        consumer.receive()

    assert os.listdir(foreign) == [LETTER]
    assert os.listdir(box / "new") == []


def test_mail_in_a_replaced_new_of_the_owner_comes_back(volume: Root, box: Path) -> None:
    """Root's gc was killed on the way; also where strangers' folders lie in between."""

    def plant() -> None:
        (box / ".new-x").mkdir()
        (box / ".new-x").chmod(0o3733)

    as_bob(plant)
    (box / ".new-x" / LETTER).write_text("{}")
    os.chown(box / ".new-x" / LETTER, ALICE.uid, BOB.uid)
    act(MALLORY, lambda: (box / ".new-x" / "a.json" / "x").mkdir(parents=True))
    sweep_all(volume)

    assert os.listdir(box / "new") == [LETTER]


def bell(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(path))


PLACES = {
    "draft": ("tmp", "shadow"),
    "note": ("dead", "shadow.why"),
    "handled": ("done", f"{OLD}~{LETTER}"),
    "bell": ("run", "bell"),
    "status": ("run", "status-0123456789ab.json"),
    "page": ("ledger", "none-alice.jsonl.new"),
    "half made": ("cur", ".0123456789ab"),
    "consumer": ("cur", "ffffffffffff"),
    "request": ("cur", f".{OLD}-0123456789ab.lock"),
    "mail of the dead": ("cur", "0123456789ac"),
}


@pytest.mark.parametrize("swap", ["link", "folder of another"])
@pytest.mark.parametrize("kind", PLACES)
def test_a_folder_that_is_swapped_during_the_sweep_costs_nobody_a_file(
    volume: Root, box: Path, secret: Path, kind: str, swap: str
) -> None:
    """Root has listed a leftover of bob's; then bob puts a link to a root-only folder in the place of its folder."""
    place, name = PLACES[kind]

    def make(folder: Path) -> None:
        if kind in ("half made", "consumer", "mail of the dead"):
            (folder / name).mkdir()
            (folder / name / ".lock").touch()
            if kind == "mail of the dead":
                (folder / name / LETTER).write_text("{}")
        elif kind == "bell":
            bell(folder / name)
        else:
            (folder / name).write_text("root:x:0:0")
        os.utime(folder / name, (LONG_AGO, LONG_AGO))

    as_bob(lambda: make(box / place))
    make(secret)
    before = sorted(secret.rglob("*"))
    found = [left for left in find_garbage(volume.box(Address("bob")), 3600) if name in left.path]
    if swap == "link":
        as_bob(lambda: swap_for_link(box / place, secret, box / "old"))
    else:
        os.rename(box / place, box / "old")
        os.rename(secret, box / place)
        secret = box / place
    for left in found:
        with contextlib.suppress(MailboxError):
            left.remove()

    assert found != []
    assert sorted(path.name for path in secret.rglob("*")) == sorted(path.name for path in before)


def test_an_owner_that_swaps_without_pause_gets_nothing(volume: Root, box: Path, secret: Path) -> None:
    """In each of its folders, while root sweeps: whatever moment it hits, root has no rights there that it has not."""
    kept = [("tmp", "shadow"), ("done", f"{OLD}~{LETTER}"), ("dead", "a.why"), (".new-x", LETTER), ("ledger", "a.new")]
    for _, name in kept:
        (secret / name).write_text("root:x:0:0")
        os.utime(secret / name, (LONG_AGO, LONG_AGO))

    def swap(tell: Callable[[Any], object]) -> None:
        for place, name in kept:
            (box / place).mkdir(exist_ok=True)
            (box / place / name).write_text("bait")
            os.utime(box / place / name, (LONG_AGO, LONG_AGO))
            os.symlink(secret, box / f"{place}-link")
        tell("ready")
        while True:
            for place, _ in kept:
                for old, new in ((place, f"{place}-aside"), (f"{place}-link", place)):
                    os.rename(box / old, box / new)
                for old, new in ((place, f"{place}-link"), (f"{place}-aside", place)):
                    os.rename(box / old, box / new)

    swept = 0
    with staying(BOB, swap) as bob:
        bob.hear(20)
        for _ in range(100):
            with contextlib.suppress(MailboxError):
                swept += sum(1 for _ in remove_garbage(volume.box(Address("bob")), 1))

    assert sorted(os.listdir(secret)) == sorted(name for _, name in kept), f"{swept} leftovers were swept"


def test_a_consumer_of_roots_sweeps_no_drafts_behind_a_link(volume: Root, box: Path, secret: Path) -> None:
    """`mailbox receive --as bob` of a root in bob's container, and bob's tmp/ is a link."""
    (secret / "passwd").write_text("root:x:0:0")
    os.utime(secret / "passwd", (LONG_AGO, LONG_AGO))
    as_bob(lambda: swap_for_link(box / "tmp", secret, box / "old"))
    with Mailbox("bob", volume.path, durable=False) as consumer:
        consumer.receive()

    assert os.listdir(secret) == ["passwd"]


def test_a_page_of_the_ledger_is_not_written_through_a_link(volume: Root, box: Path, secret: Path) -> None:
    """Bob has planted a link where root's consumer writes a shorter page."""
    target = secret / "shadow"
    target.write_text("root:x:0:0")
    as_bob(lambda: os.symlink(target, box / "ledger/none-alice.jsonl.new"))
    ledger = Ledger(str(box / "ledger"), str(box), limit=2)
    for number in range(9):
        ledger.record("none", "alice", f"key-{number}", f"2026010{number}T000000.000000000Z")

    assert target.read_text() == "root:x:0:0"
    assert {path.stat().st_uid for path in (box / "ledger").glob("*.jsonl")} == {BOB.uid}


def test_a_request_of_roots_changes_no_mode_behind_a_link(
    volume: Root, box: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bob swaps the folder that root has just made for the answer; for root it would be 3733 of anything."""
    real = os.mkdir

    def swapped(path: str, mode: int = 0o777, **more: Any) -> None:
        real(path, mode, **more)
        if "/replies/" in str(path):
            os.rename(path, box / "aside")
            os.symlink(secret, path)

    monkeypatch.setattr(os, "mkdir", swapped)
    with pytest.raises((MailboxError, OSError)), PendingRequest(str(box), f"{OLD}-0123456789ab"):
        pass

    assert secret.stat().st_mode & 0o7777 == 0o700


def test_answers_for_another_do_not_come_into_the_box_of_a_planter(
    volume: Root, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bob's replies/ has become a link to carol's after root's consumer has opened it."""
    carols = Path(volume.path, "carol/replies")
    request = f"{OLD}-0123456789ab"
    for replies in (carols, box / "replies"):
        (replies / request).mkdir()
        (replies / request).chmod(0o3733)
    (carols / request / LETTER).write_text("{}")
    taker = Spool(volume.box(Address("bob")))
    real = ConsumerFolder.recover_dead_consumers

    def swapped(folder: ConsumerFolder) -> None:
        real(folder)
        swap_for_link(box / "replies", carols, box / "aside")

    monkeypatch.setattr(ConsumerFolder, "recover_dead_consumers", swapped)
    taker.begin()
    taker.close()

    assert os.listdir(carols / request) == [LETTER]


def test_the_mark_of_a_root_tells_nothing_of_what_a_link_leads_to(volume: Root, secret: Path) -> None:
    """The owner of a private volume makes its mark a link; root writes what it says anew, for all to read."""
    mark = Path(volume.path, ".mailbox")
    mark.unlink()
    (secret / "config.json").write_text('{"auths": "root\'s password"}')
    mark.symlink_to(secret / "config.json")
    set_marker(volume, "relay", 990)

    assert mark.read_text() == '{"format":1,"relay":990}\n'


def test_what_root_makes_as_a_consumer_is_the_owners(volume: Root, box: Path) -> None:
    """And made by it: no file changes hands."""
    for folder in (box / "cur").iterdir():
        (folder / ".lock").unlink()
        folder.rmdir()
    taker = Spool(volume.box(Address("bob")))
    taker.begin()
    taker.close()
    facts = [path.stat() for path in (box / "cur").rglob("*")]

    assert [(each.st_uid, each.st_gid) for each in facts] == [(BOB.uid, BOB.uid)] * 2


def test_what_holds_something_is_not_given_away(volume: Root, box: Path) -> None:
    """Bob has moved a file of root's, which it cannot read, to where root was about to give away an empty one."""
    moved = box / "run/status.json"
    moved.write_text("root's own")
    chown_to_box_owner(str(moved), str(box))

    assert moved.stat().st_uid == 0


# Making, mending, removing


def test_a_box_that_becomes_a_link_is_not_furnished(
    volume: Root, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a root where anybody may make boxes, bob swaps his for a link right after root has looked at it."""
    os.chmod(volume.path, 0o1777)
    real, there = refuse_foreign_owner, Path(volume.path, "bob")

    def swapped(*arguments: Any, **more: Any) -> None:
        real(*arguments, **more)
        there.rename(there.with_name("old"))
        there.symlink_to(secret)

    monkeypatch.setattr("filemailbox.store.box.refuse_foreign_owner", swapped)
    with pytest.raises(MailboxError):
        create_box(volume.box(Address("bob")), (BOB.uid, BOB.uid))

    assert (os.listdir(secret), secret.stat().st_uid) == ([], 0)


@pytest.mark.parametrize(
    ("uid", "mode"),
    [(CAROL.uid, 0o700), (0, 0o1777)],
    ids=["another uid's", "root's, and open to all"],
)
def test_what_may_have_been_moved_into_a_box_is_not_given_to_its_owner(
    volume: Root, box: Path, uid: int, mode: int
) -> None:
    """With all that lies in it."""
    (box / "done").rmdir()
    (box / "done").mkdir()
    (box / "done/letter").write_text("carol's")
    os.chown(box / "done", uid, uid)
    (box / "done").chmod(mode)
    with pytest.raises(PermissionDeniedError, match="another uid may have put it there"):
        repair_box(volume.box(Address("bob")))

    assert (box / "done").stat().st_uid == uid


def test_what_root_has_left_in_a_box_is_given_back(volume: Root, box: Path) -> None:
    """Somebody has made a folder by hand, as root."""
    (box / "done").rmdir()
    (box / "done").mkdir(mode=0o755)
    (box / "later").rmdir()
    repair_box(volume.box(Address("bob")))

    for name in ("done", "later"):
        facts = (box / name).stat()
        assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o7777) == (BOB.uid, BOB.uid, 0o700)


def test_a_removed_box_takes_nothing_of_others_along(volume: Root, box: Path, secret: Path) -> None:
    """Links in it are links; what a stranger has put there is deleted with that one's rights."""
    (secret / "shadow").write_text("root:x:0:0")
    for link in ("link", "done/link"):
        os.symlink(secret, box / link)
    trap = box / "replies" / f"{OLD}-0123456789ab"
    act(MALLORY, lambda: os.makedirs(trap / "deep", 0o700))
    kept = remove_box(volume.box(Address("bob")))

    assert kept is None
    assert os.listdir(secret) == ["shadow"]
    assert not os.path.lexists(volume.removed_dir)


def test_a_folder_of_removed_boxes_that_a_stranger_has_made_gets_none(volume: Root, box: Path, secret: Path) -> None:
    """It could take them away, or be a link."""
    os.chmod(volume.path, 0o1777)
    (box / "new" / LETTER).write_text("{}")
    act(MALLORY, lambda: os.mkdir(volume.removed_dir))
    with pytest.raises(PermissionDeniedError, match="belongs to the uid 2003"):
        remove_box(volume.box(Address("bob")), force=True)
    os.rmdir(volume.removed_dir)
    act(MALLORY, lambda: os.symlink(secret, volume.removed_dir))
    with pytest.raises(MailboxError):
        remove_box(volume.box(Address("bob")), force=True)

    assert (box / "new" / LETTER).exists()
    assert os.listdir(secret) == []


# What a sweep does all the same


def test_a_sweep_reaches_a_volume_behind_closed_doors(volume: Root, box: Path, shared: Path) -> None:
    """The owner of the box could not get there by a path: as with the volumes of a container engine, on the host."""
    shared.chmod(0o700)
    (box / "tmp/draft").touch()
    os.utime(box / "tmp/draft", (LONG_AGO, LONG_AGO))
    dead = box / "cur/0123456789ab"
    for path in (dead, dead / ".lock", dead / LETTER):
        path.mkdir() if path is dead else path.touch()
        os.chown(path, BOB.uid, BOB.uid)
    sweep_all(volume)

    assert os.listdir(box / "tmp") == []
    [back] = os.listdir(box / "later")
    name = parse_filename(back.partition("~")[2])
    assert name is not None
    assert (name.id, name.attempt) == (LETTER[:ID_LENGTH], 2)


def test_what_resists_stops_none_of_the_rest(volume: Root, box: Path, mailbox: Callable[..., Any]) -> None:
    """A stranger's folder among the drafts, with something in it, made to look old."""
    act(MALLORY, lambda: (box / "tmp/a" / "x").mkdir(parents=True))
    (box / "tmp/b").touch()
    for name in ("a", "b"):
        os.utime(box / "tmp" / name, (LONG_AGO, LONG_AGO))
    said = mailbox("gc", "--root", volume.path)

    assert os.listdir(box / "tmp") == ["a"]
    assert said.out.count("a temporary file unchanged") == 1
    assert "removing" in said.err
    assert said.code != 0


# The helper itself


def opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


@pytest.fixture
def acting() -> Any:
    from filemailbox.system import as_owner

    return as_owner


@pytest.fixture
def door(box: Path) -> Iterator[int]:
    """Bob's box, open."""
    door = opened(box)
    yield door
    os.close(door)


def test_the_child_is_the_owner_and_nothing_more(acting: Any, door: int) -> None:
    """All its uids and gids, no other group, no capability; the parent stays who it is."""

    def who() -> list[Any]:
        with open("/proc/self/status") as status:
            held = [line.split()[1] for line in status if line.startswith(("CapEff", "CapPrm"))]
        return [os.getresuid(), os.getresgid(), os.getgroups(), held]

    assert acting.call(door, who) == [[2001] * 3, [2001] * 3, [], ["0000000000000000"] * 2]
    assert os.geteuid() == 0


def test_nobody_is_forked_for_a_box_of_our_own(
    acting: Any, door: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where we are not root: there is nothing to give up."""

    def fork() -> int:
        raise AssertionError("forked")

    monkeypatch.setattr(os, "fork", fork)
    own = opened(root)
    ours = acting.call(own, os.getpid)
    os.close(own)
    with pytest.raises(AssertionError, match="forked"):
        acting.call(door, os.getpid)

    assert ours == os.getpid()


def test_the_child_need_not_be_able_to_read_python(volume: Root, box: Path, start: Callable[..., Any]) -> None:
    """As where it lies in root's home: after the fork nothing is imported any more."""
    (box / "dead").rmdir()
    (box / "tmp/draft").touch()
    os.utime(box / "tmp/draft", (LONG_AGO, LONG_AGO))
    as_bob(lambda: bell(box / "run/bell"))
    os.utime(box / "run/bell", (LONG_AGO, LONG_AGO))
    (box / ".new-x").mkdir()
    (box / ".new-x" / LETTER).write_text("{}")
    for path in (box / ".new-x", box / ".new-x" / LETTER):
        os.chown(path, BOB.uid, BOB.uid)
    program = start(
        """
import os, sys
from filemailbox.system import as_owner
from filemailbox.store.box import create_box
from filemailbox.store.root import find_root
from filemailbox.ops.cleanup import remove_garbage
from filemailbox.format.address import Address
real = as_owner._become
def become(uid, gid):
    real(uid, gid)
    sys.meta_path[:] = []
    sys.path[:] = []
as_owner._become = become
volume, bob = find_root(sys.argv[1]), Address("bob")
create_box(volume.box(bob), (2001, 2001))
print([str(why) for left, why in remove_garbage(volume.box(bob))])
""",
        volume.path,
    )

    assert program.line() == "['None', 'None', 'None']"
    assert os.listdir(box / "tmp") == os.listdir(box / "run") == []
    assert os.listdir(box / "new") == [LETTER]


def fails(error: Exception) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        PermissionDeniedError("no", 1),
        StorageError("the disk fails", 5),
        BoxNotFoundError("bob", "/mail", ["alice"]),
        FileNotFoundError(2, "No such file or directory", "x"),
        PermissionError(13, "Permission denied"),
        OSError(5, "Input/output error", "a\udcff"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_child_is_raised_here(acting: Any, door: int, error: Exception) -> None:
    """Of the same type, with the same words and number."""
    with pytest.raises(type(error)) as caught:
        acting.call(door, fails(error))

    assert str(caught.value) == str(error)
    assert getattr(caught.value, "errno", None) == getattr(error, "errno", None)
    assert getattr(caught.value, "known", None) == getattr(error, "known", None)


def test_a_mistake_of_the_child_is_an_error_too(acting: Any, door: int) -> None:
    """No type of it is made here that somebody else has named."""
    with pytest.raises(MailboxError, match="ZeroDivisionError"):
        acting.call(door, lambda: 1 // 0)


@pytest.mark.parametrize(("number", "how"), [(signal.SIGSTOP, "stopped"), (signal.SIGKILL, "killed")])
def test_an_owner_that_stops_or_kills_the_child_holds_nobody_up(acting: Any, door: int, number: int, how: str) -> None:
    """It may: the process has its uid. That is an error of this box alone."""
    with pytest.raises(StorageError, match=how):
        acting.call(door, lambda: os.kill(os.getpid(), number))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_much_is_streamed_and_can_be_left(acting: Any, door: int) -> None:
    """Item by item, more than a pipe holds; who has enough leaves no child behind."""
    many = list(acting.stream(door, lambda: (["x" * 100, number] for number in range(20_000))))
    some = acting.stream(door, lambda: (number for number in range(1_000_000)))
    first = next(some)
    some.close()

    assert (len(many), many[-1][1], first) == (20_000, 19_999, 0)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


# What the code does by path

SWEPT = (
    *("system/as_owner", "system/locks", "ops/cleanup", "ops/doctor", "ops/inventory", "receive/leases"),
    *("receive/status", "cli/maintenance", "cli/boxes"),
    *(
        "store/box",
        "store/claim_deferred",
        "store/claim_new",
        "store/consumer_folder",
        "store/intake",
        "store/dead_letters",
        "store/junk",
        "store/ledger",
        "store/permissions",
    ),
    *("store/removed_boxes", "store/root", "store/settle", "store/spool"),
)
"""The modules that act in boxes of others, perhaps as root."""

BY_PATH = {
    *("unlink", "remove", "rmdir", "removedirs", "rmtree", "rename", "renames", "replace", "move"),
    *("chown", "lchown", "chmod", "lchmod", "utime", "truncate", "mkdir", "makedirs", "mkfifo", "link", "symlink"),
}

ALLOWED = {
    ("ops/cleanup", "_shrink", "rename"): "both are in the open folder of the box: as_owner.at",
    ("store/junk", "keep", "rename"): "only by a consumer in its own box: leave_behind looks at the uid",
    ("store/junk", "leave_behind", "mkdir"): "only by a consumer in its own box",
    ("store/junk", "leave_behind", "rmdir"): "only by a consumer in its own box",
    ("store/junk", "leave_behind", "rename"): "only by a consumer in its own box",
    ("store/junk", "carry", "rename"): "both are open folders",
    ("store/root", "init_root", "mkdir"): "the root itself, which the operator names",
    ("store/box", "create_box", "mkdir"): "beside the boxes; furnished only if nobody else's, and not through a link",
    ("store/removed_boxes", "remove_box", "mkdir"): "beside the boxes; used only if it is ours",
    ("store/permissions", "chown_to_box_owner", "chown"): "of a descriptor, and only what root made and is empty",
    ("store/permissions", "set_mode_and_owner", "chown"): "of a descriptor that was checked",
    ("store/permissions", "set_mode_and_owner", "chmod"): "of a descriptor that was checked",
    ("store/ledger", "_draft", "unlink"): "a name that ends in .jsonl.new, never followed",
    ("store/ledger", "_rewrite", "rename"): "within one folder; the last part of both is ours, and never followed",
}
"""Module, function, call: why it may be."""


def by_path() -> set[tuple[str, str, str]]:
    """Each call in those modules that changes something, and finds it by a path."""
    found = set()
    for module in SWEPT:
        for function in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and (name := called(node)) in BY_PATH and not is_anchored(node, name):
                        found.add((module, function.name, name))
    return found


def called(node: ast.Call) -> str:
    """`unlink` of os.unlink(…), shutil.rmtree(…), rename(…) and path.unlink(); nothing of "text".replace(…)."""
    if isinstance(node.func, ast.Name):
        return "" if node.func.id in ("move", "remove") else node.func.id  # files.move, junk.remove: by descriptors
    if isinstance(node.func, ast.Attribute):
        of = node.func.value
        if node.func.attr in ("replace", "remove") and not (isinstance(of, ast.Name) and of.id in ("os", "shutil")):
            return ""
        return node.func.attr
    return ""


def is_anchored(node: ast.Call, name: str) -> bool:
    """Whether it says in which open folder; a rename says so for both names."""
    given = {keyword.arg for keyword in node.keywords}
    return {"src_dir_fd", "dst_dir_fd"} <= given if name in ("rename", "replace", "link") else "dir_fd" in given


def test_nothing_that_may_act_as_root_finds_by_path_what_it_changes() -> None:
    """A new such call fails here: give it a descriptor, or a reason that holds against the owner of the box."""
    assert by_path() - set(ALLOWED) == set()


def test_each_exception_from_that_is_still_needed() -> None:
    """What is gone from the code is gone from the list."""
    assert set(ALLOWED) - by_path() == set()
