"""The picture of a comparison: three figures a system, as bars."""

from __future__ import annotations

from collections.abc import Callable

from bench.compare.records import Comparison, Mode, Row, Turn
from bench.svg import Column, bars

OWN = "agent-mesh"


def chart(found: Comparison) -> str:
    """SVG. Systems without figures are in it too, and say so."""

    def column(title: str, better: str, value: Callable[[Turn], float]) -> Column:
        return Column(title, better, [None if row.median is None else value(row.median) for row in found.rows])

    return bars(
        f"The same {found.settings.tasks:,} tasks, {found.settings.in_flight:,} in flight; {found.machine}",
        [label(row) for row in found.rows],
        [
            column("tasks per second", "longer is better", lambda turn: turn.tasks_per_s),
            column("CPU seconds per 1,000 tasks", "shorter is better", lambda turn: turn.cpu_s_per_1000),
            column("one at a time, ms, p50", "shorter is better", lambda turn: turn.p50_ms),
        ],
        own=OWN,
    )


def label(row: Row) -> str:
    """The system, and its mode if it has two."""
    return row.label.title if row.label.mode is Mode.ONLY else f"{row.label.title}, {row.label.mode}"
