"""Doctor: find problems of a root and its boxes, with the reason they matter and a hint.

    error       mail is lost, stuck or open to others because of it
    warning     an operator should look at it
    note        worth knowing

A finding with a `fix` is safe to fix: the fix creates missing folders, sets modes and removes garbage. It never touches
mail.

More than 400 lines: one function for each thing that is checked, and nothing else.
"""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Final

from ..errors import MailboxError, NotFoundError, NotMailError, quoted
from ..format.address import Address, is_address
from ..format.envelope import decode
from ..format.filename import TIMESTAMP_LENGTH, parse_filename, split_timed
from ..format.order import is_mail
from ..format.times import datetime_ns, format_time, from_nanoseconds, parse_time
from ..format.timestamp import to_nanoseconds, to_timestamp
from ..format.wording import counted, duration_text
from ..settings import MAX_SIZE
from ..store import junk
from ..store.box import repair_box
from ..store.claim_deferred import MAX_RETRY_NS, is_too_late
from ..store.dead_letters import is_expired
from ..store.junk import KEPT
from ..store.layout import FOLDERS, MARKER, NEW_SWAP_PREFIX, OUTBOX
from ..store.root import Box, Root
from ..system.files import FOLDER, READ, close, list_dir
from ..system.mounts import Mount, mount_of
from ..system.strict_read import strict_read
from .cleanup import find_garbage
from .inventory import BoxStatus, box_status
from .stalls import Cause, Severity, causes, volume_causes

_ORDER: Final = {"error": 0, "warning": 1, "note": 2}
_OUTBOX_GRACE: Final = 300.0  # seconds in which a relay carries all mail that it can
_HARDLINKS: Final = "/proc/sys/fs/protected_hardlinks"
_LONG_LEASE: Final = 86_400_000_000_000  # nanoseconds: a longer lease is a mistake, or a clock was ahead
_MAX_NOTES: Final = 1000  # notes beside dead letters that are read
_MAX_DEFERRED: Final = 1000  # messages in later/ that are examined: those due last
_FUSE: Final = "/dev/fuse"
_NAMESPACES: Final = {"/proc/sys/kernel/unprivileged_userns_clone": "0", "/proc/sys/user/max_user_namespaces": "0"}
"""Settings that close user namespaces to all but root, and their values; the first is Debian's."""

_USERFAULTFD: Final = "/proc/sys/vm/unprivileged_userfaultfd"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: where, the problem, and a hint."""

    severity: Severity
    where: str  # a box, or "root"
    problem: str
    hint: str = ""
    fix: Callable[[], object] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "severity": self.severity,
            "where": self.where,
            "problem": self.problem,
            "hint": self.hint,
            "fixable": self.fix is not None,
        }


def rank(finding: Finding) -> int:
    """Return a sort key: errors come before warnings, and these before notes."""
    return _ORDER[finding.severity]


def examine(
    root: Root, only: list[Address] | None = None, on_progress: Callable[[str], object] = str
) -> Iterator[Finding]:
    """Examine a root and its boxes, or only some of them. Nothing is changed until the `fix` of a finding is called.

    *on_progress* is called with the next step: a huge box takes a while.
    """
    boxes = root.boxes()
    yield from _root(root)
    yield isolation(root, boxes)
    yield from _foreign_entries(root)
    yield from _shared_groups(root, boxes)
    yield from _uid_trust(root, boxes)
    yield from _stalls(root, boxes)
    yield from _documents(root)
    for name in only if only is not None else boxes:
        on_progress(f"examining {name}")
        yield from _try_box(root.box(name), named=only is not None)


def _try_box(box: Box, *, named: bool) -> Iterator[Finding]:
    """Examine one box. If that fails, the failure is a finding, and the next box is examined."""
    try:
        yield from examine_box(box)
    except NotFoundError:
        if named:
            raise  # else it was removed in between
    except (MailboxError, OSError, ValueError) as error:
        yield Finding("error", box.address, f"it cannot be examined: {error}", "list its files with `ls -la`")


def examine_box(box: Box) -> Iterator[Finding]:
    """Examine one box. Raises BoxNotFoundError."""
    name = box.address
    if not os.path.isdir(box):
        raise box.missing()
    sound = True
    for finding in _folders(box):
        sound = sound and finding.severity != "error"
        yield finding
    yield from _split(box)
    yield from _own_group(box)
    now = box_status(box)
    if now.problem is not None:
        yield Finding("error", name, f"it cannot be examined: {now.problem}", "list its files with `ls -la`")
    elif now.new is None and sound:
        yield Finding(
            "note", name, f"it belongs to uid {now.uid}, and its contents cannot be seen", "run doctor as root"
        )
    if now.new is None:
        return
    yield from _of_causes(now.name, causes(now))
    yield from _waiting_mail(box, now)
    yield from _far_deadlines(box, now)
    yield from _junk(box)
    yield from _outbox(box)
    if sound:
        for garbage in find_garbage(box):
            problem = f"garbage: {garbage.description}: {garbage.path}"
            yield Finding("note", name, problem, "", garbage.remove)


def isolation(root: Root, boxes: list[Address]) -> Finding:
    """Return the isolation model of this root: which agents cannot reach each other's mail, and why not."""
    stats = {}
    for name in boxes:
        with contextlib.suppress(OSError):
            stats[name] = os.stat(root.box(name))
    uids = {st.st_uid for st in stats.values()}
    home = mount_of(root.path)
    private = [name for name in stats if (mount := mount_of(root.box(name).path)) and home and mount.path != home.path]
    if not stats:
        return Finding("note", "root", "there are no boxes yet", "`mailbox init NAME` makes one")
    if len(stats) > 1 and len(private) >= len(stats) - 1:
        return Finding(
            "note",
            "root",
            "isolation: private volumes: each box is a mount of its own",
            "an agent reaches only the boxes mounted for it; a relay carries mail between them",
        )
    if len(stats) == 1:
        return Finding("note", "root", "isolation: a single box", "")
    if len(uids) == 1:
        return Finding(
            "note",
            "root",
            f"isolation: none: one uid ({uids.pop()}) for all {len(stats)} boxes: each agent can read, change and "
            "delete the mail of the others, and write in their names",
            "sealed mail stays secret and proves its sender; a uid for each agent (`init --owner UID:GID`) protects "
            "the boxes",
        )
    if len(uids) == len(stats):
        return Finding(
            "note",
            "root",
            "isolation: a uid for each box: other agents can deliver mail, and cannot list, read, replace or delete it",
            "",
        )
    shared = len(stats) - len(uids) + 1
    return Finding(
        "note",
        "root",
        f"isolation: {len(uids)} uids for {len(stats)} boxes: up to {shared} agents share a uid, and can reach "
        "each other's mail",
        "",
    )


def _root(root: Root) -> Iterator[Finding]:
    st, mount = os.stat(root.path), mount_of(root.path)
    mode = stat.S_IMODE(st.st_mode)
    if mode & 0o002 and not mode & stat.S_ISVTX:
        yield Finding(
            "error",
            "root",
            f"{root.path} has the mode {mode:04o}: any uid can replace whole boxes",
            "chmod 0755, or 1777 if any uid may make boxes",
        )
    with contextlib.suppress(OSError):
        if os.stat(f"{root.path}/{MARKER}").st_mode & 0o044 != 0o044:
            yield Finding(
                "error", "root", f"its {MARKER} file is not readable by all", f"chmod 0644 {root.path}/{MARKER}"
            )
    if mount is not None:
        yield from _mount(root.path, mount)
    yield from _of_causes("root", volume_causes(root.path))


def _of_causes(where: str, causes: Iterable[Cause]) -> Iterator[Finding]:
    for each in causes:
        yield Finding(each.severity, where, each.problem, each.hint)


def _mount(path: str, mount: Mount) -> Iterator[Finding]:
    if mount.read_only:
        yield Finding("error", "root", f"the volume is mounted read-only at {mount.path}", "mount it for writing")
    if mount.blind:
        yield Finding(
            "warning",
            "root",
            f"{mount.path} is {mount.kind}: writes of other machines cause no notification here, and locks may not "
            "reach them",
            "polling still finds the mail (--poll-interval). Read each box on one machine only",
        )
    if mount.kind == "overlay":
        yield Finding(
            "warning",
            "root",
            f"{path} is in the container's own layer, not on a volume: other containers cannot see it, and it is lost "
            "with the container",
            "mount a volume there",
        )


def _foreign_entries(root: Root) -> Iterator[Finding]:
    with os.scandir(root.path) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name == ".documents":
            continue  # see _documents()
        if entry.name == ".removed":
            kept = 0
            with contextlib.suppress(OSError):  # not a folder, or not readable
                kept = len(os.listdir(entry.path)) if entry.is_dir(follow_symlinks=False) else 0
            if kept:
                yield Finding(
                    "note",
                    "root",
                    f"{kept} removed boxes are kept in {entry.path}",
                    "delete those that are no longer needed",
                )
        elif entry.name.startswith(".") and is_address(entry.name[1:]) and entry.is_dir(follow_symlinks=False):
            yield Finding(
                "note",
                "root",
                f"{entry.path} is an unfinished box",
                f"`mailbox init {entry.name[1:]}` finishes it",
            )
        elif entry.is_symlink():
            yield Finding(
                "warning", "root", f"{entry.path} is a symbolic link", "replace it by a folder: a box is never a link"
            )
        elif (
            entry.is_dir()
            and not is_address(entry.name)
            and not entry.name.startswith(".")
            and entry.name != "lost+found"
        ):
            yield Finding(
                "warning",
                "root",
                f"{entry.path} cannot be a box: no agent can have that name",
                "rename or remove it: names are of a-z 0-9 . _ -",
            )


def _documents(root: Root) -> Iterator[Finding]:
    from ..documents.upkeep import findings  # a root without documents needs none of that

    for each in findings(root):
        yield Finding(each.level, each.where, each.what, each.advice, each.fix)  # type: ignore[arg-type]


def _shared_groups(root: Root, boxes: list[Address]) -> Iterator[Finding]:
    """A drop box needs a group of its own, because setgid gives that group to every message."""
    groups: dict[int, dict[int, Address]] = {}
    for name in boxes:
        with contextlib.suppress(OSError):
            st = os.stat(f"{root.box(name)}/new")
            groups.setdefault(st.st_gid, {}).setdefault(st.st_uid, name)
    for gid, owners in groups.items():
        if len(owners) > 1:
            yield Finding(
                "error",
                "root",
                f"the boxes {', '.join(sorted(owners.values()))} belong to different uids and share the group {gid}: "
                "each can read the messages of the others",
                "give each a group of its own: `init --owner UID:GID`",
            )


def _uid_trust(root: Root, boxes: list[Address]) -> Iterator[Finding]:
    """Reasons why a uid does not prove a sender although boxes have different uids: see trust/owners."""
    owners = set()
    for name in boxes:
        with contextlib.suppress(OSError):
            owners.add(os.stat(root.box(name)).st_uid)
    if len(owners) < 2:
        return
    st = os.stat(root.path)
    if st.st_mode & 0o022 or (st.st_uid != 0 and st.st_uid in owners):
        yield Finding(
            "warning",
            "root",
            f"{root.path} (uid {st.st_uid}, mode {stat.S_IMODE(st.st_mode):04o}) can be changed by agents: one may "
            "replace a box, so no sender is proven by its uid (`trust: uid`)",
            f"chown 0 {root.path}; chmod 0755 {root.path}",
        )
    with contextlib.suppress(OSError), open(_HARDLINKS) as setting:
        if setting.read().strip() == "0":
            yield Finding(
                "warning",
                "root",
                "fs.protected_hardlinks is 0: a uid that knows the name of a waiting message can link it, and "
                "deliver it again after it was handled",
                "sysctl fs.protected_hardlinks=1 on the host; or sign mail: replays of signed mail are refused",
            )


def _stalls(root: Root, boxes: list[Address]) -> Iterator[Finding]:
    """Kernel features that let another uid block our system calls, through the lock of a file of its own."""
    owners = set()
    for name in boxes:
        with contextlib.suppress(OSError):
            owners.add(os.stat(root.box(name)).st_uid)
    if len(owners) < 2:
        return
    hold = "can block a claim of its mail indefinitely (in state D, beyond any kill)"
    if _open_to_all(_FUSE) and not any(_setting(path) == closed for path, closed in _NAMESPACES.items()):
        yield Finding(
            "warning",
            "root",
            f"{_FUSE} and user namespaces are open to all: a sender that mounts a file system of its own {hold}",
            f"chmod 0660 {_FUSE}, or sysctl user.max_user_namespaces=0 on the host; a container without it is safe",
        )
    if _setting(_USERFAULTFD) == "1":
        yield Finding(
            "warning",
            "root",
            f"vm.unprivileged_userfaultfd is 1: a sender that delays its own page faults {hold}",
            "sysctl vm.unprivileged_userfaultfd=0 on the host",
        )


def _open_to_all(device: str) -> bool:
    with contextlib.suppress(OSError):
        st = os.stat(device)
        return stat.S_ISCHR(st.st_mode) and st.st_mode & 0o006 == 0o006
    return False


def _setting(path: str) -> str | None:
    with contextlib.suppress(OSError), open(path) as setting:
        return setting.read().strip()
    return None


def _folders(box: Box) -> Iterator[Finding]:
    """Missing folders, and folders with a wrong mode or owner."""
    home, name = box.path, box.address
    st = os.stat(home)
    fix = partial(repair_box, box)
    if st.st_mode & 0o022:
        yield Finding(
            "error",
            name,
            f"it has the mode {stat.S_IMODE(st.st_mode):04o}: others can replace its folders",
            "chmod 0755",
            fix,
        )
    for folder, mode in FOLDERS.items():
        try:
            there = os.lstat(f"{home}/{folder}")
        except FileNotFoundError:
            yield Finding("error", name, f"it has no {folder}/", "--fix makes it", fix)
            continue
        except PermissionError:
            continue
        found = stat.S_IMODE(there.st_mode)
        if not stat.S_ISDIR(there.st_mode):
            yield Finding("error", name, f"its {folder} is not a folder", "move it out of the way, then use --fix")
        elif (there.st_uid, there.st_gid) != (st.st_uid, st.st_gid):
            yield Finding(
                "error",
                name,
                f"its {folder}/ belongs to {there.st_uid}:{there.st_gid}, and the box to {st.st_uid}:{st.st_gid}",
                "root can change its owner",
                fix if os.geteuid() == 0 else None,
            )
        elif found != mode:
            yield Finding(
                "error",
                name,
                f"its {folder}/ has the mode {found:04o}, expected {mode:04o}: {_meaning(folder, found)}",
                "",
                fix,
            )


def _meaning(folder: str, mode: int) -> str:
    """Return the consequence of a wrong mode."""
    if FOLDERS[folder] == 0o3733:
        if mode & 0o033 != 0o033:
            return "others cannot deliver"
        if not mode & stat.S_ISVTX:
            return "others can delete and replace waiting mail"
        if not mode & stat.S_ISGID:
            return "mail from another uid cannot be read"
        return "others can list waiting mail"
    if folder == "run":
        return "others cannot ring" if mode & 0o055 != 0o055 else "others can remove the doorbells"
    return "others can read or change claimed mail" if mode & 0o077 else "its owner cannot use it"


def _split(box: Box) -> Iterator[Finding]:
    """All folders of a box must be on one mount: a rename cannot cross mounts, even of one file system."""
    home = box.path
    mount, device = mount_of(home), os.stat(home).st_dev
    for folder in FOLDERS:
        with contextlib.suppress(OSError):
            other = mount_of(f"{home}/{folder}")
            if os.stat(f"{home}/{folder}").st_dev != device or (mount and other and other.path != mount.path):
                yield Finding(
                    "error",
                    box.address,
                    f"its {folder}/ is on another mount than the box: messages cannot be renamed into it",
                    "mount whole boxes, or the whole root, not parts of a box",
                )


def _own_group(box: Box) -> Iterator[Finding]:
    """`user: "2001"` without a group runs as 2001:0, and cannot read mail from other uids."""
    with contextlib.suppress(OSError):
        st = os.stat(f"{box}/new")
        ours = {os.getegid(), *os.getgroups()}
        if os.geteuid() == st.st_uid != 0 and st.st_gid not in ours:
            yield Finding(
                "error",
                box.address,
                f"we are its owner, uid {st.st_uid}, but not in its group {st.st_gid}: mail from other uids "
                "cannot be read",
                f"run as {st.st_uid}:{st.st_gid}, not as {st.st_uid} alone",
            )


def _waiting_mail(box: Box, now: BoxStatus) -> Iterator[Finding]:
    for lease in now.leases:
        if lease.expired and lease.claimed:
            yield Finding(
                "warning",
                now.name,
                f"a lease expired with {counted(lease.claimed, 'message')} not settled",
                "it is delivered again, the attempt counted; use a longer --lease, or ack sooner",
            )
    if now.dead:
        yield Finding(
            "warning",
            now.name,
            counted(now.dead, "dead letter"),
            f"`mailbox dead list --as {now.name}` shows why",
        )
        if not {"expired_retention", "dead_retention"} & set(now.settings) and (expired := _expired(f"{box}/dead")):
            yield Finding(
                "note",
                now.name,
                f"{counted(expired, 'dead letter')} of these expired, and nothing deletes them",
                f"`mailbox init --expired-retention 7d {now.name}` does so from now on; `mailbox dead purge --reason "
                f"expired --as {now.name}` at once",
            )


def _expired(dead: str) -> int:
    """Return the number of dead letters that expired, of the first thousand; 0 if their notes cannot be read."""
    with contextlib.suppress(OSError):
        dir_fd = os.open(dead, FOLDER)
        try:
            notes = [name for name in list_dir(dir_fd) if name.endswith(".why")]
            return sum(is_expired(name, dir_fd) for name in notes[:_MAX_NOTES])
        finally:
            close(dir_fd)
    return 0


def _far_deadlines(box: Box, now: BoxStatus) -> Iterator[Finding]:
    """Leases and deferred mail with deadlines later than asked for, because a clock was ahead for a while."""
    leases = [lease for lease in now.leases if lease.deadline > to_timestamp(time.time_ns() + _LONG_LEASE)]
    if leases:
        last = _time(max(lease.deadline for lease in leases))
        yield Finding(
            "warning",
            now.name,
            f"{counted(len(leases), 'lease')} of more than a day, until {last}, "
            f"with {counted(sum(lease.claimed for lease in leases), 'message')}",
            "was a clock ahead? Settle the messages by their ids (`mailbox list --state cur`), or wait",
        )
    late = []
    with contextlib.suppress(OSError):
        later = os.open(f"{box}/later", FOLDER)
        try:
            late += [name for name in sorted(list_dir(later))[-_MAX_DEFERRED:] if _is_too_late(name, later)]
        finally:
            close(later)
    if late:
        yield Finding(
            "warning",
            now.name,
            f"{counted(len(late), 'message')} in later/ {'are' if len(late) > 1 else 'is'} due later than asked for, "
            f"{_time(late[-1][:TIMESTAMP_LENGTH])} at the latest",
            "was a clock ahead? Retries come back by themselves; rename the others to an earlier time before the ~",
        )


def _time(timestamp: str) -> str:
    return format_time(from_nanoseconds(to_nanoseconds(timestamp)))


def _is_too_late(filename: str, later: int) -> bool:
    """Return True if a message in `later/` is due later than any retry, or than its own `deliver_after`."""
    now, parts = time.time_ns(), split_timed(filename)
    name = parse_filename(parts[1]) if parts else None
    if parts is None or name is None or to_nanoseconds(parts[0]) <= now + 1_000_000_000:
        return False
    if name.attempt > 1 or name.wait:
        return is_too_late(*parts, now)
    with contextlib.suppress(OSError, NotMailError):
        fd = os.open(filename, READ, dir_fd=later)
        try:
            data, _, refusal = strict_read(fd, MAX_SIZE)
        finally:
            close(fd)
        if refusal is not None:
            return False
        fields = decode(data)
        asked = fields.get("deliver_after")
        due = datetime_ns(parse_time(asked)) if asked else 0
        return "sealed" not in fields and to_nanoseconds(parts[0]) > max(due, now + MAX_RETRY_NS) + 1_000_000_000
    return False


def _junk(box: Box) -> Iterator[Finding]:
    """Files in new/ that are not mail, and files left behind in folders that were new/."""
    with contextlib.suppress(OSError):
        kept = sorted(name for name in os.listdir(box) if name.startswith((NEW_SWAP_PREFIX, KEPT)))
        for folder in ("new", *kept):
            with contextlib.suppress(OSError):
                dir_fd = os.open(f"{box}/{folder}", FOLDER)
                try:
                    entries = sorted(junk.lying(dir_fd), key=itemgetter(0))
                finally:
                    os.close(dir_fd)
                if entries:
                    shown = ", ".join(quoted(entry) for entry, _ in entries[:3]) + (" …" if len(entries) > 3 else "")
                    yield Finding(
                        "note" if folder == "new" and len(entries) <= junk.MANY else "warning",
                        box.address,
                        f"{counted(len(entries), 'file')} in {folder}/ that {'is' if len(entries) == 1 else 'are'} not "
                        f"mail, {junk.owners(st for _, st in entries)}: {shown}",
                        "mail is called *.json, without a leading dot; `mailbox gc` removes other files after 36 "
                        "hours, except full folders of other uids: only their owner or root can remove these",
                    )


def _outbox(box: Box) -> Iterator[Finding]:
    """Mail that a relay should have carried by now."""
    with contextlib.suppress(OSError), os.scandir(f"{box}/{OUTBOX}") as entries:
        ages = [time.time() - entry.stat(follow_symlinks=False).st_mtime for entry in entries if is_mail(entry.name)]
        if ages and max(ages) > _OUTBOX_GRACE:
            yield Finding(
                "warning",
                box.address,
                f"{counted(len(ages), 'message')} waiting in its outbox, the oldest for {duration_text(max(ages))}",
                "check the relay (`mailbox relay health`) and the recipient's box",
            )
