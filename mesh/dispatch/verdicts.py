"""What the leader proposes about nodes: admit the ones that are there, give up the ones that are not.

Level-triggered: looked at again and again, and proposed until the table agrees with the detector, because a proposal
can be lost.
"""

from mesh.gossip.detector import Detector
from mesh.gossip.members import Health
from mesh.ids import NodeId
from mesh.ledger.commands import AdmitNode, FailNode, ReleaseLease
from mesh.ledger.ledger import Ledger
from mesh.ledger.task import DISPATCHED, RUNNING, Task
from mesh.options import LossPolicy


def due(ledger: Ledger, detector: Detector, reasons: dict[NodeId, str]) -> list[AdmitNode | FailNode]:
    """Verdicts on which detector and table differ. `reasons` says why a node was found failed."""
    verdicts: list[AdmitNode | FailNode] = []
    for member in detector.members():
        record = ledger.nodes.get(member.node_id)
        failed = member.health == Health.FAILED
        if record is not None and record.left and member.incarnation <= record.incarnation:
            continue
        if failed:
            if record is not None and record.active:
                why = reasons.get(member.node_id, "silent")
                verdicts.append(FailNode(member.node_id, record.incarnation, why))
        elif record is None or member.incarnation > record.incarnation:
            if member.incarnation:
                verdicts.append(AdmitNode(member.node_id, member.incarnation))
        elif not record.active and member.health == Health.HEALTHY and member.incarnation == record.incarnation:
            verdicts.append(AdmitNode(member.node_id, member.incarnation))
    for node_id, record in ledger.nodes.items():
        if record.active and detector.member(node_id) is None:
            verdicts.append(FailNode(node_id, record.incarnation, "removed from the mesh"))
    return verdicts


def moves(ledger: Ledger, slots: dict[NodeId, int]) -> list[ReleaseLease]:
    """Leases to give back so that load evens out (S0-26): those not started, on nodes that drain or hold more than
    their share; and from nodes that drain also those that run and have a checkpoint to go on from. Nobody is charged.

    Args:
        slots: for each node that may be granted to, how many attempts it runs at once.
    """
    total = sum(len(leases) for leases in ledger.leases.values())
    slots_total = sum(slots.values())
    releases: list[ReleaseLease] = []
    for node_id, leases in ledger.leases.items() if slots_total else ():
        share = -(-total * slots.get(node_id, 0) // slots_total)
        idle = [task for task in leases.values() if task.state == DISPATCHED]
        leaving = idle[: max(len(leases) - share, 0)]
        record = ledger.nodes.get(node_id)
        if record is not None and record.draining:
            leaving = idle + [task for task in leases.values() if _can_move(task)]
        releases += [ReleaseLease(task.spec.task_id, task.token, "rebalanced") for task in leaving]
    return releases


def _can_move(task: Task) -> bool:
    """Whether a running task goes on elsewhere from where it is, and may be begun twice."""
    options = task.spec.options
    policy = LossPolicy.RERUN if options is None else options.on_loss
    return task.state == RUNNING and bool(task.checkpoint_sequence) and policy == LossPolicy.RERUN
