"""S4's agents over a mesh: `AgentInfo`, `AgentRegistry` and `AgentDiscoveryService`; see mesh.facades.coordinator.

An agent is a node. What a node says of itself (type, capabilities, labels, load) and what the others find out about it
(health, silence, score) is the mesh's, and is asked for when it is to be shown. Of S4's fields the mesh carries some as
labels, so that every client of it sees them: `tag.NAME`, `service.NAME`, `endpoint.NAME`, `version`; all other labels
are `metadata`. A node that is started by hand says them with `--labels`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from time import time
from typing import Any, Final, NamedTuple, NoReturn, Self, TypeAlias, TypeVar
from weakref import ref

from mesh.app import Context, Mesh
from mesh.client import MeshClient
from mesh.client.payload import check_name
from mesh.documents import AgentView
from mesh.errors import InvalidPayload, NotFound, Refused
from mesh.ids import NodeId
from mesh.options import Labels
from mesh.testing import LocalMesh
from mesh.treatment import NAME_CHARS_MAX, brief, is_number, permille
from mesh.wire.codec import decode_value

MAX_TASKS: Final = 10
"""Tasks an agent runs at once, if its `metadata` has no `max_tasks`."""
LABELS_MAX: Final = 64
LEAVE_WITHIN_S: Final = 28.0

TAG, SERVICE, ENDPOINT, VERSION = "tag.", "service.", "endpoint.", "version"
YES: Final = "yes"
_OF_THE_MESH: Final = ("node", "type", VERSION)
"""Labels that no entry of `metadata` becomes."""

_Choice = TypeVar("_Choice", bound=Enum)


class AgentType(Enum):
    """What an agent is there for. S4-17."""

    WORKER = "worker"
    PROVIDER = "provider"
    CONSUMER = "consumer"
    GENERAL = "general"


class AgentStatus(Enum):
    """How an agent is. S4-16.

    BUSY: all its slots are taken. STALE: it has missed a heartbeat. INACTIVE: it has failed, was deregistered, or is
    given no more tasks.
    """

    ACTIVE = "active"
    INACTIVE = "inactive"
    BUSY = "busy"
    STALE = "stale"


@dataclass
class AgentInfo:
    """An agent. S4-18. Times are seconds since the epoch.

    `status`, `last_heartbeat`, `health_score` and what the mesh measures in `load_metrics` (active_connections,
    max_connections, cpu, memory) are brought up to date whenever the registry shows the agent. `registration_time` is
    0 for a node that joined by itself.
    """

    agent_id: str
    agent_type: AgentType = AgentType.GENERAL
    status: AgentStatus = AgentStatus.ACTIVE
    capabilities: list[str] = field(default_factory=list)
    services: list[str] = field(default_factory=list)
    endpoints: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    last_heartbeat: float = field(default_factory=time)
    registration_time: float = field(default_factory=time)
    load_metrics: dict[str, float] = field(default_factory=dict)
    health_score: float = 1.0
    version: str = "1.0.0"
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class AssignedTask:
    """One attempt, as the handler gets it. `context` saves checkpoints and submits further tasks."""

    task_id: str
    capability: str
    payload: Any
    priority: int
    attempt: int
    context: Context


Handler: TypeAlias = Callable[[AgentInfo, AssignedTask], Awaitable[Any]]


async def echo(agent: AgentInfo, task: AssignedTask) -> Any:
    """What agents do with a task if nobody says otherwise."""
    return {"agent": agent.agent_id, "capability": task.capability, "payload": task.payload}


@dataclass(frozen=True)
class AgentCriteria:
    """Agents that meet all of these; what is not given does not count. Of names given, an agent has all."""

    agent_type: AgentType | str | None = None
    status: AgentStatus | str | None = None
    capabilities: str | Iterable[str] = ()
    services: str | Iterable[str] = ()
    tags: str | Iterable[str] = ()
    min_health_score: float = 0.0

    @classmethod
    def of(cls, criteria: "AgentCriteria | Mapping[str, Any] | None") -> Self:
        """Criteria in any form, with names made members and tuples. Raises InvalidPayload for what is none."""
        if isinstance(criteria, AgentCriteria):
            criteria = {each.name: getattr(criteria, each.name) for each in fields(cls)}
        given = {name: value for name, value in (criteria or {}).items() if value is not None}
        known = [each.name for each in fields(cls)]
        for name in given:
            if name not in known:
                raise InvalidPayload(f"agents are not told apart by {brief(name)}; there are {', '.join(known)}")
        if "agent_type" in given:
            given["agent_type"] = choice(AgentType, "an agent type", given["agent_type"])
        if "status" in given:
            given["status"] = choice(AgentStatus, "an agent status", given["status"])
        for name in ("capabilities", "services", "tags"):
            given[name] = names(given.get(name, ()))
        return cls(**given)

    def meets(self, agent: AgentInfo) -> bool:
        """Whether an agent is meant. `self` was made by `of`."""
        return (
            self.agent_type in (None, agent.agent_type)
            and self.status in (None, agent.status)
            and set(self.capabilities) <= set(agent.capabilities)
            and set(self.services) <= set(agent.services)
            and set(self.tags) <= set(agent.tags)
            and agent.health_score >= self.min_health_score
        )


class Offer(NamedTuple):
    """What an agent's node is started with."""

    capabilities: tuple[str, ...]
    slots: int
    kind: str
    labels: Labels


class AgentRegistry:
    """Who is there, and how they are (S4-15).

    Over a LocalMesh, agents are registered: each becomes a node that joins, gossips and runs what `handler` says. Over
    a client the agents are the nodes of the running mesh, which join by themselves.

    Attributes:
        handler: runs the tasks of agents registered here, on their event loop; it may be replaced at any time.
        local: the LocalMesh; None over a client.
    """

    handler: Handler

    def __init__(self, mesh: LocalMesh | MeshClient, *, without: tuple[str, ...] = ()) -> None:
        """`without`: nodes that are not shown as agents. Raises TypeError for what is no mesh."""
        if not isinstance(mesh, LocalMesh | MeshClient):
            raise TypeError(f"agents are those of a LocalMesh or of a connected client, not of {brief(mesh)}")
        self.handler = echo
        self.local = mesh if isinstance(mesh, LocalMesh) else None
        self._mesh = mesh
        self._without = without
        self._registered: dict[str, AgentInfo] = {}
        """What was registered here: the objects that callers have in hand."""
        self._closed = asyncio.Event()

    async def client(self) -> MeshClient:
        """A client of the mesh; a LocalMesh is started first."""
        if isinstance(self._mesh, MeshClient):
            return self._mesh
        await self._mesh.start()
        return self._mesh.client

    async def serve(self) -> None:
        """Start the mesh, which does the work by itself; return when it, or this registry, is closed."""
        await self.client()
        if self.local is None:
            await self._closed.wait()
        else:
            local = self.local
            await local.until(lambda: not local.is_open, timeout=None)

    def close(self) -> None:
        """Let those go who `serve`. The mesh goes on."""
        self._closed.set()

    # --- coming and going ---------------------------------------------------------------------------------------------

    async def register_agent(self, agent: AgentInfo) -> bool:
        """S4-27. The agent joins as a node; True once it may be given tasks.

        `capabilities`, type, labels and `max_tasks` in its metadata (10) are what the node offers; one that is
        registered already is started anew if it is down, or is to offer something else.
        Raises InvalidPayload for what will not do, Refused over a client.
        """
        local = self.local
        if local is None:
            _refuse("agents of a running mesh are its nodes, and join by themselves: start one with `mesh node run`")
        offer = self._offer(agent)
        client = await self.client()
        agent_id = agent.agent_id
        before = self._registered.get(agent_id)
        self._registered[agent_id] = agent
        try:
            record = None if local.freshest is None else local.freshest.ledger.nodes.get(NodeId(agent_id))
            if record is not None and record.draining:
                await client.undrain(agent_id)
            if not (local.is_up(agent_id) and _offered(local, agent_id) == offer):
                app = self._app(agent_id, offer.capabilities)
                await local.add_node(agent_id, app, slots=offer.slots, kind=offer.kind, labels=offer.labels)
        except BaseException:
            if before is None:
                self._registered.pop(agent_id, None)
            raise
        return True

    async def deregister_agent(self, agent_id: str, *, within: float = LEAVE_WITHIN_S) -> bool:
        """S4-29. The agent is inactive from now on and given no more tasks; it is still listed. False if unknown.

        One that was registered here finishes what it runs, for `within` seconds at most, and ends. A node of a running
        mesh is drained; its process goes on.
        """
        client = await self.client()
        local = self.local
        if local is not None and agent_id in self._registered and local.is_up(agent_id):
            await local.leave(agent_id, within_s=within)
            return True
        return await _done(client.drain(agent_id, "deregistered"))

    async def update_agent_status(
        self, agent_id: str, status: AgentStatus | str, load_metrics: Mapping[str, float] | None = None
    ) -> bool:
        """S4-10. Give an agent tasks (active) or no more of them (inactive). False if unknown.

        Raises InvalidPayload for busy and stale, which nobody sets: the mesh finds them; and what `process_heartbeat`
        raises for metrics.
        """
        wanted = choice(AgentStatus, "an agent status", status)
        if wanted not in (AgentStatus.ACTIVE, AgentStatus.INACTIVE):
            raise InvalidPayload(f"{wanted.value} is what the mesh finds an agent to be; set it active or inactive")
        if load_metrics:
            await self.process_heartbeat(agent_id, load_metrics)
        client = await self.client()
        if wanted is AgentStatus.ACTIVE:
            return await _done(client.undrain(agent_id))
        return await _done(client.drain(agent_id, "set inactive"))

    async def process_heartbeat(self, agent_id: str, load_metrics: Mapping[str, float] | None = None) -> bool:
        """S4-28. Take what an agent registered here says of its load; whether the mesh hears it, and knows it at all.

        `cpu` and `memory` (shares from 0 to 1) go out with its node's next heartbeat, and count in its score and where
        load is balanced by them; other metrics are kept in its AgentInfo. The heartbeats that count are those that the
        node sends by itself while it is up: time, score and status follow from them alone.
        Raises Refused for metrics of an agent that was not registered here, InvalidPayload for what is no share.
        """
        if load_metrics:
            known = self._registered.get(agent_id)
            if known is None or self.local is None:
                _refuse(f"{agent_id!r} was not registered here: its node measures its load by itself")
            metrics = known.load_metrics | dict(load_metrics)
            cpu, memory = (permille(name, metrics.get(name, 0.0), 0, 1) / 1_000 for name in ("cpu", "memory"))
            known.load_metrics = metrics
            self.local.measure(agent_id, cpu=cpu, memory=memory)
        return any(view.id == agent_id and view.health != "failed" for view in await self.views())

    # --- looking ------------------------------------------------------------------------------------------------------

    async def get_agent(self, agent_id: str) -> AgentInfo | None:
        """One agent as it is now, or None: the very object that was registered, if it was registered here."""
        return next((agent for agent in await self.list_agents() if agent.agent_id == agent_id), None)

    async def list_agents(self) -> list[AgentInfo]:
        """All agents, those that are gone included, in order of id."""
        client = await self.client()
        status, views = await asyncio.gather(client.status(), self.views())
        now = time()
        heard = {node.id: now - node.last_heartbeat_ms / 1_000 for node in status.nodes}
        return [self._shown(view, heard.get(view.id, 0.0)) for view in views]

    async def discover_agents(self, criteria: AgentCriteria | Mapping[str, Any] | None = None) -> list[AgentInfo]:
        """S4-22. Agents that meet the criteria (see AgentCriteria); all of them without any. Raises InvalidPayload."""
        wanted = AgentCriteria.of(criteria)
        return [agent for agent in await self.list_agents() if wanted.meets(agent)]

    async def get_active_agents(self) -> list[AgentInfo]:
        """S4-19. Agents that are healthy and take tasks, those included that are busy just now."""
        active = (AgentStatus.ACTIVE, AgentStatus.BUSY)
        return [agent for agent in await self.list_agents() if agent.status in active]

    async def cleanup_stale_agents(self) -> list[str]:
        """S4-28. Ids of agents that fell silent and are inactive for it. There is nothing to clean up: the mesh marks
        them when it has missed their heartbeats, and has run what they held elsewhere.
        """
        status = await (await self.client()).status()
        return [node.id for node in status.nodes if node.health == "failed" and node.admin != "left"]

    async def views(self) -> list[AgentView]:
        """The agents as the mesh has them."""
        agents = await (await self.client()).agents()
        return [view for view in agents.agents if view.id not in self._without]

    def shown(self, view: AgentView) -> AgentInfo:
        """A view as S4 has it, its heartbeat left as it was last seen."""
        known = self._registered.get(view.id)
        return self._shown(view, 0.0 if known is None else known.last_heartbeat)

    def _shown(self, view: AgentView, last_heartbeat: float) -> AgentInfo:
        agent = self._registered.get(view.id) or _described(view)
        agent.status = AgentStatus(view.status)
        agent.last_heartbeat = last_heartbeat
        agent.health_score = view.health_score
        agent.load_metrics |= {
            "active_connections": view.running,
            "max_connections": view.slots,
            "cpu": view.cpu,
            "memory": view.memory,
        }
        return agent

    # --- agents registered here ---------------------------------------------------------------------------------------

    def _app(self, agent_id: str, capabilities: Iterable[str]) -> Mesh:
        """What the agent's node offers. It does not keep the registry alive."""
        registry = ref(self)
        app = Mesh(agent_id)

        def offered(capability: str) -> None:
            async def run(ctx: Context, /, *values: Any, **named: Any) -> Any:
                alive = registry()
                if alive is None:
                    raise RuntimeError("the registry is gone")
                return await alive._run(agent_id, capability, ctx)

            app.task(capability=capability)(run)

        for capability in capabilities:
            offered(capability)
        return app

    async def _run(self, agent_id: str, capability: str, ctx: Context) -> Any:
        """One attempt. The payload is read from the task: as arguments, {} and None would be the same."""
        known = None if self.local is None else self.local.find(ctx.task_id)
        if known is None:
            raise NotFound(f"the task {ctx.task_id!r} has ended meanwhile")
        spec = known.spec
        payload = decode_value(spec.payload)
        task = AssignedTask(ctx.task_id, capability, payload, spec.priority, ctx.attempt, ctx)
        return await self.handler(self._registered[agent_id], task)

    def _offer(self, agent: AgentInfo) -> Offer:
        """What a node says for this agent. Raises InvalidPayload."""
        check_name("name of an agent", agent.agent_id)
        if agent.agent_id in self._without:
            raise InvalidPayload(f"{agent.agent_id!r} is the node that keeps the log; choose another name")
        slots = agent.metadata.get("max_tasks", MAX_TASKS)
        if not is_number(slots) or slots < 0:
            raise InvalidPayload(f"max_tasks is a number from 0, not {brief(slots)}")
        capabilities = names(agent.capabilities)
        for capability in capabilities:
            check_name("capability", capability)
        labels = {TAG + tag: YES for tag in names(agent.tags)}
        labels |= {SERVICE + service: YES for service in names(agent.services)}
        labels |= {ENDPOINT + name: where for name, where in agent.endpoints.items()}
        labels |= {name: value for name, value in agent.metadata.items() if _is_label(name, value)}
        labels[VERSION] = agent.version
        for label, value in labels.items():
            check_name("label", label)
            check_name(f"value of the label {label!r}", value)
        if len(labels) > LABELS_MAX:
            raise InvalidPayload(f"{agent.agent_id!r} has {len(labels)} labels; a node has {LABELS_MAX} at most")
        kind = choice(AgentType, "an agent type", agent.agent_type)
        return Offer(capabilities, slots, kind.value, tuple(sorted(labels.items())))


class AgentDiscoveryService:
    """S4-20. Finds agents by what they are; a front of `AgentRegistry.discover_agents`."""

    def __init__(self, registry: AgentRegistry) -> None:
        self._registry = registry

    async def discover(
        self,
        *,
        agent_type: AgentType | str | None = None,
        status: AgentStatus | str | None = None,
        capabilities: str | Iterable[str] = (),
        services: str | Iterable[str] = (),
        tags: str | Iterable[str] = (),
        min_health_score: float = 0.0,
    ) -> list[AgentInfo]:
        """Agents that meet all that is given. Raises InvalidPayload for a type or status that there is not."""
        criteria = AgentCriteria(agent_type, status, capabilities, services, tags, min_health_score)
        return await self._registry.discover_agents(criteria)


# --- reading what was given -------------------------------------------------------------------------------------------


def choice(kind: type[_Choice], what: str, value: object) -> _Choice:
    """A member of an enumeration, given as such or by its value. Raises InvalidPayload, which begins with `what`."""
    if isinstance(value, kind):
        return value
    for member in kind:
        if value == member.value:
            return member
    raise InvalidPayload(f"{what} is one of {', '.join(member.value for member in kind)}, not {brief(value)}")


def names(given: str | Iterable[str]) -> tuple[str, ...]:
    """One name by itself, or several; each once."""
    return (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))


def _is_label(name: str, value: object) -> bool:
    """Whether an entry of `metadata` travels: short text does; what else there is stays with the object."""
    return (
        name not in _OF_THE_MESH and isinstance(value, str) and 0 < len(value) <= NAME_CHARS_MAX and value.isprintable()
    )


def _described(view: AgentView) -> AgentInfo:
    """An agent by what its node says."""
    told = {name: value for name, value in view.labels.items() if name not in _OF_THE_MESH}
    tags = [name.removeprefix(TAG) for name in told if name.startswith(TAG)]
    services = [name.removeprefix(SERVICE) for name in told if name.startswith(SERVICE)]
    endpoints = {name.removeprefix(ENDPOINT): where for name, where in told.items() if name.startswith(ENDPOINT)}
    metadata = {name: value for name, value in told.items() if not name.startswith((TAG, SERVICE, ENDPOINT))}
    is_known = any(view.type == kind.value for kind in AgentType)
    return AgentInfo(
        agent_id=view.id,
        agent_type=AgentType(view.type) if is_known else AgentType.GENERAL,
        capabilities=list(view.capabilities),
        services=services,
        endpoints={"mesh": view.address} | endpoints,
        metadata=metadata,
        registration_time=0.0,
        version=view.labels.get(VERSION, ""),
        tags=tags,
    )


def _offered(local: LocalMesh, agent_id: str) -> Offer:
    """What an agent's node was last started with."""
    config = local.node(agent_id).config
    return Offer(local.offer(agent_id)[0], config.slots, config.kind, config.labels)


async def _done(ordering: Awaitable[None]) -> bool:
    """Whether an order about a node was carried out; not, if there is no such node."""
    try:
        await ordering
    except NotFound:
        return False
    return True


def _refuse(why: str) -> NoReturn:
    raise Refused(why)
