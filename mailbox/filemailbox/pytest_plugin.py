"""A fixture for tests of programs that use mailbox: a real mailbox on `tmp_path`, not a fake.

    def test_the_builder_answers(mailboxes):
        alice, bob = mailboxes("alice"), mailboxes("bob")
        alice.send("bob", {"path": "x.c"})
        assert bob.receive().body == {"path": "x.c"}

Every pytest run in an environment with this package loads it, so it imports the package at the first use only.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from . import Mailbox


@pytest.fixture
def mailboxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., "Mailbox"]]:
    """A function that creates and opens boxes: `mailboxes("bob")`, on a root of this test alone.

    Keyword arguments are those of Mailbox; `durable` defaults to False here. MAILBOX_ROOT names the root for processes
    that the test starts. All mailboxes are closed at the end of the test.
    """
    from . import Mailbox

    root = tmp_path / "mail"
    monkeypatch.setenv("MAILBOX_ROOT", str(root))
    made: list[Mailbox] = []

    def make(name: str, **settings: Any) -> Mailbox:
        made.append(Mailbox.init(name, root, **{"durable": False, **settings}))
        return made[-1]

    yield make
    for box in made:
        box.close()
