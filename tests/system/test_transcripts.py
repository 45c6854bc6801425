"""Five tasks of a language model that has only `mailbox --help` and `mailbox VERB --help`.

Each transcript is the help that it reads, the sentence in it that leads to the call, and the call. No call fails.
"""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filemailbox import Mailbox
from filemailbox.cli import help_pages
from filemailbox.cli.verbs import VERBS
from support.waiting import Until

Run = Callable[..., Any]

DIFF = "--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-int main;\n+int main(void);\n"


def read(mailbox: Run, *words: str) -> str:
    """The help of a verb, as one line: a model does not mind where it wraps."""
    said = mailbox("help", *words)
    assert (said.code, said.err) == (0, "")
    return " ".join(said.out.split())


def call(mailbox: Run, *words: str, **how: Any) -> Any:
    """A call that the model makes: it must succeed at once."""
    said = mailbox(*words, **how)
    assert said.code == 0, said.err
    return said


def test_send_a_diff(mailbox: Run) -> None:
    """ "Send my diff to bob." Both ways that the help shows; a diff begins with dashes."""
    overview = read(mailbox)
    assert "mailbox send bob < FILE a longer body, such as a diff" in overview
    assert '-- "$(git diff)"' in read(mailbox, "send")

    by_input = call(mailbox, "send", "bob", stdin=DIFF, sender="alice")
    by_word = call(mailbox, "send", "bob", "--subject", "a patch", "--", DIFF, sender="alice")
    careless = call(mailbox, "send", "bob", DIFF, sender="alice")

    assert [len(said.lines) for said in (by_input, by_word, careless)] == [1, 1, 1]
    bodies = [record["body"].rstrip("\n") for record in call(mailbox, "receive", "-n", "3").records]
    assert bodies == [DIFF.rstrip("\n")] * 3


def test_answer_a_message_that_it_was_shown(mailbox: Run) -> None:
    """ "You were shown a message; answer it." `receive` has acked it, and `reply ID` works all the same."""
    overview = read(mailbox)
    assert "mailbox receive --wait 5m the next message to you" in overview
    assert 'mailbox reply ID "text" answer a message that you received' in overview
    assert "Answer with `mailbox reply ID`" in read(mailbox, "receive")

    call(mailbox, "send", "bob", "which port?", "--thread", "t1", sender="alice")
    [message] = call(mailbox, "receive", "--wait", "5m").records
    answer = call(mailbox, "reply", message["id"], "port 8080")
    [received] = call(mailbox, "receive", sender="alice").records

    assert (received["body"], received["in_reply_to"], received["thread"]) == ("port 8080", message["id"], "t1")
    assert received["id"] == answer.out.strip()
    assert received["hops"] == 1


def test_wait_for_an_answer(mailbox: Run, root: Path, until: Until) -> None:
    """ "Ask bob, and wait for his answer." One call, which prints the answer."""
    assert 'mailbox request bob "text?" send, wait, print the answer' in read(mailbox)
    assert "None in time: exit code 124" in read(mailbox, "request")

    def answer() -> None:
        with Mailbox("bob", root, durable=False) as bob:
            message = bob.receive(timeout=None)
            assert message is not None
            message.reply(f"{message.body} 42")
            message.ack()

    answering = threading.Thread(target=answer)
    answering.start()
    said = call(mailbox, "request", "bob", "the answer?", "--timeout", "2m", sender="alice")
    answering.join()

    assert said.out == "the answer? 42\n"


def test_see_why_a_peer_does_not_answer(mailbox: Run, root: Path, start: Callable[..., Any], until: Until) -> None:
    """ "Bob does not answer. Why?" The status of his box has the cause in its first line."""
    overview = read(mailbox)
    assert "mailbox status bob why bob does not answer" in overview
    assert "mailbox agents the boxes here, and which have a listener" in overview

    call(mailbox, "send", "bob", "hello?", sender="alice")
    lonely = call(mailbox, "status", "bob", sender="alice")
    start(
        "import sys; from filemailbox.cli.run import main; sys.exit(main())",
        *("watch", "--as", "bob", "--root", root, "--", "no-such-command"),
    )
    until(lambda: "paused" in mailbox("status", "bob", sender="alice").out)
    paused = call(mailbox, "status", "--as", "bob", sender="alice")
    agents = call(mailbox, "agents", sender="alice")

    assert "there is no listener" in lonely.lines[1]
    assert "no-such-command" in paused.lines[1]
    assert re.search(r"^bob\tpaused\t", agents.out, re.MULTILINE)


def test_find_what_was_said_in_a_thread(mailbox: Run) -> None:
    """ "What did we say about the parser?" Of both sides if the box keeps its mail, else of the last hour."""
    overview = read(mailbox)
    assert "thread Show a conversation" in overview
    assert "log List received and sent mail" in overview
    assert "mailbox init --retention 7d" in read(mailbox, "log")
    call(mailbox, "init", "--retention", "7d", "bob")
    id = call(mailbox, "send", "bob", "the parser is slow", sender="alice").out.strip()
    call(mailbox, "send", "bob", "lunch?", sender="alice")
    call(mailbox, "receive", "-n", "2")
    call(mailbox, "reply", id, "I will see")

    found = call(mailbox, "log", "--with", "alice", "--grep", "parser", "--json").records
    thread = call(mailbox, "thread", found[0]["id"], "--json").records
    forgetful = call(mailbox, "list", "alice", "--all", "--thread", id, "--json").records

    assert [record["id"] for record in found] == [id]
    assert [(record["from"], record["body"]) for record in thread] == [
        ("alice", "the parser is slow"),
        ("bob", "I will see"),
    ]
    assert [record["body"] for record in forgetful] == ["I will see"]


def test_no_page_names_a_verb_or_an_option_that_is_not_there() -> None:
    """A model believes what it reads: each call in the overview is one that exists."""
    for line in help_pages.text().splitlines():
        if line.startswith("  mailbox "):
            assert line.split()[1] in VERBS
