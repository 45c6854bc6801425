"""Reservations: who holds what until when, that two never hold the same, and that they end."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from filemailbox import InvalidRequestError, Mailbox
from filemailbox.agents import reservations as module
from filemailbox.agents.globs import overlap
from filemailbox.agents.reservations import (
    MAX_DURATION,
    MAX_PATTERNS,
    ReservedError,
    blocking,
    release,
    reservations,
    reserve,
)
from filemailbox.errors import NotFoundError
from filemailbox.format.times import format_time

Command = Callable[..., Any]


def later(**by: float) -> Callable[[], datetime]:
    """A clock that is ahead."""
    return lambda: datetime.now(UTC) + timedelta(**by)


def held(box: Mailbox, **by: float) -> list[tuple[str, str]]:
    return [(each.agent, each.pattern) for each in reservations(box, later(**by))]


def test_all_agents_see_what_one_has_reserved(alice: Mailbox, bob: Mailbox) -> None:
    """The pattern, the agent, the reason, the end."""
    reserve(alice, ["./src/**", "README.md"], 60, "refactoring")

    (one, other) = reservations(bob)
    assert (one.agent, one.pattern, one.why, other.pattern) == ("alice", "README.md", "refactoring", "src/**")
    assert 50 < (one.until - datetime.now(UTC)).total_seconds() <= 60


def test_a_glob_that_overlaps_is_refused_with_its_holder(alice: Mailbox, bob: Mailbox) -> None:
    """None of the patterns is reserved then. Those of one agent do not conflict."""
    reserve(alice, ["src/**"], 3600, "refactoring")
    reserve(alice, ["src/a.py"])
    with pytest.raises(ReservedError) as refused:
        reserve(bob, ["docs/**", "src/*.py"], now=later(seconds=10))

    assert {each.pattern for each in refused.value.conflicts} == {"src/**", "src/a.py"}
    assert all(part in str(refused.value) for part in ("alice", "src/**", "refactoring"))
    assert {agent for agent, _ in held(bob)} == {"alice"}


def test_a_reservation_ends_at_its_time(alice: Mailbox, bob: Mailbox) -> None:
    """Nothing has to be running for that."""
    reserve(alice, ["src/**"], 60)

    assert held(bob, seconds=59) == [("alice", "src/**")]
    assert held(bob, seconds=61) == []
    assert reserve(bob, ["src/**"], 60, now=later(seconds=61))


def test_to_reserve_again_prolongs(alice: Mailbox, bob: Mailbox) -> None:
    """One entry stays, with the new end."""
    reserve(alice, ["src/**"], 60)
    reserve(alice, ["src/**"], 600)

    assert held(bob, seconds=500) == [("alice", "src/**")]


def test_a_release_ends_one_or_all(alice: Mailbox, bob: Mailbox) -> None:
    """Only what is reserved can be released, and only by its agent."""
    reserve(alice, ["a", "b", "c"])

    assert release(alice, ["./b"]) == ["b"]
    with pytest.raises(NotFoundError, match='"b"'):
        release(alice, ["a", "b"])
    with pytest.raises(NotFoundError):
        release(bob, ["a"])
    assert held(bob) == [("alice", "a"), ("alice", "c")]
    assert release(alice) == ["a", "c"]
    assert held(bob) == []


def test_it_survives_its_process(root: Path, bob: Mailbox) -> None:
    """It lies on the disk before the command ends."""
    subprocess.run(
        [Path(sys.executable).parent / "mailbox", "reserve", "src/**", "--as", "alice", "--root", root], check=True
    )

    assert held(bob) == [("alice", "src/**")]


def test_of_two_at_the_same_time_one_at_most_has_it(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """Eight processes want overlapping patterns: no two that overlap are ever granted."""
    names = [f"agent{number}" for number in range(6)]
    code = (
        "import sys\n"
        "from filemailbox import Mailbox\n"
        "from filemailbox.agents.reservations import ReservedError, reserve\n"
        "sys.stdin.readline()\n"
        "try: reserve(Mailbox(sys.argv[1], sys.argv[2], durable=False), [sys.argv[3]]); print('granted')\n"
        "except ReservedError: print('refused')\n"
    )
    patterns = ["src/**", "src/a*", "src/*.py", "**/a.py", "docs/**", "src/a.py"]
    running = []
    for name, pattern in zip(names, patterns, strict=True):
        Mailbox.init(name, root).close()
        command = [sys.executable, "-c", code, name, str(root), pattern]
        running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for each in running:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    said = [each.communicate()[0].strip() for each in running]

    granted = [pattern for pattern, word in zip(patterns, said, strict=True) if word == "granted"]
    assert set(said) <= {"granted", "refused"}
    assert "docs/**" in granted
    assert sorted(granted) == sorted(pattern for _, pattern in held(bob))
    assert not [(a, b) for a in granted for b in granted if a < b and overlap(a, b)]


def test_who_writes_second_withdraws(alice: Mailbox, bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob reserves between alice's look and alice's write: alice sees it, and what alice had before is kept."""
    reserve(alice, ["src/a.py"], 60, "before")
    add = module._add
    waits: list[float] = []

    def slower(box: Mailbox, *rest: Any) -> Any:
        if not waits:
            add(bob, ["src/b.py"], 60, "", datetime.now(UTC) - timedelta(seconds=10))
        return add(box, *rest)

    monkeypatch.setattr(module, "_add", slower)
    with pytest.raises(ReservedError):
        reserve(alice, ["src/a.py", "src/b.py"], 600, "after", sleep=waits.append)

    assert [(each.pattern, each.why) for each in reservations(bob)] == [("src/a.py", "before"), ("src/b.py", "")]


def test_a_collision_is_tried_again(alice: Mailbox, bob: Mailbox) -> None:
    """What is a moment old may be withdrawn: it is waited for, for a few pauses."""
    reserve(bob, ["src/**"])

    def sleep(_: float) -> None:
        release(bob)

    reserve(alice, ["src/a.py"], sleep=sleep)

    assert held(alice) == [("alice", "src/a.py")]


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"reservations": "x"},
        {"reservations": [1, {}, {"pattern": 1, "since": "x"}]},
        {"reservations": [{"pattern": "../x", "since": "2026-01-01T00:00:00Z", "until": "2999-01-01T00:00:00Z"}]},
        {"reservations": [{"pattern": "x", "since": "2026-01-01T00:00:00Z", "until": "2999-01-01T00:00:00Z"}]},
        {"reservations": [{"pattern": "x", "since": "2998-12-31T00:00:00Z", "until": "2999-01-01T00:00:00Z"}]},
    ],
)
def test_what_is_no_reservation_counts_for_nothing(alice: Mailbox, bob: Mailbox, body: Any) -> None:
    """Also one for longer than can be reserved, or from the future. Its author can still reserve."""
    alice.document("reservations/alice").create(body)

    assert held(bob) == []
    assert reserve(alice, ["a"])
    assert held(bob) == [("alice", "a")]


def test_a_document_of_another_author_counts_for_nothing(alice: Mailbox, bob: Mailbox) -> None:
    """Bob writes what alice is to have reserved."""
    bob.document("reservations/alice").create(
        {"reservations": [{"pattern": "x", "since": format_time(datetime.now(UTC)), "until": "2999-01-01T00:00:00Z"}]}
    )

    assert held(bob) == []


def test_bad_wishes_are_refused(alice: Mailbox) -> None:
    """No pattern, a time that is none, a reason of two lines, too many."""
    for patterns, duration, why in ((["a"], 0, ""), (["a"], MAX_DURATION + 1, ""), (["a"], 1, "a\nb"), ([], 1, "")):
        with pytest.raises(InvalidRequestError):
            reserve(alice, patterns, duration, why)
    reserve(alice, [f"f{number}" for number in range(MAX_PATTERNS)])
    with pytest.raises(InvalidRequestError, match=str(MAX_PATTERNS)):
        reserve(alice, ["one-more"])


def test_a_hook_before_a_commit_learns_what_others_have(mailbox: Command) -> None:
    """Exit code 73 and the reservations; the own ones do not count; names are taken as they are."""
    assert mailbox("reserve", "src/**", "--for", "1h", "--why", "refactoring", sender="alice").code == 0

    found = mailbox("reserve", "--check", "src/a.py", "README.md", "--json")
    assert found.code == 73
    assert [(each["agent"], each["pattern"], each["why"]) for each in found.records] == [
        ("alice", "src/**", "refactoring")
    ]
    assert mailbox("reserve", "--check", "src/a.py", sender="alice").code == 0
    assert mailbox("reserve", "--check", "README.md", "**").code == 0


def test_the_command_refuses_and_releases(mailbox: Command) -> None:
    """As the functions do."""
    assert mailbox("reserve", "src/**", sender="alice").out.split("\t")[:2] == ["alice", "src/**"]
    assert mailbox("reservations").out.split("\t")[:2] == ["alice", "src/**"]
    assert mailbox("release").code == 2
    assert mailbox("release", "src/**", "--all").code == 2
    assert mailbox("release", "src/**", sender="alice").out == "src/**\n"
    assert mailbox("reservations", "--json").out == ""
    assert mailbox("reserve", "../x").code == 2


def test_only_covering_reservations_block(alice: Mailbox, bob: Mailbox) -> None:
    """A file beside the pattern is free."""
    reserve(alice, ["src/*.py"])

    assert [each.pattern for each in blocking(bob, ["src/x.py"])] == ["src/*.py"]
    assert blocking(bob, ["src/x.md", "x.py"]) == []


def test_the_document_is_plain(root: Path, alice: Mailbox) -> None:
    """`mailbox doc get reservations/alice` shows it, and so does cat."""
    reserve(alice, ["src/**"], why="because")

    (line,) = (root / ".documents/reservations/alice/versions/0000000001.json").read_text().splitlines()
    (entry,) = json.loads(line)["body"]["reservations"]
    assert (entry["pattern"], entry["why"]) == ("src/**", "because")
