"""Who is there, who listens, how far behind."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import BoxNotFoundError, Mailbox
from filemailbox.format.address import parse_address
from filemailbox.ops.inventory import all_boxes, box_status
from filemailbox.store.box import create_box
from filemailbox.store.root import find_root, init_root
from filemailbox.system.locks import Lock
from filemailbox.wake.doorbell import Bell
from support.paths import SOURCE

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
    held, retried, defer, rejected = (bob.receive() for _ in range(4))
    assert held is not None
    assert retried is not None
    assert defer is not None
    assert rejected is not None
    retried.retry(0)
    defer.retry(3600)
    rejected.reject("no")
    now = box_status(bob.root.box(parse_address("bob")))

    assert (now.new, now.due, now.deferred, now.claimed, now.dead, now.done) == (2, 1, 1, 1, 1, 0)
    assert now.waiting == 3
    assert now.oldest is not None
    assert 0 <= now.oldest < 60
    assert (now.uid, now.gid) == (os.getuid(), os.getgid())


def test_foreign_mail_waits_since_it_was_written(root: Path, bob: Mailbox) -> None:
    """Its name says nothing, so its mtime does."""
    path = root / "bob" / "new" / "x.json"
    path.write_text("{}")
    os.utime(path, (1, 1))
    now = box_status(bob.root.box(parse_address("bob")))

    assert now.oldest is not None
    assert now.oldest > 1e9


def test_an_empty_box_is_not_behind(bob: Mailbox) -> None:
    """Nothing waits, nobody listens."""
    now = box_status(bob.root.box(parse_address("bob")))

    assert (now.waiting, now.oldest, now.has_listener) == (0, None, False)


def test_a_consumer_that_lives_is_seen(root: Path, bob: Mailbox, start: Callable[..., Any]) -> None:
    """By its lock, held as long as it lives."""
    listening = start(LISTEN, root)
    listening.line()
    assert box_status(bob.root.box(parse_address("bob"))).consumers == 1

    listening.kill()
    assert box_status(bob.root.box(parse_address("bob"))).consumers == 0


def test_a_bell_that_hears_is_seen(root: Path, bob: Mailbox) -> None:
    """And one that nobody holds any more is not counted."""
    bell = Bell(str(root / "bob" / "run"))
    assert box_status(bob.root.box(parse_address("bob"))).doorbells == 1

    bell.close()
    assert box_status(bob.root.box(parse_address("bob"))).has_listener is False


def test_leases_are_named(root: Path, bob: Mailbox) -> None:
    """With what lies in them, and whether they ran out."""
    bob.send("bob", 1)
    with Mailbox("bob", root, lease=60) as box:
        box.receive()
    [lease] = box_status(bob.root.box(parse_address("bob"))).leases

    assert (lease.claimed, lease.expired) == (1, False)


def test_the_roster_has_every_box(root: Path, bob: Mailbox) -> None:
    """By name; what is no box is not there."""
    (root / "Nobody").mkdir()

    assert [each.name for each in all_boxes(bob.root)] == ["alice", "bob"]
    with pytest.raises(BoxNotFoundError):
        box_status(bob.root.box(parse_address("carol")))


def test_of_another_users_box_only_its_bells_are_known(as_root: None, shared: Path, start: Callable[..., Any]) -> None:
    """What waits there is none of our business."""
    Mailbox.init("bob", shared / "mail").close()
    look = start(
        "import os, sys\n"
        "from filemailbox.store.root import find_root; from filemailbox.format.address import parse_address\n"
        "from filemailbox.ops.inventory import box_status\n"
        "os.setgroups([]); os.setgid(4242); os.setuid(4242)\n"
        "print(box_status(find_root(sys.argv[1]).box(parse_address('bob'))).waiting)",
        shared / "mail",
    )

    assert look.line() == "None"


def test_a_monitor_that_may_only_read_sees_who_listens(as_root: None, shared: Path) -> None:
    """With CAP_DAC_READ_SEARCH and no other right, as a uid of nobody's: what it asks needs nothing to be written."""
    volume = init_root(shared / "mail")
    create_box(volume.box(parse_address("bob")), (2001, 2001))
    [folder] = Path(volume.path, "bob/cur").iterdir()
    lock = Lock(str(folder / ".lock"))
    assert lock.take()
    script = (
        "import sys; from filemailbox.store.root import find_root; from filemailbox.ops.inventory import all_boxes; "
        "[now] = all_boxes(find_root(sys.argv[1]))"
    )
    right = ["--ambient-caps", "+dac_read_search", "--inh-caps", "+dac_read_search"]
    said = []
    for rights in ([], right):
        who = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *rights]
        command = [*who, sys.executable, "-c", f"{script}; print(now.consumers, now.new)", volume.path]
        environment = {**os.environ, "PYTHONPATH": SOURCE}
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
    box_status(find_root(root).box(parse_address("bob")))

    assert len(looked) == 1000
