"""A mesh of real processes on loopback, to be killed, paused and restarted by a test."""

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mesh import documents
from mesh.client import connect
from mesh.client.connection import MeshClient
from mesh.client.handle import Handle

APP = f"{Path(__file__).parent / 'app.py'}:app"
ROOT = Path(__file__).parent.parent.parent
READY_S = 20.0


class RealMesh:
    """Nodes n1, n2, ... as processes: `nodes` of them found the mesh, up to `most` have a place to join it."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 3,
        most: int = 0,
        heartbeat_ms: int = 200,
        slots: int = 64,
        flags: Sequence[str] = (),
        base: int = 0,
    ) -> None:
        """`base`: the first port of another mesh, to take part in that one from another directory."""
        self.directory = directory
        directory.mkdir(exist_ok=True)
        most = max(nodes, most)
        self.base = base or free_base(most)
        self.ids = [f"n{k + 1}" for k in range(nodes)]
        self.places = {f"n{k + 1}": f"127.0.0.1:{self.base + 10 * k}" for k in range(most)}
        self.addresses = {node_id: self.places[node_id] for node_id in self.ids}
        """Of those that found the mesh, and those that were told to join it."""
        self._flags = ["--heartbeat-interval-ms", str(heartbeat_ms), "--slots", str(slots), *flags]
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.trace = directory / "trace.txt"
        self.trace.touch()

    def spawn(self, node_id: str, *flags: str) -> None:
        """Start a founding node; `ready` waits for it. `flags` come last and win."""
        voters = ",".join(f"{name}@{self.places[name]}" for name in self.ids)
        self._spawn(node_id, "--voters", voters, *flags)

    def join(self, node_id: str, *flags: str, seeds: Sequence[str] = ()) -> None:
        """Start a node that joins; `ready` waits until it is a member. `seeds` are ids, of all others if not given."""
        asked = ",".join(self.places[name] for name in seeds or self.addresses if name != node_id)
        self.addresses[node_id] = self.places[node_id]
        self._spawn(node_id, "--join", asked, *flags)

    def start_bare(self, node_id: str) -> None:
        """Start a node with no word of any other."""
        self._spawn(node_id)

    def _spawn(self, node_id: str, *flags: str) -> None:
        command = [sys.executable, "-m", "nodes", "node", "run", "--json", "--id", node_id]
        command += ["--bind", self.places[node_id], "--app", APP, "--data-dir", str(self.data(node_id))]
        with self.log(node_id).open("ab") as log:
            self.processes[node_id] = subprocess.Popen(
                [*command, *self._flags, *flags],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                start_new_session=True,
            )

    def data(self, node_id: str) -> Path:
        return self.directory / node_id

    def log(self, node_id: str) -> Path:
        """What the node said on stderr."""
        return self.directory / f"{node_id}.log"

    async def ready(self, node_id: str) -> dict[str, Any]:
        """Wait for the node's ready line."""
        stdout = self.processes[node_id].stdout
        assert stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(stdout.readline), READY_S)
        assert line, f"{node_id} ended: {self.log(node_id).read_text()[-2000:]}"
        document: dict[str, Any] = json.loads(line)
        assert document["event"] == "ready" and document["id"] == node_id
        return document

    async def start(self, node_ids: Iterable[str] | None = None) -> None:
        names = list(node_ids or self.ids)
        for node_id in names:
            self.spawn(node_id)
        for node_id in names:
            await self.ready(node_id)

    def signal(self, node_id: str, number: signal.Signals) -> float:
        """Send a signal to one node's own process. Returns the wall clock, in milliseconds, just before."""
        at_ms = time.time() * 1_000
        os.kill(self.processes[node_id].pid, number)
        return at_ms

    def kill(self, node_id: str) -> float:
        at_ms = self.signal(node_id, signal.SIGKILL)
        self._reap(self.processes.pop(node_id), 10)
        return at_ms

    async def end(self, node_id: str, timeout_s: float = 20) -> tuple[int, str]:
        """Wait until a node has ended by itself. Its exit code, and its last sentence for people."""
        code = await asyncio.to_thread(self._reap, self.processes[node_id], timeout_s)
        del self.processes[node_id]
        said = [line for line in self.log(node_id).read_text().splitlines() if line.startswith("mesh: ")]
        return code, said[-1] if said else ""

    async def stop(self, node_id: str, timeout_s: float = 20) -> tuple[int, str]:
        """Tell a node to leave, and wait until it has."""
        self.signal(node_id, signal.SIGTERM)
        return await self.end(node_id, timeout_s)

    @staticmethod
    def _reap(process: "subprocess.Popen[str]", timeout_s: float) -> int:
        code = process.wait(timeout_s)
        assert process.stdout is not None
        process.stdout.close()
        return code

    def stop_all(self) -> None:
        for node_id in list(self.processes):
            self.kill(node_id)

    def peers(self, *without: str) -> str:
        return ",".join(address for node_id, address in self.addresses.items() if node_id not in without)

    def runs(self, what: str = "end") -> dict[str, list[list[str]]]:
        """The side effects: for each task the lines it left, split into words, that end with `what`."""
        lines: dict[str, list[list[str]]] = {}
        for line in self.trace.read_text().splitlines():
            words = line.split()
            if words[4] == what:
                lines.setdefault(words[0], []).append(words)
        return lines


@asynccontextmanager
async def real_mesh(directory: Path, **settings: Any) -> AsyncIterator[tuple[RealMesh, MeshClient]]:
    """A running mesh and a client that knows all its nodes; everything is gone afterwards."""
    mesh = RealMesh(directory, **settings)
    try:
        await mesh.start()
        async with connect(mesh.peers()) as client:
            await until(client, everybody_is_healthy)
            yield mesh, client
    finally:
        mesh.stop_all()


async def until(
    client: MeshClient, condition: Callable[[documents.Status], bool], *, timeout_s: float = 20.0
) -> documents.Status:
    """Ask for the status until it is as wanted. Bounded; each answer is the event that is waited for."""
    async with asyncio.timeout(timeout_s):
        while not condition(status := await client.status()):
            await asyncio.sleep(0.02)
    return status


def everybody_is_healthy(status: documents.Status) -> bool:
    return status.leader is not None and all(node.health == "healthy" and node.slots for node in status.nodes)


def roles(status: documents.Status) -> dict[str, str]:
    return {node.id: node.role for node in status.nodes}


def leader_of(status: documents.Status) -> str:
    assert status.leader is not None
    return status.leader


async def submit_many(client: MeshClient, mesh: RealMesh, prefix: str, count: int, seconds: float) -> list[Handle]:
    """Tasks PREFIX-0, PREFIX-1, ... that each take some time and give back their number."""
    payload = {"path": str(mesh.trace), "seconds": seconds}
    submits = (client.submit("work", payload | {"value": k}, task_id=f"{prefix}-{k}") for k in range(count))
    return await asyncio.gather(*submits)


class Flow:
    """Tasks submitted one after the other without end, from several hands; when each result came is kept."""

    def __init__(self, client: MeshClient, mesh: RealMesh, prefix: str, hands: int) -> None:
        self.handles: list[Handle] = []
        self.came_s: list[float] = []
        self._client, self._mesh, self._prefix = client, mesh, prefix
        self._stopped = asyncio.Event()
        self._hands = [asyncio.create_task(self._submit(hand)) for hand in range(hands)]

    async def _submit(self, hand: int) -> None:
        payload = {"path": str(self._mesh.trace), "seconds": 0.01}
        count = 0
        while not self._stopped.is_set():
            handle = await self._client.submit("work", payload, task_id=f"{self._prefix}-{hand}-{count}")
            self.handles.append(handle)
            await handle.result(timeout=30)
            self.came_s.append(time.monotonic())
            count += 1

    async def stop(self) -> None:
        """Let every hand finish what it has begun."""
        self._stopped.set()
        await asyncio.gather(*self._hands)

    def longest_gap_ms(self) -> int:
        """Between two results, from the first to the last."""
        came_s = sorted(self.came_s)
        return round(max(after - before for before, after in itertools.pairwise(came_s)) * 1_000)


@asynccontextmanager
async def flow(client: MeshClient, mesh: RealMesh, prefix: str, hands: int = 8) -> AsyncIterator[Flow]:
    """Work that goes on while something happens. At the end each task has ended once."""
    flowing = Flow(client, mesh, prefix, hands)
    try:
        yield flowing
    finally:
        await flowing.stop()
    assert flowing.handles
    await assert_each_ended_once(client, flowing.handles)


async def assert_each_ended_once(client: MeshClient, handles: list[Handle]) -> None:
    """By `task show`, and by the committed events: one completion each."""
    for first in range(0, len(handles), 1_000):  # A client has so many questions open, and a few more.
        for task in await asyncio.gather(*(client.task(handle.id) for handle in handles[first : first + 1_000])):
            assert task.state == "completed", task
    completions: dict[str | None, int] = {}
    for line in await events_of(client):
        if line.event == "task_completed":
            completions[line.task] = completions.get(line.task, 0) + 1
    assert {handle.id: completions.get(handle.id, 0) for handle in handles} == {handle.id: 1 for handle in handles}


async def events_of(client: MeshClient) -> list[documents.EventLine]:
    """Everything that was committed so far."""
    return [line async for line in client.events()]


def free_base(nodes: int) -> int:
    """A base port with 10 free ones for each node, outside the range the kernel hands out."""
    first = 20_000 + os.getpid() % 700 * 10
    for base in range(first, 29_000, 10 * nodes):
        if all(is_free(base + 10 * k + offset) for k in range(nodes) for offset in range(4)):
            return base
    raise AssertionError("no free ports between 20000 and 29000")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
