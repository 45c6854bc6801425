"""Into a box: write, rename, flush."""

import errno
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import (
    BoxNotFoundError,
    CrossMountRenameError,
    DiskFullError,
    DurabilityUnknownError,
    Mailbox,
    PermissionDeniedError,
    RootNotFoundError,
    StorageError,
)
from filemailbox.format.address import Address
from filemailbox.store import deliver
from filemailbox.store.box import create_box
from filemailbox.store.ids import new_id
from filemailbox.store.root import Root, find_root
from support.boxes import BOB


@pytest.fixture
def volume(root: Path) -> Root:
    return find_root(root)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def mail(root: Path, folder: str = "new", box: str = "bob") -> list[str]:
    return sorted(os.listdir(root / box / folder))


def fail(call: str, code: int, monkeypatch: pytest.MonkeyPatch, times: int = 1_000) -> None:
    """Make the next *times* calls of os.*call* fail."""
    real, left = getattr(os, call), [times]

    def failing(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, failing)


def record(calls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, seen: list[str]) -> None:
    """Note in *seen* each call of these functions of os."""
    for call in calls:
        monkeypatch.setattr(os, call, noting(call, getattr(os, call), seen))


def noting(name: str, call: Callable[..., Any], seen: list[str]) -> Callable[..., Any]:
    def noted(*arguments: Any, **options: Any) -> Any:
        seen.append(name)
        return call(*arguments, **options)

    return noted


def test_a_message_is_in_new_whole_and_the_draft_is_gone(root: Path, volume: Root) -> None:
    """The name says the id and the size, the file holds exactly the bytes."""
    id = new_id()
    deliver.deliver(volume, BOB, id, b'{"body":1}\n')

    assert mail(root) == [f"{id},S=11.json"]
    assert (root / "bob/new" / mail(root)[0]).read_bytes() == b'{"body":1}\n'
    assert mail(root, "tmp") == []


def test_nothing_is_in_new_before_the_message_is_whole(
    root: Path, volume: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks while the draft is written, byte by byte, finds nothing in new/ and the draft in tmp/."""
    real, looks = os.write, []

    def slowly(file: int, data: bytes) -> int:
        looks.append((mail(root), len(mail(root, "tmp"))))
        return real(file, data[:1])

    monkeypatch.setattr(os, "write", slowly)
    deliver.deliver(volume, BOB, new_id(), b'{"a":2}\n')

    assert looks == [([], 1)] * 8
    assert (root / "bob/new" / mail(root)[0]).read_bytes() == b'{"a":2}\n'


def test_a_message_is_written_then_renamed_then_flushed_then_announced(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One flush, after the rename, so that it takes the new name along; the bell rings last."""
    seen: list[str] = []
    with Mailbox("alice", root) as alice:
        monkeypatch.setattr(alice._ringer, "ring", lambda box: seen.append(f"ring {box}"))
        record(("write", "fchmod", "rename", "fsync"), monkeypatch, seen)
        alice.send("bob")

    assert seen == ["write", "fchmod", "rename", "fsync", "ring bob"]


def test_for_an_answer_bells_are_looked_for_and_else_believed(alice: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for one has nothing but a bell, which may have been hung a moment ago."""
    calls: list[str] = []
    for call in ("look_again", "ring"):
        monkeypatch.setattr(alice._ringer, call, lambda box, call=call: calls.append(call))
    alice.send("bob")
    alice.send("bob", in_reply_to=new_id())
    alice.send_group("bob")
    alice.send_group("bob", in_reply_to=new_id())

    assert calls == ["ring", "look_again", "ring"] * 2


def test_without_durable_nothing_is_flushed(root: Path, alice: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """durable=False trades the flush for speed, for one message and for many."""
    seen: list[str] = []
    record(("fsync", "sync"), monkeypatch, seen)
    monkeypatch.setattr(deliver, "syncfs", lambda file: seen.append("syncfs"))
    alice.send("bob")
    alice.send_many("bob", range(20))

    assert seen == []
    assert len(mail(root)) == 21


def test_a_message_can_be_read_by_its_recipient_whatever_the_umask(root: Path, volume: Root, umask: None) -> None:
    """Mode 0640: in a drop box the file has the recipient's group, and a strict umask must not keep him out."""
    deliver.deliver(volume, BOB, new_id(), b"{}")
    facts = (root / "bob/new" / mail(root)[0]).stat()

    assert stat.S_IMODE(facts.st_mode) == 0o640
    assert facts.st_gid == (root / "bob/new").stat().st_gid


def test_an_unknown_recipient_is_an_error_and_no_new_box(root: Path, alice: Mailbox) -> None:
    """A typing error must not become a box that nobody reads. The error lists the boxes there are."""
    with pytest.raises(BoxNotFoundError) as caught:
        alice.send("bbo")

    assert caught.value.known == ["alice", "bob"]
    assert not (root / "bbo").exists()


def test_a_removed_box_is_an_error_until_it_is_there_again(root: Path, alice: Mailbox) -> None:
    """Senders use paths, so that a box that was replaced is found again by itself."""
    alice.send("bob")
    os.rename(root / "bob", root / "gone")
    with pytest.raises(BoxNotFoundError):
        alice.send("bob")
    create_box(find_root(root).box(BOB))
    id = alice.send("bob")

    assert [name[: len(id)] for name in mail(root)] == [id]


def test_a_volume_that_went_away_is_no_root(root: Path, alice: Mailbox) -> None:
    """Not "no box": the volume is not mounted any more, and that is what the error says."""
    os.rename(root, root.with_name("elsewhere"))

    with pytest.raises(RootNotFoundError):
        alice.send("bob")


@pytest.mark.parametrize("call", ["write", "fchmod", "rename"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        pytest.param(errno.ENOSPC, DiskFullError, id="full"),
        pytest.param(errno.EDQUOT, DiskFullError, id="quota"),
        pytest.param(errno.EACCES, PermissionDeniedError, id="forbidden"),
        pytest.param(errno.EROFS, PermissionDeniedError, id="read-only"),
        pytest.param(errno.EXDEV, CrossMountRenameError, id="split"),
        pytest.param(errno.EIO, StorageError, id="broken"),
    ],
)
def test_a_failed_send_leaves_neither_draft_nor_mail(
    root: Path, alice: Mailbox, monkeypatch: pytest.MonkeyPatch, call: str, code: int, kind: type[StorageError]
) -> None:
    """Wherever it fails before the rename is done, nothing was delivered, and the errno is kept."""
    with monkeypatch.context() as broken:
        fail(call, code, broken)
        with pytest.raises(kind) as caught:
            alice.send("bob", "x")

    assert type(caught.value) is kind
    assert caught.value.errno == code
    assert (mail(root), mail(root, "tmp")) == ([], [])


def test_an_interrupted_send_leaves_neither_draft_nor_mail(
    root: Path, alice: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is no error of the disk: Ctrl-C while it is written."""

    def interrupted(*arguments: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            alice.send("bob", "x")

    assert (mail(root), mail(root, "tmp")) == ([], [])


def test_no_descriptor_stays_open(alice: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither after a send nor after one that failed, for one message and for many."""
    alice.send("bob")
    before = os.listdir("/proc/self/fd")
    alice.send("bob")
    alice.send_many("bob", range(20))
    with monkeypatch.context() as broken:
        fail("write", errno.ENOSPC, broken)
        with pytest.raises(DiskFullError):
            alice.send("bob")
    with monkeypatch.context() as broken:
        fail("rename", errno.ENOSPC, broken)
        with pytest.raises(DiskFullError):
            alice.send_many("bob", range(20))

    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_an_unflushed_message_can_be_sent_again_and_is_one(
    root: Path, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk did not confirm it: the outcome is unknown, and the same id sent again makes one message, not two."""
    with Mailbox("alice", root) as alice:
        with monkeypatch.context() as broken:
            fail("fsync", errno.EIO, broken)
            with pytest.raises(DurabilityUnknownError) as caught:
                alice.send("bob", "x")
        assert caught.value.id is not None
        again = alice.send("bob", "x", id=caught.value.id)
    first, second = bob.receive(), bob.receive()

    assert first is not None
    assert first.id == again == caught.value.id
    assert caught.value.errno == errno.EIO
    assert second is None


def test_a_draft_that_a_killed_try_left_is_not_in_the_way(root: Path, volume: Root) -> None:
    """The same id can be sent again although its draft lies in tmp/ still."""
    id = new_id()
    (root / f"bob/tmp/{id},S=2.json").write_text("")
    deliver.deliver(volume, BOB, id, b"{}")

    assert mail(root) == [f"{id},S=2.json"]
    assert (root / "bob/new" / mail(root)[0]).read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("count", "flushes"),
    [pytest.param(7, ["fsync"] * 7, id="few"), pytest.param(8, ["syncfs"], id="crowd"), pytest.param(0, [], id="none")],
)
def test_many_messages_are_renamed_first_and_flushed_together(
    root: Path, monkeypatch: pytest.MonkeyPatch, count: int, flushes: list[str]
) -> None:
    """Below eight an fsync each, from then on one syncfs for all; one ring at the end."""
    seen: list[str] = []
    with Mailbox("alice", root) as alice:
        monkeypatch.setattr(deliver, "syncfs", noting("syncfs", deliver.syncfs, seen))
        monkeypatch.setattr(alice._ringer, "ring", lambda box: seen.append("ring"))
        record(("rename", "fsync"), monkeypatch, seen)
        ids = alice.send_many("bob", (n for n in range(count)))

    assert seen == ["rename"] * count + flushes + ["ring"]
    assert [name.split(",")[0] for name in mail(root)] == ids


def test_without_syncfs_all_file_systems_are_flushed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A C library without syncfs(2) has sync(2)."""
    seen: list[str] = []
    monkeypatch.setattr(deliver, "syncfs", lambda file: False)
    record(("sync", "fsync"), monkeypatch, seen)
    with Mailbox("alice", root) as alice:
        alice.send_many("bob", range(9))

    assert seen[0] == "sync"
    assert len(mail(root)) == 9


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "fast"])
@pytest.mark.parametrize("before", [0, 3, 11], ids=str)
def test_many_messages_of_which_one_fails_tell_which_were_sent(root: Path, durable: bool, before: int) -> None:
    """Those before it are delivered, and the exception carries their ids as `sent`, whatever kind it is."""

    def bodies() -> Iterator[int]:
        yield from range(before)
        raise LookupError("the source dried up")

    with Mailbox("alice", root, durable=durable) as alice, pytest.raises(LookupError) as caught:
        alice.send_many("bob", bodies())

    assert len(caught.value.sent) == before  # type: ignore[attr-defined]
    assert [name.split(",")[0] for name in mail(root)] == caught.value.sent  # type: ignore[attr-defined]
    assert mail(root, "tmp") == []


@pytest.mark.parametrize("count", [3, 9], ids=["few", "crowd"])
def test_many_messages_that_were_not_flushed_tell_which_were_delivered(
    root: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """All are in new/, none is certain to survive a power cut, and the exception names them all."""

    def broken(file: int) -> bool:
        raise DurabilityUnknownError("the disk did not confirm it", errno.EIO)

    monkeypatch.setattr(deliver, "syncfs", broken)
    fail("fsync", errno.EIO, monkeypatch)
    with Mailbox("alice", root) as alice, pytest.raises(DurabilityUnknownError) as caught:
        alice.send_many("bob", range(count))

    assert [name.split(",")[0] for name in mail(root)] == caught.value.sent  # type: ignore[attr-defined]


def test_one_failed_flush_does_not_keep_the_others_from_the_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a few is flushed, also after one that could not be."""
    seen: list[str] = []
    fail("fsync", errno.EIO, monkeypatch, times=1)
    record(("fsync",), monkeypatch, seen)
    with Mailbox("alice", root) as alice, pytest.raises(DurabilityUnknownError) as caught:
        alice.send_many("bob", range(4))

    assert seen == ["fsync"] * 4
    assert caught.value.id == caught.value.sent[0]  # type: ignore[attr-defined]


def test_a_message_in_many_that_is_too_large_is_not_sent_and_those_before_it_are(root: Path) -> None:
    """The limit holds for each message."""
    with Mailbox("alice", root, max_size=1000) as alice, pytest.raises(ValueError, match="the limit is 1000") as caught:
        alice.send_many("bob", ["a", "b", "x" * 1000, "c"])

    assert len(caught.value.sent) == len(mail(root)) == 2  # type: ignore[attr-defined]


def test_an_answer_goes_to_the_folder_where_it_is_waited_for(root: Path, volume: Root) -> None:
    """Somebody waits there and looks nowhere else."""
    request, id = new_id(), new_id()
    (root / "bob/replies" / request).mkdir()
    deliver.deliver(volume, BOB, id, b"{}", answers=request)

    assert mail(root, f"replies/{request}") == [f"{id},S=2.json"]
    assert mail(root) == []


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(new_id(), id="nobody waits"),
        pytest.param("../../alice/new", id="a path"),
        pytest.param("x", id="not an id"),
        pytest.param("", id="empty"),
    ],
)
def test_an_answer_that_nobody_waits_for_is_ordinary_mail(root: Path, volume: Root, answers: str) -> None:
    """And what is no id is never made part of a path."""
    deliver.deliver(volume, BOB, new_id(), b"{}", answers=answers)

    assert len(mail(root)) == 1
    assert mail(root, box="alice") == []


def test_an_answer_to_what_is_a_file_is_ordinary_mail(root: Path, volume: Root) -> None:
    """Anybody can put things into replies/."""
    request = new_id()
    (root / "bob/replies" / request).write_text("")
    deliver.deliver(volume, BOB, new_id(), b"{}", answers=request)

    assert len(mail(root)) == 1


def test_threads_of_one_mailbox_deliver_at_once(root: Path, alice: Mailbox) -> None:
    """Nothing is shared between two sends but the folder."""
    threads = [threading.Thread(target=alice.send_many, args=("bob", range(50))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({name.split(",")[0] for name in mail(root)}) == 200


class Gate:
    """A flush that a test lets through, one at a time; and the files that were flushed, by their messages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.let = threading.Semaphore(0), threading.Semaphore(0)
        self.calls: list[str] = []
        self.error: type[Exception] | None = None
        for place, call in ((os, "fsync"), (deliver, "syncfs")):
            monkeypatch.setattr(place, call, self._gated(call, getattr(place, call)))

    def _gated(self, call: str, real: Callable[[int], Any]) -> Callable[[int], Any]:
        def flush(file: int) -> Any:
            self.calls.append(call)
            self.begun.release()
            assert self.let.acquire(timeout=LONG)
            if self.error is not None:
                raise self.error("broken")
            return real(file)

        return flush


LONG = 60.0


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Each thread beyond the first waits for the others."""
    monkeypatch.setattr(deliver, "_FEW", 0)
    return Gate(monkeypatch)


def send_at_once(alice: Mailbox, threads: int, returned: list[str]) -> list[threading.Thread]:
    def send() -> None:
        try:
            returned.append(alice.send("bob", "x"))
        except DurabilityUnknownError as error:
            returned.append(f"unflushed {error.id}")

    made = [threading.Thread(target=send, daemon=True) for _ in range(threads)]
    for thread in made:
        thread.start()
    return made


def waiting(number: int) -> Callable[[], bool]:
    return lambda: len(deliver._shared_flush._waiting) == number


@pytest.fixture
def durable_alice(root: Path) -> Iterator[Mailbox]:
    Mailbox.init("bob", root).close()
    with Mailbox("alice", root) as box:
        yield box


def test_threads_that_wait_for_a_flush_share_the_next(durable_alice: Mailbox, gate: Gate, until: Any) -> None:
    """The first flushes its own; one of the others for all that were renamed meanwhile. None returns before its own."""
    returned: list[str] = []
    threads = send_at_once(durable_alice, 1, returned)
    assert gate.begun.acquire(timeout=LONG)
    threads += send_at_once(durable_alice, 12, returned)
    until(waiting(12))
    at_first = list(returned)
    gate.let.release()
    assert gate.begun.acquire(timeout=LONG)
    threads[0].join(LONG)
    after_one = list(returned)
    late = send_at_once(durable_alice, 1, returned)  # renamed after the shared flush has begun
    until(waiting(1))
    gate.let.release()
    for thread in threads:
        thread.join(LONG)
    before_the_last = list(returned)
    gate.let.release()
    late[0].join(LONG)

    assert at_first == []
    assert len(after_one) == 1
    assert len(before_the_last) == 13
    assert len(returned) == len(set(returned)) == 14
    assert gate.calls == ["fsync", "syncfs", "fsync"]


def test_a_few_that_wait_flush_each_its_own(durable_alice: Mailbox, gate: Gate, until: Any) -> None:
    """One flush of a whole file system does not pay for them."""
    returned: list[str] = []
    threads = send_at_once(durable_alice, 1, returned)
    assert gate.begun.acquire(timeout=LONG)
    threads += send_at_once(durable_alice, 6, returned)
    until(waiting(6))
    for _ in range(7):
        gate.let.release()
    for thread in threads:
        thread.join(LONG)

    assert gate.calls == ["fsync"] * 7
    assert len(set(returned)) == 7


def test_a_few_threads_do_not_wait_for_each_other(
    durable_alice: Mailbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel joins their flushes."""
    monkeypatch.setattr(deliver, "_FEW", 4)
    returned: list[str] = []
    threads = send_at_once(durable_alice, 4, returned)
    for _ in range(4):
        assert gate.begun.acquire(timeout=LONG)
    for _ in range(4):
        gate.let.release()
    for thread in threads:
        thread.join(LONG)

    assert gate.calls == ["fsync"] * 4


def test_where_the_shared_flush_fails_each_learns_of_its_own(durable_alice: Mailbox, gate: Gate, until: Any) -> None:
    """A disk that fails for one message has not failed for all: each is flushed by itself."""
    returned: list[str] = []
    threads = send_at_once(durable_alice, 1, returned)
    assert gate.begun.acquire(timeout=LONG)
    threads += send_at_once(durable_alice, 10, returned)
    until(waiting(10))
    gate.let.release()
    assert gate.begun.acquire(timeout=LONG)
    gate.error = DurabilityUnknownError
    gate.let.release()
    for _ in range(10):
        assert gate.begun.acquire(timeout=LONG)
    gate.error = None
    for _ in range(10):
        gate.let.release()
    for thread in threads:
        thread.join(LONG)

    assert gate.calls == ["fsync", "syncfs", *["fsync"] * 10]
    assert not [each for each in returned if each.startswith("unflushed")]
    assert len(set(returned)) == 11


def test_a_signal_handler_that_sends_does_not_wait_for_the_flush_it_interrupts(
    durable_alice: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for ever: the flush goes on when the handler has returned."""
    real, sent = os.fsync, list[str]()

    def interrupted(file: int) -> None:
        if not sent:
            sent.append("")
            sent.append(durable_alice.send("bob", "from a handler"))
        real(file)

    monkeypatch.setattr(os, "fsync", interrupted)
    sent.append(durable_alice.send("bob", "x"))

    assert len(set(sent)) == 3


def test_an_exception_while_one_waits_leaves_the_others_their_flush(
    durable_alice: Mailbox, gate: Gate, until: Any
) -> None:
    """A signal handler raises in a thread that waits: it goes without, and the rest are flushed."""
    returned: list[str] = []
    threads = send_at_once(durable_alice, 1, returned)
    assert gate.begun.acquire(timeout=LONG)
    threads += send_at_once(durable_alice, 3, returned)
    until(waiting(3))
    shared = deliver._shared_flush
    mine = deliver._Waiting(-1, "interrupted")
    mine.turn = Raising(mine.turn)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        shared._wait(mine)
    for _ in range(4):
        gate.let.release()
    for thread in threads:
        thread.join(LONG)

    assert len(set(returned)) == 4
    assert shared._waiting == []


class Raising:
    """A lock on which a signal handler raises, once."""

    def __init__(self, lock: Any) -> None:
        self._lock, self._raised = lock, False

    def acquire(self) -> None:
        if not self._raised:
            self._raised = True
            raise KeyboardInterrupt
        self._lock.acquire()

    def release(self) -> None:
        self._lock.release()


def test_in_the_child_of_a_fork_no_flush_is_going_on(durable_alice: Mailbox, gate: Gate, until: Any) -> None:
    """The thread that flushes stayed with the parent."""
    returned: list[str] = []
    threads = send_at_once(durable_alice, 1, returned)
    assert gate.begun.acquire(timeout=LONG)
    child = os.fork()
    if child == 0:
        gate.let.release()
        durable_alice.send("bob", "x")
        os._exit(0)
    gate.let.release()
    threads[0].join(LONG)

    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("options", ["size=256k", "nr_inodes=50"])
def test_a_full_volume_takes_no_mail_and_can_still_be_drained(
    mount: Callable[..., Path], tmp_path: Path, options: str
) -> None:
    """DiskFullError, nothing delivered, no draft left; and a consumer that was never here before empties the box."""
    root = mount(tmp_path / "full", options)
    with Mailbox.init("alice", root) as alice:
        Mailbox.init("bob", root).close()
        sent = []
        with pytest.raises(DiskFullError) as caught:  # noqa: PT012  # until it is full
            while True:
                sent.append(alice.send("bob", "x" * 5000))
        assert mail(root, "tmp") == []
        with Mailbox("bob", root) as bob:
            got = []
            while (message := bob.receive()) is not None:
                got.append(message.id)
                message.ack()

    assert caught.value.errno == errno.ENOSPC
    assert got == sent != []


def test_dead_letters_and_retries_need_no_space(mount: Callable[..., Path], tmp_path: Path) -> None:
    """On a full volume every way to settle works; the reason of a dead letter may be lost, the letter is not."""
    root = mount(tmp_path / "full", "nr_inodes=50")
    with Mailbox.init("alice", root) as alice:
        Mailbox.init("bob", root).close()
        with pytest.raises(DiskFullError):  # noqa: PT012  # until it is full
            while True:
                alice.send("bob")
        with Mailbox("bob", root) as bob:
            first, second, third = bob.receive(), bob.receive(), bob.receive()
            assert first is not None
            assert second is not None
            assert third is not None
            first.reject("no")
            second.retry(delay=3600)
            third.release()
            states = {message.id: message.state for message in bob.peek("dead", "later")}

    assert states == {first.id: "dead", second.id: "later", third.id: "later"}


@pytest.mark.parametrize("folder", ["tmp", "replies"])
def test_a_box_whose_folders_are_on_two_mounts_is_refused(
    mount: Callable[..., Path], root: Path, alice: Mailbox, folder: str
) -> None:
    """A rename cannot cross mounts: CrossMountRenameError says what to mount instead."""
    mount(root / "bob" / folder)
    request = new_id()
    (root / "bob/replies" / request).mkdir()

    with pytest.raises(CrossMountRenameError) as refused:
        alice.send("bob", in_reply_to=request)
    assert "mount whole boxes" in str(refused.value.hint)
    assert mail(root) == []


def test_two_mounts_of_one_volume_are_two_mounts(mount: Callable[..., Path], tmp_path: Path) -> None:
    """Binding new/ and tmp/ one by one, as with two subpaths of one volume, splits a box as well."""
    root = mount(tmp_path / "volume")
    Mailbox.init("bob", root).close()
    subprocess.run(["mount", "--bind", str(root / "bob/new"), str(root / "bob/new")], check=True)
    try:
        with Mailbox.init("alice", root) as alice, pytest.raises(CrossMountRenameError):
            alice.send("bob")
    finally:
        subprocess.run(["umount", str(root / "bob/new")], check=True)


@pytest.mark.parametrize("durable", [True, False])
def test_a_close_that_fails_matters_only_where_nothing_was_flushed(
    root: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """After a flush it tells nothing of the message; without one it may be all that is ever said of it."""
    real = os.close

    def close(file: int) -> None:
        name = os.readlink(f"/proc/self/fd/{file}")
        real(file)
        if name.endswith(".json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Mailbox("alice", root, durable=durable) as alice:
        monkeypatch.setattr(os, "close", close)
        if durable:
            ids = [alice.send("bob", 1), *alice.send_many("bob", range(9))]
        else:
            with pytest.raises(DurabilityUnknownError) as caught:
                alice.send("bob", 1)
            assert caught.value.id is not None
            ids = [caught.value.id]
        monkeypatch.undo()

    assert sorted(name.split(",")[0] for name in mail(root)) == ids


# Root sends to the box of another uid, whose owner has put something else in the place of a folder


def _with_send(volume: Path) -> None:
    Mailbox("alice", volume).send("bob", "x")


def _with_send_many(volume: Path) -> None:
    Mailbox("alice", volume).send_many("bob", ["x", "y"])


def _with_reply(volume: Path) -> None:
    with Mailbox("alice", volume) as alice, alice.receive() or pytest.fail("no mail") as message:
        message.reply("x")


SENDING = pytest.mark.parametrize("send", [_with_send, _with_send_many, _with_reply])


@pytest.fixture
def uids(as_root: None, shared: Path) -> Path:
    """A root with a box of root's and two of other uids. Bob has written to alice, and carol's box is empty."""
    volume = shared / "mail"
    Mailbox.init("alice", volume).close()
    for name, uid in (("bob", 2002), ("carol", 2003)):
        create_box(find_root(volume).box(Address(name)), (uid, uid))
    Mailbox("bob", volume).send("alice", "a question")
    return volume


def swap(folder: Path, target: Path) -> None:
    folder.rename(folder.with_name(f".{folder.name}"))
    folder.symlink_to(target)


def everything(*folders: Path) -> list[Path]:
    """All mail and all drafts, wherever they lie."""
    return sorted(path for folder in folders for path in folder.rglob("*.json*") if not path.is_dir())


@SENDING
@pytest.mark.parametrize("folder", ["tmp", "new"])
@pytest.mark.parametrize("target", ["of carol", "of root"])
def test_root_delivers_through_no_link(
    uids: Path, shared: Path, send: Callable[[Path], None], folder: str, target: str
) -> None:
    """Bob's `tmp/` or `new/` is a link: nothing appears behind it, not even for a moment, and the error names it."""
    closed = shared / "closed"
    closed.mkdir(0o700)
    behind = uids / f"carol/{folder}" if target == "of carol" else closed
    swap(uids / "bob" / folder, behind)
    before, made = everything(uids / "carol", uids / "bob", closed), behind.stat().st_mtime_ns
    with pytest.raises(PermissionDeniedError, match=f'bob/{folder}" is a symbolic link') as caught:
        send(uids)

    assert caught.value.hint is not None
    assert everything(uids / "carol", uids / "bob", closed) == before
    assert behind.stat().st_mtime_ns == made


@SENDING
@pytest.mark.parametrize("folder", ["tmp", "new"])
def test_root_delivers_into_no_folder_of_another_owner(uids: Path, send: Callable[[Path], None], folder: str) -> None:
    """A folder that is not bob's was moved there: what is in it is not for others to make."""
    os.chown(uids / "bob" / folder, 2003, 2003)
    with pytest.raises(PermissionDeniedError, match="belongs to the uid 2003, and the box to 2002") as caught:
        send(uids)

    assert caught.value.hint is not None
    assert everything(uids / "bob") == []


@SENDING
def test_root_delivers_into_no_box_that_is_a_link(uids: Path, send: Callable[[Path], None]) -> None:
    """Where the root is open to all, bob can put a link to another box in the place of his own."""
    swap(uids / "bob", uids / "carol")
    os.lchown(uids / "bob", 2002, 2002)
    with pytest.raises(PermissionDeniedError, match='bob" is a symbolic link'):
        send(uids)

    assert everything(uids / "carol") == []


def test_root_leaves_no_mail_in_an_outbox_that_is_a_link(uids: Path, shared: Path) -> None:
    """Root sends for bob to who has no box here: the mail would go to bob's outbox."""
    closed = shared / "closed"
    closed.mkdir(0o700)
    (uids / "bob/outbox").symlink_to(closed)
    with pytest.raises(PermissionDeniedError, match='bob/outbox" is a symbolic link'):
        Mailbox("bob", uids).send("nobody-here", "x")

    assert everything(closed, uids / "bob") == []


@SENDING
def test_root_delivers_to_a_sound_box_of_another_uid(uids: Path, send: Callable[[Path], None]) -> None:
    """Readable by its group, no draft is left, and no descriptor stays open."""
    before = len(os.listdir("/proc/self/fd"))
    send(uids)
    sent = everything(uids / "bob")

    assert {path.parent for path in sent} == {uids / "bob/new"}
    assert {(path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) for path in sent} == {(2002, 0o640)}
    assert len(os.listdir("/proc/self/fd")) <= before + 8  # of the mailboxes that were not closed, not of each message


def test_root_answers_who_waits(uids: Path) -> None:
    """The answer goes to bob's folder for it, and to no other."""
    request, id = new_id(), new_id()
    (uids / "bob/replies" / request).mkdir()
    os.chown(uids / "bob/replies" / request, 2002, 2002)
    deliver.deliver(find_root(uids), BOB, id, b"{}", answers=request)

    assert everything(uids / "bob") == [uids / f"bob/replies/{request}/{id},S=2.json"]


def test_root_sends_an_id_again_over_a_draft_that_was_left(uids: Path) -> None:
    """Beside it, in the same folder."""
    id = new_id()
    (uids / f"bob/tmp/{id},S=2.json").write_text("")
    deliver.deliver(find_root(uids), BOB, id, b"{}")

    assert (uids / f"bob/new/{id},S=2.json").read_bytes() == b"{}"
    assert os.listdir(uids / "bob/tmp") == [f"{id},S=2.json"]
