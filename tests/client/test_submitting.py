"""What leaves when a task is submitted, and what became of it. ana submits, ben is the node."""

import os
from typing import Any

import pytest

from mesh import Key, Outcome, Retry
from mesh.client import BlockingMesh
from mesh.errors import InvalidPayload, NotFound, TaskCancelled, TaskFailed, TaskTimeout, Unschedulable
from mesh.ids import TaskId
from mesh.ledger.task import CANCELLED, COMPLETED, DEAD, FAILED
from mesh.messages import Action, TaskSpec
from mesh.options import Concurrency, Options
from mesh.wire.codec import encode
from tests.client.cast import Ben, play

SOURCE = f"pid {os.getpid()}"


def test_a_plain_submit_leaves_as_it_always_did() -> None:
    """No options, not even empty ones: any release of a node reads it."""

    async def story() -> None:
        ben = Ben()
        async with await ben.client() as ana:
            await ana.submit("code", {"n": 1}, task_id="t1")
            await ana.submit("code", task_id="t2", priority="low", max_attempts=7, timeout=5.0, delay=0)
            await ana.submit("code")
        assert ben.specs[:2] == [
            TaskSpec(TaskId("t1"), "code", encode({"n": 1}), 5, 3, 0, SOURCE),
            TaskSpec(TaskId("t2"), "code", encode(None), 8, 7, 0, SOURCE),
        ]
        assert (len(ben.specs[2].task_id), ben.specs[2].options) == (32, None)

    play(story)


def test_options_leave_with_the_task() -> None:
    async def story() -> None:
        ben = Ben()
        async with await ben.client() as ana:
            keyed = await ana.submit("code", {"user": "eva"}, key="o1", concurrency=Key("payload.user"), retry=Retry(7))
            await ana.submit("code", task_id="t2", at=1_790_000_000, retry=Retry(7), max_attempts=2)
            children = await ana.map("code", [1, 2], parent="t2")
            for wrong in ({"delay": "soon"}, {"max_attempts": 0}, {"concurrency": Key("payload.user")}):
                with pytest.raises(InvalidPayload):
                    await ana.submit("code", **wrong)
            with pytest.raises(TypeError, match="unexpected keyword argument 'prio'"):
                await ana.submit("code", prio=1)  # type: ignore[call-arg]
        options = Options(concurrency=Concurrency("code:user=eva", 1), window_ms=86_400_000)
        assert keyed.id == "code:o1"
        assert ben.specs == [
            TaskSpec(TaskId("code:o1"), "code", encode({"user": "eva"}), 5, 7, 0, SOURCE, options=options),
            TaskSpec(TaskId("t2"), "code", encode(None), 5, 2, 1_790_000_000_000, SOURCE),
            *(
                TaskSpec(TaskId(child.id), "code", encode(n), 5, 3, 0, SOURCE, options=Options(parent=TaskId("t2")))
                for n, child in enumerate(children, 1)
            ),
        ]

    play(story)


def test_what_became_of_a_task_without_an_exception() -> None:
    async def story() -> None:
        ben = Ben()
        ben.ending("done", COMPLETED, result={"n": 1})
        ben.ending("dead", DEAD, "ValueError: no", attempts=3)
        ben.ending("dropped", FAILED, "dropped", attempts=3)
        ben.ending("stopped", CANCELLED, "enough")
        ben.ending("homeless", DEAD, "unschedulable: no node offers 'code'")
        ben.ending("gone", -1)
        async with await ben.client() as ana:
            found: dict[str, Outcome] = {}
            for task_id in ("done", "dead", "dropped", "stopped", "homeless", "gone", "slow"):
                handle = await ana.submit("code", task_id=task_id)
                handle.unknown = 3  # ben has said often enough that there is no such task.
                found[task_id] = await handle.outcome(timeout=0.05 if task_id == "slow" else 10.0)
        assert found["done"] == Outcome(True, {"n": 1}, None, "completed")
        assert {name: (out.ok, out.value, out.state, type(out.error)) for name, out in found.items()} == {
            "done": (True, {"n": 1}, "completed", type(None)),
            "dead": (False, None, "dead", TaskFailed),
            "dropped": (False, None, "failed", TaskFailed),
            "stopped": (False, None, "cancelled", TaskCancelled),
            "homeless": (False, None, "dead", Unschedulable),
            "gone": (False, None, "", NotFound),
            "slow": (False, None, "", TaskTimeout),
        }

    play(story)


def test_a_task_that_found_no_node_is_a_failed_one_and_says_so() -> None:
    """`except TaskFailed` goes on to catch it."""

    async def story() -> None:
        ben = Ben()
        ben.ending("t1", DEAD, "unschedulable: no node offers 'code'")
        async with await ben.client() as ana:
            with pytest.raises(TaskFailed) as failed:
                await (await ana.submit("code", task_id="t1")).result(timeout=10.0)
        assert isinstance(failed.value, Unschedulable)
        assert str(failed.value) == "t1 found no node to run on in time: unschedulable: no node offers 'code'"
        assert (failed.value.error, failed.value.attempt) == ("unschedulable: no node offers 'code'", 0)

    play(story)


def test_the_blocking_twin_takes_and_says_the_same() -> None:
    bens: list[Ben] = []

    async def opened() -> Any:
        bens.append(Ben())
        bens[0].ending("code:o1", COMPLETED, result=1)
        return await bens[0].client()

    with BlockingMesh(opened) as ana:
        handle = ana.submit("code", key="o1", run_timeout="1m")
        assert handle.outcome(timeout=10.0) == Outcome(True, 1, None, "completed")
        handle.reprioritize("low")
        ana.reprioritize("t1", 3)
        ana.set("ageing_ms", 5)
        ana.strategy("random")
        ana.pause("code", "hot", until=5)
        ana.resume("code")
        ana.close_breaker("n1", "code")
        ana.set_cron("c", "* * * * *", "code", {"n": 1}, overlap="allow")
        ana.pause_cron("c")
        ana.resume_cron("c")
        ana.drop_cron("c")
        ana.retry("t1", {"n": 2})
        ben = bens[0]
        ben.body = {"count": 0, "ids": [], "dependents": [], "state": "cancelled"}
        touched = [ana.clear(5), ana.cancel_many(node="n1"), ana.retry_many(), ana.drop_many(capability="code")]
        assert [found.count for found in touched] == [0] * 4
        assert [Action(order.action).name.lower() for order in ben.orders] == [
            *(
                "reprioritize",
                "reprioritize",
                "set",
                "set",
                "pause",
                "resume",
                "close_breaker",
                "set_cron",
                "pause_cron",
                "resume_cron",
                "drop_cron",
            ),
            *("retry", "clear", "cancel_many", "retry_many", "drop_many"),
        ]
        for ask, body in (
            (ana.queues, {"queues": [], "by_priority": {}, "live": 0, "live_max": 1, "dead": 0, "dead_max": 1}),
            (ana.agents, {"strategy": "random", "agents": []}),
            (ana.crons, {"crons": []}),
            (ana.dead_letter_groups, {"groups": []}),
            (ana.settings, {"settings": {}, "level": 1}),
        ):
            ben.body = body
            assert encode(ask()) == encode(body)
