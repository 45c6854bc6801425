"""Exit codes, and which error leads to which: sysexits(3) and timeout(1) where they have a word for it."""

from __future__ import annotations

from .. import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
TRUST: Final = 4  # key, signature, pin
DATA: Final = 65  # EX_DATAERR: malformed or too large
NO_BOX: Final = 67  # EX_NOUSER
NO_ROOT: Final = 69  # EX_UNAVAILABLE
CONFLICT: Final = 73  # EX_CANTCREAT: a document is not as the change expects
IO: Final = 74  # EX_IOERR
FULL: Final = 75  # EX_TEMPFAIL: disk or quota full
PERMISSION: Final = 77  # EX_NOPERM
TIMEOUT: Final = 124  # timeout(1): nothing came
INTERRUPTED: Final = 130

_CODES: Final = (
    (errors.TrustError, TRUST),
    (errors.UnverifiedSenderError, TRUST),
    (errors.InvalidBodyError, DATA),
    (errors.NotMailError, DATA),
    (errors.InvalidRequestError, USAGE),
    (errors.BoxNotFoundError, NO_BOX),
    (errors.GroupNotFoundError, NO_BOX),
    (errors.DocumentNotFoundError, NO_BOX),
    (errors.ConflictError, CONFLICT),
    (errors.RootNotFoundError, NO_ROOT),
    (errors.DiskFullError, FULL),
    (errors.PermissionDeniedError, PERMISSION),
    (errors.StorageError, IO),
    (TimeoutError, TIMEOUT),
    (errors.MailboxError, FAILED),
    (OSError, IO),
)


def code(error: BaseException) -> int | None:
    """The exit code that tells of *error*; None where it is a mistake of ours."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), None)
