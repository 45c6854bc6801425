"""In which order waiting mail is taken: one listing in, names to claim out. Pure.

A sorted listing alone is not first in, first out. `readdir` is no snapshot: it can show a writer's message k+1 and miss
k, which was renamed in while the listing ran. The rule that gave no inversion and starved nobody: note the clock
before the listing, and hold back a name that is not earlier than it, unless the same writer had that or a later name in
the listing before. For a writer stamps a message after the one before it is in place; so what precedes a name that is
older than the listing, or that an earlier listing showed, is in this listing.

Held back mail waits for one more listing, not for the clock: a writer that is an hour ahead loses nothing.
"""

from __future__ import annotations

from .filename import ID_LENGTH, TIMESTAMP_LENGTH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_WRITER = slice(TIMESTAMP_LENGTH + 1, ID_LENGTH)
_SEAM = slice(TIMESTAMP_LENGTH - 1, TIMESTAMP_LENGTH + 1)


class Order:
    """The order of one consumer. It remembers the listing before."""

    __slots__ = ("_ahead",)

    def __init__(self) -> None:
        self._ahead: dict[str, str] = {}  # writer → its last name that was not earlier than the clock

    def select(self, listed: list[str], clock: str, when: Callable[[str], str | None]) -> tuple[list[str], bool]:
        """The names to claim now, in order, and whether some were held back: then list again.

        *listed* is one listing of `new/`; *clock* is a stamp from before it; *when* gives the
        stamp of a file whose name is not of our making (its mtime), or None if it is gone.
        """
        if len(listed) == 1 and listed[0] <= clock and listed[0][_SEAM] == "Z-":
            self._ahead = {}
            return listed, False  # what a wake-up mostly finds: one message
        ready = [name for name in listed if name[_SEAM] == "Z-"]
        foreign = [name for name in listed if name[_SEAM] != "Z-"] if len(ready) < len(listed) else ()
        ready.sort()
        ahead, held = {}, False
        if ready and ready[-1] > clock:
            from bisect import bisect_left  # rarely needed

            known = bisect_left(ready, clock)  # one of that very tick may be made after the clock was read
            ready, later = ready[:known], ready[known:]
            for name in later:
                writer = name[_WRITER]
                ahead[writer] = name
                if self._ahead.get(writer, "") >= name:
                    ready.append(name)
                else:
                    held = True
        self._ahead = ahead
        if foreign:
            mail = [name for name in foreign if name.endswith(".json") and name[0] != "."]  # is_mail(), a call less
            times = {name: time for name in mail if (time := when(name)) is not None}
            ready.extend(times)
            ready.sort(key=lambda name: (times.get(name, name), name))  # mtimes come in ticks of some milliseconds
        return ready, held


def is_mail(name: str) -> bool:
    """Whether a file of this name in `new/` is mail. Dotfiles and other suffixes are nobody's business."""
    return name.endswith(".json") and not name.startswith(".")


def is_foreign(name: str) -> bool:
    """Whether a name does not even look like one of ours: then it has no place among those of its writer."""
    return name[_SEAM] != "Z-"
