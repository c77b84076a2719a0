"""What is decided about the mesh while it runs, and about time that has run out, as it ought to be: see model.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.ledger import commands
from mesh.ledger.applied import ALREADY, DONE, REFUSED, UNKNOWN
from mesh.ledger.settings import Settings, flaw
from mesh.ledger.task import DEAD, DISPATCHED, PENDING, RUNNING, SCHEDULED
from mesh.sim.linearizable import Call

if TYPE_CHECKING:
    from mesh.sim.model import Model

WAITING = (PENDING, SCHEDULED)
LEASED = (DISPATCHED, RUNNING)


def raise_level(model: Model, command: commands.RaiseLevel) -> int:
    if command.level <= model.limits.level:
        return ALREADY
    model.limits.level = command.level
    return DONE


def time_out(model: Model, command: commands.TimeOut) -> int:
    task = model.live(command.task_id)
    if task is None:
        return UNKNOWN
    options = task.options
    if options is None:
        return REFUSED
    if command.limit in (commands.Limit.RUN, commands.Limit.PROGRESS):
        is_run = command.limit == commands.Limit.RUN
        span_ms = options.run_timeout_ms if is_run else options.progress_timeout_ms
        since_ms = task.granted_ms if is_run else task.progress_ms
        if task.state not in LEASED or task.token != command.token or not span_ms or since_ms + span_ms > model.at_ms:
            return REFUSED
        if task.state == DISPATCHED:
            task.attempts += 1
        task.reason = "timeout_"
        model.coverage.add("attempt ran too long" if is_run else "attempt made no progress")
        model.went_wrong(task)
        model.try_again(task, "timeout_", command.jitter_permille, is_final=False)
        return DONE
    if task.state not in WAITING or task.attempts or task.has_begun:
        return REFUSED
    if command.limit == commands.Limit.EXPIRY:
        if task.has_failed or not 0 < options.expires_at_ms <= model.at_ms:
            return REFUSED
        model.coverage.add("task expired")
        model.call_off(command.task_id)
        return DONE
    since_ms = max(task.submitted_ms, model.first_due_ms.get(command.task_id, 0), task.awaited_ms)
    if not options.schedule_timeout_ms or since_ms + options.schedule_timeout_ms > model.at_ms:
        return REFUSED
    model.coverage.add("task not scheduled in time")
    task.reason = "unschedulable"
    model.give_up(task)
    if task.state == DEAD:
        model.done.append((Call.BURY, command.task_id, False))
    return DONE


def reprioritize(model: Model, command: commands.Reprioritize) -> int:
    task = model.live(command.task_id)
    if task is None:
        return UNKNOWN
    if task.priority == command.priority:
        return ALREADY
    task.priority = command.priority
    model.moved[command.task_id] = None
    model.coverage.add("task reprioritized")
    return DONE


def change_setting(model: Model, command: commands.SetSetting) -> int:
    if flaw(command.name, command.value):
        return REFUSED
    if model.set_to.get(command.name, getattr(Settings(), command.name)) == command.value:
        return ALREADY
    model.set_to[command.name] = command.value
    model.limits.set(command.name, command.value)
    return DONE


def pause(model: Model, command: commands.PauseQueue) -> int:
    if (command.until_ms, command.reason) == model.pause_words.get(command.capability):
        return ALREADY
    if 0 < command.until_ms <= model.at_ms:
        return REFUSED
    if command.capability not in model.limits.paused:
        for over in [name for name, until_ms in model.limits.paused.items() if 0 < until_ms <= model.at_ms]:
            del model.limits.paused[over], model.pause_words[over]
    model.limits.paused[command.capability] = command.until_ms
    model.pause_words[command.capability] = command.until_ms, command.reason
    model.coverage.add("queue paused")
    return DONE


def resume(model: Model, command: commands.ResumeQueue) -> int:
    model.pause_words.pop(command.capability, None)
    if model.limits.paused.pop(command.capability, None) is None:
        return ALREADY
    model.coverage.add("queue resumed")
    return DONE


def fall_back(model: Model, command: commands.FallBack) -> int:
    task = model.live(command.task_id)
    if task is None:
        return UNKNOWN
    if task.options is None or task.options.fallback in ("", task.capability) or task.state not in WAITING:
        return REFUSED
    model.coverage.add("fell back for want of a closed breaker")
    model.give_up(task)
    return DONE


def close_breaker(model: Model, command: commands.CloseBreaker) -> int:
    return ALREADY if model.limits.breakers.pop((command.node_id, command.capability), None) is None else DONE
