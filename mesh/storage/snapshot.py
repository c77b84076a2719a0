"""A whole table, read page by page in one read transaction, for a node that fell behind.

Pages follow ids and the order of finishing, not the places of rows on disk: those are the same on every node, so that
another node can go on where this one broke off.
"""

import sqlite3
from pathlib import Path
from time import monotonic

from mesh.durable import TaskRow
from mesh.effects import ReadSnapshot
from mesh.events import SnapshotRead
from mesh.storage.database import connect
from mesh.storage.faults import StoreDamaged
from mesh.storage.ledger_store import KEY_CRC, TASK_COLUMNS, Totals, event_batch, read_mark, task_row

ROW_OVERHEAD_BYTES = 64
SCANNED_MAX = 20_000
"""Rows looked at for one page, most of which may not be wanted."""
LIVE, FINISHED, EVENTS = "t", "f", "e"
_DIGITS_MAX = 18
"""SQLite's integers have no more."""
LAST_ID = "\U0010ffff" * 201
"""Comes after every task id."""

# The plus keeps SQLite from reading by way of the index on `finished`.
_LIVE_ROWS = (
    f"SELECT {TASK_COLUMNS} FROM tasks WHERE task_id > ? AND task_id <= ? AND +finished = 0"
    " AND (task_id > ? OR changed > ?) ORDER BY task_id"
)
_FINISHED_ROWS = f"SELECT {TASK_COLUMNS} FROM tasks WHERE finished > ? AND finished > 0 ORDER BY finished"


class Snapshot:
    """The transaction, and how far it was read: if everything was asked for, every row must have been there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.db = connect(path, read_only=True)
        try:
            self.db.execute("BEGIN")
            self.mark, self._expected = read_mark(path, self.db)  # The first read fixes what the transaction sees.
        except BaseException:
            self.db.close()
            raise
        self.read_at_s = monotonic()
        self._seen = Totals()
        self._seen_until = ""
        self._scan_until = ""
        """Rows up to this id are looked at before the next look ahead."""

    def close(self) -> None:
        self.db.close()

    def read(self, wanted: ReadSnapshot) -> SnapshotRead:
        """One page; the same one again if asked again. Raises StoreDamaged: a row is not as it was written, or not
        there.
        """
        self.read_at_s = monotonic()
        page = _Page(self._path, wanted.bytes_max)
        part, position = wanted.after[:1] or LIVE, wanted.after[1:]
        more = ""
        if part == LIVE:
            more = self._live(page, position, wanted)
        if part != EVENTS and not more:
            more = self._finished(page, _number(position) if part == FINISHED else 0, wanted)
        if part != EVENTS and not wanted.base:
            self._count(wanted.after, page.totals, more)
        if not more:
            more = self._events(page, _number(position) if part == EVENTS else 0)
        return SnapshotRead(wanted.transfer, page.rows, page.events, more)

    def _live(self, page: "_Page", after: str, wanted: ReadSnapshot) -> str:
        """Adds to the page. Returns the cursor to go on from, empty when there is no more."""
        upto = ""
        if wanted.base:
            upto = wanted.upto[1:] if wanted.upto.startswith(LIVE) else LAST_ID
        if after >= self._scan_until:
            found = self.db.execute(
                "SELECT task_id FROM tasks WHERE task_id > ? ORDER BY task_id LIMIT 1 OFFSET ?", (after, SCANNED_MAX)
            ).fetchone()
            self._scan_until = found[0] if found else LAST_ID
        until = self._scan_until
        if not page.fill(self.db.execute(_LIVE_ROWS, (after, until, upto, min(wanted.base, 10**_DIGITS_MAX)))):
            return f"{LIVE}{page.rows[-1].task_id}"
        return "" if until == LAST_ID else f"{LIVE}{until}"

    def _finished(self, page: "_Page", after: int, wanted: ReadSnapshot) -> str:
        if wanted.base and wanted.upto.startswith(FINISHED):
            after = max(after, _number(wanted.upto[1:]))
        before = len(page.rows)
        if page.fill(self.db.execute(_FINISHED_ROWS, (after,))):
            return ""
        return f"{FINISHED}{page.rows[-1].finished if len(page.rows) > before else after}"

    def _events(self, page: "_Page", after: int) -> str:
        last = after
        cursor = self.db.execute("SELECT idx, crc, data FROM events WHERE idx > ? ORDER BY idx", (after,))
        for found in cursor:
            index, data = event_batch(self._path, *found)
            if not page.has_room(len(data)):
                cursor.close()
                return f"{EVENTS}{last}"
            page.events.append((index, data))
            last = index
        return ""

    def _count(self, after: str, page: Totals, more: str) -> None:
        """Note a page of rows. Raises StoreDamaged after the last one, if rows were missing."""
        if after != self._seen_until:
            return  # Asked for once more.
        self._seen = self._seen.plus(*page)
        self._seen_until = more or EVENTS
        if not more and self._seen != self._expected:
            raise StoreDamaged(f"{self._path} is damaged: {self._seen.rows} tasks of {self._expected.rows} are there.")


class _Page:
    """What goes into one answer: something, and no more than fits."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        self.rows: list[TaskRow] = []
        self.events: list[tuple[int, bytes]] = []
        self._path = path
        self._left = bytes_max
        self._key_sum = 0

    @property
    def totals(self) -> Totals:
        return Totals(len(self.rows), self._key_sum)

    def fill(self, found: sqlite3.Cursor) -> bool:
        """Adds rows of TASK_COLUMNS. False: more of them are there than fit."""
        for values in found:
            row = task_row(self._path, values)
            if not self.has_room(len(row.record)):
                found.close()
                return False
            self.rows.append(row)
            self._key_sum += values[KEY_CRC]
        return True

    def has_room(self, size: int) -> bool:
        """Whether something else fits, which is added then. The first thing always does."""
        self._left -= size + ROW_OVERHEAD_BYTES
        return self._left >= 0 or not (self.rows or self.events)


def _number(position: str) -> int:
    """Of a cursor; peers name them, and what is none is the beginning."""
    return int(position) if position.isdecimal() and len(position) <= _DIGITS_MAX else 0
