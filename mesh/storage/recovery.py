"""Joins what the two files hold into what a node starts from, and says when they cannot be joined."""

from pathlib import Path

from mesh.durable import Recovered
from mesh.storage.faults import StoreDamaged
from mesh.storage.ledger_store import TableContents
from mesh.storage.log_store import LogContents


def log_is_superseded(log_file: Path, log: LogContents, table_file: Path, table: TableContents) -> bool:
    """Whether the log must start anew right after the table.

    True if the log does not pass through the entry the table stands at: that entry was committed, so whatever the log
    has beyond it on another branch was not. Happens when the table was written before this node's own log had been
    synced.

    A table that is older than it was, but reaches to where the log starts, does no harm: what it misses is applied
    again from the log, and each entry has one outcome.

    Raises:
        StoreDamaged: entries between the table and the start of the log are gone (NATS PR 7620).
    """
    if table.mark is None:
        if log.before_index:
            raise StoreDamaged(
                f"{table_file} is older than {log_file.name}: it is empty, and the log starts after entry"
                f" {log.before_index}."
            )
        return False
    if log.before_index > table.mark.applied_index:
        raise StoreDamaged(
            f"{table_file} is older than {log_file.name}: it stands at entry {table.mark.applied_index}, and the log"
            f" starts after entry {log.before_index}. What lies between is lost."
        )
    return not log.holds(table.mark.applied_index, table.mark.applied_term)


def join(log: LogContents, table: TableContents) -> Recovered:
    """Of a log and a table that fit together."""
    return Recovered(
        hard_state=log.hard_state,
        entries=log.entries,
        before_term=log.before_term,
        mark=table.mark,
        live=table.live,
        finished=table.finished,
        finished_last=table.finished_last,
    )
