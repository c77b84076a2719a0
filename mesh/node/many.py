"""Orders that mean many tasks: cancel, redrive, drop, clear a priority.

Which those are is found out a slice a turn. Then there is one command for each, so that each is on record, and nothing
is done twice when the order is given again.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from mesh import documents
from mesh.ids import TaskId
from mesh.ledger.applied import DONE, Applied
from mesh.ledger.commands import CancelTask, Command, DropDeadLetter, RedriveTask
from mesh.ledger.task import DEAD, DISPATCHED, PAUSED, PENDING, RUNNING, SCHEDULED, Task
from mesh.messages import Action, Answer, Code, Order
from mesh.node.requests import Asked, Client
from mesh.options import Dependents, Selection
from mesh.wire.codec import encode

if TYPE_CHECKING:
    from mesh.node.node import Node

IDS_SHOWN_MAX = 1_000
AT_ONCE_MAX = 2_000
"""Commands of such orders that wait for an entry; the rest waits for them."""
DOING_MAX = 100
"""Orders under way. One remembers 100,000 ids, unless it says otherwise."""
_STATES: dict[int, frozenset[int]] = {
    Action.CANCEL_MANY: frozenset({PENDING, SCHEDULED, DISPATCHED, RUNNING, PAUSED}),
    Action.CLEAR: frozenset({PENDING, SCHEDULED}),
    Action.RETRY_MANY: frozenset({DEAD}),
    Action.DROP_MANY: frozenset({DEAD}),
}
_IF_NAMED: dict[int, int] = {Action.CANCEL_MANY: DEAD, Action.RETRY_MANY: PAUSED}
"""What is meant as well, but only by its own name or by that of its state: nobody loses a dead letter, and nothing that
is held runs again, because somebody spoke of others.
"""


class Doing(msgspec.Struct):
    """One such order. `to_do` are the tasks not yet proposed, last first; `left` those without an answer yet; to
    `count` it was done, and not to `missed`.
    """

    client: Client
    order: Order
    selection: Selection
    ids: list[TaskId]
    dependents: dict[TaskId, None]
    to_do: list[TaskId]
    left: int = 0
    count: int = 0
    missed: dict[TaskId, None] = {}


class Many:
    """Orders for many tasks, at the node in office."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._seeking: dict[Asked, Doing] = {}
        """Those of which it is not yet known which tasks are meant."""
        self._doing: list[Doing] = []
        self._proposed: dict[Command, list[Doing]] = {}
        """Commands on their way, and whose they are: two people may mean the same task."""

    def begin(self, client: Client, order: Order, selection: Selection) -> None:
        """Find out which tasks are meant."""
        asked = client, order.request
        if asked in self._seeking or any(asked == (doing.client, doing.order.request) for doing in self._doing):
            return  # Said again, because no answer has come yet.
        clients = self._node.clients
        if len(self._seeking) + len(self._doing) >= DOING_MAX:
            clients.answer(client, order.request, Code.BACKPRESSURE, "too many orders wait; try again")
            return
        doing = self._seeking[asked] = Doing(client, order, selection, [], {}, [])
        tasks = self._node.ledger.tasks
        states = _states(order.action, selection)
        is_begun = self._node.sweeps.begin(
            [tasks[task_id] for task_id in dict.fromkeys(selection.task_ids) if task_id in tasks]
            if selection.task_ids
            else tasks.values(),
            lambda task: self._see(doing, task, states),
            lambda: self._found(doing),
        )
        if not is_begun:
            del self._seeking[asked]
            clients.answer(client, order.request, Code.BACKPRESSURE, "too many sweeps wait; try again")

    def _see(self, doing: Doing, task: Task, states: frozenset[int]) -> None:
        if task.state in states and len(doing.ids) < doing.selection.limit and matches(task, doing.selection):
            doing.ids.append(task.spec.task_id)
            if doing.order.action in (Action.CANCEL_MANY, Action.CLEAR):
                self._gather_dependents(doing, task.spec.task_id)

    def _gather_dependents(self, doing: Doing, task_id: TaskId) -> None:
        """Live tasks that its code submitted, and theirs. Whoever submitted them comes before them."""
        children = self._node.ledger.treated.children
        to_visit = [task_id]
        while to_visit and len(doing.dependents) < doing.selection.limit:
            for child_id, child in children.get(to_visit.pop(), {}).items():
                if child_id not in doing.dependents and child.state != DEAD:
                    doing.dependents[child_id] = None
                    to_visit.append(child_id)

    def _found(self, doing: Doing) -> None:
        asked = doing.client, doing.order.request
        if self._seeking.get(asked) is not doing:
            return  # It was of another office. What there is to be done, and whether there is, is said by this one.
        del self._seeking[asked]
        for task_id in doing.ids:
            doing.dependents.pop(task_id, None)
        if doing.selection.dependents == Dependents.CANCEL:
            # They first, those furthest down before others: whoever gives the order again finds them by the rest.
            doing.ids = [*reversed(doing.dependents), *doing.ids][: doing.selection.limit]
        if doing.selection.is_dry or not doing.ids:
            doing.count = len(doing.ids)
            self._answer(doing)
        else:
            doing.to_do = doing.ids[::-1]
            self._doing.append(doing)
            self.feed()

    def feed(self) -> None:
        """Propose more, as far as there is room."""
        dispatcher = self._node.leading.dispatcher
        for doing in self._doing:
            while doing.to_do and len(self._proposed) < AT_ONCE_MAX:
                command = _command(doing, doing.to_do.pop())
                doing.left += 1
                whose = self._proposed.setdefault(command, [])
                whose.append(doing)
                if len(whose) == 1:
                    dispatcher.command(command)
        self._doing = [doing for doing in self._doing if doing.to_do or doing.left]

    def applied(self, applied: Applied, commands: list[Command]) -> None:
        """An entry of this office was applied."""
        if not self._proposed:
            return
        for position, command in enumerate(commands):
            if not isinstance(command, _KINDS):
                continue
            for doing in self._proposed.pop(command, ()):
                doing.left -= 1
                if applied.outcomes[position] == DONE:
                    doing.count += 1
                else:
                    doing.missed[command.task_id] = None
                if not doing.left and not doing.to_do:
                    self._answer(doing)
        self.feed()

    def leave_office(self) -> None:
        """Whoever waits hears nothing and asks again: what was done stays done."""
        self._seeking.clear()
        self._doing.clear()
        self._proposed.clear()

    def _answer(self, doing: Doing) -> None:
        touched = documents.Touched(
            doing.count,
            [str(task_id) for task_id in doing.ids[:IDS_SHOWN_MAX]],
            [str(task_id) for task_id in islice(doing.dependents, IDS_SHOWN_MAX)],
            doing.selection.is_dry,
            [str(task_id) for task_id in islice(doing.missed, IDS_SHOWN_MAX)],
        )
        answer = Answer(doing.order.request, Code.OK, f"{doing.count} tasks", encode(touched))
        self._node.clients.tell(doing.client, answer)


_KINDS = (CancelTask, RedriveTask, DropDeadLetter)


def _states(action: int, selection: Selection) -> frozenset[int]:
    """States in which a task can be meant by an order."""
    named = _IF_NAMED.get(action)
    if named is not None and (selection.task_ids or named in selection.states):
        return _STATES[action] | {named}
    return _STATES[action]


def _command(doing: Doing, task_id: TaskId) -> Command:
    action, reason = doing.order.action, doing.order.reason
    if action == Action.RETRY_MANY:
        return RedriveTask(task_id)
    if action == Action.DROP_MANY:
        return DropDeadLetter(task_id, reason)
    return CancelTask(task_id, reason or ("its priority was cleared" if action == Action.CLEAR else ""))


def matches(task: Task, selection: Selection) -> bool:
    """Whether a task meets every condition of a selection. Running ones are also those on their way to their node."""
    spec = task.spec
    state = RUNNING if task.state == DISPATCHED and DISPATCHED not in selection.states else task.state
    if selection.node and (task.node_id != selection.node or task.state not in (DISPATCHED, RUNNING)):
        return False
    if selection.capability and spec.capability != selection.capability:
        return False
    if selection.priority_min is not None and spec.priority < selection.priority_min:
        return False
    if selection.priority_max is not None and spec.priority > selection.priority_max:
        return False
    if selection.states and state not in selection.states:
        return False
    return not selection.error or selection.error in task.error
