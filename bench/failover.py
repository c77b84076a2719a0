"""Fail-over: how long after a SIGKILL the mesh takes a task again, and runs what the dead node held elsewhere."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from mesh.client import Handle, MeshClient
    from nodes.local_mesh import LocalMesh

NAPS = 60
NAP_S = 0.8
HEALTHY_TIMEOUT_S = 20.0
RESULT_TIMEOUT_S = 60.0


class FailoverFigures(msgspec.Struct):
    """Milliseconds after a SIGKILL, one value a round.

    `leader_ms`: the next submit, made at once, was accepted. `detect_ms`: the verdict on the dead node was committed.
    `elsewhere_ms`: the last of the tasks it held was dispatched to another node; `moved` says how many there were.
    """

    rounds: int
    leader_ms: list[float]
    detect_ms: list[float]
    elsewhere_ms: list[float]
    moved: list[int]
    lost: int


async def measure(mesh: MeshClient, local: LocalMesh, *, rounds: int) -> FailoverFigures:
    figures = FailoverFigures(rounds, [], [], [], [], 0)
    for number in range(rounds):
        await _healthy(mesh, len(local.nodes))
        await _leader_dies(mesh, local, figures)
        await _healthy(mesh, len(local.nodes))
        await _worker_dies(mesh, local, figures, number)
    return figures


async def _leader_dies(mesh: MeshClient, local: LocalMesh, figures: FailoverFigures) -> None:
    leader = await _leader(mesh)
    started = time.perf_counter()
    local.kill(leader)
    handle = await mesh.submit("noop", {"n": 1})
    figures.leader_ms.append(round((time.perf_counter() - started) * 1e3, 1))
    await handle.result(timeout=RESULT_TIMEOUT_S)
    await local.restart(leader)


async def _worker_dies(mesh: MeshClient, local: LocalMesh, figures: FailoverFigures, number: int) -> None:
    """Tasks run everywhere; a node that does not lead is killed; when does the last of its tasks run elsewhere?"""
    leader = await _leader(mesh)
    victim = next(node_id for node_id in sorted(local.nodes) if node_id != leader)
    since = (await mesh.raft_status()).commit_index
    tasks = [mesh.submit("nap", {"seconds": NAP_S}, task_id=f"nap-{number}-{i}") for i in range(NAPS)]
    handles: list[Handle] = await asyncio.gather(*tasks)
    while (await mesh.status()).tasks.running < NAPS:
        await asyncio.sleep(0.01)
    killed_ms = local.kill(victim)
    ends = await asyncio.gather(
        *(handle.result(timeout=RESULT_TIMEOUT_S) for handle in handles), return_exceptions=True
    )
    figures.lost += sum(isinstance(end, BaseException) for end in ends)
    events = [event async for event in mesh.events(max(0, since - 1))]
    failed = [e.at for e in events if e.event == "node_failed" and e.node == victim and e.at >= killed_ms]
    moved = [
        e.at for e in events if e.event == "task_reassigned" and e.detail == f"from {victim}" and e.at >= killed_ms
    ]
    if failed:
        figures.detect_ms.append(float(failed[0] - killed_ms))
    if moved:
        figures.elsewhere_ms.append(float(max(moved) - killed_ms))
    figures.moved.append(len(moved))
    await local.restart(victim)


async def _leader(mesh: MeshClient) -> str:
    while True:
        leader = (await mesh.status()).leader
        if leader is not None:
            return leader
        await asyncio.sleep(0.01)


async def _healthy(mesh: MeshClient, nodes: int) -> None:
    async with asyncio.timeout(HEALTHY_TIMEOUT_S):
        while True:
            status = await mesh.status()
            ready = [node for node in status.nodes if node.health == "healthy" and node.capabilities]
            if len(ready) == nodes and status.leader and not status.stale:
                return
            await asyncio.sleep(0.02)
