"""mailbox-doc, the client in shell: it agrees with ours, on the vectors and in the same document."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from filemailbox.documents import checkpoint, folders
from filemailbox.documents.document import Document
from filemailbox.documents.folders import Access, Folders
from filemailbox.documents.version import encode, first_base
from filemailbox.store import root as roots

HOME = Path(__file__).parents[3]
SCRIPT = HOME / "scripts/mailbox-doc"
VECTORS = json.loads((HOME / "tests/vectors/documents.json").read_text())
AT = "2026-11-24T01:45:30.123456Z"
SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=SHELLS)
def any_shell(request: pytest.FixtureRequest) -> list[str]:
    shell = SHELLS[request.param]
    if shutil.which(shell[0]) is None:
        pytest.skip(f"there is no {shell[0]} here")
    return shell


@pytest.fixture
def shell(root: Path) -> Run:
    """shell(*words): run mailbox-doc for bob; *sh* is the shell, *stdin* what it reads."""

    def run(*words: object, sh: list[str] | None = None, stdin: str = "", sender: str = "bob") -> Any:
        return subprocess.run(
            [*(sh or ["sh"]), SCRIPT, *map(str, words)],
            env={"PATH": os.environ["PATH"], "MAILBOX_ROOT": str(root), "MAILBOX_AGENT": sender},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def planted(root: Path, files: list[Any], mark: Any = None) -> None:
    """The document `plan`, with these files in the place of its versions."""
    found = roots.find_root(root)
    folders.create(found, "plan", encode(1, "alice", AT, first_base("plan"), 0), Access())
    versions = root / ".documents/plan/versions"
    (versions / "0000000001.json").unlink()
    for file in files:
        (versions / file["name"]).write_bytes(file["text"].encode())
    if mark is not None:
        opened = Folders(found, "plan")
        assert checkpoint.write(opened, mark["version"], mark["digest"])
        opened.close()


@pytest.mark.parametrize("vector", VECTORS["histories"], ids=lambda vector: vector["about"])
def test_a_history_ends_where_ours_ends(root: Path, shell: Run, vector: Any) -> None:
    """`histories` of the vectors."""
    planted(root, vector["files"], vector.get("checkpoint"))
    said = shell("get", "plan", "--json")
    if "refused" in vector:
        assert (said.returncode, said.stdout) == (65, "")
        assert "is broken" in said.stderr
        assert shell("put", "plan", "1").returncode == 65
        return

    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["version"] == vector["current"]
    put = shell("put", "plan", "1", "--if-version", vector["current"])
    assert put.returncode == (65 if vector["obstacle"] else 0)


FIRST = VECTORS["histories"][0]["files"]


@pytest.mark.parametrize(
    "vector",
    [each for each in VECTORS["versions"] if each["number"] == 2 and "text" in each],
    ids=lambda vector: vector["about"],
)
def test_a_version_is_one_where_ours_says_so(root: Path, shell: Run, vector: Any) -> None:
    """`versions` of the vectors."""
    planted(root, [*FIRST, {"name": "0000000002.json", "text": vector["text"]}])
    said = shell("get", "plan", "--json")

    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["version"] == (1 if "refused" in vector else 2)


@pytest.mark.parametrize("vector", VECTORS["written"], ids=lambda vector: vector["about"])
def test_what_it_writes_is_what_ours_writes(root: Path, shell: Run, vector: Any) -> None:
    """`written` of the vectors: body and note, byte by byte."""
    planted(root, FIRST)
    text = isinstance(vector["body"], str) or "repeat" in vector
    body = vector["repeat"][0] * vector["repeat"][1] if "repeat" in vector else vector["body"]
    words = [*(["--text"] if text else []), *(["--note", vector["note"]] if vector["note"] is not None else [])]
    given = body if text else json.dumps(body, ensure_ascii=False)
    said = shell("put", "plan", "-", *words, stdin=given)
    if vector["text"] is None:
        assert (said.returncode, said.stdout) == (65, "")
        assert list((root / ".documents/plan/drafts").iterdir()) == []
        return

    assert said.stdout == "2\n", said.stderr
    line = (root / ".documents/plan/versions/0000000002.json").read_text()
    tail = re.compile(r'"base":"[0-9a-f]{64}",(.*\n)')
    assert tail.findall(line) == tail.findall(vector["text"])
    assert Mailbox("alice", root).document("plan").get().body == body


def test_they_take_turns_in_one_document(root: Path, shell: Run, any_shell: list[str], plan: Document[Any]) -> None:
    """In every shell."""
    for number in range(2, 12, 2):
        said = shell("put", "plan", json.dumps({"n": number}), "--if-version", number - 1, sh=any_shell)
        assert said.stdout == f"{number}\n", said.stderr
        assert plan.update(lambda body: {"n": body["n"] + 1}).version == number + 1

    assert [each.body["n"] for each in plan.history()] == list(range(11, 0, -1))
    assert shell("get", "plan", sh=any_shell).stdout == '{"n":11}\n'
    assert {each.stat().st_mode & 0o777 for each in (root / ".documents/plan/versions").iterdir()} == {0o644}


def test_a_conflict_is_exit_code_73(root: Path, shell: Run, plan: Document[Any]) -> None:
    """As ours."""
    plan.put({"n": 2})
    said = shell("put", "plan", "{}", "--if-version", 1)

    assert (said.returncode, said.stdout) == (73, "")
    assert said.stderr == 'mailbox-doc: "plan" is at version 2, and 1 was expected: nothing was written\n'
    assert plan.get().body == {"n": 2}


def test_writers_in_shell_and_ours_lose_no_update(root: Path, plan: Document[Any]) -> None:
    """Three shells and one of ours add one each, at once."""
    script = f"""
    for turn in 1 2 3 4; do
      until version=$({SCRIPT} get plan --json) &&
        n=$(printf '%s\\n' "$version" | sed 's/.*"n":\\([0-9]*\\).*/\\1/') &&
        number=$(printf '%s\\n' "$version" | sed 's/{{"version":\\([0-9]*\\).*/\\1/') &&
        {SCRIPT} put plan "{{\\"n\\":$((n + 1))}}" --if-version "$number" 2>/dev/null; do :; done
    done
    """
    environment = {"PATH": os.environ["PATH"], "MAILBOX_ROOT": str(root), "MAILBOX_AGENT": "bob"}
    shells = [subprocess.Popen(["sh", "-c", script], env=environment, stdout=subprocess.DEVNULL) for _ in range(3)]
    for _ in range(20):
        plan.update(lambda body: {"n": body["n"] + 1})
    assert [each.wait(120) for each in shells] == [0, 0, 0]

    assert plan.get().body == {"n": 1 + 12 + 20}
    assert plan.get().version == 1 + 12 + 20


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param(["get", "nothing"], 67, id="no document"),
        pytest.param(["get", "Plan"], 2, id="no name"),
        pytest.param(["get", "a/../b"], 2, id="a way out"),
        pytest.param(["get", "plan/versions"], 2, id="a folder of ours"),
        pytest.param(["get", "a/b/c/d/e"], 2, id="five parts"),
        pytest.param(["nonsense", "plan"], 2, id="no verb"),
        pytest.param(["get"], 2, id="which"),
        pytest.param(["put", "plan", "{"], 65, id="no JSON"),
        pytest.param(["put", "plan", "1 2"], 65, id="two values"),
        pytest.param(["put", "plan", "1", "--if-version", "x"], 2, id="no number"),
        pytest.param(["put", "plan", "1", "--nonsense"], 2, id="no option"),
        pytest.param(["put", "plan", "1", "--as", "Bob"], 2, id="no author"),
        pytest.param(["get", "plan", "--root", "/nowhere"], 69, id="no root"),
    ],
)
def test_what_cannot_be_has_its_exit_code(shell: Run, plan: Document[Any], words: list[str], code: int) -> None:
    """And a sentence."""
    said = shell(*words)

    assert (said.returncode, said.stdout) == (code, "")
    assert said.stderr.startswith("mailbox-doc: ")
    assert plan.get().version == 1


def test_a_link_is_not_followed(shell: Run, plan: Document[Any], root: Path, tmp_path: Path) -> None:
    """What it points to is not shown."""
    (tmp_path / "secret").write_text("hunter2\n")
    (root / ".documents/plan/versions/0000000002.json").symlink_to(tmp_path / "secret")
    said = shell("get", "plan")

    assert said.stdout == '{"n":1}\n'
    assert "hunter2" not in shell("put", "plan", "1").stderr


def test_who_may_not_write_is_told(shared: Path, as_root: None) -> None:
    """Exit code 77; nothing is left behind."""
    document = Mailbox.init("alice", shared / "mail").document("plan")
    document.create({"n": 1})
    script = shutil.copy(SCRIPT, shared)
    done = subprocess.run(
        ["setpriv", "--reuid=2001", "--regid=2001", "--clear-groups", "sh", script, "put", "plan", "1"],
        env={"PATH": os.environ["PATH"], "MAILBOX_ROOT": str(shared / "mail"), "MAILBOX_AGENT": "bob"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 77, done.stderr
    assert document.get().version == 1


def test_help_is_the_first_comment(shell: Run) -> None:
    """And the JSON in it is that of the other scripts."""
    said = shell("--help")
    assert said.returncode == 0
    assert said.stdout.startswith("mailbox-doc - read and write shared documents")
    json_of = re.compile(r"^json='\n(.*?)^'$", re.MULTILINE | re.DOTALL)
    scripts = [(HOME / f"scripts/mailbox-{each}").read_text() for each in ("doc", "recv", "send")]
    assert len({json_of.findall(each)[0] for each in scripts}) == 1


def test_the_lines_in_the_format_work(root: Path, plan: Document[Any]) -> None:
    """FORMAT.md shows what a shell does: run as it stands there."""
    page = (HOME / "mailbox/FORMAT.md").read_text()
    (block,) = re.findall(
        r"A shell that knows N, its file and the author writes like this:\n\n```sh\n(.*?)```", page, re.S
    )
    done = subprocess.run(
        ["sh", "-eu", "-c", block],
        env={
            "PATH": os.environ["PATH"],
            "MAILBOX_ROOT": str(root),
            "MAILBOX_AGENT": "bob",
            "n": "1",
            "file": "0000000001.json",
            "body": '{"n":2}',
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert (plan.get().body, plan.get().by, plan.get().version) == ({"n": 2}, "bob", 2)
