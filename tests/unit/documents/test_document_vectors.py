"""The vectors of shared documents: what every client must read, refuse and write alike."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from filemailbox import DocumentBrokenError, InvalidRequestError, Mailbox, NotMailError
from filemailbox.documents import change, checkpoint, folders, signature
from filemailbox.documents.folders import Access, Folders
from filemailbox.documents.history import History
from filemailbox.documents.name import is_document_name
from filemailbox.documents.version import decode, encode, first_base, number_of
from filemailbox.store import root as roots
from filemailbox.trust import seal

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/documents.json").read_text())

REASONS = {
    "head": "^it does not begin with",
    "number": "^it claims to be version",
    "base": "^its base is",
    "line": "^it is not one line",
    "message": "^not JSON|^arrays and objects are nested deeper",
    "double": "^two members of one object",
    "body": '^it has no "body"',
    "by": '^its "by" is',
    "note": '^its "note" is',
    "at": '^its "at" is',
}
PROOFS = {
    "tail": "it is not signed",
    "pin": "no key of .* is pinned$",
    "skid": "another key than the one",
    "signature": "its signature is not that of",
}
HISTORIES = {"before": "was there before|was the|^.* is broken: .* was there", "first": "its first version is"}


def vectors(part: str) -> pytest.MarkDecorator:
    """Each vector in *part* of the file, as a parameter that is called what it is about."""
    each = VECTORS[part]
    ids = [str(vector.get("about") or vector.get("name") or vector.get("document")) for vector in each]
    assert len(set(ids)) == len(ids), "two vectors are about the same"
    return pytest.mark.parametrize("vector", [pytest.param(v, id=id) for v, id in zip(each, ids, strict=True)])


def content(vector: Any) -> bytes:
    return vector["text"].encode() if "text" in vector else base64.b64decode(vector["base64"], validate=True)


@vectors("names")
def test_a_document_may_or_may_not_have_this_name(vector: Any) -> None:
    """`names`."""
    assert is_document_name(vector["name"]) is vector["ok"]


@vectors("filenames")
def test_the_name_of_a_file_says_its_number(vector: Any) -> None:
    """`filenames`."""
    assert number_of(vector["name"]) == vector["number"]


@vectors("bases")
def test_the_first_version_has_this_base(vector: Any) -> None:
    """`bases`."""
    assert first_base(vector["document"]) == vector["base"]


@vectors("versions")
def test_these_bytes_are_this_version_or_none(vector: Any) -> None:
    """`versions`."""
    if "refused" in vector:
        with pytest.raises(NotMailError, match=REASONS[vector["refused"]]):
            decode(content(vector), vector["number"], vector["base"])
    else:
        members = decode(content(vector), vector["number"], vector["base"])

        assert json.dumps(members) == json.dumps(vector["members"])


@vectors("written")
def test_a_writer_writes_these_bytes_or_refuses(vector: Any) -> None:
    """`written`."""
    body = vector["repeat"][0] * vector["repeat"][1] if "repeat" in vector else vector["body"]
    given = (vector["number"], vector["by"], vector["at"], vector["base"], body, vector["note"])
    if vector["text"] is None:
        with pytest.raises(InvalidRequestError):
            encode(*given)
    else:
        line = encode(*given)

        assert line == vector["text"].encode()
        assert decode(line, vector["number"], vector["base"])["body"] == body


@vectors("histories")
def test_a_history_ends_here_or_is_broken(vector: Any, tmp_path: Path) -> None:
    """`histories`."""
    Mailbox.init("alice", tmp_path / "mail").close()
    root = roots.find_root(tmp_path / "mail")
    name = vector["document"]
    folders.create(root, name, encode(1, "alice", "2026-11-24T01:45:30.123456Z", first_base(name), 0), Access())
    versions = tmp_path / "mail/.documents" / name / "versions"
    (versions / "0000000001.json").unlink()
    for file in vector["files"]:
        (versions / file["name"]).write_bytes(file["text"].encode())
    if "checkpoint" in vector:
        opened = Folders(root, name)
        assert checkpoint.write(opened, vector["checkpoint"]["version"], vector["checkpoint"]["digest"])
        opened.close()
    history = History(root, name)
    if "refused" in vector:
        with pytest.raises(DocumentBrokenError, match=HISTORIES[vector["refused"]]):
            history.head()
        return
    head = history.head()

    assert head.number == vector["current"]
    assert (history.obstacle and history.obstacle.number) == vector["obstacle"]


@vectors("signed")
def test_a_signature_proves_the_author_or_does_not(vector: Any) -> None:
    """`signed`."""
    pins = {name: base64.b64decode(key) for name, key in vector["pins"].items()}
    if "refused" in vector:
        with pytest.raises(NotMailError, match=PROOFS[vector["refused"]]):
            signature.verify(content(vector), vector["by"], pins.get)
    else:
        signature.verify(content(vector), vector["by"], pins.get)
        (public,) = pins.values()

        assert seal.kid(public) in vector["text"]


@vectors("merges")
def test_a_merge_patch_makes_this(vector: Any) -> None:
    """`merges`: RFC 7396, appendix A."""
    assert change.merge_patch(vector["target"], vector["patch"]) == vector["result"]


def test_every_reason_has_a_vector() -> None:
    """Each check is tried."""
    assert {each["refused"] for each in VECTORS["versions"] if "refused" in each} == set(REASONS)
    assert {each["refused"] for each in VECTORS["signed"] if "refused" in each} == set(PROOFS)
    assert {each["refused"] for each in VECTORS["histories"] if "refused" in each} == set(HISTORIES)
