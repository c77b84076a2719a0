"""Who waits for what at the leader: `Waiting` by itself, told of entries and rounds one by one."""

import msgspec
import pytest

from mesh.config import PAYLOAD_BYTES_MAX
from mesh.ids import ClientId, LogIndex, NodeId, TaskId
from mesh.ledger.applied import Applied
from mesh.ledger.commands import RedriveTask
from mesh.ledger.ledger import Ledger
from mesh.messages import Accepted, Ask, Question, TaskEnd, TasksEnded, TaskSpec, TasksRefused
from mesh.node.requests import HERE, SOURCE_CHARS_MAX, WATCHERS_MAX, Client, Waiting, backpressure, conflict, invalid
from tests.ledger.cast import ANA, complete, fail, grant, submit, with_nodes
from tests.node.client import spec

T1 = TaskId("t1")
ANAS: Client = (HERE, ClientId(1))
BENS: Client = (NodeId("ben"), ClientId(1))


def ask(number: int) -> Ask:
    return Ask(number, Question.STATUS)


def test_clients_of_two_nodes_may_have_the_same_number() -> None:
    """Link 1 at ana and link 1 at ben are two clients: each is told, each once."""
    waiting = Waiting(10)
    assert waiting.accept(ANAS, spec("t1"))
    assert not waiting.accept(BENS, spec("t1"))
    assert not waiting.accept(ANAS, spec("t1"))
    applied = Applied(LogIndex(4), 0, bytearray(1), submitted=[T1, TaskId("another's")])
    accepted = Accepted(LogIndex(4), [T1])
    assert waiting.applied(applied, Ledger()) == [(ANAS, accepted), (BENS, accepted)]
    assert waiting.accepting == {}


def test_a_submit_whose_id_a_schedule_has_taken_meanwhile_is_a_conflict() -> None:
    """ana's client submits nightly@60000 just before the schedule fires under that id, and waits for the end; ben's
    waits for the schedule's. Only ana's is refused, and only ben's is told of the end. Another office's is nobody's.
    """
    waiting, taken = Waiting(10), TaskId("nightly@60000")
    assert waiting.accept(ANAS, spec(taken))
    waiting.watch(ANAS, taken)
    waiting.watch(BENS, taken)
    waiting.accept(ANAS, spec("t1"))
    waiting.accept(ANAS, spec("t2"))
    waiting.watch(ANAS, TaskId("t2"))
    conflicts = [taken, TaskId("another's"), TaskId("t2")]
    applied = Applied(LogIndex(4), 0, bytearray(4), submitted=[T1], conflicts=conflicts)
    assert waiting.applied(applied, Ledger()) == [
        (ANAS, TasksRefused([conflict(taken)])),
        (ANAS, TasksRefused([conflict(TaskId("t2"))])),
        (ANAS, Accepted(LogIndex(4), [T1])),
    ]
    assert (waiting.accepting, waiting.watching) == ({}, {taken: [BENS]})


def test_a_dead_letter_that_is_put_back_in_the_entry_that_buried_it_has_not_ended() -> None:
    """Found by seed 1003 of the simulator: its client was told that it had ended, as pending. It waits on, and is told
    when there is an end.
    """
    log, waiting = with_nodes(ANA), Waiting(10)
    waiting.watch(ANAS, T1)
    log.apply(submit(T1, attempts_max=1), grant(T1, ANA))
    buried = log.apply(fail(T1, 2), RedriveTask(T1))
    assert ([task.task_id for task in buried.finished], waiting.applied(buried, log.ledger)) == ([T1], [])
    log.apply(grant(T1, ANA))
    done = log.apply(complete(T1, 4))
    assert waiting.applied(done, log.ledger) == [(ANAS, TasksEnded([TaskEnd(T1, 6, b"\x01", "", "", ANA, 1)]))]


def test_watchers_of_one_task_are_bounded() -> None:
    """A thousand clients come and go while one task runs: the one that asked first is not told, and asks again."""
    waiting = Waiting(10)
    for number in range(WATCHERS_MAX + 1):
        waiting.watch((HERE, ClientId(number)), T1)
        waiting.watch((HERE, ClientId(number)), T1)
    assert waiting.watching[T1] == [(HERE, ClientId(number)) for number in range(1, WATCHERS_MAX + 1)]


def test_questions_of_a_turn_share_a_round_and_are_answered_together_once_it_is_applied() -> None:
    """Two rounds; the second is confirmed at a later index. Nothing is answered before its index is applied."""
    waiting = Waiting(10)
    assert waiting.take_asked() == 0
    waiting.asked = [(ANAS, ask(1)), (BENS, ask(2))]
    assert waiting.take_asked() == 1
    waiting.asked = [(ANAS, ask(3))]
    assert waiting.take_asked() == 2
    waiting.confirm(1, LogIndex(7))
    assert waiting.ready(LogIndex(6)) == []
    waiting.confirm(2, LogIndex(9))
    assert waiting.ready(LogIndex(8)) == [(ANAS, ask(1)), (BENS, ask(2))]
    assert waiting.ready(LogIndex(9)) == [(ANAS, ask(3))]
    assert waiting.ready(LogIndex(9)) == []


def test_a_round_nobody_waits_for_any_more_is_passed_over() -> None:
    """It failed, and is confirmed late; the one behind it is answered all the same."""
    waiting = Waiting(10)
    for number in (1, 2):
        waiting.asked = [(ANAS, ask(number))]
        waiting.take_asked()
    waiting.confirm(1, LogIndex(5))
    waiting.confirm(2, LogIndex(5))
    assert waiting.take_read(1) == [(ANAS, ask(1))]
    assert waiting.take_read(1) == []
    waiting.confirm(1, LogIndex(5))
    assert waiting.ready(LogIndex(5)) == [(ANAS, ask(2))]


@pytest.mark.parametrize(
    "task",
    [
        spec("x"),
        spec("x" * 200, capability="y" * 200),
        spec("x", payload=bytes(PAYLOAD_BYTES_MAX), checkpoint=bytes(PAYLOAD_BYTES_MAX)),
        spec("x", attempts_max=1, priority=-1_000_000),
        spec("x", attempts_max=1_000, priority=1_000_000),
        msgspec.structs.replace(spec("x"), source="s" * SOURCE_CHARS_MAX),
    ],
)
def test_what_just_fits_is_a_task(task: TaskSpec) -> None:
    """Each limit is the last value that is allowed. (What is beyond: test_submits.)"""
    assert invalid(task) == ""


def test_all_that_waits_counts_towards_the_bound_and_leaves_it_again() -> None:
    """A submit, a question of this turn, one in a round: three. Each makes room when it is done with."""
    waiting = Waiting(3)
    waiting.accept(ANAS, spec("t1"))
    waiting.asked = [(ANAS, ask(1))]
    waiting.take_asked()
    full = [waiting.is_full]
    waiting.asked = [(ANAS, ask(2))]
    full.append(waiting.is_full)
    waiting.take_asked()
    full.append(waiting.is_full)
    waiting.confirm(1, LogIndex(1))
    waiting.ready(LogIndex(1))
    full.append(waiting.is_full)
    waiting.asked = [(BENS, ask(3))]
    full.append(waiting.is_full)
    assert waiting.clear() == [(BENS, ask(3)), (ANAS, ask(2))]
    full.append(waiting.is_full)
    waiting.asked = [(ANAS, ask(number)) for number in range(2)]
    full.append(waiting.is_full)
    assert full == [False, True, True, False, True, False, False]


def test_what_another_office_had_turned_down_is_nobodys_answer() -> None:
    """Of two that found their key full, one was ana's client's; for the end of the other only somebody waited."""
    waiting = Waiting(10)
    assert waiting.accept(ANAS, spec("t1"))
    waiting.watch(BENS, TaskId("another's"))
    applied = Applied(LogIndex(4), 0, bytearray(2), turned_down=[T1, TaskId("another's")])
    refusal = backpressure(spec("t1"), "its concurrency key is full")
    assert waiting.applied(applied, Ledger()) == [(ANAS, TasksRefused([refusal]))]
    assert (waiting.accepting, waiting.watching) == ({}, {})
