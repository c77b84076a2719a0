"""The nodes as the leader sees them: who is here, what it can do, how it fares. Volatile, made anew by each office."""

from collections.abc import Callable, Mapping

from mesh.dispatch.health import score
from mesh.dispatch.in_flight import InFlight
from mesh.dispatch.placement import Candidate, meets
from mesh.gossip.detector import Detector
from mesh.gossip.members import Health, MemberState
from mesh.ids import NodeId, TaskId
from mesh.ledger.ledger import Ledger
from mesh.ledger.queue import Demand

SAMPLE_EVERY = 16
"""One attempt in so many is timed."""
SAMPLES_MAX = 1_000
MEANS_MAX = 1_000
"""Capabilities whose times are remembered for a node."""
WEIGHT = 8
"""A new measurement counts for an eighth of what is known."""


class Candidates:
    """All members, and for each demand those that meet it."""

    def __init__(self, ledger: Ledger, detector: Detector, flight: InFlight) -> None:
        self._ledger = ledger
        self._flight = flight
        self._detector = detector
        self.all: dict[NodeId, Candidate] = {}
        self._meeting: dict[str | Demand, list[Candidate]] = {}
        self.offered: dict[str, None] = {}
        """What any of them can do."""
        self._failing: dict[NodeId, int] = {}
        """Share of the latest attempts that failed, in thousandths."""
        self._timed: dict[TaskId, tuple[NodeId, str, int]] = {}

    def clear(self) -> None:
        self._meeting.clear()
        self._failing.clear()
        self._timed.clear()

    def refresh(self, reported: Mapping[NodeId, int], load_of: Callable[[NodeId], int]) -> None:
        """Nodes, their health, slots or capabilities changed: look at all of them again."""
        before, self.all = self.all, {}
        for member in self._detector.members():
            node_id = member.node_id
            candidate = before.get(node_id) or Candidate(node_id)
            self._describe(candidate, member)
            candidate.reported = reported.get(node_id) == member.incarnation
            candidate.load = load_of(node_id)
            self.all[node_id] = candidate
        self._meeting.clear()
        self.offered = {name: None for candidate in self.all.values() for name in sorted(candidate.capabilities)}

    def _describe(self, candidate: Candidate, member: MemberState) -> None:
        node_id = member.node_id
        record = self._ledger.nodes.get(node_id)
        heartbeat = member.last
        if heartbeat is not None:
            candidate.slots = heartbeat.slots
            if len(candidate.capabilities) != len(heartbeat.capabilities) or not candidate.capabilities.issuperset(
                heartbeat.capabilities
            ):
                candidate.capabilities = frozenset(heartbeat.capabilities)
            candidate.kind = heartbeat.kind
            candidate.labels = dict(heartbeat.labels) | {"node": node_id, "type": heartbeat.kind}
            candidate.versions = dict(heartbeat.versions)
            candidate.cpu_permille = heartbeat.cpu_permille
            candidate.memory_permille = heartbeat.memory_permille
        candidate.health = Health(member.health).name.lower()
        candidate.score_permille, candidate.causes = score(
            member.health,
            member.missed,
            self._failing.get(node_id, 0),
            candidate.cpu_permille,
            candidate.memory_permille,
        )
        candidate.admitted = self._ledger.is_admitted(node_id, member.incarnation)
        candidate.draining = (record is not None and record.draining) or (heartbeat is not None and heartbeat.draining)

    def meeting(self, demand: str | Demand) -> list[Candidate]:
        """Nodes that may be granted tasks with this demand (a capability, if there is nothing else to it), full ones
        included.
        """
        found = self._meeting.get(demand)
        if found is None:
            capability = demand if isinstance(demand, str) else demand.capability
            score_min = self._ledger.settings.health_permille_min
            found = [
                candidate
                for candidate in self.all.values()
                if candidate.is_eligible
                and candidate.score_permille >= score_min
                and capability in candidate.capabilities
            ]
            if isinstance(demand, Demand):
                holder = self.holder(demand.sticky)
                found = [candidate for candidate in found if meets(candidate, demand, holder)]
            if not (isinstance(demand, Demand) and demand.sticky):  # The holder changes with every grant.
                self._meeting[demand] = found
        return found

    def holder(self, sticky: str) -> NodeId | None:
        """The node that was last granted a task with this word, or is about to be, as long as it takes part."""
        if not sticky:
            return None
        node_id = self._flight.holder(sticky) or self._ledger.sticky.get(sticky)
        record = None if node_id is None else self._ledger.nodes.get(node_id)
        return node_id if record is not None and record.active else None

    # --- how they fare ------------------------------------------------------------------------------------------------

    @property
    def is_measuring(self) -> bool:
        """Whether an attempt that went well says anything: some are timed, or somebody's have failed lately."""
        return bool(self._timed) or bool(self._failing)

    def time(self, task_id: TaskId, node_id: NodeId, capability: str, at_ms: int) -> None:
        """An attempt was granted, and is to be timed: one in SAMPLE_EVERY."""
        if len(self._timed) >= SAMPLES_MAX:  # Of those that never end there, as of cancelled ones, nobody reports.
            del self._timed[next(iter(self._timed))]
        self._timed[task_id] = node_id, capability, at_ms

    def reported(self, task_id: TaskId, node_id: NodeId, at_ms: int, *, has_failed: bool) -> None:
        """An attempt ended there."""
        known = self._failing.get(node_id)
        share = ((known or 0) * (WEIGHT - 1) + (1_000 if has_failed else 0)) // WEIGHT
        if share:
            self._failing[node_id] = share
        elif known is not None:
            del self._failing[node_id]
        if not self._timed:
            return
        timed = self._timed.pop(task_id, None)
        candidate = self.all.get(node_id)
        if timed is None or timed[0] != node_id or candidate is None:
            return
        means = dict(candidate.mean_ms)
        took_ms = max(1, at_ms - timed[2])
        mean_ms = means.get(timed[1])
        if mean_ms is None and len(means) >= MEANS_MAX:
            return
        means[timed[1]] = took_ms if mean_ms is None else (mean_ms * (WEIGHT - 1) + took_ms) // WEIGHT
        candidate.mean_ms = means
