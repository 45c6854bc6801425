"""The relay: run it, set it up, ask its policy, look at its audit log."""

import os
from typing import TYPE_CHECKING, Any

from .. import names
from ..errors import Invalid, quoted
from .options import Annotated, Arg, Opt, count, one_of, span
from .options import uid as number_of_user

if TYPE_CHECKING:
    from ..chain import Record, Signer
    from ..policy import Policy, Settings
    from ..relay import Relay

DEFAULT_CONFIG = "/etc/mailbox/relay.toml"

Config = Annotated[
    str | None,
    Opt("--config", metavar="FILE", help=f"The policy. [$MAILBOX_RELAY, else {DEFAULT_CONFIG}]"),
]
Log = Annotated[
    str,
    Opt("--log", metavar="FORM", read=one_of("text", "json"), values=("text", "json"), help="How to log. [text]"),
]
Json = Annotated[bool, Opt("--json", help="One line of JSON for each.")]
Agent = Annotated[str | None, Opt("--agent", metavar="NAME", help="Only what is from or to that agent.")]


def relay_(*, config: Config = None, log: Log = "text") -> None:
    """Carry mail between agents that share nothing, by a policy, with a record of every decision.

    Each agent has a volume of its own, with an outbox. The policy says which agents there are and who may write to
    whom; what nothing allows is refused, and comes back to its sender. SIGHUP reads the policy anew: a bad one is told
    of, and the old one stays. SIGTERM and SIGINT stop it.

    `mailbox relay init`, `check`, `explain`, `health`, `audit verify` and `audit show` are verbs of their own.

    Examples:
      mailbox relay --config relay.toml
      mailbox relay init --config relay.toml
      mailbox relay check --config relay.toml
      mailbox relay explain --config relay.toml --from alice --to bob --type job
    """
    import signal

    from ..listener import signals
    from ..notify import Notify
    from .watch import log_to_stderr

    log_to_stderr(log)
    path = _path(config)
    relay, manager = _relay(path), Notify()
    status = _Status(relay)

    def look() -> None:
        if not status.told:
            manager.say("READY=1", f"STATUS=carrying mail of {len(relay.policy.agents)} agents")
        manager.beat()
        status.tell()

    relay.on_look = look
    _open_as_many_as_possible()
    with signals(relay.stop):
        before = signal.signal(signal.SIGHUP, lambda *_: relay.reload())
        try:
            relay.run()
        finally:
            manager.stopping()
            signal.signal(signal.SIGHUP, before)
            status.close()


def relay_init_(
    *,
    config: Config = None,
    uid: Annotated[
        int | None, Opt("--uid", metavar="UID", read=number_of_user, help="Who the relay runs as. [who runs this]")
    ] = None,
) -> None:
    """Make what the policy speaks of: volumes, boxes with outboxes, the folder and the key of the relay.

    What is there already is left as it is. Only root can give boxes to the agents, and the key to the relay.

    Examples:
      mailbox relay init --config relay.toml
      sudo mailbox relay init --uid "$(id -u mailbox-relay)"
    """
    from .. import root as roots
    from ..chain import public_key
    from ..keys import Identity
    from . import show

    policy = _read(_path(config))
    relay_uid = os.geteuid() if uid is None else uid
    settings = policy.settings
    for agent in policy.agents.values():
        os.makedirs(agent.volume, exist_ok=True)
        volume = roots.init(agent.volume)
        roots.tell(volume, "relay", relay_uid)
        owner = (agent.uid, agent.gid) if agent.uid is not None and agent.gid is not None else None
        made = roots.create(volume, agent.name, owner, outbox=True)
        show.tell(f"{agent.name}: {'made' if made else 'was there'} in {agent.volume}")
    for folder in (settings.state, f"{settings.state}/audit"):
        if not os.path.isdir(folder):
            os.makedirs(folder, 0o750)
            os.chown(folder, relay_uid, -1)
    if not os.path.lexists(settings.key):
        os.makedirs(os.path.dirname(settings.key), exist_ok=True)
        Identity.generate(settings.key, names.Address(settings.origin))
        os.chown(settings.key, relay_uid, -1)
        show.tell(f"{settings.key}: made")
    if os.stat(settings.key).st_uid == os.geteuid():
        print(public_key(_signer(settings).public))


def relay_check_(*, config: Config = None, json: Json = False) -> int:
    """Say whether a policy is right, and who can write to whom. Exit code 2 where it is not, with all that is wrong.

    Examples:
      mailbox relay check --config relay.toml
      mailbox relay check --json | jq -r 'select(.to == "admin") | .from'
    """
    from ..policy import InvalidPolicy
    from . import exits, show

    path = _path(config)
    try:
        policy = _read(path)
    except InvalidPolicy as error:
        for problem in error.problems:
            show.complain(f"{quoted(path)}: {problem}")
        return exits.USAGE
    rows = []
    for each in policy.reach():
        if json:
            facts = {"from": each.sender, "to": each.to, "rule": each.rule, "conditions": each.conditions}
            show.write(show.json(facts))
        rows.append((each.sender, each.to, each.rule, show.line(each.conditions)))
    if not json:
        show.table(("FROM", "TO", "RULE", "IF"), rows)
        silent = [name for name in policy.agents if not any(name in row[:2] for row in rows)]
        if silent:
            show.tell(f"nobody can write to or hear from {', '.join(silent)}")
    return exits.DONE


def relay_explain_(
    *,
    sender: Annotated[
        str | None, Opt("--from", metavar="NAME", read=names.address, help="Who sends. [$MAILBOX_AGENT]")
    ] = None,
    to: Annotated[
        str | None, Opt("--to", metavar="NAME", read=names.recipient, help="To whom; or `all`, or `team:GROUP`. [all]")
    ] = None,
    type: Annotated[str | None, Opt("--type", metavar="TYPE", help="What kind of message it is.")] = None,
    size: Annotated[int, Opt("--size", metavar="BYTES", read=count, help="How large it is. [1]")] = 1,
    form: Annotated[
        str,
        Opt(
            "--form",
            metavar="FORM",
            read=one_of("plain", "signed", "sealed"),
            values=("plain", "signed", "sealed"),
            help="How it is written: plain, signed or sealed. [plain]",
        ),
    ] = "plain",
    answers: Annotated[
        float | None, Opt("--answers", metavar="SPAN", read=span, help="It answers what was carried so long ago.")
    ] = None,
    config: Config = None,
) -> int:
    """Say whether a message may go, and which rule decides. Exit code 1 where it may not.

    Examples:
      mailbox relay explain --from alice --to bob --type job
      mailbox relay explain --from bob --to alice --answers 5m
    """
    from ..names import Address
    from ..policy import Question
    from . import exits, show

    policy = _read(_path(config))
    sender = sender or os.environ.get("MAILBOX_AGENT") or ""
    if sender not in policy.agents:
        raise Invalid(f"--from: there is no agent {quoted(sender)}: there are {', '.join(policy.agents)}")
    recipients, why = policy.expand(to or names.ALL, Address(sender), type)
    if why is not None:
        print(show.line(f"{to or names.ALL}: refused: {why}"))
        return exits.FAILED
    code = exits.DONE
    for each in recipients:
        decision = policy.decide(Question(Address(sender), each, type, size, form, answers))  # type: ignore[arg-type]
        if decision.allowed:
            print(show.line(f"{each}: allowed by {decision.rule}"))
        else:
            print(show.line(f"{each}: refused by {decision.rule}: {decision.why}"))
            code = exits.FAILED
    return code


def relay_health_(
    *,
    max_age: Annotated[
        float, Opt("--max-age", metavar="SPAN", read=span, help="How long it may have been silent. [30s]")
    ] = 30.0,
    config: Config = None,
) -> int:
    """Say whether the relay is at work. Exit code 0 or 1: for HEALTHCHECK and exec probes.

    That it lives is asked from the kernel; that it carries mail, from what it last said.

    Examples:
      mailbox relay health --config relay.toml
    """
    from .. import codec
    from ..locks import is_held
    from . import show

    state = _read(_path(config)).settings.state
    if not is_held(f"{state}/audit/.lock"):
        print("relay: it does not run")
        return 1
    try:
        with open(f"{state}/status.json", "rb") as file:
            said = codec.loads(file.read(1 << 20))
        silent = max(0.0, _now() - names.nanoseconds(said["looked"]) / 1e9)
        trouble, recipients, outboxes = said["trouble"], said["recipients"], said["outboxes"]
        facts = f"{said['agents']} agents, {said['carried']} messages carried, {said['waiting']} put off"
    except (OSError, ValueError, LookupError, TypeError):
        print("relay: it runs, and has not said how it is")
        return 1
    print(show.line(f"relay: {facts}, last heard of {show.span(silent)} ago"))
    for name, why in {**recipients, **outboxes}.items():
        print(show.line(f"relay: {name}: {why}"))
    if trouble:
        print(show.line(f"relay: nothing is carried: {trouble}"))
    return 1 if trouble or silent > max_age else 0


def relay_audit_verify_(
    folder: Annotated[str | None, Arg("[FOLDER]", "The audit log; that of the policy by default.")] = None,
    *,
    key: Annotated[
        str | None, Opt("--key", metavar="KEY", help="The public key, or its file. [that of the policy's key]")
    ] = None,
    partial: Annotated[bool, Opt("--partial", help="The first files may have been put away.")] = False,
    config: Config = None,
) -> int:
    """Try the audit log: any change, deletion, insertion, swap or truncation is found. Exit code 1 where there is one.

    `scripts/audit-verify` in the source does the same with openssl and awk, without any of this code.

    Examples:
      mailbox relay audit verify --config relay.toml
      mailbox relay audit verify ./audit --key RWQ0dQ+YvVn8...
    """
    from .. import chain, seal
    from . import exits, show

    settings = _read(_path(config)).settings if folder is None or key is None else None
    where = folder if folder is not None else f"{settings.state}/audit"  # type: ignore[union-attr]
    public = _public(key) if key is not None else _signer(settings).public  # type: ignore[arg-type]
    try:
        at = chain.verify(where, public, seal.verify, partial)
    except chain.Tampered as error:
        for problem in error.problems:
            show.complain(f"the audit log in {quoted(where)} is not as it was written: {problem}")
        return exits.FAILED
    print(f"{at.origin}: {at.n} records, the last one is {at.head}")
    return exits.DONE


def relay_audit_show_(
    *,
    agent: Agent = None,
    thread: Annotated[str | None, Opt("--thread", metavar="THREAD", help="Only what belongs to that thread.")] = None,
    id: Annotated[str | None, Opt("--id", metavar="ID", help="Only that message.")] = None,
    event: Annotated[str | None, Opt("--event", metavar="EVENT", help="Only such: accept, refuse, defer …")] = None,
    since: Annotated[
        float | None, Opt("--since", metavar="SPAN", read=span, help="Only what was so long ago at the most: 1h, 2d …")
    ] = None,
    until: Annotated[
        float | None, Opt("--until", metavar="SPAN", read=span, help="Only what was so long ago at the least.")
    ] = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """Show the records of the audit log. It is not verified: `mailbox relay audit verify` does that.

    Examples:
      mailbox relay audit show --agent alice --since 1h
      mailbox relay audit show --event refuse --json | jq -r .why
    """
    from datetime import datetime

    from .. import chain
    from . import show

    state = _read(_path(config)).settings.state
    first, last = (_now() - (each if each is not None else none) for each, none in ((since, 1e12), (until, -1e12)))

    def wanted(record: "Record") -> bool:
        at = datetime.fromisoformat(str(record["time"])).timestamp()
        return (
            (agent is None or agent in (record.get("from"), record.get("to")))
            and (thread is None or thread in (record.get("thread"), record.get("id")))
            and (id is None or id == record.get("id"))
            and (event is None or event == record.get("event"))
            and first <= at <= last
        )

    rows = []
    for record in filter(wanted, chain.records(f"{state}/audit")):
        if json:
            show.write(show.json(record))
        elif show.person():
            rows.append(_row(record))
        else:
            print("\t".join(_row(record)))
    if rows:
        show.table(("TIME", "EVENT", "FROM", "TO", "TYPE", "ID", "RULE", "WHY"), rows)


def _row(record: "Record") -> tuple[str, ...]:
    from . import show

    members = ("time", "event", "from", "to", "type", "id", "rule", "why")
    *facts, why = (show.line(str(record.get(member) or "")) for member in members)
    count = record.get("count")
    return (*facts, f"{why} ({count} such, of which this is the last)" if count else why)


class _Status:
    """What the relay says of itself, for `mailbox relay health`. Best effort."""

    def __init__(self, relay: "Relay") -> None:
        self._relay = relay
        self._path = f"{relay.policy.settings.state}/status.json"
        self._again = 0.0
        self.told = False

    def tell(self) -> None:
        """Say it, at most once a second."""
        import contextlib
        import time

        from .. import codec

        if time.monotonic() < self._again:
            return
        self._again, self.told = time.monotonic() + 1.0, True
        relay = self._relay
        facts: dict[str, Any] = {
            "looked": names.now(),
            "policy": relay.policy.digest,
            "agents": len(relay.policy.agents),
            "carried": relay.carried,
            "waiting": sum(len(station.parked) for station in relay.stations.values()),
            "trouble": relay.trouble.why if relay.trouble is not None else None,
            "recipients": {to: trouble.why for to, trouble in relay.troubles.items()},
            "outboxes": {name: each.trouble for name, each in relay.stations.items() if each.trouble is not None},
            "records": relay.audit.at.n,
        }
        with contextlib.suppress(OSError):
            with open(f"{self._path}.new", "wb") as file:
                file.write(codec.dumps(facts, None, codec.LINE))
            os.replace(f"{self._path}.new", self._path)

    def close(self) -> None:
        import contextlib

        with contextlib.suppress(OSError):
            os.unlink(self._path)


def _relay(path: str) -> "Relay":
    from .. import seal
    from ..audit import Audit
    from ..relay import Relay

    policy = _read(path)
    settings = policy.settings
    audit = Audit(f"{settings.state}/audit", _signer(settings), settings.origin, settings.segment)
    return Relay(policy, audit, seal.verify, lambda: _read(path))


def _signer(settings: "Settings") -> "Signer":
    from ..chain import Signer
    from ..keys import Identity

    identity = Identity.load(settings.key)
    return Signer(identity.public.identity, identity.sign)


def _public(key: str) -> bytes:
    from ..chain import read_public_key

    try:
        if os.path.exists(key):
            with open(key) as file:
                return read_public_key(file.read(4096))
        return read_public_key(key)
    except ValueError as error:
        raise Invalid(f"{quoted(key)} is no key: {error}") from None


def _path(config: str | None) -> str:
    return config or os.environ.get("MAILBOX_RELAY") or DEFAULT_CONFIG


def _read(path: str) -> "Policy":
    from ..policy import parse

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise Invalid(f"the policy {quoted(path)} cannot be read ({why}): --config names it") from None
    return parse(text, f"the policy {quoted(path)}")


def _now() -> float:
    import time

    return time.time()


def _open_as_many_as_possible() -> None:
    """Each agent takes a few descriptors."""
    import contextlib
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
