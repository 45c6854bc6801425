"""Drop boxes: what each uid can do in each folder of a box that `mailbox init bob --owner UID:GID` made.

Children become those uids, also in user namespaces, and try everything; what the kernel answers is compared with the
tables in tests/dropbox/.
MAILBOX_WRITE_TABLES=1 scripts/test tests/system/test_dropbox.py writes them anew: read the diff.
"""

import ctypes
import errno
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from filemailbox import Mailbox
from filemailbox.cli.run import main
from filemailbox.format.address import parse_address
from filemailbox.store import replies
from filemailbox.store.ids import new_id
from filemailbox.store.layout import FOLDERS
from support.paths import TESTS
from support.uids import Actor, act

pytestmark = pytest.mark.usefixtures("as_root")

TABLES = TESTS / "dropbox"
WRITE = bool(os.environ.get("MAILBOX_WRITE_TABLES"))
BOB = parse_address("bob")

_EXCHANGE: Final = 2  # RENAME_EXCHANGE
_HERE: Final = -100  # AT_FDCWD
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class World:
    """Who is who."""

    name: str
    about: str
    recipient: Actor
    sender: Actor
    attacker: Actor
    root: Actor

    @property
    def actors(self) -> tuple[Actor, ...]:
        return self.recipient, self.sender, self.attacker, self.root


def world(name: str, about: str, *bases: int | None) -> World:
    uids = {"recipient": 2001, "sender": 2002, "attacker": 2003, "root": 0}
    return World(name, about, *(Actor(*who, base) for who, base in zip(uids.items(), bases, strict=True)))


WORLDS = [
    world("plain", "a uid each, no user namespaces", None, None, None, None),
    world(
        "one-map", "a uid each, all in user namespaces of one map (userns-remap)", 100_000, 100_000, 100_000, 100_000
    ),
    world("a-map-each", "user namespaces with a map each; root is the attacker's", 100_000, 200_000, 300_000, 300_000),
]
each_world = pytest.mark.parametrize("world", WORLDS, ids=[each.name for each in WORLDS])


def exchange(one: str, other: str) -> None:
    if _LIBC.renameat2(_HERE, one.encode(), _HERE, other.encode(), _EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


@dataclass(frozen=True)
class Try:
    """Where one operation is tried: nothing of it meets another."""

    folder: str
    file: str  # one that the sender wrote
    fresh: str  # no such name in the folder
    own: str  # a file of the actor's, on the same mount


OPERATIONS: Final[dict[str, Callable[[Try], object]]] = {
    "create a file": lambda at: os.close(os.open(at.fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)),
    "make a folder": lambda at: os.mkdir(at.fresh),
    "make a symlink": lambda at: os.symlink(at.file, at.fresh),
    "move a file in": lambda at: os.rename(at.own, at.fresh),
    "hard link a file in": lambda at: os.link(at.own, at.fresh),
    "list": lambda at: os.listdir(at.folder),
    "change its mode": lambda at: os.chmod(at.folder, os.stat(at.folder).st_mode & 0o7777),
    "file: look at it": lambda at: os.stat(at.file),
    "file: read it": lambda at: os.close(os.open(at.file, os.O_RDONLY)),
    "file: write to it": lambda at: os.close(os.open(at.file, os.O_WRONLY)),
    "file: change its mode": lambda at: os.chmod(at.file, 0o666),
    "file: hard link it": lambda at: os.link(at.file, f"{at.own}-link"),
    "file: rename it": lambda at: os.rename(at.file, at.fresh),
    "file: take it out": lambda at: os.rename(at.file, f"{at.own}-taken"),
    "file: rename over it": lambda at: os.rename(at.own, at.file),
    "file: exchange it": lambda at: exchange(at.own, at.file),
    "file: delete it": lambda at: os.unlink(at.file),
}
"""What is tried. Of a file its name is known: the worst case."""

DROPS: Final = ("tmp", "new", "replies", "replies/ID")
OPEN: Final = {"create a file", "make a folder", "make a symlink", "move a file in", "hard link a file in"}


def make(volume: Path, world: World) -> None:
    """The box, a request that waits in it, and a folder outside of it for each actor."""
    me = world.recipient
    assert main(["init", "--root", str(volume), "--owner", f"{me.outside}:{me.outside}", "bob"]) == 0
    for actor in world.actors:
        scratch = volume.parent / actor.name
        scratch.mkdir(mode=0o700)
        os.chown(scratch, actor.outside, actor.outside)
    request = new_id()
    act(me, lambda: replies.PendingRequest(f"{volume}/bob", request).__enter__())
    os.rename(volume / "bob/replies" / request, volume / "bob/replies/ID")


def prepare(volume: Path, world: World) -> dict[str, dict[tuple[str, str], Try]]:
    """A file for each cell of the table, as the sender's mail is: its own, of the recipient's group, 0640."""
    folders = {name: volume / "bob" / name for name in (*FOLDERS, "replies/ID")}
    folders |= {"the box": volume / "bob", "the volume": volume}
    tries: dict[str, dict[tuple[str, str], Try]] = {}
    for actor in world.actors:
        cells = tries[actor.name] = {}
        for folder, path in folders.items():
            for number, operation in enumerate(OPERATIONS):
                mark = f"{actor.name}-{number}"
                at = Try(
                    str(path),
                    f"{path}/file-{mark}",
                    f"{path}/fresh-{mark}",
                    f"{volume.parent}/{actor.name}/{folder.replace('/', '-')}-{number}",
                )
                Path(at.file).touch()
                os.chmod(at.file, 0o640)
                os.chown(at.file, world.sender.outside, world.recipient.outside)
                Path(at.own).touch()
                os.chown(at.own, actor.outside, actor.outside)
                cells[folder, operation] = at
    return tries


def attempt(cells: dict[tuple[str, str], Try]) -> list[str]:
    """What the kernel answers, for each cell."""
    answers = []
    for (_, operation), at in cells.items():
        try:
            OPERATIONS[operation](at)
        except OSError as error:
            answers.append(errno.errorcode[error.errno or 0])
        else:
            answers.append("yes")
    return answers


@pytest.fixture
def links_are_guarded() -> None:
    if Path("/proc/sys/fs/protected_hardlinks").read_text() != "1\n":
        pytest.skip("fs.protected_hardlinks is 0 here: the tables are of a kernel that has it, as all distributions do")


@each_world
def test_what_each_uid_can_do_in_a_box(links_are_guarded: None, shared: Path, world: World) -> None:
    """Others drop, and do nothing else; the owner does all. A golden table for each world."""
    volume = shared / "mail"
    make(volume, world)
    tries = prepare(volume, world)
    answers = {
        actor.name: dict(zip(tries[actor.name], act(actor, partial(attempt, tries[actor.name])), strict=True))
        for actor in world.actors
    }
    who = {actor.name: f"{actor.name} {actor.outside}" for actor in world.actors}
    lines = [
        f"# {world.about[0].upper()}{world.about[1:]}: what the kernel answers in a box of the recipient's.",
        "# The files were written by the sender, mode 0640. Their names are known: the worst case.",
        "# Made by MAILBOX_WRITE_TABLES=1 scripts/test tests/system/test_dropbox.py",
        "",
        row("folder", "operation", *who.values()),
    ]
    folder = ""
    for cell in tries["sender"]:
        lines += [""] * (folder != cell[0])
        folder = cell[0]
        lines.append(row(*cell, *(answers[name][cell] for name in who)))
    table = TABLES / f"{world.name}.txt"
    text = "\n".join(lines) + "\n"
    if WRITE:
        TABLES.mkdir(exist_ok=True)
        table.write_text(text)
    done = {name: {cell for cell, answer in answers[name].items() if answer == "yes"} for name in answers}

    assert text == table.read_text()
    # Whatever was written into the tables, this holds:
    assert {operation for folder, operation in done["attacker"] if folder in DROPS} == {*OPEN, "file: look at it"}
    assert {folder for folder, _ in done["attacker"]} == {*DROPS, "run", "the box", "the volume"}
    assert {folder for folder, _ in done["sender"]} == {*DROPS, "run", "the box", "the volume"}
    assert all((folder, operation) in done["recipient"] for folder in DROPS for operation in ("list", "file: read it"))
    assert all((folder, "file: delete it") in done["recipient"] for folder in FOLDERS)
    if world.name == "a-map-each":
        assert done["root"] == done["attacker"]


def row(folder: str, operation: str, *cells: str) -> str:
    return f"{folder:<11} {operation:<22} {'  '.join(f'{cell:<16}' for cell in cells)}".rstrip()


def test_no_table_is_left_of_a_world_that_has_gone() -> None:
    """The folder holds the tables of what is tried."""
    assert sorted(path.stem for path in TABLES.iterdir()) == sorted(each.name for each in WORLDS)


def send(volume: Path, umask: int, body: str) -> None:
    os.umask(umask)
    with Mailbox("carol", volume) as carol:
        carol.send("bob", body)


def take(volume: Path) -> dict[str, Any]:
    """All that bob can take, and how what was in it lay there."""
    new = volume / "bob/new"
    lay = {f"{each.stat().st_mode & 0o7777:04o}" for each in new.iterdir()}
    owners = [(each.stat().st_uid, each.stat().st_gid) for each in new.iterdir()]
    taken = []
    with Mailbox("bob", volume) as bob:
        while (message := bob.receive()) is not None:
            taken.append(message.body)
            message.ack()
        dead = [message.problem for message in bob.peek("dead")]
    return {"lay": sorted(lay), "owners": owners, "taken": taken, "dead": dead, "left": os.listdir(new)}


@each_world
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077], ids=lambda umask: f"umask {umask:03o}")
def test_what_our_senders_deliver_can_be_read_and_taken(shared: Path, world: World, umask: int) -> None:
    """Whatever their umask: 0640, their own, of the recipient's group, which setgid hands down."""
    volume = shared / "mail"
    make(volume, world)
    act(world.sender, lambda: send(volume, umask, "hello"))
    facts = next((volume / "bob/new").iterdir()).stat()
    seen = act(world.recipient, lambda: take(volume))

    assert (facts.st_uid, facts.st_gid) == (world.sender.outside, world.recipient.outside)
    assert seen == {"lay": ["0640"], "owners": seen["owners"], "taken": ["hello"], "dead": [], "left": []}
    # A namespace shows who sent it only where it maps that uid: else it is nobody.
    known = world.sender.base == world.recipient.base
    assert seen["owners"] == [[world.sender.uid if known else 65534, world.recipient.uid]]


BY_HAND = {
    "in place": """printf '{"by":"hand"}' >new/x.json""",
    "by rename": """printf '{"by":"hand"}' >tmp/x.json && mv tmp/x.json new/x.json""",
    "by the manual": """printf '{"by":"hand"}' >tmp/x.json && chmod 0640 tmp/x.json && mv tmp/x.json new/x.json""",
}
HIDDEN = "its mode keeps it from its recipient: it must be 0640 or 0644"


@each_world
@pytest.mark.parametrize("umask", ["022", "027", "077"])
@pytest.mark.parametrize("how", BY_HAND)
def test_what_a_shell_drops_is_mail_or_a_dead_letter(shared: Path, world: World, how: str, umask: str) -> None:
    """A umask of 077 keeps it from its recipient, unless the sender minds it; it never keeps the rest from coming."""
    volume = shared / "mail"
    make(volume, world)
    script = f"cd '{volume}/bob' && umask {umask} && {BY_HAND[how]}"
    act(world.sender, lambda: send(volume, 0o022, "before"))
    act(world.sender, lambda: subprocess.run(["/bin/sh", "-c", script], check=True))
    act(world.sender, lambda: send(volume, 0o022, "after"))
    seen = act(world.recipient, lambda: take(volume))
    hidden = umask == "077" and how != "by the manual"

    assert seen["taken"] == (["before", "after"] if hidden else ["before", {"by": "hand"}, "after"])
    assert seen["dead"] == ([HIDDEN] if hidden else [])
    assert seen["left"] == []
