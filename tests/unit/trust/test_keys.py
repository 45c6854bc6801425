"""Keys and pins: where they may lie, whose they are, and that a changed one is never taken."""

import copy
import json
import os
import pickle
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from filemailbox import InsecureKeyFileError, KeyChangedError, KeyNotFoundError, Mailbox, Message
from filemailbox.format.address import parse_address
from filemailbox.store.root import find_root
from filemailbox.trust.key_files import PrivateKeys, PublicKeys
from filemailbox.trust.keyring import Keyring

ALICE, BOB = parse_address("alice"), parse_address("bob")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Bob's private folder, with his key in it."""
    path = tmp_path / "keys"
    PrivateKeys.generate(f"{path}/bob.key", BOB)
    return path


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    path = tmp_path / "registry"
    path.mkdir()
    return path


def ring(folder: Path | None, registry: Path | None = None) -> Keyring:
    return Keyring(BOB, None, str(folder) if folder else None, str(registry) if registry else None)


def somebody(name: str = "alice") -> PublicKeys:
    """The public keys of an agent whose private ones nobody has."""
    return fresh(name).public


def fresh(name: str = "alice") -> PrivateKeys:
    return PrivateKeys(parse_address(name), os.urandom(32), (os.urandom(32),))


# Our own


def test_what_was_generated_is_loaded_again(folder: Path) -> None:
    """The same identity; a file of mode 0600 in a folder of mode 0700."""
    first, again = PrivateKeys.load(f"{folder}/bob.key"), PrivateKeys.load(f"{folder}/bob.key")

    assert first.public == again.public
    assert [oct(path.stat().st_mode & 0o777) for path in (folder, folder / "bob.key")] == ["0o700", "0o600"]


def test_two_generated_are_two(tmp_path: Path) -> None:
    """No key is ever made twice."""
    made = [PrivateKeys.generate(f"{tmp_path}/{n}.key", BOB).public for n in range(2)]

    assert (
        len({public.signing_key for public in made} | {box for public in made for box in public.encryption_keys}) == 4
    )


def test_keys_that_are_there_are_not_replaced(folder: Path) -> None:
    """Not by accident: mail that was sealed to them would be lost."""
    before = (folder / "bob.key").read_bytes()
    with pytest.raises(InsecureKeyFileError, match=r"exists already"):
        PrivateKeys.generate(f"{folder}/bob.key", BOB)

    assert (folder / "bob.key").read_bytes() == before


def test_a_rotation_keeps_the_identity_and_the_older_box_keys(folder: Path) -> None:
    """The new one comes first; it is what is on the disk."""
    before = PrivateKeys.load(f"{folder}/bob.key")
    after = before.rotate(f"{folder}/bob.key")

    assert after.public == PrivateKeys.load(f"{folder}/bob.key").public
    assert after.public.signing_key == before.public.signing_key
    assert after.public.encryption_keys[1:] == before.public.encryption_keys
    assert os.listdir(folder) == ["bob.key"]


def test_a_rotation_is_seen_by_who_runs_already(folder: Path) -> None:
    """A listener is not started anew for it."""
    keyring = ring(folder)
    before = keyring.own().public
    PrivateKeys.load(f"{folder}/bob.key").rotate(f"{folder}/bob.key")

    assert keyring.own().public.encryption_keys[1:] == before.encryption_keys


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604, 0o610], ids=oct)
def test_a_private_key_that_others_can_touch_is_refused(folder: Path, mode: int) -> None:
    """Its mode is told, and what to do."""
    (folder / "bob.key").chmod(mode)

    with pytest.raises(InsecureKeyFileError, match=rf"has the mode {mode:04o}: others can read it"):
        PrivateKeys.load(f"{folder}/bob.key")


def test_a_private_key_that_can_only_be_read_is_fine(folder: Path) -> None:
    """As secrets are mounted."""
    (folder / "bob.key").chmod(0o400)

    assert PrivateKeys.load(f"{folder}/bob.key").agent == BOB


def test_a_private_key_of_another_user_is_refused(as_root: None, folder: Path) -> None:
    """He can read it."""
    os.chown(folder / "bob.key", 4242, 4242)

    with pytest.raises(InsecureKeyFileError, match="belongs to the uid 4242, expected 0"):
        PrivateKeys.load(f"{folder}/bob.key")


@pytest.mark.parametrize("where", ["", "bob/", "bob/run/", "elsewhere/"], ids=["root", "box", "in a box", "new folder"])
def test_no_private_key_lies_on_the_mail_volume(root: Path, where: str) -> None:
    """Neither made nor read there; and nothing is left of the attempt."""
    path = root / where / "bob.key"
    before = sorted(root.rglob("*"))
    with pytest.raises(InsecureKeyFileError, match="is on a mail volume"):
        PrivateKeys.generate(str(path), BOB, find_root(root))

    assert sorted(root.rglob("*")) == before


def test_a_link_to_the_mail_volume_is_no_way_around(root: Path, tmp_path: Path) -> None:
    """What counts is where it really lies."""
    (tmp_path / "keys").symlink_to(root / "bob")

    with pytest.raises(InsecureKeyFileError, match="is on a mail volume"):
        PrivateKeys.generate(f"{tmp_path}/keys/bob.key", BOB, find_root(root))


def test_a_box_that_is_mounted_elsewhere_is_the_mail_volume(as_root: None, root: Path, tmp_path: Path) -> None:
    """As a container does that mounts its box alone."""
    alone = tmp_path / "alone"
    alone.mkdir()
    if subprocess.run(["mount", "--bind", root / "bob", alone], check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting needs root and the right to mount")
    try:
        with pytest.raises(InsecureKeyFileError, match="is on a mail volume"):
            PrivateKeys.generate(f"{alone}/bob.key", BOB, find_root(root))
    finally:
        subprocess.run(["umount", alone], check=True)


def test_a_volume_that_was_not_named_is_known_by_its_marker(root: Path) -> None:
    """Keys are often made where MAILBOX_ROOT is not set."""
    with pytest.raises(InsecureKeyFileError, match="is on a mail volume"):
        PrivateKeys.generate(f"{root}/keys/bob.key", BOB)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no keys"),
        (b"{}", "holds no keys"),
        (b'{"v":true}', "holds no keys"),
        (b'{"v":2,"agent":"bob"}', "holds no keys"),
        (b'{"v":1,"agent":"bob","signing_key":"","encryption_keys":[]}', "holds public keys, expected private ones"),
        (b'{"v":1,"agent":"bob","signing_seed":"AAAA","encryption_keys":[]}', "holds no encryption key"),
        (
            b'{"v":1,"agent":"bob","signing_seed":"AAAA","encryption_keys":["AAAA"]}',
            "holds a malformed key: expected 32 bytes in base64",
        ),
        (b'{"v":1,"agent":"bob","signing_seed":"AAAA","encryption_keys":[7]}', "holds a malformed key"),
        (
            b'{"v":1,"agent":"Bob!","signing_seed":"%s","encryption_keys":["%s"]}' % ((b"A" * 43 + b"=",) * 2),
            "names no owner",
        ),
    ],
    ids=["empty", "object", "true", "version", "public", "no box", "short", "number", "name"],
)
def test_what_is_no_private_key_is_told(folder: Path, content: bytes, said: str) -> None:
    """And what the file holds is not shown."""
    (folder / "bob.key").write_bytes(content)

    with pytest.raises(InsecureKeyFileError, match=said):
        PrivateKeys.load(f"{folder}/bob.key")


def test_a_missing_key_is_told(folder: Path) -> None:
    """With the verb that makes it."""
    (folder / "bob.key").unlink()

    with pytest.raises(KeyNotFoundError, match=r"there is no private key "):
        ring(folder).own()


def test_what_is_no_file_is_no_key(folder: Path) -> None:
    """And nothing waits for the other end of a FIFO."""
    (folder / "bob.key").unlink()
    os.mkfifo(folder / "bob.key", 0o600)

    with pytest.raises(InsecureKeyFileError, match="is not a regular file"):
        ring(folder).own()


def test_the_key_of_another_agent_is_not_ours(folder: Path) -> None:
    """A file under a wrong name would sign for somebody else."""
    PrivateKeys.generate(f"{folder}/alice.key", ALICE)
    os.rename(folder / "alice.key", folder / "bob.key")

    with pytest.raises(InsecureKeyFileError, match='holds the keys of "alice", not of "bob"'):
        ring(folder).own()


def test_private_keys_are_neither_pickled_nor_copied(folder: Path) -> None:
    """They stay in the process that read them."""
    own = PrivateKeys.load(f"{folder}/bob.key")

    for escape in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="private keys cannot be pickled"):
            escape(own)


# Others


def test_public_keys_are_a_line_that_is_read_again() -> None:
    """What `keys show` prints is what `keys pin` reads."""
    public = somebody()

    assert PublicKeys.read(public.line(), "x") == public
    assert public.line().count(b"\n") == 1
    assert hash(PublicKeys.read(public.line(), "x")) == hash(public)


LOW = [
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize("low", LOW, ids=[each.hex()[:8] for each in LOW])
@pytest.mark.parametrize("which", ["box", "identity"])
def test_keys_of_low_order_are_refused(low: bytes, which: str) -> None:
    """What is sealed to them anybody can read; what they sign anybody can have signed."""
    public = somebody()
    weak = (
        PublicKeys(ALICE, low, public.encryption_keys)
        if which == "identity"
        else PublicKeys(ALICE, public.signing_key, (low,))
    )

    with pytest.raises(InsecureKeyFileError, match="a key that protects nothing"):
        PublicKeys.read(weak.line(), "x")


def test_a_private_key_is_not_pinned_by_mistake(folder: Path) -> None:
    """It would lie about where more can read it."""
    with pytest.raises(InsecureKeyFileError, match="holds a private key: give what `mailbox keys show` prints"):
        PublicKeys.read((folder / "bob.key").read_bytes(), "x")


def test_what_was_pinned_is_known(folder: Path) -> None:
    """Now, and to the next process; pinned again, nothing changes."""
    public, keyring = somebody(), ring(folder)

    assert keyring.pin(public) is True
    assert keyring.pin(public) is False
    assert ring(folder).pinned("alice") == public
    assert [(known, where) for known, where in ring(folder).known()] == [(public, f"{folder}/pins")]


@pytest.mark.parametrize("change", ["identity", "box"])
def test_a_changed_key_always_fails(folder: Path, change: str) -> None:
    """Whatever has changed: it is unpinned by hand first."""
    keyring, first, other = ring(folder), somebody(), somebody()
    keyring.pin(first)
    changed = other if change == "identity" else PublicKeys(ALICE, first.signing_key, other.encryption_keys)
    with pytest.raises(KeyChangedError, match=r"other keys of \"alice\" are pinned"):
        keyring.pin(changed)

    assert keyring.pinned("alice") == first
    keyring.unpin(ALICE)
    assert keyring.pinned("alice") is None
    assert keyring.pin(changed) is True


def test_unpinning_who_is_not_pinned_is_told(folder: Path) -> None:
    """A mistyped name would leave the pin where it is."""
    with pytest.raises(KeyNotFoundError, match='no key of "alice" is pinned in'):
        ring(folder).unpin(ALICE)


def test_the_registry_is_enough(folder: Path, registry: Path) -> None:
    """The operator's word counts as a pin."""
    public = somebody()
    (registry / "alice.pub").write_bytes(public.line())

    assert ring(folder, registry).pinned("alice") == public
    assert ring(None, registry).pinned("alice") == public


def test_registry_and_pins_that_differ_are_an_error(folder: Path, registry: Path) -> None:
    """One of them is wrong, and nobody here can know which."""
    (registry / "alice.pub").write_bytes(somebody().line())
    ring(folder).pin(somebody())

    with pytest.raises(KeyChangedError, match="the registry and the pins hold different keys"):
        ring(folder, registry).pinned("alice")


def test_a_registry_that_the_operator_changes_is_read_anew(folder: Path, registry: Path) -> None:
    """Without a restart."""
    keyring, public = ring(folder, registry), somebody()

    assert keyring.pinned("alice") is None
    (registry / "alice.pub").write_bytes(public.line())
    assert keyring.pinned("alice") == public
    (registry / "alice.pub").unlink()
    assert keyring.pinned("alice") is None


@pytest.mark.parametrize("what", ["file", "folder"])
def test_public_keys_that_others_can_change_prove_nothing(folder: Path, registry: Path, what: str) -> None:
    """Whoever can write them can be anybody."""
    (registry / "alice.pub").write_bytes(somebody().line())
    (registry / "alice.pub" if what == "file" else registry).chmod(0o666 if what == "file" else 0o777)

    with pytest.raises(InsecureKeyFileError, match="can be changed by others"):
        ring(folder, registry).pinned("alice")


def test_public_keys_on_the_mail_volume_prove_nothing(root: Path, folder: Path) -> None:
    """That is where the attacker is."""
    (root / "registry").mkdir()
    (root / "registry/alice.pub").write_bytes(somebody().line())

    with pytest.raises(InsecureKeyFileError, match="is on a mail volume"):
        ring(folder, root / "registry").pinned("alice")


@pytest.mark.parametrize("which", ["folder", "registry"])
def test_a_folder_of_keys_that_is_not_there_is_an_error(folder: Path, tmp_path: Path, which: str) -> None:
    """It was perhaps not mounted; without its pins everybody could be anybody."""
    keyring = ring(tmp_path / "gone") if which == "folder" else ring(folder, tmp_path / "gone")

    with pytest.raises(InsecureKeyFileError, match=r'gone" does not exist'):
        keyring.pinned("alice")


def test_a_pin_that_cannot_be_read_is_an_error(folder: Path) -> None:
    """It must not pass for no pin."""
    ring(folder).pin(somebody())
    (folder / "pins/alice.pub").write_bytes(b"{")

    with pytest.raises(InsecureKeyFileError, match="holds no keys"):
        ring(folder).pinned("alice")


def test_a_pin_under_a_wrong_name_is_an_error(folder: Path) -> None:
    """mallory.pub renamed to alice.pub would make one the other."""
    ring(folder).pin(somebody("mallory"))
    os.rename(folder / "pins/mallory.pub", folder / "pins/alice.pub")

    with pytest.raises(InsecureKeyFileError, match='holds the keys of "mallory", not of "alice"'):
        ring(folder).pinned("alice")


@pytest.mark.parametrize("name", ["../alice", "", "Alice", "a\0b", "x" * 300], ids=ascii)
def test_a_name_that_is_no_address_has_no_pin(folder: Path, name: str) -> None:
    """It is never a path."""
    assert ring(folder).pinned(name) is None


# The whole way


@pytest.fixture
def pair(root: Path, tmp_path: Path) -> tuple[Mailbox, Mailbox]:
    """Alice and bob, each with the other's key."""
    boxes = []
    for name in ("alice", "bob"):
        PrivateKeys.generate(f"{tmp_path}/{name}/{name}.key", parse_address(name))
        boxes.append(Mailbox(name, root, durable=False, key_dir=tmp_path / name))
    alice, bob = boxes
    bob.keyring.pin(alice.keyring.own().public)
    alice.keyring.pin(bob.keyring.own().public)
    return alice, bob


def take(box: Mailbox) -> Message[Any]:
    message = box.receive()
    assert message is not None
    return message


def on_disk(root: Path) -> str:
    (file,) = (root / "bob/new").glob("*.json")
    return file.read_text()


def test_a_sealed_message_arrives_and_shows_nothing(pair: tuple[Mailbox, Mailbox], root: Path) -> None:
    """On the disk stand who, whom and when; in the message all of it."""
    alice, bob = pair
    id = alice.send("bob", {"path": "x.c"}, seal=True, type="job", subject="about x", headers={"a": "b"})
    written = json.loads(on_disk(root))
    with bob, take(bob) as message:
        pass

    assert list(written) == ["v", "id", "from", "to", "sent", "sealed"]
    assert not {"job", "about", "path"} & set(on_disk_words(written))
    assert (message.id, message.sender, message.trust, message.type) == (id, "alice", "sealed", "job")
    assert (message.body, message.subject, message.headers) == ({"path": "x.c"}, "about x", {"a": "b"})


def on_disk_words(written: Any) -> list[str]:
    return json.dumps(written).replace('"', " ").split()


def test_a_signed_message_can_be_read_by_all(pair: tuple[Mailbox, Mailbox], root: Path) -> None:
    """And by one that knows the key it is proven."""
    alice, bob = pair
    alice.send("bob", "hello", sign=True)
    stranger = Mailbox("bob", root)
    seen = next(stranger.peek())
    with bob, take(bob) as message:
        pass

    assert (seen.body, seen.trust) == ("hello", "none")
    assert (message.body, message.trust) == ("hello", "signed")
    assert "sig" not in message.fields


def test_many_are_sealed_and_signed_as_one_is(pair: tuple[Mailbox, Mailbox]) -> None:
    """send_many takes the same options."""
    alice, bob = pair
    alice.send_many("bob", range(3), seal=True)
    alice.send_many("bob", range(3), sign=True)
    with bob:
        found = [(message.body, message.trust) for message in bob.peek()]

    assert found == [(0, "sealed"), (1, "sealed"), (2, "sealed"), (0, "signed"), (1, "signed"), (2, "signed")]


@pytest.mark.parametrize("require", ["signed", "sealed"])
def test_who_requires_a_proof_gives_it(pair: tuple[Mailbox, Mailbox], root: Path, require: str) -> None:
    """Unless a single message says otherwise."""
    alice, bob = pair
    strict = Mailbox("alice", root, durable=False, key_dir=alice.keyring.folder, min_trust=require)
    strict.send("bob", 1)
    strict.send("bob", 2, seal=True)
    strict.send("bob", 3, sign=False, seal=False)

    assert [message.trust for message in bob.peek()] == [require, "sealed", "none"]


def test_an_answer_is_proven_as_the_question_was(pair: tuple[Mailbox, Mailbox]) -> None:
    """In kind, without a word."""
    alice, bob = pair
    with alice, bob:
        for options in ({"seal": True}, {"sign": True}):
            alice.send("bob", "?", **options)  # type: ignore[arg-type]
            with take(bob) as message:
                message.reply("!")
        answers = [message.trust for message in alice.peek()]

    assert answers == ["sealed", "signed"]


def test_an_answer_to_a_request_is_proven(pair: tuple[Mailbox, Mailbox]) -> None:
    """Sealed, as the request was."""
    alice, bob = pair
    bob.on()(lambda message: "!")
    listener = threading.Thread(target=bob.run)
    with alice, bob:
        listener.start()
        answer = alice.request("bob", "?", timeout=20, seal=True)
        bob.stop()
        listener.join()

    assert (answer.body, answer.trust) == ("!", "sealed")


def test_sealing_needs_both_keys(root: Path, pair: tuple[Mailbox, Mailbox]) -> None:
    """Which one is missing is told, and nothing is sent."""
    alice, _ = pair
    Mailbox.init("carol", root).close()
    with pytest.raises(KeyNotFoundError, match='no key of "carol" is pinned'):
        alice.send("carol", "x", seal=True)
    with pytest.raises(KeyNotFoundError, match=r"no folder with carol\.key"):
        Mailbox("carol", root).send("bob", "x", seal=True)

    assert list(Mailbox("carol", root).peek()) == []


def test_what_is_too_large_once_it_is_sealed_is_refused(pair: tuple[Mailbox, Mailbox], root: Path) -> None:
    """The limit is that of the file."""
    alice, _ = pair

    with pytest.raises(ValueError, match="the limit"):
        alice.send("bob", "x" * 900_000, seal=True)
    assert os.listdir(root / "bob/new") == []


def test_mail_to_an_older_box_key_still_opens(pair: tuple[Mailbox, Mailbox]) -> None:
    """Rotating loses nothing that is on its way."""
    alice, bob = pair
    alice.send("bob", "old", seal=True)
    bob.keyring.own().rotate(bob.keyring.path)
    alice.keyring.unpin(BOB)
    alice.keyring.pin(bob.keyring.own().public)
    alice.send("bob", "new", seal=True)

    assert [message.body for message in bob.peek()] == ["old", "new"]
