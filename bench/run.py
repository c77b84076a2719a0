"""All of it: a mesh of its own, three kinds of figures, one document."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench import failover, hot_path, latency, submit, yardstick
from mesh.client import connect
from nodes.local_mesh import LocalMesh, LocalMeshSettings, free_base_port

PARTS = ("submit", "latency", "failover")
SLOTS = 256
APP = f"{Path(__file__).with_name('app.py')}:app"
"""What the nodes can do."""


class Machine(msgspec.Struct):
    processors: int
    python: str
    system: str


class Figures(msgspec.Struct, omit_defaults=True):
    """What was measured. Parts not asked for are absent.

    `cpu_ratio` is the CPU of one task over all processes, divided by that of the yardstick: the figure to compare
    between machines, and between noisy hours of one. `hot_path_ratio` is the same by the yardstick that has the shape
    of the mesh's own work: what its guarantees cost.
    """

    version: int
    nodes: int
    machine: Machine
    yardstick: yardstick.Yardstick
    hot_path: hot_path.HotPath
    cpu_ratio: float | None = None
    hot_path_ratio: float | None = None
    submit: submit.SubmitFigures | None = None
    latency: latency.LatencyFigures | None = None
    failover: failover.FailoverFigures | None = None
    rss_peak_mib: float | None = None
    """Of the node process that used most."""


async def run(
    parts: tuple[str, ...],
    *,
    nodes: int,
    tasks: int,
    passes: int,
    latency_tasks: int,
    rounds: int,
    say: Callable[[str], None],
) -> Figures:
    """Start a mesh (temporary directories, fsync on) and measure. Raises MeshDidNotStart."""
    machine = Machine(os.cpu_count() or 1, platform.python_version(), f"{platform.system()} {platform.machine()}")
    say("yardsticks ...")
    figures = Figures(1, nodes, machine, yardstick.measure(), await hot_path.measure())
    settings = LocalMeshSettings(nodes=nodes, base_port=free_base_port(nodes), apps=(APP,), slots=SLOTS)
    async with LocalMesh(settings) as local, connect(local.peers) as mesh:
        if "submit" in parts:
            say(f"{tasks:,} tasks, one by one, {submit.IN_FLIGHT:,} in flight, {passes} times ...")
            figures.submit = await submit.measure(mesh, local, tasks=tasks, passes=passes)
            cpu_us = figures.submit.cpu_s_per_1000 * 1_000
            figures.cpu_ratio = round(cpu_us / figures.yardstick.cpu_us, 2)
            figures.hot_path_ratio = round(cpu_us / figures.hot_path.cpu_us, 2)
            peaks = figures.submit.rss_peak_mib
            figures.rss_peak_mib = max(mib for name, mib in peaks.items() if name in local.nodes)
        if "latency" in parts:
            say(f"{latency_tasks} tasks, one at a time ...")
            figures.latency = await latency.measure(mesh, tasks=latency_tasks)
        if "failover" in parts:
            say(f"{rounds} rounds of killing the leader, then another node ...")
            figures.failover = await failover.measure(mesh, local, rounds=rounds)
    return figures
