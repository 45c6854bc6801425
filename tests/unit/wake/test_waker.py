"""Look now: the doorbell, the watch and the rescan."""

import errno
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from filemailbox.system import inotify
from filemailbox.wake import waker, watcher
from filemailbox.wake.ringer import Ringer
from filemailbox.wake.waker import QUIET, Waker
from support.waiting import Until

LONG = 30.0  # seconds: a test that waits so long for a wake-up has failed


@pytest.fixture
def ringer(root: Path) -> Iterator[Ringer]:
    ringer = Ringer(str(root))
    yield ringer
    ringer.close()


@pytest.fixture
def make_waker(root: Path) -> Iterator[Callable[..., Waker]]:
    """make_waker(): one who waits for bob's mail, and watches it. The rescan comes too late to help."""
    made: list[Waker] = []

    def make(poll_interval: float = LONG, *, watch: bool = True, watcher: str = "inotify") -> Waker:
        made.append(Waker(str(root / "bob"), poll_interval, watcher=watcher))
        if watch:
            made[-1].watch()
        return made[-1]

    yield make
    for each in made:
        each.close()


def broken(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """inotify refuses, as it does where something is used up."""

    def refuse(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(inotify, "_libc", refuse)


def put(root: Path, name: str) -> Path:
    """A path of its own in one of bob's folders."""
    return root / "bob" / name / f"{time.monotonic_ns()}.json"


def move_in(root: Path) -> None:
    """What `mv` does."""
    draft = put(root, "tmp")
    draft.write_text("{}")
    draft.rename(put(root, "new"))


def echo(root: Path) -> None:
    put(root, "new").write_text("{}")


def link(root: Path) -> None:
    draft = put(root, "tmp")
    draft.write_text("{}")
    put(root, "new").hardlink_to(draft)


def touch(root: Path) -> None:
    """What some virtual machines make of every change."""
    os.utime(root / "bob/new")


def woken(one: Waker, call: Callable[[], object], longest: float = LONG) -> str:
    """Arm, let something happen, wait: what woke us."""
    heard = one.arm()
    call()
    return one.wait(longest, heard)


def quiet(one: Waker) -> bool:
    """Whether there is nothing more to hear."""
    return one.wait(0, one.arm()) == "timer"


# What wakes


def test_a_ring_wakes(make_waker: Callable[..., Waker], ringer: Ringer) -> None:
    """Once: what was heard is forgotten when we arm again."""
    one = make_waker()
    first = woken(one, lambda: ringer.ring("bob"))

    assert first == "bell"
    assert quiet(one)


@pytest.mark.parametrize("arrive", [move_in, echo, link, touch], ids=["mv", "echo", "ln", "touch"])
def test_what_is_put_there_by_hand_wakes(make_waker: Callable[..., Waker], root: Path, arrive: Any) -> None:
    """Nobody rings for it: the kernel tells."""
    one = make_waker()
    first = woken(one, lambda: arrive(root))

    assert first == "watch"
    assert quiet(one)


@pytest.mark.parametrize("arrive", [move_in, echo, link], ids=["mv", "echo", "ln"])
def test_watchfiles_wakes(make_waker: Callable[..., Waker], root: Path, arrive: Any, until: Until) -> None:
    """In a thread, which is gone after close()."""
    one = make_waker(0.05, watcher="watchfiles")
    until(lambda: woken(one, lambda: arrive(root)) == "watch")
    threads = [thread.name for thread in threading.enumerate()]
    one.close()

    assert any(name.startswith("mailbox watch") for name in threads)
    assert not any(thread.name.startswith("mailbox watch") for thread in threading.enumerate())


def test_without_a_watch_only_the_bell_wakes(make_waker: Callable[..., Waker], root: Path, ringer: Ringer) -> None:
    """receive() and request() do not watch: to arm a watch costs more than it is worth to them."""
    one = make_waker(watch=False)

    assert woken(one, lambda: move_in(root), 0) == "timer"
    assert woken(one, lambda: ringer.ring("bob")) == "bell"


def test_nobody_sleeps_longer_than_the_rescan(make_waker: Callable[..., Waker]) -> None:
    """However long one would."""
    one = make_waker(0.01)

    assert woken(one, lambda: None, float("inf")) == "timer"
    assert one.span(-5) == 0


# Poking


def test_a_poke_wakes_from_another_thread(make_waker: Callable[..., Waker], until: Until) -> None:
    """stop() comes from anywhere."""
    one = make_waker()
    told: list[str] = []
    thread = threading.Thread(target=lambda: told.append(woken(one, lambda: None)))
    thread.start()
    until(lambda: one._asleep)
    one.wake_all()
    thread.join(LONG)

    assert told == ["wake"]


def test_a_poke_before_the_wait_is_not_lost(make_waker: Callable[..., Waker]) -> None:
    """Nor one before anything was armed: then there is nobody to wake, and the next to arm looks anyway."""
    one = make_waker(watch=False)
    one.wake_all()

    assert woken(one, one.wake_all) != "timer"
    assert quiet(one)


def test_a_poke_wakes_all_who_wait(make_waker: Callable[..., Waker], until: Until) -> None:
    """One of them does not take it from the others."""
    one = make_waker()
    told: list[str] = []
    threads = [threading.Thread(target=lambda: told.append(woken(one, lambda: None))) for _ in range(5)]
    for thread in threads:
        thread.start()
    until(lambda: len(one._asleep) == 5)
    one.wake_all()
    for thread in threads:
        thread.join(LONG)

    assert len(told) == 5
    assert set(told) <= {"wake", "bell"}


# Several who wait on one mailbox


def test_what_another_has_heard_is_not_lost(make_waker: Callable[..., Waker], ringer: Ringer, root: Path) -> None:
    """The bell is one: who arms forgets the ring, also when it was meant for somebody who armed before."""
    one = make_waker()
    arrivals: list[Callable[[], None]] = [lambda: ringer.ring("bob"), lambda: move_in(root)]
    for arrive in arrivals:
        heard = one.arm()
        arrive()
        one.arm()

        assert one.wait(LONG, heard) == "bell"


def test_a_ring_wakes_all_who_wait(make_waker: Callable[..., Waker], ringer: Ringer, until: Until) -> None:
    """A listener, and a request in a handler: the bell does not say whom it is for."""
    one = make_waker()
    told: list[str] = []

    def wait() -> None:
        told.append(woken(one, lambda: None))
        one.arm()  # the fastest forgets the ring

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(one._asleep) == 4)
    ringer.ring("bob")
    for thread in threads:
        thread.join(LONG)

    assert len(told) == 4
    assert "timer" not in told


# What breaks, and heals


def test_a_wiped_run_is_noticed_and_the_bell_hung_again(
    make_waker: Callable[..., Waker], root: Path, ringer: Ringer
) -> None:
    """At the rescan. A sender finds the new one."""
    one = make_waker(0.001)
    first = one.bell
    for entry in (root / "bob/run").iterdir():
        entry.unlink()
    while woken(one, lambda: None) == "timer" and one.bell == first:
        pass
    one.arm()

    assert one.bell not in (None, first)
    assert Path(str(one.bell)).is_socket()
    assert _rings(one, ringer)


def test_without_run_there_is_no_bell_until_it_is_back(
    make_waker: Callable[..., Waker], root: Path, ringer: Ringer, until: Until
) -> None:
    """The watch goes on meanwhile."""
    shutil.rmtree(root / "bob/run")
    one = make_waker(0.001)
    by_watch = any(woken(one, lambda: move_in(root)) == "watch" for _ in range(100))
    missing = one.bell
    (root / "bob/run").mkdir()
    until(lambda: one.arm() is not None and one.bell)

    assert by_watch
    assert missing is None
    assert _rings(one, ringer)


def _rings(one: Waker, ringer: Ringer) -> bool:
    """Whether a ring is heard, before the rescan comes: one of many will be."""
    return any(woken(one, lambda: ringer.ring("bob")) == "bell" for _ in range(1000))


def replace_new(root: Path) -> None:
    (root / "bob/new").rename(root / "old")
    (root / "bob/new").mkdir()


def remake_new(root: Path) -> None:
    shutil.rmtree(root / "bob/new")
    (root / "bob/new").mkdir()


def replace_box(root: Path) -> None:
    """Nothing happens to the folder that is watched: only its path leads elsewhere now."""
    (root / "bob").rename(root / ".old")
    Mailbox.init("bob", root).close()


def remake_box(root: Path) -> None:
    shutil.rmtree(root / "bob")
    Mailbox.init("bob", root).close()


@pytest.mark.parametrize("replace", [replace_new, remake_new, replace_box, remake_box])
def test_the_watch_finds_the_folder_that_is_there_now(
    make_waker: Callable[..., Waker], root: Path, until: Until, replace: Any
) -> None:
    """inotify watches an inode, not a path: for the old folder it would be silent for ever."""
    one = make_waker(0.05)
    replace(root)
    until(lambda: woken(one, lambda: move_in(root)) == "watch")

    assert one.trouble is None


@pytest.mark.parametrize("replace", [replace_new, remake_new])
def test_a_folder_that_goes_is_noticed_at_once(make_waker: Callable[..., Waker], root: Path, replace: Any) -> None:
    """The kernel tells of that: there is no rescan to wait for, and the next look is armed already."""
    one = make_waker()
    replace(root)
    heard = one.arm()
    move_in(root)

    assert one.wait(LONG, heard) == "watch"


@pytest.mark.parametrize("replace", [replace_new, replace_box])
def test_watchfiles_finds_the_folder_that_is_there_now(
    make_waker: Callable[..., Waker], root: Path, until: Until, replace: Any
) -> None:
    """The waker compares it with the one at its path at every poll."""
    one = make_waker(0.05, watcher="watchfiles")
    until(lambda: woken(one, lambda: move_in(root)) == "watch")
    replace(root)
    until(lambda: (root / "bob/new").is_dir() and woken(one, lambda: move_in(root)) == "watch")

    assert one.trouble is None


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOSPC], ids=["no instances", "no watches"])
def test_a_watch_that_cannot_be_is_told_once_and_tried_again(
    make_waker: Callable[..., Waker], root: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, code: int
) -> None:
    """The kernel's limits are shared by all containers. Mail is found by the rescan meanwhile."""
    with monkeypatch.context() as broken_for_now:
        broken(broken_for_now, code)
        one = make_waker(0.001)
        for _ in range(20):
            woken(one, lambda: None)
        trouble = one.trouble
    while one.trouble is not None:
        woken(one, lambda: None)

    assert os.strerror(code) in str(trouble)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "polling every 1 ms" in caplog.text
    assert any(woken(one, lambda: move_in(root)) == "watch" for _ in range(1000))


def test_a_watch_that_breaks_again_is_told_again(
    make_waker: Callable[..., Waker], root: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Once each time."""
    one = make_waker(0.001)
    for _ in range(2):
        with monkeypatch.context() as broken_for_now:
            broken(broken_for_now, errno.EMFILE)
            remake_new(root)
            while one.trouble is None:
                woken(one, lambda: None)
        while one.trouble is not None:
            woken(one, lambda: None)

    assert len(caplog.records) == 2


EXHAUSTED = """
import sys, time; from filemailbox.wake.waker import Waker as Wake
one = Wake(sys.argv[1], 0.001, watcher=sys.argv[2])
one.watch()
while one.trouble is None:
    time.sleep(0.001)
print("Too many open files" in one.trouble)
print({one.wait(1, one.arm()) for _ in range(3)} >= {"timer"})
"""


@pytest.mark.parametrize("watcher", ["watchfiles", "inotify"])
def test_no_inotify_instances_left_is_survived(root: Path, watcher: str) -> None:
    """In a user namespace of its own the limit is ours to set: nobody else feels it."""
    if subprocess.run(["unshare", "-r", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("needs user namespaces")
    script = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
    command = ["unshare", "-r", "sh", "-c", script, "sh", sys.executable, "-c", EXHAUSTED, str(root / "bob"), watcher]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)

    assert ran.stdout.splitlines() == ["True", "True"]


def test_a_queue_that_overflows_wakes_and_goes_on(make_waker: Callable[..., Waker], root: Path) -> None:
    """The kernel drops events beyond its limit. That there were some is all that we want to know."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        pytest.skip(f"a queue of {limit} events takes too long to fill")
    one = make_waker()
    here, there = root / "bob/new/x", root / "bob/new/y"
    here.touch()
    for _ in range(limit // 2 + 100):  # each rename is one event, and no two in a row are alike
        here.rename(there)
        there.rename(here)
    first = one.wait(0, one.arm())
    while not quiet(one):
        pass

    assert first == "watch"
    assert woken(one, lambda: move_in(root)) == "watch"


def test_a_name_that_is_not_utf8_breaks_watchfiles_once_and_is_survived(
    make_waker: Callable[..., Waker], root: Path, until: Until, caplog: Any
) -> None:
    """It gives up at such a name, which any sender can drop in. It is started again."""
    one = make_waker(0.05, watcher="watchfiles")
    until(lambda: woken(one, lambda: move_in(root)) == "watch")
    (root / "bob/tmp/x").touch()
    os.rename(root / "bob/tmp/x", os.fsencode(root / "bob/new") + b"/\xff.json")
    until(lambda: one.trouble)
    until(lambda: woken(one, lambda: move_in(root)) == "watch" and one.trouble is None)

    assert [record.levelname for record in caplog.records if record.name == "filemailbox"] == ["WARNING"]


def test_watchfiles_that_cannot_watch_is_logged_once(
    make_waker: Callable[..., Waker], root: Path, monkeypatch: pytest.MonkeyPatch, until: Until, caplog: Any
) -> None:
    """It is tried again; the bell and the poll go on, and close() does not wait for the next try."""
    tries: list[object] = []

    def refuse(*arguments: object) -> None:
        tries.append(arguments)
        raise RuntimeError("Error creating recommended watcher: Too many open files (os error 24)")

    from watchfiles import _rust_notify

    monkeypatch.setattr(_rust_notify, "RustNotify", refuse)
    watch = watcher.WatchfilesWatch(str(root / "bob/new"), retry_after=0.01)
    until(lambda: len(tries) > 3)
    trouble = watch.trouble
    watch.close()
    one = make_waker(0.001, watcher="watchfiles")  # tries again after a second
    until(lambda: one.trouble)

    assert "Too many open files" in str(trouble)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 2
    assert any(woken(one, lambda: None) == "timer" for _ in range(3))  # the first: for lost notices


def test_what_was_claimed_before_its_notice_wakes_no_waiter(root: Path, until: Until) -> None:
    """Mail that rings is handled long before watchfiles reports it, and so is the claim."""
    watch = watcher.WatchfilesWatch(str(root / "bob/new"))
    until(watch.clear)  # it watches
    move_in(root)
    for path in (root / "bob/new").iterdir():
        path.unlink()
    until(lambda: watch.heard)
    woke = watch.clear()
    move_in(root)
    until(watch.clear)
    watch.close()

    assert not woke


class FakeNotify:
    """Reports what a test says, and records the steps."""

    def __init__(self, reports: list[set[tuple[int, str]] | str]) -> None:
        self.reports, self.steps = reports, list[tuple[int, int]]()

    def watch(self, debounce: int, step: int, timeout: int, stop: threading.Event) -> set[tuple[int, str]] | str:
        self.steps.append((step, timeout))
        if self.reports:
            return self.reports.pop(0)
        stop.set()
        return "stop"


def test_the_step_follows_the_traffic(root: Path) -> None:
    """Short after mail that is there, long before, and again when the conversation is over."""
    move_in(root)
    (there,) = (root / "bob/new").iterdir()
    watch = watcher.WatchfilesWatch(str(root / "bob/new"), idle_step=40, lively_step=4, lively_for=1000)
    over = watcher.WatchfilesWatch(str(root / "bob/new"), idle_step=40, lively_step=4, lively_for=0)
    lively = FakeNotify([{(1, "/gone")}, {(3, str(there))}, {(1, str(there))}, "timeout"])
    idle = FakeNotify([{(1, str(there))}])
    watch._report_until_closed(lively)  # type: ignore[arg-type]
    over._report_until_closed(idle)  # type: ignore[arg-type]
    watch.close()
    over.close()

    assert [step for step, _ in lively.steps] == [40, 40, 40, 4, 4]
    assert [timeout > 0 for _, timeout in lively.steps] == [False, False, False, True, True]
    assert idle.steps == [(40, 0), (40, 0)]


@pytest.mark.parametrize("watcher", ["watchfiles", "inotify"])
def test_a_watch_that_announces_nothing_is_taken_for_dead(
    make_waker: Callable[..., Waker], root: Path, caplog: Any, watcher: str
) -> None:
    """Then polling takes its place, more often in a conversation."""
    one = make_waker(watcher=watcher)
    for _ in range(waker.MISSES):
        alive = one.trouble
        one.note_polled(late=True)

    assert alive is None
    assert one.trouble == "no notices come"
    assert one.span(LONG) == waker.LIVELY_POLL
    assert one.interval == LONG
    assert woken(one, lambda: move_in(root)) == "timer"
    assert len(caplog.records) == 1


def test_a_notice_in_between_shows_that_the_watch_is_alive(make_waker: Callable[..., Waker], root: Path) -> None:
    """A busy machine is late with its notices: that is no reason to give them up."""
    one = make_waker()
    for _ in range(2 * waker.MISSES):
        one.note_polled(late=True)
        move_in(root)
        one.arm()

    assert one.trouble is None


def test_the_watcher_poll_watches_nothing_and_polls_more_often_in_a_conversation(
    make_waker: Callable[..., Waker], root: Path
) -> None:
    """For file systems without notices."""
    one = make_waker(0.5, watcher="poll")
    idle = one.span(LONG)
    one.note_polled(late=False)

    assert idle == 0.5
    assert one.span(LONG) == waker.LIVELY_POLL
    assert woken(one, lambda: move_in(root)) == "timer"
    assert one.trouble is None


def test_a_name_that_is_not_utf8_is_nothing_to_inotify(
    make_waker: Callable[..., Waker], root: Path, caplog: Any
) -> None:
    """We do not even read the names."""
    one = make_waker()
    (root / "bob/tmp/x").touch()
    first = woken(one, lambda: os.rename(root / "bob/tmp/x", os.fsencode(root / "bob/new") + b"/\xff.json"))

    assert first == "watch"
    assert woken(one, lambda: move_in(root)) == "watch"
    assert caplog.records == []


def test_without_descriptors_one_still_sleeps_and_wakes_by_the_rescan(
    make_waker: Callable[..., Waker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that leaks them is no reason for us to fail as well."""
    broken(monkeypatch, errno.EMFILE)

    def refuse(*arguments: object, **settings: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(waker, "Bell", refuse)
    monkeypatch.setattr(waker, "WakeFd", refuse)
    one = make_waker(0.001)

    assert woken(one, one.wake_all) == "bell"
    assert woken(one, lambda: None) == "timer"


# Floods


def test_a_flood_of_rings_costs_a_look_every_few_milliseconds(make_waker: Callable[..., Waker], ringer: Ringer) -> None:
    """Looks are counted, not time: after some that were for nothing, there is a rest before each."""
    one = make_waker()
    over = threading.Event()

    def flood() -> None:
        while not over.is_set():
            ringer.ring("bob")

    thread = threading.Thread(target=flood)
    thread.start()
    began, looks = time.monotonic(), 0
    while time.monotonic() - began < 0.5:
        looks += 1
        one.wait(LONG, one.arm(), looks)
    took = time.monotonic() - began
    over.set()
    thread.join()

    assert looks <= 5 * took / QUIET + 10


def test_steady_mail_is_no_flood(
    make_waker: Callable[..., Waker], ringer: Ringer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks that find something are not held back."""
    one = make_waker()
    rested: list[float] = []
    monkeypatch.setattr(one, "sleep_through", lambda seconds, heard: rested.append(seconds))
    for _ in range(100):
        heard = one.arm()
        ringer.ring("bob")
        one.wait(LONG, heard, 0)

    assert rested == []


# Where it lives


def test_a_box_with_a_long_path_has_a_bell(tmp_path: Path) -> None:
    """A socket's address has 107 bytes: it is reached through a descriptor."""
    root = tmp_path / ("long" * 20) / ("longer" * 20)
    root.mkdir(parents=True)
    Mailbox.init("bob", root).close()
    one, ringer = Waker(str(root / "bob"), LONG), Ringer(str(root))
    first = woken(one, lambda: ringer.ring("bob"))
    one.close()
    ringer.close()

    assert first == "bell"


FORKED = """
import os, sys
from filemailbox.wake.waker import Waker as Wake
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

one = Wake(sys.argv[1], 20)
one.watch()
one.arm()
if (child := os.fork()) == 0:
    heard = one.arm()
    say("armed", one.bell)
    say(one.wait(20, heard))
    one.close()
    os._exit(0)
say("parent", one.bell)
_, status = os.waitpid(child, 0)
say(status, one.bell is not None and os.path.exists(one.bell))
say(one.wait(20, one.generation))
"""


def test_the_child_of_a_fork_hangs_a_bell_of_its_own(root: Path, ringer: Ringer, start: Callable[..., Any]) -> None:
    """And takes nothing from its parent."""
    program = start(FORKED, root / "bob")
    said = [program.line().split() for _ in range(2)]
    bells = {bell for _, bell in said}
    ringer.ring("bob")
    child, status = program.line(), program.line()

    assert len(bells) == 2
    assert (child, status) == ("bell", "0 True")
    assert program.line() == "bell"


def test_what_is_closed_leaves_nothing_and_can_be_used_again(
    make_waker: Callable[..., Waker], root: Path, ringer: Ringer
) -> None:
    """No thread, no descriptor, no socket in run/."""
    before = len(os.listdir("/proc/self/fd"))
    one = make_waker()
    one.arm()
    one.close()
    after, left = len(os.listdir("/proc/self/fd")), list((root / "bob/run").iterdir())

    assert (after, left) == (before, [])
    assert woken(one, lambda: ringer.ring("bob")) == "bell"
