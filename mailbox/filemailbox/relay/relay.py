"""The relay: mail between agents that share nothing, by a policy, with a record of every decision.

Each agent has a volume of its own. The relay takes what lies in their outboxes, and is the only one that knows who may
write to whom. The sender is the agent whose volume a message came from, whatever it says of itself.

    look      list the outboxes in which something happened, and now and then all of them
    decide    read a message, once; ask the policy
    stage     into tmp/ of each recipient, flushed
    record    in the audit log, flushed: without a record nothing is delivered
    deliver   rename to new/, ring
    settle    remove the original; or send it back, with the reason; or leave it for later

Agents take turns, a few messages each, so that a flood from one is not the others' wait. What is wrong with a
recipient's box puts off mail for that box, and no other. What goes wrong here is told and tried again: the relay ends
only when it is told to.
"""

import contextlib
import os
import select
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .. import log
from ..errors import MailboxError, StorageError, quoted
from ..format.address import Address, is_address, is_group
from ..format.filename import parse_filename
from ..format.times import parse_time
from ..system.inotify import MultiWatch
from ..trust.levels import Protection
from .accepted import QUOTA, Accepted, AcceptedIndex, TransferId
from .audit_format import Record, Tampered, Verify
from .audit_log import Audit
from .batch import DeliveryBatch
from .limits import TokenBucket
from .outbox import Incomplete, NotMail, OutboxMessage
from .policy import Agent, Policy, PolicyQuery, Rate
from .policy_file import InvalidPolicy
from .sender import Deferred, Sender, errno_text
from .volume import is_our_trouble

BATCH: Final = 128
"""Messages that are flushed and recorded together; a few more where one goes to many."""

_BACKOFF: Final = (1.0, 60.0)  # seconds until a recipient in trouble is tried again: at first, and at the most
_OURSELVES: Final = (1.0, 30.0)  # the same, when the audit log is in trouble
_SOON: Final = 1.0  # seconds until what is perhaps still being written is looked at again
_STUCK: Final = 30.0  # seconds until what can neither be carried nor removed is looked at again
_THIN: Final = {"refuse": Rate(1, 60.0), "bounce": Rate(1, 60.0), "defer": Rate(1, 1.0)}
"""How often something that was not carried is recorded for one sender; what comes between is counted."""

_SINGLY: Final = {"refuse": 100, "bounce": 100, "defer": 1000}  # records of that for one sender, before it is thinned
_MANY: Final = 10_000  # messages whose refusals are kept while they wait for others; of more, they are found again
_CROWD: Final = 1000  # messages in a box from which on to count them takes long
_SHARE: Final = 20  # to count those in one box costs at most such a part of the time
_PATIENCE: Final = 1000  # messages of one sender that wait for one recipient: what is more goes back at once


@dataclass(slots=True)
class Outage:
    """Why a recipient gets no mail now."""

    why: str
    until: float
    wait: float


@dataclass(slots=True)
class Transfer:
    """One message on the table: whom it is for, and what has become of it for each."""

    station: Sender
    name: str
    letter: OutboxMessage | None = None
    junk: NotMail | None = None
    refused: dict[str, str] = field(default_factory=dict)  # by recipient, why
    waits: dict[str, float] = field(default_factory=dict)  # by recipient, until when
    carried: dict[TransferId, tuple[Accepted, Record]] = field(default_factory=dict)


class Thinner:
    """Leaves records out where an agent makes many: it is refused as fast as it sends. They are counted."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], TokenBucket] = {}
        self._left_out: dict[tuple[str, str], tuple[int, Record]] = {}
        self.silent: set[str] = set()
        """The agents of whose records one was left out in this batch."""

    def thin(self, records: list[Record], needed: Callable[[Record], bool]) -> list[Record]:
        """The *records* to be written: each that is *needed*, and as many others as their agents may have."""
        kept: list[Record] = []
        for record in records:
            event, sender = str(record["event"]), str(record.get("from"))
            if event not in _THIN or needed(record):
                kept.append(record)
                continue
            count = self._left_out.get((sender, event), (0, record))[0] + 1
            if self._bucket(sender, event).take(time.monotonic()):
                self._left_out.pop((sender, event), None)
                kept.append(_counted(record, count))
            else:
                self._left_out[sender, event] = count, record
                self.silent.add(sender)
        return kept

    def due(self, *, all: bool = False) -> list[Record]:
        """The records that stand for those left out, of agents that may have one by now; or of all."""
        now = time.monotonic()
        ready = [key for key in self._left_out if all or self._bucket(*key).take(now)]
        return [_counted(record, count) for count, record in map(self._left_out.pop, ready)]

    def _bucket(self, sender: str, event: str) -> TokenBucket:
        return self._buckets.setdefault((sender, event), TokenBucket(_THIN[event], _SINGLY[event]))


class Relay:
    """Carries mail until told to stop. For one thread; stop() and reload() may be called from signal handlers."""

    def __init__(
        self, policy: Policy, audit: Audit, verify: Verify, reread: Callable[[], Policy] | None = None
    ) -> None:
        """*reread* reads the policy anew, for reload()."""
        self.policy, self.audit = policy, audit
        self._verify, self._reread = verify, reread
        self.stopping = False
        """Whether it was told to stop."""
        self.on_tick: Callable[[], None] = lambda: None
        """Called before each wait, at least once in each rescan."""
        self.stations: dict[Address, Sender] = {}
        self.troubles: dict[str, Outage] = {}
        self.trouble: Outage | None = None
        """Why nothing at all is carried now."""
        self.carried = 0
        """How many messages have been delivered."""
        self._memory = AcceptedIndex()
        self._count_at: dict[str, float] = {}  # before that it is not
        self._room: dict[str, int] = {}  # how much more fits into a box, before it is counted again
        self._refusals: dict[tuple[str, str], dict[str, str]] = {}  # of messages that still wait for others
        self._table: set[TransferId] = set()  # what is in the batch
        self._answering: Counter[TransferId] = Counter()  # how many answers are, by what they answer
        self._thinner = Thinner()
        self._reload = False
        self._turn = 0
        self._all_at = 0.0
        self._poke = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watches: MultiWatch | None = None
        self._segment = 0

    # From outside

    def run(self) -> None:
        """Carry mail until stop(). Raises StorageError, Tampered where the audit log cannot be begun."""
        try:
            self.begin()
            while not self.stopping:
                self.turn()
                self.on_tick()
                if not self.stopping:
                    self._wait()
        finally:
            self.end()

    def begin(self) -> None:
        """Open the audit log and the outboxes, and deliver what a relay before us left staged."""
        _refuse_shared(self.policy)
        self.audit.begin(self._verify, self._memory.remember)
        self.audit.append([{"event": "start", "policy": self.policy.digest}])
        self._segment = self.audit.number
        try:
            self._watches = MultiWatch()
        except OSError as error:
            log.warning("outboxes cannot be watched (%s): mail is found by looking", error)
        self._set_up()
        for sender, at, count, size in self._memory.spent:
            if (station := self.stations.get(Address(sender))) is not None:
                station.quota.use(at, count)
                station.quota_bytes.use(at, size)
        self._finish_all()

    def turn(self) -> None:
        """Carry all that is there and may be carried now."""
        if self._reload:
            self._reload = False
            self._load()
        if self.trouble is not None and not self._recover_claims():
            return
        self._hear()
        try:
            while not self.stopping and (cases := self._next_batch()):
                self._carry(cases)
                self._hear()
            if left := self._thinner.due():
                self.audit.append(left)
        except StorageError as error:
            self._stand_still(error)

    def end(self) -> None:
        """Write the last record and let go."""
        if self.audit.open:
            with contextlib.suppress(StorageError):
                self.audit.append([*self._thinner.due(all=True), {"event": "stop"}])
        self.audit.close()
        for station in self.stations.values():
            station.close()
        self.stations.clear()
        if self._watches is not None:
            self._watches.close()
            self._watches = None

    def stop(self) -> None:
        """Let run() end when the batch on the table is settled."""
        self.stopping = True
        self._wake()

    def reload(self) -> None:
        """Read the policy anew, soon. A bad one is told of, and the old one stays."""
        self._reload = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self._poke, 1)

    # Looking

    def _wait(self) -> None:
        now = time.monotonic()
        until = self._all_at
        for station in self.stations.values():
            until = min(until, station.next_look())
        if self.trouble is not None:
            until = max(until, self.trouble.until)
        ear = select.poll()
        ear.register(self._poke, select.POLLIN)
        if self._watches is not None and self.trouble is None:
            ear.register(self._watches.fileno(), select.POLLIN)
        ear.poll(max(0.0, until - now) * 1000 + 0.5)
        with contextlib.suppress(OSError):
            os.eventfd_read(self._poke)

    def _hear(self) -> None:
        """Look into the outboxes in which something has happened, or into all of them when that is due."""
        now = time.monotonic()
        heard = self._watches.heard() if self._watches is not None else {}
        every = now >= self._all_at or -1 in heard
        if every:
            self._all_at = now + self.policy.settings.poll_interval
        for station in self.stations.values():
            if every:
                station.wanted = True
            elif station.watch in heard:
                if (told := heard[station.watch]) is not None:
                    station.announce(told)
                else:
                    station.wanted = True
            if not station.queue and station.next_look() <= now:
                station.look(time.monotonic())

    def _next_batch(self) -> list[Transfer]:
        """The messages to carry next: some of each agent that has any, each time beginning with another one."""
        now = time.monotonic()
        active = [each for each in self.stations.values() if each.queue and each.throttled <= now]
        share = max(1, BATCH // max(1, len(active)))
        self._turn += 1
        cases: list[Transfer] = []
        for number in range(len(active)):
            station = active[(self._turn + number) % len(active)]
            cases += self._take(station, share, now)
        return cases

    def _take(self, station: Sender, share: int, now: float) -> Iterator[Transfer]:
        while share > 0 and station.queue:
            name = station.queue[0]
            parked = station.parked.get(name)
            if parked is None and not station.bucket.take(now):
                station.throttled = now + station.bucket.wait(now)
                return
            station.next()
            if parked is not None and parked.to and all(self._troubled(to, now) for to in parked.to):
                station.park(name, min(self.troubles[to].until for to in parked.to), parked.to)
                if not self._tired(station, name, parked):
                    continue
            share -= 1
            case = self._fetch(station, name)
            if case is not None:
                yield case

    def _fetch(self, station: Sender, name: str) -> Transfer | None:
        limits = station.agent.limits
        try:
            letter = station.outbox.read(name, limits.max_bytes)
            return Transfer(station, letter.name, letter)
        except NotMail as junk:
            return Transfer(station, name, junk=junk)
        except Incomplete:
            station.park(name, time.monotonic() + _SOON)
        except FileNotFoundError:
            station.unpark(name)
        except OSError as error:
            if is_our_trouble(error):
                raise StorageError(
                    f"reading from the outbox of {station.agent.name}: {errno_text(error)}", error.errno
                ) from error
            if name not in station.parked:
                log.warning("%s: %s cannot be read: %s", station.agent.name, quoted(name), errno_text(error))
            station.park(name, time.monotonic() + _STUCK)
        return None

    # Carrying

    def _carry(self, cases: list[Transfer]) -> None:
        """Decide, stage, record, deliver, settle. Raises StorageError where no record can be written: nothing was "
        "done."""
        self.audit.check()
        records: list[Record] = []
        self._table.clear()
        self._answering.clear()
        self._thinner.silent.clear()
        with DeliveryBatch(self.policy.agents) as batch:
            for number, case in enumerate(cases):
                if len(batch) >= BATCH:  # there are messages for many among them: the rest comes next
                    for left in reversed(cases[number:]):
                        left.station.put_back(left.name)
                    del cases[number:]
                    break
                self._decide(case, batch, records)
            failed = batch.flush()
            for case in cases:
                for key, (carried, record) in list(case.carried.items()):
                    if (error := failed.get((key[2], carried.file))) is not None:
                        del case.carried[key]
                        self._put_off(case, key, self._harmed(key[2], error), records)
                    else:
                        records.append(record)
            if written := self._thinner.thin(records, self._is_known):
                self.audit.append(written)
            self._note(records)
            for case in cases:
                for key, (carried, _) in case.carried.items():
                    self._memory.accept(key, carried)
                    self._deliver(case, batch, key, carried, fresh=True)
            batch.ring()
        for case in cases:
            self._settle(case)
        if self.audit.number != self._segment:
            self._age()

    def _decide(self, case: Transfer, batch: DeliveryBatch, records: list[Record]) -> None:
        sender, letter = case.station.agent.name, case.letter
        if letter is None:
            assert case.junk is not None
            case.refused[""] = case.junk.why
            if not case.station.is_stuck(case.name):
                records.append({"event": "refuse", "from": sender, "file": case.name, "why": case.junk.why})
                _spend(case.station, 0)
            return
        case.refused = self._refusals.pop((sender, letter.id), {})
        why = _objection(letter, sender)
        to, unknown = self._recipients(letter, sender)
        if why is None and not to:
            why = unknown
        if why is not None:
            to = [str(letter.members.get("to") or "")]
        for each in to:
            if each not in case.refused:
                self._decide_for(case, letter, each, why, batch, records)

    def _recipients(self, letter: OutboxMessage, sender: Address) -> tuple[list[str], str | None]:
        to = letter.members.get("to")
        if not to:
            return [], 'it has no "to"'
        return self.policy.expand(to, sender, letter.members.get("type"))

    def _decide_for(
        self,
        case: Transfer,
        letter: OutboxMessage,
        to: str,
        why: str | None,
        batch: DeliveryBatch,
        records: list[Record],
    ) -> None:
        """What becomes of the message for one recipient."""
        key = (case.station.agent.name, letter.id, to)
        digest = self.audit.digest(letter.data)
        before = self._memory.find(key)
        if before is not None and before.digest == digest:
            if key in self._memory.pending:  # its record is written: it is to be delivered, and nothing else
                self._deliver(case, batch, key, before)
                if to in case.waits and self._too_long(key):
                    self._bounce(case, key, self.troubles[to].why, batch, records)
            return
        rule = ""
        if why is None and before is not None:
            why = "its id was used for another message"
        if why is None:
            decision = self.policy.decide(self._question(letter, key))
            rule = decision.rule
            why = decision.why if not decision.allowed else None
            if why is None and (why := self._over_quota(case.station, letter)) is not None:
                rule = QUOTA
        record = _record("accept", key, letter, rule)
        if why is not None:
            case.refused[to] = why
            if not case.station.is_stuck(case.name):
                records.append({**record, "event": "refuse", "why": why})
                if rule != QUOTA:
                    _spend(case.station, len(letter.data))
            return
        if key in self._table:  # two files of one id: the second one is looked at when the first has been carried
            case.waits[to] = 0.0
            return
        self._stage(case, letter, key, {**record, "digest": digest, "file": letter.carried_name}, batch, records)

    def _stage(
        self,
        case: Transfer,
        letter: OutboxMessage,
        key: TransferId,
        record: Record,
        batch: DeliveryBatch,
        records: list[Record],
    ) -> None:
        to, now = key[2], time.monotonic()
        if not self._troubled(to, now):
            try:
                self._make_sure_of_room(to, batch)
                batch.stage(to, letter)
            except OSError as error:
                if is_our_trouble(error):
                    raise StorageError(f"writing to {to}: {errno_text(error)}", error.errno) from error
                self._harmed(to, error)
            else:
                answers = letter.members.get("in_reply_to")
                if self.policy.settings.bodies:
                    record = {**record, "raw": letter.data.decode("utf-8", "replace")}
                carried = Accepted(str(record["digest"]), time.time(), letter.carried_name, answers)
                case.carried[key] = (carried, record)
                self._table.add(key)
                self._answering[to, str(answers), key[0]] += 1
                self._room[to] = self._room.get(to, 0) - 1
                _spend(case.station, len(letter.data))
                return
        self._put_off(case, key, self.troubles[to], records)

    def _put_off(self, case: Transfer, key: TransferId, trouble: Outage, records: list[Record]) -> None:
        """Leave it for later; or give it up, when it has waited too long or with too many."""
        assert case.letter is not None
        many = key not in self._memory.waiting and case.station.waiting_for(key[2]) >= _PATIENCE
        if many or self._too_long(key):
            why = f"{trouble.why}, and {_PATIENCE} messages wait for it already" if many else trouble.why
            case.refused[key[2]] = f"given up: {why}"
            records.append({**_record("bounce", key, case.letter), "why": why})
            return
        case.waits[key[2]] = trouble.until
        if key not in self._memory.waiting:
            records.append({**_record("defer", key, case.letter), "why": trouble.why})

    def _bounce(self, case: Transfer, key: TransferId, why: str, batch: DeliveryBatch, records: list[Record]) -> None:
        """Give up what was accepted, and could not be delivered for too long."""
        assert case.letter is not None
        del case.waits[key[2]]
        batch.discard_staged(key[2], self._memory.pending[key])
        case.refused[key[2]] = f"given up: {why}"
        records.append({**_record("bounce", key, case.letter), "why": why})

    def _deliver(
        self, case: Transfer | None, batch: DeliveryBatch, key: TransferId, carried: Accepted, fresh: bool = False
    ) -> None:
        """Rename it, now that its record is written. What cannot be done now is done later: it stays pending.

        *fresh* is what was staged a moment ago: that its box has become full meanwhile keeps nothing back.
        """
        to, now = key[2], time.monotonic()
        trouble = self.troubles.get(to)
        over = trouble is None or trouble.until <= now
        if trouble is None or over or fresh:
            try:
                if to not in self.policy.agents:
                    raise FileNotFoundError(2, "there is no such agent any more")
                self.carried += batch.deliver(to, carried)
            except OSError as error:
                trouble = self._harmed(to, error)
            else:
                self._memory.delivered(key)
                if over:
                    self._well(to)
                return
        self._memory.defer(key, time.time())
        if case is not None:
            case.waits[to] = trouble.until

    def _settle(self, case: Transfer) -> None:
        """Remove the original, send it back, or leave it for later."""
        station, name = case.station, case.name
        if case.waits:
            station.park(name, min(case.waits.values()), frozenset(case.waits))
            if case.refused and case.letter is not None:
                self._refusals[station.agent.name, case.letter.id] = case.refused
                if len(self._refusals) > _MANY:  # a sender may take back what waits, again and again
                    del self._refusals[next(iter(self._refusals))]
            return
        try:
            if case.junk is not None and case.junk.empty:
                station.outbox.discard(name, case.junk.why)
            elif case.refused:
                station.outbox.bounce(name, _reasons(case.refused))
            else:
                station.outbox.remove(name)
            station.unpark(name)
        except OSError as error:
            if not station.is_stuck(name):
                log.warning("%s: %s stays in the outbox: %s", station.agent.name, quoted(name), errno_text(error))
            station.park(name, time.monotonic() + _STUCK, stuck=True)
            return
        for to, why in case.refused.items() if station.agent.name not in self._thinner.silent else ():
            whom = f" for {_shown(to)}" if to else ""
            log.warning("%s: %s%s went back: %s", station.agent.name, quoted(name), whom, why)

    def _note(self, records: list[Record]) -> None:
        """Keep in mind what was recorded."""
        for record in records:
            if record["event"] in ("defer", "bounce"):
                key = (record["from"], record["id"], record["to"])
                if record["event"] == "bounce":
                    self._memory.give_up(key)
                else:
                    self._memory.defer(key, time.time())

    def _is_known(self, record: Record) -> bool:
        """Whether a relay after us has to know of it: that something accepted or put off was given up."""
        key = (str(record.get("from")), str(record.get("id")), str(record.get("to")))
        return record["event"] == "bounce" and (key in self._memory.waiting or self._memory.find(key) is not None)

    # What the policy is asked, and what only the relay knows

    def _question(self, letter: OutboxMessage, key: TransferId) -> PolicyQuery:
        sender, _, to = key
        members, answers = letter.members, None
        asked = (to, str(members.get("in_reply_to")), sender)
        answered = self._memory.find(asked)
        if answered is not None:
            answers = max(0.0, time.time() - answered.at)
        already = self._memory.answers(asked) + self._answering[asked]
        return PolicyQuery(Address(sender), to, members.get("type"), len(letter.data), _form(members), answers, already)

    def _over_quota(self, station: Sender, letter: OutboxMessage) -> str | None:
        limits, now = station.agent.limits, time.time()
        if not station.quota.room(now, 1):
            return f"{station.agent.name} has used up its quota of {limits.quota} messages"
        if not station.quota_bytes.room(now, len(letter.data)):
            return f"{station.agent.name} has used up its quota of {limits.quota_bytes} bytes"
        return None

    def _make_sure_of_room(self, to: str, batch: DeliveryBatch) -> None:
        """Raises OSError where too much waits in the box already."""
        if self._room.get(to, 0) <= 0:
            limit, now = self.policy.agents[Address(to)].limits.waiting, time.monotonic()
            if now < self._count_at.get(to, 0.0):
                raise OSError(0, f"{limit} messages waited in its box a moment ago, and that is the limit")
            waiting = batch.inbox(to).waiting(limit) + batch.staged_for(to)
            self._room[to] = limit - waiting
            if waiting > _CROWD:  # its owner can keep it nearly full, and others wait while we count
                self._count_at[to] = now + _SHARE * (time.monotonic() - now)
            if waiting >= limit:
                raise OSError(0, f"{limit} messages wait in its box, and that is the limit")

    def _too_long(self, key: TransferId) -> bool:
        since = self._memory.waiting.get(key)
        return since is not None and time.time() - since >= self.policy.settings.give_up

    def _tired(self, station: Sender, name: str, parked: Deferred) -> bool:
        """Whether something parked has waited so long that it goes back, without another try."""
        parts = parse_filename(name)
        return parts is None or any(self._too_long((station.agent.name, parts.id, to)) for to in parked.to)

    def _troubled(self, to: str, now: float) -> bool:
        trouble = self.troubles.get(to)
        return trouble is not None and trouble.until > now

    def _harmed(self, to: str, error: OSError) -> Outage:
        """Something is wrong with a recipient's box: let it be for a while, each time for longer."""
        before, why = self.troubles.get(to), f"the box of {to} takes no mail ({errno_text(error)})"
        wait = _BACKOFF[0] if before is None else min(_BACKOFF[1], before.wait * 2)
        if before is None or before.why != why:
            log.warning("%s: mail for it has to wait", why)
        self.troubles[to] = Outage(why, time.monotonic() + wait, wait)
        return self.troubles[to]

    def _well(self, to: str) -> None:
        if self.troubles.pop(to, None) is not None:
            log.warning("the box of %s takes mail again", to)

    # Beginning, reloading, standing still

    def _set_up(self) -> None:
        """Stations for the agents that there are now. Who has not changed keeps its own."""
        kept: dict[Address, Sender] = {}
        for name, agent in self.policy.agents.items():
            station = self.stations.pop(name, None)
            if station is not None and station.agent == agent:
                kept[name] = station
                continue
            if station is not None:
                station.close()
            kept[name] = Sender(agent, self._watches)
        for station in self.stations.values():
            station.close()
        self.stations = kept
        self._room.clear()
        self._count_at.clear()
        self._all_at = 0.0

    def _finish_all(self) -> None:
        """Deliver what was accepted and is still staged: a relay before us did not get so far."""
        for to, left in list(self._memory.unsettled()):
            with DeliveryBatch(self.policy.agents) as batch:
                staged = None
                if to in self.policy.agents:
                    with contextlib.suppress(OSError):
                        staged = batch.inbox(to).staged()
                for key, carried in left:
                    if staged is not None and carried.file not in staged:
                        self._memory.delivered(key)
                    elif to not in self.troubles:  # else the others are tried when their originals come up
                        self._deliver(None, batch, key, carried)
                batch.ring()

    def _load(self) -> None:
        if self._reread is None:
            return
        try:
            fresh = self._reread()
            _refuse_shared(fresh)
        except (MailboxError, OSError) as error:
            log.error("the policy was not reloaded, the old one stays: %s", error)
            self._record_only({"event": "policy-refused", "policy": self.policy.digest, "why": str(error)})
            return
        ours, theirs = self.policy.settings, fresh.settings
        if (ours.state, ours.key, ours.origin, ours.segment) != (
            theirs.state,
            theirs.key,
            theirs.origin,
            theirs.segment,
        ):
            log.warning("state, key, origin and segment of the relay change only when it is started anew")
        if self._record_only({"event": "policy", "policy": fresh.digest}):
            self.policy = fresh
            self._set_up()
            log.warning("the policy was reloaded: %d agents, %d rules", len(fresh.agents), len(fresh.rules))

    def _record_only(self, record: Record) -> bool:
        try:
            self.audit.append([record])
        except StorageError as error:
            self._stand_still(error)
            return False
        return True

    def _stand_still(self, error: MailboxError) -> None:
        """Without a record nothing is delivered: wait, and try again."""
        wait = _OURSELVES[0] if self.trouble is None else min(_OURSELVES[1], self.trouble.wait * 2)
        if self.trouble is None or self.trouble.why != str(error):
            log.error("nothing is carried: %s", error)
        self.trouble = Outage(str(error), time.monotonic() + wait, wait)
        for station in self.stations.values():
            station.forget()

    def _recover_claims(self) -> bool:
        """Whether records can be written again."""
        assert self.trouble is not None
        if time.monotonic() < self.trouble.until:
            return False
        try:
            if not self.audit.open:
                self._memory = (
                    AcceptedIndex()
                )  # what is in the log may be more than we know of: it may have been written
                self.audit.begin(self._verify, self._memory.remember)
                self._finish_all()
            self.audit.append([{"event": "resume", "why": self.trouble.why}])
        except (StorageError, Tampered) as error:
            self._stand_still(error)
            return False
        log.warning("mail is carried again")
        self.trouble = None
        return True

    def _age(self) -> None:
        """A new segment: forget the older half of what was carried, its removal from the outboxes flushed."""
        self._segment = self.audit.number
        for station in self.stations.values():
            if station.outbox.folder >= 0:
                with contextlib.suppress(OSError):
                    os.fsync(station.outbox.folder)
        self._memory.age()


def _refuse_shared(policy: Policy) -> None:
    """The policy sees the paths of volumes; that two lead to one place, only the disk tells. Raises InvalidPolicy."""
    seen: dict[tuple[int, int], Agent] = {}
    for agent in policy.agents.values():
        with contextlib.suppress(OSError):
            facts = os.stat(agent.volume)
            other = seen.setdefault((facts.st_dev, facts.st_ino), agent)
            if other is not agent and (agent.uid is None or agent.uid == other.uid):
                both = f"{other.name} and {agent.name}"
                raise InvalidPolicy([f"{both} have one volume, and no uids of their own: nothing tells them apart"])


def _objection(letter: OutboxMessage, sender: str) -> str | None:
    """What is wrong with a message whoever it is for."""
    said = letter.members.get("from")
    if said is not None and said != sender:
        return f"it says that it is from {quoted(said)}, and it came from the volume of {sender}"
    expires = letter.members.get("expires")
    if isinstance(expires, str):
        with contextlib.suppress(ValueError, OverflowError):
            if parse_time(expires).timestamp() <= time.time():
                return f"it expired at {expires}"
    return None


def _spend(station: Sender, size: int) -> None:
    """Count one message for the quotas of its sender: carried or refused, it was work."""
    now = time.time()
    station.quota.use(now, 1)
    station.quota_bytes.use(now, size)


def _counted(record: Record, count: int) -> Record:
    return {**record, "count": count} if count > 1 else record


def _form(members: Mapping[str, Any]) -> Protection:
    """How it is written. Whether the signature is right is for the recipient to see, who knows the key."""
    if isinstance(members.get("sealed"), dict):
        return "sealed"
    return "signed" if isinstance(members.get("sig"), str) else "plain"


def _record(event: str, key: TransferId, letter: OutboxMessage, rule: str = "") -> Record:
    sender, id, to = key
    members = letter.members
    return {
        "event": event,
        "from": sender,
        "to": to,
        "id": id,
        "type": members.get("type"),
        "thread": members.get("thread"),
        "in_reply_to": members.get("in_reply_to"),
        "size": len(letter.data),
        "rule": rule or None,
    }


def _reasons(refused: Mapping[str, str]) -> str:
    """For a `.why`: the first line says it all where there is one recipient."""
    return "\n".join(
        f"the relay did not carry it{f' to {_shown(to)}' if to else ''}: {why}" for to, why in refused.items()
    )


def _shown(to: str) -> str:
    return to if is_address(to) or is_group(to) else quoted(to)
