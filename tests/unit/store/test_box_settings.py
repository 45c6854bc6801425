"""Settings of a box: set once by its owner, used by every consumer, overridden by one."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import BoxNotFoundError, InvalidRequestError, Mailbox, MailboxError, StorageError
from filemailbox.format.address import Address
from filemailbox.store.box_settings import read_box_settings, write_box_settings
from filemailbox.store.root import find_root, init_root


def fails(box: Mailbox) -> str | None:
    """Claim a message and let it fail: where it is then."""
    message = box.receive()
    assert message is not None
    message.retry(delay=0)
    return next(iter(seen.state for seen in box.peek("later", "dead")), None)


def test_settings_of_init_hold_for_every_consumer(root: Path, alice: Mailbox) -> None:
    """Also for one that another process makes later; a consumer's own setting comes first."""
    Mailbox.init("bob", root, max_attempts=2, retention=60).close()
    states = []
    for settings in ({}, {"max_attempts": 1}):
        alice.send("bob")
        with Mailbox("bob", root, **settings) as bob:  # type: ignore[arg-type]
            states.append(fails(bob))
            bob.purge(next(bob.peek("dead"))) if states[-1] == "dead" else fails(bob)
            for letter in list(bob.peek("dead")):
                bob.purge(letter)
    alice.send("bob", "kept")
    with Mailbox("bob", root) as bob:
        message = bob.receive()
        assert message is not None
        message.ack()
        kept = [seen.body for seen in bob.peek("done")]

    assert states == ["later", "dead"]
    assert kept == ["kept"]


def test_a_change_keeps_the_other_settings(root: Path, bob: Mailbox) -> None:
    """None removes one; the file is small, and readable by all for `status`."""
    box = find_root(root).box(Address("bob"))
    write_box_settings(box, {"max_attempts": 3, "retention": 60.5})
    write_box_settings(box, {"retention": None, "keys": True})
    file = root / "bob/settings.json"

    assert read_box_settings(box) == {"max_attempts": 3, "keys": True} == json.loads(file.read_text())
    assert file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in (root / "bob").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("content", "error", "quotes"),
    [
        ("[]", InvalidRequestError, "settings.json"),
        ("{", InvalidRequestError, "settings.json"),
        ('{"max_attempts": 0}', InvalidRequestError, "max_attempts"),
        ('{"max_attempts": true}', InvalidRequestError, "max_attempts"),
        ('{"retention": "7d"}', InvalidRequestError, "7d"),
        ('{"retention": -1}', InvalidRequestError, "retention"),
        ('{"keys": 1}', InvalidRequestError, "keys"),
        (" " * 70000, StorageError, "settings.json"),
    ],
)
def test_settings_that_cannot_be_are_an_error(
    root: Path, bob: Mailbox, content: str, error: type[MailboxError], quotes: str
) -> None:
    """No mail is claimed by a consumer that does not know how."""
    (root / "bob/settings.json").write_text(content)
    Mailbox.init("alice", root).send("bob", 1)
    with Mailbox("bob", root) as again, pytest.raises(error, match=quotes):
        again.receive()

    assert len(list((root / "bob/new").iterdir())) == 1


def test_a_link_or_another_uids_file_is_refused(as_root: None, shared: Path) -> None:
    """Its owner alone sets what becomes of the mail."""
    root = shared / "mail"
    Mailbox.init("bob", root).close()
    file = root / "bob/settings.json"
    file.symlink_to("/etc/hostname")
    with pytest.raises(StorageError):
        read_box_settings(find_root(root).box(Address("bob")))
    file.unlink()
    file.write_text('{"max_attempts": 1}')
    os.chown(file, 2001, 2001)
    with pytest.raises(StorageError, match="2001"):
        read_box_settings(find_root(root).box(Address("bob")))


def test_unknown_members_are_left_for_later_versions(root: Path, bob: Mailbox) -> None:
    """They are ignored, and not written again by us."""
    (root / "bob/settings.json").write_text('{"colour": "red", "max_attempts": 4}')

    assert read_box_settings(find_root(root).box(Address("bob"))) == {"max_attempts": 4}


def test_settings_need_a_box(tmp_path: Path) -> None:
    """Nothing is made for an unknown name."""
    root = init_root(tmp_path / "mail")
    with pytest.raises(BoxNotFoundError):
        write_box_settings(root.box(Address("nobody")), {"max_attempts": 3})

    assert root.boxes() == []


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({}, {"expired", "failed"}),
        ({"expired_retention": 3600}, {"failed"}),
        ({"dead_retention": 3600}, set()),
        ({"expired_retention": 864000, "dead_retention": 864000}, {"expired", "failed"}),
    ],
)
def test_dead_letters_are_deleted_when_they_were_kept_long_enough(
    root: Path, alice: Mailbox, settings: dict[str, Any], left: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that expired, or all; by default none. Notes go with them."""
    Mailbox.init("bob", root, max_attempts=1, **settings).close()
    alice.send("bob", "expired", ttl=0.001)
    alice.send("bob", "failed")
    time.sleep(0.01)
    with Mailbox("bob", root) as bob:
        message = bob.receive()
        assert message is not None
        message.retry(reason="it expired at noon, said the handler")
        assert bob.receive() is None
    day_later = time.time() + 86400
    monkeypatch.setattr(time, "time", lambda: day_later)
    with Mailbox("bob", root) as bob:
        bob.receive()
        found = {seen.body for seen in bob.peek("dead")}

    assert found == left
    assert len(list((root / "bob/dead").glob("*.why"))) == len(left)


def test_the_command_sets_and_shows_them(mailbox: Callable[..., Any], root: Path) -> None:
    """`init` again changes one; a box that is there keeps the others."""
    mailbox("init", "carol", "--max-attempts", "20", "--retention", "7d")
    mailbox("init", "carol", "--expired-retention", "1h")

    assert json.loads((root / "carol/settings.json").read_text()) == {
        "max_attempts": 20,
        "retention": 604800,
        "expired_retention": 3600,
    }


def test_purge_by_reason(mailbox: Callable[..., Any], root: Path, alice: Mailbox) -> None:
    """Expired mail goes, what failed stays."""
    alice.send("bob", "expired", ttl=0.001)
    failed = alice.send("bob", "failed")
    time.sleep(0.01)
    mailbox("watch", "--drain", "--max-attempts", "1", "--", "false")
    purged = mailbox("dead", "purge", "--reason", "expired")

    assert len(purged.lines) == 1
    assert [path.name[: len(failed)] for path in (root / "bob/dead").glob("*.json")] == [failed]


def test_status_shows_the_settings(mailbox: Callable[..., Any], root: Path, bob: Mailbox) -> None:
    """For people and for programs; damaged ones are the box's own row, and hide no other."""
    mailbox("init", "bob", "--max-attempts", "3", "--retention", "7d")
    shown = mailbox("status", "bob").out
    record = mailbox("status", "bob", "--json").records[0]
    Mailbox.init("alice", root).close()
    (root / "bob/settings.json").write_text("{")
    (root / "alice/settings.json").symlink_to("/etc/passwd")
    rows = mailbox("status", "alice", "bob", "--json").records

    assert "3 attempts" in shown
    assert record["settings"] == {"max_attempts": 3, "retention": 604800}
    assert [bool(row["problem"]) for row in rows] == [True, True]


def test_doctor_names_expired_mail_that_nothing_deletes(
    mailbox: Callable[..., Any], root: Path, alice: Mailbox
) -> None:
    """Until the box has a setting for it."""
    Mailbox.init("bob", root).close()
    alice.send("bob", "expired", ttl=0.001)
    time.sleep(0.01)
    with Mailbox("bob", root) as bob:
        bob.receive()
    before = mailbox("doctor", "bob", "--json").out
    mailbox("init", "bob", "--expired-retention", "7d")
    after = mailbox("doctor", "bob", "--json").out

    assert "--expired-retention" in before
    assert "--expired-retention" not in after
