"""Orders about the mesh as a whole, turned into commands: priorities, settings, pauses, breakers, schedules."""

from collections.abc import Callable
from typing import Final

import msgspec

from mesh.dispatch import calendar
from mesh.ids import NodeId, TaskId
from mesh.ledger import limits, settings
from mesh.ledger.commands import (
    CloseBreaker,
    Command,
    DropCron,
    PauseQueue,
    Reprioritize,
    ResumeQueue,
    SetCron,
    SetSetting,
)
from mesh.ledger.crons import CRONS_MAX
from mesh.ledger.ledger import Ledger
from mesh.ledger.registry import PAUSES_MAX
from mesh.ledger.task import PENDING, SCHEDULED, TaskState
from mesh.messages import Action, Code, Order
from mesh.node import treatment
from mesh.node.treatment import EPOCH_MS_MAX
from mesh.options import CronSpec, Dependents, Selection

PRIORITY_ABS_MAX: Final = 1_000_000
IDS_MAX: Final = 10_000
NOT_YET: Final = "not all nodes of the mesh have said yet that they know such orders; nothing was done, try again"
_number = msgspec.msgpack.Decoder(int)
_cron = msgspec.msgpack.Decoder(CronSpec)
_selection = msgspec.msgpack.Decoder(Selection)

COMMANDS: Final = frozenset({Reprioritize, SetSetting, PauseQueue, ResumeQueue, CloseBreaker, SetCron, DropCron})
"""What comes of these orders."""
Made = Command | tuple[Code, str]


def command(order: Order, ledger: Ledger, at_ms: int) -> Made:
    """The command an order stands for at `at_ms` (epoch, time in the log), or why there is none."""
    if not ledger.level:
        return Code.UNAVAILABLE, NOT_YET
    try:
        return MAKERS[order.action](order, ledger, at_ms)
    except msgspec.MsgspecError as error:
        return Code.INVALID, f"the order's value is not what it should be: {error}"


def _reprioritize(order: Order, ledger: Ledger, at_ms: int) -> Made:
    priority = _number.decode(order.value)
    if abs(priority) > PRIORITY_ABS_MAX:
        return Code.INVALID, f"a priority lies between -{PRIORITY_ABS_MAX} and {PRIORITY_ABS_MAX}, not at {priority}"
    if TaskId(order.target) not in ledger.tasks:
        return Code.NOT_FOUND, f"no task {order.target!r} waits or runs"
    return Reprioritize(TaskId(order.target), priority)


def _set(order: Order, ledger: Ledger, at_ms: int) -> Made:
    value = _number.decode(order.value)
    why = settings.flaw(order.target, value)
    return (Code.INVALID, why) if why else SetSetting(order.target, value)


def _pause(order: Order, ledger: Ledger, at_ms: int) -> Made:
    until_ms = _number.decode(order.value) if order.value else 0
    if not order.target or len(order.target) > treatment.NAME_CHARS_MAX:
        return Code.INVALID, f"a capability has 1 to {treatment.NAME_CHARS_MAX} characters"
    if until_ms and not at_ms < until_ms <= EPOCH_MS_MAX:
        return Code.INVALID, "a queue is paused until some time to come"
    others = [name for name in ledger.pauses if name != order.target and limits.is_paused(ledger, name, at_ms)]
    if len(others) >= PAUSES_MAX:
        return Code.REFUSED, f"{PAUSES_MAX} queues are paused, more there cannot be; resume one first"
    return PauseQueue(order.target, until_ms, order.reason)


def _resume(order: Order, ledger: Ledger, at_ms: int) -> Made:
    return ResumeQueue(order.target)


def _close_breaker(order: Order, ledger: Ledger, at_ms: int) -> Made:
    node_id, slash, capability = order.target.partition("/")
    if not slash or NodeId(node_id) not in ledger.nodes:
        return Code.NOT_FOUND, f"a breaker is named NODE/CAPABILITY; there is none called {order.target!r}"
    return CloseBreaker(NodeId(node_id), capability)


def _set_cron(order: Order, ledger: Ledger, at_ms: int) -> Made:
    spec = _cron.decode(order.value)
    why = calendar.flaw(spec) or ("" if spec.options is None else treatment.flaw(spec.options))
    if why:
        return Code.INVALID, why
    if spec.name not in ledger.crons and len(ledger.crons) >= CRONS_MAX:
        return Code.REFUSED, f"there are {CRONS_MAX} schedules, more there cannot be; drop one first"
    return _from(at_ms, spec)


def _from(at_ms: int, spec: CronSpec) -> Made:
    try:
        return SetCron(spec, calendar.next_of(spec, at_ms))
    except ValueError as error:  # Its zone always leaves out what it asks for, or is not known on this host.
        return Code.INVALID, str(error)


def _pause_cron(order: Order, ledger: Ledger, at_ms: int) -> Made:
    cron = ledger.crons.get(order.target)
    if cron is None:
        return _no_cron(order)
    return SetCron(msgspec.structs.replace(cron.spec, is_paused=True), cron.next_ms)


def _resume_cron(order: Order, ledger: Ledger, at_ms: int) -> Made:
    """What it would have fired meanwhile is not made up for."""
    cron = ledger.crons.get(order.target)
    if cron is None:
        return _no_cron(order)
    return _from(at_ms, msgspec.structs.replace(cron.spec, is_paused=False))


def _no_cron(order: Order) -> Made:
    return Code.NOT_FOUND, f"no schedule is called {order.target!r}"


def _drop_cron(order: Order, ledger: Ledger, at_ms: int) -> Made:
    return DropCron(order.target) if order.target in ledger.crons else _no_cron(order)


MAKERS: Final[dict[int, Callable[[Order, Ledger, int], Made]]] = {
    Action.REPRIORITIZE: _reprioritize,
    Action.SET: _set,
    Action.PAUSE: _pause,
    Action.RESUME: _resume,
    Action.CLOSE_BREAKER: _close_breaker,
    Action.SET_CRON: _set_cron,
    Action.DROP_CRON: _drop_cron,
    Action.PAUSE_CRON: _pause_cron,
    Action.RESUME_CRON: _resume_cron,
}


def selection(order: Order) -> Selection | str:
    """The tasks that an order means, or why it means none, in a sentence."""
    if order.action == Action.CLEAR:
        digits = order.target.removeprefix("-")
        if not digits.isascii() or not digits.isdecimal() or len(digits) > len(str(PRIORITY_ABS_MAX)):
            return f"a priority is a number, not {order.target!r}"
        priority = int(order.target)
        return Selection(priority_min=priority, priority_max=priority, states=(PENDING, SCHEDULED))
    try:
        chosen = _selection.decode(order.value)
    except msgspec.MsgspecError as error:
        return f"the order's value is not what it should be: {error}"
    if len(chosen.task_ids) > IDS_MAX:
        return f"{IDS_MAX} tasks may be named at most, not {len(chosen.task_ids)}"
    are_states = len(chosen.states) <= len(TaskState) and {*chosen.states} <= {*TaskState}
    if not are_states or chosen.limit < 1 or not 0 <= chosen.dependents <= max(Dependents):
        return "a selection names states there are, a limit from 1 on, and what becomes of dependents"
    return chosen
