"""`mailbox bench`: what it says of a volume, and that nothing is left of it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import MailboxError, PermissionDeniedError
from filemailbox.ops import bench
from filemailbox.ops.bench import BenchReport, Measurement
from filemailbox.store.root import find_root, init_root


def result(flush: float = 1.0, kind: str = "ext4", bell: bool = True, watch: bool = True) -> BenchReport:
    figures = [
        Measurement("send, durable", 0.1 + flush, 2),
        Measurement("send, not flushed", 0.1, 1),
        Measurement("wake-up by doorbell", 0.5, 1, works=bell),
        Measurement("wake-up by notification", 0.5, 1, works=watch),
    ]
    return BenchReport("/mail", kind, 0, figures, [])


def test_a_volume_is_measured_and_left_as_it_was(root: Path) -> None:
    """All of it was measured, and what works here works."""
    before = sorted(root.rglob("*"))
    found = bench.measure(find_root(root), 0.3)

    assert [figure.what for figure in found.figures] == [
        "send, durable",
        "send, not flushed",
        "send_many of 64",
        "receive and ack",
        "wake-up by doorbell",
        "wake-up by notification",
    ]
    assert all(0 < figure.median <= figure.p99 for figure in found.figures)
    assert found["wake-up by doorbell"].works is not None
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    ("volume", "told"),
    [
        (result(), []),
        (result(flush=0.0, kind="tmpfs"), ["this volume is memory"]),
        (result(flush=25), ["a flush takes 25 ms here"]),
        (result(flush=0.001), ["only claims to flush"]),
        (result(bell=False), ["the doorbell does not ring here"]),
        (result(watch=False), ["notifications are dead here"]),
        (result(flush=25, bell=False, watch=False), ["a flush takes", "the doorbell", "notifications"]),
    ],
    ids=["sound", "memory", "slow", "too fast", "no bell", "no notifications", "all"],
)
def test_what_to_set_is_told_where_something_is_odd(volume: BenchReport, told: list[str]) -> None:
    """A sentence for each, and none where all is well."""
    advice = list(bench._advice(volume))

    assert len(advice) == len(told)
    assert all(words in sentence for words, sentence in zip(told, advice, strict=True))


def test_a_receiver_that_dies_is_told_and_nothing_is_left(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The boxes go all the same."""
    monkeypatch.setattr(sys, "executable", "/bin/true")

    with pytest.raises(MailboxError, match="the receiver printed nothing"):
        bench.measure(find_root(root), 0.3)
    assert sorted(os.listdir(root)) == [".mailbox", "alice", "bob"]


def test_bench_prints_a_table_or_json(mailbox: Callable[..., Any]) -> None:
    """The same figures for people and for programs."""
    lines = mailbox("bench", "--duration", "300ms").lines
    record = mailbox("bench", "--duration", "300ms", "--json").records[0]

    assert [line.split("\t")[0] for line in lines[2:8]] == [figure["what"] for figure in record["figures"]]
    assert lines[0].endswith("MiB free")
    assert record.keys() == {"path", "kind", "free", "figures", "advice"}


def test_without_the_right_to_make_a_box_nothing_is_measured(
    as_root: None, shared: Path, start: Callable[..., Any]
) -> None:
    """It says so."""
    init_root(shared / "mail")
    (shared / "mail").chmod(0o755)
    look = start(
        "import asyncio, filelock, os, sys\n"
        "from filemailbox import PermissionDeniedError; from filemailbox.ops import bench\n"
        "from filemailbox.store.root import find_root\n"
        "found = find_root(sys.argv[1])\n"
        "os.setgroups([]); os.setgid(4242); os.setuid(4242)\n"
        "try:\n    bench.measure(found, 0.1)\nexcept PermissionDeniedError as error:\n    print(error)",
        shared / "mail",
    )

    assert "making the box" in look.line()
    assert issubclass(PermissionDeniedError, OSError)
