"""What survives a crash: the shapes in which the log store and the ledger store keep it.

Two files on disk. `log.db` holds entries, term and vote; a batch named by a PersistToken is durable as a whole or not
at all. `ledger.db` holds the task table as of one applied index; it is written behind and the log is trimmed only up to
what it covers. A node starts from `Recovered`.
"""

from collections.abc import Iterable
from enum import IntEnum

import msgspec

from mesh.config import FINISHED_MAX
from mesh.ids import LogIndex, NodeId, TaskId, Term


class EntryKind(IntEnum):
    """What the bytes of an entry are."""

    NOOP = 0
    """First entry of a leader's term (Raft 8); empty."""
    COMMANDS = 1
    """A batch of ledger commands, encoded by wire/. Opaque to Raft."""
    CONFIGURATION = 2
    """A Configuration, encoded by wire/."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One position of the log."""

    index: LogIndex
    term: Term
    kind: int
    data: bytes


class HardState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Term and vote: one record, durable before any vote leaves (Raft 5.2)."""

    term: Term
    voted_for: NodeId | None


class Member(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A node that takes part in the log. `mark` names its log, see admission.py; empty while nobody has seen it yet."""

    node_id: NodeId
    address: str
    mark: str = ""
    held_back: bool = False
    """By order of a person: a learner that is not given a vote of itself."""


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """Who counts in a quorum, as of one log index. `forgotten` are the marks of logs that were removed or replaced, the
    latest last: they are never let in again.
    """

    voters: tuple[Member, ...]
    learners: tuple[Member, ...] = ()
    forgotten: tuple[str, ...] = ()

    @property
    def voter_ids(self) -> tuple[NodeId, ...]:
        return tuple(member.node_id for member in self.voters)

    @property
    def members(self) -> tuple[Member, ...]:
        """Voters, then learners."""
        return self.voters + self.learners

    def member(self, node_id: NodeId) -> Member | None:
        return next((member for member in self.members if member.node_id == node_id), None)


class TaskRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One row of the task table. `record` is the whole task, encoded by wire/; the rest is for finding it.

    `finished` numbers finished tasks in the order they finished, from 1; 0 while the task is live.
    `fingerprint` recognises a repeated submit of a finished task.
    """

    task_id: TaskId
    state: int
    capability: str
    finished: int
    fingerprint: int
    record: bytes


class LedgerMark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where in the log a task table stands, and what of the ledger is not a task.

    `digest` is the chained digest at `applied_index`. `summary` is everything else the ledger must restart with
    (node records, counters), encoded by wire/. `configuration` is the committed one at that index, encoded.
    """

    applied_index: LogIndex
    applied_term: Term
    digest: bytes
    summary: bytes
    configuration: bytes


class LedgerWrite(msgspec.Struct, frozen=True):
    """Rows that changed since the last write, coalesced; with them the table stands at `mark`.

    `events`: (log index, encoded events of that entry), appended. `events_from`: older ones are dropped.
    `forgotten`: ids of finished tasks that left the window and are deleted.
    """

    mark: LedgerMark
    rows: list[TaskRow]
    forgotten: list[TaskId]
    events: list[tuple[int, bytes]]
    events_from: int


class Recovered(msgspec.Struct, frozen=True):
    """Everything a node finds on its disk at start.

    `entries` are contiguous and begin at or before mark.applied_index + 1. `before_term` is the term of the entry just
    before the first one (0 if the log begins at 1). `live` are the rows with finished == 0; `finished` the
    (id, fingerprint) of the others, in order of finishing, with the last number in `finished_last`: see `without_gaps`.
    A fresh disk has no hard state, no entries and no mark.
    """

    hard_state: HardState | None
    entries: list[Entry]
    before_term: Term
    mark: LedgerMark | None
    live: list[TaskRow]
    finished: list[tuple[TaskId, int]]
    finished_last: int


def without_gaps(rows: Iterable[tuple[TaskId, int, int]]) -> list[tuple[TaskId, int]]:
    """Ids and fingerprints of finished tasks, given with their numbers and in order of those. Where a number is
    nobody's, because the id has been taken again since, the id is empty: so that places tell numbers.
    """
    found: list[tuple[TaskId, int]] = []
    after = 0
    for task_id, number, fingerprint in rows:
        if found and number > after:
            found += [(TaskId(""), 0)] * min(number - after, FINISHED_MAX)
        found.append((task_id, fingerprint))
        after = number + 1
    return found
