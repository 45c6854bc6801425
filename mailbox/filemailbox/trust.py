"""What proves who sent a message: nothing, a fact of the kernel, a signature, a seal.

    none     the message says so itself
    uid      the file belongs to the owner of the sender's box, and to the group of this one: facts of the kernel
    relay    the file belongs to the relay, which names the sender
    signed   a pinned key, over every byte of it
    sealed   the same, and nobody else can read it

A uid proves something only where it is one agent's, and where the root keeps agents from taking each other's places.
Mail that was addressed to somebody else, or that lay in another box, is no proof: whoever got it can hand it on.
"""

from __future__ import annotations

import os
import stat
import time

from . import names
from .errors import Invalid, Unproven, quoted
from .message import decode
from .root import members as members_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from .keys import Keyring
    from .message import Message
    from .names import Address
    from .root import Root

NONE: Final = "none"
UID: Final = "uid"
RELAY: Final = "relay"
SIGNED: Final = "signed"
SEALED: Final = "sealed"
LEVELS: Final = (NONE, UID, RELAY, SIGNED, SEALED)
PROVEN: Final = frozenset((SIGNED, SEALED))
"""Proven by a key: what is handed on unchanged is still proven, so that it must be seen to be no replay."""

_FRESH: Final = 1.0  # seconds for which the owners of the boxes are believed to be the same


def level(require: str, keys: bool) -> str:
    """*require*, checked. Raises Invalid where it is no proof that we know, or where without *keys* none would do."""
    if require not in LEVELS:
        raise Invalid(f"require= is {quoted(require)}, expected one of {', '.join(LEVELS)}")
    if require in PROVEN and not keys:
        raise Invalid(
            f"require= is {quoted(require)}, and no keys are known: all mail would be refused. "
            "Name them: keys= or MAILBOX_KEYS, registry= or MAILBOX_REGISTRY"
        )
    return require


class Judge:
    """Tells for one box what its mail is, and what proves its sender."""

    def __init__(self, root: Root, address: Address, keyring: Keyring | None = None, require: str = NONE) -> None:
        """*require* is the least that is taken: a weaker proof makes a dead letter."""
        self._root, self._address, self._keyring = root, address, keyring
        self._require = require
        self._least = LEVELS.index(require)
        self._owners: dict[int, str] = {}
        self._group = -1
        self._private = False  # whether that group is this box's alone
        self._relay = -1  # the uid of the relay
        self._looked_at = 0.0
        self._opened: tuple[bytes, dict[str, Any]] | None = None

    @property
    def has_key(self) -> bool:
        """Whether there is a private key of ours."""
        return self._keyring is not None and self._keyring.has_own

    def judge(self, data: bytes, facts: os.stat_result, name: str) -> tuple[dict[str, Any], str]:
        """The members of the message *data*, opened where it was sealed, and what proves its sender.

        *facts* are what the kernel says of its file, which has this *name*. Raises Malformed for what is no message,
        Unproven for one that claims more than it can prove, or less than this box takes; UnsafeKey and its kin where
        our own keys or pins cannot be used: that condemns no mail.
        """
        members = decode(data)
        if members.get("sealed").__class__ is dict:
            return self._open(data), SEALED
        carried = ",F=" in name and self._carried(members, facts, name)
        sender = members.get("from")
        if sender is None:
            trust = NONE
        elif self._keyring is not None and self._keyring.pinned(sender) is not None:
            return self._verify(data, members, sender), SIGNED
        elif carried:
            trust = RELAY
        else:
            if time.monotonic() >= self._looked_at:
                self._look()
            proven = self._owners.get(facts.st_uid) == sender and facts.st_gid == self._group
            trust = UID if proven and self._is_ours(members.get("to")) else NONE
        if self._least and LEVELS.index(trust) < self._least:
            raise Unproven(f"its sender is proven by {quoted(trust)}, and this box takes {self._require} or better")
        return members, trust

    def type_of(self, data: bytes) -> str | None:
        """The type of the message *data*, which for sealed mail stands inside. Raises as judge() does."""
        members = decode(data)
        if members.get("sealed").__class__ is dict:
            members = self._open(data)
            self._opened = data, members  # it is judged next
        kind: str | None = members.get("type")
        return kind

    def _open(self, data: bytes) -> dict[str, Any]:
        from . import seal

        opened, self._opened = self._opened, None
        if opened is not None and opened[0] is data:
            return opened[1]
        if self._keyring is None or not self._keyring.has_own:
            raise Unproven(
                "it is sealed, and there is no key to open it: MAILBOX_KEYS names the folder with "
                f"{quoted(f'{self._address}.key')}"
            )
        return seal.open_(data, self._address, self._keyring.own().boxes, self._keyring.identity)[1]

    def _verify(self, data: bytes, members: dict[str, Any], sender: str) -> dict[str, Any]:
        from . import seal

        assert self._keyring is not None
        if "sig" not in members or "body" not in members:
            raise Unproven(f"it is not signed, and a key of {quoted(sender)} is pinned: anybody can have written it")
        if self._require == SEALED:
            raise Unproven(f"it is signed, and this box takes only what is {SEALED}")
        return seal.verified(data, self._address, self._keyring.identity)

    def _carried(self, members: dict[str, Any], facts: os.stat_result, name: str) -> bool:
        """Whether the relay has put it here, who names the sender in `F=`; then that is who sent it."""
        if time.monotonic() >= self._looked_at:
            self._look()
        parts = names.parse(name)
        if facts.st_uid != self._relay or parts is None or parts.origin is None:
            return False
        if members.get("from") is None:
            members["from"] = parts.origin
        to = members.get("to")
        to_us = facts.st_gid == self._group and to is not None and names.is_group(to)  # the relay knows who is in it
        return members["from"] == parts.origin and (to_us or self._is_ours(to))

    def _is_ours(self, to: str | None) -> bool:
        return to == self._address if to is not None else self._private

    def _look(self) -> None:
        """Find out whose uid is whose: each that is one box's alone, where nobody else can put a box in its place."""
        self._looked_at = time.monotonic() + _FRESH
        self._owners, self._group, self._private, self._relay = {}, -1, False, -1
        try:
            root = os.stat(self._root.path)
            boxes = {name: os.lstat(self._root.box(name)) for name in self._root.boxes()}
            mine = os.lstat(f"{self._root.box(self._address)}/new")
        except OSError:
            return  # nothing is proven
        uids = [facts.st_uid for facts in boxes.values()]
        alone = len(boxes) == 1 and root.st_uid == mine.st_uid  # a private volume
        if root.st_mode & 0o022 or (root.st_uid != 0 and root.st_uid in uids and not alone):
            return  # an agent could take another one's place
        self._owners = {
            facts.st_uid: name
            for name, facts in boxes.items()
            if uids.count(facts.st_uid) == 1 and stat.S_ISDIR(facts.st_mode)
        }
        relay = members_of(self._root).get("relay")
        if type(relay) is int and relay not in uids:  # an agent of its uid could be everybody
            self._relay = relay
        self._group = mine.st_gid
        self._private = [facts.st_gid for facts in boxes.values()].count(mine.st_gid) == 1


def once(message: Message[Any]) -> str | None:
    """What it is known by where it may be handled only once: its key; its id where others could send it once more."""
    if message.key is not None or message.trust not in PROVEN:
        return message.key
    return message.answers_to
