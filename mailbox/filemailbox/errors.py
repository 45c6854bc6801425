"""What can go wrong, as a tree.

    MailboxError
    ├── Invalid (ValueError)        what the caller gave cannot be sent or asked for
    │   ├── InvalidAddress          not a name that a box can have
    │   ├── InvalidBody             not JSON, or larger than the limit
    │   └── TooManyHops             an answer to an answer to an answer …
    ├── Malformed                   a file in a box is not mail: `reason`
    │   ├── Mismatch                it is mail, but its body is not of the wanted type
    │   └── Unproven                it is mail, but not proven to be from whom it says, or not open to us
    ├── Untrusted                   keys and pins
    │   ├── NoKey (LookupError)     no private key here, or no public one of that agent
    │   ├── UnsafeKey               a file of keys that others can read or change, or that is none
    │   └── ChangedKey              another key is pinned for that agent
    ├── NotThere (LookupError)
    │   ├── NoRoot                  no mail volume at that path
    │   ├── NoBox                   no box of that name: `known` lists those there are
    │   ├── NoGroup                 nobody is meant by `all` or `team:GROUP`
    │   └── NoMessage               no message, or more than one, with that id
    ├── NotHeld                     settling a message that was looked at, not taken
    ├── NotAll                      mail to a group did not go to all of them: `failed` says why, `reached` whom it did
    ├── BoxInUse                    `remove` met mail or a listener
    └── Storage (OSError)           the disk or the kernel said no; `errno` is kept
        ├── DiskFull                no space, or over quota: nothing was delivered
        ├── Forbidden               the modes or owners of a folder forbid it
        ├── SplitMount              two folders of one box are on different mounts
        └── Unflushed               delivered, but perhaps not on the disk: send `id` again

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
    """The root of all errors that this package raises on its own account."""

    def __reduce__(self: Exception) -> Any:
        # Exceptions are unpickled by calling their class with `args`, which ours do not take: multiprocessing needs it.
        return _revived, (type(self), self.args, self.__dict__)


class Invalid(MailboxError, ValueError):
    """What the caller gave cannot be sent or asked for."""


class InvalidAddress(Invalid):
    """Not a name that a box can have."""

    def __init__(self, text: object) -> None:
        self.text = text
        super().__init__(
            f"{quoted(text)} cannot be the name of a box: expected 1 to 64 of a-z 0-9 . _ - "
            'that begin with a letter or a digit, and not "all"'
        )


class InvalidBody(Invalid):
    """A body that is not JSON or makes a message larger than the limit."""


class TooManyHops(Invalid):
    """An answer to an answer to an answer: two agents are thanking each other."""

    def __init__(self, hops: int, limit: int) -> None:
        self.hops, self.limit = hops, limit
        super().__init__(
            f"this would be answer number {hops} in a row, and {limit} is the limit: "
            "start a new conversation with send()"
        )


class Malformed(MailboxError):
    """A file in a box is not mail."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Mismatch(Malformed):
    """The body of a message is not of the type that its receiver wants."""


class Unproven(Malformed):
    """A message is not proven to be from whom it says it is, or not open to us."""


class Untrusted(MailboxError):
    """Keys or pins that cannot be used."""


class NoKey(Untrusted, LookupError):
    """There is no private key here, or no public key of that agent."""


class UnsafeKey(Untrusted):
    """A file of keys that others can read or change, or that is none."""


class ChangedKey(Untrusted):
    """Another key than the one that is pinned: it is never taken silently."""


class NotThere(MailboxError, LookupError):
    """Something that was named does not exist."""


class NoRoot(NotThere):
    """No mail volume at that path."""

    def __init__(self, root: str, why: str = "it holds no .mailbox file") -> None:
        self.root = root
        super().__init__(
            f"{quoted(root)} is not the root of a mailbox: {why}. Is the volume mounted? "
            "MAILBOX_ROOT or --root names it, and `mailbox init NAME` makes one"
        )


class NoBox(NotThere):
    """No box of that name under the root."""

    def __init__(self, name: str, root: str, known: Iterable[str] = ()) -> None:
        self.name, self.root, self.known = name, root, sorted(known)
        there = ", ".join(self.known[:12]) + (" …" if len(self.known) > 12 else "")
        super().__init__(
            f"there is no box {quoted(name)} in {quoted(root)}: "
            + (f"there are {there}" if self.known else "there are none yet")
            + f"; `mailbox init {name}` makes it"
        )


class NoGroup(NotThere):
    """Nobody is meant by the name of a group."""

    def __init__(self, name: str, root: str, why: str) -> None:
        self.name, self.root = name, root
        super().__init__(f"{quoted(name)} is nobody in {quoted(root)}: {why}")


class NoMessage(NotThere):
    """No message of that id, or several that begin or end alike."""


class NotHeld(MailboxError):
    """Settling a message that was looked at, not taken; or taking one while another thread closes the mailbox."""


class NotAll(MailboxError):
    """Mail to a group did not go to everyone in it."""

    def __init__(self, to: str, reached: list[str], failed: dict[str, MailboxError]) -> None:
        self.to, self.reached, self.failed = to, reached, failed
        whom = f"it went to {', '.join(reached)}" if reached else "it went to nobody"
        why = "; ".join(f"{name}: {error}" for name, error in failed.items())
        super().__init__(f"the message to {quoted(to)} did not go to everyone ({whom}): {why}")


class BoxInUse(MailboxError):
    """A box cannot be removed while there is mail in it or somebody listens."""


class Storage(MailboxError, OSError):
    """The disk or the kernel said no. `errno` and `strerror` are those of the cause."""

    def __init__(self, text: str, code: int | None = None, id: str | None = None) -> None:
        self.text, self.id = text, id
        super().__init__(code, text)
        self.errno = code

    def __str__(self) -> str:
        return self.text


class DiskFull(Storage):
    """No space left or over quota. Nothing was delivered; waiting mail can still be taken."""


class Forbidden(Storage):
    """The modes or owners of a folder forbid it."""


class SplitMount(Storage):
    """A message cannot be renamed across mounts: mount whole boxes."""


class Unflushed(Storage):
    """The message `id` was delivered, but the disk did not confirm it.

    Whether it survives a power cut is unknown. Send it again under the same id.
    """


class Retry(Exception):
    """Raised by a handler: give me this message again, in *after* seconds (default: backoff)."""

    def __init__(self, after: float | None = None, reason: str = "the handler asked to retry") -> None:
        self.after, self.reason = after, reason
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


def storage(cause: OSError, doing: str, id: str | None = None) -> Storage:
    """The member of the tree that *cause* stands for; *doing* says what was being done."""
    code = cause.errno
    if code in (errno.ENOSPC, errno.EDQUOT):
        full = "the volume is full" if code == errno.ENOSPC else "the quota is used up"
        return DiskFull(f"{doing}: {full}; nothing was delivered. Free some space and send again", code, id)
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = cause.strerror or "permission denied"
        return Forbidden(f"{doing}: {why.lower()}. `ls -ld` shows owners and modes", code, id)
    if code == errno.EXDEV:
        return SplitMount(f"{doing}: its folders are on different mounts; mount whole boxes, not parts", code, id)
    return Storage(f"{doing}: {(cause.strerror or str(cause)).lower()}", code, id)


class Telling:
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
            raise storage(error, self._doing) from error
