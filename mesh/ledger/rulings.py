"""What is decided about the mesh while it runs: its level, its settings, queues and priorities, whom to trust again."""

import msgspec

from mesh.config import LEVEL
from mesh.ledger import ending, settings
from mesh.ledger.applied import ALREADY, DONE, REFUSED, UNKNOWN
from mesh.ledger.commands import (
    CloseBreaker,
    FallBack,
    PauseQueue,
    RaiseLevel,
    Reprioritize,
    ResumeQueue,
    SetSetting,
)
from mesh.ledger.registry import PAUSES_MAX, Pause
from mesh.ledger.table import Table
from mesh.ledger.task import SCHEDULED, Kind


def raise_level(table: Table, command: RaiseLevel, position: int) -> int:
    """From here on entries mean what they mean at this level."""
    assert command.level <= LEVEL, (
        f"the mesh has gone on to level {command.level}, this release knows {LEVEL}; upgrade it"
    )
    if command.level <= table.level:
        return ALREADY
    table.level = command.level
    table.happened(Kind.LEVEL_RAISED, None, detail=str(command.level))
    return DONE


def change_setting(table: Table, command: SetSetting, position: int) -> int:
    if settings.flaw(command.name, command.value):
        return REFUSED
    if getattr(table.settings, command.name) == command.value:
        return ALREADY
    table.settings = msgspec.structs.replace(table.settings, **{command.name: command.value})
    table.now.nodes_changed = True
    table.happened(Kind.SETTING_CHANGED, None, detail=f"{command.name} {command.value}")
    return DONE


def pause(table: Table, command: PauseQueue, position: int) -> int:
    """Grant nothing of a capability. What runs goes on."""
    ruling = Pause(command.until_ms, command.reason)
    if table.pauses.get(command.capability) == ruling:
        return ALREADY
    if command.until_ms and command.until_ms <= table.now.at_ms:
        return REFUSED
    if command.capability not in table.pauses:
        for over in [name for name, known in table.pauses.items() if 0 < known.until_ms <= table.now.at_ms]:
            del table.pauses[over]
        if len(table.pauses) >= PAUSES_MAX:
            return REFUSED
    table.pauses[command.capability] = ruling
    table.happened(Kind.QUEUE_PAUSED, None, detail=f"{command.capability}: {command.reason}")
    return DONE


def resume(table: Table, command: ResumeQueue, position: int) -> int:
    if table.pauses.pop(command.capability, None) is None:
        return ALREADY
    table.happened(Kind.QUEUE_RESUMED, None, detail=command.capability)
    return DONE


def reprioritize(table: Table, command: Reprioritize, position: int) -> int:
    """A waiting task gets another priority; one that is leased or held keeps it for when it waits again."""
    task = table.tasks.get(command.task_id)
    if task is None:
        return UNKNOWN
    before = task.spec.priority
    if before == command.priority:
        return ALREADY
    is_in_line = task.ticket != 0  # The leader has taken out those that it is about to grant.
    if is_in_line:
        table.queue.remove(task)
    task.spec = msgspec.structs.replace(task.spec, priority=command.priority)
    table.changed[command.task_id] = task
    table.happened(Kind.TASK_REPRIORITIZED, task, detail=f"from {before} to {command.priority}")
    if is_in_line:
        table.queue.push(task)
    return DONE


def fall_back(table: Table, command: FallBack, position: int) -> int:
    """While nobody can be trusted with a capability, its tasks do with less: those that have a fallback go there. That
    ends by itself: tasks that come once a breaker has closed go the ordinary way.
    """
    task = table.tasks.get(command.task_id)
    if task is None:
        return UNKNOWN
    options = task.spec.options
    capability = task.spec.capability
    if options is None or options.fallback in ("", capability) or task.state > SCHEDULED:
        return REFUSED
    ending.fall_back(table, task, options.fallback, f"nobody's breaker for {capability} is closed")
    return DONE


def close_breaker(table: Table, command: CloseBreaker, position: int) -> int:
    """By order of a person."""
    if table.breakers.pop((command.node_id, command.capability), None) is None:
        return ALREADY
    table.happened(Kind.BREAKER_CLOSED, None, command.node_id, f"{command.capability}, by hand")
    return DONE
