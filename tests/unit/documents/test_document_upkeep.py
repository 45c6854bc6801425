"""Upkeep: what gc takes away, what doctor finds and mends, what neither touches."""

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from filemailbox.documents import upkeep
from filemailbox.documents.document import Document
from filemailbox.documents.version import filename
from filemailbox.ops import cleanup, doctor

Plan = Document[dict[str, int]]
DAYS = 3 * 86400


def age(path: Path) -> None:
    then = time.time() - DAYS
    os.utime(path, (then, then), follow_symlinks=False)


@pytest.fixture
def three_days_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ctime of a file cannot be set: the clock is."""
    later = time.time() + DAYS
    monkeypatch.setattr(time, "time", lambda: later)


def cleared(plan: Plan, older_than: float | None = None) -> list[str]:
    """What is left over, taken away."""
    found = []
    for each in cleanup.root_garbage(plan.root, older_than):
        found.append(each.path.partition("/.documents/")[2])
        each.remove()
    return found


def test_old_drafts_go_and_new_ones_stay(plan: Plan, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 36 hours; checkpoints half written as well."""
    for path in ("drafts/abc", "checkpoints/.abc"):
        (home / path).write_text("x")
    assert cleared(plan) == []
    later = time.time() + DAYS
    monkeypatch.setattr(time, "time", lambda: later)

    assert cleared(plan) == ["plan/drafts/abc", "plan/checkpoints/.abc"]
    assert plan.get().version == 1


def test_a_draft_that_is_a_version_goes_and_the_version_stays(plan: Plan, home: Path, three_days_later: None) -> None:
    """Its writer was killed between the link and the end."""
    os.link(home / "versions" / filename(1), home / "drafts/abc")

    assert cleared(plan) == ["plan/drafts/abc"]
    assert plan.get().version == 1


def test_what_was_never_finished_goes(plan: Plan, root: Path) -> None:
    """A document that was being made; in a folder of documents as well."""
    for path in (".new-abc", "plan/.new-def"):
        (root / ".documents" / path / "versions").mkdir(parents=True)
    assert cleared(plan) == []
    for path in (".new-abc", "plan/.new-def"):
        age(root / ".documents" / path)

    assert sorted(cleared(plan)) == [".new-abc", "plan/.new-def"]


def test_a_bell_that_nobody_hears_goes(plan: Plan, home: Path, three_days_later: None) -> None:
    """One that is heard stays."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(home / "run/heard"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
            gone.bind(str(home / "run/gone"))

        assert cleared(plan) == ["plan/run/gone"]


def test_old_versions_go_behind_a_checkpoint(alice: Mailbox, root: Path) -> None:
    """Also those that a member's own puts may not delete. A dry run deletes none."""
    document = alice.document("plan")
    document.create(0)
    for number in range(1, 30):
        document.put(number)
    (root / ".documents/plan/.settings.json").write_text('{"format":1,"keep":5}\n')
    assert list(upkeep.garbage(document.root))  # which does nothing by itself
    assert len(list((root / ".documents/plan/versions").iterdir())) == 30
    found = cleared(document)

    assert found[0] == f"plan/checkpoints/{os.geteuid()}.json"
    assert found[1:] == [f"plan/versions/{filename(number)}" for number in range(1, 26)]
    assert document.get().body == 29
    assert Mailbox("bob", root).document("plan").get().body == 29
    assert cleared(document) == []


def test_what_is_in_the_place_of_the_next_version_goes(plan: Plan, versions: Path, soon: None) -> None:
    """gc moves it to drafts/, as a writer would."""
    (versions / filename(2)).write_text("x")

    assert cleared(plan) == [f"plan/versions/{filename(2)}"]
    assert plan.put({"n": 2}).version == 2


def test_gc_follows_no_link(plan: Plan, root: Path, home: Path, tmp_path: Path, three_days_later: None) -> None:
    """Whatever lies in the place of a folder, nothing outside is touched."""
    outside = tmp_path / "outside"
    for each in ("drafts", "run", ".new-x", "versions"):
        (outside / each).mkdir(parents=True)
        (outside / each / "precious").write_text("x")
        age(outside / each / "precious")
    for each in ("drafts", "run"):
        (home / each).rename(home / f".{each}")
        (home / each).symlink_to(outside / each)
    (root / ".documents/.new-abc").symlink_to(outside / ".new-x")
    (root / ".documents/.removed-abc").symlink_to(outside / ".new-x")
    (root / ".documents/other").symlink_to(outside)
    cleared(plan, 0)

    assert len(list(outside.rglob("precious"))) == 4


# doctor


def found(plan: Plan) -> list[tuple[str, str]]:
    return [(each.level, each.what) for each in upkeep.findings(plan.root)]


def test_a_sound_document_is_not_spoken_of(plan: Plan, home: Path) -> None:
    """Nor is the folder of documents taken for a box."""
    plan.put({"n": 2})

    assert found(plan) == []
    assert not any("documents" in each.problem or "documents" in each.where for each in doctor.examine(plan.root))


def test_doctor_says_what_stands_in_the_way_and_moves_it(plan: Plan, versions: Path, soon: None) -> None:
    """And which files change nothing."""
    (versions / filename(2)).write_text("x")
    (versions / filename(7)).write_text("x")
    (blocked, beyond) = upkeep.findings(plan.root)

    assert blocked.level == "wrong"
    assert "the number of version 2 is taken by a file" in blocked.what
    assert (beyond.level, beyond.what) == ("warning", "1 files have numbers beyond the current version, 1: 7")
    assert blocked.fix is not None
    blocked.fix()
    assert [level for level, _ in found(plan)] == ["warning"]


def test_doctor_says_that_a_history_is_broken(plan: Plan, versions: Path) -> None:
    """What was there before is gone."""
    for number in range(2, 12):
        plan.put({"n": number})
    for number in range(8, 12):
        (versions / filename(number)).unlink()
    ((level, what),) = found(plan)

    assert level == "wrong"
    assert "was there before" in what


@pytest.mark.parametrize(
    ("folder", "mode", "says", "mended"),
    [
        pytest.param("versions", 0o777, "every uid can delete", 0o775, id="open to all"),
        pytest.param("versions", 0o775, "members can delete", 0o3775, id="not sticky"),
        pytest.param("..", 0o777, "others can move whole documents away", None, id="the folder of all"),
    ],
)
def test_doctor_says_which_modes_protect_nothing(
    plan: Plan, home: Path, folder: str, mode: int, says: str, mended: int | None
) -> None:
    """And sets them, where that is safe."""
    (home / folder).chmod(mode)
    (finding,) = upkeep.findings(plan.root)

    assert finding.level == "wrong"
    assert says in finding.what
    if mended is not None:
        assert finding.fix is not None
        finding.fix()
        assert (home / folder).stat().st_mode & 0o7777 == mended


@pytest.mark.parametrize("folder", ["drafts", "run", "checkpoints"])
def test_doctor_misses_a_folder(plan: Plan, home: Path, folder: str) -> None:
    """Reading works without it."""
    (home / folder).rename(home / "aside")
    assert found(plan) == [("wrong", f"it has no {folder}/")]
    assert plan.get().version == 1
    (home / folder).write_text("x")
    assert any(what == f"its {folder} is not a folder" for _, what in found(plan))


def test_doctor_counts_what_is_too_much(plan: Plan, home: Path, versions: Path) -> None:
    """Ten times as many as are to be kept."""
    (home / ".settings.json").write_text('{"format":1,"keep":2}\n')
    for number in range(100, 125):
        (versions / filename(number)).write_text("x")

    assert ("warning", "26 versions lie there, and 2 are kept") in found(plan)


def test_the_folder_of_documents_can_be_no_file(plan: Plan, root: Path) -> None:
    """Then there are none."""
    (root / ".documents").rename(root / "aside")
    (root / ".documents").write_text("x")

    assert [each.what for each in upkeep.findings(plan.root)] == ["it is not a folder"]
    assert list(upkeep.garbage(plan.root)) == []
    assert upkeep.summary(plan.root) is None


def test_a_summary_names_what_is_broken(plan: Plan, alice: Mailbox, versions: Path) -> None:
    """The first of them."""
    alice.document("other").create(1)
    (versions / filename(1)).unlink()
    summary = upkeep.summary(plan.root)

    assert summary == 'documents: 2, 1 of them broken or closed: "plan" …'
    every: list[Any] = [each.as_dict() for each in upkeep.inventory(plan.root)]
    assert [(each["name"], each["version"], bool(each["problem"])) for each in every] == [
        ("other", 1, False),
        ("plan", None, True),
    ]
