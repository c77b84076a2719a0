"""Writes the task table behind the log, and takes in whole tables from others.

One thread of its own; see `log_writer` for why. An incoming table is staged in a file of its own. It becomes the
table when the log says so, in one commit, so that no crash can leave the two at odds; the file that was the table
before is dropped.
"""

from collections.abc import Callable

from mesh.effects import StageSnapshot, WriteLedger
from mesh.events import Event, LedgerWritten, SnapshotInstalled, SnapshotStaged
from mesh.storage.directory import Directory
from mesh.storage.faults import Fault
from mesh.storage.ledger_store import LedgerStore, TableContents
from mesh.storage.log_writer import Installation, LogWriter
from mesh.storage.reader import Reader
from mesh.storage.recovery import join
from mesh.storage.work_queue import WorkQueue

LedgerWork = WriteLedger | StageSnapshot | Installation


class LedgerWriter:
    """Give it work through `queue`; None tells it that it is over."""

    def __init__(
        self,
        directory: Directory,
        number: int,
        ledger: LedgerStore,
        log_writer: LogWriter,
        reader: Reader,
        fault: Fault,
        post: Callable[[Event], None],
    ) -> None:
        self.queue: WorkQueue[LedgerWork] = WorkQueue()
        self.ledger = ledger
        self._directory = directory
        self._number = number
        """The highest number a table file ever had in this run."""
        self._log_writer = log_writer
        self._reader = reader
        self._fault = fault
        self._post = post
        self._staged: LedgerStore | None = None
        self._transfer = 0
        """Whose rows were staged last; it may have gone on where another broke off."""

    def run(self) -> None:
        """The thread."""
        while (work := self.queue.get()) is not None:
            if self._fault.reason:
                continue
            try:
                self._perform(work)
            except Exception as error:  # Whatever it is, what was asked for is not durable and never will be.
                self._fault.report(f"Writing {self.ledger.path}", error)
        if not self._fault.reason:
            self._drop_staged()

    def _perform(self, work: LedgerWork) -> None:
        match work:
            case WriteLedger(write):
                self.ledger.write(write, self._log_writer.witness)
                self._log_writer.covered_index = write.mark.applied_index
                self._post(LedgerWritten(write.mark.applied_index))
            case StageSnapshot():
                self._stage(work)
            case _:
                self._install(work)

    def _stage(self, effect: StageSnapshot) -> None:
        if effect.first:
            self._drop_staged()
            self._number += 1
            self._staged = LedgerStore(
                self._directory.ledger(self._number), self._directory.identity.owner, may_be_new=True
            )
        assert self._staged is not None, "a table is staged from its first rows on"
        self._transfer = effect.transfer
        self._staged.stage(effect.rows, effect.events, effect.as_of, effect.forget_to)
        self._post(SnapshotStaged(effect.transfer))

    def _install(self, installation: Installation) -> None:
        staged, effect = self._staged, installation.effect
        assert staged is not None and self._transfer == effect.transfer, "only what was staged is installed"
        staged.complete(effect.mark, self.ledger.incarnation, self._log_writer.witness)
        installation.staged(self._number)
        if not installation.wait_switched():
            return
        self._staged = None
        self.ledger.close()
        self.ledger = staged
        self._reader.queue.put(staged.path)
        assert installation.log is not None, "the log was read when it was switched"
        # The core has had every row. To read a million of them once more would keep the next write for seconds.
        self._post(SnapshotInstalled(effect.transfer, join(installation.log, TableContents(effect.mark, [], [], 0))))

    def _drop_staged(self) -> None:
        if self._staged is not None:
            self._staged.close()
            self._staged.path.unlink(missing_ok=True)
            self._staged = None
