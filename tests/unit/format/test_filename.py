"""Addresses, and message names that sort by time."""

import os
import re
import threading
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemailbox import InvalidAddressError
from filemailbox.format.address import is_address, parse_address
from filemailbox.format.filename import (
    ID_LENGTH,
    TIMESTAMP_LENGTH,
    Filename,
    is_id,
    parse_filename,
    split_timed,
    stem_of,
    timed_filename,
)
from filemailbox.format.timestamp import sent_time, to_nanoseconds, to_timestamp
from filemailbox.store import ids
from filemailbox.store.ids import new_id, timestamp_now

ID = "20261124T014530.123456789Z-3f9c0a12b4d5"
LATEST = 253402300799_999999999  # 9999-12-31T23:59:59.999999999Z

times = st.integers(0, LATEST)
message_ids = st.builds("{}-{:012x}".format, times.map(to_timestamp), st.integers(0, 2**48 - 1))
stems = st.text("ABCXYZabcxyz0189._-", max_size=64)
ours = st.builds(
    Filename,
    id=message_ids,
    size=st.none() | st.integers(0, 10**18 - 1),
    attempt=st.integers(1, 10**18 - 1),
    stem=st.none() | stems,
    requeued=st.integers(0, 10**18 - 1),
    origin=st.none() | st.sampled_from(["a", "relay-1", "x.y_z", "0" * 64]),
    wait=st.integers(0, 10**18 - 1),
)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a", id="one letter"),
        pytest.param("7", id="one digit"),
        pytest.param("build-agent_2.eu", id="all that may stand in it"),
        pytest.param("a" * 64, id="64 characters"),
        pytest.param("all-of-us", id="begins like all"),
    ],
)
def test_an_address_is_a_name_that_is_safe_in_a_path(text: str) -> None:
    """Small letters, digits, dots, dashes and underscores; 64 at most; it begins with a letter or a digit."""
    assert parse_address(text) == text
    assert is_address(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("a" * 65, id="65 characters"),
        pytest.param("Bob", id="capital"),
        pytest.param("all", id="all"),
        pytest.param(".bob", id="leading dot"),
        pytest.param("-bob", id="leading dash"),
        pytest.param("_bob", id="leading underscore"),
        pytest.param("..", id="the folder above"),
        pytest.param("bob/new", id="slash"),
        pytest.param("bob\n", id="newline at the end"),
        pytest.param("bob\0", id="NUL"),
        pytest.param("bób", id="not ascii"),
        pytest.param("bob٣", id="digit of another script"),
        pytest.param("\ud800", id="lone surrogate"),
        pytest.param("bob alice", id="blank"),
    ],
)
def test_what_is_no_address_is_refused_with_what_was_expected(text: str) -> None:
    """The error quotes the text, so that it is safe to print, and says what a name looks like."""
    with pytest.raises(InvalidAddressError, match=r"expected 1 to 64 of a-z 0-9 \. _ -") as caught:
        parse_address(text)

    assert not is_address(text)
    assert caught.value.address == text
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("thing", [None, 7, b"bob", ["bob"]], ids=["None", "number", "bytes", "list"])
def test_an_address_is_text(thing: object) -> None:
    """Anything else is refused in the same way, also what would become a name with str()."""
    with pytest.raises(InvalidAddressError):
        parse_address(thing)


@given(ours)
def test_a_name_written_and_parsed_is_the_same(name: Filename) -> None:
    """str() and parse() are a pair."""
    assert parse_filename(str(name)) == name


@given(st.text(max_size=80) | ours.map(str).flatmap(lambda text: st.sampled_from([text[1:], text + "x", text.upper()])))
def test_any_text_is_a_name_of_ours_or_foreign(text: str) -> None:
    """parse() never raises; what it takes for ours has an id of ours."""
    name = parse_filename(text)

    assert name is None or (is_id(name.id) and text.startswith(name.id) and text.endswith(".json"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param(f"{ID}.json", Filename(ID), id="id only"),
        pytest.param(f"{ID},S=217.json", Filename(ID, 217), id="size"),
        pytest.param(f"{ID},S=007.json", Filename(ID, 7), id="leading zeros"),
        pytest.param(f"{ID},A=3,S=1.json", Filename(ID, 1, 3), id="fields in any order"),
        pytest.param(f"{ID},A=0.json", Filename(ID), id="attempt 0 is the first"),
        pytest.param(f"{ID},S=1,S=2.json", Filename(ID, 2), id="the last of two counts"),
        pytest.param(f"{ID},S=1,Q=x,Y=y.json", Filename(ID, 1), id="unknown fields"),
        pytest.param(f"{ID},F=alice,S=1.json", Filename(ID, 1, origin="alice"), id="who sent it"),
        pytest.param(f"{ID},F=no-_address_,S=1,F=-.json", Filename(ID, 1), id="no address"),
        pytest.param(f"{ID},N=.json", Filename(ID, stem=""), id="empty stem"),
        pytest.param(f"{ID},S=1,A=2,N=a.b_c-D,R=4.json", Filename(ID, 1, 2, "a.b_c-D", 4), id="all fields"),
    ],
)
def test_fields_are_read_each_by_its_letter(text: str, name: Filename) -> None:
    """In any order; one we do not know is nothing to us."""
    assert parse_filename(text) == name


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(ID, id="no suffix"),
        pytest.param(f"{ID}.JSON", id="suffix in capitals"),
        pytest.param(f"{ID}.json\n", id="newline at the end"),
        pytest.param(f".{ID}.json", id="dotfile"),
        pytest.param(f"{ID},S=.json", id="size missing"),
        pytest.param(f"{ID},S=-1.json", id="size negative"),
        pytest.param(f"{ID},S=1e3.json", id="size not decimal"),
        pytest.param(f"{ID},S=1234567890123456789.json", id="size of 19 digits"),
        pytest.param(f"{ID},A=x.json", id="attempt no number"),
        pytest.param(f"{ID},R=x.json", id="requeued no number"),
        pytest.param(f"{ID},S=1,.json", id="empty field"),
        pytest.param(f"{ID},s=1.json", id="small letter"),
        pytest.param(f"{ID},N=a~b.json", id="unsafe stem"),
        pytest.param(f"{ID.upper()}.json", id="writer in capitals"),
        pytest.param(f"{ID[:-1]}.json", id="writer too short"),
        pytest.param("19691124T014530.123456789Z-3f9c0a12b4d5.json", id="before 1970"),
        pytest.param("00001124T014530.123456789Z-3f9c0a12b4d5.json", id="year 0"),
        pytest.param("20261324T014530.123456789Z-3f9c0a12b4d5.json", id="month 13"),
        pytest.param("20261132T014530.123456789Z-3f9c0a12b4d5.json", id="day 32"),
        pytest.param("20261124T244530.123456789Z-3f9c0a12b4d5.json", id="hour 24"),
        pytest.param("20261124T014560.123456789Z-3f9c0a12b4d5.json", id="second 60"),
        pytest.param("20261124T014530.123456Z-3f9c0a12b4d5.json", id="microseconds"),
        pytest.param("٢0261124T014530.123456789Z-3f9c0a12b4d5.json", id="digit of another script"),
    ],
)
def test_what_is_not_just_of_our_making_is_foreign(text: str) -> None:
    """There is no repairing: a name is ours as a whole or not at all."""
    assert parse_filename(text) is None


@given(times, times)
def test_stamps_sort_as_times_do(one: int, other: int) -> None:
    """Text order is time order: `ls` shows the order of sending."""
    assert (to_timestamp(one) < to_timestamp(other)) == (one < other)


@given(times)
def test_a_stamp_is_a_time_to_the_nanosecond(ns: int) -> None:
    """stamp() and nanoseconds() are a pair, and agree with the calendar."""
    stamp = to_timestamp(ns)

    assert to_nanoseconds(stamp) == ns
    assert len(stamp) == TIMESTAMP_LENGTH
    assert stamp[:15] == datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y%m%dT%H%M%S")


@pytest.mark.parametrize(
    ("ns", "stamp"),
    [
        pytest.param(-1, "19700101T000000.000000000Z", id="before 1970"),
        pytest.param(LATEST + 1, "99991231T235959.999999999Z", id="after 9999"),
    ],
)
def test_a_time_that_no_stamp_can_hold_becomes_the_nearest(ns: int, stamp: str) -> None:
    """A file with an absurd mtime is still in some place in the order."""
    assert to_timestamp(ns) == stamp


@pytest.mark.parametrize("date", ["20260231", "99991231", "19700101", "20270229"])
def test_every_stamp_that_is_taken_for_ours_is_some_time(date: str) -> None:
    """Also on days that no month has: a hostile name must not make the reading of a time raise."""
    name = parse_filename(f"{date}T235959.999999999Z-3f9c0a12b4d5.json")

    assert name is not None
    assert 0 <= to_nanoseconds(name.id[:TIMESTAMP_LENGTH]) <= LATEST


def test_the_clock_as_a_stamp_is_now() -> None:
    """now() lies between two looks at the clock."""
    before = time.time_ns()
    now = to_nanoseconds(timestamp_now())

    assert before <= now <= time.time_ns()


@given(ours.map(str), times)
def test_a_name_with_a_time_before_it_comes_apart_again(name: str, due: int) -> None:
    """As files are called in later/ and done/: timed() and untimed() are a pair."""
    stamp = to_timestamp(due)

    assert split_timed(timed_filename(stamp, name)) == (stamp, name)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"{ID}.json", id="no time"),
        pytest.param(f"~{ID}.json", id="empty time"),
        pytest.param(f"{ID[:26]}~", id="no name"),
        pytest.param(f"x{ID[:26]}~{ID}.json", id="something before the time"),
        pytest.param(f"{ID[:26]}-{ID}.json", id="other sign"),
    ],
)
def test_a_name_without_a_time_before_it_is_told_from_one(text: str) -> None:
    """untimed() gives None."""
    assert split_timed(text) is None


@given(st.text(max_size=100))
def test_what_is_kept_of_a_foreign_name_can_stand_in_one_of_ours(text: str) -> None:
    """At most 64 safe characters: no second field, no slash, nothing that a terminal obeys."""
    stem = stem_of(text + ".json")
    name = parse_filename(f"{ID},N={stem}.json")

    assert re.fullmatch(r"[A-Za-z0-9._-]{0,64}", stem)
    assert name == Filename(ID, stem=stem)


@pytest.mark.parametrize(
    ("foreign", "stem"),
    [
        pytest.param("job.json", "job", id="plain"),
        pytest.param("job.json.json", "job.json", id="only one suffix goes"),
        pytest.param("a b,S=9.json", "a_b_S_9", id="unsafe"),
        pytest.param("\x1b[2J.json", "__2J", id="control"),
        pytest.param("n" * 80 + ".json", "n" * 64, id="long"),
    ],
)
def test_a_foreign_name_can_be_recognised_by_what_is_kept_of_it(foreign: str, stem: str) -> None:
    """What is unsafe becomes an underscore each."""
    assert stem_of(foreign) == stem


def test_an_id_is_the_name_of_a_time_and_a_writer() -> None:
    """It is as long as ID says, and sent() writes its time as the envelope does."""
    before = datetime.now(UTC)
    id = new_id()
    sent = datetime.fromisoformat(sent_time(id))

    assert is_id(id)
    assert len(id) == ID_LENGTH
    assert before <= sent <= datetime.now(UTC)
    assert sent_time(ID) == "2026-11-24T01:45:30.123456Z"


@pytest.mark.parametrize(
    "clock",
    [
        pytest.param([5, 5, 5], id="stands still"),
        pytest.param([5_000_000_000, 4, 3], id="goes back"),
        pytest.param([999_999_999, 999_999_999, 1_000_000_000], id="into the next second"),
    ],
)
def test_the_ids_of_a_writer_rise_strictly(clock: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the clock stands still or goes back: a writer's messages keep their order."""
    ticks = iter(clock)
    monkeypatch.setattr(ids, "_mine", ids._Mine())
    monkeypatch.setattr(time, "time_ns", lambda: next(ticks))
    made = [new_id() for _ in clock]

    assert made == sorted(set(made))
    assert all(map(is_id, made))


def test_two_threads_never_share_a_writer() -> None:
    """Each has an order of its own; ids never meet."""
    made: list[list[str]] = []
    together = threading.Barrier(8)

    def make() -> None:
        together.wait()
        made.append([new_id() for _ in range(200)])

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writers = [{id[TIMESTAMP_LENGTH:] for id in each} for each in made]

    assert [len(writer) for writer in writers] == [1] * 8
    assert len(set.union(*writers)) == 8
    assert all(each == sorted(each) for each in made)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_child_of_a_fork_is_another_writer() -> None:
    """Else parent and child would make the same ids: the nanosecond does not tell them apart."""
    here, there = os.pipe()
    mine = new_id()
    child = os.fork()
    if child == 0:
        os.write(there, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    other = os.read(here, 100).decode()
    os.close(here)
    os.close(there)

    assert is_id(other)
    assert other[TIMESTAMP_LENGTH:] != mine[TIMESTAMP_LENGTH:]
    assert new_id()[TIMESTAMP_LENGTH:] == mine[TIMESTAMP_LENGTH:]


def test_names_that_are_written_alike_are_one() -> None:
    """In a set, and in a log."""
    name = parse_filename(f"{ID},S=9,A=2.json")

    assert name is not None
    assert {name, Filename(ID, 9, 2)} == {name}
    assert str(name) == f"{ID},S=9,A=2.json"
