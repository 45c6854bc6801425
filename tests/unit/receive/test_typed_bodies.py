"""Typed bodies: JSON into the type that a receiver asked for."""

import dataclasses
import enum
import sys
from collections.abc import Callable
from datetime import date
from typing import Any, NamedTuple, TypedDict

import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemailbox import BodyTypeError
from filemailbox.receive import typed_bodies
from filemailbox.receive.typed_bodies import convert


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Job:
    path: str
    tries: int = 1


class Dict(TypedDict):
    path: str


class Pair(NamedTuple):
    one: int
    two: int


class Struct(msgspec.Struct):
    path: str


class Model(pydantic.BaseModel):
    path: str
    at: date | None = None


@pydantic.dataclasses.dataclass
class Checked:
    path: str


@dataclasses.dataclass
class Batch:
    models: list[Model]


class Stranger:
    """A class that says nothing about what it holds."""


@pytest.mark.parametrize(
    ("body", "into", "value"),
    [
        pytest.param({"path": "x"}, Job, Job("x"), id="dataclass"),
        pytest.param([{"path": "x", "tries": 2}], list[Job], [Job("x", 2)], id="list of dataclasses"),
        pytest.param({"path": "x"}, Dict, {"path": "x"}, id="TypedDict"),
        pytest.param([1, 2], Pair, Pair(1, 2), id="named tuple"),
        pytest.param({"path": "x"}, Struct, Struct("x"), id="msgspec struct"),
        pytest.param("red", Colour, Colour.RED, id="enum"),
        pytest.param(None, str | None, None, id="optional"),
        pytest.param({"a": [1]}, dict[str, list[int]], {"a": [1]}, id="plain types"),
        pytest.param(1, float, 1.0, id="a whole number is a number"),
        pytest.param({"path": "x", "more": 1}, Job, Job("x"), id="what a newer sender adds is ignored"),
        pytest.param({"path": "x", "at": "2026-11-24"}, Model, Model(path="x", at=date(2026, 11, 24)), id="pydantic"),
        pytest.param({"path": "x"}, Checked, Checked("x"), id="pydantic dataclass"),
        pytest.param([{"path": "x"}], list[Model], [Model(path="x")], id="list of pydantic models"),
        pytest.param(None, Model | None, None, id="optional pydantic model"),
        pytest.param({"models": [{"path": "x"}]}, Batch, Batch([Model(path="x")]), id="pydantic in a dataclass"),
        pytest.param({"path": "x"}, Job | Checked, Job("x"), id="a union that only pydantic knows"),
    ],
)
def test_a_body_becomes_what_was_asked_for(body: Any, into: Any, value: Any) -> None:
    """Dataclasses, TypedDicts, named tuples, enums, plain types, structs, models; also one within another."""
    assert convert(body, into) == value


@given(st.none() | st.integers() | st.lists(st.integers()))
def test_whoever_asks_for_nothing_gets_the_body(body: Any) -> None:
    """None and Any: the same object, not looked at."""
    assert convert(body, None) is body
    assert convert(body, Any) is body


@pytest.mark.parametrize(
    ("body", "into", "says"),
    [
        pytest.param({}, Job, "not Job: .*missing required field `path`", id="field missing"),
        pytest.param({"path": 1}, Job, r"not Job: Expected `str`, got `int` - at `\$\.path`", id="wrong type"),
        pytest.param("1", int, "not int: Expected `int`, got `str`", id="a string is not taken for a number"),
        pytest.param(True, int, "not int: Expected `int`, got `bool`", id="nor is true"),
        pytest.param([1, "x"], list[int], r"not list\[int\]: .* at `\$\[1\]`", id="in a list"),
        pytest.param("blue", Colour, "not Colour: .*blue", id="enum"),
        pytest.param({"at": 1.5}, Model, r"not Model: Field required - at `\$\.path`; .* at `\$\.at`", id="pydantic"),
        pytest.param([{}], list[Model], r"Field required - at `\$\.path` - at `\$\[0\]`", id="pydantic in a list"),
        pytest.param({"models": [{}]}, Batch, r"not Batch: Field required", id="pydantic in a dataclass"),
        pytest.param({}, Job | Checked, "Field required|missing", id="a union that only pydantic knows"),
    ],
)
def test_another_body_is_a_mismatch_that_says_where(body: Any, into: Any, says: str) -> None:
    """One line, for a `.why` file: the wanted type, what is wrong, and at which place in the body."""
    with pytest.raises(BodyTypeError, match=says) as caught:
        convert(body, into)

    assert "\n" not in caught.value.reason


@pytest.mark.parametrize(
    ("body", "into"),
    [
        pytest.param({}, Stranger, id="class without fields"),
        pytest.param([{}], list[Stranger], id="in a list"),
        pytest.param({}, Struct | Job, id="union of a struct and a dataclass"),
    ],
)
def test_a_type_that_nobody_can_check_is_a_mistake_of_the_program(body: Any, into: Any) -> None:
    """TypeError, not Mismatch: the message must not become a dead letter for it."""
    with pytest.raises(TypeError, match=r"bodies of type .* cannot be checked"):
        convert(body, into)


@pytest.mark.parametrize(
    ("into", "name"),
    [(Job, "Job"), (list[int], "list[int]"), (int | None, "int | None")],
    ids=["class", "generic", "union"],
)
def test_a_type_has_a_name_for_sentences(into: Any, name: str) -> None:
    """As one writes it in an annotation."""
    assert typed_bodies.type_name(into) == name


def test_without_pydantic_its_types_are_a_mistake_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is optional."""
    monkeypatch.setitem(sys.modules, "pydantic", None)

    assert convert({"path": "x"}, Job) == Job("x")
    with pytest.raises(TypeError, match="cannot be checked"):
        convert({}, Job | Checked)


def test_pydantic_is_not_imported_for_others(start: Callable[..., Any]) -> None:
    """It costs more than all of ours."""
    program = start(
        "import sys; from filemailbox.receive.typed_bodies import convert; convert([1], list[int]); print('pydantic' "
        "in sys.modules)"
    )

    assert program.line() == "False"
