"""What was proved so far: told as it goes on, kept so that it can be resumed, summed up at the end."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

_SHOWN: Final = 12  # broken rules of one proof that are printed


class LeftOut(Exception):
    """This cannot be proved here; str() says why."""


@dataclass(slots=True)
class Result:
    """What one unit of a proof came to."""

    counts: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)  # what does not hold
    left_out: str | None = None  # why it was not tried
    notes: list[str] = field(default_factory=list)

    def add(self, **counts: int) -> None:
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count


class Record:
    """The results of a run, unit by unit. In a folder that was given, a unit that was done is not done again."""

    def __init__(self, folder: str | None = None, quiet: bool = False) -> None:
        self._path = f"{folder}/state.jsonl" if folder else None
        if folder:
            os.makedirs(folder, exist_ok=True)
        self._quiet = quiet
        self._done: dict[tuple[str, str], Result] = {}
        self._started = time.monotonic()
        if self._path and os.path.exists(self._path):
            with open(self._path) as file:
                for line in file:
                    if line.endswith("\n"):  # else a kill cut it off
                        proof, unit, result = json.loads(line)
                        self._done[proof, unit] = Result(**result)

    def do(self, proof: str, units: Iterable[tuple[str, Callable[[], Result]]]) -> None:
        """Do these units of a proof, and keep what each came to."""
        todo = list(units)
        for number, (unit, work) in enumerate(todo, 1):
            if (proof, unit) in self._done:
                continue
            self._tell(f"{proof} {number}/{len(todo)}: {unit}")
            started = time.monotonic()
            try:
                result = work()
            except LeftOut as error:
                result = Result(left_out=str(error))
            result.add(ms=round((time.monotonic() - started) * 1000))
            self._keep(proof, unit, result)
        self._tell("")

    def _keep(self, proof: str, unit: str, result: Result) -> None:
        self._done[proof, unit] = result
        for line in result.broken[:_SHOWN]:
            self._tell("")
            print(f"BROKEN  {proof}: {unit}: {line}", flush=True)
        if self._path and result.left_out is None:
            kept = {"counts": result.counts, "broken": result.broken, "notes": result.notes}
            with open(self._path, "a") as file:
                file.write(json.dumps([proof, unit, kept]) + "\n")

    @property
    def broken(self) -> int:
        """How many rules were broken, all in all."""
        return sum(len(result.broken) for result in self._done.values())

    @property
    def left_out(self) -> int:
        """How many units could not be done on this machine."""
        return sum(result.left_out is not None for result in self._done.values())

    def summary(self) -> str:
        """A line for each proof: what was counted, what was broken, what was left out and why."""
        rows = []
        for proof in dict.fromkeys(proof for proof, _ in self._done):
            results = [result for (each, _), result in self._done.items() if each == proof]
            counts: dict[str, int] = {}
            for result in results:
                for name, count in result.counts.items():
                    counts[name] = counts.get(name, 0) + count
            seconds = counts.pop("ms", 0) / 1000
            tried = sum(result.left_out is None for result in results)
            said = ", ".join(f"{count:,} {name}".replace(",", " ") for name, count in counts.items() if count)
            broken = sum(len(result.broken) for result in results)
            verdict = f"{broken} BROKEN" if broken else "holds" if tried else "left out"
            rows.append((proof, verdict, f"{seconds:.0f} s", said.replace("_", " ")))
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)) for row in rows]
        for (proof, unit), result in self._done.items():
            lines += [f"  {proof}: {unit}: left out: {result.left_out}"] if result.left_out else []
            lines += [f"  {proof}: {unit}: {note}" for note in result.notes]
        return "\n".join(line.rstrip() for line in lines)

    def _tell(self, text: str) -> None:
        """How far we are: on a terminal one line that changes, else a line now and then."""
        if self._quiet:
            return
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{text[:110]}")
        elif text:
            sys.stderr.write(f"{time.monotonic() - self._started:6.0f} s  {text}\n")
        sys.stderr.flush()
