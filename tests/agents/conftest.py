"""The real clients of agents, offline, against a scripted model (model.py). Each runs in an environment of its own.

Run by scripts/test-agents, which installs them; without $MAILBOX_TEST_CLIENTS, the folder whose `node_modules/.bin/`
holds them, these tests are not collected. Where one client is missing its tests are skipped, with that as the reason.
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox import Mailbox
from support.paths import SCRIPTS
from support.waiting import PATIENCE, wait_until

collect_ignore_glob = [] if "MAILBOX_TEST_CLIENTS" in os.environ else ["test_*.py"]

CLIENTS = Path(os.environ.get("MAILBOX_TEST_CLIENTS", ".agents")).absolute() / "node_modules/.bin"
MODEL = Path(__file__).with_name("model.py")

EVENTS = {
    "claude": ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop", "SessionEnd"),
    "codex": ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop"),
    "gemini": ("SessionStart", "BeforeAgent", "AfterTool", "AfterAgent", "SessionEnd"),
}
SHELL_TOOL = {"claude": "^Bash$", "codex": "^exec_command$", "gemini": "^run_shell_command$"}


def shell_call(client: str, command: str) -> dict[str, Any]:
    """A step in which the model runs a command."""
    key = "cmd" if client == "codex" else "command"
    given = {key: command} if client == "codex" else {key: command, "description": "x"}
    return {"tool": SHELL_TOOL[client], "input": given}


class Lab:
    """One client, its model, its home, and a root with the boxes of alice and bob. The client is bob."""

    def __init__(self, folder: Path, root: Path, client: str) -> None:
        self.folder, self.root, self.client = folder, root, client
        self.home, self.project, self.bin = folder / "home", folder / "project", folder / "bin"
        for each in (self.home, self.project, self.bin):
            each.mkdir()
        subprocess.run(["git", "init", "-q", self.project], check=True)
        shutil.copy(SCRIPTS / "mailbox-hook", self.bin / "mailbox-hook")
        (self.bin / "mailbox").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m filemailbox "$@"\n')
        (self.bin / "mailbox").chmod(0o755)
        self._running: list[subprocess.Popen[bytes]] = []
        self._port = 0

    # The model

    def script(self, *steps: dict[str, Any]) -> None:
        """Start the model, with these steps."""
        (self.folder / "script.json").write_text(json.dumps(steps))
        log, port = self.folder / "model.jsonl", self.folder / "port"
        log.touch()
        words = [
            sys.executable,
            str(MODEL),
            str(self.folder / "script.json"),
            "--log",
            str(log),
            "--port-file",
            str(port),
        ]
        self._running.append(subprocess.Popen(words))
        wait_until(port.exists)
        self._port = int(port.read_text())

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The requests with tools that the model has had."""
        lines = (self.folder / "model.jsonl").read_text().splitlines(keepends=True)
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record for record in records if record.get("tools")]

    @property
    def missing(self) -> list[str]:
        """What the script expected and the request did not have."""
        return [record["missing"] for record in self.requests if "missing" in record]

    # The client

    def environment(self, **more: str) -> dict[str, str]:
        """The whole environment of the client: nothing of ours is passed on."""
        base = {
            "HOME": str(self.home),
            "PATH": f"{self.bin}:{CLIENTS}:/usr/local/bin:/usr/bin:/bin",
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "MAILBOX_ROOT": str(self.root),
            "MAILBOX_AGENT": "bob",
        }
        address = f"http://127.0.0.1:{self._port}"
        vendor = {
            "claude": {
                "ANTHROPIC_BASE_URL": address,
                "ANTHROPIC_AUTH_TOKEN": "x",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "DISABLE_AUTOUPDATER": "1",
                "DISABLE_TELEMETRY": "1",
                "IS_SANDBOX": "1",
                "MCP_TIMEOUT": "60000",  # a busy machine
                "CLAUDE_CONFIG_DIR": str(self.home / ".claude"),
            },
            "codex": {"CODEX_HOME": str(self.home / ".codex")},
            "gemini": {
                "GOOGLE_GEMINI_BASE_URL": address,
                "GEMINI_API_KEY": "x",
                "GEMINI_CLI_TRUST_WORKSPACE": "true",
                "GEMINI_TELEMETRY_ENABLED": "false",
            },
        }
        return base | vendor[self.client] | more

    def set_hooks(self, *, rewake: bool = False) -> None:
        """Write the client's settings: our hook at each event, the model as its vendor."""

        def entry(event: str) -> dict[str, Any]:
            hook: dict[str, Any] = {"type": "command", "command": f"mailbox-hook {self.client} {event}", "timeout": 10}
            if self.client == "claude":
                hook |= {"command": "mailbox-hook", "args": ["claude", event]}
            elif self.client == "gemini":
                hook |= {"name": "mailbox", "timeout": 10_000}
            return {"hooks": [hook]}

        hooks = {event: [entry(event)] for event in EVENTS[self.client]}
        if rewake:
            waiter = {"type": "command", "command": "mailbox-hook", "args": ["claude", "--rewake"]}
            hooks["Stop"][0]["hooks"].append({**waiter, "asyncRewake": True, "timeout": 86400})
        config = self.home / f".{self.client}"
        config.mkdir(exist_ok=True)
        if self.client == "claude":
            (self.project / ".claude").mkdir(exist_ok=True)
            (self.project / ".claude/settings.json").write_text(json.dumps({"hooks": hooks}))
            trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
            known = {"hasCompletedOnboarding": True, "theme": "dark", "bypassPermissionsModeAccepted": True}
            (config / ".claude.json").write_text(json.dumps({**known, "projects": {str(self.project): trusted}}))
        elif self.client == "codex":
            (config / "hooks.json").write_text(json.dumps({"hooks": hooks}))
            (config / "config.toml").write_text(
                'model = "mock"\nmodel_provider = "mock"\napproval_policy = "never"\n'
                'sandbox_mode = "danger-full-access"\ncheck_for_update_on_startup = false\n'
                "[analytics]\nenabled = false\n"
                f'[model_providers.mock]\nname = "mock"\nbase_url = "http://127.0.0.1:{self._port}/v1"\n'
                'wire_api = "responses"\nrequires_openai_auth = false\n'
                "request_max_retries = 0\nstream_max_retries = 0\n"
                f'[projects."{self.project}"]\ntrust_level = "trusted"\n'
            )
        else:
            settings = {
                "security": {"auth": {"selectedType": "gemini-api-key"}, "folderTrust": {"enabled": False}},
                "privacy": {"usageStatisticsEnabled": False},
                "general": {"disableAutoUpdate": True, "disableUpdateNag": True},
                "telemetry": {"enabled": False},
                "hooks": hooks,
            }
            (config / "settings.json").write_text(json.dumps(settings))

    def start(self, prompt: str, *words: str, **more: str) -> subprocess.Popen[bytes]:
        """Start the client without a terminal, with one prompt."""
        command = {
            "claude": ["claude", "-p", prompt, "--dangerously-skip-permissions"],
            "codex": ["codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-hook-trust", prompt],
            "gemini": ["gemini", "-p", prompt, "--yolo", "-m", "gemini-2.5-flash"],
        }[self.client]
        process = subprocess.Popen(
            [*command, *words],
            cwd=self.project,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._running.append(process)
        return process

    def run(self, prompt: str, *words: str, **more: str) -> str:
        """Run the client without a terminal, with one prompt, until it ends. Returns its stdout."""
        process = self.start(prompt, *words, **more)
        out, _ = process.communicate(timeout=PATIENCE)
        return out.decode()

    def close(self) -> None:
        """End everything that was started here."""
        for process in reversed(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL) if os.getpgid(process.pid) == process.pid else process.kill()
            process.communicate(timeout=PATIENCE)


_ANSWERS = {
    b"\x1b[6n": b"\x1b[1;1R",
    b"\x1b[c": b"\x1b[?62;c",
    b"\x1b]10;?": b"\x1b]10;rgb:ffff/ffff/ffff\x1b\\",
    b"\x1b]11;?": b"\x1b]11;rgb:0000/0000/0000\x1b\\",
}
"""Questions to a terminal (the place of the cursor, its kind, its colours), and answers: Codex waits for them."""


class Screen:
    """A client in a terminal. What it prints is read all the time."""

    def __init__(self, lab: Lab, *words: str) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(lab.project)
            os.execvpe(words[0], words, lab.environment())  # noqa: S606  # no shell is wanted
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
        self._printed = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._terminal, 65536):
                self._printed += data
                for asked, answer in _ANSWERS.items():
                    os.write(self._terminal, answer * data.count(asked))

    @property
    def text(self) -> str:
        """All that was printed, without the codes of the terminal and without blanks."""
        plain = re.sub(rb"\x1b\[[0-9;?<>=]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b.", b"", self._printed)
        return re.sub(r"\s+", "", plain.decode("utf-8", "replace"))

    def settle(self) -> None:
        """Wait until it has printed nothing for a second: then it reads keys."""
        before = -1
        while before != len(self._printed):
            before = len(self._printed)
            time.sleep(1)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._terminal, keys.encode())

    def close(self) -> None:
        """End the client."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        with contextlib.suppress(OSError):
            os.close(self._terminal)


@pytest.fixture
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """The client that `indirect` names, in a lab of its own."""
    name: str = request.param
    if not (CLIENTS / name).exists():
        pytest.skip(f"{name} is not installed in {CLIENTS}: scripts/test-agents installs it")
    root = tmp_path / "mail"
    for agent in ("alice", "bob"):
        Mailbox.init(agent, root).close()
    lab = Lab(tmp_path, root, name)
    yield lab
    lab.close()


@pytest.fixture
def screens() -> Iterator[Callable[..., Screen]]:
    """screens(lab, *words): a client in a terminal."""
    opened: list[Screen] = []

    def open_screen(lab: Lab, *words: str) -> Screen:
        opened.append(Screen(lab, *words))
        return opened[-1]

    yield open_screen
    for screen in opened:
        screen.close()
