"""The curves of real node processes on this machine: depth of the queue, size of payloads, awaits in flight, nodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from bench import catch_up, failover, latency
from bench.curves.records import DepthPoint, FlightPoint, NodesPoint, PayloadPoint
from bench.processes import rss_mib, usage
from bench.run import APP, SLOTS
from bench.submit import IN_FLIGHT, PADDING, run_tasks
from mesh.client import MeshClient, connect
from nodes.local_mesh import LocalMesh, LocalMeshSettings, free_base_port

Say = Callable[[str], None]

NODES = 3
FOUNDERS_MAX = 5
"""As many as there are voters by default; the others join."""
START_TIMEOUT_S = 60.0
WARM_UP = 200
LATENCY_TASKS = 100
IDLE_S = 3.0
PAYLOADS_MIB_IN_FLIGHT = 32
PAYLOADS_MIB = 64
PAYLOAD_TASKS_MIN = 100


async def depth(depths: Sequence[int], tasks: int, say: Say) -> list[DepthPoint]:
    """One mesh, filled further and further; at each depth `tasks` no-ops go past what waits."""
    points = []
    async with _mesh(NODES) as (local, mesh):
        await run_tasks(mesh, "warm", WARM_UP)
        filled = 0
        for queued in depths:
            say(f"{queued:,} tasks queued ...")
            before_s = _cpu_s(local)
            await catch_up.fill(mesh, queued - filled)
            fill_s = _cpu_s(local) - before_s
            cpu_us, tasks_per_s = await _cost(mesh, local, f"d{queued}", tasks)
            one_by_one = await latency.measure(mesh, tasks=LATENCY_TASKS)
            points.append(
                DepthPoint(
                    queued=queued,
                    fill_cpu_us=round(fill_s / (queued - filled) * 1e6, 1),
                    cpu_us=cpu_us,
                    tasks_per_s=tasks_per_s,
                    p50_ms=one_by_one.p50_ms,
                    rss_mib=max(rss_mib(node.process.pid) for node in local.nodes.values()),
                )
            )
            filled = queued
    return points


async def payload(kibs: Sequence[float], tasks: int, say: Say) -> list[PayloadPoint]:
    """Payloads that come back as results. Of large ones there are fewer: what is sent is bounded in bytes."""
    points = []
    async with _mesh(NODES) as (local, mesh):
        await run_tasks(mesh, "warm", WARM_UP)
        for kib in kibs:
            say(f"payloads of {kib:g} KiB ...")
            count, in_flight = portion(kib, tasks)
            cpu_us, tasks_per_s = await _cost(
                mesh, local, f"p{kib:g}", count, in_flight=in_flight, padding="x" * int(kib * 1_024)
            )
            points.append(PayloadPoint(kib, cpu_us, tasks_per_s, round(tasks_per_s * kib / 1_024, 2)))
    return points


async def flight(in_flights: Sequence[int], tasks: int, say: Say) -> list[FlightPoint]:
    """One await at a time, and ever more; at least twice as many tasks as are in flight."""
    points = []
    async with _mesh(NODES) as (local, mesh):
        await run_tasks(mesh, "warm", WARM_UP)
        for in_flight in in_flights:
            say(f"{in_flight:,} in flight ...")
            count = max(2 * in_flight, tasks if in_flight > 1 else tasks // 10)
            cpu_us, tasks_per_s = await _cost(mesh, local, f"f{in_flight}", count, in_flight=in_flight)
            points.append(FlightPoint(in_flight, cpu_us, tasks_per_s))
    return points


async def nodes(counts: Sequence[int], tasks: int, say: Say) -> list[NodesPoint]:
    """A mesh of each size. All its nodes share this machine, so this is what a task costs, not what a mesh can do."""
    points = []
    for count in counts:
        say(f"{count} nodes ...")
        async with _mesh(count) as (local, mesh):
            await run_tasks(mesh, "warm", WARM_UP)
            cpu_us, tasks_per_s = await _cost(mesh, local, f"n{count}", tasks)
            idle_ms = await _idle_ms(local)
            killed = await failover.measure(mesh, local, rounds=1)
            voters = sum(node.role == "voter" for node in (await mesh.status()).nodes)
            detect_ms = killed.detect_ms[0] if killed.detect_ms else None
            points.append(NodesPoint(count, voters, cpu_us, tasks_per_s, idle_ms, detect_ms))
    return points


def portion(kib: float, tasks: int) -> tuple[int, int]:
    """How many tasks of that size are sent, and how many of them at once."""
    count = max(PAYLOAD_TASKS_MIN, min(tasks, int(PAYLOADS_MIB * 1_024 / kib)))
    return count, max(1, min(IN_FLIGHT, count, int(PAYLOADS_MIB_IN_FLIGHT * 1_024 / kib)))


@asynccontextmanager
async def _mesh(count: int) -> AsyncIterator[tuple[LocalMesh, MeshClient]]:
    settings = LocalMeshSettings(
        nodes=count,
        founders=min(count, FOUNDERS_MAX),
        base_port=free_base_port(count),
        apps=(APP,),
        slots=SLOTS,
        drain_s=0.2,
        start_timeout_s=START_TIMEOUT_S,
    )
    local = LocalMesh(settings)
    try:
        async with local, connect(local.peers) as mesh:
            yield local, mesh
            # Nothing in it is wanted any more.
            await local.stop(grace_s=0.0)
    finally:
        await local.stop(grace_s=0.0)


async def _cost(
    mesh: MeshClient,
    local: LocalMesh,
    tag: str,
    tasks: int,
    *,
    in_flight: int = IN_FLIGHT,
    padding: str = PADDING,
) -> tuple[float, float]:
    """CPU microseconds a task over all processes, and tasks per second."""
    before_s, started = _cpu_s(local), time.perf_counter()
    await run_tasks(mesh, tag, tasks, in_flight=in_flight, padding=padding)
    seconds, cpu_s = time.perf_counter() - started, _cpu_s(local) - before_s
    return round(cpu_s / tasks * 1e6, 1), round(tasks / seconds, 1)


async def _idle_ms(local: LocalMesh) -> float:
    """CPU milliseconds of one node, its agents included, in a second in which nobody wants anything."""
    before = usage(_pids(local))
    await asyncio.sleep(IDLE_S)
    after = usage(_pids(local))
    spent_s = after.nodes_s + after.agents_s - before.nodes_s - before.agents_s
    return round(spent_s * 1e3 / IDLE_S / len(local.nodes), 2)


def _cpu_s(local: LocalMesh) -> float:
    return usage(_pids(local)).total_s


def _pids(local: LocalMesh) -> dict[str, int]:
    return {node.id: node.process.pid for node in local.nodes.values()}
