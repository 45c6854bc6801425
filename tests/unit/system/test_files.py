"""Hostile files, read strictly."""

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from filemailbox.system import files


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    folder = os.open(tmp_path, files.FOLDER)
    yield folder
    os.close(folder)


@pytest.mark.parametrize(
    ("size", "limit", "got"),
    [
        pytest.param(0, 0, 0, id="empty"),
        pytest.param(5, 5, 5, id="as large as it was"),
        pytest.param(5, 4, 5, id="one byte more than it was: noticed"),
        pytest.param(500, 4, 5, id="much more: one byte read, no flood"),
        pytest.param(5, 9, 5, id="less than it was"),
        pytest.param(3_000_000, 3_000_000, 3_000_000, id="more than a page"),
    ],
)
def test_at_most_one_byte_more_than_expected_is_read(tmp_path: Path, size: int, limit: int, got: int) -> None:
    """So a file that grows while it is read is noticed, and cannot fill our memory."""
    path = tmp_path / "x"
    path.write_bytes(b"x" * size)
    file = os.open(path, files.READ)
    data = files.read(file, limit)
    os.close(file)

    assert data == b"x" * got


def test_what_comes_in_pieces_is_read_as_a_whole() -> None:
    """A read may give less than was asked for: on a network file system, on a signal."""
    out, into = os.pipe()
    os.write(into, b"one")
    os.close(into)
    data = files.read(out, 3)
    os.close(out)

    assert data == b"one"


def test_a_short_read_is_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the end of the file, not until the first short answer."""
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    real = os.read
    monkeypatch.setattr(os, "read", lambda file, size: real(file, min(size, 3)))
    file = os.open(path, files.READ)
    data = files.read(file, 10)
    os.close(file)

    assert data == b"0123456789"


def test_a_link_is_not_followed(tmp_path: Path, folder: int) -> None:
    """It could lead to a file of the reader's that the sender may not read."""
    (tmp_path / "secret").write_text("x")
    (tmp_path / "link").symlink_to("secret")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dirlink").symlink_to("dir")

    with pytest.raises(OSError, match="symbolic link"):
        os.open("link", files.READ, dir_fd=folder)
    with pytest.raises(NotADirectoryError):
        os.open("dirlink", files.FOLDER, dir_fd=folder)


def test_a_fifo_is_opened_without_waiting_for_the_other_end(tmp_path: Path, folder: int) -> None:
    """Else it would stop all mail behind it for ever."""
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open("fifo", files.READ, dir_fd=folder)
    kind = files.describe_type(os.fstat(fifo).st_mode)
    data = files.read(fifo, 10)
    os.close(fifo)

    assert (kind, data) == ("a FIFO", b"")


def test_what_is_opened_is_not_left_open_for_handlers(tmp_path: Path, folder: int) -> None:
    """A program that a handler starts inherits nothing of the box."""
    (tmp_path / "x").touch()
    file = os.open("x", files.READ, dir_fd=folder)
    inherited = (os.get_inheritable(file), os.get_inheritable(folder))
    os.close(file)

    assert inherited == (False, False)


def test_a_listing_shows_what_is_there_each_time(tmp_path: Path, folder: int) -> None:
    """One descriptor, listed again and again."""
    seen = [files.list_dir(folder)]
    (tmp_path / "a").touch()
    seen.append(files.list_dir(folder))
    (tmp_path / "b").touch()
    (tmp_path / "a").unlink()
    seen.append(files.list_dir(folder))

    assert seen == [[], ["a"], ["b"]]


def test_each_kind_of_thing_has_a_name(tmp_path: Path) -> None:
    """As it stands in the reason of a dead letter."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    here = os.open(tmp_path, os.O_PATH)
    listener.bind(f"/proc/self/fd/{here}/sock")
    os.close(here)
    listener.close()
    kinds = {path.name: files.describe_type(path.lstat().st_mode) for path in tmp_path.iterdir()}
    kinds["null"] = files.describe_type(os.stat("/dev/null").st_mode)

    assert kinds == {
        "dir": "a folder",
        "link": "a symbolic link",
        "fifo": "a FIFO",
        "sock": "a socket",
        "null": "a device",
    }


@pytest.mark.parametrize(
    "refusal",
    [None, ImportError(), OSError(errno.ENOSYS, "not in this C library"), errno.EINVAL],
    ids=["renameat2", "no ctypes", "no such call", "no such flag"],
)
def test_what_is_put_back_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception | int | None
) -> None:
    """Another file may have come under its name meanwhile."""
    if refusal is not None:

        def refuse(*_: object) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

        def load(*, use_errno: bool) -> Any:
            if isinstance(refusal, Exception):
                raise refusal
            return refuse

        monkeypatch.setattr(files, "_load", load)
        monkeypatch.setattr(files, "_call", None)
    folders = []
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        folders.append(os.open(tmp_path / name, files.FOLDER))
    (tmp_path / "ours/x").write_text("odd")
    (tmp_path / "ours/y").write_text("odd")
    (tmp_path / "theirs/y").write_text("mail")
    try:
        files.rename_noreplace("x", *folders)
        with pytest.raises(FileExistsError):
            files.rename_noreplace("y", *folders)
        with pytest.raises(FileNotFoundError):
            files.rename_noreplace("z", *folders)
    finally:
        for folder in folders:
            os.close(folder)

    assert (tmp_path / "theirs/x").read_text() == "odd"
    assert (tmp_path / "theirs/y").read_text() == "mail"
    assert os.listdir(tmp_path / "ours") == ["y"]
