"""Tasks that are treated in some way of their own, found by what makes them special.

Derived from the table and rebuilt from it. Tasks without options, which are most, are in none of it and cost nothing.
"""

from mesh.ids import TaskId
from mesh.ledger.task import DEAD, DISPATCHED, RUNNING, Task
from mesh.options import Options


class Treated:
    """Live tasks that have options."""

    def __init__(self) -> None:
        self.limited: dict[TaskId, Task] = {}
        """Those with a limit of time."""
        self.under: dict[str, dict[TaskId, Task]] = {}
        """By concurrency key; dead letters are not among them. See `oldest`."""
        self._mixed: set[str] = set()
        """Keys whose tasks do not stand in the order they came in: rows of a table are added by their ids."""
        self.holding: dict[str, int] = {}
        """By concurrency key: how many of them hold a lease."""
        self.children: dict[TaskId, dict[TaskId, Task]] = {}
        """By the task whose code submitted them."""

    def add(self, task: Task, options: Options) -> None:
        """A task is in the table."""
        task_id = task.spec.task_id
        if has_limit(options):
            self.limited[task_id] = task
        if options.concurrency is not None and task.state != DEAD:
            self._add_under(options.concurrency.key, task)
            if task.state in (DISPATCHED, RUNNING):
                self.lease_began(options)
        if options.parent:
            self.children.setdefault(options.parent, {})[task_id] = task

    def remove(self, task: Task, options: Options, *, is_dead: bool = False) -> None:
        """A task has left the table, or has become a dead letter, which runs no more but is still somebody's child."""
        task_id = task.spec.task_id
        if options.concurrency is not None:
            _take(self.under, options.concurrency.key, task_id)
        if not is_dead:
            self.limited.pop(task_id, None)
            _take(self.children, options.parent, task_id)

    def moved_back(self, task: Task, options: Options) -> None:
        """A task has been given a place at the end of the line."""
        if options.concurrency is not None:
            key = options.concurrency.key
            _take(self.under, key, task.spec.task_id)
            self._add_under(key, task)

    def oldest(self, key: str) -> Task:
        """Of the tasks under a concurrency key, of which there are some, the one that came first: by its place in line,
        which is the same on every node.
        """
        if key in self._mixed:
            self._mixed.remove(key)
            self.under[key] = dict(sorted(self.under[key].items(), key=_place))
        return next(iter(self.under[key].values()))

    def _add_under(self, key: str, task: Task) -> None:
        under = self.under.setdefault(key, {})
        if under and next(reversed(under.values())).order > task.order:
            self._mixed.add(key)
        under[task.spec.task_id] = task

    def lease_began(self, options: Options) -> None:
        if options.concurrency is not None:
            key = options.concurrency.key
            self.holding[key] = self.holding.get(key, 0) + 1

    def lease_ended(self, options: Options) -> None:
        if options.concurrency is not None:
            key = options.concurrency.key
            left = self.holding[key] - 1
            if left:
                self.holding[key] = left
            else:
                del self.holding[key]


def has_limit(options: Options) -> bool:
    """Whether time may run out for such a task."""
    return bool(
        options.schedule_timeout_ms or options.run_timeout_ms or options.progress_timeout_ms or options.expires_at_ms
    )


def _place(item: tuple[TaskId, Task]) -> int:
    return item[1].order


def _take(index: dict[str, dict[TaskId, Task]] | dict[TaskId, dict[TaskId, Task]], key: str, task_id: TaskId) -> None:
    tasks = index.get(key)  # type: ignore[call-overload]  # A TaskId is a str.
    if tasks is not None:
        tasks.pop(task_id, None)
        if not tasks:
            del index[key]  # type: ignore[arg-type]  # As above.
