"""Choose a node for a task, or say why none fits. Pure."""

import msgspec

from mesh.documents import NodeVerdict
from mesh.ids import NodeId


class Candidate(msgspec.Struct):
    """A node as the dispatcher sees it. `load` counts its leases, those granted and not yet committed included."""

    node_id: NodeId
    slots: int = 0
    load: int = 0
    capabilities: frozenset[str] = frozenset()
    health: str = "healthy"
    admitted: bool = False
    draining: bool = False
    reported: bool = False

    @property
    def is_eligible(self) -> bool:
        """Whether it may be granted anything at all."""
        return self.health == "healthy" and self.admitted and self.reported and not self.draining


class Placement:
    """Least-loaded first (S0-27): the lowest share of slots taken; among equals, whoever was not chosen last."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, candidates: list[Candidate]) -> Candidate | None:
        """The candidate to grant to, None if all are full. They are eligible and have the capability."""
        count = len(candidates)
        best: Candidate | None = None
        best_load = best_slots = 1
        first = self._turn
        for step in range(count):
            candidate = candidates[(first + step) % count]
            load, slots = candidate.load, candidate.slots
            if load < slots and (best is None or load * best_slots < best_load * slots):
                best, best_load, best_slots = candidate, load, slots
                if load == 0:
                    break
        self._turn = (first + 1) % count if count else 0
        return best


def explain(candidates: list[Candidate], capability: str) -> list[NodeVerdict]:
    """For each node, the first reason why it does not take a task of this capability now, or that it fits."""
    verdicts = []
    for candidate in candidates:
        why = ""
        if capability not in candidate.capabilities:
            offers = ", ".join(sorted(candidate.capabilities)) or "nothing"
            why = f"does not offer {capability!r} (it offers {offers})"
        elif candidate.health != "healthy":
            why = f"is {candidate.health}"
        elif not candidate.admitted:
            why = "is not admitted yet"
        elif candidate.draining:
            why = "is draining"
        elif not candidate.reported:
            why = "has not yet told the new leader what it runs"
        elif candidate.load >= candidate.slots:
            why = f"is full: {candidate.load} of {candidate.slots} slots taken"
        verdicts.append(NodeVerdict(candidate.node_id, not why, why or "fits"))
    return verdicts
