"""Trust levels: one table, from which every other place derives."""

import ast
from pathlib import Path

import pytest

from filemailbox import InvalidRequestError, Mailbox
from filemailbox.cli import help_pages
from filemailbox.trust import levels
from filemailbox.trust.levels import (
    NAMES,
    NONE,
    PROTECTIONS,
    PROVEN,
    SEALED,
    SIGNED,
    TRUST_LEVELS,
    parse_min_trust,
    protection_for,
    rank,
)


def test_each_level_stands_once_and_is_stronger_than_the_one_before() -> None:
    """The order of the table is the order of proofs."""
    assert [rank(name) for name in NAMES] == list(range(len(TRUST_LEVELS)))
    assert len(set(NAMES)) == len(NAMES)
    assert NAMES[0] == NONE


def test_a_level_that_a_key_proves_is_answered_by_a_protection_with_a_key() -> None:
    """Otherwise an answer could prove less than the message it answers."""
    assert {level.name for level in TRUST_LEVELS if level.answer != "plain"} == PROVEN == {SIGNED, SEALED}
    assert protection_for(SEALED) == SEALED


def test_the_protections_are_those_of_the_type() -> None:
    """A Literal cannot be made from the table; it is read from the source, for it exists for type checkers alone."""
    found = [
        ast.literal_eval(node.slice)
        for node in ast.walk(ast.parse(Path(levels.__file__).read_text()))
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal"
    ]

    assert found == [PROTECTIONS]


def test_the_help_of_the_command_names_every_level() -> None:
    """It is made from the table."""
    for text in (help_pages.text(), help_pages.text("receive")):
        assert all(name in text for name in NAMES)


def test_the_documentation_of_a_mailbox_names_every_level() -> None:
    """Where somebody looks who writes `min_trust=`."""
    assert all(f"`{name}`" in (Mailbox.__init__.__doc__ or Mailbox.__doc__ or "") for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_level_that_a_key_proves_needs_keys(name: str) -> None:
    """Otherwise all mail would be refused."""
    assert parse_min_trust(name, True) == name
    if name in PROVEN:
        with pytest.raises(InvalidRequestError, match="no keys are known") as caught:
            parse_min_trust(name, False)
        assert "MAILBOX_KEY_DIR" in (caught.value.hint or "")
    else:
        assert parse_min_trust(name, False) == name


def test_an_unknown_level_is_refused_with_those_that_exist() -> None:
    """Also in another case: names are exact."""
    with pytest.raises(InvalidRequestError, match=f'"Signed", expected one of {", ".join(NAMES)}'):
        parse_min_trust("Signed", True)
