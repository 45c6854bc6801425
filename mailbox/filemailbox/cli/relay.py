"""The relay: run it, set it up, ask its policy, look at its audit log."""

import os
from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequestError, quoted
from ..format.address import ALL, Address, parse_address, parse_recipient
from ..format.timestamp import to_nanoseconds
from ..store.ids import timestamp_now
from ..trust.levels import PLAIN, PROTECTIONS
from .options import Annotated, Arg, Opt, count, duration, one_of
from .options import uid as number_of_user

if TYPE_CHECKING:
    from ..relay.audit_format import Record, Signer
    from ..relay.policy import Policy, Settings
    from ..relay.relay import Relay

DEFAULT_CONFIG = "/etc/mailbox/relay.toml"

Config = Annotated[
    str | None,
    Opt("--config", metavar="FILE", help=f"The policy. [$MAILBOX_RELAY, else {DEFAULT_CONFIG}]"),
]
LogFormat = Annotated[
    str,
    Opt(
        "--log-format",
        metavar="FORMAT",
        read=one_of("text", "json"),
        values=("text", "json"),
        help="How to log. [text]",
    ),
]
Json = Annotated[bool, Opt("--json", help="One line of JSON for each.")]
Agent = Annotated[str | None, Opt("--agent", metavar="NAME", help="Only what is from or to that agent.")]


def relay_(*, config: Config = None, log_format: LogFormat = "text") -> None:
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

    from ..receive.listener import signals
    from ..system.sd_notify import SdNotify
    from .watch import log_to_stderr

    log_to_stderr(log_format)
    path = _path(config)
    relay, manager = _relay(path), SdNotify()
    status = _Status(relay)

    def look() -> None:
        if not status.told:
            manager.say("READY=1", f"STATUS=carrying mail of {len(relay.policy.agents)} agents")
        manager.beat()
        status.tell()

    relay.on_tick = look
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
    from ..relay.audit_format import public_key
    from ..store.box import create_box
    from ..store.root import init_root, set_marker
    from ..trust.key_files import PrivateKeys
    from . import output

    policy = _read(_path(config))
    relay_uid = os.geteuid() if uid is None else uid
    settings = policy.settings
    for agent in policy.agents.values():
        os.makedirs(agent.volume, exist_ok=True)
        volume = init_root(agent.volume)
        set_marker(volume, "relay", relay_uid)
        owner = (agent.uid, agent.gid) if agent.uid is not None and agent.gid is not None else None
        made = create_box(volume, agent.name, owner, outbox=True)
        output.info(f"{agent.name}: {'made' if made else 'was there'} in {agent.volume}")
    for folder in (settings.state, f"{settings.state}/audit"):
        if not os.path.isdir(folder):
            os.makedirs(folder, 0o750)
            os.chown(folder, relay_uid, -1)
    if not os.path.lexists(settings.key):
        os.makedirs(os.path.dirname(settings.key), exist_ok=True)
        PrivateKeys.generate(settings.key, Address(settings.origin))
        os.chown(settings.key, relay_uid, -1)
        output.info(f"{settings.key}: made")
    if os.stat(settings.key).st_uid == os.geteuid():
        print(public_key(_signer(settings).public))


def relay_check_(*, config: Config = None, json: Json = False) -> int:
    """Say whether a policy is right, and who can write to whom. Exit code 2 where it is not, with all that is wrong.

    Examples:
      mailbox relay check --config relay.toml
      mailbox relay check --json | jq -r 'select(.to == "admin") | .from'
    """
    from ..relay.policy_file import InvalidPolicy
    from . import exit_codes, output

    path = _path(config)
    try:
        policy = _read(path)
    except InvalidPolicy as error:
        for problem in error.problems:
            output.error(f"{quoted(path)}: {problem}")
        return exit_codes.USAGE
    rows = []
    for each in policy.reach():
        if json:
            facts = {"from": each.sender, "to": each.to, "rule": each.rule, "conditions": each.conditions}
            output.write(output.json(facts))
        rows.append((each.sender, each.to, each.rule, output.one_line(each.conditions)))
    if not json:
        output.table(("FROM", "TO", "RULE", "IF"), rows)
        silent = [name for name in policy.agents if not any(name in row[:2] for row in rows)]
        if silent:
            output.info(f"nobody can write to or hear from {', '.join(silent)}")
    return exit_codes.DONE


def relay_explain_(
    *,
    sender: Annotated[
        str | None, Opt("--from", metavar="NAME", read=parse_address, help="Who sends. [$MAILBOX_AGENT]")
    ] = None,
    to: Annotated[
        str | None, Opt("--to", metavar="NAME", read=parse_recipient, help="To whom; or `all`, or `team:GROUP`. [all]")
    ] = None,
    type: Annotated[str | None, Opt("--type", metavar="TYPE", help="What kind of message it is.")] = None,
    size: Annotated[int, Opt("--size", metavar="BYTES", read=count, help="How large it is. [1]")] = 1,
    form: Annotated[
        str,
        Opt(
            "--form",
            metavar="FORM",
            read=one_of(*PROTECTIONS),
            values=PROTECTIONS,
            help=f"Protection of the message: {', '.join(PROTECTIONS)}. [{PLAIN}]",
        ),
    ] = "plain",
    answers: Annotated[
        float | None,
        Opt("--answers", metavar="DURATION", read=duration, help="It answers what was carried so long ago."),
    ] = None,
    config: Config = None,
) -> int:
    """Say whether a message may go, and which rule decides. Exit code 1 where it may not.

    Examples:
      mailbox relay explain --from alice --to bob --type job
      mailbox relay explain --from bob --to alice --answers 5m
    """
    from ..format.address import Address
    from ..relay.policy import PolicyQuery
    from . import exit_codes, output

    policy = _read(_path(config))
    sender = sender or os.environ.get("MAILBOX_AGENT") or ""
    if sender not in policy.agents:
        raise InvalidRequestError(f"--from: there is no agent {quoted(sender)}: there are {', '.join(policy.agents)}")
    recipients, why = policy.expand(to or ALL, Address(sender), type)
    if why is not None:
        print(output.one_line(f"{to or ALL}: refused: {why}"))
        return exit_codes.FAILED
    code = exit_codes.DONE
    for each in recipients:
        decision = policy.decide(PolicyQuery(Address(sender), each, type, size, form, answers))  # type: ignore[arg-type]
        if decision.allowed:
            print(output.one_line(f"{each}: allowed by {decision.rule}"))
        else:
            print(output.one_line(f"{each}: refused by {decision.rule}: {decision.why}"))
            code = exit_codes.FAILED
    return code


def relay_health_(
    *,
    max_age: Annotated[
        float, Opt("--max-age", metavar="DURATION", read=duration, help="How long it may have been silent. [30s]")
    ] = 30.0,
    config: Config = None,
) -> int:
    """Say whether the relay is at work. Exit code 0 or 1: for HEALTHCHECK and exec probes.

    That it lives is asked from the kernel; that it carries mail, from what it last said.

    Examples:
      mailbox relay health --config relay.toml
    """
    from ..format import codec
    from ..system.locks import is_held
    from . import output

    state = _read(_path(config)).settings.state
    if not is_held(f"{state}/audit/.lock"):
        print("relay: it does not run")
        return 1
    try:
        with open(f"{state}/status.json", "rb") as file:
            said = codec.loads(file.read(1 << 20))
        silent = max(0.0, _now() - to_nanoseconds(said["looked"]) / 1e9)
        trouble, recipients, outboxes = said["trouble"], said["recipients"], said["outboxes"]
        facts = f"{said['agents']} agents, {said['carried']} messages carried, {said['waiting']} put off"
    except (OSError, ValueError, LookupError, TypeError):
        print("relay: it runs, and has not said how it is")
        return 1
    print(output.one_line(f"relay: {facts}, last heard of {output.span(silent)} ago"))
    for name, why in {**recipients, **outboxes}.items():
        print(output.one_line(f"relay: {name}: {why}"))
    if trouble:
        print(output.one_line(f"relay: nothing is carried: {trouble}"))
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
    from ..relay import audit_format
    from ..trust import seal
    from . import exit_codes, output

    settings = _read(_path(config)).settings if folder is None or key is None else None
    where = folder if folder is not None else f"{settings.state}/audit"  # type: ignore[union-attr]
    public = _public(key) if key is not None else _signer(settings).public  # type: ignore[arg-type]
    try:
        at = audit_format.verify(where, public, seal.verify, partial)
    except audit_format.Tampered as error:
        for problem in error.problems:
            output.error(f"the audit log in {quoted(where)} is not as it was written: {problem}")
        return exit_codes.FAILED
    print(f"{at.origin}: {at.n} records, the last one is {at.head}")
    return exit_codes.DONE


def relay_audit_show_(
    *,
    agent: Agent = None,
    thread: Annotated[str | None, Opt("--thread", metavar="THREAD", help="Only what belongs to that thread.")] = None,
    id: Annotated[str | None, Opt("--id", metavar="ID", help="Only that message.")] = None,
    event: Annotated[str | None, Opt("--event", metavar="EVENT", help="Only such: accept, refuse, defer …")] = None,
    since: Annotated[
        float | None,
        Opt("--since", metavar="DURATION", read=duration, help="Only what was so long ago at the most: 1h, 2d …"),
    ] = None,
    until: Annotated[
        float | None, Opt("--until", metavar="DURATION", read=duration, help="Only what was so long ago at the least.")
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

    from ..relay import audit_format
    from . import output

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
    for record in filter(wanted, audit_format.records(f"{state}/audit")):
        if json:
            output.write(output.json(record))
        elif output.is_tty():
            rows.append(_row(record))
        else:
            print("\t".join(_row(record)))
    if rows:
        output.table(("TIME", "EVENT", "FROM", "TO", "TYPE", "ID", "RULE", "WHY"), rows)


def _row(record: "Record") -> tuple[str, ...]:
    from . import output

    members = ("time", "event", "from", "to", "type", "id", "rule", "why")
    *facts, why = (output.one_line(str(record.get(member) or "")) for member in members)
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

        from ..format import codec

        if time.monotonic() < self._again:
            return
        self._again, self.told = time.monotonic() + 1.0, True
        relay = self._relay
        facts: dict[str, Any] = {
            "looked": timestamp_now(),
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
    from ..relay.audit_log import Audit
    from ..relay.relay import Relay
    from ..trust import seal

    policy = _read(path)
    settings = policy.settings
    audit = Audit(f"{settings.state}/audit", _signer(settings), settings.origin, settings.segment)
    return Relay(policy, audit, seal.verify, lambda: _read(path))


def _signer(settings: "Settings") -> "Signer":
    from ..relay.audit_format import Signer
    from ..trust.key_files import PrivateKeys

    identity = PrivateKeys.load(settings.key)
    return Signer(identity.public.signing_key, identity.sign)


def _public(key: str) -> bytes:
    from ..relay.audit_format import read_public_key

    try:
        if os.path.exists(key):
            with open(key) as file:
                return read_public_key(file.read(4096))
        return read_public_key(key)
    except ValueError as error:
        raise InvalidRequestError(f"{quoted(key)} is no key: {error}") from None


def _path(config: str | None) -> str:
    return config or os.environ.get("MAILBOX_RELAY") or DEFAULT_CONFIG


def _read(path: str) -> "Policy":
    from ..relay.policy_file import parse_policy

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise InvalidRequestError(f"the policy {quoted(path)} cannot be read ({why}): --config names it") from None
    return parse_policy(text, f"the policy {quoted(path)}")


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
