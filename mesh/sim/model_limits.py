"""Pauses, concurrency keys, rates and breakers as they ought to be, said a second time and more simply.

Everything is kept for ever and counted anew each time: slow, and plain to see. The checker compares what the ledger
grants with it, and holds both against the limits themselves.
"""

from typing import Final

import msgspec

from mesh.ids import NodeId, TaskId
from mesh.options import Options

RATE: Final = "27 rates hold"
CONCURRENCY: Final = "28 concurrency keys hold"
BREAKER: Final = "29 one probe at a time"
PAUSE: Final = "32 nothing is granted from a paused queue"
"""Invariants that a grant may break, by the limit that forbids it."""


class ModelBreaker(msgspec.Struct):
    failures: int = 0
    opened_ms: int = 0
    opened_index: int = 0
    successes: int = 0
    probe: tuple[TaskId, int] | None = None


class ModelLimits:
    """What a grant depends on besides task and node."""

    def __init__(self) -> None:
        self.settings = {"breaker_failures": 5, "breaker_successes": 2, "breaker_open_ms": 60_000}
        self.crashes = {"alone_after_crashes": 2, "dead_after_crashes": 3}
        self.level = 0
        self.paused: dict[str, int] = {}
        """Until when, by capability; 0: until it is resumed."""
        self.held: dict[str, dict[TaskId, None]] = {}
        """By concurrency key: tasks that hold a lease."""
        self.granted_ms: dict[str, list[int]] = {}
        """By rate key: every grant there ever was."""
        self.breakers: dict[tuple[NodeId, str], ModelBreaker] = {}

    def set(self, name: str, value: int) -> None:
        for known in (self.settings, self.crashes):
            if name in known:
                known[name] = value

    def is_paused(self, capability: str, at_ms: int) -> bool:
        until_ms = self.paused.get(capability)
        return until_ms is not None and (until_ms == 0 or at_ms < until_ms)

    def against(self, capability: str, options: Options | None, at_ms: int) -> str:
        """The limit that forbids to grant such a task to anybody now; empty if none does."""
        if self.is_paused(capability, at_ms):
            return PAUSE
        if options is None:
            return ""
        concurrency = options.concurrency
        if concurrency is not None and len(self.held.get(concurrency.key, ())) >= concurrency.limit:
            return CONCURRENCY
        has_room = all(
            sum(at_ms - then_ms < rate.per_ms for then_ms in self.granted_ms.get(rate.key, ())) < rate.limit
            for rate in options.rates
        )
        return "" if has_room else RATE

    def is_shut(self, node_id: NodeId, capability: str, at_ms: int, probe_is_out: bool) -> bool:
        breaker = self.breakers.get((node_id, capability))
        if breaker is None or not breaker.opened_ms:
            return False
        return at_ms < breaker.opened_ms + self.settings["breaker_open_ms"] or probe_is_out

    def granted(
        self, task_id: TaskId, token: int, node_id: NodeId, capability: str, options: Options | None, at_ms: int
    ) -> bool:
        """True if it is the probe of a breaker."""
        breaker = self.breakers.get((node_id, capability))
        is_probe = breaker is not None and breaker.opened_ms > 0
        if breaker is not None and is_probe:
            breaker.probe = task_id, token
        if options is not None:
            for key in {rate.key for rate in options.rates}:
                self.granted_ms.setdefault(key, []).append(at_ms)
            if options.concurrency is not None:
                self.held.setdefault(options.concurrency.key, {})[task_id] = None
        return is_probe

    def lease_ended(self, task_id: TaskId, options: Options | None) -> None:
        if options is not None and options.concurrency is not None:
            self.held[options.concurrency.key].pop(task_id, None)

    def went_well(self, node_id: NodeId, capability: str) -> bool:
        """True if that closed a breaker which was open."""
        breaker = self.breakers.get((node_id, capability))
        if breaker is None:
            return False
        breaker.successes += 1
        is_over = not breaker.opened_ms or breaker.successes >= self.settings["breaker_successes"]
        if is_over:
            del self.breakers[node_id, capability]
        return is_over and breaker.opened_ms > 0

    def went_wrong(self, node_id: NodeId, capability: str, at_ms: int, index: int) -> bool:
        """True if that opened a breaker, or opened it again."""
        if not self.level or not self.settings["breaker_failures"]:
            return False
        breaker = self.breakers.setdefault((node_id, capability), ModelBreaker())
        breaker.failures += 1
        if breaker.opened_ms:
            opens = at_ms >= breaker.opened_ms + self.settings["breaker_open_ms"]
        else:
            opens = breaker.failures >= self.settings["breaker_failures"]
        if opens:
            breaker.opened_ms, breaker.opened_index, breaker.successes = at_ms, index, 0
        return opens

    def forget_node(self, node_id: NodeId) -> None:
        for key in [key for key in self.breakers if key[0] == node_id]:
            del self.breakers[key]
