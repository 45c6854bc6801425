"""The Unix socket: ring, hear."""

import asyncio
import contextlib
import gc
import os
import select
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from filemailbox.wake import doorbell
from filemailbox.wake.doorbell import Bell, has_listener
from filemailbox.wake.ringer import MAX_BELLS_KEPT, MAX_BELLS_RUNG, MAX_SOCKETS_TRIED, Ringer
from filemailbox.wake.waker import Waker
from support.waiting import Until

LISTEN = """
import select, sys
from filemailbox.wake.doorbell import Bell
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
        bell.clear()
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
        bell.clear()
    ringer.ring("bob")

    assert before
    assert rung(bell)


def test_a_bell_that_was_hung_after_the_first_ring_is_found(
    hang: Callable[..., Bell], ringer: Ringer, until: Until
) -> None:
    """The ringer lists the folder again when it has changed."""
    ringer.ring("bob")
    first = hang()
    until(lambda: reached(ringer, first))
    second = hang()
    first.clear()
    until(lambda: reached(ringer, second))

    assert rung(first)


def test_a_bell_in_the_place_of_one_that_is_gone_rings_at_once(run: Path, hang: Callable[..., Bell]) -> None:
    """A listener was started again, and the folder does not show it: the closed socket does."""
    ringer = Ringer(str(run.parent.parent), folder_ttl=3600.0, mtime_tick_ns=0)
    first = hang()
    ringer.ring("bob")
    mtime = os.stat(run).st_mtime_ns
    first.close()
    second = hang()
    os.utime(run, ns=(mtime, mtime))
    rang = reached(ringer, second)
    ringer.close()

    assert rang


def test_an_answer_rings_a_bell_that_was_just_hung_beside_another(run: Path, hang: Callable[..., Bell]) -> None:
    """A requester waits for its reply at a bell of its own, which is perhaps a moment old. Other rings may miss it."""
    ringer = Ringer(str(run.parent.parent), bells_ttl=3600.0, folder_ttl=3600.0, mtime_tick_ns=0)
    first = hang()
    ringer.ring("bob")
    second = hang()
    first.clear()
    missed = reached(ringer, second), rung(first)
    first.clear()
    ringer.look_again("bob")
    rang = reached(ringer, second), rung(first)
    ringer.close()

    assert missed == (False, True)
    assert rang == (True, True)


def test_a_bell_that_was_hung_within_one_tick_of_the_clock_is_found(
    run: Path, hang: Callable[..., Bell], until: Until
) -> None:
    """A folder can change without its mtime changing: times come in ticks of some milliseconds."""
    ringer = Ringer(str(run.parent.parent), folder_ttl=3600.0)
    tick = 4_000_000_000 * 1_000_000_000  # not over yet
    os.utime(run, ns=(tick, tick))
    ringer.ring("bob")
    bell = hang()
    os.utime(run, ns=(tick, tick))
    until(lambda: reached(ringer, bell))
    ringer.close()

    assert os.stat(run).st_mtime_ns == tick


def test_a_box_that_was_replaced_is_found(tmp_path: Path, run: Path, hang: Callable[..., Bell], until: Until) -> None:
    """The ringer opens the folder again after a while."""
    ringer = Ringer(str(tmp_path), folder_ttl=0.0)
    old = hang()
    ringer.ring("bob")
    (tmp_path / "bob").rename(tmp_path / "gone")
    run.mkdir(parents=True)
    new = hang()
    until(lambda: reached(ringer, new))
    ringer.close()

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


def test_a_ringer_keeps_few_descriptors_however_many_boxes_it_rings(tmp_path: Path, hang: Callable[..., Bell]) -> None:
    """The one that was known longest goes; it is found again when it is needed."""
    ringer = Ringer(str(tmp_path), max_boxes=2)
    bells = []
    for n in range(10):
        (tmp_path / f"box{n}/run").mkdir(parents=True)
        bells.append(hang(tmp_path / f"box{n}/run"))
    before = descriptors()
    for n in (*range(10), *range(10)):
        ringer.ring(f"box{n}")
    kept = descriptors() - before
    ringer.close()

    assert all(map(rung, bells))
    assert kept <= 1 + 2 * 2  # its socket; a folder and a bell for each box


def test_a_ringer_that_was_closed_has_let_go_and_can_ring_again(hang: Callable[..., Bell], ringer: Ringer) -> None:
    """close() is not the end: the mailbox can be used after."""
    bell, before = hang(), descriptors()
    ringer.ring("bob")
    ringer.close()
    after = descriptors()
    bell.clear()
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
from filemailbox.wake.ringer import Ringer
ringer = Ringer(sys.argv[1])
ringer.ring("nobody")
with ringer._lock:  # as if another thread was at it
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
    heard = rung(bell), has_listener(bell.path)
    ringer.close()
    bell.close()

    assert heard == (True, True)
    assert not has_listener(bell.path)


def test_closing_takes_the_bell_down(run: Path, hang: Callable[..., Bell]) -> None:
    """Nobody finds it any more; closing it twice does no harm."""
    bell = hang()
    hung = bell.is_bound()
    bell.close()
    bell.close()

    assert hung
    assert not bell.is_bound()
    assert os.listdir(run) == []


def test_a_bell_that_was_wiped_away_knows_it(run: Path, hang: Callable[..., Bell]) -> None:
    """Somebody has emptied run/: its listener hangs a new one. Closing the old one does not take that down."""
    bell = hang()
    os.unlink(bell.path)
    other = dead_bell(run, Path(bell.path).name)
    hung = bell.is_bound()
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
from filemailbox.wake.doorbell import Bell
bell = Bell(sys.argv[1])
child = os.fork()
if child == 0:
    bell.close()
    sys.exit()
os.waitpid(child, 0)
print(bell.is_bound())
""",
        run,
    )

    assert program.line() == "True"


def test_whether_somebody_listens_can_be_asked_without_ringing(run: Path, hang: Callable[..., Bell]) -> None:
    """The kernel knows."""
    bell = hang()
    (run / "file").touch()

    assert has_listener(bell.path)
    assert not rung(bell)
    assert not has_listener(str(dead_bell(run, "dead")))
    assert not has_listener(f"{run}/nothing")
    assert not has_listener(f"{run}/file")


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


# Descriptors that come with a ring


RING = """
import os, socket, sys
ringer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
ringer.connect(sys.argv[1])
ringer.setblocking(False)
load = int(sys.argv[2])
sys.stdin.read()  # until we are the only one who holds it
try:
    for _ in range(200):  # so many times, so that we let go before whoever hears it
        socket.send_fds(ringer, [b"!"], [load])
except BlockingIOError:
    pass
except PermissionError:
    sys.exit(1)
os.close(load)
"""


class Load:
    """A TCP socket with unsent data and an hour to send it in: whoever closes it last stands still for so long."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.socket = socket.create_connection(server.getsockname())
            self.peer, _ = server.accept()
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.send(bytes(65536))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))

    def ring(self, path: str) -> bool:
        """Let a program ring the bell at *path* with it, and end. Returns whether the kernel let it through."""
        command = [sys.executable, "-I", "-S", "-c", RING, path, str(self.socket.fileno())]
        with subprocess.Popen(command, pass_fds=[self.socket.fileno()], stdin=subprocess.PIPE) as ringer:
            self.socket.close()
            assert ringer.stdin is not None
            ringer.stdin.close()
            try:
                return ringer.wait(5) == 0
            except subprocess.TimeoutExpired:  # the receiver was quicker to let go, and so the ringer stands still
                ringer.kill()
                return True

    def close(self) -> None:
        """Let the one who stands still go on."""
        self.peer.close()
        self.socket.close()


@pytest.fixture
def load() -> Iterator[Load]:
    load = Load()
    yield load
    load.close()


@pytest.fixture(params=[pytest.param(True, id="refused"), pytest.param(False, id="before Linux 6.16")])
def refuse(request: pytest.FixtureRequest) -> bool:
    """Whether the kernel is asked to refuse descriptors. Without, it is as kernels before 6.16 are."""
    return bool(request.param)


def waking(box: Mailbox, refuse: bool) -> Mailbox:
    """*box*, with a bell of that kind."""
    if not refuse:
        vars(box)["_waker"] = Waker(box._box.path, 0.25, refuse=False)
    return box


def receive(box: Mailbox) -> object:
    message = box.receive(timeout=60)
    return message and message.body


def callback(box: Mailbox) -> object:
    taken: list[object] = []

    @box.on()
    def take(message: Any) -> None:
        taken.append(message.body)
        box.stop()

    box.run()
    return taken[0]


async def areceive(box: Mailbox) -> object:
    message = await box.areceive(timeout=60)
    return message and message.body


def request(box: Mailbox) -> object:
    return box.request("alice", "?", timeout=60).body


async def arequest(box: Mailbox) -> object:
    return (await box.arequest("alice", "?", timeout=60)).body


@pytest.mark.parametrize(
    "way",
    [
        receive,
        callback,
        request,
        pytest.param(lambda box: asyncio.run(areceive(box)), id="areceive"),
        pytest.param(lambda box: asyncio.run(arequest(box)), id="arequest"),
    ],
)
def test_a_ring_that_brings_a_descriptor_stops_nobody(
    alice: Mailbox, bob: Mailbox, load: Load, refuse: bool, way: Callable[[Mailbox], object], until: Until
) -> None:
    """Its receiver closes it, which takes an hour here. Refused, or left to a thread, mail comes all the same."""
    taken: list[object] = []
    waking(bob, refuse)
    waiter = threading.Thread(target=lambda: taken.append(way(bob)), daemon=True)
    waiter.start()
    until(lambda: bob._waker.bell and (bob._waker._asleep or bob._waker.waiters))
    load.ring(str(bob._waker.bell))
    if (asked := alice.receive()) is not None:
        asked.reply("here")
    else:
        alice.send("bob", "here")
    until(lambda: taken)
    waiter.join()
    bob.close()

    assert taken == ["here"]


def test_whoever_rings_with_a_descriptor_is_refused(hang: Callable[..., Bell], load: Load) -> None:
    """EPERM, from Linux 6.16 on. It is not a ring either."""
    bell = hang()
    if bell._drain is not None:
        pytest.skip("this kernel cannot refuse descriptors: it is older than Linux 6.16")
    let_through = load.ring(bell.path)

    assert not let_through
    assert not rung(bell)


@pytest.fixture
def deaf(run: Path, load: Load) -> Iterator[Bell]:
    """A bell as before Linux 6.16, which was rung with a descriptor, and hushed: a thread stands still for it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM):  # imported, before any descriptor is counted
        bell = Bell(str(run), refuse=False)
    assert load.ring(bell.path)
    assert rung(bell)
    assert bell.clear()
    yield bell
    bell.close()


def test_a_bell_is_deaf_while_a_descriptor_is_closed_and_hears_again(
    deaf: Bell, ringer: Ringer, load: Load, until: Until
) -> None:
    """It must not wake anybody for a ring that only the thread may take; the rescan finds mail meanwhile."""
    ringer.ring("bob")
    during = rung(deaf), deaf.clear()
    load.close()
    until(lambda: reached(ringer, deaf))

    assert during == (False, False)
    assert deaf.clear()
    assert not deaf.clear()


def test_rings_without_descriptors_are_heard_before_and_after_each_other(run: Path, ringer: Ringer) -> None:
    """As with any bell."""
    bell = Bell(str(run), refuse=False)
    seen = [rung(bell)]
    ringer.ring("bob")
    seen += [rung(bell), bell.clear(), rung(bell), bell.clear()]
    bell.close()

    assert seen == [False, True, True, False, False]
    assert os.listdir(run) == []


def test_a_bell_is_closed_at_once_whatever_lies_in_its_queue(run: Path, load: Load, until: Until) -> None:
    """To close a socket is to close what was sent to it: a thread does that."""
    bell = Bell(str(run), refuse=False)
    load.ring(bell.path)
    closing = threading.Thread(target=bell.close, daemon=True)
    closing.start()
    until(lambda: not closing.is_alive())

    assert os.listdir(run) == []


def test_a_bell_that_is_closed_while_a_thread_stands_still_is_closed_by_that(
    deaf: Bell, load: Load, until: Until
) -> None:
    """Nothing is left once it goes on."""
    deaf.close()
    held = deaf._drain is not None and deaf._drain._bell.fileno() >= 0
    load.close()

    assert held
    until(lambda: deaf._drain is not None and deaf._drain._bell.fileno() < 0)


def test_where_no_thread_can_be_started_the_bell_stays(run: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again at each look; and what is left at the end of a program, the kernel lets go of."""
    bell = Bell(str(run), refuse=False)
    load.ring(bell.path)

    left: list[int] = []

    def none(function: Callable[..., object], arguments: tuple[int, ...]) -> int:
        left.extend(arguments)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(doorbell, "start_new_thread", none)
    heard = bell.clear(), rung(bell)
    bell.close()
    load.close()  # now it can be closed
    os.close(left[0])

    assert heard == (True, True)
    assert len(left) == 1


def test_the_child_of_a_fork_lets_go_without_taking_the_parents_rings(run: Path, start: Callable[..., Any]) -> None:
    """Also where a thread was at the bell at the moment of the fork."""
    program = start(
        """
import os, sys
from filemailbox.wake.doorbell import Bell
from filemailbox.wake.ringer import Ringer
bell, ringer = Bell(sys.argv[1] + "/bob/run", refuse=False), Ringer(sys.argv[1])
ringer.ring("bob")
with bell._drain._lock:
    child = os.fork()
    if child == 0:
        bell.close()
        os._exit(0)
    os.waitpid(child, 0)
print(bell.is_bound(), bell.clear())
""",
        run.parent.parent,
    )

    assert program.line() == "True True"


@pytest.mark.parametrize("option", [pytest.param(9999, id="unknown"), pytest.param(socket.SO_RCVBUF, id="another")])
def test_a_kernel_that_cannot_refuse_is_not_believed_to(
    run: Path, monkeypatch: pytest.MonkeyPatch, option: int
) -> None:
    """It says that it knows no such option; or means another one by that number."""
    monkeypatch.setattr(doorbell, "SO_PASSRIGHTS", option)
    bell = Bell(str(run))
    kind = bell._drain
    bell.close()

    assert kind is not None


# A folder full of bells


def full(run: Path, bells: int, others: int = 0) -> list[socket.socket]:
    """As many bells in there as its owner likes, and other things."""
    hung = []
    here = os.open(run, os.O_PATH)
    for n in range(bells):
        hung.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        hung[-1].bind(f"/proc/self/fd/{here}/{n:012x}")
    os.close(here)
    for n in range(others):
        (run / f"link{n}").symlink_to("nowhere")
    return hung


def test_a_box_with_hundreds_of_bells_takes_few_of_a_senders_descriptors(
    tmp_path: Path, run: Path, ringer: Ringer
) -> None:
    """A process has 1 024, and needs them for other things."""
    hung = full(run, 300)
    before = descriptors()
    ringer.ring("bob")
    kept = descriptors() - before
    heard = sum(bool(select.select([each], [], [], 0)[0]) for each in hung)
    for each in hung:
        each.close()

    assert kept <= 1 + MAX_BELLS_RUNG
    assert heard == MAX_BELLS_RUNG


def test_many_boxes_full_of_bells_take_few_of_a_senders_descriptors(tmp_path: Path, ringer: Ringer) -> None:
    """Their owners may be one. Who was rung longest ago is forgotten, and found again when it is needed."""
    hung, before = [], 0
    for n in range(8):
        (tmp_path / f"box{n}/run").mkdir(parents=True)
        hung += full(tmp_path / f"box{n}/run", 40)
    before = descriptors()
    for n in range(8):
        ringer.ring(f"box{n}")
    kept = descriptors() - before
    ringer.close()
    after = descriptors()
    for each in hung:
        each.close()

    assert kept <= MAX_BELLS_KEPT + 8
    assert after <= before


def test_a_full_folder_is_not_looked_through(run: Path, ringer: Ringer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name that is no bell costs a few calls of the kernel: some are tried, not all."""
    full(run, 0, 3000)
    opened: list[object] = []
    real = os.open

    def counting(path: Any, *arguments: Any, **settings: Any) -> int:
        opened.append(path)
        return real(path, *arguments, **settings)

    monkeypatch.setattr(os, "open", counting)
    ringer.ring("bob")

    assert len(opened) == 1 + MAX_SOCKETS_TRIED


def test_bells_among_the_leftovers_of_an_honest_box_are_found(run: Path, ringer: Ringer) -> None:
    """Twenty listeners, each with its status, and those of twenty that are gone."""
    hung = full(run, 20)
    for n in range(40):
        (run / f"status-{n:012x}.json").touch()
    for n in range(20):
        dead_bell(run, f"{n + 100:012x}")
    ringer.ring("bob")
    heard = [bool(select.select([each], [], [], 0)[0]) for each in hung]
    for each in hung:
        each.close()

    assert all(heard)
