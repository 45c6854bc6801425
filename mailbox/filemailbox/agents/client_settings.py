"""The settings of agents' clients, with and without what `mailbox install` puts there. Pure: text in, text out.

JSON is read, our entries are exchanged, and all else keeps its order and its meaning. TOML is edited as text between
two marks and read before and after: the rest must mean the same. Ours are hooks whose command is `mailbox-hook`, and
the MCP server `mailbox`.
"""

from __future__ import annotations

import copy
import json
import tomllib
from typing import Any, Final

from ..errors import NotMailError, quoted

HOOK: Final = "mailbox-hook"
SERVER: Final = "mailbox"
BEGIN: Final = "# mailbox: begin (made by `mailbox install codex`)"
END: Final = "# mailbox: end"
TEXT_BEGIN: Final = "<!-- mailbox:begin -->"
TEXT_END: Final = "<!-- mailbox:end -->"
WAIT: Final = 86400
"""Seconds that the waiter of an idle Claude Code may wait."""

EVENTS: Final = {
    "claude": ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop", "SessionEnd"),
    "codex": ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop"),
    "gemini": ("SessionStart", "BeforeAgent", "AfterTool", "AfterAgent", "SessionEnd"),
}
VARIABLES: Final = (
    "MAILBOX_ROOT",
    "MAILBOX_AGENT",
    "MAILBOX_KEY_DIR",
    "MAILBOX_REGISTRY",
    "MAILBOX_MIN_TRUST",
    "MAILBOX_OPERATOR",
)
"""Variables that Codex passes on to the server."""


class SettingsError(NotMailError):
    """A file of settings is not what its client expects: nothing is written."""


def handlers(client: str, event: str) -> list[dict[str, Any]]:
    """Return our hooks for one event. They name it, so that after a tool without mail the guard starts nothing."""
    if client == "claude":
        timeout = 1 if event == "SessionEnd" else 10
        hook = {"type": "command", "command": HOOK, "args": ["claude", event], "timeout": timeout}
        if event != "Stop":
            return [hook]
        waiter = {"type": "command", "command": HOOK, "args": ["claude", "--rewake"]}
        return [hook, {**waiter, "asyncRewake": True, "timeout": WAIT}]
    if client == "codex":
        return [{"type": "command", "command": f"{HOOK} codex {event}", "timeout": 10}]
    return [{"type": "command", "name": "mailbox", "command": f"{HOOK} gemini {event}", "timeout": 10000}]


def server(client: str) -> dict[str, Any]:
    """Return our MCP server, as the client's JSON names it."""
    if client == "opencode":
        return {"type": "local", "command": ["mailbox", "mcp"], "enabled": True}
    made: dict[str, Any] = {"command": "mailbox", "args": ["mcp"]}
    if client == "gemini":  # it passes on only variables that are named
        made["env"] = {name: f"${name}" for name in ("MAILBOX_ROOT", "MAILBOX_AGENT")}
    return made


def json_settings(text: str, client: str, *, hooks: bool | None, mcp: bool | None) -> str:
    """Return the JSON *text* with our hooks and server (True), without (False), or with those it has (None).

    Returns "" if nothing but ours was there. Raises SettingsError.
    """
    try:
        settings = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise SettingsError(f"it is not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise SettingsError("it is not a JSON object")
    before = copy.deepcopy(settings)
    if hooks is not None:
        _set_hooks(settings, client, install=hooks)
    if mcp is not None:
        _set_server(settings, client, install=mcp)
    if settings == before:
        return text
    return json.dumps(settings, indent=2, ensure_ascii=False) + "\n" if settings else ""


def _set_hooks(settings: dict[str, Any], client: str, *, install: bool) -> None:
    hooks = settings.get("hooks", {})
    if not isinstance(hooks, dict) or not all(isinstance(groups, list) for groups in hooks.values()):
        raise SettingsError('its "hooks" is not an object of arrays')
    had = "hooks" in settings
    for event in list(hooks):
        groups = [_without_ours(group) for group in hooks[event]]
        kept = [group for group, touched in groups if not (touched and group.get("hooks") == [])]
        if kept or not hooks[event]:
            hooks[event] = kept
        else:
            del hooks[event]
    if install:
        for event in EVENTS[client]:
            hooks.setdefault(event, []).append({"hooks": handlers(client, event)})
    if hooks:
        settings["hooks"] = hooks
    elif had:
        del settings["hooks"]


def _without_ours(group: Any) -> tuple[Any, bool]:
    """Return a group of hooks without ours, and whether it had one."""
    if not isinstance(group, dict) or not isinstance(group.get("hooks"), list):
        return group, False
    kept = [hook for hook in group["hooks"] if not is_ours(hook)]
    return ({**group, "hooks": kept}, True) if len(kept) < len(group["hooks"]) else (group, False)


def is_ours(hook: Any) -> bool:
    """Return whether a hook runs our command."""
    command = hook.get("command") if isinstance(hook, dict) else None
    return isinstance(command, str) and command.split(" ")[0].rsplit("/", 1)[-1] == HOOK


def _set_server(settings: dict[str, Any], client: str, *, install: bool) -> None:
    key = "mcp" if client == "opencode" else "mcpServers"
    servers = settings.get(key, {})
    if not isinstance(servers, dict):
        raise SettingsError(f"its {quoted(key)} is not an object")
    there = servers.get(SERVER)
    if there is not None and not _is_our_server(there):
        raise SettingsError(f"its {quoted(key)} has a server {quoted(SERVER)} that is not ours")
    if install:
        servers[SERVER] = server(client)
        settings[key] = servers
    elif SERVER in servers:
        del servers[SERVER]
        if not servers:
            del settings[key]


def _is_our_server(there: Any) -> bool:
    if not isinstance(there, dict):
        return False
    command = there.get("command")
    words = command if isinstance(command, list) else [command, *(there.get("args") or [])]
    return [str(word).rsplit("/", 1)[-1] for word in words[:2]] == ["mailbox", "mcp"]


def toml_settings(text: str, *, install: bool) -> str:
    """Return the TOML *text* with our block or without it; all else is kept to the byte. Raises SettingsError."""
    before = _toml(text)
    plain = _without_block(text)
    rest = _toml(plain)
    if SERVER in rest.get("mcp_servers", {}):
        raise SettingsError(f"it has [mcp_servers.{SERVER}], which is not ours")
    if not install:
        return plain
    names = ", ".join(f'"{name}"' for name in VARIABLES)
    block = (
        f'{BEGIN}\n[mcp_servers.{SERVER}]\ncommand = "mailbox"\nargs = ["mcp"]\nenv_vars = [{names}]\n'
        f'default_tools_approval_mode = "approve"\n{END}\n'
    )
    gap = "\n" if plain else ""
    made = f"{plain}{gap}{block}"
    after = _toml(made)
    after.get("mcp_servers", {}).pop(SERVER, None)
    if not after.get("mcp_servers", True) and "mcp_servers" not in rest:
        del after["mcp_servers"]
    if after != rest:
        raise SettingsError("our block would change what the rest of it means")
    return text if _toml(made) == before else made


def _without_block(text: str) -> str:
    """Return *text* without our block, and without the newline that was put before it."""
    begin = text.find(BEGIN)
    if begin < 0:
        return text
    end = text.find(END, begin)
    if end < 0:
        raise SettingsError(f"it has {quoted(BEGIN)} and no {quoted(END)} after it")
    head, tail = text[:begin], text[end + len(END) :].removeprefix("\n")
    return head.removesuffix("\n") + tail


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"it is not TOML: {error}") from None


def markdown(text: str, block: str, *, install: bool) -> str:
    """Return a page of instructions with our block between its marks, or without it. Raises SettingsError."""
    begin = text.find(TEXT_BEGIN)
    end = text.find(TEXT_END, max(begin, 0))
    if (begin < 0) != (end < 0):
        raise SettingsError(f"it has one of the marks {TEXT_BEGIN} and {TEXT_END}, and not the other")
    if begin >= 0:
        tail = text[end + len(TEXT_END) :].removeprefix("\n")
        if install:
            return f"{text[:begin]}{TEXT_BEGIN}\n{block}{TEXT_END}\n{tail}"
        return text[:begin].removesuffix("\n") + tail
    if not install:
        return text
    gap = "\n" if text else ""
    return f"{text}{gap}{TEXT_BEGIN}\n{block}{TEXT_END}\n"
