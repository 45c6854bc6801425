"""Private keys are nowhere in what anybody can see: not in outputs, logs, errors, tracebacks, nor on the mail volume.

All that is said is searched for every private key and what it expands to, in any form that it could slip out in, and
for parts of eight bytes: what is cut short is a leak as well.
"""

import base64
import copy
import errno
import faulthandler
import hashlib
import io
import json
import logging
import os
import pickle
import pprint
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from nacl import bindings

from filemailbox import InsecureKeyFileError, Mailbox
from filemailbox.format.address import Address
from filemailbox.trust import seal
from filemailbox.trust.key_files import PrivateKeys, PublicKeys
from filemailbox.trust.keyring import Keyring
from filemailbox.trust.verifier import Verifier
from support.commands import Said

PART = 8  # bytes


def forms(secret: bytes) -> set[bytes]:
    """What a part of it would look like: raw, and as people and programs write bytes."""
    found: set[bytes] = set()
    for skipped in range(3):  # where in a longer text base64 begins makes three different ones
        for text in (base64.b64encode(bytes(skipped) + secret), base64.urlsafe_b64encode(bytes(skipped) + secret)):
            whole = text[4 if skipped else 0 :].rstrip(b"=")[:-1]  # what only this secret decides
            found |= {whole[i : i + 11] for i in range(len(whole) - 10)}
    for i in range(len(secret) - PART + 1):
        part = secret[i : i + PART]
        found |= {part, part.hex().upper().encode(), *(part.hex(*by).encode() for by in ((), (" ",), (":",)))}
        found |= {part.decode("latin-1").encode(), repr(part)[2:-1].encode(), repr(part).encode()[2:-1]}
        found |= {ascii(part.decode("latin-1"))[1:-1].encode(), json.dumps(part.decode("latin-1"))[1:-1].encode()}
        found |= {", ".join(map(str, part)).encode(), ",".join(map(str, part)).encode()}
    found |= {str(int.from_bytes(secret, order)).encode() for order in ("little", "big")}
    return found


def private(folder: Path) -> list[bytes]:
    """Every private key in files of keys, and what the seeds expand to."""
    secrets: list[bytes] = []
    for path in folder.rglob("*.key"):
        members = json.loads(path.read_bytes())
        seed = base64.b64decode(members["signing_seed"])
        secrets += [seed, hashlib.sha512(seed).digest()[:32], *map(base64.b64decode, members["encryption_keys"])]
    return secrets


class Watch:
    """Collects what was said, and finds secrets in it."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self._known: list[bytes] = []

    def hear(self, text: str | bytes) -> None:
        self.said.append(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)

    def know(self, folder: Path) -> None:
        """What lies there now is secret."""
        self._known += private(folder)

    def found(self) -> list[str]:
        """What was found of the secrets: nothing, it is hoped."""
        assert self._known, "nothing is known to be secret"
        everything = b"\0".join(self.said)
        return sorted({repr(form) for secret in self._known for form in forms(secret) if form in everything})


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def folders(tmp_path: Path, watch: Watch) -> Path:
    """Keys of alice and bob, who know each other: a folder for each."""
    for name in ("alice", "bob"):
        PrivateKeys.generate(f"{tmp_path}/{name}/{name}.key", Address(name))
    for name, other in (("alice", "bob"), ("bob", "alice")):
        ring(tmp_path, name).pin(ring(tmp_path, other).own().public)
    watch.know(tmp_path)
    return tmp_path


def ring(folders: Path, name: str) -> Keyring:
    return Keyring(Address(name), None, f"{folders}/{name}", None)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that anybody logs, down to the least."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(1)
    yield text
    root.setLevel(level)
    root.removeHandler(handler)


def raised(call: Callable[[], object]) -> str:
    """All that can be learnt from the error that this raises: each frame with what it holds, and whatever led to it."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001  # of whatever kind
        return told(error)
    raise AssertionError("nothing was raised")


def told(error: BaseException | None) -> str:
    if error is None:
        return ""
    trace = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    facts = [trace, str(error), repr(error), repr(error.args), repr(vars(error)), f"{error}"]
    return "\n".join([*facts, told(error.__cause__), told(error.__context__)])


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda secret: secret,
    "a part": lambda secret: secret[9:17],
    "hex": lambda secret: secret.hex().encode(),
    "upper hex": lambda secret: secret.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64 in a longer text": lambda secret: base64.b64encode(b"x" + secret + b"yy"),
    "base64 in a still longer text": lambda secret: base64.b64encode(b"xx" + secret),
    "base64 that was cut off": lambda secret: base64.b64encode(secret)[:20],
    "base64 for addresses": base64.urlsafe_b64encode,
    "repr": lambda secret: repr(secret).encode(),
    "ascii": lambda secret: ascii(secret.decode("latin-1")).encode(),
    "a list": lambda secret: repr(list(secret)).encode(),
    "a number": lambda secret: str(int.from_bytes(secret, "little")).encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_search_finds_what_it_should(folders: Path, watch: Watch, form: str) -> None:
    """In the middle of other text; else the other tests here prove nothing."""
    watch.hear("the key is " + ring(folders, "alice").own().public.line().decode())
    assert watch.found() == []

    watch.hear(b"the key is " + FORMS[form](private(folders)[0]) + b", so there")
    assert watch.found() != []


def test_no_command_shows_a_private_key(
    mailbox: Callable[..., Said],
    root: Path,
    folders: Path,
    watch: Watch,
    logged: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every verb of keys, and those that use them, where all goes well and where it does not; nor does the log."""

    def run(name: str, *words: object, stdin: str | bytes = b"") -> Said:
        monkeypatch.setenv("MAILBOX_KEY_DIR", str(folders / name))
        said = mailbox(*words, sender=name, stdin=stdin)
        watch.hear(said.out)
        watch.hear(said.err)
        return said

    def sent(how: str) -> str:
        return run("alice", "send", "bob", "a secret of ours", how).out.strip()

    public, secret = folders / "bob.pub", folders / "alice/alice.key"
    public.write_text(run("bob", "keys", "show").out)
    codes = {
        "generate anew": run("carol", "keys", "generate").code,
        "generate what is there": run("alice", "keys", "generate").code,
        "show": run("alice", "keys", "show").code,
        "show another": run("alice", "keys", "show", "bob").code,
        "show nobody": run("alice", "keys", "show", "nobody").code,
        "list": run("alice", "keys", "list").code,
        "pin what is pinned": run("alice", "keys", "pin", "bob", public).code,
        "pin by pipe": run("carol", "keys", "pin", "bob", stdin=public.read_bytes()).code,
        "pin a private key": run("carol", "keys", "pin", "alice", secret).code,
        "pin a private key by pipe": run("carol", "keys", "pin", "alice", stdin=secret.read_bytes()).code,
        "pin under another name": run("carol", "keys", "pin", "dave", public).code,
        "unpin": run("carol", "keys", "unpin", "bob").code,
        "unpin nobody": run("carol", "keys", "unpin", "bob").code,
    }
    watch.know(folders)
    ids = [sent("--seal"), sent("--sign"), sent("--seal")]
    run("alice", "send", "alice", "x", "--seal")
    codes["seal for one who has no key"] = run("alice", "send", "carol", "x", "--seal").code
    for line in ("list", "list --json", f"read {ids[0]}", f"read {ids[1]} --json", "wait", "status", "doctor"):
        run("bob", *line.split())
    codes["rotate"] = run("bob", "keys", "generate", "--rotate").code
    codes["receive"] = run("bob", "receive", "--json").code
    codes["watch"] = run("bob", "watch", "-n", "1", "--", "sh", "-c", "env; cat; exit 1").code
    codes["watch and require"] = run("bob", "watch", "-n", "1", "--min-trust", "sealed", "--exec", "env; cat").code
    (root / "bob/new/x.json").write_text('{"from":"alice","sealed":{},"body":1}')
    codes["receive what does not open"] = run("bob", "receive").code
    run("bob", "dead", "list")
    for letter in run("bob", "dead", "list", "--json").records:
        run("bob", "dead", "show", letter["id"])
    run("bob", "agents")
    (folders / "bob/bob.key").chmod(0o644)
    codes["a key that others can read"] = run("bob", "keys", "show").code
    codes["receive with such a key"] = run("bob", "receive").code
    monkeypatch.setenv("MAILBOX_KEY_DIR", str(root))
    codes["generate in the root"] = mailbox("keys", "generate", sender="dave").code
    watch.know(folders)
    watch.hear(logged.getvalue())
    for path in root.rglob("*"):
        if path.is_file():
            watch.hear(path.read_bytes())

    assert watch.found() == []
    assert "a secret of ours" in "".join(part.decode("latin-1") for part in watch.said)
    assert {what for what, code in codes.items() if code == 4} >= {
        "generate what is there",
        "show nobody",
        "pin a private key",
        "pin a private key by pipe",
        "a key that others can read",
        "generate in the root",
    }


def replaced(member: str, value: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        members = json.loads(data)
        members[member] = value(members)
        return json.dumps(members).encode()

    return change


CORRUPT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut off in the seed": lambda data: data[: data.index(b'"signing_seed"') + 40],
    "cut off at the end": lambda data: data[:-10],
    "no braces": lambda data: data.strip(b"{}\n"),
    "only the seed": lambda data: json.loads(data)["signing_seed"].encode(),
    "the seed as JSON": lambda data: json.dumps(json.loads(data)["signing_seed"]).encode(),
    "the raw seed": lambda data: base64.b64decode(json.loads(data)["signing_seed"]),
    "an array": lambda data: b"[" + data + b"]",
    "twice": lambda data: data * 2,
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "not UTF-8": lambda data: data.replace(b'"v"', b'"\xff"'),
    "single quotes": lambda data: repr(json.loads(data)).encode(),
    "another version": replaced("v", lambda _: 2),
    "the seed for a version": replaced("v", lambda members: members["signing_seed"]),
    "the seed for a name": replaced("agent", lambda members: members["signing_seed"]),
    "an encryption key for a name": replaced("agent", lambda members: members["encryption_keys"][0]),
    "an array for a name": replaced("agent", lambda members: members["encryption_keys"]),
    "no name": replaced("agent", lambda _: None),
    "another name": replaced("agent", lambda _: "mallory"),
    "a seed with a blank": replaced("signing_seed", lambda members: members["signing_seed"] + " "),
    "a seed without its end": replaced("signing_seed", lambda members: members["signing_seed"][:-4]),
    "a seed that is too long": replaced("signing_seed", lambda members: members["signing_seed"][:-1] + "AAA="),
    "a seed in hex": replaced("signing_seed", lambda members: base64.b64decode(members["signing_seed"]).hex()),
    "a seed of numbers": replaced("signing_seed", lambda members: list(base64.b64decode(members["signing_seed"]))),
    "a seed in an object": replaced("signing_seed", lambda members: {"seed": members["signing_seed"]}),
    "no seed": replaced("signing_seed", lambda _: None),
    "no encryption keys": replaced("encryption_keys", lambda _: []),
    "an encryption key that is none": replaced(
        "encryption_keys", lambda members: [members["signing_seed"], members["signing_seed"][1:]]
    ),
    "encryption keys as text": replaced("encryption_keys", lambda members: members["encryption_keys"][0]),
    "encryption keys as an object": replaced(
        "encryption_keys", lambda members: {members["encryption_keys"][0]: members["signing_seed"]}
    ),
    "public and private": replaced("signing_key", lambda members: members["signing_seed"]),
    "a seed that claims to be public": lambda data: data.replace(b'"signing_seed"', b'"signing_key"'),
}


@pytest.mark.parametrize("how", CORRUPT)
def test_a_broken_file_of_keys_is_not_shown(
    mailbox: Callable[..., Said], root: Path, folders: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Neither by a command nor by an error in Python, whatever of it is still secret; and that it is broken is told."""
    path = folders / "alice/alice.key"
    path.write_bytes(CORRUPT[how](path.read_bytes()))
    monkeypatch.setenv("MAILBOX_KEY_DIR", str(folders / "alice"))
    commands = (["keys", "show"], ["keys", "list"], ["send", "bob", "x", "--sign"], ["keys", "generate", "--rotate"])
    said = [mailbox(*words, sender="alice") for words in (*commands, ["keys", "pin", "mallory", path])]
    for each in said:
        watch.hear(each.out + each.err)
    box = Mailbox("alice", root, key_dir=folders / "alice")
    for call in (
        lambda: box.send("bob", "x", seal=True),
        box.keyring.own,
        lambda: ring(folders, "alice").own().rotate("x"),
    ):
        watch.hear(raised(call))
    try:
        watch.hear(repr(PublicKeys.read(path.read_bytes(), str(path))))  # some seeds could be a signing key
    except InsecureKeyFileError as error:
        watch.hear(told(error))

    assert watch.found() == []
    assert [each.code for each in said] == [4] * len(said)


def test_no_repr_shows_a_private_key(root: Path, folders: Path, watch: Watch) -> None:
    """Nor any other way to print our objects, or what they hold."""
    own = ring(folders, "alice").own()
    box = Mailbox("alice", root, key_dir=folders / "alice")
    box.send("bob", "x", seal=True)
    verifier = Verifier(box.root.box(Address("alice")), box.keyring)
    held = [
        own._seed,
        own.encryption_keys,
        *own.encryption_keys.values(),
        [key.secret for key in own.encryption_keys.values()],
    ]
    cells = [cell.cell_contents for cell in own.sign.__closure__ or ()]
    for each in (own, box, box.keyring, verifier, own.public, own.sign, *held, *cells):
        shown = [repr(each), str(each), f"{each}", f"{each!a}", format(each), pprint.pformat(each)]
        watch.hear("\n".join(shown))
        if hasattr(each, "__dict__"):
            watch.hear(pprint.pformat(vars(each)))

    assert watch.found() == []
    assert repr(own._seed) == "<32 secret bytes>"


@pytest.mark.parametrize("what", ["private keys", "seed", "pair", "keyring"])
@pytest.mark.parametrize(
    "how",
    [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, orjson.dumps],
    ids=["pickle", "copy", "deepcopy", "json", "orjson"],
)
def test_private_keys_are_not_packed_up(folders: Path, watch: Watch, how: Callable[[Any], Any], what: str) -> None:
    """Not pickled, for it would go to a file or another process; a copy within the process may be, of a key pair."""
    mine = ring(folders, "alice")
    own = mine.own()
    each = {"private keys": own, "seed": own._seed, "pair": next(iter(own.encryption_keys.values())), "keyring": mine}[
        what
    ]
    if how is copy.copy and what in ("pair", "keyring"):
        watch.hear(repr(how(each)))
    else:
        watch.hear(raised(lambda: how(each)))

    assert watch.found() == []


def no_space(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


DEEP: dict[str, tuple[Any, str]] = {
    "signing": (bindings, "crypto_sign"),
    "sealing": (bindings, "crypto_box_seal"),
    "opening": (bindings, "crypto_box_seal_open"),
    "making a signing key": (bindings, "crypto_sign_seed_keypair"),
    "making an encryption key": (bindings, "crypto_scalarmult_base"),
    "writing": (os, "write"),
    "flushing": (os, "fsync"),
    "renaming": (os, "rename"),
}


@pytest.mark.parametrize("where", DEEP)
def test_a_traceback_that_shows_what_frames_hold_shows_no_private_key(
    root: Path, folders: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Wherever it breaks: in our code, the disk, the library. Error trackers and debuggers show such tracebacks."""
    with Mailbox("alice", root, durable=False, key_dir=folders / "alice") as alice:
        alice.send("bob", "x", seal=True)
    file = next((root / "bob/new").iterdir()).read_bytes()
    broken = []

    def dies(*arguments: object, **_: object) -> Any:
        broken.append(where)
        with tempfile.TemporaryFile() as dump:
            faulthandler.dump_traceback(dump, all_threads=True)
            dump.seek(0)
            watch.hear(dump.read())
        no_space()

    calls: list[Callable[[], object]] = [
        lambda: PrivateKeys.generate(f"{folders}/new/carol.key", Address("carol")),
        lambda: PrivateKeys.load(f"{folders}/alice/alice.key"),
        lambda: PrivateKeys.load(f"{folders}/alice/alice.key").rotate(f"{folders}/alice/alice.key"),
        lambda: ring(folders, "alice").seal(Address("bob"), "x", b"{}"),
        lambda: ring(folders, "alice").sign(b"{}"),
        lambda: seal.unseal(file, "bob", ring(folders, "bob").own().encryption_keys, ring(folders, "bob").signing_key),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(*DEEP[where], dies)
        for call in calls:
            try:
                call()
            except Exception as error:  # noqa: BLE001  # of whatever kind
                watch.hear(told(error))
    watch.know(folders)

    assert broken
    assert watch.found() == []


def test_a_handler_that_fails_writes_down_no_private_key(
    root: Path, folders: Path, watch: Watch, logged: io.StringIO
) -> None:
    """What lies on the volume after all that: letters, reasons with tracebacks, the ledger."""
    alice = Mailbox("alice", root, durable=False, key_dir=folders / "alice")
    bob = Mailbox("bob", root, durable=False, key_dir=folders / "bob", max_attempts=1)

    @bob.on()
    def fail(message: Any) -> None:
        raise ValueError(repr(vars(bob)), bob.keyring.own(), message)

    for how in ("seal", "sign"):
        alice.send("bob", "x", **{how: True})  # type: ignore[arg-type]
    alice.send("bob", "not signed")
    bob.run(drain=True)
    watch.hear(logged.getvalue())
    for letter in bob.peek("dead"):
        watch.hear(bob.dead_reason(letter))
    for path in root.rglob("*"):
        if path.is_file():
            watch.hear(path.read_bytes())
    alice.close()
    bob.close()

    assert watch.found() == []
    assert b"Traceback" in b"".join(watch.said)
