"""SubmitTask: a task comes into being, once per id."""

from mesh.ids import TaskId
from mesh.ledger.applied import ALREADY, CONFLICT, DONE, REFUSED
from mesh.ledger.commands import SubmitTask
from mesh.ledger.digest import is_of_token
from mesh.ledger.ending import end_as_cancelled
from mesh.ledger.table import Table
from mesh.ledger.task import PENDING, SCHEDULED, Happening, Kind, Task
from mesh.options import Options, WhenFull

_SUBMITTED = int(Kind.TASK_SUBMITTED)
ORDERS_PER_ENTRY = 4_096
"""Room for the commands of one entry in a task's order."""


def submit(table: Table, command: SubmitTask, position: int) -> int:
    """Accept a task. The same id again is answered as the first time if it is the same task, else it is a conflict.

    Under a full concurrency key a task may be turned down, or end as soon as it has come, or drive out another.
    """
    spec = command.spec
    task_id = spec.task_id
    now = table.now
    is_same = table.is_same(spec)
    is_renewed = is_same is not None and command.renews and _may_renew(table, command)
    if is_same is None or is_renewed:
        options = spec.options
        crowd = None if options is None else _crowd(table, options)
        if crowd is not None and options.concurrency.when_full == WhenFull.REJECT:  # type: ignore[union-attr]  # See crowd.
            now.turned_down.append(task_id)
            return REFUSED
        if is_renewed:
            _forget(table, task_id)
        state = SCHEDULED if spec.not_before_ms > now.at_ms else PENDING
        happening = Happening(now.index, now.at_ms, _SUBMITTED, "", task_id, 0, 0, spec.source)  # type: ignore[arg-type]
        task = Task(spec, now.index * ORDERS_PER_ENTRY + position, state, now.at_ms, [happening])
        task.not_before_ms = spec.not_before_ms
        task.checkpoint = spec.checkpoint
        table.tasks[task_id] = task
        table.counts[state] += 1
        table.live_bytes += len(spec.payload)
        table.changed[task_id] = task
        table.fresh.append(task)
        now.events.append(happening)
        now.submitted.append(task_id)
        if options is not None:
            table.treated.add(task, options)
            now.awaited.append(task)
            if crowd is not None:
                _make_room(table, task, options)
        return DONE
    if is_same:
        now.submitted.append(task_id)
        return ALREADY
    now.conflicts.append(task_id)
    return CONFLICT


def _crowd(table: Table, options: Options) -> dict[TaskId, Task] | None:
    """The live tasks under its concurrency key, if they are as many as may run at once and that matters now."""
    concurrency = options.concurrency
    if concurrency is None or concurrency.when_full == WhenFull.QUEUE:
        return None
    crowd = table.treated.under.get(concurrency.key)
    return crowd if crowd is not None and len(crowd) >= concurrency.limit else None


def _make_room(table: Table, task: Task, options: Options) -> None:
    assert options.concurrency is not None, "there is a crowd"
    if options.concurrency.when_full == WhenFull.CANCEL_NEWEST:
        leaves = task
    else:
        leaves = table.treated.oldest(options.concurrency.key)
    end_as_cancelled(table, leaves, f"concurrency key {options.concurrency.key!r} is full")


def _may_renew(table: Table, command: SubmitTask) -> bool:
    """The leader has found that the task which had this id ended longer ago than its window: the id is free again,
    unless it is not that very end that the table knows.
    """
    known = table.finished.get(command.spec.task_id)
    return known is not None and is_of_token(known, command.renews)


def _forget(table: Table, task_id: TaskId) -> None:
    """A task that has ended makes way for another of its id."""
    del table.finished[task_id]
    table.finished_order[table.finished_order.index(task_id)] = TaskId("")
