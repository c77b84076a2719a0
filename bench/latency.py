"""Latency: one task at a time, from submit to result."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from mesh.client import MeshClient

WARM_UP = 50


class LatencyFigures(msgspec.Struct):
    """Milliseconds from submit to result (and to acceptance), one task at a time."""

    tasks: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    accepted_p50_ms: float
    accepted_p99_ms: float


async def measure(mesh: MeshClient, *, tasks: int) -> LatencyFigures:
    accepted, ended = [], []
    for number in range(WARM_UP + tasks):
        started = time.perf_counter()
        handle = await mesh.submit("noop", {"n": number})
        was_accepted = time.perf_counter()
        await handle.result()
        if number >= WARM_UP:
            accepted.append((was_accepted - started) * 1e3)
            ended.append((time.perf_counter() - started) * 1e3)
    return LatencyFigures(
        tasks=tasks,
        p50_ms=percentile(ended, 50),
        p95_ms=percentile(ended, 95),
        p99_ms=percentile(ended, 99),
        accepted_p50_ms=percentile(accepted, 50),
        accepted_p99_ms=percentile(accepted, 99),
    )


def percentile(values: list[float], percent: int) -> float:
    """The smallest value that so many percent are no greater than."""
    ordered = sorted(values)
    return round(ordered[max(0, -(-len(ordered) * percent // 100) - 1)], 3)
