"""The history: its end, the next version, the older ones, and what hostile files in it change."""

import errno
import fcntl
import os
import signal
import stat
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import (
    ConflictError,
    DiskFullError,
    DocumentBrokenError,
    DocumentNotFoundError,
    DurabilityUnknownError,
    InvalidRequestError,
    Mailbox,
    PermissionDeniedError,
)
from filemailbox.documents import checkpoint, folders, upkeep
from filemailbox.documents import history as histories
from filemailbox.documents.document import Document
from filemailbox.documents.folders import Folders
from filemailbox.documents.history import History
from filemailbox.documents.version import digest, encode, filename
from filemailbox.format.address import Address
from filemailbox.store import box as boxes
from filemailbox.store import deliver

AT = "2026-11-24T01:45:30.123456Z"
Plan = Document[dict[str, int]]


def plant(versions: Path, number: int, kind: str, outside: Path) -> Path:
    """Put something that is no version under the number of one."""
    path = versions / filename(number)
    if kind == "link":
        path.symlink_to(outside)
    elif kind == "dangling link":
        path.symlink_to("/nowhere")
    elif kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "hard link":
        os.link(outside, path)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "too large":
        path.write_bytes(b'{"version":2,' + b" " * (1 << 20) + b"}\n")
    elif kind == "wrong base":
        path.write_bytes(encode(number, "mallory", AT, "0" * 64, "mine"))
    else:
        path.write_bytes({"empty": b"", "garbage": os.urandom(100), "half": b'{"version":2,"by":"al'}[kind])
    return path


KINDS = (
    *("link", "dangling link", "folder", "FIFO", "socket", "hard link", "huge", "too large"),
    *("wrong base", "empty", "garbage", "half"),
)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text('{"password":"hunter2"}\n')
    return tmp_path / "secret"


# The run


def test_versions_follow_each_other(plan: Plan, versions: Path) -> None:
    """Each names the digest of the one before; the file is the whole truth."""
    second = plan.put({"n": 2}, if_version=1)
    data = (versions / filename(1)).read_bytes()

    assert (second.version, second.base) == (2, digest(data))
    assert plan.get() == second
    assert (versions / filename(2)).read_bytes() == second.raw
    assert [each.name for each in (versions.parent / "drafts").iterdir()] == []


def test_the_newest_file_is_the_document_to_a_shell(plan: Plan, versions: Path) -> None:
    """`tail -n1` of the newest name, and nothing else."""
    plan.put({"n": 2})
    newest = sorted(versions.iterdir())[-1].read_text().splitlines()[-1]

    assert newest.endswith('"body":{"n":2}}')


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_version_changes_nothing_for_a_reader(
    plan: Plan, versions: Path, cold: Callable[[], History], outside: Path, kind: str
) -> None:
    """Neither under the next number nor under a far one."""
    plant(versions, 2, kind, outside)
    plant(versions, 7, kind, outside)
    history = cold()

    assert plan.get().version == 1
    assert history.head().number == 1
    assert history.obstacle is not None
    assert history.obstacle.number == 2
    assert "hunter2" not in history.obstacle.why


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_version_is_moved_away_and_kept(
    plan: Plan, versions: Path, outside: Path, soon: None, kind: str
) -> None:
    """A writer goes on; what was there lies in drafts/."""
    plant(versions, 2, kind, outside)

    assert plan.put({"n": 2}, if_version=1).version == 2
    (moved,) = (versions.parent / "drafts").iterdir()
    assert moved.name.startswith("moved-0000000002-")
    assert outside.read_text() == '{"password":"hunter2"}\n'


def test_a_version_that_is_being_written_in_place_is_waited_for(
    plan: Plan, versions: Path, alice: Mailbox, bob: Mailbox
) -> None:
    """It is not whole yet; when it is, it is the next version, and ours follows it."""
    base = plan.get().digest
    line = encode(2, "bob", AT, base, {"n": 20})
    path = versions / filename(2)
    path.write_bytes(line[:50])
    done: list[Any] = []
    writer = threading.Thread(target=lambda: done.append(alice.document("plan").put({"n": 3})))
    writer.start()
    with path.open("ab") as file:
        file.write(line[50:])
    writer.join(20)

    assert done[0].version == 3
    assert [each.body for each in plan.history()] == [{"n": 3}, {"n": 20}, {"n": 1}]


def test_a_file_that_keeps_changing_is_not_moved(
    plan: Plan, versions: Path, cold: Callable[[], History], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five seconds without a change: seen by its ctime, or, where clocks were set, by our own clock."""
    path = plant(versions, 2, "half", versions)
    seconds = iter(range(0, 1000, 2))
    history = cold()
    history._clock = lambda: float(next(seconds))
    steps: list[int] = []

    def sleep(_: float) -> None:
        steps.append(1)
        if len(steps) < 6:
            with path.open("ab") as file:
                file.write(b"x")

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    history.head()

    assert history.make_way()
    assert len(steps) >= 6


def test_a_hundred_thousand_files_are_not_even_listed(
    plan: Plan, versions: Path, cold: Callable[[], History], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading and writing ask for names that follow, and for no others."""
    for number in range(100_000):
        if number % 20_000 == 0:  # a file has at most 65 000 links on ext4
            (original := versions / filename(2_000_000 + number)).write_text("x")
        os.link(original, versions / filename(1_000_000 + number))
    listdir, scandir = os.listdir, os.scandir

    def checked(path: Any) -> Any:
        listed = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else str(path)
        assert not listed.endswith("versions")
        return path

    monkeypatch.setattr(os, "listdir", lambda path: listdir(checked(path)))
    monkeypatch.setattr(os, "scandir", lambda path: scandir(checked(path)))

    assert cold().head().number == 1
    assert [plan.put({"n": n}).version for n in range(2, 12)] == list(range(2, 12))
    assert cold().head().number == 11


def test_two_readers_agree_whatever_lies_there(
    plan: Plan, versions: Path, cold: Callable[[], History], outside: Path
) -> None:
    """One that has read before, and one that comes."""
    for number in range(2, 6):
        plan.put({"n": number})
    for number in (6, 8, 9):
        plant(versions, number, "wrong base", outside)

    assert plan.get().version == cold().head().number == 5


# Adding


def test_one_of_many_writers_wins_each_number(plan: Plan, root: Path) -> None:
    """link(2) is the swap: eight threads, one number each time."""
    boxes = [Mailbox("alice", root) for _ in range(8)]
    won: list[int] = []

    def add(box: Mailbox) -> None:
        document = box.document("plan")
        for _ in range(20):
            try:
                won.append(document.put({"n": 0}, if_version=document.get().version).version)
            except ConflictError:
                continue

    threads = [threading.Thread(target=add, args=(box,)) for box in boxes]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)

    assert sorted(won) == list(range(2, len(won) + 2))
    assert plan.get().version == len(won) + 1


def test_a_draft_that_another_has_linked_for_us_is_ours(
    plan: Plan, versions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file under the number is the one that we have open. To take that for a conflict would write it twice."""
    link = os.link

    def linked_before(*arguments: Any, **options: Any) -> None:
        link(*arguments, **options)
        link(*arguments, **options)

    monkeypatch.setattr(os, "link", linked_before)

    assert plan.update(lambda body: {"n": body["n"] + 1}).body == {"n": 2}
    assert plan.get().version == 2


def test_a_change_is_not_done_before_what_it_rests_on(
    plan: Plan, root: Path, versions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two links: its writer has not said that it has flushed it. It is waited for."""
    plan.put({"n": 2})
    draft = versions.parent / "drafts/draft"
    os.link(versions / filename(2), draft)
    order: list[str] = []

    def sleep(_: float) -> None:
        order.append("waited")
        if len(order) == 3:
            draft.unlink()

    monkeypatch.setattr(time, "sleep", sleep)
    with Mailbox("bob", root) as bob:
        assert bob.document("plan").put({"n": 3}).version == 3

    assert order == ["waited"] * 3
    assert [each.name for each in draft.parent.iterdir()] == []


def test_what_a_writer_that_was_killed_has_not_flushed_is_flushed(
    plan: Plan, root: Path, versions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has two links for good: with the file system, once, for the next one has one link."""
    plan.put({"n": 2})
    os.link(versions / filename(2), versions.parent / "drafts/killed")
    flushed: list[int] = []
    monkeypatch.setattr(deliver, "syncfs", lambda file: not flushed.append(file))  # type: ignore[func-returns-value]
    monkeypatch.setattr(histories, "_PATIENCE", 0.01)
    with Mailbox("bob", root) as bob:
        document = bob.document("plan")
        for number in (3, 4, 5):
            document.put({"n": number})

    assert len(flushed) == 1


def test_a_failed_flush_is_told_and_the_version_is_there(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether a power cut would take it: it is not written again blindly."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(DurabilityUnknownError, match='version 2 of "plan" was written') as caught:
            plan.put({"n": 2})

    assert caught.value.id == "2"
    assert plan.get().body == {"n": 2}


def test_on_a_full_disk_nothing_is_written_and_all_can_be_read(
    plan: Plan, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no draft is left."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(DiskFullError):
            plan.put({"n": 2})

    assert plan.get().version == 1
    assert list((home / "drafts").iterdir()) == []
    assert plan.put({"n": 2}).version == 2


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_named(
    plan: Plan, home: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """It is no fault of modes or owners."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)

    with pytest.raises(PermissionDeniedError, match=r"link\(2\) is refused"):
        plan.put({"n": 2})
    assert list((home / "drafts").iterdir()) == []


def test_a_document_that_is_removed_while_it_is_written_is_not_written(
    plan: Plan, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What went into the folder that was taken away is told as an error."""
    link = os.link

    def removed_before(*arguments: Any, **options: Any) -> None:
        (root / ".documents/plan").rename(root / ".documents/.removed-plan-0")
        link(*arguments, **options)

    monkeypatch.setattr(os, "link", removed_before)

    with pytest.raises(DocumentNotFoundError):
        plan.put({"n": 2})


def test_a_document_that_was_made_again_is_another(plan: Plan, root: Path) -> None:
    """What was read of the old one does not go into the new one."""
    plan.put({"n": 2})
    with Mailbox("bob", root) as bob:
        bob.document("plan").remove()
        with pytest.raises(DocumentNotFoundError):
            plan.get()
        bob.document("plan").create({"n": 100})
        with pytest.raises(ConflictError) as caught:
            plan.put({"n": 3}, if_version=2)

    assert caught.value.current.body == {"n": 100}
    assert plan.get().version == 1


# What was there before


def test_a_current_version_that_vanishes_is_noticed(plan: Plan, versions: Path) -> None:
    """Whoever has seen it is not shown an older one as if nothing had been."""
    plan.put({"n": 2})
    (versions / filename(2)).unlink()

    with pytest.raises(DocumentBrokenError, match="version 2 was there before"):
        plan.get()


def test_a_current_version_that_is_changed_is_noticed(plan: Plan, versions: Path) -> None:
    """In place, by its own author."""
    plan.put({"n": 2})
    path = versions / filename(2)
    path.write_bytes(path.read_bytes().replace(b'"n":2', b'"n":9'))

    with pytest.raises(DocumentBrokenError, match="version 2 is another"):
        plan.get()


def test_an_older_version_that_is_changed_does_not_change_the_document(
    plan: Plan, versions: Path, cold: Callable[[], History]
) -> None:
    """Who has a checkpoint behind it goes on; the log says that it was changed."""
    for number in range(2, 20):
        plan.put({"n": number})
    path = versions / filename(3)
    path.write_bytes(path.read_bytes().replace(b'"n":3', b'"n":9'))

    assert plan.get().version == 19
    assert cold().head().number == 19
    with pytest.raises(DocumentBrokenError, match="version 3 was changed"):
        list(plan.history())


def test_an_older_version_that_is_deleted_does_not_roll_the_document_back(
    plan: Plan, versions: Path, cold: Callable[[], History]
) -> None:
    """The checkpoint is behind it."""
    for number in range(2, 20):
        plan.put({"n": number})
    (versions / filename(3)).unlink()

    assert cold().head().number == 19
    assert [each.version for each in plan.history()] == list(range(19, 3, -1))


def test_a_history_without_its_newest_versions_is_broken_to_who_comes(
    plan: Plan, versions: Path, cold: Callable[[], History]
) -> None:
    """A checkpoint says what was there: an older state is not shown as the current one."""
    for number in range(2, 20):
        plan.put({"n": number})
    for number in range(15, 20):
        (versions / filename(number)).unlink()

    with pytest.raises(DocumentBrokenError, match="was there before"):
        cold().head()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]\n", id="an array"),
        pytest.param(b'{"version":true,"digest":"' + b"0" * 64 + b'"}\n', id="true"),
        pytest.param(b'{"version":9,"digest":"x"}\n', id="no digest"),
        pytest.param(b'{"version":-1,"digest":"' + b"0" * 64 + b'"}\n', id="negative"),
        pytest.param(b"{" + b" " * 10_000 + b"}", id="too large"),
    ],
)
def test_a_checkpoint_that_is_none_is_not_believed(
    plan: Plan, home: Path, cold: Callable[[], History], content: bytes
) -> None:
    """A power cut can leave any of these."""
    (home / f"checkpoints/{os.geteuid()}.json").write_bytes(content)

    assert cold().head().number == 1


def test_a_checkpoint_that_others_can_write_is_not_believed(
    plan: Plan, home: Path, cold: Callable[[], History]
) -> None:
    """It would show them an older state."""
    path = home / f"checkpoints/{os.geteuid()}.json"
    path.write_text('{"version":7,"digest":"' + "0" * 64 + '"}\n')
    path.chmod(0o666)

    assert cold().head().number == 1


def test_a_checkpoint_is_written_every_eight_versions(plan: Plan, home: Path) -> None:
    """So that who comes need not read more than that."""
    for number in range(2, 40):
        plan.put({"n": number})
    opened = Folders(plan.root, "plan")

    assert max(checkpoint.believed(opened)) >= 39 - checkpoint.EVERY
    assert [each.name for each in (home / "checkpoints").iterdir()] == [f"{os.geteuid()}.json"]
    opened.close()


# Trimming


def test_a_history_is_trimmed_from_its_oldest_end(alice: Mailbox, root: Path, cold: Callable[[], History]) -> None:
    """By count; the current state and the log are there as before."""
    document = alice.document("plan")
    document.create(0, keep=20)
    for number in range(1, 200):
        document.put(number)
    kept = sorted(int(each.name[:10]) for each in (root / ".documents/plan/versions").iterdir())

    assert kept == list(range(kept[0], 201))
    assert 20 <= len(kept) <= 20 + 16
    assert cold().head().number == 200
    assert [each.body for each in document.history()] == list(range(199, kept[0] - 2, -1))


def test_a_history_is_trimmed_by_age(alice: Mailbox, root: Path, cold: Callable[[], History]) -> None:
    """What is older goes, the current version stays whatever its age."""
    document = alice.document("plan")
    document.create(0, keep_for=3600)
    for number in range(1, 31):
        document.put(number)
    for each in (root / ".documents/plan/versions").iterdir():
        os.utime(each, (1e9, 1e9))
    document.put(31)
    kept = sorted(int(each.name[:10]) for each in (root / ".documents/plan/versions").iterdir())

    assert kept == [32]
    assert cold().head().number == 32


def test_without_a_checkpoint_nothing_is_trimmed(alice: Mailbox, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nobody would find the history again."""
    monkeypatch.setattr(checkpoint, "write", lambda *_: False)
    document = alice.document("plan")
    document.create(0, keep=2)
    for number in range(1, 40):
        document.put(number)

    assert len(list((root / ".documents/plan/versions").iterdir())) == 40


def test_a_reader_who_has_slept_through_a_trim_goes_on(alice: Mailbox, root: Path) -> None:
    """What it knew is gone, and the owner's checkpoint says where the history goes on."""
    document = alice.document("plan")
    document.create(0, keep=4)
    with Mailbox("bob", root) as bob:
        reader = bob.document("plan")
        assert reader.get().version == 1
        for number in range(1, 64):
            document.put(number)

        assert reader.get().version == 64


# Folders


def test_a_document_is_there_whole_or_not_at_all(alice: Mailbox, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails on the way leaves nothing behind."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(DiskFullError):
        alice.document("team/plan").create(1)

    assert list((root / ".documents").rglob("versions")) == []
    assert list((root / ".documents/team").iterdir()) == []


def test_documents_lie_inside_each_other(alice: Mailbox, root: Path) -> None:
    """Either may come first; the outer one is not removed with others in it."""
    alice.document("team/plan/a").create("a")
    alice.document("team").create("team")
    alice.document("team/plan").create("plan")
    found = list(folders.documents(alice.root))

    assert found == ["team", "team/plan", "team/plan/a"]
    assert [alice.document(each).get().body for each in found] == ["team", "plan", "a"]
    with pytest.raises(ConflictError, match="holds other documents"):
        alice.document("team").remove()
    for each in reversed(found):
        alice.document(each).remove()
    assert list(folders.documents(alice.root)) == []


@pytest.mark.parametrize("name", ["plan", "a/b/c/d"])
def test_what_is_there_is_not_made_again(alice: Mailbox, bob: Mailbox, name: str) -> None:
    """Of two that make it, one does."""
    alice.document(name).create("alice")
    with pytest.raises(ConflictError, match="is there already, at version 1 by alice") as caught:
        bob.document(name).create("bob")

    assert caught.value.current.body == "alice"
    assert bob.document(name).get().body == "alice"


@pytest.mark.parametrize("part", ["plan", "plan/versions", "team"])
def test_a_link_in_the_place_of_a_folder_is_not_followed(alice: Mailbox, root: Path, tmp_path: Path, part: str) -> None:
    """Neither of the document nor of what is above or in it."""
    elsewhere = Mailbox.init("alice", tmp_path / "other")
    for name in ("plan", "team/plan"):
        elsewhere.document(name).create("elsewhere")
        alice.document(name).create("here")
    path = root / ".documents" / part
    path.rename(tmp_path / "aside")
    path.symlink_to(tmp_path / "other/.documents" / part)
    document = alice.document("team/plan" if part == "team" else "plan")

    with pytest.raises(DocumentNotFoundError):
        document.get()
    with pytest.raises(DocumentNotFoundError):
        document.put("x")


def test_nothing_of_a_document_is_a_box(alice: Mailbox, root: Path) -> None:
    """Neither its folder nor an agent that would have the same."""
    alice.document("plan").create(1)

    assert [str(each) for each in alice.root.boxes()] == ["alice", "bob"]
    for name in ("documents", "removed"):
        with pytest.raises(InvalidRequestError, match="no agent can be called"):
            boxes.create_box(alice.root.box(Address(name)))
    assert (root / ".documents/plan/versions").is_dir()


@pytest.mark.parametrize(
    ("options", "modes"),
    [
        pytest.param({}, {"versions": 0o755, "drafts": 0o700, "checkpoints": 0o755, "run": 0o755}, id="one uid"),
        pytest.param(
            {"private": True}, dict.fromkeys(("versions", "drafts", "checkpoints", "run"), 0o700), id="private"
        ),
        pytest.param(
            {"group": os.getegid()},
            {"versions": 0o3775, "drafts": 0o3730, "checkpoints": 0o3775, "run": 0o3775},
            id="group",
        ),
        pytest.param(
            {"group": os.getegid(), "private": True},
            {"versions": 0o3770, "drafts": 0o3730, "checkpoints": 0o3770, "run": 0o3770},
            id="private group",
        ),
    ],
)
def test_folders_have_the_modes_of_the_format(
    alice: Mailbox, home: Path, options: dict[str, Any], modes: dict[str, int]
) -> None:
    """Whatever the umask is."""
    before = os.umask(0o077)
    try:
        alice.document("plan").create(1, **options)
        alice.document("plan").put(2)
    finally:
        os.umask(before)

    assert {each: (home / each).stat().st_mode & 0o7777 for each in modes} == modes
    expected = 0o640 if options.get("private") else 0o644
    assert {each.stat().st_mode & 0o777 for each in (home / "versions").iterdir()} == {expected}
    assert home.stat().st_mode & 0o777 == 0o755


def test_no_descriptor_is_left_open(plan: Plan, root: Path) -> None:
    """A thousand documents opened and forgotten leave none."""
    before = len(os.listdir("/proc/self/fd"))
    with Mailbox("bob", root) as bob:
        for _ in range(50):
            bob.document("plan").get()
            with pytest.raises(DocumentNotFoundError):
                bob.document("nothing").get()
            list(bob.document("plan").history())

    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_trouble_of_our_own_condemns_nothing(plan: Plan, versions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EMFILE and EIO are told, and the next try finds all as it was."""
    plan.put({"n": 2})
    plan.close()
    really = os.open
    for code in (errno.EMFILE, errno.EIO, errno.EACCES):

        def fail(path: Any, *arguments: Any, code: int = code, **options: Any) -> int:
            if str(path).endswith(filename(3)):
                raise OSError(code, os.strerror(code))
            return really(path, *arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", fail)
            with pytest.raises(OSError, match="reading version 3"):
                plan.get()

        assert plan.put({"n": 9}, if_version=plan.get().version).body == {"n": 9}
        plan.close()
        (versions / filename(3)).unlink()


def test_keep_is_at_least_two(alice: Mailbox) -> None:
    """The current version and the one that it follows."""
    with pytest.raises(InvalidRequestError, match="keep= is 1"):
        alice.document("plan").create(1, keep=1)
    assert histories.UNCHANGED == 5.0


def test_a_lease_on_the_next_number_keeps_nobody_from_reading(
    plan: Plan, versions: Path, cold: Callable[[], History], outside: Path
) -> None:
    """Whoever holds one could otherwise hold up every reader."""
    path = plant(versions, 2, "garbage", outside)
    file = os.open(path, os.O_RDWR)
    fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)  # the kernel would end us with SIGIO
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    history = cold()

    assert history.head().number == 1
    assert history.obstacle is not None
    assert "lease" in history.obstacle.why
    os.close(file)


def test_looking_after_documents_leaves_nothing_behind(plan: Plan, home: Path, cold: Callable[[], History]) -> None:
    """doctor, status and a dry run of gc write no checkpoint."""
    for number in range(2, 12):
        plan.put({"n": number})
    (home / f"checkpoints/{os.geteuid()}.json").unlink()
    assert next(iter(upkeep.inventory(plan.root))).version == 11
    assert list(upkeep.findings(plan.root)) == []
    assert [each.what for each in upkeep.garbage(plan.root)] == ["a checkpoint that is old: it moves to version 11"]

    assert list((home / "checkpoints").iterdir()) == []
    assert cold().head().number == 11
    assert [each.name for each in (home / "checkpoints").iterdir()] == [f"{os.geteuid()}.json"]


def test_a_document_works_in_the_child_of_a_fork(plan: Plan) -> None:
    """Also where another thread was at work in it."""
    held = plan._guard
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        thread = threading.Thread(target=held.acquire)
        thread.start()
        thread.join()
        child = os.fork()
    if child == 0:
        try:
            os._exit(0 if plan.put({"n": 2}).version == 2 else 1)
        finally:
            os._exit(2)

    assert os.waitpid(child, 0)[1] == 0
    plan._held = threading.RLock()
    assert plan.get().body == {"n": 2}


def test_a_document_is_not_made_in_the_folder_of_another(alice: Mailbox, root: Path, as_root: None) -> None:
    """Its owner could put another one in its place."""
    alice.document("team/plan").create(1)
    os.chown(root / ".documents/team", 2001, 2001)
    with pytest.raises(PermissionDeniedError, match="belongs to uid 2001"):
        alice.document("team").create(1)
    os.chown(root / ".documents/team/plan", 2001, 2001)

    (finding,) = upkeep.findings(alice.root)
    assert "can put other versions in their place" in finding.what
    assert not (root / ".documents/team/versions").exists()
