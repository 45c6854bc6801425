"""Hostile volumes: a container owns its own, and puts anything in the place of anything. Others' mail goes on."""

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox.format.address import parse_address
from filemailbox.relay import outbox
from filemailbox.relay import relay as relays
from filemailbox.relay.inbox import Inbox
from filemailbox.relay.outbox import Incomplete, Outbox
from filemailbox.relay.policy import Agent
from filemailbox.store.box import create_box
from filemailbox.store.ids import new_id
from filemailbox.store.root import init_root
from support.relayed import OPEN, Post

Open = Callable[..., Post]
SECRET = "the secret of the host"  # noqa: S105  # a text to look for


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Open]:
    """post(*agents): agents with volumes of their own, and a relay. mallory's is the hostile one."""
    opened: list[Post] = []

    def open_(*agents: str, **options: Any) -> Post:
        place = tmp_path / f"post{len(opened)}"
        place.mkdir()
        (place / "secret.json").write_text(json.dumps({"to": "mallory", "body": SECRET}))
        opened.append(Post(place, *(agents or ("alice", "bob", "mallory")), **options))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()


def goes_on(office: Post) -> None:
    """Mail between two others is carried as ever."""
    office.box("alice").send("bob", "as ever")
    office.turn()

    assert office.got("bob") == ["as ever"]
    assert office.left("alice") == []
    assert office.relay.trouble is None
    assert office.is_sound()


def everything(place: Path) -> str:
    """All that can be read anywhere in the volumes."""
    text = ""
    for folder, _, files in os.walk(place):
        for name in files:
            path = Path(folder, name)
            facts = path.lstat()
            if "audit" not in path.parts and stat.S_ISREG(facts.st_mode) and path != place / "secret.json":
                text += path.read_text(errors="replace") if facts.st_size < 1 << 20 else ""
    return text


def link(path: Path, office: Post) -> None:
    path.symlink_to(office.place / "secret.json")


def link_to_a_folder(path: Path, office: Post) -> None:
    path.symlink_to(office.place)


def fifo(path: Path, office: Post) -> None:
    os.mkfifo(path)


def bell(path: Path, office: Post) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        folder = os.open(path.parent, os.O_PATH)
        bound.bind(f"/proc/self/fd/{folder}/bell")
        os.close(folder)
    path.with_name("bell").rename(path)


def device(path: Path, office: Post) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device needs root")


def folder(path: Path, office: Post) -> None:
    path.mkdir()


def full_folder(path: Path, office: Post) -> None:
    path.mkdir()
    (path / "x").write_text("x")


def hard_link(path: Path, office: Post) -> None:
    other = office.folder("mallory", "ledger") / "other"
    other.write_text('{"to":"bob","body":1}')
    os.link(other, path)


def huge(path: Path, office: Post) -> None:
    path.touch()
    os.truncate(path, 8 << 40)


def text(data: bytes) -> Callable[[Path, Post], None]:
    def write(path: Path, office: Post) -> None:
        path.write_bytes(data)

    return write


def locked(path: Path, office: Post) -> None:
    path.write_text('{"to":"bob","body":1}')
    path.chmod(0)


PLANTED = [
    pytest.param(link, "it is a symbolic link", id="a-link-to-a-secret"),
    pytest.param(link_to_a_folder, "it is a symbolic link", id="a-link-to-a-folder"),
    pytest.param(fifo, "it is a FIFO", id="a-fifo"),
    pytest.param(bell, "it is a socket", id="a-socket"),
    pytest.param(device, "it is a device", id="a-device"),
    pytest.param(folder, "it is a folder", id="a-folder"),
    pytest.param(full_folder, None, id="a-folder-with-something-in-it"),
    pytest.param(hard_link, "it has 2 links", id="a-hard-link"),
    pytest.param(huge, "is the limit", id="eight-terabytes-of-nothing"),
    pytest.param(text(b""), "it is empty", id="an-empty-file"),
    pytest.param(text(b"\xff\xfe{\0}\0"), "not JSON", id="not-utf-8"),
    pytest.param(text(b"[" * 100_000), "not JSON", id="a-bomb"),
    pytest.param(text(b'{"to":"bob","body":' + b"[" * 500 + b"]" * 500 + b"}"), "nested deeper", id="too-deep"),
    pytest.param(text(b'{"to":["bob"],"body":1}'), '"to" is an array', id="a-recipient-that-is-a-list"),
    pytest.param(text(b'{"to":"../alice","body":1}'), "there is no agent", id="a-recipient-that-is-a-path"),
    pytest.param(text(b'{"to":"bob\\u0000","body":1}'), "there is no agent", id="a-recipient-with-a-nul"),
    pytest.param(text(b'{"to":"' + b"x" * 100_000 + b'","body":1}'), "there is no agent", id="an-endless-recipient"),
    pytest.param(text(b'{"to":"bob","type":"' + b"\\u001b[2J" * 9000 + b'","body":1}'), "", id="a-type-that-paints"),
    pytest.param(text(b'{"from":"alice","to":"bob","body":1}'), "from the volume of mallory", id="a-forged-sender"),
    pytest.param(text(b'{"from":"","to":"bob","body":1}'), "from the volume of mallory", id="an-empty-sender"),
    pytest.param(text(b'{"to":"bob","in_reply_to":"../../../alice/alice/new","body":1}'), "", id="an-answer-to-a-path"),
    pytest.param(text(b'{"to":"team:../x","body":1}'), "there is no group", id="a-group-that-is-a-path"),
    pytest.param(locked, "", id="a-mode-that-keeps-others-out"),
]

NAMES = [
    pytest.param("x.json", id="a-foreign-name"),
    pytest.param("20261124T014530.123456789Z-3f9c0a12b4d5.json", id="a-name-of-ours"),
    pytest.param("\udcff\x1b[2J\n.json", id="a-name-that-paints"),
    pytest.param("x" * 250 + ".json", id="a-long-name"),
]


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not whole is given up at once."""
    monkeypatch.setattr(outbox, "INCOMPLETE_GRACE", 0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("plant", "why"), PLANTED)
def test_whatever_lies_in_an_outbox(
    post: Open, no_patience: None, plant: Callable[[Path, Post], None], why: str | None, name: str
) -> None:
    """It is carried if it is mail, comes back if it is not, is taken away if it holds nothing; and stops nobody."""
    office = post()
    plant(office.folder("mallory", "outbox") / name, office)
    office.turn()
    office.turn()

    assert SECRET not in everything(office.place)
    assert office.left("alice", "new") == []
    if why is None:
        assert office.left("mallory") == [name]
        assert office.events() == ["refuse"]
    elif why:
        assert office.left("mallory") == []
        assert office.left("bob", "new") == []
        assert why in "".join(office.back("mallory"))
    assert "\x1b" not in (office.audit / "00000001.jsonl").read_text()
    office.got("bob")
    goes_on(office)


FOLDERS = ["outbox", "dead", "tmp", "new", "replies", "run", "."]


def elsewhere(path: Path, office: Post) -> None:
    """A link to the same folder of another agent."""
    box, folder = office.folder("alice", "."), path.name
    path.symlink_to(box / folder if folder != "mallory" else box)


def nothing(path: Path, office: Post) -> None:
    pass


def a_file(path: Path, office: Post) -> None:
    path.write_text("not a folder")


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("plant", [elsewhere, link, fifo, nothing, a_file], ids=lambda plant: plant.__name__)
def test_whatever_lies_in_the_place_of_a_folder(post: Open, name: str, plant: Callable[[Path, Post], None]) -> None:
    """Nothing is read from, written to, or rung where a link leads. Mallory's mail waits until she mends it."""
    office = post()
    office.box("alice")
    path = office.folder("mallory", name) if name != "." else office.place / "mallory" / "mallory"
    kept = office.place / "kept"
    alices = office.drop("alice", "hers.json", '{"to":"nobody","body":1}')
    os.rename(path, kept)
    plant(path, office)
    office.box("bob").send("mallory", "for her")
    before = sorted(os.listdir(office.folder("alice", "new")))
    office.turn()
    office.turn()

    assert sorted(os.listdir(office.folder("alice", "new"))) == before
    assert office.left("alice", "tmp") == []
    assert not alices.exists()
    assert [each["from"] for each in office.records("refuse")] == ["alice"]
    goes_on(office)
    path.unlink(missing_ok=True)
    os.rename(kept, path)
    office.turn()
    assert office.got("mallory") == ["for her"]


def test_a_folder_is_exchanged_while_mail_is_carried(post: Open) -> None:
    """Again and again, between a folder and a link to another agent's: nothing of hers ever lands there."""
    office = post()
    outbox, new = office.folder("mallory", "outbox"), office.folder("mallory", "new")
    for number in range(60):
        for path, real in ((outbox, "outbox"), (new, "new")):
            if number % 2:
                os.rename(path, f"{path}.kept")
                path.symlink_to(office.folder("alice", real))
            elif path.is_symlink():
                path.unlink()
                os.rename(f"{path}.kept", path)
        office.box("bob").send("mallory", number)
        office.turn()

    assert office.left("alice", "new") == []
    for path in (outbox, new):
        if path.is_symlink():
            path.unlink()
            os.rename(f"{path}.kept", path)
    office.turn()
    assert office.got("mallory") == list(range(60))


def test_a_name_that_is_staged_is_taken(post: Open) -> None:
    """A recipient who plants something under the name of what is about to come harms herself alone."""
    office = post()
    for number, plant in enumerate([link, fifo, full_folder, text(b"junk")]):
        id = new_id()
        data = json.dumps({"id": id, "to": "mallory", "body": number})
        name = f"{id},S={len(data)},F=alice.json"
        plant(office.folder("mallory", "tmp") / name, office)
        office.drop("alice", f"{id},S={len(data)}.json", data)
    office.turn()

    assert SECRET not in everything(office.place)
    assert (office.place / "secret.json").read_text() == json.dumps({"to": "mallory", "body": SECRET})
    assert office.got("mallory") == [0, 1]
    office.box("bob").send("alice", "as ever")
    office.turn()
    assert office.got("alice") == ["as ever"]
    for planted in office.folder("mallory", "tmp").iterdir():
        if planted.is_dir():
            shutil.rmtree(planted)
    office.turn()
    assert office.got("mallory") == [2, 3]


def test_what_a_recipient_does_to_staged_mail_harms_only_her(post: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted or replaced between the record and the rename: it counts as delivered, to her and nobody else."""
    office = post()
    office.box("alice").send("mallory", 1)
    real = Inbox.deliver

    def meddle(self: Inbox, name: str, answers: str | None) -> None:
        (office.folder("mallory", "tmp") / name).unlink()
        real(self, name, answers)

    monkeypatch.setattr(Inbox, "deliver", meddle)
    office.turn()
    monkeypatch.undo()

    assert office.events() == ["accept"]
    assert office.left("alice") == []
    goes_on(office)


def test_an_answer_goes_through_no_link(post: Open) -> None:
    """The folder of a request is the recipient's to make: through one that leads elsewhere nothing goes."""
    office = post()
    request = new_id()
    (office.folder("mallory", "replies") / request).symlink_to(office.folder("alice", "new"))
    office.drop("bob", "x.json", json.dumps({"to": "mallory", "in_reply_to": request, "body": 1}))
    office.turn()

    assert office.left("alice", "new") == []
    assert office.got("mallory") == [1]


def test_a_link_that_is_taken_away_before_it_is_counted_is_not_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the policy says no uid, nothing else tells that it is not the agent's: its name must be the only one."""
    volume = init_root(tmp_path / "alice")
    create_box(volume, parse_address("alice"), outbox=True)
    data = b'{"to":"bob","body":"secret"}'
    (tmp_path / "secret").write_bytes(data)
    path = tmp_path / f"alice/alice/outbox/{new_id()},S={len(data)}.json"
    os.link(tmp_path / "secret", path)
    outbox, real = Outbox(Agent(parse_address("alice"), str(tmp_path / "alice"))), os.fstat
    outbox.open()

    def late(file: int) -> os.stat_result:
        if path.exists() and os.path.samestat(real(file), path.stat()):
            file = os.dup(file)
            path.unlink()
            path.write_bytes(data.replace(b"secret", b"public"))
            try:
                return real(file)
            finally:
                os.close(file)
        return real(file)

    monkeypatch.setattr(os, "fstat", late)
    with pytest.raises(Incomplete):
        outbox.read(path.name)
    monkeypatch.undo()
    outbox.close()


def test_an_answer_goes_into_no_folder_of_a_stranger(as_root: None, post: Open) -> None:
    """Who shares the recipient's volume can make the folder of a request, too: the answer goes to new/ then."""
    office = post()
    request = new_id()
    trap = office.folder("mallory", "replies") / request
    trap.mkdir()
    os.chown(trap, 2999, 2999)
    trap.chmod(0o777)
    office.drop("bob", "x.json", json.dumps({"to": "mallory", "in_reply_to": request, "body": 1}))
    office.turn()

    assert os.listdir(trap) == []
    assert office.got("mallory") == [1]


def test_the_bells_of_no_other_place_are_rung(post: Open, tmp_path: Path) -> None:
    """`run/` is hers: a link there, or a link as a bell, makes the relay ring nobody."""
    office = post()
    place = tmp_path / "elsewhere"
    place.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(os.path.relpath(place / "bell"))
        other.setblocking(False)
        run = office.folder("mallory", "run")
        (run / "bell").symlink_to(place / "bell")
        office.box("alice").send("mallory", 1)
        office.turn()
        shutil.rmtree(run)
        run.symlink_to(place)
        office.box("alice").send("mallory", 2)
        office.turn()

        with pytest.raises(BlockingIOError):
            other.recv(1)
    assert len(office.left("mallory", "new")) == 2


def test_a_file_that_its_owner_holds_back_waits(post: Open) -> None:
    """A lease would make open(2) wait for 45 seconds: it is asked not to."""
    office = post()
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # what its owner is told by
    path = office.drop("mallory", "x.json", '{"to":"bob","body":1}')
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        os.close(file)
        pytest.skip("no leases on this file system")
    office.turn()
    assert office.left("mallory") == ["x.json"]
    goes_on(office)
    os.close(file)
    signal.signal(signal.SIGIO, before)
    office.turn()

    assert office.got("bob") == [1]


def test_what_is_still_being_written_waits(post: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a message is left alone until it is whole, or has been still for a while."""
    office = post()
    path = office.drop("alice", "slow.json", '{"to":"bob","bo')
    office.turn()
    assert office.left("alice") == ["slow.json"]
    path.write_text('{"to":"bob","body":1}')
    office.turn()
    assert office.got("bob") == [1]
    office.drop("alice", "never.json", '{"to":"bob","bo')
    office.turn()
    monkeypatch.setattr(outbox, "INCOMPLETE_GRACE", 0.0)
    office.turn()

    assert office.left("alice") == []
    assert "not JSON" in office.back("alice")[0]


def test_a_flood_is_not_the_others_wait(post: Open) -> None:
    """Thousands of messages in one outbox: another agent's mail is carried with the first batch."""
    office = post(limits='rate = "none"\n')
    outbox = office.folder("mallory", "outbox")
    for number in range(3000):
        (outbox / f"{number}.json").write_text('{"to":"mallory","body":0}')
    office.box("alice").send("bob", "quick")
    seen: list[int] = []
    real = office.relay._carry

    def carry(cases: list[relays.Transfer]) -> None:
        real(cases)
        seen.append(len(office.left("bob", "new")))

    office.relay._carry = carry  # type: ignore[method-assign]
    office.turn()

    assert seen[0] == 1
    assert len(seen) >= 3000 // relays.BATCH


def test_of_a_flooded_outbox_only_so_much_is_looked_at(post: Open) -> None:
    """A quota of files: what is more waits until the others have gone."""
    office = post(limits="outbox = 50\n")
    outbox = office.folder("mallory", "outbox")
    for number in range(200):
        (outbox / f".{number}").write_text("dotfiles are nobody's")
        (outbox / f"{number}").write_text("neither is this")
    station = office.relay.stations[next(name for name in office.relay.stations if name == "mallory")]
    goes_on(office)

    assert len(station.queue) == 0
    assert station.outbox.list(50) == []


def test_a_thing_that_can_not_go_is_told_of_once(post: Open, no_patience: None) -> None:
    """Nor does it fill the audit log: it is looked at again now and then, in silence."""
    office = post()
    full_folder(office.folder("mallory", "outbox") / "x.json", office)
    shutil.rmtree(office.folder("mallory", "dead"))
    office.drop("mallory", "y.json", '{"to":"nobody","body":1}')
    for _ in range(5):
        office.turn()

    assert sorted(office.events()) == ["refuse", "refuse"]
    assert len(office.left("mallory")) == 2
    goes_on(office)


def test_a_full_volume_puts_off_mail_for_that_agent_only(
    post: Open, mount: Callable[..., Path], tmp_path: Path
) -> None:
    """ENOSPC in a recipient's volume: nothing half written is left, and the mail arrives when there is room."""
    volume = mount(tmp_path / "small", "size=400k")
    office = post("alice", "bob")
    office.agents = ("alice", "bob", "mallory")
    office.place.joinpath("mallory").symlink_to(volume)  # the operator may name a volume by a link
    office.make("mallory")
    office.relay.reload()
    office.box("alice").send("mallory", "x" * 300_000)
    office.box("alice").send("mallory", "y" * 300_000)
    office.turn()
    office.turn()
    assert len(office.left("mallory", "new")) == 1
    assert office.left("mallory", "tmp") == []
    assert "no space left" in office.records("defer")[0]["why"]
    goes_on_for = office.box("bob").send("alice", 1)
    office.turn()
    assert office.records("accept")[-1]["id"] == goes_on_for
    assert office.got("mallory") == ["x" * 300_000]
    office.turn()

    assert office.got("mallory") == ["y" * 300_000]
    assert office.left("alice") == []


def test_our_own_trouble_condemns_no_mail(post: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files: everything waits, nothing comes back."""
    office = post()
    office.box("alice").send("bob", 1)
    real = os.open

    def none_left(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(".json") or str(path).startswith("/proc/self/fd"):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", none_left)
        office.turn()
    assert office.back("alice") == []
    assert office.relay.trouble is not None
    office.relay.trouble.until = 0
    office.turn()

    assert office.got("bob") == [1]


def test_a_reason_is_written_through_no_link(post: Open) -> None:
    """A `.why` is a new file, or none: what she has put in its place is hers alone."""
    office = post()
    id = new_id()
    data = json.dumps({"id": id, "to": "nobody", "body": 1})
    target = office.place / "target"
    target.write_text("untouched")
    (office.folder("mallory", "dead") / f"{id},S={len(data)},B=1.why").symlink_to(target)
    office.drop("mallory", f"{id},S={len(data)}.json", data)
    office.turn()

    assert target.read_text() == "untouched"
    assert office.back("mallory") == ['the relay did not carry it to nobody: there is no agent "nobody"']


def test_the_owner_of_a_box_must_be_the_agent(post: Open, as_root: None) -> None:
    """A volume that has come to belong to somebody else is not served."""
    office = post()
    os.chown(office.place / "mallory" / "mallory", 4711, 4711)
    office.extra = f"uid = {os.geteuid()}\n"
    office.relay.reload()
    office.drop("mallory", "x.json", '{"to":"bob","body":1}')
    office.box("bob").send("mallory", 1)
    office.turn()

    assert office.left("bob", "new") == []
    assert "it belongs to the uid 4711" in office.records("defer")[0]["why"]
    goes_on(office)


def test_rules_hold_for_whoever_shares_nothing(post: Open) -> None:
    """Mallory may write to nobody: whatever she does, nothing of hers arrives anywhere."""
    office = post(rules=f'{OPEN}[[deny]]\nfrom = "mallory"\nto = "*"\n')
    for number, to in enumerate(("alice", "bob", "mallory", "all", "team:x", "")):
        office.drop("mallory", f"{number}.json", json.dumps({"to": to, "from": "mallory", "body": number}))
        office.drop("mallory", f"{number}b.json", json.dumps({"to": to, "from": "alice", "body": number}))
    office.turn()

    assert office.left("alice", "new") == office.left("bob", "new") == office.left("mallory", "new") == []
    assert office.records("accept") == []
    assert len(office.records("refuse")) == 12
