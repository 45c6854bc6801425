"""The clients for shells: mailbox-send and mailbox-recv, under dash, busybox and bash, with only their small tools.

Python is the judge: what the one sends the other must read, and the other way round.
"""

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from filemailbox import Mailbox
from filemailbox.cli.options import duration
from filemailbox.format.envelope import decode, encode
from filemailbox.format.filename import ID_LENGTH, TIMESTAMP_LENGTH, is_id, parse_filename, stem_of
from filemailbox.settings import MAX_SIZE
from filemailbox.store.ids import new_id, timestamp_now
from filemailbox.wake.doorbell import Bell
from support.disk import left, why
from support.paths import REPO, VECTORS

PATIENCE = 60.0  # seconds after which a shell will not come to an end any more

SENDING = ["awk", "od", "date", "mv", "ls", "id", "cat", "rm", "sync"]
RECEIVING = [*SENDING, "stat", "sort", "rmdir", "mkdir", "mkfifo", "sleep", "timeout", "flock", "tail"]

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
            found = os.path.realpath(sys.executable) if name == "python3" else shutil.which(name)
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
        command: list[str | bytes] = [*self.argv, str(REPO / "scripts" / script), *map(_word, words)]
        return subprocess.Popen(command, env=environment, text=False, **{**pipes, **more})

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


@contextlib.contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[IO[bytes]]:
    """What it prints, while it runs; at the end it is gone."""
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path, root: Path) -> Shell:
    """Each of the shells in turn. With busybox all tools are its own, as far as it has them."""
    return _shell(request.param, tmp_path, root)


@pytest.fixture
def in_turn(request: pytest.FixtureRequest, tmp_path: Path, root: Path) -> Shell:
    """One of the shells, another one for each line of a table."""
    return _shell(SHELLS[zlib.crc32(request.node.name.encode()) % len(SHELLS)], tmp_path, root)


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
    for tool in RECEIVING:
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

# Whatever moves cursors, ends strings or means something to a shell, to awk or printf comes more often than by chance.
AWKWARD = (
    '"\\/\n\t\r\x01\x08\x0c\x1f\x7f\x80\x81\x82\x88\x9f\xad\u061c\u200b'
    "\u2028\u202e\ufeff\ufffd\ud7ff\ue000'`$%&=,~ é€😀\U000e0041\U0010ffff"
)
texts = st.text(st.one_of(st.sampled_from(AWKWARD), st.characters(exclude_categories=["Cs"])), max_size=40)
words = texts.map(lambda text: text.replace("\0", ""))
MEMBERS = (
    "type",
    "subject",
    "thread",
    "in_reply_to",
    "idempotency_key",
    "headers",
)  # in the order in which they are written
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "type": words,
        "subject": words,
        "thread": words,
        "in_reply_to": words,
        "idempotency_key": words,
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
        ran = shell.send("bob", *options(members), "--no-durable", stdin=f"{body}\n".encode())
        assert ran.code == 0, ran.err
        id = ran.out.decode().rstrip("\n")
        written = {member: members[member] for member in MEMBERS if members.get(member) not in (None, {})}
        if written.get("in_reply_to"):
            written = {"thread": written["in_reply_to"], "hops": 1, **written}
        written = {member: written[member] for member in (*MEMBERS, "hops") if member in written}

        assert raw(shell.root) == encode(id, "alice", "bob", body, written)


@fuzzed
@given(st.lists(st.tuples(bodies, st.booleans(), st.sampled_from([None, 1])), min_size=8, max_size=8))
def test_json_is_sent_as_it_is_meant(shell: Shell, cases: list[tuple[Any, bool, int | None]]) -> None:
    """On one line or many, escaped or not: what arrives is equal, and stands on one line."""
    for body, ascii, indent in cases:
        text = json.dumps(body, ensure_ascii=ascii, indent=indent)
        ran = shell.send("bob", "--json-body", "--no-durable", stdin=text.encode())
        assert ran.code == 0, ran.err
        data = raw(shell.root)

        assert data.count(b"\n") == 1
        assert repr(decode(data)["body"]) == repr(orjson.loads(text))


@fuzzed
@given(st.data())
def test_what_is_no_json_is_refused(shell: Shell, data: st.DataObject) -> None:
    """JSON with a few characters lost or added: refused where Python would refuse it, else sent as it is read."""
    for _ in range(8):
        text = json.dumps(data.draw(bodies), ensure_ascii=data.draw(st.booleans()))
        for _ in range(data.draw(st.integers(1, 2))):
            at = data.draw(st.integers(0, len(text)))
            more = data.draw(st.sampled_from(["", *'"\\{}[],:01.e-+ \n\tt\x1f\x80']))
            text = text[:at] + more + text[at + data.draw(st.integers(0, 1)) :]
        ran = shell.send("bob", "--json-body", "--no-durable", stdin=text.encode())
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
def test_json_at_its_limits(in_turn: Shell, text: str) -> None:
    """Numbers that a double can just hold, or not; surrogates; depth: as Python's `send --json-body` has it."""
    try:
        body = orjson.loads(text)
        wanted = repr(decode(encode(new_id(), "alice", "bob", body, {}))["body"])
    except ValueError:
        wanted = None
    ran = in_turn.send("--json-body", "--no-durable", "--", "bob", text)

    assert ran.code == (65 if wanted is None else 0), ran.err
    assert wanted is None or repr(decode(raw(in_turn.root))["body"]) == wanted
    assert left(in_turn.root) == []


def test_a_body_on_standard_input_loses_one_newline(shell: Shell) -> None:
    """As $(…) would; one that is an argument loses none, and "-" is standard input. NUL is a character like others."""
    for body, words, stdin in (
        ("a", ["bob"], b"a\n"),
        ("a\n", ["bob", "-"], b"a\n\n"),
        ("", ["bob"], b"\n"),
        ("", ["bob", "--allow-empty"], b""),
        ("0\0\0", ["bob"], b"0\0\0"),
        ("x" * 15 + "\n", ["bob"], b"x" * 15 + b"\n\n"),
        ("a\n", ["bob", "a\n"], b""),
        ("", ["bob", ""], b"no"),
        ("--x", ["--", "bob", "--x"], b"no"),
        ("--x", ["bob", "--type", "t", "--x"], b"no"),
        ("- first\n- second", ["bob", "- first\n- second", "--as", "alice"], b"no"),
        ("-starts with a dash", ["bob", "-starts with a dash"], b"no"),
        ("--as", ["bob", "--body", "--as"], b"no"),
        ("-x", ["--body=-x", "bob"], b"no"),
    ):
        assert shell.send(*words, stdin=stdin).code == 0

        assert decode(raw(shell.root))["body"] == body


def test_a_body_from_a_file(in_turn: Shell, tmp_path: Path) -> None:
    """It loses its last newline, as standard input does; an empty one is sent if that is wanted."""
    file = tmp_path / "a body"
    file.write_text("one\ntwo\n")
    assert in_turn.send("bob", "--body-file", file).code == 0
    assert decode(raw(in_turn.root))["body"] == "one\ntwo"

    file.write_text("")
    assert in_turn.send("bob", "--body-file", file, "--allow-empty").code == 0
    assert decode(raw(in_turn.root))["body"] == ""


@pytest.mark.parametrize("words", [[], ["-"], ["--json-body"], ["--body-file", "/dev/null"]], ids=" ".join)
def test_an_empty_source_sends_nothing(in_turn: Shell, words: list[str]) -> None:
    """`false | mailbox-send bob`."""
    ran = in_turn.send("bob", *words, stdin=b"")

    assert ran.code == 65
    assert "is empty, expected the body: nothing was sent" in ran.err
    assert "hint: --allow-empty" in ran.err
    assert left(in_turn.root) == []
    assert list((in_turn.root / "bob/new").iterdir()) == []


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
    "no duration": (["bob", "x", "--ttl", "soon"], 2),
    "a duration without an end": (["bob", "x", "--delay", "1h30"], 2),
    "an empty duration": (["bob", "x", "--ttl="], 2),
    "a body that is not UTF-8": (["bob", b"\xff"], 65),
    "overlong UTF-8": (["bob", b"\xc0\x80"], 65),
    "half a surrogate in UTF-8": (["bob", b"\xed\xa0\x80"], 65),
    "beyond Unicode": (["bob", b"\xf4\x90\x80\x80"], 65),
    "a character that is cut off": (["bob", b"x\xe2\x82"], 65),
    "a subject that is not UTF-8": (["bob", "x", b"--subject=\xe9"], 65),
    "JSON that is not UTF-8": (["bob", "--json-body", b'"\xe9"'], 65),
    "no such box": (["carol", "x"], 67),
    "no root": (["bob", "x", "--root", "/proc/self"], 69),
    "no folder": (["bob", "x", "--root", "/nowhere"], 69),
}


@pytest.mark.parametrize(("words", "code"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_leaves_nothing_behind(in_turn: Shell, words: list[object], code: int) -> None:
    """Exit codes are those of `mailbox send`; the reason is a sentence; nothing is delivered, no draft is left."""
    ran = in_turn.send(*words)

    assert (ran.code, ran.out) == (code, b"")
    assert re.fullmatch(r"mailbox-send: .+\n(hint: .+\n)?", ran.err)
    assert left(in_turn.root, "new", "tmp") == []


def test_whose_mail_it_is_must_be_said(shell: Shell) -> None:
    """--as, or MAILBOX_AGENT."""
    assert shell.send("bob", "x", agent="").code == 2
    assert shell.send("bob", "x", "--as", "alice", agent="").code == 0


MARKERS = {
    "other members are ignored": ('{"by": [{"format": 2}], "format": 1.0}', 0),
    "another format": ('{"format": 2}', 69),
    "true, which is no number": ('{"format": true}', 69),
    "a text": ('{"format": "1"}', 69),
    "in another object": ('{"x": {"format": 1}}', 69),
    "no object": ("[1]", 69),
    "no JSON": ('{"format": 1', 69),
}


@pytest.mark.parametrize(("marker", "code"), MARKERS.values(), ids=MARKERS)
def test_the_marker_of_the_root_is_read(in_turn: Shell, marker: str, code: int) -> None:
    """A root of a format that we do not know is refused."""
    (in_turn.root / ".mailbox").write_text(marker)

    assert in_turn.send("bob", "x").code == code
    assert in_turn.receive().code == code


def test_what_a_terminal_obeys_is_never_printed(in_turn: Shell) -> None:
    """Not even when it is the script's own argument that is quoted: who calls it may have it from a stranger."""
    evil = b'\x1b]0;x\x07\xc2\x9b\xe2\x80\xae\xff\\"\n\xc3\xa9'
    ran = [
        in_turn.send(evil, "x"),
        in_turn.send("bob", "x", "y", evil),
        in_turn.receive("--as", evil),
        in_turn.receive(evil),
    ]

    assert [each.code for each in ran] == [2] * 4
    for each in ran:
        assert each.err.rstrip("\n").isprintable()
    assert '\\u001b]0;x\\u0007\\u009b\\u202e?\\"\\né' in ran[0].err


def test_a_folder_full_of_bells_is_not_rung_through(dash: Shell) -> None:
    """Its owner hangs there what he likes: some are rung, the others look by themselves."""
    dash.allow("python3")
    bells = [Bell(str(dash.root / "bob/run")) for _ in range(60)]
    code = dash.send("bob", "x").code
    heard = sum(bell.clear() for bell in bells)
    for bell in bells:
        bell.close()

    assert code == 0
    assert heard == 32


def test_a_key_of_1024_bytes_and_not_a_byte_more(shell: Shell) -> None:
    """Bytes, not characters; and it says so."""
    longest = "é" * 512
    refused = shell.send("bob", "x", "--idempotency-key", f"{longest}k")

    assert refused.code == 2
    assert "--idempotency-key has 1025 bytes, and 1024 is the limit" in refused.err
    assert left(shell.root, "new", "tmp") == []
    assert shell.send("bob", "x", f"--idempotency-key={longest}").code == 0
    assert decode(raw(shell.root))["idempotency_key"] == longest


def test_one_mebibyte_and_not_a_byte_more(shell: Shell) -> None:
    """The limit is that of the file, in bytes."""
    around = len(encode(new_id(), "alice", "bob", "", {}))
    body = b"x" * (MAX_SIZE - around)

    assert shell.send("bob", "--no-durable", stdin=body).code == 0
    assert len(raw(shell.root)) == MAX_SIZE
    for more in (body + b"x", b"x" * (3 * MAX_SIZE)):
        ran = shell.send("bob", stdin=more)
        assert (ran.code, left(shell.root, "new", "tmp")) == (65, [])
        assert "1048576 is the limit" in ran.err


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077], ids=oct)
def test_the_umask_does_not_matter(in_turn: Shell, umask: int) -> None:
    """A message has the mode 0640: see raw()."""
    assert in_turn.send("bob", "x", umask=umask).code == 0
    raw(in_turn.root)


@pytest.mark.usefixtures("as_root")
def test_another_user_may_drop_mail_and_nothing_else(shell: Shell, shared: Path) -> None:
    """In a drop box, under a umask of 077: the recipient reads it. Where it may not even write, that is said."""
    root = shared / "mail"
    Mailbox.init("bob", root).close()
    shutil.copytree(REPO / "scripts", shared / "scripts")
    script = str(shared / "scripts/mailbox-send")
    command = [*shell.argv, script, "bob", "hello", "--root", str(root), "--as", "alice"]
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
    assert all(map(is_id, sent))
    assert len({id[TIMESTAMP_LENGTH:] for id in sent}) == 7


def test_a_clock_without_nanoseconds_will_do(dash: Shell) -> None:
    """Then the id has whole seconds, or, where the shell knows them, microseconds."""
    dash.fake("date", "case $2 in *%N*) echo 20261124T014530.%N ;; *) echo 20261124T014530 ;; esac\n")
    dash.allow("sh")

    assert dash.send("bob", "x").out.startswith(b"20261124T014530.000000000Z-")


@pytest.mark.parametrize("text", ["250ms", "30s", "1h30m", "2d", "90", "1.5h", "1w2d3h4m5s6ms", "0"])
def test_spans_of_time_are_those_of_python(in_turn: Shell, text: str) -> None:
    """--ttl and --delay count from the time of sending, to the microsecond."""
    in_turn.send("bob", "x", "--ttl", text, f"--delay={text}")
    data = raw(in_turn.root)
    members = decode(data)
    message = _as_message(data)

    assert members["expires"] == members["deliver_after"]
    assert message.expires is not None
    assert abs((message.expires - message.sent).total_seconds() - duration(text)) < 2e-6
    assert list(members) == ["id", "from", "to", "sent", "expires", "deliver_after", "body"]


def test_zeros_in_front_make_no_octal(shell: Shell) -> None:
    """As awk of busybox would have it: in spans of time, in the clock and in exponents."""
    shell.fake("date", "echo 20261124T014530.077716000\n")
    shell.send("bob", "x", "--ttl", "010m", "--delay", "017")
    members = decode(raw(shell.root))

    assert members["expires"] == "2026-11-24T01:55:30.077716Z"
    assert members["deliver_after"] == "2026-11-24T01:45:47.077716Z"
    assert shell.send("bob", "--json-body", "1e0310").code == 65
    assert shell.send("bob", "--json-body", "1e0010").code == 0


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
    with contextlib.suppress(BlockingIOError):
        while True:
            flood.sendto(b"!", deaf.path)
    flood.close()

    assert dash.send("bob", "x").code == 0
    assert bell.clear()
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

        assert bell.clear()
        bell.close()


@pytest.mark.parametrize("ringer", ["perl", "python3", "socat"])
def test_a_bell_is_not_rung_through_a_link(dash: Shell, ringer: str, tmp_path: Path) -> None:
    """Nobody makes us ring the socket of somebody else."""
    dash.allow(ringer)
    other = Bell(str(tmp_path))
    (dash.root / "bob/run/abcdefabcdef").symlink_to(other.path)

    assert dash.send("bob", "x").code == 0
    assert not other.clear()
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
    assert shell.send("bob", "x", "--no-durable").code == 0
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
    assert dash.send("bob", "x", "--no-durable").err == ""


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
        request = bob.receive(timeout=PATIENCE)
        assert request is not None
        shell.send("alice", "3", "--in-reply-to", request.id, agent="bob")
        request.ack()
        asking.join()
        assert answers[0].body == "3"
        assert answers[0].in_reply_to == request.id

        shell.send("alice", "late", "--in-reply-to", request.id, agent="bob")
        shell.send("alice", "to a stranger", "--in-reply-to", "../x", agent="bob")
        assert [message.body for message in alice.peek()] == ["late", "to a stranger"]


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("folder", ["tmp", "new", None])
def test_root_follows_no_link_of_the_owner_of_a_box(shell: Shell, tmp_path: Path, folder: str | None) -> None:
    """Root sends to a box of another uid, which has put a link in the place of a folder; or has not."""
    box, victim = shell.root / "bob", tmp_path / "root's own"
    victim.mkdir()
    for path in [box, *box.rglob("*")]:
        os.chown(path, 2002, 2002)
    if folder is not None:
        (box / folder).rename(box / "aside")
        (box / folder).symlink_to(victim)
        os.chown(box / folder, 2002, 2002, follow_symlinks=False)
    ran = shell.send("bob", "hello", agent="alice")

    assert os.listdir(victim) == []
    if folder is None:
        assert ran.code == 0
        assert [json.loads(path.read_bytes())["body"] for path in (box / "new").iterdir()] == ["hello"]
    else:
        assert ran.code == 77
        assert f"its {folder}/ is no folder of the box's owner" in ran.err
    assert [path.name for path in box.glob("tmp/*")] == []


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("what", ["a folder", "a link to a folder of hers", "a link to a folder of his"])
def test_an_answer_goes_into_no_folder_of_a_stranger(shell: Shell, tmp_path: Path, what: str) -> None:
    """Mallory makes the folder of alice's request: the answer goes to new/."""
    request, elsewhere = new_id(), shell.root / "alice/tmp"
    trap = shell.root / "alice/replies" / request
    if what == "a folder":
        trap.mkdir()
        os.chown(trap, 2003, 2003)
    elif what == "a link to a folder of hers":
        trap.symlink_to(elsewhere)
    else:
        elsewhere = tmp_path / "his"
        elsewhere.mkdir()
        os.chown(elsewhere, 2003, 2003)
        trap.symlink_to(elsewhere)
    ran = shell.send("alice", "3", "--in-reply-to", request, agent="bob")

    assert ran.code == 0
    assert len(list((shell.root / "alice/new").iterdir())) == 1
    assert os.listdir(trap) == os.listdir(elsewhere) == []


def test_an_answer_goes_where_its_folder_was_looked_at(dash: Shell) -> None:
    """Its owner may put a link there in the meantime: the rename is within the folder that we are in."""
    request = new_id()
    folder, aside = dash.root / "alice/replies" / request, dash.root / "alice/aside"
    folder.mkdir()
    move, link = shutil.which("mv"), shutil.which("ln")
    dash.fake("mv", f'{move} {folder} {aside} && {link} -s {dash.root}/alice/later {folder} && exec {move} "$@"\n')
    ran = dash.send("alice", "3", "--in-reply-to", request, agent="bob")

    assert ran.code == 0
    assert len(list(aside.iterdir())) == 1
    assert list((dash.root / "alice/later").iterdir()) == []


@pytest.mark.parametrize("where", ["MAILBOX_KEY_DIR", "HOME"])
def test_what_would_have_to_be_signed_is_refused(
    dash: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A key of the sender's is at hand: who has pinned it would make a dead letter of it. Or it says so."""
    folder = tmp_path / "keys" if where == "MAILBOX_KEY_DIR" else tmp_path / "keys/.config/mailbox"
    folder.mkdir(parents=True)
    (folder / "alice.key").touch()
    before = {"PATH": str(dash.tools), "MAILBOX_ROOT": str(dash.root), where: str(tmp_path / "keys")}
    command = [*dash.argv, str(REPO / "scripts/mailbox-send"), "bob", "hello", "--as"]
    said = []
    for agent, more in (("alice", {}), ("alice", {"MAILBOX_SIGN": "0"}), ("carol", {})):
        ran = subprocess.run([*command, agent], check=False, capture_output=True, env=before | more)
        said.append((ran.returncode, b"nothing is signed here" in ran.stderr))

    assert said == [(4, True), (0, False), (0, False)]
    assert len(list((dash.root / "bob/new").iterdir())) == 2


def test_the_scripts_share_what_reads_json() -> None:
    """Each is one file that is copied where it is needed; what both have is the same in both."""
    pieces = []
    for script in ("mailbox-send", "mailbox-recv"):
        text = (REPO / "scripts" / script).read_text()
        start, end = text.index("# JSON, read from"), text.index("function broken(why) { failed = 1; exit }")
        pieces.append(text[start:end])

    assert pieces[0] == pieces[1]


@pytest.mark.parametrize("script", ["mailbox-send", "mailbox-recv"])
def test_the_first_comment_is_the_manual(shell: Shell, script: str) -> None:
    """--help prints it; every option that the script knows stands there."""
    text = (REPO / "scripts" / script).read_text()
    ran = _end(shell.begin(script, "--help"))
    known = set(re.findall(r"(?<=[ |])--[a-z][a-z-]+", text.split("\nset -eu\n")[1])) - {"--reply", "--timeout"}

    assert ran.code == 0
    assert ran.out.decode().startswith(f"{script} - ")
    assert known <= set(re.findall(r"--[a-z-]+", ran.out.decode()))


# Receiving


def drop(root: Path, name: str, data: bytes | str) -> Path:
    """A file in bob's new/."""
    file = root / "bob/new" / name
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    file.chmod(0o640)
    return file


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], object]]]:
    """A FIFO from which a command reads a line, and what lets it go on."""
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    end = os.open(fifo, os.O_RDWR)  # it is open all the time: nobody waits for the other side, and nothing is lost
    yield fifo, lambda: os.write(end, b"go\n")
    os.close(end)


def waits(pid: int) -> bool:
    """Whether a process has taken its SIGTERM and waits for something."""
    facts = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    pending = int(facts["SigPnd"], 16) | int(facts["ShdPnd"], 16)
    return facts["State"].startswith("S") and not pending & 1 << signal.SIGTERM - 1


def notes(root: Path) -> list[str]:
    """What stands beside dead letters, and what is said of things that were removed."""
    return sorted(file.read_text() for file in (root / "bob/dead").glob("*.why"))


@pytest.fixture
def tell(tmp_path: Path) -> Path:
    """A command that tells what it was given, in records; mailbox-recv hides nothing of it."""
    command = tmp_path / "tell"
    facts = " ".join(f'"$MAILBOX_{fact}"' for fact in ("ID", "FROM", "TYPE", "SUBJECT", "ATTEMPT", "TRUST", "FILE"))
    command.write_text(f"#!/bin/sh\nprintf '%s\\0' {facts}\n/bin/cat\nprintf '\\nEND\\n'\n")
    command.chmod(0o755)
    return command


def told(out: bytes) -> list[list[str]]:
    """Per message: id, from, type, subject, attempt, trust, file, body."""
    return [record.decode().split("\0", 7) for record in out.split(b"\nEND\n")[:-1]]


def test_mail_of_python_is_printed_as_it_was_written(shell: Shell, alice: Mailbox) -> None:
    """A line of JSON each, the exact bytes; then it is acked. Without mail nothing, and exit code 0."""
    data: list[bytes] = []
    for body in ('héllo\n"\\\u2028😀', {"a": [1, 2.5, None]}, "x" * 100_000):
        alice.send("bob", body, type="job", headers={"a": "b"})
        data.extend(message.raw for message in Mailbox("bob", shell.root).peek() if message.raw not in data)
    ran = shell.receive("-n", 5)

    assert (ran.code, ran.out) == (0, b"".join(data))
    assert left(shell.root) == []
    assert shell.receive() == Ran(0, b"", "")


def test_a_body_is_printed_alone(shell: Shell, alice: Mailbox) -> None:
    """--body: text as it is, other JSON on a line, of a foreign file what is not its envelope."""
    alice.send("bob", 'a\\n\n\t"\0\x7fé')
    alice.send("bob", {"a": [1, "é"]})
    drop(shell.root, "x.json", ' {"from": "cron",\n "n": [1, 2], "type": 3, "to": "bob", "from": "at"}')
    now = time.time_ns()
    os.utime(shell.root / "bob/new/x.json", ns=(now, now))  # else it may be the tick of some milliseconds before

    assert shell.receive("--body", "-n", 3).out == 'a\\n\n\t"\0\x7fé\n{"a":[1,"é"]}\n{"n":[1,2],"type":3}\n'.encode()


@fuzzed
@given(st.lists(st.tuples(bodies, envelopes), min_size=8, max_size=8))
def test_whatever_python_sends_a_command_gets(
    shell: Shell, tell: Path, cases: list[tuple[Any, dict[str, Any]]]
) -> None:
    """The body on standard input; facts in the environment, without control characters."""
    with Mailbox("alice", shell.root, durable=False) as alice:
        for body, members in cases:
            alice.send("bob", body, **{member: text for member, text in members.items() if member != "idempotency_key"})
    got = told(shell.receive("-n", len(cases), "--", tell).out)

    assert len(got) == len(cases)
    for (body, members), (_, sender, kind, subject, attempt, trust, _, handed) in zip(cases, got, strict=True):
        assert (sender, attempt, trust) == ("alice", "1", "none")
        assert (kind, subject) == (_clean(members.get("type")), _clean(members.get("subject")))
        assert handed == body if isinstance(body, str) else repr(orjson.loads(handed)) == repr(_as_read(body))


def _clean(text: str | None) -> str:
    return re.sub("[\x00-\x1f\x7f-\x9f]", " ", text or "")


def _as_read(body: Any) -> Any:
    return decode(encode(new_id(), "alice", "bob", body, {}))["body"]


def test_every_content_is_judged_as_python_judges_it(dash: Shell, tell: Path) -> None:
    """The vectors of the format: what is mail is handled, with its body; the rest are dead letters with a reason."""
    cases = {}
    for number, vector in enumerate(json.loads((VECTORS / "messages.json").read_text())["messages"]):
        data = vector["text"].encode() if "text" in vector else base64.b64decode(vector["base64"])
        name = f"20261124T014530.{number:09}Z-3f9c0a12b4d5,S={len(data)},N=x.json"  # with N= any id will do
        (dash.root / "bob/later" / f"20261124T014531.000000000Z~{name}").write_bytes(data)
        cases[name] = vector
    ran = dash.receive("-n", len(cases), "--", tell)
    got = {Path(file).name: (sender, body) for _, sender, _, _, _, _, file, body in told(ran.out)}

    for name, vector in cases.items():
        dead, said = dash.root / "bob/dead" / name, vector["about"]
        if "refused" in vector or _done_with(vector["members"]):
            assert dead.exists(), said
            assert name not in got, said
        elif "deliver_after" in vector["members"] and name not in got:
            assert list((dash.root / "bob/later").glob(f"*~{name}")), said
        else:
            sender, body = got[name]
            wanted = vector["members"]["body"]
            assert sender == _clean(vector["members"].get("from")), said
            assert body == wanted if isinstance(wanted, str) else orjson.loads(body) == wanted, said


def _done_with(members: dict[str, Any]) -> bool:
    """Mail, but not to be handled any more."""
    return (members.get("hops") or 0) > 16 or (members.get("expires") or "9") < "2026-11-01"


def test_names_are_taken_apart_as_python_does_it(dash: Shell, tell: Path) -> None:
    """The vectors of the format: ours keep their id, others get a fresh one and their stem as N=."""
    for vector in json.loads((VECTORS / "names.json").read_text())["names"]:
        name = vector["name"]
        if (
            "/" in name
            or "\0" in name
            or len(name.encode()) > 250
            or name.startswith(".")
            or not name.endswith(".json")
        ):
            continue
        parts = parse_filename(name)
        data = b"{}" + b" " * 215
        if parts is not None and parts.size is not None:
            data = data[: parts.size] if 2 <= parts.size <= 217 else data
        drop(dash.root, name, data)
        got = told(dash.receive("--", tell).out)
        if parts is not None and parts.size not in (None, len(data)):
            assert got == [], vector["about"]  # not whole, as far as its name goes
            (dash.root / "bob/new" / name).unlink()
            continue
        (id, *_, file, _), *more = got
        ours = parse_filename(Path(file).name)

        assert ours is not None
        assert more == []
        assert (ours.id, ours.size, ours.attempt) == (id, len(data), 1)
        assert (id == parts.id and ours.stem is None) if parts else ours.stem == stem_of(name), vector["about"]


def test_mail_is_taken_in_the_order_in_which_it_was_sent(shell: Shell, alice: Mailbox) -> None:
    """That of its names, foreign names by the time of the file; from writers whose clock is ahead as well."""
    for number in range(3):
        alice.send("bob", f"{number} ours")
        foreign = drop(shell.root, f"{9 - number}.json", f'{{"body":"{number} foreign"}}')
        now = time.time_ns()
        os.utime(foreign, ns=(now, now))  # else it may be the tick of some milliseconds before
    for number in range(2):
        name = f"20991231T00000{number}.000000000Z-3f9c0a12b4d5.json"
        drop(shell.root, name, f'{{"body":"{number} ahead"}}')
    ran = shell.receive("--body", "-n", 9)

    assert ran.out.decode().splitlines() == [
        *(f"{number} {which}" for number in range(3) for which in ("ours", "foreign")),
        "0 ahead",
        "1 ahead",
    ]


def test_a_name_of_the_very_tick_of_the_clock_waits_for_another_listing(dash: Shell, tmp_path: Path) -> None:
    """The one before it may have come while the listing ran: here when it is over, and before anything is taken."""
    tick, writer = "20261124T014530.123456789Z", "3f9c0a12b4d5"
    drop(dash.root, f"{tick}-{writer}.json", '{"body":"second"}')
    first = tmp_path / f"20261124T014530.123456788Z-{writer}.json"
    first.write_text('{"body":"first"}')
    date, sort, mv = map(shutil.which, ("date", "sort", "mv"))
    dash.fake("date", f'case $* in *%N*) echo {tick[:-1]}.1795484730 ;; *) exec {date} "$@" ;; esac\n')
    dash.fake("sort", f"{sort}; [ ! -e {first} ] || {mv} {first} {dash.root}/bob/new\n")
    ran = dash.receive("--body", "-n", 2)

    assert ran.out.decode().splitlines() == ["first", "second"]


EXITS = {
    "0 is an ack": ("exit 0", "", 0),
    "99 is an ack": ("exit 99", "", 0),
    "75 is later": ("exit 75", "later ", 0),
    "111 is later": ("exit 111", "later ", 0),
    "65 is a dead letter": ("exit 65", "dead the command exited with 65: it can never handle this", 0),
    "100 is a dead letter": ("exit 100", "dead the command exited with 100: it can never handle this", 0),
    "1 is a retry": ("exit 1", "later ,A=2", 0),
    "a signal is a retry": ("kill -9 $$", "later ,A=2", 0),
    "127 is broken": ("exit 127", "later ", 1),
    "126 is broken": ("exit 126", "later ", 1),
}


@pytest.mark.parametrize(("script", "then", "code"), EXITS.values(), ids=EXITS)
def test_a_command_settles_by_its_exit(in_turn: Shell, alice: Mailbox, script: str, then: str, code: int) -> None:
    """The codes of `mailbox watch`; what comes back comes back under its id."""
    id = alice.send("bob", "x" * 100_000)
    ran = in_turn.receive("--", "/bin/sh", "-c", script)
    where, _, what = then.partition(" ")
    size = 100_000 + len(encode(id, "alice", "bob", "", {}))

    assert ran.code == code, ran.err
    if where == "later":
        (file,) = (in_turn.root / "bob/later").iterdir()
        assert file.name.partition("~")[2] == f"{id},S={size}{what}.json"
        assert file.name > timestamp_now()
    else:
        assert left(in_turn.root) == []
        assert notes(in_turn.root) == ([what + "\n"] if where == "dead" else [])


def test_a_command_that_is_not_there_burns_no_mail(shell: Shell, alice: Mailbox) -> None:
    """A typo puts the message back, uncounted, and is said loudly."""
    alice.send("bob", "x")
    ran = shell.receive("--", "/no/such/command")

    assert ran.code == 1
    assert "the command is broken" in ran.err
    assert [name.count("A=") for name in left(shell.root, "later")] == [0]


def test_the_tenth_attempt_is_the_last(shell: Shell, alice: Mailbox) -> None:
    """Then it is a dead letter, which says why."""
    id = alice.send("bob", "x")
    name = next((shell.root / "bob/new").iterdir()).name.removesuffix(".json")
    later = shell.root / "bob/later" / f"20261124T014530.000000000Z~{name},A=10.json"
    (shell.root / "bob/new" / f"{name}.json").rename(later)
    shell.receive("--", "/bin/sh", "-c", "exit 3")

    assert why(shell.root) == "the command exited with 3 (attempt 10 of 10)\n"
    assert [file.name[:ID_LENGTH] for file in (shell.root / "bob/dead").glob("*.json")] == [id]


def test_what_killed_its_consumers_is_a_dead_letter(shell: Shell, alice: Mailbox) -> None:
    """Taken ten times and never settled: it is not tried again."""
    alice.send("bob", "x")
    (file,) = (shell.root / "bob/new").iterdir()
    file.rename(shell.root / "bob/later" / f"20261124T014530.000000000Z~{file.stem},A=11.json")

    assert shell.receive("--body").out == b""
    assert why(shell.root) == "it was claimed 10 times and never settled: each consumer died\n"


def test_what_the_envelope_asks_for_is_done(shell: Shell, alice: Mailbox) -> None:
    """Expired mail is a dead letter; mail for later waits until then; a chain of answers ends."""
    alice.send("bob", "expired", ttl=0)
    alice.send("bob", "for later", delay=3600)
    alice.send("bob", "the last answer", hops=16)
    alice.send("bob", "one too many", hops=17)
    ran = shell.receive("--body", "-n", 4)
    with Mailbox("bob", shell.root) as bob:
        (later,) = bob.peek("later")

        assert ran.out == b"the last answer\n"
        assert [note.split(" at ")[0] for note in notes(shell.root)] == [
            "it expired",
            "it is reply number 17 in a row, and the limit is 16\n",
        ]
        assert later.due == later.deliver_after


def test_a_time_far_off_is_read_to_the_microsecond(shell: Shell, alice: Mailbox) -> None:
    """Its seconds are a number without an 8 or a 9: with zeros in front, awk of busybox would see octal digits."""
    alice.send("bob", "for later", delay=datetime(2031, 10, 6, 17, 58, 31, 20517, UTC))
    shell.receive("--body", "-n", 1)
    with Mailbox("bob", shell.root) as bob:
        (later,) = bob.peek("later")

        assert later.due == later.deliver_after


def test_mail_that_has_come_due_is_taken_first(shell: Shell, alice: Mailbox) -> None:
    """As it is called in later/, with its attempts."""
    alice.send("bob", "waits")
    alice.send("bob", "came back")
    name = sorted(left(shell.root, "new"))[1]
    back = f"20261124T014530.000000000Z~{name.removesuffix('.json')},A=3,R=1.json"
    (shell.root / "bob/new" / name).rename(shell.root / "bob/later" / back)

    assert shell.receive("--body", "-n", 2).out == b"came back\nwaits\n"


def test_one_key_is_handled_once(shell: Shell, alice: Mailbox) -> None:
    """Whoever of the two handled the first: they share the ledger."""
    key = 'a "key"\n\u2028\x7fé😀'
    for first, second in ((shell.receive, Mailbox.receive), (Mailbox.receive, shell.receive)):
        key += "!"
        with Mailbox("bob", shell.root) as bob:
            for take in (first, second):
                alice.send("bob", "x", idempotency_key=key)
                alice.send("bob", "y", idempotency_key=f"{key} another")
                if take is Mailbox.receive:
                    got = [bob.receive(), bob.receive()]
                    count = sum(message is not None for message in got)
                    for message in got:
                        if message is not None:
                            message.ack()
                else:
                    count = shell.receive("-n", 4).out.count(b"\n")

                assert count == (2 if take is first else 0)
        assert left(shell.root) == []


def test_a_key_that_is_too_long_to_be_remembered_is_a_dead_letter(shell: Shell, tell: Path) -> None:
    """In bytes of UTF-8, however it is written in JSON."""
    longest = "é" * 508 + '\n"\\\x01\u2028k'
    for key, body in ((longest, "x"), (f"{longest}k", "y")):
        data = json.dumps({"idempotency_key": key, "body": body})
        drop(shell.root, f"{new_id()},S={len(data)}.json", data)
    got = told(shell.receive("-n", 2, "--", tell).out)

    assert len(longest.encode()) == 1024
    assert [body for *_, body in got] == ["x"]
    assert "1025 bytes, and 1024 is the limit" in why(shell.root)


def test_a_forgotten_key_is_a_dead_letter(dash: Shell, alice: Mailbox) -> None:
    """What is not younger than the floor may have been handled: nobody knows."""
    alice.send("bob", "x", idempotency_key="k")
    (dash.root / "bob/ledger/none-alice.jsonl").write_text(f'{{"floor":"{timestamp_now()}"}}\n{{"torn')

    assert dash.receive().out == b""
    assert "it may have been handled already" in why(dash.root)


def test_a_torn_line_in_the_ledger_hides_none(dash: Shell, alice: Mailbox) -> None:
    """A crash cut it off: the next one begins on a line of its own."""
    (dash.root / "bob/ledger/none-alice.jsonl").write_text('{"torn')
    alice.send("bob", "x", idempotency_key="k")
    dash.receive()
    alice.send("bob", "x", idempotency_key="k")
    with Mailbox("bob", dash.root) as bob:
        assert bob.receive() is None


# Two messages under one name


MET = "20261124T014530.123456789Z-3f9c0a12b4d5"


def met(root: Path, text: str, **members: Any) -> Path:
    """A message in bob's new/ whose sender chose its id."""
    data = encode(MET, "alice", "bob", text, members)
    path = root / f"bob/new/{MET},S={len(data)}.json"
    path.write_bytes(data)
    return path


def test_what_was_put_off_is_not_replaced(shell: Shell) -> None:
    """The same id, size and due time: another message gets a fresh id, the same one is there once."""
    due = datetime(2031, 10, 6, 17, 58, 31, 20517, UTC).isoformat()
    for text in ("one", "two", "one"):
        met(shell.root, text, deliver_after=due)
        shell.receive()
    later = {path.read_bytes().partition(b'"body":')[2][:5]: path.name for path in (shell.root / "bob/later").iterdir()}

    assert set(later) == {b'"one"', b'"two"'}
    assert later[b'"one"'].split("~")[1].startswith(MET)
    assert f",N={MET}_S_" in later[b'"two"']
    assert left(shell.root, "new") == left(shell.root, "dead") == []


def test_a_dead_letter_is_not_replaced(shell: Shell) -> None:
    """As in Python: a fresh id for another one."""
    for text in ("one", "two", "one"):
        met(shell.root, text)
        shell.receive("--", "/bin/sh", "-c", "exit 65")
    dead = list((shell.root / "bob/dead").glob("*.json"))

    assert sorted(path.read_bytes().partition(b'"body":')[2][:5] for path in dead) == [b'"one"', b'"two"']
    assert all(path.with_suffix(".why").exists() for path in dead)


def test_what_the_dead_held_replaces_nothing_in_later(dash: Shell) -> None:
    """In the folders of two consumers, recovered while the clock stands still."""
    shell, date = dash, shutil.which("date")
    for number, text in enumerate(("one", "two")):
        folder = shell.root / f"bob/cur/{number:012x}"
        folder.mkdir()
        (folder / ".lock").touch()
        path = met(shell.root, text)
        path.rename(folder / path.name)
    still = "echo 20261201T000000.000000000.1796083200"
    shell.fake("date", f'case $2 in -d) exec {date} "$@" ;; esac\n{still}\n')

    assert sorted(shell.receive("--body", "-n", 2).out.split()) == [b"one", b"two"]


def test_what_a_client_reserved_and_left_is_removed(shell: Shell) -> None:
    """It died between the two steps of a move: an empty file is no dead letter."""
    (shell.root / f"bob/later/20261124T014530.000000000Z~{MET},S=10.json").touch()

    assert shell.receive().out == b""
    assert left(shell.root, "later") == left(shell.root, "dead") == []


def test_a_retry_that_a_wrong_clock_put_off_comes_back(shell: Shell) -> None:
    """And one that may wait so long waits."""
    for text, fields in (("wrong", ",A=2"), ("asked for", ",A=2,W=999999999"), ("deferred", "")):
        path = met(shell.root, text)
        path.rename(shell.root / f"bob/later/20310101T000000.000000000Z~{path.stem}{fields}.json")
    got = shell.receive("--body", "-n", 3).out

    assert got == b"wrong\n"
    assert len(left(shell.root, "later")) == 2


def test_a_deferred_retry_says_how_long_it_waits(in_turn: Shell) -> None:
    """Else the next look would take it for the work of a wrong clock."""
    due = datetime(2031, 10, 6, 17, 58, 31, 20517, UTC)
    path = met(in_turn.root, "x", deliver_after=due.isoformat())
    path.rename(in_turn.root / f"bob/later/20261124T014530.000000000Z~{path.stem},A=2.json")
    in_turn.receive()
    (name,) = left(in_turn.root, "later")
    parts = parse_filename(name.split("~")[1])

    assert parts is not None
    assert parts.attempt == 2
    assert abs(parts.wait - (due - datetime.now(UTC)).total_seconds()) < 3600
    with Mailbox("bob", in_turn.root) as bob:
        assert bob.receive() is None
    assert left(in_turn.root, "later") == [name]


def test_a_stamp_that_is_to_come_is_noted_as_now(in_turn: Shell) -> None:
    """Else strangers could make a floor that condemns all keyed mail; and such a floor counts for nothing."""
    (in_turn.root / "bob/ledger/none-_.jsonl").write_text('{"floor":"99991231T235959.999999999Z"}\n')
    data = b'{"from":"mallory","idempotency_key":"k","body":"x"}'
    (in_turn.root / f"bob/new/99991231T235959.000000000Z-0123456789ab,S={len(data)}.json").write_bytes(data)

    assert in_turn.receive("--body").out == b"x\n"
    (_, line) = (in_turn.root / "bob/ledger/none-_.jsonl").read_text().splitlines()
    assert json.loads(line)["sent"] <= timestamp_now()


# One consumer among others


def test_what_it_holds_is_nobody_elses_until_it_is_killed(
    shell: Shell, alice: Mailbox, bob: Mailbox, gate: tuple[Path, Callable[[], object]]
) -> None:
    """kill -9: then a consumer in Python takes it over, as the second attempt, though the command still runs."""
    fifo, go_on = gate
    id = alice.send("bob", "x" * 200_000)  # more than a pipe holds: the shell that writes it is left hanging, too
    process = shell.begin("mailbox-recv", "--", "/bin/sh", "-c", f"echo; read -r line <{fifo}", agent="bob")
    with running(process) as out:
        out.readline()
        assert bob.receive(timeout=1) is None
        process.kill()
        process.wait()
        again = bob.receive(timeout=PATIENCE)
        go_on()

    assert again is not None
    assert (again.id, again.attempt) == (id, 2)
    again.ack()


def test_it_takes_over_what_a_killed_consumer_held(
    shell: Shell, alice: Mailbox, start: Callable[..., Any], until: Callable[[Callable[[], object]], None]
) -> None:
    """The other way round; while that one lives it is left alone."""
    id = alice.send("bob", "x")
    program = start(
        "import sys; from filemailbox import Mailbox\n"
        "message = Mailbox('bob', sys.argv[1]).receive(timeout=30); print(message.id); sys.stdin.read()",
        shell.root,
    )
    assert program.line() == id
    assert shell.receive("--wait", "200ms").code == 124
    program.kill()
    ran = shell.receive("--wait", f"{PATIENCE:.0f}s", "--", "/bin/sh", "-c", 'echo "$MAILBOX_ID $MAILBOX_ATTEMPT"')

    assert ran.out.decode() == f"{id} 2\n"


def test_several_share_the_mail(shell: Shell, alice: Mailbox) -> None:
    """Each message is handled by one of them."""
    ids = alice.send_many("bob", map(str, range(20)))
    crowd = [shell.begin("mailbox-recv", "-n", 20, agent="bob") for _ in range(3)]
    got = [json.loads(line)["id"] for process in crowd for line in _end(process).out.splitlines()]

    assert sorted(got) == ids


def test_no_folder_is_made_where_one_is_free(shell: Shell, bob: Mailbox) -> None:
    """The first consumer's is there from the start; where it is taken, another is made and can be taken over."""
    (first,) = (shell.root / "bob/cur").iterdir()
    shell.receive()
    assert list((shell.root / "bob/cur").iterdir()) == [first]

    bob.receive()  # takes that one
    shell.receive()
    folders = sorted((shell.root / "bob/cur").iterdir())
    assert len(folders) == 2
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    assert all(re.fullmatch("[0-9a-f]{12}", folder.name) for folder in folders)


def test_a_lease_is_left_alone_until_it_ends(shell: Shell, alice: Mailbox) -> None:
    """Its lock is free, and yet it is not."""
    alice.send("bob", "x")
    with Mailbox("bob", shell.root, lease=3600) as bob:
        assert bob.receive() is not None
    assert shell.receive().out == b""
    (lease,) = (folder for folder in (shell.root / "bob/cur").iterdir() if ",U=" in folder.name)
    lease.rename(lease.with_name(f"{lease.name[:12]},U=20261101T000000.000000000Z"))

    assert shell.receive("-n", 2, "--body").out == b"x\n"


@pytest.mark.parametrize("notified", [True, False], ids=["inotifywait", "polling"])
def test_it_waits_for_mail(shell: Shell, alice: Mailbox, notified: bool) -> None:
    """With inotifywait, where that is installed, or without. It follows until it is told to stop."""
    if notified:
        shell.allow("inotifywait")
    process = shell.begin("mailbox-recv", "--follow", "--body", agent="bob")
    with running(process) as out:
        for number in range(3):
            alice.send("bob", f"number {number}")
            assert out.readline() == f"number {number}\n".encode()
        drop(shell.root, "x.json", '{"body":"foreign"}')
        assert out.readline() == b"foreign\n"
        process.terminate()

        assert process.wait(PATIENCE) == 0
    assert left(shell.root) == []


def test_nothing_in_time_is_124(shell: Shell) -> None:
    """As with `mailbox receive --wait`."""
    assert shell.receive("--wait", "100ms") == Ran(124, b"", "")


def test_told_to_stop_it_finishes_what_it_has_in_hand(
    shell: Shell, alice: Mailbox, gate: tuple[Path, Callable[[], object]], until: Callable[[Callable[[], object]], None]
) -> None:
    """SIGTERM: the command may end and settles its message; no further one is taken.

    bash 5.2 forgets how a command ended that ends soon after the signal, in one of some fifteen runs like this one.
    """
    fifo, go_on = gate
    alice.send("bob", "first")
    alice.send("bob", "second")
    command = ["/bin/sh", "-c", f"echo here; read -r line <{fifo}"]
    process = shell.begin("mailbox-recv", "--follow", "--", *command, agent="bob")
    with running(process) as out:
        out.readline()
        process.terminate()
        until(lambda: waits(process.pid))
        go_on()

        assert process.wait(PATIENCE) == 0
    assert [message.body for message in Mailbox("bob", shell.root).peek()] == ["second"]


def test_told_twice_it_ends_the_command(
    shell: Shell, alice: Mailbox, until: Callable[[Callable[[], object]], None]
) -> None:
    """Then the message goes back, and the attempt is not counted."""
    alice.send("bob", "x")
    process = shell.begin("mailbox-recv", "--follow", "--", "/bin/sh", "-c", "echo here; exec sleep 600", agent="bob")
    with running(process) as out:
        out.readline()

        def told() -> bool:
            process.terminate()
            return process.poll() is not None

        until(told)
        assert process.returncode == 0
    (message,) = Mailbox("bob", shell.root).peek()
    assert (message.state, message.attempt) == ("later", 1)


def test_a_command_is_given_no_signals_that_we_ignore_and_no_files_of_ours(shell: Shell, alice: Mailbox) -> None:
    """It ends at a hangup or when it is told to, and what it leaves running holds neither our lock nor our pipe."""
    alice.send("bob", "x")
    tell = 'cat /proc/self/status; for each in /proc/self/fd/*; do echo "fd: $(readlink $each)"; done'
    out = shell.receive("--", "/bin/sh", "-c", f"PATH={os.environ['PATH']}; {tell}").out.decode()
    facts = [line.partition(":")[::2] for line in out.splitlines()]
    ignored = next(int(value, 16) for fact, value in facts if fact == "SigIgn")
    ours = [number for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1) if ignored & 1 << number - 1]

    assert [number for number in ours if signal.getsignal(number) != signal.SIG_IGN] == []  # as under nohup
    assert [value for fact, value in facts if fact == "fd" and str(shell.root) in value] == []


def test_it_goes_without_a_pipe_of_its_own(shell: Shell, alice: Mailbox, tell: Path) -> None:
    """Where there is no mkfifo, or nothing can be made in tmp/; how a command ends is known, unless a signal comes."""
    (shell.tools / "mkfifo").unlink()
    alice.send("bob", "x")
    alice.send("bob", "y")

    assert [body for *_, body in told(shell.receive("-n", 2, "--", tell).out)] == ["x", "y"]
    assert shell.receive("--", "/bin/sh", "-c", "exit 3") == Ran(0, b"", "")
    assert left(shell.root) == []


def test_a_reader_that_has_left_costs_no_mail(shell: Shell, alice: Mailbox) -> None:
    """As in `mailbox-recv --follow | head -1`: what it was not given goes back, uncounted."""
    alice.send("bob", "x")
    read, write = os.pipe()
    os.close(read)
    process = shell.begin("mailbox-recv", "--follow", agent="bob", stdout=write)
    os.close(write)

    assert _end(process).code == 0
    (message,) = Mailbox("bob", shell.root).peek()
    assert (message.state, message.attempt) == ("later", 1)


def test_a_full_disk_behind_standard_output_costs_no_mail(shell: Shell, alice: Mailbox) -> None:
    """Exit code 74, and the message goes back."""
    alice.send("bob", "x")
    with open("/dev/full", "wb") as full:
        ran = _end(shell.begin("mailbox-recv", agent="bob", stdout=full))

    assert ran.code == 74
    assert [message.attempt for message in Mailbox("bob", shell.root).peek("later")] == [1]


def test_two_scripts_that_answer_each_other_come_to_an_end(shell: Shell, alice: Mailbox) -> None:
    """As replies do: mailbox-send --in-reply-to counts on, and keeps the thread."""
    send = f"{' '.join(shell.argv)} {REPO}/scripts/mailbox-send --as bob alice again"
    script = ("/bin/sh", "-c", f'exec {send} --in-reply-to "$MAILBOX_ID"')
    last = alice.send("bob", "15", hops=15, thread="chat")
    ran = shell.receive("--", *script)
    answer = alice.receive()
    alice.send("bob", "16", hops=16)
    refused = shell.receive("--", *script)

    assert ran.code == 0
    assert answer is not None
    assert (answer.in_reply_to, answer.thread, answer.hops) == (last, "chat", 16)
    assert "limit is 16" in refused.err
    assert alice.receive() is None


OTHER = "20261124T014530.123456789Z-3f9c0a12b4d5"


def test_an_answer_to_an_unknown_message_is_the_first(shell: Shell, alice: Mailbox) -> None:
    """Its thread is the message that it answers; --thread comes first."""
    shell.send("alice", "x", "--in-reply-to", OTHER)
    shell.send("alice", "y", "--in-reply-to", OTHER, "--thread", "chat")
    answers = [alice.receive(), alice.receive()]

    assert [(each.thread, each.hops) for each in answers if each is not None] == [(OTHER, 1), ("chat", 1)]


def test_the_settings_of_the_box_hold_in_a_shell(shell: Shell, alice: Mailbox) -> None:
    """Attempts, and handled mail that is kept."""
    Mailbox.init("bob", shell.root, max_attempts=1, retention=60).close()
    alice.send("bob", "works")
    shell.receive("--", "/bin/sh", "-c", "exit 0")
    alice.send("bob", "fails")
    shell.receive("--", "/bin/sh", "-c", "exit 1")
    with Mailbox("bob", shell.root) as bob:
        found = [(message.state, message.body) for message in bob.peek("done", "dead", "later")]

    assert found == [("done", "works"), ("dead", "fails")]


def test_sealed_mail_of_a_box_with_a_key_ends_it(shell: Shell) -> None:
    """With 4, and the mail is left; a box that never had a key goes on."""
    Mailbox.init("bob", shell.root).close()
    (shell.root / "bob/settings.json").write_text('{"keys":true}')
    drop(shell.root, f"{new_id()}.json", '{"v":1,"sealed":{"alg":"mbx1"}}')
    ran = shell.receive("--follow")
    with Mailbox("bob", shell.root) as bob:
        states = [message.state for message in bob.peek("new", "later", "cur", "dead")]

    assert ran.code == 4
    assert "no key" in ran.err
    assert states == ["later"]


def test_sealed_mail_is_not_for_a_shell(shell: Shell) -> None:
    """It cannot be opened here: it goes back, for others."""
    drop(shell.root, f"{new_id()}.json", '{"v":1,"sealed":{"alg":"mbx1"}}')
    ran = shell.receive()

    assert (ran.code, ran.out) == (0, b"")
    assert "is sealed" in ran.err
    assert len(left(shell.root, "later")) == 1


# Hostile files


def _link(place: Path) -> None:
    place.symlink_to("/etc/passwd")


def _dangling(place: Path) -> None:
    place.symlink_to("/nowhere")


def _fifo(place: Path) -> None:
    os.mkfifo(place)


def _socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(f"/proc/self/fd/{os.open(place.parent, os.O_PATH)}/{place.name}")


def _folder(place: Path) -> None:
    place.mkdir()


def _huge(place: Path) -> None:
    place.touch()
    os.truncate(place, 1 << 40)


HOSTILE = {
    "a symbolic link": (_link, "it is a symbolic link, not a file: it was removed"),
    "a link to nothing": (_dangling, "it is a symbolic link, not a file: it was removed"),
    "a FIFO": (_fifo, "it is a FIFO, not a file: it was removed"),
    "a socket": (_socket, "it is a socket, not a file: it was removed"),
    "an empty folder": (_folder, "it is a folder, not a file: it was removed"),
    "a huge file": (_huge, "it has 1099511627776 bytes, and 1048576 is the limit"),
}


@pytest.mark.parametrize("name", ["x.json", "20261124T014530.123456789Z-3f9c0a12b4d5,S=9.json", "a\nb\x1b[2J.json"])
@pytest.mark.parametrize(("make", "note"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_mail_keeps_nobody(
    in_turn: Shell, alice: Mailbox, make: Callable[[Path], None], note: str, name: str
) -> None:
    """It is taken away, with a note, and the mail behind it is handled."""
    make(in_turn.root / "bob/new" / name)
    alice.send("bob", "good")

    assert in_turn.receive("--body", "-n", 2).out == b"good\n"
    assert left(in_turn.root, "new", "cur", "later") == []
    assert [text.splitlines()[0] for text in notes(in_turn.root)] == [note]


def test_a_flood_of_what_is_no_file_costs_a_look_a_hundred_tries(dash: Shell, alice: Mailbox) -> None:
    """Full folders under names of mail: the mail comes before any of them, and they are not tried all at once."""
    tries = dash.root / "tries"
    dash.allow("sh")
    dash.fake("rmdir", f"ls {dash.root}/bob/new | grep -c S= >>{tries}; exit 1\n")
    for n in range(250):
        (dash.root / f"bob/new/{n:03d}.json/x").mkdir(parents=True)
    dash.allow("grep")
    alice.send("bob", "good")

    assert dash.receive("--body", "-n", 9).out == b"good\n"
    assert tries.read_text().split() == ["0"] * len(tries.read_text().split())
    assert 0 < len(tries.read_text().split()) <= 200
    assert len(list((dash.root / "bob/new").iterdir())) == 250


def test_what_is_not_whole_yet_is_left_alone(shell: Shell, alice: Mailbox) -> None:
    """Half a foreign file, a size that is not that of the name, a second link: somebody may still be at work on it."""
    drop(shell.root, "half.json", '{"from":"x","bo')
    drop(shell.root, f"{new_id()},S=9.json", "{}")
    linked = drop(shell.root, "linked.json", "{}")
    os.link(linked, shell.root / "elsewhere")
    (shell.root / "bob/new/full.json").mkdir()
    (shell.root / "bob/new/full.json/x").touch()
    drop(shell.root, ".hidden.json", "{}")
    drop(shell.root, "note.txt", "{}")
    before = sorted((shell.root / "bob/new").iterdir())
    alice.send("bob", "good")

    assert shell.receive("--body", "-n", 9) == Ran(0, b"good\n", "")
    assert sorted((shell.root / "bob/new").iterdir()) == before
    assert notes(shell.root) == []


def test_what_stays_half_is_a_dead_letter(dash: Shell) -> None:
    """Once it has been still for five seconds."""
    stat = shutil.which("stat")
    dash.allow("sh")
    dash.fake("stat", f'set -- $({stat} "$@"); [ $# -ne 4 ] || set -- "$1" "$2" "$3" $(($4 - 7)); echo "$@"\n')
    drop(dash.root, "half.json", '{"from":"x","bo')
    drop(dash.root, f"{new_id()},S=9.json", "{}")
    os.link(drop(dash.root, f"{new_id()},S=2.json", "{}"), dash.root / "elsewhere")

    assert dash.receive("-n", 9).out == b""
    assert [note.splitlines()[0] for note in notes(dash.root)] == [
        "it has 2 bytes and its name has S=9: it is not complete",
        "it has 2 links: another process can still change it",
        "not JSON: it is cut off",
    ]
    assert sorted(name.partition(",N=")[2] for name in left(dash.root, "dead")) == ["", "", "half.json"]


def test_a_name_of_ours_that_is_no_json_is_a_dead_letter_at_once(shell: Shell) -> None:
    """Its size says that it is whole. The file is untouched; its note is private."""
    name = f"{new_id()},S=4.json"
    drop(shell.root, name, "nope")

    assert shell.receive().out == b""
    assert (shell.root / "bob/dead" / name).read_text() == "nope"
    (note,) = (shell.root / "bob/dead").glob("*.why")
    assert note.read_text().startswith("not JSON: ")
    assert note.stat().st_mode & 0o777 == 0o600


def test_two_files_of_one_foreign_name_never_meet(shell: Shell) -> None:
    """Also not as dead letters."""
    for _ in range(2):
        drop(shell.root, "x.json", '{"body":1,"from":2}')
        os.utime(shell.root / "bob/new/x.json", (0, 0))
        drop(shell.root, f"{new_id()}.json", "{}")
        shell.receive("-n", 9, "--", "/bin/sh", "-c", "exit 65")
        (shell.root / "bob/new/x.json").unlink(missing_ok=True)

    assert len(left(shell.root, "dead")) == len(notes(shell.root)) == 2


def test_fields_that_a_sender_made_up_are_dropped(shell: Shell, tell: Path) -> None:
    """Attempts and requeues are believed only where no sender can write."""
    id = new_id()
    drop(shell.root, f"{id},S=2,A=5,R=3,N=x.json", "{}")
    ((got, *_, attempt, _, file, _),) = told(shell.receive("--", tell).out)

    assert (got, attempt, Path(file).name) == (id, "1", f"{id},S=2.json")


@pytest.mark.usefixtures("as_root")
def test_what_its_mode_hides_is_a_dead_letter(dash: Shell, shared: Path) -> None:
    """A recipient that may not read it says so; and nobody takes mail out of the box of another user."""
    root = shared / "mail"
    with Mailbox.init("bob", root):
        pass
    for path in [root / "bob", *(root / "bob").rglob("*")]:
        os.chown(path, 65534, 65534)
    shutil.copytree(REPO / "scripts", shared / "scripts")
    shutil.copytree(dash.tools, shared / "tools", symlinks=True)
    (root / "bob/new/x.json").write_text("{}")
    (root / "bob/new/x.json").chmod(0o600)
    command = [*dash.argv, str(shared / "scripts/mailbox-recv"), "--root", str(root), "--as", "bob"]
    environment = {"PATH": str(shared / "tools")}

    assert subprocess.run(command, env=environment, check=False, capture_output=True).returncode == 77
    ran = subprocess.run(
        command, env=environment, user=65534, group=65534, extra_groups=[], cwd="/", check=True, capture_output=True
    )
    assert ran.stdout == b""
    assert why(root).startswith("its mode keeps it from its recipient: it must be 0640 or 0644\n")


# What it needs

WRONG = {
    "nobody": (["--as", ""], 2),
    "a name that is none": (["--as", "B"], 2),
    "no number": (["-n", "0"], 2),
    "no duration": (["--wait", "soon"], 2),
    "no command after --": (["--"], 2),
    "a word too many": (["x"], 2),
    "an unknown option": (["--colour"], 2),
    "no such box": (["--as", "carol"], 67),
    "no root": (["--root", "/proc/self"], 69),
}


@pytest.mark.parametrize(("words", "code"), WRONG.values(), ids=WRONG)
def test_what_is_asked_wrongly_is_refused(in_turn: Shell, words: list[str], code: int) -> None:
    """With the exit codes of `mailbox receive`, a sentence, and often a hint."""
    ran = in_turn.receive(*words)

    assert (ran.code, ran.out) == (code, b"")
    assert re.fullmatch(r"mailbox-recv: .+\n(hint: .+\n)?", ran.err)


def test_without_flock_it_refuses(dash: Shell, alice: Mailbox) -> None:
    """For others would take what it holds."""
    alice.send("bob", "x")
    dash.forbid("flock")
    ran = dash.receive()

    assert ran.code == 1
    assert "there is no flock(1)" in ran.err
    assert len(left(dash.root, "new")) == 1


def test_without_awk_no_mail_is_condemned(dash: Shell, alice: Mailbox) -> None:
    """Our own trouble is not the message's fault: it goes back."""
    alice.send("bob", "x")
    dash.allow("sh")
    dash.fake("awk", "exit 1\n")
    dash.receive()

    assert len(left(dash.root, "later")) == 1
    assert notes(dash.root) == []


@pytest.mark.usefixtures("as_root")
def test_what_cannot_be_moved_is_left_alone(dash: Shell, alice: Mailbox, tmp_path: Path) -> None:
    """A file that something is mounted on: it stays, and stops nobody."""
    (tmp_path / "other").write_text("{}")
    stuck = drop(dash.root, f"{new_id()},S=2.json", "{}")
    if subprocess.run(["mount", "--bind", tmp_path / "other", stuck], check=False, capture_output=True).returncode:
        pytest.skip("mounting needs the right to mount")
    alice.send("bob", "good")
    ran = dash.receive("--body", "-n", 2)
    subprocess.run(["umount", stuck], check=True)

    assert (ran.code, ran.out) == (0, b"good\n")
    assert "is left alone" in ran.err


def test_what_a_relay_says_of_a_sender_is_kept(in_turn: Shell, tell: Path) -> None:
    """F= and the N= beside it: who may believe them sees them when the message has gone back."""
    id = new_id()
    drop(in_turn.root, f"{id},S=2,A=5,N=x,F=alice.json", "{}")
    in_turn.receive("--", "/bin/sh", "-c", "exit 1")
    (name,) = left(in_turn.root, "later")

    assert name.partition("~")[2] == f"{id},S=2,A=2,N=x,F=alice.json"


def test_mail_for_a_box_elsewhere_goes_to_the_outbox(in_turn: Shell) -> None:
    """Where a relay carries: in the box of the sender, nothing else changed. Without an outbox there is no such box."""
    assert in_turn.send("carol", "x").code == 67
    (in_turn.root / "alice/outbox").mkdir(mode=0o700)
    id = in_turn.send("carol", "x").out.decode().strip()
    (file,) = (in_turn.root / "alice/outbox").iterdir()

    assert file.read_bytes() == encode(id, "alice", "carol", "x", {})
    assert file.name == f"{id},S={file.stat().st_size}.json"
