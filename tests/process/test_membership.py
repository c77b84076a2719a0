"""Nodes come and go for good while real processes do real work: who has a vote changes, and nothing is lost."""

import asyncio
import shutil
from pathlib import Path

import pytest

from mesh import documents
from mesh.client.connection import MeshClient
from tests.cli.command import mesh as command
from tests.process.real_mesh import (
    RealMesh,
    assert_each_ended_once,
    everybody_is_healthy,
    flow,
    leader_of,
    real_mesh,
    roles,
    submit_many,
    until,
)


def voters(status: documents.Status) -> list[str]:
    return [node_id for node_id, role in roles(status).items() if role == "voter"]


async def work_is_done(client: MeshClient, mesh: RealMesh, prefix: str, count: int = 40) -> None:
    handles = await submit_many(client, mesh, prefix, count, 0.01)
    assert [(await handle.result(timeout=20))["value"] for handle in handles] == list(range(count))
    await assert_each_ended_once(client, handles)


@pytest.mark.timeout(60)
def test_a_mesh_of_three_grows_to_five_while_work_flows(tmp_path: Path) -> None:
    """n4 asks anybody, n5 knows n2 alone; both are given a vote, and work reaches them. Two of five may die then."""

    async def story() -> None:
        async with real_mesh(tmp_path, most=5) as (mesh, client), flow(client, mesh, "grow"):
            mesh.join("n4")
            mesh.join("n5", seeds=["n2"])
            for node_id in ("n4", "n5"):
                await mesh.ready(node_id)
            await until(client, lambda s: voters(s) == ["n1", "n2", "n3", "n4", "n5"] and everybody_is_healthy(s))
            await until(client, lambda _: {"n4", "n5"} < {words[3] for run in mesh.runs().values() for words in run})
            for node_id in ("n1", "n2"):
                mesh.kill(node_id)
            await work_is_done(client, mesh, "without-two")

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_a_mesh_of_one_grows_and_its_nodes_need_no_flags_to_come_back(tmp_path: Path) -> None:
    """What they were told at first, their directories know. One that never was anywhere would be a mesh of its own."""

    async def story() -> None:
        async with real_mesh(tmp_path, nodes=1, most=3) as (mesh, client):
            for node_id in ("n2", "n3"):
                mesh.join(node_id, seeds=["n1"])
                await mesh.ready(node_id)
            await until(client, lambda s: voters(s) == ["n1", "n2", "n3"])
            async with flow(client, mesh, "restart"):
                for node_id in ("n1", "n3"):
                    assert await mesh.stop(node_id) == (0, "")
                    mesh.start_bare(node_id)
                    await mesh.ready(node_id)
                    await until(client, everybody_is_healthy)

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_a_voter_that_is_gone_for_good_is_replaced_by_a_learner(tmp_path: Path) -> None:
    """n4 joins a mesh that has its three voters, as a learner. n2 dies; a second later its vote is n4's."""

    async def story() -> None:
        flags = ("--voters-wanted", "3", "--replace-after-s", "1")
        async with real_mesh(tmp_path, most=4, flags=flags) as (mesh, client):
            mesh.join("n4")
            await mesh.ready("n4")
            status = await until(client, everybody_is_healthy)
            assert roles(status)["n4"] == "learner"
            victim = next(name for name in ("n1", "n2", "n3") if name != status.leader)
            kept = [name for name in ("n1", "n2", "n3", "n4") if name != victim]
            async with flow(client, mesh, "replace"):
                mesh.kill(victim)
                await until(client, lambda s: voters(s) == kept)
            mesh.spawn(victim)
            await mesh.ready(victim)
            status = await until(client, everybody_is_healthy)
            assert roles(status)[victim] == "learner"

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_votes_are_given_and_taken_and_a_forgotten_node_ends_for_good(tmp_path: Path) -> None:
    """By order. The forgotten one says why it ends, and its data is not let in again; emptied, it is welcome."""

    async def story() -> None:
        async with real_mesh(tmp_path, most=4, flags=("--voters-wanted", "3")) as (mesh, client):
            mesh.join("n4")
            await mesh.ready("n4")
            await client.add_voter("n4")
            assert voters(await client.status()) == ["n1", "n2", "n3", "n4"]
            leader = leader_of(await client.status())
            await client.remove_voter(leader)  # It hands over first; the client asks again.
            status = await client.status()
            assert status.leader != leader and roles(status)[leader] == "learner"

            await client.forget("n4")
            code, said = await mesh.end("n4")
            assert (code, said) == (
                1,
                "mesh: This node was removed from the mesh, and its log is never let in again. To bring the machine "
                "back, start it with an empty data directory and --join.",
            )
            assert "n4" not in roles(await client.status())
            mesh.join("n4")
            assert await mesh.end("n4") == (1, said), "it comes back with the same log"
            shutil.rmtree(mesh.data("n4"))
            mesh.join("n4")
            await mesh.ready("n4")
            await until(client, everybody_is_healthy)
            await work_is_done(client, mesh, "after")

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_a_host_that_burned_is_replaced_by_another(tmp_path: Path) -> None:
    """n4 takes part first, then n2 is forgotten by name, though nobody can tell it any more."""

    async def story() -> None:
        async with real_mesh(tmp_path, most=4) as (mesh, client), flow(client, mesh, "replace"):
            mesh.kill("n2")
            mesh.join("n4", seeds=["n1", "n3"])
            await mesh.ready("n4")
            await until(client, lambda s: roles(s).get("n4") == "voter")
            ran = command("node", "forget", "n2", "--peer", mesh.addresses["n1"])
            assert (ran.code, ran.out) == (0, "n2 is forgotten\n"), ran.err
            assert roles(await client.status()) == dict.fromkeys(["n1", "n3", "n4"], "voter")

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_a_voter_whose_data_is_wiped_comes_back_as_a_learner_and_is_given_its_vote_again(tmp_path: Path) -> None:
    """Started with the same flags on an empty directory. The two others hold everything meanwhile."""

    async def story() -> None:
        async with real_mesh(tmp_path) as (mesh, client):
            await work_is_done(client, mesh, "before")
            status = await client.status()
            wiped = next(name for name in mesh.ids if name != status.leader)
            mesh.kill(wiped)
            shutil.rmtree(mesh.data(wiped))
            mesh.spawn(wiped)
            await mesh.ready(wiped)
            await until(client, lambda s: roles(s)[wiped] == "voter" and everybody_is_healthy(s))
            assert "waiting to be taken in as a learner" in mesh.log(wiped).read_text()
            mesh.kill(next(name for name in mesh.ids if name != wiped))
            await work_is_done(client, mesh, "after")
            assert (await client.task("before-0")).state == "completed"

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_a_second_node_of_a_name_waits_until_the_first_is_forgotten(tmp_path: Path) -> None:
    """It says so; then it has the name, and the first, which was told to end, never comes back with what it has."""

    async def story() -> None:
        async with real_mesh(tmp_path, most=4) as (mesh, client):
            second = RealMesh(tmp_path / "second", most=4, base=mesh.base)
            second.places["n3"] = mesh.places["n4"]
            second.join("n3", seeds=["n1"])
            try:
                await until(client, lambda _: "has a n3 at" in second.log("n3").read_text())
                assert roles(await client.status())["n3"] == "voter"
                await client.forget("n3")
                assert (await mesh.end("n3"))[0] == 1
                await second.ready("n3")
                status = await until(client, lambda s: len(voters(s)) == 3 and everybody_is_healthy(s))
                assert [node.address for node in status.nodes] == [mesh.places[name] for name in ("n1", "n2", "n4")]
            finally:
                second.stop_all()

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_two_nodes_whose_data_directories_were_swapped_do_not_start(tmp_path: Path) -> None:
    """Each says whose directory it found; put back, they go on."""

    async def story() -> None:
        async with real_mesh(tmp_path) as (mesh, client):
            await work_is_done(client, mesh, "before")
            for node_id in ("n1", "n2"):
                mesh.kill(node_id)
            _swap(mesh.data("n1"), mesh.data("n2"))
            for node_id, other in (("n1", "n2"), ("n2", "n1")):
                mesh.spawn(node_id)
                code, said = await mesh.end(node_id)
                assert code == 1 and f"belongs to node {other}, not to {node_id}" in said
            _swap(mesh.data("n1"), mesh.data("n2"))
            await mesh.start(["n1", "n2"])
            await work_is_done(client, mesh, "after")

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_a_member_does_not_start_where_nobody_would_hear_it(tmp_path: Path) -> None:
    """The others listen at the address it had. It says what to do, and that works."""

    async def story() -> None:
        async with real_mesh(tmp_path, most=5) as (mesh, client):
            assert await mesh.stop("n3") == (0, "")
            at, mesh.places["n3"] = mesh.places["n3"], mesh.places["n5"]
            mesh.start_bare("n3")
            code, said = await mesh.end("n3")
            assert code == 1 and f"takes part in its mesh as {at}" in said and "mesh node forget n3" in said
            await client.forget("n3")
            shutil.rmtree(mesh.data("n3"))
            mesh.join("n3", seeds=["n1"])
            await mesh.ready("n3")
            await until(client, lambda s: voters(s) == ["n1", "n2", "n3"] and everybody_is_healthy(s))

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_nodes_of_two_protocols_are_one_mesh(tmp_path: Path) -> None:
    """A rolling upgrade: three speak the version before, then one after the other the latest. Work goes on."""

    async def story() -> None:
        async with real_mesh(tmp_path, flags=("--protocol", "1")) as (mesh, client):
            await work_is_done(client, mesh, "old")
            async with flow(client, mesh, "upgrade"):
                for node_id in mesh.ids:
                    assert await mesh.stop(node_id) == (0, "")
                    mesh.spawn(node_id, "--protocol", "2")
                    await mesh.ready(node_id)
                    await until(client, everybody_is_healthy)

    asyncio.run(story())


def _swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
