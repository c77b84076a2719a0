"""What came of one committed entry: for the leader to act on, and for everyone to remember."""

from enum import IntEnum
from typing import Final

import msgspec

from mesh.ids import FencingToken, LogIndex, NodeId, TaskId
from mesh.ledger.task import Happening, Task


class Outcome(IntEnum):
    """What came of one command. Refusals are values: nothing changed, and the replicas agree that it did not."""

    DONE = 0
    ALREADY = 1
    """As if it had been done: the same submit or report again."""
    CONFLICT = 2
    """The id belongs to a task with another payload."""
    UNKNOWN = 3
    """No such task or node."""
    FENCED = 4
    """The lease is not the latest, or over."""
    REFUSED = 5
    """Not in this state."""


DONE: Final = 0
ALREADY: Final = 1
CONFLICT: Final = 2
UNKNOWN: Final = 3
FENCED: Final = 4
REFUSED: Final = 5


class EndedLease(msgspec.Struct, frozen=True, gc=False):
    """A lease that ended without its holder's doing: whoever runs under it should stop."""

    node_id: NodeId
    task_id: TaskId
    token: FencingToken


class KeptCheckpoint(msgspec.Struct, frozen=True, gc=False):
    task_id: TaskId
    token: FencingToken
    sequence: int
    kept: bool


class Applied(msgspec.Struct):
    """One entry's worth of consequences, in the order of its commands.

    `outcomes` has one Outcome per command. `submitted` are ids of SubmitTask commands that a task now answers for (new
    or the same again), `conflicts` those it does not. `granted` were leased; `finished` have reached their end, dead
    letters included. `awaited` are tasks with options that began to wait for their first attempt, be it after a redrive
    or for their fallback. `settled` are (task, token) whose report the ledger has now answered, whatever the answer.
    """

    index: LogIndex
    at_ms: int
    outcomes: bytearray
    submitted: list[TaskId] = []
    conflicts: list[TaskId] = []
    turned_down: list[TaskId] = []
    granted: list[Task] = []
    awaited: list[Task] = []
    finished: list[Task] = []
    ended: list[EndedLease] = []
    settled: list[tuple[TaskId, FencingToken]] = []
    checkpoints: list[KeptCheckpoint] = []
    events: list[Happening] = []
    nodes_changed: bool = False
