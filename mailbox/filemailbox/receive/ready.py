"""Whether there is mail to take: judged as a consumer would, nothing touched.

Not everything that waits is to be had: what is half written, expired, put off, or handled already is dealt with by the
next consumer, and wakes nobody.
"""

from __future__ import annotations

import contextlib
import os

from ..errors import storage_error
from ..format.envelope import MAX_HOPS
from ..format.filename import lease_deadline, parse_filename
from ..format.order import is_mail
from ..receive.message import dedup_key
from ..store.ids import timestamp_now
from ..system.files import FOLDER, list_dir
from ..system.locks import is_held
from ..trust.levels import PROVEN
from .peek import seen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..format.address import Address
    from ..settings import Settings
    from ..store.root import Root
    from ..trust.verifier import Verifier
    from .message import Message


def ready(root: Root, address: Address, rules: Settings, verifier: Verifier) -> bool:
    """Whether receive() would give a message now. Raises BoxNotFoundError, RootNotFoundError, PermissionDeniedError."""
    box = root.box(address)
    try:
        return any(_wanted(message, root, box, rules) for message in _candidates(box, rules.max_size, verifier))
    except FileNotFoundError as error:
        raise root.missing(address) from error
    except OSError as error:
        raise storage_error(error, f"looking into the box {address}") from error


def _candidates(box: str, max_size: int, verifier: Verifier) -> Iterator[Message[Any]]:
    """What waits, what has come due, and what a dead consumer held: the latter with its attempt counted."""
    yield from _within(f"{box}/new", "new", max_size, verifier)
    yield from _within(f"{box}/later", "later", max_size, verifier)
    with contextlib.suppress(FileNotFoundError), os.scandir(f"{box}/cur") as consumers:
        for consumer in consumers:
            if not consumer.is_dir(follow_symlinks=False) or not any(map(is_mail, os.listdir(consumer.path))):
                continue
            deadline = lease_deadline(consumer.name)
            if deadline is None or deadline > timestamp_now():
                continue
            if not is_held(f"{consumer.path}/.lock"):
                for message in _within(consumer.path, "cur", max_size, verifier):
                    message.attempt += 1
                    yield message


def _within(path: str, state: str, max_size: int, verifier: Verifier) -> Iterator[Message[Any]]:
    folder = os.open(path, FOLDER)
    try:
        for text in sorted(filter(is_mail, list_dir(folder))):
            if state == "later" and text > timestamp_now():
                return  # the due time comes first in the name
            message = seen(folder, state, text, max_size, verifier)
            if message is not None:
                yield message
    finally:
        os.close(folder)


def _wanted(message: Message[Any], root: Root, box: str, rules: Settings) -> bool:
    if message.problem is not None or message.attempt > rules.max_attempts or message.hops > MAX_HOPS:
        return False
    parts = parse_filename(message.name) if message.state != "new" else None
    expires, due = message.expires, message.deliver_after
    if (expires or due) and (parts is None or not parts.requeued):  # a person who requeues it wants it now
        from datetime import UTC, datetime

        now = datetime.now(UTC)
        if (expires is not None and expires <= now) or (due is not None and due > now):
            return False
    key = dedup_key(message)
    if key is None:
        return True
    from ..store.ledger import Ledger, ledger_owner

    ledger = Ledger(rules.ledger_dir or f"{box}/ledger", box)
    return not ledger.handled(message.trust, ledger_owner(root, message.sender, message.trust in PROVEN), key)
