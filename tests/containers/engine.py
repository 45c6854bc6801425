"""Containers for tests: shut in as those of compose.yaml, looked into from outside, removed afterwards."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from support.paths import REPO

PATIENCE: Final = 60.0  # seconds after which what we wait for will not come any more

OWNERS: Final = {"alice": "2001:2001", "bob": "2002:2002", "mallory": "2666:2666"}
SHUT_IN: Final = (
    *("--network", "none"),
    "--read-only",
    *("--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
    *("--pids-limit", "64"),
    *("--memory", "128m"),
)


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Engine:
    """The engine that scripts/test-containers gave us; all that is made there bears the name of this run."""

    def __init__(self) -> None:
        self.run = os.environ["MAILBOX_CONTAINERS"]
        self.image = os.environ["MAILBOX_IMAGE"]
        self.base = os.environ["MAILBOX_BASE"]
        self.busybox = os.environ["BUSYBOX_IMAGE"]
        self._compose = os.environ["MAILBOX_COMPOSE"].split()
        self._label = ("--label", f"filemailbox.test={self.run}")
        self._made: list[tuple[str, ...]] = []

    def docker(self, *words: object, check: bool = True, stdin: str = "") -> Said:
        """Run `docker`. Fails the test where it fails, unless *check* is false."""
        return _run(["docker", *map(str, words)], check, stdin)

    def compose(self, *words: str, files: tuple[str, ...] = ("compose.yaml",), project: str = "") -> Said:
        """Run `docker-compose`, or `docker compose`, on our project, or on another one."""
        named = [word for file in files for word in ("-f", str(REPO / file))]
        where = ["--project-directory", str(REPO), "--project-name", project or self.run]
        return _run([*self._compose, *where, *named, *words], check=True)

    def volume(self, options: str = "") -> str:
        """A volume with the boxes of alice and bob; with *options* on memory: `size=1m,nr_inodes=200`."""
        memory = ["-o", "type=tmpfs", "-o", "device=tmpfs", "-o", f"o=mode=0755,{options}"] if options else []
        name = self.docker("volume", "create", *self._label, *memory, f"{self.run}-{len(self._made)}").out.strip()
        self._made.append(("volume", "rm", "--force", name))
        if options:  # it would be gone as soon as nobody has it
            self.start(name, ["sleep", "100000"], image=self.busybox)
        script = " && ".join(f"mailbox init --owner {OWNERS[who]} {who}" for who in ("alice", "bob"))
        self.call(name, ["sh", "-c", script], "0:0", "--cap-add", "CHOWN", "--cap-add", "DAC_OVERRIDE")
        return name

    def start(
        self, volume: str, command: list[str], user: str = "2099:2099", *options: str, image: str | None = None
    ) -> "Container":
        """A container that goes on, in the background."""
        id = self.docker("run", "--detach", *self._words(volume, command, user, options, image)).out.strip()
        self._made.append(("rm", "--force", "--volumes", id))
        return Container(self, id)

    def call(
        self,
        volume: str,
        command: list[str],
        user: str,
        *options: str,
        image: str | None = None,
        check: bool = True,
        stdin: str = "",
    ) -> Said:
        """A container that ends, and what it said."""
        words = self._words(volume, command, user, options, image)
        return self.docker("run", "--rm", "--interactive", *words, check=check, stdin=stdin)

    def clear(self) -> None:
        """Remove what was made, the last first."""
        while self._made:
            self.docker(*self._made.pop(), check=False)

    def _words(
        self, volume: str, command: list[str], user: str, options: tuple[str, ...], image: str | None
    ) -> list[str]:
        mount = ("--mount", f"type=volume,source={volume},target=/mail,volume-nocopy")
        program, *arguments = command
        words = [*self._label, *SHUT_IN, *mount, "--user", user, *options, "--entrypoint", program]
        return [*words, image or self.image, *arguments]


@dataclass(frozen=True)
class Container:
    """One container, by its id or its name."""

    engine: Engine
    id: str

    def do(self, *command: str, user: str | None = None, check: bool = True, stdin: str = "") -> Said:
        """Run a command in it."""
        who = ("--user", user) if user else ()
        return self.engine.docker("exec", "--interactive", *who, self.id, *command, check=check, stdin=stdin)

    def log(self) -> str:
        """What it has printed so far."""
        said = self.engine.docker("logs", self.id)
        return said.out + said.err

    def prints(self, text: str, times: int = 1) -> None:
        """Wait until it has printed *text* so often."""
        until(lambda: self.log().count(text) >= times, lambda: f"no {text!r} in what it printed:\n{self.log()}")

    def facts(self, template: str) -> Any:
        """What the engine knows of it: a Go template, the answer read as JSON."""
        return json.loads(self.engine.docker("inspect", "--format", "{{json " + template + "}}", self.id).out)

    def stop(self, grace: int = 10) -> int:
        """`docker stop`, and the exit status."""
        self.engine.docker("stop", "--time", grace, self.id)
        status: int = self.facts(".State.ExitCode")
        return status


def until(
    condition: Callable[[], object], otherwise: Callable[[], str] = lambda: "what we waited for did not come"
) -> None:
    """Wait for an event. It fails where the event does not come at all."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.02)


def _run(command: list[str], check: bool, stdin: str = "") -> Said:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, check=False)
    said = Said(done.returncode, done.stdout, done.stderr)
    assert not check or said.code == 0, f"{' '.join(command)}: {said.code}\n{said.out}{said.err}"
    return said
