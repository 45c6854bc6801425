"""Message: its envelope as properties, its one JSON form, and the ways to settle it."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from filemailbox import Mailbox, Message, NotClaimedError, Reject, Retry
from filemailbox.format.envelope import decode, encode
from filemailbox.receive.message import one_line_error

ID = "20261124T014530.123456789Z-3f9c0a12b4d5"


class Desk:
    """A box that notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def ack(self, message: Message[Any]) -> None:
        self._settle(message, "ack")

    def retry(self, message: Message[Any], delay: float | None, reason: str, detail: str) -> None:
        self._settle(message, "retry", delay, reason, bool(detail))

    def reject(self, message: Message[Any], reason: str, detail: str) -> None:
        self._settle(message, "reject", reason)

    def release(self, message: Message[Any], delay: float) -> None:
        self._settle(message, "release")

    def extend(self, message: Message[Any], duration: float) -> datetime:
        self.asked.append(("extend", duration))
        return datetime.now(UTC)

    def reply(self, message: Message[Any], body: Any, options: dict[str, Any]) -> str:
        self.asked.append(("reply", body, options))
        return ID

    def _settle(self, message: Message[Any], *asked: Any) -> None:
        message.settled = True
        self.asked.append(asked)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def message(desk: Desk) -> Message[Any]:
    data = encode(ID, "alice", "bob", {"n": 1}, {})
    return Message(ID, decode(data), data, f"{ID}.json", settler=desk, replier=desk)


def test_what_is_missing_is_filled_in_on_reading() -> None:
    """Every property has a value of its type, or None; the time of sending comes from the id."""
    message: Message[Any] = Message(ID, decode(b'{"body":1}'), b"", "")
    strings = (message.sender, message.to, message.type, message.subject, message.thread, message.in_reply_to)

    assert strings == (None,) * 6
    assert (message.idempotency_key, message.expires, message.deliver_after) == (None, None, None)
    assert (message.hops, message.headers, message.reply_id) == (0, {}, ID)
    assert message.sent == datetime(2026, 11, 24, 1, 45, 30, 123456, UTC)


def test_the_envelope_can_be_read_by_its_words() -> None:
    """Each member is a property; unknown ones are in fields."""
    members = {"id": "x", "from": "a", "to": "b", "type": "t", "subject": "s", "thread": "h", "in_reply_to": "r"}
    times = {"sent": "2026-11-24T00:00:00Z", "expires": "2027-01-01T00:00:00Z", "deliver_after": "2026-12-01T00:00:00Z"}
    data = json.dumps(
        {**members, **times, "idempotency_key": "k", "hops": 3, "headers": {"a": "b"}, "y": 1, "body": 2}
    ).encode()
    message: Message[Any] = Message(ID, decode(data), data, "")
    strings = (message.sender, message.to, message.type, message.subject, message.thread, message.in_reply_to)

    assert strings == ("a", "b", "t", "s", "h", "r")
    assert (message.idempotency_key, message.hops, message.headers, message.reply_id) == ("k", 3, {"a": "b"}, "x")
    assert message.sent == datetime(2026, 11, 24, tzinfo=UTC)
    assert message.expires == datetime(2027, 1, 1, tzinfo=UTC)
    assert message.deliver_after == datetime(2026, 12, 1, tzinfo=UTC)
    assert message.fields["y"] == 1


@pytest.mark.parametrize("sent", ["soon", "2026-02-30T00:00:00Z", None], ids=["word", "no such day", "null"])
def test_a_time_of_sending_that_is_none_is_not_believed(sent: Any) -> None:
    """Nothing depends on it, so it condemns nothing: the id has a time."""
    message: Message[Any] = Message(ID, decode(json.dumps({"body": 1, "sent": sent}).encode()), b"", "")

    assert message.sent == datetime(2026, 11, 24, 1, 45, 30, 123456, UTC)


def test_an_id_of_a_day_that_no_month_has_is_some_time() -> None:
    """A hostile name must not make a property raise."""
    message: Message[Any] = Message(ID.replace("1124", "0231"), decode(b"{}"), b"", "")

    assert message.sent == datetime(2026, 3, 3, 1, 45, 30, 123456, UTC)


def test_a_message_shows_itself_safely() -> None:
    """repr() goes into logs: nothing in it moves a cursor."""
    message: Message[Any] = Message(ID, decode(b'{"from":"\\u001b[2J","body":1}'), b"", "")

    assert repr(message) == rf'<Message {ID} from "\x1b[2J" (none) type "" cur>'


@pytest.mark.parametrize(
    ("error", "asked", "swallowed"),
    [
        pytest.param(None, ("ack",), False, id="clean exit"),
        pytest.param(Reject("no"), ("reject", "no"), True, id="Reject"),
        pytest.param(Retry(30, "busy"), ("retry", 30, "busy", False), True, id="Retry"),
        pytest.param(Retry(), ("retry", None, "the handler asked to retry", False), True, id="Retry by default"),
        pytest.param(KeyError("x"), ("retry", None, "KeyError: 'x'", True), False, id="error, with its traceback"),
        pytest.param(KeyboardInterrupt(), ("release",), False, id="KeyboardInterrupt"),
        pytest.param(SystemExit(), ("release",), False, id="SystemExit"),
    ],
)
def test_a_with_block_settles_as_it_ends(
    message: Message[Any], desk: Desk, error: BaseException | None, asked: Any, swallowed: bool
) -> None:
    """A clean exit acks, Retry and Reject are words to us, other errors retry and go on, a stop hands back."""
    raised = None
    try:
        with message:
            if error is not None:
                raise error
    except BaseException as caught:  # noqa: BLE001  # also what is no Exception
        raised = caught

    assert desk.asked == [asked]
    assert raised is (None if swallowed else error)


@pytest.mark.parametrize("error", [None, Reject("no"), KeyError("x")], ids=["clean exit", "Reject", "error"])
def test_an_async_with_block_leaves_what_is_settled(
    message: Message[Any], desk: Desk, error: BaseException | None
) -> None:
    """Nothing is asked for twice; a word to us is swallowed all the same, an error goes on."""

    async def settle() -> None:
        async with message:
            message.ack()
            if error is not None:
                raise error

    if isinstance(error, KeyError):
        with pytest.raises(KeyError):
            asyncio.run(settle())
    else:
        asyncio.run(settle())

    assert desk.asked == [("ack",)]


def test_the_first_settling_counts(message: Message[Any], desk: Desk) -> None:
    """All later ones do nothing, also the end of the with block."""
    with message:
        message.retry(delay=timedelta(minutes=1))
        message.ack()
        message.reject("no")
        message.release()

    assert desk.asked == [("retry", 60.0, "put back to be retried", False)]


@pytest.mark.parametrize(
    "settle",
    [
        pytest.param(lambda message: message.ack(), id="ack"),
        pytest.param(lambda message: message.retry(), id="retry"),
        pytest.param(lambda message: message.reject("no"), id="reject"),
        pytest.param(lambda message: message.release(), id="release"),
        pytest.param(lambda message: message.reply(1), id="reply"),
    ],
)
def test_what_was_only_looked_at_cannot_be_settled(settle: Callable[[Message[Any]], Any]) -> None:
    """It may be somebody else's, or already gone."""
    with pytest.raises(NotClaimedError, match=ID):
        settle(Message(ID, decode(b"{}"), b"", ""))


def test_a_reply_acks_unless_the_message_is_kept(message: Message[Any], desk: Desk) -> None:
    """As `mailbox reply` does; more than one may be sent."""
    first = message.reply("working", keep=True)
    kept = not message.settled
    second = message.reply({"ok": True}, type="done")

    assert (first, second, kept) == (ID, ID, True)
    assert desk.asked == [("reply", "working", {}), ("reply", {"ok": True}, {"type": "done"}), ("ack",)]
    assert message.settled


# as_dict


def test_a_message_has_one_json_form(alice: Mailbox, bob: Mailbox) -> None:
    """The envelope, unknown fields included; what the box knows of it; the body at the end."""
    id = alice.send("bob", {"path": "x.c"}, type="job", headers={"traceparent": "00-1"})
    message = bob.receive()
    assert message is not None
    form = message.as_dict()

    assert list(form)[-1] == "body"
    assert json.loads(json.dumps(form)) == form
    assert form == {
        "id": id,
        "from": "alice",
        "to": "bob",
        "sent": message.fields["sent"],
        "type": "job",
        "headers": {"traceparent": "00-1"},
        "trust": message.trust,
        "state": "cur",
        "attempt": 1,
        "body": {"path": "x.c"},
    }


def test_the_json_form_has_times_as_text_and_the_reason_of_a_dead_letter(alice: Mailbox, bob: Mailbox) -> None:
    """`due` is RFC 3339; `reason` is for dead letters, `problem` for what would become one."""
    alice.send("bob", 1, delay=3600)
    alice.send("bob", 2)
    message = bob.receive()
    assert message is not None
    message.reject("no such path")
    (deferred,), (dead,) = bob.peek("later"), bob.peek("dead")

    assert deferred.due is not None
    assert datetime.fromisoformat(deferred.as_dict()["due"]) == deferred.due
    assert (dead.as_dict()["reason"], "problem" in dead.as_dict()) == ("no such path", False)


def test_a_message_without_a_time_of_sending_has_that_of_its_id_in_its_json_form() -> None:
    """Any JSON object is mail."""
    message: Message[Any] = Message(ID, decode(b'{"body":1}'), b"", "")

    assert message.as_dict()["sent"] == "2026-11-24T01:45:30.123456Z"


# one_line_error


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        pytest.param(ValueError("a\n  b"), "ValueError: a b", id="lines"),
        pytest.param(ValueError(), "ValueError", id="no text"),
        pytest.param(ValueError("\udc80"), r"ValueError: \udc80", id="no UTF-8"),
        pytest.param(Unprintable(), "Unprintable: it cannot be printed", id="fails to print"),
    ],
)
def test_an_exception_becomes_one_line(error: Exception, line: str) -> None:
    """It goes into logs and beside dead letters."""
    assert one_line_error(error) == line
