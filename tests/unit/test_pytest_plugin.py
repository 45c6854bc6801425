"""The fixture that users get with the package, used as they use it."""

import os
from collections.abc import Callable
from pathlib import Path

from filemailbox import Mailbox


def test_the_fixture_makes_real_boxes(mailboxes: Callable[..., Mailbox], tmp_path: Path) -> None:
    """`mailboxes("bob")` is a box on the test's own folder, which MAILBOX_ROOT names for whatever the test starts."""
    alice, bob = mailboxes("alice"), mailboxes("bob", max_attempts=1)
    alice.send("bob", {"path": "x.c"})
    message = bob.receive()

    assert message is not None
    assert message.body == {"path": "x.c"}
    assert os.environ["MAILBOX_ROOT"] == bob.root.path == str(tmp_path / "mail")


def test_the_same_name_twice_is_the_same_box(mailboxes: Callable[..., Mailbox]) -> None:
    """Two consumers of one box, for tests of several workers."""
    one, two = mailboxes("bob"), mailboxes("bob")
    one.send("bob", 1)
    taken = [one.receive(), two.receive()]

    assert [message.body for message in taken if message is not None] == [1]
