"""The proof of the author of a version: none, a fact of the kernel, or a signature.

    none     only the version itself names its author
    uid      the file belongs to the owner of the author's box, and no other uid can write it: facts of the kernel
    signed   a pinned key, over every byte of it

A uid proves something only if it is one agent's, and if the root keeps agents from taking each other's places.
The base of a version ties it to one document: the owner of another one cannot move it there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import UnverifiedSenderError, quoted
from ..trust.levels import NAMES, NONE, PROVEN, SIGNED, UID, rank
from ..trust.owners import owners_of

if TYPE_CHECKING:
    from ..store.root import Root
    from ..trust.keyring import Keyring
    from .history import Stored


class Authors:
    """Says what proves the authors of versions."""

    def __init__(self, root: Root, keyring: Keyring | None = None, min_trust: str = NONE) -> None:
        self._root, self._keyring, self._min_trust = root, keyring, min_trust

    def trust(self, stored: Stored) -> str:
        """Return what proves the author.

        Raises UnverifiedSenderError if a key of the author is pinned and did not sign it, or if the proof is less than
        what is asked for.
        """
        by = stored.members["by"]
        try:
            if self._keyring is not None and self._keyring.pinned(by) is not None:
                from . import signature

                signature.verify(stored.data, by, self._keyring.signing_key)
                return SIGNED
            if self.is_ours(stored):
                return SIGNED
            proven = self._by_uid(stored.st) == by
            if rank(UID if proven else NONE) < rank(self._min_trust):
                raise UnverifiedSenderError(
                    f"its author is proven by {quoted(UID if proven else NONE)}, and {self._min_trust} or "
                    "better is asked for"
                )
        except UnverifiedSenderError as error:
            raise UnverifiedSenderError(
                f"version {stored.number} names as its author {quoted(by)}: {error}", hint=error.hint
            ) from None
        return UID if proven else NONE

    def is_ours(self, stored: Stored) -> bool:
        """Return whether we have signed it: our own key need not be pinned."""
        if self._keyring is None or stored.members["by"] != self._keyring.agent or "sig" not in stored.members:
            return False
        from . import signature

        try:
            signature.verify(stored.data, self._keyring.agent, self._keyring.signing_key)
        except UnverifiedSenderError:
            return False
        return True

    def _by_uid(self, st: os.stat_result) -> str | None:
        if st.st_mode & 0o022:
            return None  # others can write it
        return owners_of(self._root).names.get(st.st_uid)


def least(min_trust: str | None) -> str:
    """Return *min_trust* as a level that versions can have: nothing here is sealed."""
    return SIGNED if min_trust in PROVEN else min_trust if min_trust in NAMES else NONE
