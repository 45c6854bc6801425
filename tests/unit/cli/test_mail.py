"""Sending, looking, taking and settling on the command line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import InvalidAddressError, Mailbox
from filemailbox.format.filename import is_id

EXACT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


# send


def test_send_prints_the_id_and_nothing_else(mailbox: Callable[..., Any], alice: Mailbox) -> None:
    """`id=$(mailbox send …)`."""
    said = mailbox(
        "send",
        "alice",
        "hi",
        "--type",
        "t",
        "-s",
        "about",
        "--thread",
        "x",
        "--idempotency-key",
        "k",
        "-H",
        "a=b",
        "--ttl",
        "1h",
    )
    message = alice.receive()

    assert (said.code, said.err) == (0, "")
    assert message is not None
    assert said.out == f"{message.id}\n"
    assert (message.body, message.sender, message.type, message.subject) == ("hi", "bob", "t", "about")
    assert (message.thread, message.idempotency_key, message.headers) == ("x", "k", {"a": "b"})
    assert message.expires is not None


@pytest.mark.parametrize("words", [[], ["-"]], ids=["none", "dash"])
def test_without_a_body_standard_input_is_it(mailbox: Callable[..., Any], alice: Mailbox, words: list[str]) -> None:
    """As text, its last newline taken off, the others kept."""
    mailbox("send", "alice", *words, stdin="one\ntwo\n\n")
    message = alice.receive()

    assert message is not None
    assert message.body == "one\ntwo\n"


@pytest.mark.parametrize(
    ("words", "body"),
    [
        pytest.param(["- first\n- second"], "- first\n- second", id="a list"),
        pytest.param(["--- a/x.c\n+++ b/x.c"], "--- a/x.c\n+++ b/x.c", id="a diff"),
        pytest.param(["-starts with a dash", "--type", "t"], "-starts with a dash", id="a short option with more"),
        pytest.param(["--nope", "--subject", "s"], "--nope", id="an option that does not exist"),
        pytest.param(["--subject", "s", "--", "--json"], "--json", id="behind dashes"),
        pytest.param(["--body", "--as"], "--as", id="--body"),
        pytest.param(["--body=-x"], "-x", id="--body="),
    ],
)
def test_a_body_that_begins_with_a_dash_arrives_as_it_is(
    mailbox: Callable[..., Any], alice: Mailbox, words: list[str], body: str
) -> None:
    """Models send lists and diffs. No option takes a part of them."""
    assert mailbox("send", "alice", *words).code == 0
    assert [message.body for message in alice.peek()] == [body]


def test_an_option_that_does_not_exist_beside_a_body_is_refused(mailbox: Callable[..., Any], alice: Mailbox) -> None:
    """Then it is a mistake, not the body."""
    said = mailbox("send", "alice", "hi", "--tpye", "job")

    assert said.code == 2
    assert "--tpye" in said.err
    assert list(alice.peek()) == []


@pytest.mark.parametrize("words", [[], ["-"], ["--body-file", "/dev/null"]], ids=["none", "dash", "file"])
def test_an_empty_source_sends_nothing(mailbox: Callable[..., Any], alice: Mailbox, words: list[str]) -> None:
    """`false | mailbox send`; with --allow-empty the body is empty."""
    said = mailbox("send", "alice", *words, stdin="")

    assert (said.code, said.out) == (65, "")
    assert "is empty" in said.err
    assert "hint: --allow-empty" in said.err
    assert list(alice.peek()) == []

    assert mailbox("send", "alice", *words, "--allow-empty", stdin="").code == 0
    assert [message.body for message in alice.peek()] == [""]


def test_a_body_from_a_file(mailbox: Callable[..., Any], alice: Mailbox, tmp_path: Path) -> None:
    """Without its last newline; one that cannot be read, and a second body, are mistakes."""
    (tmp_path / "body").write_text("- one\n- two\n")
    assert mailbox("send", "alice", "--body-file", str(tmp_path / "body")).code == 0
    assert [message.body for message in alice.peek()] == ["- one\n- two"]

    assert mailbox("send", "alice", "--body-file", str(tmp_path / "nowhere")).code == 65
    assert mailbox("send", "alice", "hi", "--body", "ho").code == 2
    assert len(list(alice.peek())) == 1


def test_a_body_of_json_is_json(mailbox: Callable[..., Any], alice: Mailbox) -> None:
    """And what is no JSON is exit code 65, nothing sent."""
    assert mailbox("send", "alice", "--json-body", '{"a": [1, null]}').code == 0
    wrong = mailbox("send", "alice", "--json-body", "{a: 1}")

    assert [message.body for message in alice.peek()] == [{"a": [1, None]}]
    assert (wrong.code, wrong.out) == (65, "")
    assert 'the body "{a: 1}" is not JSON' in wrong.err


def test_lines_are_a_message_each(mailbox: Callable[..., Any], alice: Mailbox) -> None:
    """In order, the ids as well; an empty line is an empty body."""
    said = mailbox("send", "alice", "--lines", "--type", "line", stdin="one\n\nthree")
    found = list(alice.peek())

    assert [message.body for message in found] == ["one", "", "three"]
    assert said.lines == [message.id for message in found]


def test_lines_before_one_that_fails_are_sent_and_named(mailbox: Callable[..., Any], alice: Mailbox) -> None:
    """The ids tell how far it came."""
    said = mailbox("send", "alice", "--lines", "--json-body", stdin="1\n2\nthree\n4\n")

    assert said.code == 65
    assert said.lines == [message.id for message in alice.peek()]
    assert [message.body for message in alice.peek()] == [1, 2]


@pytest.mark.parametrize(
    ("words", "stdin", "code", "told"),
    [
        pytest.param(["send", "carol", "hi"], b"", 67, 'there is no box "carol"', id="no box"),
        pytest.param(["send", "alice"], b"\xff\xfe", 65, "the body is not UTF-8", id="no text"),
        pytest.param(["send", "alice"], b"x" * (1 << 21), 65, "the limit is", id="too large"),
        pytest.param(["send", "alice", "--lines"], b"x" * (1 << 21), 65, "that is the limit", id="a line too large"),
        pytest.param(["send", "alice", "hi", "--lines"], b"", 2, "give no other body", id="lines and a body"),
        pytest.param(["send", "alice", "hi", "--root", "/nowhere"], b"", 69, "is the volume mounted?", id="no root"),
        pytest.param(["read", "nothing"], b"", 1, 'no message "nothing"', id="no message"),
        pytest.param(["receive", "--lease", "5m"], b"", 2, "--lease is for --no-ack", id="lease without no-ack"),
        pytest.param(["receive", "--no-ack", "--lease", "0"], b"", 2, "ends before it begins", id="no lease"),
    ],
)
def test_what_goes_wrong_is_a_sentence_and_an_exit_code(
    mailbox: Callable[..., Any], words: list[str], stdin: bytes, code: int, told: str
) -> None:
    """Never a traceback, nothing on standard output."""
    said = mailbox(*words, stdin=stdin)

    assert (said.code, said.out) == (code, "")
    assert told in said.err
    sentence, *hint = said.err.splitlines()
    assert sentence.startswith("mailbox: ")
    assert [line[:6] for line in hint] in ([], ["hint: "])


def test_whose_mail_it_is_must_be_said(mailbox: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """--as goes before MAILBOX_AGENT; without both it is a usage error."""
    assert mailbox("send", "bob", "hi", "--as", "alice").code == 0
    assert mailbox("list", "--json").records[0]["from"] == "alice"

    said = mailbox("list", sender="")
    assert (said.code, "--as NAME" in said.err) == (2, True)


# list, read, wait


def test_a_list_in_a_pipe_is_tabs_and_exact_times(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """No head, whole ids, nothing cut but the body: for cut and awk."""
    id = bob.send("bob", "hello\tthere\n" + "x" * 300, type="news")
    [row] = mailbox("list").lines
    cells = row.split("\t")

    assert cells[:4] == [id, "bob", "none", "news"]
    assert EXACT.fullmatch(cells[4])
    assert cells[5] == "waiting"
    assert cells[6].startswith("hello there x")
    assert len(cells) == 7


def test_a_list_as_json_has_all_that_is_known(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """JSON Lines: the envelope, the state, the trust; and it changes nothing."""
    bob.send("bob", {"n": 1}, subject="s")
    bob.send("bob", 2, delay=3600)
    first, second = mailbox("list", "--json").records

    assert (first["from"], first["subject"], first["body"], first["state"], first["trust"]) == (
        "bob",
        "s",
        {"n": 1},
        "waiting",
        "none",
    )
    assert second["deliver_after"] > second["sent"]
    assert len(list(bob.peek())) == 2


def test_a_list_can_be_narrowed(mailbox: Callable[..., Any], alice: Mailbox, bob: Mailbox) -> None:
    """By state, type, sender and number."""
    for number, type in enumerate(["a", "b", "a", "c"]):
        (alice if number % 2 else bob).send("bob", number, type=type)
    message = bob.receive()
    assert message is not None
    message.reject("no")

    def bodies(*words: str) -> list[int]:
        return [record["body"] for record in mailbox("list", "--json", *words).records]

    assert bodies() == [1, 2, 3]
    assert bodies("--type", "a", "--type", "b") == [1, 2]
    assert bodies("--from", "alice") == [1, 3]
    assert bodies("-n", "1") == [1]
    assert bodies("--state", "dead") == [0]
    assert bodies("--all") == [1, 2, 3, 0]


def test_any_part_of_an_id_names_a_message(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """Where it fits several, they are named."""
    ids = [bob.send("bob", number) for number in range(3)]

    assert mailbox("read", ids[1], "--body").out == "1\n"
    assert mailbox("read", ids[1][12:29], "--body").out == "1\n"

    several = mailbox("read", ids[0][-12:])
    assert several.code == 1
    assert "fits 3 messages" in several.err
    assert ids[2] in several.err


def test_reading_shows_one_message_and_leaves_it(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """For people, as JSON, as its body, as its bytes."""
    id = bob.send("bob", {"a": 1}, type="job", subject="s")
    [message] = bob.peek()

    assert f"from bob, trust none, type job, {message.sent:%Y-%m-%dT%H:%M:%S}" in mailbox("read", id).out
    assert mailbox("read", id, "--json").records[0]["body"] == {"a": 1}
    assert mailbox("read", id, "--body").out == '{"a":1}\n'
    assert mailbox("read", id, "--raw").out.encode() == message.raw
    assert len(list(bob.peek("new"))) == 1


def test_waiting_ends_when_there_is_mail_and_takes_none(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """0 where receive would print something, 124 where nothing came in time."""
    assert mailbox("wait", "--timeout", "0").code == 124
    bob.send("bob", "late", delay=3600)
    assert mailbox("wait", "--timeout", "10ms").code == 124
    bob.send("bob", "now")

    said = mailbox("wait", "--timeout", "20s")
    assert (said.code, said.out, said.err) == (0, "", "")
    assert len(list(bob.peek())) == 2


# receive


def test_receiving_prints_and_acks(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """Into a pipe JSON Lines, -n at the most, in order."""
    for number in range(3):
        bob.send("bob", number)

    assert [record["body"] for record in mailbox("receive", "-n", "2").records] == [0, 1]
    assert mailbox("receive", "--body").out == "2\n"
    assert list(bob.peek("new", "later", "cur", "dead")) == []


def test_receiving_where_there_is_nothing(mailbox: Callable[..., Any]) -> None:
    """Without --wait that is no failure; with it, it is 124, as timeout(1) has it."""
    nothing, waited = mailbox("receive"), mailbox("receive", "--wait", "10ms")

    assert (nothing.code, nothing.out, nothing.err) == (0, "", "")
    assert (waited.code, waited.out, waited.err) == (124, "", "")


def test_no_box_is_told_with_those_there_are(mailbox: Callable[..., Any]) -> None:
    """A typo is not a new box."""
    said = mailbox("receive", "--as", "bobb")

    assert said.code == 67
    assert 'there is no box "bobb"' in said.err
    assert "there are alice, bob" in said.err


# leases


def taken(mailbox: Callable[..., Any], *words: str) -> str:
    """A message that another process has taken, by its id."""
    [record] = mailbox("receive", "--no-ack", *words).records
    return str(record["id"])


def test_a_leased_message_is_held_and_says_until_when(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """The command has ended, and nobody else gets it."""
    bob.send("bob", "work")
    [record] = mailbox("receive", "--no-ack", "--lease", "1h").records

    assert EXACT.fullmatch(record["lease"])
    assert record["lease"] > record["sent"]
    assert bob.receive() is None
    assert [message.state for message in bob.peek("cur")] == ["cur"]


def test_ack_from_another_process_is_the_end_of_it(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """A second time it is an error: nothing is held any more."""
    bob.send("bob", "work")
    id = taken(mailbox)

    assert mailbox("ack", id[10:29]).code == 0
    assert list(bob.peek("new", "later", "cur", "dead")) == []
    again = mailbox("ack", id)
    assert (again.code, "there is no message" in again.err) == (1, True)


def test_retry_from_another_process_puts_it_back(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """The attempt is counted."""
    bob.send("bob", "work")

    assert mailbox("retry", taken(mailbox), "--delay", "0").code == 0
    assert [record["attempt"] for record in mailbox("receive", "--wait", "20s").records] == [2]


def test_reject_from_another_process_makes_a_dead_letter(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """With the reason."""
    bob.send("bob", "work")

    assert mailbox("reject", taken(mailbox), "--reason", "no such path").code == 0
    assert [message.problem for message in bob.peek("dead")] == ["no such path"]


def test_reply_from_another_process_answers_and_acks(mailbox: Callable[..., Any], alice: Mailbox, bob: Mailbox) -> None:
    """In the thread of the question; --keep leaves it held."""
    asked = alice.send("bob", "how many?")
    id = taken(mailbox)
    kept = mailbox("reply", id, "wait", "--keep")
    said = mailbox("reply", id, stdin="42\n")
    first, second = alice.receive(), alice.receive()

    assert (kept.code, said.code) == (0, 0)
    assert first is not None
    assert second is not None
    assert said.out == f"{second.id}\n"
    assert (second.body, second.in_reply_to, second.thread) == ("42", asked, asked)
    assert list(bob.peek("new", "later", "cur")) == []


def test_what_cannot_be_settled_stops_none_of_the_others(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """For xargs: each failure is told, the rest is done."""
    bob.send("bob", 1)
    bob.send("bob", 2)
    ids = [record["id"] for record in mailbox("receive", "--no-ack", "-n", "2").records]
    said = mailbox("ack", ids[0], "nonsense", ids[1])

    assert said.code == 1
    assert said.err.count("\n") == 1
    assert '"nonsense"' in said.err
    assert list(bob.peek("cur")) == []


def test_what_is_not_leased_says_why_it_cannot_be_settled(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """It waits, or a consumer that lives has it."""
    id = bob.send("bob", "work")
    waits = mailbox("ack", id)
    message = bob.receive()
    held = mailbox("ack", id)

    assert message is not None
    assert (waits.code, held.code) == (1, 1)
    assert "`mailbox receive --no-ack` claims it" in waits.err
    assert "is claimed without a lease" in held.err


# dead letters


def died(bob: Mailbox, *bodies: object) -> list[str]:
    """Dead letters, by their ids."""
    ids = [bob.send("bob", body, type="job") for body in bodies]
    for _ in ids:
        message = bob.receive()
        assert message is not None
        message.reject("no such path", "Traceback: …\n  line 2")
    return ids


def test_dead_letters_are_listed_with_the_reason(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """As tabs, as JSON."""
    [id] = died(bob, {"path": "x"})
    cells = mailbox("dead", "list").lines[0].split("\t")

    assert (*cells[:4], *cells[5:]) == (id, "bob", "none", "job", "1", "no such path")
    assert mailbox("dead", "list", "--json").records[0]["reason"] == "no such path"


def test_a_dead_letter_is_shown_with_all_that_is_known(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """The reason, the detail, the message."""
    [id] = died(bob, {"path": "x"})
    shown = mailbox("dead", "show", id).out
    [record] = mailbox("dead", "show", id, "--json").records

    assert shown.startswith("no such path\n\nTraceback: …\n  line 2\n")
    assert shown.endswith('{"path":"x"}\n')
    assert record["why"] == "no such path\n\nTraceback: …\n  line 2\n"
    assert record["body"] == {"path": "x"}


def test_dead_letters_are_requeued(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """One by a part of its id, or all of them; their attempts begin anew."""
    ids = died(bob, 1, 2, 3)

    assert mailbox("dead", "requeue", ids[1]).lines == [ids[1]]
    assert mailbox("dead", "requeue", "--all").lines == [ids[0], ids[2]]
    assert sorted((r["body"], r["attempt"]) for r in mailbox("receive", "-n", "9").records) == [(1, 1), (2, 1), (3, 1)]
    assert mailbox("dead", "list").out == ""


def test_dead_letters_are_purged(mailbox: Callable[..., Any], root: Path, bob: Mailbox) -> None:
    """Files and notes, for good; by id, by age, or all."""
    ids = died(bob, 1, 2, 3)

    assert mailbox("dead", "purge", ids[0]).lines == [ids[0]]
    assert mailbox("dead", "purge", "--older-than", "1d").lines == []
    assert mailbox("dead", "purge", "--all").lines == ids[1:]
    assert list((root / "bob" / "dead").iterdir()) == []


@pytest.mark.parametrize("words", [["requeue"], ["purge"], ["purge", "x", "--all"], ["requeue", "x", "--all"]])
def test_which_dead_letters_must_be_said(mailbox: Callable[..., Any], bob: Mailbox, words: list[str]) -> None:
    """Nothing is done to all of them by accident."""
    died(bob, 1)

    assert mailbox("dead", *words).code == 2
    assert len(list(bob.peek("dead"))) == 1


# request


def test_a_request_prints_the_answer(mailbox: Callable[..., Any], start: Callable[..., Any], root: Path) -> None:
    """Its body, or all of it with --json."""
    clerk = start(
        "import sys\nfrom filemailbox import Mailbox\n"
        "with Mailbox('alice', sys.argv[1]) as box:\n"
        "    for _ in range(2):\n"
        "        with box.receive(timeout=20) as message: message.reply({'sum': sum(message.body)})\n",
        root,
    )
    body = mailbox("request", "alice", "--json-body", "[1, 2]", "--timeout", "20s")
    [full] = mailbox("request", "alice", "--json-body", "[3, 4]", "--timeout", "20s", "--json").records

    assert clerk.end() == 0
    assert (body.code, json.loads(body.out)) == (0, {"sum": 3})
    assert (full["from"], full["body"]) == ("alice", {"sum": 7})


def test_no_answer_is_exit_code_124(mailbox: Callable[..., Any], root: Path, alice: Mailbox) -> None:
    """The question does not outlive whoever waits for its answer, and no folder is left behind."""
    said = mailbox("request", "alice", "anybody?", "--timeout", "20ms")
    [asked] = alice.peek()

    assert (said.code, said.out) == (124, "")
    assert "no answer from" in said.err
    assert asked.expires is not None
    assert list((root / "bob" / "replies").iterdir()) == []
    assert is_id(asked.id)


@pytest.mark.parametrize("known", ["waiting", "environment"])
def test_send_in_reply_to_counts_on_as_reply_does(
    mailbox: Callable[..., Any], root: Path, alice: Mailbox, monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    """From the message in our box, or from the environment of a command of watch."""
    id = alice.send("bob", "ping", hops=15, thread="chat")
    if known == "environment":
        for name, value in {"ID": id, "HOPS": "15", "THREAD": "chat"}.items():
            monkeypatch.setenv(f"MAILBOX_{name}", value)
        mailbox("receive")
    sent = mailbox("send", "alice", "pong", "--in-reply-to", id)
    answer = alice.receive()
    last = alice.send("bob", "ping", hops=16)
    refused = mailbox("send", "alice", "pong", "--in-reply-to", last)

    assert sent.code == 0
    assert answer is not None
    assert (answer.hops, answer.thread, answer.in_reply_to) == (16, "chat", id)
    assert (refused.code, "16" in refused.err) == (2, True)


def test_an_answer_to_a_message_that_is_gone_is_the_first(
    mailbox: Callable[..., Any], root: Path, alice: Mailbox
) -> None:
    """It keeps to the thread of the message."""
    id = alice.send("bob", "ping", hops=3)
    mailbox("watch", "--drain")
    mailbox("send", "alice", "pong", "--in-reply-to", id)
    answer = alice.receive()

    assert answer is not None
    assert (answer.hops, answer.thread) == (1, id)
    assert list((root / "bob/done").iterdir()) == []


def test_an_answer_to_what_was_received_counts_on(mailbox: Callable[..., Any], alice: Mailbox, root: Path) -> None:
    """For an hour; the mail itself is gone, and only the owner can read what is kept of it."""
    id = alice.send("bob", "ping", hops=3, thread="chat")
    mailbox("receive")
    mailbox("send", "alice", "pong", "--in-reply-to", id)
    mailbox("reply", id, "again")
    answers = alice.receive_many(2)
    kept = root / "bob/handled.json"

    assert [(answer.body, answer.hops, answer.thread) for answer in answers] == [
        ("pong", 4, "chat"),
        ("again", 4, "chat"),
    ]
    assert b"ping" not in kept.read_bytes()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert list((root / "bob/done").iterdir()) == []


@pytest.mark.parametrize(
    "content", ["{", "[1]", '[{"name":"x","trust":1,"acked":1,"fields":{}}]', "x" * 2_000_000], ids=range(4)
)
def test_what_is_kept_for_answers_is_best_effort(
    mailbox: Callable[..., Any], alice: Mailbox, root: Path, content: str
) -> None:
    """A damaged file stops no command, and is written again."""
    (root / "bob/handled.json").write_text(content)
    id = alice.send("bob", "ping")

    assert mailbox("receive").code == 0
    assert mailbox("reply", id, "pong").code == 0


def test_send_waits_for_a_box(mailbox: Callable[..., Any], root: Path) -> None:
    """In the end an unknown box is exit code 67."""
    assert mailbox("send", "bob", "x", "--wait-for-box", "1m").code == 0
    assert mailbox("send", "late", "x", "--wait-for-box", "50ms").code == 67
    assert mailbox("send", "late", "--lines", "--wait-for-box", "1s", stdin="x\n").code == 2


def test_a_sender_without_a_box_is_told(mailbox: Callable[..., Any]) -> None:
    """The message is sent; only answers cannot come. A typing error in one's own name is seen so."""
    typo, other = mailbox("send", "bob", "hi", sender="alicc"), mailbox("send", "bob", "hi", sender="cron")
    own = mailbox("send", "bob", "hi", sender="alice")

    assert [typo.code, other.code, own.code] == [0, 0, 0]
    assert "did you mean --as alice?" in typo.err
    assert "`mailbox init cron`" in other.err
    assert own.err == ""


def test_the_state_is_that_of_the_time_and_not_of_the_folder(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """Deferred mail that no consumer has seen yet, and mail that was put back at once."""
    bob.send("bob", "in an hour", delay=3600)
    bob.send("bob", "now")
    message = bob.receive()
    assert message is not None
    message.release()
    records = {record["body"]: record for record in mailbox("list", "--json").records}

    assert records["in an hour"]["state"] == "deferred"
    assert EXACT.fullmatch(records["in an hour"]["due"])
    assert records["now"]["state"] == "waiting"
    assert "due" not in records["now"]
    assert "deferred, due " in mailbox("list").out


def test_a_dead_letter_in_a_list_is_seen_with_its_reason(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """Not only the reason."""
    bob.send("bob", "the body", subject="the subject")
    message = bob.receive()
    assert message is not None
    message.reject("nonsense")

    assert mailbox("list", "--all").lines[0].endswith("\tthe subject (nonsense)")


def test_an_answer_to_an_unknown_message_is_led_on(mailbox: Callable[..., Any]) -> None:
    """To what `receive` keeps, and how to answer all the same."""
    said = mailbox("reply", "nonsense", "x")

    assert said.code == 1
    assert "--in-reply-to" in said.err


def test_what_receive_takes_can_be_selected(mailbox: Callable[..., Any], alice: Mailbox, bob: Mailbox) -> None:
    """By type, by sender, by thread; and a NAME that may mean two things is refused."""
    alice.send("bob", 1, type="a")
    bob.send("bob", 2, type="b")
    thread = alice.send("bob", 3, type="c", thread="t1")
    bodies = [
        mailbox("receive", "--json", *words).records
        for words in (("--type", "b"), ("--from", "bob"), ("--thread", "t1"), ("--from", "alice"))
    ]

    assert [[record["body"] for record in each] for each in bodies] == [[2], [], [3], [1]]
    assert thread
    assert mailbox("receive", "alice").code == 2
    assert mailbox("receive", "bob").code == 0


def test_a_body_that_is_too_large_is_not_measured_in_part(mailbox: Callable[..., Any]) -> None:
    """Only so much of it was read: the number would be wrong."""
    assert "more than 1048576 bytes" in mailbox("send", "alice", stdin=b"x" * (1 << 21)).err


def test_a_recipient_that_is_no_text_is_refused(bob: Mailbox) -> None:
    """As any other name that cannot be."""
    nothing: Any = None
    with pytest.raises(InvalidAddressError):
        bob.send(nothing, 1)
