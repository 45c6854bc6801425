"""Requests that block: a folder of one's own for the answer."""

import itertools
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from filemailbox import BodyTypeError, BoxNotFoundError, Mailbox
from filemailbox.format.address import parse_address
from filemailbox.format.filename import ID_LENGTH, is_id
from filemailbox.store import replies
from filemailbox.store.box import create_box
from filemailbox.store.ids import new_id
from filemailbox.store.removed_boxes import count_mail
from filemailbox.store.root import find_root, init_root, set_marker
from filemailbox.system.files import FOLDER
from support.uids import Actor, act, staying
from support.waiting import Until

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
    assert all(is_id(answer.id) for answer in answers)
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
    """BoxNotFoundError, and the folder for the answer is taken away again."""
    with pytest.raises(BoxNotFoundError):
        alice.request("nobody")

    assert os.listdir(root / "alice/replies") == []


def test_a_request_from_who_has_no_box_is_refused(root: Path, bob: Mailbox) -> None:
    """There is no box that an answer could come to; nothing is sent."""
    with Mailbox("carol", root) as carol, pytest.raises(BoxNotFoundError, match="carol"):
        carol.request("bob")

    assert bob.receive() is None


def test_an_answer_of_another_type_is_ordinary_mail(alice: Mailbox, echo: None) -> None:
    """Mismatch tells the asker; the answer itself is not lost."""
    with pytest.raises(BodyTypeError, match="int"):
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
        (folder / f"{new_id()},S=3.json").write_text("{x}")
        (folder / f"{new_id()},S=999.json").write_text("{}")
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
    request = new_id()
    with replies.PendingRequest(box, request):
        (root / "alice/replies" / request / "x.json").write_text("{}")
        sweep(box)
        kept = os.listdir(root / "alice/replies" / request)

    assert kept == ["x.json"]
    assert os.listdir(root / "alice/new") == ["x.json"]


def test_the_folder_of_a_request_is_a_drop_box(root: Path, box: str) -> None:
    """Others may answer, and neither list nor take the answers of each other."""
    request = new_id()
    before = os.umask(0o077)
    try:
        with replies.PendingRequest(box, request):
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
    path, secrets = root / "alice/replies" / new_id(), tmp_path / "secrets"
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
    request, secrets = new_id(), tmp_path / "secrets"
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
        folder = shared / "mail/alice/replies" / new_id()
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
        "import os, sys; from filemailbox import Mailbox; from filemailbox.receive import receiver as consumer; from "
        "filemailbox.store import replies\nimport filelock, asyncio, logging\n"
        "box = Mailbox('alice', sys.argv[1]); os.setgroups([]); os.setgid(2001); os.setuid(2001)\n"
        "print(box.receive(timeout=10).body, flush=True)",
        shared / "mail",
    )

    assert reader.line() == "good"
    assert reader.end() == 0


def test_answers_that_are_too_large_are_not_read(root: Path, box: str) -> None:
    """The limit of a box holds for answers as well."""
    request = new_id()
    with replies.PendingRequest(box, request) as asking:
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
    asking = replies.PendingRequest(box, new_id())
    with pytest.raises(OSError, match="broken"):
        asking.__enter__()
    monkeypatch.undo()
    sweep(box)

    assert os.listdir(root / "alice/replies") == []
    assert [name for name in os.listdir(root / "alice/cur") if name.startswith(".")] == []


def test_root_who_asks_for_another_changes_nothing_behind_a_link(
    volume: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alice puts a link in the place of the folder that root has just made in her replies/: it is not followed."""
    secrets, request = shared / "secrets", new_id()
    secrets.mkdir(0o700)
    path, real = volume / "alice/replies" / request, os.mkdir

    def made(name: Any, *mode: Any, **options: Any) -> None:
        real(name, *mode, **options)
        if str(name) == str(path):
            path.rename(volume / "alice/aside")
            path.symlink_to(secrets)

    monkeypatch.setattr(os, "mkdir", made)
    with pytest.raises(OSError, match="making a folder for the answer"):
        replies.PendingRequest(f"{volume}/alice", request).__enter__()
    facts = secrets.stat()

    assert (facts.st_uid, facts.st_mode & 0o7777) == (0, 0o700)


# A third who knows the id: from its own copy of a group message, or because it once got one


ALICE, BOB, MALLORY = Actor("alice", 2001), Actor("bob", 2002), Actor("mallory", 2003)


@pytest.fixture
def volume(as_root: None, shared: Path) -> Path:
    """A root with a uid each."""
    root = init_root(shared / "mail")
    for actor in (ALICE, BOB, MALLORY):
        create_box(root.box(parse_address(actor.name)), (actor.uid, actor.uid))
    return shared / "mail"


@pytest.mark.parametrize("what", ["an open folder", "a closed folder", "a link to its own folder"])
def test_an_answer_goes_into_no_folder_that_another_has_made(volume: Path, what: str) -> None:
    """Mallory makes the folder of the request before alice's answer comes: bob's answer goes to new/ all the same."""
    request = new_id()
    trap, own = volume / "alice/replies" / request, volume / "mallory/tmp"

    def lay() -> None:
        if what.startswith("a link"):
            trap.symlink_to(own)
        else:
            trap.mkdir()
            trap.chmod(0o777 if what == "an open folder" else 0o733)

    act(MALLORY, lay)
    act(BOB, lambda: Mailbox("bob", volume).send("alice", "the answer", in_reply_to=request))

    assert [message.body for message in Mailbox("alice", volume).peek()] == ["the answer"]
    assert os.listdir(trap) == []


def test_a_trap_is_in_nobody_s_way(volume: Path) -> None:
    """It cannot be removed by alice; so it is put aside: no lock is made for it, no mail counted in it, mail comes."""
    request = new_id()
    trap = volume / "alice/replies" / request

    def lay() -> None:
        trap.mkdir()
        (trap / "x.json").write_text("{}")
        trap.chmod(0o700)

    def take() -> list[Any]:
        os.chdir("/")
        with Mailbox("alice", volume, durable=False, poll_interval=0.01) as alice:
            alice.send("alice", "good")
            return [getattr(alice.receive(timeout=wait), "body", None) for wait in (5, 0.1)]

    act(MALLORY, lay)
    taken = act(ALICE, take)

    assert taken == ["good", None]
    assert [name for name in os.listdir(volume / "alice/replies") if is_id(name)] == []
    assert count_mail(f"{volume}/alice") == 1  # what was taken went back
    assert [name for name in os.listdir(volume / "alice/cur") if request in name] == []


def test_what_another_has_put_in_the_place_of_a_request_does_not_keep_it_from_asking(volume: Path) -> None:
    """Alice asks once more under the same id, which mallory knows by now."""
    request = new_id()

    def lay() -> None:
        (volume / "alice/replies" / request).mkdir()
        (volume / "alice/replies" / request / "x").write_text("")

    def ask() -> list[int]:
        with replies.PendingRequest(f"{volume}/alice", request):
            facts = (volume / "alice/replies" / request).stat()
        return [facts.st_uid, facts.st_mode & 0o7777]

    act(MALLORY, lay)

    assert act(ALICE, ask) == [ALICE.uid, 0o3733]


def test_an_open_trap_is_emptied(volume: Path) -> None:
    """Answers of older programs may lie in it: what alice can move becomes her ordinary mail."""
    request = new_id()
    trap = volume / "alice/replies" / request

    def lay() -> None:
        os.umask(0)
        trap.mkdir()

    def answer() -> None:
        (trap / "late.json").write_text('{"from":"bob","body":"late"}')

    act(MALLORY, lay)
    act(BOB, answer)
    act(ALICE, lambda: sweep(f"{volume}/alice"))

    assert [message.body for message in Mailbox("alice", volume).peek()] == ["late"]
    assert os.listdir(volume / "alice/replies") == []


def test_a_sweep_takes_a_second_however_much_lies_there(root: Path, box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands where each file takes a tenth of a second: the rest is for the next one."""
    folder = root / "alice/replies" / new_id()
    folder.mkdir()
    for n in range(100):
        (folder / f"{n}.json").write_text("{}")
    clock = itertools.count()
    monkeypatch.setattr(replies, "time", SimpleNamespace(monotonic=lambda: next(clock) / 10))
    sweep(box)
    moved = len(os.listdir(root / "alice/new"))

    assert 0 < moved < 15
    assert len(os.listdir(folder)) == 100 - moved


@pytest.mark.parametrize("by", ["another name", "no name"])
def test_only_who_was_asked_answers(
    root: Path, alice: Mailbox, bob: Mailbox, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Mallory's answer is ordinary mail, and said; bob's is the answer."""
    Mailbox.init("mallory", root).close()

    def answer() -> None:
        request = bob.receive(timeout=20)
        assert request is not None
        with request, Mailbox("mallory", root) as mallory:
            if by == "another name":
                mallory.send("alice", "forged", in_reply_to=request.id)
            else:
                (folder,) = (root / "alice/replies").iterdir()
                (folder / f"{new_id()},S=17.json").write_text('{"body":"forged"}')
            request.reply("genuine")

    thread = threading.Thread(target=answer)
    thread.start()
    said = alice.request("bob", "how much?", timeout=20)
    thread.join()

    assert said.body == "genuine"
    assert [message.body for message in iter(alice.receive, None)] == ["forged"]
    assert "is no answer to" in caplog.text


def test_who_only_says_to_be_who_was_asked_is_not_where_uids_prove(volume: Path) -> None:
    """Mallory writes in bob's name, and is faster."""

    def ask(tell: Callable[[Any], object]) -> None:
        with Mailbox("alice", volume, durable=False) as alice:
            answer = alice.request("bob", "how much?", timeout=20)
            tell([answer.body, answer.trust, [message.body for message in alice.peek("new")]])

    def reply() -> None:
        with Mailbox("bob", volume, durable=False) as bob, bob.receive() as message:  # type: ignore[union-attr]
            message.reply("genuine")

    with staying(ALICE, ask) as asker:
        deadline = time.monotonic() + 20
        while not os.listdir(volume / "bob/new") and time.monotonic() < deadline:
            time.sleep(0.01)
        (request,) = (name[:ID_LENGTH] for name in os.listdir(volume / "bob/new"))
        act(MALLORY, lambda: Mailbox("bob", volume).send("alice", "forged", in_reply_to=request))
        act(BOB, reply)
        heard = asker.hear(25)

    assert heard == ["genuine", "uid", ["forged"]]


def test_of_a_group_its_members_answer(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """And nobody else, who may have got a copy, too."""
    set_marker(find_root(root), "groups", {"reviewers": ["bob", "carol"]})
    for name in ("carol", "mallory"):
        Mailbox.init(name, root).close()

    def answer() -> None:
        request = bob.receive(timeout=20)
        assert request is not None
        with request, Mailbox("mallory", root) as mallory, Mailbox("carol", root) as carol:
            mallory.send("alice", "forged", in_reply_to=request.id)
            carol.send("alice", "looks good", in_reply_to=request.id)

    thread = threading.Thread(target=answer)
    thread.start()
    said = alice.request("team:reviewers", "look", timeout=20)
    thread.join()

    assert (said.sender, said.body) == ("carol", "looks good")
    assert [message.body for message in iter(alice.receive, None)] == ["forged"]


@pytest.mark.parametrize("trust", ["none", "relay"])
def test_where_a_relay_knows_the_members_its_word_counts(
    volume: Path, trust: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who is in the group is not known here: anybody of whom the relay, or a key, says who it is."""
    (volume / "alice/outbox").mkdir()
    set_marker(find_root(volume), "relay", 3000)
    with Mailbox("alice", volume, durable=False) as alice:
        asking = alice._pending_request(new_id(), "team:builders")
        with asking:
            data = json.dumps({"from": "dave", "to": "alice", "body": 1})
            path = volume / "alice/replies" / asking.request / f"{new_id()},S={len(data)},F=dave.json"
            path.write_text(data)
            os.chown(path, 3000 if trust == "relay" else 3001, ALICE.uid)
            path.chmod(0o640)
            answer = alice._take_reply(asking, None)

    assert (answer.trust if answer else "none") == trust
    assert ("is no answer" in caplog.text) == (trust == "none")


def test_what_is_no_answer_is_read_once(root: Path, alice: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand forged ones become mail at the first look; what cannot be moved is not opened again."""
    with alice._pending_request(new_id(), "bob") as asking:
        folder = root / "alice/replies" / asking.request
        for n in range(50):
            data = b'{"from":"mallory","body":%d}' % n
            (folder / f"{new_id()},S={len(data)}.json").write_bytes(data)
            (folder / f"link-{n}.json").symlink_to("x")
        (folder / "stuck.json").symlink_to("x")
        (root / "alice/new/stuck.json").write_text("{}")
        assert alice._take_reply(asking, None) is None
        opened, real = [0], os.open

        def counting(*arguments: Any, **options: Any) -> int:
            opened[0] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(os, "open", counting)
        assert alice._take_reply(asking, None) is None
        monkeypatch.undo()
        left = os.listdir(folder)

    assert (left, opened[0]) == (["stuck.json"], 0)
    assert sum(1 for message in alice.peek("new") if message.sender == "mallory") == 50
