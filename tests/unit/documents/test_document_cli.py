"""The verbs doc …: what they print, their exit codes, and that a conflict loses nothing."""

import json
import os
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from filemailbox.documents.document import Document

Command = Callable[..., Any]
MAILBOX = Path(sys.executable).parent / "mailbox"


@pytest.fixture
def board(mailbox: Command) -> Command:
    """The command, and a document `board` with two tasks."""
    assert mailbox("doc", "put", "board", '{"t1":{"owner":null},"t2":{"owner":"bob"}}', "--create").out == "1\n"
    return mailbox


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """editor(script): what $EDITOR does with the file in $1."""

    def use(script: str) -> None:
        path = tmp_path / "editor"
        path.write_text(f"#!/bin/sh\nset -eu\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("EDITOR", str(path))
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv("PATH", f"{MAILBOX.parent}:{os.environ['PATH']}")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the user's text is kept there

    return use


def test_what_is_put_is_got(board: Command) -> None:
    """One line of JSON in a pipe; the whole version with --json."""
    assert board("doc", "get", "board").out == '{"t1":{"owner":null},"t2":{"owner":"bob"}}\n'
    (record,) = board("doc", "get", "board", "--json").records
    assert (record["version"], record["by"], record["trust"]) == (1, "bob", "none")
    assert record["body"]["t2"] == {"owner": "bob"}


def test_text_is_kept_to_the_last_byte(mailbox: Command) -> None:
    """Markdown goes in and comes out as it was."""
    text = '# Plan\n\n- [ ] "a"\n\ttab, ü\n\n'
    assert mailbox("doc", "put", "plan", "--text", "--create", stdin=text).code == 0
    assert mailbox("doc", "get", "plan", "--text").out == text
    assert mailbox("doc", "put", "plan", "--text", "no newline").out == "2\n"
    assert mailbox("doc", "get", "plan", "--text").out == "no newline"
    assert mailbox("doc", "get", "plan").out == "no newline\n"
    mailbox("doc", "put", "plan", "[1]")
    said = mailbox("doc", "get", "plan", "--text")
    assert (said.code, said.out) == (65, "")


def test_what_is_no_json_is_refused_and_the_way_out_is_said(board: Command) -> None:
    """--text."""
    said = board("doc", "put", "board", "# Plan")

    assert (said.code, said.out) == (65, "")
    assert "is put with --text" in said.err
    assert board("doc", "put", "board", "--text", stdin=b"\xff").code == 65
    assert board("doc", "get", "board", "--json").records[0]["version"] == 1


def test_a_conflict_is_exit_code_73_and_names_both_versions(board: Command) -> None:
    """Nothing is written."""
    assert board("doc", "put", "board", "{}", "--if-version", 1, sender="alice").out == "2\n"
    said = board("doc", "put", "board", "[]", "--if-version", 1)

    assert (said.code, said.out) == (73, "")
    assert said.err == 'mailbox: "board" is at version 2 by alice, and 1 was expected: nothing was written\n'
    again = board("doc", "put", "board", "[]", "--create")
    assert (again.code, again.err) == (
        73,
        'mailbox: "board" is there already, at version 2 by alice: nothing was written\n',
    )
    assert board("doc", "put", "board", "[]", "--if-version", 0).code == 73
    assert board("doc", "get", "board").out == "{}\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param(["get", "nothing"], 67, id="get"),
        pytest.param(["put", "nothing", "1"], 67, id="put"),
        pytest.param(["merge", "nothing", "{}"], 67, id="merge"),
        pytest.param(["log", "nothing"], 67, id="log"),
        pytest.param(["remove", "nothing"], 67, id="remove"),
        pytest.param(["watch", "nothing"], 67, id="watch"),
        pytest.param(["get", "board", "--version", "9"], 67, id="no such version"),
        pytest.param(["get", "Board"], 2, id="no name"),
        pytest.param(["get", "a/b/c/d/e"], 2, id="five parts"),
        pytest.param(["put", "board", "1", "--keep", "5"], 2, id="keep without create"),
        pytest.param(["put", "board", "1", "--create", "--if-version", "3"], 2, id="create and a version"),
        pytest.param(["put", "board", "1", "--if-version", "x"], 2, id="no version"),
        pytest.param(["put", "new", "1", "--create", "--group", "staff"], 2, id="no group"),
        pytest.param(["merge", "board", "{}", "--test", "t1=1"], 2, id="no pointer"),
        pytest.param(["merge", "board", "{}", "--test", "/t1=x"], 2, id="no value"),
        pytest.param(["merge", "board", "{"], 65, id="no patch"),
        pytest.param(["patch", "board", "{}"], 2, id="no list of operations"),
        pytest.param(["nonsense"], 2, id="no verb"),
        pytest.param(["get", "board", "--min-trust", "signed"], 4, id="not proven"),
    ],
)
def test_what_cannot_be_has_its_exit_code(board: Command, words: list[str], code: int) -> None:
    """And a sentence; no traceback."""
    said = board("doc", *words)

    assert (said.code, said.out) == (code, "")
    assert said.err
    assert "Traceback" not in said.err


def test_a_task_is_taken_once(board: Command) -> None:
    """merge, guarded by a test."""
    take = ("doc", "merge", "board", '{"t1":{"owner":"alice"}}', "--test", "/t1/owner=null")
    assert board(*take).out == "2\n"
    said = board(*take)

    assert (said.code, said.out) == (73, "")
    assert '"board" is at version 2 by bob: "/t1/owner" is "alice", expected null' in said.err


def test_a_patch_is_guarded_by_its_tests(board: Command) -> None:
    """RFC 6902; also from standard input."""
    patch = '[{"op":"test","path":"/t1/owner","value":null},{"op":"replace","path":"/t1/owner","value":"bob"}]'
    assert board("doc", "patch", "board", "-", "--note", "t1 is taken", stdin=patch).out == "2\n"
    assert board("doc", "patch", "board", patch).code == 73
    assert board("doc", "log", "board").lines[0].split("\t")[5] == "t1 is taken"


def test_edit_puts_what_a_command_prints(board: Command) -> None:
    """The body on its standard input; text stays text, JSON stays JSON."""
    assert board("doc", "edit", "board", "--", "sed", "s/null/7/").out == "2\n"
    assert board("doc", "get", "board").out == '{"t1":{"owner":7},"t2":{"owner":"bob"}}\n'
    board("doc", "put", "plan", "a\n", "--text", "--create")
    assert board("doc", "edit", "plan", "--", "tr", "a", "b").out == "2\n"
    assert board("doc", "get", "plan", "--text").out == "b\n"


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        pytest.param(["false"], 1, "exited with 1: nothing was written", id="it fails"),
        pytest.param(["/nowhere/command"], 1, "cannot be run", id="it is not there"),
        pytest.param(["echo", "{"], 65, "is not JSON", id="no JSON"),
        pytest.param(["printf", r"\377"], 65, "not UTF-8", id="no text"),
        pytest.param(["cat"], 0, "", id="it changes nothing"),
    ],
)
def test_edit_writes_nothing_where_the_command_is_wrong(
    board: Command, command: list[str], code: int, says: str
) -> None:
    """Or where nothing has changed."""
    said = board("doc", "edit", "board", "--", *command)

    assert said.code == code
    assert says in said.err
    assert board("doc", "get", "board", "--json").records[0]["version"] == 1


def test_edit_runs_again_where_another_was_faster(mailbox: Command, tmp_path: Path, root: Path) -> None:
    """On what is current then."""
    mailbox("doc", "put", "plan", "1\n", "--text", "--create")
    script = f"""
    n=$(cat)
    if mkdir {tmp_path}/once 2>/dev/null; then {MAILBOX} doc put plan --text '50
' --as alice >&2; fi
    echo $((n + 1))
    """

    assert mailbox("doc", "edit", "plan", "--", "sh", "-c", script).out == "3\n"
    assert mailbox("doc", "get", "plan").out == "51\n"


@pytest.mark.parametrize(("theirs", "code"), [("one\\ntwo\\nTHREE\\n", 0), ("1\\ntwo\\nthree\\n", 73)])
def test_edit_merges_where_the_command_shall_not_run_again(
    mailbox: Command, tmp_path: Path, theirs: str, code: int
) -> None:
    """Line by line; a conflict writes nothing."""
    mailbox("doc", "put", "plan", "one\ntwo\nthree\n", "--text", "--create")
    script = f"""printf '{theirs}' | {MAILBOX} doc put plan --text --as alice >&2; sed s/one/ONE/"""
    said = mailbox("doc", "edit", "plan", "--merge", "--", "sh", "-c", script)

    assert said.code == code
    assert mailbox("doc", "get", "plan").out == ("ONE\ntwo\nTHREE\n" if code == 0 else "1\ntwo\nthree\n")


def test_the_editor_changes_a_document(board: Command, editor: Callable[[str], None]) -> None:
    """JSON is shown indented."""
    editor('grep -q \'^  "t1": {$\' "$1"; sed -i s/null/7/ "$1"')

    assert board("doc", "edit", "board").out == "2\n"
    assert board("doc", "get", "board").out == '{"t1":{"owner":7},"t2":{"owner":"bob"}}\n'


def test_what_others_write_while_somebody_edits_is_merged(mailbox: Command, editor: Callable[[str], None]) -> None:
    """Different lines: both are there."""
    mailbox("doc", "put", "plan", "one\ntwo\nthree\n", "--text", "--create")
    editor(r"""printf 'one\ntwo\nTHREE\n' | mailbox doc put plan --text --as alice; sed -i s/one/ONE/ "$1" """)

    assert mailbox("doc", "edit", "plan").out == "3\n"
    assert mailbox("doc", "get", "plan").out == "ONE\ntwo\nTHREE\n"


def test_a_conflict_opens_the_editor_again(mailbox: Command, editor: Callable[[str], None], tmp_path: Path) -> None:
    """Both texts between marks; what is made of it is put."""
    mailbox("doc", "put", "plan", "one\n", "--text", "--create")
    editor(rf"""
    if mkdir {tmp_path}/once 2>/dev/null; then
      printf 'uno\n' | mailbox doc put plan --text --as alice
      echo eins > "$1"
    else
      cp "$1" {tmp_path}/shown
      echo 'eins, uno' > "$1"
    fi""")
    said = mailbox("doc", "edit", "plan")

    assert said.out == "3\n"
    assert "version 2 by alice changes the same lines" in said.err
    shown = (tmp_path / "shown").read_text()
    assert shown == "<<<<<<< yours\neins\n=======\nuno\n>>>>>>> version 2 by alice\n"
    assert mailbox("doc", "get", "plan").out == "eins, uno\n"


def test_what_somebody_has_typed_is_never_lost(
    board: Command, editor: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no JSON, and a merge that cannot be made: the file is kept, and named."""
    editor('echo "{ my work" > "$1"')
    said = board("doc", "edit", "board")
    kept = re.search(r"your text is kept in (\S+)", said.err)

    assert said.code == 65
    assert kept is not None
    assert Path(kept[1]).read_text() == "{ my work\n"
    monkeypatch.setitem(sys.modules, "merge3", None)
    editor('mailbox doc merge board \'{"t1":7}\' --as alice; echo \'{"mine":1}\' > "$1"')
    said = board("doc", "edit", "board")
    kept = re.search(r"your text is kept in (\S+)", said.err)
    assert said.code == 1
    assert kept is not None
    assert Path(kept[1]).read_text() == '{"mine":1}\n'


def test_an_editor_that_changes_nothing_writes_nothing(board: Command, editor: Callable[[str], None]) -> None:
    """Nor one that fails."""
    editor(":")
    said = board("doc", "edit", "board")
    assert (said.code, said.out, said.err) == (0, "1\n", "nothing was changed\n")
    editor("exit 3")
    said = board("doc", "edit", "board")
    assert (said.code, said.out) == (1, "")
    assert "exited with 3" in said.err


def test_the_log_and_the_difference(board: Command) -> None:
    """The newest first; a unified diff as diff(1) has it."""
    board("doc", "merge", "board", '{"t1":{"owner":"alice"}}', "--note", "taken", sender="alice")
    log = board("doc", "log", "board")
    assert [line.split("\t")[:3] for line in log.lines] == [["2", "alice", "none"], ["1", "bob", "none"]]
    assert [each["version"] for each in board("doc", "log", "board", "-n", 1, "--json").records] == [2]
    said = board("doc", "diff", "board")
    assert said.code == 1
    assert said.lines[:2] == ["--- board@1", "+++ board@2"]
    assert '-    "owner": null' in said.lines
    assert '+    "owner": "alice"' in said.lines
    assert board("doc", "diff", "board", 1).out == board("doc", "diff", "board", 1, 2).out == said.out
    assert (board("doc", "diff", "board", 2, 2).code, board("doc", "diff", "board", 2, 2).out) == (0, "")
    assert board("doc", "diff", "board", 1, 1).out == ""


def test_the_difference_of_texts_without_a_newline(mailbox: Command) -> None:
    """And of the first version to nothing."""
    mailbox("doc", "put", "plan", "a\nb", "--text", "--create")
    said = mailbox("doc", "diff", "plan")

    assert said.out == "--- /dev/null\n+++ plan@1\n@@ -0,0 +1,2 @@\n+a\n+b\n\\ No newline at end of file\n"


def test_a_list_of_documents(board: Command) -> None:
    """In a pipe tabs; what is broken is shown with the reason."""
    board("doc", "put", "team/plan", "--text", "# Plan", "--create", "--note", "begin", sender="alice")
    rows = [line.split("\t") for line in board("doc", "list").lines]

    assert [[row[0], row[1], row[2], row[5]] for row in rows] == [
        ["board", "1", "bob", ""],
        ["team/plan", "1", "alice", "begin"],
    ]
    assert [each["name"] for each in board("doc", "list", "--json").records] == ["board", "team/plan"]


def test_watch_prints_what_is_there_and_what_comes(board: Command) -> None:
    """With --since only what is newer; none in time is exit code 124."""
    assert board("doc", "watch", "board", "-n", 1).out == board("doc", "get", "board").out
    assert board("doc", "watch", "board", "--since", 1, "--timeout", 0).code == 124
    board("doc", "merge", "board", "{}", "--note", "x")
    (record,) = board("doc", "watch", "board", "--since", 1, "-n", 1, "--json").records
    assert record["version"] == 2


def test_watch_runs_a_command_for_each(board: Command, tmp_path: Path) -> None:
    """The body on its standard input, facts in its environment; 99 stops."""
    facts = "$MAILBOX_DOCUMENT $MAILBOX_VERSION $MAILBOX_BY $MAILBOX_NOTE"
    script = f'{{ cat; echo "{facts}"; }} >> {tmp_path}/said; exit 99'
    board("doc", "put", "board", "[1]", "--note", "a\tb")
    said = board("doc", "watch", "board", "--", "sh", "-c", script)

    assert said.code == 0
    assert (tmp_path / "said").read_text() == "[1]\nboard 2 bob a b\n"
    said = board("doc", "watch", "board", "-n", 1, "--", "false")
    assert said.err == "mailbox: the command exited with 1 at version 2 of board\n"
    assert board("doc", "watch", "board", "--", "/nowhere/command").code == 1


def test_watch_in_a_pipe_prints_at_once(root: Path) -> None:
    """While it goes on watching."""
    environment = {**os.environ, "MAILBOX_ROOT": str(root), "MAILBOX_AGENT": "bob"}
    with Mailbox("bob", root) as bob:
        document = bob.document("plan")
        document.create(1)
        with subprocess.Popen([MAILBOX, "doc", "watch", "plan"], stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            for number in (1, 2, 3):
                if number > 1:
                    document.put(number)
                assert select.select([process.stdout], [], [], 20)[0]
                assert os.read(process.stdout.fileno(), 100) == f"{number}\n".encode()
            process.terminate()


def test_a_reader_need_not_be_an_agent(board: Command, root: Path) -> None:
    """To look, nobody asks for a name; to write it is asked for."""
    environment = {"MAILBOX_ROOT": str(root), "PATH": os.environ["PATH"], "HOME": "/nonexistent"}

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [MAILBOX, "doc", *words], env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    for words in (["get", "board"], ["log", "board"], ["diff", "board"], ["watch", "board", "-n", "1"], ["list"]):
        assert run(*words).stderr == ""
    assert run("put", "board", "1").returncode == 2


def test_those_who_are_to_know_get_mail(board: Command) -> None:
    """After the number was printed; who has no box is told, and the version stays."""
    said = board("doc", "put", "board", "[]", "--notify", "nobody", "--notify", "alice", "--note", "empty")
    mail = board("receive", "--json", sender="alice").records

    assert (said.code, said.out) == (67, "2\n")
    assert 'there is no box "nobody"' in said.err
    assert [(each["type"], each["body"]) for each in mail] == [
        ("document", {"document": "board", "version": 2, "by": "bob", "note": "empty"})
    ]


def test_a_document_that_is_removed_is_kept_for_gc(board: Command, root: Path) -> None:
    """Until it is told how old is old enough."""
    kept = Path(board("doc", "remove", "board").out.strip())

    assert (kept / "versions/0000000001.json").exists()
    assert board("doc", "list").out == ""
    assert board("gc").out == ""
    assert kept.exists()
    said = board("gc", "--older-than", "0s", "--dry-run")
    assert said.lines == [f".\ta document removed long enough ago\t{kept}"]
    assert kept.exists()
    assert board("gc", "--older-than", "0s").out == said.out
    assert list((root / ".documents").iterdir()) == []


def test_the_status_of_a_root_counts_its_documents(board: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no box is asked for."""
    assert "documents" not in board("status").out
    monkeypatch.setenv("MAILBOX_AGENT", "")
    assert board("status", sender="").lines[-1] == "documents: 1"


def test_what_is_shown_to_people_is_safe(mailbox: Command, bob: Mailbox) -> None:
    """A note and a body may hold what a terminal obeys."""
    document: Document[Any] = bob.document("plan")
    document.create("a\x1b[2Jb", note="x\x1b[2J\ny")

    assert json.loads(mailbox("doc", "list", "--json").out)["note"] == "x\x1b[2J\ny"
    assert "\x1b" not in mailbox("doc", "list").out
    assert "\x1b" not in mailbox("doc", "log", "plan").out
