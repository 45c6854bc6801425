"""From argv to an exit code; and the command in shell scripts, as a new user would write them."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import BoxNotFoundError, DiskFullError, Mailbox, RootNotFoundError, errors
from filemailbox.cli import exit_codes, run
from filemailbox.cli.verbs import VERBS
from support.paths import SOURCE

MAILBOX = Path(sys.executable).parent / "mailbox"


@pytest.fixture
def sh(tmp_path: Path, root: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """sh(script): run it in a shell that finds `mailbox`, and complains about unset variables."""

    def execute(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-u", "-c", script],
            cwd=tmp_path,
            env={
                "PATH": f"{MAILBOX.parent}:/usr/bin:/bin",
                "MAILBOX_ROOT": str(root),
                "MAILBOX_AGENT": "bob",
                "LC_ALL": "C.UTF-8",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return execute


def kinds(base: type[Exception]) -> Iterator[type[Exception]]:
    yield base
    for each in base.__subclasses__():
        yield from kinds(each)


# exit codes


def test_every_error_of_ours_has_an_exit_code() -> None:
    """None ends in a traceback."""
    assert all(exit_codes.code(kind.__new__(kind)) is not None for kind in kinds(errors.MailboxError))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(BoxNotFoundError("x", "/mail"), 67, id="no box"),
        pytest.param(RootNotFoundError("/mail"), 69, id="no root"),
        pytest.param(DiskFullError("full", errno.ENOSPC), 75, id="full"),
        pytest.param(errors.PermissionDeniedError("no", errno.EACCES), 77, id="forbidden"),
        pytest.param(errors.StorageError("bad", errno.EIO), 74, id="I/O"),
        pytest.param(errors.NotMailError("no"), 65, id="malformed"),
        pytest.param(errors.InvalidBodyError("no"), 65, id="body"),
        pytest.param(errors.InvalidRequestError("no"), 2, id="usage"),
        pytest.param(TimeoutError("late"), 124, id="late"),
        pytest.param(OSError(errno.EIO, "bad"), 74, id="any OSError"),
        pytest.param(ValueError("a mistake of ours"), None, id="a mistake of ours"),
    ],
)
def test_an_error_has_its_exit_code(error: Exception, code: int | None) -> None:
    """sysexits(3) and timeout(1)."""
    assert exit_codes.code(error) == code


def test_a_mistake_of_ours_is_not_hidden(mailbox: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a traceback, and somebody reports it."""
    monkeypatch.setattr(run, "split", lambda words: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        mailbox("list")


# what is imported


@pytest.mark.parametrize(
    ("words", "spared"),
    [
        pytest.param("send bob hi --type t", "dataclasses inspect datetime json orjson logging threading", id="send"),
        pytest.param("list --as alice", "dataclasses inspect orjson", id="list, empty"),
        pytest.param("list", "socket logging", id="list"),
        pytest.param("wait --timeout 0 --as alice", "dataclasses inspect orjson socket", id="wait, empty"),
        pytest.param("wait", "socket logging", id="wait"),
        pytest.param("receive --body", "", id="receive"),
        pytest.param("send --help", "orjson typer", id="help"),
        pytest.param("completion bash", "orjson", id="completion"),
    ],
)
def test_a_command_imports_what_it_needs(bob: Mailbox, root: Path, words: str, spared: str) -> None:
    """A process that lives for milliseconds: what is spared here is why `send` takes twice as long as no program."""
    bob.send("bob", {"a": 1})
    program = (
        "import os, sys; out = os.dup(1); os.dup2(os.open(os.devnull, os.O_WRONLY), 1)\n"
        "from filemailbox.cli.run import main\n"
        "code = main(sys.argv[1:])\n"
        "os.write(out, ' '.join([str(code), *sys.modules]).encode())"
    )
    command = [sys.executable, "-c", program, *words.split()]
    environment = {"MAILBOX_ROOT": str(root), "MAILBOX_AGENT": "bob", "PYTHONPATH": SOURCE}
    code, *modules = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    never = {"typer", "click", "pydantic", "rich", "msgspec", "nacl"}

    assert int(code) in (0, 124)
    assert {*never, *spared.split()} & set(modules) == set()


# where output goes


def test_what_cannot_be_printed_is_not_acked(sh: Callable[..., Any], bob: Mailbox) -> None:
    """A full disk behind standard output, or none at all: the message is there afterwards."""
    bob.send("bob", "precious")
    full = sh("mailbox receive > /dev/full")
    closed = sh("mailbox receive >&-")

    assert (full.returncode, closed.returncode) == (74, 74)
    assert full.stderr == "mailbox: [Errno 28] No space left on device\n"
    assert "standard output is closed" in closed.stderr
    assert "Traceback" not in full.stderr + closed.stderr
    assert [message.body for message in bob.peek("new", "later")] == ["precious"]


def test_a_reader_that_has_had_enough_is_no_error(sh: Callable[..., Any], bob: Mailbox) -> None:
    """`| head -1` prints one line and nothing else; the exit code is 0."""
    bob.send_many("bob", ["x" * 200] * 2000)
    for verb in ("list", "list --json", "receive -n 3000"):
        said = sh(f"{{ mailbox {verb}; echo $? >&2; }} | head -1")

        assert said.stdout.count("\n") == 1
        assert said.stderr == "0\n"


def test_a_terminal_that_knows_only_ascii_is_no_error(sh: Callable[..., Any], bob: Mailbox) -> None:
    """What it cannot show is escaped."""
    bob.send("bob", "grün…", subject="日本")
    said = sh("mailbox list; mailbox read --body r; mailbox receive --body", PYTHONIOENCODING="ascii")

    assert "\\u65e5\\u672c" in said.stdout
    assert "gr\\xfcn\\u2026" in said.stdout


# transcripts


def test_a_worker_in_a_loop(sh: Callable[..., Any]) -> None:
    """`while … receive --wait`, until nothing came."""
    said = sh("""
        seq 3 | mailbox send bob --lines > /dev/null
        while n=$(mailbox receive --body --wait 50ms) || { echo "ended with $?"; false; }; do echo "got $n"; done
    """)

    assert (said.stdout, said.stderr) == ("got 1\ngot 2\ngot 3\nended with 124\n", "")


def test_ids_in_pipes(sh: Callable[..., Any], bob: Mailbox) -> None:
    """cut, xargs, $(…): the first column is the whole id."""
    said = sh("""
        id=$(echo one | mailbox send bob)
        mailbox send bob two > /dev/null
        mailbox list | cut -f 1 | xargs -n 1 mailbox read --body
        mailbox receive -n 9 --no-ack | sed 's/.*"id":"\\([^"]*\\)".*/\\1/' | xargs mailbox ack && echo acked
        mailbox ack "$id" || echo "exit $?"
    """)

    assert said.stdout == "one\ntwo\nacked\nexit 1\n"
    assert said.stderr.count("\n") == 1
    assert list(bob.peek("new", "later", "cur")) == []


def test_lines_are_sent_as_they_come(sh: Callable[..., Any]) -> None:
    """A stream is not kept back until its end: the answer to the first line is needed for the second."""
    said = sh("""
        mkfifo answers
        { echo ping; read answer; echo "got $answer"; } < answers | mailbox send alice --lines > ids &
        mailbox receive --as alice --wait 20s --body | tee answers
        wait
        mailbox receive --as alice --wait 20s --body
        wc -l < ids
    """)

    assert said.stdout.split("\n")[:2] == ["ping", "got ping"]
    assert said.stdout.split()[-1] == "2"


def test_a_job_under_a_lease(sh: Callable[..., Any], bob: Mailbox) -> None:
    """Taken, worked at, and settled by what the work said."""
    said = sh("""
        mailbox send bob true > /dev/null; mailbox send bob false > /dev/null
        for _ in 1 2; do
          message=$(mailbox receive --no-ack --lease 1h)
          id=$(printf %s "$message" | sed 's/.*"id":"\\([^"]*\\)".*/\\1/')
          if $(mailbox read --body "$id"); then mailbox ack "$id"; else mailbox reject "$id" --reason "it said no"; fi
        done
        mailbox dead list | cut -f 7
    """)

    assert (said.stdout, said.stderr) == ("it said no\n", "")
    assert [message.body for message in bob.peek("dead")] == ["false"]


def test_from_cron(root: Path) -> None:
    """No environment to speak of, no terminal, another folder: all that is needed can be said."""
    script = f"{MAILBOX} send bob 'disk 91 %' --as alice --root {root} && {MAILBOX} list --as bob --root {root}"
    said = subprocess.run(
        ["env", "-i", "sh", "-c", script],
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.count("disk 91 %") == 1


def test_a_full_disk(sh: Callable[..., Any], tmp_path: Path, mount: Callable[..., Path]) -> None:
    """Sending says so with 75; what waits can still be taken, also by hand, and then sending works again."""
    volume = mount(tmp_path / "small", "size=256k")
    environment = {"MAILBOX_ROOT": str(volume / "mail")}
    assert sh("mailbox init alice bob", **environment).returncode == 0
    filled = sh(
        """
        head -c 20000 /dev/zero | tr '\\0' x > body
        while mailbox send bob < body > /dev/null || { echo "exit $?"; false; }; do :; done
        number=0
        while dd if=/dev/zero of="$MAILBOX_ROOT/full.$((number += 1))" bs=1k count=4 2> /dev/null; do :; done
        mailbox send bob small; echo "exit $?"
        mailbox doctor | grep -c 'nearly full'
        """,
        **environment,
    )
    drained = sh(
        """
        id=$(mailbox receive --no-ack | sed 's/.*"id":"\\([^"]*\\)".*/\\1/'); mailbox ack "$id" && echo acked
        mailbox receive --body -n 99 | wc -c
        rm "$MAILBOX_ROOT"/full.*
        mailbox send bob small > /dev/null && mailbox receive --body
        """,
        **environment,
    )

    assert filled.stdout == "exit 75\nexit 75\n1\n"
    assert filled.stderr.count("the volume is full; nothing was delivered") == 2
    assert drained.stdout.startswith("acked\n")
    assert int(drained.stdout.split()[1]) % 20001 == 0
    assert drained.stdout.endswith("\nsmall\n")
    assert drained.stderr == ""


def test_a_missing_volume(sh: Callable[..., Any], tmp_path: Path) -> None:
    """69, with a question that helps; waiting does not hang."""
    (tmp_path / "empty").mkdir()
    for verb in ("send bob hi", "list", "receive --wait 1m", "wait", "agents", "status", "doctor", "gc", "dead list"):
        said = sh(f"mailbox {verb}", MAILBOX_ROOT=str(tmp_path / "empty"))

        assert (said.returncode, said.stdout) == (69, "")
        assert "is the volume mounted?" in said.stderr


def test_a_forbidden_box(as_root: None, shared: Path, start: Callable[..., Any]) -> None:
    """77: the modes of another user's box. Whoever may not look is told so, not that nothing is there."""
    verbs = ["list", "receive", "wait --timeout 0", "dead list", "read x", "ack x"]
    for name in ("alice", "bob"):
        Mailbox.init(name, shared / "mail").close()
    look = start(
        "import os, sys\n"
        "from filemailbox.cli.run import main\n"
        "def codes(name): return [main([*verb.split(), '--as', name]) for verb in sys.argv[1:]]\n"
        "codes('alice')  # all is imported that another user may not be able to reach\n"
        "os.setgroups([]); os.setgid(4242); os.setuid(4242)\n"
        "print(codes('bob'))",
        *verbs,
        MAILBOX_ROOT=str(shared / "mail"),
    )

    assert look.line() == str([77] * len(verbs))


@pytest.mark.parametrize(
    "words",
    [
        ("--as", "alice", "list", "--json"),
        ("--as=alice", "--json", "list"),
        ("--json", "--as", "alice", "list"),
        ("list", "--as", "alice", "--json"),
    ],
)
def test_common_options_may_precede_the_verb(mailbox: Callable[..., Any], words: tuple[str, ...]) -> None:
    """As git and docker have them."""
    mailbox("send", "alice", "hi")

    assert [record["body"] for record in mailbox(*words).records] == ["hi"]


def test_a_verb_of_two_words_may_follow_common_options(mailbox: Callable[..., Any], root: Path) -> None:
    """And a mistake is reported as without them."""
    assert mailbox("--root", root, "dead", "list").code == 0
    assert 'there is no verb "sned"' in mailbox("--as", "bob", "sned").err
    assert mailbox("--root").code == 2


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (("send", "bobb", "hi", "--json"), 67, "BoxNotFoundError"),
        (("list", "--json", "--nonsense"), 2, "UsageError"),
        (("list", "--json", "--count", "x"), 2, "UsageError"),
        (("sned", "--json"), 2, "InvalidRequestError"),
        (("reply", "nonsense", "x", "--json"), 1, "MessageNotFoundError"),
    ],
)
def test_with_json_an_error_is_json(mailbox: Callable[..., Any], words: tuple[str, ...], code: int, kind: str) -> None:
    """On standard error: the sentence, the hint, the type and the exit code."""
    said = mailbox(*words)
    record = json.loads(said.err)

    assert (said.code, said.out) == (code, "")
    assert (record["type"], record["code"]) == (kind, code)
    assert record["error"]
    assert "hint" in record
    assert mailbox(*(word for word in words if word != "--json")).err.startswith(("mailbox: ", "Usage: "))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "hook"])  # which never fails its client
def test_every_verb_takes_json(mailbox: Callable[..., Any], verb: str) -> None:
    """Its errors are JSON then, also if it prints no data."""
    said = mailbox(*verb.split(), "--json", "--no-such-option", "x", "y", "z")

    assert said.code != 0
    assert json.loads(said.err.splitlines()[-1])["error"]


def test_verbs_print_json(mailbox: Callable[..., Any], bob: Mailbox) -> None:
    """Boxes, messages and what became of them."""
    bob.send("bob", "x")
    message = bob.receive()
    assert message is not None
    message.reject("no")

    assert mailbox("init", "carol", "--json").records == [{"name": "carol", "made": True}]
    assert mailbox("remove", "carol", "--json").records == [{"name": "carol", "removed": True, "kept": None}]
    assert mailbox("wait", "--timeout", "0", "--json").records == [{"name": "bob", "mail": False}]
    assert mailbox("dead", "requeue", "--all", "--json").records == [{"id": message.id}]
    assert mailbox("gc", "bob", "--json").code == 0
    taken = mailbox("receive", "--no-ack", "--json").records[0]["id"]
    assert mailbox("ack", taken, "--json").records == [{"id": taken, "settled": "ack"}]
    assert mailbox("send", "bob", "x", "--json").records[0]["to"] == "bob"
    assert mailbox("health", "alice", "--json").records[0]["healthy"] is False


@pytest.mark.parametrize(
    "words",
    [["wait"], ["receive", "--wait", "1h"], ["request", "alice", "x", "--timeout", "1h"]],
    ids=lambda words: words[0],
)
def test_as_process_1_a_command_that_waits_ends_at_sigterm(
    as_root: None, root: Path, alice: Mailbox, bob: Mailbox, words: list[str]
) -> None:
    """As in a container without an init; what it holds goes back."""
    wrap = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*wrap, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to make PID namespaces")
    command = [*wrap, sys.executable, "-m", "filemailbox", *words, "--as", "bob", "--root", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            while not list((root / "bob/run").iterdir()):  # it has hung its bell
                assert process.poll() is None
                time.sleep(0.01)
            (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(child), signal.SIGTERM)
            code = process.wait(timeout=60)
        finally:
            process.kill()

    assert code == 143
    assert list((root / "bob/replies").iterdir()) == []
