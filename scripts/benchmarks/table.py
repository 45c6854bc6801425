"""Figures, and how they are shown: as a table for people, as JSON for programs."""

import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Final, Literal, TypeAlias

Bound: TypeAlias = Literal["at least", "at most"]

_STARTED: Final = time.monotonic()


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured, and what it is compared with."""

    what: str
    n: int  # single measurements or messages behind the figure
    ours: float  # in the unit of its table
    reference: float | None = None
    ratio: float | None = None  # ours / reference
    spread: tuple[float, float] | None = None  # the lowest and the highest ratio of the repetitions
    wanted: float | None = None  # of the ratio, or of ours where there is no ratio
    bound: Bound = "at least"

    @property
    def mark(self) -> str:
        """ok, below (what was wanted), or nothing where nothing was wanted."""
        value = self.ours if self.ratio is None else self.ratio
        if self.wanted is None:
            return ""
        return "ok" if (value >= self.wanted if self.bound == "at least" else value <= self.wanted) else "below"


@dataclass(frozen=True, slots=True)
class Table:
    """Figures of one unit, beside one reference."""

    title: str
    unit: str
    reference: str
    figures: list[Figure]


@dataclass(frozen=True, slots=True)
class Grid:
    """Things counted: words and whole numbers, in columns."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(slots=True)
class Report:
    """All that one run has found out."""

    tables: list[Table] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was left out, and why; how to read it


def compare(what: str, n: int, pairs: list[list[tuple[float, float]]], wanted: float | None) -> Figure:
    """The figure of alternating slices. *pairs* has, for each repetition, the rates (ours, raw) of its slices."""
    ratios = [median(ours for ours, _ in each) / median(raw for _, raw in each) for each in pairs]
    ours, raw = zip(*(pair for each in pairs for pair in each), strict=True)
    return Figure(what, n * len(ours), median(ours), median(raw), median(ratios), (min(ratios), max(ratios)), wanted)


def as_json(report: Report) -> str:
    """The report as one JSON object."""
    tables = []
    for table in report.tables:
        figures = [asdict(figure) | {"mark": figure.mark or None} for figure in table.figures]
        tables.append({"title": table.title, "unit": table.unit, "reference": table.reference, "figures": figures})
    grids = [asdict(grid) for grid in report.grids]
    return json.dumps({**_facts(), "tables": tables, "grids": grids, "notes": report.notes}, indent=2)


def as_text(report: Report) -> str:
    """The report as aligned tables."""
    facts = _facts()
    parts = [f"Python {facts['python']}, Linux {facts['kernel']}, {facts['cpus']} CPUs; {facts['seconds']} s"]
    parts += [_aligned(table) for table in report.tables]
    parts += [
        "\n".join([grid.title, *_columns([grid.head, *grid.rows], range(len(grid.head)))]) for grid in report.grids
    ]
    parts += ["\n".join(report.notes)] if report.notes else []
    return "\n\n".join(parts)


def _facts() -> dict[str, str | int | None]:
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "seconds": round(time.monotonic() - _STARTED),
    }


def _aligned(table: Table) -> str:
    ours, reference = f"ours {table.unit}", f"{table.reference} {table.unit}"
    header = ("", ours, reference, "ratio", "(lowest-highest)", "wanted", "", "n")
    rows = [header, *map(_row, table.figures)]
    used = [i for i in range(len(header)) if any(row[i] for row in rows[1:])]
    return "\n".join([table.title, *_columns(rows, used)])


def _columns(rows: Sequence[tuple[str, ...]], used: Iterable[int]) -> Iterator[str]:
    """Rows as aligned lines; what the first row has no word for is text, the rest are numbers."""
    widths = {i: max(len(row[i]) for row in rows) for i in used}
    for row in rows:
        cells = (row[i].ljust(width) if rows[0][i] == "" else row[i].rjust(width) for i, width in widths.items())
        yield f"  {'  '.join(cells)}".rstrip()


def _row(figure: Figure) -> tuple[str, ...]:
    sign = "≥" if figure.bound == "at least" else "≤"
    return (
        figure.what,
        _short(figure.ours),
        "" if figure.reference is None else _short(figure.reference),
        "" if figure.ratio is None else f"{figure.ratio:.2f}",
        "" if figure.spread is None else f"({figure.spread[0]:.2f}-{figure.spread[1]:.2f})",
        "" if figure.wanted is None else f"{sign} {figure.wanted:g}",
        figure.mark,
        f"{figure.n:,}".replace(",", " "),
    )


def _short(value: float) -> str:
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}".replace(",", " ")
