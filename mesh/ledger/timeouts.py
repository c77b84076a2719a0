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
from mesh.ledger.task import BEGUN, DISPATCHED, RUNNING, SCHEDULED, Kind, Task
from mesh.options import Options


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
        waited_ms = table.now.at_ms - _awaited_since_ms(task)
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
    return begin_by_ms(task, options, limit) if task.state <= SCHEDULED else None


def begin_by_ms(task: Task, options: Options, limit: int) -> int | None:
    """By when an attempt has to begin, wherever the task stands now; None if one has begun, or that is not limited.

    An attempt that was not charged in the end has begun as well, and so has one of the capability that the task has
    fallen back from: with that, it cannot expire any more. For an attempt of its fallback it waits anew.
    """
    if task.attempts or task.awaited_ms == BEGUN:
        return None
    if limit == Limit.EXPIRY:
        return options.expires_at_ms or None if task.faults is None else None
    return _awaited_since_ms(task) + options.schedule_timeout_ms if options.schedule_timeout_ms else None


def _awaited_since_ms(task: Task) -> int:
    return max(task.submitted_at_ms, task.spec.not_before_ms, task.awaited_ms)


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
    breakers.went_wrong(table, task)
    try_again(table, task, error, command.jitter_permille, is_final=False)
