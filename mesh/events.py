"""All that the world may tell the core. Events come in, one at a time, with the time they came at.

The shell turns sockets, disks, child processes and timers into these; `mesh.node.Node.handle` takes them.
"""

from typing import TypeAlias

import msgspec

from mesh.durable import LedgerMark, Recovered, TaskRow
from mesh.ids import ClientId, FencingToken, NodeId, PersistToken, TaskId
from mesh.messages import AttemptOutcome, Lease


class _Event(msgspec.Struct, frozen=True, gc=False):
    pass


class PeerMessage(_Event, frozen=True):
    """Bytes from a node whose identity its link has proved."""

    peer: NodeId
    data: bytes


class ClientMessage(_Event, frozen=True):
    """Bytes from a client link."""

    client: ClientId
    data: bytes


class GossipReceived(_Event, frozen=True):
    """One publication of some node; its sender is inside, unproved."""

    data: bytes


class LinkUp(_Event, frozen=True):
    """Our link to a node finished its handshake. `mark` names the log it keeps."""

    peer: NodeId
    incarnation: int
    mark: str = ""


class LinkDown(_Event, frozen=True):
    """Our link to a node broke. Evidence, not a verdict."""

    peer: NodeId


class Knocked(_Event, frozen=True):
    """A node that holds the secret and is not admitted (see admission.judge) wants to be let in."""

    node_id: NodeId
    address: str
    mark: str


class TurnedAway(_Event, frozen=True):
    """`peer` does not let us in, by the configuration at `index`. `verdict` is an admission.Verdict."""

    peer: NodeId
    verdict: int
    index: int


class Leave(_Event, frozen=True):
    """Take no more work, hand over what is held within `within_ms`, then ask for Retire."""

    within_ms: int


class ClientGone(_Event, frozen=True):
    client: ClientId


class Durable(_Event, frozen=True):
    """Every Persist up to `token` is on disk."""

    token: PersistToken


class LedgerWritten(_Event, frozen=True):
    """A WriteLedger is on disk; the table covers everything up to `applied_index`."""

    applied_index: int


class TurnEnded(_Event, frozen=True):
    """Nothing more is waiting to be read right now: send what was gathered."""


class DeadlineReached(_Event, frozen=True):
    """`Node.next_deadline_ms` has come."""


class AgentsReady(_Event, frozen=True):
    """The child processes are up and offer these capabilities; `versions` are of those that have one."""

    capabilities: tuple[str, ...]
    versions: tuple[tuple[str, str], ...] = ()


class MachineMeasured(_Event, frozen=True):
    """How busy the machine is, in thousandths: its cores, and its memory."""

    cpu_permille: int
    memory_permille: int


class AttemptsStarted(_Event, frozen=True):
    """User code of these attempts has begun to run."""

    leases: list[Lease]


class AttemptsEnded(_Event, frozen=True):
    outcomes: list[AttemptOutcome]


class CheckpointOffered(_Event, frozen=True):
    """A running attempt wants `state` kept. `sequence` counts from 1 within the attempt."""

    task_id: TaskId
    token: FencingToken
    sequence: int
    state: bytes


class RowsLoaded(_Event, frozen=True):
    """The answer to LoadRows. `more` is the cursor to go on from, empty at the end."""

    read_id: int
    rows: list[TaskRow]
    more: str


class HistoryLoaded(_Event, frozen=True):
    """The answer to LoadHistory: (log index, encoded events), ascending."""

    read_id: int
    batches: list[tuple[int, bytes]]


class SnapshotOpened(_Event, frozen=True):
    """A read transaction stands open on the ledger store, at `mark`."""

    transfer: int
    mark: LedgerMark


class SnapshotRead(_Event, frozen=True):
    """Rows after a cursor. `more` is empty when they were the last."""

    transfer: int
    rows: list[TaskRow]
    events: list[tuple[int, bytes]]
    more: str


class SnapshotStaged(_Event, frozen=True):
    """A StageSnapshot was performed."""

    transfer: int


class SnapshotInstalled(_Event, frozen=True):
    """The staged table replaced the old one, and the log starts after it. The rows may be left out of `recovered`: the
    core has had them all, to be staged.
    """

    transfer: int
    recovered: Recovered


class DiskFailed(_Event, frozen=True):
    """A write or a sync failed. The node must not vote or lead any more."""

    reason: str


Event: TypeAlias = (
    PeerMessage
    | ClientMessage
    | GossipReceived
    | LinkUp
    | LinkDown
    | Knocked
    | TurnedAway
    | Leave
    | ClientGone
    | Durable
    | LedgerWritten
    | TurnEnded
    | DeadlineReached
    | AgentsReady
    | MachineMeasured
    | AttemptsStarted
    | AttemptsEnded
    | CheckpointOffered
    | RowsLoaded
    | HistoryLoaded
    | SnapshotOpened
    | SnapshotRead
    | SnapshotStaged
    | SnapshotInstalled
    | DiskFailed
)
