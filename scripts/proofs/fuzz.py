"""Random names, files, envelopes, seals and command lines: tests/system/test_fuzz.py, with many
more examples than in a test.

What breaks a rule is shrunk to its simplest form and printed; it then becomes a vector in tests/vectors, or a test.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from .record import Record, Result

_TESTS = Path(__file__).resolve().parents[2] / "tests" / "system" / "test_fuzz.py"


def prove(record: Record, place: str, short: bool = False) -> None:
    """Try 20 000 examples of each kind; *short*: 500."""
    examples = 500 if short else 20_000
    record.do("fuzz", [(f"{examples} examples of each", lambda: fuzz(place, examples))])


def fuzz(place: str, examples: int) -> Result:
    """Run the tests with so many examples."""
    environment = {**os.environ, "FILEMAILBOX_EXAMPLES": str(examples)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", f"--basetemp={place}/fuzz"]
    done = subprocess.run([*command, str(_TESTS)], env=environment, capture_output=True, text=True, check=False)
    passed = re.search(r"(\d+) passed", done.stdout)
    result = Result({"properties": int(passed[1]) if passed else 0, "examples_of_each": examples})
    if done.returncode != 0:
        result.broken.append(done.stdout[-6000:] + done.stderr[-1000:])
    return result
