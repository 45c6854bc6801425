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

import hashlib
import posixpath
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, Literal, TypeAlias

from . import names
from .errors import Invalid, quoted
from .names import ALL, TEAM, Address

Form: TypeAlias = Literal["plain", "signed", "sealed"]

FORMS: Final[tuple[Form, ...]] = ("plain", "signed", "sealed")
"""How mail can be written, each better than the one before: what is sealed is signed as well."""

ANSWERS: Final = 16
"""How many answers of one agent to one message a rule with `reply_only` allows that does not say."""

_SPANS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZES: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_LARGEST: Final = 1 << 30


class InvalidPolicy(Invalid):
    """A policy that is not taken, and all that is wrong with it: `problems`."""

    def __init__(self, problems: list[str], where: str = "the policy") -> None:
        self.problems = problems
        super().__init__(f"{where} is not taken: " + "; ".join(problems))


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so many seconds."""

    count: int
    span: float

    def __str__(self) -> str:
        unit = next((unit for unit, length in _SPANS.items() if length == self.span), "s")
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
    require: Form = "plain"  # the least that it may send


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
    rescan: float = 1.0  # seconds between two looks at every outbox, whatever is announced
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
    require: Form = "plain"
    reply_within: float | None = None  # only answers, to mail that was carried at most so many seconds ago
    answers: int = ANSWERS  # with reply_within: so many answers of one agent to one message

    def covers(self, sender: Address, to: Address, type: str | None) -> bool:
        """Whether it is about such mail at all."""
        return sender in self.senders and to in self.to and self.covers_type(type)

    def covers_type(self, type: str | None) -> bool:
        """Whether it is about mail of this type."""
        return self.types is None or any(_fits(pattern, type or "") for pattern in self.types)

    def objects(self, asked: "Question") -> str | None:
        """Why it does not allow what it covers; None where it does."""
        if self.max_bytes is not None and asked.size > self.max_bytes:
            return f"{self.label} allows at most {self.max_bytes} bytes, and it has {asked.size}"
        if not _enough(asked.form, self.require):
            return f"{self.label} allows only {_at_least(self.require)} mail, and it is {asked.form}"
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
        parts += [f"{_at_least(self.require)}"] if self.require != "plain" else []
        if self.reply_within is not None:
            parts.append(f"only answers, within {self.reply_within:g} s, at most {self.answers} to one message")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be decided: the facts of one message on its way to one recipient."""

    sender: Address
    to: str
    type: str | None = None
    size: int = 0
    form: Form = "plain"
    answers: float | None = None  # how many seconds ago that was carried which it answers; None: it answers nothing
    already: int = 0  # how many answers to that its sender has sent


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether it may go, which rule decides, and, where it may not, why."""

    allowed: bool
    rule: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Reach:
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

    def decide(self, asked: Question) -> Decision:
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
        if not _enough(asked.form, sender.limits.require):
            required = _at_least(sender.limits.require)
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

    def reach(self) -> Iterator[Reach]:
        """Who can write to whom, by which rule and under which conditions; sorted by name."""
        for (sender, to), rules in sorted(self._by_pair.items()):
            denials = [rule for rule in rules if not rule.allows]
            for rule in rules:
                if rule.allows and not any(_shadows(denial, rule) for denial in denials):
                    but = ["not " + denial.conditions() for denial in denials if _meet(denial, rule)]
                    conditions = "; ".join(filter(None, [rule.conditions(), *but]))
                    yield Reach(sender, to, rule.label, conditions)


_LIMITS: Final = frozenset(Limits.__dataclass_fields__)


class Bucket:
    """A rate, kept: as much at once as the burst allows, then as fast as the rate is. Time is passed in."""

    __slots__ = ("_burst", "_left", "_rate", "_since")

    def __init__(self, rate: Rate | None, burst: int) -> None:
        self._rate = rate.count / rate.span if rate is not None else float("inf")
        self._burst = max(1, burst)
        self._left = float(self._burst)
        self._since = float("-inf")

    def take(self, now: float) -> bool:
        """Whether one more may go at the time *now*, in seconds; then it is counted."""
        if self._rate == float("inf"):
            return True
        if now > self._since:
            self._left = min(self._burst, self._left + (now - self._since) * self._rate)
            self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def wait(self, now: float) -> float:
        """In how many seconds take() may say yes again."""
        if self._rate == float("inf"):
            return 0.0
        return max(0.0, (1 - self._left) / self._rate - (now - self._since))


class Quota:
    """So much in each hour, day …, as the clock has them: what is over it is refused."""

    __slots__ = ("_limit", "_used", "_window")

    def __init__(self, limit: Rate | None) -> None:
        self._limit = limit
        self._window, self._used = -1, 0

    def room(self, now: float, amount: int) -> bool:
        """Whether *amount* more fits in at the time *now*, in seconds since 1970."""
        return self._limit is None or self._in(now) + amount <= self._limit.count

    def use(self, now: float, amount: int) -> None:
        """Count *amount*."""
        if self._limit is not None:
            self._used = self._in(now) + amount

    def _in(self, now: float) -> int:
        assert self._limit is not None
        window = int(now // self._limit.span)
        if window > self._window:
            self._window, self._used = window, 0
        return self._used


def parse(text: str, where: str = "the policy") -> Policy:
    """The policy that *text* is. Raises InvalidPolicy, with all that is wrong with it."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidPolicy([f"it is not TOML: {error}"], where) from None
    reader = _Reader()
    policy = reader.policy(document, hashlib.sha256(text.encode()).hexdigest())
    if reader.problems:
        raise InvalidPolicy(reader.problems, where)
    return policy


class _Reader:
    """Reads a document, and notes all that is wrong with it instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def policy(self, document: dict[str, Any], digest: str) -> Policy:
        top = {"version", "relay", "limits", "agents", "groups", "allow", "deny"}
        self._known(document, top, "at the top")
        if document.get("version", 1) != 1:
            self.problems.append(f"its version is {quoted(document['version'])}, and 1 is known here")
        settings = self._settings(self._table(document, "relay"))
        self._known(self._table(document, "limits"), _LIMITS, "in [limits]")
        limits = self._limits(self._table(document, "limits"), "[limits]", Limits())
        agents = self._agents(self._table(document, "agents"), limits)
        groups = self._groups(self._table(document, "groups"), agents)
        rules = (*self._rules(document, "deny", agents, groups), *self._rules(document, "allow", agents, groups))
        self._sense(rules)
        rules = tuple(sorted(rules, key=_content))  # which of several decides does not depend on where it stands
        pairs: dict[tuple[Address, Address], tuple[Rule, ...]] = {}
        for rule in rules:
            for sender in rule.senders:
                for to in rule.to:
                    pairs[sender, to] = (*pairs.get((sender, to), ()), rule)
        return Policy(agents, groups, rules, settings, digest, pairs)

    def _settings(self, table: dict[str, Any]) -> Settings:
        self._known(table, {"state", "key", "origin", "bodies", "segment", "rescan", "give_up"}, "in [relay]")
        default = Settings()
        return Settings(
            self._path(table, "state", "[relay]", default.state),
            self._path(table, "key", "[relay]", default.key),
            self._get(table, "origin", "[relay]", default.origin, _origin),
            self._get(table, "bodies", "[relay]", default.bodies, _flag),
            self._get(table, "segment", "[relay]", default.segment, _size),
            self._get(table, "rescan", "[relay]", default.rescan, _span),
            self._get(table, "give_up", "[relay]", default.give_up, _span),
        )

    def _limits(self, table: dict[str, Any], where: str, default: Limits) -> Limits:
        return Limits(
            self._get(table, "max_bytes", where, default.max_bytes, _size),
            self._get(table, "rate", where, default.rate, _rate),
            self._get(table, "burst", where, default.burst, _count),
            self._get(table, "quota", where, default.quota, _rate),
            self._get(table, "quota_bytes", where, default.quota_bytes, _rate_of_bytes),
            self._get(table, "outbox", where, default.outbox, _count),
            self._get(table, "waiting", where, default.waiting, _count),
            self._get(table, "require", where, default.require, _form),
        )

    def _agents(self, tables: dict[str, Any], limits: Limits) -> dict[Address, Agent]:
        agents: dict[Address, Agent] = {}
        for name in sorted(tables):
            where, table = f"[agents.{name}]", tables[name]
            if not names.is_address(name):
                self.problems.append(f"{quoted(name)} cannot be the name of an agent")
                continue
            if not isinstance(table, dict):
                self.problems.append(f"{where} is no table")
                continue
            self._known(table, {"volume", "uid", "gid"} | _LIMITS, f"in {where}")
            volume = self._path(table, "volume", where, "")
            if "volume" not in table:
                self.problems.append(f"{where} names no volume")
            uid = self._get(table, "uid", where, None, _id)
            gid = self._get(table, "gid", where, uid, _id)
            agents[Address(name)] = Agent(Address(name), volume, uid, gid, self._limits(table, where, limits))
        if not agents:
            self.problems.append("it names no agents: [agents.NAME] does")
        self._apart(agents)
        return agents

    def _apart(self, agents: dict[Address, Agent]) -> None:
        """Who is told apart by the volume alone must have one; on a shared one, the uid tells."""
        agents_of: dict[str, list[Agent]] = {}
        for agent in agents.values():
            agents_of.setdefault(posixpath.normpath(agent.volume), []).append(agent)
        for volume, sharing in agents_of.items():
            uids = [agent.uid for agent in sharing]
            if len(sharing) > 1 and (None in uids or len(set(uids)) < len(uids)):
                self.problems.append(
                    f"{' and '.join(agent.name for agent in sharing)} have the volume {quoted(volume)} in common, and "
                    "no uids of their own: nothing tells them apart"
                )
            for other in agents_of:
                if volume.startswith(f"{other.rstrip('/')}/") and volume != other:
                    self.problems.append(
                        f"the volume {quoted(volume)} lies within {quoted(other)}, which belongs to somebody else"
                    )

    def _groups(self, table: dict[str, Any], agents: Mapping[Address, Agent]) -> dict[str, tuple[Address, ...]]:
        groups: dict[str, tuple[Address, ...]] = {}
        for name, members in table.items():
            if not names.is_address(name):
                self.problems.append(f"{quoted(name)} cannot be the name of a group")
            elif not isinstance(members, list) or not members:
                self.problems.append(f"the group {name} is no list of agents")
            else:
                found = [self._agent(member, agents, f"in the group {name}") for member in members]
                groups[name] = tuple(sorted({member for member in found if member is not None}))
        return groups

    def _rules(
        self,
        document: dict[str, Any],
        kind: str,
        agents: Mapping[Address, Agent],
        groups: Mapping[str, tuple[Address, ...]],
    ) -> list[Rule]:
        tables = document.get(kind, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self.problems.append(f"{kind} is no list of rules: each begins with [[{kind}]]")
            return []
        rules = []
        for number, table in enumerate(tables, 1):
            where = f"{kind} rule {number}"
            label = self._get(table, "name", where, where, _name)
            known = {"name", "from", "to", "type"}
            known |= {"max_bytes", "require", "reply_only", "within", "answers"} if kind == "allow" else set()
            self._known(table, known, f"in {where}")
            senders = self._some(table, "from", where, agents, groups)
            to = self._some(table, "to", where, agents, groups)
            types = self._get(table, "type", where, None, _types)
            max_bytes = self._get(table, "max_bytes", where, None, _size)
            require = self._get(table, "require", where, "plain", _form)
            within = self._get(table, "within", where, 3600.0, _span)
            replies = self._get(table, "reply_only", where, False, _flag)
            answers = self._get(table, "answers", where, ANSWERS, _count)
            for key in {"within", "answers"} & table.keys() if not replies else ():
                self.problems.append(f"{where} says {key}, which is for reply_only = true")
            within = within if replies else None
            rules.append(Rule(label, kind == "allow", senders, to, types, max_bytes, require, within, answers))
        return rules

    def _sense(self, rules: tuple[Rule, ...]) -> None:
        """Rules that say the same, or can never apply, were meant to be something else."""
        labels: set[str] = set()
        said: dict[str, Rule] = {}
        for rule in rules:
            if rule.label in labels:
                self.problems.append(f"two rules are called {quoted(rule.label)}")
            labels.add(rule.label)
            saying = _content(rule)
            if saying in said:
                self.problems.append(f"{said[saying].label} and {rule.label} say the same")
            said[saying] = rule
        denials = [rule for rule in rules if not rule.allows]
        for rule in rules:
            pairs = [(sender, to) for sender in rule.senders for to in rule.to]
            if (
                rule.allows
                and pairs
                and all(
                    any(sender in denial.senders and to in denial.to and _shadows(denial, rule) for denial in denials)
                    for sender, to in pairs
                )
            ):
                self.problems.append(f"{rule.label} allows nothing: all of it is denied")

    def _some(
        self,
        table: dict[str, Any],
        key: str,
        where: str,
        agents: Mapping[Address, Agent],
        groups: Mapping[str, tuple[Address, ...]],
    ) -> frozenset[Address]:
        """Agents by name, pattern or group."""
        given = table.get(key)
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            self.problems.append(
                f"{where} has no {key}: expected the name of an agent, {quoted('team:GROUP')}, or a list"
            )
            return frozenset()
        found: set[Address] = set()
        for text in texts:
            if text.startswith(TEAM):
                if text.removeprefix(TEAM) not in groups:
                    self.problems.append(f"{where} names the group {quoted(text.removeprefix(TEAM))}, which is none")
                found.update(groups.get(text.removeprefix(TEAM), ()))
            elif "*" in text:
                fitting = {name for name in agents if _fits(text, name)}
                if not fitting:
                    self.problems.append(f"{where} names {quoted(text)}, which no agent fits")
                found |= fitting
            else:
                name = self._agent(text, agents, f"in {where}")
                found |= {name} if name is not None else set()
        return frozenset(found)

    def _agent(self, text: object, agents: Mapping[Address, Agent], where: str) -> Address | None:
        if isinstance(text, str) and text in agents:
            return Address(text)
        self.problems.append(f"{quoted(text)} {where} is no agent{_meant(str(text), agents)}")
        return None

    def _known(self, table: dict[str, Any], known: Set[str], where: str) -> None:
        for key in table:
            if key not in known:
                self.problems.append(f"{quoted(key)} {where} is not known{_meant(key, known)}")

    def _table(self, document: dict[str, Any], key: str) -> dict[str, Any]:
        table = document.get(key, {})
        if isinstance(table, dict):
            return table
        self.problems.append(f"{key} is no table: it begins with [{key}]")
        return {}

    def _path(self, table: dict[str, Any], key: str, where: str, default: str) -> str:
        path: str = self._get(table, key, where, default, _absolute)
        return path

    def _get(self, table: dict[str, Any], key: str, where: str, default: Any, read: Callable[[Any], Any]) -> Any:
        if key not in table:
            return default
        try:
            return read(table[key])
        except ValueError as error:
            self.problems.append(f"{key} in {where} is {quoted(table[key])}, expected {error}")
            return default


def _content(rule: Rule) -> str:
    """All that a rule says, without what it is called."""
    parts = (rule.allows, sorted(rule.senders), sorted(rule.to), rule.types, rule.max_bytes, rule.require)
    return repr((*parts, rule.reply_within, rule.answers))


def _fits(pattern: str, text: str) -> bool:
    """Whether *text* fits a *pattern* in which `*` stands for anything; nothing else is special."""
    if "*" not in pattern:
        return pattern == text
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def _enough(form: Form, required: Form) -> bool:
    return FORMS.index(form) >= FORMS.index(required)


def _at_least(form: Form) -> str:
    return {"plain": "any", "signed": "signed or sealed", "sealed": "sealed"}[form]


def _shadows(denial: Rule, rule: Rule) -> bool:
    """Whether *denial* forbids every type that *rule* allows."""
    if denial.types is None or "*" in denial.types:
        return True
    return rule.types is not None and all(
        any(_fits(pattern, type) for pattern in denial.types) if "*" not in type else type in denial.types
        for type in rule.types
    )


def _meet(denial: Rule, rule: Rule) -> bool:
    """Whether there may be a type that both are about."""
    if denial.types is None or rule.types is None:
        return True
    return any(_fits(a, b) or _fits(b, a) or ("*" in a and "*" in b) for a in denial.types for b in rule.types)


def _meant(text: str, known: Any) -> str:
    near = get_close_matches(text, [str(each) for each in known], 1, 0.6)
    return f" (did you mean {quoted(near[0])}?)" if near else ""


def _absolute(value: Any) -> str:
    if isinstance(value, str) and value.startswith("/") and "\0" not in value:
        return value
    raise ValueError("an absolute path")


def _origin(value: Any) -> str:
    if isinstance(value, str) and names.is_address(value):
        return value
    raise ValueError("a name of a-z 0-9 . _ -")


def _name(value: Any) -> str:
    if isinstance(value, str) and value.isprintable() and value.isascii() and 0 < len(value) <= 64:
        return value
    raise ValueError("up to 64 printable characters")


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def _count(value: Any) -> int:
    if type(value) is int and 0 < value <= 10_000_000:
        return value
    raise ValueError("a whole number from 1 to 10000000")


def _id(value: Any) -> int:
    if type(value) is int and 0 <= value < 1 << 32:
        return value
    raise ValueError("the number of a user or a group")


def _form(value: Any) -> str:
    if value in FORMS:
        return str(value)
    raise ValueError(f"one of {', '.join(FORMS)}")


def _size(value: Any) -> int:
    match = re.fullmatch(r"(\d{1,10}) ?(KiB|MiB|GiB)?", value) if isinstance(value, str) else None
    size = int(match[1]) * _SIZES[match[2] or ""] if match else value
    if type(size) is int and 0 < size <= _LARGEST:
        return size
    raise ValueError('bytes, such as 65536 or "64KiB"')


def _span(value: Any) -> float:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?) ?(ms|[smhdw])", value) if isinstance(value, str) else None
    span = float(match[1]) * _SPANS[match[2]] if match else 0.0
    if span > 0:
        return span
    raise ValueError('a span of time such as "30s", "5m", "1h" or "2d"')


def _rate(value: Any) -> Rate | None:
    if value == "none":
        return None
    match = re.fullmatch(r"(\d{1,9})/([smhd])", value) if isinstance(value, str) else None
    if match and int(match[1]) > 0:
        return Rate(int(match[1]), _SPANS[match[2]])
    raise ValueError('so many in a time, such as "10/s", "600/m" or "5000/d", or "none"')


def _rate_of_bytes(value: Any) -> Rate:
    amount, slash, unit = value.rpartition("/") if isinstance(value, str) else ("", "", "")
    if slash and unit in ("s", "m", "h", "d"):
        return Rate(_size(amount), _SPANS[unit])
    raise ValueError('so many bytes in a time, such as "64MiB/d"')


def _types(value: Any) -> tuple[str, ...]:
    types = [value] if isinstance(value, str) else value
    if isinstance(types, list) and types and all(isinstance(type, str) for type in types):
        return tuple(sorted(set(types)))
    raise ValueError('a type or a list of types, in which * stands for anything; "" is mail without a type')
