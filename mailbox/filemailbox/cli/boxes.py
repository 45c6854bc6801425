"""Boxes: make them, remove them."""

import os
import sys
from typing import Annotated

from .. import names
from .. import root as roots
from ..box import DEFAULT_ROOT
from .options import Arg, Opt, owner

Root = Annotated[str | None, Opt("--root", metavar="DIR", help="The mail volume. [$MAILBOX_ROOT, else /mail]")]


def path_of(root: str | None) -> str:
    """The mail volume that is meant."""
    return root or os.environ.get("MAILBOX_ROOT") or DEFAULT_ROOT


def init_(
    name: Annotated[list[str], Arg("NAME...", "The names of the boxes.")],
    *,
    owner: Annotated[
        tuple[int, int] | None,
        Opt("--owner", metavar="UID:GID", read=owner, help="Who reads the boxes; only root can give them away."),
    ] = None,
    root: Root = None,
) -> None:
    """Make boxes, and the root where there is none.

    A box that is there already is left as it is; folders that it lacks are made.

    Examples:
      mailbox init alice bob
      mailbox init --root ./mail builder
      mailbox init --owner 2001:2001 bob
    """
    addresses = [names.address(each) for each in name]  # all of them, before anything is made
    path = path_of(root)
    if not os.path.isdir(path):
        print(f"making the root {os.path.abspath(path)}", file=sys.stderr)
    found = roots.init(path)
    for each in addresses:
        made = roots.create(found, each, owner)
        print(f"{each}: {'made' if made else 'was there'}", file=sys.stderr)


def remove_(
    name: Annotated[list[str], Arg("NAME...", "The names of the boxes.")],
    *,
    force: Annotated[bool, Opt("--force", help="Also with mail in it; the box is kept aside.")] = False,
    root: Root = None,
) -> None:
    """Remove boxes.

    A box that holds mail, or that somebody listens to, is not removed unless forced. Forced, a box with mail in it is
    moved to ROOT/.removed, and its new path is printed.

    Examples:
      mailbox remove bob
      mailbox remove --force bob
    """
    found = roots.find(path_of(root))
    for each in [names.address(each) for each in name]:
        kept = roots.remove(found, each, force)
        print(f"{each}: {'removed; its mail is kept aside' if kept else 'removed'}", file=sys.stderr)
        if kept:
            print(kept)
