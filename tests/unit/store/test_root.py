"""The volume and the boxes on it: made, found, removed."""

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import BoxInUseError, BoxNotFoundError, PermissionDeniedError, RootNotFoundError, StorageError
from filemailbox.format.address import Address
from filemailbox.format.filename import ID_LENGTH
from filemailbox.store import removed_boxes as roots
from filemailbox.store.box import create_box
from filemailbox.store.layout import FOLDERS, MARKER
from filemailbox.store.permissions import chown_to_box_owner
from filemailbox.store.removed_boxes import remove_box
from filemailbox.store.root import Root, find_root, init_root, read_marker, set_marker
from filemailbox.system.locks import Lock
from support.boxes import BOB

LETTER = "20261124T014530.123456789Z-3f9c0a12b4d5,S=2.json"


@pytest.fixture
def volume(tmp_path: Path) -> Root:
    """A root without boxes."""
    return init_root(tmp_path / "mail")


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def modes(volume: Root, name: str = "bob") -> dict[str, int]:
    """The folders of a box with their modes, as FOLDERS has them."""
    return {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(f"{volume.path}/{name}")}


def consumers(volume: Root) -> list[str]:
    """The visible folders in cur/ that have a lock."""
    cur = Path(volume.path, "bob/cur")
    return [path.name for path in cur.iterdir() if not path.name.startswith(".") and (path / ".lock").is_file()]


# The root


def test_a_root_is_a_folder_that_says_its_format(tmp_path: Path, umask: None) -> None:
    """Everybody may read that, whatever the umask; what is there already is left as it is."""
    made = init_root(tmp_path / "mail")
    marker = tmp_path / "mail/.mailbox"
    before = marker.stat()
    again = init_root(tmp_path / "mail")

    assert marker.read_text() == '{"format": 1}\n'
    assert stat.S_IMODE(before.st_mode) == 0o644
    assert marker.stat().st_ino == before.st_ino
    assert made == again == find_root(tmp_path / "mail") == Root(str(tmp_path / "mail"))
    assert os.listdir(made.path) == [".mailbox"]


def test_the_mode_of_a_volume_that_is_there_is_not_touched(tmp_path: Path) -> None:
    """It decides who gets in at all, and belongs to who made it."""
    (tmp_path / "mail").mkdir(0o751)
    init_root(tmp_path / "mail")

    assert stat.S_IMODE((tmp_path / "mail").stat().st_mode) == 0o751


def test_a_root_is_made_in_a_folder_that_exists(tmp_path: Path) -> None:
    """A typing error, or a volume that is not mounted, makes no tree of folders."""
    with pytest.raises(RootNotFoundError, match="there is no folder"):
        init_root(tmp_path / "nowhere/mail")

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("marker", "says"),
    [
        pytest.param(None, "it holds no .mailbox file", id="none"),
        pytest.param("", "its .mailbox file is not JSON", id="empty"),
        pytest.param("format 1", "its .mailbox file is not JSON", id="not JSON"),
        pytest.param("[" * 4096, "its .mailbox file is not JSON", id="deep"),
        pytest.param("[1]", 'its format is "None" and this program knows 1', id="array"),
        pytest.param("{}", 'its format is "None"', id="no format"),
        pytest.param('{"format": "1"}', 'its format is "1" and', id="string"),
        pytest.param('{"format": 2}', 'its format is "2" and this program knows 1', id="from the future"),
        pytest.param('{"format": true}', 'its format is "True" and this program knows 1', id="true"),
    ],
)
def test_a_root_of_an_unknown_format_is_refused(tmp_path: Path, marker: str | None, says: str) -> None:
    """By whoever opens it, and by who would make one there: it may hold mail of another version."""
    if marker is not None:
        (tmp_path / ".mailbox").write_text(marker)
    with pytest.raises(RootNotFoundError) as caught:
        find_root(tmp_path)
    with contextlib.suppress(RootNotFoundError):
        init_root(tmp_path)

    assert says in str(caught.value)
    assert caught.value.root == str(tmp_path)
    assert (tmp_path / ".mailbox").read_text() == (marker if marker is not None else '{"format": 1}\n')


@pytest.mark.parametrize("path", ["nowhere", ".mailbox"], ids=["no folder", "a file"])
def test_a_root_that_is_not_there_is_told(tmp_path: Path, path: str) -> None:
    """The volume may not be mounted."""
    (tmp_path / ".mailbox").touch()

    with pytest.raises((RootNotFoundError, StorageError), match=r"no such folder|not a directory"):
        find_root(tmp_path / path)


def test_a_format_may_have_more_members(tmp_path: Path) -> None:
    """A later program may note something there without making a new format."""
    (tmp_path / ".mailbox").write_text('{"format": 1, "note": "x"}')

    assert find_root(tmp_path).path == str(tmp_path)


# Making a box


def test_a_box_has_all_its_folders_with_their_modes(volume: Root, umask: None) -> None:
    """Whatever the umask: senders could not deliver otherwise. And one consumer's folder, for a day without space."""
    made = create_box(volume.box(BOB))

    assert made
    assert modes(volume) == FOLDERS
    assert stat.S_IMODE(os.stat(volume.box(BOB)).st_mode) == 0o755
    assert len(consumers(volume)) == 1
    assert sorted(os.listdir(volume.path)) == [".mailbox", "bob"]


def test_the_drop_boxes_are_what_the_format_says() -> None:
    """3733: create, but neither list, read, replace nor delete."""
    assert {folder for folder, mode in FOLDERS.items() if mode == 0o3733} == {"tmp", "new", "replies"}
    assert {folder for folder, mode in FOLDERS.items() if mode & 0o077 == 0} == {
        "cur",
        "later",
        "dead",
        "done",
        "ledger",
    }


def test_making_a_box_twice_is_fine(volume: Root) -> None:
    """What it lacks is made; what it has is left: mail, consumers, and the modes that its owner gave."""
    create_box(volume.box(BOB))
    box = Path(volume.box(BOB))
    (box / "new" / LETTER).write_text("{}")
    (box / "done").rmdir()
    (box / "new").chmod(0o770)
    before = consumers(volume)
    made = create_box(volume.box(BOB))

    assert made is False
    assert modes(volume) == {**FOLDERS, "new": 0o770}
    assert (box / "new" / LETTER).exists()
    assert consumers(volume) == before


class Crash(BaseException):
    """Power is gone."""


@pytest.mark.parametrize("call", ["mkdir", "chmod", "rename"])
@pytest.mark.parametrize("step", range(12))
def test_what_a_crash_left_of_a_box_is_completed(
    volume: Root, call: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever step: nothing looks like a box before it is one, and the next try makes it whole, modes included."""
    real, left = getattr(os, call), [step]

    def crashing(*arguments: Any, **options: Any) -> Any:
        if left[0] == 0:
            raise Crash
        left[0] -= 1
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, crashing)
        with contextlib.suppress(Crash):
            create_box(volume.box(BOB))
    half = volume.has(BOB)
    whole = half and modes(volume) == FOLDERS and len(consumers(volume)) == 1
    create_box(volume.box(BOB))

    assert half == whole
    assert modes(volume) == FOLDERS
    assert len(consumers(volume)) >= 1
    assert sorted(os.listdir(volume.path)) == [".mailbox", "bob"]


def test_a_box_can_be_made_by_several_at_once(tmp_path: Path) -> None:
    """All containers of a host start at the same time, and each makes its boxes. One of them has made it."""
    for n in range(20):
        together, made = threading.Barrier(4), list[bool]()

        def make(path: Path, together: threading.Barrier, made: list[bool]) -> None:
            together.wait()
            made.append(create_box(init_root(path).box(BOB)))

        threads = [threading.Thread(target=make, args=(tmp_path / f"mail{n}", together, made)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        volume = find_root(tmp_path / f"mail{n}")

        assert sorted(made) == [False, False, False, True]
        assert modes(volume) == FOLDERS
        assert len(consumers(volume)) >= 1


def test_a_maker_that_is_overtaken_at_any_moment_has_lost_and_nothing_more(
    volume: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another has finished the box under its hands, and a third has begun anew: what it sees is not what it made."""
    real = os.chmod

    def overtaken(path: str, mode: int) -> None:
        monkeypatch.setattr(os, "chmod", real)
        create_box(volume.box(BOB))
        os.makedirs(f"{volume.path}/.bob/tmp", 0o700)

    monkeypatch.setattr(os, "chmod", overtaken)

    assert create_box(volume.box(BOB)) is False
    assert modes(volume) == FOLDERS


def test_a_box_that_cannot_be_made_is_told(volume: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file system takes no modes, nothing becomes a box."""
    monkeypatch.setattr(os, "chmod", lambda path, mode: None)

    with pytest.raises(PermissionDeniedError, match=r"has the mode 0700 .* wanted 3733 .*cannot set them"):
        create_box(volume.box(BOB))
    assert not volume.has(BOB)


def test_the_boxes_are_those_whose_name_is_an_address(volume: Root) -> None:
    """Half made ones, removed ones and what else lies there are none."""
    for name in ("bob", "alice"):
        create_box(volume.box(Address(name)))
    for name in (".half", "Carol", "all", "lost+found"):
        os.mkdir(f"{volume.path}/{name}")
    Path(volume.path, "notes").touch()

    assert volume.boxes() == ["alice", "bob"]
    assert [name for name in ("alice", "carol") if volume.has(Address(name))] == ["alice"]


def test_a_missing_box_is_told_apart_from_a_missing_volume(volume: Root) -> None:
    """An unmounted volume looks as if no box was there."""
    create_box(volume.box(BOB))
    box = volume.missing("bib")
    os.unlink(f"{volume.path}/.mailbox")
    root = volume.missing("bob")

    assert isinstance(box, BoxNotFoundError)
    assert box.known == ["bob"]
    assert isinstance(root, RootNotFoundError)


# Removing one


def test_a_box_without_mail_can_be_removed(volume: Root) -> None:
    """Nothing is left of it."""
    create_box(volume.box(BOB))
    kept = remove_box(volume.box(BOB))

    assert kept is None
    assert os.listdir(volume.path) == [".mailbox"]


def test_a_box_that_there_is_not_cannot_be_removed(volume: Root) -> None:
    """A typing error is told."""
    with pytest.raises(BoxNotFoundError):
        remove_box(volume.box(BOB))


@pytest.mark.parametrize("place", ["new", "later", "dead", "cur/0123456789ab", f"replies/{LETTER[:ID_LENGTH]}"])
def test_a_box_with_mail_in_it_is_not_removed(volume: Root, place: str) -> None:
    """In whatever state: waiting, put off, held, given up, or an answer."""
    create_box(volume.box(BOB))
    letter = Path(volume.box(BOB), place, LETTER)
    letter.parent.mkdir(exist_ok=True)
    letter.write_text("{}")

    with pytest.raises(BoxInUseError, match="holds 1 message"):
        remove_box(volume.box(BOB))
    assert letter.exists()


def test_a_box_that_somebody_listens_to_is_not_removed(volume: Root) -> None:
    """The lock in cur/ tells; after it is let go the box can go."""
    create_box(volume.box(BOB))
    lock = Lock(f"{volume.box(BOB)}/cur/{consumers(volume)[0]}/.lock")
    lock.take()
    with pytest.raises(BoxInUseError, match="a listener is at the box"):
        remove_box(volume.box(BOB))
    lock.release()
    remove_box(volume.box(BOB))

    assert volume.boxes() == []


def test_with_force_a_box_that_holds_mail_is_kept_aside(volume: Root) -> None:
    """By one rename, as it is; its name is free at once."""
    create_box(volume.box(BOB))
    Path(volume.box(BOB), "new", LETTER).write_text("{}")
    lock = Lock(f"{volume.box(BOB)}/cur/{consumers(volume)[0]}/.lock")
    lock.take()
    kept = remove_box(volume.box(BOB), force=True)
    lock.release()
    made = create_box(volume.box(BOB))

    assert kept is not None
    assert Path(kept).parent == Path(volume.path, ".removed")
    assert Path(kept, "new", LETTER).read_text() == "{}"
    assert made
    assert volume.boxes() == ["bob"]


def test_with_force_an_empty_box_leaves_nothing(volume: Root) -> None:
    """There is nothing to keep."""
    create_box(volume.box(BOB))

    assert remove_box(volume.box(BOB), force=True) is None
    assert os.listdir(volume.path) == [".mailbox"]


def test_mail_that_comes_while_a_box_is_removed_is_not_lost(volume: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """It came after the look and before the rename: the box is put back, and the removal refused."""
    create_box(volume.box(BOB))
    letter, rename = Path(volume.box(BOB), "new", LETTER), os.rename

    def late(old: str, new: str, **folders: int) -> None:
        if old == BOB:
            letter.write_text("{}")
        rename(old, new, **folders)

    monkeypatch.setattr(os, "rename", late)

    with pytest.raises(BoxInUseError, match="holds 1 message"):
        remove_box(volume.box(BOB))
    assert letter.exists()
    assert modes(volume) == FOLDERS


# Owners


def owners(path: Path) -> set[tuple[int, int]]:
    facts = [entry.lstat() for entry in (path, *path.rglob("*"))]
    return {(each.st_uid, each.st_gid) for each in facts}


def test_root_can_make_a_box_for_somebody_else(as_root: None, volume: Root, umask: None) -> None:
    """All of it belongs to the owner, the setgid bits stay; what is added later does as well."""
    create_box(volume.box(BOB), (2001, 2001))
    box = Path(volume.box(BOB))
    first = owners(box), modes(volume)
    (box / "dead").rmdir()
    create_box(volume.box(BOB))
    (box / "run/status.json").touch()
    chown_to_box_owner(str(box / "run/status.json"), str(box))

    assert first == ({(2001, 2001)}, FOLDERS)
    assert owners(box) == {(2001, 2001)}
    assert modes(volume) == FOLDERS


def test_a_box_that_was_left_half_made_is_given_to_its_owner(as_root: None, volume: Root) -> None:
    """Also the folders that were made before the crash."""
    os.makedirs(f"{volume.path}/.bob/new", 0o700)
    os.makedirs(f"{volume.path}/.bob/cur", 0o700)
    create_box(volume.box(BOB), (2001, 2001))

    assert owners(Path(volume.box(BOB))) == {(2001, 2001)}
    assert modes(volume) == FOLDERS


def test_a_volume_that_hands_down_its_group_does_not_hand_it_to_boxes(as_root: None, volume: Root) -> None:
    """The group of a drop box is its recipient's own: senders who share it could read each other's mail."""
    os.chown(volume.path, 0, 3000)
    os.chmod(volume.path, 0o2775)
    create_box(volume.box(BOB))

    assert owners(Path(volume.box(BOB))) == {(os.geteuid(), os.getegid())}
    assert modes(volume) == FOLDERS


def test_only_root_can_make_a_box_for_somebody_else(as_root: None, shared: Path, start: Callable[..., Any]) -> None:
    """Others are told, and nothing looks like a box."""
    volume = init_root(shared / "mail")
    os.chmod(volume.path, 0o1777)
    program = start(
        """
import os, sys
from filemailbox import PermissionDeniedError
from filemailbox.store.box import create_box
from filemailbox.store.root import find_root
os.setgroups([])
os.setgid(2002)
os.setuid(2002)
try:
    create_box(find_root(sys.argv[1]).box("bob"), (2001, 2001))
except PermissionDeniedError as error:
    print(error.errno)
""",
        volume.path,
    )

    assert program.line() == "1"
    assert volume.boxes() == []


def test_who_is_not_root_makes_boxes_of_its_own(as_root: None, shared: Path, start: Callable[..., Any]) -> None:
    """In a volume where everybody may."""
    volume = init_root(shared / "mail")
    os.chmod(volume.path, 0o1777)
    program = start(
        """
import os, sys
from filemailbox.store.box import create_box
from filemailbox.store.root import find_root
os.setgroups([])
os.setgid(2002)
os.setuid(2002)
os.umask(0o077)
print(create_box(find_root(sys.argv[1]).box("bob")))
""",
        volume.path,
    )

    assert program.line() == "True"
    assert owners(Path(volume.box(BOB))) == {(2002, 2002)}
    assert modes(volume) == FOLDERS


@pytest.mark.parametrize(
    ("code", "answer"),
    [(errno.ENOENT, False), (errno.ENOTDIR, False), (errno.EACCES, True), (errno.EIO, None)],
    ids=["gone", "no folder", "closed to us", "the disk fails"],
)
def test_whether_a_box_is_there_is_never_guessed(
    volume: Root, monkeypatch: pytest.MonkeyPatch, code: int, answer: bool | None
) -> None:
    """The ledger has a page for each box: a wrong answer would look for a key on the wrong one."""

    def stat(path: str) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "stat", stat)
    if answer is None:
        with pytest.raises(StorageError):
            volume.has(BOB)
    else:
        assert volume.has(BOB) is answer


def test_a_mark_that_cannot_be_looked_at_is_not_written_anew(volume: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says beside the format would be lost."""
    set_marker(volume, "groups", {"team": ["bob"]})
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        if path.endswith(MARKER):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(os, "lstat", lstat)
    with pytest.raises(StorageError):
        init_root(volume.path)

    assert read_marker(volume)["groups"] == {"team": ["bob"]}


def test_a_box_in_which_mail_cannot_be_counted_is_put_back(volume: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody wanted it away at any price."""
    create_box(volume.box(BOB))

    def count(box: str) -> int:
        if ".removed" in box:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return 0

    monkeypatch.setattr(roots, "count_mail", count)
    with pytest.raises(StorageError):
        remove_box(volume.box(BOB))

    assert volume.boxes() == ["bob"]
