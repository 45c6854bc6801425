"""The verbs of the relay: run it, set it up, query its policy, read and verify its audit log.

More than 400 lines: one verb after the other, and half of each is its options and its help.
"""

import os
from typing import TYPE_CHECKING

from ..errors import InvalidRequestError, quoted
from ..format.address import ALL, Address, parse_address, parse_recipient
from ..format.wording import duration_text
from ..trust.levels import PLAIN, PROTECTIONS
from .options import Annotated, Arg, Opt, count, duration, one_of
from .options import uid as user_id

if TYPE_CHECKING:
    from ..relay.audit_format import Record, Signer
    from ..relay.policy import Policy, RelaySettings
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
        help="The format of the log. [text]",
    ),
]
Json = Annotated[bool, Opt("--json", help="Print one line of JSON for each.")]
Agent = Annotated[str | None, Opt("--agent", metavar="NAME", help="Only records from or to this agent.")]


def relay_(*, config: Config = None, log_format: LogFormat = "text") -> None:
    """Carry mail between agents that share nothing, by a policy, and record every decision.

    Each agent has a volume of its own, with an outbox. The policy names the agents and who may write to whom.
    The relay refuses mail that no rule allows, and returns it to its sender. SIGHUP reloads the policy; if the new one
    is invalid, the relay logs that and keeps the old one. SIGTERM and SIGINT stop it.

    `mailbox relay init`, `check`, `explain`, `health`, `audit verify` and `audit show` are verbs of their own.

    Examples:
      mailbox relay --config relay.toml
      mailbox relay init --config relay.toml
      mailbox relay check --config relay.toml
      mailbox relay explain --config relay.toml --from alice --to bob --type job
    """
    import signal

    from ..relay.status import StatusFile
    from ..system.sd_notify import SdNotify
    from ..system.stop_signals import signals
    from .watch import log_to_stderr

    log_to_stderr(log_format)
    path = _path(config)
    relay, manager = _relay(path), SdNotify()
    status = StatusFile(relay.policy.settings.state)
    ready = False

    def on_tick() -> None:
        nonlocal ready
        if not ready:
            manager.say("READY=1", f"STATUS=carrying mail of {len(relay.policy.agents)} agents")
            ready = True
        manager.beat()
        status.update(relay.status)

    _raise_descriptor_limit()
    with signals(relay.stop):
        before = signal.signal(signal.SIGHUP, lambda *_: relay.reload())
        try:
            relay.run(on_tick)
        finally:
            manager.stopping()
            signal.signal(signal.SIGHUP, before)
            status.remove()


def relay_init_(
    *,
    config: Config = None,
    uid: Annotated[
        int | None, Opt("--uid", metavar="UID", read=user_id, help="The user of the relay. [the current user]")
    ] = None,
) -> None:
    """Create what the policy names: volumes, boxes with outboxes, the folder and the key of the relay.

    Anything that exists is left unchanged. Only root can change owners, so that boxes belong to their agents and the
    key belongs to the relay.

    Examples:
      mailbox relay init --config relay.toml
      sudo mailbox relay init --uid "$(id -u mailbox-relay)"
    """
    from ..relay.audit_format import format_public_key
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
        made = create_box(volume.box(agent.name), owner, outbox=True)
        output.info(f"{agent.name}: {'created' if made else 'already exists'} in {agent.volume}")
    for folder in (settings.state, f"{settings.state}/audit"):
        if not os.path.isdir(folder):
            os.makedirs(folder, 0o750)
            os.chown(folder, relay_uid, -1)
    if not os.path.lexists(settings.key):
        os.makedirs(os.path.dirname(settings.key), exist_ok=True)
        PrivateKeys.generate(settings.key, Address(settings.origin))
        os.chown(settings.key, relay_uid, -1)
        output.info(f"{settings.key}: created")
    if os.stat(settings.key).st_uid == os.geteuid():
        print(format_public_key(_signer(settings).public_key))


def relay_check_(*, config: Config = None, json: Json = False) -> int:
    """Check a policy, and list who can write to whom. Exit code 2 if it is invalid, with all problems.

    Examples:
      mailbox relay check --config relay.toml
      mailbox relay check --json | jq -r 'select(.to == "admin") | .from'
    """
    from ..relay.policy_file import InvalidPolicyError
    from . import exit_codes, output

    path = _path(config)
    try:
        policy = _read(path)
    except InvalidPolicyError as error:
        for problem in error.problems:
            output.error(f"{quoted(path)}: {problem}")
        return exit_codes.USAGE
    rows = []
    for route in policy.routes():
        if json:
            fields = {"from": route.sender, "to": route.to, "rule": route.rule, "conditions": route.conditions}
            output.write(output.json(fields))
        rows.append((route.sender, route.to, route.rule, output.one_line(route.conditions)))
    if not json:
        output.table(("FROM", "TO", "RULE", "IF"), rows)
        silent = [name for name in policy.agents if not any(name in row[:2] for row in rows)]
        if silent:
            output.info(f"no rule lets these agents send or receive: {', '.join(silent)}")
    return exit_codes.DONE


def relay_explain_(
    *,
    sender: Annotated[
        str | None, Opt("--from", metavar="NAME", read=parse_address, help="The sender. [$MAILBOX_AGENT]")
    ] = None,
    to: Annotated[
        str | None,
        Opt("--to", metavar="NAME", read=parse_recipient, help="The recipient, `all`, or `team:GROUP`. [all]"),
    ] = None,
    type: Annotated[str | None, Opt("--type", metavar="TYPE", help="The type of the message.")] = None,
    size: Annotated[int, Opt("--size", metavar="BYTES", read=count, help="Its size. [1]")] = 1,
    protection: Annotated[
        str,
        Opt(
            "--protection",
            metavar="PROTECTION",
            read=one_of(*PROTECTIONS),
            values=PROTECTIONS,
            help=f"Its protection: {', '.join(PROTECTIONS)}. [{PLAIN}]",
        ),
    ] = "plain",
    reply_age: Annotated[
        float | None,
        Opt("--reply-age", metavar="DURATION", read=duration, help="It replies to a message carried so long ago."),
    ] = None,
    config: Config = None,
) -> int:
    """Explain whether a message may go, and which rule decides. Exit code 1 if it may not.

    Examples:
      mailbox relay explain --from alice --to bob --type job
      mailbox relay explain --from bob --to alice --reply-age 5m
    """
    from ..relay.policy import PolicyQuery
    from . import exit_codes, output

    policy = _read(_path(config))
    sender = sender or os.environ.get("MAILBOX_AGENT") or ""
    if sender not in policy.agents:
        raise InvalidRequestError(
            f"--from: the policy has no agent {quoted(sender)}", hint=f"it has {', '.join(policy.agents)}"
        )
    recipients, why = policy.expand(to or ALL, Address(sender), type)
    if why is not None:
        print(output.one_line(f"{to or ALL}: refused: {why}"))
        return exit_codes.FAILED
    code = exit_codes.DONE
    for recipient in recipients:
        decision = policy.decide(PolicyQuery(Address(sender), recipient, type, size, protection, reply_age))  # type: ignore[arg-type]
        if decision.allowed:
            print(output.one_line(f"{recipient}: allowed by {decision.rule}"))
        else:
            print(output.one_line(f"{recipient}: refused by {decision.rule}: {decision.why}"))
            code = exit_codes.FAILED
    return code


def relay_health_(
    *,
    max_age: Annotated[
        float,
        Opt("--max-age", metavar="DURATION", read=duration, help="Fail if its last report is older than this. [30s]"),
    ] = 30.0,
    config: Config = None,
) -> int:
    """Check whether the relay is at work. Exit code 0 or 1: for HEALTHCHECK and exec probes.

    The lock on its audit log shows that it runs. Its last report shows whether it carries mail.

    Examples:
      mailbox relay health --config relay.toml
    """
    import time

    from ..relay.status import read_status
    from ..system.locks import is_held
    from . import output

    state = _read(_path(config)).settings.state
    if not is_held(f"{state}/audit/.lock"):
        print("relay: it does not run")
        return 1
    try:
        status = read_status(state)
    except (OSError, ValueError):
        print("relay: it runs, and has not reported yet")
        return 1
    age = status.age(time.time())
    counts = f"{status.agents} agents, {status.delivered} messages delivered, {status.deferred} deferred"
    print(output.one_line(f"relay: {counts}, last report {duration_text(age)} ago"))
    for name, why in {**status.recipients, **status.outboxes}.items():
        print(output.one_line(f"relay: {name}: {why}"))
    if status.outage:
        print(output.one_line(f"relay: nothing is carried: {status.outage}"))
    return 1 if status.outage or age > max_age else 0


def relay_audit_verify_(
    folder: Annotated[str | None, Arg("[FOLDER]", "The audit log. [that of the policy]")] = None,
    *,
    public_key: Annotated[
        str | None,
        Opt("--public-key", metavar="KEY", help="The relay's public key, or a file with it. [from the policy's key]"),
    ] = None,
    allow_pruned: Annotated[bool, Opt("--allow-pruned", help="Accept a log without its first files.")] = False,
    config: Config = None,
) -> int:
    """Verify the audit log: any change, deletion, insertion, swap or truncation is found. Exit code 1 if there is one.

    `scripts/audit-verify` in the source does the same with openssl and awk, without any of this code.

    Examples:
      mailbox relay audit verify --config relay.toml
      mailbox relay audit verify ./audit --public-key RWQ0dQ+YvVn8...
    """
    from ..relay import audit_format
    from ..trust import seal
    from . import exit_codes, output

    settings = _read(_path(config)).settings if folder is None or public_key is None else None
    path = folder if folder is not None else f"{settings.state}/audit"  # type: ignore[union-attr]
    key = _parse_key(public_key) if public_key is not None else _signer(settings).public_key  # type: ignore[arg-type]
    try:
        at = audit_format.verify_log(path, key, seal.verify, allow_pruned)
    except audit_format.TamperedLogError as error:
        for problem in error.problems:
            output.error(f"the audit log in {quoted(path)} is not as it was written: {problem}")
        return exit_codes.FAILED
    print(f"{at.origin}: {at.n} records, the last one is {at.head}")
    return exit_codes.DONE


def relay_audit_show_(
    *,
    agent: Agent = None,
    thread: Annotated[str | None, Opt("--thread", metavar="THREAD", help="Only records of this thread.")] = None,
    id: Annotated[str | None, Opt("--id", metavar="ID", help="Only records of this message.")] = None,
    event: Annotated[
        str | None, Opt("--event", metavar="EVENT", help="Only this event: accept, refuse, defer …")
    ] = None,
    since: Annotated[
        float | None, Opt("--since", metavar="DURATION", read=duration, help="Only records of the last 1h, 2d …")
    ] = None,
    until: Annotated[
        float | None, Opt("--until", metavar="DURATION", read=duration, help="Only records older than 1h, 2d …")
    ] = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """Show the records of the audit log, without verification: `mailbox relay audit verify` does that.

    Examples:
      mailbox relay audit show --agent alice --since 1h
      mailbox relay audit show --event refuse --json | jq -r .why
    """
    import time
    from datetime import datetime

    from ..relay.audit_format import read_records
    from . import output

    state, now = _read(_path(config)).settings.state, time.time()
    first = now - since if since is not None else float("-inf")
    last = now - until if until is not None else float("inf")

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
    for record in filter(wanted, read_records(f"{state}/audit")):
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

    names = ("time", "event", "from", "to", "type", "id", "rule", "why")
    *cells, why = (output.one_line(str(record.get(name) or "")) for name in names)
    count = record.get("count")
    return (*cells, f"{why} (the last of {count})" if count else why)


def _relay(path: str) -> "Relay":
    from ..relay.audit_log import AuditLog
    from ..relay.relay import Relay
    from ..trust import seal

    policy = _read(path)
    settings = policy.settings
    audit = AuditLog(f"{settings.state}/audit", _signer(settings), settings.origin, settings.segment)
    return Relay(policy, audit, seal.verify, lambda: _read(path))


def _signer(settings: "RelaySettings") -> "Signer":
    from ..relay.audit_format import Signer
    from ..trust.key_files import PrivateKeys

    keys = PrivateKeys.load(settings.key)
    return Signer(keys.public.signing_key, keys.sign)


def _parse_key(key: str) -> bytes:
    """Return the public key in *key*, or in the file of that name."""
    from ..relay.audit_format import parse_public_key

    try:
        if os.path.exists(key):
            with open(key) as file:
                return parse_public_key(file.read(4096))
        return parse_public_key(key)
    except ValueError as error:
        raise InvalidRequestError(f"{quoted(key)} is not a public key: {error}") from None


def _path(config: str | None) -> str:
    return config or os.environ.get("MAILBOX_RELAY") or DEFAULT_CONFIG


def _read(path: str) -> "Policy":
    from ..relay.policy_file import parse_policy

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise InvalidRequestError(
            f"the policy {quoted(path)} cannot be read: {why}", hint="name another one with --config or $MAILBOX_RELAY"
        ) from None
    return parse_policy(text, f"the policy {quoted(path)}")


def _raise_descriptor_limit() -> None:
    """Allow as many open files as the system does: each agent takes a few."""
    import contextlib
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
