"""Words that people and models try for a verb, and the verbs that are meant. Read only if a verb does not exist."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Final

_MEANT: Final = {
    "list": (
        "inbox",
        "ls",
        "peek",
        "mail",
        "messages",
        "look",
        "pending",
        "unread",
        "queue",
    ),
    "receive": (
        "recv",
        "poll",
        "check",
        "get",
        "fetch",
        "pull",
        "take",
        "next",
        "pop",
        "consume",
        "dequeue",
        "new",
    ),
    "read": (
        "show",
        "cat",
        "view",
        "open",
        "print",
    ),
    "send": (
        "tell",
        "message",
        "msg",
        "post",
        "write",
        "publish",
        "put",
        "push",
        "enqueue",
        "mail-to",
        "email",
    ),
    "request": (
        "ask",
        "rpc",
        "call",
        "query",
        "question",
    ),
    "reply": (
        "answer",
        "respond",
        "re",
    ),
    "ack": (
        "done",
        "complete",
        "finish",
        "handled",
        "delete",
        "rm",
        "discard",
    ),
    "reject": (
        "fail",
        "refuse",
        "nack",
        "deny",
    ),
    "retry": (
        "requeue-later",
        "redeliver",
        "postpone",
        "defer",
        "release",
    ),
    "watch": (
        "listen",
        "subscribe",
        "follow",
        "run",
        "start",
        "serve",
        "consume-all",
        "daemon",
        "loop",
    ),
    "agents": (
        "who",
        "users",
        "peers",
        "names",
        "boxes",
        "list-agents",
        "ps",
        "directory",
        "contacts",
    ),
    "status": (
        "info",
        "stat",
        "stats",
        "state",
        "why",
        "whoami",
    ),
    "log": (
        "history",
        "transcript",
        "conversation",
        "thread",
        "search",
        "grep",
        "find",
        "sent",
    ),
    "dead list": (
        "dlq",
        "dead-letters",
        "deadletters",
        "errors",
        "failed",
        "failures",
    ),
    "dead purge": (
        "clear-dead",
        "empty-dlq",
    ),
    "init": (
        "create",
        "add",
        "register",
        "join",
        "setup",
        "make",
        "new-box",
    ),
    "remove": (
        "destroy",
        "unregister",
        "leave",
        "delete-box",
    ),
    "doctor": (
        "diagnose",
        "fix",
        "repair",
        "verify",
        "lint",
        "test",
    ),
    "gc": (
        "clean",
        "cleanup",
        "prune",
        "vacuum",
        "sweep",
    ),
    "health": (
        "ping",
        "alive",
        "healthcheck",
    ),
    "keys generate": (
        "keygen",
        "genkey",
    ),
}
_FALLBACK: Final = {"log": "list --all"}
"""The command that serves where a verb does not exist in this version."""


def meant_by(word: str, verbs: Container[str]) -> str | None:
    """Return the verb that *word* means, of those in *verbs*; None if it is no synonym."""
    for verb, synonyms in _MEANT.items():
        if word in synonyms:
            return verb if verb in verbs else _FALLBACK.get(verb)
    return _FALLBACK.get(word)
