"""What a lease is in the table: whether one is in force, and how one ends."""

from mesh.ids import FencingToken, TaskId
from mesh.ledger.applied import EndedLease
from mesh.ledger.table import Table
from mesh.ledger.task import SCHEDULED, Task
from mesh.ledger.transitions import START


def leased(table: Table, task_id: TaskId, token: FencingToken) -> Task | None:
    """The task, if this very lease is in force."""
    task = table.tasks.get(task_id)
    if task is None or task.token != token or task.state not in START_OR_RUNNING:
        return None
    return task


def take_back(table: Table, task: Task) -> None:
    """End a lease that its holder does not know to be over."""
    table.end_lease(task)
    table.now.ended.append(EndedLease(task.node_id, task.spec.task_id, task.token))


def requeue(table: Table, task: Task, state: int) -> None:
    """The task, whose lease has ended, waits again, at its old place in line."""
    table.move(task, state)
    task.node_id = type(task.node_id)("")
    task.checkpoint_sequence = 0
    if state != SCHEDULED:
        task.not_before_ms = 0
    table.queue.push(task)


START_OR_RUNNING = frozenset({*START, *START.values()})
