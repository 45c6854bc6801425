"""Children that become other uids, also in user namespaces."""

import asyncio  # noqa: F401  # filelock brings it along, and a child of another uid may not be able to read it
import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import filelock  # noqa: F401

from filemailbox import log  # noqa: F401

_NEWUSER: Final = 0x10000000  # CLONE_NEWUSER
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Actor:
    """Somebody: a uid, and, in a user namespace, which uid outside is its uid 0."""

    name: str
    uid: int
    base: int | None = None

    @property
    def outside(self) -> int:
        """Its uid, and its gid, as the host sees them."""
        return self.uid + (self.base or 0)


def act(who: Actor, job: Callable[[], Any]) -> Any:
    """What *job* returns when *who* does it, in a child."""
    child, heard, let_go = _fork(who, lambda tell: os.write(tell, json.dumps(job(), default=repr).encode()))
    os.close(let_go)
    with open(heard, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)

    assert status == 0, f"the {who.name} failed"
    return json.loads(said)


@contextlib.contextmanager
def staying(who: Actor, job: Callable[[Callable[[Any], object]], object]) -> Iterator["Child"]:
    """*who*, in a child that stays until the end of the block: what it tells can be heard."""

    def talk(tell: int) -> None:
        job(lambda said: os.write(tell, json.dumps(said, default=repr).encode() + b"\n"))

    child, heard, let_go = _fork(who, talk)
    with Child(who, child, heard) as it:
        yield it
    os.close(let_go)


class Child:
    """A child that stays."""

    def __init__(self, who: Actor, pid: int, heard: int) -> None:
        self.who, self.pid, self._heard, self._rest = who, pid, heard, b""

    def hear(self, patience: float) -> Any:
        """The next thing that it tells. Raises TimeoutError, EOFError."""
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._heard], [], [], patience)
            if not ready:
                raise TimeoutError(f"the {self.who.name} says nothing")
            more = os.read(self._heard, 65536)
            if not more:
                raise EOFError(f"the {self.who.name} has ended")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def end(self, patience: float = 5.0) -> None:
        """SIGTERM, so that it can clean up; SIGKILL where it does not end by that."""
        process = os.pidfd_open(self.pid)
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(process, number)
            if select.select([process], [], [], patience)[0]:
                break
        os.waitpid(self.pid, 0)
        os.close(process)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        os.close(self._heard)


def _fork(who: Actor, job: Callable[[int], object]) -> tuple[int, int, int]:
    (heard, tell), (go, let_go) = os.pipe(), os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a test runner has threads; the child has one
        child = os.fork()
    if child == 0:
        try:
            become(who, tell, go)
            job(tell)
            os._exit(0)
        except BaseException:  # noqa: BLE001  # nothing of this may go on in the child
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)
    os.close(tell)
    os.close(go)
    if who.base is not None:
        assert os.read(heard, 1) == b"!"
        for ids in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{ids}").write_text(f"0 {who.base} 65536\n")
        os.write(let_go, b"!")
    return child, heard, let_go


def become(who: Actor, tell: int, go: int) -> None:
    """From here on this process is *who*, with no more rights than its uid has."""
    if (who.uid, who.base) == (os.geteuid(), None):
        return
    if who.base is not None:
        if _LIBC.unshare(_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "no user namespace is to be had")
        os.write(tell, b"!")
        os.read(go, 1)
    os.setgroups([])
    for uid in {0: 0, who.uid: who.uid}:  # only the step away from uid 0 gives up its capabilities
        os.setgid(uid)
        os.setuid(uid)
