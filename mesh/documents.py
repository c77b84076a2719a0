"""The documents people read: what `status`, `task show` and their kin answer, field by field as the contract has them.

Nodes fill them, clients show them, `--json` prints them. Encoded as MessagePack maps; a decoded document carries plain
values.
"""

from typing import Any

import msgspec


class NodeView(msgspec.Struct):
    """One node, as the mesh sees it. `last_heartbeat_ms` is the age of the last heartbeat where this was read."""

    id: str
    address: str
    pid: int
    role: str
    leader: bool
    health: str
    admin: str
    capabilities: list[str]
    slots: int
    running: int
    last_heartbeat_ms: int
    incarnation: int
    failure_count: int = 0
    trouble: str = ""
    """What is wrong with it, in one sentence, as it said itself."""


class TaskCounts(msgspec.Struct):
    pending: int = 0
    scheduled: int = 0
    blocked: int = 0
    running: int = 0
    paused: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    dead: int = 0


class Status(msgspec.Struct):
    version: int
    cluster: str
    leader: str | None
    term: int
    commit_index: int
    quorum: bool
    stale: bool
    nodes: list[NodeView]
    tasks: TaskCounts
    served_by: str = ""
    counters: dict[str, int] = {}
    """Rubbish dropped and other things counted, at the node that answered."""


class HistoryItem(msgspec.Struct):
    """One thing that happened to a task. `at` is milliseconds since the epoch."""

    at: int
    event: str
    node: str | None
    attempt: int
    token: int
    detail: str


class Task(msgspec.Struct):
    """One task. `result` and `checkpoint` are the user's own values; `error` is one line, None if there was none."""

    id: str
    capability: str
    priority: int
    state: str
    attempts: int
    max_attempts: int
    node: str | None
    token: int
    result: Any
    error: str | None
    checkpoint: Any
    submitted_at: int
    finished_at: int | None
    history: list[HistoryItem]
    error_detail: str = ""
    payload: Any = None
    stale: bool = False


class TaskLine(msgspec.Struct):
    id: str
    capability: str
    priority: int
    state: str
    attempts: int
    node: str | None


class TaskPage(msgspec.Struct):
    tasks: list[TaskLine]
    next: str | None
    stale: bool = False


class DeadLetter(msgspec.Struct):
    id: str
    capability: str
    attempts: int
    error: str
    at: int


class DeadLetterPage(msgspec.Struct):
    dead_letters: list[DeadLetter]
    next: str | None = None


class EventLine(msgspec.Struct):
    """One committed thing that happened. `index` is its place in the log; several events may share one."""

    index: int
    at: int
    event: str
    node: str | None
    task: str | None
    attempt: int
    token: int
    detail: str


class EventPage(msgspec.Struct):
    """Events after the cursor; `next` is the cursor to go on from."""

    events: list[EventLine]
    next: str


class NodeVerdict(msgspec.Struct):
    """Why one node is not running a task: `fits` or the first filter that rejected it, in words."""

    node: str
    fits: bool
    why: str


class Explanation(msgspec.Struct):
    """What a task waits for. `summary` is one sentence, `reason` a stable word, `position` its place in the queue."""

    id: str
    state: str
    reason: str
    summary: str
    position: int | None
    next_attempt_at: int | None
    nodes: list[NodeVerdict]
    history: list[HistoryItem]


class RaftPeer(msgspec.Struct):
    id: str
    address: str
    role: str
    match_index: int
    trails_by: int
    state: str


class RaftStatus(msgspec.Struct):
    node: str
    role: str
    leader: str | None
    term: int
    commit_index: int
    applied_index: int
    first_index: int
    last_index: int
    serving: bool
    digest: str
    peers: list[RaftPeer]
