"""Run a piece of work in a process of its own and stop it at each of its system calls: to look, to kill, to fail it.

The work runs in a fork of this process, which has all modules loaded, and we trace it with ptrace(2). So a step costs
some 20 us where a fresh Python under `strace --inject` would cost 200 ms, and the n-th call is the n-th of the work,
not of the interpreter's start. A call that is to fail is never made (close(2) is: the kernel closes whatever it
answers); one that is cut short is made with half of its bytes, so that what it says is true.

Linux on x86-64 alone: what is in which register differs elsewhere.
"""

import contextlib
import ctypes
import errno
import gc
import os
import platform
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

# ptrace(2), linux/ptrace.h
_TRACEME, _CONT, _GETREGS, _SETREGS, _SYSCALL, _SETOPTIONS = 0, 7, 12, 13, 24, 0x4200
_SYSGOOD, _EXITKILL = 1, 1 << 20
_SYSCALL_STOP: Final = signal.SIGTRAP | 0x80
_PATIENCE: Final = 60  # seconds for one run
_WORDS: Final = 27  # struct user_regs_struct
_RAX, _RDX, _NUMBER = 10, 12, 15
_ARGS: Final = (14, 13, 12, 7, 9, 8)  # rdi rsi rdx r10 r8 r9
_HERE: Final = 2**32 - 100  # AT_FDCWD, as an unsigned int

# What the arguments are: p a path, d the descriptor of the folder before it, f a descriptor, s a socket's address.
_CALLS: Final = {
    0: ("read", "f"), 1: ("write", "f"), 2: ("open", "p"), 3: ("close", "f"), 4: ("stat", "p"), 5: ("fstat", "f"),
    6: ("lstat", "p"), 8: ("lseek", "f"), 9: ("mmap", ""), 10: ("mprotect", ""), 11: ("munmap", ""), 12: ("brk", ""),
    13: ("rt_sigaction", ""), 14: ("rt_sigprocmask", ""), 16: ("ioctl", "f"), 17: ("pread64", "f"),
    18: ("pwrite64", "f"), 20: ("writev", "f"), 21: ("access", "p"), 32: ("dup", "f"), 33: ("dup2", "f"),
    35: ("nanosleep", ""), 39: ("getpid", ""), 41: ("socket", ""), 42: ("connect", "-s"), 44: ("sendto", ""),
    49: ("bind", "-s"), 62: ("kill", ""), 72: ("fcntl", "f"), 73: ("flock", "f"), 74: ("fsync", "f"),
    75: ("fdatasync", "f"), 77: ("ftruncate", "f"), 79: ("getcwd", ""), 82: ("rename", "pp"), 83: ("mkdir", "p"),
    84: ("rmdir", "p"), 86: ("link", "pp"), 87: ("unlink", "p"), 88: ("symlink", "-p"), 89: ("readlink", "p"),
    90: ("chmod", "p"), 91: ("fchmod", "f"), 92: ("chown", "p"), 93: ("fchown", "f"), 94: ("lchown", "p"),
    102: ("getuid", ""), 107: ("geteuid", ""), 108: ("getegid", ""), 137: ("statfs", "p"), 138: ("fstatfs", "f"),
    186: ("gettid", ""), 202: ("futex", ""), 217: ("getdents64", "f"), 228: ("clock_gettime", ""),
    230: ("clock_nanosleep", ""), 231: ("exit_group", ""), 233: ("epoll_ctl", ""), 254: ("inotify_add_watch", "-p"),
    257: ("openat", "dp"), 258: ("mkdirat", "dp"), 260: ("fchownat", "dp"), 262: ("newfstatat", "dp"),
    263: ("unlinkat", "dp"), 264: ("renameat", "dpdp"), 265: ("linkat", "dpdp"), 267: ("readlinkat", "dp"),
    268: ("fchmodat", "dp"), 269: ("faccessat", "dp"), 280: ("utimensat", "dp"), 292: ("dup3", "f"),
    294: ("inotify_init1", ""), 302: ("prlimit64", ""), 306: ("syncfs", "f"), 316: ("renameat2", "dpdp"),
    318: ("getrandom", ""), 332: ("statx", "dp"), 439: ("faccessat2", "dp"),
}  # fmt: skip
_SHORTER: Final = frozenset(("read", "write", "pread64", "pwrite64"))


class Work(Protocol):
    """What is stepped through: ready() before, act() under the eye of the tracer, again() where that failed.

    say() is given to it: a line for the outcome.
    """

    say: Callable[[str], None]

    def ready(self) -> None: ...
    def act(self) -> None: ...
    def again(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: its name, and the files that it names or whose descriptors it uses."""

    name: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.files)})"


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls a call: an error number of errno(3), or `short` to read or write half of what was asked for."""

    code: int = 0
    short: bool = False

    def __str__(self) -> str:
        return "short" if self.short else errno.errorcode[self.code]

    def fits(self, call: Call) -> bool:
        return not self.short or call.name in _SHORTER


FAULTS: Final = {
    str(fault): fault
    for fault in (
        *map(Fault, (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.EINTR, errno.EACCES, errno.ESTALE)),
        Fault(short=True),
    )
}


@dataclass(slots=True)
class Outcome:
    """How it went: the calls of the work, what struck where, and what the process said."""

    calls: list[Call] = field(default_factory=list)
    struck: Call | None = None
    said: list[str] = field(default_factory=list)
    killed: bool = False

    @property
    def done(self) -> bool:
        """Whether the work told us that it is done."""
        return "done" in self.said

    @property
    def error(self) -> str | None:
        """What the work raised, if anything."""
        return next((line.removeprefix("error ") for line in self.said if line.startswith("error ")), None)


class Stuck(Exception):
    """The process did not do what it was made to do: the harness is wrong, or the work ended its process."""


def possible() -> str | None:
    """Why nothing can be stepped through here; None where it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "stepping through system calls is written for Linux on x86-64"
    child = os.fork()
    if child == 0:
        os._exit(0 if _libc().ptrace(_TRACEME, 0, 0, 0) == 0 else 1)
    return None if os.waitpid(child, 0)[1] == 0 else "ptrace(2) is forbidden here"


def step(work: Work, at: int = 0, fault: Fault | None = None, within: str | None = None) -> Outcome:
    """Run *work* and count its calls; strike at the one numbered *at* (from 1): kill, or let *fault* befall it.

    With *within* only calls count that touch what lies under that path. What the work returned from before it was
    struck stands in the outcome: each line was in a pipe before the next call began.
    """
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        _child(work, into)
    os.close(into)
    with open(out, "rb") as said:
        try:
            outcome = _watch(child, at, fault, within)
        except Stuck as error:
            raise Stuck(f"{error}; it said: {said.read().decode()}") from error
        outcome.said = said.read().decode().splitlines()
    return outcome


def _child(work: Work, into: int) -> None:
    def say(text: str) -> None:
        os.write(into, text.replace("\n", " ").encode() + b"\n")

    def tell(error: BaseException, when: str) -> None:
        from filemailbox import MailboxError

        ours = "ours" if isinstance(error, MailboxError) else "foreign"
        say(f"{when} {ours} {type(error).__name__}: {error}")
        if ours == "foreign":
            say("trace " + " | ".join(traceback.format_exception(error)).replace("\n", " "))

    code = 1
    try:
        signal.alarm(_PATIENCE)
        gc.disable()
        work.say = say
        work.ready()
        before = _descriptors()
        _libc().ptrace(_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            work.act()
            os.write(into, b"done\n")
        except Exception as error:  # noqa: BLE001  # told below
            raised: Exception | None = error
        else:
            raised = None
        os.kill(os.getpid(), signal.SIGSTOP)
        if raised is not None:
            tell(raised, "error")
            raised = None
            say("open " + " ".join(sorted(_descriptors() - before)))
            try:
                work.again()
                say("again")
            except Exception as error:  # noqa: BLE001
                tell(error, "after")
        code = 0
    except BaseException as error:  # noqa: BLE001
        tell(error, "broken")
    finally:
        os._exit(code)


def _descriptors() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number}={os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


def _watch(child: int, at: int, fault: Fault | None, within: str | None) -> Outcome:
    outcome, count = Outcome(), 0
    try:
        _stopped(child, signal.SIGSTOP)
        _ptrace(_SETOPTIONS, child, _SYSGOOD | _EXITKILL)
        memory = os.open(f"/proc/{child}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for call, registers in _entries(child, memory):
                if within is not None and not any(f"{each}/".startswith(f"{within}/") for each in call.files):
                    continue
                if fault is not None and not fault.fits(call):
                    continue
                outcome.calls.append(call)
                count += 1
                if count == at:
                    outcome.struck = call
                    if fault is None:
                        outcome.killed = True
                        os.kill(child, signal.SIGKILL)
                        os.waitpid(child, 0)
                        return outcome
                    _befall(child, registers, fault, call)
        finally:
            os.close(memory)
        _ptrace(_CONT, child, 0)
        _, status = os.waitpid(child, 0)
        while os.WIFSTOPPED(status):  # a signal of its own: give it
            _ptrace(_CONT, child, os.WSTOPSIG(status))
            _, status = os.waitpid(child, 0)
    except BaseException:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it may have ended by itself
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise
    return outcome


def _entries(child: int, memory: int) -> Iterator[tuple[Call, Any]]:
    """Each call of the work, when it is about to be made; until the work stops itself."""
    deliver = 0
    while True:
        _ptrace(_SYSCALL, child, deliver)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            raise Stuck(f"the work ended its process ({status:#x})")
        deliver = 0
        if os.WSTOPSIG(status) == signal.SIGSTOP:
            return
        if os.WSTOPSIG(status) != _SYSCALL_STOP:
            deliver = os.WSTOPSIG(status)
            continue
        registers = (ctypes.c_ulong * _WORDS)()
        _ptrace(_GETREGS, child, ctypes.addressof(registers))
        if ctypes.c_long(registers[_RAX]).value != -errno.ENOSYS:
            continue  # an exit: at an entry the kernel has put ENOSYS there
        yield _decoded(child, memory, registers), registers


def _befall(child: int, registers: Any, fault: Fault, call: Call) -> None:
    if fault.short:
        registers[_RDX] = max(1, registers[_RDX] // 2)
        _ptrace(_SETREGS, child, ctypes.addressof(registers))
        return
    if call.name != "close":
        registers[_NUMBER] = 2**64 - 1  # no call at all
        _ptrace(_SETREGS, child, ctypes.addressof(registers))
    _ptrace(_SYSCALL, child, 0)
    _stopped(child, _SYSCALL_STOP)
    _ptrace(_GETREGS, child, ctypes.addressof(registers))
    registers[_RAX] = 2**64 - fault.code
    _ptrace(_SETREGS, child, ctypes.addressof(registers))


def _decoded(child: int, memory: int, registers: Any) -> Call:
    name, kinds = _CALLS.get(registers[_NUMBER], (f"call {registers[_NUMBER]}", ""))
    files, folder = [], f"/proc/{child}/cwd"
    for kind, register in zip(kinds, _ARGS, strict=False):
        value = registers[register]
        if kind == "p":
            text = _text(memory, value)
            files.append(os.path.join(folder, text) if text else folder)
            folder = f"/proc/{child}/cwd"
        elif kind == "d":
            folder = folder if value & 0xFFFFFFFF == _HERE else _file(child, value)
        elif kind == "f":
            files.append(_file(child, value))
        elif kind == "s":
            files.append(_text(memory, value + 2))
    return Call(name, tuple(files))


def _file(child: int, number: int) -> str:
    try:
        return os.readlink(f"/proc/{child}/fd/{number & 0xFFFFFFFF}")
    except OSError:
        return "?"


def _text(memory: int, address: int) -> str:
    text = b""
    while b"\0" not in text and len(text) < 4096:
        try:
            more = os.pread(memory, 256 - address % 256, address)
        except OSError:
            break
        text, address = text + more, address + len(more)
    return text.partition(b"\0")[0].decode(errors="replace")


def _stopped(child: int, number: int) -> None:
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status) or os.WSTOPSIG(status) != number:
        raise Stuck(f"the work was to stop, and its status is {status:#x}")


def _ptrace(request: int, child: int, data: int) -> None:
    if _libc().ptrace(request, child, 0, data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), f"ptrace({request})")


_loaded: list[Any] = []


def _libc() -> Any:
    if not _loaded:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = (ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
        libc.ptrace.restype = ctypes.c_long
        _loaded.append(libc)
    return _loaded[0]
