"""Mail for several: `all`, and `team:GROUP`. Expanded by whoever delivers it: here by the sender, else by the relay.

    .mailbox    {"format": 1, "groups": {"reviewers": ["bob", "carol"]}}

Where the sender's box has an outbox, `all` and the groups that the root does not know are the relay's to expand.
"""

from __future__ import annotations

import os

from ..errors import GroupNotFoundError, NotMailError, quoted
from ..format.address import ALL, TEAM, is_address
from .layout import MARKER, OUTBOX
from .root import read_marker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .root import Box, Root


def members(to: str, sender: Box) -> list[str]:
    """Return the members of *to* without the owner of *sender*, or *to* itself if only a relay knows them.

    Raises GroupNotFoundError.
    """
    volume, own = sender.root, sender.address
    outbox = os.path.isdir(f"{sender}/{OUTBOX}")
    if to == ALL:
        if outbox:
            return [to]
        found: list[str] = [name for name in volume.boxes() if name != own]
        if not found:
            raise GroupNotFoundError(to, volume.path, "there is no other box")
        return found
    known = groups(volume)
    name = to.removeprefix(TEAM)
    if name not in known:
        if outbox:
            return [to]
        there = f"there are {', '.join(sorted(known))}" if known else "there are no groups"
        raise GroupNotFoundError(to, volume.path, f'{there}; the member "groups" of its {MARKER} file has them')
    found = [each for each in known[name] if each != own]
    if not found:
        raise GroupNotFoundError(to, volume.path, f"it has no member but {own}")
    return found


def groups(volume: Root) -> dict[str, list[str]]:
    """The groups that the root knows. Raises NotMailError where its marker has something else there."""
    said = read_marker(volume).get("groups", {})
    right = isinstance(said, dict) and all(
        is_address(name) and isinstance(each, list) and all(isinstance(one, str) and is_address(one) for one in each)
        for name, each in said.items()
    )
    if not right:
        raise NotMailError(
            f'the "groups" of {quoted(f"{volume.path}/{MARKER}")} are not as expected: '
            'an object such as {"reviewers": ["bob", "carol"]}'
        )
    return {name: list(dict.fromkeys(each)) for name, each in said.items()}
