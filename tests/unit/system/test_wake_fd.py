"""A descriptor that a thread makes readable: by eventfd, or by a pipe where there is none."""

import os
import select

import pytest

from filemailbox.system.wake_fd import WakeFd


@pytest.fixture(params=[True, False], ids=["eventfd", "pipe"])
def has_eventfd(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def readable(one: WakeFd) -> bool:
    return bool(select.select([one], [], [], 0)[0])


def test_one_take_clears_all_that_was_set(has_eventfd: bool) -> None:
    """Many events are one wake-up."""
    one = WakeFd(has_eventfd=has_eventfd)
    before = readable(one)
    for _ in range(1000):
        one.set()
    seen, taken = readable(one), [one.take(), one.take()]
    one.close()

    assert not before
    assert seen
    assert taken == [True, False]


def test_a_count_is_taken_one_by_one(has_eventfd: bool) -> None:
    """A wake-up for each that sleeps."""
    one = WakeFd(count=True, has_eventfd=has_eventfd)
    one.set(2)
    one.set()
    taken = [one.take() for _ in range(4)]
    left = readable(one)
    one.close()

    assert taken == [True, True, True, False]
    assert not left


def test_set_never_waits() -> None:
    """A pipe that is full is readable."""
    one = WakeFd(has_eventfd=False)
    for _ in range(100):
        one.set(4096)

    assert readable(one)
    one.close()


def test_close_leaves_no_descriptor(has_eventfd: bool) -> None:
    """Of a pipe there are two."""
    before = len(os.listdir("/proc/self/fd"))
    WakeFd(has_eventfd=has_eventfd).close()

    assert len(os.listdir("/proc/self/fd")) == before
