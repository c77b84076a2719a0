"""A table that comes in page by page, and one that goes away a little at a time."""

from collections import deque

import pytest
from msgspec import structs

from mesh.config import FINISHED_MAX
from mesh.durable import without_gaps
from mesh.ids import NodeId, TaskId
from mesh.ledger.intake import Intake, Leftovers, whole
from mesh.ledger.task import DEAD, PENDING, RUNNING, SCHEDULED, Task
from mesh.messages import TaskSpec
from mesh.options import Concurrency, Options
from tests.ledger.cast import take

ANA = NodeId("ana")


def task(name: str, order: int = 1, state: int = PENDING, node_id: str = "") -> Task:
    one = Task(TaskSpec(TaskId(name), "code", b"\xc0"), order, state, 1_000, [], node_id=NodeId(node_id))
    one.ticket = 99  # As it was on the node it comes from.
    return one


def line(intake: Intake) -> list[str]:
    """The queue, from the front."""
    found: list[str] = []
    while (first := intake.queue.first("code")) is not None:
        found.append(first.task_id)
        take(intake.queue, "code")
    return found


def test_nothing_makes_an_empty_table() -> None:
    intake = Intake()
    intake.complete(0)
    assert (intake.tasks, intake.leases, intake.finished, line(intake)) == ({}, {}, {}, [])


def test_pages_in_order_of_id_make_a_queue_in_order_of_submission() -> None:
    """Pages come by id; who is next goes by order; what runs or is dead does not wait."""
    intake = Intake()
    intake.add([task("a", 3), task("b", 1)])
    intake.add([task("c", 2), task("d", 4, RUNNING, "ana"), task("e", 5, DEAD), task("f", 6, SCHEDULED)])
    intake.complete(0)
    assert list(intake.tasks) == ["a", "b", "c", "d", "e", "f"]
    assert {node_id: list(held) for node_id, held in intake.leases.items()} == {"ana": ["d"]}
    assert intake.queue.next_due_ms() == 0
    assert line(intake) == ["b", "c", "a"]


def test_a_row_that_comes_again_replaces_the_one_before() -> None:
    """The next leader's rows: b runs by now, d is back in line, a has finished, c is as it was."""
    intake = Intake()
    intake.add([task("a", 1), task("b", 2), task("c", 3), task("d", 4, RUNNING, "ana")])
    intake.add([task("b", 2, RUNNING, "ana"), task("c", 3), task("d", 4)])
    intake.add_finished(1, TaskId("a"), 11)
    intake.complete(1)
    assert sorted(intake.tasks) == ["b", "c", "d"]
    assert list(intake.leases[ANA]) == ["b"]
    assert (intake.finished, list(intake.finished_order)) == ({"a": 11}, ["a"])
    assert line(intake) == ["c", "d"]


@pytest.mark.parametrize("numbers", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_finished_tasks_stand_in_the_order_they_finished(numbers: tuple[int, ...]) -> None:
    """Whatever order they come in, and although one comes twice."""
    intake = Intake()
    for number in (*numbers, numbers[0]):
        intake.add_finished(number, TaskId(f"t{number}"), 10 + number)
    intake.complete(3)
    assert list(intake.finished.items()) == [("t1", 11), ("t2", 12), ("t3", 13)]
    assert list(intake.finished_order) == ["t1", "t2", "t3"]


def test_what_has_left_the_window_is_forgotten() -> None:
    """Three finished before somebody else's window began."""
    intake = Intake()
    for number in range(1, 6):
        intake.add_finished(number, TaskId(f"t{number}"), number)
    intake.complete(FINISHED_MAX + 3)
    assert list(intake.finished) == list(filter(None, intake.finished_order)) == ["t4", "t5"]


def test_a_table_that_is_there_at_once() -> None:
    """At a start: the last of the finished ones was the ninth."""
    intake = whole([task("a")], [(TaskId("y"), 8), (TaskId("z"), 9)], 9)
    intake.forget(8)
    assert (list(intake.tasks), list(intake.finished_order)) == (["a"], ["z"])


def test_leftovers_go_a_few_at_a_time() -> None:
    """Ten items of three kinds, four at once; the containers are empty at the end, in whatever order."""
    numbers, names, line_ = [1, 2, 3], dict.fromkeys("abcd"), deque("xyz")
    left = Leftovers()
    assert not left
    left.add(numbers, {}, names, line_)
    sizes = []
    while left:
        left.let_go(4)
        sizes.append(len(numbers) + len(names) + len(line_))
    assert sizes == [6, 2, 0]


def test_what_is_discarded_half_way_is_all_let_go_of() -> None:
    intake = Intake()
    intake.add([task("a"), task("b", 2, SCHEDULED)])
    intake.add_finished(1, TaskId("c"), 1)
    left = Leftovers()
    left.add(*intake.containers())
    left.let_go(100)
    assert (not left, intake.tasks, intake.finished, intake.finished_order) == (True, {}, {}, deque())


def test_a_number_that_is_nobodys_says_nothing() -> None:
    """b has been taken again since it finished as the second: its number stays empty, the places of others tell theirs,
    and they leave the window when they would have done."""
    rows = without_gaps([(TaskId("a"), 7, 17), (TaskId("c"), 9, 19), (TaskId("d"), 10, 20)])
    assert rows == [("a", 17), ("", 0), ("c", 19), ("d", 20)]
    intake = whole([task("b")], rows, 10)
    intake.complete(11)
    assert (intake.finished, list(intake.finished_order)) == ({"a": 17, "c": 19, "d": 20}, ["a", "", "c", "d", ""])
    assert without_gaps([]) == []


def test_a_gap_of_any_width_is_filled_within_the_window() -> None:
    """Nobody knows a window of more."""
    rows = without_gaps([(TaskId("a"), 1, 11), (TaskId("b"), 10**9, 12)])
    assert (len(rows), rows[0], rows[-1]) == (FINISHED_MAX + 2, ("a", 11), ("b", 12))


def test_an_id_taken_again_is_live_or_has_ended_last_as_the_latest_row_says() -> None:
    """Of two leaders' tables: a lives now, b has ended again, c ended twice alike, d lived and has ended."""
    intake = Intake()
    for number, name in enumerate("abc", 1):
        intake.add_finished(number, TaskId(name), 10 + number)
    with_options = task("d")
    with_options.spec = structs.replace(with_options.spec, options=Options(concurrency=Concurrency("k", 1)))
    intake.add([with_options])
    intake.add([task("a")])
    intake.add_finished(6, TaskId("d"), 16)
    intake.add_finished(4, TaskId("b"), 14)
    intake.add_finished(5, TaskId("c"), 13)
    intake.forget(3)
    intake.complete(6)
    assert (list(intake.tasks), intake.finished) == (["a"], {"b": 14, "c": 13, "d": 16})
    assert (list(intake.finished_order), intake.treated.under, line(intake)) == (["b", "c", "d"], {}, ["a"])
