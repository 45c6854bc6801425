"""Measure one version of the package, on request: the worker of against.py. It uses only what every version has.

Run as `python one_version.py FOLDER` with the version's PYTHONPATH. Each line on stdin is `WHAT N`; the answer is a
line with the seconds for one of N: CPU seconds of this process, for `wake` wall-clock seconds from a send to the
callback in another process, the median of N; for `start` CPU seconds of a whole `send`.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from filemailbox import Mailbox

BODY = {"path": "src/main.c", "line": 217, "note": "x" * 80}


class Version:
    """The mailboxes of this version, open."""

    def __init__(self, folder: str) -> None:
        self.root = f"{folder}/mail"
        for name in ("alice", "bob", "carol", "dave"):
            Mailbox.init(name, self.root).close()
        self.alice = Mailbox("alice", self.root, durable=False)
        self.bob = Mailbox("bob", self.root, durable=False)
        self.carol = Mailbox("carol", self.root, durable=False)
        self.carol.on()(lambda _: None)
        self.heard, write = os.pipe()
        self.listener = os.fork()
        if self.listener == 0:
            _listen(self.root, write)
        os.close(write)
        os.read(self.heard, 8)

    def put(self, n: int) -> float:
        spent = _cpu(lambda: self._send("bob", n))
        self._take(n)
        return spent / n

    def drain(self, n: int) -> float:
        self._send("bob", n)
        return _cpu(lambda: self._take(n)) / n

    def cycle(self, n: int) -> float:
        def cycle() -> None:
            for _ in range(n):
                self._send("bob", 1)
                self._take(1)

        return _cpu(cycle) / n

    def callback(self, n: int) -> float:
        self._send("carol", n)
        return _cpu(lambda: self.carol.run(drain=True)) / n

    def wake(self, n: int) -> float:
        times = []
        for _ in range(n):
            time.sleep(0.002)
            began = time.monotonic_ns()
            self.alice.send("dave", BODY)
            times.append(int.from_bytes(os.read(self.heard, 8), "little") - began)
        return median(times) / 1e9

    def start(self, n: int) -> float:
        command = [sys.executable, "-m", "filemailbox", "send", "alice", "the build is green", "--as", "bob"]
        times = []
        for _ in range(n):
            process = subprocess.Popen([*command, "--root", self.root], stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = status
            assert status == 0, "send failed"
            times.append(used.ru_utime + used.ru_stime)
        return median(times)

    def _send(self, to: str, n: int) -> None:
        for _ in range(n):
            self.alice.send(to, BODY)

    def _take(self, n: int) -> None:
        for _ in range(n):
            message: Any = self.bob.receive()
            message.ack()


def _listen(root: str, write: int) -> None:
    """Report the clock at each callback, until killed."""
    with Mailbox("dave", root, durable=False) as dave:
        dave.on()(lambda _: os.write(write, time.monotonic_ns().to_bytes(8, "little")) and None)
        threading.Timer(1.0, os.write, (write, bytes(8))).start()  # by then it listens
        dave.run()
    os._exit(0)


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main(folder: str) -> None:
    version = Version(folder)
    print("ready", flush=True)
    for line in sys.stdin:
        what, n = line.split()
        print(getattr(version, what)(int(n)), flush=True)
    os.kill(version.listener, 9)


if __name__ == "__main__":
    logging.getLogger("filemailbox").setLevel(logging.CRITICAL)  # run() reports its start
    main(sys.argv[1])
