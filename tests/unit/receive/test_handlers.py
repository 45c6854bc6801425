"""Which function gets which message, and how it is called."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from pydantic import BaseModel

from filemailbox import BodyTypeError, Mailbox, Message
from filemailbox.receive.handlers import HandlerRegistry

if TYPE_CHECKING:
    from decimal import Decimal as Nowhere

T = TypeVar("T")


@dataclass
class Job:
    path: str


class Model(BaseModel):
    path: str


class Unknown:
    """Neither msgspec nor pydantic can check one of these."""


class Callee:
    def __call__(self, message: Message[Job]) -> None: ...


class AsyncCallee:
    async def __call__(self, message: Message[Job]) -> None: ...


def into(function: Callable[..., Any]) -> Any:
    """The type of body that the handler asks for."""
    handlers = HandlerRegistry()
    handlers.add((), function, None)
    handler = handlers.find(None)
    assert handler is not None
    return handler.body_type


def asynchronous(function: Callable[..., Any]) -> bool:
    handlers = HandlerRegistry()
    handlers.add((), function, None)
    return handlers.asynchronous


def plain(message: Message[Job]) -> None: ...
def whole(message: Message[Any]) -> None: ...
def bare(message: Message) -> None: ...  # type: ignore[type-arg]
def silent(message): ...  # type: ignore[no-untyped-def]
def free(message: Message[T]) -> T: ...  # type: ignore[empty-body]
def anything(message: Any) -> None: ...
def quoted(message: "Message[Job]") -> None: ...
def listed(message: Message[list[int]]) -> None: ...
def model(message: Message[Model]) -> None: ...
def more(message: Message[Job], *, dry: bool = False) -> None: ...
def elsewhere(message: Message[Job]) -> "Nowhere": ...  # type: ignore[empty-body]
def starred(*messages: Message[Job]) -> None: ...
def third(first: int, second: int, message: Message[Job]) -> None: ...
async def waiting(message: Message[Job]) -> None: ...


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (plain, Job),
        (quoted, Job),
        (model, Model),
        (listed, list[int]),
        (more, Job),
        (starred, Job),
        (waiting, Job),
        (elsewhere, Job),
        (Callee(), Job),
        (functools.partial(third, 1, 2), Job),
        pytest.param(functools.partial(Callee()), Job, id="partial of an object"),
        (whole, None),
        (bare, None),
        (silent, None),
        (free, None),
        (anything, None),
        ([].append, None),
        (lambda message: None, None),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_the_annotation_says_what_body_is_wanted(function: Callable[..., Any], expected: Any) -> None:
    """Message[Job] wants a Job; no annotation, or none of a body, takes it as it comes."""
    assert into(function) == expected


def no_message() -> None: ...
def two(message: Message[Any], other: int) -> None: ...
def only_by_name(*, message: Message[Any]) -> None: ...
def perhaps(message: Message[Job] | None) -> None: ...
def unknown(message: Message[Unknown]) -> None: ...
def unresolved(message: "Message[Nowhere]") -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (no_message, "no_message.* expected one parameter: the message"),
        (two, "two.* expected one parameter"),
        (only_by_name, "only_by_name.* expected one parameter"),
        (perhaps, r"perhaps.* annotate its parameter as Message\[…\]"),
        (unknown, "Unknown cannot be checked"),
        (unresolved, "unresolved.*'Nowhere' is not defined.* must be defined before it"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_handler_that_can_not_work_is_refused_when_it_is_registered(function: Callable[..., Any], words: str) -> None:
    """Not at the first message, which may come at night; and the error says what to write."""
    with pytest.raises(TypeError, match=words):
        HandlerRegistry().add((), function, None)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (plain, False),
        (waiting, True),
        (functools.partial(waiting), True),
        (AsyncCallee(), True),
        (Callee(), False),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_coroutine_functions_are_known_in_every_dress(function: Callable[..., Any], expected: bool) -> None:
    """Also behind functools.partial and as objects: called as plain functions they would do nothing."""
    assert asynchronous(function) is expected


def test_a_type_has_one_handler() -> None:
    """Two for one type are a mistake, and so are two for the rest; the refused one takes nothing at all."""
    handlers = HandlerRegistry()
    handlers.add(("job", "news"), plain, None)
    handlers.add((), whole, None)

    with pytest.raises(ValueError, match='two handlers for the type "news"'):
        handlers.add(("other", "news"), bare, None)
    with pytest.raises(ValueError, match="two handlers for the rest"):
        handlers.add((), bare, None)
    assert [handler and handler.function for handler in map(handlers.find, ("job", "other", None))] == [
        plain,
        whole,
        whole,
    ]


def test_the_decorator_must_be_called() -> None:
    """`@box.on` without parentheses is caught: the function is no type."""
    with pytest.raises(TypeError, match=r"the type of a message is a string.*@box.on\(\) takes the rest"):
        HandlerRegistry().add((plain,), whole, None)  # type: ignore[arg-type]


def test_without_one_for_the_rest_only_the_named_types_are_wanted() -> None:
    """None stands for all types."""
    handlers = HandlerRegistry()
    empty = bool(handlers)
    handlers.add(("job", "news"), plain, None)
    before = handlers.types(), handlers.find("other"), handlers.find(None)
    handlers.add((), whole, None)

    assert (empty, bool(handlers)) == (False, True)
    assert before == (frozenset(("job", "news")), None, None)
    assert handlers.types() is None


@pytest.mark.parametrize("function", [plain, model], ids=["dataclass", "pydantic"])
def test_the_body_becomes_what_is_wanted_or_is_refused(function: Callable[..., Any]) -> None:
    """Refused with the validator's words: they become the reason of the dead letter."""
    handlers = HandlerRegistry()
    handlers.add((), function, None)
    handler = handlers.find(None)
    good: Message[Any] = Message("0", {"body": {"path": "x.c"}}, b"", "0.json")
    bad: Message[Any] = Message("0", {"body": {"path": 7}}, b"", "0.json")
    assert handler is not None
    handler.convert_body(good)
    body = good.body

    assert (type(body), body.path) == (handler.body_type, "x.c")
    with pytest.raises(BodyTypeError, match=r"its body is not (Job|Model): .* - at `\$.path`"):
        handler.convert_body(bad)


def test_a_handler_may_take_the_body(root: Path) -> None:
    """Annotated with the type of the body: a function, a coroutine function, and without parentheses."""
    seen: list[Any] = []
    with Mailbox.init("bob", root) as bob:

        @bob.on("job")
        def build(job: Job) -> str:
            seen.append(job)
            return "built"

        @bob.on("number")
        async def count(number: int) -> None:
            seen.append(number)

        @bob.on
        def rest(message: Message[Any]) -> None:
            seen.append(message.body)

        bob.send("bob", {"path": "x.c"}, type="job")
        bob.send("bob", 7, type="number")
        bob.send("bob", "seven", type="number")
        bob.run(drain=True)
        dead = [(message.body, message.problem) for message in bob.peek("dead")]

    assert seen == [Job(path="x.c"), 7, "built"]  # the reply, which the handler of the rest got
    assert [body for body, _ in dead] == ["seven"]
