"""How tasks may be treated, and which of them an order means: what is said about tasks beside the work itself.

All of it travels in messages and commands and is kept with the task, so all of it is closed structs. Durations are
milliseconds, points in time milliseconds since the epoch; 0 and empty mean none.
"""

from enum import IntEnum
from typing import TypeAlias

import msgspec

from mesh.ids import TaskId


class LossPolicy(IntEnum):
    """What becomes of a task whose node is lost while its code runs: nobody knows how far it got."""

    RERUN = 0
    """It runs again elsewhere, from its last checkpoint."""
    DEAD_LETTER = 1
    HOLD = 2
    """It waits, paused, until a person says `retry` or `cancel`."""


class WhenFull(IntEnum):
    """What becomes of a submit under a concurrency key that has as many live tasks as may run at once."""

    QUEUE = 0
    CANCEL_NEWEST = 1
    """The task that was submitted ends at once, as cancelled."""
    CANCEL_OLDEST = 2
    """The oldest live one makes room."""
    REJECT = 3
    """The submit is refused with Backpressure."""


class Retry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """When a failed attempt is made again: after min(base_ms x factor^(attempt - 1), max_ms), and up to jitter of it
    more (S2-25). Errors whose type is named in `never` are final.
    """

    base_ms: int = 1_000
    max_ms: int = 60_000
    factor_permille: int = 2_000
    jitter_permille: int = 100
    never: tuple[str, ...] = ()


class Concurrency(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """No more than `limit` tasks with this key hold a lease at once, in the whole mesh."""

    key: str
    limit: int
    when_full: int = WhenFull.QUEUE


class Rate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Of the tasks with this key, no more than `limit` are granted within any `per_ms`."""

    key: str
    limit: int
    per_ms: int


Labels: TypeAlias = tuple[tuple[str, str], ...]


class Options(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How a task is to be treated, where it is not as most are.

    Attributes:
        retry: instead of the ordinary one.
        schedule_timeout_ms: from the submit until an attempt begins; then it is a dead letter, `unschedulable`.
        run_timeout_ms: from the grant to the outcome of one attempt.
        progress_timeout_ms: between two checkpoints of one attempt.
        expires_at_ms: (epoch) a task that has not begun by then is cancelled, `expired`.
        on_loss: a LossPolicy.
        fallback: the capability that is tried when attempts are spent, or nobody's breaker for the first is closed.
        fairness, weight_permille: tasks of one capability and priority take turns by this key, so many to a turn.
        require, avoid, prefer: labels of nodes. `node` and `type` are labels that every node has.
        location: for the geographic strategy: nodes whose label `location` begins alike are nearer, part by part (`/`).
        sticky: tasks with the same go where the last of them was granted; elsewhere too, unless `is_sticky_hard`.
        version: of the handler; empty is any.
        parent: the task whose code submitted this one.
        window_ms: for so long after its end the task's id is not taken again; then the same id is a new task.
    """

    retry: Retry | None = None
    schedule_timeout_ms: int = 0
    run_timeout_ms: int = 0
    progress_timeout_ms: int = 0
    expires_at_ms: int = 0
    on_loss: int = LossPolicy.RERUN
    fallback: str = ""
    concurrency: Concurrency | None = None
    rates: tuple[Rate, ...] = ()
    fairness: str = ""
    weight_permille: int = 1_000
    require: Labels = ()
    avoid: Labels = ()
    prefer: Labels = ()
    location: str = ""
    sticky: str = ""
    is_sticky_hard: bool = False
    version: str = ""
    parent: TaskId = TaskId("")
    window_ms: int = 0


class Dependents(IntEnum):
    """What becomes of the live tasks that the code of a cancelled one submitted (S1-35)."""

    LEAVE = 0
    """They go on; they are named in the answer."""
    CANCEL = 1


class Selection(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Tasks that meet all of these; what is not given does not count. `is_dry`: only say which they are.

    `node` is the holder of the lease. `error` is a part of the last error. `limit` bounds how many are touched.
    """

    task_ids: tuple[TaskId, ...] = ()
    node: str = ""
    capability: str = ""
    priority_min: int | None = None
    priority_max: int | None = None
    states: tuple[int, ...] = ()
    error: str = ""
    is_dry: bool = False
    dependents: int = Dependents.LEAVE
    limit: int = 100_000


class Overlap(IntEnum):
    """What a schedule does when its last task has not ended."""

    SKIP = 0
    ALLOW = 1
    QUEUE_ONE = 2
    """The firing waits for the end of the last task; further ones are skipped meanwhile."""
    CANCEL_OLD = 3


class CatchUp(IntEnum):
    """What a schedule does about firings that were missed while nobody led."""

    NONE = 0
    """They are skipped; the next one is in the future."""
    ONE = 1
    """One for all of them."""
    ALL = 2
    """Each of them, one after another."""


class CronSpec(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A schedule. `expression` has five fields (minute hour day month weekday), or is `@every 30s` and the like.

    Each firing submits a task with the id `NAME@TIME`, TIME being when it was due, in ms since the epoch.
    `jitter_ms`: each firing is put off by a random time below this. `zone` is an IANA name.
    """

    name: str
    expression: str
    capability: str
    payload: bytes
    zone: str = "UTC"
    priority: int = 5
    max_attempts: int = 3
    overlap: int = Overlap.SKIP
    catch_up: int = CatchUp.ONE
    jitter_ms: int = 0
    options: Options | None = None
    is_paused: bool = False
