"""scripts/bench: it runs, and says what it found in the promised shape. The figures themselves are nobody's rule."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import against, box, peers, relay, rivals, seal, table, wake
from support.paths import REPO, SCRIPTS

BENCH = SCRIPTS / "bench"
TINY = box.Plan(n=3, n_flushed=2, slices=2, repetitions=2, backlogs=(10, 400), looks=1, disks=("tmpfs",))


@pytest.fixture(scope="module")
def report() -> table.Report:
    """One run, as small as can be."""
    return box.measure(plan=TINY)


def test_a_run_gives_every_figure_beside_its_reference(report: table.Report) -> None:
    """Each table names its unit; each figure has its n, and a ratio within its spread."""
    found = json.loads(table.as_json(report))
    figures = {(each["title"], figure["what"]): figure for each in found["tables"] for figure in each["figures"]}

    assert {"python", "kernel", "cpus", "seconds", "tables", "grids", "notes"} == set(found)
    assert all(each["unit"] for each in found["tables"])
    assert {what for title, what in figures if title == "tmpfs, not flushed"} == {"put", "drain", "cycle"}
    for figure in figures.values():
        assert figure["n"] >= 1
        assert figure["ours"] >= 0
        if figure["ratio"] is not None:
            assert figure["reference"] > 0
            assert figure["spread"][0] <= figure["ratio"] <= figure["spread"][1]
        assert (figure["mark"] is None) == (figure["wanted"] is None)


def test_every_system_is_woken_and_every_listener_sits_idle() -> None:
    """Each of the others is shown beside the bare one, then what listening costs beside how soon mail is found."""
    report = wake.measure(plan=wake.Plan(samples=4, repetitions=2, idle=0.1, rounds=1))
    middle, slow, idle, found, conversing = json.loads(table.as_json(report))["tables"]
    listeners = [figure["what"] for figure in idle["figures"]]

    assert [figure["what"] for figure in middle["figures"]] == [figure["what"] for figure in slow["figures"]]
    assert {"send, callback", "send, async callback", "mv, callback"} < {each["what"] for each in middle["figures"]}
    for figure in (*middle["figures"], *slow["figures"]):
        assert figure["n"] == 4
        assert figure["ours"] > 0 < figure["reference"]
        assert figure["spread"][0] <= figure["ratio"] <= figure["spread"][1]
    for moved in (found, conversing):
        assert [figure["what"] for figure in moved["figures"]] == listeners
        assert (idle["unit"], moved["unit"]) == ("% of a core", "ms")
        assert all(figure["ours"] > 0 for figure in moved["figures"])
    assert all(figure["ours"] >= 0 for figure in idle["figures"])  # in a tenth of a second perhaps no tick of the clock


def test_a_version_beside_itself_is_measured_in_every_row() -> None:
    """Both sides of every figure are there; a folder that is no checkout is refused."""
    report = against.measure(str(REPO), plan=against.Plan(messages=3, wakes=2, starts=1, rounds=2))
    figures = [figure for each in report.tables for figure in each.figures]

    assert [figure.what for figure in figures] == ["put", "drain", "cycle", "callback", "wake", "start"]
    assert all(figure.ours > 0 < (figure.reference or 0) for figure in figures)
    with pytest.raises(SystemExit, match="is no checkout"):
        against.measure(str(SCRIPTS))


def test_peers_stand_beside_us_in_every_column() -> None:
    """Speed, a backlog, and exact counts after kill -9: of which ours are none."""
    maildir = "Maildir (standard library)"
    plan = peers.Plan(n=5, n_flushed=3, slices=2, backlog=20, stress=30)
    report = peers.measure(plan=plan, names=(rivals.OURS, maildir))
    tmpfs = [each for each in report.tables if each.title.startswith("tmpfs")]
    [grid] = report.grids

    assert [each.title.split(": ")[1] for each in tmpfs][:3] == ["put", "drain", "cycle"]
    assert len(tmpfs) == 5
    assert {figure.what for each in report.tables for figure in each.figures} == {maildir}
    assert all(figure.ours > 0 < (figure.reference or 0) for each in report.tables for figure in each.figures)
    assert [row[0] for row in grid.rows] == [rivals.OURS, maildir]
    assert grid.rows[0][1:4] == ("0", "0", "0")  # lost, twice, out of order: without kills


def test_what_was_lost_or_came_twice_is_counted(tmp_path: Path) -> None:
    """The count itself: a checker that finds nothing where there is something proves nothing."""
    (tmp_path / "writer-0").write_text("try 0\nsent 0\ntry 1\nsent 1\ntry 2\nsent 2\ntry 3\nsent 3\ntry 4\nsen")
    (tmp_path / "reader-0").write_text("begin\n0 2\n0 1\nbegin\n0 1\n0 ")

    assert peers._counted(str(tmp_path)) == ("2", "1", "1")


def test_sealing_is_shown_beside_the_bare_calls() -> None:
    """Each operation with what libsodium alone takes for it; only sealing has a bound."""
    [each] = json.loads(table.as_json(seal.measure(plan=seal.Plan(rounds=3, repetitions=2))))["tables"]

    assert [figure["what"] for figure in each["figures"]][:4] == ["seal", "open", "sign", "verify"]
    assert [figure["wanted"] for figure in each["figures"]] == [2.0] + [None] * 5
    for figure in each["figures"]:
        assert figure["n"] == 6
        assert figure["ours"] > 0 < figure["reference"]
        assert figure["spread"][0] <= figure["ratio"] <= figure["spread"][1]


def test_the_relay_is_measured_and_killed_and_its_log_tampered_with() -> None:
    """What must be none is none; whatever was tampered with is found by both verifiers."""
    plan = relay.Plan(20, 4, 2, 3, 0.1, messages=30, kills=2, lines=3, disk="tmpfs")
    found = {figure.what: figure for each in relay.measure(plan=plan).tables for figure in each.figures}

    assert {"backlog, carried", "p95, send to receive", "p95, while a third agent is full"} < set(found)
    assert found["backlog, carried"].ours > 0
    assert any(what.startswith("lost, ") for what in found)
    for what, figure in found.items():
        if what.startswith(("lost, ", "there twice", "other than")):
            assert figure.n >= 30
            assert figure.ours == 0
    for who in ("ours", "scripts/audit-verify"):
        assert found[f"found by {who}"].ours == found[f"found by {who}"].n == 15


def test_a_backlog_is_listed_once(report: table.Report) -> None:
    """What waits is listed once, not once a message: the one figure here that does not depend on the machine."""
    [listed] = [each for each in report.tables if each.unit == "times"]

    assert [figure.ours for figure in listed.figures] == [1]


def test_the_table_is_aligned(report: table.Report) -> None:
    """People read columns: within a table, the header and all rows end their ratio in the same place."""
    block = next(part for part in table.as_text(report).split("\n\n") if part.startswith("tmpfs, not flushed"))
    _, header, *rows = block.splitlines()
    column = header.index("ratio") + len("ratio")

    assert len(rows) == 3
    assert all(row[column - 1].isdigit() and row[column] == " " for row in rows)


@pytest.mark.parametrize(
    ("value", "wanted", "bound", "mark"),
    [
        pytest.param(0.7, 0.65, "at least", "ok", id="reached"),
        pytest.param(0.6, 0.65, "at least", "below", id="not-reached"),
        pytest.param(1.2, 1.5, "at most", "ok", id="kept"),
        pytest.param(1.6, 1.5, "at most", "below", id="exceeded"),
        pytest.param(0.6, None, "at least", "", id="nothing-wanted"),
    ],
)
def test_a_mark_says_whether_it_is_what_was_wanted(value: float, wanted: float | None, bound: str, mark: str) -> None:
    """The ratio decides, and where there is none the figure itself."""
    least_or_most: table.Bound = "at least" if bound == "at least" else "at most"

    assert table.Figure("put", 1, 1000, 1000, value, wanted=wanted, bound=least_or_most).mark == mark
    assert table.Figure("put", 1, value, wanted=wanted, bound=least_or_most).mark == mark


def test_wrong_usage_exits_with_2() -> None:
    """A benchmark that does not exist, and an option that does not, are usage errors."""
    for arguments in (["nonsense"], ["box", "--slow"]):
        done = subprocess.run([sys.executable, BENCH, *arguments], capture_output=True, text=True, check=False)

        assert done.returncode == 2
        assert "usage: scripts/bench" in done.stderr
