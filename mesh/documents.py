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


class Fault(msgspec.Struct):
    """One attempt that came to nothing; `traceback` is empty where there was none."""

    attempt: int
    node: str | None
    at: int
    error: str
    traceback: str


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
    primary_error: str | None = None
    """Why it fell back to another capability."""
    faults: list[Fault] = []
    """The attempts that came to nothing: the first, and the latest ones."""
    parent: str | None = None


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


class DeadLetterGroup(msgspec.Struct):
    """Dead letters of one capability that died of the same: the first line of the error, numbers left out."""

    capability: str
    error: str
    count: int
    first_at: int
    last_at: int
    example: str
    """Id of the latest."""


class DeadLetterGroups(msgspec.Struct):
    groups: list[DeadLetterGroup]


class Touched(msgspec.Struct):
    """What an order that means many tasks did, or would do, and to how many. `ids` are the first 1,000 that it means,
    `missed` those of all of them that had ended before their turn came, likewise; `dependents` live tasks that the code
    of those submitted, likewise.
    """

    count: int
    ids: list[str]
    dependents: list[str]
    is_dry: bool = False
    missed: list[str] = []


class CapabilityQueue(msgspec.Struct):
    """What waits for one capability. `oldest_wait_ms` is how long the first to have come has waited."""

    capability: str
    waiting: int
    running: int
    oldest_wait_ms: int
    paused: bool = False
    paused_until: int | None = None
    reason: str = ""


class Queues(msgspec.Struct):
    """`by_priority`: waiting tasks by priority, in order of it."""

    queues: list[CapabilityQueue]
    by_priority: dict[int, int]
    live: int
    live_max: int
    dead: int
    dead_max: int


class BreakerView(msgspec.Struct):
    """`state` is closed, open or half_open; `until` (epoch ms) when an open one is tried again."""

    capability: str
    state: str
    failures: int
    until: int | None = None


class AgentView(msgspec.Struct):
    """A node as a runner of tasks (S4-18). `health_score` lies between 0 and 1; `causes` say what it lost it by."""

    id: str
    address: str
    type: str
    status: str
    """active, busy, stale or inactive (S4-16)."""
    health: str
    health_score: float
    causes: list[str]
    capabilities: list[str]
    labels: dict[str, str]
    slots: int
    running: int
    cpu: float
    memory: float
    versions: dict[str, str] = {}
    breakers: list[BreakerView] = []
    mean_ms: dict[str, int] = {}
    """How long its tasks take, by capability, as the present leader has seen."""


class Agents(msgspec.Struct):
    strategy: str
    agents: list[AgentView]


class CronView(msgspec.Struct):
    """`next` (epoch ms) is when it fires next, None while it is paused."""

    name: str
    expression: str
    zone: str
    capability: str
    next: int | None
    overlap: str
    catch_up: str
    paused: bool
    fired: int
    skipped: int
    last_task: str | None


class Crons(msgspec.Struct):
    crons: list[CronView]


class SettingsView(msgspec.Struct):
    """Numbers the mesh is run by, by name (ledger.settings)."""

    settings: dict[str, int]
    level: int


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
    """Why one node is not running a task: `fits`, or the first filter that rejected it, in words and by its name."""

    node: str
    fits: bool
    why: str
    filter: str = ""


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
    rejected: dict[str, int] = {}
    """How many nodes each filter rejected."""
    held_back_by: list[str] = []
    """What keeps it back that is no node's doing: a paused queue, a full concurrency key, a rate, in words."""
    holders: list[str] = []
    """Who has held it, in order."""


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
