"""Recipients whose boxes take no mail now. Mail for them waits, and mail for others goes on."""

from dataclasses import dataclass

from .. import log
from .clock import Clock
from .limits import Backoff
from .volume import errno_text


@dataclass(frozen=True, slots=True)
class Outage:
    """Why something does not work, when to try it again (monotonic time), and how long that wait is in seconds."""

    why: str
    until: float
    wait: float


class Outages:
    """The recipients that are down. Each failed attempt doubles the wait."""

    def __init__(self, backoff: Backoff, clock: Clock) -> None:
        self._backoff, self._clock = backoff, clock
        self._down: dict[str, Outage] = {}

    def get(self, to: str) -> Outage | None:
        """Return the outage of *to*, over or not, until mark_up()."""
        return self._down.get(to)

    def is_blocked(self, to: str) -> bool:
        """Return whether it is too early for another attempt."""
        outage = self._down.get(to)
        return outage is not None and outage.until > self._clock.monotonic()

    def mark_down(self, to: str, error: OSError) -> Outage:
        """Note a failure, log it if it is a new one, and return the outage."""
        before, why = self._down.get(to), f"the box of {to} takes no mail ({errno_text(error)})"
        if before is None or before.why != why:
            log.warning("%s: mail for it has to wait", why)
        wait = self._backoff.after(before.wait if before is not None else None)
        outage = self._down[to] = Outage(why, self._clock.monotonic() + wait, wait)
        return outage

    def mark_up(self, to: str) -> None:
        """Note a success."""
        if self._down.pop(to, None) is not None:
            log.warning("the box of %s takes mail again", to)

    def reasons(self) -> dict[str, str]:
        """Return the reason of each outage, by recipient."""
        return {to: outage.why for to, outage in self._down.items()}
