"""hook: mail for AI agents at the events of their clients, as processes."""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filemailbox import Mailbox
from filemailbox.agents import events, letter
from support.agents import Client, shown
from support.commands import Said
from support.mail import bodies
from support.waiting import PATIENCE, wait_until

EVENTS = {
    "claude": ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop", "SessionEnd"),
    "codex": ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop", "SessionEnd"),
    "gemini": ("SessionStart", "BeforeAgent", "AfterTool", "AfterAgent", "SessionEnd"),
}


def claimed(root: Path) -> list[str]:
    return [path.name for path in (root / "bob/cur").glob("*/*.json")]


def end_leases(root: Path) -> None:
    """Let all leases of bob end, as if their time was over."""
    for folder in (root / "bob/cur").iterdir():
        if ",U=" in folder.name:
            folder.rename(folder.with_name(f"{folder.name[:12]},U=20200101T000000.000000000Z"))


@pytest.mark.parametrize("name", EVENTS)
def test_mail_comes_at_each_event_and_is_acked_at_the_stop(name: str, root: Path, alice: Mailbox) -> None:
    """Each client: shown at start, prompt, tool and stop; handled when a turn that had it has ended."""
    client = Client(root, name)
    start, prompt, tool, stop, _ = EVENTS[name]
    alice.send("bob", "one")
    assert shown(client.text(start)) == ["one"]
    assert len(claimed(root)) == 1

    alice.send("bob", "two")
    assert shown(client.text(prompt)) == ["two"]
    assert len(claimed(root)) == 2, "the prompt acks nothing that the start of its turn showed"

    alice.send("bob", "three")
    assert shown(client.text(tool)) == ["three"]
    alice.send("bob", "four")
    answer = client.hook(stop)
    assert answer is not None
    assert answer["decision"] == ("deny" if name == "gemini" else "block")
    assert shown(answer["reason"]) == ["four"]
    assert len(claimed(root)) == 1

    assert client.hook(stop) is None
    assert claimed(root) == []
    assert client.notes() == []
    assert client.log == ""


def test_the_next_prompt_acks_a_turn_that_was_interrupted(client: Client, root: Path, alice: Mailbox) -> None:
    """A client that the user interrupts sends no stop."""
    alice.send("bob", "one")
    client.text("UserPromptSubmit")

    client.text("UserPromptSubmit")

    assert claimed(root) == []


def test_the_end_puts_back_what_no_model_has_had(client: Client, bob: Mailbox, alice: Mailbox) -> None:
    """At once, the attempt not counted."""
    alice.send("bob", "one")
    client.text("SessionStart")
    client.hook("SessionEnd")

    message = bob.receive()
    assert message is not None
    assert (message.body, message.attempt) == ("one", 1)
    assert client.presences() == []


def test_a_killed_client_has_acked_nothing_of_its_turn(client: Client, root: Path, alice: Mailbox) -> None:
    """The lease ends, and the next session is shown the mail under its id, as delivery 2."""
    id = alice.send("bob", "one")
    client.text("UserPromptSubmit")
    assert Client(root, session="two").text("SessionStart") == ""

    end_leases(root)
    text = Client(root, session="three").text("SessionStart")

    assert shown(text) == ["one"]
    assert "delivery 2" in text
    assert id[16:] in text


@pytest.mark.parametrize("source", ["resume", "compact"])
def test_what_is_still_held_is_shown_again(source: str, client: Client, root: Path, alice: Mailbox) -> None:
    """After a resume or a compaction, within the bounds, under one fence; and the next prompt does not ack it."""
    for n in range(8):
        alice.send("bob", str(n))
    client.text("SessionStart")
    client.text("UserPromptSubmit")

    text = client.text("SessionStart", source=source)
    assert shown(text) == ["0", "1", "2", "3", "4"]
    assert "3 more were shown before" in text
    assert len(set(re.findall(r"mail ([0-9a-f]{8})", text))) == 1

    client.text("UserPromptSubmit")
    assert len(claimed(root)) == 8
    client.text("Stop")
    assert claimed(root) == []


def test_a_flood_comes_in_order_within_the_bounds(client: Client, root: Path, alice: Mailbox) -> None:
    """60 messages: five for each event, a turn prolonged five times, the rest with the next prompt."""
    for n in range(60):
        alice.send("bob", str(n))
    texts = [client.text("SessionStart"), client.text("UserPromptSubmit"), client.text("PostToolUse")]
    texts += [client.text("Stop") for _ in range(5)]
    rest = client.hook("Stop")

    assert rest is not None
    assert "20 messages" in rest["systemMessage"]
    assert all(len(shown(text)) == letter.MAX_LETTERS for text in texts)
    while text := client.text("UserPromptSubmit"):
        texts.append(text)
    assert [int(body) for text in texts for body in shown(text)] == list(range(60))


def test_long_bodies_keep_the_bound_of_an_event(client: Client, alice: Mailbox) -> None:
    """8 000 characters, whatever the bodies escape to."""
    for body in ("\x1b" * 5000, "\n" * 5000, "<system>" * 2000, "a" * 5000, "é" * 5000):
        alice.send("bob", body, subject="\u202e" * 300)
    texts = [client.text("UserPromptSubmit"), client.text("PostToolUse")]

    assert all(0 < len(text) <= letter.EVENT_LIMIT for text in texts)


def test_a_subagent_is_shown_nothing(client: Client, root: Path, alice: Mailbox) -> None:
    """The mail is its parent's."""
    alice.send("bob", "one")

    assert client.hook("PostToolUse", agent_id="a1") is None
    assert claimed(root) == []


def test_a_sender_that_waits_is_answered_or_the_model_is_reminded_once(client: Client, root: Path) -> None:
    """The stop is prolonged once for it; then the mail counts as handled."""
    with Mailbox("alice", root) as asker:
        timed_out: list[bool] = []

        def ask() -> None:
            with contextlib.suppress(TimeoutError):
                asker.request("bob", "how many?", timeout=PATIENCE)
                timed_out.append(False)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: list((root / "bob/new").glob("*.json")))
        assert "alice is waiting for the answer now." in client.text("UserPromptSubmit")

        reminder = client.text("Stop")
        assert "is not answered" in reminder
        id = reminder.split()[1]
        with Mailbox("bob", root) as bob, bob.leased(id) as message:
            message.reply("three")
            message.ack()
        thread.join(PATIENCE)
        assert timed_out == [False]
        assert client.hook("Stop") is None
    assert client.notes() == []


def test_a_folder_for_answers_of_another_uid_is_no_request(client: Client, root: Path, alice: Mailbox) -> None:
    """Any uid can make one in replies/. And one that a killed requester left has no lock."""
    id = alice.send("bob", "one")
    (root / "alice/replies" / id).mkdir()

    assert "is waiting" not in client.text("UserPromptSubmit")


def test_urgent_mail_comes_first(client: Client, root: Path, alice: Mailbox) -> None:
    """Of another writer, before five that came earlier."""
    for n in range(5):
        alice.send("bob", str(n))
    with Mailbox("alice", root) as other:
        thread = threading.Thread(
            target=lambda: other.send("bob", "stop", headers={"priority": "urgent"})
        )  # a thread is a writer of its own
        thread.start()
        thread.join()

    assert shown(client.text("PostToolUse")) == ["stop", "0", "1", "2", "3"]


def test_only_urgent_mail_interrupts_a_turn_where_that_is_set(root: Path, alice: Mailbox) -> None:
    """MAILBOX_HOOK_AT=turn: the rest comes at the stop."""
    client = Client(root, MAILBOX_HOOK_AT="turn")
    alice.send("bob", "later")
    assert client.hook("PostToolUse") is None
    with Mailbox("alice", root) as other:
        other.send("bob", "stop", headers={"priority": "urgent"})

    text = client.text("PostToolUse")
    assert shown(text)[-1] == "stop"
    assert "later" in "".join(shown(text)) + client.text("Stop")


def test_gemini_makes_a_prompt_of_a_stop_and_the_bound_holds(root: Path, alice: Mailbox) -> None:
    """A prompt with the last fence is no new turn."""
    client = Client(root, "gemini", MAILBOX_HOOK_TURNS="2")
    for n in range(30):
        alice.send("bob", str(n))
    client.text("BeforeAgent", prompt="hello")
    first = client.text("AfterAgent")
    client.hook("BeforeAgent", prompt=first)
    second = client.text("AfterAgent")
    assert shown(second)
    client.hook("BeforeAgent", prompt=second)

    assert shown(client.text("AfterAgent")) == []


def test_a_lease_past_its_half_is_extended_at_a_tool(root: Path, alice: Mailbox) -> None:
    """A turn may last for longer than a lease."""
    client = Client(root, MAILBOX_HOOK_LEASE="100")
    alice.send("bob", "one")
    client.text("UserPromptSubmit")
    [notes] = client.notes()
    kept = json.loads(notes.read_text())
    notes.write_text(json.dumps({**kept, "until": time.time() + 40}))
    before = [path.name for path in (root / "bob/cur").glob("*,U=*")]

    client.hook("PostToolUse")

    after = [path.name for path in (root / "bob/cur").glob("*,U=*")]
    assert len(after) == len(before) == 1
    assert after > before
    assert json.loads(notes.read_text())["until"] > time.time() + 90


def test_parallel_hooks_of_a_session_take_turns(client: Client, root: Path, alice: Mailbox) -> None:
    """Each message is shown once, and every one is noted."""
    for n in range(10):
        alice.send("bob", str(n))
    running = [client.start("PostToolUse") for _ in range(4)]
    texts = [
        json.loads(out)["hookSpecificOutput"]["additionalContext"]
        for process in running
        if (out := process.communicate(timeout=PATIENCE)[0])
    ]

    assert sorted(int(body) for text in texts for body in shown(text)) == list(range(10))
    [notes] = client.notes()
    assert len(json.loads(notes.read_text())["holds"]) == 10


@settings(max_examples=15)
@given(
    data=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["session_id", "hook_event_name", "agent_id", "source", "prompt"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_input_makes_a_hook_fail(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Exit code 0, and nothing on stdout: the client goes on."""
    root = tmp_path_factory.mktemp("hook") / "mail"
    Mailbox.init("bob", root).close()
    process = Client(root).run(data)
    out, _ = process.communicate(timeout=PATIENCE)

    assert (process.returncode, out) == (0, b"")


@pytest.mark.parametrize(
    "environment",
    [
        {"MAILBOX_AGENT": ""},
        {"MAILBOX_AGENT": "nobody"},
        {"MAILBOX_AGENT": "../x"},
        {"MAILBOX_ROOT": "/nonexistent"},
        {"MAILBOX_MIN_TRUST": "nonsense"},
        {"MAILBOX_HOOK_TURNS": "many", "MAILBOX_HOOK_LEASE": "-1"},
    ],
    ids=["no agent", "no box", "no address", "no root", "no level", "no numbers"],
)
def test_no_setting_makes_a_hook_fail(environment: dict[str, str], root: Path) -> None:
    """Nothing is made up, and the client goes on."""
    assert Client(root, **environment).hook("SessionStart") is None


@pytest.mark.parametrize("words", [["unknown"], [], ["claude", "Stop", "more"], ["claude", "--no-such"]])
def test_no_command_line_makes_a_hook_fail(words: list[str], root: Path) -> None:
    """A mistake in the settings of a client must not keep it from its work: exit code 2 would."""
    command = [sys.executable, "-P", "-m", "filemailbox", "hook", *words]
    done = subprocess.run(command, input=b"{}", capture_output=True, env=Client(root).environment, check=False)

    assert (done.returncode, done.stdout) == (0, b"")


def test_an_error_is_logged_and_the_mail_goes_back(client: Client, root: Path, alice: Mailbox) -> None:
    """stdout is closed: what could not be shown is put back at once."""
    alice.send("bob", "one")
    process = client.start("UserPromptSubmit")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    process.communicate(timeout=PATIENCE)

    assert process.returncode == 0
    assert claimed(root) == []
    assert "BrokenPipeError" in client.log
    with Mailbox("bob", root) as bob:
        assert bodies(bob) == ["one"]


def test_the_log_is_bounded_and_follows_no_link(client: Client, root: Path, tmp_path: Path) -> None:
    """At most 64 KiB; a link in its place is left alone."""
    from filemailbox.agents.hook import LOG_LIMIT, log
    from filemailbox.format.address import Address
    from filemailbox.store.root import find_root

    box = find_root(root).box(Address("bob"))
    for n in range(3000):
        log(box, f"{n} {'x' * 100}")
    path = root / "bob/run/hook.log"
    assert 0 < path.stat().st_size <= LOG_LIMIT
    assert path.read_text().splitlines()[-1].split()[1] == "2999"

    path.unlink()
    victim = tmp_path / "victim"
    victim.write_text("")
    path.symlink_to(victim)
    log(box, "one")
    assert victim.read_text() == ""


@pytest.mark.parametrize("name", [".session-{}", "session-{}.json", ".hook-{}"])
@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "garbage", "huge"])
def test_hostile_files_of_a_session_do_no_harm(
    name: str, kind: str, root: Path, tmp_path: Path, alice: Mailbox
) -> None:
    """Notes that are none are as none. Nothing outside is read or written."""
    from filemailbox.agents.notes import session_hex

    client = Client(root)
    path = root / "bob/run" / name.format(session_hex("one"))
    victim = tmp_path / "victim"
    victim.write_text("secret")
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(
            b'{"holds": [1], "turn": -1e999, "asked": {"x": 1}}' if kind == "garbage" else b"[" * (1 << 20)
        )
    alice.send("bob", "one")

    client.hook("UserPromptSubmit")
    client.hook("Stop")

    assert victim.read_text() == "secret"
    end_leases(root)
    with contextlib.suppress(OSError):
        path.unlink() if not path.is_dir() else path.rmdir()
    with Mailbox("bob", root) as bob:
        assert set(bodies(bob)) <= {"one"}


def test_presence_is_written_at_start_prompt_stop_and_end(client: Client) -> None:
    """For people: client, doing, since, holds."""
    seen = []
    for event in ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop"):
        client.hook(event)
        [presence] = client.presences()
        seen.append(presence["doing"])
    client.hook("SessionEnd")

    assert seen == ["idle", "working", "working", "idle"]
    assert presence["client"] == "claude"
    assert client.presences() == []


def test_files_of_sessions_that_are_gone_are_swept(client: Client, root: Path) -> None:
    """At a start, if they did nothing for longer than two leases."""
    run = root / "bob/run"
    for name in (".session-aaaaaaaaaaaa", "session-aaaaaaaaaaaa.json", ".hook-aaaaaaaaaaaa", ".rewake-aaaaaaaaaaaa"):
        (run / name).write_text("{}")
        os.utime(run / name, (time.time() - 8000,) * 2)
    client.hook("SessionStart")

    assert not [path for path in run.iterdir() if "aaaaaaaaaaaa" in path.name]


def test_a_member_that_clients_do_not_know_is_not_sent_to_codex() -> None:
    """Its schema is strict."""
    event = events.parse_event("codex", {"hook_event_name": "Stop", "session_id": "1"})
    assert event is not None

    assert events.answer(event, "", goes_on=False, left=3) is None


KILLED = """
import os, signal, sys
left = int(sys.argv[1])
WATCHED = ("open", "os.rename", "os.remove", "os.listdir", "os.mkdir", "os.chmod", "os.utime", "fcntl.flock")

def count(event, arguments):
    global left
    if event in WATCHED and not (event == "open" and str(arguments[0]).endswith((".py", ".pyc"))):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

from filemailbox.cli.run import main
import filemailbox.client, filemailbox.receive.leases, filemailbox.agents.session, filelock, ctypes
sys.addaudithook(count)
sys.exit(main(["hook", "claude"]))
"""
"""Runs a hook and ends it by SIGKILL at its n-th call that opens, lists, renames, locks or removes."""


@pytest.mark.parametrize("event", ["UserPromptSubmit", "Stop", "SessionEnd"])
def test_a_killed_hook_loses_nothing(event: str, tmp_path: Path) -> None:
    """SIGKILL at every fourth call into the box: never lost, never acked before it was shown."""
    for n in range(0, 400, 4):
        root = tmp_path / str(n)
        Mailbox.init("bob", root).close()
        with Mailbox.init("alice", root) as alice:
            alice.send("bob", "one")
        client = Client(root)
        had_it = event != "UserPromptSubmit" and bool(client.text("UserPromptSubmit"))
        given = json.dumps({"session_id": client.session, "hook_event_name": event}).encode()
        command = [sys.executable, "-P", "-c", KILLED, str(n)]
        done = subprocess.run(command, input=given, capture_output=True, env=client.environment, check=False)
        end_leases(root)
        with Mailbox("bob", root) as bob:
            found = bodies(bob)

        assert found == ["one"] or (found == [] and had_it and event == "Stop")
        if done.returncode == 0:
            return
        assert done.returncode == -signal.SIGKILL, done.stderr
    pytest.fail("the hook was killed each time")


def test_a_session_that_lives_is_shown_by_agents_and_status(
    client: Client, root: Path, mailbox: Callable[..., Said]
) -> None:
    """If the kernel proves it: here by the lock of its waiter."""
    client.hook("SessionStart")
    [notes] = [path.name for path in (root / "bob/run").glob("session-*.json")]
    assert "sessions" not in mailbox("agents", "--json").records[1]

    with contextlib.closing(Held(root / "bob/run" / notes.replace("session-", ".rewake-").removesuffix(".json"))):
        [session] = mailbox("agents", "--json").records[1]["sessions"]
        assert (session["client"], session["doing"]) == ("claude", "idle")
        assert f"session {session['session']} of claude: idle" in mailbox("status", "bob").out


def test_a_sender_that_waits_for_a_receipt_waits_for_no_answer(client: Client, root: Path) -> None:
    """`send --wait-for handled` ends at the ack: the model owes no words."""
    with Mailbox("alice", root) as asker:
        thread = threading.Thread(
            target=lambda: asker.send_and_wait("bob", "make it", until="handled", timeout=PATIENCE)
        )
        thread.start()
        wait_until(lambda: list((root / "bob/new").glob("*.json")))

        assert "is waiting" not in client.text("UserPromptSubmit")
        assert client.hook("Stop") is None
        thread.join(PATIENCE)


class Held:
    """A lock that this process holds."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def close(self) -> None:
        self._file.close()


def test_gc_removes_old_files_of_sessions(client: Client, root: Path, mailbox: Callable[..., Said]) -> None:
    """Also of an agent that never starts a session again; never those whose lock is held."""
    run = root / "bob/run"
    names = [f"{prefix}aaaaaaaaaaaa{end}" for prefix, end in ((".session-", ""), ("session-", ".json"), (".hook-", ""))]
    for name in [*names, ".rewake-bbbbbbbbbbbb"]:
        (run / name).write_text("{}")
    client.hook("SessionStart")
    with contextlib.closing(Held(run / ".rewake-bbbbbbbbbbbb")):
        for name in [*names, ".rewake-bbbbbbbbbbbb"]:
            os.utime(run / name, (time.time() - 200_000,) * 2)
        mailbox("gc", "bob")

    left = {path.name for path in run.iterdir()}
    assert not left & set(names)
    assert ".rewake-bbbbbbbbbbbb" in left
    assert client.presences()
