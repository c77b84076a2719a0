"""The whole protocol on one page: what nodes say to each other, and what clients and nodes say.

Every message is a closed struct with a tag; wire/ turns it to bytes and back. A link (see transport/) has proved who
the other end is before any of these is read, so no message repeats its sender. Any message may be lost, doubled or
late.
"""

from enum import IntEnum
from typing import TypeAlias
from zlib import crc32

import msgspec

from mesh.durable import Entry, LedgerMark, TaskRow
from mesh.ids import ClientId, FencingToken, LogIndex, NodeId, TaskId, Term
from mesh.options import Options

# --- what tasks are made of on the wire -------------------------------------------------------------------------------


class TaskSpec(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A task as it was submitted. `payload` is MessagePack, opaque to all but the process that runs it.

    `source` names who submitted it, for people; `not_before_ms` (epoch) delays the first attempt, 0 does not.
    `checkpoint` is an encoded state the first attempt goes on from, empty if it starts at the beginning.
    """

    task_id: TaskId
    capability: str
    payload: bytes
    priority: int = 5
    max_attempts: int = 3
    not_before_ms: int = 0
    source: str = ""
    checkpoint: bytes = b""
    options: Options | None = None


def payload_crc(spec: TaskSpec) -> int:
    """By what a repeated submit is recognised: over capability and payload. Never 0, which stands for none."""
    return crc32(spec.payload, crc32(spec.capability.encode())) or 1


class AttemptOrder(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One attempt to run, everything its child process needs to know.

    `checkpoint` is the encoded state the last attempt saved, empty if there is none. `is_alone`: it runs in a process
    of its own, because those it ran in before have died. `deadline_ms` (epoch): when it will be stopped; 0, never.
    """

    task_id: TaskId
    token: FencingToken
    attempt: int
    capability: str
    payload: bytes
    checkpoint: bytes
    is_alone: bool = False
    deadline_ms: int = 0
    priority: int = 5


class Failure(IntEnum):
    """Whose fault it is that an attempt came to nothing."""

    HANDLER = 0
    """User code raised."""
    CRASH = 1
    """The process it ran in died while it ran."""
    NOT_RUN = 2
    """It never began here: no such handler, an order that is too large."""
    DISTURBED = 3
    """Its process was ended for another's sake. Nothing is charged, and the task runs again."""


class AttemptOutcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How one attempt ended, as its child process says (or its node, if the child died).

    `result` is an encoded value when `error` is empty. `error` is one line, `detail` a traceback.
    `final` forbids another try. `failure` is a Failure.
    """

    task_id: TaskId
    token: FencingToken
    result: bytes
    error: str = ""
    detail: str = ""
    final: bool = False
    failure: int = Failure.HANDLER


Lease: TypeAlias = tuple[TaskId, FencingToken]


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    pass


# --- Raft (Ongaro & Ousterhout 2014; pre-vote: Ongaro's thesis 9.6) ---------------------------------------------------


class PreVote(_Message, frozen=True, tag=1):
    """Would you vote for me in `term`? Changes nothing at the receiver."""

    term: Term
    last_index: LogIndex
    last_term: Term


class PreVoteReply(_Message, frozen=True, tag=2):
    """`term` is the one asked about if granted, else the receiver's own."""

    term: Term
    granted: bool


class Vote(_Message, frozen=True, tag=3):
    """Request for a vote. `transfer` overrides the refusal to unseat a live leader."""

    term: Term
    last_index: LogIndex
    last_term: Term
    transfer: bool


class VoteReply(_Message, frozen=True, tag=4):
    term: Term
    granted: bool


class Append(_Message, frozen=True, tag=5):
    """Entries after (prev_index, prev_term), or a heartbeat with none. `round` grows with each beat or read round."""

    term: Term
    prev_index: LogIndex
    prev_term: Term
    commit: LogIndex
    round: int
    entries: tuple[Entry, ...]


class AppendReply(_Message, frozen=True, tag=6):
    """`ok`: everything up to `match` is on the sender's disk and agrees with the leader's log.

    Not ok: `rejected` is the prev_index refused; (`hint_index`, `hint_term`) the largest position of the sender's log
    whose term is no greater than the probe's (fast backtracking, etcd findConflictByTerm).
    """

    term: Term
    round: int
    ok: bool
    match: LogIndex
    rejected: LogIndex
    hint_index: LogIndex
    hint_term: Term


class TimeoutNow(_Message, frozen=True, tag=7):
    """Leadership transfer (thesis 3.10): campaign at once."""

    term: Term


class SnapshotOffer(_Message, frozen=True, tag=8):
    """You are too far behind for the log: pull this table instead."""

    term: Term
    transfer: int
    mark: LedgerMark


class SnapshotPull(_Message, frozen=True, tag=9):
    """Send me the rows after this cursor. Up to the cursor `upto`, only those that may have changed after `base`: the
    others I have from another transfer.
    """

    transfer: int
    after: str
    base: LogIndex = LogIndex(0)
    upto: str = ""


class SnapshotChunk(_Message, frozen=True, tag=10):
    """Rows after the cursor `after`. `more` is the next cursor, empty with the last chunk."""

    transfer: int
    after: str
    rows: list[TaskRow]
    events: list[tuple[int, bytes]]
    more: str


# --- gossip -----------------------------------------------------------------------------------------------------------


class PeerView(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the sender of a heartbeat thinks of another node. `health` is a gossip.members.Health."""

    node_id: NodeId
    incarnation: int
    health: int
    link_up: bool


class Heartbeat(_Message, frozen=True, tag=20):
    """Published every GossipConfig.beat_ms, and at once when a link breaks. Self-contained: the latest one counts.

    `held` are the leases the node holds (at most 256 of them; `held_total` says how many there are).
    `digest` is the ledger's at `applied`, so that replicas that disagree find out.
    """

    cluster: str
    node_id: NodeId
    incarnation: int
    sequence: int
    address: str
    pid: int
    slots: int
    running: int
    draining: bool
    capabilities: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    held: tuple[Lease, ...]
    held_total: int
    term: Term
    leader: NodeId | None
    commit: LogIndex
    applied: LogIndex
    digest: bytes
    views: tuple[PeerView, ...]
    trouble: str = ""
    """What is wrong with this node, in one sentence; empty while nothing is."""
    mark: str = ""
    """Names the log it keeps."""
    protocol: int = 1
    """The latest it speaks."""
    kind: str = ""
    """What it is there for: worker, provider, consumer or general (S4-17)."""
    cpu_permille: int = 0
    """How busy its machine is: the load of the last minute, as a share of its cores."""
    memory_permille: int = 0
    """How much of its machine's memory is taken."""
    versions: tuple[tuple[str, str], ...] = ()
    """Versions of its handlers: (capability, version), of those that have one."""
    levels: int = 0
    """The latest level of the ledger it can apply, see ledger.commands.RaiseLevel."""
    since: LogIndex = LogIndex(0)
    """Index of the latest configuration it knows of that has it with its log; 0 while it knows of none."""


# --- leader and holders of leases -------------------------------------------------------------------------------------


class Grants(_Message, frozen=True, tag=30):
    """Run these. A node refuses them from a term older than the newest it has seen, and those meant for a past
    incarnation.
    """

    term: Term
    incarnation: int
    orders: list[AttemptOrder]


class Stops(_Message, frozen=True, tag=31):
    """These leases ended without you: stop what runs under them."""

    term: Term
    leases: list[Lease]


class Reports(_Message, frozen=True, tag=32):
    """Attempts that ended. Repeated until the ledger has an answer for each."""

    outcomes: list[AttemptOutcome]


class Started(_Message, frozen=True, tag=33):
    """Attempts that have been running for a while."""

    leases: list[Lease]


class CheckpointReport(_Message, frozen=True, tag=34):
    task_id: TaskId
    token: FencingToken
    sequence: int
    state: bytes


class ReportWanted(_Message, frozen=True, tag=35):
    """A new leader asks what you run, before it dispatches anything to you."""

    term: Term


class NodeReport(_Message, frozen=True, tag=36):
    """All leases of the sender, running or with an outcome not yet confirmed; in `started` those whose code runs."""

    term: Term
    incarnation: int
    slots: int
    capabilities: tuple[str, ...]
    held: list[Lease]
    started: list[Lease]


class Forward(_Message, frozen=True, tag=37):
    """A client of mine said this; you lead."""

    client: ClientId
    data: bytes


class Relay(_Message, frozen=True, tag=38):
    """Tell your client this."""

    client: ClientId
    data: bytes


class Knock(_Message, frozen=True, tag=39):
    """A node that is not in the mesh, or is there with another log, asked me to be let in; you lead."""

    node_id: NodeId
    address: str
    mark: str


class Departing(_Message, frozen=True, tag=40):
    """I am about to end: give up what I still hold, and charge nobody for it."""

    incarnation: int


# --- clients ----------------------------------------------------------------------------------------------------------


class Code(IntEnum):
    """What became of a request. Definite, all of them: a client that hears nothing asks again under the same id."""

    OK = 0
    NOT_FOUND = 1
    CONFLICT = 2
    BACKPRESSURE = 3
    UNAVAILABLE = 4
    """No leader, or no quorum. A submit answered so is not in the log."""
    REFUSED = 5
    INVALID = 6


class SubmitTasks(_Message, frozen=True, tag=50):
    """Accept these tasks. With `watch`, tell me when each ends. Answered by Accepted and TasksRefused, task by task."""

    watch: bool
    specs: list[TaskSpec]


class Accepted(_Message, frozen=True, tag=51):
    """A quorum holds these tasks, in the entry at `index` (or held them already, from an earlier submit)."""

    index: LogIndex
    task_ids: list[TaskId]


class TaskRefusal(msgspec.Struct, frozen=True, array_like=True, gc=False):
    task_id: TaskId
    code: int
    message: str
    retry_after_ms: int = 0


class TasksRefused(_Message, frozen=True, tag=52):
    refusals: list[TaskRefusal]


class WatchTasks(_Message, frozen=True, tag=53):
    """Tell me when these end. Answered at once for those that have, and for those unknown (state -1)."""

    task_ids: list[TaskId]


class TaskEnd(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The end of a task; `state` is a ledger.task.TaskState, or -1 if there is no such task."""

    task_id: TaskId
    state: int
    result: bytes
    error: str
    detail: str
    node: NodeId
    attempts: int


class TasksEnded(_Message, frozen=True, tag=54):
    ends: list[TaskEnd]


class Question(IntEnum):
    """What can be asked. Each names the document (see documents.py) that answers it."""

    STATUS = 0
    TASK = 1
    TASKS = 2
    DEAD_LETTERS = 3
    EVENTS = 4
    EXPLAIN = 5
    RAFT = 6
    QUEUES = 7
    AGENTS = 8
    CRONS = 9
    DEAD_LETTER_GROUPS = 10
    SETTINGS = 11


class Ask(_Message, frozen=True, tag=55):
    """A read. Linearizable unless `stale`, which any node answers from what it has.

    `task_id` for TASK and EXPLAIN; `after` is a cursor for TASKS, DEAD_LETTERS (an id) and EVENTS (a log index as
    text); `states` and `capability` filter TASKS.
    """

    request: int
    question: int
    stale: bool = False
    task_id: str = ""
    after: str = ""
    limit: int = 100
    states: tuple[int, ...] = ()
    capability: str = ""


class Action(IntEnum):
    """What can be ordered. `target` is a task id or a node id."""

    CANCEL = 0
    RETRY = 1
    DROP = 2
    TRANSFER = 3
    DRAIN = 4
    UNDRAIN = 5
    RECOVER = 6
    """Give up a node's leases and run its tasks elsewhere (S0-25)."""
    REBALANCE = 7
    """Move tasks off overloaded, draining and failed nodes (S0-26). No target."""
    CHECKPOINT = 8
    """Save `value` as the checkpoint of a task (S0-28)."""
    ADD_LEARNER = 9
    """Let a node take part that has no vote: it gets the log, holds leases, gossips. Target `ID@HOST:PORT`."""
    ADD_VOTER = 10
    """Give a learner a vote. Answered once it has caught up and the configuration is committed."""
    REMOVE_VOTER = 11
    """Take a node's vote; it stays as a learner, and is not given one again of itself."""
    FORGET = 12
    """Remove a node for good: its log is never let in again."""
    REPRIORITIZE = 13
    """Give a waiting task another priority: `value` is an encoded number."""
    SET = 14
    """Change a setting of the mesh: target is its name (ledger.settings), `value` an encoded number."""
    PAUSE = 15
    """Grant nothing of a capability any more, with a `reason`; until the encoded time in `value` (epoch ms), if any."""
    RESUME = 16
    CLEAR = 17
    """Cancel whatever waits under the priority in `target` (S4-03)."""
    CANCEL_MANY = 18
    """Cancel what the encoded Selection in `value` means. Answered with a documents.Touched."""
    RETRY_MANY = 19
    """Redrive the dead letters that the Selection in `value` means. Answered with a documents.Touched."""
    SET_CRON = 20
    """Begin or change a schedule: `value` is an encoded CronSpec."""
    DROP_CRON = 21
    CLOSE_BREAKER = 22
    """Trust a node with a capability again: target is NODE/CAPABILITY."""
    DROP_MANY = 23
    """Give up the dead letters that the Selection in `value` means."""
    PAUSE_CRON = 24
    """Let a schedule rest: it is the same but for that."""
    RESUME_CRON = 25


class Order(_Message, frozen=True, tag=56):
    """A write that is not a submit. Answered once committed."""

    request: int
    action: int
    target: str
    reason: str = ""
    value: bytes = b""


class Answer(_Message, frozen=True, tag=57):
    """To an Ask or an Order. `body` is the encoded document; empty for most Orders."""

    request: int
    code: int
    message: str
    body: bytes


class LeaderHint(_Message, frozen=True, tag=58):
    """Who leads, to the best of this node's knowledge; sent when a client arrives and when it changes."""

    term: Term
    leader: NodeId | None
    address: str


RaftMessage: TypeAlias = PreVote | PreVoteReply | Vote | VoteReply | Append | AppendReply | TimeoutNow
PeerMessageBody: TypeAlias = (
    RaftMessage
    | SnapshotOffer
    | SnapshotPull
    | SnapshotChunk
    | Grants
    | Stops
    | Reports
    | Started
    | CheckpointReport
    | ReportWanted
    | NodeReport
    | Forward
    | Relay
    | Knock
    | Departing
)
ClientRequest: TypeAlias = SubmitTasks | WatchTasks | Ask | Order
ClientReply: TypeAlias = Accepted | TasksRefused | TasksEnded | Answer | LeaderHint
