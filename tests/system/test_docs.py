"""The documents are run: every block of code in README.md does what it says."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from filemailbox.relay.policy_file import parse_policy
from support.paths import REPO

README = REPO / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ID = re.compile(r"\d{8}T\d{6}\.\d{9}Z-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(?:Z|\+00:00)")


def blocks(kind: str) -> Iterator[str]:
    return (text for language, text in BLOCK.findall(README.read_text()) if language == kind)


def test_every_block_is_of_a_kind_that_is_run() -> None:
    """Shell transcripts and Python are run below; `text` is for pictures."""
    assert {language for language, _ in BLOCK.findall(README.read_text())} == {"text", "console", "python", "toml"}


def test_the_transcripts_are_what_a_shell_says(tmp_path: Path) -> None:
    """All `console` blocks, one after the other, in one shell: the output is the one shown; … stands for anything."""
    script, expected = ["exec 2>&1; set +m"], []
    for block in blocks("console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                script.append(f"echo '>>>'; {line[2:]}")
                expected.append("")
            else:
                expected[-1] += line + "\n"
    (tmp_path / "scripts").symlink_to(README.parent / "scripts")
    shell = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = shell.stdout.split(">>>\n")[1:]

    assert len(said) == len(expected), shell.stdout
    for got, wanted in zip(said, expected, strict=True):
        assert re.fullmatch(_pattern(wanted), _plain(got)), f"said:\n{got}\nREADME.md shows:\n{wanted}"


@pytest.mark.parametrize(
    ("block", "prints"),
    list(zip(blocks("python"), ["alice src/main.c\n", "", "{'sum': 6}\n"], strict=True)),
    ids=["receive", "callbacks", "asyncio"],
)
def test_the_python_runs(block: str, prints: str, tmp_path: Path) -> None:
    """Every `python` block is a program that runs and prints what it is about."""
    program = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        env={"MAILBOX_ROOT": str(tmp_path / "mail")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert program.stderr == ""
    assert program.stdout == prints


@pytest.mark.parametrize("block", list(blocks("toml")), ids=["relay"])
def test_the_policy_is_one(block: str) -> None:
    """Every `toml` block is a policy that a relay takes."""
    assert list(parse_policy(block).routes())


def _plain(text: str) -> str:
    return TIME.sub("TIME", ID.sub("ID", text))


def _pattern(text: str) -> str:
    return re.escape(_plain(text)).replace("…", ".*")
