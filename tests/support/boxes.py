"""A fresh root, and its boxes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from filemailbox import Mailbox
from filemailbox.format.address import Address
from filemailbox.store.root import find_root
from filemailbox.store.spool import Spool

BOB: Final = Address("bob")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A fresh root with the boxes of alice and bob."""
    path = tmp_path / "mail"
    for name in ("alice", "bob"):
        Mailbox.init(name, path).close()
    return path


@pytest.fixture
def alice(root: Path) -> Iterator[Mailbox]:
    with Mailbox("alice", root, durable=False) as box:
        yield box


@pytest.fixture
def bob(root: Path) -> Iterator[Mailbox]:
    with Mailbox("bob", root, durable=False) as box:
        yield box


@pytest.fixture
def new(root: Path) -> Path:
    """Bob's `new/`."""
    return root / "bob/new"


@pytest.fixture
def taker(root: Path) -> Iterator[Spool]:
    """A consumer of bob's, below the mailbox."""
    taker = Spool(find_root(root).box(BOB))
    yield taker
    taker.close()
