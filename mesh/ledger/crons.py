"""SetCron, DropCron, FireCron: schedules, and what their firings submit.

A firing is a committed command. It may come late, and never comes twice: FireCron names the time it was due, which has
to be the time the schedule is due next, and moves that on. When that is, the leader says (dispatch/calendar.py): the
replicas need to know no calendar.
"""

from typing import Final

from mesh.ids import TaskId
from mesh.ledger import submission
from mesh.ledger.applied import ALREADY, DONE, REFUSED, UNKNOWN
from mesh.ledger.commands import CancelTask, DropCron, FireCron, SetCron, SubmitTask
from mesh.ledger.completion import cancel
from mesh.ledger.registry import Cron
from mesh.ledger.settings import DAY_MS
from mesh.ledger.table import Table
from mesh.ledger.task import DEAD, FINISHED, Kind, Task
from mesh.messages import TaskSpec
from mesh.options import Overlap

CRONS_MAX: Final = 1_000
CRON_NAME_CHARS_MAX: Final = 180
"""With the time behind it, a name makes a task id."""
DELAY_MS_MAX: Final = DAY_MS


def set_cron(table: Table, command: SetCron, position: int) -> int:
    """Begin a schedule, or change it: what it has done is kept, and when it is due next is decided anew. Setting the
    same again changes nothing, so that no firing is lost that is due just now.

    A firing that waits is given up, unless such firings still wait under what the schedule has become.
    """
    spec = command.spec
    # Whether characters can be printed is for `calendar.flaw` to say: releases of Python differ about it, replicas may
    # not.
    if not 0 < len(spec.name) <= CRON_NAME_CHARS_MAX:
        return REFUSED
    cron = table.crons.get(spec.name)
    if cron is None:
        if len(table.crons) >= CRONS_MAX:
            return REFUSED
        table.crons[spec.name] = Cron(spec, command.next_ms)
    elif cron.spec == spec:
        return ALREADY
    else:
        cron.spec, cron.next_ms = spec, command.next_ms
        if cron.waits_ms and (spec.is_paused or spec.overlap != Overlap.QUEUE_ONE):
            _skip(table, cron, cron.waits_ms, "it waited when the schedule was changed")
            cron.waits_ms = 0
    paused = ", paused" if spec.is_paused else ""
    table.happened(Kind.CRON_SET, None, detail=f"{spec.name}: {spec.expression} ({spec.zone}){paused}")
    return DONE


def drop_cron(table: Table, command: DropCron, position: int) -> int:
    """End a schedule, and with it the firing that waits, if one does. What it has submitted goes on."""
    if table.crons.pop(command.name, None) is None:
        return UNKNOWN
    table.happened(Kind.CRON_DROPPED, None, detail=command.name)
    return DONE


def fire_cron(table: Table, command: FireCron, position: int) -> int:
    """The schedule is due: submit its task, if its last one lets it, and move on to the next time.

    ALREADY if the firing has been dealt with, or another task has its id.
    """
    cron = table.crons.get(command.name)
    if cron is None:
        return UNKNOWN
    if not _may_fire(table, cron, command):
        return REFUSED
    due_ms = command.due_ms
    cron.next_ms = command.next_ms
    if due_ms <= cron.last_ms:
        return ALREADY  # The schedule was changed, and what it became begins in the past.
    cron.last_ms = due_ms
    if command.is_skipped:
        _skip(table, cron, due_ms, f"missed; next at {command.next_ms}")
        return DONE
    task = _task(cron, due_ms, command.delay_ms)
    if table.is_same(task) is not None:
        return ALREADY
    overlap = cron.spec.overlap
    if overlap != Overlap.ALLOW and _is_busy(table, cron):
        if overlap == Overlap.CANCEL_OLD:
            cancel(table, CancelTask(cron.last_task, f"made way for {task.task_id}"), position)
        elif overlap == Overlap.QUEUE_ONE and not cron.waits_ms:
            cron.waits_ms = due_ms
            return DONE
        else:
            _skip(table, cron, due_ms, f"{cron.last_task} has not ended")
            return DONE
    _submit(table, cron, task, due_ms, position)
    return DONE


def last_ended(table: Table, task: Task, position: int) -> bool:
    """A task has ended, as a dead letter or for good. If a firing of its schedule waits for that, it happens now.

    Args:
        position: of what is submitted: behind the last command of the entry, so that tasks differ in their places.

    Returns:
        Whether the position has been taken.
    """
    task_id = task.spec.task_id
    cron = table.crons.get(task_id.rpartition("@")[0])
    if cron is None or not cron.waits_ms or cron.last_task != task_id:
        return False
    if task.state not in FINISHED and task.state != DEAD:
        return False  # It was put back in the very entry that buried it.
    due_ms, cron.waits_ms = cron.waits_ms, 0
    waiting = _task(cron, due_ms, 0)
    if table.is_same(waiting) is not None:
        return False
    _submit(table, cron, waiting, due_ms, position)
    return True


def _may_fire(table: Table, cron: Cron, command: FireCron) -> bool:
    return (
        not cron.spec.is_paused
        and command.due_ms == cron.next_ms
        and command.due_ms <= table.now.at_ms
        and command.next_ms > command.due_ms
        and 0 <= command.delay_ms <= DELAY_MS_MAX
    )


def _is_busy(table: Table, cron: Cron) -> bool:
    """Whether the last task has not ended, or a firing has its place already."""
    last = table.tasks.get(cron.last_task)
    return cron.waits_ms != 0 or (last is not None and last.state != DEAD)


def _task(cron: Cron, due_ms: int, delay_ms: int) -> TaskSpec:
    spec = cron.spec
    return TaskSpec(
        TaskId(f"{spec.name}@{due_ms}"),
        spec.capability,
        spec.payload,
        priority=spec.priority,
        max_attempts=spec.max_attempts,
        not_before_ms=due_ms + delay_ms if delay_ms else 0,
        source=f"cron {spec.name}",
        options=spec.options,
    )


def _submit(table: Table, cron: Cron, task: TaskSpec, due_ms: int, position: int) -> None:
    """The id is known to be free. No client is to be told: one whose submit has the same id is yet to be answered."""
    if submission.submit(table, SubmitTask(task), position) == REFUSED:
        table.now.turned_down.pop()
        _skip(table, cron, due_ms, "its concurrency key is full")
        return
    table.now.submitted.pop()
    table.happened(Kind.CRON_FIRED, None, detail=task.task_id)
    cron.fired += 1
    cron.last_task = task.task_id


def _skip(table: Table, cron: Cron, due_ms: int, why: str) -> None:
    cron.skipped += 1
    table.happened(Kind.CRON_SKIPPED, None, detail=f"{cron.spec.name}@{due_ms}: {why}")
