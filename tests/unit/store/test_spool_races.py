"""What others do between two steps of ours, and what the kernel may say to one: step by step, with no chance in it.

tests/system/test_stress.py and `scripts/prove` meet most of this by chance; here each case has its name.
"""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox, MailboxError, StorageError
from filemailbox.store import claim_deferred, claim_new, intake, spool
from filemailbox.store.claim_new import NewMail
from filemailbox.store.spool import Spool
from filemailbox.system import files
from filemailbox.system.files import list_dir
from filemailbox.system.locks import Lock

Step = Callable[..., None]


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Step:
    """step("open", "x.json", act, code): before the first such call *act* is done; with *code* it then fails.

    *whole*: of exactly this path, which is a name where it is opened within a folder. "move" is renameat2().
    """

    def at(
        call: str, name: str, act: Callable[[], object] = lambda: None, code: int | None = None, whole: bool = False
    ) -> None:
        real, left = getattr(os, call, files._renameat2), [1]

        def moving(source: int, old: str, *rest: Any) -> int:
            if left[0] and name in old:
                left[0] = 0
                act()
                if code is not None:
                    return code
            return real(source, old, *rest)

        def stepping(path: Any, *arguments: Any, **options: Any) -> Any:
            text = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)
            if left[0] and (text == name if whole else name in text):
                left[0] = 0
                act()
                if code is not None:
                    raise OSError(code, os.strerror(code))
            return real(path, *arguments, **options)

        if call == "move":
            monkeypatch.setattr(files, "_renameat2", moving)
        else:
            monkeypatch.setattr(os, call, stepping)

    return at


def drop(new: Path, name: str = "x.json", text: str = '{"body":1}') -> Path:
    """A file in new/, moved in by hand."""
    path = new / name
    path.write_text(text)
    return path


def notes(root: Path) -> str:
    return "".join(path.read_text() for path in (root / "bob/dead").glob("*.why"))


def test_the_last_of_a_batch_may_be_taken_by_another_thread(
    alice: Mailbox, taker: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look whether there is one and the taking: there is another look."""
    id = alice.send("bob", 1)
    taker.begin()
    real, late = NewMail.claim_next, [True]

    def claim_next(new: NewMail) -> Any:
        if late.pop() if late else False:
            raise IndexError
        return real(new)

    monkeypatch.setattr(NewMail, "claim_next", claim_next)
    claim = taker.claim()

    assert claim is not None
    assert claim[0].startswith(id)


@pytest.mark.parametrize(("call", "name"), [("stat", "bob"), ("open", "bob/later")], ids=["box", "folder"])
def test_a_box_that_cannot_be_opened_is_trouble_that_is_told(taker: Spool, step: Step, call: str, name: str) -> None:
    """Not that there is no box; the next time it works."""
    step(call, name, code=errno.EIO)
    with pytest.raises(StorageError, match='opening the box "bob"'):
        taker.begin()

    taker.begin()
    assert taker.folder is not None


def test_a_folder_that_cannot_be_listed_is_trouble_that_is_told(taker: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The box is open then, and stays so."""
    real = list_dir

    def failing(folder: int) -> list[str]:
        if os.readlink(f"/proc/self/fd/{folder}").endswith("/later"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(folder)

    with monkeypatch.context() as patch:
        patch.setattr(claim_deferred, "list_dir", failing)
        with pytest.raises(StorageError, match='opening the box "bob"'):
            taker.begin()

    taker.begin()
    assert taker.folder is not None


def test_a_lock_that_nobody_can_know_of_is_not_held(root: Path, taker: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the kernel say so all the same, no folder of ours becomes visible."""
    with Mailbox("bob", root) as other:  # has the first folder
        other.receive()
        before = set(os.listdir(root / "bob/cur"))
        real = Lock.take
        monkeypatch.setattr(
            Lock, "take", lambda lock, *wait: "/cur/." not in str(lock._lock.lock_file) and real(lock, *wait)
        )
        with pytest.raises(StorageError, match='opening the box "bob"'):
            taker.begin()

        assert {name for name in os.listdir(root / "bob/cur") if not name.startswith(".")} == before


def test_what_is_not_whole_is_looked_at_once_where_there_is_much_of_it(
    root: Path, new: Path, taker: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of unfinished files costs a stat(2) each, not a read; what has gone is forgotten."""
    monkeypatch.setattr(intake, "_MEMORY_SLACK", 1)
    monkeypatch.setattr(intake, "_CTIME_TICK_NS", -(10**12))  # nothing can change unseen any more
    files = [drop(new, f"{n}.json", '{"bo') for n in range(4)]
    assert [taker.claim() for _ in range(3)] == [None, None, None]
    files.append(drop(new, "one more.json", '{"bo'))
    assert taker.claim() is None
    assert set(taker._new._intake.incomplete) == {file.name for file in files}

    for file in files[1:]:
        file.unlink()
    assert taker.claim() is None
    assert set(taker._new._intake.incomplete) == {files[0].name}
    files[0].write_text('{"body":1}')
    claim = taker.claim()
    assert claim is not None
    assert claim[1] == b'{"body":1}'


def test_what_goes_while_it_is_sorted_is_not_there(new: Path, taker: Spool, step: Step) -> None:
    """Foreign names are sorted by the time of their files."""
    taker.begin()
    file = drop(new)
    step("stat", "x.json", file.unlink)

    assert taker.claim() is None


def test_a_foreign_file_that_is_not_wanted_is_left(new: Path, taker: Spool) -> None:
    """Whoever takes some types alone looks into it, and leaves it to others."""
    file = drop(new)
    taker.accept = lambda _: False

    assert taker.claim() is None
    assert file.exists()


def test_what_is_cut_short_while_it_is_looked_into_is_no_mail(
    root: Path, new: Path, alice: Mailbox, taker: Spool, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only some types are wanted, what is read before it is claimed."""
    monkeypatch.setattr(intake, "INCOMPLETE_GRACE", -3600.0)
    alice.send("bob", "x" * 100)
    (file,) = new.iterdir()
    taker.accept = lambda _: True
    step("read", file.name, lambda: os.truncate(file, 5))

    assert taker.claim() is None
    assert "it changed while it was read" in notes(root)


def test_what_was_claimed_and_is_no_mail_goes_back_unread(
    root: Path, new: Path, taker: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may become mail. One in a listing is claimed in vain; as long as that lies there, all are looked at first."""
    files = [drop(new, f"20200101T00000{n}.000000000Z-00000000000a,S=11.json") for n in range(3)]
    claimed: list[str] = []
    taker.begin()
    real = taker._new._bare_rename

    def rename(source: int, old: bytes, target: int, new: bytes, flags: int) -> int:
        claimed.append(new.decode())
        return real(source, old, target, new, flags)

    monkeypatch.setattr(taker._new, "_bare_rename", rename)
    monkeypatch.setattr(os, "read", lambda *_: pytest.fail("it is read"))
    looks = [taker.claim() for _ in range(3)]
    monkeypatch.undo()

    assert looks == [None] * 3
    assert claimed == [files[0].name]
    assert sorted(new.iterdir()) == files
    assert list((root / "bob/later").iterdir()) == []

    files[0].write_text('{"body":1}\n')
    claim = taker.claim()
    assert claim is not None
    assert claim[0] == files[0].name
    assert claim[3]  # nobody has judged it before


def test_what_cannot_go_back_is_judged_when_it_is_due(root: Path, new: Path, taker: Spool, step: Step) -> None:
    """The new/ in which it lay is gone: nothing is left in our folder."""
    file = drop(new, "20200101T000000.000000000Z-00000000000a,S=11.json")
    taker.begin()
    step("fstat", file.name, new.rmdir)

    assert taker.claim() is None
    assert taker.claim() is None
    assert "it is not complete" in notes(root)


def test_a_lease_on_what_was_put_off_is_waited_for(
    alice: Mailbox, taker: Spool, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer may still have it open: that is no trouble of ours, and it is tried again after a while."""
    monkeypatch.setattr(claim_deferred, "_FILE_LEASE_RETRY_NS", 3600 * 10**9)
    alice.send("bob", 1)
    claim = taker.claim()
    assert claim is not None
    taker.defer(claim[0], 0)
    step("open", claim[0], code=errno.EAGAIN)

    assert taker.claim() is None
    due = taker.next_due()
    assert due is not None
    assert due > 0


@pytest.mark.parametrize("answer", [errno.EIO, None], ids=["it cannot be told", "it was replaced"])
def test_a_foreign_file_that_may_have_been_exchanged_is_read_anew(
    new: Path, taker: Spool, monkeypatch: pytest.MonkeyPatch, answer: int | None
) -> None:
    """What is handed out is what lies under our name, where nobody else reaches it."""

    def alone(*_: object, **__: object) -> bool:
        if answer is not None:
            raise OSError(answer, os.strerror(answer))
        return False

    drop(new)
    with monkeypatch.context() as patch:
        patch.setattr(claim_new, "is_same_file", alone)
        if answer is not None:
            with pytest.raises(StorageError):
                taker.claim()
            taker.maintain_at = 0.0
        claim = taker.claim()

    assert claim is not None
    assert claim[1] == b'{"body":1}'
    assert claim[3]  # nobody has judged it before


@pytest.mark.parametrize("call", ["open", "move"])
def test_what_is_due_may_be_taken_by_another_consumer(root: Path, alice: Mailbox, step: Step, call: str) -> None:
    """Between the listing of later/ and ours."""
    with Mailbox("bob", root) as bob:
        alice.send("bob", 1)
        message = bob.receive()
        assert message is not None
        message.retry(delay=0)
        (due,) = (root / "bob/later").iterdir()
        step(call, due.name, due.unlink)

        assert bob.receive() is None


@pytest.mark.parametrize("state", ["new", "later"])
def test_what_may_not_be_opened_and_is_gone_then_is_gone(root: Path, new: Path, step: Step, state: str) -> None:
    """Another consumer was faster: nothing is told of it."""
    with Mailbox("bob", root) as bob:
        drop(new)
        if state == "later":
            message = bob.receive()
            assert message is not None
            message.retry(delay=0)
        (file,) = (root / "bob" / state).iterdir()
        step("open", file.name, file.unlink, errno.EACCES)

        assert bob.receive() is None


def test_what_is_no_mail_and_cannot_be_opened_is_left(new: Path, taker: Spool) -> None:
    """A link of another suffix is nobody's business, also where the rest of its name is ours."""
    link = new / "20200101T000000.000000000Z-00000000000a.txt"
    link.symlink_to("y")

    assert taker.claim() is None
    assert link.is_symlink()


def test_an_error_that_means_nothing_to_us_is_told(new: Path, taker: Spool, step: Step) -> None:
    """It condemns no mail."""
    drop(new)
    step("open", "x.json", code=errno.EOVERFLOW)
    with pytest.raises(StorageError):
        taker.claim()

    claim = taker.claim()
    assert claim is not None
    assert claim[1] == b'{"body":1}'


def test_what_is_no_file_and_may_not_be_opened_is_removed(root: Path, new: Path, taker: Spool, step: Step) -> None:
    """As what may be opened and is no file."""
    os.mkfifo(new / "x.json", 0o000)
    step("open", "x.json", code=errno.EACCES)

    assert taker.claim() is None
    assert "it is a FIFO, not a file: it was removed" in notes(root)


def test_a_file_that_becomes_a_folder_is_left_to_the_next_look(new: Path, taker: Spool, step: Step) -> None:
    """The kernel refuses to move the folder of somebody else."""
    file = drop(new)

    def exchange() -> None:
        file.unlink()
        file.mkdir()

    step("move", file.name, exchange, errno.EACCES)

    assert taker.claim() is None
    assert file.is_dir()


def test_whether_it_is_held_may_be_unknown(alice: Mailbox, taker: Spool, step: Step) -> None:
    """Then the settling is refused, and can be tried again."""
    alice.send("bob", 1)
    claim = taker.claim()
    assert claim is not None
    step("stat", claim[0], code=errno.EIO)
    with pytest.raises(StorageError, match="looking for"):
        taker.is_claimed(claim[0])

    assert taker.is_claimed(claim[0])


def test_what_cannot_be_buried_stays_held(alice: Mailbox, taker: Spool, step: Step) -> None:
    """And can be buried later."""
    alice.send("bob", 1)
    claim = taker.claim()
    assert claim is not None
    step("move", claim[0], code=errno.EIO)
    with pytest.raises(StorageError, match="a dead letter"):
        taker.dead_letter(claim[0], "no", "")

    assert taker.is_claimed(claim[0])
    taker.dead_letter(claim[0], "no", "")
    assert not taker.is_claimed(claim[0])


@pytest.mark.parametrize("code", [errno.EIO, None], ids=["the disk fails", "it was taken"])
def test_a_dead_letter_that_never_came_has_no_note(
    root: Path, new: Path, taker: Spool, step: Step, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    """The note is written first, and goes again where the file does not follow."""
    monkeypatch.setattr(intake, "INCOMPLETE_GRACE", -3600.0)
    file = drop(new, text="[1]")
    step("move", "x.json", file.unlink if code is None else lambda: None, code)
    if code is None:
        assert taker.claim() is None
    else:
        with pytest.raises(StorageError):
            taker.claim()

    assert notes(root) == ""
    assert file.exists() == (code is not None)


def test_what_others_remove_first_needs_no_note(root: Path, new: Path, taker: Spool, step: Step) -> None:
    """A link in new/, taken away by another consumer."""
    link = new / "x.json"
    link.symlink_to("y")
    remove = os.unlink
    step("unlink", "x.json", lambda: remove(link))

    assert taker.claim() is None
    assert notes(root) == ""


def test_a_free_folder_may_go_before_it_is_ours(root: Path, taker: Spool, step: Step) -> None:
    """gc sweeps what is empty: then another one is made."""
    (free,) = (root / "bob/cur").iterdir()
    step("open", free.name, lambda: shutil.rmtree(free), whole=True)
    taker.begin()

    assert taker.folder not in (None, free.name)


def test_a_dead_consumer_s_folder_may_go_before_it_is_taken_over(root: Path, taker: Spool, step: Step) -> None:
    """Another consumer was faster."""
    taker.begin()
    dead = root / "bob/cur/0123456789ab"
    dead.mkdir()
    (dead / ".lock").touch()
    step("open", dead.name, lambda: shutil.rmtree(dead), whole=True)
    taker.maintain_at = 0.0

    assert taker.claim() is None
    assert not dead.exists()


@pytest.mark.parametrize("code", [errno.EIO, None], ids=["the disk fails", "it was taken"])
def test_what_the_dead_held_may_go_or_stay_for_now(
    root: Path, alice: Mailbox, taker: Spool, step: Step, code: int | None
) -> None:
    """What could not be moved is moved by the next round; what others have moved is theirs."""
    taker.begin()
    alice.send("bob", 1)
    dead = root / "bob/cur/0123456789ab"
    dead.mkdir()
    (dead / ".lock").touch()
    (file,) = (root / "bob/new").iterdir()
    held = file.rename(dead / file.name)
    step("move", held.name, held.unlink if code is None else lambda: None, code)
    taker.maintain_at = 0.0
    if code is None:
        assert taker.claim() is None
    else:
        with pytest.raises(StorageError):
            taker.claim()
        taker.maintain_at = 0.0
        assert taker.claim() is not None


def test_drafts_are_given_up_for_a_second_at_a_time(root: Path, taker: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tmp/ with a million of them does not stop the mail."""
    for n in range(3):
        os.utime(drop(root / "bob/tmp", f"{n}"), (0, 0))
    monkeypatch.setattr(spool, "CLEANUP_BUDGET", -1.0)
    taker.begin()

    assert len(os.listdir(root / "bob/tmp")) == 2


def test_a_folder_that_goes_while_the_box_is_opened_is_no_box(taker: Spool, step: Step) -> None:
    """The box is being removed."""
    step("open", "bob/later", code=errno.ENOENT)
    with pytest.raises(MailboxError):
        taker.begin()


def test_a_free_folder_may_go_before_its_lock_is_tried(root: Path, taker: Spool, step: Step) -> None:
    """Then it is nobody's, and another one is made."""
    (free,) = (root / "bob/cur").iterdir()
    step("stat", f"cur/{free.name}", lambda: shutil.rmtree(free))
    taker.begin()

    assert taker.folder not in (None, free.name)
