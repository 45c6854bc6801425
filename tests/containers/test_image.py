"""The image of scripts/Dockerfile, and what can be installed without it."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from containers.engine import OWNERS, Engine, until
from support.paths import REPO

Tell = Callable[[str], None]
BOB = OWNERS["bob"]


def test_it_adds_little_to_its_base_and_is_nobody(engine: Engine, tell: Tell) -> None:
    """It runs as a uid without rights, and `mailbox` is what it runs."""
    size, below = (
        int(engine.docker("image", "inspect", "--format", "{{.Size}}", each).out) / 1e6
        for each in (engine.image, engine.base)
    )
    config = json.loads(engine.docker("image", "inspect", "--format", "{{json .Config}}", engine.image).out)

    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["mailbox"]
    assert not config.get("Volumes")  # else each container would leave one behind
    tell(f"{size - below:.0f} MB on a base of {below:.0f} MB")


def test_nothing_is_compiled_at_start(engine: Engine) -> None:
    """The byte code of all that a command imports is there: on a read-only root it could not be kept."""
    volume = engine.volume()
    said = engine.call(volume, ["python3", "-v", "-m", "filemailbox", "agents"], BOB)
    loaded = [line for line in said.err.splitlines() if " matches " in line]
    compiled = re.findall(r"^# code object from (?:'/.*[.]py'|/.*[.]py)$", said.err, re.MULTILINE)

    assert "alice" in said.out
    assert len(loaded) > 50
    assert not compiled


START = """
import subprocess, time
from statistics import median
send, bare = [], []
for _ in range(40):
    for times, command in ((send, ["mailbox", "send", "bob", "hello", "--as", "alice"]), (bare, ["python3", "-c", ""])):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
print(f"{median(send) / median(bare):.1f} × of `python3 -c pass` ({1e3 * median(send):.0f} ms)")
"""


def test_send_starts_quickly(engine: Engine, tell: Tell) -> None:
    """The whole process, in a container that is shut in."""
    said = engine.call(engine.volume("size=16m"), ["python3", "-c", START], OWNERS["alice"])

    assert "×" in said.out
    tell(f"`mailbox send` takes {said.out.strip()}")


def test_as_process_1_it_takes_leave_of_orphans(engine: Engine) -> None:
    """What a command left running and has ended does not stay as a zombie, without `init`."""
    volume = engine.volume()
    handler = "(sleep 0.1 & echo orphan $! >&2)"
    bob = engine.start(volume, ["mailbox", "watch", "--as", "bob", "--", "sh", "-c", handler], BOB)
    engine.call(volume, ["mailbox", "send", "bob", "--lines", "--as", "alice"], OWNERS["alice"], stdin="1\n2\n3\n")
    bob.prints("orphan", 3)
    orphans = [line.split()[1] for line in bob.log().splitlines() if line.startswith("orphan")]

    until(lambda: not [pid for pid in orphans if bob.do("test", "-e", f"/proc/{pid}", check=False).code == 0])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(folder), str(REPO)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_works_in_a_bare_debian(engine: Engine, wheel: Path) -> None:
    """Debian 12 with its own Python and nothing else: pip install, then mail."""
    script = f"""
        set -e
        python3 -m venv /venv && /venv/bin/pip install -q --disable-pip-version-check --only-binary :all: /{wheel.name}
        PATH=/venv/bin:$PATH && mailbox init alice bob
        mailbox send bob "in a bare userland" --as alice > /dev/null
        mailbox watch --as bob --drain --reply --exec 'tr a-z A-Z'
        mailbox receive --as alice --body
    """
    options = ("--network", "host", "--label", f"filemailbox.test={engine.run}")
    id = engine.docker("create", *options, engine.base, "sh", "-c", script).out.strip()
    try:
        engine.docker("cp", wheel, f"{id}:/")
        said = engine.docker("start", "--attach", id)
    finally:
        engine.docker("rm", "--force", id)

    assert said.out.splitlines()[-1] == "IN A BARE USERLAND"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_an_alpine_finds_wheels_of_all_that_it_depends_on(
    wheel: Path, tmp_path: Path, python: str, machine: str, tell: Tell
) -> None:
    """musl: pip resolves everything to wheels, and has nothing to compile."""
    platforms = [word for minor in (1, 2) for word in ("--platform", f"musllinux_1_{minor}_{machine}")]
    wanted = ["--only-binary", ":all:", "--python-version", python, "--implementation", "cp", *platforms]
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--report", str(report)]
    subprocess.run([*command, "--target", str(tmp_path / "none"), *wanted, str(wheel)], check=True)
    files = [each["download_info"]["url"].rpartition("/")[2] for each in json.loads(report.read_text())["install"]]

    assert all(name.endswith((f"_{machine}.whl", "-any.whl")) for name in files), files
    tell(", ".join(sorted(name.split("-")[0] for name in files if "musllinux" in name)))
