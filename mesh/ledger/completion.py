"""CompleteTask, FailAttempt, CancelTask: how an attempt ends, and with it perhaps the task.

Only the latest grant may complete. Reporting twice is harmless. A report under an older lease is fenced, counted and
put on record, because it is the trace of a node that woke up too late.
"""

from mesh.ids import FencingToken, TaskId
from mesh.ledger import breakers
from mesh.ledger.applied import ALREADY, DONE, FENCED, UNKNOWN
from mesh.ledger.commands import CancelTask, CompleteTask, FailAttempt
from mesh.ledger.digest import is_of_token
from mesh.ledger.ending import crashed, end_as_cancelled, note_fault, try_again
from mesh.ledger.lease import leased
from mesh.ledger.table import Table
from mesh.ledger.task import COMPLETED, DISPATCHED, RUNNING, Kind
from mesh.ledger.transitions import COMPLETE
from mesh.messages import Failure

_COMPLETED = int(Kind.TASK_COMPLETED)
_FAILED = int(Kind.TASK_FAILED)
_FENCED = int(Kind.COMPLETION_FENCED)


def complete(table: Table, command: CompleteTask, position: int) -> int:
    """Accept a result under the latest grant, even if that lease was lost meanwhile and nobody has overtaken it."""
    table.now.settled.append((command.task_id, command.token))
    task = table.tasks.get(command.task_id)
    if task is None or task.token != command.token or task.state not in COMPLETE:
        return fenced(table, command.task_id, command.token)
    if task.state != RUNNING and (task.state == DISPATCHED or not task.attempts):
        task.attempts += 1
    table.end_lease(task)
    if table.breakers and task.node_id:
        breakers.went_well(table, task)
    if task.lost_by:
        task.node_id, task.lost_by = task.lost_by, type(task.lost_by)("")
    table.queue.remove(task)
    task.result = command.result
    task.error = task.detail = ""
    table.happened(_COMPLETED, task, task.node_id)
    table.finish(task, COMPLETED)
    return DONE


def fail(table: Table, command: FailAttempt, position: int) -> int:
    """An attempt failed: try again after a pause, or give the task up when its attempts are spent."""
    table.now.settled.append((command.task_id, command.token))
    task = leased(table, command.task_id, command.token)
    if task is None:
        return fenced(table, command.task_id, command.token)
    if task.state == DISPATCHED:
        task.attempts += 1
    table.end_lease(task)
    task.error, task.detail = command.error, command.detail
    table.happened(_FAILED, task, task.node_id, command.error)
    if table.level:
        note_fault(table, task, command.error, command.detail)
        breakers.went_wrong(table, task)
        if command.failure == Failure.CRASH and crashed(table, task, command.error):
            return DONE
    try_again(table, task, command.error, command.jitter_permille, is_final=command.final)
    return DONE


def cancel(table: Table, command: CancelTask, position: int) -> int:
    """End a task from outside, in whatever state it is. What runs is told to stop, and fenced if it does not hear."""
    task = table.tasks.get(command.task_id)
    if task is None:
        return ALREADY if command.task_id in table.finished else UNKNOWN
    end_as_cancelled(table, task, command.reason)
    return DONE


def fenced(table: Table, task_id: TaskId, token: FencingToken) -> int:
    """What to answer a report that does not count: repeated, from an older lease, or from nowhere."""
    task = table.tasks.get(task_id)
    if task is None:
        known = table.finished.get(task_id)
        if known is None:
            return UNKNOWN
        if is_of_token(known, token):
            return ALREADY
        table.happened(_FENCED, None, detail=f"token {token} of a task that has ended")
    elif task.token == token:
        return ALREADY
    else:
        table.happened(_FENCED, task, token=token, detail=f"latest token {task.token}")
    return FENCED
