"""The second implementation of sealed and signed mail, in JavaScript (tests/interop): we agree, and read each other.

It was made from FORMAT.md, on another library for the primitives, with a reader of JSON of its own.
"""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from filemailbox.format.address import Address
from filemailbox.trust.key_files import PrivateKeys, PublicKeys
from support.paths import TESTS

SCRIPTS = TESTS / "interop"
BODY = {"text": "Grüße, 世界 🦊 \u202e\x9b", "n": [2**64 - 1, -(2**63), 0.1, 1e300, True, None], "": {}}


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no node, for the second implementation of sealed mail")
    if not (SCRIPTS / "node_modules" / "tweetnacl").is_dir():
        pytest.skip("`npm ci --prefix tests/interop` was not run, for the second implementation of sealed mail")
    return found


def run(node: str, script: str, jobs: list[dict[str, Any]]) -> list[Any]:
    """What the script says to each of the jobs."""
    given = "".join(json.dumps(job) + "\n" for job in jobs)
    done = subprocess.run(
        [node, SCRIPTS / script], input=given, capture_output=True, text=True, check=True, timeout=300
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(jobs)
    return said


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def exactly(value: Any) -> str:
    """For comparing: 1, 1.0 and true are not the same."""
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("how", ["sealed", "signed"])
def test_it_agrees_about_every_vector(node: str, how: str) -> None:
    """What opens opens to the same members; what must be refused is, and at the same check."""
    file = json.loads((TESTS / "vectors" / f"{how}.json").read_text())
    identities, boxes = file["keys"]["identities"], file["keys"]["boxes"]
    jobs = [
        {
            "how": how,
            "file": vector.get("base64") or b64(vector.get("text", "").encode()),
            "to": vector["to"],
            "boxes": [boxes[name]["secret"] for name in vector["boxes"]],
            "pins": {name: identities[key]["public"] for name, key in vector["pins"].items()},
        }
        for vector in file[how]
    ]
    wrong = [
        f"{vector['about']}: {said}"
        for vector, said in zip(file[how], run(node, "open.mjs", jobs), strict=True)
        if exactly(said) != exactly({part: vector[part] for part in ("members", "refused") if part in vector})
    ]

    assert wrong == []


def test_it_agrees_about_every_key(node: str) -> None:
    """Which public keys may be pinned."""
    file = json.loads((TESTS / "vectors" / "sealed.json").read_text())
    vectors = [(part, vector) for part in ("identities", "boxes") for vector in file[part]]
    said = run(node, "open.mjs", [{"how": part, "key": vector["key"]} for part, vector in vectors])

    assert [(vector["about"], each["ok"]) for (_, vector), each in zip(vectors, said, strict=True)] == [
        (vector["about"], vector["ok"]) for _, vector in vectors
    ]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Fresh keys: a private folder each for alice and bob, who know each other."""
    for name in ("alice", "bob"):
        PrivateKeys.generate(f"{tmp_path}/{name}/{name}.key", Address(name))
    for name, other in (("alice", "bob"), ("bob", "alice")):
        (tmp_path / name / "pins").mkdir(mode=0o700)
        pin = tmp_path / name / "pins" / f"{other}.pub"
        pin.write_bytes(public(tmp_path, other).line())
        pin.chmod(0o600)
    return tmp_path


def secrets(keys: Path, name: str) -> dict[str, Any]:
    """What stands in the private file, for the other implementation."""
    members: dict[str, Any] = json.loads((keys / name / f"{name}.key").read_bytes())
    return members


def public(keys: Path, name: str) -> PublicKeys:
    return PrivateKeys.load(f"{keys}/{name}/{name}.key").public


@pytest.mark.parametrize("how", ["sealed", "signed"])
def test_it_reads_what_we_write(node: str, root: Path, keys: Path, how: str) -> None:
    """With fresh keys, as the file lies in the box: once for its recipient, and for nobody else."""
    with Mailbox("alice", root, durable=False, key_dir=keys / "alice") as alice:
        id = alice.send("bob", BODY, type="job", seal=how == "sealed", sign=True)
    [path] = (root / "bob/new").iterdir()
    job = {
        "how": how,
        "file": b64(path.read_bytes()),
        "to": "bob",
        "boxes": secrets(keys, "bob")["encryption_keys"],
        "pins": {"alice": b64(public(keys, "alice").signing_key)},
    }
    another = {**job, "pins": {"alice": b64(public(keys, "bob").signing_key)}}

    said, elsewhere, stranger = run(node, "open.mjs", [job, {**job, "to": "carol"}, another])
    assert said["members"]["id"] == id
    assert said["members"]["type"] == "job"
    assert exactly(said["members"]["body"]) == exactly(BODY)
    assert (elsewhere, stranger) == ({"refused": "to"}, {"refused": "skid"})


@pytest.mark.parametrize("how", ["sealed", "signed"])
def test_we_read_what_it_writes(node: str, root: Path, keys: Path, how: str) -> None:
    """With fresh keys, dropped into the box as the format says; the answer goes back in kind."""
    job = {
        "how": how,
        "from": "alice",
        "to": "bob",
        "body": BODY,
        "seed": secrets(keys, "alice")["signing_seed"],
        "box": b64(public(keys, "bob").encryption_keys[0]),
    }
    [written] = run(node, "seal.mjs", [job])
    file = base64.b64decode(written["file"])
    name = f"{written['id']},S={len(file)}.json"
    (root / "bob/tmp" / name).write_bytes(file)
    os.rename(root / "bob/tmp" / name, root / "bob/new" / name)

    with Mailbox("bob", root, durable=False, key_dir=keys / "bob", min_trust=how) as bob:
        message = bob.receive()
        assert message is not None, [bob.dead_reason(dead) for dead in bob.peek("dead")]
        assert (message.id, message.sender, message.trust) == (written["id"], "alice", how)
        assert exactly(message.body) == exactly(BODY)
        message.reply("thanks")
        message.ack()

    [path] = (root / "alice/new").iterdir()
    back = {
        "how": how,
        "file": b64(path.read_bytes()),
        "to": "alice",
        "boxes": secrets(keys, "alice")["encryption_keys"],
        "pins": {"bob": b64(public(keys, "bob").signing_key)},
    }
    [said] = run(node, "open.mjs", [back])
    assert said["members"]["body"] == "thanks"
    assert said["members"]["in_reply_to"] == written["id"]
