"""What the tests share: a fresh root, two mailboxes, programs of their own, and how to wait for an event."""

import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import filemailbox
from filemailbox import Mailbox
from filemailbox.cli.run import main
from filemailbox.format.address import Address
from filemailbox.store.root import find_root
from filemailbox.store.spool import Spool

PATIENCE = 20.0  # seconds after which what we wait for will not come any more
SOURCE = str(Path(filemailbox.__file__).parents[1])

# Nobody's own keys, names and volumes take part.
for variable in ("ROOT", "AGENT", "KEY_DIR", "REGISTRY", "MIN_TRUST", "SEAL", "SIGN"):
    os.environ.pop(f"MAILBOX_{variable}", None)
os.environ["HOME"] = "/nonexistent"

# In the background of a shell Ctrl-C is ignored, and children inherit that: what they do at Ctrl-C is tried here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No timing is asserted, and nothing is left behind.
settings.register_profile("ours", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A fresh root with the boxes of alice and bob."""
    path = tmp_path / "mail"
    for name in ("alice", "bob"):
        Mailbox.init(name, path).close()
    return path


@pytest.fixture
def alice(root: Path) -> Iterator[Mailbox]:
    with Mailbox("alice", root, durable=False) as box:
        yield box


@pytest.fixture
def new(root: Path) -> Path:
    """Bob's `new/`."""
    return root / "bob/new"


@pytest.fixture
def taker(root: Path) -> Iterator[Spool]:
    """A consumer of bob's, below the mailbox."""
    taker = Spool(find_root(root), Address("bob"))
    yield taker
    taker.close()


@pytest.fixture
def bob(root: Path) -> Iterator[Mailbox]:
    with Mailbox("bob", root, durable=False) as box:
        yield box


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """until(condition): wait for an event. It fails where the event does not come at all."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "what we waited for did not come"
            time.sleep(0.005)

    return wait


class Program:
    """A Python program in a process of its own, which tells us on its stdout how far it is."""

    def __init__(self, script: str, *arguments: object, **environment: str) -> None:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": SOURCE, "PYTHONUNBUFFERED": "1", **environment}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.pid = self.process.pid

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        text = b""
        while not text.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
            assert ready, "the program says nothing"
            byte = os.read(self.process.stdout.fileno(), 1)
            assert byte, f"the program ended with {self.process.wait()} before it said anything"
            text += byte
        return text.decode().rstrip("\n")

    def say(self, text: str = "") -> None:
        """A line on its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Wait until it ends; its exit status."""
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """start(script, *arguments): run a Python program; it is killed when the test is over."""
    programs: list[Program] = []

    def begin(script: str, *arguments: object, **environment: str) -> Program:
        programs.append(Program(script, *arguments, **environment))
        return programs[-1]

    yield begin
    for program in programs:
        program.close()


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def records(self) -> list[dict[str, Any]]:
        """JSON Lines, read."""
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def mailbox(root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """mailbox(*words): run the command, in this process, for bob unless `sender=`; *stdin* is what it reads."""
    monkeypatch.setenv("MAILBOX_ROOT", str(root))

    def run(*words: object, stdin: str | bytes = b"", sender: str = "bob") -> Said:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setenv("MAILBOX_AGENT", sender)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        capfd.readouterr()
        code = main([str(word) for word in words])
        sys.stdout.flush()
        return Said(code, *capfd.readouterr())

    return run


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can act as several users")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every uid can reach, as a volume is: pytest's own folders are private."""
    folder = Path(tempfile.mkdtemp(prefix="filemailbox-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def mount() -> Iterator[Callable[..., Path]]:
    """mount(path, options): a tmpfs of its own there."""
    mounted: list[Path] = []

    def put(path: Path, options: str = "size=1m") -> Path:
        path.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "filemailbox-test", str(path)]
        if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
            pytest.skip("mounting needs root and the right to mount")
        mounted.append(path)
        return path

    yield put
    for path in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that would be skipped fails: there it has all that it needs, or CI is not what it should be."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but in CI it must run: {report.longrepr}"
    return report
