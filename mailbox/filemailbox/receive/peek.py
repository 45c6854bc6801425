"""Peek at a box without touching it: what waits, what is claimed, the dead letters, what was handled.

`has_mail()` asks the narrower question of whether receive() would return a message now. Mail that is incomplete,
expired, deferred, or handled already is left to the next consumer and does not count.
"""

from __future__ import annotations

import contextlib
import os

from ..errors import (
    MessageNotFoundError,
    NotMailError,
    TrustError,
    UnverifiedSenderError,
    quoted,
    storage_error,
    translated_errors,
)
from ..format.envelope import MAX_HOPS, decode
from ..format.filename import lease_deadline, parse_filename, split_timed
from ..format.order import is_mail
from ..format.times import format_time, from_nanoseconds, modified_time, parse_time
from ..format.timestamp import to_nanoseconds
from ..store.ids import timestamp_now
from ..store.state import State
from ..system.files import FOLDER, READ, close, list_dir
from ..system.locks import is_held
from ..system.strict_read import is_only_link, strict_read
from ..trust.levels import NONE, PROVEN
from .message import Message, dedup_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Final

    from ..settings import Settings
    from ..store.root import Box
    from ..trust.verifier import Verifier

STATES: Final = tuple(State)

_MAX_REASON: Final = 4096  # bytes of a .why that are read for its first line
_MAX_NOTE: Final = 1 << 20  # bytes of a .why that are shown
_SHOWN_IDS: Final = 4  # ids that an error names when an id part fits several messages


class PeekedMessage(Message["Any"]):
    """A message that was peeked at. It cannot be settled."""

    __slots__ = ("due", "problem", "state")


def peek(box: Box, states: Iterable[str], max_size: int, verifier: Verifier) -> Iterator[Message[Any]]:
    """Yield the messages in these *states*, each state in its order. A file that is not mail has a `problem`.

    A message that moves meanwhile may appear twice or not at all. Raises BoxNotFoundError, PermissionDeniedError.
    """
    for state in states:
        if state not in STATES:
            raise ValueError(f"{quoted(state)} is not a state of mail: expected one of {', '.join(STATES)}")
        try:
            dir_fd = os.open(f"{box}/{state}", FOLDER)
        except FileNotFoundError as error:
            raise box.missing() from error
        except OSError as error:
            raise storage_error(error, f"looking into the box {quoted(box.address)}") from error
        try:
            with translated_errors(f"looking into the box {quoted(box.address)}"):
                if state == State.CLAIMED:
                    yield from _claimed(dir_fd, max_size, verifier)
                else:
                    yield from _messages(dir_fd, state, max_size, verifier)
        finally:
            close(dir_fd)


def find(box: Box, id_part: str, states: Iterable[str], max_size: int, verifier: Verifier) -> Message[Any]:
    """Return the one message whose id, or external file name, contains *id_part*.

    Raises MessageNotFoundError for none and for several.
    """
    found = [message for message in peek(box, states, max_size, verifier) if id_part in (message.name or message.id)]
    exact = [message for message in found if id_part in (message.id, message.name)]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if not found:
        raise MessageNotFoundError(f"there is no message {quoted(id_part)} in the box {quoted(box.address)}")
    ids = ", ".join(message.id for message in found[:_SHOWN_IDS]) + (" …" if len(found) > _SHOWN_IDS else "")
    raise MessageNotFoundError(
        f"{quoted(id_part)} fits {len(found)} messages in the box {quoted(box.address)}: {ids}",
        hint="give more of the id",
    )


def has_mail(box: Box, settings: Settings, verifier: Verifier) -> bool:
    """Return True if receive() would return a message now.

    Raises BoxNotFoundError, RootNotFoundError, PermissionDeniedError.
    """
    try:
        candidates = _candidates(box, settings.max_size, verifier)
        return any(_is_deliverable(message, box, settings) for message in candidates)
    except FileNotFoundError as error:
        raise box.missing() from error
    except OSError as error:
        raise storage_error(error, f"looking into the box {quoted(box.address)}") from error


def _candidates(box: Box, max_size: int, verifier: Verifier) -> Iterator[Message[Any]]:
    """Yield the mail that waits, that has come due, and that a dead consumer had claimed, its attempt counted."""
    yield from _messages_at(f"{box}/new", State.NEW, max_size, verifier)
    yield from _messages_at(f"{box}/later", State.DEFERRED, max_size, verifier, until=timestamp_now())
    with contextlib.suppress(FileNotFoundError), os.scandir(f"{box}/cur") as consumers:
        for consumer in consumers:
            if not consumer.is_dir(follow_symlinks=False) or not any(map(is_mail, os.listdir(consumer.path))):
                continue
            deadline = lease_deadline(consumer.name)
            if deadline is None or deadline > timestamp_now() or is_held(f"{consumer.path}/.lock"):
                continue
            for message in _messages_at(consumer.path, State.CLAIMED, max_size, verifier):
                message.attempt += 1
                yield message


def _is_deliverable(message: Message[Any], box: Box, settings: Settings) -> bool:
    if message.problem is not None or message.attempt > settings.max_attempts or message.hops > MAX_HOPS:
        return False
    parts = parse_filename(message.name) if message.state != State.NEW else None
    expires, due = message.expires, message.deliver_after
    if (expires or due) and (parts is None or not parts.requeued):  # an operator who requeues it wants it now
        from datetime import UTC, datetime

        now = datetime.now(UTC)
        if (expires is not None and expires <= now) or (due is not None and due > now):
            return False
    key = dedup_key(message)
    if key is None:
        return True
    from ..store.ledger import Ledger, ledger_owner

    ledger = Ledger(settings.ledger_dir or f"{box}/ledger", box.path)
    return not ledger.handled(message.trust, ledger_owner(box.root, message.sender, message.trust in PROVEN), key)


def _claimed(cur: int, max_size: int, verifier: Verifier) -> Iterator[Message[Any]]:
    for consumer in sorted(list_dir(cur)):
        if consumer.startswith("."):
            continue
        try:
            dir_fd = os.open(consumer, FOLDER, dir_fd=cur)
        except OSError:
            continue  # removed meanwhile
        try:
            yield from _messages(dir_fd, State.CLAIMED, max_size, verifier)
        finally:
            close(dir_fd)


def _messages_at(
    path: str, state: str, max_size: int, verifier: Verifier, until: str | None = None
) -> Iterator[Message[Any]]:
    dir_fd = os.open(path, FOLDER)
    try:
        yield from _messages(dir_fd, state, max_size, verifier, until)
    finally:
        os.close(dir_fd)


def _messages(
    dir_fd: int, state: str, max_size: int, verifier: Verifier, until: str | None = None
) -> Iterator[Message[Any]]:
    """Yield the messages in an open folder; of `later/`, those due *until* that time, which comes first in a name."""
    for filename in sorted(filter(is_mail, list_dir(dir_fd))):
        if until is not None and filename > until:
            return
        message = read_message(dir_fd, state, filename, max_size, verifier)
        if message is not None:
            yield message


def read_message(dir_fd: int, state: str, filename: str, max_size: int, verifier: Verifier) -> Message[Any] | None:
    """Return the message in one file, verified as a consumer would; None if the file has moved on."""
    due, name = (split_timed(filename) or (None, filename)) if State(state).has_timed_names else (None, filename)
    parts = parse_filename(name)
    fields: dict[str, Any] = {"body": None}
    data, problem, st, trust = b"", None, None, NONE
    try:
        fd = os.open(filename, READ, dir_fd=dir_fd)
    except FileNotFoundError:
        return None  # it has moved on
    except OSError as error:
        problem = f"it cannot be opened: {(error.strerror or str(error)).lower()}"
        with contextlib.suppress(OSError):
            st = os.stat(filename, dir_fd=dir_fd, follow_symlinks=False)
    else:
        try:
            content, st, refusal = strict_read(fd, max_size, parts.size if parts is not None else None)
            if refusal is not None:
                problem = refusal.reason
            elif is_only_link(filename, dir_fd, fd):
                data = content
                fields, trust = verifier.verify(data, st, name)
            else:
                os.stat(filename, dir_fd=dir_fd, follow_symlinks=False)
                problem = (
                    "it was replaced while it was read, or it cannot be known because /proc is missing: it is not shown"
                )
        except FileNotFoundError:
            return None  # it has moved on
        except (UnverifiedSenderError, TrustError) as error:
            problem, fields = str(error), decode(data)
        except NotMailError as error:
            problem = error.reason
        except OSError as error:
            problem = f"it cannot be read: {(error.strerror or str(error)).lower()}"
        finally:
            close(fd)
    if parts is None or parts.stem is not None:
        when = modified_time(st) if st else _now()
        if parts is not None:
            fields.setdefault("sent", when)
        elif not _is_time(fields.get("sent")):  # an id would stand for it, and a foreign name is none
            fields["sent"] = when
    attempt = parts.attempt if parts and state != State.NEW else 1
    message = PeekedMessage(parts.id if parts else filename, fields, data, name, attempt, trust)
    message.state = state
    message.problem = _reason(dir_fd, filename) or problem if state == State.DEAD else problem
    message.due = None
    if due is not None:
        message.due = from_nanoseconds(to_nanoseconds(due))
    return message


def dead_reason(box: Box, filename: str) -> str | None:
    """Return the whole `.why` beside a dead letter; None if there is none."""
    try:
        dead = os.open(f"{box}/dead", FOLDER)
    except OSError as error:
        raise storage_error(error, f"looking into the box {quoted(box.address)}") from error
    try:
        return _note(dead, filename, _MAX_NOTE)
    finally:
        close(dead)


def _reason(dead: int, filename: str) -> str | None:
    """Return the first line of the `.why` beside a dead letter."""
    return (_note(dead, filename, _MAX_REASON) or "").split("\n", 1)[0] or None


def _note(dead: int, filename: str, size: int) -> str | None:
    try:
        fd = os.open(filename.removesuffix(".json") + ".why", READ, dir_fd=dead)
    except OSError:
        return None
    try:
        return os.read(fd, size).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        close(fd)


def _is_time(value: object) -> bool:
    try:
        parse_time(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _now() -> str:
    from datetime import UTC, datetime

    return format_time(datetime.now(UTC))
