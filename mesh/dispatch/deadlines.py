"""Tasks whose time may run out, in the order it does. The leader's: it proposes, and the ledger decides.

Entries are looked at again when they come due, so that none need be taken out: what has happened to the task meanwhile
either makes another time due, or none.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from random import Random

from mesh.ids import FencingToken, TaskId
from mesh.ledger.commands import Limit, TimeOut
from mesh.ledger.ledger import Ledger
from mesh.ledger.task import Task
from mesh.ledger.timeouts import due_at_ms

LOOKED_AT_A_TURN_MAX = 2_000
"""A new leader looks through all such tasks, so many at a time."""
AGAIN_MS = 1_000
"""What was proposed and has not come about is proposed again after this."""


class Deadlines:
    """One office's clock."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._heap: list[tuple[int, int, TaskId, FencingToken]] = []
        """(due, limit, task, token of the attempt or 0)."""
        self._to_look_at: Iterator[TaskId] | None = None

    def take_office(self) -> None:
        self._heap.clear()
        self._to_look_at = iter(list(self._ledger.treated.limited))

    def leave_office(self) -> None:
        self._heap.clear()
        self._to_look_at = None

    def watch(self, task_id: TaskId) -> None:
        """The task was submitted, or granted."""
        task = self._ledger.treated.limited.get(task_id)
        if task is not None:
            self._push_all(task)

    def next_due_ms(self) -> int | None:
        """When (epoch) to look again; None if nothing is watched. 0: at once."""
        if self._to_look_at is not None:
            return 0
        return self._heap[0][0] if self._heap else None

    def is_due(self, at_ms: int) -> bool:
        return self._to_look_at is not None or (bool(self._heap) and self._heap[0][0] <= at_ms)

    def due(self, at_ms: int, rng: Random) -> list[TimeOut]:
        """What to propose now."""
        if self._to_look_at is not None:
            self._look()
        heap = self._heap
        found: list[TimeOut] = []
        again: list[tuple[int, int, TaskId, FencingToken]] = []
        while heap and heap[0][0] <= at_ms and len(found) < LOOKED_AT_A_TURN_MAX:
            _, limit, task_id, token = heappop(heap)
            task = self._ledger.treated.limited.get(task_id)
            due_ms = None if task is None else due_at_ms(task, limit)
            if task is None or due_ms is None or (_is_about_an_attempt(limit) and task.token != token):
                continue
            if due_ms <= at_ms:
                found.append(TimeOut(task_id, token, limit, rng.randrange(101)))
                due_ms = at_ms + AGAIN_MS
            again.append((due_ms, limit, task_id, token))
        for entry in again:
            heappush(heap, entry)
        return found

    def _look(self) -> None:
        assert self._to_look_at is not None, "there is something to look at"
        limited = self._ledger.treated.limited
        for _ in range(LOOKED_AT_A_TURN_MAX):
            task_id = next(self._to_look_at, None)
            if task_id is None:
                self._to_look_at = None
                return
            task = limited.get(task_id)
            if task is not None:
                self._push_all(task)

    def _push_all(self, task: Task) -> None:
        for limit in Limit:
            due_ms = due_at_ms(task, limit)
            if due_ms is not None:
                token = task.token if _is_about_an_attempt(limit) else FencingToken(0)
                heappush(self._heap, (due_ms, int(limit), task.spec.task_id, token))


def _is_about_an_attempt(limit: int) -> bool:
    return limit in (Limit.RUN, Limit.PROGRESS)
