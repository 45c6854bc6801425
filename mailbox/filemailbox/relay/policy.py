"""The policy of relay.toml, and its decisions: which agent may write to which. No disk, no clock, no network.

    [agents.planner]                an agent: its volume, the volume's owner, and what it may use
    volume = "/srv/mail/planner"
    uid = 2001

    [groups]                        names for several agents
    coders = ["coder-1", "coder-2"]

    [[allow]]                       mail that no rule allows is refused
    from = "planner"
    to = "team:coders"
    type = ["task", "cancel"]

    [[deny]]                        overrides every allow rule
    from = "*"
    to = "admin"

Each allow rule is a grant of its own: a message may go if one rule allows it in all its parts. A deny rule that covers
it overrides them all. So the order of rules has no meaning. A policy with a misspelt word, an unknown name, or a rule
that can never apply is invalid as a whole. `policy_file` reads it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from ..errors import quoted
from ..format.address import ALL, TEAM, Address
from ..trust.levels import PROTECTIONS, Protection

DEFAULT_REPLIES: Final = 16
"""Replies of one agent to one message that a rule with `reply_only` allows by default (`answers = 16`)."""

DURATIONS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True, slots=True)
class Rate:
    """An amount in a number of seconds."""

    count: int
    span: float

    def __str__(self) -> str:
        unit = next((unit for unit, length in DURATIONS.items() if length == self.span), "s")
        return f"{self.count}/{unit}"


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one agent."""

    max_bytes: int = 1 << 20  # size of one message that it sends
    rate: Rate | None = Rate(100, 1)  # messages that it sends; faster ones wait
    burst: int = 1000  # messages at once after a pause
    quota: Rate | None = None  # messages that it sends; further ones are refused
    quota_bytes: Rate | None = None  # the same, in bytes
    outbox: int = 10_000  # files in its outbox that a scan reads
    waiting: int = 10_000  # messages in its box; further ones are deferred
    min_protection: Protection = "plain"  # the weakest mail that it may send


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent and its volume."""

    name: Address
    volume: str
    uid: int | None = None  # the uid that must own its box; None: any
    gid: int | None = None
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """The settings of the relay itself."""

    state: str = "/var/lib/mailbox-relay"  # its folder, with the audit log
    key: str = "/etc/mailbox/relay.key"  # the key that signs the checkpoints of the audit log
    origin: str = "relay"  # the name of the audit log
    bodies: bool = False  # whether the audit log keeps the content of messages
    segment: int = 16 << 20  # bytes after which the audit log continues in another file
    poll_interval: float = 1.0  # seconds between two scans of every outbox
    bounce_after: float = 86400.0  # seconds after which mail for a full or missing box goes back

    def fixed(self) -> tuple[object, ...]:
        """Return what a reload does not change."""
        return self.state, self.key, self.origin, self.segment


@dataclass(frozen=True, slots=True)
class Rule:
    """One `[[allow]]` or `[[deny]]`."""

    label: str  # its name, or its kind and number
    allows: bool
    senders: frozenset[Address]
    to: frozenset[Address]
    types: tuple[str, ...] | None  # patterns; None: all types
    max_bytes: int | None = None
    min_protection: Protection = "plain"
    reply_within: float | None = None  # allow only replies, to messages carried at most so many seconds ago
    max_replies: int = DEFAULT_REPLIES  # with reply_within: replies of one agent to one message

    def covers(self, sender: Address, to: Address, type: str | None) -> bool:
        """Return whether the rule is about such mail at all."""
        return sender in self.senders and to in self.to and self.covers_type(type)

    def covers_type(self, type: str | None) -> bool:
        """Return whether the rule is about mail of this type."""
        return self.types is None or any(fits(pattern, type or "") for pattern in self.types)

    def why_not(self, query: "PolicyQuery") -> str | None:
        """Return why the rule does not allow a message that it covers; None if it does."""
        if self.max_bytes is not None and query.size > self.max_bytes:
            return f"{self.label} allows at most {self.max_bytes} bytes, and it has {query.size}"
        if not _is_enough(query.protection, self.min_protection):
            return f"{self.label} allows only {_at_least(self.min_protection)} mail, and it is {query.protection}"
        if self.reply_within is None:
            return None
        if query.reply_age is None:
            return f"{self.label} allows only replies, and it is not a reply to carried mail"
        if query.reply_age > self.reply_within:
            return f"{self.label} allows replies within {self.reply_within:g} s, and it is too late"
        if query.earlier_replies >= self.max_replies:
            return f"{self.label} allows {self.max_replies} replies to one message, and it has had them"
        return None

    def conditions(self) -> str:
        """Return the conditions of the rule in words."""
        parts = [] if self.types is None else ["type " + ", ".join(quoted(type) for type in self.types)]
        parts += [f"at most {self.max_bytes} bytes"] if self.max_bytes is not None else []
        parts += [f"{_at_least(self.min_protection)}"] if self.min_protection != "plain" else []
        if self.reply_within is not None:
            parts.append(f"only replies, within {self.reply_within:g} s, at most {self.max_replies} to one message")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class PolicyQuery:
    """The facts of one message on its way to one recipient."""

    sender: Address
    to: str
    type: str | None = None
    size: int = 0
    protection: Protection = "plain"
    reply_age: float | None = None  # seconds since the message was carried that this one answers; None: not a reply
    earlier_replies: int = 0  # replies of its sender to that message


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on a message: if it may go, the rule that decides, and the reason if it may not."""

    allowed: bool
    rule: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """One rule that allows mail from one agent to another."""

    sender: Address
    to: Address
    rule: str
    conditions: str


@dataclass(frozen=True, slots=True)
class Policy:
    """A valid policy."""

    agents: Mapping[Address, Agent]
    groups: Mapping[str, tuple[Address, ...]]
    rules: tuple[Rule, ...]
    settings: RelaySettings
    digest: str  # SHA-256 of its text
    _by_pair: Mapping[tuple[Address, Address], tuple[Rule, ...]] = field(repr=False, default_factory=dict)

    def decide(self, query: PolicyQuery) -> Decision:
        """Decide whether a message may go to one recipient."""
        sender = self.agents[query.sender]
        if query.to not in self.agents:
            return Decision(False, "agents", f"there is no agent {quoted(query.to)}")
        to = Address(query.to)
        covering = [rule for rule in self._by_pair.get((query.sender, to), ()) if rule.covers_type(query.type)]
        for rule in covering:
            if not rule.allows:
                return Decision(False, rule.label, f"{rule.label} forbids it")
        if query.size > sender.limits.max_bytes:
            why = f"it has {query.size} bytes, and {sender.limits.max_bytes} is the limit for {query.sender}"
            return Decision(False, "limits", why)
        if not _is_enough(query.protection, sender.limits.min_protection):
            required = _at_least(sender.limits.min_protection)
            return Decision(False, "limits", f"{query.sender} must send {required} mail, and it is {query.protection}")
        objections = [(rule, rule.why_not(query)) for rule in covering]
        for rule, objection in objections:
            if objection is None:
                return Decision(True, rule.label)
        if objections:
            return Decision(False, objections[0][0].label, "; ".join(str(objection) for _, objection in objections))
        kind = f"of type {quoted(query.type)}" if query.type else "without a type"
        return Decision(False, "default", f"no rule allows {query.sender} to send mail {kind} to {query.to}")

    def expand(self, to: str, sender: Address, type: str | None) -> tuple[list[str], str | None]:
        """Return the recipients that *to* names, never the sender itself; and the reason if there are none.

        `all` are the agents to which some rule lets the sender send such mail. `team:GROUP` are all members of the
        group, whether the sender may write to them or not.
        """
        if to == ALL:
            members = [name for name in self.agents if name != sender and self._may(sender, name, type)]
            return list(members), None if members else f"there is no agent to which {sender} may send such mail"
        if not to.startswith(TEAM):
            return [to], None
        if to.removeprefix(TEAM) not in self.groups:
            return [], f"there is no group {quoted(to.removeprefix(TEAM))}"
        members = [name for name in self.groups[to.removeprefix(TEAM)] if name != sender]
        return list(members), None if members else f"{quoted(to)} has no member but {sender}"

    def _may(self, sender: Address, to: Address, type: str | None) -> bool:
        covering = [rule for rule in self._by_pair.get((sender, to), ()) if rule.covers_type(type)]
        return bool(covering) and all(rule.allows for rule in covering)

    def routes(self) -> Iterator[Route]:
        """Yield who can write to whom, by which rule and under which conditions; sorted by name."""
        for (sender, to), rules in sorted(self._by_pair.items()):
            denials = [rule for rule in rules if not rule.allows]
            for rule in rules:
                if rule.allows and not any(shadows(denial, rule) for denial in denials):
                    but = ["not " + denial.conditions() for denial in denials if _overlap(denial, rule)]
                    conditions = "; ".join(filter(None, [rule.conditions(), *but]))
                    yield Route(sender, to, rule.label, conditions)


def content_of(rule: Rule) -> str:
    """Return all of a rule but its label, to compare rules."""
    parts = (rule.allows, sorted(rule.senders), sorted(rule.to), rule.types, rule.max_bytes, rule.min_protection)
    return repr((*parts, rule.reply_within, rule.max_replies))


def fits(pattern: str, text: str) -> bool:
    """Return True if *text* fits a *pattern* in which `*` means any text; no other character is special."""
    if "*" not in pattern:
        return pattern == text
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def shadows(denial: Rule, rule: Rule) -> bool:
    """Return whether *denial* forbids every type that *rule* allows."""
    if denial.types is None or "*" in denial.types:
        return True
    return rule.types is not None and all(
        any(fits(pattern, type) for pattern in denial.types) if "*" not in type else type in denial.types
        for type in rule.types
    )


def _is_enough(protection: Protection, required: Protection) -> bool:
    return PROTECTIONS.index(protection) >= PROTECTIONS.index(required)


def _at_least(protection: Protection) -> str:
    return {"plain": "any", "signed": "signed or sealed", "sealed": "sealed"}[protection]


def _overlap(denial: Rule, rule: Rule) -> bool:
    """Return whether there may be a type that both rules are about."""
    if denial.types is None or rule.types is None:
        return True
    return any(fits(a, b) or fits(b, a) or ("*" in a and "*" in b) for a in denial.types for b in rule.types)
