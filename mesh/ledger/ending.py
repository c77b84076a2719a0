"""How an attempt comes to nothing, and what then becomes of the task: again, elsewhere, held, dead, cancelled."""

from mesh.ledger.lease import requeue, take_back
from mesh.ledger.retry import backoff_ms
from mesh.ledger.table import Table
from mesh.ledger.task import (
    CANCELLED,
    DEAD,
    DISPATCHED,
    FAULT_DETAIL_CHARS_MAX,
    FAULTS_MAX,
    PAUSED,
    RUNNING,
    Fault,
    Kind,
    Task,
)
from mesh.ledger.transitions import BURY, CANCEL, FALL_BACK, RETRY

_RETRIED = int(Kind.TASK_RETRIED)
_DEAD = int(Kind.TASK_DEAD)
_CANCELLED = int(Kind.TASK_CANCELLED)

UNSCHEDULABLE = "unschedulable"
TIMED_OUT = "timeout_run"
STALLED = "timeout_progress"
NODE_LOST = "node_lost"
POISON = "poison"
EXPIRED = "expired"
"""How errors and reasons begin that are not the handler's own (C25)."""


def end_as_cancelled(table: Table, task: Task, reason: str) -> None:
    """End a task from outside, in whatever state it is. What runs is told to stop, and fenced if it does not hear."""
    assert task.state in CANCEL, "whatever is in the table can be cancelled"
    if task.state in (DISPATCHED, RUNNING):
        take_back(table, task)
    table.queue.remove(task)
    table.happened(_CANCELLED, task, task.node_id, reason)
    table.finish(task, CANCELLED)


def note_fault(table: Table, task: Task, error: str, detail: str) -> None:
    """Keep what went wrong. The first of them and the latest stay."""
    fault = Fault(task.attempts, task.node_id, table.now.at_ms, error, detail[-FAULT_DETAIL_CHARS_MAX:])
    if task.faults is None:
        task.faults = [fault]
        return
    if len(task.faults) >= FAULTS_MAX:
        del task.faults[1]
    task.faults.append(fault)


def try_again(table: Table, task: Task, error: str, jitter_permille: int, *, is_final: bool) -> None:
    """An attempt failed, and its lease is over: another one after a pause, unless attempts are spent or there is no use
    in it.
    """
    options = task.spec.options
    retry = None if options is None else options.retry
    if retry is not None and error.partition(":")[0] in retry.never:
        is_final = True
    if is_final or task.attempts >= task.spec.max_attempts:
        give_up(table, task, error)
        return
    delay_ms = backoff_ms(task.attempts, jitter_permille, retry)
    task.not_before_ms = table.now.at_ms + delay_ms
    table.happened(_RETRIED, task, task.node_id, f"in {delay_ms} ms")
    requeue(table, task, RETRY[task.state])


def give_up(table: Table, task: Task, error: str) -> None:
    """No further attempt as things are. If it has a fallback it is tried by that, once; else it is a dead letter."""
    options = task.spec.options
    if options is not None and options.fallback and options.fallback != task.spec.capability:
        fall_back(table, task, options.fallback, error)
    else:
        bury(table, task, error)


def fall_back(table: Table, task: Task, capability: str, why: str) -> None:
    """The task, under no lease, waits for another capability, with its attempts and its crashes forgotten."""
    table.queue.remove(task)
    task.redirect(capability=capability)
    task.primary_error = why
    task.attempts = task.crashes = 0
    task.awaited_ms = table.now.at_ms
    table.happened(Kind.TASK_FELL_BACK, task, task.node_id, f"to {capability}: {why}")
    requeue(table, task, FALL_BACK[task.state])
    table.now.awaited.append(task)


def bury(table: Table, task: Task, reason: str) -> None:
    """The lease has ended and the task is given up: it becomes a dead letter, with its reason."""
    assert task.state in BURY, "a task that is held or has ended is not buried"
    table.queue.remove(task)
    table.happened(_DEAD, task, task.node_id, reason)
    table.finish(task, DEAD)


def hold(table: Table, task: Task, reason: str) -> None:
    """The lease has ended, nobody knows how far its code got, and it must not run twice: a person decides (C31)."""
    task.error = reason
    table.happened(Kind.TASK_HELD, task, task.node_id, reason)
    table.move(task, PAUSED)
    task.node_id = type(task.node_id)("")
    task.checkpoint_sequence = 0


def crashed(table: Table, task: Task, error: str) -> bool:
    """The process died under the task. True if it has done so too often: the task is poison, and dead (C32)."""
    settings = table.settings
    task.crashes += 1
    if task.crashes >= settings.dead_after_crashes:
        task.error = f"{POISON}: {task.crashes} processes died while they ran it; the last: {error}"
        bury(table, task, task.error)
        return True
    if task.crashes == settings.alone_after_crashes:
        table.happened(Kind.TASK_ISOLATED, task, task.node_id, f"{task.crashes} processes died while they ran it")
    return False
