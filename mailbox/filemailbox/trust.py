"""What proves who sent a message: nothing, a fact of the kernel, a signature, a seal.

    none     the message says so itself
    uid      the file belongs to the owner of the sender's box, and to the group of this one: facts of the kernel
    relay    the file belongs to the relay, which names the sender
    signed   a pinned key, over every byte of it
    sealed   the same, and nobody else can read it

A uid proves something only where it is one agent's, and where the root keeps agents from taking each other's places.
Mail that was addressed to somebody else, or that lay in another box, is no proof: whoever got it can hand it on. Nor
is a file that others than its owner may write: they can have put their words into it.
"""

from __future__ import annotations

import _thread  # not threading, which costs a process that only sends more to import
import errno
import os
import stat
import time

from . import names
from .errors import Invalid, Storage, Unproven, quoted, storage
from .message import decode
from .root import members as members_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
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
_ROOTS: Final = 64  # roots whose owners are remembered
_OPEN: Final = stat.S_IWGRP | stat.S_IWOTH  # others may write: with an ACL, the bits of the group are its mask
_OUR_TROUBLE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)


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


class _Owners:
    """Whose uid is whose in one root: each that is one box's alone, where nobody else can put a box in its place."""

    __slots__ = ("boxes", "groups", "names", "relay", "until")

    def __init__(self, root: Root) -> None:
        """Raises Storage where that cannot be known now, by our own trouble: it must condemn no mail."""
        self.until = time.monotonic() + _FRESH
        self.boxes: frozenset[str] = frozenset()
        self.names: dict[int, str] = {}
        """The uid → the agent whose alone it is."""
        self.groups: dict[int, int] = {}
        """A gid → how many boxes have it."""
        self.relay = -1
        """The uid of the relay."""
        try:
            top = os.stat(root.path)
            boxes = {name: facts for name in root.boxes() if (facts := _facts(root.box(name))) is not None}
        except OSError as error:
            _refuse(error)
            return  # nothing is proven
        uids = _counted(facts.st_uid for facts in boxes.values())
        self.boxes = frozenset(boxes)
        if top.st_mode & 0o022 or (top.st_uid != 0 and top.st_uid in uids and len(boxes) > 1):
            return  # an agent could take another one's place; where there is one box, the volume is its owner's
        strangers = unmapped()
        self.groups = _counted(facts.st_gid for facts in boxes.values())
        self.names = {
            facts.st_uid: name
            for name, facts in boxes.items()
            if uids[facts.st_uid] == 1 and facts.st_uid != strangers and stat.S_ISDIR(facts.st_mode)
        }
        relay = members_of(root).get("relay")
        if type(relay) is int and relay not in uids and relay != strangers:  # an agent of its uid could be everybody
            self.relay = relay


_known: dict[str, _Owners] = {}
_looking = _thread.allocate_lock()


def _owners_of(root: Root) -> _Owners:
    """The owners of a root, looked at once a second for all boxes that this process has there. Raises Storage."""
    with _looking:
        known = _known.get(root.path)
        if known is None or time.monotonic() >= known.until:
            if len(_known) >= _ROOTS:
                _known.clear()
            known = _known[root.path] = _Owners(root)
        return known


def _forget() -> None:
    """In the child of a fork: another thread may have been looking."""
    global _looking
    _looking = _thread.allocate_lock()


os.register_at_fork(after_in_child=_forget)


class Judge:
    """Tells for one box what its mail is, and what proves its sender."""

    def __init__(self, root: Root, address: Address, keyring: Keyring | None = None, require: str = NONE) -> None:
        """*require* is the least that is taken: a weaker proof makes a dead letter."""
        self._root, self._address, self._keyring = root, address, keyring
        self._require = require
        self._least = LEVELS.index(require)
        self._owners: _Owners | None = None
        self._group = -1
        self._private = False  # whether that group is this box's alone
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
            owners = self._owners
            if owners is None or time.monotonic() >= self._looked_at:  # each message comes here
                owners = self._look()
            proven = owners.names.get(facts.st_uid) == sender and self._is_closed(facts)
            trust = UID if proven and self._is_ours(members.get("to")) else NONE
        if self._least and LEVELS.index(trust) < self._least:
            raise Unproven(f"its sender is proven by {quoted(trust)}, and this box takes {self._require} or better")
        return members, trust

    def least(self, sender: str) -> str:
        """The least proof that genuine mail of *sender* has in this box: NONE where nothing can prove it.

        Raises as judge() does.
        """
        if self._keyring is not None and self._keyring.pinned(sender) is not None:
            return SIGNED
        owners = self._look()
        if sender in owners.boxes:
            return UID if self._group >= 0 and sender in owners.names.values() else NONE
        return RELAY if owners.relay >= 0 else NONE

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
        owners = self._look()
        parts = names.parse(name)
        if facts.st_uid != owners.relay or facts.st_mode & _OPEN or parts is None or parts.origin is None:
            return False
        if members.get("from") is None:
            members["from"] = parts.origin
        to = members.get("to")
        to_us = facts.st_gid == self._group and to is not None and names.is_group(to)  # the relay knows who is in it
        return members["from"] == parts.origin and (to_us or self._is_ours(to))

    def _is_ours(self, to: str | None) -> bool:
        return to == self._address if to is not None else self._private

    def _is_closed(self, facts: os.stat_result) -> bool:
        """Whether the file was made in this box, and nobody but its owner may write it now."""
        return facts.st_gid == self._group and not facts.st_mode & _OPEN

    def _look(self) -> _Owners:
        """Whose uid is whose, and what of it concerns this box. Raises Storage."""
        if self._owners is not None and time.monotonic() < self._looked_at:
            return self._owners
        owners = _owners_of(self._root)
        try:
            mine = _facts(f"{self._root.box(self._address)}/new") if owners.groups else None
        except OSError as error:
            _refuse(error)
            mine = None
        self._group = mine.st_gid if mine is not None else -1
        self._private = owners.groups.get(self._group) == 1
        self._owners, self._looked_at = owners, owners.until
        return owners


def unmapped() -> int:
    """The uid that stands for all those that have none in our user namespace; -1 where each has its own."""
    try:
        with open("/proc/self/uid_map", "rb") as uids:
            if uids.read(256).split() == [b"0", b"0", b"4294967295"]:
                return -1
        with open("/proc/sys/kernel/overflowuid", "rb") as uid:
            return int(uid.read(32))
    except (OSError, ValueError):
        return 65534


def _facts(path: str) -> os.stat_result | None:
    """What the kernel says of it; None where it is gone. Raises OSError."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _refuse(error: OSError) -> None:
    """Raise what is our own trouble: that we cannot look now must not pass for a proof that is missing."""
    if error.errno in _OUR_TROUBLE:
        raise error if isinstance(error, Storage) else storage(error, "looking whose boxes there are") from error


def _counted(numbers: Iterable[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for number in numbers:
        counts[number] = counts.get(number, 0) + 1
    return counts


def once(message: Message[Any]) -> str | None:
    """What it is known by where it may be handled only once: its key; its id where others could send it once more."""
    if message.key is not None or message.trust not in PROVEN:
        return message.key
    return message.answers_to
