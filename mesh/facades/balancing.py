"""S4's choice of an agent over a mesh: `LoadBalancer` and its strategies; see mesh.facades.coordinator."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Final

from mesh.dispatch.placement import Candidate, Placement, explain
from mesh.documents import AgentView, NodeVerdict
from mesh.facades.agents import AgentInfo, AgentRegistry, AgentType, choice, names
from mesh.ids import NodeId
from mesh.ledger.queue import Demand
from mesh.ledger.settings import Strategy
from mesh.options import Options


class LoadBalancingStrategy(Enum):
    """How an agent is chosen among those that may have a task; see ledger.settings.Strategy. S4-21."""

    LEAST_CONNECTIONS = "least_connections"
    ROUND_ROBIN = "round_robin"
    WEIGHTED_ROUND_ROBIN = "weighted_round_robin"
    RESOURCE_BASED = "resource_based"
    GEOGRAPHIC = "geographic"
    RANDOM = "random"


FILTERS: Final[Mapping[str, str]] = {
    "health": "status",
    "admin": "status",
    "capability": "capabilities",
    "type": "agent_type",
    "score": "health_score",
    "load": "load",
}
"""The mesh's filters by S4's five names. Others (labels, breaker) keep their own."""


@dataclass(frozen=True)
class Eligibility:
    """Who may have such a task now, and why the others may not. S4-26.

    Attributes:
        agents: those that pass all filters.
        rejected: how many agents each filter turned down, by the first one that they did not pass: status,
            capabilities, agent_type, health_score and load, and labels or breaker where it was one of these.
        verdicts: what each node lacks, in words.
    """

    agents: list[AgentInfo]
    rejected: dict[str, int]
    verdicts: list[NodeVerdict]


class LoadBalancer:
    """Says who may have a task, and whose turn it is: by the mesh's own filters and strategies, over its own figures.

    The choice that counts is made by the leader when it grants a task. What is kept here is whose turn comes next when
    `select_agent` is asked again.
    """

    def __init__(self, registry: AgentRegistry) -> None:
        self._registry = registry
        self._placement = Placement(Random(0))
        self._candidates: dict[str, Candidate] = {}

    async def get_strategy(self) -> LoadBalancingStrategy:
        """The strategy in force in the whole mesh."""
        return LoadBalancingStrategy((await (await self._registry.client()).agents()).strategy)

    async def set_strategy(self, strategy: LoadBalancingStrategy | str) -> None:
        """S4-22. Choose otherwise from now on, in the whole mesh: returns once that is committed. InvalidPayload."""
        wanted = choice(LoadBalancingStrategy, "a load balancing strategy", strategy)
        await (await self._registry.client()).strategy(wanted.value)

    async def find_eligible_agents(
        self,
        capability: str | Iterable[str],
        *,
        agent_type: AgentType | str | None = None,
        require: Mapping[str, str] | None = None,
    ) -> list[AgentInfo]:
        """S4-22. The agents that may have a task of this capability (or, of several, of each of them) now."""
        return (await self.explain(capability, agent_type=agent_type, require=require)).agents

    async def explain(
        self,
        capability: str | Iterable[str],
        *,
        agent_type: AgentType | str | None = None,
        require: Mapping[str, str] | None = None,
    ) -> Eligibility:
        """S4-26. The same, with what turned the others down. `require`: labels. Raises InvalidPayload."""
        views = await self._registry.views()
        verdicts = await self._verdicts(views, names(capability), agent_type, require or {})
        fitting = [view for view, verdict in zip(views, verdicts, strict=True) if verdict.fits]
        rejected = dict.fromkeys(FILTERS.values(), 0)
        for verdict in verdicts:
            if not verdict.fits:
                name = FILTERS.get(verdict.filter, verdict.filter)
                rejected[name] = rejected.get(name, 0) + 1
        return Eligibility([self._registry.shown(view) for view in fitting], rejected, verdicts)

    async def select_agent(
        self,
        capability: str | Iterable[str],
        strategy: LoadBalancingStrategy | str | None = None,
        *,
        agent_type: AgentType | str | None = None,
        require: Mapping[str, str] | None = None,
        location: str = "",
    ) -> AgentInfo | None:
        """S4-22. The agent whose turn it is by a strategy (the one in force, if none is given); None if nobody may.

        `location` is where the task belongs (`eu/berlin`), for GEOGRAPHIC. It is only a look: nothing is assigned.
        """
        wanted = names(capability)
        chosen = await self.get_strategy() if strategy is None else strategy
        by = Strategy[choice(LoadBalancingStrategy, "a load balancing strategy", chosen).name]
        views = await self._registry.views()
        verdicts = await self._verdicts(views, wanted, agent_type, require or {})
        able = [self._candidates[verdict.node] for verdict in verdicts if verdict.fits]
        candidate = self._placement.choose(able, by, wanted[0] if wanted else "", Options(location=location))
        return None if candidate is None else await self._registry.get_agent(candidate.node_id)

    async def _verdicts(
        self,
        views: list[AgentView],
        capabilities: tuple[str, ...],
        agent_type: AgentType | str | None,
        require: Mapping[str, str],
    ) -> list[NodeVerdict]:
        """What the leader would say of each agent: for the first capability that it may not have, or for the last."""
        settings = (await (await self._registry.client()).settings()).settings
        labels = dict(require)
        if agent_type is not None:
            labels["type"] = choice(AgentType, "an agent type", agent_type).value
        before, self._candidates = self._candidates, {}
        for view in views:
            self._candidates[view.id] = _candidate(view, before.get(view.id))
        found: dict[str, NodeVerdict] = {}
        for capability in capabilities:
            shut = {
                NodeId(view.id): f"its breaker for {capability!r} is open"
                for view in views
                if any(each.capability == capability and each.state == "open" for each in view.breakers)
            }
            demand = Demand(capability, tuple(sorted(labels.items())))
            candidates = list(self._candidates.values())
            for verdict in explain(candidates, demand, settings["health_permille_min"], shut=shut):
                if verdict.node not in found or found[verdict.node].fits:
                    found[verdict.node] = verdict
        return [found.get(view.id) or NodeVerdict(view.id, True, "fits") for view in views]


def _candidate(view: AgentView, before: Candidate | None) -> Candidate:
    """An agent as the leader has it. What of its turns was counted before goes on."""
    return Candidate(
        NodeId(view.id),
        slots=view.slots,
        load=view.running,
        capabilities=frozenset(view.capabilities),
        health=view.health,
        admitted=True,
        draining=view.status == "inactive",
        reported=True,
        kind=view.type,
        labels=view.labels,
        versions=view.versions,
        cpu_permille=round(view.cpu * 1_000),
        memory_permille=round(view.memory * 1_000),
        score_permille=round(view.health_score * 1_000),
        causes=tuple(view.causes),
        mean_ms=view.mean_ms,
        current=0 if before is None else before.current,
    )
