"""SubmitTask: a task comes into being, once per id."""

from mesh.ledger.applied import ALREADY, CONFLICT, DONE
from mesh.ledger.commands import SubmitTask
from mesh.ledger.table import Table
from mesh.ledger.task import PENDING, SCHEDULED, Happening, Kind, Task

_SUBMITTED = int(Kind.TASK_SUBMITTED)
ORDERS_PER_ENTRY = 4_096
"""Room for the commands of one entry in a task's order."""


def submit(table: Table, command: SubmitTask, position: int) -> int:
    """Accept a task. The same id again is answered as the first time if it is the same task, else it is a conflict."""
    spec = command.spec
    task_id = spec.task_id
    now = table.now
    is_same = table.is_same(spec)
    if is_same is None:
        state = SCHEDULED if spec.not_before_ms > now.at_ms else PENDING
        happening = Happening(now.index, now.at_ms, _SUBMITTED, "", task_id, 0, 0, spec.source)  # type: ignore[arg-type]
        task = Task(spec, now.index * ORDERS_PER_ENTRY + position, state, now.at_ms, [happening])
        task.not_before_ms = spec.not_before_ms
        task.checkpoint = spec.checkpoint
        table.tasks[task_id] = task
        table.counts[state] += 1
        table.changed[task_id] = task
        table.fresh.append(task)
        now.events.append(happening)
        now.submitted.append(task_id)
        return DONE
    if is_same:
        now.submitted.append(task_id)
        return ALREADY
    now.conflicts.append(task_id)
    return CONFLICT
