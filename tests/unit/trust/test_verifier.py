"""What proves who sent a message, and what becomes of mail that proves less than it claims."""

import errno
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import InsecureKeyFileError, InvalidRequestError, KeyNotFoundError, Mailbox, Message, StorageError
from filemailbox.format.address import parse_address
from filemailbox.format.envelope import encode
from filemailbox.store.box import create_box
from filemailbox.store.ids import new_id
from filemailbox.store.root import Root, find_root, init_root, set_marker
from filemailbox.trust import owners, seal
from filemailbox.trust.key_files import PrivateKeys
from filemailbox.trust.verifier import Verifier
from support.uids import Actor, act
from unit.format.test_vectors import vectors

ALICE, BOB, MALLORY = 2001, 2002, 2003


def take(box: Mailbox) -> Message[Any]:
    message = box.receive()
    assert message is not None
    return message


def problems(box: Mailbox) -> list[str]:
    return [message.problem or "" for message in box.peek("dead")]


# A fact of the kernel


@pytest.fixture
def volume(as_root: None, shared: Path) -> Path:
    """A root with a uid each."""
    root = init_root(shared / "mail")
    for name, uid in (("alice", ALICE), ("bob", BOB), ("mallory", MALLORY)):
        create_box(root.box(parse_address(name)), (uid, uid))
    return shared / "mail"


@pytest.fixture
def bob(volume: Path) -> Iterator[Mailbox]:
    with Mailbox("bob", volume, durable=False) as box:
        yield box


def drop(volume: Path, members: dict[str, Any], uid: int, gid: int = BOB, box: str = "bob") -> Path:
    """A file in a box, as one of that uid would have put it there: setgid gives it the group of the box."""
    draft = volume / box / "tmp" / "draft"
    draft.write_text(json.dumps({"from": "alice", "to": "bob", "body": 1} | members))
    os.chown(draft, uid, gid)
    draft.chmod(0o640)
    place = volume / box / "new" / f"{new_id()}.json"
    draft.rename(place)
    return place


@pytest.mark.parametrize("members", [{}, {"to": None}], ids=["addressed", "to nobody"])
def test_the_owner_of_the_sender_s_box_is_the_sender(volume: Path, bob: Mailbox, members: dict[str, Any]) -> None:
    """A fact of the kernel: it is `uid`, taken or only looked at."""
    drop(volume, members, ALICE)
    (seen,) = bob.peek()

    assert (seen.trust, take(bob).trust) == ("uid", "uid")


@pytest.mark.parametrize(
    ("members", "uid", "gid"),
    [
        ({}, MALLORY, BOB),
        ({"from": "mallory"}, ALICE, BOB),
        ({"from": "nobody"}, ALICE, BOB),
        ({"from": None}, ALICE, BOB),
        ({}, 0, BOB),
        ({}, ALICE, MALLORY),
        ({"to": "mallory"}, ALICE, BOB),
        ({"to": "bob "}, ALICE, BOB),
    ],
    ids=[
        "of another uid",
        "in another name",
        "of nobody here",
        "of nobody",
        "of root",
        "of another group: it lay elsewhere",
        "to another",
        "to no address",
    ],
)
def test_what_is_not_all_fact_is_no_proof(
    volume: Path, bob: Mailbox, members: dict[str, Any], uid: int, gid: int
) -> None:
    """Then the message says so itself."""
    drop(volume, members, uid, gid)

    assert take(bob).trust == "none"


def test_mail_that_an_attacker_got_and_handed_on_is_no_proof(volume: Path, bob: Mailbox) -> None:
    """Alice wrote it, to mallory, who moves it into bob's box: its group tells, and its `to`."""
    lay = drop(volume, {"to": "mallory"}, ALICE, MALLORY, "mallory")
    lay.rename(volume / "bob/new" / lay.name)
    other = drop(volume, {"to": None}, ALICE, MALLORY, "mallory")
    other.rename(volume / "bob/new" / other.name)

    assert [take(bob).trust, take(bob).trust] == ["none", "none"]


def test_mail_to_nobody_proves_nothing_where_boxes_share_a_group(volume: Path, bob: Mailbox) -> None:
    """It could have lain in the other box."""
    for path in (volume / "mallory", volume / "bob"):
        os.chown(path, -1, 3000)
        os.chown(path / "new", -1, 3000)
        (path / "new").chmod(0o3733)
    drop(volume, {"to": None}, ALICE, 3000)
    drop(volume, {"to": "bob"}, ALICE, 3000)

    assert [take(bob).trust, take(bob).trust] == ["none", "uid"]


def test_a_uid_of_two_agents_proves_neither(volume: Path, bob: Mailbox) -> None:
    """Either can have written it."""
    create_box(find_root(volume).box(parse_address("carol")), (ALICE, ALICE))
    drop(volume, {}, ALICE)

    assert take(bob).trust == "none"


@pytest.mark.parametrize("change", ["anybody can write the root", "an agent owns the root"])
def test_a_root_that_agents_can_change_proves_nothing(volume: Path, bob: Mailbox, change: str) -> None:
    """They could put a box of theirs in another one's place."""
    if change.startswith("anybody"):
        volume.chmod(0o777)
    else:
        os.chown(volume, MALLORY, MALLORY)
    drop(volume, {}, ALICE)

    assert take(bob).trust == "none"


def test_a_box_that_is_only_a_link_has_no_owner(volume: Path, bob: Mailbox) -> None:
    """Whoever can make one would be whom it leads to."""
    (volume / "carol").symlink_to(volume / "alice")
    drop(volume, {"from": "carol"}, ALICE)
    drop(volume, {"from": "alice"}, ALICE)

    assert [take(bob).trust, take(bob).trust] == ["none", "uid"]


def test_the_kernel_s_word_survives_a_retry(volume: Path, bob: Mailbox) -> None:
    """The file stays the same one."""
    drop(volume, {}, ALICE)
    take(bob).retry(0)

    assert take(bob).trust == "uid"


# A file that others may write


def test_what_another_has_written_over_is_not_from_its_owner(volume: Path, bob: Mailbox) -> None:
    """Alice's umask is 0: mallory opens her file, and puts his words into it. It is still hers, and no proof."""

    def careless() -> None:
        os.umask(0)
        (volume / "bob/new/pay.json").write_text('{"from":"alice","to":"bob","body":"pay carol"}')

    def forge() -> None:
        with open(volume / "bob/new/pay.json", "r+") as file:
            file.write('{"from":"alice","to":"bob","body":"pay me!!!"}')

    act(Actor("alice", ALICE), careless)
    act(Actor("mallory", MALLORY), forge)
    (seen,) = bob.peek()
    taken = take(bob)

    assert (taken.body, taken.sender) == ("pay me!!!", "alice")
    assert (seen.trust, taken.trust) == ("none", "none")


@pytest.mark.parametrize(
    ("mode", "trust"),
    [(0o600, "uid"), (0o640, "uid"), (0o644, "uid"), (0o660, "none"), (0o642, "none"), (0o666, "none")],
    ids=lambda value: f"{value:04o}" if isinstance(value, int) else value,
)
def test_only_a_file_that_its_owner_alone_may_write_is_a_proof(
    volume: Path, bob: Mailbox, mode: int, trust: str
) -> None:
    """Of its sender, and of the relay."""
    set_marker(find_root(volume), "relay", RELAY)
    drop(volume, {}, ALICE).chmod(mode)
    by_owner = take(bob).trust
    carry(volume, "carol", RELAY, **{"from": "carol"})
    next((volume / "bob/new").iterdir()).chmod(mode)
    by_relay = take(bob).trust

    assert (by_owner, by_relay) == (trust, "relay" if trust == "uid" else "none")


def test_an_entry_of_an_access_control_list_opens_a_file_as_its_mode_does(volume: Path, bob: Mailbox) -> None:
    """What a named user may write shows in the bits of the group: they are the mask of the list."""
    path = drop(volume, {}, ALICE)
    entries = [(0x01, 6, -1), (0x02, 6, MALLORY), (0x04, 4, -1), (0x10, 6, -1), (0x20, 0, -1)]
    listed = b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + listed)
    except OSError as error:
        pytest.skip(f"this file system has no access control lists: {error}")

    assert take(bob).trust == "none"


# Whose boxes there are


def test_all_boxes_of_a_process_look_at_the_owners_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand boxes cost a thousand looks a second, and not each of them a thousand."""
    boxes, asked, real = 300, [0], os.lstat

    def counting(path: Any, **how: Any) -> os.stat_result:
        asked[0] += 1
        return real(path, **how)

    root = init_root(tmp_path / "mail")
    agents = [parse_address(f"agent-{n}") for n in range(boxes)]
    for name in agents:
        os.makedirs(f"{root.path}/{name}/new")
    data, facts = b'{"from":"agent-7","body":1}', os.stat(root.path)
    now = [1e9]
    verifiers = [Verifier(root.box(name), clock=lambda: now[0]) for name in agents]
    monkeypatch.setattr(os, "lstat", counting)
    for _ in range(2):
        for verifier in verifiers:
            verifier.verify(data, facts, "x.json")
    first = asked[0]
    now[0] = 2e9
    for verifier in verifiers:
        verifier.verify(data, facts, "x.json")

    assert 0 < first <= 2 * boxes
    assert first < asked[0] <= 4 * boxes  # a second later once more


def test_another_owner_is_known_a_second_later(volume: Path) -> None:
    """A box is given to another uid: from then on that is its agent."""
    now = [1e9]
    verifier = Verifier(find_root(volume).box(parse_address("bob")), clock=lambda: now[0])

    def trust() -> str:
        path = drop(volume, {}, MALLORY)
        return verifier.verify(path.read_bytes(), path.stat(), path.name)[1]

    before = trust()
    shutil.rmtree(volume / "mallory")
    os.chown(volume / "alice", MALLORY, MALLORY)
    now[0] += 2

    assert (before, trust()) == ("none", "uid")


def test_a_box_that_goes_while_we_look_costs_the_others_no_proof(
    volume: Path, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was listed, and is gone: that is no trouble."""
    real = Root.boxes
    monkeypatch.setattr(Root, "boxes", lambda root: [*real(root), parse_address("gone")])
    drop(volume, {}, ALICE)

    assert take(bob).trust == "uid"


def test_trouble_of_our_own_condemns_no_mail(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptors are left to look at the boxes with: mail that must be proven waits, and is no dead letter."""
    drop(volume, {}, ALICE)
    real = Root.boxes

    def failing(root: Root) -> Any:
        raise OSError(errno.EMFILE, "too many open files")

    with Mailbox("bob", volume, min_trust="uid") as bob:
        monkeypatch.setattr(Root, "boxes", failing)
        with pytest.raises(StorageError, match="reading the owners of the boxes"):
            bob.receive()
        monkeypatch.setattr(Root, "boxes", real)

        assert (take(bob).trust, problems(bob)) == ("uid", [])


def test_a_uid_that_stands_for_all_strangers_is_nobody(
    volume: Path, bob: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a user namespace, all who are outside of it seem to be one: any of them could be alice."""
    monkeypatch.setattr(owners, "overflow_uid", lambda: ALICE)
    drop(volume, {}, ALICE)

    assert take(bob).trust == "none"


# The relay


RELAY = 3000


def carry(volume: Path, origin: str, uid: int = RELAY, **members: Any) -> None:
    """A file as a relay leaves it in bob's box."""
    lay = drop(volume, members, uid)
    lay.rename(lay.with_name(f"{new_id()},S={lay.stat().st_size},F={origin}.json"))


def test_the_relay_s_word_is_its_file(volume: Path, bob: Mailbox) -> None:
    """Its uid stands in the marker of the root; `F=` names the sender, also where the message does not."""
    set_marker(find_root(volume), "relay", RELAY)
    carry(volume, "carol", RELAY, **{"from": "carol"})
    carry(volume, "carol", RELAY, **{"from": None})
    (seen, *_) = bob.peek()
    first, second = take(bob), take(bob)
    second.retry(0)
    again = take(bob)

    assert [(each.sender, each.trust) for each in (seen, first, second, again)] == [("carol", "relay")] * 4


@pytest.mark.parametrize(
    ("uid", "marker", "members"),
    [
        (RELAY, None, {"from": "carol"}),
        (RELAY, True, {"from": "carol"}),
        (MALLORY, RELAY, {"from": "carol"}),
        (MALLORY, MALLORY, {"from": "carol"}),
        (RELAY, RELAY, {"from": "alice"}),
        (RELAY, RELAY, {"from": "carol", "to": "mallory"}),
    ],
    ids=["no relay", "no uid", "another uid", "an agent's uid", "another name inside", "to another"],
)
def test_others_cannot_speak_as_the_relay(
    volume: Path, bob: Mailbox, uid: int, marker: Any, members: dict[str, Any]
) -> None:
    """`F=` in a name is anybody's to write."""
    if marker is not None:
        set_marker(find_root(volume), "relay", marker)
    carry(volume, "carol", uid, **members)

    assert take(bob).trust == "none"


# Keys


@pytest.fixture
def keys(root: Path, tmp_path: Path) -> Callable[[str], PrivateKeys]:
    """keys(NAME): the keys of an agent, pinned by bob."""

    def make(name: str) -> PrivateKeys:
        own = PrivateKeys.generate(f"{tmp_path}/{name}/{name}.key", parse_address(name))
        with Mailbox("bob", root, key_dir=tmp_path / "bob") as bob:
            bob.keyring.pin(own.public)
        return own

    PrivateKeys.generate(f"{tmp_path}/bob/bob.key", parse_address("bob"))
    return make


@pytest.fixture
def alice(root: Path, tmp_path: Path, keys: Callable[[str], PrivateKeys]) -> Iterator[Mailbox]:
    keys("alice")
    with Mailbox("alice", root, durable=False, key_dir=tmp_path / "alice") as box:
        box.keyring.pin(PrivateKeys.load(f"{tmp_path}/bob/bob.key").public)
        yield box


@pytest.fixture
def robert(root: Path, tmp_path: Path, alice: Mailbox) -> Iterator[Mailbox]:
    """Bob, who has a key and knows that of alice."""
    with Mailbox("bob", root, durable=False, key_dir=tmp_path / "bob") as box:
        yield box


def new(root: Path, box: str = "bob") -> Path:
    (file,) = (root / box / "new").glob("*.json")
    return file


def test_unsigned_mail_of_a_pinned_name_is_refused(root: Path, alice: Mailbox, robert: Mailbox) -> None:
    """Anybody can have written it; and mail of those without a pin is as before."""
    alice.send("bob", "pay me", sign=False)
    Mailbox("carol", root).send("bob", "hello")

    assert take(robert).sender == "carol"
    assert robert.receive() is None
    assert problems(robert) == ['it is not signed, and a key of "alice" is pinned']


def test_a_signature_that_was_cut_off_is_no_way_down(root: Path, alice: Mailbox, robert: Mailbox) -> None:
    """Without it the message is unsigned mail of a pinned name."""
    alice.send("bob", "pay me", sign=True)
    file = new(root)
    members = json.loads(file.read_text())
    del members["sig"]
    file.unlink()
    (root / "bob/new/x.json").write_text(json.dumps(members))

    assert robert.receive() is None
    assert "it is not signed" in problems(robert)[0]


@pytest.mark.parametrize("how", ["seal", "sign"])
@pytest.mark.parametrize("renamed", [False, True], ids=["its own name", "another name"])
def test_a_replay_is_acked_and_not_handled(
    root: Path, alice: Mailbox, robert: Mailbox, how: str, renamed: bool
) -> None:
    """The ledger knows it by the id inside, whatever the file is called."""
    alice.send("bob", "pay me", **{how: True})  # type: ignore[arg-type]
    file = new(root)
    kept = shutil.copy(file, root / "kept")
    take(robert).ack()
    shutil.move(kept, root / "bob/new" / ("again.json" if renamed else file.name))

    assert robert.wait(0) is False
    assert robert.receive() is None
    assert list(robert.peek("new", "later", "cur", "dead")) == []


def test_a_replay_is_known_when_the_sender_s_box_is_gone(root: Path, alice: Mailbox, robert: Mailbox) -> None:
    """And when it comes again: what proves alice is her key, and not a folder."""
    alice.send("bob", "pay me", sign=True)
    kept = shutil.copy(new(root), root / "kept")
    shutil.move(root / "alice", root / ".away")
    take(robert).ack()
    shutil.move(root / ".away", root / "alice")
    shutil.copy(kept, root / "bob/new/once more.json")

    assert robert.receive() is None
    shutil.move(root / "alice", root / ".away")
    shutil.copy(kept, root / "bob/new/and again.json")

    assert robert.receive() is None
    assert list(robert.peek("new", "later", "cur", "dead")) == []


def test_the_proven_without_a_box_cannot_use_up_each_other_s_keys(
    root: Path, robert: Mailbox, keys: Callable[[str], PrivateKeys]
) -> None:
    """Strangers share a page of the ledger; whoever has a pin has one alone."""
    for name in ("carol", "dave"):
        own = keys(name)
        line = encode(new_id(), name, "bob", "pay me", {"idempotency_key": "invoice-7"}, 1)
        (root / "bob/new" / f"{name}.json").write_bytes(seal.signed(line, own.public.signing_key, own.sign))
        with take(robert) as message:
            assert (message.sender, message.trust) == (name, "signed")


def test_a_copy_before_the_first_was_handled_is_handled_once(root: Path, alice: Mailbox, robert: Mailbox) -> None:
    """One after the other, that is: two in hand at one moment may both run."""
    alice.send("bob", "pay me", sign=True)
    shutil.copy(new(root), root / "bob/new/copy.json")
    with take(robert):
        pass

    assert robert.receive() is None
    assert list(robert.peek("new", "later", "cur", "dead")) == []


def test_a_key_counts_instead_of_the_id(alice: Mailbox, robert: Mailbox) -> None:
    """Sent again under the same key, sealed mail is handled once."""
    for _ in range(2):
        alice.send("bob", "pay me", seal=True, idempotency_key="invoice-7")
    take(robert).ack()

    assert robert.receive() is None


def test_the_same_key_of_the_unproven_is_another(root: Path, alice: Mailbox, robert: Mailbox) -> None:
    """A stranger cannot use up the keys of the proven."""
    Mailbox("mallory", root).send("bob", "x", idempotency_key="invoice-7")
    take(robert).ack()
    alice.send("bob", "pay me", sign=True, idempotency_key="invoice-7")

    assert take(robert).body == "pay me"


@pytest.mark.parametrize("how", ["seal", "sign"])
def test_mail_to_somebody_else_is_refused(
    root: Path, alice: Mailbox, robert: Mailbox, keys: Callable[[str], PrivateKeys], how: str
) -> None:
    """Who got it can put it into another box: it is addressed, and proven, to one."""
    Mailbox.init("carol", root).close()
    alice.keyring.pin(keys("carol").public)
    alice.send("carol", "you are fired", **{how: True})  # type: ignore[arg-type]
    new(root, "carol").rename(root / "bob/new/x.json")

    assert robert.receive() is None
    assert 'it is for "carol", and this is the box "bob"' in problems(robert)[0]


def test_sealed_mail_waits_for_the_key_if_the_box_never_had_one(root: Path, alice: Mailbox, tmp_path: Path) -> None:
    """Sealed mail stops nobody who has no key, and is no dead letter: what is behind it is received."""
    alice.send("bob", "secret", seal=True)
    alice.send("bob", "plain", sign=False)
    with Mailbox("bob", root) as blind:
        (seen, _) = blind.peek("new")
        plain = take(blind)
        plain.ack()
        bodies = [plain.body, blind.receive()]
        (left,) = blind.peek("new", "later", "cur", "dead")
    (path,) = (root / "bob/later").iterdir()
    path.rename(root / "bob/new" / path.name.partition("~")[2])
    with Mailbox("bob", root, key_dir=tmp_path / "bob") as bob:
        opened = take(bob)

    assert (seen.body, seen.sender, seen.to, seen.trust) == (None, "alice", "bob", "none")
    assert bodies == ["plain", None]
    assert (left.state, left.attempt) == ("later", 1)
    assert (opened.body, opened.attempt) == ("secret", 1)


@pytest.mark.parametrize("how", ["seal", "sign"])
def test_a_consumer_that_lacks_the_key_of_its_box_stops(
    root: Path, alice: Mailbox, robert: Mailbox, tmp_path: Path, how: str
) -> None:
    """The box had a key: so our configuration is wrong, and the mail is left as it was."""
    alice.send("bob", "first")
    take(robert).ack()  # a consumer with a key
    alice.send("bob", "secret", **{how: True})  # type: ignore[arg-type]
    with Mailbox("bob", root) as blind:
        for _ in range(2):
            with pytest.raises(KeyNotFoundError) as caught:
                blind.receive()
        left = [(message.state, message.attempt) for message in blind.peek("new", "later", "cur", "dead")]

    found = robert.receive(timeout=60)

    assert "MAILBOX_KEY_DIR" in (caught.value.hint or "")
    assert left == [("later", 1)]
    assert found is not None
    assert (found.body, found.attempt) == ("secret", 1)


def test_a_sealed_message_of_a_stranger_is_refused(root: Path, alice: Mailbox, robert: Mailbox) -> None:
    """It opens, but nothing says who sealed it."""
    robert.keyring.unpin(parse_address("alice"))
    alice.send("bob", "secret", seal=True)

    assert robert.receive() is None
    assert problems(robert) == ['no key of "alice" is pinned']


def test_trouble_with_our_own_keys_condemns_no_mail(root: Path, alice: Mailbox, robert: Mailbox) -> None:
    """A pin that cannot be read is our fault: it is told, and the mail stays."""
    alice.send("bob", "secret", seal=True)
    pin = root.parent / "bob/pins/alice.pub"
    content = pin.read_bytes()
    pin.write_bytes(b"?")
    with pytest.raises(InsecureKeyFileError, match="holds no keys"):
        robert.receive()
    pin.write_bytes(content)

    assert take(robert).body == "secret"


def test_a_type_inside_a_seal_chooses_the_handler(alice: Mailbox, robert: Mailbox) -> None:
    """And what no handler wants stays where it is."""
    got = []
    robert.on("job")(lambda message: got.append(message.body))
    alice.send("bob", 1, seal=True, type="job")
    alice.send("bob", 2, seal=True, type="other")
    robert.run(drain=True)

    assert got == [1]
    assert [message.body for message in robert.peek()] == [2]


def test_a_leased_message_is_settled_with_its_proof(alice: Mailbox, robert: Mailbox, root: Path) -> None:
    """By another process: it is noted as handled all the same."""
    id = alice.send("bob", "pay me", sign=True)
    kept = shutil.copy(new(root), root / "kept")
    keys = robert.keyring.folder
    with Mailbox("bob", root, key_dir=keys, lease=60) as taker:
        take(taker)
    with Mailbox("bob", root, key_dir=keys) as settler, settler.leased(id) as message:
        message.ack()
    shutil.move(kept, root / "bob/new/again.json")

    assert message.trust == "signed"
    assert robert.receive() is None


@pytest.mark.parametrize("forged", ["unsigned", "another question", "replayed"])
def test_a_false_answer_is_none(root: Path, alice: Mailbox, robert: Mailbox, forged: str) -> None:
    """Where the key of the answerer is pinned, only his own word for this very question counts."""
    if forged == "replayed":
        robert.send("alice", "yes", sign=True, in_reply_to=new_id())
    with alice._pending_request(new_id(), "bob") as asking:
        folder = root / "alice/replies" / asking.request
        if forged == "unsigned":
            robert.send("alice", "yes", sign=False, in_reply_to=asking.request)
        else:
            robert.send("alice", "yes", sign=True, in_reply_to=new_id())
            new_one = next((root / "alice/new").glob("*.json"))
            new_one.rename(folder / new_one.name)
        found = alice._take_reply(asking, None)

    assert found is None


# What is sent where a key of ours is at hand


def how(file: Path) -> str:
    members = json.loads(file.read_text())
    return "sealed" if "sealed" in members else "signed" if "sig" in members else "plain"


def test_mail_of_an_agent_that_has_a_key_is_no_dead_letter(alice: Mailbox, robert: Mailbox) -> None:
    """Bob has pinned alice. She says nothing of signing, by send(), to many, in a batch or as a request."""
    alice.send("bob", 1)
    alice.send("all", 2)
    alice.send_many("bob", [3, 4])
    with pytest.raises(TimeoutError):
        alice.request("bob", 5, timeout=0)
    taken = [(message.body, message.trust) for message in iter(robert.receive, None)]

    assert taken == [(n, "signed") for n in (1, 2, 3, 4, 5)]
    assert problems(robert) == []


def test_an_agent_without_a_key_sends_as_ever(root: Path, tmp_path: Path, alice: Mailbox) -> None:
    """Its folder has pins, or only the keys of another: nothing is signed, nothing is missing."""
    with Mailbox("carol", root, key_dir=tmp_path / "alice") as carol:
        carol.send("bob", "hello")

    assert how(new(root)) == "plain"


@pytest.mark.parametrize(
    ("settings", "environment", "options", "expected"),
    [
        ({}, {}, {}, "signed"),
        ({}, {}, {"sign": False}, "plain"),
        ({}, {}, {"seal": True}, "sealed"),
        ({}, {"MAILBOX_SIGN": "0"}, {}, "plain"),
        ({}, {"MAILBOX_SIGN": "no"}, {"sign": True}, "signed"),
        ({}, {"MAILBOX_SEAL": "1"}, {}, "sealed"),
        ({}, {"MAILBOX_SEAL": "yes"}, {"seal": False}, "plain"),
        ({}, {"MAILBOX_SEAL": "0"}, {}, "signed"),
        ({"seal": True}, {"MAILBOX_SEAL": "0"}, {}, "sealed"),
        ({"sign": False}, {}, {}, "plain"),
        ({"sign": False}, {"MAILBOX_SEAL": "1"}, {}, "sealed"),
        ({"min_trust": "sealed"}, {}, {}, "sealed"),
        ({"min_trust": "sealed", "seal": False}, {}, {}, "signed"),
        ({"min_trust": "signed", "sign": False}, {}, {}, "plain"),
    ],
    ids=str,
)
def test_a_call_counts_before_a_setting_and_that_before_the_environment(
    root: Path,
    tmp_path: Path,
    alice: Mailbox,
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
    environment: dict[str, str],
    options: Any,
    expected: str,
) -> None:
    """MAILBOX_SEAL and MAILBOX_SIGN are 1 or 0; without either it is signed."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Mailbox("alice", root, key_dir=tmp_path / "alice", **settings) as box:
        box.send("bob", "hello", **options)

    assert how(new(root)) == expected


def test_a_switch_that_is_none_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once."""
    monkeypatch.setenv("MAILBOX_SIGN", "maybe")
    with pytest.raises(InvalidRequestError, match='MAILBOX_SIGN is "maybe", expected 1 or 0'):
        Mailbox("bob", root)


def test_all_is_sealed_or_refused(root: Path, tmp_path: Path, alice: Mailbox) -> None:
    """Where that was asked for, and no key of the recipient is known: nothing is sent, and it says what to do."""
    Mailbox.init("carol", root).close()
    without = pytest.raises(KeyNotFoundError, match='no key of "carol" is pinned')
    with Mailbox("alice", root, key_dir=tmp_path / "alice", seal=True) as box, without:
        box.send("carol", "hello")

    assert list((root / "carol/new").iterdir()) == []


def test_a_key_that_cannot_be_used_sends_nothing_unsigned(root: Path, tmp_path: Path, alice: Mailbox) -> None:
    """As another user's, or open to others: the message would be a dead letter, so it is refused here."""
    (tmp_path / "alice/alice.key").chmod(0o644)
    with (
        Mailbox("alice", root, key_dir=tmp_path / "alice") as box,
        pytest.raises(InsecureKeyFileError, match="others can read it"),
    ):
        box.send("bob", "hello")

    assert list((root / "bob/new").iterdir()) == []


def test_without_a_folder_of_keys_nothing_is_looked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signing by default costs those who have no keys no system call."""
    with Mailbox("alice", root, durable=False) as alice:
        alice.send("bob", 1)
        asked: list[str] = []

        def counting(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(path: Any, **options: Any) -> Any:
                asked.append(str(path))
                return real(path, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("lstat", "stat"):
                patch.setattr(os, name, counting(getattr(os, name)))
            alice.send("bob", 2)

    assert set(asked) <= {str(root / "bob")}  # root asks for the owner of the box


# What a box takes


@pytest.mark.parametrize("require", ["none", "uid", "relay", "signed", "sealed"])
def test_a_box_takes_what_it_requires_or_better(root: Path, alice: Mailbox, robert: Mailbox, require: str) -> None:
    """The rest becomes dead letters, with the reason."""
    Mailbox("carol", root).send("bob", "none")
    alice.send("bob", "signed", sign=True)
    alice.send("bob", "sealed", seal=True)
    with Mailbox("bob", root, key_dir=robert.keyring.folder, min_trust=require) as bob:
        taken = []
        while (message := bob.receive()) is not None:
            taken.append(message.trust)
            message.ack()
        reasons = problems(bob)

    assert taken == {"none": ["none", "signed", "sealed"], "sealed": ["sealed"]}.get(require, ["signed", "sealed"])
    assert len(reasons) + len(taken) == 3
    assert all(require in reason for reason in reasons)


def test_an_unknown_proof_is_refused(root: Path) -> None:
    """At once, not at the first message."""
    with pytest.raises(
        InvalidRequestError, match='min_trust= is "secret", expected one of none, uid, relay, signed, sealed'
    ):
        Mailbox("bob", root, min_trust="secret")


@pytest.mark.parametrize("require", ["signed", "sealed"])
def test_a_proof_by_keys_needs_keys(root: Path, require: str) -> None:
    """Else all mail would become dead letters."""
    with pytest.raises(InvalidRequestError, match="no keys are known: all mail would be refused"):
        Mailbox("bob", root, min_trust=require)


def test_a_full_ledger_is_told_and_stops_nothing(
    alice: Mailbox, robert: Mailbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk never stops the settling; that a replay would pass is said."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    alice.send("bob", 1, sign=True)
    message = take(robert)
    monkeypatch.setattr("filemailbox.store.ledger.Ledger.record", full)
    message.ack()

    assert "sent again, it would be handled again" in caplog.text
    assert robert.receive() is None


# The format's vectors


@vectors("trust")
def test_a_file_proves_its_sender_so(as_root: None, shared: Path, vector: Any) -> None:
    """trust.json, `trust`."""
    volume, top, file = shared / "mail", vector["root"], vector["file"]
    root = init_root(volume)
    for name, owner in vector["boxes"].items():
        create_box(root.box(parse_address(name)), (owner["uid"], owner["gid"]))
    if "relay" in top:
        set_marker(root, "relay", top["relay"])
    volume.chmod(int(top["mode"], 8))
    os.chown(volume, top["uid"], top["uid"])
    data = json.dumps(vector["message"])
    path = volume / "bob/new" / file.get("name", "x.json").replace("{size}", str(len(data)))
    path.write_text(data)
    os.chown(path, file["uid"], file["gid"])
    path.chmod(int(file["mode"], 8))
    with Mailbox("bob", volume, durable=False) as bob:
        (seen,) = bob.peek()
        taken = take(bob)

    assert (seen.trust, taken.trust) == (vector["trust"], vector["trust"])
