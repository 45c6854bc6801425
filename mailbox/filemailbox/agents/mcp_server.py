"""The server of `mailbox mcp`: the Model Context Protocol on standard input and output, by the official SDK.

It serves whatever revision the client opens with. A client that subscribes to `mailbox://inbox` gets a cue when mail
has come: one for a burst, and while the agent takes none, again after 15 s, 1 min, 4 min, then every 15 min. A cue is
not mail, which no client would acknowledge.

The SDK takes long to import: it builds a model of every message of two revisions, and brings web servers and an HTTP
client along. load_sdk() leaves out the last two.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import signal
import sys
import types as modules
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from ..errors import MailboxError
from . import tools
from .post import Post, check, sentence

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

INBOX: Final = "mailbox://inbox"
MESSAGE: Final = "mailbox://message/"
_LOOK: Final = 0.25
"""Seconds between two looks whether mail of which the client has a cue was taken."""

_AGAIN: Final = (15.0, 60.0, 240.0, 900.0)
"""Seconds until the next cue, while no mail is taken."""

_PROGRESS: Final = 5.0
"""Seconds between two reports of progress of a call that waits."""

_RETRY_ROOT: Final = 2.0
"""Seconds until the next try to watch a box that is not there yet."""


def load_sdk() -> None:
    """Import the SDK, if nothing else has: without its client and its web servers, which stdio does not need.

    Two packages of the SDK import these in their `__init__`; they stand in here as packages without one, and the
    garbage collector is off meanwhile. A server started so needs 0.86 s and 56 MB where the barest one of the SDK needs
    1.04 s and 67 MB (medians of 7 on a busy machine). Raises MailboxError if the SDK is not installed; falls back to a
    plain import.
    """
    if "mcp" in sys.modules:
        return
    spec = importlib.util.find_spec("mcp")
    if spec is None or not spec.submodule_search_locations:
        raise MailboxError("the MCP server needs the library mcp", hint="`pip install 'filemailbox[mcp]'` installs it")
    (folder, *_) = spec.submodule_search_locations
    for name in ("mcp", "mcp.server"):
        package = modules.ModuleType(name)
        package.__path__ = [os.path.join(folder, *name.split(".")[1:])]
        sys.modules[name] = package
    enabled = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("mcp.server.lowlevel.server")
    except Exception:  # noqa: BLE001  # another version of the SDK, with other parts: it loads as it likes
        for name in [each for each in sys.modules if each.split(".")[0] == "mcp"]:
            del sys.modules[name]
        importlib.import_module("mcp.server.lowlevel.server")
    finally:
        if enabled:
            gc.enable()
            gc.freeze()


def serve(channel: bool = False) -> None:
    """Serve one client until it closes standard input. Then what it held goes back, the attempt not counted."""
    load_sdk()
    import anyio

    post = Post(os.environ)
    try:
        anyio.run(_Server(post, channel).run)
    finally:
        post.close()
    os._exit(0)  # a thread that waits for mail would keep the process for a minute


class _Server:
    """The handlers of the protocol, over one Post."""

    def __init__(self, post: Post, channel: bool) -> None:
        from mcp.server.lowlevel.server import Server
        from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler

        from .. import __version__

        self._post, self._channel = post, channel
        self._session: Any = None
        self._subscriber: Any = None
        self._bus = InMemorySubscriptionBus()
        self._server = Server(
            "mailbox",
            version=__version__,
            instructions=tools.INSTRUCTIONS.format(name=post.name),
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
            on_subscribe_resource=self._subscribe,
            on_unsubscribe_resource=self._unsubscribe,
            on_subscriptions_listen=ListenHandler(self._bus),
            on_list_prompts=self._list_prompts,
            on_get_prompt=self._get_prompt,
        )
        import mcp_types

        self._types = mcp_types
        self._server.add_notification_handler(
            "notifications/initialized", mcp_types.NotificationParams, self._initialized
        )
        self._schemas = {tool["name"]: tool["inputSchema"] for tool in tools.TOOLS}

    async def run(self) -> None:
        """Serve until the client leaves, or SIGTERM or SIGINT asks to stop."""
        import anyio
        from mcp.server.stdio import stdio_server

        experimental: dict[str, dict[str, Any]] = {"claude/channel": {}} if self._channel else {}
        options = self._server.create_initialization_options(experimental_capabilities=experimental)
        async with anyio.create_task_group() as group:
            group.start_soon(self._stop_on_signal)
            group.start_soon(self._watch)
            async with stdio_server() as (read, write):
                await self._server.run(read, write, options)
            group.cancel_scope.cancel()

    async def _stop_on_signal(self) -> None:
        import anyio

        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                self._post.close()
                os._exit(0)  # the thread that reads standard input would keep the process until its next line

    # Tools

    async def _list_tools(self, _context: Any, _params: Any) -> Any:
        listed = [self._types.Tool.model_validate(tool) for tool in tools.TOOLS]
        return self._types.ListToolsResult(tools=listed)

    async def _call_tool(self, context: Any, params: Any) -> Any:
        from mcp.shared.exceptions import MCPError

        schema = self._schemas.get(params.name)
        if schema is None:
            names = ", ".join(self._schemas)
            raise MCPError(self._types.INVALID_PARAMS, f"there is no tool {params.name!r}: expected one of {names}")
        arguments = params.arguments or {}
        try:
            check(arguments, schema)
            async with self._progress(context, bool(arguments.get("wait_s"))):
                result = await self._post.call(params.name, arguments)
        except MailboxError as error:
            return self._text(sentence(error), is_error=True)
        return self._text(result.text, _meta={"mailbox/result": result.data})

    def _text(self, text: str, **more: Any) -> Any:
        return self._types.CallToolResult(content=[self._types.TextContent(type="text", text=text)], **more)

    @asynccontextmanager
    async def _progress(self, context: Any, waits: bool) -> AsyncIterator[None]:
        """Report progress while a call waits, if the client has asked for it: else it may give up."""
        if not waits:
            yield
            return
        import anyio

        async def report() -> None:
            seconds = 0.0
            while True:
                await anyio.sleep(_PROGRESS)
                seconds += _PROGRESS
                with suppress(Exception):
                    await context.session.report_progress(seconds, tools.MAX_WAIT, "waiting for mail")

        failure: MailboxError | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(report)
            try:
                yield
            except MailboxError as error:  # a task group would wrap it
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    # Resources and the prompt

    async def _list_resources(self, _context: Any, _params: Any) -> Any:
        inbox = self._types.Resource(uri=INBOX, name="inbox", title="Mail that waits", mime_type="application/json")
        return self._types.ListResourcesResult(resources=[inbox])

    async def _list_templates(self, _context: Any, _params: Any) -> Any:
        message = self._types.ResourceTemplate(
            uri_template=MESSAGE + "{id}", name="message", title="One message", mime_type="text/plain"
        )
        return self._types.ListResourceTemplatesResult(resource_templates=[message])

    async def _read_resource(self, _context: Any, params: Any) -> Any:
        from mcp.shared.exceptions import MCPError

        uri = str(params.uri)
        try:
            if uri == INBOX:
                import json

                text, kind = json.dumps(self._post.inbox(), ensure_ascii=True, default=str), "application/json"
            elif uri.startswith(MESSAGE) and len(uri) > len(MESSAGE):
                result = await self._post.call("mail_read", {"id": uri.removeprefix(MESSAGE), "limit": 20000})
                text, kind = result.text, "text/plain"
            else:
                expected = f"expected {INBOX} or {MESSAGE}ID"
                raise MCPError(self._types.INVALID_PARAMS, f"there is no resource {uri!r}: {expected}")
        except MailboxError as error:
            raise MCPError(self._types.INVALID_PARAMS, sentence(error)) from error
        contents: list[Any] = [self._types.TextResourceContents(uri=uri, mime_type=kind, text=text)]
        return self._types.ReadResourceResult(contents=contents)

    async def _subscribe(self, context: Any, params: Any) -> Any:
        if str(params.uri) == INBOX:
            self._subscriber = context.session
        return self._types.EmptyResult()

    async def _unsubscribe(self, _context: Any, params: Any) -> Any:
        if str(params.uri) == INBOX:
            self._subscriber = None
        return self._types.EmptyResult()

    async def _list_prompts(self, _context: Any, _params: Any) -> Any:
        prompt = self._types.Prompt(
            name="inbox", title="Work through the mail", description="Check the mail and handle each message."
        )
        return self._types.ListPromptsResult(prompts=[prompt])

    async def _get_prompt(self, _context: Any, params: Any) -> Any:
        from mcp.shared.exceptions import MCPError

        if params.name != "inbox":
            raise MCPError(self._types.INVALID_PARAMS, f"there is no prompt {params.name!r}: expected inbox")
        content = self._types.TextContent(type="text", text=tools.PROMPT)
        return self._types.GetPromptResult(messages=[self._types.PromptMessage(role="user", content=content)])

    async def _initialized(self, context: Any, _params: Any) -> None:
        self._session = context.session

    # Cues

    async def _watch(self) -> None:
        """Give a cue when mail comes, and again, more and more rarely, while none of it is taken."""
        import anyio

        from ..client import Mailbox

        while True:
            try:
                with Mailbox(self._post.box.name, self._post.box.root.path) as box:
                    await self._watch_box(box)
            except (MailboxError, OSError):  # the root or the box may come later
                await anyio.sleep(_RETRY_ROOT)

    async def _watch_box(self, box: Any) -> None:
        import anyio
        from anyio import to_thread

        while True:
            if not await to_thread.run_sync(box.wait, 60.0, abandon_on_cancel=True):
                continue
            seen = self._post.waiting()
            for pause in (*_AGAIN, *[_AGAIN[-1]] * 96):
                await self._cue()
                if await self._was_taken(seen, anyio.current_time() + pause):
                    break
                seen = self._post.waiting()

    async def _was_taken(self, seen: int, until: float) -> bool:
        """Wait until the number of waiting messages falls, or until that time. Return whether it fell."""
        import anyio

        while anyio.current_time() < until:
            await anyio.sleep(_LOOK)
            count = self._post.waiting()
            if count < seen or not count:
                return True
            seen = count
        return False

    async def _cue(self) -> None:
        from mcp.shared.subscriptions import ResourceUpdated

        await self._bus.publish(ResourceUpdated(INBOX))
        if self._subscriber is not None:
            await self._subscriber.send_resource_updated(INBOX)
        if self._channel and self._session is not None:
            count = self._post.waiting()
            text = f"{count} message{'s' * (count != 1)} wait{'s' * (count == 1)}: mail_check gives mail."
            params = {"content": text, "meta": {"waiting": str(count)}}
            cue: Any = getattr(self._types, "Notification")[dict[str, Any], str]  # noqa: B009  # a generic model
            await self._session.send_notification(cue(method="notifications/claude/channel", params=params))
