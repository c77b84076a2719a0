"""Who is next: lower number first, first come first served within a priority (S0-12, S1-09)."""

from weakref import ReferenceType, ref

import pytest
from msgspec import structs

from mesh.ids import TaskId
from mesh.ledger.queue import STALE_MIN, Queue, lane_key
from mesh.ledger.task import CANCELLED, DISPATCHED, PENDING, SCHEDULED, Task
from mesh.messages import TaskSpec
from mesh.options import Concurrency, Options, Rate
from tests.ledger.cast import take


class Name(str):
    """One that can be watched going."""


def task(name: str, order: int, *, priority: int = 5, state: int = PENDING, due_ms: int = 0) -> Task:
    made = Task(TaskSpec(TaskId(name), "image", b"", priority), order, state, 0, [])
    made.not_before_ms = due_ms
    return made


def drained(queue: Queue) -> list[str]:
    names: list[str] = []
    while queue.first("image") is not None:
        names.append(take(queue, "image").task_id)
    return names


def test_lower_number_first_then_first_come_first_served() -> None:
    """Five tasks of three priorities, two of them equal in everything but their order."""
    queue = Queue()
    for entry in (
        task("late", 9),
        task("low", 1, priority=8),
        task("b", 3),
        task("a", 2),
        task("urgent", 8, priority=0),
    ):
        queue.push(entry)
    assert list(queue.lanes) == ["image"]
    assert drained(queue) == ["urgent", "a", "b", "late", "low"]
    assert (list(queue.lanes), queue.first("image"), queue.first("mail")) == ([], None, None)


def test_a_task_is_in_line_once_however_often_it_is_pushed() -> None:
    """And can be pushed again after it was taken."""
    queue = Queue()
    one = task("one", 1)
    queue.push(one)
    queue.push(one)
    assert drained(queue) == ["one"]
    queue.push(one)
    assert drained(queue) == ["one"]


def test_what_waits_no_more_is_passed_over() -> None:
    """One is cancelled in the middle of the line, one is granted from its front and then lost again."""
    queue = Queue()
    first, second, third = task("first", 1), task("second", 2), task("third", 3)
    for entry in (first, second, third):
        queue.push(entry)
    second.state = DISPATCHED
    queue.remove(second)
    first.state = DISPATCHED
    queue.remove(first)
    assert queue.position(third) == 0
    first.state = PENDING
    queue.push(first)
    assert queue.position(third) == 1
    assert drained(queue) == ["first", "third"]


def test_a_place_in_a_long_line_is_counted_to_a_bound() -> None:
    """12,000 wait, every third of them for nothing any more; the first, a middle one, and the last."""
    queue = Queue()
    tasks = [task(f"t{order}", order) for order in range(12_000)]
    for entry in reversed(tasks):
        queue.push(entry)
    for entry in tasks[1::3]:
        entry.state = DISPATCHED
        queue.remove(entry)
    assert [queue.position(tasks[order]) for order in (0, 3_000, 11_999)] == [0, 2_000, 7_999]
    for entry in tasks[1::3]:
        entry.state = PENDING
        queue.push(entry)
    assert [queue.position(tasks[order]) for order in (9_999, 10_000, 11_999)] == [9_999, 10_000, 10_000]


def test_a_task_for_later_joins_the_line_when_its_time_has_come() -> None:
    """Its place is by order all the same; a stale appointment is forgotten."""
    queue = Queue()
    later, never, ready = (
        task("later", 1, state=SCHEDULED, due_ms=50),
        task("never", 2, state=SCHEDULED, due_ms=40),
        task("ready", 3),
    )
    for entry in (later, never, ready):
        queue.push(entry)
    assert queue.next_due_ms() == 40
    never.state = DISPATCHED
    queue.remove(never)
    assert queue.next_due_ms() == 50
    queue.release_due(49)
    assert queue.first("image") is ready
    queue.release_due(50)
    assert queue.next_due_ms() is None
    assert drained(queue) == ["later", "ready"]


def test_a_stale_appointment_does_not_block_a_new_one() -> None:
    """never's time passes after it was granted; nothing comes of it."""
    queue = Queue()
    never, later = task("never", 1, state=SCHEDULED, due_ms=10), task("later", 2, state=SCHEDULED, due_ms=20)
    queue.push(never)
    never.state = DISPATCHED
    queue.remove(never)
    queue.push(later)
    queue.release_due(30)
    assert drained(queue) == ["later"]


def test_a_stale_appointment_that_comes_due_is_dropped() -> None:
    """It sits behind one that still counts."""
    queue = Queue()
    later, never = task("later", 1, state=SCHEDULED, due_ms=10), task("never", 2, state=SCHEDULED, due_ms=20)
    queue.push(later)
    queue.push(never)
    never.state = DISPATCHED
    queue.remove(never)
    queue.release_due(30)
    assert drained(queue) == ["later"]


def test_a_line_is_rebuilt_from_a_table() -> None:
    """After a restart: tickets mean nothing, states and orders everything."""
    queue = Queue()
    tasks = [
        task("b", 2),
        task("held", 3, state=DISPATCHED),
        task("a", 1),
        task("later", 4, state=SCHEDULED, due_ms=7),
    ]
    tasks[1].ticket = 99
    queue.rebuild(tasks)
    assert (queue.next_due_ms(), tasks[1].ticket) == (7, 0)
    assert drained(queue) == ["a", "b"]


def test_a_stale_entry_behind_the_one_taken_is_passed_over() -> None:
    """The second is cancelled while the first is still in line; the first is taken; the third is next."""
    queue = Queue()
    first, second, third = task("first", 1), task("second", 2), task("third", 3)
    for entry in (first, second, third):
        queue.push(entry)
    second.state = DISPATCHED
    queue.remove(second)
    assert take(queue, "image") is first
    assert queue.first("image") is third


def test_what_waits_no_more_is_let_go_of_though_the_front_stands() -> None:
    """A client submits behind one that nobody can run, and cancels, a thousand times: payloads are up to 1 MiB each."""
    queue = Queue()
    head, later = task("head", 0), task("later", 1, state=SCHEDULED, due_ms=10)
    queue.push(head)
    queue.push(later)
    gone: list[ReferenceType[Name]] = []
    for number in range(1_000):
        for state in (PENDING, SCHEDULED):
            name = Name(f"t{number}")
            gone.append(ref(name))
            made = task(name, number + 2, state=state, due_ms=99)
            queue.push(made)
            made.state = CANCELLED
            queue.remove(made)
    assert sum(1 for name_of in gone if name_of() is not None) <= 2 + STALE_MIN + 1
    queue.release_due(99)
    assert drained(queue) == ["head", "later"]


def test_a_capability_nobody_waits_for_is_forgotten() -> None:
    """Clients name capabilities as they like: taken, cancelled, or cancelled behind one that was taken."""
    queue = Queue()
    for number in range(3):
        one, other = (Task(TaskSpec(TaskId(f"{order}"), f"c{number}", b""), order, PENDING, 0, []) for order in (1, 2))
        queue.push(one)
        queue.push(other)
        other.state = CANCELLED
        queue.remove(other)
        assert take(queue, f"c{number}") is one
        assert queue.first(f"c{number}") is None
    assert list(queue.lanes) == []


# --- lanes ------------------------------------------------------------------------------------------------------------


def under(name: str, order: int, options: Options, *, priority: int = 5) -> Task:
    made = task(name, order, priority=priority)
    made.spec = structs.replace(made.spec, options=options)
    return made


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(prefer=(("gpu", "yes"),), location="eu", sticky="w", parent=TaskId("p"), run_timeout_ms=9),
        Options(fallback="image", weight_permille=9, window_ms=1),
    ],
)
def test_tasks_that_ask_for_nothing_of_a_node_and_of_nobody_stand_with_the_plain_ones(options: Options) -> None:
    """What they prefer, and what becomes of them, changes nothing about who could have them now."""
    assert lane_key(under("a", 1, options).spec) == "image"
    assert lane_key(task("a", 1).spec) == "image"


@pytest.mark.parametrize(
    "options",
    [
        Options(require=(("gpu", "yes"),)),
        Options(avoid=(("gpu", "yes"),)),
        Options(version="2"),
        Options(sticky="w", is_sticky_hard=True),
        Options(fairness="eva"),
        Options(fallback="sketch"),
        Options(concurrency=Concurrency("k", 1)),
        Options(rates=(Rate("k", 1, 1),)),
    ],
)
def test_those_that_ask_for_something_have_a_lane_with_their_like(options: Options) -> None:
    """So that where the first cannot be granted, or falls back, or must wait for its key, the others need not."""
    queue = Queue()
    plain, one, like = task("plain", 1), under("one", 2, options), under("like", 3, options)
    for entry in (plain, one, like):
        queue.push(entry)
    assert len(queue.lanes) == 2
    assert queue.first("image") is plain
    lane = queue.lane(lane_key(one.spec))
    assert lane is not None
    assert (lane.oldest(), lane.demand.capability, lane.first(0, 0, 0)) == (one, "image", (5, 2, one))
    assert [queue.position(entry) for entry in (plain, one, like)] == [0, 0, 1]
    queue.take(one)
    like.state = CANCELLED
    assert [entry.task_id for entry in queue.ready()] == ["plain"]
    queue.remove(like)
    assert list(queue.lanes) == list(queue.by_capability["image"]) == ["image"]


def test_priorities_beyond_what_has_a_rung_of_its_own_still_count() -> None:
    """Clients of other makes name any number: the lane has few rungs all the same."""
    queue = Queue()
    for order, priority in enumerate((1_000_000, 300, 256, 255, -1, -5, -1_000_000)):
        queue.push(task(f"p{priority}", order, priority=priority))
    lane = queue.lane("image")
    assert lane is not None
    assert sorted(lane.rungs) == [-1, 255, 256]
    assert drained(queue) == ["p-1000000", "p-5", "p-1", "p255", "p256", "p300", "p1000000"]
