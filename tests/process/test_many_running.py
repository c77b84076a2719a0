"""Many tasks at once on a mesh of real processes: all of them run, all of them end, once (S0-07)."""

import asyncio
import time
from pathlib import Path

import pytest

from mesh.client.connection import MeshClient
from mesh.client.handle import Handle
from mesh.documents import Status
from tests.process.real_mesh import RealMesh, real_mesh, until


class Crowd:
    """Sleepers that all wait for one gate: a file that appears."""

    def __init__(self, mesh: RealMesh, client: MeshClient) -> None:
        self._mesh, self._client = mesh, client
        self._gate = mesh.directory / "gate"
        self.handles: list[Handle] = []

    async def submit(self, count: int) -> None:
        payload = {"path": str(self._mesh.trace), "gate": str(self._gate)}
        self.handles += await self._client.map("sleep", [payload] * count)

    async def asleep(self, count: int) -> Status:
        """Wait until the code of so many runs, as they say themselves, and as the mesh says. None can have ended."""
        async with asyncio.timeout(40):
            while self._mesh.trace.read_bytes().count(b"\n") < count:
                await asyncio.sleep(0.1)
        return await until(self._client, lambda status: status.tasks.running >= count)

    async def wake(self) -> None:
        """Open the gate, and wait until every one of them has ended as it should."""
        self._gate.touch()
        for handle in self.handles:
            await handle.result(timeout=40)


def per_node(status: Status) -> list[int]:
    return [node.running for node in status.nodes]


@pytest.mark.timeout(120)
def test_s0_07_1000_sleepers_run_at_once_with_10000_queued_and_all_complete(tmp_path: Path) -> None:
    async def story() -> None:
        async with real_mesh(tmp_path, nodes=5, slots=200, heartbeat_ms=1_000) as (mesh, client):
            crowd = Crowd(mesh, client)
            await crowd.submit(11_000)
            status = await crowd.asleep(1_000)
            assert (status.tasks.running, status.tasks.pending, status.tasks.completed) == (1_000, 10_000, 0)
            assert per_node(status) == [200] * 5
            await crowd.wake()
            tasks = (await client.status()).tasks
            assert (tasks.completed, tasks.running, tasks.pending, tasks.failed + tasks.dead) == (11_000, 0, 0, 0)
            assert len(mesh.runs("begin")) == 11_000, "each began once"

    asyncio.run(story())


@pytest.mark.timeout(120)
def test_20000_sleepers_run_at_once_on_five_nodes_and_all_complete(tmp_path: Path) -> None:
    async def story() -> None:
        async with real_mesh(tmp_path, nodes=5, slots=4_000, heartbeat_ms=1_000) as (mesh, client):
            crowd = Crowd(mesh, client)
            started_s = time.monotonic()
            await crowd.submit(20_000)
            status = await crowd.asleep(20_000)
            asleep_s = time.monotonic() - started_s
            assert (status.tasks.running, status.tasks.completed) == (20_000, 0)
            assert per_node(status) == [4_000] * 5
            await crowd.wake()
            print(
                f"20,000 ran at once after {asleep_s:.1f} s, and had ended after {time.monotonic() - started_s:.1f} s"
            )
            tasks = (await client.status()).tasks
            assert (tasks.completed, tasks.running, tasks.failed + tasks.dead) == (20_000, 0, 0)

    asyncio.run(story())
