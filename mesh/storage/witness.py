"""Files that bear witness of each other, so that an old copy of one of them does not pass for the file itself.

A file checks itself: row by row, page by page. Against an older state of itself, restored from a backup or brought back
by a disk that forgot writes it had confirmed, that is no use: it was all true once. Three things tell it apart:

- Each start is counted in all files, in a fixed order, and counts that no crash can leave are refused.
- The task table keeps, with every write, how far the log was durable by then. A log that has not come that far is old.
- Each file carries the mark of the directory it was made in.

What cannot be told from within: the whole directory put back from one backup, and files of one run that nothing was
written to between. The first is noticed by the peers, who remember a later incarnation of this node. In the second case
nothing is lost, except that between two writes of the table (half a second) the log has no witness.
"""

from pathlib import Path
from typing import NamedTuple

import msgspec

from mesh.storage.faults import StoreDamaged, StoreRefused


class Owner(msgspec.Struct, frozen=True):
    """Whose a file is: of which node, of which mesh, and of which of the directories that node may have had."""

    node_id: str
    cluster: str
    created: str


def refuse_stranger(file: Path, found: Owner, ours: Owner) -> None:
    """Raises StoreRefused unless the file is ours. Nothing is wrong with it; it only lies in the wrong place."""
    if found.node_id != ours.node_id:
        raise StoreRefused(
            f"{file} belongs to node {found.node_id}, not to {ours.node_id}: put each file back where it was."
        )
    if found.cluster != ours.cluster:
        raise StoreRefused(f"{file} belongs to another mesh ({found.cluster}, not {ours.cluster}).")
    if found.created != ours.created:
        raise StoreRefused(
            f"{file} belongs to another data directory of {ours.node_id}: put back the one that was here."
        )


class Witness(NamedTuple):
    """How far a log was durable at some moment.

    A log grows at its end, and is cut back when a new leader has it otherwise. Neither terms nor indices tell an old
    log from one that was rightly cut: the term of its last entry may fall (a leader's first append may bring only old
    entries), and the current term may have been written before the cut. So the log counts its cuts: with equal `cuts`,
    `last_index` only grows.
    """

    cuts: int = 0
    last_index: int = 0
    term: int = 0
    voted_for: str | None = None

    def what_is_gone_from(self, log: "Witness") -> str:
        """What this one has seen and that log has not, as half a sentence; empty if there is nothing."""
        if log.term < self.term:
            return f"it stands in term {log.term}, after term {self.term} was durable"
        if log.term == self.term and self.voted_for not in (None, log.voted_for):
            return f"it has lost the vote for {self.voted_for} in term {self.term}"
        if (log.cuts, log.last_index) < (self.cuts, self.last_index):
            return f"it ends at entry {log.last_index}, after entry {self.last_index} was durable"
        return ""


class Counted(NamedTuple):
    """A file, and which start it was last used in."""

    file: Path
    incarnation: int


def refuse_older(log: Counted, table: Counted, identity: Counted) -> None:
    """Each start is counted in the log, then in the table, then in the identity, and the next one begins with what the
    last one left undone. So in this order counts never rise, and the first and the last differ by one at most.

    Raises:
        StoreDamaged: one of them is older than that allows.
    """
    newest = max(log, table, identity, key=lambda counted: counted.incarnation)
    if log.incarnation < newest.incarnation:
        older = log
    elif table.incarnation < identity.incarnation or table.incarnation < log.incarnation - 1:
        older = table
    elif identity.incarnation < log.incarnation - 1:
        older = identity
    else:
        return
    raise StoreDamaged(
        f"{older.file} is an old copy: it was last used in start {older.incarnation} of this node, and"
        f" {newest.file.name} in start {newest.incarnation}."
    )


def refuse_forgetful(log_file: Path, log: Witness, table_file: Path, seen: Witness) -> None:
    """Raises StoreDamaged if the log is not as far as the table has seen it."""
    if gone := seen.what_is_gone_from(log):
        raise StoreDamaged(f"{log_file} is older than {table_file.name}, or has lost its end: {gone}.")
