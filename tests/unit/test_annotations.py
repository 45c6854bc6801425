"""The annotations of the public classes can be read at run time: by documentation tools, validators, injectors."""

import inspect
import os
import subprocess
import sys
import typing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import filemailbox
from filemailbox import Mailbox, Message

SOURCE = str(Path(filemailbox.__file__).parents[1])


def public_functions() -> list[Any]:
    """Each method, constructor and property of Mailbox and Message."""
    found = []
    for owner in (Mailbox, Message):
        for name, value in vars(owner).items():
            if name.startswith("_") and name not in ("__init__", "__enter__", "__exit__", "__aenter__", "__aexit__"):
                continue
            function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if inspect.isfunction(function):
                found.append(pytest.param(function, id=f"{owner.__name__}.{name}"))
    return found


@pytest.mark.parametrize("function", public_functions())
def test_the_types_of_a_public_method_can_be_read(function: Any) -> None:
    """typing.get_type_hints() works on it."""
    assert "return" in typing.get_type_hints(function)


def test_the_options_of_send_are_named_by_their_types() -> None:
    """**options is a TypedDict."""
    (options,) = typing.get_args(typing.get_type_hints(Mailbox.send)["options"])

    assert "idempotency_key" in options.__annotations__
    assert datetime in typing.get_args(typing.get_type_hints(options)["ttl"])


def test_the_command_does_not_pay_for_it() -> None:
    """The module behind Mailbox imports neither datetime nor the listener, which brings dataclasses."""
    program = "import filemailbox.client, sys; print(sorted({'datetime', 'asyncio', 'dataclasses'} & set(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-S", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([SOURCE, *sys.path])},
    )

    assert ran.stdout == "[]\n"


def test_the_package_has_no_other_names() -> None:
    """A typo is an AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="Mailbix"):
        filemailbox.Mailbix  # type: ignore[attr-defined]  # noqa: B018
