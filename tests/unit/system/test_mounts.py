"""What is mounted where."""

from pathlib import Path

import pytest

from filemailbox.system.mounts import Mount, mount_of, mounts, parse

TABLE = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:5 / /proc rw - proc proc rw
40 22 0:40 / /mail rw shared:2 master:3 - virtiofs share rw
41 22 0:41 /sub /with\\040blank ro - tmpfs tmpfs rw
42 22 0:42 / /ro rw - nfs4 host:/x ro,vers=4.2
43 40 0:43 / /mail rw - tmpfs again rw
44 22 0:44 / /mailbox rw - fuse.sshfs host: rw
broken
45 22 x:y / /z rw - ext4 z rw
"""


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "mountinfo"
    path.write_text(TABLE)
    return str(path)


def test_a_line_of_mountinfo_is_read(table: str) -> None:
    """Optional fields may be none or many; blanks are written as octal numbers."""
    found = {mount.path: mount for mount in mounts(table)}

    assert found["/with blank"] == Mount("/with blank", (0, 41), "tmpfs", frozenset({"ro"}), "tmpfs")
    assert found["/with blank"].read_only
    assert found["/ro"].read_only
    assert not found["/"].read_only


def test_what_is_no_line_is_passed_by(table: str) -> None:
    """Lines of kernels to come do not stop us, nor does a table that is not there."""
    assert parse("broken") is None
    assert len(list(mounts(table))) == 7
    assert list(mounts("/nowhere")) == []


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        pytest.param("/", "ext4", id="the root"),
        pytest.param("/home/x", "ext4", id="below the root"),
        pytest.param("/mail/bob", "tmpfs", id="the last one mounted there"),
        pytest.param("/mailbox", "fuse.sshfs", id="not one that only begins alike"),
    ],
)
def test_a_path_lies_on_the_mount_above_it(table: str, path: str, kind: str) -> None:
    """The longest one that holds it, and of those the last."""
    mount = mount_of(path, table)

    assert mount is not None
    assert mount.kind == kind


def test_file_systems_of_other_machines_are_blind(table: str) -> None:
    """Notifications and locks end at this kernel."""
    blind = {mount.kind: mount.blind for mount in mounts(table)}

    assert blind == {"ext4": False, "proc": False, "virtiofs": True, "tmpfs": False, "nfs4": True, "fuse.sshfs": True}


def test_here_there_is_a_mount() -> None:
    """The real table of this machine."""
    assert mount_of("/proc/self") is not None
