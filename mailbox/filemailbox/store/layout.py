"""The volume and the boxes on it: made, found, removed.

    $MAILBOX_ROOT/              the volume; its mode decides who gets in at all
      .mailbox                  {"format": 1}
      bob/                      a box; its name is the agent's address
        tmp/     3733           being written, never read
        new/     3733           waiting: *.json
        replies/ 3733           one folder for each request that blocks
        cur/     0700           claimed: one folder for each consumer, locked while its process lives
        later/   0700           what comes back: retries, scheduled mail, recovered claims
        dead/    0700           dead letters, the reason beside each
        done/    0700           handled mail, only where retention is on
        ledger/  0700           keys already handled
        run/     0755           doorbells
        outbox/  0700           only where a relay carries mail: what is for addresses that have no box here

3733 is a drop box: others may create a file, but not list, read, replace or delete one. It needs messages of mode
0640 and a group that is the recipient's own, for setgid gives that group to the file; a group that senders share would
let them read each other's mail. So not the customary 3730 or 0660. Where all agents share a uid it protects nothing.

Root builds a new box where nobody else gets in, and gives it away as its last step. In a box that belongs to another it
acts as that one (acting.py), and gives back nothing but what root itself has left there.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

FORMAT: Final = 1
MARKER: Final = ".mailbox"
FOLDERS: Final = {
    "tmp": 0o3733,
    "new": 0o3733,
    "replies": 0o3733,
    "cur": 0o700,
    "later": 0o700,
    "dead": 0o700,
    "done": 0o700,
    "ledger": 0o700,
    "run": 0o755,
}
OUTBOX: Final = "outbox"
NEW_SWAP_PREFIX: Final = ".new-"
"""How the name of a folder in a box begins that is about to be `new/`, or was."""

MAIL_FOLDERS: Final = ("new", "replies", "cur", "later", "dead", OUTBOX)
