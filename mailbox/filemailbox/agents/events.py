"""The events of agents' clients: their JSON in, their JSON out. Pure.

    kind    Claude Code, Codex           Gemini CLI
    start   SessionStart                 SessionStart
    prompt  UserPromptSubmit             BeforeAgent
    tool    PostToolUse                  AfterTool
    stop    Stop                         AfterAgent
    end     SessionEnd                   SessionEnd

Unknown members are ignored. A subagent has no box: its events are of no kind.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

CLIENTS: Final = ("claude", "codex", "gemini")

START: Final = "start"
PROMPT: Final = "prompt"
TOOL: Final = "tool"
STOP: Final = "stop"
END: Final = "end"

KINDS: Final = {
    "SessionStart": START,
    "UserPromptSubmit": PROMPT,
    "BeforeAgent": PROMPT,
    "PostToolUse": TOOL,
    "PostToolUseFailure": TOOL,
    "PostToolBatch": TOOL,
    "AfterTool": TOOL,
    "Stop": STOP,
    "AfterAgent": STOP,
    "SessionEnd": END,
}
"""The kind of each event of a client."""

_STRICT: Final = ("codex",)
"""Clients that refuse members they do not know, such as `systemMessage`."""


class Event:
    """One event of a client."""

    __slots__ = ("client", "kind", "name", "prompt", "session_id", "source")

    def __init__(self, client: str, name: str, kind: str, session_id: str, source: str = "", prompt: str = "") -> None:
        self.client, self.name, self.kind, self.session_id = client, name, kind, session_id
        self.source = source
        """The reason for a start: startup, resume, clear, compact."""
        self.prompt = prompt
        """The text of a prompt."""


def parse_event(client: str, given: Any, name: str | None = None, session_id: str | None = None) -> Event | None:
    """Return the event that the client's JSON *given* describes; None if there is nothing to do.

    *name* is the event that the settings name, *session_id* a session for clients that give none.
    """
    members = given if isinstance(given, dict) else {}
    if members.get("agent_id"):
        return None
    name = _text(members.get("hook_event_name")) or name or ""
    kind = KINDS.get(name)
    session_id = _text(members.get("session_id")) or session_id
    if kind is None or not session_id:
        return None
    return Event(client, name, kind, session_id, _text(members.get("source")), _text(members.get("prompt")))


def answer(event: Event, text: str, *, goes_on: bool, left: int) -> dict[str, Any] | None:
    """Return the JSON that the client expects; None if nothing is to be printed."""
    if event.kind == STOP:
        if goes_on:
            return {"decision": "deny" if event.client == "gemini" else "block", "reason": text}
        if left and event.client not in _STRICT:
            waits = "1 message waits" if left == 1 else f"{left} messages wait"
            return {"systemMessage": f"mailbox: {waits} for the next prompt"}
        return None
    if event.kind == END or not text:
        return None
    return {"hookSpecificOutput": {"hookEventName": event.name, "additionalContext": text}}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
