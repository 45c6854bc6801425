"""Document: get, put, update, merge, patch, history, watch; typed bodies, proofs, notices, and asyncio."""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemailbox import (
    BodyTypeError,
    BoxNotFoundError,
    ConflictError,
    DocumentNotFoundError,
    InvalidBodyError,
    InvalidRequestError,
    Mailbox,
    MailboxError,
    UnverifiedSenderError,
)
from filemailbox.documents import change
from filemailbox.documents.document import Document
from filemailbox.documents.version import MAX_SIZE, Version, encode
from filemailbox.trust.key_files import PrivateKeys

Plan = Document[dict[str, int]]


@dataclass
class Task:
    title: str
    owner: str | None = None


@dataclass
class Board:
    tasks: dict[str, Task] = field(default_factory=dict)


# Changing


def test_what_is_put_is_got(alice: Mailbox, bob: Mailbox) -> None:
    """By another process as well, with all that is known of it."""
    made = alice.document("team/plan").create({"n": [1, None, "ü"]}, note="begin")
    got = bob.document("team/plan").get()

    assert got == made
    assert (got.version, got.by, got.note, got.body, got.trust) == (1, "alice", "begin", {"n": [1, None, "ü"]}, "none")


def test_a_document_that_is_not_there_is_not_made_by_put(alice: Mailbox) -> None:
    """A typing error is seen at once."""
    with pytest.raises(DocumentNotFoundError, match='there is no document "plna"') as caught:
        alice.document("plna").get()
    assert "mailbox doc put plna --create" in (caught.value.hint or "")
    with pytest.raises(DocumentNotFoundError):
        alice.document("plna").put(1)
    assert alice.document("plna").put(1, if_version=0).version == 1


def test_a_conflict_says_both_versions_and_writes_nothing(plan: Plan, bob: Mailbox) -> None:
    """`current` is what is there now."""
    bob.document("plan").put({"n": 2}, note="faster")
    with pytest.raises(ConflictError, match='"plan" is at version 2 by bob, and 1 was expected') as caught:
        plan.put({"n": 3}, if_version=1)

    assert caught.value.current.body == {"n": 2}
    assert plan.get().body == {"n": 2}


def test_put_without_a_version_overwrites(plan: Plan, bob: Mailbox) -> None:
    """It says so."""
    bob.document("plan").put({"n": 2})

    assert plan.put({"n": 3}).version == 3


def test_an_update_is_made_again_where_another_was_faster(plan: Plan, bob: Mailbox) -> None:
    """From what is current then."""
    others = bob.document("plan")
    seen: list[int] = []

    def add(body: dict[str, int]) -> dict[str, int]:
        seen.append(body["n"])
        if len(seen) < 4:
            others.put({"n": body["n"] * 10})
        return {"n": body["n"] + 1}

    assert plan.update(add, note="+1").body == {"n": 1001}
    assert seen == [1, 10, 100, 1000]


def test_an_update_gives_up_at_last(plan: Plan, bob: Mailbox) -> None:
    """After as many attempts as it was told."""
    others = bob.document("plan")
    with pytest.raises(ConflictError):
        plan.update(lambda body: others.put(body).body, attempts=3)

    assert plan.get().version == 4
    with pytest.raises(InvalidRequestError, match="attempts="):
        plan.update(lambda body: body, attempts=0)


def test_what_an_update_does_to_the_body_is_its_own(plan: Plan) -> None:
    """What is remembered is not what was given away."""
    body = plan.get().body
    body["n"] = 99

    assert plan.get().body == {"n": 1}
    assert plan.update(lambda body: body | {"m": body.pop("n")}).body == {"m": 1}


def test_what_json_cannot_hold_is_refused(plan: Plan, home: Path) -> None:
    """As for mail; nothing is left behind."""
    for value in (b"bytes", float("nan"), {1: 2}, "x" * MAX_SIZE):
        with pytest.raises(InvalidBodyError):
            plan.put(value)
    with pytest.raises(InvalidRequestError, match="note="):
        plan.put(1, note=7)  # type: ignore[arg-type]

    assert plan.get().version == 1
    assert list((home / "drafts").iterdir()) == []


def test_a_merge_changes_what_it_names(plan: Plan) -> None:
    """RFC 7396, and the tests that guard it."""
    merged: list[Any] = [plan.merge({"a": {"b": 1}, "n": None}).body]
    merged += [plan.merge({"a": {"c": 2}}, test={"/a/b": 1, "/n": None}).body]

    assert merged == [{"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}]
    with pytest.raises(ConflictError, match='"plan" is at version 3 by alice: "/a/b" is 1, expected 2') as caught:
        plan.merge({"a": 1}, test={"/a/b": 2})

    assert caught.value.current.version == plan.get().version == 3


def test_a_patch_changes_what_it_names(plan: Plan) -> None:
    """RFC 6902, by jsonpatch."""
    add = {"op": "replace", "path": "/n", "value": 2}
    assert plan.patch([{"op": "test", "path": "/n", "value": 1}, add]).body == {"n": 2}
    with pytest.raises(ConflictError, match="is at version 2"):
        plan.patch([{"op": "test", "path": "/n", "value": 1}, add])
    every: list[Any] = [{}, [{"op": "nonsense"}], [{"op": "remove", "path": "/x"}]]
    for wrong in [*every, [{"op": "add", "path": "x", "value": 1}]]:
        with pytest.raises(InvalidRequestError, match=r"[Pp]atch"):
            plan.patch(wrong)

    assert plan.get().version == 2


@pytest.mark.parametrize(("library", "call"), [
    ("jsonpatch", lambda: change.json_patch({}, [])),
    ("merge3", lambda: change.three_way("a", "b", "c", "x", "y")),
])  # fmt: skip
def test_a_library_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, library: str, call: Callable[[], Any]
) -> None:
    """And what installs it."""
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(MailboxError, match=rf"library {library}: `pip install 'filemailbox\[patch\]'`"):
        call()


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", {"a": [{"b/c": 1, "d~e": 2}, None], "": 3}),
        ("/a/0/b~1c", 1),
        ("/a/0/d~0e", 2),
        ("/", 3),
        ("/a/1", None),
        ("/a/2", None),
        ("/a/-1", None),
        ("/a/x", None),
        ("/a/0/b~1c/z", None),
        ("/nothing", None),
    ],
)
def test_a_pointer_points(pointer: str, value: Any) -> None:
    """RFC 6901; where there is nothing, None."""
    assert change.at_pointer({"a": [{"b/c": 1, "d~e": 2}, None], "": 3}, pointer) == value


def test_a_test_compares_as_json_does() -> None:
    """true is not 1; the order of members is none; 1 is 1.0."""
    change.check_tests({"a": {"x": 1, "y": 2}, "n": 1}, {"/a": {"y": 2, "x": 1}, "/n": 1.0, "/z": None})
    for pointer, value in (("/n", True), ("/n", "1"), ("/a", {}), ("/z", 0)):
        with pytest.raises(change.PatchTestError):
            change.check_tests({"a": {"x": 1}, "n": 1}, {pointer: value})
    with pytest.raises(InvalidRequestError, match="JSON Pointer"):
        change.check_tests({}, {"a": 1})


lines = st.lists(st.sampled_from("abc"), max_size=8).map(lambda each: "".join(f"{line}\n" for line in each))


@given(lines, lines, lines)
def test_a_merge_of_texts_keeps_what_one_side_did(base: str, ours: str, theirs: str) -> None:
    """Nobody else did anything: then it is ours; and it is never lost without a mark."""
    assert change.three_way(base, ours, base, "ours", "theirs") == (ours, True)
    assert change.three_way(base, base, theirs, "ours", "theirs") == (theirs, True)
    merged, clean = change.three_way(base, ours, theirs, "ours", "theirs")
    assert clean is ("<<<<<<< ours" not in merged)


# Typed bodies


def test_a_typed_body_is_what_it_is_said_to_be(alice: Mailbox) -> None:
    """Read, changed and put as the type; a merge takes plain JSON."""
    board = alice.document("board", into=Board)
    board.create(Board({"t1": Task("write")}))

    def take(board: Board) -> Board:
        board.tasks["t1"].owner = "alice"
        return board

    assert board.update(take).body.tasks["t1"] == Task("write", "alice")
    assert board.merge({"tasks": {"t2": {"title": "test"}}}).body.tasks["t2"] == Task("test")
    assert alice.document("board").get().body["tasks"]["t2"] == {"title": "test"}


def test_a_body_of_another_type_is_a_mismatch(plan: Plan, alice: Mailbox) -> None:
    """It says which version, and why. None is written."""
    with pytest.raises(BodyTypeError, match=r'version 1 of "plan": its body is not Task: .*title'):
        alice.document("plan", into=Task).get()
    with pytest.raises(BodyTypeError):
        alice.document("plan", into=Task).put({"n": 2})
    assert plan.get().version == 1


def test_a_version_is_json(plan: Plan, alice: Mailbox) -> None:
    """As it was written, whatever it was read into."""
    made = alice.document("plan", into=dict[str, int]).put({"n": 7}, note="x").as_dict()

    assert json.loads(json.dumps(made)) == made
    assert (made["version"], made["body"], made["note"], made["by"]) == (2, {"n": 7}, "x", "alice")


# Older versions


def test_older_versions_are_kept(plan: Plan) -> None:
    """The newest first; each by its number."""
    for number in range(2, 6):
        plan.put({"n": number}, note=f"to {number}")

    assert [each.version for each in plan.history()] == [5, 4, 3, 2, 1]
    assert plan.get(3).body == {"n": 3}
    for number in (6, 99):
        with pytest.raises(DocumentNotFoundError, match=f'"plan" has no version {number}: the current one is 5'):
            plan.get(number)


def test_a_document_that_was_removed_is_kept_aside(plan: Plan, bob: Mailbox) -> None:
    """Nobody finds it; whoever made a mistake does."""
    kept = Path(plan.remove())

    with pytest.raises(DocumentNotFoundError):
        bob.document("plan").get()
    assert [each.name for each in (kept / "versions").iterdir()] == ["0000000001.json"]
    with pytest.raises(DocumentNotFoundError):
        plan.remove()


# Proofs


@pytest.fixture
def keys(tmp_path: Path, root: Path) -> Path:
    """Keys of alice and of bob, each pinned at the other."""
    for name in ("alice", "bob"):
        PrivateKeys.generate(f"{tmp_path}/{name}/{name}.key", Mailbox(name, root).name)
    for name, other in (("alice", "bob"), ("bob", "alice")):
        box = Mailbox(name, root, key_dir=tmp_path / name)
        box.keyring.pin(PrivateKeys.load(f"{tmp_path}/{other}/{other}.key").public)
    return tmp_path


def test_who_has_a_key_signs_and_who_has_pinned_it_knows(root: Path, keys: Path) -> None:
    """By default."""
    alice, bob = (Mailbox(name, root, key_dir=keys / name) for name in ("alice", "bob"))
    alice.document("plan").create(1)
    got = bob.document("plan").get()

    assert got.trust == "signed"
    assert b'"sig":"mbs1:' in got.raw
    assert bob.document("plan").put(2).trust == "signed"
    assert [each.trust for each in alice.document("plan").history()] == ["signed", "signed"]


@pytest.mark.parametrize("forge", ["unsigned", "changed", "other key"])
def test_a_forged_author_is_refused_where_its_key_is_pinned(root: Path, keys: Path, forge: str) -> None:
    """The current version is not shown; a writer can go on, and older ones can be read."""
    alice, bob = (Mailbox(name, root, key_dir=keys / name) for name in ("alice", "bob"))
    document = bob.document("plan")
    alice.document("plan").create("from alice")
    if forge == "unsigned":
        Mailbox("alice", root).document("plan").put("forged")
    elif forge == "other key":
        (keys / "mallory").mkdir()
        PrivateKeys.generate(f"{keys}/mallory/alice.key", alice.name)
        Mailbox("alice", root, key_dir=keys / "mallory").document("plan").put("forged")
    else:
        made = alice.document("plan").put("really")
        path = root / ".documents/plan/versions/0000000002.json"
        path.write_bytes(made.raw.replace(b"really", b"forged"))
        os.remove(root / f".documents/plan/checkpoints/{os.geteuid()}.json") if (
            root / f".documents/plan/checkpoints/{os.geteuid()}.json"
        ).exists() else None

    with pytest.raises(UnverifiedSenderError, match='version 2 names as its author "alice"'):
        document.get()
    assert document.get(1).body == "from alice"
    assert document.put("from bob", if_version=2).version == 3
    assert document.get().body == "from bob"


def test_less_proof_than_asked_for_is_refused(plan: Plan, root: Path, keys: Path) -> None:
    """min_trust, of the document or of the mailbox."""
    with pytest.raises(UnverifiedSenderError, match='proven by "none", and signed or better'):
        Mailbox("alice", root, key_dir=keys / "alice", min_trust="signed").document("plan").get()
    with pytest.raises(UnverifiedSenderError, match='proven by "none", and uid or better'):
        Mailbox("bob", root).document("plan", min_trust="uid").get()
    with pytest.raises(InvalidRequestError, match="sign= needs keys"):
        plan.put(1, sign=True)
    assert Mailbox("bob", root).document("plan", min_trust="uid").put({"n": 2}).version == 2  # what is written is ours


# Watching


def test_a_watcher_sees_the_current_version_and_each_that_comes(plan: Plan, root: Path) -> None:
    """It wakes by the bell, not by looking every minute."""
    seen: list[Version[Any]] = []
    ready = threading.Event()

    def watch() -> None:
        with Mailbox("bob", root, poll_interval=60) as bob:
            for version in bob.document("plan").watch():
                seen.append(version)
                ready.set()
                if version.body == {"n": 3}:
                    return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    for number in (2, 3):
        assert ready.wait(20)
        ready.clear()
        plan.put({"n": number})
    thread.join(20)

    assert not thread.is_alive()
    assert [each.version for each in seen] == [1, 2, 3]
    assert list((root / ".documents/plan/run").iterdir()) == []


def test_a_watcher_wakes_when_a_shell_adds_a_version(plan: Plan, root: Path, home: Path) -> None:
    """Nobody rings: the kernel tells of the link."""
    current = plan.get()
    line = encode(2, "bob", "2026-11-24T01:45:30.123456Z", current.digest, {"n": 2})
    (home / "drafts/x").write_bytes(line)
    with Mailbox("bob", root, poll_interval=60) as bob:
        watching = bob.document("plan").watch(since=1)
        timer = threading.Timer(0.2, os.link, (home / "drafts/x", home / "versions/0000000002.json"))
        timer.start()

        assert next(watching).version == 2
        watching.close()  # type: ignore[attr-defined]
        timer.join()


def test_a_watcher_sees_a_document_that_was_made_again(plan: Plan, root: Path) -> None:
    """Although its number is lower: it is another one."""
    plan.put({"n": 2})
    with Mailbox("bob", root) as bob:
        watching = bob.document("plan").watch()
        assert next(watching).version == 2
        plan.remove()
        plan.create({"n": 100})

        assert next(watching).body == {"n": 100}
        watching.close()  # type: ignore[attr-defined]


def test_a_watch_ends_when_nothing_comes(plan: Plan) -> None:
    """And gives what was there first."""
    assert [each.version for each in plan.watch(timeout=0)] == [1]
    assert list(plan.watch(since=1, timeout=0.01)) == []
    with pytest.raises(DocumentNotFoundError):
        next(plan.__class__(plan.root, "nothing", plan.by).watch())


def test_a_watcher_of_a_document_that_is_removed_is_told(plan: Plan, root: Path) -> None:
    """By the bell, too."""
    with Mailbox("bob", root, poll_interval=60) as bob:
        watching = bob.document("plan").watch(since=1)
        timer = threading.Timer(0.2, plan.remove)
        timer.start()
        with pytest.raises(DocumentNotFoundError):
            next(watching)
        timer.join()


def test_mail_tells_those_who_are_to_know(plan: Plan, bob: Mailbox) -> None:
    """Of the type `document`."""
    plan.put({"n": 2}, note="more", notify=["bob"])
    message = bob.receive()

    assert message is not None
    assert (message.type, message.sender, message.subject) == ("document", "alice", "plan is at version 2")
    assert message.body == {"document": "plan", "version": 2, "by": "alice", "note": "more"}
    with pytest.raises(BoxNotFoundError) as caught:
        plan.put({"n": 3}, notify=["nobody"])
    assert caught.value.__notes__ == ["version 3 of plan was written all the same"]
    assert plan.get().version == 3


# asyncio


def test_all_of_it_in_asyncio(alice: Mailbox, root: Path) -> None:
    """The same, off the event loop."""

    async def main() -> list[int]:
        document = alice.document("plan")
        await document.acreate({"n": 1})
        seen = []
        with Mailbox("bob", root, poll_interval=60) as bob:
            watching = bob.document("plan").awatch()
            async for version in watching:
                seen.append(version.version)
                if version.version == 1:
                    await document.aupdate(lambda body: {"n": body["n"] + 1})
                elif version.version == 2:
                    await document.aput({"n": 3}, if_version=2)
                elif version.version == 3:
                    await document.amerge({"m": 1}, test={"/n": 3})
                elif version.version == 4:
                    await document.apatch([{"op": "remove", "path": "/m"}])
                else:
                    break
            await watching.aclose()  # type: ignore[attr-defined]
        assert (await document.aget()).body == {"n": 3}
        assert (await document.aget(2)).body == {"n": 2}
        assert [each.version for each in await document.ahistory()] == [5, 4, 3, 2, 1]
        return seen

    assert asyncio.run(main()) == [1, 2, 3, 4, 5]


def test_a_watch_in_asyncio_ends_when_nothing_comes(alice: Mailbox) -> None:
    """As the other."""
    alice.document("plan").create(1)

    async def main() -> list[int]:
        return [each.version async for each in alice.document("plan").awatch(timeout=0.01)]

    assert asyncio.run(main()) == [1]


def test_it_can_be_shared_between_threads(plan: Plan) -> None:
    """One document, eight threads: no update is lost."""
    threads = [
        threading.Thread(target=lambda: [plan.update(lambda body: {"n": body["n"] + 1}) for _ in range(10)])
        for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)

    assert plan.get().body == {"n": 81}


def test_it_says_what_it_is(plan: Plan) -> None:
    """And is used in a with block."""
    with plan as document:
        assert repr(document).startswith("Document('plan', ")
    assert plan.get().version == 1
