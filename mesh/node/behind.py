"""The task table on disk: written behind in batches, and the log trimmed to what it covers.

One write is on its way at a time. Until it is confirmed, finished tasks it carries are still found here, in memory.
"""

from mesh.config import NodeConfig
from mesh.durable import LedgerMark, LedgerWrite, TaskRow
from mesh.effects import Effect, TrimLog, WriteLedger
from mesh.ids import LogIndex, TaskId, Term
from mesh.ledger.digest import fingerprint
from mesh.ledger.ledger import Ledger
from mesh.ledger.task import Happening, Task
from mesh.raft.replica import Replica
from mesh.wire.codec import encode

NEEDED_ENTRIES_MAX = 1 << 16
"""Entries kept for followers that are being sent a table, at most."""
NEEDED_BYTES_MAX = 512 << 20
"""Their bytes, at most."""


class Behind:
    """What of the ledger is on disk, on its way there, or only in memory."""

    def __init__(self, config: NodeConfig, ledger: Ledger, raft: Replica, now_ms: int) -> None:
        self._config = config.dispatch
        self._ledger = ledger
        self._raft = raft
        self._writing: dict[TaskId, Task] = {}
        self._writing_events: list[tuple[int, list[Happening]]] = []
        self._is_writing = False
        self._written_index = ledger.applied_index
        self._next_ms = now_ms + self._config.ledger_flush_ms
        self.paused = False
        """While a table from the leader replaces this one."""
        self.moves = 0
        """How often what was in memory alone has come to be on disk. What was read from disk before the latest time
        makes no whole with what is in memory now.
        """

    def find(self, task_id: TaskId) -> Task | None:
        """A task that is in memory, live or lately finished."""
        ledger = self._ledger
        return ledger.tasks.get(task_id) or ledger.changed.get(task_id) or self._writing.get(task_id)

    def recent(self) -> list[Task]:
        """Finished tasks that are not yet on disk."""
        tasks = {**self._writing, **self._ledger.changed}
        return [task for task in tasks.values() if task.finished]

    def recent_events(self, after: int) -> list[tuple[int, list[Happening]]]:
        """Events that are not yet on disk, by the index of their entry, after a log index."""
        batches = [*self._writing_events, *self._ledger.event_batches]
        return [batch for batch in batches if batch[0] > after]

    def next_deadline_ms(self) -> int | None:
        if self._is_writing or self.paused or self._ledger.applied_index == self._written_index:
            return None
        return self._next_ms

    def write(self, now_ms: int) -> list[Effect]:
        """Write what has changed, if it is time."""
        ledger = self._ledger
        if self._is_writing or self.paused or ledger.applied_index == self._written_index:
            return []
        if now_ms < self._next_ms and len(ledger.changed) < self._config.ledger_flush_rows_max:
            return []
        self._next_ms = now_ms + self._config.ledger_flush_ms
        self._is_writing = True
        self._writing = ledger.changed
        changes = ledger.take_changes()
        self._writing_events = changes.events
        write = LedgerWrite(
            mark=self._mark(),
            rows=[row(task) for task in changes.tasks],
            forgotten=changes.forgotten,
            events=[(index, encode(events)) for index, events in changes.events],
            events_from=max(0, ledger.applied_index - self._config.events_kept_max),
        )
        return [WriteLedger(write)]

    def written(self, applied_index: int, needed_after: LogIndex | None = None) -> list[Effect]:
        """The table on disk covers everything up to `applied_index`: the log before it may go, but for a tail, and but
        for what follows `needed_after`, where a table stands that is being sent to a follower.
        """
        self.moves += 1
        self._is_writing = False
        self._writing = {}
        self._writing_events = []
        self._written_index = LogIndex(applied_index)
        raft = self._raft
        entries_max = self._config.log_tail_entries_max
        first_index = self._tail(applied_index, entries_max, self._config.log_tail_bytes_max)
        is_heavy = first_index > applied_index - entries_max
        if needed_after is not None:
            oldest = self._tail(applied_index, NEEDED_ENTRIES_MAX, NEEDED_BYTES_MAX)
            first_index = min(first_index, max(LogIndex(needed_after + 1), oldest))
        if first_index - raft.first_index < (1 if is_heavy else max(1, entries_max // 8)):
            return []
        before_term = raft.term_at(LogIndex(first_index - 1))
        raft.compact(first_index)
        return [TrimLog(first_index, before_term)]

    def _tail(self, applied_index: int, entries_max: int, bytes_max: int) -> LogIndex:
        """Where the log must start for what it keeps before `applied_index` to stay within both bounds."""
        log = self._raft.log
        first_index = applied_index - entries_max
        for entry in reversed(log.between(max(first_index - 1, log.before_index), applied_index)):
            bytes_max -= len(entry.data)
            if bytes_max < 0:
                return LogIndex(entry.index + 1)
        return LogIndex(first_index)

    def replaced(self) -> None:
        """A table from the leader took the place of this one."""
        self.moves += 1
        self._is_writing = False
        self._writing = {}
        self._writing_events = []
        self._written_index = self._ledger.applied_index
        self.paused = False

    def _mark(self) -> LedgerMark:
        ledger = self._ledger
        return LedgerMark(
            ledger.applied_index,
            Term(ledger.applied_term),
            ledger.digest,
            encode(ledger.summary()),
            encode(self._raft.configuration_at(ledger.applied_index)),
        )


def row(task: Task) -> TaskRow:
    """A task as the ledger store keeps it."""
    spec = task.spec
    mark = fingerprint(task) if task.finished else 0
    return TaskRow(spec.task_id, task.state, spec.capability, task.finished, mark, encode(task))
