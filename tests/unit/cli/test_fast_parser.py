"""The quick reader of argv and Typer: one definition, one answer."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from filemailbox.cli import typer_app
from filemailbox.cli.fast_parser import parse
from filemailbox.cli.options import Arg, Opt, parameters
from filemailbox.cli.verbs import VERBS, find

WORDS = [
    "bob",
    "BOB",
    "-",
    "--",
    "30s",
    "x",
    "a=b",
    "3",
    "",
    "-x",
    "--nope",
    "--json=1",
    "ümläut",
    "2001:2001",
    "bash",
    "dead",
]


def by_typer(verb: str, words: list[str]) -> dict[str, Any] | None:
    """What Typer makes of *words*; None where it complains."""
    got: dict[str, Any] = {}

    def catch(**values: Any) -> None:
        got.update(values)

    one = typer.Typer(add_completion=False, rich_markup_mode=None)
    function = typer_app._typed(find(verb), catch)
    one.command(context_settings=typer_app._SETTINGS)(function)
    try:
        one(words, standalone_mode=False)
    except Exception as error:  # Click's own, wherever Typer keeps them
        if not hasattr(error, "show"):
            raise
        return None
    return got


def plain(values: dict[str, Any] | None) -> dict[str, Any] | None:
    """Lists and tuples are the same to a verb."""
    return values and {
        name: list(value) if isinstance(value, tuple | list) else value for name, value in values.items()
    }


@pytest.mark.parametrize("verb", VERBS)
def test_the_quick_reader_and_typer_agree(verb: str) -> None:
    """Whatever is typed: the quick reader refuses, or gives what Typer gives."""
    names = [name for each in parameters(find(verb)) if isinstance(each.what, Opt) for name in each.what.names]

    @given(
        st.lists(
            st.sampled_from([*names, *(f"{name}=5m" for name in names if name.startswith("--")), *WORDS]), max_size=6
        )
    )
    def agree(words: list[str]) -> None:
        quick = parse(find(verb), words)

        assert quick is None or plain(quick) == plain(by_typer(verb, words)), words

    agree()


def test_what_is_plainly_right_is_read_without_typer() -> None:
    """The forms that people use: separate, with =, short, mixed with words, and everything after --."""
    words = ["bob", "--type", "job", "-H", "a=b", "--header=c=d", "--ttl=5m", "--", "--body"]
    values = parse(find("send"), words)

    assert values is not None
    assert {name: values[name] for name in ("to", "body", "type", "header", "ttl", "json_body")} == {
        "to": "bob",
        "body": "--body",
        "type": "job",
        "header": [("a", "b"), ("c", "d")],
        "ttl": 300,
        "json_body": False,
    }


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([], id="too few"),
        pytest.param(["bob", "hi", "there"], id="too many"),
        pytest.param(["BOB", "hi"], id="no address"),
        pytest.param(["bob", "--ttl"], id="a value is missing"),
        pytest.param(["bob", "--ttl", "soon"], id="a value is wrong"),
        pytest.param(["bob", "--lines=yes"], id="a flag with a value"),
        pytest.param(["bob", "--help"], id="help"),
    ],
)
def test_what_is_not_plainly_right_is_refused(words: list[str]) -> None:
    """Then Typer says what is wrong."""
    assert parse(find("send"), words) is None


def test_every_verb_says_what_it_takes() -> None:
    """Each parameter has an annotation, each annotation a help text; options can all be left out."""
    for verb in VERBS:
        known = list(parameters(find(verb)))
        options = [each for each in known if isinstance(each.what, Opt)]

        assert len(known) == len(inspect.signature(find(verb)).parameters)
        assert all(each.what.help.endswith((".", "]", "…")) for each in known), verb
        assert not any(each.required for each in options), verb
        assert all(isinstance(each.what, Arg | Opt) for each in known)


def test_all_that_is_wrong_is_told_at_once(mailbox: Callable[..., Any]) -> None:
    """A wrong name, a wrong duration and a wrong header: one answer, no message."""
    said = mailbox("send", "BOB", "hi", "--ttl", "soon", "--header", "x", "--as", "?")

    assert said.code == 2
    assert said.out == ""
    for problem in (
        'TO: "BOB" cannot be the name',
        '--ttl: "soon" is not a duration',
        '--header: "x" is not a header',
        '--as: "?"',
    ):
        assert problem in said.err


def test_two_wrong_names_are_both_told(mailbox: Callable[..., Any]) -> None:
    """Nothing is made where one of the names cannot be."""
    said = mailbox("init", "carol", "Dave", "all")

    assert said.code == 2
    assert '"Dave" cannot be' in said.err
    assert '"all" cannot be' in said.err
    assert mailbox("agents").out.split("\n")[0].startswith("alice\t")
    assert "carol" not in mailbox("agents").out


def test_an_option_that_does_not_exist_is_told_with_the_usage(mailbox: Callable[..., Any]) -> None:
    """The usage line is the one of --help."""
    said = mailbox("send", "bob", "--tpye", "job")

    assert said.code == 2
    assert said.err.startswith("Usage: mailbox send [OPTIONS] TO [BODY]\n")
    assert "--tpye" in said.err
