"""Choose a node for a task, or say why none fits. Pure.

First the filters, which say whether a node may have the task at all; then the strategy, which says who of those gets
it. Filters are counted by name where people ask why a task waits (S4-26).
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random

import msgspec

from mesh.documents import NodeVerdict
from mesh.ids import NodeId
from mesh.ledger.queue import Demand
from mesh.ledger.settings import Strategy
from mesh.options import Labels, Options

LOCATION = "location"
"""The label the geographic strategy goes by: parts from the widest to the narrowest, `eu/de/berlin`."""
WEIGHT_SHARE = 1_000


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
    kind: str = ""
    labels: dict[str, str] = {}
    """Its own, and `node` and `type`, which every node has."""
    versions: dict[str, str] = {}
    cpu_permille: int = 0
    memory_permille: int = 0
    score_permille: int = 1_000
    causes: tuple[str, ...] = ()
    """What its score was lost by."""
    mean_ms: dict[str, int] = {}
    """How long its attempts take, by capability, lately."""
    current: int = 0
    """How far its turn has come, where turns are weighted."""

    @property
    def is_eligible(self) -> bool:
        """Whether it may be granted anything at all."""
        return self.health == "healthy" and self.admitted and self.reported and not self.draining

    @property
    def is_free(self) -> bool:
        return self.load < self.slots


Shut = Callable[[NodeId, str], bool]
"""Whether a node's breaker for a capability keeps it from being granted one just now."""


def meets(candidate: Candidate, demand: Demand, holder: NodeId | None) -> bool:
    """Whether a node is what a task demands. `holder` was last granted a task with the same sticky word."""
    return not _unmet(candidate, demand, holder)[0]


def _unmet(candidate: Candidate, demand: Demand, holder: NodeId | None) -> tuple[str, str]:
    """The first filter of a demand that a node does not pass, and why, in words; empty if it passes them."""
    labels = candidate.labels
    for name, value in demand.require:
        if labels.get(name) != value:
            return "type" if name == "type" else "labels", f"has {name}={labels.get(name, '')!r}, not {value!r}"
    for name, value in demand.avoid:
        if labels.get(name) == value:
            return "labels", f"has {name}={value!r}, which the task avoids"
    if demand.version and candidate.versions.get(demand.capability, "") != demand.version:
        has = candidate.versions.get(demand.capability, "") or "none"
        return "version", f"has version {has} of {demand.capability!r}, not {demand.version}"
    if demand.sticky and holder is not None and candidate.node_id != holder:
        return "sticky", f"is not {holder}, where tasks with sticky={demand.sticky!r} go"
    return "", ""


class Placement:
    """Whose turn it is. Each choice is among nodes that may have the task, full ones included."""

    def __init__(self, rng: Random) -> None:
        self._turn = 0
        self._rng = rng

    def choose(
        self,
        candidates: list[Candidate],
        strategy: int = Strategy.LEAST_CONNECTIONS,
        capability: str = "",
        options: Options | None = None,
        holder: NodeId | None = None,
    ) -> Candidate | None:
        """The candidate to grant to, None if all are full.

        `holder` was last granted a task with the same sticky word: it is taken if it is free. So are those with the
        labels that the task prefers, before others.
        """
        if options is not None and (options.prefer or options.sticky):
            free = [candidate for candidate in candidates if candidate.load < candidate.slots]
            for candidate in free:
                if candidate.node_id == holder:
                    return candidate
            liked = _most_liked(free, options.prefer)
            if len(liked) < len(candidates):
                return self._by_strategy(liked, strategy, capability, options)
        if strategy == Strategy.LEAST_CONNECTIONS:
            return self._least(candidates)
        return self._by_strategy(candidates, strategy, capability, options)

    def _least(self, candidates: list[Candidate]) -> Candidate | None:
        """S0-27: the lowest share of slots taken; among equals, whoever was not chosen last."""
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

    def _by_strategy(
        self, candidates: list[Candidate], strategy: int, capability: str, options: Options | None
    ) -> Candidate | None:
        free = [candidate for candidate in candidates if candidate.load < candidate.slots]
        if not free:
            return None
        if strategy == Strategy.ROUND_ROBIN:
            return self._in_turn(candidates)
        if strategy == Strategy.WEIGHTED_ROUND_ROBIN:
            return _weighted(free, capability)
        if strategy == Strategy.RESOURCE_BASED:
            return self._least(_lowest(free, _busyness))
        if strategy == Strategy.GEOGRAPHIC:
            location = "" if options is None else options.location
            return self._least(_lowest(free, lambda candidate: -_common_parts(candidate, location)))
        if strategy == Strategy.RANDOM:
            return self._rng.choice(free)
        return self._least(free)

    def _in_turn(self, candidates: list[Candidate]) -> Candidate:
        """Some of them are free."""
        count = len(candidates)
        turns = ((self._turn + step) % count for step in range(count))
        place = next(place for place in turns if candidates[place].is_free)
        self._turn = place + 1
        return candidates[place]


def _weighted(free: list[Candidate], capability: str) -> Candidate:
    """Smooth weighted round robin, as nginx has it: everybody gains its weight, whoever has most goes and pays for all.

    A weight is the share of work a node gets done in the time the slowest takes for one task.
    """
    means = [candidate.mean_ms.get(capability, 0) for candidate in free]
    known = [mean for mean in means if mean]
    usual = sum(known) // len(known) if known else 1
    total = 0
    for candidate, mean in zip(free, means, strict=True):
        weight = max(1, WEIGHT_SHARE * usual // max(mean or usual, 1))
        candidate.current += weight
        total += weight
    chosen = max(free, key=lambda candidate: candidate.current)
    chosen.current -= total
    return chosen


def _busyness(candidate: Candidate) -> int:
    """Whichever is scarcer; slots count as well, as what was just granted does not show in the others yet."""
    taken = WEIGHT_SHARE * candidate.load // max(candidate.slots, 1)
    return max(candidate.cpu_permille, candidate.memory_permille) + taken


def _common_parts(candidate: Candidate, location: str) -> int:
    """How many parts of a location are a node's as well, from the widest on."""
    count = 0
    for mine, wanted in zip(candidate.labels.get(LOCATION, "").split("/"), location.split("/"), strict=False):
        if not wanted or mine != wanted:
            break
        count += 1
    return count


def _lowest(candidates: list[Candidate], measure: Callable[[Candidate], int]) -> list[Candidate]:
    least = min(map(measure, candidates))
    return [candidate for candidate in candidates if measure(candidate) == least]


def _most_liked(candidates: list[Candidate], prefer: Labels) -> list[Candidate]:
    """Those that have most of the preferred labels."""
    if not candidates or not prefer:
        return candidates
    return _lowest(candidates, lambda candidate: -sum(candidate.labels.get(name) == value for name, value in prefer))


def explain(
    candidates: Sequence[Candidate],
    demand: Demand,
    score_permille_min: int = 0,
    holder: NodeId | None = None,
    shut: Mapping[NodeId, str] | None = None,
) -> list[NodeVerdict]:
    """For each node, the first filter it does not pass for such a task now, or that it fits.

    Args:
        shut: nodes whose breaker for the capability lets nothing through, and why, in words.
    """
    verdicts = []
    for candidate in candidates:
        name, why = _first_flaw(candidate, demand, score_permille_min, holder, shut or {})
        verdicts.append(NodeVerdict(candidate.node_id, not name, why or "fits", name))
    return verdicts


def _first_flaw(
    candidate: Candidate, demand: Demand, score_permille_min: int, holder: NodeId | None, shut: Mapping[NodeId, str]
) -> tuple[str, str]:
    if demand.capability not in candidate.capabilities:
        offers = ", ".join(sorted(candidate.capabilities)) or "nothing"
        return "capability", f"does not offer {demand.capability!r} (it offers {offers})"
    if candidate.health != "healthy":
        return "health", f"is {candidate.health}"
    if not candidate.admitted:
        return "admin", "is not admitted yet"
    if candidate.draining:
        return "admin", "is draining"
    if not candidate.reported:
        return "admin", "has not yet told the new leader what it runs"
    if candidate.score_permille < score_permille_min:
        lost = "; ".join(candidate.causes)
        score, least = candidate.score_permille / 1_000, score_permille_min / 1_000
        return "score", f"has a health score of {score:.2f}, less than {least:.2f}: {lost}"
    name, why = _unmet(candidate, demand, holder)
    if name:
        return name, why
    if candidate.node_id in shut:
        return "breaker", shut[candidate.node_id]
    if candidate.load >= candidate.slots:
        return "load", f"is full: {candidate.load} of {candidate.slots} slots taken"
    return "", ""
