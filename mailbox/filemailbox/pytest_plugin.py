"""A fixture for the tests of programs that use mailbox: a real one, on `tmp_path`, no fake.

    def test_the_builder_answers(mailboxes):
        alice, bob = mailboxes("alice"), mailboxes("bob")
        alice.send("bob", {"path": "x.c"})
        assert bob.receive().body == {"path": "x.c"}

It is loaded in every pytest run of whoever has the package installed, so nothing else is imported before it is used.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from . import Mailbox


@pytest.fixture
def mailboxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., "Mailbox"]]:
    """Makes boxes: `mailboxes("bob")` is bob's, on a root of the test's own; settings are those of Mailbox.

    MAILBOX_ROOT names that root for what the test starts. Boxes are closed at its end. They are not flushed to the
    disk unless `durable=True`.
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
