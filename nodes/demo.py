"""The main job, shown: a mesh on this machine analyses Python files, loses nodes meanwhile, and balances its books.

What is reported is read from the mesh's own events, not from what the demo hoped to see.
"""

from __future__ import annotations

import asyncio
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mesh.client import Handle, MeshClient
    from mesh.documents import EventLine
    from nodes.local_mesh import LocalMesh

FILES_MAX: Final = 2_000
"""More would take longer than anybody watches."""

SECOND_KILL_NODES: Final = 5
"""With so many nodes, two may die."""

TASK_TIMEOUT_S: Final = 120.0
SETTLE_TIMEOUT_S: Final = 15.0
"""How long the verdict on a killed node is waited for, should the work be done before it."""

SKIPPED: Final = frozenset({"site-packages", "dist-packages", "__pycache__", "lib2to3"})

Progress = Callable[[int, int, str], None]
"""Told how many are done, of how many, and what has just happened (often nothing)."""


@dataclass(slots=True)
class Kill:
    """One SIGKILL. `at_ms` is wall time, as the events have it."""

    node_id: str
    at_ms: int
    leader: bool


@dataclass(slots=True)
class Outcome:
    """What the demo found out. Times are milliseconds, None where nothing was killed."""

    submitted: int = 0
    completed: int = 0
    dead: int = 0
    lost: int = 0
    twice: int = 0
    leaderless_ms: int | None = None
    detect_ms: int | None = None
    reassign_ms: int | None = None
    reassigned: int = 0
    tasks_per_s: float = 0.0
    killed: list[str] = field(default_factory=list)
    report: dict[str, Any] | None = None
    seconds: float = 0.0
    left_out: int = 0


def python_files(path: Path | None) -> list[Path]:
    """All .py files under `path` (or the standard library), those nearest to the top first."""
    root = Path(sysconfig.get_path("stdlib")) if path is None else path
    if root.is_file():
        return [root.absolute()]
    files = [file.absolute() for file in root.rglob("*.py") if file.is_file() and not SKIPPED.intersection(file.parts)]
    return sorted(files, key=lambda file: (len(file.parts), file))


async def run(local: LocalMesh, files: list[Path], *, kill: bool, progress: Progress) -> Outcome:
    """Analyse the files on a running mesh, killing its leader a third of the way through."""
    from mesh.client import connect

    outcome = Outcome(left_out=max(0, len(files) - FILES_MAX))
    files = files[:FILES_MAX]
    kills: list[Kill] = []
    started = time.monotonic()
    async with connect(local.peers) as mesh:
        handles = await mesh.map("analyse", [{"path": str(file)} for file in files], max_attempts=5)
        progress(0, len(files), f"{len(files)} tasks accepted by a quorum")
        marks = _marks(len(files), len(local.nodes)) if kill else []
        rows = []
        done = 0
        async for handle in mesh.as_completed(handles, timeout=TASK_TIMEOUT_S):
            done += 1
            rows += await _row(handle)
            happened = ""
            if len(kills) < len(marks) and done >= marks[len(kills)]:
                killed = await _kill(mesh, local, leader=not kills)
                kills.append(killed)
                happened = f"SIGKILL to {killed.node_id}{', the leader' if killed.leader else ''}"
            progress(done, len(files), happened)
        reduce = await mesh.submit("reduce", {"rows": rows}, max_attempts=5)
        outcome.report = await reduce.result(timeout=TASK_TIMEOUT_S)
        outcome.seconds = time.monotonic() - started
        await _settle(mesh, kills)
        await _balance(mesh, [*(handle.id for handle in handles), reduce.id], outcome)
        _measure([event async for event in mesh.events()], kills, outcome)
    outcome.tasks_per_s = round(outcome.completed / outcome.seconds, 1)
    outcome.killed = [killed.node_id for killed in kills]
    return outcome


def _marks(files: int, nodes: int) -> list[int]:
    """After how many tasks somebody is killed."""
    marks = [max(1, files // 3)] if nodes > 1 else []
    return [*marks, max(2, files * 2 // 3)] if nodes >= SECOND_KILL_NODES else marks


async def _row(handle: Handle) -> list[list[Any]]:
    from mesh.errors import MeshError

    try:
        found = await handle.result()
    except MeshError:
        return []  # It is counted among the dead.
    return [[found["path"], found["lines"], found["functions"], found["branches"], found["unparsed"]]]


async def _kill(mesh: MeshClient, local: LocalMesh, *, leader: bool) -> Kill:
    """Kill the leader, or some other node."""
    leading = ""
    while leading not in local.nodes or not local.nodes[leading].alive:
        leading = (await mesh.status()).leader or ""
    others = [node.id for node in local.nodes.values() if node.alive and node.id != leading]
    victim = leading if leader or not others else others[0]
    return Kill(victim, local.kill(victim), victim == leading)


async def _settle(mesh: MeshClient, kills: list[Kill]) -> None:
    """Wait for the verdict on every killed node: the work may be done before it falls."""
    wanted = {kill.node_id for kill in kills}
    if not wanted:
        return
    async with asyncio.timeout(SETTLE_TIMEOUT_S):
        async for event in mesh.events(follow=True, poll_s=0.05):
            if event.event == "node_failed" and event.node is not None:
                wanted.discard(event.node)
                if not wanted:
                    return


async def _balance(mesh: MeshClient, task_ids: list[str], outcome: Outcome) -> None:
    """Look every task up, one by one, and count how it ended."""
    from mesh.errors import NotFound

    gate = asyncio.Semaphore(64)

    async def ended(task_id: str) -> str:
        async with gate:
            try:
                found = await mesh.task(task_id)
            except NotFound:
                return "lost"
        completions = sum(item.event == "task_completed" for item in found.history)
        return "twice" if completions > 1 else found.state

    states = Counter(await asyncio.gather(*(ended(task_id) for task_id in task_ids)))
    outcome.submitted = len(task_ids)
    outcome.completed = states["completed"] + states["twice"]
    outcome.dead = states["dead"]
    outcome.twice = states["twice"]
    outcome.lost = len(task_ids) - outcome.completed - outcome.dead


def _measure(events: Iterable[EventLine], kills: list[Kill], outcome: Outcome) -> None:
    """Times from the events: the worst of each, if there were several kills."""
    lines = list(events)
    completions = Counter(event.task for event in lines if event.event == "task_completed")
    outcome.twice = max(outcome.twice, sum(count > 1 for count in completions.values()))
    for kill in kills:
        if kill.leader:
            elected = next((e.at for e in lines if e.event == "leader_elected" and e.at >= kill.at_ms), None)
            outcome.leaderless_ms = _worst(outcome.leaderless_ms, elected, kill.at_ms)
        failed = next((e.at for e in lines if e.event == "node_failed" and e.node == kill.node_id), None)
        outcome.detect_ms = _worst(outcome.detect_ms, failed, kill.at_ms)
        moved = [e.at for e in lines if e.event == "task_reassigned" and e.detail == f"from {kill.node_id}"]
        outcome.reassigned += len(moved)
        if failed is not None and moved:
            outcome.reassign_ms = _worst(outcome.reassign_ms, max(moved), failed)


def _worst(known: int | None, at_ms: int | None, since_ms: int) -> int | None:
    if at_ms is None:
        return known
    return max(known or 0, at_ms - since_ms, 0)
