"""Disks that rot, fill up, or are lost with their machines: what a majority had is kept, and nothing is guessed."""

import asyncio
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest

from mesh import documents
from mesh.client import connect
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


def rot(file: Path) -> None:
    """Flip a bit in every 512 bytes from the second page on."""
    content = bytearray(file.read_bytes())
    for at in range(4_096, len(content), 512):
        content[at] ^= 1
    file.write_bytes(content)


def is_whole(status: documents.Status) -> bool:
    """All are healthy and vote."""
    return everybody_is_healthy(status) and set(roles(status).values()) == {"voter"}


@pytest.mark.timeout(60)
def test_a_voter_whose_log_is_damaged_sets_it_aside_and_recovers_from_its_peers(tmp_path: Path) -> None:
    """It is stopped, its log rots, it is started with the same flags. Nothing is lost, and the status shows it."""

    async def story() -> None:
        async with real_mesh(tmp_path) as (mesh, client):
            before = await submit_many(client, mesh, "before", 200, 0.0)
            await asyncio.gather(*(handle.result(timeout=20) for handle in before))
            leader = leader_of(await client.status())
            victim = next(name for name in mesh.ids if name != leader)
            await mesh.stop(victim)
            rot(mesh.data(victim) / "log.db")
            others = [name for name in mesh.ids if name != victim]
            async with flow(client, mesh, "meanwhile"):
                for node_id in others:
                    mesh.signal(node_id, signal.SIGSTOP)  # So that it is seen before it is put right.
                mesh.spawn(victim)
                async with connect(mesh.addresses[victim]) as bystander:
                    alone = await bystander.status(stale=True)
                for node_id in others:
                    mesh.signal(node_id, signal.SIGCONT)
                await mesh.ready(victim)
                await until(client, is_whole)
            aside = mesh.data(victim).with_name(f"{victim}.damaged-1")
            (trouble,) = [node.trouble for node in alone.nodes if node.id == victim]
            assert str(aside) in trouble and "log.db is damaged" in trouble
            assert {"log.db", "why.txt"} <= {file.name for file in aside.iterdir()}
            await assert_each_ended_once(client, before)
            await mesh.stop(next(name for name in mesh.ids if name != victim))
            await assert_each_ended_once(client, before)

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_a_lone_node_whose_log_is_damaged_does_not_start_and_touches_nothing(tmp_path: Path) -> None:
    """Nobody could tell it what it promised. One sentence, what to do in it; put right, everything is there."""

    async def story() -> None:
        async with real_mesh(tmp_path, nodes=1) as (mesh, client):
            handles = await submit_many(client, mesh, "before", 50, 0.0)
            await asyncio.gather(*(handle.result(timeout=20) for handle in handles))
            await mesh.stop("n1")
            log = mesh.data("n1") / "log.db"
            whole = log.read_bytes()
            rot(log)
            mesh.spawn("n1")
            code, said = await mesh.end("n1")
            assert code == 1 and "log.db is damaged" in said and "--join" in said and "restore" in said
            assert not list(tmp_path.glob("*damaged*"))
            log.write_bytes(whole)
            mesh.spawn("n1")
            await mesh.ready("n1")
            await assert_each_ended_once(client, handles)

    asyncio.run(story())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("who", ["leader", "follower"])
def test_a_node_whose_disk_fails_says_so_and_ends_within_a_second(tmp_path: Path, who: str) -> None:
    """From one moment to the next nothing more can be written, as on a full disk. The others know why it is gone."""

    async def story() -> None:
        async with real_mesh(tmp_path) as (mesh, client):
            status = await client.status()
            victim = leader_of(status)
            if who == "follower":
                victim = next(name for name in mesh.ids if name != victim)
            watcher = next(name for name in mesh.ids if name != victim)
            async with connect(mesh.addresses[watcher]) as bystander, flow(client, mesh, "meanwhile"):
                pid = mesh.processes[victim].pid
                room = mesh.log(victim).stat().st_size + 8_192  # For what it says; its log is larger already.
                await until(client, lambda _: (mesh.data(victim) / "log.db-wal").stat().st_size > 2 * room)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, room))
                began_s = time.monotonic()
                code, said = await mesh.end(victim)
                took_s = time.monotonic() - began_s
                assert code == 1 and said.startswith("mesh: The disk failed: "), said
                assert took_s < 1.0
                seen = await bystander.status(stale=True)
                (trouble,) = [node.trouble for node in seen.nodes if node.id == victim]
                assert trouble.startswith("The disk failed: ")
            mesh.spawn(victim)
            await mesh.ready(victim)
            await until(client, everybody_is_healthy)

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_two_of_three_machines_are_lost_for_good_and_the_third_brings_everything_back(tmp_path: Path) -> None:
    """Not by itself: an operator says so, knowing that what only the others had is lost. Old selves stay outside."""

    async def story() -> None:
        async with real_mesh(tmp_path, most=5) as (mesh, client):
            done = await submit_many(client, mesh, "done", 50, 0.0)
            await asyncio.gather(*(handle.result(timeout=20) for handle in done))
            waiting = await submit_many(client, mesh, "waiting", 20, 3.0)
            await until(client, lambda _: len(mesh.runs("begin")) == 70)
            _copy(mesh, "n2")
            mesh.stop_all()
            refused = command("raft", "recover", "--data-dir", str(mesh.data("n1")))
            assert refused.code == 6 and "--i-know" in refused.err and "n1" in refused.err
            ran = command("raft", "recover", "--data-dir", str(mesh.data("n1")), "--i-know", "--json")
            assert (ran.code, ran.document["voters"], sorted(ran.document["were"])) == (0, ["n1"], ["n1", "n2", "n3"])
            for lost in ("n2", "n3"):
                shutil.rmtree(mesh.data(lost))
                del mesh.addresses[lost]
            mesh.spawn("n1")
            await mesh.ready("n1")
            for node_id in ("n4", "n5"):
                mesh.join(node_id, seeds=["n1"])
                await mesh.ready(node_id)
            async with connect(mesh.addresses["n1"]) as survivor:
                await until(survivor, lambda s: roles(s) == dict.fromkeys(["n1", "n4", "n5"], "voter"))
                for handle in done + waiting:
                    await survivor.handle(handle.id).result(timeout=40)
                await assert_each_ended_once(survivor, done + waiting)
                shutil.copytree(tmp_path / "copy", mesh.data("n2"))
                mesh.spawn("n2")
                code, said = await mesh.end("n2")
                assert code == 1 and "was removed from the mesh" in said
                assert "n2" not in roles(await survivor.status())

    asyncio.run(story())


def _copy(mesh: RealMesh, node_id: str) -> None:
    """What somebody may find again later: a node's directory, as it was."""
    mesh.kill(node_id)
    shutil.copytree(mesh.data(node_id), mesh.directory / "copy")


@pytest.mark.timeout(60)
def test_a_copy_of_one_stopped_node_is_a_backup_of_the_whole_mesh(tmp_path: Path) -> None:
    """n2 is stopped, copied and started again, while work flows. Later everything burns; the copy is the mesh again."""

    async def story() -> None:
        async with real_mesh(tmp_path) as (mesh, client):
            done = await submit_many(client, mesh, "done", 50, 0.0)
            await asyncio.gather(*(handle.result(timeout=20) for handle in done))
            async with flow(client, mesh, "meanwhile"):
                assert await mesh.stop("n2") == (0, "")
                shutil.copytree(mesh.data("n2"), tmp_path / "backup")
                mesh.spawn("n2")
                await mesh.ready("n2")
                await until(client, everybody_is_healthy)
            mesh.stop_all()
            for node_id in mesh.ids:
                shutil.rmtree(mesh.data(node_id))
            shutil.copytree(tmp_path / "backup", mesh.data("n2"))
            ran = command("raft", "recover", "--data-dir", str(mesh.data("n2")), "--i-know")
            assert (ran.code, ran.out.startswith("n2 is the only voter now")) == (0, True), ran.err
            mesh.spawn("n2")
            await mesh.ready("n2")
            for node_id in ("n1", "n3"):
                mesh.join(node_id, seeds=["n2"])
                await mesh.ready(node_id)
            await until(client, lambda s: is_whole(s) and len(s.nodes) == 3)
            await assert_each_ended_once(client, done)
            async with flow(client, mesh, "afterwards"):
                mesh.kill("n2")
                await submit_many(client, mesh, "more", 20, 0.01)

    asyncio.run(story())


def test_recovering_what_is_no_data_directory_or_one_in_use_is_refused(tmp_path: Path) -> None:
    """One sentence each; nothing is made."""
    ran = command("raft", "recover", "--data-dir", str(tmp_path / "nowhere"), "--i-know")
    assert (ran.code, ran.err.count("\n")) == (1, 1) and "is no data directory" in ran.err
    assert os.listdir(tmp_path) == []

    async def story() -> None:
        async with real_mesh(tmp_path, nodes=1) as (mesh, _):
            ran = command("raft", "recover", "--data-dir", str(mesh.data("n1")), "--i-know")
            assert (ran.code, ran.err.count("\n")) == (1, 1) and "is in use by process" in ran.err

    asyncio.run(story())
