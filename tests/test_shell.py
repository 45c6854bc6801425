"""The clients for shells: mailbox-send and mailbox-recv, under dash, busybox and bash, with nothing but their small tools.

Python is the judge: what the one sends the other must read, and the other way round.
"""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from disk import left, why
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from filemailbox import Mailbox, Malformed, names
from filemailbox.cli.options import span
from filemailbox.doorbell import Bell
from filemailbox.message import MAX_SIZE, decode, encode

HOUSE = Path(__file__).parent.parent
VECTORS = HOUSE / "tests" / "vectors"
PATIENCE = 60.0  # seconds after which a shell will not come to an end any more

SENDING = ("awk", "od", "date", "mv", "cat", "rm", "sync")
RECEIVING = (
    "awk",
    "od",
    "date",
    "stat",
    "sort",
    "mv",
    "rm",
    "mkdir",
    "sleep",
    "cat",
    "tail",
    "sync",
    "timeout",
    "flock",
)

SHELLS = ("dash", "busybox", "bash")


@dataclass(frozen=True)
class Ran:
    """What a script answered."""

    code: int
    out: bytes
    err: str


@dataclass(frozen=True)
class Shell:
    """A shell with a PATH on which there is nothing but what the scripts may use."""

    name: str
    argv: tuple[str, ...]
    tools: Path
    root: Path

    def allow(self, *names: str) -> None:
        """More tools."""
        for name in names:
            found = shutil.which(name)
            if found is None:
                pytest.skip(f"there is no {name} here")
            (self.tools / name).symlink_to(found)

    def forbid(self, *names: str) -> None:
        for name in names:
            (self.tools / name).unlink()

    def fake(self, name: str, script: str) -> None:
        """A tool of our own under that name."""
        (self.tools / name).unlink(missing_ok=True)
        (self.tools / name).write_text(f"#!/bin/sh\n{script}")
        (self.tools / name).chmod(0o755)

    def begin(self, script: str, *words: object, agent: str = "alice", **more: Any) -> subprocess.Popen[bytes]:
        environment = {"PATH": str(self.tools), "MAILBOX_ROOT": str(self.root), "LANG": "C.UTF-8"}
        if agent:
            environment["MAILBOX_AGENT"] = agent
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [*self.argv, HOUSE / "scripts" / script, *map(_word, words)]
        return subprocess.Popen(command, env=environment, **{**pipes, **more})

    def send(self, *words: object, stdin: bytes = b"", **more: Any) -> Ran:
        return _end(self.begin("mailbox-send", *words, **more), stdin)

    def receive(self, *words: object, agent: str = "bob", **more: Any) -> Ran:
        return _end(self.begin("mailbox-recv", *words, agent=agent, **more))


def _word(word: object) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


def _end(process: subprocess.Popen[bytes], stdin: bytes = b"") -> Ran:
    with process:
        try:
            out, err = process.communicate(stdin, PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return Ran(process.returncode, out or b"", (err or b"").decode())


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path, root: Path) -> Shell:
    """Each of the shells in turn. With busybox all tools are its own, as far as it has them."""
    return _shell(request.param, tmp_path, root)


@pytest.fixture
def dash(tmp_path: Path, root: Path) -> Shell:
    """One shell, where the others would say nothing new."""
    return _shell("dash", tmp_path, root)


def _shell(name: str, tmp_path: Path, root: Path) -> Shell:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"there is no {name} here")
    tools = tmp_path / "tools"
    tools.mkdir()
    of_busybox = _applets(program) if name == "busybox" else frozenset()
    for tool in {*SENDING, *RECEIVING}:
        source = program if tool in of_busybox else shutil.which(tool)
        assert source is not None, f"there is no {tool} here"
        (tools / tool).symlink_to(source)
    argv = {"dash": (program,), "busybox": (program, "sh"), "bash": (program, "--posix")}[name]
    return Shell(name, argv, tools, root)


def _applets(busybox: str) -> frozenset[str]:
    return frozenset(subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split())


def raw(root: Path) -> bytes:
    """The bytes of the one message that waits for bob; it is taken away."""
    (file,) = (root / "bob/new").iterdir()
    data = file.read_bytes()

    assert file.name == f"{decode(data)['id']},S={len(data)}.json"
    assert file.stat().st_mode & 0o7777 == 0o640
    file.unlink()
    return data


# Sending

# Whatever moves cursors, ends strings or means something to a shell, an awk or printf, more often than it comes by chance.
AWKWARD = "\"\\/\n\t\r\x01\x08\x0c\x1f\x7f\x80\x81\x82\x88\x9f\xad\u061c\u200b\u2028\u202e\ufeff\ufffd\ud7ff\ue000'`$%&=,~ é€😀\U000e0041\U0010ffff"
texts = st.text(st.one_of(st.sampled_from(AWKWARD), st.characters(exclude_categories=["Cs"])), max_size=40)
words = texts.map(lambda text: text.replace("\0", ""))
MEMBERS = ("type", "subject", "thread", "in_reply_to", "key", "headers")  # in the order in which they are written
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "type": words,
        "subject": words,
        "thread": words,
        "in_reply_to": words,
        "key": words,
        "headers": st.dictionaries(words.map(lambda text: text.replace("=", "") or "x"), words, max_size=3),
    },
)
numbers = st.one_of(st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False))
bodies = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
fuzzed = settings(
    max_examples=5,
    phases=[Phase.generate],  # to shrink a case of several processes takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def options(members: dict[str, Any]) -> list[str]:
    given = []
    for member, value in members.items():
        if member == "headers":
            given += [f"--header={name}={text}" for name, text in value.items()]
        else:
            given += [f"--{member.replace('_', '-')}={value}"]
    return given


@fuzzed
@given(st.lists(st.tuples(texts, envelopes), min_size=8, max_size=8))
def test_a_text_is_sent_byte_for_byte_as_ours(shell: Shell, cases: list[tuple[str, dict[str, Any]]]) -> None:
    """Whatever characters are in the body and in the members: the file is the one that Python would have written."""
    for body, members in cases:
        ran = shell.send("bob", *options(members), "--no-sync", stdin=f"{body}\n".encode())
        assert ran.code == 0, ran.err
        id = ran.out.decode().rstrip("\n")
        members = {member: members[member] for member in MEMBERS if members.get(member) not in (None, {})}

        assert raw(shell.root) == encode(id, "alice", "bob", body, members)


@fuzzed
@given(st.lists(st.tuples(bodies, st.booleans(), st.sampled_from([None, 1])), min_size=8, max_size=8))
def test_json_is_sent_as_it_is_meant(shell: Shell, cases: list[tuple[Any, bool, int | None]]) -> None:
    """On one line or many, escaped or not: what arrives is equal, and stands on one line."""
    for body, ascii, indent in cases:
        text = json.dumps(body, ensure_ascii=ascii, indent=indent)
        ran = shell.send("bob", "--json", "--no-sync", stdin=text.encode())
        assert ran.code == 0, ran.err
        data = raw(shell.root)

        assert data.count(b"\n") == 1
        assert repr(decode(data)["body"]) == repr(orjson.loads(text))


@fuzzed
@given(st.data())
def test_what_is_no_json_is_refused(shell: Shell, data: st.DataObject) -> None:
    """JSON with a few characters lost or added: refused where Python's reader would refuse it, else sent as it is read."""
    for _ in range(8):
        text = json.dumps(data.draw(bodies), ensure_ascii=data.draw(st.booleans()))
        for _ in range(data.draw(st.integers(1, 2))):
            at = data.draw(st.integers(0, len(text)))
            more = data.draw(st.sampled_from(["", *'"\\{}[],:01.e-+ \n\tt\x1f\x80']))
            text = text[:at] + more + text[at + data.draw(st.integers(0, 1)) :]
        ran = shell.send("bob", "--json", "--no-sync", stdin=text.encode())
        try:
            wanted = repr(orjson.loads(text))
        except ValueError:
            assert (ran.code, left(shell.root)) == (65, []), text
            continue

        assert ran.code == 0, (text, ran.err)
        assert repr(decode(raw(shell.root))["body"]) == wanted


NUMBERS = {
    "the largest integer": "18446744073709551615",
    "one more is a double": "18446744073709551616",
    "the smallest integer": "-9223372036854775808",
    "one less is a double": "-9223372036854775809",
    "a double at its limit": "1.7976931348623158e308",
    "beyond a double": "1.7976931348623159e308",
    "as many digits as a double can hold": "1" * 309,
    "one digit too many": "1" * 310,
    "tiny": "1e-999999999",
    "nothing at all": "0e999999999",
    "a long fraction": "0." + "1" * 1000,
    "a whole of many digits and a fraction": "9" * 308 + "." + "9" * 200,
    "infinity": "Infinity",
    "no number": "NaN",
    "half a surrogate pair": '"\\ud800"',
    "the wrong half": '"\\udc00"',
    "a pair of high halves": '"\\ud800\\ud800"',
    "half a pair and a letter": '"\\ud800a"',
    "a whole pair": '"\\uD83D\\ude00"',
    "NUL": '"\\u0000"',
    "63 levels": "[" * 63 + "]" * 63,
    "64 levels": "[" * 64 + "]" * 64,
    "two values": "1 2",
    "nothing": "",
    "blanks": " \n",
    "a byte order mark": "\ufeff1",
}


@pytest.mark.parametrize("text", NUMBERS.values(), ids=NUMBERS)
def test_json_at_its_limits(shell: Shell, text: str) -> None:
    """Numbers that a double can just hold, or not; surrogates; depth: as Python's `send --json` has it."""
    try:
        body = orjson.loads(text)
        wanted = repr(decode(encode(names.new_id(), "alice", "bob", body, {}))["body"])
    except ValueError:
        wanted = None
    ran = shell.send("--json", "--no-sync", "--", "bob", text)

    assert ran.code == (65 if wanted is None else 0), ran.err
    assert wanted is None or repr(decode(raw(shell.root))["body"]) == wanted
    assert left(shell.root) == []


def test_a_body_on_standard_input_loses_one_newline(shell: Shell) -> None:
    """As $(…) would; one that is an argument loses none, and "-" is standard input. NUL is a character like others."""
    for body, words, stdin in (
        ("a", ["bob"], b"a\n"),
        ("a\n", ["bob", "-"], b"a\n\n"),
        ("", ["bob"], b"\n"),
        ("", ["bob"], b""),
        ("0\0\0", ["bob"], b"0\0\0"),
        ("x" * 15 + "\n", ["bob"], b"x" * 15 + b"\n\n"),
        ("a\n", ["bob", "a\n"], b""),
        ("", ["bob", ""], b"no"),
        ("--x", ["--", "bob", "--x"], b"no"),
    ):
        assert shell.send(*words, stdin=stdin).code == 0

        assert decode(raw(shell.root))["body"] == body


REFUSED = {
    "nobody to send to": ([], 2),
    "an unknown option": (["--colour", "bob", "x"], 2),
    "an option without its value": (["bob", "x", "--type"], 2),
    "a word too many": (["bob", "x", "y"], 2),
    "an address that is none": (["Bob", "x"], 2),
    "all": (["all", "x"], 2),
    "an address of 65 characters": (["b" * 65, "x"], 2),
    "a sender that is none": (["bob", "x", "--as", "../x"], 2),
    "a header without a value": (["bob", "x", "-H", "a"], 2),
    "a header without a name": (["bob", "x", "-H", "=a"], 2),
    "no span": (["bob", "x", "--ttl", "soon"], 2),
    "a span without an end": (["bob", "x", "--after", "1h30"], 2),
    "an empty span": (["bob", "x", "--ttl="], 2),
    "a body that is not UTF-8": (["bob", b"\xff"], 65),
    "overlong UTF-8": (["bob", b"\xc0\x80"], 65),
    "half a surrogate in UTF-8": (["bob", b"\xed\xa0\x80"], 65),
    "beyond Unicode": (["bob", b"\xf4\x90\x80\x80"], 65),
    "a character that is cut off": (["bob", b"x\xe2\x82"], 65),
    "a subject that is not UTF-8": (["bob", "x", b"--subject=\xe9"], 65),
    "JSON that is not UTF-8": (["bob", "--json", b'"\xe9"'], 65),
    "no such box": (["carol", "x"], 67),
    "no root": (["bob", "x", "--root", "/proc/self"], 69),
    "no folder": (["bob", "x", "--root", "/nowhere"], 69),
}


@pytest.mark.parametrize(("words", "code"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_leaves_nothing_behind(shell: Shell, words: list[object], code: int) -> None:
    """Exit codes are those of `mailbox send`; the reason is a sentence; nothing is delivered, no draft is left."""
    ran = shell.send(*words)

    assert (ran.code, ran.out) == (code, b"")
    assert re.fullmatch(r"mailbox-send: .+\n", ran.err)
    assert left(shell.root, "new", "tmp") == []


def test_whose_mail_it_is_must_be_said(shell: Shell) -> None:
    """--as, or MAILBOX_AGENT."""
    assert shell.send("bob", "x", agent="").code == 2
    assert shell.send("bob", "x", "--as", "alice", agent="").code == 0


MARKERS = {
    "other members are ignored": ('{"by": [{"format": 2}], "format": 1.0}', 0),
    "another format": ('{"format": 2}', 69),
    "a text": ('{"format": "1"}', 69),
    "in another object": ('{"x": {"format": 1}}', 69),
    "no object": ("[1]", 69),
    "no JSON": ('{"format": 1', 69),
}


@pytest.mark.parametrize(("marker", "code"), MARKERS.values(), ids=MARKERS)
def test_the_marker_of_the_root_is_read(shell: Shell, marker: str, code: int) -> None:
    """A root of a format that we do not know is refused."""
    (shell.root / ".mailbox").write_text(marker)

    assert shell.send("bob", "x").code == code
    assert shell.receive().code == code


def test_one_mebibyte_and_not_a_byte_more(shell: Shell) -> None:
    """The limit is that of the file, in bytes."""
    around = len(encode(names.new_id(), "alice", "bob", "", {}))
    body = b"x" * (MAX_SIZE - around)

    assert shell.send("bob", "--no-sync", stdin=body).code == 0
    assert len(raw(shell.root)) == MAX_SIZE
    for more in (body + b"x", b"x" * (3 * MAX_SIZE)):
        ran = shell.send("bob", stdin=more)
        assert (ran.code, left(shell.root, "new", "tmp")) == (65, [])
        assert "1048576 is the limit" in ran.err


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077], ids=oct)
def test_the_umask_does_not_matter(shell: Shell, umask: int) -> None:
    """A message has the mode 0640: see raw()."""
    assert shell.send("bob", "x", umask=umask).code == 0
    raw(shell.root)


@pytest.mark.usefixtures("as_root")
def test_another_user_may_drop_mail_and_nothing_else(shell: Shell, shared: Path) -> None:
    """In a drop box, under a umask of 077: the recipient reads it. Where it may not even write, that is said."""
    root = shared / "mail"
    Mailbox.init("bob", root).close()
    shutil.copytree(HOUSE / "scripts", shared / "scripts")
    command = [*shell.argv, shared / "scripts/mailbox-send", "bob", "hello", "--root", root, "--as", "alice"]
    shutil.copytree(shell.tools, shared / "tools", symlinks=True)
    as_other: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": [], "umask": 0o077, "cwd": "/"}
    as_other["env"] = {"PATH": str(shared / "tools")}
    subprocess.run(command, check=True, **as_other, capture_output=True)

    with Mailbox("bob", root) as bob:
        message = bob.receive()
        assert message is not None
        assert message.body == "hello"
    (root / "bob/tmp").chmod(0o700)
    assert subprocess.run(command, check=False, **as_other, capture_output=True).returncode == 77


def test_a_full_disk_is_told(shell: Shell, tmp_path: Path, mount: Callable[..., Path]) -> None:
    """Exit code 75, and no draft is left, so that it works again once there is room."""
    root = mount(tmp_path / "small")
    Mailbox.init("bob", root).close()
    body = b"x" * 600_000

    assert shell.send("bob", "--root", root, stdin=body).code == 0
    ran = shell.send("bob", "--root", root, stdin=body)
    assert (ran.code, list((root / "bob/tmp").iterdir())) == (75, [])
    assert "the volume is full" in ran.err


def test_standard_input_that_cannot_be_read_sends_nothing(shell: Shell) -> None:
    """Half a body is none."""
    folder = os.open(shell.root, os.O_RDONLY)
    ran = _end(shell.begin("mailbox-send", "bob", stdin=folder))
    os.close(folder)

    assert (ran.code, left(shell.root)) == (74, [])


def test_ids_rise_from_run_to_run_and_with_those_of_python(shell: Shell) -> None:
    """Each run is a writer of its own, and the clock puts them in order: the recipient gets them as they were sent."""
    alice = Mailbox("alice", shell.root, durable=False)
    sent = []
    for number in range(6):
        sent.append(shell.send("bob", number).out.decode().strip())
        sent.append(alice.send("bob", str(number)))
    with Mailbox("bob", shell.root) as bob:
        got = []
        while message := bob.receive():
            got.append(message.id)
            message.ack()

    assert sent == sorted(sent) == got
    assert all(map(names.is_id, sent))
    assert len({id[names.STAMP :] for id in sent}) == 7


def test_a_clock_without_nanoseconds_will_do(dash: Shell) -> None:
    """Then the id has whole seconds, or, where the shell knows them, microseconds."""
    dash.fake("date", "case $2 in *%N*) echo 20261124T014530.%N ;; *) echo 20261124T014530 ;; esac\n")
    dash.allow("sh")

    assert dash.send("bob", "x").out.startswith(b"20261124T014530.000000000Z-")


@pytest.mark.parametrize("text", ["250ms", "30s", "1h30m", "2d", "90", "1.5h", "1w2d3h4m5s6ms", "0"])
def test_spans_of_time_are_those_of_python(dash: Shell, text: str) -> None:
    """--ttl and --after count from the time of sending, to the microsecond."""
    dash.send("bob", "x", "--ttl", text, f"--after={text}")
    data = raw(dash.root)
    members = decode(data)
    message = _as_message(data)

    assert members["expires"] == members["deliver_after"]
    assert message.expires is not None
    assert abs((message.expires - message.sent).total_seconds() - span(text)) < 2e-6
    assert list(members) == ["id", "from", "to", "sent", "expires", "deliver_after", "body"]


def _as_message(data: bytes) -> Any:
    from filemailbox import Message

    members = decode(data)
    return Message(members["id"], members, data, "")


@pytest.mark.parametrize("ringer", ["perl", "python3", "socat"])
def test_it_rings(dash: Shell, ringer: str) -> None:
    """Every bell, also under a long path; whatever else lies in run/ is left alone; a full queue does not keep it."""
    dash.allow(ringer)
    run = dash.root / "bob/run"
    bell, deaf = Bell(str(run)), Bell(str(run))
    os.symlink("/dev/log", run / "abcdefabcdef")
    (run / "status-000000000000.json").write_text("{}")
    gone = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    gone.bind(f"{run}/000000000000")
    gone.close()
    flood = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    flood.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            flood.sendto(b"!", deaf.path)
    flood.close()

    assert dash.send("bob", "x").code == 0
    assert bell.hush()
    bell.close()
    deaf.close()


@pytest.mark.parametrize("ringer", ["perl", "python3", "socat"])
def test_a_bell_may_have_a_long_path(dash: Shell, ringer: str, tmp_path: Path) -> None:
    """Longer than the 107 bytes of a socket's address."""
    dash.allow(ringer)
    root = tmp_path / ("long-" + "x" * 100)
    with Mailbox.init("bob", root):
        bell = Bell(str(root / "bob/run"))
        dash.send("bob", "x", "--root", root)

        assert bell.hush()
        bell.close()


@pytest.mark.parametrize("ringer", ["perl", "python3", "socat"])
def test_a_bell_is_not_rung_through_a_link(dash: Shell, ringer: str, tmp_path: Path) -> None:
    """Nobody makes us ring the socket of somebody else."""
    dash.allow(ringer)
    other = Bell(str(tmp_path))
    (dash.root / "bob/run/abcdefabcdef").symlink_to(other.path)

    assert dash.send("bob", "x").code == 0
    assert not other.hush()
    other.close()


def test_it_flushes_the_file_under_its_new_name(shell: Shell) -> None:
    """Write, rename, then flush: the descriptor that was written to, once it is in new/."""
    log = shell.tools.parent / "log"
    for tool in ("sh", "readlink"):
        (shell.tools / tool).unlink(missing_ok=True)
        shell.allow(tool)
    shell.fake("sync", f'readlink "$1" >{log}\n')
    id = shell.send("bob", "x").out.decode().strip()

    assert log.read_text().startswith(f"{shell.root}/bob/new/{id},S=")
    assert shell.send("bob", "x", "--no-sync").code == 0
    assert id in log.read_text()


def test_a_sync_that_takes_no_file_flushes_all(dash: Shell) -> None:
    """As in an old busybox. And without sync(1) it says that nothing was flushed."""
    log = dash.tools.parent / "log"
    dash.allow("sh")
    dash.fake("sync", f"[ $# -eq 0 ] || exit 1; echo all >{log}\n")
    assert dash.send("bob", "x").code == 0
    assert log.read_text() == "all\n"

    dash.forbid("sync")
    ran = dash.send("bob", "x")
    assert ran.code == 0
    assert "a power cut may lose it" in ran.err
    assert dash.send("bob", "x", "--no-sync").err == ""


def test_a_disk_that_does_not_confirm_is_told(dash: Shell) -> None:
    """The message is there; nobody knows for how long. It must not look like a success."""
    dash.allow("sh")
    dash.fake("sync", "echo \"sync: error syncing '/proc/self/fd/3': Input/output error\" >&2; exit 1\n")
    ran = dash.send("bob", "x")

    assert ran.code == 74
    assert "delivered, but the disk did not confirm it" in ran.err
    assert len(left(dash.root)) == 1


def test_an_answer_goes_to_who_waits_for_it(shell: Shell) -> None:
    """A request of Python's is answered from a shell; an answer that nobody waits for is ordinary mail."""
    with Mailbox("alice", shell.root) as alice, Mailbox("bob", shell.root) as bob:
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(alice.request("bob", "how many?", timeout=PATIENCE)))
        asking.start()
        with bob.receive(timeout=PATIENCE) as request:
            assert request is not None
            shell.send("alice", "3", "--in-reply-to", request.id, agent="bob")
        asking.join()
        assert answers[0].body == "3"
        assert answers[0].in_reply_to == request.id

        shell.send("alice", "late", "--in-reply-to", request.id, agent="bob")
        shell.send("alice", "to a stranger", "--in-reply-to", "../x", agent="bob")
        assert [message.body for message in alice.peek()] == ["late", "to a stranger"]


def test_the_scripts_share_what_reads_json() -> None:
    """Each is one file that is copied where it is needed; what both have is the same in both."""
    pieces = []
    for script in ("mailbox-send", "mailbox-recv"):
        text = (HOUSE / "scripts" / script).read_text()
        start, end = text.index("# JSON, read from"), text.index("function broken(why) { failed = 1; exit }")
        pieces.append(text[start:end])

    assert pieces[0] == pieces[1]


@pytest.mark.parametrize("script", ["mailbox-send", "mailbox-recv"])
def test_the_first_comment_is_the_manual(shell: Shell, script: str) -> None:
    """--help prints it; every option that the script knows stands there."""
    text = (HOUSE / "scripts" / script).read_text()
    ran = _end(shell.begin(script, "--help"))
    known = set(re.findall(r"(?<=[ |])--[a-z][a-z-]+", text.split("\nset -eu\n")[1])) - {"--reply", "--timeout"}

    assert ran.code == 0
    assert ran.out.decode().startswith(f"{script} - ")
    assert known <= set(re.findall(r"--[a-z-]+", ran.out.decode()))
