"""Typed bodies: JSON into the type that a receiver asked for, or a sentence about why not.

Dataclasses, TypedDicts, named tuples, enums and plain types such as `list[int]` are checked by msgspec, strictly: a
string is not taken for a number. Pydantic models and dataclasses check themselves, and pydantic is asked about what
msgspec does not know; it is never imported otherwise.
"""

from typing import Any

from ..errors import BodyTypeError


def convert(body: Any, into: Any) -> Any:
    """*body*, as decoded from JSON, as an instance of *into*.

    Raises BodyTypeError with the validator's text where it is not one, and TypeError where *into* is a type that
    neither
    msgspec nor pydantic can check: a mistake of the program, not of the message.
    """
    if into is None or into is Any:
        return body
    own = getattr(into, "__pydantic_validator__", None)
    if own is not None:
        return _ask(own.validate_python, body, into)
    import msgspec  # imported here: most mail is taken as it is

    try:
        return msgspec.convert(body, into, dec_hook=_within)
    except msgspec.ValidationError as error:
        raise BodyTypeError(f"its body is not {name(into)}: {error}") from error
    except (TypeError, NotImplementedError) as error:
        return _ask(_adapter(into, error), body, into)


def name(into: Any) -> str:
    """What *into* is called in a sentence."""
    return into.__qualname__ if isinstance(into, type) and not hasattr(into, "__args__") else str(into)


def _ask(validate: Any, body: Any, into: Any) -> Any:
    try:
        return validate(body)
    except ValueError as error:  # pydantic's ValidationError is one
        problems = getattr(error, "errors", None)
        raise BodyTypeError(f"its body is not {name(into)}: {_told(problems()) if problems else error}") from error


def _told(problems: list[dict[str, Any]]) -> str:
    """All that pydantic found, on one line."""
    return "; ".join(f"{problem['msg']} - at `{_path(problem['loc'])}`" for problem in problems)


def _path(steps: tuple[str | int, ...]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def _within(into: Any, body: Any) -> Any:
    """What msgspec asks for where a type that it does not know stands inside one that it knows."""
    own = getattr(into, "__pydantic_validator__", None)
    if own is None:
        raise NotImplementedError(f"{name(into)} is a type that msgspec does not know")
    try:
        return own.validate_python(body)
    except ValueError as error:
        raise ValueError(_told(error.errors())) from error  # type: ignore[attr-defined]  # pydantic's


def _adapter(into: Any, unknown: Exception) -> Any:
    try:
        from pydantic import TypeAdapter

        return TypeAdapter(into).validate_python
    except (ImportError, RuntimeError) as error:  # pydantic's errors of usage are RuntimeErrors
        raise TypeError(f"bodies of type {name(into)} cannot be checked: {unknown}") from error
