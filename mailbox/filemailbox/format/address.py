"""Addresses: the names of boxes and groups."""

from __future__ import annotations

from ..errors import InvalidAddressError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NewType

    Address = NewType("Address", str)
else:
    Address = str
"""The name of a box, checked."""

ALL: Final = "all"
TEAM: Final = "team:"

_FIRST: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_ADDRESS: Final = _FIRST + "._-"


def parse_address(text: object) -> Address:
    """Return *text* as the address of a box. Raises InvalidAddressError, which names the expected form."""
    if isinstance(text, str) and is_address(text):
        return Address(text)
    raise InvalidAddressError(text)


def is_address(text: str) -> bool:
    """Return True if a box can have this name."""
    return 0 < len(text) <= 64 and text[0] in _FIRST and not text.strip(_ADDRESS) and text != ALL


def parse_recipient(text: str) -> str:
    """Return *text* as a recipient: an address, `all`, or `team:GROUP`. Raises InvalidAddressError."""
    return text if is_group(text) else parse_address(text)


def is_group(text: str) -> bool:
    """Return True for a name of several boxes: `all`, or `team:` and the name of a group."""
    return text == ALL or (isinstance(text, str) and text.startswith(TEAM) and is_address(text[len(TEAM) :]))
