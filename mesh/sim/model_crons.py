"""Schedules as they ought to be, said a second time: see model.py.

A firing is named by when it was due. Whatever becomes of it, it is dealt with once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mesh.ids import TaskId
from mesh.ledger import commands
from mesh.ledger.applied import ALREADY, DONE, REFUSED, UNKNOWN
from mesh.ledger.task import CANCELLED, COMPLETED, DEAD, FAILED
from mesh.messages import TaskSpec
from mesh.options import CronSpec, Overlap
from mesh.sim.linearizable import Call

if TYPE_CHECKING:
    from mesh.sim.model import Model

_NO_MORE = (COMPLETED, FAILED, CANCELLED, DEAD)


class ModelCron(msgspec.Struct):
    """`dealt_ms`: when the latest firing was due of which anything became. `waits_ms`: of the one that waits, or 0."""

    spec: CronSpec
    next_ms: int
    last_task: TaskId = TaskId("")
    dealt_ms: int = 0
    waits_ms: int = 0


def set_cron(model: Model, command: commands.SetCron) -> int:
    spec = command.spec
    known = model.crons.get(spec.name)
    if known is None:
        model.crons[spec.name] = ModelCron(spec, command.next_ms)
        return DONE
    if known.spec == spec:
        return ALREADY
    known.spec, known.next_ms = spec, command.next_ms
    if spec.is_paused or spec.overlap != Overlap.QUEUE_ONE:
        known.waits_ms = 0
    return DONE


def drop_cron(model: Model, command: commands.DropCron) -> int:
    return UNKNOWN if model.crons.pop(command.name, None) is None else DONE


def fire_cron(model: Model, command: commands.FireCron) -> int:
    cron = model.crons.get(command.name)
    if cron is None:
        return UNKNOWN
    is_due = command.due_ms == cron.next_ms <= model.at_ms and command.next_ms > command.due_ms
    if cron.spec.is_paused or not is_due:
        return REFUSED
    cron.next_ms = command.next_ms
    if command.due_ms <= cron.dealt_ms:
        return ALREADY
    cron.dealt_ms = command.due_ms
    if command.is_skipped:
        model.coverage.add("cron skipped")
        return DONE
    if _name(cron, command.due_ms) in model.tasks:
        return ALREADY
    overlap = cron.spec.overlap
    if overlap != Overlap.ALLOW and _is_busy(model, cron):
        if overlap == Overlap.SKIP or (overlap == Overlap.QUEUE_ONE and cron.waits_ms):
            model.coverage.add("cron skipped")
            return DONE
        if overlap == Overlap.QUEUE_ONE:
            model.coverage.add("cron waits for the last one")
            cron.waits_ms = command.due_ms
            return DONE
        model.coverage.add("cron cancelled the last one")
        model.call_off(cron.last_task)
    _fire(model, cron, command.due_ms, command.delay_ms)
    return DONE


def last_ended(model: Model, task_id: TaskId) -> None:
    """A task has come to its end, or died: what waits for that fires, unless the same entry has put it back."""
    if model.tasks[task_id].state not in _NO_MORE:
        return
    for cron in model.crons.values():
        if cron.waits_ms and cron.last_task == task_id:
            due_ms, cron.waits_ms = cron.waits_ms, 0
            if _name(cron, due_ms) not in model.tasks:
                _fire(model, cron, due_ms, 0)
            return


def _is_busy(model: Model, cron: ModelCron) -> bool:
    last = model.tasks.get(cron.last_task)
    return bool(cron.waits_ms) or (last is not None and last.state not in _NO_MORE)


def _name(cron: ModelCron, due_ms: int) -> TaskId:
    return TaskId(f"{cron.spec.name}@{due_ms}")


def _fire(model: Model, cron: ModelCron, due_ms: int, delay_ms: int) -> None:
    spec = cron.spec
    task = TaskSpec(
        _name(cron, due_ms),
        spec.capability,
        spec.payload,
        priority=spec.priority,
        max_attempts=spec.max_attempts,
        not_before_ms=due_ms + delay_ms if delay_ms else 0,
        options=spec.options,
    )
    before = len(model.done)
    if model.submit(commands.SubmitTask(task)) == REFUSED:
        model.coverage.add("cron skipped")
        return
    model.done.insert(before, (Call.SUBMIT, task.task_id, False))
    model.coverage.add("cron fired")
    model.fired[task.task_id] = None
    cron.last_task = task.task_id
