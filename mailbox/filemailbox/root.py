"""The volume and the boxes on it: made, found, removed.

    $MAILBOX_ROOT/              the volume; its mode decides who gets in at all
      .mailbox                  {"format": 1}
      bob/                      a box; its name is the agent's address
        tmp/     3733           being written, never read
        new/     3733           waiting: *.json
        replies/ 3733           one folder for each request that blocks
        cur/     0700           claimed: one folder for each consumer, locked while its process lives
        later/   0700           what comes back: retries, scheduled mail, recovered claims
        dead/    0700           dead letters, the reason beside each
        done/    0700           handled mail, only where retention is on
        ledger/  0700           keys already handled
        run/     0755           doorbells
        outbox/  0700           only where a relay carries mail: what is for addresses that have no box here

3733 is a drop box: others may create a file, but not list, read, replace or delete one. It needs messages of mode
0640 and a group that is the recipient's own, for setgid gives that group to the file; a group that senders share would
let them read each other's mail. So not the customary 3730 or 0660. Where all agents share a uid it protects nothing.

Root builds a new box where nobody else gets in, and gives it away as its last step. In a box that belongs to another it
acts as that one (acting.py), and gives back nothing but what root itself has left there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from functools import partial

from . import acting, codec, names
from .acting import at, opened
from .errors import BoxInUse, Forbidden, NoBox, NoRoot, Storage, Telling, quoted, storage
from .files import READ, kind, read
from .locks import is_held
from .names import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

FORMAT: Final = 1
MARKER: Final = ".mailbox"
_MARK: Final = b'{"format": %d}\n' % FORMAT
FOLDERS: Final = {
    "tmp": 0o3733,
    "new": 0o3733,
    "replies": 0o3733,
    "cur": 0o700,
    "later": 0o700,
    "dead": 0o700,
    "done": 0o700,
    "ledger": 0o700,
    "run": 0o755,
}
OUTBOX: Final = "outbox"
REPLACED: Final = ".new-"
"""How the name of a folder in a box begins that is about to be `new/`, or was."""

_MAIL: Final = ("new", "replies", "cur", "later", "dead", OUTBOX)


class Root:
    """A mail volume that is there and in a format that we know."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Root) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"Root({self.path!r})"

    def box(self, to: Address) -> str:
        """The path of a box, which may not exist."""
        return f"{self.path}/{to}"

    @property
    def attic(self) -> str:
        """The path of the folder of removed boxes, which may not exist."""
        return f"{self.path}/.removed"

    def boxes(self) -> list[Address]:
        """The addresses that have a box here, sorted."""
        try:
            with os.scandir(self.path) as entries:
                found = [entry.name for entry in entries if names.is_address(entry.name) and _is_folder(entry)]
        except OSError as error:
            raise storage(error, f"listing the boxes in {quoted(self.path)}") from error
        return [Address(name) for name in sorted(found)]

    def has(self, name: Address) -> bool:
        """Whether there is a box of that name. Raises Storage where that cannot be known."""
        try:
            return stat.S_ISDIR(os.stat(f"{self.path}/{name}/new").st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except PermissionError:
            return True  # it is there, and closed to us
        except OSError as error:
            raise storage(error, f"looking for the box {quoted(name)}") from error

    def missing(self, name: str) -> NoRoot | NoBox:
        """The error for a box that turned out not to be there: its volume may have gone away as well."""
        try:
            find(self.path)
        except NoRoot as error:
            return error
        with contextlib.suppress(Storage):
            return NoBox(name, self.path, self.boxes())
        return NoBox(name, self.path)


def find(path: str | os.PathLike[str]) -> Root:
    """The root at *path*. Raises NoRoot where there is none, or one of a format that we do not know."""
    where = os.path.abspath(path)
    try:
        marker = os.open(f"{where}/{MARKER}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            text = os.read(marker, 4096)
        finally:
            os.close(marker)
        said = {"format": FORMAT} if text == _MARK else codec.loads(text)  # what we write is known without reading
    except FileNotFoundError:
        why = f"it holds no {MARKER} file" if os.path.isdir(where) else "there is no such folder"
        raise NoRoot(where, why) from None
    except OSError as error:
        raise storage(error, f"reading {quoted(f'{where}/{MARKER}')}") from error
    except ValueError:
        raise NoRoot(where, f"its {MARKER} file is not JSON") from None
    version = said.get("format") if isinstance(said, dict) else None
    if type(version) is bool or version != FORMAT:  # True == 1
        raise NoRoot(where, f"its format is {quoted(version)} and this program knows {FORMAT}")
    return Root(where)


def members(root: Root) -> dict[str, Any]:
    """What the marker of the root says beside its format: `groups`, and `relay`, the uid of the relay."""
    try:
        marker = os.open(f"{root.path}/{MARKER}", READ)  # never through a link: what it says is told to others
        try:
            said = codec.loads(read(marker, 65536)) if stat.S_ISREG(os.fstat(marker).st_mode) else {}
        finally:
            os.close(marker)
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def tell(root: Root, member: str, value: Any) -> None:
    """Let the marker of the root say so, too. Raises Storage."""
    said = {"format": FORMAT, **members(root)}
    if said.get(member) != value:
        try:
            _write(root.path, MARKER, codec.dumps({**said, member: value}, None, codec.LINE).decode())
        except OSError as error:
            raise storage(error, f"writing {quoted(f'{root.path}/{MARKER}')}") from error


def init(path: str | os.PathLike[str]) -> Root:
    """The root at *path*, made where there was none. The folder above it must exist."""
    where = os.path.abspath(path)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(where)
        if not _is_there(f"{where}/{MARKER}"):
            _write(where, MARKER, _MARK.decode())
    except FileNotFoundError as error:
        raise NoRoot(where, f"there is no folder {quoted(os.path.dirname(where))} to make it in") from error
    except OSError as error:
        raise storage(error, f"making the root {quoted(where)}") from error
    return find(where)


def create(root: Root, name: Address, owner: tuple[int, int] | None = None, outbox: bool = False) -> bool:
    """Make the box *name*, for *owner* (uid, gid; default: who runs this). Returns False where it was there already.

    With *outbox* it has one, from which a relay carries mail to addresses that have no box here.
    It is built as `.NAME` and renamed when complete: a crash leaves nothing that looks like a box. A box that is there
    gets the folders it lacks. Only root can give a box away. Raises Storage where the modes did not take.
    """
    there, building = root.box(name), f"{root.path}/.{name}"
    old = os.path.isdir(there)
    try:
        _refuse_stranger(there if old else building, owner or (os.geteuid(), os.getegid()), given=owner is not None)
        if old:
            _furnish(there, owner or _owner(there), mend=False, outbox=outbox)
        else:
            with contextlib.suppress(FileExistsError):
                os.mkdir(building, 0o700)
            _furnish(building, owner or (os.geteuid(), os.getegid()), mend=True, outbox=outbox)
            with opened(root.path, follow=True) as folder:
                os.rename(f".{name}", name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        if not old and os.path.isdir(f"{there}/new"):
            return False  # somebody else was making it, and was faster
        if isinstance(error, Storage):
            raise
        raise storage(error, f"making the box {quoted(name)} in {quoted(root.path)}") from error
    return not old


def remove(root: Root, name: Address, force: bool = False) -> str | None:
    """Remove the box *name*. Refuses (BoxInUse) where there is mail in it or somebody listens, unless *force*.

    With *force* a box that holds mail is kept as `.removed/NAME-STAMP`, the path of which is returned. One rename
    takes it off the map, so that every message is in what was kept or was refused to its sender.
    """
    there = root.box(name)
    if not os.path.isdir(there):
        raise root.missing(name)
    with Telling(f"removing the box {quoted(name)}"):
        if not force:
            _refuse_busy(there, name)
        aside = f"{name}-{names.new_id()}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(root.attic, 0o700)
        with opened(root.path, follow=True) as here, attic(root) as kept:
            os.rename(name, aside, src_dir_fd=here, dst_dir_fd=kept)
            try:
                held = count_mail(f"{root.attic}/{aside}")
                if held and not force:  # it came in between
                    raise _busy(name, held)
            except Exception:
                if not force:  # perhaps there is mail in it
                    os.rename(aside, name, src_dir_fd=kept, dst_dir_fd=here)
                raise
    if held:
        return f"{root.attic}/{aside}"
    with contextlib.suppress(Storage, OSError):  # gc tries again
        discard(root, aside)
    return None


@contextlib.contextmanager
def attic(root: Root) -> Iterator[int]:
    """The folder of removed boxes, open. Raises Forbidden where somebody else has made it, who could take them away."""
    with opened(root.path, follow=True) as here, opened(".removed", here) as kept:
        owner = os.fstat(kept).st_uid
        if owner not in (os.geteuid(), os.fstat(here).st_uid):
            raise Forbidden(
                f"{quoted(root.attic)} belongs to the uid {owner}, not to {os.geteuid()}: somebody else has made it. "
                "Take it away first",
                errno.EEXIST,
            )
        yield kept


def close_attic(root: Root) -> None:
    """Take the folder of removed boxes away, if it is empty. Raises OSError."""
    with opened(root.path, follow=True) as here:
        os.rmdir(".removed", dir_fd=here)


def discard(root: Root, name: str) -> None:
    """Delete *name* of the removed boxes, in which there is no mail, and the folder of these with the last one.

    Each thing in it is deleted by its owner: no more than those could delete themselves. Raises Storage where something
    is left.
    """
    with Telling(f"deleting {quoted(f'{root.attic}/{name}')}"), attic(root) as kept:
        with opened(name, kept) as box:
            acting.call(box, partial(_empty, box))
            if acting.is_foreign(box):
                for folder in listed(box):
                    with contextlib.suppress(OSError), opened(folder, box) as place:
                        _empty_strangers(place)
                acting.call(box, partial(_empty, box))
        os.rmdir(name, dir_fd=kept)
    with contextlib.suppress(OSError):
        close_attic(root)


def _empty(folder: int) -> None:
    import shutil

    for name in listed(folder):
        shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
        for delete in (os.rmdir, os.unlink):  # an empty folder that we may not open, or no folder
            with contextlib.suppress(OSError):
                delete(name, dir_fd=folder)


def _empty_strangers(place: int) -> None:
    """Delete what lies in the folders that others have made in a drop box: each uid does that with its own."""
    theirs: dict[int, list[str]] = {}
    for name in listed(place):
        with contextlib.suppress(OSError):
            facts = os.stat(name, dir_fd=place, follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                theirs.setdefault(facts.st_uid, []).append(name)
    for uid, made in theirs.items():
        with opened(made[0], place, uid) as first:
            if acting.is_foreign(first):
                acting.call(first, partial(_empty_each, place, uid, made))


def _empty_each(place: int, uid: int, made: list[str]) -> None:
    for name in made:
        with contextlib.suppress(OSError), opened(name, place, uid) as folder:
            _empty(folder)


def listed(folder: int) -> list[str]:
    """The names in an open folder."""
    os.lseek(folder, 0, os.SEEK_SET)
    return os.listdir(folder)


def adopt(path: str | int, box: str) -> None:
    """Give what root just made in a box, a path or an open file, to the box's owner. Nothing for others to do.

    What lies at a path may be something else by now: it is given away only if it is root's and nothing is in it.
    """
    if os.geteuid() != 0:
        return
    owner = _owner(box)
    if owner == (0, 0):
        return
    made = isinstance(path, int)
    file = path if isinstance(path, int) else os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = os.fstat(file)
        if stat.S_ISDIR(facts.st_mode):
            harmless = not os.listdir(at(file))
        else:
            harmless = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and (made or facts.st_size == 0)
        if facts.st_uid == 0 and harmless:
            os.chown(at(file), *owner)
    finally:
        if not made:
            os.close(file)


def mend(root: Root, name: Address) -> None:
    """Make the folders that a box lacks, and give all of them the modes and the owner they must have."""
    there = root.box(name)
    try:
        _refuse_stranger(there, _owner(there), given=False)
        _furnish(there, _owner(there), mend=True)
    except OSError as error:
        if isinstance(error, Storage):
            raise
        raise storage(error, f"mending the box {quoted(name)}") from error


def own(path: str, mode: int, owner: tuple[int, int], *, anybodys: bool = False, shown: str = "") -> None:
    """Give *path*, which is ours, or with *anybodys* may be another's, this mode and this owner.

    Raises Forbidden where they do not take; it is called *shown* there.
    """
    name = quoted(shown or path)
    # By descriptor, and never through a link: root must not give away what the owner of a box has put in the way.
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = os.fstat(file)
        if not stat.S_ISDIR(facts.st_mode) and not (stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1):
            raise Forbidden(f"{name} is {kind(facts.st_mode)}, not a folder: somebody has put it there")
        if facts.st_uid not in (os.geteuid(), owner[0]) and not anybodys:
            raise Forbidden(f"{name} belongs to the uid {facts.st_uid}: somebody else has put it there")
        there = f"/proc/self/fd/{file}"
        # chmod before chown: with the capability CHOWN alone the other order loses the setgid bit without a word.
        if facts.st_uid == os.geteuid():
            if facts.st_gid != owner[1] and owner[0] == facts.st_uid:
                os.chown(there, -1, owner[1])  # a setgid parent gave it another group than ours
            os.chmod(there, mode)
        facts = os.fstat(file)
        if (facts.st_uid, facts.st_gid) != owner:
            os.chown(there, *owner)
        facts = os.fstat(file)
    finally:
        os.close(file)
    if stat.S_IMODE(facts.st_mode) != mode or (facts.st_uid, facts.st_gid) != owner:
        raise Forbidden(
            f"{name} has the mode {stat.S_IMODE(facts.st_mode):04o} and the owner "
            f"{facts.st_uid}:{facts.st_gid}, wanted {mode:04o} and {owner[0]}:{owner[1]}: this file system or user "
            "cannot set them"
        )


def _refuse_stranger(path: str, owner: tuple[int, int], *, given: bool) -> None:
    """What somebody else has put there is no box to complete, nor to give away: he may hold its folders open."""
    try:
        facts = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(facts.st_mode):
        raise Forbidden(f"{quoted(path)} is {kind(facts.st_mode)}, not a folder: take it away first", errno.EEXIST)
    if facts.st_uid not in (owner[0], os.geteuid()) and (given or os.path.basename(path).startswith(".")):
        raise Forbidden(
            f"{quoted(path)} is there and belongs to the uid {facts.st_uid}, not to {owner[0]}: somebody else has made "
            "it. Take it away first",
            errno.EEXIST,
        )


def _furnish(box: str, owner: tuple[int, int], *, mend: bool, outbox: bool = False) -> None:
    """Make the folders that *box* lacks. With *mend* those that are there may have been left half made."""
    wanted = {**FOLDERS, OUTBOX: 0o700} if outbox else FOLDERS
    with opened(box) as folder:
        if not acting.is_foreign(folder):
            _fill(folder, box, owner, wanted, mend=mend)
            return
        facts = os.fstat(folder)
        if facts.st_uid != owner[0]:
            raise Forbidden(f"{quoted(box)} belongs to the uid {facts.st_uid}, not to {owner[0]}", errno.EEXIST)
        if facts.st_gid != owner[1]:
            os.fchown(folder, -1, owner[1])
        if mend:
            for name in wanted:
                _give_back(folder, box, name, owner)
        elif _is_complete(folder, wanted):
            return
        acting.call(folder, partial(_fill, folder, box, owner, wanted, mend=mend))


def _fill(box: int, path: str, owner: tuple[int, int], wanted: dict[str, int], *, mend: bool) -> None:
    ours = os.fstat(box).st_uid == os.geteuid()
    if ours and owner[0] != os.geteuid():
        os.fchmod(box, 0o700)  # nobody else gets in before it is given away
    for name, mode in wanted.items():
        try:
            os.mkdir(name, 0o700, dir_fd=box)
        except FileExistsError:
            if not mend:
                continue
        own(at(box, name), mode, owner, anybodys=ours, shown=f"{path}/{name}")
    with opened("cur", box) as cur:
        if not any(name for name in listed(cur) if not name.startswith(".")):
            # The first consumer's folder, so that a box on a full volume can still be drained.
            first = os.urandom(6).hex()
            make_consumer(cur, f".{first}")
            with opened(f".{first}", cur, os.geteuid()) as folder:
                own(at(folder, ".lock"), 0o600, owner)
                own(at(folder, "."), 0o700, owner)
            os.rename(f".{first}", first, src_dir_fd=cur, dst_dir_fd=cur)
    facts = os.fstat(box)
    if (facts.st_uid, facts.st_gid) != owner or stat.S_IMODE(facts.st_mode) != 0o755:
        own(at(box, "."), 0o755, owner, anybodys=ours, shown=path)


def make_consumer(cur: int, name: str) -> None:
    """Make the folder of a consumer in an open `cur/`, with its lock."""
    os.mkdir(name, 0o700, dir_fd=cur)
    with opened(name, cur, os.geteuid()) as folder:
        os.close(os.open(".lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder))


def _give_back(box: int, path: str, name: str, owner: tuple[int, int]) -> None:
    """Give a folder that root left in somebody's box to its owner.

    One of another uid is refused, and so is one that others can write to: its owner may have moved it here, and would
    get what others have in it.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), opened(name, box) as folder:
        facts = os.fstat(folder)
        if facts.st_uid == owner[0]:
            return
        if facts.st_uid != 0 or facts.st_mode & 0o022:
            raise Forbidden(
                f"{quoted(f'{path}/{name}')} belongs to the uid {facts.st_uid}, not to {owner[0]}, and its mode is "
                f"{stat.S_IMODE(facts.st_mode):04o}: somebody else may have put it there. Take it away first, or give "
                "it back by hand",
                errno.EEXIST,
            )
        os.fchown(folder, *owner)


def _is_complete(box: int, wanted: dict[str, int]) -> bool:
    """Whether nothing is to be made in it."""
    if stat.S_IMODE(os.fstat(box).st_mode) != 0o755 or not set(wanted) <= set(listed(box)):
        return False
    with opened("cur", box) as cur:
        return any(not name.startswith(".") for name in listed(cur))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, say: it hides no box
        return False


def _is_there(path: str) -> bool:
    """Raises OSError where that cannot be known: os.path.exists() would say no."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _owner(path: str) -> tuple[int, int]:
    facts = os.stat(path)
    return facts.st_uid, facts.st_gid


def _write(path: str, name: str, text: str) -> None:
    draft = f"{name}.{os.urandom(6).hex()}"
    with opened(path, follow=True) as folder:
        file = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=folder)
        with open(file, "w") as writer:
            os.fchmod(writer.fileno(), 0o644)
            writer.write(text)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)


def _refuse_busy(box: str, name: Address) -> None:
    if mail := count_mail(box):
        raise _busy(name, mail)
    if any(is_held(f"{box}/cur/{name}/.lock") for name in os.listdir(f"{box}/cur") if not name.startswith(".")):
        raise BoxInUse(f"somebody listens to the box {quoted(name)}: stop that first, or force it")


def _busy(name: Address, mail: int) -> BoxInUse:
    return BoxInUse(
        f"the box {quoted(name)} holds {mail} message{'s' if mail > 1 else ''}: handle them first, "
        "or force it, and it is kept aside"
    )


def count_mail(box: str) -> int:
    """How many messages there are in the box at this path, dead letters included and handled mail not."""
    count = 0
    for folder in (*_MAIL, *(name for name in os.listdir(box) if name.startswith(REPLACED))):
        if os.path.islink(f"{box}/{folder}"):
            continue  # no folder of a box: what it leads to may be huge
        for path, folders, files in os.walk(f"{box}/{folder}", onerror=_not_seen):
            if folder == "replies":  # what others have made there is no request, and holds no mail of this box
                folders[:] = [name for name in folders if _is_of_owner(f"{path}/{name}", box)]
            count += sum(name.endswith(".json") for name in files)
    return count


def _is_of_owner(path: str, box: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.lstat(path).st_uid == os.lstat(box).st_uid
    return False


def _not_seen(error: OSError) -> None:
    # os.walk passes over what it cannot list; but mail that we cannot see is mail.
    if not isinstance(error, FileNotFoundError):
        raise storage(error, f"looking for mail in {quoted(error.filename)}") from error
