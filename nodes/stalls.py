"""How long the event loop stood still: what a node cannot answer meanwhile, nobody else can answer for it."""

import asyncio
import math
import selectors
from time import monotonic, thread_time

STALL_MS = 50
"""A turn of the loop longer than this is counted as a stall."""
WINDOW_S = 10.0


class StallWatch(selectors.DefaultSelector):
    """A selector that notes how long the loop takes from one look at its sockets to the next.

    All that keeps a node from answering is in it: handlers, garbage collection, waits for the interpreter lock, a host
    that runs others; and of a wait for a timer, what it took longer than was asked for. What of it is this thread's own
    work is measured besides. Costs three looks at a clock a turn.

    Attributes:
        stalls: turns longer than STALL_MS since `begin`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._turned_s = self._cpu_s = self._busiest_s = 0.0
        self.begin()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        now_s = monotonic()
        self._note(now_s - self._turned_s, now_s)
        cpu_s = thread_time()
        self._busiest_s = max(self._busiest_s, cpu_s - self._cpu_s)
        self._cpu_s = cpu_s
        ready = super().select(timeout)
        self._turned_s = monotonic()
        if not ready and timeout is not None:
            self._note(self._turned_s - now_s - max(timeout, 0.0), self._turned_s)
        return ready

    def begin(self) -> None:
        """Measure from here on: what came before, such as reading the disk at start, kept nobody waiting."""
        self._turned_s = monotonic()
        self._window_s = self._turned_s
        self._longest_s = self._longest_before_s = 0.0
        self._cpu_s = thread_time()
        self._busiest_s = self._busiest_before_s = 0.0
        self.stalls = 0

    def longest_ms(self) -> int:
        """The longest turn of the last 10 to 20 seconds, rounded up."""
        return math.ceil(max(self._longest_s, self._longest_before_s) * 1_000)

    def busiest_ms(self) -> int:
        """The same, counting only the processor time of the loop's own thread: what it owes to nobody else."""
        return math.ceil(max(self._busiest_s, self._busiest_before_s) * 1_000)

    def _note(self, took_s: float, now_s: float) -> None:
        if now_s - self._window_s > WINDOW_S:
            is_next = now_s - self._window_s < 2 * WINDOW_S
            self._longest_before_s = self._longest_s if is_next else 0.0
            self._busiest_before_s = self._busiest_s if is_next else 0.0
            self._window_s, self._longest_s, self._busiest_s = now_s, 0.0, 0.0
        self._longest_s = max(self._longest_s, took_s)
        if took_s * 1_000 > STALL_MS:
            self.stalls += 1


class WatchedLoop(asyncio.SelectorEventLoop):
    """An event loop whose stalls are measured."""

    def __init__(self) -> None:
        self.watch = StallWatch()
        super().__init__(self.watch)
