"""The Unix socket: ring, hear."""

import gc
import os
import select
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import doorbell
from filemailbox.doorbell import Bell, Ringer, hears

Until = Callable[[Callable[[], object]], None]

LISTEN = """
import select, sys
from filemailbox.doorbell import Bell
bell = Bell(sys.argv[1])
print("hung")
ear = select.poll()
ear.register(bell, select.POLLIN)
ear.poll()
print("rung")
sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The run/ of the box bob."""
    path = tmp_path / "bob/run"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def ringer(tmp_path: Path) -> Iterator[Ringer]:
    ringer = Ringer(str(tmp_path))
    yield ringer
    ringer.close()


@pytest.fixture
def hang(run: Path) -> Iterator[Callable[..., Bell]]:
    """hang(): one more bell in there, or in another folder."""
    bells: list[Bell] = []

    def hang(folder: Path = run) -> Bell:
        bells.append(Bell(str(folder)))
        return bells[-1]

    yield hang
    for bell in bells:
        bell.close()


def rung(bell: Bell) -> bool:
    """Whether it rings now. A ring is there before ring() returns: there is nothing to wait for."""
    return bool(select.select([bell], [], [], 0)[0])


def reached(ringer: Ringer, bell: Bell) -> bool:
    """Ring the box bob; whether the bell rings."""
    ringer.ring("bob")
    return rung(bell)


def settled(hang: Callable[..., Bell], ringer: Ringer, monkeypatch: pytest.MonkeyPatch) -> Bell:
    """A bell that the ringer knows, and takes to be the only one for a long time to come."""
    monkeypatch.setattr(doorbell, "_FRESH", 0)
    for period in ("_AMONG", "_TRUST"):
        monkeypatch.setattr(doorbell, period, 3600.0)
    bell = hang()
    ringer.ring("bob")
    bell.hush()
    return bell


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def dead_bell(run: Path, name: str) -> Path:
    """A socket whose listener was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        here = os.open(run, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/{name}")
        os.close(here)
    return run / name


# Ringing


def test_a_ring_reaches_a_bell(hang: Callable[..., Bell], ringer: Ringer) -> None:
    """It rings until it is hushed, and then again."""
    bell = hang()
    seen = [rung(bell)]
    for _ in range(2):
        ringer.ring("bob")
        seen.append(rung(bell))
        bell.hush()
        seen.append(rung(bell))

    assert seen == [False, True, False, True, False]


def test_a_ring_reaches_a_bell_in_another_process(run: Path, ringer: Ringer, start: Callable[..., Any]) -> None:
    """Through the file system: no port, no name, no pid."""
    program = start(LISTEN, run)
    heard = [program.line()]
    ringer.ring("bob")
    heard.append(program.line())

    assert heard == ["hung", "rung"]


def test_a_ring_reaches_every_bell_of_the_box_and_no_other(
    tmp_path: Path, hang: Callable[..., Bell], ringer: Ringer
) -> None:
    """Each listener has one of its own, so that all of them look."""
    (tmp_path / "carol/run").mkdir(parents=True)
    ours, theirs = [hang() for _ in range(3)], hang(tmp_path / "carol/run")
    ringer.ring("bob")

    assert [rung(bell) for bell in ours] == [True] * 3
    assert not rung(theirs)


def test_a_full_queue_is_ringing_already(hang: Callable[..., Bell], ringer: Ringer) -> None:
    """Nobody waits for a listener that is busy or stopped; and hushing ends, however many rings there are."""
    bell = hang()
    for _ in range(3_000):
        ringer.ring("bob")
    before = rung(bell)
    while rung(bell):
        bell.hush()
    ringer.ring("bob")

    assert before
    assert rung(bell)


def test_a_bell_that_was_hung_after_the_first_ring_is_found(
    hang: Callable[..., Bell], ringer: Ringer, until: Until
) -> None:
    """The ringer keeps what it knows for a quarter of a second, not longer."""
    ringer.ring("bob")
    first = hang()
    until(lambda: reached(ringer, first))
    second = hang()
    first.hush()
    until(lambda: reached(ringer, second))

    assert rung(first)


def test_a_bell_in_the_place_of_one_that_is_gone_rings_at_once(
    hang: Callable[..., Bell], ringer: Ringer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener was started again: nobody waits until the ringer looks by itself."""
    first = settled(hang, ringer, monkeypatch)
    first.close()
    second = hang()

    assert reached(ringer, second)


def test_an_answer_rings_a_bell_that_has_just_been_hung_beside_another(
    hang: Callable[..., Bell], ringer: Ringer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for an answer is woken by that bell alone. Any other ring leaves it to the next look."""
    first = settled(hang, ringer, monkeypatch)
    second = hang()
    ringer.ring("bob")
    before = rung(first), rung(second)
    ringer.ring("bob", look=True)

    assert before == (True, False)
    assert rung(second)


def test_a_bell_that_was_hung_within_one_tick_of_the_clock_is_found(
    run: Path, hang: Callable[..., Bell], ringer: Ringer, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder can change without its mtime changing: times come in ticks of some milliseconds."""
    monkeypatch.setattr(doorbell, "_TRUST", 3600.0)
    tick = 4_000_000_000 * 1_000_000_000  # not over yet
    os.utime(run, ns=(tick, tick))
    ringer.ring("bob")
    bell = hang()
    os.utime(run, ns=(tick, tick))
    until(lambda: reached(ringer, bell))

    assert os.stat(run).st_mtime_ns == tick


def test_a_box_that_was_replaced_is_found(
    tmp_path: Path, run: Path, hang: Callable[..., Bell], ringer: Ringer, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old folder is not believed for ever."""
    monkeypatch.setattr(doorbell, "_TRUST", 0.0)
    old = hang()
    ringer.ring("bob")
    (tmp_path / "bob").rename(tmp_path / "gone")
    run.mkdir(parents=True)
    new = hang()
    until(lambda: reached(ringer, new))

    assert rung(old)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda run: run.rmdir(), id="no run/"),
        pytest.param(lambda run: (run.rmdir(), run.parent.rmdir()), id="no box"),
        pytest.param(lambda run: (run.rmdir(), run.write_text("x")), id="run/ is a file"),
        pytest.param(lambda run: (run / "x").write_text("x"), id="a file in it"),
        pytest.param(lambda run: (run / "x").mkdir(), id="a folder in it"),
        pytest.param(lambda run: os.mkfifo(run / "x"), id="a FIFO in it"),
        pytest.param(lambda run: (run / "x").symlink_to("nowhere"), id="a dead link in it"),
        pytest.param(lambda run: dead_bell(run, "x"), id="the bell of a dead listener"),
    ],
)
def test_ringing_never_raises_and_never_waits(run: Path, ringer: Ringer, damage: Callable[[Path], Any]) -> None:
    """It is advice: the message is in place already. Nor does it keep anything open."""
    damage(run)
    before = descriptors()
    for _ in range(3):
        ringer.ring("bob")
    ringer.close()

    assert descriptors() <= before


def test_what_is_no_bell_does_not_keep_the_others_from_ringing(
    run: Path, hang: Callable[..., Bell], ringer: Ringer
) -> None:
    """Dead listeners, files and links lie between them."""
    bell = hang()
    for n in "0f":  # before and after it, whatever its name
        dead_bell(run, n)
        (run / f"{n}.json").write_text("{}")
    ringer.ring("bob")

    assert rung(bell)


def test_a_link_is_never_followed(tmp_path: Path, run: Path, hang: Callable[..., Bell], ringer: Ringer) -> None:
    """Else the owner of a box could make others ring a socket that only they may use."""
    (tmp_path / "private").mkdir()
    private = hang(tmp_path / "private")
    (run / "link").symlink_to(private.path)
    (tmp_path / "carol").mkdir()
    (tmp_path / "carol/run").symlink_to(tmp_path / "private")
    ringer.ring("bob")
    ringer.ring("carol")

    assert not rung(private)


def test_a_hidden_bell_is_not_rung(run: Path, hang: Callable[..., Bell], ringer: Ringer) -> None:
    """It is not finished: its mode is not set yet."""
    bell = hang()
    os.rename(bell.path, run / ".half")
    ringer.ring("bob")
    heard = rung(bell)
    (run / ".half").unlink()

    assert not heard


def test_a_ringer_keeps_few_descriptors_however_many_boxes_it_rings(
    tmp_path: Path, hang: Callable[..., Bell], ringer: Ringer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was known longest goes; it is found again when it is needed."""
    monkeypatch.setattr(doorbell, "_BOXES", 2)
    bells = []
    for n in range(10):
        (tmp_path / f"box{n}/run").mkdir(parents=True)
        bells.append(hang(tmp_path / f"box{n}/run"))
    before = descriptors()
    for n in (*range(10), *range(10)):
        ringer.ring(f"box{n}")
    kept = descriptors() - before

    assert all(map(rung, bells))
    assert kept <= 1 + 2 * 2  # its socket; a folder and a bell for each box


def test_a_ringer_that_was_closed_has_let_go_and_can_ring_again(hang: Callable[..., Bell], ringer: Ringer) -> None:
    """close() is not the end: the mailbox can be used after."""
    bell, before = hang(), descriptors()
    ringer.ring("bob")
    ringer.close()
    after = descriptors()
    bell.hush()
    ringer.ring("bob")

    assert after == before
    assert rung(bell)


def test_many_threads_can_ring_at_once(hang: Callable[..., Bell], ringer: Ringer) -> None:
    """One mailbox is shared by all threads of a program."""
    bell, before = hang(), descriptors()
    threads = [threading.Thread(target=lambda: all(reached(ringer, bell) for _ in range(200))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ringer.close()

    assert rung(bell)
    assert descriptors() == before


def test_the_child_of_a_fork_can_ring(run: Path, hang: Callable[..., Bell], start: Callable[..., Any]) -> None:
    """Also where another thread was ringing at the moment of the fork."""
    bell = hang()
    program = start(
        """
import os, sys
from filemailbox.doorbell import Ringer
ringer = Ringer(sys.argv[1])
ringer.ring("nobody")
with ringer._guard:  # as if another thread was at it
    child = os.fork()
    if child == 0:
        ringer.ring("bob")
        os._exit(0)
print(os.waitpid(child, 0)[1])
""",
        run.parent.parent,
    )

    assert program.line() == "0"
    assert rung(bell)


# Hanging


def test_a_bell_can_be_rung_by_anybody_and_read_by_nobody(run: Path, hang: Callable[..., Bell]) -> None:
    """0722, whatever the umask: to send to a socket one needs the right to write it."""
    before = os.umask(0o077)
    try:
        bell = hang()
    finally:
        os.umask(before)

    assert stat.S_IMODE(os.stat(bell.path).st_mode) == 0o722
    assert os.listdir(run) == [Path(bell.path).name]


def test_a_bell_in_no_folder_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    """The listener does without: its rescan must do."""
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        Bell(f"{tmp_path}/nowhere")

    assert descriptors() == before
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("length", [100, 107, 108, 200, 900])
def test_the_path_of_a_bell_may_be_long(tmp_path: Path, length: int) -> None:
    """A socket's address has 107 bytes; volumes are mounted deeper than that."""
    root = tmp_path
    while len(str(root)) + len("/bob/run") < length:
        left = length - len(str(root)) - len("/bob/run") - 1
        root /= "d" * max(1, min(left, 200))
    (root / "bob/run").mkdir(parents=True)
    bell, ringer = Bell(f"{root}/bob/run"), Ringer(str(root))
    ringer.ring("bob")
    heard = rung(bell), hears(bell.path)
    ringer.close()
    bell.close()

    assert heard == (True, True)
    assert not hears(bell.path)


def test_closing_takes_the_bell_down(run: Path, hang: Callable[..., Bell]) -> None:
    """Nobody finds it any more; closing it twice does no harm."""
    bell = hang()
    hung = bell.hangs()
    bell.close()
    bell.close()

    assert hung
    assert not bell.hangs()
    assert os.listdir(run) == []


def test_a_bell_that_was_wiped_away_knows_it(run: Path, hang: Callable[..., Bell]) -> None:
    """Somebody has emptied run/: its listener hangs a new one. Closing the old one does not take that down."""
    bell = hang()
    os.unlink(bell.path)
    other = dead_bell(run, Path(bell.path).name)
    hung = bell.hangs()
    bell.close()

    assert not hung
    assert other.exists()


def test_a_bell_goes_when_nobody_refers_to_it(run: Path) -> None:
    """A mailbox that was not closed leaves no socket behind."""
    Bell(str(run))
    gc.collect()

    assert os.listdir(run) == []


def test_the_child_of_a_fork_does_not_take_its_parents_bell_down(run: Path, start: Callable[..., Any]) -> None:
    """Neither by closing nor by ending."""
    program = start(
        """
import os, sys
from filemailbox.doorbell import Bell
bell = Bell(sys.argv[1])
child = os.fork()
if child == 0:
    bell.close()
    sys.exit()
os.waitpid(child, 0)
print(bell.hangs())
""",
        run,
    )

    assert program.line() == "True"


def test_whether_somebody_listens_can_be_asked_without_ringing(run: Path, hang: Callable[..., Bell]) -> None:
    """The kernel knows."""
    bell = hang()
    (run / "file").touch()

    assert hears(bell.path)
    assert not rung(bell)
    assert not hears(str(dead_bell(run, "dead")))
    assert not hears(f"{run}/nothing")
    assert not hears(f"{run}/file")


def test_bells_of_dead_listeners_are_swept_when_one_is_hung(run: Path, hang: Callable[..., Bell]) -> None:
    """After a minute: a bell that is just being hung is nobody's yet. Those that are heard stay, however old."""
    old, fresh, hidden, living = dead_bell(run, "old"), dead_bell(run, "fresh"), dead_bell(run, ".old"), hang()
    for path in (old, hidden, living.path):
        os.utime(path, (0, 0))
    (run / "status.json").touch()
    os.utime(run / "status.json", (0, 0))
    new = hang()

    assert set(os.listdir(run)) == {"fresh", Path(living.path).name, Path(new.path).name, "status.json"}
    assert fresh.exists()
