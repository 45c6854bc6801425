"""The causes for which mail does not flow: the one source of `status`, `agents`, `health` and `doctor`.

    paused           the listener claims nothing now: the command is broken, or the disk fails
    stopped          the listener lives and does not report: SIGSTOP, a frozen container, an overloaded machine
    busy             the listener has been at one message for too long
    retries          attempt after attempt fails
    keys             a listener ended because it has no key for the mail that waits
    no-listener      mail waits, and no process listens
    type             mail waits of a type that no listener takes
    behind           mail waits although a listener works
    deferred         all mail is deferred
    notifications    mail is found only by polling
    disk, inodes     the volume is nearly full
    clock            a sender's or a listener's clock is ahead of ours

A cause blocks if no mail can flow because of it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

from ..errors import quoted
from ..format.wording import counted, duration_text
from ..receive.status import ListenerInfo, seconds_since
from .inventory import BoxStatus

Severity: TypeAlias = Literal["error", "warning", "note"]

SILENT: Final = 15.0
"""Seconds after which an idle listener that does not report is taken for stopped."""

BUSY: Final = 600.0
"""Seconds that a listener may be at one message."""

BEHIND: Final = 60.0
"""Seconds that mail may wait for a listener that works."""

STORM: Final = 5
"""Failed attempts in a row."""

MIN_FREE: Final = 0.05
"""Part of a volume: less free space, or fewer free inodes, is a warning."""

_REPORTS: Final = 8  # intervals without a report: a loaded machine skips some
_AHEAD: Final = 5.0  # seconds that the clocks of two containers may differ
_MIN_MISSED: Final = 5  # messages found only by polling: notifications do not work
_ORDER: Final = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause: its kind, the sentence, and a hint."""

    kind: str
    severity: Severity
    problem: str
    hint: str = ""
    blocks: bool = False
    """True if no mail can flow because of it."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "problem": self.problem,
            "hint": self.hint,
            "blocks": self.blocks,
        }


def causes(box: BoxStatus, *, silent: float = SILENT, busy: float = BUSY, behind: float = BEHIND) -> list[Cause]:
    """Return the causes for which mail of this box does not flow, the worst first.

    *silent* is the longest time in seconds without a report of an idle listener, *busy* that at one message, *behind*
    that for which mail may wait.
    """
    if box.waiting is None:
        return []
    found = [*_listeners(box, silent, busy), *_unattended(box), *_types(box)]
    if not found and box.listeners and box.oldest is not None and box.oldest > behind:
        found.append(
            Cause(
                "behind",
                "warning",
                f"the listener is behind: {counted(box.waiting, 'message')} waiting, the oldest for "
                f"{duration_text(box.oldest)}",
                "more workers (`mailbox watch --jobs N`) take more messages at a time",
            )
        )
    if box.deferred and not box.waiting:
        found.append(Cause("deferred", "note", f"only deferred mail: {deferred_text(box)}"))
    found += [*_keys(box), *_notifications(box), *_clock(box)]
    return sorted(found, key=lambda cause: (not cause.blocks, _ORDER[cause.severity]))


def deferred_text(box: BoxStatus) -> str:
    """Describe the deferred mail of a box: how much, how much of it are retries, and when the next is due."""
    text = str(box.deferred)
    if box.retrying:
        text += f", {box.retrying} of them for another attempt"
    if box.next_due is not None:
        text += f"; the next is due in {duration_text(max(0.0, -seconds_since(box.next_due)))}"
    return text


def volume_causes(path: str) -> list[Cause]:
    """Return the causes that concern the whole volume: too little space, too few inodes."""
    try:
        room = os.statvfs(path)
    except OSError:
        return []
    found = []
    if room.f_blocks and room.f_bavail < MIN_FREE * room.f_blocks:
        free = room.f_bavail * room.f_frsize // (1 << 20)
        found.append(
            Cause(
                "disk",
                "warning" if room.f_bavail else "error",
                f"the volume is nearly full: {free} MiB are left",
                "free some space: on a full volume, senders get exit code 75",
                not room.f_bavail,
            )
        )
    if room.f_files and room.f_favail < MIN_FREE * room.f_files:
        found.append(
            Cause(
                "inodes",
                "warning" if room.f_favail else "error",
                f"the volume has {room.f_favail} free inodes left",
                "free some: each message needs one",
                not room.f_favail,
            )
        )
    return found


def _listeners(box: BoxStatus, silent: float, busy: float) -> Iterator[Cause]:
    """Yield the worst cause of each listener. They block if every consumer has one."""
    found = [cause for each in box.listeners if (cause := _listener(each, silent, busy)) is not None]
    all_consumers = max(len(box.listeners), box.consumers)
    for cause in found:
        yield replace(cause, blocks=len(found) == all_consumers)


def _listener(each: ListenerInfo, silent: float, busy: float) -> Cause | None:
    if each.busy is None and each.silent > max(silent, _REPORTS * each.interval):
        return Cause(
            "stopped",
            "error",
            f"the listener {each.consumer} lives, and has not reported for {duration_text(each.silent)}",
            "it is stopped (SIGSTOP, a frozen container), or the machine is overloaded: `kill -CONT` continues it",
        )
    if each.paused is not None:
        since = f" for {duration_text(seconds_since(each.paused_since))}" if each.paused_since else ""
        return Cause(
            "keys" if "MAILBOX_KEY_DIR" in (each.paused_hint or "") else "paused",
            "error",
            f"the listener {each.consumer} has been paused{since}: {each.paused}",
            each.paused_hint or "the mail is left where it is; start the listener again with a command that works",
        )
    if each.retries_in_a_row >= STORM:
        when = f" ({duration_text(seconds_since(each.last_error_at))} ago)" if each.last_error_at else ""
        return Cause(
            "retries",
            "error",
            f"the last {each.retries_in_a_row} attempts of the listener {each.consumer} failed: "
            f"{each.last_error}{when}",
            "messages become dead letters after their last attempt: stop the listener until the cause is gone",
        )
    if each.busy is not None and each.busy_for > busy:
        return Cause(
            "busy",
            "warning",
            f"the listener {each.consumer} has been at {each.busy} for {duration_text(each.busy_for)}",
            "does its handler hang? `mailbox watch --timeout` and `@box.on(timeout=…)` end it",
        )
    return None


def _unattended(box: BoxStatus) -> Iterator[Cause]:
    """Mail, and no process that listens."""
    if box.has_listener:
        return
    gone = box.stopped
    last = (
        f"; the last one ended {duration_text(max(0.0, seconds_since(gone.looked)))} ago: {gone.stopped}"
        if gone is not None
        else ""
    )
    if not box.waiting:
        if gone is not None:
            yield Cause("no-listener", "warning", f"no listener{last}", "start it again", blocks=True)
        return
    waits = f"{counted(box.waiting, 'message')} waiting"
    waits += f", the oldest for {duration_text(box.oldest)}" if box.oldest is not None else ""
    keyless = gone is not None and "KeyNotFoundError" in (gone.stopped or "")
    if box.sealed or keyless:
        sealed = f", {box.sealed} of them sealed" if box.sealed else ""
        yield Cause(
            "keys" if keyless else "no-listener",
            "warning",
            f"{waits}{sealed}, and there is no listener{last}",
            f"a consumer without its key leaves sealed mail and ends with exit code 4: MAILBOX_KEY_DIR names the "
            f"folder of {box.name}.key",
            blocks=True,
        )
        return
    yield Cause(
        "no-listener",
        "warning",
        f"{waits}, and there is no listener{last}",
        f"run `mailbox watch --as {box.name}` or `mailbox receive --as {box.name}`",
        blocks=True,
    )


def _types(box: BoxStatus) -> Iterator[Cause]:
    """Mail of types that no listener takes. A consumer without a status file may take any."""
    if not box.listeners or box.consumers > len(box.listeners):
        return
    taken: set[str] = set()
    for each in box.listeners:
        if each.types is None:
            return
        taken.update(each.types)
    left = {kind: number for kind, number in box.types.items() if kind not in taken}
    for kind, number in sorted(left.items()):
        yield Cause(
            "type",
            "warning",
            f"{counted(number, 'message')} {'of the type ' + quoted(kind) if kind else 'without a type'} waiting, and "
            f"no listener takes that: they take {', '.join(map(quoted, sorted(taken))) or 'nothing'}",
            "start a listener for it, or one without --type (`@box.on()` without a type), which takes all",
            blocks=sum(left.values()) == box.waiting,
        )


def _keys(box: BoxStatus) -> Iterator[Cause]:
    for each in box.listeners:
        if each.without_key:
            yield Cause(
                "keys",
                "warning",
                f"the listener {each.consumer} deferred {counted(each.without_key, 'sealed message')}: the box has "
                "no key",
                "MAILBOX_KEY_DIR names the folder of the key; without one, sealed mail waits",
            )


def _notifications(box: BoxStatus) -> Iterator[Cause]:
    for each in box.listeners:
        if each.watch:
            yield Cause(
                "notifications",
                "warning",
                f"the listener {each.consumer} has no notifications: {each.watch}",
                "it polls every --poll-interval",
            )
        elif each.missed >= _MIN_MISSED and each.missed > each.announced:
            yield Cause(
                "notifications",
                "warning",
                f"notifications do not work: of {each.missed + each.announced} messages, {each.missed} were found "
                "only by polling",
                "a shorter --poll-interval finds mail sooner",
            )


def _clock(box: BoxStatus) -> Iterator[Cause]:
    hint = "synchronize the clocks (NTP): delays, lifetimes and leases are counted by them"
    if box.ahead > _AHEAD:
        yield Cause(
            "clock", "warning", f"a waiting message is {duration_text(box.ahead)} ahead of the clock here", hint
        )
    for each in box.listeners:
        if each.silent < -_AHEAD:
            yield Cause(
                "clock",
                "warning",
                f"the clock of the listener {each.consumer} is {duration_text(-each.silent)} ahead of the clock here",
                hint,
            )
