"""Bodies come back as they were sent: each kind of class, sent as an instance, received as its type."""

import dataclasses
import datetime
import enum
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest

from filemailbox import InvalidBodyError, Mailbox

NOW = datetime.datetime(2026, 11, 24, 1, 45, 30, 123456, datetime.UTC)
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2


@dataclasses.dataclass
class Everything:
    when: datetime.datetime
    id: uuid.UUID
    colour: Colour
    level: Level
    data: bytes
    points: list[Point]
    by_number: dict[int, str]
    day: datetime.date = datetime.date(2026, 11, 24)
    note: str | None = None


class Renamed(msgspec.Struct, rename="camel"):
    file_name: str
    line_count: int = 0


class Row(msgspec.Struct, array_like=True):
    name: str
    size: int


class Get(msgspec.Struct, tag="get"):
    key: str


class Put(msgspec.Struct, tag="put"):
    key: str
    value: bytes


class Nested(msgspec.Struct):
    point: Point
    row: Row
    when: datetime.datetime


class Aliased(pydantic.BaseModel):
    file_name: str = pydantic.Field(alias="fileName")
    when: datetime.datetime = NOW


class Strict(pydantic.BaseModel, strict=True):
    when: datetime.datetime
    id: uuid.UUID
    colour: Colour
    pair: tuple[int, int]


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"


class Pets(pydantic.BaseModel):
    pets: list[Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]]


@pydantic.dataclasses.dataclass
class Checked:
    size: Annotated[int, pydantic.Field(gt=0)]


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict, total=False):
    depth: int


CASES: list[tuple[Any, Any]] = [
    (Point(1), Point),
    (Everything(NOW, ID, Colour.RED, Level.HIGH, b"\x00\xff", [Point(1)], {7: "seven"}), Everything),
    (Renamed("x.c", 7), Renamed),
    (Row("x.c", 7), Row),
    (Put("k", b"\xff"), Get | Put),
    (Get("k"), Get | Put),
    ([Get("k"), Put("k", b"v")], list[Get | Put]),
    (Nested(Point(1, 3), Row("x", 1), NOW), Nested),
    (Aliased(fileName="x.c"), Aliased),
    (Strict(when=NOW, id=ID, colour=Colour.RED, pair=(1, 2)), Strict),
    (Pets(pets=[Cat(lives=9), Dog()]), Pets),
    (Checked(3), Checked),
    (Pair(1, "b"), Pair),
    ({"depth": 3}, Options),
    (NOW, datetime.datetime),
    (ID, uuid.UUID),
    (Colour.RED, Colour),
    ({1, 2}, set[int]),
    ([1, "a", None], list[int | str | None]),
]


@pytest.mark.parametrize(("value", "kind"), CASES, ids=[f"{number} {kind}" for number, (_, kind) in enumerate(CASES)])
def test_a_body_comes_back_as_it_was_sent(root: Path, value: Any, kind: Any) -> None:
    """The same class, the same value; also as the body of a handler that takes it."""
    seen: list[Any] = []

    def handle(body: Any) -> None:
        seen.append(body)

    handle.__annotations__["body"] = kind
    with Mailbox.init("bob", root) as bob:
        bob.send("bob", value)
        message = bob.receive(into=kind)
        assert message is not None, [letter.problem for letter in bob.peek("dead")]
        message.ack()
        bob.on(handle)
        bob.send("bob", value)
        bob.run(drain=True)

    assert message.body == value
    assert type(message.body) is type(value)
    assert seen == [value]


@pytest.mark.parametrize("body", [b"raw", {"data": b"raw"}, [b"raw"], {1: "x"}])
def test_bytes_outside_of_a_class_are_refused(root: Path, body: Any) -> None:
    """Their reader would get text that nothing explains."""
    with Mailbox.init("bob", root) as bob, pytest.raises(InvalidBodyError):
        bob.send("bob", body)
