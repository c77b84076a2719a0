"""Numbers the mesh is run by that may be changed while it runs: committed, and so the same for every leader.

Unlike config.py, which is each node's own, and fixed while its process lives.
"""

from enum import IntEnum
from typing import Final, NamedTuple

import msgspec


class Strategy(IntEnum):
    """How a node is chosen among those that may have a task (S4-21)."""

    LEAST_CONNECTIONS = 0
    """The lowest share of slots taken; equals take turns."""
    ROUND_ROBIN = 1
    WEIGHTED_ROUND_ROBIN = 2
    """In turn, but faster nodes more often: by the running times of the capability there."""
    RESOURCE_BASED = 3
    """The most processor and memory to spare."""
    GEOGRAPHIC = 4
    """The nearest to the task's location, by the label `location`."""
    RANDOM = 5


class Settings(msgspec.Struct, array_like=True):
    """What is in force. Times in milliseconds, shares in thousandths."""

    strategy: int = Strategy.LEAST_CONNECTIONS
    health_permille_min: int = 500
    """A node with a lower health score is granted nothing (S4-31)."""
    breaker_failures: int = 5
    """So many failures in a row of a capability on a node open its breaker there (S2-22); 0: none is ever opened."""
    breaker_successes: int = 2
    """So many of an opened one's probes close it."""
    breaker_open_ms: int = 60_000
    ageing_ms: int = 60_000
    """A task gains a step of priority each time it has waited so long; 0: none does."""
    ageing_steps_max: int = 4
    oldest_every: int = 20
    """One grant in so many goes to the task that has waited longest, whatever its priority; 0: none does."""
    reserve_permille: int = 50
    """Of the room for tasks, what is kept for priorities 0 and 1."""
    dead_letters_max: int = 100_000
    """With so many dead letters no tasks are taken any more: somebody has to look."""
    alone_after_crashes: int = 2
    """A task whose process died so often runs in a process of its own."""
    dead_after_crashes: int = 3
    """And after so many it is a dead letter, `poison`."""


class Bound(NamedTuple):
    lowest: int
    highest: int


DAY_MS: Final = 86_400_000
BOUNDS: Final[dict[str, Bound]] = {
    "strategy": Bound(0, max(Strategy)),
    "health_permille_min": Bound(0, 1_000),
    "breaker_failures": Bound(0, 1_000),
    "breaker_successes": Bound(1, 1_000),
    "breaker_open_ms": Bound(1, DAY_MS),
    "ageing_ms": Bound(0, DAY_MS),
    "ageing_steps_max": Bound(0, 100),
    "oldest_every": Bound(0, 1_000_000),
    "reserve_permille": Bound(0, 1_000),
    "dead_letters_max": Bound(1, 1_000_000),
    "alone_after_crashes": Bound(1, 1_000),
    "dead_after_crashes": Bound(1, 1_000),
}
"""What each may be set to."""


def flaw(name: str, value: int) -> str:
    """Why a setting cannot be given this value, in one sentence; empty if it can."""
    bound = BOUNDS.get(name)
    if bound is None:
        return f"no setting is called {name!r}; there are {', '.join(BOUNDS)}"
    if not bound.lowest <= value <= bound.highest:
        return f"{name} lies between {bound.lowest} and {bound.highest}, not at {value}"
    return ""
