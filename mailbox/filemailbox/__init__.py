"""Mail between programs and agents: one folder for each inbox, one JSON file for each message, no server.

Who is built on whom, from the ground up; each imports only what stands above it here, and a test reads the imports:

    errors      the exception tree
    log         the log, imported when there is something to say
    pattern     regular expressions, compiled when they are needed
    codec       JSON, as bytes                                          (the only way to orjson in what starts quickly)
    names       addresses; message names that sort by time
    message     the envelope and Message: encode, decode: pure
    bodies      typed bodies                                            (the only user of msgspec)
    policy      who may write to whom, for the relay: pure
    order       in which order waiting mail is taken: pure
    files       hostile files, read strictly
    locks       locks that die with their holder                        (the only user of filelock)
    mounts      what is mounted where
    acting      with the rights of a box's owner
    inotify     the kernel's word that something has come
    doorbell    the Unix socket: ring, hear
    root        the volume and its boxes: made, found, removed
    junk        what in new/ never is mail, and how it is left behind
    rules       how a consumer handles what goes wrong
    seal        seal, open, sign, verify: pure                          (the only user of nacl)
    keys        keys and pins
    trust       what proves the sender
    chain       what an audit log looks like, and whether it is as it was written
    audit       the audit log, written
    ledger      what was already handled
    replies     requests that block: a folder for the answer
    wake        doorbell + inotify (or watchfiles) + rescan → "look now" (the only user of watchfiles)
    groups      mail for several: who they are
    deliver     into a box: write, rename, flush
    place       a consumer's place in a box: found, locked, taken over
    graves      dead letters: buried with the reason, requeued, purged
    odd         what lies in new/ and is not plain mail
    spool       out of a box: claim, settle
    peek        looking without touching
    consumer    what a claim becomes, and how a message ends
    ready       whether there is mail to take
    leases      claims that outlive their process
    status      what a listener says of itself, and who listens
    notify      telling a service manager how we are
    handlers    which function gets which message
    listener    wake, claim, call back, settle
    command     a command as a handler
    aio         the forms for asyncio
    box         Mailbox, the face that users see
    roster      who is there, who listens, how far behind
    sweep       what is left over in a box
    volumes     an agent's volume, of which nothing is trusted
    carried     what a relay has carried
    carry       the carrying step: stage, flush, deliver
    station     one agent as a sender: its outbox, and how far the relay is with it
    relay       outboxes, a policy, an audit log
    doctor      what is wrong with a root and its boxes
    bench       how fast a volume is, and what works there
    cli         the command `mailbox`, a folder                         (the only user of typer)

    pytest_plugin   the fixture `mailboxes`, for the tests of others

The way of one message: box.send → names → message.encode → seal → deliver → doorbell.ring ⇒ wake → spool.claim →
trust.judge (seal.open, message.decode) → your code → spool.ack. `FORMAT.md` beside this package is the contract of
the files on disk.
"""

from .box import Mailbox
from .errors import (
    BoxInUse,
    ChangedKey,
    DiskFull,
    Forbidden,
    Invalid,
    InvalidAddress,
    InvalidBody,
    MailboxError,
    Malformed,
    Mismatch,
    NoBox,
    NoGroup,
    NoKey,
    NoMessage,
    NoRoot,
    NotAll,
    NotHeld,
    NotThere,
    Reject,
    Retry,
    SplitMount,
    Storage,
    TooManyHops,
    Unflushed,
    Unproven,
    UnsafeKey,
    Untrusted,
)
from .message import Message

__version__ = "0.1.0"

__all__ = [
    "BoxInUse",
    "ChangedKey",
    "DiskFull",
    "Forbidden",
    "Invalid",
    "InvalidAddress",
    "InvalidBody",
    "Mailbox",
    "MailboxError",
    "Malformed",
    "Message",
    "Mismatch",
    "NoBox",
    "NoGroup",
    "NoKey",
    "NoMessage",
    "NoRoot",
    "NotAll",
    "NotHeld",
    "NotThere",
    "Reject",
    "Retry",
    "SplitMount",
    "Storage",
    "TooManyHops",
    "Unflushed",
    "Unproven",
    "UnsafeKey",
    "Untrusted",
]
