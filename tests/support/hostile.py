"""Hostile entries of a box: a table of kinds, each of which plants itself and says how it must end.

mail        it is mail after all, however it looks: delivered, and harmless to handle and to show
dead        a dead letter, the file untouched, the reason beside it
removed     taken away, a note in its place
left        left alone, for a reason that is said
"""

import array
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeAlias

from filemailbox.errors import quoted
from filemailbox.format.filename import parse_filename, stem_of

End = Literal["mail", "dead", "removed", "left"]

SECRET: Final = "4f1c-the-secret"  # noqa: S105  # of this test alone
"""What no reader must ever be handed, nor see on its screen: it stands in a file that only links lead to."""

LIMIT: Final = 1 << 20


@dataclass
class Ground:
    """Where things are planted."""

    folder: Path
    outside: Path
    """A folder beside the volume, on the same file system, with a secret in it."""
    alive: ExitStack
    """What must be ended when the test is over: processes, threads, leases."""
    prefix: str = ""
    """What every name begins with: the due time in `later/`."""
    tag: str = ""
    """What tells its names from those of another planter."""
    planted: list[str] = field(default_factory=list)
    """The names of what was planted."""

    def path(self, name: str | bytes) -> Path:
        """The path of a thing to plant. No two have one name."""
        text = self.prefix + os.fsdecode(name)
        if text in self.planted or (self.tag and parse_filename(text) is None):
            text = f"{self.prefix}{self.tag}{len(self.planted)}-{os.fsdecode(name)}"
        self.planted.append(text)
        return self.folder / text

    def ours(self, fields: str) -> Path:
        """The same, under a name of our making: an id, and *fields*."""
        return self.path(f"{fresh()}{fields}.json")

    def write(self, path: Path, content: bytes = b"") -> None:
        """A file, as others drop it."""
        path.write_bytes(content)
        path.chmod(0o644)

    @property
    def secret(self) -> Path:
        """A file that its owner can read, and would be handed as mail by a careless reader."""
        return self.outside / "secret"


Plant: TypeAlias = Callable[[Ground], None]


@dataclass(frozen=True)
class Kind:
    """One kind of hostile entry."""

    name: str
    plant: Plant
    end: End
    reason: str = ""
    """What is said of it, by its dead letter, its note, the log or `mailbox doctor`: a regular expression."""
    root: bool = False
    """Whether only root can plant it."""
    private: bool = False
    """Whether its planter keeps it from being read: to root, it is mail."""


def fresh() -> str:
    """An id that nobody else has, of the year 2020: older than all other mail."""
    return f"20200101T000000.000000000Z-{os.urandom(6).hex()}"


# What is no file


def link(to: Callable[[Ground], object]) -> Plant:
    return lambda ground: ground.path("link.json").symlink_to(str(to(ground)))


def itself(ground: Ground) -> None:
    path = ground.path("itself.json")
    path.symlink_to(path.name)


def hard_link(ground: Ground) -> None:
    os.link(ground.secret, ground.ours(f",S={ground.secret.stat().st_size}"))


def hard_link_foreign(ground: Ground) -> None:
    os.link(ground.secret, ground.path("hard-link.json"))


def two_names(ground: Ground) -> None:
    """One file, twice in one box: acked under one name, it would still be there under the other."""
    first = ground.path("once.json")
    ground.write(first, b'{"two":"names"}')
    os.link(first, ground.path("twice.json"))


def fifo(ground: Ground) -> None:
    os.mkfifo(ground.path("fifo.json"))


def waiting_fifo(ground: Ground, content: bytes = b"") -> None:
    """Somebody holds its other end open, so that a reader would wait."""
    path = ground.ours(f",S={len(content)}")
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    ground.alive.callback(os.close, end)
    os.write(end, content)


def unix_socket(kind: int) -> Plant:
    def plant(ground: Ground) -> None:
        path = ground.path("socket.json")
        folder = os.open(path.parent, os.O_PATH)  # the path may be longer than a socket's address
        bound = ground.alive.enter_context(socket.socket(socket.AF_UNIX, kind))
        bound.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)

    return plant


def device(kind: int, major: int, minor: int) -> Plant:
    return lambda ground: os.mknod(ground.path("device.json"), kind | 0o666, os.makedev(major, minor))


def folder(ground: Ground) -> None:
    ground.path("folder.json").mkdir()


def full_folder(ground: Ground, mode: int = 0o755) -> None:
    path = ground.path("full.json")
    path.mkdir()
    ground.write(path / "x.json", b'{"in":"a folder"}')
    path.chmod(mode)


def deep_folder(ground: Ground) -> None:
    """Deeper than a path can be long: who walks down by path fails."""
    path = ground.path("deep.json")
    path.mkdir()
    here = os.open(path, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def mount_point(ground: Ground) -> None:
    path = ground.ours(",S=7")
    ground.write(path, b'{"a":1}')
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    ground.alive.callback(subprocess.run, ["umount", "--lazy", str(path)], check=True)


_GET_FLAGS: Final = 0x80086601  # FS_IOC_GETFLAGS
_SET_FLAGS: Final = 0x40086602  # FS_IOC_SETFLAGS
IMMUTABLE: Final = 0x10
APPEND_ONLY: Final = 0x20


def flagged(flag: int) -> Plant:
    """chattr +i, +a: not even root can move or delete it."""

    def plant(ground: Ground) -> None:
        path = ground.ours(",S=13")
        ground.write(path, b'{"flagged":1}')
        file = os.open(path, os.O_RDONLY)
        ground.alive.callback(os.close, file)
        flags = array.array("i", [0])
        fcntl.ioctl(file, _GET_FLAGS, flags)
        fcntl.ioctl(file, _SET_FLAGS, array.array("i", [flags[0] | flag]))
        ground.alive.callback(fcntl.ioctl, file, _SET_FLAGS, flags)

    return plant


# Files that are hard to read


def sparse(size: int) -> Plant:
    def plant(ground: Ground) -> None:
        path = ground.ours(f",S={size}")
        ground.write(path)
        os.truncate(path, size)

    return plant


def large(ground: Ground) -> None:
    ground.write(ground.path("large.json"), b'{"large":"' + b"x" * (8 << 20) + b'"}')


def moded(mode: int) -> Plant:
    def plant(ground: Ground) -> None:
        path = ground.path(f"mode-{mode:o}.json")
        ground.write(path, b'{"mode":1}')
        path.chmod(mode)

    return plant


def busy(name: str, content: bytes, change: Callable[[int, int], object]) -> Plant:
    """A file that somebody changes without a pause, for as long as the test lasts."""

    def plant(ground: Ground) -> None:
        path = ground.ours(name) if name.startswith(",") else ground.path(name)
        ground.write(path, content)
        file, over = os.open(path, os.O_RDWR), threading.Event()

        def work() -> None:
            turn = 0
            while not over.wait(0.001):
                turn += 1
                change(file, turn)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()

        def end() -> None:
            over.set()
            thread.join()
            os.close(file)

        ground.alive.callback(end)

    return plant


def leased(kind: int) -> Plant:
    """Its owner holds a lease: whoever opens it and may wait, waits 45 seconds."""

    def plant(ground: Ground) -> None:
        path = ground.path("leased.json")
        ground.write(path, b'{"leased":1}')
        heard, tell = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a test runner has threads; the child has one
            child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not longer than its planter
                signal.signal(signal.SIGIO, signal.SIG_IGN)
                file = os.open(path, os.O_RDWR if kind == fcntl.F_WRLCK else os.O_RDONLY)
                fcntl.fcntl(file, fcntl.F_SETLEASE, kind)
                os.write(tell, b"!")
                while True:
                    signal.pause()
            os._exit(1)

        def end() -> None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

        ground.alive.callback(end)
        os.close(tell)
        leases = os.read(heard, 1)
        os.close(heard)
        assert leases == b"!", "no leases on this file system"

    return plant


def locked(ground: Ground) -> None:
    """flock is advice: it keeps nobody from reading."""
    path = ground.path("locked.json")
    ground.write(path, b'{"locked":1}')
    file = os.open(path, os.O_RDWR)
    ground.alive.callback(os.close, file)
    fcntl.flock(file, fcntl.LOCK_EX)


def dated(seconds: int) -> Plant:
    def plant(ground: Ground) -> None:
        path = ground.path("dated.json")
        ground.write(path, b'{"dated":1}')
        os.utime(path, (seconds, seconds))

    return plant


# Names and contents


def named(name: str | bytes) -> Plant:
    """Good mail under that name."""
    return lambda ground: ground.write(ground.path(name), b'{"a":1}')


def titled(fields: str, content: bytes = b'{"a":1}') -> Plant:
    """A file with an id of our making, and those fields in its name."""
    return lambda ground: ground.write(ground.ours(fields), content)


def stamped(stamp: str, content: bytes = b'{"a":1}') -> Plant:
    return lambda ground: ground.write(ground.path(f"{stamp}-{os.urandom(6).hex()},S={len(content)}.json"), content)


def contradicted(ground: Ground) -> None:
    content = b'{"id":"20200101T000000.000000000Z-00000000000a","body":1}'
    ground.write(ground.ours(f",S={len(content)}"), content)


def same_id(ground: Ground) -> None:
    """Two files of one id: which of them is it?"""
    id = fresh()
    ground.write(ground.path(f"{id},S=7.json"), b'{"a":1}')
    ground.write(ground.path(f"{id},S=8.json"), b'{"a":22}')


def content(data: bytes) -> Plant:
    """That content, under a foreign name and under one of ours which says the right size."""

    def plant(ground: Ground) -> None:
        ground.write(ground.path(f"content-{os.urandom(4).hex()}.json"), data)
        ground.write(ground.ours(f",S={len(data)}"), data)

    return plant


def once(data: bytes) -> Plant:
    """That content, once."""
    return lambda ground: ground.write(ground.ours(f",S={len(data)}"), data)


def body(members: str) -> bytes:
    return f'{{"body":1,{members}}}'.encode()


def nested(depth: int) -> bytes:
    return b'{"body":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


EXPIRED: Final = body('"expires":"2001-01-01T00:00:00Z"')
_UTF8: Final = "not JSON: it is not valid UTF-8"
_INFINITY: Final = "not JSON: number is infinity"
_LINK: Final = "it is a symbolic link, not a file"
_LINKS: Final = "it has [23] links: another process can still change it"
_DEEP: Final = "nested deeper than 64|not JSON"
_NOBODY: Final = "in new/ that (is|are) not mail"
_HIDDEN: Final = "its mode keeps it from its recipient"

KINDS: Final[tuple[Kind, ...]] = (
    # Links
    Kind("symlink to nowhere", link(lambda ground: ground.outside / "nowhere"), "removed", f"{_LINK} to .*nowhere"),
    Kind("symlink to a secret", link(lambda ground: ground.secret), "removed", f"{_LINK} to .*secret"),
    Kind("symlink to a relative path", link(lambda ground: "../../../secret"), "removed", f"{_LINK} to .*secret"),
    Kind("symlink to itself", itself, "removed", _LINK),
    Kind("symlink to a folder", link(lambda ground: ground.outside), "removed", _LINK),
    Kind("symlink to an endless device", link(lambda ground: "/dev/zero"), "removed", _LINK),
    Kind("symlink to a terminal", link(lambda ground: "/dev/tty"), "removed", _LINK),
    Kind("symlink to our own memory", link(lambda ground: "/proc/self/mem"), "removed", _LINK),
    Kind("symlink to our own input", link(lambda ground: "/proc/self/fd/0"), "removed", _LINK),
    Kind("symlink with escape codes", link(lambda ground: "\x1b[2J\n\x07"), "removed", r"to \"\\x1b"),
    Kind("symlink of 4095 bytes", link(lambda ground: "x/" * 2047), "removed", _LINK),
    Kind("hard link to a secret, as ours", hard_link, "dead", _LINKS),
    Kind("hard link to a secret, foreign", hard_link_foreign, "dead", _LINKS),
    Kind("one file under two names", two_names, "dead", _LINKS),
    # What is no file
    Kind("FIFO", fifo, "removed", "it is a FIFO, not a file"),
    Kind("FIFO that somebody writes to", waiting_fifo, "removed", "it is a FIFO"),
    Kind("FIFO with mail in it", partial(waiting_fifo, content=b'{"a":1}'), "removed", "it is a FIFO"),
    Kind("datagram socket", unix_socket(socket.SOCK_DGRAM), "removed", "it is a socket"),
    Kind("stream socket", unix_socket(socket.SOCK_STREAM), "removed", "it is a socket"),
    Kind("character device", device(stat.S_IFCHR, 1, 3), "removed", "it is a .*device", root=True),
    Kind("endless device", device(stat.S_IFCHR, 1, 5), "removed", "it is a .*device", root=True),
    Kind("device without a driver", device(stat.S_IFCHR, 120, 250), "removed", "it is a .*device", root=True),
    Kind("block device", device(stat.S_IFBLK, 120, 250), "removed", "it is a .*device", root=True),
    Kind("empty folder", folder, "removed", "it is a folder"),
    Kind("full folder", full_folder, "left", "is left alone: it is a folder, not a file, and it cannot be removed"),
    Kind("deep folder", deep_folder, "left", "is left alone: it is a folder"),
    Kind("full folder of mode 0", partial(full_folder, mode=0), "left", "is left alone: it is a folder"),
    Kind("mount point", mount_point, "left", "is left alone: .*busy", root=True),
    Kind("immutable file", flagged(IMMUTABLE), "left", "is left alone: .*not permitted", root=True),
    Kind("append-only file", flagged(APPEND_ONLY), "left", "is left alone: .*not permitted", root=True),
    # Files that are hard to read
    Kind("sparse terabyte", sparse(1 << 40), "dead", f"it has {1 << 40} bytes, and {LIMIT} is the limit"),
    Kind("one byte above the limit", sparse(LIMIT + 1), "dead", f"it has {LIMIT + 1} bytes, and {LIMIT}"),
    Kind("eight megabytes", large, "dead", f"and {LIMIT} is the limit"),
    Kind("a hole as large as the limit", sparse(LIMIT), "dead", "nothing but blanks or zero bytes"),
    Kind("no mode at all", moded(0o000), "dead", _HIDDEN, private=True),
    Kind("umask 077", moded(0o600), "dead", _HIDDEN, private=True),
    Kind("write only", moded(0o222), "dead", _HIDDEN, private=True),
    Kind("set-uid and executable", moded(0o6755), "mail"),
    Kind("growing", busy("growing.json", b"", lambda file, turn: os.write(file, b"x")), "left", "not JSON"),
    Kind(
        "growing, and JSON at every moment",
        busy("growing.json", b'{"a":1}', lambda file, turn: os.pwrite(file, b" " * (turn % 65536 + 7), 7)),
        "mail",
    ),
    Kind(
        "shrinking and growing",
        busy(",S=7", b"{", lambda file, turn: os.truncate(file, 1 + turn % 6)),
        "left",
        "it is not complete",
    ),
    Kind(
        "rewritten in place",
        busy(",S=7", b'{"a":1}', lambda file, turn: os.pwrite(file, b'{"a":%d}' % (turn % 10), 0)),
        "mail",
    ),
    Kind("write lease", leased(fcntl.F_WRLCK), "left", "it cannot be opened: resource temporarily unavailable"),
    Kind("read lease", leased(fcntl.F_RDLCK), "mail"),
    Kind("locked", locked, "mail"),
    Kind("last changed before 1970", dated(-(10**9)), "mail"),
    Kind("last changed in 2400", dated(13_600_000_000), "mail"),
    # Names
    Kind("name with a newline", named("a\nb.json"), "mail"),
    Kind("name with a line of its own", named("a\nforged line.json"), "mail"),
    Kind("name with a line of its own, no mail", named("a\nforged line"), "left", _NOBODY),
    Kind("name with escape codes", named("\x1b[2J\x1b]0;owned\x07.json"), "mail"),
    Kind("name with a leading dash", named("-rf --help.json"), "mail"),
    Kind("name that is not UTF-8", named(b"\xff\xfe\x80.json"), "mail"),
    Kind("name of 255 bytes", named("n" * 250 + ".json"), "mail"),
    Kind("name of two bytes a letter, 255 bytes", named("é" * 125 + ".json"), "mail"),
    Kind("name that reads backwards", named("\u202egnp.json"), "mail"),
    Kind("name that cannot be seen", named("\u200b\u2060\ufeff.json"), "mail"),
    Kind("name for a shell", named("$(touch owned);`id`&|.json"), "mail"),
    Kind("name for a formatter", named("%s%n{0.__class__}.json"), "mail"),
    Kind("name with quotes", named("\"'\\.json"), "mail"),
    Kind("name with C1 codes", named("\x9b2J\x85.json"), "mail"),
    Kind("name like a reason", named("x.why.json"), "mail"),
    Kind("name that is a suffix only", named(".json"), "left", _NOBODY),
    Kind("name of a lock", named(".lock"), "left", _NOBODY),
    Kind("name with a newline at its end", named("x.json\n"), "left", _NOBODY),
    Kind("name with a blank at its end", named("x.json "), "left", _NOBODY),
    Kind("name in capitals", named("X.JSON"), "left", _NOBODY),
    Kind("name of an editor's backup", named("x.json~"), "left", _NOBODY),
    Kind("S= too small", titled(",S=6"), "dead", "it has 7 bytes and its name has S=6: it is not complete"),
    Kind("S= too large", titled(",S=8"), "dead", "it has 7 bytes and its name has S=8: it is not complete"),
    Kind("S= of 18 digits", titled(",S=" + "9" * 18), "dead", "its name has S=9{18}"),
    Kind("S= of 150 digits", titled(",S=" + "9" * 150), "mail"),
    Kind("S= twice", titled(",S=6,S=7"), "mail"),
    Kind("S= negative", titled(",S=-7"), "mail"),
    Kind("S= empty", titled(",S="), "mail"),
    Kind("A= forged", titled(",S=7,A=99"), "mail"),
    Kind("A= of 18 digits", titled(",S=7,A=" + "9" * 18), "mail"),
    Kind("R= forged, and expired", titled(",S=43,R=9", EXPIRED), "dead", "it expired at"),
    Kind("N= forged", titled(",S=7,N=..passwd"), "mail"),
    Kind("F= forged", titled(",S=7,F=alice"), "mail"),
    Kind("U= forged", titled(",S=7,U=99991231T235959.000000000Z"), "mail"),
    Kind("name that is due", named("20990101T000000.000000000Z~x.json"), "mail"),
    Kind("name of the 31st of February", stamped("20200231T000000.000000000Z"), "mail"),
    Kind("name of the year 9999", stamped("99991231T235959.999999999Z"), "mail"),
    Kind("name of the year 0", stamped("00000101T000000.000000000Z"), "mail"),
    Kind("one id twice", same_id, "mail"),
    Kind("id that contradicts the name", contradicted, "dead", '"id" is .* name'),
    # Bytes that are no JSON
    Kind("nothing", content(b""), "dead", "it is empty"),
    Kind("zero bytes", content(b"\0" * 500), "dead", "nothing but blanks or zero bytes"),
    Kind("blanks", content(b" \n\t\r" * 99), "dead", "nothing but blanks or zero bytes"),
    Kind("cut off", content(b'{"body":"hel'), "dead", "not JSON"),
    Kind("two messages", content(b'{"a":1}\n{"a":2}'), "dead", "not JSON"),
    Kind("a comment", content(b'{"a":1} // hello'), "dead", "not JSON"),
    Kind("a comma too many", content(b'{"a":1,}'), "dead", "not JSON"),
    Kind("single quotes", content(b"{'a':1}"), "dead", "not JSON"),
    Kind("a string over two lines", content(b'{"a":"b\nc"}'), "dead", "not JSON"),
    Kind("raw escape codes", content(b'{"a":"\x1b[2J\x1b]0;owned\x07"}'), "dead", "not JSON"),
    Kind("raw escape codes alone", content(b"\x1b[2J\x1b]0;owned\x07\x9b2J"), "dead", "not JSON"),
    Kind("NUL in a string", content(b'{"a":"\0"}'), "dead", "not JSON"),
    Kind("NUL at the end", content(b'{"a":1}\0'), "dead", "not JSON"),
    Kind("a gzip file", content(b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + os.urandom(64)), "dead", "not JSON"),
    Kind("a program", content(b"\x7fELF\x02\x01\x01" + b"\0" * 57), "dead", "not JSON"),
    Kind("a byte order mark", content(b'\xef\xbb\xbf{"a":1}'), "dead", "not JSON"),
    Kind("UTF-16", content('{"a":1}'.encode("utf-16")), "dead", _UTF8),
    Kind("UTF-16 without a mark", content('{"a":1}'.encode("utf-16-le")), "dead", "not JSON"),
    Kind("UTF-32", content('{"a":1}'.encode("utf-32")), "dead", _UTF8),
    Kind("Latin-1", content('{"a":"é"}'.encode("latin-1")), "dead", _UTF8),
    Kind("surrogates in UTF-8", content(b'{"a":"\xed\xa0\xbd\xed\xb8\x80"}'), "dead", _UTF8),
    Kind("overlong UTF-8", content(b'{"a":"\xc0\x80"}'), "dead", _UTF8),
    Kind("half a surrogate pair", content(b'{"a":"\\ud83d"}'), "dead", "not JSON"),
    Kind("half a surrogate pair as a key", content(b'{"\\ude00":1}'), "dead", "not JSON"),
    Kind("NaN", content(b'{"a":NaN}'), "dead", "not JSON"),
    Kind("infinity", content(b'{"a":-Infinity}'), "dead", "not JSON"),
    Kind("1e400", content(b'{"a":1e400}'), "dead", _INFINITY),
    Kind("-1e400", content(b'{"a":-1e400}'), "dead", _INFINITY),
    Kind("an integer of 5000 digits", content(b'{"a":' + b"9" * 5000 + b"}"), "dead", _INFINITY),
    Kind("a million brackets", content(b"[" * 1_000_000), "dead", _DEEP),
    Kind("half a million levels", content(b"[" * 500_000 + b"]" * 500_000), "dead", _DEEP),
    Kind("100 000 objects in each other", content(b'{"":' * 100_000 + b"1" + b"}" * 100_000), "dead", _DEEP),
    Kind("one level too deep", content(nested(65)), "dead", _DEEP),
    Kind("brackets in a string", content(b'{"a":"' + b"[{" * 100_000 + b'"}'), "mail"),
    Kind("as deep as may be", content(nested(64)), "mail"),
    # JSON that is no mail, or strange mail
    Kind("an array", content(b"[1]"), "dead", "not a JSON object but an array"),
    Kind("null", content(b"null"), "dead", "not a JSON object but null"),
    Kind("a string", content(b'"hello"'), "dead", "not a JSON object but a string"),
    Kind("a number", content(b"1"), "dead", "not a JSON object but a number"),
    Kind("a sender that is a list", content(body('"from":["bob"]')), "dead", '"from" is an array'),
    Kind("a subject that is an object", content(body('"subject":{}')), "dead", '"subject" is an object'),
    Kind("a key that is a number", content(body('"idempotency_key":1')), "dead", '"idempotency_key" is a number'),
    Kind("hops that are true", content(body('"hops":true')), "dead", '"hops" is true or false'),
    Kind("hops that are negative", content(body('"hops":-1')), "dead", '"hops" is not a whole number'),
    Kind("hops that are too many", content(body('"hops":17')), "dead", "number 17 in a row"),
    Kind("headers that are no strings", content(body('"headers":{"a":[]}')), "dead", '"headers" is not an object'),
    Kind("an expiry that is no time", content(body('"expires":"soon"')), "dead", '"expires" is "soon"'),
    Kind("an expiry without a zone", content(body('"expires":"2030-01-01T00:00:00"')), "dead", "a time with a zone"),
    Kind("an expiry in the year 1", content(body('"expires":"0001-01-01T00:00:00Z"')), "dead", "it expired at"),
    Kind("an expiry before the year 1", content(body('"expires":"0001-01-01T00:00:00+23:59"')), "dead", '"expires" is'),
    Kind(
        "an expiry after the year 9999", content(body('"expires":"9999-12-31T23:59:59-23:59"')), "dead", '"expires" is'
    ),
    Kind("deferred to the year 1", content(body('"deliver_after":"0001-01-01T00:00:00Z"')), "mail"),
    Kind(
        "deferred for ever", content(body('"deliver_after":"9999-12-31T23:59:59-23:59"')), "dead", '"deliver_after" is'
    ),
    Kind("sent in the year 1", content(body('"sent":"0001-01-01T00:00:00+23:59"')), "mail"),
    Kind("sent at no time", content(body('"sent":"soon"')), "mail"),
    Kind("sent at a number", content(b'{"sent":1}'), "mail"),
    Kind("sent at the end of time", content(body('"sent":"9999-12-31T23:59:59-23:59"')), "mail"),
    Kind("an object bomb", once(b'{"a":[' + b'{"":[]},' * 120_000 + b"0]}"), "mail"),
    Kind("80 000 members", content(json.dumps({str(n): 0 for n in range(80_000)}).encode()), "mail"),
    Kind("two members of one name", content(b'{"body":1,"body":2,"from":"a","from":"b"}'), "mail"),
    Kind("a sender that is a path", content(body('"from":"../../etc/passwd","in_reply_to":"../../x"')), "mail"),
    Kind("a sender that is the reader", content(body('"from":"bob","to":"bob","reply_to":"bob"')), "mail"),
    Kind("for somebody else", content(body('"to":"alice"')), "mail"),
    Kind(
        "a key of half a megabyte",
        once(body(f'"idempotency_key":"{"k" * 500_000}"')),
        "dead",
        'its "idempotency_key" has 500000 bytes',
    ),
    Kind("a key with a NUL", once(body('"idempotency_key":"\\u0000\\n{}"')), "mail"),
    Kind("a subject with escape codes", content(body('"subject":"\\u001b[2J\\u009b1m\\u202e\\r\\n\\u0000"')), "mail"),
    Kind("a sender with escape codes", content(body('"from":"\\u001b]0;owned\\u0007","type":"\\u001b[8m"')), "mail"),
    Kind("a body with escape codes", content(b'{"body":"\\u001b[2J\\u0000\\ud83d\\ude00"}'), "mail"),
    Kind("members of Python's", content(b'{"__class__":"x","__proto__":{},"body":1,"raw":2,"_hold":3}'), "mail"),
)


def ending(box: Path, name: str) -> tuple[End, str]:
    """How what was planted as *name* has ended, and what is said of it."""
    if os.path.lexists(box / "new" / name):
        return "left", ""
    ours, dead = parse_filename(name), box / "dead"
    for note in dead.glob("*.why"):
        said = note.read_text(errors="surrogateescape")
        its = note.name.startswith(ours.id) if ours else f",N={stem_of(name)}." in note.name
        if its or f"its name was {quoted(name)}" in said:
            return ("dead" if os.path.lexists(note.with_suffix(".json")) else "removed"), said
    return "mail", ""


def harmless(shown: str) -> bool:
    """Whether text can be shown on a terminal: nothing that moves the cursor, hides, reorders or forges; no secret."""
    visible = "\nforged" not in shown and all(
        letter == "\n" or letter == "\t" or letter.isprintable() for letter in shown
    )
    return visible and SECRET not in shown
