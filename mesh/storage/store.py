"""A node's disk: performs the effects that write and read it, and says when something is durable.

Two files, three threads: one writes the log, one writes the task table, one reads the table. Nothing here decides
anything; `mesh.node.Node` does.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from time import monotonic

from mesh.durable import Recovered
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
from mesh.storage.faults import Fault, StoreDamaged
from mesh.storage.ledger_store import LedgerStore
from mesh.storage.ledger_writer import LedgerWriter
from mesh.storage.log_store import LogStore
from mesh.storage.log_writer import Installation, LogWriter
from mesh.storage.reader import Reader
from mesh.storage.recovery import join, log_is_superseded

QUEUED_MAX = 65_536
"""Effects one thread has not come to. A disk that far behind counts as failed."""

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


@dataclass(frozen=True, slots=True)
class _Workers:
    log: LogWriter
    ledger: LedgerWriter
    reader: Reader


class Store:
    """The data directory of one node.

    Open it, `recover`, `start`, then `perform` effects; events come back through `post`, from the threads of this
    store.

    Attributes:
        incarnation: which start of this data directory this is, from 1; durable before the constructor returns.
        created: a random mark of this directory. A node whose directory was lost comes back with another one.

    Raises:
        StoreRefused: the directory is not ours, not writable, held by another process, or of a later release.
        StoreDamaged: what was durable is not there any more.
    """

    def __init__(self, data_dir: Path, *, node_id: str, cluster: str, post: Callable[[Event], None]) -> None:
        self._post = post
        self._fault = Fault(post)
        self._directory = Directory(data_dir, node_id=node_id, cluster=cluster)
        try:
            with opening(self._directory.log):
                self._log = LogStore(
                    self._directory.log, node_id=node_id, cluster=cluster, may_be_new=not self._directory.complete
                )
        except BaseException:
            self._directory.release()
            raise
        try:
            self._ledger = self._open_ledger(node_id, cluster)
        except BaseException:
            self._log.close()
            self._directory.release()
            raise
        self.created = self._directory.identity.created
        self.incarnation = self._log.incarnation
        self._workers: _Workers | None = None
        self._threads: list[Thread] = []

    def _open_ledger(self, node_id: str, cluster: str) -> LedgerStore:
        """Also counts this start, and ends the creation of a new directory."""
        directory, log = self._directory, self._log
        path = directory.ledger(log.ledger_number)
        directory.refuse_stranger(log.node_id, log.cluster, node_id, cluster)
        if directory.complete and not path.exists():
            raise StoreDamaged(f"{directory.path} has lost its {path.name}: the task table this log goes with.")
        if not directory.complete and log.incarnation:
            raise StoreDamaged(f"{directory.path} has lost its identity, but holds a log: nobody knows whose it is.")
        directory.drop_ledgers_but(log.ledger_number)
        with opening(path):
            ledger = LedgerStore(path, may_be_new=not directory.complete)
            sync_directory(directory.path)
        with opening(log.path):
            directory.finish_creation()
            log.begin_incarnation()
        return ledger

    def recover(self) -> Recovered:
        """What is on disk, every entry and every live task checked. Called once, before `start`.

        Raises:
            StoreDamaged: something is missing or not as it was written. Nothing is repaired by guessing.
        """
        assert self._workers is None, "a store is recovered once"
        with opening(self._ledger.path):
            table = self._ledger.read()
        with opening(self._log.path):
            log = self._log.read()
            if log_is_superseded(log, table):
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
        log, ledger, reader = self._workers.log.queue, self._workers.ledger.queue, self._workers.reader.queue
        match effect:
            case Persist() | TrimLog():
                log.put(effect)
                queued = log.qsize()
            case WriteLedger() | StageSnapshot():
                ledger.put(effect)
                queued = ledger.qsize()
            case InstallSnapshot():
                installation = Installation(effect, self._fault)
                ledger.put(installation)
                log.put(installation)
                queued = ledger.qsize()
            case _:
                reader.put(effect)
                queued = reader.qsize()
        if queued > QUEUED_MAX:
            self._fault.report("queueing", OverflowError(f"{queued} effects wait for the disk"))

    def figures(self) -> StoreFigures:
        """How the disk does. Resets what is counted since the last call."""
        assert self._workers is not None, "a store has no figures before it was recovered"
        log = self._workers.log
        slowest_commit_ms, log.slowest_commit_ms = log.slowest_commit_ms, 0.0
        return StoreFigures(
            commits=log.commits,
            slowest_commit_ms=slowest_commit_ms,
            log_queued=log.queue.qsize(),
            ledger_queued=self._workers.ledger.queue.qsize(),
            reads_queued=self._workers.reader.queue.qsize(),
        )

    def close(self, timeout_s: float = 5.0) -> None:
        """Finish what was asked for, then let go of the directory.

        If a thread hangs in the kernel longer than `timeout_s`, the directory stays claimed until this process ends.
        """
        if self._threads and self._workers is not None:
            self._workers.reader.interrupt()
            for worker in (self._workers.log, self._workers.ledger, self._workers.reader):
                worker.queue.put(None)
            deadline_s = monotonic() + timeout_s
            for thread in self._threads:
                thread.join(max(0.0, deadline_s - monotonic()))
            if any(thread.is_alive() for thread in self._threads):
                return
            self._ledger = self._workers.ledger.ledger
            self._threads = []
        for file in (self._log, self._ledger):
            try:
                file.close()  # SQLite tidies up, and touches only what was committed.
            except (sqlite3.Error, OSError) as error:
                self._fault.report("closing", error)
        self._directory.release()
