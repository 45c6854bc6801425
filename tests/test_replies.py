"""Requests that block: a folder of one's own for the answer."""

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox, Mismatch, NoBox, names, replies
from filemailbox.files import FOLDER

Until = Callable[[Callable[[], object]], None]
BIG = 1 << 20


@pytest.fixture
def box(root: Path) -> str:
    return str(root / "alice")


def sweep(box: str) -> None:
    folder = os.open(f"{box}/replies", FOLDER)
    try:
        replies.sweep(box, folder)
    finally:
        os.close(folder)


def answer_each(bob: Mailbox, stop: threading.Event) -> None:
    """Answer each request with its body, doubled."""
    while not stop.is_set():
        message = bob.receive(timeout=0.05)
        if message is not None:
            with message:
                message.reply([message.body, message.body], type="answer")


@pytest.fixture
def echo(bob: Mailbox) -> Any:
    stop = threading.Event()
    thread = threading.Thread(target=answer_each, args=(bob, stop))
    thread.start()
    yield
    stop.set()
    thread.join()


def test_a_request_returns_the_answer_settled(root: Path, alice: Mailbox, echo: None) -> None:
    """The answer names the request, is in its thread, one hop on; and nothing is left of either."""
    answer = alice.request("bob", 7, timeout=20)

    assert answer.body == [7, 7]
    assert (answer.sender, answer.type, answer.hops) == ("bob", "answer", 1)
    assert answer.in_reply_to == answer.thread
    assert answer.settled
    assert os.listdir(root / "alice/replies") == []
    assert list(alice.peek("new", "cur", "later", "dead")) == []
    assert [name for name in os.listdir(root / "alice/cur") if name.startswith(".")] == []


def test_an_answer_that_a_script_drops_gets_an_id(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """A foreign name in the folder of a request is no id: the answer gets one, and a time, and the next one another."""

    def drop() -> None:
        request = bob.receive(timeout=20)
        assert request is not None
        (folder,) = (root / "alice/replies").iterdir()
        (root / "alice/tmp/x").write_text('{"from":"bob","sum":42}')
        (root / "alice/tmp/x").rename(folder / "x.json")
        request.ack()

    answers = []
    for _ in range(2):
        script = threading.Thread(target=drop)
        script.start()
        answers.append(alice.request("bob", [40, 2], timeout=20))
        script.join()

    assert [answer.body for answer in answers] == [{"sum": 42}, {"sum": 42}]
    assert all(names.is_id(answer.id) for answer in answers)
    assert answers[0].id < answers[1].id
    assert answers[0].sent <= answers[1].sent


def test_requests_of_many_threads_get_each_its_own_answer(alice: Mailbox, echo: None) -> None:
    """A folder for each request: answers never meet."""
    answers: dict[int, Any] = {}

    def ask(n: int) -> None:
        answers[n] = alice.request("bob", n, timeout=20).body

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == {n: [n, n] for n in range(6)}


def test_a_request_that_nobody_answers_times_out(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """TimeoutError, the folder is gone, and the request still waits for bob."""
    with pytest.raises(TimeoutError, match='no answer from "bob"'):
        alice.request("bob", timeout=0)

    assert os.listdir(root / "alice/replies") == []
    assert bob.receive() is not None


def test_a_late_answer_is_ordinary_mail(alice: Mailbox, bob: Mailbox) -> None:
    """Nobody waits in the folder any more, so it goes to new/."""
    with pytest.raises(TimeoutError):
        alice.request("bob", timeout=0)
    request = bob.receive()
    assert request is not None
    request.reply("late")
    late = alice.receive()

    assert late is not None
    assert (late.body, late.in_reply_to) == ("late", request.id)


def test_a_request_to_nobody_leaves_nothing(root: Path, alice: Mailbox) -> None:
    """NoBox, and the folder for the answer is taken away again."""
    with pytest.raises(NoBox):
        alice.request("nobody")

    assert os.listdir(root / "alice/replies") == []


def test_a_request_from_who_has_no_box_is_refused(root: Path, bob: Mailbox) -> None:
    """There is no box that an answer could come to; nothing is sent."""
    with Mailbox("carol", root) as carol, pytest.raises(NoBox, match="carol"):
        carol.request("bob")

    assert bob.receive() is None


def test_an_answer_of_another_type_is_ordinary_mail(alice: Mailbox, echo: None) -> None:
    """Mismatch tells the asker; the answer itself is not lost."""
    with pytest.raises(Mismatch, match="int"):
        alice.request("bob", "x", timeout=20, into=list[int])
    kept = alice.receive()

    assert kept is not None
    assert kept.body == ["x", "x"]


def test_a_malformed_answer_does_not_end_the_wait_and_becomes_a_dead_letter(
    root: Path, alice: Mailbox, bob: Mailbox, until: Until
) -> None:
    """The folder is as hostile as new/: what is no answer is passed over, and dealt with afterwards."""

    def answer() -> None:
        until(lambda: os.listdir(root / "alice/replies"))
        folder = root / "alice/replies" / os.listdir(root / "alice/replies")[0]
        (folder / f"{names.new_id()},S=3.json").write_text("{x}")
        (folder / f"{names.new_id()},S=999.json").write_text("{}")
        os.symlink("/etc/passwd", folder / "link.json")
        os.mkfifo(folder / "pipe.json")
        (folder / "dir.json").mkdir()
        (folder / ".draft").write_text("{}")
        request = bob.receive(timeout=20)
        assert request is not None
        request.reply("good")

    thread = threading.Thread(target=answer)
    thread.start()
    good = alice.request("bob", timeout=20)
    thread.join()
    nothing = alice.receive()

    assert good.body == "good"
    assert nothing is None
    assert "not JSON" in "".join(message.problem or "" for message in alice.peek("dead"))
    assert os.listdir(root / "alice/replies") == []


def test_of_several_answers_the_first_is_returned_and_the_rest_is_mail(
    root: Path, alice: Mailbox, bob: Mailbox, until: Until
) -> None:
    """Nothing that was answered is lost."""

    def answer() -> None:
        request = bob.receive(timeout=20)
        assert request is not None
        with request:
            for n in range(3):
                request.reply(n)

    thread = threading.Thread(target=answer)
    thread.start()
    first = alice.request("bob", timeout=20)
    thread.join()
    rest = [message.body for message in iter(alice.receive, None)]

    assert [first.body, *rest] == [0, 1, 2]


def test_a_folder_is_locked_while_it_waits(root: Path, box: str) -> None:
    """A sweep leaves the folders of the living alone, with what lies in them."""
    request = names.new_id()
    with replies.Reply(box, request):
        (root / "alice/replies" / request / "x.json").write_text("{}")
        sweep(box)
        kept = os.listdir(root / "alice/replies" / request)

    assert kept == ["x.json"]
    assert os.listdir(root / "alice/new") == ["x.json"]


def test_the_folder_of_a_request_is_a_drop_box(root: Path, box: str) -> None:
    """Others may answer, and neither list nor take the answers of each other."""
    request = names.new_id()
    before = os.umask(0o077)
    try:
        with replies.Reply(box, request):
            mode = stat.S_IMODE((root / "alice/replies" / request).stat().st_mode)
    finally:
        os.umask(before)

    assert mode == 0o3733


def test_the_answer_to_a_killed_requester_is_ordinary_mail(
    root: Path, alice: Mailbox, start: Callable[..., Any], until: Until
) -> None:
    """Its lock died with it: the next round of any consumer finds the folder and delivers what lies there."""
    asking = start(
        "import sys; from filemailbox import Mailbox\n"
        "box = Mailbox('alice', sys.argv[1]); print('asking', flush=True); box.request('bob', 1, timeout=None)",
        root,
    )
    asking.line()
    until(lambda: os.listdir(root / "bob/new"))
    request = os.listdir(root / "alice/replies")[0]
    os.kill(asking.pid, 19)  # SIGSTOP: it must not take the answer first
    with Mailbox("bob", root, durable=False) as bob:
        message = bob.receive()
        assert message is not None
        with message:
            message.reply("for the dead")
    assert alice.receive() is None
    asking.kill()
    answer = alice.receive(timeout=20)

    assert answer is not None
    assert (answer.body, answer.in_reply_to) == ("for the dead", request)
    assert os.listdir(root / "alice/replies") == []


@pytest.mark.parametrize("what", ["a file", "a link to a folder", "a dead link", "a FIFO", "an empty folder"])
def test_what_is_planted_as_the_folder_of_a_request_is_taken_away(
    root: Path, box: str, tmp_path: Path, what: str
) -> None:
    """Anybody can put anything into replies/; it must not stop the round, nor make us touch what lies elsewhere."""
    path, secrets = root / "alice/replies" / names.new_id(), tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "key").write_text("secret")
    if what == "a file":
        path.write_text("{}")
    elif what == "a FIFO":
        os.mkfifo(path)
    elif what == "an empty folder":
        path.mkdir()
    else:
        os.symlink(secrets if what == "a link to a folder" else tmp_path / "nowhere", path)
    sweep(box)

    assert os.listdir(root / "alice/replies") == []
    assert os.listdir(root / "alice/new") == []
    assert (secrets / "key").read_text() == "secret"


def test_a_link_that_takes_the_place_of_a_folder_is_not_followed(
    root: Path, box: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner can swap a folder for a link between two of our calls: nothing behind the link is moved."""
    request, secrets = names.new_id(), tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "key.json").write_text("secret")
    folder = root / "alice/replies" / request
    folder.mkdir()
    (folder / "x.json").write_text("{}")
    real = os.rmdir

    def swap(path: str) -> None:
        try:
            real(path)
        finally:
            if folder.is_dir() and not folder.is_symlink():
                folder.rename(tmp_path / "aside")
                folder.symlink_to(secrets)

    monkeypatch.setattr(os, "rmdir", swap)
    sweep(box)

    assert (secrets / "key.json").read_text() == "secret"
    assert os.listdir(root / "alice/new") == []


def test_a_folder_that_cannot_be_opened_does_not_stop_the_round(
    as_root: None, shared: Path, start: Callable[..., Any]
) -> None:
    """Another user's private, full folder in replies/ cannot be emptied nor removed: mail goes on beside it."""
    with Mailbox.init("alice", shared / "mail"):
        folder = shared / "mail/alice/replies" / names.new_id()
        folder.mkdir(0o700)
        (folder / "x").write_text("")
    for path, folders, files in os.walk(shared / "mail"):
        for name in [path, *(os.path.join(path, name) for name in (*folders, *files))]:
            os.chown(name, 2001, 2001, follow_symlinks=False)
    os.chmod(shared / "mail/alice/replies", 0o3733)
    os.chown(folder, 2002, 2002)
    with Mailbox("alice", shared / "mail") as stranger:
        stranger.send("alice", "good")
    reader = start(
        "import os, sys; from filemailbox import Mailbox, consumer, replies\nimport filelock, asyncio, logging\n"
        "box = Mailbox('alice', sys.argv[1]); os.setgroups([]); os.setgid(2001); os.setuid(2001)\n"
        "print(box.receive(timeout=10).body, flush=True)",
        shared / "mail",
    )

    assert reader.line() == "good"
    assert reader.end() == 0


def test_answers_that_are_too_large_are_not_read(root: Path, box: str) -> None:
    """The limit of a box holds for answers as well."""
    request = names.new_id()
    with replies.Reply(box, request) as asking:
        (root / "alice/replies" / request / "big.json").write_text("x" * 100)
        (root / "alice/replies" / request / "small.json").write_text("x" * 99)
        found = [(name, len(data)) for name, data, _ in asking.answers(99)]

    assert found == [("small.json", 99)]


@pytest.mark.parametrize("step", ["mkdir", "fchmod", "open"])
def test_a_folder_that_cannot_be_made_leaves_nothing_locked(
    root: Path, box: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """An error on the way in is told, and the next sweep clears up what was made."""
    real = getattr(os, step)

    def failing(path: str | int, *arguments: Any, **options: Any) -> Any:
        if "/replies/" in (os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else str(path)):
            raise OSError(5, "broken")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, step, failing)
    asking = replies.Reply(box, names.new_id())
    with pytest.raises(OSError, match="broken"):
        asking.__enter__()
    monkeypatch.undo()
    sweep(box)

    assert os.listdir(root / "alice/replies") == []
    assert [name for name in os.listdir(root / "alice/cur") if name.startswith(".")] == []
