"""Invariants 17 to 25: the tasks. One function each; each raises Violation.

They are asked where an entry is applied first; every other node must agree by digest. The model (model.py) says what
ought to be.
"""

from mesh.durable import LedgerWrite
from mesh.ids import FencingToken, TaskId
from mesh.ledger import commands
from mesh.ledger.ledger import Ledger
from mesh.ledger.task import COMPLETED, DEAD, FINISHED, STATE_NAMES
from mesh.messages import AttemptOrder, TaskEnd
from mesh.sim.agents import Made
from mesh.sim.invariants_limits import ONCE
from mesh.sim.model import LEASED, OVER, Model, ModelTask
from mesh.sim.record import Record
from mesh.sim.violation import Violation
from mesh.wire.codec import Rubbish, decode_value

BROKEN_BY: dict[type, str] = {
    commands.SubmitTask: "23 duplicates collapse",
    commands.GrantLease: "20 no stale lease counts",
    commands.StartTask: "20 no stale lease counts",
    commands.SaveCheckpoint: "21 checkpoints never go back",
    commands.CompleteTask: "20 no stale lease counts",
    commands.FailAttempt: "20 no stale lease counts",
    commands.ReleaseLease: "20 no stale lease counts",
    commands.RedriveTask: "22 dead once, with a reason",
    commands.DropDeadLetter: "22 dead once, with a reason",
    commands.FailNode: "18 one state each",
    commands.AdmitNode: "18 one state each",
    commands.LeaveNode: "18 one state each",
    commands.FireCron: ONCE,
}
"""Which invariant a command breaks whose outcome is not what it ought to be."""


def no_acked_task_lost(record: Record, ledger: Ledger) -> None:
    """17: what a client was told is accepted is in every table that has come that far."""
    for task_id, index in record.acked.items():
        if index <= ledger.applied_index and task_id not in ledger.tasks and task_id not in ledger.finished:
            raise Violation("17 no acked task is lost", f"acked at index {index}, and not in the table", task_id)


def acked_was_committed(record: Record, task_id: TaskId, index: int) -> None:
    """17: a client is told "accepted" once the task is in an entry that is committed, at that index or before."""
    if index > record.committed_max or task_id not in record.model.tasks:
        raise Violation(
            "17 no acked task is lost",
            f"acked at index {index} when {record.committed_max} was committed and the task was not in it",
            task_id,
        )


def outcomes_agree(model: Model, batch: commands.Batch, got: bytes, ought: bytes) -> None:
    """20 to 23, 27 to 30, 32: each command came to what it ought to: stale leases fenced, duplicates collapsed, grants
    beyond a limit refused, and so on.
    """
    for command, mine, expected in zip(batch.commands, got, ought, strict=True):
        if mine != expected:
            task_id = getattr(command, "task_id", TaskId(""))
            limit = model.held_back.get(task_id, "") if type(command) is commands.GrantLease else ""
            raise Violation(
                limit or BROKEN_BY.get(type(command), "18 one state each"),
                f"entry {model.index}: {command} came to {mine}, ought to {expected}",
                task_id,
            )


def one_state_each(ledger: Ledger, task_id: TaskId, ought: ModelTask) -> None:
    """18: a task is in the table or among the finished, never both, in the one state it ought to be in."""
    task = ledger.tasks.get(task_id)
    is_finished = task_id in ledger.finished
    if (task is None) != is_finished or is_finished != (ought.state in OVER):
        raise Violation(
            "18 one state each",
            f"live {task is not None}, finished {is_finished}; ought to be {STATE_NAMES[ought.state]}",
            task_id,
        )
    if task is not None and task.state != ought.state:
        raise Violation(
            "18 one state each", f"is {STATE_NAMES[task.state]}, ought to be {STATE_NAMES[ought.state]}", task_id
        )
    if task is not None and task.attempts != ought.attempts:
        raise Violation("18 one state each", f"charged {task.attempts} attempts, ought to be {ought.attempts}", task_id)
    if task is not None and (ought.state in LEASED) != (task_id in ledger.leases.get(task.node_id, {})):
        raise Violation(
            "18 one state each", f"{STATE_NAMES[ought.state]}, and in the books of {task.node_id!r}", task_id
        )


def counts_conserved(ledger: Ledger, model: Model) -> None:
    """18: accepted = waiting + leased + dead + finished, state by state."""
    counts = model.counts
    if counts != ledger.counts:
        raise Violation("18 one state each", f"counts {ledger.counts}, ought to be {counts}")
    if len(ledger.finished) != sum(counts[state] for state in FINISHED) - model.renewed:
        raise Violation("18 one state each", f"{len(ledger.finished)} finished are remembered, counts say {counts}")


def leases_within_slots(model: Model, index: int, slots: dict[str, int]) -> None:
    """24: no node is granted more leases than it has slots."""
    for task_id, node_id in model.granted.get(index, {}).items():
        if model.leases[node_id] > slots[node_id]:
            raise Violation(
                "24 every bound holds",
                f"entry {index} gives {node_id} {model.leases[node_id]} leases, it has {slots[node_id]} slots",
                task_id,
            )


def one_completion_each(ledger: Ledger, task_id: TaskId, model: Model) -> None:
    """19: a task is completed once at most, under the token that is on record for it."""
    known = ledger.finished.get(task_id)
    token = model.completions.get(task_id)
    if known is not None and token is not None and known >> 32 != token:
        raise Violation("19 one completion each", f"completed under {token}, on record under {known >> 32}", task_id)


def token_grows(ledger: Ledger, task_id: TaskId, ought: ModelTask) -> None:
    """20: the token of a task's lease is that of its latest grant, and no grant has a lower one than an earlier."""
    task = ledger.tasks.get(task_id)
    if task is not None and task.token != ought.token:
        raise Violation("20 no stale lease counts", f"token {task.token}, ought to be {ought.token}", task_id)
    if ought.token > ought.token_max:
        raise Violation("20 no stale lease counts", f"token {ought.token} after {ought.token_max}", task_id)


def checkpoint_never_back(ledger: Ledger, task_id: TaskId, ought: ModelTask) -> None:
    """21: within an attempt the kept checkpoint has the greatest sequence offered so far."""
    task = ledger.tasks.get(task_id)
    if task is not None and task.state in LEASED and task.checkpoint_sequence != ought.sequence:
        raise Violation(
            "21 checkpoints never go back",
            f"sequence {task.checkpoint_sequence}, ought to be {ought.sequence}",
            task_id,
        )


def dead_with_a_reason(ledger: Ledger, task_id: TaskId, ought: ModelTask) -> None:
    """22: a dead letter carries the reason of the failure that killed it."""
    task = ledger.tasks.get(task_id)
    if task is not None and task.state == DEAD and not (task.error and task.error.startswith(ought.reason)):
        raise Violation("22 dead once, with a reason", f"reason {task.error!r}, ought to be {ought.reason!r}", task_id)


def told_end_is_true(record: Record, end: TaskEnd) -> None:
    """19, 22: who is told that a task has ended is told what is committed, result and all."""
    if end.state == -1:
        return
    task = record.model.tasks.get(end.task_id)
    if task is None or end.state not in [state for state, _ in task.ends]:
        ends = [] if task is None else task.ends
        raise Violation("19 one completion each", f"told it ended as {end.state}, committed are {ends}", end.task_id)
    if end.state == COMPLETED:
        try:
            made = Made(*decode_value(end.result))
        except (Rubbish, TypeError) as error:
            raise Violation("19 one completion each", f"result {end.result!r}: {error}", end.task_id) from None
        if made not in [Made(end.task_id, FencingToken(token)) for state, token in task.ends if state == COMPLETED]:
            raise Violation("19 one completion each", f"told a result of {made}", end.task_id)
    if end.state == DEAD and not end.error:
        raise Violation("22 dead once, with a reason", "told it is dead without a reason", end.task_id)


def granted_before_sent(record: Record, node_id: str, to: str, order: AttemptOrder) -> None:
    """20: nobody is told to run what a committed grant does not give him."""
    grant = record.model.granted.get(order.token, {})
    if grant.get(order.task_id) != to:
        raise Violation(
            "20 no stale lease counts",
            f"{node_id} tells {to} to run it under token {order.token}; granted there: {grant}",
            order.task_id,
        )


def same_rows_written(record: Record, node_id: str, write: LedgerWrite) -> None:
    """4: what one node writes into its table, its history and its registry, every node writes there too."""
    for index, data in write.events:
        if record.histories.setdefault(index, data) != data:
            raise Violation("4 state-machine safety", f"{node_id} writes another history for entry {index} than others")
    for row in write.rows:
        if row.finished:
            mine, life = (row.task_id, row.state, row.fingerprint), (row.task_id, row.fingerprint)
            known = record.finished.setdefault(row.finished, mine), record.ends.setdefault(life, row.finished)
            # Lives of an id that were never granted look alike: they ended under no token.
            if known[0] != mine or (row.fingerprint >> 32 and known[1] != row.finished):
                raise Violation(
                    "4 state-machine safety", f"{node_id} writes {mine} as number {row.finished}", row.task_id
                )
    summary = write.mark.summary
    if record.summaries.setdefault(write.mark.applied_index, summary) != summary:
        index = write.mark.applied_index
        raise Violation("4 state-machine safety", f"{node_id} writes another summary of entry {index} than others")


def tables_agree(ledger: Ledger, model: Model, record: Record) -> None:
    """17 to 22 for every task at once: after a start, after a snapshot, and at the end."""
    assert ledger.applied_index == model.index, "compared at the same index"
    for task_id, ought in model.tasks.items():
        task_invariants(ledger, task_id, ought, model)
    strangers = [task_id for task_id in ledger.tasks if task_id not in model.tasks]
    if strangers:
        raise Violation("18 one state each", "in the table, and was never submitted", strangers[0])
    counts_conserved(ledger, model)
    no_acked_task_lost(record, ledger)


def task_invariants(ledger: Ledger, task_id: TaskId, ought: ModelTask, model: Model) -> None:
    """18 to 22 for one task."""
    one_state_each(ledger, task_id, ought)
    one_completion_each(ledger, task_id, model)
    token_grows(ledger, task_id, ought)
    checkpoint_never_back(ledger, task_id, ought)
    dead_with_a_reason(ledger, task_id, ought)
