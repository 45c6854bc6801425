"""The command of the relay: run, set up, asked, looked at."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from filemailbox.relay import audit_format
from filemailbox.store.root import find_root, read_marker
from support.paths import SCRIPTS, SOURCE
from support.waiting import PATIENCE

RULES = """
[groups]
reviewers = ["bob", "carol"]
[[allow]]
name = "jobs"
from = "alice"
to = ["bob", "team:reviewers"]
type = "job"
[[allow]]
name = "answers"
from = "bob"
to = "alice"
reply_only = true
[[deny]]
name = "quiet"
from = "*"
to = "carol"
type = "noise"
"""


class Host:
    """A host with a policy, and a relay that can be started there."""

    def __init__(self, place: Path, until: Callable[..., None]) -> None:
        self.place, self.until = place, until
        self.config = place / "relay.toml"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.write(RULES)

    def write(self, rules: str, agents: tuple[str, ...] = ("alice", "bob", "carol")) -> None:
        text = f'[relay]\nstate = "{self.place}/state"\nkey = "{self.place}/key"\npoll_interval = "100ms"\n'
        text += "".join(f'[agents.{name}]\nvolume = "{self.place}/{name}"\n' for name in agents)
        self.config.write_text(text + rules)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "filemailbox", "relay", "--config", str(self.config), *words]
        log = (self.place / "log").open("ab")
        with log:
            process = subprocess.Popen(command, stderr=log, env={**os.environ, "PYTHONPATH": SOURCE})
        self.processes.append(process)
        self.until(lambda: (self.place / "state/status.json").exists() or process.poll() is not None)
        return process

    def log(self) -> str:
        return (self.place / "log").read_text()

    def box(self, name: str) -> Mailbox:
        return Mailbox(name, self.place / name, durable=False)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def host(tmp_path: Path, until: Callable[..., None], mailbox: Callable[..., Any]) -> Iterator[Host]:
    place = tmp_path / "host"
    place.mkdir()
    made = Host(place, until)
    assert mailbox("relay", "init", "--config", made.config).code == 0
    yield made
    made.close()


def test_a_host_is_set_up_from_its_policy(host: Host, mailbox: Callable[..., Any]) -> None:
    """Volumes, boxes with outboxes, the key; a second time nothing changes, and the public key is printed."""
    key = (host.place / "key").read_bytes()
    again = mailbox("relay", "init", "--config", host.config)

    assert again.code == 0
    assert again.err.count("already exists") == 3
    assert audit_format.parse_public_key(again.out)
    assert (host.place / "key").read_bytes() == key
    assert (host.place / "key").stat().st_mode & 0o777 == 0o600
    for name in ("alice", "bob", "carol"):
        assert (host.place / name / name / "outbox").is_dir()
        assert read_marker(find_root(host.place / name))["relay"] == os.geteuid()


def test_mail_goes_from_container_to_container(host: Host, mailbox: Callable[..., Any]) -> None:
    """`mailbox send` needs no new habit. SIGTERM ends the relay, and the log is sound."""
    relay = host.start()
    sent = mailbox("send", "bob", "build it", "--type", "job", "--root", host.place / "alice", sender="alice")
    with host.box("bob") as bob:
        message = bob.receive(timeout=PATIENCE)
        assert message is not None
        message.reply("built")
        message.ack()
    with host.box("alice") as alice:
        answer = alice.receive(timeout=PATIENCE)
        assert answer is not None
        answer.ack()
    relay.send_signal(signal.SIGTERM)

    assert relay.wait(PATIENCE) == 0
    assert (message.id, message.body, answer.body) == (sent.out.strip(), "build it", "built")
    verified = mailbox("relay", "audit", "verify", "--config", host.config)
    assert (verified.code, verified.err) == (0, "")
    assert verified.out.startswith("relay: 5 records, the last one is ")
    assert not (host.place / "state/status.json").exists()


def test_sighup_reads_the_policy_anew(host: Host, until: Callable[..., None]) -> None:
    """A bad one is told of, and the old one stays; a good one counts."""
    relay = host.start()
    host.config.write_text("nonsense")
    relay.send_signal(signal.SIGHUP)
    until(lambda: "the policy was not reloaded, the old one stays in force" in host.log())
    host.write('[[allow]]\nfrom = "carol"\nto = "alice"\n')
    relay.send_signal(signal.SIGHUP)
    until(lambda: "the policy was reloaded: 3 agents, 1 rules" in host.log())
    with host.box("carol") as carol, host.box("alice") as alice:
        carol.send("alice", "now I may")
        message = alice.receive(timeout=PATIENCE)

    assert message is not None
    assert message.body == "now I may"


def test_health_tells_whether_it_is_at_work(
    host: Host, mailbox: Callable[..., Any], until: Callable[..., None]
) -> None:
    """Exit code 0 or 1; what is wrong with a recipient is told, and is no illness of the relay."""
    none = mailbox("relay", "health", "--config", host.config)
    relay = host.start()
    well = mailbox("relay", "health", "--config", host.config)
    os.rename(host.place / "bob/bob/new", host.place / "bob/bob/gone")
    with host.box("alice") as alice:
        alice.send("bob", 1, type="job")
    until(lambda: "bob: the box" in mailbox("relay", "health", "--config", host.config).out)
    harmed = mailbox("relay", "health", "--config", host.config)
    log = host.place / "state/audit/00000001.jsonl"
    log.rename(f"{log}.away")
    with host.box("alice") as alice:
        alice.send("carol", 1, type="job")
    until(lambda: "nothing is carried" in mailbox("relay", "health", "--config", host.config).out)
    ill = mailbox("relay", "health", "--config", host.config)
    relay.kill()
    relay.wait()
    dead = mailbox("relay", "health", "--config", host.config)

    assert (none.code, none.out) == (1, "relay: it does not run\n")
    assert well.code == 0
    assert well.out.startswith("relay: 3 agents, 0 messages delivered, 0 deferred, last report 0 s ago")
    assert harmed.code == 0
    assert ill.code == 1
    assert (dead.code, dead.out) == (1, "relay: it does not run\n")


def test_a_relay_that_cannot_begin_says_why(host: Host) -> None:
    """Another one is at work; the key is gone."""
    first = host.start()
    second = host.start()
    assert second.wait(PATIENCE) == 74
    assert "another relay is at work on the audit log" in host.log()
    first.terminate()
    assert first.wait(PATIENCE) == 0
    (host.place / "key").unlink()
    third = host.start()

    assert third.wait(PATIENCE) == 4
    assert "there is no private key" in host.log()


def test_the_log_is_json_where_that_is_wanted(host: Host, until: Callable[..., None]) -> None:
    """A line for each thing that is told."""
    host.start("--log-format", "json")
    with host.box("alice") as alice:
        alice.send("nobody", 1)
    until(lambda: "was bounced" in host.log())
    told = [json.loads(line) for line in host.log().splitlines()]

    assert [each["level"] for each in told] == ["warning"]
    assert told[0]["message"].endswith('for nobody was bounced: there is no agent "nobody"')


def test_check_lists_who_can_reach_whom(host: Host, mailbox: Callable[..., Any]) -> None:
    """In a pipe with tabs, or as JSON."""
    said = mailbox("relay", "check", "--config", host.config)
    records = mailbox("relay", "check", "--json", "--config", host.config).records

    assert said.code == 0
    assert said.lines == [
        'alice\tbob\tjobs\ttype "job"',
        'alice\tcarol\tjobs\ttype "job"',
        "bob\talice\tanswers\tonly replies, within 3600 s, at most 16 to one message",
    ]
    assert records[2] == {
        "from": "bob",
        "to": "alice",
        "rule": "answers",
        "conditions": "only replies, within 3600 s, at most 16 to one message",
    }


def test_check_tells_all_that_is_wrong(host: Host, mailbox: Callable[..., Any]) -> None:
    """A line for each, exit code 2."""
    host.write('[[allow]]\nfrom = "alicia"\nto = "dan"\n')
    said = mailbox("relay", "check", "--config", host.config)
    missing = mailbox("relay", "check", "--config", host.place / "none.toml")

    assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 2)
    assert '"alicia" in allow rule 1 is not an agent (did you mean "alice"?)' in said.err
    assert missing.code == 2
    assert "cannot be read" in missing.err


@pytest.mark.parametrize(
    ("words", "code", "out"),
    [
        pytest.param("alice --to bob --type job", 0, ["bob: allowed by jobs"], id="allowed"),
        pytest.param(
            "alice --to bob",
            1,
            ["bob: refused by default: no rule allows alice to send mail without a type to bob"],
            id="refused",
        ),
        pytest.param("bob --to alice --reply-age 5m", 0, ["alice: allowed by answers"], id="an-answer"),
        pytest.param(
            "bob --to alice",
            1,
            ["alice: refused by answers: answers allows only replies, and it is not a reply to carried mail"],
            id="no-answer",
        ),
        pytest.param(
            "alice --to team:reviewers --type job",
            0,
            ["bob: allowed by jobs", "carol: allowed by jobs"],
            id="a-team",
        ),
        pytest.param("alice --type job", 0, ["bob: allowed by jobs", "carol: allowed by jobs"], id="all"),
        pytest.param(
            "carol --type job", 1, ["all: refused: there is no agent to which carol may send such mail"], id="nobody"
        ),
        pytest.param("alice --to carol --type noise", 1, ["carol: refused by quiet: quiet forbids it"], id="denied"),
    ],
)
def test_explain_says_which_rule_decides(
    host: Host, mailbox: Callable[..., Any], words: str, code: int, out: list[str]
) -> None:
    """A line for each recipient; exit code 1 where it may not go to all of them."""
    said = mailbox("relay", "explain", "--config", host.config, "--from", *words.split())

    assert (said.code, said.lines, said.err) == (code, out, "")


def test_explain_needs_an_agent(host: Host, mailbox: Callable[..., Any]) -> None:
    """One that there is."""
    said = mailbox("relay", "explain", "--from", "dora", "--to", "bob", "--config", host.config)

    assert said.code == 2
    assert '"dora"' in said.err
    assert "hint: it has alice, bob, carol" in said.err


def test_the_audit_log_is_shown_and_tried(host: Host, mailbox: Callable[..., Any], until: Callable[..., None]) -> None:
    """Filtered by agent, thread, message, event and time; tampering is found."""
    relay = host.start()
    with host.box("alice") as alice:
        first = alice.send("bob", 1, type="job", thread="t")
        alice.send("carol", 2, type="job")
        alice.send("carol", 3, type="noise")
    until(lambda: len(mailbox("relay", "audit", "show", "--agent", "alice", "--config", host.config).lines) == 3)
    relay.terminate()
    assert relay.wait(PATIENCE) == 0

    def show(*words: str) -> list[str]:
        records = mailbox("relay", "audit", "show", "--json", "--config", host.config, *words).records
        return [f"{record['event']} {record.get('to', '')}".strip() for record in records]

    assert sorted(show()) == ["accept bob", "accept carol", "begin", "refuse carol", "start", "stop"]
    assert show("--agent", "bob") == ["accept bob"]
    assert show("--thread", "t") == show("--id", first) == ["accept bob"]
    assert show("--event", "refuse") == ["refuse carol"]
    assert show("--since", "1h") == show()
    assert show("--until", "1h") == []
    rows = mailbox("relay", "audit", "show", "--event", "accept", "--config", host.config).lines
    assert rows[0].split("\t")[1:5] == ["accept", "alice", "bob", "job"]
    folder, key = host.place / "state/audit", (host.place / "state/audit/key.pub")
    assert mailbox("relay", "audit", "verify", folder, "--public-key", key).code == 0
    assert mailbox("relay", "audit", "verify", folder, "--public-key", "RWnonsense").code == 2
    log = folder / "00000001.jsonl"
    log.write_text(log.read_text().replace('"bob"', '"eve"'))
    tampered = mailbox("relay", "audit", "verify", "--config", host.config)
    assert (tampered.code, tampered.out) == (1, "")
    assert "does not follow the one before it" in tampered.err


def test_an_outbox_is_made_by_init(root: Path, mailbox: Callable[..., Any]) -> None:
    """`--relay`; the root says who the relay is."""
    said = mailbox("init", "--relay", "--relay-uid", "990", "dora")

    assert said.code == 0
    assert (root / "dora/outbox").is_dir()
    assert read_marker(find_root(root))["relay"] == 990
    assert mailbox("init", "--relay-uid", "x", "dora").code == 2


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["relay", "chekc"], "did you mean relay check"),
        (["relay", "audit"], "did you mean relay audit show"),
        (["relay", "audit", "vrify"], "did you mean relay audit verify"),
    ],
    ids=["a-second-word", "half-a-verb", "a-third-word"],
)
def test_a_longer_verb_that_does_not_exist_is_told_of(
    mailbox: Callable[..., Any], words: list[str], meant: str
) -> None:
    """As the shorter ones are."""
    said = mailbox(*words)

    assert (said.code, said.out) == (2, "")
    assert meant in said.err


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    """Hardened: systemd itself finds nothing to complain of, and little that is exposed."""
    unit = SCRIPTS / "mailbox-relay.service"
    text = unit.read_text()
    for line in ("ProtectSystem=strict", "PrivateNetwork=yes", "CapabilityBoundingSet=CAP_DAC_OVERRIDE"):
        assert f"\n{line}\n" in text
    if shutil.which("systemd-analyze") is None:
        return  # nobody to ask
    copy = tmp_path / unit.name
    copy.write_text(text.replace("/usr/local/bin/mailbox", "/bin/true"))
    said = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    exposed = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", copy],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (said.returncode, said.stderr) == (0, "")
    assert exposed.returncode == 0, exposed.stdout[-400:]
