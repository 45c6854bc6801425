"""Typed bodies: JSON converted into the type that a receiver asks for, or an error with the place of the difference.

Dataclasses, TypedDicts, named tuples, enums and plain types such as `list[int]` are checked by msgspec, strictly: a
string is not accepted as a number. Pydantic models and dataclasses validate themselves. Pydantic also validates types
that msgspec does not know; otherwise it is never imported.
"""

from collections.abc import Callable
from typing import Any

from ..errors import BodyTypeError
from ..format import codec


def convert(body: Any, body_type: Any) -> Any:
    """Convert *body*, as decoded from JSON, into an instance of *body_type*.

    Raises BodyTypeError with the validator's text if the body does not fit. Raises TypeError if neither msgspec nor
    pydantic can check *body_type*: a mistake in the program, not in the message.
    """
    if body_type is None or body_type is Any:
        return body
    validator = getattr(body_type, "__pydantic_validator__", None)
    if validator is not None:
        return _validate(_from_json(validator), body, body_type)
    import msgspec  # imported here: most mail is received untyped

    try:
        return msgspec.convert(body, body_type, str_keys=True, dec_hook=_convert_nested)
    except msgspec.ValidationError as error:
        raise BodyTypeError(f"its body is not {type_name(body_type)}: {error}") from error
    except (TypeError, NotImplementedError) as error:
        return _validate(_adapter(body_type, error), body, body_type)


def _from_json(validator: Any) -> Callable[[Any], Any]:
    """Return a function that validates a body as the JSON that it was: also for strict models, by alias or by name."""

    def validate(body: Any) -> Any:
        data = codec.dumps(body)
        try:
            return validator.validate_json(data, by_alias=True, by_name=True)
        except TypeError:  # pydantic before 2.11 knows no by_name
            return validator.validate_json(data)

    return validate


def type_name(body_type: Any) -> str:
    """Return the name of a type for a sentence."""
    is_plain = isinstance(body_type, type) and not hasattr(body_type, "__args__")
    return body_type.__qualname__ if is_plain else str(body_type)


def _validate(validate: Any, body: Any, body_type: Any) -> Any:
    try:
        return validate(body)
    except ValueError as error:  # pydantic's ValidationError is one
        problems = getattr(error, "errors", None)
        details = _one_line(problems()) if problems else error
        raise BodyTypeError(f"its body is not {type_name(body_type)}: {details}") from error


def _one_line(problems: list[dict[str, Any]]) -> str:
    """Return all that pydantic found, on one line."""
    return "; ".join(f"{problem['msg']} - at `{_path(problem['loc'])}`" for problem in problems)


def _path(steps: tuple[str | int, ...]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def _convert_nested(body_type: Any, body: Any) -> Any:
    """Convert a part of a body whose type msgspec does not know: its hook for types inside types."""
    validator = getattr(body_type, "__pydantic_validator__", None)
    if validator is None:
        raise NotImplementedError(f"{type_name(body_type)} is a type that msgspec does not know")
    try:
        return _from_json(validator)(body)
    except ValueError as error:
        raise ValueError(_one_line(error.errors())) from error  # type: ignore[attr-defined]  # pydantic's


def _adapter(body_type: Any, unknown: Exception) -> Any:
    try:
        from pydantic import TypeAdapter

        return _from_json(TypeAdapter(body_type).validator)
    except (ImportError, RuntimeError) as error:  # pydantic's errors of usage are RuntimeErrors
        raise TypeError(f"bodies of type {type_name(body_type)} cannot be checked: {unknown}") from error
