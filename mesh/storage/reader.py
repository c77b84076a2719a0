"""Reads the task table for others: finished tasks, history, and whole tables for nodes that fell behind.

One thread. It never waits for the writer, nor the writer for it: each read sees the table as of some commit.
"""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty
from threading import Event as Signal
from time import monotonic
from typing import Any

from mesh.durable import TaskRow
from mesh.effects import CloseSnapshot, LoadHistory, LoadRows, OpenSnapshot, ReadSnapshot
from mesh.events import Event, HistoryLoaded, RowsLoaded, SnapshotOpened, SnapshotRead
from mesh.ids import TaskId
from mesh.storage.database import connect
from mesh.storage.faults import Fault
from mesh.storage.ledger_store import IDS_PER_STATEMENT, TASK_COLUMNS, event_batch, task_row
from mesh.storage.snapshot import LAST_ID, SCANNED_MAX, Snapshot
from mesh.storage.work_queue import WorkQueue

SNAPSHOTS_MAX = 2
"""An open snapshot keeps the write-ahead log of the table growing; a third one closes the oldest."""

SNAPSHOT_IDLE_S_MAX = 60.0
"""One that nobody reads from for this long is closed."""

PAGE_BYTES_MAX = 4 << 20
"""A page of finished tasks ends early at this."""

TRIES_MAX = 5
"""How often a read is tried while somebody else keeps it from being done; SQLite waits 2 s each time for a lock."""
RETRY_PAUSE_S = 0.1

_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL)
"""What says nothing of the table: a lock that somebody else holds, no file descriptor left."""

GONE = "!gone"
"""Cursor that says: there is no such snapshot (any more), open a new one."""

ReadEffect = LoadRows | LoadHistory | OpenSnapshot | ReadSnapshot | CloseSnapshot


class Reader:
    """Give it effects through `queue`; a Path tells it that another file is the table now, None that it is over."""

    def __init__(self, path: Path, fault: Fault, post: Callable[[Event], None]) -> None:
        self.queue: WorkQueue[ReadEffect | Path] = WorkQueue()
        self._path = path
        self._fault = fault
        self._post = post
        self._db: sqlite3.Connection | None = None
        self._snapshots: dict[int, Snapshot] = {}
        self._interrupted = False
        self._hurry = Signal()

    def run(self) -> None:
        """The thread."""
        while True:
            try:
                item = self.queue.get(timeout_s=SNAPSHOT_IDLE_S_MAX / 4 if self._snapshots else None)
            except Empty:
                self._close_idle()
                continue
            if item is None:
                break
            if self._interrupted and not isinstance(item, Path):
                continue
            try:
                self._perform_patiently(item)
            except Exception as error:  # Whatever it is, the answer that was asked for will never come.
                if not self._interrupted:
                    self._fault.report(f"Reading {self._path}", error)
        self._close_all()

    def interrupt(self) -> None:
        """From another thread: give up what is being read, and what waits to be."""
        self._interrupted = True
        self._hurry.set()
        for connection in [self._db, *(snapshot.db for snapshot in tuple(self._snapshots.values()))]:
            try:
                if connection is not None:
                    connection.interrupt()
            except sqlite3.ProgrammingError:
                pass  # Closed meanwhile by its thread.

    def _perform_patiently(self, item: ReadEffect | Path) -> None:
        """What passes is waited for. A snapshot that cannot be read even then is gone, and the other side asks for
        another one; a damaged row, and anything else, is for the caller to report.
        """
        for tries_left in reversed(range(TRIES_MAX)):
            try:
                return self._perform(item)
            except sqlite3.OperationalError as error:
                if self._interrupted or getattr(error, "sqlite_errorcode", 0) & 0xFF not in _PASSING:
                    raise
                if not tries_left:
                    if not isinstance(item, OpenSnapshot | ReadSnapshot):
                        raise
                    self._close_snapshot(item.transfer)
                    return self._post(SnapshotRead(item.transfer, [], [], GONE))
            self._hurry.wait(RETRY_PAUSE_S)
        raise AssertionError("the last try returns or raises")

    def _perform(self, item: ReadEffect | Path) -> None:
        match item:
            case LoadRows():
                self._post(self._load_rows(item))
            case LoadHistory():
                rows = self._table().execute(
                    "SELECT idx, crc, data FROM events WHERE idx > ? ORDER BY idx LIMIT ?", (item.after, item.limit)
                )
                self._post(HistoryLoaded(item.read_id, [event_batch(self._path, *row) for row in rows]))
            case OpenSnapshot():
                self._open_snapshot(item.transfer)
            case ReadSnapshot():
                self._read_snapshot(item)
            case CloseSnapshot():
                self._close_snapshot(item.transfer)
            case _:
                self._switch(item)

    def _table(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = connect(self._path, read_only=True)
        return self._db

    # --- finished tasks -----------------------------------------------------------------------------------------------

    def _load_rows(self, effect: LoadRows) -> RowsLoaded:
        if effect.task_ids:
            return RowsLoaded(effect.read_id, self._named(effect.task_ids), "")
        if not effect.limit:
            return RowsLoaded(effect.read_id, [], "")
        where, values = "", list[str | int]()
        if effect.states:
            where += f" AND state IN ({','.join('?' * len(effect.states))})"
            values += effect.states
        if effect.capability:
            where += " AND capability = ?"
            values.append(effect.capability)
        rows: list[TaskRow] = []
        size = 0
        for found in self._finished_after(effect.after, where, values, effect.limit + 1):
            if len(rows) == effect.limit or size >= PAGE_BYTES_MAX:
                return RowsLoaded(effect.read_id, rows, rows[-1].task_id)
            rows.append(task_row(self._path, found))
            size += len(rows[-1].record)
        return RowsLoaded(effect.read_id, rows, "")

    def _finished_after(self, after: str, where: str, values: list[str | int], limit: int) -> Iterator[tuple[Any, ...]]:
        """Rows of finished tasks in order of id, `limit` at most.

        Where many have finished, few rows in order of id need be looked at. Where they are a few among a million that
        wait, all that finished are sorted instead, of which there are no more than FINISHED_MAX.
        """
        table = self._table()
        if table.execute("SELECT EXISTS (SELECT 1 FROM tasks WHERE finished > 0)").fetchone() == (0,):
            return
        found = table.execute(
            "SELECT task_id FROM tasks WHERE task_id > ? ORDER BY task_id LIMIT 1 OFFSET ?", (after, SCANNED_MAX)
        ).fetchone()
        until = found[0] if found else LAST_ID
        # The plus keeps SQLite from reading by way of the index on `finished`.
        near = table.execute(
            f"SELECT {TASK_COLUMNS} FROM tasks WHERE task_id > ? AND task_id <= ? AND +finished > 0{where}"
            " ORDER BY task_id LIMIT ?",
            (after, until, *values, limit),
        )
        for row in near:
            limit -= 1
            yield row
        if limit and until != LAST_ID:
            yield from table.execute(
                f"SELECT {TASK_COLUMNS} FROM tasks WHERE rowid IN (SELECT rowid FROM tasks INDEXED BY tasks_finished"
                f" WHERE finished > 0 AND task_id > ?{where} ORDER BY task_id LIMIT ?) ORDER BY task_id",
                (until, *values, limit),
            )

    def _named(self, task_ids: list[TaskId]) -> list[TaskRow]:
        """In the order asked for; those that are not there, or not finished, are left out."""
        found: dict[TaskId, TaskRow] = {}
        for at in range(0, len(task_ids), IDS_PER_STATEMENT):
            some = task_ids[at : at + IDS_PER_STATEMENT]
            for row in self._table().execute(
                f"SELECT {TASK_COLUMNS} FROM tasks WHERE task_id IN ({','.join('?' * len(some))}) AND +finished > 0",
                some,
            ):
                task = task_row(self._path, row)
                found[task.task_id] = task
        return [found[task_id] for task_id in dict.fromkeys(task_ids) if task_id in found]

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def _open_snapshot(self, transfer: int) -> None:
        self._close_snapshot(transfer)
        while len(self._snapshots) >= SNAPSHOTS_MAX:
            self._close_snapshot(next(iter(self._snapshots)))
        snapshot = self._snapshots[transfer] = Snapshot(self._path)
        if snapshot.mark is None:
            self._close_snapshot(transfer)
            self._post(SnapshotRead(transfer, [], [], GONE))
        else:
            self._post(SnapshotOpened(transfer, snapshot.mark))

    def _read_snapshot(self, effect: ReadSnapshot) -> None:
        """Live rows, then finished ones, then events; see the effect for the cursors."""
        snapshot = self._snapshots.get(effect.transfer)
        if snapshot is None:
            self._post(SnapshotRead(effect.transfer, [], [], GONE))
            return
        self._post(snapshot.read(effect))

    def _close_snapshot(self, transfer: int) -> None:
        snapshot = self._snapshots.pop(transfer, None)
        if snapshot is not None:
            snapshot.close()

    def _close_idle(self) -> None:
        limit_s = monotonic() - SNAPSHOT_IDLE_S_MAX
        for transfer in [key for key, snapshot in self._snapshots.items() if snapshot.read_at_s < limit_s]:
            self._close_snapshot(transfer)

    def _close_all(self) -> None:
        for transfer in list(self._snapshots):
            self._close_snapshot(transfer)
        if self._db is not None:
            self._db.close()
            self._db = None

    def _switch(self, path: Path) -> None:
        """An installed snapshot replaced the table: nobody reads the old one any more, and it goes."""
        self._close_all()
        old, self._path = self._path, path
        for suffix in ("", "-wal", "-shm"):
            old.with_name(old.name + suffix).unlink(missing_ok=True)
