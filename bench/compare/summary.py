"""Medians of rounds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.compare.records import Turn


def middle(turns: Sequence[Turn]) -> Turn | None:
    """The median of each figure over the turns that worked; None if none did."""
    good = [turn for turn in turns if not turn.problem]
    if not good:
        return None
    return Turn(
        tasks_per_s=round(median(turn.tasks_per_s for turn in good), 1),
        cpu_s_per_1000=round(median(turn.cpu_s_per_1000 for turn in good), 4),
        p50_ms=round(median(turn.p50_ms for turn in good), 3),
        p99_ms=round(median(turn.p99_ms for turn in good), 3),
    )
