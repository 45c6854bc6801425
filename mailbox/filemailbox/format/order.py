"""The order in which waiting mail is claimed: one listing in, names to claim out. Pure.

A sorted listing alone is not first in, first out. `readdir` is no snapshot: it can show a writer's message k+1 and miss
k, which was renamed in while the listing ran. One rule gave no inversion and starved no writer:

* Read the clock before the listing.
* Hold back a name that is not earlier than the clock, unless the listing before showed that name or a later one of the
  same writer.

A writer stamps a message after the one before it is in place. So every predecessor of a name that is older than the
listing, or that an earlier listing showed, is in this listing.

Held back mail waits for one more listing, not for the clock: a writer that is an hour ahead loses nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from .filename import ID_LENGTH, TIMESTAMP_LENGTH

_WRITER = slice(TIMESTAMP_LENGTH + 1, ID_LENGTH)
_SEAM = slice(TIMESTAMP_LENGTH - 1, TIMESTAMP_LENGTH + 1)


class Order:
    """The order of one consumer. It remembers the listing before."""

    __slots__ = ("_ahead",)

    def __init__(self) -> None:
        self._ahead: dict[str, str] = {}  # writer → its last name that was not earlier than the clock

    def select(self, listed: list[str], clock: str, when: Callable[[str], str | None]) -> tuple[list[str], bool]:
        """Return the names to claim now, in order, and True if some were held back: then list again.

        *listed* is one listing of `new/`, and *clock* a timestamp from before it. *when* returns the timestamp of a
        file with an external name (its mtime), or None if the file is gone.
        """
        if len(listed) == 1 and listed[0] <= clock and listed[0][_SEAM] == "Z-":
            self._ahead = {}
            return listed, False  # the usual case at a wake-up: one message
        ready = [name for name in listed if name[_SEAM] == "Z-"]
        external: list[str] = []
        if len(ready) < len(listed):  # perhaps half a million names of junk: without a call for each
            external = [name for name in listed if name[_SEAM] != "Z-" and name.endswith(".json")]
        ready.sort()
        ahead, held_back = {}, False
        if ready and ready[-1] > clock:
            known = bisect_left(ready, clock)  # a name of that very tick may be made after the clock was read
            ready, later = ready[:known], ready[known:]
            for name in later:
                writer = name[_WRITER]
                ahead[writer] = name
                if self._ahead.get(writer, "") >= name:
                    ready.append(name)
                else:
                    held_back = True
        self._ahead = ahead
        if external:
            times = {name: time for name in external if is_mail(name) and (time := when(name)) is not None}
            ready.extend(times)
            ready.sort(key=lambda name: (times.get(name, name), name))  # mtimes come in ticks of some milliseconds
        return ready, held_back


def is_mail(name: str) -> bool:
    """Return True if a file of this name in `new/` is mail. Consumers ignore dotfiles and other suffixes."""
    return name.endswith(".json") and not name.startswith(".")


def is_external(name: str) -> bool:
    """Return True if the name has not the form of ours: its writer is unknown."""
    return name[_SEAM] != "Z-"
