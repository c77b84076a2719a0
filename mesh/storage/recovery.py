"""Joins what the two files hold into what a node starts from, and says when they cannot be joined."""

from mesh.durable import Recovered
from mesh.storage.faults import StoreDamaged
from mesh.storage.ledger_store import TableContents
from mesh.storage.log_store import LogContents


def log_is_superseded(log: LogContents, table: TableContents) -> bool:
    """Whether the log must start anew right after the table.

    True if the log does not pass through the entry the table stands at: that entry was committed, so whatever the log
    has beyond it on another branch was not. Happens when the table was written before this node's own log had been
    synced.

    Raises:
        StoreDamaged: entries between the table and the start of the log are gone (NATS PR 7620).
    """
    if table.mark is None:
        if log.before_index:
            raise StoreDamaged(
                f"The log starts after entry {log.before_index}, but the task table that covers it is empty."
            )
        return False
    if log.before_index > table.mark.applied_index:
        raise StoreDamaged(
            f"The log starts after entry {log.before_index}, but the task table stands at {table.mark.applied_index}:"
            " what lies between is lost."
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
