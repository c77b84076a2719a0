"""Whether there is room for a task, and whether the id it wants is free again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mesh.effects import LoadRows
from mesh.events import RowsLoaded
from mesh.ids import FencingToken, TaskId
from mesh.ledger.digest import is_of_token
from mesh.ledger.task import DEAD, FINISHED, Task
from mesh.messages import TaskSpec, TasksRefused
from mesh.node import requests
from mesh.node.requests import Client
from mesh.options import Options
from mesh.wire.codec import decode_task

if TYPE_CHECKING:
    from mesh.node.node import Node

URGENT_MAX = 1
"""Priorities up to this may use the room that is kept back (research E.14)."""
LOOKS_MAX = 10_000
NEVER_GRANTED = FencingToken(1 << 32)
"""For a task that ended without ever having been granted. Its own token, 0, would stand for none; of a token only the
low half is remembered, and of this one that is 0 as well.
"""


class Room:
    """What the leader has room for, while one request is gone through."""

    def __init__(self, node: Node) -> None:
        ledger = node.ledger
        self._node = node
        self._tasks = len(ledger.tasks) + len(node.clients.waiting.accepting)
        self._bytes = ledger.live_bytes
        tasks_max = node.config.dispatch.queued_max
        self._tasks_max = tasks_max
        self._ordinary_max = tasks_max - tasks_max * ledger.settings.reserve_permille // 1_000

    def lack(self, spec: TaskSpec) -> str:
        """Why there is no room for this task just now; empty if there is."""
        node = self._node
        ledger, config = node.ledger, node.config.dispatch
        if node.clients.waiting.is_full:
            return "too many requests wait"
        if spec.options is not None and not ledger.level:
            return "not all nodes of the mesh have said yet that they know options of tasks"
        if self._tasks >= self._tasks_max:
            return f"the mesh holds {self._tasks} tasks, its limit"
        if self._tasks >= self._ordinary_max and spec.priority > URGENT_MAX:
            return f"the mesh holds {self._tasks} tasks; what room is left is kept for priorities 0 and 1"
        if self._bytes + len(spec.payload) > config.queued_bytes_max:
            return f"the mesh holds payloads of {self._bytes} bytes, its limit is {config.queued_bytes_max}"
        if ledger.counts[DEAD] >= ledger.settings.dead_letters_max:
            return f"there are {ledger.counts[DEAD]} dead letters, and no room for more: retry or drop some"
        return ""

    @property
    def has_any(self) -> bool:
        """Whether an ordinary task would be taken now, as far as its size does not matter."""
        ledger = self._node.ledger
        return self._tasks < self._ordinary_max and ledger.counts[DEAD] < ledger.settings.dead_letters_max

    def adapted(self, spec: TaskSpec) -> TaskSpec:
        """The task as this mesh can keep it. While some nodes know no options, whose child it is is not kept: to refuse
        it for that would stop work in the middle of an upgrade.
        """
        options = spec.options
        if self._node.ledger.level or options is None or options != Options(parent=options.parent):
            return spec
        return msgspec.structs.replace(spec, options=None)

    def take(self, spec: TaskSpec) -> None:
        """It is on its way."""
        self._tasks += 1
        self._bytes += len(spec.payload)


class Look(msgspec.Struct):
    """A submit whose id was another task's. Whether that ended long enough ago stands in its row."""

    client: Client
    spec: TaskSpec
    watch: bool


class Renewals:
    """Submits that wait for such a row, at the node in office."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._looks: dict[int, Look] = {}

    def may_be_over(self, spec: TaskSpec) -> bool:
        """Whether the task that has this id has ended, and the id may be taken again some time after that."""
        options = spec.options
        return options is not None and options.window_ms > 0 and spec.task_id in self._node.ledger.finished

    def look(self, client: Client, spec: TaskSpec, *, watch: bool) -> None:
        """Find out when that was."""
        task = self._node.behind.find(spec.task_id)
        if task is not None:
            self._decide(Look(client, spec, watch), task)
        elif len(self._looks) >= LOOKS_MAX:
            refusal = requests.backpressure(spec, "too many reads wait for the disk")
            self._node.clients.tell(client, TasksRefused([refusal]))
        else:
            load_id = self._node.clients.next_load()
            self._looks[load_id] = Look(client, spec, watch)
            self._node.out.append(LoadRows(load_id, [spec.task_id], limit=1))

    def loaded(self, event: RowsLoaded) -> None:
        look = self._looks.pop(event.read_id, None)
        if look is not None and self._node.leading.dispatcher.in_office:
            self._decide(look, decode_task(event.rows[0].record) if event.rows else None)

    def leave_office(self) -> None:
        """Whoever waits hears nothing, and says it again elsewhere."""
        self._looks.clear()

    def _decide(self, look: Look, task: Task | None) -> None:
        node, spec = self._node, look.spec
        assert spec.options is not None, "a window is an option"
        known = node.ledger.finished.get(spec.task_id)
        is_end = task is not None and task.state in FINISHED and known is not None and is_of_token(known, task.token)
        if task is not None and is_end and task.finished_at_ms + spec.options.window_ms <= node.leading.log_ms():
            self._renew(look, task.token or NEVER_GRANTED)
        elif node.ledger.is_same(spec):
            node.clients.hold(look.client, [TaskId(spec.task_id)], watch=look.watch)
        else:
            node.clients.tell(look.client, TasksRefused([requests.conflict(spec.task_id)]))

    def _renew(self, look: Look, token: FencingToken) -> None:
        """The id is free: this is a submit like any other."""
        clients, spec = self._node.clients, look.spec
        is_on_its_way = spec.task_id in clients.waiting.accepting
        if clients.waiting.is_taken(spec):
            clients.tell(look.client, TasksRefused([requests.taken(spec)]))
        elif not is_on_its_way and (why := Room(self._node).lack(spec)):
            clients.tell(look.client, TasksRefused([requests.backpressure(spec, why)]))
        else:
            clients.accept(look.client, spec, watch=look.watch, renews=token)
