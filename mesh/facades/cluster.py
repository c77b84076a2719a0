"""S0's face: `DistributedAgentCluster`, its nodes and its tasks, over a real mesh in this process.

Every registered AgentNode is a node of the mesh: it joins, gossips, holds leases, fails and recovers. Tasks, results
and dead letters are the mesh's; what this class shows of them is looked up when it is asked for. Dispatching and
judging nodes go on by themselves from the first `await` on.

What a task does is said by `handler`, which may be replaced at any time:

    async def work(node: AgentNode, task: DistributedTask) -> Any: ...
    cluster.handler = work

It runs on the event loop of the cluster, so it must not block it. What it returns (a JSON value) becomes the result;
if it raises, the attempt has failed and is made again after a second, then two, up to `max_attempts`. Without a handler
of its own a cluster answers every task with what it was given, and where.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from time import time
from types import TracebackType
from typing import Any, Dict, List, Optional, Self, TypeAlias  # noqa: UP035 - S0's own annotations.
from weakref import WeakValueDictionary, ref

from mesh.app import Context, Mesh
from mesh.client.payload import check_name, encode_payload
from mesh.dispatch.placement import Placement
from mesh.errors import InvalidPayload, NotFound
from mesh.ids import TaskId
from mesh.ledger.task import COMPLETED, DEAD, PENDING, SCHEDULED
from mesh.ledger.task import Task as LedgerTask
from mesh.messages import TaskSpec
from mesh.testing import LocalMesh
from mesh.wire.codec import decode_value

__all__ = ["AgentNode", "DistributedAgentCluster", "DistributedTask", "NodeStatus"]

VOTER = "mesh"
"""The node that founds the mesh and keeps its log. It runs no tasks and is not among `nodes`."""

HEARTBEAT_INTERVAL_MS_MIN = 50

_ATTEMPT: ContextVar[Context | None] = ContextVar("mesh.facades.attempt", default=None)
"""The attempt that the present code runs in."""


class NodeStatus(Enum):
    """How a node is. S0-16."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILED = "failed"
    RECOVERING = "recovering"


@dataclass
class AgentNode:
    """A node. S0-17. What comes after `capabilities`, but for `max_tasks`, is brought up to date by `cluster.nodes`.

    `last_heartbeat` is in seconds since the epoch. It is for reading: silence is judged by a monotonic clock elsewhere.
    """

    node_id: str
    host: str
    port: int
    capabilities: List[str]  # noqa: UP006
    status: NodeStatus = NodeStatus.HEALTHY
    last_heartbeat: float = field(default_factory=time)
    current_tasks: int = 0
    max_tasks: int = 10
    failure_count: int = 0


@dataclass
class DistributedTask:
    """A task. S0-18. A lower `priority` goes first; `attempts` and `checkpointed_state` are kept by the mesh."""

    task_id: str
    payload: Dict[str, Any]  # noqa: UP006
    required_capability: str
    priority: int = 5
    attempts: int = 0
    max_attempts: int = 3
    checkpointed_state: Optional[Dict[str, Any]] = None  # noqa: UP006, UP045


Handler: TypeAlias = Callable[[AgentNode, DistributedTask], Awaitable[Any]]


async def echo(node: AgentNode, task: DistributedTask) -> Any:
    """What a cluster does with a task if nobody says otherwise."""
    return {"node": node.node_id, "capability": task.required_capability, "payload": task.payload}


class DistributedAgentCluster:
    """S0-19 to S0-30. Use it in an `async with`, or `close` it; one that is merely dropped stops too.

    S0's first example (S0-15):

    >>> async def example():
    ...     cluster = DistributedAgentCluster()
    ...     await cluster.register_node(AgentNode('n1', 'host1', 8000, ['code', 'search']))
    ...     print(await cluster.submit_task(DistributedTask('t1', {'prompt': 'write sort'}, 'code')))
    ...     print((await cluster.result('t1'))['node'], list(cluster.completed_tasks))
    >>> asyncio.run(example())
    t1
    n1 ['t1']

    Attributes:
        handler: runs the tasks; see the module.
        heartbeat_interval, failure_threshold: as given. An interval below 0.05 s is taken for 0.05 s.
    """

    handler: Handler

    def __init__(self, heartbeat_interval: float = 5.0, failure_threshold: int = 3) -> None:
        """S0-19. Nothing runs yet. Raises ValueError for a threshold below 2: one lost heartbeat is no failure."""
        self.heartbeat_interval = heartbeat_interval
        self.failure_threshold = failure_threshold
        self.handler = echo
        self._mesh = LocalMesh(
            voters=(VOTER,),
            slots=1,
            heartbeat_interval_ms=max(HEARTBEAT_INTERVAL_MS_MIN, round(heartbeat_interval * 1_000)),
            failure_threshold=failure_threshold,
        )
        self._registered: dict[str, AgentNode] = {}
        self._submitted: WeakValueDictionary[str, DistributedTask] = WeakValueDictionary()
        self._placement = Placement(Random(0))

    async def close(self) -> None:
        """Stop the mesh. What it held can still be read."""
        await self._mesh.close()

    async def __aenter__(self) -> Self:
        await self._mesh.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # --- what the mesh holds (S0-20) ---

    @property
    def nodes(self) -> Dict[str, AgentNode]:  # noqa: UP006
        """The registered nodes, by id: the very objects that were registered, as the mesh sees them now."""
        status = self._mesh.status()
        if status is None:
            return {}
        known: dict[str, AgentNode] = {}
        now = time()
        for view in status.nodes:
            node = self._registered.get(view.id)
            if node is None:
                continue
            node.status = NodeStatus(view.health)
            node.last_heartbeat = now - view.last_heartbeat_ms / 1_000
            node.current_tasks = view.running
            node.failure_count = view.failure_count
            known[view.id] = node
        return known

    @property
    def task_queue(self) -> "asyncio.PriorityQueue[tuple[int, int, DistributedTask]]":
        """The waiting tasks as (priority, order of submission, task): a copy; to get from it takes nothing away."""
        queue: asyncio.PriorityQueue[tuple[int, int, DistributedTask]] = asyncio.PriorityQueue()
        for task in self._mesh.live_tasks():
            if task.state in (PENDING, SCHEDULED):
                queue.put_nowait((task.spec.priority, task.order, self._task(task)))
        return queue

    @property
    def completed_tasks(self) -> Dict[str, Any]:  # noqa: UP006
        """Results by task id, in the order the tasks completed in."""
        return {
            task.spec.task_id: decode_value(task.result)
            for task in self._mesh.finished_tasks()
            if task.state == COMPLETED
        }

    @property
    def dead_letter_queue(self) -> List[DistributedTask]:  # noqa: UP006
        """Tasks that failed `max_attempts` times, in the order they were given up in."""
        dead = [task for task in self._mesh.live_tasks() if task.state == DEAD]
        return [self._task(task) for task in sorted(dead, key=lambda task: task.finished_at_ms)]

    def _task(self, task: LedgerTask) -> DistributedTask:
        """A task as S0 has it: the object that was submitted, if it is still around, brought up to date."""
        spec = task.spec
        known = self._submitted.get(spec.task_id)
        if known is None:
            known = DistributedTask(
                spec.task_id, decode_value(spec.payload), spec.capability, spec.priority, 0, spec.max_attempts
            )
        known.attempts = task.attempts
        known.checkpointed_state = decode_value(task.checkpoint) if task.checkpoint else None
        return known

    # --- nodes ---

    async def register_node(self, node: AgentNode) -> None:
        """S0-21. The node joins the mesh; returns once it may be given tasks.

        A node that is registered already is started anew if it is down, or if it is to offer something else.
        Raises InvalidPayload for an id or capabilities that will not do.
        """
        _check(node)
        node_id = node.node_id
        before = self._registered.get(node_id)
        self._registered[node_id] = node
        if self._mesh.is_up(node_id) and self._mesh.offer(node_id) == _offer(node):
            return
        try:
            address = f"{node.host}:{node.port}"
            await self._mesh.add_node(node_id, self._app(node), slots=node.max_tasks, address=address)
        except BaseException:
            if before is None:
                self._registered.pop(node_id, None)
            raise

    def _app(self, node: AgentNode) -> Mesh:
        """What one node offers. It does not keep the cluster alive: a cluster that is dropped stops."""
        node_id, cluster = node.node_id, ref(self)

        async def run(ctx: Context, /, **payload: Any) -> Any:
            alive = cluster()
            if alive is None:
                raise RuntimeError("the cluster is gone")
            return await alive._run(node_id, ctx, payload)

        app = Mesh(node_id)
        for capability in dict.fromkeys(node.capabilities):
            app.task(capability=capability)(run)
        return app

    async def _run(self, node_id: str, ctx: Context, payload: dict[str, Any]) -> Any:
        """One attempt, with a task object of its own: what an attempt that was given up does to it harms nobody."""
        known = self._mesh.find(ctx.task_id)
        if known is None:
            raise NotFound(f"the task {ctx.task_id!r} has ended meanwhile")
        spec = known.spec
        task = DistributedTask(
            spec.task_id,
            payload,
            spec.capability,
            spec.priority,
            ctx.attempt,
            spec.max_attempts,
            ctx.checkpoint_state,
        )
        _ATTEMPT.set(ctx)
        return await self.handler(self._registered[node_id], task)

    def fail_node(self, node_id: str) -> None:
        """For tests: stop a node dead, as if its machine had lost power. The rest is up to the mesh. KeyError."""
        self._registered[node_id]
        self._mesh.kill(node_id, silent=True)

    async def recover_node(self, node_id: str) -> bool:
        """S0-25. Give up what the node holds and have it run elsewhere, or there again once it is healthy.

        True once that is committed, as often as it is asked; False if there is no such node.
        """
        if node_id not in self._registered:
            return False
        await self._mesh.start()
        try:
            await self._mesh.client.recover(node_id)
        except NotFound:
            return False
        return True

    async def rebalance(self) -> None:
        """S0-26. Move tasks that have not begun off nodes that hold more than their share. Costs no attempt."""
        await self._mesh.start()
        await self._mesh.client.rebalance()

    def _select_node(self, capability: str) -> Optional[AgentNode]:  # noqa: UP045
        """S0-27. The least loaded healthy node that has the capability and a free slot; equals take turns."""
        able = [candidate for candidate in self._mesh.candidates() if capability in candidate.capabilities]
        chosen = self._placement.choose(able)
        return None if chosen is None else self.nodes.get(chosen.node_id)

    # --- tasks ---

    async def submit_task(self, task: DistributedTask) -> str:
        """S0-22. Returns the task's id once the mesh holds the task. The same task again is harmless.

        Raises InvalidPayload for what cannot be sent, Conflict if the id is another task's, MeshUnavailable.
        """
        _check_task(task)
        state = task.checkpointed_state
        spec = TaskSpec(
            TaskId(task.task_id),
            task.required_capability,
            encode_payload(task.payload),
            task.priority,
            task.max_attempts,
            source="cluster",
            checkpoint=b"" if state is None else encode_payload(state),
        )
        await self._mesh.submit_spec(spec)
        self._submitted[task.task_id] = task
        return task.task_id

    async def result(self, task_id: str, timeout: float | None = None) -> Any:
        """Wait for a task's result, `timeout` seconds at most. Not S0's, but needed: raises as Handle.result does."""
        return await self._mesh.result(task_id, timeout)

    async def checkpoint_task(self, task: DistributedTask, state: Dict[str, Any]) -> None:  # noqa: UP006
        """S0-28. Returns once the mesh keeps the state; the next attempt finds it in `task.checkpointed_state`.

        Called by the handler, it counts for that attempt only: one that was given up meanwhile gets Refused. Called
        from elsewhere, it counts for the attempt that runs now: NotFound if none does.
        """
        attempt = _ATTEMPT.get()
        if attempt is not None and attempt.task_id == task.task_id:
            await attempt.checkpoint(state)
        else:
            await self._mesh.start()
            await self._mesh.client.save_checkpoint(task.task_id, state)
        task.checkpointed_state = state

    # --- loops ---

    async def dispatch_loop(self) -> None:
        """S0-23. The mesh dispatches by itself, from its leader; this starts it, and returns when it is closed."""
        await self._serve()

    async def heartbeat_monitor(self) -> None:
        """S0-24. Every node watches the others by itself; this starts them, and returns when the mesh is closed."""
        await self._serve()

    async def _serve(self) -> None:
        await self._mesh.start()
        await self._mesh.until(lambda: not self._mesh.is_open, timeout=None)


def _offer(node: AgentNode) -> tuple[tuple[str, ...], int]:
    return tuple(dict.fromkeys(node.capabilities)), node.max_tasks


def _check(node: AgentNode) -> None:
    check_name("node id", node.node_id)
    capabilities: object = node.capabilities
    if isinstance(capabilities, str):
        raise InvalidPayload(f"capabilities are a list of names, not {capabilities!r}")
    if node.node_id == VOTER:
        raise InvalidPayload(f"{VOTER!r} is the name of the node that keeps the cluster's log; choose another")
    for capability in node.capabilities:
        check_name("capability", capability)
    if type(node.max_tasks) is not int or node.max_tasks < 0:
        raise InvalidPayload(f"max_tasks is a number from 0, not {node.max_tasks!r}")


def _check_task(task: DistributedTask) -> None:
    """What no node could read is refused before it leaves."""
    check_name("task id", task.task_id)
    check_name("capability", task.required_capability)
    if not isinstance(task.payload, dict):
        raise InvalidPayload(f"the payload of {task.task_id!r} is a dict, not {type(task.payload).__name__}")
    if type(task.priority) is not int or type(task.max_attempts) is not int:
        raise InvalidPayload(
            f"priority and max_attempts are whole numbers, not {task.priority!r} and {task.max_attempts!r}"
        )
