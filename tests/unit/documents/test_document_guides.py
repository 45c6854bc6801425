"""The guides on documents are run: every command and every program in them does what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parents[3]
GUIDES = HOME / "mailbox/docs/guides"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(guide: str, kind: str) -> list[str]:
    return [text for language, text in BLOCK.findall((GUIDES / guide).read_text()) if language == kind]


def run(command: list[str], folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd=folder,
        env={
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": "/nonexistent",
            "MAILBOX_ROOT": str(folder / "mail"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def transcript(guide: str, folder: Path) -> None:
    """All `console` blocks, one after the other, in one shell: the output is the one shown; … stands for anything."""
    script, expected = ["exec 2>&1; set +m"], []
    for block in blocks(guide, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                script.append(f"echo '>>>'; {line[2:]}")
                expected.append("")
            else:
                expected[-1] += line + "\n"
    said = run(["bash", "-c", "\n".join(script)], folder).stdout
    answers = said.split(">>>\n")[1:]

    assert len(answers) == len(expected), said
    for got, wanted in zip(answers, expected, strict=True):
        pattern = re.escape(wanted).replace("…", "(?s:.*)")
        assert re.fullmatch(pattern, got), f"said:\n{got}\nthe guide shows:\n{wanted}"


def test_the_guide_to_documents_does_what_it_says(tmp_path: Path) -> None:
    """The commands, then the program, on the document that they have made."""
    transcript("documents.md", tmp_path)
    (program,) = blocks("documents.md", "python")
    done = run([sys.executable, "-W", "error", "-c", program], tmp_path)

    assert done.stderr == ""
    assert done.stdout == "6 - [ ] release\n"


def test_the_guide_to_the_board_does_what_it_says(tmp_path: Path) -> None:
    """The program takes what the commands have left."""
    transcript("board.md", tmp_path)
    (program,) = blocks("board.md", "python")
    done = run([sys.executable, "-W", "error", "-c", program], tmp_path, MAILBOX_AGENT="coder")

    assert done.stderr == ""
    assert done.stdout == "t2\nt3\n"


def test_three_agents_never_take_one_task_twice() -> None:
    """The demo; it fails where one was."""
    done = subprocess.run(
        [HOME / "scripts/demo-board"],
        env={**os.environ, "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 tasks were taken, 30 of them different; the board is at version 61" in done.stdout


@pytest.mark.parametrize("guide", ["documents.md", "board.md"])
def test_every_block_is_of_a_kind_that_is_run(guide: str) -> None:
    """And the page is short."""
    text = (GUIDES / guide).read_text()

    assert {language for language, _ in BLOCK.findall(text)} == {"console", "python"}
    assert len(text.splitlines()) <= 120
