"""Handlers: which function gets which message, and how it is called.

A handler takes one Message. Its annotation says what body it wants: `Message[Job]` decodes and validates, a body that
is no Job makes a dead letter. What it returns, unless None, is the reply.
"""

import contextlib
import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import BodyTypeError, quoted
from .message import Message
from .typed_bodies import convert


@dataclass(frozen=True, slots=True)
class Handler:
    """One function, and how to call it."""

    function: Callable[[Message[Any]], Any]
    into: Any  # the type of body that it wants; None: whatever comes
    asynchronous: bool
    timeout: float | None  # seconds that it may take

    def prepare(self, message: Message[Any]) -> Message[Any]:
        """*message* with the body that the handler wants, where it wants a certain one. Raises BodyTypeError."""
        message.body = convert(message.body, self.into)
        return message


class HandlerRegistry:
    """The handlers of one mailbox, by type."""

    def __init__(self) -> None:
        self._by_type: dict[str, Handler] = {}
        self._rest: Handler | None = None

    def add(self, types: tuple[str, ...], function: Callable[..., Any], timeout: float | None) -> None:
        """Let *function* handle messages of these types; with none, all that no other handles."""
        plain = _plain(function)
        handler = Handler(function, _wanted(function, plain), inspect.iscoroutinefunction(plain), timeout)
        for each in types:
            if not isinstance(each, str):
                raise TypeError(f"the type of a message is a string, not {quoted(each)}: @box.on() takes the rest")
            if each in self._by_type:
                raise ValueError(f"there are two handlers for the type {quoted(each)}: a message goes to one")
        self._by_type.update(dict.fromkeys(types, handler))
        if not types:
            if self._rest is not None:
                raise ValueError("there are two handlers for the rest: @box.on() can be used once")
            self._rest = handler

    def find(self, type: str | None) -> Handler | None:
        """The handler for messages of a type."""
        return self._by_type.get(type, self._rest) if type is not None else self._rest

    def types(self) -> frozenset[str | None] | None:
        """The types that are handled; None for all."""
        return None if self._rest is not None else frozenset(self._by_type)

    @property
    def asynchronous(self) -> bool:
        """Whether one of them is a coroutine function."""
        return any(each.asynchronous for each in (*self._by_type.values(), self._rest) if each is not None)

    def __bool__(self) -> bool:
        return bool(self._by_type) or self._rest is not None


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that is called in the end: behind functools.partial and objects that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    call: Callable[..., Any] = type(function).__call__
    return call


def _wanted(function: Callable[..., Any], plain: Callable[..., Any]) -> Any:
    """The type of body in the annotation of the first parameter: Job in `Message[Job]`. Raises TypeError."""
    name = f"the handler {getattr(plain, '__qualname__', plain)}()"
    signature = inspect.signature(function)
    try:
        signature.bind(None)
    except TypeError:
        raise TypeError(f"{name} takes {signature}, expected one parameter: the message") from None
    annotation = _annotation(plain, next(iter(signature.parameters.values())), name)
    if annotation in (Message, Any, inspect.Parameter.empty):
        return None
    if typing.get_origin(annotation) is not Message:
        raise TypeError(
            f"{name} takes {quoted(annotation)}: annotate its parameter as Message[…], the type of the body in the "
            "brackets"
        )
    (into,) = typing.get_args(annotation)
    if into is Any or isinstance(into, typing.TypeVar):
        return None
    if not hasattr(into, "__pydantic_validator__"):
        with contextlib.suppress(BodyTypeError):
            convert(None, into)  # a type that cannot be checked is refused here, not at the first message
    return into


def _annotation(plain: Callable[..., Any], parameter: inspect.Parameter, name: str) -> Any:
    try:
        return typing.get_type_hints(plain).get(parameter.name, parameter.empty)
    except (NameError, TypeError) as error:
        if not isinstance(parameter.annotation, str):
            return parameter.annotation  # it is another one that cannot be read, and we do not need it
        raise TypeError(
            f"the annotation of {name} cannot be read ({error}): what it names must be defined before it, in its module"
        ) from error
