"""A handler alone: one attempt by hand, and a crash at each of its checkpoints."""

import asyncio
import threading
from typing import Any

import pytest

from mesh import Context, Mesh
from mesh.errors import InvalidPayload
from mesh.testing import Stuck, crash_at_each_checkpoint, run_once
from mesh.testing.handlers import Crashed

app = Mesh("alone")


@app.task(capability="sum")
async def total(ctx: Context, numbers: list[int]) -> int:
    """One number a minute, a checkpoint after each."""
    state = ctx.checkpoint_state or {"next": 0, "sum": 0}
    for number in numbers[state["next"] :]:
        await asyncio.sleep(60)
        state = {"next": state["next"] + 1, "sum": state["sum"] + number}
        await ctx.checkpoint(state)
    return int(state["sum"])


def plain_total(ctx: Context, numbers: list[int]) -> int:
    state = ctx.checkpoint_state or [0, 0]
    while state[0] < len(numbers):
        state = [state[0] + 1, state[1] + numbers[state[0]]]
        ctx.checkpoint(state) if state[0] % 2 else ctx.checkpoint_sync(state)
    return int(state[1])


def forgetful(ctx: Context) -> int:
    """Counts what it did since it began, and not what was done before."""
    done = 0
    for step in range(ctx.checkpoint_state or 0, 3):
        done += 1
        ctx.checkpoint(step + 1)
    return done


def test_one_attempt_by_hand() -> None:
    ran = run_once(total, {"numbers": [1, 2, 3]})
    assert ran == (6, [{"next": 1, "sum": 1}, {"next": 2, "sum": 3}, {"next": 3, "sum": 6}])
    result, checkpoints = run_once(total, {"numbers": [1, 2, 3]}, attempt=2, checkpoint={"next": 2, "sum": 30})
    assert (result, checkpoints) == (33, [{"next": 3, "sum": 33}])
    assert run_once(lambda: (1, 2)) == ([1, 2], [])
    assert run_once(lambda ctx: [ctx.task_id, ctx.attempt, ctx.token], attempt=3, task_id="t9").result == ["t9", 3, 3]
    assert run_once(len, "four") == (4, [])


def test_what_could_not_travel_is_refused_and_what_is_raised_is_raised() -> None:
    def fails() -> None:
        raise KeyError("t1")

    with pytest.raises(InvalidPayload, match="result cannot be sent"):
        run_once(object)
    with pytest.raises(InvalidPayload, match="payload cannot be sent"):
        run_once(len, object())
    with pytest.raises(KeyError):
        run_once(fails)


def test_an_attempt_by_hand_is_not_in_a_mesh_and_must_end() -> None:
    async def submits(ctx: Context) -> None:
        await ctx.submit("sum")

    async def blocks(ctx: Context) -> None:
        ctx.checkpoint_sync(1)

    async def forever() -> None:
        await asyncio.Event().wait()

    async def for_days() -> None:
        await asyncio.sleep(200_000)

    with pytest.raises(RuntimeError, match="nowhere to submit to"):
        run_once(submits)
    with pytest.raises(RuntimeError, match="would block the event loop"):
        run_once(blocks)
    with pytest.raises(Stuck, match="for forever to end"):
        run_once(forever)
    with pytest.raises(Stuck, match=r"waited 1 h of the mesh's time \(0\.. s of real time\) for for_days to end\."):
        run_once(for_days)


def test_a_coroutine_is_tried_where_a_loop_runs_too_and_leaves_nothing_behind() -> None:
    ended: list[str] = []

    async def leaves_a_task() -> str:
        async def lingers() -> None:
            try:
                await asyncio.sleep(1_000)
            finally:
                ended.append(threading.current_thread().name)

        task = asyncio.ensure_future(lingers())
        await asyncio.sleep(0)
        assert not task.done()
        return "done"

    async def story() -> None:
        assert run_once(leaves_a_task).result == "done"
        with pytest.raises(TypeError):
            run_once(leaves_a_task, {"no": "such argument"})

    asyncio.run(story())
    run_once(leaves_a_task)
    assert ended == ["leaves_a_task", threading.current_thread().name]


@pytest.mark.parametrize("handler", [total, total.handler, plain_total], ids=["task", "coroutine", "plain"])
def test_a_handler_that_keeps_its_place_survives_every_crash(handler: Any) -> None:
    """S0-28: from each checkpoint on it comes to the same."""
    assert crash_at_each_checkpoint(handler, {"numbers": [5, 6, 7]}) == [18, 18, 18, 18]


def test_one_that_forgets_is_told_where() -> None:
    sentence = r"forgetful crashed after checkpoint 1 of 3, 1, and went on from it to 2; undisturbed it came to 3"
    with pytest.raises(AssertionError, match=sentence):
        crash_at_each_checkpoint(forgetful)


def test_without_a_checkpoint_or_a_crash_there_is_nothing_to_learn() -> None:
    async def deaf(ctx: Context) -> str:
        try:
            await ctx.checkpoint(1)
        except Crashed:
            pass
        return "still here"

    with pytest.raises(AssertionError, match="keeps no checkpoint: there is nothing to crash at"):
        crash_at_each_checkpoint(len, [1])
    with pytest.raises(AssertionError, match="did not crash at checkpoint 1 of 1: it caught the crash, or kept fewer"):
        crash_at_each_checkpoint(deaf)
