"""RedriveTask, DropDeadLetter: what a person decides about a dead letter.

Nothing leaves the dead letter queue by itself.
"""

from mesh.ids import FencingToken
from mesh.ledger.applied import DONE, REFUSED, UNKNOWN
from mesh.ledger.commands import DropDeadLetter, RedriveTask
from mesh.ledger.lease import requeue
from mesh.ledger.submission import ORDERS_PER_ENTRY
from mesh.ledger.table import Table
from mesh.ledger.task import FAILED, Kind
from mesh.ledger.transitions import DROP, REDRIVE

_REDRIVEN = int(Kind.TASK_REDRIVEN)
_DROPPED = int(Kind.TASK_DROPPED)


def redrive(table: Table, command: RedriveTask, position: int) -> int:
    """Put a dead letter, or a held task, at the end of the line, its attempts forgotten and its checkpoint kept."""
    task = table.tasks.get(command.task_id)
    if task is None:
        return UNKNOWN
    state = REDRIVE.get(task.state)
    if state is None:
        return REFUSED
    task.attempts = task.crashes = 0
    task.awaited_ms = table.now.at_ms
    task.finished_at_ms = 0
    if command.payload is not None:
        table.live_bytes += len(command.payload) - len(task.spec.payload)
        task.redirect(payload=command.payload)
    task.token = FencingToken(0)  # What an old attempt may still report counts no more.
    task.order = table.now.index * ORDERS_PER_ENTRY + position
    table.happened(_REDRIVEN, task)
    requeue(table, task, state)
    if task.spec.options is not None:
        table.treated.moved_back(task, task.spec.options)
        table.now.awaited.append(task)
    return DONE


def drop(table: Table, command: DropDeadLetter, position: int) -> int:
    """Give a dead letter up for good. It ends as failed, its last error and the reason on record."""
    task = table.tasks.get(command.task_id)
    if task is None:
        return UNKNOWN
    if task.state not in DROP:
        return REFUSED
    table.happened(_DROPPED, task, detail=command.reason)
    table.finish(task, FAILED)
    return DONE
