"""What the tests of documents share: a document `plan` at version 1, and its folders."""

from collections.abc import Callable
from pathlib import Path

import pytest

from filemailbox import Mailbox
from filemailbox.documents import history as histories
from filemailbox.documents.document import Document
from filemailbox.documents.history import History
from filemailbox.store import root as roots


@pytest.fixture
def plan(alice: Mailbox) -> Document[dict[str, int]]:
    """Alice's document, at version 1."""
    document = alice.document("plan")
    document.create({"n": 1})
    return document


@pytest.fixture
def home(root: Path) -> Path:
    return root / ".documents/plan"


@pytest.fixture
def versions(home: Path) -> Path:
    return home / "versions"


@pytest.fixture
def cold(root: Path) -> Callable[[], History]:
    """cold(): the history as a new process sees it."""
    return lambda: History(roots.find_root(root), "plan")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has not changed for a moment is moved away, not after five seconds."""
    monkeypatch.setattr(histories, "UNCHANGED", 0.0)
