"""FORMAT.md, run: its tables, its numbers, its example and its shell are those of the code."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from filemailbox import Mailbox, settings
from filemailbox.format import envelope, filename
from filemailbox.format.envelope import MAX_DEPTH, MAX_HOPS, MAX_KEY, decode, encode
from filemailbox.format.filename import Filename, parse_filename, split_timed
from filemailbox.relay import audit_format
from filemailbox.settings import MAX_SIZE
from filemailbox.store import intake, ledger, spool
from filemailbox.store.layout import FOLDERS, FORMAT, MARKER, OUTBOX, SENT
from filemailbox.trust import owners, seal
from filemailbox.trust.key_files import PublicKeys
from filemailbox.trust.levels import NAMES
from filemailbox.wake import doorbell, ringer
from support.paths import FORMAT_PAGE, VECTORS

PAGE = FORMAT_PAGE.read_text()
PROSE = " ".join(PAGE.split())
ID = "20261124T014530.123456789Z-3f9c0a12b4d5"


def blocks(kind: str, heading: str) -> list[str]:
    """The fenced blocks of this kind under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [text for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", section, re.M | re.S) if language == kind]


def test_the_table_of_folders_is_the_code_s() -> None:
    """Names and modes."""
    rows = re.findall(r"^\| `bob/(\w+)/` \| (\d{4}) \|", PAGE, re.M)

    assert {folder: int(mode, 8) for folder, mode in rows} == {**FOLDERS, SENT: 0o700, OUTBOX: 0o700}
    assert f'| `{MARKER}` | 0644 | `{{"format": {FORMAT}}}` |' in PAGE


def test_the_table_of_members_is_the_code_s() -> None:
    """Each member with its type: a value of another is refused, null is not."""
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE.split("## The envelope")[1].split("## ")[0], re.M))
    members = {member: kind.split(",")[0] for member, kind in table.items() if member != "body"}
    types = {str: "string", envelope._Key: "string", int: "whole number", dict: "object of strings"}

    assert members == {member: types[kind] for member, kind in envelope.FIELD_TYPES.items()}


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (MAX_SIZE, "1 MiB (1 048 576 bytes)"),
        (MAX_DEPTH, "nested deeper than {}; the message itself is the first level"),
        (MAX_HOPS, "`hops` is above {} | dead letter"),
        (MAX_HOPS, "above {} it MUST NOT be sent"),
        (max(envelope._HOPS), "whole number, 0 to {} |"),
        (MAX_KEY // 1000, "string, at most {} 024 bytes in UTF-8"),
        (intake.INCOMPLETE_GRACE, "once it is unchanged for {:g} s"),
        (settings.POLL_INTERVAL * 1000, "At least every {:g} ms of polling"),
        (spool.TMP_MAX_AGE / 3600, "more than {:g} hours ago"),
        (settings.MAX_ATTEMPTS, "the limit of attempts, by default {}"),
        (settings.RETRY_DELAY, "unless the handler says otherwise, {:g} s, doubled"),
        (settings.MAX_RETRY_DELAY, "at most {:g} s, less up to half of it by chance"),
        (ledger.LIMIT // 1000, "with the {} 000 that were sent last"),
        (ledger.LIMIT * 2 // 1000, "At {} 000 keys or more"),
        (ringer.BELLS_TTL * 1000, "For {:g} ms it MAY take them for all doorbells"),
        (doorbell.STALE_AFTER, "older than {:g} s and has no listener"),
        (ringer.MAX_NAMES_READ, "in one `run/` ({} here"),
        (ringer.MAX_SOCKETS_TRIED, "it tries ({})"),
        (ringer.MAX_BELLS_RUNG, "and rings ({})"),
        (ringer.MAX_BELLS_KEPT, "it keeps ({} in all)"),
        (doorbell.SO_PASSRIGHTS, "SO_PASSRIGHTS ({}, from"),
        (doorbell.MAX_SOCKET_PATH, "at most {} bytes. A longer one"),
        (filename.MAX_STEM, "keep the first {}."),
        (audit_format.CHECKPOINT_SIZE, "up to {} bytes. A checkpoint"),
        (seal._BUCKET, "fill up a *bucket*: {} bytes"),
        (8 * seal._BUCKET // 1024, "from {} KiB on, that costs"),
        (seal._HEAD, "8 buckets are less than {} + the length of inner"),
        (seal._HEAD, "plain has {} bytes and the length that it says"),
        (len(seal.kid(b"")), "is the first {} hex digits of the SHA-256"),
        (owners._FRESH_SECONDS, "MAY remember the owners of the boxes for a second"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_numbers_are_the_code_s(number: float, sentence: str) -> None:
    """A limit that is changed is changed on the page as well."""
    assert sentence.format(number) in PROSE


def test_what_is_escaped_is_what_the_page_says() -> None:
    """Character by character, over all of Unicode."""
    text = PROSE.split("a terminal obeys or hides: ")[1].split(". It MUST NOT")[0]
    spans = re.findall(r"U\+([0-9A-F]+)(?: to U\+([0-9A-F]+))?", text)
    said = {code for first, last in spans for code in range(int(first, 16), int(last or first, 16) + 1)}
    every = "".join(map(chr, [*range(0x20, 0xD800), *range(0xE000, 0x110000)]))
    written = encode(ID, "a", "b", every, {}).decode()

    assert {ord(character) for character in set(every) - set(written)} == said


@pytest.mark.parametrize("shell", blocks("sh", "Sending"), ids=["send"])
def test_what_a_shell_does_is_mail(root: Path, bob: Mailbox, shell: str) -> None:
    """The lines under Sending, as they stand there."""
    for _ in range(2):
        subprocess.run(["sh", "-eu", "-c", shell], env={"PATH": "/usr/bin:/bin", "MAILBOX_ROOT": str(root)}, check=True)
    taken = [bob.receive(), bob.receive()]

    assert [(each.sender, each.body) for each in taken if each is not None] == [("alice", {"msg": "hello"})] * 2


def test_the_example_is_one_message_on_its_way() -> None:
    """Its names come apart as they should, its size is right, and the encoder writes just these bytes."""
    paths = blocks("text", "An example")[0].splitlines()
    data = blocks("json", "An example")[0].encode()
    first, again = Filename(ID, len(data)), Filename(ID, len(data), 2)
    folders = [path.split("/")[1] for path in paths]
    last = [(split_timed(path.split("/")[-1]) or (None, path.split("/")[-1]))[1] for path in paths]

    assert folders == ["tmp", "new", "cur", "later", "cur", "done"]
    assert [parse_filename(name) for name in last] == [first, first, first, again, again, again]
    assert encode(ID, "alice", "bob", {"n": 1}, {}) == data
    assert decode(data)["body"] == {"n": 1}


def test_the_json_on_the_page_is_json() -> None:
    """Each line of each block."""
    lines = [line for text in re.findall(r"^```json\n(.*?)^```$", PAGE, re.M | re.S) for line in text.splitlines()]

    assert [type(json.loads(line)) for line in lines] == [dict] * 4


def test_the_names_on_the_page_are_names() -> None:
    """The one that is explained, and what its grammar says."""
    name = parse_filename(blocks("text", "Names")[0].splitlines()[0])

    assert name == Filename(ID, 217)


def test_the_table_of_trust_is_the_code_s() -> None:
    """From the weakest to the strongest."""
    section = PAGE.split("\n## Who sent it\n")[1].split("\n## ")[0]

    assert re.findall(r"^\| `(\w+)` \|", section, re.M) == list(NAMES)


def test_the_checks_of_sealed_and_signed_mail_are_those_of_the_vectors() -> None:
    """Each step names the word of a vector, and there is a vector for each; the layout names what the code writes."""
    section = PAGE.split("\n## Sealed and signed mail\n")[1].split("\n## ")[0]
    steps = {
        kind: {
            word for words in re.findall(r"^\d+\. .*: (.+)\.$", part, re.M) for word in re.findall(r"`(\w+)`", words)
        }
        for kind, part in zip(
            ("sealed", "signed"),
            section.replace("\n   ", " ").split("**To open**")[1].split("**To verify**"),
            strict=True,
        )
    }
    files = {kind: json.loads((VECTORS / f"{kind}.json").read_text())[kind] for kind in steps}

    assert steps == {
        kind: {vector["refused"] for vector in vectors if "refused" in vector} for kind, vectors in files.items()
    }
    assert f"Sealed mail, `{seal.SEAL_SCHEME}`:" in section
    assert f"Signed mail, `{seal.SIGNATURE_SCHEME}`," in section


def test_the_public_keys_on_the_page_are_keys() -> None:
    """The line is one that our own writer would have written, of the alice in the vectors."""
    [line] = blocks("json", "Sealed and signed mail")
    keys = json.loads((VECTORS / "sealed.json").read_text())["keys"]
    public = PublicKeys.read(line.encode(), "FORMAT.md")

    assert public.line() == line.encode()
    assert public.fingerprint == keys["identities"]["alice"]["skid"]
    assert seal.kid(public.encryption_keys[0]) == keys["boxes"]["alice"]["kid"]


def test_the_page_counts_the_vectors() -> None:
    """And names each file."""
    listed = re.findall(r"`(\w+\.json)`", PAGE.split("\n## Vectors\n")[1])

    assert "holds eight JSON files" in PAGE
    assert set(listed) == {path.name for path in VECTORS.iterdir()}
    assert len(set(listed)) == 8
