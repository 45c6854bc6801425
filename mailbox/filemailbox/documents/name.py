"""Names of documents: one to four words, joined by slashes. Each word is like the name of a box."""

from __future__ import annotations

from ..errors import InvalidRequestError, quoted
from ..format.address import is_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

MAX_PARTS: Final = 4
"""Words that a name can have at most."""

FOLDERS: Final = ("versions", "drafts", "checkpoints", "run")
"""The folders of a document. No word of a name can be one of these: documents can lie inside each other."""


def document_name(text: object) -> str:
    """Return *text* as the name of a document. Raises InvalidRequestError with the expected form."""
    if isinstance(text, str) and is_document_name(text):
        return text
    raise InvalidRequestError(
        f"{quoted(text)} cannot be the name of a document: expected 1 to {MAX_PARTS} words joined by slashes, each 1 "
        "to 64 of a-z 0-9 . _ - that begin with a letter or a digit, and none of them "
        f"all, {', '.join(FOLDERS[:-1])} or {FOLDERS[-1]}"
    )


def is_document_name(text: str) -> bool:
    """Return whether a document can have this name."""
    parts = text.split("/")
    return len(parts) <= MAX_PARTS and all(is_address(part) and part not in FOLDERS for part in parts)
