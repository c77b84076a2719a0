"""TimeOut: a limit of time that was set with a task has passed.

The leader watches its own clock and proposes; whether a limit has passed is decided here, by the time in the log, which
only goes forward. So the timer is no owner: the lease ends because the log says so.
"""

from mesh.ledger import breakers
from mesh.ledger.applied import DONE, REFUSED, UNKNOWN
from mesh.ledger.commands import Limit, TimeOut
from mesh.ledger.ending import (
    EXPIRED,
    STALLED,
    TIMED_OUT,
    UNSCHEDULABLE,
    end_as_cancelled,
    give_up,
    note_fault,
    try_again,
)
from mesh.ledger.lease import leased, take_back
from mesh.ledger.table import Table
from mesh.ledger.task import DISPATCHED, RUNNING, SCHEDULED, Kind, Task


def time_out(table: Table, command: TimeOut, position: int) -> int:
    """End what has taken too long: the wait, or the attempt."""
    task = table.tasks.get(command.task_id)
    if task is None:
        return UNKNOWN
    due_ms = due_at_ms(task, command.limit)
    if due_ms is None or due_ms > table.now.at_ms:
        return REFUSED
    if command.limit in (Limit.RUN, Limit.PROGRESS):
        if leased(table, command.task_id, command.token) is None:
            return REFUSED
        _stop(table, task, command)
    elif command.limit == Limit.EXPIRY:
        end_as_cancelled(table, task, f"{EXPIRED}: it had not begun in time")
    else:
        waited_ms = table.now.at_ms - max(task.submitted_at_ms, task.spec.not_before_ms)
        task.error = f"{UNSCHEDULABLE}: no attempt began within {waited_ms} ms"
        table.happened(Kind.TASK_TIMED_OUT, task, detail=task.error)
        give_up(table, task, task.error)
    return DONE


def due_at_ms(task: Task, limit: int) -> int | None:
    """When a limit passes, as things stand; None if it does not apply now. Time in the log, epoch."""
    options = task.spec.options
    if options is None:
        return None
    if limit == Limit.RUN or limit == Limit.PROGRESS:
        span_ms = options.run_timeout_ms if limit == Limit.RUN else options.progress_timeout_ms
        since_ms = task.granted_at_ms if limit == Limit.RUN else task.progress_at_ms
        return since_ms + span_ms if span_ms and task.state in (DISPATCHED, RUNNING) else None
    if task.state > SCHEDULED or task.attempts:
        return None
    if limit == Limit.EXPIRY:
        return options.expires_at_ms or None
    if not options.schedule_timeout_ms:
        return None
    return max(task.submitted_at_ms, task.spec.not_before_ms) + options.schedule_timeout_ms


def _stop(table: Table, task: Task, command: TimeOut) -> None:
    options = task.spec.options
    assert options is not None, "it has a limit"
    if command.limit == Limit.RUN:
        error = f"{TIMED_OUT}: the attempt took more than {options.run_timeout_ms} ms"
    else:
        error = f"{STALLED}: no checkpoint for more than {options.progress_timeout_ms} ms"
    if task.state == DISPATCHED:
        task.attempts += 1
    take_back(table, task)
    task.error, task.detail = error, ""
    note_fault(table, task, error, "")
    table.happened(Kind.TASK_TIMED_OUT, task, task.node_id, error)
    breakers.went_wrong(table, task.node_id, task.spec.capability)
    try_again(table, task, error, command.jitter_permille, is_final=False)
