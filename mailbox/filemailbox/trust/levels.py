"""Trust levels: the proofs of a sender, from none to sealed."""

from __future__ import annotations

from typing import Final

from ..errors import InvalidRequestError, quoted

NONE: Final = "none"
UID: Final = "uid"
RELAY: Final = "relay"
SIGNED: Final = "signed"
SEALED: Final = "sealed"
LEVELS: Final = (NONE, UID, RELAY, SIGNED, SEALED)
PROVEN: Final = frozenset((SIGNED, SEALED))
"""Proven by a key: what is handed on unchanged is still proven, so that it must be seen to be no replay."""


def parse_min_trust(min_trust: str, keys: bool) -> str:
    """*min_trust*, checked. Raises InvalidRequestError where it is no proof that we know, or where without *keys* "
    "none would do."""
    if min_trust not in LEVELS:
        raise InvalidRequestError(f"min_trust= is {quoted(min_trust)}, expected one of {', '.join(LEVELS)}")
    if min_trust in PROVEN and not keys:
        raise InvalidRequestError(
            f"min_trust= is {quoted(min_trust)}, and no keys are known: all mail would be refused. "
            "Name them: key_dir= or MAILBOX_KEY_DIR, registry= or MAILBOX_REGISTRY"
        )
    return min_trust
