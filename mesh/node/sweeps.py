"""Looks through all tasks in memory, a slice a turn, so that nobody waits for them: counts, groups, selections."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from mesh.ledger.task import Task

if TYPE_CHECKING:
    from mesh.node.node import Node

SLICE = 2_000
"""Tasks looked at in one turn: a millisecond or two."""
WAITING_MAX = 100


class Sweep(msgspec.Struct):
    """One look through the table. `see` is shown each task as it stands then, `done` hears that those were all."""

    tasks: list[Task]
    see: Callable[[Task], None]
    done: Callable[[], None]


class Sweeps:
    """Sweeps of this node. One at a time is worked on."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.waiting: deque[Sweep] = deque()

    def begin(self, tasks: Iterable[Task], see: Callable[[Task], None], done: Callable[[], None]) -> bool:
        """False: too many are under way already, and nothing will come of this one."""
        if len(self.waiting) >= WAITING_MAX:
            return False
        sweep = Sweep(list(tasks), see, done)
        if len(sweep.tasks) > SLICE:
            self.waiting.append(sweep)
        else:
            self._look(sweep)
        return True

    def work(self) -> None:
        """Look through one slice."""
        if self._look(self.waiting[0]):
            self.waiting.popleft()

    def next_deadline_ms(self) -> int | None:
        return self._node.now_ms if self.waiting else None

    def _look(self, sweep: Sweep) -> bool:
        for task in sweep.tasks[-SLICE:]:
            sweep.see(task)
        del sweep.tasks[-SLICE:]
        if not sweep.tasks:
            sweep.done()
            return True
        return False
