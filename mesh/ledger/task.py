"""A task as the ledger holds it, and what happens to one.

`Task` is at once the record in memory and the record in the store: wire/ encodes it as it stands.
"""

from enum import IntEnum
from typing import Final

import msgspec

from mesh.ids import FencingToken, NodeId, TaskId
from mesh.messages import AttemptOrder, TaskSpec, payload_crc

HISTORY_MAX: Final = 200
"""Happenings kept per task; beyond, those in the middle go first, so that the beginning and the end stay."""


class TaskState(IntEnum):
    """Where a task stands. The names are public; BLOCKED is for workflows. PAUSED: held until a person decides."""

    PENDING = 0
    SCHEDULED = 1
    BLOCKED = 2
    DISPATCHED = 3
    RUNNING = 4
    PAUSED = 5
    COMPLETED = 6
    FAILED = 7
    CANCELLED = 8
    DEAD = 9


# The same as plain integers: comparing and hashing an IntEnum costs ten times as much, and the ledger does it per task.
PENDING: Final = 0
SCHEDULED: Final = 1
DISPATCHED: Final = 3
RUNNING: Final = 4
PAUSED: Final = 5
COMPLETED: Final = 6
FAILED: Final = 7
CANCELLED: Final = 8
DEAD: Final = 9

STATE_NAMES: Final = tuple(state.name.lower() for state in TaskState)
FINISHED: Final = frozenset({COMPLETED, FAILED, CANCELLED})
"""States that a task never leaves. A dead letter is not among them: it may be redriven."""


class Kind(IntEnum):
    """What can happen, as `mesh events` and a task's history name it (in lower case)."""

    LEADER_ELECTED = 0
    NODE_JOINED = 1
    NODE_FAILED = 2
    NODE_RECOVERED = 3
    NODE_RESTARTED = 4
    NODE_DRAINING = 5
    NODE_UNDRAINED = 6
    TASK_SUBMITTED = 7
    TASK_DISPATCHED = 8
    TASK_STARTED = 9
    TASK_CHECKPOINTED = 10
    TASK_COMPLETED = 11
    TASK_FAILED = 12
    TASK_RETRIED = 13
    TASK_LOST = 14
    TASK_REASSIGNED = 15
    TASK_RELEASED = 16
    TASK_DEAD = 17
    TASK_CANCELLED = 18
    TASK_REDRIVEN = 19
    TASK_DROPPED = 20
    COMPLETION_FENCED = 21
    NODE_LEFT = 22
    TASK_TIMED_OUT = 23
    TASK_HELD = 24
    TASK_FELL_BACK = 25
    TASK_REPRIORITIZED = 26
    TASK_ISOLATED = 27
    BREAKER_OPENED = 28
    BREAKER_PROBED = 29
    BREAKER_CLOSED = 30
    SETTING_CHANGED = 31
    QUEUE_PAUSED = 32
    QUEUE_RESUMED = 33
    CRON_SET = 34
    CRON_DROPPED = 35
    CRON_FIRED = 36
    CRON_SKIPPED = 37
    LEVEL_RAISED = 38


KIND_NAMES: Final = tuple(kind.name.lower() for kind in Kind)


class Happening(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One thing that happened, at `index` of the log. `kind` is a Kind; empty node or task where none is meant."""

    index: int
    at_ms: int
    kind: int
    node_id: NodeId
    task_id: TaskId
    attempt: int
    token: FencingToken
    detail: str


class Fault(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One attempt that came to nothing."""

    attempt: int
    node_id: NodeId
    at_ms: int
    error: str
    detail: str


FAULTS_MAX: Final = 5
"""Kept per task: the first, and the latest ones."""
FAULT_DETAIL_CHARS_MAX: Final = 4_000


BEGUN: Final = -1


class Task(msgspec.Struct, array_like=True, gc=False):
    """One task.

    `order` is its place in the queue: log index x 4,096 + position in the batch. `attempts` counts those charged, which
    happens when user code starts. `token` is that of the latest grant, 0 before the first. `lost_by` is the node whose
    failure ended the latest lease. `ticket` is the local queue's own mark (see queue.py), 0 while the task is in no
    queue; it differs from node to node, and is rebuilt, never trusted, after a restart. `awaited_ms` is since when an
    attempt is awaited, if that is not the submit: a redrive, a fall back. It is BEGUN once one began that was not
    charged in the end.
    """

    spec: TaskSpec
    order: int
    state: int
    submitted_at_ms: int
    history: list[Happening]
    attempts: int = 0
    token: FencingToken = FencingToken(0)
    node_id: NodeId = NodeId("")
    not_before_ms: int = 0
    checkpoint: bytes = b""
    checkpoint_sequence: int = 0
    result: bytes = b""
    error: str = ""
    detail: str = ""
    finished_at_ms: int = 0
    finished: int = 0
    lost_by: NodeId = NodeId("")
    ticket: int = 0
    origin: int = 0
    granted_at_ms: int = 0
    progress_at_ms: int = 0
    crashes: int = 0
    primary_error: str = ""
    faults: list[Fault] | None = None
    awaited_ms: int = 0

    @property
    def task_id(self) -> TaskId:
        return self.spec.task_id

    def remember(self, happening: Happening) -> None:
        """Add to the history, within its bound."""
        if len(self.history) >= HISTORY_MAX:
            del self.history[HISTORY_MAX // 2]
        self.history.append(happening)

    def redirect(self, *, capability: str | None = None, payload: bytes | None = None) -> None:
        """Another capability, or another payload. Its submit is recognised all the same."""
        spec = self.spec
        self.origin = self.origin or payload_crc(spec)
        self.spec = msgspec.structs.replace(
            spec,
            capability=spec.capability if capability is None else capability,
            payload=spec.payload if payload is None else payload,
        )

    def attempt_order(self, alone_after: int) -> AttemptOrder:
        """What the holder of the present lease needs to run it; in a process of its own after so many crashes."""
        spec = self.spec
        charged = self.attempts if self.state == RUNNING else self.attempts + 1
        options = spec.options
        deadline_ms = (
            0 if options is None or not options.run_timeout_ms else self.granted_at_ms + options.run_timeout_ms
        )
        return AttemptOrder(
            spec.task_id,
            self.token,
            charged,
            spec.capability,
            spec.payload,
            self.checkpoint,
            self.crashes >= alone_after,
            deadline_ms,
            spec.priority,
        )


class NodeRecord(msgspec.Struct, array_like=True):
    """What is committed about a node. Health, load and capabilities are gossip's; this is the verdicts' memory."""

    node_id: NodeId
    incarnation: int
    active: bool = True
    """False from a FailNode until the next AdmitNode."""
    draining: bool = False
    failure_count: int = 0
    left: bool = False
    """This incarnation went of its own accord."""
