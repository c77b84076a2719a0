"""The table as a whole: the same log makes the same table, and it can be put down and taken up again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh import config
from mesh.ids import FencingToken, LogIndex, NodeId, TaskId
from mesh.ledger import table as table_module
from mesh.ledger.commands import (
    AdmitNode,
    Batch,
    CancelTask,
    Command,
    CompleteTask,
    DropDeadLetter,
    FailAttempt,
    FailNode,
    GrantLease,
    RedriveTask,
    ReleaseLease,
    SaveCheckpoint,
    StartTask,
    SubmitTask,
)
from mesh.ledger.intake import whole
from mesh.ledger.ledger import Ledger
from mesh.ledger.retry import backoff_ms
from mesh.ledger.task import DEAD, DISPATCHED, FINISHED, RUNNING
from mesh.ledger.transitions import TRANSITIONS, diagram
from mesh.messages import TaskSpec
from mesh.node.behind import row
from mesh.wire.codec import decode_summary, decode_task, encode
from tests.ledger.cast import ANA, RESIZE, TERM, Log, complete, fail, grant, submit, with_nodes

NAMES = [TaskId(name) for name in "abcd"]
NODES = [NodeId("ana"), NodeId("ben")]
TOKENS = st.integers(0, 40).map(FencingToken)
TASKS = st.sampled_from(NAMES)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(lambda t, p: SubmitTask(TaskSpec(t, "image", p, max_attempts=2)), TASKS, st.sampled_from([b"1", b"2"])),
    st.builds(GrantLease, TASKS, st.sampled_from(NODES)),
    st.builds(StartTask, TASKS, TOKENS),
    st.builds(SaveCheckpoint, TASKS, TOKENS, st.integers(1, 3), st.just(b"s")),
    st.builds(CompleteTask, TASKS, TOKENS, st.just(b"r")),
    st.builds(FailAttempt, TASKS, TOKENS, st.just("e"), st.just("d"), st.integers(0, 100), st.booleans()),
    st.builds(ReleaseLease, TASKS, TOKENS, st.just("why")),
    st.builds(CancelTask, TASKS, st.just("why")),
    st.builds(RedriveTask, TASKS),
    st.builds(DropDeadLetter, TASKS, st.just("why")),
    st.builds(AdmitNode, st.sampled_from(NODES), st.integers(1, 3)),
    st.builds(FailNode, st.sampled_from(NODES), st.integers(1, 3), st.just("why")),
)
HISTORY = st.lists(st.lists(COMMANDS, min_size=1, max_size=5), max_size=40)


def check(ledger: Ledger, seen: dict[TaskId, int], ended: dict[TaskId, int]) -> None:
    """What holds of any table after any log."""
    assert sum(ledger.counts) == len(ledger.tasks) + ledger.finished_count
    for state, count in enumerate(ledger.counts):
        live = sum(1 for task in ledger.tasks.values() if task.state == state)
        assert count == live or state in FINISHED
    held = {task_id for leases in ledger.leases.values() for task_id in leases}
    leased = {task_id for task_id, task in ledger.tasks.items() if task.state in (DISPATCHED, RUNNING)}
    assert held == leased
    for task_id, task in ledger.tasks.items():
        assert task.spec.max_attempts >= task.attempts >= 0
        assert task_id not in ledger.finished
        seen[task_id] = max(seen.get(task_id, 0), task.token)
    for task_id in ledger.finished:
        assert ended.setdefault(task_id, ledger.finished[task_id]) == ledger.finished[task_id]


@settings(max_examples=300, deadline=None)
@given(HISTORY)
def test_whatever_the_log_says_the_table_stays_sound_and_two_tables_agree(history: list[list[Command]]) -> None:
    """Any commands in any order, sensible or not: counts are conserved, leases have one holder, what ended stays so."""
    one, two = Ledger(), Ledger()
    seen: dict[TaskId, int] = {}
    ended: dict[TaskId, int] = {}
    for position, commands in enumerate(history):
        index = LogIndex(position + 1)
        batch = Batch(1_000 * index, commands)
        data = encode(batch)
        first = one.apply(index, TERM, batch, data)
        second = two.apply(index, TERM, batch, data)
        assert (first.outcomes, one.digest) == (second.outcomes, two.digest)
        check(one, seen, ended)
        if position % 3 == 0:
            one.take_changes()


@settings(max_examples=100, deadline=None)
@given(HISTORY, st.integers(0, 40))
def test_a_table_put_down_and_taken_up_again_goes_on_the_same(history: list[list[Command]], pause: int) -> None:
    """Write the rows behind, restore from them in another process, apply the rest: nobody can tell."""
    through, before = Ledger(), Ledger()
    rows: dict[TaskId, bytes] = {}
    finished: list[tuple[TaskId, int]] = []
    ledger = before
    for position, commands in enumerate(history):
        if position == min(pause, len(history) - 1):
            for task in before.take_changes().tasks:
                stored = row(task)
                rows.pop(task.task_id, None)
                if stored.finished:
                    finished.append((task.task_id, stored.fingerprint))
                else:
                    rows[task.task_id] = stored.record
            ledger = Ledger()
            summary = decode_summary(encode(before.summary()))
            live = [decode_task(record) for record in rows.values()]
            finished.sort(key=lambda pair: before.finished_order.index(pair[0]))
            ledger.restore(
                before.applied_index, TERM, before.digest, summary, whole(live, finished, summary.finished_count)
            )
        index = LogIndex(position + 1)
        batch = Batch(1_000 * index, commands)
        data = encode(batch)
        assert through.apply(index, TERM, batch, data).outcomes == ledger.apply(index, TERM, batch, data).outcomes
        assert (through.digest, through.counts) == (ledger.digest, ledger.counts)


def test_the_log_is_applied_without_a_gap() -> None:
    """An entry out of turn is a broken invariant, not an outcome."""
    ledger = Ledger()
    with pytest.raises(AssertionError, match="entry 2 applied after 0"):
        ledger.apply(LogIndex(2), TERM, Batch(0, []), b"")
    with pytest.raises(AssertionError, match="entry 3 applied after 0"):
        ledger.skip(LogIndex(3), TERM, b"")


def test_every_entry_moves_the_digest_even_one_without_commands() -> None:
    """The no-op of a new term counts too, so that replicas can be compared at any index."""
    ledger = Ledger()
    start = ledger.digest
    ledger.skip(LogIndex(1), TERM, b"")
    assert ledger.digest != start
    assert ledger.applied_index == 1


def test_changes_are_told_once_and_coalesced() -> None:
    """A task that was submitted, granted and completed since the last write is one row."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE), grant(RESIZE, ANA))
    log.apply(complete(RESIZE, 2))
    changes = log.ledger.take_changes()
    assert [(task.task_id, task.finished) for task in changes.tasks] == [(RESIZE, 1)]
    assert [index for index, _ in changes.events] == [1, 2, 3]
    assert log.ledger.take_changes().tasks == []


def test_finished_tasks_beyond_the_window_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three finish where two are remembered: the first id is told to the store as forgotten, and may be used again."""
    assert config.FINISHED_MAX == 262_144
    monkeypatch.setattr(table_module, "FINISHED_MAX", 2)
    log = with_nodes(ANA)
    for position, name in enumerate(["a", "b", "c"]):
        log.apply(submit(TaskId(name)), grant(TaskId(name), ANA))
        log.apply(complete(TaskId(name), 2 + 2 * position))
    assert list(log.ledger.finished) == ["b", "c"]
    changes = log.ledger.take_changes()
    assert changes.forgotten == ["a"]
    assert [task.task_id for task in changes.tasks] == ["b", "c"]
    assert log.ledger.counts[6] == 3


def test_backoff_doubles_up_to_a_minute_and_jitters_by_a_tenth_at_most() -> None:
    """S2-25, with the dice at both ends and beyond."""
    assert [backoff_ms(attempt, 0) for attempt in (1, 2, 3, 6, 7, 100)] == [1_000, 2_000, 4_000, 32_000, 60_000, 60_000]
    assert (backoff_ms(1, 100), backoff_ms(1, 50), backoff_ms(1, 5_000), backoff_ms(1, -3)) == (
        1_100,
        1_050,
        1_100,
        1_000,
    )
    with pytest.raises(AssertionError, match="counted from 1"):
        backoff_ms(0, 0)


def test_the_diagram_is_the_table() -> None:
    """One line a happening, and no state a task never leaves is on the left."""
    lines = diagram().splitlines()
    assert lines[:2] == ["submit    (nothing) -> pending | scheduled", "grant     pending, scheduled -> dispatched"]
    assert [line.split()[0] for line in lines[1:]] == list(TRANSITIONS)
    assert not [move for moves in TRANSITIONS.values() for move in moves if move in FINISHED]
    assert TRANSITIONS["redrive"] == {DEAD: 0, 5: 0}


def test_a_dead_letter_may_fail_again_and_again_without_being_lost() -> None:
    """Redriven and buried twice, it is one task with one id."""
    log = Log()
    log.apply(AdmitNode(ANA, 1), submit(RESIZE, attempts_max=1))
    for _ in range(2):
        token = log.ledger.applied_index + 1
        log.apply(grant(RESIZE, ANA))
        log.apply(fail(RESIZE, token))
        assert log.state(RESIZE) == "dead"
        log.apply(RedriveTask(RESIZE))
    assert (len(log.ledger.tasks), log.ledger.counts[9], log.ledger.counts[0]) == (1, 0, 1)


def test_leases_survive_a_restart() -> None:
    """ana holds a task when everything stops; when the table is taken up again she holds it still."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE), grant(RESIZE, ANA))
    before = log.ledger
    after = Ledger()
    live = [decode_task(row(task).record) for task in before.take_changes().tasks]
    after.restore(before.applied_index, TERM, before.digest, before.summary(), whole(live, [], 0))
    assert {task_id: task.token for task_id, task in after.holder_leases(ANA).items()} == {RESIZE: 2}
    assert (after.nodes, after.at_ms, after.queue.first("image")) == (before.nodes, 2_000, None)
