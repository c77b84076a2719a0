"""A node that is told to stop hands over what it has; nobody waits for it, and nobody is charged."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from mesh import documents
from tests.process.real_mesh import (
    events_of,
    everybody_is_healthy,
    flow,
    leader_of,
    real_mesh,
    submit_many,
    until,
)

GAP_MS_MAX = 500


def admin_of(status: documents.Status) -> dict[str, str]:
    return {node.id: node.admin for node in status.nodes}


@pytest.mark.timeout(60)
def test_the_leader_is_restarted_under_load_and_nobody_waits_half_a_second(tmp_path: Path) -> None:
    """Three planned restarts of whoever leads. The longest gap between two results, and every attempt the first."""

    async def story() -> None:
        async with real_mesh(tmp_path) as (mesh, client):
            gaps_ms = []
            for restart in range(3):
                async with flow(client, mesh, f"restart{restart}") as flowing:
                    leader = leader_of(await client.status())
                    assert await mesh.stop(leader) == (0, "")
                    mesh.spawn(leader)
                    await mesh.ready(leader)
                    await until(client, everybody_is_healthy)
                gaps_ms.append(flowing.longest_gap_ms())
                tasks = await asyncio.gather(*(client.task(handle.id) for handle in flowing.handles))
                assert {task.attempts for task in tasks} == {1}
            print(f"longest gaps between two results: {gaps_ms} ms")
            assert max(gaps_ms) < GAP_MS_MAX

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_a_node_with_nothing_to_do_leaves_at_once_and_is_no_failure(tmp_path: Path) -> None:
    """The status says that it left; it comes back as if nothing had been."""

    async def story() -> None:
        async with real_mesh(tmp_path) as (mesh, client):
            leader = leader_of(await client.status())
            for node_id in (next(name for name in mesh.ids if name != leader), leader):
                began_s = time.monotonic()
                assert await mesh.stop(node_id) == (0, "")
                took_s = time.monotonic() - began_s
                print(f"{node_id} gone after {took_s:.2f} s")
                assert took_s < 1.0
                status = await until(client, lambda s: s.leader is not None)
                assert admin_of(status)[node_id] == "left"
                mesh.spawn(node_id)
                await mesh.ready(node_id)
                status = await until(client, everybody_is_healthy)
                assert set(admin_of(status).values()) == {"active"}
            assert not [line for line in await events_of(client) if line.event == "node_failed"]

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_what_runs_may_finish_and_what_does_not_is_given_back_uncharged(tmp_path: Path) -> None:
    """A second is given: what ends by then is its node's, the rest begins again elsewhere as its first attempt."""

    async def story() -> None:
        async with real_mesh(tmp_path, flags=("--drain-s", "1")) as (mesh, client):
            leader = leader_of(await client.status())
            leaver = next(name for name in mesh.ids if name != leader)
            handles = await submit_many(client, mesh, "short", 15, 0.5) + await submit_many(
                client, mesh, "long", 15, 4.0
            )
            await until(client, lambda _: len(mesh.runs("begin")) == 30)
            held = {name for name, runs in mesh.runs("begin").items() if runs[0][3] == leaver}
            assert {name.split("-")[0] for name in held} == {"short", "long"}
            began_s = time.monotonic()
            assert await mesh.stop(leaver) == (0, "")
            assert time.monotonic() - began_s < 3.0
            for handle in handles:
                result = await handle.result(timeout=20)
                is_moved = str(handle.id) in held and str(handle.id).startswith("long")
                assert (result["node"] != leaver) if is_moved else (result["attempt"] == 1)
                assert (await client.task(handle.id)).attempts == 1, handle.id
            assert not [line for line in await events_of(client) if line.event == "node_failed"]

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_told_twice_a_node_ends_at_once_and_its_work_goes_elsewhere(tmp_path: Path) -> None:
    """It would wait half a minute for what it runs."""

    async def story() -> None:
        async with real_mesh(tmp_path) as (mesh, client):
            leader = leader_of(await client.status())
            leaver = next(name for name in mesh.ids if name != leader)
            handles = await submit_many(client, mesh, "long", 12, 2.0)
            await until(client, lambda _: leaver in {run[0][3] for run in mesh.runs("begin").values()})
            mesh.signal(leaver, signal.SIGTERM)
            await until(client, lambda s: admin_of(s)[leaver] == "draining")
            began_s = time.monotonic()
            code, said = await mesh.stop(leaver)
            assert (code, said) == (130, "mesh: Told twice to stop: what ran here is given up, and runs elsewhere.")
            assert time.monotonic() - began_s < 2.0
            assert {(await handle.result(timeout=30))["value"] for handle in handles} == set(range(12))

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_the_last_ones_do_not_wait_for_an_agreement_that_cannot_come(tmp_path: Path) -> None:
    """All three are told at once: whoever has no quorum left to say goodbye to goes all the same."""

    async def story() -> None:
        async with real_mesh(tmp_path) as (mesh, _):
            began_s = time.monotonic()
            assert await asyncio.gather(*(mesh.stop(node_id) for node_id in mesh.ids)) == [(0, "")] * 3
            took_s = time.monotonic() - began_s
            print(f"all three gone after {took_s:.2f} s")
            assert took_s < 4.0

    asyncio.run(story())
