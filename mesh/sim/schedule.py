"""Virtual time: one heap of what is going to happen. Nothing here knows what o'clock it is outside."""

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

Action = Callable[..., None]


def dice(seed: int, name: str) -> Random:
    """An independent stream of dice for one concern, so that a new draw in one does not shift the others."""
    return Random(f"{seed}:{name}")


class Schedule:
    """What is due when, in microseconds from the start of the run. Ties go by the order of asking."""

    __slots__ = ("_heap", "_sequence", "fired", "now_us")

    def __init__(self) -> None:
        self.now_us = 0
        self.fired = 0
        """Actions performed so far."""
        self._sequence = 0
        self._heap: list[tuple[int, int, Action, tuple[Any, ...]]] = []

    def after(self, delay_us: int, action: Action, *arguments: Any) -> None:
        """Perform `action` when `delay_us` (0 at least) have passed."""
        self._sequence += 1
        heappush(self._heap, (self.now_us + delay_us, self._sequence, action, arguments))

    def run_until(self, until_us: int, fired_max: int) -> None:
        """Perform what is due, in order, until `until_us`. Stops early after `fired_max` actions in all."""
        heap = self._heap
        while heap and heap[0][0] <= until_us and self.fired < fired_max:
            self.now_us, _, action, arguments = heappop(heap)
            self.fired += 1
            action(*arguments)
        self.now_us = max(self.now_us, until_us)
