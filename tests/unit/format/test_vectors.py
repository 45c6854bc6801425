"""The format's vectors: what every client must read, refuse and write alike. FORMAT.md says what they mean."""

import base64
import json
from typing import Any

import pytest

from filemailbox import InvalidRequestError, NotMailError
from filemailbox.format.address import is_address
from filemailbox.format.envelope import decode, encode
from filemailbox.format.filename import Filename, parse_filename, split_timed, stem_of
from filemailbox.format.order import Order
from filemailbox.format.timestamp import sent_time
from support.paths import VECTORS

REASONS = {
    "empty": "it is empty|it holds nothing but blanks or zero bytes",
    "utf-8": "it is not valid UTF-8",
    "json": r"^not JSON: (?!it )",
    "object": "^not a JSON object but",
    "depth": "nested deeper than 64",
    "member": r'^its "\w+" is .*(expected|not) (a string|a whole number|an object of strings)',
    "key": r'^its "idempotency_key" has 1025 bytes, and 1024 is the limit$',
    "time": r'^its "\w+" is .*, expected a time with a zone',
}


def vectors(part: str, file: str | None = None) -> pytest.MarkDecorator:
    """Each vector in *part* of a file, as a parameter that is called what it is about."""
    each = json.loads((VECTORS / f"{file or part}.json").read_text())[part]
    ids = [str(vector.get("about") or vector.get("id")) for vector in each]
    assert len(set(ids)) == len(ids), "two vectors are about the same"
    return pytest.mark.parametrize("vector", [pytest.param(v, id=id) for v, id in zip(each, ids, strict=True)])


def content(vector: Any) -> bytes:
    return vector["text"].encode() if "text" in vector else base64.b64decode(vector["base64"], validate=True)


def exactly(value: Any) -> str:
    """For comparing: 1, 1.0 and true are not the same."""
    return json.dumps(value, sort_keys=True)


@vectors("names")
def test_a_name_has_these_parts_or_is_foreign(vector: Any) -> None:
    """names.json, `names`."""
    parts = vector["parts"]

    assert parse_filename(vector["name"]) == (Filename(**parts) if parts else None)


@vectors("timed", "names")
def test_a_name_in_later_and_done_comes_apart_so(vector: Any) -> None:
    """names.json, `timed`."""
    stamp = vector["stamp"]

    assert split_timed(vector["name"]) == ((stamp, vector["rest"]) if stamp else None)


@vectors("stems", "names")
def test_this_is_kept_of_a_foreign_name(vector: Any) -> None:
    """names.json, `stems`."""
    assert stem_of(vector["name"]) == vector["stem"]


@vectors("addresses", "names")
def test_a_box_may_or_may_not_have_this_name(vector: Any) -> None:
    """names.json, `addresses`."""
    assert is_address(vector["address"]) is vector["ok"]


@vectors("sent", "names")
def test_an_id_says_when_it_was_sent(vector: Any) -> None:
    """names.json, `sent`."""
    assert sent_time(vector["id"]) == vector["sent"]


@vectors("messages")
def test_these_bytes_are_this_message_or_none(vector: Any) -> None:
    """messages.json."""
    if "refused" in vector:
        with pytest.raises(NotMailError, match=REASONS[vector["refused"]]):
            decode(content(vector))
    else:
        members = decode(content(vector))

        assert exactly(members) == exactly(vector["members"])


@vectors("written")
def test_a_sender_writes_these_bytes_or_refuses(vector: Any) -> None:
    """written.json."""
    given = (vector["id"], vector["from"], vector["to"], vector["body"], vector["members"])
    if vector["text"] is None:
        with pytest.raises(InvalidRequestError):
            encode(*given)
    else:
        data = encode(*given)

        assert data == vector["text"].encode()
        assert exactly(decode(data)["body"]) == exactly(vector["body"])


@vectors("order")
def test_these_listings_are_claimed_in_this_order(vector: Any) -> None:
    """order.json."""
    order = Order()
    steps = vector["listings"]
    claimed = [order.select(list(step["names"]), step["clock"], step["mtimes"].get) for step in steps]

    assert claimed == [(step["claim"], step["held"]) for step in steps]


def test_every_reason_has_a_vector() -> None:
    """And no file lies there that is not run."""
    messages = json.loads((VECTORS / "messages.json").read_text())["messages"]

    assert {vector["refused"] for vector in messages if "refused" in vector} == set(REASONS)
    here = {"names.json", "messages.json", "written.json", "order.json"}
    # Those of keys are tried in test_seal.py, those of files in test_trust.py, those of documents with them.
    theirs = {"sealed.json", "signed.json", "trust.json", "documents.json"}
    assert {path.name for path in VECTORS.iterdir()} == here | theirs
