"""AdmitNode, FailNode, LeaveNode, DrainNode, ElectLeader: what is agreed about nodes and about their leases."""

from mesh.ids import NodeId
from mesh.ledger import breakers
from mesh.ledger.applied import ALREADY, DONE, UNKNOWN
from mesh.ledger.commands import AdmitNode, DrainNode, ElectLeader, FailNode, LeaveNode
from mesh.ledger.ending import NODE_LOST, give_up, hold, note_fault
from mesh.ledger.lease import requeue, take_back
from mesh.ledger.leasing import give_back
from mesh.ledger.table import Table
from mesh.ledger.task import RUNNING, Kind, NodeRecord, Task
from mesh.ledger.transitions import LOSE
from mesh.options import LossPolicy


def admit(table: Table, command: AdmitNode, position: int) -> int:
    """A node may be granted leases. Under a new incarnation it remembers nothing, so what it held before is lost."""
    node = table.nodes.get(command.node_id)
    if node is None:
        table.nodes[command.node_id] = NodeRecord(command.node_id, command.incarnation)
        table.happened(Kind.NODE_JOINED, None, command.node_id)
    elif not _may_return(node, command.incarnation):
        return ALREADY
    else:
        kind = Kind.NODE_RESTARTED if node.active else Kind.NODE_RECOVERED
        table.happened(kind, None, command.node_id)
        if command.incarnation > node.incarnation:
            lose_leases(table, command.node_id, "its node restarted")
            breakers.forget_node(table, command.node_id)
            node.draining = False
        node.incarnation = command.incarnation
        node.active = True
        node.left = False
    table.now.nodes_changed = True
    return DONE


def _may_return(node: NodeRecord, incarnation: int) -> bool:
    """A later life may; the present one if it was given up, but not if it left."""
    return incarnation > node.incarnation or (incarnation == node.incarnation and not node.active and not node.left)


def fail_node(table: Table, command: FailNode, position: int) -> int:
    """Give a node up: its leases end and its tasks wait again. An attempt is charged only if its user code had
    started.
    """
    node = table.nodes.get(command.node_id)
    if node is None:
        return UNKNOWN
    if not node.active or command.incarnation != node.incarnation:
        return ALREADY
    node.active = False
    node.failure_count += 1
    table.now.nodes_changed = True
    table.happened(Kind.NODE_FAILED, None, command.node_id, command.reason)
    lose_leases(table, command.node_id, "its node failed")
    return DONE


def leave(table: Table, command: LeaveNode, position: int) -> int:
    """A node goes: its leases are given back uncharged, and this incarnation of it is not admitted again."""
    node = table.nodes.get(command.node_id)
    if node is None:
        return UNKNOWN
    if node.left or command.incarnation != node.incarnation:
        return ALREADY
    node.active = False
    node.left = True
    table.now.nodes_changed = True
    table.happened(Kind.NODE_LEFT, None, command.node_id)
    for task in sorted(table.holder_leases(command.node_id).values(), key=_order):
        give_back(table, task, "its node left")
    return DONE


def drain(table: Table, command: DrainNode, position: int) -> int:
    """Grant a node nothing more, or again."""
    node = table.nodes.get(command.node_id)
    if node is None:
        return UNKNOWN
    if node.draining == command.draining:
        return ALREADY
    node.draining = command.draining
    table.now.nodes_changed = True
    table.happened(Kind.NODE_DRAINING if command.draining else Kind.NODE_UNDRAINED, None, command.node_id)
    return DONE


def elect(table: Table, command: ElectLeader, position: int) -> int:
    """For the record."""
    table.happened(Kind.LEADER_ELECTED, None, command.node_id, f"term {command.term}")
    return DONE


def lose_leases(table: Table, node_id: NodeId, why: str) -> None:
    """End all leases of a node, in the order of their tasks: that is the same everywhere, a dict's order is not."""
    for task in sorted(table.holder_leases(node_id).values(), key=_order):
        take_back(table, task)
        table.happened(Kind.TASK_LOST, task, node_id, why)
        if task.state == RUNNING and _is_lost_for_good(table, task, node_id):
            continue
        task.lost_by = node_id
        requeue(table, task, LOSE[task.state])


def _is_lost_for_good(table: Table, task: Task, node_id: NodeId) -> bool:
    """Whether a task whose code ran when its node was lost does not simply run again; then it is given up, or held."""
    options = task.spec.options
    policy = LossPolicy.RERUN if options is None else options.on_loss
    if policy == LossPolicy.RERUN and task.attempts < task.spec.max_attempts:
        return False
    error = f"{NODE_LOST}: {node_id} failed while it ran attempt {task.attempts}"
    if table.level:
        note_fault(table, task, error, "")
    if policy == LossPolicy.HOLD:
        task.lost_by = node_id
        hold(table, task, error)
    else:
        task.error = error
        give_up(table, task, error)
    return True


def _order(task: Task) -> int:
    return task.order
