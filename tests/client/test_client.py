"""The client and a mesh of three real processes: what it promises while nodes die under it."""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mesh import Outcome, connect, connect_sync
from mesh.client import Handle, MeshClient
from mesh.errors import (
    Conflict,
    InvalidPayload,
    MeshUnavailable,
    NotFound,
    Refused,
    TaskCancelled,
    TaskFailed,
    TaskTimeout,
)
from mesh.transport import TransportRefused
from nodes.local_mesh import LocalMesh, free_base_port
from tests.client.cast import play, three_nodes


async def _leader(mesh: MeshClient) -> str:
    while True:
        leader = (await mesh.status()).leader
        if leader is not None:
            return leader


async def _completions(mesh: MeshClient) -> Counter[str]:
    """How often each task was completed, by the mesh's own events."""
    return Counter([e.task or "" async for e in mesh.events() if e.event == "task_completed"])


def test_a_task_from_submit_to_result_and_every_way_it_may_end(tmp_path: Path) -> None:
    """One mesh, one client: completed, failed, cancelled, timed out, unknown, taken, invalid, watched, listed."""

    async def story() -> None:
        async with three_nodes(tmp_path) as local, connect(local.peers) as mesh:
            await _ends(mesh)
            await _refusals(mesh)
            await _many(mesh)
            await _documents(mesh)

    async def _ends(mesh: MeshClient) -> None:
        handle = await mesh.submit("echo", {"n": 1}, task_id="t1")
        assert (handle.id, handle.index > 0) == ("t1", True)
        assert await handle == {"n": 1}
        assert await handle.status() == "completed"
        assert await mesh.handle("t1").result(timeout=5) == {"n": 1}

        # The same again is the same task; its result is there at once.
        again = await mesh.submit("echo", {"n": 1}, task_id="t1")
        assert await again.result(timeout=5) == {"n": 1}

        # So is the same work under an idempotency key, whoever does it.
        keyed = [await mesh.submit("echo", {"n": 2}, key="o1", run_timeout="1m") for _ in range(2)]
        assert [handle.id for handle in keyed] == ["echo:o1"] * 2
        assert await keyed[1].outcome(timeout=5) == Outcome(True, {"n": 2}, None, "completed")

        failing = await mesh.submit("fail", {"why": "no way"}, max_attempts=1)
        with pytest.raises(TaskFailed, match="ValueError: no way") as failed:
            await failing.result(timeout=5)
        assert "Traceback" in failed.value.remote_traceback
        assert (failed.value.attempt, failed.value.node in {"n1", "n2", "n3"}) == (1, True)

        napping = await mesh.submit("nap", {"seconds": 30})
        with pytest.raises(TaskTimeout):
            await napping.result(timeout=0.2)
        await napping.cancel("enough")
        with pytest.raises(TaskCancelled):
            await napping.result(timeout=5)

    async def _refusals(mesh: MeshClient) -> None:
        with pytest.raises(Conflict):
            await mesh.submit("echo", {"n": 2}, task_id="t1")
        with pytest.raises(InvalidPayload):
            await mesh.submit("echo", {"n": b"bytes"})
        with pytest.raises(NotFound):
            await mesh.task("nope")
        with pytest.raises(NotFound):
            await mesh.handle("nope").result(timeout=5)
        with pytest.raises(NotFound):
            await mesh.drain("n9")
        with pytest.raises(Refused):
            await mesh.cancel("t1")

    async def _many(mesh: MeshClient) -> None:
        handles = await mesh.map("echo", [{"n": n} for n in range(2_000)], priority="low")
        ended: list[Handle] = [handle async for handle in mesh.as_completed(handles, timeout=30)]
        assert sorted(handle.id for handle in ended) == sorted(handle.id for handle in handles)
        assert sum([(await handle.result())["n"] for handle in handles]) == sum(range(2_000))

    async def _documents(mesh: MeshClient) -> None:
        status = await mesh.status()
        assert (status.tasks.completed, status.tasks.dead, status.stale) == (2_002, 1, False)
        letters = (await mesh.dead_letters()).dead_letters
        assert [letter.error for letter in letters] == ["ValueError: no way"]
        page = await mesh.tasks(state="completed", limit=10)
        assert len(page.tasks) == 10
        assert page.next == page.tasks[-1].id
        assert (await mesh.tasks(state=["completed"], after=page.next)).tasks[0].id > page.next
        waiting = await mesh.submit("nobody can do this")
        assert (await waiting.explain()).reason == "no_capability"
        raft = await mesh.raft_status(stale=False)
        assert (raft.role, raft.leader) == ("leader", status.leader)

    play(story)


def test_a_client_outlives_the_leader_and_the_only_peer_it_was_told_of(tmp_path: Path) -> None:
    """It knows n1 alone. Whoever leads is killed in the middle of the work, then n1: nothing is lost or done twice.

    Asking for the leader tells it of the others, so it survives even if that is n1, killed the next moment.
    """

    async def story() -> None:
        async with three_nodes(tmp_path) as local, connect(local.peers.split(",")[0]) as mesh:
            results = asyncio.gather(*(_steady(mesh, number) for number in range(100)))
            for victim in (await _leader(mesh), "n1"):
                if not local.nodes[victim].alive:
                    continue
                local.kill(victim)
                await mesh.submit("echo", {"after": victim})
                await local.restart(victim)
            assert await results == [list(range(20))] * 100
            completions = await _completions(mesh)
            assert set(completions.values()) == {1}
            assert len(completions) >= 2_000

    async def _steady(mesh: MeshClient, worker: int) -> list[Any]:
        """Twenty tasks, one after the other."""
        found = []
        for number in range(20):
            handle = await mesh.submit("echo", {"n": number}, task_id=f"w{worker}-{number}")
            found.append((await handle.result(timeout=20))["n"])
        return found

    play(story)


def test_a_leader_that_is_paused_is_left_for_its_successor(tmp_path: Path) -> None:
    """SIGSTOP: its links stay up and say nothing. Submits go on elsewhere; when it wakes, nothing is doubled."""

    async def story() -> None:
        async with three_nodes(tmp_path) as local, connect(local.peers) as mesh:
            paused = await _leader(mesh)
            pid = local.nodes[paused].process.pid
            os.kill(pid, signal.SIGSTOP)
            try:
                handles = [await mesh.submit("echo", {"n": n}, task_id=f"t{n}", timeout=20) for n in range(20)]
                assert [(await handle.result(timeout=20))["n"] for handle in handles] == list(range(20))
            finally:
                os.kill(pid, signal.SIGCONT)
            assert await _leader(mesh) != paused
            assert set((await _completions(mesh)).values()) == {1}

    play(story)


def test_without_a_quorum_writes_are_refused_in_time_and_reads_are_marked(tmp_path: Path) -> None:
    """Two of three are killed. A submit says that it is not in the log, or that this is unknown; status answers."""

    async def story() -> None:
        async with three_nodes(tmp_path) as local, connect(local.peers) as mesh:
            await (await mesh.submit("echo", {}, task_id="before")).result(timeout=5)
            leader = await _leader(mesh)
            kept = next(node_id for node_id in local.nodes if node_id != leader)
            for node_id in [node_id for node_id in local.nodes if node_id != kept]:
                local.kill(node_id)
            started = asyncio.get_running_loop().time()
            with pytest.raises(MeshUnavailable, match=r"certainly not in the log|is unknown"):
                await mesh.submit("echo", {}, task_id="during", timeout=1.5)
            assert asyncio.get_running_loop().time() - started < 2.5

            status = await mesh.status(timeout=5)
            assert (status.stale, status.quorum, status.served_by) == (True, False, kept)
            assert (await mesh.task("before", stale=True)).state == "completed"

            # With the quorum back, the same submit under the same id goes through.
            await _revive(local, kept)
            again = await mesh.submit("echo", {}, task_id="during", timeout=20)
            assert await again.result(timeout=20) == {}
            assert (await _completions(mesh))["during"] == 1

    async def _revive(local: LocalMesh, kept: str) -> None:
        await asyncio.gather(*(local.restart(node_id) for node_id in local.nodes if node_id != kept))

    play(story)


def test_the_blocking_twin_does_the_same(tmp_path: Path) -> None:
    """No event loop on the caller's side; the mesh runs in another thread's."""

    def blocking(peers: str) -> None:
        with connect_sync(peers) as mesh:
            handle = mesh.submit("echo", {"n": 1}, task_id="t1")
            assert (handle.id, handle.result(timeout=5), handle.status()) == ("t1", {"n": 1}, "completed")
            handles = mesh.map("echo", ({"n": n} for n in range(50)))
            assert {handle.id for handle in mesh.as_completed(handles)} == {handle.id for handle in handles}
            assert mesh.handle("t1").result(timeout=5) == {"n": 1}
            assert [event.task for event in mesh.events() if event.task == "t1"] == ["t1"] * 3
            assert mesh.task("t1").state == "completed"
            assert len(mesh.tasks(limit=5).tasks) == 5
            with pytest.raises(NotFound):
                mesh.task("nope")
            with pytest.raises(TaskFailed):
                mesh.submit("fail", {"why": "x"}, max_attempts=1).result(timeout=5)
            roles = []
            for change in (mesh.remove_voter, mesh.add_voter, mesh.forget):
                change("n3")
                roles.append({node.id: node.role for node in mesh.status().nodes}.get("n3"))
            assert roles == ["learner", "voter", None]
            with pytest.raises(NotFound):
                mesh.forget("n3")
        with pytest.raises(RuntimeError):
            mesh.status()

    async def story() -> None:
        async with three_nodes(tmp_path) as local:
            await asyncio.to_thread(blocking, local.peers)

    play(story)


def test_where_nobody_listens_connecting_fails_in_time() -> None:
    async def story() -> None:
        port = free_base_port(1)
        with pytest.raises(MeshUnavailable, match=f"no node answered within 0.3 s .*127.0.0.1:{port}"):
            await connect(f"127.0.0.1:{port}", timeout=0.3)
        for peers in ("", "nonsense", "127.0.0.1:1,x"):
            with pytest.raises(TransportRefused):
                await connect(peers)

    play(story)


def test_closing_while_others_wait_tells_them(tmp_path: Path) -> None:
    async def story() -> None:
        async with three_nodes(tmp_path) as local:
            mesh = await connect(local.peers)
            handle = await mesh.submit("nap", {"seconds": 30})
            waiting = asyncio.ensure_future(handle.result())
            asking = asyncio.ensure_future(mesh.status())
            await asyncio.sleep(0)
            await mesh.close()
            await mesh.close()
            for future in (waiting, asking):
                with pytest.raises(MeshUnavailable, match="closed"):
                    await future
            with pytest.raises(MeshUnavailable, match="closed"):
                await mesh.submit("echo", {})

    play(story)
