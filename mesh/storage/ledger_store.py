"""The task table on disk, as of one applied index. One file; its writer is one thread.

Rows, events and mark change together, in one transaction for each write. The same tables, in a file of their own,
take an incoming snapshot while it is not yet complete.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

import msgspec

from mesh.config import FINISHED_MAX
from mesh.durable import LedgerMark, LedgerWrite, TaskRow, without_gaps
from mesh.ids import TaskId
from mesh.storage.checksums import finished_crc, task_crcs, values_crc
from mesh.storage.database import connect, ensure_tables, refuse_lost_commits, sync_directory
from mesh.storage.faults import StoreDamaged
from mesh.storage.single_rows import checked_row, put_row
from mesh.storage.witness import Counted, Owner, Witness
from mesh.wire.codec import encode

ROWS_PER_STATEMENT = 64
IDS_PER_STATEMENT = 500

# A table with a rowid takes new tasks at its end whatever their ids are: 10 us a row, against 38 us WITHOUT ROWID
# (ids at random, records of 700 bytes). The index lets a start read what it needs of finished tasks, in order,
# without their records.
_TABLES = """
CREATE TABLE tasks (task_id TEXT PRIMARY KEY, state INTEGER, capability TEXT, finished INTEGER, fingerprint INTEGER,
                    key_crc INTEGER, crc INTEGER, changed INTEGER, record BLOB);
-- `changed`: where in the log the table stood when the row was written; it has not changed since.
CREATE INDEX tasks_finished ON tasks (finished, task_id, fingerprint, key_crc) WHERE finished > 0;
CREATE TABLE events (idx INTEGER PRIMARY KEY, crc INTEGER, data BLOB);
CREATE TABLE mark (id INTEGER PRIMARY KEY CHECK (id = 1), rows INTEGER, key_sum INTEGER, crc INTEGER, data BLOB);
CREATE TABLE owner (id INTEGER PRIMARY KEY CHECK (id = 1), node_id TEXT, cluster TEXT, created TEXT, crc INTEGER);
-- The start this file was last used in, and how far the log was durable at the last write.
CREATE TABLE seen (id INTEGER PRIMARY KEY CHECK (id = 1), incarnation INTEGER, cuts INTEGER, last INTEGER, term INTEGER,
                   voted_for TEXT, crc INTEGER);
"""

_UPSERT = [
    "INSERT INTO tasks VALUES "
    + ",".join(["(?,?,?,?,?,?,?,?,?)"] * rows)
    + " ON CONFLICT (task_id) DO UPDATE SET state = excluded.state, capability = excluded.capability,"
    " finished = excluded.finished, fingerprint = excluded.fingerprint, key_crc = excluded.key_crc, crc = excluded.crc,"
    " changed = excluded.changed, record = excluded.record"
    for rows in range(ROWS_PER_STATEMENT + 1)
]
_EVENTS = [
    "INSERT OR REPLACE INTO events VALUES " + ",".join(["(?,?,?)"] * rows) for rows in range(ROWS_PER_STATEMENT + 1)
]

TASK_COLUMNS = "rowid, key_crc, crc, task_id, state, capability, finished, fingerprint, changed, record"
ROWID, KEY_CRC = 0, 1
_SIGNED = 1 << 63
_decode_mark = msgspec.msgpack.Decoder(LedgerMark).decode
_T = TypeVar("_T")


class Totals(NamedTuple):
    """Of all rows of a table: how many, and the sum of their first checksums. Notices rows that are missing, of which
    SQLite says nothing when the bit that flipped was in an index.
    """

    rows: int = 0
    key_sum: int = 0

    def plus(self, rows: int, key_sum: int) -> "Totals":
        return Totals(self.rows + rows, self.key_sum + key_sum)


class TableContents(msgspec.Struct, frozen=True):
    """What a start needs of it; see `mesh.durable.Recovered`."""

    mark: LedgerMark | None
    live: list[TaskRow]
    finished: list[tuple[TaskId, int]]
    finished_last: int


class LedgerStore:
    """One table file, open for writing. Methods raise sqlite3.Error or OSError when the disk fails."""

    def __init__(self, path: Path, owner: Owner, *, may_be_new: bool = False) -> None:
        self.path = path
        refuse_lost_commits(path)
        self._db = connect(path)
        try:
            ensure_tables(path, self._db, _TABLES, may_be_new=may_be_new)
            if may_be_new and self._db.execute("SELECT count(*) FROM owner").fetchone() == (0,):
                self._begin(owner)
            self._mark, self._totals = read_mark(path, self._db)
            self.owner = Owner(*checked_row(path, self._db, "owner", "node_id, cluster, created"))
            self.incarnation, *seen = checked_row(path, self._db, "seen", "incarnation, cuts, last, term, voted_for")
            self.witness = Witness(*seen)
        except BaseException:
            self._db.close()
            raise

    @property
    def counted(self) -> Counted:
        return Counted(self.path, self.incarnation)

    def _begin(self, owner: Owner) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        put_row(self._db, "owner", owner.node_id, owner.cluster, owner.created)
        put_row(self._db, "seen", 0, *Witness())
        self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()

    def count_start(self, incarnation: int) -> None:
        """Count one more start of this node, durably."""
        self._db.execute("BEGIN IMMEDIATE")
        self._put_seen(incarnation, self.witness)
        self._db.execute("COMMIT")

    def bear_witness(self, log: Witness) -> None:
        """Keep, durably, how far the log is durable. Nothing is written if that is known."""
        if log != self.witness:
            self._db.execute("BEGIN IMMEDIATE")
            self._put_seen(self.incarnation, log)
            self._db.execute("COMMIT")

    def write(self, write: LedgerWrite, log: Witness) -> None:
        """Bring the table to `write.mark`, in one transaction. `log` is how far the log is durable.

        Forgotten ids go first: an id that is in `rows` too was submitted again after it was forgotten.
        """
        self._db.execute("BEGIN IMMEDIATE")
        for ids in _slices(write.forgotten, IDS_PER_STATEMENT):
            self._uncount(ids)
            self._db.execute(f"DELETE FROM tasks WHERE task_id IN ({_marks(ids)})", ids)
        self._put(write.rows, write.events, write.mark.applied_index)
        self._db.execute("DELETE FROM events WHERE idx < ?", (write.events_from,))
        self._put_mark(write.mark)
        self._put_seen(self.incarnation, log)
        self._db.execute("COMMIT")

    def stage(
        self, rows: Sequence[TaskRow], events: Sequence[tuple[int, bytes]], as_of: int, forget_to: int = 0
    ) -> None:
        """Add to a table that is not yet complete; none of the rows changed after `as_of`. First drop what finished as
        the `forget_to`-th or before. Not synced: `complete` does that for all of it.
        """
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("BEGIN IMMEDIATE")
        if forget_to:
            where = "finished > 0 AND finished <= ?"
            gone = [row[0] for row in self._db.execute(f"SELECT task_id FROM tasks WHERE {where}", (forget_to,))]
            for ids in _slices(gone, IDS_PER_STATEMENT):
                self._uncount(ids)
            self._db.execute(f"DELETE FROM tasks WHERE {where}", (forget_to,))
        self._put(rows, events, as_of)
        self._db.execute("COMMIT")

    def complete(self, mark: LedgerMark, incarnation: int, log: Witness) -> None:
        """Seal a staged table; when this returns, all of it is durable."""
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("BEGIN IMMEDIATE")
        self._put_mark(mark)
        self._put_seen(incarnation, log)
        self._db.execute("COMMIT")
        sync_directory(self.path.parent)

    def read(self) -> TableContents:
        """Mark, live rows and the ids of finished ones, each checked. Raises StoreDamaged."""
        live: list[TaskRow] = []
        key_sum = 0
        for found in self._db.execute(f"SELECT {TASK_COLUMNS} FROM tasks WHERE finished = 0 ORDER BY rowid"):
            live.append(task_row(self.path, found))
            key_sum += found[KEY_CRC]
        rows = self._db.execute(
            "SELECT task_id, finished, fingerprint, key_crc FROM tasks WHERE finished > 0 ORDER BY finished"
        ).fetchall()
        finished: list[tuple[TaskId, int, int]] = []
        for task_id, number, signed, crc in rows:
            fingerprint = signed if signed >= 0 else signed + 2 * _SIGNED
            if finished_crc(task_id, number, fingerprint) != crc:
                raise StoreDamaged(f"{self.path} is damaged: task {task_id} is not as it was written.")
            finished.append((task_id, number, fingerprint))
        if Totals(len(live) + len(rows), key_sum + sum(row[3] for row in rows)) != self._totals:
            raise StoreDamaged(
                f"{self.path} is damaged: {len(live) + len(rows)} tasks of {self._totals.rows} are there."
            )
        return TableContents(self._mark, live, without_gaps(finished)[-FINISHED_MAX:], rows[-1][1] if rows else 0)

    def _put(self, rows: Sequence[TaskRow], events: Sequence[tuple[int, bytes]], changed: int) -> None:
        for some in _slices({row.task_id: row for row in rows}.values(), ROWS_PER_STATEMENT):
            values = [_task_values(row, changed) for row in some]
            self._uncount([row.task_id for row in some])
            self._db.execute(_UPSERT[len(some)], list(chain.from_iterable(values)))
            self._totals = self._totals.plus(len(some), sum(value[5] for value in values))
        for batch in _slices(events, ROWS_PER_STATEMENT):
            self._db.execute(
                _EVENTS[len(batch)], [v for index, data in batch for v in (index, _event_crc(index, data), data)]
            )

    def _put_mark(self, mark: LedgerMark) -> None:
        data = encode(mark)
        values = (*self._totals, _mark_crc(self._totals, data), data)
        self._db.execute("INSERT OR REPLACE INTO mark VALUES (1, ?, ?, ?, ?)", values)
        self._mark = mark

    def _put_seen(self, incarnation: int, log: Witness) -> None:
        put_row(self._db, "seen", incarnation, *log)
        self.incarnation, self.witness = incarnation, log

    def _uncount(self, task_ids: list[TaskId]) -> None:
        """These rows, as far as they exist, are about to go or to change."""
        rows, key_sum = self._db.execute(
            f"SELECT count(*), ifnull(sum(key_crc), 0) FROM tasks WHERE task_id IN ({_marks(task_ids)})", task_ids
        ).fetchone()
        self._totals = self._totals.plus(-rows, -key_sum)


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _slices(items: Iterable[_T], size: int) -> Iterable[list[_T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _task_values(row: TaskRow, changed: int) -> tuple[Any, ...]:
    key_crc, crc = task_crcs(row, changed)
    fingerprint = row.fingerprint if row.fingerprint < _SIGNED else row.fingerprint - 2 * _SIGNED
    return row.task_id, row.state, row.capability, row.finished, fingerprint, key_crc, crc, changed, row.record


def _mark_crc(totals: Totals, data: bytes) -> int:
    return crc32(data, values_crc(*totals))


def _event_crc(index: int, data: bytes) -> int:
    return crc32(data, index & 0xFFFFFFFF)


# --- rows as they are read, by the writer at start and by readers
# ------------------------------------------------------


def task_row(path: Path, values: Sequence[Any]) -> TaskRow:
    """From TASK_COLUMNS of the table in `path`. Raises StoreDamaged if the row is not as it was written."""
    _, key_crc, crc, task_id, state, capability, finished, signed, changed, record = values
    row = TaskRow(task_id, state, capability, finished, signed if signed >= 0 else signed + 2 * _SIGNED, record)
    if type(record) is not bytes or task_crcs(row, changed) != (key_crc, crc):
        raise StoreDamaged(f"{path} is damaged: task {task_id} is not as it was written.")
    return row


def event_batch(path: Path, index: int, crc: int, data: bytes) -> tuple[int, bytes]:
    """Raises StoreDamaged if the events are not as they were written."""
    if type(data) is not bytes or _event_crc(index, data) != crc:
        raise StoreDamaged(f"{path} is damaged: the events of entry {index} are not as they were written.")
    return index, data


def read_mark(path: Path, connection: sqlite3.Connection) -> tuple[LedgerMark | None, Totals]:
    """Where the table stands (None if nothing was ever written), and what must be in it. Raises StoreDamaged."""
    row = connection.execute("SELECT rows, key_sum, crc, data FROM mark").fetchone()
    if row is None:
        return None, Totals()
    totals, data = Totals(*row[:2]), row[3]
    if type(data) is not bytes or _mark_crc(totals, data) != row[2]:
        raise StoreDamaged(f"{path} is damaged: its mark is not as it was written.")
    return _decode_mark(data), totals
