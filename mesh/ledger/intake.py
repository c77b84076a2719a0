"""A table that is put together page by page, beside the one in use: at start, and while the leader's comes in."""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from mesh.config import FINISHED_MAX
from mesh.ids import NodeId, TaskId
from mesh.ledger.queue import Queue
from mesh.ledger.task import DISPATCHED, RUNNING, SCHEDULED, Task
from mesh.ledger.treated import Treated

LET_GO_AT_ONCE = 2_000
_LEASED = (DISPATCHED, RUNNING)


class Intake:
    """Pages may come in any order, and a row more than once: the last one counts."""

    def __init__(self) -> None:
        self.tasks: dict[TaskId, Task] = {}
        self.leases: dict[NodeId, dict[TaskId, Task]] = {}
        self.queue = Queue()
        self.treated = Treated()
        self.live_bytes = 0
        self.finished: dict[TaskId, int] = {}
        self.finished_order: deque[TaskId] = deque()
        self._numbers: deque[int] = deque()
        """Of `finished_order`, one each."""
        self._is_settled = True
        """Those are in order, and each id is there once."""

    def add(self, live: Iterable[Task]) -> None:
        """Live tasks and dead letters. They are ours from here on."""
        tasks, queue = self.tasks, self.queue
        for task in live:
            task_id = task.spec.task_id
            if task_id in tasks:
                self._remove(task_id)
            elif self.finished.pop(task_id, None) is not None:
                self._is_settled = False  # Its id has been taken again since.
            tasks[task_id] = task
            state = task.state
            task.ticket = 0
            self.live_bytes += len(task.spec.payload)
            if task.spec.options is not None:
                self.treated.add(task, task.spec.options)
            if state <= SCHEDULED:
                queue.push(task)
            elif state in _LEASED:
                self.leases.setdefault(task.node_id, {})[task_id] = task

    def add_finished(self, number: int, task_id: TaskId, fingerprint: int) -> None:
        """One that has left the table, as the `number`-th; an empty id if that one's has been taken again since."""
        if not task_id:
            return
        if task_id in self.tasks:
            self._remove(task_id)
        if task_id in self.finished or (self._numbers and number < self._numbers[-1]):
            self._is_settled = False
        self.finished[task_id] = fingerprint
        self.finished_order.append(task_id)
        self._numbers.append(number)

    def forget(self, last: int) -> None:
        """Tasks that finished as the `last`-th or before have left the window."""
        self._settle()
        while self._numbers and self._numbers[0] <= last:
            self._numbers.popleft()
            del self.finished[self.finished_order.popleft()]

    def complete(self, finished_last: int) -> None:
        """Everything is there. The window ends with the `finished_last`-th."""
        self.forget(finished_last - FINISHED_MAX)
        if self._numbers and finished_last - self._numbers[0] >= len(self._numbers):
            self._mark_gaps(finished_last)

    def _mark_gaps(self, finished_last: int) -> None:
        """Ids that have been taken again since left their numbers behind."""
        ids = dict(zip(self._numbers, self.finished_order, strict=True))
        numbers = range(self._numbers[0], finished_last + 1)
        self.finished_order = deque(ids.get(number, TaskId("")) for number in numbers)
        self._numbers = deque(numbers)

    def containers(self) -> list[dict[Any, Any] | list[Any] | deque[Any]]:
        """All that is in it, to be let go of."""
        return [*self.queue.heaps(), self._numbers, self.finished_order, self.finished, self.tasks]

    def _remove(self, task_id: TaskId) -> None:
        task = self.tasks.pop(task_id)
        self.queue.remove(task)
        is_leased = self.leases.get(task.node_id, {}).pop(task_id, None) is not None
        self.live_bytes -= len(task.spec.payload)
        options = task.spec.options
        if options is not None:
            if is_leased:
                self.treated.lease_ended(options)
            self.treated.remove(task, options)

    def _settle(self) -> None:
        """Put finished tasks in the order they finished, each once, as it finished last. They come so, but nothing
        rests on it.
        """
        if not self._is_settled:
            last = dict(sorted(zip(self.finished_order, self._numbers, strict=True), key=_number))
            pairs = sorted(((number, task_id) for task_id, number in last.items() if task_id in self.finished))
            self._numbers = deque(number for number, _ in pairs)
            self.finished_order = deque(task_id for _, task_id in pairs)
            self.finished = {task_id: self.finished[task_id] for task_id in self.finished_order}
            self._is_settled = True


def _number(pair: tuple[TaskId, int]) -> int:
    return pair[1]


def whole(live: Iterable[Task], finished: Sequence[tuple[TaskId, int]], finished_last: int) -> Intake:
    """A table that is there at once. `finished`: ids and fingerprints, of which the last is that of the
    `finished_last`-th.
    """
    intake = Intake()
    intake.add(live)
    for number, (task_id, fingerprint) in enumerate(finished, finished_last - len(finished) + 1):
        intake.add_finished(number, task_id, fingerprint)
    return intake


class Leftovers:
    """What nobody needs any more, let go a little at a time: to free a million tasks at once takes half a second."""

    def __init__(self) -> None:
        self._left: list[dict[Any, Any] | list[Any] | deque[Any]] = []

    def __bool__(self) -> bool:
        return bool(self._left)

    def add(self, *containers: dict[Any, Any] | list[Any] | deque[Any]) -> None:
        """They are ours from here on; those that hold the most come last."""
        self._left += [container for container in containers if container]

    def let_go(self, how_many: int = LET_GO_AT_ONCE) -> None:
        """Free about as many items."""
        while how_many > 0 and self._left:
            container = self._left[0]
            count = min(how_many, len(container))
            if isinstance(container, list):
                del container[-count:]
            elif isinstance(container, dict):
                for key in list(islice(reversed(container), count)):
                    del container[key]
            else:
                for _ in range(count):
                    container.pop()
            how_many -= count
            if not container:
                del self._left[0]
