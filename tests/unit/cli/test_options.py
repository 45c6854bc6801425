"""What a verb takes: spans, counts, headers, owners; and which parameters a function has."""

import pytest

from filemailbox.cli.options import Annotated, Arg, Opt, count, duration, one_of, owner, pair, parameters


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("0", 0, id="nothing"),
        pytest.param("90", 90, id="a number is seconds"),
        pytest.param("1.5", 1.5, id="half seconds"),
        pytest.param("250ms", 0.25, id="milliseconds"),
        pytest.param("30s", 30, id="seconds"),
        pytest.param("5m", 300, id="minutes"),
        pytest.param("1h30m", 5400, id="two units"),
        pytest.param("1.5h", 5400, id="half hours"),
        pytest.param("2d", 172800, id="days"),
        pytest.param("1w", 604800, id="weeks"),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    """People write 30s; programs write 30."""
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-1s",
        "5 m",
        "1h30",
        "30s5",
        "1e9",
        "inf",
        "nan",
        "1..5s",
        ".5s",
        "5.s",
        "5M",
        "٣s",
        "1_0s",
        "9999999999999d",
    ],
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    """No guessing: `1h30` could be minutes or seconds."""
    with pytest.raises(ValueError, match="expected one such as 250ms, 30s"):
        duration(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "x", "٣", "1" * 10])
def test_what_is_no_number_of_messages_is_refused(text: str) -> None:
    """Whole numbers from 1 on."""
    assert count("17") == 17

    with pytest.raises(ValueError, match="expected 1, 2"):
        count(text)


def test_a_header_has_a_name_and_a_value() -> None:
    """NAME=VALUE; the value may hold more of them, and may be empty."""
    assert pair("a=b=c") == ("a", "b=c")
    assert pair("a=") == ("a", "")

    for text in ("a", "=b", ""):
        with pytest.raises(ValueError, match="expected NAME=VALUE"):
            pair(text)


def test_an_owner_is_two_numbers() -> None:
    """UID:GID, never one of them alone: that one could not read what others drop."""
    assert owner("2001:2002") == (2001, 2002)

    for text in ("2001", "2001:", ":2001", "bob:bob", "-1:0", "٣:٣", "99999999999:1"):
        with pytest.raises(ValueError, match="expected UID:GID"):
            owner(text)


def test_one_of_some_words() -> None:
    """The error names them all."""
    assert one_of("a", "b", "c")("b") == "b"

    with pytest.raises(ValueError, match='"d" is not known: expected a, b or c'):
        one_of("a", "b", "c")("d")


def test_parameters_are_read_from_the_annotations() -> None:
    """Order, defaults and whether it repeats: as the function has it."""

    def verb(
        to: Annotated[str, Arg("TO", "whom")],
        more: Annotated[list[str], Arg("MORE", "what")] = (),  # type: ignore[assignment]
        *,
        n: Annotated[int, Opt("-n", metavar="N", help="how many", read=count)] = 1,
        quick: Annotated[bool, Opt("--quick", help="soon")] = False,
    ) -> None: ...

    known = [(each.name, each.required, each.default, each.repeats) for each in parameters(verb)]

    assert known == [
        ("to", True, None, False),
        ("more", False, (), True),
        ("n", False, 1, False),
        ("quick", False, False, False),
    ]
