"""Locks that die with their holder."""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox.system.locks import Lock, is_held, taken
from support.uids import Actor, act

HOLD = """
import os, subprocess, sys
from filemailbox.system.locks import Lock, is_held
lock = Lock(sys.argv[1])
assert lock.take()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return f"{tmp_path}/.lock"


@pytest.fixture
def lock(path: str) -> Iterator[Lock]:
    lock = Lock(path)
    yield lock
    lock.release()


def test_a_lock_that_is_held_is_refused(path: str, lock: Lock) -> None:
    """Also within one process: two consumers of it are two."""
    other = Lock(path)
    first, second = lock.take(), other.take()

    assert (first, second) == (True, False)
    assert (lock.held, other.held) == (True, False)


def test_a_lock_that_was_let_go_can_be_taken(path: str, lock: Lock) -> None:
    """As often as one likes."""
    for _ in range(3):
        other = Lock(path)
        taken = other.take(), lock.take()
        other.release()

        assert taken == (True, False)
    assert lock.take()


def test_the_file_of_a_lock_stays_and_is_private(path: str, lock: Lock) -> None:
    """To delete it would let two in: one on the old file, one on the new."""
    lock.take()
    facts = os.stat(path)
    lock.release()

    assert stat.S_IMODE(facts.st_mode) == 0o600
    assert os.stat(path).st_ino == facts.st_ino


def test_a_lock_is_released_by_kill_9(path: str, lock: Lock, start: Callable[..., Any]) -> None:
    """By the kernel: nobody judges by pid or age whether its holder lives."""
    holder = start(HOLD + "print('held'); sys.stdin.read()", path)
    holder.line()
    before = lock.take()
    holder.kill()

    assert before is False
    assert lock.take()


def test_a_lock_that_was_dropped_unreleased_can_be_taken(path: str, lock: Lock, start: Callable[..., Any]) -> None:
    """A program that just ends has let go."""
    holder = start(HOLD, path)

    assert holder.end() == 0
    assert lock.take()


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param("os.fork() or (sys.stdin.read(), os._exit(0))", id="fork"),
        pytest.param("subprocess.Popen(['cat'])", id="program that was started"),
    ],
)
def test_a_lock_does_not_live_on_in_a_child(path: str, lock: Lock, start: Callable[..., Any], begin: str) -> None:
    """Else the handler of a dead consumer would keep its mail for ever."""
    holder = start(HOLD + f"{begin}; print('held'); sys.stdin.read()", path)
    holder.line()
    before = lock.take()
    holder.kill()  # its child lives until its stdin is closed

    assert before is False
    assert lock.take(20)


def test_the_child_of_a_fork_neither_holds_nor_frees_the_lock(path: str, lock: Lock, start: Callable[..., Any]) -> None:
    """What the parent holds stays the parent's, also when the child ends, however it ends."""
    holder = start(
        HOLD
        + """
child = os.fork()
if child == 0:
    os._exit(lock.held)
status = os.waitpid(child, 0)[1]
print('child held it' if status else 'parent alone', lock.held)
sys.stdin.read()
""",
        path,
    )

    assert holder.line() == "parent alone True"
    assert lock.take() is False


def test_whoever_waits_gets_the_lock_when_it_is_let_go(path: str, lock: Lock, start: Callable[..., Any]) -> None:
    """take(seconds) waits for it; a wait that is over in vain says so."""
    holder = start(HOLD + "print('held'); sys.stdin.readline(); lock.release(); print('free'); sys.stdin.read()", path)
    holder.line()
    in_vain = lock.take(0.01)
    holder.say()

    assert in_vain is False
    assert lock.take(20)


def test_a_lock_in_no_folder_is_not_just_taken_by_somebody_else(tmp_path: Path) -> None:
    """OSError where it cannot be known; and the folder is not made, for it may be that of a box that was removed."""
    with pytest.raises(FileNotFoundError):
        Lock(f"{tmp_path}/nowhere/.lock").take()

    assert os.listdir(tmp_path) == []


def test_a_lock_is_let_go_though_the_kernel_refuses_once(
    lock: Lock, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be held for as long as this process lives."""
    real, left = fcntl.flock, [1]

    def flock(file: int, how: int) -> None:
        if how == fcntl.LOCK_UN and left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(file, how)

    assert lock.take()
    monkeypatch.setattr(fcntl, "flock", flock)
    lock.release()

    assert left == [0]
    assert not is_held(path)


def test_that_it_cannot_be_known_is_no_answer(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A living holder must not pass for a dead one because the disk failed us."""

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(OSError, match="Input/output"):
        is_held(path)


ASK = """
import sys
from filemailbox.system.locks import is_held
print('asking')
while True:
    is_held(sys.argv[1])
"""


def test_nobody_who_asks_turns_away_one_who_takes(path: str, lock: Lock, start: Callable[..., Any]) -> None:
    """Two ask without pause; not one of 2 000 who want the lock, which nobody holds, is refused."""
    Path(path).touch()
    askers = [start(ASK, path) for _ in range(2)]
    for asker in askers:
        asker.line()
    refused = 0
    for _ in range(2000):
        if lock.take():
            lock.release()
        else:
            refused += 1
    still = [asker.process.poll() for asker in askers]

    assert still == [None, None], "they asked until the end"
    assert refused == 0


def test_nobody_who_asks_turns_away_a_sweep(path: str, start: Callable[..., Any]) -> None:
    """It takes the lock by the descriptor of its folder."""
    Path(path).touch()
    asker = start(ASK, path)
    asker.line()
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    refused = 0
    for _ in range(500):
        with taken(".lock", folder) as mine:
            refused += not mine
    os.close(folder)

    assert asker.process.poll() is None
    assert refused == 0


def test_a_sweep_and_a_consumer_exclude_each_other(path: str, lock: Lock) -> None:
    """It is the same lock, taken by a path or by a descriptor."""
    lock.take()
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    with taken(".lock", folder) as mine:
        assert mine is False
    lock.release()
    with taken(".lock", folder) as mine:
        refused = not lock.take()
        held = is_held(path)
    os.close(folder)

    assert (mine, refused, held) == (True, True, True)
    assert lock.take()


@pytest.mark.parametrize("held", [True, False])
def test_a_lock_on_a_read_only_mount_can_be_asked_about(
    as_root: None, path: str, lock: Lock, start: Callable[..., Any], held: bool
) -> None:
    """An observer whose volume is mounted `:ro` sees who lives."""
    lock.take()
    if not held:
        lock.release()
    asker = start(
        """
import os, subprocess, sys
from filemailbox.system.locks import is_held
if not hasattr(os, "unshare"):
    import ctypes
    ok = ctypes.CDLL(None).unshare(0x20000) == 0
else:
    try: os.unshare(os.CLONE_NEWNS); ok = True
    except OSError: ok = False
folder = os.path.dirname(sys.argv[1])
for words in (["--make-rprivate", "/"], ["--bind", folder, folder], ["-o", "remount,ro,bind", folder]):
    ok = ok and subprocess.run(["mount", *words], capture_output=True).returncode == 0
if not ok:
    print("no mount")
else:
    try: open(sys.argv[1], "r+"); print("writable")
    except OSError: print(is_held(sys.argv[1]))
""",
        path,
    )
    said = asker.line()
    if said == "no mount":
        pytest.skip("mounting needs root and the right to mount")

    assert said == str(held)


def test_one_who_may_only_read_can_ask(as_root: None, shared: Path) -> None:
    """CAP_DAC_READ_SEARCH alone, as a monitor has it: it opens nothing for writing."""
    path = str(shared / ".lock")
    lock = Lock(path)
    lock.take()
    os.chmod(path, 0o400)
    os.chown(path, 2001, 2001)
    answers = act(Actor("reader", 2001), lambda: is_held(path))
    lock.release()

    assert answers is True
    assert act(Actor("reader", 2001), lambda: is_held(path)) is False


@pytest.mark.parametrize("planted", ["link", "fifo", "folder", "socket"])
def test_what_is_no_lock_is_not_held_and_not_followed(tmp_path: Path, planted: str) -> None:
    """Nobody waits for it, and what a link leads to is not locked."""
    path, target = tmp_path / ".lock", tmp_path / "target"
    holder = Lock(str(target))
    holder.take()
    if planted == "link":
        path.symlink_to(target)
    elif planted == "fifo":
        os.mkfifo(path)
    elif planted == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
            bell.bind(str(path))
    answer = is_held(str(path))
    holder.release()

    assert answer is False
