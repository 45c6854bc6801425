"""The MCP server: mcp."""

from .options import Annotated, Opt


def mcp_(
    *,
    channel: Annotated[
        bool, Opt("--channel", help="Also give cues by Claude Code's channels, a preview of that client.")
    ] = False,
) -> None:
    """Serve the mail of an agent to its client by MCP, on standard input and output. The client starts it.

    Tools: mail_send, mail_check, mail_reply, mail_settle, mail_agents, mail_read, reserve. Resources: mailbox://inbox,
    with subscription, and mailbox://message/ID. A message is held until it is answered or settled, or until the next
    mail_check. If the client closes standard input, held mail goes back at once. MAILBOX_AGENT and MAILBOX_ROOT name
    the box. It needs the extra `mcp`: pip install 'filemailbox[mcp]'.

    Examples:
      claude mcp add mailbox -- mailbox mcp
    """
    from ..agents.mcp_server import serve

    serve(channel)
