"""What can go wrong, as a tree.

    MailboxError
    ├── InvalidRequestError (ValueError)        what the caller gave cannot be sent or asked for
    │   ├── InvalidAddressError                 not a name that a box can have
    │   ├── InvalidBodyError                    not JSON, or larger than the limit
    │   └── TooManyHopsError                    an answer to an answer to an answer …
    ├── NotMailError                            a file in a box is not mail: `reason`
    │   ├── BodyTypeError                       it is mail, but its body is not of the wanted type
    │   └── UnverifiedSenderError               it is mail, but not proven to be from whom it says, or not open to us
    ├── TrustError                              keys and pins
    │   ├── KeyNotFoundError (LookupError)      no private key here, or no public one of that agent
    │   ├── InsecureKeyFileError                a file of keys that others can read or change, or that is none
    │   └── KeyChangedError                     another key is pinned for that agent
    ├── NotFoundError (LookupError)
    │   ├── RootNotFoundError                   no mail volume at that path
    │   ├── BoxNotFoundError                    no box of that name: `known` lists those there are
    │   ├── GroupNotFoundError                  nobody is meant by `all` or `team:GROUP`
    │   └── MessageNotFoundError                no message, or more than one, with that id
    ├── NotClaimedError                         settling a message that was looked at, not taken
    ├── PartialDeliveryError                    mail to a group reached some: `reached`, `failed`
    ├── BoxInUseError                           `remove` met mail or a listener
    └── StorageError (OSError)                  the disk or the kernel said no; `errno` is kept
        ├── DiskFullError                       no space, or over quota: nothing was delivered
        ├── PermissionDeniedError               the modes or owners of a folder forbid it
        ├── CrossMountRenameError               two folders of one box are on different mounts
        └── DurabilityUnknownError              delivered, but perhaps not on the disk: send `id` again

Two more are not errors but words that a handler says by raising them: `Retry` and `Reject`.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any


class MailboxError(Exception):
    """The root of all errors that this package raises on its own account.

    `str(error)` is the sentence: what was wrong, and what was expected. `hint` is what to do now, or None.
    """

    hint: str | None = None

    def __init__(self, *arguments: object, hint: str | None = None) -> None:
        super().__init__(*arguments)
        if hint is not None:
            self.hint = hint

    def __reduce__(self: Exception) -> Any:
        # Exceptions are unpickled by calling their class with `args`, which ours do not take: multiprocessing needs it.
        return _revived, (type(self), self.args, self.__dict__)


class InvalidRequestError(MailboxError, ValueError):
    """What the caller gave cannot be sent or asked for."""


class InvalidAddressError(InvalidRequestError):
    """Not a name that a box can have."""

    def __init__(self, text: object) -> None:
        self.text = text
        super().__init__(
            f"{quoted(text)} cannot be the name of a box: expected 1 to 64 of a-z 0-9 . _ - "
            'that begin with a letter or a digit, and not "all"'
        )


class InvalidBodyError(InvalidRequestError):
    """A body that is not JSON or makes a message larger than the limit."""


class TooManyHopsError(InvalidRequestError):
    """An answer to an answer to an answer: two agents are thanking each other."""

    def __init__(self, hops: int, limit: int) -> None:
        self.hops, self.limit = hops, limit
        super().__init__(
            f"this would be answer number {hops} in a row, and {limit} is the limit: "
            "start a new conversation with send()"
        )


class NotMailError(MailboxError):
    """A file in a box is not mail."""

    def __init__(self, reason: str, *, hint: str | None = None) -> None:
        self.reason = reason
        super().__init__(reason, hint=hint)


class BodyTypeError(NotMailError):
    """The body of a message is not of the type that its receiver wants."""


class UnverifiedSenderError(NotMailError):
    """A message is not proven to be from whom it says it is, or not open to us."""


class TrustError(MailboxError):
    """Keys or pins that cannot be used."""


class KeyNotFoundError(TrustError, LookupError):
    """There is no private key here, or no public key of that agent."""


class InsecureKeyFileError(TrustError):
    """A file of keys that others can read or change, or that is none."""


class KeyChangedError(TrustError):
    """Another key than the one that is pinned: it is never taken silently."""


class NotFoundError(MailboxError, LookupError):
    """Something that was named does not exist."""


class RootNotFoundError(NotFoundError):
    """No mail volume at that path."""

    def __init__(self, root: str, why: str = "it holds no .mailbox file") -> None:
        self.root = root
        super().__init__(
            f"{quoted(root)} is not the root of a mailbox: {why}. Is the volume mounted? "
            "MAILBOX_ROOT or --root names it, and `mailbox init NAME` makes one"
        )


class BoxNotFoundError(NotFoundError):
    """No box of that name under the root."""

    def __init__(self, name: str, root: str, known: Iterable[str] = ()) -> None:
        self.name, self.root, self.known = name, root, sorted(known)
        there = ", ".join(self.known[:12]) + (" …" if len(self.known) > 12 else "")
        super().__init__(
            f"there is no box {quoted(name)} in {quoted(root)}: "
            + (f"there are {there}" if self.known else "there are none yet")
            + f"; `mailbox init {name}` makes it"
        )


class GroupNotFoundError(NotFoundError):
    """Nobody is meant by the name of a group."""

    def __init__(self, name: str, root: str, why: str) -> None:
        self.name, self.root = name, root
        super().__init__(f"{quoted(name)} is nobody in {quoted(root)}: {why}")


class MessageNotFoundError(NotFoundError):
    """No message of that id, or several that begin or end alike."""


class NotClaimedError(MailboxError):
    """Settling a message that was looked at, not taken; or taking one while another thread closes the mailbox."""


class PartialDeliveryError(MailboxError):
    """Mail to a group did not go to everyone in it."""

    def __init__(self, to: str, reached: list[str], failed: dict[str, MailboxError]) -> None:
        self.to, self.reached, self.failed = to, reached, failed
        whom = f"it went to {', '.join(reached)}" if reached else "it went to nobody"
        why = "; ".join(f"{name}: {error}" for name, error in failed.items())
        super().__init__(f"the message to {quoted(to)} did not go to everyone ({whom}): {why}")


class BoxInUseError(MailboxError):
    """A box cannot be removed while there is mail in it or somebody listens."""


class StorageError(MailboxError, OSError):
    """The disk or the kernel said no. `errno` and `strerror` are those of the cause."""

    def __init__(self, text: str, code: int | None = None, id: str | None = None, *, hint: str | None = None) -> None:
        self.text, self.id = text, id
        super().__init__(code, text, hint=hint)
        self.errno = code

    def __str__(self) -> str:
        return self.text


class DiskFullError(StorageError):
    """No space left or over quota. Nothing was delivered; waiting mail can still be taken."""


class PermissionDeniedError(StorageError):
    """The modes or owners of a folder forbid it."""


class CrossMountRenameError(StorageError):
    """A message cannot be renamed across mounts: mount whole boxes."""


class DurabilityUnknownError(StorageError):
    """The message `id` was delivered, but the disk did not confirm it.

    Whether it survives a power cut is unknown. Send it again under the same id.
    """


class Retry(Exception):
    """Raised by a handler: give me this message again, in *delay* seconds (default: backoff)."""

    def __init__(self, delay: float | None = None, reason: str = "the handler asked to retry") -> None:
        self.delay, self.reason = delay, reason
        super().__init__(reason)

    __reduce__ = MailboxError.__reduce__


class Reject(Exception):
    """Raised by a handler: this message can never be handled; make it a dead letter."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    __reduce__ = MailboxError.__reduce__


def _revived(kind: type[Exception], arguments: tuple[Any, ...], facts: dict[str, Any]) -> Exception:
    error = kind.__new__(kind)
    (OSError if isinstance(error, OSError) else Exception).__init__(error, *arguments)
    error.__dict__.update(facts)
    return error


def quoted(text: object) -> str:
    """*text* in double quotes, safe to print: control characters and bad UTF-8 are escaped."""
    shown = ascii(text if isinstance(text, str) else str(text))[1:-1].replace('"', '\\"')
    return f'"{shown if len(shown) <= 200 else shown[:200] + "…"}"'


def storage_error(cause: OSError, doing: str, id: str | None = None) -> StorageError:
    """The member of the tree that *cause* stands for; *doing* says what was being done."""
    code = cause.errno
    if code in (errno.ENOSPC, errno.EDQUOT):
        full = "the volume is full" if code == errno.ENOSPC else "the quota is used up"
        return DiskFullError(f"{doing}: {full}; nothing was delivered. Free some space and send again", code, id)
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = cause.strerror or "permission denied"
        return PermissionDeniedError(f"{doing}: {why.lower()}. `ls -ld` shows owners and modes", code, id)
    if code == errno.EXDEV:
        return CrossMountRenameError(
            f"{doing}: its folders are on different mounts; mount whole boxes, not parts", code, id
        )
    return StorageError(f"{doing}: {(cause.strerror or str(cause)).lower()}", code, id)


class translated_errors:  # noqa: N801  # used as a function: `with translated_errors("…"):`
    """Within it what the kernel says becomes a member of the tree; that a file is not there is left as it is."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, (MailboxError, FileNotFoundError)):
            raise storage_error(error, self._doing) from error
