"""Which proof is what, in its long form and in the short one that CI runs."""

import importlib
from dataclasses import dataclass

from . import disks, record, stepper
from .deeds import DEEDS

_SHORT_FAULTS = ("EIO", "ENOSPC", "EACCES", "short")
_SLOW = ("listen", "collect", "lease", "claim-sealed", "remove")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command was told."""

    place: str  # a folder to work in
    short: bool = False
    rounds: int | None = None
    span: float | None = None  # seconds
    only: list[str] | None = None


def run(what: str, kept: record.Record, settings: Settings) -> None:
    """Run the proof of that name."""
    short, place, only = settings.short, settings.place, settings.only
    module = importlib.import_module(f"proofs.{what}")
    if what == "kills":
        module.prove(kept, place, settings.rounds or (1 if short else 3), only, 7 if short else 1)
    elif what == "faults":
        deeds = only or ([name for name in DEEDS if name not in _SLOW] if short else list(DEEDS))
        module.prove(kept, place, deeds, list(_SHORT_FAULTS if short else stepper.FAULTS))
    elif what == "power":
        sound = [name for name, kind in disks.KINDS.items() if kind.known is None] if short else None
        module.prove(kept, place, settings.rounds or (3 if short else 20), only or sound, 0.3 if short else 1.0)
    elif what == "soak":
        module.prove(kept, place, settings.span or (60.0 if short else 300.0))
    elif what == "swap":
        module.prove(kept, place, settings.rounds or (20_000 if short else 2_000_000))
    elif what == "documents":
        module.prove(kept, place, short, settings.rounds)
    elif what == "coverage":
        module.prove(kept, place)
    else:
        module.prove(kept, place, short)
