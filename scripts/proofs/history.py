"""What each process wrote down, and whether it can be: a checker in the manner of Jepsen. Pure.

Every process appends to a log of its own, one JSON object a line, before and after each thing it does. A line that a
kill cut off is not there. So the logs know what was asked for, what was answered, and what is open.

    {"do": "send", "token": T, "to": B, "how": H}   it is about to be sent
    {"do": "sent", "token": T, "id": I}             send returned: from now on it may not be lost
    {"do": "refused", "token": T, "why": W}         send said that nothing was delivered: it may not come
    {"do": "unknown", "token": T, "why": W}         nobody knows: it may come
    {"do": "got", "token": T, "id": I, "box": B, "attempt": N, "trust": …, "from": …, "looked": W}
                                                    W: when the ledger was asked, where it was
    {"do": "acked", "token": T, "name": M}          ack returned: it may not come again; M is the id of this copy
    {"do": "unnoted", "id": I}                      it could not be noted in the ledger: a copy may come
    {"do": "forge", "token": T}                     somebody put it there who is not who it says

A send that has no end in its log was cut off, and is unknown. Each event has its time, `at`, by the clock that never
steps and that all processes of a machine share.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

Event = dict[str, Any]
PROVEN: Final = ("sealed", "signed")


def read(path: str) -> list[Event]:
    """The events of one process. A line that was cut off is left out."""
    with open(path, "rb") as file:
        return [json.loads(line) for line in file if line.endswith(b"\n")]


@dataclass(slots=True)
class Verdict:
    """What was found: counts, and what cannot be."""

    counts: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


def check(logs: Iterable[list[Event]], waiting: Iterable[str] = (), dead: Iterable[str] = ()) -> Verdict:
    """Judge the logs of all processes. *waiting* and *dead* are the tokens that still lie in boxes at the end."""
    logs = list(logs)
    events: dict[str, list[Event]] = defaultdict(list)
    for log in logs:
        for event in log:
            events[event["do"]].append(event)
    verdict = Verdict()
    asked = {event["token"]: event for event in events["send"]}
    sent = {event["token"]: event["id"] for event in events["sent"]}
    got: dict[str, list[Event]] = defaultdict(list)
    for event in events["got"]:
        got[event["token"]].append(event)
    forged = {event["token"] for event in events["forge"]}
    refused = {event["token"] for event in events["refused"]} - sent.keys()
    waiting, dead = set(waiting), set(dead)

    for token in sorted(sent.keys() - got.keys() - waiting):
        where = "a dead letter" if token in dead else "nowhere"
        verdict.broken.append(f"lost: {token} had been sent, as {sent[token]}, and is {where}")
    for token in sorted(got.keys() - asked.keys() - forged):
        verdict.broken.append(f"phantom: {token} came, and nobody sent it")
    for token in sorted(got.keys() & refused):
        verdict.broken.append(f"phantom: {token} came, and its sender was told that nothing was delivered")
    for token in sorted(got.keys() & forged):
        verdict.broken.append(f"forged: {token} came as if from {got[token][0].get('from')}")
    verdict.broken += _strangers(got, asked)
    verdict.broken += _ids(got, sent)
    verdict.broken += _twice(got, logs)
    verdict.broken += _order(logs)

    verdict.counts = {
        "asked": len(asked),
        "sent": len(sent),
        "refused": len(refused),
        "unknown": len(asked.keys() - sent.keys() - refused),
        "handled": len(got),
        "came_again": sum(len(each) - 1 for each in got.values()),
        "forgeries": len(forged),
        "sealed_or_signed": sum(each[0].get("trust") in PROVEN for each in got.values()),
    }
    return verdict


def _strangers(got: dict[str, list[Event]], asked: dict[str, Event]) -> Iterator[str]:
    """What came to whom it was not sent to, or with a proof of another sender."""
    for token, times in got.items():
        for event in times if token in asked else ():
            if event["box"] != asked[token]["to"]:
                yield f"phantom: {token} was sent to {asked[token]['to']} and came to {event['box']}"
            if event.get("trust") in PROVEN and event.get("from") != asked[token].get("from"):
                yield f"forged: {token} of {asked[token].get('from')} came as proven to be from {event.get('from')}"


def _ids(got: dict[str, list[Event]], sent: dict[str, str]) -> Iterator[str]:
    """What comes twice comes under one id, which is that which send returned, where that gave one."""
    for token, times in got.items():
        ids = {event["id"] for event in times}
        if sent.get(token, "").startswith("2"):  # a foreign name is none
            ids.add(sent[token])
        if len(ids) > 1:
            yield f"two ids: {token} has {', '.join(sorted(ids))}"


def _twice(got: dict[str, list[Event]], logs: list[list[Event]]) -> Iterator[str]:
    """Each time that it came again, somebody had taken it before and had not acked it; or it was sent twice.

    A copy that a forger made is acked unseen, unless the ledger could not be written when the first was acked, or both
    were in hand at the same moment: the ledger is written at ack. A copy is in hand from when the ledger was asked:
    who is stopped then finds out nothing more of what happens to the other.
    """
    unnoted = {event["id"] for log in logs for event in log if event["do"] == "unnoted"}
    sends = Counter(event["token"] for log in logs for event in log if event["do"] == "send")
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)  # from when to when it was in hand, and was acked then
    for log in logs:
        taken: dict[str, int] = {}
        for event in log:
            if event["do"] == "got":
                taken[event["token"]] = event["looked"] if "looked" in event else event["at"]
            elif event["do"] == "acked" and event["name"] not in unnoted:
                spans[event["token"]].append((taken[event["token"]], event["at"]))
    for token, each in spans.items():
        times = _apart(each)
        if times > max(1, sends[token]):
            story = ", ".join(f"{begin} to {end}" for begin, end in sorted(each))
            yield f"twice: {token} came {len(got[token])} times, and {times} times it was acked before: {story}"


def _apart(spans: list[tuple[int, int]]) -> int:
    """How many of these spans of time follow one another."""
    count, last = 0, -1
    for begin, end in sorted(spans, key=lambda span: span[1]):
        if begin > last:
            count, last = count + 1, end
    return count


def _order(logs: list[list[Event]]) -> Iterator[str]:
    """Each consumer gets the first attempts of a writer in the order in which they were sent."""
    for log in logs:
        last: dict[str, str] = {}
        for event in log:
            id = event.get("id", "")
            if event["do"] != "got" or event["attempt"] != 1 or event.get("foreign"):
                continue
            writer = id[27:]
            if id < last.get(writer, ""):  # the same is there again where it was sent again
                yield f"order: {id} came after {last[writer]} to one consumer"
            last[writer] = id
