"""The relay's loop: it carries mail between agents that share nothing, by a policy, and records every decision.

Each agent has a volume of its own. The relay reads their outboxes, and it alone knows who may write to whom. The sender
of a message is the agent whose volume it came from, whatever the message claims.

    poll      scan the outboxes in which something happened, and regularly all of them
    read      take some messages of each agent, strictly, once
    carry     decide, stage, record, deliver, settle: see transfer

Agents take turns, so that a flood from one does not delay the others. If something fails, the relay logs it, waits and
tries again. It ends only if it is stopped.
"""

import contextlib
import os
import select
from collections.abc import Callable, Iterator

from .. import log
from ..errors import MailboxError, StorageError, quoted
from ..format.address import Address
from ..format.filename import parse_filename
from ..store.ids import timestamp_now
from ..system.inotify import MultiWatch
from .accepted import AcceptedIndex, TransferId
from .audit_format import CheckSignature, Record, TamperedLogError
from .audit_log import AuditLog
from .carrier import Carrier, Incomplete, NotMail
from .clock import Clock, SystemClock
from .limits import Capacity, RecordThinner, RelayLimits
from .local import LocalCarrier
from .outages import Outage, Outages
from .policy import Policy
from .policy_file import InvalidPolicyError
from .sender import Deferred, Sender
from .status import RelayStatus
from .transfer import RelayState, Transfer, carry, deliver_pending, is_overdue
from .volume import errno_text, is_relay_error

_DEFAULT_LIMITS = RelayLimits()


class Relay:
    """Carries mail until it is stopped. For one thread; stop() and reload() may be called from signal handlers."""

    def __init__(
        self,
        policy: Policy,
        audit: AuditLog,
        check_signature: CheckSignature,
        reread: Callable[[], Policy] | None = None,
        *,
        carrier: Carrier | None = None,
        clock: Clock | None = None,
        limits: RelayLimits = _DEFAULT_LIMITS,
    ) -> None:
        """*reread* returns the current policy, for reload(). *carrier* is by default that for volumes of this host."""
        clock = clock or SystemClock()
        self._state = RelayState(
            policy,
            audit,
            carrier or LocalCarrier(clock),
            clock,
            limits,
            AcceptedIndex(limits.deferred_times),
            Outages(limits.recipient_backoff, clock),
            Capacity(clock.monotonic),
            RecordThinner(limits),
        )
        self._check_signature, self._reread = check_signature, reread
        self.senders: dict[Address, Sender] = {}
        self.outage: Outage | None = None
        """Why nothing at all is carried now."""
        self.stopping = False
        """True after stop()."""
        self._reload_wanted = False
        self._turns = 0
        self._scan_all_at = 0.0
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watches: MultiWatch | None = None
        self._segment = 0

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._state.policy

    @property
    def audit(self) -> AuditLog:
        """The audit log."""
        return self._state.audit

    @property
    def state(self) -> RelayState:
        """The state of the relay, for tests and reports."""
        return self._state

    @property
    def delivered(self) -> int:
        """Messages that were delivered since the start."""
        return self._state.delivered

    # Lifecycle

    def run(self, on_tick: Callable[[], object] = lambda: None) -> None:
        """Carry mail until stop(). Call *on_tick* after each turn, at least once in each poll interval.

        Raises StorageError or TamperedLogError if the audit log cannot be opened, InvalidPolicyError if the carrier
        cannot distinguish two agents.
        """
        try:
            self.start()
            while not self.stopping:
                self.turn()
                on_tick()
                if not self.stopping:
                    self._wait()
        finally:
            self.close()

    def start(self) -> None:
        """Open the audit log and the outboxes, and deliver what an earlier relay left staged. Raises as run() does."""
        state = self._state
        self._check_agents(state.policy)
        state.audit.open(self._check_signature, state.accepted.restore)
        state.audit.append([{"event": "start", "policy": state.policy.digest}])
        self._segment = state.audit.segment_number
        try:
            self._watches = MultiWatch()
        except OSError as error:
            log.warning("outboxes cannot be watched (%s): mail is found by polling", error)
        self._open_senders()
        for usage in state.accepted.usage:
            if (sender := self.senders.get(Address(usage.sender))) is not None:
                sender.use_quota(usage.at, usage.messages, usage.size)
        deliver_pending(state)

    def turn(self) -> None:
        """Carry all mail that may be carried now."""
        if self._reload_wanted:
            self._reload_wanted = False
            self._load_policy()
        if self.outage is not None and not self._resume():
            return
        state = self._state
        try:
            self._poll()
            while not self.stopping and (transfers := self._next_batch()):
                carry(state, transfers)
                if state.audit.segment_number != self._segment:
                    self._on_new_segment()
                self._poll()
            if left_out := state.thinner.due(state.clock.monotonic()):
                state.audit.append(left_out)
        except StorageError as error:
            self._suspend(error)

    def close(self) -> None:
        """Write the last record and close everything."""
        state = self._state
        if state.audit.is_open:
            with contextlib.suppress(StorageError):
                state.audit.append([*state.thinner.rest(), {"event": "stop"}])
        state.audit.close()
        for sender in self.senders.values():
            sender.close()
        self.senders.clear()
        if self._watches is not None:
            self._watches.close()
            self._watches = None
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1

    def stop(self) -> None:
        """Let run() end after the current batch."""
        self.stopping = True
        self._wake()

    def reload(self) -> None:
        """Read the policy again at the next turn. An invalid one is logged, and the old one stays in force."""
        self._reload_wanted = True
        self._wake()

    def scan_all(self) -> None:
        """Scan every outbox at the next turn, whatever was announced."""
        self._scan_all_at = 0.0

    def status(self) -> RelayStatus:
        """Return a report of how it is."""
        state, senders = self._state, self.senders
        return RelayStatus(
            timestamp_now(),
            state.policy.digest,
            len(state.policy.agents),
            state.delivered,
            sum(len(sender.deferred) for sender in senders.values()),
            self.outage.why if self.outage is not None else None,
            state.outages.reasons(),
            {name: sender.problem for name, sender in senders.items() if sender.problem is not None},
            state.audit.at.n,
        )

    # Polling

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake_fd, 1)

    def _wait(self) -> None:
        """Sleep until something happens in an outbox, something is due, or stop() or reload() wakes it."""
        until = self._scan_all_at
        for sender in self.senders.values():
            until = min(until, sender.next_scan())
        if self.outage is not None:
            until = max(until, self.outage.until)
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        if self._watches is not None and self.outage is None:
            poller.register(self._watches.fileno(), select.POLLIN)
        poller.poll(max(0.0, until - self._state.clock.monotonic()) * 1000 + 0.5)
        with contextlib.suppress(OSError):
            os.eventfd_read(self._wake_fd)

    def _poll(self) -> None:
        """Scan the outboxes in which something happened, or all of them if that is due."""
        now = self._state.clock.monotonic()
        heard = self._watches.heard() if self._watches is not None else {}
        scan_all = now >= self._scan_all_at or -1 in heard
        if scan_all:
            self._scan_all_at = now + self._state.policy.settings.poll_interval
        for sender in self.senders.values():
            if scan_all:
                sender.scan_wanted = True
            elif sender.watch in heard:
                if (names := heard[sender.watch]) is not None:
                    sender.announce(names)
                else:
                    sender.scan_wanted = True
            if not sender.queue and sender.next_scan() <= now:
                sender.scan()

    # Reading

    def _next_batch(self) -> list[Transfer]:
        """Read the next batch: some messages of each sender that has any, starting with another sender each time."""
        now = self._state.clock.monotonic()
        active = [sender for sender in self.senders.values() if sender.queue and sender.throttled_until <= now]
        share = max(1, self._state.limits.batch // max(1, len(active)))
        self._turns += 1
        transfers: list[Transfer] = []
        for number in range(len(active)):
            transfers += self._take(active[(self._turns + number) % len(active)], share, now)
        return transfers

    def _take(self, sender: Sender, share: int, now: float) -> Iterator[Transfer]:
        """Read up to *share* messages of a sender, as far as its rate allows."""
        outages = self._state.outages
        while share > 0 and sender.queue:
            name = sender.queue[0]
            deferred = sender.deferred.get(name)
            if deferred is None and not sender.bucket.take(now):
                sender.throttled_until = now + sender.bucket.wait(now)
                return
            sender.next()
            if deferred is not None and deferred.to and all(map(outages.is_blocked, deferred.to)):
                until = min(outage.until for to in deferred.to if (outage := outages.get(to)) is not None)
                sender.defer(name, until, deferred.to)
                if not self._is_overdue(sender, name, deferred):
                    continue
            share -= 1
            transfer = self._read(sender, name)
            if transfer is not None:
                yield transfer

    def _read(self, sender: Sender, name: str) -> Transfer | None:
        """Read one message. Return None if there is nothing to decide now. Raises StorageError."""
        state, agent = self._state, sender.agent
        try:
            message = sender.source.read(name, agent.limits.max_bytes)
            return Transfer(sender, message.name, message)
        except NotMail as error:
            return Transfer(sender, name, not_mail=error)
        except Incomplete:
            sender.defer(name, state.clock.monotonic() + state.limits.incomplete_retry)
        except FileNotFoundError:
            sender.settle(name)
        except OSError as error:
            if is_relay_error(error):
                doing = f"reading from the outbox of {agent.name}"
                raise StorageError(f"{doing}: {errno_text(error)}", error.errno) from error
            if name not in sender.deferred:
                log.warning("%s: %s cannot be read: %s", agent.name, quoted(name), errno_text(error))
            sender.defer(name, state.clock.monotonic() + state.limits.stuck_retry)
        return None

    def _is_overdue(self, sender: Sender, name: str, deferred: Deferred) -> bool:
        """Return whether a deferred message has waited so long that it bounces without another attempt."""
        parts = parse_filename(name)
        return parts is None or any(
            is_overdue(self._state, TransferId(sender.agent.name, parts.id, to)) for to in deferred.to
        )

    # Reloading, suspending, resuming

    def _check_agents(self, policy: Policy) -> None:
        """Raise InvalidPolicyError if the carrier cannot distinguish two agents."""
        if problems := self._state.carrier.check(policy.agents):
            raise InvalidPolicyError(problems)

    def _open_senders(self) -> None:
        """Make a sender for each agent of the policy. Agents that did not change keep theirs."""
        state, kept = self._state, dict[Address, Sender]()
        for name, agent in state.policy.agents.items():
            sender = self.senders.get(name)
            if sender is not None and sender.agent == agent:
                kept[name] = self.senders.pop(name)
        for sender in self.senders.values():
            sender.close()
        self.senders = {
            name: kept.get(name) or Sender(agent, state.carrier.source(agent), self._watches, state.clock)
            for name, agent in state.policy.agents.items()
        }
        state.capacity.clear()
        self.scan_all()

    def _load_policy(self) -> None:
        if self._reread is None:
            return
        try:
            policy = self._reread()
            self._check_agents(policy)
        except (MailboxError, OSError) as error:
            log.error("the policy was not reloaded, the old one stays in force: %s", error)
            self._append({"event": "policy-refused", "policy": self.policy.digest, "why": str(error)})
            return
        if policy.settings.fixed() != self.policy.settings.fixed():
            log.warning("state, key, origin and segment of the relay change only with a restart")
        if self._append({"event": "policy", "policy": policy.digest}):
            self._state.policy = policy
            self._open_senders()
            log.warning("the policy was reloaded: %d agents, %d rules", len(policy.agents), len(policy.rules))

    def _append(self, record: Record) -> bool:
        """Write one record. Return False if that is not possible; then the relay is suspended."""
        try:
            self.audit.append([record])
        except StorageError as error:
            self._suspend(error)
            return False
        return True

    def _suspend(self, error: MailboxError) -> None:
        """Carry nothing for a while: without a record nothing is delivered."""
        if self.outage is None or self.outage.why != str(error):
            log.error("nothing is carried: %s", error)
        wait = self._state.limits.audit_backoff.after(self.outage.wait if self.outage is not None else None)
        self.outage = Outage(str(error), self._state.clock.monotonic() + wait, wait)
        for sender in self.senders.values():
            sender.clear_queue()

    def _resume(self) -> bool:
        """Return whether records can be written again. If the log was lost, open it again."""
        assert self.outage is not None
        state = self._state
        if state.clock.monotonic() < self.outage.until:
            return False
        try:
            if not state.audit.is_open:
                # The log may have more records than the index: those whose write was reported as failed.
                state.accepted = AcceptedIndex(state.limits.deferred_times)
                state.audit.open(self._check_signature, state.accepted.restore)
                deliver_pending(state)
            state.audit.append([{"event": "resume", "why": self.outage.why}])
        except (StorageError, TamperedLogError) as error:
            self._suspend(error)
            return False
        log.warning("mail is carried again")
        self.outage = None
        return True

    def _on_new_segment(self) -> None:
        """Forget the older half of the index, after its removals from the outboxes are flushed."""
        self._segment = self.audit.segment_number
        for sender in self.senders.values():
            with contextlib.suppress(OSError):
                sender.source.flush()
        self._state.accepted.start_generation()
