"""The work of the tools of `mailbox mcp`, in one session of a client, without the protocol.

A message is held from mail_check until it is answered, settled, or handled by the next mail_check: an agent that only
reads makes no further call. close() puts back what is held, the attempt not counted. If the process is killed, its
mail comes back as the next attempt. No lease is used.

Every text of another agent goes through `letter`: a model sees it fenced and escaped.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from ..client import Mailbox
from ..environment import own_name, root_path
from ..errors import InvalidRequestError, MailboxError, MessageNotFoundError, RefusedError, quoted
from ..store.ids import new_id
from . import letter, reservations
from .session import is_awaited, waiting

if TYPE_CHECKING:
    import os

    from ..receive.message import Message

INBOX_LIMIT: Final = 50
"""Messages that the resource `mailbox://inbox` lists."""


class Result:
    """The result of a tool: the text for the model, and the same as data for programs."""

    __slots__ = ("data", "text")

    def __init__(self, text: str, data: dict[str, Any]) -> None:
        self.text, self.data = text, data


class Post:
    """The mail of one agent, as its model handles it. Used by one event loop."""

    def __init__(self, environment: dict[str, str] | os._Environ[str]) -> None:
        self._environment = environment
        self._box: Mailbox | None = None
        self._held: dict[str, Message[Any]] = {}

    @property
    def name(self) -> str:
        """The name of the agent, or what to set if there is none."""
        name = self._environment.get("MAILBOX_AGENT", "")
        return letter.one_line(name, 64) if name else "(set MAILBOX_AGENT)"

    @property
    def box(self) -> Mailbox:
        """The mailbox, opened at its first use: the root may come later. Raises MailboxError."""
        if self._box is None:
            self._box = Mailbox(own_name(), root_path(None))
        return self._box

    def close(self) -> None:
        """Put back what is held, the attempt not counted."""
        self._held.clear()
        if self._box is not None:
            self._box.close()

    async def call(self, tool: str, arguments: dict[str, Any]) -> Result:
        """Run a tool. Raises MailboxError with a sentence that the model can act on."""
        found: Result = await getattr(self, f"_{tool}")(**arguments)
        return found

    async def _mail_send(self, to: str, body: str, wait_s: float = 0, **options: Any) -> Result:
        options = {name: value for name, value in options.items() if value}
        if not wait_s:
            id = await self.box.asend(to, body, **options)
            return Result(f"Sent to {letter.one_line(to, 64)} as {id}.", {"id": id, "to": to})
        id = new_id()
        try:
            answer = await self.box.arequest(to, body, timeout=wait_s, id=id, **options)
        except TimeoutError as error:
            text = f"Sent as {id}. {letter.one_line(str(error), 500)}. An answer that comes later is ordinary mail."
            return Result(text, {"id": id, "to": to, "timed_out": True})
        except RefusedError as error:
            reason = letter.one_line(error.reason, 500)
            return Result(f"Sent as {id}. Rejected: {reason}", {"id": id, "to": to, "rejected": error.reason})
        fence = letter.new_fence()
        text = f"Sent as {id}. {letter.heading(self.name, 1, fence)}\n{self._letter(answer, fence)}"
        return Result(text, {"id": id, "to": to, "answer": facts(answer)})

    async def _mail_check(self, limit: int = 5, wait_s: float = 0) -> Result:
        for message in self._held.values():
            message.ack()
        self._held.clear()
        fence = letter.new_fence()
        letters: list[str] = []
        taken: list[Message[Any]] = []
        room = letter.EVENT_LIMIT
        try:
            while len(taken) < limit and room > 0:
                found = await self.box.areceive(wait_s if not taken else 0)
                if found is None:
                    break
                taken.append(found)
                shown = self._letter(found, fence, min(letter.BODY_LIMIT, max(200, room)))
                letters.append(shown)
                room -= len(shown)
        except BaseException:
            for message in taken:
                message.release()
            raise
        self._held.update({message.id: message for message in taken})
        left = waiting(self.box._box)
        if not taken:
            return Result("No mail.", {"messages": [], "waiting": left})
        lines = [letter.heading(self.name, len(taken), fence), *letters]
        if left:
            lines.append(f"{left} more {'waits' if left == 1 else 'wait'}: mail_check gives them.")
        return Result("\n".join(lines), {"messages": [facts(message) for message in taken], "waiting": left})

    async def _mail_reply(self, id: str, body: str) -> Result:
        message = self._one(id)
        answer = await message.areply(body)
        message.ack()
        self._held.pop(message.id, None)
        to = message.sender or ""
        return Result(f"Answered {letter.one_line(to, 64)} as {answer}.", {"id": answer, "to": to})

    async def _mail_settle(
        self, ids: list[str], outcome: str, after_s: float | None = None, reason: str | None = None
    ) -> Result:
        settled: list[str] = []
        errors: dict[str, str] = {}
        for part in ids:
            try:
                message = self._one(part)
                if outcome == "ack":
                    message.ack()
                elif outcome == "retry":
                    message.retry(after_s, reason or "put back by the agent")
                else:
                    message.reject(reason or "rejected by the agent")
            except MailboxError as error:
                errors[part] = str(error)
                continue
            self._held.pop(message.id, None)
            settled.append(message.id)
        lines = [f"{outcome}: {', '.join(map(letter.short_id, settled)) or 'none'}."]
        lines += [letter.one_line(error, 500) for error in errors.values()]
        return Result("\n".join(lines), {"settled": settled, "errors": errors})

    async def _mail_agents(self) -> Result:
        from ..ops import inventory
        from .notes import sessions

        found: list[dict[str, Any]] = []
        for each in inventory.all_boxes(self.box.root):
            doing = sorted({str(session["doing"]) for session in sessions(self.box.root.box(each.name))})
            record: dict[str, Any] = {
                "name": each.name,
                "listening": each.has_listener,
                "doing": doing,
                "waiting": each.waiting,
            }
            found.append({name: value for name, value in record.items() if value not in (None, [])})
        lines = [f"You are {self.name}."]
        for agent in found:
            notes = ["listens" if agent.get("listening") else "does not listen", *agent.get("doing", [])]
            if agent.get("waiting") is not None:
                notes.append(f"{agent['waiting']} waiting")
            lines.append(letter.one_line(f"{agent['name']}: {', '.join(notes)}", 200))
        return Result("\n".join(lines), {"you": self.name, "agents": found})

    async def _mail_read(self, id: str, offset: int = 0, limit: int = 8000) -> Result:
        message = self.find(id)
        fence = letter.new_fence()
        text = f"{letter.heading(self.name, 1, fence)}\n{self._letter(message, fence, max(limit, 10), offset)}"
        return Result(text, {"id": message.id, "offset": offset, "characters": len(letter.body_text(message))})

    async def _reserve(
        self, patterns: list[str] | None = None, for_s: float = 3600, why: str = "", release: bool = False
    ) -> Result:
        if release:
            gone = reservations.release(self.box, patterns or None)
            return Result(f"Released: {', '.join(gone) or 'none'}.", {"released": gone})
        if patterns:
            found = reservations.reserve(self.box, patterns, for_s, why)
            text = f"Reserved until {found[0].until:%Y-%m-%dT%H:%M:%SZ}: {', '.join(each.pattern for each in found)}."
            return Result(text, {"reserved": [each.as_dict() for each in found]})
        found = reservations.reservations(self.box)
        lines = [
            letter.one_line(f"{each}; {'unproven' if each.trust == 'none' else each.trust}", 500) for each in found
        ]
        return Result("\n".join(lines) or "No files are reserved.", {"reserved": [each.as_dict() for each in found]})

    # Resources

    def inbox(self) -> list[dict[str, Any]]:
        """Return the messages that wait, without their bodies. Raises MailboxError."""
        listed = []
        for message in self.box.peek("new"):
            listed.append({name: value for name, value in facts(message).items() if name != "body"})
            if len(listed) == INBOX_LIMIT:
                break
        return listed

    def find(self, id: str) -> Message[Any]:
        """Return a message of this box, held or not, without taking it. Raises MessageNotFoundError."""
        held = [message for each, message in self._held.items() if id and id in each]
        return held[0] if len(held) == 1 else self.box.find(id)

    def waiting(self) -> int:
        """Return the number of messages that wait. Raises MailboxError."""
        return waiting(self.box._box)

    # Within

    def _one(self, part: str) -> Message[Any]:
        found = [message for id, message in self._held.items() if part and part in id]
        if len(found) == 1:
            return found[0]
        there = ", ".join(map(letter.short_id, self._held)) or "none"
        if found:
            raise MessageNotFoundError(f"{quoted(part)} fits {len(found)} of the messages that are held: {there}")
        raise MessageNotFoundError(
            f"{quoted(part)} fits none of the messages that are held: {there}", hint="mail_check gives messages"
        )

    def _letter(self, message: Message[Any], fence: str, limit: int = letter.BODY_LIMIT, offset: int = 0) -> str:
        sender = message.sender or ""
        return letter.letter(
            message,
            fence,
            datetime.now(UTC),
            offset=offset,
            limit=limit,
            is_awaited=bool(sender) and is_awaited(self.box._box, sender, message.reply_id),
            operator=self._environment.get("MAILBOX_OPERATOR"),
            read_more=lambda part, at: f'mail_read id="{letter.short_id(part)}" offset={at}',
        )


def facts(message: Message[Any]) -> dict[str, Any]:
    """Return a message as data for programs."""
    found = {
        "id": message.id,
        "from": message.sender,
        "trust": message.trust,
        "type": message.type,
        "subject": message.subject,
        "thread": message.thread,
        "in_reply_to": message.in_reply_to,
        "attempt": message.attempt,
    }
    return {**{name: value for name, value in found.items() if value is not None}, "body": message.body}


def sentence(error: MailboxError) -> str:
    """Return an error as text for a model: the sentence and the hint, escaped."""
    hint = f"\nhint: {error.hint}" if error.hint else ""
    return letter.escape(f"{error}{hint}")


def check(arguments: dict[str, Any], schema: dict[str, Any]) -> None:
    """Check the arguments of a tool against its schema. Raises InvalidRequestError that names the wrong one."""
    import jsonschema

    error = next(iter(jsonschema.Draft202012Validator(schema).iter_errors(arguments)), None)
    if error is not None:
        where = ".".join(map(str, error.absolute_path))
        raise InvalidRequestError(f"{f'{quoted(where)}: ' if where else ''}{letter.one_line(error.message, 300)}")
