"""The reader of relay.toml. A policy is valid as a whole, or it is refused with all that is wrong with it."""

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
    DEFAULT_REPLIES,
    DURATIONS,
    Agent,
    Limits,
    Policy,
    Rate,
    RelaySettings,
    Rule,
    content_of,
    fits,
    shadows,
)

_SIZES: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_MAX_SIZE: Final = 1 << 30
_LIMITS: Final = frozenset(Limits.__dataclass_fields__)
_SETTINGS: Final = frozenset(RelaySettings.__dataclass_fields__)


class InvalidPolicyError(InvalidRequestError):
    """An invalid policy: `problems` describes all that is wrong with it."""

    def __init__(self, problems: list[str], where: str = "the policy") -> None:
        self.problems = problems
        super().__init__(f"{where} is invalid: " + "; ".join(problems))


def parse_policy(text: str, where: str = "the policy") -> Policy:
    """Return the policy in *text*; *where* names it in errors. Raises InvalidPolicyError with all problems."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidPolicyError([f"it is not TOML: {error}"], where) from None
    reader = _PolicyFile()
    policy = reader.policy(document, hashlib.sha256(text.encode()).hexdigest())
    if reader.problems:
        raise InvalidPolicyError(reader.problems, where)
    return policy


class _PolicyFile:
    """Reads a document and collects its problems, instead of stopping at the first one."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def policy(self, document: dict[str, Any], digest: str) -> Policy:
        top = {"version", "relay", "limits", "agents", "groups", "allow", "deny"}
        self._check_keys(document, top, "at the top")
        if document.get("version", 1) != 1:
            self.problems.append(f"its version is {quoted(document['version'])}, and 1 is known here")
        settings = self._settings(self._table(document, "relay"))
        self._check_keys(self._table(document, "limits"), _LIMITS, "in [limits]")
        limits = self._limits(self._table(document, "limits"), "[limits]", Limits())
        agents = self._agents(self._table(document, "agents"), limits)
        groups = self._groups(self._table(document, "groups"), agents)
        rules = (*self._rules(document, "deny", agents, groups), *self._rules(document, "allow", agents, groups))
        self._check_redundant(rules)
        rules = tuple(sorted(rules, key=content_of))  # so the deciding rule does not depend on their order
        pairs: dict[tuple[Address, Address], tuple[Rule, ...]] = {}
        for rule in rules:
            for sender in rule.senders:
                for to in rule.to:
                    pairs[sender, to] = (*pairs.get((sender, to), ()), rule)
        return Policy(agents, groups, rules, settings, digest, pairs)

    def _settings(self, table: dict[str, Any]) -> RelaySettings:
        self._check_keys(table, _SETTINGS, "in [relay]")
        default = RelaySettings()
        return RelaySettings(
            self._path(table, "state", "[relay]", default.state),
            self._path(table, "key", "[relay]", default.key),
            self._get(table, "origin", "[relay]", default.origin, _origin),
            self._get(table, "bodies", "[relay]", default.bodies, _flag),
            self._get(table, "segment", "[relay]", default.segment, _size),
            self._get(table, "poll_interval", "[relay]", default.poll_interval, _duration),
            self._get(table, "bounce_after", "[relay]", default.bounce_after, _duration),
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
            self._get(table, "min_protection", where, default.min_protection, _protection),
        )

    def _agents(self, tables: dict[str, Any], limits: Limits) -> dict[Address, Agent]:
        agents: dict[Address, Agent] = {}
        for name in sorted(tables):
            where, table = f"[agents.{name}]", tables[name]
            if not is_address(name):
                self.problems.append(f"{quoted(name)} cannot be the name of an agent")
                continue
            if not isinstance(table, dict):
                self.problems.append(f"{where} is not a table")
                continue
            self._check_keys(table, {"volume", "uid", "gid"} | _LIMITS, f"in {where}")
            volume = self._path(table, "volume", where, "")
            if "volume" not in table:
                self.problems.append(f"{where} names no volume")
            uid = self._get(table, "uid", where, None, _id)
            gid = self._get(table, "gid", where, uid, _id)
            agents[Address(name)] = Agent(Address(name), volume, uid, gid, self._limits(table, where, limits))
        if not agents:
            self.problems.append("it names no agents: expected [agents.NAME]")
        self._check_volumes(agents)
        return agents

    def _check_volumes(self, agents: dict[Address, Agent]) -> None:
        """Note agents that share a volume without uids of their own, and volumes within others."""
        agents_of: dict[str, list[Agent]] = {}
        for agent in agents.values():
            agents_of.setdefault(posixpath.normpath(agent.volume), []).append(agent)
        for volume, sharing in agents_of.items():
            uids = [agent.uid for agent in sharing]
            if len(sharing) > 1 and (None in uids or len(set(uids)) < len(uids)):
                self.problems.append(
                    f"{' and '.join(agent.name for agent in sharing)} have the volume {quoted(volume)} in common, and "
                    "no uids of their own: nothing distinguishes them"
                )
            for other in agents_of:
                if volume.startswith(f"{other.rstrip('/')}/") and volume != other:
                    self.problems.append(
                        f"the volume {quoted(volume)} is inside {quoted(other)}, the volume of another agent"
                    )

    def _groups(self, table: dict[str, Any], agents: Mapping[Address, Agent]) -> dict[str, tuple[Address, ...]]:
        groups: dict[str, tuple[Address, ...]] = {}
        for name, members in table.items():
            if not is_address(name):
                self.problems.append(f"{quoted(name)} cannot be the name of a group")
            elif not isinstance(members, list) or not members:
                self.problems.append(f"the group {name} is not a list of agents")
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
            self.problems.append(f"{kind} is not a list of rules: each rule begins with [[{kind}]]")
            return []
        rules = []
        for number, table in enumerate(tables, 1):
            where = f"{kind} rule {number}"
            label = self._get(table, "name", where, where, _name)
            known = {"name", "from", "to", "type"}
            known |= {"max_bytes", "min_protection", "reply_only", "within", "answers"} if kind == "allow" else set()
            self._check_keys(table, known, f"in {where}")
            senders = self._expand(table, "from", where, agents, groups)
            to = self._expand(table, "to", where, agents, groups)
            types = self._get(table, "type", where, None, _types)
            max_bytes = self._get(table, "max_bytes", where, None, _size)
            min_protection = self._get(table, "min_protection", where, "plain", _protection)
            within = self._get(table, "within", where, 3600.0, _duration)
            reply_only = self._get(table, "reply_only", where, False, _flag)
            max_replies = self._get(table, "answers", where, DEFAULT_REPLIES, _count)
            for key in {"within", "answers"} & table.keys() if not reply_only else ():
                self.problems.append(f"{where} has {key}, which is only for reply_only = true")
            within = within if reply_only else None
            allows = kind == "allow"
            rules.append(Rule(label, allows, senders, to, types, max_bytes, min_protection, within, max_replies))
        return rules

    def _check_redundant(self, rules: tuple[Rule, ...]) -> None:
        """Note rules with the same name or content, and rules that can never apply: they are mistakes."""
        labels: set[str] = set()
        contents: dict[str, Rule] = {}
        for rule in rules:
            if rule.label in labels:
                self.problems.append(f"two rules are called {quoted(rule.label)}")
            labels.add(rule.label)
            content = content_of(rule)
            if content in contents:
                self.problems.append(f"{contents[content].label} and {rule.label} are the same")
            contents[content] = rule
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

    def _expand(
        self,
        table: dict[str, Any],
        key: str,
        where: str,
        agents: Mapping[Address, Agent],
        groups: Mapping[str, tuple[Address, ...]],
    ) -> frozenset[Address]:
        """Return the agents that a rule names, by address, pattern or group."""
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
                    self.problems.append(
                        f"{where} names the group {quoted(text.removeprefix(TEAM))}, which does not exist"
                    )
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
        self.problems.append(f"{quoted(text)} {where} is not an agent{_suggest(str(text), agents)}")
        return None

    def _check_keys(self, table: dict[str, Any], known: Set[str], where: str) -> None:
        for key in table:
            if key not in known:
                self.problems.append(f"{quoted(key)} {where} is not known{_suggest(key, known)}")

    def _table(self, document: dict[str, Any], key: str) -> dict[str, Any]:
        table = document.get(key, {})
        if isinstance(table, dict):
            return table
        self.problems.append(f"{key} is not a table: it begins with [{key}]")
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
    near = get_close_matches(text, [str(name) for name in known], 1, 0.6)
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
    raise ValueError("a numeric user or group id")


def _protection(value: Any) -> str:
    if value in PROTECTIONS:
        return str(value)
    raise ValueError(f"one of {', '.join(PROTECTIONS)}")


def _size(value: Any) -> int:
    match = re.fullmatch(r"(\d{1,10}) ?(KiB|MiB|GiB)?", value) if isinstance(value, str) else None
    size = int(match[1]) * _SIZES[match[2] or ""] if match else value
    if type(size) is int and 0 < size <= _MAX_SIZE:
        return size
    raise ValueError('bytes such as 65536 or "64KiB"')


def _duration(value: Any) -> float:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?) ?(ms|[smhdw])", value) if isinstance(value, str) else None
    seconds = float(match[1]) * DURATIONS[match[2]] if match else 0.0
    if seconds > 0:
        return seconds
    raise ValueError('a duration such as "30s", "5m", "1h" or "2d"')


def _rate(value: Any) -> Rate | None:
    if value == "none":
        return None
    match = re.fullmatch(r"(\d{1,9})/([smhd])", value) if isinstance(value, str) else None
    if match and int(match[1]) > 0:
        return Rate(int(match[1]), DURATIONS[match[2]])
    raise ValueError('an amount per unit of time such as "10/s", "600/m" or "5000/d", or "none"')


def _rate_of_bytes(value: Any) -> Rate:
    amount, slash, unit = value.rpartition("/") if isinstance(value, str) else ("", "", "")
    if slash and unit in ("s", "m", "h", "d"):
        return Rate(_size(amount), DURATIONS[unit])
    raise ValueError('bytes per unit of time such as "64MiB/d"')


def _types(value: Any) -> tuple[str, ...]:
    types = [value] if isinstance(value, str) else value
    if isinstance(types, list) and types and all(isinstance(type, str) for type in types):
        return tuple(sorted(set(types)))
    raise ValueError('a type or a list of types, in which * means any text; "" is mail without a type')
