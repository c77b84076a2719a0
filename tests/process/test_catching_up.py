"""A follower whose log no longer reaches back is sent a table of 20,000 tasks, while the others go on (issue 3, 2)."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from bench.catch_up import Probe
from mesh.client import connect
from mesh.documents import RaftStatus, Status
from mesh.messages import Question
from tests.process.real_mesh import real_mesh

TASKS = 20_000
AT_ONCE = 2_000
BUSY_MS_MAX = 50
"""Of the loop's own thread, in one turn. On a machine that does other things a turn takes as long as those do."""
PATIENCE_S = 60.0


async def _raft(probe: Probe) -> RaftStatus:
    async with asyncio.timeout(PATIENCE_S):
        while (status := await probe.ask(Question.RAFT, RaftStatus)) is None:
            await asyncio.sleep(0.05)
    return status


async def _busiest_ms(probe: Probe) -> int:
    status = await probe.ask(Question.STATUS, Status, timeout_s=PATIENCE_S)
    assert status is not None
    return status.counters["loop_cpu_ms_max"]


async def _story(tmp_path: Path) -> None:
    async with real_mesh(tmp_path) as (mesh, client), AsyncExitStack() as stack:
        numbers = iter(range(TASKS))

        async def submit_some() -> None:
            for number in numbers:
                await client.submit("nobody-offers-this", {"n": number}, task_id=f"t{number}", timeout=PATIENCE_S)

        await asyncio.gather(*(submit_some() for _ in range(AT_ONCE)))
        leader = (await client.status()).leader
        assert leader is not None
        follower = next(name for name in mesh.ids if name != leader)
        probes = {name: Probe(address) for name, address in mesh.addresses.items()}
        for probe in probes.values():
            stack.callback(probe.close)
        stood = await _raft(probes[follower])
        mesh.kill(follower)
        async with connect(mesh.peers(follower)) as other:
            while (await _raft(probes[leader])).first_index <= stood.last_index + 1:
                for _ in range(50):
                    await other.submit("nobody-offers-this", {}, timeout=PATIENCE_S)
        mesh.spawn(follower)
        await mesh.ready(follower)
        async with asyncio.timeout(PATIENCE_S):
            statuses = [await _raft(probe) for probe in probes.values()]
            while len({(status.applied_index, status.digest) for status in statuses}) > 1:
                await asyncio.sleep(0.1)
                statuses = [await _raft(probe) for probe in probes.values()]
        assert (await client.status()).tasks.pending >= TASKS
        tables = [path.name for path in (tmp_path / follower).glob("ledger-*.db")]
        assert tables == ["ledger-2.db"]  # It was sent one, and has put it in use.
        busiest = {name: await _busiest_ms(probe) for name, probe in probes.items()}
        assert max(busiest.values()) <= BUSY_MS_MAX, busiest


def test_a_table_of_twenty_thousand_tasks_keeps_nobody(tmp_path: Path) -> None:
    """One is killed; so much happens that the log is cut behind it; it comes back, is sent the table, and is level."""
    asyncio.run(_story(tmp_path))
