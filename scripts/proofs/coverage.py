"""Every line and every branch of the modules that everything stands on is run by the tests.

The test suite but for ASIDE, watched by coverage.py, in the processes that it starts, too. That a branch was run does
not mean that it is right; that one was never run means that nobody knows.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from .record import LeftOut, Record, Result

MODULES: Final = (
    "format/address",
    "format/envelope",
    "format/filename",
    "format/times",
    "format/timestamp",
    "system/locks",
    "store/claim",
    "store/claim_deferred",
    "store/claim_new",
    "store/consumer_folder",
    "store/dead_letters",
    "store/ids",
    "store/intake",
    "store/junk",
    "store/ledger",
    "store/settle",
    "store/spool",
    "wake/doorbell",
    "wake/ringer",
    "trust/seal",
    "receive/message",
)

ASIDE: Final = (  # what a fresh process imports and writes, coverage.py changes
    "unit/format/test_codec.py::test_what_comes_after_the_first_256_is_orjsons",
    "unit/cli/test_watch.py::test_a_read_only_root_file_system_is_enough",
)

_HOME: Final = Path(__file__).resolve().parents[2]
_PACKAGE: Final = _HOME / "mailbox" / "filemailbox"
_SETTINGS: Final = """
[run]
branch = true
parallel = true
core = ctrace
patch = subprocess, _exit
data_file = {place}/data
include = {files}
[report]
exclude_also =
    if TYPE_CHECKING:
    @overload
    ^\\s*\\.\\.\\.$
partial_also =
    if not TYPE_CHECKING:
"""


def prove(record: Record, place: str) -> None:
    """Run the tests once. What they are watched with lies beside *place*: tests that act as other uids write there."""
    with tempfile.TemporaryDirectory(prefix="mailbox-", dir=os.path.dirname(place)) as open_to_all:
        os.chmod(open_to_all, 0o1777)
        record.do("coverage", [("the tests", lambda: cover(open_to_all))])


def cover(place: str) -> Result:
    """Run the tests, and tell what of the modules was not run."""
    _install()
    files = ",".join(str(_PACKAGE / f"{name}.py") for name in MODULES)
    settings = Path(place, "settings")
    settings.write_text(_SETTINGS.format(place=place, files=files))
    coverage = [sys.executable, "-m", "coverage"]
    tests = [*coverage, "run", f"--rcfile={settings}", "-m", "pytest", "-q", "-n", "2"]
    tests += [f"--deselect=tests/{test}" for test in ASIDE]
    environment = {**os.environ, "COVERAGE_CORE": "ctrace"}
    done = subprocess.run(tests, cwd=_HOME, env=environment, capture_output=True, text=True, check=False)
    result = Result()
    if done.returncode != 0:
        result.broken.append(f"the tests fail: {done.stdout[-2000:]}{done.stderr[-500:]}")
    for words in (["combine", "-q"], ["json", "-q", f"-o{place}/report"]):
        subprocess.run([*coverage, words[0], f"--rcfile={settings}", *words[1:]], cwd=place, check=True)
    report = json.loads(Path(place, "report").read_text())["files"]
    for name in MODULES:
        facts = next(facts for path, facts in report.items() if path.endswith(f"/{name}.py"))
        total = facts["summary"]
        result.add(lines=total["num_statements"], branches=total["num_branches"], not_counted=total["excluded_lines"])
        if facts["missing_lines"]:
            result.broken.append(f"{name}.py: lines {_spans(facts['missing_lines'])} are never run")
        for begin, end in facts["missing_branches"]:
            if begin not in facts["missing_lines"] and end not in facts["missing_lines"]:
                where = f"line {end}" if end > 0 else "the end"
                result.broken.append(f"{name}.py: from line {begin} the tests never go to {where}")
    return result


def _install() -> None:
    """coverage.py is no part of what we need otherwise."""
    if importlib.util.find_spec("coverage") is None:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--group", "prove"]
        if subprocess.run(pip, cwd=_HOME, check=False).returncode != 0:
            raise LeftOut("coverage.py could not be installed")


def _spans(lines: list[int]) -> str:
    """3, 5-7."""
    spans: list[list[int]] = []
    for line in lines:
        if spans and line == spans[-1][1] + 1:
            spans[-1][1] = line
        else:
            spans.append([line, line])
    return ", ".join(f"{begin}" if begin == end else f"{begin}-{end}" for begin, end in spans)
