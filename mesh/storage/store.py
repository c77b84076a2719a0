"""A node's disk: performs the effects that write and read it, and says when something is durable.

Two files, three threads: one writes the log, one writes the task table, one reads the table. Nothing here decides
anything; `mesh.node.Node` does.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from time import monotonic, perf_counter

from mesh.durable import Recovered, TaskRow
from mesh.effects import (
    CloseSnapshot,
    InstallSnapshot,
    LoadHistory,
    LoadRows,
    OpenSnapshot,
    Persist,
    ReadSnapshot,
    StageSnapshot,
    TrimLog,
    WriteLedger,
)
from mesh.events import Event
from mesh.storage.database import opening, sync_directory
from mesh.storage.directory import Directory
from mesh.storage.faults import DiskBehind, Fault, StoreDamaged
from mesh.storage.ledger_store import LedgerStore
from mesh.storage.ledger_writer import LedgerWriter
from mesh.storage.log_store import LogStore
from mesh.storage.log_writer import Installation, LogWriter
from mesh.storage.reader import Reader
from mesh.storage.recovery import join, log_is_superseded
from mesh.storage.witness import refuse_forgetful, refuse_older, refuse_stranger

StorageEffect = (
    Persist
    | WriteLedger
    | TrimLog
    | InstallSnapshot
    | StageSnapshot
    | LoadRows
    | LoadHistory
    | OpenSnapshot
    | ReadSnapshot
    | CloseSnapshot
)


@dataclass(frozen=True, slots=True)
class StoreFigures:
    """How the disk does, for telemetry."""

    commits: int
    slowest_commit_ms: float
    """Since the last time somebody asked."""
    log_queued: int
    ledger_queued: int
    reads_queued: int
    commit_under_way_ms: float = 0.0
    """How long the log's current commit has taken so far; 0 if none is under way. A hung disk shows here."""
    bytes_queued: int = 0
    """What all those effects carry."""


@dataclass(frozen=True, slots=True)
class _Workers:
    log: LogWriter
    ledger: LedgerWriter
    reader: Reader


class Store:
    """The data directory of one node.

    Open it, `recover`, `start`, then `perform` effects; events come back through `post`, from the threads of this
    store.

    Args:
        cluster: the mesh this node belongs to; kept with the directory, which is refused under another one.
        first_incarnation: of a new directory. Seconds since 1970 let the incarnations of one node grow, also when its
            directory is lost.
        rejoining: a new directory is one of a node that must not found a mesh. It is never taken back.

    Attributes:
        incarnation: which start of this data directory this is; durable before the constructor returns.
        created: a random mark of this directory. A node whose directory was lost comes back with another one.
        rejoining: this directory was made to join a mesh that runs, whatever the arguments say now.

    Raises:
        StoreRefused: the directory is not ours, not writable, held by another process, or of another release.
        StoreDamaged: what was durable is not there any more, or one file is older than the others (see `witness`, also
            for what cannot be noticed from here: the whole directory restored from one backup).
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        node_id: str,
        cluster: str,
        post: Callable[[Event], None],
        first_incarnation: int = 1,
        rejoining: bool = False,
    ) -> None:
        self._post = post
        self._directory = directory = Directory(data_dir, node_id=node_id, cluster=cluster, rejoining=rejoining)
        self._fault = Fault(post, directory.note_damage)
        is_new = not directory.identity.is_complete
        try:
            with opening(directory.log):
                self._log = LogStore(directory.log, directory.identity.owner, may_be_new=is_new)
        except BaseException:
            directory.release()
            raise
        try:
            self._ledger = self._open_ledger(may_be_new=is_new)
        except BaseException:
            self._log.close()
            directory.release()
            raise
        try:
            self._count_start(first_incarnation if is_new else 1)
        except BaseException:
            self._ledger.close()
            self._log.close()
            directory.release()
            raise
        self.created = directory.identity.created
        self.rejoining = directory.identity.rejoining
        self.incarnation = self._log.incarnation
        self._workers: _Workers | None = None
        self._threads: list[Thread] = []
        self._is_closed = False

    def _open_ledger(self, *, may_be_new: bool) -> LedgerStore:
        """The table that goes with the log. Nothing is written before the files are known to belong together."""
        directory, log = self._directory, self._log
        identity = directory.identity
        refuse_stranger(log.path, log.owner, identity.owner)
        path = directory.ledger(log.ledger_number)
        if not may_be_new and not path.exists():
            raise StoreDamaged(f"{directory.path} has lost its {path.name}: the task table this log goes with.")
        with opening(path):
            ledger = LedgerStore(path, identity.owner, may_be_new=may_be_new)
        try:
            refuse_stranger(path, ledger.owner, identity.owner)
            if not may_be_new:
                refuse_older(log.counted, ledger.counted, directory.counted)
            refuse_forgetful(log.path, log.witness, path, ledger.witness)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _count_start(self, incarnation_min: int) -> None:
        """In the log, in the table, in the identity, and what an earlier start left undone before that: the order by
        which the next start tells a crash from an old copy. This also ends the creation of a new directory.
        """
        directory, log, ledger = self._directory, self._log, self._ledger
        directory.drop_ledgers_but(log.ledger_number)
        counts = [max(log.incarnation + 1, incarnation_min)]
        if directory.identity.is_complete and log.incarnation > directory.identity.incarnation:
            counts.insert(0, log.incarnation)
        for incarnation in counts:
            with opening(log.path):
                log.count_start(incarnation)
            with opening(ledger.path):
                ledger.count_start(incarnation)
                sync_directory(directory.path)
            with opening(directory.path):
                directory.count_start(incarnation)

    def recover(self) -> Recovered:
        """What is on disk, every entry and every live task checked. Called once, before `start`.

        Raises:
            StoreDamaged: something is missing or not as it was written. Nothing is repaired by guessing, and the
                directory is let go of.
        """
        assert self._workers is None, "a store is recovered once"
        try:
            return self._recover()
        except BaseException:
            self.close()
            raise

    def _recover(self) -> Recovered:
        with opening(self._ledger.path):
            table = self._ledger.read()
        with opening(self._log.path):
            log = self._log.read()
            if log_is_superseded(self._log.path, log, self._ledger.path, table):
                assert table.mark is not None, "a log is superseded by a table that stands somewhere"
                self._log.install(table.mark, self._log.ledger_number, passes=False)
                log = self._log.read()
        log_writer = LogWriter(self._log, table.mark, self._fault, self._post)
        reader = Reader(self._ledger.path, self._fault, self._post)
        ledger_writer = LedgerWriter(
            self._directory, self._log.ledger_number, self._ledger, log_writer, reader, self._fault, self._post
        )
        self._workers = _Workers(log_writer, ledger_writer, reader)
        return join(log, table)

    def append_offline(self, persist: Persist) -> None:
        """Make a batch durable, in a store that was recovered and is not started. For tools, not for nodes.

        Raises:
            StoreRefused: it could not be written.
        """
        assert self._workers is not None and not self._threads, "the log of a running store has a writer"
        with opening(self._log.path):
            self._log.append([persist])

    def start(self) -> None:
        """Start the threads. They are daemons: a hung disk does not keep a process from ending."""
        assert self._workers is not None and not self._threads, "a store is started once, after it was recovered"
        runs = {"log": self._workers.log.run, "ledger": self._workers.ledger.run, "reader": self._workers.reader.run}
        self._threads = [Thread(target=run, name=f"mesh-{name}", daemon=True) for name, run in runs.items()]
        for thread in self._threads:
            thread.start()

    def perform(self, effect: StorageEffect) -> None:
        """Hand an effect to the thread it belongs to. Returns at once."""
        assert self._workers is not None, "a store performs nothing before it was recovered"
        workers = self._workers
        match effect:
            case Persist():
                size = 0
                for entry in effect.entries:
                    size += len(entry.data)
                excess = workers.log.queue.put(effect, size)
            case TrimLog():
                excess = workers.log.queue.put(effect)
            case WriteLedger(write):
                excess = workers.ledger.queue.put(effect, _table_bytes(write.rows, write.events))
            case StageSnapshot():
                excess = workers.ledger.queue.put(effect, _table_bytes(effect.rows, effect.events))
            case InstallSnapshot():
                installation = Installation(effect, self._fault)
                excess = workers.ledger.queue.put(installation) or workers.log.queue.put(installation)
            case _:
                excess = workers.reader.queue.put(effect)
        if excess:
            self._fault.report(f"Keeping up with {self._directory.path}", DiskBehind(excess))

    def figures(self) -> StoreFigures:
        """How the disk does. Resets what is counted since the last call."""
        assert self._workers is not None, "a store has no figures before it was recovered"
        log = self._workers.log
        queues = (log.queue, self._workers.ledger.queue, self._workers.reader.queue)
        slowest_commit_ms, log.slowest_commit_ms = log.slowest_commit_ms, 0.0
        since_s = log.commit_since_s
        return StoreFigures(
            commits=log.commits,
            slowest_commit_ms=slowest_commit_ms,
            log_queued=queues[0].qsize(),
            ledger_queued=queues[1].qsize(),
            reads_queued=queues[2].qsize(),
            commit_under_way_ms=(perf_counter() - since_s) * 1_000 if since_s else 0.0,
            bytes_queued=sum(queue.bytes_waiting for queue in queues),
        )

    def close(self, timeout_s: float = 5.0) -> None:
        """Finish what was asked for, then let go of the directory.

        If a thread hangs in the kernel longer than `timeout_s`, the directory stays claimed until this process ends.
        Once more does no harm.
        """
        if self._threads and self._workers is not None:
            self._workers.reader.interrupt()
            for queue in (self._workers.log.queue, self._workers.ledger.queue, self._workers.reader.queue):
                queue.put(None)
            deadline_s = monotonic() + timeout_s
            for thread in self._threads:
                thread.join(max(0.0, deadline_s - monotonic()))
            if any(thread.is_alive() for thread in self._threads):
                return
            self._ledger = self._workers.ledger.ledger
            self._threads = []
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._workers is not None and not self._fault.reason:
                self._ledger.bear_witness(self._log.witness)
        except (sqlite3.Error, OSError) as error:
            self._fault.report(f"Writing {self._ledger.path}", error)
        for file in (self._log, self._ledger):
            try:
                file.close()  # SQLite tidies up, and touches only what was committed.
            except (sqlite3.Error, OSError) as error:
                self._fault.report(f"Closing {file.path}", error)
        self._directory.release()


def _table_bytes(rows: list[TaskRow], events: list[tuple[int, bytes]]) -> int:
    return sum(len(row.record) for row in rows) + sum(len(data) for _, data in events)
