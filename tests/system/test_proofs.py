"""What scripts/prove proves, in tiny versions; and that each of its checkers bites."""

import errno
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from filemailbox import Mailbox, errors
from filemailbox.store import deliver
from filemailbox.store.claim import Failures
from filemailbox.store.root import Root
from proofs import coverage, crowd, deeds, disks, faults, history, kills, power, record, soak, stepper, trial, volume
from support.paths import PACKAGE, REPO, TESTS

ID = "20261124T014530.123456789Z-3f9c0a12b4d5"
LATER = "20261124T014531.123456789Z-3f9c0a12b4d5"


@pytest.fixture
def place(fast: Path) -> str:
    """A folder in memory, as the proofs take it."""
    return str(fast)


@pytest.fixture
def stepping() -> Iterator[None]:
    logger = logging.getLogger("filemailbox")
    level = logger.level
    trial.warm()
    if why := stepper.possible():
        pytest.skip(why)
    yield
    logger.setLevel(level)  # others want to hear it


# Stepping


class Writer:
    """Writes three words into a file."""

    say: Callable[[str], None]

    def __init__(self, path: str) -> None:
        self.path = path

    def ready(self) -> None:
        Path(self.path).unlink(missing_ok=True)
        self.file = os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600)

    def act(self) -> None:
        for word in (b"one ", b"two ", b"three"):
            written = os.write(self.file, word)
            while written < len(word):
                written += os.write(self.file, word[written:])

    def again(self) -> None:
        self.act()


def test_a_kill_strikes_before_the_call(place: str, stepping: None) -> None:
    """Before the n-th write, n - 1 words are there; where there is no n-th call, the work is done."""
    work, seen = Writer(f"{place}/x"), []
    for at in range(1, 5):
        outcome = stepper.step(work, at, within=work.path)
        seen.append((Path(work.path).read_bytes(), outcome.killed, outcome.done))

    assert seen == [
        (b"", True, False),
        (b"one ", True, False),
        (b"one two ", True, False),
        (b"one two three", False, True),
    ]


def test_a_fault_befalls_one_call(place: str, stepping: None) -> None:
    """It is not made, and answers so; then the work tries again."""
    work = Writer(f"{place}/x")
    outcome = stepper.step(work, 2, stepper.Fault(errno.ENOSPC), work.path)

    assert outcome.error == "foreign OSError: [Errno 28] No space left on device"
    assert "again" in outcome.said
    assert Path(work.path).read_bytes() == b"one one two three"
    assert str(outcome.struck) == f"write({work.path})"


def test_a_short_write_writes_half(place: str, stepping: None) -> None:
    """What it says is true: who goes on from there loses nothing."""
    work = Writer(f"{place}/x")
    outcome = stepper.step(work, 1, stepper.FAULTS["short"], work.path)

    assert Path(work.path).read_bytes() == b"one two three"
    assert [call.name for call in outcome.calls] == ["write"] * 4
    assert outcome.done


# Kills and faults


@pytest.mark.parametrize("deed", ["send", "send-many", "ack-keyed", "reject", "shrink"])
def test_whatever_is_killed_where_it_may_be_all_holds(place: str, stepping: None, deed: str) -> None:
    """At every third call; `scripts/prove kills` does it at each, for all that a mailbox does."""
    result = kills.each_call(deeds.DEEDS[deed], place, every=3)

    assert result.broken == []
    assert result.counts["kills"] > 1


@pytest.mark.parametrize("fault", ["EIO", "short"])
@pytest.mark.parametrize("deed", ["send", "send-unflushed", "answer", "claim-next", "claim-due", "ack-second"])
def test_whichever_call_fails_all_holds(place: str, stepping: None, deed: str, fault: str) -> None:
    """Each call once; `scripts/prove faults` does it in eight ways, for all that a mailbox does."""
    result = faults.each_call(deeds.DEEDS[deed], place, stepper.FAULTS[fault])

    assert result.broken == []


def broken_at(place: str, deed: Callable[[str], deeds.Deed], fault: str | None = None) -> str:
    """What the harness says of a deed that is wrong."""
    result = faults.each_call(deed, place, stepper.FAULTS[fault]) if fault else kills.each_call(deed, place)
    return "\n".join(result.broken)


class InPlace(deeds.Send):
    """A sender that writes where readers look."""

    def act(self) -> None:
        path = f"{self.path}/bob/new/{ID},S=40.json"
        file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o640)
        for part in (f'{{"id":"{ID}",'.ljust(60).encode(), b'"body":{"token":"a"}}'):
            os.write(file, part)
        os.close(file)


def test_a_sender_that_writes_in_place_is_caught(place: str, stepping: None) -> None:
    """Half of its message is seen."""
    assert "a message that is not whole" in broken_at(place, InPlace)


class TooEarly(deeds.Send):
    """A sender that says that it is done before it is."""

    def act(self) -> None:
        self.say("done")
        super().act()


def test_a_sender_that_returns_too_early_is_caught(place: str, stepping: None) -> None:
    """What it said was sent is not there."""
    assert "the message 'a': gone, and right were: came" in broken_at(place, TooEarly)


class ByCopy(deeds.PutOff):
    """A consumer that copies before it deletes."""

    def act(self) -> None:
        (folder,) = Path(self.path, "bob/cur").glob("[0-9a-f]*")
        name = self.message.name
        shutil.copy(folder / name, f"{self.path}/bob/later/20200101T000000.000000000Z~{name}")
        (folder / name).unlink()


def test_a_consumer_that_copies_is_caught(place: str, stepping: None) -> None:
    """Its message is in two places."""
    assert "is in 2 places" in broken_at(place, ByCopy)


class DeleteFirst(deeds.PutOff):
    """A consumer that deletes before it writes anew."""

    def act(self) -> None:
        (folder,) = Path(self.path, "bob/cur").glob("[0-9a-f]*")
        data = (folder / self.message.name).read_bytes()
        (folder / self.message.name).unlink()
        draft = Path(self.path, "bob/tmp/draft")
        draft.write_bytes(data)
        draft.rename(f"{self.path}/bob/later/20200101T000000.000000000Z~{self.message.name}")


def test_a_consumer_that_deletes_first_is_caught(place: str, stepping: None) -> None:
    """Its message is lost."""
    assert "the message 'a': gone, and right were: came" in broken_at(place, DeleteFirst)


class Litter(deeds.Send):
    """A sender that leaves something behind."""

    def act(self) -> None:
        Path(self.path, "bob/.litter").touch()
        super().act()
        Path(self.path, "bob/.litter").unlink()


def test_what_is_left_behind_for_good_is_caught(place: str, stepping: None) -> None:
    """Nobody takes it away."""
    assert "left over for good" in broken_at(place, Litter)


class Condemns(deeds.ClaimNext):
    """A consumer that takes its own trouble for the message's."""

    def act(self) -> None:
        try:
            super().act()
        except OSError:
            (name,) = (each for each in os.listdir(f"{self.path}/bob/new") if each < self.later)
            os.rename(f"{self.path}/bob/new/{name}", f"{self.path}/bob/dead/{name}")

    def prepare(self) -> None:
        super().prepare()
        self.later = max(os.listdir(f"{self.path}/bob/new"))


def test_a_consumer_that_condemns_good_mail_is_caught(place: str, stepping: None) -> None:
    """A disk that fails is no fault of a message."""
    assert "dead, and right were: came" in broken_at(place, Condemns, "EIO")


def test_the_flush_that_is_not_made_is_caught_by_its_error(
    place: str, stepping: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender that takes a failed flush for a failed delivery sends twice under two ids."""

    def refuse(error: OSError, id: str) -> Exception:
        return errors.storage_error(error, "delivering", id)

    monkeypatch.setattr(deliver, "_unflushed", refuse)

    assert "the message 'a': came, and right were: gone" in broken_at(place, deeds.Send, "EIO")


def test_what_the_faults_have_found_is_found_again(place: str, stepping: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that was lost, before a message that failed was put back."""
    monkeypatch.setattr(Failures, "is_first_again", lambda *_: False)

    assert "tried again, it failed" in broken_at(place, deeds.ClaimForeign, "EIO")


def test_a_ledger_that_looks_on_the_wrong_page_is_caught(
    place: str, stepping: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """os.path.isdir() takes a failing disk for an absent folder."""
    monkeypatch.setattr(Root, "has", lambda root, name: os.path.isdir(f"{root.path}/{name}/new"))

    assert "AssertionError" in broken_at(place, deeds.AckSecond, "EIO")


# Power


@pytest.mark.parametrize("kind", [name for name, kind in disks.KINDS.items() if kind.known is None])
def test_a_power_cut_loses_nothing_that_was_flushed(place: str, kind: str) -> None:
    """One cut; `scripts/prove power` makes twenty on each disk."""
    try:
        result = power.cuts(disks.KINDS[kind], place, 1, 0.1)
    except record.LeftOut as why:
        pytest.skip(str(why))

    assert result.broken == []
    assert result.counts["durable_sends"] > 0


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_a_power_cut_is_one(place: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A send that only says that it is durable loses its messages; else the cut cuts nothing."""
    monkeypatch.setattr(deliver, "_flush", lambda *_: None)
    monkeypatch.setattr(deliver, "_flush_all", lambda *_: None)
    monkeypatch.setattr(deliver, "_flush_crowd", lambda *_: None)
    try:
        result = power.cuts(disks.KINDS[kind], place, 1, 0.1)
    except record.LeftOut as why:
        pytest.skip(str(why))

    assert any("had been sent, and is n" in each for each in result.broken)


# The history


def event(do: str, name: str = "t", when: int = 0, /, **facts: Any) -> history.Event:
    return {"do": do, "token": name, "at": when, **facts}


def got(name: str = "t", when: int = 0, /, **facts: Any) -> history.Event:
    return {**event("got", name, when, id=ID, box="bob", attempt=1, trust="none"), "from": "alice", **facts}


def acked(when: int, name: str) -> history.Event:
    return event("acked", "t", when, name=name)


SEND: history.Event = {**event("send", to="bob"), "from": "alice"}
SENT = event("sent", id=ID)
ACKED = acked(1, ID)


@pytest.mark.parametrize(
    "logs",
    [
        pytest.param([[SEND, SENT], [got(), ACKED]], id="sent and handled"),
        pytest.param([[SEND], [got(), ACKED]], id="cut off, and delivered all the same"),
        pytest.param([[SEND], []], id="cut off, and not delivered"),
        pytest.param([[SEND, SENT], [got()], [got(attempt=2), ACKED]], id="taken by one that died, then by another"),
        pytest.param([[SEND, event("refused")], []], id="refused, and not delivered"),
        pytest.param([[SEND, SEND, SENT], [got(), ACKED, got("t", 2), acked(3, ID)]], id="sent again"),
        pytest.param(
            [
                [SEND, SENT],
                [got("t", 0), acked(5, ID)],
                [got("t", 3), acked(9, LATER)],
            ],
            id="two copies in hand at once",
        ),
        pytest.param(
            [
                [SEND, SENT],
                [got("t", 0), acked(5, ID)],
                [got("t", 8, looked=3), acked(9, LATER)],
            ],
            id="two copies, and who had asked the ledger was stopped for a while",
        ),
        pytest.param(
            [
                [SEND, SENT],
                [got(), {"do": "unnoted", "id": ID}, ACKED, got("t", 5), acked(6, LATER)],
            ],
            id="a copy, and the ledger could not be written",
        ),
    ],
)
def test_a_history_that_can_be_is_believed(logs: list[list[history.Event]]) -> None:
    """What is not known, or is explained, is no find."""
    assert history.check(logs).broken == []


@pytest.mark.parametrize(
    ("find", "logs"),
    [
        pytest.param("lost", [[SEND, SENT], []], id="lost"),
        pytest.param("phantom", [[], [got(), ACKED]], id="never sent"),
        pytest.param("phantom", [[SEND, event("refused")], [got()]], id="refused, and delivered"),
        pytest.param("phantom", [[SEND, SENT], [got(box="carol")]], id="delivered to another"),
        pytest.param("forged", [[event("forge")], [got()]], id="forged"),
        pytest.param("forged", [[SEND, SENT], [{**got(trust="sealed"), "from": "eve"}]], id="proven to be another's"),
        pytest.param("two ids", [[SEND, SENT], [got(id=LATER)]], id="another id than send gave"),
        pytest.param("two ids", [[SEND], [got()], [got(id=LATER, attempt=2)]], id="two ids"),
        pytest.param("twice", [[SEND, SENT], [got(), ACKED, got("t", 2), acked(3, LATER)]], id="handled twice"),
        pytest.param(
            "order",
            [
                [SEND, SENT, {**SEND, "token": "u"}, event("sent", "u", id=LATER)],
                [got("u", id=LATER), got()],
            ],
            id="out of order",
        ),
    ],
)
def test_a_history_that_cannot_be_is_caught(find: str, logs: list[list[history.Event]]) -> None:
    """One find for each rule."""
    assert [each.split(":")[0] for each in history.check(logs).broken] == [find]


def test_a_dead_letter_was_lost_too(place: str) -> None:
    """Good mail that was condemned is told from mail that is nowhere."""
    (found,) = history.check([[SEND, SENT], []], dead=["t"]).broken

    assert "is a dead letter" in found


def test_a_line_that_a_kill_cut_off_is_not_read(tmp_path: Path) -> None:
    """The rest of the log is."""
    (tmp_path / "log").write_text('{"do": "send"}\n{"do": "se')

    assert history.read(str(tmp_path / "log")) == [{"do": "send"}]


# The soak and the crowd


def test_a_soak_of_seconds_holds(place: str) -> None:
    """`scripts/prove soak` soaks for minutes, or as long as it is told."""
    for number, seconds in enumerate((2.0, 10.0, 40.0)):  # its processes take long to start on a busy machine
        os.mkdir(f"{place}/{number}")
        try:
            result = soak.soak(f"{place}/{number}", seconds, 1)
        except record.LeftOut as why:
            pytest.skip(str(why))
        if result.counts["handled"] or result.broken:
            break

    assert result.broken == []
    assert result.counts["handled"] > 0


def test_a_crowd_of_few_holds(place: str) -> None:
    """`scripts/prove crowd` has a thousand boxes and a million messages."""
    boxes = crowd.many_boxes(f"{place}/boxes", 8)
    messages = crowd.many_messages(f"{place}/messages", 3000)

    assert boxes.broken == messages.broken == []
    assert boxes.counts["messages"] == 160


# The volume from outside


def test_a_box_at_rest_has_nothing_wrong(place: str) -> None:
    """Else every proof would find something."""
    with Mailbox.init("bob", f"{place}/mail") as bob:
        bob.send("bob", {"token": "a"})

        assert list(volume.broken(f"{place}/mail")) == []
    assert list(volume.left_over(f"{place}/mail")) == []


@pytest.mark.parametrize(
    "path",
    [
        *("x", "bob/x", "bob/tmp/x", "bob/run/x", "bob/new/x", "bob/later/x", "bob/replies/x", "bob/ledger/x"),
        *("bob/dead/x.why", "bob/cur/x", "bob/cur/0123456789ab"),
    ],
)
def test_what_is_left_over_is_seen_wherever_it_lies(place: str, path: str) -> None:
    """One thing of no use in each place."""
    Mailbox.init("bob", f"{place}/mail").close()
    if path.endswith("ab"):
        os.mkdir(f"{place}/mail/{path}")
    else:
        Path(place, "mail", path if "/" in path else f".{path}").touch()

    assert len(list(volume.left_over(f"{place}/mail"))) == 1


class Bad(deeds.Deed):
    """Nothing is done."""

    done: ClassVar = {"a": "came"}

    def act(self) -> None:
        pass


def test_what_is_not_there_at_all_is_seen(place: str, stepping: None) -> None:
    """Without any kill."""
    assert broken_at(place, Bad) == "without a kill: the message 'a': gone, and right were: came"


# The record


def result(*broken: str) -> Callable[[], record.Result]:
    return lambda: record.Result({"tries": 2}, list(broken))


def test_a_record_goes_on_where_it_ended(tmp_path: Path) -> None:
    """What was done is not done again, but what was left out is."""

    def fail() -> record.Result:
        raise AssertionError

    def left_out() -> record.Result:
        raise record.LeftOut("there is no disk")

    first = record.Record(str(tmp_path), quiet=True)
    first.do("kills", [("a", result()), ("b", left_out)])
    second = record.Record(str(tmp_path), quiet=True)
    second.do("kills", [("a", fail), ("b", result("it is lost"))])

    assert first.summary().splitlines() == ["kills  holds  0 s  2 tries", "  kills: b: left out: there is no disk"]
    assert second.summary() == "kills  1 BROKEN  0 s  4 tries"
    assert (first.broken, second.broken) == (0, 1)
    assert (first.left_out, second.left_out) == (1, 0)


def prove(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([REPO / "scripts/prove", *words], capture_output=True, text=True, check=False)


def test_the_command_proves_and_sums_up(stepping: None) -> None:
    """A line for each proof; progress is for people."""
    done = prove("kills", "--only", "put-off", "--rounds", "1")

    assert (done.returncode, done.stdout.split()[:2]) == (0, ["kills", "holds"])
    assert "kills 1/1: put-off, round 1" in done.stderr


def test_the_modules_that_coverage_watches_are_there() -> None:
    """A module that was renamed would be watched no more."""
    assert [name for name in coverage.MODULES if not (PACKAGE / f"{name}.py").is_file()] == []
    for test in coverage.ASIDE:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (TESTS / path).read_text()


def test_the_command_explains_itself() -> None:
    """What there is to prove."""
    done = prove("--help")

    assert done.returncode == 0
    assert "power cuts during durable sends" in done.stdout
