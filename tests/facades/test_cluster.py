"""S0's face, row by row. ana, ben and eva are agents; the mesh under them is real, and so is time.

Every story waits for what must come, never for a while. Names and defaults are S0's, to the letter.
"""

import asyncio
import dataclasses
import doctest
import gc
import inspect
import runpy
import time
import typing
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import pytest

from mesh.errors import Conflict, InvalidPayload, NotFound, Refused, TaskFailed
from mesh.facades import cluster as facade
from mesh.facades.cluster import AgentNode, DistributedAgentCluster, DistributedTask, NodeStatus
from mesh.ledger.task import PENDING, RUNNING
from mesh.messages import Question

Given = ParamSpec("Given")
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "s0_cluster.py"
BEAT_S = 0.05


def on_a_loop(story: Callable[Given, Awaitable[None]]) -> Callable[Given, None]:
    """An async story as a test, on an event loop of its own, with 20 seconds to end."""

    @wraps(story)
    def test(*args: Given.args, **kwargs: Given.kwargs) -> None:
        async def told() -> None:
            async with asyncio.timeout(20):
                await story(*args, **kwargs)

        asyncio.run(told())

    return test


def agent(name: str, *capabilities: str, max_tasks: int = 10) -> AgentNode:
    return AgentNode(name, "host1", 8000, list(capabilities or ("code",)), max_tasks=max_tasks)


def task(task_id: str, capability: str = "code", **fields: Any) -> DistributedTask:
    return DistributedTask(task_id, {"prompt": task_id}, capability, **fields)


class Office(DistributedAgentCluster):
    """A cluster whose agents write down what they begin, and wait to be let go on."""

    def __init__(self, heartbeat_interval: float = BEAT_S) -> None:
        super().__init__(heartbeat_interval)
        self.gate = asyncio.Event()
        self.began: list[tuple[str, str]] = []
        self.handler = self.work

    async def work(self, node: AgentNode, task: DistributedTask) -> str:
        self.began.append((node.node_id, task.task_id))
        await self.gate.wait()
        return f"{task.task_id} by {node.node_id}"

    async def until(self, condition: Callable[[], bool]) -> None:
        await self._mesh.until(condition)

    def is_running(self, task_id: str) -> bool:
        """Whether the mesh knows that the task's code runs, so that the attempt is charged."""
        found = self._mesh.find(task_id)
        return found is not None and found.state == RUNNING


# --- names ------------------------------------------------------------------------------------------------------------


def test_s0_16_node_status_has_four_values() -> None:
    assert [(status.name, status.value) for status in NodeStatus] == [
        ("HEALTHY", "healthy"),
        ("DEGRADED", "degraded"),
        ("FAILED", "failed"),
        ("RECOVERING", "recovering"),
    ]


def fields_of(kind: Any) -> list[tuple[str, object]]:
    hints = typing.get_type_hints(kind)
    return [(each.name, hints[each.name]) for each in dataclasses.fields(kind)]


def test_s0_17_agent_node_has_these_fields_in_this_order() -> None:
    assert fields_of(AgentNode) == [
        ("node_id", str),
        ("host", str),
        ("port", int),
        ("capabilities", typing.List[str]),  # noqa: UP006 - S0's own.
        ("status", NodeStatus),
        ("last_heartbeat", float),
        ("current_tasks", int),
        ("max_tasks", int),
        ("failure_count", int),
    ]
    before = time.time()
    node = AgentNode("n1", "host1", 8000, ["code", "search"])
    assert (node.status, node.current_tasks, node.max_tasks, node.failure_count) == (NodeStatus.HEALTHY, 0, 10, 0)
    assert before <= node.last_heartbeat <= time.time()


def test_s0_18_distributed_task_has_these_fields_in_this_order() -> None:
    assert [name for name, _ in fields_of(DistributedTask)] == [
        "task_id",
        "payload",
        "required_capability",
        "priority",
        "attempts",
        "max_attempts",
        "checkpointed_state",
    ]
    made = DistributedTask("t1", {"prompt": "write sort"}, "code")
    assert (made.priority, made.attempts, made.max_attempts, made.checkpointed_state) == (5, 0, 3, None)


def test_s0_19_to_28_the_methods_are_called_and_given_what_s0_says() -> None:
    def shape(name: str) -> tuple[list[tuple[str, object]], object, bool]:
        method = getattr(DistributedAgentCluster, name)
        signature = inspect.signature(method)
        given = [(each.name, each.default) for each in list(signature.parameters.values())[1:]]
        return given, signature.return_annotation, inspect.iscoroutinefunction(method)

    required = inspect.Parameter.empty
    assert shape("__init__") == ([("heartbeat_interval", 5.0), ("failure_threshold", 3)], None, False)
    assert shape("register_node") == ([("node", required)], None, True)
    assert shape("submit_task") == ([("task", required)], str, True)
    assert shape("dispatch_loop") == ([], None, True)
    assert shape("heartbeat_monitor") == ([], None, True)
    assert shape("recover_node") == ([("node_id", required)], bool, True)
    assert shape("rebalance") == ([], None, True)
    assert shape("_select_node") == ([("capability", required)], AgentNode | None, False)
    assert shape("checkpoint_task") == ([("task", required), ("state", required)], None, True)


# --- the example ------------------------------------------------------------------------------------------------------


def test_s0_15_the_example_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "t1"
    assert lines[1] == str({"t1": {"node": "n1", "capability": "code", "payload": {"prompt": "write sort"}}})


def test_s0_15_the_docstring_says_the_same() -> None:
    assert doctest.testmod(facade) == (0, 2)


@on_a_loop
async def test_s0_15_the_task_is_assigned_to_n1_and_its_result_stored() -> None:
    cluster = DistributedAgentCluster()
    await cluster.register_node(AgentNode("n1", "host1", 8000, ["code", "search"]))
    assert await cluster.submit_task(DistributedTask("t1", {"prompt": "write sort"}, "code")) == "t1"
    await cluster._mesh.until(lambda: "t1" in cluster.completed_tasks)
    assert cluster.completed_tasks["t1"]["node"] == "n1"
    await cluster.close()


# --- views (S0-20) ----------------------------------------------------------------------------------------------------


def test_s0_20_before_the_first_await_nothing_runs_and_everything_is_empty() -> None:
    cluster = DistributedAgentCluster()
    assert (cluster.nodes, cluster.completed_tasks, cluster.dead_letter_queue) == ({}, {}, [])
    assert (type(cluster.task_queue), cluster.task_queue.qsize()) == (asyncio.PriorityQueue, 0)
    assert cluster._select_node("code") is None
    assert not cluster._mesh.is_open


@on_a_loop
async def test_s0_20_nodes_are_the_registered_objects_as_the_mesh_sees_them() -> None:
    ana = agent("ana")
    async with Office() as office:
        await office.register_node(ana)
        await office.submit_task(task("t1"))
        await office.until(lambda: office.began == [("ana", "t1")])
        ana.status, ana.current_tasks = NodeStatus.FAILED, 7  # What somebody writes there is not what is.
        assert office.nodes == {"ana": ana} and office.nodes["ana"] is ana
        assert (ana.status, ana.current_tasks, ana.failure_count) == (NodeStatus.HEALTHY, 1, 0)
        assert abs(time.time() - ana.last_heartbeat) < 2
        office.gate.set()
        assert await office.result("t1", 5) == "t1 by ana"
        await office.until(lambda: office.nodes["ana"].current_tasks == 0)
        assert office.completed_tasks == {"t1": "t1 by ana"}
    assert office.completed_tasks == {"t1": "t1 by ana"}, "it can still be read when it is closed"


# --- nodes (S0-21) ----------------------------------------------------------------------------------------------------


@on_a_loop
async def test_s0_21_a_registered_node_is_a_node_of_the_mesh() -> None:
    async with Office() as office:
        await office.register_node(agent("ana", "code", "search", "code"))
        status = await office._mesh.ask(Question.STATUS)
        assert [(node.id, node.address, node.role, node.capabilities, node.slots) for node in status.nodes] == [
            ("ana", "host1:8000", "learner", ["code", "search"], 10),
            ("mesh", "mesh:0", "voter", [], 1),
        ]
        assert list(office.nodes) == ["ana"]


@on_a_loop
async def test_s0_21_registering_again_changes_what_is_offered_or_nothing() -> None:
    async with Office() as office:
        await office.register_node(agent("ana"))
        await office.register_node(agent("ana"))
        assert office._mesh.node("ana").config.incarnation == 1
        again = agent("ana", "search", max_tasks=2)
        await office.register_node(again)
        assert office._mesh.node("ana").config.incarnation == 2
        assert (office._select_node("search"), office._select_node("code")) == (again, None)


@pytest.mark.parametrize(
    "node",
    [
        agent("mesh"),
        agent(""),
        agent("ana", ""),
        agent("ana", max_tasks=-1),
        AgentNode("ana", "host1", 8000, typing.cast(list[str], "code")),
    ],
    ids=["name taken", "no name", "empty capability", "negative", "text for a list"],
)
@on_a_loop
async def test_s0_21_a_node_that_cannot_be_is_refused(node: AgentNode) -> None:
    cluster = DistributedAgentCluster()
    with pytest.raises(InvalidPayload):
        await cluster.register_node(node)
    assert not cluster._mesh.is_open


# --- tasks (S0-22, S0-12, S0-14) --------------------------------------------------------------------------------------


@on_a_loop
async def test_s0_22_a_submitted_task_is_committed_and_queued() -> None:
    """Nobody can run it yet. When submit_task returns it is in the log, and in the queue; and it runs as soon as ana
    is there.
    """
    async with Office() as office:
        first = task("t1")
        assert await office.submit_task(first) == "t1"
        found = office._mesh.find("t1")
        assert found is not None and found.state == PENDING
        queue = office.task_queue
        priority, _, waiting = queue.get_nowait()
        assert (priority, waiting) == (5, first) and waiting is first and queue.empty()
        assert office.task_queue.qsize() == 1, "looking takes nothing away"
        office.gate.set()
        await office.register_node(agent("ana"))
        assert await office.result("t1", 5) == "t1 by ana"
        assert office.task_queue.empty()


@on_a_loop
async def test_s0_22_the_same_task_again_is_the_same_task() -> None:
    async with Office() as office:
        office.gate.set()
        await office.register_node(agent("ana"))
        assert [await office.submit_task(task("t1")) for _ in range(3)] == ["t1"] * 3
        assert await office.result("t1", 5) == "t1 by ana"
        assert await office.submit_task(task("t1")) == "t1"
        assert office.began == [("ana", "t1")]
        with pytest.raises(Conflict):
            await office.submit_task(DistributedTask("t1", {"another": 1}, "code"))


@pytest.mark.parametrize(
    "wrong",
    [
        DistributedTask("t1", {"no": object()}, "code"),
        DistributedTask("t1", typing.cast(dict[str, Any], [1]), "code"),
        DistributedTask("t1", {}, ""),
        DistributedTask("", {}, "code"),
        task("t1", priority="high"),
        task("t1", max_attempts=0),
        task("t1", checkpointed_state={"no": {1}}),
    ],
    ids=["object", "list", "no capability", "no id", "priority", "attempts", "checkpoint"],
)
@on_a_loop
async def test_s0_22_what_cannot_be_sent_is_refused_and_never_queued(wrong: DistributedTask) -> None:
    async with Office() as office:
        with pytest.raises(InvalidPayload):
            await office.submit_task(wrong)
        assert office.task_queue.empty()


@on_a_loop
async def test_s0_12_a_lower_priority_number_goes_first_and_equals_in_order() -> None:
    """ana does one thing at a time. Of five that wait, two are equal in priority (S0's own queue would have raised)."""
    async with Office() as office:
        await office.register_node(agent("ana", max_tasks=1))
        await office.submit_task(task("first"))
        await office.until(lambda: office.began == [("ana", "first")])
        for name, priority in [("late", 9), ("b", 5), ("c", 5), ("urgent", 1), ("negative", -1)]:
            await office.submit_task(task(name, priority=priority))
        queue = office.task_queue
        queued = [queue.get_nowait()[2].task_id for _ in range(queue.qsize())]
        assert queued == ["negative", "urgent", "b", "c", "late"]
        office.gate.set()
        for name in queued:
            await office.result(name, 5)
        assert [name for _, name in office.began] == ["first", *queued]
        assert list(office.completed_tasks) == ["first", *queued]


@on_a_loop
async def test_s0_14_a_task_that_fails_max_attempts_times_is_a_dead_letter_with_all_its_fields() -> None:
    tried: list[int] = []

    async def fails(node: AgentNode, task: DistributedTask) -> None:
        tried.append(task.attempts)
        if len(tried) == 1:
            await cluster.checkpoint_task(task, {"reached": 1})
        raise ValueError("no good")

    async with DistributedAgentCluster(BEAT_S) as cluster:
        cluster.handler = fails
        await cluster.register_node(agent("ana"))
        kept = DistributedTask("t1", {"prompt": "x"}, "code", 7, max_attempts=2)
        await cluster.submit_task(kept)
        with pytest.raises(TaskFailed, match="no good"):
            await cluster.result("t1", 10)
        expected = DistributedTask("t1", {"prompt": "x"}, "code", 7, 2, 2, {"reached": 1})
        assert cluster.dead_letter_queue == [expected] and cluster.dead_letter_queue[0] is kept
        del kept
        gc.collect()
        assert cluster.dead_letter_queue == [expected], "the mesh knows it by itself"
        assert (tried, cluster.completed_tasks, cluster.task_queue.empty()) == ([1, 2], {}, True)


# --- loops (S0-23, S0-24) ---------------------------------------------------------------------------------------------


@on_a_loop
async def test_s0_23_24_the_loops_start_the_mesh_and_run_until_they_are_cancelled() -> None:
    """S0's programs keep them in the background. Nothing depends on it: dispatching goes on when one is cancelled."""
    office = Office()
    office.gate.set()
    loops = [asyncio.create_task(loop()) for loop in (office.dispatch_loop, office.heartbeat_monitor)]
    await office.register_node(agent("ana"))
    await office.submit_task(task("t1"))
    assert await office.result("t1", 5) == "t1 by ana"
    assert not any(loop.done() for loop in loops)
    loops[0].cancel()
    await asyncio.gather(loops[0], return_exceptions=True)
    assert loops[0].cancelled()
    await office.submit_task(task("t2"))
    assert await office.result("t2", 5) == "t2 by ana"
    await office.close()
    await loops[1]


@on_a_loop
async def test_s0_24_a_dead_node_is_noticed_in_time_and_its_tasks_run_elsewhere() -> None:
    """S0-08, S0-09, S0-30: three heartbeats of 50 ms, and a slow machine's slack; then ben takes over within 5 s."""
    async with Office() as office:
        await office.register_node(agent("ana"))
        for name in ("t1", "t2"):
            await office.submit_task(task(name))
        await office.until(lambda: office.is_running("t1") and office.is_running("t2"))
        await office.register_node(agent("ben"))
        failed_s = time.monotonic()
        office.fail_node("ana")
        await office.until(lambda: office.nodes["ana"].status is NodeStatus.FAILED)
        assert time.monotonic() - failed_s <= 3 * BEAT_S + 0.35
        office.gate.set()
        assert [await office.result(name, 5) for name in ("t1", "t2")] == ["t1 by ben", "t2 by ben"]
        assert (office.nodes["ana"].failure_count, office.nodes["ana"].current_tasks) == (1, 0)
        at = {event.event: event.at async for event in office._mesh.client.events()}
        assert 0 <= at["task_reassigned"] - at["node_failed"] < 5_000


@on_a_loop
async def test_s0_24_a_failed_node_that_is_registered_again_recovers() -> None:
    """S0-03: from failed to healthy, by way of recovering, without an order."""
    async with Office() as office:
        office.gate.set()
        ana = agent("ana")
        await office.register_node(ana)
        office.fail_node("ana")
        await office.until(lambda: office.nodes["ana"].status is NodeStatus.FAILED)
        assert office._select_node("code") is None
        await office.register_node(ana)
        assert (office.nodes["ana"].status, ana.failure_count) == (NodeStatus.HEALTHY, 1)
        await office.submit_task(task("t1"))
        assert await office.result("t1", 5) == "t1 by ana"


# --- recovery and balance (S0-25, S0-26, S0-27, S0-29) ----------------------------------------------------------------


@on_a_loop
async def test_s0_25_recovering_a_node_gives_its_tasks_to_others_as_often_as_it_is_asked() -> None:
    async with Office() as office:
        await office.register_node(agent("ana"))
        await office.submit_task(task("t1"))
        await office.until(lambda: office.began == [("ana", "t1")])
        await office.register_node(agent("ben"))
        office.fail_node("ana")
        assert await office.recover_node("ana") is True, "before its silence was noticed"
        await office.until(lambda: office.began == [("ana", "t1"), ("ben", "t1")])
        await office.until(lambda: office.nodes["ana"].status is NodeStatus.FAILED)
        before = office.nodes["ana"].failure_count
        assert [await office.recover_node("ana") for _ in range(2)] == [True, True]
        assert (office.nodes["ana"].failure_count, office.began[2:]) == (before, [])
        assert await office.recover_node("nobody") is False
        assert await office.recover_node("mesh") is False


@on_a_loop
async def test_s0_26_rebalancing_burns_no_attempt() -> None:
    """All ten tasks are ana's when ben comes. However they are moved, each ends once and is charged once."""
    async with Office() as office:
        await office.register_node(agent("ana"))
        for number in range(10):
            await office.submit_task(task(f"t{number}"))
        await office.register_node(agent("ben"))
        await office.rebalance()
        office.gate.set()
        for number in range(10):
            await office.result(f"t{number}", 5)
        assert {found.attempts for found in office._mesh.finished_tasks()} == {1}


@on_a_loop
async def test_s0_27_the_least_loaded_healthy_node_with_the_capability_is_chosen_and_equals_take_turns() -> None:
    async with Office() as office:
        ana, ben, eva = agent("ana", "code"), agent("ben", "code", "search"), agent("eva", "code")
        for node in (ana, ben, eva):
            await office.register_node(node)
        assert [office._select_node("code") for _ in range(4)] == [ana, ben, eva, ana]
        assert office._select_node("search") is ben
        assert office._select_node("cook") is None
        await office.submit_task(task("t1", "search"))
        await office.until(lambda: office.began == [("ben", "t1")])
        assert {node.node_id for node in map(office._select_node, ["code"] * 6) if node} == {"ana", "eva"}


@on_a_loop
async def test_s0_29_a_node_never_has_more_than_max_tasks() -> None:
    async with Office() as office:
        await office.register_node(agent("ana", max_tasks=3))
        await office.register_node(agent("ben", max_tasks=0))
        for number in range(7):
            await office.submit_task(task(f"t{number}"))
        await office.until(lambda: len(office.began) == 3)
        assert (office.nodes["ana"].current_tasks, office.task_queue.qsize()) == (3, 4)
        assert office._select_node("code") is None
        office.gate.set()
        results = [await office.result(f"t{number}", 5) for number in range(7)]
        assert results == [f"t{number} by ana" for number in range(7)]


# --- checkpoints (S0-28, S0-05) ---------------------------------------------------------------------------------------


@on_a_loop
async def test_s0_28_the_next_attempt_goes_on_from_the_checkpoint() -> None:
    found: list[tuple[str, object]] = []
    gate = asyncio.Event()

    async def counts(node: AgentNode, task: DistributedTask) -> int:
        found.append((node.node_id, task.checkpointed_state))
        if task.checkpointed_state is None:
            await cluster.checkpoint_task(task, {"reached": 7})
            found.append((node.node_id, task.checkpointed_state))
            await gate.wait()
        assert task.checkpointed_state is not None
        return int(task.checkpointed_state["reached"])

    async with DistributedAgentCluster(BEAT_S) as cluster:
        cluster.handler = counts
        await cluster.register_node(agent("ana"))
        await cluster.submit_task(task("t1"))
        await cluster._mesh.until(lambda: found == [("ana", None), ("ana", {"reached": 7})])
        await cluster.register_node(agent("ben"))
        cluster.fail_node("ana")
        assert await cluster.result("t1", 5) == 7
        assert found[2:] == [("ben", {"reached": 7})]


@on_a_loop
async def test_s0_28_an_attempt_that_was_given_up_saves_nothing_any_more() -> None:
    """ana's attempt is taken away, and it will not hear of it. What it wants kept then is refused, under its token."""
    told: list[str] = []
    gate = asyncio.Event()

    async def stubborn(node: AgentNode, task: DistributedTask) -> object:
        if node.node_id == "ben":
            await gate.wait()
            return task.checkpointed_state
        try:
            await gate.wait()
        except asyncio.CancelledError:
            try:
                await cluster.checkpoint_task(task, {"from": "the past"})
            except Refused:
                told.append("refused")
        return None

    async with DistributedAgentCluster(BEAT_S) as cluster:
        cluster.handler = stubborn
        await cluster.register_node(agent("ana"))
        await cluster.submit_task(task("t1"))
        await cluster._mesh.until(lambda: cluster.nodes["ana"].current_tasks == 1)
        await cluster.register_node(agent("ben"))
        await cluster._mesh.client.drain("ana")
        await cluster.recover_node("ana")
        await cluster._mesh.until(lambda: told == ["refused"])
        gate.set()
        assert await cluster.result("t1", 5) is None


@on_a_loop
async def test_s0_28_a_checkpoint_may_be_saved_from_outside_while_an_attempt_runs() -> None:
    async with Office() as office:
        mine = task("t1")
        await office.submit_task(mine)
        with pytest.raises(NotFound):
            await office.checkpoint_task(mine, {"by": "eva"})
        assert dataclasses.asdict(mine)["checkpointed_state"] is None
        await office.register_node(agent("ana"))
        await office.until(lambda: office.began == [("ana", "t1")])
        await office.checkpoint_task(mine, {"by": "eva"})
        assert mine.checkpointed_state == {"by": "eva"}
        assert (await office._mesh.client.task("t1")).checkpoint == {"by": "eva"}
        with pytest.raises(InvalidPayload):
            await office.checkpoint_task(mine, {"no": object()})


@on_a_loop
async def test_s0_18_a_task_may_be_submitted_with_a_checkpoint() -> None:
    async def echo_state(node: AgentNode, task: DistributedTask) -> object:
        return task.checkpointed_state

    async with DistributedAgentCluster() as cluster:
        cluster.handler = echo_state
        await cluster.register_node(agent("ana"))
        await cluster.submit_task(task("t1", checkpointed_state={"reached": 3}))
        assert await cluster.result("t1", 5) == {"reached": 3}


# --- beginning and end ------------------------------------------------------------------------------------------------


@on_a_loop
async def test_what_a_handler_is_given_is_its_own() -> None:
    """It sees the task as submitted and its own node; what it writes into the task reaches nobody."""
    seen: list[object] = []

    async def meddles(node: AgentNode, task: DistributedTask) -> None:
        seen.append((node is ana, dataclasses.asdict(task)))
        task.payload["prompt"] = "mine"
        task.task_id = "t2"

    ana, mine = agent("ana"), task("t1", priority=2, max_attempts=1)
    async with DistributedAgentCluster() as cluster:
        cluster.handler = meddles
        await cluster.register_node(ana)
        await cluster.submit_task(mine)
        assert await cluster.result("t1", 5) is None
        assert seen == [(True, dataclasses.asdict(DistributedTask("t1", {"prompt": "t1"}, "code", 2, 1, 1, None)))]
        assert mine.payload == {"prompt": "t1"}


def test_each_call_may_have_a_loop_of_its_own() -> None:
    """A program without an event loop of its own runs each call for itself. Nothing is forgotten in between."""
    cluster = DistributedAgentCluster(BEAT_S)
    asyncio.run(cluster.register_node(agent("ana")))
    assert asyncio.run(cluster.submit_task(task("t1"))) == "t1"

    async def finish() -> None:
        assert (await cluster.result("t1", 10))["node"] == "ana"
        await cluster.close()

    asyncio.run(finish())
    assert list(cluster.completed_tasks) == ["t1"]


def test_dropped_in_the_middle_it_stops_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody closes it, and a task runs: once with the loop ending under it, once with the last reference gone."""

    async def leave_it() -> None:
        office = Office()
        await office.register_node(agent("ana"))
        await office.submit_task(task("t1"))
        await office.until(lambda: office.began == [("ana", "t1")])

    async def drop_it() -> None:
        cluster = DistributedAgentCluster()
        await cluster.register_node(agent("ana"))
        machines = list(cluster._mesh._machines.values())
        del cluster
        gc.collect()
        while any(machine.is_up for machine in machines):
            await asyncio.sleep(0)

    for story in (leave_it, drop_it):
        asyncio.run(asyncio.wait_for(story(), 10))
        gc.collect()
    assert caplog.records == []


def test_an_interval_is_50_ms_at_least_and_a_threshold_2() -> None:
    cluster = DistributedAgentCluster(heartbeat_interval=0.001, failure_threshold=2)
    assert (cluster._mesh._gossip.heartbeat_interval_ms, cluster._mesh._gossip.failure_threshold) == (50, 2)
    assert (cluster.heartbeat_interval, cluster.failure_threshold) == (0.001, 2)
    assert DistributedAgentCluster()._mesh._gossip.heartbeat_interval_ms == 5_000
    with pytest.raises(ValueError, match="failure_threshold"):
        DistributedAgentCluster(failure_threshold=1)
