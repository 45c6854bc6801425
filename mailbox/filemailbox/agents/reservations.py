"""Reservations: advisory leases on files, by glob patterns, which all agents of a root see.

Each agent has a shared document of its own, `reservations/NAME`, with all that it has reserved. No other uid can
write it, and its author is proven like the sender of mail: by the owner of the version's file, or by a signature. A
document that names another author than its own name counts for nothing.

No lock is held. An agent writes its reservation first and then reads those of the others: of two that reserve at the
same time at least one sees the other, withdraws and tries again. A reservation ends at its time, also if its agent was
killed; it survives the process that made it. It hinders no program that does not ask.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ..documents import folders
from ..errors import (
    ConflictError,
    DocumentNotFoundError,
    InvalidRequestError,
    MailboxError,
    NotFoundError,
    PermissionDeniedError,
    quoted,
)
from ..format.address import is_address
from ..format.times import format_time, parse_time
from .globs import covers_file, overlap, parse_glob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..client import Mailbox

FOLDER: Final = "reservations"
"""The first word of the name of each agent's document."""

MAX_DURATION: Final = 7 * 86400.0
"""Longest reservation, in seconds."""

MAX_PATTERNS: Final = 64
"""Patterns that one agent can have reserved at a time."""

MAX_WHY: Final = 500
"""Longest reason, in characters."""

_KEEP: Final = 8  # versions of each document
_ATTEMPTS: Final = 12
_FRESH: Final = 2.0  # seconds: a younger reservation may be about to be withdrawn
_PAUSES: Final = (0.005, 0.25)  # seconds: the first pause after a collision, and the longest; each is drawn by lot


@dataclass(frozen=True, slots=True)
class Reservation:
    """One pattern that an agent has reserved."""

    agent: str
    pattern: str
    since: datetime
    until: datetime
    why: str
    trust: str
    """The proof of the agent: `none`, `uid` or `signed`."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "agent": self.agent,
            "pattern": self.pattern,
            "since": format_time(self.since),
            "until": format_time(self.until),
            "why": self.why,
            "trust": self.trust,
        }

    def __str__(self) -> str:
        why = f" ({quoted(self.why)})" if self.why else ""
        return f"{quoted(self.pattern)} is reserved by {self.agent} until {format_time(self.until)[:19]}Z{why}"


class ReservedError(ConflictError):
    """Files are reserved by other agents: `conflicts` lists these reservations. Nothing was reserved."""

    def __init__(self, conflicts: list[Reservation]) -> None:
        self.conflicts = conflicts
        super().__init__(
            "; ".join(map(str, conflicts)),
            hint=f"ask {conflicts[0].agent} by `mailbox request {conflicts[0].agent} …`, or wait until it ends",
        )


def now_utc() -> datetime:
    """Return the time of day."""
    return datetime.now(UTC)


def reservations(box: Mailbox, now: Callable[[], datetime] = now_utc) -> list[Reservation]:
    """Return what is reserved now, by agent and pattern. Broken documents and those of another author are left out."""
    found = []
    for name in folders.documents_in(box.root, FOLDER):
        agent = name.partition("/")[2]
        if is_address(agent):
            found += _of(box, agent, now())
    return sorted(found, key=lambda each: (each.agent, each.pattern))


def reserve(
    box: Mailbox,
    patterns: Iterable[str],
    duration: float = 3600.0,
    why: str = "",
    *,
    now: Callable[[], datetime] = now_utc,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Reservation]:
    """Reserve *patterns* for *duration* seconds for the agent of *box*. Return these reservations.

    A pattern that this agent has reserved before gets a new end. Either all are reserved or none is. Raises
    ReservedError if another agent has one that overlaps, InvalidRequestError for a bad pattern, duration or reason,
    PermissionDeniedError if this uid may not write the document of the agent.
    """
    wanted = list(dict.fromkeys(map(parse_glob, patterns)))
    if not wanted:
        raise InvalidRequestError("no pattern is given, expected at least one, such as src/**")
    if not 0 < duration <= MAX_DURATION:
        raise InvalidRequestError(f"a reservation of {duration:g} s is not possible: expected up to {MAX_DURATION:g} s")
    if not why.isprintable() or len(why) > MAX_WHY:
        raise InvalidRequestError(f"the reason {quoted(why[:80])} is not one line of at most {MAX_WHY} characters")
    pause = _PAUSES[0]
    for attempt in range(_ATTEMPTS):
        conflicts = _conflicts(box, wanted, now())
        if not conflicts:
            made, before = _add(box, wanted, duration, why, now())
            conflicts = _conflicts(box, wanted, now())
            if not conflicts:
                return made
            _restore(box, made, before)
        oldest = min(each.since for each in conflicts)
        if attempt + 1 == _ATTEMPTS or (now() - oldest).total_seconds() > _FRESH:
            raise ReservedError(conflicts)
        sleep(random.uniform(0, pause))
        pause = min(2 * pause, _PAUSES[1])
    raise AssertionError("the last attempt returns or raises")


def release(box: Mailbox, patterns: Iterable[str] | None = None, now: Callable[[], datetime] = now_utc) -> list[str]:
    """End the reservations of the agent of *box* for *patterns*, or all. Return the patterns that were reserved.

    Raises NotFoundError if one of *patterns* is not reserved by it; then none is released.
    """
    held = [each.pattern for each in _of(box, box.name, now())]
    wanted = held if patterns is None else [parse_glob(each) for each in patterns]
    for each in wanted:
        if each not in held:
            raise NotFoundError(
                f"{quoted(each)} is not reserved by {box.name}: expected one of {', '.join(held) or 'none'}",
                hint="`mailbox reservations` lists what is reserved",
            )
    if wanted:
        _change(box, lambda listed: [each for each in listed if each["pattern"] not in wanted], now())
    return wanted


def blocking(box: Mailbox, paths: Iterable[str], now: Callable[[], datetime] = now_utc) -> list[Reservation]:
    """Return the reservations of other agents that cover one of the files *paths*, for a hook before a commit."""
    files = list(paths)
    others = [each for each in reservations(box, now) if each.agent != box.name]
    return [each for each in others if any(covers_file(each.pattern, path) for path in files)]


def _conflicts(box: Mailbox, wanted: list[str], now: datetime) -> list[Reservation]:
    others = [each for each in reservations(box, lambda: now) if each.agent != box.name]
    return [each for each in others if any(overlap(each.pattern, pattern) for pattern in wanted)]


def _of(box: Mailbox, agent: str, now: datetime) -> list[Reservation]:
    """Return what *agent* has reserved. Another uid wrote the document: nothing in it is believed unread."""
    document = box.document(f"{FOLDER}/{agent}")
    try:
        version = document.get()
    except MailboxError:  # none, broken, closed to us, or less proof than is asked for
        return []
    finally:
        document.close()
    if version.by != agent:
        return []
    read = (_parse(each, agent, version.trust) for each in _listed(version.body))
    return [each for each in read if each is not None and each.since <= now + _AHEAD and now < each.until]


_AHEAD: Final = timedelta(minutes=1)
"""One kernel has one clock: a reservation from further in the future was not made in good faith."""


def _parse(entry: dict[str, Any], agent: str, trust: str) -> Reservation | None:
    try:
        since, until = parse_time(entry["since"]), parse_time(entry["until"])
        pattern, why = parse_glob(entry["pattern"]), entry.get("why", "")
        if (until - since).total_seconds() > MAX_DURATION or not isinstance(why, str) or len(why) > MAX_WHY:
            return None
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        return None
    return Reservation(agent, pattern, since, until, why, trust)


def _listed(body: Any) -> list[dict[str, Any]]:
    listed = body.get("reservations") if isinstance(body, dict) else None
    return [each for each in listed[:MAX_PATTERNS] if isinstance(each, dict)] if isinstance(listed, list) else []


def _add(
    box: Mailbox, patterns: list[str], duration: float, why: str, now: datetime
) -> tuple[list[Reservation], list[dict[str, Any]]]:
    """Write the reservations. Return them, and the entries that they replace."""
    until = now + timedelta(seconds=duration)
    entries = [
        {"pattern": pattern, "since": format_time(now), "until": format_time(until), "why": why or None}
        for pattern in patterns
    ]
    entries = [{name: value for name, value in entry.items() if value is not None} for entry in entries]
    before: list[dict[str, Any]] = []

    def added(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        before[:] = [each for each in listed if each["pattern"] in patterns]
        kept = [each for each in listed if each["pattern"] not in patterns]
        if len(kept) + len(entries) > MAX_PATTERNS:
            raise InvalidRequestError(
                f"{box.name} would have reserved {len(kept) + len(entries)} patterns, and {MAX_PATTERNS} is the limit",
                hint="`mailbox release PATTERN` ends one",
            )
        return [*kept, *entries]

    trust = _change(box, added, now)
    return [Reservation(box.name, pattern, now, until, why, trust) for pattern in patterns], before


def _restore(box: Mailbox, made: list[Reservation], before: list[dict[str, Any]]) -> None:
    """Withdraw what was reserved, unless another session of this agent has reserved it again meanwhile."""
    ours = {(each.pattern, format_time(each.since)) for each in made}

    def without(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept = [each for each in listed if (each["pattern"], each["since"]) not in ours]
        return [*kept, *(each for each in before if each["pattern"] not in {other["pattern"] for other in kept})]

    _change(box, without, made[0].since)


def _change(box: Mailbox, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], now: datetime) -> str:
    """Put the agent's list, changed. What has ended is dropped. Return the proof that readers will find."""

    def changed(body: Any) -> dict[str, Any]:
        current = [
            each
            for each in _listed(body)
            if (read := _parse(each, box.name, "none")) is not None
            and read.pattern == each["pattern"]
            and now < read.until
        ]
        return {"reservations": change(current)}

    document = box.document(f"{FOLDER}/{box.name}", min_trust="none")
    try:
        try:
            return document.update(changed, note="reservations").trust
        except DocumentNotFoundError:
            try:
                return document.create(changed(None), keep=_KEEP, note="reservations").trust
            except ConflictError:  # another session of this agent was faster
                return document.update(changed, note="reservations").trust
    except PermissionDeniedError as error:
        error.hint = (
            "for agents of several uids, `mailbox init --owner UID:GID NAME`, run as root, makes the folder in which "
            "each uid can make a document"
        )
        raise
    finally:
        document.close()
