"""What the benchmarks share: percentiles, tables, and how busy the machine was while they measured."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def percentile(values: list[float], percent: float) -> float:
    """Nearest rank: a value that was measured."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return round(ordered[int(rank) - 1], 3)


def spread(values: list[float]) -> dict[str, float]:
    """`n` is of value to who asks what a p99 of few samples says."""
    return {"p50": percentile(values, 50), "p90": percentile(values, 90), "p99": percentile(values, 99), "max": percentile(values, 100), "n": len(values)}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """The first column to the left, the others to the right, the last one, a remark, to the left again."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    last = len(widths) - 1
    shown = (
        "  ".join(f"{cell:<{width}}" if place in (0, last) else f"{cell:>{width}}" for place, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )
    return "\n".join(f"  {line.rstrip()}" for line in shown)


class Machine:
    """How much of all cores was in use since this was made: numbers of a busy moment are worth less."""

    def __init__(self) -> None:
        self._before = self._read()

    def busy_percent(self) -> float:
        now = self._read()
        idle, total = (after - before for after, before in zip(now, self._before, strict=True))
        return round(100 * (1 - idle / total), 1) if total else 0.0

    @staticmethod
    def _read() -> tuple[int, int]:
        """(idle, all) in ticks; idle includes waiting for disks."""
        ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return ticks[3] + ticks[4], sum(ticks)
