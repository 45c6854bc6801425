"""One session of an agent: mail is leased and noted before it is shown, and acked after a model has had it.

    start     shows mail; after a resume or a compaction, also the mail that is still held
    prompt    acks the mail of earlier turns; shows mail
    tool      shows mail; extends the leases past their half
    stop      acks the mail that was shown; if more waits, shows it, at most `turns` times for each prompt
    end       puts back at once the mail that was shown and not acked, the attempt not counted

A prompt does not ack the mail that the start before it showed: no model has had it yet. If the client is killed between
two of these, it has acked nothing of its turn. The lease ends, and the mail comes back under its id, as the next
attempt. A message that the agent settled itself (`reply`, `retry`, `reject`) is left alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from datetime import UTC, datetime

from ..errors import MailboxError
from ..format.order import is_mail
from ..receive.receipts import HANDLED, TAKEN, is_wanted
from . import letter, notes
from .events import END, PROMPT, START, STOP, TOOL
from .waiting import has_mail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

    from ..client import Mailbox
    from ..receive.message import Message
    from ..store.root import Box
    from .events import Event
    from .notes import Notes

LEASE: Final = 3600.0
"""Seconds for which shown mail is leased. If a turn has no hook for longer, its mail comes back."""

TURNS: Final = 5
"""Times that mail prolongs the turn of one prompt."""

_LONGEST_LEASE: Final = 86400.0
_FRAME: Final = 1500  # characters of an event that are not letters: heading, sentences at its end, what is owed
_AROUND: Final = 700  # characters of a letter that are not its body
_LEAST: Final = 300  # characters of a body below which the next event shows it
_EXAMINED: Final = 200  # waiting messages among which urgent ones are looked for
_LISTED: Final = 8  # ids in one sentence


_HOW_TO_ANSWER: Final = (
    'To answer: `mailbox reply ID "…"`. Mail that you leave counts as handled when your turn ends; '
    "`mailbox retry ID` puts it back."
)


class Limits:
    """The settings of hooks: MAILBOX_HOOK_LEASE, MAILBOX_HOOK_TURNS, MAILBOX_HOOK_AT, MAILBOX_OPERATOR."""

    def __init__(
        self,
        lease: float = LEASE,
        turns: int = TURNS,
        *,
        only_urgent_in_turn: bool = False,
        operator: str | None = None,
    ) -> None:
        self.lease = lease
        """Seconds."""
        self.turns = turns
        """Times that mail prolongs the turn of one prompt."""
        self.only_urgent_in_turn = only_urgent_in_turn
        """True if only urgent mail interrupts a turn."""
        self.operator = operator
        """The agent whose proven mail is that of the operator."""

    @classmethod
    def from_environment(cls, environment: dict[str, str] | os._Environ[str]) -> Limits:
        """Return the limits that the variables set. Values that make no sense are as unset."""
        lease, turns = LEASE, TURNS
        with contextlib.suppress(ValueError):
            seconds = float(environment.get("MAILBOX_HOOK_LEASE", ""))
            lease = seconds if 1 <= seconds <= _LONGEST_LEASE else LEASE
        with contextlib.suppress(ValueError):
            turns = min(max(0, int(environment.get("MAILBOX_HOOK_TURNS", ""))), 100)
        return cls(
            lease,
            turns,
            only_urgent_in_turn=environment.get("MAILBOX_HOOK_AT") == "turn",
            operator=environment.get("MAILBOX_OPERATOR") or None,
        )


class Outcome:
    """The result of an event: the text for the model, and what it means for the client."""

    def __init__(self, text: str = "", *, goes_on: bool = False, left: int = 0) -> None:
        self.text = text
        """The text that the model is to be shown; empty for none."""
        self.goes_on = goes_on
        """At a stop, True if the turn goes on with the text."""
        self.left = left
        """Messages that still wait."""


class Session:
    """Handles the events of one session, under the lock of its notes. Use it in a `with` block.

    If the block raises, the mail that was claimed in it goes back at once, and the notes forget it.
    """

    def __init__(
        self, box: Box, kept: Notes, limits: Limits, *, clock: Any = time.time, fence: str | None = None
    ) -> None:
        self._box, self._notes, self._limits, self._clock = box, kept, limits, clock
        self._fence = fence
        self._mailboxes: list[Mailbox] = []
        self._claimed: list[Message[Any]] = []

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._put_back()
        for mailbox in self._mailboxes:
            with contextlib.suppress(MailboxError, OSError):
                mailbox.close()

    def handle(self, event: Event) -> Outcome:
        """Do what the event asks for, and return what to print. The mail in it is leased and noted.

        Raises MailboxError, OSError.
        """
        kept = self._notes
        kind = event.kind
        is_continued = bool(kind == PROMPT and kept.fence and kept.fence in event.prompt)
        if kind == PROMPT and not is_continued:
            kept.prolonged, kept.turn = 0, kept.turn + 1
        owed = self._settle(kind) if kind in (PROMPT, STOP, END) and not is_continued else []
        if kind == END:
            self._save()
            kept.show_presence(event.client, notes.ENDED)
            return Outcome()
        if kind == TOOL and kept.holds and self._clock() >= kept.until - self._limits.lease / 2:
            self._extend()
        room = letter.EVENT_LIMIT - _FRAME
        fence = self._fence or letter.new_fence()
        letters: list[str] = []
        more_held: list[str] = []
        if kind == START and event.source in ("resume", "compact"):
            room = self._show_again(fence, room, letters, more_held)
        if not is_continued and (kind != STOP or kept.prolonged < self._limits.turns):
            self._show_new(kind, fence, room, letters)
        left = waiting(self._box)
        goes_on = kind == STOP and bool(letters or owed)
        if goes_on:
            kept.prolonged, kept.fence = kept.prolonged + 1, fence
        elif kind == STOP and kept.prolonged < self._limits.turns:  # the turn is over; at the bound, the waiter rests
            kept.prolonged, kept.reminded = 0, []
        self._save()
        working = goes_on or kind in (PROMPT, TOOL) or event.source == "compact"
        kept.show_presence(event.client, notes.WORKING if working else notes.IDLE)
        others = self._others() if kind == START else ""
        return Outcome(self._text(fence, letters, more_held, left, owed, others), goes_on=goes_on, left=left)

    # Settling

    def _settle(self, kind: str) -> list[str]:
        """Ack what a model has had; at the end put it all back. Returns the ids that are owed an answer."""
        kept, owed = self._notes, []
        for id in list(kept.holds):
            if kind == PROMPT and kept.holds[id] >= kept.turn:
                continue
            if kind == STOP and self._is_owed(id):
                kept.reminded.append(id)
                owed.append(id)
                continue
            try:
                with self._mailbox().leased(id) as message:
                    if kind == END:
                        message.release()
                    else:
                        message.ack()
            except (MailboxError, LookupError):
                pass  # the agent settled it, or its lease is over
            kept.settled(id)
        return owed

    def _is_owed(self, id: str) -> bool:
        kept = self._notes
        if id not in kept.asked or id in kept.reminded or kept.prolonged >= self._limits.turns:
            return False
        return is_awaited(self._box, kept.asked[id], id) and self._is_leased(id)

    def _is_leased(self, id: str) -> bool:
        try:
            with self._mailbox().leased(id):
                return True
        except (MailboxError, LookupError):
            return False

    def _extend(self) -> None:
        kept = self._notes
        for id in list(kept.holds):
            try:
                with self._mailbox().leased(id) as message:
                    message.extend(self._limits.lease)
            except (MailboxError, LookupError):
                kept.settled(id)
        kept.until = self._clock() + self._limits.lease

    # Showing

    def _show_again(self, fence: str, room: int, letters: list[str], more_held: list[str]) -> int:
        """Add the letters of what is still held, within the limits. Returns the room that is left."""
        kept = self._notes
        for id in sorted(kept.holds):
            try:
                with self._mailbox().leased(id) as message:
                    if len(letters) >= letter.MAX_LETTERS or room < _AROUND + _LEAST:
                        more_held.append(id)
                        kept.holds[id] = kept.turn + 1
                        continue
                    kept.holds[id] = kept.turn + 1  # a model that has lost its context has not had it
                    letters.append(self._letter(message, fence, room))
                    room -= len(letters[-1]) + 1
            except (MailboxError, LookupError):
                kept.settled(id)
        return room

    def _show_new(self, kind: str, fence: str, room: int, letters: list[str]) -> None:
        turn = self._notes.turn + (kind == START)  # what is shown before the first prompt belongs to its turn
        for mailbox in self._sources(kind):
            while len(letters) < letter.MAX_LETTERS and room >= _AROUND + _LEAST:
                message = mailbox.receive()
                if message is None:
                    break
                self._claimed.append(message)
                self._note(message, turn)
                letters.append(self._letter(message, fence, room))
                room -= len(letters[-1]) + 1

    def _sources(self, kind: str) -> Iterator[Mailbox]:
        """Yield mailboxes to receive from: one that gives what is to be shown first, then one that gives the rest."""
        only_urgent = kind == TOOL and self._limits.only_urgent_in_turn
        if not has_mail(self._box):
            return
        from itertools import islice

        mailbox = self._mailbox()
        first = {message.raw for message in letter.hurried(islice(mailbox.peek("new", "later"), _EXAMINED))}
        if first:
            hurried = self._open()
            hurried._receiver.set_content_filter(first.__contains__)
            yield hurried
        if not only_urgent:
            yield mailbox

    def _note(self, message: Message[Any], turn: int) -> None:
        """Write down that it will be shown, before it is."""
        kept = self._notes
        now = self._clock()
        if not kept.holds:
            kept.until = now + self._limits.lease
        kept.holds[message.id] = turn
        waits = not (
            is_wanted(message, TAKEN) or is_wanted(message, HANDLED)
        )  # those wait for a receipt, not for words
        if message.sender and waits and is_awaited(self._box, message.sender, message.reply_id):
            kept.asked[message.id] = message.sender
        self._save()

    def _letter(self, message: Message[Any], fence: str, room: int) -> str:
        return letter.letter(
            message,
            fence,
            datetime.fromtimestamp(self._clock(), UTC),
            limit=min(letter.BODY_LIMIT, room - _AROUND),
            is_awaited=message.id in self._notes.asked,
            operator=self._limits.operator,
        )

    def _text(
        self, fence: str, letters: list[str], more_held: list[str], left: int, owed: list[str], others: str
    ) -> str:
        lines = [others] if others else []
        if letters:
            lines += [
                letter.heading(self._box.address, len(letters), fence),
                *letters,
                _HOW_TO_ANSWER,
            ]
        if more_held:
            ids = ", ".join(map(letter.short_id, more_held[:_LISTED])) + " …" * (len(more_held) > _LISTED)
            lines.append(
                f"{len(more_held)} more were shown before and are still yours: {ids}. `mailbox read ID --fenced`"
            )
        if left and letters:
            lines.append(f"{left} more wait; they come with your next steps.")
        lines += [letter.owed(id) for id in owed[: letter.MAX_LETTERS]]
        return "\n".join(lines)

    def _others(self) -> str:
        """Return a sentence if the kernel proves that another session takes mail of this box, else nothing."""
        for other in notes.sessions(self._box):
            if other["session"] != self._notes.hex and other["is_proven"]:
                name = self._box.address
                return (
                    f"Another session takes mail of `{name}` too, and each message goes to one of them; "
                    "MAILBOX_AGENT=NAME gives this one its own box."
                )
        return ""

    # Around it

    def _mailbox(self) -> Mailbox:
        return self._mailboxes[0] if self._mailboxes else self._open()

    def _open(self) -> Mailbox:
        from ..client import Mailbox

        mailbox = Mailbox(self._box.address, self._box.root.path, lease=self._limits.lease)
        self._mailboxes.append(mailbox)
        return mailbox

    def _save(self) -> None:
        self._notes.save(self._notes.until - self._limits.lease / 2)

    def _put_back(self) -> None:
        for message in self._claimed:
            with contextlib.suppress(MailboxError, OSError):
                message.release()
                self._notes.settled(message.id)
        with contextlib.suppress(OSError):
            self._save()


def is_awaited(box: Box, sender: str, id: str) -> bool:
    """Return True if *sender* blocks until the message *id* is answered. Best effort: a hint and no proof.

    A folder for the answer in the sender's box shows it, if it is the sender's own. If we may look, its lock shows as
    well that the sender lives.
    """
    from ..format.address import is_address
    from ..store.replies import waits
    from ..system.files import close
    from ..system.locks import is_held

    if not is_address(sender):
        return False
    theirs = f"{box.root.path}/{sender}"
    try:
        folder = waits(theirs, id)
    except OSError:
        return False
    if folder is None:
        return False
    close(folder)
    try:
        return is_held(f"{theirs}/cur/.{id}.lock")
    except OSError:
        return True  # another uid's box is closed to us


def waiting(box: Box) -> int:
    """Return the number of messages that wait in `new/`. Raises OSError."""
    return sum(map(is_mail, os.listdir(f"{box}/new")))
