"""The boxes at a glance: agents, status."""

import os
import time
from typing import TYPE_CHECKING

from ..format.address import Address, parse_address
from ..format.timestamp import to_nanoseconds
from ..format.wording import duration_text
from ..store.root import find_root
from . import output
from .common import As, Root, path_of, some_names
from .options import Annotated, Arg, Opt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from ..ops.inventory import BoxStatus
    from ..receive.status import ListenerInfo
    from ..store.root import Root as Root_

Json = Annotated[bool, Opt("--json", help="Print one line of JSON for each box.")]


def agents_(*, json: Json = False, root: Root = None) -> None:
    """List the boxes: listeners, waiting mail and its age. A number that you may not see is shown as ?.

    Examples:
      mailbox agents
      mailbox agents --json | jq -r 'select(.waiting > 0 and (.has_listener | not)) | .name'
    """
    from ..ops import inventory, stalls

    found = find_root(path_of(root))
    boxes, sessions = [], {}
    with output.Progress("examining boxes") as progress:
        for box in inventory.all_boxes(found):
            boxes.append(box)
            sessions[box.name] = _sessions(found, box)
            progress.step(f"examined {box.name}")
    if json:
        for box in boxes:
            output.write(output.json(_record(box, sessions[box.name])))
        return
    head = ("AGENT", "LISTENS", "WAITING", "OLDEST", "DEFERRED", "CLAIMED", "DEAD", "UID", "STALLED")
    output.table(head, (_row(box, sessions[box.name]) for box in boxes))
    for cause in stalls.volume_causes(found.path):
        output.info(f"{cause.severity}: {cause.problem}")


def status_(
    name: Annotated[list[Address], Arg("[NAME...]", "Boxes. [$MAILBOX_AGENT, else all]", read=parse_address)] = (),  # type: ignore[assignment]
    *,
    json: Json = False,
    sender: As = None,
    root: Root = None,
) -> None:
    """Describe boxes in words: waiting, claimed and dead mail, and whether each listener keeps up.

    Examples:
      mailbox status bob
      mailbox status --json | jq .waiting
    """
    from ..ops import inventory, stalls

    found = find_root(path_of(root))
    name, own = some_names(name, sender), os.environ.get("MAILBOX_AGENT")
    for address in name or ([parse_address(own)] if own else found.boxes()):
        try:
            box = inventory.box_status(found.box(parse_address(address)))
        except LookupError:
            if name or own:
                raise
            continue  # removed in between
        if json:
            output.write(output.json(_record(box, _sessions(found, box))))
            continue
        print(output.bold(box.name))
        for line in _lines(box):
            print(f"  {output.one_line(line)}")
        for session in _sessions(found, box):
            print(f"  {output.one_line(_session(session))}")
    for cause in () if json else stalls.volume_causes(found.path):
        print(f"{cause.severity}: {cause.problem}")
    if not (name or own or json):
        from ..documents.upkeep import summary

        if documents := summary(found):
            print(output.one_line(documents))


def _sessions(root: "Root_", box: "BoxStatus") -> "list[dict[str, Any]]":
    """The sessions of AI agents in a box that the kernel proves to live, by a doorbell or by a lock."""
    from ..agents.notes import sessions

    found = sessions(root.box(parse_address(box.name)))
    return [session for session in found if session.pop("is_proven") or box.has_listener]


def _session(session: "dict[str, Any]") -> str:
    since = duration_text(max(0.0, time.time() - session["since"]))
    holds = f", holds {session['holds']}" if session["holds"] else ""
    return f"session {session['session']} of {session['client']}: {session['doing']} for {since}{holds}"


def _record(box: "BoxStatus", sessions: "list[dict[str, Any]]") -> "dict[str, Any]":
    from ..ops import stalls

    more = {"sessions": sessions} if sessions else {}
    return {**box.as_dict(), **more, "causes": [cause.as_dict() for cause in stalls.causes(box)]}


def _row(box: "BoxStatus", sessions: "list[dict[str, Any]]") -> tuple[str, ...]:
    from ..ops import stalls

    numbers = (box.waiting, box.deferred, box.claimed, box.dead)
    waiting, deferred, claimed, dead = ("?" if number is None else str(number) for number in numbers)
    oldest = "" if box.oldest is None else duration_text(box.oldest) if output.is_tty() else f"{box.oldest:.0f}"
    stalled = next((cause.kind for cause in stalls.causes(box)), "")
    listens = _listens(box)
    if listens == "yes" and sessions:
        listens = "working" if any(session["doing"] == "working" for session in sessions) else "idle"
    return (box.name, listens, waiting, oldest, deferred, claimed, dead, str(box.uid), stalled)


def _listens(box: "BoxStatus") -> str:
    if box.listeners:
        if all(listener.paused for listener in box.listeners):
            return "paused"
        return "busy" if all(listener.busy for listener in box.listeners) else "yes"
    if box.has_listener:
        return "yes"
    return "no" if box.new is not None else "?"


def _lines(box: "BoxStatus") -> "Iterator[str]":
    if box.problem is not None:
        yield f"it cannot be examined: {box.problem}"
        return
    if box.new is None:
        yield "it belongs to another user, and its contents cannot be seen" + (
            "; it has a listener" if box.doorbells else ""
        )
        return
    from ..ops import stalls

    for cause in stalls.causes(box):
        if cause.severity != "note":
            yield f"{cause.severity}: {cause.problem}" + (f" — {cause.hint}" if cause.hint else "")
    yield f"waiting: {box.waiting}" + (
        f", the oldest for {duration_text(box.oldest)}" if box.oldest is not None else ""
    )
    if box.deferred:
        yield f"deferred: {stalls.deferred_text(box)}"
    if box.claimed:
        leased = sum(lease.claimed for lease in box.leases)
        yield f"claimed: {box.claimed}" + (f", {leased} of them under a lease" if leased else "")
    yield from _leases(box)
    for label, number in (("dead letters", box.dead), ("done", box.done)):
        if number:
            yield f"{label}: {number}"
    if settings := ", ".join(_settings(box.settings)):
        yield f"settings: {settings}"
    for listener in box.listeners:
        yield from _listener(listener)
    if not box.listeners:
        yield "it has a listener, which writes no report" if box.has_listener else "no listener"


def _settings(settings: "Mapping[str, Any]") -> "Iterator[str]":
    """The settings of a box, each in words."""
    words = {
        "max_attempts": "{} attempts",
        "retry_delay": "the second after {}",
        "max_retry_delay": "at most {} between them",
        "retention": "handled mail kept for {}",
        "expired_retention": "expired mail for {}",
        "dead_retention": "dead letters for {}",
    }
    for name, text in words.items():
        if name in settings:
            yield text.format(settings[name] if name == "max_attempts" else duration_text(settings[name]))


def _leases(box: "BoxStatus") -> "Iterator[str]":
    from ..format.times import from_nanoseconds

    for lease in box.leases:
        if lease.claimed:
            deadline = output.when(from_nanoseconds(to_nanoseconds(lease.deadline)))
            yield f"lease: {lease.claimed}, {'expired' if lease.expired else 'expires'} {deadline}"


def _listener(listener: "ListenerInfo") -> "Iterator[str]":
    from ..receive.status import seconds_since

    doing = "idle"
    if listener.paused:
        doing = "paused"
    elif listener.busy:
        doing = f"busy with {listener.busy} for {duration_text(max(0, listener.busy_for))}"
    takes = "" if listener.types is None else f", takes {', '.join(listener.types)}"
    yield (
        f"listener {listener.consumer}: {doing}, reported {duration_text(max(0, listener.silent))} ago{takes}, "
        f"handled {listener.handled}, failed {listener.failed}; announced {listener.announced}, found by polling "
        f"{listener.missed}"
    )
    if listener.last_error:
        ago = f" {duration_text(max(0, seconds_since(listener.last_error_at)))} ago" if listener.last_error_at else ""
        yield f"listener {listener.consumer}: last error{ago}: {listener.last_error}"
