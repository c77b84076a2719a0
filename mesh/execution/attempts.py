"""What this node runs under its leases, and the outcomes the ledger has not answered yet.

An outcome is kept, and told again to whoever leads, until this node's own copy of the ledger shows what came of it.
Nothing here is durable: a node that restarts has a new incarnation and holds nothing.
"""

from collections.abc import Callable

import msgspec

from mesh.ids import FencingToken, TaskId, Term
from mesh.messages import AttemptOrder, AttemptOutcome, CheckpointReport, Lease


class Running(msgspec.Struct):
    """One attempt in hand. `handed` once a child process was told to run it, `started` once user code runs."""

    token: FencingToken
    started: bool = False
    handed: bool = False


class Attempts:
    """Attempts by task. One task has one attempt here at most: a later grant replaces an earlier one."""

    def __init__(self) -> None:
        self.running: dict[TaskId, Running] = {}
        self.outbox: dict[TaskId, AttemptOutcome] = {}
        """Outcomes not answered yet."""
        self.checkpoints: dict[TaskId, CheckpointReport] = {}
        """Checkpoints not answered yet; their handlers wait."""
        self.over: dict[TaskId, FencingToken] = {}
        """Leases the leader called over before our own ledger shows it: a late copy of their grant is not taken on."""
        self.unsent: list[AttemptOutcome] = []
        """Outcomes of this turn."""
        self.unsent_started: list[Lease] = []
        self.term_seen = Term(0)
        self.refused = 0
        """Grants dropped because they came from a past term."""

    def grant(self, term: Term, orders: list[AttemptOrder]) -> tuple[list[AttemptOrder], list[Lease]]:
        """Take on attempts. Returns those to start, and older ones of the same tasks to stop."""
        if term < self.term_seen:
            self.refused += len(orders)
            return [], []
        self.term_seen = term
        to_start: list[AttemptOrder] = []
        to_stop: list[Lease] = []
        running = self.running
        for order in orders:
            if self.over.get(order.task_id, 0) >= order.token:
                continue
            known = running.get(order.task_id)
            if known is not None:
                if known.token >= order.token:
                    continue
                to_stop.append((order.task_id, known.token))
                self.checkpoints.pop(order.task_id, None)
            outcome = self.outbox.get(order.task_id)
            if outcome is not None:
                if outcome.token >= order.token:
                    continue
                del self.outbox[order.task_id]
            running[order.task_id] = Running(order.token)
            to_start.append(order)
        return to_start, to_stop

    def hand_over(self, orders: list[AttemptOrder], slots: int) -> tuple[list[AttemptOrder], list[AttemptOrder]]:
        """Of attempts not yet handed to a child process, those to hand over now, and those that wait for a slot.

        What the leader thinks is over may still run here; it frees its slot when it has stopped.
        """
        free = len(orders)
        if len(self.running) > slots:
            free = slots - sum(1 for attempt in self.running.values() if attempt.handed)
        now: list[AttemptOrder] = []
        waiting: list[AttemptOrder] = []
        for order in orders:
            attempt = self.running.get(order.task_id)
            if attempt is None or attempt.token != order.token:
                continue
            if len(now) < free:
                attempt.handed = True
                now.append(order)
            else:
                waiting.append(order)
        return now, waiting

    def started(self, leases: list[Lease]) -> None:
        """User code of these runs."""
        for task_id, token in leases:
            attempt = self.running.get(task_id)
            if attempt is not None and attempt.token == token:
                attempt.started = True
                self.unsent_started.append((task_id, token))

    def ended(self, outcomes: list[AttemptOutcome]) -> None:
        """These attempts are over.

        A result of one that was stopped is told all the same: user code ran to its end under a lost lease. That belongs
        on record (the ledger fences it), unless nobody has overtaken it (then it counts).
        """
        for outcome in outcomes:
            attempt = self.running.get(outcome.task_id)
            if attempt is None or attempt.token != outcome.token:
                if not outcome.error:
                    self.unsent.append(outcome)
                    if attempt is None:
                        self.outbox.setdefault(outcome.task_id, outcome)
                continue
            del self.running[outcome.task_id]
            self.checkpoints.pop(outcome.task_id, None)
            self.outbox[outcome.task_id] = outcome
            self.unsent.append(outcome)

    def checkpoint(self, report: CheckpointReport) -> bool:
        """A running attempt wants its state kept; False if it is not in hand any more."""
        attempt = self.running.get(report.task_id)
        if attempt is None or attempt.token != report.token:
            return False
        self.checkpoints[report.task_id] = report
        return True

    def checkpoint_answered(self, task_id: TaskId, token: FencingToken, sequence: int) -> bool:
        """The ledger has answered; True if a handler waits for just this."""
        report = self.checkpoints.get(task_id)
        if report is None or report.token != token or report.sequence > sequence:
            return False
        del self.checkpoints[task_id]
        return True

    def settle(self, task_id: TaskId, token: FencingToken) -> None:
        """The ledger has answered the report made under this token."""
        outcome = self.outbox.get(task_id)
        if outcome is not None and outcome.token <= token:
            del self.outbox[task_id]

    def stop(self, leases: list[Lease], is_open: Callable[[TaskId, FencingToken], bool]) -> list[Lease]:
        """These leases are over. Returns those of them that run here.

        `is_open` says of which ones our own ledger does not show that yet.
        """
        stopped: list[Lease] = []
        for task_id, token in leases:
            if token > self.over.get(task_id, 0) and is_open(task_id, token):
                self.over[task_id] = token
            attempt = self.running.get(task_id)
            if attempt is not None and attempt.token <= token:
                del self.running[task_id]
                self.checkpoints.pop(task_id, None)
                stopped.append((task_id, attempt.token))
            self.settle(task_id, token)
        return stopped

    def caught_up(self, is_open: Callable[[TaskId, FencingToken], bool]) -> None:
        """Our ledger has moved on: forget what it shows to be over."""
        self.over = {task_id: token for task_id, token in self.over.items() if is_open(task_id, token)}

    def take_unsent(self) -> tuple[list[AttemptOutcome], list[Lease]]:
        """What happened this turn and is to be told the leader: outcomes, and attempts that began and still run."""
        outcomes, self.unsent = self.unsent, []
        begun, self.unsent_started = self.unsent_started, []
        return outcomes, [lease for lease in begun if lease[0] in self.running]

    def held(self) -> list[Lease]:
        """Every lease this node runs or owes an outcome for."""
        leases = [(task_id, attempt.token) for task_id, attempt in self.running.items()]
        leases.extend((task_id, outcome.token) for task_id, outcome in self.outbox.items())
        return leases

    def begun(self) -> list[Lease]:
        """Leases whose user code runs now."""
        return [(task_id, attempt.token) for task_id, attempt in self.running.items() if attempt.started]
