"""Looking at a box without touching it: what waits, what is held, what was given up, what was handled."""

from __future__ import annotations

import contextlib
import os
import stat

from ..errors import (
    MessageNotFoundError,
    NotMailError,
    TrustError,
    UnverifiedSenderError,
    quoted,
    storage_error,
    translated_errors,
)
from ..format.envelope import decode
from ..format.filename import parse_filename, split_timed
from ..format.order import is_mail
from ..format.times import format_time, from_nanoseconds, modified_time, parse_time
from ..format.timestamp import to_nanoseconds
from ..store.layout import State
from ..system.files import FOLDER, READ, close, describe_type, list_dir, read, sole
from ..trust.levels import NONE
from .message import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Final

    from ..format.address import Address
    from ..store.root import Root
    from ..trust.verifier import Verifier

STATES: Final = tuple(State)


class PeekedMessage(Message["Any"]):
    """A message that was looked at, not taken."""

    __slots__ = ("due", "problem", "state")


def peek(
    root: Root, address: Address, states: Iterable[str], max_size: int, verifier: Verifier
) -> Iterator[Message[Any]]:
    """The messages in these *states*, each state in order. What is not mail has a `problem`.

    What moves while this looks may be seen twice or not at all. Raises BoxNotFoundError, PermissionDeniedError.
    """
    box = root.box(address)
    for state in states:
        if state not in STATES:
            raise ValueError(f"{quoted(state)} is not a state of mail: expected one of {', '.join(STATES)}")
        try:
            folder = os.open(f"{box}/{state}", FOLDER)
        except FileNotFoundError as error:
            raise root.missing(address) from error
        except OSError as error:
            raise storage_error(error, f"looking into the box {quoted(address)}") from error
        try:
            with translated_errors(f"looking into the box {quoted(address)}"):
                yield from (
                    _held(folder, max_size, verifier)
                    if state == State.CLAIMED
                    else _waiting(folder, state, max_size, verifier)
                )
        finally:
            close(folder)


def find(
    root: Root, address: Address, part: str, states: Iterable[str], max_size: int, verifier: Verifier
) -> Message[Any]:
    """The one message whose id, or foreign name, holds *part*. Raises MessageNotFoundError for none and for several."""
    all_of_them = peek(root, address, states, max_size, verifier)
    found = [message for message in all_of_them if part in (message.name or message.id)]
    exact = [message for message in found if part in (message.id, message.name)]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if not found:
        raise MessageNotFoundError(f"there is no message {quoted(part)} in the box {quoted(address)}")
    ids = ", ".join(message.id for message in found[:4]) + (" …" if len(found) > 4 else "")
    raise MessageNotFoundError(f"{quoted(part)} fits {len(found)} messages in the box {quoted(address)}: {ids}")


def _held(cur: int, max_size: int, verifier: Verifier) -> Iterator[Message[Any]]:
    for consumer in sorted(list_dir(cur)):
        if consumer.startswith("."):
            continue
        try:
            folder = os.open(consumer, FOLDER, dir_fd=cur)
        except OSError:
            continue  # swept away while we looked
        try:
            yield from _waiting(folder, State.CLAIMED, max_size, verifier)
        finally:
            close(folder)


def _waiting(folder: int, state: str, max_size: int, verifier: Verifier) -> Iterator[Message[Any]]:
    for text in sorted(filter(is_mail, list_dir(folder))):
        message = seen(folder, state, text, max_size, verifier)
        if message is not None:
            yield message


def seen(folder: int, state: str, text: str, max_size: int, verifier: Verifier) -> Message[Any] | None:
    """The message in one file, judged as a consumer would; None where it has moved on."""
    due, name = (split_timed(text) or (None, text)) if State(state).has_timed_names else (None, text)
    parts = parse_filename(name)
    members: dict[str, Any] = {"body": None}
    data, problem, facts, trust = b"", None, None, NONE
    try:
        file = os.open(text, READ, dir_fd=folder)
    except FileNotFoundError:
        return None  # it has moved on
    except OSError as error:
        problem = f"it cannot be opened: {(error.strerror or str(error)).lower()}"
        with contextlib.suppress(OSError):
            facts = os.stat(text, dir_fd=folder, follow_symlinks=False)
    else:
        try:
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode):
                problem = f"it is {describe_type(facts.st_mode)}, not a file"
            elif facts.st_nlink != 1:
                problem = f"it has {facts.st_nlink} links: somebody else can still change it"
            elif facts.st_size > max_size:
                problem = f"it has {facts.st_size} bytes, and {max_size} is the limit"
            elif parts is not None and parts.size not in (None, facts.st_size):
                problem = f"it has {facts.st_size} bytes and its name says S={parts.size}: it is not complete"
            else:
                content = read(file, facts.st_size)
                if sole(text, folder, file):
                    data = content
                    members, trust = verifier.verify(data, facts, name)
                else:
                    os.stat(text, dir_fd=folder, follow_symlinks=False)
                    problem = "it was replaced while it was read, or /proc is not there to tell: it is not shown"
        except FileNotFoundError:
            return None  # it has moved on
        except (UnverifiedSenderError, TrustError) as error:
            problem, members = str(error), decode(data)
        except NotMailError as error:
            problem = error.reason
        except OSError as error:
            problem = f"it cannot be read: {(error.strerror or str(error)).lower()}"
        finally:
            close(file)
    if parts is None or parts.stem is not None:
        when = modified_time(facts) if facts else _now()
        if parts is not None:
            members.setdefault("sent", when)
        elif not _is_time(members.get("sent")):  # an id would stand for it, and a foreign name is none
            members["sent"] = when
    attempt = parts.attempt if parts and state != "new" else 1
    message = PeekedMessage(parts.id if parts else text, members, data, name, attempt, trust)
    message.state = state
    message.problem = _reason(folder, text) or problem if state == State.DEAD else problem
    message.due = None
    if due is not None:
        message.due = from_nanoseconds(to_nanoseconds(due))
    return message


def why(root: Root, address: Address, dead: str) -> str | None:
    """All that stands in the `.why` beside a dead letter, as far as it is there."""
    try:
        folder = os.open(f"{root.box(address)}/dead", FOLDER)
    except OSError as error:
        raise storage_error(error, f"looking into the box {quoted(address)}") from error
    try:
        return _note(folder, dead, 1 << 20)
    finally:
        close(folder)


def _reason(dead: int, text: str) -> str | None:
    """The first line of the `.why` beside a dead letter."""
    return (_note(dead, text, 4096) or "").split("\n", 1)[0] or None


def _note(dead: int, text: str, size: int) -> str | None:
    try:
        file = os.open(text.removesuffix(".json") + ".why", READ, dir_fd=dead)
    except OSError:
        return None
    try:
        return os.read(file, size).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        close(file)


def _is_time(text: object) -> bool:
    try:
        parse_time(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _now() -> str:
    from datetime import UTC, datetime

    return format_time(datetime.now(UTC))
