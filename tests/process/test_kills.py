"""Real processes, real sockets, real disks, real signals. What is acknowledged ends exactly once, whoever dies."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from mesh import documents
from mesh.client.handle import Handle
from tests.process.real_mesh import (
    assert_each_ended_once,
    events_of,
    everybody_is_healthy,
    leader_of,
    real_mesh,
    submit_many,
    until,
)

HEARTBEAT_MS = 200


def a_follower_holds_something(status: documents.Status) -> bool:
    return any(node.running for node in status.nodes if node.id != status.leader)


@pytest.mark.timeout(120)
def test_the_leader_is_killed_in_mid_run_and_nothing_is_lost(tmp_path: Path) -> None:
    """S0-04, S0-10: 600 tasks are on their way when the leader is killed; each ends once, and it may come back."""

    async def story() -> None:
        async with real_mesh(tmp_path, heartbeat_ms=HEARTBEAT_MS) as (mesh, client):
            leader = leader_of(await client.status())
            first = await submit_many(client, mesh, "before", 300, 0.2)
            meanwhile = asyncio.create_task(submit_many(client, mesh, "during", 300, 0.05))
            mesh.kill(leader)
            handles = first + await meanwhile
            results = await asyncio.gather(*(handle.result(timeout=40) for handle in handles))
            assert [result["value"] for result in results] == [*range(300), *range(300)]
            await assert_each_ended_once(client, handles)
            assert leader_of(await client.status()) != leader
            await mesh.start([leader])
            await until(client, everybody_is_healthy)

    asyncio.run(story())


@pytest.mark.timeout(180)
def test_twenty_killed_workers_are_noticed_in_time_and_their_tasks_run_elsewhere(tmp_path: Path) -> None:
    """S0-08: noticed within 3 heartbeats. S0-09: elsewhere within 5 s of that. By event time, 20 kills."""

    async def story() -> None:
        noticed_ms: list[float] = []
        reassigned_ms: list[float] = []
        async with real_mesh(tmp_path, heartbeat_ms=HEARTBEAT_MS) as (mesh, client):
            for kill in range(20):
                await until(client, everybody_is_healthy)
                handles = await submit_many(client, mesh, f"kill{kill}", 12, 1.0)
                # One that has only just come back may not have been granted anything yet.
                status = await until(client, a_follower_holds_something)
                victim = [node.id for node in status.nodes if node.id != status.leader and node.running][-1]
                after = max((line.index for line in await events_of(client)), default=0)
                killed_at_ms = mesh.kill(victim)
                await asyncio.gather(*(handle.result(timeout=20) for handle in handles))
                lines = [line for line in await events_of(client) if line.index > after]
                failed = next(line for line in lines if line.event == "node_failed" and line.node == victim)
                moved = [line for line in lines if line.event == "task_reassigned"]
                assert moved, "the victim held tasks, so some moved"
                noticed_ms.append(failed.at - killed_at_ms)
                reassigned_ms.append(max(line.at for line in moved) - failed.at)
                await assert_each_ended_once(client, handles)
                await mesh.start([victim])
        print(f"noticed after {sorted(noticed_ms)} ms, reassigned after {sorted(reassigned_ms)} ms")
        assert max(noticed_ms) <= 3 * HEARTBEAT_MS + 50, "50 ms for this machine's clock and a kill's own delay"
        assert max(reassigned_ms) <= 5_000

    asyncio.run(story())


@pytest.mark.timeout(90)
def test_a_node_that_sleeps_through_its_own_funeral_is_fenced(tmp_path: Path) -> None:
    """SIGSTOP past the verdict: its tasks run elsewhere; after SIGCONT its late results are refused, on record."""

    async def story() -> None:
        async with real_mesh(tmp_path, heartbeat_ms=HEARTBEAT_MS) as (mesh, client):
            status = await client.status()
            sleeper = next(node.id for node in status.nodes if node.id != status.leader)
            handles: list[Handle] = []
            while sleeper not in {words[3] for run in mesh.runs("begin").values() for words in run}:
                # One that is healthy may not have been asked yet what it runs, and is granted nothing before.
                handles += await submit_many(client, mesh, f"fence-{len(handles)}", 30, 1.0)
                await asyncio.sleep(0.2)
            mesh.signal(sleeper, signal.SIGSTOP)
            await until(client, lambda s: any(node.id == sleeper and node.health == "failed" for node in s.nodes))
            results = await asyncio.gather(*(handle.result(timeout=20) for handle in handles))
            assert sleeper not in {result["node"] for result in results if result["attempt"] > 1}
            mesh.signal(sleeper, signal.SIGCONT)
            await until(client, everybody_is_healthy)
            await assert_each_ended_once(client, handles)
            ran_twice = [task_id for task_id, lines in mesh.runs("end").items() if len(lines) > 1]
            fenced = [line for line in await events_of(client) if line.event == "completion_fenced"]
            assert ran_twice, "the sleeper's user code went on while its node slept"
            assert fenced, "its late results reached the ledger and were refused"

    asyncio.run(story())


@pytest.mark.timeout(120)
def test_all_nodes_are_killed_at_once_and_everything_is_there_again(tmp_path: Path) -> None:
    """Power cut: finished tasks keep their results, waiting ones run after the restart, none of them twice to the
    end.
    """

    async def story() -> None:
        async with real_mesh(tmp_path, heartbeat_ms=HEARTBEAT_MS, slots=4) as (mesh, client):
            quick = await submit_many(client, mesh, "quick", 50, 0.0)
            before = await asyncio.gather(*(handle.result(timeout=20) for handle in quick))
            slow = await submit_many(client, mesh, "slow", 60, 0.3)
            mesh.stop_all()
            await mesh.start()
            await until(client, everybody_is_healthy, timeout_s=30)
            after = [(await client.task(handle.id)).result for handle in quick]
            assert after == before
            await asyncio.gather(*(handle.result(timeout=40) for handle in slow))
            await assert_each_ended_once(client, quick + slow)

    asyncio.run(story())


@pytest.mark.timeout(90)
def test_a_handler_that_holds_the_interpreter_for_10_seconds_costs_its_node_nothing(tmp_path: Path) -> None:
    """No user code in the process that votes: the node stays healthy and goes on beating."""

    async def story() -> None:
        async with real_mesh(tmp_path, nodes=1, heartbeat_ms=HEARTBEAT_MS) as (_, client):
            handle = await client.submit("hold", {"seconds": 10.0}, task_id="holder")
            holding = asyncio.create_task(handle.result(timeout=30))
            healths = set()
            while not holding.done():
                status = await client.status()
                healths.add(status.nodes[0].health)
                await asyncio.wait([holding], timeout=0.1)
            assert await holding == "held"
            assert healths == {"healthy"}
            assert not [line for line in await events_of(client) if line.event == "node_failed"]

    asyncio.run(story())


@pytest.mark.timeout(90)
def test_a_killed_task_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    """S0-05, S0-28: the second attempt begins where a quorum knows the first one was."""

    async def story() -> None:
        async with real_mesh(tmp_path, heartbeat_ms=HEARTBEAT_MS) as (mesh, client):
            payload = {"path": str(mesh.trace), "count": 20, "seconds": 0.1}
            handles = [await client.submit("steps", payload, task_id=f"steps-{k}") for k in range(6)]
            status = await client.status()
            victim = next(node.id for node in status.nodes if node.id != status.leader)
            held = [task for task in (await client.tasks()).tasks if task.node == victim]
            assert held, "six tasks on three nodes: each node has some"
            async with asyncio.timeout(10):
                while ((await client.task(held[0].id)).checkpoint or {"done": 0})["done"] < 3:
                    pass
            mesh.kill(victim)
            results: dict[str, Any] = {str(handle.id): await handle.result(timeout=30) for handle in handles}
            moved = results[held[0].id]
            assert moved["attempt"] == 2 and moved["first"] >= 3

    asyncio.run(story())


@pytest.mark.timeout(90)
@pytest.mark.parametrize("how", ["raise", "exit", "segfault", "unserialisable"])
def test_bad_handlers_end_as_dead_letters_and_the_node_lives_on(tmp_path: Path, how: str) -> None:
    """S0-06, S0-14: attempts are spent, the task is listed with its error, and can be tried again by hand."""

    async def story() -> None:
        async with real_mesh(tmp_path, nodes=1, heartbeat_ms=HEARTBEAT_MS) as (mesh, client):
            handle = await client.submit("fail", {"how": how}, task_id="bad", max_attempts=2)
            with pytest.raises(Exception, match="failed after 2 attempt"):
                await handle.result(timeout=30)
            letters = (await client.dead_letters()).dead_letters
            assert [(letter.id, letter.attempts) for letter in letters] == [("bad", 2)]
            good = await client.submit("work", {"path": str(mesh.trace)})
            assert (await good.result(timeout=20))["attempt"] == 1

    asyncio.run(story())
