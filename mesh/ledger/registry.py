"""What the ledger knows besides tasks and nodes: settings, pauses, breakers, rates, schedules.

Small: it is written whole beside the rows of the table, whenever those are. Whatever can grow has a bound here.
"""

from typing import Final

import msgspec

from mesh.ids import FencingToken, NodeId, TaskId
from mesh.ledger.settings import Settings
from mesh.options import CronSpec

PAUSES_MAX: Final = 1_000
BREAKERS_MAX: Final = 10_000
RATE_KEYS_MAX: Final = 1_000
RATE_LIMIT_MAX: Final = 10_000
STICKY_MAX: Final = 4_096


class Pause(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A capability of which nothing is granted. `until_ms` 0: until somebody resumes it."""

    until_ms: int
    reason: str


class Window(msgspec.Struct, array_like=True):
    """The latest grants under a rate's key, oldest first: as many as its widest limit, which spans `per_ms`. The last
    of those that are not kept was at `forgotten_ms`.
    """

    limit: int
    per_ms: int
    times: list[int]
    forgotten_ms: int = 0


class Breaker(msgspec.Struct, array_like=True):
    """How a capability fares on one node (S2-21). There is none where the last attempt went well.

    `opened_at_ms` is 0 while it is closed: `failures` in a row, less than it takes. Open for `breaker_open_ms` from
    then on, half-open after that: one attempt at a time is let through, `successes` of them went well so far. The
    latest one is the lease (`probe_id`, `probe_token`).
    """

    node_id: NodeId
    capability: str
    failures: int = 0
    opened_at_ms: int = 0
    successes: int = 0
    probe_id: TaskId = TaskId("")
    probe_token: FencingToken = FencingToken(0)


class Cron(msgspec.Struct, array_like=True):
    """A schedule as the ledger holds it: at once the record in memory and the record in the store.

    Attributes:
        next_ms: (epoch) when it is due next.
        fired: tasks it has submitted.
        skipped: firings that submitted nothing. Missed ones that were jumped over together count as one.
        last_task: the latest it submitted.
        last_ms: when the latest firing that was dealt with was due; none up to then happens again.
        waits_ms: when the firing was due that waits for the end of the last task; 0 if none does.
    """

    spec: CronSpec
    next_ms: int
    fired: int = 0
    skipped: int = 0
    last_task: TaskId = TaskId("")
    last_ms: int = 0
    waits_ms: int = 0


class Registry(msgspec.Struct, array_like=True):
    """All of it, as it is kept with the table."""

    level: int = 0
    settings: Settings = msgspec.field(default_factory=Settings)
    pauses: dict[str, Pause] = {}
    breakers: list[Breaker] = []
    rates: dict[str, Window] = {}
    sticky: dict[str, NodeId] = {}
    crons: list[Cron] = []
