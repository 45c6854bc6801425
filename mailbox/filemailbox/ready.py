"""Whether there is mail to take: judged as a consumer would, nothing touched.

Not everything that waits is to be had: what is half written, expired, put off, or handled already is dealt with by the
next consumer, and wakes nobody.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from . import names
from .consumer import ledger_name
from .errors import storage
from .files import FOLDER, listing
from .ledger import Ledger
from .locks import Lock
from .message import MAX_HOPS, Message
from .names import Address
from .order import is_mail
from .peek import seen
from .root import Root
from .rules import Rules
from .spool import deadline_of


def ready(root: Root, address: Address, rules: Rules) -> bool:
    """Whether receive() would give a message now. Raises NoBox, NoRoot, Forbidden."""
    box = root.box(address)
    ledger = Ledger(rules.ledger or f"{box}/ledger", box)
    try:
        return any(_wanted(message, root, rules, ledger) for message in _candidates(box, rules.max_size))
    except FileNotFoundError as error:
        raise root.missing(address) from error
    except OSError as error:
        raise storage(error, f"looking into the box {address}") from error


def _candidates(box: str, max_size: int) -> Iterator[Message[Any]]:
    """What waits, what has come due, and what a dead consumer held: the latter with its attempt counted."""
    yield from _within(f"{box}/new", "new", max_size)
    yield from _within(f"{box}/later", "later", max_size)
    with contextlib.suppress(FileNotFoundError), os.scandir(f"{box}/cur") as consumers:
        for consumer in consumers:
            deadline = deadline_of(consumer.name)
            if deadline is None or deadline > names.now() or not any(map(is_mail, os.listdir(consumer.path))):
                continue
            lock = Lock(f"{consumer.path}/.lock")
            if lock.take():
                lock.release()
                for message in _within(consumer.path, "cur", max_size):
                    message.attempt += 1
                    yield message


def _within(path: str, state: str, max_size: int) -> Iterator[Message[Any]]:
    folder = os.open(path, FOLDER)
    try:
        for text in sorted(filter(is_mail, listing(folder))):
            if state == "later" and text > names.now():
                return  # the due time comes first in the name
            message = seen(folder, state, text, max_size)
            if message is not None:
                yield message
    finally:
        os.close(folder)


def _wanted(message: Message[Any], root: Root, rules: Rules, ledger: Ledger) -> bool:
    if message.problem is not None or message.attempt > rules.max_attempts or message.hops > MAX_HOPS:
        return False
    parts = names.parse(message.name) if message.state != "new" else None
    if parts is None or not parts.requeued:  # a person who requeues it wants it now
        now = datetime.now(UTC)
        if message.expires is not None and message.expires <= now:
            return False
        if message.deliver_after is not None and message.deliver_after > now:
            return False
    return message.key is None or not ledger.handled(message.trust, ledger_name(root, message), message.key)
