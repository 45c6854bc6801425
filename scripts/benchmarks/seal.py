"""Seal, open, sign and verify one message of 1 kB, beside the bare calls of libsodium under them.

    seal      our own keys and those of the recipient looked up, signed, padded, sealed: the file as it lies in a box
    open      the file read strictly, opened, its sender's pin looked up, verified, the message inside read strictly
    sign      our own keys looked up, signed: the file
    verify    the file read strictly, its sender's pin looked up, verified
    seal, open without the files of keys: what the format itself costs

The bare calls, in the same order: crypto_sign, crypto_box_seal; crypto_box_seal_open, crypto_sign_open; crypto_sign;
crypto_sign_open. The inner message has 1024 bytes. One process; ours and the bare ones take turns, call by call, and so
does which comes first. A figure is the median of all calls; a ratio that of two medians of one repetition; what is
shown is the median of the repetitions, their lowest and their highest.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

from nacl import bindings

from filemailbox import Mailbox
from filemailbox.format.address import Address
from filemailbox.format.envelope import encode
from filemailbox.format.timestamp import sent_time
from filemailbox.store.ids import new_id
from filemailbox.trust import seal
from filemailbox.trust.key_files import PrivateKeys, PublicKeys
from filemailbox.trust.keyring import Keyring

from . import disks
from .table import Figure, Report, Table

_SIZE: Final = 1024
_WANTED: Final = {"seal": 2.0}
_ALICE: Final = Address("alice")
_BOB: Final = Address("bob")
_Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 2000  # of every call, in a repetition
    repetitions: int = 7


QUICK: Final = Plan(rounds=400, repetitions=3)


def measure(*, quick: bool = False, plan: Plan | None = None) -> Report:
    """Measure it all. *plan* overrules *quick*."""
    plan = plan or (QUICK if quick else Plan())
    with disks.tmpfs() as folder:
        figures = [_figure(what, *calls, plan) for what, calls in _pairs(folder).items()]
    return Report([Table(f"a message of {_SIZE} bytes", "us", "libsodium", figures)])


def _pairs(folder: str) -> dict[str, tuple[_Call, _Call]]:
    """What is compared: ours, and the bare calls, each of which does what is named once."""
    alice, bob = _ring(folder, _ALICE), _ring(folder, _BOB)
    for ring, other in ((alice, bob), (bob, alice)):
        ring.pin(PublicKeys.read(other.own().public.line(), "here"))
    own, box = alice.own(), bob.own().public.encryption_keys[0]
    id = new_id()
    line = encode(id, _ALICE, _BOB, "x" * (_SIZE - len(encode(id, _ALICE, _BOB, "", {}, 1))), {}, 1)
    assert len(line) == _SIZE
    hints = {"v": 1, "id": id, "from": _ALICE, "to": _BOB, "sent": sent_time(id)}
    sealed, signed = alice.seal(_BOB, id, line), alice.sign(line)

    public, secret = bindings.crypto_sign_seed_keypair(os.urandom(32))
    theirs, their_secret = bindings.crypto_box_keypair()
    bare_signed = bindings.crypto_sign(line, secret)
    bare = bindings.crypto_box_seal(bare_signed, theirs)
    boxes = bob.own().encryption_keys

    def bare_open() -> bytes:
        return bindings.crypto_sign_open(bindings.crypto_box_seal_open(bare, theirs, their_secret), public)

    def bare_seal() -> bytes:
        return bindings.crypto_box_seal(bindings.crypto_sign(line, secret), theirs)

    return {
        "seal": (lambda: alice.seal(_BOB, id, line), bare_seal),
        "open": (lambda: seal.unseal(sealed, _BOB, bob.own().encryption_keys, bob.signing_key), bare_open),
        "sign": (lambda: alice.sign(line), lambda: bindings.crypto_sign(line, secret)),
        "verify": (
            lambda: seal.verified(signed, _BOB, bob.signing_key),
            lambda: bindings.crypto_sign_open(bare_signed, public),
        ),
        "seal, keys at hand": (lambda: seal.seal(line, hints, own.public.signing_key, own.sign, box), bare_seal),
        "open, keys at hand": (lambda: seal.unseal(sealed, _BOB, boxes, lambda _: own.public.signing_key), bare_open),
    }


def _ring(folder: str, name: Address) -> Keyring:
    Mailbox.init(name, f"{folder}/mail").close()
    PrivateKeys.generate(f"{folder}/{name}/{name}.key", name)
    return Keyring(name, Mailbox(name, f"{folder}/mail").root, f"{folder}/{name}", None)


def _figure(what: str, ours: _Call, bare: _Call, plan: Plan) -> Figure:
    medians = [_medians(ours, bare, plan.rounds) for _ in range(plan.repetitions)]
    ratios = [one / other for one, other in medians]
    return Figure(
        what,
        plan.rounds * plan.repetitions,
        median(one for one, _ in medians),
        median(other for _, other in medians),
        median(ratios),
        (min(ratios), max(ratios)),
        _WANTED.get(what),
        "at most",
    )


def _medians(ours: _Call, bare: _Call, rounds: int) -> tuple[float, float]:
    """The median of each, in microseconds."""
    times: dict[_Call, list[float]] = {ours: [], bare: []}
    for number in range(rounds):
        for call in (ours, bare) if number % 2 else (bare, ours):
            started = time.perf_counter()
            call()
            times[call].append((time.perf_counter() - started) * 1e6)
    return median(times[ours]), median(times[bare])
