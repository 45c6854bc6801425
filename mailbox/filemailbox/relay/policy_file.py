"""relay.toml, parsed and checked: a policy is taken whole or not at all."""

import hashlib
import posixpath
import re
import tomllib
from collections.abc import Callable, Mapping, Set
from difflib import get_close_matches
from typing import Any, Final

from ..errors import InvalidRequestError, quoted
from ..format.address import TEAM, Address, is_address
from ..trust.levels import PROTECTIONS
from .policy import (
    ANSWERS,
    DURATIONS,
    Agent,
    Limits,
    Policy,
    Rate,
    Rule,
    Settings,
    content_of,
    fits,
    shadows,
)

_SIZES: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_LARGEST: Final = 1 << 30


class InvalidPolicy(InvalidRequestError):
    """A policy that is not taken, and all that is wrong with it: `problems`."""

    def __init__(self, problems: list[str], where: str = "the policy") -> None:
        self.problems = problems
        super().__init__(f"{where} is not taken: " + "; ".join(problems))


_LIMITS: Final = frozenset(Limits.__dataclass_fields__)


def parse_policy(text: str, where: str = "the policy") -> Policy:
    """The policy that *text* is. Raises InvalidPolicy, with all that is wrong with it."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidPolicy([f"it is not TOML: {error}"], where) from None
    reader = _PolicyFile()
    policy = reader.policy(document, hashlib.sha256(text.encode()).hexdigest())
    if reader.problems:
        raise InvalidPolicy(reader.problems, where)
    return policy


class _PolicyFile:
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
        rules = tuple(sorted(rules, key=content_of))  # which of several decides does not depend on where it stands
        pairs: dict[tuple[Address, Address], tuple[Rule, ...]] = {}
        for rule in rules:
            for sender in rule.senders:
                for to in rule.to:
                    pairs[sender, to] = (*pairs.get((sender, to), ()), rule)
        return Policy(agents, groups, rules, settings, digest, pairs)

    def _settings(self, table: dict[str, Any]) -> Settings:
        self._known(table, {"state", "key", "origin", "bodies", "segment", "poll_interval", "give_up"}, "in [relay]")
        default = Settings()
        return Settings(
            self._path(table, "state", "[relay]", default.state),
            self._path(table, "key", "[relay]", default.key),
            self._get(table, "origin", "[relay]", default.origin, _origin),
            self._get(table, "bodies", "[relay]", default.bodies, _flag),
            self._get(table, "segment", "[relay]", default.segment, _size),
            self._get(table, "poll_interval", "[relay]", default.poll_interval, _span),
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
            self._get(table, "min_protection", where, default.min_protection, _form),
        )

    def _agents(self, tables: dict[str, Any], limits: Limits) -> dict[Address, Agent]:
        agents: dict[Address, Agent] = {}
        for name in sorted(tables):
            where, table = f"[agents.{name}]", tables[name]
            if not is_address(name):
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
            if not is_address(name):
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
            known |= {"max_bytes", "min_protection", "reply_only", "within", "answers"} if kind == "allow" else set()
            self._known(table, known, f"in {where}")
            senders = self._some(table, "from", where, agents, groups)
            to = self._some(table, "to", where, agents, groups)
            types = self._get(table, "type", where, None, _types)
            max_bytes = self._get(table, "max_bytes", where, None, _size)
            min_protection = self._get(table, "min_protection", where, "plain", _form)
            within = self._get(table, "within", where, 3600.0, _span)
            replies = self._get(table, "reply_only", where, False, _flag)
            answers = self._get(table, "answers", where, ANSWERS, _count)
            for key in {"within", "answers"} & table.keys() if not replies else ():
                self.problems.append(f"{where} says {key}, which is for reply_only = true")
            within = within if replies else None
            rules.append(Rule(label, kind == "allow", senders, to, types, max_bytes, min_protection, within, answers))
        return rules

    def _sense(self, rules: tuple[Rule, ...]) -> None:
        """Rules that say the same, or can never apply, were meant to be something else."""
        labels: set[str] = set()
        said: dict[str, Rule] = {}
        for rule in rules:
            if rule.label in labels:
                self.problems.append(f"two rules are called {quoted(rule.label)}")
            labels.add(rule.label)
            saying = content_of(rule)
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
                    any(sender in denial.senders and to in denial.to and shadows(denial, rule) for denial in denials)
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
                fitting = {name for name in agents if fits(text, name)}
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
        self.problems.append(f"{quoted(text)} {where} is no agent{_suggest(str(text), agents)}")
        return None

    def _known(self, table: dict[str, Any], known: Set[str], where: str) -> None:
        for key in table:
            if key not in known:
                self.problems.append(f"{quoted(key)} {where} is not known{_suggest(key, known)}")

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


def _suggest(text: str, known: Any) -> str:
    near = get_close_matches(text, [str(each) for each in known], 1, 0.6)
    return f" (did you mean {quoted(near[0])}?)" if near else ""


def _absolute(value: Any) -> str:
    if isinstance(value, str) and value.startswith("/") and "\0" not in value:
        return value
    raise ValueError("an absolute path")


def _origin(value: Any) -> str:
    if isinstance(value, str) and is_address(value):
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
    if value in PROTECTIONS:
        return str(value)
    raise ValueError(f"one of {', '.join(PROTECTIONS)}")


def _size(value: Any) -> int:
    match = re.fullmatch(r"(\d{1,10}) ?(KiB|MiB|GiB)?", value) if isinstance(value, str) else None
    size = int(match[1]) * _SIZES[match[2] or ""] if match else value
    if type(size) is int and 0 < size <= _LARGEST:
        return size
    raise ValueError('bytes, such as 65536 or "64KiB"')


def _span(value: Any) -> float:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?) ?(ms|[smhdw])", value) if isinstance(value, str) else None
    span = float(match[1]) * DURATIONS[match[2]] if match else 0.0
    if span > 0:
        return span
    raise ValueError('a span of time such as "30s", "5m", "1h" or "2d"')


def _rate(value: Any) -> Rate | None:
    if value == "none":
        return None
    match = re.fullmatch(r"(\d{1,9})/([smhd])", value) if isinstance(value, str) else None
    if match and int(match[1]) > 0:
        return Rate(int(match[1]), DURATIONS[match[2]])
    raise ValueError('so many in a time, such as "10/s", "600/m" or "5000/d", or "none"')


def _rate_of_bytes(value: Any) -> Rate:
    amount, slash, unit = value.rpartition("/") if isinstance(value, str) else ("", "", "")
    if slash and unit in ("s", "m", "h", "d"):
        return Rate(_size(amount), DURATIONS[unit])
    raise ValueError('so many bytes in a time, such as "64MiB/d"')


def _types(value: Any) -> tuple[str, ...]:
    types = [value] if isinstance(value, str) else value
    if isinstance(types, list) and types and all(isinstance(type, str) for type in types):
        return tuple(sorted(set(types)))
    raise ValueError('a type or a list of types, in which * stands for anything; "" is mail without a type')
