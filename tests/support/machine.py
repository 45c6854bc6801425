"""Things of this machine: root's rights, shared folders, mounts, memory; and CI, where nothing is skipped."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest


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
def fast() -> Iterator[Path]:
    """A folder in memory, if there is one: for tests of calls and renames, not of the disk."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="filemailbox-", dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def mount() -> Iterator[Callable[..., Path]]:
    """mount(path, options): mount a tmpfs of its own there."""
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
    """In CI a skipped test fails: CI has all that the tests need, or it is not set up as it should be."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but in CI it must run: {report.longrepr}"
    return report
