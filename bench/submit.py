"""Throughput: tasks submitted one by one by one client, thousands of awaits in flight, every result awaited."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from bench.processes import usage

if TYPE_CHECKING:
    from mesh.client import MeshClient
    from nodes.local_mesh import LocalMesh

IN_FLIGHT = 2_000
WARM_UP = 1_000
PADDING = "x" * 60


class SubmitFigures(msgspec.Struct):
    """The best pass by tasks per second; CPU seconds are for 1,000 tasks. `passes` holds tasks/s of each."""

    tasks: int
    in_flight: int
    tasks_per_s: float
    cpu_s_per_1000: float
    client_cpu_s_per_1000: float
    nodes_cpu_s_per_1000: float
    agents_cpu_s_per_1000: float
    passes: list[float]
    rss_peak_mib: dict[str, float]


async def measure(mesh: MeshClient, local: LocalMesh, *, tasks: int, passes: int) -> SubmitFigures:
    pids = {node.id: node.process.pid for node in local.nodes.values()}
    await run_tasks(mesh, "warm", WARM_UP)
    best: SubmitFigures | None = None
    rates = []
    for number in range(passes):
        before, started = usage(pids), time.perf_counter()
        await run_tasks(mesh, f"p{number}", tasks)
        seconds, after = time.perf_counter() - started, usage(pids)
        rates.append(round(tasks / seconds, 1))
        if best is None or rates[-1] > best.tasks_per_s:
            thousands = tasks / 1_000
            best = SubmitFigures(
                tasks=tasks,
                in_flight=IN_FLIGHT,
                tasks_per_s=rates[-1],
                cpu_s_per_1000=round((after.total_s - before.total_s) / thousands, 4),
                client_cpu_s_per_1000=round((after.client_s - before.client_s) / thousands, 4),
                nodes_cpu_s_per_1000=round((after.nodes_s - before.nodes_s) / thousands, 4),
                agents_cpu_s_per_1000=round((after.agents_s - before.agents_s) / thousands, 4),
                passes=[],
                rss_peak_mib={},
            )
    assert best is not None, "there is at least one pass"
    best.passes = rates
    best.rss_peak_mib = usage(pids).rss_peak_mib
    return best


async def run_tasks(
    mesh: MeshClient, tag: str, tasks: int, *, in_flight: int = IN_FLIGHT, padding: str = PADDING
) -> None:
    """As many workers as awaits are in flight; each submits a task, awaits its result, takes the next."""
    numbers = iter(range(tasks))

    async def worker() -> None:
        for number in numbers:
            handle = await mesh.submit("noop", {"id": f"{tag}-{number}", "n": number, "data": padding})
            result = await handle.result()
            if result["n"] != number:
                raise RuntimeError(f"task {number} came back as {result}")

    await asyncio.gather(*(worker() for _ in range(min(in_flight, tasks))))
