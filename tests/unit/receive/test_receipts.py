"""Refusals as answers, and receipts to wait for."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import InvalidRequestError, Mailbox, MailboxError, RefusedError, Reject
from filemailbox.cli import send
from support.waiting import Until

Start = Callable[..., Any]


@pytest.fixture
def serve(root: Path) -> Iterator[Callable[..., Mailbox]]:
    """serve(handler, *types, **settings): a listener of bob in a thread of its own."""
    running: list[tuple[Mailbox, threading.Thread]] = []

    def begin(handler: Callable[[Any], Any], *types: str, **settings: Any) -> Mailbox:
        box = Mailbox("bob", root, durable=False, **settings)
        box.on(*types)(handler)
        thread = threading.Thread(target=box.run)
        thread.start()
        running.append((box, thread))
        return box

    yield begin
    for box, thread in running:
        while thread.is_alive():
            box.stop()
            thread.join(0.05)


def mail_of_alice(root: Path) -> list[Path]:
    return [path for state in ("new", "cur", "later") for path in (root / "alice" / state).rglob("*.json")]


def refuse(message: Any) -> None:
    raise Reject("you asked nonsense")


def test_a_refusal_is_an_answer(root: Path, alice: Mailbox, serve: Callable[..., Mailbox]) -> None:
    """With its reason, at once; it is no mail."""
    serve(refuse)
    with pytest.raises(RefusedError, match="you asked nonsense") as caught:
        alice.request("bob", "?", timeout=None)

    assert (caught.value.by, caught.value.reason) == ("bob", "you asked nonsense")
    assert caught.value.id in str(caught.value)
    assert mail_of_alice(root) == []
    assert list((root / "alice/replies").iterdir()) == []


def test_the_last_failed_attempt_is_a_refusal(alice: Mailbox, serve: Callable[..., Mailbox]) -> None:
    """The error of the handler, and not its traceback."""

    def fail(message: Any) -> None:
        raise KeyError("pth")

    serve(fail, max_attempts=2, retry_delay=0.0)
    with pytest.raises(RefusedError) as caught:
        alice.request("bob", "?", timeout=None)

    assert caught.value.reason == "KeyError: 'pth' (attempt 2 of 2)"


def test_a_body_of_the_wrong_type_is_refused(alice: Mailbox, root: Path) -> None:
    """And a message that expired."""
    with Mailbox("bob", root) as bob:
        refused: list[str] = []

        def ask(**options: Any) -> None:
            with pytest.raises(RefusedError) as caught:
                alice.request("bob", "text", timeout=None, **options)
            refused.append(caught.value.reason)

        cases: list[tuple[dict[str, Any], Any]] = [({}, int), ({"ttl": 0.0}, None)]
        for options, into in cases:
            asking = threading.Thread(target=ask, kwargs=options)
            asking.start()
            while asking.is_alive():
                bob.receive(0.05, into=into)
            asking.join()

    assert "expected `int`" in refused[0].lower()
    assert refused[1].startswith("it expired at ")


def test_arequest_gets_the_refusal_too(alice: Mailbox, serve: Callable[..., Mailbox]) -> None:
    """In a loop."""
    serve(refuse)
    with pytest.raises(RefusedError, match="nonsense"):
        asyncio.run(alice.arequest("bob", "?", timeout=None))


@pytest.mark.parametrize("until", ["taken", "handled"])
def test_a_sender_waits_for_a_stage(root: Path, alice: Mailbox, serve: Callable[..., Mailbox], until: str) -> None:
    """The id is known before the end; a reply in between becomes ordinary mail."""
    serve(lambda message: "a reply")
    sent: list[str] = []
    id = alice.send_and_wait("bob", 1, until=until, timeout=None, on_sent=sent.append)

    assert sent == [id]
    reply = alice.receive(timeout=None)
    assert reply is not None
    assert (reply.body, reply.in_reply_to) == ("a reply", id)
    reply.ack()
    assert mail_of_alice(root) == []


def test_taken_comes_before_handled(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """The message is still claimed."""
    done: list[str] = []
    waiting = threading.Thread(target=lambda: done.append(alice.send_and_wait("bob", 1, until="taken", timeout=None)))
    waiting.start()
    message = bob.receive(timeout=None)
    waiting.join()
    assert message is not None

    assert done == [message.id]
    assert not message.settled


def test_a_rejection_ends_the_wait(alice: Mailbox, serve: Callable[..., Mailbox]) -> None:
    """With an error; unless it is what is waited for."""
    serve(refuse)
    with pytest.raises(RefusedError, match="nonsense"):
        alice.send_and_wait("bob", 1, timeout=None)
    assert alice.send_and_wait("bob", 1, until="rejected", timeout=None)
    with pytest.raises(RefusedError, match="nonsense"):
        asyncio.run(alice.asend_and_wait("bob", 1, timeout=None))


def test_who_waits_for_a_rejection_learns_that_it_was_handled(alice: Mailbox, serve: Callable[..., Mailbox]) -> None:
    """Else it would wait for nothing."""
    serve(lambda message: None)

    with pytest.raises(MailboxError, match="handled"):
        alice.send_and_wait("bob", 1, until="rejected", timeout=None)
    assert asyncio.run(alice.asend_and_wait("bob", 1, timeout=None))


def test_no_receipt_without_a_waiter(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """The time-out names the stage, and why; later nothing is sent."""
    with pytest.raises(TimeoutError, match=r'has not handled .* no process listens to "bob"'):
        alice.send_and_wait("bob", 1, timeout=0.01)
    message = bob.receive()
    assert message is not None
    message.ack()

    assert mail_of_alice(root) == []
    assert list((root / "alice/tmp").iterdir()) == []


def test_a_receipt_of_a_dead_requester_is_no_mail(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """It may have come into new/ from the folder that was left; the consumer drops it."""
    (root / "alice/new/x.json").write_text('{"from": "bob", "receipt": "handled", "body": null}')
    bob.send("alice", "mail")
    got = alice.receive()

    assert got is not None
    assert got.body == "mail"
    got.ack()
    assert alice.receive() is None
    assert mail_of_alice(root) == []


def test_a_receipt_from_another_agent_is_none(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """Whoever knows the id cannot say that bob has handled it."""
    Mailbox.init("carol", root).close()
    seen: list[Exception] = []

    def wait() -> None:
        try:
            alice.send_and_wait("bob", 1, timeout=0.5, on_sent=forge)
        except TimeoutError as error:
            seen.append(error)

    def forge(id: str) -> None:
        with Mailbox("carol", root, durable=False) as carol:
            options: Any = {"receipt": "handled", "in_reply_to": id}
            carol.send("alice", None, **options)

    wait()
    assert len(seen) == 1


def test_a_group_has_no_one_stage(alice: Mailbox) -> None:
    """And a stage that does not exist is named."""
    with pytest.raises(InvalidRequestError, match="group"):
        alice.send_and_wait("all", 1)
    with pytest.raises(InvalidRequestError, match="seen"):
        alice.send_and_wait("bob", 1, until="seen")


def test_why_no_process_takes_it(alice: Mailbox, serve: Callable[..., Mailbox], until: Until) -> None:
    """No listener, or none for this type."""
    nobody = alice.unheard("bob", "job")
    serve(lambda message: None, "job")
    until(lambda: "no listener" in (alice.unheard("bob", "other") or ""))
    job, other, none = alice.unheard("bob", "job"), alice.unheard("bob", "other"), alice.unheard("bob")

    assert nobody == 'no process listens to "bob" now'
    assert job is None
    assert other == 'no listener of "bob" takes the type "other"'
    assert none == 'no listener of "bob" takes mail without a type'
    assert alice.unheard("nobody-of-that-name") is None
    assert alice.unheard("all") is None


def test_the_command_refuses_with_1_and_waits_for_receipts(
    mailbox: Callable[..., Any], serve: Callable[..., Mailbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`request` and `send --wait-for`."""
    hasty = mailbox("request", "bob", "?", "--timeout", "10ms", sender="alice")
    monkeypatch.setattr(send, "GRACE", 0.0)
    patient = mailbox("request", "bob", "?", "--timeout", "200ms", sender="alice")
    assert (hasty.code, len(hasty.err.splitlines())) == (124, 1)
    assert hasty.err.rstrip().endswith(': no process listens to "bob" now')
    assert patient.err.startswith('mailbox: no process listens to "bob" now')
    monkeypatch.setattr(send, "GRACE", 60.0)

    serve(refuse, "bad")
    serve(lambda message: None, "good")
    refused = mailbox("request", "bob", "?", "--type", "bad", "--timeout", "1m", sender="alice")
    handled = mailbox("send", "bob", "?", "--type", "good", "--wait-for", "handled", "--timeout", "1m", sender="alice")
    rejected = mailbox("send", "bob", "?", "--type", "bad", "--wait-for", "rejected", "--timeout", "1m", sender="alice")
    failed = mailbox("send", "bob", "?", "--type", "bad", "--wait-for", "taken", "--timeout", "1m", sender="alice")

    assert (refused.code, refused.out) == (1, "")
    assert "you asked nonsense" in refused.err
    assert (handled.code, len(handled.lines)) == (0, 1)
    assert (rejected.code, len(rejected.lines)) == (0, 1)
    assert failed.code == 0
    assert mailbox("send", "bob", "x", "--timeout", "1m", sender="alice").code == 2


def test_a_message_under_a_lease_is_acked_by_another_command(mailbox: Callable[..., Any], root: Path) -> None:
    """`receive --no-ack`, then `ack ID`: the sender learns of both."""
    with Mailbox("alice", root, durable=False) as alice:
        done: list[str] = []
        waiting = threading.Thread(target=lambda: done.append(alice.send_and_wait("bob", 1, timeout=None)))
        waiting.start()
        id = ""
        while not id:
            taken = mailbox("receive", "--no-ack", "--json")
            id = taken.records[0]["id"] if taken.lines else ""
        assert mailbox("ack", id).code == 0
        waiting.join()

    assert done == [id]
