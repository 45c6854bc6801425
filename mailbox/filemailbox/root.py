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
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from . import codec, names
from .errors import BoxInUse, Forbidden, NoBox, NoRoot, Storage, Telling, quoted, storage
from .files import kind
from .locks import is_held
from .names import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
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
                found = [entry.name for entry in entries if names.is_address(entry.name) and entry.is_dir()]
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
    if version != FORMAT:
        raise NoRoot(where, f"its format is {quoted(version)} and this program knows {FORMAT}")
    return Root(where)


def members(root: Root) -> dict[str, Any]:
    """What the marker of the root says beside its format: `groups`, and `relay`, the uid of the relay."""
    try:
        with open(f"{root.path}/{MARKER}", "rb") as marker:
            said = codec.loads(marker.read(65536))
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
                os.mkdir(building)
            _furnish(building, owner or (os.geteuid(), os.getegid()), mend=True, outbox=outbox)
            os.rename(building, there)
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
        gone = f"{root.attic}/{name}-{names.new_id()}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(root.attic, 0o700)
        os.rename(there, gone)
        try:
            held = count_mail(gone)
            if held and not force:  # it came in between
                raise _busy(name, held)
        except Exception:
            if not force:  # perhaps there is mail in it
                os.rename(gone, there)
            raise
    if held:
        return gone
    discard(root, gone)
    return None


def discard(root: Root, gone: str) -> None:
    """Delete the removed box *gone*, in which there is no mail, and the folder of removed boxes with the last one."""
    import shutil

    with contextlib.suppress(OSError):
        shutil.rmtree(gone, ignore_errors=True)
        os.rmdir(root.attic)


def adopt(path: str, box: str) -> None:
    """Give what root made in a box to the box's owner. Nothing for others to do."""
    if os.geteuid() == 0:
        uid, gid = _owner(box)
        if (uid, gid) != (0, 0):
            os.chown(path, uid, gid, follow_symlinks=False)


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


def own(path: str, mode: int, owner: tuple[int, int]) -> None:
    """Give *path* this mode and this owner. Raises Forbidden where they do not take."""
    # By descriptor, and never through a link: root must not give away what the owner of a box has put in the way.
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = os.fstat(file)
        if not stat.S_ISDIR(facts.st_mode) and not (stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1):
            raise Forbidden(f"{quoted(path)} is {kind(facts.st_mode)}, not a folder: somebody has put it there")
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
            f"{quoted(path)} has the mode {stat.S_IMODE(facts.st_mode):04o} and the owner "
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
    for folder, mode in {**FOLDERS, OUTBOX: 0o700}.items() if outbox else FOLDERS.items():
        path = f"{box}/{folder}"
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not mend:
                continue
        own(path, mode, owner)
    consumers = f"{box}/cur"
    if not any(name for name in os.listdir(consumers) if not name.startswith(".")):
        # The first consumer's folder, so that a box on a full volume can still be drained.
        first = os.urandom(6).hex()
        hidden = f"{consumers}/.{first}"
        os.mkdir(hidden, 0o700)
        with open(f"{hidden}/.lock", "x") as lock:
            own(lock.name, 0o600, owner)
        own(hidden, 0o700, owner)
        os.rename(hidden, f"{consumers}/{first}")
    if _owner(box) != owner or stat.S_IMODE(os.stat(box).st_mode) != 0o755:
        own(box, 0o755, owner)


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


def _write(folder: str, name: str, text: str) -> None:
    draft = f"{folder}/{name}.{os.urandom(6).hex()}"
    with open(draft, "x") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
    os.rename(draft, f"{folder}/{name}")


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
