"""What is wrong with a root and its boxes."""

import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import BoxNotFoundError, Mailbox
from filemailbox.format.address import parse_address
from filemailbox.format.times import format_time, from_nanoseconds
from filemailbox.format.timestamp import to_nanoseconds, to_timestamp
from filemailbox.ops import doctor, inventory
from filemailbox.ops.doctor import Finding, examine
from filemailbox.store.box import create_box
from filemailbox.store.ids import new_id, timestamp_now
from filemailbox.store.removed_boxes import remove_box
from filemailbox.store.root import find_root, init_root


def found(root: Path, *only: str) -> list[Finding]:
    return list(examine(find_root(root), [parse_address(name) for name in only] or None))


def wrong(root: Path) -> list[str]:
    return [each.problem for each in found(root) if each.severity == "error"]


def warnings(root: Path) -> list[str]:
    return [each.problem for each in found(root) if each.severity == "warning"]


def mend(root: Path) -> None:
    for each in found(root):
        if each.fix is not None:
            each.fix()


def test_a_fresh_root_is_well(root: Path) -> None:
    """It only names the world."""
    assert [each.severity for each in found(root)] == ["note"]


@pytest.mark.parametrize("folder", ["tmp", "new", "replies", "cur", "later", "dead", "done", "ledger", "run"])
def test_a_missing_folder_is_found_and_made(root: Path, folder: str) -> None:
    """Each of them; the box is as good as new afterwards."""
    path = root / "bob" / folder
    mode = path.stat().st_mode
    for each in path.iterdir() if folder == "cur" else ():
        (each / ".lock").unlink()
        each.rmdir()
    path.rmdir()

    assert wrong(root) == [f"it has no {folder}/"]
    mend(root)
    assert wrong(root) == []
    assert path.stat().st_mode == mode


@pytest.mark.parametrize(
    ("folder", "mode", "told"),
    [
        pytest.param("new", 0o700, "others cannot deliver", id="closed"),
        pytest.param("new", 0o2733, "others can delete and replace waiting mail", id="not sticky"),
        pytest.param("new", 0o1733, "mail from another uid cannot be read", id="no setgid"),
        pytest.param("new", 0o3777, "others can list waiting mail", id="listable"),
        pytest.param("replies", 0o755, "others cannot deliver", id="replies closed"),
        pytest.param("cur", 0o755, "others can read or change claimed mail", id="cur open"),
        pytest.param("later", 0o777, "others can read or change claimed mail", id="later open"),
        pytest.param("run", 0o700, "others cannot ring", id="run closed"),
        pytest.param("run", 0o777, "others can remove the doorbells", id="run open"),
        pytest.param("done", 0o000, "its owner cannot use it", id="nothing"),
    ],
)
def test_a_wrong_mode_is_found_with_what_it_means_and_mended(root: Path, folder: str, mode: int, told: str) -> None:
    """What it leads to, not only the number."""
    path = root / "bob" / folder
    good = path.stat().st_mode
    path.chmod(mode)

    [what] = wrong(root)
    assert what.startswith(f"its {folder}/ has the mode {mode:04o}")
    assert told in what
    mend(root)
    assert path.stat().st_mode == good


def test_a_box_that_others_can_write_is_wrong(root: Path) -> None:
    """Whoever can rename its folders needs none of their modes."""
    (root / "bob").chmod(0o777)

    assert "others can replace its folders" in wrong(root)[0]
    mend(root)
    assert (root / "bob").stat().st_mode & 0o777 == 0o755


def test_a_root_that_anybody_can_rename_in_is_wrong(root: Path) -> None:
    """1777 is fine: there everybody renames only what is his."""
    root.chmod(0o777)
    assert "any uid can replace whole boxes" in wrong(root)[0]

    root.chmod(0o1777)
    assert wrong(root) == []


def test_what_stands_in_the_way_of_a_folder_is_not_mended_away(root: Path) -> None:
    """A person decides about a file."""
    path = root / "bob" / "done"
    path.rmdir()
    path.write_text("mine")

    [finding] = [each for each in found(root) if each.severity == "error"]
    assert (finding.problem, finding.fix) == ("its done is not a folder", None)


def test_folders_of_another_owner_are_wrong(as_root: None, root: Path) -> None:
    """Root gives them back."""
    os.chown(root / "bob" / "new", 4242, 4242)

    assert "its new/ belongs to 4242:4242, and the box to" in wrong(root)[0]
    mend(root)
    assert wrong(root) == []


def test_parts_of_a_box_on_mounts_of_their_own_are_wrong(root: Path, mount: Callable[..., Path]) -> None:
    """A rename does not cross mounts."""
    mount(root / "bob" / "new", "size=1m,mode=3733")

    assert any("its new/ is on another mount than the box" in what for what in wrong(root))


def test_two_mounts_of_one_file_system_are_two_mounts(as_root: None, root: Path, tmp_path: Path) -> None:
    """Two subpath mounts of one volume have one device, and yet no rename between them."""
    import subprocess

    other = tmp_path / "new"
    other.mkdir()
    if subprocess.run(["mount", "--bind", other, root / "bob" / "new"], check=False, capture_output=True).returncode:
        pytest.skip("mounting needs the right to mount")
    try:
        assert any("its new/ is on another mount than the box" in what for what in wrong(root))
    finally:
        subprocess.run(["umount", "--lazy", root / "bob" / "new"], check=True)


def test_unread_mail_that_nobody_listens_for_is_a_warning(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """Not while somebody waits for it."""
    alice.send("bob", 1)
    assert warnings(root)[0].startswith("1 message waiting, the oldest for ")

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        bell.bind(str(root / "bob" / "run" / "bell"))
        assert warnings(root) == []


def test_a_lease_that_ran_out_is_a_warning(root: Path, bob: Mailbox, until: Callable[..., None]) -> None:
    """And what it held is left over: --fix brings it back."""
    bob.send("bob", 1)
    with Mailbox("bob", root, lease=0.01) as box:
        box.receive()
    until(lambda: any("a lease expired with 1 message not settled" in what for what in warnings(root)))
    mend(root)

    assert [message.attempt for message in bob.peek("later")] == [2]


def test_what_waits_longer_than_was_asked_for_is_a_warning(root: Path, alice: Mailbox, bob: Mailbox) -> None:
    """A retry, and a message that never asked to wait; not one that did, nor a long wait that a handler wanted."""
    alice.send("bob", "deferred", delay=86400)
    alice.send("bob", "long", idempotency_key="k")
    message = bob.receive()
    assert message is not None
    message.retry(delay=86400)
    assert warnings(root) == []

    alice.send("bob", "plain")
    alice.send("bob", "retried")
    year = to_timestamp(time.time_ns() + 365 * 86400 * 10**9)
    for path, fields in zip(sorted((root / "bob/new").iterdir()), ("", ",A=2"), strict=True):
        path.rename(root / f"bob/later/{year}~{path.stem}{fields}.json")

    shown = format_time(from_nanoseconds(to_nanoseconds(year)))
    assert warnings(root) == [f"2 messages in later/ are due later than asked for, {shown} at the latest"]


def test_a_lease_of_more_than_a_day_is_a_warning(root: Path, bob: Mailbox) -> None:
    """Nobody gets that mail until then."""
    bob.send("bob", 1)
    with Mailbox("bob", root, lease=86400 - 60) as box:
        assert box.receive() is not None
    assert warnings(root) == []
    bob.send("bob", 2)
    with Mailbox("bob", root, lease=2 * 86400) as box:
        assert box.receive() is not None

    (warning,) = warnings(root)
    assert warning.startswith("1 lease of more than a day, until ")
    assert warning.endswith("with 1 message")


def test_dead_letters_are_told(root: Path, bob: Mailbox) -> None:
    """With the command that shows them."""
    bob.send("bob", 1)
    message = bob.receive()
    assert message is not None
    message.reject("no")

    told = [(each.problem, each.hint) for each in found(root) if each.where == "bob"]
    assert told == [("1 dead letter", "`mailbox dead list --as bob` shows why")]


def test_leftovers_are_told_and_taken_away(root: Path) -> None:
    """What gc does, doctor sees."""
    (root / "bob" / "cur" / f".{new_id()}.lock").write_text("")

    assert "the lock of an abandoned request" in found(root)[1].problem
    mend(root)
    assert len(found(root)) == 1


def test_files_that_nobody_takes_are_told(root: Path) -> None:
    """Someone may have misspelt the suffix."""
    (root / "bob" / "new" / "mail.jsn").write_text("{}")

    whose = f"uid {os.geteuid()}'s"
    assert [each.problem for each in found(root)][1] == f'1 file in new/ that is not mail, {whose}: "mail.jsn"'


def test_strangers_in_a_root_are_told(root: Path) -> None:
    """Names that no agent can have, links, boxes never finished, boxes kept."""
    (root / "Carol").mkdir()
    (root / ".dave").mkdir()
    (root / "erin").symlink_to(root / "bob")
    bob = Mailbox("bob", root)
    bob.send("bob", 1)
    remove_box(bob.root.box(parse_address("bob")), force=True)

    told = " ".join(each.problem for each in found(root, "alice"))
    for part in (
        "Carol cannot be a box",
        ".dave is an unfinished box",
        "erin is a symbolic link",
        "1 removed boxes",
    ):
        assert part in told


def test_dead_notifications_are_told(root: Path, bob: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that finds mail only by looking says so itself."""
    from dataclasses import replace

    from filemailbox.receive.status import from_json

    told = {"since": timestamp_now(), "looked": timestamp_now(), "announced": 1, "missed": 9}
    deaf, blind = (
        from_json("0123456789ab", told),
        from_json("0123456789ac", {**told, "missed": 0, "watch": "no inotify"}),
    )
    seen = inventory.box_status
    monkeypatch.setattr(doctor, "box_status", lambda *where: replace(seen(*where), listeners=(deaf, blind)))

    heard = ("listener", "notifications do")
    assert [what for what in warnings(root) if any(word in what for word in heard)][:2] == [
        "notifications do not work: of 10 messages, 9 were found only by polling",
        "the listener 0123456789ac has no notifications: no inotify",
    ]


@pytest.mark.parametrize(
    ("kind", "options", "level", "told"),
    [
        pytest.param("nfs4", "rw", "warning", "cause no notification here", id="network"),
        pytest.param("virtiofs", "rw", "warning", "cause no notification here", id="virtual machine"),
        pytest.param("overlay", "rw", "warning", "not on a volume", id="no volume"),
        pytest.param("ext4", "ro", "error", "mounted read-only", id="read-only"),
    ],
)
def test_mounts_that_do_not_do_are_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str, level: str, told: str
) -> None:
    """Where notifications are blind, where there is no volume, where nothing can be written."""
    from filemailbox.system.mounts import Mount

    monkeypatch.setattr(doctor, "mount_of", lambda path: Mount(str(root), (0, 1), kind, frozenset([options]), "x"))

    assert any(each.severity == level and told in each.problem for each in found(root))


def test_the_world_of_one_uid(root: Path) -> None:
    """Nothing protects the boxes from each other."""
    assert "one uid" in found(root)[0].problem
    assert "each agent can read, change" in found(root)[0].problem


def test_the_world_of_a_uid_each(as_root: None, shared: Path) -> None:
    """The kernel guards them; a group that two share is a hole."""
    root = init_root(shared / "mail")
    create_box(root.box(parse_address("alice")), (2001, 2001))
    create_box(root.box(parse_address("bob")), (2002, 2002))
    assert "a uid for each box" in found(shared / "mail")[0].problem
    assert wrong(shared / "mail") == []

    create_box(root.box(parse_address("carol")), (2003, 2002))
    assert "bob, carol belong to different uids and share the group 2002" in wrong(shared / "mail")[0]


def test_the_world_of_private_volumes(root: Path, mount: Callable[..., Path]) -> None:
    """Each box a mount of its own."""
    for name in ("alice", "bob"):
        mount(root / name, "size=1m")

    assert "private volumes" in next(each.problem for each in found(root) if "isolation" in each.problem)


def test_other_worlds(as_root: None, tmp_path: Path, shared: Path) -> None:
    """No box, one box, some that share a uid."""
    root = init_root(shared / "mail")
    worlds = [found(shared / "mail")[0].problem]
    for name, uid in (("alice", 2001), ("bob", 2001), ("carol", 2002)):
        create_box(root.box(parse_address(name)), (uid, uid))
        worlds.append(found(shared / "mail")[0].problem)

    assert worlds[0] == "there are no boxes yet"
    assert worlds[1] == "isolation: a single box"
    assert "one uid (2001)" in worlds[2]
    assert "2 uids for 3 boxes" in worlds[3]


@pytest.mark.parametrize("change", ["anybody can write it", "it is an agent's"])
def test_a_root_where_no_uid_proves_anything_is_told(as_root: None, shared: Path, change: str) -> None:
    """Who can exchange boxes can be anybody; with one uid for all there is nothing to prove."""
    root = init_root(shared / "mail")
    create_box(root.box(parse_address("alice")), (2001, 2001))
    if change.startswith("anybody"):
        Path(root.path).chmod(0o1777)
    else:
        os.chown(root.path, 2001, 2001)
    alone = [each.problem for each in found(shared / "mail") if "no sender is proven" in each.problem]
    create_box(root.box(parse_address("bob")), (2002, 2002))
    told = [each.problem for each in found(shared / "mail") if "no sender is proven" in each.problem]

    assert (len(alone), len(told)) == (0, 1)


@pytest.mark.parametrize(("setting", "told"), [("0\n", 1), ("1\n", 0), (None, 0)], ids=["off", "on", "unknown"])
def test_hard_links_that_are_not_protected_are_told(
    as_root: None, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str | None, told: int
) -> None:
    """With them a message can be kept and delivered again."""
    root = init_root(shared / "mail")
    for name, uid in (("alice", 2001), ("bob", 2002)):
        create_box(root.box(parse_address(name)), (uid, uid))
    monkeypatch.setattr(doctor, "_HARDLINKS", str(tmp_path / "setting"))
    if setting is not None:
        (tmp_path / "setting").write_text(setting)

    assert sum("fs.protected_hardlinks is 0" in each.problem for each in found(shared / "mail")) == told


@pytest.mark.parametrize(
    ("mode", "namespaces", "faults", "told"),
    [
        pytest.param(0o666, "100\n", "0\n", ["/dev"], id="fuse"),
        pytest.param(0o660, "100\n", "0\n", [], id="fuse for a group"),
        pytest.param(0o666, "0\n", "0\n", [], id="no namespaces"),
        pytest.param(0o666, None, None, ["/dev"], id="nothing known"),
        pytest.param(0o600, "100\n", "1\n", ["vm.unprivileged_userfaultfd"], id="faults"),
    ],
)
def test_a_host_on_which_others_can_stall_the_kernel_is_told(
    as_root: None,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    namespaces: str | None,
    faults: str | None,
    told: list[str],
) -> None:
    """Nothing of ours mends it: a claim waits in the kernel for the lock of a file that its sender holds."""
    root = init_root(shared / "mail")
    for name, uid in (("alice", 2001), ("bob", 2002)):
        create_box(root.box(parse_address(name)), (uid, uid))
    device = tmp_path / "dev"
    try:
        os.mknod(device, stat.S_IFCHR | mode, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no device can be made here")
    device.chmod(mode)
    monkeypatch.setattr(doctor, "_FUSE", str(device))
    monkeypatch.setattr(doctor, "_NAMESPACES", {str(tmp_path / "namespaces"): "0"})
    monkeypatch.setattr(doctor, "_USERFAULTFD", str(tmp_path / "faults"))
    for name, said in (("namespaces", namespaces), ("faults", faults)):
        if said is not None:
            (tmp_path / name).write_text(said)
    stalls = [each.problem for each in found(shared / "mail") if "in state D" in each.problem]

    assert len(stalls) == len(told)
    assert all(word in what for word, what in zip(told, stalls, strict=True))


def test_a_uid_without_its_group_is_told(as_root: None, shared: Path, start: Callable[..., Any]) -> None:
    """`user: "2001"` runs as 2001:0, and can read nothing of what others drop."""
    root = init_root(shared / "mail")
    create_box(root.box(parse_address("bob")), (2001, 2001))
    look = start(
        "import os, sys\n"
        "from filemailbox.store.root import find_root; from filemailbox.ops import doctor\n"
        "list(doctor.examine(find_root(sys.argv[1])))\n"
        "os.setgroups([]); os.setgid(0); os.setuid(2001)\n"
        "print([each.problem for each in doctor.examine(find_root(sys.argv[1])) if each.severity == 'error'])",
        shared / "mail",
    )

    assert "we are its owner, uid 2001, but not in its group 2001" in look.line()


def test_only_what_was_asked_for_is_looked_at(root: Path) -> None:
    """And a box that is not there is an error."""
    (root / "bob" / "new").chmod(0o700)

    assert [each.severity for each in found(root, "alice")] == ["note"]
    with pytest.raises(BoxNotFoundError):
        found(root, "carol")


def test_mail_that_no_relay_carries_is_told_of(root: Path) -> None:
    """It has been in the outbox for longer than a relay takes."""
    create_box(find_root(root).box(parse_address("alice")), outbox=True)
    with Mailbox("alice", root) as alice:
        alice.send("dora", 1)
    assert warnings(root) == []
    (message,) = (root / "alice/outbox").iterdir()
    os.utime(message, (0, 0))

    assert [each.split(", the oldest")[0] for each in warnings(root)] == ["1 message waiting in its outbox"]
