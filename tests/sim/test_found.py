"""Mistakes the simulator found in this code, each as the smallest story, so that none depends on a seed."""

import msgspec

from mesh.config import DispatchConfig
from mesh.execution.attempts import Attempts
from mesh.ids import ClientId, FencingToken, LogIndex, NodeId, TaskId, Term
from mesh.ledger.applied import ALREADY, DONE, REFUSED, Applied
from mesh.ledger.commands import AdmitNode, Batch, CancelTask, Command, FailAttempt, GrantLease, RedriveTask, SubmitTask
from mesh.ledger.intake import Intake, whole
from mesh.ledger.ledger import Ledger
from mesh.ledger.table import Table
from mesh.ledger.task import PENDING, Task
from mesh.messages import Accepted, Action, AttemptOrder, AttemptOutcome, Code, TaskSpec
from mesh.node.requests import Waiting
from mesh.options import Concurrency, Options, WhenFull
from mesh.sim.agents import Script
from mesh.sim.plan import calm
from mesh.sim.world import World
from mesh.wire.codec import encode
from tests.sim.probes import Person, leader, quiet, task

T1, T2 = TaskId("t1"), TaskId("t2")
ANA, BEN = (NodeId("n1"), ClientId(1)), (NodeId("n2"), ClientId(7))


def order(task_id: TaskId, token: int) -> AttemptOrder:
    return AttemptOrder(task_id, FencingToken(token), 1, "code", b"", b"")


def apply(ledger: Ledger, *commands: Command) -> list[int]:
    """One entry, and what came of each command."""
    index = LogIndex(ledger.applied_index + 1)
    batch = Batch(1_000 * index, list(commands))
    return list(ledger.apply(index, Term(2), batch, encode(batch)).outcomes)


def alone(task_id: TaskId, when_full: WhenFull, *, limit: int = 1, window_ms: int = 0) -> TaskSpec:
    """A task under the concurrency key `press`."""
    options = Options(concurrency=Concurrency("press", limit, when_full), window_ms=window_ms)
    return TaskSpec(task_id, "print", b"", options=options)


def always(task_id: TaskId, token: FencingToken) -> bool:
    """Our own ledger shows of no lease yet that it is over."""
    return True


def never(task_id: TaskId, token: FencingToken) -> bool:
    return False


def test_another_payload_under_an_id_on_its_way_is_not_taken_for_the_same_submit() -> None:
    """Ana's t1 is on its way. Ben submits another t1: it is not known yet which will have the id, so he is not told
    "accepted" when Ana's is.
    """
    waiting = Waiting(100)
    hers, his = TaskSpec(T1, "code", b"hers"), TaskSpec(T1, "code", b"his")
    assert waiting.accept(ANA, hers)
    assert waiting.is_taken(his)
    assert not waiting.is_taken(hers)
    applied = Applied(LogIndex(5), 0, bytearray(b"\0"), submitted=[T1])
    assert waiting.applied(applied, Table()) == [(ANA, Accepted(LogIndex(5), [T1]))]


def test_a_late_copy_of_a_grant_does_not_run_again_what_the_leader_called_over() -> None:
    """t1 ran, ended and was settled by the leader's word, before our own ledger came to its completion. The grant comes
    once more.
    """
    attempts = Attempts()
    attempts.grant(Term(2), [order(T1, 9)])
    attempts.ended([AttemptOutcome(T1, FencingToken(9), b"done")])
    attempts.stop([(T1, FencingToken(9))], always)
    assert attempts.grant(Term(2), [order(T1, 9)]) == ([], [])
    attempts.caught_up(always)
    assert attempts.grant(Term(2), [order(T1, 9)]) == ([], [])
    assert attempts.grant(Term(2), [order(T1, 12)]) == ([order(T1, 12)], [])
    attempts.caught_up(never)
    assert attempts.over == {}


def test_what_is_beyond_the_slots_waits_for_one() -> None:
    """One slot. t1 still runs, though the leader knows its lease is over and has granted t2, which starts after it."""
    attempts = Attempts()
    attempts.grant(Term(2), [order(T1, 5)])
    assert attempts.hand_over([order(T1, 5)], 1) == ([order(T1, 5)], [])
    attempts.grant(Term(2), [order(T2, 8)])
    assert attempts.hand_over([order(T2, 8)], 1) == ([], [order(T2, 8)])
    attempts.stop([(T1, FencingToken(5))], never)
    assert attempts.hand_over([order(T2, 8)], 1) == ([order(T2, 8)], [])


def test_what_was_stopped_while_it_waited_is_not_started() -> None:
    attempts = Attempts()
    attempts.grant(Term(2), [order(T1, 5), order(T2, 8)])
    now, waiting = attempts.hand_over([order(T1, 5), order(T2, 8)], 1)
    assert (now, waiting) == ([order(T1, 5)], [order(T2, 8)])
    attempts.stop([(T2, FencingToken(8))], never)
    attempts.ended([AttemptOutcome(T1, FencingToken(5), b"done")])
    assert attempts.hand_over(waiting, 1) == ([], [])


def test_a_node_catches_up_by_table_though_the_log_has_no_tail_and_work_goes_on() -> None:
    """The log is trimmed to two entries twenty times a second, and a table takes seconds to send. The leader keeps what
    follows the table, so one is enough.
    """
    dispatch = DispatchConfig(start_report_ms=20, ledger_flush_ms=50, log_tail_entries_max=1)
    world = World(calm(7, dispatch=dispatch, chunk_rows=2, submit_pause_ms=60))
    world.run_ms(2_000)
    away = next(machine for machine in world.machines if machine.node_id != world.leader_id())
    away.crash(silent=False, keeps_permille=500)
    world.run_ms(10_000)
    away.start()
    world.run_ms(8_000)
    assert world.coverage.counts["snapshot installed"] <= 2
    ledgers = [machine.node.ledger for machine in world.machines]
    assert max(ledger.applied_index for ledger in ledgers) - away.node.ledger.applied_index < 30
    world.settle()


def test_a_dead_letter_that_is_put_back_counts_under_its_key_again() -> None:
    """t1 has died and is redriven. It is live and waits, so there is no room for t2 under the key of both."""
    ledger = Ledger()
    node = NodeId("n1")
    apply(ledger, AdmitNode(node, 1), SubmitTask(alone(T1, WhenFull.REJECT)))
    apply(ledger, GrantLease(T1, node))
    apply(ledger, FailAttempt(T1, FencingToken(2), "no", "", 0, True), RedriveTask(T1))
    assert apply(ledger, SubmitTask(alone(T2, WhenFull.REJECT))) == [REFUSED]
    assert apply(ledger, CancelTask(T1, ""), SubmitTask(alone(T2, WhenFull.REJECT))) == [DONE, DONE]


def test_who_makes_room_is_the_same_where_the_table_was_loaded() -> None:
    """t2 came before t1. One node has been up all the time, another has loaded its table, in which t1 comes first. Both
    let t2 go when the key is full.
    """
    first, loaded = Ledger(), Ledger()
    apply(first, *(SubmitTask(alone(task_id, WhenFull.CANCEL_OLDEST, limit=2)) for task_id in (T2, T1)))
    rows = [first.tasks[T1], first.tasks[T2]]
    copy = [msgspec.structs.replace(task, history=list(task.history)) for task in rows]
    loaded.restore(first.applied_index, Term(2), first.digest, first.summary(), whole(copy, [], 0))
    for ledger in (first, loaded):
        apply(ledger, SubmitTask(alone(TaskId("t3"), WhenFull.CANCEL_OLDEST, limit=2)))
        assert list(ledger.tasks) == ["t1", "t3"]


def test_a_submit_that_is_turned_down_leaves_the_task_that_had_its_id() -> None:
    """t1 has ended and its window is over, but its key is full: t1 stays on record as it was."""
    ledger = Ledger()
    node = NodeId("n1")
    apply(ledger, AdmitNode(node, 1), SubmitTask(alone(T1, WhenFull.REJECT, window_ms=10)))
    apply(ledger, GrantLease(T1, node))
    apply(ledger, CancelTask(T1, ""), SubmitTask(alone(T2, WhenFull.REJECT)))
    again = alone(T1, WhenFull.REJECT, window_ms=10)
    assert apply(ledger, SubmitTask(again, renews=FencingToken(2))) == [REFUSED]
    assert apply(ledger, SubmitTask(again)) == [ALREADY]
    assert apply(ledger, CancelTask(T2, ""), SubmitTask(again, renews=FencingToken(2))) == [DONE, DONE]
    assert list(ledger.tasks) == ["t1"]


def test_a_task_whose_id_was_taken_again_while_the_table_came_in_is_there_once() -> None:
    """Page by page: t1 ended as the first, t2 as the second. Then the same pages once more: t1 is another task now, and
    t2 another still, which has ended as the fourth.
    """
    intake = Intake()
    intake.add_finished(1, T1, 71)
    intake.add_finished(2, T2, 72)
    intake.add([Task(alone(T1, WhenFull.QUEUE), 1, PENDING, 0, [])])
    intake.add_finished(4, T2, 74)
    intake.add_finished(4, T2, 74)
    intake.complete(4)
    assert (list(intake.tasks), intake.finished) == ([T1], {T2: 74})
    assert list(intake.finished_order) == [T2]


def test_an_order_about_a_task_that_had_ended_is_not_told_that_there_was_none() -> None:
    """t1 has ended and its window is over. While an entry is on its way somebody says `retry` and somebody submits t1
    anew: both come into the next one, the order first. It is refused, as t1 had ended.
    """
    dispatch = DispatchConfig(entries_in_flight_max=1)
    world = quiet(calm(8, sync_us=100_000, dispatch=dispatch))
    world.run_ms(3_000)
    person = Person(world)
    person.call(leader(world))
    person.submit(task("t1", Script("t1"), window_ms=300))
    world.run_ms(3_000)
    assert list(person.ends) == ["t1"]
    person.submit(task("t2", Script("t2")))
    world.run_ms(10)
    person.submit(task("t1", Script("t1"), window_ms=300))
    person.order(Action.RETRY, "t1")
    world.run_ms(3_000)
    assert person.accepted == ["t1", "t2", "t1"]
    assert [code for code, _ in person.answers] == [Code.REFUSED]
    world.settle()
