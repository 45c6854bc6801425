"""Handlers: which function gets which message, and how it is called.

A handler takes one Message. Its annotation says what body it wants: `Message[Job]` decodes and validates, a body that
is no Job makes a dead letter. What it returns, unless None, is the reply.
"""

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .bodies import convert
from .errors import quoted
from .message import Message


@dataclass(frozen=True, slots=True)
class Handler:
    """One function, and how to call it."""

    function: Callable[[Message[Any]], Any]
    into: Any  # the type of body that it wants; None: whatever comes
    asynchronous: bool
    timeout: float | None  # seconds that it may take

    def prepare(self, message: Message[Any]) -> Message[Any]:
        """*message* with the body that the handler wants. Raises Mismatch."""
        if self.into is not None:
            message.body = convert(message.body, self.into)
        return message


class Handlers:
    """The handlers of one mailbox, by type."""

    def __init__(self) -> None:
        self._by_type: dict[str, Handler] = {}
        self._rest: Handler | None = None

    def add(self, types: tuple[str, ...], function: Callable[..., Any], timeout: float | None) -> None:
        """Let *function* handle messages of these types; with none, all that no other handles."""
        handler = Handler(function, _wanted(function), inspect.iscoroutinefunction(function), timeout)
        for each in types:
            if each in self._by_type:
                raise ValueError(f"there are two handlers for the type {quoted(each)}: a message goes to one")
            self._by_type[each] = handler
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


def _wanted(function: Callable[..., Any]) -> Any:
    """The type of body in the annotation of the first parameter: Job in `Message[Job]`. Raises TypeError."""
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        raise TypeError(f"the handler {function.__qualname__}() takes no message: give it one parameter")
    hints = typing.get_type_hints(function)
    annotation = hints.get(parameters[0].name, Message)
    if annotation is Message or annotation is Any:
        return None
    if typing.get_origin(annotation) is Message:
        (into,) = typing.get_args(annotation)
        return None if into is Any or isinstance(into, typing.TypeVar) else into
    raise TypeError(
        f"the handler {function.__qualname__}() takes {quoted(annotation)}: annotate its parameter as Message[…], "
        "the type of the body in the brackets"
    )
