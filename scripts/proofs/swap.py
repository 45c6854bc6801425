"""A race: an attacker of our own uid puts links to a secret under a name that is read, and takes them away again.

tests/system/test_hostile.py, with many more reads than in a test: by claims, by looks (`mailbox list`), and by a
request that waits for its answer. Mail comes, the secret never.
"""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

from .record import Record, Result

_HOW = ("claim", "peek", "request")
_TESTS = Path(__file__).resolve().parents[2] / "tests" / "system" / "test_hostile.py"


def prove(record: Record, place: str, reads: int) -> None:
    """Read so often in each of the three ways."""
    record.do("swap", [(f"{reads} reads, {how}", partial(swap, place, reads, how)) for how in _HOW])


def swap(place: str, reads: int, how: str) -> Result:
    """Run the test with so many reads."""
    environment = {**os.environ, "MAILBOX_READS": str(reads)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0"]
    command += [f"--basetemp={place}/swap-{how}", "-k", f"swapped_while_it_is_read and {how}", str(_TESTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    result = Result({"reads": reads if re.search(r"\b1 passed", done.stdout) else 0})
    if done.returncode != 0:
        result.broken.append(done.stdout[-6000:] + done.stderr[-1000:])
    return result
