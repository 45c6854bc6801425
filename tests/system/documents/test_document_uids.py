"""Documents across uids and user namespaces: who may do what, what is proven, and what a rogue member can do.

alice, bob and mallory are members of the group of a document that root has made; carol may only read. Each is a child
with the rights of its uid.
"""

import contextlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import DocumentBrokenError, Mailbox, MailboxError
from filemailbox.documents import document, history, upkeep  # noqa: F401  # a child of another uid may not find them
from filemailbox.documents.version import encode, filename
from filemailbox.format.address import Address
from filemailbox.store import box as boxes
from filemailbox.store import root as roots
from support.uids import Actor
from support.uids import act as act_in_a_namespace

pytestmark = pytest.mark.usefixtures("as_root")

UIDS = {"alice": 2001, "bob": 2002, "carol": 2003, "mallory": 2004}
GROUP = 3000
AT = "2026-11-24T01:45:30.123456Z"


def act(name: str, job: Callable[[], Any]) -> Any:
    """What *job* returns, or the name of the error that it raises, when *name* does it."""
    heard, tell = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a test runner has threads; the child has one
        child = os.fork()
    if child == 0:
        try:
            os.close(heard)
            os.setgroups([GROUP] if name != "carol" else [])
            os.setgid(UIDS[name])
            os.setuid(UIDS[name])
            try:
                said = job()
            except (MailboxError, OSError) as error:
                said = type(error).__name__
            os.write(tell, json.dumps(said).encode())
            os._exit(0)
        except BaseException:  # noqa: BLE001  # nothing of this may go on in the child
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)
    os.close(tell)
    with open(heard, "rb") as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, f"{name} failed"
    return json.loads(said)


@pytest.fixture
def volume(shared: Path) -> Path:
    """A root that agents cannot change, a box for each, and a document `plan` of the group, made by root."""
    path = shared / "mail"
    root = roots.init_root(path)
    for name, uid in UIDS.items():
        boxes.create_box(root.box(Address(name)), (uid, uid))
    Mailbox("operator", path).document("plan").create({"n": 1}, group=GROUP)
    return path


def plan(volume: Path, name: str, **options: Any) -> Any:
    return Mailbox(name, volume).document("plan", **options)


def put(volume: Path, name: str, value: Any) -> Any:
    return act(name, lambda: plan(volume, name).put(value).version)


def versions(volume: Path) -> Path:
    return volume / ".documents/plan/versions"


def raw(volume: Path, number: int, data: Callable[[str], bytes], mode: int = 0o644) -> Any:
    """mallory puts a file there by hand."""

    def job() -> int:
        base = plan(volume, "mallory").get().digest
        path = versions(volume) / filename(number)
        path.write_bytes(data(base))
        path.chmod(mode)
        return path.stat().st_uid

    return act("mallory", job)


def test_members_write_and_their_uids_prove_them(volume: Path) -> None:
    """Each version is its author's file, in the group of the document."""
    assert [put(volume, name, {"n": n}) for n, name in enumerate(("alice", "bob", "alice"), 2)] == [2, 3, 4]
    seen = act("bob", lambda: [[each.version, each.by, each.trust] for each in plan(volume, "bob").history()])

    assert seen == [[4, "alice", "uid"], [3, "bob", "uid"], [2, "alice", "uid"], [1, "operator", "none"]]
    st = (versions(volume) / filename(3)).stat()
    assert (st.st_uid, st.st_gid, st.st_mode & 0o7777) == (2002, GROUP, 0o644)


def test_a_reader_reads_and_cannot_write(volume: Path) -> None:
    """Nor leave anything behind."""
    assert act("carol", lambda: plan(volume, "carol").get().body) == {"n": 1}
    assert put(volume, "carol", {"n": 2}) == "PermissionDeniedError"
    assert act("carol", lambda: next(plan(volume, "carol").watch()).version) == 1
    assert act("carol", lambda: plan(volume, "carol").remove()) == "PermissionDeniedError"
    assert put(volume, "alice", {"n": 2}) == 2


def test_who_may_not_read_a_private_document_does_not(volume: Path) -> None:
    """Members do."""
    Mailbox("operator", volume).document("secret").create("s", group=GROUP, private=True)

    def read(name: str) -> Any:
        return act(name, lambda: Mailbox(name, volume).document("secret").get().body)

    assert read("alice") == "s"
    assert read("carol") == "PermissionDeniedError"
    assert act("alice", lambda: Mailbox("alice", volume).document("secret").put("t").version) == 2
    assert read("bob") == "t"
    assert (volume / ".documents/secret/versions" / filename(2)).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("deed", ["unlink", "replace", "write", "chmod", "truncate", "rename", "remove the folder"])
def test_a_member_cannot_change_what_another_has_written(volume: Path, deed: str) -> None:
    """Sticky folders, and files of their own."""
    put(volume, "alice", {"n": 2})
    path = versions(volume) / filename(2)

    def job() -> str:
        mine = volume / ".documents/plan/drafts/mine"
        mine.write_text("x")
        deeds: dict[str, Callable[[], object]] = {
            "unlink": path.unlink,
            "replace": lambda: mine.rename(path),
            "write": lambda: path.open("r+").close(),
            "chmod": lambda: path.chmod(0o666),
            "truncate": lambda: os.truncate(path, 0),
            "rename": lambda: path.rename(versions(volume) / filename(7)),
            "remove the folder": lambda: versions(volume).rename(volume / ".documents/plan/aside"),
        }
        deeds[deed]()
        return "done"

    assert act("mallory", job) == "PermissionError"
    assert act("bob", lambda: plan(volume, "bob").get().body) == {"n": 2}


def test_a_member_that_writes_in_the_name_of_another_proves_nothing(volume: Path) -> None:
    """Its file is its own: trust none, and refused where a uid is asked for."""
    raw(volume, 2, lambda base: encode(2, "alice", AT, base, {"n": "forged"}))

    assert act("bob", lambda: [plan(volume, "bob").get().by, plan(volume, "bob").get().trust]) == ["alice", "none"]
    assert act("bob", lambda: plan(volume, "bob", min_trust="uid").get().by) == "UnverifiedSenderError"


def test_a_version_that_others_can_write_proves_nothing(volume: Path) -> None:
    """An author with an open umask: somebody may have changed it in place."""
    put(volume, "alice", {"n": 2})
    act("alice", lambda: (versions(volume) / filename(2)).chmod(0o666))

    assert act("bob", lambda: plan(volume, "bob").get().trust) == "none"


def test_a_version_of_another_document_cannot_be_moved_here(volume: Path) -> None:
    """Not even by who owns both folders: its base is of its own document."""
    Mailbox("operator", volume).document("other").create({"n": 1}, group=GROUP)
    act("alice", lambda: Mailbox("alice", volume).document("other").put("yes, delete it").version)
    (volume / ".documents/other/versions" / filename(2)).rename(versions(volume) / filename(2))

    assert act("bob", lambda: plan(volume, "bob").get().body) == {"n": 1}


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        pytest.param(lambda base: b"garbage", 0o644, id="garbage"),
        pytest.param(lambda base: encode(2, "mallory", AT, "0" * 64, 1), 0o644, id="a wrong base"),
        pytest.param(
            lambda base: encode(2, "mallory", AT, base, 1), 0o600, id="a version that only its author can read"
        ),
    ],
)
def test_a_number_that_a_member_blocks_is_freed_by_root(
    volume: Path, data: Callable[[str], bytes], mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All see the same until then, root as well; nobody's change is lost, and the error names the uid."""
    monkeypatch.setattr(history, "UNCHANGED", 0.0)
    assert raw(volume, 2, data, mode) == 2004

    def refused() -> str:
        try:
            plan(volume, "alice").put({"n": 2})
        except DocumentBrokenError as error:
            return str(error)
        return "it was written"

    assert act("bob", lambda: plan(volume, "bob").get().version) == 1
    assert plan(volume, "operator").get().version == 1
    assert "version 2 is taken by a file of uid 2004 that is no version" in act("alice", refused)
    (finding,) = upkeep.findings(roots.find_root(volume))
    assert finding.fix is not None
    finding.fix()
    assert put(volume, "alice", {"n": 2}) == 2


def test_a_folder_that_a_member_puts_there_is_moved_by_the_owner(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root may not move a folder of another uid to another place, but may rename it."""
    monkeypatch.setattr(history, "UNCHANGED", 0.0)
    home = volume / ".documents/plan"
    for path in (home, *home.iterdir()):
        os.chown(path, 2001, -1)
    home.joinpath("versions").chmod(0o3775)
    home.joinpath("drafts").chmod(0o3730)

    def job() -> None:
        (versions(volume) / filename(2)).mkdir(mode=0o700)
        (versions(volume) / filename(2) / "x").write_text("x")

    act("mallory", job)

    assert put(volume, "bob", {"n": 2}) == "DocumentBrokenError"
    assert put(volume, "alice", {"n": 2}) == 2
    assert put(volume, "bob", {"n": 3}) == 3


def test_a_folder_in_the_place_of_an_old_version_stops_no_trim(volume: Path) -> None:
    """Neither of the owner nor of gc."""
    Mailbox("operator", volume).document("short").create(0, group=GROUP, keep=2)
    short = Mailbox("operator", volume).document("short")
    for number in range(1, 40):
        short.put(number)
    folder = volume / ".documents/short/versions"
    act("mallory", (folder / filename(3)).mkdir)
    for number in range(40, 80):
        short.put(number)
    for each in upkeep.garbage(roots.find_root(volume)):
        each.how()

    assert sorted(each.name for each in folder.iterdir()) == [filename(3), filename(79), filename(80)]


def test_a_member_that_blocks_a_number_can_go_on_itself(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own file it may move."""
    monkeypatch.setattr(history, "UNCHANGED", 0.0)
    raw(volume, 2, lambda base: b"half a ver")

    assert put(volume, "mallory", {"n": 2}) == 2


@pytest.mark.parametrize("deed", ["delete", "change"])
def test_a_member_that_spoils_its_own_old_version_rolls_nobody_back(volume: Path, deed: str) -> None:
    """Those with a checkpoint behind it go on: their own, or that of the owner, which gc moves."""
    put(volume, "mallory", {"n": 2})
    for number in range(3, 15):
        put(volume, "alice", {"n": number})
    for each in upkeep.garbage(roots.find_root(volume)):
        each.how()
    path = versions(volume) / filename(2)
    act("mallory", lambda: path.unlink() if deed == "delete" else path.write_text("x"))

    assert [act(name, lambda: plan(volume, name).get().version) for name in ("alice", "bob", "carol")] == [14] * 3  # noqa: B023  # called at once
    assert put(volume, "bob", {"n": 15}) == 15


def test_a_checkpoint_in_the_name_of_another_is_not_believed(volume: Path) -> None:
    """It is its writer's file; the sticky folder keeps theirs from being replaced."""
    folder = volume / ".documents/plan/checkpoints"
    forged = json.dumps({"version": 7, "digest": "0" * 64})

    def job() -> None:
        for uid in (2001, 0):
            (folder / f"{uid}.json").write_text(forged)

    act("mallory", job)

    assert act("alice", lambda: plan(volume, "alice").get().version) == 1
    assert [put(volume, "alice", {"n": n}) for n in range(2, 20)] == list(range(2, 20))
    assert act("bob", lambda: plan(volume, "bob").get().version) == 19


def test_a_link_to_a_secret_shows_nothing(volume: Path, shared: Path, tmp_path: Path) -> None:
    """A reader follows no symbolic link, also not root; and what is no version is not quoted."""
    secret = shared / "secret"
    secret.write_text('{"password":"hunter2"}\n')
    secret.chmod(0o600)
    act("mallory", lambda: (versions(volume) / filename(2)).symlink_to(secret))

    assert plan(volume, "operator").get().version == 1
    said = [f"{each.what} {each.advice}" for each in upkeep.findings(roots.find_root(volume))]
    assert said
    assert not any("hunter2" in each for each in said)


def test_root_moves_and_deletes_nothing_outside(volume: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gc over a folder that a member fills with links."""
    monkeypatch.setattr(history, "UNCHANGED", 0.0)
    monkeypatch.setattr(upkeep, "ABANDONED", -1.0)
    outside = shared / "outside"
    outside.mkdir(mode=0o700)
    (outside / "precious").write_text("x")

    def job() -> None:
        for folder in ("versions", "drafts", "checkpoints", "run"):
            for name in (filename(2), "x", ".x"):
                with contextlib.suppress(OSError):
                    (volume / ".documents/plan" / folder / name).symlink_to(outside)

    act("mallory", job)
    for each in upkeep.garbage(roots.find_root(volume), 0):
        each.how()

    assert [each.name for each in outside.iterdir()] == ["precious"]
    assert put(volume, "alice", {"n": 2}) == 2


def test_containers_with_user_namespaces_share_a_document(shared: Path) -> None:
    """Whatever uid they think that they are: outside it is one."""
    path = shared / "mail"
    path.mkdir()
    os.chown(path, 100_000, 100_000)
    inside, outside = Actor("container", 0, 100_000), Actor("process", 100_000)

    def add() -> int:
        version: int = Mailbox("alice", path).document("plan").update(lambda body: body + 1).version
        return version

    act_in_a_namespace(inside, lambda: Mailbox.init("alice", path).document("plan").create(0).version)
    numbers = [act_in_a_namespace(who, add) for who in (inside, outside, inside, outside)]

    assert numbers == [2, 3, 4, 5]
    assert act_in_a_namespace(outside, lambda: Mailbox("alice", path).document("plan").get().body) == 4


def test_containers_of_different_uids_share_a_document_by_its_group(volume: Path) -> None:
    """Each with a namespace of its own, in which the uids of the others have no name."""
    os.chown(volume / ".documents/plan", -1, -1)
    for folder in ("versions", "drafts", "checkpoints", "run"):
        path = volume / ".documents/plan" / folder
        mode = path.stat().st_mode & 0o7777
        os.chown(path, -1, 100_000)
        path.chmod(mode)
    os.chown(versions(volume) / filename(1), -1, 100_000)
    one, other = Actor("one", 0, 100_000), Actor("other", 100_000)

    def add() -> int:
        version: int = Mailbox("alice", volume).document("plan").update(lambda body: {"n": body["n"] + 1}).version
        return version

    assert [act_in_a_namespace(who, add) for who in (one, other, one)] == [2, 3, 4]
    assert act("carol", lambda: plan(volume, "carol").get().body) == {"n": 4}
