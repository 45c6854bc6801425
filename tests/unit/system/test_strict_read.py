"""The one strict read: a table of what it accepts and refuses."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from filemailbox.system.files import FOLDER, READ
from filemailbox.system.strict_read import is_only_link, strict_read


@pytest.mark.parametrize(
    ("prepare", "size", "reason", "is_final"),
    [
        pytest.param(lambda path: path.write_bytes(b"12345"), 5, None, False, id="as its name says"),
        pytest.param(lambda path: path.write_bytes(b"12345"), None, None, False, id="its name says nothing"),
        pytest.param(lambda path: path.write_bytes(b"1234"), 5, "4 bytes.*S=5", False, id="shorter"),
        pytest.param(lambda path: path.write_bytes(b"123456789"), None, "8 is the limit", True, id="too large"),
        pytest.param(os.mkfifo, None, "FIFO", True, id="no file"),
    ],
)
def test_a_file_is_read_or_refused_with_a_reason(
    tmp_path: Path, prepare: Callable[[Path], object], size: int | None, reason: str | None, is_final: bool
) -> None:
    """The content of a refused file is never returned."""
    path = tmp_path / "x"
    prepare(path)
    fd = os.open(path, READ)
    data, st, refusal = strict_read(fd, 8, size)
    os.close(fd)

    assert (data, refusal is None) == ((b"12345", True) if reason is None else (b"", False))
    assert st.st_ino == path.stat().st_ino
    if refusal is not None:
        assert re.search(str(reason), refusal.reason)
        assert refusal.is_final is is_final


def test_a_second_name_is_refused_and_seen(tmp_path: Path) -> None:
    """By the count of the links, or, in a folder where others rename, by the entry that was opened."""
    (tmp_path / "secret").write_bytes(b"1")
    os.link(tmp_path / "secret", tmp_path / "x")
    dir_fd = os.open(tmp_path, FOLDER)
    fd = os.open("x", READ, dir_fd=dir_fd)
    refusal = strict_read(fd, 8)[2]
    (tmp_path / "x").unlink()
    seen = is_only_link("x", dir_fd, fd), strict_read(fd, 8)[2]
    os.close(fd)
    os.close(dir_fd)

    assert refusal is not None
    assert not refusal.is_final
    assert seen == (False, None)
