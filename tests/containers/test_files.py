"""The files for other tools than the one that runs here: what their schemas and parsers say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import REPO

COMPOSE = ["compose.yaml", "scripts/compose.tmpfs.yaml", "scripts/compose.secrets.yaml"]
VERSIONS = ["1.29", "1.33", "1.37"]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Validators, in an environment of their own: the bin folder."""
    folder = tmp_path_factory.mktemp("tools")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    packages = ["check-jsonschema", "kubernetes-validate", "podman-compose"]
    install = [f"{folder}/bin/pip", "install", "-q", "--disable-pip-version-check", *packages]
    subprocess.run(install, check=True)
    podman = folder / "bin" / "podman"  # podman-compose asks for its version before it reads anything
    podman.write_text("#!/bin/sh\necho podman version 5.0.0\n")
    podman.chmod(0o755)
    return folder / "bin"


@pytest.mark.parametrize("file", COMPOSE)
def test_it_is_valid_by_the_schema_of_the_compose_specification(tools: Path, file: str) -> None:
    """That is what `docker compose` version 2 goes by."""
    said = _run([tools / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", REPO / file])

    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("more", [[], *([each] for each in COMPOSE[1:])], ids=["alone", "tmpfs", "secrets"])
def test_podman_compose_understands_it(tools: Path, more: list[str]) -> None:
    """It reads the files, merges them, and finds all services."""
    files = [word for file in [COMPOSE[0], *more] for word in ("-f", REPO / file)]
    said = _run([tools / "podman-compose", *files, "config"], PATH=f"{tools}:{os.environ['PATH']}")

    assert said.returncode == 0, said.stderr
    assert all(f"  {name}:\n" in said.stdout for name in ("alice", "bob", "boxes", "carol"))


def test_podman_compose_understands_the_profile(tools: Path) -> None:
    """`--profile relay`: those with volumes of their own, too."""
    compose: list[str | Path] = [tools / "podman-compose", "--profile", "relay", "-f", REPO / COMPOSE[0], "config"]
    said = _run(compose, PATH=f"{tools}:{os.environ['PATH']}")

    assert said.returncode == 0, said.stderr
    assert all(f"  {name}:\n" in said.stdout for name in ("offices", "relay", "planner", "coder", "tester"))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pod_is_valid_by_the_schema_of_kubernetes(tools: Path, version: str) -> None:
    """Strictly: no member that the API does not know."""
    pod = REPO / "scripts" / "kubernetes.yaml"
    said = _run([tools / "kubernetes-validate", "--strict", "-k", version, pod])

    assert said.returncode == 0, said.stdout + said.stderr


def _run(command: list[str | Path], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **more})
