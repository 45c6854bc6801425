"""Boxes: make them, remove them."""

import os

from ..errors import MailboxError
from ..store.box import create_box
from ..store.box_settings import write_box_settings
from ..store.removed_boxes import remove_box
from ..store.root import find_root, init_root, set_marker
from . import output
from .common import Names, Root, path_of
from .options import Annotated, Opt, count, duration, owner, uid

JsonBox = Annotated[bool, Opt("--json", help="Print one line of JSON for each box.")]


def init_(
    name: Names,
    *,
    owner: Annotated[
        tuple[int, int] | None,
        Opt("--owner", metavar="UID:GID", read=owner, help="Who reads the boxes; only root can give them away."),
    ] = None,
    relay: Annotated[bool, Opt("--relay", help="With outboxes, from which a relay carries mail to elsewhere.")] = False,
    relay_uid: Annotated[
        int | None, Opt("--relay-uid", metavar="UID", read=uid, help="Who the relay runs as. [who runs this]")
    ] = None,
    max_attempts: Annotated[
        int | None,
        Opt("--max-attempts", metavar="N", read=count, help="Attempts at a message before it is a dead letter. [10]"),
    ] = None,
    retry_delay: Annotated[
        float | None,
        Opt("--retry-delay", metavar="DURATION", read=duration, help="Before the second; doubled for each other. [1s]"),
    ] = None,
    max_retry_delay: Annotated[
        float | None,
        Opt("--max-retry-delay", metavar="DURATION", read=duration, help="Longest time between two attempts. [5m]"),
    ] = None,
    retention: Annotated[
        float | None,
        Opt("--retention", metavar="DURATION", read=duration, help="Keep handled mail so long: 7d … [not at all]"),
    ] = None,
    expired_retention: Annotated[
        float | None,
        Opt("--expired-retention", metavar="DURATION", read=duration, help="Keep expired mail in dead/ so long."),
    ] = None,
    dead_retention: Annotated[
        float | None, Opt("--dead-retention", metavar="DURATION", read=duration, help="Keep dead letters so long.")
    ] = None,
    json: JsonBox = False,
    root: Root = None,
) -> None:
    """Make boxes, and the root if there is none. Set how long their mail is tried and kept.

    A box that is there already keeps its mail and settings; folders that it lacks are made, options that are given are
    set. Its consumers take the settings when they start, and can override those of attempts and retention.

    Examples:
      mailbox init alice bob
      mailbox init --root ./mail builder
      mailbox init --retention 7d --expired-retention 1d bob
      mailbox init --owner 2001:2001 bob
      mailbox init --relay --relay-uid 990 --owner 2001:2001 bob
    """
    path = path_of(root)
    if not os.path.isdir(path):
        output.info(f"making the root {os.path.abspath(path)}")
    found = init_root(path)
    if owner is not None and os.geteuid() == 0:
        from ..agents.reservations import FOLDER
        from ..documents.folders import open_to_all

        open_to_all(found, FOLDER)
    if relay or relay_uid is not None:
        set_marker(found, "relay", os.geteuid() if relay_uid is None else relay_uid)
    settings: dict[str, float | None] = {
        "max_attempts": max_attempts,
        "retry_delay": retry_delay,
        "max_retry_delay": max_retry_delay,
        "retention": retention,
        "expired_retention": expired_retention,
        "dead_retention": dead_retention,
    }
    given = {setting: value for setting, value in settings.items() if value is not None}
    for each in name:
        before = _owner(found.box(each).path)
        made = create_box(found.box(each), owner, outbox=relay)
        given_away = owner is not None and not made and before != owner
        if json:
            output.write(output.json({"name": each, "made": made}))
        else:
            moved = f", and belongs to {owner[0]}:{owner[1]} now" if owner is not None and given_away else ""
            output.info(f"{each}: {'made' if made else 'was there'}{moved}")
        if given:
            write_box_settings(found.box(each), given)


def _owner(path: str) -> tuple[int, int] | None:
    """Return uid and gid of the folder at *path*; None if there is none."""
    try:
        st = os.stat(path)
    except OSError:
        return None
    return st.st_uid, st.st_gid


def remove_(
    name: Names,
    *,
    force: Annotated[bool, Opt("--force", help="Also with mail in it; the box is kept aside.")] = False,
    json: JsonBox = False,
    root: Root = None,
) -> int:
    """Remove boxes.

    A box with mail or with a listener is not removed unless forced. If forced, a box with mail is moved to
    ROOT/.removed, and its new path is printed.

    Examples:
      mailbox remove bob
      mailbox remove --force bob
    """
    from . import exit_codes

    found, code = find_root(path_of(root)), 0
    for each in name:
        try:
            kept = remove_box(found.box(each), force)
        except MailboxError as error:  # the others can still go
            output.error(error)
            code = code or exit_codes.of_error(error)
            continue
        if json:
            output.write(output.json({"name": each, "removed": True, "kept": kept or None}))
            continue
        output.info(f"{each}: {'removed; its mail is kept aside' if kept else 'removed'}")
        if kept:
            print(kept)
    return code
