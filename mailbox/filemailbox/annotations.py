"""The names in the annotations of the public classes.

`datetime` and the listener take a quarter as long to import as Python takes to start, and a command that sends one
message needs neither. So the modules of the public classes import these names for type checkers only. When a program
asks the package for `Mailbox` or `Message`, resolve() puts the names into those modules:
`typing.get_type_hints(Mailbox.send)` works.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeAlias, TypeVar, Unpack

from .documents.document import Document
from .option_types import MailboxSettings, Options
from .receive.listener import Listener
from .receive.message import Message

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "AbstractContextManager",
    "Any",
    "AsyncIterator",
    "Callable",
    "Document",
    "F",
    "Iterable",
    "Iterator",
    "Listener",
    "MailboxSettings",
    "Mapping",
    "Message",
    "NoReturn",
    "Options",
    "Self",
    "T",
    "TracebackType",
    "Unpack",
    "_ErrorType",
    "datetime",
    "timedelta",
]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
_ErrorType: TypeAlias = type[BaseException]


def resolve(*modules: "ModuleType") -> None:
    """Put the names into *modules*, where they do not exist yet."""
    for module in modules:
        for name in __all__:
            vars(module).setdefault(name, globals()[name])
