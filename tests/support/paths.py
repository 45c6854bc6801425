"""Paths of this repository that tests read."""

from pathlib import Path
from typing import Final

import filemailbox

REPO: Final = Path(__file__).resolve().parents[2]
TESTS: Final = REPO / "tests"
SCRIPTS: Final = REPO / "scripts"
VECTORS: Final = TESTS / "vectors"
FORMAT_PAGE: Final = REPO / "mailbox" / "FORMAT.md"
PACKAGE: Final = REPO / "mailbox" / "filemailbox"

SOURCE: Final = str(Path(filemailbox.__file__).parents[1])
"""The `PYTHONPATH` under which a child process finds the package that this process tests."""
