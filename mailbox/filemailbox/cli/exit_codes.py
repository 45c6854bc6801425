"""Exit codes, and the code of each error. The numbers are those of sysexits(3) and timeout(1) where these have one."""

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
TIMEOUT: Final = 124  # timeout(1): no mail arrived in time
INTERRUPTED: Final = 130  # 128 + SIGINT, as of a shell

MEANINGS: Final = (
    (DONE, "done, or stopped gracefully"),
    (FAILED, "failed"),
    (USAGE, "usage error"),
    (TRUST, "a key, signature or pin is missing or wrong"),
    (DATA, "malformed or too large"),
    (NO_BOX, "box or document not found"),
    (NO_ROOT, "mail root not found"),
    (CONFLICT, "a document is not as the change expects: nothing was written"),
    (IO, "I/O error"),
    (FULL, "disk or quota full"),
    (PERMISSION, "permission denied"),
    (TIMEOUT, "timed out: no mail arrived"),
)

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
    """Return the exit code of *error*, or None if it is a bug of this package."""
    return next((number for kind, number in _CODES if isinstance(error, kind)), None)


def of_error(error: BaseException) -> int:
    """Return the exit code of *error*: FAILED if it has none of its own."""
    return code(error) or FAILED
