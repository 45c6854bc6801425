"""A mail volume looked at from outside: what lies where, and what must hold there.

Nothing here is told by the mailbox itself: files are listed and read as anybody could.
"""

import json
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

_ID: Final = re.compile(r"\d{8}T\d{6}\.\d{9}Z-[0-9a-f]{12}")
_SIZE: Final = re.compile(r",S=(\d+)[,.]")
_CONSUMER: Final = re.compile(r"[0-9a-f]{12}")
STATES: Final = ("new", "replies", "cur", "later", "dead", "done")
FOLDERS: Final = (*STATES, "ledger", "run", "tmp")
DAYS: Final = 3 * 86400


@dataclass(frozen=True, slots=True)
class Letter:
    """One file that is mail by its name."""

    box: str
    state: str
    path: str
    id: str | None
    members: dict[str, Any] | None  # None where it is no JSON object

    @property
    def token(self) -> str | None:
        """What our bodies carry, so that a message is known again whatever its name is."""
        return token_of(self.members)


def token_of(members: dict[str, Any] | None) -> str | None:
    """The token in the body of a message; of sealed mail there is none to be seen."""
    body = (members or {}).get("body", members)
    token = body.get("token") if isinstance(body, dict) else None
    return token if isinstance(token, str) else None


def letters(root: str, *states: str) -> list[Letter]:
    """All mail in these states (default: all) of all boxes."""
    found = []
    for box in sorted(os.listdir(root)):
        if box.startswith("."):
            continue
        for state in states or STATES:
            for folder, _, files in os.walk(f"{root}/{box}/{state}"):
                found += [_letter(box, state, f"{folder}/{name}") for name in files if name.endswith(".json")]
    return found


def _letter(box: str, state: str, path: str) -> Letter:
    data = b""
    if stat.S_ISREG(os.lstat(path).st_mode):
        with open(path, "rb") as file:
            data = file.read()
    name = os.path.basename(path)
    id, size = _ID.search(name.partition("~")[2] or name), _SIZE.search(name)
    try:
        members = json.loads(data)
    except ValueError:
        members = None
    if size is not None and int(size[1]) != len(data):
        members = None
    return Letter(box, state, path, id[0] if id else None, members if isinstance(members, dict) else None)


def broken(root: str, planted: frozenset[str] = frozenset(), copies: bool = False) -> Iterator[str]:
    """What must never be seen, at no moment: a partial message, one in two places, one under two ids.

    *planted* are ends of names that we have put there ourselves and that are no mail. With *copies* somebody has copied
    messages under names of his own.
    """
    found = letters(root)
    for each in found:
        if each.members is None and not each.path.endswith(tuple(planted) or "\0"):
            yield f"a message that is not whole: {each.path}"
        ours = each.id is not None and ",N=" not in each.path
        if ours and each.members is not None and each.members.get("id", each.id) != each.id:
            yield f"its name and its content speak of two ids: {each.path}"
    for (box, id), count in Counter((each.box, each.id) for each in found if each.id).items():
        if count > 1:
            yield f"the message {id} is in {count} places of the box {box}"
    ids: dict[str, set[str | None]] = {}
    for each in found:
        if each.token is not None and not (copies and ",N=" in each.path):
            ids.setdefault(each.token, set()).add(each.id)
    for token, several in ids.items():
        if len(several) > 1:
            yield f"the message {token!r} is there under {len(several)} ids"


_FILES = ("settings.json", "handled.json", "sent")  # beside the folders that every box has


def left_over(root: str, aside: bool = False) -> Iterator[str]:
    """What lies there beside mail and the folders of boxes, when nobody is at work. *aside* allows `.removed`."""
    allowed = {".mailbox", *([".removed"] if aside else [])}
    for name in sorted(os.listdir(root)):
        if name in allowed:
            continue
        if name.startswith("."):
            yield f"{root}/{name}"
            continue
        box = f"{root}/{name}"
        yield from (f"{box}/{each}" for each in sorted(os.listdir(box)) if each not in (*FOLDERS, *_FILES))
        yield from (f"{box}/{each} is missing" for each in FOLDERS if not os.path.isdir(f"{box}/{each}"))
        for state in ("tmp", "run", "replies"):
            yield from (f"{box}/{state}/{each}" for each in _names(f"{box}/{state}"))
        yield from (f"{box}/new/{each}" for each in _names(f"{box}/new") if not each.endswith(".json"))
        yield from (f"{box}/later/{each}" for each in _names(f"{box}/later") if not each.endswith(".json"))
        yield from (
            f"{box}/ledger/{each}"
            for each in _names(f"{box}/ledger")
            if each != ".lock" and not re.fullmatch(r"\w+-[\w.-]+\.jsonl", each)
        )
        for each in _names(f"{box}/dead"):
            whose = each.removesuffix(".why") + ".json"
            if not each.endswith(".json") and not os.path.exists(f"{box}/dead/{whose}"):
                yield f"{box}/dead/{each}"
        consumers = _names(f"{box}/cur")
        for each in consumers:
            if _CONSUMER.fullmatch(each) is None:
                yield f"{box}/cur/{each}"
            else:
                yield from (f"{box}/cur/{each}/{name}" for name in _names(f"{box}/cur/{each}") if name != ".lock")
        if len([each for each in consumers if _CONSUMER.fullmatch(each)]) != 1:
            yield f"{box}/cur has {len(consumers)} folders of consumers, and one was to be left"


def age(root: str) -> None:
    """As if everything had been lying there for three days: what is judged by age is old, leases have run out."""
    then = time.time() - DAYS
    for folder, folders, _ in os.walk(root):
        for name in folders:
            if ",U=" in name:
                os.rename(f"{folder}/{name}", f"{folder}/{name[: name.index(',')]},U=20200101T000000.000000000Z")
    for folder, folders, files in os.walk(root, topdown=False):
        for name in (*folders, *files):
            os.utime(f"{folder}/{name}", (then, then), follow_symlinks=False)


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []
