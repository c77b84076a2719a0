"""Tasks whose time may run out, in the order it does. The leader's: it proposes, and the ledger decides.

Entries are looked at again when they come due, so that none need be taken out: what has happened to the task meanwhile
either makes another time due, or none. Those of tasks that have ended, long before their time, go once they are the
greater part.
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from random import Random

from mesh.ids import FencingToken, TaskId
from mesh.ledger.commands import Limit, TimeOut
from mesh.ledger.ledger import Ledger
from mesh.ledger.task import DISPATCHED, Task
from mesh.ledger.timeouts import begin_by_ms, due_at_ms

LOOKED_AT_A_TURN_MAX = 2_000
"""A new leader looks through all such tasks, so many at a time."""
AGAIN_MS = 1_000
"""What was proposed and has not come about is proposed again after this."""
STALE_MIN = 1_000
"""As many entries that do not count are always put up with."""
_BEFORE = int(Limit.SCHEDULE), int(Limit.EXPIRY)
"""Limits of the wait for the first attempt."""
_DURING = int(Limit.RUN), int(Limit.PROGRESS)
"""Limits of an attempt."""


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

    def awaited(self, task: Task) -> None:
        """The task, which has options, waits for its first attempt."""
        if task.spec.task_id in self._ledger.treated.limited:
            self._push(task, _BEFORE)

    def granted(self, task: Task) -> None:
        """The task, which has options, is leased."""
        if task.spec.task_id in self._ledger.treated.limited:
            self._push(task, _DURING)

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
        again: dict[tuple[int, TaskId, FencingToken], int] = {}
        while heap and heap[0][0] <= at_ms and len(found) < LOOKED_AT_A_TURN_MAX:
            _, limit, task_id, token = heappop(heap)
            task = self._ledger.treated.limited.get(task_id)
            due_ms = None if task is None else self._due_at_ms(task, limit, token)
            if task is None or due_ms is None or (limit, task_id, token) in again:
                continue
            if task.state == DISPATCHED and limit in _BEFORE:
                due_ms = max(due_ms, at_ms + AGAIN_MS)  # If the lease is given back before user code runs, it is due.
            elif due_ms <= at_ms:
                found.append(TimeOut(task_id, token, limit, rng.randrange(101)))
                due_ms = at_ms + AGAIN_MS
            again[limit, task_id, token] = due_ms
        for (limit, task_id, token), due_ms in again.items():
            heappush(heap, (due_ms, limit, task_id, token))
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
                self._push(task, _BEFORE + _DURING)

    def _due_at_ms(self, task: Task, limit: int, token: FencingToken) -> int | None:
        """When a limit passes; None if it never will, as things stand."""
        if limit in _DURING:
            return due_at_ms(task, limit) if task.token == token else None
        assert task.spec.options is not None, "it has a limit"
        return begin_by_ms(task, task.spec.options, limit) if task.state <= DISPATCHED else None

    def _push(self, task: Task, limits: tuple[int, ...]) -> None:
        for limit in limits:
            token = task.token if limit in _DURING else FencingToken(0)
            due_ms = self._due_at_ms(task, limit, token)
            if due_ms is not None:
                heappush(self._heap, (due_ms, limit, task.spec.task_id, token))
        if len(self._heap) > STALE_MIN + 2 * len(Limit) * len(self._ledger.treated.limited):
            self._clean()

    def _clean(self) -> None:
        """Keep what may still come due, each limit of a task once."""
        limited = self._ledger.treated.limited
        found: dict[tuple[int, TaskId, FencingToken], int] = {}
        for due_ms, limit, task_id, token in self._heap:
            task = limited.get(task_id)
            if task is not None and self._due_at_ms(task, limit, token) is not None:
                known_ms = found.get((limit, task_id, token), due_ms)
                found[limit, task_id, token] = min(due_ms, known_ms)
        self._heap = [(due_ms, *key) for key, due_ms in found.items()]
        heapify(self._heap)
