"""What is wrong with a root and its boxes, why that matters, and what to do.

    wrong       mail is lost, stuck or open to others because of it
    warning     something that a person should look at
    note        worth knowing

What is safe to mend carries a `fix`: it makes what is missing, sets modes, and takes leftovers away; it never touches
mail.
"""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from ..errors import MailboxError, NotFoundError, NotMailError, quoted
from ..format.address import Address, is_address
from ..format.envelope import decode
from ..format.filename import TIMESTAMP_LENGTH, parse_filename, split_timed
from ..format.order import is_mail
from ..format.times import datetime_ns, parse_time
from ..format.timestamp import to_nanoseconds, to_timestamp
from ..settings import MAX_SIZE
from ..store import junk
from ..store.box import repair_box
from ..store.claim_deferred import MAX_RETRY_NS, is_too_late
from ..store.junk import KEPT
from ..store.layout import FOLDERS, MARKER, NEW_SWAP_PREFIX, OUTBOX
from ..store.root import Root
from ..system.files import FOLDER, READ, close, list_dir
from ..system.mounts import Mount, mount_of
from ..system.strict_read import strict_read
from .cleanup import find_garbage
from .inventory import BoxStatus, box_status

Severity = Literal["wrong", "warning", "note"]

_CARRIED: Final = 300.0  # seconds in which a relay carries what it can
_ROOM: Final = 0.05  # of a volume: below that it is worth a warning
_HARDLINKS: Final = "/proc/sys/fs/protected_hardlinks"
_DAY: Final = 86_400_000_000_000  # nanoseconds: a longer lease is somebody's mistake, or that of a clock
_LOOKED_AT: Final = 1000  # messages in later/, of those that are due in more than a while
_FUSE: Final = "/dev/fuse"
_NAMESPACES: Final = {"/proc/sys/kernel/unprivileged_userns_clone": "0", "/proc/sys/user/max_user_namespaces": "0"}
"""Settings that close user namespaces to who is not root, at that value; the first is Debian's."""

_FAULTS: Final = "/proc/sys/vm/unprivileged_userfaultfd"
_MISSED: Final = 5  # messages found only by looking, none announced: notifications are dead


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found: where, what it is, and what to do about it."""

    level: Severity
    where: str  # a box, or "root"
    what: str
    advice: str = ""
    fix: Callable[[], object] | None = None


def examine(root: Root, only: list[Address] | None = None, tell: Callable[[str], object] = str) -> Iterator[Finding]:
    """Look at a root and at its boxes (or some of them). Nothing is changed; `fix` of a finding does that.

    *tell* is told what is looked at next: a huge box takes a while.
    """
    boxes = root.boxes()
    yield from _root(root)
    yield isolation(root, boxes)
    yield from _strangers(root)
    yield from _shared_groups(root, boxes)
    yield from _proofs(root, boxes)
    yield from _stalls(root, boxes)
    yield from _documents(root)
    for name in only if only is not None else boxes:
        tell(f"looking at {name}")
        yield from _unstopped(root, name, named=only is not None)


def _unstopped(root: Root, name: Address, *, named: bool) -> Iterator[Finding]:
    """Look at one box; the trouble that one makes is a finding, and keeps nobody from looking at the next."""
    try:
        yield from box(root, name)
    except NotFoundError:
        if named:
            raise  # else it was removed in between
    except (MailboxError, OSError, ValueError) as error:
        yield Finding("wrong", name, f"it cannot be looked into: {error}", "look at what lies there with `ls -la`")


def box(root: Root, name: Address) -> Iterator[Finding]:
    """Look at one box. Raises BoxNotFoundError."""
    if not os.path.isdir(root.box(name)):
        raise root.missing(name)
    sound = True
    for finding in _folders(root, name):
        sound = sound and finding.level != "wrong"
        yield finding
    yield from _split(root, name)
    yield from _own_group(root, name)
    now = box_status(root, name)
    if now.trouble is not None:
        yield Finding(
            "wrong", name, f"it cannot be looked into: {now.trouble}", "look at what lies there with `ls -la`"
        )
    elif now.new is None and sound:
        yield Finding("note", name, f"it is uid {now.uid}'s: what lies in it cannot be seen", "run doctor as root")
    if now.new is None:
        return
    yield from _mail(now)
    yield from _far_off(root, now)
    yield from _listeners(now)
    yield from _unmailed(root, name)
    yield from _outbox(root, name)
    if sound:
        for left in find_garbage(root, name):
            yield Finding("note", name, f"left over: {left.what}: {left.path}", "", left.clear)


def isolation(root: Root, boxes: list[Address]) -> Finding:
    """Which world this is: who is kept from whose mail, and by what."""
    facts = {}
    for name in boxes:
        with contextlib.suppress(OSError):
            facts[name] = os.stat(root.box(name))
    uids = {each.st_uid for each in facts.values()}
    home = mount_of(root.path)
    private = [name for name in facts if (mount := mount_of(root.box(name))) and home and mount.path != home.path]
    if not facts:
        return Finding("note", "root", "there are no boxes yet", "`mailbox init NAME` makes one")
    if len(facts) > 1 and len(private) >= len(facts) - 1:
        return Finding(
            "note",
            "root",
            "the world: private volumes: boxes are mounts of their own",
            "an agent reaches only what is mounted for it; a relay carries mail between them",
        )
    if len(facts) == 1:
        return Finding("note", "root", "the world: a single box", "")
    if len(uids) == 1:
        return Finding(
            "note",
            "root",
            f"the world: one uid ({uids.pop()}) for all {len(facts)} boxes: nothing keeps an agent from reading, "
            "changing or deleting the mail of another, nor from writing in its name",
            "sealed mail keeps it secret and proves the sender; a uid for each agent (`init --owner UID:GID`) protects "
            "the boxes",
        )
    if len(uids) == len(facts):
        return Finding(
            "note",
            "root",
            "the world: a uid for each box: others can drop mail into one, and neither list, read, replace nor delete "
            "what is there",
            "",
        )
    shared = len(facts) - len(uids) + 1
    return Finding(
        "note",
        "root",
        f"the world: {len(uids)} uids for {len(facts)} boxes: up to {shared} agents share one, and are not kept from "
        "each other's mail",
        "",
    )


def _root(root: Root) -> Iterator[Finding]:
    facts, mount = os.stat(root.path), mount_of(root.path)
    mode = stat.S_IMODE(facts.st_mode)
    if mode & 0o002 and not mode & stat.S_ISVTX:
        yield Finding(
            "wrong",
            "root",
            f"{root.path} has the mode {mode:04o}: anybody can move whole boxes away and put others in their place",
            "chmod 0755, or 1777 where anybody may make boxes",
        )
    with contextlib.suppress(OSError):
        if os.stat(f"{root.path}/{MARKER}").st_mode & 0o044 != 0o044:
            yield Finding(
                "wrong", "root", f"its {MARKER} file cannot be read by all", f"chmod 0644 {root.path}/{MARKER}"
            )
    if mount is not None:
        yield from _mount(root.path, mount)
    with contextlib.suppress(OSError):
        room = os.statvfs(root.path)
        if room.f_blocks and room.f_bavail < _ROOM * room.f_blocks:
            free = room.f_bavail * room.f_frsize // (1 << 20)
            yield Finding(
                "warning",
                "root",
                f"the volume is nearly full: {free} MiB are left",
                "free some space: senders get exit code 75",
            )
        if room.f_files and room.f_favail < _ROOM * room.f_files:
            yield Finding(
                "warning", "root", f"the volume has {room.f_favail} free inodes left", "each message needs one"
            )


def _mount(path: str, mount: Mount) -> Iterator[Finding]:
    if mount.read_only:
        yield Finding("wrong", "root", f"the volume is mounted read-only at {mount.path}", "mount it for writing")
    if mount.blind:
        yield Finding(
            "warning",
            "root",
            f"{mount.path} is {mount.kind}: what other machines write there is announced to nobody here, and locks may "
            "not reach them",
            "mail still comes, at the next look (--poll-interval). One box must be read on one machine only",
        )
    if mount.kind == "overlay":
        yield Finding(
            "warning",
            "root",
            f"{path} lies in the container's own layer, not on a volume: other containers see another one, and it goes "
            "when the container goes",
            "mount a volume there",
        )


def _strangers(root: Root) -> Iterator[Finding]:
    with os.scandir(root.path) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name == ".documents":
            continue  # see _documents()
        if entry.name == ".removed":
            kept = 0
            with contextlib.suppress(OSError):  # none of ours, or not ours to see
                kept = len(os.listdir(entry.path)) if entry.is_dir(follow_symlinks=False) else 0
            if kept:
                yield Finding(
                    "note", "root", f"{kept} removed boxes are kept in {entry.path}", "delete what nobody needs"
                )
        elif entry.name.startswith(".") and is_address(entry.name[1:]) and entry.is_dir(follow_symlinks=False):
            yield Finding(
                "note",
                "root",
                f"{entry.path}: a box that was never finished",
                f"`mailbox init {entry.name[1:]}` finishes it",
            )
        elif entry.is_symlink():
            yield Finding("warning", "root", f"{entry.path} is a symbolic link", "a box is a folder of its own")
        elif (
            entry.is_dir()
            and not is_address(entry.name)
            and not entry.name.startswith(".")
            and entry.name != "lost+found"
        ):
            yield Finding(
                "warning", "root", f"{entry.path} cannot be a box: no agent can have that name", "a-z 0-9 . _ - only"
            )


def _documents(root: Root) -> Iterator[Finding]:
    from ..documents.upkeep import findings  # a root without documents needs none of that

    for each in findings(root):
        yield Finding(each.level, each.where, each.what, each.advice, each.fix)  # type: ignore[arg-type]


def _shared_groups(root: Root, boxes: list[Address]) -> Iterator[Finding]:
    """A drop box needs a group of its own: setgid gives that group to every message."""
    groups: dict[int, dict[int, Address]] = {}
    for name in boxes:
        with contextlib.suppress(OSError):
            facts = os.stat(f"{root.box(name)}/new")
            groups.setdefault(facts.st_gid, {}).setdefault(facts.st_uid, name)
    for gid, owners in groups.items():
        if len(owners) > 1:
            yield Finding(
                "wrong",
                "root",
                f"the boxes {', '.join(sorted(owners.values()))} belong to different uids and share the group {gid}: "
                "each of them can read the messages of the others",
                "give each a group of its own: `init --owner UID:GID`",
            )


def _proofs(root: Root, boxes: list[Address]) -> Iterator[Finding]:
    """Where a uid does not prove a sender although boxes have different ones: see trust.py."""
    owners = set()
    for name in boxes:
        with contextlib.suppress(OSError):
            owners.add(os.stat(root.box(name)).st_uid)
    if len(owners) < 2:
        return
    facts = os.stat(root.path)
    if facts.st_mode & 0o022 or (facts.st_uid != 0 and facts.st_uid in owners):
        yield Finding(
            "warning",
            "root",
            f"{root.path} (uid {facts.st_uid}, mode {stat.S_IMODE(facts.st_mode):04o}) can be changed by agents: a box "
            "may be put in another one's place, so no sender is proven by its uid (`trust: uid`)",
            f"chown 0 {root.path}; chmod 0755 {root.path}",
        )
    with contextlib.suppress(OSError), open(_HARDLINKS) as setting:
        if setting.read().strip() == "0":
            yield Finding(
                "warning",
                "root",
                "fs.protected_hardlinks is 0: who knows the name of a waiting message can keep it under another name, "
                "and deliver it again when it was handled",
                "sysctl fs.protected_hardlinks=1 on the host; or sign: replays of signed mail are refused",
            )


def _stalls(root: Root, boxes: list[Address]) -> Iterator[Finding]:
    """Calls of the kernel that another uid can keep waiting: it holds the lock of a file of its own, which we need."""
    owners = set()
    for name in boxes:
        with contextlib.suppress(OSError):
            owners.add(os.stat(root.box(name)).st_uid)
    if len(owners) < 2:
        return
    hold = "can hold a claim of its mail (in state D, beyond any kill) for as long as it likes"
    if _open_to_all(_FUSE) and not any(_setting(path) == closed for path, closed in _NAMESPACES.items()):
        yield Finding(
            "warning",
            "root",
            f"{_FUSE} and user namespaces are open to all: whoever mounts a file system of its own {hold}",
            f"chmod 0660 {_FUSE}, or sysctl user.max_user_namespaces=0 on the host; a container without it is safe",
        )
    if _setting(_FAULTS) == "1":
        yield Finding(
            "warning",
            "root",
            f"vm.unprivileged_userfaultfd is 1: whoever fills its own memory when it likes {hold}",
            "sysctl vm.unprivileged_userfaultfd=0 on the host",
        )


def _open_to_all(device: str) -> bool:
    with contextlib.suppress(OSError):
        facts = os.stat(device)
        return stat.S_ISCHR(facts.st_mode) and facts.st_mode & 0o006 == 0o006
    return False


def _setting(path: str) -> str | None:
    with contextlib.suppress(OSError), open(path) as setting:
        return setting.read().strip()
    return None


def _folders(root: Root, name: Address) -> Iterator[Finding]:
    """Folders that are missing, or have modes and owners that do not do what they are for."""
    home = root.box(name)
    facts = os.stat(home)
    fix = partial(repair_box, root, name)
    if facts.st_mode & 0o022:
        yield Finding(
            "wrong",
            name,
            f"it has the mode {stat.S_IMODE(facts.st_mode):04o}: others can put folders of theirs in the place of its",
            "expected 0755",
            fix,
        )
    for folder, mode in FOLDERS.items():
        try:
            there = os.lstat(f"{home}/{folder}")
        except FileNotFoundError:
            yield Finding("wrong", name, f"it has no {folder}/", "it is made with the right mode", fix)
            continue
        except PermissionError:
            continue
        found = stat.S_IMODE(there.st_mode)
        if not stat.S_ISDIR(there.st_mode):
            yield Finding("wrong", name, f"its {folder} is no folder", "move it out of the way, then --fix")
        elif (there.st_uid, there.st_gid) != (facts.st_uid, facts.st_gid):
            yield Finding(
                "wrong",
                name,
                f"its {folder}/ belongs to {there.st_uid}:{there.st_gid}, and the box to {facts.st_uid}:{facts.st_gid}",
                "root can give it back",
                fix if os.geteuid() == 0 else None,
            )
        elif found != mode:
            yield Finding(
                "wrong",
                name,
                f"its {folder}/ has the mode {found:04o}, expected {mode:04o}: {_meaning(folder, found)}",
                "",
                fix,
            )


def _meaning(folder: str, mode: int) -> str:
    """What a wrong mode leads to."""
    if FOLDERS[folder] == 0o3733:
        if mode & 0o033 != 0o033:
            return "others cannot deliver"
        if not mode & stat.S_ISVTX:
            return "others can delete and replace what waits"
        if not mode & stat.S_ISGID:
            return "what another uid sends cannot be read"
        return "others can list what waits"
    if folder == "run":
        return "others cannot ring" if mode & 0o055 != 0o055 else "others can take the bells away"
    return "others can read or change what is held" if mode & 0o077 else "its owner cannot use it"


def _split(root: Root, name: Address) -> Iterator[Finding]:
    """All folders of a box must be on one mount: a rename does not cross mounts, not even two of one file system."""
    home = root.box(name)
    mount, device = mount_of(home), os.stat(home).st_dev
    for folder in FOLDERS:
        with contextlib.suppress(OSError):
            other = mount_of(f"{home}/{folder}")
            if os.stat(f"{home}/{folder}").st_dev != device or (mount and other and other.path != mount.path):
                yield Finding(
                    "wrong",
                    name,
                    f"its {folder}/ is another mount than the box: messages cannot be moved there",
                    "mount whole boxes, or the whole root; not parts of a box",
                )


def _own_group(root: Root, name: Address) -> Iterator[Finding]:
    """`user: "2001"` without a group runs as 2001:0, and can read nothing of what others drop."""
    with contextlib.suppress(OSError):
        facts = os.stat(f"{root.box(name)}/new")
        ours = {os.getegid(), *os.getgroups()}
        if os.geteuid() == facts.st_uid != 0 and facts.st_gid not in ours:
            yield Finding(
                "wrong",
                name,
                f"we are its owner, uid {facts.st_uid}, but not in its group {facts.st_gid}: what other uids send "
                "cannot be read",
                f"run as {facts.st_uid}:{facts.st_gid}, not as {facts.st_uid} alone",
            )


def _mail(now: BoxStatus) -> Iterator[Finding]:
    if now.waiting and not now.has_listener:
        oldest = f", the oldest for {_span(now.oldest)}" if now.oldest is not None else ""
        yield Finding(
            "warning",
            now.name,
            f"{_messages(now.waiting)} wait{'s' if now.waiting == 1 else ''}{oldest}, and nobody listens",
            f"`mailbox watch --as {now.name}` or `mailbox receive --as {now.name}`",
        )
    for lease in now.leases:
        if lease.over and lease.held:
            yield Finding(
                "warning",
                now.name,
                f"a lease ran out with {_messages(lease.held)} not settled",
                "it comes back, the attempt counted; a longer --lease, or ack sooner",
            )
    if now.dead:
        yield Finding(
            "note",
            now.name,
            f"{now.dead} dead letter{'s' if now.dead > 1 else ''}",
            f"`mailbox dead list --as {now.name}`",
        )


def _far_off(root: Root, now: BoxStatus) -> Iterator[Finding]:
    """What waits longer than anybody asked for, as where a clock was ahead for a while."""
    leases = [each for each in now.leases if each.deadline > to_timestamp(time.time_ns() + _DAY)]
    if leases:
        yield Finding(
            "warning",
            now.name,
            f"{len(leases)} lease{'s' if len(leases) > 1 else ''} of more than a day, until "
            f"{max(each.deadline for each in leases)}, with {_messages(sum(each.held for each in leases))}",
            "was a clock ahead? Settle them by their ids (`mailbox list --state cur`), or wait",
        )
    late = []
    with contextlib.suppress(OSError):
        later = os.open(f"{root.box(now.name)}/later", FOLDER)
        try:
            late += [text for text in sorted(list_dir(later))[-_LOOKED_AT:] if _is_far_off(text, later)]
        finally:
            close(later)
    if late:
        yield Finding(
            "warning",
            now.name,
            f"{_messages(len(late))} in later/ {'are' if len(late) > 1 else 'is'} due later than asked for, "
            f"{late[-1][:TIMESTAMP_LENGTH]} at the latest",
            "was a clock ahead? Retries come back by themselves; others do once their file has an earlier time "
            "before the ~",
        )


def _is_far_off(text: str, later: int) -> bool:
    """Whether a message in `later/` is due later than a retry is, or than its own `deliver_after` says."""
    now, parts = time.time_ns(), split_timed(text)
    name = parse_filename(parts[1]) if parts else None
    if parts is None or name is None or to_nanoseconds(parts[0]) <= now + 1_000_000_000:
        return False
    if name.attempt > 1 or name.wait:
        return is_too_late(*parts, now)
    with contextlib.suppress(OSError, NotMailError):
        file = os.open(text, READ, dir_fd=later)
        try:
            data, _, refusal = strict_read(file, MAX_SIZE)
        finally:
            close(file)
        if refusal is not None:
            return False
        members = decode(data)
        asked = members.get("deliver_after")
        due = datetime_ns(parse_time(asked)) if asked else 0
        return "sealed" not in members and to_nanoseconds(parts[0]) > max(due, now + MAX_RETRY_NS) + 1_000_000_000
    return False


def _listeners(now: BoxStatus) -> Iterator[Finding]:
    for each in now.listeners:
        if each.watch:
            yield Finding(
                "warning",
                now.name,
                f"the listener {each.consumer} has no notifications: {each.watch}",
                "it looks at every --poll-interval",
            )
        elif each.missed >= _MISSED and each.missed > each.announced:
            yield Finding(
                "warning",
                now.name,
                f"notifications are dead: of {each.missed + each.announced} messages, {each.missed} were found only by "
                "looking",
                "mail still comes, at the next look: --poll-interval says how often",
            )


def _unmailed(root: Root, name: Address) -> Iterator[Finding]:
    """What lies in new/ and is nobody's business, and what was left behind in folders that were new/."""
    box = root.box(name)
    with contextlib.suppress(OSError):
        kept = sorted(each for each in os.listdir(box) if each.startswith((NEW_SWAP_PREFIX, KEPT)))
        for place in ("new", *kept):
            with contextlib.suppress(OSError):
                folder = os.open(f"{box}/{place}", FOLDER)
                try:
                    odd = sorted(junk.lying(folder), key=lambda each: each[0])
                finally:
                    os.close(folder)
                if odd:
                    shown = ", ".join(quoted(each) for each, _ in odd[:3]) + (" …" if len(odd) > 3 else "")
                    yield Finding(
                        "note" if place == "new" and len(odd) <= junk.MANY else "warning",
                        name,
                        f"{f'{len(odd)} things' if len(odd) > 1 else 'something'} in {place}/ that nobody takes, "
                        f"{junk.owners(facts for _, facts in odd)}: {shown}",
                        "mail is called *.json, and does not begin with a dot; `mailbox gc` removes the rest after 36 "
                        "hours, but for full folders of other uids: only they, or root, can take these away",
                    )


def _outbox(root: Root, name: Address) -> Iterator[Finding]:
    """Mail that a relay should have carried long ago."""
    with contextlib.suppress(OSError), os.scandir(f"{root.box(name)}/{OUTBOX}") as entries:
        ages = [time.time() - entry.stat(follow_symlinks=False).st_mtime for entry in entries if is_mail(entry.name)]
        if ages and max(ages) > _CARRIED:
            yield Finding(
                "warning",
                name,
                f"{_messages(len(ages))} wait{'s' if len(ages) == 1 else ''} in its outbox, the oldest for "
                f"{_span(max(ages))}",
                "does the relay run (`mailbox relay health`), and is the recipient's box well?",
            )


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def _messages(count: int) -> str:
    return f"{count} message{'s' if count != 1 else ''}"
