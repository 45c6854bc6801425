"""Options of nearly every verb: the box, the root, and the output."""

import os

from ..environment import DEFAULT_ROOT
from ..errors import InvalidRequestError, quoted
from ..format.address import Address, parse_address
from ..trust.levels import NAMES, NONE
from .options import Annotated, Arg, Opt, one_of

Root = Annotated[str | None, Opt("--root", metavar="DIR", help="The mail volume. [$MAILBOX_ROOT, else /mail]")]
As = Annotated[str | None, Opt("--as", metavar="NAME", read=parse_address, help="Whose mail. [$MAILBOX_AGENT]")]
Json = Annotated[bool, Opt("--json", help="One line of JSON for each message.")]
JsonOut = Annotated[bool, Opt("--json", help="Print a line of JSON for each message.")]
Id = Annotated[str, Arg("ID", "Any part of an id that fits one message alone.")]
Ids = Annotated[list[str], Arg("ID...", "Any part of an id that fits one message alone.")]
MinTrust = Annotated[
    str | None,
    Opt(
        "--min-trust",
        metavar="LEVEL",
        read=one_of(*NAMES),
        values=NAMES,
        help=f"The least proof of a sender: {', '.join(NAMES)}. [$MAILBOX_MIN_TRUST, else {NONE}]",
    ),
]
Names = Annotated[list[Address], Arg("NAME...", "The names of the boxes.", read=parse_address)]


BoxName = Annotated[str | None, Arg("[NAME]", "The box. [--as, else $MAILBOX_AGENT]", read=parse_address)]


def named(name: str | None, sender: str | None) -> str | None:
    """Return the box that is meant by NAME or by --as. Raises InvalidRequestError for two different ones."""
    if name is not None and sender is not None and name != sender:
        raise InvalidRequestError(f"{quoted(name)} and --as {quoted(sender)} are two boxes, expected one")
    return name if name is not None else sender


def some_names(names: list[Address], sender: str | None) -> list[Address]:
    """Return the boxes that are meant by NAME… or by --as, which names one more."""
    return [*names, *([parse_address(sender)] if sender is not None and sender not in names else [])]


def path_of(root: str | None) -> str:
    """The mail volume that is meant."""
    return root or os.environ.get("MAILBOX_ROOT") or DEFAULT_ROOT
