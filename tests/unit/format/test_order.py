"""In which order waiting mail is taken."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemailbox.format.filename import ID_LENGTH, TIMESTAMP_LENGTH
from filemailbox.format.order import Order, is_mail
from filemailbox.format.timestamp import to_timestamp

HOUR = 3_600_000_000_000
NOON = 1_800_000_000_000_000_000


def stamp(second: float) -> str:
    return to_timestamp(NOON + int(second * 1e9))


def name(second: float, writer: str = "a") -> str:
    return f"{stamp(second)}-{writer * 12},S=1.json"


def select(
    order: Order, listed: list[str], clock: float, times: dict[str, float] | None = None
) -> tuple[list[str], bool]:
    """Sift one listing. The *times* of foreign names are seconds; one that has none is gone."""
    mtimes = {name: stamp(second) for name, second in (times or {}).items()}
    return order.select(listed, stamp(clock), mtimes.get)


def test_what_is_older_than_the_listing_is_taken_in_order_of_sending() -> None:
    """Whatever order the folder shows it in."""
    listed = [name(second, writer) for second in range(5) for writer in "ab"]
    random.Random(1).shuffle(listed)

    assert select(Order(), listed, 10) == (sorted(listed), False)


def test_what_is_newer_than_the_listing_waits_for_one_more_listing() -> None:
    """What the same writer sent before it may be missing in this one; from the next it cannot be missing."""
    order = Order()
    first = select(order, [name(11)], 10)
    second = select(order, [name(11), name(10.5)], 10)

    assert first == ([], True)
    assert second == ([name(10.5), name(11)], False)


def test_a_later_name_in_the_listing_before_vouches_for_those_before_it() -> None:
    """A writer's k was in place before its k+1 was seen."""
    order = Order()
    select(order, [name(12)], 10)

    assert select(order, [name(11), name(12), name(13)], 10) == ([name(11), name(12)], True)


def test_a_writer_vouches_only_for_itself() -> None:
    """Each has an order of its own."""
    order = Order()
    select(order, [name(12, "a")], 10)

    assert select(order, [name(11, "b"), name(12, "a")], 10) == ([name(12, "a")], True)


def test_a_writer_whose_clock_is_ahead_loses_nothing() -> None:
    """Its mail waits for a listing, not for the clock."""
    order = Order()
    select(order, [name(3600)], 10)

    assert select(order, [name(3600)], 10) == ([name(3600)], False)


def test_only_the_listing_just_before_vouches() -> None:
    """What was seen once and has gone since vouches for nothing: its writer may have died with its name."""
    order = Order()
    select(order, [name(12)], 10)
    select(order, [], 10)

    assert select(order, [name(12)], 10) == ([], True)


def test_foreign_names_stand_where_their_time_puts_them() -> None:
    """By mtime among ours, and by name where two have one time."""
    listed = ["z.json", name(2), "b.json", name(1), "a.json"]
    times = {"z.json": 0.5, "a.json": 1.5, "b.json": 1.5}

    assert select(Order(), listed, 10, times) == (["z.json", name(1), "a.json", "b.json", name(2)], False)


def test_a_foreign_name_that_is_gone_is_left_out() -> None:
    """Another consumer was faster."""
    assert select(Order(), ["x.json", name(1)], 10) == ([name(1)], False)


def test_a_foreign_time_in_the_future_holds_nothing_back() -> None:
    """An mtime says nothing about a writer."""
    assert select(Order(), ["x.json"], 10, {"x.json": 99}) == (["x.json"], False)


@pytest.mark.parametrize(
    ("text", "mail"),
    [
        ("a.json", True),
        (name(1), True),
        ("-rf.json", True),
        (".json", False),
        (".a.json", False),
        ("a.json.tmp", False),
        ("a.JSON", False),
        ("json", False),
        ("", False),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_dotfiles_and_other_suffixes_are_nobodys_business(text: str, mail: bool) -> None:
    """Editors, rsync and half the world write those while they are not done."""
    assert is_mail(text) is mail


@given(st.lists(st.text(max_size=50) | st.integers(0, 9).map(lambda s: "z" * 25 + f"Z-{s}" + ".json"), unique=True))
def test_no_name_can_break_or_starve_it(listed: list[str]) -> None:
    """Names are hostile. What is mail is given out at the second listing at the latest, once; nothing else raises."""
    order = Order()
    times = dict.fromkeys(listed, 1.0)
    first, held = select(order, listed, 10, times)
    second, still = select(order, listed, 10, times)

    assert set(filter(is_mail, second)) == set(filter(is_mail, listed))
    assert len(second) == len(set(second))
    assert set(first) <= set(second)
    assert held or first == second
    assert not still


class Writer:
    """One that sends as deliver() does: a stamp, then, some time later, the rename."""

    def __init__(self, number: int, ahead: int) -> None:
        self.number, self.ahead = number, ahead
        self.last = self.sent = 0
        self.drafts: list[str] = []  # stamped, not in place yet: at most one

    def step(self, clock: int) -> str | None:
        """The next step: stamp a message, or give the one that was stamped, to be put in place."""
        if self.drafts:
            return self.drafts.pop()
        self.last = max(self.last + 1, clock + self.ahead)
        self.drafts.append(f"{to_timestamp(self.last)}-{self.number:012x},S=1.json")
        return None


class World:
    """A folder, its writers, and the host's clock; the test draws what happens when."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.clock = NOON
        self.waiting: set[str] = set()
        self.waited: dict[str, int] = {}  # name → in how many listings it has been shown
        self.writers: list[Writer] = []
        for ahead in data.draw(st.lists(st.sampled_from([0, 0, HOUR]), min_size=1, max_size=3), "clocks"):
            self.writers.append(Writer(len(self.writers), ahead))

    def send(self, steps: int) -> Iterator[str]:
        """Let writers take *steps* steps, each in turn of chance; yields what came into place."""
        for _ in range(steps):
            self.clock += self.data.draw(st.integers(0, 2), "ticks")
            name = self.data.draw(st.sampled_from(self.writers), "writer").step(self.clock)
            if name is not None:
                yield name

    def list(self) -> list[str]:
        """One listing: all that was there before it, and any part of what comes while it runs."""
        before = set(self.waiting)
        during = set(self.send(self.data.draw(st.integers(0, 8), "steps while listing")))
        self.waiting |= during
        seen = {name for name in sorted(during) if self.data.draw(st.booleans(), "seen")}
        return self.data.draw(st.permutations(sorted(before | seen)), "listing")

    def step_back(self) -> None:
        """Somebody sets the clock back by an hour, and another program starts to write."""
        self.clock -= HOUR
        self.writers.append(Writer(len(self.writers), 0))


@given(st.data())
def test_no_writer_is_ever_overtaken_by_itself_and_nobody_starves(data: st.DataObject) -> None:
    """The rule of the format: whatever a listing misses of what comes while it runs, whatever the clocks say.

    Two consumers share the box: one whose claims are checked, and one that snatches mail away from it.
    """
    world, order = World(data), Order()
    claimed: dict[str, str] = {}  # writer → its last name that was claimed
    for _ in range(data.draw(st.integers(1, 8), "rounds")):
        if data.draw(st.integers(0, 9), "the clock is set back") == 9:
            world.step_back()
        world.waiting |= set(world.send(data.draw(st.integers(0, 6), "steps between")))
        clock = to_timestamp(world.clock)
        listed = world.list()
        ready, held = order.select(listed, clock, lambda name: None)
        for name in listed:
            world.waited[name] = world.waited.get(name, 0) + 1
        late = [name for name in set(listed) - set(ready) if world.waited[name] > 1]
        snatched = {name for name in ready if data.draw(st.integers(0, 4), "snatched") == 4}
        inverted = []
        for name in ready:
            if name not in snatched:
                inverted += [name] if claimed.get(name[TIMESTAMP_LENGTH:ID_LENGTH], "") > name else []
                claimed[name[TIMESTAMP_LENGTH:ID_LENGTH]] = name
        world.waiting -= set(ready)

        assert inverted == []
        assert late == []
        assert held == (set(ready) != set(listed))
