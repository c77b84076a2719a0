"""A follower that needs the whole table, a restart with all of it, and what both cost those who go on serving.

    python -m bench.catch_up --tasks 1000000 [--data DIR] [--kill-leader]

By hand: it takes minutes, and DIR keeps the filled data directories for the next time. Three node processes hold tasks
of about 100 bytes that nobody offers to run. Each process tells how long its own loop stood still (nodes/stalls.py).
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from bench.processes import rss_mib
from mesh.client import connect
from mesh.client.connection import MeshClient
from mesh.config import DispatchConfig
from mesh.documents import RaftStatus, Status
from mesh.errors import MeshError
from mesh.messages import Answer, Ask, Question
from mesh.transport import ClientLink, Identity
from mesh.wire.codec import decode_reply, encode
from nodes.local_mesh import LocalMesh, LocalMeshSettings

NODES = 3
HEADROOM = 30_000
"""Of what the mesh holds at most, left for what is submitted while something is measured."""
BASE_PORT = 31_500
"""Always the same: the addresses of the members are in the log of what was filled."""
CAPABILITY = "nobody-offers-this"
PADDING = "x" * 60
IN_FLIGHT = 4_000
PROBE_S = 0.5
PACE_S = 0.01
START_TIMEOUT_S = 120.0
CATCH_UP_TIMEOUT_S = 900.0
WINDOW_S = 21.0
"""What a node reports as its longest stall lies no further back than this."""

_Document = TypeVar("_Document", bound=msgspec.Struct)


class Stalls(msgspec.Struct):
    """One node's loop during one phase: its longest turn, how many were longer than 50 ms, and the most processor time
    its own thread spent in one.
    """

    longest_ms: int = 0
    cpu_ms: int = 0
    over_50_ms: int = 0


class Phase(msgspec.Struct):
    """What a stretch of time was like. `submit_ms` are the slowest and the median accepted submit meanwhile."""

    name: str
    seconds: float
    stalls: dict[str, Stalls]
    submit_ms_max: float
    submit_ms_p50: float


class Figures(msgspec.Struct):
    tasks: int
    fill_per_s: float | None
    restart_s: float
    """From spawning three processes to the first accepted submit."""
    rss_mib: dict[str, float]
    phases: list[Phase]
    catch_up_s: float
    """From spawning the follower that needs the table until it has applied what the leader has."""
    same_digest: bool


class Probe:
    """A link to one node, which answers from what it has itself."""

    def __init__(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._last = 0
        identity = Identity(
            node_id=f"probe-{secrets.token_hex(4)}", cluster="", incarnation=1, role="client", secret=None
        )
        self._link = ClientLink(
            address, identity, loop=loop, on_message=self._heard, on_up=lambda *_: None, on_down=lambda _: None
        )

    async def ask(self, question: Question, document: type[_Document], timeout_s: float = 5.0) -> _Document | None:
        """None: it does not answer just now."""
        self._last += 1
        number = self._last
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            if not self._link.send(encode(Ask(number, question, stale=True))):
                return None
            async with asyncio.timeout(timeout_s):
                return msgspec.msgpack.decode((await future).body, type=document)
        except TimeoutError:
            return None
        finally:
            del self._answers[number]

    def close(self) -> None:
        self._link.close()

    def _heard(self, data: bytes) -> None:
        reply = decode_reply(data)
        if isinstance(reply, Answer) and (future := self._answers.get(reply.request)) is not None and not future.done():
            future.set_result(reply)


class Watch:
    """Asks every node for its stalls, and submits a task every 10 ms, while something happens."""

    def __init__(self, mesh: MeshClient, local: LocalMesh) -> None:
        self._mesh = mesh
        self.probes = {node.id: Probe(node.address) for node in local.nodes.values()}
        self._sent = 0

    def close(self) -> None:
        for probe in self.probes.values():
            probe.close()

    async def during(self, name: str, work: Callable[[], Awaitable[object]], *, quiet: bool = False) -> Phase:
        """Do the work; then wait until what nodes report lies within it. A node that starts meanwhile begins at 0."""
        await asyncio.sleep(WINDOW_S if quiet else 0)
        before = await self._stalls()
        started = time.perf_counter()
        latencies: list[float] = []
        longest: dict[str, Stalls] = {}
        background = [
            asyncio.create_task(self._submit(latencies)),
            asyncio.create_task(self._collect(longest)),
        ]
        try:
            await work()
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
        seconds = time.perf_counter() - started
        for node_id, stalls in (await self._stalls()).items():
            _merge(longest, node_id, stalls)
        for node_id, stalls in before.items():
            if node_id in longest and longest[node_id].over_50_ms >= stalls.over_50_ms:
                longest[node_id].over_50_ms -= stalls.over_50_ms
        latencies.sort()
        return Phase(
            name,
            round(seconds, 1),
            longest,
            round(latencies[-1], 1) if latencies else 0.0,
            round(latencies[len(latencies) // 2], 1) if latencies else 0.0,
        )

    async def _collect(self, longest: dict[str, Stalls]) -> None:
        while True:
            for node_id, stalls in (await self._stalls()).items():
                _merge(longest, node_id, stalls)
            await asyncio.sleep(PROBE_S)

    async def _stalls(self) -> dict[str, Stalls]:
        found = {}
        for node_id, probe in self.probes.items():
            status = await probe.ask(Question.STATUS, Status)
            if status is not None:
                counters = status.counters
                found[node_id] = Stalls(
                    counters.get("loop_stall_ms_max", 0),
                    counters.get("loop_cpu_ms_max", 0),
                    counters.get("loop_stalls_over_50_ms", 0),
                )
        return found

    async def _submit(self, latencies: list[float]) -> None:
        while True:
            started = time.perf_counter()
            self._sent += 1
            await self._mesh.submit(CAPABILITY, {"n": self._sent, "data": PADDING}, timeout=60.0)
            latencies.append((time.perf_counter() - started) * 1e3)
            await asyncio.sleep(PACE_S)


def _merge(longest: dict[str, Stalls], node_id: str, stalls: Stalls) -> None:
    known = longest.setdefault(node_id, Stalls())
    known.longest_ms = max(known.longest_ms, stalls.longest_ms)
    known.cpu_ms = max(known.cpu_ms, stalls.cpu_ms)
    known.over_50_ms = max(known.over_50_ms, stalls.over_50_ms)


async def fill(mesh: MeshClient, tasks: int) -> float:
    """Submit until the mesh holds `tasks`. Returns tasks per second."""
    numbers = iter(range(tasks))
    started = time.perf_counter()

    async def worker() -> None:
        for number in numbers:
            await mesh.submit(CAPABILITY, {"n": number, "data": PADDING}, timeout=120.0)

    await asyncio.gather(*(worker() for _ in range(min(IN_FLIGHT, tasks))))
    return round(tasks / (time.perf_counter() - started), 1)


async def _move_log_past(mesh: MeshClient, leader: Probe, index: int) -> None:
    """Submit one by one, so that each is an entry, until the leader's log begins after `index`."""

    async def worker() -> None:
        while True:
            await mesh.submit(CAPABILITY, {"data": PADDING}, timeout=60.0)

    workers = [asyncio.create_task(worker()) for _ in range(2)]
    try:
        while (status := await leader.ask(Question.RAFT, RaftStatus)) is None or status.first_index <= index + 1:
            await asyncio.sleep(PROBE_S)
    finally:
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _caught_up(watch: Watch, node_id: str) -> None:
    """Until the node stands where the leader stands, or less than 100 entries behind."""
    async with asyncio.timeout(CATCH_UP_TIMEOUT_S):
        while True:
            statuses = {name: await probe.ask(Question.RAFT, RaftStatus) for name, probe in watch.probes.items()}
            mine = statuses[node_id]
            leaders = [one for one in statuses.values() if one is not None and one.serving]
            if mine is not None and leaders and mine.applied_index + 100 > leaders[0].applied_index:
                return
            await asyncio.sleep(0.1)


async def _same_digest(watch: Watch) -> bool:
    """Whether all nodes come to have the same table at the same place."""
    for _ in range(100):
        statuses = [await probe.ask(Question.RAFT, RaftStatus) for probe in watch.probes.values()]
        found = {(one.applied_index, one.digest) for one in statuses if one is not None}
        if len(found) == 1 and None not in statuses:
            return True
        if len(found) > len({index for index, _ in found}):
            return False
        await asyncio.sleep(0.1)
    return False


async def measure(data: Path, tasks: int, *, kill_leader: bool, say: Callable[[str], None]) -> Figures:
    """Fill `data` if that was not done; then restart all three, then let one fall behind and catch up."""
    tasks = min(tasks, DispatchConfig().queued_max - HEADROOM)
    filled = data / f"filled-{tasks}"
    fill_per_s = None
    if not filled.exists():
        filled.mkdir(parents=True)
        say(f"{tasks:,} tasks are submitted ...")
        try:
            async with _mesh_on(filled) as local, connect(local.peers) as mesh:
                fill_per_s = await fill(mesh, tasks)
        except BaseException:
            shutil.rmtree(filled, ignore_errors=True)
            raise
    work = data / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(filled, work)
    say("three nodes start ...")
    started = time.perf_counter()
    async with _mesh_on(work) as local, connect(local.peers, timeout=START_TIMEOUT_S) as mesh:
        await mesh.submit(CAPABILITY, {"data": PADDING}, timeout=START_TIMEOUT_S)
        restart_s = round(time.perf_counter() - started, 1)
        say(f"... and serve after {restart_s} s")
        watch = Watch(mesh, local)
        try:
            figures = Figures(tasks, fill_per_s, restart_s, _rss(local), [], 0.0, False)
            await _phases(mesh, local, watch, figures, kill_leader=kill_leader, say=say)
        finally:
            watch.close()
    return figures


async def _phases(
    mesh: MeshClient, local: LocalMesh, watch: Watch, figures: Figures, *, kill_leader: bool, say: Callable[[str], None]
) -> None:
    async def note(name: str, work: Callable[[], Awaitable[object]]) -> Phase:
        say(f"{name} ...")
        phase = await watch.during(name, work, quiet=True)
        figures.phases.append(phase)
        say(f"... {phase}")
        return phase

    async def lists() -> None:
        page = await mesh.tasks(limit=1_000)
        await mesh.tasks(state="pending", after=page.next or "", limit=100)
        await mesh.tasks(state="running", limit=100)
        await mesh.dead_letters(limit=100)
        await mesh.explain(page.tasks[-1].id)

    async def catch_up() -> None:
        restarting = asyncio.create_task(local.restart(follower))
        if kill_leader:
            await _until_staging(local, follower)
            say(f"... {leader} is killed in the middle")
            local.kill(leader)
            await local.restart(leader)
        await restarting
        await _caught_up(watch, follower)

    await note("submits alone", lambda: asyncio.sleep(10.0))
    await note("lists", lists)
    leader = (await mesh.status()).leader or ""
    follower = next(node_id for node_id in sorted(local.nodes) if node_id != leader)
    stood = await watch.probes[follower].ask(Question.RAFT, RaftStatus)
    assert stood is not None, "the follower answers"
    local.kill(follower)
    say(f"{follower} is killed, and {leader} goes on without it ...")
    await _move_log_past(mesh, watch.probes[leader], stood.last_index)
    figures.catch_up_s = (await note(f"{follower} catches up from {leader}", catch_up)).seconds
    figures.same_digest = await _same_digest(watch)
    figures.rss_mib = _rss(local)


async def _until_staging(local: LocalMesh, node_id: str) -> None:
    """Until a table of some size is coming in."""
    directory = local.nodes[node_id].data_dir
    known = set(directory.glob("*.db"))
    async with asyncio.timeout(CATCH_UP_TIMEOUT_S):
        while True:
            for path in set(directory.glob("*.db")) - known:
                with suppress(OSError):
                    if path.stat().st_size > 20 << 20:
                        return
            await asyncio.sleep(0.02)


def _mesh_on(directory: Path) -> LocalMesh:
    return LocalMesh(
        LocalMeshSettings(nodes=NODES, base_port=BASE_PORT, data_dir=directory, start_timeout_s=START_TIMEOUT_S)
    )


def _rss(local: LocalMesh) -> dict[str, float]:
    return {node.id: rss_mib(node.process.pid) for node in local.nodes.values()}


@click.command()
@click.option("--tasks", type=click.IntRange(min=1), default=100_000, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), default=None, help="Where to keep what was filled.")
@click.option("--kill-leader", is_flag=True, help="Kill the leader while it sends.")
def main(tasks: int, data: Path | None, kill_leader: bool) -> None:
    """Measure, and print one JSON document."""

    def say(line: str) -> None:
        click.echo(line, err=True)

    with tempfile.TemporaryDirectory(prefix="mesh-") as temporary:
        try:
            figures = asyncio.run(measure(data or Path(temporary), tasks, kill_leader=kill_leader, say=say))
        except MeshError as error:
            raise click.ClickException(str(error)) from None
    click.echo(msgspec.json.format(msgspec.json.encode(figures), indent=2).decode())


if __name__ == "__main__":
    main()
