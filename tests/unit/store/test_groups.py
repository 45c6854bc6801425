"""Mail for several, and mail that goes to the outbox: for addresses that have no box here."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import BoxNotFoundError, GroupNotFoundError, Mailbox, MailboxError, NotMailError, PartialDeliveryError
from filemailbox.format.address import Address
from filemailbox.store import groups
from filemailbox.store.box import create_box
from filemailbox.store.ids import new_id
from filemailbox.store.root import find_root, set_marker

ALICE = Address("alice")


@pytest.fixture
def four(root: Path) -> Path:
    """alice and bob, carol and dan; bob and carol are reviewers."""
    for name in ("carol", "dan"):
        Mailbox.init(name, root).close()
    set_marker(
        find_root(root), "groups", {"reviewers": ["bob", "carol", "alice"], "me": ["alice"], "mixed": ["bob", "x"]}
    )
    return root


@pytest.fixture
def outbox(root: Path) -> Path:
    """alice's, from which a relay would carry."""
    create_box(find_root(root).box(ALICE), outbox=True)
    return root / "alice" / "outbox"


def got(root: Path) -> dict[str, list[dict[str, Any]]]:
    """What waits in each box."""
    return {
        box.name: [json.loads(file.read_text()) for file in sorted((box / "new").iterdir())]
        for box in sorted(root.iterdir())
        if (box / "new").is_dir() and any((box / "new").iterdir())
    }


@pytest.mark.parametrize(
    ("to", "whom"), [("team:reviewers", ["bob", "carol"]), ("all", ["bob", "carol", "dan"])], ids=["a-team", "all"]
)
def test_mail_to_a_group_goes_to_each_of_them(four: Path, alice: Mailbox, to: str, whom: list[str]) -> None:
    """Under one id, addressed to each, and never to oneself."""
    id = alice.send(to, "look", type="review")

    assert {name: [(each["to"], each["id"]) for each in mail] for name, mail in got(four).items()} == {
        name: [(name, id)] for name in whom
    }


def test_each_recipient_has_a_result(four: Path, alice: Mailbox) -> None:
    """An id, or what went wrong; the one does not stop the other."""
    results = alice.send_group("team:mixed", 1)

    assert isinstance(results["bob"], str)
    assert isinstance(results["x"], BoxNotFoundError)
    assert list(got(four)) == ["bob"]


def test_mail_that_does_not_go_to_everyone_is_an_error(four: Path, alice: Mailbox) -> None:
    """It says whom it did reach, and why not the others."""
    with pytest.raises(PartialDeliveryError) as told:
        alice.send("team:mixed", 1)

    assert told.value.reached == ["bob"]
    assert isinstance(told.value.failed["x"], BoxNotFoundError)
    assert re.search('"team:mixed".* reached bob.* x: there is no box "x"', str(told.value))


def test_many_messages_go_to_a_group(four: Path, alice: Mailbox) -> None:
    """Each under an id of its own; those before a failure are told."""
    ids = alice.send_many("team:reviewers", [1, 2])
    with pytest.raises(PartialDeliveryError) as told:
        alice.send_many("team:mixed", [3])

    assert len(set(ids)) == 2
    assert [each["body"] for each in got(four)["carol"]] == [1, 2]
    assert told.value.sent == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("to", "why"),
    [
        pytest.param("team:nobody", "there are me, mixed, reviewers", id="no-such-group"),
        pytest.param("team:me", "it has no member but alice", id="only-oneself"),
    ],
)
def test_a_group_of_nobody_is_an_error(four: Path, alice: Mailbox, to: str, why: str) -> None:
    """Mail that goes nowhere is not sent."""
    with pytest.raises(GroupNotFoundError, match=why):
        alice.send(to, 1)
    assert got(four) == {}


def test_all_are_nobody_where_one_is_alone(tmp_path: Path) -> None:
    """The only box is one's own."""
    with Mailbox.init("alice", tmp_path / "mail") as alice, pytest.raises(GroupNotFoundError, match="no other box"):
        alice.send("all", 1)


@pytest.mark.parametrize("said", [1, ["x"], {"a": "b"}, {"a": [1]}, {"a": ["NO"]}, {"A": ["bob"]}], ids=repr)
def test_groups_that_are_none_are_told(root: Path, alice: Mailbox, said: Any) -> None:
    """A person wrote them, and may have mistyped."""
    set_marker(find_root(root), "groups", said)

    with pytest.raises(NotMailError, match='the "groups" of'):
        alice.send("team:a", 1)


def test_what_the_marker_says_is_kept(root: Path) -> None:
    """One member is set, the others stay; the root is still one."""
    volume = find_root(root)
    set_marker(volume, "groups", {"a": ["bob"]})
    set_marker(volume, "relay", 990)

    assert json.loads((root / ".mailbox").read_text()) == {"format": 1, "groups": {"a": ["bob"]}, "relay": 990}
    assert groups.groups(find_root(root)) == {"a": ["bob"]}
    assert sorted(file for file in os.listdir(root) if file.startswith(".")) == [".mailbox"]


@pytest.mark.parametrize("to", ["dora", "team:reviewers", "all"])
def test_mail_for_whom_there_is_no_box_goes_to_the_outbox(outbox: Path, alice: Mailbox, to: str) -> None:
    """A relay carries it, and knows who is in a group."""
    id = alice.send(to, {"n": 1}, in_reply_to=new_id())
    (name,) = os.listdir(outbox)
    message = json.loads((outbox / name).read_text())

    assert (message["id"], message["to"], message["from"]) == (id, to, "alice")
    assert name == f"{id},S={(outbox / name).stat().st_size}.json"
    assert os.listdir(outbox.parent / "tmp") == []


def test_mail_for_whom_there_is_a_box_goes_there(outbox: Path, alice: Mailbox, bob: Mailbox) -> None:
    """The outbox is only for others."""
    alice.send("bob", 1)
    alice.send_many("bob", [2, 3])

    assert [bob.receive().body for _ in range(3)] == [1, 2, 3]  # type: ignore[union-attr]
    assert os.listdir(outbox) == []


def test_many_messages_go_to_the_outbox(outbox: Path, alice: Mailbox) -> None:
    """As one by one."""
    ids = alice.send_many("dora", range(10))

    assert sorted(name.split(",")[0] for name in os.listdir(outbox)) == ids


def test_a_group_that_the_root_knows_is_expanded_here(outbox: Path, root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """Member by member: who has no box here gets it through the outbox."""
    set_marker(find_root(root), "groups", {"mixed": ["bob", "dora"]})
    results = alice.send_group("team:mixed", 1)

    assert set(results) == {"bob", "dora"}
    assert not any(isinstance(result, MailboxError) for result in results.values())
    assert bob.receive() is not None
    assert len(os.listdir(outbox)) == 1


def test_without_an_outbox_an_unknown_recipient_is_an_error(root: Path, alice: Mailbox) -> None:
    """As ever."""
    with pytest.raises(BoxNotFoundError):
        alice.send("dora", 1)


def test_a_box_that_is_broken_is_not_passed_by(outbox: Path, root: Path, alice: Mailbox) -> None:
    """A recipient who has a box here, if half of one, is not one of elsewhere."""
    (root / "bob" / "tmp").rmdir()

    with pytest.raises(BoxNotFoundError):
        alice.send("bob", 1)
    assert os.listdir(outbox) == []


def test_an_outbox_is_made_with_the_box_or_later(root: Path) -> None:
    """Private to the agent, whose mail it is."""
    volume = find_root(root)
    create_box(volume.box(Address("dora")), outbox=True)
    create_box(volume.box(Address("bob")), outbox=True)
    create_box(volume.box(Address("bob")))

    for name in ("dora", "bob"):
        assert (root / name / "outbox").stat().st_mode & 0o7777 == 0o700


def test_the_command_prints_a_line_for_each(four: Path, mailbox: Callable[..., Any]) -> None:
    """The id and the name; who can not be reached is told, and the code is that of the first such."""
    said = mailbox("send", "team:reviewers", "x", sender="dan")
    partly = mailbox("send", "team:mixed", "x", sender="dan")
    none = mailbox("send", "team:none", "x", sender="dan")

    assert [line.split("\t")[1] for line in said.lines] == ["bob", "carol", "alice"]
    assert len({line.split("\t")[0] for line in said.lines}) == 1
    assert (said.code, partly.code, none.code) == (0, 67, 67)
    assert [line.split("\t")[1] for line in partly.lines] == ["bob"]
    assert partly.err.startswith('mailbox: x: there is no box "x"')
