"""History: the mail that a box keeps, received mail in every state, and copies of sent mail."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ..errors import MessageNotFoundError, NotMailError, quoted, storage_error, translated_errors
from ..format.envelope import decode
from ..format.filename import TIMESTAMP_LENGTH, lease_deadline, parse_filename, split_timed
from ..format.order import is_mail
from ..format.timestamp import to_timestamp
from ..store.layout import SENT
from ..store.root import Box
from ..store.state import State
from ..system.files import FOLDER, READ, close, list_dir
from ..system.strict_read import strict_read
from ..trust.levels import NONE
from ..trust.verifier import Verifier
from .message import Message
from .peek import PeekedMessage, read_message

_STATES: Final = (State.NEW, State.DEFERRED, State.DEAD, State.DONE)


class History:
    """The messages that one box keeps, oldest first."""

    def __init__(self, box: Box, max_size: int, verifier: Verifier) -> None:
        self._box, self._max_size, self._verifier = box, max_size, verifier

    def messages(
        self, partner: str | None = None, thread: str | None = None, since: datetime | None = None
    ) -> Iterator[Message[Any]]:
        """Yield the messages from or to *partner*, of *thread*, sent *since* then; without these, all.

        A file that is not mail has a `problem`. Raises BoxNotFoundError, PermissionDeniedError.
        """
        for message in self._all(since):
            if partner is not None and partner not in (message.sender, message.to):
                continue
            if thread is not None and thread not in (message.thread, message.id, message.reply_id):
                continue
            yield message

    def thread(self, id_part: str) -> list[Message[Any]]:
        """Return the conversation that a message belongs to: all that share its thread, and the replies between them.

        Raises MessageNotFoundError for no message with *id_part* in its id, and for several in different threads.
        """
        known = list(self._all(None))
        found = [each for each in known if id_part in (each.id, each.thread)]
        found = found or [each for each in known if id_part in each.id]
        if not found:
            raise MessageNotFoundError(
                f"no message of the box {quoted(self._box.address)} has {quoted(id_part)} in its id",
                hint="handled mail is kept only with a retention: `mailbox init --retention 7d NAME`",
            )
        conversation = _connected(known, found[0])
        others = [each for each in found if each not in conversation]
        if others:
            raise MessageNotFoundError(
                f"{quoted(id_part)} fits messages of different threads in the box {quoted(self._box.address)}: "
                f"{found[0].id} and {others[0].id}",
                hint="give more of the id",
            )
        return conversation

    def _all(self, since: datetime | None) -> Iterator[Message[Any]]:
        """Yield all messages in the order of their sending. A message that moves meanwhile may be missed."""
        limit = to_timestamp(int(since.timestamp() * 1e9)) if since is not None else ""
        with contextlib.ExitStack() as stack, translated_errors(f"looking into the box {quoted(self._box.address)}"):
            entries = sorted(entry for entry in self._entries(stack) if entry[0] >= limit)
            seen = set()
            for _, state, filename, dir_fd in entries:
                message = self._read(state, filename, dir_fd)
                if message is not None and (state, message.id) not in seen:
                    seen.add((state, message.id))
                    yield message

    def _entries(self, stack: contextlib.ExitStack) -> Iterator[tuple[str, str, str, int]]:
        """Yield each file: the time in its name, its state, its name, the open folder."""
        for state in (*_STATES, SENT):
            try:
                dir_fd = os.open(f"{self._box}/{state}", FOLDER)
            except FileNotFoundError as error:
                if state == SENT:
                    continue
                raise self._box.missing() from error
            except OSError as error:
                raise storage_error(error, f"looking into the box {quoted(self._box.address)}") from error
            stack.callback(close, dir_fd)
            yield from _of(dir_fd, state, list_dir(dir_fd))
        cur = os.open(f"{self._box}/cur", FOLDER)
        stack.callback(close, cur)
        for consumer in list_dir(cur):
            if lease_deadline(consumer) is None:
                continue
            with contextlib.suppress(OSError):  # it has ended meanwhile
                dir_fd = os.open(consumer, FOLDER, dir_fd=cur)
                stack.callback(close, dir_fd)
                yield from _of(dir_fd, State.CLAIMED, list_dir(dir_fd))

    def _read(self, state: str, filename: str, dir_fd: int) -> Message[Any] | None:
        if state != SENT:
            return read_message(dir_fd, state, filename, self._max_size, self._verifier)
        parts = parse_filename(filename)
        if parts is None:
            return None
        try:
            fd = os.open(filename, READ, dir_fd=dir_fd)
        except OSError:
            return None
        try:
            data, _, refusal = strict_read(fd, self._max_size, parts.size)
            fields = decode(data) if refusal is None else {"body": None}
            problem = refusal.reason if refusal is not None else None
        except NotMailError as error:
            fields, problem, data = {"body": None}, error.reason, b""
        finally:
            close(fd)
        message = PeekedMessage(parts.id, fields, data, filename, 1, NONE)
        message.state, message.problem, message.due = SENT, problem, None
        return message


def past(since: datetime | timedelta | float | None) -> datetime | None:
    """Return a time, or a time so long ago."""
    if since is None or isinstance(since, datetime):
        return since
    return datetime.now(UTC) - (since if isinstance(since, timedelta) else timedelta(seconds=since))


def _of(dir_fd: int, state: str, filenames: Iterable[str]) -> Iterator[tuple[str, str, str, int]]:
    for filename in filenames:
        if not is_mail(filename):
            continue
        name = (split_timed(filename) or ("", filename))[1] if state in (State.DEFERRED, State.DONE) else filename
        parts = parse_filename(name)
        if parts is not None and parts.stem is None:
            yield name[:TIMESTAMP_LENGTH], state, filename, dir_fd
            continue
        with contextlib.suppress(OSError):
            st = os.stat(filename, dir_fd=dir_fd, follow_symlinks=False)
            yield to_timestamp(st.st_mtime_ns), state, filename, dir_fd


def _connected(known: list[Message[Any]], first: Message[Any]) -> list[Message[Any]]:
    """Return *first* and the messages that share its thread, answer it, or are answered by it, and so on, in order."""
    ids = {first.reply_id}
    chosen: set[int] = set()
    while True:
        more = [
            number
            for number, each in enumerate(known)
            if number not in chosen and not ids.isdisjoint({each.thread, each.reply_id, each.in_reply_to} - {None})
        ]
        if not more:
            return [known[number] for number in sorted(chosen)]
        chosen.update(more)
        for number in more:
            each = known[number]
            ids |= {each.reply_id, each.thread or each.reply_id, each.in_reply_to or each.reply_id}
