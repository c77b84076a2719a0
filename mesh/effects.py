"""Everything the core may ask of the outside world. The core asks; a shell performs, in order.

Two shells exist: the process (`nodes/perform.py`) and the simulator (`mesh/sim`). Both obey three rules. A `Send` with
an `after` leaves only once the Persist of that token is durable. Persists become durable in the order given. Effects
that wait for disk, network or user code are handed off, and what becomes of them comes back as an event.
"""

from enum import IntEnum
from typing import TypeAlias

import msgspec

from mesh.admission import Roll
from mesh.durable import Entry, HardState, LedgerMark, LedgerWrite, TaskRow
from mesh.ids import ClientId, FencingToken, LogIndex, NodeId, PersistToken, TaskId, Term
from mesh.messages import AttemptOrder, Lease

NOTHING = PersistToken(0)
"""A Send that waits for nothing."""


class Channel(IntEnum):
    """Which of a node's ports a message goes to; the number is the offset from its base port."""

    CTL = 0
    DATA = 1
    GOSSIP = 2
    BULK = 3


class _Effect(msgspec.Struct, frozen=True, gc=False):
    pass


class Persist(_Effect, frozen=True):
    """Make one batch durable, as a unit: first cut the log from `truncate_from` (0: do not), then add the entries.

    `hard_state` is None when term and vote are as before. Answered by `Durable(token)`.
    """

    token: PersistToken
    hard_state: HardState | None
    truncate_from: LogIndex
    entries: tuple[Entry, ...]


class Send(_Effect, frozen=True):
    """Send one message to a node, at most once, no sooner than `after` is durable."""

    to: NodeId
    channel: Channel
    data: bytes
    after: PersistToken = NOTHING


class Reply(_Effect, frozen=True):
    """Send one message to a client of this node."""

    client: ClientId
    data: bytes


class Publish(_Effect, frozen=True):
    """Send one message to whoever listens to this node's gossip."""

    data: bytes


class StartAttempts(_Effect, frozen=True):
    """Run user code. Answered by AttemptsStarted, CheckpointOffered and AttemptsEnded."""

    orders: list[AttemptOrder]


class StopAttempts(_Effect, frozen=True):
    """The leases are gone: cancel what runs under them. No answer is wanted, one is harmless."""

    leases: list[Lease]


class CheckpointKept(_Effect, frozen=True):
    """The ledger holds the checkpoint: let the handler go on. `kept` is False when it was refused."""

    task_id: TaskId
    token: FencingToken
    sequence: int
    kept: bool


class WriteLedger(_Effect, frozen=True):
    """Write the task table behind. Answered by LedgerWritten."""

    write: LedgerWrite


class TrimLog(_Effect, frozen=True):
    """Entries before `first_index` may go: the ledger store has them. `before_term` is the term of the last one."""

    first_index: LogIndex
    before_term: Term


class LoadRows(_Effect, frozen=True):
    """Read finished tasks from the ledger store: those named, or a page. Answered by RowsLoaded.

    With `task_ids` empty: up to `limit` finished rows with an id greater than `after`, in order of id, of the given
    states (empty: all) and capability (empty: any).
    """

    read_id: int
    task_ids: list[TaskId]
    after: str = ""
    limit: int = 100
    states: tuple[int, ...] = ()
    capability: str = ""


class LoadHistory(_Effect, frozen=True):
    """Read events from the ledger store, from log index `after` (exclusive). Answered by HistoryLoaded."""

    read_id: int
    after: int
    limit: int = 1_000


class OpenSnapshot(_Effect, frozen=True):
    """Open a read transaction on the ledger store. Answered by SnapshotOpened."""

    transfer: int


class ReadSnapshot(_Effect, frozen=True):
    """Read the next rows of it, about `bytes_max` bytes of them. Answered by SnapshotRead.

    First live rows in order of id (cursors `t` and an id), then finished ones in the order they finished (`f` and a
    number), then events; so a cursor means the same on every node. With a `base`, rows up to the cursor `upto` that did
    not change after that log index may be left out.
    """

    transfer: int
    after: str
    bytes_max: int
    base: LogIndex = LogIndex(0)
    upto: str = ""


class CloseSnapshot(_Effect, frozen=True):
    transfer: int


class StageSnapshot(_Effect, frozen=True):
    """Keep rows of an incoming table aside. Answered by SnapshotStaged.

    `first` throws away what was staged before. Otherwise what another transfer has staged is gone on with; a row
    replaces the one of the same id, but first those that finished as the `forget_to`-th or before are dropped. None of
    these rows has changed after the log index `as_of`.
    """

    transfer: int
    rows: list[TaskRow]
    events: list[tuple[int, bytes]]
    first: bool
    as_of: LogIndex = LogIndex(0)
    forget_to: int = 0


class InstallSnapshot(_Effect, frozen=True):
    """Replace the table by the staged one, as a unit, and start the log after `mark`. Answered by SnapshotInstalled."""

    transfer: int
    mark: LedgerMark


class Admit(_Effect, frozen=True):
    """Keep links to all members of `roll` but ourselves, and judge by it who knocks. `since` is what our own standing
    says. Replaces the one given before; links that it does not allow are cut.
    """

    roll: Roll
    since: LogIndex


class Retire(_Effect, frozen=True):
    """This process has nothing more to do here and ends, with this exit code. `why` is one sentence."""

    code: int
    why: str


class Notice(_Effect, frozen=True):
    """Something for the operator's log. `code` is stable, `detail` is for reading."""

    code: str
    detail: str


Effect: TypeAlias = (
    Persist
    | Send
    | Reply
    | Publish
    | StartAttempts
    | StopAttempts
    | CheckpointKept
    | WriteLedger
    | TrimLog
    | LoadRows
    | LoadHistory
    | OpenSnapshot
    | ReadSnapshot
    | CloseSnapshot
    | StageSnapshot
    | InstallSnapshot
    | Admit
    | Retire
    | Notice
)
