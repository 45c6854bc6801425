"""What lies on the disk, for tests that look there."""

import os
from pathlib import Path


def left(root: Path, *states: str) -> list[str]:
    """The mail that lies in these states of bob's box; by default, all that is not yet done with."""
    return [
        file
        for state in states or ("new", "cur", "later")
        for _, _, files in os.walk(root / "bob" / state)
        for file in files
        if file.endswith(".json")
    ]


def why(root: Path) -> str:
    """The note beside the one dead letter of bob's."""
    (note,) = (root / "bob/dead").glob("*.why")
    return note.read_text()
