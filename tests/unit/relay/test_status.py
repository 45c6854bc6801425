"""The status file: what the relay writes, `mailbox relay health` reads."""

from pathlib import Path

import pytest

from filemailbox.relay.status import RelayStatus, StatusFile, read_status, status_path
from support.relayed import HandClock

STATUS = RelayStatus("20261124T014530.123456789Z", "digest", 2, 3, 4, None, {"bob": "full"}, {}, 5)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """All of it, until it is removed."""
    file = StatusFile(str(tmp_path))
    file.update(lambda: STATUS)

    assert read_status(str(tmp_path)) == STATUS
    file.remove()
    with pytest.raises(FileNotFoundError):
        read_status(str(tmp_path))


def test_it_is_written_at_most_once_a_second(tmp_path: Path) -> None:
    """A report costs nothing in between: it is not even made."""
    clock, made = HandClock(), list[float]()
    file = StatusFile(str(tmp_path), clock)

    def make() -> RelayStatus:
        made.append(clock.ticks)
        return STATUS

    for wait in (0.0, 0.5, 0.4, 0.2):
        clock.advance(wait)
        file.update(make)

    assert made == [1000.0, 1001.1]


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"time":"now"}', b"{", b'{"unknown":1}'],
    ids=["empty", "a-list", "no-members", "no-time", "torn", "another-version"],
)
def test_a_file_that_cannot_be_understood_is_a_value_error(tmp_path: Path, data: bytes) -> None:
    """So that a health check says so, instead of failing in another way."""
    Path(status_path(str(tmp_path))).write_bytes(data)

    with pytest.raises(ValueError):  # noqa: PT011  # the text is the parser's
        read_status(str(tmp_path))


def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    """The folder may even be gone."""
    StatusFile(str(tmp_path / "gone")).update(lambda: STATUS)
