"""Measure a volume."""

from dataclasses import asdict
from typing import Any

from ..store.root import find_root
from . import output
from .common import Root, path_of
from .options import Annotated, Opt, duration


def bench_(
    *,
    length: Annotated[
        float, Opt("--duration", metavar="DURATION", read=duration, help="How long to measure, in all. [30s]")
    ] = 30.0,
    json: Annotated[bool, Opt("--json", help="One object of JSON.")] = False,
    root: Root = None,
) -> None:
    """Measure this volume: how fast it is, what a flush costs, what wakes a listener. Leaves nothing behind.

    A box of its own is made for that, so it needs the right to make one.

    Examples:
      mailbox bench
      mailbox bench --root ./mail --duration 5s --json | jq .figures
    """
    from ..ops.bench import measure

    with output.Progress("measuring") as progress:
        result = measure(find_root(path_of(root)), length, progress.step)
    if json:
        output.write(output.json(asdict(result)))
        return
    print(
        f"{output.one_line(result.path)}: {result.kind or 'an unknown file system'}, {result.free >> 20:,} MiB free\n"
    )
    output.table(("", "MEDIAN", "99 %", "A SECOND", ""), [_row(figure) for figure in result.figures])
    for advice in result.advice:
        print(f"\n{advice}")


def _row(figure: Any) -> tuple[str, ...]:
    works = {None: "", True: "works", False: "DEAD: found by looking"}[figure.works]
    rate = f"{figure.rate:,.0f}".replace(",", " ") if figure.rate else ""
    return figure.what, f"{figure.median:.2f} ms", f"{figure.p99:.2f} ms", rate, works
