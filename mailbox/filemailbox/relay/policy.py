"""Who may write to whom: what relay.toml says, and what it decides. No disk, no clock, no network.

    [agents.planner]                an agent: the volume that is its own, who owns that, what it may use up
    volume = "/srv/mail/planner"
    uid = 2001

    [groups]                        names for several agents
    coders = ["coder-1", "coder-2"]

    [[allow]]                       what is not allowed is refused
    from = "planner"
    to = "team:coders"
    type = ["task", "cancel"]

    [[deny]]                        whatever allows it
    from = "*"
    to = "admin"

An allow rule is a grant that stands for itself: one that fits in all its parts is enough. A deny rule that fits
overrides them all. So no rule means something else where it is moved, and none can be read without the others only to
be wrong. What is misspelt, names nobody, or can never apply, is an error: a policy is taken whole or not at all.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from ..errors import quoted
from ..format.address import ALL, TEAM, Address
from ..trust.levels import PROTECTIONS, Protection

ANSWERS: Final = 16
"""How many answers of one agent to one message a rule with `reply_only` allows that does not say."""

DURATIONS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so many seconds."""

    count: int
    span: float

    def __str__(self) -> str:
        unit = next((unit for unit, length in DURATIONS.items() if length == self.span), "s")
        return f"{self.count}/{unit}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What an agent may use up."""

    max_bytes: int = 1 << 20  # of one message that it sends
    rate: Rate | None = Rate(100, 1)  # mail that it sends: what comes faster waits
    burst: int = 1000  # how much at once, when it has been silent
    quota: Rate | None = None  # mail that it sends: what is over it is refused
    quota_bytes: Rate | None = None  # the same, in bytes
    outbox: int = 10_000  # files in its outbox that are looked at
    waiting: int = 10_000  # mail in its box, above which more of it has to wait outside
    min_protection: Protection = "plain"  # the least that it may send


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent, and the volume that is its own."""

    name: Address
    volume: str
    uid: int | None = None  # who its volume must belong to; None: whoever it belongs to
    gid: int | None = None
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Settings:
    """How the relay itself runs."""

    state: str = "/var/lib/mailbox-relay"  # its folder: the audit log lies there
    key: str = "/etc/mailbox/relay.key"  # what signs the checkpoints of the audit log
    origin: str = "relay"  # what the audit log calls itself
    bodies: bool = False  # whether the audit log keeps what the messages say
    segment: int = 16 << 20  # bytes of the audit log, from which on it goes on in another file
    poll_interval: float = 1.0  # seconds between two looks at every outbox, whatever is announced
    give_up: float = 86400.0  # seconds for which mail to a full or vanished box is tried again


@dataclass(frozen=True, slots=True)
class Rule:
    """One `[[allow]]` or `[[deny]]`."""

    label: str  # what it is called: its name, or its kind and number
    allows: bool
    senders: frozenset[Address]
    to: frozenset[Address]
    types: tuple[str, ...] | None  # patterns; None: all
    max_bytes: int | None = None
    min_protection: Protection = "plain"
    reply_within: float | None = None  # only answers, to mail that was carried at most so many seconds ago
    answers: int = ANSWERS  # with reply_within: so many answers of one agent to one message

    def covers(self, sender: Address, to: Address, type: str | None) -> bool:
        """Whether it is about such mail at all."""
        return sender in self.senders and to in self.to and self.covers_type(type)

    def covers_type(self, type: str | None) -> bool:
        """Whether it is about mail of this type."""
        return self.types is None or any(fits(pattern, type or "") for pattern in self.types)

    def objects(self, asked: "PolicyQuery") -> str | None:
        """Why it does not allow what it covers; None where it does."""
        if self.max_bytes is not None and asked.size > self.max_bytes:
            return f"{self.label} allows at most {self.max_bytes} bytes, and it has {asked.size}"
        if not _enough(asked.form, self.min_protection):
            return f"{self.label} allows only {_at_least(self.min_protection)} mail, and it is {asked.form}"
        if self.reply_within is not None and asked.answers is None:
            return f"{self.label} allows only answers, and it answers nothing that was carried"
        if self.reply_within is not None and asked.answers is not None and asked.answers > self.reply_within:
            return f"{self.label} allows answers within {self.reply_within:g} s, and it is too late"
        if self.reply_within is not None and asked.already >= self.answers:
            return f"{self.label} allows {self.answers} answers to one message, and that has them"
        return None

    def conditions(self) -> str:
        """What it asks for, in words."""
        parts = [] if self.types is None else ["type " + ", ".join(quoted(type) for type in self.types)]
        parts += [f"at most {self.max_bytes} bytes"] if self.max_bytes is not None else []
        parts += [f"{_at_least(self.min_protection)}"] if self.min_protection != "plain" else []
        if self.reply_within is not None:
            parts.append(f"only answers, within {self.reply_within:g} s, at most {self.answers} to one message")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class PolicyQuery:
    """What is to be decided: the facts of one message on its way to one recipient."""

    sender: Address
    to: str
    type: str | None = None
    size: int = 0
    form: Protection = "plain"
    answers: float | None = None  # how many seconds ago that was carried which it answers; None: it answers nothing
    already: int = 0  # how many answers to that its sender has sent


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether it may go, which rule decides, and, where it may not, why."""

    allowed: bool
    rule: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """Mail that may go from one agent to another."""

    sender: Address
    to: Address
    rule: str
    conditions: str


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that was read and found right."""

    agents: Mapping[Address, Agent]
    groups: Mapping[str, tuple[Address, ...]]
    rules: tuple[Rule, ...]
    settings: Settings
    digest: str  # SHA-256 of the text
    _by_pair: Mapping[tuple[Address, Address], tuple[Rule, ...]] = field(repr=False, default_factory=dict)

    def decide(self, asked: PolicyQuery) -> Decision:
        """Whether this message may go."""
        sender = self.agents[asked.sender]
        if asked.to not in self.agents:
            return Decision(False, "agents", f"there is no agent {quoted(asked.to)}")
        to = Address(asked.to)
        covering = [rule for rule in self._by_pair.get((asked.sender, to), ()) if rule.covers_type(asked.type)]
        for rule in covering:
            if not rule.allows:
                return Decision(False, rule.label, f"{rule.label} forbids it")
        if asked.size > sender.limits.max_bytes:
            why = f"it has {asked.size} bytes, and {sender.limits.max_bytes} is the limit for {asked.sender}"
            return Decision(False, "limits", why)
        if not _enough(asked.form, sender.limits.min_protection):
            required = _at_least(sender.limits.min_protection)
            return Decision(False, "limits", f"{asked.sender} must send {required} mail, and it is {asked.form}")
        objections = [(rule, rule.objects(asked)) for rule in covering]
        for rule, objection in objections:
            if objection is None:
                return Decision(True, rule.label)
        if objections:
            return Decision(False, objections[0][0].label, "; ".join(str(objection) for _, objection in objections))
        kind = f"of type {quoted(asked.type)}" if asked.type else "without a type"
        return Decision(False, "default", f"nothing allows {asked.sender} to send mail {kind} to {asked.to}")

    def expand(self, to: str, sender: Address, type: str | None) -> tuple[list[str], str | None]:
        """Whom *to* means, never the sender itself; and what is wrong with it, where nobody.

        `all` are those whom the sender may send such mail to, if it is right in all else; the members of a team are
        members, whether they may be written to or not.
        """
        if to == ALL:
            members = [name for name in self.agents if name != sender and self._may(sender, name, type)]
            return list(members), None if members else "there is nobody to whom it may go"
        if not to.startswith(TEAM):
            return [to], None
        if to.removeprefix(TEAM) not in self.groups:
            return [], f"there is no group {quoted(to.removeprefix(TEAM))}"
        members = [name for name in self.groups[to.removeprefix(TEAM)] if name != sender]
        return list(members), None if members else f"{quoted(to)} has no member but {sender}"

    def _may(self, sender: Address, to: Address, type: str | None) -> bool:
        covering = [rule for rule in self._by_pair.get((sender, to), ()) if rule.covers_type(type)]
        return bool(covering) and all(rule.allows for rule in covering)

    def reach(self) -> Iterator[Route]:
        """Who can write to whom, by which rule and under which conditions; sorted by name."""
        for (sender, to), rules in sorted(self._by_pair.items()):
            denials = [rule for rule in rules if not rule.allows]
            for rule in rules:
                if rule.allows and not any(shadows(denial, rule) for denial in denials):
                    but = ["not " + denial.conditions() for denial in denials if _meet(denial, rule)]
                    conditions = "; ".join(filter(None, [rule.conditions(), *but]))
                    yield Route(sender, to, rule.label, conditions)


def content_of(rule: Rule) -> str:
    """All that a rule says, without what it is called."""
    parts = (rule.allows, sorted(rule.senders), sorted(rule.to), rule.types, rule.max_bytes, rule.min_protection)
    return repr((*parts, rule.reply_within, rule.answers))


def fits(pattern: str, text: str) -> bool:
    """Whether *text* fits a *pattern* in which `*` stands for anything; nothing else is special."""
    if "*" not in pattern:
        return pattern == text
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def _enough(form: Protection, required: Protection) -> bool:
    return PROTECTIONS.index(form) >= PROTECTIONS.index(required)


def _at_least(form: Protection) -> str:
    return {"plain": "any", "signed": "signed or sealed", "sealed": "sealed"}[form]


def shadows(denial: Rule, rule: Rule) -> bool:
    """Whether *denial* forbids every type that *rule* allows."""
    if denial.types is None or "*" in denial.types:
        return True
    return rule.types is not None and all(
        any(fits(pattern, type) for pattern in denial.types) if "*" not in type else type in denial.types
        for type in rule.types
    )


def _meet(denial: Rule, rule: Rule) -> bool:
    """Whether there may be a type that both are about."""
    if denial.types is None or rule.types is None:
        return True
    return any(fits(a, b) or fits(b, a) or ("*" in a and "*" in b) for a in denial.types for b in rule.types)
