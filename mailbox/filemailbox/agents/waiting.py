"""A glance at a box: may mail wait? For hooks, which mostly find none, and import little until they do."""

from __future__ import annotations

import contextlib
import os
import time

from ..format.filename import lease_deadline
from ..format.order import is_mail
from ..format.timestamp import to_timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..store.root import Box


def has_mail(box: Box) -> bool:
    """Return True if mail may wait, by the names of files alone: in `new/`, due in `later/`, or after a lease.

    Raises OSError.
    """
    if any(map(is_mail, os.listdir(f"{box}/new"))):
        return True
    now = to_timestamp(time.time_ns())
    if any(name[: len(now)] <= now and name.endswith(".json") for name in os.listdir(f"{box}/later")):
        return True
    for folder in os.listdir(f"{box}/cur"):
        deadline = lease_deadline(folder)
        if deadline and deadline <= now:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if any(map(is_mail, os.listdir(f"{box}/cur/{folder}"))):
                    return True
    return False
