"""Rates, quotas and capacities, by a clock in an argument."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemailbox.relay.limits import Backoff, Capacity, Quota, RecordThinner, RelayLimits, TokenBucket
from filemailbox.relay.policy import Rate
from support.relayed import HandClock


def test_a_rate_is_kept() -> None:
    """The burst at once, then as fast as the rate is; silence does not save up more than the burst."""
    bucket = TokenBucket(Rate(2, 1.0), 3)

    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait(0.0) == 0.5
    assert not bucket.take(0.4)
    assert bucket.take(0.5)
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


@given(st.integers(1, 50), st.integers(1, 20), st.lists(st.floats(0, 3), max_size=60))
def test_no_rate_is_exceeded_whatever_the_clock_says(count: int, burst: int, times: list[float]) -> None:
    """Over the whole time no more go than the burst and what the rate gives, also where the clock goes back."""
    bucket = TokenBucket(Rate(count, 1.0), burst)
    taken = sum(bucket.take(now) for now in times)

    assert taken <= burst + count * max(times, default=0) + 1e-6


def test_without_a_rate_nothing_waits() -> None:
    """A rate of "none"."""
    bucket = TokenBucket(None, 1)

    assert all(bucket.take(0.0) for _ in range(10))
    assert bucket.wait(0.0) == 0


def test_a_quota_is_for_each_hour_or_day_anew() -> None:
    """What is over it is refused until the clock begins the next one."""
    quota = Quota(Rate(3, 60.0))
    quota.use(10.0, 2)

    assert quota.has_room(59.0, 1)
    assert not quota.has_room(59.0, 2)
    assert quota.has_room(60.0, 3)
    quota.use(60.0, 3)
    assert not quota.has_room(10.0, 1)  # a clock that was set back gives nothing back
    assert Quota(None).has_room(0.0, 1 << 40)


def test_a_backoff_doubles_up_to_its_longest_wait() -> None:
    backoff, waits = Backoff(1.0, 5.0), []
    wait: float | None = None
    for _ in range(5):
        wait = backoff.after(wait)
        waits.append(wait)

    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_box_is_counted_only_if_it_may_be_full() -> None:
    """Two messages fit: the box is counted at the first and after the second."""
    clock, counts = HandClock(), iter([8, 10])
    capacity = Capacity(clock.monotonic)
    for _ in range(2):
        capacity.check("bob", 10, lambda: next(counts))
        capacity.use("bob")

    with pytest.raises(OSError, match="10 messages wait"):
        capacity.check("bob", 10, lambda: next(counts))
    assert next(counts, None) is None


def test_a_large_box_is_not_counted_again_soon() -> None:
    """To count it took a second, so it is not counted for twenty."""
    clock, counted = HandClock(), []
    capacity = Capacity(clock.monotonic)

    def count() -> int:
        clock.advance(1.0)
        counted.append(clock.ticks)
        return 5000

    for wait in (0.0, 0.0, 18.0, 2.0):
        clock.advance(wait)
        with pytest.raises(OSError, match="that is the limit"):
            capacity.check("bob", 5000, count)

    assert len(counted) == 2


def test_a_record_that_the_next_relay_needs_is_never_left_out() -> None:
    """The other records are left out above the rate, and counted."""
    record = {"event": "bounce", "from": "alice", "id": "1", "to": "bob"}
    thinner = RecordThinner(RelayLimits())
    kept = thinner.thin([{**record, "id": str(n)} for n in range(150)], 0.0, lambda record: record["id"] == "149")

    assert [record["id"] for record in kept] == [*map(str, range(100)), "149"]
    assert thinner.silenced == {"alice"}
    assert thinner.due(59.0) == []
    assert thinner.due(60.0) == [{**record, "id": "148", "count": 49}]
    assert thinner.rest() == []
