"""Who is there, who listens, how far behind."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import filemailbox
from filemailbox import Mailbox, NoBox, names
from filemailbox import root as roots
from filemailbox.doorbell import Bell
from filemailbox.locks import Lock
from filemailbox.roster import roster, standing

LISTEN = """
import sys
from filemailbox import Mailbox
box = Mailbox("bob", sys.argv[1])
print("ready") if box.receive() is None else None
sys.stdin.readline()
"""


def test_what_lies_where_is_counted(root: Path, bob: Mailbox) -> None:
    """Each state by itself; what may be taken now is waiting."""
    for body in range(6):
        bob.send("bob", body)
    held, retried, put_off, rejected = (bob.receive() for _ in range(4))
    assert held is not None
    assert retried is not None
    assert put_off is not None
    assert rejected is not None
    retried.retry(0)
    put_off.retry(3600)
    rejected.reject("no")
    now = standing(bob.root, names.address("bob"))

    assert (now.new, now.due, now.later, now.held, now.dead, now.done) == (2, 1, 1, 1, 1, 0)
    assert now.waiting == 3
    assert now.oldest is not None
    assert 0 <= now.oldest < 60
    assert (now.uid, now.gid) == (os.getuid(), os.getgid())


def test_foreign_mail_waits_since_it_was_written(root: Path, bob: Mailbox) -> None:
    """Its name says nothing, so its mtime does."""
    path = root / "bob" / "new" / "x.json"
    path.write_text("{}")
    os.utime(path, (1, 1))
    now = standing(bob.root, names.address("bob"))

    assert now.oldest is not None
    assert now.oldest > 1e9


def test_an_empty_box_is_not_behind(bob: Mailbox) -> None:
    """Nothing waits, nobody listens."""
    now = standing(bob.root, names.address("bob"))

    assert (now.waiting, now.oldest, now.attended) == (0, None, False)


def test_a_consumer_that_lives_is_seen(root: Path, bob: Mailbox, start: Callable[..., Any]) -> None:
    """By its lock, held as long as it lives."""
    listening = start(LISTEN, root)
    listening.line()
    assert standing(bob.root, names.address("bob")).consumers == 1

    listening.kill()
    assert standing(bob.root, names.address("bob")).consumers == 0


def test_a_bell_that_hears_is_seen(root: Path, bob: Mailbox) -> None:
    """And one that nobody holds any more is not counted."""
    bell = Bell(str(root / "bob" / "run"))
    assert standing(bob.root, names.address("bob")).bells == 1

    bell.close()
    assert standing(bob.root, names.address("bob")).attended is False


def test_leases_are_named(root: Path, bob: Mailbox) -> None:
    """With what lies in them, and whether they ran out."""
    bob.send("bob", 1)
    with Mailbox("bob", root, lease=60) as box:
        box.receive()
    [lease] = standing(bob.root, names.address("bob")).leases

    assert (lease.held, lease.over) == (1, False)


def test_the_roster_has_every_box(root: Path, bob: Mailbox) -> None:
    """By name; what is no box is not there."""
    (root / "Nobody").mkdir()

    assert [each.name for each in roster(bob.root)] == ["alice", "bob"]
    with pytest.raises(NoBox):
        standing(bob.root, names.address("carol"))


def test_of_another_users_box_only_its_bells_are_known(as_root: None, shared: Path, start: Callable[..., Any]) -> None:
    """What waits there is none of our business."""
    Mailbox.init("bob", shared / "mail").close()
    look = start(
        "import os, sys\n"
        "from filemailbox import root, names, roster\n"
        "os.setgroups([]); os.setgid(4242); os.setuid(4242)\n"
        "print(roster.standing(root.find(sys.argv[1]), names.address('bob')).waiting)",
        shared / "mail",
    )

    assert look.line() == "None"


def test_a_monitor_that_may_only_read_sees_who_listens(as_root: None, shared: Path) -> None:
    """With CAP_DAC_READ_SEARCH and no other right, as a uid of nobody's: what it asks needs nothing to be written."""
    volume = roots.init(shared / "mail")
    roots.create(volume, names.address("bob"), (2001, 2001))
    [folder] = Path(volume.path, "bob/cur").iterdir()
    lock = Lock(str(folder / ".lock"))
    assert lock.take()
    script = "import sys; from filemailbox import root, roster; [now] = roster.roster(root.find(sys.argv[1]))"
    right = ["--ambient-caps", "+dac_read_search", "--inh-caps", "+dac_read_search"]
    said = []
    for rights in ([], right):
        who = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *rights]
        command = [*who, sys.executable, "-c", f"{script}; print(now.consumers, now.new)", volume.path]
        environment = {**os.environ, "PYTHONPATH": str(Path(filemailbox.__file__).parents[1])}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        said.append(done.stdout)
    lock.release()

    assert said[1] == "1 0\n"
    assert said[0] in ("0 None\n", "")  # or it cannot even read where Python lies


def test_a_run_full_of_names_is_not_looked_through(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner can hang thousands, and the operator looks at all boxes."""
    for n in range(2500):
        (root / "bob" / "run" / f"{n:012x}").symlink_to("nowhere")
    looked: list[int] = []

    def look(mode: int) -> bool:
        looked.append(mode)
        return False

    monkeypatch.setattr(stat, "S_ISSOCK", look)
    standing(roots.find(root), names.address("bob"))

    assert len(looked) == 1000
