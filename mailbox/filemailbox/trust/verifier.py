"""The verifier: reads a message and proves its sender."""

from __future__ import annotations

import os
import stat
import time

from ..errors import UnverifiedSenderError, quoted
from ..format.address import is_group
from ..format.envelope import decode
from ..format.filename import parse_filename
from .levels import NONE, RELAY, SEALED, SIGNED, UID, rank
from .owners import BoxOwners, owners_of, raise_our_trouble, stat_box

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from ..format.address import Address
    from ..store.root import Root
    from .keyring import Keyring
    from .owners import Clock

_OPEN: Final = stat.S_IWGRP | stat.S_IWOTH  # others may write: with an ACL, the bits of the group are its mask


class Verifier:
    """Tells for one box what its mail is, and what proves its sender."""

    def __init__(
        self,
        root: Root,
        address: Address,
        keyring: Keyring | None = None,
        min_trust: str = NONE,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        """*min_trust* is the least that is taken: a weaker proof makes a dead letter."""
        self._root, self._address, self._keyring = root, address, keyring
        self._min_trust = min_trust
        self._clock = clock
        self._least = rank(min_trust)
        self._owners: BoxOwners | None = None
        self._group = -1
        self._private = False  # whether that group is this box's alone
        self._looked_at = 0.0
        self._opened: tuple[bytes, dict[str, Any]] | None = None

    @property
    def has_key(self) -> bool:
        """Whether there is a private key of ours."""
        return self._keyring is not None and self._keyring.has_own

    def verify(self, data: bytes, facts: os.stat_result, name: str) -> tuple[dict[str, Any], str]:
        """The members of the message *data*, opened where it was sealed, and what proves its sender.

        *facts* are what the kernel says of its file, which has this *name*. Raises Malformed for what is no message,
        UnverifiedSenderError for one that claims more than it can prove, or less than this box takes;
        InsecureKeyFileError and its kin where
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
            if owners is None or self._clock() >= self._looked_at:  # each message comes here
                owners = self._look()
            proven = owners.names.get(facts.st_uid) == sender and self._is_closed(facts)
            trust = UID if proven and self._is_ours(members.get("to")) else NONE
        if self._least and rank(trust) < self._least:
            raise UnverifiedSenderError(
                f"its sender is proven by {quoted(trust)}, and this box takes {self._min_trust} or better"
            )
        return members, trust

    def least(self, sender: str) -> str:
        """The least proof that genuine mail of *sender* has in this box: NONE where nothing can prove it.

        Raises as verify() does.
        """
        if self._keyring is not None and self._keyring.pinned(sender) is not None:
            return SIGNED
        owners = self._look()
        if sender in owners.boxes:
            return UID if self._group >= 0 and sender in owners.names.values() else NONE
        return RELAY if owners.relay >= 0 else NONE

    def type_of(self, data: bytes) -> str | None:
        """The type of the message *data*, which for sealed mail stands inside. Raises as verify() does."""
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
            raise UnverifiedSenderError(
                "it is sealed, and there is no key to open it: MAILBOX_KEY_DIR names the folder with "
                f"{quoted(f'{self._address}.key')}"
            )
        return seal.unseal(data, self._address, self._keyring.own().encryption_keys, self._keyring.signing_key)[1]

    def _verify(self, data: bytes, members: dict[str, Any], sender: str) -> dict[str, Any]:
        from . import seal

        assert self._keyring is not None
        if "sig" not in members or "body" not in members:
            raise UnverifiedSenderError(
                f"it is not signed, and a key of {quoted(sender)} is pinned: anybody can have written it"
            )
        if self._min_trust == SEALED:
            raise UnverifiedSenderError(f"it is signed, and this box takes only what is {SEALED}")
        return seal.verified(data, self._address, self._keyring.signing_key)

    def _carried(self, members: dict[str, Any], facts: os.stat_result, name: str) -> bool:
        """Whether the relay has put it here, who names the sender in `F=`; then that is who sent it."""
        owners = self._look()
        parts = parse_filename(name)
        if facts.st_uid != owners.relay or facts.st_mode & _OPEN or parts is None or parts.origin is None:
            return False
        if members.get("from") is None:
            members["from"] = parts.origin
        to = members.get("to")
        to_us = facts.st_gid == self._group and to is not None and is_group(to)  # the relay knows who is in it
        return members["from"] == parts.origin and (to_us or self._is_ours(to))

    def _is_ours(self, to: str | None) -> bool:
        return to == self._address if to is not None else self._private

    def _is_closed(self, facts: os.stat_result) -> bool:
        """Whether the file was made in this box, and nobody but its owner may write it now."""
        return facts.st_gid == self._group and not facts.st_mode & _OPEN

    def _look(self) -> BoxOwners:
        """Whose uid is whose, and what of it concerns this box. Raises StorageError."""
        if self._owners is not None and self._clock() < self._looked_at:
            return self._owners
        owners = owners_of(self._root, self._clock)
        try:
            mine = stat_box(f"{self._root.box(self._address)}/new") if owners.groups else None
        except OSError as error:
            raise_our_trouble(error)
            mine = None
        self._group = mine.st_gid if mine is not None else -1
        self._private = owners.groups.get(self._group) == 1
        self._owners, self._looked_at = owners, owners.until
        return owners
