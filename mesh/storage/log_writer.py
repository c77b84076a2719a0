"""Writes the log: group commit, trimming, and the moment at which an installed table becomes ours.

One thread of its own, so that a table write of 20,000 rows never stands before a vote. Whatever waits when it comes
round is one transaction and one sync; the answer names the last token, which stands for all before it.
"""

from collections.abc import Callable
from queue import Empty
from threading import Event as Signal
from time import perf_counter

from mesh.durable import LedgerMark
from mesh.effects import InstallSnapshot, Persist, TrimLog
from mesh.events import Durable, Event
from mesh.storage.faults import Fault
from mesh.storage.log_store import LogContents, LogStore
from mesh.storage.witness import Witness
from mesh.storage.work_queue import WorkQueue

GROUP_MAX = 512
"""Effects taken from the queue at once: what is waited for is never further away than these."""

TRIM_SLICE_MAX = 256
"""Entries deleted in one transaction; in between, whatever waits goes first."""

_FAILURE_POLL_S = 0.05


class Installation:
    """Where the two writers meet: the table is complete and durable -> the log commits to it -> the table is ours."""

    def __init__(self, effect: InstallSnapshot, fault: Fault) -> None:
        self.effect = effect
        self.ledger_number = 0
        self.log: LogContents | None = None
        self._fault = fault
        self._staged, self._switched = Signal(), Signal()

    def staged(self, ledger_number: int) -> None:
        self.ledger_number = ledger_number
        self._staged.set()

    def switched(self, log: LogContents) -> None:
        self.log = log
        self._switched.set()

    def wait_staged(self) -> bool:
        """False if a disk failed meanwhile, and the other side will never come."""
        return self._wait(self._staged)

    def wait_switched(self) -> bool:
        return self._wait(self._switched)

    def _wait(self, signal: Signal) -> bool:
        while not signal.wait(_FAILURE_POLL_S):
            if self._fault.reason:
                return False
        return True


LogWork = Persist | TrimLog | Installation


class LogWriter:
    """Give it work through `queue`; None tells it that it is over."""

    def __init__(
        self, log: LogStore, ledger_mark: LedgerMark | None, fault: Fault, post: Callable[[Event], None]
    ) -> None:
        self.queue: WorkQueue[LogWork] = WorkQueue()
        self.covered_index = 0 if ledger_mark is None else int(ledger_mark.applied_index)
        """What the table on disk covers; the ledger writer moves it. The log is never trimmed beyond."""
        self.witness: Witness = log.witness
        """How far the log is durable. A new object after each commit, so that any thread may look at it at any time."""
        self.commits = 0
        self.slowest_commit_ms = 0.0
        self.commit_since_s = 0.0
        """When the commit that is under way began, by the clock of `perf_counter`; 0 between commits."""
        self._log = log
        self._fault = fault
        self._post = post
        self._trimming = False

    def run(self) -> None:
        """The thread."""
        over = False
        while not over:
            work = self._take()
            over = None in work
            if self._fault.reason:
                continue
            try:
                self._perform([item for item in work if item is not None])
            except Exception as error:  # Whatever it is, what was asked for is not durable and never will be.
                self._fault.report(f"Writing {self._log.path}", error)

    def _take(self) -> list[LogWork | None]:
        """All that waits. Empty only if there is nothing, and old entries to be deleted instead."""
        try:
            work = [self.queue.get(block=not self._trimming)]
        except Empty:
            return []
        for _ in range(min(self.queue.qsize(), GROUP_MAX)):
            work.append(self.queue.get())
        return work

    def _perform(self, work: list[LogWork]) -> None:
        group: list[Persist] = []
        for item in work:
            if isinstance(item, Persist):
                group.append(item)
                continue
            self._commit(group)
            group = []
            if isinstance(item, TrimLog):
                self._trim(item)
            else:
                self._install(item)
        self._commit(group)
        if self._trimming and not self.queue.qsize():
            self._trimming = self._log.delete_some(TRIM_SLICE_MAX)

    def _commit(self, group: list[Persist]) -> None:
        if not group:
            return
        self.commit_since_s = began_s = perf_counter()
        self._log.append(group)
        self.commit_since_s = 0.0
        self.witness = self._log.witness
        self.commits += 1
        self.slowest_commit_ms = max(self.slowest_commit_ms, (perf_counter() - began_s) * 1_000)
        self._post(Durable(group[-1].token))

    def _trim(self, effect: TrimLog) -> None:
        assert effect.first_index - 1 <= self.covered_index, "the log is never trimmed beyond what the table covers"
        self._log.start_after(effect.first_index - 1, effect.before_term)
        self._trimming = True

    def _install(self, installation: Installation) -> None:
        """Later Persists wait meanwhile: they were made for the log as it will be."""
        if not installation.wait_staged():
            return
        mark = installation.effect.mark
        passes = self._log.read().holds(mark.applied_index, mark.applied_term)
        self._log.install(mark, installation.ledger_number, passes=passes)
        self.witness = self._log.witness
        self.covered_index = mark.applied_index
        self._trimming = True
        installation.switched(self._log.read())
