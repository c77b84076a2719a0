"""A mesh of real processes on loopback, to be killed, paused and restarted by a test."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mesh import documents
from mesh.client import connect
from mesh.client.connection import MeshClient

APP = f"{Path(__file__).parent / 'app.py'}:app"
ROOT = Path(__file__).parent.parent.parent
READY_S = 20.0


class RealMesh:
    """Nodes n1, n2, ... as processes. `pids` are those that run."""

    def __init__(self, directory: Path, *, nodes: int = 3, heartbeat_ms: int = 200, slots: int = 64) -> None:
        self.directory = directory
        self.base = free_base(nodes)
        self.ids = [f"n{k + 1}" for k in range(nodes)]
        self.addresses = {node_id: f"127.0.0.1:{self.base + 10 * k}" for k, node_id in enumerate(self.ids)}
        self._flags = ["--heartbeat-interval-ms", str(heartbeat_ms), "--slots", str(slots)]
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.trace = directory / "trace.txt"
        self.trace.touch()

    def spawn(self, node_id: str) -> None:
        """Start a node; `ready` waits for it."""
        voters = ",".join(f"{name}@{address}" for name, address in self.addresses.items())
        command = [sys.executable, "-m", "nodes", "node", "run", "--json", "--id", node_id]
        command += ["--bind", self.addresses[node_id], "--voters", voters, "--app", APP]
        command += ["--data-dir", str(self.directory / node_id), *self._flags]
        with (self.directory / f"{node_id}.log").open("ab") as log:
            self.processes[node_id] = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, start_new_session=True
            )

    async def ready(self, node_id: str) -> dict[str, Any]:
        """Wait for the node's ready line."""
        stdout = self.processes[node_id].stdout
        assert stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(stdout.readline), READY_S)
        assert line, f"{node_id} ended: {(self.directory / f'{node_id}.log').read_text()[-2000:]}"
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
        process = self.processes.pop(node_id)
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
        return at_ms

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
