"""What is stepped through: one class for each thing that a mailbox does, with what may become of the messages then.

A message is known by the token in its body. Its fates:

    came    the next consumer gets it          dead    it is a dead letter
    gone    it is nowhere: handled, or it      done    it is kept as handled
            was never delivered                aside   it is kept with a box that was removed

`cut` holds the fates that are right when the deed was cut off, `done` those when it was done. Tokens not named there
are a find, whatever their fate.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final

from filemailbox import BoxNotFoundError, Mailbox, MailboxError, Message, MessageNotFoundError
from filemailbox.errors import translated_errors
from filemailbox.format.address import parse_address
from filemailbox.format.timestamp import to_timestamp
from filemailbox.ops import cleanup
from filemailbox.receive import listener
from filemailbox.store.ids import new_id
from filemailbox.store.ledger import Ledger
from filemailbox.store.removed_boxes import remove_box
from filemailbox.system.locks import Lock
from filemailbox.trust.key_files import PrivateKeys

from . import stepper

HOUR: Final = 3600


class Nothing(MailboxError):
    """A look that found nothing: right, where the next one finds it."""


def print_nothing(_: Message[Any]) -> None:
    """A handler that is content."""


class Deed:
    """One deed on a fresh volume. A subclass says how it gets ready, what it does, and what may come of it."""

    cut: ClassVar[dict[str, str]] = {}
    done: ClassVar[dict[str, str]] = {}
    planted: ClassVar[frozenset[str]] = frozenset()  # ends of names that are no mail, and are ours
    aside = False  # whether .removed/ may stay

    say: Callable[[str], None]

    def __init__(self, path: str) -> None:
        self.path = path
        self.turn = 0

    def ready(self) -> None:
        """Fresh boxes, and what the deed needs."""
        shutil.rmtree(self.path, ignore_errors=True)
        for name in ("alice", "bob"):
            Mailbox.init(name, self.path).close()
        self.alice, self.bob = self.open("alice"), self.open("bob")
        self.prepare()

    def prepare(self) -> None:
        """What the deed needs beside two boxes."""

    def act(self) -> None:
        """The deed."""
        raise NotImplementedError

    def again(self) -> None:
        """Once more, in the same process, after it failed."""
        self.turn += 1
        self.act()

    def fates(self, outcome: stepper.Outcome) -> dict[str, str]:
        """What may have become of each message."""
        return self.done if outcome.done or "again" in outcome.said else self.cut

    def next_start(self) -> None:
        """What those who come next do before they listen."""

    def consumer(self, name: str) -> Mailbox:
        """Who comes next."""
        return self.open(name)

    def open(self, name: str, **options: Any) -> Mailbox:
        return Mailbox(name, self.path, retry_delay=0, max_retry_delay=0, **options)

    def send(self, token: str, **options: Any) -> str:
        return self.alice.send("bob", {"token": token}, **options)

    def take(self, box: Mailbox | None = None) -> Message[Any]:
        message = (box or self.bob).receive()
        if message is None:
            raise Nothing("there was no message to be had now")
        return message

    def fresh(self, name: str) -> str:
        """A name for a message of this turn: the second try sends another one."""
        return f"{name}{self.turn or ''}"


class Send(Deed):
    """A message is written, renamed, flushed, and the bell rung."""

    cut: ClassVar = {"a": "came gone", "a1": "came"}
    done: ClassVar = {"a": "came"}

    def prepare(self) -> None:
        self.alice.send("alice", {})  # writers and imports are ready
        self.take(self.alice).ack()

    def act(self) -> None:
        self.send(self.fresh("a"))

    def fates(self, outcome: stepper.Outcome) -> dict[str, str]:
        if outcome.error is None:
            return self.done if outcome.done else {"a": "came gone"}
        return {"a": "came" if "DurabilityUnknownError" in outcome.error else "gone", "a1": "came"}


class SendUnflushed(Send):
    """durable=False: the same without the flush."""

    def prepare(self) -> None:
        self.alice = self.open("alice", durable=False)


class SendToWaiting(Send):
    """Somebody listens: the bell is found and rung."""

    def prepare(self) -> None:
        self.bob._waker.arm()
        assert self.bob.receive() is None


class SendMany(Deed):
    """Seven or fewer: each is flushed."""

    count = 3

    def act(self) -> None:
        try:
            self.alice.send_many("bob", ({"token": self.fresh(f"m{n}-")} for n in range(self.count)))
        except Exception as error:
            if self.turn == 0:
                self.say(f"sent {len(error.sent)}")  # type: ignore[attr-defined]
            raise

    def fates(self, outcome: stepper.Outcome) -> dict[str, str]:
        if outcome.error is None:
            return {f"m{n}-": "came" if outcome.done else "came gone" for n in range(self.count)}
        sent = next(int(line.split()[1]) for line in outcome.said if line.startswith("sent "))
        return {
            **{f"m{n}-": "came" if n < sent else "gone" for n in range(self.count)},
            **{f"m{n}-1": "came" for n in range(self.count)},
        }


class SendCrowd(SendMany):
    """Eight or more: one syncfs for all."""

    count = 9


class Answer(Deed):
    """A message is answered: into the folder where its asker waits."""

    cut: ClassVar = {"a": "came gone"}
    done: ClassVar = {"a": "came"}

    def prepare(self) -> None:
        self.asking = self.alice._pending_request(new_id(), "bob")
        self.asking.__enter__()

    def act(self) -> None:
        self.bob.send("alice", {"token": self.fresh("a")}, in_reply_to=self.asking.request)

    fates = Send.fates


class Ask(Deed):
    """A request: a folder for the answer, the send, the answer taken, the folder given back."""

    cut: ClassVar = {"q": "came gone", "a": "came gone"}
    done: ClassVar = {"q": "came", "a": "gone"}

    def act(self) -> None:
        id = new_id()
        with self.alice._pending_request(id, "bob") as asking:
            self.send(self.fresh("q"), id=id)
            self.bob.send("alice", {"token": self.fresh("a")}, in_reply_to=id)
            answer = self.alice._take_reply(asking, None)
            if answer is None:
                raise Nothing("the answer was not to be had now")
            assert answer.body == {"token": self.fresh("a")}

    def fates(self, outcome: stepper.Outcome) -> dict[str, str]:
        if "again" in outcome.said:
            return {**self.cut, "q1": "came", "a1": "gone"}
        return super().fates(outcome)


class Claim(Deed):
    """A consumer begins, and takes the first of two messages."""

    cut: ClassVar = {"a": "came", "b": "came"}
    done = cut

    def prepare(self) -> None:
        self.send("a")
        self.send("b")

    def act(self) -> None:
        assert self.take().body == {"token": "a"}


class ClaimNext(Claim):
    """A consumer that is at work takes its next message."""

    def prepare(self) -> None:
        self.send("x")
        self.take().ack()
        super().prepare()


class ClaimForeign(Claim):
    """A file of a name not of our making, and one that its name says nothing of: taken in under a fresh id."""

    def prepare(self) -> None:
        for token in "ab":
            path = f"{self.path}/bob/new/job {token}.json"
            with open(path, "x") as file:
                file.write(f'{{"token": "{token}"}}')
            then = time.time() - 10 * (3 - len(os.listdir(f"{self.path}/bob/new")))
            os.utime(path, (then, then))


class ClaimOfDead(Claim):
    """What a consumer held that died: put off for now, and taken."""

    def prepare(self) -> None:
        super().prepare()
        dead = self.open("bob")
        self.take(dead)
        dead._receiver._spool.abandon()
        self.dead = dead  # not to be collected: it would close

    def act(self) -> None:
        # What the dead one held comes first, unless its lock cannot be tried now: it was claimed before, so it is not
        # out of order later.
        assert self.take().body in ({"token": "a"}, {"token": "b"})

    def again(self) -> None:
        assert self.bob.receive(timeout=5) is not None


class ClaimOfWorking(ClaimOfDead):
    """The same by a consumer that has a folder already."""

    def prepare(self) -> None:
        assert self.bob.receive() is None
        super().prepare()
        self.bob._receiver._spool.maintain_at = 0


class ClaimDue(Claim):
    """What was put off and has come due."""

    def prepare(self) -> None:
        self.send("a")
        self.take().retry(delay=0)
        self.send("b")


class ClaimBroken(Claim):
    """What is no mail becomes a dead letter, and what is behind it is taken."""

    planted = frozenset(("job.json", "N=job.json", "pipe.json"))

    def prepare(self) -> None:
        path = f"{self.path}/bob/new/job.json"
        with open(path, "x") as file:
            file.write("no mail" + "." * (1 << 20))
        os.mkfifo(f"{self.path}/bob/new/pipe.json")
        super().prepare()


class ClaimSealed(Claim):
    """Sealed mail is opened: keys and pins are read."""

    def prepare(self) -> None:
        shutil.rmtree(f"{self.path}.keys", ignore_errors=True)
        public = {
            name: PrivateKeys.generate(f"{self.keys(name)}/{name}.key", parse_address(name)).public
            for name in ("alice", "bob")
        }
        self.alice, self.bob = self.consumer("alice"), self.consumer("bob")
        self.alice.keyring.pin(public["bob"])
        self.bob.keyring.pin(public["alice"])
        super().prepare()

    def keys(self, name: str) -> str:
        return f"{self.path}.keys/{name}"

    def consumer(self, name: str) -> Mailbox:
        return self.open(name, key_dir=self.keys(name), min_trust="sealed")


class Lease(Claim):
    """A claim that outlives its process for an hour is made: its folder carries the deadline."""

    cut: ClassVar = {"a": "came held", "b": "came"}
    done: ClassVar = {"a": "held", "b": "came"}

    def prepare(self) -> None:
        super().prepare()
        self.bob = self.open("bob", lease=HOUR)

    def fates(self, outcome: stepper.Outcome) -> dict[str, str]:
        if "again" in outcome.said:
            return {"a": "held", "b": "came"}
        return super().fates(outcome)


class SettleLease(Deed):
    """Another process acks what is leased."""

    cut: ClassVar = {"a": "held came gone"}
    done: ClassVar = {"a": "gone"}

    def prepare(self) -> None:
        self.send("a")
        lessee = self.open("bob", lease=HOUR)
        self.id = self.take(lessee).id
        lessee.close()

    def act(self) -> None:
        with self.bob.leased(self.id) as message:
            message.ack()

    def again(self) -> None:
        with contextlib.suppress(MessageNotFoundError):  # it was acked the first time; something failed after that
            self.act()


class Held(Deed):
    """One message is in hand."""

    def prepare(self) -> None:
        self.send("a")
        self.message = self.take()


class Ack(Held):
    """It is handled."""

    cut: ClassVar = {"a": "came gone"}
    done: ClassVar = {"a": "gone"}

    def act(self) -> None:
        self.message.ack()


class AckKept(Ack):
    """It is handled, and kept in done/."""

    cut: ClassVar = {"a": "came done"}
    done: ClassVar = {"a": "done"}

    def prepare(self) -> None:
        self.bob = self.open("bob", retention=HOUR)
        super().prepare()


class AckKeyed(Ack):
    """Its key goes into the ledger first: sent once more it is not handled once more."""

    # A ledger that cannot be written never stops the settling, and then the second copy comes.
    def prepare(self) -> None:
        self.send("a", idempotency_key="k")
        self.message = self.take()


class AckSecond(Ack):
    """A second copy under a key that was handled."""

    cut: ClassVar = {"a": "gone", "b": "came gone"}
    done: ClassVar = {"a": "gone", "b": "gone"}

    def prepare(self) -> None:
        self.send("a", idempotency_key="k")
        self.take().ack()
        self.send("b", idempotency_key="k")

    def act(self) -> None:
        assert self.bob.receive() is None


class Forget(Ack):
    """The ledger is full: it is written anew with its newest half."""

    cut: ClassVar = {}
    done: ClassVar = {}

    def prepare(self) -> None:
        self.ledger = Ledger(f"{self.path}/bob/ledger", f"{self.path}/bob", limit=2)
        for n in range(3):
            self.ledger.record("none", "alice", f"k{n}", to_timestamp(n))

    def act(self) -> None:
        with translated_errors("noting in the ledger"):  # as a consumer does
            self.ledger.record("none", "alice", f"k{3 + self.turn}", to_timestamp(3 + self.turn))
            assert self.ledger.handled("none", "alice", f"k{3 + self.turn}")

    def next_start(self) -> None:
        ledger = Ledger(f"{self.path}/bob/ledger", f"{self.path}/bob", limit=2)
        known = [n for n in range(5) if ledger.handled("none", "alice", f"k{n}")]
        floor = ledger.floor("none", "alice")
        assert all(n in known or to_timestamp(n) <= floor for n in range(3)), f"known: {known}, floor: {floor!r}"
        assert len(known) >= 2, f"the ledger knows only {known}"


class PutOff(Held):
    """It is to come again."""

    cut: ClassVar = {"a": "came"}
    done: ClassVar = {"a": "came"}

    def act(self) -> None:
        self.message.retry(delay=0)


class Reject(Held):
    """It becomes a dead letter."""

    cut: ClassVar = {"a": "came dead"}
    done: ClassVar = {"a": "dead"}

    def act(self) -> None:
        self.message.reject("no")


class Requeue(Reject):
    """A dead letter is delivered once more."""

    done: ClassVar = {"a": "came"}

    def prepare(self) -> None:
        super().prepare()
        self.message.reject("no")

    def act(self) -> None:
        self.bob.requeue(self.message.id)


class Purge(Requeue):
    """A dead letter is deleted."""

    cut: ClassVar = {"a": "dead gone"}
    done: ClassVar = {"a": "gone"}

    def act(self) -> None:
        self.bob.purge(self.message.id)


class Leave(Held):
    """A mailbox is closed that holds a message: it goes back."""

    cut: ClassVar = {"a": "came"}
    done = cut

    def act(self) -> None:
        self.bob.close()


class Listen(Claim):
    """A listener hangs its bell, says how it is, handles all there is, and leaves."""

    cut: ClassVar = {"a": "came gone", "b": "came gone"}
    done: ClassVar = {"a": "gone", "b": "gone"}

    def prepare(self) -> None:
        super().prepare()
        self.bob.on()(print_nothing)
        listener.STORAGE_RETRY_DELAY = 0.01  # type: ignore[misc]  # how long it pauses is not what is tried

    def act(self) -> None:
        with self.bob.listening() as listener:
            self.bob._waker.watch()
            listener.run(self.bob._handlers, 1, drain=True)

    def fates(self, outcome: stepper.Outcome) -> dict[str, str]:
        """A disk that fails is over for a listener when there is nothing to be had: what is left is for the next."""
        return self.cut if outcome.struck else self.done


class Collect(Deed):
    """gc takes away all kinds of leftovers; a message waits."""

    cut: ClassVar = {"a": "came", "h": "came"}
    done = cut

    def prepare(self) -> None:
        box = f"{self.path}/bob"
        self.send("h")
        dead = self.open("bob")
        self.take(dead)
        dead._receiver._spool.abandon()
        self.dead = dead
        self.send("a")
        for name in ("123456789abc", "223456789abc"):
            os.mkdir(f"{box}/cur/{name}")
            with open(f"{box}/cur/{name}/.lock", "x"):
                pass
        for name in ("tmp/draft", "dead/x.why", "run/status-423456789abc.json"):
            with open(f"{box}/{name}", "x") as file:
                file.write("x")
            os.utime(f"{box}/{name}", (1, 1))
        lock = Lock(f"{box}/cur/.{new_id()}.lock")
        lock.take()
        lock.release()

    def act(self) -> None:
        for left in cleanup.find_garbage(self.bob.root.box(parse_address("bob"))):
            left.remove()


class Shrink(Collect):
    """A new/ that was full once is exchanged for a fresh one; two messages lie in it."""

    cut: ClassVar = {"a": "came", "b": "came"}
    done = cut

    def prepare(self) -> None:
        self.send("a")
        self.send("b")

    def act(self) -> None:
        cleanup.Garbage("a folder that was full", self.path, partial(cleanup.shrink, f"{self.path}/bob")).remove()


class InitRoot(Deed):
    """The root and the first box are made."""

    cut: ClassVar = {"a": "came"}
    done = cut

    def ready(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def act(self) -> None:
        Mailbox.init("bob", self.path).close()

    def next_start(self) -> None:
        for name in ("alice", "bob"):
            Mailbox.init(name, self.path).close()
        with self.open("alice") as self.alice:
            self.send("a")


class Init(InitRoot):
    """A box is made in a root that is there."""

    def ready(self) -> None:
        super().ready()
        Mailbox.init("alice", self.path).close()


class Remove(InitRoot):
    """A box without mail is removed."""

    def ready(self) -> None:
        Deed.ready(self)
        self.bob.close()

    def act(self) -> None:
        remove_box(self.bob.root.box(parse_address("bob")))

    def again(self) -> None:
        with contextlib.suppress(BoxNotFoundError):  # the first time it had gone already
            self.act()


class RemoveForced(Remove):
    """A box with a message is removed, and kept aside."""

    aside = True
    cut: ClassVar = {"a": "came", "k": "came aside"}
    done: ClassVar = {"a": "came", "k": "aside"}

    def prepare(self) -> None:
        self.send("k")

    def act(self) -> None:
        remove_box(self.bob.root.box(parse_address("bob")), force=True)


_KINDS: Final[tuple[type[Deed], ...]] = (
    Send, SendUnflushed, SendToWaiting, SendMany, SendCrowd, Answer, Ask, Claim, ClaimNext, ClaimForeign, ClaimOfDead,
    ClaimOfWorking, ClaimDue, ClaimBroken, ClaimSealed, Lease, SettleLease, Ack, AckKept, AckKeyed, AckSecond, Forget,
    PutOff, Reject, Requeue, Purge, Leave, Listen, Collect, Shrink, InitRoot, Init, Remove, RemoveForced,
)  # fmt: skip


def _called(kind: type[Deed]) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).lstrip("-")


DEEDS: Final[dict[str, Callable[[str], Deed]]] = {_called(kind): kind for kind in _KINDS}
