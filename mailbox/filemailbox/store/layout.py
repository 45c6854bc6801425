"""The volume and the folders of a box: the one table of them.

    $MAILBOX_ROOT/              the volume; its mode decides who can use it at all
      .mailbox                  {"format": 1}
      bob/                      a box; its name is the agent's address
        tmp/     3733           being written, never read
        new/     3733           waiting: *.json
        replies/ 3733           one folder for each request that blocks
        cur/     0700           claimed: one folder for each consumer, locked while its process lives
        later/   0700           deferred: retries, scheduled mail, recovered claims
        dead/    0700           dead letters, the reason beside each
        done/    0700           handled mail, only with a retention
        ledger/  0700           the keys that were handled
        run/     0755           doorbells
        sent/    0700           copies of what was sent, only with a retention
        outbox/  0700           only if a relay carries mail: for addresses that have no box here

3733 is a drop box: others may create a file, but not list, read, replace or delete one. It needs messages of mode
0640 and a group that is the recipient's own, for setgid gives that group to the file; a group that senders share would
let them read each other's mail. So not the customary 3730 or 0660. If all agents share a uid it protects nothing.

Root builds a new box where only root can enter, and gives it away as its last step. In a box that belongs to another
uid it acts as that uid (system/as_owner.py), and gives back only what root itself has left there.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

FORMAT: Final = 1
MARKER: Final = ".mailbox"
OUTBOX: Final = "outbox"
SENT: Final = "sent"

NEW_SWAP_PREFIX: Final = ".new-"
"""The prefix of a folder in a box that is about to be `new/`, or was."""


_SESSION_PREFIXES: Final = (".session-", ".hook-", ".rewake-", "session-")


def is_session_file(name: str) -> bool:
    """Return True if a file in `run/` belongs to a session of an AI agent, or is the draft of such a file."""
    return name.startswith(_SESSION_PREFIXES) or (name.startswith(".") and name.endswith(".part"))


class Folder:
    """One folder of a box."""

    __slots__ = ("holds_mail", "mode")

    def __init__(self, mode: int, holds_mail: bool = False) -> None:
        self.mode = mode
        self.holds_mail = holds_mail
        """True if mail in it must not be lost when the box is removed."""


_FOLDERS: Final = {
    "tmp": Folder(0o3733),
    "new": Folder(0o3733, holds_mail=True),
    "replies": Folder(0o3733, holds_mail=True),
    "cur": Folder(0o700, holds_mail=True),
    "later": Folder(0o700, holds_mail=True),
    "dead": Folder(0o700, holds_mail=True),
    "done": Folder(0o700),
    "ledger": Folder(0o700),
    "run": Folder(0o755),
    SENT: Folder(0o700),
    OUTBOX: Folder(0o700, holds_mail=True),
}

FOLDERS: Final = {name: folder.mode for name, folder in _FOLDERS.items() if name not in (SENT, OUTBOX)}
"""The folders that every box has, with their modes."""

OUTBOX_MODE: Final = _FOLDERS[OUTBOX].mode
SENT_MODE: Final = _FOLDERS[SENT].mode

MAIL_FOLDERS: Final = tuple(name for name, folder in _FOLDERS.items() if folder.holds_mail)
