"""The hook of agents' clients: hook."""

from .options import Annotated, Arg, Opt, one_of

CLIENTS = ("claude", "codex", "gemini")


def hook_(
    client: Annotated[str, Arg("CLIENT", "claude, codex or gemini.", read=one_of(*CLIENTS), values=CLIENTS)],
    event: Annotated[
        str | None, Arg("[EVENT]", "The name of the event. [as the client's JSON on standard input names it]")
    ] = None,
    *,
    rewake: Annotated[
        bool, Opt("--rewake", help="Wait for mail while the client is idle; then exit with 2, which wakes it.")
    ] = False,
) -> int:
    """Show mail to an AI agent. Its client runs this at its hooks, by `mailbox-hook`, which is faster without mail.

    It reads the client's JSON and prints the client's JSON, or nothing. The mail that it shows is leased, and acked
    when the turn has ended. Whatever goes wrong, the exit code is 0, and run/hook.log in the box has the reason.
    MAILBOX_HOOK_AT=turn keeps all but urgent mail for the end of a turn. MAILBOX_HOOK_TURNS [5] bounds how often mail
    prolongs one. MAILBOX_HOOK_LEASE [3600] is the time in seconds after which unfinished mail comes back.
    MAILBOX_OPERATOR names the agent whose proven mail is shown as the operator's.

    Examples:
      mailbox hook claude < event.json
    """
    from ..agents.hook import main

    return main(client, event, rewake=rewake)
