"""Globs: which two can name one file, held against fnmatch on all short names."""

import fnmatch
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemailbox.agents.globs import MAX_LENGTH, covers_file, overlap, parse_glob
from filemailbox.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("src/**", "src/a.py"),
        ("src", "src/deep/a.py"),
        ("src/**/test_*.py", "src/test_a.py"),
        ("**/*.md", "docs/**"),
        ("*.py", "a.*"),
        ("a/**/z", "a/b/c/z"),
        ("[a-c]x", "[c-e]x"),
        ("[!a]", "b"),
        ("/etc/*", "/etc/hosts"),
        ("a?c", "abc"),
    ],
)
def test_two_globs_that_can_name_one_file_overlap(one: str, other: str) -> None:
    """In both directions."""
    assert overlap(one, other)
    assert overlap(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("src/**", "docs/a.md"),
        ("*.py", "*.md"),
        ("src/*.py", "src/deep/a.md"),
        ("[a-c]x", "[d-e]x"),
        ("[!a]", "a"),
        ("/src", "src"),
        ("a?c", "ac"),
        ("a/**/z/1", "a/b/c/z/2"),
        ("**/*.py", "README.md"),
    ],
)
def test_two_globs_that_cannot_do_not(one: str, other: str) -> None:
    """In both directions."""
    assert not overlap(one, other)
    assert not overlap(other, one)


NAMES = ["".join(each) for length in range(1, 7) for each in itertools.product("abc", repeat=length)]


@given(st.text("abc*?", min_size=1, max_size=3), st.text("abc*?", min_size=1, max_size=3))
def test_a_part_is_matched_as_fnmatch_does(one: str, other: str) -> None:
    """Two overlap if and only if some name is matched by both."""
    if "**" in (one, other):
        return
    both = any(fnmatch.fnmatchcase(name, one) and fnmatch.fnmatchcase(name, other) for name in NAMES)

    assert overlap(one, other) == both


def test_the_characters_of_a_file_stand_for_themselves() -> None:
    """A file may be called `[a].py`, or `*`."""
    assert covers_file("src/[[]a].py", "src/[a].py")
    assert covers_file("src/*", "src/*")
    assert not covers_file("src/a.py", "src/*")
    assert covers_file("src", "./src//a.py")
    assert not covers_file("a", "**")


@pytest.mark.parametrize("text", ["", "/", ".", "a/../b", "..", "a\nb", "a" * (MAX_LENGTH + 1)])
def test_what_is_no_glob_is_refused(text: str) -> None:
    """A path without parts, above its folder, that cannot be printed, or too long."""
    with pytest.raises(InvalidRequestError):
        parse_glob(text)


def test_a_glob_has_one_spelling() -> None:
    """So that a release finds what was reserved."""
    assert parse_glob("./src//**/") == "src/**"
    assert parse_glob("/src/") == "/src"


def test_hostile_globs_are_compared_quickly() -> None:
    """Each pair of places is visited once: stars do not multiply."""
    stars = "*a" * (MAX_LENGTH // 2 - 1)

    assert not overlap(stars + "b", stars + "c")
    assert not overlap("/".join(["**", "a"] * 30) + "/b", "/".join(["**", "a"] * 30) + "/c")
