"""Mail between programs and agents: one folder for each inbox, one JSON file for each message, no server.

The map. A row imports only from the rows above it, and a room only from the rooms before it in its row; a test reads
this map and the imports, lazy ones included. A package's `__init__` imports nothing.

    (base)       errors log settings environment option_types
    format/      bytes in, bytes out: no disk, no clock, no network
                 address pattern small_json codec filename order times timestamp wording envelope
    system/      what the kernel offers and Python does not
                 as_owner files inotify locks mounts sd_notify stop_signals strict_read wake_fd
    store/       one box on disk: folders, and the renames between them
                 ids layout state permissions junk replies root sent answerable box_settings box consumer_folder
                 dead_letters deliver groups intake ledger removed_boxes claim claim_deferred settle claim_new spool
    wake/        "look now": doorbell, watch, poll
                 ringer doorbell watcher waker
    trust/       proof of the sender
                 levels owners seal key_files keyring verifier
    receive/     from a claim to your code and back
                 message receipts peek history status typed_bodies handlers receiver leases listener aio command_handler
    documents/   state that several agents share, one version for each change
                 name version signature change folders checkpoint history author document upkeep
    (face)       options annotations client pytest_plugin
    relay/       mail between volumes
                 clock audit_format accepted audit_log policy policy_file limits carrier volume inbox outbox local
                 outages records sender batch transfer status relay
    ops/         for operators
                 bench cleanup waiting inventory stalls doctor
    agents/      mail for AI agents
                 globs reservations letter events notes waiting session waiter hook tools post mcp_server
                 client_settings install
    cli/         the command, thin on all of these
                 exit_codes options body common fast_parser synonyms output editing documents reservations agents bench
                 boxes keys maintenance show_message dead inspect history receive send verbs help_pages completion
                 typer_app run watch relay hook mcp install

relay/ never imports receive/ or the face.

The way of one message: client.send → envelope.encode → seal → deliver → doorbell.ring ⇒ waker → spool.claim →
verifier → typed_bodies → your code → spool.ack. `FORMAT.md` beside this package is the contract of the files on disk.

Public: `filemailbox.__all__`, `filemailbox.errors`, the pytest plugin, the command, the format. All else is internal.
"""

from .errors import (
    BodyTypeError,
    BoxInUseError,
    BoxNotFoundError,
    ConflictError,
    CrossMountRenameError,
    DiskFullError,
    DocumentBrokenError,
    DocumentNotFoundError,
    DurabilityUnknownError,
    GroupNotFoundError,
    InsecureKeyFileError,
    InvalidAddressError,
    InvalidBodyError,
    InvalidRequestError,
    KeyChangedError,
    KeyNotFoundError,
    MailboxError,
    MessageNotFoundError,
    NotClaimedError,
    NotFoundError,
    NotMailError,
    PartialDeliveryError,
    PermissionDeniedError,
    RefusedError,
    Reject,
    Retry,
    RootNotFoundError,
    StorageError,
    TooManyHopsError,
    TrustError,
    UnverifiedSenderError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .client import Mailbox
    from .receive.message import Message
else:

    def __getattr__(name):
        """Import the public classes, with the names in their annotations: see annotations.py."""
        if name not in ("Mailbox", "Message"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import annotations, client
        from .receive import message

        annotations.resolve(client, message)
        globals().update(Mailbox=client.Mailbox, Message=message.Message)
        return globals()[name]


__version__ = "0.1.0"

__all__ = [
    "BodyTypeError",
    "BoxInUseError",
    "BoxNotFoundError",
    "ConflictError",
    "CrossMountRenameError",
    "DiskFullError",
    "DocumentBrokenError",
    "DocumentNotFoundError",
    "DurabilityUnknownError",
    "GroupNotFoundError",
    "InsecureKeyFileError",
    "InvalidAddressError",
    "InvalidBodyError",
    "InvalidRequestError",
    "KeyChangedError",
    "KeyNotFoundError",
    "Mailbox",
    "MailboxError",
    "Message",
    "MessageNotFoundError",
    "NotClaimedError",
    "NotFoundError",
    "NotMailError",
    "PartialDeliveryError",
    "PermissionDeniedError",
    "RefusedError",
    "Reject",
    "Retry",
    "RootNotFoundError",
    "StorageError",
    "TooManyHopsError",
    "TrustError",
    "UnverifiedSenderError",
]
