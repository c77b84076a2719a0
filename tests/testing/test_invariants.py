"""Invariants bite: whoever tampers with a table, a log or a result is told so, with the task's id. S0-29, S1-43."""

from collections.abc import Callable

import pytest

import mesh.testing
from mesh.errors import TaskFailed
from mesh.ids import FencingToken, LogIndex, NodeId, TaskId
from mesh.ledger.task import CANCELLED, Happening, Kind
from mesh.testing import VirtualMesh
from mesh.wire.codec import encode
from tests.testing.workshop import Workshop, on_a_loop

T1, T2 = TaskId("t1"), TaskId("t2")


def lose_a_task(m: VirtualMesh) -> None:
    del m.node("n2").ledger.tasks[T2]


def forge_a_result(m: VirtualMesh) -> None:
    task = m.node(str(m.leader)).ledger.changed[T1]
    task.result = encode("forged")


def undo_an_end(m: VirtualMesh) -> None:
    m.node(str(m.leader)).ledger.changed[T1].state = CANCELLED


def end_it_again(m: VirtualMesh) -> None:
    happened(m, Kind.TASK_CANCELLED, T1, token=4)


def complete_it_late(m: VirtualMesh) -> None:
    happened(m, Kind.TASK_COMPLETED, T2, token=1)


def grant_it_backwards(m: VirtualMesh) -> None:
    happened(m, Kind.TASK_DISPATCHED, T2, token=1)


def another_log(m: VirtualMesh) -> None:
    ledger = m.node(next(node for node in m.nodes if node != m.leader)).ledger
    ledger.digests[ledger.applied_index] = b"another"


def another_table(m: VirtualMesh) -> None:
    m.node(next(node for node in m.nodes if node != m.leader)).ledger.tasks[T2].attempts = 7


def hear_of_another_table(m: VirtualMesh) -> None:
    m.node("n1").count("tables_differ")


def happened(m: VirtualMesh, kind: Kind, task_id: TaskId, token: int) -> None:
    ledger = m.node(str(m.leader)).ledger
    index = LogIndex(ledger.applied_index)
    one = Happening(index, ledger.at_ms, kind, NodeId("n1"), task_id, 1, FencingToken(token), "")
    ledger.event_batches.append((index, [one]))


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (lose_a_task, r"t2, accepted at log index \d+, is lost: n2 has no such task"),
        (forge_a_result, r"a client was told another result of t1 than the table has\n"
         r"t1 has a result that its attempt under token \d+ on n\d did not come to"),
        (undo_an_end, "a client was told that t1 is completed, and it is cancelled"),
        (end_it_again, r"t1 has two outcomes: completed at log index \d+, cancelled at \d+"),
        (complete_it_late, r"t2 was completed under token 1, which is stale: the latest is \d+"),
        (grant_it_backwards, r"t2 was granted under token 1 after token \d+"),
        (another_log, r"n\d and n\d have applied different logs up to index \d+"),
        (another_table, r"n\d and n\d disagree about t2 at log index \d+"),
        (hear_of_another_table, "n1 has heard of another table than its own"),
    ],
)  # fmt: skip
def test_a_tampered_mesh_is_found_out(tamper: Callable[[VirtualMesh], None], sentence: str) -> None:
    @on_a_loop
    async def story() -> None:
        async with mesh.testing.local(Workshop().app, nodes=3) as m:
            await m.submit("wait", task_id="t2")
            await m.advance("1s")
            await (await m.submit("double", {"number": 3}, task_id="t1"))
            await m.advance("320ms")  # Everybody has heard of it, and it is not on disk yet.
            m.assert_invariants()
            tamper(m)
            with pytest.raises(AssertionError, match=sentence):
                m.assert_invariants()

    story()


@on_a_loop
async def test_a_node_that_broke_is_told_at_once_and_at_the_end() -> None:
    told: list[str] = []
    m = mesh.testing.local(Workshop().app, nodes=3)
    await m.start()
    m.loop.set_exception_handler(lambda loop, context: told.append(type(context["exception"]).__name__))
    m.node(str(m.leader)).ledger.applied_index -= 1  # type: ignore[assignment]
    assert await (await m.submit("double", {"number": 1})) == 2
    with pytest.raises(AssertionError, match="broke of its own accord: AssertionError"):
        m.assert_invariants()
    with pytest.raises(AssertionError, match="applied after"):
        await m.close()
    assert told == ["AssertionError"]


@on_a_loop
async def test_what_ends_may_be_forgotten_and_come_again() -> None:
    """An id that is submitted once more after its end is a new task, and so may end once more."""
    async with mesh.testing.local(Workshop().app, nodes=1) as m:
        await (await m.submit("double", {"number": 3}, task_id="t1"))
        node = m.node("n1")
        node.ledger.finished.pop(T1)
        m.assert_invariants()
        happened(m, Kind.TASK_SUBMITTED, T1, token=0)
        happened(m, Kind.TASK_CANCELLED, T1, token=0)
        m.assert_invariants()


@on_a_loop
async def test_a_dead_letter_may_go_on() -> None:
    """A client that was told of a dead letter was told the truth, whatever becomes of it later."""
    async with mesh.testing.local(Workshop().app, nodes=3) as m:
        handle = await m.submit("fails_once", task_id="t1", max_attempts=1)
        with pytest.raises(TaskFailed, match="not yet"):
            await handle
        await m.client.drop("t1", "no use")
        m.assert_invariants()
        assert m.task("t1").state == "failed"


def test_before_it_has_started_nothing_is_broken() -> None:
    mesh.testing.local(Workshop().app, nodes=3).assert_invariants()
