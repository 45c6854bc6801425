"""The errors of this package, as a tree.

    MailboxError
    ├── InvalidRequestError (ValueError)        the caller asked for something that cannot be
    │   ├── InvalidAddressError                 not a valid box name
    │   ├── InvalidBodyError                    the body is not JSON, or larger than the limit
    │   └── TooManyHopsError                    a reply to a reply to a reply …
    ├── NotMailError                            a file in a box is not mail: `reason`
    │   ├── BodyTypeError                       the body of a message is not of the type asked for
    │   ├── UnverifiedSenderError               the sender is not proven, or the message is not sealed to us
    │   └── DocumentBrokenError                 the history of a shared document was changed, or cannot go on
    ├── TrustError                              keys and pins
    │   ├── KeyNotFoundError (LookupError)      no private key here, or no public key of that agent
    │   ├── InsecureKeyFileError                a key file with unsafe permissions, or not a key file at all
    │   └── KeyChangedError                     another key is pinned for that agent
    ├── NotFoundError (LookupError)
    │   ├── RootNotFoundError                   no mail volume at that path
    │   ├── BoxNotFoundError                    no box of that name: `known` lists the boxes that exist
    │   ├── GroupNotFoundError                  `all` or `team:GROUP` has no members
    │   ├── DocumentNotFoundError               no shared document of that name
    │   └── MessageNotFoundError                no message with that id, or more than one
    ├── RefusedError                            the recipient rejected our message: `by`, `id`, `reason`
    ├── NotClaimedError                         the message was only peeked at, or the claim was lost
    ├── PartialDeliveryError                    mail to a group reached only some members: `reached`, `failed`
    ├── BoxInUseError                           `remove` found mail or a listener in the box
    ├── ConflictError                           a shared document is not as a change expects it: `current`
    └── StorageError (OSError)                  the disk or the kernel reported an error: `errno`
        ├── DiskFullError                       no space left, or over quota: nothing was delivered
        ├── PermissionDeniedError               the mode or owner of a folder forbids it
        ├── CrossMountRenameError               two folders of one box are on different mounts
        └── DurabilityUnknownError              delivered, but perhaps not on the disk: send `id` again

Every error of the tree has two parts: `str(error)` is the sentence (what was wrong, and what was expected), and `hint`
is what to do now. `Retry` and `Reject` are not errors: a handler raises them to settle its message.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any


class MailboxError(Exception):
    """The base class of all errors of this package.

    `str(error)` is the sentence: what was wrong, and what was expected. `hint` is what to do now, or None.
    """

    hint: str | None = None

    def __init__(self, *arguments: object, hint: str | None = None) -> None:
        super().__init__(*arguments)
        if hint is not None:
            self.hint = hint

    def __reduce__(self: Exception) -> Any:
        # pickle calls the class with `args`, which most of these constructors do not take. multiprocessing needs it.
        return _unpickled, (type(self), self.args, self.__dict__)


class InvalidRequestError(MailboxError, ValueError):
    """The caller asked for something that cannot be: a wrong argument, or a combination that excludes itself."""


class InvalidAddressError(InvalidRequestError):
    """Not a valid box name. `address` is what was given."""

    def __init__(self, address: object) -> None:
        self.address = address
        super().__init__(
            f"{quoted(address)} cannot be the name of a box: expected 1 to 64 of a-z 0-9 . _ - "
            'that begin with a letter or a digit, and not "all"'
        )


class InvalidBodyError(InvalidRequestError):
    """The body is not JSON, or makes the message larger than the limit."""


class TooManyHopsError(InvalidRequestError):
    """A reply to a reply to a reply, more than `limit` in a row: two agents are thanking each other."""

    def __init__(self, hops: int, limit: int) -> None:
        self.hops, self.limit = hops, limit
        super().__init__(
            f"this would be reply number {hops} in a row, and {limit} is the limit",
            hint="start a new conversation with send()",
        )


class NotMailError(MailboxError):
    """A file in a box is not mail. `reason` is the sentence."""

    def __init__(self, reason: str, *, hint: str | None = None) -> None:
        self.reason = reason
        super().__init__(reason, hint=hint)


class BodyTypeError(NotMailError):
    """The body of a message is not of the type that the receiver asked for."""


class UnverifiedSenderError(NotMailError):
    """The sender of a message is not proven, or the message is sealed to another key."""


class DocumentBrokenError(NotMailError):
    """The history of a shared document was changed, or its next number is taken by a file that is not a version."""


class TrustError(MailboxError):
    """A key or a pin cannot be used."""


class KeyNotFoundError(TrustError, LookupError):
    """No private key here, or no public key of that agent."""


class InsecureKeyFileError(TrustError):
    """A key file with unsafe permissions, or not a key file at all."""


class KeyChangedError(TrustError):
    """Another key is pinned for that agent. A pin is never replaced silently."""


class NotFoundError(MailboxError, LookupError):
    """The root, box, group or message does not exist."""


class RootNotFoundError(NotFoundError):
    """No mail volume at the path `root`."""

    def __init__(self, root: str, why: str = "it holds no .mailbox file") -> None:
        self.root = root
        super().__init__(
            f"{quoted(root)} is not the root of a mailbox: {why}",
            hint="is the volume mounted? --root or MAILBOX_ROOT selects it; `mailbox init NAME` makes a new one",
        )


class BoxNotFoundError(NotFoundError):
    """No box `name` under `root`. `known` lists the boxes that exist, sorted. `near` lists those of a similar name."""

    def __init__(self, name: str, root: str, known: Iterable[str] = (), *, sender: str | None = None) -> None:
        from difflib import get_close_matches

        self.name, self.root, self.known = name, root, sorted(known)
        self.near = [each for each in get_close_matches(name, self.known, 3, 0.6) if each not in (name, sender)]
        there = ", ".join(self.known[:12]) + (" …" if len(self.known) > 12 else "")
        text = f"there is no box {quoted(name)} in {quoted(root)}: " + (
            f"there are {there}" if self.known else "there are none yet"
        )
        if name in self.known:
            text = f"the box {quoted(name)} in {quoted(root)} lacks a folder"
        super().__init__(text, hint=self._advice(sender))

    def _advice(self, sender: str | None) -> str:
        """Return the hint. A *sender* is not advised to make the box: its recipient would never see that one."""
        if self.name in self.known:
            return f"`mailbox doctor {self.name} --fix` makes missing folders"
        if self.near:
            return f"did you mean {' or '.join(map(quoted, self.near))}?"
        if sender is None:
            return f"`mailbox init {self.name}` makes it"
        if sender not in self.known:
            return (
                f"{quoted(self.root)} holds neither {quoted(self.name)} nor {quoted(sender)}: is it another volume? "
                "--root or MAILBOX_ROOT selects it"
            )
        return "`mailbox agents` lists the boxes; the recipient makes its own box"


class GroupNotFoundError(NotFoundError):
    """The group `name` has no members here, apart from the sender."""

    def __init__(self, name: str, root: str, why: str) -> None:
        self.name, self.root = name, root
        super().__init__(f"{quoted(name)} reaches no box in {quoted(root)}: {why}")


class MessageNotFoundError(NotFoundError):
    """No message with that id, or several that match the part given."""


class DocumentNotFoundError(NotFoundError):
    """No shared document of that name, or no such version of it."""

    def __init__(self, name: str, root: str, why: str | None = None, *, hint: str | None = None) -> None:
        self.name, self.root = name, root
        super().__init__(
            why or f"there is no document {quoted(name)} in {quoted(root)}",
            hint=hint or f"`mailbox doc list` shows the documents; `mailbox doc put {name} --create` makes this one",
        )


class RefusedError(MailboxError):
    """The recipient `by` rejected the message `id`, for which its sender waited. `reason` is its sentence."""

    def __init__(self, by: str, id: str, reason: str) -> None:
        self.by, self.id, self.reason = by, id, reason
        super().__init__(f"{quoted(by)} rejected the message {id}: {reason}")


class NotClaimedError(MailboxError):
    """The message is not claimed by this mailbox: it was only peeked at, or the mailbox was closed meanwhile."""


class PartialDeliveryError(MailboxError):
    """Mail to the group `to` did not reach every member.

    `reached` lists the members it was delivered to, `failed` maps the others to their errors.
    """

    def __init__(self, to: str, reached: list[str], failed: dict[str, MailboxError]) -> None:
        self.to, self.reached, self.failed = to, reached, failed
        whom = f"it reached {', '.join(reached)}" if reached else "it reached none"
        why = "; ".join(f"{name}: {error}" for name, error in failed.items())
        super().__init__(f"the message to {quoted(to)} did not reach every member ({whom}): {why}")


class BoxInUseError(MailboxError):
    """A box cannot be removed while it holds mail or has a listener."""


class ConflictError(MailboxError):
    """A shared document is not at the version, or not in the state, that a change expects. Nothing was written."""

    def __init__(self, text: str, current: Any = None, *, hint: str | None = None) -> None:
        self.current = current
        """The version that is current now."""
        super().__init__(text, hint=hint)


class StorageError(MailboxError, OSError):
    """The disk or the kernel reported an error. `errno` is that of the cause; `id` is the message, if any."""

    def __init__(self, text: str, code: int | None = None, id: str | None = None, *, hint: str | None = None) -> None:
        self.text, self.id = text, id
        super().__init__(code, text, hint=hint)
        self.errno = code

    def __str__(self) -> str:
        return self.text


class DiskFullError(StorageError):
    """No space left, or over quota. Nothing was delivered; waiting mail can still be received."""


class PermissionDeniedError(StorageError):
    """The mode or owner of a folder forbids it."""


class CrossMountRenameError(StorageError):
    """Two folders of one box are on different mounts, and a rename cannot cross mounts."""


class DurabilityUnknownError(StorageError):
    """The message `id` was delivered, but the disk did not confirm it.

    It may not survive a power cut. Send it again under the same id.
    """


class Retry(Exception):
    """Raised by a handler: deliver this message again in *delay* seconds (default: with backoff)."""

    def __init__(self, delay: float | None = None, reason: str = "the handler asked to retry") -> None:
        self.delay, self.reason = delay, reason
        super().__init__(reason)

    __reduce__ = MailboxError.__reduce__


class Reject(Exception):
    """Raised by a handler: this message can never be handled. It becomes a dead letter."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    __reduce__ = MailboxError.__reduce__


def _unpickled(kind: type[Exception], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    error = kind.__new__(kind)
    (OSError if isinstance(error, OSError) else Exception).__init__(error, *arguments)
    error.__dict__.update(attributes)
    return error


def quoted(text: object) -> str:
    """Return *text* in double quotes, safe to print: control characters and bad UTF-8 escaped, cut after 200."""
    shown = ascii(text if isinstance(text, str) else str(text))[1:-1].replace('"', '\\"')
    return f'"{shown if len(shown) <= 200 else shown[:200] + "…"}"'


def errno_text(error: Exception) -> str:
    """Return the text of an error for the end of a sentence: that of its errno if it has one, in lower case."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def storage_error(cause: OSError, doing: str, id: str | None = None) -> StorageError:
    """Return the member of the tree for *cause*. *doing* is what was being done: the sentence begins with it."""
    code, why = cause.errno, errno_text(cause)
    if code in (errno.ENOSPC, errno.EDQUOT):
        full = "the volume is full" if code == errno.ENOSPC else "the quota is used up"
        return DiskFullError(f"{doing}: {full}; nothing was delivered", code, id, hint="free some space and send again")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PermissionDeniedError(f"{doing}: {why}", code, id, hint="`ls -ld` shows owners and modes")
    if code == errno.EXDEV:
        return CrossMountRenameError(
            f"{doing}: its folders are on different mounts", code, id, hint="mount whole boxes, not parts of one"
        )
    return StorageError(f"{doing}: {why}", code, id)


class translated_errors:  # noqa: N801  # reads as a function: `with translated_errors("…"):`
    """Turn each OSError of the block into a member of the tree. FileNotFoundError passes unchanged."""

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
