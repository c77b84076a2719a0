"""A user tests an app against a whole mesh in the test's own process. ana, ben and eva are nodes; time is real.

No story sleeps: it waits for what must come, and a limit of seconds says when it did not.
"""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec

import pytest

from mesh import Context, Mesh
from mesh.config import DispatchConfig
from mesh.documents import Explanation, RaftStatus, Status, Task
from mesh.errors import Conflict, NotFound, TaskCancelled, TaskFailed
from mesh.ledger.task import RUNNING
from mesh.messages import Question
from mesh.testing import LocalMesh
from mesh.testing.machine import Machine

Given = ParamSpec("Given")
TRIO = ("ana", "ben", "eva")


def on_a_loop(story: Callable[Given, Awaitable[None]]) -> Callable[Given, None]:
    """An async story as a test, on an event loop of its own, with 20 seconds to end."""

    @wraps(story)
    def test(*args: Given.args, **kwargs: Given.kwargs) -> None:
        async def told() -> None:
            async with asyncio.timeout(20):
                await story(*args, **kwargs)

        asyncio.run(told())

    return test


class Workshop:
    """An app whose handlers wait until the test lets them go on, and write down what happened to them."""

    def __init__(self) -> None:
        self.app = Mesh("workshop")
        self.gate = asyncio.Event()
        self.began: list[tuple[str, int]] = []
        self.stopped: list[str] = []
        self.app.task(capability="double")(self.double)
        self.app.task(capability="wait")(self.wait)
        self.app.task(capability="count")(self.count)

    def double(self, number: int) -> int:
        return 2 * number

    async def wait(self, ctx: Context) -> str:
        self.began.append((ctx.node, ctx.attempt))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.stopped.append(ctx.node)
            raise
        return ctx.node

    async def count(self, ctx: Context) -> int:
        """Counts to two, a checkpoint at each step; waits before the second."""
        state = ctx.checkpoint_state or {"reached": 0}
        self.began.append((ctx.node, state["reached"]))
        if state["reached"] == 0:
            await ctx.checkpoint({"reached": 1})
            self.began.append((ctx.node, 1))
            await self.gate.wait()
        return int(state["reached"]) + 1


# --- work -------------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_one_node_runs_a_task() -> None:
    async with LocalMesh(Workshop().app) as mesh:
        handle = await mesh.submit("double", {"number": 21}, task_id="t1")
        assert (await handle.result(5), await mesh.result("t1", 5)) == (42, 42)
        with pytest.raises(Conflict):
            await mesh.submit("double", {"number": 22}, task_id="t1")


@on_a_loop
async def test_three_nodes_hold_the_same_and_share_the_work() -> None:
    """Thirty tasks wait at once, on three nodes, ten each; then all of them know the same results."""
    shop = Workshop()
    async with LocalMesh(shop.app, voters=TRIO) as mesh:
        handles = await mesh.client.map("wait", [{}] * 30)
        await mesh.until(lambda: len(shop.began) == 30)
        shop.gate.set()
        results = [await handle.result(5) for handle in handles]
        assert [results.count(name) for name in TRIO] == [10, 10, 10]
        leader = mesh.leader
        assert leader is not None
        last = leader.ledger.applied_index
        await mesh.until(lambda: all(mesh.node(name).ledger.applied_index >= last for name in TRIO))
        assert len({mesh.node(name).ledger.digest for name in TRIO}) == 1


@on_a_loop
async def test_what_is_asked_is_answered_with_documents() -> None:
    shop = Workshop()
    async with LocalMesh(shop.app) as mesh:
        await mesh.submit("nobody can", {}, task_id="t1")
        explanation, status = await mesh.ask(Question.EXPLAIN, "t1"), await mesh.ask(Question.STATUS)
        assert isinstance(explanation, Explanation) and explanation.reason == "no_capability"
        assert isinstance(status, Status) and [node.id for node in status.nodes] == ["n1"]
        assert isinstance(await mesh.ask(Question.TASK, "t1"), Task)
        assert isinstance(await mesh.ask(Question.RAFT), RaftStatus)
        with pytest.raises(NotFound):
            await mesh.ask(Question.TASK, "t2")


@on_a_loop
async def test_finished_tasks_are_found_when_they_have_left_memory() -> None:
    async with LocalMesh(Workshop().app) as mesh:
        for number in range(3):
            await (await mesh.submit("double", {"number": number}, task_id=f"t{number}")).result(5)
        await mesh.until(lambda: mesh.find("t0") is None and mesh.find("t2") is None)
        assert [task.spec.task_id for task in mesh.finished_tasks()] == ["t0", "t1", "t2"]
        assert [line.id for line in (await mesh.client.tasks(state="completed", limit=2)).tasks] == ["t0", "t1"]
        assert await mesh.result("t1", 5) == 2
        events = [event.event async for event in mesh.client.events()]
        assert events.count("task_completed") == 3


# --- handlers of every kind -------------------------------------------------------------------------------------------


@on_a_loop
async def test_plain_functions_run_on_threads_and_may_do_what_coroutines_do() -> None:
    """A plain function saves its state, submits a child and waits for it; the loop goes on meanwhile."""
    app = Mesh("threads")

    @app.task(capability="parent")
    def parent(ctx: Context) -> list[object]:
        ctx.checkpoint({"i": 1})
        ctx.checkpoint_sync({"i": 2})
        child = ctx.submit("child", {}, task_id=f"{ctx.task_id}/child")
        return [child.result(5), child.status(), ctx.checkpoint_state, threading.current_thread().name.split()[0]]

    @app.task(capability="child")
    async def child() -> str:
        return "grown"

    @app.task(capability="family")
    async def family(ctx: Context) -> object:
        handle = await ctx.submit("child", {})
        return await handle.result(5)

    async with LocalMesh(app) as mesh:
        assert await (await mesh.submit("parent", task_id="p")).result(5) == ["grown", "completed", {"i": 2}, "n1"]
        assert await (await mesh.submit("family")).result(5) == "grown"


@on_a_loop
async def test_whatever_a_handler_does_only_its_attempt_fails() -> None:
    app = Mesh("bad")

    @app.task(capability="raise")
    async def raises() -> None:
        raise ValueError("no\n  good")

    @app.task(capability="exit")
    async def leaves() -> None:
        raise SystemExit(3)

    @app.task(capability="cancel")
    async def cancels() -> None:
        raise asyncio.CancelledError

    @app.task(capability="object")
    def returns_an_object() -> object:
        return object()

    @app.task(capability="surrogate")
    def surrogate() -> None:
        raise ValueError("\ud800")

    async def error_of(mesh: LocalMesh, capability: str, payload: object = None) -> str:
        with pytest.raises(TaskFailed) as failed:
            await (await mesh.submit(capability, payload, max_attempts=1)).result(5)
        return failed.value.error

    async with LocalMesh(app) as mesh:
        assert await error_of(mesh, "raise") == "ValueError: no good"
        assert await error_of(mesh, "exit") == "SystemExit: 3"
        assert await error_of(mesh, "cancel") == "CancelledError"
        assert (await error_of(mesh, "object")).startswith("InvalidPayload: result cannot be sent")
        assert await error_of(mesh, "surrogate") == "ValueError: \\ud800"
        assert (await error_of(mesh, "raise", {"x": 1})).startswith("TypeError")
        assert len(mesh.live_tasks()) == 6 and mesh.finished_tasks() == []


@on_a_loop
async def test_a_cancelled_task_stops_running() -> None:
    shop = Workshop()
    async with LocalMesh(shop.app) as mesh:
        handle = await mesh.submit("wait", {})
        await mesh.until(lambda: shop.began == [("n1", 1)])
        await handle.cancel()
        await mesh.until(lambda: shop.stopped == ["n1"])
        with pytest.raises(TaskCancelled):
            await handle.result(5)


# --- nodes come and go ------------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_killed_leader_loses_nothing() -> None:
    """Whoever leads is killed with three tasks in hand; the two others run them all the same, and nothing twice."""
    shop = Workshop()
    async with LocalMesh(shop.app, voters=TRIO) as mesh:
        handles = await mesh.client.map("wait", [{}] * 9)
        await mesh.until(lambda: len(shop.began) == 9)
        assert mesh.leader is not None
        dead = mesh.leader.node_id
        mesh.kill(dead)
        await mesh.until(lambda: mesh.leader is not None)
        await mesh.until(lambda: len(shop.began) == 12)
        assert shop.stopped == [dead] * 3
        assert {node for node, _ in shop.began[9:]} == {*TRIO} - {dead}
        shop.gate.set()
        results = [await handle.result(5) for handle in handles]
        assert dead not in results
        mesh.restart(dead)
        await mesh.until(lambda: mesh.leader is not None and mesh.node(dead).ledger.digest == mesh.leader.ledger.digest)


@on_a_loop
async def test_a_node_that_falls_silent_is_noticed_by_its_silence() -> None:
    """worker stops answering with its cables in place. The next attempt goes on from its checkpoint, elsewhere."""
    shop, spare = Workshop(), Workshop()
    async with LocalMesh(heartbeat_interval_ms=50) as mesh:
        await mesh.add_node("worker", shop.app)
        handle = await mesh.submit("count", {}, task_id="t1")
        await mesh.until(lambda: shop.began == [("worker", 0), ("worker", 1)])
        await mesh.add_node("spare", spare.app)
        mesh.kill("worker", silent=True)
        assert not mesh.is_up("worker")
        assert await handle.result(5) == 2
        assert spare.began == [("spare", 1)]
        happened = [item.event for item in (await mesh.client.task("t1")).history]
        assert "task_lost" in happened and "task_reassigned" in happened


@on_a_loop
async def test_a_node_that_joins_has_no_vote_and_does_the_work() -> None:
    async with LocalMesh(voters=TRIO) as mesh:
        await mesh.add_node("worker", Workshop().app, slots=3, address="host1:8000")
        assert [candidate.node_id for candidate in mesh.candidates() if candidate.capabilities] == ["worker"]
        assert mesh.offer("worker") == (("double", "wait", "count"), 3)
        assert await (await mesh.submit("double", {"number": 4})).result(5) == 8
        raft = await mesh.client.raft_status(stale=False)
        assert [(peer.id, peer.address, peer.role) for peer in raft.peers if peer.role != "voter"] == [
            ("worker", "host1:8000", "learner")
        ]
        with pytest.raises(ValueError, match="founding"):
            await mesh.add_node("eva", Mesh("another"))


@on_a_loop
async def test_a_node_may_come_again_to_offer_something_else() -> None:
    async with LocalMesh() as mesh:
        await mesh.add_node("worker", Mesh("nothing yet"))
        await mesh.add_node("worker", Workshop().app, slots=2)
        assert await (await mesh.submit("double", {"number": 4})).result(5) == 8
        worker = mesh.node("worker").config
        assert (worker.incarnation, worker.slots) == (2, 2)


@on_a_loop
async def test_a_node_that_joins_late_is_sent_the_table() -> None:
    """The log is short: what stood at its beginning is only in the table by now, and the table comes in chunks."""
    bounds = DispatchConfig(log_tail_entries_max=8, ledger_flush_ms=20)
    async with LocalMesh(Workshop().app, dispatch=bounds) as mesh:
        for number in range(40):
            await (await mesh.submit("double", {"number": number})).result(5)
        await mesh.client.map("nobody can", [{}] * 300)
        await mesh.until(lambda: mesh.leader is not None and mesh.leader.raft.first_index > 20)
        await mesh.add_node("late", Workshop().app)
        late, leader = mesh.node("late"), mesh.leader
        assert leader is not None
        await mesh.until(lambda: late.ledger.digest == leader.ledger.digest)
        assert late.raft.first_index > 1
        assert len(late.ledger.tasks) == 300 and len(late.ledger.finished) == 40


@on_a_loop
async def test_a_client_outlives_every_node_it_spoke_to() -> None:
    """All three are down at once; a submit that waits is accepted once two are back."""
    async with LocalMesh(Workshop().app, voters=TRIO) as mesh:
        for name in TRIO:
            mesh.kill(name)
        submitting = asyncio.create_task(mesh.submit("double", {"number": 1}))
        mesh.restart("ana")
        mesh.restart("eva")
        assert await (await submitting).result(10) == 2


# --- beginning and end ------------------------------------------------------------------------------------------------


def test_nothing_runs_before_it_is_started() -> None:
    mesh = LocalMesh(Workshop().app)
    assert (mesh.freshest, mesh.leader, mesh.status(), mesh.find("t1")) == (None, None, None, None)
    assert (mesh.live_tasks(), mesh.finished_tasks(), mesh.candidates(), mesh.is_open) == ([], [], [], False)


def test_what_cannot_be_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="one voter"):
        LocalMesh(voters=0)
    with pytest.raises(ValueError, match="failure_threshold"):
        LocalMesh(failure_threshold=1)


def test_started_on_another_loop_the_mesh_goes_on_from_its_disks() -> None:
    """Each call gets an event loop of its own. What was accepted on the first is run on the second."""
    shop = Workshop()
    mesh = LocalMesh()

    async def begin() -> None:
        await mesh.start()
        await mesh.add_node("worker", shop.app)
        await mesh.submit("wait", {}, task_id="t1")
        await mesh.until(lambda: mesh.find("t1") is not None and shop.began == [("worker", 1)])
        task = mesh.find("t1")
        await mesh.until(lambda: task is not None and task.state == RUNNING)

    async def finish() -> str:
        shop.gate = asyncio.Event()
        shop.gate.set()
        result: str = await mesh.result("t1", 10)
        await mesh.close()
        return result

    asyncio.run(begin())
    assert asyncio.run(finish()) == "worker"
    assert shop.began == [("worker", 1), ("worker", 2)]


@on_a_loop
async def test_closed_it_can_be_looked_at_and_started_again() -> None:
    mesh = LocalMesh(Workshop().app)
    await mesh.close()
    await mesh.start()
    assert await (await mesh.submit("double", {"number": 1}, task_id="t1")).result(5) == 2
    await mesh.close()
    await mesh.close()
    assert (mesh.is_open, mesh.leader, [task.spec.task_id for task in mesh.finished_tasks()]) == (False, None, ["t1"])
    async with mesh:
        assert await mesh.result("t1", 5) == 2


def test_dropped_it_stops() -> None:
    """Nobody closed it. The machines stop all the same, what they ran is cancelled, and there is no warning."""
    shop = Workshop()

    async def story() -> None:
        mesh = LocalMesh(shop.app)
        await mesh.submit("wait", {})
        await mesh.until(lambda: len(shop.began) == 1)
        machines: list[Machine] = list(mesh._machines.values())
        del mesh
        gc.collect()
        async with asyncio.timeout(5):
            while any(machine.is_up for machine in machines) or not shop.stopped:
                await asyncio.sleep(0)

    asyncio.run(story())
    gc.collect()


def test_a_loop_that_ends_under_it_leaves_no_trace() -> None:
    shop = Workshop()

    async def story() -> None:
        mesh = LocalMesh(shop.app)
        await mesh.submit("wait", {})
        await mesh.until(lambda: len(shop.began) == 1)

    asyncio.run(story())
    gc.collect()
    assert shop.stopped == ["n1"]


@on_a_loop
async def test_two_that_start_it_at_once_start_it_once() -> None:
    mesh = LocalMesh(Workshop().app)
    await asyncio.gather(mesh.start(), mesh.start(), mesh.submit("double", {"number": 1}))
    assert mesh.node("n1").config.incarnation == 1
    await mesh.close()


@on_a_loop
async def test_waiting_ends_in_time_or_with_what_the_condition_raised() -> None:
    def wrong() -> bool:
        raise KeyError("t1")

    async with LocalMesh(heartbeat_interval_ms=50) as mesh:
        with pytest.raises(TimeoutError):
            await mesh.until(lambda: False, timeout=0.01)
        with pytest.raises(KeyError):
            await mesh.until(wrong)
        await mesh.until(lambda: True)


def test_a_broken_invariant_stops_its_node_and_is_told_at_the_end() -> None:
    told: list[object] = []

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
        mesh = LocalMesh()
        await mesh.start()
        mesh.node("n1").ledger.applied_index -= 1  # type: ignore[assignment]
        submitting = asyncio.create_task(mesh.submit("double", {}))
        await mesh.until(lambda: not mesh.is_up("n1"))
        submitting.cancel()
        with pytest.raises(AssertionError):
            await mesh.close()

    asyncio.run(story())
    assert [type(error) for error in told] == [AssertionError]
