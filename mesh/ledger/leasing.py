"""GrantLease, StartTask, SaveCheckpoint, ReleaseLease: one node's right to complete one task.

The fencing token is the log index of the grant, so it grows with every grant and needs no counter. There is no clock
here: a lease ends because the log says so, never because some replica thinks it is late.
"""

from mesh.ids import FencingToken
from mesh.ledger import breakers, limits
from mesh.ledger.applied import ALREADY, DONE, FENCED, REFUSED, UNKNOWN, KeptCheckpoint
from mesh.ledger.commands import BY_HAND, GrantLease, ReleaseLease, SaveCheckpoint, StartTask
from mesh.ledger.lease import leased, requeue, take_back
from mesh.ledger.table import Table
from mesh.ledger.task import BEGUN, RUNNING, Kind, Task
from mesh.ledger.transitions import GRANT, RELEASE, START

_DISPATCHED = int(Kind.TASK_DISPATCHED)
_REASSIGNED = int(Kind.TASK_REASSIGNED)
_STARTED = int(Kind.TASK_STARTED)
_CHECKPOINTED = int(Kind.TASK_CHECKPOINTED)
_RELEASED = int(Kind.TASK_RELEASED)


def grant(table: Table, command: GrantLease, position: int) -> int:
    """Lease a waiting task to a node that may have it."""
    task = table.tasks.get(command.task_id)
    node = table.nodes.get(command.node_id)
    if task is None or node is None:
        return UNKNOWN
    now = table.now
    state = GRANT.get(task.state)
    if state is None or not node.active or node.draining or task.not_before_ms > now.at_ms:
        return REFUSED
    if now.index <= task.token:
        return REFUSED  # Twice in one entry: a second lease could not be told from the first by its token.
    spec = task.spec
    options = spec.options
    if table.pauses and limits.is_paused(table, spec.capability, now.at_ms):
        return REFUSED
    if options is not None and limits.refuses(table, options, now.at_ms):
        return REFUSED
    if table.breakers and breakers.is_shut(table, command.node_id, spec.capability, now.at_ms):
        return REFUSED
    table.move(task, state)
    table.queue.remove(task)
    task.token = FencingToken(now.index)
    task.node_id = command.node_id
    leases = table.leases.get(command.node_id)
    if leases is None:
        leases = table.leases[command.node_id] = {}
    leases[command.task_id] = task
    if options is not None:
        limits.granted(table, task, options)
    table.happened(_DISPATCHED, task, command.node_id)
    if table.breakers:
        breakers.granted(table, task)
    if task.lost_by:
        table.happened(_REASSIGNED, task, command.node_id, f"from {task.lost_by}")
        task.lost_by = type(task.lost_by)("")
    now.granted.append(task)
    return DONE


def start(table: Table, command: StartTask, position: int) -> int:
    """User code runs: the attempt is charged."""
    task = leased(table, command.task_id, command.token)
    if task is None:
        return FENCED
    state = START.get(task.state)
    if state is None:
        return ALREADY
    task.attempts += 1
    table.move(task, state)
    table.happened(_STARTED, task, task.node_id)
    return DONE


def checkpoint(table: Table, command: SaveCheckpoint, position: int) -> int:
    """Keep the state of a running attempt. Its sequence never goes back within the attempt."""
    task = leased(table, command.task_id, command.token)
    outcome = DONE
    if task is None:
        outcome = FENCED
    elif BY_HAND < command.sequence <= task.checkpoint_sequence:
        outcome = ALREADY
    else:
        if task.state != RUNNING and command.sequence != BY_HAND:
            start(table, StartTask(command.task_id, command.token), position)
        task.checkpoint = command.state
        task.checkpoint_sequence = max(task.checkpoint_sequence, command.sequence)
        if task.spec.options is not None:
            task.progress_at_ms = table.now.at_ms
        table.changed[command.task_id] = task
        table.happened(_CHECKPOINTED, task, task.node_id, str(command.sequence))
    kept = KeptCheckpoint(command.task_id, command.token, command.sequence, outcome != FENCED)
    table.now.checkpoints.append(kept)
    return outcome


def release(table: Table, command: ReleaseLease, position: int) -> int:
    """Give a lease back; whoever runs under it stops. An attempt charged when it started is given back too."""
    table.now.settled.append((command.task_id, command.token))
    task = leased(table, command.task_id, command.token)
    if task is None:
        return FENCED
    give_back(table, task, command.reason)
    return DONE


def give_back(table: Table, task: Task, reason: str) -> None:
    """End a lease without a charge: the task waits again."""
    if task.state == RUNNING:
        task.attempts -= 1
        task.awaited_ms = BEGUN
    take_back(table, task)
    table.happened(_RELEASED, task, task.node_id, reason)
    requeue(table, task, RELEASE[task.state])
