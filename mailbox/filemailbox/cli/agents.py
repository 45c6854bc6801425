"""Who is there, who listens, how far behind: agents, status."""

from typing import TYPE_CHECKING, Any

from .. import names
from .. import root as roots
from .identity import Json, Root, path_of
from .options import Annotated, Arg

if TYPE_CHECKING:
    from ..roster import Standing


def agents_(*, json: Json = False, root: Root = None) -> None:
    """List the boxes: who listens, how much waits, for how long. What we may not look into is shown as ?.

    Examples:
      mailbox agents
      mailbox agents --json | jq -r 'select(.waiting > 0 and (.attended | not)) | .name'
    """
    from .. import roster
    from . import show

    found = roots.find(path_of(root))
    with show.Progress("looking at boxes") as progress:
        standings = []
        for each in roster.roster(found):
            standings.append(each)
            progress.step(f"looked at {each.name}")
    if json:
        for each in standings:
            show.write(show.json(_facts(each)))
        return
    head = ("AGENT", "LISTENS", "WAITING", "OLDEST", "LATER", "HELD", "DEAD", "UID")
    show.table(head, map(_row, standings))


def status_(
    name: Annotated[list[str], Arg("[NAME...]", "Boxes; none: $MAILBOX_AGENT, or all.", read=names.address)] = (),  # type: ignore[assignment]
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

    from .. import roster
    from . import show

    found = roots.find(path_of(root))
    own = os.environ.get("MAILBOX_AGENT")
    for each in name or ([names.address(own)] if own else found.boxes()):
        try:
            standing = roster.standing(found, names.address(each))
        except LookupError:
            if name or own:
                raise
            continue  # removed in between
        if json:
            show.write(show.json(_facts(standing)))
            continue
        print(show.bold(standing.name))
        for line in _told(standing):
            print(f"  {show.line(line)}")


def _row(each: "Standing") -> tuple[str, ...]:
    from . import show

    numbers = (each.waiting, each.later, each.held, each.dead)
    waiting, later, held, dead = ("?" if number is None else str(number) for number in numbers)
    oldest = "" if each.oldest is None else show.span(each.oldest) if show.person() else f"{each.oldest:.0f}"
    return (each.name, _listens(each), waiting, oldest, later, held, dead, str(each.uid))


def _listens(each: "Standing") -> str:
    """In a word."""
    if each.listeners:
        return "busy" if all(one.busy for one in each.listeners) else "yes"
    if each.attended:
        return "yes"
    return "no" if each.new is not None else "?"


def _told(each: "Standing") -> list[str]:
    from ..message import moment
    from . import show

    if each.trouble is not None:
        return [f"it cannot be looked into: {each.trouble}"]
    if each.new is None:
        return ["we may not look into it: it is another user's" + (", and somebody listens" if each.bells else "")]
    oldest = f", the oldest for {show.span(each.oldest)}" if each.oldest is not None else ""
    told = [f"waiting: {each.waiting}{oldest}"]
    if each.later:
        told.append(f"put off: {each.later}")
    if each.held:
        leased = sum(lease.held for lease in each.leases)
        told.append(f"held: {each.held}" + (f", {leased} of them under a lease" if leased else ""))
    for lease in each.leases:
        if lease.held:
            until = moment(names.nanoseconds(lease.deadline))
            told.append(f"lease: {lease.held}, {'ran out' if lease.over else 'runs out'} {show.when(until)}")
    for label, number in (("dead letters", each.dead), ("kept", each.done)):
        if number:
            told.append(f"{label}: {number}")
    for one in each.listeners:
        doing = f"at work on {one.busy}" if one.busy else "idle"
        told.append(
            f"listener {one.consumer}: {doing}, last heard of {show.span(max(0, one.silent))} ago, "
            f"handled {one.handled}; announced {one.announced}, found by looking {one.missed}"
        )
        if one.watch:
            told.append(f"listener {one.consumer}: its watch does not work: {one.watch}")
    if not each.listeners:
        told.append("somebody listens" if each.attended else "nobody listens")
    return told


def _facts(each: "Standing") -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(each), "waiting": each.waiting, "attended": each.attended}
