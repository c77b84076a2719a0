"""What is decided about nodes, and about the leases they hold, as it ought to be: see model.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mesh.ids import NodeId
from mesh.ledger import commands
from mesh.ledger.applied import ALREADY, DONE, UNKNOWN
from mesh.ledger.task import DISPATCHED, PAUSED, PENDING, RUNNING
from mesh.options import LossPolicy

if TYPE_CHECKING:
    from mesh.sim.model import Model

LEASED = (DISPATCHED, RUNNING)


class ModelNode(msgspec.Struct):
    incarnation: int
    is_active: bool = True
    is_draining: bool = False
    has_left: bool = False
    """This incarnation went of its own accord."""


def admit(model: Model, command: commands.AdmitNode) -> int:
    node = model.nodes.get(command.node_id)
    if node is None:
        model.nodes[command.node_id] = ModelNode(command.incarnation)
        return DONE
    is_same = command.incarnation == node.incarnation
    if command.incarnation < node.incarnation or (is_same and (node.is_active or node.has_left)):
        return ALREADY
    model.coverage.add("node restarted" if node.is_active else "node recovered")
    if command.incarnation > node.incarnation:
        lose(model, command.node_id)
        model.limits.forget_node(command.node_id)
        node.is_draining = False
    node.incarnation, node.is_active, node.has_left = command.incarnation, True, False
    return DONE


def fail_node(model: Model, command: commands.FailNode) -> int:
    node = model.nodes.get(command.node_id)
    if node is None:
        return UNKNOWN
    if not node.is_active or command.incarnation != node.incarnation:
        return ALREADY
    model.coverage.add("node failed")
    node.is_active = False
    lose(model, command.node_id)
    return DONE


def leave(model: Model, command: commands.LeaveNode) -> int:
    """Its leases are given back: nobody is charged, and it is no failure."""
    node = model.nodes.get(command.node_id)
    if node is None:
        return UNKNOWN
    if node.has_left or command.incarnation != node.incarnation:
        return ALREADY
    node.is_active, node.has_left = False, True
    given_back = 0
    for task_id, task in model.tasks.items():
        if task.node_id == command.node_id and task.state in LEASED:
            model.touch(task_id)
            given_back += 1
            model.give_back(task)
    model.coverage.add("left with tasks running" if given_back else "left with nothing to do")
    return DONE


def drain(model: Model, command: commands.DrainNode) -> int:
    node = model.nodes.get(command.node_id)
    if node is None:
        return UNKNOWN
    if node.is_draining == command.draining:
        return ALREADY
    node.is_draining = command.draining
    return DONE


def elect(model: Model, command: commands.ElectLeader) -> int:
    return DONE


def lose(model: Model, node_id: NodeId) -> None:
    """The leases of a node end. What ran its last attempt is dead."""
    for task_id, task in model.tasks.items():
        if task.node_id != node_id or task.state not in LEASED:
            continue
        model.touch(task_id)
        policy = LossPolicy.RERUN if task.options is None else task.options.on_loss
        if task.state == RUNNING and policy == LossPolicy.HOLD:
            task.has_failed = True
            model.wait_again(task, PAUSED)
            model.coverage.add("task held")
            continue
        if task.state == RUNNING and (policy == LossPolicy.DEAD_LETTER or task.attempts >= task.attempts_max):
            task.reason, task.has_failed = "node_lost", True
            model.give_up(task)
            continue
        model.wait_again(task, PENDING)
        task.is_lost = True
