"""Hostile volumes: a container owns its own, and puts anything in the place of anything. Others' mail goes on."""

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox.format.address import parse_address
from filemailbox.relay.batch import DeliveryBatch
from filemailbox.relay.carrier import Incomplete
from filemailbox.relay.inbox import Inbox
from filemailbox.relay.limits import RelayLimits
from filemailbox.relay.outbox import INCOMPLETE_GRACE, Outbox
from filemailbox.relay.policy import Agent
from filemailbox.store.box import create_box
from filemailbox.store.ids import new_id
from filemailbox.store.root import init_root
from support.relayed import OPEN, OpenWorld, RelayWorld

SECRET = "the secret of the host"  # noqa: S105  # a text to look for


@pytest.fixture
def open_hostile(open_world: OpenWorld) -> OpenWorld:
    """open_hostile(*agents): agents with volumes of their own, and a relay. mallory's volume is hostile."""

    def open_(*agents: str, **options: Any) -> RelayWorld:
        world = open_world(*(agents or ("alice", "bob", "mallory")), **options)
        (world.place / "secret.json").write_text(json.dumps({"to": "mallory", "body": SECRET}))
        return world

    return open_


def goes_on(world: RelayWorld) -> None:
    """Mail between two others is carried as ever."""
    world.box("alice").send("bob", "as ever")
    world.turn()

    assert world.got("bob") == ["as ever"]
    assert world.left("alice") == []
    assert world.relay.outage is None
    assert world.is_sound()


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


def link(path: Path, world: RelayWorld) -> None:
    path.symlink_to(world.place / "secret.json")


def link_to_a_folder(path: Path, world: RelayWorld) -> None:
    path.symlink_to(world.place)


def fifo(path: Path, world: RelayWorld) -> None:
    os.mkfifo(path)


def bell(path: Path, world: RelayWorld) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        folder = os.open(path.parent, os.O_PATH)
        bound.bind(f"/proc/self/fd/{folder}/bell")
        os.close(folder)
    path.with_name("bell").rename(path)


def device(path: Path, world: RelayWorld) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device needs root")


def folder(path: Path, world: RelayWorld) -> None:
    path.mkdir()


def full_folder(path: Path, world: RelayWorld) -> None:
    path.mkdir()
    (path / "x").write_text("x")


def hard_link(path: Path, world: RelayWorld) -> None:
    other = world.folder("mallory", "ledger") / "other"
    other.write_text('{"to":"bob","body":1}')
    os.link(other, path)


def huge(path: Path, world: RelayWorld) -> None:
    path.touch()
    os.truncate(path, 8 << 40)


def text(data: bytes) -> Callable[[Path, RelayWorld], None]:
    def write(path: Path, world: RelayWorld) -> None:
        path.write_bytes(data)

    return write


def locked(path: Path, world: RelayWorld) -> None:
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("plant", "why"), PLANTED)
def test_whatever_lies_in_an_outbox(
    open_hostile: OpenWorld, plant: Callable[[Path, RelayWorld], None], why: str | None, name: str
) -> None:
    """It is carried if it is mail, comes back if it is not, is taken away if it holds nothing; and stops nobody."""
    world = open_hostile()
    world.clock.advance_day(INCOMPLETE_GRACE)  # an incomplete file is not mail at once
    plant(world.folder("mallory", "outbox") / name, world)
    world.turn()
    world.turn()

    assert SECRET not in everything(world.place)
    assert world.left("alice", "new") == []
    if why is None:
        assert world.left("mallory") == [name]
        assert world.events() == ["refuse"]
    elif why:
        assert world.left("mallory") == []
        assert world.left("bob", "new") == []
        assert why in "".join(world.back("mallory"))
    assert "\x1b" not in (world.audit / "00000001.jsonl").read_text()
    world.got("bob")
    goes_on(world)


FOLDERS = ["outbox", "dead", "tmp", "new", "replies", "run", "."]


def elsewhere(path: Path, world: RelayWorld) -> None:
    """A link to the same folder of another agent."""
    box, folder = world.folder("alice", "."), path.name
    path.symlink_to(box / folder if folder != "mallory" else box)


def nothing(path: Path, world: RelayWorld) -> None:
    pass


def a_file(path: Path, world: RelayWorld) -> None:
    path.write_text("not a folder")


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("plant", [elsewhere, link, fifo, nothing, a_file], ids=lambda plant: plant.__name__)
def test_whatever_lies_in_the_place_of_a_folder(
    open_hostile: OpenWorld, name: str, plant: Callable[[Path, RelayWorld], None]
) -> None:
    """Nothing is read from, written to, or rung where a link leads. Mallory's mail waits until she mends it."""
    world = open_hostile()
    world.box("alice")
    path = world.folder("mallory", name) if name != "." else world.place / "mallory" / "mallory"
    kept = world.place / "kept"
    alices = world.drop("alice", "hers.json", '{"to":"nobody","body":1}')
    os.rename(path, kept)
    plant(path, world)
    world.box("bob").send("mallory", "for her")
    before = sorted(os.listdir(world.folder("alice", "new")))
    world.turn()
    world.turn()

    assert sorted(os.listdir(world.folder("alice", "new"))) == before
    assert world.left("alice", "tmp") == []
    assert not alices.exists()
    assert [each["from"] for each in world.records("refuse")] == ["alice"]
    goes_on(world)
    path.unlink(missing_ok=True)
    os.rename(kept, path)
    world.turn()
    assert world.got("mallory") == ["for her"]


def test_a_folder_is_exchanged_while_mail_is_carried(open_hostile: OpenWorld) -> None:
    """Again and again, between a folder and a link to another agent's: nothing of hers ever lands there."""
    world = open_hostile()
    outbox, new = world.folder("mallory", "outbox"), world.folder("mallory", "new")
    for number in range(60):
        for path, real in ((outbox, "outbox"), (new, "new")):
            if number % 2:
                os.rename(path, f"{path}.kept")
                path.symlink_to(world.folder("alice", real))
            elif path.is_symlink():
                path.unlink()
                os.rename(f"{path}.kept", path)
        world.box("bob").send("mallory", number)
        world.turn()

    assert world.left("alice", "new") == []
    for path in (outbox, new):
        if path.is_symlink():
            path.unlink()
            os.rename(f"{path}.kept", path)
    world.turn()
    assert world.got("mallory") == list(range(60))


def test_a_name_that_is_staged_is_taken(open_hostile: OpenWorld) -> None:
    """A recipient who plants something under the name of what is about to come harms herself alone."""
    world = open_hostile()
    for number, plant in enumerate([link, fifo, full_folder, text(b"junk")]):
        id = new_id()
        data = json.dumps({"id": id, "to": "mallory", "body": number})
        name = f"{id},S={len(data)},F=alice.json"
        plant(world.folder("mallory", "tmp") / name, world)
        world.drop("alice", f"{id},S={len(data)}.json", data)
    world.turn()

    assert SECRET not in everything(world.place)
    assert (world.place / "secret.json").read_text() == json.dumps({"to": "mallory", "body": SECRET})
    assert world.got("mallory") == [0, 1]
    world.box("bob").send("alice", "as ever")
    world.turn()
    assert world.got("alice") == ["as ever"]
    for planted in world.folder("mallory", "tmp").iterdir():
        if planted.is_dir():
            shutil.rmtree(planted)
    world.turn()
    assert world.got("mallory") == [2, 3]


def test_what_a_recipient_does_to_staged_mail_harms_only_her(
    open_hostile: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted or replaced between the record and the rename: it counts as delivered, to her and nobody else."""
    world = open_hostile()
    world.box("alice").send("mallory", 1)
    real = Inbox.commit

    def meddle(self: Inbox, name: str, in_reply_to: str | None) -> None:
        (world.folder("mallory", "tmp") / name).unlink()
        real(self, name, in_reply_to)

    monkeypatch.setattr(Inbox, "commit", meddle)
    world.turn()
    monkeypatch.undo()

    assert world.events() == ["accept"]
    assert world.left("alice") == []
    goes_on(world)


def test_an_answer_goes_through_no_link(open_hostile: OpenWorld) -> None:
    """The folder of a request is the recipient's to make: through one that leads elsewhere nothing goes."""
    world = open_hostile()
    request = new_id()
    (world.folder("mallory", "replies") / request).symlink_to(world.folder("alice", "new"))
    world.drop("bob", "x.json", json.dumps({"to": "mallory", "in_reply_to": request, "body": 1}))
    world.turn()

    assert world.left("alice", "new") == []
    assert world.got("mallory") == [1]


def test_a_link_that_is_taken_away_before_it_is_counted_is_not_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the policy says no uid, nothing else tells that it is not the agent's: its name must be the only one."""
    volume = init_root(tmp_path / "alice")
    create_box(volume.box(parse_address("alice")), outbox=True)
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


def test_an_answer_goes_into_no_folder_of_a_stranger(as_root: None, open_hostile: OpenWorld) -> None:
    """Who shares the recipient's volume can make the folder of a request, too: the answer goes to new/ then."""
    world = open_hostile()
    request = new_id()
    trap = world.folder("mallory", "replies") / request
    trap.mkdir()
    os.chown(trap, 2999, 2999)
    trap.chmod(0o777)
    world.drop("bob", "x.json", json.dumps({"to": "mallory", "in_reply_to": request, "body": 1}))
    world.turn()

    assert os.listdir(trap) == []
    assert world.got("mallory") == [1]


def test_the_bells_of_no_other_place_are_rung(open_hostile: OpenWorld, tmp_path: Path) -> None:
    """`run/` is hers: a link there, or a link as a bell, makes the relay ring nobody."""
    world = open_hostile()
    place = tmp_path / "elsewhere"
    place.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(os.path.relpath(place / "bell"))
        other.setblocking(False)
        run = world.folder("mallory", "run")
        (run / "bell").symlink_to(place / "bell")
        world.box("alice").send("mallory", 1)
        world.turn()
        shutil.rmtree(run)
        run.symlink_to(place)
        world.box("alice").send("mallory", 2)
        world.turn()

        with pytest.raises(BlockingIOError):
            other.recv(1)
    assert len(world.left("mallory", "new")) == 2


def test_a_file_that_its_owner_holds_back_waits(open_hostile: OpenWorld) -> None:
    """A lease would make open(2) wait for 45 seconds: it is asked not to."""
    world = open_hostile()
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # what its owner is told by
    path = world.drop("mallory", "x.json", '{"to":"bob","body":1}')
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        os.close(file)
        pytest.skip("no leases on this file system")
    world.turn()
    assert world.left("mallory") == ["x.json"]
    goes_on(world)
    os.close(file)
    signal.signal(signal.SIGIO, before)
    world.turn()

    assert world.got("bob") == [1]


def test_what_is_still_being_written_waits(open_hostile: OpenWorld) -> None:
    """Half a message is left alone until it is whole, or has been still for a while."""
    world = open_hostile()
    path = world.drop("alice", "slow.json", '{"to":"bob","bo')
    world.turn()
    assert world.left("alice") == ["slow.json"]
    path.write_text('{"to":"bob","body":1}')
    world.turn()
    assert world.got("bob") == [1]
    world.drop("alice", "never.json", '{"to":"bob","bo')
    world.turn()
    world.clock.advance_day(INCOMPLETE_GRACE)
    world.turn()

    assert world.left("alice") == []
    assert "not JSON" in world.back("alice")[0]


def test_a_flood_is_not_the_others_wait(open_hostile: OpenWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of messages in one outbox: another agent's mail is carried with the first batch."""
    world = open_hostile(limits='rate = "none"\n')
    outbox = world.folder("mallory", "outbox")
    for number in range(3000):
        (outbox / f"{number}.json").write_text('{"to":"mallory","body":0}')
    world.box("alice").send("bob", "quick")
    seen: list[int] = []
    real = DeliveryBatch.ring

    def ring(self: DeliveryBatch) -> None:
        real(self)
        seen.append(len(world.left("bob", "new")))

    monkeypatch.setattr(DeliveryBatch, "ring", ring)
    world.turn()

    assert seen[0] == 1
    assert len(seen) >= 3000 // RelayLimits().batch


def test_of_a_flooded_outbox_only_so_much_is_looked_at(open_hostile: OpenWorld) -> None:
    """A quota of files: what is more waits until the others have gone."""
    world = open_hostile(limits="outbox = 50\n")
    outbox = world.folder("mallory", "outbox")
    for number in range(200):
        (outbox / f".{number}").write_text("dotfiles are nobody's")
        (outbox / f"{number}").write_text("neither is this")
    mallory = world.relay.senders[parse_address("mallory")]
    goes_on(world)

    assert len(mallory.queue) == 0
    assert mallory.source.waiting(50) == []


def test_a_thing_that_can_not_go_is_told_of_once(open_hostile: OpenWorld) -> None:
    """Nor does it fill the audit log: it is looked at again now and then, in silence."""
    world = open_hostile()
    world.clock.advance_day(INCOMPLETE_GRACE)
    full_folder(world.folder("mallory", "outbox") / "x.json", world)
    shutil.rmtree(world.folder("mallory", "dead"))
    world.drop("mallory", "y.json", '{"to":"nobody","body":1}')
    for _ in range(5):
        world.turn()

    assert sorted(world.events()) == ["refuse", "refuse"]
    assert len(world.left("mallory")) == 2
    goes_on(world)


def test_a_full_volume_puts_off_mail_for_that_agent_only(
    open_hostile: OpenWorld, mount: Callable[..., Path], tmp_path: Path
) -> None:
    """ENOSPC in a recipient's volume: nothing half written is left, and the mail arrives when there is room."""
    volume = mount(tmp_path / "small", "size=400k")
    world = open_hostile("alice", "bob")
    world.agents = ("alice", "bob", "mallory")
    world.place.joinpath("mallory").symlink_to(volume)  # the operator may name a volume by a link
    world.make("mallory")
    world.relay.reload()
    world.box("alice").send("mallory", "x" * 300_000)
    world.box("alice").send("mallory", "y" * 300_000)
    world.turn()
    world.turn()
    assert len(world.left("mallory", "new")) == 1
    assert world.left("mallory", "tmp") == []
    assert "no space left" in world.records("defer")[0]["why"]
    goes_on_for = world.box("bob").send("alice", 1)
    world.turn()
    assert world.records("accept")[-1]["id"] == goes_on_for
    assert world.got("mallory") == ["x" * 300_000]
    world.turn()

    assert world.got("mallory") == ["y" * 300_000]
    assert world.left("alice") == []


def test_our_own_trouble_condemns_no_mail(open_hostile: OpenWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files: everything waits, nothing comes back."""
    world = open_hostile()
    world.box("alice").send("bob", 1)
    real = os.open

    def none_left(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(".json") or str(path).startswith("/proc/self/fd"):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", none_left)
        world.turn()
    assert world.back("alice") == []
    assert world.relay.outage is not None
    world.turn()

    assert world.got("bob") == [1]


def test_a_reason_is_written_through_no_link(open_hostile: OpenWorld) -> None:
    """A `.why` is a new file, or none: what she has put in its place is hers alone."""
    world = open_hostile()
    id = new_id()
    data = json.dumps({"id": id, "to": "nobody", "body": 1})
    target = world.place / "target"
    target.write_text("untouched")
    (world.folder("mallory", "dead") / f"{id},S={len(data)},B=1.why").symlink_to(target)
    world.drop("mallory", f"{id},S={len(data)}.json", data)
    world.turn()

    assert target.read_text() == "untouched"
    assert world.back("mallory") == ['the relay did not carry it to nobody: there is no agent "nobody"']


def test_the_owner_of_a_box_must_be_the_agent(open_hostile: OpenWorld, as_root: None) -> None:
    """A volume that has come to belong to somebody else is not served."""
    world = open_hostile()
    os.chown(world.place / "mallory" / "mallory", 4711, 4711)
    world.extra = f"uid = {os.geteuid()}\n"
    world.relay.reload()
    world.drop("mallory", "x.json", '{"to":"bob","body":1}')
    world.box("bob").send("mallory", 1)
    world.turn()

    assert world.left("bob", "new") == []
    assert "it belongs to the uid 4711" in world.records("defer")[0]["why"]
    goes_on(world)


def test_rules_hold_for_whoever_shares_nothing(open_hostile: OpenWorld) -> None:
    """Mallory may write to nobody: whatever she does, nothing of hers arrives anywhere."""
    world = open_hostile(rules=f'{OPEN}[[deny]]\nfrom = "mallory"\nto = "*"\n')
    for number, to in enumerate(("alice", "bob", "mallory", "all", "team:x", "")):
        world.drop("mallory", f"{number}.json", json.dumps({"to": to, "from": "mallory", "body": number}))
        world.drop("mallory", f"{number}b.json", json.dumps({"to": to, "from": "alice", "body": number}))
    world.turn()

    assert world.left("alice", "new") == world.left("bob", "new") == world.left("mallory", "new") == []
    assert world.records("accept") == []
    assert len(world.records("refuse")) == 12
