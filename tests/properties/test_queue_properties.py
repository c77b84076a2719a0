"""The queue of waiting tasks against a sorted list."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.ids import TaskId
from mesh.ledger.queue import Queue
from mesh.ledger.task import DISPATCHED, PENDING, SCHEDULED, Task
from mesh.messages import TaskSpec
from tests.ledger.cast import take

CAPABILITIES = ("code", "plan")

happenings = st.lists(
    st.tuples(
        st.sampled_from(["new", "new", "later", "take", "take", "remove", "return", "time", "rebuild"]),
        st.integers(0, 30),
        st.sampled_from(CAPABILITIES),
        st.integers(-1, 3),
    ),
    min_size=20,
    max_size=60,
)


def line(tasks: list[Task], capability: str, at_ms: int) -> list[Task]:
    """Who is ready, in the order they are to be served."""
    ready = [
        task
        for task in tasks
        if task.spec.capability == capability
        and (task.state == PENDING or (task.state == SCHEDULED and task.not_before_ms <= at_ms))
    ]
    return sorted(ready, key=lambda task: (task.spec.priority, task.order))


@settings(max_examples=120)
@given(happenings)
def test_the_queue_is_a_sorted_list(story: list[tuple[str, int, str, int]]) -> None:
    """Tasks come, wait for their time, are taken, go, come back to their old place. The next in line is always the
    first of the list.
    """
    queue, waiting, away, at_ms = Queue(), list[Task](), list[Task](), 100
    for number, (what, which, capability, priority) in enumerate(story):
        if what in ("new", "later"):
            spec = TaskSpec(TaskId(f"t{number}"), capability, b"", priority)
            task = Task(spec, number, SCHEDULED if what == "later" else PENDING, 0, [])
            task.not_before_ms = at_ms + which if what == "later" else 0
            queue.push(task)
            queue.push(task)
            waiting.append(task)
        elif what == "take" and (first := queue.first(capability)) is not None:
            assert take(queue, capability) is first
            first.state = DISPATCHED
            waiting.remove(first)
            away.append(first)
        elif what == "remove" and waiting:
            task = waiting.pop(which % len(waiting))
            task.state = DISPATCHED
            queue.remove(task)
            queue.remove(task)
            away.append(task)
        elif what == "return" and away:
            task = away.pop(which % len(away))
            task.state = PENDING
            queue.push(task)
            waiting.append(task)
        elif what == "time":
            at_ms += which
        elif what == "rebuild":
            queue.rebuild([*away, *waiting])
        queue.release_due(at_ms)
        for name in CAPABILITIES:
            ready = line(waiting, name, at_ms)
            assert queue.first(name) is (ready[0] if ready else None)
            assert name in queue.lanes or not ready
            assert [queue.position(task) for task in ready] == list(range(len(ready)))
        due = [task.not_before_ms for task in waiting if task.state == SCHEDULED and task.not_before_ms > at_ms]
        assert queue.next_due_ms() == min(due, default=None)
