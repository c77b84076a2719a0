"""Tasks that wait for a lease, in the order they will get one: lower priority number first, then by `order`.

Derived from the table and rebuilt from it; every node keeps it, so that a new leader dispatches at once. Each push
hands the task a ticket. Entries are removed lazily: one counts only while its task still waits and still holds that
very ticket. Once those that do not count are the greater part, all of them go.
"""

from collections.abc import Iterator, KeysView
from heapq import heappop, heappush

from mesh.ledger.task import PENDING, SCHEDULED, Task

Entry = tuple[int, int, int, Task]
"""(priority or due time, order, ticket, task). Tickets are unique, so tasks are never compared."""

POSITIONS_MAX = 10_000
STALE_MIN = 64
"""As many entries that do not count are always put up with."""


class Queue:
    """Waiting tasks by capability, and those whose time has not come."""

    def __init__(self) -> None:
        self._ready: dict[str, list[Entry]] = {}
        """No heap is empty: capabilities are named by clients, and are as many as they like."""
        self._later: list[Entry] = []
        self._tickets = 0
        self._entries = 0
        self._waiting = 0
        """Tasks with a ticket: as many entries count."""

    def push(self, task: Task) -> None:
        """A task waits for a lease. Pushing one that is already here changes nothing."""
        if task.ticket:
            return
        self._tickets += 1
        task.ticket = self._tickets
        self._waiting += 1
        self._entries += 1
        if task.state == SCHEDULED:
            heappush(self._later, (task.not_before_ms, task.order, task.ticket, task))
        else:
            self._push_ready(task)

    def remove(self, task: Task) -> None:
        """The task waits no more. Its entry goes when it comes to the front, or with many others."""
        if not task.ticket:
            return
        task.ticket = 0
        self._waiting -= 1
        self.first(task.spec.capability)
        if self._entries > 2 * self._waiting + STALE_MIN:
            self.rebuild([entry[3] for entry in self._all() if _is_valid(entry)])

    def release_due(self, at_ms: int) -> None:
        """Move tasks whose time has come among the ready ones."""
        later = self._later
        while later and later[0][0] <= at_ms:
            entry = heappop(later)
            if _is_valid(entry):
                self._push_ready(entry[3])
            else:
                self._entries -= 1

    def next_due_ms(self) -> int | None:
        """When (epoch) the next task's time comes; None if none waits for a time."""
        later = self._later
        while later and not _is_valid(later[0]):
            heappop(later)
            self._entries -= 1
        return later[0][0] if later else None

    def capabilities(self) -> KeysView[str]:
        """Capabilities for which some task is ready, in order of first use, and perhaps some for which one was."""
        return self._ready.keys()

    def first(self, capability: str) -> Task | None:
        """The next task in line; None if none is ready."""
        heap = self._ready.get(capability)
        if heap is None:
            return None
        while not _is_valid(heap[0]):
            heappop(heap)
            self._entries -= 1
            if not heap:
                del self._ready[capability]
                return None
        return heap[0][3]

    def take(self, capability: str) -> Task:
        """Take the next task in line, which the caller has seen with `first`. It stays out until pushed again."""
        heap = self._ready[capability]
        task = heappop(heap)[3]
        if not heap:
            del self._ready[capability]
        task.ticket = 0
        self._entries -= 1
        self._waiting -= 1
        return task

    def position(self, task: Task) -> int:
        """How many ready tasks of the same capability come before this one; POSITIONS_MAX if they are as many or more.

        Looks only at those, from the front of the heap down: nothing below an entry comes before it.
        """
        heap = self._ready.get(task.spec.capability, [])
        mine = (task.spec.priority, task.order)
        before = 0
        places = [0]
        while places and before < POSITIONS_MAX:
            place = places.pop()
            if place < len(heap) and heap[place][:2] < mine:
                before += _is_valid(heap[place])
                places += (2 * place + 1, 2 * place + 2)
        return before

    def rebuild(self, tasks: list[Task]) -> None:
        """Start afresh from these tasks."""
        self._ready.clear()
        self._later.clear()
        self._entries = self._waiting = 0
        for task in tasks:
            task.ticket = 0
            if task.state in (PENDING, SCHEDULED):
                self.push(task)

    def heaps(self) -> list[list[Entry]]:
        """What the queue consists of, to be let go of when nobody needs it any more."""
        return [self._later, *self._ready.values()]

    def _all(self) -> Iterator[Entry]:
        yield from self._later
        for heap in self._ready.values():
            yield from heap

    def _push_ready(self, task: Task) -> None:
        heap = self._ready.get(task.spec.capability)
        if heap is None:
            heap = self._ready[task.spec.capability] = []
        heappush(heap, (task.spec.priority, task.order, task.ticket, task))


def _is_valid(entry: Entry) -> bool:
    task = entry[3]
    return task.ticket == entry[2] and task.state <= SCHEDULED
