"""Pages of tasks and dead letters. A large table is looked through a slice a turn, so that nobody waits for a list."""

from __future__ import annotations

from collections import deque
from heapq import nsmallest
from typing import TYPE_CHECKING

import msgspec

from mesh import documents
from mesh.ids import TaskId
from mesh.ledger.task import DEAD, Task
from mesh.messages import Ask, Code, Question
from mesh.node import requests
from mesh.node.answers import matches, task_line
from mesh.node.requests import Client

if TYPE_CHECKING:
    from mesh.node.node import Node

SLICE = 2_000
"""Tasks looked at in one turn: a millisecond."""
WAITING_MAX = 100
"""Lists that wait their turn; more are refused."""


class Scan(msgspec.Struct):
    """A list on its way. `best` are the first tasks in order of id found so far, one more than a page at most; `cut` is
    the id at which the store's part ends early.
    """

    client: Client
    ask: Ask
    states: tuple[int, ...]
    best: list[Task]
    cut: TaskId | None
    tasks: list[Task]
    """Of the table as of when the list was asked for, what was not yet looked at. Each is shown as it stands then."""


class Lists:
    """Lists asked for at this node. One at a time is worked on."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.waiting: deque[Scan] = deque()

    def tasks(self, client: Client, ask: Ask, stored: list[Task], *, is_cut: bool) -> None:
        """A page of tasks: finished ones from the store, and those in memory."""
        cut = stored[-1].spec.task_id if is_cut and stored else None
        recent = [task for task in self._node.behind.recent() if _is_wanted(task, ask, ask.states)]
        self._begin(Scan(client, ask, ask.states, stored + recent, cut, []))

    def dead_letters(self, client: Client, ask: Ask) -> None:
        """A page of dead letters, all of which are in memory."""
        self._begin(Scan(client, ask, (DEAD,), [], None, []))

    def work(self) -> None:
        """Look through one slice."""
        scan = self.waiting[0]
        self._look(scan)
        if not scan.tasks:
            self.waiting.popleft()
            self._answer(scan)

    def next_deadline_ms(self) -> int | None:
        return self._node.now_ms if self.waiting else None

    def _begin(self, scan: Scan) -> None:
        if len(self.waiting) >= WAITING_MAX:
            self._node.clients.answer(
                scan.client, scan.ask.request, Code.BACKPRESSURE, "too many lists are being made; try again"
            )
            return
        ledger = self._node.ledger
        if scan.states != (DEAD,) or ledger.counts[DEAD]:
            scan.tasks = list(ledger.tasks.values())
        if len(scan.tasks) > SLICE:
            self.waiting.append(scan)
        else:
            self._look(scan)
            self._answer(scan)

    def _look(self, scan: Scan) -> None:
        ask, states = scan.ask, scan.states
        found = [task for task in scan.tasks[-SLICE:] if _is_wanted(task, ask, states)]
        del scan.tasks[-SLICE:]
        merged = {task.spec.task_id: task for task in (*scan.best, *found)}
        wanted = requests.limit(ask) + 1
        ids = nsmallest(wanted, merged) if len(merged) > wanted else sorted(merged)
        scan.best = [merged[task_id] for task_id in ids]

    def _answer(self, scan: Scan) -> None:
        ask, cut = scan.ask, scan.cut
        limit = requests.limit(ask)
        page = [task for task in scan.best if cut is None or task.spec.task_id <= cut]
        following = page[limit - 1].spec.task_id if len(page) > limit else cut
        document: msgspec.Struct
        if ask.question == Question.DEAD_LETTERS:
            document = documents.DeadLetterPage([_dead_letter(task) for task in page[:limit]], following)
        else:
            document = documents.TaskPage([task_line(task) for task in page[:limit]], following, ask.stale)
        self._node.clients.document(scan.client, ask, document)


def _is_wanted(task: Task, ask: Ask, states: tuple[int, ...]) -> bool:
    return task.spec.task_id > ask.after and matches(task, states, ask.capability)


def _dead_letter(task: Task) -> documents.DeadLetter:
    return documents.DeadLetter(task.spec.task_id, task.spec.capability, task.attempts, task.error, task.finished_at_ms)
