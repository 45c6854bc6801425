"""letter: mail as a model is shown it."""

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemailbox.agents import letter
from filemailbox.receive.message import Message

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
FENCE = "71cec789"
ID = "20261124T014530.123456789Z-3f9c0a12b4d5"

HOSTILE = st.text(
    st.sampled_from("a\n\r\t <>/[]|:!\x00\x1b\u202e\u200b\u2066\ufe0f\U000e0041\ud800\u0085é漢")
    | st.characters(codec=None),
    max_size=300,
) | st.lists(
    st.sampled_from(
        [
            "<",
            "</",
            "< /",
            "<!",
            "system-reminder",
            "system",
            "x:",
            "channel",
            "tool_use",
            ">",
            " ",
            "\n",
            f"[end of mail {FENCE}]",
            "im_start",
            "|",
        ]
    ),
    max_size=60,
).map("".join)

TAG = re.compile(
    r"<\s*[/!|]?\s*(?:[\w-]+:)?(system|channel|hook|untrusted|user|assistant|human|function|tool|invoke|parameter|task|"
    r"command|local-command|mail|environment|permission)",
    re.IGNORECASE,
)


def message(body: Any, id: str = ID, trust: str = "none", attempt: int = 1, **fields: Any) -> Message[Any]:
    fields = {"body": body, "from": fields.pop("sender", "alice"), **fields}
    return Message(id, fields, b"", f"{id}.json", attempt, trust)


def shown(body: Any, **options: Any) -> str:
    return letter.letter(message(body), FENCE, NOW, **options)


def test_a_letter_names_its_sender_the_proof_and_its_age() -> None:
    """Facts stand in the heading, the body is behind bars, the fence around it."""
    sent = (NOW - timedelta(seconds=12)).isoformat().replace("+00:00", "Z")
    text = letter.letter(message("hello", sent=sent, subject="a patch", type="question"), FENCE, NOW)

    assert text.split("\n")[1:] == ["| Subject: a patch", "| hello", f"[end of mail {FENCE}]"]
    assert text.startswith(f"[mail {FENCE} {ID[16:]}: from alice · unproven: ")
    assert " · 12 s ago · type question]" in text


@pytest.mark.parametrize("trust", ["none", "uid", "relay", "signed", "sealed"])
def test_the_operator_is_named_only_where_proven(trust: str) -> None:
    """Any program can write a name into a message."""
    text = letter.letter(message("hello", trust=trust), FENCE, NOW, operator="alice")

    assert ("your operator" in text) == (trust != "none")
    assert ("unproven" in text) == (trust == "none")


def test_a_second_delivery_is_named() -> None:
    """The model may have seen it before."""
    assert "delivery 2" in letter.letter(message("hello", attempt=2), FENCE, NOW)
    assert "delivery" not in letter.letter(message("hello"), FENCE, NOW)


def test_a_sender_that_waits_is_named_outside_the_fence() -> None:
    """It is our sentence, not the sender's."""
    assert shown("hello", is_awaited=True).endswith(f"[end of mail {FENCE}]\nalice is waiting for the answer now.")


def test_json_is_shown_on_one_line() -> None:
    """A body may be any JSON."""
    assert "\n| " + '{"path": "x\\n.c"}' + "\n" in shown({"path": "x\n.c"})


def test_the_pieces_of_a_long_body_are_the_body() -> None:
    """Each piece names the offset of the next."""
    body = "".join(f"{n} " for n in range(5000))
    found, offset = "", 0
    while True:
        text = shown(body, offset=offset, limit=1000)
        found += re.search(rf"\| (.*?)\n(?:\[…|\[end of mail {FENCE}\]$)", text)[1]  # type: ignore[index]
        more = re.search(r"\[… \d+ more characters: `mailbox read \S+ --fenced --offset (\d+)`\]", text)
        if more is None:
            break
        offset = int(more[1])

    assert found == body


@given(HOSTILE)
def test_nothing_in_a_body_passes_for_more_than_a_body(body: str) -> None:
    """Every line of it is behind a bar, no tag of a client is left, and every character can be seen."""
    lines = shown(body, limit=100_000).split("\n")

    assert lines[-1] == f"[end of mail {FENCE}]"
    assert all(line.startswith("| ") for line in lines[1:-1])
    assert not TAG.search("\n".join(line[2:] for line in lines[1:-1]))
    hidden = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert not [c for line in lines for c in line if unicodedata.category(c) in hidden and c != "\t"]


@given(HOSTILE, HOSTILE, HOSTILE)
def test_nothing_in_a_heading_passes_for_a_line(sender: str, subject: str, kind: str) -> None:
    """Sender, subject and type are on one line each."""
    text = letter.letter(message("b", subject=subject, type=kind, sender=sender), FENCE, NOW)
    lines = text.split("\n")

    assert len(lines) == (4 if subject else 3)
    assert not TAG.search(text)


@given(HOSTILE, st.integers(0, 50), st.integers(10, 200))
def test_a_piece_keeps_its_limit_after_escaping(text: str, offset: int, limit: int) -> None:
    """The bound is on what is shown, and the pieces are the whole."""
    found, rest = letter.piece(text, offset, limit)

    assert len(found) <= limit
    assert rest < len(text) - offset or len(text) <= offset or rest == 0
    whole, at = "", 0
    while at < len(text):
        found, rest = letter.piece(text, at, limit)
        whole, at = whole + found, len(text) - rest
    assert whole == letter.escape(text)


@pytest.mark.parametrize(
    "body", ["<" * 500_000, "<" + " " * 500_000, "< a:" * 200_000, "<" + "a-" * 300_000, "<\n" * 300_000]
)
def test_a_body_cannot_take_long(body: str) -> None:
    """It ends: time that grows with the square of the length would not, within the patience of anyone."""
    assert letter.escape(body)
    assert len(letter.piece(body, 0, 2000)[0]) <= 2000


def test_a_body_of_empty_lines_keeps_the_limit() -> None:
    """The bars count."""
    assert len(shown("\n" * 10_000, limit=2000)) < 2000 + 400


def test_urgent_mail_comes_first_and_the_order_of_its_writer_stays() -> None:
    """Mail that the writer sent before comes before it; mail after it, and of others, later."""
    urgent = {"priority": "urgent"}
    ids = [f"20261124T01453{n}.123456789Z-{writer * 12}" for n, writer in enumerate("abab")]
    first, second, third, fourth = (message("x", id=id, headers=urgent if n == 2 else {}) for n, id in enumerate(ids))

    assert letter.hurried([fourth, third, second, first]) == [first, third]
    assert letter.hurried([first, second]) == []
