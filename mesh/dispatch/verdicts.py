"""What the leader proposes about nodes: admit the ones that are there, give up the ones that are not.

Level-triggered: looked at again and again, and proposed until the table agrees with the detector, because a proposal
can be lost.
"""

from mesh.gossip.detector import Detector
from mesh.gossip.members import Health
from mesh.ids import NodeId
from mesh.ledger.commands import AdmitNode, FailNode, ReleaseLease
from mesh.ledger.ledger import Ledger
from mesh.ledger.task import DISPATCHED, Task


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
    their share.

    Args:
        slots: for each node that may be granted to, how many attempts it runs at once.
    """
    idle: dict[NodeId, list[Task]] = {}
    total = 0
    for node_id, leases in ledger.leases.items():
        total += len(leases)
        idle[node_id] = [task for task in leases.values() if task.state == DISPATCHED]
    slots_total = sum(slots.values())
    releases: list[ReleaseLease] = []
    for node_id, tasks in idle.items():
        share = -(-total * slots.get(node_id, 0) // slots_total) if slots_total else 0
        surplus = len(ledger.leases[node_id]) - share
        for task in tasks[: max(surplus, 0)] if slots_total else []:
            releases.append(ReleaseLease(task.spec.task_id, task.token, "rebalanced"))
    return releases
