"""The proofs of documents, in small; and that each of them catches a writer that is wrong."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from filemailbox.documents import folders
from filemailbox.documents.history import History
from proofs import disks, documents, record, stepper


@pytest.fixture
def place() -> Iterator[str]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = tempfile.mkdtemp(prefix="filemailbox-", dir=memory)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def stepping() -> None:
    if why := stepper.possible():
        pytest.skip(why)


@pytest.mark.parametrize("way", [*documents.WAYS, None], ids=lambda way: way or "all at once")
def test_eight_writers_lose_no_update(place: str, way: str | None) -> None:
    """While one of them is killed now and then; `scripts/prove documents` makes sixteen thousand updates."""
    result = documents.counter(place, way, 25)

    assert result.broken == []
    assert result.counts["updates"] >= 200


def test_writers_that_do_not_look_lose_updates(place: str) -> None:
    """The negative control: the same, with put() and no version."""
    result = documents.control(place, 50)

    assert result.broken == []
    assert result.counts["lost_without_if_version"] > 0


def test_a_writer_that_renames_is_caught(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """rename(2) replaces a version that another writer has just added."""

    def rename(self: Any, opened: Any, draft: str, number: int, file: int) -> bool:
        os.rename(draft, f"{number:010d}.json", src_dir_fd=opened.drafts, dst_dir_fd=opened.versions)
        return True

    monkeypatch.setattr(History, "_link", rename)

    assert any(
        "is lost" in each or "follow" in each or "count" in each
        for each in documents.counter(place, "update", 25).broken
    )


@pytest.mark.parametrize("deed", documents.DEEDS)
def test_whatever_is_killed_where_it_may_be_all_holds(place: str, stepping: None, deed: str) -> None:
    """At every fifth call."""
    result = documents.kills(place, documents.DEEDS[deed], 5)

    assert result.broken == []
    assert result.counts["kills"] > 1


@pytest.mark.parametrize("fault", ["EIO", "short"])
@pytest.mark.parametrize("deed", ["put", "create", "put-over-an-obstacle"])
def test_whichever_call_fails_all_holds(place: str, stepping: None, deed: str, fault: str) -> None:
    """Each call once."""
    assert documents.faults(place, documents.DEEDS[deed], stepper.FAULTS[fault]).broken == []


class TooEarly(documents.Put):
    """A writer that says that it is done before it is."""

    def act(self) -> None:
        self.say("done")
        super().act()


def test_a_writer_that_returns_too_early_is_caught(place: str, stepping: None) -> None:
    """What it said was put is not there."""
    assert "the count is 3, expected 4" in "\n".join(documents.kills(place, TooEarly).broken)


def test_a_document_that_is_made_in_place_is_caught(
    place: str, stepping: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it is seen."""
    put_in_place = folders._put_in_place

    def early(parent: int, hidden: str, building: int, last: str, name: str) -> None:
        os.unlink("versions/0000000001.json", dir_fd=building)
        put_in_place(parent, hidden, building, last, name)

    monkeypatch.setattr(folders, "_put_in_place", early)

    assert documents.kills(place, documents.Create).broken


@pytest.mark.parametrize("kind", [name for name, kind in disks.KINDS.items() if kind.known is None])
def test_a_power_cut_takes_no_change_that_was_put(place: str, kind: str) -> None:
    """Two cuts; `scripts/prove documents` makes twenty on each disk."""
    for number in range(5):  # on a busy machine a cut can come before the first change
        folder = f"{place}/{number}"
        os.mkdir(folder)
        try:
            result = documents.cuts(disks.KINDS[kind], folder, 2)
        except record.LeftOut as why:
            pytest.skip(str(why))
        if result.broken or result.counts["durable_changes"]:
            break

    assert result.broken == []
    assert result.counts["durable_changes"] > 0


def test_a_full_volume_loses_nothing(place: str) -> None:
    """And goes on when there is room."""
    try:
        result = documents.full(place)
    except record.LeftOut as why:
        pytest.skip(str(why))

    assert result.broken == []
    assert result.counts["changes"] > 10
