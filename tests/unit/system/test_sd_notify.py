"""Telling a service manager how we are."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from filemailbox.system.sd_notify import SdNotify


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager that listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def heard(manager: socket.socket) -> list[str]:
    said = []
    try:
        while True:
            said.append(manager.recv(4096).decode())
    except BlockingIOError:
        return said


def test_words_are_lines_of_one_datagram(manager: socket.socket) -> None:
    """sd_notify(3)."""
    SdNotify().say("READY=1", "STATUS=watching")

    assert heard(manager) == ["READY=1\nSTATUS=watching"]


def test_an_abstract_address_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins with @."""
    name = f"filemailbox-{os.getpid()}-{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        SdNotify().say("READY=1")

        assert heard(manager) == ["READY=1"]


def test_that_we_stop_is_said_once(manager: socket.socket) -> None:
    """However often it is noticed."""
    one = SdNotify()
    one.stopping()
    one.stopping()

    assert heard(manager) == ["STOPPING=1"]


def test_the_watchdog_is_fed_twice_as_often_as_it_asks(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more than that."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    one, counts = SdNotify(), []
    for _ in range(9):
        one.beat()
        counts.append(len(heard(manager)))
        clock[0] += 0.25

    assert counts == [1, 0, 0, 0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("span", "pid"), [("", None), ("0", None), ("-5", None), ("x", None), ("9" * 9999, None), ("1000", "1")]
)
def test_where_no_watchdog_waits_for_us_nothing_is_said(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, span: str, pid: str | None
) -> None:
    """No span, none that is one, or one meant for another process. Nor does it fail."""
    monkeypatch.setenv("WATCHDOG_USEC", span)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    one = SdNotify()
    one.beat()
    first = heard(manager)
    one.beat()

    assert first == ([] if len(span) < 99 else ["WATCHDOG=1"])
    assert heard(manager) == []


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@nobody-listens-there", "x" * 500])
def test_without_a_manager_it_is_silent(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Never an error: a listener works without."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    said = [SdNotify().say("READY=1"), SdNotify().stopping()]  # type: ignore[func-returns-value]

    assert said == [None, None]
