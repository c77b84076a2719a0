"""S4's face: `AgentCoordinator`, its registry, load balancer, distributor and message processor, over a real mesh.

    async with AgentCoordinator() as coordinator:
        await coordinator.registry.register_agent(AgentInfo("ana", AgentType.WORKER, capabilities=["code"]))
        task_id = await coordinator.distributor.submit_task("code", {"prompt": "write sort"}, TaskPriority.HIGH)
        print(await coordinator.result(task_id, timeout=5))

That has a mesh of its own, in this process, and its agents run what `coordinator.handler` says. Over a client of a
running mesh, `AgentCoordinator(client)`, the same classes show that mesh: its nodes are the agents. Nothing is held
here: registry, queues, strategy and figures are the mesh's, and several coordinators of one mesh say the same.

Where S4 has loops of its own, the mesh does the work by itself: its leader distributes (submit, priority queue,
eligible agents, choice, grant), every node watches the others, and stale agents become inactive of themselves.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from mesh.client import MeshClient
from mesh.documents import EventLine
from mesh.errors import MeshUnavailable
from mesh.facades.agents import (
    AgentCriteria,
    AgentDiscoveryService,
    AgentInfo,
    AgentRegistry,
    AgentStatus,
    AgentType,
    AssignedTask,
    Handler,
    choice,
)
from mesh.facades.balancing import Eligibility, LoadBalancer, LoadBalancingStrategy
from mesh.testing import LocalMesh
from mesh.treatment import PRIORITIES, permille, priority_number

__all__ = [
    "AgentCoordinator",
    "AgentCriteria",
    "AgentDiscoveryService",
    "AgentInfo",
    "AgentRegistry",
    "AgentStatus",
    "AgentType",
    "AssignedTask",
    "DistributionStats",
    "Eligibility",
    "Handler",
    "LoadBalancer",
    "LoadBalancingStrategy",
    "MessageProcessor",
    "QueueSizes",
    "TaskDistributor",
    "TaskPriority",
]

VOTER: Final = "mesh"
"""The node that founds a coordinator's own mesh and keeps its log. It runs no tasks and is not shown as an agent."""

HEARTBEAT_TIMEOUT_S: Final = 15.0
FAILURE_THRESHOLD: Final = 3
INTERVAL_MS_MIN: Final = 50

RECENT_ENTRIES: Final = 1_000
PAGES_MAX: Final = 20
PAGE: Final = 1_000
"""Times and shares are those of the last RECENT_ENTRIES of the log, of PAGES_MAX x PAGE events at most."""

POLL_S: Final = 0.2
PAUSE_S: Final = 1.0
"""Before a mesh is asked for events again: that had none, and that had nobody to answer."""


class TaskPriority(IntEnum):
    """Names for priorities; the lower number goes first. S4-24."""

    URGENT = PRIORITIES["urgent"]
    CRITICAL = PRIORITIES["critical"]
    HIGH = PRIORITIES["high"]
    NORMAL = PRIORITIES["normal"]
    LOW = PRIORITIES["low"]


# --- distributing tasks -----------------------------------------------------------------------------------------------


class QueueSizes(dict[int, int]):
    """Waiting tasks by priority: a TaskPriority where it has a name. Look up by that, by number, or by name."""

    def __getitem__(self, priority: int | str) -> int:
        """Raises InvalidPayload for what is no priority."""
        return self.get(priority_number(priority), 0)

    @property
    def total(self) -> int:
        """All that waits."""
        return sum(self.values())


@dataclass(frozen=True)
class DistributionStats:
    """S4-34. Times and shares are those of late, see RECENT_ENTRIES.

    Attributes:
        active_agents: healthy agents that take tasks, busy ones included.
        tasks_distributed: tasks that an agent has, has completed, or has failed for good.
        tasks_completed, tasks_failed: since the mesh began; dead letters have failed.
        average_distribution_time: seconds from the submit of a task to its first grant.
        load_balancer_success_rate: share of the grants that stood, neither lost with their node nor given back.
        agent_load_distribution: tasks that each agent has now.
        queue_sizes: tasks that wait, by priority.
    """

    active_agents: int
    tasks_distributed: int
    tasks_completed: int
    tasks_failed: int
    average_distribution_time: float
    load_balancer_success_rate: float
    agent_load_distribution: dict[str, int]
    queue_sizes: QueueSizes


class TaskDistributor:
    """The priority queue and what became of it (S4-23, S4-25): both are the mesh's, and its leader distributes."""

    def __init__(self, registry: AgentRegistry) -> None:
        self._registry = registry

    async def submit_task(
        self,
        capability: str,
        payload: Any = None,
        priority: TaskPriority | int | str = TaskPriority.NORMAL,
        *,
        agent_type: AgentType | str | None = None,
        **options: Any,
    ) -> str:
        """S4-11. Returns the task's id once a quorum holds it. Options and errors as of MeshClient.submit."""
        if agent_type is not None:
            kind = choice(AgentType, "an agent type", agent_type).value
            options["require"] = {**(options.get("require") or {}), "type": kind}
        client = await self._registry.client()
        return (await client.submit(capability, payload, priority=priority_number(priority), **options)).id

    async def start_distribution(self) -> None:
        """S4-23. The mesh distributes by itself, from its leader; this starts it, and returns when it is closed."""
        await self._registry.serve()

    async def get_queue_sizes(self) -> QueueSizes:
        """S4-05. Waiting tasks by priority; the five that have names are always there."""
        waiting = (await (await self._registry.client()).queues()).by_priority
        sizes = QueueSizes({priority: waiting.get(priority, 0) for priority in TaskPriority})
        return QueueSizes(sizes | waiting)

    async def clear_queue(self, priority: TaskPriority | int | str, reason: str = "queue cleared") -> int:
        """S4-06. Cancel what waits under one priority; how many tasks that were. They end as cancelled, with the reason
        in their history and in the events; what runs goes on.
        """
        client = await self._registry.client()
        return (await client.clear(priority_number(priority), reason)).count

    async def get_distribution_stats(self) -> DistributionStats:
        """S4-34. How distribution goes."""
        client = await self._registry.client()
        status = await client.status()
        views = await self._registry.views()
        average_s, success_rate = await self._of_late(client, status.commit_index)
        tasks = status.tasks
        failed = tasks.failed + tasks.dead
        return DistributionStats(
            active_agents=sum(view.status in ("active", "busy") for view in views),
            tasks_distributed=tasks.running + tasks.completed + failed,
            tasks_completed=tasks.completed,
            tasks_failed=failed,
            average_distribution_time=average_s,
            load_balancer_success_rate=success_rate,
            agent_load_distribution={view.id: view.running for view in views},
            queue_sizes=await self.get_queue_sizes(),
        )

    @staticmethod
    async def _of_late(client: MeshClient, commit_index: int) -> tuple[float, float]:
        """Average distribution time in seconds, and the share of grants that stood, by the committed events."""
        submitted: dict[str | None, int] = {}
        taken_ms: list[int] = []
        granted = undone = 0
        cursor = str(max(0, commit_index - RECENT_ENTRIES))
        for _ in range(PAGES_MAX):
            page = await client.event_page(cursor, limit=PAGE)
            for event in page.events:
                if event.event == "task_submitted":
                    submitted[event.task] = event.at
                elif event.event == "task_dispatched":
                    granted += 1
                    if event.task in submitted:
                        taken_ms.append(event.at - submitted.pop(event.task))
                elif event.event in ("task_lost", "task_released"):
                    undone += 1
            if page.next == cursor:
                break
            cursor = page.next
        average_s = sum(taken_ms) / len(taken_ms) / 1_000 if taken_ms else 0.0
        return average_s, max(0, granted - undone) / granted if granted else 1.0


# --- hearing what happens ---------------------------------------------------------------------------------------------

Listener: TypeAlias = Callable[[EventLine], None]


class MessageProcessor:
    """Hands what happens in the mesh, as it is committed, to whoever subscribed. S4-23, S4-43.

    Registrations, heartbeats and outcomes themselves are processed by the nodes.
    """

    def __init__(self, registry: AgentRegistry) -> None:
        self._registry = registry
        self._listeners: dict[Listener, int] = {}
        self._wanted = asyncio.Event()
        self._processing = asyncio.Lock()

    async def subscribe(self, listener: Listener) -> None:
        """Call it with every event that is committed from now on, in order, while `start_processing` runs."""
        self._listeners[listener] = (await (await self._registry.client()).status()).commit_index
        self._wanted.set()

    def unsubscribe(self, listener: Listener) -> None:
        """Call it no more."""
        self._listeners.pop(listener, None)
        if not self._listeners:
            self._wanted.clear()

    async def start_processing(self) -> None:
        """S4-23. Follow the events, without end; nothing is asked for while nobody has subscribed. Called a second
        time, it waits until the first is cancelled, so that nobody is told twice.
        """
        client = await self._registry.client()
        after = 0
        async with self._processing:
            while True:
                while not self._listeners:
                    await self._wanted.wait()
                after = max(after, min(self._listeners.values()))
                try:
                    page = await client.event_page(str(after), stale=True)
                except MeshUnavailable:
                    await asyncio.sleep(PAUSE_S)
                    continue
                for event in page.events:
                    self._tell(event)
                after = max(after, int(page.next))
                if not page.events:
                    await asyncio.sleep(POLL_S)

    def _tell(self, event: EventLine) -> None:
        """A listener that raises is told on by the loop, and stops nobody."""
        for listener, after in list(self._listeners.items()):
            if event.index > after:
                try:
                    listener(event)
                except Exception as error:  # Whatever it is, it is theirs.
                    context = {"message": f"{listener!r} could not hear of {event.event}", "exception": error}
                    asyncio.get_running_loop().call_exception_handler(context)


# --- all of it --------------------------------------------------------------------------------------------------------


class AgentCoordinator:
    """S4, wired up. Use it in an `async with`, or `start` and `close` it.

    Attributes:
        registry, discovery, load_balancer, distributor, message_processor: see their classes.
    """

    def __init__(
        self,
        mesh: MeshClient | LocalMesh | None = None,
        *,
        strategy: LoadBalancingStrategy | str | None = None,
        health_score_threshold: float | None = None,
        heartbeat_timeout: float | None = None,
    ) -> None:
        """Nothing runs yet.

        Args:
            mesh: the mesh to coordinate. A coordinator without one has its own, in this process, and closes it.
            strategy: to be in force from the start; that of the mesh (least_connections, S4-21), if not given.
            health_score_threshold: agents with a lower score get no tasks; that of the mesh (0.5, S4-31), if not given.
            heartbeat_timeout: seconds of silence, three heartbeats, after which an agent of its own mesh is inactive;
                15 if not given (S4-30 as REQUIREMENTS F decides; 0.15 at least). A running mesh has its own.

        Raises InvalidPayload, TypeError; ValueError for a heartbeat_timeout of a mesh that was given.
        """
        if mesh is not None and heartbeat_timeout is not None:
            raise ValueError("heartbeat_timeout is for a coordinator's own mesh; the one given has its own")
        self._strategy = (
            None if strategy is None else choice(LoadBalancingStrategy, "a load balancing strategy", strategy)
        )
        self._score_permille_min = (
            None if health_score_threshold is None else permille("health_score_threshold", health_score_threshold, 0, 1)
        )
        self._own: LocalMesh | None = None
        if mesh is None:
            interval_s = (HEARTBEAT_TIMEOUT_S if heartbeat_timeout is None else heartbeat_timeout) / FAILURE_THRESHOLD
            mesh = self._own = LocalMesh(
                voters=(VOTER,),
                slots=1,
                heartbeat_interval_ms=max(INTERVAL_MS_MIN, round(interval_s * 1_000)),
                failure_threshold=FAILURE_THRESHOLD,
            )
        self.registry = AgentRegistry(mesh, without=(VOTER,) if self._own is not None else ())
        self.discovery = AgentDiscoveryService(self.registry)
        self.load_balancer = LoadBalancer(self.registry)
        self.distributor = TaskDistributor(self.registry)
        self.message_processor = MessageProcessor(self.registry)
        self._background: list[asyncio.Task[None]] = []

    @property
    def handler(self) -> Handler:
        """Runs the tasks of agents registered here: `async def work(agent: AgentInfo, task: AssignedTask) -> Any`.

        What it returns (a JSON value) is the result. It runs on the loop of the coordinator, and must not block it.
        """
        return self.registry.handler

    @handler.setter
    def handler(self, handler: Handler) -> None:
        self.registry.handler = handler

    async def start(self) -> None:
        """S4-44. Registry, load balancer with its strategy, distributor, background tasks, in this order. Once."""
        if self._background:
            return
        client = await self.registry.client()
        if self._score_permille_min is not None:
            await client.set("health_permille_min", self._score_permille_min)
        if self._strategy is not None:
            await self.load_balancer.set_strategy(self._strategy)
        loops = (self.distributor.start_distribution, self.message_processor.start_processing)
        self._background = [asyncio.create_task(loop(), name=f"coordinator: {loop.__name__}") for loop in loops]

    async def close(self) -> None:
        """Stop what `start` began, and a mesh of its own. One that was given goes on."""
        background, self._background = self._background, []
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        self.registry.close()
        if self._own is not None:
            await self._own.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def result(self, task_id: str, timeout: float | None = None) -> Any:
        """Wait for a task's result, `timeout` seconds at most. Not S4's, but needed: raises as Handle.result does."""
        return await (await self.registry.client()).handle(task_id).result(timeout)
