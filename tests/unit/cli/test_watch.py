"""`mailbox watch` and `mailbox health`, in processes of their own."""

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from support.disk import left, why
from support.paths import SOURCE
from support.waiting import PATIENCE, Until

Watch = Callable[..., "subprocess.Popen[bytes]"]

MAILBOX = [sys.executable, "-m", "filemailbox"]


def environment(**more: str) -> dict[str, str]:
    ours = {name: text for name, text in os.environ.items() if not name.startswith("MAILBOX_")}
    return {**ours, "PYTHONPATH": SOURCE, "PYTHONDONTWRITEBYTECODE": "1", **more}


@pytest.fixture
def watch(root: Path) -> Iterator[Watch]:
    """watch(word, …): `mailbox watch --as bob` in a process of its own; it is killed when the test is over."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*words: object, wrap: tuple[str, ...] = (), env: dict[str, str] | None = None, **pipes: Any) -> Any:
        command = [*wrap, *MAILBOX, "watch", "--as", "bob", "--root", str(root), *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
        running.append(subprocess.Popen(command, env=environment(**(env or {})), **pipes))
        return running[-1]

    yield begin
    for each in running:
        each.kill()
        each.wait()
        for pipe in (each.stdin, each.stdout, each.stderr):
            if pipe is not None:
                pipe.close()


def ended(watching: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    """Wait until it ends: its exit code, what it printed and what it said."""
    out, error = watching.communicate(timeout=PATIENCE)
    return watching.returncode, (out or b"").decode(), (error or b"").decode()


def line(watching: "subprocess.Popen[bytes]") -> Any:
    """The next JSON line that it prints."""
    assert watching.stdout is not None
    ready, _, _ = select.select([watching.stdout], [], [], PATIENCE)
    assert ready, "it says nothing"
    return json.loads(os.read(watching.stdout.fileno(), 65536))


def alive(pid: int) -> bool:
    """Whether it runs: one that has ended and was not taken leave of does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# Printing


def test_into_a_pipe_each_message_is_a_line_of_json_at_once(alice: Mailbox, watch: Watch, root: Path) -> None:
    """And acked once it is printed."""
    watching = watch()
    seen = []
    for body in ("one", {"two": 2}):
        alice.send("bob", body, type="t")
        seen.append(line(watching))
    watching.terminate()
    code, out, _ = ended(watching)

    assert [(each["body"], each["from"], each["type"]) for each in seen] == [
        ("one", "alice", "t"),
        ({"two": 2}, "alice", "t"),
    ]
    assert (code, out) == (0, "")
    assert left(root) == []


def test_on_a_terminal_it_is_for_people(alice: Mailbox, watch: Watch, until: Until) -> None:
    """Who sent it, and the body; nothing in it can move the cursor."""
    ours, theirs = pty.openpty()
    watching = watch(stdout=theirs)
    os.close(theirs)
    alice.send("bob", "hello\x1b[2J", subject="greeting")
    shown = b""
    while b"hello" not in shown:
        ready, _, _ = select.select([ours], [], [], PATIENCE)
        assert ready
        shown += os.read(ours, 65536)
    watching.terminate()
    code, _, _ = ended(watching)
    os.close(ours)

    assert b"from alice" in shown
    assert b"greeting" in shown
    assert b"\x1b[2J" not in shown
    assert code == 0


def test_json_is_json_on_a_terminal_too(alice: Mailbox, watch: Watch) -> None:
    """--json says so."""
    ours, theirs = pty.openpty()
    alice.send("bob", "hello")
    watching = watch("--json", "--once", stdout=theirs)
    os.close(theirs)
    code, _, _ = ended(watching)
    shown = os.read(ours, 65536)
    os.close(ours)

    assert json.loads(shown)["body"] == "hello"
    assert code == 0


def test_a_reader_who_leaves_ends_it_and_loses_nothing(alice: Mailbox, watch: Watch, root: Path) -> None:
    """`| head -1`: quietly, also when no more mail comes; what came after it left is still there."""
    head = subprocess.Popen(["head", "-n", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    watching = watch(stdout=head.stdin)
    assert head.stdin
    head.stdin.close()
    head.stdin = None
    alice.send("bob", "first")
    out, _ = head.communicate(timeout=PATIENCE)
    code, _, error = ended(watching)
    alice.send("bob", "second")

    assert json.loads(out)["body"] == "first"
    assert (code, error) == (0, "")
    assert len(left(root, "new")) == 1
    assert left(root, "cur", "later", "dead") == []


def test_what_finds_no_reader_is_handed_back(alice: Mailbox, watch: Watch, root: Path) -> None:
    """Not acked, and its attempt not counted."""
    reader, writer = os.pipe()
    os.close(reader)
    alice.send("bob", "first")
    watching = watch(stdout=writer)
    os.close(writer)
    code, _, error = ended(watching)
    with Mailbox("bob", root) as bob:
        waiting = [(message.body, message.attempt) for message in bob.peek()]

    assert (code, error) == (0, "")
    assert waiting == [("first", 1)]


def test_what_cannot_be_printed_is_handed_back_and_said(alice: Mailbox, watch: Watch, root: Path) -> None:
    """A full disk behind stdout is not the message's fault: it does not become a dead letter."""
    alice.send("bob", "first")
    with open("/dev/full", "wb") as full:
        watching = watch(stdout=full)
        code, _, error = ended(watching)
    with Mailbox("bob", root) as bob:
        waiting = [(message.body, message.attempt) for message in bob.peek()]

    assert (code, waiting) == (74, [("first", 1)])
    assert "No space left on device" in error
    assert "Traceback" not in error


# Until when


def test_once_and_count_and_drain_end_it(alice: Mailbox, watch: Watch, root: Path) -> None:
    """After one, after so many, after all."""
    for number in range(6):
        alice.send("bob", number)
    counts = [len(ended(watch(*words))[1].splitlines()) for words in (["--once"], ["--count", "2"], ["--drain"])]

    assert counts == [1, 2, 3]
    assert left(root) == []


def test_only_the_types_asked_for_are_taken(alice: Mailbox, watch: Watch, root: Path) -> None:
    """--type can be given again. The rest is left for others."""
    for kind in ("a", "b", "c", None):
        alice.send("bob", kind, type=kind)
    code, out, _ = ended(watch("--drain", "--type", "a", "--type", "c"))

    assert (code, [json.loads(each)["body"] for each in out.splitlines()]) == (0, ["a", "c"])
    assert len(left(root, "new")) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_one_that_waits(alice: Mailbox, watch: Watch, root: Path, number: int) -> None:
    """With exit code 0, and nothing in run/."""
    watching = watch("--poll-interval", "1h")
    alice.send("bob", 1)
    line(watching)
    watching.send_signal(number)

    assert ended(watching) == (0, "", "")
    assert list((root / "bob/run").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--as", "nobody"], 67, 'there is no box "nobody"'),
        (["--exec", "true", "--", "true"], 2, "exclude each other"),
        (["--log-format", "xml"], 2, "xml"),
        (["--count", "0"], 2, "0"),
    ],
    ids=["no box", "two commands", "log", "count"],
)
def test_mistakes_are_told(watch: Watch, words: list[str], code: int, said: str) -> None:
    """In a sentence, with the exit code of their kind."""
    ending = ended(watch(*words))

    assert ending[0] == code
    assert said in ending[2]
    assert "Traceback" not in ending[2]


# Commands

SHELL = "--exec"


@pytest.mark.parametrize(
    ("script", "then"),
    [
        ("exit 0", "acked"),
        ("exit 75", "later"),
        ("exit 111", "later"),
        ("exit 65", "dead"),
        ("exit 100", "dead"),
        ("exit 1", "retried"),
        ("exit 98", "retried"),
        ("kill -KILL $$", "retried"),
        ("kill -TERM $$", "retried"),
        ("exit 126", "put back"),
        ("exit 127", "put back"),
        ("no-such-command", "put back"),
    ],
)
def test_the_exit_of_a_command_settles_the_message(
    alice: Mailbox, watch: Watch, root: Path, script: str, then: str
) -> None:
    """0 ack; 75, 111 later, not counted; 65, 100 dead letter; 126, 127 put back; others retry with backoff."""
    alice.send("bob", 1)
    code, _, error = ended(watch("--drain", SHELL, script))
    with Mailbox("bob", root) as bob:
        found = {(message.state, message.attempt) for message in bob.peek("new", "later", "cur", "dead")}

    expected = {"acked": set(), "dead": {("dead", 1)}, "later": {("later", 1)}, "retried": {("later", 2)}}
    assert found == expected.get(then, {("later", 1)})
    assert code == (1 if then == "put back" else 0)
    assert ("the command is broken" in error) == (then == "put back")


def test_99_acks_and_stops(alice: Mailbox, watch: Watch, root: Path) -> None:
    """Stop watching: the rest is left."""
    alice.send("bob", 1)
    alice.send("bob", 2)

    assert ended(watch(SHELL, "exit 99"))[0] == 0
    assert len(left(root, "new")) == 1
    assert left(root, "cur", "later", "dead") == []


def test_a_broken_command_pauses_and_is_tried_again(alice: Mailbox, watch: Watch, root: Path, tmp_path: Path) -> None:
    """A typo burns no mail: mended while watching, the command gets it, as its first attempt."""
    command = tmp_path / "command"
    watching = watch("--", command)
    alice.send("bob", "work")
    assert watching.stderr
    said = watching.stderr.readline().decode()
    command.write_text('#!/bin/sh\ncat; echo " attempt $MAILBOX_ATTEMPT"\n')
    command.chmod(0o755)
    assert watching.stdout
    done = watching.stdout.readline().decode()
    watching.terminate()

    assert "no such file or directory. The message is released; trying again in 1 s" in said
    assert done == "work attempt 1\n"
    assert ended(watching)[0] == 0
    assert left(root) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("text\n", b"text\n"),
        ("", b""),
        ({"a": [1, "ü"]}, '{"a":[1,"ü"]}\n'.encode()),
        (None, b"null\n"),
        ("x" * 1_000_000, b"x" * 1_000_000),
    ],
    ids=["text", "empty", "json", "null", "large"],
)
def test_the_body_is_its_standard_input(alice: Mailbox, watch: Watch, body: Any, expected: bytes) -> None:
    """Text as it is, other JSON on a line; a large one is no deadlock with a command that talks before it reads."""
    alice.send("bob", body)
    script = "import sys, shutil; sys.stdout.write('y' * 70000); shutil.copyfileobj(sys.stdin, sys.stdout)"
    command = [sys.executable, "-c", script]
    watching = watch("--drain", "--", *command)
    out, _ = watching.communicate(timeout=PATIENCE)

    assert out == b"y" * 70000 + expected


def test_a_command_that_does_not_read_is_fine(alice: Mailbox, watch: Watch, root: Path) -> None:
    """Nobody waits for it to."""
    alice.send("bob", "x" * 1_000_000)

    assert ended(watch("--drain", "--", "true"))[::2] == (0, "")
    assert left(root, "new", "later", "cur", "dead") == []


def test_who_and_what_is_in_its_environment(alice: Mailbox, watch: Watch, root: Path) -> None:
    """Never the body; no control characters, which could be taken for lines; at most 1 KiB each."""
    options: Any = {"type": "a\nb", "subject": "ü" * 2000, "thread": "t\x00\x7f", "in_reply_to": "x"}
    id = alice.send("bob", "the secret body", headers={"traceparent": "00-\n-01"}, **options)
    script = "import json, os; print(json.dumps({n: os.environb[n.encode()].decode() for n in os.environ}))"
    env = {"MAILBOX_SUBJECT": "stale", "MAILBOX_KEY": "kept", "TRACEPARENT": "stale", "MAILBOX_FROM": "stale"}
    _, out, _ = ended(watch("--drain", "--", sys.executable, "-c", script, env=env))
    seen = json.loads(out)
    file = seen.pop("MAILBOX_FILE")

    assert {name: seen.get(f"MAILBOX_{name}") for name in ("ID", "FROM", "TO", "TRUST", "ATTEMPT", "ROOT", "KEY")} == {
        "ID": id,
        "FROM": "alice",
        "TO": "bob",
        "TRUST": "none",
        "ATTEMPT": "1",
        "ROOT": str(root),
        "KEY": "kept",
    }
    assert (seen["MAILBOX_TYPE"], seen["MAILBOX_THREAD"], seen["MAILBOX_IN_REPLY_TO"]) == ("a b", "t  ", "x")
    assert seen["TRACEPARENT"] == "00- -01"
    assert seen["MAILBOX_SUBJECT"] == "ü" * 512
    assert file.startswith(f"{root}/bob/cur/")
    assert "secret" not in out


def test_the_file_it_is_told_of_is_the_message(alice: Mailbox, watch: Watch) -> None:
    """For those who want the envelope."""
    alice.send("bob", "hello", subject="greeting")
    _, out, _ = ended(watch("--drain", SHELL, 'cat "$MAILBOX_FILE"'))

    assert json.loads(out)["subject"] == "greeting"


def test_what_it_prints_is_the_reply(alice: Mailbox, watch: Watch) -> None:
    """With --reply: without its last newline, and only when it went well."""
    for body in ("good", "bad"):
        alice.send("bob", body)
    code, out, _ = ended(watch("--drain", "--reply", SHELL, 'read x; echo "got $x"; echo; test "$x" = good'))
    answers = []
    while (answer := alice.receive()) is not None:
        answer.ack()
        answers.append(answer.body)

    assert (code, out) == (0, "")
    assert answers == ["got good\n"]


@pytest.mark.parametrize("script", ["head -c 2000000 /dev/zero | tr '\\0' x", "printf '\\377'"], ids=["large", "bytes"])
def test_what_can_be_no_reply_is_an_error(alice: Mailbox, watch: Watch, root: Path, script: str) -> None:
    """The question is not acked unanswered."""
    alice.send("bob", 1)
    code, _, error = ended(watch("--drain", "--reply", SHELL, script))

    assert code == 0
    assert "InvalidBodyError" in error or "too much for a reply" in error
    assert len(left(root, "later")) == 1
    assert alice.receive() is None


def test_the_last_words_on_stderr_go_with_the_dead_letter(alice: Mailbox, watch: Watch, root: Path) -> None:
    """They pass through to ours, and the end of them is kept: the retries are over."""
    alice.send("bob", 1)
    script = 'i=0; while [ $i -lt 2000 ]; do echo "line $i" >&2; i=$((i+1)); done; exit 3'
    with Mailbox("bob", root, max_attempts=99) as bob:  # its first attempt was elsewhere
        message = bob.receive()
        assert message
        message.retry(delay=0)
    code, _, error = ended(watch("--drain", "--max-attempts", "2", SHELL, script))
    note = why(root)

    assert code == 0
    assert error.startswith("line 0\nline 1\n")
    assert note.startswith("the command exited with 3 (attempt 2 of 2)\n")
    assert note.endswith("line 1998\nline 1999\n")
    assert len(note) < 5000


@pytest.mark.parametrize("leader", ["trap '' TERM", ":"], ids=["stubborn", "obedient"])
def test_a_timeout_ends_it_and_its_children(
    alice: Mailbox, watch: Watch, root: Path, tmp_path: Path, until: Until, leader: str
) -> None:
    """TERM to the whole process group, then KILL: also what ignores TERM, and children that outlive their parent."""
    alice.send("bob", 1)
    forever = f"echo $$ >> {tmp_path}/pids; while :; do sleep 0.05; done"
    child = f"trap '' TERM; {forever}"
    script = f'sh -c "$CHILD" & until [ -e {tmp_path}/pids ]; do sleep 0.01; done; {leader}; {forever}'
    code, _, error = ended(watch("--drain", "--timeout", "1s", SHELL, script, env={"CHILD": child}))
    pids = {int(pid) for pid in (tmp_path / "pids").read_text().split()}

    assert code == 0
    assert len(pids) == 2
    until(lambda: not any(map(alive, pids)))
    assert "the command took longer than 1 s" in error
    assert len(left(root, "later")) == 1


def test_what_a_command_leaves_running_is_its_own(alice: Mailbox, watch: Watch, root: Path, tmp_path: Path) -> None:
    """A command that ended by itself may have begun a service; that it holds our pipes does not hold us."""
    alice.send("bob", 1)
    code, _, _ = ended(watch("--drain", "--reply", SHELL, f"sleep 60 >&2 & echo $! > {tmp_path}/pid"))
    pid = int((tmp_path / "pid").read_text())
    running = alive(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)

    assert (code, running) == (0, True)
    assert left(root) == []


def test_jobs_run_at_a_time(alice: Mailbox, watch: Watch, root: Path, tmp_path: Path) -> None:
    """Each waits for all the others."""
    for number in range(3):
        alice.send("bob", number)
    script = f'touch "{tmp_path}/$MAILBOX_ID.here"; until [ $(ls {tmp_path}/*.here | wc -l) = 3 ]; do sleep 0.01; done'

    assert ended(watch("--drain", "--jobs", "3", SHELL, script))[0] == 0
    assert left(root) == []


def test_told_to_stop_it_lets_a_command_finish(alice: Mailbox, watch: Watch, root: Path, tmp_path: Path) -> None:
    """Within its grace."""
    alice.send("bob", 1)
    alice.send("bob", 2)
    watching = watch(SHELL, f'echo "$MAILBOX_ID"; until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo done')
    assert watching.stdout
    watching.stdout.readline()
    watching.terminate()
    (tmp_path / "go").touch()
    code, out, _ = ended(watching)

    assert (code, out) == (0, "done\n")
    assert (len(left(root, "new")), len(left(root, "cur", "later"))) == (1, 0)


def test_after_the_grace_a_command_is_ended_and_its_message_handed_back(
    alice: Mailbox, watch: Watch, root: Path
) -> None:
    """Its attempt is not counted."""
    alice.send("bob", 1)
    watching = watch("--grace", "50ms", SHELL, "echo here; exec sleep 60")
    assert watching.stdout
    watching.stdout.readline()
    watching.terminate()
    code, _, _ = ended(watching)
    with Mailbox("bob", root) as bob:
        waiting = [(message.state, message.attempt) for message in bob.peek()]

    assert (code, waiting) == (0, [("later", 1)])


def test_a_second_signal_ends_it_at_once(alice: Mailbox, watch: Watch, until: Until) -> None:
    """Whatever runs."""
    alice.send("bob", 1)
    watching = watch("--grace", "1h", SHELL, "echo $$; exec sleep 60")
    assert watching.stdout
    pid = int(watching.stdout.readline())

    def signalled() -> bool:
        watching.terminate()
        return watching.poll() is not None

    until(signalled)
    os.kill(pid, signal.SIGKILL)

    assert watching.returncode == 128 + signal.SIGTERM


# Where it lives


def test_as_process_1_it_reaps_orphans_and_keeps_its_childrens_status(
    alice: Mailbox, watch: Watch, root: Path, as_root: None
) -> None:
    """In a PID namespace of its own: many short commands, each leaving an orphan, and each exit code is seen."""
    wrap = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    if subprocess.run([*wrap, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to make PID namespaces")
    for _ in range(40):
        alice.send("bob", 65)
    for number in (0, 1):
        alice.send("bob", number)
    alice.send("bob", "last", type="last")
    script = (
        'read code; (sleep 0.0$((code % 7)) & ) ; [ "$code" = last ] || exit "$code"; '
        "while ps -eo stat= | grep -q Z; do sleep 0.02; done; exit 99"
    )
    code, _, _ = ended(watch("--jobs", "4", SHELL, script, wrap=wrap))

    assert code == 0
    assert len(left(root, "dead")) == 40
    assert len(left(root, "later")) == 1
    assert left(root, "new", "cur") == []


def test_a_read_only_root_file_system_is_enough(alice: Mailbox, watch: Watch, root: Path, as_root: None) -> None:
    """Only the mail volume must be writable: no file in /tmp, no cache, no lock elsewhere."""
    around = root.parent
    script = (
        f"mount --bind {around} {around} && mount --bind {root} {root} && "
        f"for each in {around} / /tmp /dev/shm; do mount -o remount,bind,ro $each 2> /dev/null; done; "
        f'! touch {around}/x 2> /dev/null && exec "$@"'
    )
    wrap = ("unshare", "-m", "sh", "-c", script, "sh")
    if subprocess.run([*wrap, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount")
    alice.send("bob", "hello")
    code, out, error = ended(watch("--drain", SHELL, "cat", wrap=wrap))

    assert (code, out, error) == (0, "hello", "")


def test_a_service_manager_hears_of_it(alice: Mailbox, watch: Watch, tmp_path: Path) -> None:
    """NOTIFY_SOCKET: ready when it listens, alive while it does, stopping when it was told to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        watching = watch(env=env)
        said = [manager.recv(4096).decode() for _ in range(3)]
        watching.terminate()
        ended(watching)
        while said[-1] != "STOPPING=1":
            said.append(manager.recv(4096).decode())

    assert said[0] == "READY=1\nSTATUS=watching the box bob"
    assert set(said[1:-1]) == {"WATCHDOG=1"}


def test_the_log_can_be_json(alice: Mailbox, watch: Watch) -> None:
    """A line an entry, on standard error; what a sender wrote cannot forge one."""
    alice.send("bob", 1, type="x")
    _, _, text = ended(watch("--drain", SHELL, "exit 65"))
    alice.send("bob", 1)
    _, _, log = ended(watch("--drain", "--log-format", "json", SHELL, "exit 65"))
    (entry,) = map(json.loads, log.splitlines())

    assert text.startswith("mailbox: dead letter ")
    assert (entry["level"], "dead letter" in entry["message"]) == ("warning", True)
    assert entry["time"].endswith("Z")


# Health


def health(root: Path, *words: str) -> tuple[int, str]:
    ran = subprocess.run(
        [*MAILBOX, "health", "--as", "bob", "--root", str(root), *words],
        check=False,
        capture_output=True,
        env=environment(),
    )
    return ran.returncode, ran.stdout.decode() + ran.stderr.decode()


def test_health_says_whether_somebody_listens(watch: Watch, root: Path, until: Until) -> None:
    """0 or 1, for HEALTHCHECK; a typo in the name is neither."""
    before = health(root)
    watching = watch()
    until(lambda: health(root)[0] == 0)
    during = health(root)
    watching.kill()
    watching.wait()

    assert before == (1, "bob: no listener\n")
    assert during[1].startswith("bob: 1 listening, reported 0 s ago")
    assert health(root) == before
    assert health(root, "--as", "nobody")[0] == 67


def test_health_says_whether_it_is_stuck(watch: Watch, root: Path, until: Until) -> None:
    """A listener that was stopped lives, and says nothing."""
    watching = watch()
    until(lambda: health(root)[0] == 0)
    watching.send_signal(signal.SIGSTOP)
    until(lambda: health(root, "--max-age", "500ms")[0] == 1)
    stuck = health(root, "--max-age", "500ms")[1]
    patient = health(root, "--max-age", "1h")[0]
    watching.send_signal(signal.SIGCONT)
    until(lambda: health(root, "--max-age", "500ms")[0] == 0)

    assert "lives, and has not reported for" in stuck
    assert patient == 0


def test_health_says_whether_it_keeps_up(alice: Mailbox, watch: Watch, root: Path, until: Until) -> None:
    """Mail that has been waiting for too long, and at what it is at work meanwhile."""
    watching = watch(SHELL, "echo here; exec sleep 60")
    id = alice.send("bob", 1)
    assert watching.stdout
    watching.stdout.readline()
    alice.send("bob", 2)
    behind = health(root, "--max-wait", "1ms")
    fine = health(root, "--max-wait", "1h")

    assert behind[0] == 1
    assert "mail has been waiting for " in behind[1]
    assert f"busy with {id} for " in behind[1]
    assert fine[0] == 0


def test_a_command_without_dashes_is_refused(mailbox: Callable[..., Any]) -> None:
    """`mailbox watch bob` would run a program called bob on the mail of another box."""
    said = mailbox("watch", "bob")

    assert (said.code, said.out) == (2, "")
    assert '"bob" is one word too many' in said.err
    assert "-- bob" in said.err
