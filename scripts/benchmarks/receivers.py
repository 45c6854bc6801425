"""The receivers of wake.py, each a process of its own: `python -m benchmarks.receivers FOLDER PIPE HOW [SETTING]`.

Each says on the pipe when it listens, and then, with every message, when its callback began.
"""

import asyncio
import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import orjson
import watchfiles

from filemailbox import Mailbox
from filemailbox.settings import POLL_INTERVAL, WATCHERS
from filemailbox.wake.watcher import IDLE_STEP

SAID: Final = struct.Struct("qq")
"""What is said: the clock at the first line of the callback, and the CPU time of the process so far; both in ns."""

_POLLING: Final = 0.01  # seconds

Callback: TypeAlias = Callable[[Any], None]


def main(folder: str, pipe: int, how: str, *settings: str) -> None:
    def callback(_: Any) -> None:
        now = time.monotonic_ns()
        os.write(pipe, SAID.pack(now, time.process_time_ns()))

    HOW[how](folder, callback, *settings)


def _bare(folder: str, callback: Callback) -> None:
    new = _open(f"{folder}/new")
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bell.bind(f"{folder}/bell")
    callback(None)
    while True:
        bell.recv(1)
        _take(new, callback)


def _stream(folder: str, callback: Callback) -> None:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.connect(f"{folder}/stream")
    callback(None)
    data = b""
    while more := stream.recv(65536):
        data += more
        if data.endswith(b"\n"):
            callback(orjson.loads(data))
            data = b""


def _watchfiles(folder: str, callback: Callback) -> None:
    new = _open(f"{folder}/new")
    callback(None)
    for _ in watchfiles.watch(
        f"{folder}/new",
        watch_filter=None,
        debounce=IDLE_STEP,
        step=IDLE_STEP,
        rust_timeout=1000,
        yield_on_timeout=True,  # what came before it watched
        recursive=False,
    ):
        _take(new, callback)


def _polling(folder: str, callback: Callback) -> None:
    new = _open(f"{folder}/new")
    callback(None)
    while True:
        time.sleep(_POLLING)
        _take(new, callback)


def _take(new: int, callback: Callback) -> None:
    for name in os.listdir(new):
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=new)
        data = os.read(file, 65536)
        os.close(file)
        message = orjson.loads(data)
        os.unlink(name, dir_fd=new)
        callback(message)


def _open(folder: str) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _ours(folder: str, callback: Callback, watcher: str = WATCHERS[0], poll_interval: str = str(POLL_INTERVAL)) -> None:
    with Mailbox("bob", folder, watcher=watcher, poll_interval=float(poll_interval)) as box:
        box.on()(callback)
        callback(None)
        box.run()


def _ours_async(folder: str, callback: Callback) -> None:
    async def handler(message: Any) -> None:
        callback(message)

    with Mailbox("bob", folder) as box:
        box.on()(handler)
        callback(None)
        asyncio.run(box.arun())


HOW: Final[dict[str, Callable[..., None]]] = {
    "bare": _bare,
    "stream": _stream,
    "watchfiles": _watchfiles,
    "polling": _polling,
    "ours": _ours,
    "ours-async": _ours_async,
}


if __name__ == "__main__":
    logging.getLogger("filemailbox").setLevel(logging.CRITICAL)  # run() reports its start
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
