"""The settings of agents' clients: install."""

import os

from ..agents.install import CLIENTS, Parts, advice, apply, plan
from . import output
from .common import Root, path_of
from .options import Annotated, Arg, Opt, one_of


def install_(
    client: Annotated[str, Arg("CLIENT", f"{', '.join(CLIENTS)}.", read=one_of(*CLIENTS), values=CLIENTS)],
    *,
    project: Annotated[bool, Opt("--project", help="In the files of the project in this folder. [the user's]")] = False,
    no_hooks: Annotated[bool, Opt("--no-hooks", help="Without hooks: mail does not come by itself.")] = False,
    no_mcp: Annotated[bool, Opt("--no-mcp", help="Without the MCP server and its tools.")] = False,
    no_skill: Annotated[bool, Opt("--no-skill", help="Without the skill.")] = False,
    dry_run: Annotated[bool, Opt("--dry-run", help="Print the changes as a diff; write nothing.")] = False,
    uninstall: Annotated[bool, Opt("--uninstall", help="Take it out again.")] = False,
    root: Root = None,
) -> None:
    """Set up an AI agent's client for mail: hooks, the MCP server, a skill. Prints a line for each file.

    All else in these files keeps its meaning. A file that its client could not read is left alone, with exit code 65,
    and then nothing is written. To install twice is as once. What only the user can do is printed at the end.
    MAILBOX_AGENT and MAILBOX_ROOT select the box when the client runs.

    Examples:
      mailbox install claude
      mailbox install codex --project --dry-run
      mailbox install gemini --uninstall
    """
    parts = Parts(hooks=not no_hooks, mcp=not no_mcp, skill=not no_skill)
    changes = plan(
        client, project=project, install=not uninstall, parts=parts, environment=os.environ, folder=os.getcwd()
    )
    for change in changes:
        if dry_run:
            from difflib import unified_diff

            before, after = (change.before or "").splitlines(True), change.after.splitlines(True)
            for line in unified_diff(before, after, change.path, change.path):
                print(output.escape(line.rstrip("\n")))
            continue
        apply(change)
        print(f"{output.one_line(change.path)}: {change.action}")
    if not uninstall:
        for line in advice(client, parts, path_of(root)):
            output.info(line)
