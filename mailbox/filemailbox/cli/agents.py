"""Who is there, who listens, how far behind: agents, status."""

from typing import TYPE_CHECKING, Any

from ..format.address import parse_address
from ..format.timestamp import to_nanoseconds
from ..store.root import find_root
from .common import Json, Root, path_of
from .options import Annotated, Arg

if TYPE_CHECKING:
    from ..ops.inventory import BoxStatus


def agents_(*, json: Json = False, root: Root = None) -> None:
    """List the boxes: who listens, how much waits, for how long. What we may not look into is shown as ?.

    Examples:
      mailbox agents
      mailbox agents --json | jq -r 'select(.waiting > 0 and (.has_listener | not)) | .name'
    """
    from ..ops import inventory
    from . import output

    found = find_root(path_of(root))
    with output.Progress("looking at boxes") as progress:
        standings = []
        for each in inventory.all_boxes(found):
            standings.append(each)
            progress.step(f"looked at {each.name}")
    if json:
        for each in standings:
            output.write(output.json(_facts(each)))
        return
    head = ("AGENT", "LISTENS", "WAITING", "OLDEST", "LATER", "HELD", "DEAD", "UID")
    output.table(head, map(_row, standings))


def status_(
    name: Annotated[list[str], Arg("[NAME...]", "Boxes; none: $MAILBOX_AGENT, or all.", read=parse_address)] = (),  # type: ignore[assignment]
    *,
    json: Json = False,
    root: Root = None,
) -> None:
    """Tell of boxes, in words: what waits, who listens and whether it keeps up, what is held or dead.

    Examples:
      mailbox status bob
      mailbox status --json | jq .waiting
    """
    import os

    from ..ops import inventory
    from . import output

    found = find_root(path_of(root))
    own = os.environ.get("MAILBOX_AGENT")
    for each in name or ([parse_address(own)] if own else found.boxes()):
        try:
            standing = inventory.box_status(found, parse_address(each))
        except LookupError:
            if name or own:
                raise
            continue  # removed in between
        if json:
            output.write(output.json(_facts(standing)))
            continue
        print(output.bold(standing.name))
        for line in _told(standing):
            print(f"  {output.one_line(line)}")
    if not (name or own or json):
        from ..documents.upkeep import summary

        if documents := summary(found):
            print(output.one_line(documents))


def _row(each: "BoxStatus") -> tuple[str, ...]:
    from . import output

    numbers = (each.waiting, each.later, each.held, each.dead)
    waiting, later, held, dead = ("?" if number is None else str(number) for number in numbers)
    oldest = "" if each.oldest is None else output.span(each.oldest) if output.is_tty() else f"{each.oldest:.0f}"
    return (each.name, _listens(each), waiting, oldest, later, held, dead, str(each.uid))


def _listens(each: "BoxStatus") -> str:
    """In a word."""
    if each.listeners:
        return "busy" if all(one.busy for one in each.listeners) else "yes"
    if each.has_listener:
        return "yes"
    return "no" if each.new is not None else "?"


def _told(each: "BoxStatus") -> list[str]:
    from ..format.times import from_nanoseconds
    from . import output

    if each.trouble is not None:
        return [f"it cannot be looked into: {each.trouble}"]
    if each.new is None:
        return ["we may not look into it: it is another user's" + (", and somebody listens" if each.bells else "")]
    oldest = f", the oldest for {output.span(each.oldest)}" if each.oldest is not None else ""
    told = [f"waiting: {each.waiting}{oldest}"]
    if each.later:
        told.append(f"put off: {each.later}")
    if each.held:
        leased = sum(lease.held for lease in each.leases)
        told.append(f"held: {each.held}" + (f", {leased} of them under a lease" if leased else ""))
    for lease in each.leases:
        if lease.held:
            until = from_nanoseconds(to_nanoseconds(lease.deadline))
            told.append(f"lease: {lease.held}, {'ran out' if lease.over else 'runs out'} {output.when(until)}")
    for label, number in (("dead letters", each.dead), ("kept", each.done)):
        if number:
            told.append(f"{label}: {number}")
    for one in each.listeners:
        doing = f"at work on {one.busy}" if one.busy else "idle"
        told.append(
            f"listener {one.consumer}: {doing}, last heard of {output.span(max(0, one.silent))} ago, "
            f"handled {one.handled}; announced {one.announced}, found by looking {one.missed}"
        )
        if one.watch:
            told.append(f"listener {one.consumer}: its watch does not work: {one.watch}")
    if not each.listeners:
        told.append("somebody listens" if each.has_listener else "nobody listens")
    return told


def _facts(each: "BoxStatus") -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(each), "waiting": each.waiting, "has_listener": each.has_listener}
