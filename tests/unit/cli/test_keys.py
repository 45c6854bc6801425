"""Keys and pins on the command line, and mail that is sealed and signed with them."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox

Run = Callable[..., Any]


@pytest.fixture
def keys(mailbox: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """keys(NAME): that agent's private folder, from now on MAILBOX_KEY_DIR; made, and its key, at the first call."""

    def use(name: str) -> Path:
        folder = tmp_path / "keys" / name
        monkeypatch.setenv("MAILBOX_KEY_DIR", str(folder))
        if not folder.exists():
            said = mailbox("keys", "generate", sender=name)
            assert said.code == 0
            (tmp_path / f"{name}.pub").write_text(said.out)
        return folder

    return use


@pytest.fixture
def friends(mailbox: Run, keys: Run, tmp_path: Path) -> None:
    """Alice and bob have keys, and each has pinned the other's. Bob's folder is in use."""
    for name in ("alice", "bob"):
        keys(name)
    keys("alice")
    assert mailbox("keys", "pin", "bob", tmp_path / "bob.pub", sender="alice").code == 0
    keys("bob")
    assert mailbox("keys", "pin", "alice", tmp_path / "alice.pub").code == 0


def test_generate_prints_the_public_keys_alone(mailbox: Run, tmp_path: Path) -> None:
    """Where the private ones are, and what to mind, is for people."""
    said = mailbox("keys", "generate", "--key-dir", tmp_path / "k")

    assert said.code == 0
    assert said.records[0].keys() == {"v", "agent", "signing_key", "encryption_keys"}
    assert f"{tmp_path}/k/bob.key: made; keep it to yourself" in said.err
    assert mailbox("keys", "show", "--key-dir", tmp_path / "k").out == said.out


def test_without_a_folder_keys_lie_in_the_home(mailbox: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And from then on are found there by every verb."""
    monkeypatch.setenv("HOME", str(tmp_path))
    mailbox("keys", "generate")

    assert (tmp_path / ".config/mailbox/bob.key").exists()
    assert [line.split("\t")[0] for line in mailbox("keys", "list").lines] == ["bob"]


def test_no_volume_is_needed_for_keys(mailbox: Run, tmp_path: Path) -> None:
    """They are made before there is any mail."""
    assert mailbox("keys", "generate", "--key-dir", tmp_path / "k", "--root", tmp_path / "nowhere").code == 0


def test_rotate_adds_an_encryption_key(mailbox: Run, keys: Run) -> None:
    """The public keys are printed: the others need them."""
    keys("bob")
    before = mailbox("keys", "show").records[0]
    said = mailbox("keys", "generate", "--rotate")

    assert said.records[0]["signing_key"] == before["signing_key"]
    assert said.records[0]["encryption_keys"][1:] == before["encryption_keys"]
    assert re.search("sealed to the 1 before", said.err)


def test_pin_list_unpin(mailbox: Run, keys: Run, friends: None, tmp_path: Path) -> None:
    """What was pinned is listed, and no more once it is unpinned."""
    folder = keys("bob")
    listed = [line.split("\t") for line in mailbox("keys", "list").lines]
    shown = mailbox("keys", "show", "alice")
    unpinned = mailbox("keys", "unpin", "alice")
    after = mailbox("keys", "list").lines

    assert [(row[0], row[2], row[3]) for row in listed] == [
        ("bob", "1", f"ours, {folder}/bob.key"),
        ("alice", "1", f"{folder}/pins"),
    ]
    assert shown.out == (tmp_path / "alice.pub").read_text()
    assert (unpinned.code, unpinned.err, len(after)) == (0, "alice: no longer pinned\n", 1)


def test_keys_are_pinned_from_standard_input(mailbox: Run, keys: Run, tmp_path: Path) -> None:
    """`ssh host mailbox keys show | mailbox keys pin alice`. The fingerprint is told, to be compared."""
    keys("alice")
    keys("bob")
    said = mailbox("keys", "pin", "alice", stdin=(tmp_path / "alice.pub").read_text())
    fingerprint = mailbox("keys", "list").lines[1].split("\t")[1]

    assert said.code == 0
    assert said.err.replace(" ", "") == f"alice:pinned:{fingerprint}\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pin", "carol", "{alice}"], 'these are the keys of "alice", not of "carol"'),
        (["pin", "alice", "{bobs}"], "holds a private key"),
        (["pin", "alice", "{other}"], 'other keys of "alice" are pinned'),
        (["unpin", "carol"], 'no key of "carol" is pinned in'),
        (["show", "carol"], 'no key of "carol" is pinned'),
        (["generate"], "exists already"),
        (["generate", "--key-dir", "{mail}"], "is on a mail volume"),
        (["show", "--key-dir", "{nowhere}"], "there is no folder of keys"),
    ],
    ids=["another", "private", "changed", "not pinned", "unknown", "twice", "on the volume", "no folder"],
)
def test_what_cannot_be_trusted_is_exit_code_4(
    mailbox: Run, keys: Run, friends: None, tmp_path: Path, root: Path, words: list[str], told: str
) -> None:
    """With a sentence, and nothing on standard output."""
    other = mailbox("keys", "generate", "--key-dir", tmp_path / "other", sender="alice").out
    (tmp_path / "other.pub").write_text(other)
    places = {
        "alice": tmp_path / "alice.pub",
        "bobs": keys("bob") / "bob.key",
        "other": tmp_path / "other.pub",
        "mail": root,
        "nowhere": tmp_path / "nowhere",
    }
    said = mailbox("keys", *(word.format(**places) for word in words))

    assert (said.code, said.out) == (4, "")
    assert told in said.err


def test_sealed_mail_over_the_command_line(mailbox: Run, keys: Run, friends: None, tmp_path: Path) -> None:
    """Sent, listed, read and received, with the key; without it only what stands outside."""
    keys("alice")
    mailbox("send", "bob", "the code is open-sesame", "--seal", "--type", "code", sender="alice")
    keys("bob")
    listed = mailbox("list").lines[0].split("\t")
    read = mailbox("read", "Z", "--json").records[0]
    raw = mailbox("read", "Z", "--raw").out
    os.environ["MAILBOX_KEY_DIR"] = str(tmp_path / "nothing")
    (tmp_path / "nothing").mkdir()
    blind, outside = mailbox("list").out, mailbox("read", "Z", "--json").records[0]
    keys("bob")
    got = mailbox("receive").records[0]

    assert (listed[1:4], listed[-1]) == (["alice", "sealed", "code"], "the code is open-sesame")
    assert (read["body"], got["body"], got["trust"]) == ("the code is open-sesame", "the code is open-sesame", "sealed")
    assert "open-sesame" not in raw + blind
    assert (outside["from"], outside["to"], outside["body"], outside["trust"]) == ("alice", "bob", None, "none")
    assert "is sealed, and there is no key" in outside["problem"]


def test_what_is_required_is_said_to_receive_and_watch(mailbox: Run, keys: Run, friends: None) -> None:
    """The rest becomes dead letters."""
    mailbox("send", "bob", "plain", sender="carol")
    keys("alice")
    mailbox("send", "bob", "signed", "--sign", sender="alice")
    keys("bob")
    said = mailbox("receive", "--min-trust", "signed", "-n", "2")
    mailbox("send", "bob", "plain", sender="carol")
    watched = mailbox("watch", "--drain", "--min-trust", "signed")

    assert [record["body"] for record in said.records] == ["signed"]
    assert watched.out == ""
    assert len(mailbox("dead", "list").lines) == 2


def test_sealing_without_a_key_of_the_recipient_is_exit_code_4(mailbox: Run, keys: Run, root: Path) -> None:
    """And nothing is sent."""
    keys("bob")
    said = mailbox("send", "alice", "x", "--seal")

    assert (said.code, said.out) == (4, "")
    assert 'no key of "alice" is pinned' in said.err
    assert os.listdir(root / "alice/new") == []


def test_a_command_is_told_what_proves_the_sender(mailbox: Run, keys: Run, friends: None, tmp_path: Path) -> None:
    """MAILBOX_TRUST, beside the body that was sealed."""
    keys("alice")
    mailbox("send", "bob", "secret", "--seal", sender="alice")
    keys("bob")
    mailbox("watch", "--drain", "--exec", f'{{ echo "$MAILBOX_TRUST"; cat; }} > {tmp_path}/out')

    assert (tmp_path / "out").read_text() == "sealed\nsecret"


def test_an_answer_to_sealed_mail_is_sealed(mailbox: Run, keys: Run, friends: None, root: Path) -> None:
    """Also what a command prints with --reply."""
    keys("alice")
    mailbox("send", "bob", "?", "--seal", sender="alice")
    keys("bob")
    mailbox("watch", "--drain", "--reply", "--exec", "echo hidden")
    (answer,) = (root / "alice/new").glob("*.json")
    keys("alice")

    assert "hidden" not in answer.read_text()
    assert mailbox("receive", "--body", sender="alice").out == "hidden\n"


def test_plain_mail_needs_no_cryptography(root: Path) -> None:
    """A send, a list and a receive load none of it: it would take longer than all else."""
    script = (
        "import sys\n"
        "from filemailbox.cli.run import main\n"
        "for words in (['send', 'bob', 'x'], ['list'], ['receive']):\n"
        "    assert main(words) == 0\n"
        "assert not {'nacl', 'filemailbox.seal', 'filemailbox.keys'} & sys.modules.keys()\n"
    )
    environment = {**os.environ, "MAILBOX_ROOT": str(root), "MAILBOX_AGENT": "bob"}
    Mailbox("bob", root).close()

    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 0


def test_public_keys_are_written_to_a_file_only_if_keys_were_made(mailbox: Run, keys: Run, tmp_path: Path) -> None:
    """A second call makes none, and leaves the file as it was."""
    keys("alice")
    file = tmp_path / "alice.pub"
    file.write_text("before")
    refused = mailbox("keys", "generate", "--as", "alice", "--out", str(file))
    kept = file.read_text()
    rotated = mailbox("keys", "generate", "--as", "alice", "--rotate", "--out", str(file))

    assert (refused.code, kept) == (4, "before")
    assert (rotated.code, rotated.out) == (0, "")
    assert file.read_text() == mailbox("keys", "show", "--as", "alice").out
