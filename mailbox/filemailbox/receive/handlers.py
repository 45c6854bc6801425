"""Handlers: functions by type of message, and the type of body that each takes.

A handler takes one Message, or the body alone. Annotated `Message[Job]` or `Job`, it gets a body that is decoded and
validated; a body that is not a Job makes a dead letter. Its return value, unless None, is the reply.
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
    """One function and the way to call it."""

    function: Callable[[Message[Any]], Any]
    body_type: Any
    """Type of body that it takes; None for any JSON."""
    asynchronous: bool
    timeout: float | None
    """Seconds that a call may take."""

    def convert_body(self, message: Message[Any]) -> None:
        """Convert the body to the type that the handler takes. Raises BodyTypeError."""
        message.body = convert(message.body, self.body_type)


class HandlerRegistry:
    """The handlers of one mailbox, by type of message."""

    def __init__(self) -> None:
        self._by_type: dict[str, Handler] = {}
        self._default: Handler | None = None

    def add(self, types: tuple[str, ...], function: Callable[..., Any], timeout: float | None) -> None:
        """Register *function* for messages of these *types*; without one, for all types that have no other handler."""
        called = _called_function(function)
        body_type, takes_body = _parameter(function, called)
        call = functools.partial(_with_body, function) if takes_body else function
        handler = Handler(call, body_type, inspect.iscoroutinefunction(called), timeout)
        for kind in types:
            if not isinstance(kind, str):
                raise TypeError(f"the type of a message is a string, not {quoted(kind)}: @box.on() takes the rest")
            if kind in self._by_type:
                raise ValueError(f"there are two handlers for the type {quoted(kind)}: a message goes to one")
        self._by_type.update(dict.fromkeys(types, handler))
        if not types:
            if self._default is not None:
                raise ValueError("there are two handlers for the rest: @box.on() can be used once")
            self._default = handler

    def find(self, type: str | None) -> Handler | None:
        """Return the handler for messages of that type; None if there is none."""
        return self._by_type.get(type, self._default) if type is not None else self._default

    def types(self) -> frozenset[str | None] | None:
        """Return the types that have a handler; None if every type has one."""
        return None if self._default is not None else frozenset(self._by_type)

    @property
    def asynchronous(self) -> bool:
        """True if at least one handler is a coroutine function."""
        handlers = (*self._by_type.values(), self._default)
        return any(handler.asynchronous for handler in handlers if handler is not None)

    def __bool__(self) -> bool:
        return bool(self._by_type) or self._default is not None


def _called_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function behind functools.partial and callable objects."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    call: Callable[..., Any] = type(function).__call__
    return call


def _with_body(function: Callable[[Any], Any], message: Message[Any]) -> Any:
    return function(message.body)


def _parameter(function: Callable[..., Any], called: Callable[..., Any]) -> tuple[Any, bool]:
    """Return the type of body that the handler takes, None for any; and True if it takes the body, not the message.

    Annotated `Message[Job]`, or not at all, its parameter is the message; annotated `Job`, the body. Raises TypeError.
    """
    name = f"the handler {getattr(called, '__qualname__', called)}()"
    signature = inspect.signature(function)
    try:
        signature.bind(None)
    except TypeError:
        raise TypeError(f"{name} takes {signature}, expected one parameter: the message") from None
    annotation = _annotation(called, next(iter(signature.parameters.values())), name)
    if annotation in (Message, Any, inspect.Parameter.empty):
        return None, False
    takes_body = typing.get_origin(annotation) is not Message
    if takes_body and any(Message in (part, typing.get_origin(part)) for part in typing.get_args(annotation)):
        raise TypeError(
            f"{name} takes {quoted(annotation)}: annotate its parameter as Message[…], the type of the body in the "
            "brackets, or as the type of the body"
        )
    body_type = annotation if takes_body else typing.get_args(annotation)[0]
    if body_type is Any or isinstance(body_type, typing.TypeVar):
        return None, takes_body
    if not hasattr(body_type, "__pydantic_validator__"):
        with contextlib.suppress(BodyTypeError):
            convert(None, body_type)  # refuse a type that cannot be checked here, not at the first message
    return body_type, takes_body


def _annotation(called: Callable[..., Any], parameter: inspect.Parameter, name: str) -> Any:
    try:
        return typing.get_type_hints(called).get(parameter.name, parameter.empty)
    except (NameError, TypeError) as error:
        if not isinstance(parameter.annotation, str):
            return parameter.annotation  # the unreadable annotation is another one
        raise TypeError(
            f"the annotation of {name} cannot be read ({error}): the names in it must be defined before it, in its "
            "module"
        ) from error
