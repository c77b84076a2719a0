"""A disk for one node of the cast: what is synced survives a crash, what is only on its way does not.

It keeps the promises of mesh/effects.py with lists and dicts, and refuses what no disk could do: entries that do not
follow each other, a log trimmed beyond what the table covers.
"""

from dataclasses import dataclass, field

from mesh.durable import Entry, HardState, LedgerMark, LedgerWrite, Recovered, TaskRow, without_gaps
from mesh.effects import (
    InstallSnapshot,
    LoadHistory,
    LoadRows,
    Persist,
    ReadSnapshot,
    StageSnapshot,
    TrimLog,
    WriteLedger,
)
from mesh.events import (
    Durable,
    Event,
    HistoryLoaded,
    LedgerWritten,
    RowsLoaded,
    SnapshotInstalled,
    SnapshotRead,
    SnapshotStaged,
)
from mesh.ids import TaskId, Term

Write = Persist | TrimLog | WriteLedger | StageSnapshot | InstallSnapshot


@dataclass
class Table:
    """The ledger store: rows by id, events by log index, and where in the log they stand."""

    mark: LedgerMark | None = None
    rows: dict[TaskId, TaskRow] = field(default_factory=dict)
    events: list[tuple[int, bytes]] = field(default_factory=list)
    changed: dict[TaskId, int] = field(default_factory=dict)

    def copy(self) -> "Table":
        """A read transaction: what stands here now, whatever is written afterwards."""
        return Table(self.mark, dict(self.rows), list(self.events), dict(self.changed))

    def write(self, write: LedgerWrite) -> None:
        self.rows |= {row.task_id: row for row in write.rows}
        self.changed |= {row.task_id: write.mark.applied_index for row in write.rows}
        for task_id in write.forgotten:
            self.rows.pop(task_id, None)
        self.events = [batch for batch in self.events if batch[0] >= write.events_from] + write.events
        self.mark = write.mark

    def chunk(self, wanted: ReadSnapshot, rows_max: int) -> SnapshotRead:
        """The next few rows, live ones by id and then finished ones; all events come with the last of them."""
        rest = sorted(
            (place(cursor(row)), row)
            for row in self.rows.values()
            if (not wanted.after or place(cursor(row)) > place(wanted.after))
            and (
                not wanted.base
                or place(cursor(row)) > place(wanted.upto)
                or (not row.finished and self.changed[row.task_id] > wanted.base)
            )
        )
        rows = [row for _, row in rest[:rows_max]]
        more = cursor(rows[-1]) if len(rest) > rows_max else ""
        return SnapshotRead(wanted.transfer, rows, [] if more else self.events, more)


def cursor(row: TaskRow) -> str:
    """What stands for this row between two pages."""
    return f"f{row.finished}" if row.finished else f"t{row.task_id}"


def place(after: str) -> tuple[int, str, int]:
    return (1, "", int(after[1:])) if after.startswith("f") else (0, after[1:], 0)


@dataclass
class Disk:
    """Both files of a node. `rows_a_page` makes the store end its pages early, as it does when rows are large."""

    hard_state: HardState | None = None
    entries: list[Entry] = field(default_factory=list)
    before_index: int = 0
    before_term: Term = Term(0)
    table: Table = field(default_factory=Table)
    staged: Table = field(default_factory=Table)
    unsynced: list[Write] = field(default_factory=list)
    rows_a_page: int = 1_000_000

    @property
    def last_index(self) -> int:
        return self.before_index + len(self.entries)

    def sync(self) -> list[Event]:
        """Everything on its way is durable now. Returns what the node is told of it."""
        writes, self.unsynced = self.unsynced, []
        told = [self._perform(write) for write in writes]
        return [event for event in told if event is not None]

    def recovered(self) -> Recovered:
        """What a starting node finds. A log that does not pass through its table begins anew after it."""
        mark = self.table.mark
        if mark is not None and self._term_at(mark.applied_index) != mark.applied_term:
            self._restart_after(mark)
        rows = sorted(self.table.rows.values(), key=lambda row: row.finished)
        done = without_gaps((row.task_id, row.finished, row.fingerprint) for row in rows if row.finished)
        live = [row for row in rows if not row.finished]
        last = rows[-1].finished if rows else 0
        return Recovered(self.hard_state, list(self.entries), self.before_term, mark, live, done, last)

    def load_rows(self, wanted: LoadRows) -> RowsLoaded:
        done = {task_id: row for task_id, row in sorted(self.table.rows.items()) if row.finished}
        if wanted.task_ids:
            return RowsLoaded(wanted.read_id, [done[task_id] for task_id in wanted.task_ids if task_id in done], "")
        page = [
            row
            for row in done.values()
            if row.task_id > wanted.after
            and (not wanted.states or row.state in wanted.states)
            and wanted.capability in ("", row.capability)
        ]
        size = min(wanted.limit, self.rows_a_page)
        more = (page[size - 1].task_id if size else wanted.after) if len(page) > size else ""
        return RowsLoaded(wanted.read_id, page[:size], more)

    def load_history(self, wanted: LoadHistory) -> HistoryLoaded:
        batches = [batch for batch in self.table.events if batch[0] > wanted.after]
        return HistoryLoaded(wanted.read_id, batches[: wanted.limit])

    def _perform(self, write: Write) -> Event | None:
        match write:
            case Persist():
                self._persist(write)
                return Durable(write.token)
            case WriteLedger():
                assert write.write.mark.applied_index > (self.table.mark.applied_index if self.table.mark else 0)
                self.table.write(write.write)
                return LedgerWritten(write.write.mark.applied_index)
            case TrimLog():
                self._trim(write)
            case StageSnapshot():
                self.staged = Table() if write.first else self.staged
                for gone in [row for row in self.staged.rows.values() if 0 < row.finished <= write.forget_to]:
                    del self.staged.rows[gone.task_id]
                self.staged.rows |= {row.task_id: row for row in write.rows}
                self.staged.events += write.events
                return SnapshotStaged(write.transfer)
            case InstallSnapshot():
                changed: dict[TaskId, int] = dict.fromkeys(self.staged.rows, write.mark.applied_index)
                self.table, self.staged = Table(write.mark, self.staged.rows, self.staged.events, changed), Table()
                self._restart_after(write.mark)
                return SnapshotInstalled(write.transfer, self.recovered())
        return None

    def _persist(self, batch: Persist) -> None:
        self.hard_state = batch.hard_state or self.hard_state
        if batch.truncate_from:
            assert batch.truncate_from > self.before_index, "what is trimmed is committed, and is not cut"
            del self.entries[batch.truncate_from - self.before_index - 1 :]
        for entry in batch.entries:
            assert entry.index == self.last_index + 1, f"entry {entry.index} written behind {self.last_index}"
            self.entries.append(entry)

    def _trim(self, trim: TrimLog) -> None:
        covered = self.table.mark.applied_index if self.table.mark else 0
        assert trim.first_index <= covered + 1, f"the log trimmed to {trim.first_index}, the table covers {covered}"
        if trim.first_index > self.before_index + 1:
            assert self._term_at(trim.first_index - 1) == trim.before_term
            del self.entries[: trim.first_index - 1 - self.before_index]
            self.before_index, self.before_term = trim.first_index - 1, trim.before_term

    def _term_at(self, index: int) -> int | None:
        if index == self.before_index:
            return self.before_term
        position = index - self.before_index - 1
        return self.entries[position].term if 0 <= position < len(self.entries) else None

    def _restart_after(self, mark: LedgerMark) -> None:
        self.entries, self.before_index, self.before_term = [], mark.applied_index, mark.applied_term
