"""Facts of the mail that `mailbox receive` acked in the last hour, so that it can still be answered.

    bob/handled.json    mode 0600: an array of envelopes without their bodies, each with its id, trust and time

Kept for people and agents that read first and answer then; other consumers do not write it. Best effort: no error of it
stops a command, and no message waits for it.
"""

import contextlib
import errno
import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from ..format import codec
from ..system import as_owner
from ..system.as_owner import opened
from ..system.files import READ, close
from ..system.strict_read import strict_read
from .root import Box

HANDLED: Final = "handled.json"

KEPT_FOR: Final = 3600.0
"""Seconds for which a message can be answered."""

MOST: Final = 64
"""Messages that are kept, the latest."""

_LIMIT: Final = 1 << 20
_FACTS: Final = ("id", "from", "to", "sent", "type", "subject", "thread", "in_reply_to", "hops")


def remember(box: Box, handled: list[tuple[str, str, Mapping[str, Any]]]) -> None:
    """Keep the facts of messages that were acked: id, trust and envelope of each. Never raises."""
    now = time.time()
    kept = [each for each in _read(box) if now - KEPT_FOR < each["acked"] <= now]
    for id, trust, fields in handled:
        facts = {name: fields[name] for name in _FACTS if fields.get(name) is not None}
        kept.append({"name": id, "trust": trust, "acked": now, "fields": facts})
    with contextlib.suppress(OSError, TypeError), opened(box.path) as folder:
        as_owner.call(folder, partial(_write, folder, codec.dumps(kept[-MOST:], None, codec.LINE)))


def recall(box: Box, id_part: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return id, trust and envelope of the messages that were acked in the last hour and whose id has this part.

    If one of them has it as its whole id, only that. Never raises.
    """
    now = time.time()
    found = [each for each in _read(box) if id_part in each["name"] and now - KEPT_FOR < each["acked"] <= now]
    found = [each for each in found if each["name"] == id_part] or found
    return [(each["name"], each["trust"], {**each["fields"], "body": None}) for each in found]


def _read(box: Box) -> list[dict[str, Any]]:
    try:
        fd = os.open(f"{box}/{HANDLED}", READ)
    except OSError:
        return []
    try:
        data, st, refusal = strict_read(fd, _LIMIT)
        if refusal is not None or st.st_uid != os.stat(box.path).st_uid:
            return []
        found = codec.loads(data)
    except (OSError, ValueError):
        return []
    finally:
        close(fd)
    return [each for each in found if _fits(each)] if isinstance(found, list) else []


def _fits(each: Any) -> bool:
    if not isinstance(each, dict) or not isinstance(each.get("fields"), dict):
        return False
    return type(each.get("name")) is type(each.get("trust")) is str and type(each.get("acked")) in (int, float)


def _write(folder: int, data: bytes) -> None:
    """As the owner of an open box."""
    draft = f".{HANDLED}.{os.urandom(6).hex()}"
    fd = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        try:
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            close(fd)
        os.rename(draft, HANDLED, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        os.unlink(draft, dir_fd=folder)
        raise
