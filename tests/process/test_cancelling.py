"""A task is cancelled whatever its code is doing, and nobody beside it pays."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from mesh.client.handle import Handle
from nodes.agents import GRACE_S
from tests.nodes.cast import gone
from tests.process.real_mesh import RealMesh, real_mesh


async def began(mesh: RealMesh, handle: Handle) -> str:
    """The word the handler left when it began. Bounded; the trace is what is waited for."""
    async with asyncio.timeout(20):
        while True:
            for line in mesh.trace.read_text().splitlines():
                if line.split()[0] == handle.id:
                    return line.split()[4]
            await asyncio.sleep(0.02)


@pytest.mark.timeout(60)
def test_a_coroutine_that_holds_the_interpreter_is_cancelled_and_its_neighbour_is_not_charged(tmp_path: Path) -> None:
    """S1-34: its process is gone within the grace and a second. Of two other tasks one ran in that process, and runs
    again in the next; one came while nothing moved there. Both complete, at their first attempt."""

    async def story() -> None:
        async with real_mesh(tmp_path, nodes=1) as (mesh, client):
            path = {"path": str(mesh.trace)}
            neighbour = await client.submit("work", path | {"seconds": 4.0}, task_id="neighbour")
            assert await began(mesh, neighbour) == "begin"
            seizing = await client.submit("seize", path, task_id="seizing")
            process = os.pidfd_open(int((await began(mesh, seizing)).removeprefix("pid-")))
            cancelled_s = time.monotonic()
            await seizing.cancel()
            assert await seizing.status() == "cancelled"
            late = await client.submit("work", path, task_id="late")
            assert await gone(process)
            took_s = time.monotonic() - cancelled_s
            print(f"its process was gone after {took_s:.2f} s")
            assert took_s < GRACE_S + 1.0
            for handle in (late, neighbour):
                await handle.result(20)
                assert (await client.task(handle.id)).attempts == 1

    asyncio.run(story())
