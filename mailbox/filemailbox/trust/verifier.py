"""The verifier: reads a message and proves its sender."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ..errors import KeyNotFoundError, UnverifiedSenderError, quoted
from ..format.address import is_group
from ..format.envelope import decode
from ..format.filename import parse_filename
from .levels import NONE, RELAY, SEALED, SIGNED, UID, rank
from .owners import BoxOwners, owners_of, raise_resource_error, stat_box

if TYPE_CHECKING:
    from ..store.root import Box
    from .keyring import Keyring
    from .owners import Clock

_OPEN: Final = stat.S_IWGRP | stat.S_IWOTH  # others may write: with an ACL, the bits of the group are its mask


class Verifier:
    """Reads the mail of one box and proves its senders. Safe to share between threads."""

    def __init__(
        self,
        box: Box,
        keyring: Keyring | None = None,
        min_trust: str = NONE,
        *,
        needs_key: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        """Demand *min_trust* of every message: one with a weaker proof becomes a dead letter.

        If it *needs_key*, a signature that cannot be checked because no folder of keys is named is an error, too.
        """
        self._needs_key = needs_key and keyring is None
        self._box, self._keyring = box, keyring
        self._min_trust = min_trust
        self._clock = clock
        self._least = rank(min_trust)
        self._owners: BoxOwners | None = None
        self._group = -1
        self._private = False  # True if that group is this box's alone
        self._fresh_until = 0.0

    @property
    def has_key(self) -> bool:
        """True if this agent has a private key."""
        return self._keyring is not None and self._keyring.has_own

    def verify(self, data: bytes, st: os.stat_result, filename: str) -> tuple[dict[str, Any], str]:
        """Return the fields of the message *data*, opened if it was sealed, and the trust level of its sender.

        *st* and *filename* are those of its file. Raises NotMailError for malformed messages, UnverifiedSenderError for
        a claim that fails and for a proof weaker than this box demands. InsecureKeyFileError and its kin are trouble
        with our own keys or pins: the message is not to blame. KeyNotFoundError means that a key of ours is missing.
        """
        fields = decode(data)
        if self._needs_key and "sig" in fields:
            self._refuse_without_key("signed")
        if type(fields.get("sealed")) is dict:
            return self._open(data), SEALED
        carried = ",F=" in filename and self._is_from_relay(fields, st, filename)
        sender = fields.get("from")
        if sender is None:
            trust = NONE
        elif self._keyring is not None and self._keyring.pinned(sender) is not None:
            return self._verify_signature(data, fields, sender), SIGNED
        elif carried:
            trust = RELAY
        else:
            owners = self._owners
            if owners is None or self._clock() >= self._fresh_until:  # asked here, for every message comes this way
                owners = self._refresh()
            proven = owners.names.get(st.st_uid) == sender
            if proven and st.st_gid == self._group and not st.st_mode & _OPEN and self._is_ours(fields.get("to")):
                trust = UID  # the file was made in this box, and only its owner may write it now
            else:
                trust = NONE
        if self._least and rank(trust) < self._least:
            raise UnverifiedSenderError(
                f"the proof of its sender is {quoted(trust)}, and this box demands {self._min_trust} or better"
            )
        return fields, trust

    def least(self, sender: str) -> str:
        """Return the weakest trust level that genuine mail of *sender* has in this box; NONE if nothing can prove it.

        Raises as verify() does.
        """
        if self._keyring is not None and self._keyring.pinned(sender) is not None:
            return SIGNED
        owners = self._refresh()
        if sender in owners.boxes:
            return UID if self._group >= 0 and sender in owners.names.values() else NONE
        return RELAY if owners.relay >= 0 else NONE

    def unverified(self, data: bytes) -> dict[str, Any]:
        """Return the fields of the message *data*, opened if it is sealed, the sender unproven. Raises as verify()."""
        fields = decode(data)
        return self._open(data) if type(fields.get("sealed")) is dict else fields

    def type_of(self, data: bytes) -> str | None:
        """Return the type of the message *data*; that of sealed mail is inside. Raises as verify() does."""
        kind: str | None = self.unverified(data).get("type")
        return kind

    def _open(self, data: bytes) -> dict[str, Any]:
        from . import seal

        if self._keyring is None or not self._keyring.has_own:
            self._refuse_without_key("sealed")
        return seal.unseal(data, self._box.address, self._keyring.own().encryption_keys, self._keyring.signing_key)[1]

    def _refuse_without_key(self, protection: str) -> NoReturn:
        raise KeyNotFoundError(
            f"mail in the box {quoted(self._box.address)} is {protection}, and there is no key of ours to read it with",
            hint=f"set MAILBOX_KEY_DIR to the folder with {quoted(f'{self._box.address}.key')}",
        )

    def _verify_signature(self, data: bytes, fields: dict[str, Any], sender: str) -> dict[str, Any]:
        from . import seal

        assert self._keyring is not None
        if "sig" not in fields or "body" not in fields:
            raise UnverifiedSenderError(f"it is not signed, and a key of {quoted(sender)} is pinned")
        if self._min_trust == SEALED:
            raise UnverifiedSenderError(f"it is signed, and this box demands that it is {SEALED}")
        return seal.verified(data, self._box.address, self._keyring.signing_key)

    def _is_from_relay(self, fields: dict[str, Any], st: os.stat_result, filename: str) -> bool:
        """Return True if the relay wrote the file and vouches for its sender in `F=`. It fills in a missing `from`."""
        owners = self._refresh()
        parts = parse_filename(filename)
        if st.st_uid != owners.relay or st.st_mode & _OPEN or parts is None or parts.origin is None:
            return False
        if fields.get("from") is None:
            fields["from"] = parts.origin
        to = fields.get("to")
        to_us = st.st_gid == self._group and to is not None and is_group(to)  # the relay knows its members
        return fields["from"] == parts.origin and (to_us or self._is_ours(to))

    def _is_ours(self, to: str | None) -> bool:
        return to == self._box.address if to is not None else self._private

    def _refresh(self) -> BoxOwners:
        """Return the owners of the boxes, at most a second old. Raises StorageError."""
        if self._owners is not None and self._clock() < self._fresh_until:
            return self._owners
        owners = owners_of(self._box.root, self._clock)
        try:
            mine = stat_box(f"{self._box}/new") if owners.groups else None
        except OSError as error:
            raise_resource_error(error)
            mine = None
        self._group = mine.st_gid if mine is not None else -1
        self._private = owners.groups.get(self._group) == 1
        self._owners, self._fresh_until = owners, owners.until
        return owners
