"""A node's two files, as they would be after the power went: what is synced, and what is only on its way.

`Storage` is the one writer thread: operations wait in line, the writer takes all that wait, and when their latency
has passed they are durable, in order. A crash keeps a prefix of what was not yet synced: each batch as a whole or not
at all, as SQLite promises. Files are plain lists and dicts; the semantics are those of the docstrings in
mesh/effects.py.
"""

from collections.abc import Callable
from random import Random
from typing import TypeAlias

from mesh.durable import Entry, HardState, LedgerMark, Member, Recovered, TaskRow, without_gaps
from mesh.effects import InstallSnapshot, Persist, ReadSnapshot, StageSnapshot, TrimLog, WriteLedger
from mesh.events import Durable, Event, LedgerWritten, SnapshotInstalled, SnapshotStaged
from mesh.ids import LogIndex, TaskId, Term
from mesh.sim.coverage import Coverage
from mesh.sim.plan import Plan
from mesh.sim.schedule import Schedule
from mesh.sim.violation import Violation


def mark_of(member: Member) -> str:
    """Names the log of a member. A founder whose log has no name yet means the first one."""
    return member.mark or f"{member.node_id}-1"


Write: TypeAlias = Persist | TrimLog | WriteLedger | StageSnapshot | InstallSnapshot


class LogFile:
    """Entries, term and vote, as synced."""

    def __init__(self) -> None:
        self.hard_state: HardState | None = None
        self.first_index = 1
        self.before_term = Term(0)
        self.entries: list[Entry] = []

    @property
    def last_index(self) -> int:
        return self.first_index + len(self.entries) - 1

    @property
    def term(self) -> int:
        return self.hard_state.term if self.hard_state else 0

    def term_at(self, index: int) -> int | None:
        """Term of the entry at `index`; None if it is not in the file (but the one before the first is known)."""
        if index == self.first_index - 1:
            return self.before_term
        if self.first_index <= index <= self.last_index:
            return self.entries[index - self.first_index].term
        return None

    def persist(self, batch: Persist, node_id: str) -> None:
        """Perform one batch. It must follow on what is there, and never take a term or a vote back (7, 8)."""
        if batch.hard_state is not None:
            self._keep(batch.hard_state, node_id)
        if batch.truncate_from:
            if batch.truncate_from < self.first_index:
                raise Violation(
                    "11 pointer order", f"{node_id} cuts its log from {batch.truncate_from}, already trimmed"
                )
            del self.entries[batch.truncate_from - self.first_index :]
        if batch.entries:
            if batch.entries[0].index != self.last_index + 1:
                raise Violation(
                    "2 log matching",
                    f"{node_id} writes entry {batch.entries[0].index} behind its last one, {self.last_index}",
                )
            self.entries.extend(batch.entries)

    def _keep(self, new: HardState, node_id: str) -> None:
        old = self.hard_state
        if old is not None and new.term < old.term:
            raise Violation("7 term never goes back", f"{node_id} writes term {new.term} over {old.term}")
        if old is not None and new.term == old.term and old.voted_for not in (None, new.voted_for):
            raise Violation(
                "8 a vote stands for its term",
                f"{node_id} voted for {old.voted_for} in term {old.term} and now writes {new.voted_for}",
            )
        self.hard_state = new

    def trim(self, first_index: LogIndex, before_term: Term) -> None:
        """Forget what is before `first_index`."""
        if first_index > self.first_index:
            del self.entries[: first_index - self.first_index]
            self.first_index, self.before_term = first_index, before_term

    def restart_after(self, mark: LedgerMark) -> None:
        """The log begins anew after a table that covers all before."""
        self.entries = []
        self.first_index, self.before_term = mark.applied_index + 1, mark.applied_term


class LedgerFile:
    """The task table as of one applied index, as synced."""

    def __init__(self) -> None:
        self.mark: LedgerMark | None = None
        self.rows: dict[TaskId, TaskRow] = {}
        self.changed: dict[TaskId, LogIndex] = {}
        """Up to where in the log the row of a task had not changed since it was written."""
        self.events: list[tuple[int, bytes]] = []
        self.installed_index = 0
        """Where the last table that came from a leader stood."""
        self.staged_rows: dict[TaskId, TaskRow] = {}
        self.staged_events: list[tuple[int, bytes]] = []

    @property
    def applied_index(self) -> int:
        return self.mark.applied_index if self.mark else 0

    def write(self, effect: WriteLedger, node_id: str) -> None:
        write = effect.write
        if write.mark.applied_index < self.applied_index:
            raise Violation(
                "10 applied never goes back",
                f"{node_id} writes its table as of {write.mark.applied_index} over {self.applied_index}",
            )
        for row in write.rows:
            self.rows[row.task_id] = row
            self.changed[row.task_id] = write.mark.applied_index
        for task_id in write.forgotten:
            self.rows.pop(task_id, None)
        self.events += write.events
        if self.events and self.events[0][0] < write.events_from:
            self.events = [batch for batch in self.events if batch[0] >= write.events_from]
        self.mark = write.mark

    def stage(self, effect: StageSnapshot) -> None:
        if effect.first:
            self.staged_rows, self.staged_events = {}, []
        if effect.forget_to:
            self.staged_rows = {
                task_id: row for task_id, row in self.staged_rows.items() if not 0 < row.finished <= effect.forget_to
            }
        for row in effect.rows:
            self.staged_rows[row.task_id] = row
        self.staged_events.extend(effect.events)

    def install(self, mark: LedgerMark, node_id: str) -> None:
        if mark.applied_index < self.applied_index:
            raise Violation(
                "10 applied never goes back",
                f"{node_id} installs a table as of {mark.applied_index} over {self.applied_index}",
            )
        self.rows, self.events = self.staged_rows, self.staged_events
        self.staged_rows, self.staged_events = {}, []
        self.changed = dict.fromkeys(self.rows, mark.applied_index)
        self.mark = mark
        self.installed_index = mark.applied_index

    def copy(self) -> "LedgerFile":
        """A read transaction: what stands here now, whatever is written afterwards."""
        copy = LedgerFile()
        copy.mark, copy.rows, copy.events = self.mark, dict(self.rows), list(self.events)
        copy.changed = dict(self.changed)
        return copy

    def page(self, wanted: ReadSnapshot, rows_max: int) -> tuple[list[TaskRow], list[tuple[int, bytes]], str]:
        """Rows behind the cursor that are wanted, and the next cursor; the events come with the last page."""
        upto = _place(wanted.upto) if wanted.upto else None
        places = {(1, "", row.finished) if row.finished else (0, task_id, 0): row for task_id, row in self.rows.items()}
        rest = [
            place
            for place in sorted(places)
            if (not wanted.after or place > _place(wanted.after))
            and (upto is None or place > upto or (not place[0] and self.changed[places[place].task_id] > wanted.base))
        ]
        chosen = rest[:rows_max]
        is_last = len(rest) <= rows_max
        more = "" if is_last else _cursor(chosen[-1])
        return [places[place] for place in chosen], self.events if is_last else [], more


def _cursor(place: tuple[int, str, int]) -> str:
    kind, task_id, finished = place
    return f"f{finished}" if kind else f"t{task_id}"


def _place(cursor: str) -> tuple[int, str, int]:
    return (1, "", int(cursor[1:])) if cursor.startswith("f") else (0, cursor[1:], 0)


class Disk:
    """Both files, and how a node starts from them."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.life = 1
        """How many there were under this name; every one begins empty, with a mark of its own."""
        self.loss = ""
        """How the one before was lost: wiped, damaged or forgotten; empty for the first."""
        self.damage = ""
        """What a checksum would find wrong with it; empty while it is whole."""
        self.log = LogFile()
        self.ledger = LedgerFile()
        self._former: dict[str, tuple[LogFile, LedgerFile]] = {}
        """What was on it, by mark, when it was lost or damaged: an answer it gave before may still be under way."""

    @property
    def mark(self) -> str:
        """Names the log that is kept here."""
        return f"{self.node_id}-{self.life}"

    @property
    def is_whole(self) -> bool:
        """Whether a node may start from it. Every record has a checksum, so this is known."""
        return not self.damage

    def is_of(self, member: Member) -> bool:
        """Whether the log of this member is kept here, whole."""
        return self.is_whole and self.node_id == member.node_id and mark_of(member) == self.mark

    def held(self, member: Member, index: int, term: int) -> bool:
        """Whether the log of this member has the entry synced, or had it when it was lost."""
        if self.is_of(member):
            return self.covers(index, term)
        log, ledger = self._former.get(mark_of(member), (None, None))
        return log is not None and ledger is not None and _covers(log, ledger, index, term)

    def renew(self, loss: str) -> None:
        """What was here is lost, or set aside: an empty directory with another mark."""
        self._remember()
        self.loss = loss
        self.life += 1
        self.damage = ""
        self.log = LogFile()
        self.ledger = LedgerFile()

    def flip_a_bit(self, roll: Random) -> None:
        """In one entry of the log, as synced."""
        self._remember()
        entries = self.log.entries
        if not entries:
            self.tear()
            return
        self.damage = "a flipped bit in the log"
        position = roll.randrange(len(entries))
        entry = entries[position]
        data = bytearray(entry.data or b"\0")
        data[roll.randrange(len(data))] ^= 1 << roll.randrange(8)
        entries[position] = Entry(entry.index, entry.term, entry.kind, bytes(data))

    def tear(self) -> None:
        """The log ends in the middle of what was synced."""
        self._remember()
        self.damage = "a torn log"
        self.log.entries = self.log.entries[: len(self.log.entries) // 2]

    def restore_backup(self, entries_lost: int) -> None:
        """Somebody put an old copy of the log back: what came after it is missing, and so is what was promised."""
        self._remember()
        self.damage = "an old copy of the log"
        keep = max(len(self.log.entries) - entries_lost, 0)
        self.log.entries = self.log.entries[:keep]
        state = self.log.hard_state
        if state is not None and state.term > 1:
            self.log.hard_state = HardState(Term(state.term - 1), None)

    def _remember(self) -> None:
        if self.mark in self._former:
            return
        log = LogFile()
        log.first_index, log.before_term, log.entries = self.log.first_index, self.log.before_term, [*self.log.entries]
        self._former[self.mark] = (log, self.ledger.copy())

    def covers(self, index: int, term: int) -> bool:
        """Whether the entry at (index, term) is synced here, in the log or in the table."""
        return _covers(self.log, self.ledger, index, term)

    def perform(self, write: Write) -> None:
        """Make one operation durable."""
        if type(write) is Persist:
            self.log.persist(write, self.node_id)
        elif type(write) is WriteLedger:
            self.ledger.write(write, self.node_id)
        elif type(write) is TrimLog:
            covered = self.ledger.applied_index
            if write.first_index > covered + 1:
                detail = f"{self.node_id} trims its log to {write.first_index}, its table covers {covered}"
                raise Violation("11 pointer order", detail)
            self.log.trim(write.first_index, write.before_term)
        elif type(write) is StageSnapshot:
            self.ledger.stage(write)
        elif type(write) is InstallSnapshot:
            self.ledger.install(write.mark, self.node_id)
            self.log.restart_after(write.mark)

    def perform_half(self, install: InstallSnapshot) -> None:
        """The crash came when the table was replaced and the log was not."""
        self.ledger.install(install.mark, self.node_id)

    def recover(self) -> Recovered:
        """What a starting node finds. A log that does not reach its table begins anew after it."""
        mark, log = self.ledger.mark, self.log
        if mark is not None and log.term_at(mark.applied_index) != mark.applied_term:
            log.restart_after(mark)
        live = [row for row in self.ledger.rows.values() if not row.finished]
        done = sorted((row for row in self.ledger.rows.values() if row.finished), key=lambda row: row.finished)
        return Recovered(
            hard_state=log.hard_state,
            entries=list(log.entries),
            before_term=log.before_term,
            mark=mark,
            live=live,
            finished=without_gaps((row.task_id, row.finished, row.fingerprint) for row in done),
            finished_last=done[-1].finished if done else 0,
        )


def _covers(log: LogFile, ledger: LedgerFile, index: int, term: int) -> bool:
    return index <= ledger.applied_index or log.term_at(index) == term


class Storage:
    """The writer of one running process. `tell` reports what has become durable."""

    def __init__(
        self,
        plan: Plan,
        schedule: Schedule,
        roll: Random,
        disk: Disk,
        coverage: Coverage,
        tell: Callable[[Event], None],
    ) -> None:
        self._plan = plan
        self._schedule = schedule
        self._dice = roll
        self._disk = disk
        self._coverage = coverage
        self._tell = tell
        self._waiting: list[Write] = []
        self._writing: list[Write] = []
        self._is_open = True
        self.has_failed = False
        self.stalled_until_us = 0

    def put(self, write: Write) -> None:
        """Hand one operation to the writer."""
        self._waiting.append(write)
        if not self._writing and not self.has_failed:
            self._begin()

    def _begin(self) -> None:
        """Take all that waits: one sync for what goes to the log, one transaction for each write of the table."""
        self._writing, self._waiting = self._waiting, []
        plan, roll = self._plan, self._dice.expovariate
        log_writes = sum(1 for write in self._writing if type(write) is Persist or type(write) is TrimLog)
        latency_us = plan.sync_us // 4 + int(roll(1.0) * plan.sync_us) if log_writes else 0
        for write in self._writing:
            if type(write) is WriteLedger or type(write) is InstallSnapshot:
                latency_us += plan.ledger_write_us // 4 + int(roll(1.0) * plan.ledger_write_us)
            elif type(write) is StageSnapshot:
                latency_us += plan.ledger_write_us // 8
        stall_us = max(0, self.stalled_until_us - self._schedule.now_us)
        self._schedule.after(latency_us + stall_us, self._end)

    def _end(self) -> None:
        if not self._is_open or self.has_failed:
            return
        done, self._writing = self._writing, []
        durable = None
        events: list[Event] = []
        for write in done:
            self._disk.perform(write)
            if type(write) is Persist:
                durable = Durable(write.token)
                if write.truncate_from:
                    self._coverage.add("log cut back")
            elif type(write) is WriteLedger:
                events.append(LedgerWritten(write.write.mark.applied_index))
            elif type(write) is TrimLog:
                self._coverage.add("log trimmed")
            elif type(write) is StageSnapshot:
                events.append(SnapshotStaged(write.transfer))
            elif type(write) is InstallSnapshot:
                self._coverage.add("snapshot installed")
                events.append(SnapshotInstalled(write.transfer, self._disk.recover()))
        if durable is not None:
            events.insert(0, durable)
        if self._waiting:
            self._begin()
        for event in events:
            self._tell(event)

    def crash(self, keeps_permille: int) -> None:
        """The process is gone. Of what was not synced, a prefix reached the disk; the log's is the longer one."""
        self._is_open = False
        pending = self._writing + self._waiting
        kept = 0
        while kept < len(pending) and self._dice.random() * 1_000 < keeps_permille:
            kept += 1
        table_kept = self._dice.randint(0, kept)
        table_is_behind = False
        for position, write in enumerate(pending[:kept]):
            if type(write) is InstallSnapshot:
                if table_is_behind:
                    break
                if position >= table_kept:
                    self._disk.perform_half(write)
                    self._coverage.add("crash between table and log")
                    break
            elif position >= table_kept and (type(write) is WriteLedger or type(write) is StageSnapshot):
                table_is_behind = True
                continue
            self._disk.perform(write)
        if kept < len(pending):
            self._coverage.add("crash that lost un-synced writes")
