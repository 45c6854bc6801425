"""Whether there is mail to take: judged as a consumer would, nothing touched.

Not everything that waits is to be had: what is half written, expired, put off, or handled already is dealt with by the
next consumer, and wakes nobody.
"""

from __future__ import annotations

import contextlib
import os

from . import names
from .errors import storage
from .files import FOLDER, listing
from .locks import is_held
from .message import MAX_HOPS
from .order import is_mail
from .peek import seen
from .trust import PROVEN, once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .message import Message
    from .names import Address
    from .root import Root
    from .rules import Rules
    from .trust import Judge


def ready(root: Root, address: Address, rules: Rules, judge: Judge) -> bool:
    """Whether receive() would give a message now. Raises NoBox, NoRoot, Forbidden."""
    box = root.box(address)
    try:
        return any(_wanted(message, root, box, rules) for message in _candidates(box, rules.max_size, judge))
    except FileNotFoundError as error:
        raise root.missing(address) from error
    except OSError as error:
        raise storage(error, f"looking into the box {address}") from error


def _candidates(box: str, max_size: int, judge: Judge) -> Iterator[Message[Any]]:
    """What waits, what has come due, and what a dead consumer held: the latter with its attempt counted."""
    yield from _within(f"{box}/new", "new", max_size, judge)
    yield from _within(f"{box}/later", "later", max_size, judge)
    with contextlib.suppress(FileNotFoundError), os.scandir(f"{box}/cur") as consumers:
        for consumer in consumers:
            if not consumer.is_dir(follow_symlinks=False) or not any(map(is_mail, os.listdir(consumer.path))):
                continue
            deadline = names.deadline_of(consumer.name)
            if deadline is None or deadline > names.now():
                continue
            if not is_held(f"{consumer.path}/.lock"):
                for message in _within(consumer.path, "cur", max_size, judge):
                    message.attempt += 1
                    yield message


def _within(path: str, state: str, max_size: int, judge: Judge) -> Iterator[Message[Any]]:
    folder = os.open(path, FOLDER)
    try:
        for text in sorted(filter(is_mail, listing(folder))):
            if state == "later" and text > names.now():
                return  # the due time comes first in the name
            message = seen(folder, state, text, max_size, judge)
            if message is not None:
                yield message
    finally:
        os.close(folder)


def _wanted(message: Message[Any], root: Root, box: str, rules: Rules) -> bool:
    if message.problem is not None or message.attempt > rules.max_attempts or message.hops > MAX_HOPS:
        return False
    parts = names.parse(message.name) if message.state != "new" else None
    expires, due = message.expires, message.deliver_after
    if (expires or due) and (parts is None or not parts.requeued):  # a person who requeues it wants it now
        from datetime import UTC, datetime

        now = datetime.now(UTC)
        if (expires is not None and expires <= now) or (due is not None and due > now):
            return False
    key = once(message)
    if key is None:
        return True
    from .ledger import Ledger, page_of

    ledger = Ledger(rules.ledger or f"{box}/ledger", box)
    return not ledger.handled(message.trust, page_of(root, message.sender, message.trust in PROVEN), key)
