"""The log on disk: entries, term and vote, where the log starts, and which table it goes with. One file, one thread.

What is promised to other nodes is promised here. Each commit is one sync of the write-ahead log; a batch is there as
a whole or not at all.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from mesh.durable import Entry, HardState, LedgerMark
from mesh.effects import Persist
from mesh.ids import LogIndex, NodeId, Term
from mesh.storage.checksums import entry_crc
from mesh.storage.database import connect, ensure_tables, refuse_lost_commits, refuse_malformed
from mesh.storage.faults import StoreDamaged
from mesh.storage.single_rows import checked_row, put_row
from mesh.storage.witness import Counted, Owner, Witness

ROWS_PER_STATEMENT = 64
"""Each step of a statement gives the interpreter lock away and must get it back, which under load costs more than the
step. So rows go in by the dozen."""

_TABLES = """
CREATE TABLE entries (idx INTEGER PRIMARY KEY, term INTEGER, kind INTEGER, crc INTEGER, data BLOB);
-- One row each. `tail` notices entries missing at the end, where no gap shows.
CREATE TABLE tail (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER);
CREATE TABLE vote (id INTEGER PRIMARY KEY CHECK (id = 1), term INTEGER, voted_for TEXT, crc INTEGER);
CREATE TABLE start (id INTEGER PRIMARY KEY CHECK (id = 1), before_index INTEGER, before_term INTEGER, crc INTEGER);
CREATE TABLE owner (id INTEGER PRIMARY KEY CHECK (id = 1), node_id TEXT, cluster TEXT, created TEXT, crc INTEGER);
-- In which start it was last used, which table it goes with, and how often it was cut back.
CREATE TABLE run (id INTEGER PRIMARY KEY CHECK (id = 1), incarnation INTEGER, ledger INTEGER, cuts INTEGER,
                  crc INTEGER);
CREATE TRIGGER tail_follows AFTER INSERT ON entries BEGIN UPDATE tail SET last = NEW.idx WHERE id = 1; END;
"""
_INSERT = ["INSERT INTO entries VALUES " + ",".join(["(?,?,?,?,?)"] * rows) for rows in range(ROWS_PER_STATEMENT + 1)]


class LogContents(msgspec.Struct, frozen=True):
    """All of it: entries are contiguous from before_index + 1."""

    hard_state: HardState | None
    before_index: LogIndex
    before_term: Term
    entries: list[Entry]

    def holds(self, index: int, term: int) -> bool:
        """Whether the log passes through this position."""
        if index == self.before_index:
            return term == self.before_term
        at = index - self.before_index - 1
        return 0 <= at < len(self.entries) and self.entries[at].term == term


class LogStore:
    """`log.db`, held exclusively. Methods raise sqlite3.Error or OSError when the disk fails, AssertionError when
    asked for what no correct core asks."""

    def __init__(self, path: Path, owner: Owner, *, may_be_new: bool = False) -> None:
        self.path = path
        refuse_lost_commits(path)
        self._db = connect(path, exclusive=True)
        try:
            ensure_tables(path, self._db, _TABLES, may_be_new=may_be_new)
            if may_be_new and self._db.execute("SELECT count(*) FROM owner").fetchone() == (0,):
                self._begin(owner)
            refuse_malformed(path, self._db)
            self.owner = Owner(*checked_row(self.path, self._db, "owner", "node_id, cluster, created"))
            self.incarnation, self.ledger_number, self.cuts = checked_row(
                self.path, self._db, "run", "incarnation, ledger, cuts"
            )
            self.before_index, self.before_term = checked_row(self.path, self._db, "start", "before_index, before_term")
            self.term, self.voted_for = checked_row(self.path, self._db, "vote", "term, voted_for")
            self.last_index: int = self._tail()
        except BaseException:
            self._db.close()
            raise

    @property
    def witness(self) -> Witness:
        """How far it is durable. To be asked by the thread that writes it."""
        return Witness(self.cuts, self.last_index, self.term, self.voted_for)

    @property
    def counted(self) -> Counted:
        return Counted(self.path, self.incarnation)

    def _begin(self, owner: Owner) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("INSERT INTO tail VALUES (1, 0)")
        put_row(self._db, "owner", owner.node_id, owner.cluster, owner.created)
        put_row(self._db, "run", 0, 1, 0)
        put_row(self._db, "start", 0, 0)
        put_row(self._db, "vote", 0, None)
        self._db.execute("COMMIT")

    def _tail(self) -> int:
        row = self._db.execute("SELECT last FROM tail WHERE id = 1").fetchone()
        if row is None or type(row[0]) is not int:
            raise StoreDamaged(f"{self.path} is damaged: its tail is not as it was written.")
        return row[0]

    def close(self) -> None:
        self._db.close()

    def count_start(self, incarnation: int) -> None:
        """Count one more start of this node, durably."""
        self.incarnation = incarnation
        put_row(self._db, "run", self.incarnation, self.ledger_number, self.cuts)

    def read(self) -> LogContents:
        """Everything, each row checked. Raises StoreDamaged at the first that is wrong or missing."""
        self.term, self.voted_for = checked_row(self.path, self._db, "vote", "term, voted_for")
        rows = self._db.execute(
            "SELECT idx, term, kind, data, crc FROM entries WHERE idx > ? ORDER BY idx", (self.before_index,)
        )
        entries: list[Entry] = []
        expected = self.before_index + 1
        for index, entry_term, kind, data, crc in rows:
            entry = Entry(index, entry_term, kind, data)
            if index != expected:
                raise StoreDamaged(f"{self.path} is damaged: entry {expected} is missing.")
            if type(data) is not bytes or entry_crc(entry) != crc:
                raise StoreDamaged(f"{self.path} is damaged: entry {index} is not as it was written.")
            entries.append(entry)
            expected += 1
        if expected != self.last_index + 1:
            raise StoreDamaged(f"{self.path} is damaged: it ends at {expected - 1}, not at {self.last_index}.")
        is_new = (self.term, self.voted_for) == (0, None)
        hard_state = (
            None if is_new else HardState(Term(self.term), None if self.voted_for is None else NodeId(self.voted_for))
        )
        return LogContents(hard_state, LogIndex(self.before_index), Term(self.before_term), entries)

    # --- while the node runs ------------------------------------------------------------------------------------------

    def append(self, persists: Sequence[Persist]) -> None:
        """Make these durable in their order, with one commit for all of them."""
        hard_state: HardState | None = None
        entries: list[Entry] = []
        kept = self.last_index
        for persist in persists:
            hard_state = persist.hard_state or hard_state
            if persist.truncate_from:
                assert persist.truncate_from > self.before_index, "a log is never cut below where it starts"
                kept = min(kept, persist.truncate_from - 1)
                while entries and entries[-1].index >= persist.truncate_from:
                    entries.pop()
            entries += persist.entries
        first = kept + 1
        assert [entry.index for entry in entries] == list(range(first, first + len(entries))), "entries leave no gap"
        if hard_state is None and kept == self.last_index and 0 < len(entries) <= ROWS_PER_STATEMENT:
            self._insert(entries)
        elif hard_state is not None or kept < self.last_index or entries:
            self._replace(hard_state, kept, entries)
        if hard_state is not None:
            self.term, self.voted_for = hard_state.term, hard_state.voted_for
        self.last_index = kept + len(entries)

    def _replace(self, hard_state: HardState | None, kept: int, entries: list[Entry]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        if hard_state is not None:
            put_row(self._db, "vote", hard_state.term, hard_state.voted_for)
        if kept < self.last_index:
            self._db.execute("DELETE FROM entries WHERE idx > ?", (kept,))
            self._db.execute("UPDATE tail SET last = ?", (kept,))
            put_row(self._db, "run", self.incarnation, self.ledger_number, self.cuts + 1)
        for at in range(0, len(entries), ROWS_PER_STATEMENT):
            self._insert(entries[at : at + ROWS_PER_STATEMENT])
        self._db.execute("COMMIT")
        self.cuts += kept < self.last_index

    def _insert(self, entries: list[Entry]) -> None:
        values: list[int | bytes] = []
        for entry in entries:
            values += (entry.index, entry.term, entry.kind, entry_crc(entry), entry.data)
        self._db.execute(_INSERT[len(entries)], values)

    def start_after(self, index: int, term: int) -> None:
        """Entries up to `index`, which has `term`, are no longer part of the log; `delete_some` frees their space."""
        if index <= self.before_index:
            return
        assert index <= self.last_index, "a log is never trimmed beyond its end"
        put_row(self._db, "start", index, term)
        self.before_index, self.before_term = index, term

    def delete_some(self, count: int) -> bool:
        """Free the space of up to `count` entries from before the start of the log. Says whether there may be more."""
        found = self._db.execute(
            "SELECT max(idx), count(*) FROM (SELECT idx FROM entries WHERE idx <= ? ORDER BY idx LIMIT ?)",
            (self.before_index, count),
        ).fetchone()
        if found[0] is not None:
            self._db.execute("DELETE FROM entries WHERE idx <= ?", (found[0],))
        return bool(found[1] == count)

    def install(self, mark: LedgerMark, ledger_number: int, *, passes: bool) -> None:
        """Go on with another table: the log starts after `mark`, and is empty unless it passes through there.

        One commit decides for both files: until it, the old table counts, from it on, the new one.
        """
        cuts = self.cuts if passes else self.cuts + 1
        self._db.execute("BEGIN IMMEDIATE")
        if not passes:
            self._db.execute("DELETE FROM entries")
            self._db.execute("UPDATE tail SET last = ?", (mark.applied_index,))
        put_row(self._db, "start", mark.applied_index, mark.applied_term)
        put_row(self._db, "run", self.incarnation, ledger_number, cuts)
        self._db.execute("COMMIT")
        self.before_index, self.before_term = mark.applied_index, mark.applied_term
        self.ledger_number, self.cuts = ledger_number, cuts
        self.last_index = self.last_index if passes else mark.applied_index
